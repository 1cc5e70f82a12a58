//! `config.json`, as transformers 4 and 5 write it, for the architectures that HEPH runs.

use super::{HfError, json};
use crate::config::{ExpertsConfig, ModelConfig, RopeConfig, RopeScaling};
use crate::source::SourceError;
use heph_kernels::rope::RopeStyle;
use serde::{Deserialize, Deserializer};

/// Base of the rotary frequencies of most families.
const THETA: f64 = 10_000.0;

/// The architectures of this file: name in the folder, and what it means here.
const FAMILIES: &[(&str, Family)] = &[
    (
        "LlamaForCausalLM",
        Family {
            gguf: "llama",
            window: Window::Never,
            normalise: true,
            theta: THETA,
        },
    ),
    (
        "MistralForCausalLM",
        Family {
            gguf: "llama",
            window: Window::Stated(Some(4096)),
            normalise: true,
            theta: THETA,
        },
    ),
    (
        "MixtralForCausalLM",
        Family {
            gguf: "llama",
            window: Window::Stated(None),
            normalise: true,
            theta: 1_000_000.0,
        },
    ),
    (
        "Qwen2ForCausalLM",
        Family {
            gguf: "qwen2",
            window: Window::Upper,
            normalise: true,
            theta: THETA,
        },
    ),
    (
        "Qwen3ForCausalLM",
        Family {
            gguf: "qwen3",
            window: Window::Upper,
            normalise: true,
            theta: THETA,
        },
    ),
    (
        "Qwen3MoeForCausalLM",
        Family {
            gguf: "qwen3moe",
            window: Window::All,
            normalise: false,
            theta: THETA,
        },
    ),
];

/// What transformers does with one architecture.
#[derive(Clone, Copy)]
struct Family {
    /// Its name in GGUF files.
    gguf: &'static str,
    window: Window,
    /// Whether chosen experts are scaled to one when the file does not say.
    normalise: bool,
    /// Base of the rotary frequencies when the file does not say.
    theta: f64,
}

/// How an architecture reads `sliding_window`.
#[derive(Clone, Copy)]
enum Window {
    /// Not at all.
    Never,
    /// In every layer; with this value when the file does not say.
    Stated(Option<u32>),
    /// In every layer, and only with `use_sliding_window`.
    All,
    /// In the layers that `layer_types` names, or else from layer `max_window_layers` on, and only with `use_sliding_window`.
    Upper,
}

/// The file. Keys that are not here do not change what a supported model computes.
#[derive(Deserialize)]
#[serde(expecting = "an object of the model's settings")]
struct Raw {
    architectures: Option<Vec<String>>,
    hidden_size: Option<usize>,
    intermediate_size: Option<usize>,
    moe_intermediate_size: Option<usize>,
    num_hidden_layers: Option<usize>,
    num_attention_heads: Option<usize>,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    vocab_size: Option<usize>,
    max_position_embeddings: Option<usize>,
    rms_norm_eps: Option<f32>,
    hidden_act: Option<String>,
    tie_word_embeddings: Option<bool>,
    rope_theta: Option<f64>,
    partial_rotary_factor: Option<f64>,
    rope_parameters: Option<RawRope>,
    rope_scaling: Option<RawRope>,
    /// Outer `None`: not in the file. Inner: `null`.
    #[serde(default, deserialize_with = "present")]
    sliding_window: Option<Option<u32>>,
    use_sliding_window: Option<bool>,
    max_window_layers: Option<usize>,
    layer_types: Option<Vec<String>>,
    num_local_experts: Option<usize>,
    num_experts: Option<usize>,
    num_experts_per_tok: Option<usize>,
    norm_topk_prob: Option<bool>,
    decoder_sparse_step: Option<usize>,
    mlp_only_layers: Option<Vec<usize>>,
    quantization_config: Option<serde_json::Value>,
}

/// `rope_parameters` of transformers 5, `rope_scaling` of 4.
#[derive(Deserialize, Default, Clone)]
#[serde(expecting = "an object that says how positions turn")]
struct RawRope {
    #[serde(alias = "type")]
    rope_type: Option<String>,
    rope_theta: Option<f64>,
    partial_rotary_factor: Option<f64>,
    factor: Option<f64>,
    beta_fast: Option<f64>,
    beta_slow: Option<f64>,
    attention_factor: Option<f64>,
    mscale: Option<f64>,
    mscale_all_dim: Option<f64>,
    truncate: Option<bool>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<usize>,
}

fn present<'de, D: Deserializer<'de>>(json: D) -> Result<Option<Option<u32>>, D::Error> {
    Option::deserialize(json).map(Some)
}

fn parse(bytes: &[u8]) -> Result<Raw, HfError> {
    json("config.json", bytes)
}

/// Whether the head is the token table, so that a `lm_head` in the folder counts for nothing; `None` where the
/// file does not say.
pub(super) fn tied(bytes: &[u8]) -> Result<Option<bool>, HfError> {
    Ok(parse(bytes)?.tie_word_embeddings)
}

/// Reads the model's shape.
pub(super) fn read(bytes: &[u8]) -> Result<ModelConfig, SourceError> {
    let raw = parse(bytes)?;
    let family = family(&raw)?;
    raw.check_supported()?;
    let (hidden, heads) = (
        need(raw.hidden_size, "hidden_size")?,
        need(raw.num_attention_heads, "num_attention_heads")?,
    );
    let head_dim = raw.head_dim.unwrap_or(hidden.checked_div(heads).unwrap_or(0));
    let layers = need(raw.num_hidden_layers, "num_hidden_layers")?;
    let context = need(raw.max_position_embeddings, "max_position_embeddings")?;
    Ok(ModelConfig {
        architecture: family.gguf.to_owned(),
        name: None,
        layers,
        hidden,
        heads,
        kv_heads: raw.num_key_value_heads.unwrap_or(heads),
        head_dim,
        ffn: need(raw.intermediate_size, "intermediate_size")?,
        vocab: need(raw.vocab_size, "vocab_size")?,
        context,
        rms_eps: need(raw.rms_norm_eps, "rms_norm_eps")?,
        rope: raw.rope(family.theta, head_dim, context)?,
        sliding_window: raw.window(family.window, layers)?,
        experts: raw.experts(family.normalise)?,
        encoder: None,
    })
}

pub(super) fn need<T>(value: Option<T>, key: &str) -> Result<T, SourceError> {
    value.ok_or_else(|| SourceError::MissingKey { key: key.to_owned() })
}

pub(super) fn unsupported<T>(what: String) -> Result<T, SourceError> {
    Err(SourceError::Unsupported { what })
}

fn family(raw: &Raw) -> Result<Family, SourceError> {
    let names = need(raw.architectures.as_ref(), "architectures")?;
    let name = need(names.first(), "architectures")?;
    let found = FAMILIES.iter().find(|(known, _)| known == name);
    found
        .map(|(_, family)| *family)
        .ok_or_else(|| SourceError::Architecture { name: name.clone() })
}

impl Raw {
    /// Refuses what would compute something else than the model means.
    fn check_supported(&self) -> Result<(), SourceError> {
        match &self.hidden_act {
            Some(other) if other != "silu" => return unsupported(format!("the activation {other:?}")),
            _ => {}
        }
        if self.quantization_config.is_some() {
            return unsupported("weights that are quantised inside safetensors".to_owned());
        }
        let dense = self
            .mlp_only_layers
            .as_ref()
            .is_some_and(|layers| !layers.is_empty());
        if dense || self.decoder_sparse_step.is_some_and(|step| step != 1) {
            return unsupported("experts in some layers only".to_owned());
        }
        Ok(())
    }

    fn experts(&self, normalise: bool) -> Result<Option<ExpertsConfig>, SourceError> {
        let Some(count) = self
            .num_local_experts
            .or(self.num_experts)
            .filter(|&count| count > 0)
        else {
            return Ok(None);
        };
        let ffn = need(
            self.moe_intermediate_size.or(self.intermediate_size),
            "moe_intermediate_size",
        )?;
        let used = need(self.num_experts_per_tok, "num_experts_per_tok")?;
        Ok(Some(ExpertsConfig {
            count,
            used,
            ffn,
            normalise: self.norm_topk_prob.unwrap_or(normalise),
        }))
    }

    fn window(&self, rule: Window, layers: usize) -> Result<Option<u32>, SourceError> {
        match rule {
            Window::Never => Ok(None),
            Window::Stated(default) => Ok(self.sliding_window.unwrap_or(default)),
            Window::All if !self.use_sliding_window.unwrap_or(false) => Ok(None),
            Window::All => Ok(self.sliding_window.flatten()),
            Window::Upper if !self.use_sliding_window.unwrap_or(false) => Ok(None),
            Window::Upper => match (self.sliding_window.flatten(), self.sliding_layers(layers)) {
                (None, _) | (_, 0) => Ok(None),
                (window, sliding) if sliding == layers => Ok(window),
                _ => unsupported("a sliding window in some layers only".to_owned()),
            },
        }
    }

    /// How many layers have the window, of a family that may have it in some.
    fn sliding_layers(&self, layers: usize) -> usize {
        match &self.layer_types {
            Some(types) => types.iter().filter(|kind| *kind == "sliding_attention").count(),
            None => layers.saturating_sub(self.max_window_layers.unwrap_or(layers)),
        }
    }

    fn rope(&self, theta: f64, head_dim: usize, context: usize) -> Result<RopeConfig, SourceError> {
        let rope = self
            .rope_parameters
            .clone()
            .or_else(|| self.rope_scaling.clone())
            .unwrap_or_default();
        let part = rope
            .partial_rotary_factor
            .or(self.partial_rotary_factor)
            .unwrap_or(1.0);
        Ok(RopeConfig {
            theta: rope.rope_theta.or(self.rope_theta).unwrap_or(theta),
            dims: (head_dim as f64 * part) as usize,
            style: RopeStyle::Halves,
            scaling: rope.scaling(context)?,
        })
    }
}

impl RawRope {
    fn scaling(&self, context: usize) -> Result<RopeScaling, SourceError> {
        let key = |name: &str| format!("rope_parameters.{name}");
        let factor = || need(self.factor, &key("factor"));
        let original = self.original_max_position_embeddings;
        match self.rope_type.as_deref().unwrap_or("default") {
            "default" => Ok(RopeScaling::None),
            "linear" => Ok(RopeScaling::Linear { factor: factor()? }),
            "llama3" => Ok(RopeScaling::Llama3 {
                factor: factor()?,
                low: need(self.low_freq_factor, &key("low_freq_factor"))?,
                high: need(self.high_freq_factor, &key("high_freq_factor"))?,
                original_context: need(original, &key("original_max_position_embeddings"))?,
            }),
            "yarn" if self.truncate == Some(false) => unsupported("YaRN without whole limits".to_owned()),
            "yarn" => self.yarn(original.unwrap_or(context), context),
            other => unsupported(format!("rope scaling {other:?}")),
        }
    }

    fn yarn(&self, original_context: usize, context: usize) -> Result<RopeScaling, SourceError> {
        let factor = self
            .factor
            .unwrap_or(context as f64 / original_context.max(1) as f64);
        let stated = |value: Option<f64>| value.filter(|&value| value != 0.0);
        let ratio = stated(self.mscale)
            .zip(stated(self.mscale_all_dim))
            .map(|(some, all)| {
                RopeScaling::yarn_magnitude(factor, some) / RopeScaling::yarn_magnitude(factor, all)
            });
        Ok(RopeScaling::Yarn {
            factor,
            beta_fast: stated(self.beta_fast).unwrap_or(32.0),
            beta_slow: stated(self.beta_slow).unwrap_or(1.0),
            original_context,
            attention_factor: self.attention_factor.or(ratio),
        })
    }
}
