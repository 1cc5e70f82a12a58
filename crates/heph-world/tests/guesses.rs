//! Guessing ahead changes no token: the bundled pair, drafted and confirmed in every way, against the target alone.

use heph_engine::model::{LoadOptions, Model};
use heph_engine::sample::SamplingOptions;
use heph_engine::source::Source;
use heph_kernels::isa::Isa;
use heph_kernels::pool::Pool;
use heph_runtime::bundled::{self, Bundled};
use heph_runtime::cancel::Cancel;
use heph_runtime::desk::{Answer, AnswerOptions, Desk, Guess, Message, Pace, Prompt};
use heph_runtime::draft::{Drafter, EchoDrafter, Either, ModelDrafter};
use heph_runtime::line::{Line, LineLimits, LineModel, Placement};
use heph_runtime::node::{Lent, Node, NodeCaps};
use heph_runtime::seat::Host;
use heph_runtime::words::Words;
use heph_types::{ModelHash, NodeId};
use std::sync::Arc;

const HASH: ModelHash = ModelHash([1; 32]);

struct Loaded {
    model: Arc<Model>,
    words: Arc<Words>,
}

fn load(bundled: Bundled) -> Loaded {
    let source = Arc::new(Source::from_gguf(vec![Arc::new(bundled.bytes.to_vec())]).expect("a sound file"));
    let options = LoadOptions {
        context: Some(256),
        sessions: 8,
        ..LoadOptions::default()
    };
    let model = Model::load(Arc::clone(&source), &options, &Pool::serial(), &mut |_| {}).expect("it loads");
    let words = Words::of(&source.vocabulary().expect("it has one")).expect("a sound vocabulary");
    Loaded {
        model: Arc::new(model),
        words: Arc::new(words),
    }
}

impl Loaded {
    fn node(&self, id: u8) -> Arc<dyn Host> {
        let lent = Lent::new(Arc::clone(&self.model), Arc::new(Pool::serial()), Isa::best());
        Arc::new(Node::new(NodeId([id; 32]), NodeCaps::default()).with(HASH, lent))
    }

    /// A line over nodes 1, 2 and so on, cut before these layers.
    fn line(&self, cuts: &[usize]) -> Line {
        let model = LineModel::of(HASH, &self.model);
        let ends: Vec<usize> = cuts.iter().copied().chain([model.layers]).collect();
        let starts = [0].into_iter().chain(cuts.iter().copied());
        let stages = starts.zip(&ends).zip(1..).map(|((start, &end), id)| Placement {
            node: NodeId([id; 32]),
            layers: model.range(start, end),
        });
        let stages: Vec<_> = stages.collect();
        let hosts = (1..=stages.len() as u8).map(|id| self.node(id)).collect();
        Line::new(model, hosts, &stages, LineLimits::default()).expect("the stages are the model")
    }

    fn answer(&self, cuts: &[usize], pace: Pace, sampling: &SamplingOptions) -> Answer {
        let mut desk = Desk::over(self.line(cuts), pace, Arc::clone(&self.words), Cancel::new());
        let options = AnswerOptions {
            sampling: sampling.clone(),
            max_tokens: Some(60),
            stops: Vec::new(),
        };
        let question = [Message::new(
            "user",
            "Tell me a story about a little fox and a red ball.",
        )];
        desk.answer(Prompt::Chat(&question), &options, &mut |_| {})
            .expect("an answer")
    }
}

/// Greedy, and two draws, of which one looks back at what was said.
fn samplings() -> [SamplingOptions; 3] {
    let drawn = SamplingOptions {
        seed: 7,
        ..SamplingOptions::default()
    };
    let penalized = SamplingOptions {
        repeat_penalty: 1.2,
        temperature: 1.3,
        ..drawn.clone()
    };
    [SamplingOptions::greedy(), drawn, penalized]
}

#[test]
fn a_guess_changes_no_token() {
    let (target, draft) = (load(bundled::STORY), load(bundled::STORY_DRAFT));
    for sampling in samplings() {
        let alone = target.answer(&[], Pace::Steps, &sampling);
        for (length, ahead) in [(1, 1), (4, 1), (4, 2), (8, 3), (0, 1)] {
            for cuts in [&[] as &[usize], &[2], &[0, 1, 3]] {
                let small = ModelDrafter::new(draft.line(&[]), Cancel::new());
                let drafters: [Box<dyn Drafter>; 2] = [
                    Box::new(ModelDrafter::new(draft.line(&[]), Cancel::new())),
                    Box::new(Either(EchoDrafter::default(), small)),
                ];
                for drafter in drafters {
                    let guess = Guess {
                        drafter,
                        length,
                        ahead,
                    };
                    let answer = target.answer(cuts, Pace::Guess(guess), &sampling);
                    assert_eq!(
                        answer.tokens, alone.tokens,
                        "{length} tokens, {ahead} pieces, cut before {cuts:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_stream_is_what_steps_say() {
    let target = load(bundled::STORY_DRAFT);
    for sampling in samplings() {
        let steps = target.answer(&[], Pace::Steps, &sampling);
        assert_eq!(target.answer(&[], Pace::Stream, &sampling).tokens, steps.tokens);
        // Where two nodes hold the model nobody can go on alone, and steps are taken.
        assert_eq!(target.answer(&[1], Pace::Stream, &sampling).tokens, steps.tokens);
    }
}

#[test]
fn most_guesses_of_the_bundled_draft_are_right() {
    let (target, draft) = (load(bundled::STORY), load(bundled::STORY_DRAFT));
    let drafter = Box::new(ModelDrafter::new(draft.line(&[]), Cancel::new()));
    let guess = Guess {
        drafter,
        length: 5,
        ahead: 1,
    };
    let answer = target.answer(&[], Pace::Guess(guess), &SamplingOptions::greedy());
    assert!(
        answer.guesses.right * 2 > answer.guesses.judged,
        "{:?}",
        answer.guesses
    );
    assert!(
        answer.guesses.pieces * 2 < answer.tokens.len(),
        "{:?}",
        answer.guesses
    );
}
