//! The order of messages between a desk and a node, without IO: bytes and a time go in, bytes and events come out.
//!
//! [`DeskEnd`] opens sessions, hands orders in as fast as the node's window lets it, and tells the replies; [`NodeEnd`]
//! checks every order against what its session is, hands them out one after another, and sends what becomes of them.
//! Both are [`Machine`](crate::drive::Machine)s: the [driver](crate::drive) carries them over a real stream, a test over
//! anything. `docs/wire.md` says what may follow what. Knows no model: what an order computes is its caller's affair.

mod desk;
mod hop;
mod node;
mod orders;
mod talk;
#[cfg(test)]
mod tests;

use std::time::Duration;

use heph_types::WireCodec;

use crate::codec::CodecError;
use crate::wire::{Farewell, FaultCode, WireError};

pub use desk::{DeskCommand, DeskEnd, DeskEvent};
pub use hop::{GiverCommand, GiverEnd, GiverEvent, TakerCommand, TakerEnd, TakerEvent};
pub use node::{NodeCommand, NodeEnd, NodeEvent, NodeLimits};

/// How long the other end may take to say Hello.
pub const GREETING_DEADLINE: Duration = Duration::from_secs(5);

/// How long a node may take to open a session or refuse it; [`Busy`](crate::wire::Frame::Busy) gives it longer.
pub const OPEN_DEADLINE: Duration = Duration::from_secs(5);

/// How often a desk asks for a sign of life while it waits for anything.
pub const PING_EVERY: Duration = Duration::from_millis(500);

/// A node that says nothing for this long while a desk waits for it is lost: with half a second until the wait is
/// noticed a stopped machine is given up within 3 s. A packet lost twice at a round trip of 300 ms takes 1.8 s.
pub const LOST_AFTER: Duration = Duration::from_millis(2_400);

/// How long a node that lives may take over one order. Whoever gave the order usually loses patience before.
pub const ANSWER_DEADLINE: Duration = Duration::from_secs(120);

/// The longest that a node may ask for by saying that it is busy.
pub const BUSY_MAX: Duration = Duration::from_secs(60);

/// How long what was said last may take to be sent.
pub const GOODBYE_DEADLINE: Duration = Duration::from_secs(3);

/// Sessions of one stream at a time.
pub const LINES_MAX: usize = 8;

/// Orders of one session that may be unanswered: a prompt's pieces on a long line, with room for drafts.
pub const ORDERS_WINDOW: u32 = 64;

/// Bytes of the unanswered orders of one session: a link of 100 Mbit/s and 300 ms holds 4 MiB.
pub const BYTES_WINDOW: u32 = 16 << 20;

/// Orders that wait at the desk's end for room in the node's window.
pub const WAITING_MAX: usize = 64;

/// Messages of fewer bytes say nothing about how fast a way is, and need no fast one: a choice has twelve, a rounded row of 256 numbers
/// some more than this.
pub const MEASURED_LEAST: u64 = 256;

/// Bytes of a message that come in its first packet, at most: when these came nobody knows how long they took.
const PACKET_MOST: usize = 1_500;

/// The shortest time that bytes are said to have kept a way busy: below lies only how soon somebody woke.
pub const BUSY_LEAST: Duration = Duration::from_micros(100);

/// A direction, as the desk sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heading {
    /// From the desk to the node.
    Up,
    /// From the node to the desk.
    Down,
}

/// The number formats of the rows that go into a stage and come out of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Codecs {
    /// From the desk to the node.
    pub up: WireCodec,
    /// From the node to the desk.
    pub down: WireCodec,
}

/// Why a stream of sessions ends, all its sessions with it.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SessionError {
    /// Bytes that are no frames.
    #[error("it broke the protocol: {0}")]
    Wire(#[from] WireError),
    /// Something was said before Hello.
    #[error("it did not say Hello first, but {0}")]
    NoHello(&'static str),
    /// No version of the protocol is spoken by both.
    #[error("it speaks versions {} to {} of the protocol, this machine {} to {}; update the older of the two", theirs.0, theirs.1, ours.0, ours.1)]
    Version {
        /// First and last of this end.
        ours: (u16, u16),
        /// First and last of the other.
        theirs: (u16, u16),
    },
    /// Both compute by different laws: their bits would not fit together.
    #[error(
        "it computes by law {theirs} of arithmetic, this machine by law {ours}; update the older of the two"
    )]
    Law {
        /// This end's.
        ours: u16,
        /// The other's.
        theirs: u16,
    },
    /// A message that may not stand here, or does not fit what it answers.
    #[error("it broke the protocol with {frame}: {why}")]
    Unexpected {
        /// The message.
        frame: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The other end tells why it ends everything.
    #[error("it {code}: {sentence}")]
    Fault {
        /// What kind of end.
        code: FaultCode,
        /// In its words.
        sentence: String,
    },
    /// The other end has left in order.
    #[error("it left: {0}")]
    Left(Farewell),
    /// The other end stopped in the middle.
    #[error("it stopped speaking in the middle")]
    Cut,
    /// Not even a sign of life.
    #[error("it fell silent for {} ms", .0.as_millis())]
    Silent(Duration),
    /// It lives and does not do what it should.
    #[error("it took longer than {} s {what}", waited.as_secs())]
    Late {
        /// For what.
        what: &'static str,
        /// How long this end waited.
        waited: Duration,
    },
    /// This end was asked for what makes no sense.
    #[error("an order that cannot be sent: {0}")]
    Misuse(&'static str),
    /// Rows that cannot travel.
    #[error(transparent)]
    Rows(#[from] CodecError),
}

impl SessionError {
    /// What the other end is told of it; `None` where it said it itself, or cannot hear any more.
    fn fault(&self) -> Option<FaultCode> {
        match self {
            Self::Wire(_) | Self::NoHello(_) | Self::Unexpected { .. } | Self::Rows(_) => {
                Some(FaultCode::Protocol)
            }
            Self::Version { .. } | Self::Law { .. } => Some(FaultCode::Incompatible),
            Self::Late { .. } => Some(FaultCode::Late),
            Self::Misuse(_) => Some(FaultCode::Worker),
            // A way on which nobody is heard is closed at once: what is written then would be counted and never sent.
            Self::Silent(_) => None,
            Self::Fault { .. } | Self::Left(_) | Self::Cut => None,
        }
    }
}
