//! A node: lends its models to sessions, each of which runs a range of layers.
//!
//! What a session may hold is bounded: sessions by [`NodeCaps`], caches by the budget that the model was loaded with,
//! orders by the seat. A node never knows whose text it computes on.

mod backed;
mod stage;

pub use backed::{BackedModel, BackedStage, Backend};
pub use stage::{Stage, StageError};

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use heph_engine::cache::KvBudget;
use heph_engine::model::Model;
use heph_engine::worker::{CHUNK_DEFAULT, Worker};
use heph_kernels::isa::Isa;
use heph_kernels::pool::Pool;
use heph_types::{
    CachePart, ModelHash, NodeId, Order, Position, Reply, SamplingOptions, SessionId, StageSpec,
};

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
    /// Where caches take their room, where that is not the model's own.
    pub room: Option<Arc<KvBudget>>,
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
            room: None,
        }
    }

    /// The model that `worker` runs, on what it runs.
    pub fn of(worker: &Worker) -> Self {
        Self {
            model: Arc::clone(worker.model()),
            pool: Arc::clone(worker.pool()),
            isa: worker.isa(),
            chunk: worker.chunk(),
            room: None,
        }
    }

    /// The same, whose caches take their room from `budget`: what others keep of this model is then in nobody's way.
    pub fn with_room(self, budget: Arc<KvBudget>) -> Self {
        Self {
            room: Some(budget),
            ..self
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
    models: RwLock<BTreeMap<ModelHash, Lent>>,
    /// Models that other engines run.
    backed: BTreeMap<ModelHash, Arc<Backend>>,
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
            models: RwLock::default(),
            backed: BTreeMap::new(),
            caps,
            open: Arc::default(),
            stop: None,
            pressure: None,
        }
    }

    /// Whether it has as many sessions as it may.
    pub fn is_full(&self) -> bool {
        self.open.load(Ordering::Relaxed) >= self.caps.sessions
    }

    /// The node that also lends this model.
    pub fn with(self, hash: ModelHash, lent: Lent) -> Self {
        self.lend(hash, lent);
        self
    }

    /// Lends this model from now on, in the place of what was lent of it before: sessions that are open go on with that.
    pub fn lend(&self, hash: ModelHash, lent: Lent) {
        // Every change of the map is one step: a thread that panicked left it whole.
        let mut models = self.models.write().unwrap_or_else(PoisonError::into_inner);
        models.insert(hash, lent);
    }

    /// The node that also lends this model, which an engine elsewhere runs.
    pub fn with_backend(mut self, hash: ModelHash, backend: Backend) -> Self {
        self.backed.insert(hash, Arc::new(backend));
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

    /// What it lends of a model.
    pub fn lent(&self, hash: ModelHash) -> Option<Lent> {
        let models = self.models.read().unwrap_or_else(PoisonError::into_inner);
        models.get(&hash).cloned()
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

    /// What carries out the orders of a new session, here or at an engine elsewhere; its work is given up once `flag` is set.
    ///
    /// # Errors
    /// As [`Node::stage`].
    pub fn work_until(&self, spec: &StageSpec, flag: Arc<AtomicBool>) -> Result<Work, StageError> {
        match self.backed.get(&spec.model) {
            None => Ok(Work::Here(Box::new(self.stage_until(spec, flag)?))),
            Some(backend) => {
                let place = self.place()?;
                let stage = BackedStage::new(Arc::clone(backend), spec, flag, place)?;
                Ok(Work::Elsewhere(Box::new(stage)))
            }
        }
    }

    fn stage_with(&self, spec: &StageSpec, flag: Option<Arc<AtomicBool>>) -> Result<Stage, StageError> {
        let lent = self.lent(spec.model).ok_or(StageError::UnknownModel)?;
        let place = self.place()?;
        let worker = match flag {
            Some(flag) => lent.worker().with_stop(flag),
            None => lent.worker(),
        };
        let stage = Stage::new(self.id, worker, spec, Some(place))?;
        let stage = match &lent.room {
            Some(room) => stage.with_room(room),
            None => stage,
        };
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

/// Carries out the orders of one session.
pub enum Work {
    /// On this machine.
    Here(Box<Stage>),
    /// At an engine elsewhere.
    Elsewhere(Box<BackedStage>),
}

impl Work {
    /// As [`Stage::take`].
    ///
    /// # Errors
    /// When as many orders wait as may.
    pub fn take(&mut self, order: Order) -> Result<(), StageError> {
        match self {
            Self::Here(stage) => stage.take(order),
            Self::Elsewhere(stage) => stage.take(order),
        }
    }

    /// As [`Stage::work`].
    ///
    /// # Errors
    /// When an order cannot be carried out.
    pub fn work(&mut self) -> Result<Option<Reply>, StageError> {
        match self {
            Self::Here(stage) => stage.work(),
            Self::Elsewhere(stage) => stage.work(),
        }
    }

    /// As [`Stage::held`].
    pub fn held(&self) -> usize {
        match self {
            Self::Here(stage) => stage.held(),
            Self::Elsewhere(stage) => stage.held(),
        }
    }

    /// As [`Stage::width`].
    pub fn width(&self) -> usize {
        match self {
            Self::Here(stage) => stage.width(),
            Self::Elsewhere(stage) => stage.width(),
        }
    }

    /// As [`Stage::leave_stream`].
    pub fn leave_stream(&mut self) {
        match self {
            Self::Here(stage) => stage.leave_stream(),
            Self::Elsewhere(stage) => stage.leave_stream(),
        }
    }

    /// As [`Stage::choose_anew`].
    pub fn choose_anew(&mut self, options: &SamplingOptions) -> bool {
        match self {
            Self::Here(stage) => stage.choose_anew(options),
            Self::Elsewhere(stage) => stage.choose_anew(options),
        }
    }

    /// As [`Stage::cache_part`]; an engine elsewhere gives none.
    ///
    /// # Errors
    /// When it is not held.
    pub fn cache_part(&self, first: Position, to: Position) -> Result<CachePart, StageError> {
        match self {
            Self::Here(stage) => stage.cache_part(first, to),
            Self::Elsewhere(_) => Err(StageError::Order(NO_CACHE)),
        }
    }

    /// As [`Stage::take_in`]; an engine elsewhere takes none.
    ///
    /// # Errors
    /// When it does not follow what is held.
    pub fn take_in(&mut self, part: &CachePart) -> Result<(), StageError> {
        match self {
            Self::Here(stage) => stage.take_in(part),
            Self::Elsewhere(_) => Err(StageError::Order(NO_CACHE)),
        }
    }
}

/// Why caches of a model that runs elsewhere do not travel.
const NO_CACHE: &str = "the caches of a model that another engine runs are its own";

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
