//! One small typed graph of operators per model: what the engine runs and what everything else counts from.
//!
//! A model is an embedding block, one block per layer and a head block. A block takes the hidden states of
//! some tokens, `(tokens, width)`, through its nodes in order; values are numbered, each node makes one.
//! Parameters, operations, bytes of weights, of KV cache and of activations are all derived from here,
//! never counted a second time. The graph knows shapes and names; it holds no weights.

mod bert;
mod build;
mod cost;
mod llama;
mod qwen;

pub use build::{BlockBuilder, GraphError, TensorIndex};
pub use cost::{Cost, Work};

use crate::config::{ModelConfig, Pooling};
use heph_kernels::format::Format;
use heph_kernels::kv::{KvFormat, KvShape};
use heph_kernels::rope::RopeStyle;
use heph_types::LayerRange;
use std::collections::BTreeSet;

pub use heph_kernels::attention::Sight;

/// A value of a block: the rows of some tokens, all of one width. Value 0 is the block's input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ValueId(pub usize);

/// A tensor of the model, as an index into [`Graph::tensors`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TensorId(pub usize);

/// What a tensor looks like in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// Its canonical (GGUF) name, such as `blk.3.attn_q.weight`.
    pub name: String,
    /// How its numbers are stored.
    pub format: Format,
    /// Output rows; 1 for a vector.
    pub rows: usize,
    /// Input columns: the length of one stored row.
    pub cols: usize,
    /// Number of matrices stacked in the tensor; 1 unless it holds the experts of a mixture.
    pub experts: usize,
}

impl TensorSpec {
    /// Numbers in the tensor.
    pub fn parameters(&self) -> u64 {
        self.experts as u64 * self.rows as u64 * self.cols as u64
    }

    /// Bytes of the tensor in its format; saturates for a shape that no file can hold.
    pub fn bytes(&self) -> u64 {
        let row = self.format.row_bytes(self.cols).unwrap_or(usize::MAX) as u64;
        row.saturating_mul(self.rows as u64)
            .saturating_mul(self.experts as u64)
    }
}

/// The non-linear half of a gated feed-forward unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x / (1 + exp(-x))`, also called swish.
    Silu,
    /// The tanh form of the Gaussian error linear unit.
    GeluTanh,
}

/// Shape of one attention operator.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionSpec {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Factor on each score, usually `1 / sqrt(head_dim)`.
    pub scale: f32,
    /// How many positions back a token may look, itself included; `None` looks at all.
    pub window: Option<u32>,
    /// Bound `c` of the soft cap `c * tanh(score / c)`; `None` leaves scores alone.
    pub softcap: Option<f32>,
    /// Which way a token looks.
    pub sight: Sight,
}

/// Which row of a table is added to a token's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowChoice {
    /// The first one, whatever the token.
    First,
    /// That of the token's position.
    Position,
}

impl AttentionSpec {
    /// What a cache holds for each position of this operator.
    pub fn kv_shape(&self, format: KvFormat) -> KvShape {
        KvShape {
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            format,
        }
    }
}

/// A mixture of experts: a router picks `used` of `count` gated feed-forward units for each token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ExpertsSpec {
    /// Router matrix, `(count, hidden)`.
    pub router: TensorId,
    /// Stacked gate matrices, `count` of `(ffn, hidden)`.
    pub gate: TensorId,
    /// Stacked up matrices, `count` of `(ffn, hidden)`.
    pub up: TensorId,
    /// Stacked down matrices, `count` of `(hidden, ffn)`.
    pub down: TensorId,
    /// Experts in the layer.
    pub count: usize,
    /// Experts that one token uses.
    pub used: usize,
    /// Width inside one expert.
    pub ffn: usize,
    /// Whether the chosen experts' weights are scaled to sum to one.
    pub normalise: bool,
    /// The unit's non-linearity.
    pub activation: Activation,
}

/// One operator. Inputs and output are named by the [`Node`] that holds it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Op {
    /// Rows of a table chosen by token id. No input.
    Embed {
        /// The table, `(vocabulary, hidden)`.
        table: TensorId,
    },
    /// A row of a table added to each row. Input: the rows.
    AddRow {
        /// The table, as wide as the input.
        table: TensorId,
        /// Which of its rows.
        row: RowChoice,
    },
    /// Normalisation of each row by its mean and variance.
    LayerNorm {
        /// The factors, as wide as the input.
        weight: TensorId,
        /// Added to each row after that.
        bias: TensorId,
        /// Added to the variance.
        eps: f32,
    },
    /// Root mean square normalisation over groups as wide as its weight (a whole row, or each head).
    RmsNorm {
        /// The factors, as wide as one group.
        weight: TensorId,
        /// Added to the mean square.
        eps: f32,
    },
    /// `y = W x`, plus a bias where there is one.
    Linear {
        /// The matrix, `(out, in)`.
        weight: TensorId,
        /// Added to each row, as wide as the output.
        bias: Option<TensorId>,
    },
    /// Rotary position embedding of each head.
    Rope {
        /// Width of one head.
        head_dim: usize,
    },
    /// Attention of queries over the cache, after this block's keys and values are written to it.
    /// Inputs: q, k, v.
    Attention(AttentionSpec),
    /// `activation(gate) * up`. Inputs: gate, up.
    Gate(Activation),
    /// The exact Gaussian error linear unit, number by number.
    Gelu,
    /// A mixture of experts.
    Experts(ExpertsSpec),
    /// The sum of two values. Inputs: the residual, then what is added.
    Add,
}

/// One step of a block.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// What is done.
    pub op: Op,
    /// With which values.
    pub inputs: Vec<ValueId>,
    /// The value it makes.
    pub output: ValueId,
}

/// A straight run of nodes with one input (value 0) and one output (the last value made).
#[derive(Debug, Clone, PartialEq)]
pub struct Block {
    /// Width of each value.
    pub widths: Vec<usize>,
    /// The nodes in the order they run.
    pub nodes: Vec<Node>,
}

impl Block {
    /// What of the last block is computed for a row that nobody asks about: up to its attention, in which later rows look at it.
    pub fn unasked(&self) -> Block {
        let attends = |node: &Node| matches!(node.op, Op::Attention(_));
        let end = self
            .nodes
            .iter()
            .rposition(attends)
            .map_or(self.nodes.len(), |at| at + 1);
        Block {
            widths: self.widths.clone(),
            nodes: self.nodes[..end].to_vec(),
        }
    }

    /// The value that the block hands on.
    pub fn output(&self) -> ValueId {
        self.nodes.last().map_or(ValueId(0), |n| n.output)
    }

    /// The attention operator of the block, if it has one.
    pub fn attention(&self) -> Option<&AttentionSpec> {
        self.nodes.iter().find_map(|n| match &n.op {
            Op::Attention(spec) => Some(spec),
            _ => None,
        })
    }
}

/// Rotary frequencies of a model, before any table is made.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeSpec {
    /// Angle per position of each rotated pair.
    pub inv_freq: Vec<f64>,
    /// Factor on sine and cosine (YaRN's attention factor; 1 otherwise).
    pub magnitude: f64,
    /// Which elements form a pair.
    pub style: RopeStyle,
}

/// A whole model.
#[derive(Debug, Clone, PartialEq)]
pub struct Graph {
    /// Every tensor that a block names.
    pub tensors: Vec<TensorSpec>,
    /// Token ids to hidden states.
    pub embed: Block,
    /// One block per layer.
    pub layers: Vec<Block>,
    /// Hidden states to logits.
    pub head: Block,
    /// Width of the hidden states.
    pub hidden: usize,
    /// Number of logits.
    pub vocab: usize,
    /// How positions turn queries and keys.
    pub rope: RopeSpec,
    /// How the rows of a text become one vector; `None` for a model that writes.
    pub pooling: Option<Pooling>,
}

/// The architectures that [`Graph::build`] knows, as GGUF files name them.
pub const ARCHITECTURES: [&str; 8] = [
    "llama",
    "mistral",
    "mixtral",
    "qwen2",
    "qwen3",
    "qwen3moe",
    "bert",
    "nomic-bert",
];

impl Graph {
    /// The format that most of its weights are stored in.
    pub fn precision(&self) -> Format {
        let mut counts: Vec<(Format, usize)> = Vec::new();
        for tensor in &self.tensors {
            let count = tensor.rows * tensor.cols * tensor.experts;
            match counts.iter_mut().find(|(format, _)| *format == tensor.format) {
                Some((_, sum)) => *sum += count,
                None => counts.push((tensor.format, count)),
            }
        }
        let most = counts.into_iter().max_by_key(|(_, count)| *count);
        most.map_or(Format::F32, |(format, _)| format)
    }

    /// Builds the graph of the architecture that `config` names from the tensors in `index`.
    /// Fails when a tensor is missing or has another shape than the configuration says, or when one is left over.
    pub fn build(config: &ModelConfig, index: &dyn TensorIndex) -> Result<Graph, GraphError> {
        let graph = Graph::of_architecture(config, index)?;
        // Files of models that only read bring what serves classification, too.
        if graph.pooling.is_none() {
            graph.check_all_used(index)?;
        }
        Ok(graph)
    }

    fn check_all_used(&self, index: &dyn TensorIndex) -> Result<(), GraphError> {
        let used: BTreeSet<&str> = self.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
        match index.names().into_iter().find(|name| !used.contains(name)) {
            Some(name) => Err(GraphError::Unused {
                name: name.to_owned(),
            }),
            None => Ok(()),
        }
    }

    fn of_architecture(config: &ModelConfig, index: &dyn TensorIndex) -> Result<Graph, GraphError> {
        match config.architecture.as_str() {
            "llama" | "mistral" | "mixtral" => llama::graph(config, index),
            "qwen2" | "qwen3" | "qwen3moe" => qwen::graph(config, index),
            "bert" | "nomic-bert" => bert::graph(config, index),
            other => Err(GraphError::Architecture {
                name: other.to_owned(),
            }),
        }
    }

    /// The spec of a tensor.
    pub fn tensor(&self, id: TensorId) -> &TensorSpec {
        &self.tensors[id.0]
    }

    /// Embedding, layers and head in the order a token meets them.
    pub fn blocks(&self) -> impl Iterator<Item = &Block> {
        std::iter::once(&self.embed)
            .chain(&self.layers)
            .chain(std::iter::once(&self.head))
    }

    /// The blocks of a part of the model: these layers, the embedding if they begin with the first, the head if they end
    /// with the last. An empty range at either end is the embedding or the head alone.
    pub fn part(&self, layers: LayerRange) -> impl Iterator<Item = &Block> {
        let embed = (layers.start() == 0).then_some(&self.embed);
        let head = (layers.end() == self.layers.len()).then_some(&self.head);
        let between = self.layers.iter().take(layers.end()).skip(layers.start());
        embed.into_iter().chain(between).chain(head)
    }
}
