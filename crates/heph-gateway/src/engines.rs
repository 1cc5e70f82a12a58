//! The models that answer: the one served, the encoder beside it, and others of the store when they are asked for.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use heph_engine::batch::BatchLimits;
use heph_engine::constrain::{ConstraintError, Shaper};
use heph_engine::model::{LoadError, LoadOptions, Model};
use heph_engine::worker::{CHUNK_DEFAULT, ForwardError, Worker};
use heph_kernels::isa::Isa;
use heph_kernels::kv::KvFormat;
use heph_kernels::pool::Pool;
use heph_runtime::blocks::{BlockStore, BlocksError};
use heph_runtime::bundled;
use heph_runtime::hardware::Hardware;
use heph_runtime::open::{self, OpenError};
use heph_runtime::seal;
use heph_runtime::service::{Closing, Service};
use heph_runtime::store::{Found, ModelName, Store, StoreError};
use heph_runtime::words::{Words, WordsError};
use heph_types::{ModelHash, TokenId};

use crate::machines::Machines;
use crate::tools::CallForm;

/// Models besides the served one that stay in memory; the one that was asked for longest ago gives way.
const OTHERS_MAX: usize = 2;

/// Longest context taken without being asked: long enough for a chat, and short enough for the caches of many.
const CONTEXT_UNASKED: usize = 8192;

/// Contexts that the caches have room for, the first number that fits.
const SESSIONS: [usize; 6] = [32, 16, 8, 4, 2, 1];

/// Bytes of earlier prompts' caches that stay in memory without being asked, out of those of the sessions.
const KEPT_UNASKED: u64 = 512 << 20;

/// Of the memory that is free, what a model may take.
const MEMORY_SHARE_PERCENT: u64 = 90;

/// How models are run.
#[derive(Debug, Clone)]
pub struct EngineChoice {
    /// Threads to compute with.
    pub threads: usize,
    /// The instruction set.
    pub isa: Isa,
    /// How keys and values are stored.
    pub kv: KvFormat,
    /// Positions of a context; `None` takes what the model was made for, up to 8192.
    pub context: Option<usize>,
    /// Answers that run together.
    pub parallel: usize,
    /// Answers that wait for a place; one more is refused.
    pub waiting: usize,
}

/// How much of earlier prompts' caches is kept.
#[derive(Debug, Clone, Default)]
pub struct CacheChoice {
    /// Bytes in memory, for each model, beside those of answers under way; `None` keeps up to 512 MiB of what those leave.
    pub ram: Option<u64>,
    /// Bytes in files of HEPH's home folder, all models together; `None` writes none.
    pub disk: Option<u64>,
    /// Whether that of requests which must stay on this machine may be written there, too.
    pub disk_private: bool,
}

/// Why a model does not answer.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// There is none of that name, or it is damaged.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Its files cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// It cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Its text side cannot be used.
    #[error(transparent)]
    Words(#[from] WordsError),
    /// Its vocabulary has no shape.
    #[error(transparent)]
    Source(#[from] heph_engine::source::SourceError),
    /// Answers cannot be constrained.
    #[error(transparent)]
    Constraint(#[from] ConstraintError),
    /// It only reads, or only writes.
    #[error("{0}")]
    Kind(String),
    /// Caches cannot be kept on disk.
    #[error(transparent)]
    Blocks(#[from] BlocksError),
    /// The system gives no thread.
    #[error("the system gives no thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// A model that writes.
pub(crate) struct Writer {
    pub(crate) name: String,
    pub(crate) hash: ModelHash,
    /// How its weights are kept.
    pub(crate) precision: String,
    pub(crate) service: Service,
    pub(crate) shaper: Option<Shaper>,
    pub(crate) call_form: CallForm,
    pub(crate) layers: usize,
    pub(crate) threads: usize,
    pub(crate) isa: Isa,
    pub(crate) kv: KvFormat,
    pub(crate) middle: Option<Middle>,
    /// Reads prompts beside the batch.
    pub(crate) prober: Mutex<Worker>,
}

/// The tokens of a model that can fill in the middle.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Middle {
    pub(crate) prefix: TokenId,
    pub(crate) suffix: TokenId,
    pub(crate) middle: TokenId,
}

/// A model that reads: texts become vectors.
pub(crate) struct Reader {
    pub(crate) name: String,
    pub(crate) words: Arc<Words>,
    worker: Mutex<Worker>,
    pub(crate) context: usize,
}

impl Reader {
    /// One vector of length 1 for each text.
    pub(crate) fn encode(&self, texts: &[&[TokenId]]) -> Result<Vec<Vec<f32>>, ForwardError> {
        self.worker
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .encode(texts)
    }
}

/// A model in memory.
#[derive(Clone)]
pub(crate) enum Engine {
    Writes(Arc<Writer>),
    Reads(Arc<Reader>),
}

/// What every model is loaded with.
struct Making {
    choice: EngineChoice,
    pool: Arc<Pool>,
    kept_bytes: Option<u64>,
    blocks: Option<Arc<BlockStore>>,
    /// What ends their answers.
    closing: Closing,
}

/// All of them.
pub(crate) struct Engines {
    pub(crate) served: Arc<Writer>,
    store: Store,
    making: Making,
    /// Newest use last.
    others: Mutex<Vec<(String, Engine)>>,
    loading: tokio::sync::Mutex<()>,
}

impl Engines {
    /// Loads the model that is served.
    pub(crate) fn open(
        model: &str,
        store: Store,
        choice: EngineChoice,
        caches: &CacheChoice,
        home: &Path,
        closing: &Closing,
    ) -> Result<Self, EngineError> {
        let blocks = caches.disk.map(|bytes| BlockStore::open(home, bytes));
        let making = Making {
            pool: Arc::new(seal::within(|| Pool::new(choice.threads))),
            choice,
            kept_bytes: caches.ram,
            blocks: blocks.transpose()?.map(Arc::new),
            closing: closing.clone(),
        };
        let found = store.find(model)?;
        let served = match load(model, &found, &making)? {
            Engine::Writes(writer) => writer,
            Engine::Reads(_) => {
                let sentence = format!("{model} turns texts into vectors and answers nobody");
                return Err(EngineError::Kind(sentence));
            }
        };
        Ok(Self {
            served,
            store,
            making,
            others: Mutex::default(),
            loading: tokio::sync::Mutex::default(),
        })
    }

    /// Lends the served model to those who answer with other machines.
    pub(crate) fn lend(&self, machines: &dyn Machines) {
        let worker = self.served.prober.lock().unwrap_or_else(PoisonError::into_inner);
        machines.lend(self.served.hash, &worker);
    }

    /// The threads that models run on.
    pub(crate) fn pool(&self) -> &Arc<Pool> {
        &self.making.pool
    }

    /// The folder of models.
    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// What is kept on disk, where anything is.
    pub(crate) fn blocks(&self) -> Option<&BlockStore> {
        self.making.blocks.as_deref()
    }

    /// What is in memory besides the served model, by name.
    pub(crate) fn others(&self) -> HashMap<String, Engine> {
        self.lock().iter().cloned().collect()
    }

    /// Lets go of a model, so that it can be removed.
    pub(crate) fn forget(&self, name: &str) {
        self.lock().retain(|(known, _)| known != name);
    }

    /// The model called `name`, loaded now where it is not in memory. Only names of the program and of the store: a
    /// request opens no file by its path.
    pub(crate) async fn engine(self: &Arc<Self>, name: &str) -> Result<Engine, EngineError> {
        if name.is_empty() || name == self.served.name {
            return Ok(Engine::Writes(Arc::clone(&self.served)));
        }
        let name = ModelName::new(name).map_err(|_| StoreError::Unknown {
            name: name.chars().take(heph_runtime::store::NAME_LEN_MAX).collect(),
            nearest: None,
        })?;
        let name = name.as_str().to_owned();
        if let Some(engine) = self.known(&name) {
            return Ok(engine);
        }
        // One at a time: two loads would both take the memory that is free.
        let _turn = self.loading.lock().await;
        if let Some(engine) = self.known(&name) {
            return Ok(engine);
        }
        let this = Arc::clone(self);
        let load = move || {
            let found = this.by_name(&name)?;
            let engine = load(&name, &found, &this.making)?;
            let mut others = this.lock();
            while others.len() >= OTHERS_MAX {
                others.remove(0);
            }
            others.push((name, engine.clone()));
            Ok(engine)
        };
        tokio::task::spawn_blocking(load)
            .await
            .unwrap_or_else(|_| Err(EngineError::Kind("the model could not be loaded".to_owned())))
    }

    /// The model of that name in the program or the store; the name is checked, so it is no path.
    pub(crate) fn by_name(&self, name: &str) -> Result<Found, StoreError> {
        match self.store.find(name)? {
            Found::Path(_) => Err(StoreError::Unknown {
                name: name.to_owned(),
                nearest: None,
            }),
            found => Ok(found),
        }
    }

    fn known(&self, name: &str) -> Option<Engine> {
        let mut others = self.lock();
        let at = others.iter().position(|(known, _)| known == name)?;
        let used = others.remove(at);
        let engine = used.1.clone();
        others.push(used);
        Some(engine)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(String, Engine)>> {
        self.others.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The encoder for embeddings: `name`, or the bundled one where `name` is a model that only writes.
    pub(crate) async fn reader(self: &Arc<Self>, name: &str) -> Result<Arc<Reader>, EngineError> {
        if let Engine::Reads(reader) = self.engine(name).await? {
            return Ok(reader);
        }
        match self.engine(bundled::EMBED.name).await? {
            Engine::Reads(reader) => Ok(reader),
            Engine::Writes(_) => Err(EngineError::Kind("the bundled encoder writes".to_owned())),
        }
    }
}

fn load(name: &str, found: &Found, making: &Making) -> Result<Engine, EngineError> {
    let Making { choice, pool, .. } = making;
    let source = Arc::new(open::open(found)?);
    let words = Arc::new(Words::of(&source.vocabulary()?)?);
    let memory = Hardware::look().memory_available_bytes / 100 * MEMORY_SHARE_PERCENT;
    let reads = source.config().encoder.is_some();
    let context = choice
        .context
        .unwrap_or(CONTEXT_UNASKED)
        .min(source.config().context);
    let sessions: &[usize] = if reads { &[1] } else { &SESSIONS };
    let mut result = None;
    for &sessions in sessions {
        let options = LoadOptions {
            context: Some(context),
            kv: choice.kv,
            memory: Some(memory).filter(|&m| m > 0),
            sessions,
            kept: making.kept_bytes.filter(|_| !reads).unwrap_or(0),
            chunk: CHUNK_DEFAULT,
            ..LoadOptions::default()
        };
        let loaded = Model::load(Arc::clone(&source), &options, pool, &mut |_| {});
        let too_large = matches!(loaded, Err(LoadError::DoesNotFit { .. }));
        result = Some(loaded);
        if !too_large {
            break;
        }
    }
    let Some(model) = result else {
        return Err(EngineError::Kind("the model could not be loaded".to_owned()));
    };
    let model = Arc::new(model?);
    let worker = Worker::new(Arc::clone(&model), Arc::clone(pool), choice.isa);
    if reads {
        return Ok(Engine::Reads(Arc::new(Reader {
            name: name.to_owned(),
            words,
            context: model.context(),
            worker: Mutex::new(worker),
        })));
    }
    let limits = BatchLimits {
        running: choice.parallel,
        waiting: choice.waiting,
        prefix_bytes: making.kept_bytes.unwrap_or(KEPT_UNASKED),
        ..BatchLimits::default()
    };
    let hash = found.model_hash()?;
    let prober = Worker::new(Arc::clone(worker.model()), Arc::clone(pool), choice.isa);
    Ok(Engine::Writes(Arc::new(Writer {
        prober: Mutex::new(prober),
        name: name.to_owned(),
        hash,
        shaper: words.shaper()?,
        call_form: CallForm::of(&words),
        layers: model.graph().layers.len(),
        precision: model.graph().precision().to_string(),
        threads: pool.threads(),
        isa: choice.isa,
        kv: choice.kv,
        middle: middle(&words),
        service: Service::start(
            worker,
            hash,
            words,
            limits,
            making.blocks.clone(),
            &making.closing,
        )?,
    })))
}

/// The spellings that models are trained on, by family.
const MIDDLE: [[&str; 3]; 4] = [
    ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"],
    ["<fim_prefix>", "<fim_suffix>", "<fim_middle>"],
    ["<PRE>", "<SUF>", "<MID>"],
    ["▁<PRE>", "▁<SUF>", "▁<MID>"],
];

fn middle(words: &Words) -> Option<Middle> {
    MIDDLE.iter().find_map(|[prefix, suffix, middle]| {
        Some(Middle {
            prefix: words.tokenizer.token_of_text(prefix)?,
            suffix: words.tokenizer.token_of_text(suffix)?,
            middle: words.tokenizer.token_of_text(middle)?,
        })
    })
}
