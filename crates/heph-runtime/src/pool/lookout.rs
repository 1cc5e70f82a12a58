//! Who of the book is there, for a program that only asks: as a member among members, or, where a node stands for this
//! machine already, by asking everybody now and then.

use std::time::Duration;

use heph_net::endpoint::Way;
use heph_net::trust::TrustError;

use super::{Contact, contacts};
use crate::members::{Claim, Follow, Member, Members, Presence};
use crate::network::Network;

/// How often everybody is asked where nobody tells.
const ASK_EVERY: Duration = Duration::from_secs(2);

/// How long a peer may take to answer then.
const ANSWER_DEADLINE: Duration = Duration::from_secs(2);

/// Who is there.
#[derive(Debug, Clone)]
pub enum Lookout {
    /// As a member.
    Member(Members),
    /// By asking: another program stands for this machine.
    Asking(Network),
}

impl Lookout {
    /// Looks out from now on.
    ///
    /// # Errors
    /// When the book cannot be read.
    pub fn start(network: &Network) -> Result<Lookout, TrustError> {
        match Claim::is_taken(network.home()) {
            true => Ok(Lookout::Asking(network.clone())),
            false => Members::start(network).map(Lookout::Member),
        }
    }

    /// The machine.
    pub fn network(&self) -> &Network {
        match self {
            Lookout::Member(members) => members.network(),
            Lookout::Asking(network) => network,
        }
    }

    /// Tells `told` who is there, now and whenever that may have changed, on a thread of its own that ends with the network
    /// or once `told` has heard enough.
    pub fn follow(&self, mut told: impl FnMut(Vec<Member>) -> Follow + Send + 'static) {
        match self {
            Lookout::Member(members) => members.follow(told),
            Lookout::Asking(network) => {
                let network = network.clone();
                std::thread::spawn(move || {
                    while let Some(all) = asked(&network) {
                        if told(all) == Follow::Enough {
                            return;
                        }
                        std::thread::sleep(ASK_EVERY);
                    }
                });
            }
        }
    }

    /// Says goodbye, within `deadline`, where this program was among the members.
    pub fn leave(&self, deadline: Duration) {
        if let Lookout::Member(members) = self {
            members.leave(deadline);
        }
    }
}

/// Everybody in the book, asked now; `None` once the network is closed or the book is gone.
fn asked(network: &Network) -> Option<Vec<Member>> {
    if network.is_closed() {
        return None;
    }
    let known = network.peers().ok()?;
    Some(
        contacts(network, &known, ANSWER_DEADLINE)
            .into_iter()
            .map(member)
            .collect(),
    )
}

fn member(contact: Contact) -> Member {
    let address = contact.peer.address.clone();
    match contact.reached {
        Ok(reached) => Member {
            presence: Presence::Here,
            address,
            round_trip: Some(reached.rtt),
            way: Some(if reached.relayed {
                Way::Relayed
            } else {
                Way::Direct
            }),
            profile: Some(reached.profile),
            load: None,
            peer: contact.peer,
        },
        Err(_) => Member {
            presence: Presence::Away,
            address,
            round_trip: None,
            way: None,
            profile: None,
            load: None,
            peer: contact.peer,
        },
    }
}
