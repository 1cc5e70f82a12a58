//! Reads a prompt that is still being written.

use heph_engine::sample::SamplingOptions;
use heph_types::TokenId;

use super::{Desk, DeskError, Message, Prompt};
use crate::line::LineError;

/// Tokens that are read ahead together: what is typed meanwhile waits for no more than these.
const AHEAD_TOKENS: usize = 32;

impl Desk {
    /// Reads the beginning of a conversation whose last message is still being typed, as far as nothing that is typed
    /// further can change it, while `still` says so. Returns how many tokens were computed.
    ///
    /// # Errors
    /// As [`Desk::answer`].
    pub fn read_ahead(
        &mut self,
        messages: &[Message],
        sampling: &SamplingOptions,
        still: &dyn Fn() -> bool,
    ) -> Result<usize, DeskError> {
        let tokens = self.settled(messages)?;
        if tokens.len() > self.line.model().context {
            return Ok(0);
        }
        let held = self.line.begin(sampling);
        let held = &self.line.tokens()[..held];
        let from = held.iter().zip(&tokens).take_while(|(a, b)| a == b).count();
        let mut fed = from;
        while fed < tokens.len() && still() && !self.cancel.is_raised() {
            let to = tokens.len().min(fed + AHEAD_TOKENS);
            self.line.feed(fed, &tokens[fed..to], 0);
            match self.line.catch_up(&self.cancel) {
                Err(LineError::Cancelled) => break,
                done => done?,
            }
            fed = to;
        }
        Ok(fed - from)
    }

    /// The tokens with which every conversation begins that goes on from these messages: the last word may still grow.
    fn settled(&self, messages: &[Message]) -> Result<Vec<TokenId>, DeskError> {
        let Some((last, before)) = messages.split_last() else {
            return Ok(Vec::new());
        };
        let words = last
            .content
            .rfind(char::is_whitespace)
            .map_or("", |end| &last.content[..end]);
        let with = |more: &str| {
            let mut messages = before.to_vec();
            messages.push(Message::new(&last.role, format!("{words}{more}")));
            Prompt::Chat(&messages).tokens(&self.words)
        };
        let (short, long) = (with("")?, with(" x")?);
        let same = short.iter().zip(&long).take_while(|(a, b)| a == b).count();
        Ok(short[..same].to_vec())
    }
}
