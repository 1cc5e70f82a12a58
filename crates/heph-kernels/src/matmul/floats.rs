//! Products of weights that are floats in the file.
//!
//! Columns are taken 32 at a time: within such a block products are added one after the other, and the block's sum
//! is then added to the row's. Blocks of different tokens and rows are independent, which hides the latency of an
//! addition.

#![expect(
    clippy::needless_range_loop,
    reason = "rows and tokens index several arrays at once"
)]

use super::{CHUNK, Work};
use crate::pack::{Scratch, TILE};
use crate::simd::{Kernel, Simd};
use std::marker::PhantomData;

/// Columns of a block.
const BLOCK: usize = 32;

/// Columns for which a tile is widened to floats once: 8 KiB.
const PANEL: usize = 128;

/// How a float is stored.
pub(super) trait Stored {
    const BYTES: usize;

    /// A vector of weights, widened.
    ///
    /// # Safety
    /// They can be read.
    unsafe fn load<S: Simd>(s: S, at: *const u8) -> S::Floats;
}

/// IEEE 754 single precision.
pub(super) struct F32;

impl Stored for F32 {
    const BYTES: usize = 4;

    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, at: *const u8) -> S::Floats {
        // SAFETY: passed on.
        unsafe { s.load_floats(at.cast()) }
    }
}

/// IEEE 754 half precision.
pub(super) struct F16;

impl Stored for F16 {
    const BYTES: usize = 2;

    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, at: *const u8) -> S::Floats {
        // SAFETY: passed on.
        unsafe { s.load_halves(at.cast()) }
    }
}

/// The upper half of an IEEE 754 single.
pub(super) struct BF16;

impl Stored for BF16 {
    const BYTES: usize = 2;

    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, at: *const u8) -> S::Floats {
        // SAFETY: passed on.
        unsafe { s.load_bfloats(at.cast()) }
    }
}

/// Work on a float format.
pub(super) struct Floats<'a, W>(Work<'a>, PhantomData<W>);

impl<'a, W> Floats<'a, W> {
    pub(super) fn new(work: Work<'a>) -> Self {
        Floats(work, PhantomData)
    }
}

impl<'a, W> From<Floats<'a, W>> for Work<'a> {
    fn from(kernel: Floats<'a, W>) -> Work<'a> {
        kernel.0
    }
}

/// Some columns of a tile as floats.
#[repr(C, align(64))]
struct Panel([[f32; TILE]; PANEL]);

impl<W: Stored> Kernel for Floats<'_, W> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let work = self.0;
        let (tokens, cols) = (work.x.tokens(), work.x.cols());
        let x = work.x.floats().expect("activations set for float formats");
        let mut sums = [[0.0; TILE]; CHUNK];
        let mut panel = Panel([[0.0; TILE]; PANEL]);
        let mut scratch = Scratch::take();
        for chunk in (0..tokens).step_by(CHUNK) {
            let count = CHUNK.min(tokens - chunk);
            for tile in work.tiles.clone() {
                let bytes = work.weights.tile(tile, &mut scratch);
                sums[..count].fill([0.0; TILE]);
                for k in (0..cols).step_by(PANEL) {
                    let n = PANEL.min(cols - k);
                    let weights = bytes[W::BYTES * TILE * k..][..W::BYTES * TILE * n].as_ptr();
                    let x = x[chunk * cols..][..count * cols].as_ptr().wrapping_add(k);
                    let at = Columns { weights, x, cols, n };
                    if count <= S::TOKENS {
                        // SAFETY: `n` columns of the tile and of `count` tokens.
                        unsafe { all::<S, W>(s, at, &mut sums[..count]) };
                        continue;
                    }
                    for (k, column) in panel.0[..n].iter_mut().enumerate() {
                        for vector in 0..TILE / S::LANES {
                            let lane = S::LANES * vector;
                            // SAFETY: `n` columns of 16 rows, here and there.
                            unsafe {
                                let weights = W::load(s, weights.add(W::BYTES * (TILE * k + lane)));
                                s.store_floats(weights, column.as_mut_ptr().add(lane));
                            }
                        }
                    }
                    let at = Columns {
                        weights: panel.0.as_ptr().cast(),
                        ..at
                    };
                    // SAFETY: as above.
                    unsafe { all::<S, F32>(s, at, &mut sums[..count]) };
                }
                for (token, sum) in sums[..count].iter().enumerate() {
                    work.out.store(tile, chunk + token, sum);
                }
            }
        }
    }
}

/// Columns of a tile and of some tokens.
#[derive(Clone, Copy)]
struct Columns {
    weights: *const u8, // (n, 16)
    x: *const f32,      // (tokens, n), `cols` apart
    cols: usize,
    n: usize,
}

/// Adds the columns to the sums of all tokens, four at a time.
///
/// # Safety
/// The weights and as many tokens as there are sums can be read.
#[inline(always)]
unsafe fn all<S: Simd, W: Stored>(s: S, at: Columns, sums: &mut [[f32; TILE]]) {
    let mut first = 0;
    while first < sums.len() {
        let at = Columns {
            x: at.x.wrapping_add(first * at.cols),
            ..at
        };
        let sums = &mut sums[first..];
        // SAFETY: passed on.
        unsafe {
            first += match sums.len() {
                1 => tokens::<S, W, 1>(s, at, sums),
                2 => tokens::<S, W, 2>(s, at, sums),
                3 => tokens::<S, W, 3>(s, at, sums),
                4..8 => tokens::<S, W, 4>(s, at, sums),
                _ if S::LANES == 16 => tokens::<S, W, 8>(s, at, sums),
                _ => tokens::<S, W, 4>(s, at, sums),
            }
        }
    }
}

/// Adds the columns to the sums of `T` tokens, and returns `T`.
///
/// # Safety
/// As [`all`].
#[inline(always)]
unsafe fn tokens<S: Simd, W: Stored, const T: usize>(s: S, at: Columns, sums: &mut [[f32; TILE]]) -> usize {
    let sums = sums[..T].as_mut_ptr().cast::<f32>();
    for first in (0..TILE / S::LANES).step_by(S::ROWS) {
        // SAFETY: passed on; the vectors lie within the tile.
        unsafe {
            match S::ROWS {
                1 => rows::<S, W, 1, T>(s, at, S::LANES * first, sums),
                2 => rows::<S, W, 2, T>(s, at, S::LANES * first, sums),
                _ => rows::<S, W, 4, T>(s, at, S::LANES * first, sums),
            }
        }
    }
    T
}

/// As [`tokens`], for `R` vectors of rows from row `lane`.
///
/// # Safety
/// As [`tokens`]; `sums` has 16 floats for each token.
#[inline(always)]
unsafe fn rows<S: Simd, W: Stored, const R: usize, const T: usize>(
    s: S,
    at: Columns,
    lane: usize,
    sums: *mut f32,
) {
    for block in (0..at.n).step_by(BLOCK) {
        let mut sum = [[s.splat(0.0); T]; R];
        for k in block..at.n.min(block + BLOCK) {
            // SAFETY: as the caller promises.
            unsafe {
                let mut weights = [W::load(s, at.weights.add(W::BYTES * (TILE * k + lane))); R];
                for (r, weights) in weights.iter_mut().enumerate().skip(1) {
                    *weights = W::load(s, at.weights.add(W::BYTES * (TILE * k + lane + r * S::LANES)));
                }
                for t in 0..T {
                    let x = s.splat(*at.x.add(t * at.cols + k));
                    for r in 0..R {
                        sum[r][t] = s.add(sum[r][t], s.mul(weights[r], x));
                    }
                }
            }
        }
        for r in 0..R {
            for t in 0..T {
                // SAFETY: as the caller promises.
                unsafe {
                    let at = sums.add(TILE * t + lane + r * S::LANES);
                    s.store_floats(s.add(s.load_floats(at), sum[r][t]), at);
                }
            }
        }
    }
}
