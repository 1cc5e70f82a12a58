//! Log probabilities of tokens, as APIs report them: of the model's own logits, before any option.

use heph_kernels::math;
use heph_types::TokenId;

/// A token and the natural logarithm of its probability.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LogProbability {
    /// The token.
    pub token: TokenId,
    /// `ln p`; negative infinity for an impossible token.
    pub value: f64,
}

/// The chosen token's log probability and the `top` likeliest tokens with theirs, likeliest first.
pub fn log_probabilities(
    logits: &[f32],
    chosen: TokenId,
    top: usize,
) -> (LogProbability, Vec<LogProbability>) {
    let max = logits
        .iter()
        .copied()
        .filter(|l| !l.is_nan())
        .fold(f32::NEG_INFINITY, f32::max);
    let total: f64 = logits
        .iter()
        .filter(|l| !l.is_nan())
        .map(|&l| f64::from(math::exp(l - max)))
        .sum();
    let log_total = math::ln64(total);
    let value = |id: usize| match logits.get(id) {
        Some(l) if !l.is_nan() => f64::from(*l) - f64::from(max) - log_total,
        _ => f64::NEG_INFINITY,
    };
    let of = |id: usize| LogProbability {
        token: TokenId(id as u32),
        value: value(id),
    };
    (
        of(chosen.index()),
        likeliest(logits, top).into_iter().map(of).collect(),
    )
}

/// Indices of the `top` largest logits, largest first, equal ones by index.
fn likeliest(logits: &[f32], top: usize) -> Vec<usize> {
    let mut ids: Vec<usize> = (0..logits.len()).filter(|&i| !logits[i].is_nan()).collect();
    let top = top.min(ids.len());
    if top == 0 {
        return Vec::new();
    }
    let order = |a: &usize, b: &usize| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b));
    ids.select_nth_unstable_by(top - 1, order);
    ids.truncate(top);
    ids.sort_unstable_by(order);
    ids
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_sum_to_one_and_come_in_order() {
        let logits = [0.5_f32, 2.5, -1.0, 2.5];
        let (chosen, all) = log_probabilities(&logits, TokenId(0), 10);
        let sum: f64 = all.iter().map(|p| p.value.exp()).sum();
        assert!((sum - 1.0).abs() < 1e-6);
        assert_eq!(all.iter().map(|p| p.token.0).collect::<Vec<_>>(), [1, 3, 0, 2]);
        assert_eq!(chosen, all[2]);
    }
}
