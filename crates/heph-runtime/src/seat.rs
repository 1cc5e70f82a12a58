//! An executor seat: where one stage of a model is carried out for one session, in this process or on a peer.
//!
//! A desk hands orders in and collects replies, one for each [`Order::Forward`] in the order they were given, and one
//! for each token of an [`Order::Generate`]. Nothing here waits: a [`Bell`] says when there may be something to collect.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use heph_engine::cache::CacheError;
use heph_engine::sample::RunnerUp;
use heph_engine::worker::ForwardError;
use heph_net::address::NodeAddress;
use heph_privacy::Clearance;
use heph_types::{
    CachePart, LayerRange, NodeId, Order, Position, Reply, SamplingOptions, SessionId, StageSpec, Ticket,
};

use crate::codecs::Allowed;
use crate::node::StageError;

/// Orders that a seat holds at most, carried out or not: prompt chunks on a long line, with room for drafts.
pub const ORDERS_MAX: usize = 64;

/// How long a node whose caches are full is left alone: other answers end, and each token of one takes milliseconds.
const ROOM_AGAIN: Duration = Duration::from_millis(200);

/// A node that says that it will have room sooner than this is asked no sooner: asking costs more than that.
const BUSY_LEAST: Duration = Duration::from_millis(50);

/// Carries out the orders of one stage of one session.
pub trait Seat: Send {
    /// Who carries them out.
    fn node(&self) -> NodeId;

    /// Hands an order in. Never waits: a seat that holds [`ORDERS_MAX`] orders refuses.
    fn submit(&mut self, order: Order) -> Result<(), SeatError>;

    /// The next reply, if there is one.
    fn poll(&mut self) -> Result<Option<Reply>, SeatError>;

    /// Chooses tokens by other options from now on. `false`: it cannot, and has to be opened anew.
    fn choose_by(&mut self, _options: &SamplingOptions) -> bool {
        false
    }

    /// Leaves an order to go on alone: the stage holds the positions before `to` afterwards, and no token of the stream
    /// is told any more. `false`: it cannot, and has to be opened anew.
    fn leave(&mut self, _to: Position) -> bool {
        false
    }

    /// What the stage's caches hold of the positions from `first` on, as many of those before `to` as travel at once.
    /// Waits for it, seconds at most. `None`: the seat cannot tell, or something is under way.
    fn take_cache(&mut self, _first: Position, _to: Position) -> Result<Option<CachePart>, SeatError> {
        Ok(None)
    }

    /// Gives the stage's caches, behind what they hold, what those of a stage with the same layers held. Waits as
    /// [`Seat::take_cache`]. `false`: they do not take it.
    fn put_cache(&mut self, _part: &CachePart) -> Result<bool, SeatError> {
        Ok(false)
    }

    /// Lets the giving node of a hop hand rows over to this seat, which is at its taking node. `false`: it cannot.
    /// [`Seat::takes`] says how that goes on.
    fn expect(&mut self, _hop: &Hop) -> bool {
        false
    }

    /// Lets this seat, which is at the giving node of a hop, hand its rows to the taking node. `false`: it cannot.
    /// [`Seat::hands`] says how that goes on.
    fn join(&mut self, _hop: &Hop) -> bool {
        false
    }

    /// How far it has come with expecting rows of another node.
    fn takes(&mut self) -> HopState {
        HopState::Apart(String::new())
    }

    /// How far it has come with handing its rows to another node.
    fn hands(&mut self) -> HopState {
        HopState::Apart(String::new())
    }

    /// Bytes that its node says it handed to others so far.
    fn handed_bytes(&self) -> u64 {
        0
    }

    /// Has the node sign what it computed, if it does so within this time. Nothing may be under way.
    fn vouch(&mut self, _within: Duration) -> Option<Vouched> {
        None
    }

    /// Whether its passes take what they will from now on. What they take before that says nothing of how fast it is.
    fn is_settled(&self) -> bool {
        true
    }

    /// What is made of the request goes by this leave from now on: the request became more private.
    fn cleared(&mut self, _clearance: &Clearance) {}

    /// The second best choice in place of the last token that the stage chose for a lone row. `None`: nobody can tell.
    fn runner_up(&mut self) -> Option<RunnerUp> {
        None
    }

    /// What went over the network for this seat so far.
    fn traffic(&self) -> Traffic {
        Traffic::default()
    }
}

/// What a node signed of its work for one session: `heph_privacy::receipt::to_state` tells which bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vouched {
    /// The node, whose key signed.
    pub node: NodeId,
    /// The session.
    pub session: SessionId,
    /// The layers.
    pub layers: LayerRange,
    /// The first position that it computed, and the first that it did not compute any more.
    pub tokens: (u32, u32),
    /// The signature (Ed25519).
    pub signature: [u8; 64],
}

/// A way for the rows of one boundary past the desk.
#[derive(Debug, Clone, PartialEq)]
pub struct Hop {
    /// Who hands rows over.
    pub from: NodeId,
    /// Who takes them.
    pub to: NodeId,
    /// What the one shows to the other.
    pub ticket: Ticket,
    /// Where the taking node is.
    pub address: NodeAddress,
}

/// How far a seat has come with one end of a hop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HopState {
    /// It was asked.
    Asked,
    /// It does.
    Joined,
    /// It does not, or no longer: why.
    Apart(String),
}

/// A node that may be given a stage.
pub trait Host: Send + Sync {
    /// Which node it is.
    fn node(&self) -> NodeId;

    /// Opens a session for a stage. `bell` is rung whenever the seat may have something to say. A host answers within a
    /// time of its own, seconds at most.
    fn open(&self, session: SessionId, spec: &StageSpec, bell: &Bell) -> Result<Box<dyn Seat>, SeatError>;

    /// The same host with its rows travelling in any of these formats; `None` where none travel.
    fn carrying(&self, _allowed: &Allowed) -> Option<Arc<dyn Host>> {
        None
    }

    /// The same host with leave to be shown what is made of a request; `None` where nothing leaves this machine for it.
    fn cleared(&self, _clearance: &Clearance) -> Option<Arc<dyn Host>> {
        None
    }

    /// The books of what goes over the network for the sessions that it opens, or tries to; `None` where nothing does.
    fn tally(&self) -> Option<Arc<dyn Tally>> {
        None
    }

    /// Needs no more than these layers from now on: what memory others take may be given back. Stages that are open stay.
    fn let_go(&self, _kept: &[LayerRange]) {}

    /// Where other nodes can hand rows over to it; `None` where none may, or nobody knows.
    fn meeting_place(&self) -> Option<NodeAddress> {
        None
    }

    /// Whether opening waits for somebody far away, so that several are better opened at once.
    fn is_far(&self) -> bool {
        false
    }
}

/// The books of a host, which outlive its seats.
pub trait Tally: Send + Sync + std::fmt::Debug {
    /// What passed so far, as it was counted here.
    fn bytes(&self) -> Traffic;

    /// What passed so far, as counted by whoever owns the socket: the guard of connections, where there is one. May wait a moment.
    fn carried(&self) -> Traffic {
        self.bytes()
    }
}

/// Bytes on the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// From the desk to the node.
    pub up: u64,
    /// From the node to the desk.
    pub down: u64,
}

impl Traffic {
    /// The larger of each.
    pub(crate) fn max(self, other: Self) -> Self {
        Self {
            up: self.up.max(other.up),
            down: self.down.max(other.down),
        }
    }
}

impl std::ops::AddAssign for Traffic {
    fn add_assign(&mut self, other: Self) {
        self.up += other.up;
        self.down += other.down;
    }
}

/// Why a seat cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum SeatError {
    /// The node went away, or the way to it is broken.
    #[error("{} was lost: {why}", node.short())]
    Lost {
        /// The node.
        node: NodeId,
        /// What was seen.
        why: String,
    },
    /// The node will not do it, and says why.
    #[error("{} refused: {why}", node.short())]
    Refused {
        /// The node.
        node: NodeId,
        /// Its reason.
        #[source]
        why: Refusal,
    },
    /// The node took longer than the desk waits.
    #[error("{} did not answer within {} ms", node.short(), waited.as_millis())]
    Late {
        /// The node.
        node: NodeId,
        /// How long the desk waited.
        waited: Duration,
    },
    /// The answer does not fit the question.
    #[error("{} gave a wrong answer: {why}", node.short())]
    Wrong {
        /// The node.
        node: NodeId,
        /// What does not fit.
        why: String,
    },
    /// The node gave the session up because nobody had used it for long. The node itself is well.
    #[error("{} closed a session that was unused for long", node.short())]
    Expired {
        /// The node.
        node: NodeId,
    },
    /// Somebody asked to stop the work.
    #[error("the work was stopped")]
    Stopped,
}

impl SeatError {
    /// What happened to the node, for whoever has said its name: it is not said again.
    pub fn without_name(&self) -> String {
        match self {
            Self::Lost { why, .. } => why.clone(),
            Self::Refused { why, .. } => format!("it refuses: {why}"),
            Self::Late { waited, .. } => format!("it says nothing within {} ms", waited.as_millis()),
            Self::Wrong { why, .. } => format!("it gave a wrong answer: {why}"),
            Self::Expired { .. } | Self::Stopped => self.to_string(),
        }
    }

    /// How long the node asks to be left alone, where it is well and only full.
    pub fn busy_for(&self) -> Option<Duration> {
        match self {
            _ if self.is_short_of_room() => Some(ROOM_AGAIN),
            Self::Refused {
                why: Refusal::Peer(heph_net::wire::Refusal::Busy { eta_ms }),
                ..
            } => {
                Some(Duration::from_millis(u64::from(*eta_ms)).clamp(BUSY_LEAST, heph_net::session::BUSY_MAX))
            }
            _ => None,
        }
    }

    /// Whether a stage found no room for its cache in the middle of its work: answers beside it take that, and give it back.
    pub fn is_short_of_room(&self) -> bool {
        let Self::Refused { why, .. } = self else {
            return false;
        };
        matches!(
            why,
            Refusal::Room(_)
                | Refusal::Stage(
                    StageError::Cache(CacheError::Full { .. })
                        | StageError::Forward(ForwardError::Cache(CacheError::Full { .. }))
                )
        )
    }
}

/// A node's reason for not carrying an order out.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// A stage of this process failed.
    #[error(transparent)]
    Stage(#[from] StageError),
    /// A peer does not open a session.
    #[error(transparent)]
    Peer(#[from] heph_net::wire::Refusal),
    /// A peer has no room for the cache of a session that it opened.
    #[error("{0}")]
    Room(String),
    /// A peer's sentence.
    #[error("{0}")]
    Said(String),
}

/// Tells a desk that one of its seats may have something to say.
#[derive(Debug, Clone, Default)]
pub struct Bell(Arc<(Mutex<u64>, Condvar)>);

impl Bell {
    /// A bell nobody has rung yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Wakes the desk, or keeps it from falling asleep.
    pub fn ring(&self) {
        let (rings, waiting) = &*self.0;
        *rings.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        waiting.notify_all();
    }

    /// How often it was rung so far: taken before looking at the seats, it tells [`Bell::wait`] what was seen.
    pub fn rings(&self) -> u64 {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until it is rung more often than `seen`, at most until `deadline`.
    pub fn wait(&self, seen: u64, deadline: Instant) {
        let (rings, waiting) = &*self.0;
        let held = rings.lock().unwrap_or_else(PoisonError::into_inner);
        let left = deadline.saturating_duration_since(Instant::now());
        // Who was woken looks at its seats again, whatever woke it.
        let _ = waiting.wait_timeout_while(held, left, |rings| *rings <= seen);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bell_rung_before_the_wait_is_heard() {
        let bell = Bell::new();
        let seen = bell.rings();
        bell.clone().ring();
        let began = Instant::now();
        bell.wait(seen, began + Duration::from_secs(60));
        assert!(began.elapsed() < Duration::from_secs(30));
    }
}
