//! The vocabulary keys of a GGUF file.

use std::sync::Arc;

use super::{Texts, VocabularyMetadata};
use crate::gguf::{Array, GgufError, Metadata};

impl VocabularyMetadata {
    /// What `metadata` says about the vocabulary. Keys that are absent stay empty; tokens that are not UTF-8
    /// keep U+FFFD in the place of what is wrong.
    ///
    /// # Errors
    /// Keys that hold another type than theirs.
    pub fn from_gguf(metadata: &Metadata<'_>) -> Result<Self, GgufError> {
        let key = |name: &str| format!("tokenizer.ggml.{name}");
        let text = |key: &str| Ok::<_, GgufError>(metadata.text(key)?.map(str::to_owned));
        let id = |name: &str| {
            Ok::<_, GgufError>(
                metadata
                    .integer(&key(name))?
                    .and_then(|id| u32::try_from(id).ok()),
            )
        };
        let flag = |name: &str| metadata.flag(&key(name));
        let list = |name: &str| metadata.array(&key(name));
        Ok(Self {
            model: text(&key("model"))?.unwrap_or_default(),
            pre: text(&key("pre"))?,
            tokens: Arc::new(strings(list("tokens")?)),
            scores: floats(list("scores")?),
            token_types: integers(list("token_type")?).map(|kind| kind as i32).collect(),
            merges: strings(list("merges")?),
            bos: id("bos_token_id")?,
            eos: id("eos_token_id")?,
            eot: id("eot_token_id")?,
            eom: id("eom_token_id")?,
            unknown: id("unknown_token_id")?,
            separator: id("seperator_token_id")?,
            padding: id("padding_token_id")?,
            mask: id("mask_token_id")?,
            add_bos: flag("add_bos_token")?,
            add_eos: flag("add_eos_token")?,
            add_space_prefix: flag("add_space_prefix")?,
            remove_extra_whitespaces: flag("remove_extra_whitespaces")?,
            precompiled_charsmap: integers(list("precompiled_charsmap")?)
                .map(|byte| byte as u8)
                .collect(),
            lowercase: metadata.flag("tokenizer.ggml.normalizer.lowercase")?,
            strip_accents: metadata.flag("tokenizer.ggml.normalizer.strip_accents")?,
            name: text("general.name")?,
            architecture: text("general.architecture")?,
        })
    }
}

fn strings(list: Option<Array<'_>>) -> Texts {
    let strings = list.as_ref().and_then(Array::strings).into_iter().flatten();
    strings.map(String::from_utf8_lossy).collect()
}

fn integers<'a>(list: Option<Array<'a>>) -> impl Iterator<Item = i64> + 'a {
    list.and_then(|list| list.integers()).into_iter().flatten()
}

/// Scores; some vocabularies hold whole numbers.
fn floats(list: Option<Array<'_>>) -> Vec<f32> {
    match list.as_ref().and_then(Array::floats) {
        Some(floats) => floats.collect(),
        None => integers(list).map(|score| score as f32).collect(),
    }
}
