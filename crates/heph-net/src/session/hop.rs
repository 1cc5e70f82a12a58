//! Rows that go from one node to the next past the desk: one stream for one session's boundary, in one direction.
//!
//! The node that hands them over opens the stream and shows the [`Ticket`] that the desk gave to both; the other says that
//! rows may come, and is given them under the names by which the desk's orders await them. Nothing else is said. Who may
//! show which ticket, and which order awaits which rows, is known where the sessions are.

use std::time::Duration;

use heph_types::{Tag, Ticket};

use super::talk::Talk;
use super::{GREETING_DEADLINE, SessionError};
use crate::codec::PackedRows;
use crate::drive::Machine;
use crate::wire::{Capabilities, Farewell, Frame, HOPS_SINCE, HandFrame};

/// What a node tells its giving end to do.
#[derive(Debug, Clone, PartialEq)]
pub enum GiverCommand {
    /// Hands rows over. Nothing is sent before the other node has said that it may.
    Hand(Tag, PackedRows),
    /// There will be no more.
    Leave,
}

/// What a giving end tells.
#[derive(Debug, Clone, PartialEq)]
pub enum GiverEvent {
    /// Rows may go.
    Welcome,
    /// Everything is over. Nothing follows.
    Over(SessionError),
}

/// The end of the node that hands rows over.
#[derive(Debug)]
pub struct GiverEnd {
    talk: Talk<GiverEvent>,
    ticket: Ticket,
    welcome: bool,
    until: Duration,
}

/// What a node tells its taking end to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TakerCommand {
    /// The ticket is a good one: rows may come.
    Welcome,
}

/// What a taking end tells.
#[derive(Debug, Clone, PartialEq)]
pub enum TakerEvent {
    /// Somebody shows a ticket: [`TakerCommand::Welcome`] answers, or the end of the stream.
    Presented(Ticket),
    /// Rows came.
    Handed(Tag, PackedRows),
    /// Everything is over. Nothing follows.
    Over(SessionError),
}

/// The end of the node that takes rows.
#[derive(Debug)]
pub struct TakerEnd {
    talk: Talk<TakerEvent>,
    state: Taking,
    until: Duration,
}

/// How far a taking end has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Taking {
    /// No ticket was shown.
    Stranger,
    /// One was shown, and nothing was said to it.
    Presented,
    /// Rows may come.
    Welcome,
}

impl GiverEnd {
    /// An end that begins now with its ticket, for a node that computes by `law` of arithmetic.
    pub fn new(law: u16, ticket: Ticket, now: Duration) -> GiverEnd {
        GiverEnd {
            talk: Talk::new(law, Capabilities::SERVES, now),
            ticket,
            welcome: false,
            until: now + GREETING_DEADLINE,
        }
    }

    fn take(&mut self, frame: &Frame) -> Result<(), SessionError> {
        match frame {
            Frame::Hello(_) => {
                knows_hops(&self.talk)?;
                self.talk.say(&Frame::Present(self.ticket))
            }
            Frame::Welcome if !self.welcome => {
                self.welcome = true;
                self.talk.events.push_back(GiverEvent::Welcome);
                Ok(())
            }
            other => Err(unexpected(other, "who is handed rows does not say this")),
        }
    }

    fn settle(&mut self, now: Duration, outcome: Result<(), SessionError>) {
        if let Some(error) = end_by(&mut self.talk, now, outcome) {
            self.talk.events.push_back(GiverEvent::Over(error));
        }
    }
}

impl TakerEnd {
    /// An end that begins now, for a node that computes by `law` of arithmetic.
    pub fn new(law: u16, now: Duration) -> TakerEnd {
        TakerEnd {
            talk: Talk::new(law, Capabilities::SERVES, now),
            state: Taking::Stranger,
            until: now + GREETING_DEADLINE,
        }
    }

    fn take(&mut self, frame: Frame) -> Result<(), SessionError> {
        let event = match (self.state, frame) {
            (_, Frame::Hello(_)) => return knows_hops(&self.talk),
            (Taking::Stranger, Frame::Present(ticket)) => {
                self.state = Taking::Presented;
                TakerEvent::Presented(ticket)
            }
            (Taking::Welcome, Frame::Hand(HandFrame { tag, rows })) => TakerEvent::Handed(tag, rows),
            (_, other) => return Err(unexpected(&other, "it may not stand here")),
        };
        self.talk.events.push_back(event);
        Ok(())
    }

    fn settle(&mut self, now: Duration, outcome: Result<(), SessionError>) {
        if let Some(error) = end_by(&mut self.talk, now, outcome) {
            self.talk.events.push_back(TakerEvent::Over(error));
        }
    }
}

fn unexpected(frame: &Frame, why: &'static str) -> SessionError {
    SessionError::Unexpected {
        frame: frame.name(),
        why,
    }
}

/// Whether the other end, which has said Hello, knows of hops.
fn knows_hops<E>(talk: &Talk<E>) -> Result<(), SessionError> {
    match talk.their_last() {
        Some(last) if last < HOPS_SINCE => Err(SessionError::Version {
            ours: (HOPS_SINCE, HOPS_SINCE),
            theirs: (last, last),
        }),
        _ => Ok(()),
    }
}

/// An error ends everything; it is told once.
fn end_by<E>(talk: &mut Talk<E>, now: Duration, outcome: Result<(), SessionError>) -> Option<SessionError> {
    let error = outcome.err().filter(|_| !talk.is_over())?;
    talk.end(now, Talk::<E>::last_word(&error));
    Some(error)
}

/// Checks what is due: the talk's own affairs, and the ticket or the welcome.
fn wake<E>(
    talk: &Talk<E>,
    now: Duration,
    waits: Option<Duration>,
) -> Result<Result<(), SessionError>, SessionError> {
    let outcome = talk.wake(now)?;
    Ok(outcome.and_then(|()| match waits {
        Some(until) if !talk.is_over() && now >= until => Err(SessionError::Late {
            what: "to show a ticket or take one",
            waited: GREETING_DEADLINE,
        }),
        _ => Ok(()),
    }))
}

fn deadline<E>(talk: &Talk<E>, waits: Option<Duration>) -> Option<Duration> {
    match talk.is_over() {
        true => talk.deadline(),
        false => talk.deadline().into_iter().chain(waits).min(),
    }
}

impl Machine for GiverEnd {
    type Command = GiverCommand;
    type Event = GiverEvent;
    type Error = SessionError;

    fn command(&mut self, now: Duration, command: GiverCommand) -> Result<(), SessionError> {
        if self.talk.is_over() {
            return Ok(());
        }
        let outcome = match command {
            GiverCommand::Hand(tag, rows) if self.welcome => {
                self.talk.say(&Frame::Hand(HandFrame { tag, rows }))
            }
            GiverCommand::Hand(..) => Err(SessionError::Misuse("rows for somebody who does not await them")),
            GiverCommand::Leave => {
                self.talk.end(now, Some(Frame::Bye(Farewell::Finished)));
                Ok(())
            }
        };
        self.settle(now, outcome);
        Ok(())
    }

    fn receive(&mut self, now: Duration, bytes: &[u8]) -> Result<(), SessionError> {
        self.talk.hear(now, bytes);
        let outcome = loop {
            match self.talk.next() {
                Ok(None) => break Ok(()),
                Ok(Some(frame)) => {
                    if let Err(error) = self.take(&frame) {
                        break Err(error);
                    }
                }
                Err(error) => break Err(error),
            }
        };
        self.settle(now, outcome);
        Ok(())
    }

    fn receive_end(&mut self, now: Duration) -> Result<(), SessionError> {
        self.settle(now, Err(SessionError::Cut));
        Ok(())
    }

    fn wake(&mut self, now: Duration) -> Result<(), SessionError> {
        let outcome = wake(&self.talk, now, (!self.welcome).then_some(self.until))?;
        self.settle(now, outcome);
        Ok(())
    }

    fn deadline(&self) -> Option<Duration> {
        deadline(&self.talk, (!self.welcome).then_some(self.until))
    }

    fn transmit(&mut self, out: &mut Vec<u8>) {
        self.talk.transmit(out);
    }

    fn event(&mut self) -> Option<GiverEvent> {
        self.talk.events.pop_front()
    }

    fn finished(&self) -> bool {
        self.talk.finished()
    }
}

impl Machine for TakerEnd {
    type Command = TakerCommand;
    type Event = TakerEvent;
    type Error = SessionError;

    fn command(&mut self, now: Duration, command: TakerCommand) -> Result<(), SessionError> {
        if self.talk.is_over() {
            return Ok(());
        }
        let outcome = match (command, self.state) {
            (TakerCommand::Welcome, Taking::Presented) => {
                self.state = Taking::Welcome;
                self.talk.say(&Frame::Welcome)
            }
            (TakerCommand::Welcome, _) => Err(SessionError::Misuse("a welcome for nobody")),
        };
        self.settle(now, outcome);
        Ok(())
    }

    fn receive(&mut self, now: Duration, bytes: &[u8]) -> Result<(), SessionError> {
        self.talk.hear(now, bytes);
        let outcome = loop {
            match self.talk.next() {
                Ok(None) => break Ok(()),
                Ok(Some(frame)) => {
                    if let Err(error) = self.take(frame) {
                        break Err(error);
                    }
                }
                Err(error) => break Err(error),
            }
        };
        self.settle(now, outcome);
        Ok(())
    }

    fn receive_end(&mut self, now: Duration) -> Result<(), SessionError> {
        self.settle(now, Err(SessionError::Cut));
        Ok(())
    }

    fn wake(&mut self, now: Duration) -> Result<(), SessionError> {
        let waits = (self.state != Taking::Welcome).then_some(self.until);
        let outcome = wake(&self.talk, now, waits)?;
        self.settle(now, outcome);
        Ok(())
    }

    fn deadline(&self) -> Option<Duration> {
        deadline(&self.talk, (self.state != Taking::Welcome).then_some(self.until))
    }

    fn transmit(&mut self, out: &mut Vec<u8>) {
        self.talk.transmit(out);
    }

    fn event(&mut self) -> Option<TakerEvent> {
        self.talk.events.pop_front()
    }

    fn finished(&self) -> bool {
        self.talk.finished()
    }
}
