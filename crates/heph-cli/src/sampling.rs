//! The arguments that say how words are chosen, shared by every command that answers.

use heph_engine::sample::{DryOptions, SamplingOptions};
use heph_runtime::words::Words;
use heph_types::TokenId;

use crate::failure::{Exit, Failure, allowed};

/// How words are chosen. The seed and these decide the answer; nothing else does.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Choosing words")]
pub(crate) struct SamplingArguments {
    /// 0 always takes the likeliest token
    #[arg(long, default_value_t = 0.7, allow_negative_numbers = true)]
    pub(crate) temperature: f32,
    /// Keep this many of the likeliest tokens; 0 keeps all
    #[arg(long, default_value_t = 40)]
    pub(crate) top_k: usize,
    /// Keep the likeliest tokens that together reach this probability
    #[arg(long, default_value_t = 0.95, allow_negative_numbers = true)]
    pub(crate) top_p: f32,
    /// Keep tokens at least this fraction as likely as the likeliest
    #[arg(long, default_value_t = 0.05, allow_negative_numbers = true)]
    pub(crate) min_p: f32,
    /// Keep the tokens of typical surprise that reach this probability
    #[arg(long, allow_negative_numbers = true)]
    pub(crate) typical_p: Option<f32>,
    /// Make recent tokens less likely by this factor; 1 is off
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true)]
    pub(crate) repeat_penalty: f32,
    /// Recent tokens that the penalties look at
    #[arg(long, default_value_t = 64, value_name = "TOKENS")]
    pub(crate) repeat_window: usize,
    /// Subtracted per occurrence of a recent token
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    pub(crate) frequency_penalty: f32,
    /// Subtracted from every recent token
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    pub(crate) presence_penalty: f32,
    /// Strength of the penalty on repeated runs of tokens (DRY); 0 is off
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    pub(crate) dry: f32,
    /// Add to the logit of a token, as ID=NUMBER
    #[arg(long, value_parser = bias, value_name = "ID=NUMBER")]
    pub(crate) logit_bias: Vec<(TokenId, f32)>,
    /// Same seed, same words
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
}

fn bias(text: &str) -> Result<(TokenId, f32), String> {
    let parsed = text
        .split_once('=')
        .and_then(|(id, b)| Some((TokenId(id.parse().ok()?), b.parse().ok()?)));
    parsed.ok_or_else(|| "a token id, '=' and a number are needed, as 42=-1.5".to_owned())
}

impl SamplingArguments {
    /// The engine's options, checked.
    pub(crate) fn options(&self) -> Result<SamplingOptions, Failure> {
        let options = self.engine();
        options.check()?;
        Ok(options)
    }

    fn engine(&self) -> SamplingOptions {
        SamplingOptions {
            temperature: self.temperature,
            top_k: Some(self.top_k).filter(|&k| k > 0),
            top_p: Some(self.top_p),
            min_p: Some(self.min_p),
            typical_p: self.typical_p,
            repeat_penalty: self.repeat_penalty,
            penalty_window: self.repeat_window,
            frequency_penalty: self.frequency_penalty,
            presence_penalty: self.presence_penalty,
            dry: (self.dry != 0.0).then(|| DryOptions {
                multiplier: self.dry,
                ..DryOptions::default()
            }),
            logit_bias: self.logit_bias.clone(),
            seed: self.seed,
        }
    }

    /// Checks what only the model's words can tell: each token whose logit is to change is one of theirs.
    pub(crate) fn check(&self, words: &Words) -> Result<(), Failure> {
        let count = words.tokenizer.vocab_size();
        match self.logit_bias.iter().find(|(token, _)| token.index() >= count) {
            None => Ok(()),
            Some((token, _)) => Err(Failure::new(
                Exit::Usage,
                format!("--logit-bias names token {token}, and the model has {count} tokens"),
            )
            .hint("`heph tokenize` tells the numbers of a text")),
        }
    }

    /// Changes the option called `name` as on the command line, without the dashes.
    pub(crate) fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        let mut changed = self.clone();
        let unreadable = |wanted: &str| format!("{value:?} is no value for {name}: {wanted} is needed");
        let number = || value.parse::<f32>().map_err(|_| unreadable("a number"));
        let count = || {
            value
                .parse::<usize>()
                .map_err(|_| unreadable("a whole number from 0 on"))
        };
        match name {
            "temperature" => changed.temperature = number()?,
            "top-k" => changed.top_k = count()?,
            "top-p" => changed.top_p = number()?,
            "min-p" => changed.min_p = number()?,
            "typical-p" => changed.typical_p = Some(number()?),
            "repeat-penalty" => changed.repeat_penalty = number()?,
            "repeat-window" => changed.repeat_window = count()?,
            "frequency-penalty" => changed.frequency_penalty = number()?,
            "presence-penalty" => changed.presence_penalty = number()?,
            "dry" => changed.dry = number()?,
            "seed" => {
                changed.seed = value
                    .parse()
                    .map_err(|_| unreadable("a whole number from 0 on"))?
            }
            _ => return Err(format!("there is no setting called {name}")),
        }
        changed
            .engine()
            .check()
            .map_err(|error| format!("{error}; it may be {}", allowed(&error)))?;
        *self = changed;
        Ok(())
    }

    /// Name and value of each option, for showing.
    pub(crate) fn shown(&self) -> Vec<(&'static str, String)> {
        let off = |typical: Option<f32>| typical.map_or("off".to_owned(), |p| p.to_string());
        vec![
            ("temperature", self.temperature.to_string()),
            ("top-k", self.top_k.to_string()),
            ("top-p", self.top_p.to_string()),
            ("min-p", self.min_p.to_string()),
            ("typical-p", off(self.typical_p)),
            ("repeat-penalty", self.repeat_penalty.to_string()),
            ("repeat-window", self.repeat_window.to_string()),
            ("frequency-penalty", self.frequency_penalty.to_string()),
            ("presence-penalty", self.presence_penalty.to_string()),
            ("dry", self.dry.to_string()),
            ("seed", self.seed.to_string()),
        ]
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        sampling: SamplingArguments,
    }

    fn arguments(words: &[&str]) -> SamplingArguments {
        Line::parse_from([&["heph"], words].concat()).sampling
    }

    #[test]
    fn a_value_without_meaning_is_refused_with_those_that_have_one() {
        for (words, allowed) in [
            (["--temperature", "-1"], "0 or more"),
            (["--temperature", "nan"], "0 or more"),
            (["--dry", "-1"], "0 or more"),
            (["--dry", "nan"], "0 or more"),
            (["--top-p", "7"], "at most 1"),
            (["--min-p", "-0.1"], "from 0 to 1"),
        ] {
            let error = arguments(&words).engine().check().unwrap_err();
            assert!(super::allowed(&error).contains(allowed), "{words:?}: {error}");
        }
        assert!(arguments(&["--dry", "0"]).engine().dry.is_none());
    }

    #[test]
    fn a_setting_says_what_it_may_be() {
        let mut arguments = arguments(&[]);
        for (name, value, said) in [
            ("top-p", "7", "at most 1"),
            ("temperature", "hot", "a number is needed"),
            ("seed", "-1", "a whole number"),
            ("warmth", "1", "there is no setting"),
        ] {
            let error = arguments.set(name, value).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
        arguments.set("dry", "0.5").unwrap();
        assert_eq!(arguments.dry, 0.5);
    }
}
