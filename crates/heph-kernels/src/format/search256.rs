//! Quantising superblocks: first each sub-block for itself, then the steps that all of them share.

use super::search::{Group, nearest, sum};
use super::{Format, SUPERBLOCK, Superblock, to_half};
use crate::isa::per_isa;

/// Times that scales and shared steps are fitted to each other.
const ROUNDS: usize = 2;

per_isa! {
    /// Quantises a row of whole superblocks.
    pub(super) fn quantize(format: Format, x: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
        for (index, bytes) in out.chunks_exact_mut(format.block_bytes()).enumerate() {
            let at = SUPERBLOCK * index;
            let x: &[f32; SUPERBLOCK] = x[at..at + SUPERBLOCK].try_into().expect("a whole superblock");
            let w = weigh(x, importance.map(|all| &all[at..at + SUPERBLOCK]));
            // One call for each kind of format keeps the code of the search small.
            let block = match format {
                Format::Q2K => Minima::<16> { high: 3.0, levels: 15.0, fan: (-5, 15) }.fit(x, &w),
                Format::Q4K | Format::Q5K => long_parts(format).fit(x, &w),
                _ => signed(format).fit(x, &w),
            };
            block.write(format, bytes);
        }
    }
}

/// Q4_K, Q5_K.
fn long_parts(format: Format) -> Minima<32> {
    let (high, last) = if format == Format::Q4K {
        (15.0, 15)
    } else {
        (31.0, 10)
    };
    Minima {
        high,
        levels: 63.0,
        fan: (-10, last),
    }
}

/// Q3_K, Q6_K.
fn signed(format: Format) -> Signed {
    let (half, levels) = if format == Format::Q3K {
        (4.0, 32.0)
    } else {
        (32.0, 128.0)
    };
    Signed {
        low: -half,
        high: half - 1.0,
        levels,
    }
}

/// How much each weight matters: large ones more, since they carry more of the sum they go into.
#[inline(always)]
fn weigh(x: &[f32; SUPERBLOCK], importance: Option<&[f32]>) -> [f32; SUPERBLOCK] {
    let mean = sum::<SUPERBLOCK>(|i| x[i] * x[i]) / SUPERBLOCK as f32;
    let size = |i: usize| (mean + x[i] * x[i]).sqrt();
    match importance {
        Some(all) => std::array::from_fn(|i| all[i] * size(i)),
        None => std::array::from_fn(size),
    }
}

/// The groups of `N` weights of a superblock.
#[inline(always)]
fn groups<'a, const N: usize>(
    x: &'a [f32; SUPERBLOCK],
    w: &'a [f32; SUPERBLOCK],
) -> impl Iterator<Item = Group<'a, N>> {
    let (x, _) = x.as_chunks::<N>();
    let (w, _) = w.as_chunks::<N>();
    x.iter().zip(w).map(|(x, w)| Group { x, w })
}

/// `1 / value`, or 0 where there is none.
#[inline(always)]
fn inverse(value: f32) -> f32 {
    if value == 0.0 { 0.0 } else { 1.0 / value }
}

/// Formats with a scale and a minimum per sub-block of `N`: Q2_K, Q4_K, Q5_K.
struct Minima<const N: usize> {
    /// Largest code.
    high: f32,
    /// Largest whole-number scale and minimum.
    levels: f32,
    /// First and last step of the fan of scales.
    fan: (i32, i32),
}

/// Whole-number scale and minimum of one sub-block, and the error they leave.
#[derive(Clone, Copy)]
struct Pair {
    scale: f32,
    minimum: f32,
    error: f32,
}

impl<const N: usize> Minima<N> {
    #[inline(always)]
    fn fit(&self, x: &[f32; SUPERBLOCK], w: &[f32; SUPERBLOCK]) -> Superblock {
        // Scale and minimum of each sub-block; half of the places stay empty where sub-blocks are long.
        let mut wanted = [(0.0f32, 0.0f32); 16];
        for (group, wanted) in groups::<N>(x, w).zip(&mut wanted) {
            let line = group.line(self.high, self.fan.0..=self.fan.1, false);
            *wanted = (line.scale, -line.offset);
        }
        let most = wanted
            .iter()
            .fold((0.0f32, 0.0f32), |m, v| (m.0.max(v.0), m.1.max(v.1)));
        let mut steps = (to_half(most.0 / self.levels), to_half(most.1 / self.levels));
        let (mut best, mut best_error) = (Superblock::default(), f32::INFINITY);
        for _ in 0..ROUNDS {
            let (block, error) = self.code(x, w, &wanted, steps);
            if error < best_error {
                (best, best_error) = (block, error);
            }
            steps = self.refit(x, w, &best);
        }
        let (last, error) = self.code(x, w, &wanted, steps);
        if error < best_error { last } else { best }
    }

    /// Codes and whole-number scales for these steps, and the weighted error they leave.
    #[inline(always)]
    fn code(
        &self,
        x: &[f32; SUPERBLOCK],
        w: &[f32; SUPERBLOCK],
        wanted: &[(f32, f32); 16],
        steps: (f32, f32),
    ) -> (Superblock, f32) {
        let mut block = Superblock {
            scale: steps.0,
            minimum: steps.1,
            ..Superblock::default()
        };
        let inverses = (inverse(steps.0), inverse(steps.1));
        let mut error = 0.0;
        for (index, group) in groups::<N>(x, w).enumerate() {
            let middle = (wanted[index].0 * inverses.0, wanted[index].1 * inverses.1);
            let pair = self.choose(&group, middle, steps);
            error += pair.error;
            let (scale, minimum) = (steps.0 * pair.scale, steps.1 * pair.minimum);
            let over = inverse(scale);
            for (code, &x) in block.codes[N * index..].iter_mut().zip(group.x) {
                *code = nearest((x + minimum) * over, 0.0, self.high) as i8;
            }
            for part in N / 16 * index..N / 16 * (index + 1) {
                block.scales[part] = pair.scale as i8;
                block.minima[part] = pair.minimum as u8;
            }
        }
        (block, error)
    }

    /// The best whole numbers around the ones wished for.
    #[inline(always)]
    fn choose(&self, group: &Group<'_, N>, middle: (f32, f32), steps: (f32, f32)) -> Pair {
        let mut best = Pair {
            scale: 0.0,
            minimum: 0.0,
            error: f32::INFINITY,
        };
        for by_scale in -1..=1 {
            let whole = nearest(middle.0 + by_scale as f32, 0.0, self.levels);
            let scale = steps.0 * whole;
            let over = inverse(scale);
            for by_minimum in -1..=1 {
                let lowest = nearest(middle.1 + by_minimum as f32, 0.0, self.levels);
                let minimum = steps.1 * lowest;
                let left = |i: usize| {
                    let code = nearest((group.x[i] + minimum) * over, 0.0, self.high);
                    (scale * code - minimum) - group.x[i]
                };
                let error = sum::<N>(|i| {
                    let left = left(i);
                    group.w[i] * left * left
                });
                if error < best.error {
                    best = Pair {
                        scale: whole,
                        minimum: lowest,
                        error,
                    };
                }
            }
        }
        best
    }

    /// The steps that suit a coded superblock best, by regression of the weights on both whole numbers.
    #[inline(always)]
    fn refit(&self, x: &[f32; SUPERBLOCK], w: &[f32; SUPERBLOCK], block: &Superblock) -> (f32, f32) {
        let up = |i: usize| f32::from(block.scales[i / 16]) * f32::from(block.codes[i]);
        let down = |i: usize| f32::from(block.minima[i / 16]);
        let uu = sum::<SUPERBLOCK>(|i| w[i] * up(i) * up(i));
        let ud = sum::<SUPERBLOCK>(|i| w[i] * up(i) * down(i));
        let dd = sum::<SUPERBLOCK>(|i| w[i] * down(i) * down(i));
        let xu = sum::<SUPERBLOCK>(|i| w[i] * x[i] * up(i));
        let xd = sum::<SUPERBLOCK>(|i| w[i] * x[i] * down(i));
        let spread = uu * dd - ud * ud;
        let (scale, minimum) = ((xu * dd - xd * ud) / spread, (xu * ud - xd * uu) / spread);
        if spread > 0.0 && scale > 0.0 && minimum >= 0.0 {
            (to_half(scale), to_half(minimum))
        } else if uu > 0.0 {
            (to_half((xu + block.minimum * ud) / uu), block.minimum)
        } else {
            (block.scale, block.minimum)
        }
    }
}

/// Formats with a signed scale per sub-block of 16 and codes around zero: Q3_K, Q6_K.
struct Signed {
    /// Smallest code.
    low: f32,
    /// Largest code.
    high: f32,
    /// Whole-number scales go from `-levels` to `levels - 1`.
    levels: f32,
}

impl Signed {
    #[inline(always)]
    fn fit(&self, x: &[f32; SUPERBLOCK], w: &[f32; SUPERBLOCK]) -> Superblock {
        let mut wanted = [0.0f32; 16];
        for (group, wanted) in groups::<16>(x, w).zip(&mut wanted) {
            *wanted = group.scale(&[self.low, self.high], 9, |v| nearest(v, self.low, self.high));
        }
        let far = wanted
            .iter()
            .fold(0.0f32, |far, &v| if v.abs() > far.abs() { v } else { far });
        let mut step = to_half(-far / self.levels);
        let (mut best, mut best_error) = (Superblock::default(), f32::INFINITY);
        for _ in 0..ROUNDS {
            let (block, error) = self.code(x, w, &wanted, step);
            if error < best_error {
                (best, best_error) = (block, error);
            }
            step = self.refit(x, w, &best);
        }
        let (last, error) = self.code(x, w, &wanted, step);
        if error < best_error { last } else { best }
    }

    /// Codes and whole-number scales for this step, and the weighted error they leave.
    #[inline(always)]
    fn code(
        &self,
        x: &[f32; SUPERBLOCK],
        w: &[f32; SUPERBLOCK],
        wanted: &[f32; 16],
        step: f32,
    ) -> (Superblock, f32) {
        let mut block = Superblock {
            scale: step,
            ..Superblock::default()
        };
        let mut total = 0.0;
        for (part, group) in groups::<16>(x, w).enumerate() {
            let (whole, error) = self.choose(&group, wanted[part] * inverse(step), step);
            total += error;
            block.scales[part] = whole as i8;
            let over = inverse(step * whole);
            for (code, &x) in block.codes[16 * part..].iter_mut().zip(group.x) {
                *code = nearest(x * over, self.low, self.high) as i8;
            }
        }
        (block, total)
    }

    /// The best whole number around the one wished for, and the error it leaves.
    #[inline(always)]
    fn choose(&self, group: &Group<'_, 16>, middle: f32, step: f32) -> (f32, f32) {
        let mut best = (0.0, f32::INFINITY);
        for by in -1..=1 {
            let whole = nearest(middle + by as f32, -self.levels, self.levels - 1.0);
            let scale = step * whole;
            let over = inverse(scale);
            let error = sum::<16>(|i| {
                let left = scale * nearest(group.x[i] * over, self.low, self.high) - group.x[i];
                group.w[i] * left * left
            });
            best = if error < best.1 { (whole, error) } else { best };
        }
        best
    }

    /// The step that suits a coded superblock best.
    #[inline(always)]
    fn refit(&self, x: &[f32; SUPERBLOCK], w: &[f32; SUPERBLOCK], block: &Superblock) -> f32 {
        let up = |i: usize| f32::from(block.scales[i / 16]) * f32::from(block.codes[i]);
        let along = sum::<SUPERBLOCK>(|i| w[i] * x[i] * up(i));
        let square = sum::<SUPERBLOCK>(|i| w[i] * up(i) * up(i));
        if square > 0.0 {
            to_half(along / square)
        } else {
            block.scale
        }
    }
}
