//! The BERT family: models that read a whole text at once and make one vector of it.
//!
//! Unlike the families beside it, a layer looks around instead of back, and normalises after each sum.

use super::build::{BlockBuilder, GraphError, Tensors};
use super::llama::{attention_spec, build};
use super::{Activation, AttentionSpec, Block, Graph, RowChoice, Sight, TensorIndex, ValueId};
use crate::config::{EncoderConfig, ModelConfig};

/// Builds the graph of BERT (learned positions, biases, GELU) or Nomic's BERT (rotary positions, gated SiLU).
pub(super) fn graph(config: &ModelConfig, index: &dyn TensorIndex) -> Result<Graph, GraphError> {
    let encoder = config.encoder.ok_or_else(|| GraphError::Config {
        what: "the configuration of an encoder lacks what makes it one".to_owned(),
    })?;
    let mut tensors = Tensors::new(index);
    let hidden = config.hidden;
    let embed = build(&mut tensors, hidden, |b| embed(config, encoder, b).map(drop))?;
    let mut layers = Vec::with_capacity(config.layers);
    for number in 0..config.layers {
        layers.push(build(&mut tensors, hidden, |b| {
            layer(config, number, b).map(drop)
        })?);
    }
    Ok(Graph {
        tensors: tensors.named,
        embed,
        layers,
        // The rows that leave the last layer are the result: there are no logits.
        head: Block {
            widths: vec![hidden],
            nodes: Vec::new(),
        },
        hidden,
        vocab: config.vocab,
        rope: config.rope_spec(),
        pooling: Some(encoder.pooling),
    })
}

/// Whether the family turns queries and keys instead of adding a row for each position.
fn rotary(config: &ModelConfig) -> bool {
    config.architecture == "nomic-bert"
}

/// Token, then kind of text, then position: one sum, normalised.
fn embed(config: &ModelConfig, encoder: EncoderConfig, b: &mut BlockBuilder) -> Result<ValueId, GraphError> {
    let mut x = b.embed("token_embd.weight", config.vocab, config.hidden)?;
    if encoder.token_types > 0 {
        // A single text is of the first kind throughout.
        x = b.add_row(x, "token_types.weight", encoder.token_types, RowChoice::First)?;
    }
    if !rotary(config) {
        x = b.add_row(x, "position_embd.weight", config.context, RowChoice::Position)?;
    }
    b.layer_norm(x, "token_embd_norm", config.rms_eps)
}

fn layer(config: &ModelConfig, number: usize, b: &mut BlockBuilder) -> Result<ValueId, GraphError> {
    let blk = format!("blk.{number}");
    let x = b.input();
    let width = config.heads * config.head_dim;
    let mut q = b.linear(x, &format!("{blk}.attn_q"), width)?;
    let mut k = b.linear(x, &format!("{blk}.attn_k"), width)?;
    let v = b.linear(x, &format!("{blk}.attn_v"), width)?;
    if rotary(config) {
        q = b.rope(q, config.head_dim);
        k = b.rope(k, config.head_dim);
    }
    let spec = AttentionSpec {
        sight: Sight::Around,
        window: None,
        ..attention_spec(config, number)
    };
    let mixed = b.attention(q, k, v, spec);
    let mixed = b.linear(mixed, &format!("{blk}.attn_output"), config.hidden)?;
    let x = b.add(x, mixed);
    let x = b.layer_norm(x, &format!("{blk}.attn_output_norm"), config.rms_eps)?;
    let inner = if rotary(config) {
        let gate = b.linear(x, &format!("{blk}.ffn_gate"), config.ffn)?;
        let up = b.linear(x, &format!("{blk}.ffn_up"), config.ffn)?;
        b.gate(gate, up, Activation::Silu)
    } else {
        let up = b.linear(x, &format!("{blk}.ffn_up"), config.ffn)?;
        b.gelu(up)
    };
    let down = b.linear(inner, &format!("{blk}.ffn_down"), config.hidden)?;
    let x = b.add(x, down);
    b.layer_norm(x, &format!("{blk}.layer_output_norm"), config.rms_eps)
}
