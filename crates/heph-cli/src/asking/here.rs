//! This machine: its models, loaded when they are first needed, how fast it runs them, and what the planner is told of it.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use heph_engine::model::Packing;
use heph_runtime::cancel::Cancel;
use heph_runtime::hardware::Hardware;
use heph_runtime::node::Lent;
use heph_runtime::pool::Here;
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
    loaded: Mutex<Option<Arc<Engine>>>,
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
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if loaded.is_none() {
            *loaded = Some(Arc::new(self.opened.load(Packing::AsUsed)?));
        }
        Ok(loaded
            .as_ref()
            .map(Arc::clone)
            .unwrap_or_else(|| unreachable!("it was loaded")))
    }

    /// What loading took; nothing where nothing was loaded here.
    pub(super) fn load_time(&self) -> Duration {
        let loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        loaded.as_ref().map_or(Duration::ZERO, |engine| engine.load_time)
    }
}

/// This machine as a host: the model is loaded when its first stage is opened.
pub(super) fn here(node: NodeId, hash: ModelHash, model: &Arc<Lazy>, cancel: &Cancel) -> Arc<Here> {
    let model = Arc::clone(model);
    let load = move || match model.engine() {
        Ok(engine) => Ok(Lent::of(&engine.worker())),
        Err(failure) => Err(failure.sentence()),
    };
    Arc::new(Here::new(node, hash, cancel.clone(), Box::new(load)))
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

fn processor() -> String {
    static NAME: OnceLock<String> = OnceLock::new();
    NAME.get_or_init(|| Hardware::look().cpu).clone()
}
