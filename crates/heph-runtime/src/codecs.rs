//! Which formats a line's rows may travel in, what these cost here, and which of them each direction of a way uses now.
//!
//! Exact formats may always be used. One that rounds needs a certificate of the very model ([`Rounding`]): [`Allowed`] is
//! made nowhere else, and whoever seats stages takes nothing else. Whether an answer may be of the class that rounding
//! makes it is the planner's decision, and what a way carries best [`CodecControl`]'s.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use heph_net::codec::{pack, unpack};
use heph_net::session::{BUSY_LEAST, Codecs, Heading};
use heph_plan::bandwidth::{CodecControl, SEEN_LEAST};
use heph_plan::{CodecProfile, Place, Plan, Request};
use heph_types::{Hidden, WireCodec};

use crate::certify::rounding::Rounding;
use crate::line::LineModel;

/// Bytes a second that a way is taken to carry until it was measured: 100 Mbit/s.
pub const GOODPUT_USUAL: f64 = 12.5e6;

// What a conversation cannot see any sooner is taken for a bound.
const _: () = assert!(BUSY_LEAST.as_nanos() <= SEEN_LEAST.as_nanos());

/// Rows by which codecs are timed: a prompt chunk.
const TIMED_ROWS: usize = 64;

/// Numbers of one of them.
const TIMED_WIDTH: usize = 1024;

/// How often each is timed; the shortest counts.
const TIMED: usize = 3;

/// Formats that rows may travel in, with what they cost.
#[derive(Debug, Clone, PartialEq)]
pub struct Allowed {
    codecs: Vec<CodecProfile>,
    boundaries: usize,
}

/// Why a codec may not be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Uncertified {
    /// Nobody has looked.
    #[error("{0} rounds, and the model has no certificate for it here; heph certify makes one")]
    Missing(WireCodec),
    /// The certificate is of other files, another law or another cache format.
    #[error("{0} rounds, and the certificate is not one for this model and cache format")]
    Other(WireCodec),
    /// It was found to change tokens.
    #[error("{0} rounds, and heph certify found that it changes what this model says")]
    Changes(WireCodec),
    /// The line has more boundaries than were tried.
    #[error("{codec} rounds, and with {boundaries} boundaries it was not tried")]
    Boundaries {
        /// The codec.
        codec: WireCodec,
        /// Boundaries of the line.
        boundaries: usize,
    },
}

impl Allowed {
    /// The formats that change no bit.
    pub fn exact() -> Allowed {
        let codecs = costs().iter().copied().filter(|cost| cost.codec.is_exact());
        Allowed {
            codecs: codecs.collect(),
            boundaries: usize::MAX,
        }
    }

    /// These formats too, for a line of `model` with so many boundaries between machines.
    ///
    /// # Errors
    /// When one of them rounds and the certificate does not say that the model keeps its tokens with it.
    pub fn certified(
        wanted: &[WireCodec],
        rounding: Option<&Rounding>,
        model: &LineModel,
        boundaries: usize,
    ) -> Result<Allowed, Uncertified> {
        let mut allowed = Allowed::exact();
        for codec in wanted.iter().copied().filter(|codec| !codec.is_exact()) {
            let rounding = rounding.ok_or(Uncertified::Missing(codec))?;
            let of = (rounding.model, rounding.kv, rounding.arithmetic);
            if of != (model.hash, model.kv_format, heph_kernels::ARITHMETIC_VERSION) {
                return Err(Uncertified::Other(codec));
            }
            if !rounding.keeps(codec) {
                return Err(Uncertified::Changes(codec));
            }
            if boundaries > rounding.boundaries {
                return Err(Uncertified::Boundaries { codec, boundaries });
            }
            allowed.boundaries = rounding.boundaries;
            allowed
                .codecs
                .extend(costs().iter().filter(|cost| cost.codec == codec));
        }
        Ok(allowed)
    }

    /// The formats.
    pub fn codecs(&self) -> impl Iterator<Item = WireCodec> {
        self.codecs.iter().map(|cost| cost.codec)
    }

    /// Boundaries between machines that a line with these formats may have.
    pub fn boundaries_max(&self) -> usize {
        self.boundaries
    }
}

/// Tells the planner of the formats that `rounding` found to keep the model's tokens.
pub fn offer(request: &mut Request, rounding: &Rounding) {
    let more = WireCodec::ALL
        .into_iter()
        .filter(|codec| !codec.is_exact() && rounding.keeps(*codec));
    request.codecs.extend(more.map(CodecProfile::nominal));
    request.rounds = true;
}

/// Places in a plan where rows go from one machine to another.
pub fn boundaries(plan: &Plan) -> usize {
    let apart = |pair: &&[heph_plan::Stage]| pair.iter().any(|stage| stage.place == Place::Peer);
    plan.stages.windows(2).filter(apart).count()
}

/// What each format costs on this machine: timed once, when it is first asked for.
fn costs() -> &'static [CodecProfile] {
    static COSTS: OnceLock<Vec<CodecProfile>> = OnceLock::new();
    COSTS.get_or_init(|| WireCodec::ALL.map(timed).to_vec())
}

fn timed(codec: WireCodec) -> CodecProfile {
    let nominal = CodecProfile::nominal(codec);
    let rows = rows();
    let mut shortest = Duration::MAX;
    for _ in 0..TIMED {
        let began = Instant::now();
        let there = pack(&rows, codec).and_then(|packed| unpack(&packed));
        if there.is_ok() {
            shortest = shortest.min(began.elapsed());
        }
    }
    match shortest {
        Duration::MAX => nominal,
        shortest => CodecProfile {
            seconds_per_number: shortest.as_secs_f64() / rows.rows.len() as f64,
            ..nominal
        },
    }
}

/// Numbers like those between layers: a bell around zero.
fn rows() -> Hidden {
    let mut state = 1u64;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    let mut bell = || (0..4).map(|_| uniform()).sum::<f32>();
    Hidden {
        width: TIMED_WIDTH,
        rows: (0..TIMED_ROWS * TIMED_WIDTH).map(|_| bell()).collect(),
    }
}

/// The formats of both directions of a way, as they follow what is measured.
#[derive(Debug)]
pub struct Carriage {
    began: Instant,
    up: CodecControl,
    down: CodecControl,
}

impl Carriage {
    /// Begins with what is believed of the way: bytes a second up and down.
    pub fn new(allowed: &Allowed, goodput: (f64, f64)) -> Carriage {
        let control = |bytes_per_second| {
            CodecControl::new(&allowed.codecs, bytes_per_second).expect("exact codecs are always allowed")
        };
        Carriage {
            began: Instant::now(),
            up: control(goodput.0),
            down: control(goodput.1),
        }
    }

    /// Learns at `now` that so many bytes kept a direction busy for so long.
    pub fn crossed(&mut self, now: Instant, heading: Heading, bytes: u64, busy: Duration) {
        let now = now.saturating_duration_since(self.began);
        match heading {
            Heading::Up => self.up.sent(now, bytes, busy),
            Heading::Down => self.down.sent(now, bytes, busy),
        }
    }

    /// The formats for the next rows.
    pub fn codecs(&mut self) -> Codecs {
        Codecs {
            up: self.up.codec().codec,
            down: self.down.codec().codec,
        }
    }

    /// Bytes a second up and down, as believed now.
    pub fn goodput(&self) -> (f64, f64) {
        (self.up.goodput(), self.down.goodput())
    }
}

#[cfg(test)]
mod tests {
    use heph_types::{KvFormat, ModelHash};

    use super::*;
    use crate::certify::rounding::Verdict;

    const MODEL: LineModel = LineModel {
        hash: ModelHash([3; 32]),
        layers: 8,
        width: 64,
        vocab: 100,
        context: 100,
        kv_format: KvFormat::F16,
    };

    fn rounding(codec: WireCodec, changed: usize) -> Rounding {
        Rounding {
            model: MODEL.hash,
            arithmetic: heph_kernels::ARITHMETIC_VERSION,
            kv: KvFormat::F16,
            boundaries: 3,
            codecs: vec![Verdict {
                codec,
                bytes_per_number: 1.5,
                tokens: 100,
                changed,
            }],
        }
    }

    #[test]
    fn a_codec_that_rounds_is_refused_without_a_certificate_for_this_very_model() {
        use WireCodec::{Bf16, Int8};
        let sound = rounding(Bf16, 0);
        let other_model = Rounding {
            model: ModelHash([4; 32]),
            ..sound.clone()
        };
        let other_law = Rounding {
            arithmetic: sound.arithmetic + 1,
            ..sound.clone()
        };
        let other_cache = Rounding {
            kv: KvFormat::F32,
            ..sound.clone()
        };
        let changes = rounding(Bf16, 1);
        let boundaries = Uncertified::Boundaries {
            codec: Bf16,
            boundaries: 4,
        };
        let cases = [
            (Bf16, None, 1, Err(Uncertified::Missing(Bf16))),
            (Bf16, Some(&other_model), 1, Err(Uncertified::Other(Bf16))),
            (Bf16, Some(&other_law), 1, Err(Uncertified::Other(Bf16))),
            (Bf16, Some(&other_cache), 1, Err(Uncertified::Other(Bf16))),
            (Bf16, Some(&changes), 1, Err(Uncertified::Changes(Bf16))),
            (Int8, Some(&sound), 1, Err(Uncertified::Changes(Int8))),
            (Bf16, Some(&sound), 4, Err(boundaries)),
            (Bf16, Some(&sound), 3, Ok(3)),
        ];
        for (codec, certificate, count, wanted) in cases {
            let allowed = Allowed::certified(&[codec], certificate, &MODEL, count);
            let got = allowed.as_ref().map(Allowed::boundaries_max).map_err(|why| *why);
            assert_eq!(got, wanted, "{certificate:?}");
            assert_eq!(
                allowed.is_ok_and(|a| a.codecs().any(|c| c == codec)),
                wanted.is_ok()
            );
        }
        assert!(Allowed::exact().codecs().all(WireCodec::is_exact));
    }

    #[test]
    fn a_way_that_becomes_slow_carries_fewer_bytes_within_a_second_and_back() {
        let allowed = Allowed::certified(&[WireCodec::Bf16], Some(&rounding(WireCodec::Bf16, 0)), &MODEL, 1);
        let mut carriage = Carriage::new(&allowed.unwrap(), (1e12, 1e12));
        let fast = carriage.codecs();
        assert_eq!((fast.up, fast.down), (WireCodec::F32, WireCodec::F32));
        // A token of 8 KiB each 100 ms over a way of 1 Mbit/s up, then pieces of a prompt over one of 80 Gbit/s.
        let mut now = Instant::now();
        let mut second = |carriage: &mut Carriage, bytes: u64, rate: f64| {
            for _ in 0..10 {
                now += Duration::from_millis(100);
                let busy = Duration::from_secs_f64(bytes as f64 / rate);
                carriage.crossed(now, Heading::Up, bytes, busy);
            }
            let codecs = carriage.codecs();
            (codecs.up, codecs.down)
        };
        let slow = second(&mut carriage, 8 << 10, 125e3);
        assert_eq!(slow, (WireCodec::Bf16, WireCodec::F32));
        assert_eq!(
            second(&mut carriage, 1 << 20, 1e10),
            (WireCodec::F32, WireCodec::F32)
        );
    }
}
