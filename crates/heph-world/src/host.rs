//! Hosts and seats of a world: those behind a link, which speak through the real session machines, and the desk's own.

use std::collections::VecDeque;
use std::time::Duration;

use heph_net::drive::Machine;
use heph_net::session::{Codecs, DeskCommand, DeskEnd, DeskEvent, OPEN_DEADLINE, SessionError};
use heph_net::wire::Line;
use heph_privacy::label::Label;
use heph_privacy::policy::{Destination, Kind, Policies, Policy as Privacy, Preset};
use heph_privacy::{Clearance, Purpose};
use heph_runtime::node::{Node, Stage, StageError};
use heph_runtime::seat::{Bell, Host, ORDERS_MAX, Refusal, Seat, SeatError, Traffic};
use heph_types::{ModelHash, NodeId, Order, Reply, SamplingOptions, SessionId, Speed, StageSpec, WireCodec};

use crate::bench::{Costs, Passed};
use crate::scene;
use crate::world::{Core, LAW, World};

/// The one session of a seat's conversation.
const LINE: Line = Line(0);

/// Rows travel without loss.
const EXACT: Codecs = Codecs {
    up: WireCodec::Packed,
    down: WireCodec::Packed,
};

/// A conversation, as the desk has it.
pub(crate) struct Talk {
    pub(crate) node: NodeId,
    end: DeskEnd,
    bell: Bell,
    opened: bool,
    replies: VecDeque<Reply>,
    error: Option<SeatError>,
    /// When the end is woken next.
    wake: Option<Duration>,
    /// Whether anything of it has reached the node.
    begun: bool,
    traffic: Traffic,
}

impl Talk {
    fn new(node: NodeId, bell: &Bell, now: Duration) -> Self {
        Self {
            node,
            end: DeskEnd::new(LAW, now),
            bell: bell.clone(),
            opened: false,
            replies: VecDeque::new(),
            error: None,
            wake: None,
            begun: false,
            traffic: Traffic::default(),
        }
    }

    /// Whether this is the first that the node hears of it.
    pub(crate) fn first_word(&mut self) -> bool {
        !std::mem::replace(&mut self.begun, true)
    }

    fn command(&mut self, now: Duration, command: DeskCommand) {
        // Misuse ends the conversation, which tells it as an event.
        let _ = self.end.command(now, command);
    }

    pub(crate) fn hear(&mut self, now: Duration, bytes: &[u8]) {
        self.traffic.down += bytes.len() as u64;
        let _ = self.end.receive(now, bytes);
    }

    /// The connection is gone.
    pub(crate) fn break_off(&mut self, now: Duration) {
        let _ = self.end.receive_end(now);
    }

    pub(crate) fn wake(&mut self, now: Duration) {
        if self.wake == Some(now) {
            self.wake = None;
        }
        if self.end.deadline().is_some_and(|at| at <= now) {
            let _ = self.end.wake(now);
        }
    }

    /// Takes in what the end tells; returns what it has to send.
    pub(crate) fn listen(&mut self) -> Vec<u8> {
        let node = self.node;
        while let Some(event) = self.end.event() {
            match event {
                DeskEvent::Opened { .. } => self.opened = true,
                DeskEvent::Reply(_, reply) => self.replies.push_back(reply),
                DeskEvent::Refused { reason, .. } => self.fail(SeatError::Refused {
                    node,
                    why: Refusal::Peer(reason),
                }),
                DeskEvent::Ended { code, sentence, .. } => self.fail(SeatError::Refused {
                    node,
                    why: Refusal::Said(format!("it {code}: {sentence}")),
                }),
                DeskEvent::Over(error) => self.fail(ended(node, &error)),
                DeskEvent::Greeted(_)
                | DeskEvent::Profile { .. }
                | DeskEvent::Busy { .. }
                | DeskEvent::Forgot(_)
                | DeskEvent::RoundTrip(_)
                | DeskEvent::Crossed { .. }
                | DeskEvent::Cache(..)
                | DeskEvent::CacheHeld(..)
                | DeskEvent::CacheStays(_)
                | DeskEvent::Vouched(_)
                | DeskEvent::Unvouched(_)
                | DeskEvent::Expecting(_)
                | DeskEvent::Joined { .. }
                | DeskEvent::Parted { .. }
                | DeskEvent::HandedOn { .. }
                | DeskEvent::Closed(_) => continue,
            }
            self.bell.ring();
        }
        let mut bytes = Vec::new();
        self.end.transmit(&mut bytes);
        self.traffic.up += bytes.len() as u64;
        bytes
    }

    fn fail(&mut self, error: SeatError) {
        self.error.get_or_insert(error);
    }

    /// When the end wants to be woken, where nobody is to do that yet.
    pub(crate) fn next_wake(&mut self) -> Option<Duration> {
        let at = self.end.deadline().filter(|_| !self.end.finished())?;
        if self.wake.is_some_and(|known| known <= at) {
            return None;
        }
        self.wake = Some(at);
        Some(at)
    }
}

/// A conversation's end as the line sees it.
fn ended(node: NodeId, error: &SessionError) -> SeatError {
    match error {
        SessionError::Silent(waited) | SessionError::Late { waited, .. } => SeatError::Late {
            node,
            waited: *waited,
        },
        other => SeatError::Lost {
            node,
            why: other.to_string(),
        },
    }
}

/// A node behind a link.
pub(crate) struct Far {
    world: World,
    id: NodeId,
}

impl Far {
    pub(crate) fn new(world: World, id: NodeId) -> Self {
        Self { world, id }
    }
}

impl Host for Far {
    fn node(&self) -> NodeId {
        self.id
    }

    fn open(&self, session: SessionId, spec: &StageSpec, bell: &Bell) -> Result<Box<dyn Seat>, SeatError> {
        let mut core = self.world.core();
        let (node, now) = (self.id, core.now);
        core.opened.push((now, node));
        let (start, end) = (spec.layers.start(), spec.layers.end());
        let asked = format!("{}: layers {start}..{end} are asked for", node.short());
        core.story.tell(now, asked);
        let mut own = Talk::new(node, bell, now);
        own.command(
            now,
            DeskCommand::Open {
                session,
                spec: spec.clone(),
                codecs: EXACT,
            },
        );
        let talk = core.number();
        core.talks.insert(talk, own);
        core.carry_desk(talk);
        let answered = |core: &Core| {
            let own = core.talks.get(&talk);
            own.is_none_or(|own| own.opened || own.error.is_some())
        };
        let patience = OPEN_DEADLINE + Duration::from_secs(1);
        core.run(now + patience, answered);
        let outcome = core
            .talks
            .get_mut(&talk)
            .map(|own| (own.opened, own.error.take()));
        let error = match outcome {
            Some((true, None)) => {
                return Ok(Box::new(FarSeat {
                    world: self.world.clone(),
                    leave: everything(),
                    node,
                    talk,
                    chooses: spec.choose.is_some(),
                    knows_ids: start == 0 || spec.choose.as_ref().is_some_and(SamplingOptions::looks_back),
                    owed: 0,
                    streams: false,
                }));
            }
            Some((_, Some(error))) => error,
            _ => SeatError::Late {
                node,
                waited: patience,
            },
        };
        core.let_go(talk);
        let now = core.now;
        core.story.tell(now, format!("not opened: {error}"));
        Err(error)
    }
}

/// The leave of a world in which everybody may see everything: who may see what is tried elsewhere.
fn everything() -> Clearance {
    let to = Destination {
        kind: Kind::Own,
        name: String::new(),
        id: String::new(),
        region: String::new(),
        retention_days: None,
    };
    let purpose = Purpose {
        to: &to,
        mode: "",
        credits: 0,
    };
    let policies = Policies::new(Privacy::of(Preset::Open), Vec::new());
    Clearance::of(&Label::public(), purpose, &policies).expect("everything may leave")
}

struct FarSeat {
    world: World,
    leave: Clearance,
    node: NodeId,
    talk: u64,
    chooses: bool,
    knows_ids: bool,
    /// Orders handed in whose reply was not collected.
    owed: usize,
    /// Whether the last order was to go on alone.
    streams: bool,
}

impl FarSeat {
    fn command(&self, command: DeskCommand) {
        let mut core = self.world.core();
        let now = core.now;
        if let Some(own) = core.talks.get_mut(&self.talk) {
            own.command(now, command);
        }
        core.carry_desk(self.talk);
    }
}

impl Seat for FarSeat {
    fn node(&self) -> NodeId {
        self.node
    }

    fn submit(&mut self, order: Order) -> Result<(), SeatError> {
        if self.owed >= ORDERS_MAX {
            let why = Refusal::Said(format!("{ORDERS_MAX} orders wait already"));
            return Err(SeatError::Refused { node: self.node, why });
        }
        self.owed += usize::from(matches!(order, Order::Forward(_)));
        self.streams = matches!(order, Order::Generate { .. });
        self.command(DeskCommand::Order(LINE, self.leave.clear_part(order)));
        Ok(())
    }

    fn poll(&mut self) -> Result<Option<Reply>, SeatError> {
        let mut core = self.world.core();
        let Some(own) = core.talks.get_mut(&self.talk) else {
            return Ok(None);
        };
        if let Some(reply) = own.replies.pop_front() {
            self.owed = self.owed.saturating_sub(1);
            return Ok(Some(reply));
        }
        match own.error.take() {
            None => Ok(None),
            Some(error) => {
                let now = core.now;
                core.story.tell(now, error.to_string());
                Err(error)
            }
        }
    }

    fn choose_by(&mut self, options: &SamplingOptions) -> bool {
        // Options that look back need the ids of everything that went in.
        let can = self.chooses && (self.knows_ids || !options.looks_back());
        if can {
            self.command(DeskCommand::Choose(LINE, options.clone()));
        }
        can
    }

    fn traffic(&self) -> Traffic {
        let core = self.world.core();
        core.talks
            .get(&self.talk)
            .map(|own| own.traffic)
            .unwrap_or_default()
    }
}

/// A seat that only leaves says goodbye; work under way is cancelled.
impl Drop for FarSeat {
    fn drop(&mut self) {
        if self.owed == 0 && !self.streams {
            self.command(DeskCommand::Leave);
        }
        self.world.core().let_go(self.talk);
    }
}

/// The desk's own node.
pub(crate) struct Near {
    world: World,
    node: Node,
    speed: Speed,
}

impl Near {
    pub(crate) fn new(world: World, node: Node, speed: Speed) -> Self {
        Self { world, node, speed }
    }
}

impl Host for Near {
    fn node(&self) -> NodeId {
        self.node.id()
    }

    fn open(&self, _session: SessionId, spec: &StageSpec, _bell: &Bell) -> Result<Box<dyn Seat>, SeatError> {
        let stage = self
            .node
            .stage(spec)
            .map_err(|error| refused(self.node.id(), error))?;
        Ok(Box::new(NearSeat {
            world: self.world.clone(),
            node: self.node.id(),
            speed: self.speed.clone(),
            model: spec.model,
            costs: Costs::of(spec),
            stage,
            held: 0,
            passes: VecDeque::new(),
        }))
    }
}

fn refused(node: NodeId, error: StageError) -> SeatError {
    SeatError::Refused {
        node,
        why: Refusal::Stage(error),
    }
}

struct NearSeat {
    world: World,
    node: NodeId,
    speed: Speed,
    model: ModelHash,
    costs: Costs,
    stage: Stage,
    held: usize,
    /// What its orders cost, one for each that is answered; `None` goes on token after token.
    passes: VecDeque<Option<Passed>>,
}

impl Seat for NearSeat {
    fn node(&self) -> NodeId {
        self.node
    }

    fn submit(&mut self, order: Order) -> Result<(), SeatError> {
        let pass = match &order {
            Order::Forward(forward) => Some(Some(Passed {
                first: forward.first.index(),
                rows: scene::rows(&forward.input),
                answers: forward.answers as usize,
            })),
            Order::Generate { .. } => Some(None),
            Order::Rollback(_) => None,
        };
        self.stage
            .take(order)
            .map_err(|error| refused(self.node, error))?;
        self.passes.extend(pass);
        Ok(())
    }

    fn poll(&mut self) -> Result<Option<Reply>, SeatError> {
        // As the stage does: a stream ends where something else is wanted.
        while self.passes.len() > 1 && self.passes.front() == Some(&None) {
            self.passes.pop_front();
        }
        let reply = self.stage.work().map_err(|error| refused(self.node, error))?;
        let Some(pass) = self.passes.front().copied().filter(|_| reply.is_some()) else {
            self.passes.clear();
            return Ok(reply);
        };
        if pass.is_some() || self.stage.is_idle() {
            self.passes.pop_front();
        }
        let passed = pass.unwrap_or(Passed {
            first: self.held,
            rows: 1,
            answers: 1,
        });
        self.held = passed.first + passed.rows;
        let took = {
            let mut core = self.world.core();
            let Core { models, dice, .. } = &mut *core;
            let profile = models.get(&self.model).map(|(_, profile)| profile);
            profile.map(|profile| self.costs.time(passed, profile, &self.speed, dice))
        };
        self.world.spend(took.unwrap_or_default());
        Ok(reply)
    }

    fn choose_by(&mut self, options: &SamplingOptions) -> bool {
        self.stage.choose_anew(options)
    }
}
