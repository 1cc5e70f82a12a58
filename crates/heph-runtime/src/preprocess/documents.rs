//! Documents and turns of a conversation, as sources to choose from.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use heph_engine::retrieval::{SOURCE_BYTES_MAX, Source};

use crate::desk::Message;

/// A document's bytes: as much as can be searched at once.
pub const DOCUMENT_BYTES_MAX: usize = SOURCE_BYTES_MAX;

/// Bytes of a name in a citation: it is sent with every excerpt.
const NAME_BYTES_MAX: usize = 60;

/// Why a document cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// The system refused.
    #[error("cannot read {path}: {cause}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// It is too large.
    #[error("{path} is larger than the {} MiB that can be searched", DOCUMENT_BYTES_MAX >> 20)]
    TooLarge {
        /// Which file.
        path: PathBuf,
    },
    /// It is no text.
    #[error("{path} is not UTF-8 text: byte {at} belongs to no character")]
    NotText {
        /// Which file.
        path: PathBuf,
        /// The first byte that is wrong.
        at: usize,
    },
}

impl DocumentError {
    /// What to do about it, where we know.
    pub(super) fn hint(&self) -> Option<String> {
        match self {
            Self::Io { .. } => None,
            Self::TooLarge { .. } => Some("cut it into parts and ask about the one that matters".into()),
            Self::NotText { .. } => {
                Some("save it as UTF-8 text; a PDF or an office file must be exported as text first".into())
            }
        }
    }
}

/// A text to choose from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    name: String,
    text: String,
}

impl Document {
    /// A text under a name that citations call it by. The name leaves the machine.
    pub fn new(name: &str, text: impl Into<String>) -> Self {
        let clean = |c: char| {
            if c.is_control() || matches!(c, '[' | ']' | ':') {
                '_'
            } else {
                c
            }
        };
        let name: String = name.chars().map(clean).collect();
        Self {
            name: name[..name.floor_char_boundary(NAME_BYTES_MAX)].to_owned(),
            text: text.into(),
        }
    }

    /// The file at `path`. Citations call it by its name without its folders, which stay here.
    ///
    /// # Errors
    /// When it cannot be read, is too large, or is no UTF-8 text.
    pub fn read(path: &Path) -> Result<Self, DocumentError> {
        let refused = |cause| DocumentError::Io {
            path: path.to_owned(),
            cause,
        };
        let mut bytes = Vec::new();
        let limit = DOCUMENT_BYTES_MAX as u64 + 1;
        let file = File::open(path).map_err(refused)?;
        file.take(limit).read_to_end(&mut bytes).map_err(refused)?;
        if bytes.len() > DOCUMENT_BYTES_MAX {
            return Err(DocumentError::TooLarge {
                path: path.to_owned(),
            });
        }
        let text = String::from_utf8(bytes).map_err(|error| DocumentError::NotText {
            path: path.to_owned(),
            at: error.utf8_error().valid_up_to(),
        })?;
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
        Ok(Self::new(&name, text))
    }

    /// Files, each under a name of its own.
    ///
    /// # Errors
    /// For the first file that cannot be read.
    pub fn read_all(paths: &[PathBuf]) -> Result<Vec<Self>, DocumentError> {
        let mut documents: Vec<Self> = Vec::with_capacity(paths.len());
        for path in paths {
            let mut document = Self::read(path)?;
            let same = documents.iter().filter(|d| d.name == document.name).count();
            if same > 0 {
                document.name = format!("{} ({})", document.name, same + 1);
            }
            documents.push(document);
        }
        Ok(documents)
    }

    /// What was said in a conversation, one source for each turn.
    pub fn of_history(history: &[Message]) -> Vec<Self> {
        let turn = |(at, message): (usize, &Message)| {
            Self::new(
                &format!("turn {}, {}", at + 1, message.role),
                message.content.as_str(),
            )
        };
        history.iter().enumerate().map(turn).collect()
    }

    /// What citations call it by.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// All of it.
    pub fn text(&self) -> &str {
        &self.text
    }

    pub(super) fn source(&self) -> Source<'_> {
        Source {
            name: &self.name,
            text: &self.text,
        }
    }
}
