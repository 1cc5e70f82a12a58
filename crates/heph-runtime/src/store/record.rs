//! What the store remembers of a model.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{ModelFiles, ModelName, POOLING};

/// How a model's files are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// One GGUF file, or the parts of one.
    Gguf,
    /// A Hugging Face folder: `config.json`, `.safetensors` files, `tokenizer.json`.
    HuggingFace,
}

impl Format {
    /// The word shown to people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gguf => "gguf",
            Self::HuggingFace => "hugging-face",
        }
    }
}

/// One file of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRecord {
    /// Its name inside the model's folder.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// BLAKE3 of its content, 64 hex digits.
    pub blake3: String,
    /// SHA-256 that its publisher named and the content matched, 64 hex digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}

/// Where a model came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Origin {
    /// Copied from this machine.
    Import {
        /// The path it was copied from.
        path: PathBuf,
    },
    /// Downloaded from a model hub.
    Pull {
        /// The hub's address.
        hub: String,
        /// Its name there, `owner/name`.
        repository: String,
        /// The branch, tag or commit asked for.
        revision: String,
        /// The commit that was served, where the hub told.
        commit: Option<String>,
    },
    /// Written on this machine, from another model.
    Quantised {
        /// What the other one was called.
        from: String,
        /// The format, as `q4_k_m`.
        file_type: String,
    },
}

/// A model of the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its name.
    pub name: ModelName,
    /// How its files are written.
    pub format: Format,
    /// BLAKE3 over the names and hashes of its files: equal for equal models.
    pub content: String,
    /// Its files, in the order they are opened.
    pub files: Vec<FileRecord>,
    /// Where it came from.
    pub origin: Origin,
    /// When it came, in seconds since 1970.
    pub added_unix_s: u64,
}

impl Record {
    pub(super) fn new(
        name: ModelName,
        format: Format,
        files: Vec<FileRecord>,
        origin: Origin,
        added_unix_s: u64,
    ) -> Self {
        Self {
            name,
            format,
            content: content(&files),
            files,
            origin,
            added_unix_s,
        }
    }

    /// All bytes of all files; saturates, since a record may say anything.
    pub fn bytes(&self) -> u64 {
        self.files
            .iter()
            .fold(0, |sum, file| file.bytes.saturating_add(sum))
    }

    /// This record, if its files stay inside its folder.
    pub(super) fn checked(self) -> Result<Self, String> {
        let leads_away = |f: &&FileRecord| {
            let plain = !f.name.is_empty() && f.name != ".." && f.name != ".";
            f.name != POOLING && (!plain || f.name.contains(['/', '\\', '\0']))
        };
        match self.files.iter().find(leads_away) {
            Some(file) => Err(format!(
                "the file name {:?} leads out of the model's folder",
                file.name
            )),
            None if self.files.is_empty() => Err("it lists no files".to_owned()),
            None => Ok(self),
        }
    }

    /// The files as paths, the model being in `folder`.
    pub(super) fn files_in(&self, folder: &Path) -> ModelFiles {
        match self.format {
            Format::Gguf => ModelFiles::Gguf(self.files.iter().map(|f| folder.join(&f.name)).collect()),
            Format::HuggingFace => ModelFiles::HuggingFace(folder.to_owned()),
        }
    }
}

/// BLAKE3 over the names and hashes of `files`.
pub(crate) fn content(files: &[FileRecord]) -> String {
    let mut hasher = blake3::Hasher::new();
    for file in files {
        hasher.update(file.name.as_bytes());
        hasher.update(b"\0");
        hasher.update(file.blake3.as_bytes());
        hasher.update(b"\n");
    }
    hasher.finalize().to_hex().to_string()
}
