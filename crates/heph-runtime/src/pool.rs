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

use heph_plan::{Cluster, NODES_MAX, Peer};
use heph_types::{LinkProfile, ModelHash, NodeId, NodeProfile, SessionId, StageSpec};

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
            between: Vec::new(),
        }
    }
}

/// Loads the model of a [`Here`]; the error is a sentence.
pub type Loader = Box<dyn Fn() -> Result<Lent, String> + Send + Sync>;

/// This machine as a host that loads its model when the first stage is opened: a model that runs elsewhere takes no
/// memory here until the other machine is lost.
pub struct Here {
    node: NodeId,
    model: ModelHash,
    load: Loader,
    cancel: Cancel,
    loaded: Mutex<Option<Arc<Node>>>,
}

impl Here {
    /// This machine, called `node`, with a model that `load` brings.
    pub fn new(node: NodeId, model: ModelHash, cancel: Cancel, load: Loader) -> Self {
        Self {
            node,
            model,
            load,
            cancel,
            loaded: Mutex::default(),
        }
    }

    fn lending(&self) -> Result<Arc<Node>, String> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(node) = &*loaded {
            return Ok(Arc::clone(node));
        }
        let node = Node::new(self.node, NodeCaps::default()).with_stop(self.cancel.flag());
        let node = Arc::new(node.with(self.model, (self.load)()?));
        Ok(Arc::clone(loaded.insert(node)))
    }
}

impl Host for Here {
    fn node(&self) -> NodeId {
        self.node
    }

    fn open(&self, session: SessionId, spec: &StageSpec, bell: &Bell) -> Result<Box<dyn Seat>, SeatError> {
        let node = self.lending().map_err(|why| SeatError::Refused {
            node: self.node,
            why: Refusal::Said(why),
        })?;
        node.open(session, spec, bell)
    }
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
