//! Asks the peers of the book what they are, all at once, and how fast the ways to them are where that is not known.

use std::time::{Duration, Instant};

use heph_net::endpoint::Way;
use heph_net::trust;
use heph_types::{LinkProfile, NodeProfile};

use super::{Machine, NodePool};
use crate::network::{Network, seconds_since_1970};
use crate::peer::Peer;
use crate::ways;

/// Peers that are asked at the same time, each by a thread that waits.
const ASKED_AT_ONCE: usize = 32;

/// Bytes a second that a way is taken to carry each way until somebody has measured it: 100 Mbit/s.
const GOODPUT_USUAL: f64 = 12.5e6;

/// The same inside one machine.
const GOODPUT_LOOPBACK: f64 = 1e9;

/// A peer that was asked.
pub struct Contact {
    /// What the book says.
    pub peer: trust::Peer,
    /// What came of it; else why it is away, as one sentence.
    pub reached: Result<Reached, String>,
}

/// A peer that answered.
pub struct Reached {
    /// What it says of itself, where that is for it to say.
    pub profile: NodeProfile,
    /// One small message there and back.
    pub rtt: Duration,
    /// Whether packets go through a relay.
    pub relayed: bool,
    /// The way there, as measured.
    pub link: LinkProfile,
    host: Peer,
}

/// Asks each of `known` what it is, and waits no longer than `deadline` for any. In their order.
pub fn contacts(network: &Network, known: &[trust::Peer], deadline: Duration) -> Vec<Contact> {
    let mut contacts = Vec::with_capacity(known.len());
    for some in known.chunks(ASKED_AT_ONCE) {
        std::thread::scope(|scope| {
            let asking: Vec<_> = some
                .iter()
                .map(|peer| scope.spawn(move || ask(network, peer, deadline)))
                .collect();
            let answers = asking.into_iter().map(|thread| thread.join());
            contacts.extend(some.iter().zip(answers).map(|(peer, answer)| Contact {
                peer: peer.clone(),
                reached: answer.unwrap_or_else(|_| Err("asking it failed here".to_owned())),
            }));
        });
    }
    contacts
}

fn ask(network: &Network, known: &trust::Peer, deadline: Duration) -> Result<Reached, String> {
    let began = Instant::now();
    let host = Peer::new(network, known.node);
    let probe = host.probe(deadline).map_err(|e| e.to_string())?;
    let silent = || "it is there and lends nothing, or in a version that is not known here".to_owned();
    let said = probe.profile.ok_or_else(silent)?;
    if network.ways().is_old(known.node, seconds_since_1970()) {
        let (tell, told) = std::sync::mpsc::channel();
        let (machine, node) = (network.clone(), known.node);
        network.spawn(async move {
            // Whoever waited may have gone.
            let _ = tell.send(ways::measure(&machine, node).await.is_ok());
        });
        // A way that takes longer is known the next time.
        let _ = told.recv_timeout(deadline.saturating_sub(began.elapsed()));
    }
    let rtt = probe.round_trip.unwrap_or_default();
    Ok(Reached {
        profile: as_the_book_says(said, known),
        rtt,
        link: link_to(network, known, rtt),
        relayed: probe.way == Some(Way::Relayed),
        host,
    })
}

/// A machine's word counts for what it can do. Who it is, and what it is to this person, the book says.
fn as_the_book_says(said: NodeProfile, known: &trust::Peer) -> NodeProfile {
    NodeProfile {
        node: known.node,
        name: known.name.clone(),
        role: known.role,
        ..said
    }
}

impl NodePool {
    /// With every machine that was reached.
    pub fn among(self, contacts: &[Contact]) -> Self {
        contacts
            .iter()
            .fold(self, |pool, contact| match &contact.reached {
                Ok(reached) => pool.with(machine(reached)),
                Err(_) => pool,
            })
    }
}

fn machine(reached: &Reached) -> Machine {
    Machine {
        profile: reached.profile.clone(),
        link: reached.link,
        host: std::sync::Arc::new(reached.host.clone()),
    }
}

/// The way to a peer at a round trip that was just measured: its rates as they were measured last, else assumed.
pub(super) fn link_to(network: &Network, peer: &trust::Peer, rtt: Duration) -> LinkProfile {
    let direct = &peer.address.direct;
    let near = !direct.is_empty() && direct.iter().all(|socket| socket.ip().is_loopback());
    let assumed = if near { GOODPUT_LOOPBACK } else { GOODPUT_USUAL };
    let measured = network.ways().to(peer.node);
    LinkProfile {
        rtt,
        up: measured.map_or(assumed, |way| way.up),
        down: measured.map_or(assumed, |way| way.down),
        loss: 0.0,
    }
}

#[cfg(test)]
mod tests {
    use heph_net::address::NodeAddress;
    use heph_types::{NodeId, Role};

    use super::*;
    use crate::pool::testing::profile;

    #[test]
    fn a_peer_cannot_say_that_it_is_somebody_else_or_ones_own() {
        let known = trust::Peer {
            node: NodeId([1; 32]),
            role: Role::Miner,
            name: "stranger".to_owned(),
            since: 0,
            address: NodeAddress::default(),
        };
        let lie = NodeProfile {
            name: "tower".to_owned(),
            ..profile(NodeId([2; 32]), Role::Own)
        };
        let believed = as_the_book_says(lie.clone(), &known);
        let who = (believed.node, believed.role, believed.name.as_str());
        assert_eq!(who, (NodeId([1; 32]), Role::Miner, "stranger"));
        assert_eq!(believed.speed, lie.speed);
    }
}
