//! Storms: answers over lines whose nodes die, stall, lie and come back at drawn moments, against the same answer in calm.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use heph_runtime::cancel::Cancel;
use heph_runtime::desk::{Answer, AnswerOptions, Desk, Guess, Pace, Prompt};
use heph_runtime::draft::{Drafter, EchoDrafter, Either, ModelDrafter};
use heph_runtime::line::{Line, LineError, LineLimits, LineModel, Placement};
use heph_runtime::seat::Host;
use heph_types::{Branch, SamplingOptions, TokenId};

use crate::dice::Dice;
use crate::member::{Fault, Lie};
use crate::scene::{self, DESK, Scene};
use crate::tiny::{self, LAYERS, TinyModel};
use crate::world::{Strike, World};

/// Machines of a storm besides the desk.
const NODES: usize = 6;

/// Tokens of each answer.
const ANSWER: usize = 64;

/// Who holds which layers, from the first to the last; 0 is the desk.
const LAYOUTS: [&[(usize, usize, usize)]; 5] = [
    // Everything at one other node.
    &[(1, 0, LAYERS)],
    // Ids and logits stay at the desk.
    &[(0, 0, 0), (1, 0, LAYERS), (0, LAYERS, LAYERS)],
    // Two nodes, half each.
    &[(1, 0, LAYERS / 2), (2, LAYERS / 2, LAYERS)],
    // The first and the last layer at the desk, two nodes between.
    &[(0, 0, 1), (1, 1, 4), (2, 4, LAYERS - 1), (0, LAYERS - 1, LAYERS)],
    // Five nodes, uneven.
    &[
        (1, 0, 0),
        (2, 0, 1),
        (3, 1, 5),
        (4, 5, LAYERS),
        (5, LAYERS, LAYERS),
    ],
];

const PROMPTS: [&str; 3] = [
    "Once upon a time there was a little fox who lived in the wood with her mother. One day",
    "The cat",
    "Tom had a red ball. Tom had a red ball. Tom had a red",
];

/// One answer under faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Case {
    /// What everything else follows from.
    pub seed: u64,
}

/// Layouts: the fixed ones, and one by the planner.
const LAYOUT_COUNT: u64 = LAYOUTS.len() as u64 + 1;

/// Answers that are all there are: sampling and prompts.
const ANSWERS: u64 = 2 * PROMPTS.len() as u64;

impl Case {
    /// Which answer it is.
    fn answer(self) -> u64 {
        self.seed % ANSWERS
    }

    fn options(self) -> AnswerOptions {
        let sampling = SamplingOptions {
            temperature: if self.answer() % 2 == 1 { 0.8 } else { 0.0 },
            seed: 5,
            // One prompt in three also looks back at what was said.
            repeat_penalty: if self.answer() / 2 == 2 { 1.1 } else { 1.0 },
            ..SamplingOptions::default()
        };
        AnswerOptions {
            sampling,
            max_tokens: Some(ANSWER),
            stops: Vec::new(),
        }
    }

    fn prompt(self) -> &'static str {
        PROMPTS[(self.answer() / 2) as usize]
    }

    fn layout(self) -> usize {
        (self.seed / ANSWERS % LAYOUT_COUNT) as usize
    }

    fn pace(self) -> u64 {
        self.seed / (ANSWERS * LAYOUT_COUNT) % 3
    }
}

/// What came of a storm.
#[derive(Debug, Default)]
pub struct Tally {
    /// Answers.
    pub answers: usize,
    /// Faults of nodes that held a session of the answer.
    pub kills: usize,
    /// Stages that went to another node.
    pub moves: usize,
    /// Answers that differ in a token, a byte of the text, or a byte of what was streamed.
    pub differing: usize,
    /// Longest time from a loss being noticed to the next token.
    pub gap_max: Duration,
    /// Virtual time of all answers together.
    pub time: Duration,
    /// The first failures, each with its events.
    pub stories: Vec<String>,
}

/// Failures of which the story is kept.
const STORIES_MAX: usize = 3;

/// Runs cases from `first` on until so many nodes have been struck while they held a session.
pub fn storm(first: u64, kills: usize, plant: Plant) -> Tally {
    let calm: Vec<Answer> = (0..ANSWERS).map(|seed| calm(Case { seed })).collect();
    let mut tally = Tally::default();
    let mut seed = first;
    while tally.kills < kills {
        let case = Case { seed };
        run(case, plant, &calm[case.answer() as usize], &mut tally);
        seed += 1;
    }
    tally
}

/// A mistake made on purpose: the storm must see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plant {
    /// None.
    Nothing,
    /// Nodes may lie so that nobody can tell.
    BentRows,
}

fn run(case: Case, plant: Plant, expected: &Answer, tally: &mut Tally) {
    let stage = Set::of(case);
    stage.faults(case, plant);
    let mut desk = stage.desk(case);
    let mut streamed = String::new();
    let prompt = Prompt::Text(case.prompt());
    let answer = desk.answer(prompt, &case.options(), &mut |text| streamed.push_str(text));
    let struck =
        |strike: &&Strike| strike.works && !matches!(strike.fault, Fault::Continued | Fault::Revived);
    tally.answers += 1;
    tally.kills += stage.world.struck().iter().filter(struck).count();
    tally.time += stage.world.elapsed();
    let same = match &answer {
        Ok(answer) => {
            tally.moves += answer.moves.len();
            let gaps = answer.moves.iter().filter_map(|moved| moved.gap);
            tally.gap_max = tally.gap_max.max(gaps.max().unwrap_or_default());
            answer.tokens == expected.tokens && answer.text == expected.text && streamed == expected.text
        }
        Err(_) => false,
    };
    if !same {
        tally.differing += 1;
        if tally.stories.len() < STORIES_MAX {
            tally.stories.push(told(case, &stage, answer.as_ref().err()));
        }
    }
}

fn told(case: Case, set: &Set, error: Option<&heph_runtime::desk::DeskError>) -> String {
    let mut story = format!(
        "seed {}: layout {}, pace {}, prompt {:?}, temperature {}\n",
        case.seed,
        case.layout(),
        case.pace(),
        case.prompt(),
        case.options().sampling.temperature
    );
    for stage in &set.stages {
        let (start, end) = (stage.layers.start(), stage.layers.end());
        let _ = writeln!(story, "  layers {start}..{end} at {}", stage.node.short());
    }
    story += &set.world.story();
    match error {
        Some(error) => story + &format!("the desk: {error}\n"),
        None => story + "the answer differs\n",
    }
}

/// A world that is ready for an answer.
struct Set {
    world: World,
    hosts: Vec<Arc<dyn Host>>,
    stages: Vec<Placement>,
}

impl Set {
    fn of(case: Case) -> Self {
        let model = tiny::drawn();
        let mut dice = Dice::new(case.seed).fork(1);
        let scene = Scene::drawn(model, NODES, &mut dice);
        let (world, hosts) = scene.world(model, case.seed);
        let fixed = LAYOUTS.get(case.layout());
        let stages = match fixed {
            Some(layout) => layout.iter().map(|stage| placed(*stage)).collect(),
            None => planned(&scene),
        };
        Self { world, hosts, stages }
    }

    /// What happens to whom: most of it falls into the answer.
    fn faults(&self, case: Case, plant: Plant) {
        let mut dice = Dice::new(case.seed).fork(2);
        for which in 1..=NODES {
            let node = scene::id(which);
            let fault = drawn_fault(&mut dice, plant);
            // One node in eight comes through.
            if dice.below(8) == 0 {
                continue;
            }
            if dice.below(2) == 0 {
                self.world.strike_before(dice.below(70), node, fault);
                continue;
            }
            let at = Duration::from_secs_f64(dice.scaled(0.005, 20.0));
            let later = at + Duration::from_secs_f64(dice.scaled(0.1, 10.0));
            self.world.strike(at, node, fault);
            match fault {
                Fault::Stopped => self.world.strike(later, node, Fault::Continued),
                Fault::Killed => self.world.strike(later, node, Fault::Revived),
                Fault::HalfOpen | Fault::CutOff => self.world.strike(later, node, Fault::Healed),
                _ => {}
            }
        }
    }

    fn desk(&self, case: Case) -> Desk {
        let model = tiny::drawn();
        let limits = LineLimits {
            chunk: 5,
            // So little in some worlds that rows go to disk.
            history_bytes: if case.seed.is_multiple_of(7) {
                1 << 12
            } else {
                1 << 20
            },
            ..LineLimits::default()
        };
        let line = Line::new(model.line_model(), self.hosts.clone(), &self.stages, limits);
        let line = line
            .expect("the stages are the model")
            .with_clock(self.world.clock());
        let pace = pace(case.pace(), &self.world, model);
        Desk::over(line, pace, Arc::clone(&model.words), Cancel::new())
    }
}

fn drawn_fault(dice: &mut Dice, plant: Plant) -> Fault {
    if plant == Plant::BentRows && dice.below(2) == 0 {
        return Fault::Lies(Lie::Bent);
    }
    *dice.one_of(&[
        Fault::Killed,
        Fault::Killed,
        Fault::Killed,
        Fault::Stopped,
        Fault::Stopped,
        Fault::HalfOpen,
        Fault::CutOff,
        Fault::Left,
        Fault::Refuses,
        Fault::Slowed(5.0),
        Fault::Lies(Lie::Short),
        Fault::Lies(Lie::Astray),
        Fault::Lies(Lie::Impossible),
    ])
}

fn placed((node, start, end): (usize, usize, usize)) -> Placement {
    Placement {
        node: scene::id(node),
        layers: line_model().range(start, end),
    }
}

/// The planner's own layout, layered where that is possible.
fn planned(scene: &Scene) -> Vec<Placement> {
    let mut request = scene.request.clone();
    request.mode = Some(heph_plan::Mode::Layered);
    let layered = heph_plan::plan(&request, &scene.cluster);
    let decision = layered.or_else(|_| heph_plan::plan(&scene.request, &scene.cluster));
    match decision {
        Ok(decision) => scene::placements(&decision.plan),
        // Nobody has room: the clock does not mind.
        Err(_) => vec![placed((1, 0, LAYERS))],
    }
}

fn line_model() -> LineModel {
    tiny::drawn().line_model()
}

fn pace(number: u64, world: &World, model: &TinyModel) -> Pace {
    match number {
        0 => Pace::Steps,
        1 => Pace::Stream,
        _ => {
            let fast = scene::speed(4e12);
            let line = Line::whole(model.line_model(), world.here(DESK, &fast), LineLimits::default());
            let line = line.with_clock(world.clock());
            // The same model drafts for itself, and would always be right: an echo comes first and often is not.
            let drafter = Either(
                EchoDrafter::default(),
                Unsure(ModelDrafter::new(line, Cancel::new())),
            );
            Pace::Guess(Guess {
                drafter: Box::new(drafter),
                length: 3,
                ahead: 2,
                branches: 2,
            })
        }
    }
}

/// Makes some of its guesses wrong, and knows on a branch what is right.
pub struct Unsure(pub ModelDrafter);

impl Drafter for Unsure {
    fn begin(&mut self, sampling: &SamplingOptions) {
        self.0.begin(sampling);
    }

    fn draft(&mut self, history: &[TokenId], count: usize) -> Result<Vec<TokenId>, LineError> {
        let mut guess = self.0.draft(history, count)?;
        for (at, token) in guess.iter_mut().enumerate() {
            if (history.len() + at).is_multiple_of(5) {
                *token = TokenId(token.0 ^ 1);
            }
        }
        Ok(guess)
    }

    fn branches(
        &mut self,
        history: &[TokenId],
        guesses: &[TokenId],
        count: usize,
    ) -> Result<Vec<Branch>, LineError> {
        let wrong = (0..guesses.len()).filter(|at| (history.len() + at).is_multiple_of(5));
        let right = |at: usize| Branch {
            at: at as u32,
            tokens: [&[TokenId(guesses[at].0 ^ 1)], &guesses[at + 1..]].concat(),
        };
        Ok(wrong.take(count).map(right).collect())
    }
}

/// The answer of a desk that asks nobody.
fn calm(case: Case) -> Answer {
    let model = tiny::drawn();
    let world = World::new(0);
    world.lend(model, &scene::profile(model));
    let host = world.here(DESK, &scene::speed(50e9));
    let line = Line::whole(model.line_model(), host, LineLimits::default()).with_clock(world.clock());
    let mut desk = Desk::over(line, Pace::Steps, Arc::clone(&model.words), Cancel::new());
    let prompt = Prompt::Text(case.prompt());
    desk.answer(prompt, &case.options(), &mut |_| {})
        .expect("an answer")
}
