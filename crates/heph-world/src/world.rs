//! A world: nodes that compute real stages in virtual time, the ways between them, and what happens to both.
//!
//! Time moves only while somebody waits: a line for a bell, a host for an answer, or the desk while it computes itself.
//! Then events happen in their order, up to the moment that is waited for. What desk and nodes say to each other are the
//! bytes of the real session machines.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use heph_net::drive::Machine;
use heph_runtime::clock::Clock;
use heph_runtime::node::{Node, NodeCaps};
use heph_runtime::seat::{Bell, Host};
use heph_types::{ModelHash, ModelProfile, NodeId, Speed};

use crate::dice::Dice;
use crate::host::{Far, Near, Talk};
use crate::member::{Fault, Member, MemberShape};
use crate::story::Story;
use crate::tiny::TinyModel;

/// The law of arithmetic that all ends of a world say they compute by.
pub(crate) const LAW: u16 = heph_kernels::ARITHMETIC_VERSION as u16;

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
        Arc::new(Far::new(self.clone(), id))
    }

    /// The desk's own node: its work holds the desk up.
    pub fn here(&self, id: NodeId, speed: &Speed) -> Arc<dyn Host> {
        let node = self.core().node(id);
        Arc::new(Near::new(self.clone(), node, speed.clone()))
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

    pub(crate) fn core(&self) -> MutexGuard<'_, Core> {
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
pub(crate) struct Core {
    pub(crate) now: Duration,
    /// What is to happen, in order; of two events of one moment the one that was known first comes first.
    events: BTreeMap<(Duration, u64), Event>,
    count: u64,
    pub(crate) dice: Dice,
    pub(crate) models: BTreeMap<ModelHash, (TinyModel, ModelProfile)>,
    members: BTreeMap<NodeId, Member>,
    pub(crate) talks: BTreeMap<u64, Talk>,
    pub(crate) opened: Vec<(Duration, NodeId)>,
    struck: Vec<Strike>,
    pub(crate) story: Story,
}

/// Something that is to happen.
pub(crate) enum Event {
    /// Bytes of the desk reach a node.
    Told { node: NodeId, talk: u64, bytes: Vec<u8> },
    /// Bytes of a node reach the desk.
    Heard { node: NodeId, talk: u64, bytes: Vec<u8> },
    /// The desk's end of a conversation is gone, and the node hears of it.
    Dropped { node: NodeId, talk: u64 },
    /// A node does not know a conversation, and the desk hears of it.
    Broken { node: NodeId, talk: u64 },
    /// The deadline of the desk's end has come.
    WakeDesk { talk: u64 },
    /// The deadline of a node's end has come.
    WakeNode { node: NodeId, talk: u64 },
    /// A node has computed something.
    Done { node: NodeId, life: u32 },
    /// A fault.
    Strike { node: NodeId, fault: Fault },
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

    /// A number for a conversation.
    pub(crate) fn number(&mut self) -> u64 {
        self.count += 1;
        self.count
    }

    fn schedule(&mut self, at: Duration, event: Event) {
        let number = self.number();
        self.events.insert((at.max(self.now), number), event);
    }

    /// Lets events happen until a moment, or until `enough`.
    pub(crate) fn run(&mut self, until: Duration, enough: impl Fn(&Core) -> bool) {
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
            Event::Told { node, talk, bytes } => self.told(node, talk, bytes),
            Event::Heard { node, talk, bytes } => self.heard(node, talk, &bytes),
            Event::Dropped { node, talk } => self.dropped(node, talk),
            Event::Broken { node, talk } => self.broken(node, talk),
            Event::WakeDesk { talk } => self.wake_desk(talk),
            Event::WakeNode { node, talk } => self.wake_node(node, talk),
            Event::Done { node, life } => self.done(node, life),
            Event::Strike { node, fault } => self.strike(node, fault),
        }
    }

    /// Takes from the desk's end what it has to say, and sends it.
    pub(crate) fn carry_desk(&mut self, talk: u64) {
        let now = self.now;
        let Some(own) = self.talks.get_mut(&talk) else {
            return;
        };
        let bytes = own.listen();
        let (node, wake) = (own.node, own.next_wake());
        if let Some(at) = wake {
            self.schedule(at, Event::WakeDesk { talk });
        }
        if bytes.is_empty() {
            return;
        }
        let Some(member) = self.members.get_mut(&node) else {
            return;
        };
        if !member.met {
            // A connection is made first: one round trip.
            member.met = true;
            member.up.hold_until(now + member.shape.link.rtt);
        }
        if let Some(at) = member.up.send(now, bytes.len() as u64, &mut self.dice) {
            self.schedule(at, Event::Told { node, talk, bytes });
        }
    }

    /// Takes from a node's end what it has to say, and sends it.
    fn carry_node(&mut self, node: NodeId, talk: u64) {
        let now = self.now;
        let Some(member) = self.members.get_mut(&node) else {
            return;
        };
        member.serve(talk, now);
        let bytes = member.transmit(talk);
        let sent = match bytes.is_empty() {
            true => None,
            false => member.down.send(now, bytes.len() as u64, &mut self.dice),
        };
        let wake = member.next_wake(talk);
        if let Some(at) = sent {
            self.schedule(at, Event::Heard { node, talk, bytes });
        }
        if let Some(at) = wake {
            self.schedule(at, Event::WakeNode { node, talk });
        }
        self.begin(node);
    }

    /// A node that can hear: alive, reached, and not stopped. What comes to a stopped one waits for it.
    fn awake(&mut self, node: NodeId, event: impl FnOnce() -> Event) -> Option<&mut Member> {
        let member = self.members.get_mut(&node)?;
        if !member.alive || member.up.cut {
            return None;
        }
        if member.stopped {
            member.parked.push(event());
            return None;
        }
        Some(member)
    }

    fn told(&mut self, node: NodeId, talk: u64, bytes: Vec<u8>) {
        let now = self.now;
        let again = || Event::Told {
            node,
            talk,
            bytes: bytes.clone(),
        };
        if self.awake(node, again).is_none() {
            return;
        }
        let first = self.talks.get_mut(&talk).is_some_and(|own| own.first_word());
        let Some(member) = self.members.get_mut(&node) else {
            return;
        };
        if first {
            member.meet(talk, now);
        }
        let clock = member.clock(now);
        match member.talks.get_mut(&talk) {
            Some(served) => {
                // Broken bytes end the conversation, and its end says so itself.
                let _ = served.end.receive(clock, &bytes);
                self.carry_node(node, talk);
            }
            None => {
                let at = now + member.shape.link.rtt / 2;
                if !member.down.cut {
                    self.schedule(at, Event::Broken { node, talk });
                }
            }
        }
    }

    fn heard(&mut self, node: NodeId, talk: u64, bytes: &[u8]) {
        if self.members.get(&node).is_none_or(|member| member.down.cut) {
            return;
        }
        if let Some(own) = self.talks.get_mut(&talk) {
            own.hear(self.now, bytes);
            self.carry_desk(talk);
        }
    }

    fn dropped(&mut self, node: NodeId, talk: u64) {
        if let Some(member) = self.awake(node, || Event::Dropped { node, talk }) {
            member.talks.remove(&talk);
        }
    }

    fn broken(&mut self, node: NodeId, talk: u64) {
        if self.members.get(&node).is_none_or(|member| member.down.cut) {
            return;
        }
        if let Some(own) = self.talks.get_mut(&talk) {
            own.break_off(self.now);
            self.carry_desk(talk);
        }
    }

    fn wake_desk(&mut self, talk: u64) {
        if let Some(own) = self.talks.get_mut(&talk) {
            own.wake(self.now);
            self.carry_desk(talk);
        }
    }

    fn wake_node(&mut self, node: NodeId, talk: u64) {
        let now = self.now;
        let Some(member) = self.awake(node, || Event::WakeNode { node, talk }) else {
            return;
        };
        let clock = member.clock(now);
        let Some(served) = member.talks.get_mut(&talk) else {
            return;
        };
        if served.wake == Some(now) {
            served.wake = None;
        }
        if served.end.deadline().is_some_and(|at| at <= clock) {
            let _ = served.end.wake(clock);
        }
        self.carry_node(node, talk);
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
            let Some(bench) = member
                .talks
                .get_mut(&talk)
                .and_then(|served| served.bench.as_mut())
            else {
                continue;
            };
            let Some((_, profile)) = self.models.get(&bench.model()) else {
                continue;
            };
            let (said, took) = bench.work(profile, &member.shape.speed, &mut self.dice);
            if said.is_empty() {
                continue;
            }
            member.busy = Some((talk, said));
            let (at, life) = (self.now + took.mul_f64(member.slow), member.life);
            return self.schedule(at, Event::Done { node: id, life });
        }
    }

    /// A node has computed something.
    fn done(&mut self, id: NodeId, life: u32) {
        let now = self.now;
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
            self.strike(id, fault);
            return self.done(id, life);
        }
        member.replies += 1;
        let Some((talk, said)) = member.busy.take() else {
            return;
        };
        let clock = member.clock(now);
        said.into_iter()
            .for_each(|command| member.command(talk, clock, command));
        let bench = member.talks.get(&talk).and_then(|served| served.bench.as_ref());
        if bench.is_some_and(|bench| !bench.is_idle()) {
            member.ready.push_back(talk);
        }
        self.carry_node(id, talk);
    }

    /// The desk is done with a conversation: with a goodbye that is said, or in the middle.
    pub(crate) fn let_go(&mut self, talk: u64) {
        self.carry_desk(talk);
        let Some(own) = self.talks.remove(&talk) else {
            return;
        };
        let Some(member) = self.members.get(&own.node) else {
            return;
        };
        let at = self.now + member.shape.link.rtt / 2;
        if !member.up.cut {
            self.schedule(at, Event::Dropped { node: own.node, talk });
        }
    }

    fn strike(&mut self, id: NodeId, fault: Fault) {
        let works = self.members.get(&id).is_some_and(Member::works);
        self.struck.push(Strike {
            at: self.now,
            node: id,
            fault,
            works,
        });
        self.story.tell(self.now, format!("{}: {fault:?}", id.short()));
        let (now, fresh) = (self.now, matches!(fault, Fault::Revived).then(|| self.node(id)));
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
                parked.into_iter().for_each(|event| self.schedule(now, event));
            }
            Fault::HalfOpen => member.down.cut = true,
            Fault::CutOff => (member.up.cut, member.down.cut) = (true, true),
            Fault::Healed => (member.up.cut, member.down.cut) = (false, false),
            Fault::Slowed(times) => member.slow = times,
            Fault::Lies(lie) => member.lie = Some(lie),
            Fault::Left | Fault::Refuses => {
                member.refuses = true;
                member.give_up(now, fault);
                for talk in member.talks.keys().copied().collect::<Vec<_>>() {
                    self.carry_node(id, talk);
                }
            }
        }
        self.begin(id);
    }
}
