//! One session as the node sees it: what may be asked of it, in which order, and what became void.

use std::collections::VecDeque;
use std::time::Duration;

use heph_types::{Order, Position, SamplingOptions, StageSpec, Tag, TokenId};

use crate::codec::PackedRows;
use crate::session::orders::{self, Asked};
use crate::session::{ORDERS_WINDOW, SessionError};
use crate::wire::{Epoch, ForwardFrame, Frame, GenerateFrame, GuessesFrame, TakeUntil};

/// Orders of one session that its stage has at a time: one under way, and one so that it need not wait for the next.
const HANDED_MAX: usize = 2;

/// Pieces of rows of one session that wait for their order: as many as there may be orders.
const EARLY_MAX: usize = ORDERS_WINDOW as usize;

/// What rows in one format take of the memory of who keeps them.
pub(super) fn bytes_of(rows: &PackedRows) -> u64 {
    rows.bytes.len() as u64
}

/// One session as the node sees it.
#[derive(Debug)]
pub(super) struct Lent {
    spec: StageSpec,
    /// Numbers of a row; `None` until it is granted.
    pub(super) width: Option<usize>,
    pub(super) epoch: Epoch,
    /// Positions that the stage will hold once everything asked is done.
    pub(super) end: usize,
    /// Not yet handed out, oldest first.
    pub(super) queue: VecDeque<Queued>,
    /// Handed out and not answered, oldest first.
    pub(super) handed: VecDeque<Handed>,
    pub(super) bytes: usize,
    /// Something was handed out behind the stream under way.
    pub(super) nudged: bool,
    /// A cache on its way: nothing else is meanwhile.
    pub(super) moving: Option<Moving>,
    /// Whether another node may hand rows over.
    pub(super) expects: bool,
    /// Rows that were handed over and whose order has not come, or not had its turn; their names ascend.
    pub(super) early: VecDeque<(Tag, PackedRows)>,
    /// The name that the newest order for handed rows gave.
    tag: Option<Tag>,
    pub(super) used: Duration,
}

/// A cache on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moving {
    /// The desk asked for these positions.
    Take { first: Position, to: Position },
    /// The desk gave positions; the stage holds so many afterwards.
    Put { end: usize },
    /// The desk asked what was computed.
    Vouch,
}

#[derive(Debug)]
pub(super) enum Queued {
    Forward(Asked, Order),
    Alone(Alone, Order),
    Rollback(Position),
    Choose(SamplingOptions),
}

#[derive(Debug)]
pub(super) enum Handed {
    Forward(Asked),
    Alone(Alone),
}

/// A stream of tokens.
#[derive(Debug)]
pub(super) struct Alone {
    pub(super) epoch: Epoch,
    /// Where its next token stands.
    pub(super) next: Position,
    /// Tokens that may follow; none after one that ends it.
    pub(super) left: u32,
    pub(super) ends: Vec<TokenId>,
}

impl Lent {
    /// A session that was asked for.
    pub(super) fn asked(spec: StageSpec, now: Duration) -> Lent {
        Lent {
            spec,
            width: None,
            epoch: Epoch(0),
            end: 0,
            queue: VecDeque::new(),
            handed: VecDeque::new(),
            bytes: 0,
            nudged: false,
            moving: None,
            expects: false,
            early: VecDeque::new(),
            tag: None,
            used: now,
        }
    }

    /// Orders that the desk waits for.
    pub(super) fn unanswered(&self) -> usize {
        let answered = |queued: &&Queued| matches!(queued, Queued::Forward(..) | Queued::Alone(..));
        let moving = usize::from(self.moving.is_some());
        self.handed.len() + self.queue.iter().filter(answered).count() + moving
    }

    /// Whether a cache may travel; else why not.
    fn may_move(&self) -> Result<(), &'static str> {
        match (self.width, self.unanswered(), self.queue.is_empty()) {
            (None, ..) => Err("its session is not open yet"),
            (Some(_), 0, true) => Ok(()),
            _ => Err("something else is under way"),
        }
    }

    pub(super) fn take_cache(&mut self, first: Position, to: Position) -> Result<(), &'static str> {
        self.may_move()?;
        if first >= to || to.index() > self.end {
            return Err("these positions are not held");
        }
        self.moving = Some(Moving::Take { first, to });
        Ok(())
    }

    pub(super) fn put_cache(&mut self, first: Position, tokens: u32) -> Result<(), &'static str> {
        self.may_move()?;
        let end = first.index().saturating_add(tokens as usize);
        if first.index() != self.end || tokens == 0 {
            return Err("it does not follow what is held");
        }
        if end > self.spec.context as usize {
            return Err("it reaches beyond the context");
        }
        self.moving = Some(Moving::Put { end });
        Ok(())
    }

    pub(super) fn vouch(&mut self) -> Result<(), &'static str> {
        self.may_move()?;
        self.moving = Some(Moving::Vouch);
        Ok(())
    }

    /// Whether this answers what was asked about a cache, or about what was computed.
    pub(super) fn moved(&mut self, frame: &Frame) -> bool {
        let fits = match (frame, self.moving) {
            (Frame::Cache { part, .. }, Some(Moving::Take { first, to })) => {
                let end = part.first.index().saturating_add(part.tokens as usize);
                part.first == first && part.tokens > 0 && end <= to.index()
            }
            (Frame::CacheHeld { held, .. }, Some(Moving::Put { end })) => {
                self.end = end;
                held.index() == end
            }
            (Frame::Vouched(vouched), Some(Moving::Vouch)) => {
                vouched.first <= vouched.to && vouched.to.index() <= self.end
            }
            _ => false,
        };
        self.moving = None;
        fits
    }

    /// When the session has been unused for too long; never while it is worked for.
    pub(super) fn idle_at(&self, idle_after: Duration) -> Option<Duration> {
        (self.unanswered() == 0).then_some(self.used + idle_after)
    }

    /// Whether the next one may go to the stage.
    pub(super) fn may_hand_out(&self) -> bool {
        match (self.queue.front(), self.handed.back()) {
            // What is void is answered in its turn.
            (Some(Queued::Forward(asked, _)), _) if asked.void => self.handed.is_empty(),
            // Rows that another node hands over may take their time.
            (Some(Queued::Forward(asked, _)), _) if asked.handed.is_some_and(|tag| !self.has(tag)) => false,
            // A stream is told at once that something comes behind it, and once.
            (Some(_), Some(Handed::Alone(_))) => !self.nudged,
            (Some(Queued::Forward(..) | Queued::Alone(..)), _) => self.handed.len() < HANDED_MAX,
            (Some(Queued::Rollback(_) | Queued::Choose(_)), _) => self.handed.is_empty(),
            (None, _) => false,
        }
    }

    /// Whether these rows were handed over.
    fn has(&self, tag: Tag) -> bool {
        self.early.front().is_some_and(|(early, _)| *early == tag)
    }

    /// Lets another node hand rows over from now on. Returns the bytes of those that nobody awaits any more.
    pub(super) fn expect(&mut self) -> u64 {
        self.expects = true;
        self.early.drain(..).map(|(_, rows)| bytes_of(&rows)).sum()
    }

    /// Takes rows in that were handed over. The error: they come out of turn, or are too many.
    pub(super) fn hand(&mut self, tag: Tag, rows: PackedRows, bytes_max: u64) -> Result<(), &'static str> {
        if self.early.back().is_some_and(|(last, _)| *last >= tag) {
            return Err("rows come in their order");
        }
        let waiting: u64 = self.early.iter().map(|(_, rows)| bytes_of(rows)).sum();
        if waiting > bytes_max || self.early.len() >= EARLY_MAX {
            return Err("more rows than may wait");
        }
        self.early.push_back((tag, rows));
        Ok(())
    }

    /// Forgets rows whose order became void, or that were taken back before their order was seen. Returns their bytes.
    pub(super) fn forget_early(&mut self) -> u64 {
        let awaited = self.queue.iter().find_map(|queued| match queued {
            Queued::Forward(asked, _) if !asked.void => asked.handed,
            _ => None,
        });
        let first = awaited
            .or(self.tag.map(|Tag(last)| Tag(last + 1)))
            .unwrap_or_default();
        let mut forgotten = 0;
        while let Some((_, rows)) = self.early.pop_front_if(|(tag, _)| *tag < first) {
            forgotten += bytes_of(&rows);
        }
        forgotten
    }

    /// Positions that an order may count on, and whether a stream is under way.
    fn reached(&self) -> (usize, bool) {
        let queued = self.queue.iter().rev().find_map(|queued| match queued {
            Queued::Alone(alone, _) => Some(Some(alone)),
            Queued::Forward(..) => Some(None),
            Queued::Rollback(_) | Queued::Choose(_) => None,
        });
        let newest = queued.unwrap_or(match self.handed.back() {
            Some(Handed::Alone(alone)) => Some(alone),
            Some(Handed::Forward(_)) | None => None,
        });
        match newest.filter(|alone| alone.epoch == self.epoch) {
            Some(alone) => (alone.next.index() - 1, alone.left > 0),
            None => (self.end, false),
        }
    }

    /// Takes an order for `first` in, which leaves the stage with `end` positions.
    fn go_on(
        &mut self,
        frame: &'static str,
        epoch: Epoch,
        first: usize,
        end: usize,
    ) -> Result<(), SessionError> {
        let broken = |why| SessionError::Unexpected { frame, why };
        let (reached, streams) = self.reached();
        if epoch == self.epoch {
            if streams {
                return Err(broken("a stream is under way in its epoch"));
            }
            if first != reached {
                return Err(broken("it does not follow what was sent, and begins no epoch"));
            }
        } else if epoch == self.epoch.next() {
            if first > reached {
                return Err(broken("it is for a position that was not reached"));
            }
            for queued in &mut self.queue {
                if let Queued::Forward(asked, _) = queued {
                    asked.void |= asked.first.index() >= first;
                }
            }
        } else {
            return Err(broken("its epoch is neither this one nor the next"));
        }
        (self.epoch, self.end) = (epoch, end);
        Ok(())
    }

    pub(super) fn forward(&mut self, frame: ForwardFrame) -> Result<(), SessionError> {
        let width = self.width.unwrap_or_default();
        let asked = Asked::of(&frame);
        if asked.until == TakeUntil::Disagreement && self.spec.choose.is_none() {
            return Err(SessionError::Unexpected {
                frame: "Forward",
                why: "rows do not disagree",
            });
        }
        let order = orders::forward_order(frame, &self.spec, width)?;
        if let Some(tag) = asked.handed {
            let broken = |why| SessionError::Unexpected {
                frame: "Forward",
                why,
            };
            if !self.expects {
                return Err(broken("no other node was named that would hand its rows over"));
            }
            if self.tag.is_some_and(|last| tag <= last) || tag.0 == u64::MAX {
                return Err(broken("names of rows are counted upwards"));
            }
            self.tag = Some(tag);
        }
        self.queue_forward("Forward", asked, order)
    }

    pub(super) fn guesses(&mut self, frame: GuessesFrame) -> Result<(), SessionError> {
        let asked = Asked::of_guesses(&frame);
        let order = orders::guesses_order(frame, &self.spec)?;
        self.queue_forward("Guesses", asked, order)
    }

    fn queue_forward(&mut self, frame: &'static str, asked: Asked, order: Order) -> Result<(), SessionError> {
        self.go_on(frame, asked.epoch, asked.first.index(), asked.end())?;
        self.bytes += asked.bytes;
        self.queue.push_back(Queued::Forward(asked, order));
        Ok(())
    }

    pub(super) fn roll_back(&mut self, epoch: Epoch, to: Position) -> Result<(), SessionError> {
        if epoch == self.epoch {
            return Err(SessionError::Unexpected {
                frame: "Rollback",
                why: "it begins no epoch",
            });
        }
        self.go_on("Rollback", epoch, to.index(), to.index())?;
        self.queue.push_back(Queued::Rollback(to));
        Ok(())
    }

    pub(super) fn generate(&mut self, frame: GenerateFrame) -> Result<(), SessionError> {
        let broken = |why| SessionError::Unexpected {
            frame: "Generate",
            why,
        };
        if self.spec.choose.is_none() || self.spec.layers.start() != 0 {
            return Err(broken("only a whole model goes on alone"));
        }
        let end = frame.at.index().saturating_add(frame.tokens_max as usize);
        if frame.tokens_max == 0 || end > self.spec.context as usize {
            return Err(broken("it reaches beyond the context"));
        }
        let epoch = self.epoch;
        self.go_on("Generate", frame.epoch, frame.at.index(), frame.at.index())?;
        let alone = Alone {
            epoch: frame.epoch,
            next: Position(frame.at.0 + 1),
            left: frame.tokens_max,
            ends: frame.ends.clone(),
        };
        let order = Order::Generate {
            last: frame.last,
            tokens_max: frame.tokens_max,
            ends: frame.ends,
        };
        if alone.epoch != epoch {
            // A stream begins at the end of the cache: what is held behind its place has to go first.
            self.queue.push_back(Queued::Rollback(frame.at));
        }
        self.queue.push_back(Queued::Alone(alone, order));
        Ok(())
    }

    pub(super) fn choose(&mut self, options: SamplingOptions) -> Result<(), SessionError> {
        let Some(chosen) = &mut self.spec.choose else {
            return Err(SessionError::Unexpected {
                frame: "Choose",
                why: "the session does not choose",
            });
        };
        chosen.clone_from(&options);
        self.queue.push_back(Queued::Choose(options));
        Ok(())
    }
}
