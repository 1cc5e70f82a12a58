//! An endpoint whose socket this process owns.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use heph_privacy::Grounds;
use heph_types::NodeId;
use iroh::endpoint::{
    AckFrequencyConfig, ConnectError as Cause, ConnectingError, ConnectionError, IdleTimeout,
    NetReportConfig, PortmapperConfig, QuicTransportConfig, RecvStream, RelayStatus, SendStream, VarInt,
    presets,
};
use iroh::{RelayMap, RelayMode, TransportAddr, Watcher};
use iroh_mdns_address_lookup::MdnsAddressLookup;

use super::congestion::Bursts;
use super::tally::{Bearer, Tally, is_loopback};
use super::{
    AcceptError, Account, AtRelay, BindError, CONNECT_DEADLINE, ConnectError, EndpointOptions, Goodbye,
    LinkError, Protocol, SocketTotal, Traffic, Way, key_log, within,
};
use crate::address::{DIRECT_MAX, NodeAddress, RelayAddress};
use crate::discovery::{self, Discovery, Sightings};
use crate::identity::Identity;
use crate::key_exchange;
use crate::relay::{self, NoRoom, Trusted, Use};

/// A peer that says nothing for ten seconds, not even that it is still there, is cut off: the clock starts anew with the
/// first sign of life that is sent after the last that was received, so two seconds are left for that.
const SILENCE_MAX: Duration = Duration::from_secs(8);

/// Four signs of life before a silent peer is cut off.
const SIGN_OF_LIFE_EVERY: Duration = Duration::from_secs(2);

/// Conversations that a peer may hold open at once on one connection.
const STREAMS_MAX: u32 = 64;

/// Unread bytes of one conversation: at 100 ms there and back it carries 20 MB a second. The library ends a connection of which one stream
/// has more than 2,048 pieces unread, and a full packet is a piece, also where none is missing before it: of the smallest full packets
/// (some 1,150 bytes of a stream) that is 2.3 MB.
const STREAM_WINDOW_BYTES: u32 = 2 << 20;

/// Unread bytes of one connection: sixteen such conversations at once.
const CONNECTION_WINDOW_BYTES: u32 = 32 << 20;

/// Bytes that a new connection may have on their way before the first of them is acknowledged: half a prompt chunk of 64
/// rows of 2,048 numbers, or the row of a token sixteen times over. The usual 14 KB would take eight round trips to
/// carry a prompt of 512 tokens, and one of 100 ms costs as much as the work on 16 tokens. They are spread over half
/// of the first round trip.
const FIRST_WINDOW_BYTES: u64 = 256 << 10;

/// Packets that a peer may take in before it acknowledges them; after 25 ms it does so in any case, and at once where one of
/// the last few is missing. The usual single one has every second token's row acknowledged by a packet of its own, which is written before
/// the row is read.
const UNACKNOWLEDGED_MAX: u32 = 10;

/// How long a direct way to a peer may take to open before the relay that it waits at is asked for, which learns by that who speaks to whom: two
/// round trips of 300 ms, and some.
const DIRECTLY_WITHIN: Duration = Duration::from_millis(800);

/// How long a way over a relay may take to open before it is tried anew: over a connection to the relay that was just made the library now and then
/// gets no answer to a first packet, nor to its repeats.
const RELAYED_WITHIN: Duration = Duration::from_secs(3);

/// How long the goodbye to the peers may take at the least,
const GOODBYE_LEAST: Duration = Duration::from_millis(100);

/// and how many round trips of the farthest peer that is there: it waits for repeats three times as long as one takes, and some.
const GOODBYE_ROUND_TRIPS: u32 = 6;

/// Unread datagrams of one connection, in bytes.
const DATAGRAM_WINDOW_BYTES: usize = 1 << 18;

/// This machine among its peers. Clones are the same socket.
#[derive(Debug, Clone)]
pub(super) struct Endpoint {
    iroh: iroh::Endpoint,
    /// Where it waits.
    relay: Option<RelayAddress>,
    /// That one, and those by which peers are reached.
    relays: Trusted,
    /// It stays known.
    _waits: Option<Arc<Use>>,
    lan: Option<MdnsAddressLookup>,
    tally: Tally,
}

impl Endpoint {
    /// Opens the socket. Needs to be called inside the caller's runtime.
    pub(super) async fn bind(identity: &Identity, options: EndpointOptions) -> Result<Endpoint, BindError> {
        let EndpointOptions {
            bind,
            relay,
            discovery,
        } = options;
        let socket = |cause: String| BindError::Socket { bind, cause };
        let relays = Trusted::default();
        let waits = relay.as_ref().and_then(|relay| relays.add(relay).ok());
        let waits = waits.map(|(used, _)| Arc::new(used));
        let builder = iroh::Endpoint::builder(presets::Minimal)
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
            .keylog(key_log().is_some())
            .portmapper_config(PortmapperConfig::Disabled)
            .net_report_config(net_report())
            // It may have none now, and be given some later.
            .relay_mode(RelayMode::Custom(RelayMap::from_iter(
                relay.iter().map(relay::as_seen_by_clients),
            )))
            .ca_tls_config(relays.config())
            .clear_ip_transports()
            .bind_addr(bind)
            .map_err(|cause| socket(cause.to_string()))?;
        let iroh = builder
            .bind()
            .await
            .map_err(|cause| socket(format!("{cause:#}")))?;
        let tally = Tally::default();
        // Both lead to other machines by themselves.
        if relay.is_some() || discovery != Discovery::Off {
            tally.goes_abroad();
        }
        let lan = discovery::start(&iroh, discovery).map_err(BindError::Discovery)?;
        Ok(Endpoint {
            iroh,
            relay,
            relays,
            _waits: waits,
            lan,
            tally,
        })
    }

    pub(super) fn node(&self) -> NodeId {
        NodeId(*self.iroh.id().as_bytes())
    }

    /// Its connections, also once it is gone.
    pub(super) fn tally(&self) -> Tally {
        self.tally.clone()
    }

    pub(super) fn account(&self) -> Account {
        let total = self.total();
        let connections = self.tally.passed();
        Account { total, connections }
    }

    pub(super) fn passing(&self) -> Vec<(u64, Traffic)> {
        self.tally.passing()
    }

    pub(super) fn total(&self) -> SocketTotal {
        let counted = &self.iroh.metrics().socket;
        SocketTotal {
            sent_bytes: counted.send_ipv4.get() + counted.send_ipv6.get(),
            relayed_bytes: counted.send_relay.get(),
            is_abroad: self.tally.is_abroad(),
        }
    }

    pub(super) fn is_loopback(&self) -> bool {
        let bound = self.iroh.bound_sockets();
        self.relays.all().is_empty()
            && !bound.is_empty()
            && bound.iter().all(|socket| socket.ip().is_loopback())
    }

    pub(super) fn address(&self) -> NodeAddress {
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

    pub(super) fn relays(&self) -> Vec<RelayAddress> {
        self.relays.all()
    }

    pub(super) fn at_relay(&self) -> AtRelay {
        self.standing(&self.iroh.home_relay_status().get())
    }

    /// How it stands with the relay, once that is something else than it was.
    pub(super) async fn at_relay_after(&self, before: &AtRelay) -> AtRelay {
        let mut seen = self.iroh.home_relay_status();
        let mut all = seen.get();
        loop {
            let now = self.standing(&all);
            if now != *before {
                return now;
            }
            all = match seen.updated().await {
                Ok(all) => all,
                // The endpoint is gone.
                Err(_) => std::future::pending().await,
            };
        }
    }

    fn standing(&self, all: &[RelayStatus]) -> AtRelay {
        let own = self.relay.as_ref().map(|relay| &relay.url);
        let status = all.iter().find(|status| own == Some(status.url()));
        match status {
            Some(status) if status.is_connected() => AtRelay::There,
            Some(status) => why_away(status).map_or(AtRelay::Unknown, AtRelay::Away),
            None => AtRelay::Unknown,
        }
    }

    pub(super) async fn waiting_at_relay(&self, deadline: Duration) -> bool {
        self.relay.is_none() || within(deadline, self.iroh.online()).await.is_some()
    }

    pub(super) async fn connect(
        &self,
        node: NodeId,
        address: &NodeAddress,
        protocol: Protocol,
        deadline: Duration,
    ) -> Result<Connection, ConnectError> {
        if node == self.node() {
            return Err(ConnectError::Myself { node });
        }
        let until = Instant::now() + deadline;
        let direct = NodeAddress {
            direct: address.direct.clone(),
            relay: None,
        };
        self.leave(self.relays.tired()).await;
        let Some(relay) = &address.relay else {
            return self.connect_by(node, &direct, protocol, deadline).await;
        };
        // A way that was found earlier may lead over it.
        let known = self.relays.uses(relay);
        if !direct.direct.is_empty() {
            let soon = deadline.min(DIRECTLY_WITHIN);
            match self.connect_by(node, &direct, protocol, soon).await {
                Err(ConnectError::NoAnswer { .. } | ConnectError::NoAddress { .. }) => {}
                settled => return settled.map(|connection| connection.over(known)),
            }
        }
        let used = match known {
            Some(known) => Ok(known),
            None => self.joins(relay).await,
        };
        let used = match used {
            Ok(used) => used,
            Err(why) => {
                let left = until.saturating_duration_since(Instant::now());
                let connected = self.connect_by(node, &direct, protocol, left).await;
                return connected.map_err(|error| no_room(error, why));
            }
        };
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let tried = left.min(RELAYED_WITHIN);
            match self.connect_by(node, address, protocol, tried).await {
                Err(ConnectError::NoAnswer { .. }) if tried < left => {}
                Err(ConnectError::NoAnswer { node, .. }) => {
                    let relay = Some(self.silent(relay));
                    return Err(ConnectError::NoAnswer {
                        node,
                        deadline,
                        relay,
                    });
                }
                settled => return settled.map(|connection| connection.over(Some(used))),
            }
        }
    }

    /// What is to be said of the relay by which nobody answered.
    fn silent(&self, relay: &RelayAddress) -> String {
        let all = self.iroh.home_relay_status().get();
        let status = all.iter().find(|status| *status.url() == relay.url);
        match status.map(why_away) {
            Some(Some(why)) => format!("and its relay {} is away ({why})", relay.place()),
            Some(None) | None => relay.in_vain(),
        }
    }

    /// Uses a relay that was not known.
    async fn joins(&self, relay: &RelayAddress) -> Result<Use, NoRoom> {
        let (used, gone) = self.relays.add(relay)?;
        self.leave(gone).await;
        self.insert(relay).await;
        Ok(used)
    }

    async fn insert(&self, relay: &RelayAddress) {
        let config = relay::as_seen_by_clients(relay);
        self.iroh.insert_relay(relay.url.clone(), Arc::new(config)).await;
    }

    /// Leaves relays that nobody uses. The last one the library does not leave: it is not believed any more.
    async fn leave(&self, relays: Vec<RelayAddress>) {
        for relay in relays {
            self.iroh.remove_relay(&relay.url).await;
            // Somebody may have come for it meanwhile.
            if self.relays.all().contains(&relay) {
                self.insert(&relay).await;
            }
        }
    }

    async fn connect_by(
        &self,
        node: NodeId,
        address: &NodeAddress,
        protocol: Protocol,
        deadline: Duration,
    ) -> Result<Connection, ConnectError> {
        let no_address = ConnectError::NoAddress { node };
        let Some(address) = address.of(node) else {
            return Err(no_address);
        };
        let nowhere = address.is_empty();
        if !address.addrs.iter().all(is_here) {
            self.tally.goes_abroad();
        }
        match within(deadline, self.iroh.connect(address, protocol.alpn())).await {
            Some(Ok(iroh)) => Ok(Connection {
                bearer: self.tally.count(&iroh, protocol),
                iroh,
                protocol,
                _relay: None,
            }),
            Some(Err(cause)) => Err(connect_error(node, protocol, nowhere, cause)),
            None if nowhere => Err(no_address),
            None => Err(ConnectError::NoAnswer {
                node,
                deadline,
                relay: None,
            }),
        }
    }

    pub(super) async fn accept(&self) -> Option<Arriving> {
        let incoming = self.iroh.accept().await?;
        if !is_here(&incoming.remote_addr().into()) {
            self.tally.goes_abroad();
        }
        Some(Arriving {
            incoming,
            tally: self.tally.clone(),
        })
    }

    pub(super) async fn close(&self, deadline: Duration) {
        let heard = GOODBYE_LEAST + GOODBYE_ROUND_TRIPS * self.tally.round_trip_max();
        // Those who did not take the goodbye in time notice the silence; those who never answered are not waited for.
        let _ = within(deadline.min(heard), self.iroh.close()).await;
    }

    /// What is seen on the local network from now on.
    pub(super) async fn seen(&self) -> Option<Sightings> {
        match &self.lan {
            Some(lookup) => Some(discovery::sightings(lookup).await),
            None => None,
        }
    }

    /// The port of its socket.
    pub(super) fn port(&self) -> u16 {
        let bound = self.iroh.bound_sockets();
        bound.first().map_or(0, SocketAddr::port)
    }
}

/// Why a relay is not there, where it is known.
fn why_away(status: &RelayStatus) -> Option<String> {
    let denied = status.auth_denied_reason();
    let denied = denied.map(|denied| line(&format!("it does not take this machine: {denied}")));
    denied.or_else(|| {
        // Of a chain of causes the last one says what happened.
        let chain = format!("{:#}", status.last_error()?);
        Some(line(chain.rsplit(": ").next().unwrap_or_default()))
    })
}

/// Whether what is sent there stays on this machine.
fn is_here(address: &TransportAddr) -> bool {
    matches!(address, TransportAddr::Ip(address) if is_loopback(*address))
}

/// What another machine or a library says, as one short line.
fn line(said: &str) -> String {
    said.chars()
        .filter(|c| !c.is_control())
        .take(LINE_CHARS_MAX)
        .collect()
}

/// A relay is asked how far it is and where it sees this machine, and nothing that is below TLS 1.3: not whether a hotel's page stands before it.
fn net_report() -> NetReportConfig {
    let mut asked = NetReportConfig::minimal();
    asked.https_probes = true;
    asked
}

fn transport() -> QuicTransportConfig {
    let silence = IdleTimeout::try_from(SILENCE_MAX).expect("eight seconds fit the field");
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
        .congestion_controller_factory(Arc::new(Bursts::from(FIRST_WINDOW_BYTES)))
        .ack_frequency_config(Some(acks))
        .datagram_receive_buffer_size(Some(DATAGRAM_WINDOW_BYTES))
        .datagram_send_buffer_size(DATAGRAM_WINDOW_BYTES)
        .build()
}

/// Why a machine is not reached whose relay would be one too many.
fn no_room(error: ConnectError, why: NoRoom) -> ConnectError {
    match error {
        ConnectError::NoAnswer { node, .. } | ConnectError::NoAddress { node } => {
            let used = match why {
                NoRoom::Many => format!("{} other relays are used already", relay::RELAYS_MAX),
                NoRoom::Host => "another relay at the same host is used already".to_owned(),
            };
            let cause = format!("no direct way leads there, and {used}");
            ConnectError::Failed { node, cause }
        }
        settled => settled,
    }
}

/// Characters of such a line.
const LINE_CHARS_MAX: usize = 80;

/// TLS alerts arrive as QUIC errors from 0x100 on; 120 is "no application protocol".
const ALPN_REFUSED: u64 = 0x100 + 120;

/// The QUIC error by which a connection is not taken: CONNECTION_REFUSED.
const REFUSED: u64 = 2;

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
            relay: None,
        },
        Some(ConnectionError::ConnectionClosed(close)) if u64::from(close.error_code) == ALPN_REFUSED => {
            ConnectError::OtherVersion { node, protocol }
        }
        Some(ConnectionError::ConnectionClosed(close)) if u64::from(close.error_code) == REFUSED => {
            let cause = "it takes no connection now: it is ending, or has no room".to_owned();
            ConnectError::Failed { node, cause }
        }
        // Our own side refused what the other showed as its key.
        Some(ConnectionError::TransportError(_)) => ConnectError::Stranger { node, cause: said },
        _ => ConnectError::Failed { node, cause: said },
    }
}

/// A peer that has begun to connect.
pub(super) struct Arriving {
    incoming: iroh::endpoint::Incoming,
    tally: Tally,
}

impl Arriving {
    pub(super) async fn finish(self, deadline: Duration) -> Result<Connection, AcceptError> {
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
            _relay: None,
        })
    }

    pub(super) fn refuse(self) {
        self.incoming.refuse();
    }
}

/// A way to one peer. Clones are the same connection.
#[derive(Debug, Clone)]
pub(super) struct Connection {
    iroh: iroh::endpoint::Connection,
    protocol: Protocol,
    bearer: Bearer,
    /// The relay that it was reached by stays known as long as it is there.
    _relay: Option<Arc<Use>>,
}

impl Connection {
    /// The same, which may lead over this relay.
    fn over(self, relay: Option<Use>) -> Connection {
        Connection {
            _relay: relay.map(Arc::new),
            ..self
        }
    }

    pub(super) fn peer(&self) -> NodeId {
        NodeId(*self.iroh.remote_id().as_bytes())
    }

    pub(super) fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Its number among those of the endpoint.
    pub(super) fn number(&self) -> u64 {
        self.bearer.number()
    }

    pub(super) async fn open(
        &self,
        grounds: Option<&Grounds>,
    ) -> Result<(SendStream, RecvStream), LinkError> {
        if let Some(grounds) = grounds {
            self.bears(grounds);
        }
        let opened = self.iroh.open_bi().await;
        opened.map_err(|cause| self.link_error(&cause))
    }

    pub(super) async fn accept(&self) -> Result<(SendStream, RecvStream), LinkError> {
        let accepted = self.iroh.accept_bi().await;
        accepted.map_err(|cause| self.link_error(&cause))
    }

    pub(super) fn send_datagram(&self, bytes: Vec<u8>) -> bool {
        self.iroh.send_datagram(bytes.into()).is_ok()
    }

    pub(super) fn datagram_bytes_max(&self) -> usize {
        self.iroh.max_datagram_size().unwrap_or(0)
    }

    pub(super) async fn datagram(&self) -> Result<Vec<u8>, LinkError> {
        let bytes = self.iroh.read_datagram().await;
        Ok(bytes.map_err(|cause| self.link_error(&cause))?.into())
    }

    pub(super) fn round_trip(&self) -> Option<Duration> {
        self.chosen_path(|path| path.rtt())
    }

    pub(super) fn way(&self) -> Option<Way> {
        self.chosen_path(|path| {
            if path.is_relay() {
                Way::Relayed
            } else {
                Way::Direct
            }
        })
    }

    pub(super) fn traffic(&self) -> Traffic {
        Traffic::of(&self.iroh.stats())
    }

    /// This process is its own guard, and whoever sends has cleared it: it is counted.
    pub(super) async fn shows(&self, grounds: &Grounds) -> Result<(), LinkError> {
        self.bears(grounds);
        Ok(())
    }

    fn bears(&self, grounds: &Grounds) {
        grounds.label.words().for_each(|word| self.bearer.bears(word));
    }

    pub(super) fn is_open(&self) -> bool {
        self.iroh.close_reason().is_none()
    }

    pub(super) fn close(&self, goodbye: Goodbye) {
        self.iroh
            .close(VarInt::from_u32(goodbye.code()), goodbye.words().as_bytes());
    }

    pub(super) async fn closed(&self) -> LinkError {
        let cause = self.iroh.closed().await;
        self.link_error(&cause)
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
                reason: line(&String::from_utf8_lossy(&close.reason)),
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
