//! Guessing ahead changes no token: the bundled pair, drafted and confirmed in every way, against the target alone.

use heph_engine::model::{LoadOptions, Model};
use heph_engine::sample::{Sampler, SamplingOptions};
use heph_engine::source::Source;
use heph_engine::worker::{Keep, Worker};
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
use heph_types::{ModelHash, NodeId, Position, TokenId};
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
    let mut followed = 0;
    for sampling in samplings() {
        let alone = target.answer(&[], Pace::Steps, &sampling);
        for (length, ahead, branches) in [(1, 1, 0), (4, 1, 1), (4, 2, 2), (8, 3, 0), (8, 1, 2), (0, 1, 1)] {
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
                        branches,
                    };
                    let answer = target.answer(cuts, Pace::Guess(guess), &sampling);
                    assert_eq!(
                        answer.tokens, alone.tokens,
                        "{length} tokens, {ahead} pieces, {branches} branches, cut before {cuts:?}"
                    );
                    followed += answer.guesses.branched;
                    assert!(
                        cuts.is_empty() || answer.guesses.branches == 0,
                        "a row of stages is told none"
                    );
                }
            }
        }
    }
    assert!(followed > 20, "{followed} branches were taken");
}

/// Tokens of a pass in stories of which the small model guesses eight tokens and so many other ways at a time, greedy and
/// drawn, and how often one of these was taken.
fn passes(target: &Loaded, draft: &Loaded, length: usize, branches: usize) -> (f64, usize) {
    let (mut tokens, mut pieces, mut branched) = (0, 0, 0);
    for seed in 0..6 {
        let sampling = match seed {
            0 => SamplingOptions::greedy(),
            seed => SamplingOptions {
                temperature: 0.8,
                seed,
                ..SamplingOptions::default()
            },
        };
        let guess = Guess {
            drafter: Box::new(ModelDrafter::new(draft.line(&[]), Cancel::new())),
            length,
            ahead: 1,
            branches,
        };
        let answer = target.answer(&[], Pace::Guess(guess), &sampling);
        tokens += answer.tokens.len();
        pieces += answer.guesses.pieces;
        branched += answer.guesses.branched;
    }
    (tokens as f64 / pieces as f64, branched)
}

#[test]
#[expect(clippy::print_stdout, reason = "with --nocapture the test is the measurement")]
fn branches_bring_more_tokens_a_pass() {
    let (target, draft) = (load(bundled::STORY), load(bundled::STORY_DRAFT));
    println!("length | branches | tokens a pass | branches taken");
    let mut all = Vec::new();
    for (length, branches) in [(4, 0), (4, 1), (4, 2), (8, 0), (8, 1), (8, 2)] {
        let (each, taken) = passes(&target, &draft, length, branches);
        println!("{length} | {branches} | {each:.2} | {taken}");
        all.push(each);
    }
    assert!(all[2] > 1.03 * all[0] && all[5] > 1.03 * all[3], "{all:?}");
}

/// What one round could gain from second guesses, counted over the target's own tokens.
#[derive(Default)]
struct Rounds {
    rounds: usize,
    /// Tokens of all rounds: what was accepted, and the target's own after it.
    tokens: usize,
    /// Rounds that ended with a wrong guess, and those of them where the second guess was right.
    wrong: usize,
    second: usize,
    /// Tokens of rounds where the second guess is sent too, alone or with what follows it to the round's end.
    with_second: usize,
    with_branch: usize,
}

/// Greedy and drawn, rounds of `length` guesses of the small model for a story of the large one.
fn second_guesses(target: &Loaded, draft: &Loaded, length: usize, sampling: &SamplingOptions) -> Rounds {
    let answer = target.answer(&[], Pace::Steps, sampling);
    let told = [&answer.prompt[..], &answer.tokens].concat();
    let mut worker = Worker::new(Arc::clone(&draft.model), Arc::new(Pool::serial()), Isa::best());
    let mut cache = draft.model.new_cache(worker.all_layers());
    let mut sampler = Sampler::new(sampling.clone()).expect("sound options");
    // First and second guess for the token after `history`, which the cache holds but for what is new.
    let mut guess = |history: &[TokenId]| {
        cache.rollback(Position(cache.len().min(history.len() - 1) as u32));
        let held = cache.len();
        let logits = worker
            .run(&mut cache, &history[held..], Keep::Last)
            .expect("it runs");
        let at = Position(history.len() as u32);
        let first = sampler.sample(&logits, at, history, None).expect("a token");
        let others: Vec<bool> = (0..logits.len()).map(|id| id != first.index()).collect();
        let second = sampler
            .sample(&logits, at, history, Some(&others))
            .expect("a token");
        (first, second)
    };
    let mut counted = Rounds::default();
    let mut at = answer.prompt.len();
    while at < told.len() {
        let end = told.len().min(at + length);
        let right = |from: usize, guess: &mut dyn FnMut(&[TokenId]) -> (TokenId, TokenId)| {
            (from..end).find_map(|at| {
                let (first, second) = guess(&told[..at]);
                (first != told[at]).then_some((at, second))
            })
        };
        let wrong = right(at, &mut guess);
        let accepted = wrong.map_or(end, |(where_, _)| where_) - at;
        counted.rounds += 1;
        counted.tokens += accepted + 1;
        counted.with_second += accepted + 1;
        counted.with_branch += accepted + 1;
        if let Some((wrong_at, second)) = wrong {
            counted.wrong += 1;
            if second == told[wrong_at] {
                counted.second += 1;
                counted.with_second += 1;
                let after = right(wrong_at + 1, &mut guess);
                counted.with_branch += after.map_or(end, |(where_, _)| where_) - wrong_at;
            }
        }
        at += accepted + 1;
    }
    counted
}

#[test]
#[expect(clippy::print_stdout, reason = "with --nocapture the test is the measurement")]
fn a_second_guess_is_often_right_where_the_first_was_wrong() {
    let (target, draft) = (load(bundled::STORY), load(bundled::STORY_DRAFT));
    println!(
        "draw | length | tokens a pass | with the second guess | with a branch behind it | second right of wrong"
    );
    let mut all = Rounds::default();
    for (name, temperature) in [("greedy", 0.0), ("0.8", 0.8)] {
        for length in [4, 8, 16] {
            let mut sum = Rounds::default();
            for seed in 1..=4 {
                let sampling = SamplingOptions {
                    temperature,
                    seed,
                    ..SamplingOptions::default()
                };
                let own = second_guesses(&target, &draft, length, &sampling);
                sum.rounds += own.rounds;
                sum.tokens += own.tokens;
                sum.wrong += own.wrong;
                sum.second += own.second;
                sum.with_second += own.with_second;
                sum.with_branch += own.with_branch;
                if temperature == 0.0 {
                    break;
                }
            }
            let each = |tokens: usize| tokens as f64 / sum.rounds as f64;
            println!(
                "{name} | {length} | {:.2} | {:.2} | {:.2} | {} of {}",
                each(sum.tokens),
                each(sum.with_second),
                each(sum.with_branch),
                sum.second,
                sum.wrong
            );
            all.second += sum.second;
            all.wrong += sum.wrong;
        }
    }
    assert!(
        all.wrong > 20 && all.second * 5 > all.wrong,
        "{} of {}",
        all.second,
        all.wrong
    );
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
        branches: 0,
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
