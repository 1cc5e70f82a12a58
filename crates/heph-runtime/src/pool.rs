//! The machines that a request may be laid out over: this one and the others that are known, each with what was measured
//! of it and the host that opens its stages.
//!
//! It gathers and never chooses: [`NodePool::cluster`] is what the planner is given, and [`crate::route`] turns its plan
//! into a line over these hosts.

mod contact;
mod following;
mod lookout;

pub use contact::{Contact, Reached, contacts};
pub use following::{Came, Doors, follow};
pub use lookout::Lookout;

use std::sync::{Arc, Mutex, PoisonError};

use heph_plan::{Between, Cluster, NODES_MAX, Peer};
use heph_types::{LayerRange, LinkProfile, ModelHash, NodeId, NodeProfile, Role, SessionId, StageSpec};

use crate::cancel::Cancel;
use crate::node::{Lent, Node, NodeCaps};
use crate::seat::{Bell, Host, Refusal, Seat, SeatError};
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
}

impl NodePool {
    /// Only this machine.
    pub fn alone(desk: NodeProfile, here: Arc<dyn Host>) -> Self {
        Self {
            desk,
            here,
            others: Vec::new(),
        }
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

    /// What the planner is given.
    pub fn cluster(&self) -> Cluster {
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

    /// The ways between this person's other machines, which alone may hear of each other. Nobody measured them from here: two
    /// machines are taken to be as far from each other as both are from here on average, and the way between them to carry
    /// what the slower of their own ways does.
    fn between(&self) -> Vec<Between> {
        let own = self
            .others
            .iter()
            .filter(|machine| machine.profile.role == Role::Own);
        let own: Vec<&Machine> = own.take(OWN_PAIRED_MAX).collect();
        let pairs = own.iter().enumerate().flat_map(|(at, from)| {
            let others = own[at + 1..].iter();
            others.map(|to| Between {
                from: from.profile.node,
                to: to.profile.node,
                link: LinkProfile {
                    rtt: (from.link.rtt + to.link.rtt) / 2,
                    up: from.link.down.min(to.link.up),
                    down: from.link.up.min(to.link.down),
                    loss: from.link.loss.max(to.link.loss),
                },
            })
        });
        pairs.collect()
    }
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
mod testing {
    use std::time::Duration;

    use heph_types::{Caps, Exactness, NodeId, NodeProfile, NodeState, Price, Role, Speed};

    /// A machine that holds nothing.
    pub(super) fn profile(node: NodeId, role: Role) -> NodeProfile {
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
