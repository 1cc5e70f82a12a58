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

use heph_engine::batch::Asker;
use heph_privacy::pseudonym::{Pseudonyms, Restorer};

use super::outbox::{Closing, Maker, Outbox, Reply};
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
    waiting: VecDeque<Waiting>,
    threads: usize,
    /// The latest turn that was begun.
    turn: u64,
}

/// An errand that nobody makes yet.
struct Waiting {
    errand: Errand,
    speaker: Speaker,
    asker: Asker,
    turn: u64,
}

impl Desk {
    /// Where a turn of this asker begins: now, or behind what it asked before and what waits, too.
    fn turn_of(&self, asker: Asker) -> u64 {
        let own = self.waiting.iter().filter(|waiting| waiting.asker == asker);
        let behind = own.map(|waiting| waiting.turn + 1).max();
        behind.unwrap_or_default().max(self.turn)
    }

    /// Takes out whoever's turn it is, and at the same turn who came first.
    fn pop(&mut self) -> Option<Waiting> {
        let waiting = self.waiting.iter().enumerate();
        let (at, _) = waiting.min_by_key(|(_, waiting)| waiting.turn)?;
        let next = self.waiting.remove(at)?;
        self.turn = self.turn.max(next.turn);
        Some(next)
    }
}

impl std::fmt::Debug for Desk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} waiting, {} threads", self.waiting.len(), self.threads)
    }
}

impl Errands {
    /// Nothing is under way yet, and no thread is started.
    pub fn new(limits: ErrandLimits) -> Self {
        Self::closed_by(limits, &Closing::default())
    }

    /// The same, whose answers `closing` ends.
    pub fn closed_by(limits: ErrandLimits, closing: &Closing) -> Self {
        let counts = Counts {
            closing: closing.clone(),
            ..Counts::default()
        };
        Self(Arc::new(Office {
            limits,
            counts: Arc::new(counts),
            desk: Mutex::default(),
        }))
    }

    /// Answers that may be running and waiting together: no request can ask for more.
    pub fn answers_max(&self) -> usize {
        self.0.limits.running + self.0.limits.waiting
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
            caches: 0,
        }
    }

    /// Takes several of one asker in, all of them or none: the answers of one request.
    ///
    /// # Errors
    /// [`ServiceError::Busy`] where they would be more than may be together.
    pub fn submit(&self, asker: Asker, errands: Vec<Errand>) -> Result<Vec<Reply>, ServiceError> {
        let (office, limit) = (&self.0, self.answers_max());
        let mut desk = office.lock();
        // Those whose readers left take no place.
        desk.waiting
            .retain(|waiting| !waiting.speaker.outbox.is_abandoned());
        let open = office.counts.open.load(Ordering::Acquire).max(desk.waiting.len());
        if open + errands.len() > limit {
            let (ended, places) = (open + errands.len() - limit, office.limits.running);
            let again = office.counts.usual.until(ended, places);
            return Err(ServiceError::Busy { open, again });
        }
        office.counts.open.fetch_add(errands.len(), Ordering::AcqRel);
        let mut replies = Vec::with_capacity(errands.len());
        for errand in errands {
            let maker = Maker::Errand(Mutex::new(Cancel::new()));
            let outbox = Outbox::new(maker, Arc::clone(&office.counts));
            let speaker = Speaker {
                outbox: Arc::clone(&outbox),
                began: Instant::now(),
                restoring: Mutex::default(),
            };
            let turn = desk.turn_of(asker);
            desk.waiting.push_back(Waiting {
                errand,
                speaker,
                asker,
                turn,
            });
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
                let next = desk.pop();
                if next.is_none() {
                    desk.threads -= 1;
                }
                next
            };
            let Some(Waiting { errand, speaker, .. }) = next else {
                return;
            };
            if speaker.outbox.is_abandoned() {
                continue;
            }
            // Whatever breaks in one answer, the others go on.
            let began = Instant::now();
            let made = catch_unwind(AssertUnwindSafe(|| errand(&speaker)));
            self.counts.usual.learn(began.elapsed());
            speaker.settle();
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
    began: Instant,
    /// What turns pseudonyms back, where the question was asked with some.
    restoring: Mutex<Option<Restoring>>,
}

/// Turns pseudonyms back in a text, in what is thought before it and in the arguments of calls, each for itself: a pseudonym does not
/// begin in the one and end in the other.
#[derive(Debug)]
struct Restoring {
    text: Restorer<Arc<Pseudonyms>>,
    thoughts: Restorer<Arc<Pseudonyms>>,
    arguments: Restorer<Arc<Pseudonyms>>,
}

impl Speaker {
    /// The question was asked with these pseudonyms: what is said from now on is turned back on its way to the reader.
    pub fn restore(&self, pseudonyms: &Arc<Pseudonyms>) {
        *self.restoring() = Some(Restoring {
            text: Restorer::new(Arc::clone(pseudonyms)),
            thoughts: Restorer::new(Arc::clone(pseudonyms)),
            arguments: Restorer::new(Arc::clone(pseudonyms)),
        });
    }

    fn restoring(&self) -> MutexGuard<'_, Option<Restoring>> {
        self.restoring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says what was held because it might have been the beginning of a pseudonym.
    fn settle(&self) {
        self.settle_thoughts();
        self.settle_text();
        self.settle_arguments();
    }

    fn settle_thoughts(&self) {
        let held = self
            .restoring()
            .as_mut()
            .map(|restoring| restoring.thoughts.finish());
        if let Some(text) = held {
            self.outbox.put_thought(&text);
        }
    }

    fn settle_text(&self) {
        let held = self.restoring().as_mut().map(|restoring| restoring.text.finish());
        if let Some(text) = held.filter(|text| !text.is_empty()) {
            self.outbox.put(text, None);
        }
    }

    fn settle_arguments(&self) {
        let held = self
            .restoring()
            .as_mut()
            .map(|restoring| restoring.arguments.finish());
        if let Some(text) = held.filter(|text| !text.is_empty()) {
            self.outbox.put_arguments(&text);
        }
    }

    /// Raised when nobody reads the answer any more.
    pub fn cancel(&self) -> Cancel {
        self.outbox.cancel()
    }

    /// From now on `cancel` is raised in its place: the wish that whoever makes the answer looks at already.
    pub fn cancelled_by(&self, cancel: &Cancel) {
        self.outbox.cancelled_by(cancel);
    }

    /// When the answer was asked for.
    pub fn began(&self) -> Instant {
        self.began
    }

    /// More text. Waits while the reader is too slow; raises the wish to stop where it takes nothing for too long.
    pub fn say(&self, text: &str) {
        self.settle_thoughts();
        self.settle_arguments();
        let restored = self
            .restoring()
            .as_mut()
            .map(|restoring| restoring.text.push(text));
        let text = restored.unwrap_or_else(|| text.to_owned());
        if !text.is_empty() {
            self.outbox.put(text, None);
        }
        self.wait();
    }

    /// More of what is thought before the answer.
    pub fn think(&self, text: &str) {
        self.settle_text();
        self.settle_arguments();
        let restored = self
            .restoring()
            .as_mut()
            .map(|restoring| restoring.thoughts.push(text));
        self.outbox.put_thought(restored.as_deref().unwrap_or(text));
        self.wait();
    }

    /// A tool is called.
    pub fn call(&self, id: &str, name: &str) {
        self.settle();
        self.outbox.put_call(id.to_owned(), name.to_owned());
        self.wait();
    }

    /// More of the arguments of the last call.
    pub fn arguments(&self, text: &str) {
        let restored = self
            .restoring()
            .as_mut()
            .map(|restoring| restoring.arguments.push(text));
        self.outbox.put_arguments(restored.as_deref().unwrap_or(text));
        self.wait();
    }

    fn wait(&self) {
        if !self.outbox.wait_for_room(HELD_MAX) {
            self.cancel().raise();
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

    const ME: Asker = Asker(1);

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
                Heard::Thought(text) => whole.push_str(&format!("({text})")),
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
            speaker.think("h");
            speaker.think("m");
            speaker.say("so ");
            speaker.call("1", "look");
            speaker.arguments("{}");
            speaker.say(" then");
            Ok(outcome(2))
        });
        let breaks: Errand = Box::new(|_| panic!("planted"));
        let replies = errands
            .submit(ME, vec![saying(&["a", "b"]), breaks, calls])
            .unwrap();
        let mut read = replies.into_iter().map(|reply| wait(read(reply)));
        let (text, end) = read.next().unwrap();
        assert_eq!((text.as_str(), end.unwrap().answer_tokens), ("ab", 2));
        assert!(matches!(read.next().unwrap().1, Err(ServiceError::Stopped)));
        assert_eq!(read.next().unwrap().0, "(hm)so [look]{} then");
        until(|| errands.load().open == 0);
    }

    #[test]
    fn pseudonyms_are_turned_back_wherever_the_pieces_of_an_answer_end() {
        let text = "Write to ann.lee@example.org at once.";
        let spans = heph_privacy::pii::patterns(text);
        let mut session = Pseudonyms::new([3; 32]);
        let sent = session.replace(text, &spans).unwrap();
        assert!(!sent.contains("ann.lee"));
        let session = Arc::new(session);
        for size in 1..sent.len() {
            let (sent, session) = (&sent, &session);
            let (said, pairs) = (sent.clone(), Arc::clone(session));
            let errand: Errand = Box::new(move |speaker| {
                let sent = said;
                speaker.restore(&pairs);
                let pieces = || sent.as_bytes().chunks(size);
                pieces().for_each(|piece| speaker.think(std::str::from_utf8(piece).unwrap()));
                pieces().for_each(|piece| speaker.say(std::str::from_utf8(piece).unwrap()));
                speaker.call("1", "mail");
                pieces().for_each(|piece| speaker.arguments(std::str::from_utf8(piece).unwrap()));
                // A beginning of a pseudonym that does not go on is what it is.
                speaker.say(&sent[..sent.len() / 2]);
                Ok(outcome(1))
            });
            let half = &sent[..sent.len() / 2];
            let reply = Errands::new(ErrandLimits::default())
                .submit(ME, vec![errand])
                .unwrap()
                .pop()
                .unwrap();
            let (heard, _) = wait(read(reply));
            // A reader may come between two pieces of a thought.
            let heard = heard.replace(")(", "");
            assert_eq!(
                heard,
                format!("({text}){text}[mail]{text}{}", session.restore(half)),
                "pieces of {size}"
            );
        }
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
        let first = errands.submit(ME, vec![endless()]).unwrap();
        until(|| begun.load(Ordering::SeqCst) == 1);
        let second = errands.submit(ME, vec![endless()]).unwrap();
        let refused = errands.submit(ME, vec![endless()]);
        assert!(matches!(refused, Err(ServiceError::Busy { open: 2, .. })));
        // Whoever hangs up ends the work, and the one that waits comes up.
        drop(first);
        until(|| begun.load(Ordering::SeqCst) == 2);
        drop(second);
        until(|| stopped.load(Ordering::SeqCst) == 2);
        let third = errands.submit(ME, vec![saying(&["x"])]).unwrap().remove(0);
        assert_eq!(wait(read(third)).0, "x");
    }

    #[test]
    fn nobody_waits_behind_all_that_another_asked() {
        let errands = Errands::new(ErrandLimits {
            running: 1,
            waiting: 64,
        });
        let made: Arc<Mutex<Vec<u64>>> = Arc::default();
        let (go, wait_for_it) = std::sync::mpsc::channel::<()>();
        let first: Errand = Box::new(move |_| {
            let _ = wait_for_it.recv();
            Ok(outcome(0))
        });
        let noting = |asker: u64| -> Errand {
            let made = Arc::clone(&made);
            Box::new(move |_| {
                made.lock().unwrap().push(asker);
                Ok(outcome(0))
            })
        };
        let mut replies = errands.submit(ME, vec![first]).unwrap();
        for _ in 0..20 {
            replies.extend(errands.submit(ME, vec![noting(1)]).unwrap());
        }
        for asker in [2, 2, 3] {
            replies.extend(errands.submit(Asker(asker), vec![noting(asker)]).unwrap());
        }
        go.send(()).unwrap();
        until(|| made.lock().unwrap().len() == 23);
        let made = made.lock().unwrap();
        let mut soon = made[..5].to_vec();
        soon.sort_unstable();
        assert_eq!(soon, [1, 1, 2, 2, 3], "{made:?}");
    }

    #[test]
    fn a_wish_that_was_handed_over_is_raised_whenever_the_reader_left() {
        let errands = Errands::new(ErrandLimits::default());
        for leaves_first in [true, false] {
            let own = Cancel::new();
            let (seen, begun, hand) = (
                own.clone(),
                Arc::new(AtomicUsize::new(0)),
                Arc::new(AtomicUsize::new(0)),
            );
            let (told, waits) = (Arc::clone(&begun), Arc::clone(&hand));
            let errand: Errand = Box::new(move |speaker| {
                told.store(1, Ordering::SeqCst);
                until(|| waits.load(Ordering::SeqCst) == 1);
                speaker.cancelled_by(&seen);
                told.store(2, Ordering::SeqCst);
                until(|| seen.is_raised());
                Ok(outcome(0))
            });
            let reply = errands.submit(ME, vec![errand]).unwrap().remove(0);
            until(|| begun.load(Ordering::SeqCst) == 1);
            if leaves_first {
                drop(reply);
                hand.store(1, Ordering::SeqCst);
            } else {
                hand.store(1, Ordering::SeqCst);
                until(|| begun.load(Ordering::SeqCst) == 2);
                assert!(!own.is_raised());
                drop(reply);
            }
            until(|| own.is_raised());
        }
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
        let reply = errands.submit(ME, vec![long]).unwrap().remove(0);
        until(|| said.load(Ordering::SeqCst) >= 1);
        thread::sleep(Duration::from_millis(50));
        assert!(said.load(Ordering::SeqCst) < 16, "it waits for its reader");
        assert_eq!(wait(read(reply)).0.len(), 64 * 4096);
    }
}
