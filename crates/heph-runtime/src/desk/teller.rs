//! Tells the tokens of one answer, one after another, from a line: step by step, as a stream, or with guesses that the
//! line confirms many at a time.

use std::collections::VecDeque;

use heph_types::TokenId;
use serde::Serialize;

use crate::cancel::Cancel;
use crate::draft::Drafter;
use crate::line::{Line, LineError};

/// How tokens are asked for.
pub enum Pace {
    /// Each token is fed before the next is chosen: one way through the line and back a token.
    Steps,
    /// One node with the whole model goes on alone and tells each token as it is chosen.
    Stream,
    /// Guesses are fed, and the line says which are right.
    Guess(Guess),
}

/// Guesses and how many.
pub struct Guess {
    /// Who guesses.
    pub drafter: Box<dyn Drafter>,
    /// Tokens guessed for one piece.
    pub length: usize,
    /// Pieces under way at most. With two, the next is guessed and sent while the last is confirmed.
    pub ahead: usize,
}

/// What guessing brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Guesses {
    /// Tokens guessed and judged.
    pub judged: usize,
    /// Those that were right.
    pub right: usize,
    /// Pieces that were sent.
    pub pieces: usize,
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
    /// Tokens fed.
    fed: usize,
    /// Fed after the history, and not yet confirmed.
    guessed: VecDeque<TokenId>,
    /// Chosen and not yet told.
    choices: VecDeque<TokenId>,
    /// Answers that each piece under way still owes.
    owed: VecDeque<usize>,
    pub(super) guesses: Guesses,
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
            fed,
            guessed: VecDeque::new(),
            choices: VecDeque::new(),
            owed: VecDeque::new(),
            guesses: Guesses::default(),
        }
    }

    /// The token after `history`, which is the prompt and all that was told.
    pub(super) fn next(&mut self, history: &[TokenId]) -> Result<TokenId, LineError> {
        while self.choices.is_empty() {
            if matches!(self.pace, Pace::Stream) && self.line.is_whole() {
                self.go_on_alone(history);
            } else {
                self.send(history)?;
            }
            let chosen = self.line.collect(self.cancel)?;
            self.settle(chosen.tokens.len());
            self.choices.extend(chosen.tokens);
        }
        let token = self
            .choices
            .pop_front()
            .unwrap_or_else(|| unreachable!("there is one"));
        self.judge(token, history.len());
        Ok(token)
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
        self.owed.clear();
        self.fed = position;
    }

    /// Counts answers that came.
    fn settle(&mut self, mut count: usize) {
        while let Some(owed) = self.owed.front_mut() {
            let paid = count.min(*owed);
            *owed -= paid;
            count -= paid;
            if *owed > 0 {
                return;
            }
            self.owed.pop_front();
        }
    }

    /// Lets the node go on by itself, unless it does already.
    fn go_on_alone(&mut self, history: &[TokenId]) {
        if self.fed >= history.len() {
            return;
        }
        let last = history.len() - 1;
        if self.fed < last {
            self.line.feed(self.fed, &history[self.fed..last], 0);
        }
        self.line
            .generate(history[last], (self.room - last) as u32, self.ends);
        self.fed = usize::MAX;
    }

    /// Sends what is not yet fed, with guesses, until as many pieces are under way as may be.
    fn send(&mut self, history: &[TokenId]) -> Result<(), LineError> {
        let ahead = match self.pace {
            Pace::Guess(guess) => guess.ahead.max(1),
            Pace::Steps | Pace::Stream => 1,
        };
        while self.owed.len() < ahead {
            let mut tokens = [history, self.guessed.make_contiguous()].concat();
            let known = tokens.len();
            let over = self.guessed.back().is_some_and(|last| self.ends.contains(last));
            if let Pace::Guess(guess) = &mut *self.pace
                && !over
            {
                let count = guess.length.min(self.room.saturating_sub(known));
                tokens.extend(guess.drafter.draft(&tokens, count)?);
            }
            self.guessed.extend(&tokens[known..]);
            if tokens.len() == self.fed {
                return Ok(());
            }
            let answers = tokens.len() - self.fed.max(self.prompt - 1);
            self.line.feed(self.fed, &tokens[self.fed..], answers);
            self.line.nudge()?;
            self.fed = tokens.len();
            self.owed.push_back(answers);
            self.guesses.pieces += 1;
        }
        Ok(())
    }
}
