//! Signs of life: asked for while a desk waits, and never else. One that goes out right behind many bytes also tells how
//! long these took.

use std::collections::VecDeque;
use std::time::Duration;

use crate::session::{BUSY_LEAST, SessionError};

/// Pings that may be unanswered: a node that answers none is lost long before so many are.
pub(super) const PINGS_MAX: usize = 8;

/// How often the way is measured at most: twenty times within the second in which a codec has to follow it.
const MEASURE_EVERY: Duration = Duration::from_millis(50);

/// How long the shortest time there and back is believed: ways change.
const SHORTEST_KEPT: Duration = Duration::from_secs(10);

/// Asks for signs of life while anything is waited for.
#[derive(Debug)]
pub(super) struct Pulse {
    /// Since when something is waited for.
    pub(super) since: Option<Duration>,
    pub(super) next: Duration,
    pub(super) asked: VecDeque<Ping>,
    /// The shortest time there and back, and when it was seen.
    shortest: Option<(Duration, Duration)>,
    /// From when on the way may be measured again.
    measure_next: Duration,
}

/// A ping that is not answered yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ping {
    /// When it was said, in microseconds.
    stamp: u64,
    /// Bytes that it follows.
    behind: u64,
}

/// What an answered ping tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answered {
    /// Time there and back.
    RoundTrip(Duration),
    /// So many bytes kept the way busy for so long.
    Crossed(u64, Duration),
    /// Nothing: older pings were answered with it, or the way itself is not known yet.
    Life,
}

impl Pulse {
    pub(super) fn new(now: Duration) -> Pulse {
        Pulse {
            since: None,
            next: now,
            asked: VecDeque::new(),
            shortest: None,
            measure_next: now,
        }
    }

    /// The stamp of a new ping behind so many bytes. No two are the same.
    pub(super) fn ask(&mut self, now: Duration, behind: u64) -> u64 {
        let now = now.as_micros() as u64;
        let stamp = self.asked.back().map_or(now, |last| now.max(last.stamp + 1));
        self.asked.push_back(Ping { stamp, behind });
        stamp
    }

    /// The stamp of a ping behind bytes that were just said, if the way is to be measured now.
    pub(super) fn measure(&mut self, now: Duration, behind: u64) -> Option<u64> {
        let measures = self.asked.iter().any(|ping| ping.behind > 0);
        if measures || now < self.measure_next || self.asked.len() >= PINGS_MAX {
            return None;
        }
        self.measure_next = now + MEASURE_EVERY;
        // Of two pings that arrive together only the last is answered.
        self.next = self.next.max(now + MEASURE_EVERY);
        Some(self.ask(now, behind))
    }

    /// Something small was answered after so long.
    pub(super) fn saw(&mut self, now: Duration, round_trip: Duration) {
        let kept = self
            .shortest
            .filter(|(_, seen)| now.saturating_sub(*seen) < SHORTEST_KEPT);
        if kept.is_none_or(|(shortest, _)| round_trip <= shortest) {
            self.shortest = Some((round_trip, now));
        }
    }

    /// What is known from the ping that is answered now.
    pub(super) fn answered(&mut self, now: Duration, stamp: u64) -> Result<Answered, SessionError> {
        let asked = self.asked.iter().position(|asked| asked.stamp == stamp);
        let Some(at) = asked else {
            return Err(SessionError::Unexpected {
                frame: "Pong",
                why: "nobody asked with this stamp",
            });
        };
        let behind = self.asked[at].behind;
        let earlier: u64 = self.asked.iter().take(at).map(|ping| ping.behind).sum();
        // A flood of pings is answered once: the older ones are, too.
        self.asked.drain(..=at);
        let round_trip = now.saturating_sub(Duration::from_micros(stamp));
        if behind == 0 {
            self.saw(now, round_trip);
            return Ok(Answered::RoundTrip(round_trip));
        }
        let shortest = self.shortest.map(|(shortest, _)| shortest);
        if shortest.is_some_and(|shortest| round_trip < shortest) {
            self.saw(now, round_trip);
        }
        Ok(match shortest {
            Some(shortest) if earlier == 0 => {
                Answered::Crossed(behind, round_trip.saturating_sub(shortest).max(BUSY_LEAST))
            }
            _ => Answered::Life,
        })
    }
}
