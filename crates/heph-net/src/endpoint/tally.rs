//! What has passed through the socket, by connection: the figures of the network log.
//!
//! A connection tells what it sent and received in UDP payloads, headers and repeats included, and once more when it has
//! ended, without being kept alive for that. What the socket sent for no connection that came about (greetings that nobody
//! answered, goodbyes) is the rest of its own count.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use heph_types::NodeId;
use iroh::endpoint::{ConnectionStats, WeakConnectionHandle};
use serde::{Deserialize, Serialize};

use super::{Protocol, Traffic};

/// Connections that ended and were not asked about yet; beyond it the oldest are forgotten, and what they sent counts as
/// the socket's own. 64 peers with each protocol, thirteen times over between two questions.
const ENDED_MAX: usize = 4096;

/// Labels that a connection bears at most; what bears more bears "many".
const LABELS_MAX: usize = 16;

/// What a socket has carried so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Account {
    /// All that it sent. Counted before the connections were: what they send meanwhile is in their figures alone.
    pub total: SocketTotal,
    /// What its connections say.
    pub connections: Vec<Passed>,
}

/// What one connection has sent and received so far.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Passed {
    /// Distinguishes it from all others of this socket.
    pub number: u64,
    /// The peer.
    pub node: NodeId,
    /// What the connection is for.
    pub protocol: Protocol,
    /// The address that it goes to, as was last seen; `None` where no way was chosen yet.
    pub to: Option<String>,
    /// Labels of what it carried.
    pub labels: BTreeSet<String>,
    /// Bytes, in UDP payloads.
    pub traffic: Traffic,
    /// How many of those it had sent when it came about: until then they were no connection's.
    pub greeting_bytes: u64,
}

/// What the socket itself has sent, whatever for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketTotal {
    /// Bytes of UDP payloads that were handed to the system.
    pub sent_bytes: u64,
    /// Bytes of packets that went to the relay inside of its own connection, which adds to them.
    pub relayed_bytes: u64,
    /// Whether any of it may have gone to another machine: false where all that was ever sent was for addresses of this one.
    pub is_abroad: bool,
}

/// The connections of a socket. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(super) struct Tally(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    made: u64,
    /// Whether anything may have been sent to another machine.
    abroad: bool,
    open: Vec<Open>,
    ended: Vec<Passed>,
}

#[derive(Debug)]
struct Open {
    handle: WeakConnectionHandle,
    passed: Passed,
}

/// The labels of one connection. Clones are the same.
#[derive(Debug, Clone)]
pub(super) struct Bearer {
    tally: Tally,
    number: u64,
}

impl Tally {
    /// Counts a connection from now until it has ended. Needs the caller's runtime.
    pub(super) fn count(&self, connection: &iroh::endpoint::Connection, protocol: Protocol) -> Bearer {
        let handle = connection.weak_handle();
        let closed = handle.closed();
        let number = {
            let mut kept = self.kept();
            kept.made += 1;
            let number = kept.made;
            let traffic = Traffic::of(&connection.stats());
            let passed = Passed {
                number,
                node: NodeId(*connection.remote_id().as_bytes()),
                protocol,
                to: way(connection),
                labels: BTreeSet::new(),
                traffic,
                greeting_bytes: traffic.sent_bytes,
            };
            kept.open.push(Open { handle, passed });
            number
        };
        let tally = self.clone();
        tokio::spawn(async move {
            let stats = closed.await.map(|closed| closed.stats);
            tally.end(number, stats.as_ref());
        });
        let tally = self.clone();
        Bearer { tally, number }
    }

    /// Every connection that is open, and those that ended since this was asked last.
    pub(super) fn passed(&self) -> Vec<Passed> {
        let mut kept = self.kept();
        let mut all = std::mem::take(&mut kept.ended);
        for open in &mut kept.open {
            // One that nobody holds any more has ended, and its task says so in a moment.
            if let Some(connection) = open.handle.upgrade() {
                open.passed.traffic = Traffic::of(&connection.stats());
                open.passed.to = way(&connection).or(open.passed.to.take());
            }
            all.push(open.passed.clone());
        }
        let mut ways = all.iter().filter_map(|passed| passed.to.as_deref());
        kept.abroad |= ways.any(leads_abroad);
        all
    }

    /// From now on something may have been sent to another machine, whether a connection comes of it or not.
    pub(super) fn goes_abroad(&self) {
        self.kept().abroad = true;
    }

    pub(super) fn is_abroad(&self) -> bool {
        self.kept().abroad
    }

    /// What every open connection has sent and received so far, by its number.
    pub(super) fn passing(&self) -> Vec<(u64, Traffic)> {
        let kept = self.kept();
        let open = kept.open.iter().filter_map(|open| {
            let connection = open.handle.upgrade()?;
            Some((open.passed.number, Traffic::of(&connection.stats())))
        });
        open.collect()
    }

    /// The longest time there and back of a connection that is open; nothing where none is.
    pub(super) fn round_trip_max(&self) -> Duration {
        let kept = self.kept();
        let open = kept.open.iter().filter_map(|open| {
            let connection = open.handle.upgrade()?;
            connection.paths().iter().map(|path| path.rtt()).max()
        });
        open.max().unwrap_or_default()
    }

    fn end(&self, number: u64, stats: Option<&ConnectionStats>) {
        let mut kept = self.kept();
        let Some(at) = kept.open.iter().position(|open| open.passed.number == number) else {
            return;
        };
        let mut passed = kept.open.swap_remove(at).passed;
        passed.traffic = stats.map_or(passed.traffic, Traffic::of);
        if kept.ended.len() == ENDED_MAX {
            kept.ended.remove(0);
        }
        kept.ended.push(passed);
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // Every change is one step, so a thread that panicked left it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Bearer {
    /// The connection's number.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// From now on the connection counts as one that carried something with this label.
    pub(super) fn bears(&self, label: &str) {
        let mut kept = self.tally.kept();
        let open = kept
            .open
            .iter_mut()
            .find(|open| open.passed.number == self.number);
        let Some(labels) = open.map(|open| &mut open.passed.labels) else {
            return;
        };
        match labels.len() < LABELS_MAX || labels.contains(label) {
            true => labels.insert(label.to_owned()),
            false => labels.insert("many".to_owned()),
        };
    }
}

impl Traffic {
    pub(super) fn of(stats: &ConnectionStats) -> Traffic {
        Traffic {
            sent_bytes: stats.udp_tx.bytes,
            received_bytes: stats.udp_rx.bytes,
            lost_packets: stats.lost_packets,
        }
    }
}

/// Whether the address that a connection goes to may be another machine's. What cannot be read counts as one.
fn leads_abroad(to: &str) -> bool {
    !to.parse().is_ok_and(is_loopback)
}

/// Whether this machine alone is reached by it.
pub(super) fn is_loopback(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

/// Where the packets of a connection go.
fn way(connection: &iroh::endpoint::Connection) -> Option<String> {
    let paths = connection.paths();
    let chosen = paths
        .iter()
        .find(|path| path.is_selected())
        .or_else(|| paths.iter().next())?;
    Some(match chosen.remote_addr() {
        iroh::TransportAddr::Ip(address) => address.to_string(),
        iroh::TransportAddr::Relay(url) => url.to_string(),
        _ => "another way".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_loopback_is_this_machine_and_nothing_else_is() {
        for here in [
            "127.0.0.1:7842",
            "127.3.2.1:1",
            "[::1]:7842",
            "[::ffff:127.0.0.1]:1",
        ] {
            assert!(!leads_abroad(here), "{here}");
        }
        for abroad in [
            "10.0.0.2:7842",
            "[2001:db8::1]:1",
            "https://relay.example/",
            "another way",
            "",
        ] {
            assert!(leads_abroad(abroad), "{abroad}");
        }
    }
}
