//! The machines that were met, for the door: looked for when somebody asks, and remembered for a moment.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use heph_gateway::{Machines, NodeLine, Wish};
use heph_kernels::kv::KvFormat;
use heph_plan::{Mode, Record};
use heph_runtime::settings::Settings;
use heph_types::{Leaves, NodeId, Role};

use crate::asking::{Asking, PlaceArguments, Sizes};
use crate::engine::EngineArguments;
use crate::failure::Failure;

/// What was heard of other machines is asked for anew after this.
const FRESH: Duration = Duration::from_secs(20);

/// Who was met, and how they answer for one model.
pub(super) struct Met {
    model: String,
    settings: Settings,
    last: Mutex<Option<(Instant, Arc<Asking>)>>,
}

impl Met {
    pub(super) fn new(model: &str, settings: &Settings) -> Self {
        Self {
            model: model.to_owned(),
            settings: settings.clone(),
            last: Mutex::default(),
        }
    }

    fn asking(&self) -> Result<Arc<Asking>, String> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((when, asking)) = &*last
            && when.elapsed() < FRESH
        {
            return Ok(Arc::clone(asking));
        }
        // The old connections end first: two of one identity would be in each other's way.
        *last = None;
        let (engine, place) = (EngineArguments::with_kv(KvFormat::F16), PlaceArguments::usual());
        let asking =
            Asking::open(&self.model, &engine, &place, &self.settings).map_err(|f: Failure| f.sentence())?;
        let asking = Arc::new(asking);
        *last = Some((Instant::now(), Arc::clone(&asking)));
        Ok(asking)
    }
}

impl Machines for Met {
    fn here(&self) -> Option<String> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let node = last.as_ref().map(|(_, asking)| asking.pool().desk().node)?;
        (node != NodeId([0; 32])).then(|| node.to_string())
    }

    fn plan(&self, wish: &Wish) -> Result<Record, String> {
        let mode = match (wish.leaves, wish.mode) {
            (Some(Leaves::Nothing), Some(mode)) if mode != Mode::Local => {
                return Err(format!(
                    "nothing may leave this machine, and mode {mode} needs others"
                ));
            }
            (Some(Leaves::Nothing), _) => Some(Mode::Local),
            (_, mode) => mode,
        };
        let asking = self.asking()?;
        let record = asking.plan(mode, Sizes::of(wish.prompt_tokens), wish.answer_tokens_max);
        record.map_err(|failure| failure.sentence())
    }

    fn nodes(&self) -> Result<Vec<NodeLine>, String> {
        let asking = self.asking()?;
        let policy = heph_runtime::settings::policy(self.settings.allow.iter().copied());
        let there = asking.pool().others().iter().map(|machine| {
            let profile = &machine.profile;
            let holds = profile.holds.iter().any(|held| held.model == asking.hash());
            NodeLine {
                node: profile.node.to_string(),
                name: profile.name.clone(),
                role: profile.role,
                reachable: true,
                why: None,
                latency_ms: Some(machine.link.rtt.as_secs_f64() * 1e3),
                state: Some(profile.state),
                queue_s: Some(profile.queue.as_secs_f64()),
                memory_bytes: Some(profile.memory),
                models: holds.then(|| self.model.clone()).into_iter().collect(),
                sees: policy.seen_by(profile.node, profile.role),
            }
        });
        let away = asking.away().iter().map(|(name, why)| NodeLine {
            node: String::new(),
            name: name.clone(),
            role: Role::Own,
            reachable: false,
            why: Some(why.clone()),
            latency_ms: None,
            state: None,
            queue_s: None,
            memory_bytes: None,
            models: Vec::new(),
            sees: Leaves::Nothing,
        });
        Ok(there.chain(away).collect())
    }
}
