//! This machine: its models, loaded when they are first needed, how fast it runs them, and what the planner is told of it.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use heph_engine::model::LoadError;
use heph_runtime::cancel::Cancel;
use heph_runtime::hardware::Hardware;
use heph_runtime::node::Lent;
use heph_runtime::pool::{Here, Loader};
use heph_runtime::profile::{self, SpeedKey};
use heph_runtime::settings::Settings;
use heph_types::{
    Caps, Exactness, Held, LayerRange, ModelHash, ModelProfile, NodeId, NodeProfile, NodeState, Price, Role,
    Speed,
};

use crate::engine::{Engine, Opened};
use crate::failure::{Exit, Failure};

/// A model that is loaded when it is first needed here.
pub(super) struct Lazy {
    pub(super) opened: Opened,
    loaded: Mutex<Option<Loaded>>,
}

/// What of a model is in memory: some of its layers, or all.
struct Loaded {
    layers: Option<LayerRange>,
    engine: Arc<Engine>,
}

impl Lazy {
    /// A model that is not in memory yet.
    pub(super) fn new(opened: Opened) -> Self {
        Self {
            opened,
            loaded: Mutex::default(),
        }
    }

    /// The model in memory.
    pub(super) fn engine(&self) -> Result<Arc<Engine>, Failure> {
        Ok(self.part(None)?)
    }

    /// These layers of it, or all, in memory, and no others.
    fn part(&self, layers: Option<LayerRange>) -> Result<Arc<Engine>, LoadError> {
        let mut held = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(loaded) = held.as_ref().filter(|loaded| loaded.layers == layers) {
            return Ok(Arc::clone(&loaded.engine));
        }
        *held = None;
        let engine = Arc::new(self.opened.try_load(layers, self.opened.packing())?);
        let loaded = held.insert(Loaded { layers, engine });
        Ok(Arc::clone(&loaded.engine))
    }

    /// Loads all of it, unless something of it is in memory already.
    pub(super) fn warm(&self) -> Result<(), Failure> {
        let held = self
            .loaded
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_some();
        match held {
            true => Ok(()),
            false => self.engine().map(drop),
        }
    }

    /// What loading took; nothing where nothing was loaded here.
    pub(super) fn load_time(&self) -> Duration {
        let loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        loaded
            .as_ref()
            .map_or(Duration::ZERO, |loaded| loaded.engine.load_time)
    }
}

/// A model that this machine keeps in memory as long as somebody needs it.
struct Kept(Arc<Lazy>);

impl Loader for Kept {
    fn load(&self, layers: Option<LayerRange>) -> Result<Lent, String> {
        let engine = self.0.part(layers).map_err(|error| error.to_string())?;
        Ok(Lent::of(&engine.worker()))
    }

    fn let_go(&self) {
        *self.0.loaded.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// This machine as a host: the model is loaded when its first stage is opened.
pub(super) fn here(node: NodeId, hash: ModelHash, model: &Arc<Lazy>, cancel: &Cancel) -> Arc<Here> {
    let loader = Box::new(Kept(Arc::clone(model)));
    Arc::new(Here::new(node, hash, cancel.clone(), loader))
}

/// This machine in the planner's words.
pub(super) fn desk_profile(node: NodeId, speed: Speed, model: &ModelProfile) -> NodeProfile {
    let count = model.layers.len();
    let layers = LayerRange::new(0, count, count).ok();
    NodeProfile {
        node,
        name: "here".to_owned(),
        role: Role::Own,
        speed,
        memory: Hardware::look().memory_available_bytes,
        holds: layers
            .map(|layers| Held {
                model: model.model,
                layers,
            })
            .into_iter()
            .collect(),
        exactness: Exactness::Exact,
        caps: Caps::default(),
        state: NodeState::Open,
        queue: Duration::ZERO,
        price: Price::default(),
    }
}

/// How fast this machine runs a model: as it was timed before, or timed now, with `engine` in memory.
pub(crate) fn speed(
    hash: ModelHash,
    opened: &Opened,
    settings: &Settings,
    engine: impl FnOnce() -> Result<Arc<Engine>, Failure>,
) -> Result<Speed, Failure> {
    let key = SpeedKey {
        model: hash,
        processor: processor(),
        threads: opened.threads,
        isa: opened.isa.name().to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let mut kept = profile::kept_speeds(&settings.home);
    if let Some(speed) = kept.find(&key) {
        return Ok(speed.clone());
    }
    let engine = engine()?;
    engine.model.settle(&engine.pool);
    let measured = profile::of_speed(&mut engine.worker())?;
    let speed = measured.ok_or_else(|| Failure::new(Exit::No, "the clock of this machine stands still"))?;
    // A speed that cannot be kept is timed again next time.
    let _ = kept.keep(key, speed.clone());
    Ok(speed)
}

/// How fast this machine runs the layers of a part, timed now.
pub(crate) fn part_speed(engine: &Engine) -> Result<Speed, Failure> {
    engine.model.settle(&engine.pool);
    let measured = profile::of_speed(&mut engine.worker())?;
    measured.ok_or_else(|| Failure::new(Exit::No, "the clock of this machine stands still"))
}

fn processor() -> String {
    static NAME: OnceLock<String> = OnceLock::new();
    NAME.get_or_init(|| Hardware::look().cpu).clone()
}
