//! Blocks of KV caches on disk: what earlier prompts left, for later ones that begin alike, also after a restart.
//!
//! Asked by the service's own thread for files. A block is sealed with a key of this home folder (`blocks::seal`), and opens whole
//! or not at all; one that is damaged, short, of another shape or of another key is a miss and is removed. Writing may fail
//! at any time, a full disk among the reasons: the answers go on without. A file holds keys and values, from which a prompt
//! could be guessed: it is private to the user of this machine, neither its name nor its bytes tell anything without the key,
//! and whether any is written is for the caller to say.
//!
//! | bytes | what |
//! |---|---|
//! | 8 | the word `HEPHKV` and the version of this layout |
//! | 8 | bytes of keys and values |
//! | 12, 12 | what was drawn for the two seals |
//! | 32, 32, 8, 8, 16 | sealed: the block's name, that of the block before it, how many come before it, operations that one of its bytes costs |
//! | the rest | sealed with all of the above: keys and values of 64 positions, as `KvCache::export` writes them |

mod seal;

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use heph_engine::prefix::{BlockKey, Entry, Hoard};
use seal::{FRESH_BYTES, Fresh, Seal, TAG_BYTES};
use serde::Serialize;

/// The word at the beginning of each file, with the version of its layout.
const WORD: [u8; 8] = *b"HEPHKV\0\x02";

/// Bytes that are not sealed: the word, a number, and what was drawn for two seals.
const PLAIN: usize = 8 + 8 + 2 * FRESH_BYTES;

/// Bytes before the keys and values: those, and two names and two numbers under a seal.
const HEAD: usize = PLAIN + 32 + 32 + 2 * 8 + TAG_BYTES;

/// Bytes that no block reaches: 64 positions of 80 layers with 128 heads of 256 numbers in full precision take 1.3 GiB.
const BLOCK_BYTES_MAX: u64 = 2 << 30;

/// Files that are looked at when the folder is opened; what lies beyond is not used.
const FILES_MAX: usize = 1 << 20;

/// How long nothing is written after a failure.
const PAUSE: Duration = Duration::from_secs(30);

/// The ending of a block's file name.
const ENDING: &str = "kv";

/// The file that the process in charge of the folder holds locked.
const LOCK: &str = "lock";

/// The folder of blocks below HEPH's home folder.
pub fn folder(home: &Path) -> PathBuf {
    home.join("prefixes")
}

/// Why blocks are not kept in a folder.
#[derive(Debug, thiserror::Error)]
pub enum BlocksError {
    /// The system refuses the folder.
    #[error("cannot use the folder {path}: {cause}")]
    Io {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// Another process is in charge of it.
    #[error("another process keeps its caches in {0}")]
    InUse(PathBuf),
}

/// What a folder of blocks holds, and what became of it since it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct BlockCounts {
    /// Blocks that are there.
    pub blocks: u64,
    /// Bytes of their files.
    pub bytes: u64,
    /// Bytes that they may take.
    pub limit: u64,
    /// Blocks that were read.
    pub read: u64,
    /// Blocks that were written.
    pub written: u64,
    /// Blocks that were removed for others.
    pub given_up: u64,
    /// Blocks that were damaged.
    pub damaged: u64,
    /// Times that the system refused to write.
    pub failed: u64,
}

#[derive(Debug, Default)]
struct Counts {
    read: AtomicU64,
    written: AtomicU64,
    given_up: AtomicU64,
    damaged: AtomicU64,
    failed: AtomicU64,
}

#[derive(Debug)]
struct Known {
    hoard: Hoard<BlockKey>,
    /// Whether the folder was looked through.
    settled: bool,
    quiet_until: Option<Instant>,
}

/// A bounded folder of blocks, of all models and owners.
#[derive(Debug)]
pub struct BlockStore {
    folder: PathBuf,
    seal: Seal,
    limit: u64,
    known: Mutex<Known>,
    counts: Counts,
    /// Held as long as this process is in charge.
    _lock: File,
}

impl BlockStore {
    /// Takes charge of the blocks below HEPH's folder `home`; what is not there is made. What it holds is known once
    /// [`BlockStore::settle`] was called.
    ///
    /// # Errors
    /// When the system refuses the folder or its key, or another process is in charge of it.
    pub fn open(home: &Path, limit: u64) -> Result<Self, BlocksError> {
        let folder = &folder(home);
        let failed = |cause| BlocksError::Io {
            path: folder.to_owned(),
            cause,
        };
        private_folder(folder).map_err(failed)?;
        let lock = File::create(folder.join(LOCK)).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(BlocksError::InUse(folder.to_owned())),
            Err(TryLockError::Error(cause)) => return Err(failed(cause)),
        }
        Ok(Self {
            seal: Seal::of(home).map_err(failed)?,
            folder: folder.to_owned(),
            limit,
            known: Mutex::new(Known {
                hoard: Hoard::new(limit),
                settled: false,
                quiet_until: None,
            }),
            counts: Counts::default(),
            _lock: lock,
        })
    }

    /// Looks through the folder, once: what was used longest ago is removed where there is too much.
    pub fn settle(&self) {
        if std::mem::replace(&mut self.lock().settled, true) {
            return;
        }
        // Others may ask meanwhile: a folder of many files takes a while.
        let mut found = files(&self.folder);
        for left in found.iter().filter(|file| file.name.is_none() && file.unfinished) {
            // From a process that ended while it wrote. What cannot be removed is in nobody's way.
            let _ = fs::remove_file(&left.path);
        }
        found.retain(|file| file.name.is_some());
        let mut entries: Vec<(SystemTime, Entry<BlockKey>)> = Vec::with_capacity(found.len());
        for file in found {
            match self.head_of(&file.path) {
                Some(head)
                    if Some(self.seal.name(&head.key)) == file.name && file.bytes == head.file_bytes() =>
                {
                    entries.push((file.used, head.entry()));
                }
                _ => self.lost(&file.path, None),
            }
        }
        entries.sort_unstable_by_key(|(used, entry)| (entry.depth, *used));
        let mut known = self.lock();
        for (_, entry) in &entries {
            self.take_in(&mut known, *entry);
        }
        entries.sort_unstable_by_key(|(used, _)| *used);
        entries.iter().for_each(|(_, entry)| known.hoard.touch(entry.key));
    }

    /// Whether the block is there, as far as is known.
    pub fn holds(&self, key: &BlockKey) -> bool {
        self.lock().hoard.find(key).is_some()
    }

    /// The keys and values of a block, which are `bytes` long; `None` where they are not there whole.
    pub fn read(&self, key: &BlockKey, bytes: usize) -> Option<Vec<u8>> {
        if !self.holds(key) {
            return None;
        }
        let path = self.path(key);
        match self.payload_of(&path, key, bytes) {
            Some(payload) => {
                self.counts.read.fetch_add(1, Relaxed);
                Some(payload)
            }
            None => {
                self.lost(&path, Some(key));
                None
            }
        }
    }

    /// Counts a use of a block and of those before it.
    pub fn touch(&self, key: &BlockKey) {
        self.lock().hoard.touch(*key);
        // For the next start; where that does not work, the order is a little wrong then.
        let file = File::open(self.path(key));
        let _ = file.and_then(|file| file.set_modified(SystemTime::now()));
    }

    /// Keeps a block, whose `entry.bytes` does not count here. One that is there already, finds no room or cannot be
    /// written is not kept.
    pub fn write(&self, entry: &Entry<BlockKey>, payload: &[u8]) {
        let entry = Entry {
            bytes: (HEAD + payload.len() + TAG_BYTES) as u64,
            ..*entry
        };
        let mut known = self.lock();
        let now = Instant::now();
        let quiet = known.quiet_until.is_some_and(|until| now < until);
        if quiet || known.hoard.find(&entry.key).is_some() {
            return;
        }
        // Room is made first, so that the files are never more than the limit together.
        if !self.take_in(&mut known, entry) {
            return;
        }
        drop(known);
        let written = self.write_whole(&entry, payload);
        match written {
            Ok(()) => {
                self.counts.written.fetch_add(1, Relaxed);
            }
            // A full disk, mostly: the count tells of it.
            Err(_) => {
                self.counts.failed.fetch_add(1, Relaxed);
                let mut known = self.lock();
                known.hoard.remove(&entry.key);
                known.quiet_until = Some(now + PAUSE);
            }
        }
    }

    /// What the folder holds, and what became of it.
    pub fn counts(&self) -> BlockCounts {
        let known = self.lock();
        let (blocks, bytes) = (known.hoard.len() as u64, known.hoard.bytes());
        drop(known);
        let Counts {
            read,
            written,
            given_up,
            damaged,
            failed,
        } = &self.counts;
        BlockCounts {
            blocks,
            bytes,
            limit: self.limit,
            read: read.load(Relaxed),
            written: written.load(Relaxed),
            given_up: given_up.load(Relaxed),
            damaged: damaged.load(Relaxed),
            failed: failed.load(Relaxed),
        }
    }

    /// Puts an entry on the hoard and removes the files that give way to it; false where it finds no room.
    fn take_in(&self, known: &mut Known, entry: Entry<BlockKey>) -> bool {
        let gone = known.hoard.put(entry);
        self.counts.given_up.fetch_add(gone.len() as u64, Relaxed);
        for key in &gone {
            let _ = fs::remove_file(self.path(key));
        }
        gone.last() != Some(&entry.key)
    }

    /// A file that does not hold what it should is removed.
    fn lost(&self, path: &Path, key: Option<&BlockKey>) {
        self.counts.damaged.fetch_add(1, Relaxed);
        if let Some(key) = key {
            self.lock().hoard.remove(key);
        }
        let _ = fs::remove_file(path);
    }

    /// The file of a block.
    pub(crate) fn path(&self, key: &BlockKey) -> PathBuf {
        self.folder
            .join(format!("{}.{ENDING}", self.seal.name(key).to_hex()))
    }

    fn head_of(&self, path: &Path) -> Option<Head> {
        let mut bytes = [0; HEAD];
        File::open(path).ok()?.read_exact(&mut bytes).ok()?;
        Head::read(&self.seal, &bytes)
    }

    /// The keys and values of a file that is what its name says, whole and unchanged.
    fn payload_of(&self, path: &Path, key: &BlockKey, bytes: usize) -> Option<Vec<u8>> {
        let mut file = File::open(path).ok()?;
        if file.metadata().ok()?.len() != (HEAD + bytes + TAG_BYTES) as u64 {
            return None;
        }
        let mut head = [0; HEAD];
        file.read_exact(&mut head).ok()?;
        let known = Head::read(&self.seal, &head)?;
        if known.key != *key || known.payload != bytes as u64 {
            return None;
        }
        let mut sealed = vec![0; bytes + TAG_BYTES];
        file.read_exact(&mut sealed).ok()?;
        self.seal.open(known.fresh[1], &head, sealed)
    }

    /// A file appears under its name when it is whole.
    fn write_whole(&self, entry: &Entry<BlockKey>, payload: &[u8]) -> io::Result<()> {
        let head = Head {
            key: entry.key,
            parent: entry.parent,
            depth: u64::from(entry.depth),
            rate: entry.rate,
            payload: payload.len() as u64,
            fresh: [Seal::fresh()?, Seal::fresh()?],
        };
        let bytes = head.sealed(&self.seal)?;
        let mut sealed = Vec::with_capacity(payload.len() + TAG_BYTES);
        sealed.extend_from_slice(payload);
        self.seal.close(head.fresh[1], &bytes, &mut sealed)?;
        let mut file = tempfile::Builder::new()
            .prefix(UNFINISHED)
            .tempfile_in(&self.folder)?;
        file.write_all(&bytes)?;
        file.write_all(&sealed)?;
        file.persist(self.path(&entry.key))?;
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many blocks lie in a folder, whoever is in charge of it, and their bytes.
pub fn survey(folder: &Path) -> (u64, u64) {
    let blocks = files(folder).into_iter().filter(|file| file.name.is_some());
    blocks.fold((0, 0), |(count, bytes), file| (count + 1, bytes + file.bytes))
}

/// Removes all blocks of a folder, also under a process that uses them: it then computes them again. Returns how many
/// there were and their bytes.
///
/// # Errors
/// When the system refuses to remove one.
pub fn clear(folder: &Path) -> Result<(u64, u64), BlocksError> {
    let (mut count, mut bytes) = (0, 0);
    for file in files(folder).into_iter().filter(|file| file.name.is_some()) {
        match fs::remove_file(&file.path) {
            Ok(()) => (count, bytes) = (count + 1, bytes + file.bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(cause) => {
                return Err(BlocksError::Io {
                    path: file.path,
                    cause,
                });
            }
        }
    }
    Ok((count, bytes))
}

struct Found {
    path: PathBuf,
    /// What it is called, if it is called like a block.
    name: Option<blake3::Hash>,
    unfinished: bool,
    bytes: u64,
    used: SystemTime,
}

fn files(folder: &Path) -> Vec<Found> {
    let listing = fs::read_dir(folder).into_iter().flatten().flatten();
    let found = listing.filter_map(|file| {
        let about = file.metadata().ok().filter(fs::Metadata::is_file)?;
        let name = file.file_name();
        let name = name.to_str()?;
        let stem = name.strip_suffix(ENDING).and_then(|stem| stem.strip_suffix('.'));
        Some(Found {
            name: stem.and_then(|stem| blake3::Hash::from_hex(stem).ok()),
            unfinished: name.starts_with(UNFINISHED),
            path: file.path(),
            bytes: about.len(),
            used: about.modified().unwrap_or(SystemTime::UNIX_EPOCH),
        })
    });
    found.take(FILES_MAX).collect()
}

/// How the name of a file begins that is not whole yet.
const UNFINISHED: &str = ".unfinished-";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Head {
    key: BlockKey,
    parent: BlockKey,
    depth: u64,
    rate: u64,
    payload: u64,
    /// For its own seal, and for that of the keys and values.
    fresh: [Fresh; 2],
}

impl Head {
    fn entry(&self) -> Entry<BlockKey> {
        Entry {
            key: self.key,
            parent: self.parent,
            depth: u32::try_from(self.depth).unwrap_or(u32::MAX),
            bytes: self.file_bytes(),
            rate: self.rate,
        }
    }

    fn file_bytes(&self) -> u64 {
        (HEAD + TAG_BYTES) as u64 + self.payload
    }

    fn sealed(&self, seal: &Seal) -> io::Result<Vec<u8>> {
        let mut plain = [&WORD[..], &self.payload.to_le_bytes(), &self.fresh.concat()].concat();
        let numbers = [self.depth, self.rate].map(u64::to_le_bytes);
        let mut hidden = [&self.key.0[..], &self.parent.0, &numbers.concat()].concat();
        seal.close(self.fresh[0], &plain, &mut hidden)?;
        plain.append(&mut hidden);
        Ok(plain)
    }

    fn read(seal: &Seal, bytes: &[u8; HEAD]) -> Option<Self> {
        let (plain, hidden) = bytes.split_first_chunk::<PLAIN>()?;
        let (word, rest) = plain.split_first_chunk::<8>()?;
        let (payload, rest) = rest.split_first_chunk::<8>()?;
        let (first, second) = rest.split_first_chunk::<FRESH_BYTES>()?;
        let payload = u64::from_le_bytes(*payload);
        if *word != WORD || payload > BLOCK_BYTES_MAX {
            return None;
        }
        let opened = seal.open(*first, plain, hidden.to_vec())?;
        let (key, rest) = opened.split_first_chunk::<32>()?;
        let (parent, rest) = rest.split_first_chunk::<32>()?;
        let (depth, rate) = rest.split_first_chunk::<8>()?;
        Some(Self {
            key: BlockKey(*key),
            parent: BlockKey(*parent),
            depth: u64::from_le_bytes(*depth),
            rate: u64::from_le_bytes(rate.try_into().ok()?),
            payload,
            fresh: [*first, second.try_into().ok()?],
        })
    }
}

/// A folder that only this user may look into.
fn private_folder(folder: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The block `depth` of chain `chain`, with the bytes that belong to it.
    fn block(chain: u8, depth: u8, bytes: usize) -> (Entry<BlockKey>, Vec<u8>) {
        let name = |depth: u8| BlockKey([chain, depth].repeat(16).try_into().unwrap());
        let entry = Entry {
            key: name(depth + 1),
            parent: name(depth),
            depth: u32::from(depth),
            bytes: 0,
            rate: 10,
        };
        let payload = (0..bytes).map(|i| (i * 31 + usize::from(chain) * 7 + usize::from(depth)) as u8);
        (entry, payload.collect())
    }

    /// Bytes of the file of a block of so many.
    fn file_bytes(payload: u64) -> u64 {
        (HEAD + TAG_BYTES) as u64 + payload
    }

    fn open(home: &Path, limit: u64) -> BlockStore {
        let store = BlockStore::open(home, limit).unwrap();
        store.settle();
        store
    }

    #[test]
    fn blocks_are_there_again_after_a_restart() {
        let home = tempfile::tempdir().unwrap();
        let folder = folder(home.path());
        let blocks: Vec<_> = (0..5).map(|depth| block(1, depth, 1000)).collect();
        let store = open(home.path(), 1 << 20);
        blocks
            .iter()
            .for_each(|(entry, payload)| store.write(entry, payload));
        drop(store);
        fs::write(folder.join(format!("{UNFINISHED}x")), "half").unwrap();
        fs::write(folder.join("note.txt"), "somebody's").unwrap();
        let store = open(home.path(), 1 << 20);
        for (entry, payload) in &blocks {
            assert_eq!(store.read(&entry.key, 1000).as_ref(), Some(payload));
            assert_eq!(store.read(&entry.parent, 999), None, "another shape");
        }
        // The four that were asked for in another shape are as good as damaged.
        let BlockCounts { blocks, damaged, .. } = store.counts();
        assert_eq!((blocks, damaged), (1, 4));
        assert!(!folder.join(format!("{UNFINISHED}x")).exists() && folder.join("note.txt").exists());
    }

    #[test]
    fn of_a_thousand_damaged_blocks_none_is_served() {
        let home = tempfile::tempdir().unwrap();
        let mut state = 11_u64;
        let mut draw = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as usize % below.max(1)
        };
        let (entry, payload) = block(1, 0, 300);
        let store = open(home.path(), 1 << 20);
        let path = store.path(&entry.key);
        for round in 0..1000 {
            store.write(&entry, &payload);
            let sound = fs::read(&path).unwrap();
            let mut bytes = sound.clone();
            match round % 5 {
                0 => bytes.truncate(draw(bytes.len())),
                1 => bytes.extend((0..=draw(40)).map(|_| 0)),
                2 => {
                    let (from, to) = (draw(bytes.len()), draw(bytes.len()));
                    bytes.swap(from, to);
                }
                3 => bytes = (0..bytes.len()).map(|_| draw(256) as u8).collect(),
                _ => {
                    let at = draw(bytes.len());
                    bytes[at] ^= 1 << draw(8);
                }
            }
            fs::write(&path, &bytes).unwrap();
            match store.read(&entry.key, 300) {
                Some(read) => assert!(bytes == sound && read == payload, "round {round}"),
                None => assert!(!path.exists() && !store.holds(&entry.key)),
            }
        }
        assert!(store.counts().damaged > 900);
    }

    #[test]
    fn a_block_under_the_name_of_another_is_not_served() {
        let home = tempfile::tempdir().unwrap();
        let store = open(home.path(), 1 << 20);
        let ((one, payload), (other, _)) = (block(1, 0, 100), block(2, 0, 100));
        store.write(&one, &payload);
        store.write(&other, &block(2, 0, 100).1);
        fs::copy(store.path(&one.key), store.path(&other.key)).unwrap();
        assert_eq!(store.read(&other.key, 100), None);
        assert_eq!(store.read(&one.key, 100), Some(payload));
    }

    #[test]
    fn files_tell_nothing_without_the_key_of_the_folder() {
        let home = tempfile::tempdir().unwrap();
        let store = open(home.path(), 1 << 20);
        let (entry, payload) = block(1, 0, 400);
        store.write(&entry, &payload);
        let path = store.path(&entry.key);
        let written = fs::read(&path).unwrap();
        let shows = |bytes: &[u8]| written.windows(bytes.len()).any(|some| some == bytes);
        assert!(!shows(&entry.key.0[..8]) && !shows(&entry.parent.0[..8]) && !shows(&payload[..8]));
        let name = path.to_string_lossy().into_owned();
        assert!(!name.contains(blake3::Hash::from_bytes(entry.key.0).to_hex().as_str()));
        // The same block is never the same bytes.
        clear(&folder(home.path())).unwrap();
        assert_eq!(store.read(&entry.key, 400), None);
        store.write(&entry, &payload);
        let again = fs::read(&path).unwrap();
        assert_eq!(again.len(), written.len());
        let alike = written
            .iter()
            .zip(&again)
            .skip(16)
            .filter(|(a, b)| a == b)
            .count();
        assert!(alike < 30, "{alike} of {} bytes", written.len());
        drop(store);
        // With another key it is as good as none.
        fs::remove_dir_all(home.path().join("keys")).unwrap();
        let store = open(home.path(), 1 << 20);
        assert_eq!(store.read(&entry.key, 400), None);
        assert_eq!((store.counts().damaged, survey(&folder(home.path())).0), (1, 0));
    }

    #[test]
    fn damaged_heads_are_found_at_the_start_and_hostile_ones_break_nothing() {
        let home = tempfile::tempdir().unwrap();
        let store = open(home.path(), 1 << 20);
        let (entry, payload) = block(1, 3, 64);
        for number in 0..40_u8 {
            let head = Head {
                key: BlockKey([number; 32]),
                parent: BlockKey([39 - number; 32]),
                depth: u64::from(number) << (number % 60),
                rate: u64::MAX - u64::from(number),
                payload: if number % 3 == 0 { u64::MAX } else { 64 },
                fresh: [[number; FRESH_BYTES]; 2],
            };
            let bytes = [head.sealed(&store.seal).unwrap(), vec![number; 64 + TAG_BYTES]].concat();
            fs::write(store.path(&head.key), bytes).unwrap();
        }
        drop(store);
        let store = open(home.path(), 1500);
        assert!(store.counts().bytes <= 1500);
        store.write(&entry, &payload);
        assert_eq!(store.read(&BlockKey([0; 32]), usize::MAX >> 8), None);
    }

    #[test]
    fn the_bytes_of_all_files_are_bounded_and_the_newest_chain_stays() {
        let home = tempfile::tempdir().unwrap();
        let limit = 10 * file_bytes(1000);
        let store = open(home.path(), limit);
        for chain in 1..20 {
            for depth in 0..4 {
                let (entry, payload) = block(chain, depth, 1000);
                store.write(&entry, &payload);
                assert!(survey(&folder(home.path())).1 <= limit);
            }
        }
        for depth in 0..4 {
            let (entry, payload) = block(19, depth, 1000);
            assert_eq!(store.read(&entry.key, 1000), Some(payload));
        }
        assert_eq!(store.counts().blocks, survey(&folder(home.path())).0);
        drop(store);
        // A smaller bound holds from the start on.
        let store = open(home.path(), limit / 2);
        assert!(survey(&folder(home.path())).1 <= limit / 2 && store.holds(&block(19, 0, 0).0.key));
    }

    #[test]
    fn where_nothing_can_be_written_the_rest_goes_on() {
        let home = tempfile::tempdir().unwrap();
        let store = open(home.path(), 1 << 20);
        let (entry, payload) = block(1, 0, 100);
        fs::remove_dir_all(folder(home.path())).unwrap();
        store.write(&entry, &payload);
        assert_eq!(store.read(&entry.key, 100), None);
        let BlockCounts {
            failed,
            blocks,
            bytes,
            ..
        } = store.counts();
        assert_eq!((failed, blocks, bytes), (1, 0, 0));
        // For a while it does not even try.
        store.write(&entry, &payload);
        assert_eq!(store.counts().failed, 1);
    }

    #[test]
    fn one_process_is_in_charge_and_others_are_told() {
        let home = tempfile::tempdir().unwrap();
        let store = open(home.path(), 1 << 20);
        let second = BlockStore::open(home.path(), 1 << 20);
        assert!(matches!(second, Err(BlocksError::InUse(_))));
        let (entry, payload) = block(1, 0, 100);
        store.write(&entry, &payload);
        assert_eq!(clear(&folder(home.path())).unwrap(), (1, file_bytes(100)));
        assert_eq!(store.read(&entry.key, 100), None);
        drop(store);
        assert!(BlockStore::open(home.path(), 1 << 20).is_ok());
    }
}
