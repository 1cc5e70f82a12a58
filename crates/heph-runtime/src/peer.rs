//! A peer as a host: its stages are seats like any other, over a session of its own on one connection.
//!
//! The connection is made when the first seat is opened, kept, and made anew when it broke. Each seat is one stream: a
//! seat that is dropped while work is under way cancels it, whatever the others do. Every wait ends: see
//! `heph_net::session`.

mod link;
mod seat;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use heph_net::address::NodeAddress;
use heph_net::endpoint::{Traffic as Packets, Way};
use heph_net::session::{Codecs, SessionError};
use heph_privacy::Clearance;
use heph_types::{NodeId, NodeProfile, SessionId, StageSpec};

use crate::codecs::Allowed;
use crate::network::Network;
use crate::seat::{Bell, Host, Refusal, Seat, SeatError, Tally};
use link::Link;
use seat::{Leave, Talks};
pub(crate) use seat::{PROFILE_VERSION, greets};

/// How long the first connection to a peer may take: a desk has others to ask.
pub const CONNECT_DEADLINE: Duration = Duration::from_secs(3);

/// How long a new connection may take to a peer that was silent on the one before: the round trip of a handshake at
/// 300 ms, and a packet sent again after a second. Whoever needs longer is dead, and the next host is waited for already.
const AGAIN_DEADLINE: Duration = Duration::from_millis(1_300);

/// A node that lends stages to this desk. Clones share its connection.
#[derive(Clone)]
pub struct Peer {
    link: Arc<Link>,
    formats: Formats,
    /// The leave to show it something; without one it is shown nothing.
    clearance: Option<Clearance>,
    /// Conversations in which a session was asked for by that leave and not opened.
    talks: Talks,
}

/// How rows travel.
#[derive(Clone)]
enum Formats {
    /// As the way carries best, among these.
    Any(Arc<Allowed>),
    /// As somebody said.
    These(Codecs),
}

/// What a peer says of itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Probe {
    /// What it can do; `None` where it does not say, or says it in a version that is not known here.
    pub profile: Option<NodeProfile>,
    /// Time there and back.
    pub round_trip: Option<Duration>,
    /// Whether packets go through the relay.
    pub way: Option<Way>,
}

impl Peer {
    /// The peer `node`, wherever the network knows it to be. Nothing is sent yet. Rows travel without loss.
    pub fn new(network: &Network, node: NodeId) -> Peer {
        Peer {
            link: Arc::new(Link::new(network.clone(), node)),
            formats: Formats::Any(Arc::new(Allowed::exact())),
            clearance: None,
            talks: Talks::default(),
        }
    }

    /// The same peer, with rows in these formats whatever the way carries: for measurements. Those of the boundary before
    /// its stage and of the one behind.
    pub fn with_codecs(&self, codecs: Codecs) -> Peer {
        self.with_formats(Formats::These(codecs))
    }

    fn with_formats(&self, formats: Formats) -> Peer {
        Peer {
            link: Arc::clone(&self.link),
            formats,
            clearance: self.clearance.clone(),
            talks: Talks::default(),
        }
    }

    /// The same peer with leave to be shown what `clearance` covers.
    pub fn with_clearance(&self, clearance: Clearance) -> Peer {
        Peer {
            clearance: Some(clearance),
            talks: Talks::default(),
            ..self.clone()
        }
    }

    /// Asks the peer what it is, within `deadline`.
    ///
    /// # Errors
    /// When it cannot be reached, or speaks another version.
    pub fn probe(&self, deadline: Duration) -> Result<Probe, SeatError> {
        seat::probe(&self.link, deadline)
    }

    /// Time there and back, as the last signs of life took; `None` while nothing is known.
    pub fn round_trip(&self) -> Option<Duration> {
        self.link.round_trip()
    }

    /// Bytes a second to it and from it, as its rows took; `None` while nothing long enough has passed.
    pub fn goodput(&self) -> Option<(f64, f64)> {
        self.link.goodput()
    }

    /// What passed over its connection, headers and repeats included: what a packet capture sees. Connections that
    /// broke are counted, too.
    pub fn packets(&self) -> Packets {
        self.link.packets()
    }
}

impl Host for Peer {
    fn node(&self) -> NodeId {
        self.link.node()
    }

    fn open(&self, session: SessionId, spec: &StageSpec, bell: &Bell) -> Result<Box<dyn Seat>, SeatError> {
        let clearance = self.clearance.as_ref().ok_or_else(|| SeatError::Refused {
            node: self.node(),
            why: Refusal::Said("nothing was cleared for it".to_owned()),
        })?;
        let leave = Leave {
            clearance,
            talks: &self.talks,
        };
        seat::open(&self.link, session, spec, &self.formats, leave, bell)
    }

    fn tally(&self) -> Option<Arc<dyn Tally>> {
        Some(Arc::new(self.talks.clone()))
    }

    fn cleared(&self, clearance: &Clearance) -> Option<Arc<dyn Host>> {
        Some(Arc::new(self.with_clearance(clearance.clone())))
    }

    fn carrying(&self, allowed: &Allowed) -> Option<Arc<dyn Host>> {
        let formats = Formats::Any(Arc::new(allowed.clone()));
        Some(Arc::new(self.with_formats(formats)))
    }

    fn meeting_place(&self) -> Option<NodeAddress> {
        Some(self.link.network().address_of(self.link.node()))
    }

    fn is_far(&self) -> bool {
        true
    }
}

/// The version of the arithmetic law as Hello carries it.
pub(crate) fn law() -> u16 {
    u16::try_from(heph_kernels::ARITHMETIC_VERSION).expect("a version is a small number")
}

/// A stream's end as the line sees it.
fn ended(node: NodeId, error: &SessionError) -> SeatError {
    match error {
        SessionError::Silent(waited) | SessionError::Late { waited, .. } => SeatError::Late {
            node,
            waited: *waited,
        },
        SessionError::Wire(_)
        | SessionError::NoHello(_)
        | SessionError::Unexpected { .. }
        | SessionError::Rows(_) => SeatError::Wrong {
            node,
            why: error.to_string(),
        },
        SessionError::Version { .. }
        | SessionError::Law { .. }
        | SessionError::Fault { .. }
        | SessionError::Left(_)
        | SessionError::Cut
        | SessionError::Misuse(_) => SeatError::Lost {
            node,
            why: error.to_string(),
        },
    }
}

/// What a lock guards; a thread that panicked with it left it whole.
fn held<T>(lock: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
