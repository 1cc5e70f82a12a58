//! Which codec a link uses while an answer runs: by goodput as measured, among those that the model's certificate allows.
//!
//! Whether an answer may become inexact is decided before, by what is allowed; this control only follows the wire.

use crate::request::CodecProfile;
use core::time::Duration;
use heph_types::Exactness;

/// A new goodput is believed to nine tenths after this long, however many messages show it: over a long way these are few. Three such
/// times are within the second in which a way is followed.
const BELIEVED_AFTER: Duration = Duration::from_millis(300);
/// What crossed within this tells only that the way is at least so fast: below lies how soon somebody woke.
pub const SEEN_LEAST: Duration = Duration::from_micros(100);
/// A codec is left only for one that is this much faster, so that two near ones do not take turns.
const MARGIN: f64 = 0.9;
/// Codecs that one control chooses among.
const CODECS_MAX: usize = 8;

/// The control of one direction of one link.
#[derive(Debug, Clone)]
pub struct CodecControl {
    codecs: Vec<CodecProfile>,
    current: usize,
    goodput: f64,
    /// When it was measured last.
    measured: Duration,
    used_inexact: bool,
}

/// Why there is nothing to choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// No exact codec is listed; there has to be one to fall back on.
    #[error("no exact codec is allowed on this link")]
    NoneExact,
    /// The list is too long.
    #[error("{0} codecs are listed, eight is the most")]
    TooMany(usize),
}

impl CodecControl {
    /// Begins with the best codec at this many bytes a second. `allowed` is what the certificate and the policy allow:
    /// exact codecs always, others only where the family keeps its tokens.
    pub fn new(allowed: &[CodecProfile], bytes_per_second: f64) -> Result<CodecControl, CodecError> {
        if allowed.len() > CODECS_MAX {
            return Err(CodecError::TooMany(allowed.len()));
        }
        if !allowed.iter().any(|c| c.codec.is_exact()) {
            return Err(CodecError::NoneExact);
        }
        let mut control = CodecControl {
            codecs: allowed.to_vec(),
            current: 0,
            goodput: bytes_per_second.max(1.0),
            measured: Duration::ZERO,
            used_inexact: false,
        };
        control.current = control.best();
        Ok(control)
    }

    /// The codec for the next message.
    pub fn codec(&mut self) -> CodecProfile {
        let codec = self.codecs[self.current];
        self.used_inexact |= !codec.codec.is_exact();
        codec
    }

    /// Learns at `now`, counted from any moment before the first message, that `bytes` took `busy` to cross, waiting for the other side
    /// left out. Longer messages tell more.
    pub fn sent(&mut self, now: Duration, bytes: u64, busy: Duration) {
        if bytes == 0 {
            return;
        }
        let seen = bytes as f64 / busy.max(SEEN_LEAST).as_secs_f64();
        let since = now.saturating_sub(self.measured).max(busy).min(BELIEVED_AFTER);
        self.measured = now;
        if busy <= SEEN_LEAST && seen <= self.goodput {
            return;
        }
        let weight = 1.0 - 0.1f64.powf(since.as_secs_f64() / BELIEVED_AFTER.as_secs_f64());
        // In logarithms, so that a hundredfold step down and up take equally long.
        self.goodput = (self.goodput.ln() + weight * (seen.ln() - self.goodput.ln()))
            .exp()
            .max(1.0);
        let best = self.best();
        if self.seconds(best) < MARGIN * self.seconds(self.current) {
            self.current = best;
        }
    }

    /// The class of everything that was sent so far.
    pub fn exactness(&self) -> Exactness {
        match self.used_inexact {
            true => Exactness::Close,
            false => Exactness::Exact,
        }
    }

    /// Bytes a second, as believed.
    pub fn goodput(&self) -> f64 {
        self.goodput
    }

    fn seconds(&self, at: usize) -> f64 {
        let codec = &self.codecs[at];
        codec.bytes_per_number / self.goodput + codec.seconds_per_number
    }

    /// The fastest; of equals the exact one.
    fn best(&self) -> usize {
        let key = |at: &usize| (self.seconds(*at), !self.codecs[*at].codec.is_exact());
        let all = 0..self.codecs.len();
        let best = all.min_by(|a, b| key(a).0.total_cmp(&key(b).0).then(key(a).1.cmp(&key(b).1)));
        best.expect("a control has at least one codec")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use heph_types::WireCodec;

    /// What measured codecs cost: the smaller the bytes, the more work.
    fn codecs(names: &[WireCodec]) -> Vec<CodecProfile> {
        let of = |codec: &WireCodec| {
            let seconds_per_number = match codec {
                WireCodec::F32 => 0.2e-9,
                WireCodec::Packed => 4e-9,
                WireCodec::Bf16 => 0.5e-9,
                WireCodec::Int8 => 1.5e-9,
            };
            CodecProfile {
                seconds_per_number,
                ..CodecProfile::nominal(*codec)
            }
        };
        names.iter().map(of).collect()
    }

    #[test]
    fn a_step_of_the_link_is_followed_within_a_second() {
        use WireCodec::{Bf16, Int8};
        let token = [(12.5e6, Int8), (1.25e6, Int8), (125e3, Int8), (12.5e6, Int8)];
        let piece = [(1.25e9, Bf16), (12.5e6, Int8), (1.25e9, Bf16), (1.25e6, Int8)];
        // A stage beside this one answers every 20 ms at best, one far away every 300.
        for pace in [0.02, 0.05, 0.15, 0.3] {
            follow(4096.0, pace, &token);
            follow(131_072.0, pace, &piece);
        }
    }

    /// Messages of so many numbers, each `pace` seconds at best, over a link that has each rate for a second.
    fn follow(numbers: f64, pace: f64, steps: &[(f64, WireCodec)]) {
        let mut control = CodecControl::new(&codecs(&WireCodec::ALL), 1.25e9).unwrap();
        let mut clock = 0.0;
        for (rate, wanted) in steps {
            let until = clock + 1.0;
            while clock < until {
                let bytes = numbers * control.codec().bytes_per_number;
                let seconds = bytes / rate;
                clock += seconds.max(pace);
                let now = Duration::from_secs_f64(clock);
                control.sent(now, bytes as u64, Duration::from_secs_f64(seconds));
            }
            let times = control.goodput() / rate;
            assert!(
                (0.75..1.33).contains(&times),
                "{times} of {rate}, a message each {pace} s"
            );
            assert_eq!(
                control.codec().codec,
                *wanted,
                "at {rate}, a message each {pace} s"
            );
        }
    }

    #[test]
    fn what_crosses_sooner_than_is_seen_makes_no_way_slower() {
        let mut control = CodecControl::new(&codecs(&WireCodec::ALL), 1.25e10).unwrap();
        for token in 1..100 {
            control.sent(Duration::from_millis(10 * token), 8192, SEEN_LEAST / 2);
        }
        assert_eq!(control.goodput(), 1.25e10);
        assert_eq!(control.codec().codec, WireCodec::F32);
    }

    #[test]
    fn many_messages_at_once_are_believed_no_more_than_one() {
        let (mut control, now) = (
            CodecControl::new(&codecs(&WireCodec::ALL), 1e7).unwrap(),
            Duration::from_secs(1),
        );
        control.sent(now, 1_000, Duration::from_millis(1));
        let before = control.goodput();
        assert!(before < 2e6, "after a pause one is believed to nine tenths");
        for _ in 0..1_000 {
            control.sent(now, 1_000_000, Duration::ZERO);
        }
        assert!(control.goodput() < 1.01 * before);
    }

    #[test]
    fn a_codec_that_is_not_allowed_is_never_used() {
        let exact = codecs(&[WireCodec::F32, WireCodec::Packed]);
        let mut control = CodecControl::new(&exact, 1e9).unwrap();
        control.sent(Duration::from_secs(1), 8192, Duration::from_secs(1));
        assert!(control.codec().codec.is_exact());
        assert_eq!(control.exactness(), Exactness::Exact);
        assert!(CodecControl::new(&codecs(&[WireCodec::Int8]), 1e9).is_err());
    }

    #[test]
    fn an_answer_that_was_rounded_once_is_not_exact_again() {
        let mut control = CodecControl::new(&codecs(&WireCodec::ALL), 1e5).unwrap();
        assert_eq!(control.codec().codec, WireCodec::Int8);
        for token in 1..50 {
            control.sent(Duration::from_secs(token), 1 << 24, Duration::from_micros(10));
        }
        assert!(control.codec().codec.is_exact());
        assert_eq!(control.exactness(), Exactness::Close);
    }
}
