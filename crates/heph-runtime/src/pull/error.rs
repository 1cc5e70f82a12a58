//! Why a download failed, and whether to try again.

use std::time::Duration;

use super::StoreError;

/// Why a model was not downloaded.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The repository's name is not `owner/name`.
    #[error("{0:?} is not a repository's name, which has the form owner/name")]
    Repository(String),
    /// The checksum given is no SHA-256.
    #[error("{0:?} is not a SHA-256, which has 64 hex digits")]
    Sha256(String),
    /// One checksum for a model of several files.
    #[error("a SHA-256 is that of one file, and this model has {files}")]
    SumOfSeveral {
        /// How many.
        files: usize,
    },
    /// The hub cannot be reached or stopped answering.
    #[error("{host} does not answer: {reason}")]
    Unreachable {
        /// Whom we asked.
        host: String,
        /// What the system said.
        reason: String,
    },
    /// The answer ended before the file did.
    #[error("the connection to {host} broke after {got} of {total} bytes")]
    CutShort {
        /// Who was sending.
        host: String,
        /// Bytes that arrived.
        got: u64,
        /// Bytes the file has.
        total: u64,
    },
    /// The hub said no.
    #[error("{host} refused {path} with status {status}")]
    Refused {
        /// Who said it.
        host: String,
        /// What we asked for.
        path: String,
        /// The HTTP status.
        status: u16,
        /// How long the server asked us to wait.
        wait: Option<Duration>,
    },
    /// The answer makes no sense.
    #[error("{host} sent an answer we cannot use: {reason}")]
    Nonsense {
        /// Who sent it.
        host: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The repository holds no model we can read.
    #[error("{0} holds neither a GGUF file nor safetensors with a config.json")]
    NoModel(String),
    /// The repository holds several models.
    #[error("{repository} holds several models: {}", files.join(", "))]
    Several {
        /// Which repository.
        repository: String,
        /// What could be meant.
        files: Vec<String>,
    },
    /// The content is not what its publisher named.
    #[error("{file} arrived with SHA-256 {got}, its publisher names {wanted}")]
    Checksum {
        /// Which file.
        file: String,
        /// What arrived.
        got: String,
        /// What was promised.
        wanted: String,
    },
    /// The store could not take it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What becomes of a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Retry {
    /// It would fail the same way.
    Never,
    /// It may go better after a pause, of the given length at least.
    After(Duration),
}

impl PullError {
    /// Whether another attempt may help.
    pub(super) fn retry(&self) -> Retry {
        match self {
            Self::Unreachable { .. } | Self::CutShort { .. } => Retry::After(Duration::ZERO),
            Self::Refused {
                status: 408 | 425 | 429 | 500..=599,
                wait,
                ..
            } => Retry::After(wait.unwrap_or_default()),
            Self::Repository(_)
            | Self::Sha256(_)
            | Self::SumOfSeveral { .. }
            | Self::Refused { .. }
            | Self::Nonsense { .. }
            | Self::NoModel(_)
            | Self::Several { .. }
            | Self::Checksum { .. }
            | Self::Store(_) => Retry::Never,
        }
    }

    /// What to do about it, where we know.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Repository(_) => "look the name up on the hub's page of the model",
            Self::Sha256(_) => "copy it from the publisher's page",
            Self::SumOfSeveral { .. } => {
                "leave --sha256 away: the hub's own sums are checked for each file that it names one for"
            }
            Self::Unreachable { .. } | Self::CutShort { .. } => {
                "what has arrived is kept; the same command goes on from there"
            }
            Self::Refused {
                status: 401 | 403, ..
            } => "accept the model's terms on its page and set HF_TOKEN to your access token",
            Self::Refused { status: 404, .. } => "check the repository, the file and --revision",
            Self::Refused { .. } => "try again later",
            Self::Nonsense { .. } => "check HEPH_HUB",
            Self::NoModel(_) => "name the file if it has another ending",
            Self::Several { .. } => "name one of the files after the repository",
            Self::Checksum { .. } => {
                "the file was thrown away; try again, and distrust the source if it repeats"
            }
            Self::Store(error) => return error.hint(),
        };
        Some(hint.to_owned())
    }
}
