//! Tells the tokens of one answer, one after another, from a line: step by step, as a stream, or with guesses that the
//! line confirms many at a time.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use heph_engine::sample::SamplingOptions;
use heph_types::{Branch, TokenId};
use serde::Serialize;

use crate::cancel::Cancel;
use crate::draft::Drafter;
use crate::line::{Line, LineError};

use super::speculation::{Drafted, Guessed, News, Speculation};

/// How tokens are asked for.
pub enum Pace {
    /// Each token is fed before the next is chosen: one way through the line and back a token. Where the whole model moves
    /// to a node meanwhile, that node goes on alone.
    Steps,
    /// One node with the whole model goes on alone and tells each token as it is chosen.
    Stream,
    /// Guesses are fed, and the line says which are right.
    Guess(Guess),
    /// Guesses are fed where they help, by whom and as many as helped before.
    Adapt(Box<Speculation>),
}

/// Guesses and how many.
pub struct Guess {
    /// Who guesses.
    pub drafter: Box<dyn Drafter>,
    /// Tokens guessed for one piece.
    pub length: usize,
    /// Pieces under way at most. With two, the next is guessed and sent while the last is confirmed.
    pub ahead: usize,
    /// Other ways in which they may go on, sent with them where nothing else is under way.
    pub branches: usize,
}

impl Pace {
    /// How often each of those who guess was right in the answer.
    pub(super) fn guessed(&self) -> Vec<Guessed> {
        match self {
            Self::Steps | Self::Stream | Self::Guess(_) => Vec::new(),
            Self::Adapt(speculation) => speculation.guessed(),
        }
    }

    /// Starts an answer of at most `tokens` tokens.
    pub(super) fn begin(&mut self, sampling: &SamplingOptions, tokens: usize) {
        match self {
            Self::Steps | Self::Stream => {}
            Self::Guess(guess) => guess.drafter.begin(sampling),
            Self::Adapt(speculation) => speculation.begin(sampling, tokens),
        }
    }
}

/// What guessing brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Guesses {
    /// Tokens guessed and judged.
    pub judged: usize,
    /// Those that were right.
    pub right: usize,
    /// Tokens guessed and sent.
    pub sent: usize,
    /// Pieces that were sent.
    pub pieces: usize,
    /// Other ways sent with them.
    pub branches: usize,
    /// Pieces in which one of these was right.
    pub branched: usize,
}

/// One answer's tokens on their way.
pub(super) struct Teller<'a> {
    line: &'a mut Line,
    pace: &'a mut Pace,
    cancel: &'a Cancel,
    /// Tokens of the prompt.
    prompt: usize,
    /// The conversation's end: no token is fed beyond.
    room: usize,
    ends: &'a [TokenId],
    fed: Fed,
    /// Fed after the history, and not yet confirmed.
    guessed: VecDeque<TokenId>,
    /// Chosen and not yet told.
    choices: VecDeque<TokenId>,
    /// Pieces of which answers are still to come.
    under_way: VecDeque<Sent>,
    /// When the last piece's answers came, and how long the desk had waited by then.
    judged_at: Option<(Instant, f64)>,
    pub(super) guesses: Guesses,
}

/// What the line was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fed {
    /// So many tokens.
    To(usize),
    /// It goes on by itself.
    Alone,
}

/// A piece that was sent.
struct Sent {
    /// Answers that it still owes.
    owed: usize,
    /// Answers that were asked for.
    answers: usize,
    /// Whether another was under way when it was sent.
    behind: bool,
    /// Whether it holds a part of the prompt, whose time tells nothing of a round's.
    prompt: bool,
    drafted: Drafted,
}

impl<'a> Teller<'a> {
    /// A teller of what follows a prompt of which the line holds `fed` tokens.
    pub(super) fn new(
        line: &'a mut Line,
        pace: &'a mut Pace,
        cancel: &'a Cancel,
        prompt: usize,
        fed: usize,
        room: usize,
        ends: &'a [TokenId],
    ) -> Self {
        Self {
            line,
            pace,
            cancel,
            prompt,
            room,
            ends,
            fed: Fed::To(fed),
            guessed: VecDeque::new(),
            choices: VecDeque::new(),
            under_way: VecDeque::new(),
            judged_at: None,
            guesses: Guesses::default(),
        }
    }

    /// The line that it asks.
    pub(super) fn line(&mut self) -> &mut Line {
        self.line
    }

    /// The token after `history`, which is the prompt and all that was told.
    pub(super) fn next(&mut self, history: &[TokenId]) -> Result<TokenId, LineError> {
        while self.choices.is_empty() {
            self.line.steer((self.room + 1).saturating_sub(history.len()))?;
            match self.fed {
                Fed::Alone => {}
                Fed::To(fed) if self.streams() => self.go_on_alone(history, fed),
                Fed::To(fed) => self.send(history, fed)?,
            }
            let chosen = self.line.collect(self.cancel)?;
            if chosen.branched {
                self.follow(&chosen.tokens, history.len());
            }
            self.settle(&chosen.tokens, chosen.branched);
            self.choices.extend(chosen.tokens);
        }
        let token = self
            .choices
            .pop_front()
            .unwrap_or_else(|| unreachable!("there is one"));
        self.judge(token, history.len());
        Ok(token)
    }

    /// Whether a node goes on by itself from here, whatever was guessed.
    fn streams(&self) -> bool {
        match self.pace {
            Pace::Steps => self.line.is_whole_by_move(),
            Pace::Stream => self.line.is_whole(),
            Pace::Guess(_) | Pace::Adapt(_) => false,
        }
    }

    /// What was fed are the chosen tokens of a branch, in place of the guesses.
    fn follow(&mut self, tokens: &[TokenId], known: usize) {
        self.guesses.branched += 1;
        self.guessed = tokens[..tokens.len().saturating_sub(1)].iter().copied().collect();
        self.fed = Fed::To(known + self.guessed.len());
    }

    /// Compares a chosen token with the guess in its place; a wrong guess makes everything after it void.
    fn judge(&mut self, token: TokenId, position: usize) {
        let Some(guess) = self.guessed.pop_front() else {
            return;
        };
        self.guesses.judged += 1;
        if guess == token {
            self.guesses.right += 1;
            return;
        }
        self.guessed.clear();
        self.choices.clear();
        self.under_way.clear();
        self.fed = Fed::To(position);
    }

    /// Counts answers that came, and lets the control learn from them. Nothing is left to tell at this moment, so the
    /// first of them stands where the first guess does.
    fn settle(&mut self, tokens: &[TokenId], branched: bool) {
        let judged = tokens.len().min(self.guessed.len());
        let pairs = tokens.iter().zip(&self.guessed);
        let right = pairs.take_while(|(token, guess)| token == guess).count();
        // What follows a wrong guess may be left out, and what was sent behind it is void.
        let wrong = right < judged || branched;
        let gained = tokens.len().min(right + 1);
        let mut count = tokens.len();
        while let Some(sent) = self.under_way.front_mut() {
            let paid = count.min(sent.owed);
            sent.owed -= paid;
            count -= paid;
            if sent.owed > 0 && !wrong {
                return;
            }
            let Some(sent) = self.under_way.pop_front() else {
                return;
            };
            self.learn(&sent, gained, branched);
            if wrong || count == 0 {
                return;
            }
        }
    }

    fn learn(&mut self, sent: &Sent, gained: usize, branched: bool) {
        let Pace::Adapt(speculation) = &mut *self.pace else {
            return;
        };
        let (now, waited) = (self.line.clock().now(), self.line.waited().as_secs_f64());
        let before = self.judged_at.replace((now, waited));
        if let Some((when, waited_then)) = before.filter(|_| !sent.prompt) {
            let seconds = now.saturating_duration_since(when).as_secs_f64();
            let gained = gained.min(sent.answers);
            let news = News {
                answers: sent.answers,
                gained,
                branched,
                behind: sent.behind,
                seconds,
                waited: waited - waited_then,
            };
            speculation.learn(&sent.drafted, news);
        }
    }

    /// Lets the node go on by itself.
    fn go_on_alone(&mut self, history: &[TokenId], fed: usize) {
        let last = history.len() - 1;
        // Also where nothing is to be fed: guesses that were wrong are taken back.
        self.line.feed(fed, &history[fed..last], 0);
        self.line
            .generate(history[last], (self.room - last) as u32, self.ends);
        self.fed = Fed::Alone;
    }

    /// Sends what is not yet fed, with guesses, until as many pieces are under way as may be.
    fn send(&mut self, history: &[TokenId], mut fed: usize) -> Result<(), LineError> {
        while self.under_way.is_empty() || self.sends_more() {
            let known = [history, self.guessed.make_contiguous()].concat();
            let over = self.guessed.back().is_some_and(|last| self.ends.contains(last));
            let room = if over {
                0
            } else {
                self.room.saturating_sub(known.len())
            };
            let drafted = self.draft(&known, room)?;
            let tokens = [known.as_slice(), &drafted.tokens].concat();
            if tokens.len() == fed {
                return Ok(());
            }
            if self.goes_on_alone(&drafted, history, fed) {
                self.go_on_alone(history, fed);
                return Ok(());
            }
            self.guessed.extend(&drafted.tokens);
            let answers = tokens.len() - fed.max(self.prompt - 1);
            // A branch's place is counted from the first guess, and the line's from the first token.
            let branches = drafted.branches.iter().map(|branch| Branch {
                at: branch.at + (known.len() - fed) as u32,
                ..branch.clone()
            });
            let branches = branches.collect();
            self.line.feed_guesses(fed, &tokens[fed..], answers, branches);
            self.line.nudge()?;
            let prompt = fed < self.prompt;
            fed = tokens.len();
            self.fed = Fed::To(fed);
            self.guesses.pieces += 1;
            self.guesses.sent += drafted.tokens.len();
            self.guesses.branches += drafted.branches.len();
            let behind = !self.under_way.is_empty();
            self.under_way.push_back(Sent {
                owed: answers,
                behind,
                answers,
                prompt,
                drafted,
            });
        }
        self.guess_ahead(history)
    }

    /// Whether another piece should be sent behind those under way.
    fn sends_more(&self) -> bool {
        let last = self.under_way.back().map(|sent| &sent.drafted);
        // What would follow guesses that branch is not known.
        if last.is_some_and(|sent| !sent.branches.is_empty()) {
            return false;
        }
        match &*self.pace {
            Pace::Steps | Pace::Stream => false,
            Pace::Guess(guess) => self.under_way.len() < guess.ahead.max(1),
            Pace::Adapt(speculation) => {
                self.under_way.len() < 2 && last.is_some_and(|sent| speculation.sends_ahead(sent))
            }
        }
    }

    /// Guesses for the next piece.
    fn draft(&mut self, known: &[TokenId], room: usize) -> Result<Drafted, LineError> {
        let clock = Arc::clone(self.line.clock());
        let began = clock.now();
        let time = || clock.now().saturating_duration_since(began);
        // Stages in a row would have to be told which way was right.
        let may_branch = self.under_way.is_empty() && self.line.is_whole();
        match &mut *self.pace {
            Pace::Steps | Pace::Stream => Ok(Drafted::none()),
            Pace::Guess(guess) => {
                let count = guess.length.min(room);
                let tokens = if count > 0 {
                    guess.drafter.draft(known, count)?
                } else {
                    Vec::new()
                };
                let wanted = if may_branch { guess.branches } else { 0 };
                let branches = match wanted > 0 && !tokens.is_empty() {
                    true => guess.drafter.branches(known, &tokens, wanted)?,
                    false => Vec::new(),
                };
                Ok(Drafted {
                    tokens,
                    branches,
                    ..Drafted::none()
                })
            }
            Pace::Adapt(speculation) => speculation.draft(known, room, may_branch, &time),
        }
    }

    /// Whether a plain step would be better made by a node on its own.
    fn goes_on_alone(&self, drafted: &Drafted, history: &[TokenId], fed: usize) -> bool {
        let Pace::Adapt(speculation) = &*self.pace else {
            return false;
        };
        let plain = drafted.tokens.is_empty() && self.under_way.is_empty() && fed < history.len();
        let streams = speculation.streams() && self.line.is_whole();
        plain && (streams || self.line.is_whole_by_move())
    }

    /// Uses the time until the next answer.
    fn guess_ahead(&mut self, history: &[TokenId]) -> Result<(), LineError> {
        let Pace::Adapt(speculation) = &mut *self.pace else {
            return Ok(());
        };
        let over = self.guessed.back().is_some_and(|last| self.ends.contains(last));
        let [sent] = self.under_way.make_contiguous() else {
            return Ok(());
        };
        let known = [history, self.guessed.make_contiguous()].concat();
        if sent.prompt {
            return speculation.read(&known);
        }
        if over {
            return Ok(());
        }
        let room = self.room.saturating_sub(known.len());
        speculation.guess_ahead(&sent.drafted, &known, room)
    }
}
