//! The Qwen family: Qwen 2 with biased projections, Qwen 3 with normalised heads, dense and with experts.

use super::build::{BlockBuilder, GraphError};
use super::llama::{assemble, attention_spec, feed_forward};
use super::{Graph, TensorIndex};
use crate::config::ModelConfig;

/// Builds the graph of a Qwen-shaped model.
pub(super) fn graph(config: &ModelConfig, index: &dyn TensorIndex) -> Result<Graph, GraphError> {
    assemble(config, index, layer)
}

fn layer(config: &ModelConfig, number: usize, b: &mut BlockBuilder) -> Result<(), GraphError> {
    let blk = format!("blk.{number}");
    let x = b.input();
    let normed = b.rms_norm(
        x,
        &format!("{blk}.attn_norm.weight"),
        config.hidden,
        config.rms_eps,
    )?;
    // Qwen 2 adds a bias to each of the three, Qwen 3 has none: `linear` takes what the file holds.
    let mut q = b.linear(normed, &format!("{blk}.attn_q"), config.heads * config.head_dim)?;
    let mut k = b.linear(
        normed,
        &format!("{blk}.attn_k"),
        config.kv_heads * config.head_dim,
    )?;
    let v = b.linear(
        normed,
        &format!("{blk}.attn_v"),
        config.kv_heads * config.head_dim,
    )?;
    if config.architecture.starts_with("qwen3") {
        q = b.rms_norm(
            q,
            &format!("{blk}.attn_q_norm.weight"),
            config.head_dim,
            config.rms_eps,
        )?;
        k = b.rms_norm(
            k,
            &format!("{blk}.attn_k_norm.weight"),
            config.head_dim,
            config.rms_eps,
        )?;
    }
    let q = b.rope(q, config.head_dim);
    let k = b.rope(k, config.head_dim);
    let mixed = b.attention(q, k, v, attention_spec(config, number));
    let mixed = b.linear(mixed, &format!("{blk}.attn_output"), config.hidden)?;
    let x = b.add(x, mixed);
    feed_forward(config, &blk, x, b).map(drop)
}
