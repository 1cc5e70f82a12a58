//! A GGUF file as a [`super::Source`].

use super::{SourceError, SourceTensor};
use crate::config::{EncoderConfig, ExpertsConfig, ModelConfig, Pooling, RopeConfig, RopeScaling};
use crate::gguf::{Gguf, GgufTensor, Metadata, Value};
use crate::graph::TensorSpec;
use heph_kernels::format::{Format, dequantize_row};
use heph_kernels::rope::RopeStyle;
use std::collections::BTreeMap;

/// Divisors of the rotary frequencies, where the file has them.
pub(super) const ROPE_FREQS: &str = "rope_freqs.weight";

/// Every tensor of the file but the rotary divisors, which are configuration.
pub(super) fn tensors<'a>(file: &Gguf<'a>) -> Result<BTreeMap<String, SourceTensor<'a>>, SourceError> {
    let weights = file.tensors().iter().filter(|tensor| tensor.name != ROPE_FREQS);
    let mut found = BTreeMap::new();
    for weight in weights {
        match fused(file, weight.name) {
            Some(stem) => found.extend(thirds(tensor(weight)?, stem)?),
            None => drop(found.insert(weight.name.to_owned(), tensor(weight)?)),
        }
    }
    Ok(found)
}

/// The layer of a matrix that holds queries, keys and values in one, which only encoders' files have here.
fn fused<'a>(file: &Gguf<'_>, name: &'a str) -> Option<&'a str> {
    let architecture = file.metadata.text("general.architecture").ok().flatten()?;
    encoder_style(architecture)?;
    name.strip_suffix(".attn_qkv.weight")
}

/// Queries, keys and values of a matrix that holds them one over another.
fn thirds<'a>(all: SourceTensor<'a>, stem: &str) -> Result<Vec<(String, SourceTensor<'a>)>, SourceError> {
    let (rows, whole) = (all.spec.rows, all.matrices.as_slice());
    let &[bytes] = whole else {
        return Err(uneven(&all.spec.name));
    };
    if !rows.is_multiple_of(3) || bytes.is_empty() {
        return Err(uneven(&all.spec.name));
    }
    let parts = bytes.chunks_exact(bytes.len() / 3);
    let third = |(part, bytes): (&str, &'a [u8])| {
        let name = format!("{stem}.{part}.weight");
        let spec = TensorSpec {
            name: name.clone(),
            rows: rows / 3,
            ..all.spec.clone()
        };
        let matrices = vec![bytes];
        (name, SourceTensor { spec, matrices })
    };
    Ok(["attn_q", "attn_k", "attn_v"]
        .into_iter()
        .zip(parts)
        .map(third)
        .collect())
}

fn uneven(name: &str) -> SourceError {
    SourceError::Unsupported {
        what: format!("tensor {name:?} does not hold queries, keys and values of one size"),
    }
}

fn tensor<'a>(tensor: &GgufTensor<'a>) -> Result<SourceTensor<'a>, SourceError> {
    let [cols, rows, experts, more] = tensor.dims;
    if more != 1 {
        return Err(SourceError::Unsupported {
            what: format!("tensor {:?} has four dimensions", tensor.name),
        });
    }
    let spec = TensorSpec {
        name: tensor.name.to_owned(),
        format: tensor.format,
        rows,
        cols,
        experts,
    };
    let matrices = tensor.bytes.chunks_exact(tensor.bytes.len() / experts).collect();
    Ok(SourceTensor { spec, matrices })
}

/// Metadata of one architecture: keys are given without its name in front.
struct Keys<'m, 'a> {
    metadata: &'m Metadata<'a>,
    architecture: &'a str,
}

impl Keys<'_, '_> {
    fn full(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    fn integer(&self, key: &str) -> Result<Option<usize>, SourceError> {
        let key = self.full(key);
        let varies = || SourceError::Unsupported {
            what: format!("{key:?} differs from layer to layer"),
        };
        if let Some(Value::Array(array)) = self.metadata.get(&key) {
            let mut values = array.integers().into_iter().flatten();
            let first = values
                .next()
                .and_then(|v| usize::try_from(v).ok())
                .ok_or_else(varies)?;
            return if values.all(|v| v == first as i64) {
                Ok(Some(first))
            } else {
                Err(varies())
            };
        }
        Ok(self
            .metadata
            .integer(&key)?
            .map(|v| usize::try_from(v).unwrap_or(usize::MAX)))
    }

    fn need(&self, key: &str) -> Result<usize, SourceError> {
        self.integer(key)?
            .ok_or_else(|| SourceError::MissingKey { key: self.full(key) })
    }

    fn float(&self, key: &str) -> Result<Option<f64>, SourceError> {
        Ok(self.metadata.float(&self.full(key))?)
    }
}

/// The configuration in the metadata, and in the shape of the token table.
pub(super) fn config(
    file: &Gguf<'_>,
    tensors: &BTreeMap<String, SourceTensor<'_>>,
) -> Result<ModelConfig, SourceError> {
    let architecture = file.metadata.text("general.architecture")?;
    let architecture = architecture.ok_or_else(|| SourceError::MissingKey {
        key: "general.architecture".to_owned(),
    })?;
    let style = style(architecture)?;
    let keys = Keys {
        metadata: &file.metadata,
        architecture,
    };
    let table = "token_embd.weight";
    let table = tensors.get(table).ok_or_else(|| SourceError::MissingTensor {
        name: table.to_owned(),
    })?;
    let (hidden, heads) = (keys.need("embedding_length")?, keys.need("attention.head_count")?);
    let head_dim = match keys.integer("attention.key_length")? {
        Some(length) => length,
        None => hidden.checked_div(heads).unwrap_or(0),
    };
    if keys
        .integer("attention.value_length")?
        .is_some_and(|length| length != head_dim)
    {
        return Err(SourceError::Unsupported {
            what: "values as wide as keys are not".to_owned(),
        });
    }
    let ffn = keys.integer("feed_forward_length")?;
    let context = keys.need("context_length")?;
    let encoder = encoder(&keys, tensors)?;
    let eps = match encoder {
        Some(_) => "attention.layer_norm_epsilon",
        None => "attention.layer_norm_rms_epsilon",
    };
    let rms_eps = keys
        .float(eps)?
        .ok_or_else(|| SourceError::MissingKey { key: keys.full(eps) })?;
    Ok(ModelConfig {
        architecture: architecture.to_owned(),
        name: file
            .metadata
            .text("general.name")
            .ok()
            .flatten()
            .map(str::to_owned),
        layers: keys.need("block_count")?,
        hidden,
        heads,
        kv_heads: keys.integer("attention.head_count_kv")?.unwrap_or(heads),
        head_dim,
        ffn: ffn.unwrap_or(0),
        vocab: table.spec.rows,
        context,
        rms_eps: rms_eps as f32,
        rope: rope(file, &keys, style, head_dim, context)?,
        sliding_window: window(&keys)?,
        experts: experts(&keys, ffn)?,
        encoder,
    })
}

/// How rotary pairs lie in the files of an architecture: the converter reorders the rows of Llama's.
fn style(architecture: &str) -> Result<RopeStyle, SourceError> {
    match architecture {
        "llama" => Ok(RopeStyle::Interleaved),
        "qwen2" | "qwen3" | "qwen3moe" => Ok(RopeStyle::Halves),
        other if encoder_style(other).is_some() => Ok(RopeStyle::Halves),
        other => Err(SourceError::Architecture {
            name: other.to_owned(),
        }),
    }
}

/// Whether the architecture only reads.
fn encoder_style(architecture: &str) -> Option<()> {
    ["bert", "nomic-bert"].contains(&architecture).then_some(())
}

/// What an encoder's file says beside its layers; `None` for a model that writes.
fn encoder(
    keys: &Keys<'_, '_>,
    tensors: &BTreeMap<String, SourceTensor<'_>>,
) -> Result<Option<EncoderConfig>, SourceError> {
    if encoder_style(keys.architecture).is_none() {
        return Ok(None);
    }
    let unsupported = |what: String| Err(SourceError::Unsupported { what });
    if keys.metadata.flag(&keys.full("attention.causal"))? == Some(true) {
        return unsupported("an encoder that looks back only".to_owned());
    }
    let pooling = match keys.integer("pooling_type")? {
        // Without a word on it, or where the choice is left to the reader.
        None | Some(0 | 1) => Pooling::Mean,
        Some(2) => Pooling::First,
        Some(other) => return unsupported(format!("pooling of kind {other}")),
    };
    let token_types = tensors.get("token_types.weight").map_or(0, |t| t.spec.rows);
    Ok(Some(EncoderConfig { token_types, pooling }))
}

/// A window of 0 is none.
fn window(keys: &Keys<'_, '_>) -> Result<Option<u32>, SourceError> {
    let window = keys
        .integer("attention.sliding_window")?
        .filter(|&window| window > 0);
    Ok(window.map(|window| u32::try_from(window).unwrap_or(u32::MAX)))
}

fn experts(keys: &Keys<'_, '_>, ffn: Option<usize>) -> Result<Option<ExpertsConfig>, SourceError> {
    let Some(count) = keys.integer("expert_count")?.filter(|&count| count > 0) else {
        return Ok(None);
    };
    let ffn = match (keys.integer("expert_feed_forward_length")?, ffn) {
        (Some(ffn), _) | (None, Some(ffn)) => ffn,
        (None, None) => {
            return Err(SourceError::MissingKey {
                key: keys.full("feed_forward_length"),
            });
        }
    };
    // Mixtral and Qwen 3 scale the chosen experts to one; a file may say otherwise.
    let normalise = keys
        .metadata
        .flag(&keys.full("expert_weights_norm"))?
        .unwrap_or(true);
    Ok(Some(ExpertsConfig {
        count,
        used: keys.need("expert_used_count")?,
        ffn,
        normalise,
    }))
}

fn rope(
    file: &Gguf<'_>,
    keys: &Keys<'_, '_>,
    style: RopeStyle,
    head_dim: usize,
    context: usize,
) -> Result<RopeConfig, SourceError> {
    let dims = keys.integer("rope.dimension_count")?.unwrap_or(head_dim);
    let scaling = match (file.tensor(ROPE_FREQS), scaling(keys, context)?) {
        (None, scaling) => scaling,
        (Some(divisors), RopeScaling::None) => RopeScaling::Divisors(floats(divisors)?),
        (Some(_), _) => {
            let what = format!("{ROPE_FREQS} together with another rope scaling");
            return Err(SourceError::Unsupported { what });
        }
    };
    Ok(RopeConfig {
        theta: keys.float("rope.freq_base")?.unwrap_or(10_000.0),
        dims,
        style,
        scaling,
    })
}

fn scaling(keys: &Keys<'_, '_>, context: usize) -> Result<RopeScaling, SourceError> {
    let kind = keys
        .metadata
        .text(&keys.full("rope.scaling.type"))?
        .unwrap_or("linear");
    let factor = match keys.float("rope.scaling.factor")? {
        Some(factor) => Some(factor),
        None => keys.float("rope.scale_linear")?,
    };
    let factor = factor.filter(|&factor| factor != 0.0).unwrap_or(1.0);
    match kind {
        "none" => Ok(RopeScaling::None),
        "linear" if factor == 1.0 => Ok(RopeScaling::None),
        "linear" => Ok(RopeScaling::Linear { factor }),
        "yarn" => Ok(RopeScaling::Yarn {
            factor,
            beta_fast: keys.float("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
            beta_slow: keys.float("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
            original_context: keys
                .integer("rope.scaling.original_context_length")?
                .unwrap_or(context),
            attention_factor: attention_factor(keys, factor)?,
        }),
        other => Err(SourceError::Unsupported {
            what: format!("rope scaling {other:?}"),
        }),
    }
}

/// What the file says of YaRN's factor on sine and cosine; `None` leaves the paper's.
fn attention_factor(keys: &Keys<'_, '_>, factor: f64) -> Result<Option<f64>, SourceError> {
    if let Some(whole) = keys.float("rope.scaling.yarn_attn_factor")? {
        return Ok(Some(whole));
    }
    let extra = keys.float("rope.scaling.attn_factor")?;
    let log = keys
        .float("rope.scaling.yarn_log_multiplier")?
        .filter(|&log| log != 0.0);
    if extra.is_none() && log.is_none() {
        return Ok(None);
    }
    let paper = |of: f64| RopeScaling::yarn_magnitude(factor, of);
    Ok(Some(extra.unwrap_or(1.0) * paper(1.0) / log.map_or(1.0, paper)))
}

/// A vector of the file as floats.
fn floats(tensor: &GgufTensor<'_>) -> Result<Vec<f32>, SourceError> {
    if tensor.rank != 1 || tensor.format != Format::F32 {
        let what = format!("{:?} that is not a vector of 32-bit floats", tensor.name);
        return Err(SourceError::Unsupported { what });
    }
    let mut values = vec![0.0; tensor.dims[0]];
    dequantize_row(tensor.format, tensor.bytes, &mut values);
    Ok(values)
}
