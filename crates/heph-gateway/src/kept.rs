//! Replies that outlive a lost connection: their last part is kept, and read again from any event of it on.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// Replies that are kept; the oldest goes first.
const REPLIES_MAX: usize = 64;

/// Bytes of one of them. Of a longer answer what was read gives way; what was not read yet waits for its reader.
const BYTES_MAX: usize = 1 << 20;

/// How long an answer goes on while nobody reads it.
const DESERTED_AFTER: Duration = Duration::from_secs(30);

/// How long a reply is kept after its end.
const KEPT_FOR: Duration = Duration::from_secs(300);

/// The kept replies.
#[derive(Debug, Default)]
pub(crate) struct KeptStreams(Mutex<VecDeque<Arc<KeptStream>>>);

impl KeptStreams {
    /// A reply to be kept under `id`.
    pub(crate) fn open(&self, id: &str) -> Arc<KeptStream> {
        let stream = Arc::new(KeptStream {
            id: id.to_owned(),
            state: Mutex::default(),
            bell: Notify::new(),
        });
        let mut kept = self.lock();
        kept.retain(|stream| stream.is_kept());
        while kept.len() >= REPLIES_MAX {
            kept.pop_front();
        }
        kept.push_back(Arc::clone(&stream));
        stream
    }

    /// The reply of that id, if it is still kept.
    pub(crate) fn find(&self, id: &str) -> Option<Arc<KeptStream>> {
        let kept = self.lock();
        let stream = kept.iter().find(|stream| stream.id == id)?;
        stream.is_kept().then(|| Arc::clone(stream))
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Arc<KeptStream>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Default)]
struct State {
    frames: VecDeque<String>,
    /// How many gave way before these.
    gone: usize,
    bytes: usize,
    /// When the last of them came.
    over: Option<Instant>,
    readers: usize,
    /// Frames that some reader has taken, those that are gone among them.
    read: usize,
    deserted_since: Option<Instant>,
    /// Somebody asked for its end.
    cut: bool,
}

impl State {
    /// Frames that came so far.
    fn came(&self) -> usize {
        self.gone + self.frames.len()
    }

    /// Lets go of what was read, where there is too much.
    fn give_way(&mut self) {
        while self.bytes >= BYTES_MAX && self.gone < self.read {
            let Some(frame) = self.frames.pop_front() else {
                return;
            };
            self.bytes -= frame.len();
            self.gone += 1;
        }
    }
}

/// One kept reply.
#[derive(Debug)]
pub(crate) struct KeptStream {
    id: String,
    state: Mutex<State>,
    bell: Notify,
}

impl KeptStream {
    /// Adds frames; each gets the id by which a reader goes on after it.
    pub(crate) fn put(&self, frames: Vec<String>) {
        let mut state = self.lock();
        for frame in frames {
            let number = state.came() + 1;
            let frame = format!("id: {}:{number}\n{frame}", self.id);
            state.bytes += frame.len();
            state.frames.push_back(frame);
        }
        state.give_way();
        drop(state);
        self.bell.notify_waiters();
    }

    /// The reply is complete.
    pub(crate) fn end(&self) {
        self.lock().over = Some(Instant::now());
        self.bell.notify_waiters();
    }

    /// Ends the answer now, whoever reads it.
    pub(crate) fn cut(&self) {
        self.lock().cut = true;
        self.bell.notify_waiters();
    }

    /// Comes back when nobody has read for too long, or somebody asked for the end.
    pub(crate) async fn deserted(&self) {
        loop {
            let bell = self.bell.notified();
            let left = {
                let state = self.lock();
                match state.deserted_since {
                    _ if state.cut => Duration::ZERO,
                    Some(since) => DESERTED_AFTER.saturating_sub(since.elapsed()),
                    None => DESERTED_AFTER,
                }
            };
            if left.is_zero() {
                return;
            }
            let _ = tokio::time::timeout(left, bell).await;
        }
    }

    /// Comes back when there is room for more: below the limit, or when all of it has been read.
    pub(crate) async fn room(&self) {
        loop {
            let bell = self.bell.notified();
            {
                let state = self.lock();
                let deserted = state
                    .deserted_since
                    .is_some_and(|since| since.elapsed() >= DESERTED_AFTER);
                if state.cut || state.bytes < BYTES_MAX || state.read == state.came() || deserted {
                    return;
                }
            }
            let _ = tokio::time::timeout(Duration::from_secs(1), bell).await;
        }
    }

    /// Whether it is under way, or not long over.
    fn is_kept(&self) -> bool {
        self.lock().over.is_none_or(|over| over.elapsed() < KEPT_FOR)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One who reads a kept reply.
#[derive(Debug)]
pub(crate) struct Reader {
    stream: Arc<KeptStream>,
    at: usize,
}

impl Reader {
    /// Reads on after event number `after`; `None` where what comes behind it is not kept any more.
    pub(crate) fn new(stream: Arc<KeptStream>, after: usize) -> Option<Self> {
        let mut state = stream.lock();
        if after < state.gone {
            return None;
        }
        state.readers += 1;
        state.deserted_since = None;
        let at = after.min(state.came());
        drop(state);
        Some(Self { stream, at })
    }

    /// The next event; `None` after the last.
    ///
    /// # Errors
    /// When it gave way, since another reader of the same reply was so much faster.
    pub(crate) async fn next(&mut self) -> Option<Result<String, GaveWay>> {
        loop {
            let bell = self.stream.bell.notified();
            {
                let mut state = self.stream.lock();
                let Some(at) = self.at.checked_sub(state.gone) else {
                    return Some(Err(GaveWay));
                };
                if let Some(frame) = state.frames.get(at).cloned() {
                    self.at += 1;
                    state.read = state.read.max(self.at);
                    state.give_way();
                    drop(state);
                    self.stream.bell.notify_waiters();
                    return Some(Ok(frame));
                }
                if state.over.is_some() {
                    return None;
                }
            }
            // A bell that rang between the look and the wait is heard a second later.
            let _ = tokio::time::timeout(Duration::from_secs(1), bell).await;
        }
    }
}

/// The next event of a reply is not kept any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the next event is not kept any more")]
pub(crate) struct GaveWay;

impl Drop for Reader {
    fn drop(&mut self) {
        let mut state = self.stream.lock();
        state.readers -= 1;
        if state.readers == 0 {
            state.deserted_since = Some(Instant::now());
        }
    }
}

/// The stream and the event of a `Last-Event-ID`.
pub(crate) fn parse(id: &str) -> Option<(&str, usize)> {
    let (stream, number) = id.trim().rsplit_once(':')?;
    Some((stream, number.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    }

    async fn all(stream: &Arc<KeptStream>, after: usize) -> Vec<String> {
        let mut reader = Reader::new(Arc::clone(stream), after).unwrap();
        let mut frames = Vec::new();
        while let Some(frame) = reader.next().await {
            frames.push(frame.unwrap());
        }
        frames
    }

    #[test]
    fn a_reader_goes_on_at_the_same_byte() {
        let kept = KeptStreams::default();
        let stream = kept.open("s");
        stream.put((0..5).map(|n| format!("data: {n}\n\n")).collect());
        stream.end();
        runtime().block_on(async {
            let whole = all(&stream, 0).await.concat();
            for after in 0..=5 {
                let head: String = all(&stream, 0).await[..after].concat();
                assert_eq!(head + &all(&stream, after).await.concat(), whole);
            }
            assert!(all(&stream, 9).await.is_empty());
        });
        assert!(whole_id("s:3") == Some(("s", 3)) && whole_id("s").is_none());
    }

    fn whole_id(id: &str) -> Option<(&str, usize)> {
        parse(id)
    }

    #[test]
    fn of_a_long_reply_the_last_part_is_kept() {
        let kept = KeptStreams::default();
        let stream = kept.open("s");
        let long = "x".repeat(BYTES_MAX / 16);
        runtime().block_on(async {
            let mut reader = Reader::new(Arc::clone(&stream), 0).unwrap();
            let mut slow = Reader::new(Arc::clone(&stream), 0).unwrap();
            // What nobody read stays, however much it is.
            stream.put(vec![long.clone(); 40]);
            assert_eq!(stream.lock().frames.len(), 40);
            for _ in 0..40 {
                reader.next().await.unwrap().unwrap();
                let state = stream.lock();
                assert!(state.bytes < BYTES_MAX || state.gone == reader.at);
            }
            assert_eq!(slow.next().await, Some(Err(GaveWay)));
            assert!(Reader::new(Arc::clone(&stream), 0).is_none());
            stream.end();
            let gone = stream.lock().gone;
            assert!(stream.lock().bytes < BYTES_MAX && gone > 20);
            let rest = all(&stream, gone).await;
            assert!(rest.len() == 40 - gone && rest[0].starts_with(&format!("id: s:{}\n", gone + 1)));
        });
    }

    #[test]
    fn a_reply_is_kept_as_long_as_it_is_under_way_and_a_while_after() {
        let kept = KeptStreams::default();
        let stream = kept.open("s");
        let long_ago = Instant::now().checked_sub(KEPT_FOR);
        assert!(kept.find("s").is_some());
        stream.lock().over = long_ago;
        assert!(long_ago.is_none() || kept.find("s").is_none());
        stream.end();
        assert!(kept.find("s").is_some());
    }

    #[test]
    fn old_replies_give_way() {
        let kept = KeptStreams::default();
        for n in 0..=REPLIES_MAX {
            kept.open(&n.to_string());
        }
        assert!(kept.find("0").is_none() && kept.find("1").is_some());
    }
}
