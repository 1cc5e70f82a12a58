//! How many bytes a second a way carries, found out with a few of them.
//!
//! A short look decides whether a longer one is worth its bytes: over a slow way it is exact enough, and over a fast one it
//! tells only that the way is fast. Counted is the later half of what arrives, when the congestion window has opened; where that
//! was still no more than the window let through, two more looks follow, through a window that is larger by then. The
//! peer's word on what arrived there is bounded, and believed: whoever lies about it is asked too much or too little.

use std::time::{Duration, Instant};

use super::{ASK_PROBE, HERE, TransferError, request};
use crate::address::take;
use crate::endpoint::{Connection, Stream};

/// Bytes of the short look, each way.
const SHORT_BYTES: u64 = 32 << 10;

/// Bytes of the long look, each way.
const LONG_BYTES: u64 = 512 << 10;

/// Bytes of a look that opens the window further, each way. A last one of [`LONG_BYTES`] finds room in it.
const LONGER_BYTES: u64 = 768 << 10;

/// What a peer may ask for at most, each way.
const BYTES_MAX: u64 = 1 << 20;

/// Half of a look that came within so many round trips was held up by the congestion window and not by the way.
const WINDOW_ROUNDS: f64 = 1.5;

/// A short look that takes longer than this over a way was long enough.
const SHORT_ENOUGH: Duration = Duration::from_millis(100);

/// How long the looks may take together.
pub const PROBE_DEADLINE: Duration = Duration::from_secs(3);

/// Bytes written or read at once.
const PIECE_BYTES: usize = 16 << 10;

/// Bytes of an answer before the filler: [`HERE`], the bytes counted, and the nanoseconds they took.
const ANSWER_BYTES: usize = 1 + 8 + 8;

/// Rates that are believed: what no way is below or above.
const RATE_MIN: f64 = 1e3;
const RATE_MAX: f64 = 1e11;

/// Bytes of payload a second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Goodput {
    /// Away from here.
    pub up: f64,
    /// Towards here.
    pub down: f64,
}

impl Goodput {
    /// Neither way faster than so many bytes in that time.
    fn at_most(self, bytes: u64, took: Duration) -> Goodput {
        let most = rate(bytes, took);
        Goodput {
            up: self.up.min(most),
            down: self.down.min(most),
        }
    }

    /// Whether half of a look of so many bytes came as soon as a window lets it through, to either side.
    fn was_held_up(self, bytes: u64, round_trip: Duration) -> bool {
        let half = bytes as f64 / 2.0;
        self.up.max(self.down) * WINDOW_ROUNDS * round_trip.as_secs_f64() >= half
    }
}

/// Measures the way of a connection for files, within [`PROBE_DEADLINE`] and for 1.9 megabytes each way at most. Somebody
/// waits for it that long: what a first look found by then counts.
///
/// # Errors
/// When the peer does not answer probes, left, or is too slow for one.
pub async fn probe(connection: &Connection, waited: Duration) -> Result<Goodput, TransferError> {
    let began = Instant::now();
    let look = |bytes, within| {
        let until = tokio::time::Instant::from_std(began + within);
        tokio::time::timeout_at(until, look(connection, bytes))
    };
    let short = look(SHORT_BYTES, PROBE_DEADLINE)
        .await
        .map_err(|_| TransferError::Left)??;
    if began.elapsed() > SHORT_ENOUGH && began.elapsed() > 6 * connection.round_trip().unwrap_or_default() {
        return Ok(short);
    }
    let (within, asked) = (PROBE_DEADLINE.min(waited), Instant::now());
    // A way that fills up takes longer.
    let round_trip = connection.round_trip().unwrap_or_default();
    let long = match look(LONG_BYTES, within).await {
        Ok(long) => long?,
        // Not both ways can be faster than what was not done by now.
        Err(_) => return Ok(short.at_most(2 * LONG_BYTES, asked.elapsed())),
    };
    let (mut found, mut seen) = (long, LONG_BYTES);
    for bytes in [LONGER_BYTES, LONG_BYTES] {
        if !found.was_held_up(seen, round_trip) {
            break;
        }
        // What has no end by now takes nothing from what was seen.
        let Some(next) = look(bytes, within).await.ok().and_then(Result::ok) else {
            break;
        };
        (found, seen) = (next, bytes);
    }
    Ok(found)
}

async fn look(connection: &Connection, bytes: u64) -> Result<Goodput, TransferError> {
    let mut stream = connection.open().await.map_err(|_| TransferError::Left)?;
    let asked = request(ASK_PROBE, [0; 32], bytes, bytes);
    let written = async {
        stream.write(&asked).await?;
        fill(&mut stream, bytes).await?;
        let mut answer = [0; ANSWER_BYTES];
        stream.read(&mut answer).await.map(|()| answer)
    };
    let answer = written.await.map_err(|_| TransferError::Left)?;
    let mut rest = &answer[..];
    let ([HERE], Some(counted), Some(nanos)) = (
        take(&mut rest).unwrap_or_default(),
        take(&mut rest),
        take(&mut rest),
    ) else {
        return Err(TransferError::NotThere);
    };
    let took = Duration::from_nanos(u64::from_le_bytes(nanos));
    let up = rate(u64::from_le_bytes(counted), took);
    let down = drain(&mut stream, bytes).await.ok_or(TransferError::Left)?;
    Ok(Goodput {
        up,
        down: rate(down.0, down.1),
    })
}

/// Answers a peer that wants to send `up` bytes and hear `down`.
pub(super) async fn answer(stream: &mut Stream, up: u64, down: u64) -> Option<()> {
    if up > BYTES_MAX || down > BYTES_MAX {
        return None;
    }
    let (bytes, took) = drain(stream, up).await?;
    let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
    let answer = [&[HERE][..], &bytes.to_le_bytes(), &nanos.to_le_bytes()].concat();
    stream.write(&answer).await.ok()?;
    fill(stream, down).await.ok()?;
    stream.finish();
    Some(())
}

async fn fill(stream: &mut Stream, bytes: u64) -> Result<(), crate::endpoint::StreamError> {
    let piece = vec![0; PIECE_BYTES];
    let mut left = bytes as usize;
    while left > 0 {
        let now = left.min(PIECE_BYTES);
        stream.write(&piece[..now]).await?;
        left -= now;
    }
    Ok(())
}

/// Reads so many bytes; returns how many came in the later half of them, and in which time.
async fn drain(stream: &mut Stream, bytes: u64) -> Option<(u64, Duration)> {
    let mut piece = vec![0; PIECE_BYTES];
    let (mut came, mut half) = (0, None);
    while came < bytes {
        let room = piece.len().min((bytes - came) as usize);
        came += stream.read_some(&mut piece[..room]).await.ok()?? as u64;
        if half.is_none() && came * 2 >= bytes {
            half = Some((came, Instant::now()));
        }
    }
    let (before, since) = half?;
    Some((came - before, since.elapsed()))
}

/// Bytes a second, of what is believed.
fn rate(bytes: u64, took: Duration) -> f64 {
    let rate = bytes as f64 / took.as_secs_f64().max(1e-9);
    match bytes {
        0 => RATE_MAX,
        _ => rate.clamp(RATE_MIN, RATE_MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_that_nobody_can_have_is_not_believed() {
        let second = Duration::from_secs(1);
        assert_eq!(rate(1_000_000, second), 1e6);
        assert_eq!(rate(u64::MAX, Duration::ZERO), RATE_MAX);
        assert_eq!(rate(1, Duration::from_secs(u64::MAX)), RATE_MIN);
        assert_eq!(rate(0, second), RATE_MAX);
    }

    #[test]
    fn a_look_that_the_window_held_up_is_followed_by_a_longer_one() {
        let at = |megabytes: f64| Goodput {
            up: 1e5,
            down: megabytes * 1e6,
        };
        let far = Duration::from_millis(100);
        // A way of 20 Mbit/s is known by then; of one of 100 Mbit/s no more was seen than a window in each round trip.
        assert!(!at(1.7).was_held_up(LONG_BYTES, far) && at(2.6).was_held_up(LONG_BYTES, far));
        assert!(!at(100.0).was_held_up(LONG_BYTES, Duration::from_millis(1)));
    }

    #[test]
    fn what_arrived_in_a_heap_is_no_faster_than_what_came_too_late() {
        // As a busy machine saw a way of 400,000 bytes a second.
        let heap = Goodput {
            up: 1.2e10,
            down: 5e9,
        };
        let late = heap.at_most(2 * LONG_BYTES, Duration::from_millis(200));
        assert_eq!((late.up, late.down), (5_242_880.0, 5_242_880.0));
        let slow = Goodput { up: 3e5, down: 4e5 };
        assert_eq!(slow.at_most(2 * LONG_BYTES, Duration::ZERO), slow);
    }
}
