//! Work on numbers one by one, and the softmax over a short row.

use crate::isa::{Isa, per_isa};
use crate::math::{erf, exp, tanh};

/// Lanes of a sum, on every instruction set.
pub(crate) const LANES: usize = 16;

/// The sum of `term` over `x`: lane `j` adds the elements `j`, `j + 16`, … in order, then [`tree`].
#[inline(always)]
pub(crate) fn sum_by_lanes(x: &[f32], term: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0; LANES];
    let (rows, rest) = x.as_chunks::<LANES>();
    for row in rows {
        for j in 0..LANES {
            lanes[j] += term(row[j]);
        }
    }
    for (lane, &v) in lanes.iter_mut().zip(rest) {
        *lane += term(v);
    }
    tree(lanes)
}

/// The sum of 16 lanes by halves: `j` and `j + 8`, then `j + 4`, `j + 2`, `j + 1`.
#[inline(always)]
pub(crate) fn tree(mut lanes: [f32; LANES]) -> f32 {
    for half in [8, 4, 2, 1] {
        for j in 0..half {
            lanes[j] += lanes[j + half];
        }
    }
    lanes[0]
}

/// The largest number; negative infinity where there is none. NaN is passed over.
#[inline(always)]
pub(crate) fn largest(x: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (rows, rest) = x.as_chunks::<LANES>();
    for row in rows {
        for j in 0..LANES {
            lanes[j] = if row[j] > lanes[j] { row[j] } else { lanes[j] };
        }
    }
    let mut max = f32::NEG_INFINITY;
    for &v in lanes.iter().chain(rest) {
        max = if v > max { v } else { max };
    }
    max
}

/// `silu(gate) * up` into `out`, with `silu(g) = g / (1 + exp(-g))`.
///
/// # Panics
/// When a length differs or `isa` is not available.
pub fn silu_mul(gate: &[f32], up: &[f32], out: &mut [f32], isa: Isa) {
    assert_eq!(
        (gate.len(), up.len()),
        (out.len(), out.len()),
        "numbers in and out"
    );
    silu_mul_on(isa, gate, up, out);
}

per_isa! {
    fn silu_mul_on(gate: &[f32], up: &[f32], out: &mut [f32]) {
        for ((out, &g), &u) in out.iter_mut().zip(gate).zip(up) {
            *out = silu(g) * u;
        }
    }
}

/// `silu(gate) * up` into `gate`: [`silu_mul`] in place.
///
/// # Panics
/// When the lengths differ or `isa` is not available.
pub fn silu_mul_in_place(gate: &mut [f32], up: &[f32], isa: Isa) {
    assert_eq!(gate.len(), up.len(), "numbers on both sides");
    silu_mul_in_place_on(isa, gate, up);
}

per_isa! {
    fn silu_mul_in_place_on(gate: &mut [f32], up: &[f32]) {
        for (g, &u) in gate.iter_mut().zip(up) {
            *g = silu(*g) * u;
        }
    }
}

#[inline(always)]
fn silu(g: f32) -> f32 {
    g / (1.0 + exp(-g))
}

/// `gelu(gate) * up` into `out`, with GELU in its tanh form:
/// `gelu(g) = (0.5 * g) * (1 + tanh(sqrt(2 / pi) * (g + 0.044715 * g^3)))`.
///
/// # Panics
/// When a length differs or `isa` is not available.
pub fn gelu_tanh_mul(gate: &[f32], up: &[f32], out: &mut [f32], isa: Isa) {
    assert_eq!(
        (gate.len(), up.len()),
        (out.len(), out.len()),
        "numbers in and out"
    );
    gelu_tanh_mul_on(isa, gate, up, out);
}

per_isa! {
    fn gelu_tanh_mul_on(gate: &[f32], up: &[f32], out: &mut [f32]) {
        for ((out, &g), &u) in out.iter_mut().zip(gate).zip(up) {
            *out = gelu_tanh(g) * u;
        }
    }
}

/// `gelu(gate) * up` into `gate`: [`gelu_tanh_mul`] in place.
///
/// # Panics
/// When the lengths differ or `isa` is not available.
pub fn gelu_tanh_mul_in_place(gate: &mut [f32], up: &[f32], isa: Isa) {
    assert_eq!(gate.len(), up.len(), "numbers on both sides");
    gelu_tanh_mul_in_place_on(isa, gate, up);
}

per_isa! {
    fn gelu_tanh_mul_in_place_on(gate: &mut [f32], up: &[f32]) {
        for (g, &u) in gate.iter_mut().zip(up) {
            *g = gelu_tanh(*g) * u;
        }
    }
}

/// `sqrt(2 / pi)`.
const SQRT_2_BY_PI: f32 = 0.797_884_6;

#[inline(always)]
fn gelu_tanh(g: f32) -> f32 {
    let cube = (g * g) * g;
    (0.5 * g) * (1.0 + tanh(SQRT_2_BY_PI * (g + 0.044_715 * cube)))
}

/// `gelu(x)` in place, with GELU in its exact form (Hendrycks and Gimpel, 2016): `(0.5 * x) * (1 + erf(x * sqrt(1 / 2)))`.
///
/// # Panics
/// When `isa` is not available.
pub fn gelu_in_place(x: &mut [f32], isa: Isa) {
    gelu_in_place_on(isa, x);
}

per_isa! {
    fn gelu_in_place_on(x: &mut [f32]) {
        for v in x {
            *v = (0.5 * *v) * (1.0 + erf(*v * std::f32::consts::FRAC_1_SQRT_2));
        }
    }
}

/// `x = x + y`, element by element.
///
/// # Panics
/// When the lengths differ or `isa` is not available.
pub fn add_assign(x: &mut [f32], y: &[f32], isa: Isa) {
    assert_eq!(x.len(), y.len(), "numbers on both sides");
    add_assign_on(isa, x, y);
}

per_isa! {
    fn add_assign_on(x: &mut [f32], y: &[f32]) {
        for (x, &y) in x.iter_mut().zip(y) {
            *x += y;
        }
    }
}

/// Adds `bias` to each row of `x`.
///
/// # Panics
/// When `x` is not whole rows or `isa` is not available.
pub fn add_rows(x: &mut [f32], bias: &[f32], isa: Isa) {
    assert!(
        !bias.is_empty() && x.len().is_multiple_of(bias.len()),
        "{} numbers in rows of {}",
        x.len(),
        bias.len()
    );
    for row in x.chunks_exact_mut(bias.len()) {
        add_assign_on(isa, row, bias);
    }
}

/// `x = x + factor * y`, element by element: the product is rounded, then the sum.
///
/// # Panics
/// When the lengths differ or `isa` is not available.
pub fn add_scaled(x: &mut [f32], y: &[f32], factor: f32, isa: Isa) {
    assert_eq!(x.len(), y.len(), "numbers on both sides");
    add_scaled_on(isa, x, y, factor);
}

per_isa! {
    fn add_scaled_on(x: &mut [f32], y: &[f32], factor: f32) {
        for (x, &y) in x.iter_mut().zip(y) {
            *x += factor * y;
        }
    }
}

per_isa! {
    fn scale_on(x: &mut [f32], factor: f32) {
        for x in x {
            *x *= factor;
        }
    }
}

/// `x = x * factor`, element by element.
///
/// # Panics
/// When `isa` is not available.
pub fn scale(x: &mut [f32], factor: f32, isa: Isa) {
    scale_on(isa, x, factor);
}

/// The softmax of `x` in place: `exp(x - max) / sum`, the sum by 16 lanes and the fixed tree.
///
/// A NaN, or no number above negative infinity, makes the whole row NaN.
///
/// # Panics
/// When `isa` is not available.
pub fn softmax(x: &mut [f32], isa: Isa) {
    softmax_on(isa, x);
}

per_isa! {
    fn softmax_on(x: &mut [f32]) {
        let max = largest(x);
        for v in x.iter_mut() {
            *v = exp(*v - max);
        }
        let sum = sum_by_lanes(x, |v| v);
        for v in x.iter_mut() {
            *v /= sum;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proof::{CASES, Draws, differ, same_bits};

    /// Everything that this file computes, one behind the other.
    fn all(x: &[f32], y: &[f32], factor: f32, isa: Isa) -> Vec<f32> {
        let mut rows = vec![vec![0.0; x.len()], vec![0.0; x.len()]];
        silu_mul(x, y, &mut rows[0], isa);
        gelu_tanh_mul(x, y, &mut rows[1], isa);
        let mut placed = [x; 5].map(<[f32]>::to_vec);
        add_assign(&mut placed[0], y, isa);
        add_scaled(&mut placed[1], y, factor, isa);
        scale(&mut placed[2], factor, isa);
        softmax(&mut placed[3], isa);
        gelu_in_place(&mut placed[4], isa);
        rows.extend(placed);
        rows.concat()
    }

    #[test]
    fn every_instruction_set_computes_alike() {
        let mut draws = Draws::new(31);
        for _ in 0..CASES {
            let len = draws.below(100);
            let (x, y, factor) = (draws.floats(len), draws.floats(len), draws.plain());
            let want = all(&x, &y, factor, Isa::Scalar);
            Isa::all_available()
                .into_iter()
                .for_each(|isa| same_bits(&want, &all(&x, &y, factor, isa), isa));
        }
    }

    #[test]
    fn a_sum_in_another_order_is_noticed() {
        let mut draws = Draws::new(32);
        let noticed = (0..100).filter(|_| {
            let x = draws.plains(200);
            let mut want = x.clone();
            softmax(&mut want, Isa::best());
            let max = largest(&x);
            let powers: Vec<f32> = x.iter().map(|v| exp(v - max)).collect();
            // The planted mistake: eight lanes instead of sixteen.
            let mut lanes = [0.0; 8];
            powers.iter().enumerate().for_each(|(i, p)| lanes[i % 8] += p);
            let sum: f32 = (0..4).map(|j| lanes[j] + lanes[j + 4]).sum();
            differ(&want, &powers.iter().map(|p| p / sum).collect::<Vec<f32>>())
        });
        assert!(noticed.count() > 30);
    }

    #[test]
    fn the_functions_are_those_of_the_books() {
        let x: Vec<f32> = (-400..400).map(|i| i as f32 / 40.0).collect();
        let ones = vec![1.0; x.len()];
        let (mut silu, mut gelu) = (ones.clone(), ones.clone());
        silu_mul(&x, &ones, &mut silu, Isa::best());
        gelu_tanh_mul(&x, &ones, &mut gelu, Isa::best());
        for (i, &g) in x.iter().enumerate() {
            let g = f64::from(g);
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (g + 0.044_715 * g.powi(3));
            assert!((f64::from(silu[i]) - g / (1.0 + (-g).exp())).abs() < 2e-6);
            assert!((f64::from(gelu[i]) - 0.5 * g * (1.0 + inner.tanh())).abs() < 2e-6);
        }
        // True values of GELU, from 40 digits.
        let mut exact = [-4.0, -1.0, -0.25, 0.0, 0.5, 1.5, 6.0];
        gelu_in_place(&mut exact, Isa::best());
        let want = [
            -0.000126684967332,
            -0.158655253931,
            -0.100323418579,
            0.0,
            0.345731230637,
            1.3997891981,
            5.99999999408,
        ];
        for (got, want) in exact.iter().zip(want) {
            assert!((f64::from(*got) - want).abs() < 2e-7, "{got} {want}");
        }
    }

    #[test]
    fn a_softmax_is_a_distribution_unless_it_cannot_be() {
        let mut x = [1.0, 2.0, f32::NEG_INFINITY, -1000.0, 3.0];
        softmax(&mut x, Isa::best());
        assert!((x.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        assert_eq!((x[2], x[3]), (0.0, 0.0));
        for mut bad in [[1.0, f32::NAN], [f32::NEG_INFINITY; 2], [f32::INFINITY, 0.0]] {
            softmax(&mut bad, Isa::best());
            assert!(bad[0].is_nan(), "{bad:?}");
        }
        softmax(&mut [], Isa::best());
    }

    #[test]
    fn far_gates_close_or_pass() {
        let mut out = [0.0; 4];
        silu_mul(
            &[-1e30, -100.0, 100.0, f32::NEG_INFINITY],
            &[1.0; 4],
            &mut out,
            Isa::best(),
        );
        assert_eq!(out[..3], [-0.0, -0.0, 100.0]);
        assert!(out[3].is_nan(), "negative infinity divided by infinity");
    }

    #[test]
    fn a_bias_is_added_to_every_row() {
        let mut x = [1.0, 2.0, 3.0, 4.0];
        add_rows(&mut x, &[10.0, 20.0], Isa::best());
        assert_eq!(x, [11.0, 22.0, 13.0, 24.0]);
    }
}
