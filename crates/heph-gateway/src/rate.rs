//! How many requests a caller may begin in a minute: enough for any person and program, and few enough that one that went wrong does
//! not take the machine from all others.

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::connection::Way;
use crate::tls::household;

/// Callers that are counted each for itself; of those beyond that all share one count.
const CALLERS_MAX: usize = 4096;

/// What one caller began in the minute that is counted.
#[derive(Debug, Default)]
pub(crate) struct Minute {
    /// Since 1970.
    number: u64,
    begun: u32,
}

impl Minute {
    /// Counts a request that is begun at `now_ms`.
    ///
    /// # Errors
    /// Where `most` were begun in this minute already: after so many seconds the next one begins.
    pub(crate) fn begin(&mut self, now_ms: u64, most: u32) -> Result<(), u64> {
        let number = now_ms / 60_000;
        if self.number != number {
            (self.number, self.begun) = (number, 0);
        }
        if self.begun >= most {
            return Err((60_000 - now_ms % 60_000).div_ceil(1000));
        }
        self.begun += 1;
        Ok(())
    }
}

/// The requests that the person's programs begin, told apart by where they come from: from each address (of version 6: each /64), and by
/// the local socket. What they show tells nothing, since they share it or choose it.
#[derive(Debug)]
pub struct Rate {
    most: Option<NonZeroU32>,
    callers: Mutex<HashMap<Option<IpAddr>, Minute>>,
    refused: AtomicU64,
}

impl Rate {
    /// So many in a minute; without a number as many as come.
    #[must_use]
    pub fn new(most: Option<NonZeroU32>) -> Self {
        Self {
            most,
            callers: Mutex::default(),
            refused: AtomicU64::new(0),
        }
    }

    /// Counts a request that came by `way`.
    ///
    /// # Errors
    /// Where too many came from there: after so many seconds they may come again.
    pub(crate) fn begin(&self, now_ms: u64, way: Way) -> Result<(), u64> {
        let Some(most) = self.most else { return Ok(()) };
        let caller = match way {
            Way::Local => None,
            Way::From(address) => Some(household(address)),
        };
        let mut callers = self.callers.lock().unwrap_or_else(PoisonError::into_inner);
        if callers.len() >= CALLERS_MAX && !callers.contains_key(&caller) {
            callers.retain(|_, minute| minute.number == now_ms / 60_000);
        }
        let crowded = callers.len() >= CALLERS_MAX && !callers.contains_key(&caller);
        let counted = if crowded {
            Some(std::net::Ipv6Addr::UNSPECIFIED.into())
        } else {
            caller
        };
        callers.entry(counted).or_default().begin(now_ms, most.get())
    }

    /// Counts that somebody was told to come later, whoever it was.
    pub(crate) fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// How often somebody was.
    pub(crate) fn refusals(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(address: &str) -> Way {
        Way::From(address.parse().unwrap())
    }

    #[test]
    fn a_caller_begins_so_many_in_a_minute_and_then_waits_for_the_next() {
        let rate = Rate::new(NonZeroU32::new(3));
        let begin = |now_ms, way| rate.begin(now_ms, way);
        for _ in 0..3 {
            assert_eq!(begin(60_000, from("192.0.2.1")), Ok(()));
        }
        assert_eq!(begin(75_001, from("192.0.2.1")), Err(45));
        assert_eq!(begin(119_999, from("::ffff:192.0.2.1")), Err(1));
        assert_eq!(begin(120_000, from("192.0.2.1")), Ok(()));
    }

    #[test]
    fn callers_are_told_apart_by_where_they_come_from() {
        let rate = Rate::new(NonZeroU32::new(1));
        let begins = |way| rate.begin(0, way).is_ok();
        assert!(begins(from("192.0.2.1")) && begins(from("192.0.2.2")) && begins(Way::Local));
        assert!(!begins(from("192.0.2.1")) && !begins(Way::Local));
        assert!(begins(from("2001:db8::1")) && !begins(from("2001:db8::2")));
        assert!(begins(from("2001:db8:0:1::1")));
    }

    #[test]
    fn very_many_callers_are_bounded_all_the_same() {
        let rate = Rate::new(NonZeroU32::new(1));
        let address = |n: u32| Way::From(std::net::Ipv4Addr::from(0x0a00_0000 + n).into());
        let most = CALLERS_MAX as u32;
        let begun = (0..most * 2)
            .filter(|&n| rate.begin(0, address(n)).is_ok())
            .count();
        assert_eq!(begun, CALLERS_MAX + 1);
        assert!(rate.callers.lock().unwrap().len() <= CALLERS_MAX + 1);
        // A minute later nobody is remembered.
        assert_eq!(rate.begin(60_000, address(most * 3)), Ok(()));
        assert_eq!(rate.callers.lock().unwrap().len(), 1);
    }

    #[test]
    fn without_a_number_as_many_begin_as_come() {
        let rate = Rate::new(None);
        assert!((0..1000).all(|_| rate.begin(0, Way::Local).is_ok()));
    }
}
