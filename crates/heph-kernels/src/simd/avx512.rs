//! Sixteen rows a vector: AVX-512 with VNNI.

use super::{Kernel, Simd};
use crate::activations::Pair;
use std::arch::x86_64::*;

/// Runs `kernel` with AVX-512.
///
/// # Safety
/// The machine has AVX2, F16C and AVX-512 F, BW, VL and VNNI.
#[target_feature(enable = "avx2,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) unsafe fn run<K: Kernel>(kernel: K) {
    kernel.run(Avx512(()));
}

/// Witness of AVX-512 F, BW, VL and VNNI.
#[derive(Clone, Copy)]
pub(super) struct Avx512(());

/// Whether the processor unpacks codes in other pipes than it multiplies in. Those of AMD do, and a panel gains them nothing: on a Zen 4
/// products of 32 tokens are slower over one by a fifth, and those of 128 by a tenth. On Intel's, both share two pipes.
pub(crate) mod beside {
    use std::arch::x86_64::__cpuid;
    use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

    /// 0 where nobody has asked the processor yet.
    static IS: AtomicU8 = AtomicU8::new(0);

    pub(super) fn is() -> bool {
        if IS.load(Relaxed) == 0 {
            let vendor = __cpuid(0);
            let words = [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes);
            set(words.as_flattened() == b"AuthenticAMD");
        }
        IS.load(Relaxed) == 2
    }

    /// What is believed from now on; tests go both ways, whatever the processor is.
    pub(crate) fn set(is: bool) {
        IS.store(if is { 2 } else { 1 }, Relaxed);
    }
}

/// `vpdpwssd`, written out because the compiler takes it apart again into a product and a sum.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
fn pair(mut acc: __m512i, a: __m512i, b: __m512i) -> __m512i {
    // SAFETY: registers alone are read and written, by an instruction that this function may use.
    unsafe {
        std::arch::asm!(
            "vpdpwssd {acc}, {a}, {b}",
            acc = inout(zmm_reg) acc,
            a = in(zmm_reg) a,
            b = in(zmm_reg) b,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    acc
}

impl Simd for Avx512 {
    const LANES: usize = 16;
    const ROWS: usize = 1;
    const TOKENS: usize = 12;
    const WIDE: bool = true;
    const BIASED: bool = true;
    const SHORT: bool = true;

    #[inline(always)]
    fn along(self) -> usize {
        if beside::is() { usize::MAX } else { 24 }
    }

    type Bytes = __m512i;
    type Ints = __m512i;
    type Floats = __m512;
    type Partial = __m512i;

    #[inline(always)]
    unsafe fn load(self, at: *const u8) -> __m512i {
        // SAFETY: the caller vouches for the bytes, `self` for the instruction.
        unsafe { _mm512_loadu_si512(at.cast()) }
    }

    #[inline(always)]
    unsafe fn store(self, v: __m512i, at: *mut u8) {
        // SAFETY: the caller vouches for the bytes, `self` for the instruction.
        unsafe { _mm512_storeu_si512(at.cast(), v) }
    }

    #[inline(always)]
    fn and(self, v: __m512i, mask: u8) -> __m512i {
        // SAFETY: `self` vouches for the instructions.
        unsafe { _mm512_and_si512(v, _mm512_set1_epi8(mask as i8)) }
    }

    #[inline(always)]
    fn or(self, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: `self` vouches for the instructions.
        unsafe { _mm512_or_si512(a, b) }
    }

    #[inline(always)]
    fn flip(self, v: __m512i, mask: u8) -> __m512i {
        // SAFETY: `self` vouches for the instructions.
        unsafe { _mm512_xor_si512(v, _mm512_set1_epi8(mask as i8)) }
    }

    #[inline(always)]
    fn up(self, v: __m512i, n: u32) -> __m512i {
        // SAFETY: `self` vouches for the instructions.
        unsafe { _mm512_sll_epi16(v, _mm_cvtsi32_si128(n as i32)) }
    }

    #[inline(always)]
    fn down(self, v: __m512i, n: u32) -> __m512i {
        // SAFETY: `self` vouches for the instructions.
        unsafe { _mm512_srl_epi16(v, _mm_cvtsi32_si128(n as i32)) }
    }

    #[inline(always)]
    fn look_up(self, v: __m512i, table: &[i8; 16]) -> __m512i {
        // SAFETY: `self` vouches for the instructions; the table has 16 bytes.
        unsafe {
            let table = _mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast()));
            _mm512_shuffle_epi8(table, v)
        }
    }

    /// Rows are loaded so that what is left to do stays within each quarter of a vector.
    #[inline(always)]
    unsafe fn words(self, at: *const u8, stride: usize) -> [__m512i; 4] {
        // SAFETY: the caller vouches for 16 bytes of each of 16 rows, `self` for the instructions.
        unsafe {
            let row = |n: usize| _mm_loadu_si128(at.add(n * stride).cast());
            let four = |n: usize| {
                let rows = _mm512_castsi128_si512(row(n));
                let rows = _mm512_inserti32x4::<1>(rows, row(n + 4));
                let rows = _mm512_inserti32x4::<2>(rows, row(n + 8));
                _mm512_inserti32x4::<3>(rows, row(n + 12))
            };
            let (a, b, c, d) = (four(0), four(1), four(2), four(3));
            let (ab, cd) = (_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d));
            let (more_ab, more_cd) = (_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d));
            [
                _mm512_unpacklo_epi64(ab, cd),
                _mm512_unpackhi_epi64(ab, cd),
                _mm512_unpacklo_epi64(more_ab, more_cd),
                _mm512_unpackhi_epi64(more_ab, more_cd),
            ]
        }
    }

    #[inline(always)]
    unsafe fn spread(self, at: *const u8) -> __m512i {
        // SAFETY: the caller vouches for the bytes, `self` for the instruction.
        unsafe { _mm512_set1_epi32(at.cast::<i32>().read_unaligned()) }
    }

    #[inline(always)]
    unsafe fn begin(self, offset: i16, _: *const Pair, negated: *const i32) -> __m512i {
        // SAFETY: the caller vouches for the sum, `self` for the instructions.
        unsafe {
            let negated = _mm512_set1_epi32(*negated);
            if offset.count_ones() == 1 {
                // Multipliers are what matrix products are short of.
                _mm512_sll_epi32(negated, _mm_cvtsi32_si128(offset.trailing_zeros() as i32))
            } else {
                _mm512_mullo_epi32(negated, _mm512_set1_epi32(offset.into()))
            }
        }
    }

    #[inline(always)]
    fn begin_zero(self) -> __m512i {
        self.zero()
    }

    #[inline(always)]
    fn step(self, sum: __m512i, codes: __m512i, x: __m512i) -> __m512i {
        // SAFETY: `self` vouches for the instruction.
        unsafe { _mm512_dpbusd_epi32(sum, codes, x) }
    }

    #[inline(always)]
    fn end(self, acc: __m512i, sum: __m512i) -> __m512i {
        // SAFETY: `self` vouches for the instruction.
        unsafe { _mm512_add_epi32(acc, sum) }
    }

    #[inline(always)]
    fn end_scaled(self, acc: __m512i, sum: __m512i, scale: __m512i) -> __m512i {
        // The lower half of the sum is all of it, the upper half meets a zero: one instruction where a product of 32
        // bits and its addition are three.
        // SAFETY: `self` vouches for the instruction.
        unsafe { pair(acc, sum, scale) }
    }

    #[inline(always)]
    unsafe fn begin_at(self, at: *const i32) -> __m512i {
        // SAFETY: the caller vouches for the sum, `self` for the instruction.
        unsafe { _mm512_set1_epi32(*at) }
    }

    #[inline(always)]
    fn times(self, v: __m512i, power: i16) -> __m512i {
        // SAFETY: `self` vouches for the instruction.
        unsafe { _mm512_sll_epi32(v, _mm_cvtsi32_si128(power.trailing_zeros() as i32)) }
    }

    /// The codes plus 128, less 128 times the sum of the activations.
    #[inline(always)]
    fn signed(self, acc: __m512i, codes: __m512i, x: __m512i) -> __m512i {
        // SAFETY: `self` vouches for the instructions.
        unsafe {
            let sum = _mm512_dpbusd_epi32(self.zero(), _mm512_set1_epi8(1), x);
            let products = _mm512_dpbusd_epi32(acc, self.flip(codes, 0x80), x);
            _mm512_sub_epi32(products, _mm512_slli_epi32::<7>(sum))
        }
    }

    #[inline(always)]
    fn pair(self, acc: __m512i, weights: __m512i, x: __m512i) -> __m512i {
        // SAFETY: `self` vouches for the instruction.
        unsafe { pair(acc, weights, x) }
    }

    #[inline(always)]
    unsafe fn scales(self, bytes: *const i8, to: *mut u32) {
        // SAFETY: the caller vouches for 16 bytes and 16 words, `self` for the instructions.
        unsafe {
            let scales = _mm512_cvtepi8_epi32(_mm_loadu_si128(bytes.cast()));
            _mm512_storeu_si512(to.cast(), _mm512_and_si512(scales, _mm512_set1_epi32(0xffff)));
        }
    }

    #[inline(always)]
    unsafe fn minima(self, one: *const u8, next: *const u8, to: *mut u32) {
        // SAFETY: the caller vouches for 16 bytes, twice, and 16 words, `self` for the instructions.
        unsafe {
            let one = _mm512_cvtepu8_epi32(_mm_loadu_si128(one.cast()));
            let next = _mm512_cvtepu8_epi32(_mm_loadu_si128(next.cast()));
            _mm512_storeu_si512(to.cast(), _mm512_or_si512(one, _mm512_slli_epi32::<16>(next)));
        }
    }

    #[inline(always)]
    fn zero(self) -> __m512i {
        // SAFETY: `self` vouches for the instruction.
        unsafe { _mm512_setzero_si512() }
    }

    #[inline(always)]
    unsafe fn load_ints(self, at: *const u32) -> __m512i {
        // SAFETY: the caller vouches for the integers, `self` for the instruction.
        unsafe { _mm512_loadu_si512(at.cast()) }
    }

    #[inline(always)]
    fn floats(self, v: __m512i) -> __m512 {
        // SAFETY: `self` vouches for the instruction.
        unsafe { _mm512_cvtepi32_ps(v) }
    }

    #[inline(always)]
    fn splat(self, v: f32) -> __m512 {
        // SAFETY: `self` vouches for the instruction.
        unsafe { _mm512_set1_ps(v) }
    }

    #[inline(always)]
    unsafe fn load_floats(self, at: *const f32) -> __m512 {
        // SAFETY: the caller vouches for the floats, `self` for the instruction.
        unsafe { _mm512_loadu_ps(at) }
    }

    #[inline(always)]
    unsafe fn load_halves(self, at: *const u16) -> __m512 {
        // SAFETY: the caller vouches for the halves, `self` for the instructions.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(at.cast())) }
    }

    #[inline(always)]
    unsafe fn load_bfloats(self, at: *const u16) -> __m512 {
        // SAFETY: the caller vouches for the bfloats, `self` for the instructions.
        unsafe {
            let bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256(at.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits))
        }
    }

    #[inline(always)]
    unsafe fn store_floats(self, v: __m512, at: *mut f32) {
        // SAFETY: the caller vouches for the floats, `self` for the instruction.
        unsafe { _mm512_storeu_ps(at, v) }
    }

    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` vouches for the instruction.
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` vouches for the instruction.
        unsafe { _mm512_sub_ps(a, b) }
    }

    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` vouches for the instruction.
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    fn prefetch(self, at: *const u8) {
        // SAFETY: prefetching never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }
}
