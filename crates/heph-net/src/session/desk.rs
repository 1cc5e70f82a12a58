//! The desk's end: opens sessions, keeps as many orders under way as the node's window lets it, tells the replies.

mod pulse;
mod seated;

use std::collections::BTreeMap;
use std::time::Duration;

use heph_privacy::Cleared;
use heph_types::{CachePart, NodeId, Order, Position, Reply, SamplingOptions, SessionId, StageSpec, Ticket};

use super::talk::Talk;
use super::{
    ANSWER_DEADLINE, BUSY_MAX, Codecs, Heading, LINES_MAX, LOST_AFTER, MEASURED_LEAST, OPEN_DEADLINE,
    PING_EVERY, SessionError, WAITING_MAX,
};
use crate::codec::WIDTH_MAX;
use crate::drive::Machine;
use crate::wire::{
    CACHES_SINCE, Capabilities, Farewell, FaultCode, Frame, HOPS_SINCE, Hello, JoinFrame, Line, Refusal,
    RowsFrame, VOUCHES_SINCE, VouchedFrame,
};
use pulse::{Answered, PINGS_MAX, Pulse};
use seated::{Hands, Moving, Seated, Stage, Waiting, weight};

/// What a desk asks of its end. What is made of a prompt has to be cleared for the node at the other end:
///
/// ```compile_fail
/// use heph_net::{session::DeskCommand, wire::Line};
/// let order = heph_types::Order::Rollback(heph_types::Position(0));
/// let command = DeskCommand::Order(Line(0), order);
/// ```
///
/// ```compile_fail
/// use heph_net::{session::DeskCommand, wire::Line};
/// fn hand_over(part: heph_types::CachePart) -> DeskCommand {
///     DeskCommand::PutCache(Line(0), part)
/// }
/// ```
///
/// ```compile_fail
/// use heph_net::{session::DeskCommand, wire::JoinFrame};
/// fn meet(join: JoinFrame) -> DeskCommand {
///     DeskCommand::Join(join)
/// }
/// ```
#[derive(Debug, PartialEq)]
pub enum DeskCommand {
    /// Asks for a session. Sessions are named by [`Line`]s, counted from 0 in the order of these commands.
    Open {
        /// The desk's name for it.
        session: SessionId,
        /// What the stage is to be.
        spec: StageSpec,
        /// How rows are to travel.
        codecs: Codecs,
    },
    /// Gives a session an order; it waits until the session is open and the window has room.
    Order(Line, Cleared<Order>),
    /// Lets a session choose tokens by other options, from the next order on.
    Choose(Line, SamplingOptions),
    /// Asks for what a session's caches hold of these positions. Nothing may be under way.
    TakeCache {
        /// Which.
        line: Line,
        /// The first position.
        first: Position,
        /// The first that is not asked for.
        to: Position,
    },
    /// Gives a session's caches what another's held. Nothing may be under way.
    PutCache(Line, Cleared<CachePart>),
    /// Asks a session's node to sign what it computed for it, as soon as nothing is under way.
    Vouch(Line),
    /// Lets another node hand rows over to a session, if it shows this ticket: in place of whoever might so far.
    Expect {
        /// Which.
        line: Line,
        /// Who.
        from: NodeId,
        /// What it has to show.
        ticket: Ticket,
    },
    /// Lets a session hand its rows to another node: in place of whoever had them so far.
    Join(Cleared<JoinFrame>),
    /// Lets a session's rows travel in other formats, from the next order that is sent on.
    Carry(Line, Codecs),
    /// Wants no more of a session.
    Close(Line),
    /// Wants no more of any.
    Leave,
}

/// What a desk's end tells.
#[derive(Debug, Clone, PartialEq)]
pub enum DeskEvent {
    /// The node is there and fits.
    Greeted(Hello),
    /// What the node can do, in a record of its own version.
    Profile {
        /// Version of the record.
        version: u16,
        /// The record.
        record: Vec<u8>,
    },
    /// A session is open.
    Opened {
        /// Which.
        line: Line,
        /// Numbers of a row.
        width: usize,
    },
    /// A session is not opened.
    Refused {
        /// Which.
        line: Line,
        /// Why.
        reason: Refusal,
    },
    /// The next reply of a session: one for each forward order in their order, one for each token of a stream. An order
    /// that a later one made void is answered without rows or tokens.
    Reply(Line, Reply),
    /// A rollback was sent, or there was nothing to forget: no reply to an earlier stream follows.
    Forgot(Line),
    /// The node lives and needs about so long.
    Busy {
        /// Which session.
        line: Line,
        /// How long.
        eta: Duration,
    },
    /// The node ended a session.
    Ended {
        /// Which.
        line: Line,
        /// What kind of end.
        code: FaultCode,
        /// In its words.
        sentence: String,
    },
    /// What a session's caches hold of the positions asked for, or of the first of them.
    Cache(Line, CachePart),
    /// A session's caches hold everything before this position now.
    CacheHeld(Line, Position),
    /// A session's caches cannot be asked or given: something is under way, or the node speaks an older version.
    CacheStays(Line),
    /// What a session's node computed, signed by it.
    Vouched(VouchedFrame),
    /// A session's node signs nothing: it speaks an older version, or the session is over.
    Unvouched(Line),
    /// A session takes rows of the node that was named.
    Expecting(Line),
    /// A session hands on the rows of the orders that say so.
    Joined {
        /// Which.
        line: Line,
        /// What a message to the other node and back takes.
        round_trip: Duration,
    },
    /// A session expects or hands on nothing, or nothing more.
    Parted {
        /// Which.
        line: Line,
        /// Why, in the node's words or this end's.
        sentence: String,
    },
    /// So many bytes were handed on by a session so far, as its node says.
    HandedOn {
        /// Which.
        line: Line,
        /// Bytes.
        bytes: u64,
    },
    /// A session was closed as asked.
    Closed(Line),
    /// How long a sign of life took there and back.
    RoundTrip(Duration),
    /// So many bytes kept the way busy for so long.
    Crossed {
        /// In which direction.
        heading: Heading,
        /// Bytes of a message, or of its greater part.
        bytes: u64,
        /// How long; waiting for the other end is left out.
        busy: Duration,
    },
    /// Everything is over, for this reason. Nothing follows.
    Over(SessionError),
}

/// The desk's end of a stream.
#[derive(Debug)]
pub struct DeskEnd {
    talk: Talk<DeskEvent>,
    lines: BTreeMap<Line, Seated>,
    next: u32,
    pulse: Pulse,
    /// When a session was asked for last.
    asked_to_open: Duration,
    /// Who is at the other end, where that is known.
    node: Option<NodeId>,
}

impl DeskEnd {
    /// An end that begins now, for a desk that computes by `law` of arithmetic.
    pub fn new(law: u16, now: Duration) -> DeskEnd {
        DeskEnd {
            talk: Talk::new(law, Capabilities::default(), now),
            lines: BTreeMap::new(),
            next: 0,
            pulse: Pulse::new(now),
            asked_to_open: now,
            node: None,
        }
    }

    /// The same end, for a stream that leads to `node`: what was cleared for somebody else does not go there.
    pub fn towards(self, node: NodeId) -> DeskEnd {
        DeskEnd {
            node: Some(node),
            ..self
        }
    }

    /// What was cleared, where it was cleared for the node at the other end.
    fn meant<T>(&self, cleared: Cleared<T>) -> Result<T, SessionError> {
        match self.node {
            Some(node) if cleared.to().id != node.to_string() => Err(SessionError::Misuse(
                "something that was cleared for another destination",
            )),
            _ => Ok(cleared.into_value()),
        }
    }

    fn open(
        &mut self,
        now: Duration,
        session: SessionId,
        spec: StageSpec,
        codecs: Codecs,
    ) -> Result<(), SessionError> {
        if self.lines.len() >= LINES_MAX {
            return Err(SessionError::Misuse("as many sessions are open as may be"));
        }
        let line = Line(self.next);
        self.next += 1;
        self.talk.say(&Frame::Open {
            line,
            session,
            spec: spec.clone(),
        })?;
        self.asked_to_open = now;
        let seated = Seated::opening(spec, codecs, now + OPEN_DEADLINE);
        self.lines.insert(line, seated);
        Ok(())
    }

    fn take(&mut self, now: Duration, frame: Frame) -> Result<(), SessionError> {
        match frame {
            Frame::Hello(hello) => self.talk.events.push_back(DeskEvent::Greeted(hello)),
            Frame::Pong(stamp) => {
                let told = match self.pulse.answered(now, stamp)? {
                    Answered::RoundTrip(round_trip) => Some(DeskEvent::RoundTrip(round_trip)),
                    Answered::Crossed(bytes, busy) => {
                        let heading = Heading::Up;
                        Some(DeskEvent::Crossed { heading, bytes, busy })
                    }
                    Answered::Life => None,
                };
                self.talk.events.extend(told);
            }
            Frame::Profile { version, record } => {
                self.talk.events.push_back(DeskEvent::Profile { version, record });
            }
            Frame::Busy { line, eta_ms } => self.busy(now, line, eta_ms)?,
            Frame::Opened {
                line,
                width,
                orders,
                bytes,
            } => self.opened(now, line, width, orders, bytes)?,
            Frame::Refused { line, reason } => {
                self.expect(line, "Refused", |seated| seated.stage == Stage::Opening)?;
                self.lines.remove(&line);
                self.talk.events.push_back(DeskEvent::Refused { line, reason });
            }
            Frame::Fault {
                line: Some(line),
                code,
                sentence,
            } => {
                self.expect(line, "Fault", |_| true)?;
                self.lines.remove(&line);
                let sentence = sentence.chars().filter(|c| !c.is_control()).collect();
                self.talk
                    .events
                    .push_back(DeskEvent::Ended { line, code, sentence });
            }
            Frame::Closed(line) => {
                self.expect(line, "Closed", |seated| seated.stage == Stage::Closing)?;
                self.lines.remove(&line);
                self.talk.events.push_back(DeskEvent::Closed(line));
            }
            Frame::Rows(rows) => self.rows(now, rows)?,
            Frame::Choices(choices) => {
                let line = choices.line;
                self.answered(now, line, "Choices", |seated| seated.choices(choices))?;
            }
            Frame::Done { line, epoch } => {
                self.answered(now, line, "Done", |seated| seated.done(epoch))?;
            }
            Frame::Cache { line, part } => {
                let seated = self.expect(line, "Cache", |seated| seated.awaits_part(&part))?;
                (seated.moving, seated.due) = (None, None);
                self.talk.events.push_back(DeskEvent::Cache(line, part));
                self.send(now, line)?;
            }
            Frame::CacheHeld { line, held } => {
                let put = Some(Moving::Put { end: held.index() });
                let seated = self.expect(line, "CacheHeld", |seated| seated.moving == put)?;
                (seated.moving, seated.due, seated.end) = (None, None, held.index());
                self.talk.events.push_back(DeskEvent::CacheHeld(line, held));
                self.send(now, line)?;
            }
            Frame::Vouched(vouched) => {
                let line = vouched.line;
                let fits = |seated: &Seated| {
                    let held = vouched.first <= vouched.to && vouched.to.index() <= seated.end;
                    seated.moving == Some(Moving::Vouch) && held
                };
                let seated = self.expect(line, "Vouched", fits)?;
                (seated.moving, seated.due) = (None, None);
                self.talk.events.push_back(DeskEvent::Vouched(vouched));
                self.send(now, line)?;
            }
            Frame::Expecting(line) => {
                let seated = self.expect(line, "Expecting", |seated| seated.expects)?;
                seated.expects = false;
                self.talk.events.push_back(DeskEvent::Expecting(line));
            }
            Frame::Joined { line, round_trip_us } => {
                let asked = |seated: &Seated| seated.hands != Hands::Never;
                let seated = self.expect(line, "Joined", asked)?;
                // A hop that parted before it was joined is not trusted any more.
                if seated.hands == Hands::Asked {
                    seated.hands = Hands::Joined;
                    let round_trip = Duration::from_micros(round_trip_us.into());
                    self.talk.events.push_back(DeskEvent::Joined { line, round_trip });
                }
            }
            Frame::Parted { line, sentence } => {
                let asked = |seated: &Seated| seated.hands != Hands::Never;
                self.expect(line, "Parted", asked)?.hands = Hands::Parted;
                self.part(line, &sentence);
            }
            Frame::HandedOn { line, bytes } => {
                let fits = |seated: &Seated| seated.hands != Hands::Never && bytes >= seated.handed_bytes;
                self.expect(line, "HandedOn", fits)?.handed_bytes = bytes;
                self.talk.events.push_back(DeskEvent::HandedOn { line, bytes });
            }
            other => {
                return Err(SessionError::Unexpected {
                    frame: other.name(),
                    why: "a node does not say this",
                });
            }
        }
        Ok(())
    }

    /// Tells that a session expects or hands on nothing.
    fn part(&mut self, line: Line, sentence: &str) {
        let sentence = sentence.chars().filter(|c| !c.is_control()).collect();
        self.talk.events.push_back(DeskEvent::Parted { line, sentence });
    }

    /// Asks for one end of a hop, where the session is open and the node knows of hops.
    fn ask_for_hop(&mut self, line: Line, frame: &Frame) -> Result<(), SessionError> {
        let speaks = self.talk.their_last().is_some_and(|last| last >= HOPS_SINCE);
        let open = |seated: &&mut Seated| matches!(seated.stage, Stage::Open { .. });
        let Some(seated) = self.lines.get_mut(&line).filter(open).filter(|_| speaks) else {
            self.part(line, "it speaks an older version");
            return Ok(());
        };
        match frame {
            Frame::Expect { .. } => seated.expects = true,
            _ => seated.hands = Hands::Asked,
        }
        self.talk.say(frame)
    }

    /// The session that a message is about.
    fn expect(
        &mut self,
        line: Line,
        frame: &'static str,
        fits: impl Fn(&Seated) -> bool,
    ) -> Result<&mut Seated, SessionError> {
        let seated = self.lines.get_mut(&line).filter(|seated| fits(seated));
        seated.ok_or(SessionError::Unexpected {
            frame,
            why: "no session waits for it",
        })
    }

    fn opened(
        &mut self,
        now: Duration,
        line: Line,
        width: u32,
        orders: u32,
        bytes: u32,
    ) -> Result<(), SessionError> {
        let seated = self.expect(line, "Opened", |seated| seated.stage == Stage::Opening)?;
        let (width, orders, bytes) = (width as usize, orders as usize, bytes as usize);
        if width == 0 || width > WIDTH_MAX || orders == 0 {
            return Err(SessionError::Unexpected {
                frame: "Opened",
                why: "its rows or its window are of no size",
            });
        }
        seated.stage = Stage::Open { width, orders, bytes };
        seated.due = None;
        // No less than the way takes, and where a stage is opened at once not much more.
        self.pulse.saw(now, now.saturating_sub(self.asked_to_open));
        self.talk.events.push_back(DeskEvent::Opened { line, width });
        self.send(now, line)
    }

    fn busy(&mut self, now: Duration, line: Line, eta_ms: u32) -> Result<(), SessionError> {
        let seated = self.expect(line, "Busy", |_| true)?;
        let eta = Duration::from_millis(eta_ms.into()).min(BUSY_MAX);
        let later = now + eta + OPEN_DEADLINE;
        seated.due = seated.due.map(|due| due.max(later));
        self.talk.events.push_back(DeskEvent::Busy { line, eta });
        Ok(())
    }

    fn rows(&mut self, now: Duration, rows: RowsFrame) -> Result<(), SessionError> {
        self.answered(now, rows.line, "Rows", |seated| seated.rows(&rows))
    }

    /// Lets a session take an answer in, tells it, and uses the room that it makes.
    fn answered(
        &mut self,
        now: Duration,
        line: Line,
        frame: &'static str,
        take: impl FnOnce(&mut Seated) -> Result<Vec<Reply>, SessionError>,
    ) -> Result<(), SessionError> {
        let seated = self.expect(line, frame, |seated| seated.stage != Stage::Opening)?;
        if seated.stage == Stage::Closing {
            // It was on its way when the session was closed.
            return Ok(());
        }
        let replies = take(seated)?;
        seated.due = (!seated.asked.is_empty()).then_some(now + ANSWER_DEADLINE);
        let replies = replies.into_iter().map(|reply| DeskEvent::Reply(line, reply));
        self.talk.events.extend(replies);
        self.send(now, line)
    }

    /// Sends what waits, as far as the window has room.
    fn send(&mut self, now: Duration, line: Line) -> Result<(), SessionError> {
        let (said, theirs) = (self.talk.said, self.talk.their_last());
        let Some(seated) = self.lines.get_mut(&line) else {
            return Ok(());
        };
        while seated.has_room(0) {
            let Some(frame) = seated.ready(line, theirs)? else {
                break;
            };
            if !seated.has_room(weight(&frame)) {
                seated.ready = Some(frame);
                break;
            }
            if seated.asked.is_empty() {
                seated.due = Some(now + ANSWER_DEADLINE);
            }
            self.talk.say(&frame)?;
            seated.sent(frame);
        }
        if seated.vouches && seated.is_idle() {
            seated.vouches = false;
            (seated.moving, seated.due) = (Some(Moving::Vouch), Some(now + ANSWER_DEADLINE));
            self.talk.say(&Frame::Vouch(line))?;
        }
        if seated.asked.is_empty() && seated.moving.is_none() && matches!(seated.stage, Stage::Open { .. }) {
            seated.due = None;
        }
        let forgot = std::mem::take(&mut seated.forgot);
        self.talk
            .events
            .extend((0..forgot).map(|_| DeskEvent::Forgot(line)));
        let sent = self.talk.said - said;
        if sent >= MEASURED_LEAST
            && let Some(stamp) = self.pulse.measure(now, sent)
        {
            self.talk.say(&Frame::Ping(stamp))?;
        }
        Ok(())
    }

    /// Begins to watch the node once something is waited for.
    fn watch(&mut self, now: Duration) -> Result<(), SessionError> {
        let waits = !self.talk.is_over() && self.lines.values().any(|seated| seated.due.is_some());
        if !waits {
            self.pulse.since = None;
            return Ok(());
        }
        self.pulse.since.get_or_insert(now);
        if now >= self.pulse.next && self.pulse.asked.len() < PINGS_MAX {
            let stamp = self.pulse.ask(now, 0);
            self.pulse.next = now + PING_EVERY;
            self.talk.say(&Frame::Ping(stamp))?;
        }
        Ok(())
    }

    /// When a node that stays silent is lost.
    fn lost_at(&self) -> Option<Duration> {
        let since = self.pulse.since?;
        Some(since.max(self.talk.heard) + LOST_AFTER)
    }

    /// This machine itself was asleep: the node gets time again, since it could not be heard meanwhile.
    fn sleep_in(&mut self, now: Duration) {
        self.pulse.since = self.pulse.since.map(|_| now);
        self.pulse.next = now;
        for due in self.lines.values_mut().filter_map(|seated| seated.due.as_mut()) {
            *due = (*due).max(now + OPEN_DEADLINE);
        }
    }

    /// What is too late by now.
    fn overdue(&mut self, now: Duration) -> Result<(), SessionError> {
        if self.deadline().is_some_and(|at| now > at + LOST_AFTER) {
            self.sleep_in(now);
        }
        if self.lost_at().is_some_and(|lost| now >= lost) {
            return Err(SessionError::Silent(LOST_AFTER));
        }
        let late = |seated: &Seated| match seated.stage {
            Stage::Opening => ("to open a session", OPEN_DEADLINE),
            Stage::Open { .. } => ("over one order", ANSWER_DEADLINE),
            Stage::Closing => ("to close a session", OPEN_DEADLINE),
        };
        let overdue = self
            .lines
            .values()
            .find(|seated| seated.due.is_some_and(|due| now >= due));
        match overdue.map(late) {
            Some((what, waited)) => Err(SessionError::Late { what, waited }),
            None => Ok(()),
        }
    }

    /// Ends everything, for a reason that is told to both sides.
    fn give_up(&mut self, now: Duration, error: SessionError) {
        if !self.talk.is_over() {
            self.talk.end(now, Talk::<DeskEvent>::last_word(&error));
            self.lines.clear();
            self.talk.events.push_back(DeskEvent::Over(error));
        }
    }

    /// After every call: an error ends everything, else the node is watched.
    fn settle(&mut self, now: Duration, outcome: Result<(), SessionError>) {
        if let Err(error) = outcome.and_then(|()| self.watch(now)) {
            self.give_up(now, error);
        }
    }

    fn obey(&mut self, now: Duration, command: DeskCommand) -> Result<(), SessionError> {
        match command {
            DeskCommand::Open {
                session,
                spec,
                codecs,
            } => self.open(now, session, spec, codecs),
            DeskCommand::Order(line, order) => {
                let order = self.meant(order)?;
                self.wait(now, line, Waiting::Order(order))
            }
            DeskCommand::Choose(line, options) => self.wait(now, line, Waiting::Choose(options)),
            DeskCommand::TakeCache { line, first, to } => {
                let moving = Moving::Take { first, to };
                self.move_cache(now, line, moving, Frame::TakeCache { line, first, to })
            }
            DeskCommand::PutCache(line, part) => {
                let part = self.meant(part)?;
                let end = part.first.index().saturating_add(part.tokens as usize);
                self.move_cache(now, line, Moving::Put { end }, Frame::PutCache { line, part })
            }
            DeskCommand::Vouch(line) => {
                let speaks = self.talk.their_last().is_some_and(|last| last >= VOUCHES_SINCE);
                let Some(seated) = self.lines.get_mut(&line).filter(|_| speaks) else {
                    self.talk.events.push_back(DeskEvent::Unvouched(line));
                    return Ok(());
                };
                seated.vouches = true;
                self.send(now, line)
            }
            DeskCommand::Expect { line, from, ticket } => {
                self.ask_for_hop(line, &Frame::Expect { line, from, ticket })
            }
            DeskCommand::Join(join) => {
                let join = self.meant(join)?;
                self.ask_for_hop(join.line, &Frame::Join(join))
            }
            DeskCommand::Carry(line, codecs) => {
                if let Some(seated) = self.lines.get_mut(&line) {
                    seated.codecs = codecs;
                }
                Ok(())
            }
            DeskCommand::Close(line) => {
                // A session that ended meanwhile has nothing left to close.
                if let Some(seated) = self.lines.get_mut(&line)
                    && seated.stage != Stage::Closing
                {
                    seated.stage = Stage::Closing;
                    seated.asked.clear();
                    seated.waiting.clear();
                    seated.ready = None;
                    seated.due = Some(now + OPEN_DEADLINE);
                    self.talk.say(&Frame::Close(line))?;
                }
                Ok(())
            }
            DeskCommand::Leave => {
                self.lines.clear();
                self.talk.end(now, Some(Frame::Bye(Farewell::Finished)));
                Ok(())
            }
        }
    }

    /// Lets a cache travel, where nothing else is under way.
    fn move_cache(
        &mut self,
        now: Duration,
        line: Line,
        moving: Moving,
        frame: Frame,
    ) -> Result<(), SessionError> {
        let speaks = self.talk.their_last().is_some_and(|last| last >= CACHES_SINCE);
        let Some(seated) = self.lines.get_mut(&line) else {
            // A session that ended meanwhile has said so.
            return Ok(());
        };
        if !speaks || !seated.is_idle() {
            self.talk.events.push_back(DeskEvent::CacheStays(line));
            return Ok(());
        }
        (seated.moving, seated.due) = (Some(moving), Some(now + ANSWER_DEADLINE));
        self.talk.say(&frame)
    }

    fn wait(&mut self, now: Duration, line: Line, what: Waiting) -> Result<(), SessionError> {
        // A session that ended meanwhile has said so; what was on its way to it is void.
        let Some(seated) = self.lines.get_mut(&line) else {
            return Ok(());
        };
        if seated.waiting.len() >= WAITING_MAX {
            return Err(SessionError::Misuse("as many orders wait as may"));
        }
        seated.waiting.push_back(what);
        self.send(now, line)
    }
}

impl Machine for DeskEnd {
    type Command = DeskCommand;
    type Event = DeskEvent;
    type Error = SessionError;

    fn command(&mut self, now: Duration, command: DeskCommand) -> Result<(), SessionError> {
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
                    let arrived = self.talk.arrived().map(|(bytes, busy)| DeskEvent::Crossed {
                        heading: Heading::Down,
                        bytes,
                        busy,
                    });
                    self.talk.events.extend(arrived);
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
        let outcome = outcome.and_then(|()| self.overdue(now));
        self.settle(now, outcome);
        Ok(())
    }

    fn deadline(&self) -> Option<Duration> {
        if self.talk.is_over() {
            return self.talk.deadline();
        }
        let ping = self
            .pulse
            .since
            .filter(|_| self.pulse.asked.len() < PINGS_MAX)
            .map(|_| self.pulse.next);
        let due = self.lines.values().filter_map(|seated| seated.due);
        due.chain(self.talk.deadline())
            .chain(self.lost_at())
            .chain(ping)
            .min()
    }

    fn transmit(&mut self, out: &mut Vec<u8>) {
        self.talk.transmit(out);
    }

    fn event(&mut self) -> Option<DeskEvent> {
        self.talk.events.pop_front()
    }

    fn finished(&self) -> bool {
        self.talk.finished()
    }
}
