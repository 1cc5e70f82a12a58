//! What becomes of the other machines while answers are given: who comes, goes, pauses, holds other layers or is reached by
//! another way is told to whoever steers the line.
//!
//! It compares and never chooses. What it tells is what [`Members`] see; every host that it brings stands behind the
//! policy's [`crate::gate::Gate`], as those that were there from the start do.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use heph_plan::Peer as Planned;
use heph_plan::replan::Event;
use heph_types::{Caps, Held, LinkProfile, NodeId, NodeProfile, NodeState, Role};

use super::{Machine, NodePool, link_to};
use crate::gate::Doors;
use crate::members::{Follow, Member, Members, Presence};
use crate::peer::Peer;
use crate::replan::Change;
use crate::seat::Host;

/// Changes that wait for whoever steers. It looks at every token; what finds no room is told at the next look.
const CHANGES_WAITING: usize = 64;

/// A round trip or a rate that differs by less than this many times is no news.
const WAY_TIMES: f64 = 1.5;

/// And a round trip that differs by less than this is none either: what a busy machine does to loopback.
const ROUND_TRIP_NEWS_S: f64 = 0.005;

/// The machines that came since, for those who have to name them. While one of these lives, changes are told.
#[derive(Clone, Default)]
pub struct Came(Arc<Mutex<BTreeMap<NodeId, Machine>>>);

impl Came {
    /// `pool` with every machine that came.
    pub fn join(&self, pool: &NodePool) -> NodePool {
        let came = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        came.values().cloned().fold(pool.clone(), NodePool::with)
    }

    fn add(&self, machine: &Machine) {
        let mut came = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        came.insert(machine.profile.node, machine.clone());
    }
}

/// Tells from now on what becomes of the machines, beginning with those of `pool`, until nobody listens any more.
pub fn follow(members: &Members, pool: &NodePool, doors: Doors) -> (Receiver<Change>, Came) {
    let (tell, told) = sync_channel(CHANGES_WAITING);
    let came = Came::default();
    let (mut news, listed) = (News::of(pool), Arc::downgrade(&came.0));
    let network = members.network().clone();
    members.follow(move |all| {
        let Some(came) = listed.upgrade().map(Came) else {
            return Follow::Enough;
        };
        let way = |member: &Member| Some(link_to(&network, &member.peer, member.round_trip?));
        for (node, step) in news.steps(&all, way) {
            let change = match &step {
                Step::Came(profile, link) => {
                    let host = || Arc::new(Peer::new(&network, node)) as Arc<dyn Host>;
                    let machine = Machine {
                        profile: (**profile).clone(),
                        link: *link,
                        host: news.host(node).unwrap_or_else(host),
                    };
                    came.add(&machine);
                    news.keep_host(node, &machine.host);
                    joined(machine, &doors)
                }
                Step::Went => Change::Event(Event::Lost(node)),
                Step::Way(link) => Change::Event(Event::Link { node, link: *link }),
            };
            match tell.try_send(change) {
                Ok(()) => news.told(node, step),
                Err(TrySendError::Full(_)) => return Follow::On,
                Err(TrySendError::Disconnected(_)) => return Follow::Enough,
            }
        }
        Follow::On
    });
    (told, came)
}

fn joined(machine: Machine, doors: &Doors) -> Change {
    let host = Arc::new(doors.door(Arc::clone(&machine.host), &machine.profile));
    let peer = Planned {
        profile: machine.profile,
        link: machine.link,
    };
    Change::Joined {
        peer: Box::new(peer),
        host,
    }
}

/// What became of one machine.
#[derive(Debug, Clone, PartialEq)]
enum Step {
    /// It is there, and was not, or says something else of itself than before.
    Came(Box<NodeProfile>, LinkProfile),
    /// It is gone.
    Went,
    /// The way there is another.
    Way(LinkProfile),
}

/// What was told of the machines, to see what is new.
struct News {
    known: BTreeMap<NodeId, Known>,
    hosts: BTreeMap<NodeId, Arc<dyn Host>>,
}

struct Known {
    offers: Offers,
    link: LinkProfile,
    /// Whether it was seen since: who was only asked when the answer was planned is not missed.
    seen: bool,
}

/// What of a profile makes another plan.
#[derive(Debug, Clone, PartialEq)]
struct Offers {
    state: NodeState,
    holds: Vec<Held>,
    caps: Caps,
    role: Role,
}

impl Offers {
    fn of(profile: &NodeProfile) -> Self {
        Self {
            state: profile.state,
            holds: profile.holds.clone(),
            // No answer under way sends layers: what room there is for them is no news to it.
            caps: Caps {
                accepts_bytes: 0,
                ..profile.caps
            },
            role: profile.role,
        }
    }
}

impl News {
    fn of(pool: &NodePool) -> Self {
        let known = |machine: &Machine| {
            let known = Known {
                offers: Offers::of(&machine.profile),
                link: machine.link,
                seen: false,
            };
            (machine.profile.node, known)
        };
        let host = |machine: &Machine| (machine.profile.node, Arc::clone(&machine.host));
        Self {
            known: pool.others().iter().map(known).collect(),
            hosts: pool.others().iter().map(host).collect(),
        }
    }

    /// What became of whom, compared with what was told.
    fn steps(&mut self, all: &[Member], way: impl Fn(&Member) -> Option<LinkProfile>) -> Vec<(NodeId, Step)> {
        let struck_out = |node: &&NodeId| !all.iter().any(|member| member.peer.node == **node);
        let gone: Vec<NodeId> = self.known.keys().filter(struck_out).copied().collect();
        let mut steps: Vec<_> = gone.into_iter().map(|node| (node, Step::Went)).collect();
        for member in all {
            steps.extend(self.step(member, &way).map(|step| (member.peer.node, step)));
        }
        steps
    }

    fn step(&mut self, member: &Member, way: impl Fn(&Member) -> Option<LinkProfile>) -> Option<Step> {
        let known = self.known.get_mut(&member.peer.node);
        match member.presence {
            Presence::Suspect => None,
            Presence::Away => known.filter(|known| known.seen).map(|_| Step::Went),
            Presence::Here => {
                let (profile, link) = (member.profile.as_ref()?, way(member)?);
                let Some(known) = known else {
                    return Some(Step::Came(Box::new(profile.clone()), link));
                };
                known.seen = true;
                if known.offers != Offers::of(profile) {
                    return Some(Step::Came(Box::new(profile.clone()), link));
                }
                is_news(&known.link, &link).then_some(Step::Way(link))
            }
        }
    }

    /// Whoever steers has heard it.
    fn told(&mut self, node: NodeId, step: Step) {
        match step {
            Step::Came(profile, link) => {
                let known = Known {
                    offers: Offers::of(&profile),
                    link,
                    seen: true,
                };
                self.known.insert(node, known);
            }
            Step::Went => {
                self.known.remove(&node);
            }
            Step::Way(link) => {
                self.known.entry(node).and_modify(|known| known.link = link);
            }
        }
    }

    /// How stages are asked of it, where it was known before: its connection may still be open.
    fn host(&self, node: NodeId) -> Option<Arc<dyn Host>> {
        self.hosts.get(&node).cloned()
    }

    fn keep_host(&mut self, node: NodeId, host: &Arc<dyn Host>) {
        self.hosts.insert(node, Arc::clone(host));
    }
}

/// Whether a way differs so much from what was told that another plan may be better.
fn is_news(told: &LinkProfile, now: &LinkProfile) -> bool {
    let differs = |a: f64, b: f64| a > b * WAY_TIMES || b > a * WAY_TIMES;
    let (before, after) = (told.rtt.as_secs_f64(), now.rtt.as_secs_f64());
    let rtt = (before - after).abs() > ROUND_TRIP_NEWS_S && differs(before, after);
    rtt || differs(told.up, now.up) || differs(told.down, now.down)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use heph_net::address::NodeAddress;
    use heph_net::trust;
    use heph_types::{LayerRange, ModelHash};

    use super::*;
    use crate::pool::testing::profile;

    fn id(at: u8) -> NodeId {
        NodeId([at; 32])
    }

    fn link(rtt_ms: u64, rate: f64) -> LinkProfile {
        LinkProfile {
            rtt: Duration::from_millis(rtt_ms),
            up: rate,
            down: rate,
            loss: 0.0,
        }
    }

    fn member(at: u8, presence: Presence, rtt_ms: Option<u64>) -> Member {
        let peer = trust::Peer {
            node: id(at),
            role: Role::Own,
            name: format!("node-{at}"),
            since: 0,
            address: NodeAddress::default(),
        };
        Member {
            presence,
            address: NodeAddress::default(),
            round_trip: rtt_ms.map(Duration::from_millis),
            way: None,
            profile: (presence != Presence::Away).then(|| profile(id(at), Role::Own)),
            load: None,
            peer,
        }
    }

    fn nobody() -> News {
        News {
            known: BTreeMap::new(),
            hosts: BTreeMap::new(),
        }
    }

    /// What is told of these members; all of it is heard.
    fn heard(news: &mut News, all: &[Member]) -> Vec<(NodeId, Step)> {
        let way = |member: &Member| Some(link(member.round_trip?.as_millis() as u64, 1e7));
        let steps = news.steps(all, way);
        for (node, step) in steps.clone() {
            news.told(node, step);
        }
        steps
    }

    fn came(steps: &[(NodeId, Step)]) -> Vec<u8> {
        let came = steps.iter().filter(|(_, step)| matches!(step, Step::Came(..)));
        came.map(|(node, _)| node.0[0]).collect()
    }

    #[test]
    fn who_comes_and_goes_is_told_once() {
        let mut news = nobody();
        let here = [
            member(1, Presence::Here, Some(1)),
            member(2, Presence::Away, None),
        ];
        assert_eq!(came(&heard(&mut news, &here)), [1]);
        assert_eq!(heard(&mut news, &here), []);
        let suspect = [member(1, Presence::Suspect, Some(1)), here[1].clone()];
        assert_eq!(heard(&mut news, &suspect), [], "it may only be slow");
        let away = [member(1, Presence::Away, None), here[1].clone()];
        assert_eq!(heard(&mut news, &away), [(id(1), Step::Went)]);
        assert_eq!(heard(&mut news, &away), []);
        assert_eq!(came(&heard(&mut news, &here)), [1], "it came back");
        // Who is struck out of the book is gone, however alive.
        assert_eq!(heard(&mut news, &here[1..]), [(id(1), Step::Went)]);
    }

    #[test]
    fn a_machine_whose_distance_is_not_known_is_not_planned_with() {
        let mut news = nobody();
        assert_eq!(heard(&mut news, &[member(1, Presence::Here, None)]), []);
        assert_eq!(
            came(&heard(&mut news, &[member(1, Presence::Here, Some(3))])),
            [1]
        );
    }

    #[test]
    fn who_was_asked_but_not_met_yet_is_not_missed() {
        let mut news = nobody();
        let asked = Known {
            offers: Offers::of(&profile(id(1), Role::Own)),
            link: link(1, 1e7),
            seen: false,
        };
        news.known.insert(id(1), asked);
        assert_eq!(heard(&mut news, &[member(1, Presence::Away, None)]), []);
        assert_eq!(heard(&mut news, &[member(1, Presence::Here, Some(1))]), []);
        let went = heard(&mut news, &[member(1, Presence::Away, None)]);
        assert_eq!(went, [(id(1), Step::Went)]);
    }

    #[test]
    fn another_state_other_layers_and_another_way_are_news_and_small_differences_are_none() {
        let mut news = nobody();
        let mut one = member(1, Presence::Here, Some(20));
        heard(&mut news, std::slice::from_ref(&one));
        for (rtt_ms, told) in [(21, false), (24, false), (29, false), (31, true), (20, true)] {
            one.round_trip = Some(Duration::from_millis(rtt_ms));
            let steps = heard(&mut news, std::slice::from_ref(&one));
            assert_eq!(!steps.is_empty(), told, "{rtt_ms} ms: {steps:?}");
        }
        let said = one.profile.as_mut().unwrap();
        said.caps.accepts_bytes += 4096;
        assert_eq!(heard(&mut news, std::slice::from_ref(&one)), []);
        let said = one.profile.as_mut().unwrap();
        said.state = NodeState::OwnerWorks;
        assert_eq!(came(&heard(&mut news, std::slice::from_ref(&one))), [1]);
        let layers = LayerRange::new(0, 2, 4).unwrap();
        let model = ModelHash([5; 32]);
        one.profile.as_mut().unwrap().holds = vec![Held { model, layers }];
        assert_eq!(came(&heard(&mut news, std::slice::from_ref(&one))), [1]);
        assert_eq!(heard(&mut news, std::slice::from_ref(&one)), []);
    }

    #[test]
    fn a_faster_way_is_news_and_loopback_that_jitters_is_none() {
        let told = link(1, 1e7);
        assert!(!is_news(&told, &link(4, 1.4e7)));
        assert!(is_news(&told, &link(1, 1.6e7)) && is_news(&told, &link(1, 6e6)));
        assert!(is_news(&told, &link(10, 1e7)));
    }
}
