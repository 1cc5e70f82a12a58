//! A message that is read while it is typed: little is left when it is sent, and the answer is the same.

use heph_engine::model::{LoadOptions, Model};
use heph_engine::source::Source;
use heph_engine::worker::Worker;
use heph_kernels::isa::Isa;
use heph_kernels::pool::Pool;
use heph_runtime::bundled;
use heph_runtime::cancel::Cancel;
use heph_runtime::desk::{AnswerOptions, Desk, Message, Prompt};
use heph_runtime::words::Words;
use heph_types::SamplingOptions;
use std::sync::Arc;

fn desk(words: &Arc<Words>, model: &Arc<Model>) -> Desk {
    let worker = Worker::new(Arc::clone(model), Arc::new(Pool::serial()), Isa::best());
    Desk::new(worker, Arc::clone(words), Cancel::new())
}

/// What stands in the line while `text` is typed: pauses after some words, and now and then a slip that is taken back.
fn pauses(text: &str) -> Vec<String> {
    let mut stands = Vec::new();
    for (at, _) in text.match_indices(' ').step_by(23) {
        stands.push(text[..at + 3.min(text.len() - at)].to_owned());
        if stands.len() % 4 == 2 {
            stands.push(format!("{} nonsense that is taken back", &text[..at]));
        }
    }
    stands.push(text.to_owned());
    stands
}

#[test]
fn the_first_token_comes_in_a_quarter_of_the_time() {
    let source = Source::from_gguf(vec![Arc::new(bundled::STORY.bytes.to_vec())]).expect("a sound file");
    let source = Arc::new(source);
    let options = LoadOptions {
        context: None,
        sessions: 2,
        ..LoadOptions::default()
    };
    let model = Model::load(Arc::clone(&source), &options, &Pool::serial(), &mut |_| {}).expect("it loads");
    let words = Words::of(&source.vocabulary().expect("it has one")).expect("a sound vocabulary");
    let (model, words) = (Arc::new(model), Arc::new(words));
    let options = AnswerOptions {
        sampling: SamplingOptions::greedy(),
        max_tokens: Some(16),
        stops: Vec::new(),
    };
    let sentence = "The little fox ran to the pond and sat down by the old tree with a red ball. ";
    let size = |text: &str| {
        Prompt::Chat(&[Message::new("user", text)])
            .tokens(&words)
            .expect("tokens")
            .len()
    };
    // As near to a thousand tokens as the model's context allows.
    let wanted = 1000.min(model.context() - 64);
    let text = (1..)
        .map(|n| sentence.repeat(n))
        .take_while(|text| size(text) <= wanted)
        .last()
        .expect("some text");
    let (mut computed, mut needed) = (0, 0);
    for cut in [text.len(), text.len() / 2] {
        let text = text[..cut].trim();
        let conversation = [Message::new("user", text)];
        let cold = desk(&words, &model)
            .answer(Prompt::Chat(&conversation), &options, &mut |_| {})
            .expect("an answer");
        let mut typing = desk(&words, &model);
        for stands in pauses(text) {
            let typed = [Message::new("user", stands)];
            computed += typing
                .read_ahead(&typed, &options.sampling, &|| true)
                .expect("it is read");
        }
        let warm = typing
            .answer(Prompt::Chat(&conversation), &options, &mut |_| {})
            .expect("an answer");
        assert_eq!(warm.tokens, cold.tokens);
        assert_eq!(
            typing.line().traffic(),
            Default::default(),
            "nothing left this machine"
        );
        let left = warm.prompt.len() - warm.cached_tokens;
        needed += warm.prompt.len() - left;
        println!(
            "{} tokens of prompt: {left} left to read when sent; first token after {:?} instead of {:?}",
            warm.prompt.len(),
            warm.prefill,
            cold.prefill
        );
        assert!(left * 8 <= warm.prompt.len(), "{left} of {}", warm.prompt.len());
        assert!(
            warm.prefill <= cold.prefill.mul_f64(0.25),
            "{:?} and {:?}",
            warm.prefill,
            cold.prefill
        );
    }
    let wasted = 1.0 - needed as f64 / computed as f64;
    println!("{:.0} % of what was read ahead was for nothing", wasted * 100.0);
    assert!(wasted <= 0.3, "{computed} computed for {needed}");
}

#[test]
fn reading_stops_when_the_text_changes() {
    let source = Arc::new(
        Source::from_gguf(vec![Arc::new(bundled::STORY_DRAFT.bytes.to_vec())]).expect("a sound file"),
    );
    let model = Model::load(
        Arc::clone(&source),
        &LoadOptions::default(),
        &Pool::serial(),
        &mut |_| {},
    )
    .expect("it loads");
    let words = Words::of(&source.vocabulary().expect("it has one")).expect("a sound vocabulary");
    let mut desk = desk(&Arc::new(words), &Arc::new(model));
    let typed = [Message::new("user", "Tell me a story about a fox. ".repeat(20))];
    let looks = std::cell::Cell::new(0);
    let still = || {
        looks.set(looks.get() + 1);
        looks.get() <= 2
    };
    let read = desk
        .read_ahead(&typed, &SamplingOptions::greedy(), &still)
        .expect("it is read");
    assert_eq!(read, 64, "two pieces of 32 tokens");
}
