//! Answers that are made beside the batch: by a desk over other machines, or by an outside provider.
//!
//! Each has a thread while it is made, so that waiting for somebody far away holds nobody back. So many are made at once;
//! some more wait, and one more is refused. Whoever reads such an answer cannot tell it from one of the batch.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use super::outbox::{Maker, Outbox, Reply};
use super::{Counts, HELD_MAX, Load, Outcome, ServiceError};
use crate::cancel::Cancel;

/// How many answers are made beside the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErrandLimits {
    /// At once, each with a thread.
    pub running: usize,
    /// Waiting for one of these to end.
    pub waiting: usize,
}

impl Default for ErrandLimits {
    /// As many sessions as a node opens for one desk ([`crate::serve::ServeRules`]), and four times as many behind them.
    fn default() -> Self {
        Self {
            running: 16,
            waiting: 64,
        }
    }
}

/// Makes one answer, and says it as it comes.
pub type Errand = Box<dyn FnOnce(&Speaker) -> Result<Outcome, ServiceError> + Send>;

/// The threads that make answers elsewhere. Cloning shares them.
#[derive(Debug, Clone)]
pub struct Errands(Arc<Office>);

#[derive(Debug)]
struct Office {
    limits: ErrandLimits,
    counts: Arc<Counts>,
    desk: Mutex<Desk>,
}

#[derive(Default)]
struct Desk {
    waiting: VecDeque<(Errand, Speaker)>,
    threads: usize,
}

impl std::fmt::Debug for Desk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} waiting, {} threads", self.waiting.len(), self.threads)
    }
}

impl Errands {
    /// Nothing is under way yet, and no thread is started.
    pub fn new(limits: ErrandLimits) -> Self {
        Self(Arc::new(Office {
            limits,
            counts: Arc::default(),
            desk: Mutex::default(),
        }))
    }

    /// How much is going on.
    pub fn load(&self) -> Load {
        let desk = self.0.lock();
        let (waiting, under_way) = (desk.waiting.len(), desk.waiting.len() + desk.threads);
        Load {
            // Work whose reader left is under way until its thread has seen that.
            open: self.0.counts.open.load(Ordering::Relaxed).max(under_way),
            waiting,
            tokens: self.0.counts.tokens.load(Ordering::Relaxed),
            kept: (0, 0, 0),
        }
    }

    /// Takes several in, all of them or none: the answers of one request.
    ///
    /// # Errors
    /// [`ServiceError::Busy`] where they would be more than may be together.
    pub fn submit(&self, errands: Vec<Errand>) -> Result<Vec<Reply>, ServiceError> {
        let office = &self.0;
        let limit = office.limits.running + office.limits.waiting;
        let mut desk = office.lock();
        // Those whose readers left take no place.
        desk.waiting.retain(|(_, speaker)| !speaker.outbox.is_abandoned());
        let open = office.counts.open.load(Ordering::Acquire).max(desk.waiting.len());
        if open + errands.len() > limit {
            return Err(ServiceError::Busy(open));
        }
        office.counts.open.fetch_add(errands.len(), Ordering::AcqRel);
        let mut replies = Vec::with_capacity(errands.len());
        for errand in errands {
            let cancel = Cancel::new();
            let maker = Maker::Errand(cancel.clone());
            let outbox = Outbox::new(maker, Arc::clone(&office.counts));
            let speaker = Speaker {
                outbox: Arc::clone(&outbox),
                cancel,
                began: Instant::now(),
            };
            desk.waiting.push_back((errand, speaker));
            replies.push(Reply::new(outbox));
            if desk.threads < office.limits.running {
                let office = Arc::clone(office);
                let named = thread::Builder::new().name("heph-errand".to_owned());
                match named.spawn(move || office.run()) {
                    Ok(_) => desk.threads += 1,
                    Err(_) if desk.threads > 0 => {}
                    Err(_) => return Err(ServiceError::Stopped),
                }
            }
        }
        Ok(replies)
    }
}

impl Office {
    /// Makes one answer after the other, until none waits.
    fn run(&self) {
        loop {
            let next = {
                let mut desk = self.lock();
                let next = desk.waiting.pop_front();
                if next.is_none() {
                    desk.threads -= 1;
                }
                next
            };
            let Some((errand, speaker)) = next else { return };
            if speaker.outbox.is_abandoned() {
                continue;
            }
            // Whatever breaks in one answer, the others go on.
            let made = catch_unwind(AssertUnwindSafe(|| errand(&speaker)));
            let outcome = made.unwrap_or(Err(ServiceError::Stopped));
            if let Ok(outcome) = &outcome {
                let tokens = outcome.answer_tokens;
                self.counts.tokens.fetch_add(tokens, Ordering::Relaxed);
            }
            speaker.outbox.end(outcome);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says one answer to its reader.
#[derive(Debug)]
pub struct Speaker {
    outbox: Arc<Outbox>,
    cancel: Cancel,
    began: Instant,
}

impl Speaker {
    /// Raised when nobody reads the answer any more.
    pub fn cancel(&self) -> &Cancel {
        &self.cancel
    }

    /// When the answer was asked for.
    pub fn began(&self) -> Instant {
        self.began
    }

    /// More text. Waits while the reader is too slow; raises the wish to stop where it takes nothing for too long.
    pub fn say(&self, text: &str) {
        self.outbox.put(text.to_owned(), None);
        self.wait();
    }

    /// A tool is called.
    pub fn call(&self, id: &str, name: &str) {
        self.outbox.put_call(id.to_owned(), name.to_owned());
        self.wait();
    }

    /// More of the arguments of the last call.
    pub fn arguments(&self, text: &str) {
        self.outbox.put_arguments(text);
        self.wait();
    }

    fn wait(&self) {
        if !self.outbox.wait_for_room(HELD_MAX) {
            self.cancel.raise();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::time::Duration;

    use super::super::{Ending, Heard};
    use super::*;

    /// Longer than anything here takes on a busy machine.
    const PATIENCE: Duration = Duration::from_secs(60);

    fn outcome(tokens: usize) -> Outcome {
        Outcome {
            ending: Ending::Stop,
            prompt_tokens: 1,
            cached_tokens: 0,
            answer_tokens: tokens,
            first_token: Duration::ZERO,
            total: Duration::ZERO,
            elsewhere: None,
        }
    }

    fn saying(texts: &'static [&'static str]) -> Errand {
        Box::new(move |speaker| {
            texts.iter().for_each(|text| speaker.say(text));
            Ok(outcome(texts.len()))
        })
    }

    async fn read(mut reply: Reply) -> (String, Result<Outcome, ServiceError>) {
        let mut whole = String::new();
        loop {
            match reply.next().await {
                Heard::More { text, .. } => whole.push_str(&text),
                Heard::Call { name, .. } => whole.push_str(&format!("[{name}]")),
                Heard::Arguments(text) => whole.push_str(&text),
                Heard::End(end) => return (whole, end),
            }
        }
    }

    fn wait<T>(work: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime
            .block_on(async { tokio::time::timeout(PATIENCE, work).await })
            .expect("in time")
    }

    fn until(is: impl Fn() -> bool) {
        let began = Instant::now();
        while !is() {
            assert!(began.elapsed() < PATIENCE, "it never came");
            thread::sleep(Duration::from_millis(2));
        }
    }

    #[test]
    fn an_answer_comes_in_order_and_one_that_breaks_breaks_alone() {
        let errands = Errands::new(ErrandLimits::default());
        let calls: Errand = Box::new(|speaker| {
            speaker.say("so ");
            speaker.call("1", "look");
            speaker.arguments("{}");
            speaker.say(" then");
            Ok(outcome(2))
        });
        let breaks: Errand = Box::new(|_| panic!("planted"));
        let replies = errands.submit(vec![saying(&["a", "b"]), breaks, calls]).unwrap();
        let mut read = replies.into_iter().map(|reply| wait(read(reply)));
        let (text, end) = read.next().unwrap();
        assert_eq!((text.as_str(), end.unwrap().answer_tokens), ("ab", 2));
        assert!(matches!(read.next().unwrap().1, Err(ServiceError::Stopped)));
        assert_eq!(read.next().unwrap().0, "so [look]{} then");
        until(|| errands.load().open == 0);
    }

    #[test]
    fn one_more_than_may_be_together_is_refused_and_those_who_left_take_no_place() {
        let errands = Errands::new(ErrandLimits {
            running: 1,
            waiting: 1,
        });
        let (begun, stopped) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let endless = || -> Errand {
            let (begun, stopped) = (Arc::clone(&begun), Arc::clone(&stopped));
            Box::new(move |speaker| {
                begun.fetch_add(1, Ordering::SeqCst);
                while !speaker.cancel().is_raised() {
                    thread::sleep(Duration::from_millis(1));
                }
                stopped.fetch_add(1, Ordering::SeqCst);
                Ok(outcome(0))
            })
        };
        let first = errands.submit(vec![endless()]).unwrap();
        until(|| begun.load(Ordering::SeqCst) == 1);
        let second = errands.submit(vec![endless()]).unwrap();
        let refused = errands.submit(vec![endless()]);
        assert!(matches!(refused, Err(ServiceError::Busy(2))));
        // Whoever hangs up ends the work, and the one that waits comes up.
        drop(first);
        until(|| begun.load(Ordering::SeqCst) == 2);
        drop(second);
        until(|| stopped.load(Ordering::SeqCst) == 2);
        let third = errands.submit(vec![saying(&["x"])]).unwrap().remove(0);
        assert_eq!(wait(read(third)).0, "x");
    }

    #[test]
    fn a_reader_who_takes_nothing_holds_the_speaker_back_until_it_does() {
        let errands = Errands::new(ErrandLimits::default());
        let said = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&said);
        let long: Errand = Box::new(move |speaker| {
            for _ in 0..64 {
                speaker.say(&"x".repeat(4096));
                count.fetch_add(1, Ordering::SeqCst);
            }
            Ok(outcome(64))
        });
        let reply = errands.submit(vec![long]).unwrap().remove(0);
        until(|| said.load(Ordering::SeqCst) >= 4);
        thread::sleep(Duration::from_millis(50));
        assert!(said.load(Ordering::SeqCst) < 16, "it waits for its reader");
        assert_eq!(wait(read(reply)).0.len(), 64 * 4096);
    }
}
