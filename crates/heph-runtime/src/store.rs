//! The folder of models: what is there, how a model gets in, how it goes.
//!
//! ```text
//! models/
//!   tiny-llama/            one folder per model
//!     model.json           its record: format, files, hashes, where it came from
//!     tiny-llama.gguf      its files, under the names they had
//!   .incoming/             what is on its way; never offered as a model
//!     big-llama/           what a download has brought; a later one goes on from there
//!     .tiny-llama.import/  what an import has copied; the next one of any model throws away what nobody works on
//!     .tiny-llama.lock     held by the process that works on that name, and gone with it
//! ```
//!
//! A model appears under its name by one rename of a finished folder whose files could be opened, so nobody ever sees half of
//! one, or a page that says that there is none.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use crate::bundled;
use crate::cancel::Cancel;
use crate::open::{self, OpenError};

mod hash;
mod name;
mod quantised;
mod record;
mod source;
mod staging;

pub use name::{ModelName, NAME_LEN_MAX, NameError};
pub use quantised::{QuantisedError, bytes_as};
pub(crate) use record::content;
pub use record::{FileRecord, Format, Origin, Record};
pub use source::{ModelFiles, find_files, names_one_file};
pub(crate) use source::{POOLING, belongs, part_names, shard};
pub(crate) use staging::Staging;
use staging::{Errand, Lock};

/// The record's name inside a model's folder.
const RECORD: &str = "model.json";

/// Where models are made ready, inside the store.
const INCOMING: &str = ".incoming";

/// Bytes copied or hashed between two looks at the cancel flag.
const STEP_BYTES: usize = 1 << 20;

/// A record larger than this was not written by us: 10,000 files with 100-byte names fit twice.
const RECORD_BYTES_MAX: u64 = 4 << 20;

/// How far a long job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes done.
    pub done: u64,
    /// Bytes in all, where known.
    pub total: Option<u64>,
}

/// Why a store did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No model, bundled model or file goes by that name.
    #[error("no model or file is called {name:?}")]
    Unknown {
        /// What was asked for.
        name: String,
        /// The closest name there is.
        nearest: Option<String>,
    },
    /// A model of that name is already there.
    #[error("a model called {0} is already in the store")]
    Taken(ModelName),
    /// A bundled model cannot be removed or replaced.
    #[error("{0} is part of the program and cannot be changed")]
    PartOfTheProgram(ModelName),
    /// The name cannot be a model's.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Nothing is at the path.
    #[error("there is no file or folder called {path}")]
    Absent {
        /// The path in question.
        path: PathBuf,
    },
    /// The files are those of no model.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The path is no model file or folder.
    #[error("{path} is neither a .gguf file nor a folder with config.json and .safetensors files")]
    NotAModel {
        /// The path in question.
        path: PathBuf,
    },
    /// A sharded file lacks some of its parts.
    #[error("{path} is one part of {parts}, and part {missing} is not beside it")]
    PartMissing {
        /// The part that was found.
        path: PathBuf,
        /// Parts the name speaks of.
        parts: usize,
        /// The first one that is absent, counted from 1.
        missing: usize,
    },
    /// The record of a model cannot be understood.
    #[error("the record {path} is damaged: {reason}")]
    Record {
        /// The record's file.
        path: PathBuf,
        /// What the parser said.
        reason: String,
    },
    /// Another process is working on that model.
    #[error("another heph is already working on {0}")]
    Busy(ModelName),
    /// The disk has no room.
    #[error("the disk that holds {path} is full")]
    DiskFull {
        /// What was being written.
        path: PathBuf,
    },
    /// The system refused a file operation.
    #[error("cannot {step} {path}: {cause}")]
    Io {
        /// What was tried.
        step: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// Somebody asked to stop.
    #[error("stopped")]
    Stopped,
}

impl StoreError {
    /// What to do about it, where we know.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unknown {
                nearest: Some(nearest),
                ..
            } => Some(format!("did you mean {nearest:?}?")),
            Self::Unknown { nearest: None, .. } => Some("`heph models list` shows what there is".into()),
            Self::Taken(name) => Some(format!(
                "choose another with --name, or `heph models rm {name}` first"
            )),
            Self::PartOfTheProgram(_) => Some(
                "only models of the store can be replaced or removed: `heph models list` shows them; --name gives \
                 yours another name"
                    .into(),
            ),
            Self::Absent { .. } => Some("check how the path is written".into()),
            Self::Open(error) => error.hint(),
            Self::Name(_) => Some("choose another name with --name".into()),
            Self::NotAModel { .. } => Some("give a GGUF file or a Hugging Face model folder".into()),
            Self::PartMissing { .. } => Some("bring all parts into one folder".into()),
            Self::Record { .. } => Some("remove the model's folder and import it again".into()),
            Self::Busy(_) => Some("wait until it is done".into()),
            Self::DiskFull { .. } => Some("make room, or set HEPH_MODELS to a folder on another disk".into()),
            Self::Io { .. } | Self::Stopped => None,
        }
    }

    /// The right variant for what the system said while `step` was done to `path`.
    pub(crate) fn io(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |cause| match cause.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { path },
            _ => Self::Io { step, path, cause },
        }
    }
}

/// What the user meant by a model's name.
#[derive(Debug, Clone)]
pub enum Found {
    /// A model inside the program.
    Bundled(bundled::Bundled),
    /// A model in the store, with its folder.
    Stored(PathBuf, Box<Record>),
    /// Files or a folder given by path.
    Path(ModelFiles),
}

impl Found {
    /// The files to open, or `None` for a bundled model, whose bytes are in memory already.
    pub fn files(&self) -> Option<ModelFiles> {
        match self {
            Self::Bundled(_) => None,
            Self::Stored(folder, record) => Some(record.files_in(folder)),
            Self::Path(files) => Some(files.clone()),
        }
    }
}

/// The folder of models.
#[derive(Debug, Clone)]
pub struct Store {
    folder: PathBuf,
}

impl Store {
    /// The store in `folder`, which is made when the first model comes.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
        }
    }

    /// Where the store is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Every model in the store, by name. Damaged records are returned as errors beside the good ones.
    ///
    /// # Errors
    /// When the store's folder exists and cannot be read.
    pub fn list(&self) -> Result<Vec<Result<Record, StoreError>>, StoreError> {
        Ok(self.names()?.iter().map(|name| self.record(name)).collect())
    }

    /// What `text` means: a path if it looks like one, else a bundled model, else a model of the store.
    ///
    /// # Errors
    /// When nothing goes by that name, or it is not a whole model.
    pub fn find(&self, text: &str) -> Result<Found, StoreError> {
        if let Some(model) = bundled::find(text) {
            return Ok(Found::Bundled(model));
        }
        if let Ok(name) = ModelName::new(text)
            && self.model_folder(&name).join(RECORD).exists()
        {
            return Ok(Found::Stored(
                self.model_folder(&name),
                Box::new(self.record(&name)?),
            ));
        }
        let path = Path::new(text);
        if path.exists() {
            find_files(path).map(Found::Path)
        } else {
            Err(self.unknown(text))
        }
    }

    /// Copies the model at `path` into the store.
    ///
    /// # Errors
    /// When the name is taken, the files are no model, the disk is full, or `cancel` is raised; the store is
    /// then as it was.
    pub fn import(
        &self,
        path: &Path,
        name: &ModelName,
        cancel: &Cancel,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Record, StoreError> {
        let files = find_files(path)?;
        let staging = self.stage_as(name, Errand::Import)?;
        let imported = copy_all(&files, staging.folder(), cancel, progress).and_then(|records| {
            let origin = Origin::Import {
                path: path.to_owned(),
            };
            staging.publish(files.format(), records, origin)
        });
        if imported.is_err() {
            staging.discard();
        }
        imported
    }

    /// Removes a model and its files, or what has arrived of one that is not whole.
    ///
    /// # Errors
    /// When there is no such model, it is bundled, it is on its way just now, or the system refuses.
    pub fn remove(&self, text: &str) -> Result<(), StoreError> {
        let name = ModelName::new(text)?;
        if bundled::find(text).is_some() {
            return Err(StoreError::PartOfTheProgram(name));
        }
        let folder = self.model_folder(&name);
        let (whole, begun) = (folder.join(RECORD).exists(), staging::begun(self, &name));
        if !whole && begun.is_empty() {
            return Err(self.unknown(text));
        }
        if !begun.is_empty() {
            let _lock = Lock::take(self, &name)?;
            for folder in begun {
                fs::remove_dir_all(&folder).map_err(StoreError::io("remove", &folder))?;
            }
        }
        if whole {
            // The record goes first: from then on the folder is no model, whatever happens to the rest.
            let record = folder.join(RECORD);
            fs::remove_file(&record).map_err(StoreError::io("remove", &record))?;
            fs::remove_dir_all(&folder).map_err(StoreError::io("remove", &folder))?;
        }
        Ok(())
    }

    /// A place to make the model `name` ready in. What an interrupted download left there is kept.
    ///
    /// # Errors
    /// When the name is taken or in use, or the folder cannot be made.
    pub(crate) fn stage(&self, name: &ModelName) -> Result<Staging, StoreError> {
        self.stage_as(name, Errand::Pull)
    }

    fn stage_as(&self, name: &ModelName, errand: Errand) -> Result<Staging, StoreError> {
        if bundled::find(name.as_str()).is_some() {
            return Err(StoreError::PartOfTheProgram(name.clone()));
        }
        if self.model_folder(name).join(RECORD).exists() {
            return Err(StoreError::Taken(name.clone()));
        }
        staging::sweep(self);
        Staging::open(self, name, errand)
    }

    fn model_folder(&self, name: &ModelName) -> PathBuf {
        self.folder.join(name.as_str())
    }

    fn record(&self, name: &ModelName) -> Result<Record, StoreError> {
        let path = self.model_folder(name).join(RECORD);
        let file = File::open(&path).map_err(StoreError::io("open", &path))?;
        let record: Result<Record, _> = serde_json::from_reader(file.take(RECORD_BYTES_MAX));
        record
            .map_err(|e| e.to_string())
            .and_then(Record::checked)
            .map_err(|reason| StoreError::Record { path, reason })
    }

    fn names(&self) -> Result<Vec<ModelName>, StoreError> {
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(StoreError::io("read", &self.folder)(e)),
        };
        let folders = entries.flatten().filter(|e| e.path().join(RECORD).is_file());
        let mut names: Vec<_> = folders
            .filter_map(|e| ModelName::new(&e.file_name().to_string_lossy()).ok())
            .collect();
        names.sort();
        Ok(names)
    }

    fn unknown(&self, text: &str) -> StoreError {
        let stored = self.names().unwrap_or_default();
        let known = stored
            .iter()
            .map(ModelName::as_str)
            .chain(bundled::ALL.iter().map(|b| b.name));
        StoreError::Unknown {
            name: text.to_owned(),
            nearest: name::nearest(text, known),
        }
    }
}

fn copy_all(
    files: &ModelFiles,
    folder: &Path,
    cancel: &Cancel,
    progress: &mut dyn FnMut(Progress),
) -> Result<Vec<FileRecord>, StoreError> {
    let paths = files.paths()?;
    let total = paths.iter().map(|p| fs::metadata(p).map_or(0, |m| m.len())).sum();
    let mut before = 0;
    let mut records = Vec::new();
    for path in paths {
        let name = files.name_of(&path);
        let mut step = |done| {
            progress(Progress {
                done: before + done,
                total: Some(total),
            })
        };
        let target = folder.join(&name);
        make_parent(&target)?;
        let record = copy(&path, &target, name, cancel, &mut step)?;
        before += record.bytes;
        records.push(record);
    }
    Ok(records)
}

/// The folder that a file is to lie in.
pub(crate) fn make_parent(path: &Path) -> Result<(), StoreError> {
    let made = path.parent().map_or(Ok(()), fs::create_dir_all);
    made.map_err(StoreError::io("make the folder of", path))
}

/// Copies one file and hashes it on the way.
fn copy(
    from: &Path,
    to: &Path,
    name: String,
    cancel: &Cancel,
    step: &mut dyn FnMut(u64),
) -> Result<FileRecord, StoreError> {
    let mut source = File::open(from).map_err(StoreError::io("open", from))?;
    let mut target = File::create(to).map_err(StoreError::io("write", to))?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; STEP_BYTES];
    let mut bytes = 0;
    loop {
        if cancel.is_raised() {
            return Err(StoreError::Stopped);
        }
        let n = source.read(&mut buffer).map_err(StoreError::io("read", from))?;
        if n == 0 {
            break;
        }
        target
            .write_all(&buffer[..n])
            .map_err(StoreError::io("write", to))?;
        hasher.update(&buffer[..n]);
        bytes += n as u64;
        step(bytes);
    }
    target.sync_all().map_err(StoreError::io("write", to))?;
    Ok(FileRecord {
        name,
        bytes,
        blake3: hasher.finalize().to_hex().to_string(),
        sha256: None,
    })
}

#[cfg(test)]
mod tests;
