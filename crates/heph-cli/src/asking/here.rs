//! This machine: its models, loaded when they are first needed, how fast it runs them, and what the planner is told of it.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use heph_engine::model::LoadError;
use heph_plan::Readying;
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

use crate::engine::{Engine, LentModel, Opened};
use crate::failure::{Exit, Failure};

/// A model that is loaded when it is first needed here.
pub(super) struct Lazy {
    pub(super) opened: Opened,
    /// It is in memory already, held by somebody else.
    lent: Option<Arc<Engine>>,
    loaded: Mutex<Option<Loaded>>,
}

/// What of a model is in memory: some of its layers, or all.
struct Loaded {
    layers: Option<LayerRange>,
    engine: Arc<Engine>,
}

impl Lazy {
    /// A model that is not in memory yet, unless it is the one that is lent.
    pub(super) fn new(opened: Opened, lent: Option<&LentModel>) -> Result<Self, Failure> {
        let lent = lent.map(|lent| opened.take(lent)).transpose()?.flatten();
        Ok(Self {
            opened,
            lent: lent.map(Arc::new),
            loaded: Mutex::default(),
        })
    }

    /// The model in memory.
    pub(super) fn engine(&self) -> Result<Arc<Engine>, Failure> {
        Ok(self.part(None)?)
    }

    /// These layers of it, or all, in memory, and no others.
    fn part(&self, layers: Option<LayerRange>) -> Result<Arc<Engine>, LoadError> {
        if let Some(lent) = &self.lent {
            return Ok(Arc::clone(lent));
        }
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
        let loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let held = loaded.is_some();
        drop(loaded);
        match held {
            true => Ok(()),
            false => self.engine().map(drop),
        }
    }

    /// Whether something of it is in memory.
    pub(super) fn is_in_memory(&self) -> bool {
        let loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        self.lent.is_some() || loaded.is_some()
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
        Ok(engine.lent())
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
    let key = speed_key(hash, opened);
    let mut kept = profile::kept_speeds(&settings.home);
    if let Some(speed) = kept.find(&key) {
        return Ok(speed.clone());
    }
    let engine = engine()?;
    let measured = profile::of_machine(&mut engine.worker(), &engine.pool)?;
    let (speed, mut readying) =
        measured.ok_or_else(|| Failure::new(Exit::No, "the clock of this machine stands still"))?;
    readying.first += engine.load_time;
    // A speed that cannot be kept is timed again next time.
    let _ = profile::kept_readying(&settings.home).keep(key.clone(), readying);
    let _ = kept.keep(key, speed.clone());
    Ok(speed)
}

/// What this machine took to load a model and to pack it when its speed was timed: the first answer of a process takes as
/// much longer.
pub(super) fn readying(hash: ModelHash, opened: &Opened, settings: &Settings) -> Readying {
    let kept = profile::kept_readying(&settings.home);
    let Readying { first, rest } = kept.find(&speed_key(hash, opened)).copied().unwrap_or_default();
    Readying {
        first: first.min(READYING_MAX),
        rest: rest.min(READYING_MAX),
    }
}

/// What a file says is bounded: nobody waits longer for a model here.
const READYING_MAX: Duration = Duration::from_secs(600);

/// What was timed of a model.
pub(super) fn speed_key(hash: ModelHash, opened: &Opened) -> SpeedKey {
    SpeedKey {
        model: hash,
        processor: processor(),
        threads: opened.threads,
        isa: opened.isa.name().to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }
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

#[cfg(test)]
mod tests {
    use heph_engine::model::Packing;
    use heph_kernels::kv::KvFormat;
    use heph_runtime::bundled;
    use heph_runtime::settings::PUBLIC_HUB;

    use super::*;
    use crate::engine::EngineArguments;

    #[test]
    fn a_model_that_is_lent_is_in_memory_once() {
        let settings = Settings {
            home: "/nowhere".into(),
            models: "/nowhere".into(),
            threads: 1,
            hub: PUBLIC_HUB.to_owned(),
            hub_token: None,
            keys: None,
            allow: Vec::new(),
        };
        let open = |kv| {
            let arguments = EngineArguments::with_kv(kv);
            arguments
                .open(bundled::STORY_DRAFT.name, None, 1, &settings)
                .unwrap()
        };
        let lender = open(KvFormat::F16).load(Packing::AtLoad).unwrap();
        let hash = open(KvFormat::F16).hash().unwrap();
        let same = |kv, hash| {
            let lent = LentModel::new(hash, &lender.worker(), 2);
            let engine = Lazy::new(open(kv), Some(&lent)).unwrap().engine().unwrap();
            let once = Arc::ptr_eq(&engine.model, &lender.model);
            assert_eq!(
                engine.lent().room.is_some(),
                once,
                "caches of two have room apart"
            );
            once
        };
        assert!(same(KvFormat::F16, hash));
        assert!(!same(KvFormat::F32, hash), "it would say other words");
        assert!(!same(KvFormat::F16, ModelHash([0; 32])), "it is another model");
    }
}
