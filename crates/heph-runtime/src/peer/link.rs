//! The one connection to a peer: made when it is first needed, and made anew when it broke.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use heph_net::drive::{Conversation, drive};
use heph_net::endpoint::{ConnectError, Connection, Goodbye, Protocol, Traffic as Packets};
use heph_net::session::DeskEnd;
use heph_privacy::Grounds;
use heph_types::NodeId;
use tokio::time::timeout;

use super::{held, law};
use crate::network::Network;
use crate::seat::SeatError;

/// How long a peer that holds as many streams as it may can take to end one.
const STREAM_DEADLINE: Duration = Duration::from_secs(2);

/// The way to one peer.
pub(super) struct Link {
    network: Network,
    node: NodeId,
    connection: tokio::sync::Mutex<Option<Connection>>,
    seen: Mutex<Seen>,
}

/// What is known of the way so far.
#[derive(Default)]
struct Seen {
    now: Option<Connection>,
    /// Of connections that are over.
    packets: Packets,
    round_trip: Option<Duration>,
    /// Bytes a second up and down.
    goodput: Option<(f64, f64)>,
}

/// Whether a connection was there already: then it may be one that the peer has forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    Fresh,
    Kept,
}

impl Link {
    pub(super) fn new(network: Network, node: NodeId) -> Link {
        Link {
            network,
            node,
            connection: tokio::sync::Mutex::new(None),
            seen: Mutex::default(),
        }
    }

    pub(super) fn node(&self) -> NodeId {
        self.node
    }

    pub(super) fn network(&self) -> &Network {
        &self.network
    }

    /// A new stream to the peer, with a desk's end on it, for what leaves by these grounds or for greetings alone. `deadline` is how long
    /// a new connection may take.
    pub(super) async fn converse(
        &self,
        grounds: Option<&Grounds>,
        deadline: Duration,
    ) -> Result<(Conversation<DeskEnd>, Found), SeatError> {
        let (connection, found) = self.connection(deadline).await?;
        let opened = async {
            match grounds {
                Some(grounds) => connection.open_for(grounds).await,
                None => connection.open().await,
            }
        };
        let stream = match timeout(STREAM_DEADLINE, opened).await {
            Ok(opened) => opened.map_err(|error| self.lost(error.to_string()))?,
            Err(_) => return Err(self.lost("it holds as many conversations as it may".to_owned())),
        };
        let epoch = Instant::now();
        let end = DeskEnd::new(law(), Duration::ZERO).towards(self.node);
        Ok((drive(stream, end, epoch), found))
    }

    /// A new connection beside one that is kept, made once that one has been silent for a while: where the peer has forgotten
    /// it, or is gone, that is known by then. `None` where none was kept.
    pub(super) async fn another(
        &self,
        silent: Duration,
        deadline: Duration,
    ) -> Option<Result<Connection, SeatError>> {
        let kept = self.connection.lock().await.clone();
        kept.filter(Connection::is_open)?;
        tokio::time::sleep(silent).await;
        let made = self.network.reach(self.node, Protocol::Session, deadline).await;
        Some(made.map_err(|error| self.unreached(&error)))
    }

    /// Uses this connection from now on.
    pub(super) async fn take(&self, made: Connection) {
        *self.connection.lock().await = Some(made.clone());
        self.note(Some(made));
    }

    async fn connection(&self, deadline: Duration) -> Result<(Connection, Found), SeatError> {
        let mut kept = self.connection.lock().await;
        if let Some(connection) = kept.as_ref().filter(|connection| connection.is_open()) {
            return Ok((connection.clone(), Found::Kept));
        }
        let made = self.network.reach(self.node, Protocol::Session, deadline).await;
        let made = made.map_err(|error| self.unreached(&error))?;
        *kept = Some(made.clone());
        self.note(Some(made.clone()));
        Ok((made, Found::Fresh))
    }

    /// Leaves a connection over which the peer was not heard.
    pub(super) async fn leave(&self) {
        if let Some(connection) = self.connection.lock().await.take() {
            connection.close(Goodbye::Done);
        }
    }

    fn unreached(&self, error: &ConnectError) -> SeatError {
        match error {
            ConnectError::NoAnswer { node, deadline } => SeatError::Late {
                node: *node,
                waited: *deadline,
            },
            other => self.lost(other.to_string()),
        }
    }

    pub(super) fn lost(&self, why: String) -> SeatError {
        SeatError::Lost { node: self.node, why }
    }

    pub(super) fn round_trip(&self) -> Option<Duration> {
        held(&self.seen).round_trip
    }

    pub(super) fn note_round_trip(&self, round_trip: Duration) {
        held(&self.seen).round_trip = Some(round_trip);
    }

    /// The peer told how far another is from it: written down beside whoever listens to it.
    pub(super) fn note_distance(&self, other: NodeId, round_trip: Duration) {
        let (machine, node) = (self.network.clone(), self.node);
        let now = crate::network::seconds_since_1970();
        let noted = move || machine.ways().met(node, other, round_trip, now);
        // What is not kept is heard of again.
        drop(self.network.aside(noted));
    }

    pub(super) fn goodput(&self) -> Option<(f64, f64)> {
        held(&self.seen).goodput
    }

    pub(super) fn note_goodput(&self, goodput: (f64, f64)) {
        held(&self.seen).goodput = Some(goodput);
    }

    /// The connection in use, for what it knows of the way.
    pub(super) fn now(&self) -> Option<Connection> {
        held(&self.seen).now.clone()
    }

    /// What its sessions say from now on leaves by these grounds. Where the guard of connections says no, the connection ends.
    pub(super) async fn shows(&self, grounds: Grounds) {
        if let Some(connection) = self.now() {
            // Whoever speaks next is told why it ended.
            let _ = connection.shows(&grounds).await;
        }
    }

    pub(super) fn packets(&self) -> Packets {
        let seen = held(&self.seen);
        let now = seen.now.as_ref().map(Connection::traffic).unwrap_or_default();
        sum(seen.packets, now)
    }

    fn note(&self, made: Option<Connection>) {
        let mut seen = held(&self.seen);
        let over = seen.now.as_ref().map(Connection::traffic).unwrap_or_default();
        seen.packets = sum(seen.packets, over);
        seen.now = made;
    }
}

fn sum(a: Packets, b: Packets) -> Packets {
    Packets {
        sent_bytes: a.sent_bytes + b.sent_bytes,
        received_bytes: a.received_bytes + b.received_bytes,
        lost_packets: a.lost_packets + b.lost_packets,
    }
}
