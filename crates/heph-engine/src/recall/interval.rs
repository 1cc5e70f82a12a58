//! The upper end of an exact (Clopper and Pearson) confidence interval for a share.

/// Halvings until the share is known to within 2^-40.
const HALVINGS: u32 = 40;

/// The largest share of wrong ones that would still show `wrong` or fewer of `seen` with probability `unsure`.
pub(super) fn upper(seen: usize, wrong: usize, unsure: f64) -> f64 {
    if wrong >= seen {
        return 1.0;
    }
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..HALVINGS {
        let share = 0.5 * (low + high);
        match at_most(seen, wrong, share) > unsure {
            true => low = share,
            false => high = share,
        }
    }
    high
}

/// The probability of `wrong` or fewer of `seen`, each being wrong with probability `share`.
pub(super) fn at_most(seen: usize, wrong: usize, share: f64) -> f64 {
    // The first term may be too small for a number; as a logarithm it is not.
    let odds = (share / (1.0 - share)).ln();
    let mut term = seen as f64 * (1.0 - share).ln();
    let mut sum = term.exp();
    for count in 0..wrong {
        term += ((seen - count) as f64 / (count + 1) as f64).ln() + odds;
        sum += term.exp();
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ends_are_those_of_the_tables() {
        // Without a wrong one: 1 - unsure^(1/seen). The others are from tables of the F distribution.
        let cases = [
            (10, 0, 0.025, 0.308_497),
            (100, 0, 0.05, 0.029_513),
            (10, 1, 0.025, 0.445_016),
            (50, 3, 0.05, 0.147_838),
            (20, 20, 0.05, 1.0),
            (0, 0, 0.05, 1.0),
        ];
        for (seen, wrong, unsure, end) in cases {
            let found = upper(seen, wrong, unsure);
            assert!((found - end).abs() < 2e-4, "{wrong} of {seen}: {found} for {end}");
        }
    }

    #[test]
    fn more_pairs_make_it_surer_and_wrong_ones_larger() {
        for seen in 1..600 {
            assert!(upper(seen + 1, 0, 0.01) < upper(seen, 0, 0.01));
            assert!(upper(seen + 1, 1, 0.01) > upper(seen + 1, 0, 0.01));
        }
    }
}
