//! Normalisation of rows: by their root mean square, and by mean and variance.
//!
//! The sums run over 16 lanes and one fixed tree, whatever the instruction set.

use crate::elementwise::sum_by_lanes;
use crate::isa::{Isa, per_isa};
use crate::math::rsqrt;

/// Root mean square normalisation (Zhang and Sennrich, 2019) of each row of `x`, a row being as long as
/// `weight`: `(x * rsqrt(mean(x^2) + eps)) * weight`.
///
/// # Panics
/// When `x` is not whole rows, `out` is not as long as `x`, or `isa` is not available.
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32], isa: Isa) {
    check_rows(x.len(), weight.len());
    assert_eq!(x.len(), out.len(), "numbers in and out");
    rms_rows(isa, x, weight, eps, out);
}

/// [`rms_norm`] in place: also that of each head of queries and keys, `weight` being as long as a head.
///
/// # Panics
/// When `x` is not whole rows, or `isa` is not available.
pub fn rms_norm_in_place(x: &mut [f32], weight: &[f32], eps: f32, isa: Isa) {
    check_rows(x.len(), weight.len());
    rms_rows_in_place(isa, x, weight, eps);
}

/// Layer normalisation (Ba et al., 2016) of each row: `((x - mean) * rsqrt(variance + eps)) * weight + bias`.
///
/// # Panics
/// When `x` is not whole rows, a length differs, or `isa` is not available.
pub fn layer_norm(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32], isa: Isa) {
    check_rows(x.len(), weight.len());
    assert_eq!(
        (x.len(), weight.len()),
        (out.len(), bias.len()),
        "numbers in and out, weights and biases"
    );
    layer_rows(isa, x, weight, bias, eps, out);
}

/// [`layer_norm`] in place.
///
/// # Panics
/// When `x` is not whole rows, `bias` is not as long as `weight`, or `isa` is not available.
pub fn layer_norm_in_place(x: &mut [f32], weight: &[f32], bias: &[f32], eps: f32, isa: Isa) {
    check_rows(x.len(), weight.len());
    assert_eq!(weight.len(), bias.len(), "weights and biases");
    layer_rows_in_place(isa, x, weight, bias, eps);
}

/// The mean of the rows of `x` into `out`, a row being as long as `out`: each number's sum in order of the rows, from
/// `+0`, divided by their count.
///
/// # Panics
/// When `x` is not whole rows, or `isa` is not available.
pub fn mean_of_rows(x: &[f32], out: &mut [f32], isa: Isa) {
    check_rows(x.len(), out.len());
    mean_rows(isa, x, out);
}

/// `x` divided by its length: `x / max(sqrt(sum(x * x)), 1e-12)`.
///
/// # Panics
/// When `isa` is not available.
pub fn unit_in_place(x: &mut [f32], isa: Isa) {
    unit(isa, x);
}

fn check_rows(len: usize, row: usize) {
    assert!(
        row > 0 && len.is_multiple_of(row),
        "{len} numbers are not whole rows of {row}"
    );
}

per_isa! {
    fn rms_rows(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
        let n = weight.len();
        for (x, out) in x.chunks_exact(n).zip(out.chunks_exact_mut(n)) {
            let factor = rms_factor(x, eps);
            for ((out, &v), &w) in out.iter_mut().zip(x).zip(weight) {
                *out = (v * factor) * w;
            }
        }
    }
}

per_isa! {
    fn rms_rows_in_place(x: &mut [f32], weight: &[f32], eps: f32) {
        for x in x.chunks_exact_mut(weight.len()) {
            let factor = rms_factor(x, eps);
            for (v, &w) in x.iter_mut().zip(weight) {
                *v = (*v * factor) * w;
            }
        }
    }
}

#[inline(always)]
fn rms_factor(x: &[f32], eps: f32) -> f32 {
    rsqrt(sum_by_lanes(x, |v| v * v) / x.len() as f32 + eps)
}

per_isa! {
    fn layer_rows(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]) {
        let n = weight.len();
        for (x, out) in x.chunks_exact(n).zip(out.chunks_exact_mut(n)) {
            let (mean, factor) = layer_factor(x, eps);
            for (((out, &v), &w), &b) in out.iter_mut().zip(x).zip(weight).zip(bias) {
                *out = ((v - mean) * factor) * w + b;
            }
        }
    }
}

per_isa! {
    fn layer_rows_in_place(x: &mut [f32], weight: &[f32], bias: &[f32], eps: f32) {
        for x in x.chunks_exact_mut(weight.len()) {
            let (mean, factor) = layer_factor(x, eps);
            for ((v, &w), &b) in x.iter_mut().zip(weight).zip(bias) {
                *v = ((*v - mean) * factor) * w + b;
            }
        }
    }
}

/// Mean of a row, and what its distances from the mean are multiplied by.
#[inline(always)]
fn layer_factor(x: &[f32], eps: f32) -> (f32, f32) {
    let n = x.len() as f32;
    let mean = sum_by_lanes(x, |v| v) / n;
    let variance = sum_by_lanes(x, |v| (v - mean) * (v - mean)) / n;
    (mean, rsqrt(variance + eps))
}

per_isa! {
    fn mean_rows(x: &[f32], out: &mut [f32]) {
        let n = out.len();
        out.fill(0.0);
        for row in x.chunks_exact(n) {
            for (sum, &v) in out.iter_mut().zip(row) {
                *sum += v;
            }
        }
        let count = (x.len() / n) as f32;
        for sum in out {
            *sum /= count;
        }
    }
}

/// A vector shorter than this is taken for as long: nothing is divided by 0.
const LENGTH_MIN: f32 = 1e-12;

per_isa! {
    fn unit(x: &mut [f32]) {
        let length = sum_by_lanes(x, |v| v * v).sqrt();
        let length = if length < LENGTH_MIN { LENGTH_MIN } else { length };
        for v in x {
            *v /= length;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proof::{CASES, Draws, differ, same_bits};

    #[test]
    fn every_instruction_set_normalises_alike() {
        let mut draws = Draws::new(21);
        for _ in 0..CASES {
            let (n, rows) = (1 + draws.below(200), 1 + draws.below(3));
            let (x, weight, bias) = (draws.floats(n * rows), draws.floats(n), draws.floats(n));
            let eps = [0.0, 1e-6, 1e-5][draws.below(3)];
            let all = |isa| {
                let (mut rms, mut layer, mut placed) = (vec![0.0; n * rows], vec![0.0; n * rows], x.clone());
                rms_norm(&x, &weight, eps, &mut rms, isa);
                rms_norm_in_place(&mut placed, &weight, eps, isa);
                layer_norm(&x, &weight, &bias, eps, &mut layer, isa);
                same_bits(&rms, &placed, isa);
                placed.copy_from_slice(&x);
                layer_norm_in_place(&mut placed, &weight, &bias, eps, isa);
                same_bits(&layer, &placed, isa);
                unit_in_place(&mut placed, isa);
                let mut mean = vec![0.0; n];
                mean_of_rows(&x, &mut mean, isa);
                [rms, layer, placed, mean].concat()
            };
            let want = all(Isa::Scalar);
            Isa::all_available()
                .into_iter()
                .for_each(|isa| same_bits(&want, &all(isa), isa));
        }
    }

    #[test]
    fn a_sum_in_another_order_is_noticed() {
        let mut draws = Draws::new(22);
        let noticed = (0..100).filter(|_| {
            let (x, weight) = (draws.plains(300), draws.plains(300));
            let mut want = vec![0.0; 300];
            rms_norm(&x, &weight, 1e-6, &mut want, Isa::best());
            // The planted mistake: one accumulator from left to right, where the law says 16 lanes and a tree.
            let sum = x.iter().fold(0.0, |sum, v| sum + v * v);
            let factor = rsqrt(sum / 300.0 + 1e-6);
            let got: Vec<f32> = x.iter().zip(&weight).map(|(v, w)| (v * factor) * w).collect();
            differ(&want, &got)
        });
        assert!(noticed.count() > 50);
    }

    #[test]
    fn a_mean_in_another_order_is_noticed() {
        let mut draws = Draws::new(24);
        let noticed = (0..100).filter(|_| {
            let (x, ones, zeros) = (draws.plains(300), [1.0; 300], [0.0; 300]);
            let mut want = x.clone();
            layer_norm_in_place(&mut want, &ones, &zeros, 1e-12, Isa::best());
            // The planted mistake: the mean is summed from left to right.
            let mean = x.iter().fold(0.0, |sum, v| sum + v) / 300.0;
            let variance = sum_by_lanes(&x, |v| (v - mean) * (v - mean)) / 300.0;
            let factor = rsqrt(variance + 1e-12);
            let got: Vec<f32> = x.iter().map(|v| ((v - mean) * factor) * 1.0 + 0.0).collect();
            differ(&want, &got)
        });
        assert!(noticed.count() > 50);
    }

    #[test]
    fn a_normalised_row_has_the_root_mean_square_one() {
        let mut draws = Draws::new(23);
        let x = draws.plains(999);
        let mut out = vec![0.0; 999];
        rms_norm(&x, &[1.0; 999], 0.0, &mut out, Isa::best());
        let mean_square = out.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / 999.0;
        assert!((mean_square - 1.0).abs() < 1e-5);
        layer_norm(&x, &[1.0; 999], &[0.0; 999], 0.0, &mut out, Isa::best());
        let mean = out.iter().map(|&v| f64::from(v)).sum::<f64>() / 999.0;
        assert!(mean.abs() < 1e-5);
    }

    #[test]
    fn a_mean_is_between_its_rows_and_a_unit_has_length_one() {
        let mut mean = [0.0; 2];
        mean_of_rows(&[1.0, 5.0, 2.0, 7.0, 3.0, 9.0], &mut mean, Isa::best());
        assert_eq!(mean, [2.0, 7.0]);
        let (mut unit, mut nothing) = ([3.0, -4.0], [0.0; 3]);
        unit_in_place(&mut unit, Isa::best());
        unit_in_place(&mut nothing, Isa::best());
        assert_eq!((unit, nothing), ([0.6, -0.8], [0.0; 3]));
    }

    #[test]
    fn one_nan_makes_its_row_nan_and_no_other() {
        let mut out = [0.0; 6];
        rms_norm(
            &[1.0, f32::NAN, 2.0, 1.0, 1.0, 1.0],
            &[1.0; 3],
            0.0,
            &mut out,
            Isa::best(),
        );
        assert!(out[..3].iter().all(|v| v.is_nan()) && out[3..] == [1.0; 3]);
    }
}
