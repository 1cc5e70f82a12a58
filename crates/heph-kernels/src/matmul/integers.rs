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
use super::{CHUNK, CHUNK_BYTES, EVEN_TOKENS, Work};
use crate::activations::{Activations, GROUP, Group32, Group256};
use crate::format::Format;
use crate::pack::{Layout, Scratch, TILE};
use crate::simd::{Kernel, Simd};
use std::marker::PhantomData;

/// Float sums of the rows of a tile for each token of a chunk.
#[repr(C, align(64))]
struct Sums([[f32; TILE]; CHUNK]);

/// What the two families of formats differ in.
pub(super) trait Family {
    const FORMAT: Format;
    /// Scales of a record.
    type Params;
    const EMPTY: Self::Params;
    /// Up to 256 columns of one token. Begins with the codes.
    type Group;
    type Codes: Codes;

    /// The activations, (groups, tokens).
    fn activations(x: &Activations) -> &[Self::Group];

    /// Takes the scales of a record of `blocks` blocks of 32 columns.
    ///
    /// # Safety
    /// `record` is such a record.
    unsafe fn read<S: Simd>(s: S, record: *const u8, blocks: usize, params: &mut Self::Params);

    /// Adds the products of a record to the sums of `R` vectors of rows, from vector `first`, with `T` tokens.
    ///
    /// # Safety
    /// The planes are those of a record of `blocks` blocks, a tile has the vectors, `x` has `T` tokens, and `sums`
    /// 16 floats for each.
    unsafe fn multiply<S: Simd, C: Codes, const R: usize, const T: usize>(
        s: S,
        record: Record<'_, Self::Params>,
        first: usize,
        x: *const Self::Group,
        sums: *mut f32,
    );
}

/// A record on its way through the kernel: codes, blocks of 32 columns, scales.
pub(super) struct Record<'a, P> {
    planes: Planes,
    blocks: usize,
    params: &'a P,
}

impl<P> Clone for Record<'_, P> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<P> Copy for Record<'_, P> {}

/// The family of formats with blocks of 32.
pub(super) struct Blocks<W>(PhantomData<W>);

/// The family of K formats.
pub(super) struct Superblocks<W>(PhantomData<W>);

/// Work on a quantised format.
pub(super) struct Integers<'a, F>(Work<'a>, PhantomData<F>);

impl<'a, F> Integers<'a, F> {
    pub(super) fn new(work: Work<'a>) -> Self {
        Integers(work, PhantomData)
    }
}

impl<'a, F> From<Integers<'a, F>> for Work<'a> {
    fn from(kernel: Integers<'a, F>) -> Work<'a> {
        kernel.0
    }
}

/// Calls `$body` with the constant `$q` from 0 to 7, so that shifts by it are constants and arrays stay in registers.
macro_rules! unrolled {
    ($q:ident $body:block) => {
        unrolled!(@ $q $body 0 1 2 3 4 5 6 7)
    };
    (@ $q:ident $body:block $($n:literal)*) => {
        $({ const $q: usize = $n; $body })*
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
            $first += by_tokens!(@ at_once(left, <$s>::TOKENS), $t, $call, [12 if <$s>::TOKENS > 8] [8 if <$s>::TOKENS > 4] [4 if <$s>::TOKENS > 3] [3 if true] [2 if true] [1 if true]);
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

/// Tokens of a chunk whose activations take `bytes` each: whole sets of those that registers hold, at least two.
fn tokens_of_chunk(bytes: usize) -> usize {
    (CHUNK_BYTES / bytes.max(1)).clamp(2 * EVEN_TOKENS, CHUNK) / EVEN_TOKENS * EVEN_TOKENS
}

/// How many of `left` tokens to take together where registers hold `most`: a few less than could be, rather than a
/// last few that are too few to keep the multipliers busy.
fn at_once(left: usize, most: usize) -> usize {
    if most > 8 && left > most && left < most + 8 {
        8
    } else {
        left.min(most)
    }
}

impl<F: Family> Kernel for Integers<'_, F> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        const { assert!(EVEN_TOKENS.is_multiple_of(S::TOKENS)) };
        let work = self.0;
        let tokens = work.x.tokens();
        let x = F::activations(work.x);
        let layout = const { Layout::of(F::FORMAT) };
        let cols = work.weights.cols();
        let mut sums = Sums([[0.0; TILE]; CHUNK]);
        let mut params = F::EMPTY;
        let mut panel = Panel::EMPTY;
        let mut scratch = Scratch::take();
        let along = s.along();
        let most = tokens_of_chunk(cols.div_ceil(GROUP) * size_of::<F::Group>());
        for chunk in (0..tokens).step_by(most) {
            let count = most.min(tokens - chunk);
            for tile in work.tiles.clone() {
                let bytes = work.weights.tile(tile, &mut scratch);
                let sums = &mut sums.0[..count];
                sums.fill([0.0; TILE]);
                for group in 0..cols.div_ceil(GROUP) {
                    let blocks = (cols - group * GROUP).min(GROUP) / 32;
                    let record = bytes[group * layout.record_bytes(8)..].as_ptr();
                    let planes = Planes::of(&layout, record, blocks);
                    // SAFETY: a record of `blocks` blocks begins there.
                    unsafe { F::read(s, record, blocks, &mut params) };
                    let x = x[group * tokens + chunk..][..count].as_ptr();
                    let params = &params;
                    if count <= along {
                        let record = Record {
                            planes,
                            blocks,
                            params,
                        };
                        // SAFETY: as above; `count` tokens begin at `x`.
                        unsafe { all_tokens::<S, F, F::Codes>(s, record, x, sums) };
                    } else {
                        // SAFETY: as above.
                        unsafe { panel.fill::<S, F::Codes>(s, planes, blocks) };
                        let planes = panel.planes();
                        let record = Record {
                            planes,
                            blocks,
                            params,
                        };
                        // SAFETY: as above, and the panel holds the record's codes.
                        unsafe { all_tokens::<S, F, Unpacked<F::Codes>>(s, record, x, sums) };
                    }
                }
                for (token, sum) in sums.iter().enumerate() {
                    work.out.store(tile, chunk + token, sum);
                }
            }
        }
    }
}

/// Adds the products of a record to the sums of all tokens from `x` on, as many at a time as registers hold.
///
/// # Safety
/// The planes are those of the record, and `x` has a token for each of the sums.
#[inline(always)]
unsafe fn all_tokens<S: Simd, F: Family, C: Codes>(
    s: S,
    record: Record<'_, F::Params>,
    x: *const F::Group,
    sums: &mut [[f32; TILE]],
) {
    let mut record = record;
    by_tokens!(S, sums.len(), |first, T| {
        all_rows::<S, F, C, T>(s, record, x.add(first), &mut sums[first..][..T]);
        record.planes = record.planes.near();
    });
}

/// Adds the products of a record to the sums of `T` tokens.
///
/// # Safety
/// As [`all_tokens`].
#[inline(always)]
unsafe fn all_rows<S: Simd, F: Family, C: Codes, const T: usize>(
    s: S,
    record: Record<'_, F::Params>,
    x: *const F::Group,
    sums: &mut [[f32; TILE]],
) {
    let sums = sums.as_mut_ptr().cast::<f32>();
    for first in (0..TILE / S::LANES).step_by(S::ROWS) {
        // SAFETY: passed on; the vectors lie within the tile.
        unsafe {
            match S::ROWS {
                1 => F::multiply::<S, C, 1, T>(s, record, first, x, sums),
                2 => F::multiply::<S, C, 2, T>(s, record, first, x, sums),
                _ => F::multiply::<S, C, 4, T>(s, record, first, x, sums),
            }
        }
    }
}

impl<W: SuperWeights> Family for Superblocks<W> {
    const FORMAT: Format = W::FORMAT;
    type Params = SuperParams;
    const EMPTY: SuperParams = SuperParams::EMPTY;
    type Group = Group256;
    type Codes = W::Codes;

    fn activations(x: &Activations) -> &[Group256] {
        x.by_256().expect("activations set for K formats")
    }

    #[inline(always)]
    unsafe fn read<S: Simd>(s: S, record: *const u8, _: usize, params: &mut SuperParams) {
        // SAFETY: passed on; K formats have whole records only.
        unsafe { params.read::<S, W>(s, record) };
    }

    #[inline(always)]
    unsafe fn multiply<S: Simd, C: Codes, const R: usize, const T: usize>(
        s: S,
        record: Record<'_, SuperParams>,
        first: usize,
        x: *const Group256,
        sums: *mut f32,
    ) {
        // SAFETY: passed on.
        unsafe { super_rows::<S, W, C, R, T>(s, record.planes, record.params, first, x, sums) };
    }
}

/// The products of a superblock.
///
/// # Safety
/// As [`Family::multiply`].
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
    // SAFETY: within the scales and the groups, as the caller promises.
    let mut acc = unsafe { super_centre::<S, W, R, T>(s, params, lane, x) };
    let mut part = [[s.begin_zero(); T]; R];
    for block in 0..8 {
        if first == 0 {
            planes.fetch(s, block);
        }
        unrolled!(Q {
            let each = const { quads_each::<S, W, C>() };
            if Q.is_multiple_of(each) {
                // SAFETY: within the groups, as the caller promises.
                let begun = unsafe { super_begin::<S, W, C, T>(s, x, 8 * block + Q) };
                part = [begun; R];
            }
            // SAFETY: within the planes and the groups, as the caller promises.
            unsafe { step::<S, C, _, R, T>(s, planes, block, Q, first, x, &mut part) };
            if (Q + 1).is_multiple_of(each) {
                let scale = params.scales[(8 * block + Q) * W::PARTS / 64].as_ptr();
                // SAFETY: a word a row.
                unsafe { end(s, scale.wrapping_add(lane), &part, &mut acc) };
            }
        });
    }
    // SAFETY: within the scales, the groups and the sums, as the caller promises.
    unsafe {
        let minima = super_minima::<S, W, R, T>(s, params, lane, x);
        for r in 0..R {
            let lane = lane + r * S::LANES;
            let d = s.load_floats(params.d.as_ptr().add(lane));
            let m = s.load_floats(params.m.as_ptr().add(lane));
            for t in 0..T {
                let (at, step) = (sums.add(TILE * t + lane), s.splat((*x.add(t)).d));
                let mut sum = s.load_floats(at);
                sum = s.add(sum, s.mul(s.mul(d, step), s.floats(acc[r][t])));
                if W::MINIMA {
                    sum = s.sub(sum, s.mul(s.mul(m, step), s.floats(minima[r][t])));
                }
                s.store_floats(sum, at);
            }
        }
    }
}

/// Quads of a superblock that go into one sum before its scale is multiplied in: those of a sub-block, or fewer where
/// their sum might not fit.
const fn quads_each<S: Simd, W: SuperWeights, C: Codes>() -> usize {
    let quads = 64 / W::PARTS;
    if !S::SHORT {
        return if S::WIDE || !C::LARGE { quads } else { 4 };
    }
    let offset = C::OFFSET + centre::<S, W>();
    let below = if C::LARGEST - offset > offset {
        C::LARGEST - offset
    } else {
        offset
    };
    let fits = 4 * quads as i32 * 127 * below as i32 <= i16::MAX as i32;
    if fits { quads } else { quads / 2 }
}

/// What is taken from every code to halve its sums, where sums must be short; added again by [`super_centre`].
const fn centre<S: Simd, W: SuperWeights>() -> i16 {
    if S::SHORT { W::CENTRE } else { 0 }
}

/// What [`centre`] took from the sum of the record: the centre times scales times sums of activations.
///
/// # Safety
/// As [`Family::multiply`].
#[inline(always)]
unsafe fn super_centre<S: Simd, W: SuperWeights, const R: usize, const T: usize>(
    s: S,
    params: &SuperParams,
    lane: usize,
    x: *const Group256,
) -> [[S::Ints; T]; R] {
    let mut acc = [[s.zero(); T]; R];
    if centre::<S, W>() == 0 {
        return acc;
    }
    for pair in 0..4 {
        for t in 0..T {
            // SAFETY: `T` groups; one word a row.
            unsafe {
                let sum = s.spread((&raw const (*x.add(t)).sums32[pair]).cast());
                for r in 0..R {
                    let scales = s.load_ints(params.pairs[pair].as_ptr().add(lane + r * S::LANES));
                    acc[r][t] = s.pair(acc[r][t], scales, sum);
                }
            }
        }
    }
    for r in 0..R {
        for t in 0..T {
            acc[r][t] = s.times(acc[r][t], centre::<S, W>());
        }
    }
    acc
}

/// The minima of 16 columns or 32 times the sums of activations; nothing where the format has none.
///
/// # Safety
/// As [`Family::multiply`].
#[inline(always)]
unsafe fn super_minima<S: Simd, W: SuperWeights, const R: usize, const T: usize>(
    s: S,
    params: &SuperParams,
    lane: usize,
    x: *const Group256,
) -> [[S::Ints; T]; R] {
    let mut acc = [[s.zero(); T]; R];
    if !W::MINIMA {
        return acc;
    }
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
    acc
}

impl<W: BlockWeights> Family for Blocks<W> {
    const FORMAT: Format = W::FORMAT;
    type Params = BlockParams;
    const EMPTY: BlockParams = BlockParams::EMPTY;
    type Group = Group32;
    type Codes = W::Codes;

    fn activations(x: &Activations) -> &[Group32] {
        x.by_32().expect("activations set for blocks of 32")
    }

    #[inline(always)]
    unsafe fn read<S: Simd>(s: S, record: *const u8, blocks: usize, params: &mut BlockParams) {
        // SAFETY: passed on.
        unsafe { params.read::<S, W>(s, record, blocks) };
    }

    #[inline(always)]
    unsafe fn multiply<S: Simd, C: Codes, const R: usize, const T: usize>(
        s: S,
        record: Record<'_, BlockParams>,
        first: usize,
        x: *const Group32,
        sums: *mut f32,
    ) {
        // SAFETY: passed on.
        unsafe { block_rows::<S, W, C, R, T>(s, record, first, x, sums) };
    }
}

/// The products of up to 8 blocks.
///
/// # Safety
/// As [`Family::multiply`].
#[inline(always)]
unsafe fn block_rows<S: Simd, W: BlockWeights, C: Codes, const R: usize, const T: usize>(
    s: S,
    record: Record<'_, BlockParams>,
    first: usize,
    x: *const Group32,
    sums: *mut f32,
) {
    let Record {
        planes,
        blocks,
        params,
    } = record;
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
/// As [`Family::multiply`].
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
        unrolled!(Q { unsafe { step_signed::<S, C, R, T>(s, planes, block, Q, first, x, &mut acc) } });
        return acc;
    }
    let mut part = [[s.begin_zero(); T]; R];
    if C::OFFSET != 0 {
        for t in 0..T {
            // SAFETY: `T` groups of 8 blocks.
            let begun = unsafe {
                let group = x.add(t);
                if S::SHORT && C::OFFSET == 128 {
                    s.begin_at(&raw const (*group).less_128[block])
                } else {
                    s.begin(
                        C::OFFSET,
                        &raw const (*group).halves[block],
                        &raw const (*group).negated[block],
                    )
                }
            };
            for r in 0..R {
                part[r][t] = begun;
            }
        }
    }
    unrolled!(Q {
        if Q == 4 && C::LARGE && !S::WIDE {
            end_unscaled(s, &part, &mut acc);
            part = [[s.begin_zero(); T]; R];
        }
        // SAFETY: passed on.
        unsafe { step::<S, C, _, R, T>(s, planes, block, Q, first, x, &mut part) };
    });
    end_unscaled(s, &part, &mut acc);
    acc
}

/// The sums of `T` tokens before quad `quad` of a superblock.
///
/// # Safety
/// `x` has `T` tokens.
#[inline(always)]
unsafe fn super_begin<S: Simd, W: SuperWeights, C: Codes, const T: usize>(
    s: S,
    x: *const Group256,
    quad: usize,
) -> [S::Partial; T] {
    let offset = const { C::OFFSET + centre::<S, W>() };
    let mut begun = [s.begin_zero(); T];
    if offset == 0 {
        return begun;
    }
    for t in 0..T {
        // SAFETY: as the caller promises; a group has sums for each of its 64 quads.
        begun[t] = unsafe {
            let group = x.add(t);
            match (S::SHORT, offset) {
                (true, 8) => s.begin_at(&raw const (*group).less_8[quad / 8]),
                (true, 32) => s.begin_at(&raw const (*group).less_32[quad / 2]),
                _ => s.begin(
                    offset,
                    &raw const (*group).halves[quad / 4],
                    &raw const (*group).negated[quad / 4],
                ),
            }
        };
    }
    begun
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
