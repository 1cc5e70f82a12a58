//! Guessing where it helps: over links of 0 to 300 ms, never noticeably slower than the best way without.

use super::emulated::{Emulated, Loaded, Machine, Timed, cluster, id, load, model_profile, request};
use heph_plan::draft::{RoundStart, SourceStart};
use heph_plan::{DraftProfile, DraftSource, Readying, plan};
use heph_runtime::bundled;
use heph_runtime::cancel::Cancel;
use heph_runtime::desk::{Answer, Desk, Expectation, GuessSource, Pace, Plain, Prompt, Speculation};
use heph_runtime::draft::{EchoDrafter, ModelDrafter};
use heph_runtime::line::{Line, LineLimits, Placement};
use heph_runtime::replan::Replanner;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

const TOKENS: usize = 240;
const PROMPT: &str = "Once upon a time there was a little fox who lived in the wood. One day";

/// A guess of the small model here.
const GUESS: Duration = Duration::from_millis(2);

fn pair() -> &'static [Loaded; 2] {
    static PAIR: OnceLock<[Loaded; 2]> = OnceLock::new();
    PAIR.get_or_init(|| [load(bundled::STORY), load(bundled::STORY_DRAFT)])
}

/// One desk whose own passes take 60 ms, and two nodes of 20 ms, this far away.
struct Scene {
    clock: Arc<Emulated>,
    machines: Vec<Arc<Machine>>,
}

impl Scene {
    fn new(rtt_ms: u64) -> Self {
        let clock = Emulated::new();
        let layers = pair()[0].model.graph().layers.len() as f64;
        let machine =
            |which, pass_ms: f64, rtt| Machine::new(&pair()[0], &clock, which, pass_ms / layers, rtt);
        let machines = vec![
            machine(0, 60.0, 0),
            machine(1, 20.0, rtt_ms),
            machine(2, 20.0, rtt_ms),
        ];
        Self { clock, machines }
    }

    fn stage(&self, which: u8, start: usize, end: usize) -> Placement {
        let layers = pair()[0].line_model().range(start, end);
        Placement {
            node: id(which),
            layers,
        }
    }

    fn answer(&self, stages: &[Placement], pace: Pace, temperature: f32) -> (Answer, f64) {
        let line = pair()[0].line(&self.machines, stages, &self.clock);
        let mut desk = Desk::over(line, pace, Arc::clone(&pair()[0].words), Cancel::new());
        let began = self.clock.passed();
        let options = pair()[0].options(TOKENS, temperature);
        let answer = desk
            .answer(Prompt::Text(PROMPT), &options, &mut |_| {})
            .expect("an answer");
        let seconds = (self.clock.passed() - began).as_secs_f64();
        (answer, TOKENS as f64 / seconds)
    }

    /// The small model here and an echo, arbitrated.
    fn speculation(&self, plain: Plain, expected: Option<Expectation>) -> Pace {
        let draft = &pair()[1];
        let small = Machine::new(draft, &self.clock, 0, 0.0, 0);
        let line = Line::whole(draft.line_model(), small.host(), LineLimits::default());
        let clock = Arc::clone(&self.clock);
        let model = Timed {
            inner: ModelDrafter::new(line.with_clock(clock.clone()), Cancel::new()),
            clock,
            token: GUESS,
        };
        let start = |acceptance, seconds_per_token| SourceStart {
            acceptance,
            seconds_per_token,
            length_max: 16,
            branches_max: 2,
        };
        let sources = vec![
            GuessSource {
                kind: DraftSource::Model,
                drafter: Box::new(model),
                start: start(0.75, GUESS.as_secs_f64()),
            },
            GuessSource {
                kind: DraftSource::NGram,
                drafter: Box::<EchoDrafter>::default(),
                start: start(0.4, 1e-6),
            },
        ];
        Pace::Adapt(Box::new(Speculation::new(sources, plain, expected)))
    }
}

fn expected(plain: f64, pass: f64, way: f64) -> Expectation {
    let per_row = pass * super::emulated::ROW_SHARE;
    let round = RoundStart {
        plain,
        fixed: way + pass - per_row,
        per_row,
        tokens: TOKENS as u32,
    };
    Expectation { round, way }
}

/// What the planner says of this scene, laid out, with the control over it.
fn planned(scene: &Scene, rtt: f64) -> (Vec<Placement>, Pace) {
    let model = model_profile(&pair()[0]);
    let layers = model.layers.len();
    let mut request = request(model.clone(), TOKENS as u32);
    request.drafts = vec![DraftProfile {
        source: DraftSource::Model,
        acceptance: 0.75,
        seconds_per_token: GUESS.as_secs_f64(),
        seconds_for_prompt: 0.01,
        readying: Readying::default(),
        memory: 1000,
        length_max: 16,
    }];
    let peers = scene.machines[1..]
        .iter()
        .map(|m| m.peer(&model, layers))
        .collect();
    let cluster = cluster(scene.machines[0].profile(&model, layers), peers);
    let decision = plan(&request, &cluster).expect("a plan");
    let stages = Replanner::placements(&decision.plan);
    let here = stages.iter().all(|stage| stage.node == id(0));
    let whole = stages.len() == 1;
    let (pass, way) = if here { (0.060, 0.0) } else { (0.020, rtt) };
    let plain = if whole && !here { pass } else { pass + way };
    let kind = if whole && !here {
        Plain::Stream
    } else {
        Plain::Steps
    };
    (stages, scene.speculation(kind, Some(expected(plain, pass, way))))
}

#[test]
fn guessing_is_never_noticeably_slower_than_the_best_way_without() {
    let layers = pair()[0].model.graph().layers.len();
    println!("rtt ms | remote steps | remote stream | local | planned (tokens/s) | of the best");
    for rtt in [0u64, 5, 20, 50, 80, 150, 300] {
        for temperature in [0.0, 0.8] {
            let scene = Scene::new(rtt);
            let (here, there) = (scene.stage(0, 0, layers), scene.stage(1, 0, layers));
            let (calm, local) = scene.answer(&[here], Pace::Steps, temperature);
            let (_, steps) = scene.answer(&[there], Pace::Steps, temperature);
            let (_, stream) = scene.answer(&[there], Pace::Stream, temperature);
            let best = local.max(steps).max(stream);
            let (stages, pace) = planned(&scene, rtt as f64 / 1e3);
            let (answer, ours) = scene.answer(&stages, pace, temperature);
            assert_eq!(answer.tokens, calm.tokens, "rtt {rtt}, temperature {temperature}");
            println!(
                "{rtt:>6} | {steps:>6.1} | {stream:>6.1} | {local:>6.1} | {ours:>6.1} | {:.2}",
                ours / best
            );
            assert!(
                ours >= 0.98 * best,
                "rtt {rtt}: {ours:.1} of {best:.1} tokens/s, {:?}",
                answer.guesses
            );
        }
    }
}

#[test]
fn a_split_target_is_guessed_for_as_well_as_a_whole_one() {
    let layers = pair()[0].model.graph().layers.len();
    println!("rtt ms | plain layered | layered and guessed (tokens/s) | gain");
    for rtt in [0u64, 20, 50, 100, 300] {
        let scene = Scene::new(rtt);
        let stages = [scene.stage(1, 0, layers / 2), scene.stage(2, layers / 2, layers)];
        let (calm, plain) = scene.answer(&stages, Pace::Steps, 0.8);
        for known in [true, false] {
            let way = 2.0 * rtt as f64 / 1e3;
            let expected = known.then(|| expected(0.020 + way, 0.020, way));
            let (answer, ours) = scene.answer(&stages, scene.speculation(Plain::Steps, expected), 0.8);
            assert_eq!(answer.tokens, calm.tokens);
            println!(
                "{rtt:>6} | {plain:>6.1} | {ours:>6.1} | {:.2} {:?}",
                ours / plain,
                answer.guesses
            );
            assert!(ours >= 0.98 * plain);
            assert!(
                rtt < 50 || ours >= 2.2 * plain,
                "{ours:.1} of {plain:.1} tokens/s at {rtt} ms"
            );
        }
    }
}

#[test]
fn a_drafter_that_is_always_wrong_costs_next_to_nothing() {
    struct Wrong;
    impl heph_runtime::draft::Drafter for Wrong {
        fn begin(&mut self, _: &heph_types::SamplingOptions) {}
        fn draft(
            &mut self,
            _: &[heph_types::TokenId],
            count: usize,
        ) -> Result<Vec<heph_types::TokenId>, heph_runtime::line::LineError> {
            Ok(vec![heph_types::TokenId(1); count])
        }
    }
    let layers = pair()[0].model.graph().layers.len();
    for rtt in [0u64, 20, 150] {
        let scene = Scene::new(rtt);
        let there = [scene.stage(1, 0, layers)];
        let (calm, plain) = scene.answer(&there, Pace::Steps, 0.0);
        let start = SourceStart {
            acceptance: 0.6,
            seconds_per_token: 1e-4,
            length_max: 16,
            branches_max: 0,
        };
        let sources = vec![GuessSource {
            kind: DraftSource::Model,
            drafter: Box::new(Wrong),
            start,
        }];
        let way = rtt as f64 / 1e3;
        let speculation = Speculation::new(sources, Plain::Steps, Some(expected(0.020 + way, 0.020, way)));
        let (answer, ours) = scene.answer(&there, Pace::Adapt(Box::new(speculation)), 0.0);
        assert_eq!(answer.tokens, calm.tokens);
        assert!(
            ours >= 0.98 * plain,
            "{ours:.2} of {plain:.2} tokens/s at {rtt} ms"
        );
    }
}
