//! What both ends of a stream share: Hello, frames in and out, answers to pings, and the end.

use std::collections::VecDeque;
use std::time::Duration;

use super::{BUSY_LEAST, GOODBYE_DEADLINE, GREETING_DEADLINE, MEASURED_LEAST, PACKET_MOST, SessionError};
use crate::wire::{Frame, Hello, Inbox, SENTENCE_MAX, VERSIONS};

/// One end of a stream, whatever it is an end of. `E` is what it tells its caller.
#[derive(Debug)]
pub(super) struct Talk<E> {
    own: Hello,
    theirs: Option<Hello>,
    inbox: Inbox,
    out: Vec<u8>,
    /// Bytes said so far.
    pub(super) said: u64,
    /// When the first bytes of an unfinished message came, and how many they were.
    begun: Option<(Duration, usize)>,
    /// How many bytes of a message came within what time, last.
    arrived: Option<(u64, Duration)>,
    /// The last ping that is not answered yet: a flood of them is one question.
    pong: Option<u64>,
    pub(super) events: VecDeque<E>,
    /// Until when the other end has to have said Hello.
    greeting_until: Duration,
    /// When the last bytes came.
    pub(super) heard: Duration,
    /// Set once all is said, with the time until which it has to be sent.
    over: Option<Duration>,
}

impl<E> Talk<E> {
    /// An end that begins with its Hello.
    pub(super) fn new(law: u16, capabilities: crate::wire::Capabilities, now: Duration) -> Self {
        let own = Hello {
            versions: VERSIONS,
            law,
            capabilities,
        };
        let mut talk = Talk {
            own,
            theirs: None,
            inbox: Inbox::default(),
            out: Vec::new(),
            said: 0,
            begun: None,
            arrived: None,
            pong: None,
            events: VecDeque::new(),
            greeting_until: now + GREETING_DEADLINE,
            heard: now,
            over: None,
        };
        talk.out = Frame::Hello(own).encode().expect("a Hello fits a frame");
        talk
    }

    /// Takes bytes in; nothing is read any more once all is said.
    pub(super) fn hear(&mut self, now: Duration, bytes: &[u8]) {
        if self.over.is_none() {
            self.heard = now;
            self.inbox.push(bytes);
        }
    }

    /// The next message that is not about the talk itself.
    pub(super) fn next(&mut self) -> Result<Option<Frame>, SessionError> {
        while self.over.is_none() {
            let waiting = self.inbox.waiting();
            let Some(frame) = self.inbox.pop()? else {
                if waiting > 0 {
                    self.begun.get_or_insert((self.heard, waiting));
                }
                return Ok(None);
            };
            self.clock_in(waiting - self.inbox.waiting());
            match (self.theirs, frame) {
                (None, Frame::Hello(hello)) => {
                    self.meet(hello)?;
                    return Ok(Some(Frame::Hello(hello)));
                }
                (None, other) => return Err(SessionError::NoHello(other.name())),
                (Some(_), Frame::Hello(_)) => {
                    return Err(SessionError::Unexpected {
                        frame: "Hello",
                        why: "it was said before",
                    });
                }
                (Some(_), Frame::Ping(stamp)) => self.pong = Some(stamp),
                (Some(_), Frame::Bye(farewell)) => return Err(SessionError::Left(farewell)),
                (
                    Some(_),
                    Frame::Fault {
                        line: None,
                        code,
                        sentence,
                    },
                ) => {
                    let sentence = sentence.chars().filter(|c| !c.is_control()).collect();
                    return Err(SessionError::Fault { code, sentence });
                }
                (Some(_), frame) => return Ok(Some(frame)),
            }
        }
        Ok(None)
    }

    /// A message of so many bytes is whole.
    fn clock_in(&mut self, bytes: usize) {
        // One that came at once says no more than that what followed its first packet was soon there.
        let (since, had) = self.begun.take().unwrap_or((self.heard, PACKET_MOST));
        let rest = bytes.saturating_sub(had) as u64;
        if rest >= MEASURED_LEAST {
            let took = self.heard.saturating_sub(since).max(BUSY_LEAST);
            self.arrived = Some((rest, took));
        }
    }

    /// How many bytes of a message came within what time, if one came that says anything since this was asked last.
    pub(super) fn arrived(&mut self) -> Option<(u64, Duration)> {
        self.arrived.take()
    }

    /// Whether the two can work together.
    fn meet(&mut self, hello: Hello) -> Result<(), SessionError> {
        self.theirs = Some(hello);
        let (ours, theirs) = (self.own.versions, hello.versions);
        if ours.1 < theirs.0 || theirs.1 < ours.0 {
            return Err(SessionError::Version { ours, theirs });
        }
        let (ours, theirs) = (self.own.law, hello.law);
        if ours != theirs {
            return Err(SessionError::Law { ours, theirs });
        }
        Ok(())
    }

    /// Says something.
    pub(super) fn say(&mut self, frame: &Frame) -> Result<(), SessionError> {
        let bytes = frame.encode()?;
        if self.over.is_none() {
            self.said += bytes.len() as u64;
            self.out.extend_from_slice(&bytes);
        }
        Ok(())
    }

    /// Says the last thing; nothing is heard or said afterwards.
    pub(super) fn end(&mut self, now: Duration, last: Option<Frame>) {
        if self.over.is_none() {
            if let Some(last) = last {
                // A farewell or a fault with a bounded sentence always fits.
                let _ = self.say(&last);
            }
            self.over = Some(now + GOODBYE_DEADLINE);
        }
    }

    /// The last thing to say about an error.
    pub(super) fn last_word(error: &SessionError) -> Option<Frame> {
        let mut sentence = error.to_string();
        while sentence.len() > SENTENCE_MAX {
            sentence.pop();
        }
        error.fault().map(|code| Frame::Fault {
            line: None,
            code,
            sentence,
        })
    }

    /// The last version that the other end speaks, once it said Hello.
    pub(super) fn their_last(&self) -> Option<u16> {
        self.theirs.map(|hello| hello.versions.1)
    }

    /// Whether all is said.
    pub(super) fn is_over(&self) -> bool {
        self.over.is_some()
    }

    /// Whether all is said and sent.
    pub(super) fn finished(&self) -> bool {
        self.over.is_some() && self.out.is_empty()
    }

    /// What the other end has to do by when for the talk itself.
    pub(super) fn deadline(&self) -> Option<Duration> {
        let greeting = self.theirs.is_none().then_some(self.greeting_until);
        self.over.or(greeting)
    }

    /// Checks the talk's own deadlines. The inner error ends the talk in order, the outer one at once.
    pub(super) fn wake(&self, now: Duration) -> Result<Result<(), SessionError>, SessionError> {
        let late = |what, waited| SessionError::Late { what, waited };
        match self.over {
            Some(until) if now >= until => Err(late("to hear the last words", GOODBYE_DEADLINE)),
            Some(_) => Ok(Ok(())),
            None if self.theirs.is_none() && now >= self.greeting_until => {
                Ok(Err(late("to say Hello", GREETING_DEADLINE)))
            }
            None => Ok(Ok(())),
        }
    }

    /// Appends what is to be sent.
    pub(super) fn transmit(&mut self, out: &mut Vec<u8>) {
        if let Some(stamp) = self.pong.take().filter(|_| self.over.is_none()) {
            // A number always fits a frame.
            let _ = self.say(&Frame::Pong(stamp));
        }
        out.append(&mut self.out);
    }
}
