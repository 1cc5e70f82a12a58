//! Hugging Face folders: `config.json`, weights in safetensors files, a tokenizer in JSON.
//!
//! Names and shapes are turned into those of GGUF, so that the rest of the engine knows one kind of model. The
//! caller opens the files; [`weight_files`] tells which. Rotary pairs stay as the folder has them (element `i`
//! with `i + d / 2`), which the configuration says.

mod config;
mod encoder;
mod names;
mod safetensors;

pub use safetensors::{Safetensors, SafetensorsError, StoredTensor};

use crate::config::ModelConfig;
use crate::source::{SourceError, SourceTensor};
use serde::Deserialize;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

/// The single file of an unsharded model.
pub const WEIGHTS: &str = "model.safetensors";

/// The index of a sharded one.
pub const INDEX: &str = "model.safetensors.index.json";

/// The matrix from hidden states to logits, unless the token table serves.
const HEAD: &str = "output.weight";

/// Why a folder is not a model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HfError {
    /// A JSON file that is none, or says something of another type than it should.
    #[error("{file} cannot be read: {why}")]
    Json {
        /// Name of the file.
        file: &'static str,
        /// What the JSON reader said.
        why: String,
    },
    /// A weight file is broken.
    #[error("weight file {file:?} is broken: {cause}")]
    Weights {
        /// Name of the file.
        file: String,
        /// What is wrong with it.
        #[source]
        cause: SafetensorsError,
    },
    /// The index names a file outside the folder.
    #[error("the index names {name:?}, which is no file of the folder")]
    FileName {
        /// The name in the index.
        name: String,
    },
    /// A tensor that no supported model has.
    #[error("tensor {name:?} is not part of any supported model")]
    UnknownTensor {
        /// Its name in the file.
        name: String,
    },
    /// Two files hold one tensor.
    #[error("tensor {name:?} is in the folder twice")]
    Duplicate {
        /// Its GGUF name.
        name: String,
    },
    /// A tensor whose numbers are stored in a way that HEPH does not read.
    #[error("tensor {name:?} is stored as {dtype}; only F32, F16 and BF16 are supported")]
    Dtype {
        /// Its name in the file.
        name: String,
        /// What it is stored as.
        dtype: String,
    },
    /// A tensor with a shape that it cannot have.
    #[error("tensor {name:?} has the impossible shape {shape:?}")]
    Shape {
        /// Its name in the file.
        name: String,
        /// The shape in the file.
        shape: Vec<usize>,
    },
    /// A layer without all of its experts, or experts that differ in shape or format.
    #[error("{name:?} does not have {count} experts of one shape")]
    Experts {
        /// GGUF name of the stacked tensor.
        name: String,
        /// Experts that the configuration asks for.
        count: usize,
    },
}

/// The small files of a folder; those that are absent are `None`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FolderTexts {
    /// `config.json`.
    pub config: Vec<u8>,
    /// `tokenizer.json`.
    pub tokenizer: Option<Vec<u8>>,
    /// `tokenizer_config.json`.
    pub tokenizer_config: Option<Vec<u8>>,
    /// `special_tokens_map.json`.
    pub special_tokens_map: Option<Vec<u8>>,
    /// `generation_config.json`.
    pub generation_config: Option<Vec<u8>>,
    /// `chat_template.jinja`.
    pub chat_template: Option<Vec<u8>>,
    /// `1_Pooling/config.json`.
    pub pooling: Option<Vec<u8>>,
}

/// The files of a folder, already in memory.
#[derive(Debug, Clone)]
pub(crate) struct Folder<'a> {
    pub(crate) texts: &'a FolderTexts,
    /// Every weight file with its name.
    pub(crate) weights: Vec<(&'a str, &'a [u8])>,
}

/// The weight files that an index (`model.safetensors.index.json`) names, each once.
///
/// # Errors
/// For an index that is no index, or that names something outside its folder.
pub fn weight_files(index: &[u8]) -> Result<Vec<String>, HfError> {
    #[derive(Deserialize)]
    struct Index<'a> {
        #[serde(borrow)]
        weight_map: BTreeMap<Cow<'a, str>, Cow<'a, str>>,
    }
    let index: Index<'_> = json(INDEX, index)?;
    let files: BTreeSet<Cow<'_, str>> = index.weight_map.into_values().collect();
    files
        .into_iter()
        .map(|name| plain_name(name.into_owned()))
        .collect()
}

/// A name without any way out of its folder.
fn plain_name(name: String) -> Result<String, HfError> {
    let plain = name.ends_with(".safetensors") && !name.contains(['/', '\\', ':', '\0']);
    if plain {
        Ok(name)
    } else {
        Err(HfError::FileName { name })
    }
}

/// Reads a JSON file of the folder.
fn json<'a, T: Deserialize<'a>>(file: &'static str, bytes: &'a [u8]) -> Result<T, HfError> {
    serde_json::from_slice(bytes).map_err(|error| HfError::Json {
        file,
        why: match key_at(bytes, &error) {
            Some(key) => format!("{key:?}: {error}"),
            None => error.to_string(),
        },
    })
}

/// The key whose value an error of type or range is about: the last one before the place that it names.
fn key_at(bytes: &[u8], error: &serde_json::Error) -> Option<String> {
    if error.classify() != serde_json::error::Category::Data {
        return None;
    }
    let lines = bytes.split_inclusive(|&byte| byte == b'\n');
    let start: usize = lines.take(error.line().checked_sub(1)?).map(<[u8]>::len).sum();
    let before = bytes.get(..(start + error.column()).min(bytes.len()))?;
    let text = std::str::from_utf8(before).ok()?;
    let mut ends = text.rmatch_indices('"').map(|(at, _)| at);
    let mut end = ends.next()?;
    for begin in ends {
        let is_key = text[end + 1..].trim_start().starts_with(':');
        if is_key && end - begin <= KEY_MAX {
            return Some(text[begin + 1..end].to_owned());
        }
        end = begin;
    }
    None
}

/// Bytes of a key that is named in a sentence.
const KEY_MAX: usize = 64;

impl<'a> Folder<'a> {
    /// The model's shape as `config.json` says it.
    pub(crate) fn config(&self) -> Result<ModelConfig, SourceError> {
        match encoder::read(&self.texts.config, self.texts.pooling.as_deref())? {
            Some(encoder) => Ok(encoder),
            None => config::read(&self.texts.config),
        }
    }

    /// The tensors of all weight files under their GGUF names.
    pub(crate) fn tensors(
        &self,
        config: &ModelConfig,
    ) -> Result<BTreeMap<String, SourceTensor<'a>>, SourceError> {
        let mut stacker = names::Stacker::new(config);
        for (file, bytes) in &self.weights {
            let broken = |cause| HfError::Weights {
                file: (*file).to_owned(),
                cause,
            };
            for tensor in Safetensors::parse(bytes).map_err(broken)?.tensors() {
                stacker.add(tensor)?;
            }
        }
        let mut tensors = stacker.finish()?;
        if config.encoder.is_some() {
            return Ok(tensors);
        }
        match config::tied(&self.texts.config)? {
            Some(true) => drop(tensors.remove(HEAD)),
            Some(false) if !tensors.contains_key(HEAD) => {
                let name = HEAD.to_owned();
                return Err(SourceError::MissingTensor { name });
            }
            Some(false) | None => {}
        }
        Ok(tensors)
    }
}

#[cfg(test)]
mod tests;
