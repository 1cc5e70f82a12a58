//! Time as a line and a desk know it: what it is now, and waiting for a bell.
//!
//! Two clocks exist: the system's, and that of the simulated world, which moves on when somebody waits.

use std::fmt::Debug;
use std::time::Instant;

use crate::seat::Bell;

/// Tells the time, and passes it while somebody waits.
pub trait Clock: Debug + Send + Sync {
    /// The time now.
    fn now(&self) -> Instant;

    /// Waits until `bell` is rung more often than `seen`, at most until `deadline`.
    fn wait(&self, bell: &Bell, seen: u64, deadline: Instant);
}

/// The machine's own clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn wait(&self, bell: &Bell, seen: u64, deadline: Instant) {
        bell.wait(seen, deadline);
    }
}
