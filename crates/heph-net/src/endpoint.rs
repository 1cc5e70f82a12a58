//! This machine's socket: finds peers, connects to them, and is connected to.
//!
//! Both ends of every connection prove that they hold the key of their [`NodeId`]. TLS 1.3 only; nothing needs the
//! internet: without a relay and discovery not one packet goes to a host that the caller did not name. Who may connect
//! is not decided here: the caller asks the [book of peers](crate::trust) about [`Connection::peer`] before it answers.

mod tally;

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use heph_types::NodeId;
use iroh::endpoint::{
    AckFrequencyConfig, ConnectError as Cause, ConnectingError, ConnectionError, IdleTimeout,
    PortmapperConfig, QuicTransportConfig, ReadToEndError, VarInt, WriteError, presets,
};
use iroh::{RelayMap, RelayMode};
use iroh_mdns_address_lookup::MdnsAddressLookup;
use noq_proto::congestion::CubicConfig;

use crate::address::{DIRECT_MAX, NodeAddress, RelayAddress};
use crate::discovery::{self, Discovery};
use crate::identity::Identity;
use crate::throttle::Throttle;
use crate::{key_exchange, relay};
use tally::{Bearer, Tally};
pub use tally::{Passed, SocketTotal};

/// The longest that anybody waits for a peer to answer a first time.
pub const CONNECT_DEADLINE: Duration = Duration::from_secs(10);

/// A peer that says nothing for ten seconds, not even that it is still there, is cut off: the clock starts anew with the
/// first sign of life that is sent after the last that was received, so two seconds are left for that.
const SILENCE_MAX: Duration = Duration::from_secs(8);

/// Four signs of life before a silent peer is cut off.
const SIGN_OF_LIFE_EVERY: Duration = Duration::from_secs(2);

/// Conversations that a peer may hold open at once on one connection.
const STREAMS_MAX: u32 = 64;

/// Unread bytes of one conversation: a prompt chunk of 512 rows of 8,192 numbers in f32.
const STREAM_WINDOW_BYTES: u32 = 16 << 20;

/// Unread bytes of one connection: two such conversations at once.
const CONNECTION_WINDOW_BYTES: u32 = 32 << 20;

/// Bytes that a new connection may have on their way before the first of them is acknowledged: half a prompt chunk of 64
/// rows of 2,048 numbers, or the row of a token sixteen times over. The usual 14 KB would take eight round trips to
/// carry a prompt of 512 tokens, and one of 100 ms costs as much as the work on 16 tokens. They are spread over the first
/// round trip.
const FIRST_WINDOW_BYTES: u64 = 256 << 10;

/// Packets that a peer may take in before it acknowledges them; after 25 ms it does so in any case, and at once where one of
/// the last few is missing. The usual single one has every second token's row acknowledged by a packet of its own, which is written before
/// the row is read.
const UNACKNOWLEDGED_MAX: u32 = 10;

/// Unread datagrams of one connection, in bytes.
const DATAGRAM_WINDOW_BYTES: usize = 1 << 18;

/// What a connection is for. Each has a name and a version on the wire; a peer that does not speak it refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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

/// This machine among its peers. Clones are the same socket.
#[derive(Debug, Clone)]
pub struct Endpoint {
    iroh: iroh::Endpoint,
    relay: Option<RelayAddress>,
    lan: Option<MdnsAddressLookup>,
    throttle: Throttle,
    tally: Tally,
}

/// What keeps a machine from being among its peers.
#[derive(Debug, thiserror::Error)]
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
}

/// What keeps a peer from being reached.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nobody answered.
    #[error("{} did not answer within {deadline:?}; is it on, at this address, with this version of HEPH?", node.short())]
    NoAnswer {
        /// The peer.
        node: NodeId,
        /// How long was waited.
        deadline: Duration,
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
#[derive(Debug, thiserror::Error)]
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
        let EndpointOptions {
            bind,
            relay,
            discovery,
        } = options;
        let socket = |cause: String| BindError::Socket { bind, cause };
        let mut builder = iroh::Endpoint::builder(presets::Minimal)
            .crypto_provider(key_exchange::provider())
            .secret_key(identity.secret().clone())
            .alpns(
                Protocol::ALL
                    .iter()
                    .map(|protocol| protocol.alpn().to_vec())
                    .collect(),
            )
            .transport_config(transport())
            // Where SSLKEYLOGFILE says, and in builds for tests alone: the lab searches what was sent in the clear.
            .keylog(cfg!(debug_assertions))
            .portmapper_config(PortmapperConfig::Disabled)
            .relay_mode(match &relay {
                Some(relay) => RelayMode::Custom(RelayMap::from_iter([relay::as_seen_by_clients(relay)])),
                None => RelayMode::Disabled,
            })
            .clear_ip_transports()
            .bind_addr(bind)
            .map_err(|cause| socket(cause.to_string()))?;
        if let Some(hash) = relay.as_ref().and_then(RelayAddress::certificate) {
            builder = builder.ca_tls_config(relay::only(hash));
        }
        let iroh = builder
            .bind()
            .await
            .map_err(|cause| socket(format!("{cause:#}")))?;
        let lan = discovery::start(&iroh, discovery).map_err(BindError::Discovery)?;
        Ok(Endpoint {
            iroh,
            relay,
            lan,
            throttle: Throttle::default(),
            tally: Tally::default(),
        })
    }

    /// Who this machine is.
    pub fn node(&self) -> NodeId {
        NodeId(*self.iroh.id().as_bytes())
    }

    /// What the conversations of all its connections together keep to.
    pub fn throttle(&self) -> &Throttle {
        &self.throttle
    }

    /// What every connection has sent and received, those that ended since this was asked last among them.
    pub fn passed(&self) -> Vec<Passed> {
        self.tally.passed()
    }

    /// What every open connection has sent and received so far, by its number in [`Endpoint::passed`].
    pub fn passing(&self) -> Vec<(u64, Traffic)> {
        self.tally.passing()
    }

    /// What the socket itself has sent, for connections and for none.
    pub fn total(&self) -> SocketTotal {
        let counted = &self.iroh.metrics().socket;
        SocketTotal {
            sent_bytes: counted.send_ipv4.get() + counted.send_ipv6.get(),
            relayed_bytes: counted.send_relay.get(),
        }
    }

    /// Whether nothing but this machine can be reached from the socket.
    pub fn is_loopback(&self) -> bool {
        let bound = self.iroh.bound_sockets();
        self.relay.is_none() && !bound.is_empty() && bound.iter().all(|socket| socket.ip().is_loopback())
    }

    /// Where it can be reached: every network address that the socket listens at, and its relay.
    pub fn address(&self) -> NodeAddress {
        let seen = self.iroh.addr();
        let mut direct: Vec<SocketAddr> = seen.ip_addrs().copied().collect();
        let bound = self.iroh.bound_sockets().into_iter();
        direct.extend(bound.filter(|socket| !socket.ip().is_unspecified()));
        direct.sort_unstable();
        direct.dedup();
        direct.truncate(DIRECT_MAX);
        let relay = self.relay.clone();
        NodeAddress { direct, relay }
    }

    /// Waits until the relay knows this machine, so that peers can come through it. At once without a relay; `false`
    /// when the deadline passes.
    pub async fn waiting_at_relay(&self, deadline: Duration) -> bool {
        if self.relay.is_none() {
            return true;
        }
        tokio::time::timeout(deadline, self.iroh.online()).await.is_ok()
    }

    /// Connects to `node`, waiting for it no longer than `deadline`, and never longer than [`CONNECT_DEADLINE`].
    pub async fn connect(
        &self,
        node: NodeId,
        address: &NodeAddress,
        protocol: Protocol,
        deadline: Duration,
    ) -> Result<Connection, ConnectError> {
        let deadline = deadline.min(CONNECT_DEADLINE);
        let no_address = ConnectError::NoAddress { node };
        if node == self.node() {
            return Err(ConnectError::Myself { node });
        }
        let Some(address) = address.of(node) else {
            return Err(no_address);
        };
        let nowhere = address.is_empty();
        match tokio::time::timeout(deadline, self.iroh.connect(address, protocol.alpn())).await {
            Ok(Ok(iroh)) => Ok(Connection {
                bearer: self.tally.count(&iroh, protocol),
                iroh,
                protocol,
                throttle: self.throttle.clone(),
            }),
            Ok(Err(cause)) => Err(connect_error(node, protocol, nowhere, cause)),
            Err(_) if nowhere => Err(no_address),
            Err(_) => Err(ConnectError::NoAnswer { node, deadline }),
        }
    }

    /// The next peer that connects; `None` once the endpoint is closed. Finish each in a task of its own, so that one
    /// that dawdles keeps nobody waiting.
    pub async fn accept(&self) -> Option<Arriving> {
        let incoming = self.iroh.accept().await?;
        Some(Arriving {
            incoming,
            throttle: self.throttle.clone(),
            tally: self.tally.clone(),
        })
    }

    /// Says goodbye to every peer and closes the socket, within `deadline`.
    pub async fn close(&self, deadline: Duration) {
        // Those who did not take the goodbye in time notice the silence.
        let _ = tokio::time::timeout(deadline, self.iroh.close()).await;
    }

    pub(crate) fn lan(&self) -> Option<&MdnsAddressLookup> {
        self.lan.as_ref()
    }
}

fn transport() -> QuicTransportConfig {
    let silence = IdleTimeout::try_from(SILENCE_MAX).expect("eight seconds fit the field");
    let mut congestion = CubicConfig::default();
    congestion.initial_window(FIRST_WINDOW_BYTES);
    let mut acks = AckFrequencyConfig::default();
    acks.ack_eliciting_threshold(VarInt::from_u32(UNACKNOWLEDGED_MAX));
    QuicTransportConfig::builder()
        .max_idle_timeout(Some(silence))
        .keep_alive_interval(SIGN_OF_LIFE_EVERY)
        .default_path_keep_alive_interval(SIGN_OF_LIFE_EVERY)
        .max_concurrent_bidi_streams(VarInt::from_u32(STREAMS_MAX))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW_BYTES))
        .congestion_controller_factory(Arc::new(congestion))
        .ack_frequency_config(Some(acks))
        .datagram_receive_buffer_size(Some(DATAGRAM_WINDOW_BYTES))
        .datagram_send_buffer_size(DATAGRAM_WINDOW_BYTES)
        .build()
}

/// TLS alerts arrive as QUIC errors from 0x100 on; 120 is "no application protocol".
const ALPN_REFUSED: u64 = 0x100 + 120;

fn connect_error(node: NodeId, protocol: Protocol, nowhere: bool, cause: Cause) -> ConnectError {
    let said = format!("{cause:#}");
    let connection = match &cause {
        Cause::Connect { .. } if nowhere => return ConnectError::NoAddress { node },
        Cause::Connect { .. } => None,
        Cause::Connecting {
            source: ConnectingError::ConnectionError { source, .. },
            ..
        } => Some(source),
        Cause::Connection { source, .. } => Some(source),
        _ => None,
    };
    match connection {
        Some(ConnectionError::TimedOut) => ConnectError::NoAnswer {
            node,
            deadline: CONNECT_DEADLINE,
        },
        Some(ConnectionError::ConnectionClosed(close)) if u64::from(close.error_code) == ALPN_REFUSED => {
            ConnectError::OtherVersion { node, protocol }
        }
        // Our own side refused what the other showed as its key.
        Some(ConnectionError::TransportError(_)) => ConnectError::Stranger { node, cause: said },
        _ => ConnectError::Failed { node, cause: said },
    }
}

/// A peer that has begun to connect.
pub struct Arriving {
    incoming: iroh::endpoint::Incoming,
    throttle: Throttle,
    tally: Tally,
}

impl Arriving {
    /// Waits for the proof of who it is, no longer than `deadline` and [`CONNECT_DEADLINE`].
    pub async fn finish(self, deadline: Duration) -> Result<Connection, AcceptError> {
        let deadline = deadline.min(CONNECT_DEADLINE);
        let accepted = within(deadline, async {
            let accepting = self.incoming.accept().map_err(|cause| cause.to_string())?;
            accepting.await.map_err(|cause| format!("{cause:#}"))
        });
        let iroh = accepted
            .await
            .ok_or(AcceptError::NoAnswer(deadline))?
            .map_err(AcceptError::Failed)?;
        let protocol = Protocol::of(iroh.alpn());
        let protocol = protocol.ok_or_else(|| AcceptError::Failed("an unknown protocol".to_owned()))?;
        Ok(Connection {
            bearer: self.tally.count(&iroh, protocol),
            iroh,
            protocol,
            throttle: self.throttle,
        })
    }

    /// Sends it away unheard.
    pub fn refuse(self) {
        self.incoming.refuse();
    }
}

async fn within<F: Future>(deadline: Duration, future: F) -> Option<F::Output> {
    tokio::time::timeout(deadline, future).await.ok()
}

/// A way to one peer, both ends proven. Clones are the same connection.
#[derive(Debug, Clone)]
pub struct Connection {
    iroh: iroh::endpoint::Connection,
    protocol: Protocol,
    throttle: Throttle,
    bearer: Bearer,
}

/// Why a connection ended, or was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
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
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes sent in UDP payloads.
    pub sent_bytes: u64,
    /// Bytes received in UDP payloads.
    pub received_bytes: u64,
    /// Packets that had to be sent again.
    pub lost_packets: u64,
}

/// The way that packets take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From socket to socket.
    Direct,
    /// Through the relay, which sees sizes and times and no content.
    Relayed,
}

impl Connection {
    /// Who is at the other end, proven.
    pub fn peer(&self) -> NodeId {
        NodeId(*self.iroh.remote_id().as_bytes())
    }

    /// What the connection is for.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Opens a conversation. The peer learns of it with the first bytes.
    pub async fn open(&self) -> Result<Stream, LinkError> {
        let (send, receive) = self
            .iroh
            .open_bi()
            .await
            .map_err(|cause| self.link_error(&cause))?;
        Ok(self.stream(send, receive))
    }

    /// The next conversation that the peer opens.
    pub async fn accept(&self) -> Result<Stream, LinkError> {
        let (send, receive) = self
            .iroh
            .accept_bi()
            .await
            .map_err(|cause| self.link_error(&cause))?;
        Ok(self.stream(send, receive))
    }

    fn stream(&self, send: iroh::endpoint::SendStream, receive: iroh::endpoint::RecvStream) -> Stream {
        Stream {
            send,
            receive,
            throttle: self.throttle.clone(),
        }
    }

    /// Sends a message that may be lost, of at most [`Connection::datagram_bytes_max`]. `false` if it did not fit or
    /// the connection is gone: a sender of datagrams does not hear of losses either way.
    pub fn send_datagram(&self, bytes: Vec<u8>) -> bool {
        self.iroh.send_datagram(bytes.into()).is_ok()
    }

    /// The longest datagram that the way carries now.
    pub fn datagram_bytes_max(&self) -> usize {
        self.iroh.max_datagram_size().unwrap_or(0)
    }

    /// The next message that may be lost.
    pub async fn datagram(&self) -> Result<Vec<u8>, LinkError> {
        let bytes = self
            .iroh
            .read_datagram()
            .await
            .map_err(|cause| self.link_error(&cause))?;
        Ok(bytes.into())
    }

    /// Time there and back on the way in use, smoothed.
    pub fn round_trip(&self) -> Option<Duration> {
        self.chosen_path(|path| path.rtt())
    }

    /// The way in use; `None` while none is chosen.
    pub fn way(&self) -> Option<Way> {
        self.chosen_path(|path| {
            if path.is_relay() {
                Way::Relayed
            } else {
                Way::Direct
            }
        })
    }

    /// What has passed so far.
    pub fn traffic(&self) -> Traffic {
        Traffic::of(&self.iroh.stats())
    }

    /// In the network log, what passes from now on counts as bearing this label: see [`Passed::labels`].
    pub fn bears(&self, label: &str) {
        self.bearer.bears(label);
    }

    /// Whether it is not known to have ended.
    pub fn is_open(&self) -> bool {
        self.iroh.close_reason().is_none()
    }

    /// Ends the connection and tells the peer why.
    pub fn close(&self, goodbye: Goodbye) {
        self.iroh
            .close(VarInt::from_u32(goodbye.code()), goodbye.words().as_bytes());
    }

    /// Waits for the end, and says why it came.
    pub async fn closed(&self) -> LinkError {
        let cause = self.iroh.closed().await;
        self.link_error(&cause)
    }

    /// Waits for the end no longer than `deadline`, then ends it.
    pub async fn closed_within(&self, deadline: Duration) {
        if within(deadline, self.iroh.closed()).await.is_none() {
            self.close(Goodbye::Done);
        }
    }

    fn chosen_path<T>(&self, of: impl Fn(iroh::endpoint::Path<'_>) -> T) -> Option<T> {
        let paths = self.iroh.paths();
        paths.iter().find(|path| path.is_selected()).map(of)
    }

    fn link_error(&self, cause: &ConnectionError) -> LinkError {
        let node = self.peer();
        match cause {
            ConnectionError::ApplicationClosed(close) => LinkError::Ended {
                node,
                // A peer's words: only what prints, and no more than a line of it.
                reason: String::from_utf8_lossy(&close.reason)
                    .chars()
                    .filter(|c| !c.is_control())
                    .take(80)
                    .collect(),
            },
            ConnectionError::TimedOut | ConnectionError::Reset => LinkError::Silent { node },
            ConnectionError::LocallyClosed => LinkError::ClosedHere { node },
            other => LinkError::Broken {
                node,
                cause: other.to_string(),
            },
        }
    }
}

/// One conversation: ordered bytes both ways.
#[derive(Debug)]
pub struct Stream {
    pub(crate) send: iroh::endpoint::SendStream,
    pub(crate) receive: iroh::endpoint::RecvStream,
    pub(crate) throttle: Throttle,
}

impl Stream {
    /// Writes all of `bytes`; waits while the peer reads slowly.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), StreamError> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let wrote = write_some(&self.throttle, &mut self.send, rest).await;
            let wrote = wrote.map_err(|cause| StreamError::Left(cause.to_string()))?;
            rest = &rest[wrote..];
        }
        Ok(())
    }

    /// The next bytes, as many as there are and fit; `None` at the peer's end.
    pub async fn read_some(&mut self, bytes: &mut [u8]) -> Result<Option<usize>, StreamError> {
        let read = self.receive.read(bytes).await;
        read.map_err(|cause| StreamError::Left(cause.to_string()))
    }

    /// Says that nothing follows.
    pub fn finish(&mut self) {
        // It fails only where the stream is over already.
        let _ = self.send.finish();
    }

    /// Fills `bytes`, or fails where the peer says less.
    pub async fn read(&mut self, bytes: &mut [u8]) -> Result<(), StreamError> {
        self.receive
            .read_exact(bytes)
            .await
            .map_err(|cause| StreamError::Left(cause.to_string()))
    }

    /// Everything until the peer's end, no more than `bytes_max`.
    pub async fn read_all(&mut self, bytes_max: usize) -> Result<Vec<u8>, StreamError> {
        self.receive
            .read_to_end(bytes_max)
            .await
            .map_err(|cause| match cause {
                ReadToEndError::TooLong => StreamError::TooLong { bytes_max },
                ReadToEndError::Read(cause) => StreamError::Left(cause.to_string()),
            })
    }

    /// Waits until the peer has everything, or has gone.
    pub async fn delivered(&mut self) {
        // Gone or not, nothing more can be done about it.
        let _ = self.send.stopped().await;
    }
}

/// Writes as many of `bytes` as the owner's rate and the peer have room for now, and says how many. A write that is given
/// up wrote nothing.
pub(crate) async fn write_some(
    throttle: &Throttle,
    send: &mut iroh::endpoint::SendStream,
    bytes: &[u8],
) -> Result<usize, WriteError> {
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
