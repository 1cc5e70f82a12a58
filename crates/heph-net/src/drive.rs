//! Carries a conversation: pumps bytes between a [`Stream`] and a machine that knows the protocol and no socket.
//!
//! One task a conversation. It holds no rule of its own: what is said, when, and how long it may take is the
//! [`Machine`]'s business. The driver adds only what sockets bring: a full queue pushes back, a peer's end is the end,
//! and a cancelled conversation tells the peer so.

use std::time::{Duration, Instant};

use iroh::endpoint::{ReadError, VarInt, WriteError};
use tokio::sync::{mpsc, oneshot};

use crate::endpoint::Stream;

/// Commands that wait for a machine which is busy writing.
const COMMANDS_WAITING: usize = 64;

/// Events that wait for the caller; when they are full the peer is not read any further.
const EVENTS_WAITING: usize = 256;

/// Bytes that wait for the peer; above it no command is taken. One more command's bytes may come on top.
const UNSENT_BYTES: usize = 4 << 20;

/// Bytes read at once.
const READ_BYTES: usize = 64 << 10;

/// How long a finished conversation waits for the peer to have read everything.
const FAREWELL: Duration = Duration::from_secs(3);

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
#[derive(Debug)]
pub struct Conversation<M: Machine> {
    commands: mpsc::Sender<M::Command>,
    events: mpsc::Receiver<M::Event>,
    end: oneshot::Receiver<Result<(), DriveError<M::Error>>>,
}

impl<M: Machine> Conversation<M> {
    /// Hands a command over; waits while the queue is full. `false` when the conversation is over.
    pub async fn command(&self, command: M::Command) -> bool {
        self.commands.send(command).await.is_ok()
    }

    /// Hands a command over if there is room, else gives it back.
    pub fn try_command(&self, command: M::Command) -> Result<(), M::Command> {
        self.commands
            .try_send(command)
            .map_err(mpsc::error::TrySendError::into_inner)
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
    let (commands, command_queue) = mpsc::channel(COMMANDS_WAITING);
    let (event_queue, events) = mpsc::channel(EVENTS_WAITING);
    let (ended, end) = oneshot::channel();
    let driver = Driver {
        stream,
        machine,
        epoch,
        commands: Some(command_queue),
        events: event_queue,
        told: None,
        unsent: Vec::new(),
        heard_all: false,
    };
    tokio::spawn(async move {
        let outcome = driver.run().await;
        // The caller may have gone; then nobody asks.
        let _ = ended.send(outcome);
    });
    Conversation {
        commands,
        events,
        end,
    }
}

struct Driver<M: Machine> {
    stream: Stream,
    machine: M,
    epoch: Instant,
    commands: Option<mpsc::Receiver<M::Command>>,
    events: mpsc::Sender<M::Event>,
    /// The next event, while there is no room for it.
    told: Option<M::Event>,
    unsent: Vec<u8>,
    /// The peer has said all it will say.
    heard_all: bool,
}

impl<M: Machine> Driver<M> {
    async fn run(mut self) -> Result<(), DriveError<M::Error>> {
        let outcome = self.pump().await;
        match &outcome {
            Ok(()) => self.farewell().await,
            Err(DriveError::Machine(_)) => self.abandon(BROKEN),
            Err(_) => self.abandon(CANCELLED),
        }
        outcome
    }

    async fn pump(&mut self) -> Result<(), DriveError<M::Error>> {
        let mut bytes = vec![0; READ_BYTES];
        loop {
            self.machine.transmit(&mut self.unsent);
            self.told = self.told.take().or_else(|| self.machine.event());
            if self.told.is_none() && self.unsent.is_empty() && self.machine.finished() {
                return Ok(());
            }
            let wake = self
                .machine
                .deadline()
                .map(|at| tokio::time::Instant::from_std(self.epoch + at));
            let asleep = tokio::time::sleep_until(wake.unwrap_or_else(far_off));
            let commands = self
                .commands
                .as_mut()
                .filter(|_| self.unsent.len() < UNSENT_BYTES);
            tokio::select! {
                () = self.events.closed() => return Err(DriveError::Cancelled),
                room = self.events.reserve(), if self.told.is_some() => match (room, self.told.take()) {
                    (Ok(room), Some(event)) => room.send(event),
                    _ => return Err(DriveError::Cancelled),
                },
                wrote = self.stream.send.write(&self.unsent), if !self.unsent.is_empty() => {
                    let wrote = wrote.map_err(|cause: WriteError| DriveError::Left(cause.to_string()))?;
                    self.unsent.drain(..wrote);
                }
                read = self.stream.receive.read(&mut bytes), if !self.heard_all && self.told.is_none() => {
                    match read.map_err(|cause: ReadError| DriveError::Left(cause.to_string()))? {
                        Some(count) => self.machine.receive(self.epoch.elapsed(), &bytes[..count]),
                        None => {
                            self.heard_all = true;
                            self.machine.receive_end(self.epoch.elapsed())
                        }
                    }.map_err(DriveError::Machine)?;
                }
                command = next_command(commands) => match command {
                    Some(command) => {
                        self.machine.command(self.epoch.elapsed(), command).map_err(DriveError::Machine)?;
                    }
                    // The caller only listens from here on.
                    None => self.commands = None,
                },
                () = asleep, if wake.is_some() => {
                    self.machine.wake(self.epoch.elapsed()).map_err(DriveError::Machine)?;
                }
            }
        }
    }

    /// Says that all is said, and waits a little for it to arrive.
    async fn farewell(&mut self) {
        if self.stream.send.finish().is_ok() {
            // A peer that is gone by now has nothing left to miss.
            let _ = tokio::time::timeout(FAREWELL, self.stream.send.stopped()).await;
        }
    }

    /// Tells the peer that the rest will not come. Both calls fail only where the peer was first.
    fn abandon(&mut self, code: VarInt) {
        let _ = self.stream.send.reset(code);
        let _ = self.stream.receive.stop(code);
    }
}

async fn next_command<C>(commands: Option<&mut mpsc::Receiver<C>>) -> Option<C> {
    match commands {
        Some(commands) => commands.recv().await,
        None => std::future::pending().await,
    }
}

/// A moment that never comes, for a machine without a deadline.
fn far_off() -> tokio::time::Instant {
    tokio::time::Instant::now() + Duration::from_secs(86_400)
}
