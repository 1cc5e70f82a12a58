//! A lost node changes no token: thousands of answers over lines whose nodes die at seeded moments.
//!
//! Everything runs in this process: nodes are hosts whose seats compute when they are polled, and die by a seed in the
//! ways that nodes die. The desk, its line and the stages are the real ones.

use heph_engine::model::{LoadOptions, Model};
use heph_engine::sample::SamplingOptions;
use heph_engine::source::Source;
use heph_kernels::isa::Isa;
use heph_kernels::pool::Pool;
use heph_net::address::NodeAddress;
use heph_plan::DraftSource;
use heph_plan::draft::SourceStart;
use heph_runtime::bundled;
use heph_runtime::cancel::Cancel;
use heph_runtime::desk::{
    Answer, AnswerOptions, Desk, DeskError, Finish, Guess, GuessSource, Pace, Plain, Prompt, Speculation,
};
use heph_runtime::draft::{EchoDrafter, Either, ModelDrafter};
use heph_runtime::line::{Layout, Line, LineError, LineLimits, LineModel, Placement, Standing, Steering};
use heph_runtime::node::{Lent, Node, NodeCaps};
use heph_runtime::seat::{Bell, Hop, HopState, Host, Refusal, Seat, SeatError};
use heph_runtime::words::Words;
use heph_types::{
    CachePart, Forward, Hidden, LayerRange, ModelHash, NodeId, Order, Pass, Position, Reply, SessionId,
    StageInput, StageSpec, Tag, Ticket, TokenId,
};
use heph_world::storm::Unsure;
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

const HASH: ModelHash = ModelHash([7; 32]);

/// The small draft of the bundled pair: its answers are short work, and these tests are about bookkeeping.
struct Tiny {
    model: Arc<Model>,
    words: Arc<Words>,
}

fn tiny() -> &'static Tiny {
    static TINY: OnceLock<Tiny> = OnceLock::new();
    TINY.get_or_init(|| {
        let source =
            Source::from_gguf(vec![Arc::new(bundled::STORY_DRAFT.bytes.to_vec())]).expect("a sound file");
        let source = Arc::new(source);
        let options = LoadOptions {
            context: Some(160),
            sessions: 64,
            ..LoadOptions::default()
        };
        let model =
            Model::load(Arc::clone(&source), &options, &Pool::serial(), &mut |_| {}).expect("it loads");
        let words = Words::of(&source.vocabulary().expect("it has one")).expect("a sound vocabulary");
        Tiny {
            model: Arc::new(model),
            words: Arc::new(words),
        }
    })
}

fn node(id: u8) -> Node {
    let lent = Lent::new(Arc::clone(&tiny().model), Arc::new(Pool::serial()), Isa::best());
    Node::new(NodeId([id; 32]), NodeCaps::default()).with(HASH, lent)
}

/// Numbers that follow from a seed (xorshift64*, Vigna 2014).
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
    }
}

/// How a node ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Death {
    /// Its process is killed: the connection breaks.
    Killed,
    /// Its process is stopped, or its link is open on one side only: no word any more.
    Silent,
    /// It answers with a row too few.
    Short,
    /// It answers for another position.
    Astray,
    /// It gives the session up with a reason.
    Refuses,
}

const DEATHS: [Death; 5] = [
    Death::Killed,
    Death::Silent,
    Death::Short,
    Death::Astray,
    Death::Refuses,
];

/// A mistake in our own house, made on purpose: the tests must see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Plant {
    Nothing,
    /// A new seat replays from the second position on.
    ReplayLate,
    /// A new seat draws with the noise of the next position.
    NoiseOff,
    /// After a loss, rows go to the next node under the name of other rows.
    WrongName,
}

/// A node that dies after so many orders and replies.
struct Mortal {
    node: Node,
    death: Death,
    left: Arc<AtomicI64>,
    plant: Plant,
    /// Deaths in this world so far.
    dead: Arc<AtomicUsize>,
    /// The ways between the nodes of this world.
    ways: Ways,
    /// What seats throw their dice by: the world's seed, and how many were opened.
    seed: u64,
    opened: AtomicUsize,
}

/// The ways between nodes: what was handed over and not taken, by ticket.
#[derive(Clone, Default)]
struct Ways(Arc<Mutex<BTreeMap<Ticket, Way>>>);

/// One hop.
#[derive(Default)]
struct Way {
    rows: BTreeMap<Tag, Hidden>,
    handed: usize,
    /// Pieces that get through; what follows is lost.
    lasts: usize,
    /// Whether the giving node notices.
    told: bool,
}

impl Ways {
    fn with<T>(&self, ticket: Ticket, look: impl FnOnce(&mut Way) -> T) -> T {
        look(self.0.lock().expect("no panic before").entry(ticket).or_default())
    }
}

impl Mortal {
    fn lost(&self) -> SeatError {
        lost(self.node.id())
    }
}

fn lost(node: NodeId) -> SeatError {
    SeatError::Lost {
        node,
        why: "the connection broke".to_owned(),
    }
}

impl Host for Mortal {
    fn node(&self) -> NodeId {
        self.node.id()
    }

    fn open(&self, session: SessionId, spec: &StageSpec, bell: &Bell) -> Result<Box<dyn Seat>, SeatError> {
        let gone = self.left.load(Ordering::Relaxed) <= 0;
        if gone && self.death != Death::Silent {
            return Err(self.lost());
        }
        let mut spec = spec.clone();
        let after_a_death = self.dead.load(Ordering::Relaxed) > 0;
        if self.plant == Plant::NoiseOff && after_a_death {
            spec.choose.iter_mut().for_each(|options| options.seed += 1);
        }
        Ok(Box::new(MortalSeat {
            inner: self.node.open(session, &spec, bell)?,
            death: self.death,
            left: Arc::clone(&self.left),
            dead: Arc::clone(&self.dead),
            skip: self.plant == Plant::ReplayLate && after_a_death,
            shift: 0,
            ways: self.ways.clone(),
            dice: Dice::new(self.seed + 31 * self.opened.fetch_add(1, Ordering::Relaxed) as u64),
            bell: bell.clone(),
            chooses: spec.choose.is_some(),
            from: None,
            onward: None,
            queue: VecDeque::new(),
            sent: VecDeque::new(),
            end: 0,
            late: VecDeque::new(),
            wrong_name: self.plant == Plant::WrongName,
        }))
    }

    fn meeting_place(&self) -> Option<NodeAddress> {
        Some(NodeAddress::default())
    }
}

struct MortalSeat {
    inner: Box<dyn Seat>,
    death: Death,
    left: Arc<AtomicI64>,
    dead: Arc<AtomicUsize>,
    /// Whether the first replayed position is to be left out.
    skip: bool,
    shift: u32,
    ways: Ways,
    dice: Dice,
    bell: Bell,
    chooses: bool,
    /// The hops that bring rows and carry them on.
    from: Option<Ticket>,
    onward: Option<Ticket>,
    /// What waits for its turn or for its rows, and whether something later took its place.
    queue: VecDeque<(Order, bool)>,
    /// How the rows of what is at work go on.
    sent: VecDeque<Option<Pass>>,
    end: usize,
    /// Replies that the desk hears later than the next node was handed the rows.
    late: VecDeque<(u64, Reply)>,
    wrong_name: bool,
}

impl MortalSeat {
    /// Counts down; whether the node lives on, dies now, or is dead.
    fn lives(&self) -> bool {
        let left = self.left.fetch_sub(1, Ordering::Relaxed);
        if left == 1 {
            self.dead.fetch_add(1, Ordering::Relaxed);
        }
        left > 1
    }

    fn end(&self) -> SeatError {
        let node = self.inner.node();
        match self.death {
            Death::Refuses => SeatError::Refused {
                node,
                why: Refusal::Said("the owner needs the machine".to_owned()),
            },
            _ => lost(node),
        }
    }

    /// Takes an order in as the node's end of a session does: what begins earlier makes void what waits.
    fn take_in(&mut self, order: Order) {
        let first = match &order {
            Order::Forward(forward) => {
                let first = forward.first.index();
                let end = first + forward.input.tokens();
                std::mem::replace(&mut self.end, end).gt(&first).then_some(first)
            }
            Order::Rollback(to) => {
                let to = to.index();
                let earlier = to < self.end;
                self.end = self.end.min(to);
                earlier.then_some(to)
            }
            Order::Generate { .. } => None,
        };
        for (waiting, void) in &mut self.queue {
            if let (Order::Forward(waiting), Some(first)) = (waiting, first) {
                *void |= waiting.first.index() >= first;
            }
        }
        self.queue.push_back((order, false));
    }

    /// The next reply of the stage behind the queue.
    fn next(&mut self) -> Result<Option<Reply>, SeatError> {
        loop {
            if let Some(reply) = self.inner.poll()? {
                let pass = self.sent.pop_front().flatten();
                if let (Some(pass), Some(ticket), Reply::Rows { hidden, .. }) = (pass, self.onward, &reply) {
                    self.hand(ticket, pass.tag, hidden);
                }
                return Ok(Some(reply));
            }
            let Some((order, void)) = self.queue.pop_front() else {
                return Ok(None);
            };
            let order = match order {
                Order::Forward(forward) if void => return Ok(Some(self.nothing(&forward))),
                Order::Forward(forward) => match self.filled(forward) {
                    Ok(forward) => {
                        self.sent.push_back(forward.pass);
                        Order::Forward(forward)
                    }
                    Err(forward) => {
                        self.queue.push_front((Order::Forward(forward), false));
                        return Ok(None);
                    }
                },
                order => order,
            };
            self.inner.submit(order)?;
        }
    }

    /// The answer to what became void.
    fn nothing(&self, forward: &Forward) -> Reply {
        let end = (forward.first.index() + forward.input.tokens()) as u32;
        match self.chooses {
            true => Reply::Choices {
                first: Position(end + 1),
                tokens: Vec::new(),
            },
            false => Reply::Rows {
                first: Position(end),
                hidden: Hidden {
                    width: line_model().width,
                    rows: Vec::new(),
                },
            },
        }
    }

    /// The order with its rows; back where they were not handed over.
    fn filled(&self, mut forward: Forward) -> Result<Forward, Forward> {
        let StageInput::Handed { tag, count, tokens } = &forward.input else {
            return Ok(forward);
        };
        let rows = self
            .from
            .and_then(|ticket| self.ways.with(ticket, |way| way.rows.remove(tag)));
        let Some(hidden) = rows else { return Err(forward) };
        assert_eq!(hidden.tokens(), *count, "rows of another shape");
        let tokens = tokens.clone();
        forward.input = StageInput::Rows { hidden, tokens };
        Ok(forward)
    }

    /// Hands rows to the next node, as long as the way lasts.
    fn hand(&mut self, ticket: Ticket, tag: Tag, hidden: &Hidden) {
        let astray = self.wrong_name && self.dead.load(Ordering::Relaxed) > 0;
        let bits = |row: &[f32]| row.iter().map(|x| x * 1.5).collect::<Vec<_>>();
        let rows = Hidden {
            width: hidden.width,
            rows: match astray {
                true => bits(&hidden.rows),
                false => hidden.rows.clone(),
            },
        };
        self.ways.with(ticket, |way| {
            way.handed += 1;
            if way.handed <= way.lasts {
                way.rows.insert(tag, rows);
            }
        });
        self.bell.ring();
    }

    /// A reply that the desk hears now: some come later than what was handed on with them.
    fn heard(&mut self) -> Result<Option<Reply>, SeatError> {
        if let Some((waits, _)) = self.late.front_mut()
            && *waits > 0
        {
            *waits -= 1;
            self.bell.ring();
            return Ok(None);
        }
        if let Some((_, reply)) = self.late.pop_front() {
            return Ok(Some(reply));
        }
        let Some(reply) = self.next()? else {
            return Ok(None);
        };
        if self.onward.is_some() && self.dice.below(2) == 0 {
            let waits = self.dice.below(4);
            self.late.push_back((waits, reply));
            self.bell.ring();
            return Ok(None);
        }
        Ok(Some(reply))
    }

    /// The planted mistake: everything a position earlier than it is, the first left out.
    fn shifted(&mut self, order: Order) -> Order {
        let Order::Forward(mut forward) = order else {
            return order;
        };
        if self.skip && forward.first == Position(0) && forward.answers == 0 && forward.input.tokens() > 1 {
            (self.skip, self.shift) = (false, 1);
            match &mut forward.input {
                StageInput::Tokens(tokens) | StageInput::Guesses { tokens, .. } => drop(tokens.remove(0)),
                StageInput::Rows { hidden, .. } => drop(hidden.rows.drain(..hidden.width)),
                // A replay's rows come from the desk.
                StageInput::Handed { .. } => {}
            }
            return Order::Forward(forward);
        }
        forward.first = Position(forward.first.0 - self.shift);
        Order::Forward(forward)
    }
}

impl Seat for MortalSeat {
    fn node(&self) -> NodeId {
        self.inner.node()
    }

    fn submit(&mut self, order: Order) -> Result<(), SeatError> {
        if !self.lives() {
            return match self.death {
                Death::Silent => Ok(()),
                _ => Err(self.end()),
            };
        }
        let order = self.shifted(order);
        self.take_in(order);
        Ok(())
    }

    fn expect(&mut self, hop: &Hop) -> bool {
        let (lasts, told) = (self.dice.below(60) as usize, self.dice.below(2) == 0);
        self.ways
            .with(hop.ticket, |way| (way.lasts, way.told) = (lasts, told));
        self.from = Some(hop.ticket);
        self.dice.below(8) > 0
    }

    fn join(&mut self, hop: &Hop) -> bool {
        self.onward = Some(hop.ticket);
        true
    }

    fn takes(&mut self) -> HopState {
        HopState::Joined
    }

    fn hands(&mut self) -> HopState {
        let broken = |ticket| self.ways.with(ticket, |way| way.told && way.handed > way.lasts);
        match self.onward {
            Some(ticket) if !broken(ticket) => HopState::Joined,
            _ => HopState::Apart("the way broke".to_owned()),
        }
    }

    fn take_cache(&mut self, first: Position, to: Position) -> Result<Option<CachePart>, SeatError> {
        match (self.lives(), self.shift) {
            (true, 0) if !self.queue.is_empty() => Ok(None),
            (true, 0) => self.inner.take_cache(first, to),
            (true, _) => Ok(None),
            (false, _) => Err(self.end()),
        }
    }

    fn put_cache(&mut self, part: &CachePart) -> Result<bool, SeatError> {
        match (self.lives(), self.skip) {
            (true, false) => {
                self.end = part.first.index() + part.tokens as usize;
                self.inner.put_cache(part)
            }
            (true, true) => Ok(false),
            (false, _) => Err(self.end()),
        }
    }

    fn poll(&mut self) -> Result<Option<Reply>, SeatError> {
        if self.left.load(Ordering::Relaxed) <= 0 {
            return match self.death {
                Death::Silent => Ok(None),
                _ => Err(self.end()),
            };
        }
        let Some(mut reply) = self.heard()? else {
            return Ok(None);
        };
        let (Reply::Rows { first, .. } | Reply::Choices { first, .. }) = &mut reply;
        *first = Position(first.0 + self.shift);
        if self.lives() {
            return Ok(Some(reply));
        }
        match self.death {
            Death::Silent => Ok(None),
            Death::Short => Ok(Some(shortened(reply))),
            Death::Astray => Ok(Some(astray(reply))),
            Death::Killed | Death::Refuses => Err(self.end()),
        }
    }
}

fn shortened(reply: Reply) -> Reply {
    match reply {
        Reply::Rows { first, hidden } => {
            let rows = hidden.rows[..hidden.rows.len().saturating_sub(1)].to_vec();
            let hidden = Hidden { rows, ..hidden };
            Reply::Rows { first, hidden }
        }
        Reply::Choices { first, mut tokens } => {
            // A reply without a row can only be wrong by saying too much.
            if tokens.pop().is_none() {
                tokens.push(TokenId(0));
            }
            Reply::Choices { first, tokens }
        }
    }
}

fn astray(reply: Reply) -> Reply {
    match reply {
        Reply::Rows { first, hidden } => Reply::Rows {
            first: Position(first.0 + 1),
            hidden,
        },
        Reply::Choices { first, tokens } => Reply::Choices {
            first: Position(first.0 + 1),
            tokens,
        },
    }
}

/// The desk's own node; it never dies.
const HERE: u8 = 0;

/// Who holds which layers of the two, from the first to the last.
const TOPOLOGIES: [&[(u8, usize, usize)]; 5] = [
    // Everything at one remote node.
    &[(1, 0, 2)],
    // Ids and logits stay at home, the layers are remote.
    &[(HERE, 0, 0), (1, 0, 2), (HERE, 2, 2)],
    // Two remote nodes, one layer each.
    &[(1, 0, 1), (2, 1, 2)],
    // The first layer here, the last there.
    &[(HERE, 0, 1), (1, 1, 2)],
    // Four nodes: embedding, layer, layer, head.
    &[(1, 0, 0), (2, 0, 1), (3, 1, 2), (4, 2, 2)],
];

/// Lines whose rows go from node to node where both can.
const HOPPING: [&[(u8, usize, usize)]; 4] = [
    &[(1, 0, 1), (2, 1, 2)],
    &[(HERE, 0, 0), (1, 0, 1), (2, 1, 2), (HERE, 2, 2)],
    &[(1, 0, 0), (2, 0, 1), (3, 1, 2), (4, 2, 2)],
    &[(HERE, 0, 0), (1, 0, 1), (2, 1, 2), (3, 2, 2)],
];

/// Which way rows take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rows {
    /// Through the desk.
    ThroughDesk,
    /// From node to node.
    Direct,
}

/// Steps, a stream, guesses, and guesses that decide for themselves.
const PACES: u64 = 4;

/// Remote nodes of a world: those of the topologies and some that stand by.
const REMOTE: u8 = 6;

const PROMPTS: [&str; 3] = [
    "Once upon a time there was a little fox who lived in the wood with her mother. One day",
    "The cat",
    "Tom had a red ball. Tom had a red ball. Tom had a red",
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Case {
    seed: u64,
    topology: usize,
    sampled: bool,
    prompt: usize,
    pace: u64,
}

impl Case {
    fn of(seed: u64) -> Self {
        Self {
            seed,
            topology: (seed % 5) as usize,
            sampled: seed / 5 % 2 == 1,
            prompt: (seed / 10 % 3) as usize,
            pace: seed / 30 % PACES,
        }
    }

    fn options(&self) -> AnswerOptions {
        let sampling = SamplingOptions {
            temperature: if self.sampled { 0.8 } else { 0.0 },
            seed: 5,
            // One prompt in three also looks back at what was said.
            repeat_penalty: if self.prompt == 2 { 1.1 } else { 1.0 },
            ..SamplingOptions::default()
        };
        AnswerOptions {
            sampling,
            max_tokens: Some(24),
            stops: Vec::new(),
        }
    }
}

fn line_model() -> LineModel {
    LineModel::of(HASH, &tiny().model)
}

fn pace(number: u64) -> Pace {
    match number {
        0 => Pace::Steps,
        1 => Pace::Stream,
        2 => {
            let line = Line::whole(line_model(), Arc::new(node(HERE)), LineLimits::default());
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
        _ => {
            let line = Line::whole(line_model(), Arc::new(node(HERE)), LineLimits::default());
            let source = |kind, drafter, acceptance| GuessSource {
                kind,
                drafter,
                start: SourceStart {
                    acceptance,
                    seconds_per_token: 1e-6,
                    length_max: 6,
                    branches_max: 1,
                },
            };
            let sources = vec![
                source(
                    DraftSource::Model,
                    Box::new(Unsure(ModelDrafter::new(line, Cancel::new()))),
                    0.7,
                ),
                source(DraftSource::NGram, Box::<EchoDrafter>::default(), 0.5),
            ];
            Pace::Adapt(Box::new(Speculation::new(sources, Plain::Stream, None)))
        }
    }
}

/// What came of an answer under losses.
struct Outcome {
    answer: Result<Answer, DeskError>,
    streamed: String,
    dead: usize,
}

/// Nodes 1 to 6, of which each dies at a moment of the seed or not at all.
fn nodes(case: Case, plant: Plant, dead: &Arc<AtomicUsize>) -> Vec<Arc<dyn Host>> {
    let mut dice = Dice::new(case.seed);
    let ways = Ways::default();
    let mut hosts: Vec<Arc<dyn Host>> = Vec::new();
    for id in 1..=REMOTE {
        // Most deaths fall into the answer, some into the prompt, and some nodes survive.
        let left = 1 + dice.below(70) as i64;
        let death = DEATHS[dice.below(5) as usize];
        hosts.push(Arc::new(Mortal {
            node: node(id),
            death,
            left: Arc::new(AtomicI64::new(left)),
            plant,
            dead: Arc::clone(dead),
            ways: ways.clone(),
            seed: case.seed * 1_000 + u64::from(id),
            opened: AtomicUsize::new(0),
        }));
    }
    hosts.push(Arc::new(node(HERE)));
    hosts
}

/// Lays the model out anew for no reason, every few tokens and at every second loss.
struct Wanderer(Dice);

impl Wanderer {
    /// Half of the times all caches are to be sent.
    fn transfers(&mut self, topology: &[(u8, usize, usize)]) -> Vec<LayerRange> {
        let ranges = topology
            .iter()
            .map(|&(_, start, end)| line_model().range(start, end));
        match self.0.below(2) {
            0 => Vec::new(),
            _ => ranges.collect(),
        }
    }

    fn layout(&mut self) -> Option<Layout> {
        let topology = TOPOLOGIES[self.0.below(5) as usize];
        let turn = self.0.below(u64::from(REMOTE) + 1) as u8;
        let place = |&(id, start, end): &(u8, usize, usize)| Placement {
            node: NodeId([(id + turn) % (REMOTE + 1); 32]),
            layers: line_model().range(start, end),
        };
        Some(Layout {
            stages: topology.iter().map(place).collect(),
            why: "wandering".to_owned(),
            transfers: self.transfers(topology),
            hosts: Vec::new(),
        })
    }
}

impl Steering for Wanderer {
    fn lost(&mut self, _node: NodeId, _now: &Standing) -> Option<Layout> {
        (self.0.below(2) == 0).then(|| self.layout()).flatten()
    }

    fn look(&mut self, _now: &Standing) -> Option<Layout> {
        (self.0.below(4) == 0).then(|| self.layout()).flatten()
    }
}

fn desk(case: Case, hosts: Vec<Arc<dyn Host>>, wanders: bool, rows: Rows) -> Desk {
    let model = line_model();
    let place = |&(id, start, end): &(u8, usize, usize)| Placement {
        node: NodeId([id; 32]),
        layers: model.range(start, end),
    };
    let topology = match rows {
        Rows::ThroughDesk => TOPOLOGIES[case.topology],
        Rows::Direct => HOPPING[case.seed as usize % HOPPING.len()],
    };
    let stages: Vec<_> = topology.iter().map(place).collect();
    let limits = LineLimits {
        patience: Duration::from_millis(1),
        patience_per_token: Duration::ZERO,
        patience_least: Duration::from_millis(1),
        chunk: 5,
        // So little that rows go to disk.
        history_bytes: if case.seed.is_multiple_of(7) {
            1 << 12
        } else {
            1 << 20
        },
        ..LineLimits::default()
    };
    let mut line = Line::new(model, hosts, &stages, limits).expect("the stages are the model");
    if rows == Rows::Direct {
        line = line.forwarding();
    }
    if wanders {
        line = line.with_steering(Box::new(Wanderer(Dice::new(case.seed + 1))));
    }
    Desk::over(line, pace(case.pace), Arc::clone(&tiny().words), Cancel::new())
}

fn answer(case: Case, plant: Plant, wanders: bool, rows: Rows) -> Outcome {
    let dead = Arc::new(AtomicUsize::new(0));
    let mut desk = desk(case, nodes(case, plant, &dead), wanders, rows);
    let mut streamed = String::new();
    let answer = desk.answer(Prompt::Text(PROMPTS[case.prompt]), &case.options(), &mut |text| {
        streamed.push_str(text);
    });
    Outcome {
        answer,
        streamed,
        dead: dead.load(Ordering::Relaxed),
    }
}

/// The answer of a desk that asks nobody.
fn calm(case: Case) -> Answer {
    let line = Line::whole(line_model(), Arc::new(node(HERE)), LineLimits::default());
    let mut desk = Desk::over(line, Pace::Steps, Arc::clone(&tiny().words), Cancel::new());
    let prompt = Prompt::Text(PROMPTS[case.prompt]);
    desk.answer(prompt, &case.options(), &mut |_| {})
        .expect("an answer")
}

/// Runs cases until `deaths` nodes have died. Returns how many answers differ from the calm one.
fn storm(deaths: usize, plant: Plant, wanders: bool) -> usize {
    storm_over(deaths, plant, wanders, Rows::ThroughDesk)
}

fn storm_over(deaths: usize, plant: Plant, wanders: bool, rows: Rows) -> usize {
    let calm: Vec<Answer> = (0..30).map(|seed| calm(Case::of(seed))).collect();
    let (mut dead, mut differing, mut seed) = (0, 0, 0);
    while dead < deaths {
        let case = Case::of(seed);
        let outcome = answer(case, plant, wanders, rows);
        dead += outcome.dead;
        let expected = &calm[(seed % 30) as usize];
        let same = outcome.answer.as_ref().is_ok_and(|answer| {
            answer.tokens == expected.tokens
                && answer.text == expected.text
                && outcome.streamed == expected.text
        });
        differing += usize::from(!same);
        if plant == Plant::Nothing {
            let moves = outcome.answer.as_ref().map(|answer| &answer.moves);
            assert!(
                same,
                "{case:?}: {moves:?}\n{:?}\n{:?}",
                outcome.streamed, expected.text
            );
        }
        seed += 1;
    }
    differing
}

#[test]
fn five_thousand_lost_nodes_change_no_token() {
    assert_eq!(storm(5_000, Plant::Nothing, false), 0);
}

#[test]
fn layers_that_wander_among_dying_nodes_change_no_token() {
    assert_eq!(storm(1_500, Plant::Nothing, true), 0);
    assert!(storm(200, Plant::ReplayLate, true) > 0);
    assert!(storm(200, Plant::NoiseOff, true) > 0);
}

#[test]
fn nodes_that_hand_rows_to_each_other_die_and_no_token_changes() {
    assert_eq!(storm_over(1_000, Plant::Nothing, false, Rows::Direct), 0);
    assert!(storm_over(200, Plant::WrongName, false, Rows::Direct) > 0);
}

#[test]
fn layers_wander_among_nodes_that_hand_rows_to_each_other() {
    assert_eq!(storm_over(500, Plant::Nothing, true, Rows::Direct), 0);
}

#[test]
#[ignore = "minutes; the check runs a thousand of them"]
fn five_thousand_lost_nodes_of_lines_that_forward_change_no_token() {
    assert_eq!(storm_over(5_000, Plant::Nothing, false, Rows::Direct), 0);
    assert_eq!(storm_over(5_000, Plant::Nothing, true, Rows::Direct), 0);
}

#[test]
fn a_replay_that_begins_a_position_late_is_seen() {
    assert!(storm(200, Plant::ReplayLate, false) > 0);
}

#[test]
fn noise_of_another_position_is_seen() {
    assert!(storm(200, Plant::NoiseOff, false) > 0);
}

#[test]
fn an_answer_survives_losses_in_a_row_and_the_conversation_goes_on() {
    let case = Case {
        seed: 4,
        topology: 2,
        sampled: true,
        prompt: 0,
        pace: 0,
    };
    let dead = Arc::new(AtomicUsize::new(0));
    let hosts = (1..=REMOTE).map(|id| -> Arc<dyn Host> {
        // Each dies while it still replays for the one before it.
        Arc::new(Mortal {
            node: node(id),
            death: DEATHS[usize::from(id % 5)],
            left: Arc::new(AtomicI64::new(if id == 1 { 30 } else { 3 })),
            plant: Plant::Nothing,
            dead: Arc::clone(&dead),
            ways: Ways::default(),
            seed: 0,
            opened: AtomicUsize::new(0),
        })
    });
    let hosts = hosts.chain([Arc::new(node(HERE)) as Arc<dyn Host>]).collect();
    let mut desk = desk(case, hosts, false, Rows::ThroughDesk);
    let mut calm = {
        let line = Line::whole(line_model(), Arc::new(node(HERE)), LineLimits::default());
        Desk::over(line, Pace::Steps, Arc::clone(&tiny().words), Cancel::new())
    };
    let mut said = PROMPTS[0].to_owned();
    for _ in 0..3 {
        let [stormy, quiet] = [&mut desk, &mut calm].map(|desk| {
            let answer = desk.answer(Prompt::Text(&said), &case.options(), &mut |_| {});
            answer.expect("somebody is left")
        });
        assert_eq!(stormy.tokens, quiet.tokens);
        assert_eq!(stormy.cached_tokens, quiet.cached_tokens);
        said = format!("{said}{} Then", stormy.text);
    }
    assert_eq!(dead.load(Ordering::Relaxed), usize::from(REMOTE));
}

#[test]
fn when_nobody_is_left_the_error_says_why() {
    let case = Case::of(2);
    let dead = Arc::new(AtomicUsize::new(0));
    let mut hosts = nodes(case, Plant::Nothing, &dead);
    hosts.pop();
    let mut desk = desk(case, hosts, false, Rows::ThroughDesk);
    let mut ask = || desk.answer(Prompt::Text(PROMPTS[0]), &case.options(), &mut |_| {});
    let error = (0..20).find_map(|_| ask().err()).expect("the nodes die");
    let DeskError::Line(LineError::NoSeat { .. }) = &error else {
        panic!("{error}");
    };
    assert!(
        error.to_string().starts_with("no node is left for layers "),
        "{error}"
    );
}

/// A host that raises the flag when it is first asked for a stage.
struct Interrupting {
    node: Node,
    raised: AtomicBool,
    cancel: Cancel,
}

impl Host for Interrupting {
    fn node(&self) -> NodeId {
        self.node.id()
    }

    fn open(&self, session: SessionId, spec: &StageSpec, bell: &Bell) -> Result<Box<dyn Seat>, SeatError> {
        if !self.raised.swap(true, Ordering::Relaxed) {
            self.cancel.raise();
        }
        self.node.open(session, spec, bell)
    }
}

/// A host that is full for the first times it is asked.
struct Full {
    node: Node,
    left: AtomicI64,
    /// When it says that it will have room.
    eta_ms: u32,
}

impl Host for Full {
    fn node(&self) -> NodeId {
        self.node.id()
    }

    fn open(&self, session: SessionId, spec: &StageSpec, bell: &Bell) -> Result<Box<dyn Seat>, SeatError> {
        if self.left.fetch_sub(1, Ordering::Relaxed) > 0 {
            return Err(SeatError::Refused {
                node: self.node.id(),
                why: Refusal::Peer(heph_net::wire::Refusal::Busy { eta_ms: self.eta_ms }),
            });
        }
        self.node.open(session, spec, bell)
    }
}

#[test]
fn a_full_node_is_passed_by_and_waited_for_where_nobody_else_is_left() {
    let case = Case::of(2);
    let expected = calm(case);
    let full_for = |id, times, eta_ms| {
        Arc::new(Full {
            node: node(id),
            left: AtomicI64::new(times),
            eta_ms,
        })
    };
    let full = |id, times| -> Arc<dyn Host> { full_for(id, times, 30) };
    let ask = |nodes: [u8; 2], hosts: Vec<Arc<dyn Host>>, cancel: &Cancel| {
        let model = line_model();
        let stages = [(nodes[0], 0, 1), (nodes[1], 1, 2)].map(|(id, start, end)| Placement {
            node: NodeId([id; 32]),
            layers: model.range(start, end),
        });
        let line = Line::new(model, hosts, &stages, LineLimits::default()).unwrap();
        let mut desk = Desk::over(line, Pace::Steps, Arc::clone(&tiny().words), cancel.clone());
        let began = std::time::Instant::now();
        let answer = desk.answer(Prompt::Text(PROMPTS[case.prompt]), &case.options(), &mut |_| {});
        (answer.expect("an answer"), began.elapsed())
    };
    // Twice full, and nobody else: two waits.
    let (answer, took) = ask([1, 1], vec![full(1, 2)], &Cancel::new());
    assert_eq!(answer.tokens, expected.tokens);
    assert!(took >= Duration::from_millis(60), "{took:?}");
    assert_eq!(answer.moves, []);
    // Always full, and somebody else there.
    let (answer, _) = ask([1, 2], vec![full(1, 1_000), full(2, 0)], &Cancel::new());
    assert_eq!(answer.tokens, expected.tokens);
    assert!(answer.moves.iter().any(|moved| moved.from == NodeId([1; 32])));
    // Nobody waits who was told to stop, and a node that says that it has room at once and never has is not asked all the time.
    for eta_ms in [30, 0] {
        let cancel = Cancel::new();
        let raised = cancel.clone();
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(200));
            raised.raise();
        });
        let nodes = [1, 2].map(|id| full_for(id, 100_000, eta_ms));
        let hosts = nodes.iter().map(|node| Arc::clone(node) as Arc<dyn Host>);
        let (answer, took) = ask([1, 2], hosts.collect(), &cancel);
        assert_eq!(answer.finish, Finish::Cancelled);
        assert!(took < Duration::from_secs(20), "{took:?}");
        let times = |node: &Arc<Full>| 100_000 - node.left.load(Ordering::Relaxed);
        let asked: i64 = nodes.iter().map(times).sum();
        // One ask of each in 50 ms is a dozen; a thread that asks all the time has the processor for moments only on a busy machine.
        assert!(asked < 100, "asked {asked} times within {took:?}");
    }
}

/// A host far away that opens nothing while it is gone.
struct Gone {
    node: Node,
    is_gone: AtomicBool,
}

impl Host for Gone {
    fn node(&self) -> NodeId {
        self.node.id()
    }

    fn open(&self, session: SessionId, spec: &StageSpec, bell: &Bell) -> Result<Box<dyn Seat>, SeatError> {
        match self.is_gone.load(Ordering::Relaxed) {
            true => Err(lost(self.node.id())),
            false => self.node.open(session, spec, bell),
        }
    }

    fn is_far(&self) -> bool {
        true
    }
}

#[test]
fn a_line_of_which_everybody_was_lost_asks_all_of_them_again() {
    let case = Case::of(2);
    let expected = calm(case);
    let nodes = [1, 2].map(|id| {
        Arc::new(Gone {
            node: node(id),
            is_gone: AtomicBool::new(true),
        })
    });
    let model = line_model();
    // Both stages are asked of the first at once.
    let stages = [(1, 0, 1), (1, 1, 2)].map(|(id, start, end)| Placement {
        node: NodeId([id; 32]),
        layers: model.range(start, end),
    });
    let hosts = nodes.iter().map(|node| Arc::clone(node) as Arc<dyn Host>);
    let line = Line::new(model, hosts.collect(), &stages, LineLimits::default()).unwrap();
    let mut desk = Desk::over(line, Pace::Steps, Arc::clone(&tiny().words), Cancel::new());
    let mut ask = || desk.answer(Prompt::Text(PROMPTS[case.prompt]), &case.options(), &mut |_| {});
    assert!(ask().is_err(), "nobody is there");
    nodes
        .iter()
        .for_each(|node| node.is_gone.store(false, Ordering::Relaxed));
    assert_eq!(ask().expect("both are back").tokens, expected.tokens);
}

/// This machine, which tells how many replies its stages gave.
struct Counted {
    node: Node,
    replies: Arc<AtomicUsize>,
}

struct CountedSeat {
    seat: Box<dyn Seat>,
    replies: Arc<AtomicUsize>,
}

impl Host for Counted {
    fn node(&self) -> NodeId {
        self.node.id()
    }

    fn open(&self, session: SessionId, spec: &StageSpec, bell: &Bell) -> Result<Box<dyn Seat>, SeatError> {
        Ok(Box::new(CountedSeat {
            seat: self.node.open(session, spec, bell)?,
            replies: Arc::clone(&self.replies),
        }))
    }
}

impl Seat for CountedSeat {
    fn node(&self) -> NodeId {
        self.seat.node()
    }

    fn submit(&mut self, order: Order) -> Result<(), SeatError> {
        self.seat.submit(order)
    }

    fn poll(&mut self) -> Result<Option<Reply>, SeatError> {
        let reply = self.seat.poll()?;
        self.replies
            .fetch_add(usize::from(reply.is_some()), Ordering::Relaxed);
        Ok(reply)
    }
}

/// A host far away that opens a stage once this machine has computed some pieces, or not at all.
struct Slow {
    node: Node,
    computed_here: Arc<AtomicUsize>,
    opens: bool,
}

/// Pieces that are computed here while a session is opened.
const AHEAD: usize = 3;

impl Host for Slow {
    fn node(&self) -> NodeId {
        self.node.id()
    }

    fn open(&self, session: SessionId, spec: &StageSpec, bell: &Bell) -> Result<Box<dyn Seat>, SeatError> {
        let until = Instant::now() + Duration::from_secs(20);
        while self.computed_here.load(Ordering::Relaxed) < AHEAD && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
        match self.opens && self.computed_here.load(Ordering::Relaxed) >= AHEAD {
            true => self.node.open(session, spec, bell),
            false => Err(lost(self.node.id())),
        }
    }

    fn is_far(&self) -> bool {
        true
    }
}

#[test]
fn this_machine_computes_while_another_opens_its_session() {
    let prompt: Vec<TokenId> = (0..20).map(TokenId).collect();
    let sampling = SamplingOptions::default();
    let first = |line: &mut Line| {
        line.begin(&sampling);
        line.feed(0, &prompt, 1);
        line.collect(&Cancel::new()).expect("a token").tokens
    };
    let expected = first(&mut Line::whole(
        line_model(),
        Arc::new(node(HERE)),
        LineLimits::default(),
    ));
    for opens in [true, false] {
        let replies = Arc::new(AtomicUsize::new(0));
        let here = Counted {
            node: node(HERE),
            replies: Arc::clone(&replies),
        };
        let far = Slow {
            node: node(1),
            computed_here: replies,
            opens,
        };
        let model = line_model();
        let stages = [(HERE, 0, 1), (1, 1, 2)].map(|(id, start, end)| Placement {
            node: NodeId([id; 32]),
            layers: model.range(start, end),
        });
        let limits = LineLimits {
            chunk: 2,
            ..LineLimits::default()
        };
        let mut line = Line::new(model, vec![Arc::new(here), Arc::new(far)], &stages, limits).unwrap();
        assert_eq!(first(&mut line), expected, "opens: {opens}");
        assert_eq!(
            line.moves().is_empty(),
            opens,
            "where it does not open, this machine has it all"
        );
    }
}

/// A host far away that takes its time, and says how often it is done.
struct Dawdling {
    node: Node,
    done: Arc<AtomicUsize>,
}

impl Host for Dawdling {
    fn node(&self) -> NodeId {
        self.node.id()
    }

    fn open(&self, session: SessionId, spec: &StageSpec, bell: &Bell) -> Result<Box<dyn Seat>, SeatError> {
        std::thread::sleep(Duration::from_millis(300));
        let seat = self.node.open(session, spec, bell);
        self.done.fetch_add(1, Ordering::Relaxed);
        seat
    }

    fn is_far(&self) -> bool {
        true
    }
}

#[test]
fn whoever_lets_go_of_an_opening_waits_for_it() {
    let done = Arc::new(AtomicUsize::new(0));
    let far = Dawdling {
        node: node(1),
        done: Arc::clone(&done),
    };
    let mut line = Line::whole(line_model(), Arc::new(far), LineLimits::default());
    let hot = |seed| SamplingOptions {
        temperature: 9.0,
        seed,
        ..SamplingOptions::default()
    };
    let chosen = |line: &mut Line, cancel: &Cancel| line.collect(cancel).map(|chosen| chosen.tokens);
    let cancelled = Cancel::new();
    cancelled.raise();
    line.begin(&hot(1));
    line.feed(0, &[TokenId(1)], 1);
    line.nudge().expect("it is asked");
    assert!(matches!(chosen(&mut line, &cancelled), Err(LineError::Cancelled)));
    assert_eq!(done.load(Ordering::Relaxed), 0, "nobody waited for it so far");
    line.settle();
    assert_eq!(
        done.load(Ordering::Relaxed),
        1,
        "what left for it is counted by now"
    );
    // The next answer is drawn as it was asked for.
    let draws = |line: &mut Line, seed| {
        line.begin(&hot(seed));
        line.feed(0, &[TokenId(1)], 1);
        chosen(line, &Cancel::new()).expect("a token")
    };
    let mut here = Line::whole(line_model(), Arc::new(node(HERE)), LineLimits::default());
    let seeds = [1, 2].map(|seed| draws(&mut here, seed));
    assert_ne!(seeds[0], seeds[1]);
    assert_eq!(draws(&mut line, 2), seeds[1]);
}

#[test]
fn an_answer_is_not_lost_with_whoever_guesses_for_it() {
    let gone = |id| -> Arc<dyn Host> {
        Arc::new(Gone {
            node: node(id),
            is_gone: AtomicBool::new(true),
        })
    };
    let full = |id| -> Arc<dyn Host> {
        Arc::new(Full {
            node: node(id),
            left: AtomicI64::new(1_000_000),
            eta_ms: 30,
        })
    };
    for (seed, guesser) in [(60, gone(9)), (61, full(9)), (90, gone(9)), (91, full(9))] {
        let case = Case::of(seed);
        let line = Line::whole(line_model(), guesser, LineLimits::default());
        let drafter = Box::new(ModelDrafter::new(line, Cancel::new()));
        let pace = match case.pace {
            2 => Pace::Guess(Guess {
                drafter,
                length: 3,
                ahead: 2,
                branches: 2,
            }),
            _ => {
                let start = SourceStart {
                    acceptance: 0.7,
                    seconds_per_token: 1e-6,
                    length_max: 6,
                    branches_max: 1,
                };
                let kind = DraftSource::Model;
                let sources = vec![GuessSource { kind, drafter, start }];
                Pace::Adapt(Box::new(Speculation::new(sources, Plain::Steps, None)))
            }
        };
        let line = Line::whole(line_model(), Arc::new(node(HERE)), LineLimits::default());
        let mut desk = Desk::over(line, pace, Arc::clone(&tiny().words), Cancel::new());
        let began = std::time::Instant::now();
        let answer = desk.answer(Prompt::Text(PROMPTS[case.prompt]), &case.options(), &mut |_| {});
        assert_eq!(answer.expect("an answer").tokens, calm(case).tokens, "{case:?}");
        let took = began.elapsed();
        assert!(
            took < Duration::from_secs(20),
            "{case:?} waited for guesses: {took:?}"
        );
    }
}

#[test]
fn a_stopped_answer_leaves_a_line_that_goes_on() {
    let case = Case::of(2);
    let expected = calm(case);
    for interrupting in [1, 2] {
        let cancel = Cancel::new();
        let host = |id| -> Arc<dyn Host> {
            Arc::new(Interrupting {
                node: node(id).with_stop(cancel.flag()),
                raised: AtomicBool::new(id != interrupting),
                cancel: cancel.clone(),
            })
        };
        let model = line_model();
        let stages = [(1, 0, 1), (2, 1, 2)].map(|(id, start, end)| Placement {
            node: NodeId([id; 32]),
            layers: model.range(start, end),
        });
        let line = Line::new(model, vec![host(1), host(2)], &stages, LineLimits::default()).unwrap();
        let mut desk = Desk::over(line, Pace::Steps, Arc::clone(&tiny().words), cancel.clone());
        let mut ask = || desk.answer(Prompt::Text(PROMPTS[case.prompt]), &case.options(), &mut |_| {});
        assert_eq!(ask().unwrap().finish, Finish::Cancelled);
        cancel.lower();
        assert_eq!(ask().unwrap().tokens, expected.tokens);
    }
}
