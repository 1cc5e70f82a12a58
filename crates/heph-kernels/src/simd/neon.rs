//! Four rows a vector: NEON, with or without 8-bit dot products.
//!
//! Without them a sub-block is summed in 16 bits, one lane for each of the four columns of a quad: `smlal`
//! multiplies and adds at once, and the bounds in [`Simd::end`] leave room. 16-bit additions wrap, so only the
//! whole sum has to fit. The dot product is written as its instruction, because its intrinsic is not yet stable.

use super::{Kernel, Simd};
use crate::activations::Pair;
use std::arch::aarch64::*;
use std::arch::asm;

/// Runs `kernel` with NEON.
///
/// # Safety
/// The machine has NEON.
#[target_feature(enable = "neon")]
pub(super) unsafe fn run<K: Kernel>(kernel: K) {
    kernel.run(Neon(()));
}

/// Runs `kernel` with NEON and 8-bit dot products.
///
/// # Safety
/// The machine has NEON and its `dotprod` extension.
#[target_feature(enable = "neon,dotprod")]
pub(super) unsafe fn run_dot<K: Kernel>(kernel: K) {
    kernel.run(NeonDot(()));
}

/// Witness of NEON.
#[derive(Clone, Copy)]
pub(super) struct Neon(());

/// Witness of NEON and 8-bit dot products.
#[derive(Clone, Copy)]
pub(super) struct NeonDot(());

/// Rows 0 and 1 of an unfinished sum, and rows 2 and 3: for each, four columns of 16 bits.
#[derive(Clone, Copy)]
pub(super) struct Columns(int16x8_t, int16x8_t);

/// What both have in common.
macro_rules! shared {
    () => {
        const LANES: usize = 4;
        const ROWS: usize = 2;

        type Bytes = uint8x16_t;
        type Ints = int32x4_t;
        type Floats = float32x4_t;

        #[inline(always)]
        unsafe fn load(self, at: *const u8) -> uint8x16_t {
            // SAFETY: the caller vouches for the bytes, `self` for the instruction.
            unsafe { vld1q_u8(at) }
        }

        #[inline(always)]
        unsafe fn store(self, v: uint8x16_t, at: *mut u8) {
            // SAFETY: the caller vouches for the bytes, `self` for the instruction.
            unsafe { vst1q_u8(at, v) }
        }

        #[inline(always)]
        fn and(self, v: uint8x16_t, mask: u8) -> uint8x16_t {
            // SAFETY: `self` vouches for the instructions.
            unsafe { vandq_u8(v, vdupq_n_u8(mask)) }
        }

        #[inline(always)]
        fn or(self, a: uint8x16_t, b: uint8x16_t) -> uint8x16_t {
            // SAFETY: `self` vouches for the instruction.
            unsafe { vorrq_u8(a, b) }
        }

        #[inline(always)]
        fn flip(self, v: uint8x16_t, mask: u8) -> uint8x16_t {
            // SAFETY: `self` vouches for the instructions.
            unsafe { veorq_u8(v, vdupq_n_u8(mask)) }
        }

        #[inline(always)]
        fn up(self, v: uint8x16_t, n: u32) -> uint8x16_t {
            // SAFETY: `self` vouches for the instructions.
            unsafe { vshlq_u8(v, vdupq_n_s8(n as i8)) }
        }

        #[inline(always)]
        fn down(self, v: uint8x16_t, n: u32) -> uint8x16_t {
            // SAFETY: `self` vouches for the instructions.
            unsafe { vshlq_u8(v, vdupq_n_s8(-(n as i8))) }
        }

        #[inline(always)]
        fn look_up(self, v: uint8x16_t, table: &[i8; 16]) -> uint8x16_t {
            // SAFETY: `self` vouches for the instructions; the table has 16 bytes.
            unsafe { vqtbl1q_u8(vld1q_u8(table.as_ptr().cast()), v) }
        }

        #[inline(always)]
        unsafe fn spread(self, at: *const u8) -> uint8x16_t {
            // SAFETY: the caller vouches for the bytes, `self` for the instruction.
            unsafe { vreinterpretq_u8_u32(vdupq_n_u32(at.cast::<u32>().read_unaligned())) }
        }

        #[inline(always)]
        fn pair(self, acc: int32x4_t, weights: int32x4_t, x: uint8x16_t) -> int32x4_t {
            // SAFETY: `self` vouches for the instructions.
            unsafe {
                let (weights, x) = (vreinterpretq_s16_s32(weights), vreinterpretq_s16_u8(x));
                let low = vmull_s16(vget_low_s16(weights), vget_low_s16(x));
                vaddq_s32(acc, vpaddq_s32(low, vmull_high_s16(weights, x)))
            }
        }

        #[inline(always)]
        fn zero(self) -> int32x4_t {
            // SAFETY: `self` vouches for the instruction.
            unsafe { vdupq_n_s32(0) }
        }

        #[inline(always)]
        unsafe fn load_ints(self, at: *const u32) -> int32x4_t {
            // SAFETY: the caller vouches for the integers, `self` for the instruction.
            unsafe { vld1q_s32(at.cast()) }
        }

        #[inline(always)]
        fn floats(self, v: int32x4_t) -> float32x4_t {
            // SAFETY: `self` vouches for the instruction.
            unsafe { vcvtq_f32_s32(v) }
        }

        #[inline(always)]
        fn splat(self, v: f32) -> float32x4_t {
            // SAFETY: `self` vouches for the instruction.
            unsafe { vdupq_n_f32(v) }
        }

        #[inline(always)]
        unsafe fn load_floats(self, at: *const f32) -> float32x4_t {
            // SAFETY: the caller vouches for the floats, `self` for the instruction.
            unsafe { vld1q_f32(at) }
        }

        #[inline(always)]
        unsafe fn load_halves(self, at: *const u16) -> float32x4_t {
            // SAFETY: the caller vouches for the halves, `self` for the instructions.
            unsafe { vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(at))) }
        }

        #[inline(always)]
        unsafe fn load_bfloats(self, at: *const u16) -> float32x4_t {
            // SAFETY: the caller vouches for the bfloats, `self` for the instructions.
            unsafe { vreinterpretq_f32_u32(vshll_n_u16::<16>(vld1_u16(at))) }
        }

        #[inline(always)]
        unsafe fn store_floats(self, v: float32x4_t, at: *mut f32) {
            // SAFETY: the caller vouches for the floats, `self` for the instruction.
            unsafe { vst1q_f32(at, v) }
        }

        #[inline(always)]
        fn add(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
            // SAFETY: `self` vouches for the instruction.
            unsafe { vaddq_f32(a, b) }
        }

        #[inline(always)]
        fn sub(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
            // SAFETY: `self` vouches for the instruction.
            unsafe { vsubq_f32(a, b) }
        }

        #[inline(always)]
        fn mul(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
            // SAFETY: `self` vouches for the instruction.
            unsafe { vmulq_f32(a, b) }
        }

        #[inline(always)]
        fn prefetch(self, at: *const u8) {
            // SAFETY: prefetching never faults.
            unsafe { asm!("prfm pldl1keep, [{at}]", at = in(reg) at, options(nostack, preserves_flags, readonly)) }
        }
    };
}

impl Simd for Neon {
    shared!();

    const TOKENS: usize = 3;
    const WIDE: bool = false;
    const BIASED: bool = false;

    type Partial = Columns;

    /// Columns 0 and 1 take from the lane of column 0, columns 2 and 3 from that of column 2.
    #[inline(always)]
    unsafe fn begin(self, offset: i16, halves: *const Pair, _: *const i32) -> Columns {
        // SAFETY: the caller vouches for the pair, `self` for the instructions.
        unsafe {
            let halves = self.spread(halves.cast());
            let halves = vmul_n_s16(vreinterpret_s16_u8(vget_low_u8(halves)), -offset);
            let rest = vreinterpretq_s16_u32(vmovl_u16(vreinterpret_u16_s16(halves)));
            Columns(rest, rest)
        }
    }

    #[inline(always)]
    fn begin_zero(self) -> Columns {
        // SAFETY: `self` vouches for the instruction.
        unsafe { Columns(vdupq_n_s16(0), vdupq_n_s16(0)) }
    }

    /// Codes are at most 63, so they are the same as signed bytes.
    #[inline(always)]
    fn step(self, sum: Columns, codes: uint8x16_t, x: uint8x16_t) -> Columns {
        // SAFETY: `self` vouches for the instructions.
        unsafe {
            let (codes, x) = (vreinterpretq_s8_u8(codes), vreinterpretq_s8_u8(x));
            let low = vmlal_s8(sum.0, vget_low_s8(codes), vget_low_s8(x));
            Columns(low, vmlal_high_s8(sum.1, codes, x))
        }
    }

    #[inline(always)]
    fn end(self, acc: int32x4_t, sum: Columns) -> int32x4_t {
        // SAFETY: `self` vouches for the instructions.
        unsafe { vaddq_s32(acc, vpaddq_s32(vpaddlq_s16(sum.0), vpaddlq_s16(sum.1))) }
    }

    #[inline(always)]
    fn end_scaled(self, acc: int32x4_t, sum: Columns, scale: int32x4_t) -> int32x4_t {
        // SAFETY: `self` vouches for the instructions.
        unsafe { vmlaq_s32(acc, self.end(self.zero(), sum), vshrq_n_s32::<16>(scale)) }
    }

    /// Two products are at most `2 * 128 * 127`, which fits 16 bits.
    #[inline(always)]
    fn signed(self, acc: int32x4_t, codes: uint8x16_t, x: uint8x16_t) -> int32x4_t {
        // SAFETY: `self` vouches for the instructions.
        unsafe {
            let (codes, x) = (vreinterpretq_s8_u8(codes), vreinterpretq_s8_u8(x));
            let low = vmull_s8(vget_low_s8(codes), vget_low_s8(x));
            vpadalq_s16(acc, vpaddq_s16(low, vmull_high_s8(codes, x)))
        }
    }
}

impl Simd for NeonDot {
    shared!();

    const TOKENS: usize = 4;
    const WIDE: bool = true;
    const BIASED: bool = false;

    type Partial = int32x4_t;

    #[inline(always)]
    unsafe fn begin(self, offset: i16, _: *const Pair, negated: *const i32) -> int32x4_t {
        // SAFETY: the caller vouches for the sum, `self` for the instruction.
        unsafe { vdupq_n_s32(*negated * i32::from(offset)) }
    }

    #[inline(always)]
    fn begin_zero(self) -> int32x4_t {
        self.zero()
    }

    /// Codes are at most 63, so they are the same as signed bytes.
    #[inline(always)]
    fn step(self, sum: int32x4_t, codes: uint8x16_t, x: uint8x16_t) -> int32x4_t {
        self.signed(sum, codes, x)
    }

    #[inline(always)]
    fn end(self, acc: int32x4_t, sum: int32x4_t) -> int32x4_t {
        // SAFETY: `self` vouches for the instruction.
        unsafe { vaddq_s32(acc, sum) }
    }

    #[inline(always)]
    fn end_scaled(self, acc: int32x4_t, sum: int32x4_t, scale: int32x4_t) -> int32x4_t {
        // SAFETY: `self` vouches for the instructions.
        unsafe { vmlaq_s32(acc, sum, vshrq_n_s32::<16>(scale)) }
    }

    #[inline(always)]
    fn signed(self, mut acc: int32x4_t, codes: uint8x16_t, x: uint8x16_t) -> int32x4_t {
        // SAFETY: `self` vouches for the instruction, which does nothing but compute `acc`.
        unsafe {
            asm!(
                "sdot {acc:v}.4s, {codes:v}.16b, {x:v}.16b",
                acc = inout(vreg) acc,
                codes = in(vreg) codes,
                x = in(vreg) x,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
        acc
    }
}
