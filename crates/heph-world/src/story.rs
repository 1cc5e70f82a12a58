//! What happened in a world, told when something went wrong.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

/// Events that are kept: the last ones tell why.
const EVENTS_MAX: usize = 400;

/// The last events of a world, in order.
#[derive(Debug, Default)]
pub(crate) struct Story {
    events: VecDeque<(Duration, String)>,
    forgotten: usize,
}

impl Story {
    /// Adds what happened.
    pub(crate) fn tell(&mut self, at: Duration, what: String) {
        if self.events.len() == EVENTS_MAX {
            self.events.pop_front();
            self.forgotten += 1;
        }
        self.events.push_back((at, what));
    }
}

impl fmt::Display for Story {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.forgotten > 0 {
            writeln!(f, "... {} events before", self.forgotten)?;
        }
        for (at, what) in &self.events {
            writeln!(f, "{:>12.3} ms  {what}", at.as_secs_f64() * 1e3)?;
        }
        Ok(())
    }
}
