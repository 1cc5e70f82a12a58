//! Guessing ahead: what may come next, from a small model or from what was said before.
//!
//! A guess never changes an answer; it only decides how many tokens one look of the large model confirms.

use std::collections::HashMap;
use std::time::Instant;

use heph_engine::sample::{RunnerUp, SamplingOptions};
use heph_types::{Branch, TokenId};

use crate::cancel::Cancel;
use crate::line::{Line, LineError};

/// Guesses tokens.
pub trait Drafter: Send {
    /// Starts an answer whose tokens are chosen by `sampling`.
    fn begin(&mut self, sampling: &SamplingOptions);

    /// Takes in what stands before the first guess, in time that is not the guess's.
    ///
    /// # Errors
    /// When its model fails.
    fn read(&mut self, _history: &[TokenId]) -> Result<(), LineError> {
        Ok(())
    }

    /// Up to `count` tokens after `history`; none where it has no idea.
    ///
    /// # Errors
    /// When its model fails.
    fn draft(&mut self, history: &[TokenId], count: usize) -> Result<Vec<TokenId>, LineError>;

    /// Other ways, at most `count`, in which `guesses`, made for what follows `history`, may go on; each goes as far as they
    /// do, and its place is counted from the first guess. None where there is no second best.
    ///
    /// # Errors
    /// When its model fails.
    fn branches(
        &mut self,
        _history: &[TokenId],
        _guesses: &[TokenId],
        _count: usize,
    ) -> Result<Vec<Branch>, LineError> {
        Ok(Vec::new())
    }
}

/// A small model with the vocabulary of the large one. It draws with the same noise, so that it guesses right wherever
/// both models agree on what the noise makes of their logits.
pub struct ModelDrafter {
    line: Line,
    cancel: Cancel,
    /// The second best of its last guesses, by their places in the conversation.
    doubts: Vec<Doubt>,
    /// Whether its model failed in this answer, which goes on without its guesses.
    has_failed: bool,
}

/// Guesses that are timed together: about as many as a round may have.
const TIMED: usize = 12;

/// How often they are timed; the fastest counts, since a disturbance can only slow one down.
const TIMES: usize = 4;

/// A guess that might have been another.
struct Doubt {
    position: usize,
    guess: TokenId,
    instead: RunnerUp,
}

impl ModelDrafter {
    /// A drafter over the line of a small model.
    pub fn new(line: Line, cancel: Cancel) -> Self {
        Self {
            line: line.waiting_for_no_room(),
            cancel,
            doubts: Vec::new(),
            has_failed: false,
        }
    }

    /// Seconds that a guess takes, its choosing and what this program does around it included, which the passes of a small
    /// model are not much longer than. `None` where nothing is guessed or the clock saw nothing.
    pub fn timed(&mut self) -> Option<f64> {
        self.begin(&SamplingOptions::default());
        let mut fastest = f64::INFINITY;
        for _ in 0..TIMES {
            let began = Instant::now();
            let guesses = self.draft(&[TokenId(0)], TIMED).ok()?.len();
            fastest = fastest.min(began.elapsed().as_secs_f64() / guesses as f64);
        }
        (fastest > 0.0 && fastest.is_finite()).then_some(fastest)
    }

    /// What came of guessing: nothing more in this answer once the model failed, which may find no room beside those of other answers. Only whoever
    /// asks to stop ends the answer.
    fn guessed<T: Default>(
        &mut self,
        guess: impl FnOnce(&mut Self) -> Result<T, LineError>,
    ) -> Result<T, LineError> {
        if self.has_failed {
            return Ok(T::default());
        }
        match guess(self) {
            Err(LineError::Cancelled) => Err(LineError::Cancelled),
            Err(_) => {
                self.has_failed = true;
                Ok(T::default())
            }
            guessed => guessed,
        }
    }

    /// Tokens of `history` that the small model has taken in; the last one's are never among them, since what follows it
    /// is asked for.
    fn held(&self, history: &[TokenId]) -> usize {
        let fed = self.line.tokens();
        let same = fed.iter().zip(history).take_while(|(a, b)| a == b).count();
        same.min(history.len().saturating_sub(1))
    }
}

impl Drafter for ModelDrafter {
    fn begin(&mut self, sampling: &SamplingOptions) {
        self.line.begin(sampling);
        self.has_failed = false;
    }

    fn read(&mut self, history: &[TokenId]) -> Result<(), LineError> {
        self.guessed(|this| {
            let (held, to) = (this.held(history), history.len().saturating_sub(1));
            if held < to && to <= this.line.model().context {
                this.line.feed(held, &history[held..to], 0);
                this.line.catch_up(&this.cancel)?;
            }
            Ok(())
        })
    }

    fn draft(&mut self, history: &[TokenId], count: usize) -> Result<Vec<TokenId>, LineError> {
        self.doubts.clear();
        self.guessed(|this| this.go_on(history, count, true))
    }

    fn branches(
        &mut self,
        history: &[TokenId],
        guesses: &[TokenId],
        count: usize,
    ) -> Result<Vec<Branch>, LineError> {
        let place = |doubt: &Doubt| {
            let at = doubt.position.checked_sub(history.len())?;
            (guesses.get(at) == Some(&doubt.guess)).then_some((at, doubt.instead))
        };
        let mut places: Vec<(usize, RunnerUp)> = self.doubts.iter().filter_map(place).collect();
        // Where it was least sure, it is most likely to have been wrong; and the earlier, the more follows.
        let worth =
            |(at, instead): &(usize, RunnerUp)| (guesses.len() - at) as f32 / (1.0 + instead.gap.max(0.0));
        places.sort_by(|a, b| worth(b).total_cmp(&worth(a)));
        places.truncate(count);
        let mut branches = Vec::new();
        for (at, instead) in places {
            let known = [history, &guesses[..at], &[instead.token]].concat();
            let rest = self.guessed(|this| this.go_on(&known, guesses.len() - at - 1, false))?;
            if self.has_failed {
                break;
            }
            branches.push(Branch {
                at: at as u32,
                tokens: [&[instead.token], rest.as_slice()].concat(),
            });
        }
        Ok(branches)
    }
}

impl ModelDrafter {
    /// Up to `count` tokens after `history`; with `doubts`, what they might have been instead is kept.
    fn go_on(&mut self, history: &[TokenId], count: usize, doubts: bool) -> Result<Vec<TokenId>, LineError> {
        let room = self.line.model().context.saturating_sub(history.len());
        let mut tokens = history.to_vec();
        let mut held = self.held(history);
        for _ in 0..count.min(room) {
            self.line.feed(held, &tokens[held..], 1);
            held = tokens.len();
            tokens.extend(self.line.collect(&self.cancel)?.tokens);
            if doubts && let Some((instead, guess)) = self.line.runner_up().zip(tokens.last()) {
                self.doubts.push(Doubt {
                    position: held,
                    guess: *guess,
                    instead,
                });
            }
        }
        Ok(tokens.split_off(history.len()))
    }
}

/// Tokens of a run that must have been said before for its continuation to be guessed.
const RUN: usize = 3;

/// What followed the same words before: summaries and code repeat themselves (prompt lookup, Saxena 2023).
#[derive(Debug, Default)]
pub struct EchoDrafter {
    /// Where each run of tokens was last followed by something. Bounded by the context.
    after: HashMap<[TokenId; RUN], usize>,
    seen: Vec<TokenId>,
}

impl Drafter for EchoDrafter {
    fn begin(&mut self, _sampling: &SamplingOptions) {}

    fn draft(&mut self, history: &[TokenId], count: usize) -> Result<Vec<TokenId>, LineError> {
        self.read(history);
        let Some(run) = history.last_chunk::<RUN>() else {
            return Ok(Vec::new());
        };
        let Some(&from) = self.after.get(run) else {
            return Ok(Vec::new());
        };
        Ok(history[from..history.len().min(from + count)].to_vec())
    }
}

impl EchoDrafter {
    /// Learns what is new in `history`.
    fn read(&mut self, history: &[TokenId]) {
        if !history.starts_with(&self.seen) {
            self.after.clear();
            self.seen.clear();
        }
        for at in self.seen.len().max(RUN)..history.len() {
            if let Some(run) = history[..at].last_chunk::<RUN>() {
                self.after.insert(*run, at);
            }
        }
        self.seen = history.to_vec();
    }
}

/// Asks the first drafter, and the second where the first has no idea.
pub struct Either<A, B>(pub A, pub B);

impl<A: Drafter, B: Drafter> Drafter for Either<A, B> {
    fn begin(&mut self, sampling: &SamplingOptions) {
        self.0.begin(sampling);
        self.1.begin(sampling);
    }

    fn read(&mut self, history: &[TokenId]) -> Result<(), LineError> {
        self.0.read(history)?;
        self.1.read(history)
    }

    fn draft(&mut self, history: &[TokenId], count: usize) -> Result<Vec<TokenId>, LineError> {
        let first = self.0.draft(history, count)?;
        if first.is_empty() {
            self.1.draft(history, count)
        } else {
            Ok(first)
        }
    }

    fn branches(
        &mut self,
        history: &[TokenId],
        guesses: &[TokenId],
        count: usize,
    ) -> Result<Vec<Branch>, LineError> {
        let first = self.0.branches(history, guesses, count)?;
        if first.is_empty() {
            self.1.branches(history, guesses, count)
        } else {
            Ok(first)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_echo_goes_on_as_before() {
        let ids = |text: &str| text.bytes().map(|b| TokenId(b.into())).collect::<Vec<_>>();
        let mut echo = EchoDrafter::default();
        let cases = [
            ("the fox ran. the f", 4, "ox r"),
            ("the fox ran. the f", 40, "ox ran. the f"),
            ("the cat sat", 4, ""),
            ("ab", 4, ""),
            ("xyzxyz", 2, "xy"),
        ];
        for (history, count, guess) in cases {
            assert_eq!(echo.draft(&ids(history), count).unwrap(), ids(guess), "{history}");
        }
    }
}
