//! The metadata of a file that is written.

use super::vocabulary;
use super::{FileType, QuantizeError};
use crate::config::{ModelConfig, Pooling, RopeScaling};
use crate::gguf::{Header, Metadata};
use crate::source::{Source, Vocabulary};

/// Version of the quantised layouts that this file's tensors follow.
const QUANTIZATION_VERSION: u32 = 2;

/// Everything but tensors.
pub(super) fn metadata(
    source: &Source,
    vocabulary: &Vocabulary<'_>,
    file_type: FileType,
    name: &str,
) -> Result<Header, QuantizeError> {
    let mut header = Header::new();
    match vocabulary {
        Vocabulary::Gguf(metadata) => copy(metadata, &mut header),
        Vocabulary::Folder(texts) => {
            header.text("general.architecture", &source.config().architecture);
            header.text("general.type", "model");
            header.text("general.name", name);
            shape(source.config(), &mut header);
            vocabulary::put(texts, source.config().vocab, &mut header)?;
        }
    }
    header.u32("general.quantization_version", QUANTIZATION_VERSION);
    header.u32("general.file_type", file_type.to_ggml());
    Ok(header)
}

/// What the old file said, but for what is about the old file itself.
fn copy(metadata: &Metadata<'_>, header: &mut Header) {
    let own = [
        "general.quantization_version",
        "general.file_type",
        "general.alignment",
    ];
    let kept = metadata
        .iter()
        .filter(|(key, _)| !own.contains(key) && !key.starts_with("split."));
    kept.for_each(|(key, value)| header.set(key, value));
}

/// The numbers of the model.
fn shape(config: &ModelConfig, header: &mut Header) {
    let key = |name: &str| format!("{}.{name}", config.architecture);
    let mut number =
        |name: &str, value: usize| header.u32(&key(name), u32::try_from(value).unwrap_or(u32::MAX));
    number("vocab_size", config.vocab);
    number("context_length", config.context);
    number("embedding_length", config.hidden);
    number("block_count", config.layers);
    number("feed_forward_length", config.ffn);
    number("attention.head_count", config.heads);
    number("attention.head_count_kv", config.kv_heads);
    number("attention.key_length", config.head_dim);
    number("attention.value_length", config.head_dim);
    number("rope.dimension_count", config.rope.dims);
    if let Some(window) = config.sliding_window {
        number("attention.sliding_window", window as usize);
    }
    if let Some(experts) = config.experts {
        number("expert_count", experts.count);
        number("expert_used_count", experts.used);
        number("expert_feed_forward_length", experts.ffn);
        header.flag(&key("expert_weights_norm"), experts.normalise);
    }
    match config.encoder {
        None => header.f32(&key("attention.layer_norm_rms_epsilon"), config.rms_eps),
        Some(encoder) => {
            header.f32(&key("attention.layer_norm_epsilon"), config.rms_eps);
            header.flag(&key("attention.causal"), false);
            let pooling = match encoder.pooling {
                Pooling::Mean => 1,
                Pooling::First => 2,
            };
            header.u32(&key("pooling_type"), pooling);
            header.u32(
                "tokenizer.ggml.token_type_count",
                u32::try_from(encoder.token_types).unwrap_or(u32::MAX),
            );
        }
    }
    header.f32(&key("rope.freq_base"), config.rope.theta as f32);
    scaling(config, header);
}

/// How frequencies are stretched. Llama 3's bands are a tensor.
fn scaling(config: &ModelConfig, header: &mut Header) {
    let key = |name: &str| format!("{}.rope.scaling.{name}", config.architecture);
    match &config.rope.scaling {
        RopeScaling::None | RopeScaling::Llama3 { .. } | RopeScaling::Divisors(_) => {}
        RopeScaling::Linear { factor } => {
            header.text(&key("type"), "linear");
            header.f32(&key("factor"), *factor as f32);
        }
        RopeScaling::Yarn {
            factor,
            beta_fast,
            beta_slow,
            original_context,
            attention_factor,
        } => {
            header.text(&key("type"), "yarn");
            header.f32(&key("factor"), *factor as f32);
            header.f32(&key("yarn_beta_fast"), *beta_fast as f32);
            header.f32(&key("yarn_beta_slow"), *beta_slow as f32);
            header.u32(
                &key("original_context_length"),
                u32::try_from(*original_context).unwrap_or(u32::MAX),
            );
            if let Some(whole) = attention_factor {
                // Converters write the first, llama.cpp computes with the second, which stands on the paper's.
                header.f32(&key("yarn_attn_factor"), *whole as f32);
                header.f32(
                    &key("attn_factor"),
                    (whole / RopeScaling::yarn_magnitude(*factor, 1.0)) as f32,
                );
            }
        }
    }
}
