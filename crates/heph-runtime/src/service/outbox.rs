//! What one answer has ready for its reader: never more than a few pages of text, taken token by token.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};

use heph_engine::batch::TokenReport;
use heph_types::TokenId;
use tokio::sync::Notify;

use super::{Counts, Order, Outcome, ServiceError};

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
    /// The end; nothing comes after it.
    End(Result<Outcome, ServiceError>),
}

#[derive(Debug, Default)]
struct Ready {
    pieces: VecDeque<(String, Vec<Said>)>,
    bytes: usize,
    ended: Option<Result<Outcome, ServiceError>>,
    abandoned: bool,
    held: bool,
    over: bool,
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
    orders: mpsc::Sender<Order>,
    counts: Arc<Counts>,
}

/// Numbers the outboxes of this process.
static SERIAL: AtomicU64 = AtomicU64::new(0);

impl Outbox {
    pub(super) fn new(orders: mpsc::Sender<Order>, counts: Arc<Counts>) -> Arc<Self> {
        Arc::new(Self {
            serial: SERIAL.fetch_add(1, Ordering::Relaxed),
            ready: Mutex::default(),
            bell: Notify::new(),
            orders,
            counts,
        })
    }

    pub(super) fn serial(&self) -> u64 {
        self.serial
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
            Some(last) if !apart => {
                last.0.push_str(&text);
                last.1.extend(said);
            }
            _ => ready.pieces.push_back((text, said.into_iter().collect())),
        }
        let full = ready.bytes >= READY_MAX;
        ready.held = full;
        drop(ready);
        self.bell.notify_one();
        if full { Taken::Full } else { Taken::Well }
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
        let Some((text, said)) = ready.pieces.pop_front() else {
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
            // Where the thread is gone there is nothing to go on with.
            let _ = self.0.orders.send(Order::Look(self.0.serial));
        }
        Some(Heard::More { text, said })
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
            let _ = self.0.orders.send(Order::Look(self.0.serial));
        }
    }
}
