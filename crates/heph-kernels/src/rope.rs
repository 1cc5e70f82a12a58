//! Rotary position embedding: pairs of a head's numbers turn by an angle that grows with the position.
//!
//! After Su et al., "RoFormer" (2021). Angles, sines and cosines are computed in `f64` and rounded once,
//! so a far position is as exact as a near one.

use crate::isa::{Isa, per_isa};
use crate::math::sin_cos64;

/// Which numbers of a head form a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RopeStyle {
    /// Neighbours `(2i, 2i + 1)`, as in GGUF files of the `llama` family.
    Interleaved,
    /// `(i, i + dims / 2)`, as in GPT-NeoX and Hugging Face models.
    Halves,
}

/// The frequencies of a model's rotation.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeTable {
    inv_freq: Vec<f64>,
    magnitude: f64,
}

impl RopeTable {
    /// `inv_freq[i]` is the angle of pair `i` at position 1, in radians; `magnitude` multiplies sine and
    /// cosine (the attention factor of YaRN, otherwise 1).
    pub fn new(inv_freq: Vec<f64>, magnitude: f64) -> RopeTable {
        RopeTable { inv_freq, magnitude }
    }

    /// How many numbers of each head turn: two for each frequency. Those behind them stay as they are.
    pub fn dims(&self) -> usize {
        2 * self.inv_freq.len()
    }

    /// The sines and cosines of some positions, computed once and used in every layer.
    pub fn rows(&self, positions: impl IntoIterator<Item = usize>) -> RopeRows {
        let mut values = Vec::new();
        for position in positions {
            let turns = self.inv_freq.iter().map(|f| sin_cos64(position as f64 * f));
            let start = values.len();
            values.extend(turns.clone().map(|(_, cos)| (cos * self.magnitude) as f32));
            values.extend(turns.map(|(sin, _)| (sin * self.magnitude) as f32));
            debug_assert_eq!(values.len() - start, self.dims());
        }
        RopeRows {
            values,
            dims: self.dims(),
        }
    }
}

/// Cosines and sines of some positions: one row a token, `dims / 2` cosines and then as many sines.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeRows {
    values: Vec<f32>,
    dims: usize,
}

impl RopeRows {
    /// How many tokens there are rows for.
    pub fn tokens(&self) -> usize {
        self.values.len().checked_div(self.dims).unwrap_or(0)
    }

    /// Cosines and sines of token `token`.
    pub fn row(&self, token: usize) -> (&[f32], &[f32]) {
        self.values[token * self.dims..][..self.dims].split_at(self.dims / 2)
    }
}

/// Turns every head of one token in place: `x` is `(heads, head_dim)`, `row` is [`RopeRows::row`].
///
/// A pair `(a, b)` becomes `(a * cos - b * sin, a * sin + b * cos)`.
///
/// # Panics
/// When `x` is not whole heads, the row is longer than a head, or `isa` is not available.
pub fn rope(x: &mut [f32], head_dim: usize, style: RopeStyle, row: (&[f32], &[f32]), isa: Isa) {
    let (cos, sin) = row;
    assert!(
        cos.len() == sin.len() && 2 * cos.len() <= head_dim,
        "{} pairs in a head of {head_dim}",
        cos.len()
    );
    assert!(
        x.len().is_multiple_of(head_dim),
        "{} numbers are not whole heads of {head_dim}",
        x.len()
    );
    match style {
        RopeStyle::Interleaved => turn_neighbours(isa, x, head_dim, cos, sin),
        RopeStyle::Halves => turn_halves(isa, x, head_dim, cos, sin),
    }
}

per_isa! {
    fn turn_neighbours(x: &mut [f32], head_dim: usize, cos: &[f32], sin: &[f32]) {
        for head in x.chunks_exact_mut(head_dim) {
            for ((pair, &c), &s) in head.chunks_exact_mut(2).zip(cos).zip(sin) {
                let (a, b) = (pair[0], pair[1]);
                pair[0] = a * c - b * s;
                pair[1] = a * s + b * c;
            }
        }
    }
}

per_isa! {
    fn turn_halves(x: &mut [f32], head_dim: usize, cos: &[f32], sin: &[f32]) {
        let pairs = cos.len();
        for head in x.chunks_exact_mut(head_dim) {
            let (firsts, seconds) = head.split_at_mut(pairs);
            for (((a, b), &c), &s) in firsts.iter_mut().zip(&mut seconds[..pairs]).zip(cos).zip(sin) {
                let (x, y) = (*a, *b);
                *a = x * c - y * s;
                *b = x * s + y * c;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proof::{CASES, Draws, same_bits};

    fn table(pairs: usize) -> RopeTable {
        RopeTable::new(
            (0..pairs)
                .map(|i| 1.0 / 10_000f64.powf(i as f64 / pairs as f64))
                .collect(),
            1.0,
        )
    }

    #[test]
    fn position_zero_turns_nothing() {
        let rows = table(4).rows([0]);
        let mut x: Vec<f32> = (0..16).map(|v| v as f32).collect();
        for style in [RopeStyle::Interleaved, RopeStyle::Halves] {
            rope(&mut x, 8, style, rows.row(0), Isa::Scalar);
            assert!(x.iter().enumerate().all(|(i, v)| *v == i as f32));
        }
    }

    #[test]
    fn both_styles_turn_the_same_pairs() {
        let rows = table(3).rows([5, 70_000]);
        assert_eq!(rows.tokens(), 2);
        let mut neighbours = [1.0, 4.0, 2.0, 5.0, 3.0, 6.0, 7.0];
        let mut halves = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0];
        rope(
            &mut neighbours,
            7,
            RopeStyle::Interleaved,
            rows.row(1),
            Isa::Scalar,
        );
        rope(&mut halves, 7, RopeStyle::Halves, rows.row(1), Isa::Scalar);
        for i in 0..3 {
            assert_eq!(
                (neighbours[2 * i], neighbours[2 * i + 1]),
                (halves[i], halves[i + 3])
            );
        }
        assert_eq!(
            (neighbours[6], halves[6]),
            (7.0, 7.0),
            "a number behind the turned ones changed"
        );
        let angle = 70_000.0f64;
        assert_eq!(neighbours[0], (angle.cos() as f32) - 4.0 * (angle.sin() as f32));
    }

    #[test]
    fn the_magnitude_multiplies_both() {
        let plain = RopeTable::new(vec![0.25], 1.0).rows([3]);
        let scaled = RopeTable::new(vec![0.25], 2.0).rows([3]);
        assert_eq!(scaled.row(0).0[0], 2.0 * plain.row(0).0[0]);
        assert_eq!(scaled.row(0).1[0], 2.0 * plain.row(0).1[0]);
    }

    #[test]
    fn every_instruction_set_turns_alike() {
        let mut draws = Draws::new(11);
        for _ in 0..CASES {
            let (head_dim, heads) = (1 + draws.below(40), 1 + draws.below(4));
            let pairs = draws.below(head_dim / 2 + 1);
            let rows = table(pairs).rows([draws.below(100_000)]);
            let x = draws.floats(heads * head_dim);
            let row = rows.row(0);
            for style in [RopeStyle::Interleaved, RopeStyle::Halves] {
                let turned = |isa| {
                    let mut x = x.clone();
                    rope(&mut x, head_dim, style, row, isa);
                    x
                };
                let want = turned(Isa::Scalar);
                Isa::all_available()
                    .into_iter()
                    .for_each(|isa| same_bits(&want, &turned(isa), isa));
            }
        }
    }
}
