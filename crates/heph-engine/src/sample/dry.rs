//! DRY ("don't repeat yourself"): the longer a repeated run of tokens would grow, the dearer its next token.

use heph_types::{DryOptions, TokenId};

/// Longer runs cost no more than this; keeps `base ^ length` finite.
const RUN_MAX: usize = 64;

/// Lowers the logits of tokens that would make the end of `history` repeat an earlier run.
pub(super) fn apply(options: &DryOptions, logits: &mut [f32], history: &[TokenId]) {
    let recent = &history[history.len().saturating_sub(options.window)..];
    for (next, length) in longest_runs(options, recent) {
        if let Some(logit) = logits
            .get_mut(next.index())
            .filter(|_| length >= options.allowed_length)
        {
            *logit -= options.multiplier * power(options.base, length - options.allowed_length);
        }
    }
}

/// Each token that once followed a run equal to the end of `recent`, with the longest such run.
fn longest_runs(options: &DryOptions, recent: &[TokenId]) -> Vec<(TokenId, usize)> {
    let mut runs: Vec<(TokenId, usize)> = Vec::new();
    for end in 1..recent.len() {
        let length = run_length(options, recent, end);
        if length > 0 {
            runs.push((recent[end], length));
        }
    }
    runs.sort_unstable_by(|a, b| a.0.cmp(&b.0).then(b.1.cmp(&a.1)));
    runs.dedup_by_key(|(token, _)| *token);
    runs
}

/// How many tokens before `end` equal as many tokens at the end of `recent`.
fn run_length(options: &DryOptions, recent: &[TokenId], end: usize) -> usize {
    let earlier = recent[..end].iter().rev();
    let latest = recent.iter().rev();
    let same = |(a, b): &(&TokenId, &TokenId)| a == b && !options.breakers.contains(a);
    earlier.zip(latest).take(RUN_MAX).take_while(same).count()
}

/// `base` to a small whole power, by repeated multiplication: the same bits everywhere.
fn power(base: f32, exponent: usize) -> f32 {
    (0..exponent).fold(1.0, |p, _| p * base)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(list: &[u32]) -> Vec<TokenId> {
        list.iter().map(|&t| TokenId(t)).collect()
    }

    #[test]
    fn a_longer_repeat_costs_more() {
        let dry = DryOptions {
            multiplier: 1.0,
            base: 2.0,
            ..DryOptions::default()
        };
        let mut logits = vec![0.0; 10];
        // "1 2 3 4 ... 1 2 3": 4 would continue a run of three; 9 once followed a lone 3.
        apply(&dry, &mut logits, &ids(&[1, 2, 3, 4, 3, 9, 1, 2, 3]));
        assert_eq!(logits[4], -2.0);
        assert_eq!(logits[9], 0.0);
    }

    #[test]
    fn a_breaker_ends_the_run() {
        let dry = DryOptions {
            multiplier: 1.0,
            base: 2.0,
            breakers: ids(&[2]),
            ..DryOptions::default()
        };
        let mut logits = vec![0.0; 10];
        apply(&dry, &mut logits, &ids(&[1, 2, 3, 4, 1, 2, 3]));
        assert_eq!(logits[4], 0.0);
    }
}
