//! One session as the desk sees it: what waits, what is under way, and what answers what.

use std::collections::VecDeque;
use std::time::Duration;

use heph_types::{CachePart, Hidden, Order, Position, Reply, SamplingOptions, StageSpec, TokenId};

use crate::session::orders::{self, Asked, Means};
use crate::session::{Codecs, SessionError};
use crate::wire::{ChoicesFrame, Epoch, Frame, GUESSES_SINCE, GenerateFrame, Line, RowsFrame};

/// One session as the desk sees it.
#[derive(Debug)]
pub(super) struct Seated {
    pub(super) stage: Stage,
    spec: StageSpec,
    pub(super) codecs: Codecs,
    epoch: Epoch,
    /// Positions that the stage will hold once everything sent is done.
    pub(super) end: usize,
    /// Sent and not answered, oldest first.
    pub(super) asked: VecDeque<Pending>,
    asked_bytes: usize,
    /// Not sent, oldest first.
    pub(super) waiting: VecDeque<Waiting>,
    /// The oldest that waited, as a frame that did not fit the window yet.
    pub(super) ready: Option<Frame>,
    /// Rollbacks that were sent, or needed not be, and not told yet.
    pub(super) forgot: usize,
    /// A cache on its way from the node or to it: nothing else is meanwhile.
    pub(super) moving: Option<Moving>,
    /// Whether the node is to sign what it computed, once nothing is under way.
    pub(super) vouches: bool,
    /// Its hops: whether it was asked to expect rows of another node, and how far handing its own on has come.
    pub(super) expects: bool,
    pub(super) hands: Hands,
    /// Bytes that it told of.
    pub(super) handed_bytes: u64,
    /// Until when the node has to do what it is waited for.
    pub(super) due: Option<Duration>,
}

/// How far a session has come with handing its rows to another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hands {
    /// It was never asked to.
    Never,
    /// It was asked to.
    Asked,
    /// It does.
    Joined,
    /// It did, or could not.
    Parted,
}

/// A cache on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moving {
    /// The node was asked for these positions.
    Take { first: Position, to: Position },
    /// The node was given positions, and holds so many afterwards.
    Put { end: usize },
    /// The node was asked to sign what it computed.
    Vouch,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Opening,
    Open {
        width: usize,
        orders: usize,
        bytes: usize,
    },
    Closing,
}

#[derive(Debug)]
pub(super) enum Waiting {
    Order(Order),
    Choose(SamplingOptions),
}

#[derive(Debug)]
pub(super) enum Pending {
    Forward(Asked),
    /// A stream of tokens; over once its last one came, or once something else was asked for.
    Alone {
        epoch: Epoch,
        next: Position,
        left: u32,
        ends: Vec<TokenId>,
    },
}

impl Seated {
    /// A session that was asked for, and has to be opened until `due`.
    pub(super) fn opening(spec: StageSpec, codecs: Codecs, due: Duration) -> Seated {
        Seated {
            stage: Stage::Opening,
            spec,
            codecs,
            epoch: Epoch(0),
            end: 0,
            asked: VecDeque::new(),
            asked_bytes: 0,
            waiting: VecDeque::new(),
            ready: None,
            forgot: 0,
            moving: None,
            vouches: false,
            expects: false,
            hands: Hands::Never,
            handed_bytes: 0,
            due: Some(due),
        }
    }

    /// The next frame, to an end that speaks versions up to `theirs`.
    pub(super) fn ready(&mut self, line: Line, theirs: Option<u16>) -> Result<Option<Frame>, SessionError> {
        if self.ready.is_some() {
            return Ok(self.ready.take());
        }
        let frame = self.next_frame(line, theirs)?;
        if frame.is_some() {
            self.waiting.pop_front();
        }
        Ok(frame)
    }

    /// The frame for what waits longest, if it may be sent at all now.
    fn next_frame(&mut self, line: Line, theirs: Option<u16>) -> Result<Option<Frame>, SessionError> {
        loop {
            let (epoch, held) = (self.epoch, self.held());
            let Some(waiting) = self.waiting.front() else {
                return Ok(None);
            };
            let from = |first: usize| match first {
                first if first > held => Err(SessionError::Misuse("an order for a position not reached")),
                first if first == held && !self.streams() => Ok(epoch),
                _ => Ok(epoch.next()),
            };
            return Ok(Some(match waiting {
                Waiting::Choose(options) => Frame::Choose {
                    line,
                    options: options.clone(),
                },
                Waiting::Order(Order::Forward(forward)) => {
                    let count = forward.input.tokens();
                    if count == 0 || forward.answers as usize > count {
                        return Err(SessionError::Misuse("an order with more answers than tokens"));
                    }
                    let epoch = from(forward.first.index())?;
                    let means = Means {
                        chooses: self.spec.choose.is_some(),
                        codecs: self.codecs,
                        width: self.width(),
                        guesses: theirs.is_some_and(|last| last >= GUESSES_SINCE),
                    };
                    orders::forward_frame(line, epoch, forward, means)?
                }
                Waiting::Order(Order::Rollback(to)) => {
                    if to.index() >= held && !self.streams() {
                        // There is nothing to forget.
                        self.waiting.pop_front();
                        self.forgot += 1;
                        continue;
                    }
                    let to = Position(to.0.min(held as u32));
                    let epoch = epoch.next();
                    Frame::Rollback { line, epoch, to }
                }
                Waiting::Order(Order::Generate {
                    last,
                    tokens_max,
                    ends,
                }) => Frame::Generate(GenerateFrame {
                    line,
                    epoch: from(held)?,
                    at: Position(held as u32),
                    last: *last,
                    tokens_max: *tokens_max,
                    ends: ends.clone(),
                }),
            }));
        }
    }

    /// Whether the node goes on alone, for all that is known here.
    fn streams(&self) -> bool {
        matches!(self.asked.back(), Some(Pending::Alone { epoch, left, .. }) if *epoch == self.epoch && *left > 0)
    }

    /// Positions that the stage holds for certain once everything sent is done.
    fn held(&self) -> usize {
        match self.asked.back() {
            Some(Pending::Alone { epoch, next, .. }) if *epoch == self.epoch => next.index() - 1,
            _ => self.end,
        }
    }

    /// Whether the session is open and nothing is under way or waits.
    pub(super) fn is_idle(&self) -> bool {
        let nothing = self.asked.is_empty() && self.waiting.is_empty() && self.ready.is_none();
        nothing && self.moving.is_none() && matches!(self.stage, Stage::Open { .. })
    }

    /// Whether this part of a cache was asked for.
    pub(super) fn awaits_part(&self, part: &CachePart) -> bool {
        let end = part.first.index().saturating_add(part.tokens as usize);
        let fits =
            |first: Position, to: Position| part.first == first && part.tokens > 0 && end <= to.index();
        matches!(self.moving, Some(Moving::Take { first, to }) if fits(first, to))
    }

    /// Whether so many bytes more fit the node's window. One order may always be under way.
    pub(super) fn has_room(&self, more: usize) -> bool {
        match self.stage {
            Stage::Open { .. } if self.moving.is_some() => false,
            Stage::Open { orders, bytes, .. } => {
                self.asked.is_empty()
                    || self.asked.len() < orders && self.asked_bytes.saturating_add(more) <= bytes
            }
            Stage::Opening | Stage::Closing => false,
        }
    }

    /// Remembers what was sent.
    pub(super) fn sent(&mut self, frame: Frame) {
        match frame {
            Frame::Forward(frame) => self.sent_forward(Asked::of(&frame)),
            Frame::Guesses(frame) => self.sent_forward(Asked::of_guesses(&frame)),
            Frame::Rollback { epoch, to, .. } => {
                self.go_on(epoch, to, to.index());
                self.forgot += 1;
            }
            Frame::Generate(frame) => {
                self.go_on(frame.epoch, frame.at, frame.at.index());
                self.asked.push_back(Pending::Alone {
                    epoch: frame.epoch,
                    next: Position(frame.at.0 + 1),
                    left: frame.tokens_max,
                    ends: frame.ends,
                });
            }
            _ => {}
        }
    }

    fn sent_forward(&mut self, asked: Asked) {
        self.go_on(asked.epoch, asked.first, asked.end());
        self.asked_bytes += asked.bytes;
        self.asked.push_back(Pending::Forward(asked));
    }

    /// What is sent begins at `first`, and the stage holds `end` positions afterwards. A new epoch makes void what was
    /// asked from `first` on.
    fn go_on(&mut self, epoch: Epoch, first: Position, end: usize) {
        if epoch != self.epoch {
            for pending in &mut self.asked {
                match pending {
                    Pending::Forward(asked) => asked.void |= asked.first >= first,
                    Pending::Alone { .. } => {}
                }
            }
        }
        (self.epoch, self.end) = (epoch, end);
    }

    /// The oldest order is answered.
    fn pop(&mut self) {
        match self.asked.pop_front() {
            Some(Pending::Forward(asked)) => self.asked_bytes -= asked.bytes,
            // What was sent behind it counts on from there.
            Some(Pending::Alone { epoch, next, .. }) if epoch == self.epoch && self.asked.is_empty() => {
                self.end = next.index() - 1;
            }
            Some(Pending::Alone { .. }) | None => {}
        }
    }

    pub(super) fn rows(&mut self, frame: &RowsFrame) -> Result<Vec<Reply>, SessionError> {
        let (Some(Pending::Forward(asked)), Stage::Open { width, .. }, None) =
            (self.asked.front(), self.stage, &self.spec.choose)
        else {
            return Err(unasked("Rows"));
        };
        if asked.answers == 0 {
            return Err(unasked("Rows"));
        }
        let reply = orders::rows_reply(frame, asked, width)?;
        self.pop();
        Ok(vec![reply])
    }

    pub(super) fn choices(&mut self, frame: ChoicesFrame) -> Result<Vec<Reply>, SessionError> {
        let current = self.epoch;
        match self.asked.front_mut() {
            Some(Pending::Forward(asked)) if self.spec.choose.is_some() && asked.answers > 0 => {
                let reply = orders::choices_reply(frame, asked)?;
                self.pop();
                Ok(vec![reply])
            }
            Some(Pending::Alone {
                epoch,
                next,
                left,
                ends,
            }) => {
                let fits = frame.epoch == *epoch && frame.first == *next && frame.agreed == 0;
                if !fits || frame.tokens.is_empty() || frame.tokens.len() > *left as usize {
                    return Err(unasked("Choices"));
                }
                let mut replies = Vec::new();
                for token in frame.tokens {
                    if *left == 0 {
                        return Err(unasked("Choices"));
                    }
                    replies.push(Reply::Choices {
                        first: *next,
                        tokens: vec![token],
                    });
                    next.0 += 1;
                    *left = if ends.contains(&token) { 0 } else { *left - 1 };
                }
                if *epoch != current {
                    // Something else was asked for meanwhile; nobody waits for these.
                    replies.clear();
                }
                Ok(replies)
            }
            _ => Err(unasked("Choices")),
        }
    }

    pub(super) fn done(&mut self, done: Epoch) -> Result<Vec<Reply>, SessionError> {
        let current = self.epoch;
        let replies = match self.asked.front() {
            Some(Pending::Forward(asked)) if asked.epoch == done => {
                if asked.answers > 0 && !asked.void {
                    return Err(unasked("Done"));
                }
                let end = Position(asked.end() as u32);
                vec![match self.spec.choose {
                    Some(_) => Reply::Choices {
                        first: Position(end.0 + 1),
                        tokens: Vec::new(),
                    },
                    None => Reply::Rows {
                        first: end,
                        hidden: self.no_rows(),
                    },
                }]
            }
            Some(Pending::Alone { epoch, left, .. }) if *epoch == done => {
                if *left > 0 && done == current {
                    return Err(unasked("Done"));
                }
                Vec::new()
            }
            _ => return Err(unasked("Done")),
        };
        self.pop();
        Ok(replies)
    }

    fn no_rows(&self) -> Hidden {
        Hidden {
            width: self.width(),
            rows: Vec::new(),
        }
    }

    /// Numbers of a row, once that is known.
    fn width(&self) -> usize {
        match self.stage {
            Stage::Open { width, .. } => width,
            Stage::Opening | Stage::Closing => 0,
        }
    }
}

/// What a frame takes of the window.
pub(super) fn weight(frame: &Frame) -> usize {
    match frame {
        Frame::Forward(forward) => Asked::of(forward).bytes,
        Frame::Guesses(guesses) => Asked::of_guesses(guesses).bytes,
        _ => 0,
    }
}

fn unasked(frame: &'static str) -> SessionError {
    SessionError::Unexpected {
        frame,
        why: "it answers nothing that was asked",
    }
}
