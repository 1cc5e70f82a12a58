//! This machine's socket: finds peers, connects to them, and is connected to.
//!
//! Both ends of every connection prove that they hold the key of their [`NodeId`]. TLS 1.3 only; nothing needs the
//! internet: without a relay and discovery not one packet goes to a host that the caller did not name. Who may connect
//! is not decided here: the caller asks the [book of peers](crate::trust) about [`Connection::peer`] before it answers.
//!
//! The socket is this process's own ([`Endpoint::bind`]), or that of a guard in another one ([`Endpoint::behind`]), which keeps the very same
//! endpoint for it ([`mirror`]) and asks the policy again before it lets anything be shown. What follows is the same for both.

mod congestion;
#[cfg(target_os = "linux")]
mod guarded;
mod here;
#[cfg(target_os = "linux")]
pub mod mirror;
#[cfg(target_os = "linux")]
mod pipe;
mod tally;
#[cfg(target_os = "linux")]
mod words;

use std::ffi::OsString;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use heph_privacy::Grounds;
use heph_types::NodeId;
use iroh::endpoint::VarInt;
use serde::{Deserialize, Serialize};

use crate::address::{NodeAddress, RelayAddress};
use crate::discovery::{Discovery, Sightings};
use crate::identity::Identity;
use crate::throttle::Throttle;
#[cfg(target_os = "linux")]
pub use guarded::{Guards, Port};
pub use tally::{Account, Passed, SocketTotal};

/// The longest that anybody waits for a peer to answer a first time.
pub const CONNECT_DEADLINE: Duration = Duration::from_secs(10);

/// Where a build for tests writes the keys of connections: the lab searches what was sent in the clear. `None` in any other.
pub fn key_log() -> Option<OsString> {
    std::env::var_os("SSLKEYLOGFILE").filter(|_| cfg!(debug_assertions))
}

/// What a connection is for. Each has a name and a version on the wire; a peer that does not speak it refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Protocol {
    /// Sessions: stages and their orders.
    Session,
    /// Two devices of one person meet for the first time.
    Pair,
    /// Who is there.
    Members,
    /// Pieces of model files.
    Shards,
    /// Rows from one stage's node to the next one's.
    Hop,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Protocol; 5] = [
        Protocol::Session,
        Protocol::Pair,
        Protocol::Members,
        Protocol::Shards,
        Protocol::Hop,
    ];

    /// Its name in the TLS handshake.
    pub fn alpn(self) -> &'static [u8] {
        match self {
            Protocol::Session => b"heph/session/1",
            Protocol::Pair => b"heph/pair/1",
            Protocol::Members => b"heph/members/1",
            Protocol::Shards => b"heph/shards/1",
            Protocol::Hop => b"heph/hop/1",
        }
    }

    fn of(alpn: &[u8]) -> Option<Protocol> {
        Protocol::ALL.into_iter().find(|protocol| protocol.alpn() == alpn)
    }
}

/// How this machine shows itself.
#[derive(Debug, Clone)]
pub struct EndpointOptions {
    /// The socket to open; port 0 for any.
    pub bind: SocketAddr,
    /// The relay to wait at, and to reach others through where no direct way opens.
    pub relay: Option<RelayAddress>,
    /// Whether to look for peers on the local network, and be seen there.
    pub discovery: Discovery,
}

impl EndpointOptions {
    /// Only this machine: for a demonstration, or a test.
    pub fn loopback() -> EndpointOptions {
        EndpointOptions {
            bind: (Ipv4Addr::LOCALHOST, 0).into(),
            relay: None,
            discovery: Discovery::Off,
        }
    }
}

/// Does something with whatever of both it is: the one whose socket is here, or the one behind a guard.
macro_rules! either {
    ($kind:expr, $it:ident => $done:expr) => {
        match $kind {
            Kind::Here($it) => $done,
            #[cfg(target_os = "linux")]
            Kind::Guarded($it) => $done,
            #[cfg(not(target_os = "linux"))]
            Kind::Guarded(none) => match *none {},
        }
    };
}

/// Whose the socket is.
#[derive(Debug, Clone)]
enum Kind<Here, Guarded> {
    Here(Here),
    #[cfg_attr(
        not(target_os = "linux"),
        expect(dead_code, reason = "guards are processes on Linux")
    )]
    Guarded(Guarded),
}

/// What stands for what is behind a guard where there are none.
#[cfg(not(target_os = "linux"))]
mod guarded {
    #[derive(Debug, Clone, Copy)]
    pub(super) enum Endpoint {}
    pub(super) type Arriving = Endpoint;
    pub(super) type Connection = Endpoint;
    pub(super) type SendHalf = Endpoint;
    pub(super) type ReceiveHalf = Endpoint;
    pub(super) type Witness = Endpoint;
}

/// This machine among its peers. Clones are the same socket.
#[derive(Debug, Clone)]
pub struct Endpoint {
    kind: Kind<here::Endpoint, guarded::Endpoint>,
    throttle: Throttle,
}

/// What keeps a machine from being among its peers.
#[derive(Debug, thiserror::Error, Serialize, Deserialize)]
pub enum BindError {
    /// The socket.
    #[error("no socket at {bind}: {cause}")]
    Socket {
        /// The address asked for.
        bind: SocketAddr,
        /// What the library says.
        cause: String,
    },
    /// Discovery on the local network.
    #[error("no discovery on this network: {0}")]
    Discovery(String),
    /// The guard that was to own the socket.
    #[error("the guard of connections is not there: {0}")]
    Guard(String),
}

/// A wait as people say it.
fn waited(deadline: Duration) -> String {
    match deadline.as_millis() {
        millis @ ..1_000 => format!("{millis} ms"),
        millis => format!("{} s", (millis as f64 / 100.0).round() / 10.0),
    }
}

/// What is said of a relay, inside a sentence.
fn clause(relay: &Option<String>) -> String {
    relay
        .as_ref()
        .map_or_else(String::new, |said| format!(", {said}"))
}

/// What keeps a peer from being reached.
#[derive(Debug, thiserror::Error, Serialize, Deserialize)]
pub enum ConnectError {
    /// Nobody answered.
    #[error("{} did not answer within {}{}; is it on, at this address, with this version of HEPH?", node.short(), waited(*deadline), clause(relay))]
    NoAnswer {
        /// The peer.
        node: NodeId,
        /// How long was waited.
        deadline: Duration,
        /// What is said of the relay by which it was asked for, where it was.
        relay: Option<String>,
    },
    /// There is no way to try.
    #[error("no address is known for {}, and it was not found on this network", node.short())]
    NoAddress {
        /// The peer.
        node: NodeId,
    },
    /// Oneself.
    #[error("{} is this machine itself", node.short())]
    Myself {
        /// The peer.
        node: NodeId,
    },
    /// Somebody answered who is not that peer.
    #[error("whoever answers at that address is not {}: {cause}", node.short())]
    Stranger {
        /// The peer that was asked for.
        node: NodeId,
        /// What the library says.
        cause: String,
    },
    /// It answered, and does not speak this version of HEPH.
    #[error("{} does not speak {protocol:?} of this version of HEPH", node.short())]
    OtherVersion {
        /// The peer.
        node: NodeId,
        /// What was asked of it.
        protocol: Protocol,
    },
    /// It answered, and refused, or the connection broke.
    #[error("no connection to {}: {cause}", node.short())]
    Failed {
        /// The peer.
        node: NodeId,
        /// What the library says.
        cause: String,
    },
}

/// What goes wrong with a peer that connects.
#[derive(Debug, thiserror::Error, Serialize, Deserialize)]
pub enum AcceptError {
    /// It began and did not finish.
    #[error("somebody began to connect and did not finish within {0:?}")]
    NoAnswer(Duration),
    /// It could not prove who it is, speaks no protocol of ours, or went away.
    #[error("somebody could not connect: {0}")]
    Failed(String),
}

impl Endpoint {
    /// Opens the socket. Needs to be called inside the caller's runtime, which carries the endpoint from then on.
    pub async fn bind(identity: &Identity, options: EndpointOptions) -> Result<Endpoint, BindError> {
        let here = here::Endpoint::bind(identity, options).await?;
        Ok(Endpoint {
            kind: Kind::Here(here),
            throttle: Throttle::default(),
        })
    }

    /// Has the guard behind `guards` open the socket. One that is gone, or has read what is old by now, ends its connections, and another one
    /// takes its place. Needs to be called inside the caller's runtime.
    #[cfg(target_os = "linux")]
    pub async fn behind(
        guards: Guards,
        identity: &Identity,
        options: EndpointOptions,
    ) -> Result<Endpoint, BindError> {
        let guarded = guarded::Endpoint::bind(guards, identity, options).await?;
        Ok(Endpoint {
            kind: Kind::Guarded(guarded),
            throttle: Throttle::default(),
        })
    }

    /// Who this machine is.
    pub fn node(&self) -> NodeId {
        either!(&self.kind, it => it.node())
    }

    /// What the conversations of all its connections together keep to.
    pub fn throttle(&self) -> &Throttle {
        &self.throttle
    }

    /// What the socket has carried, those connections among them that ended since this was asked last. Whoever asks may have to wait
    /// a moment for a guard; one that does not answer in time is told as it was, without its connections.
    pub fn account(&self) -> Account {
        either!(&self.kind, it => it.account())
    }

    /// What every open connection has sent and received so far, by its number in [`Endpoint::account`].
    pub fn passing(&self) -> Vec<(u64, Traffic)> {
        either!(&self.kind, it => it.passing())
    }

    /// Whether nothing but this machine can be reached from the socket.
    pub fn is_loopback(&self) -> bool {
        either!(&self.kind, it => it.is_loopback())
    }

    /// Where it can be reached: every network address that the socket listens at, and its relay.
    pub fn address(&self) -> NodeAddress {
        either!(&self.kind, it => it.address())
    }

    /// The relay that this machine waits at, and those by which this process itself reached peers: those of a guard end with it.
    pub fn relays(&self) -> Vec<RelayAddress> {
        either!(&self.kind, it => it.relays())
    }

    /// How it stands with the relay that this machine waits at, as was seen last.
    pub fn at_relay(&self) -> AtRelay {
        either!(&self.kind, it => it.at_relay())
    }

    /// Waits until the relay knows this machine, so that peers can come through it. At once without a relay; `false`
    /// when the deadline passes.
    pub async fn waiting_at_relay(&self, deadline: Duration) -> bool {
        either!(&self.kind, it => it.waiting_at_relay(deadline).await)
    }

    /// Connects to `node`, waiting for it no longer than `deadline`, and never longer than [`CONNECT_DEADLINE`]. Where no direct way opens soon,
    /// by the relay that `address` names.
    pub async fn connect(
        &self,
        node: NodeId,
        address: &NodeAddress,
        protocol: Protocol,
        deadline: Duration,
    ) -> Result<Connection, ConnectError> {
        let deadline = deadline.min(CONNECT_DEADLINE);
        let throttle = self.throttle.clone();
        let kind = match &self.kind {
            Kind::Here(here) => Kind::Here(here.connect(node, address, protocol, deadline).await?),
            #[cfg(target_os = "linux")]
            Kind::Guarded(guarded) => {
                Kind::Guarded(guarded.connect(node, address, protocol, deadline).await?)
            }
            #[cfg(not(target_os = "linux"))]
            Kind::Guarded(none) => match *none {},
        };
        Ok(Connection { kind, throttle })
    }

    /// The next peer that connects; `None` once the endpoint is closed. Finish each in a task of its own, so that one
    /// that dawdles keeps nobody waiting.
    pub async fn accept(&self) -> Option<Arriving> {
        let throttle = self.throttle.clone();
        let kind = match &self.kind {
            Kind::Here(here) => Kind::Here(here.accept().await?),
            #[cfg(target_os = "linux")]
            Kind::Guarded(guarded) => Kind::Guarded(guarded.accept().await?),
            #[cfg(not(target_os = "linux"))]
            Kind::Guarded(none) => match *none {},
        };
        Some(Arriving { kind, throttle })
    }

    /// Says goodbye to every peer and closes the socket, within `deadline`.
    pub async fn close(&self, deadline: Duration) {
        either!(&self.kind, it => it.close(deadline).await);
    }

    pub(crate) async fn seen(&self) -> Option<Sightings> {
        either!(&self.kind, it => it.seen().await)
    }
}

/// A peer that has begun to connect.
pub struct Arriving {
    kind: Kind<here::Arriving, guarded::Arriving>,
    throttle: Throttle,
}

impl Arriving {
    /// Waits for the proof of who it is, no longer than `deadline` and [`CONNECT_DEADLINE`].
    pub async fn finish(self, deadline: Duration) -> Result<Connection, AcceptError> {
        let deadline = deadline.min(CONNECT_DEADLINE);
        let throttle = self.throttle;
        let kind = match self.kind {
            Kind::Here(here) => Kind::Here(here.finish(deadline).await?),
            #[cfg(target_os = "linux")]
            Kind::Guarded(guarded) => Kind::Guarded(guarded.finish(deadline).await?),
            #[cfg(not(target_os = "linux"))]
            Kind::Guarded(none) => match none {},
        };
        Ok(Connection { kind, throttle })
    }

    /// Sends it away unheard.
    pub fn refuse(self) {
        match self.kind {
            Kind::Here(here) => here.refuse(),
            // One that nobody finishes is refused there.
            Kind::Guarded(guarded) => drop(guarded),
        }
    }
}

async fn within<F: Future>(deadline: Duration, future: F) -> Option<F::Output> {
    tokio::time::timeout(deadline, future).await.ok()
}

/// A way to one peer, both ends proven. Clones are the same connection.
#[derive(Debug, Clone)]
pub struct Connection {
    kind: Kind<here::Connection, guarded::Connection>,
    throttle: Throttle,
}

/// Why a connection ended, or was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Goodbye {
    /// Nothing more to say.
    Done,
    /// The peer is not in the book, or its role does not allow this.
    NotAllowed,
    /// The peer broke the protocol.
    Broken,
    /// Too many at once.
    Busy,
}

impl Goodbye {
    fn code(self) -> u32 {
        match self {
            Goodbye::Done => 0,
            Goodbye::NotAllowed => 1,
            Goodbye::Broken => 2,
            Goodbye::Busy => 3,
        }
    }

    fn words(self) -> &'static str {
        match self {
            Goodbye::Done => "done",
            Goodbye::NotAllowed => "not allowed",
            Goodbye::Broken => "protocol broken",
            Goodbye::Busy => "busy",
        }
    }
}

/// A conversation, connection or datagram that ended before its time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum LinkError {
    /// The peer refused, with its reason.
    #[error("{} ended the connection: {reason}", node.short())]
    Ended {
        /// The peer.
        node: NodeId,
        /// In its words.
        reason: String,
    },
    /// The peer fell silent.
    #[error("{} fell silent", node.short())]
    Silent {
        /// The peer.
        node: NodeId,
    },
    /// This side closed it.
    #[error("the connection to {} was closed here", node.short())]
    ClosedHere {
        /// The peer.
        node: NodeId,
    },
    /// The guard of connections does not let it.
    #[error("the guard of connections lets nothing pass to {}: {why}", node.short())]
    Barred {
        /// The peer.
        node: NodeId,
        /// Why.
        why: String,
    },
    /// Anything else.
    #[error("the connection to {} broke: {cause}", node.short())]
    Broken {
        /// The peer.
        node: NodeId,
        /// What the library says.
        cause: String,
    },
}

/// What has passed over a connection so far, headers and repeats included: what a packet capture sees of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Bytes sent in UDP payloads.
    pub sent_bytes: u64,
    /// Bytes received in UDP payloads.
    pub received_bytes: u64,
    /// Packets that had to be sent again.
    pub lost_packets: u64,
}

/// How it stands with the relay that a machine waits at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum AtRelay {
    /// None was named, or the first try is under way.
    Unknown,
    /// The relay knows this machine: peers can come through it.
    There,
    /// It does not, for this reason; it is tried again and again.
    Away(String),
}

/// The way that packets take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Way {
    /// From socket to socket.
    Direct,
    /// Through the relay, which sees sizes and times and no content.
    Relayed,
}

impl Connection {
    /// Who is at the other end, proven.
    pub fn peer(&self) -> NodeId {
        either!(&self.kind, it => it.peer())
    }

    /// What the connection is for.
    pub fn protocol(&self) -> Protocol {
        either!(&self.kind, it => it.protocol())
    }

    /// Opens a conversation in which nothing of a request is said. The peer learns of it with the first bytes.
    pub async fn open(&self) -> Result<Stream, LinkError> {
        self.opened(None).await
    }

    /// Opens a conversation that shows what leaves by these grounds. In the network log the connection counts from now on as one that carries
    /// something so private: see [`Passed::labels`].
    ///
    /// # Errors
    /// When the connection ended, or its guard says that the policy does not let it.
    pub async fn open_for(&self, grounds: &Grounds) -> Result<Stream, LinkError> {
        self.opened(Some(grounds)).await
    }

    async fn opened(&self, grounds: Option<&Grounds>) -> Result<Stream, LinkError> {
        either!(&self.kind, it => it.open(grounds).await.map(|halves| self.stream(halves)))
    }

    /// What is said from now on leaves by these grounds, in the network log too. A connection whose guard says no ends.
    ///
    /// # Errors
    /// As [`Connection::open_for`].
    pub async fn shows(&self, grounds: &Grounds) -> Result<(), LinkError> {
        either!(&self.kind, it => it.shows(grounds).await)
    }

    /// The next conversation that the peer opens.
    pub async fn accept(&self) -> Result<Stream, LinkError> {
        either!(&self.kind, it => it.accept().await.map(|halves| self.stream(halves)))
    }

    fn stream(&self, (send, receive): (impl Into<SendHalf>, impl Into<ReceiveHalf>)) -> Stream {
        Stream {
            send: send.into(),
            receive: receive.into(),
            throttle: self.throttle.clone(),
        }
    }

    /// Sends a message that may be lost, of at most [`Connection::datagram_bytes_max`]. `false` if it did not fit or
    /// the connection is gone: a sender of datagrams does not hear of losses either way.
    pub fn send_datagram(&self, bytes: Vec<u8>) -> bool {
        either!(&self.kind, it => it.send_datagram(bytes))
    }

    /// The longest datagram that the way carries now.
    pub fn datagram_bytes_max(&self) -> usize {
        either!(&self.kind, it => it.datagram_bytes_max())
    }

    /// The next message that may be lost.
    pub async fn datagram(&self) -> Result<Vec<u8>, LinkError> {
        either!(&self.kind, it => it.datagram().await)
    }

    /// Time there and back on the way in use, smoothed.
    pub fn round_trip(&self) -> Option<Duration> {
        either!(&self.kind, it => it.round_trip())
    }

    /// The way in use; `None` while none is chosen.
    pub fn way(&self) -> Option<Way> {
        either!(&self.kind, it => it.way())
    }

    /// What has passed so far.
    pub fn traffic(&self) -> Traffic {
        either!(&self.kind, it => it.traffic())
    }

    /// Whether it is not known to have ended.
    pub fn is_open(&self) -> bool {
        either!(&self.kind, it => it.is_open())
    }

    /// Ends the connection and tells the peer why.
    pub fn close(&self, goodbye: Goodbye) {
        either!(&self.kind, it => it.close(goodbye));
    }

    /// Waits for the end, and says why it came.
    pub async fn closed(&self) -> LinkError {
        either!(&self.kind, it => it.closed().await)
    }

    /// Waits for the end no longer than `deadline`, then ends it.
    pub async fn closed_within(&self, deadline: Duration) {
        if within(deadline, self.closed()).await.is_none() {
            self.close(Goodbye::Done);
        }
    }
}

/// The half of a conversation that says something.
#[derive(Debug)]
pub(crate) struct SendHalf(Kind<iroh::endpoint::SendStream, guarded::SendHalf>);

/// The half of a conversation that hears something.
#[derive(Debug)]
pub(crate) struct ReceiveHalf(Kind<iroh::endpoint::RecvStream, guarded::ReceiveHalf>);

impl From<iroh::endpoint::SendStream> for SendHalf {
    fn from(half: iroh::endpoint::SendStream) -> SendHalf {
        SendHalf(Kind::Here(half))
    }
}

impl From<guarded::SendHalf> for SendHalf {
    fn from(half: guarded::SendHalf) -> SendHalf {
        SendHalf(Kind::Guarded(half))
    }
}

impl From<iroh::endpoint::RecvStream> for ReceiveHalf {
    fn from(half: iroh::endpoint::RecvStream) -> ReceiveHalf {
        ReceiveHalf(Kind::Here(half))
    }
}

impl From<guarded::ReceiveHalf> for ReceiveHalf {
    fn from(half: guarded::ReceiveHalf) -> ReceiveHalf {
        ReceiveHalf(Kind::Guarded(half))
    }
}

impl SendHalf {
    /// Writes as many of `bytes` as there is room for, and says how many; an error is why the peer takes none. A write that is given up
    /// wrote nothing.
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> Result<usize, String> {
        match &mut self.0 {
            Kind::Here(here) => here.write(bytes).await.map_err(|cause| cause.to_string()),
            #[cfg(target_os = "linux")]
            Kind::Guarded(guarded) => guarded.write(bytes).await,
            #[cfg(not(target_os = "linux"))]
            Kind::Guarded(none) => match *none {},
        }
    }

    /// Says that nothing follows. `false` where it is over already.
    pub(crate) fn finish(&mut self) -> bool {
        match &mut self.0 {
            Kind::Here(here) => here.finish().is_ok(),
            #[cfg(target_os = "linux")]
            Kind::Guarded(guarded) => guarded.finish(),
            #[cfg(not(target_os = "linux"))]
            Kind::Guarded(none) => match *none {},
        }
    }

    /// Waits until the peer has everything, or wants no more, or has gone.
    pub(crate) async fn stopped(&mut self) {
        match &mut self.0 {
            // Gone or not, nothing more can be done about it.
            Kind::Here(here) => drop(here.stopped().await),
            #[cfg(target_os = "linux")]
            Kind::Guarded(guarded) => guarded.stopped().await,
            #[cfg(not(target_os = "linux"))]
            Kind::Guarded(none) => match *none {},
        }
    }

    /// Tells the peer that the rest will not come.
    pub(crate) fn reset(&mut self, code: VarInt) {
        match &mut self.0 {
            // It fails only where the peer was first.
            Kind::Here(here) => drop(here.reset(code)),
            #[cfg(target_os = "linux")]
            Kind::Guarded(guarded) => guarded.reset(code),
            #[cfg(not(target_os = "linux"))]
            Kind::Guarded(none) => match *none {},
        }
    }
}

impl ReceiveHalf {
    /// The next bytes, as many as there are and fit; `None` at the peer's end.
    pub(crate) async fn read(&mut self, bytes: &mut [u8]) -> Result<Option<usize>, String> {
        match &mut self.0 {
            Kind::Here(here) => here.read(bytes).await.map_err(|cause| cause.to_string()),
            #[cfg(target_os = "linux")]
            Kind::Guarded(guarded) => guarded.read(bytes).await,
            #[cfg(not(target_os = "linux"))]
            Kind::Guarded(none) => match *none {},
        }
    }

    /// Tells the peer that nothing more is wanted.
    pub(crate) fn stop(&mut self, code: VarInt) {
        match &mut self.0 {
            // It fails only where the peer was first.
            Kind::Here(here) => drop(here.stop(code)),
            #[cfg(target_os = "linux")]
            Kind::Guarded(guarded) => guarded.stop(code),
            #[cfg(not(target_os = "linux"))]
            Kind::Guarded(none) => match *none {},
        }
    }
}

/// Counts what a conversation carries beside this process: the guard that owns the socket. Clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct Witness(guarded::Witness);

impl Witness {
    /// Bytes that went up and came down so far, and whether no more go up; `None` where no guard can say. Waits a moment for it.
    pub(crate) fn carried(&self) -> Option<(u64, u64, bool)> {
        #[cfg(target_os = "linux")]
        return self.0.carried();
        #[cfg(not(target_os = "linux"))]
        match self.0 {}
    }
}

/// One conversation: ordered bytes both ways.
#[derive(Debug)]
pub struct Stream {
    pub(crate) send: SendHalf,
    pub(crate) receive: ReceiveHalf,
    pub(crate) throttle: Throttle,
}

/// Bytes that are read at once where all of a conversation is wanted.
const PIECE_BYTES: usize = 4 << 10;

impl Stream {
    /// Who else counts what it carries; `None` where the socket is this process's own.
    pub(crate) fn witness(&self) -> Option<Witness> {
        match &self.send.0 {
            Kind::Here(_) => None,
            #[cfg(target_os = "linux")]
            Kind::Guarded(guarded) => Some(Witness(guarded.witness())),
            #[cfg(not(target_os = "linux"))]
            Kind::Guarded(none) => match *none {},
        }
    }

    /// Writes all of `bytes`; waits while the peer reads slowly.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), StreamError> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let wrote = write_some(&self.throttle, &mut self.send, rest).await;
            let wrote = wrote.map_err(StreamError::Left)?;
            rest = &rest[wrote..];
        }
        Ok(())
    }

    /// The next bytes, as many as there are and fit; `None` at the peer's end.
    pub async fn read_some(&mut self, bytes: &mut [u8]) -> Result<Option<usize>, StreamError> {
        self.receive.read(bytes).await.map_err(StreamError::Left)
    }

    /// Says that nothing follows.
    pub fn finish(&mut self) {
        // Where the conversation is over already, that was said.
        let _ = self.send.finish();
    }

    /// Fills `bytes`, or fails where the peer says less.
    pub async fn read(&mut self, bytes: &mut [u8]) -> Result<(), StreamError> {
        let mut filled = 0;
        while filled < bytes.len() {
            match self.read_some(&mut bytes[filled..]).await? {
                Some(count) => filled += count,
                None => {
                    return Err(StreamError::Left(format!(
                        "it said {filled} bytes and owed {}",
                        bytes.len()
                    )));
                }
            }
        }
        Ok(())
    }

    /// Everything until the peer's end, no more than `bytes_max`.
    pub async fn read_all(&mut self, bytes_max: usize) -> Result<Vec<u8>, StreamError> {
        let (mut all, mut piece) = (Vec::new(), vec![0; PIECE_BYTES]);
        while let Some(count) = self.read_some(&mut piece).await? {
            if count > bytes_max - all.len() {
                return Err(StreamError::TooLong { bytes_max });
            }
            all.extend_from_slice(&piece[..count]);
        }
        Ok(all)
    }

    /// Waits until the peer has everything, or has gone.
    pub async fn delivered(&mut self) {
        self.send.stopped().await;
    }
}

/// Writes as many of `bytes` as the owner's rate and the peer have room for now, and says how many. A write that is given
/// up wrote nothing.
pub(crate) async fn write_some(
    throttle: &Throttle,
    send: &mut SendHalf,
    bytes: &[u8],
) -> Result<usize, String> {
    let room = throttle.room(bytes.len()).await;
    let wrote = send.write(&bytes[..room]).await?;
    throttle.spend(wrote);
    Ok(wrote)
}

/// A conversation that did not come to its end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// The peer went away.
    #[error("the peer left in the middle: {0}")]
    Left(String),
    /// The peer says more than it may.
    #[error("the peer says more than {bytes_max} bytes")]
    TooLong {
        /// What it may.
        bytes_max: usize,
    },
}
