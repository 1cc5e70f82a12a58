//! A model on its way into the store: one process at a time works on a name, and what it leaves is found again or thrown away.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::{
    FileRecord, Format, INCOMING, ModelFiles, ModelName, Origin, RECORD, Record, Store, StoreError, open,
};

/// How often a lock is tried that another process removes at the same moment.
const LOCK_TRIES: usize = 100;

/// How a model comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Errand {
    /// Copied from this machine, from the beginning each time.
    Import,
    /// Downloaded: what has arrived is kept for the next attempt.
    Pull,
}

/// Says where what a download brought came from, until it is whole.
const ORIGIN: &str = ".origin";

/// Ends the name of the folder of an import.
const IMPORT: &str = ".import";

impl Errand {
    /// Where its files grow. No model's name begins with a dot, so the two never meet.
    fn folder(self, store: &Store, name: &ModelName) -> PathBuf {
        let incoming = store.folder.join(INCOMING);
        match self {
            Self::Import => incoming.join(format!(".{name}{IMPORT}")),
            Self::Pull => incoming.join(name.as_str()),
        }
    }
}

/// The folders of what has arrived of `name`.
pub(super) fn begun(store: &Store, name: &ModelName) -> Vec<PathBuf> {
    let folders = [Errand::Import, Errand::Pull].map(|errand| errand.folder(store, name));
    folders.into_iter().filter(|folder| folder.is_dir()).collect()
}

/// Throws away what imports left that were ended before their time, but for those that somebody works on.
pub(super) fn sweep(store: &Store) {
    for entry in fs::read_dir(store.folder.join(INCOMING))
        .into_iter()
        .flatten()
        .flatten()
    {
        let file_name = entry.file_name();
        let name = file_name
            .to_str()
            .and_then(|name| name.strip_prefix('.')?.strip_suffix(IMPORT));
        let Some(name) = name.and_then(|name| ModelName::new(name).ok()) else {
            continue;
        };
        if let Ok(_lock) = Lock::take(store, &name) {
            // Best effort: what stays is hidden from every listing, and looked at again next time.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// The right of one process to work on a name. Its file goes with it.
#[derive(Debug)]
pub(super) struct Lock {
    path: PathBuf,
    file: File,
}

impl Lock {
    /// # Errors
    /// When another process works on `name`, or the system refuses.
    pub(super) fn take(store: &Store, name: &ModelName) -> Result<Self, StoreError> {
        let incoming = store.folder.join(INCOMING);
        fs::create_dir_all(&incoming).map_err(StoreError::io("make", &incoming))?;
        for _ in 0..LOCK_TRIES {
            let path = incoming.join(format!(".{name}.lock"));
            let file = File::create(&path).map_err(StoreError::io("make", &path))?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(StoreError::Busy(name.clone())),
                Err(TryLockError::Error(e)) => return Err(StoreError::io("lock", &path)(e)),
            }
            let lock = Self { path, file };
            if lock.is_the_file_there() {
                return Ok(lock);
            }
            // Its last holder removed the file between our opening and our locking of it: the lock is on no name.
        }
        Err(StoreError::Busy(name.clone()))
    }

    #[cfg(unix)]
    fn is_the_file_there(&self) -> bool {
        use std::os::unix::fs::MetadataExt;
        match (self.file.metadata(), fs::metadata(&self.path)) {
            (Ok(ours), Ok(there)) => (ours.dev(), ours.ino()) == (there.dev(), there.ino()),
            _ => false,
        }
    }

    #[cfg(not(unix))]
    fn is_the_file_there(&self) -> bool {
        // A file that is open keeps its name there.
        self.file.metadata().is_ok()
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Best effort, and while it is held: whoever waits sees that the file it opened has no name any more.
        if self.is_the_file_there() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// A model on its way into the store, held by one process at a time.
#[derive(Debug)]
pub(crate) struct Staging {
    name: ModelName,
    folder: PathBuf,
    target: PathBuf,
    /// Beside the folder, so that the folder can be renamed.
    _lock: Lock,
}

impl Staging {
    pub(super) fn open(store: &Store, name: &ModelName, errand: Errand) -> Result<Self, StoreError> {
        let lock = Lock::take(store, name)?;
        let folder = errand.folder(store, name);
        fs::create_dir_all(&folder).map_err(StoreError::io("make", &folder))?;
        Ok(Self {
            name: name.clone(),
            folder,
            target: store.model_folder(name),
            _lock: lock,
        })
    }

    /// Where the files go.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Goes on with what an earlier download left, as far as `keeps` says of a file's name and of whether it came from
    /// `origin` too. The rest is thrown away: under the same name other files may have come before, of another repository
    /// or an earlier commit.
    ///
    /// # Errors
    /// When the system refuses.
    pub(crate) fn go_on(
        &self,
        origin: &Origin,
        keeps: impl Fn(&str, bool) -> bool,
    ) -> Result<(), StoreError> {
        let path = self.folder.join(ORIGIN);
        let before = fs::read(&path)
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok());
        let same = before.as_ref() == Some(origin);
        for (name, file) in self.files()? {
            if !keeps(&name, same) {
                fs::remove_file(&file).map_err(StoreError::io("remove", &file))?;
            }
        }
        let text = serde_json::to_vec(origin).map_err(io::Error::from);
        text.and_then(|text| fs::write(&path, text))
            .map_err(StoreError::io("write", &path))
    }

    /// What has arrived, in the folder itself and one step deeper: names as in a record, and where each lies.
    fn files(&self) -> Result<Vec<(String, PathBuf)>, StoreError> {
        let below = |folder: &Path| {
            let entries = fs::read_dir(folder).map_err(StoreError::io("read", folder));
            entries.map(|entries| entries.flatten())
        };
        let mut files = Vec::new();
        for entry in below(&self.folder)? {
            match entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                true => files.extend(below(&entry.path())?.map(|entry| entry.path())),
                false => files.push(entry.path()),
            }
        }
        let whole = ModelFiles::HuggingFace(self.folder.clone());
        Ok(files
            .into_iter()
            .map(|path| (whole.name_of(&path), path))
            .collect())
    }

    /// Opens the files as far as their headers, writes the record and gives the finished model its name.
    ///
    /// # Errors
    /// When the files are those of no model, or the system refuses.
    pub(crate) fn publish(
        &self,
        format: Format,
        files: Vec<FileRecord>,
        origin: Origin,
    ) -> Result<Record, StoreError> {
        let added_unix_s = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |d| d.as_secs());
        let record = Record::new(self.name.clone(), format, files, origin, added_unix_s);
        open::headers(&record.files_in(&self.folder))?;
        self.write_record(&record)?;
        // A folder without a record is what an interrupted removal left; it must not block the name.
        if self.target.is_dir() && !self.target.join(RECORD).exists() {
            fs::remove_dir_all(&self.target).map_err(StoreError::io("remove", &self.target))?;
        }
        // Best effort: it is hidden, and no part of the model.
        let _ = fs::remove_file(self.folder.join(ORIGIN));
        fs::rename(&self.folder, &self.target).map_err(StoreError::io("name", &self.target))?;
        Ok(record)
    }

    fn write_record(&self, record: &Record) -> Result<(), StoreError> {
        let path = self.folder.join(RECORD);
        let text = serde_json::to_string_pretty(record).map_err(io::Error::from);
        let write = |text: String| -> io::Result<()> {
            let mut file = File::create(&path)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()
        };
        text.and_then(write).map_err(StoreError::io("write", &path))
    }

    /// Throws away everything made so far.
    pub(crate) fn discard(&self) {
        // Best effort: a leftover is hidden from every listing and reused or replaced by the next attempt.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // Where nothing came there is nothing to say; a folder with files in it is not removed by this.
        if self
            .files()
            .is_ok_and(|files| files.iter().all(|(name, _)| name == ORIGIN))
        {
            let _ = fs::remove_file(self.folder.join(ORIGIN));
            let _ = fs::remove_dir(&self.folder);
        }
    }
}
