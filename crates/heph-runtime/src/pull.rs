//! Downloads a model from a Hugging Face style hub into the store.
//!
//! An interrupted download is taken up where it stopped, never glued to a file that changed meanwhile, checked
//! against the SHA-256 its publisher names, and seen under its model's name only when every file is whole. Every
//! wait has a deadline and every retry a limit: see [`Patience`].

use std::time::Duration;

use crate::cancel::Cancel;
use crate::store::{Format, ModelName, Origin, Progress, Record, Staging, Store, StoreError};

mod download;
mod error;
mod hub;
mod offer;
mod selection;

pub use error::PullError;
pub use hub::{Hub, Repository};
pub use offer::{Offer, Offered, offer};
use selection::Selection;

/// How long we wait and how often we try again.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// For a name to be resolved and a connection to stand, TLS included.
    pub connect: Duration,
    /// For the answer's first line and headers, once a question is sent.
    pub response: Duration,
    /// For the next bytes of a file: a server that is silent for longer counts as lost.
    pub silence: Duration,
    /// Attempts in a row that bring less than [`PROGRESS_BYTES`].
    pub attempts: u32,
    /// Before the second attempt; doubled before each further one.
    pub pause: Duration,
    /// The longest pause, also where a server asks for more.
    pub pause_max: Duration,
}

/// An attempt that brings this much counts as progress and resets the count of attempts.
pub const PROGRESS_BYTES: u64 = 1 << 20;

impl Default for Patience {
    /// For a person at a terminal on a poor line: about a minute and a half until we give up.
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(15),
            response: Duration::from_secs(30),
            silence: Duration::from_secs(30),
            attempts: 7,
            pause: Duration::from_millis(500),
            pause_max: Duration::from_secs(30),
        }
    }
}

/// What to download.
#[derive(Debug, Clone)]
pub struct Request {
    /// Which repository of the hub.
    pub repository: Repository,
    /// Which branch, tag or commit.
    pub revision: String,
    /// Which GGUF file; the repository's only model if none is named.
    pub file: Option<String>,
    /// The SHA-256 the file must have, 64 hex digits; stands above what the hub says.
    pub sha256: Option<String>,
    /// The name it gets in the store.
    pub name: ModelName,
}

/// Downloads what `request` names into `store`.
///
/// # Errors
/// When the hub does not answer, the model is not there or ambiguous, a checksum is wrong, or the disk is full. What
/// has arrived is kept for the next attempt, except where it is known to be wrong.
pub fn pull(
    hub: &Hub,
    store: &Store,
    request: &Request,
    cancel: &Cancel,
    progress: &mut dyn FnMut(Progress),
) -> Result<Record, PullError> {
    let staging = store.stage(&request.name)?;
    let selection = selection::select(hub, request, cancel)?;
    let origin = Origin::Pull {
        hub: hub.address().to_owned(),
        repository: request.repository.to_string(),
        revision: request.revision.clone(),
        commit: selection.commit.clone(),
    };
    staging.go_on(&origin, |name, same| selection.keeps(name, same))?;
    let files = fetch_all(hub, request, &selection, &staging, cancel, progress)?;
    let published = staging.publish(selection.format, files, origin);
    if matches!(published, Err(StoreError::Open(_))) {
        // Whole, and no model: a page that says that there is none, for instance. To go on from it helps nobody.
        staging.discard();
    }
    Ok(published?)
}

fn fetch_all(
    hub: &Hub,
    request: &Request,
    selection: &Selection,
    staging: &Staging,
    cancel: &Cancel,
    progress: &mut dyn FnMut(Progress),
) -> Result<Vec<crate::store::FileRecord>, PullError> {
    // The sum is known when the hub listed the sizes of all files; else the bar follows one file at a time.
    let sum: Option<u64> = selection.files.iter().map(|f| f.bytes).sum();
    let mut before = 0;
    let mut records = Vec::new();
    // A branch may move between two files.
    let revision = selection.commit.as_deref().unwrap_or(&request.revision);
    for file in &selection.files {
        let mut step = |p: Progress| {
            let total = sum.or(p.total.map(|t| before + t));
            progress(Progress {
                done: before + p.done,
                total,
            });
        };
        let url = hub.file_url(&request.repository, revision, &file.path);
        let record = download::fetch(hub, &url, file, staging.folder(), cancel, &mut step)?;
        before += record.bytes;
        records.push(record);
    }
    Ok(records)
}

#[cfg(test)]
mod tests;
