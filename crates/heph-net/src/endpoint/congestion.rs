//! How much may be on its way to a peer: Cubic (RFC 9438), for work that comes in bursts.
//!
//! The rows of a prompt leave a stage in pieces of some hundred kilobytes, with pauses while the next is computed. A window is
//! not to grow while it is not used (RFC 9002, section 7.8), and the library takes every acknowledgement that arrives in a pause for
//! one of an unused window: at a distance that is all of them, so each piece would be spread over a whole round trip again. As in Linux
//! (`tcp_is_cwnd_limited`), a window in slow start grows here until it is twice what was on its way in the last round, and is spread
//! over half a round trip (`tcp_pacing_ss_ratio`). After a first loss that counts all is as in the library.
//!
//! A packet that is lost while round trips are as short as ever, and a hundred others arrived, tells of a bad way and not of a full one
//! (`docs/decisions/0033`): the window stays.

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use noq_proto::RttEstimator;
use noq_proto::congestion::{Controller, ControllerFactory, ControllerMetrics, CubicConfig};

/// Windows a round trip at which bytes leave in slow start.
const SLOW_START_PACE: u64 = 2;

/// Of so many bytes that arrive one may be lost before it is taken for a full way: BBR bears twice as many.
const ARRIVED_A_LOST: u64 = 100;

/// Bytes that may be lost at once, however many arrived before: what a queue drops that overflows is more.
const STRAYS_MAX: u64 = 32 << 10;

/// A way has a queue where its round trip takes this part longer than the shortest that was seen.
const QUEUE_SHARE: u32 = 4;

/// Makes a controller for each way to a peer.
#[derive(Debug)]
pub(super) struct Bursts(Arc<CubicConfig>);

/// The window of one way.
#[derive(Debug)]
struct Window {
    cubic: Box<dyn Controller>,
    flight: Flight,
    strays: Strays,
    round_trip: Option<Duration>,
}

/// What may be lost without being counted.
#[derive(Debug, Clone, Default)]
struct Strays {
    /// Bytes times [`ARRIVED_A_LOST`].
    credit: u64,
    /// Whether round trips are as short as ever: nothing waits on the way.
    is_clear: bool,
    /// Whether what was lost last did not count.
    spared: bool,
}

/// Bytes on their way: now, and at most in this round and the one before. A round ends when something is acknowledged that was sent in it.
#[derive(Debug, Clone)]
struct Flight {
    began: Instant,
    now: u64,
    most: u64,
    before: u64,
}

impl Bursts {
    /// Windows that begin with so many bytes.
    pub(super) fn from(first_window_bytes: u64) -> Self {
        let mut cubic = CubicConfig::default();
        cubic.initial_window(first_window_bytes);
        Self(Arc::new(cubic))
    }
}

impl ControllerFactory for Bursts {
    fn build(self: Arc<Self>, now: Instant, mtu: u16) -> Box<dyn Controller> {
        Box::new(Window {
            cubic: Arc::clone(&self.0).build(now, mtu),
            flight: Flight::new(now),
            strays: Strays::default(),
            round_trip: None,
        })
    }
}

impl Window {
    fn is_in_slow_start(&self) -> bool {
        let ssthresh = self.cubic.metrics().ssthresh;
        ssthresh.is_none_or(|ssthresh| self.cubic.window() < ssthresh)
    }

    /// Whether an acknowledgement lets nothing grow that the library calls one of an unused window.
    fn is_unused(&self, app_limited: bool) -> bool {
        app_limited && !(self.is_in_slow_start() && self.flight.fills(self.cubic.window()))
    }
}

impl Controller for Window {
    fn on_sent(&mut self, now: Instant, bytes: u64, largest_pn: u64) {
        self.cubic.on_sent(now, bytes, largest_pn);
    }

    fn on_packet_sent(&mut self, now: Instant, bytes: u16, pn: u64) {
        self.flight.sent(bytes.into());
        self.cubic.on_packet_sent(now, bytes, pn);
    }

    fn on_cwnd_limited(&mut self) {
        self.cubic.on_cwnd_limited();
    }

    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        pn: u64,
        app_limited: bool,
        rtt: &RttEstimator,
    ) {
        self.round_trip = Some(rtt.get());
        self.strays.arrived(bytes, rtt.get(), rtt.min());
        self.flight.acknowledged(now, sent);
        self.cubic
            .on_ack(now, sent, bytes, pn, self.is_unused(app_limited), rtt);
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, largest: Option<u64>) {
        self.flight.now = in_flight;
        self.cubic.on_end_acks(now, in_flight, app_limited, largest);
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        sent: Instant,
        is_persistent: bool,
        is_ecn: bool,
        lost_bytes: u64,
        largest_lost_pn: u64,
    ) {
        let may_stray = !is_persistent && !is_ecn;
        if !self.strays.spare(lost_bytes, may_stray) {
            self.cubic
                .on_congestion_event(now, sent, is_persistent, is_ecn, lost_bytes, largest_lost_pn);
        }
    }

    fn on_packet_lost(&mut self, lost_bytes: u16, pn: u64, now: Instant) {
        self.cubic.on_packet_lost(lost_bytes, pn, now);
    }

    fn on_spurious_congestion_event(&mut self) {
        // What did not count needs not be undone.
        if !self.strays.spared {
            self.cubic.on_spurious_congestion_event();
        }
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.cubic.on_mtu_update(new_mtu);
    }

    fn on_ack_frequency_update(&mut self, ack_eliciting_threshold: u64, max_ack_delay: Duration) {
        self.cubic
            .on_ack_frequency_update(ack_eliciting_threshold, max_ack_delay);
    }

    fn window(&self) -> u64 {
        self.cubic.window()
    }

    fn metrics(&self) -> ControllerMetrics {
        let mut metrics = self.cubic.metrics();
        let paced = self.round_trip.filter(|_| self.is_in_slow_start());
        metrics.pacing_rate = paced.map(|round_trip| pace(metrics.congestion_window, round_trip));
        metrics
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Window {
            cubic: self.cubic.clone_box(),
            flight: self.flight.clone(),
            strays: self.strays.clone(),
            round_trip: self.round_trip,
        })
    }

    fn initial_window(&self) -> u64 {
        self.cubic.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

/// Bytes a second at which a window leaves in slow start.
fn pace(window: u64, round_trip: Duration) -> u64 {
    let nanos = round_trip.as_nanos().max(1);
    let rate = u128::from(window * SLOW_START_PACE) * 1_000_000_000 / nanos;
    u64::try_from(rate).unwrap_or(u64::MAX)
}

impl Strays {
    /// So many bytes arrived, over a way that takes `round_trip` there and back where `least` is the shortest that was seen.
    fn arrived(&mut self, bytes: u64, round_trip: Duration, least: Duration) {
        self.credit = (self.credit + bytes).min(STRAYS_MAX * ARRIVED_A_LOST);
        self.is_clear = round_trip <= least + least / QUEUE_SHARE;
    }

    /// Whether so many bytes may be lost and the window stay.
    fn spare(&mut self, lost: u64, may_stray: bool) -> bool {
        let cost = lost.saturating_mul(ARRIVED_A_LOST);
        self.spared = may_stray && self.is_clear && cost <= self.credit;
        if self.spared {
            self.credit -= cost;
        }
        self.spared
    }
}

impl Flight {
    fn new(now: Instant) -> Self {
        Self {
            began: now,
            now: 0,
            most: 0,
            before: 0,
        }
    }

    fn sent(&mut self, bytes: u64) {
        self.now += bytes;
        self.most = self.most.max(self.now);
    }

    /// Something is acknowledged at `now` that left at `sent`.
    fn acknowledged(&mut self, now: Instant, sent: Instant) {
        if sent >= self.began {
            self.began = now;
            self.before = self.most;
            self.most = self.now;
        }
    }

    /// Whether what was on its way is more than half of a window.
    fn fills(&self, window: u64) -> bool {
        window < 2 * self.most.max(self.before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(now: Instant) -> Window {
        Window {
            cubic: Arc::clone(&Bursts::from(100_000).0).build(now, 1200),
            flight: Flight::new(now),
            strays: Strays::default(),
            round_trip: None,
        }
    }

    #[test]
    fn a_burst_fills_a_window_until_that_is_twice_as_large() {
        let began = Instant::now();
        let at = |millis| began + Duration::from_millis(millis);
        let mut flight = Flight::new(began);
        (0..200).for_each(|_| flight.sent(1000));
        assert!(flight.fills(200_000) && flight.fills(399_999) && !flight.fills(400_000));
        // All of it is acknowledged in the pause behind it.
        flight.acknowledged(at(100), at(1));
        flight.now = 0;
        assert!(flight.fills(399_999), "the round before counts");
        // Of what left before that round nothing begins another.
        flight.acknowledged(at(110), at(10));
        assert!(flight.fills(399_999));
        // Two rounds with a row each are a way that is hardly used.
        for round in [200, 300] {
            flight.sent(8_000);
            flight.acknowledged(at(round), at(round - 100));
            flight.now = 0;
        }
        assert!(!flight.fills(16_000) && flight.fills(15_999));
    }

    #[test]
    fn what_is_lost_now_and_then_on_a_clear_way_does_not_count() {
        let ms = Duration::from_millis;
        let now = Instant::now();
        let mut window = window(now);
        let mut at = now;
        let mut lose = |window: &mut Window, lost, is_persistent, is_ecn| {
            let before = window.window();
            // Each is sent behind the one before, so that none is part of it.
            at += ms(1);
            window.on_congestion_event(at, at, is_persistent, is_ecn, lost, 7);
            window.window() == before
        };
        assert!(!lose(&mut window, 1200, false, false), "nothing arrived yet");
        window.strays.arrived(1200 * ARRIVED_A_LOST, ms(100), ms(90));
        assert!(lose(&mut window, 1200, false, false));
        assert!(!lose(&mut window, 1200, false, false), "one in a hundred");
        let all = STRAYS_MAX * ARRIVED_A_LOST;
        window.strays.arrived(10 * all, ms(100), ms(90));
        assert!(
            !lose(&mut window, STRAYS_MAX + 1, false, false),
            "a queue overflowed"
        );
        assert!(
            !lose(&mut window, 1200, false, true),
            "the way says that it is full"
        );
        window.strays.arrived(1, ms(113), ms(90));
        assert!(
            !lose(&mut window, 1200, false, false),
            "something waits on the way"
        );
        window.strays.arrived(1, ms(112), ms(90));
        assert!(lose(&mut window, STRAYS_MAX, false, false));
        window.strays.arrived(all, ms(90), ms(90));
        assert!(!lose(&mut window, 1200, true, false), "nothing arrives any more");
    }

    #[test]
    fn only_what_counted_is_undone() {
        let ms = Duration::from_millis;
        let now = Instant::now();
        let mut window = window(now);
        window.on_congestion_event(now, now, false, false, 1200, 7);
        assert_eq!(window.window(), 70_000);
        window.strays.arrived(1 << 20, ms(90), ms(90));
        window.on_congestion_event(now + ms(1), now + ms(1), false, false, 1200, 9);
        window.on_spurious_congestion_event();
        assert_eq!(window.window(), 70_000, "the one before was lost");
        window.strays.arrived(1, ms(200), ms(90));
        window.on_congestion_event(now + ms(2), now + ms(2), false, false, 1200, 11);
        assert_eq!(window.window(), 49_000);
        window.on_spurious_congestion_event();
        assert_eq!(window.window(), 70_000);
    }

    #[test]
    fn a_window_leaves_in_half_a_round_trip_until_something_is_lost() {
        let now = Instant::now();
        let mut window = window(now);
        assert_eq!(window.metrics().pacing_rate, None, "nobody knows the way yet");
        window.round_trip = Some(Duration::from_millis(100));
        assert_eq!(window.metrics().pacing_rate, Some(2_000_000));
        assert_eq!(window.metrics().congestion_window, 100_000);
        assert!(window.is_unused(true), "nothing is on its way");
        window.flight.sent(60_000);
        assert!(!window.is_unused(true) && !window.is_unused(false));
        window.on_congestion_event(now, now, false, false, 1200, 7);
        assert_eq!(window.metrics().pacing_rate, None);
        assert_eq!(window.window(), 70_000);
        assert!(window.is_unused(true), "as in the library");
        assert_eq!(pace(u64::MAX / 2, Duration::ZERO), u64::MAX);
    }
}
