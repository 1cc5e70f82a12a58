//! Many sequences at once: each gets the tokens it would get alone, whatever happens beside it.

use heph_engine::batch::{Batch, BatchError, BatchLimits, Event, Finish, Request, SequenceId};
use heph_engine::constrain::{Shape, Shaper, TokenText};
use heph_engine::model::{LoadOptions, Model};
use heph_engine::sample::{Sampler, SamplingOptions};
use heph_engine::source::Source;
use heph_engine::worker::{Keep, Worker};
use heph_kernels::isa::Isa;
use heph_kernels::pool::Pool;
use heph_types::{Position, TokenId};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// The small draft of the bundled pair: these tests are about bookkeeping, not about text.
fn model(context: usize, sessions: usize) -> Arc<Model> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/heph-story-draft.gguf");
    let bytes = std::fs::read(path).expect("the bundled pair is part of the repository");
    let source = Source::from_gguf(vec![Arc::new(bytes)]).expect("a sound file");
    let options = LoadOptions {
        context: Some(context),
        sessions,
        ..LoadOptions::default()
    };
    Arc::new(Model::load(Arc::new(source), &options, &Pool::serial(), &mut |_| {}).expect("it loads"))
}

fn batch(model: &Arc<Model>, limits: BatchLimits) -> Batch {
    Batch::new(
        Worker::new(Arc::clone(model), Arc::new(Pool::new(2)), Isa::best()),
        limits,
    )
}

/// A request whose prompt and seed follow from `number`; every other one shares a long beginning.
fn request(number: u32, max_tokens: usize) -> Request {
    let shared = (0..40)
        .map(|i| TokenId(300 + i * 7 % 900))
        .take(if number.is_multiple_of(2) { 40 } else { 0 });
    let own = (0..5 + number % 11).map(|i| TokenId(10 + (number * 131 + i * 17) % 1500));
    Request {
        prompt: shared.chain(own).collect(),
        sampling: SamplingOptions {
            seed: u64::from(number),
            ..SamplingOptions::default()
        },
        max_tokens,
        stop_tokens: Vec::new(),
        constraint: None,
        logprobs: None,
    }
}

/// Runs until idle; the tokens and the end of each sequence.
fn finish(batch: &mut Batch) -> BTreeMap<SequenceId, (Vec<TokenId>, Option<Finish>)> {
    let mut answers: BTreeMap<SequenceId, (Vec<TokenId>, Option<Finish>)> = BTreeMap::new();
    for _ in 0..10_000 {
        if batch.is_idle() {
            return answers;
        }
        for event in batch.step() {
            match event {
                Event::Token { id, token, .. } => answers.entry(id).or_default().0.push(token),
                Event::Finished { id, why } => answers.entry(id).or_default().1 = Some(why),
                Event::Failed { id, error } => panic!("{id:?} failed: {error}"),
            }
        }
    }
    panic!("the batch never comes to rest");
}

/// The answer as the law says it: one pass a token, drawn at the position that the token takes.
fn alone(model: &Arc<Model>, number: u32, max_tokens: usize) -> Vec<TokenId> {
    let Request { prompt, sampling, .. } = request(number, max_tokens);
    let mut worker = Worker::new(Arc::clone(model), Arc::new(Pool::serial()), Isa::best());
    let mut cache = model.new_cache(worker.all_layers());
    let (mut sampler, mut tokens) = (Sampler::new(sampling).unwrap(), prompt.clone());
    for _ in 0..max_tokens {
        let held = cache.len();
        let logits = worker.run(&mut cache, &tokens[held..], Keep::Last).unwrap();
        let position = Position(tokens.len() as u32);
        tokens.push(sampler.sample(&logits, position, &tokens, None).unwrap());
    }
    tokens.split_off(prompt.len())
}

#[test]
fn a_held_answer_goes_on_as_if_nothing_had_been() {
    let model = model(256, 4);
    let limits = BatchLimits {
        running: 2,
        ..BatchLimits::default()
    };
    let mut batch = batch(&model, limits);
    let ids: Vec<_> = (0..4).map(|n| batch.submit(request(n, 20)).unwrap()).collect();
    let mut tokens: BTreeMap<SequenceId, Vec<TokenId>> = BTreeMap::new();
    let mut steps = 0_usize;
    let mut held = None;
    while !batch.is_idle() || held.is_some() {
        for event in batch.step() {
            match event {
                Event::Token { id, token, .. } => tokens.entry(id).or_default().push(token),
                Event::Finished { .. } => {}
                Event::Failed { id, error } => panic!("{id:?} failed: {error}"),
            }
        }
        steps += 1;
        // Every third step another answer stands aside for seven steps.
        if steps.is_multiple_of(7)
            && let Some(id) = held.take()
        {
            batch.release(id);
        } else if steps.is_multiple_of(3) && held.is_none() {
            held = Some(ids[steps % 4]);
            batch.hold(ids[steps % 4]);
        }
        assert!(steps < 10_000, "the batch never comes to rest");
    }
    for (number, id) in ids.iter().enumerate() {
        assert_eq!(tokens[id], alone(&model, number as u32, 20), "sequence {number}");
    }
}

#[test]
fn neighbours_prefixes_and_small_steps_change_no_token() {
    let model = model(256, 16);
    let expected: Vec<_> = (0..12).map(|n| alone(&model, n, 20)).collect();
    for limits in [
        BatchLimits::default(),
        BatchLimits {
            running: 3,
            step_tokens: 16,
            kept_prefixes: 2,
            ..BatchLimits::default()
        },
        BatchLimits {
            running: 12,
            step_tokens: 5,
            kept_prefixes: 0,
            ..BatchLimits::default()
        },
    ] {
        let mut batch = batch(&model, limits);
        let ids: Vec<_> = (0..12).map(|n| batch.submit(request(n, 20)).unwrap()).collect();
        let answers = finish(&mut batch);
        for (id, expected) in ids.iter().zip(&expected) {
            assert_eq!(
                answers[id],
                (expected.clone(), Some(Finish::Length)),
                "{limits:?}"
            );
        }
    }
}

#[test]
fn a_cache_too_small_for_all_delays_but_changes_no_token() {
    // Room for two full sequences, eight of them wanted together: some must give way and be computed again.
    let model = model(128, 2);
    let expected: Vec<_> = (0..8).map(|n| alone(&model, n, 60)).collect();
    let mut batch = batch(
        &model,
        BatchLimits {
            running: 8,
            ..BatchLimits::default()
        },
    );
    let ids: Vec<_> = (0..8).map(|n| batch.submit(request(n, 60)).unwrap()).collect();
    let answers = finish(&mut batch);
    for (id, expected) in ids.iter().zip(expected) {
        assert_eq!(answers[id].0, expected);
    }
    drop(batch);
    assert_eq!(model.kv_budget().used(), 0, "every page was given back");
}

#[test]
fn a_prompt_that_was_answered_before_is_answered_alike() {
    let model = model(256, 4);
    let expected = alone(&model, 2, 20);
    let mut batch = batch(&model, BatchLimits::default());
    for round in 0..3 {
        let id = batch.submit(request(2, 20)).unwrap();
        assert_eq!(finish(&mut batch)[&id].0, expected, "round {round}");
    }
    // A prompt that ends inside what an earlier answer left behind.
    let [first, second] = [7, 20].map(|more| {
        let mut longer = request(2, 13);
        longer.prompt.extend(&expected[..more]);
        longer
    });
    for (request, from) in [(first, 7), (second, 20)] {
        let id = batch.submit(request).unwrap();
        let tokens = finish(&mut batch).remove(&id).unwrap().0;
        let rest = &expected[from..];
        assert_eq!(tokens[..rest.len()], *rest);
        assert_eq!(tokens.len(), 13);
    }
}

#[test]
fn a_stop_token_ends_the_answer_and_is_no_part_of_it() {
    let model = model(256, 4);
    let expected = alone(&model, 5, 12);
    let stop = expected[7];
    let before = expected.iter().position(|t| *t == stop).unwrap();
    let mut batch = batch(&model, BatchLimits::default());
    let id = batch
        .submit(Request {
            stop_tokens: vec![stop],
            ..request(5, 12)
        })
        .unwrap();
    let answer = finish(&mut batch).remove(&id).unwrap();
    assert_eq!(answer, (expected[..before].to_vec(), Some(Finish::Stop)));
}

#[test]
fn a_cancelled_sequence_is_gone_at_once_and_disturbs_no_other() {
    let model = model(256, 4);
    let expected = alone(&model, 1, 30);
    let mut batch = batch(
        &model,
        BatchLimits {
            kept_prefixes: 0,
            ..BatchLimits::default()
        },
    );
    let kept = batch.submit(request(1, 30)).unwrap();
    let dropped = batch.submit(request(2, 30)).unwrap();
    for _ in 0..5 {
        batch.step();
    }
    let both = model.kv_budget().used();
    batch.cancel(dropped);
    assert!(
        model.kv_budget().used() < both,
        "its cache is free before the next step"
    );
    let answers = finish(&mut batch);
    assert!(!answers.contains_key(&dropped));
    // The first tokens came during the five steps above.
    assert!(expected.ends_with(&answers[&kept].0) && answers[&kept].0.len() >= 25);
}

#[test]
fn what_cannot_be_done_is_refused_by_name() {
    let model = model(64, 1);
    let mut batch = batch(
        &model,
        BatchLimits {
            waiting: 1,
            ..BatchLimits::default()
        },
    );
    let ask = |prompt| Request {
        prompt,
        ..request(1, 4)
    };
    assert!(matches!(batch.submit(ask(vec![])), Err(BatchError::EmptyPrompt)));
    assert!(matches!(
        batch.submit(ask(vec![TokenId(1); 65])),
        Err(BatchError::TooLong {
            tokens: 65,
            context: 64
        })
    ));
    batch.submit(ask(vec![TokenId(1); 8])).unwrap();
    assert!(matches!(
        batch.submit(ask(vec![TokenId(1); 8])),
        Err(BatchError::Busy { waiting: 1 })
    ));
}

#[test]
fn an_answer_ends_at_the_end_of_its_context() {
    let model = model(64, 1);
    let mut batch = batch(&model, BatchLimits::default());
    let id = batch.submit(request(1, 1000)).unwrap();
    let (tokens, why) = finish(&mut batch).remove(&id).unwrap();
    assert_eq!(
        (tokens.len() + request(1, 0).prompt.len(), why),
        (64, Some(Finish::Context))
    );
}

#[test]
fn a_constraint_holds_for_its_own_sequence_alone() {
    let model = model(256, 4);
    let vocab = model.graph().vocab;
    // Stand-in texts: token `n` writes one of ten digits, or nothing readable; the last one ends the answer.
    let texts: Vec<Vec<u8>> = (0..vocab).map(|n| format!("{}", n % 10).into_bytes()).collect();
    let end = TokenId(vocab as u32 - 1);
    let tokens = texts.iter().enumerate();
    let tokens = tokens.map(|(n, t)| TokenText {
        bytes: t,
        is_control: n == end.index(),
    });
    let shaper = Shaper::new(tokens, end).unwrap();
    let constraint = shaper.constraint(&Shape::Regex("[37]{4}".into())).unwrap();
    let free = alone(&model, 3, 12);
    let mut batch = batch(&model, BatchLimits::default());
    let stop_tokens = vec![end];
    let shaped = Request {
        constraint: Some(constraint),
        stop_tokens,
        ..request(5, 40)
    };
    let shaped = batch.submit(shaped).unwrap();
    let other = batch.submit(request(3, 12)).unwrap();
    let answers = finish(&mut batch);
    let text: String = answers[&shaped]
        .0
        .iter()
        .map(|t| (t.0 % 10).to_string())
        .collect();
    assert!(
        text.len() == 4 && text.chars().all(|c| c == '3' || c == '7'),
        "{text}"
    );
    assert_eq!(answers[&shaped].1, Some(Finish::Stop));
    assert_eq!(answers[&other].0, free);
}
