//! A node: lends its models to sessions, each of which runs a range of layers.
//!
//! What a session may hold is bounded: sessions by [`NodeCaps`], caches by the budget that the model was loaded with,
//! orders by the seat. A node never knows whose text it computes on.

mod stage;

pub use stage::{Stage, StageError};

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use heph_engine::model::Model;
use heph_engine::worker::{CHUNK_DEFAULT, Worker};
use heph_kernels::isa::Isa;
use heph_kernels::pool::Pool;
use heph_types::{ModelHash, NodeId, SessionId, StageSpec};

use crate::pressure::Pressure;
use crate::seat::{Bell, Host, Refusal, Seat, SeatError};

/// What a node gives away at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeCaps {
    /// Sessions open at the same time.
    pub sessions: usize,
}

impl Default for NodeCaps {
    fn default() -> Self {
        Self { sessions: 64 }
    }
}

/// A model that a node lends, and what it runs on.
#[derive(Clone)]
pub struct Lent {
    /// The model.
    pub model: Arc<Model>,
    /// Threads to compute with.
    pub pool: Arc<Pool>,
    /// Instruction set to compute on.
    pub isa: Isa,
    /// Tokens of a prompt that go through a layer together.
    pub chunk: usize,
}

impl Lent {
    /// A model with chunks of the usual length.
    pub fn new(model: Arc<Model>, pool: Arc<Pool>, isa: Isa) -> Self {
        let chunk = CHUNK_DEFAULT;
        Self {
            model,
            pool,
            isa,
            chunk,
        }
    }

    /// The model that `worker` runs, on what it runs.
    pub fn of(worker: &Worker) -> Self {
        Self {
            model: Arc::clone(worker.model()),
            pool: Arc::clone(worker.pool()),
            isa: worker.isa(),
            chunk: worker.chunk(),
        }
    }

    /// A worker with buffers of its own.
    fn worker(&self) -> Worker {
        Worker::new(Arc::clone(&self.model), Arc::clone(&self.pool), self.isa).with_chunk(self.chunk)
    }
}

/// This process as a member of the network.
pub struct Node {
    id: NodeId,
    models: BTreeMap<ModelHash, Lent>,
    caps: NodeCaps,
    open: Arc<AtomicUsize>,
    stop: Option<Arc<AtomicBool>>,
    pressure: Option<Pressure>,
}

impl Node {
    /// A node that lends nothing yet.
    pub fn new(id: NodeId, caps: NodeCaps) -> Self {
        Self {
            id,
            models: BTreeMap::new(),
            caps,
            open: Arc::default(),
            stop: None,
            pressure: None,
        }
    }

    /// The node that also lends this model.
    pub fn with(mut self, hash: ModelHash, lent: Lent) -> Self {
        self.models.insert(hash, lent);
        self
    }

    /// The node that gives work up between two layers once `flag` is set.
    pub fn with_stop(mut self, flag: Arc<AtomicBool>) -> Self {
        self.stop = Some(flag);
        self
    }

    /// The node that refuses a stage, or gives one up, before memory runs out: its desk goes on elsewhere.
    pub fn with_pressure(mut self, pressure: Pressure) -> Self {
        self.pressure = Some(pressure);
        self
    }

    /// Its id.
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// The models it lends.
    pub fn models(&self) -> impl Iterator<Item = (ModelHash, &Lent)> {
        self.models.iter().map(|(hash, lent)| (*hash, lent))
    }

    /// Sessions open now.
    pub fn sessions(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// A stage for a new session.
    ///
    /// # Errors
    /// When the node does not lend the model, has no session left, or the stage cannot be.
    pub fn stage(&self, spec: &StageSpec) -> Result<Stage, StageError> {
        self.stage_with(spec, self.stop.clone())
    }

    /// A stage for a new session, whose work is given up between two layers once `flag` is set.
    ///
    /// # Errors
    /// As [`Node::stage`].
    pub fn stage_until(&self, spec: &StageSpec, flag: Arc<AtomicBool>) -> Result<Stage, StageError> {
        self.stage_with(spec, Some(flag))
    }

    fn stage_with(&self, spec: &StageSpec, flag: Option<Arc<AtomicBool>>) -> Result<Stage, StageError> {
        let lent = self.models.get(&spec.model).ok_or(StageError::UnknownModel)?;
        let place = self.place()?;
        let worker = match flag {
            Some(flag) => lent.worker().with_stop(flag),
            None => lent.worker(),
        };
        let stage = Stage::new(self.id, worker, spec, Some(place))?;
        match &self.pressure {
            Some(pressure) => stage.with_pressure(pressure.clone()),
            None => Ok(stage),
        }
    }

    fn place(&self) -> Result<SessionPlace, StageError> {
        let cap = self.caps.sessions;
        let more = |open: usize| (open < cap).then_some(open + 1);
        match self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more) {
            Ok(_) => Ok(SessionPlace(Arc::clone(&self.open))),
            Err(_) => Err(StageError::Sessions { cap }),
        }
    }
}

/// One of the sessions that a node may have, given back when dropped.
#[derive(Debug)]
pub(crate) struct SessionPlace(Arc<AtomicUsize>);

impl Drop for SessionPlace {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The nearest node: its stages compute when they are asked for a reply, on the thread that asks.
impl Host for Node {
    fn node(&self) -> NodeId {
        self.id
    }

    fn open(&self, _session: SessionId, spec: &StageSpec, _bell: &Bell) -> Result<Box<dyn Seat>, SeatError> {
        match self.stage(spec) {
            Ok(stage) => Ok(Box::new(stage)),
            Err(error) => Err(SeatError::Refused {
                node: self.id,
                why: Refusal::Stage(error),
            }),
        }
    }
}
