//! How long sessions stay, and so how long a full node is full: measured, for those who ask when there will be room.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use heph_net::session::BUSY_MAX;

/// What the newest stay counts beside those before.
const SHARE_NEW: f64 = 0.2;

/// Nobody is told to come back sooner: asking costs more than that.
const SOONEST: Duration = Duration::from_millis(50);

/// The sessions of a node.
#[derive(Debug, Default)]
pub(super) struct Stays {
    open: BTreeMap<u64, Instant>,
    next: u64,
    /// What a stay took, the newest counting most; `None` before the first ended.
    usual: Option<Duration>,
}

impl Stays {
    /// A session begins; it is told by this number.
    pub(super) fn begin(&mut self, now: Instant) -> u64 {
        self.next += 1;
        self.open.insert(self.next, now);
        self.next
    }

    /// It is over. One that was never opened says nothing about how long others stay.
    pub(super) fn end(&mut self, stay: u64, opened: bool, now: Instant) {
        let Some(began) = self.open.remove(&stay).filter(|_| opened) else {
            return;
        };
        let took = now.saturating_duration_since(began);
        let usual = self.usual.map_or(took, |usual| {
            usual.mul_f64(1.0 - SHARE_NEW) + took.mul_f64(SHARE_NEW)
        });
        self.usual = Some(usual);
    }

    /// When the first of the open sessions will probably be over. Before any has ended, the open ones are taken to be
    /// half done; and one that stays longer than usual as if it had just begun, since nobody knows better.
    pub(super) fn wait(&self, now: Instant) -> Duration {
        let left = |began: &Instant| {
            let age = now.saturating_duration_since(*began);
            let usual = self.usual.unwrap_or(age * 2);
            usual.checked_sub(age).unwrap_or(usual)
        };
        let soonest = self.open.values().map(left).min().unwrap_or_default();
        soonest.clamp(SOONEST, BUSY_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn the_wait_is_what_stays_took() {
        let (began, mut stays) = (Instant::now(), Stays::default());
        let first = stays.begin(began);
        // Nothing ended yet: after 3 s of the first one, another 3 s.
        assert_eq!(stays.wait(began + 3 * S), 3 * S);
        stays.end(first, true, began + 10 * S);
        let (second, third) = (stays.begin(began + 10 * S), stays.begin(began + 14 * S));
        assert_eq!(stays.wait(began + 14 * S), 6 * S, "the second is over first");
        // Longer than usual: nobody knows, so it counts as new, and the third is nearer.
        assert_eq!(stays.wait(began + 22 * S), 2 * S);
        // One that was refused took no time at all, and is not counted.
        let refused = stays.begin(began + 22 * S);
        stays.end(refused, false, began + 22 * S);
        stays.end(second, true, began + 30 * S);
        stays.end(third, true, began + 30 * S);
        let last = stays.begin(began + 30 * S);
        let usual = stays.wait(began + 30 * S);
        assert!(usual > 11 * S && usual < 14 * S, "{usual:?}");
        stays.end(last, true, began + 31 * S);
        assert_eq!(stays.wait(began + 31 * S), SOONEST, "nothing is open");
    }

    #[test]
    fn nobody_is_sent_away_for_longer_than_a_minute() {
        let (began, mut stays) = (Instant::now(), Stays::default());
        stays.begin(began);
        assert_eq!(stays.wait(began + 3600 * S), BUSY_MAX);
    }
}
