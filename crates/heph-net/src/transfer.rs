//! Moves parts of model files between machines by their hash: every 64 KiB are checked on arrival against the file's own
//! BLAKE3 hash, an interrupted transfer goes on where it was, and only the parts that were asked for travel.
//!
//! BLAKE3 is a tree: the hashes of a file's groups, merged, are the file's hash. An [`Outline`] is these group hashes, so
//! whoever knows a file's hash can check an outline from anybody, and with it each group alone. A machine that serves
//! some layers asks for the byte ranges of their tensors and keeps a file with holes, in which every offset is right.
//!
//! The same connections tell how fast the way is that files would take: see [`probe()`]. And on them a machine asks another
//! to take layers from it: see [`hand()`].

mod intake;
mod probe;

pub use intake::{Declined, Taker, Wanted, hand};
pub use probe::{Goodput, PROBE_DEADLINE, probe};

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use blake3::hazmat::{
    ChainingValue, HasherExt, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root,
};

use tokio::task::JoinSet;

use crate::address::take;
use crate::endpoint::{Connection, LinkError, Stream};

/// Bytes that are checked together: what a range at a tensor's edge takes too much, at most.
pub const GROUP_BYTES: u64 = 64 << 10;

/// The largest file; its outline has 32 MiB.
pub const FILE_BYTES_MAX: u64 = 64 << 30;

/// Groups in one request: 1 MiB.
const RUN_GROUPS: u64 = 16;

/// Bytes of a request: a kind, a hash, a first group, a count.
const REQUEST_BYTES: usize = 1 + 32 + 8 + 8;

/// How long a run of groups may take: 1 MiB at 35 kB/s.
const RUN_DEADLINE: Duration = Duration::from_secs(30);

/// Requests under way with one source: at a round trip of 300 ms, 14 MiB a second.
const ASKED_AT_ONCE: usize = 4;

/// A file's length and the hashes of its groups, checked against the file's hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outline {
    hash: [u8; 32],
    bytes: u64,
    groups: Vec<ChainingValue>,
}

/// A file that may be fetched from here.
#[derive(Debug)]
pub struct Offer {
    outline: Outline,
    body: Body,
}

/// Where an offered file's bytes are.
#[derive(Debug)]
enum Body {
    File(Mutex<File>),
    Memory(Cow<'static, [u8]>),
}

/// What a fetch did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fetched {
    /// Bytes of the file that travelled.
    pub received_bytes: u64,
    /// Bytes that were on the disk already.
    pub reused_bytes: u64,
}

/// How far a fetch is, in bytes of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// On the disk, and right.
    pub done_bytes: u64,
    /// Asked for.
    pub total_bytes: u64,
}

/// What goes wrong with a transfer. Whatever had arrived and was right stays, for the next try.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// The peer does not have the file.
    #[error("the peer does not have that file")]
    NotThere,
    /// What the peer sent is not the file.
    #[error("the peer sent bytes that are not the file's")]
    Wrong,
    /// The peer left, or was too slow.
    #[error("the peer left in the middle, or was too slow; what arrived is kept")]
    Left,
    /// A range reaches beyond the file.
    #[error("the file has {bytes} bytes, asked was for {end}")]
    Beyond {
        /// The file's length.
        bytes: u64,
        /// Where the range ends.
        end: u64,
    },
    /// More than the caller allows.
    #[error("the parts take {needed_bytes} bytes, allowed are {allowed_bytes}")]
    NoRoom {
        /// What they take.
        needed_bytes: u64,
        /// What the caller allows.
        allowed_bytes: u64,
    },
    /// Larger than any model.
    #[error("a file of more than {FILE_BYTES_MAX} bytes is not moved")]
    TooLong,
    /// Nobody to ask.
    #[error("nobody is known who has that file")]
    NoSource,
    /// The peer takes no layers, or not these: its own sentence.
    #[error("the other machine does not take the layers: {0}")]
    Refused(String),
    /// The peer lacks the room for the layers: its own sentence.
    #[error("the other machine has no room for the layers: {0}")]
    NoRoomThere(String),
    /// The disk is full.
    #[error("the disk is full; what arrived is kept")]
    DiskFull,
    /// The disk.
    #[error("the file cannot be read or written")]
    Disk(#[source] io::Error),
}

impl From<io::Error> for TransferError {
    fn from(cause: io::Error) -> TransferError {
        match cause.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => TransferError::DiskFull,
            _ => TransferError::Disk(cause),
        }
    }
}

impl Outline {
    /// Reads a file through.
    pub fn of(file: &mut File) -> Result<Outline, TransferError> {
        let bytes = file.metadata()?.len();
        file.seek(SeekFrom::Start(0))?;
        Outline::read(file, bytes)
    }

    fn read(file: &mut impl Read, bytes: u64) -> Result<Outline, TransferError> {
        if bytes > FILE_BYTES_MAX {
            return Err(TransferError::TooLong);
        }
        let mut groups = Vec::new();
        let mut whole = blake3::Hasher::new();
        let mut group = Vec::with_capacity(GROUP_BYTES as usize);
        for at in 0..groups_of(bytes) {
            group.clear();
            file.by_ref().take(GROUP_BYTES).read_to_end(&mut group)?;
            whole.update(&group);
            groups.push(value_of(at, &group));
        }
        let hash = *whole.finalize().as_bytes();
        Ok(Outline { hash, bytes, groups })
    }

    /// BLAKE3 of the whole file.
    pub fn hash(&self) -> [u8; 32] {
        self.hash
    }

    /// The file's length.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes that travel for `ranges` of the file: whole groups.
    pub fn bytes_touched(&self, ranges: &[Range<u64>]) -> Result<u64, TransferError> {
        let groups = self.touched(ranges)?.into_iter().map(|at| self.group(at));
        Ok(groups.map(|group| group.end - group.start).sum())
    }

    /// The groups that `ranges` touch.
    fn touched(&self, ranges: &[Range<u64>]) -> Result<BTreeSet<u64>, TransferError> {
        let mut groups = BTreeSet::new();
        for range in ranges {
            if range.end > self.bytes {
                return Err(TransferError::Beyond {
                    bytes: self.bytes,
                    end: range.end,
                });
            }
            if !range.is_empty() {
                groups.extend(range.start / GROUP_BYTES..range.end.div_ceil(GROUP_BYTES));
            }
        }
        Ok(groups)
    }

    fn group(&self, at: u64) -> Range<u64> {
        at * GROUP_BYTES..((at + 1) * GROUP_BYTES).min(self.bytes)
    }

    /// Whether `bytes` are the group's.
    fn fits(&self, at: u64, bytes: &[u8]) -> bool {
        let range = self.group(at);
        bytes.len() as u64 == range.end - range.start
            && match self.groups.len() {
                1 => *blake3::hash(bytes).as_bytes() == self.hash,
                _ => value_of(at, bytes) == self.groups[at as usize],
            }
    }

    /// As it travels, and is kept: [`Outline::decode`] reads it.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = self.bytes.to_le_bytes().to_vec();
        out.extend(self.groups.iter().flatten());
        out
    }

    /// `None` unless the groups' hashes make up `hash`: whoever sent them, they are then the file's.
    pub fn decode(hash: [u8; 32], bytes: &[u8]) -> Option<Outline> {
        let mut rest = bytes;
        let length = u64::from_le_bytes(take(&mut rest)?);
        if length > FILE_BYTES_MAX || rest.len() as u64 != 32 * groups_of(length) {
            return None;
        }
        let groups: Vec<ChainingValue> = rest.as_chunks().0.to_vec();
        let merged = match groups.len() {
            0 => *blake3::hash(b"").as_bytes(),
            // The one group's bytes themselves are held against the hash.
            1 => hash,
            _ => {
                let (left, right) = halves(&groups, length);
                *merge_subtrees_root(&left, &right, Mode::Hash).as_bytes()
            }
        };
        (merged == hash).then_some(Outline {
            hash,
            bytes: length,
            groups,
        })
    }
}

fn groups_of(bytes: u64) -> u64 {
    bytes.div_ceil(GROUP_BYTES)
}

fn value_of(at: u64, bytes: &[u8]) -> ChainingValue {
    blake3::Hasher::new()
        .set_input_offset(at * GROUP_BYTES)
        .update(bytes)
        .finalize_non_root()
}

/// The hashes of the two halves of a tree over `groups`; there are at least two.
fn halves(groups: &[ChainingValue], bytes: u64) -> (ChainingValue, ChainingValue) {
    let left_bytes = left_subtree_len(bytes);
    let (left, right) = groups.split_at((left_bytes / GROUP_BYTES) as usize);
    (merged(left, left_bytes), merged(right, bytes - left_bytes))
}

fn merged(groups: &[ChainingValue], bytes: u64) -> ChainingValue {
    if let [group] = groups {
        return *group;
    }
    let (left, right) = halves(groups, bytes);
    merge_subtrees_non_root(&left, &right, Mode::Hash)
}

impl Offer {
    /// Offers a file; reads it through once.
    pub fn of(mut file: File) -> Result<Offer, TransferError> {
        let outline = Outline::of(&mut file)?;
        Ok(Offer::outlined(outline, file))
    }

    /// Offers a file whose outline is known. One that was changed since is noticed by whoever fetches it.
    pub fn outlined(outline: Outline, file: File) -> Offer {
        let body = Body::File(Mutex::new(file));
        Offer { outline, body }
    }

    /// Offers bytes that are in memory: a part of the program, or a list made on the way.
    pub fn of_bytes(bytes: impl Into<Cow<'static, [u8]>>) -> Result<Offer, TransferError> {
        let bytes = bytes.into();
        let outline = Outline::read(&mut &*bytes, bytes.len() as u64)?;
        let body = Body::Memory(bytes);
        Ok(Offer { outline, body })
    }

    /// What is offered.
    pub fn outline(&self) -> &Outline {
        &self.outline
    }

    fn read(&self, range: Range<u64>) -> io::Result<Vec<u8>> {
        match &self.body {
            Body::File(file) => read_range(&mut file.lock().unwrap_or_else(PoisonError::into_inner), range),
            Body::Memory(bytes) => Ok(bytes[range.start as usize..range.end as usize].to_vec()),
        }
    }
}

fn read_range(file: &mut File, range: Range<u64>) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; (range.end - range.start) as usize];
    file.seek(SeekFrom::Start(range.start))?;
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

const ASK_OUTLINE: u8 = 1;
const ASK_GROUPS: u8 = 2;
const ASK_PROBE: u8 = 3;
const ASK_TAKE: u8 = 4;
const HERE: u8 = 0;
const NOT_HERE: u8 = 1;

/// Answers a peer's requests until it leaves, some at once; `find` says which files it may have. Layers are taken from it
/// where there is a `taker`.
pub async fn serve(
    connection: &Connection,
    find: impl Fn([u8; 32]) -> Option<Arc<Offer>> + Send + Sync + 'static,
    taker: Option<Taker>,
) -> Result<(), LinkError> {
    serve_counted(connection, find, taker, Arc::default()).await
}

/// The same; adds what it sends of files to `sent`.
async fn serve_counted(
    connection: &Connection,
    find: impl Fn([u8; 32]) -> Option<Arc<Offer>> + Send + Sync + 'static,
    taker: Option<Taker>,
    sent: Arc<AtomicU64>,
) -> Result<(), LinkError> {
    let find = Arc::new(find);
    let mut answers = JoinSet::new();
    loop {
        let mut stream = connection.accept().await?;
        if answers.len() >= ASKED_AT_ONCE {
            answers.join_next().await;
        }
        let (find, taker, sent) = (Arc::clone(&find), taker.clone(), Arc::clone(&sent));
        answers.spawn(async move {
            // A request that fails costs the peer that request; the next one is heard all the same.
            let asked = tokio::time::timeout(RUN_DEADLINE, asked(&mut stream, &*find)).await;
            match asked.ok().flatten() {
                // Each step of it has a deadline of its own.
                Some(Request::Take(wanted)) => drop(intake::answer(&mut stream, wanted, taker).await),
                Some(request) => {
                    drop(tokio::time::timeout(RUN_DEADLINE, answer(&mut stream, request, &sent)).await);
                }
                None => {}
            }
        });
    }
}

/// What a peer asks for, where it may have it.
enum Request {
    Outline { offer: Arc<Offer> },
    Groups { offer: Arc<Offer>, range: Range<u64> },
    Probe { up: u64, down: u64 },
    Take(Wanted),
    NotHere,
}

impl Request {
    /// `None` for bytes that are no request.
    fn read(mut bytes: &[u8], find: &impl Fn([u8; 32]) -> Option<Arc<Offer>>) -> Option<Request> {
        let rest = &mut bytes;
        let ([kind], hash) = (take(rest)?, take(rest)?);
        let (first, count) = (u64::from_le_bytes(take(rest)?), u64::from_le_bytes(take(rest)?));
        if !rest.is_empty() {
            return None;
        }
        if kind == ASK_PROBE {
            return Some(Request::Probe {
                up: first,
                down: count,
            });
        }
        if kind == ASK_TAKE {
            return Wanted::read(hash, first, count).map(Request::Take);
        }
        match (kind, find(hash)) {
            (ASK_OUTLINE, Some(offer)) => Some(Request::Outline { offer }),
            (ASK_GROUPS, Some(offer)) => {
                let bytes = offer.outline.bytes;
                let last = first.checked_add(count.min(RUN_GROUPS))?.min(groups_of(bytes));
                let end = (last * GROUP_BYTES).min(bytes);
                let range = first.checked_mul(GROUP_BYTES)?.min(end)..end;
                Some(Request::Groups { offer, range })
            }
            (ASK_OUTLINE | ASK_GROUPS, None) => Some(Request::NotHere),
            _ => None,
        }
    }
}

/// What a peer asks for on a stream; `None` where that is no request.
async fn asked(stream: &mut Stream, find: &impl Fn([u8; 32]) -> Option<Arc<Offer>>) -> Option<Request> {
    let mut asked = [0; REQUEST_BYTES];
    stream.read(&mut asked).await.ok()?;
    Request::read(&asked, find)
}

async fn answer(stream: &mut Stream, request: Request, sent: &AtomicU64) -> Option<()> {
    if let Request::Probe { up, down } = request {
        return probe::answer(stream, up, down).await;
    }
    // Nothing follows any other.
    stream.read_all(0).await.ok()?;
    let bytes = match request {
        Request::Outline { offer } => Some(offer.outline.encode()),
        Request::Groups { offer, range } => {
            let read = tokio::task::spawn_blocking(move || offer.read(range));
            let bytes = read.await.ok()?.ok()?;
            // Before it leaves: what breaks off is counted whole, and never too little.
            sent.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            Some(bytes)
        }
        Request::Probe { .. } | Request::Take(_) | Request::NotHere => None,
    };
    match bytes {
        Some(bytes) => {
            stream.write(&[HERE]).await.ok()?;
            stream.write(&bytes).await.ok()?;
        }
        None => stream.write(&[NOT_HERE]).await.ok()?,
    }
    stream.finish();
    Some(())
}

/// Asks for the outline of the file with this hash.
pub async fn outline(connection: &Connection, hash: [u8; 32]) -> Result<Outline, TransferError> {
    let bytes_max = 1 + 8 + 32 * groups_of(FILE_BYTES_MAX) as usize;
    let bytes = ask(connection, ASK_OUTLINE, hash, 0..0, bytes_max).await?;
    Outline::decode(hash, &bytes).ok_or(TransferError::Wrong)
}

/// Brings `ranges` of the file into `path`, a file with holes, from all `sources` at once. What stands there already and
/// is right does not travel again. Takes no more than `allowed_bytes` of the disk. A source that leaves, or sends what is
/// not the file's, is asked no more; the fetch fails with what the last one did.
pub async fn fetch(
    sources: &[Connection],
    outline: &Outline,
    ranges: &[Range<u64>],
    path: &Path,
    allowed_bytes: u64,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<Fetched, TransferError> {
    let wanted = outline.touched(ranges)?;
    let size = |at: &u64| outline.group(*at).end - outline.group(*at).start;
    let needed_bytes = wanted.iter().map(size).sum();
    if needed_bytes > allowed_bytes {
        return Err(TransferError::NoRoom {
            needed_bytes,
            allowed_bytes,
        });
    }
    let outline = Arc::new(outline.clone());
    let target = path.to_owned();
    let surveyed = Arc::clone(&outline);
    let (file, missing) = blocking(move || survey(&target, &surveyed, wanted)).await?;
    let missing_bytes: u64 = missing.iter().map(size).sum();
    let mut fetch = Fetch {
        outline,
        file: Arc::new(file),
        missing,
        idle: (0..sources.len())
            .cycle()
            .take(sources.len() * ASKED_AT_ONCE)
            .collect(),
        asked: JoinSet::new(),
        trouble: TransferError::NoSource,
        fetched: Fetched {
            received_bytes: 0,
            reused_bytes: needed_bytes - missing_bytes,
        },
    };
    fetch.run(sources, needed_bytes, progress).await?;
    let file = fetch.file;
    blocking(move || Ok(file.sync_all()?)).await?;
    Ok(fetch.fetched)
}

/// One fetch under way.
struct Fetch {
    outline: Arc<Outline>,
    file: Arc<File>,
    missing: BTreeSet<u64>,
    /// Sources that can be asked for more, each as often as it can.
    idle: Vec<usize>,
    asked: JoinSet<Answered>,
    /// What the last source that was given up did.
    trouble: TransferError,
    fetched: Fetched,
}

/// What a source made of a request.
struct Answered {
    source: usize,
    run: Range<u64>,
    bytes: Result<Vec<u8>, TransferError>,
}

impl Fetch {
    async fn run(
        &mut self,
        sources: &[Connection],
        total_bytes: u64,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<(), TransferError> {
        loop {
            progress(Progress {
                done_bytes: self.fetched.reused_bytes + self.fetched.received_bytes,
                total_bytes,
            });
            self.ask(sources);
            let Some(answered) = self.asked.join_next().await else {
                return match self.missing.is_empty() {
                    true => Ok(()),
                    false => Err(std::mem::replace(&mut self.trouble, TransferError::NoSource)),
                };
            };
            // A request that panicked is a broken invariant of ours.
            let Answered { source, run, bytes } = answered.expect("a request ends");
            match bytes {
                Ok(bytes) => {
                    self.idle.insert(0, source);
                    self.fetched.received_bytes += bytes.len() as u64;
                    let (file, at) = (Arc::clone(&self.file), run.start * GROUP_BYTES);
                    blocking(move || write_at(&file, at, &bytes)).await?;
                }
                Err(trouble) => {
                    self.idle.retain(|idle| *idle != source);
                    self.missing.extend(run);
                    self.trouble = trouble;
                }
            }
        }
    }

    /// Gives every idle source something to do.
    fn ask(&mut self, sources: &[Connection]) {
        while !self.missing.is_empty()
            && let Some(source) = self.idle.pop()
        {
            let run = next_run(&mut self.missing).expect("something is missing");
            let (connection, outline) = (sources[source].clone(), Arc::clone(&self.outline));
            self.asked.spawn(async move {
                let bytes = groups(&connection, &outline, run.clone()).await;
                Answered { source, run, bytes }
            });
        }
    }
}

/// Opens the file, and says which of the wanted groups are not there.
fn survey(
    path: &Path,
    outline: &Outline,
    mut wanted: BTreeSet<u64>,
) -> Result<(File, BTreeSet<u64>), TransferError> {
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)?;
    file.set_len(outline.bytes)?;
    let mut broken = Ok(());
    wanted.retain(|at| match read_range(&mut file, outline.group(*at)) {
        Ok(there) => !outline.fits(*at, &there),
        Err(cause) => {
            broken = Err(cause);
            true
        }
    });
    broken?;
    Ok((file, wanted))
}

fn write_at(mut file: &File, at: u64, bytes: &[u8]) -> Result<(), TransferError> {
    file.seek(SeekFrom::Start(at))?;
    Ok(file.write_all(bytes)?)
}

/// Does on a thread that may wait what a thread of the network may not.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, TransferError> + Send + 'static,
) -> Result<T, TransferError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|cause| Err(TransferError::Disk(io::Error::other(cause))))
}

/// Asks for a run of groups, and holds each against the outline.
async fn groups(
    connection: &Connection,
    outline: &Outline,
    run: Range<u64>,
) -> Result<Vec<u8>, TransferError> {
    let range = outline.group(run.start).start..outline.group(run.end - 1).end;
    let expected = (range.end - range.start) as usize;
    let bytes = ask(connection, ASK_GROUPS, outline.hash, run.clone(), 1 + expected).await?;
    let mut rest = bytes.as_slice();
    for at in run {
        let size = (outline.group(at).end - outline.group(at).start) as usize;
        let (group, after) = rest.split_at_checked(size).ok_or(TransferError::Wrong)?;
        if !outline.fits(at, group) {
            return Err(TransferError::Wrong);
        }
        rest = after;
    }
    match rest.is_empty() {
        true => Ok(bytes),
        false => Err(TransferError::Wrong),
    }
}

/// Takes the first neighbouring groups out of `missing`, as many as one request asks for.
fn next_run(missing: &mut BTreeSet<u64>) -> Option<Range<u64>> {
    let first = missing.pop_first()?;
    let mut end = first + 1;
    while end - first < RUN_GROUPS && missing.remove(&end) {
        end += 1;
    }
    Some(first..end)
}

/// A request as it travels.
fn request(kind: u8, hash: [u8; 32], first: u64, count: u64) -> Vec<u8> {
    [&[kind][..], &hash, &first.to_le_bytes(), &count.to_le_bytes()].concat()
}

async fn ask(
    connection: &Connection,
    kind: u8,
    hash: [u8; 32],
    run: Range<u64>,
    bytes_max: usize,
) -> Result<Vec<u8>, TransferError> {
    let count = run.end - run.start;
    let request = request(kind, hash, run.start, count);
    let talk = async {
        let mut stream = connection.open().await.map_err(|_| TransferError::Left)?;
        stream.write(&request).await.map_err(|_| TransferError::Left)?;
        stream.finish();
        let mut answer = stream
            .read_all(bytes_max)
            .await
            .map_err(|_| TransferError::Left)?;
        match answer.first() {
            Some(&HERE) => {
                answer.remove(0);
                Ok(answer)
            }
            Some(&NOT_HERE) => Err(TransferError::NotThere),
            _ => Err(TransferError::Wrong),
        }
    };
    tokio::time::timeout(RUN_DEADLINE, talk)
        .await
        .unwrap_or(Err(TransferError::Left))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file_of(bytes: u64) -> (File, Vec<u8>) {
        let content: Vec<u8> = (0..bytes).map(|at| (at % 251) as u8 ^ (at >> 16) as u8).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&content).unwrap();
        (file, content)
    }

    #[test]
    fn an_outline_is_the_files_own_hash() {
        for bytes in [
            0,
            1,
            GROUP_BYTES - 1,
            GROUP_BYTES,
            GROUP_BYTES + 1,
            3 * GROUP_BYTES,
            11 * GROUP_BYTES + 77,
        ] {
            let (mut file, content) = file_of(bytes);
            let outline = Outline::of(&mut file).unwrap();
            assert_eq!(outline.hash, *blake3::hash(&content).as_bytes());
            assert_eq!(
                Outline::decode(outline.hash, &outline.encode()),
                Some(outline.clone()),
                "{bytes}"
            );
            for at in 0..groups_of(bytes) {
                let range = outline.group(at);
                let group = &content[range.start as usize..range.end as usize];
                assert!(outline.fits(at, group));
                let mut flipped = group.to_vec();
                flipped[group.len() / 2] ^= 1;
                assert!(!outline.fits(at, &flipped) && !outline.fits(at, &group[1..]));
            }
        }
    }

    #[test]
    fn an_outline_of_another_file_is_refused() {
        let (mut file, _) = file_of(5 * GROUP_BYTES);
        let outline = Outline::of(&mut file).unwrap();
        let bytes = outline.encode();
        for at in 0..bytes.len() {
            let mut forged = bytes.clone();
            forged[at] ^= 1;
            // Another length in the last group leaves the tree as it is: then the group's own bytes do not fit.
            let accepted = Outline::decode(outline.hash, &forged);
            assert!(accepted.is_none() || at < 8, "byte {at}");
        }
        assert_eq!(Outline::decode(outline.hash, &bytes[..bytes.len() - 1]), None);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_an_outline_of_their_hash_or_refused(
            bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200),
            length in 0_u64..(4 * GROUP_BYTES),
            honest in proptest::prelude::any::<bool>(),
        ) {
            let mut said = bytes;
            if honest && said.len() >= 8 {
                said[..8].copy_from_slice(&length.to_le_bytes());
            }
            for hash in [[0; 32], *blake3::hash(&said).as_bytes()] {
                if let Some(outline) = Outline::decode(hash, &said) {
                    proptest::prop_assert_eq!(outline.encode(), said.clone());
                }
            }
        }

        #[test]
        fn any_bytes_are_a_request_or_none(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..80)) {
            let offer = Arc::new(Offer::of_bytes(vec![7; 3 * GROUP_BYTES as usize + 5]).unwrap());
            let found = |_| Some(Arc::clone(&offer));
            if let Some(Request::Groups { range, .. }) = Request::read(&bytes, &found) {
                proptest::prop_assert!(range.start <= range.end && range.end <= offer.outline.bytes);
                proptest::prop_assert!(range.end - range.start <= RUN_GROUPS * GROUP_BYTES);
            }
        }
    }

    #[test]
    fn runs_are_neighbours_and_bounded() {
        let mut missing: BTreeSet<u64> = (0..20).chain([40]).collect();
        let runs: Vec<Range<u64>> = std::iter::from_fn(|| next_run(&mut missing)).collect();
        assert_eq!(runs, [0..16, 16..20, 40..41]);
    }
}
