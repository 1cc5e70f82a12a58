//! How tokens are chosen, as the APIs say it, checked.

use heph_engine::sample::SamplingOptions;
use heph_types::TokenId;
use serde_json::{Map, Value};

use crate::error::Refusal;

/// Tokens of a `logit_bias`.
const BIAS_MAX: usize = 4096;

/// What a request says of how tokens are chosen; what it does not say is the API's usual.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sampling {
    pub(crate) temperature: Option<f64>,
    pub(crate) top_p: Option<f64>,
    pub(crate) top_k: Option<i64>,
    pub(crate) min_p: Option<f64>,
    pub(crate) typical_p: Option<f64>,
    pub(crate) repeat_penalty: Option<f64>,
    pub(crate) penalty_window: Option<i64>,
    pub(crate) frequency_penalty: Option<f64>,
    pub(crate) presence_penalty: Option<f64>,
    pub(crate) logit_bias: Option<Map<String, Value>>,
    pub(crate) seed: Option<i64>,
}

impl Sampling {
    /// The options of choice number `choice`: each has noise of its own, and the first that of the seed itself.
    pub(crate) fn options(&self, vocab: usize) -> Result<SamplingOptions, Refusal> {
        let within = |name: &'static str, value: Option<f64>, low: f64, high: f64, usual: f64| match value {
            None => Ok(usual),
            Some(v) if v >= low && v <= high => Ok(v),
            Some(v) => Err(Refusal::param(
                name,
                format!("{name} is {v}; it must be from {low} to {high}"),
            )),
        };
        // A share of nothing keeps the likeliest token, which is what those who write 0 mean.
        let share = |v: f64| Some(v.max(f64::from(f32::MIN_POSITIVE)) as f32).filter(|&v| v < 1.0);
        let seed = match self.seed {
            Some(seed) => seed as u64,
            None => random()?,
        };
        let options = SamplingOptions {
            temperature: within("temperature", self.temperature, 0.0, 2.0, 1.0)? as f32,
            top_p: share(within("top_p", self.top_p, 0.0, 1.0, 1.0)?),
            top_k: match self.top_k {
                Some(k) if k > 0 => usize::try_from(k).ok(),
                Some(k) if k < -1 => return Err(Refusal::param("top_k", format!("top_k is {k}"))),
                _ => None,
            },
            min_p: Some(within("min_p", self.min_p, 0.0, 1.0, 0.0)? as f32).filter(|&p| p > 0.0),
            typical_p: share(within("typical_p", self.typical_p, 0.0, 1.0, 1.0)?),
            repeat_penalty: within("repeat_penalty", self.repeat_penalty, 0.01, 10.0, 1.0)? as f32,
            frequency_penalty: within("frequency_penalty", self.frequency_penalty, -2.0, 2.0, 0.0)? as f32,
            presence_penalty: within("presence_penalty", self.presence_penalty, -2.0, 2.0, 0.0)? as f32,
            penalty_window: match self.penalty_window {
                Some(n) if n >= 0 => usize::try_from(n).unwrap_or(usize::MAX),
                Some(_) => usize::MAX,
                None => SamplingOptions::default().penalty_window,
            },
            dry: None,
            logit_bias: bias(self.logit_bias.as_ref(), vocab)?,
            seed,
        };
        options.check().map_err(|e| Refusal::bad(e.to_string()))?;
        Ok(options)
    }
}

/// The seed of choice number `choice` of a request: the first has the request's own.
pub(crate) fn seed_of(seed: u64, choice: usize) -> u64 {
    // Multiplied by an odd number of half ones (the golden ratio), so that seeds side by side do not meet.
    seed.wrapping_add((choice as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

fn bias(map: Option<&Map<String, Value>>, vocab: usize) -> Result<Vec<(TokenId, f32)>, Refusal> {
    let Some(map) = map else { return Ok(Vec::new()) };
    if map.len() > BIAS_MAX {
        return Err(Refusal::param(
            "logit_bias",
            format!("logit_bias names more than {BIAS_MAX} tokens"),
        ));
    }
    map.iter()
        .map(|(token, value)| {
            let wrong = || Refusal::param("logit_bias", format!("logit_bias has {token:?}: {value}"));
            let token: u32 = token.trim().parse().map_err(|_| wrong())?;
            let value = value.as_f64().filter(|v| v.abs() <= 100.0).ok_or_else(wrong)?;
            if token as usize >= vocab {
                return Err(wrong());
            }
            Ok((TokenId(token), value as f32))
        })
        .collect()
}

/// A seed for those who name none.
fn random() -> Result<u64, Refusal> {
    getrandom::u64().map_err(|_| Refusal::ours("the system gives no randomness"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_without_meaning_are_refused() {
        let with = |change: fn(&mut Sampling)| {
            let mut sampling = Sampling::default();
            change(&mut sampling);
            sampling.options(100)
        };
        assert!(with(|_| ()).is_ok());
        assert!(with(|s| s.temperature = Some(-1.0)).is_err());
        assert!(with(|s| s.temperature = Some(f64::NAN)).is_err());
        assert!(with(|s| s.top_p = Some(1.5)).is_err());
        assert!(with(|s| s.top_p = Some(0.0)).is_ok());
        assert!(with(|s| s.presence_penalty = Some(2.1)).is_err());
        let bias = |text: &str| {
            let sampling = Sampling {
                logit_bias: serde_json::from_str(text).unwrap(),
                ..Sampling::default()
            };
            sampling.options(100)
        };
        assert_eq!(bias("{\"7\": -100}").unwrap().logit_bias, [(TokenId(7), -100.0)]);
        for wrong in [
            "{\"x\": 1}",
            "{\"100\": 1}",
            "{\"1\": 101}",
            "{\"1\": \"a\"}",
            "{\"-1\": 1}",
        ] {
            assert!(bias(wrong).is_err(), "{wrong}");
        }
    }
}
