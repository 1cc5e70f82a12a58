//! Four rows a vector: WebAssembly with 128-bit SIMD, without the relaxed instructions, whose results may differ.
//!
//! A sub-block is summed in 16 bits, one lane for each of the four columns of a quad, and the bounds in
//! [`Simd::end`] leave room. 16-bit additions wrap, so only the whole sum has to fit. The instructions are
//! fixed when the module is built, so this file exists only in modules that have them.

use super::{Kernel, Simd};
use crate::activations::Pair;
use std::arch::wasm32::*;

/// Runs `kernel` with 128-bit SIMD.
pub(super) fn run<K: Kernel>(kernel: K) {
    kernel.run(WasmSimd(()));
}

/// Witness of 128-bit SIMD.
#[derive(Clone, Copy)]
pub(super) struct WasmSimd(());

/// Rows 0 and 1 of an unfinished sum, and rows 2 and 3: for each, four columns of 16 bits.
#[derive(Clone, Copy)]
pub(super) struct Columns(v128, v128);

impl Simd for WasmSimd {
    const LANES: usize = 4;
    const ROWS: usize = 2;
    const TOKENS: usize = 2;
    const WIDE: bool = false;
    const BIASED: bool = false;

    type Bytes = v128;
    type Ints = v128;
    type Floats = v128;
    type Partial = Columns;

    #[inline(always)]
    unsafe fn load(self, at: *const u8) -> v128 {
        // SAFETY: the caller vouches for the bytes.
        unsafe { v128_load(at.cast()) }
    }

    #[inline(always)]
    unsafe fn store(self, v: v128, at: *mut u8) {
        // SAFETY: the caller vouches for the bytes.
        unsafe { v128_store(at.cast(), v) }
    }

    #[inline(always)]
    fn and(self, v: v128, mask: u8) -> v128 {
        v128_and(v, u8x16_splat(mask))
    }

    #[inline(always)]
    fn or(self, a: v128, b: v128) -> v128 {
        v128_or(a, b)
    }

    #[inline(always)]
    fn flip(self, v: v128, mask: u8) -> v128 {
        v128_xor(v, u8x16_splat(mask))
    }

    #[inline(always)]
    fn up(self, v: v128, n: u32) -> v128 {
        u16x8_shl(v, n)
    }

    #[inline(always)]
    fn down(self, v: v128, n: u32) -> v128 {
        u16x8_shr(v, n)
    }

    #[inline(always)]
    fn look_up(self, v: v128, table: &[i8; 16]) -> v128 {
        // SAFETY: the table has 16 bytes.
        i8x16_swizzle(unsafe { v128_load(table.as_ptr().cast()) }, v)
    }

    #[inline(always)]
    unsafe fn spread(self, at: *const u8) -> v128 {
        // SAFETY: the caller vouches for the bytes.
        unsafe { v128_load32_splat(at.cast()) }
    }

    /// Columns 0 and 1 take from the lane of column 0, columns 2 and 3 from that of column 2.
    #[inline(always)]
    unsafe fn begin(self, offset: i16, halves: *const Pair, _: *const i32) -> Columns {
        // SAFETY: the caller vouches for the pair.
        let halves = unsafe { self.spread(halves.cast()) };
        let rest = u32x4_extend_low_u16x8(i16x8_mul(halves, i16x8_splat(-offset)));
        Columns(rest, rest)
    }

    #[inline(always)]
    fn begin_zero(self) -> Columns {
        Columns(self.zero(), self.zero())
    }

    /// Codes are at most 63, so they are the same as signed bytes.
    #[inline(always)]
    fn step(self, sum: Columns, codes: v128, x: v128) -> Columns {
        let low = i16x8_add(sum.0, i16x8_extmul_low_i8x16(codes, x));
        Columns(low, i16x8_add(sum.1, i16x8_extmul_high_i8x16(codes, x)))
    }

    #[inline(always)]
    fn end(self, acc: v128, sum: Columns) -> v128 {
        i32x4_add(
            acc,
            pairs(
                i32x4_extadd_pairwise_i16x8(sum.0),
                i32x4_extadd_pairwise_i16x8(sum.1),
            ),
        )
    }

    #[inline(always)]
    fn end_scaled(self, acc: v128, sum: Columns, scale: v128) -> v128 {
        i32x4_add(acc, i32x4_mul(self.end(self.zero(), sum), i32x4_shr(scale, 16)))
    }

    #[inline(always)]
    fn signed(self, acc: v128, codes: v128, x: v128) -> v128 {
        let low = i32x4_extadd_pairwise_i16x8(i16x8_extmul_low_i8x16(codes, x));
        let high = i32x4_extadd_pairwise_i16x8(i16x8_extmul_high_i8x16(codes, x));
        i32x4_add(acc, pairs(low, high))
    }

    #[inline(always)]
    fn pair(self, acc: v128, weights: v128, x: v128) -> v128 {
        i32x4_add(acc, i32x4_dot_i16x8(weights, x))
    }

    #[inline(always)]
    fn zero(self) -> v128 {
        i32x4_splat(0)
    }

    #[inline(always)]
    unsafe fn load_ints(self, at: *const u32) -> v128 {
        // SAFETY: the caller vouches for the integers.
        unsafe { v128_load(at.cast()) }
    }

    #[inline(always)]
    fn floats(self, v: v128) -> v128 {
        f32x4_convert_i32x4(v)
    }

    #[inline(always)]
    fn splat(self, v: f32) -> v128 {
        f32x4_splat(v)
    }

    #[inline(always)]
    unsafe fn load_floats(self, at: *const f32) -> v128 {
        // SAFETY: the caller vouches for the floats.
        unsafe { v128_load(at.cast()) }
    }

    /// Moved to the place of an `f32`, a half is 2^112 times too small, subnormal or not; infinities and NaN get
    /// the exponent that the product cannot give them.
    #[inline(always)]
    unsafe fn load_halves(self, at: *const u16) -> v128 {
        // SAFETY: the caller vouches for the halves.
        let bits = unsafe { u32x4_load_extend_u16x4(at) };
        let magnitude = u32x4_shl(v128_and(bits, u32x4_splat(0x7fff)), 13);
        let sign = u32x4_shl(v128_and(bits, u32x4_splat(0x8000)), 16);
        let scaled = f32x4_mul(magnitude, f32x4_splat(f32::from_bits((127 + 112) << 23)));
        let endless = u32x4_ge(magnitude, u32x4_splat(0x7c00 << 13));
        let exponent = v128_and(endless, u32x4_splat(0x7f80_0000));
        v128_or(v128_or(scaled, exponent), sign)
    }

    #[inline(always)]
    unsafe fn load_bfloats(self, at: *const u16) -> v128 {
        // SAFETY: the caller vouches for the bfloats.
        u32x4_shl(unsafe { u32x4_load_extend_u16x4(at) }, 16)
    }

    #[inline(always)]
    unsafe fn store_floats(self, v: v128, at: *mut f32) {
        // SAFETY: the caller vouches for the floats.
        unsafe { v128_store(at.cast(), v) }
    }

    #[inline(always)]
    fn add(self, a: v128, b: v128) -> v128 {
        f32x4_add(a, b)
    }

    #[inline(always)]
    fn sub(self, a: v128, b: v128) -> v128 {
        f32x4_sub(a, b)
    }

    #[inline(always)]
    fn mul(self, a: v128, b: v128) -> v128 {
        f32x4_mul(a, b)
    }

    /// WebAssembly cannot ask for one.
    #[inline(always)]
    fn prefetch(self, _: *const u8) {}
}

/// Sums of neighbours: of `a`, then of `b`.
#[inline(always)]
fn pairs(a: v128, b: v128) -> v128 {
    i32x4_add(
        i32x4_shuffle::<0, 2, 4, 6>(a, b),
        i32x4_shuffle::<1, 3, 5, 7>(a, b),
    )
}
