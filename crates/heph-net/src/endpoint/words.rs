//! What is said between whoever asks for connections and the guard that owns the socket.
//!
//! Pairs of Unix sockets carry it, which keep the bounds of what is said: each word is a packet of its own, a letter and a line of JSON,
//! and the end of another pair, or the book of machines, may lie beside it. A datagram of a connection is a packet with another letter. One pair is for the endpoint, one
//! for questions about it, one for each connection; a conversation's bytes pass over a pair of their own, as they are.

use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use heph_privacy::Grounds;
use heph_types::NodeId;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, Shutdown, SocketFlags, SocketType,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::net::UnixDatagram;

use super::{
    AcceptError, AtRelay, BindError, ConnectError, Goodbye, LinkError, Passed, Protocol, SocketTotal,
    Traffic, Way,
};
use crate::address::{NodeAddress, RelayAddress};
use crate::discovery::{Discovery, Sighting};

/// Bytes of a word: a label has up to 64 reasons of 96 bytes, and rules have names.
const WORD_BYTES_MAX: usize = 32 << 10;

/// Ends of sockets beside a word.
const ENDS_MAX: usize = 1;

/// The letters before a word and before a datagram.
const WORD: u8 = b'w';
const DATAGRAM: u8 = b'd';

/// Said to a guard about an endpoint.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Ask {
    /// Open the socket at this address, with this key, wait at the relay and look around. The first word of all. An address that is taken is
    /// tried again for as long as `patience` says.
    Bind {
        secret: [u8; 32],
        bind: SocketAddr,
        relay: Option<RelayAddress>,
        discovery: Discovery,
        patience: Duration,
    },
    /// Connect. The end of the connection's pair lies beside it.
    Connect {
        node: NodeId,
        address: NodeAddress,
        protocol: Protocol,
        deadline: Duration,
    },
    /// Take the peer of this number in. The end of the connection's pair lies beside it.
    Finish { number: u64, deadline: Duration },
    /// Send it away.
    Refuse(u64),
    /// Say goodbye to everybody and close the socket.
    Close(Duration),
    /// The book of machines, as it lies there now, is the file beside it; without one it cannot be opened.
    Book,
}

/// Said by a guard about an endpoint.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Tell {
    /// The socket is there, at this port.
    Bound(u16),
    /// It is not.
    NotBound(BindError),
    /// How it stands with the relay now.
    AtRelay(AtRelay),
    /// What is seen on the local network.
    Sighted(Sighting),
    /// A peer has begun to connect.
    Arriving(u64),
    /// The book of machines is another one by now, and is wanted ([`Ask::Book`]).
    Book,
    /// This guard lets nothing pass any more, for this reason; another one may.
    Over(String),
    /// All is closed.
    Closed,
}

/// Asked about an endpoint, by threads that may wait a moment.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Question {
    Account,
    Passing,
    Address,
    Facts(u64),
    /// What a conversation of a connection carried.
    Carried {
        connection: u64,
        conversation: u64,
    },
}

/// A question with its number: an answer that came too late is not taken for another one's.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Numbered<T> {
    pub(super) number: u64,
    pub(super) what: T,
}

/// What a guard answers.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    /// Its connections follow.
    Total(SocketTotal),
    /// Some of them, and whether more follow.
    Passed(Vec<Passed>, More),
    Passing(Vec<(u64, Traffic)>, More),
    Address(NodeAddress),
    Facts(Option<Facts>),
    Carried(Option<Carried>),
}

/// Whether an answer goes on in the next word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum More {
    Follows,
    Nothing,
}

/// What is known of a connection.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(super) struct Facts {
    pub(super) round_trip: Option<Duration>,
    pub(super) way: Option<Way>,
    pub(super) traffic: Traffic,
}

/// What a guard handed on in a conversation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Carried {
    pub(super) up: u64,
    pub(super) down: u64,
    /// Whether nothing more goes up.
    pub(super) is_over: bool,
}

/// Said to a guard about a connection.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Say {
    /// Open a conversation, whose pair's end lies beside it; with the grounds of what it shows, where it shows anything.
    Open {
        conversation: u64,
        grounds: Option<Grounds>,
    },
    /// Here is the pair's end for the conversation that the peer opened.
    Take(u64),
    /// What is said from now on is as private as this.
    Shows(Grounds),
    /// What is still to be sent in this conversation will not come.
    Reset { conversation: u64, code: u32 },
    /// What is still to come in this conversation is not wanted.
    Stop { conversation: u64, code: u32 },
    /// End it.
    Close(Goodbye),
}

/// Said by a guard about a connection.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Hear {
    /// It stands.
    Connected {
        number: u64,
        node: NodeId,
        protocol: Protocol,
        datagram_bytes_max: usize,
    },
    /// There is none.
    NotConnected(ConnectError),
    NotAccepted(AcceptError),
    /// There is none by this guard, which is over; another one may make it.
    Over(String),
    /// The conversation that was asked for is open, or not.
    Opened(u64, Result<(), LinkError>),
    /// The peer opened this one.
    Came(u64),
    /// Whether [`Say::Shows`] was granted.
    Shown(Result<(), LinkError>),
    /// The peer has everything of this conversation, or does not want it, for this reason.
    Sent(u64, Result<(), String>),
    /// The peer has said everything in this conversation, or broke it off.
    Heard(u64, Result<(), String>),
    /// Nothing more will be said about this conversation, which carried so much.
    Done(u64, Carried),
    /// The connection ended.
    Closed(LinkError, Facts),
}

/// A pair of sockets for words, the ends waiting for nobody yet.
pub(super) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let kind = SocketType::SEQPACKET;
    Ok(rustix::net::socketpair(
        AddressFamily::UNIX,
        kind,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

/// One end of a pair for words, in a task. The runtime's type for sockets with packets waits for it; packets are sent and received here.
#[derive(Debug)]
pub(super) struct Channel(UnixDatagram);

/// What came over one.
#[derive(Debug)]
pub(super) enum Heard<T> {
    /// A word, and the end that lay beside it.
    Word(T, Option<OwnedFd>),
    /// A datagram.
    Datagram(Vec<u8>),
    /// Nothing more will come.
    End,
}

impl Channel {
    /// Needs to be called inside the caller's runtime.
    pub(super) fn of(end: OwnedFd) -> io::Result<Channel> {
        rustix::io::ioctl_fionbio(&end, true)?;
        UnixDatagram::from_std(end.into()).map(Channel)
    }

    /// Says a word; waits while the other side is slow.
    pub(super) async fn say(&self, word: &impl Serialize, beside: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let bytes = packed(word)?;
        self.0
            .async_io(Interest::WRITABLE, || send(self.0.as_fd(), &bytes, beside))
            .await
    }

    /// Says a word at once. Where there is no room for it, the other side does not listen any more, and all is over.
    pub(super) fn say_now(&self, word: &impl Serialize) {
        let said = packed(word).and_then(|bytes| send(self.0.as_fd(), &bytes, None));
        if said.is_err() {
            self.hang_up();
        }
    }

    /// Sends a datagram, if there is room for it.
    pub(super) fn send_datagram(&self, bytes: &[u8]) -> bool {
        let bytes = [&[DATAGRAM], bytes].concat();
        bytes.len() <= WORD_BYTES_MAX && send(self.0.as_fd(), &bytes, None).is_ok()
    }

    /// The next thing that is said. A wait that is given up loses nothing.
    pub(super) async fn hear<T: DeserializeOwned>(&self) -> io::Result<Heard<T>> {
        self.0
            .async_io(Interest::READABLE, || receive(self.0.as_fd()))
            .await
    }

    /// Says and hears nothing more.
    pub(super) fn hang_up(&self) {
        // It fails where the other side was first.
        let _ = rustix::net::shutdown(&self.0, Shutdown::Both);
    }
}

/// Says a word on a socket that waits.
pub(super) fn say_waiting(end: &OwnedFd, word: &impl Serialize) -> io::Result<()> {
    send(end.as_fd(), &packed(word)?, None)
}

/// The next word on a socket that waits.
pub(super) fn hear_waiting<T: DeserializeOwned>(end: &OwnedFd) -> io::Result<T> {
    match receive(end.as_fd())? {
        Heard::Word(word, _) => Ok(word),
        Heard::Datagram(_) | Heard::End => Err(ErrorKind::UnexpectedEof.into()),
    }
}

fn packed(word: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![WORD];
    serde_json::to_writer(&mut bytes, word)?;
    match bytes.len() <= WORD_BYTES_MAX {
        true => Ok(bytes),
        false => Err(io::Error::new(
            ErrorKind::InvalidInput,
            "what is said is too long",
        )),
    }
}

fn send(end: BorrowedFd<'_>, bytes: &[u8], beside: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(ENDS_MAX))];
    let mut ends = SendAncillaryBuffer::new(&mut space);
    let given = beside.map(|end| [end]);
    if let Some(given) = &given {
        ends.push(SendAncillaryMessage::ScmRights(given));
    }
    rustix::net::sendmsg(end, &[IoSlice::new(bytes)], &mut ends, SendFlags::NOSIGNAL)?;
    Ok(())
}

fn receive<T: DeserializeOwned>(end: BorrowedFd<'_>) -> io::Result<Heard<T>> {
    let mut bytes = vec![0; WORD_BYTES_MAX];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(ENDS_MAX))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let piece = &mut [IoSliceMut::new(&mut bytes)];
    let came = rustix::net::recvmsg(end, piece, &mut beside, RecvFlags::CMSG_CLOEXEC)?;
    let mut ends = beside.drain().flat_map(|message| match message {
        RecvAncillaryMessage::ScmRights(ends) => ends.collect::<Vec<_>>(),
        _ => Vec::new(),
    });
    let given = ends.next();
    let wrong = || io::Error::from(ErrorKind::InvalidData);
    if came.flags.contains(ReturnFlags::TRUNC) {
        return Err(wrong());
    }
    match bytes.get(..came.bytes).ok_or_else(wrong)?.split_first() {
        None => Ok(Heard::End),
        Some((&DATAGRAM, bytes)) => Ok(Heard::Datagram(bytes.to_vec())),
        Some((&WORD, line)) => Ok(Heard::Word(serde_json::from_slice(line)?, given)),
        Some(_) => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A task's thread.
    fn within<T>(what: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.unwrap().block_on(what)
    }

    #[test]
    fn words_datagrams_and_ends_arrive_as_they_were_said() {
        within(async {
            let (near, far) = pair().unwrap();
            let (near, far) = (Channel::of(near).unwrap(), Channel::of(far).unwrap());
            let (given, kept) = pair().unwrap();
            near.say(&Say::Take(7), Some(given.as_fd())).await.unwrap();
            drop(given);
            assert!(near.send_datagram(b"w{}"));
            let Heard::Word(Say::Take(7), Some(end)) = far.hear::<Say>().await.unwrap() else {
                panic!("a word with an end")
            };
            assert!(matches!(far.hear::<Say>().await.unwrap(), Heard::Datagram(bytes) if bytes == b"w{}"));
            drop(end);
            assert!(hear_waiting::<Tell>(&kept).is_err(), "its last end is closed");
            drop(near);
            assert!(matches!(far.hear::<Say>().await.unwrap(), Heard::End));
        });
    }

    #[test]
    fn what_has_no_meaning_or_no_bound_is_an_error() {
        within(async {
            let (near, far) = pair().unwrap();
            let far = Channel::of(far).unwrap();
            for rubbish in [
                &b"x"[..],
                b"w",
                b"w{\"Take\":",
                b"wnull",
                &[b'w'; WORD_BYTES_MAX + 1],
            ] {
                rustix::net::send(&near, rubbish, SendFlags::NOSIGNAL).unwrap();
                assert!(far.hear::<Say>().await.is_err(), "{}", rubbish.len());
            }
            let long = Say::Take(0);
            assert!(packed(&long).is_ok() && packed(&"x".repeat(WORD_BYTES_MAX)).is_err());
            assert!(!far.send_datagram(&vec![0; WORD_BYTES_MAX]));
        });
    }
}
