//! Which of this person's programs on one machine stands for it among the members. They share an identity, and two that
//! both said where they are would contradict each other: a node stands for its machine, and others look on.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::files::FileError;

/// The file below HEPH's folder that whoever stands for the machine holds locked. The system lets go of it however the
/// program ends.
const FILE: &str = "members.lock";

/// How long a claim is tried for: the program before may just be ending.
const TRIED_FOR: Duration = Duration::from_secs(1);

/// The right to stand for this machine, for as long as this lives.
#[derive(Debug)]
pub struct Claim(#[expect(dead_code, reason = "it is held, not read")] File);

impl Claim {
    /// Claims it; `None` where another program has it.
    ///
    /// # Errors
    /// When the file cannot be had.
    pub fn take(home: &Path) -> Result<Option<Claim>, FileError> {
        let path = home.join(FILE);
        let unwritable = |cause| FileError::writing(&path, cause);
        let file = open(&path).map_err(unwritable)?;
        let until = Instant::now() + TRIED_FOR;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Some(Claim(file))),
                Err(TryLockError::WouldBlock) if Instant::now() < until => {
                    std::thread::sleep(TRIED_FOR / 50);
                }
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(cause)) => return Err(unwritable(cause)),
            }
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .read(true)
        .open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_program_stands_for_the_machine_until_it_ends() {
        let home = tempfile::tempdir().unwrap();
        let claim = Claim::take(home.path()).unwrap().unwrap();
        assert!(Claim::take(home.path()).unwrap().is_none());
        drop(claim);
        assert!(Claim::take(home.path()).unwrap().is_some());
        let nowhere = Claim::take(&home.path().join("nowhere"));
        assert!(nowhere.unwrap_err().to_string().contains("members.lock"));
    }
}
