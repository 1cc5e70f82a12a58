//! Frames: what two peers say to each other, byte by byte. `docs/wire.md` is the reference.
//!
//! Called by the sessions and by membership. A frame is read whole or refused with a named error; every length and shape
//! is checked before anything is reserved, and nothing may follow a message in its frame. Each value has one form only,
//! so that what was read is written again with the same bytes. Knows no order of messages: sessions do.

mod bytes;
mod inbox;
mod stage;
#[cfg(test)]
mod tests;

use heph_types::{CachePart, NodeId, SamplingOptionError, SessionId, StageSpec, Ticket};

use crate::codec::{self, CodecError};
use bytes::{Reader, Writer};

pub use inbox::Inbox;
pub use stage::{
    ChoicesFrame, Epoch, Fill, ForwardFrame, GenerateFrame, GuessesFrame, HandFrame, JoinFrame, Line,
    RowsFrame, TakeUntil,
};

/// The versions of the protocol that this code speaks, first and last.
pub const VERSIONS: (u16, u16) = (1, 4);

/// The first version in which caches travel.
pub const CACHES_SINCE: u16 = 2;

/// The first version in which nodes hand rows to each other.
pub const HOPS_SINCE: u16 = 3;

/// The first version in which guesses have a message of their own, and may branch.
pub const GUESSES_SINCE: u16 = 3;

/// The version since which nodes sign what they computed.
pub const VOUCHES_SINCE: u16 = 4;

/// What a stream of frames begins with, so that a stranger is known by its first four bytes.
const MAGIC: [u8; 4] = *b"HEPH";

/// Ids in one frame at most: the longest context in use is sent in two.
pub const TOKENS_MAX: usize = 65_536;

/// Tokens that end an answer, at most; chat formats have up to a dozen.
pub const ENDS_MAX: usize = 256;

/// Entries of a logit bias at most.
pub const BIAS_MAX: usize = 4096;

/// Bytes of a sentence in a fault.
pub const SENTENCE_MAX: usize = 256;

/// Bytes of a capability record.
pub const PROFILE_MAX: usize = 64 * 1024;

/// Bytes of a membership message.
pub const MEMBERSHIP_MAX: usize = 16 * 1024;

/// Bytes of a frame's body: the largest rows in single precision, the ids beside them, and what stands before.
pub const FRAME_MAX: usize = 4 * codec::VALUES_MAX + 5 * TOKENS_MAX + 64;

/// Bytes of an address: eight sockets and a relay.
pub const ADDRESS_MAX: usize = 1 + 8 * 19 + 1 + crate::address::RELAY_TEXT_MAX;

/// Bytes of one part of a cache.
pub const CACHE_PART_MAX: usize = 16 << 20;

/// One message.
#[derive(Debug, Clone, PartialEq)]
pub enum Frame {
    /// Opens every stream, from both sides.
    Hello(Hello),
    /// Ends the stream in order.
    Bye(Farewell),
    /// Asks for a [`Frame::Pong`] with the same stamp.
    Ping(u64),
    /// Answers a [`Frame::Ping`].
    Pong(u64),
    /// The peer lives and will go on with this session in about so many milliseconds.
    Busy {
        /// The session.
        line: Line,
        /// Milliseconds.
        eta_ms: u32,
    },
    /// Something ended: a session, or without a line everything.
    Fault {
        /// The session, or everything.
        line: Option<Line>,
        /// What kind of end.
        code: FaultCode,
        /// One sentence for people.
        sentence: String,
    },
    /// What the sender can do: a record of its own version, read by who knows it.
    Profile {
        /// Version of the record.
        version: u16,
        /// The record.
        record: Vec<u8>,
    },
    /// Asks for a session.
    Open {
        /// The short name that the session has on this stream from now on.
        line: Line,
        /// The desk's name for it.
        session: SessionId,
        /// What the stage is to be.
        spec: StageSpec,
    },
    /// The session is open.
    Opened {
        /// The session.
        line: Line,
        /// Numbers of a row.
        width: u32,
        /// Orders that may be unanswered at a time.
        orders: u32,
        /// Bytes that unanswered orders may hold; one order may always be sent.
        bytes: u32,
    },
    /// The session is not opened.
    Refused {
        /// The session.
        line: Line,
        /// Why.
        reason: Refusal,
    },
    /// The desk wants no more of this session.
    Close(Line),
    /// The node has forgotten this session.
    Closed(Line),
    /// Takes tokens through the stage.
    Forward(ForwardFrame),
    /// Takes tokens through a whole model that are guesses but for the first, and tells which are right.
    Guesses(GuessesFrame),
    /// Forgets everything from a position on, and begins an epoch.
    Rollback {
        /// The session.
        line: Line,
        /// The epoch that begins.
        epoch: Epoch,
        /// The first position that is forgotten.
        to: heph_types::Position,
    },
    /// Lets the stage go on alone.
    Generate(GenerateFrame),
    /// Chooses tokens by other options, from the next order on.
    Choose {
        /// The session.
        line: Line,
        /// The options.
        options: heph_types::SamplingOptions,
    },
    /// Asks for what the stage's caches hold of these positions. Version 2.
    TakeCache {
        /// The session.
        line: Line,
        /// The first position.
        first: heph_types::Position,
        /// The first position that is not asked for.
        to: heph_types::Position,
    },
    /// Gives the stage's caches what another's held. Version 2.
    PutCache {
        /// The session.
        line: Line,
        /// What was held.
        part: CachePart,
    },
    /// Answers a [`Frame::TakeCache`] with as many of the positions as fit. Version 2.
    Cache {
        /// The session.
        line: Line,
        /// What is held.
        part: CachePart,
    },
    /// Answers a [`Frame::PutCache`]: the caches hold all positions before this one now. Version 2.
    CacheHeld {
        /// The session.
        line: Line,
        /// The first position that is not held.
        held: heph_types::Position,
    },
    /// Lets a node hand the rows of a session's next orders over, if it shows this ticket. Version 3.
    Expect {
        /// The session.
        line: Line,
        /// Who will.
        from: NodeId,
        /// What it has to show.
        ticket: Ticket,
    },
    /// Asks for a session's rows to be handed to another node. Version 3.
    Join(JoinFrame),
    /// Answers a [`Frame::Expect`]: the node may come. Version 3.
    Expecting(Line),
    /// Answers a [`Frame::Join`]: rows can be handed on. Version 3.
    Joined {
        /// The session.
        line: Line,
        /// Microseconds to the other node and back.
        round_trip_us: u32,
    },
    /// Rows cannot be handed on, or no longer. Version 3.
    Parted {
        /// The session.
        line: Line,
        /// One sentence for people.
        sentence: String,
    },
    /// So many bytes of a session's rows were handed on so far. Version 3.
    HandedOn {
        /// The session.
        line: Line,
        /// Bytes, frames included.
        bytes: u64,
    },
    /// Asks a node to sign what it computed for a session. Version 4.
    Vouch(Line),
    /// Answers a [`Frame::Vouch`]. Version 4.
    Vouched(VouchedFrame),
    /// What a node that hands rows over shows first. Version 3.
    Present(Ticket),
    /// Answers a [`Frame::Present`]: rows may come. Version 3.
    Welcome,
    /// Rows for the next stage. Version 3.
    Hand(HandFrame),
    /// Answers a [`Frame::Forward`] with hidden states.
    Rows(RowsFrame),
    /// Answers with chosen tokens.
    Choices(ChoicesFrame),
    /// The oldest unanswered order is done, or dropped because a later epoch began; there is nothing to tell.
    Done {
        /// The session.
        line: Line,
        /// The order's epoch.
        epoch: Epoch,
    },
    /// A message of membership: kinds [`MEMBERSHIP`], read by that module.
    Membership {
        /// Which.
        kind: u8,
        /// Its bytes.
        body: Vec<u8>,
    },
}

/// What a node computed for a session, signed by it: which bytes are signed is `heph_privacy::receipt::to_state`'s affair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VouchedFrame {
    /// The session.
    pub line: Line,
    /// The first position that it computed.
    pub first: heph_types::Position,
    /// The first that it did not compute any more.
    pub to: heph_types::Position,
    /// The node's signature (Ed25519).
    pub signature: [u8; 64],
}

/// The kinds that belong to membership.
pub const MEMBERSHIP: std::ops::RangeInclusive<u8> = 0x40..=0x5F;

/// What both sides say first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello {
    /// First and last version of the protocol that the sender speaks.
    pub versions: (u16, u16),
    /// Version of the arithmetic law by which the sender computes (`docs/arithmetic.md`).
    pub law: u16,
    /// What the sender offers.
    pub capabilities: Capabilities,
}

/// A set of offers, one bit each. Bits without a name are offers of later versions and mean nothing here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Capabilities(pub u64);

impl Capabilities {
    /// Opens stages for others.
    pub const SERVES: Capabilities = Capabilities(1);
    /// Tells nodes of each other.
    pub const MEMBERSHIP: Capabilities = Capabilities(2);

    /// Whether all of these are among them.
    pub fn contain(self, others: Capabilities) -> bool {
        self.0 & others.0 == others.0
    }
}

/// Declares an enum whose values are bytes on the wire.
macro_rules! bytes_with_names {
    ($(#[$doc:meta])* $name:ident, $what:literal: $($(#[$each:meta])* $variant:ident = $byte:literal, $words:literal;)+) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$each])* $variant,)+ }

        impl $name {
            /// All of them.
            pub const ALL: &[$name] = &[$($name::$variant),+];

            fn byte(self) -> u8 {
                match self { $($name::$variant => $byte,)+ }
            }

            fn read(byte: u8) -> Result<Self, WireError> {
                match byte {
                    $($byte => Ok($name::$variant),)+
                    value => Err(WireError::Unknown { what: $what, value: value.into() }),
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(match self { $($name::$variant => $words,)+ })
            }
        }
    };
}

bytes_with_names! {
    /// Why a stream ends in order.
    Farewell, "farewell":
    /// Nothing more to ask.
    Finished = 1, "nothing more to do";
    /// The node is leaving the network.
    Leaving = 2, "leaving the network";
    /// Nothing was said for long.
    Idle = 3, "unused for long";
}

bytes_with_names! {
    /// What kind of end a fault tells of.
    FaultCode, "fault code":
    /// The peer broke the protocol.
    Protocol = 1, "broke the protocol";
    /// The layers could not be run.
    Worker = 2, "could not compute";
    /// No memory for more.
    Memory = 3, "has no memory left";
    /// The session was unused for long.
    Idle = 4, "closed an unused session";
    /// The node stops serving: its person works, or it leaves.
    Draining = 5, "stops serving";
    /// The peer did not answer in time.
    Late = 6, "waited too long";
    /// The versions of protocol or arithmetic do not meet.
    Incompatible = 7, "speaks another version";
}

/// Why a session is not opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    /// The node has no model of this hash.
    #[error("the node does not have this model")]
    UnknownModel,
    /// The node has other layers of the model.
    #[error("the node does not hold these layers")]
    LayersNotHeld,
    /// The cache would not fit.
    #[error("the node has no memory for this session")]
    NoMemory,
    /// All sessions are taken.
    #[error("the node serves as many sessions as it can")]
    TooManySessions,
    /// Not now.
    #[error("the node is busy for another {eta_ms} ms")]
    Busy {
        /// Milliseconds until a session may be free.
        eta_ms: u32,
    },
    /// The context is longer than the node allows.
    #[error("the node holds at most {max} positions a session")]
    ContextTooLong {
        /// Positions.
        max: u32,
    },
    /// The cache format is not served.
    #[error("the node does not serve this cache format")]
    KvFormat,
    /// A stage without the last layer was asked to choose.
    #[error("only the stage that holds the last layer can choose tokens")]
    CannotChoose,
    /// The node's person works, or its hours are over.
    #[error("the node is paused")]
    Paused,
    /// The node's rules do not admit this desk.
    #[error("the node does not serve this desk")]
    NotAllowed,
    /// The desk has a session of this name here already.
    #[error("a session of this name is open")]
    AlreadyOpen,
}

/// Bytes that are no frame, or a message that does not fit into one.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum WireError {
    /// The message ends in the middle of a value.
    #[error("a frame ends in the middle of its message")]
    Short,
    /// Bytes behind the message.
    #[error("{0} bytes follow a message in its frame")]
    Trailing(usize),
    /// A length or count above its limit.
    #[error("{got} {what} are more than the {max} that a frame may hold")]
    TooLong {
        /// What is counted.
        what: &'static str,
        /// How many.
        got: usize,
        /// How many there may be.
        max: usize,
    },
    /// A short number that is too large, or written longer than it must be.
    #[error("a number is not in its shortest form")]
    LongNumber,
    /// A byte that names nothing.
    #[error("{value} names no {what}")]
    Unknown {
        /// What it should name.
        what: &'static str,
        /// The byte.
        value: u64,
    },
    /// A stream that does not begin as HEPH's do.
    #[error("the peer does not speak HEPH's protocol")]
    Magic,
    /// A sentence that is no UTF-8.
    #[error("a sentence is no text")]
    Text,
    /// An address that cannot be read, or not in its one form.
    #[error("a node's address cannot be read")]
    Address,
    /// Layers that are no range.
    #[error("the layers are no range")]
    Layers,
    /// Options that no sampling step is defined for.
    #[error(transparent)]
    Options(#[from] SamplingOptionError),
    /// Rows in a shape that cannot be.
    #[error(transparent)]
    Rows(#[from] CodecError),
}

impl Frame {
    /// The message's name, for errors and logs.
    pub fn name(&self) -> &'static str {
        match self {
            Frame::Hello(_) => "Hello",
            Frame::Bye(_) => "Bye",
            Frame::Ping(_) => "Ping",
            Frame::Pong(_) => "Pong",
            Frame::Busy { .. } => "Busy",
            Frame::Fault { .. } => "Fault",
            Frame::Profile { .. } => "Profile",
            Frame::Open { .. } => "Open",
            Frame::Opened { .. } => "Opened",
            Frame::Refused { .. } => "Refused",
            Frame::Close(_) => "Close",
            Frame::Closed(_) => "Closed",
            Frame::Forward(_) => "Forward",
            Frame::Guesses(_) => "Guesses",
            Frame::Rollback { .. } => "Rollback",
            Frame::Generate(_) => "Generate",
            Frame::Choose { .. } => "Choose",
            Frame::TakeCache { .. } => "TakeCache",
            Frame::PutCache { .. } => "PutCache",
            Frame::Cache { .. } => "Cache",
            Frame::CacheHeld { .. } => "CacheHeld",
            Frame::Expect { .. } => "Expect",
            Frame::Join(_) => "Join",
            Frame::Expecting(_) => "Expecting",
            Frame::Joined { .. } => "Joined",
            Frame::Parted { .. } => "Parted",
            Frame::HandedOn { .. } => "HandedOn",
            Frame::Vouch(_) => "Vouch",
            Frame::Vouched(_) => "Vouched",
            Frame::Present(_) => "Present",
            Frame::Welcome => "Welcome",
            Frame::Hand(_) => "Hand",
            Frame::Rows(_) => "Rows",
            Frame::Choices(_) => "Choices",
            Frame::Done { .. } => "Done",
            Frame::Membership { .. } => "Membership",
        }
    }

    /// The whole frame: its length and its body. Fails only on a message that is larger than its limits.
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        let mut body = Writer::default();
        self.write(&mut body)?;
        let mut frame = Writer {
            out: Vec::with_capacity(body.out.len() + 4),
        };
        frame.length("bytes of a frame", body.out.len(), FRAME_MAX)?;
        frame.raw(&body.out);
        Ok(frame.out)
    }

    /// Reads a frame's body: a kind and its message, to the last byte.
    pub fn decode(body: &[u8]) -> Result<Frame, WireError> {
        let mut from = Reader { rest: body };
        let frame = Frame::read(&mut from)?;
        match from.rest.len() {
            0 => Ok(frame),
            more => Err(WireError::Trailing(more)),
        }
    }

    fn write(&self, to: &mut Writer) -> Result<(), WireError> {
        match self {
            Frame::Hello(hello) => {
                to.u8(0x01);
                hello.write(to);
            }
            Frame::Bye(reason) => to.raw(&[0x02, reason.byte()]),
            Frame::Ping(stamp) => {
                to.u8(0x03);
                to.short(*stamp);
            }
            Frame::Pong(stamp) => {
                to.u8(0x04);
                to.short(*stamp);
            }
            Frame::Busy { line, eta_ms } => {
                to.u8(0x05);
                line.write(to);
                to.short(*eta_ms);
            }
            Frame::Fault { line, code, sentence } => {
                to.u8(0x06);
                to.short(line.map_or(0, |line| u64::from(line.0) + 1));
                to.u8(code.byte());
                to.blob("bytes of a sentence", sentence.as_bytes(), SENTENCE_MAX)?;
            }
            Frame::Profile { version, record } => {
                to.u8(0x07);
                to.u16(*version);
                to.blob("bytes of a profile", record, PROFILE_MAX)?;
            }
            Frame::Open { line, session, spec } => {
                to.u8(0x10);
                line.write(to);
                to.u64(session.0);
                stage::write_spec(spec, to)?;
            }
            Frame::Opened {
                line,
                width,
                orders,
                bytes,
            } => {
                to.u8(0x11);
                line.write(to);
                to.short(*width);
                to.short(*orders);
                to.short(*bytes);
            }
            Frame::Refused { line, reason } => {
                to.u8(0x12);
                line.write(to);
                reason.write(to);
            }
            Frame::Close(line) => {
                to.u8(0x13);
                line.write(to);
            }
            Frame::Closed(line) => {
                to.u8(0x14);
                line.write(to);
            }
            Frame::Forward(forward) => {
                to.u8(if forward.pass.is_some() { 0x30 } else { 0x20 });
                forward.write(to)?;
            }
            Frame::Expect { line, from, ticket } => {
                to.u8(0x26);
                line.write(to);
                to.raw(&from.0);
                to.raw(&ticket.0);
            }
            Frame::Join(join) => {
                to.u8(0x27);
                join.write(to)?;
            }
            Frame::Expecting(line) => {
                to.u8(0x2D);
                line.write(to);
            }
            Frame::Joined { line, round_trip_us } => {
                to.u8(0x2E);
                line.write(to);
                to.short(*round_trip_us);
            }
            Frame::Parted { line, sentence } => {
                to.u8(0x2F);
                line.write(to);
                to.blob("bytes of a sentence", sentence.as_bytes(), SENTENCE_MAX)?;
            }
            Frame::HandedOn { line, bytes } => {
                to.u8(0x31);
                line.write(to);
                to.short(*bytes);
            }
            Frame::Vouch(line) => {
                to.u8(0x36);
                line.write(to);
            }
            Frame::Vouched(vouched) => {
                to.u8(0x37);
                vouched.line.write(to);
                to.short(vouched.first.0);
                to.short(vouched.to.0);
                to.raw(&vouched.signature);
            }
            Frame::Present(ticket) => {
                to.u8(0x32);
                to.raw(&ticket.0);
            }
            Frame::Welcome => to.u8(0x33),
            Frame::Hand(hand) => {
                to.u8(0x34);
                hand.write(to)?;
            }
            Frame::Guesses(guesses) => {
                to.u8(0x35);
                guesses.write(to)?;
            }
            Frame::Rollback {
                line,
                epoch,
                to: position,
            } => {
                to.u8(0x21);
                line.write(to);
                epoch.write(to);
                to.short(position.0);
            }
            Frame::Generate(generate) => {
                to.u8(0x22);
                generate.write(to)?;
            }
            Frame::Choose { line, options } => {
                to.u8(0x23);
                line.write(to);
                stage::write_options(options, to)?;
            }
            Frame::TakeCache {
                line,
                first,
                to: position,
            } => {
                to.u8(0x24);
                line.write(to);
                to.short(first.0);
                to.short(position.0);
            }
            Frame::PutCache { line, part } => {
                to.u8(0x25);
                line.write(to);
                stage::write_part(part, to)?;
            }
            Frame::Cache { line, part } => {
                to.u8(0x2B);
                line.write(to);
                stage::write_part(part, to)?;
            }
            Frame::CacheHeld { line, held } => {
                to.u8(0x2C);
                line.write(to);
                to.short(held.0);
            }
            Frame::Rows(rows) => {
                to.u8(0x28);
                rows.write(to)?;
            }
            Frame::Choices(choices) => {
                to.u8(0x29);
                choices.write(to)?;
            }
            Frame::Done { line, epoch } => {
                to.u8(0x2A);
                line.write(to);
                epoch.write(to);
            }
            Frame::Membership { kind, body } => {
                if !MEMBERSHIP.contains(kind) {
                    let value = u64::from(*kind);
                    return Err(WireError::Unknown {
                        what: "membership message",
                        value,
                    });
                }
                to.u8(*kind);
                to.blob("bytes of a membership message", body, MEMBERSHIP_MAX)?;
            }
        }
        Ok(())
    }

    fn read(from: &mut Reader<'_>) -> Result<Frame, WireError> {
        Ok(match from.u8()? {
            0x01 => Frame::Hello(Hello::read(from)?),
            0x02 => Frame::Bye(Farewell::read(from.u8()?)?),
            0x03 => Frame::Ping(from.short64()?),
            0x04 => Frame::Pong(from.short64()?),
            0x05 => Frame::Busy {
                line: Line::read(from)?,
                eta_ms: from.short()?,
            },
            0x06 => {
                let line = match from.short64()? {
                    0 => None,
                    n => Some(Line(u32::try_from(n - 1).map_err(|_| WireError::LongNumber)?)),
                };
                let code = FaultCode::read(from.u8()?)?;
                let sentence = read_sentence(from)?;
                Frame::Fault { line, code, sentence }
            }
            0x07 => Frame::Profile {
                version: from.u16()?,
                record: from.blob("bytes of a profile", PROFILE_MAX)?.to_vec(),
            },
            0x10 => Frame::Open {
                line: Line::read(from)?,
                session: SessionId(from.u64()?),
                spec: stage::read_spec(from)?,
            },
            0x11 => Frame::Opened {
                line: Line::read(from)?,
                width: from.short()?,
                orders: from.short()?,
                bytes: from.short()?,
            },
            0x12 => Frame::Refused {
                line: Line::read(from)?,
                reason: Refusal::read(from)?,
            },
            0x13 => Frame::Close(Line::read(from)?),
            0x14 => Frame::Closed(Line::read(from)?),
            kind @ (0x20 | 0x30) => Frame::Forward(ForwardFrame::read(from, kind == 0x30)?),
            0x26 => Frame::Expect {
                line: Line::read(from)?,
                from: NodeId(from.array()?),
                ticket: Ticket(from.array()?),
            },
            0x27 => Frame::Join(JoinFrame::read(from)?),
            0x2D => Frame::Expecting(Line::read(from)?),
            0x2E => Frame::Joined {
                line: Line::read(from)?,
                round_trip_us: from.short()?,
            },
            0x2F => Frame::Parted {
                line: Line::read(from)?,
                sentence: read_sentence(from)?,
            },
            0x31 => Frame::HandedOn {
                line: Line::read(from)?,
                bytes: from.short64()?,
            },
            0x32 => Frame::Present(Ticket(from.array()?)),
            0x33 => Frame::Welcome,
            0x34 => Frame::Hand(HandFrame::read(from)?),
            0x36 => Frame::Vouch(Line::read(from)?),
            0x37 => Frame::Vouched(VouchedFrame {
                line: Line::read(from)?,
                first: heph_types::Position(from.short()?),
                to: heph_types::Position(from.short()?),
                signature: from.array()?,
            }),
            0x35 => Frame::Guesses(GuessesFrame::read(from)?),
            0x21 => Frame::Rollback {
                line: Line::read(from)?,
                epoch: Epoch::read(from)?,
                to: heph_types::Position(from.short()?),
            },
            0x22 => Frame::Generate(GenerateFrame::read(from)?),
            0x23 => Frame::Choose {
                line: Line::read(from)?,
                options: stage::read_options(from)?,
            },
            0x24 => Frame::TakeCache {
                line: Line::read(from)?,
                first: heph_types::Position(from.short()?),
                to: heph_types::Position(from.short()?),
            },
            0x25 => Frame::PutCache {
                line: Line::read(from)?,
                part: stage::read_part(from)?,
            },
            0x2B => Frame::Cache {
                line: Line::read(from)?,
                part: stage::read_part(from)?,
            },
            0x2C => Frame::CacheHeld {
                line: Line::read(from)?,
                held: heph_types::Position(from.short()?),
            },
            0x28 => Frame::Rows(RowsFrame::read(from)?),
            0x29 => Frame::Choices(ChoicesFrame::read(from)?),
            0x2A => Frame::Done {
                line: Line::read(from)?,
                epoch: Epoch::read(from)?,
            },
            kind if MEMBERSHIP.contains(&kind) => Frame::Membership {
                kind,
                body: from
                    .blob("bytes of a membership message", MEMBERSHIP_MAX)?
                    .to_vec(),
            },
            kind => {
                return Err(WireError::Unknown {
                    what: "message",
                    value: kind.into(),
                });
            }
        })
    }
}

fn read_sentence(from: &mut Reader<'_>) -> Result<String, WireError> {
    let sentence = from.blob("bytes of a sentence", SENTENCE_MAX)?;
    Ok(std::str::from_utf8(sentence)
        .map_err(|_| WireError::Text)?
        .to_owned())
}

impl Hello {
    fn write(&self, to: &mut Writer) {
        to.raw(&MAGIC);
        to.u16(self.versions.0);
        to.u16(self.versions.1);
        to.u16(self.law);
        to.u64(self.capabilities.0);
    }

    fn read(from: &mut Reader<'_>) -> Result<Hello, WireError> {
        if from.array()? != MAGIC {
            return Err(WireError::Magic);
        }
        Ok(Hello {
            versions: (from.u16()?, from.u16()?),
            law: from.u16()?,
            capabilities: Capabilities(from.u64()?),
        })
    }
}

impl Refusal {
    /// One of each, for tests and tables.
    pub const ALL: [Refusal; 11] = [
        Refusal::UnknownModel,
        Refusal::LayersNotHeld,
        Refusal::NoMemory,
        Refusal::TooManySessions,
        Refusal::Busy { eta_ms: 1500 },
        Refusal::ContextTooLong { max: 4096 },
        Refusal::KvFormat,
        Refusal::CannotChoose,
        Refusal::Paused,
        Refusal::NotAllowed,
        Refusal::AlreadyOpen,
    ];

    fn write(self, to: &mut Writer) {
        match self {
            Refusal::UnknownModel => to.u8(1),
            Refusal::LayersNotHeld => to.u8(2),
            Refusal::NoMemory => to.u8(3),
            Refusal::TooManySessions => to.u8(4),
            Refusal::Busy { eta_ms } => {
                to.u8(5);
                to.short(eta_ms);
            }
            Refusal::ContextTooLong { max } => {
                to.u8(6);
                to.short(max);
            }
            Refusal::KvFormat => to.u8(7),
            Refusal::CannotChoose => to.u8(8),
            Refusal::Paused => to.u8(9),
            Refusal::NotAllowed => to.u8(10),
            Refusal::AlreadyOpen => to.u8(11),
        }
    }

    fn read(from: &mut Reader<'_>) -> Result<Refusal, WireError> {
        Ok(match from.u8()? {
            1 => Refusal::UnknownModel,
            2 => Refusal::LayersNotHeld,
            3 => Refusal::NoMemory,
            4 => Refusal::TooManySessions,
            5 => Refusal::Busy {
                eta_ms: from.short()?,
            },
            6 => Refusal::ContextTooLong { max: from.short()? },
            7 => Refusal::KvFormat,
            8 => Refusal::CannotChoose,
            9 => Refusal::Paused,
            10 => Refusal::NotAllowed,
            11 => Refusal::AlreadyOpen,
            value => {
                return Err(WireError::Unknown {
                    what: "refusal",
                    value: value.into(),
                });
            }
        })
    }
}
