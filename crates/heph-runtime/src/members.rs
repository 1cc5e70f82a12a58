//! Who of the book of peers is there right now: how far away, by which way, and what it says it can do.
//!
//! [`Members::start`] puts the book's peers on a [`Roster`] and keeps it in step: with the book, which another program of
//! this person may change, with what is seen on the local network, and with this machine's own profile. Devices of the
//! role `own` hear of each other; everybody else hears of this machine alone. A dead peer is noticed within three seconds.
//! A program that only asks sees the same by [`Members::look_on`], beside others of its folder, and nobody hears of it.
//! What a peer says of itself is checked before anybody believes it, and never decides its role or its name.

mod claim;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use heph_net::address::NodeAddress;
use heph_net::discovery::Sighting;
use heph_net::endpoint::{Protocol, Way};
use heph_net::roster::{Acquaintance, Circle, Life, PROFILE_BYTES_MAX, Part, Present, Roster, Standing};
use heph_net::trust::{Peer, TrustError};
use heph_types::{NodeId, NodeProfile, Role};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::network::{Admits, Network};

pub use claim::Claim;

/// How often the book is looked at: a device that was paired in another program is there soon after.
const BOOK_EVERY: Duration = Duration::from_secs(1);

/// Models, prices and speeds that a profile may list: what fits its bytes.
const HELD_MAX: usize = 256;

/// Who is there. Clones are the same.
#[derive(Debug, Clone)]
pub struct Members {
    network: Network,
    roster: Roster,
}

/// A peer of the book.
#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    /// What the book says of it.
    pub peer: Peer,
    /// Whether it is there.
    pub presence: Presence,
    /// Where it is, or was last.
    pub address: NodeAddress,
    /// Time there and back; `None` before its first answer, or while it is away.
    pub round_trip: Option<Duration>,
    /// The way that packets take.
    pub way: Option<Way>,
    /// What it says it can do; role, name and id are the book's. `None` before it was heard, or where it is nonsense.
    pub profile: Option<NodeProfile>,
    /// What it does right now for others, as it says.
    pub load: Option<Load>,
}

/// What a node does for others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Load {
    /// Sessions that are open.
    pub sessions: u32,
    /// Sessions that it has places for.
    pub sessions_max: u32,
    /// Tokens that went through its layers since it started.
    pub tokens: u64,
}

/// What a node says of itself, on the wire of members. Unknown fields are those of later versions.
#[derive(Serialize, Deserialize)]
struct Said {
    #[serde(flatten)]
    profile: NodeProfile,
    #[serde(default)]
    load: Option<Load>,
}

/// Whether a peer is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Presence {
    /// It answers.
    Here,
    /// It stopped answering and is not given up yet: nothing new should be asked of it.
    Suspect,
    /// It is not there.
    Away,
}

/// Whether somebody who follows wants to hear more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Follow {
    /// It does.
    On,
    /// It has heard enough.
    Enough,
}

/// The profile says more than fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("what this machine says of itself has more than {PROFILE_BYTES_MAX} bytes; lend fewer models")]
pub struct ProfileTooLong;

/// Waits for changes.
#[derive(Debug)]
pub struct Changes {
    network: Network,
    shown: watch::Receiver<Arc<Vec<Present>>>,
}

impl Members {
    /// Answers peers of the book that ask who is there, and looks for them, from now on.
    ///
    /// # Errors
    /// When the book cannot be read.
    pub fn start(network: &Network) -> Result<Members, TrustError> {
        let members = Members::begin(network, Part::Member)?;
        members.serve();
        Ok(members)
    }

    /// Looks who is there from now on, and tells nobody: for programs that stand for no machine.
    ///
    /// # Errors
    /// When the book cannot be read.
    pub fn look_on(network: &Network) -> Result<Members, TrustError> {
        Members::begin(network, Part::Onlooker)
    }

    fn begin(network: &Network, part: Part) -> Result<Members, TrustError> {
        let known = acquaintances(&network.peers()?);
        let endpoint = network.endpoint().clone();
        let life = this_life(network.node());
        let roster = network.block_on(async move {
            let roster = Roster::start(endpoint, life, part);
            roster.admit(known).await;
            roster
        });
        let members = Members {
            network: network.clone(),
            roster,
        };
        network.spawn(follow_book(network.clone(), members.roster.clone()));
        network.spawn(look_around(network.clone(), members.roster.clone()));
        Ok(members)
    }

    /// Everybody in the book, those who are there with what is known of them.
    ///
    /// # Errors
    /// When the book cannot be read.
    pub fn snapshot(&self) -> Result<Vec<Member>, TrustError> {
        let present = self.roster.present();
        let peers = self.network.peers()?;
        Ok(peers.into_iter().map(|peer| member(peer, &present)).collect())
    }

    /// Tells `told` who is there, now and whenever that may have changed, in a task that ends with the network or once
    /// `told` says so. It must not wait for long.
    pub fn follow(&self, mut told: impl FnMut(Vec<Member>) -> Follow + Send + 'static) {
        let members = self.clone();
        self.network.spawn(async move {
            let mut shown = members.roster.watch();
            loop {
                shown.borrow_and_update();
                let reading = members.clone();
                let read = tokio::task::spawn_blocking(move || reading.snapshot()).await;
                // A book that cannot be read right now tells nothing.
                if let Ok(Ok(all)) = read
                    && told(all) == Follow::Enough
                {
                    return;
                }
                if let Ok(Err(_)) = tokio::time::timeout(BOOK_EVERY, shown.changed()).await {
                    return;
                }
            }
        });
    }

    /// How many are there right now, suspects included.
    pub fn count(&self) -> usize {
        self.roster.present().len()
    }

    /// The machine whose members these are.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// Tells the members what this machine can do and does, now and whenever they ask.
    ///
    /// # Errors
    /// When it is too long.
    pub fn say(&self, profile: &NodeProfile, load: Load) -> Result<(), ProfileTooLong> {
        let said = Said {
            profile: profile.clone(),
            load: Some(load),
        };
        let bytes = serde_json::to_vec(&said).expect("numbers and words become JSON");
        match self.roster.say(bytes) {
            true => Ok(()),
            false => Err(ProfileTooLong),
        }
    }

    /// Somebody may be at this address: it is asked at once if the book knows it.
    pub fn look_for(&self, node: NodeId, address: NodeAddress) {
        self.network.block_on(self.roster.seen(node, address));
    }

    /// To wait for changes from now on.
    pub fn changes(&self) -> Changes {
        Changes {
            network: self.network.clone(),
            shown: self.roster.watch(),
        }
    }

    /// Says goodbye, within `deadline`. Peers then know at once, instead of noticing the silence.
    pub fn leave(&self, deadline: Duration) {
        self.network.block_on(self.roster.leave(deadline));
    }

    fn serve(&self) {
        let roster = self.roster.clone();
        self.network
            .serve(Protocol::Members, Admits::Known, move |caller| {
                let roster = roster.clone();
                async move {
                    roster.arrived(caller.connection.clone()).await;
                    // Its place is taken until it leaves.
                    caller.connection.closed().await;
                }
            });
    }
}

impl Changes {
    /// Waits until something is different than at the last call, no longer than `deadline`; whether it is.
    pub fn wait(&mut self, deadline: Duration) -> bool {
        let changed = async { tokio::time::timeout(deadline, self.shown.changed()).await };
        matches!(self.network.block_on(changed), Ok(Ok(())))
    }
}

/// Higher than in every earlier life, whatever the clock says twice.
fn this_life(node: NodeId) -> Life {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seed = blake3::hash(&[&node.0[..], &since.as_nanos().to_le_bytes()].concat());
    let seed = *seed.as_bytes().first_chunk().expect("a hash has more bytes");
    Life {
        incarnation: since.as_millis() as u64,
        seed: u64::from_le_bytes(seed),
    }
}

fn acquaintances(peers: &[Peer]) -> Vec<Acquaintance> {
    let acquaintance = |peer: &Peer| Acquaintance {
        node: peer.node,
        address: peer.address.clone(),
        circle: match peer.role {
            Role::Own => Circle::Shared,
            Role::Cloud | Role::Miner | Role::Edge => Circle::Apart,
        },
    };
    peers.iter().map(acquaintance).collect()
}

/// Keeps the roster to the book, and the network's addresses to the roster.
async fn follow_book(network: Network, roster: Roster) {
    let mut admitted = Vec::new();
    let mut here = BTreeMap::new();
    let mut shown = roster.watch();
    loop {
        let reading = network.clone();
        let book = tokio::task::spawn_blocking(move || reading.peers()).await;
        // A book that cannot be read right now trusts nobody new, and costs nobody who is there.
        if let Ok(Ok(peers)) = book {
            let known = acquaintances(&peers);
            if known != admitted {
                roster.admit(known.clone()).await;
                admitted = known;
            }
        }
        match tokio::time::timeout(BOOK_EVERY, shown.changed()).await {
            Ok(Ok(())) => {
                let present = shown.borrow_and_update().clone();
                present
                    .iter()
                    .for_each(|one| network.heard_of(one.node, one.address.clone()));
                here = seen(&network, &here, &present);
                tokio::time::sleep(BOOK_EVERY / 4).await;
            }
            Ok(Err(_)) => return,
            Err(_) => {}
        }
    }
}

/// Who is present now. Who was and is not any more is lost for whoever asks this machine's peers, and who comes, or is suspected no more, is found.
fn seen(
    network: &Network,
    before: &BTreeMap<NodeId, Standing>,
    present: &[Present],
) -> BTreeMap<NodeId, Standing> {
    let now: BTreeMap<_, _> = present.iter().map(|one| (one.node, one.standing)).collect();
    let gone = before.keys().filter(|node| !now.contains_key(node));
    gone.for_each(|node| network.lost(*node));
    let came = now
        .iter()
        .filter(|(node, standing)| **standing == Standing::Here && before.get(node) != Some(&Standing::Here));
    came.for_each(|(node, _)| network.found(*node));
    now
}

/// Asks whoever is seen on the local network and stands in the book.
async fn look_around(network: Network, roster: Roster) {
    let Some(mut sightings) = network.endpoint().sightings().await else {
        return;
    };
    while let Some(sighting) = sightings.next().await {
        if let Sighting::Seen { node, address } = sighting {
            roster.seen(node, address).await;
        }
    }
}

fn member(peer: Peer, present: &[Present]) -> Member {
    let at = present.binary_search_by_key(&peer.node, |one| one.node);
    let Ok(one) = at.map(|at| &present[at]) else {
        return Member {
            presence: Presence::Away,
            address: peer.address.clone(),
            round_trip: None,
            way: None,
            profile: None,
            load: None,
            peer,
        };
    };
    let presence = match one.standing {
        Standing::Here => Presence::Here,
        Standing::Suspect => Presence::Suspect,
    };
    let address = match one.address == NodeAddress::default() {
        true => peer.address.clone(),
        false => one.address.clone(),
    };
    let said = one.profile.as_deref().and_then(|bytes| said_by(&peer, bytes));
    let (profile, load) = said.map_or((None, None), |said| (Some(said.profile), said.load));
    Member {
        presence,
        address,
        round_trip: one.round_trip,
        way: one.way,
        profile,
        load,
        peer,
    }
}

/// What a peer says of itself, where it makes sense; who it is and what it is to this person the book says.
fn said_by(peer: &Peer, bytes: &[u8]) -> Option<Said> {
    let Said { profile: said, load } = serde_json::from_slice(bytes).ok()?;
    let profile = NodeProfile {
        node: peer.node,
        name: peer.name.clone(),
        role: peer.role,
        ..said
    };
    let sound = profile.holds.len() <= HELD_MAX && heph_plan::believable(&profile).is_ok();
    sound.then_some(Said { profile, load })
}

#[cfg(test)]
mod tests;
