//! Which door of a home folder is open: one program at a time has it, and says in a private file where.
//!
//! A lock says whether that program is alive, so what an ended one left behind counts for nothing.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::private;

/// Held as long as the door is open.
const LOCK_FILE: &str = "gateway.lock";

/// Where the door is.
const FILE: &str = "gateway.door";

/// A longer file is none of ours.
const LENGTH_MAX: u64 = 4 << 10;

/// Where a door is, as its program said it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// As in `http://127.0.0.1:11500`.
    pub address: String,
    /// The model that is served.
    pub model: String,
    /// Whether a token is asked for.
    pub auth: bool,
    /// The process.
    pub pid: u32,
    /// Its local socket, where it has one.
    #[serde(default)]
    pub socket: Option<PathBuf>,
}

/// The right to be the door of a home folder. It ends with this.
#[derive(Debug)]
pub struct Claim {
    file: PathBuf,
    _lock: File,
}

impl Claim {
    /// Claims the home folder; `None` where a program has it that is alive.
    ///
    /// # Errors
    /// When the folder cannot be written to.
    pub fn take(home: &Path) -> io::Result<Option<Self>> {
        fs::create_dir_all(home)?;
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).write(true);
        #[cfg(unix)]
        {
            use std::os::unix::fs::OpenOptionsExt;
            options.mode(0o600);
        }
        let lock = options.open(home.join(LOCK_FILE))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(cause)) => return Err(cause),
        }
        let file = home.join(FILE);
        match fs::remove_file(&file) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(cause),
            _ => Ok(Some(Self { file, _lock: lock })),
        }
    }

    /// Says where the door is.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn tell(&self, standing: &Standing) -> io::Result<()> {
        private::replace(&self.file, &serde_json::to_string(standing)?)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // The lock says the same; this leaves the folder tidy.
        let _ = fs::remove_file(&self.file);
    }
}

impl Standing {
    /// What the program that has the home folder said, if it has said it yet. Believed only where others could not write it.
    pub fn read(home: &Path) -> Option<Self> {
        let path = home.join(FILE);
        if private::is_writable(&path) {
            return None;
        }
        serde_json::from_str(&private::read(&path, LENGTH_MAX).ok()?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing() -> Standing {
        Standing {
            address: "http://127.0.0.1:11500".to_owned(),
            model: "heph-story".to_owned(),
            auth: true,
            pid: 7,
            socket: Some(PathBuf::from("/home/ada/run/gateway.sock")),
        }
    }

    #[test]
    fn one_program_at_a_time_has_the_home_folder() {
        let home = tempfile::tempdir().unwrap();
        let first = Claim::take(home.path()).unwrap().unwrap();
        assert_eq!(Standing::read(home.path()), None);
        first.tell(&standing()).unwrap();
        assert!(Claim::take(home.path()).unwrap().is_none());
        assert_eq!(Standing::read(home.path()), Some(standing()));
        drop(first);
        assert_eq!(Standing::read(home.path()), None);
        assert!(Claim::take(home.path()).unwrap().is_some());
    }

    #[test]
    fn what_an_ended_program_left_counts_for_nothing() {
        let home = tempfile::tempdir().unwrap();
        private::create(
            &home.path().join(FILE),
            &serde_json::to_string(&standing()).unwrap(),
        )
        .unwrap();
        let _claim = Claim::take(home.path()).unwrap().unwrap();
        assert_eq!(Standing::read(home.path()), None);
    }

    #[test]
    fn a_file_of_another_shape_is_no_door() {
        let home = tempfile::tempdir().unwrap();
        let whole = serde_json::to_string(&standing()).unwrap();
        let long = format!("{}{whole}", " ".repeat(LENGTH_MAX as usize));
        for text in [
            "",
            "{",
            "[]",
            "{\"address\": 1}",
            &whole[..whole.len() - 1],
            &long,
        ] {
            private::replace(&home.path().join(FILE), text).unwrap();
            assert_eq!(Standing::read(home.path()), None, "{text:.40}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_others_can_write_is_not_believed() {
        use std::os::unix::fs::PermissionsExt;
        let home = tempfile::tempdir().unwrap();
        let claim = Claim::take(home.path()).unwrap().unwrap();
        claim.tell(&standing()).unwrap();
        let file = home.path().join(FILE);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
        assert_eq!(Standing::read(home.path()), None);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(Standing::read(home.path()), Some(standing()));
    }
}
