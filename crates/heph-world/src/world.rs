//! A world: nodes that compute real stages in virtual time, the ways between them, and what happens to both.
//!
//! Time moves only while somebody waits: a line for a bell, a host for an answer, or the desk while it computes itself.
//! Then events happen in their order, up to the moment that is waited for.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use heph_runtime::clock::Clock;
use heph_runtime::node::{Node, NodeCaps};
use heph_runtime::seat::{Bell, Host, ORDERS_MAX, Refusal, Seat, SeatError, Traffic};
use heph_types::{
    ModelHash, ModelProfile, NodeId, Order, Reply, SamplingOptions, SessionId, Speed, StageInput, StageSpec,
};

use crate::dice::Dice;
use crate::member::{Fault, Member, MemberShape, Workbench};
use crate::story::Story;
use crate::tiny::TinyModel;

/// How long a host waits for a session to be opened.
const OPEN_PATIENCE: Duration = Duration::from_secs(3);

/// Bytes of a frame besides tokens and rows.
const FRAME_BYTES: u64 = 24;

/// Sessions that a node of a world lends.
const SESSIONS_MAX: usize = 64;

/// A fault that happened.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Strike {
    /// When.
    pub at: Duration,
    /// To whom.
    pub node: NodeId,
    /// What.
    pub fault: Fault,
    /// Whether the node held a session.
    pub works: bool,
}

/// A world. Clones are the same world.
#[derive(Clone)]
pub struct World(Arc<Shared>);

struct Shared {
    /// The moment that virtual time is counted from; of no other meaning.
    base: Instant,
    core: Mutex<Core>,
}

impl World {
    /// An empty world, whose chances follow from `seed`.
    pub fn new(seed: u64) -> Self {
        let core = Core {
            now: Duration::ZERO,
            events: BTreeMap::new(),
            count: 0,
            dice: Dice::new(seed),
            models: BTreeMap::new(),
            members: BTreeMap::new(),
            talks: BTreeMap::new(),
            opened: Vec::new(),
            struck: Vec::new(),
            story: Story::default(),
        };
        Self(Arc::new(Shared {
            base: Instant::now(),
            core: Mutex::new(core),
        }))
    }

    /// Lets every node that comes from now on lend `model`, whose work costs as `profile` says.
    pub fn lend(&self, model: &TinyModel, profile: &ModelProfile) {
        let known = (model.clone(), profile.clone());
        self.core().models.insert(model.hash, known);
    }

    /// Adds a node behind a link.
    pub fn add(&self, shape: MemberShape) -> Arc<dyn Host> {
        let mut core = self.core();
        let (id, node) = (shape.id, core.node(shape.id));
        core.members.insert(id, Member::new(shape, node));
        Arc::new(Far {
            world: self.clone(),
            id,
        })
    }

    /// The desk's own node: its work holds the desk up.
    pub fn here(&self, id: NodeId, speed: &Speed) -> Arc<dyn Host> {
        Arc::new(Near {
            world: self.clone(),
            node: self.core().node(id),
            speed: speed.clone(),
        })
    }

    /// Lets something happen to a node at a moment.
    pub fn strike(&self, at: Duration, node: NodeId, fault: Fault) {
        self.core().schedule(at, Event::Strike { node, fault });
    }

    /// Lets something happen to a node before its reply of this number, counted from 0.
    pub fn strike_before(&self, reply: u64, node: NodeId, fault: Fault) {
        if let Some(member) = self.core().members.get_mut(&node) {
            member.pending.push((reply, fault));
        }
    }

    /// The clock of the desk.
    pub fn clock(&self) -> Arc<dyn Clock> {
        Arc::new(self.clone())
    }

    /// Time since the beginning.
    pub fn elapsed(&self) -> Duration {
        self.core().now
    }

    /// Lets time pass, as when the desk works itself.
    pub fn spend(&self, time: Duration) {
        let mut core = self.core();
        let until = core.now + time;
        core.run(until, |_| false);
    }

    /// When sessions were asked for, and of whom.
    pub fn opened(&self) -> Vec<(Duration, NodeId)> {
        self.core().opened.clone()
    }

    /// What happened to whom, and when.
    pub fn struck(&self) -> Vec<Strike> {
        self.core().struck.clone()
    }

    /// The last events, one a line.
    pub fn story(&self) -> String {
        self.core().story.to_string()
    }

    fn core(&self) -> MutexGuard<'_, Core> {
        self.0.core.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "World({:?})", self.core().now)
    }
}

impl Clock for World {
    fn now(&self) -> Instant {
        self.0.base + self.core().now
    }

    fn wait(&self, bell: &Bell, seen: u64, deadline: Instant) {
        let until = deadline.saturating_duration_since(self.0.base);
        self.core().run(until, |_| bell.rings() > seen);
    }
}

/// Everything in a world.
struct Core {
    now: Duration,
    /// What is to happen, in order; of two events of one moment the one that was known first comes first.
    events: BTreeMap<(Duration, u64), Event>,
    count: u64,
    dice: Dice,
    models: BTreeMap<ModelHash, (TinyModel, ModelProfile)>,
    members: BTreeMap<NodeId, Member>,
    talks: BTreeMap<u64, Talk>,
    opened: Vec<(Duration, NodeId)>,
    struck: Vec<Strike>,
    story: Story,
}

/// Something that is to happen.
pub(crate) enum Event {
    /// A node hears the desk.
    Told {
        node: NodeId,
        talk: u64,
        word: ToNode,
    },
    /// The desk hears a node.
    Heard {
        talk: u64,
        word: ToDesk,
    },
    /// A node has computed something.
    Done {
        node: NodeId,
        life: u32,
    },
    Strike {
        node: NodeId,
        fault: Fault,
    },
}

/// What the desk says to a node.
pub(crate) enum ToNode {
    Open(StageSpec),
    Order(Order),
    Close,
}

/// What a node says to the desk.
pub(crate) enum ToDesk {
    Opened,
    Refused(String),
    Reply(Reply),
    /// The connection is gone.
    Broken(&'static str),
}

/// A session as the desk sees it.
struct Talk {
    node: NodeId,
    bell: Bell,
    opened: bool,
    replies: VecDeque<Reply>,
    end: Option<SeatError>,
    traffic: Traffic,
}

impl Core {
    /// A node that lends every model.
    fn node(&self, id: NodeId) -> Node {
        let caps = NodeCaps {
            sessions: SESSIONS_MAX,
        };
        let models = self.models.values();
        models.fold(Node::new(id, caps), |node, (model, _)| {
            node.with(model.hash, model.lent())
        })
    }

    fn schedule(&mut self, at: Duration, event: Event) {
        self.count += 1;
        self.events.insert((at.max(self.now), self.count), event);
    }

    /// Lets events happen until a moment, or until `enough`.
    fn run(&mut self, until: Duration, enough: impl Fn(&Core) -> bool) {
        while !enough(self) {
            match self.events.first_entry() {
                Some(next) if next.key().0 <= until => {
                    let ((at, _), event) = next.remove_entry();
                    self.now = self.now.max(at);
                    self.happen(event);
                }
                _ => {
                    self.now = self.now.max(until);
                    return;
                }
            }
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Told { node, talk, word } => self.told(node, talk, word),
            Event::Heard { talk, word } => self.heard(talk, word),
            Event::Done { node, life } => self.done(node, life),
            Event::Strike { node, fault } => self.struck_by(node, fault),
        }
    }

    /// The desk says something.
    fn tell(&mut self, talk: u64, word: ToNode) {
        let Some(node) = self.talks.get(&talk).map(|talk| talk.node) else {
            return;
        };
        let Some(member) = self.members.get_mut(&node) else {
            return;
        };
        let bytes = FRAME_BYTES + size_up(&word);
        self.talks.entry(talk).and_modify(|talk| talk.traffic.up += bytes);
        if let Some(at) = member.up.send(self.now, bytes, &mut self.dice) {
            self.schedule(at, Event::Told { node, talk, word });
        }
    }

    /// A node says something.
    fn say(&mut self, talk: u64, node: NodeId, word: ToDesk) {
        let Some(member) = self.members.get_mut(&node) else {
            return;
        };
        let bytes = FRAME_BYTES + size_down(&word);
        if let Some(at) = member.down.send(self.now, bytes, &mut self.dice) {
            self.schedule(at, Event::Heard { talk, word });
        }
    }

    /// A node hears the desk.
    fn told(&mut self, node: NodeId, talk: u64, word: ToNode) {
        let Some(member) = self.members.get_mut(&node) else {
            return;
        };
        if member.up.cut || !member.alive {
            return;
        }
        if member.stopped {
            // It lies in the socket until the process goes on.
            member.parked.push(Event::Told { node, talk, word });
            return;
        }
        let answer = match word {
            ToNode::Close => {
                member.benches.remove(&talk);
                return;
            }
            ToNode::Open(_) if member.refuses => ToDesk::Refused("the owner needs the machine".to_owned()),
            ToNode::Open(spec) => match Workbench::open(&member.node, &spec) {
                Ok(bench) => {
                    member.benches.insert(talk, bench);
                    ToDesk::Opened
                }
                Err(error) => ToDesk::Refused(error.to_string()),
            },
            ToNode::Order(order) => match member.benches.get_mut(&talk) {
                None => ToDesk::Broken("it does not know the session"),
                Some(bench) => match bench.take(order) {
                    Err(error) => ToDesk::Refused(error.to_string()),
                    Ok(()) => {
                        if !member.ready.contains(&talk) {
                            member.ready.push_back(talk);
                        }
                        return self.begin(node);
                    }
                },
            },
        };
        self.say(talk, node, answer);
    }

    /// Lets a node that does nothing compute what is next.
    fn begin(&mut self, id: NodeId) {
        let Some(member) = self.members.get_mut(&id) else {
            return;
        };
        while member.busy.is_none() && !member.stopped {
            let Some(talk) = member.ready.pop_front() else {
                return;
            };
            let Some(bench) = member.benches.get_mut(&talk) else {
                continue;
            };
            let Some((_, profile)) = self.models.get(&bench.model()) else {
                continue;
            };
            let Some((reply, took)) = bench.work(profile, &member.shape.speed, &mut self.dice) else {
                continue;
            };
            member.busy = Some((talk, reply.map_err(|error| error.to_string())));
            let (at, life) = (self.now + took.mul_f64(member.slow), member.life);
            return self.schedule(at, Event::Done { node: id, life });
        }
    }

    /// A node has computed something.
    fn done(&mut self, id: NodeId, life: u32) {
        let Some(member) = self.members.get_mut(&id) else {
            return;
        };
        if member.life != life || !member.alive {
            return;
        }
        if member.stopped {
            return member.parked.push(Event::Done { node: id, life });
        }
        let count = member.replies;
        if let Some(at) = member.pending.iter().position(|(reply, _)| *reply <= count) {
            let (_, fault) = member.pending.remove(at);
            self.struck_by(id, fault);
            return self.done(id, life);
        }
        member.replies += 1;
        let Some((talk, reply)) = member.busy.take() else {
            return;
        };
        if member.benches.get(&talk).is_some_and(|bench| !bench.is_idle()) {
            member.ready.push_back(talk);
        }
        let word = match reply {
            Ok(reply) => ToDesk::Reply(member.said(reply)),
            Err(why) => ToDesk::Refused(why),
        };
        self.say(talk, id, word);
        self.begin(id);
    }

    /// The desk hears a node.
    fn heard(&mut self, talk: u64, word: ToDesk) {
        let Some(heard) = self.talks.get_mut(&talk) else {
            return;
        };
        if self.members.get(&heard.node).is_none_or(|member| member.down.cut) {
            return;
        }
        heard.traffic.down += FRAME_BYTES + size_down(&word);
        let node = heard.node;
        match word {
            ToDesk::Opened => heard.opened = true,
            ToDesk::Reply(reply) => heard.replies.push_back(reply),
            ToDesk::Refused(why) => {
                heard.end.get_or_insert(SeatError::Refused {
                    node,
                    why: Refusal::Said(why),
                });
            }
            ToDesk::Broken(why) => {
                let why = why.to_owned();
                heard.end.get_or_insert(SeatError::Lost { node, why });
            }
        }
        heard.bell.ring();
    }

    fn struck_by(&mut self, id: NodeId, fault: Fault) {
        let works = self
            .members
            .get(&id)
            .is_some_and(|member| !member.benches.is_empty());
        self.struck.push(Strike {
            at: self.now,
            node: id,
            fault,
            works,
        });
        self.story.tell(self.now, format!("{}: {fault:?}", id.short()));
        let fresh = matches!(fault, Fault::Revived).then(|| self.node(id));
        let Some(member) = self.members.get_mut(&id) else {
            return;
        };
        match fault {
            Fault::Killed => {
                member.alive = false;
                member.forget();
            }
            Fault::Revived => {
                member.alive = true;
                member.forget();
                member.node = fresh.unwrap_or_else(|| unreachable!("it was just made"));
            }
            Fault::Stopped => member.stopped = true,
            Fault::Continued => {
                member.stopped = false;
                let parked = std::mem::take(&mut member.parked);
                parked
                    .into_iter()
                    .for_each(|event| self.schedule(self.now, event));
            }
            Fault::HalfOpen => member.down.cut = true,
            Fault::CutOff => (member.up.cut, member.down.cut) = (true, true),
            Fault::Healed => (member.up.cut, member.down.cut) = (false, false),
            Fault::Slowed(times) => member.slow = times,
            Fault::Lies(lie) => member.lie = Some(lie),
            Fault::Left | Fault::Refuses => {
                member.refuses = true;
                let talks: Vec<u64> = member.benches.keys().copied().collect();
                member.forget();
                for talk in talks {
                    let word = match fault {
                        Fault::Left => ToDesk::Broken("it said goodbye"),
                        _ => ToDesk::Refused("the owner needs the machine".to_owned()),
                    };
                    self.say(talk, id, word);
                }
            }
        }
        self.begin(id);
    }
}

/// Bytes of what the desk says, without its frame.
fn size_up(word: &ToNode) -> u64 {
    match word {
        ToNode::Open(_) => 64,
        ToNode::Close => 0,
        ToNode::Order(Order::Rollback(_)) => 4,
        ToNode::Order(Order::Generate { .. }) => 16,
        ToNode::Order(Order::Forward(forward)) => match &forward.input {
            StageInput::Tokens(tokens) => 3 * tokens.len() as u64,
            StageInput::Rows { hidden, tokens } => 4 * hidden.rows.len() as u64 + 3 * tokens.len() as u64,
        },
    }
}

/// Bytes of what a node says, without its frame.
fn size_down(word: &ToDesk) -> u64 {
    match word {
        ToDesk::Opened | ToDesk::Broken(_) => 0,
        ToDesk::Refused(why) => why.len() as u64,
        ToDesk::Reply(Reply::Rows { hidden, .. }) => 4 * hidden.rows.len() as u64,
        ToDesk::Reply(Reply::Choices { tokens, .. }) => 3 * tokens.len() as u64,
    }
}

/// A node behind a link.
struct Far {
    world: World,
    id: NodeId,
}

impl Host for Far {
    fn node(&self) -> NodeId {
        self.id
    }

    fn open(&self, _session: SessionId, spec: &StageSpec, bell: &Bell) -> Result<Box<dyn Seat>, SeatError> {
        let mut core = self.world.core();
        let (node, now) = (self.id, core.now);
        core.count += 1;
        let talk = core.count;
        core.opened.push((now, node));
        let (start, end) = (spec.layers.start(), spec.layers.end());
        core.story.tell(
            now,
            format!("{}: layers {start}..{end} are asked for", node.short()),
        );
        let fresh = Talk {
            node,
            bell: bell.clone(),
            opened: false,
            replies: VecDeque::new(),
            end: None,
            traffic: Traffic::default(),
        };
        core.talks.insert(talk, fresh);
        core.tell(talk, ToNode::Open(spec.clone()));
        let answered = |core: &Core| {
            let talk = core.talks.get(&talk);
            talk.is_none_or(|talk| talk.opened || talk.end.is_some())
        };
        core.run(now + OPEN_PATIENCE, answered);
        let opened = core
            .talks
            .get_mut(&talk)
            .map(|talk| (talk.opened, talk.end.take()));
        let error = match opened {
            Some((true, None)) => {
                return Ok(Box::new(FarSeat {
                    world: self.world.clone(),
                    node,
                    talk,
                    held: 0,
                }));
            }
            Some((_, Some(error))) => error,
            _ => SeatError::Late {
                node,
                waited: OPEN_PATIENCE,
            },
        };
        core.talks.remove(&talk);
        let now = core.now;
        core.story.tell(now, format!("not opened: {error}"));
        Err(error)
    }
}

struct FarSeat {
    world: World,
    node: NodeId,
    talk: u64,
    /// Orders that are not answered yet.
    held: usize,
}

impl Seat for FarSeat {
    fn node(&self) -> NodeId {
        self.node
    }

    fn submit(&mut self, order: Order) -> Result<(), SeatError> {
        if self.held >= ORDERS_MAX {
            let why = Refusal::Said("too many orders wait".to_owned());
            return Err(SeatError::Refused { node: self.node, why });
        }
        self.held += usize::from(matches!(order, Order::Forward(_)));
        self.world.core().tell(self.talk, ToNode::Order(order));
        Ok(())
    }

    fn poll(&mut self) -> Result<Option<Reply>, SeatError> {
        let mut core = self.world.core();
        let Some(talk) = core.talks.get_mut(&self.talk) else {
            return Ok(None);
        };
        if let Some(reply) = talk.replies.pop_front() {
            self.held = self.held.saturating_sub(1);
            return Ok(Some(reply));
        }
        match talk.end.take() {
            None => Ok(None),
            Some(error) => {
                let now = core.now;
                core.story.tell(now, error.to_string());
                Err(error)
            }
        }
    }

    fn traffic(&self) -> Traffic {
        let core = self.world.core();
        core.talks
            .get(&self.talk)
            .map(|talk| talk.traffic)
            .unwrap_or_default()
    }
}

impl Drop for FarSeat {
    fn drop(&mut self) {
        let mut core = self.world.core();
        core.tell(self.talk, ToNode::Close);
        core.talks.remove(&self.talk);
    }
}

/// The desk's own node.
struct Near {
    world: World,
    node: Node,
    speed: Speed,
}

impl Host for Near {
    fn node(&self) -> NodeId {
        self.node.id()
    }

    fn open(&self, _session: SessionId, spec: &StageSpec, _bell: &Bell) -> Result<Box<dyn Seat>, SeatError> {
        let node = self.node.id();
        let bench = Workbench::open(&self.node, spec).map_err(|error| SeatError::Refused {
            node,
            why: Refusal::Stage(error),
        })?;
        Ok(Box::new(NearSeat {
            world: self.world.clone(),
            node,
            speed: self.speed.clone(),
            bench,
        }))
    }
}

struct NearSeat {
    world: World,
    node: NodeId,
    speed: Speed,
    bench: Workbench,
}

impl NearSeat {
    fn refused(&self, error: heph_runtime::node::StageError) -> SeatError {
        SeatError::Refused {
            node: self.node,
            why: Refusal::Stage(error),
        }
    }
}

impl Seat for NearSeat {
    fn node(&self) -> NodeId {
        self.node
    }

    fn submit(&mut self, order: Order) -> Result<(), SeatError> {
        self.bench.take(order).map_err(|error| self.refused(error))
    }

    fn poll(&mut self) -> Result<Option<Reply>, SeatError> {
        let worked = {
            let mut core = self.world.core();
            let Core { models, dice, .. } = &mut *core;
            let Some((_, profile)) = models.get(&self.bench.model()) else {
                return Ok(None);
            };
            self.bench.work(profile, &self.speed, dice)
        };
        let Some((reply, took)) = worked else {
            return Ok(None);
        };
        self.world.spend(took);
        reply.map(Some).map_err(|error| self.refused(error))
    }

    fn choose_by(&mut self, options: &SamplingOptions) -> bool {
        self.bench.stage().choose_by(options)
    }
}
