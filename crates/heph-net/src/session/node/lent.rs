//! One session as the node sees it: what may be asked of it, in which order, and what became void.

use std::collections::VecDeque;
use std::time::Duration;

use heph_types::{Order, Position, SamplingOptions, StageSpec, TokenId};

use crate::session::SessionError;
use crate::session::orders::{self, Asked};
use crate::wire::{Epoch, ForwardFrame, GenerateFrame, TakeUntil};

/// Orders of one session that its stage has at a time: one under way, and one so that it need not wait for the next.
const HANDED_MAX: usize = 2;

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
    pub(super) used: Duration,
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
            used: now,
        }
    }

    /// Orders that the desk waits for.
    pub(super) fn unanswered(&self) -> usize {
        let answered = |queued: &&Queued| matches!(queued, Queued::Forward(..) | Queued::Alone(..));
        self.handed.len() + self.queue.iter().filter(answered).count()
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
            // A stream is told at once that something comes behind it, and once.
            (Some(_), Some(Handed::Alone(_))) => !self.nudged,
            (Some(Queued::Forward(..) | Queued::Alone(..)), _) => self.handed.len() < HANDED_MAX,
            (Some(Queued::Rollback(_) | Queued::Choose(_)), _) => self.handed.is_empty(),
            (None, _) => false,
        }
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
        self.go_on("Forward", asked.epoch, asked.first.index(), asked.end())?;
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
