//! The machines that a request may be laid out over: this one and the others that are known, each with what was measured
//! of it and the host that opens its stages.
//!
//! It gathers and never chooses: [`NodePool::cluster`] is what the planner is given, and [`crate::route`] turns its plan
//! into a line over these hosts.

mod contact;
mod following;

pub use contact::{Contact, Hailing, Reached, Waits, contacts};
pub use following::{Came, follow};

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use heph_plan::{Between, Cluster, NODES_MAX, Peer};
use heph_types::{LayerRange, LinkProfile, ModelHash, NodeId, NodeProfile, Role, SessionId, StageSpec};

use crate::cancel::Cancel;
use crate::node::{Lent, Node, NodeCaps};
use crate::seat::{Bell, Host, Refusal, Seat, SeatError};
use crate::ways::Distances;
use contact::link_to;

/// Another machine.
#[derive(Clone)]
pub struct Machine {
    /// What it is and how fast.
    pub profile: NodeProfile,
    /// The way there.
    pub link: LinkProfile,
    /// Opens stages there.
    pub host: Arc<dyn Host>,
}

/// This machine and the others.
#[derive(Clone)]
pub struct NodePool {
    desk: NodeProfile,
    here: Arc<dyn Host>,
    others: Vec<Machine>,
    /// How far the others are from each other, where they told.
    distances: Distances,
}

impl NodePool {
    /// Only this machine.
    pub fn alone(desk: NodeProfile, here: Arc<dyn Host>) -> Self {
        Self {
            desk,
            here,
            others: Vec::new(),
            distances: Distances::new(),
        }
    }

    /// That knows how far the others are from each other.
    pub fn apart(mut self, distances: Distances) -> Self {
        self.distances = distances;
        self
    }

    /// With another machine; one that was known is replaced. What the planner cannot list is left out.
    pub fn with(mut self, machine: Machine) -> Self {
        let node = machine.profile.node;
        self.others.retain(|known| known.profile.node != node);
        if node != self.desk.node && self.others.len() < NODES_MAX {
            self.others.push(machine);
        }
        self
    }

    /// This machine.
    pub fn desk(&self) -> &NodeProfile {
        &self.desk
    }

    /// Opens stages on this machine.
    pub fn here(&self) -> &Arc<dyn Host> {
        &self.here
    }

    /// The other machines.
    pub fn others(&self) -> &[Machine] {
        &self.others
    }

    /// What is known of a node, this machine included.
    pub fn profile(&self, node: NodeId) -> Option<&NodeProfile> {
        let others = self.others.iter().map(|machine| &machine.profile);
        std::iter::once(&self.desk)
            .chain(others)
            .find(|profile| profile.node == node)
    }

    /// What people call a node.
    pub fn name(&self, node: NodeId) -> String {
        self.profile(node)
            .map_or_else(|| node.short(), |profile| profile.name.clone())
    }

    /// `text` with the machines by their names, where it has the short keys by which errors of the floors below call them.
    pub fn named(&self, text: &str) -> String {
        let others = self.others.iter().map(|machine| &machine.profile);
        let others = others.map(|profile| (profile.node, &*profile.name));
        let all = std::iter::once((self.desk.node, "this machine")).chain(others);
        all.fold(text.to_owned(), |text, (node, name)| by_name(&text, node, name))
    }

    /// What the planner is given, where nobody sends layers to machines that lack them.
    pub fn cluster(&self) -> Cluster {
        let mut cluster = self.cluster_that_takes();
        let peers = cluster.nodes.iter_mut();
        peers.for_each(|peer| peer.profile.caps.accepts_bytes = 0);
        cluster
    }

    /// What the planner is given, where machines may be sent layers as far as they take any.
    pub fn cluster_that_takes(&self) -> Cluster {
        let peer = |machine: &Machine| Peer {
            profile: machine.profile.clone(),
            link: machine.link,
        };
        Cluster {
            desk: self.desk.clone(),
            nodes: self.others.iter().map(peer).collect(),
            between: self.between(),
        }
    }

    /// The ways between this person's other machines, which alone may hear of each other. Two that met told how far they are
    /// from each other; others are taken to be as far as both are from here on average. The way between them is taken to
    /// carry what the slower of their own ways does.
    fn between(&self) -> Vec<Between> {
        let own = self
            .others
            .iter()
            .filter(|machine| machine.profile.role == Role::Own);
        let own: Vec<&Machine> = own.take(OWN_PAIRED_MAX).collect();
        let pairs = own.iter().enumerate().flat_map(|(at, from)| {
            let others = own[at + 1..].iter();
            others.map(move |to| Between {
                from: from.profile.node,
                to: to.profile.node,
                link: LinkProfile {
                    rtt: self.distance(from, to),
                    up: from.link.down.min(to.link.up),
                    down: from.link.up.min(to.link.down),
                    loss: from.link.loss.max(to.link.loss),
                },
            })
        });
        pairs.collect()
    }

    fn distance(&self, one: &Machine, other: &Machine) -> Duration {
        let (a, b) = (one.profile.node, other.profile.node);
        let told = self.distances.get(&[a.min(b), a.max(b)]).copied();
        told.unwrap_or_else(|| (one.link.rtt + other.link.rtt) / 2)
    }
}

/// `text` with a machine by its name, where it has its short key.
pub fn by_name(text: &str, node: NodeId, name: &str) -> String {
    text.replace(&node.short(), name)
}

/// Machines of one person whose ways to each other the planner is told: 64 have 2,016.
const OWN_PAIRED_MAX: usize = 64;

/// Brings the model of a [`Here`] into memory.
pub trait Loader: Send + Sync {
    /// The model with these layers, or with all of them; the error is a sentence.
    ///
    /// # Errors
    /// When it cannot be loaded, or does not fit.
    fn load(&self, layers: Option<LayerRange>) -> Result<Lent, String>;

    /// Keeps nothing of it for the next time.
    fn let_go(&self) {}
}

/// This machine as a host that loads its model when the first stage is opened: a model that runs elsewhere takes no
/// memory here until the other machine is lost.
pub struct Here {
    node: NodeId,
    model: ModelHash,
    loader: Box<dyn Loader>,
    cancel: Cancel,
    held: Mutex<HeldHere>,
}

/// What of a model is in memory.
#[derive(Default)]
struct HeldHere {
    node: Option<Arc<Node>>,
    /// Only these layers, since memory became short.
    only: Option<LayerRange>,
}

impl Here {
    /// This machine, called `node`, with a model that `loader` brings.
    pub fn new(node: NodeId, model: ModelHash, cancel: Cancel, loader: Box<dyn Loader>) -> Self {
        Self {
            node,
            model,
            loader,
            cancel,
            held: Mutex::default(),
        }
    }

    fn lending(&self, layers: LayerRange) -> Result<Arc<Node>, String> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let lacks = |only: LayerRange| layers.start() < only.start() || only.end() < layers.end();
        if held.only.is_some_and(lacks) {
            *held = HeldHere::default();
            self.loader.let_go();
        }
        if let Some(node) = &held.node {
            return Ok(Arc::clone(node));
        }
        let node = Node::new(self.node, NodeCaps::default()).with_stop(self.cancel.flag());
        let node = Arc::new(node.with(self.model, self.loader.load(held.only)?));
        Ok(Arc::clone(held.node.insert(node)))
    }
}

impl Host for Here {
    fn node(&self) -> NodeId {
        self.node
    }

    fn open(&self, session: SessionId, spec: &StageSpec, bell: &Bell) -> Result<Box<dyn Seat>, SeatError> {
        let node = self.lending(spec.layers).map_err(|why| SeatError::Refused {
            node: self.node,
            why: Refusal::Said(why),
        })?;
        node.open(session, spec, bell)
    }

    /// What stays is loaded anew when it is needed next, since a model in memory cannot be cut.
    fn let_go(&self, kept: &[LayerRange]) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        *held = HeldHere {
            node: None,
            only: hull(kept),
        };
        self.loader.let_go();
    }
}

/// The least range that holds all of these; `None` where there are none.
fn hull(ranges: &[LayerRange]) -> Option<LayerRange> {
    let start = ranges.iter().map(|range| range.start()).min()?;
    let end = ranges.iter().map(|range| range.end()).max()?;
    LayerRange::new(start, end, end).ok()
}

#[cfg(test)]
pub(crate) mod testing {
    use std::time::Duration;

    use heph_types::{Caps, Exactness, NodeId, NodeProfile, NodeState, Price, Role, Speed};

    /// A machine that holds nothing.
    pub(crate) fn profile(node: NodeId, role: Role) -> NodeProfile {
        NodeProfile {
            node,
            name: node.short(),
            role,
            speed: Speed {
                bytes_per_second: 1e9,
                flops_per_second: 1e10,
                overhead: Duration::ZERO,
                measured: Vec::new(),
            },
            memory: 1 << 30,
            holds: Vec::new(),
            exactness: Exactness::Exact,
            caps: Caps::default(),
            state: NodeState::Open,
            queue: Duration::ZERO,
            price: Price::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::profile;
    use super::*;

    #[test]
    fn machines_that_met_are_planned_with_as_far_from_each_other_as_they_told() {
        let node = |which: u8| NodeId([which; 32]);
        let ms = Duration::from_millis;
        let here: Arc<dyn Host> = Arc::new(Node::new(node(0), NodeCaps::default()));
        let machine = |which: u8, rtt: u64| Machine {
            profile: profile(node(which), Role::Own),
            link: LinkProfile {
                rtt: ms(rtt),
                up: 1e6,
                down: 1e6,
                loss: 0.0,
            },
            host: Arc::clone(&here),
        };
        let pool = NodePool::alone(profile(node(0), Role::Own), Arc::clone(&here));
        let pool = [(3, 100), (2, 80), (1, 60)]
            .into_iter()
            .fold(pool, |pool, (which, rtt)| pool.with(machine(which, rtt)));
        // Two in one house, far from here.
        let pool = pool.apart([([node(2), node(3)], ms(1))].into());
        let between = pool.cluster().between;
        let rtt = |a: u8, b: u8| {
            let is = |way: &&Between| [way.from, way.to] == [node(a), node(b)];
            between.iter().find(is).map(|way| way.link.rtt)
        };
        assert_eq!(
            (rtt(3, 2), rtt(3, 1), rtt(2, 1)),
            (Some(ms(1)), Some(ms(80)), Some(ms(70)))
        );
    }
}
