//! Eight rows a vector: AVX2, with or without AVX-VNNI.
//!
//! Without VNNI a sub-block is summed in 16 bits: `vpmaddubsw` adds two products, and the bounds in
//! [`Simd::end`] leave room for the rest. 16-bit additions wrap, so only the whole sum has to fit.

use super::{Kernel, Simd};
use crate::activations::Pair;
use std::arch::x86_64::*;

/// Runs `kernel` with AVX2.
///
/// # Safety
/// The machine has AVX2 and F16C.
#[target_feature(enable = "avx2,f16c")]
pub(super) unsafe fn run<K: Kernel>(kernel: K) {
    kernel.run(Avx2(()));
}

/// Runs `kernel` with AVX2 and AVX-VNNI.
///
/// # Safety
/// The machine has AVX2, F16C and AVX-VNNI.
#[target_feature(enable = "avx2,f16c,avxvnni")]
pub(super) unsafe fn run_vnni<K: Kernel>(kernel: K) {
    kernel.run(Avx2Vnni(()));
}

/// Witness of AVX2 and F16C.
#[derive(Clone, Copy)]
pub(super) struct Avx2(());

/// Witness of AVX2, F16C and AVX-VNNI.
#[derive(Clone, Copy)]
pub(super) struct Avx2Vnni(());

/// What both have in common.
macro_rules! shared {
    () => {
        const LANES: usize = 8;
        const ROWS: usize = 2;

        type Bytes = __m256i;
        type Ints = __m256i;
        type Floats = __m256;
        type Partial = __m256i;

        #[inline(always)]
        unsafe fn load(self, at: *const u8) -> __m256i {
            // SAFETY: the caller vouches for the bytes, `self` for the instruction.
            unsafe { _mm256_loadu_si256(at.cast()) }
        }

        #[inline(always)]
        unsafe fn store(self, v: __m256i, at: *mut u8) {
            // SAFETY: the caller vouches for the bytes, `self` for the instruction.
            unsafe { _mm256_storeu_si256(at.cast(), v) }
        }

        #[inline(always)]
        fn and(self, v: __m256i, mask: u8) -> __m256i {
            // SAFETY: `self` vouches for the instructions.
            unsafe { _mm256_and_si256(v, _mm256_set1_epi8(mask as i8)) }
        }

        #[inline(always)]
        fn or(self, a: __m256i, b: __m256i) -> __m256i {
            // SAFETY: `self` vouches for the instructions.
            unsafe { _mm256_or_si256(a, b) }
        }

        #[inline(always)]
        fn flip(self, v: __m256i, mask: u8) -> __m256i {
            // SAFETY: `self` vouches for the instructions.
            unsafe { _mm256_xor_si256(v, _mm256_set1_epi8(mask as i8)) }
        }

        #[inline(always)]
        fn up(self, v: __m256i, n: u32) -> __m256i {
            // SAFETY: `self` vouches for the instructions.
            unsafe { _mm256_sll_epi16(v, _mm_cvtsi32_si128(n as i32)) }
        }

        #[inline(always)]
        fn down(self, v: __m256i, n: u32) -> __m256i {
            // SAFETY: `self` vouches for the instructions.
            unsafe { _mm256_srl_epi16(v, _mm_cvtsi32_si128(n as i32)) }
        }

        #[inline(always)]
        fn look_up(self, v: __m256i, table: &[i8; 16]) -> __m256i {
            // SAFETY: `self` vouches for the instructions; the table has 16 bytes.
            unsafe {
                let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
                _mm256_shuffle_epi8(table, v)
            }
        }

        /// Rows are loaded so that what is left to do stays within each half of a vector.
        #[inline(always)]
        unsafe fn words(self, at: *const u8, stride: usize) -> [__m256i; 4] {
            // SAFETY: the caller vouches for 16 bytes of each of 8 rows, `self` for the instructions.
            unsafe {
                let row = |n: usize| _mm_loadu_si128(at.add(n * stride).cast());
                let two = |n: usize| _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(row(n)), row(n + 4));
                let (a, b, c, d) = (two(0), two(1), two(2), two(3));
                let (ab, cd) = (_mm256_unpacklo_epi32(a, b), _mm256_unpacklo_epi32(c, d));
                let (more_ab, more_cd) = (_mm256_unpackhi_epi32(a, b), _mm256_unpackhi_epi32(c, d));
                [
                    _mm256_unpacklo_epi64(ab, cd),
                    _mm256_unpackhi_epi64(ab, cd),
                    _mm256_unpacklo_epi64(more_ab, more_cd),
                    _mm256_unpackhi_epi64(more_ab, more_cd),
                ]
            }
        }

        #[inline(always)]
        unsafe fn spread(self, at: *const u8) -> __m256i {
            // SAFETY: the caller vouches for the bytes, `self` for the instructions.
            unsafe { _mm256_set1_epi32(at.cast::<i32>().read_unaligned()) }
        }

        #[inline(always)]
        fn begin_zero(self) -> __m256i {
            self.zero()
        }

        #[inline(always)]
        fn pair(self, acc: __m256i, weights: __m256i, x: __m256i) -> __m256i {
            // SAFETY: `self` vouches for the instructions.
            unsafe { _mm256_add_epi32(acc, _mm256_madd_epi16(weights, x)) }
        }

        #[inline(always)]
        unsafe fn minima(self, one: *const u8, next: *const u8, to: *mut u32) {
            // SAFETY: the caller vouches for 8 bytes, twice, and 8 words, `self` for the instructions.
            unsafe {
                let one = _mm256_cvtepu8_epi32(_mm_loadl_epi64(one.cast()));
                let next = _mm256_cvtepu8_epi32(_mm_loadl_epi64(next.cast()));
                _mm256_storeu_si256(
                    to.cast(),
                    _mm256_or_si256(one, _mm256_slli_epi32::<16>(next)),
                );
            }
        }

        #[inline(always)]
        fn zero(self) -> __m256i {
            // SAFETY: `self` vouches for the instruction.
            unsafe { _mm256_setzero_si256() }
        }

        #[inline(always)]
        unsafe fn load_ints(self, at: *const u32) -> __m256i {
            // SAFETY: the caller vouches for the integers, `self` for the instruction.
            unsafe { _mm256_loadu_si256(at.cast()) }
        }

        #[inline(always)]
        fn floats(self, v: __m256i) -> __m256 {
            // SAFETY: `self` vouches for the instruction.
            unsafe { _mm256_cvtepi32_ps(v) }
        }

        #[inline(always)]
        fn splat(self, v: f32) -> __m256 {
            // SAFETY: `self` vouches for the instruction.
            unsafe { _mm256_set1_ps(v) }
        }

        #[inline(always)]
        unsafe fn load_floats(self, at: *const f32) -> __m256 {
            // SAFETY: the caller vouches for the floats, `self` for the instruction.
            unsafe { _mm256_loadu_ps(at) }
        }

        #[inline(always)]
        unsafe fn load_halves(self, at: *const u16) -> __m256 {
            // SAFETY: the caller vouches for the halves, `self` for the instructions.
            unsafe { _mm256_cvtph_ps(_mm_loadu_si128(at.cast())) }
        }

        #[inline(always)]
        unsafe fn load_bfloats(self, at: *const u16) -> __m256 {
            // SAFETY: the caller vouches for the bfloats, `self` for the instructions.
            unsafe {
                let bits = _mm256_cvtepu16_epi32(_mm_loadu_si128(at.cast()));
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(bits))
            }
        }

        #[inline(always)]
        unsafe fn store_floats(self, v: __m256, at: *mut f32) {
            // SAFETY: the caller vouches for the floats, `self` for the instruction.
            unsafe { _mm256_storeu_ps(at, v) }
        }

        #[inline(always)]
        fn add(self, a: __m256, b: __m256) -> __m256 {
            // SAFETY: `self` vouches for the instruction.
            unsafe { _mm256_add_ps(a, b) }
        }

        #[inline(always)]
        fn sub(self, a: __m256, b: __m256) -> __m256 {
            // SAFETY: `self` vouches for the instruction.
            unsafe { _mm256_sub_ps(a, b) }
        }

        #[inline(always)]
        fn mul(self, a: __m256, b: __m256) -> __m256 {
            // SAFETY: `self` vouches for the instruction.
            unsafe { _mm256_mul_ps(a, b) }
        }

        #[inline(always)]
        fn prefetch(self, at: *const u8) {
            // SAFETY: prefetching never faults.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
        }
    };
}

impl Simd for Avx2 {
    shared!();

    const TOKENS: usize = 4;
    const WIDE: bool = false;
    const BIASED: bool = false;

    #[inline(always)]
    unsafe fn begin(self, offset: i16, halves: *const Pair, _: *const i32) -> __m256i {
        // SAFETY: the caller vouches for the pair, `self` for the instructions.
        unsafe { _mm256_mullo_epi16(self.spread(halves.cast()), _mm256_set1_epi16(-offset)) }
    }

    #[inline(always)]
    fn step(self, sum: __m256i, codes: __m256i, x: __m256i) -> __m256i {
        // SAFETY: `self` vouches for the instructions.
        unsafe { _mm256_add_epi16(sum, _mm256_maddubs_epi16(codes, x)) }
    }

    #[inline(always)]
    fn end(self, acc: __m256i, sum: __m256i) -> __m256i {
        // SAFETY: `self` vouches for the instructions.
        unsafe { _mm256_add_epi32(acc, _mm256_madd_epi16(sum, _mm256_set1_epi16(1))) }
    }

    #[inline(always)]
    fn end_scaled(self, acc: __m256i, sum: __m256i, scale: __m256i) -> __m256i {
        // SAFETY: `self` vouches for the instructions.
        unsafe { _mm256_add_epi32(acc, _mm256_madd_epi16(sum, scale)) }
    }

    #[inline(always)]
    unsafe fn scales(self, bytes: *const i8, to: *mut u32) {
        // SAFETY: the caller vouches for 8 bytes and 8 words, `self` for the instructions.
        unsafe {
            let one = _mm256_cvtepi8_epi32(_mm_loadl_epi64(bytes.cast()));
            let pair = _mm256_blend_epi16::<0b1010_1010>(one, _mm256_slli_epi32::<16>(one));
            _mm256_storeu_si256(to.cast(), pair);
        }
    }

    /// The sign of each code moves to its activation. A code of -128 becomes 128 as an unsigned byte, and two
    /// products are at most `2 * 128 * 127`, which fits 16 bits.
    #[inline(always)]
    fn signed(self, acc: __m256i, codes: __m256i, x: __m256i) -> __m256i {
        // SAFETY: `self` vouches for the instructions.
        unsafe {
            let products = _mm256_maddubs_epi16(_mm256_abs_epi8(codes), _mm256_sign_epi8(x, codes));
            _mm256_add_epi32(acc, _mm256_madd_epi16(products, _mm256_set1_epi16(1)))
        }
    }
}

impl Simd for Avx2Vnni {
    shared!();

    const TOKENS: usize = 4;
    const WIDE: bool = true;
    const BIASED: bool = true;

    #[inline(always)]
    unsafe fn begin(self, offset: i16, _: *const Pair, negated: *const i32) -> __m256i {
        // SAFETY: the caller vouches for the sum, `self` for the instructions.
        unsafe { _mm256_mullo_epi32(_mm256_set1_epi32(*negated), _mm256_set1_epi32(offset.into())) }
    }

    #[inline(always)]
    fn step(self, sum: __m256i, codes: __m256i, x: __m256i) -> __m256i {
        // SAFETY: `self` vouches for the instruction.
        unsafe { _mm256_dpbusd_avx_epi32(sum, codes, x) }
    }

    #[inline(always)]
    fn end(self, acc: __m256i, sum: __m256i) -> __m256i {
        // SAFETY: `self` vouches for the instruction.
        unsafe { _mm256_add_epi32(acc, sum) }
    }

    #[inline(always)]
    fn end_scaled(self, acc: __m256i, sum: __m256i, scale: __m256i) -> __m256i {
        // SAFETY: `self` vouches for the instructions.
        unsafe { _mm256_add_epi32(acc, _mm256_mullo_epi32(sum, scale)) }
    }

    #[inline(always)]
    unsafe fn scales(self, bytes: *const i8, to: *mut u32) {
        // SAFETY: the caller vouches for 8 bytes and 8 words, `self` for the instructions.
        unsafe { _mm256_storeu_si256(to.cast(), _mm256_cvtepi8_epi32(_mm_loadl_epi64(bytes.cast()))) }
    }

    #[inline(always)]
    fn signed(self, acc: __m256i, codes: __m256i, x: __m256i) -> __m256i {
        // SAFETY: `self` vouches for the instructions.
        unsafe { _mm256_dpbusd_avx_epi32(acc, _mm256_abs_epi8(codes), _mm256_sign_epi8(x, codes)) }
    }
}
