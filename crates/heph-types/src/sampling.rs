//! How the next token is chosen: the options, and which of their values mean something.

use crate::TokenId;

/// How to choose. [`SamplingOptions::greedy`] always takes the likeliest token.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingOptions {
    /// Divides the logits before the draw; 0 takes the likeliest token.
    pub temperature: f32,
    /// Keeps this many of the likeliest tokens.
    pub top_k: Option<usize>,
    /// Keeps the likeliest tokens that together reach this probability (Holtzman et al. 2020).
    pub top_p: Option<f32>,
    /// Keeps tokens at least this fraction as likely as the likeliest (Nguyen et al. 2024).
    pub min_p: Option<f32>,
    /// Keeps the tokens nearest to the expected surprise that reach this probability (Meister et al. 2023).
    pub typical_p: Option<f32>,
    /// Divides positive and multiplies negative logits of recent tokens (Keskar et al. 2019); 1 is off.
    pub repeat_penalty: f32,
    /// How many recent tokens the three penalties look at.
    pub penalty_window: usize,
    /// Subtracted once per recent occurrence of a token.
    pub frequency_penalty: f32,
    /// Subtracted once from every recent token.
    pub presence_penalty: f32,
    /// Penalty on continuing a repeated run of tokens.
    pub dry: Option<DryOptions>,
    /// Added to the logits of these tokens; negative infinity forbids one.
    pub logit_bias: Vec<(TokenId, f32)>,
    /// Key of the noise.
    pub seed: u64,
}

impl SamplingOptions {
    /// The likeliest token, always.
    pub fn greedy() -> Self {
        Self {
            temperature: 0.0,
            ..Self::default()
        }
    }

    /// Whether the choice depends on the tokens before it, beyond what the logits say: a penalty is on.
    pub fn looks_back(&self) -> bool {
        let dry = self.dry.as_ref().is_some_and(|dry| dry.multiplier != 0.0);
        let on = [
            self.repeat_penalty - 1.0,
            self.frequency_penalty,
            self.presence_penalty,
        ];
        dry || on != [0.0; 3]
    }

    /// Checks that every number is one the steps are defined for.
    pub fn check(&self) -> Result<(), SamplingOptionError> {
        let fail = |name, value| Err(SamplingOptionError { name, value });
        let share = |name, value: Option<f32>| match value {
            Some(v) if !(v > 0.0 && v <= 1.0) => Err(SamplingOptionError { name, value: v }),
            _ => Ok(()),
        };
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            return fail("temperature", self.temperature);
        }
        share("top_p", self.top_p)?;
        share("typical_p", self.typical_p)?;
        if let Some(v) = self.min_p.filter(|v| !(0.0..=1.0).contains(v)) {
            return fail("min_p", v);
        }
        if !(self.repeat_penalty > 0.0 && self.repeat_penalty.is_finite()) {
            return fail("repeat_penalty", self.repeat_penalty);
        }
        for (name, value) in [
            ("frequency_penalty", self.frequency_penalty),
            ("presence_penalty", self.presence_penalty),
        ] {
            if !value.is_finite() {
                return fail(name, value);
            }
        }
        if let Some((_, value)) = self.logit_bias.iter().find(|(_, b)| b.is_nan()) {
            return fail("logit_bias", *value);
        }
        self.dry.as_ref().map_or(Ok(()), DryOptions::check)
    }
}

impl Default for SamplingOptions {
    fn default() -> Self {
        Self {
            temperature: 0.8,
            top_k: Some(40),
            top_p: Some(0.95),
            min_p: Some(0.05),
            typical_p: None,
            repeat_penalty: 1.0,
            penalty_window: 64,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            dry: None,
            logit_bias: Vec::new(),
            seed: 0,
        }
    }
}

/// Settings of the penalty `multiplier * base ^ (length - allowed_length)`.
#[derive(Debug, Clone, PartialEq)]
pub struct DryOptions {
    /// Size of the smallest penalty; 0 switches it off.
    pub multiplier: f32,
    /// Growth per token of repeated run.
    pub base: f32,
    /// Runs up to this length cost nothing.
    pub allowed_length: usize,
    /// How many recent tokens are searched.
    pub window: usize,
    /// Tokens that end a run, such as a line break.
    pub breakers: Vec<TokenId>,
}

impl Default for DryOptions {
    fn default() -> Self {
        Self {
            multiplier: 0.8,
            base: 1.75,
            allowed_length: 2,
            window: 1024,
            breakers: Vec::new(),
        }
    }
}

impl DryOptions {
    fn check(&self) -> Result<(), SamplingOptionError> {
        for (name, value, least) in [
            ("dry multiplier", self.multiplier, 0.0),
            ("dry base", self.base, 1.0),
        ] {
            if !(value >= least && value.is_finite()) {
                return Err(SamplingOptionError { name, value });
            }
        }
        Ok(())
    }
}

/// An option has a value that no step is defined for.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[error("{name} cannot be {value}")]
pub struct SamplingOptionError {
    /// The option's name.
    pub name: &'static str,
    /// Its value.
    pub value: f32,
}
