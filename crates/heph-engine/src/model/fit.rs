//! How much memory a model takes, and what would fit where it does not.

use super::{LoadOptions, Use, held, uses};
use crate::graph::{Graph, TensorSpec, Work};
use heph_kernels::format::Format;
use heph_kernels::kv::{KvFormat, KvShape, PAGE};

/// Rows of a packed tile: weights are padded to a multiple of it.
const TILE_ROWS: u64 = 16;

/// Bytes that a loaded model takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Footprint {
    /// Packed weights.
    pub weights: u64,
    /// KV caches at full context.
    pub kv: u64,
    /// Buffers of one worker.
    pub buffers: u64,
}

impl Footprint {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.weights.saturating_add(self.kv).saturating_add(self.buffers)
    }

    pub(super) fn of(graph: &Graph, context: usize, options: &LoadOptions) -> Self {
        let weights = packed(graph, options)
            .map(|spec| tile_bytes(spec, spec.format))
            .sum();
        let kv = kv_bytes(graph, context, options);
        Self {
            weights,
            kv,
            buffers: buffer_bytes(graph, context, options),
        }
    }
}

/// A choice that fits where the one asked for does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    /// The same model with a shorter context.
    Context(usize),
    /// The same model and context with smaller keys and values.
    Kv(KvFormat),
    /// The model quantised to this format, with 8-bit keys and values and a short context.
    Quantize(Format),
}

impl Fit {
    /// The least change that makes the model fit `limit` bytes: KV format, then context, then weights.
    pub(super) fn nearest(graph: &Graph, context: usize, options: &LoadOptions, limit: u64) -> Option<Fit> {
        let total = |context, kv| Footprint::of(graph, context, &LoadOptions { kv, ..*options }).total();
        if options.kv != KvFormat::Q8_0 && total(context, KvFormat::Q8_0) <= limit {
            return Some(Fit::Kv(KvFormat::Q8_0));
        }
        let shorter =
            std::iter::successors(Some(context / 2), |c| Some(c / 2)).take_while(|&c| c >= SHORT_CONTEXT);
        for context in shorter {
            if total(context, options.kv) <= limit {
                return Some(Fit::Context(context));
            }
        }
        let least = LoadOptions {
            kv: KvFormat::Q8_0,
            ..*options
        };
        let short = context.min(SHORT_CONTEXT);
        let rest = kv_bytes(graph, short, &least) + buffer_bytes(graph, short, &least);
        SMALLER
            .into_iter()
            .find(|&f| rest + quantized_bytes(graph, options, f) <= limit)
            .map(Fit::Quantize)
    }
}

/// Shorter than this, a chat is of little use: weights are made smaller first.
const SHORT_CONTEXT: usize = 1024;

/// Formats to offer, the best first.
const SMALLER: [Format; 5] = [Format::Q8_0, Format::Q6K, Format::Q5K, Format::Q4K, Format::Q2K];

/// Shape of one layer's cache; empty for a layer without attention.
pub(super) fn kv_shape(graph: &Graph, layer: usize, format: KvFormat) -> KvShape {
    let none = KvShape {
        kv_heads: 0,
        head_dim: 0,
        format,
    };
    graph.layers[layer]
        .attention()
        .map_or(none, |a| a.kv_shape(format))
}

/// The tensors that loading packs or copies.
fn packed<'a>(graph: &'a Graph, options: &LoadOptions) -> impl Iterator<Item = &'a TensorSpec> {
    graph
        .tensors
        .iter()
        .zip(uses(graph, held(graph, options)))
        .filter(|(_, by)| *by > Use::Table)
        .map(|(spec, _)| spec)
}

fn tile_bytes(spec: &TensorSpec, format: Format) -> u64 {
    let row = format.row_bytes(spec.cols).unwrap_or(usize::MAX) as u64;
    let rows = if spec.rows == 1 {
        1
    } else {
        (spec.rows as u64).div_ceil(TILE_ROWS) * TILE_ROWS
    };
    row.saturating_mul(rows).saturating_mul(spec.experts as u64)
}

/// Bytes of the weights with every matrix that is larger in `format`, where its rows allow it.
fn quantized_bytes(graph: &Graph, options: &LoadOptions, format: Format) -> u64 {
    let smaller = |spec: &TensorSpec| match spec.rows > 1 && format.row_bytes(spec.cols).is_some() {
        true => tile_bytes(spec, format).min(tile_bytes(spec, spec.format)),
        false => tile_bytes(spec, spec.format),
    };
    packed(graph, options).map(smaller).sum()
}

/// Bytes of the caches of all sessions at full context, in whole pages, and of those that are kept besides.
fn kv_bytes(graph: &Graph, context: usize, options: &LoadOptions) -> u64 {
    let pages = context.div_ceil(PAGE) as u64;
    let one: u64 = held(graph, options)
        .iter()
        .map(|layer| kv_shape(graph, layer, options.kv).page_bytes() as u64 * pages)
        .sum();
    one.saturating_mul(options.sessions as u64)
        .saturating_add(options.kept)
}

/// Bytes of the values of the widest layer for one chunk, its quantised inputs, and one row of logits.
fn buffer_bytes(graph: &Graph, context: usize, options: &LoadOptions) -> u64 {
    let work = Work {
        tokens: options.chunk.min(context),
        context,
    };
    let widest = graph
        .layers
        .iter()
        .map(|block| graph.cost(block, work, options.kv).activation_bytes)
        .max();
    widest.unwrap_or(0) + (graph.vocab * size_of::<f32>()) as u64
}
