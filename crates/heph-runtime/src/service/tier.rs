//! The thread between a service and its blocks on disk: the batch never waits for a file.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use heph_engine::cache::KvCache;
use heph_engine::prefix::{BlockKey, NewBlock};
use heph_kernels::kv::PAGE;
use heph_types::Position;

use super::Order;
use super::outbox::Outbox;
use crate::blocks::BlockStore;

/// How long blocks are read for one request; with what there is then, it begins.
pub(super) const FETCH_MAX: Duration = Duration::from_secs(10);

/// Bytes of pages that wait to be written; what comes beyond is not kept.
const QUEUE_BYTES_MAX: u64 = 256 << 20;

/// What the thread is told. Fetches are bounded by open answers, pages by [`QUEUE_BYTES_MAX`].
enum Wish {
    Fetch(Fetch),
    Keep(Vec<NewBlock>),
}

/// Blocks that a request wants read.
struct Fetch {
    outbox: Arc<Outbox>,
    /// What memory has of it: whole blocks, to which those of the disk are added.
    cache: KvCache,
    /// The names of the blocks behind those.
    keys: Vec<BlockKey>,
    asked: Instant,
}

/// A service's way to its blocks on disk; the thread ends with it.
pub(super) struct Tier {
    wishes: mpsc::Sender<Wish>,
    store: Arc<BlockStore>,
    queued: Arc<AtomicU64>,
}

impl Tier {
    pub(super) fn start(store: Arc<BlockStore>) -> std::io::Result<Self> {
        let (wishes, inbox) = mpsc::channel();
        let queued = Arc::new(AtomicU64::new(0));
        let tier = Self {
            wishes,
            store: Arc::clone(&store),
            queued: Arc::clone(&queued),
        };
        thread::Builder::new()
            .name("heph-blocks".to_owned())
            .spawn(move || work(&inbox, &store, &queued))?;
        Ok(tier)
    }

    /// Whether the block is on disk.
    pub(super) fn holds(&self, key: &BlockKey) -> bool {
        self.store.holds(key)
    }

    /// Reads blocks and adds them to `cache`; the answer is an [`Order::Fetched`]. False where nobody reads any more.
    pub(super) fn fetch(&self, outbox: &Arc<Outbox>, cache: KvCache, keys: Vec<BlockKey>) -> bool {
        let fetch = Fetch {
            outbox: Arc::clone(outbox),
            cache,
            keys,
            asked: Instant::now(),
        };
        self.wishes.send(Wish::Fetch(fetch)).is_ok()
    }

    /// Writes blocks when there is time.
    pub(super) fn keep(&self, mut blocks: Vec<NewBlock>) {
        // Those that others have left off here: what comes after a gap is of no use.
        let room = QUEUE_BYTES_MAX.saturating_sub(self.queued.load(Relaxed));
        let mut bytes = 0;
        let fits = blocks.iter().take_while(|block| {
            bytes += block.entry.bytes;
            bytes <= room
        });
        blocks.truncate(fits.count());
        let taken = blocks.iter().map(|block| block.entry.bytes).sum();
        self.queued.fetch_add(taken, Relaxed);
        // Without the thread they are forgotten, which is no harm.
        let _ = self.wishes.send(Wish::Keep(blocks));
    }
}

/// Reads at once and writes in between, until nobody can ask any more.
fn work(inbox: &mpsc::Receiver<Wish>, store: &BlockStore, queued: &AtomicU64) {
    store.settle();
    let mut unwritten: VecDeque<NewBlock> = VecDeque::new();
    loop {
        let wish = match unwritten.is_empty() {
            true => inbox.recv().map_err(|_| mpsc::TryRecvError::Disconnected),
            false => inbox.try_recv(),
        };
        match wish {
            Ok(Wish::Fetch(fetch)) => answer(fetch, store),
            Ok(Wish::Keep(blocks)) => unwritten.extend(blocks),
            Err(mpsc::TryRecvError::Disconnected) if unwritten.is_empty() => return,
            Err(_) => {
                if let Some(block) = unwritten.pop_front() {
                    if !store.holds(&block.entry.key) {
                        store.write(&block.entry, &block.pages.export());
                    }
                    queued.fetch_sub(block.entry.bytes, Relaxed);
                }
            }
        }
    }
}

fn answer(fetch: Fetch, store: &BlockStore) {
    let Fetch {
        outbox,
        mut cache,
        keys,
        asked,
    } = fetch;
    let bytes = PAGE * cache.position_bytes();
    let mut last = None;
    for key in &keys {
        if asked.elapsed() > FETCH_MAX || outbox.is_abandoned() {
            break;
        }
        let first = Position(cache.len() as u32);
        let Some(payload) = store.read(key, bytes) else {
            break;
        };
        // Without room for more pages, what there is must do.
        if cache.import(first, PAGE, &payload).is_err() {
            break;
        }
        last = Some(key);
    }
    if let Some(last) = last {
        store.touch(last);
    }
    outbox.order(Order::Fetched(outbox.serial(), Box::new(cache)));
}
