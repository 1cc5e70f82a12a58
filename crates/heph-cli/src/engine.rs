//! The arguments that say which model runs and how, shared by every command that runs one; and the loading.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use heph_engine::cache::KvBudget;
use heph_engine::graph::{Graph, TensorSpec};
use heph_engine::model::{LoadError, LoadOptions, Model, Packing};
use heph_engine::quantize::FileType;
use heph_engine::source::Source;
use heph_engine::worker::{CHUNK_DEFAULT, Worker};
use heph_kernels::isa::Isa;
use heph_kernels::kv::KvFormat;
use heph_kernels::pool::Pool;
use heph_runtime::hardware::Hardware;
use heph_runtime::node::Lent;
use heph_runtime::open;
use heph_runtime::seal;
use heph_runtime::settings::{Settings, THREADS_MAX};
use heph_runtime::store::{Found, ModelFiles, Progress, Store};
use heph_runtime::words::Words;
use heph_types::{LayerRange, ModelHash};

use crate::arguments::count;
use crate::complete;
use crate::failure::{Exit, Failure};
use crate::terminal;

/// Of the memory that is free, what a model may take: the rest is the system's and the program's.
const MEMORY_SHARE_PERCENT: u64 = 95;

/// How to run a model. Of these only `--kv` and `--quantize` change the bits of an answer.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Running")]
pub(crate) struct EngineArguments {
    /// Threads to compute with [default: one per core]
    #[arg(long, value_parser = threads)]
    pub(crate) threads: Option<usize>,
    /// Instruction set: scalar, avx2, avx2vnni, avx512, neon, neondot [default: the best here]
    #[arg(long, value_parser = complete::isa(isa), hide_possible_values = true)]
    pub(crate) isa: Option<Isa>,
    /// How keys and values are stored: f32, f16, q8_0 [default: f16; f32 for logits]
    #[arg(long, value_parser = complete::kv(), hide_possible_values = true)]
    pub(crate) kv: Option<KvFormat>,
    /// Quantise the weights while they are loaded: q4_k_m, q8_0 and so on
    #[arg(long, value_name = "TYPE", value_parser = complete::file_type(), hide_possible_values = true)]
    pub(crate) quantize: Option<FileType>,
    /// Tokens of a prompt that go through a layer together
    #[arg(long, default_value_t = NonZeroUsize::new(CHUNK_DEFAULT).unwrap_or(NonZeroUsize::MIN), value_name = "TOKENS", value_parser = count)]
    pub(crate) chunk: NonZeroUsize,
    /// Tokens that a session may hold [default: what the model was made for, up to 8192]
    #[arg(long, value_name = "TOKENS", value_parser = count)]
    pub(crate) context: Option<NonZeroUsize>,
}

/// Longest context taken without being asked: long enough for a chat, and short enough for the cache of a large
/// model to fit beside it.
const CONTEXT_UNASKED: usize = 8192;

/// Bytes that a model may take now; the most where the system does not say.
fn memory_free() -> u64 {
    let free = match Hardware::look().memory_available_bytes {
        0 => u64::MAX,
        bytes => bytes,
    };
    free / 100 * MEMORY_SHARE_PERCENT
}

/// A count of threads.
pub(crate) fn threads(text: &str) -> Result<usize, String> {
    let count = text.parse().ok().filter(|n| (1..=THREADS_MAX).contains(n));
    count.ok_or_else(|| format!("a number from 1 to {THREADS_MAX} is needed"))
}

fn isa(text: &str) -> Result<Isa, String> {
    let isa: Isa = text
        .parse()
        .map_err(|e: heph_kernels::isa::UnknownIsa| e.to_string())?;
    if isa.available() {
        return Ok(isa);
    }
    let here: Vec<_> = Isa::all_available().into_iter().map(Isa::name).collect();
    Err(format!(
        "this machine does not have it; it has {}",
        here.join(", ")
    ))
}

/// A model in memory with what it takes to run it.
pub(crate) struct Engine {
    name: String,
    pub(crate) model: Arc<Model>,
    pub(crate) source: Arc<Source>,
    pub(crate) pool: Arc<Pool>,
    pub(crate) isa: Isa,
    pub(crate) load_time: Duration,
    chunk: usize,
    /// Where its caches take their room, where that is not the model's own.
    room: Option<Arc<KvBudget>>,
}

impl Engine {
    /// The model for those who open stages of it.
    pub(crate) fn lent(&self) -> Lent {
        let lent = Lent::of(&self.worker());
        match &self.room {
            Some(room) => lent.with_room(Arc::clone(room)),
            None => lent,
        }
    }

    /// A worker with an empty set of buffers.
    pub(crate) fn worker(&self) -> Worker {
        Worker::new(Arc::clone(&self.model), Arc::clone(&self.pool), self.isa).with_chunk(self.chunk)
    }

    /// The model's text side.
    pub(crate) fn words(&self) -> Result<Arc<Words>, Failure> {
        words(&self.source, &self.name)
    }

    /// Whether it runs as `opened` would, once that is loaded.
    fn runs_as(&self, opened: &Opened) -> bool {
        let (context, kv) = (self.model.context(), self.model.kv_format());
        context >= opened.context() && kv == opened.options.kv && self.isa == opened.isa
    }
}

/// A model that somebody else holds in memory here, and what it takes to run it.
#[derive(Clone)]
pub(crate) struct LentModel {
    hash: ModelHash,
    lent: Lent,
}

impl LentModel {
    /// The model that `worker` runs, whose caches take their room apart from those of whoever lends it: so many contexts at most.
    pub(crate) fn new(hash: ModelHash, worker: &Worker, contexts: usize) -> Self {
        let model = worker.model();
        let whole = model.new_cache(worker.all_layers()).position_bytes() * model.context() * contexts;
        let room = KvBudget::new((whole as u64).min(memory_free()));
        Self {
            hash,
            lent: Lent::of(worker).with_room(room),
        }
    }
}

/// The text side of the model called `name`, which a failure names.
fn words(source: &Source, name: &str) -> Result<Arc<Words>, Failure> {
    let read = || -> Result<Words, Failure> { Ok(Words::of(&source.vocabulary()?)?) };
    read().map(Arc::new).map_err(|failure| failure.of(name))
}

impl EngineArguments {
    /// The usual choices with another KV format.
    pub(crate) fn with_kv(kv: KvFormat) -> Self {
        let chunk = NonZeroUsize::new(CHUNK_DEFAULT).unwrap_or(NonZeroUsize::MIN);
        Self {
            threads: None,
            isa: None,
            kv: Some(kv),
            quantize: None,
            chunk,
            context: None,
        }
    }

    /// Finds, opens and loads `model`. `context` replaces the default context; `sessions` full contexts fit.
    pub(crate) fn load(
        &self,
        model: &str,
        context: Option<usize>,
        sessions: usize,
        settings: &Settings,
    ) -> Result<Engine, Failure> {
        self.open(model, context, sessions, settings)?
            .load(Packing::AtLoad)
    }

    /// Finds and opens `model`, and loads nothing of it yet.
    pub(crate) fn open(
        &self,
        model: &str,
        context: Option<usize>,
        sessions: usize,
        settings: &Settings,
    ) -> Result<Opened, Failure> {
        let found = Store::new(&settings.models).find(model)?;
        self.open_found(model, found, context, sessions, settings)
    }

    /// Opens a model that was found, and calls it `model`.
    pub(crate) fn open_found(
        &self,
        model: &str,
        found: Found,
        context: Option<usize>,
        sessions: usize,
        settings: &Settings,
    ) -> Result<Opened, Failure> {
        let source = open::open(&found)?;
        let source = Arc::new(match self.quantize {
            Some(file_type) => source.quantized(file_type),
            None => source,
        });
        let most = source.config().context;
        if let Some(asked) = self.context.filter(|asked| asked.get() > most) {
            return Err(Failure::new(
                Exit::Usage,
                format!("{model} was made for {most} tokens, and --context asks for {asked}"),
            )
            .hint(format!("leave it away, or give {most} at most")));
        }
        let asked = self.context.map(NonZeroUsize::get).or(context);
        let options = LoadOptions {
            context: Some(asked.unwrap_or(CONTEXT_UNASKED.min(source.config().context))),
            kv: self.kv.unwrap_or(KvFormat::F16),
            memory: Some(memory_free()),
            sessions,
            chunk: self.chunk.get(),
            ..LoadOptions::default()
        };
        Ok(Opened {
            name: model.to_owned(),
            quantized: self.quantize,
            found,
            source,
            options,
            threads: self.threads.unwrap_or(settings.threads),
            isa: self.isa.unwrap_or_else(Isa::best),
        })
    }
}

/// A model whose files are open. Nothing of it is in memory yet.
pub(crate) struct Opened {
    pub(crate) name: String,
    pub(crate) source: Arc<Source>,
    pub(crate) options: LoadOptions,
    pub(crate) threads: usize,
    pub(crate) isa: Isa,
    found: Found,
    quantized: Option<FileType>,
}

impl Opened {
    /// What machines call it. Weights that are quantised while they are loaded make another model.
    pub(crate) fn hash(&self) -> Result<ModelHash, Failure> {
        let hash = self.found.model_hash()?;
        Ok(match self.quantized {
            None => hash,
            Some(file_type) => {
                let context = "HEPH 2026-11 model quantised at load";
                let material = [&hash.0[..], format!("{file_type:?}").as_bytes()].concat();
                ModelHash(blake3::derive_key(context, &material))
            }
        })
    }

    /// The same model out of memory, where it is the one that is `lent` and runs alike.
    pub(crate) fn take(&self, lent: &LentModel) -> Result<Option<Engine>, Failure> {
        let LentModel { hash, lent } = lent;
        let engine = Engine {
            name: self.name.clone(),
            model: Arc::clone(&lent.model),
            source: Arc::clone(&self.source),
            pool: Arc::clone(&lent.pool),
            isa: lent.isa,
            load_time: Duration::ZERO,
            chunk: self.options.chunk,
            room: lent.room.clone(),
        };
        Ok((self.hash()? == *hash && engine.runs_as(self)).then_some(engine))
    }

    /// Its files as they lie here, for others to bring parts of; `None` where they are no files that can be cut.
    pub(crate) fn sendable(&self) -> Option<&Found> {
        let gguf = match &self.found {
            Found::Bundled(_) => true,
            found => matches!(found.files(), Some(ModelFiles::Gguf(_))),
        };
        (gguf && self.quantized.is_none()).then_some(&self.found)
    }

    /// Its operators, from which everything is counted.
    pub(crate) fn graph(&self) -> Result<Graph, Failure> {
        let graph = Graph::build(self.source.config(), self.source.as_ref());
        graph.map_err(|e| Failure::from(LoadError::Graph(e)).of(&self.name))
    }

    /// Whether it only turns texts into vectors.
    pub(crate) fn only_reads(&self) -> Result<bool, Failure> {
        Ok(self.graph()?.pooling.is_some())
    }

    /// Positions that a session may hold.
    pub(crate) fn context(&self) -> usize {
        let most = self.source.config().context;
        self.options.context.unwrap_or(most).min(most).max(1)
    }

    /// The model's text side.
    pub(crate) fn words(&self) -> Result<Arc<Words>, Failure> {
        words(&self.source, &self.name)
    }

    /// Brings it into memory, with a bar where somebody watches.
    pub(crate) fn load(&self, packing: Packing) -> Result<Engine, Failure> {
        self.try_load(None, packing)
            .map_err(|error| Failure::from(error).of(&self.name))
    }

    /// How its weights come into memory: as they are used where memory holds them twice over, so that what is counted as
    /// free stays so; else at once.
    pub(crate) fn packing(&self) -> Packing {
        let weights: u64 = self.source.specs().map(TensorSpec::bytes).sum();
        match weights.saturating_mul(2) <= memory_free() {
            true => Packing::AsUsed,
            false => Packing::AtLoad,
        }
    }

    /// Brings these layers of it into memory, or all of them, if they fit into what is free now.
    pub(crate) fn try_load(&self, layers: Option<LayerRange>, packing: Packing) -> Result<Engine, LoadError> {
        let began = Instant::now();
        let options = LoadOptions {
            layers,
            packing,
            memory: self.options.memory.map(|memory| memory.min(memory_free())),
            ..self.options
        };
        let pool = Arc::new(seal::within(|| Pool::new(self.threads)));
        let bar = terminal::bytes_bar(&format!("loading {}", self.name));
        let mut show = |p: heph_engine::model::Progress| {
            terminal::show(
                &bar,
                Progress {
                    done: p.done,
                    total: Some(p.total),
                },
            );
        };
        let model = Model::load(Arc::clone(&self.source), &options, &pool, &mut show);
        bar.finish_and_clear();
        Ok(Engine {
            name: self.name.clone(),
            model: Arc::new(model?),
            source: Arc::clone(&self.source),
            pool,
            isa: self.isa,
            load_time: began.elapsed(),
            chunk: self.options.chunk,
            room: None,
        })
    }
}
