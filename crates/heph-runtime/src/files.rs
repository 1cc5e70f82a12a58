//! Files that a person names: read whole within a bound, and written whole or not at all.
//!
//! What is written grows in a file of its own beside the target, made anew and under a name that nobody else has, and gets
//! the target's name when all of it is on the disk. Nothing but a regular file is ever replaced, and that only where it was
//! asked for: never a folder, a link, a device or a pipe.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use tempfile::NamedTempFile;

/// Why a file could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// A file of that name is there, and is not to be replaced.
    #[error("{path} is already there")]
    Taken {
        /// Which file.
        path: PathBuf,
    },
    /// A folder, a link, a device or a pipe goes by that name.
    #[error("{path} is no regular file")]
    Special {
        /// What goes by that name.
        path: PathBuf,
    },
    /// More is in the file than anything that is meant to be read from it.
    #[error("{path} is longer than {bytes_max} bytes")]
    TooLong {
        /// Which file.
        path: PathBuf,
        /// Bytes that it may have.
        bytes_max: u64,
    },
    /// The disk has no room.
    #[error("the disk that holds {path} is full")]
    DiskFull {
        /// What was being written.
        path: PathBuf,
    },
    /// The system refused to read it.
    #[error("cannot read {path}: {cause}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// The system refused to write it.
    #[error("cannot write {path}: {cause}")]
    Write {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
}

impl FileError {
    /// What the system said while `path` was written.
    pub fn writing(path: &Path, cause: io::Error) -> Self {
        let path = path.to_owned();
        match cause.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { path },
            _ => Self::Write { path, cause },
        }
    }

    fn reading(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |cause| Self::Read { path, cause }
    }
}

/// All of the regular file at `path`, which may have so many bytes.
///
/// # Errors
/// When it is none, is longer, or the system refuses. A device or a pipe is not even opened: it might never end.
pub fn read(path: &Path, bytes_max: u64) -> Result<Vec<u8>, FileError> {
    if !fs::metadata(path).map_err(FileError::reading(path))?.is_file() {
        return Err(FileError::Special {
            path: path.to_owned(),
        });
    }
    let file = File::open(path).map_err(FileError::reading(path))?;
    let mut bytes = Vec::new();
    file.take(bytes_max.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(FileError::reading(path))?;
    match bytes.len() as u64 > bytes_max {
        true => Err(FileError::TooLong {
            path: path.to_owned(),
            bytes_max,
        }),
        false => Ok(bytes),
    }
}

/// What becomes of a file that has the name already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// It stays, and nothing is written.
    Stays,
    /// It is replaced when the new one is whole.
    Replaced,
}

/// A file that is being written. It has no name until [`NewFile::finish`]; one that is dropped before leaves nothing.
#[derive(Debug)]
pub struct NewFile {
    file: NamedTempFile,
    target: PathBuf,
    existing: Existing,
    _unfinished: Unfinished,
}

impl NewFile {
    /// A file that is to be called `target`.
    ///
    /// # Errors
    /// When something is there that may not be replaced, or the system refuses.
    pub fn create(target: &Path, existing: Existing) -> Result<Self, FileError> {
        let refused = |cause| FileError::writing(target, cause);
        let path = || target.to_owned();
        let there = match fs::symlink_metadata(target) {
            Ok(there) if !there.is_file() => return Err(FileError::Special { path: path() }),
            Ok(_) if existing == Existing::Stays => return Err(FileError::Taken { path: path() }),
            Ok(there) => Some(there),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(refused(error)),
        };
        let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty());
        let file = builder()
            .tempfile_in(folder.unwrap_or(Path::new(".")))
            .map_err(refused)?;
        if let Some(there) = there {
            fs::set_permissions(file.path(), there.permissions()).map_err(refused)?;
        }
        Ok(Self {
            _unfinished: Unfinished::note(file.path()),
            target: path(),
            file,
            existing,
        })
    }

    /// Brings all of it to the disk and gives it its name.
    ///
    /// # Errors
    /// When the disk is full or the system refuses, and when something has taken the name meanwhile.
    pub fn finish(self) -> Result<(), FileError> {
        let Self {
            file,
            target,
            existing,
            _unfinished,
        } = self;
        let synced = file.as_file().sync_all();
        synced.map_err(|cause| FileError::writing(&target, cause))?;
        let named = match existing {
            Existing::Stays => file.persist_noclobber(&target),
            Existing::Replaced => file.persist(&target),
        };
        match named.map_err(|refused| refused.error) {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Err(FileError::Taken { path: target })
            }
            Err(error) => Err(FileError::writing(&target, error)),
        }
    }
}

impl Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Writes `bytes` as the file `target`.
///
/// # Errors
/// As [`NewFile::create`] and [`NewFile::finish`].
pub fn write(target: &Path, bytes: &[u8], existing: Existing) -> Result<(), FileError> {
    let mut file = NewFile::create(target, existing)?;
    file.write_all(bytes)
        .map_err(|cause| FileError::writing(target, cause))?;
    file.finish()
}

/// Names nobody else has, readable by whom the system lets read new files: the file is no secret of one program.
fn builder() -> tempfile::Builder<'static, 'static> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".heph-").suffix(".part");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder
}

/// The files under way in this process.
static UNFINISHED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Notes that a file is under way, for as long as this lives.
#[derive(Debug)]
struct Unfinished(PathBuf);

impl Unfinished {
    fn note(path: &Path) -> Self {
        let mut under_way = UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner);
        under_way.push(path.to_owned());
        Self(path.to_owned())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        let mut under_way = UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner);
        under_way.retain(|path| *path != self.0);
    }
}

/// Removes every file under way: for a process that ends at once, without unwinding.
pub fn discard_unfinished() {
    discard(&UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner));
}

fn discard(under_way: &[PathBuf]) {
    for path in under_way {
        // Best effort: nobody is left to hear of it.
        let _ = fs::remove_file(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    fn names(folder: &TempDir) -> Vec<String> {
        let entries = fs::read_dir(folder.path()).unwrap().flatten();
        let mut names: Vec<_> = entries
            .map(|e| e.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_has_its_name_when_it_is_whole() {
        let folder = TempDir::new().unwrap();
        let target = folder.path().join("a.txt");
        let mut file = NewFile::create(&target, Existing::Stays).unwrap();
        file.write_all(b"words").unwrap();
        assert!(!target.exists());
        file.finish().unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"words");
        assert_eq!(names(&folder), ["a.txt"]);
    }

    #[test]
    fn a_file_that_is_there_stays_unless_it_is_to_be_replaced() {
        let folder = TempDir::new().unwrap();
        let target = folder.path().join("a.txt");
        fs::write(&target, "old").unwrap();
        // Before anything is written, and not only when it is to be named.
        let error = NewFile::create(&target, Existing::Stays).unwrap_err();
        assert!(matches!(error, FileError::Taken { .. }), "{error}");
        assert_eq!(fs::read(&target).unwrap(), b"old");
        write(&target, b"new", Existing::Replaced).unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"new");
        assert_eq!(names(&folder), ["a.txt"]);
    }

    #[test]
    fn a_name_that_was_taken_meanwhile_is_not_replaced() {
        let folder = TempDir::new().unwrap();
        let target = folder.path().join("a.txt");
        let file = NewFile::create(&target, Existing::Stays).unwrap();
        fs::write(&target, "another's").unwrap();
        assert!(matches!(file.finish(), Err(FileError::Taken { .. })));
        assert_eq!(fs::read(&target).unwrap(), b"another's");
        assert_eq!(names(&folder), ["a.txt"]);
    }

    #[test]
    fn a_file_that_is_given_up_leaves_nothing() {
        let folder = TempDir::new().unwrap();
        // What other tests have under way at the same time stands in the same list.
        let ours = || {
            let under_way = UNFINISHED.lock().unwrap();
            let ours = under_way.iter().filter(|path| path.starts_with(folder.path()));
            ours.cloned().collect::<Vec<_>>()
        };
        let mut file = NewFile::create(&folder.path().join("a"), Existing::Stays).unwrap();
        file.write_all(b"half").unwrap();
        assert_eq!(ours(), [file.file.path()]);
        drop(file);
        assert!(names(&folder).is_empty() && ours().is_empty());
        let file = NewFile::create(&folder.path().join("a"), Existing::Stays).unwrap();
        fs::remove_file(file.file.path()).unwrap();
        fs::write(file.file.path(), "as another process would find it").unwrap();
        discard(&ours());
        assert!(names(&folder).is_empty());
    }

    #[test]
    fn a_file_is_read_up_to_its_bound() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("a");
        fs::write(&path, "12345").unwrap();
        assert_eq!(read(&path, 5).unwrap(), b"12345");
        assert!(matches!(
            read(&path, 4),
            Err(FileError::TooLong { bytes_max: 4, .. })
        ));
        assert!(matches!(read(folder.path(), 4), Err(FileError::Special { .. })));
        assert!(matches!(
            read(&folder.path().join("b"), 4),
            Err(FileError::Read { .. })
        ));
    }

    #[test]
    #[cfg(unix)]
    fn folders_links_devices_and_pipes_are_never_replaced_and_what_never_ends_is_not_read() {
        use std::os::unix::fs::symlink;
        let folder = TempDir::new().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("kept"), "kept").unwrap();
        fs::create_dir(at("folder")).unwrap();
        symlink(at("kept"), at("link")).unwrap();
        symlink(at("nothing"), at("dangling")).unwrap();
        for name in ["folder", "link", "dangling"] {
            for existing in [Existing::Stays, Existing::Replaced] {
                let error = write(&at(name), b"new", existing).unwrap_err();
                assert!(matches!(error, FileError::Special { .. }), "{name}: {error}");
            }
        }
        assert_eq!(fs::read(at("kept")).unwrap(), b"kept");
        assert_eq!(names(&folder), ["dangling", "folder", "kept", "link"]);
        for device in ["/dev/null", "/dev/zero"] {
            let error = write(Path::new(device), b"new", Existing::Replaced).unwrap_err();
            assert!(matches!(error, FileError::Special { .. }), "{error}");
            assert!(matches!(
                read(Path::new(device), 10),
                Err(FileError::Special { .. })
            ));
        }
    }

    #[test]
    #[cfg(unix)]
    fn a_new_file_is_as_open_as_others_and_a_replaced_one_as_before() {
        use std::os::unix::fs::PermissionsExt;
        let folder = TempDir::new().unwrap();
        let at = |name: &str| folder.path().join(name);
        let mode = |name: &str| fs::metadata(at(name)).unwrap().permissions().mode() & 0o777;
        fs::write(at("usual"), "").unwrap();
        write(&at("new"), b"", Existing::Stays).unwrap();
        assert_eq!(mode("new"), mode("usual"));
        fs::set_permissions(at("new"), fs::Permissions::from_mode(0o600)).unwrap();
        write(&at("new"), b"again", Existing::Replaced).unwrap();
        assert_eq!(mode("new"), 0o600);
    }
}
