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
    connection: tokio::sync::Mutex<Kept>,
    seen: Mutex<Seen>,
}

/// The connection that is kept.
#[derive(Default)]
struct Kept {
    connection: Option<Connection>,
    /// How many there were before it.
    number: u64,
    /// How often the peer had been lost when it was made.
    times_lost: u64,
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

/// A connection by its number, and whether it was there already: then it may be one that the peer has forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// It was made for this.
    Fresh(u64),
    /// It was there.
    Kept(u64),
    /// There is none.
    Nothing,
}

impl Kept {
    /// Keeps this one from now on; returns its number.
    fn take(&mut self, made: &Connection, times_lost: u64) -> u64 {
        *self = Kept {
            connection: Some(made.clone()),
            number: self.number + 1,
            times_lost,
        };
        self.number
    }
}

impl Link {
    pub(super) fn new(network: Network, node: NodeId) -> Link {
        Link {
            network,
            node,
            connection: tokio::sync::Mutex::default(),
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
    ) -> Option<Result<Connection, ConnectError>> {
        let kept = self.connection.lock().await.connection.clone();
        kept.filter(Connection::is_open)?;
        tokio::time::sleep(silent).await;
        Some(self.network.reach(self.node, Protocol::Session, deadline).await)
    }

    /// Uses this connection from now on, unless somebody else made one meanwhile.
    ///
    /// # Errors
    /// When there is none: the peer is lost.
    pub(super) async fn take(&self, made: Result<Connection, ConnectError>) -> Result<(), SeatError> {
        let made = made.map_err(|error| self.unreached(&error))?;
        let mut kept = self.connection.lock().await;
        if kept.connection.as_ref().is_none_or(|kept| !kept.is_open()) {
            kept.take(&made, self.network.times_lost(self.node));
            self.note(Some(made));
        }
        Ok(())
    }

    async fn connection(&self, deadline: Duration) -> Result<(Connection, Found), SeatError> {
        let mut kept = self.connection.lock().await;
        let times_lost = self.network.times_lost(self.node);
        let known = kept.connection.as_ref().filter(|known| known.is_open());
        if let Some(connection) = known.filter(|_| kept.times_lost == times_lost) {
            return Ok((connection.clone(), Found::Kept(kept.number)));
        }
        let made = self.network.reach(self.node, Protocol::Session, deadline).await;
        let made = made.map_err(|error| self.unreached(&error))?;
        let number = kept.take(&made, times_lost);
        self.note(Some(made.clone()));
        Ok((made, Found::Fresh(number)))
    }

    /// Leaves a connection over which the peer was not heard; not one that was made since.
    pub(super) async fn leave(&self, over: Found) {
        let (Found::Fresh(number) | Found::Kept(number)) = over else {
            return;
        };
        let mut kept = self.connection.lock().await;
        if kept.number == number
            && let Some(connection) = kept.connection.take()
        {
            connection.close(Goodbye::Done);
        }
    }

    /// Leaves whatever connection is kept.
    pub(super) async fn leave_any(&self) {
        if let Some(connection) = self.connection.lock().await.connection.take() {
            connection.close(Goodbye::Done);
        }
    }

    /// Why there is no connection. Whoever does not answer is lost, for everybody.
    fn unreached(&self, error: &ConnectError) -> SeatError {
        match error {
            ConnectError::NoAnswer { node, deadline, .. } => {
                self.network.lost(*node);
                SeatError::Late {
                    node: *node,
                    waited: *deadline,
                }
            }
            ConnectError::Failed { node, .. } => {
                self.network.lost(*node);
                self.lost(error.to_string())
            }
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
