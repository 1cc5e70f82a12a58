//! A model in memory: its graph, its programs and its weights, ready to run.
//!
//! Loading packs one tensor at a time for the kernels and lets go of the file's pages behind it, so that
//! no more than one tensor is ever held twice. Where the first token is waited for, loading packs nothing and passes
//! do it later, share by share ([`Packing::AsUsed`]).

mod fit;
mod settle;

pub use fit::{Fit, Footprint};

use crate::cache::{KvBudget, KvCache};
use crate::config::{ConfigError, ModelConfig};
use crate::graph::{Graph, GraphError, Op, TensorId, TensorSpec};
use crate::program::Program;
use crate::source::{FileView, Source};
use heph_kernels::format::dequantize_row;
use heph_kernels::kv::KvFormat;
use heph_kernels::pack::{PackError, Packed, Room};
use heph_kernels::pool::Pool;
use heph_types::LayerRange;
use settle::Unsettled;
use std::ops::Range;
use std::sync::Arc;

/// How to load.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LoadOptions {
    /// Positions that one session may hold; `None` takes what the model was made for.
    pub context: Option<usize>,
    /// How keys and values are stored.
    pub kv: KvFormat,
    /// Bytes that weights, caches and buffers may take together; `None` does not ask.
    pub memory: Option<u64>,
    /// Sessions of full context that the KV budget has room for.
    pub sessions: usize,
    /// Bytes that the KV budget has besides, for caches of earlier prompts.
    pub kept: u64,
    /// Tokens that go through a layer together.
    pub chunk: usize,
    /// The layers to hold, and what [`Graph::part`] says goes with them; `None` holds the whole model. Nothing else
    /// is read from the files, which may have holes there.
    pub layers: Option<LayerRange>,
    /// When weights are packed.
    pub packing: Packing,
}

/// When weights are packed for the kernels. No choice changes a bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// Before loading returns: every pass is as fast as can be.
    AtLoad,
    /// The first pass reads weights where they lie in the file, which delays it little; each later one packs a share
    /// first. For whoever waits for a first token.
    AsUsed,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            context: None,
            kv: KvFormat::F16,
            memory: None,
            sessions: 1,
            kept: 0,
            chunk: crate::worker::CHUNK_DEFAULT,
            layers: None,
            packing: Packing::AtLoad,
        }
    }
}

/// How far loading has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes packed so far.
    pub done: u64,
    /// Bytes to pack.
    pub total: u64,
}

/// Why a model could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The numbers of the configuration cannot be a model.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The tensors do not make the architecture.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// The layers to hold are not the model's.
    #[error("layers {}..{} are to be held of a model of {count}", layers.start(), layers.end())]
    Layers {
        /// Layers asked for.
        layers: LayerRange,
        /// Layers of the model.
        count: usize,
    },
    /// The file holds other bytes of a tensor than it announced.
    #[error("tensor {name:?} cannot be read from its file")]
    Unreadable {
        /// The tensor.
        name: String,
    },
    /// A tensor could not be packed.
    #[error("tensor {name:?} cannot be packed: {cause}")]
    Pack {
        /// The tensor.
        name: String,
        /// What the kernels say.
        #[source]
        cause: PackError,
    },
    /// The model does not fit into the memory allowed.
    #[error("the model needs {} MiB and {} MiB are allowed", footprint.total() >> 20, limit >> 20)]
    DoesNotFit {
        /// What it needs.
        footprint: Footprint,
        /// Bytes allowed.
        limit: u64,
        /// The nearest choice that would fit, if there is one.
        nearest: Option<Fit>,
    },
}

/// One tensor, in the form that its use asks for.
#[derive(Debug)]
pub(crate) enum Weight {
    Matrix(Packed),
    Experts(Vec<Packed>),
    Vector(Vec<f32>),
    /// A table of which only single rows are read: it stays in the file.
    Table,
    /// Of a layer that is not held.
    Absent,
}

/// A model ready to run. Shared by all workers; no result of it changes after loading.
pub struct Model {
    config: ModelConfig,
    graph: Graph,
    embed: Program,
    layers: Vec<Program>,
    head: Program,
    weights: Vec<Weight>,
    unsettled: Unsettled,
    source: Arc<Source>,
    budget: Arc<KvBudget>,
    context: usize,
    kv: KvFormat,
    held: LayerRange,
}

impl Model {
    /// Loads a model. `progress` is called after each tensor.
    pub fn load(
        source: Arc<Source>,
        options: &LoadOptions,
        pool: &Pool,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Model, LoadError> {
        let config = source.config().clone();
        config.check()?;
        let graph = Graph::build(&config, source.as_ref())?;
        let context = options
            .context
            .unwrap_or(config.context)
            .min(config.context)
            .max(1);
        // What an encoder reads lives no longer than one pass, so nothing speaks for rounding it.
        let options = &LoadOptions {
            kv: graph.pooling.map_or(options.kv, |_| KvFormat::F32),
            ..*options
        };
        let (held, count) = (held(&graph, options), graph.layers.len());
        if held.end() > count {
            return Err(LoadError::Layers { layers: held, count });
        }
        let footprint = Footprint::of(&graph, context, options);
        if let Some(limit) = options.memory.filter(|&limit| footprint.total() > limit) {
            let nearest = Fit::nearest(&graph, context, options, limit);
            return Err(LoadError::DoesNotFit {
                footprint,
                limit,
                nearest,
            });
        }
        let (weights, room) = load_weights(&graph, held, options.packing, &source, pool, progress)?;
        let unsettled = Unsettled::of(&weights, room);
        let layers = graph
            .layers
            .iter()
            .map(|block| Program::lower(&graph, block))
            .collect();
        let embed = Program::lower(&graph, &graph.embed);
        let head = Program::lower(&graph, &graph.head);
        let budget = KvBudget::new(footprint.kv);
        Ok(Model {
            config,
            graph,
            embed,
            layers,
            head,
            weights,
            unsettled,
            source,
            budget,
            context,
            kv: options.kv,
            held,
        })
    }

    /// What the file says of the model.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The operator graph.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// The layers whose weights are in memory; all of them unless less was asked for.
    pub fn held(&self) -> LayerRange {
        self.held
    }

    /// Whether `layers` can run here. An empty range at the front is the embedding, one at the end the head.
    pub fn holds(&self, layers: LayerRange) -> bool {
        self.held.start() <= layers.start() && layers.end() <= self.held.end()
    }

    /// Positions that one session may hold.
    pub fn context(&self) -> usize {
        self.context
    }

    /// How keys and values are stored.
    pub fn kv_format(&self) -> KvFormat {
        self.kv
    }

    /// The budget that all caches of this model draw on.
    pub fn kv_budget(&self) -> &Arc<KvBudget> {
        &self.budget
    }

    /// An empty cache for some of the layers.
    pub fn new_cache(&self, layers: LayerRange) -> KvCache {
        self.new_cache_as(layers, self.kv)
    }

    /// An empty cache for some of the layers, stored otherwise than the model was loaded for.
    pub fn new_cache_as(&self, layers: LayerRange, kv: KvFormat) -> KvCache {
        self.new_cache_from(layers, kv, &self.budget)
    }

    /// The same, with its room taken from `budget`.
    pub fn new_cache_from(&self, layers: LayerRange, kv: KvFormat, budget: &Arc<KvBudget>) -> KvCache {
        let shapes = layers
            .iter()
            .map(|layer| fit::kv_shape(&self.graph, layer, kv))
            .collect();
        KvCache::new(layers, shapes, self.context, Arc::clone(budget))
    }

    /// What happens to looked up rows before the first layer: nothing in most models.
    pub(crate) fn embed_program(&self) -> &Program {
        &self.embed
    }

    pub(crate) fn layer_program(&self, layer: usize) -> &Program {
        &self.layers[layer]
    }

    pub(crate) fn head_program(&self) -> &Program {
        &self.head
    }

    pub(crate) fn matrix(&self, id: TensorId) -> &Packed {
        match &self.weights[id.0] {
            Weight::Matrix(packed) => packed,
            _ => unreachable!("loading packs what a product names"),
        }
    }

    pub(crate) fn expert(&self, id: TensorId, expert: usize) -> &Packed {
        match &self.weights[id.0] {
            Weight::Experts(all) => &all[expert],
            _ => unreachable!("loading packs what a mixture names"),
        }
    }

    pub(crate) fn vector(&self, id: TensorId) -> &[f32] {
        match &self.weights[id.0] {
            Weight::Vector(values) => values,
            _ => unreachable!("loading reads what a norm or a bias names"),
        }
    }

    /// Packs what loading left in the file ([`Packing::AsUsed`]), as much as memory has room for. Whoever times passes
    /// asks for it first.
    pub fn settle(&self, pool: &Pool) {
        self.unsettled.all(self, pool);
    }

    /// Whether passes take what they will from now on: none has to read weights in the file, or to pack some, any more.
    pub fn is_settled(&self) -> bool {
        self.unsettled.done()
    }

    /// Bytes of weights that are still in the file, to be packed by later passes.
    pub fn in_file(&self) -> usize {
        self.weights.iter().map(Weight::bytes_in_file).sum()
    }

    /// Called before each pass: packs a share, unless it is the first.
    pub(crate) fn settle_share(&self, pool: &Pool) {
        self.unsettled.share(self, pool);
    }

    /// One row of an embedding table; `row` is below the vocabulary's size.
    pub(crate) fn table_row(&self, id: TensorId, row: usize, out: &mut [f32]) {
        match &self.weights[id.0] {
            Weight::Matrix(packed) => packed.row(row, out),
            _ => self
                .source
                .row(&self.graph.tensor(id).name, row, out)
                .expect("loading checked the table's bytes"),
        }
    }
}

/// Where the weights of a part of a model lie: the number of a file and a range in it. Files that hold nothing but these
/// and [`beyond_layers`](crate::source::beyond_layers) are enough to load that part.
///
/// # Errors
/// When the tensors do not make the architecture.
pub fn places(source: &Source, layers: LayerRange) -> Result<Vec<(usize, Range<u64>)>, GraphError> {
    let graph = Graph::build(source.config(), source)?;
    let used = graph.tensors.iter().zip(uses(&graph, layers));
    let here = used.filter(|(_, by)| *by > Use::Absent).map(|(spec, _)| spec);
    Ok(here.flat_map(|spec| source.places(&spec.name)).collect())
}

/// The layers that are to be held.
fn held(graph: &Graph, options: &LoadOptions) -> LayerRange {
    let count = graph.layers.len();
    let all = || LayerRange::new(0, count, count).expect("0..count fits count");
    options.layers.unwrap_or_else(all)
}

/// How the held part of a graph uses a tensor. A table that is also the head's matrix is packed once and serves both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Use {
    Absent,
    Table,
    Vector,
    Matrix,
    Experts,
}

/// The use of every tensor of the graph by its blocks around `layers`.
pub(crate) fn uses(graph: &Graph, layers: LayerRange) -> Vec<Use> {
    let mut uses = vec![Use::Absent; graph.tensors.len()];
    let mut mark = |id: TensorId, by: Use| uses[id.0] = uses[id.0].max(by);
    for node in graph.part(layers).flat_map(|b| &b.nodes) {
        match &node.op {
            Op::Embed { table } => mark(*table, Use::Table),
            Op::AddRow { table, .. } => mark(*table, Use::Table),
            Op::LayerNorm { weight, bias, .. } => {
                mark(*weight, Use::Vector);
                mark(*bias, Use::Vector);
            }
            Op::RmsNorm { weight, .. } => mark(*weight, Use::Vector),
            Op::Linear { weight, bias } => {
                mark(*weight, Use::Matrix);
                bias.iter().for_each(|b| mark(*b, Use::Vector));
            }
            Op::Experts(e) => {
                mark(e.router, Use::Matrix);
                [e.gate, e.up, e.down]
                    .into_iter()
                    .for_each(|id| mark(id, Use::Experts));
            }
            Op::Rope { .. } | Op::Attention(_) | Op::Gate(_) | Op::Gelu | Op::Add => {}
        }
    }
    uses
}

/// The weights, and the room for those that are packed later.
fn load_weights(
    graph: &Graph,
    held: LayerRange,
    packing: Packing,
    source: &Source,
    pool: &Pool,
    progress: &mut dyn FnMut(Progress),
) -> Result<(Vec<Weight>, Room), LoadError> {
    let uses = uses(graph, held);
    let packed = graph
        .tensors
        .iter()
        .zip(&uses)
        .filter(|(_, by)| **by > Use::Table);
    let total = packed.map(|(spec, _)| spec.bytes()).sum();
    let mut room = Room::of(packed_bytes(graph, &uses));
    let mut done = 0;
    let mut weights = Vec::with_capacity(graph.tensors.len());
    for (spec, by) in graph.tensors.iter().zip(uses) {
        weights.push(match in_place(spec, by, packing, source)? {
            Some(weight) => weight,
            None => load_one(spec, by, source, &mut room, pool)?,
        });
        if by > Use::Table {
            done += spec.bytes();
            progress(Progress { done, total });
        }
    }
    Ok((weights, room))
}

/// The memory that packing takes, as far as there are such matrices.
fn packed_bytes(graph: &Graph, uses: &[Use]) -> usize {
    let tensors = graph.tensors.iter().zip(uses);
    tensors
        .filter(|(_, by)| matches!(by, Use::Matrix | Use::Experts))
        .filter_map(|(spec, _)| {
            Packed::bytes_of(spec.format, spec.rows, spec.cols)?.checked_mul(spec.experts)
        })
        .fold(0, usize::saturating_add)
}

/// A weight that is left where it lies, if it is to be and lies there as it will be packed.
fn in_place(
    spec: &TensorSpec,
    by: Use,
    packing: Packing,
    source: &Source,
) -> Result<Option<Weight>, LoadError> {
    if packing == Packing::AtLoad || by < Use::Matrix {
        return Ok(None);
    }
    let Some(views) = source.views(&spec.name, spec.experts) else {
        return Ok(None);
    };
    let one = |view: FileView| {
        Packed::in_place(spec.format, spec.rows, spec.cols, Arc::new(view)).map_err(|cause| LoadError::Pack {
            name: spec.name.clone(),
            cause,
        })
    };
    let mut matrices = views.into_iter().map(one).collect::<Result<Vec<_>, _>>()?;
    Ok(match by {
        Use::Experts => Some(Weight::Experts(matrices)),
        _ => matrices.pop().map(Weight::Matrix),
    })
}

fn load_one(
    spec: &TensorSpec,
    by: Use,
    source: &Source,
    room: &mut Room,
    pool: &Pool,
) -> Result<Weight, LoadError> {
    match by {
        Use::Absent => return Ok(Weight::Absent),
        Use::Table => return Ok(Weight::Table),
        Use::Vector | Use::Matrix | Use::Experts => {}
    }
    let unreadable = || LoadError::Unreadable {
        name: spec.name.clone(),
    };
    let raw = source
        .read(&spec.name, pool)
        .filter(|raw| raw.len() as u64 == spec.bytes())
        .ok_or_else(unreadable)?;
    let mut pack = |raw: &[u8]| {
        Packed::pack_into(room, spec.format, spec.rows, spec.cols, raw, pool).map_err(|cause| {
            LoadError::Pack {
                name: spec.name.clone(),
                cause,
            }
        })
    };
    let weight = match by {
        Use::Absent | Use::Table => unreachable!("returned above"),
        Use::Matrix => Weight::Matrix(pack(&raw)?),
        Use::Experts => Weight::Experts(
            raw.chunks_exact(raw.len() / spec.experts)
                .map(pack)
                .collect::<Result<_, _>>()?,
        ),
        Use::Vector => {
            let mut values = vec![0.0; spec.cols];
            dequantize_row(spec.format, &raw, &mut values);
            Weight::Vector(values)
        }
    };
    source.release(&spec.name);
    Ok(weight)
}
