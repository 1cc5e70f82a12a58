//! The Llama family: Llama 1 to 3, Mistral with its sliding window, Mixtral's experts.

use super::build::{BlockBuilder, GraphError, Mixture, Tensors};
use super::{Activation, AttentionSpec, Block, Graph, Sight, TensorIndex, ValueId};
use crate::config::ModelConfig;

/// Builds the graph of a Llama-shaped model.
pub(super) fn graph(config: &ModelConfig, index: &dyn TensorIndex) -> Result<Graph, GraphError> {
    assemble(config, index, |number, b| {
        layer(config, number, b, |_, heads, _| Ok(heads))
    })
}

/// A graph of pre-norm decoder layers between a token table and a head, the frame that the families here share.
pub(super) fn assemble(
    config: &ModelConfig,
    index: &dyn TensorIndex,
    layer: impl Fn(usize, &mut BlockBuilder) -> Result<(), GraphError>,
) -> Result<Graph, GraphError> {
    let mut tensors = Tensors::new(index);
    let hidden = config.hidden;
    let embed = build(&mut tensors, hidden, |b| {
        b.embed("token_embd.weight", config.vocab, hidden).map(drop)
    })?;
    let mut layers = Vec::with_capacity(config.layers);
    for number in 0..config.layers {
        layers.push(build(&mut tensors, hidden, |b| layer(number, b))?);
    }
    let head = build(&mut tensors, hidden, |b| head(config, b))?;
    let rope = config.rope_spec();
    let vocab = config.vocab;
    Ok(Graph {
        tensors: tensors.named,
        embed,
        layers,
        head,
        hidden,
        vocab,
        rope,
        pooling: None,
    })
}

/// One block, filled by `fill`.
pub(super) fn build(
    tensors: &mut Tensors,
    width: usize,
    fill: impl FnOnce(&mut BlockBuilder) -> Result<(), GraphError>,
) -> Result<Block, GraphError> {
    let mut builder = BlockBuilder::new(tensors, width);
    fill(&mut builder)?;
    Ok(builder.finish())
}

fn head(config: &ModelConfig, b: &mut BlockBuilder) -> Result<(), GraphError> {
    let normed = b.rms_norm(b.input(), "output_norm.weight", config.hidden, config.rms_eps)?;
    // A tied model has no matrix of its own for the head: the token table serves.
    let stem = if b.has("output.weight") {
        "output"
    } else {
        "token_embd"
    };
    b.linear(normed, stem, config.vocab).map(drop)
}

/// A decoder layer: attention, then the feed-forward half, each on a normed copy and added back.
///
/// `prepare` is what a family does to the heads of `blk.N.attn_q` and `blk.N.attn_k` before they are turned.
pub(super) fn layer(
    config: &ModelConfig,
    number: usize,
    b: &mut BlockBuilder,
    prepare: impl Fn(&str, ValueId, &mut BlockBuilder) -> Result<ValueId, GraphError>,
) -> Result<(), GraphError> {
    let blk = format!("blk.{number}");
    let [q_name, k_name, v_name] = ["q", "k", "v"].map(|part| format!("{blk}.attn_{part}"));
    let (q_width, kv_width) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
    let x = b.input();
    let normed = b.rms_norm(
        x,
        &format!("{blk}.attn_norm.weight"),
        config.hidden,
        config.rms_eps,
    )?;
    let q = b.linear(normed, &q_name, q_width)?;
    let k = b.linear(normed, &k_name, kv_width)?;
    let v = b.linear(normed, &v_name, kv_width)?;
    let q = prepare(&q_name, q, b)?;
    let k = prepare(&k_name, k, b)?;
    let q = b.rope(q, config.head_dim);
    let k = b.rope(k, config.head_dim);
    let mixed = b.attention(q, k, v, attention_spec(config, number));
    let mixed = b.linear(mixed, &format!("{blk}.attn_output"), config.hidden)?;
    let x = b.add(x, mixed);
    feed_forward(config, &blk, x, b).map(drop)
}

/// Scores scaled by the root of the head's width, over the window that the layer has.
pub(super) fn attention_spec(config: &ModelConfig, layer: usize) -> AttentionSpec {
    AttentionSpec {
        heads: config.heads,
        kv_heads: config.kv_heads,
        head_dim: config.head_dim,
        scale: 1.0 / (config.head_dim as f32).sqrt(),
        window: config.window(layer),
        softcap: None,
        sight: Sight::Back,
    }
}

/// The second half of a layer: one gated unit, or a mixture of them where the model has experts.
fn feed_forward(
    config: &ModelConfig,
    blk: &str,
    x: ValueId,
    b: &mut BlockBuilder,
) -> Result<ValueId, GraphError> {
    let normed = b.rms_norm(
        x,
        &format!("{blk}.ffn_norm.weight"),
        config.hidden,
        config.rms_eps,
    )?;
    let out = match &config.experts {
        Some(e) => {
            let activation = Activation::Silu;
            let of = Mixture {
                count: e.count,
                used: e.used,
                ffn: e.ffn,
                normalise: e.normalise,
                activation,
            };
            b.experts(normed, blk, of)?
        }
        None => {
            let gate = b.linear(normed, &format!("{blk}.ffn_gate"), config.ffn)?;
            let up = b.linear(normed, &format!("{blk}.ffn_up"), config.ffn)?;
            let inner = b.gate(gate, up, Activation::Silu);
            b.linear(inner, &format!("{blk}.ffn_down"), config.hidden)?
        }
    };
    Ok(b.add(x, out))
}
