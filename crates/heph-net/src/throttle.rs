//! A bucket of tokens that a machine's sending draws from: no more bytes a second leave than its owner allows.
//!
//! Counted are the bytes of conversations: sessions, files and answers to probes. Headers, repeats and signs of life come on
//! top, some percent of it. Clones draw from the same bucket. Knows no peer: all share what there is.

use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What may leave at once after a pause, in seconds of the rate: long enough for timers that are late, short enough for
/// nobody to notice.
const BURST_S: f64 = 0.05;

/// The smallest burst: a packet or two, so that a low rate sends whole packets.
const BURST_BYTES_MIN: f64 = 2_400.0;

/// Longest sleep before the bucket is looked at again: the rate may have been raised.
const LOOK: Duration = Duration::from_millis(200);

/// A rate that sending keeps to. The default lets everything through.
#[derive(Debug, Clone, Default)]
pub struct Throttle(Arc<Mutex<Option<Bucket>>>);

#[derive(Debug, Clone, Copy)]
struct Bucket {
    rate: f64,
    /// Bytes that may leave; below 0 where more left than there was room for.
    level: f64,
    filled: Instant,
}

impl Throttle {
    /// Lets no more than so many bytes a second through from now on; `None` lets everything through.
    pub fn limit(&self, bytes_per_second: Option<NonZeroU64>) {
        *self.bucket() = bytes_per_second.map(|rate| Bucket {
            rate: rate.get() as f64,
            level: 0.0,
            filled: Instant::now(),
        });
    }

    /// Waits until some of `wanted` bytes may leave, and says how many. Nothing is taken: whoever gives up waiting, or
    /// sends less, owes nothing.
    pub async fn room(&self, wanted: usize) -> usize {
        loop {
            let wait = match &mut *self.bucket() {
                None => return wanted,
                Some(bucket) => match bucket.room(Instant::now()) {
                    Ok(room) => return wanted.min(room),
                    Err(wait) => wait,
                },
            };
            tokio::time::sleep(wait.min(LOOK)).await;
        }
    }

    /// So many bytes left.
    pub fn spend(&self, bytes: usize) {
        if let Some(bucket) = &mut *self.bucket() {
            bucket.level -= bytes as f64;
        }
    }

    fn bucket(&self) -> MutexGuard<'_, Option<Bucket>> {
        // Every change is one step: a thread that panicked left it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Bucket {
    /// Bytes that may leave now, or how long it takes until some may.
    fn room(&mut self, now: Instant) -> Result<usize, Duration> {
        let burst = (self.rate * BURST_S).max(BURST_BYTES_MIN);
        let came = now.saturating_duration_since(self.filled).as_secs_f64() * self.rate;
        self.level = (self.level + came).min(burst);
        self.filled = now;
        // A packet's worth at least: a byte at a time would cost a packet each.
        let least = burst.min(BURST_BYTES_MIN / 2.0);
        match self.level >= least {
            true => Ok(self.level as usize),
            false => Err(Duration::from_secs_f64((least - self.level) / self.rate)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that leave in `seconds` where somebody always wants to send `piece`, on a clock of its own.
    fn sent(rate: u64, piece: usize, seconds: f64, step: f64) -> f64 {
        let began = Instant::now();
        let mut bucket = Bucket {
            rate: rate as f64,
            level: 0.0,
            filled: began,
        };
        let (mut passed, mut sent) = (0.0, 0.0);
        while passed < seconds {
            match bucket.room(began + Duration::from_secs_f64(passed)) {
                Ok(room) => {
                    let bytes = room.min(piece) as f64;
                    bucket.level -= bytes;
                    sent += bytes;
                }
                Err(wait) => passed += wait.as_secs_f64().max(step),
            }
        }
        sent
    }

    #[test]
    fn what_leaves_keeps_to_the_rate_however_it_is_cut() {
        for rate in [1_000, 125_000, 12_500_000, 1_000_000_000] {
            for piece in [100, 1_200, 64 << 10, 1 << 20] {
                let sent = sent(rate, piece, 10.0, 1e-4);
                let most = rate as f64 * 10.0 + (rate as f64 * BURST_S).max(BURST_BYTES_MIN);
                assert!(sent <= most, "{rate} {piece}: {sent}");
                assert!(
                    sent >= rate as f64 * 9.0 - BURST_BYTES_MIN,
                    "{rate} {piece}: {sent}"
                );
            }
        }
    }

    #[test]
    fn a_pause_gives_no_more_than_the_burst() {
        let began = Instant::now();
        let mut bucket = Bucket {
            rate: 1e6,
            level: 0.0,
            filled: began,
        };
        assert_eq!(bucket.room(began + Duration::from_secs(3600)), Ok(50_000));
        bucket.level -= 80_000.0;
        let wait = bucket.room(began + Duration::from_secs(3600)).unwrap_err();
        assert!(
            wait > Duration::from_millis(30),
            "what was borrowed is waited for: {wait:?}"
        );
    }
}
