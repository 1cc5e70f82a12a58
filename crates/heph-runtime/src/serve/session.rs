//! One session at work: a thread that carries out its orders, one after another.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use heph_engine::worker::ForwardError;
use heph_net::codec;
use heph_net::drive::Commands;
use heph_net::session::{GiverCommand, GiverEnd, NodeCommand, NodeEnd};
use heph_net::wire::{FaultCode, Line, Refusal, SENTENCE_MAX, VouchedFrame};
use heph_privacy::receipt::to_state;
use heph_types::{
    CachePart, Hidden, NodeId, Order, Pass, Position, Reply, SamplingOptions, SessionId, StageSpec,
};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::Place;
use super::hop::Expected;
use crate::network::Network;
use crate::node::{Node, StageError, Work};
use crate::seal;

/// Orders that wait for the thread: the session's end hands out two at a time, with a rollback or options between them.
const JOBS_WAITING: usize = 8;

/// A session's thread, as the conversation sees it. Dropping it stops the work between two layers.
pub(super) struct Session {
    jobs: mpsc::Sender<Job>,
    stop: Arc<AtomicBool>,
    /// Whose rows it awaits.
    expected: Option<Expected>,
    /// What carries its own rows on.
    giving: Option<AbortHandle>,
}

/// What a session's thread is asked.
pub(super) enum Job {
    Order(Order),
    Choose(SamplingOptions),
    TakeCache(Position, Position),
    PutCache(CachePart),
    /// What was computed is to be signed.
    Vouch,
    /// Rows are handed on here from now on, or to nobody.
    HandTo(Option<Commands<GiverEnd>>),
}

impl Session {
    /// Starts the thread, which opens the stage and says whether it could.
    pub(super) fn open(
        line: Line,
        session: SessionId,
        spec: StageSpec,
        node: Arc<Node>,
        commands: Commands<NodeEnd>,
        place: Place,
        signer: Signer,
    ) -> Session {
        let (jobs, queue) = mpsc::channel(JOBS_WAITING);
        let stop = Arc::new(AtomicBool::new(false));
        let desk = Desk {
            line,
            commands: commands.clone(),
            place,
            session,
            signer,
        };
        let flag = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("heph-session".to_owned());
        let started = thread.spawn(move || desk.serve(&node, &spec, queue, flag));
        if started.is_err() {
            let reason = Refusal::NoMemory;
            // The queue of a conversation that has just begun is empty.
            let _ = commands.try_send(NodeCommand::Refuse { line, reason });
        }
        Session {
            jobs,
            stop,
            expected: None,
            giving: None,
        }
    }

    pub(super) fn jobs(&self) -> mpsc::Sender<Job> {
        self.jobs.clone()
    }

    /// Awaits rows of another node, in place of whom it awaited so far.
    pub(super) fn expects(&mut self, expected: Expected) {
        self.expected = Some(expected);
    }

    /// What came over the hop was not what was awaited: its stream ends.
    pub(super) fn expects_nobody(&mut self) {
        self.expected = None;
    }

    /// Rows that were handed over wait no longer.
    pub(super) fn taken(&self, bytes: u64) {
        if let Some(expected) = &self.expected {
            expected.taken(bytes);
        }
    }

    /// Hands rows on by this task, in place of the one so far.
    pub(super) fn hand_to(&mut self, giving: AbortHandle) {
        if let Some(before) = self.giving.replace(giving) {
            before.abort();
        }
    }

    pub(super) async fn order(&self, order: Order) {
        // A thread that has ended has said why.
        let _ = self.jobs.send(Job::Order(order)).await;
    }

    pub(super) async fn choose(&self, options: SamplingOptions) {
        let _ = self.jobs.send(Job::Choose(options)).await;
    }

    pub(super) async fn take_cache(&self, first: Position, to: Position) {
        let _ = self.jobs.send(Job::TakeCache(first, to)).await;
    }

    pub(super) async fn vouch(&self) {
        let _ = self.jobs.send(Job::Vouch).await;
    }

    pub(super) async fn put_cache(&self, part: CachePart) {
        let _ = self.jobs.send(Job::PutCache(part)).await;
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(giving) = &self.giving {
            giving.abort();
        }
    }
}

/// Whom the thread works for.
struct Desk {
    line: Line,
    commands: Commands<NodeEnd>,
    place: Place,
    session: SessionId,
    signer: Signer,
}

/// Who signs, and for whom.
pub(super) struct Signer {
    pub(super) network: Network,
    /// The machine that asks.
    pub(super) desk: NodeId,
}

impl Signer {
    /// What was computed of these layers for the session, signed.
    fn vouched(
        &self,
        line: Line,
        session: SessionId,
        spec: &StageSpec,
        (first, to): (usize, usize),
    ) -> VouchedFrame {
        let short = |layer: usize| u16::try_from(layer).unwrap_or(u16::MAX);
        let layers = (short(spec.layers.start()), short(spec.layers.end()));
        let position = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        let (first, to) = (position(first), position(to));
        let stated = to_state(&self.desk.0, &spec.model.0, session.0, layers, (first, to));
        VouchedFrame {
            line,
            first: Position(first),
            to: Position(to),
            signature: self.network.sign(&stated),
        }
    }
}

/// Why a session's thread ends.
enum End {
    /// Nobody waits any more.
    Gone,
    /// The work cannot be done.
    Failed(StageError),
}

impl From<StageError> for End {
    fn from(error: StageError) -> End {
        End::Failed(error)
    }
}

impl Desk {
    fn serve(self, node: &Node, spec: &StageSpec, mut jobs: mpsc::Receiver<Job>, stop: Arc<AtomicBool>) {
        // Whatever the engine does with a peer's numbers, this process goes on.
        let worked = catch_unwind(AssertUnwindSafe(|| self.work(node, spec, &mut jobs, stop)));
        let (code, sentence) = match worked {
            Ok(Ok(()) | Err(End::Gone)) => return,
            Ok(Err(End::Failed(StageError::Forward(ForwardError::Stopped)))) => return,
            Ok(Err(End::Failed(error))) => (fault(&error), error.to_string()),
            Err(_) => (FaultCode::Worker, "the computation broke off".to_owned()),
        };
        let line = self.line;
        let sentence = sentence.chars().take(SENTENCE_MAX / 4).collect();
        self.commands
            .send_blocking(NodeCommand::Fail { line, code, sentence });
    }

    fn work(
        &self,
        node: &Node,
        spec: &StageSpec,
        jobs: &mut mpsc::Receiver<Job>,
        stop: Arc<AtomicBool>,
    ) -> Result<(), End> {
        let line = self.line;
        let mut stage = match node.work_until(spec, stop) {
            Ok(stage) => stage,
            Err(error) => {
                let reason = self.place.refused(self.refusal(&error));
                return self.say(NodeCommand::Refuse { line, reason });
            }
        };
        self.place.opened();
        // An engine elsewhere is asked from this thread; the stage of this machine asks nobody.
        if matches!(stage, Work::Here(_)) {
            seal::thread();
        }
        let width = stage.width() as u32;
        self.say(NodeCommand::Grant { line, width })?;
        let mut onward = Onward::default();
        // The first position that was computed here: those before it came as a cache.
        let mut since = 0;
        let mut next = jobs.blocking_recv();
        while let Some(job) = next.take() {
            match &job {
                Job::PutCache(part) => since = part.first.index().saturating_add(part.tokens as usize),
                Job::Order(Order::Rollback(to)) => since = since.min(to.index()),
                _ => {}
            }
            if matches!(job, Job::Vouch) {
                let vouched = self
                    .signer
                    .vouched(line, self.session, spec, (since, stage.held()));
                self.say(NodeCommand::Vouched(vouched))?;
            } else {
                next = self.carry_out(&mut stage, job, jobs, &mut onward)?;
            }
            if next.is_none() {
                next = jobs.blocking_recv();
            }
        }
        Ok(())
    }

    /// Does one job; returns the next where it came in the middle of a stream.
    fn carry_out(
        &self,
        stage: &mut Work,
        job: Job,
        jobs: &mut mpsc::Receiver<Job>,
        onward: &mut Onward,
    ) -> Result<Option<Job>, End> {
        let order = match job {
            Job::HandTo(next) => {
                onward.next = next;
                return Ok(None);
            }
            Job::Choose(options) => {
                if stage.choose_anew(&options) {
                    return Ok(None);
                }
                return Err(End::Failed(StageError::Order(
                    "these options cannot be chosen by here",
                )));
            }
            Job::TakeCache(first, to) => {
                let part = stage.cache_part(first, to)?;
                self.say(NodeCommand::Cache(self.line, part))?;
                return Ok(None);
            }
            Job::PutCache(part) => {
                stage.take_in(&part)?;
                let held = Position(part.first.0.saturating_add(part.tokens));
                self.say(NodeCommand::CacheHeld(self.line, held))?;
                return Ok(None);
            }
            // Answered before anything is carried out.
            Job::Vouch => return Ok(None),
            Job::Order(order) => order,
        };
        let streams = matches!(order, Order::Generate { .. });
        let (tokens, pass) = match &order {
            Order::Forward(forward) => (forward.input.tokens(), forward.pass),
            Order::Rollback(_) | Order::Generate { .. } => (0, None),
        };
        stage.take(order)?;
        while let Some(reply) = stage.work()? {
            self.place.computed(if streams { 1 } else { tokens });
            if let (Some(pass), Reply::Rows { hidden, .. }) = (pass, &reply)
                && let Some(bytes) = onward.hand(pass, hidden)
            {
                let line = self.line;
                self.say(NodeCommand::HandedOn { line, bytes })?;
            }
            self.say(NodeCommand::Reply(self.line, reply))?;
            if !streams {
                return Ok(None);
            }
            if let Ok(next) = jobs.try_recv() {
                stage.leave_stream();
                self.say(NodeCommand::Done(self.line))?;
                return Ok(Some(next));
            }
        }
        if streams {
            self.say(NodeCommand::Done(self.line))?;
        }
        Ok(None)
    }

    fn say(&self, command: NodeCommand) -> Result<(), End> {
        match self.commands.send_blocking(command) {
            true => Ok(()),
            false => Err(End::Gone),
        }
    }
}

/// Where a session's rows go on to.
#[derive(Default)]
struct Onward {
    next: Option<Commands<GiverEnd>>,
    /// Bytes handed on so far.
    bytes: u64,
}

impl Onward {
    /// Hands rows on; returns the bytes handed on so far. `None` where nobody takes any: the desk hears of that from the
    /// hop itself, and has the rows as an answer in any case.
    fn hand(&mut self, Pass { tag, codec }: Pass, hidden: &Hidden) -> Option<u64> {
        let next = self.next.as_ref()?;
        let rows = codec::pack(hidden, codec).ok()?;
        let bytes = rows.bytes.len() as u64 + HAND_BYTES;
        next.send_blocking(GiverCommand::Hand(tag, rows)).then(|| {
            self.bytes += bytes;
            self.bytes
        })
    }
}

/// Bytes before the rows of a frame that hands them over, about: length, kind, name, codec and shape.
const HAND_BYTES: u64 = 12;

impl Desk {
    fn refusal(&self, error: &StageError) -> Refusal {
        match error {
            StageError::Sessions { .. } => Refusal::Busy {
                eta_ms: u32::try_from(self.place.wait().as_millis()).unwrap_or(u32::MAX),
            },
            error => refusal(error),
        }
    }
}

fn refusal(error: &StageError) -> Refusal {
    match error {
        StageError::UnknownModel => Refusal::UnknownModel,
        StageError::Sessions { .. } => Refusal::TooManySessions,
        StageError::Layers { .. } | StageError::NotHeld { .. } => Refusal::LayersNotHeld,
        StageError::NotLast { .. } => Refusal::CannotChoose,
        StageError::Context { context, .. } => Refusal::ContextTooLong {
            max: u32::try_from(*context).unwrap_or(u32::MAX),
        },
        StageError::KvFormat { .. } => Refusal::KvFormat,
        StageError::Gap { .. }
        | StageError::Order(_)
        | StageError::Full
        | StageError::Memory { .. }
        | StageError::Forward(_)
        | StageError::Cache(_)
        | StageError::Backend(_)
        | StageError::Sampling(_) => Refusal::NoMemory,
    }
}

fn fault(error: &StageError) -> FaultCode {
    match error {
        StageError::Forward(ForwardError::Cache(_)) | StageError::Cache(_) | StageError::Memory { .. } => {
            FaultCode::Memory
        }
        StageError::Gap { .. } | StageError::Order(_) | StageError::Full | StageError::Context { .. } => {
            FaultCode::Protocol
        }
        _ => FaultCode::Worker,
    }
}
