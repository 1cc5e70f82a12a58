//! The node's end: checks what a desk asks against what its sessions are, hands orders out one after another, and sends
//! what becomes of them.

mod lent;

use std::collections::BTreeMap;
use std::time::Duration;

use heph_types::{
    CachePart, NodeId, Order, Position, Reply, SamplingOptions, SessionId, StageSpec, Tag, Ticket,
};

use super::orders::{self, Asked};
use super::talk::Talk;
use super::{BYTES_WINDOW, GREETING_DEADLINE, LINES_MAX, ORDERS_WINDOW, SessionError};
use crate::codec::PackedRows;
use crate::drive::Machine;
use crate::wire::{
    Capabilities, ChoicesFrame, Farewell, FaultCode, Frame, Hello, JoinFrame, Line, Refusal, SENTENCE_MAX,
    VouchedFrame,
};
use lent::{Handed, Lent, Queued};

/// Orders without an answer that may wait behind each other: rollbacks and new options. A desk has no use for more than
/// one of each before every order.
const SILENT_MAX: usize = 4 * ORDERS_WINDOW as usize;

/// What a node's end allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeLimits {
    /// How long a session may be unused.
    pub idle_after: Duration,
    /// Orders of one session that may be unanswered.
    pub orders: u32,
    /// Bytes of them.
    pub bytes: u32,
}

impl Default for NodeLimits {
    /// Ten minutes: as long as somebody reads an answer before asking on.
    fn default() -> Self {
        Self {
            idle_after: Duration::from_secs(600),
            orders: ORDERS_WINDOW,
            bytes: BYTES_WINDOW,
        }
    }
}

/// What a node tells its end to do.
#[derive(Debug, Clone, PartialEq)]
pub enum NodeCommand {
    /// Says what this machine can do.
    Profile {
        /// Version of the record.
        version: u16,
        /// The record.
        record: Vec<u8>,
    },
    /// Opens a session that was asked for.
    Grant {
        /// Which.
        line: Line,
        /// Numbers of a row of its model.
        width: u32,
    },
    /// Does not open it.
    Refuse {
        /// Which.
        line: Line,
        /// Why.
        reason: Refusal,
    },
    /// What became of a session's oldest order; for a stream, its next token.
    Reply(Line, Reply),
    /// What a session's caches hold, as asked.
    Cache(Line, CachePart),
    /// A session's caches took in what they were given, and hold everything before this position.
    CacheHeld(Line, Position),
    /// A session's stream has ended, or was left for the order behind it.
    Done(Line),
    /// A session takes rows of the node that its desk named.
    Expecting(Line),
    /// Another node handed rows over to a session.
    Hand {
        /// Which.
        line: Line,
        /// The rows' name.
        tag: Tag,
        /// The rows.
        rows: PackedRows,
    },
    /// A session can hand its rows on.
    Joined {
        /// Which.
        line: Line,
        /// What a message to the other node and back takes.
        round_trip: Duration,
    },
    /// It cannot, or no longer.
    Parted {
        /// Which.
        line: Line,
        /// One sentence for people.
        sentence: String,
    },
    /// What was computed for a session, signed.
    Vouched(VouchedFrame),
    /// So many bytes were handed on so far.
    HandedOn {
        /// By which session.
        line: Line,
        /// Bytes, frames included.
        bytes: u64,
    },
    /// A session cannot go on.
    Fail {
        /// Which.
        line: Line,
        /// What kind of end.
        code: FaultCode,
        /// One sentence for people.
        sentence: String,
    },
    /// The desk has to wait about so long.
    Busy {
        /// For which session.
        line: Line,
        /// How long.
        eta: Duration,
    },
    /// The node wants no more of any session.
    Leave(Farewell),
}

/// What a node's end tells.
#[derive(Debug, Clone, PartialEq)]
pub enum NodeEvent {
    /// The desk is there and fits.
    Greeted(Hello),
    /// A desk wants a session: [`NodeCommand::Grant`] or [`NodeCommand::Refuse`] answers.
    Open {
        /// Its name on this stream.
        line: Line,
        /// The desk's name for it.
        session: SessionId,
        /// What the stage is to be.
        spec: StageSpec,
    },
    /// An order, in its turn. A forward order wants one [`NodeCommand::Reply`], a stream one for each token and then
    /// [`NodeCommand::Done`]; it is left as soon as something comes behind it. A rollback wants nothing.
    Order(Line, Order),
    /// Tokens are chosen by these options from the next order on.
    Choose(Line, SamplingOptions),
    /// The desk wants what the session's caches hold of these positions, or of the first of them:
    /// [`NodeCommand::Cache`] answers.
    TakeCache {
        /// Which session.
        line: Line,
        /// The first position.
        first: Position,
        /// The first that is not wanted.
        to: Position,
    },
    /// The session's caches are to take this in: [`NodeCommand::CacheHeld`] answers.
    PutCache(Line, CachePart),
    /// The desk wants signed what was computed for a session: [`NodeCommand::Vouched`] answers.
    Vouch(Line),
    /// Another node is to hand rows over to a session: [`NodeCommand::Expecting`] answers.
    Expect {
        /// Which session.
        line: Line,
        /// Who.
        from: NodeId,
        /// What it has to show.
        ticket: Ticket,
    },
    /// A session is to hand its rows to another node: [`NodeCommand::Joined`] or [`NodeCommand::Parted`] answers.
    Join(JoinFrame),
    /// So many bytes of the rows that were handed over to a session wait no longer.
    Taken {
        /// Which session.
        line: Line,
        /// Bytes.
        bytes: u64,
    },
    /// The rows that were handed over to a session are not those that its orders await: who hands them is to be left.
    Misled(Line),
    /// Nobody wants this session any more: what it is at may stop.
    Close(Line),
    /// Everything is over, for this reason. Nothing follows.
    Over(SessionError),
}

/// The node's end of a stream.
#[derive(Debug)]
pub struct NodeEnd {
    talk: Talk<NodeEvent>,
    limits: NodeLimits,
    lines: BTreeMap<Line, Lent>,
    next: u32,
    /// Until when a session has to be open.
    unused_until: Duration,
}

impl NodeEnd {
    /// An end that begins now, for a node that computes by `law` of arithmetic.
    pub fn new(law: u16, limits: NodeLimits, now: Duration) -> NodeEnd {
        NodeEnd {
            talk: Talk::new(law, Capabilities::SERVES, now),
            limits,
            lines: BTreeMap::new(),
            next: 0,
            unused_until: now + GREETING_DEADLINE + GREETING_DEADLINE,
        }
    }

    fn take(&mut self, now: Duration, frame: Frame) -> Result<(), SessionError> {
        match frame {
            Frame::Hello(hello) => self.talk.events.push_back(NodeEvent::Greeted(hello)),
            // What a desk can do is of no interest to a node that only serves.
            Frame::Profile { .. } => {}
            Frame::Open { line, session, spec } => self.asked_to_open(now, line, session, spec)?,
            Frame::Close(line) => {
                if self.known(line, "Close")?.is_some() {
                    self.drop_line(line);
                    self.talk.say(&Frame::Closed(line))?;
                }
            }
            Frame::Forward(forward) => {
                let line = forward.line;
                self.ordered(now, line, "Forward", |lent| lent.forward(forward))?;
            }
            Frame::Guesses(guesses) => {
                let line = guesses.line;
                self.ordered(now, line, "Guesses", |lent| lent.guesses(guesses))?;
            }
            Frame::Rollback { line, epoch, to } => {
                self.ordered(now, line, "Rollback", |lent| lent.roll_back(epoch, to))?;
            }
            Frame::Generate(generate) => {
                let line = generate.line;
                self.ordered(now, line, "Generate", |lent| lent.generate(generate))?;
            }
            Frame::TakeCache { line, first, to } => {
                let take = |lent: &mut Lent| lent.take_cache(first, to);
                let event = NodeEvent::TakeCache { line, first, to };
                self.asked_to_move(now, line, "TakeCache", take, event)?;
            }
            Frame::PutCache { line, part } => {
                let (first, tokens) = (part.first, part.tokens);
                let put = |lent: &mut Lent| lent.put_cache(first, tokens);
                let event = NodeEvent::PutCache(line, part);
                self.asked_to_move(now, line, "PutCache", put, event)?;
            }
            Frame::Vouch(line) => {
                self.asked_to_move(now, line, "Vouch", Lent::vouch, NodeEvent::Vouch(line))?;
            }
            Frame::Expect { line, from, ticket } => {
                let forgotten = self.open_line(line, "Expect")?.map(Lent::expect);
                if let Some(bytes) = forgotten {
                    self.taken(line, bytes);
                    let event = NodeEvent::Expect { line, from, ticket };
                    self.talk.events.push_back(event);
                }
            }
            Frame::Join(join) => {
                if self.open_line(join.line, "Join")?.is_some() {
                    self.talk.events.push_back(NodeEvent::Join(join));
                }
            }
            Frame::Choose { line, options } => {
                self.ordered(now, line, "Choose", |lent| lent.choose(options))?;
            }
            other => {
                return Err(SessionError::Unexpected {
                    frame: other.name(),
                    why: "a desk does not say this",
                });
            }
        }
        Ok(())
    }

    /// The session that a message is about; `None` where it has ended and the desk cannot know yet.
    fn known(&mut self, line: Line, frame: &'static str) -> Result<Option<&mut Lent>, SessionError> {
        if line.0 >= self.next {
            return Err(SessionError::Unexpected {
                frame,
                why: "its session was never opened",
            });
        }
        Ok(self.lines.get_mut(&line))
    }

    /// The same for a session that has to be open.
    fn open_line(&mut self, line: Line, frame: &'static str) -> Result<Option<&mut Lent>, SessionError> {
        match self.known(line, frame)? {
            Some(lent) if lent.width.is_none() => Err(SessionError::Unexpected {
                frame,
                why: "its session is not open yet",
            }),
            lent => Ok(lent),
        }
    }

    /// Rows that were handed over wait no longer.
    fn taken(&mut self, line: Line, bytes: u64) {
        if bytes > 0 {
            self.talk.events.push_back(NodeEvent::Taken { line, bytes });
        }
    }

    /// Takes rows in that another node handed over.
    fn hand(&mut self, line: Line, tag: Tag, rows: PackedRows) -> Result<(), SessionError> {
        // A session that ended meanwhile has no use for them.
        let Some(lent) = self.lines.get_mut(&line) else {
            return Ok(());
        };
        let bytes = lent::bytes_of(&rows);
        if !lent.expects || lent.hand(tag, rows, self.limits.bytes.into()).is_err() {
            self.taken(line, bytes);
            self.talk.events.push_back(NodeEvent::Misled(line));
            return Ok(());
        }
        self.hand_out(line)
    }

    fn asked_to_open(
        &mut self,
        now: Duration,
        line: Line,
        session: SessionId,
        spec: StageSpec,
    ) -> Result<(), SessionError> {
        if line.0 != self.next {
            return Err(SessionError::Unexpected {
                frame: "Open",
                why: "sessions are counted in their order",
            });
        }
        self.next += 1;
        if self.lines.len() >= LINES_MAX {
            let reason = Refusal::TooManySessions;
            return self.talk.say(&Frame::Refused { line, reason });
        }
        self.lines.insert(line, Lent::asked(spec.clone(), now));
        self.talk
            .events
            .push_back(NodeEvent::Open { line, session, spec });
        Ok(())
    }

    /// Lets a cache travel from or to a session that is open and has nothing else to do.
    fn asked_to_move(
        &mut self,
        now: Duration,
        line: Line,
        frame: &'static str,
        take: impl FnOnce(&mut Lent) -> Result<(), &'static str>,
        event: NodeEvent,
    ) -> Result<(), SessionError> {
        let Some(lent) = self.known(line, frame)? else {
            return Ok(());
        };
        take(lent).map_err(|why| SessionError::Unexpected { frame, why })?;
        lent.used = now;
        self.talk.events.push_back(event);
        Ok(())
    }

    /// A cache has travelled.
    fn moved(&mut self, now: Duration, line: Line, frame: &Frame) -> Result<(), SessionError> {
        // A session that ended meanwhile has nobody left to tell.
        let Some(lent) = self.lines.get_mut(&line) else {
            return Ok(());
        };
        if !lent.moved(frame) {
            return Err(SessionError::Misuse("a cache that nobody asked for"));
        }
        lent.used = now;
        self.talk.say(frame)
    }

    /// Takes an order of an open session in, within its window.
    fn ordered(
        &mut self,
        now: Duration,
        line: Line,
        frame: &'static str,
        take: impl FnOnce(&mut Lent) -> Result<(), SessionError>,
    ) -> Result<(), SessionError> {
        let limits = self.limits;
        let Some(lent) = self.known(line, frame)? else {
            return Ok(());
        };
        if lent.width.is_none() {
            return Err(SessionError::Unexpected {
                frame,
                why: "its session is not open yet",
            });
        }
        if lent.moving.is_some() {
            return Err(SessionError::Unexpected {
                frame,
                why: "a cache is on its way",
            });
        }
        take(lent)?;
        lent.used = now;
        if lent.unanswered() > limits.orders as usize
            || lent.unanswered() > 1 && lent.bytes > limits.bytes as usize
            || lent.queue.len() > SILENT_MAX
        {
            return Err(SessionError::Unexpected {
                frame,
                why: "the window has no room for it",
            });
        }
        self.hand_out(line)
    }

    /// Hands a session's orders out, as far as its stage has room, and answers those that became void.
    fn hand_out(&mut self, line: Line) -> Result<(), SessionError> {
        let Some(lent) = self.lines.get_mut(&line) else {
            return Ok(());
        };
        let mut taken = lent.forget_early();
        while lent.may_hand_out() {
            let Some(queued) = lent.queue.pop_front() else {
                break;
            };
            lent.nudged = matches!(lent.handed.back(), Some(Handed::Alone(_)));
            let event = match queued {
                Queued::Forward(asked, _) if asked.void => {
                    lent.bytes -= asked.bytes;
                    let epoch = asked.epoch;
                    self.talk.say(&Frame::Done { line, epoch })?;
                    taken += lent.forget_early();
                    continue;
                }
                Queued::Forward(asked, order) if asked.handed.is_some() => {
                    let Some((_, rows)) = lent.early.pop_front() else {
                        return Err(SessionError::Misuse("an order whose rows were not handed over"));
                    };
                    taken += lent::bytes_of(&rows);
                    let Some(filled) = orders::filled(order.clone(), &rows) else {
                        // The desk hears of it from who handed them over, and asks again.
                        lent.queue.push_front(Queued::Forward(asked, order));
                        self.talk.events.push_back(NodeEvent::Misled(line));
                        break;
                    };
                    lent.handed.push_back(Handed::Forward(asked));
                    NodeEvent::Order(line, filled)
                }
                Queued::Forward(asked, order) => {
                    lent.handed.push_back(Handed::Forward(asked));
                    NodeEvent::Order(line, order)
                }
                Queued::Alone(alone, order) => {
                    lent.handed.push_back(Handed::Alone(alone));
                    NodeEvent::Order(line, order)
                }
                Queued::Rollback(to) => NodeEvent::Order(line, Order::Rollback(to)),
                Queued::Choose(options) => NodeEvent::Choose(line, options),
            };
            self.talk.events.push_back(event);
        }
        self.taken(line, taken);
        Ok(())
    }

    /// Sends a reply to a session's oldest order.
    fn reply(&mut self, now: Duration, line: Line, reply: &Reply) -> Result<(), SessionError> {
        // A session that ended meanwhile has nobody left to tell.
        let Some(lent) = self.lines.get_mut(&line) else {
            return Ok(());
        };
        lent.used = now;
        let frame = match (lent.handed.front_mut(), reply) {
            (Some(Handed::Alone(alone)), Reply::Choices { first, tokens }) => {
                let fits = *first == alone.next && tokens.len() == 1 && alone.left > 0;
                if !fits {
                    return Err(SessionError::Misuse("a token that its stream does not await"));
                }
                alone.next.0 += 1;
                alone.left = if alone.ends.contains(&tokens[0]) {
                    0
                } else {
                    alone.left - 1
                };
                Frame::Choices(ChoicesFrame {
                    line,
                    epoch: alone.epoch,
                    first: *first,
                    agreed: 0,
                    tokens: tokens.clone(),
                })
            }
            (Some(Handed::Forward(asked)), reply) => {
                let frame = answer(line, asked, reply)?;
                lent.bytes -= asked.bytes;
                lent.handed.pop_front();
                frame
            }
            _ => return Err(SessionError::Misuse("a reply to nothing")),
        };
        self.talk.say(&frame)?;
        self.hand_out(line)
    }

    /// A session's stream is over.
    fn done(&mut self, line: Line) -> Result<(), SessionError> {
        let Some(lent) = self.lines.get_mut(&line) else {
            return Ok(());
        };
        let Some(Handed::Alone(alone)) = lent.handed.pop_front() else {
            return Err(SessionError::Misuse("the end of what is no stream"));
        };
        lent.nudged = false;
        if alone.epoch == lent.epoch && lent.unanswered() == 0 {
            lent.end = alone.next.index() - 1;
        }
        let epoch = alone.epoch;
        self.talk.say(&Frame::Done { line, epoch })?;
        self.hand_out(line)
    }

    fn drop_line(&mut self, line: Line) {
        if self.lines.remove(&line).is_some() {
            self.talk.events.push_back(NodeEvent::Close(line));
        }
    }

    fn obey(&mut self, now: Duration, command: NodeCommand) -> Result<(), SessionError> {
        match command {
            NodeCommand::Profile { version, record } => self.talk.say(&Frame::Profile { version, record }),
            NodeCommand::Grant { line, width } => {
                let NodeLimits { orders, bytes, .. } = self.limits;
                let Some(lent) = self.lines.get_mut(&line) else {
                    return Ok(());
                };
                (lent.width, lent.used) = (Some(width as usize), now);
                self.talk.say(&Frame::Opened {
                    line,
                    width,
                    orders,
                    bytes,
                })
            }
            NodeCommand::Refuse { line, reason } => match self.lines.remove(&line) {
                Some(_) => self.talk.say(&Frame::Refused { line, reason }),
                None => Ok(()),
            },
            NodeCommand::Reply(line, reply) => self.reply(now, line, &reply),
            NodeCommand::Cache(line, part) => self.moved(now, line, &Frame::Cache { line, part }),
            NodeCommand::CacheHeld(line, held) => self.moved(now, line, &Frame::CacheHeld { line, held }),
            NodeCommand::Vouched(vouched) => self.moved(now, vouched.line, &Frame::Vouched(vouched)),
            NodeCommand::Done(line) => self.done(line),
            NodeCommand::Expecting(line) => self.tell(line, &Frame::Expecting(line)),
            NodeCommand::Hand { line, tag, rows } => self.hand(line, tag, rows),
            NodeCommand::Joined { line, round_trip } => {
                let round_trip_us = u32::try_from(round_trip.as_micros()).unwrap_or(u32::MAX);
                self.tell(line, &Frame::Joined { line, round_trip_us })
            }
            NodeCommand::Parted { line, mut sentence } => {
                while sentence.len() > SENTENCE_MAX {
                    sentence.pop();
                }
                self.tell(line, &Frame::Parted { line, sentence })
            }
            NodeCommand::HandedOn { line, bytes } => self.tell(line, &Frame::HandedOn { line, bytes }),
            NodeCommand::Fail { line, code, sentence } => match self.lines.remove(&line) {
                Some(_) => self.talk.say(&Frame::Fault {
                    line: Some(line),
                    code,
                    sentence,
                }),
                None => Ok(()),
            },
            NodeCommand::Busy { line, eta } => {
                let eta_ms = eta.as_millis().min(u128::from(u32::MAX)) as u32;
                match self.lines.contains_key(&line) {
                    true => self.talk.say(&Frame::Busy { line, eta_ms }),
                    false => Ok(()),
                }
            }
            NodeCommand::Leave(farewell) => {
                self.end(now, Some(Frame::Bye(farewell)));
                Ok(())
            }
        }
    }

    /// Says something about a session, unless it ended meanwhile.
    fn tell(&mut self, line: Line, frame: &Frame) -> Result<(), SessionError> {
        match self.lines.contains_key(&line) {
            true => self.talk.say(frame),
            false => Ok(()),
        }
    }

    /// Ends everything; who computes for a session hears that nobody waits any more.
    fn end(&mut self, now: Duration, last: Option<Frame>) {
        let lines = std::mem::take(&mut self.lines);
        let closed = lines.into_keys().map(NodeEvent::Close);
        self.talk.events.extend(closed);
        self.talk.end(now, last);
    }

    /// After every call: an error ends everything.
    fn settle(&mut self, now: Duration, outcome: Result<(), SessionError>) {
        if !self.lines.is_empty() {
            self.unused_until = now + self.limits.idle_after;
        }
        if let Err(error) = outcome
            && !self.talk.is_over()
        {
            self.end(now, Talk::<NodeEvent>::last_word(&error));
            self.talk.events.push_back(NodeEvent::Over(error));
        }
    }

    /// Ends sessions that nobody has used for long, and the stream once it has none.
    fn expire(&mut self, now: Duration) -> Result<(), SessionError> {
        let idle_after = self.limits.idle_after;
        let idle = self
            .lines
            .iter()
            .filter(|(_, lent)| lent.idle_at(idle_after).is_some_and(|at| now >= at));
        let idle: Vec<Line> = idle.map(|(line, _)| *line).collect();
        for line in idle {
            self.drop_line(line);
            self.talk.say(&Frame::Fault {
                line: Some(line),
                code: FaultCode::Idle,
                sentence: format!("nothing was asked for {} s", idle_after.as_secs()),
            })?;
        }
        if self.lines.is_empty() && now >= self.unused_until {
            self.end(now, Some(Frame::Bye(Farewell::Idle)));
        }
        Ok(())
    }
}

/// The frame that answers a forward order.
fn answer(line: Line, asked: &Asked, reply: &Reply) -> Result<Frame, SessionError> {
    if asked.answers == 0 {
        let epoch = asked.epoch;
        return Ok(Frame::Done { line, epoch });
    }
    Ok(match reply {
        Reply::Rows { first, hidden } => Frame::Rows(orders::rows_frame(line, asked, *first, hidden)?),
        Reply::Choices { first, tokens } => {
            Frame::Choices(orders::choices_frame(line, asked, *first, tokens))
        }
    })
}

impl Machine for NodeEnd {
    type Command = NodeCommand;
    type Event = NodeEvent;
    type Error = SessionError;

    fn command(&mut self, now: Duration, command: NodeCommand) -> Result<(), SessionError> {
        if !self.talk.is_over() {
            let outcome = self.obey(now, command);
            self.settle(now, outcome);
        }
        Ok(())
    }

    fn receive(&mut self, now: Duration, bytes: &[u8]) -> Result<(), SessionError> {
        self.talk.hear(now, bytes);
        let outcome = loop {
            match self.talk.next() {
                Ok(None) => break Ok(()),
                Ok(Some(frame)) => {
                    if let Err(error) = self.take(now, frame) {
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
        let outcome = self.talk.wake(now)?;
        let outcome = outcome.and_then(|()| match self.talk.is_over() {
            true => Ok(()),
            false => self.expire(now),
        });
        self.settle(now, outcome);
        Ok(())
    }

    fn deadline(&self) -> Option<Duration> {
        if self.talk.is_over() {
            return self.talk.deadline();
        }
        let unused = self.lines.is_empty().then_some(self.unused_until);
        let idle_after = self.limits.idle_after;
        let idle = self.lines.values().filter_map(|lent| lent.idle_at(idle_after));
        idle.chain(unused).chain(self.talk.deadline()).min()
    }

    fn transmit(&mut self, out: &mut Vec<u8>) {
        self.talk.transmit(out);
    }

    fn event(&mut self) -> Option<NodeEvent> {
        self.talk.events.pop_front()
    }

    fn finished(&self) -> bool {
        self.talk.finished()
    }
}
