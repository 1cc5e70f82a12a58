//! Carries a conversation: pumps bytes between a [`Stream`] and a machine that knows the protocol and no socket.
//!
//! One task a conversation. It holds no rule of its own: what is said, when, and how long it may take is the
//! [`Machine`]'s business. The driver adds only what sockets bring: a full queue pushes back, a peer's end is the end,
//! and a cancelled conversation tells the peer so.
//!
//! A thread that hands a command over carries the conversation on itself, where nobody does at that moment: the bytes leave
//! without another thread being woken for them.

use std::fmt;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use iroh::endpoint::VarInt;
use tokio::runtime::Handle;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Sleep;

use crate::endpoint::{Stream, Witness, write_some};

/// Commands that wait for a machine which is busy writing.
const COMMANDS_WAITING: usize = 64;

/// Events that wait for the caller; when they are full the peer is not read any further.
const EVENTS_WAITING: usize = 256;

/// Bytes that wait for the peer; above it no command is taken. One more command's bytes may come on top.
const UNSENT_BYTES: usize = 4 << 20;

/// Bytes that wait for the peer above which it is not heard either: who asks and does not listen gets no more answers.
/// It is more than one window of a session, so that two ends never wait for each other.
const UNHEARD_BYTES: usize = 32 << 20;

/// Bytes read at once.
const READ_BYTES: usize = 64 << 10;

/// A peer that takes none of the bytes that wait for it for this long does not read any more.
const STALLED_AFTER: Duration = Duration::from_secs(30);

/// How long a guard may take to hand on what it was given, where somebody waits for its count.
const HANDED_ON_WITHIN: Duration = Duration::from_millis(500);

/// How often it is asked meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// How long a finished conversation waits for the peer to have read everything.
const FAREWELL: Duration = Duration::from_secs(3);

/// Rounds of a conversation that always has something to do before others have their turn.
const ROUNDS_AT_ONCE: u32 = 32;

/// What the peer sees of a conversation that was dropped in the middle.
const CANCELLED: VarInt = VarInt::from_u32(1);

/// What the peer sees of a conversation in which it broke the protocol.
const BROKEN: VarInt = VarInt::from_u32(2);

/// A protocol without IO. Times are counted from any fixed moment, the same for every call.
pub trait Machine {
    /// What the caller asks of it.
    type Command;
    /// What it tells the caller.
    type Event;
    /// A peer that breaks the protocol, or a deadline that passed.
    type Error;

    /// Takes a command.
    fn command(&mut self, now: Duration, command: Self::Command) -> Result<(), Self::Error>;
    /// Takes bytes from the peer, in order, in pieces of any size.
    fn receive(&mut self, now: Duration, bytes: &[u8]) -> Result<(), Self::Error>;
    /// The peer has said all it will say.
    fn receive_end(&mut self, now: Duration) -> Result<(), Self::Error>;
    /// [`Machine::deadline`] has come.
    fn wake(&mut self, now: Duration) -> Result<(), Self::Error>;
    /// When it wants to be woken next.
    fn deadline(&self) -> Option<Duration>;
    /// Appends what is to be sent.
    fn transmit(&mut self, out: &mut Vec<u8>);
    /// The next thing to tell.
    fn event(&mut self) -> Option<Self::Event>;
    /// Nothing more will be said by this side.
    fn finished(&self) -> bool;
}

/// How a conversation ended early.
#[derive(Debug, thiserror::Error)]
pub enum DriveError<E> {
    /// The machine gave up.
    #[error(transparent)]
    Machine(E),
    /// The peer left in the middle.
    #[error("the peer left: {0}")]
    Left(String),
    /// The caller let go of the conversation.
    #[error("the conversation was cancelled")]
    Cancelled,
}

/// The caller's end of a conversation. Dropping it cancels the conversation.
pub struct Conversation<M: Machine> {
    commands: Commands<M>,
    events: mpsc::Receiver<M::Event>,
    end: oneshot::Receiver<Result<(), DriveError<M::Error>>>,
    tally: Tally,
}

/// A way to hand commands to a conversation, for as many threads as want one.
pub struct Commands<M: Machine> {
    queue: mpsc::Sender<M::Command>,
    carried: Arc<Carried<M::Command>>,
}

/// The books of one conversation, also once it is over: bytes sent and received, without what the connection adds. Clones are the same.
#[derive(Debug, Clone)]
pub struct Tally {
    counted: Arc<Counted>,
    witness: Option<Witness>,
}

impl Tally {
    /// As counted here: what was handed to the socket, or to the guard that owns it.
    pub fn bytes(&self) -> (u64, u64) {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (read(&self.counted.sent), read(&self.counted.received))
    }

    /// As counted by whoever owns the socket. Where that is a guard, waits a moment until it has handed on all that it was given; what it
    /// has not by then counts, too, since it may yet leave. A guard that is gone said nothing: then as counted here. Not to be called in a
    /// task.
    pub fn carried(&self) -> (u64, u64) {
        let until = Instant::now() + HANDED_ON_WITHIN;
        loop {
            let (sent, received) = self.bytes();
            let Some((up, down, is_over)) = self.witness.as_ref().and_then(Witness::carried) else {
                return (sent, received);
            };
            // What came and was not read here yet may be half of a frame.
            let down = down.min(received);
            if is_over || up >= sent {
                return (up, down);
            }
            if Instant::now() >= until {
                return (sent, down);
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

/// What passed over one conversation.
#[derive(Debug, Default)]
struct Counted {
    sent: AtomicU64,
    received: AtomicU64,
}

impl<M: Machine> Clone for Commands<M> {
    fn clone(&self) -> Self {
        Commands {
            queue: self.queue.clone(),
            carried: Arc::clone(&self.carried),
        }
    }
}

impl<M: Machine> Commands<M> {
    /// Hands a command over; waits while the queue is full. `false` when the conversation is over.
    pub async fn send(&self, command: M::Command) -> bool {
        self.queue.send(command).await.is_ok()
    }

    /// The same on a thread that may wait. Not to be called in a task.
    pub fn send_blocking(&self, command: M::Command) -> bool {
        let queued = |command| self.queue.blocking_send(command).is_ok();
        self.carried.hand(command).map_or_else(queued, |()| true)
    }

    /// Hands a command over if there is room, else gives it back.
    pub fn try_send(&self, command: M::Command) -> Result<(), M::Command> {
        self.carried
            .hand(command)
            .or_else(|command| self.queue.try_send(command).map_err(TrySendError::into_inner))
    }

    /// Whether the conversation is over.
    pub fn is_over(&self) -> bool {
        self.queue.is_closed()
    }
}

impl<M: Machine> Conversation<M> {
    /// Hands a command over; waits while the queue is full. `false` when the conversation is over.
    pub async fn command(&self, command: M::Command) -> bool {
        self.commands.send(command).await
    }

    /// Hands a command over if there is room, else gives it back.
    pub fn try_command(&self, command: M::Command) -> Result<(), M::Command> {
        self.commands.try_send(command)
    }

    /// Its books.
    pub fn tally(&self) -> Tally {
        self.tally.clone()
    }

    /// A way to hand over commands from elsewhere.
    pub fn commands(&self) -> Commands<M> {
        self.commands.clone()
    }

    /// The next event; `None` when the conversation is over.
    pub async fn event(&mut self) -> Option<M::Event> {
        self.events.recv().await
    }

    /// How the conversation ended, once [`Conversation::event`] has given `None`.
    pub async fn end(self) -> Result<(), DriveError<M::Error>> {
        self.end.await.unwrap_or(Err(DriveError::Cancelled))
    }
}

/// Starts a conversation over `stream` on the current runtime. `epoch` is the moment that the machine counts from.
pub fn drive<M>(stream: Stream, machine: M, epoch: Instant) -> Conversation<M>
where
    M: Machine + Send + 'static,
    M::Command: Send,
    M::Event: Send,
    M::Error: Send,
{
    drive_with(stream, machine, epoch, EVENTS_WAITING)
}

/// The same for a machine whose events are large: one waits for the caller, and the peer is not read meanwhile.
pub fn drive_closely<M>(stream: Stream, machine: M, epoch: Instant) -> Conversation<M>
where
    M: Machine + Send + 'static,
    M::Command: Send,
    M::Event: Send,
    M::Error: Send,
{
    drive_with(stream, machine, epoch, 1)
}

fn drive_with<M>(stream: Stream, machine: M, epoch: Instant, events_waiting: usize) -> Conversation<M>
where
    M: Machine + Send + 'static,
    M::Command: Send,
    M::Event: Send,
    M::Error: Send,
{
    let (commands, command_queue) = mpsc::channel(COMMANDS_WAITING);
    let (event_queue, events) = mpsc::channel(events_waiting);
    let (ended, end) = oneshot::channel();
    let counted = Arc::new(Counted::default());
    let tally = Tally {
        counted: Arc::clone(&counted),
        witness: stream.witness(),
    };
    let handed = Handed::default();
    let driver = Driver {
        stream,
        machine,
        epoch,
        commands: Some(command_queue),
        handed: Arc::clone(&handed),
        events: event_queue,
        told: None,
        unsent: Unsent::default(),
        heard_all: false,
        counted,
    };
    let run = Box::pin(async move {
        let outcome = driver.run().await;
        // The caller may have gone; then nobody asks.
        let _ = ended.send(outcome);
    });
    let carried = Arc::new(Carried {
        handed,
        turn: Mutex::new(Turn {
            run: Some(run),
            task: None,
        }),
        runtime: Handle::current(),
    });
    tokio::spawn(Carrier(Arc::clone(&carried)));
    Conversation {
        commands: Commands {
            queue: commands,
            carried,
        },
        events,
        end,
        tally,
    }
}

/// A command of the thread that carries a conversation on at this moment.
type Handed<C> = Arc<Mutex<Option<C>>>;

/// A conversation that one thread at a time carries on: its task's, or one that has a command for it.
struct Carried<C> {
    handed: Handed<C>,
    turn: Mutex<Turn>,
    runtime: Handle,
}

struct Turn {
    /// Until it is over.
    run: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    /// Wakes its task, once that has begun.
    task: Option<Waker>,
}

impl<C> Carried<C> {
    /// Hands a command over and carries the conversation on with it. Gives it back where another thread carries it just now, where
    /// it is over or takes no commands, and in a task, whose turn others wait for. Commands of one thread keep their order: what is
    /// queued is taken first.
    fn hand(&self, command: C) -> Result<(), C> {
        if Handle::try_current().is_ok() {
            return Err(command);
        }
        let Ok(mut turn) = self.turn.try_lock() else {
            return Err(command);
        };
        let Turn {
            run: Some(run),
            task: Some(task),
        } = &mut *turn
        else {
            return Err(command);
        };
        *held(&self.handed) = Some(command);
        let _timers = self.runtime.enter();
        // Whatever it waits for wakes its task. A panic ends the conversation, as it does in a task, and not who has the command.
        let carried = catch_unwind(AssertUnwindSafe(|| {
            run.as_mut().poll(&mut Context::from_waker(task))
        }));
        if !matches!(carried, Ok(Poll::Pending)) {
            task.wake_by_ref();
            turn.run = None;
        }
        let left = held(&self.handed).take();
        left.map_or(Ok(()), Err)
    }
}

/// The task of a conversation. It ends with the task.
struct Carrier<C>(Arc<Carried<C>>);

impl<C> Future for Carrier<C> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut turn = held(&self.0.turn);
        match &mut turn.task {
            Some(task) => task.clone_from(context.waker()),
            none => *none = Some(context.waker().clone()),
        }
        let over = turn
            .run
            .as_mut()
            .is_none_or(|run| run.as_mut().poll(context).is_ready());
        if !over {
            return Poll::Pending;
        }
        turn.run = None;
        Poll::Ready(())
    }
}

impl<C> Drop for Carrier<C> {
    fn drop(&mut self) {
        held(&self.0.turn).run = None;
    }
}

impl<C> fmt::Debug for Carried<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Carried").finish_non_exhaustive()
    }
}

/// What a lock guards. Who panicked while it carried a conversation is followed by nobody: it is over then.
fn held<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Driver<M: Machine> {
    stream: Stream,
    machine: M,
    epoch: Instant,
    commands: Option<mpsc::Receiver<M::Command>>,
    handed: Handed<M::Command>,
    events: mpsc::Sender<M::Event>,
    /// The next event, while there is no room for it.
    told: Option<M::Event>,
    unsent: Unsent,
    /// The peer has said all it will say.
    heard_all: bool,
    counted: Arc<Counted>,
}

/// Bytes that wait for the peer.
#[derive(Default)]
struct Unsent {
    bytes: Vec<u8>,
    /// How many of them the peer took already.
    taken: usize,
    /// Since when it has taken none, while some wait.
    stuck_since: Option<tokio::time::Instant>,
}

impl Unsent {
    fn waiting(&self) -> &[u8] {
        &self.bytes[self.taken..]
    }

    /// Lets a machine add to them.
    fn fill(&mut self, machine: &mut impl Machine) {
        machine.transmit(&mut self.bytes);
        if !self.waiting().is_empty() {
            self.stuck_since.get_or_insert_with(tokio::time::Instant::now);
        }
    }

    /// The peer took some, or takes none any more.
    fn wrote<E>(&mut self, wrote: Result<usize, String>, counted: &Counted) -> Result<(), DriveError<E>> {
        let wrote = wrote.map_err(DriveError::Left)?;
        counted.sent.fetch_add(wrote as u64, Ordering::Relaxed);
        self.take(wrote);
        Ok(())
    }

    fn take(&mut self, count: usize) {
        self.taken += count;
        // Also of a peer that never takes all no more is kept than twice what waits for it.
        if self.taken > self.waiting().len() {
            self.bytes.drain(..self.taken);
            self.bytes.shrink_to(READ_BYTES.max(2 * self.bytes.len()));
            self.taken = 0;
        }
        let more = !self.waiting().is_empty();
        self.stuck_since = more.then(tokio::time::Instant::now);
    }
}

impl<M: Machine> Driver<M> {
    async fn run(mut self) -> Result<(), DriveError<M::Error>> {
        let outcome = self.pump().await;
        // The last words are the task's: a thread that computes may be sealed against them.
        tokio::task::yield_now().await;
        match &outcome {
            Ok(()) => self.farewell().await,
            Err(DriveError::Machine(_)) => self.abandon(BROKEN),
            Err(_) => self.abandon(CANCELLED),
        }
        outcome
    }

    async fn pump(&mut self) -> Result<(), DriveError<M::Error>> {
        let mut bytes = vec![0; READ_BYTES];
        let mut alarm = Alarm::new();
        let mut rounds = 0_u32;
        loop {
            // Who always has something to do lets others do theirs in between.
            rounds = rounds.wrapping_add(1);
            if rounds.is_multiple_of(ROUNDS_AT_ONCE) {
                tokio::task::yield_now().await;
            }
            self.unsent.fill(&mut self.machine);
            self.tell()?;
            self.write_at_once().await?;
            if self.told.is_none() && self.unsent.waiting().is_empty() && self.machine.finished() {
                return Ok(());
            }
            let wake = self
                .machine
                .deadline()
                .map(|at| tokio::time::Instant::from_std(self.epoch + at));
            let stuck = self.unsent.stuck_since.map(|since| since + STALLED_AFTER);
            let next = wake.into_iter().chain(stuck).min();
            let waiting = self.unsent.waiting();
            let commands = self.commands.as_mut().filter(|_| waiting.len() < UNSENT_BYTES);
            let hears = !self.heard_all && self.told.is_none() && waiting.len() < UNHEARD_BYTES;
            tokio::select! {
                () = self.events.closed() => return Err(DriveError::Cancelled),
                room = self.events.reserve(), if self.told.is_some() => match (room, self.told.take()) {
                    (Ok(room), Some(event)) => room.send(event),
                    _ => return Err(DriveError::Cancelled),
                },
                wrote = write_some(&self.stream.throttle, &mut self.stream.send, waiting), if !waiting.is_empty() => {
                    self.unsent.wrote::<M::Error>(wrote, &self.counted)?;
                }
                read = self.stream.receive.read(&mut bytes), if hears => {
                    let read = read.map_err(DriveError::Left)?;
                    self.counted.received.fetch_add(read.unwrap_or(0) as u64, Ordering::Relaxed);
                    match read {
                        Some(count) => self.machine.receive(self.epoch.elapsed(), &bytes[..count]),
                        None => {
                            self.heard_all = true;
                            self.machine.receive_end(self.epoch.elapsed())
                        }
                    }.map_err(DriveError::Machine)?;
                }
                command = next_command(commands, &self.handed) => match command {
                    Some(command) => {
                        self.machine.command(self.epoch.elapsed(), command).map_err(DriveError::Machine)?;
                    }
                    // The caller only listens from here on.
                    None => self.commands = None,
                },
                now = alarm.until(next) => {
                    if stuck.is_some_and(|stuck| now >= stuck) {
                        return Err(DriveError::Left("it does not read what it is sent".to_owned()));
                    }
                    self.machine.wake(self.epoch.elapsed()).map_err(DriveError::Machine)?;
                }
            }
        }
    }

    /// Tells what there is room for.
    fn tell(&mut self) -> Result<(), DriveError<M::Error>> {
        while let Some(event) = self.told.take().or_else(|| self.machine.event()) {
            match self.events.try_send(event) {
                Ok(()) => {}
                Err(TrySendError::Full(event)) => {
                    self.told = Some(event);
                    break;
                }
                Err(TrySendError::Closed(_)) => return Err(DriveError::Cancelled),
            }
        }
        Ok(())
    }

    /// Writes what the peer has room for now, without waiting for anything else.
    async fn write_at_once(&mut self) -> Result<(), DriveError<M::Error>> {
        let waiting = self.unsent.waiting();
        if waiting.is_empty() {
            return Ok(());
        }
        let wrote = {
            let mut writing = pin!(write_some(&self.stream.throttle, &mut self.stream.send, waiting));
            poll_fn(|context| Poll::Ready(writing.as_mut().poll(context))).await
        };
        match wrote {
            Poll::Ready(wrote) => self.unsent.wrote(wrote, &self.counted),
            Poll::Pending => Ok(()),
        }
    }

    /// Says that all is said, and waits a little for it to arrive.
    async fn farewell(&mut self) {
        if self.stream.send.finish() {
            // A peer that is gone by now has nothing left to miss.
            let _ = tokio::time::timeout(FAREWELL, self.stream.send.stopped()).await;
        }
    }

    /// Tells the peer that the rest will not come.
    fn abandon(&mut self, code: VarInt) {
        self.stream.send.reset(code);
        self.stream.receive.stop(code);
    }
}

/// What is queued, then what the thread that carries this on has brought itself.
async fn next_command<C>(commands: Option<&mut mpsc::Receiver<C>>, handed: &Handed<C>) -> Option<C> {
    let Some(commands) = commands else {
        return std::future::pending().await;
    };
    poll_fn(|context| match commands.poll_recv(context) {
        Poll::Pending => held(handed)
            .take()
            .map_or(Poll::Pending, |command| Poll::Ready(Some(command))),
        queued => queued,
    })
    .await
}

/// A timer for a moment that is put off far more often than it comes: it stays set for the earliest, and looks anew then.
struct Alarm(Pin<Box<Sleep>>);

impl Alarm {
    fn new() -> Alarm {
        Alarm(Box::pin(tokio::time::sleep_until(far_off())))
    }

    /// Waits until `moment` and tells the time then; waits for ever where there is none.
    async fn until(&mut self, moment: Option<tokio::time::Instant>) -> tokio::time::Instant {
        let Some(moment) = moment else {
            return std::future::pending().await;
        };
        loop {
            if self.0.is_elapsed() || self.0.deadline() > moment {
                self.0.as_mut().reset(moment);
            }
            self.0.as_mut().await;
            let now = tokio::time::Instant::now();
            if now >= moment {
                return now;
            }
        }
    }
}

/// A moment that never comes, for a machine without a deadline.
fn far_off() -> tokio::time::Instant {
    tokio::time::Instant::now() + Duration::from_secs(86_400)
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, timeout};

    use super::*;

    /// A conversation that hears numbers and keeps them; 0 ends it and 13 makes it panic.
    struct Listener {
        threads: tokio::runtime::Runtime,
        carried: Arc<Carried<u32>>,
        queue: mpsc::Sender<u32>,
        heard: Arc<Mutex<Vec<u32>>>,
        task: tokio::task::JoinHandle<()>,
    }

    fn listener() -> Listener {
        let threads = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        let (queue, mut commands) = mpsc::channel(4);
        let (handed, heard) = (Handed::default(), Arc::new(Mutex::new(Vec::new())));
        let (mine, hears) = (Arc::clone(&handed), Arc::clone(&heard));
        let run = async move {
            loop {
                match next_command(Some(&mut commands), &mine).await {
                    None | Some(0) => return,
                    Some(13) => panic!("as asked"),
                    Some(number) => held(&hears).push(number),
                }
            }
        };
        let carried = Arc::new(Carried {
            handed,
            turn: Mutex::new(Turn {
                run: Some(Box::pin(run)),
                task: None,
            }),
            runtime: threads.handle().clone(),
        });
        let task = threads.spawn(Carrier(Arc::clone(&carried)));
        Listener {
            threads,
            carried,
            queue,
            heard,
            task,
        }
    }

    impl Listener {
        /// Lets the task have its turn.
        fn turn(&self) {
            self.threads.block_on(tokio::task::yield_now());
        }
    }

    #[test]
    fn who_hands_a_command_over_carries_it_behind_those_that_wait() {
        let listener = listener();
        // Its task has not begun yet.
        assert_eq!(listener.carried.hand(1), Err(1));
        listener.turn();
        listener.queue.try_send(1).unwrap();
        assert_eq!(listener.carried.hand(2), Ok(()));
        assert_eq!(*held(&listener.heard), [1, 2]);
    }

    #[test]
    fn a_command_is_given_back_in_a_task_and_while_another_carries() {
        let listener = listener();
        listener.turn();
        assert_eq!(
            listener.threads.block_on(async { listener.carried.hand(1) }),
            Err(1)
        );
        let turn = held(&listener.carried.turn);
        assert_eq!(listener.carried.hand(2), Err(2));
        drop(turn);
        assert_eq!(listener.carried.hand(3), Ok(()));
        assert_eq!(*held(&listener.heard), [3]);
    }

    #[test]
    fn what_ends_a_conversation_ends_its_task_whoever_carries_it() {
        for last in [0, 13] {
            let listener = listener();
            listener.turn();
            assert_eq!(listener.carried.hand(last), Ok(()));
            assert!(listener.queue.is_closed());
            assert_eq!(listener.carried.hand(1), Err(1));
            let task = listener.task;
            let within = async { timeout(Duration::from_secs(10), task).await };
            let ended = listener.threads.block_on(within);
            assert!(ended.is_ok_and(|ended| ended.is_ok()), "after {last}");
        }
    }

    #[test]
    fn a_conversation_ends_with_its_task() {
        let listener = listener();
        listener.turn();
        drop(listener.threads);
        assert!(listener.queue.is_closed());
        assert_eq!(listener.carried.hand(1), Err(1));
    }

    #[test]
    fn no_more_is_kept_for_a_peer_that_is_always_behind_than_what_waits_for_it() {
        let (mut unsent, message) = (Unsent::default(), [7_u8; 10_000]);
        unsent.bytes.extend(message);
        for at in 0..1_000 {
            unsent.bytes.extend(message);
            unsent.take(message.len());
            assert_eq!(unsent.waiting(), message, "after {at}");
            assert!(
                unsent.bytes.capacity() <= READ_BYTES,
                "after {at}: {}",
                unsent.bytes.capacity()
            );
        }
        unsent.take(message.len());
        assert!(unsent.waiting().is_empty() && unsent.stuck_since.is_none());
    }

    #[test]
    fn an_alarm_that_is_put_off_and_put_forward_comes_when_it_should() {
        let threads = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build();
        threads.unwrap().block_on(async {
            let (mut alarm, step) = (Alarm::new(), Duration::from_millis(20));
            let far = Instant::now() + Duration::from_secs(3_600);
            assert!(timeout(step, alarm.until(Some(far))).await.is_err());
            assert!(timeout(step, alarm.until(None)).await.is_err());
            // Sooner than it is set, then later than it is set, then over already.
            let moments = [step, 3 * step, 2 * step].map(|after| Instant::now() + after);
            for moment in moments {
                let came = timeout(Duration::from_secs(10), alarm.until(Some(moment))).await;
                assert!(came.is_ok_and(|now| now >= moment));
            }
            let put_off = Instant::now() + 4 * step;
            let soon = alarm.until(Some(Instant::now() + step));
            assert!(timeout(Duration::ZERO, soon).await.is_err());
            let came = timeout(Duration::from_secs(10), alarm.until(Some(put_off))).await;
            assert!(came.is_ok_and(|now| now >= put_off));
        });
    }
}
