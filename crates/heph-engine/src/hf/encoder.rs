//! Folders of models that only read: BERT as transformers writes it, and Nomic's.

use super::config::{need, unsupported};
use super::json;
use super::names::Place;
use crate::config::{EncoderConfig, ModelConfig, Pooling, RopeConfig, RopeScaling};
use crate::source::SourceError;
use heph_kernels::rope::RopeStyle;
use serde::Deserialize;

/// The keys of both kinds; Nomic's names stand second.
#[derive(Deserialize)]
struct Raw {
    architectures: Option<Vec<String>>,
    #[serde(alias = "n_embd")]
    hidden_size: Option<usize>,
    #[serde(alias = "n_inner")]
    intermediate_size: Option<usize>,
    #[serde(alias = "n_layer")]
    num_hidden_layers: Option<usize>,
    #[serde(alias = "n_head")]
    num_attention_heads: Option<usize>,
    vocab_size: Option<usize>,
    #[serde(alias = "n_positions")]
    max_position_embeddings: Option<usize>,
    #[serde(alias = "layer_norm_epsilon")]
    layer_norm_eps: Option<f32>,
    type_vocab_size: Option<usize>,
    #[serde(alias = "activation_function")]
    hidden_act: Option<String>,
    position_embedding_type: Option<String>,
    rotary_emb_base: Option<f64>,
    rotary_emb_fraction: Option<f64>,
    rotary_emb_interleaved: Option<bool>,
    rotary_scaling_factor: Option<f64>,
    prenorm: Option<bool>,
    qkv_proj_bias: Option<bool>,
    mlp_fc1_bias: Option<bool>,
    mlp_fc2_bias: Option<bool>,
    is_decoder: Option<bool>,
}

/// `1_Pooling/config.json` of sentence-transformers.
#[derive(Deserialize, Default)]
#[serde(default)]
struct RawPooling {
    pooling_mode_mean_tokens: bool,
    pooling_mode_cls_token: bool,
    pooling_mode_max_tokens: bool,
    pooling_mode_lasttoken: bool,
    pooling_mode_weightedmean_tokens: bool,
    pooling_mode_mean_sqrt_len_tokens: bool,
}

/// Reads the model's shape; `None` for a model that writes.
pub(super) fn read(config: &[u8], pooling: Option<&[u8]>) -> Result<Option<ModelConfig>, SourceError> {
    let raw: Raw = json("config.json", config)?;
    match raw.architectures.as_ref().and_then(|names| names.first()) {
        Some(name) if name == "BertModel" => raw.bert(pooling).map(Some),
        Some(name) if name == "NomicBertModel" => raw.nomic(pooling).map(Some),
        _ => Ok(None),
    }
}

impl Raw {
    fn bert(&self, pooling: Option<&[u8]>) -> Result<ModelConfig, SourceError> {
        match self.hidden_act.as_deref() {
            None | Some("gelu") => {}
            Some(other) => return unsupported(format!("the activation {other:?}")),
        }
        match self.position_embedding_type.as_deref() {
            None | Some("absolute") => {}
            Some(other) => return unsupported(format!("positions of kind {other:?}")),
        }
        if self.is_decoder == Some(true) {
            return unsupported("a BERT that looks back only".to_owned());
        }
        let rope = RopeConfig {
            theta: 10_000.0,
            dims: 0,
            style: RopeStyle::Halves,
            scaling: RopeScaling::None,
        };
        // transformers' own defaults for what the file leaves out.
        self.shape("bert", self.layer_norm_eps.unwrap_or(1e-12), 2, rope, pooling)
    }

    fn nomic(&self, pooling: Option<&[u8]>) -> Result<ModelConfig, SourceError> {
        match self.hidden_act.as_deref() {
            Some("swiglu") => {}
            other => return unsupported(format!("the activation {:?}", other.unwrap_or("none named"))),
        }
        let biased = [self.qkv_proj_bias, self.mlp_fc1_bias, self.mlp_fc2_bias].contains(&Some(true));
        if biased || self.prenorm == Some(true) || self.rotary_emb_interleaved == Some(true) {
            return unsupported("biases, normalisation in front, or interleaved rotary pairs".to_owned());
        }
        if self.rotary_emb_fraction.is_some_and(|part| part != 1.0) {
            return unsupported("positions that turn a part of a head".to_owned());
        }
        if self.rotary_scaling_factor.is_some_and(|factor| factor != 1.0) {
            return unsupported("rotary frequencies that change with the length of the text".to_owned());
        }
        let (hidden, heads) = (
            need(self.hidden_size, "n_embd")?,
            need(self.num_attention_heads, "n_head")?,
        );
        let rope = RopeConfig {
            theta: self.rotary_emb_base.unwrap_or(10_000.0),
            dims: hidden.checked_div(heads).unwrap_or(0),
            style: RopeStyle::Halves,
            scaling: RopeScaling::None,
        };
        let eps = need(self.layer_norm_eps, "layer_norm_epsilon")?;
        self.shape("nomic-bert", eps, 0, rope, pooling)
    }

    fn shape(
        &self,
        architecture: &str,
        eps: f32,
        token_types: usize,
        rope: RopeConfig,
        pooling: Option<&[u8]>,
    ) -> Result<ModelConfig, SourceError> {
        let (hidden, heads) = (
            need(self.hidden_size, "hidden_size")?,
            need(self.num_attention_heads, "num_attention_heads")?,
        );
        Ok(ModelConfig {
            architecture: architecture.to_owned(),
            name: None,
            layers: need(self.num_hidden_layers, "num_hidden_layers")?,
            hidden,
            heads,
            kv_heads: heads,
            head_dim: hidden.checked_div(heads).unwrap_or(0),
            ffn: need(self.intermediate_size, "intermediate_size")?,
            vocab: need(self.vocab_size, "vocab_size")?,
            context: need(self.max_position_embeddings, "max_position_embeddings")?,
            rms_eps: eps,
            rope,
            sliding_window: None,
            experts: None,
            encoder: Some(EncoderConfig {
                token_types: self.type_vocab_size.unwrap_or(token_types),
                pooling: read_pooling(pooling)?,
            }),
        })
    }
}

/// What the folder says of pooling; the mean where it says nothing.
fn read_pooling(file: Option<&[u8]>) -> Result<Pooling, SourceError> {
    let Some(file) = file else {
        return Ok(Pooling::Mean);
    };
    let raw: RawPooling = json("1_Pooling/config.json", file)?;
    let others = raw.pooling_mode_max_tokens
        || raw.pooling_mode_lasttoken
        || raw.pooling_mode_weightedmean_tokens
        || raw.pooling_mode_mean_sqrt_len_tokens;
    match (raw.pooling_mode_mean_tokens, raw.pooling_mode_cls_token, others) {
        (true, false, false) => Ok(Pooling::Mean),
        (false, true, false) => Ok(Pooling::First),
        _ => unsupported("pooling other than the mean or the first row".to_owned()),
    }
}

/// Tensors outside the layers: name in the folder, name in GGUF.
const WHOLE: &[(&str, &str)] = &[
    ("embeddings.word_embeddings.weight", "token_embd.weight"),
    ("embeddings.position_embeddings.weight", "position_embd.weight"),
    ("embeddings.token_type_embeddings.weight", "token_types.weight"),
    ("embeddings.LayerNorm.weight", "token_embd_norm.weight"),
    ("embeddings.LayerNorm.bias", "token_embd_norm.bias"),
    ("emb_ln.weight", "token_embd_norm.weight"),
    ("emb_ln.bias", "token_embd_norm.bias"),
];

/// Parts of a layer, each with a `.weight` and perhaps a `.bias`: name in the folder, name in GGUF.
const PARTS: &[(&str, &str)] = &[
    ("attention.self.query", "attn_q"),
    ("attention.self.key", "attn_k"),
    ("attention.self.value", "attn_v"),
    ("attention.output.dense", "attn_output"),
    ("attention.output.LayerNorm", "attn_output_norm"),
    ("intermediate.dense", "ffn_up"),
    ("output.dense", "ffn_down"),
    ("output.LayerNorm", "layer_output_norm"),
    ("attn.out_proj", "attn_output"),
    ("norm1", "attn_output_norm"),
    ("mlp.fc11", "ffn_up"),
    ("mlp.fc12", "ffn_gate"),
    ("mlp.fc2", "ffn_down"),
    ("norm2", "layer_output_norm"),
];

/// Finds what `name` is, or `None` for a name that no encoder here has.
pub(super) fn place(name: &str) -> Option<Place> {
    let name = name.strip_prefix("bert.").unwrap_or(name);
    // The pooler serves classification; the position ids count from 0 on.
    if name.starts_with("pooler.") || name == "embeddings.position_ids" {
        return Some(Place::Derived);
    }
    if let Some((_, gguf)) = WHOLE.iter().find(|(theirs, _)| *theirs == name) {
        return Some(Place::Whole((*gguf).to_owned()));
    }
    let in_layer = name
        .strip_prefix("encoder.layer.")
        .or_else(|| name.strip_prefix("encoder.layers."))?;
    let (layer, part) = in_layer.split_once('.')?;
    let layer: usize = layer.parse().ok()?;
    if part == "attn.Wqkv.weight" {
        return Some(Place::Fused { layer });
    }
    let (stem, kind) = part
        .rsplit_once('.')
        .filter(|(_, kind)| matches!(*kind, "weight" | "bias"))?;
    let (_, ours) = PARTS.iter().find(|(theirs, _)| *theirs == stem)?;
    Some(Place::Whole(format!("blk.{layer}.{ours}.{kind}")))
}
