//! The search for the scale of one group of weights: least squares over a fan of roundings.
//!
//! A scale fixes the nearest codes, and codes fix the best scale by linear regression; neither gives the other
//! directly. So a fan of scales around the obvious one is tried, each corrected by the regression of its codes,
//! and the best is followed downhill for a few steps (Lloyd 1982, "Least squares quantization in PCM").
//!
//! Everything here is written for groups of fixed length and is inlined into code compiled for an instruction
//! set. Sums run over eight lanes in a fixed order, so every machine finds the same scale.

/// Spread of codes, relative to their squares, below which they count as all alike: some roundings of an `f32`.
const ALIKE: f32 = 1e-5;

/// Steps downhill after the fan.
const DESCENTS: usize = 2;

/// Width of a step of the fan, in codes.
const FAN_STEP: f32 = 0.1;

/// Adding and taking away 1.5 * 2^23 rounds a small float to the nearest whole number, ties to even.
const ROUND: f32 = 12_582_912.0;

/// The sum of `term(0)` to `term(N - 1)`: lane `i % 8` takes term `i`, then lanes fold in half.
#[inline(always)]
pub(super) fn sum<const N: usize>(term: impl Fn(usize) -> f32) -> f32 {
    let mut lanes = [0.0f32; 8];
    for start in (0..N).step_by(8) {
        for (lane, total) in lanes.iter_mut().enumerate() {
            *total += term(start + lane);
        }
    }
    let four: [f32; 4] = std::array::from_fn(|i| lanes[i] + lanes[i + 4]);
    (four[0] + four[2]) + (four[1] + four[3])
}

/// The whole number nearest to `value` within `low..=high`, as a float.
#[inline(always)]
pub(super) fn nearest(value: f32, low: f32, high: f32) -> f32 {
    (value.clamp(low, high) + ROUND) - ROUND
}

/// Of one group: the weights and how much each matters.
pub(super) struct Group<'a, const N: usize> {
    pub(super) x: &'a [f32; N],
    pub(super) w: &'a [f32; N],
}

/// A scale and what it leaves.
#[derive(Clone, Copy)]
pub(super) struct Scale {
    /// The step between codes; either sign.
    pub(super) scale: f32,
    /// How much of the weighted square sum the codes explain.
    gain: f32,
}

/// A scale and an offset: `x` is about `scale * code + offset`.
#[derive(Clone, Copy)]
pub(super) struct Line {
    /// The step between codes; not negative.
    pub(super) scale: f32,
    /// Added to every weight.
    pub(super) offset: f32,
    /// Weighted square sum of what is left.
    error: f32,
}

impl<const N: usize> Group<'_, N> {
    /// The weight that is farthest from zero.
    #[inline(always)]
    pub(super) fn farthest(&self) -> f32 {
        self.x
            .iter()
            .fold(0.0f32, |far, &x| if x.abs() > far.abs() { x } else { far })
    }

    /// The best scale for codes that `code` picks: it maps a weight over a scale to the nearest code. The fan
    /// puts the farthest weight near each of `edges`, `steps` either way.
    #[inline(always)]
    pub(super) fn scale(&self, edges: &[f32], steps: i32, code: impl Fn(f32) -> f32) -> f32 {
        let far = self.farthest();
        let mut best = Scale {
            scale: 0.0,
            gain: 0.0,
        };
        if far == 0.0 {
            return best.scale;
        }
        for &edge in edges {
            for step in -steps..=steps {
                let inverse = (edge + FAN_STEP * step as f32) / far;
                best = self.better(best, inverse, &code);
            }
        }
        for _ in 0..DESCENTS {
            best = self.better(best, 1.0 / best.scale, &code);
        }
        best.scale
    }

    /// The better of `best` and of the regression over the codes at scale `1 / inverse`.
    #[inline(always)]
    fn better(&self, best: Scale, inverse: f32, code: &impl Fn(f32) -> f32) -> Scale {
        let codes: [f32; N] = std::array::from_fn(|i| code(self.x[i] * inverse));
        let along = sum::<N>(|i| self.w[i] * self.x[i] * codes[i]);
        let square = sum::<N>(|i| self.w[i] * codes[i] * codes[i]);
        let scale = along / square;
        let gain = scale * along;
        if square > 0.0 && gain > best.gain {
            Scale { scale, gain }
        } else {
            best
        }
    }

    /// The best line for codes `0..=high`. Without `free`, the offset is never above zero.
    #[inline(always)]
    pub(super) fn line(&self, high: f32, steps: std::ops::RangeInclusive<i32>, free: bool) -> Line {
        let mut low = self.x.iter().fold(f32::INFINITY, |low, &x| low.min(x));
        let top = self.x.iter().fold(f32::NEG_INFINITY, |top, &x| top.max(x));
        if !free {
            low = low.min(0.0);
        }
        let sums = Sums {
            w: sum::<N>(|i| self.w[i]),
            x: sum::<N>(|i| self.w[i] * self.x[i]),
            xx: sum::<N>(|i| self.w[i] * self.x[i] * self.x[i]),
            free,
        };
        let mut best = Line {
            scale: 0.0,
            offset: low,
            error: f32::INFINITY,
        };
        if top <= low {
            return best;
        }
        for step in steps {
            let inverse = (high + FAN_STEP * step as f32) / (top - low);
            best = self.better_line(best, inverse, low, high, &sums);
        }
        for _ in 0..DESCENTS {
            best = self.better_line(best, 1.0 / best.scale, best.offset, high, &sums);
        }
        best
    }

    /// The better of `best` and of the regression over the codes at scale `1 / inverse` from `offset`.
    #[inline(always)]
    fn better_line(&self, best: Line, inverse: f32, offset: f32, high: f32, sums: &Sums) -> Line {
        let codes: [f32; N] = std::array::from_fn(|i| nearest((self.x[i] - offset) * inverse, 0.0, high));
        let line = sums.regress(
            sum::<N>(|i| self.w[i] * codes[i]),
            sum::<N>(|i| self.w[i] * codes[i] * codes[i]),
            sum::<N>(|i| self.w[i] * self.x[i] * codes[i]),
        );
        if line.scale > 0.0 && line.error < best.error {
            line
        } else {
            best
        }
    }
}

/// Sums over a group that do not depend on codes.
struct Sums {
    w: f32,
    x: f32,
    xx: f32,
    free: bool,
}

impl Sums {
    /// The weighted regression of the weights on codes with these sums of code, code squared and code times weight.
    #[inline(always)]
    fn regress(&self, c: f32, cc: f32, xc: f32) -> Line {
        let spread = self.w * cc - c * c;
        let scale = (self.w * xc - self.x * c) / spread;
        let offset = (cc * self.x - c * xc) / spread;
        // Codes that are all alike determine no line, and what rounding leaves of `spread` is noise.
        let alike = spread <= ALIKE * self.w * cc;
        let through_zero = alike || (!self.free && offset > 0.0);
        let (scale, offset) = if through_zero {
            (xc / cc, 0.0)
        } else {
            (scale, offset)
        };
        Line {
            scale,
            offset,
            error: self.xx - scale * xc - offset * self.x,
        }
    }
}
