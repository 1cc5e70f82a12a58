//! One model for many askers: a thread of its own runs the [`Batch`], and each answer is read at its reader's pace.
//!
//! Called by the door. Whoever drops a [`Reply`] ends its answer within one step of the batch, and a reader that is too
//! slow has its sequence set aside until it has caught up: neither changes a token of anybody. What is answered elsewhere is
//! made by [`Errands`], and read in the same way. Knows no HTTP and no JSON.

mod errands;
mod outbox;
#[cfg(test)]
mod tests;
mod tier;
mod wait;

pub use errands::{Errand, ErrandLimits, Errands, Speaker};
pub use outbox::{Closing, Heard, Reply, Said};

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use heph_engine::batch::{Asker, Batch, BatchError, BatchLimits, Event, Finish, Request, SequenceId};
use heph_engine::cache::KvCache;
use heph_engine::constrain::Constraint;
use heph_engine::prefix::{Reach, Share};
use heph_engine::sample::SamplingOptions;
use heph_engine::text::TextStream;
use heph_engine::worker::Worker;
use heph_kernels::kv::PAGE;
use heph_types::{ModelHash, TokenId};

use crate::blocks::BlockStore;
use crate::receipt::Receipt;
use crate::seal;
use crate::words::Words;
use outbox::{Maker, Outbox, Taken};
use tier::{FETCH_MAX, Tier};
use wait::Usual;

/// A held answer whose reader takes nothing for so long is given up.
const HELD_MAX: Duration = Duration::from_secs(120);

/// How long the thread sleeps at most while only held answers are left.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// What is to be answered.
#[derive(Debug)]
pub struct Job {
    /// The prompt; at least one token.
    pub prompt: Vec<TokenId>,
    /// How tokens are chosen.
    pub sampling: SamplingOptions,
    /// Tokens to make at most.
    pub max_tokens: usize,
    /// Texts that end the answer and are not part of it.
    pub stops: Vec<String>,
    /// What the answer must look like.
    pub constraint: Option<Constraint>,
    /// How many of the likeliest tokens are told with each token; `None` tells no probability.
    pub logprobs: Option<usize>,
    /// When the answer ends with what there is.
    pub deadline: Option<Instant>,
    /// Whose caches it may use, and how far its own may be kept.
    pub share: Share,
    /// Whose turn it takes where others wait, too.
    pub asker: Asker,
}

/// Why an answer ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// The model ended it, or its shape is complete.
    Stop,
    /// This stop text came.
    StopText(String),
    /// It has as many tokens as asked for.
    Length,
    /// The context is full.
    Context,
    /// The time was up.
    Deadline,
}

/// An answer, in numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Why it ended.
    pub ending: Ending,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Of these, how many did not have to be computed.
    pub cached_tokens: usize,
    /// Tokens of the answer.
    pub answer_tokens: usize,
    /// From the submission to the first token.
    pub first_token: Duration,
    /// From the submission to the end.
    pub total: Duration,
    /// What became of it, where the batch did not make it.
    pub elsewhere: Option<Box<Receipt>>,
}

/// What becomes of a request whose answer failed elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It was refused, and would be again.
    Refused,
    /// Nobody can answer it now.
    Unavailable,
    /// It came too often; it may come again after this.
    Limited(Option<Duration>),
    /// The time was up before there was anything to give.
    Late,
    /// The other side broke off, or said what has no meaning.
    Broken,
}

/// Why there is no answer, or no more of it.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// As many answers as can be are under way or waiting.
    #[error("{open} requests are under way or waiting already; there will be room in about {} s", .again.as_secs_f64().ceil().max(1.0))]
    Busy {
        /// How many.
        open: usize,
        /// When there will be room, by how long answers took lately.
        again: Duration,
    },
    /// The batch refused or failed.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// Nobody took the answer for too long.
    #[error("nobody read the answer for {} s", HELD_MAX.as_secs())]
    Unread,
    /// The thread is gone.
    #[error("the engine has stopped")]
    Stopped,
    /// An answer that was made elsewhere failed.
    #[error("{sentence}")]
    Elsewhere {
        /// Why, in one sentence.
        sentence: String,
        /// What that means for the request.
        fate: Fate,
    },
}

impl ServiceError {
    /// What kind of failure it is, in words that hold nothing of the request: for logs.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Busy { .. } => "busy",
            Self::Batch(_) => "batch",
            Self::Unread => "unread",
            Self::Stopped => "stopped",
            Self::Elsewhere { fate, .. } => match fate {
                Fate::Refused => "elsewhere: refused",
                Fate::Limited(_) => "elsewhere: too often",
                Fate::Unavailable => "elsewhere: unavailable",
                Fate::Late => "elsewhere: late",
                Fate::Broken => "elsewhere: broken",
            },
        }
    }
}

/// How much is going on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Answers under way, waiting or held.
    pub open: usize,
    /// Of these, waiting for a place.
    pub waiting: usize,
    /// Tokens made since the start.
    pub tokens: usize,
    /// What is kept in memory of earlier prompts: blocks, their bytes, and blocks that gave way since the start.
    pub kept: (usize, u64, u64),
    /// Bytes of all keys and values: of these, and of answers under way, waiting or held.
    pub caches: u64,
}

/// The shared engine. Cloning shares it; the thread ends with the last clone.
#[derive(Debug, Clone)]
pub struct Service(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    orders: mpsc::Sender<Order>,
    counts: Arc<Counts>,
    places: usize,
    limit: usize,
    words: Arc<Words>,
    context: usize,
}

#[derive(Debug, Default)]
struct Counts {
    open: AtomicUsize,
    waiting: AtomicUsize,
    tokens: AtomicUsize,
    kept_blocks: AtomicUsize,
    kept_bytes: AtomicU64,
    kept_given_up: AtomicU64,
    caches: AtomicU64,
    usual: Usual,
    closing: Closing,
}

/// What the thread is told. A handful for each open answer at most, so the channel needs no bound of its own.
#[derive(Debug)]
enum Order {
    Submit(Box<Job>, Arc<Outbox>, Instant),
    /// What memory and disk have of this answer's prompt.
    Fetched(u64, Box<KvCache>),
    /// Somebody took from this answer's outbox, or let go of it.
    Look(u64),
}

impl Service {
    /// Starts the thread for the model that `worker` runs and that machines call `hash`. Caches of prompts are also kept in
    /// `blocks`, where there are any; `closing` ends its answers.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(
        worker: Worker,
        hash: ModelHash,
        words: Arc<Words>,
        limits: BatchLimits,
        blocks: Option<Arc<BlockStore>>,
        closing: &Closing,
    ) -> std::io::Result<Self> {
        let (orders, inbox) = mpsc::channel();
        let counts = Arc::new(Counts {
            closing: closing.clone(),
            ..Counts::default()
        });
        // All of them wait for a moment when they come at once.
        let queue = BatchLimits {
            waiting: limits.running + limits.waiting,
            ..limits
        };
        let context = worker.model().context();
        let shared = Shared {
            orders,
            counts: Arc::clone(&counts),
            places: limits.running,
            limit: limits.running + limits.waiting,
            words: Arc::clone(&words),
            context,
        };
        let desk = Desk {
            batch: Batch::new(worker, hash, queue),
            tier: blocks.map(Tier::start).transpose()?,
            fetching: HashMap::new(),
            words,
            inbox,
            counts,
            answers: HashMap::new(),
            ids: HashMap::new(),
            held: 0,
        };
        thread::Builder::new()
            .name("heph-service".to_owned())
            .spawn(move || {
                seal::thread();
                desk.run();
            })?;
        Ok(Self(Arc::new(shared)))
    }

    /// How the model reads and writes.
    pub fn words(&self) -> &Arc<Words> {
        &self.0.words
    }

    /// Positions of the context.
    pub fn context(&self) -> usize {
        self.0.context
    }

    /// Answers that may be running and waiting together: no request can ask for more.
    pub fn answers_max(&self) -> usize {
        self.0.limit
    }

    /// How much is going on.
    pub fn load(&self) -> Load {
        let counts = &self.0.counts;
        Load {
            open: counts.open.load(Ordering::Relaxed),
            waiting: counts.waiting.load(Ordering::Relaxed),
            tokens: counts.tokens.load(Ordering::Relaxed),
            kept: (
                counts.kept_blocks.load(Ordering::Relaxed),
                counts.kept_bytes.load(Ordering::Relaxed),
                counts.kept_given_up.load(Ordering::Relaxed),
            ),
            caches: counts.caches.load(Ordering::Relaxed),
        }
    }

    /// How long an answer that is asked for now waits for its place: nothing while there is one, and before any answer ended.
    pub fn wait(&self) -> Duration {
        let Shared { counts, places, .. } = &*self.0;
        let ahead = (counts.open.load(Ordering::Relaxed) + 1).saturating_sub(*places);
        counts.usual.until(ahead, *places)
    }

    /// Takes several jobs in, all of them or none: the answers of one request.
    ///
    /// # Errors
    /// [`ServiceError::Busy`] where they would be more than running and waiting answers may be together.
    pub fn submit(&self, jobs: Vec<Job>) -> Result<Vec<Reply>, ServiceError> {
        let shared = &self.0;
        let open = shared.counts.open.fetch_add(jobs.len(), Ordering::AcqRel);
        if open + jobs.len() > shared.limit {
            shared.counts.open.fetch_sub(jobs.len(), Ordering::AcqRel);
            let again = shared
                .counts
                .usual
                .until(open + jobs.len() - shared.limit, shared.places);
            return Err(ServiceError::Busy { open, again });
        }
        let now = Instant::now();
        jobs.into_iter()
            .map(|job| {
                let outbox = Outbox::new(Maker::Batch(shared.orders.clone()), Arc::clone(&shared.counts));
                let order = Order::Submit(Box::new(job), Arc::clone(&outbox), now);
                shared.orders.send(order).map_err(|_| ServiceError::Stopped)?;
                Ok(Reply::new(outbox))
            })
            .collect()
    }
}

/// One answer, as the thread knows it.
struct Answer {
    outbox: Arc<Outbox>,
    stream: TextStream,
    stops: Vec<String>,
    logprobs: bool,
    prompt_tokens: usize,
    cached_tokens: usize,
    answer_tokens: usize,
    submitted: Instant,
    /// Since when it has a place, where it kept it.
    admitted: Option<Instant>,
    first: Option<Instant>,
    deadline: Option<Instant>,
    held: Option<Instant>,
}

/// The thread's own things.
struct Desk {
    batch: Batch,
    tier: Option<Tier>,
    /// Those whose caches are being read, and since when.
    fetching: HashMap<u64, (Job, Arc<Outbox>, Instant, Instant)>,
    words: Arc<Words>,
    inbox: mpsc::Receiver<Order>,
    counts: Arc<Counts>,
    answers: HashMap<SequenceId, Answer>,
    ids: HashMap<u64, SequenceId>,
    held: usize,
}

impl Desk {
    fn run(mut self) {
        while self.take_orders() {
            for event in self.batch.step() {
                self.tell(event);
            }
            self.end_late_ones();
            self.count();
        }
    }

    fn count(&self) {
        let (counts, kept) = (&self.counts, self.batch.prefixes());
        let waiting = self.batch.load().1 + self.fetching.len();
        counts.waiting.store(waiting, Ordering::Relaxed);
        counts.kept_blocks.store(kept.len(), Ordering::Relaxed);
        counts.kept_bytes.store(kept.bytes(), Ordering::Relaxed);
        counts.kept_given_up.store(kept.given_up(), Ordering::Relaxed);
        let caches = self.batch.worker().model().kv_budget().used();
        counts.caches.store(caches, Ordering::Relaxed);
    }

    /// Hears what there is to hear; waits where nothing can be computed. False when nobody can ask any more.
    fn take_orders(&mut self) -> bool {
        loop {
            let order = match (self.batch.is_idle(), self.held + self.fetching.len()) {
                (false, _) => match self.inbox.try_recv() {
                    Err(mpsc::TryRecvError::Empty) => return true,
                    order => order.ok(),
                },
                (true, 0) => {
                    // Those who left meanwhile wait no more.
                    self.count();
                    self.inbox.recv().ok()
                }
                (true, _) => match self.inbox.recv_timeout(LOOK_AGAIN) {
                    Err(mpsc::RecvTimeoutError::Timeout) => return true,
                    order => order.ok(),
                },
            };
            match order {
                Some(Order::Submit(job, outbox, submitted)) => self.fetch(*job, outbox, submitted),
                Some(Order::Fetched(serial, cache)) => {
                    if let Some((job, outbox, submitted, _)) = self.fetching.remove(&serial) {
                        self.submit(job, outbox, submitted, Some(*cache));
                    }
                }
                Some(Order::Look(serial)) => self.look(serial),
                None => return false,
            }
        }
    }

    /// Has what the disk holds of a prompt read first, where that is more than memory holds; else the job goes on at once.
    fn fetch(&mut self, job: Job, outbox: Arc<Outbox>, submitted: Instant) {
        let Some(tier) = self.tier.as_ref().filter(|_| job.share.reach == Reach::Disk) else {
            return self.submit(job, outbox, submitted, None);
        };
        // The last token must go through the model again.
        let useful = &job.prompt[..job.prompt.len().saturating_sub(1)];
        let root = self.batch.root(&job.share);
        let held = self.batch.prefixes().blocks_held(root, useful);
        let on_disk = root.chain(useful).skip(held).take_while(|key| tier.holds(key));
        let keys: Vec<_> = on_disk.collect();
        if keys.is_empty() {
            return self.submit(job, outbox, submitted, None);
        }
        let cache = self.batch.beginning(&job.share, &useful[..held * PAGE]);
        if !tier.fetch(&outbox, cache, keys) {
            return self.submit(job, outbox, submitted, None);
        }
        let serial = outbox.serial();
        self.fetching
            .insert(serial, (job, outbox, submitted, Instant::now()));
    }

    fn submit(&mut self, job: Job, outbox: Arc<Outbox>, submitted: Instant, cache: Option<KvCache>) {
        if outbox.is_abandoned() {
            return;
        }
        let prompt_tokens = job.prompt.len();
        let request = Request {
            prompt: job.prompt,
            sampling: job.sampling,
            max_tokens: job.max_tokens,
            stop_tokens: self.words.tokenizer.eog_ids().to_vec(),
            constraint: job.constraint,
            logprobs: job.logprobs,
            share: job.share,
            asker: job.asker,
            cache,
        };
        match self.batch.submit(request) {
            Err(error) => outbox.end(Err(error.into())),
            Ok(id) => {
                self.ids.insert(outbox.serial(), id);
                let answer = Answer {
                    stream: TextStream::new(job.stops.clone()),
                    stops: job.stops.into_iter().filter(|stop| !stop.is_empty()).collect(),
                    logprobs: job.logprobs.is_some(),
                    prompt_tokens,
                    cached_tokens: 0,
                    answer_tokens: 0,
                    submitted,
                    admitted: None,
                    first: None,
                    deadline: job.deadline,
                    held: None,
                    outbox,
                };
                self.answers.insert(id, answer);
            }
        }
    }

    /// A reader took something or went away.
    fn look(&mut self, serial: u64) {
        let Some(&id) = self.ids.get(&serial) else { return };
        let Some(answer) = self.answers.get_mut(&id) else {
            return;
        };
        if answer.outbox.is_abandoned() {
            self.forget(id);
        } else if answer.held.take().is_some() {
            self.held -= 1;
            self.batch.release(id);
        }
    }

    fn tell(&mut self, event: Event) {
        match event {
            Event::Admitted { id, cached } => {
                if let Some(answer) = self.answers.get_mut(&id) {
                    answer.cached_tokens = cached;
                    answer.admitted = Some(Instant::now());
                }
            }
            Event::Kept(blocks) => {
                if let Some(tier) = &self.tier {
                    tier.keep(blocks);
                }
            }
            Event::Token { id, token, report } => {
                self.counts.tokens.fetch_add(1, Ordering::Relaxed);
                let Some(answer) = self.answers.get_mut(&id) else {
                    return;
                };
                answer.first.get_or_insert_with(Instant::now);
                answer.answer_tokens += 1;
                let text = answer.stream.push(self.words.tokenizer.token_bytes(token));
                let said = answer.logprobs.then_some(Said { token, report });
                let stopped = answer.stream.stopped_by();
                match (answer.outbox.put(text, said), stopped) {
                    (Taken::Abandoned, _) => {
                        self.forget(id);
                    }
                    (_, Some(which)) => {
                        let stop = answer.stops.get(which).cloned().unwrap_or_default();
                        self.end(id, Ending::StopText(stop));
                    }
                    (Taken::Full, None) => {
                        answer.held = Some(Instant::now());
                        // Its place is another's meanwhile: how long it takes says nothing of how long places are taken.
                        answer.admitted = None;
                        self.held += 1;
                        self.batch.hold(id);
                    }
                    (Taken::Well, None) => {}
                }
            }
            Event::Finished { id, why } => self.end(
                id,
                match why {
                    Finish::Stop => Ending::Stop,
                    Finish::Length => Ending::Length,
                    Finish::Context => Ending::Context,
                },
            ),
            Event::Failed { id, error } => {
                if let Some(answer) = self.forget(id) {
                    answer.outbox.end(Err(error.into()));
                }
            }
        }
    }

    /// Ends answers whose time is up, and those that nobody reads.
    fn end_late_ones(&mut self) {
        let now = Instant::now();
        let slow = |since: Instant| now - since > FETCH_MAX + LOOK_AGAIN;
        let slow = self.fetching.extract_if(|_, (.., since)| slow(*since));
        for (_, (job, outbox, submitted, _)) in slow.collect::<Vec<_>>() {
            self.submit(job, outbox, submitted, None);
        }
        let timed = |answer: &Answer| answer.deadline.is_some_and(|deadline| now >= deadline);
        let unread = |answer: &Answer| answer.held.is_some_and(|held| now - held > HELD_MAX);
        let late: Vec<_> = self
            .answers
            .iter()
            .filter(|(_, answer)| timed(answer) || unread(answer))
            .map(|(id, answer)| (*id, unread(answer)))
            .collect();
        for (id, unread) in late {
            if !unread {
                self.end(id, Ending::Deadline);
            } else if let Some(answer) = self.forget(id) {
                answer.outbox.end(Err(ServiceError::Unread));
            }
        }
    }

    /// Hands out the rest of an answer and lets go of it.
    fn end(&mut self, id: SequenceId, ending: Ending) {
        let Some(mut answer) = self.forget(id) else { return };
        let rest = answer.stream.finish();
        answer.outbox.put(rest, None);
        let now = Instant::now();
        // What was held back until the end may have completed a stop text.
        let ending = match answer
            .stream
            .stopped_by()
            .and_then(|which| answer.stops.get(which))
        {
            Some(stop) => Ending::StopText(stop.clone()),
            None => ending,
        };
        answer.outbox.end(Ok(Outcome {
            ending,
            prompt_tokens: answer.prompt_tokens,
            cached_tokens: answer.cached_tokens,
            answer_tokens: answer.answer_tokens,
            first_token: answer.first.unwrap_or(now) - answer.submitted,
            total: now - answer.submitted,
            elsewhere: None,
        }));
    }

    fn forget(&mut self, id: SequenceId) -> Option<Answer> {
        self.batch.cancel(id);
        let answer = self.answers.remove(&id)?;
        self.ids.remove(&answer.outbox.serial());
        // A prompt that was only read, or left before its answer, had its place for less than an answer has.
        if let Some(admitted) = answer.admitted.filter(|_| answer.answer_tokens > 1) {
            self.counts.usual.learn(admitted.elapsed());
        }
        if answer.held.is_some() {
            self.held -= 1;
        }
        Some(answer)
    }
}

/// Whatever ends the thread, nobody waits for it in vain.
impl Drop for Desk {
    fn drop(&mut self) {
        for (_, answer) in self.answers.drain() {
            answer.outbox.end(Err(ServiceError::Stopped));
        }
        for (_, (_, outbox, ..)) in self.fetching.drain() {
            outbox.end(Err(ServiceError::Stopped));
        }
        while let Ok(order) = self.inbox.try_recv() {
            if let Order::Submit(_, outbox, _) = order {
                outbox.end(Err(ServiceError::Stopped));
            }
        }
    }
}
