//! Plans carried out over machines of this process: the same words in every mode, and nothing to whom nothing may go,
//! also where a machine is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use heph_engine::model::{LoadOptions, Model};
use heph_kernels::isa::Isa;
use heph_kernels::pool::Pool;
use heph_plan::Mode;
use heph_types::{
    Caps, Exactness, Held, LinkProfile, ModelHash, NodeId, NodeProfile, NodeState, Order, Price, Reply, Role,
    SamplingOptions, SessionId, Speed, StageSpec,
};

use super::*;
use crate::bundled::{self, Bundled};
use crate::desk::{Answer, AnswerOptions, Message, Prompt};
use crate::discretion::{Discretion, unsaid};
use crate::draft::ModelDrafter;
use crate::node::{Lent, Node, NodeCaps};
use crate::open;
use crate::pool::Machine;
use crate::profile;
use crate::receipt::{PlaceLine, Receipt};
use crate::rules::Rules;
use crate::seat::{Bell, Seat, SeatError};
use crate::settings::Allowance;
use crate::store::Found;

const HASH: ModelHash = ModelHash([7; 32]);
const DESK: NodeId = NodeId([0; 32]);

static QUESTION: std::sync::LazyLock<[Message; 1]> =
    std::sync::LazyLock::new(|| [Message::new("user", "Tell me a story about a little fox.")]);

fn load(bundled: Bundled) -> (Arc<Model>, Arc<Words>) {
    let found = Found::Bundled(bundled);
    let options = LoadOptions {
        context: Some(256),
        sessions: 8,
        ..LoadOptions::default()
    };
    let source = Arc::new(open::open(&found).unwrap());
    let model = Model::load(source, &options, &Pool::serial(), &mut |_| {}).unwrap();
    (Arc::new(model), Arc::new(open::words(&found).unwrap()))
}

/// A machine that counts the stages opened there and dies after so many replies.
struct Watched {
    node: Arc<Node>,
    opened: Arc<AtomicUsize>,
    lives: Arc<AtomicUsize>,
}

impl Host for Watched {
    fn node(&self) -> NodeId {
        self.node.id()
    }

    fn open(&self, session: SessionId, spec: &StageSpec, bell: &Bell) -> Result<Box<dyn Seat>, SeatError> {
        self.opened.fetch_add(1, Ordering::Relaxed);
        Ok(Box::new(Mortal {
            seat: self.node.open(session, spec, bell)?,
            lives: Arc::clone(&self.lives),
        }))
    }
}

struct Mortal {
    seat: Box<dyn Seat>,
    lives: Arc<AtomicUsize>,
}

impl Mortal {
    fn live(&self) -> Result<(), SeatError> {
        match self.lives.load(Ordering::Relaxed) {
            0 => Err(SeatError::Lost {
                node: self.seat.node(),
                why: "it died".to_owned(),
            }),
            _ => Ok(()),
        }
    }
}

impl Seat for Mortal {
    fn node(&self) -> NodeId {
        self.seat.node()
    }

    fn submit(&mut self, order: Order) -> Result<(), SeatError> {
        self.live()?;
        self.seat.submit(order)
    }

    fn poll(&mut self) -> Result<Option<Reply>, SeatError> {
        self.live()?;
        let reply = self.seat.poll()?;
        if reply.is_some() {
            self.lives.fetch_sub(1, Ordering::Relaxed);
        }
        Ok(reply)
    }
}

/// What may be told where own machines see text and others nothing, unless one of these says otherwise.
fn policy(allow: impl IntoIterator<Item = Allowance>) -> Told {
    let rules = Rules::without_files(allow.into_iter().collect());
    Told(Discretion::new(&rules, unsaid()))
}

struct Told(Discretion);

/// The world of a test: a desk, and machines of these roles, of which the first dies after so many replies.
struct World {
    model: Arc<Model>,
    words: Arc<Words>,
    draft: Arc<Model>,
    pool: NodePool,
    opened: Vec<Arc<AtomicUsize>>,
}

impl World {
    fn new(roles: &[Role], lives: usize) -> Self {
        let (model, words) = load(bundled::STORY);
        let (draft, _) = load(bundled::STORY_DRAFT);
        let node = |id: NodeId| {
            let lent = Lent::new(Arc::clone(&model), Arc::new(Pool::serial()), Isa::best());
            Arc::new(Node::new(id, NodeCaps::default()).with(HASH, lent))
        };
        let layers = model.graph().layers.len();
        let mut pool = NodePool::alone(machine(DESK, Role::Own, 1e8, layers), node(DESK));
        let mut opened = Vec::new();
        for (at, role) in roles.iter().enumerate() {
            let id = NodeId([at as u8 + 1; 32]);
            let watched = Watched {
                node: node(id),
                opened: Arc::default(),
                lives: Arc::new(AtomicUsize::new(if at == 0 { lives } else { usize::MAX })),
            };
            opened.push(Arc::clone(&watched.opened));
            pool = pool.with(Machine {
                // Strangers are the fastest: only the policy speaks against them.
                profile: machine(id, *role, if *role == Role::Own { 4e9 } else { 9e9 }, layers),
                link: LinkProfile {
                    rtt: Duration::from_micros(200),
                    up: 1e9,
                    down: 1e9,
                    loss: 0.0,
                },
                host: Arc::new(watched),
            });
        }
        Self {
            model,
            words,
            draft,
            pool,
            opened,
        }
    }

    fn answer(&self, mode: Mode, policy: &Told) -> (Answer, Receipt) {
        let record = self.record(mode, policy);
        self.carry_out_told(&record, None, policy).expect("a line")
    }

    /// What the planner says.
    fn record(&self, mode: Mode, policy: &Told) -> Record {
        let prompt = Prompt::Chat(&*QUESTION);
        let profile = profile::of_model(HASH, "story", self.model.graph(), 256);
        let speed = &self.pool.desk().speed;
        let drafted = profile::of_model(HASH, "draft", self.draft.graph(), 256);
        let asked = Question {
            model: profile,
            prompt_tokens: prompt.tokens(&self.words).unwrap().len(),
            answer_tokens: 60,
            context: 256,
            kv: KvFormat::F16,
            drafts: vec![model_draft_profile(&drafted, speed, Readying::default(), 20, 0.8)],
            document: None,
            policy: self.planned(policy),
            mode: Some(mode),
        };
        Record::new(asked.request(), self.pool.cluster()).expect("there is a plan")
    }

    fn planned(&self, told: &Told) -> Policy {
        let machines: Vec<_> = self
            .pool
            .others()
            .iter()
            .map(|machine| &machine.profile)
            .collect();
        let exact = Policy {
            exact_only: true,
            ..Policy::closed()
        };
        told.0.planned(exact, &machines)
    }

    /// The answer as planned.
    fn carry_out(
        &self,
        record: &Record,
        rounding: Option<&Rounding>,
    ) -> Result<(Answer, Receipt), RouteError> {
        self.carry_out_told(record, rounding, &policy([]))
    }

    fn carry_out_told(
        &self,
        record: &Record,
        rounding: Option<&Rounding>,
        told: &Told,
    ) -> Result<(Answer, Receipt), RouteError> {
        let meter = Meter::default();
        let mut desk = self.desk(record, rounding, told, &meter)?;
        Ok(self.ask(&mut desk, record, &meter))
    }

    /// The desk of the plan.
    fn desk(
        &self,
        record: &Record,
        rounding: Option<&Rounding>,
        told: &Told,
        meter: &Meter,
    ) -> Result<Desk, RouteError> {
        let route = Route {
            record,
            pool: &self.pool,
            model: LineModel::of(HASH, &self.model),
            words: Arc::clone(&self.words),
            drafter: record.decision.plan.draft.map(|_| self.drafter()),
            rounding,
            guessing: Guessing::WhereItHelps,
            limits: LineLimits::default(),
            discretion: told.0.clone(),
            changes: None,
            meter: meter.clone(),
            cancel: Cancel::new(),
        };
        route.desk()
    }

    fn ask(&self, desk: &mut Desk, record: &Record, meter: &Meter) -> (Answer, Receipt) {
        let options = AnswerOptions {
            sampling: SamplingOptions {
                seed: 5,
                ..SamplingOptions::default()
            },
            max_tokens: Some(60),
            stops: Vec::new(),
        };
        let asked = Prompt::Chat(&*QUESTION);
        let answer = desk.answer(asked, &options, &mut |_| {}).expect("an answer");
        let receipt = Receipt::new(&record.decision.plan, &self.pool, &answer, &meter.read());
        (answer, receipt)
    }

    fn drafter(&self) -> Box<dyn Drafter> {
        let lent = Lent::new(Arc::clone(&self.draft), Arc::new(Pool::serial()), Isa::best());
        let node = Node::new(DESK, NodeCaps::default()).with(HASH, lent);
        let line = Line::whole(
            LineModel::of(HASH, &self.draft),
            Arc::new(node),
            LineLimits::default(),
        );
        Box::new(ModelDrafter::new(line, Cancel::new()))
    }

    fn opened(&self) -> Vec<usize> {
        self.opened
            .iter()
            .map(|opened| opened.load(Ordering::Relaxed))
            .collect()
    }
}

fn machine(node: NodeId, role: Role, bytes_per_second: f64, layers: usize) -> NodeProfile {
    NodeProfile {
        node,
        name: node.short(),
        role,
        speed: Speed {
            bytes_per_second,
            flops_per_second: bytes_per_second * 20.0,
            overhead: Duration::ZERO,
            measured: Vec::new(),
        },
        memory: 1 << 32,
        holds: vec![Held {
            model: HASH,
            layers: heph_types::LayerRange::new(0, layers, layers).unwrap(),
        }],
        exactness: Exactness::Exact,
        caps: Caps::default(),
        state: NodeState::Open,
        queue: Duration::ZERO,
        price: Price::default(),
    }
}

#[test]
fn every_mode_says_the_same_words_and_its_receipt_who_computed_them() {
    let world = World::new(&[Role::Own, Role::Own], usize::MAX);
    let own = policy([]);
    let (plain, _) = world.answer(Mode::Local, &own);
    for mode in [
        Mode::Remote,
        Mode::Layered,
        Mode::Speculative,
        Mode::LayeredSpeculative,
    ] {
        let (answer, receipt) = world.answer(mode, &own);
        assert_eq!(answer.tokens, plain.tokens, "{mode}");
        assert_eq!((receipt.mode, receipt.exactness), (mode, Exactness::Exact));
        let tokens = answer.prompt.len() + answer.tokens.len();
        for layer in 0..world.model.graph().layers.len() {
            let holds = receipt
                .places
                .iter()
                .filter(|place| place.layers.iter().contains(&layer));
            let count: usize = holds.map(|place| place.to - place.from).sum();
            assert_eq!(count, tokens, "{mode}: layer {layer} in {:?}", receipt.places);
        }
    }
}

#[test]
fn who_was_lost_before_it_computed_anything_stands_in_no_receipt() {
    let own = policy([]);
    let (plain, _) = World::new(&[Role::Own], usize::MAX).answer(Mode::Local, &own);
    for (lives, computes) in [(0, false), (5, true)] {
        let (answer, receipt) = World::new(&[Role::Own], lives).answer(Mode::Remote, &own);
        assert_eq!(answer.tokens, plain.tokens);
        assert_eq!(receipt.moves.len(), 1, "{:?}", receipt.moves);
        let lost = NodeId([1; 32]);
        let told = receipt.places.iter().any(|place| place.node == lost);
        assert_eq!(told, computes, "{lives} replies, {:?}", receipt.places);
    }
}

#[test]
fn rows_are_rounded_only_where_the_model_is_certified_and_the_receipt_says_so() {
    let world = World::new(&[Role::Own, Role::Own], usize::MAX);
    let mut record = world.record(Mode::Layered, &policy([]));
    record
        .request
        .codecs
        .push(heph_plan::CodecProfile::nominal(WireCodec::Bf16));
    record.decision.plan.exactness = Exactness::Close;
    let refused = world.carry_out(&record, None).err();
    let missing = matches!(
        refused,
        Some(RouteError::Uncertified(Uncertified::Missing(WireCodec::Bf16)))
    );
    assert!(missing, "{refused:?}");
    let sound = Rounding {
        model: HASH,
        arithmetic: heph_kernels::ARITHMETIC_VERSION,
        kv: KvFormat::F16,
        boundaries: 3,
        codecs: vec![crate::certify::rounding::Verdict {
            codec: WireCodec::Bf16,
            bytes_per_number: 1.5,
            tokens: 48,
            changed: 0,
        }],
    };
    let (_, receipt) = world.carry_out(&record, Some(&sound)).expect("it is certified");
    assert_eq!(receipt.exactness, Exactness::Close);
    // An exact plan needs none, whatever could be had.
    record.decision.plan.exactness = Exactness::Exact;
    let (_, receipt) = world.carry_out(&record, None).expect("nothing is rounded");
    assert_eq!(receipt.exactness, Exactness::Exact);
}

#[test]
fn a_lost_machine_is_never_replaced_by_one_that_may_not_see_the_text() {
    let own = policy([]);
    let (calm, _) = World::new(&[], usize::MAX).answer(Mode::Local, &own);
    for strangers in [Role::Miner, Role::Cloud, Role::Edge] {
        let world = World::new(&[Role::Own, strangers], 20);
        let (answer, receipt) = world.answer(Mode::Remote, &own);
        assert_eq!(answer.tokens, calm.tokens);
        let moved: Vec<_> = receipt.moves.iter().map(|moved| moved.to.clone()).collect();
        assert_eq!(moved, [DESK.short()], "the text comes home");
        assert_eq!(world.opened()[1], 0, "a stranger was asked");
        // With a word from the person the stranger may help.
        let allowed: Allowance = format!("{strangers}=text").parse().unwrap();
        let world = World::new(&[Role::Own, strangers], 20);
        let (answer, _) = world.answer(Mode::Remote, &policy([allowed]));
        assert_eq!(answer.tokens, calm.tokens);
        assert!(world.opened()[1] > 0);
    }
}

#[test]
fn a_machine_that_may_see_activations_is_given_no_end_also_when_another_is_lost() {
    let (calm, _) = World::new(&[], usize::MAX).answer(Mode::Local, &policy([]));
    let activations: Allowance = "miner=activations".parse().unwrap();
    let world = World::new(&[Role::Own, Role::Miner], 6);
    let (answer, receipt) = world.answer(Mode::Remote, &policy([activations]));
    assert_eq!(answer.tokens, calm.tokens);
    let read = |place: &PlaceLine| place.role == Some(Role::Miner) && place.saw == Leaves::Text;
    assert!(!receipt.places.iter().any(read), "{:?}", receipt.places);
    let world = World::new(&[Role::Miner], usize::MAX);
    let (answer, receipt) = world.answer(Mode::Layered, &policy([activations]));
    assert_eq!(answer.tokens, calm.tokens);
    let seen: Vec<_> = receipt
        .places
        .iter()
        .map(|place| (place.role, place.saw))
        .collect();
    assert!(
        seen.contains(&(Some(Role::Miner), Leaves::Activations))
            && !seen.iter().any(|(_, saw)| *saw == Leaves::Text)
    );
}

#[test]
fn a_receipt_tells_who_computes_also_where_an_earlier_answer_lost_a_machine() {
    let (world, own) = (World::new(&[Role::Own], 6), policy([]));
    let (record, meter) = (world.record(Mode::Remote, &own), Meter::default());
    let mut desk = world.desk(&record, None, &own, &meter).unwrap();
    let (first, told) = world.ask(&mut desk, &record, &meter);
    let elsewhere = |receipt: &Receipt| receipt.places.iter().any(|place| place.node != DESK);
    assert!(elsewhere(&told) && told.moves.len() == 1, "{:?}", told.places);
    let (again, told) = world.ask(&mut desk, &record, &meter);
    assert_eq!(again.tokens, first.tokens);
    assert!(
        !elsewhere(&told) && !told.places.is_empty() && told.moves.is_empty(),
        "{:?}",
        told.places
    );
}

/// What becomes of an answer that `[1]` gives and loses, of `[2]` with this promise and price, and of a desk that has not the model; nobody is to
/// ask more than 10 credits.
fn helped(exactness: Exactness, price: f64) -> (bool, usize) {
    let mut world = World::new(&[Role::Own, Role::Own], 20);
    let layers = world.model.graph().layers.len();
    let own = policy([]);
    let mut pool = NodePool::alone(
        machine(DESK, Role::Own, 1e8, layers),
        Arc::new(Node::new(DESK, NodeCaps::default())),
    );
    for (at, other) in world.pool.others().iter().enumerate() {
        let mut other = other.clone();
        if at == 1 {
            other.profile.exactness = exactness;
            other.profile.price.answer_token = price;
            other.profile.speed.bytes_per_second = 1e8;
        }
        pool = pool.with(other);
    }
    world.pool = pool;
    let mut record = world.record(Mode::Remote, &own);
    let first = record.decision.plan.stages.iter().map(|stage| stage.node);
    assert!(first.eq([NodeId([1; 32])]), "the first one answers");
    // The planner knows nobody who could go on.
    record.cluster.desk.memory = 1;
    record.cluster.nodes.truncate(1);
    record.request.objective.credits_max = Some(10.0);
    let mut desk = world.desk(&record, None, &own, &Meter::default()).unwrap();
    let options = AnswerOptions {
        sampling: SamplingOptions::greedy(),
        max_tokens: Some(60),
        stops: Vec::new(),
    };
    let answer = desk.answer(Prompt::Chat(&*QUESTION), &options, &mut |_| {});
    (answer.is_ok(), world.opened()[1])
}

#[test]
fn a_lost_machine_is_never_replaced_by_one_of_other_bits_or_for_more_than_was_to_be_paid() {
    assert_eq!(helped(Exactness::Exact, 0.0), (true, 1));
    for (exactness, price) in [
        (Exactness::Close, 0.0),
        (Exactness::Unknown, 0.0),
        (Exactness::Exact, 0.1),
    ] {
        assert_eq!(helped(exactness, price), (false, 0), "{exactness} for {price}");
    }
}

#[test]
fn what_a_step_takes_once_the_model_is_ready_is_known_where_all_of_it_is_here() {
    let steps = |world: &World, unready: bool| {
        let mut record = world.record(Mode::Speculative, &policy([]));
        if unready {
            record.request.readying.first = Duration::from_millis(5);
        }
        once_ready(&record).map(|round| round.plain)
    };
    let here = World::new(&[], usize::MAX);
    assert_eq!(steps(&here, false), None, "the next step tells better");
    let step = steps(&here, true).expect("the plan guesses here");
    let record = here.record(Mode::Local, &policy([]));
    let plain = record.decision.plan.expected.per_token.as_secs_f64();
    assert!((step / plain - 1.0).abs() < 1e-6, "{step} and {plain}");
    let there = World::new(&[Role::Own], usize::MAX);
    assert_eq!(steps(&there, true), None, "nothing is to be made ready there");
}

#[test]
fn what_getting_ready_takes_is_that_of_the_models_that_compute_here() {
    let rest = |milliseconds| Readying {
        first: Duration::from_secs(1),
        rest: Duration::from_millis(milliseconds),
    };
    for (world, both) in [
        (World::new(&[], usize::MAX), 1.5),
        (World::new(&[Role::Own], usize::MAX), 0.5),
    ] {
        let mut record = world.record(Mode::Speculative, &policy([]));
        record.request.readying = rest(1_000);
        record.request.drafts.truncate(1);
        record.request.drafts[0].readying = rest(500);
        assert_eq!(unready(&record), Unready::by(UNREADY_SLACK * both));
    }
}

#[test]
fn a_machine_that_was_planned_with_as_slow_as_it_is_is_waited_for_as_long_as_it_takes() {
    let world = World::new(&[Role::Own], usize::MAX);
    let mut record = world.record(Mode::Remote, &policy([]));
    let usual = LineLimits::default();
    assert_eq!(patient(usual, &record), usual, "it is fast");
    let model = &record.request.models[0].profile;
    let bytes: u64 = model.layers.iter().map(|layer| layer.weight_bytes_one_row).sum();
    // A second for a token.
    let speed = &mut record.cluster.nodes[0].profile.speed;
    (speed.bytes_per_second, speed.flops_per_second) = (bytes as f64, 1e18);
    let slow = patient(usual, &record);
    assert!(
        slow.patience > Duration::from_secs(7) && slow.patience < Duration::from_secs(10),
        "{slow:?}"
    );
    record.cluster.nodes[0].profile.speed.bytes_per_second = 1.0;
    let slow = patient(usual, &record);
    assert_eq!([slow.patience, slow.patience_per_token], PATIENCE_MAX);
}
