//! What to give up, and in which order, when memory becomes short: never the process, never in silence.

use heph_types::KvFormat;
use serde::{Deserialize, Serialize};

/// What holds memory at one node for one answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Holding {
    /// Bytes of weights, by layer.
    pub layers: Vec<u64>,
    /// Bytes of everything that is not a layer or a cache.
    pub fixed: u64,
    /// Bytes of one position of one layer's cache in half precision.
    pub kv_bytes_f16: f64,
    /// Format of the cache now.
    pub kv: KvFormat,
    /// Positions that it can hold.
    pub context: u32,
    /// Positions that it holds: these cannot be given up.
    pub positions: u32,
    /// Bytes per layer of each smaller quantisation that lies on the disk, largest first, as a share of those now.
    pub smaller: Vec<f64>,
}

/// What may be given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allowed {
    /// The answer's bits may change from here on.
    pub precision: bool,
    /// Least positions that the answer still needs.
    pub context_min: u32,
    /// Layers that peers have room for.
    pub layers_elsewhere: u16,
}

/// One thing that is given up.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// The cache takes fewer bits.
    Kv(KvFormat),
    /// The cache is made shorter: it can hold so many positions.
    Context(u32),
    /// So many of the last layers go to a peer.
    Layers(u16),
    /// Another quantisation, by index.
    Quantisation(usize),
}

/// Steps that bring a node's memory below its limit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Degradation {
    /// In their order.
    pub steps: Vec<Step>,
    /// Bytes held after them.
    pub bytes: u64,
    /// For the answer's receipt.
    pub sentence: String,
}

/// There is nothing left to give up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the answer needs {needed} bytes at least and {limit} may be held; free memory, shorten it or allow another machine"
)]
pub struct TooLittleMemory {
    /// Bytes with everything given up.
    pub needed: u64,
    /// Bytes that may be held.
    pub limit: u64,
}

impl Holding {
    /// Bytes held when every position is used.
    pub fn bytes(&self) -> u64 {
        let cache = self.layers.len() as f64 * self.kv_bytes_f16 * share(self.kv) * f64::from(self.context);
        self.layers.iter().sum::<u64>() + self.fixed + cache.ceil() as u64
    }
}

/// Steps down the ladder until `limit` is kept: cache precision, context, layers to a peer, smaller quantisation. Nothing
/// is done before it is needed, and no step further than it must.
pub fn degrade(holding: &Holding, allowed: Allowed, limit: u64) -> Result<Degradation, TooLittleMemory> {
    let mut now = holding.clone();
    let mut steps = Vec::new();
    for rung in [cache_precision, context, layers_elsewhere, quantisation] {
        if now.bytes() > limit {
            rung(&mut now, allowed, limit, &mut steps);
        }
    }
    let bytes = now.bytes();
    match bytes <= limit {
        true => Ok(Degradation {
            sentence: sentence(&steps),
            steps,
            bytes,
        }),
        false => Err(TooLittleMemory { needed: bytes, limit }),
    }
}

fn cache_precision(now: &mut Holding, allowed: Allowed, limit: u64, steps: &mut Vec<Step>) {
    for format in [KvFormat::F16, KvFormat::Q8_0] {
        if allowed.precision && now.bytes() > limit && share(format) < share(now.kv) {
            now.kv = format;
            // A format on the way to a smaller one is not told.
            steps.retain(|s| !matches!(s, Step::Kv(_)));
            steps.push(Step::Kv(format));
        }
    }
}

fn context(now: &mut Holding, allowed: Allowed, limit: u64, steps: &mut Vec<Step>) {
    let least = allowed.context_min.max(now.positions).min(now.context);
    let one = now.layers.len() as f64 * now.kv_bytes_f16 * share(now.kv);
    let over = (now.bytes() - limit) as f64;
    let fewer = if one > 0.0 { (over / one).ceil() } else { 0.0 };
    let wanted = (f64::from(now.context) - fewer).max(0.0) as u32;
    let context = wanted.max(least);
    if context < now.context {
        now.context = context;
        steps.push(Step::Context(context));
    }
}

fn layers_elsewhere(now: &mut Holding, allowed: Allowed, limit: u64, steps: &mut Vec<Step>) {
    let mut gone = 0;
    while now.bytes() > limit && gone < allowed.layers_elsewhere && now.layers.pop().is_some() {
        gone += 1;
    }
    if gone > 0 {
        steps.push(Step::Layers(gone));
    }
}

fn quantisation(now: &mut Holding, allowed: Allowed, limit: u64, steps: &mut Vec<Step>) {
    if !allowed.precision {
        return;
    }
    let full = now.layers.clone();
    for (at, share) in now.smaller.clone().into_iter().enumerate() {
        if now.bytes() <= limit {
            return;
        }
        now.layers = full
            .iter()
            .map(|bytes| (*bytes as f64 * share).ceil() as u64)
            .collect();
        steps.retain(|s| !matches!(s, Step::Quantisation(_)));
        steps.push(Step::Quantisation(at));
    }
}

/// Bytes of a format over those of half precision.
fn share(format: KvFormat) -> f64 {
    match format {
        KvFormat::F32 => 2.0,
        KvFormat::F16 => 1.0,
        KvFormat::Q8_0 => 34.0 / 64.0,
    }
}

/// What was given up, for people.
pub fn sentence(steps: &[Step]) -> String {
    let parts = steps.iter().map(|step| match step {
        Step::Kv(format) => format!("the cache is kept as {format}"),
        Step::Context(positions) => format!("it can hold {positions} positions"),
        Step::Layers(count) => format!("{count} layers went to another machine"),
        Step::Quantisation(_) => "a smaller quantisation answers".to_owned(),
    });
    match steps.is_empty() {
        true => "Memory suffices.".to_owned(),
        false => format!("Memory became short: {}.", parts.collect::<Vec<_>>().join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holding() -> Holding {
        Holding {
            layers: vec![100; 10],
            fixed: 50,
            kv_bytes_f16: 1.0,
            kv: KvFormat::F32,
            context: 100,
            positions: 20,
            smaller: vec![0.5, 0.25],
        }
    }

    const ALL: Allowed = Allowed {
        precision: true,
        context_min: 30,
        layers_elsewhere: 4,
    };

    #[test]
    fn each_rung_is_stepped_on_only_when_those_before_do_not_suffice() {
        use Step::*;
        let cases: &[(u64, &[Step])] = &[
            (3050, &[]),
            (2050, &[Kv(KvFormat::F16)]),
            (1582, &[Kv(KvFormat::Q8_0)]),
            (1400, &[Kv(KvFormat::Q8_0), Context(65)]),
            (1000, &[Kv(KvFormat::Q8_0), Context(30), Layers(2)]),
            (
                600,
                &[Kv(KvFormat::Q8_0), Context(30), Layers(4), Quantisation(0)],
            ),
            (
                300,
                &[Kv(KvFormat::Q8_0), Context(30), Layers(4), Quantisation(1)],
            ),
        ];
        for (limit, steps) in cases {
            let done = degrade(&holding(), ALL, *limit).unwrap();
            assert_eq!(
                (done.steps.as_slice(), done.bytes <= *limit),
                (*steps, true),
                "limit {limit}"
            );
        }
        assert!(degrade(&holding(), ALL, 200).is_err());
    }

    #[test]
    fn bits_that_were_promised_are_not_given_up() {
        let allowed = Allowed {
            precision: false,
            ..ALL
        };
        let done = degrade(&holding(), allowed, 1700).unwrap();
        assert_eq!(done.steps, [Step::Context(32)]);
        let refused = degrade(&holding(), allowed, 700).unwrap_err();
        assert_eq!(refused.limit, 700);
    }
}
