//! What one answer has ready for its reader: never more than a few pages of text, taken token by token.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak, mpsc};
use std::time::Duration;

use heph_engine::batch::TokenReport;
use heph_types::TokenId;
use tokio::sync::Notify;

use super::{Counts, Order, Outcome, ServiceError};
use crate::cancel::Cancel;

/// Bytes that may lie ready; then the answer is held. With what a connection buffers, below 64 KiB for each reader.
const READY_MAX: usize = 8 << 10;

/// What a reported token takes: the token, and each of its likeliest with its spelling as a reader will write it.
const REPORT_BYTES: usize = 64;

/// What a piece takes besides its bytes.
const PIECE_BYTES: usize = 128;

/// Pieces of text that may lie ready apart; what comes after them joins the last. Those with reports never join: what is written of
/// one is many times as long.
const PIECES_MAX: usize = 32;

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
    /// More of what an outside provider's model thinks before it answers. Thoughts of models that run here stand in their text.
    Thought(String),
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
    Thought(String),
    Call { id: String, name: String },
    Arguments(String),
}

/// Who makes an answer, and how they hear of its reader.
#[derive(Debug)]
pub(super) enum Maker {
    /// The batch's thread.
    Batch(mpsc::Sender<Order>),
    /// A thread of its own, which looks at this.
    Errand(Mutex<Cancel>),
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

/// Ends all answers of those who share it. Cloning shares it.
#[derive(Debug, Clone, Default)]
pub struct Closing(Arc<Mutex<UnderWay>>);

#[derive(Debug, Default)]
struct UnderWay {
    outboxes: Vec<Weak<Outbox>>,
    closed: bool,
}

impl Closing {
    fn add(&self, outbox: &Arc<Outbox>) {
        let mut known = self.lock();
        // Those that are gone make room when there would be none.
        if known.outboxes.len() == known.outboxes.capacity() {
            known.outboxes.retain(|outbox| outbox.strong_count() > 0);
        }
        known.outboxes.push(Arc::downgrade(outbox));
        let closed = known.closed;
        drop(known);
        if closed {
            outbox.give_up();
        }
    }

    /// Ends the answers that are under way or waiting, and each that is asked for later: their readers hear [`ServiceError::Stopped`].
    pub fn close(&self) {
        let mut known = self.lock();
        known.closed = true;
        let outboxes = std::mem::take(&mut known.outboxes);
        drop(known);
        outboxes
            .iter()
            .filter_map(Weak::upgrade)
            .for_each(|outbox| outbox.give_up());
    }

    /// Whether that was done.
    pub fn is_closed(&self) -> bool {
        self.lock().closed
    }

    fn lock(&self) -> MutexGuard<'_, UnderWay> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Numbers the outboxes of this process.
static SERIAL: AtomicU64 = AtomicU64::new(0);

impl Outbox {
    pub(super) fn new(maker: Maker, counts: Arc<Counts>) -> Arc<Self> {
        let outbox = Arc::new(Self {
            serial: SERIAL.fetch_add(1, Ordering::Relaxed),
            ready: Mutex::default(),
            bell: Notify::new(),
            room: Condvar::new(),
            maker,
            counts,
        });
        outbox.counts.closing.add(&outbox);
        outbox
    }

    /// No more of it is made: its reader hears that behind what there is, and whoever makes it that nobody reads it.
    fn give_up(&self) {
        let mut ready = self.lock();
        if ready.over || ready.ended.is_some() {
            return;
        }
        ready.ended = Some(Err(ServiceError::Stopped));
        ready.abandoned = true;
        drop(ready);
        self.bell.notify_one();
        self.tell(true);
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
        let joins = said.is_none() && ready.pieces.len() >= PIECES_MAX;
        match ready.pieces.back_mut() {
            Some(Piece::Text(last, _)) if joins => last.push_str(&text),
            _ => {
                ready.bytes += PIECE_BYTES;
                ready
                    .pieces
                    .push_back(Piece::Text(text, said.into_iter().collect()));
            }
        }
        let full = ready.is_full();
        ready.held = full;
        drop(ready);
        self.bell.notify_one();
        if full { Taken::Full } else { Taken::Well }
    }

    /// More of what is thought.
    pub(super) fn put_thought(&self, text: &str) {
        self.put_more(text, Piece::Thought, |last| match last {
            Piece::Thought(text) => Some(text),
            _ => None,
        });
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
        self.put_more(text, Piece::Arguments, |last| match last {
            Piece::Arguments(text) => Some(text),
            _ => None,
        });
    }

    /// Goes on with the last piece where it is `of_kind`, and begins one otherwise.
    fn put_more(
        &self,
        text: &str,
        begun: fn(String) -> Piece,
        of_kind: fn(&mut Piece) -> Option<&mut String>,
    ) {
        let mut ready = self.lock();
        if ready.abandoned || text.is_empty() {
            return;
        }
        ready.bytes += text.len();
        ready.held = ready.is_full();
        match ready.pieces.back_mut().and_then(of_kind) {
            Some(last) => last.push_str(text),
            None => ready.pieces.push_back(begun(text.to_owned())),
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
            Maker::Errand(_) => {
                if left {
                    self.cancel().raise();
                }
                self.room.notify_all();
            }
        }
    }

    /// What a thread looks at that makes this answer.
    pub(super) fn cancel(&self) -> Cancel {
        match &self.maker {
            Maker::Batch(_) => Cancel::new(),
            Maker::Errand(cancel) => cancel.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    /// Has the thread look at `other` from now on.
    pub(super) fn cancelled_by(&self, other: &Cancel) {
        if let Maker::Errand(cancel) = &self.maker {
            *cancel.lock().unwrap_or_else(PoisonError::into_inner) = other.clone();
        }
        // Whoever left meanwhile raised the old one.
        if self.is_abandoned() {
            other.raise();
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

    /// What is there already; `None` where it has to be waited for.
    pub fn take(&mut self) -> Option<Heard> {
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
            Piece::Thought(text) => Heard::Thought(text),
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
