//! Signs of life: asked for while a desk waits, and never else.

use std::collections::VecDeque;
use std::time::Duration;

use crate::session::SessionError;

/// Pings that may be unanswered: a node that answers none is lost long before so many are.
pub(super) const PINGS_MAX: usize = 8;

/// Asks for signs of life while anything is waited for.
#[derive(Debug)]
pub(super) struct Pulse {
    /// Since when something is waited for.
    pub(super) since: Option<Duration>,
    pub(super) next: Duration,
    pub(super) asked: VecDeque<u64>,
}

impl Pulse {
    pub(super) fn new(now: Duration) -> Pulse {
        Pulse {
            since: None,
            next: now,
            asked: VecDeque::new(),
        }
    }

    /// How long ago the ping was asked that is answered now.
    pub(super) fn answered(&mut self, now: Duration, stamp: u64) -> Result<Duration, SessionError> {
        let asked = self.asked.iter().position(|asked| *asked == stamp);
        let Some(at) = asked else {
            return Err(SessionError::Unexpected {
                frame: "Pong",
                why: "nobody asked with this stamp",
            });
        };
        // A flood of pings is answered once: the older ones are, too.
        self.asked.drain(..=at);
        Ok(now.saturating_sub(Duration::from_micros(stamp)))
    }
}
