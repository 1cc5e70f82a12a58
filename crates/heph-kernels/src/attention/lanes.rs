//! The few vector operations that attention is made of, once for each instruction set.
//!
//! Products and sums stay apart: none of these may be fused, by hand or by the compiler.

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
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    /// Half-precision numbers, widened.
    unsafe fn halves(from: *const u16) -> Self::V;
    /// 8-bit integers as numbers.
    unsafe fn codes(from: *const i8) -> Self::V;
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
    unsafe fn mul(a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        [a[0] * b[0], a[1] * b[1], a[2] * b[2], a[3] * b[3]]
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
        unsafe fn mul(a: __m256, b: __m256) -> __m256 {
            // SAFETY: the machine has AVX2 (contract).
            unsafe { _mm256_mul_ps(a, b) }
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
        unsafe fn mul(a: __m512, b: __m512) -> __m512 {
            // SAFETY: the machine has AVX-512 (contract).
            unsafe { _mm512_mul_ps(a, b) }
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
        unsafe fn mul(a: float32x4_t, b: float32x4_t) -> float32x4_t {
            // SAFETY: the machine has NEON (contract).
            unsafe { vmulq_f32(a, b) }
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
        unsafe fn mul(a: v128, b: v128) -> v128 {
            f32x4_mul(a, b)
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
