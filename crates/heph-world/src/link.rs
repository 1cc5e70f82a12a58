//! One direction of a way between two machines: how long bytes take, in order, as a reliable stream sees it.

use std::sync::Arc;
use std::time::Duration;

use crate::dice::Dice;

/// Bytes of payload in a packet of a QUIC stream.
const PACKET: u64 = 1200;

/// Bytes that one opportunity of a recorded trace lets pass (a packet of 1,504 bytes with its headers).
const TRACE_PACKET: u64 = 1448;

/// Times a packet may be lost before it comes through: at 30 % loss one packet in 10^8 needs more.
const LOSSES_MAX: u32 = 16;

/// How fast a link takes bytes.
#[derive(Debug, Clone, PartialEq)]
pub enum Rate {
    /// Bytes a second.
    Steady(f64),
    /// A recorded link: the milliseconds at which a packet may pass, over and over.
    Recorded(Arc<[u32]>),
}

/// A way as it is drawn or measured.
#[derive(Debug, Clone, PartialEq)]
pub struct LinkShape {
    /// One small message there and back.
    pub rtt: Duration,
    /// Added to each message, evenly from nothing to this.
    pub jitter: Duration,
    /// From the desk to the node.
    pub up: Rate,
    /// From the node to the desk.
    pub down: Rate,
    /// Share of packets lost; each costs its stream a round trip and a quarter.
    pub loss: f64,
}

impl LinkShape {
    /// A way without jitter and loss: a round trip in milliseconds, a rate in Mbit/s both ways.
    pub fn steady(rtt_ms: u64, mbit: f64) -> Self {
        Self {
            rtt: Duration::from_millis(rtt_ms),
            jitter: Duration::ZERO,
            up: Rate::Steady(mbit * 125e3),
            down: Rate::Steady(mbit * 125e3),
            loss: 0.0,
        }
    }
}

/// One direction with what is under way on it.
#[derive(Debug)]
pub(crate) struct Link {
    delay: Duration,
    jitter: Duration,
    rate: Rate,
    loss: f64,
    /// Until when the link is busy sending.
    free: Duration,
    /// When the last message arrives: a stream keeps its order.
    last: Duration,
    /// Whether nothing arrives any more.
    pub(crate) cut: bool,
}

impl Link {
    pub(crate) fn new(shape: &LinkShape, rate: &Rate) -> Self {
        Self {
            delay: shape.rtt / 2,
            jitter: shape.jitter,
            rate: rate.clone(),
            loss: shape.loss,
            free: Duration::ZERO,
            last: Duration::ZERO,
            cut: false,
        }
    }

    /// Sends nothing before.
    pub(crate) fn hold_until(&mut self, at: Duration) {
        self.free = self.free.max(at);
    }

    /// When `bytes` that are sent now arrive; `None` where the link is cut.
    pub(crate) fn send(&mut self, now: Duration, bytes: u64, dice: &mut Dice) -> Option<Duration> {
        if self.cut {
            return None;
        }
        self.free = sent(&self.rate, self.free.max(now), bytes);
        let mut at = self.free + self.delay + dice.between(Duration::ZERO, self.jitter);
        for _ in 0..bytes.div_ceil(PACKET) {
            at += self.losses(dice);
        }
        self.last = self.last.max(at);
        Some(self.last)
    }

    /// What the losses of one packet cost: each is noticed after a round trip and a quarter, and doubles the next wait.
    fn losses(&self, dice: &mut Dice) -> Duration {
        let (mut wait, mut sum) = (self.delay * 5 / 2, Duration::ZERO);
        let mut lost = 0;
        while self.loss > 0.0 && lost < LOSSES_MAX && dice.share() < self.loss {
            sum += wait;
            wait *= 2;
            lost += 1;
        }
        sum
    }
}

/// When the last of `bytes` has left that begin to be sent at `from`.
fn sent(rate: &Rate, from: Duration, bytes: u64) -> Duration {
    match rate {
        Rate::Steady(rate) => from + Duration::from_secs_f64(bytes as f64 / rate),
        Rate::Recorded(times) => {
            let round = u64::from(times.last().copied().unwrap_or(1)).max(1);
            let ms = from.as_millis() as u64;
            let (lap, within) = (ms / round, (ms % round) as u32);
            let first = times.partition_point(|at| *at < within) as u64;
            let packets = bytes.div_ceil(TRACE_PACKET).max(1);
            let at = first + packets - 1;
            let (laps, index) = (at / times.len() as u64, (at % times.len() as u64) as usize);
            Duration::from_millis((lap + laps) * round + u64::from(times[index])).max(from)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_take_their_time_and_keep_their_order() {
        let mut shape = LinkShape::steady(80, 10.0);
        let mut dice = Dice::new(1);
        let mut link = Link::new(&shape, &shape.up);
        let ms = Duration::from_millis;
        assert_eq!(link.send(ms(0), 12_500, &mut dice), Some(ms(50)));
        // The second waits until the first has left.
        assert_eq!(link.send(ms(5), 12_500, &mut dice), Some(ms(60)));
        assert_eq!(link.send(ms(100), 0, &mut dice), Some(ms(140)));
        link.cut = true;
        assert_eq!(link.send(ms(101), 1, &mut dice), None);
        shape.jitter = ms(30);
        shape.loss = 0.2;
        let mut link = Link::new(&shape, &shape.up);
        let times: Vec<_> = (0..1000).map(|at| link.send(ms(at), 100, &mut dice)).collect();
        assert!(times.is_sorted());
    }

    #[test]
    fn a_recorded_link_repeats_its_record() {
        let times: Arc<[u32]> = vec![7, 8, 8, 20].into();
        let rate = Rate::Recorded(times);
        let ms = Duration::from_millis;
        assert_eq!(sent(&rate, ms(0), 100), ms(7));
        assert_eq!(sent(&rate, ms(0), 3 * 1448), ms(8));
        assert_eq!(sent(&rate, ms(9), 1), ms(20));
        assert_eq!(sent(&rate, ms(9), 1449), ms(27));
        assert_eq!(sent(&rate, ms(45), 1448), ms(47));
    }
}
