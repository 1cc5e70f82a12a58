//! What one answer has ready for its reader: never more than a few pages of text, taken token by token.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use heph_engine::batch::TokenReport;
use heph_types::TokenId;
use tokio::sync::Notify;

use super::{Counts, Order, Outcome, ServiceError};
use crate::cancel::Cancel;

/// Bytes that may lie ready; then the answer is held. With what a connection buffers, below 64 KiB for each reader.
const READY_MAX: usize = 24 << 10;

/// What a reported token takes: the token, and each of its likeliest with its spelling as a reader will write it.
const REPORT_BYTES: usize = 64;

/// Pieces that may lie ready apart; what comes after them joins the last.
const PIECES_MAX: usize = 64;

/// A token, with its probabilities.
#[derive(Debug, Clone, PartialEq)]
pub struct Said {
    /// The token.
    pub token: TokenId,
    /// Its probability and those of the likeliest.
    pub report: Option<TokenReport>,
}

/// What a reader hears next.
#[derive(Debug)]
pub enum Heard {
    /// More of the answer: mostly what one token added. The text may be empty where tokens are reported.
    More {
        /// Text that follows what came before.
        text: String,
        /// The reported tokens since then.
        said: Vec<Said>,
    },
    /// An outside provider's model calls a tool. Calls of models that run here stand in their text.
    Call {
        /// What the provider calls this call.
        id: String,
        /// The tool.
        name: String,
    },
    /// More of the arguments of the last call.
    Arguments(String),
    /// The end; nothing comes after it.
    End(Result<Outcome, ServiceError>),
}

#[derive(Debug)]
enum Piece {
    Text(String, Vec<Said>),
    Call { id: String, name: String },
    Arguments(String),
}

/// Who makes an answer, and how they hear of its reader.
#[derive(Debug)]
pub(super) enum Maker {
    /// The batch's thread.
    Batch(mpsc::Sender<Order>),
    /// A thread of its own, which looks at this.
    Errand(Cancel),
}

#[derive(Debug, Default)]
struct Ready {
    pieces: VecDeque<Piece>,
    bytes: usize,
    ended: Option<Result<Outcome, ServiceError>>,
    abandoned: bool,
    held: bool,
    over: bool,
}

impl Ready {
    /// Whether the reader must take something first.
    fn is_full(&self) -> bool {
        self.bytes >= READY_MAX
    }
}

/// How it went to put something in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    /// There is room for more.
    Well,
    /// The reader must take something first.
    Full,
    /// Nobody reads it.
    Abandoned,
}

/// Between the thread that makes an answer and its reader.
#[derive(Debug)]
pub(super) struct Outbox {
    serial: u64,
    ready: Mutex<Ready>,
    bell: Notify,
    room: Condvar,
    maker: Maker,
    counts: Arc<Counts>,
}

/// Numbers the outboxes of this process.
static SERIAL: AtomicU64 = AtomicU64::new(0);

impl Outbox {
    pub(super) fn new(maker: Maker, counts: Arc<Counts>) -> Arc<Self> {
        Arc::new(Self {
            serial: SERIAL.fetch_add(1, Ordering::Relaxed),
            ready: Mutex::default(),
            bell: Notify::new(),
            room: Condvar::new(),
            maker,
            counts,
        })
    }

    pub(super) fn serial(&self) -> u64 {
        self.serial
    }

    /// Tells the thread something on this answer's behalf; where the thread is gone, nobody waits for it.
    pub(super) fn order(&self, order: Order) {
        if let Maker::Batch(orders) = &self.maker {
            let _ = orders.send(order);
        }
    }

    pub(super) fn is_abandoned(&self) -> bool {
        self.lock().abandoned
    }

    pub(super) fn put(&self, text: String, said: Option<Said>) -> Taken {
        let mut ready = self.lock();
        if ready.abandoned {
            return Taken::Abandoned;
        }
        if text.is_empty() && said.is_none() {
            return Taken::Well;
        }
        let reports = said
            .as_ref()
            .map_or(0, |s| 1 + s.report.as_ref().map_or(0, |r| r.top.len()));
        ready.bytes += text.len() + reports * REPORT_BYTES;
        let apart = ready.pieces.len() < PIECES_MAX;
        match ready.pieces.back_mut() {
            Some(Piece::Text(last, all)) if !apart => {
                last.push_str(&text);
                all.extend(said);
            }
            _ => ready
                .pieces
                .push_back(Piece::Text(text, said.into_iter().collect())),
        }
        let full = ready.is_full();
        ready.held = full;
        drop(ready);
        self.bell.notify_one();
        if full { Taken::Full } else { Taken::Well }
    }

    /// A call begins.
    pub(super) fn put_call(&self, id: String, name: String) {
        let mut ready = self.lock();
        if ready.abandoned {
            return;
        }
        ready.bytes += id.len() + name.len();
        ready.held = ready.is_full();
        ready.pieces.push_back(Piece::Call { id, name });
        drop(ready);
        self.bell.notify_one();
    }

    /// More of the last call's arguments.
    pub(super) fn put_arguments(&self, text: &str) {
        let mut ready = self.lock();
        if ready.abandoned || text.is_empty() {
            return;
        }
        ready.bytes += text.len();
        ready.held = ready.is_full();
        match ready.pieces.back_mut() {
            Some(Piece::Arguments(last)) => last.push_str(text),
            _ => ready.pieces.push_back(Piece::Arguments(text.to_owned())),
        }
        drop(ready);
        self.bell.notify_one();
    }

    /// Waits until there is room for more. False where nobody reads, or nothing was taken for so long.
    pub(super) fn wait_for_room(&self, patience: Duration) -> bool {
        let held = |ready: &mut Ready| ready.held && !ready.abandoned;
        let waited = self.room.wait_timeout_while(self.lock(), patience, held);
        let (ready, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        !ready.abandoned && !timeout.timed_out()
    }

    /// Tells whoever makes the answer that its reader took something or left.
    fn tell(&self, left: bool) {
        match &self.maker {
            // Where the thread is gone there is nothing to go on with.
            Maker::Batch(orders) => {
                let _ = orders.send(Order::Look(self.serial));
            }
            Maker::Errand(cancel) => {
                if left {
                    cancel.raise();
                }
                self.room.notify_all();
            }
        }
    }

    /// The last word; what was put in before is still heard.
    pub(super) fn end(&self, outcome: Result<Outcome, ServiceError>) {
        let mut ready = self.lock();
        if ready.ended.is_none() && !ready.over {
            ready.ended = Some(outcome);
        }
        drop(ready);
        self.bell.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Ready> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The reader's end of an answer. Dropped before the end, it ends the answer.
#[derive(Debug)]
pub struct Reply(Arc<Outbox>);

impl Reply {
    pub(super) fn new(outbox: Arc<Outbox>) -> Self {
        Self(outbox)
    }

    /// A reply that is there already, for an answer that nothing computes.
    pub fn ready(text: String, outcome: Outcome) -> Self {
        // Nobody listens to its orders, and it counts for nobody.
        let counts = Arc::new(Counts::default());
        counts.open.store(1, Ordering::Relaxed);
        let outbox = Outbox::new(Maker::Batch(mpsc::channel().0), counts);
        outbox.put(text, None);
        outbox.end(Ok(outcome));
        Self(outbox)
    }

    /// What comes next; after [`Heard::End`] there is nothing, and the engine counts as stopped.
    pub async fn next(&mut self) -> Heard {
        loop {
            if let Some(heard) = self.take() {
                return heard;
            }
            self.0.bell.notified().await;
        }
    }

    fn take(&mut self) -> Option<Heard> {
        let mut ready = self.0.lock();
        if ready.over {
            return Some(Heard::End(Err(ServiceError::Stopped)));
        }
        let Some(piece) = ready.pieces.pop_front() else {
            let ended = ready.ended.take()?;
            ready.over = true;
            return Some(Heard::End(ended));
        };
        let mut goes_on = false;
        if ready.pieces.is_empty() {
            ready.bytes = 0;
            goes_on = std::mem::take(&mut ready.held);
        }
        drop(ready);
        if goes_on {
            self.0.tell(false);
        }
        Some(match piece {
            Piece::Text(text, said) => Heard::More { text, said },
            Piece::Call { id, name } => Heard::Call { id, name },
            Piece::Arguments(text) => Heard::Arguments(text),
        })
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.0.counts.open.fetch_sub(1, Ordering::AcqRel);
        let mut ready = self.0.lock();
        ready.abandoned = true;
        let under_way = !ready.over;
        drop(ready);
        if under_way {
            self.0.tell(true);
        }
    }
}
