//! What a model's file says about its shape, in one form for every kind of file.
//!
//! GGUF metadata and Hugging Face `config.json` are both read into [`ModelConfig`]; everything after that
//! (graph, rope tables, memory estimate) is derived from it.

use crate::graph::RopeSpec;
use heph_kernels::math;
use heph_kernels::rope::RopeStyle;

/// The numbers that shape a model. Names follow the field: `hidden` is GGUF's `embedding_length`.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// GGUF name of the architecture, such as `llama` or `qwen3moe`.
    pub architecture: String,
    /// The model's own name, for people.
    pub name: Option<String>,
    /// Layers.
    pub layers: usize,
    /// Width of the hidden states.
    pub hidden: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Width inside the dense feed-forward unit (0 when every layer has experts).
    pub ffn: usize,
    /// Entries of the vocabulary.
    pub vocab: usize,
    /// Positions that the model was made for.
    pub context: usize,
    /// Added to the mean square in RMS normalisation; for an encoder, to the variance in layer normalisation.
    pub rms_eps: f32,
    /// Rotary position embedding.
    pub rope: RopeConfig,
    /// How many positions back a token may look, itself included.
    pub sliding_window: Option<u32>,
    /// The mixture of experts, where the model has one.
    pub experts: Option<ExpertsConfig>,
    /// What a model that only reads has beside its layers; `None` for one that writes.
    pub encoder: Option<EncoderConfig>,
}

/// A model that reads whole texts and makes vectors of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EncoderConfig {
    /// Rows of the table of text kinds; 0 without one.
    pub token_types: usize,
    /// How a text's rows become one vector.
    pub pooling: Pooling,
}

/// How the rows of a text become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// Their mean.
    Mean,
    /// The first one, which stands for the token in front of every text.
    First,
}

/// A mixture of experts in every layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpertsConfig {
    /// Experts in a layer.
    pub count: usize,
    /// Experts that one token uses.
    pub used: usize,
    /// Width inside one expert.
    pub ffn: usize,
    /// Whether the chosen experts' weights are scaled to sum to one.
    pub normalise: bool,
}

/// Rotary position embedding as the file describes it.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeConfig {
    /// Base of the frequencies.
    pub theta: f64,
    /// How many of a head's numbers are rotated; the rest pass through.
    pub dims: usize,
    /// Which numbers form a pair.
    pub style: RopeStyle,
    /// Change of the frequencies for contexts longer than the model was first trained on.
    pub scaling: RopeScaling,
}

/// The ways to stretch rotary frequencies.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// Frequencies as they are.
    None,
    /// Every frequency divided by `factor` (Chen et al. 2023, position interpolation).
    Linear {
        /// How much longer the context became.
        factor: f64,
    },
    /// YaRN (Peng et al. 2023): low frequencies interpolated, high ones kept, a ramp between.
    Yarn {
        /// How much longer the context became.
        factor: f64,
        /// Turns over the original context above which a frequency is kept.
        beta_fast: f64,
        /// Turns over the original context below which a frequency is interpolated.
        beta_slow: f64,
        /// Context of the first training.
        original_context: usize,
        /// Factor on sine and cosine; `None` for the paper's `0.1 ln(factor) + 1`.
        attention_factor: Option<f64>,
    },
    /// Llama 3.1's bands: low frequencies divided by `factor`, high ones kept, a ramp between.
    Llama3 {
        /// How much longer the context became.
        factor: f64,
        /// Wavelengths above `original_context / low` are divided.
        low: f64,
        /// Wavelengths below `original_context / high` are kept.
        high: f64,
        /// Context of the first training.
        original_context: usize,
    },
    /// One divisor per rotated pair, as GGUF's `rope_freqs.weight` holds them.
    Divisors(Vec<f32>),
}

/// Why a configuration cannot be a model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the model's configuration is not usable: {what}")]
pub struct ConfigError {
    /// What is wrong, as part of a sentence.
    pub what: String,
}

/// Far above any model in use; stops a hostile file before it sizes an allocation.
const LAYERS_MAX: usize = 4096;
/// Far above any model in use; stops a hostile file before it sizes an allocation.
const WIDTH_MAX: usize = 1 << 20;
/// Far above any vocabulary in use.
const VOCAB_MAX: usize = 1 << 24;

/// Known models have two.
const TOKEN_TYPES_MAX: usize = 1024;

impl ModelConfig {
    /// Checks the numbers against each other, before anything is sized by them.
    pub fn check(&self) -> Result<(), ConfigError> {
        let fail = |what: String| Err(ConfigError { what });
        let within = |name: &str, value: usize, max: usize| match value {
            0 => Err(ConfigError {
                what: format!("{name} is 0"),
            }),
            v if v > max => Err(ConfigError {
                what: format!("{name} is {v}, more than {max}"),
            }),
            _ => Ok(()),
        };
        within("the number of layers", self.layers, LAYERS_MAX)?;
        within("the hidden width", self.hidden, WIDTH_MAX)?;
        within("the number of heads", self.heads, WIDTH_MAX)?;
        within("the number of key heads", self.kv_heads, WIDTH_MAX)?;
        within("the width of a head", self.head_dim, WIDTH_MAX)?;
        within(
            "the width of all heads",
            self.heads.saturating_mul(self.head_dim),
            WIDTH_MAX,
        )?;
        within("the vocabulary", self.vocab, VOCAB_MAX)?;
        within("the context", self.context, 1 << 31)?;
        if !self.heads.is_multiple_of(self.kv_heads) {
            return fail(format!(
                "{} heads do not share {} key heads evenly",
                self.heads, self.kv_heads
            ));
        }
        if !(self.rms_eps >= 0.0 && self.rms_eps.is_finite()) {
            return fail(format!("the normalisation epsilon is {}", self.rms_eps));
        }
        if self.sliding_window == Some(0) {
            return fail("the sliding window is 0".to_owned());
        }
        match &self.experts {
            None => within("the feed-forward width", self.ffn, WIDTH_MAX)?,
            Some(e) => {
                within("the number of experts", e.count, 1 << 16)?;
                within("the experts' width", e.ffn, WIDTH_MAX)?;
                if e.used == 0 || e.used > e.count {
                    return fail(format!("a token uses {} of {} experts", e.used, e.count));
                }
            }
        }
        if let Some(encoder) = &self.encoder {
            let plain = self.experts.is_none() && self.sliding_window.is_none();
            if !plain || self.kv_heads != self.heads || self.heads * self.head_dim != self.hidden {
                return fail(
                    "an encoder has no experts, no window, and heads as wide as its rows".to_owned(),
                );
            }
            if encoder.token_types > TOKEN_TYPES_MAX {
                return fail(format!(
                    "there are {} kinds of text, more than {TOKEN_TYPES_MAX}",
                    encoder.token_types
                ));
            }
        }
        self.rope.check(self.head_dim)
    }

    /// The window of one layer's attention.
    pub fn window(&self, _layer: usize) -> Option<u32> {
        self.sliding_window
    }

    /// Rotary frequencies with the scaling applied, all in `f64`.
    pub fn rope_spec(&self) -> RopeSpec {
        self.rope.spec()
    }
}

impl RopeConfig {
    fn check(&self, head_dim: usize) -> Result<(), ConfigError> {
        let positive = |name: &str, v: f64| match v.is_finite() && v > 0.0 {
            true => Ok(()),
            false => Err(ConfigError {
                what: format!("{name} is {v}"),
            }),
        };
        positive("the rope base", self.theta)?;
        if self.dims > head_dim || !self.dims.is_multiple_of(2) {
            let what = format!("rope turns {} of a head's {head_dim} numbers", self.dims);
            return Err(ConfigError { what });
        }
        match &self.scaling {
            RopeScaling::None => Ok(()),
            RopeScaling::Linear { factor } => positive("the rope factor", *factor),
            RopeScaling::Yarn {
                factor,
                beta_fast,
                beta_slow,
                original_context,
                attention_factor,
            } => {
                positive("the rope factor", *factor)?;
                positive("YaRN's fast limit", *beta_fast)?;
                positive("YaRN's slow limit", *beta_slow)?;
                positive("YaRN's attention factor", attention_factor.unwrap_or(1.0))?;
                positive("the original context", *original_context as f64)
            }
            RopeScaling::Llama3 {
                factor,
                low,
                high,
                original_context,
            } => {
                positive("the rope factor", *factor)?;
                positive("the low frequency factor", *low)?;
                positive("the gap between the rope's frequency factors", high - low)?;
                positive("the original context", *original_context as f64)
            }
            RopeScaling::Divisors(d) if d.len() == self.dims / 2 => d
                .iter()
                .try_for_each(|&v| positive("a rope divisor", f64::from(v))),
            RopeScaling::Divisors(d) => Err(ConfigError {
                what: format!("{} rope divisors for {} pairs", d.len(), self.dims / 2),
            }),
        }
    }

    fn spec(&self) -> RopeSpec {
        RopeSpec {
            inv_freq: self.inv_freq(),
            magnitude: self.scaling.magnitude(),
            style: self.style,
        }
    }

    /// The angle per position of each pair, scaling applied.
    pub(crate) fn inv_freq(&self) -> Vec<f64> {
        let plain = |i: usize| 1.0 / math::pow64(self.theta, (2 * i) as f64 / self.dims as f64);
        (0..self.dims / 2)
            .map(|i| self.scaling.apply(plain(i), i, self))
            .collect()
    }
}

impl RopeScaling {
    /// Frequency `freq` of pair `pair` after scaling.
    fn apply(&self, freq: f64, pair: usize, rope: &RopeConfig) -> f64 {
        match self {
            RopeScaling::None => freq,
            RopeScaling::Linear { factor } => freq / factor,
            RopeScaling::Divisors(divisors) => freq / f64::from(divisors[pair]),
            RopeScaling::Llama3 {
                factor,
                low,
                high,
                original_context,
            } => {
                let wavelength = 2.0 * std::f64::consts::PI / freq;
                let turns = *original_context as f64 / wavelength;
                match turns {
                    t if t > *high => freq,
                    t if t < *low => freq / factor,
                    t => {
                        let smooth = (t - low) / (high - low);
                        (1.0 - smooth) * (freq / factor) + smooth * freq
                    }
                }
            }
            RopeScaling::Yarn {
                factor,
                beta_fast,
                beta_slow,
                original_context,
                ..
            } => {
                // The pair whose frequency makes `turns` turns over the original context.
                let pair_of = |turns: f64| {
                    let wavelength = *original_context as f64 / (turns * 2.0 * std::f64::consts::PI);
                    rope.dims as f64 * math::ln64(wavelength) / (2.0 * math::ln64(rope.theta))
                };
                let low = pair_of(*beta_fast).floor().max(0.0);
                let mut high = pair_of(*beta_slow).ceil().min(rope.dims as f64 - 1.0);
                if high == low {
                    high += 0.001;
                }
                let ramp = ((pair as f64 - low) / (high - low)).clamp(0.0, 1.0);
                (freq / factor) * ramp + freq * (1.0 - ramp)
            }
        }
    }

    fn magnitude(&self) -> f64 {
        match self {
            RopeScaling::Yarn {
                factor,
                attention_factor,
                ..
            } => attention_factor.unwrap_or_else(|| RopeScaling::yarn_magnitude(*factor, 1.0)),
            _ => 1.0,
        }
    }

    /// YaRN's factor on sine and cosine for a context `factor` times as long; `weight` scales what it adds to 1.
    pub(crate) fn yarn_magnitude(factor: f64, weight: f64) -> f64 {
        if factor > 1.0 {
            0.1 * weight * math::ln64(factor) + 1.0
        } else {
            1.0
        }
    }
}
