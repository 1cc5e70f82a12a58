//! The vectors that matrix kernels are written in, once for every instruction set.
//!
//! A lane is an output row: no operation here mixes lanes, so the number of lanes never shows in a result.
//! A value of a [`Simd`] type is a witness that the machine has its instructions; [`run`] is the one place that
//! makes one, after asking [`Isa::available`]. To add an instruction set, write a sibling of `avx2.rs` and a line
//! in [`run`].

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
mod wasm;

use crate::activations::Pair;
use crate::isa::Isa;

/// Code that can run on any instruction set. `run` must be `#[inline(always)]`, and everything it calls, so that
/// it is compiled with the instructions of the caller.
pub(crate) trait Kernel {
    /// Does the work with the vectors of `s`.
    fn run<S: Simd>(self, s: S);
}

/// Runs `kernel` on `isa`, or hands it back where this build has no vectors for `isa`.
pub(crate) fn run<K: Kernel>(isa: Isa, kernel: K) -> Result<(), K> {
    assert!(isa.available(), "this machine has no {isa}");
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the machine has AVX2 and F16C, as asserted above.
        Isa::Avx2 => unsafe { avx2::run(kernel) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the machine has AVX2, F16C and AVX-VNNI, as asserted above.
        Isa::Avx2Vnni => unsafe { avx2::run_vnni(kernel) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the machine has AVX-512 F, BW, VL and VNNI, as asserted above.
        Isa::Avx512 => unsafe { avx512::run(kernel) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: the machine has NEON, as asserted above.
        Isa::Neon => unsafe { neon::run(kernel) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: the machine has NEON and its dot products, as asserted above.
        Isa::NeonDot => unsafe { neon::run_dot(kernel) },
        #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
        Isa::WasmSimd => wasm::run(kernel),
        _ => return Err(kernel),
    }
    Ok(())
}

/// Vectors whose lanes are rows.
///
/// Codes are 4 bytes a lane: the codes of one row at 4 consecutive columns, a *quad*. Sums are 32-bit integers,
/// results `f32`. Multiplications and additions of floats are rounded one by one, never fused.
pub(crate) trait Simd: Copy {
    /// Lanes of a vector: 4, 8 or 16.
    const LANES: usize;
    /// Vectors of rows that a kernel should hold at once, at most `16 / LANES`.
    const ROWS: usize;
    /// Tokens that a kernel should hold at once.
    const TOKENS: usize;
    /// Whether [`Simd::Partial`] holds 32 bits, so that no sum of a sub-block can overflow it.
    const WIDE: bool;
    /// Whether [`Simd::end_scaled`] wants sums of 16 bits, although [`Simd::Partial`] holds 32.
    const SHORT: bool = false;
    /// Whether [`Simd::step`] takes codes up to 255, so that signed codes come with 128 added and
    /// [`Simd::signed`] is never called. Otherwise codes are at most 63.
    const BIASED: bool;

    /// One quad of each row.
    type Bytes: Copy;
    /// One 32-bit integer a row; also one pair of 16-bit integers a row.
    type Ints: Copy;
    /// One float a row.
    type Floats: Copy;
    /// An unfinished dot product of a sub-block.
    type Partial: Copy;

    /// Up to this many tokens, codes are unpacked in registers for each set of [`Simd::TOKENS`]; beyond it, once into a
    /// panel in the first-level cache.
    #[inline(always)]
    fn along(self) -> usize {
        4
    }

    /// Loads `4 * LANES` bytes.
    ///
    /// # Safety
    /// They can be read.
    unsafe fn load(self, at: *const u8) -> Self::Bytes;
    /// Stores `4 * LANES` bytes.
    ///
    /// # Safety
    /// They can be written.
    unsafe fn store(self, v: Self::Bytes, at: *mut u8);
    /// `v` with every byte masked.
    fn and(self, v: Self::Bytes, mask: u8) -> Self::Bytes;
    /// Both combined bit by bit.
    fn or(self, a: Self::Bytes, b: Self::Bytes) -> Self::Bytes;
    /// Every bit of every byte in `mask` flipped.
    fn flip(self, v: Self::Bytes, mask: u8) -> Self::Bytes;
    /// Bits moved up by `n`, a constant after inlining. Bits that cross into a neighbouring byte are to be masked.
    fn up(self, v: Self::Bytes, n: u32) -> Self::Bytes;
    /// Bits moved down by `n`, a constant after inlining. Bits that cross from a neighbouring byte are to be masked.
    fn down(self, v: Self::Bytes, n: u32) -> Self::Bytes;
    /// Every byte (0 to 15) replaced by its entry of `table`.
    fn look_up(self, v: Self::Bytes, table: &[i8; 16]) -> Self::Bytes;

    /// Four words of each row: vector `w` has word `w` of row `r` in lane `r`. Rows begin `stride` bytes apart.
    ///
    /// # Safety
    /// 16 bytes of each of [`Simd::LANES`] rows can be read.
    #[inline(always)]
    unsafe fn words(self, at: *const u8, stride: usize) -> [Self::Bytes; 4] {
        let mut words = [[0u32; 16]; 4];
        for row in 0..Self::LANES {
            for (word, lanes) in words.iter_mut().enumerate() {
                // SAFETY: the caller vouches for the row.
                lanes[row] = unsafe { at.add(row * stride).cast::<u32>().add(word).read_unaligned() };
            }
        }
        // SAFETY: a vector has at most 16 lanes.
        words.map(|lanes| unsafe { self.load(lanes.as_ptr().cast()) })
    }

    /// The same 4 bytes in every lane: a quad of activations, or a pair of 16-bit integers.
    ///
    /// # Safety
    /// The 4 bytes can be read.
    unsafe fn spread(self, at: *const u8) -> Self::Bytes;

    /// A sub-block's sum before its first quad: `-offset` times the sum of its activations. `halves` is that sum as
    /// a pair, over columns 0 and 1 of every quad and over columns 2 and 3; `negated` is minus that sum. `offset`
    /// is a constant.
    ///
    /// # Safety
    /// Both can be read.
    unsafe fn begin(self, offset: i16, halves: *const Pair, negated: *const i32) -> Self::Partial;
    /// The sum before the first quad, where it stands ready; only for [`Simd::SHORT`].
    ///
    /// # Safety
    /// It can be read.
    unsafe fn begin_at(self, _at: *const i32) -> Self::Partial {
        unreachable!("only short sums stand ready")
    }
    /// `v` times a power of two; only for [`Simd::SHORT`].
    fn times(self, _v: Self::Ints, _power: i16) -> Self::Ints {
        unreachable!("only short sums have a centre")
    }
    /// A sub-block's sum before its first quad when nothing is to be subtracted.
    fn begin_zero(self) -> Self::Partial;
    /// One quad more: unsigned codes times signed activations.
    fn step(self, sum: Self::Partial, codes: Self::Bytes, x: Self::Bytes) -> Self::Partial;
    /// `acc` plus the sub-block's whole sum. Where not [`Simd::WIDE`], the two 16-bit halves of a partial sum must each fit,
    /// offset included: 32 codes of magnitude 16, or 16 codes of magnitude 32.
    fn end(self, acc: Self::Ints, sum: Self::Partial) -> Self::Ints;
    /// `acc` plus the sub-block's whole sum times the scale, as [`Simd::scales`] makes it.
    fn end_scaled(self, acc: Self::Ints, sum: Self::Partial, scale: Self::Ints) -> Self::Ints;
    /// `acc` plus one quad of signed codes times signed activations, which are -127 to 127.
    fn signed(self, acc: Self::Ints, codes: Self::Bytes, x: Self::Bytes) -> Self::Ints;
    /// `acc` plus the dot product of two pairs of 16-bit integers, the weights as [`Simd::minima`] makes them.
    fn pair(self, acc: Self::Ints, weights: Self::Ints, x: Self::Bytes) -> Self::Ints;

    /// Zero in every lane.
    fn zero(self) -> Self::Ints;
    /// Loads `LANES` integers.
    ///
    /// # Safety
    /// They can be read.
    unsafe fn load_ints(self, at: *const u32) -> Self::Ints;

    /// Writes `LANES` scales, signed bytes, as [`Simd::end_scaled`] takes them: here, as a pair of equal numbers.
    ///
    /// # Safety
    /// The bytes can be read and the words written.
    #[inline(always)]
    unsafe fn scales(self, bytes: *const i8, to: *mut u32) {
        for lane in 0..Self::LANES {
            // SAFETY: the caller vouches for the lanes.
            unsafe {
                let bits = u32::from(i16::from(*bytes.add(lane)) as u16);
                *to.add(lane) = bits | bits << 16;
            }
        }
    }
    /// Writes `LANES` minima of one sub-block and of the next as pairs.
    ///
    /// # Safety
    /// The bytes can be read and the words written.
    #[inline(always)]
    unsafe fn minima(self, one: *const u8, next: *const u8, to: *mut u32) {
        for lane in 0..Self::LANES {
            // SAFETY: the caller vouches for the lanes.
            unsafe { *to.add(lane) = u32::from(*one.add(lane)) | u32::from(*next.add(lane)) << 16 };
        }
    }

    /// Each integer as the nearest float, ties to even.
    fn floats(self, v: Self::Ints) -> Self::Floats;
    /// The same float in every lane.
    fn splat(self, v: f32) -> Self::Floats;
    /// Loads `LANES` floats.
    ///
    /// # Safety
    /// They can be read.
    unsafe fn load_floats(self, at: *const f32) -> Self::Floats;
    /// Loads `LANES` half floats.
    ///
    /// # Safety
    /// They can be read.
    unsafe fn load_halves(self, at: *const u16) -> Self::Floats;
    /// Loads `LANES` bfloats.
    ///
    /// # Safety
    /// They can be read.
    unsafe fn load_bfloats(self, at: *const u16) -> Self::Floats;
    /// Stores `LANES` floats.
    ///
    /// # Safety
    /// They can be written.
    unsafe fn store_floats(self, v: Self::Floats, at: *mut f32);
    /// `a + b`.
    fn add(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// `a - b`.
    fn sub(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// `a * b`.
    fn mul(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;

    /// Asks for the cache line at `at`, which need not be readable.
    fn prefetch(self, at: *const u8);
}
