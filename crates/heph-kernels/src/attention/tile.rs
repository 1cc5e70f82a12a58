//! The two products of attention for a tile of query rows held in registers.
//!
//! A tile is up to [`ROWS`] rows. A lane is a position in the scores and a dimension in the mix, so the
//! shape of a tile never shows in a result.

#![expect(
    clippy::needless_range_loop,
    reason = "an index is a row or a vector of several arrays at once"
)]

use super::lanes::Lanes;
use crate::kv::{GROUP, Numbers, PAGE};

/// Query rows of a full tile: with two vectors of keys beside them, what 16 registers hold.
pub(super) const ROWS: usize = 4;

/// Memory that will be read next, asked for in small parts between computations: more than some twenty lines at a
/// time and the processor waits for them. Without it a page is read, then computed, and neither hides the other.
pub(super) struct Ahead {
    next: *const u8,
    lines: usize,
    each: usize,
}

impl Ahead {
    /// All of `numbers`, asked for while `lanes` sums of `steps` steps are computed for each of `rows` rows, before the last third of
    /// them, so that the end comes in time as well; nothing where there are no numbers.
    pub(super) fn of<S: Lanes>(
        numbers: Option<Numbers<'_>>,
        rows: usize,
        lanes: usize,
        steps: usize,
    ) -> Ahead {
        let (next, bytes) = numbers.map_or((std::ptr::null(), 0), |numbers| numbers.place());
        let lines = bytes.div_ceil(64);
        let of_tile = |rows: usize| lanes.div_ceil(vectors::<S>(rows) * S::WIDTH) * steps.div_ceil(STEPS);
        let rest = if rows.is_multiple_of(ROWS) {
            0
        } else {
            of_tile(rows % ROWS)
        };
        let asks = rows / ROWS * of_tile(ROWS) + rest;
        Ahead {
            next,
            lines,
            each: lines.div_ceil((asks * 2 / 3).max(1)),
        }
    }

    /// Asks for one part.
    #[inline(always)]
    fn ask<S: Lanes>(&mut self) {
        let count = self.each.min(self.lines);
        for _ in 0..count {
            S::prefetch(self.next);
            self.next = self.next.wrapping_add(64);
        }
        self.lines -= count;
    }
}

/// Steps of a sum that are written out one after the other, since those of the loop itself would cost a tenth. Before each such
/// set a part of [`Ahead`] is asked for.
const STEPS: usize = 4;

/// Vectors that are summed at a time for each of `rows` rows.
#[inline(always)]
fn vectors<S: Lanes>(rows: usize) -> usize {
    match rows {
        3.. => 2,
        2 => 4,
        _ if S::WIDTH == 16 => 4,
        _ => 8,
    }
}

/// Scores of `rows` queries with the positions `from..to` of a page: `scores[row][position]`.
///
/// Positions next to the range may be computed as well; whoever reads scores masks them.
///
/// # Safety
/// `queries` is `(head_dim, ROWS)`, `keys` is `(PAGE / GROUP, head_dim, GROUP)`, `scores` is `(rows, PAGE)`;
/// `rows <= ROWS`, `to <= PAGE`; the machine has the instruction set of `S`.
#[inline(always)]
pub(super) unsafe fn score_rows<S: Lanes>(
    rows: usize,
    queries: *const f32,
    keys: *const f32,
    head_dim: usize,
    (from, to): (usize, usize),
    scores: *mut f32,
    ahead: &mut Ahead,
) {
    // SAFETY: handed on as promised.
    unsafe {
        match rows {
            4 => score_span::<S, 4, 2>(queries, keys, head_dim, from, to, scores, ahead),
            3 => score_span::<S, 3, 2>(queries, keys, head_dim, from, to, scores, ahead),
            2 => score_span::<S, 2, 4>(queries, keys, head_dim, from, to, scores, ahead),
            1 if S::WIDTH == 16 => score_span::<S, 1, 4>(queries, keys, head_dim, from, to, scores, ahead),
            1 => score_span::<S, 1, 8>(queries, keys, head_dim, from, to, scores, ahead),
            _ => {}
        }
    }
}

/// [`score_rows`] for `R` rows and `N` vectors of positions at a time.
#[inline(always)]
unsafe fn score_span<S: Lanes, const R: usize, const N: usize>(
    queries: *const f32,
    keys: *const f32,
    head_dim: usize,
    from: usize,
    to: usize,
    scores: *mut f32,
    ahead: &mut Ahead,
) {
    let step = N * S::WIDTH;
    let mut position = from / step * step;
    while position < to {
        // SAFETY: `step` divides PAGE, so `position + step <= PAGE`: all places are inside the arrays.
        unsafe {
            let mut lines = [keys; N];
            for (n, line) in lines.iter_mut().enumerate() {
                let at = position + n * S::WIDTH;
                *line = keys.add(at / GROUP * head_dim * GROUP + at % GROUP);
            }
            let mut sums = [[S::splat(0.0); N]; R];
            let mut dim = 0;
            while dim + STEPS <= head_dim {
                ahead.ask::<S>();
                for d in dim..dim + STEPS {
                    score_dim::<S, R, N>(queries, &lines, d, &mut sums);
                }
                dim += STEPS;
            }
            for d in dim..head_dim {
                score_dim::<S, R, N>(queries, &lines, d, &mut sums);
            }
            for r in 0..R {
                for n in 0..N {
                    S::store(sums[r][n], scores.add(r * PAGE + position + n * S::WIDTH));
                }
            }
        }
        position += step;
    }
}

/// Adds the products of one dimension.
#[inline(always)]
unsafe fn score_dim<S: Lanes, const R: usize, const N: usize>(
    queries: *const f32,
    lines: &[*const f32; N],
    dim: usize,
    sums: &mut [[S::V; N]; R],
) {
    // SAFETY: the caller's places are inside the arrays.
    unsafe {
        let mut k = [S::splat(0.0); N];
        for n in 0..N {
            k[n] = S::load(lines[n].add(dim * GROUP));
        }
        for r in 0..R {
            let q = S::splat(*queries.add(dim * ROWS + r));
            for n in 0..N {
                sums[r][n] = S::add(sums[r][n], S::mul(q, k[n]));
            }
        }
    }
}

/// The largest of `PAGE` scores; negative infinity where there is none. NaN is passed over.
///
/// # Safety
/// The machine has the instruction set of `S`.
#[inline(always)]
pub(super) unsafe fn highest<S: Lanes>(scores: &[f32; PAGE]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; 16];
    for at in (0..GROUP).step_by(S::WIDTH) {
        // SAFETY: a vector at `at` lies inside each group of 16 scores.
        unsafe {
            let mut most = S::splat(f32::NEG_INFINITY);
            for group in (at..PAGE).step_by(GROUP) {
                most = S::larger(S::load(scores.as_ptr().add(group)), most);
            }
            S::store(most, lanes.as_mut_ptr().add(at));
        }
    }
    let mut width = 16;
    while width > S::WIDTH {
        width /= 2;
        for at in (0..width).step_by(S::WIDTH) {
            // SAFETY: both vectors lie inside the lanes.
            unsafe {
                let most = S::larger(
                    S::load(lanes.as_ptr().add(at)),
                    S::load(lanes.as_ptr().add(at + width)),
                );
                S::store(most, lanes.as_mut_ptr().add(at));
            }
        }
    }
    lanes[..S::WIDTH]
        .iter()
        .fold(f32::NEG_INFINITY, |most, &s| if s > most { s } else { most })
}

/// Turns scores into weights `exp(score - max)`, none of the scores being above `max`, and gives their sum:
/// 16 lanes of four each, then the tree.
///
/// # Safety
/// The machine has the instruction set of `S`.
#[inline(always)]
pub(super) unsafe fn weigh<S: Lanes>(scores: &mut [f32; PAGE], max: f32) -> f32 {
    let mut lanes = [0.0; 16];
    // SAFETY: a vector at `at` lies inside each group of 16 scores, and the lanes are 16.
    unsafe {
        let max = S::splat(max);
        for at in (0..GROUP).step_by(S::WIDTH) {
            let mut sum = S::splat(0.0);
            for group in (at..PAGE).step_by(GROUP) {
                let place = scores.as_mut_ptr().add(group);
                let weight = S::exp_not_above_zero(S::sub(S::load(place), max));
                S::store(weight, place);
                sum = S::add(sum, weight);
            }
            S::store(sum, lanes.as_mut_ptr().add(at));
        }
        S::tree(lanes.as_ptr())
    }
}

/// Mixes values into `rows` outputs: `out = out * scale`, then `out = out + weight * value` for each position
/// of `from..to` in order.
///
/// # Safety
/// `scales` has `rows` numbers, `weights` is `(rows, PAGE)`, `values` is `(PAGE, stride)`, `out` is
/// `(rows, stride)`; `rows <= ROWS`, `to <= PAGE`, `stride` is a multiple of 16; the machine has the
/// instruction set of `S`.
#[expect(
    clippy::too_many_arguments,
    reason = "the rows, the two operands, the sums and how they lie"
)]
#[inline(always)]
pub(super) unsafe fn mix_rows<S: Lanes>(
    rows: usize,
    scales: *const f32,
    weights: *const f32,
    values: *const f32,
    stride: usize,
    range: (usize, usize),
    out: *mut f32,
    ahead: &mut Ahead,
) {
    // SAFETY: handed on as promised.
    unsafe {
        match rows {
            4 => mix_row_set::<S, 4, 2>(scales, weights, values, stride, range, out, ahead),
            3 => mix_row_set::<S, 3, 2>(scales, weights, values, stride, range, out, ahead),
            2 => mix_row_set::<S, 2, 4>(scales, weights, values, stride, range, out, ahead),
            1 if S::WIDTH == 16 => mix_row_set::<S, 1, 4>(scales, weights, values, stride, range, out, ahead),
            1 => mix_row_set::<S, 1, 8>(scales, weights, values, stride, range, out, ahead),
            _ => {}
        }
    }
}

/// [`mix_rows`] for `R` rows, `N` vectors of dimensions at a time and the rest by 16 dimensions.
#[inline(always)]
unsafe fn mix_row_set<S: Lanes, const R: usize, const N: usize>(
    scales: *const f32,
    weights: *const f32,
    values: *const f32,
    stride: usize,
    range: (usize, usize),
    out: *mut f32,
    ahead: &mut Ahead,
) {
    let step = N * S::WIDTH;
    let mut dim = 0;
    // SAFETY: `stride` is a multiple of 16 and of what each call covers, so all places are in the arrays.
    unsafe {
        while dim + step <= stride {
            let (values, out) = (values.add(dim), out.add(dim));
            mix_span::<S, R, N>(scales, weights, values, stride, range, out, ahead);
            dim += step;
        }
        while dim < stride {
            let (values, out) = (values.add(dim), out.add(dim));
            match S::WIDTH {
                4 => mix_span::<S, R, 4>(scales, weights, values, stride, range, out, ahead),
                8 => mix_span::<S, R, 2>(scales, weights, values, stride, range, out, ahead),
                _ => mix_span::<S, R, 1>(scales, weights, values, stride, range, out, ahead),
            }
            dim += 16;
        }
    }
}

/// [`mix_rows`] for `R` rows and `N` vectors of dimensions.
#[inline(always)]
unsafe fn mix_span<S: Lanes, const R: usize, const N: usize>(
    scales: *const f32,
    weights: *const f32,
    values: *const f32,
    stride: usize,
    (from, to): (usize, usize),
    out: *mut f32,
    ahead: &mut Ahead,
) {
    // SAFETY: the caller's places are inside the arrays.
    unsafe {
        let mut sums = [[S::splat(0.0); N]; R];
        for r in 0..R {
            let scale = S::splat(*scales.add(r));
            for n in 0..N {
                sums[r][n] = S::mul(S::load(out.add(r * stride + n * S::WIDTH)), scale);
            }
        }
        let mut position = from;
        while position + STEPS <= to {
            ahead.ask::<S>();
            for p in position..position + STEPS {
                mix_position::<S, R, N>(weights, values, stride, p, &mut sums);
            }
            position += STEPS;
        }
        for p in position..to {
            mix_position::<S, R, N>(weights, values, stride, p, &mut sums);
        }
        for r in 0..R {
            for n in 0..N {
                S::store(sums[r][n], out.add(r * stride + n * S::WIDTH));
            }
        }
    }
}

/// Adds the products of one position.
#[inline(always)]
unsafe fn mix_position<S: Lanes, const R: usize, const N: usize>(
    weights: *const f32,
    values: *const f32,
    stride: usize,
    position: usize,
    sums: &mut [[S::V; N]; R],
) {
    // SAFETY: the caller's places are inside the arrays.
    unsafe {
        let mut v = [S::splat(0.0); N];
        for n in 0..N {
            v[n] = S::load(values.add(position * stride + n * S::WIDTH));
        }
        for r in 0..R {
            let p = S::splat(*weights.add(r * PAGE + position));
            for n in 0..N {
                sums[r][n] = S::add(sums[r][n], S::mul(p, v[n]));
            }
        }
    }
}
