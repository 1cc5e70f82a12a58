//! Products of quantised weights and quantised activations.
//!
//! A kernel holds `R` vectors of rows times `T` tokens in registers. For each 256 columns it sums whole numbers,
//! exactly, and then turns them into floats in the order of `docs/arithmetic.md`; float sums of a chunk wait in
//! memory between groups, one line a token.

#![expect(
    clippy::needless_range_loop,
    reason = "rows and tokens index several arrays at once"
)]

use super::codes::{Codes, Panel, Planes, Unpacked};
use super::params::{BlockParams, BlockWeights, SuperParams, SuperWeights};
use super::{CHUNK, Work};
use crate::activations::{GROUP, Group32, Group256};
use crate::pack::{Layout, TILE};
use crate::simd::{Kernel, Simd};
use std::marker::PhantomData;

/// Up to this many tokens, codes are unpacked in registers; beyond it, once into a panel.
const FUSED_TOKENS: usize = 4;

/// Float sums of the rows of a tile for each token of a chunk.
#[repr(C, align(64))]
struct Sums([[f32; TILE]; CHUNK]);

/// Work on a format with blocks of 32.
pub(super) struct Blocks<'a, W>(Work<'a>, PhantomData<W>);

/// Work on a K format.
pub(super) struct Superblocks<'a, W>(Work<'a>, PhantomData<W>);

impl<'a, W> Blocks<'a, W> {
    pub(super) fn new(work: Work<'a>) -> Self {
        Blocks(work, PhantomData)
    }
}

impl<'a, W> Superblocks<'a, W> {
    pub(super) fn new(work: Work<'a>) -> Self {
        Superblocks(work, PhantomData)
    }
}

impl<'a, W> From<Blocks<'a, W>> for Work<'a> {
    fn from(kernel: Blocks<'a, W>) -> Work<'a> {
        kernel.0
    }
}

impl<'a, W> From<Superblocks<'a, W>> for Work<'a> {
    fn from(kernel: Superblocks<'a, W>) -> Work<'a> {
        kernel.0
    }
}

/// Calls `$body` with the constant `$q` from 0 to 7, so that shifts by it are constants and arrays stay in registers.
macro_rules! unrolled {
    ($q:ident in $first:literal $body:block) => {
        unrolled!(@ $q $first $body 0 1 2 3)
    };
    (@ $q:ident $first:literal $body:block $($n:literal)*) => {
        $({ let $q: usize = $first + $n; $body })*
    };
}

/// Calls the unsafe `$call` with the constant `T` for all tokens from `$first`, `S::TOKENS` at a time and then
/// the rest at once. The caller says why it is safe.
macro_rules! by_tokens {
    ($s:ty, $count:expr, |$first:ident, $t:ident| $call:expr) => {{
        let count: usize = $count;
        let mut $first = 0;
        while count > $first {
            let left = count - $first;
            $first += by_tokens!(@ left.min(<$s>::TOKENS), $t, $call, [8 if <$s>::TOKENS > 4] [4 if <$s>::TOKENS > 3] [3 if true] [2 if true] [1 if true]);
        }
    }};
    (@ $left:expr, $t:ident, $call:expr, $([$n:literal if $has:expr])*) => {
        match $left {
            $(left if $has && left >= $n => {
                const $t: usize = $n;
                // SAFETY: as the caller says.
                unsafe { $call };
                $n
            })*
            _ => 1,
        }
    };
}

impl<W: SuperWeights> Kernel for Superblocks<'_, W> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let work = self.0;
        let tokens = work.x.tokens();
        let x = work.x.by_256().expect("activations set for K formats");
        let layout = const { Layout::of(W::FORMAT) };
        let groups = work.weights.cols() / GROUP;
        let mut sums = Sums([[0.0; TILE]; CHUNK]);
        let mut params = SuperParams::EMPTY;
        let mut panel = Panel::EMPTY;
        for chunk in (0..tokens).step_by(CHUNK) {
            let count = CHUNK.min(tokens - chunk);
            for tile in work.tiles.clone() {
                let bytes = work.weights.tile(tile);
                for sum in &mut sums.0[..count] {
                    *sum = [0.0; TILE];
                }
                for group in 0..groups {
                    let record = bytes[group * layout.record_bytes(8)..].as_ptr();
                    let packed = Planes::of(&layout, record, 8);
                    // SAFETY: a whole record begins there.
                    unsafe { params.read::<S, W>(s, record) };
                    let x = x[group * tokens + chunk..][..count].as_ptr();
                    if W::FUSED && count <= FUSED_TOKENS {
                        by_tokens!(S, count, |first, T| {
                            superblock::<S, W, W::Codes, T>(
                                s,
                                packed,
                                &params,
                                x.add(first),
                                &mut sums.0[first..],
                            )
                        });
                    } else {
                        // SAFETY: as above.
                        unsafe { panel.fill::<S, W::Codes>(s, packed, 8) };
                        by_tokens!(S, count, |first, T| {
                            superblock::<S, W, Unpacked<W::Codes>, T>(
                                s,
                                panel.planes(),
                                &params,
                                x.add(first),
                                &mut sums.0[first..],
                            )
                        });
                    }
                }
                for (token, sum) in sums.0[..count].iter().enumerate() {
                    work.out.store(tile, chunk + token, sum);
                }
            }
        }
    }
}

/// Adds one superblock of 16 rows to the sums of `T` tokens.
///
/// # Safety
/// The planes are those of a whole record, and `x` has `T` tokens.
#[inline(always)]
unsafe fn superblock<S: Simd, W: SuperWeights, C: Codes, const T: usize>(
    s: S,
    planes: Planes,
    params: &SuperParams,
    x: *const Group256,
    sums: &mut [[f32; TILE]],
) {
    let sums = sums[..T].as_mut_ptr().cast::<f32>();
    for first in (0..TILE / S::LANES).step_by(S::ROWS) {
        // SAFETY: passed on; the vectors lie within the tile.
        unsafe {
            match S::ROWS {
                1 => super_rows::<S, W, C, 1, T>(s, planes, params, first, x, sums),
                2 => super_rows::<S, W, C, 2, T>(s, planes, params, first, x, sums),
                _ => super_rows::<S, W, C, 4, T>(s, planes, params, first, x, sums),
            }
        }
    }
}

/// As [`superblock`], for `R` vectors of rows from vector `first`.
///
/// # Safety
/// As [`superblock`]; the tile has those vectors, and `sums` 16 floats for each token.
#[inline(always)]
unsafe fn super_rows<S: Simd, W: SuperWeights, C: Codes, const R: usize, const T: usize>(
    s: S,
    planes: Planes,
    params: &SuperParams,
    first: usize,
    x: *const Group256,
    sums: *mut f32,
) {
    let lane = first * S::LANES;
    let mut acc = [[s.zero(); T]; R];
    for block in 0..8 {
        if first == 0 {
            planes.fetch(s, block);
        }
        let halved = W::PARTS == 16 || C::LARGE && !S::WIDE;
        let mut part = [[s.begin_zero(); T]; R];
        if C::OFFSET != 0 {
            // SAFETY: within the planes, the scales and the groups, as the caller promises.
            unsafe { begin::<S, C, R, T>(s, x, 2 * block, &mut part) };
        }
        // SAFETY: as above.
        unrolled!(q in 0 { unsafe { step::<S, C, _, R, T>(s, planes, block, q, first, x, &mut part) } });
        if halved {
            let scale = params.scales[block * W::PARTS / 8].as_ptr().wrapping_add(lane);
            // SAFETY: as above.
            unsafe { end(s, scale, &part, &mut acc) };
            part = [[s.begin_zero(); T]; R];
            if C::OFFSET != 0 {
                // SAFETY: as above.
                unsafe { begin::<S, C, R, T>(s, x, 2 * block + 1, &mut part) };
            }
        }
        // SAFETY: as above.
        unrolled!(q in 4 { unsafe { step::<S, C, _, R, T>(s, planes, block, q, first, x, &mut part) } });
        let scale = params.scales[(2 * block + 1) * W::PARTS / 16]
            .as_ptr()
            .wrapping_add(lane);
        // SAFETY: as above.
        unsafe { end(s, scale, &part, &mut acc) };
    }
    for r in 0..R {
        // SAFETY: as above.
        unsafe {
            let d = s.load_floats(params.d.as_ptr().add(lane + r * S::LANES));
            for t in 0..T {
                let at = sums.add(TILE * t + lane + r * S::LANES);
                let step = s.mul(d, s.splat((*x.add(t)).d));
                s.store_floats(s.add(s.load_floats(at), s.mul(step, s.floats(acc[r][t]))), at);
            }
        }
    }
    if W::MINIMA {
        // SAFETY: as above.
        unsafe { super_minima::<S, W, R, T>(s, params, lane, x, sums) };
    }
}

/// Takes the minima of 16 columns or 32 from the sums.
///
/// # Safety
/// As [`super_rows`].
#[inline(always)]
unsafe fn super_minima<S: Simd, W: SuperWeights, const R: usize, const T: usize>(
    s: S,
    params: &SuperParams,
    lane: usize,
    x: *const Group256,
    sums: *mut f32,
) {
    let mut acc = [[s.zero(); T]; R];
    for pair in 0..W::PARTS / 2 {
        for t in 0..T {
            // SAFETY: `T` groups; one word a row.
            unsafe {
                let x = x.add(t);
                let sums = if W::PARTS == 16 {
                    &raw const (*x).sums16[pair]
                } else {
                    &raw const (*x).sums32[pair % 4]
                };
                let sum = s.spread(sums.cast());
                for r in 0..R {
                    let minima = s.load_ints(params.minima[pair].as_ptr().add(lane + r * S::LANES));
                    acc[r][t] = s.pair(acc[r][t], minima, sum);
                }
            }
        }
    }
    for r in 0..R {
        // SAFETY: 16 floats for each of `T` tokens.
        unsafe {
            let m = s.load_floats(params.m.as_ptr().add(lane + r * S::LANES));
            for t in 0..T {
                let at = sums.add(TILE * t + lane + r * S::LANES);
                let step = s.mul(m, s.splat((*x.add(t)).d));
                s.store_floats(s.sub(s.load_floats(at), s.mul(step, s.floats(acc[r][t]))), at);
            }
        }
    }
}

impl<W: BlockWeights> Kernel for Blocks<'_, W> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let work = self.0;
        let tokens = work.x.tokens();
        let x = work.x.by_32().expect("activations set for blocks of 32");
        let layout = const { Layout::of(W::FORMAT) };
        let cols = work.weights.cols();
        let mut sums = Sums([[0.0; TILE]; CHUNK]);
        let mut params = BlockParams::EMPTY;
        let mut panel = Panel::EMPTY;
        for chunk in (0..tokens).step_by(CHUNK) {
            let count = CHUNK.min(tokens - chunk);
            for tile in work.tiles.clone() {
                let bytes = work.weights.tile(tile);
                for sum in &mut sums.0[..count] {
                    *sum = [0.0; TILE];
                }
                for group in 0..cols.div_ceil(GROUP) {
                    let blocks = (cols - group * GROUP).min(GROUP) / 32;
                    let record = bytes[group * layout.record_bytes(8)..].as_ptr();
                    let packed = Planes::of(&layout, record, blocks);
                    // SAFETY: a record of `blocks` blocks begins there.
                    unsafe { params.read::<S, W>(s, record, blocks) };
                    let x = x[group * tokens + chunk..][..count].as_ptr();
                    if W::FUSED && count <= FUSED_TOKENS {
                        by_tokens!(S, count, |first, T| {
                            let sums = &mut sums.0[first..];
                            group_of_blocks::<S, W, W::Codes, T>(
                                s,
                                packed,
                                blocks,
                                &params,
                                x.add(first),
                                sums,
                            )
                        });
                    } else {
                        // SAFETY: as above.
                        unsafe { panel.fill::<S, W::Codes>(s, packed, blocks) };
                        by_tokens!(S, count, |first, T| {
                            let sums = &mut sums.0[first..];
                            group_of_blocks::<S, W, Unpacked<W::Codes>, T>(
                                s,
                                panel.planes(),
                                blocks,
                                &params,
                                x.add(first),
                                sums,
                            )
                        });
                    }
                }
                for (token, sum) in sums.0[..count].iter().enumerate() {
                    work.out.store(tile, chunk + token, sum);
                }
            }
        }
    }
}

/// Adds up to 8 blocks of 16 rows to the sums of `T` tokens.
///
/// # Safety
/// The planes are those of a record of `blocks` blocks, and `x` has `T` tokens.
#[inline(always)]
unsafe fn group_of_blocks<S: Simd, W: BlockWeights, C: Codes, const T: usize>(
    s: S,
    planes: Planes,
    blocks: usize,
    params: &BlockParams,
    x: *const Group32,
    sums: &mut [[f32; TILE]],
) {
    let sums = sums[..T].as_mut_ptr().cast::<f32>();
    for first in (0..TILE / S::LANES).step_by(S::ROWS) {
        // SAFETY: passed on; the vectors lie within the tile.
        unsafe {
            match S::ROWS {
                1 => block_rows::<S, W, C, 1, T>(s, planes, blocks, params, first, x, sums),
                2 => block_rows::<S, W, C, 2, T>(s, planes, blocks, params, first, x, sums),
                _ => block_rows::<S, W, C, 4, T>(s, planes, blocks, params, first, x, sums),
            }
        }
    }
}

/// As [`group_of_blocks`], for `R` vectors of rows from vector `first`.
///
/// # Safety
/// As [`group_of_blocks`]; the tile has those vectors, and `sums` 16 floats for each token.
#[inline(always)]
unsafe fn block_rows<S: Simd, W: BlockWeights, C: Codes, const R: usize, const T: usize>(
    s: S,
    planes: Planes,
    blocks: usize,
    params: &BlockParams,
    first: usize,
    x: *const Group32,
    sums: *mut f32,
) {
    let mut acc = [[s.splat(0.0); T]; R];
    for r in 0..R {
        for t in 0..T {
            // SAFETY: within the sums, as the caller promises.
            acc[r][t] = unsafe { s.load_floats(sums.add(TILE * t + (first + r) * S::LANES)) };
        }
    }
    for block in 0..blocks {
        if first == 0 {
            planes.fetch(s, block);
        }
        // SAFETY: within the planes, the scales and the groups, as the caller promises.
        let products = unsafe { block_products::<S, C, R, T>(s, planes, block, first, x) };
        for r in 0..R {
            let lane = (first + r) * S::LANES;
            // SAFETY: as above.
            unsafe {
                let d = s.load_floats(params.d[block].as_ptr().add(lane));
                for t in 0..T {
                    let x = x.add(t);
                    let step = s.mul(d, s.splat((*x).d[block]));
                    acc[r][t] = s.add(acc[r][t], s.mul(step, s.floats(products[r][t])));
                    if W::MINIMA {
                        let m = s.load_floats(params.m[block].as_ptr().add(lane));
                        acc[r][t] = s.add(acc[r][t], s.mul(m, s.splat((*x).ds[block])));
                    }
                }
            }
        }
    }
    for r in 0..R {
        for t in 0..T {
            // SAFETY: within the sums, as the caller promises.
            unsafe { s.store_floats(acc[r][t], sums.add(TILE * t + (first + r) * S::LANES)) };
        }
    }
}

/// The dot products of one block of `R` vectors of rows with `T` tokens.
///
/// # Safety
/// As [`block_rows`].
#[inline(always)]
unsafe fn block_products<S: Simd, C: Codes, const R: usize, const T: usize>(
    s: S,
    planes: Planes,
    block: usize,
    first: usize,
    x: *const Group32,
) -> [[S::Ints; T]; R] {
    let mut acc = [[s.zero(); T]; R];
    if C::SIGNED && !S::BIASED {
        // SAFETY: passed on.
        unrolled!(q in 0 { unsafe { step_signed::<S, C, R, T>(s, planes, block, q, first, x, &mut acc) } });
        // SAFETY: passed on.
        unrolled!(q in 4 { unsafe { step_signed::<S, C, R, T>(s, planes, block, q, first, x, &mut acc) } });
        return acc;
    }
    let mut part = [[s.begin_zero(); T]; R];
    if C::OFFSET != 0 {
        for t in 0..T {
            // SAFETY: `T` groups of 8 blocks.
            let halves = unsafe { s.spread((&raw const (*x.add(t)).halves[block]).cast()) };
            for r in 0..R {
                part[r][t] = s.begin(C::OFFSET, halves);
            }
        }
    }
    // SAFETY: passed on.
    unrolled!(q in 0 { unsafe { step::<S, C, _, R, T>(s, planes, block, q, first, x, &mut part) } });
    if C::LARGE && !S::WIDE {
        end_unscaled(s, &part, &mut acc);
        part = [[s.begin_zero(); T]; R];
    }
    // SAFETY: passed on.
    unrolled!(q in 4 { unsafe { step::<S, C, _, R, T>(s, planes, block, q, first, x, &mut part) } });
    end_unscaled(s, &part, &mut acc);
    acc
}

/// Sets the sums of `T` tokens before their first quad.
///
/// # Safety
/// `x` has `T` tokens of 16 parts.
#[inline(always)]
unsafe fn begin<S: Simd, C: Codes, const R: usize, const T: usize>(
    s: S,
    x: *const Group256,
    part: usize,
    sums: &mut [[S::Partial; T]; R],
) {
    for t in 0..T {
        // SAFETY: as the caller promises.
        let halves = unsafe { s.spread((&raw const (*x.add(t)).halves[part]).cast()) };
        for r in 0..R {
            sums[r][t] = s.begin(C::OFFSET, halves);
        }
    }
}

/// Adds one quad of columns to the sums.
///
/// # Safety
/// The planes have that quad, and `x` has `T` tokens whose records begin with codes.
#[inline(always)]
unsafe fn step<S: Simd, C: Codes, G, const R: usize, const T: usize>(
    s: S,
    planes: Planes,
    block: usize,
    quad: usize,
    first: usize,
    x: *const G,
    sums: &mut [[S::Partial; T]; R],
) {
    // SAFETY: as the caller promises.
    let codes: [S::Bytes; R] = unsafe { quads::<S, C, R>(s, planes, block, quad, first) };
    for t in 0..T {
        // SAFETY: as the caller promises.
        let x = unsafe { s.spread(x.add(t).cast::<u8>().add(32 * block + 4 * quad)) };
        for r in 0..R {
            sums[r][t] = s.step(sums[r][t], codes[r], x);
        }
    }
}

/// As [`step`], for signed codes.
///
/// # Safety
/// As [`step`].
#[inline(always)]
unsafe fn step_signed<S: Simd, C: Codes, const R: usize, const T: usize>(
    s: S,
    planes: Planes,
    block: usize,
    quad: usize,
    first: usize,
    x: *const Group32,
    sums: &mut [[S::Ints; T]; R],
) {
    // SAFETY: as the caller promises.
    let codes: [S::Bytes; R] = unsafe { quads::<S, C, R>(s, planes, block, quad, first) };
    for t in 0..T {
        // SAFETY: as the caller promises.
        let x = unsafe { s.spread(x.add(t).cast::<u8>().add(32 * block + 4 * quad)) };
        for r in 0..R {
            sums[r][t] = s.signed(sums[r][t], codes[r], x);
        }
    }
}

/// One quad of `R` vectors of rows.
///
/// # Safety
/// The planes have it.
#[inline(always)]
unsafe fn quads<S: Simd, C: Codes, const R: usize>(
    s: S,
    planes: Planes,
    block: usize,
    quad: usize,
    first: usize,
) -> [S::Bytes; R] {
    // SAFETY: as the caller promises.
    let mut codes = [unsafe { C::quad(s, planes, block, quad, first) }; R];
    for (r, codes) in codes.iter_mut().enumerate().skip(1) {
        // SAFETY: as the caller promises.
        *codes = unsafe { C::quad(s, planes, block, quad, first + r) };
    }
    codes
}

/// Adds the sums of a sub-block times its scales, one word a row from `scale` on.
///
/// # Safety
/// The words can be read.
#[inline(always)]
unsafe fn end<S: Simd, const R: usize, const T: usize>(
    s: S,
    scale: *const u32,
    sums: &[[S::Partial; T]; R],
    acc: &mut [[S::Ints; T]; R],
) {
    for r in 0..R {
        // SAFETY: as the caller promises.
        let scale = unsafe { s.load_ints(scale.add(r * S::LANES)) };
        for t in 0..T {
            acc[r][t] = s.end_scaled(acc[r][t], sums[r][t], scale);
        }
    }
}

/// Adds the sums of a block.
#[inline(always)]
fn end_unscaled<S: Simd, const R: usize, const T: usize>(
    s: S,
    sums: &[[S::Partial; T]; R],
    acc: &mut [[S::Ints; T]; R],
) {
    for r in 0..R {
        for t in 0..T {
            acc[r][t] = s.end(acc[r][t], sums[r][t]);
        }
    }
}
