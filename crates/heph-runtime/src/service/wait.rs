//! How long answers have their places, and so how long somebody waits for one: learned from those that ended.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// What the newest answer counts beside those before.
const SHARE_NEW: f64 = 0.1;

/// How long an answer usually has its place; `None` before the first one ended.
#[derive(Debug, Default)]
pub(super) struct Usual(Mutex<Option<Duration>>);

impl Usual {
    /// An answer gave its place back after `took`.
    pub(super) fn learn(&self, took: Duration) {
        let mut usual = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *usual = Some(usual.map_or(took, |usual| {
            usual.mul_f64(1.0 - SHARE_NEW) + took.mul_f64(SHARE_NEW)
        }));
    }

    /// Until so many answers will have ended, of those that have all `places`. Nothing where nothing is known yet.
    pub(super) fn until(&self, ended: usize, places: usize) -> Duration {
        let usual = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        usual.map_or(Duration::ZERO, |usual| {
            usual.mul_f64(ended as f64 / places.max(1) as f64)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn a_wait_is_what_places_were_taken_for() {
        let usual = Usual::default();
        assert_eq!(usual.until(3, 2), Duration::ZERO, "nothing ended yet");
        usual.learn(8 * S);
        // Two places, each free once in eight seconds: one every four.
        assert_eq!(usual.until(0, 2), Duration::ZERO);
        assert_eq!(usual.until(1, 2), 4 * S);
        assert_eq!(usual.until(3, 2), 12 * S);
        for _ in 0..100 {
            usual.learn(2 * S);
        }
        let soon = usual.until(1, 1);
        assert!((2 * S..3 * S).contains(&soon), "{soon:?}");
    }
}
