//! Reads a message while it is being typed, so that little is left to read when it is sent.
//!
//! Only for a desk whose model runs here: nothing leaves this machine before a message is sent. What was typed and taken
//! back is rolled back in the caches, and the answer is the one that would have been given without.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use heph_engine::sample::SamplingOptions;

use crate::desk::{Desk, Message};

/// Time without a keystroke after which what stands there is read: most corrections come sooner.
const PAUSE: Duration = Duration::from_millis(120);

/// What stands in the line that is being typed; cloning shares it.
#[derive(Debug, Clone, Default)]
pub struct Typed(Arc<(Mutex<State>, Condvar)>);

#[derive(Debug, Default)]
struct State {
    text: String,
    /// Counts changes of the text.
    version: u64,
    /// Whether the message is being sent.
    sent: bool,
}

impl Typed {
    /// Tells what stands there now.
    pub fn say(&self, text: &str) {
        let mut state = self.lock();
        if state.text != text {
            text.clone_into(&mut state.text);
            state.version += 1;
            self.0.1.notify_all();
        }
    }

    /// The message is sent, or nothing is typed any more: [`Typed::follow`] ends.
    pub fn end(&self) {
        self.lock().sent = true;
        self.0.1.notify_all();
    }

    /// Reads what is typed after `said` until the end, whenever the typing pauses. Returns the tokens that were computed.
    pub fn follow(&self, desk: &mut Desk, said: &[Message], sampling: &SamplingOptions) -> usize {
        let (mut read, mut tokens) = (0, 0);
        while let Some((text, version)) = self.pause(read) {
            read = version;
            let mut messages = said.to_vec();
            messages.push(Message::new("user", text));
            let still = || !self.has_changed(version);
            // What cannot be read ahead is read when it is sent, and the error told then.
            tokens += desk.read_ahead(&messages, sampling, &still).unwrap_or(0);
        }
        tokens
    }

    /// The text once it has changed since `read` and then not for a moment; `None` at the end.
    fn pause(&self, read: u64) -> Option<(String, u64)> {
        let mut state = self.lock();
        loop {
            if state.sent {
                return None;
            }
            let version = state.version;
            if version == read {
                state = self.0.1.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let waited = self.0.1.wait_timeout(state, PAUSE);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            if !state.sent && state.version == version {
                return Some((state.text.clone(), version));
            }
        }
    }

    fn has_changed(&self, version: u64) -> bool {
        let state = self.lock();
        state.sent || state.version != version
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn what_stands_is_read_once_the_typing_pauses_and_not_again() {
        let typed = Typed::default();
        typed.say("Onc");
        typed.say("Once");
        assert_eq!(typed.pause(0), Some(("Once".to_owned(), 2)));
        assert!(!typed.has_changed(2));
        typed.say("Once");
        assert!(!typed.has_changed(2), "the same text is no change");
        typed.say("On");
        assert!(typed.has_changed(2));
        typed.end();
        let began = Instant::now();
        assert_eq!(typed.pause(2), None);
        assert!(began.elapsed() < PAUSE);
    }
}
