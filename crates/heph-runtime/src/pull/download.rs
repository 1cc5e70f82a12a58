//! One file from a hub to the disk: resumed, retried, checked.
//!
//! While it grows the file is called `NAME.part`, and `NAME.part.tag` beside it holds the tag of the content it
//! belongs to. It gets its own name after its length and checksum were found right.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::error::Retry;
use super::hub::Answer;
use super::selection::Wanted;
use super::{Cancel, Hub, PROGRESS_BYTES, Patience, Progress, PullError, StoreError};
use crate::store::{self, FileRecord};

/// Bytes read between two looks at the cancel flag.
const STEP_BYTES: usize = 256 << 10;

/// How often a pause looks at the cancel flag.
const PAUSE_STEP: Duration = Duration::from_millis(50);

/// Longest tag kept; hubs use hashes.
const TAG_BYTES_MAX: usize = 1024;

/// How often one download may begin anew: a file that changes faster than that cannot be had.
const RESTARTS_MAX: u32 = 3;

/// What ends the names of a file that grows and of its tag.
pub(super) const GROWING: [&str; 2] = [".part", ".part.tag"];

/// Brings `file` from `url` into `folder`.
pub(super) fn fetch(
    hub: &Hub,
    url: &str,
    file: &Wanted,
    folder: &Path,
    cancel: &Cancel,
    progress: &mut dyn FnMut(Progress),
) -> Result<FileRecord, PullError> {
    let mut part = Part::open(folder, file)?;
    store::make_parent(&part.target)?;
    if part.target.is_file() {
        // A download interrupted between two files of one model: this one was whole and checked. Of an earlier commit it
        // is thrown away, and asked for like any other.
        match part.seal(cancel) {
            Err(PullError::Checksum { .. }) => {}
            sealed => return sealed,
        }
    }
    let sealed = part
        .bring(hub, url, cancel, progress)
        .and_then(|()| part.seal(cancel));
    match sealed {
        // What was resumed may have been damaged by an earlier run or a crash: once more, from the start.
        Err(PullError::Checksum { .. }) if part.resumed => {
            part.bring(hub, url, cancel, progress)?;
            part.seal(cancel)
        }
        sealed => sealed,
    }
}

/// Calls `attempt` until it works, fails for good, or fails too often.
pub(super) fn with_retries<T>(
    patience: &Patience,
    cancel: &Cancel,
    mut attempt: impl FnMut() -> Result<T, PullError>,
) -> Result<T, PullError> {
    let mut left = Left::new(patience);
    loop {
        match attempt() {
            Err(error) => left.pause_after(error, false, cancel)?,
            done => return done,
        }
    }
}

/// The attempts that are left, and the pause before the next.
struct Left<'a> {
    patience: &'a Patience,
    attempts: u32,
    pause: Duration,
}

impl<'a> Left<'a> {
    fn new(patience: &'a Patience) -> Self {
        Self {
            patience,
            attempts: patience.attempts,
            pause: patience.pause,
        }
    }

    /// Waits for the next attempt, or returns `error` if there is none.
    fn pause_after(&mut self, error: PullError, progress: bool, cancel: &Cancel) -> Result<(), PullError> {
        let Retry::After(asked) = error.retry() else {
            return Err(error);
        };
        if progress {
            *self = Self::new(self.patience);
        }
        self.attempts = self.attempts.saturating_sub(1);
        if self.attempts == 0 {
            return Err(error);
        }
        pause(self.pause.max(asked).min(self.patience.pause_max), cancel)?;
        self.pause = (self.pause * 2).min(self.patience.pause_max);
        Ok(())
    }
}

fn pause(length: Duration, cancel: &Cancel) -> Result<(), PullError> {
    let mut rest = length;
    while !rest.is_zero() {
        if cancel.is_raised() {
            return Err(StoreError::Stopped.into());
        }
        let step = rest.min(PAUSE_STEP);
        thread::sleep(step);
        rest -= step;
    }
    Ok(())
}

/// A file that is on its way.
struct Part<'a> {
    wanted: &'a Wanted,
    target: PathBuf,
    path: PathBuf,
    tag_path: PathBuf,
    /// The checksum it must have, as far as known.
    sha256: Option<String>,
    /// Bytes of the whole, as far as known.
    total: Option<u64>,
    /// Whether any byte of it came by an earlier request.
    resumed: bool,
    /// How often what had arrived was thrown away.
    restarts: u32,
}

impl<'a> Part<'a> {
    fn open(folder: &Path, wanted: &'a Wanted) -> Result<Self, PullError> {
        let target = folder.join(&wanted.name);
        let path = target.with_added_extension("part");
        let tag_path = path.with_added_extension("tag");
        let (sha256, total) = (wanted.sha256.clone(), wanted.bytes);
        Ok(Self {
            wanted,
            target,
            path,
            tag_path,
            sha256,
            total,
            resumed: false,
            restarts: 0,
        })
    }

    /// Makes the part whole.
    fn bring(
        &mut self,
        hub: &Hub,
        url: &str,
        cancel: &Cancel,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(), PullError> {
        let mut left = Left::new(hub.patience());
        loop {
            let before = self.len();
            match self.attempt(hub, url, cancel, progress) {
                Ok(Outcome::Whole) => return Ok(()),
                Ok(Outcome::StartAgain) => {}
                Err(error) => {
                    let progress = self.len().saturating_sub(before) >= PROGRESS_BYTES;
                    left.pause_after(error, progress, cancel)?;
                }
            }
        }
    }

    /// One request, from where the part ends.
    fn attempt(
        &mut self,
        hub: &Hub,
        url: &str,
        cancel: &Cancel,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Outcome, PullError> {
        let tag = self.tag();
        let have = if tag.is_some() { self.len() } else { 0 };
        let answer = hub.get(url, have)?;
        let same = tag.is_some() && tag == answer.tag;
        let fits = answer.start == have && (have == 0 || same);
        match answer.status {
            416 if same && answer.total.or(self.total) == Some(have) => return Ok(Outcome::Whole),
            416 | 206 if !fits || answer.status == 416 => return self.start_again(answer.host),
            _ => {}
        }
        self.sha256 = self.wanted.sha256.clone().or(answer.sha256.clone());
        self.total = answer.total.or(self.wanted.bytes);
        let start = answer.start;
        self.resumed |= start > 0;
        let mut file = self.writable(start, answer.tag.as_deref())?;
        self.receive(&mut file, answer, start, cancel, progress)
    }

    /// What we have is of no use: it belongs to another content, or is longer than the file.
    fn start_again(&mut self, host: String) -> Result<Outcome, PullError> {
        if self.restarts == RESTARTS_MAX {
            let reason = format!("other parts of {} than were asked for", self.wanted.name);
            return Err(PullError::Nonsense { host, reason });
        }
        self.restarts += 1;
        self.forget()?;
        Ok(Outcome::StartAgain)
    }

    fn receive(
        &self,
        file: &mut File,
        answer: Answer,
        start: u64,
        cancel: &Cancel,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Outcome, PullError> {
        let Answer { host, body, .. } = answer;
        let mut body = body.into_reader();
        let mut buffer = vec![0; STEP_BYTES];
        let mut got = start;
        loop {
            if cancel.is_raised() {
                return Err(StoreError::Stopped.into());
            }
            let n = match body.read(&mut buffer) {
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => {
                    return Err(PullError::Unreachable {
                        host,
                        reason: e.to_string(),
                    });
                }
            };
            if n == 0 {
                break;
            }
            got += n as u64;
            if self.total.is_some_and(|total| got > total) {
                let reason = format!(
                    "more than the {} bytes that {} has",
                    self.total.unwrap_or(0),
                    self.wanted.name
                );
                return Err(PullError::Nonsense { host, reason });
            }
            file.write_all(&buffer[..n])
                .map_err(StoreError::io("write", &self.path))?;
            progress(Progress {
                done: got,
                total: self.total,
            });
        }
        match self.total {
            Some(total) if got < total => Err(PullError::CutShort { host, got, total }),
            _ => {
                file.sync_all().map_err(StoreError::io("write", &self.path))?;
                Ok(Outcome::Whole)
            }
        }
    }

    /// The part, cut to `start` bytes and ready for more, its tag noted.
    fn writable(&self, start: u64, tag: Option<&str>) -> Result<File, PullError> {
        if start == 0 {
            match tag.filter(|t| t.len() <= TAG_BYTES_MAX) {
                Some(tag) => {
                    fs::write(&self.tag_path, tag).map_err(StoreError::io("write", &self.tag_path))?
                }
                None => remove_if_there(&self.tag_path)?,
            }
        }
        let open = || {
            let mut file = OpenOptions::new()
                .create(true)
                .write(true)
                .truncate(false)
                .open(&self.path)?;
            if file.metadata()?.len() != start {
                file.set_len(start)?;
            }
            file.seek(SeekFrom::Start(start))?;
            Ok(file)
        };
        Ok(open().map_err(StoreError::io("write", &self.path))?)
    }

    /// Checks the whole file as it lies on the disk and gives it its name.
    fn seal(&mut self, cancel: &Cancel) -> Result<FileRecord, PullError> {
        let named = self.target.is_file();
        let (bytes, blake3, got) = hashes(if named { &self.target } else { &self.path }, cancel)?;
        if let Some(wanted) = self.sha256.clone().filter(|wanted| *wanted != got) {
            self.forget()?;
            return Err(PullError::Checksum {
                file: self.wanted.name.clone(),
                got,
                wanted,
            });
        }
        if !named {
            fs::rename(&self.path, &self.target).map_err(StoreError::io("name", &self.target))?;
            remove_if_there(&self.tag_path)?;
        }
        let sha256 = self.sha256.is_some().then_some(got);
        Ok(FileRecord {
            name: self.wanted.name.clone(),
            bytes,
            blake3,
            sha256,
        })
    }

    /// Throws away what has arrived.
    fn forget(&self) -> Result<(), PullError> {
        [&self.path, &self.tag_path, &self.target]
            .into_iter()
            .try_for_each(|p| Ok(remove_if_there(p)?))
    }

    /// The tag of the content that the part belongs to.
    fn tag(&self) -> Option<String> {
        fs::read_to_string(&self.tag_path)
            .ok()
            .filter(|t| !t.is_empty() && t.len() <= TAG_BYTES_MAX)
    }

    fn len(&self) -> u64 {
        fs::metadata(&self.path).map_or(0, |m| m.len())
    }
}

/// What one request led to.
enum Outcome {
    /// The part has all its bytes.
    Whole,
    /// What we had was of no use and is gone.
    StartAgain,
}

fn remove_if_there(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(StoreError::io("remove", path)(e)),
        _ => Ok(()),
    }
}

/// Length, BLAKE3 and SHA-256 of a file.
fn hashes(path: &Path, cancel: &Cancel) -> Result<(u64, String, String), PullError> {
    let mut file = File::open(path).map_err(StoreError::io("open", path))?;
    let (mut blake3, mut sha256) = (blake3::Hasher::new(), Sha256::new());
    let mut buffer = vec![0; STEP_BYTES];
    let mut bytes = 0;
    loop {
        if cancel.is_raised() {
            return Err(StoreError::Stopped.into());
        }
        let n = file.read(&mut buffer).map_err(StoreError::io("read", path))?;
        if n == 0 {
            break;
        }
        bytes += n as u64;
        blake3.update(&buffer[..n]);
        sha256.update(&buffer[..n]);
    }
    let sha256 = heph_types::hex::write(&sha256.finalize());
    Ok((bytes, blake3.finalize().to_hex().to_string(), sha256))
}
