//! The few vector operations that attention is made of, once for each instruction set.
//!
//! Products and sums stay apart: none of these may be fused, by hand or by the compiler.

use std::f32::consts::LOG2_E;

use crate::math::{EXP_MIN, EXP_TERMS, LN2_HIGH, LN2_LOW, ROUND};

/// Vectors of `f32` of one instruction set.
///
/// # Safety
/// Every function requires that the machine has the instruction set, and that a pointer is good for
/// `WIDTH` numbers. No alignment is required.
pub(super) trait Lanes: Copy {
    /// Numbers of one vector; 4, 8 or 16.
    const WIDTH: usize;
    /// A vector.
    type V: Copy;

    /// The same number in each lane.
    unsafe fn splat(x: f32) -> Self::V;
    unsafe fn load(from: *const f32) -> Self::V;
    unsafe fn store(v: Self::V, to: *mut f32);
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    /// `a` where it is the larger, else `b`: a NaN in `a` is passed over.
    unsafe fn larger(a: Self::V, b: Self::V) -> Self::V;
    /// `p` with the lowest bits of `shifted`, a sum with [`ROUND`], added to its exponent.
    unsafe fn raise(p: Self::V, shifted: Self::V) -> Self::V;
    /// `v` where `x >= least`, NaN where `x` is NaN, else 0.
    unsafe fn where_at_least(x: Self::V, least: Self::V, v: Self::V) -> Self::V;
    /// Half-precision numbers, widened.
    unsafe fn halves(from: *const u16) -> Self::V;
    /// 8-bit integers as numbers.
    unsafe fn codes(from: *const i8) -> Self::V;
    /// The sum of 16 numbers by halves: `j` and `j + 8`, then `j + 4`, `j + 2`, `j + 1`.
    #[inline(always)]
    unsafe fn tree(from: *const f32) -> f32 {
        assert!(Self::WIDTH == 4, "wider vectors have their own");
        let mut four = [0.0; 4];
        // SAFETY: good for 16 numbers (contract).
        unsafe {
            let low = Self::add(Self::load(from), Self::load(from.add(8)));
            let high = Self::add(Self::load(from.add(4)), Self::load(from.add(12)));
            Self::store(Self::add(low, high), four.as_mut_ptr());
        }
        (four[0] + four[2]) + (four[1] + four[3])
    }
    /// [`crate::math::exp`] of numbers that are not above 0, or NaN.
    #[inline(always)]
    unsafe fn exp_not_above_zero(x: Self::V) -> Self::V {
        let [t6, t5, t4, t3, t2] = EXP_TERMS;
        // SAFETY: the machine has the instruction set (contract).
        unsafe {
            let least = Self::splat(EXP_MIN);
            let bounded = Self::larger(x, least);
            let shifted = Self::add(Self::mul(bounded, Self::splat(LOG2_E)), Self::splat(ROUND));
            let n = Self::sub(shifted, Self::splat(ROUND));
            let r = Self::sub(bounded, Self::mul(n, Self::splat(LN2_HIGH)));
            let r = Self::sub(r, Self::mul(n, Self::splat(LN2_LOW)));
            let q = Self::add(Self::mul(Self::splat(t6), r), Self::splat(t5));
            let q = Self::add(Self::mul(q, r), Self::splat(t4));
            let q = Self::add(Self::mul(q, r), Self::splat(t3));
            let q = Self::add(Self::mul(q, r), Self::splat(t2));
            let p = Self::add(Self::add(Self::mul(q, Self::mul(r, r)), r), Self::splat(1.0));
            Self::where_at_least(x, least, Self::raise(p, shifted))
        }
    }
    /// Asks for the cache line at `from`, which need not exist.
    #[inline(always)]
    fn prefetch(_from: *const u8) {}
}

/// Plain code for any machine.
#[derive(Clone, Copy)]
pub(super) struct Plain;

impl Lanes for Plain {
    const WIDTH: usize = 4;
    type V = [f32; 4];

    #[inline(always)]
    unsafe fn splat(x: f32) -> [f32; 4] {
        [x; 4]
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> [f32; 4] {
        // SAFETY: good for 4 numbers (contract).
        unsafe { from.cast::<[f32; 4]>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn store(v: [f32; 4], to: *mut f32) {
        // SAFETY: good for 4 numbers (contract).
        unsafe { to.cast::<[f32; 4]>().write_unaligned(v) }
    }

    #[inline(always)]
    unsafe fn add(a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        [a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3]]
    }

    #[inline(always)]
    unsafe fn sub(a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        [a[0] - b[0], a[1] - b[1], a[2] - b[2], a[3] - b[3]]
    }

    #[inline(always)]
    unsafe fn mul(a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        [a[0] * b[0], a[1] * b[1], a[2] * b[2], a[3] * b[3]]
    }

    #[inline(always)]
    unsafe fn larger(a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        let pick = |a: f32, b: f32| if a > b { a } else { b };
        [
            pick(a[0], b[0]),
            pick(a[1], b[1]),
            pick(a[2], b[2]),
            pick(a[3], b[3]),
        ]
    }

    #[inline(always)]
    unsafe fn raise(p: [f32; 4], shifted: [f32; 4]) -> [f32; 4] {
        let raise = |p: f32, shifted: f32| f32::from_bits(p.to_bits().wrapping_add(shifted.to_bits() << 23));
        [
            raise(p[0], shifted[0]),
            raise(p[1], shifted[1]),
            raise(p[2], shifted[2]),
            raise(p[3], shifted[3]),
        ]
    }

    #[inline(always)]
    unsafe fn where_at_least(x: [f32; 4], least: [f32; 4], v: [f32; 4]) -> [f32; 4] {
        let pick = |x: f32, least: f32, v: f32| if x >= least { v } else { 0.0 };
        let nan = |x: f32, v: f32| if x.is_nan() { f32::NAN } else { v };
        let pick = |i: usize| nan(x[i], pick(x[i], least[i], v[i]));
        [pick(0), pick(1), pick(2), pick(3)]
    }

    #[inline(always)]
    unsafe fn halves(from: *const u16) -> [f32; 4] {
        // SAFETY: good for 4 numbers (contract).
        unsafe { from.cast::<[u16; 4]>().read_unaligned() }.map(crate::kv::from_half)
    }

    #[inline(always)]
    unsafe fn codes(from: *const i8) -> [f32; 4] {
        // SAFETY: good for 4 numbers (contract).
        unsafe { from.cast::<[i8; 4]>().read_unaligned() }.map(f32::from)
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) mod x86 {
    use super::Lanes;
    use std::arch::x86_64::*;

    /// The last three levels of [`Lanes::tree`].
    ///
    /// # Safety
    /// The machine has AVX.
    #[inline(always)]
    unsafe fn tree_of_eight(v: __m256) -> f32 {
        // SAFETY: the machine has AVX (contract).
        unsafe {
            let four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        }
    }

    /// 256 bits: AVX2 and F16C.
    #[derive(Clone, Copy)]
    pub(in crate::attention) struct Avx2;

    impl Lanes for Avx2 {
        const WIDTH: usize = 8;
        type V = __m256;

        #[inline(always)]
        unsafe fn splat(x: f32) -> __m256 {
            // SAFETY: the machine has AVX2 (contract).
            unsafe { _mm256_set1_ps(x) }
        }

        #[inline(always)]
        unsafe fn load(from: *const f32) -> __m256 {
            // SAFETY: good for 8 numbers (contract).
            unsafe { _mm256_loadu_ps(from) }
        }

        #[inline(always)]
        unsafe fn store(v: __m256, to: *mut f32) {
            // SAFETY: good for 8 numbers (contract).
            unsafe { _mm256_storeu_ps(to, v) }
        }

        #[inline(always)]
        unsafe fn add(a: __m256, b: __m256) -> __m256 {
            // SAFETY: the machine has AVX2 (contract).
            unsafe { _mm256_add_ps(a, b) }
        }

        #[inline(always)]
        unsafe fn sub(a: __m256, b: __m256) -> __m256 {
            // SAFETY: the machine has AVX2 (contract).
            unsafe { _mm256_sub_ps(a, b) }
        }

        #[inline(always)]
        unsafe fn mul(a: __m256, b: __m256) -> __m256 {
            // SAFETY: the machine has AVX2 (contract).
            unsafe { _mm256_mul_ps(a, b) }
        }

        #[inline(always)]
        unsafe fn larger(a: __m256, b: __m256) -> __m256 {
            // SAFETY: the machine has AVX2 (contract). The instruction gives `b` unless `a > b`.
            unsafe { _mm256_max_ps(a, b) }
        }

        #[inline(always)]
        unsafe fn tree(from: *const f32) -> f32 {
            // SAFETY: good for 16 numbers, the machine has AVX2 (contract).
            unsafe { tree_of_eight(_mm256_add_ps(_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8)))) }
        }

        #[inline(always)]
        unsafe fn raise(p: __m256, shifted: __m256) -> __m256 {
            // SAFETY: the machine has AVX2 (contract).
            unsafe {
                let exponent = _mm256_slli_epi32::<23>(_mm256_castps_si256(shifted));
                _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), exponent))
            }
        }

        #[inline(always)]
        unsafe fn where_at_least(x: __m256, least: __m256, v: __m256) -> __m256 {
            // SAFETY: the machine has AVX2 (contract). A NaN has all bits set.
            unsafe {
                let kept = _mm256_and_ps(v, _mm256_cmp_ps::<_CMP_GE_OQ>(x, least));
                _mm256_or_ps(kept, _mm256_cmp_ps::<_CMP_UNORD_Q>(x, x))
            }
        }

        #[inline(always)]
        unsafe fn halves(from: *const u16) -> __m256 {
            // SAFETY: good for 8 numbers, the machine has F16C (contract).
            unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.cast())) }
        }

        #[inline(always)]
        unsafe fn codes(from: *const i8) -> __m256 {
            // SAFETY: good for 8 numbers, the machine has AVX2 (contract).
            unsafe { _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(from.cast()))) }
        }

        #[inline(always)]
        fn prefetch(from: *const u8) {
            // SAFETY: a prefetch reads nothing and never faults.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(from.cast()) }
        }
    }

    /// 512 bits: AVX-512 F.
    #[derive(Clone, Copy)]
    pub(in crate::attention) struct Avx512;

    impl Lanes for Avx512 {
        const WIDTH: usize = 16;
        type V = __m512;

        #[inline(always)]
        unsafe fn splat(x: f32) -> __m512 {
            // SAFETY: the machine has AVX-512 (contract).
            unsafe { _mm512_set1_ps(x) }
        }

        #[inline(always)]
        unsafe fn load(from: *const f32) -> __m512 {
            // SAFETY: good for 16 numbers (contract).
            unsafe { _mm512_loadu_ps(from) }
        }

        #[inline(always)]
        unsafe fn store(v: __m512, to: *mut f32) {
            // SAFETY: good for 16 numbers (contract).
            unsafe { _mm512_storeu_ps(to, v) }
        }

        #[inline(always)]
        unsafe fn add(a: __m512, b: __m512) -> __m512 {
            // SAFETY: the machine has AVX-512 (contract).
            unsafe { _mm512_add_ps(a, b) }
        }

        #[inline(always)]
        unsafe fn sub(a: __m512, b: __m512) -> __m512 {
            // SAFETY: the machine has AVX-512 (contract).
            unsafe { _mm512_sub_ps(a, b) }
        }

        #[inline(always)]
        unsafe fn mul(a: __m512, b: __m512) -> __m512 {
            // SAFETY: the machine has AVX-512 (contract).
            unsafe { _mm512_mul_ps(a, b) }
        }

        #[inline(always)]
        unsafe fn larger(a: __m512, b: __m512) -> __m512 {
            // SAFETY: the machine has AVX-512 (contract). The instruction gives `b` unless `a > b`.
            unsafe { _mm512_max_ps(a, b) }
        }

        #[inline(always)]
        unsafe fn tree(from: *const f32) -> f32 {
            // SAFETY: good for 16 numbers, the machine has AVX (contract).
            unsafe { tree_of_eight(_mm256_add_ps(_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8)))) }
        }

        #[inline(always)]
        unsafe fn raise(p: __m512, shifted: __m512) -> __m512 {
            // SAFETY: the machine has AVX-512 (contract).
            unsafe {
                let exponent = _mm512_slli_epi32::<23>(_mm512_castps_si512(shifted));
                _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(p), exponent))
            }
        }

        #[inline(always)]
        unsafe fn where_at_least(x: __m512, least: __m512, v: __m512) -> __m512 {
            // SAFETY: the machine has AVX-512 (contract).
            unsafe {
                let kept = _mm512_maskz_mov_ps(_mm512_cmp_ps_mask::<_CMP_GE_OQ>(x, least), v);
                let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x);
                _mm512_mask_mov_ps(kept, nan, _mm512_set1_ps(f32::NAN))
            }
        }

        #[inline(always)]
        unsafe fn halves(from: *const u16) -> __m512 {
            // SAFETY: good for 16 numbers (contract).
            unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) }
        }

        #[inline(always)]
        unsafe fn codes(from: *const i8) -> __m512 {
            // SAFETY: good for 16 numbers (contract).
            unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.cast()))) }
        }

        #[inline(always)]
        fn prefetch(from: *const u8) {
            // SAFETY: a prefetch reads nothing and never faults.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(from.cast()) }
        }
    }
}

#[cfg(target_arch = "aarch64")]
pub(super) mod arm {
    use super::Lanes;
    use std::arch::aarch64::*;
    use std::arch::asm;

    /// 128 bits, part of every 64-bit ARM.
    #[derive(Clone, Copy)]
    pub(in crate::attention) struct Neon;

    impl Lanes for Neon {
        const WIDTH: usize = 4;
        type V = float32x4_t;

        #[inline(always)]
        unsafe fn splat(x: f32) -> float32x4_t {
            // SAFETY: the machine has NEON (contract).
            unsafe { vdupq_n_f32(x) }
        }

        #[inline(always)]
        unsafe fn load(from: *const f32) -> float32x4_t {
            // SAFETY: good for 4 numbers (contract).
            unsafe { vld1q_f32(from) }
        }

        #[inline(always)]
        unsafe fn store(v: float32x4_t, to: *mut f32) {
            // SAFETY: good for 4 numbers (contract).
            unsafe { vst1q_f32(to, v) }
        }

        #[inline(always)]
        unsafe fn add(a: float32x4_t, b: float32x4_t) -> float32x4_t {
            // SAFETY: the machine has NEON (contract).
            unsafe { vaddq_f32(a, b) }
        }

        #[inline(always)]
        unsafe fn sub(a: float32x4_t, b: float32x4_t) -> float32x4_t {
            // SAFETY: the machine has NEON (contract).
            unsafe { vsubq_f32(a, b) }
        }

        #[inline(always)]
        unsafe fn mul(a: float32x4_t, b: float32x4_t) -> float32x4_t {
            // SAFETY: the machine has NEON (contract).
            unsafe { vmulq_f32(a, b) }
        }

        #[inline(always)]
        unsafe fn larger(a: float32x4_t, b: float32x4_t) -> float32x4_t {
            // SAFETY: the machine has NEON (contract).
            unsafe { vbslq_f32(vcgtq_f32(a, b), a, b) }
        }

        #[inline(always)]
        unsafe fn raise(p: float32x4_t, shifted: float32x4_t) -> float32x4_t {
            // SAFETY: the machine has NEON (contract).
            unsafe {
                let exponent = vshlq_n_u32::<23>(vreinterpretq_u32_f32(shifted));
                vreinterpretq_f32_u32(vaddq_u32(vreinterpretq_u32_f32(p), exponent))
            }
        }

        #[inline(always)]
        unsafe fn where_at_least(x: float32x4_t, least: float32x4_t, v: float32x4_t) -> float32x4_t {
            // SAFETY: the machine has NEON (contract). A NaN has all bits set.
            unsafe {
                let kept = vandq_u32(vreinterpretq_u32_f32(v), vcgeq_f32(x, least));
                vreinterpretq_f32_u32(vornq_u32(kept, vceqq_f32(x, x)))
            }
        }

        #[inline(always)]
        unsafe fn halves(from: *const u16) -> float32x4_t {
            // SAFETY: good for 4 numbers (contract).
            let halves = unsafe { vld1_u16(from) };
            let wide: float32x4_t;
            // SAFETY: the instruction only widens a register; the intrinsic for it is not stable yet.
            unsafe {
                asm!("fcvtl {wide:v}.4s, {halves:v}.4h", wide = out(vreg) wide, halves = in(vreg) halves,
                    options(pure, nomem, nostack, preserves_flags));
            }
            wide
        }

        #[inline(always)]
        unsafe fn codes(from: *const i8) -> float32x4_t {
            // SAFETY: good for 4 numbers (contract).
            let four = unsafe { from.cast::<[i8; 4]>().read_unaligned() }.map(i32::from);
            // SAFETY: an array of four integers.
            unsafe { vcvtq_f32_s32(vld1q_s32(four.as_ptr())) }
        }
    }
}

#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
pub(super) mod wasm {
    use super::Lanes;
    use std::arch::wasm32::*;

    /// 128 bits of WebAssembly.
    #[derive(Clone, Copy)]
    pub(in crate::attention) struct Simd128;

    impl Lanes for Simd128 {
        const WIDTH: usize = 4;
        type V = v128;

        #[inline(always)]
        unsafe fn splat(x: f32) -> v128 {
            f32x4_splat(x)
        }

        #[inline(always)]
        unsafe fn load(from: *const f32) -> v128 {
            // SAFETY: good for 4 numbers (contract).
            unsafe { v128_load(from.cast()) }
        }

        #[inline(always)]
        unsafe fn store(v: v128, to: *mut f32) {
            // SAFETY: good for 4 numbers (contract).
            unsafe { v128_store(to.cast(), v) }
        }

        #[inline(always)]
        unsafe fn add(a: v128, b: v128) -> v128 {
            f32x4_add(a, b)
        }

        #[inline(always)]
        unsafe fn sub(a: v128, b: v128) -> v128 {
            f32x4_sub(a, b)
        }

        #[inline(always)]
        unsafe fn mul(a: v128, b: v128) -> v128 {
            f32x4_mul(a, b)
        }

        #[inline(always)]
        unsafe fn larger(a: v128, b: v128) -> v128 {
            // `b < a ? a : b`, as the instruction is defined.
            f32x4_pmax(b, a)
        }

        #[inline(always)]
        unsafe fn raise(p: v128, shifted: v128) -> v128 {
            i32x4_add(p, i32x4_shl(shifted, 23))
        }

        #[inline(always)]
        unsafe fn where_at_least(x: v128, least: v128, v: v128) -> v128 {
            // A NaN has all bits set.
            v128_or(v128_and(v, f32x4_ge(x, least)), f32x4_ne(x, x))
        }

        #[inline(always)]
        unsafe fn halves(from: *const u16) -> v128 {
            // SAFETY: good for 4 numbers (contract).
            let h = unsafe { v128_load64_zero(from.cast()) };
            let h = u32x4_extend_low_u16x8(h);
            // As `kv::from_half`, four at a time.
            let magnitude = v128_and(h, u32x4_splat(0x7fff));
            let shifted = u32x4_shl(magnitude, 13);
            let scaled = f32x4_mul(shifted, f32x4_splat(f32::from_bits((127 + 112) << 23)));
            let special = v128_or(shifted, u32x4_splat(0x7f80_0000));
            let value = v128_bitselect(special, scaled, u32x4_ge(magnitude, u32x4_splat(0x7c00)));
            v128_or(value, u32x4_shl(v128_and(h, u32x4_splat(0x8000)), 16))
        }

        #[inline(always)]
        unsafe fn codes(from: *const i8) -> v128 {
            // SAFETY: good for 4 numbers (contract).
            let four = unsafe { v128_load32_zero(from.cast()) };
            f32x4_convert_i32x4(i32x4_extend_low_i16x8(i16x8_extend_low_i8x16(four)))
        }
    }
}
