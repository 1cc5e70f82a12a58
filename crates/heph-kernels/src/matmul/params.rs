//! Scales and minima of a record, taken out of the bits that a file keeps them in.

#![expect(
    clippy::needless_range_loop,
    reason = "rows and parts index several arrays at once"
)]

use super::codes::{Bits2, Bits3, Bits4, Bits5, Bits6, Bits8, Codes, Micro, Uneven};
use crate::format::Format;
use crate::pack::{Layout, TILE};
use crate::simd::Simd;

/// One word for each row of a tile: an integer twice, or a pair of integers, in 16 bits each.
pub(super) type Words = [u32; TILE];

/// The scales of a superblock of 16 rows.
#[repr(C, align(64))]
pub(super) struct SuperParams {
    /// Per sub-block, its scale twice.
    pub(super) scales: [Words; 16],
    /// Per two sub-blocks, their minima.
    pub(super) minima: [Words; 8],
    /// The step between scales.
    pub(super) d: [f32; TILE],
    /// The step between minima.
    pub(super) m: [f32; TILE],
}

impl SuperParams {
    pub(super) const EMPTY: SuperParams = SuperParams {
        scales: [[0; TILE]; 16],
        minima: [[0; TILE]; 8],
        d: [0.0; TILE],
        m: [0.0; TILE],
    };

    /// Takes the scales of a record.
    ///
    /// # Safety
    /// `record` is a full record of format `W`.
    #[inline(always)]
    pub(super) unsafe fn read<S: Simd, W: SuperWeights>(&mut self, s: S, record: *const u8) {
        let layout = const { Layout::of(W::FORMAT) };
        // SAFETY: the layout says where 12 or 16 bytes for each of 16 rows are, and the steps and minima.
        unsafe {
            W::scales(&*record.add(layout.scales_at()).cast(), self);
            floats::<S, W::Codes>(s, record.add(layout.steps_at(8)), &mut self.d);
            if W::MINIMA {
                floats::<S, W::Codes>(s, record.add(layout.minima_at(8)), &mut self.m);
            }
        }
    }
}

/// The scales of up to 8 blocks of 32 columns of 16 rows.
#[repr(C, align(64))]
pub(super) struct BlockParams {
    /// Per block, the step between codes.
    pub(super) d: [[f32; TILE]; 8],
    /// Per block, its minimum.
    pub(super) m: [[f32; TILE]; 8],
}

impl BlockParams {
    pub(super) const EMPTY: BlockParams = BlockParams {
        d: [[0.0; TILE]; 8],
        m: [[0.0; TILE]; 8],
    };

    /// Takes the scales of a record of `blocks` blocks.
    ///
    /// # Safety
    /// `record` is such a record of format `W`.
    #[inline(always)]
    pub(super) unsafe fn read<S: Simd, W: BlockWeights>(&mut self, s: S, record: *const u8, blocks: usize) {
        let layout = const { Layout::of(W::FORMAT) };
        let (steps, minima) = (
            record.wrapping_add(layout.steps_at(blocks)),
            record.wrapping_add(layout.minima_at(blocks)),
        );
        for block in 0..blocks {
            // SAFETY: the layout says where the steps and minima are.
            unsafe {
                if matches!(W::FORMAT, Format::Mxfp4) {
                    powers(&*steps.add(TILE * block).cast(), &mut self.d[block]);
                } else {
                    floats::<S, W::Codes>(s, steps.add(2 * TILE * block), &mut self.d[block]);
                }
                if W::MINIMA {
                    floats::<S, W::Codes>(s, minima.add(2 * TILE * block), &mut self.m[block]);
                }
            }
        }
    }
}

/// Widens 16 half floats.
///
/// # Safety
/// They can be read.
#[inline(always)]
unsafe fn floats<S: Simd, C: Codes>(s: S, halves: *const u8, out: &mut [f32; TILE]) {
    for vector in 0..TILE / S::LANES {
        // SAFETY: 16 halves, 16 floats.
        unsafe {
            s.store_floats(
                s.load_halves(halves.cast::<u16>().add(S::LANES * vector)),
                out.as_mut_ptr().add(S::LANES * vector),
            )
        };
    }
}

/// Half of the powers of two that the exponents of microscaling blocks stand for.
#[inline(always)]
fn powers(exponents: &[u8; TILE], out: &mut [f32; TILE]) {
    for (out, &e) in out.iter_mut().zip(exponents) {
        let small = 0x0020_0000 << (e & 1);
        *out = f32::from_bits(if e < 2 { small } else { (u32::from(e) - 1) << 23 });
    }
}

/// A format with blocks of 32.
pub(super) trait BlockWeights {
    const FORMAT: Format;
    const MINIMA: bool = false;
    /// Whether a few tokens are multiplied while codes are unpacked in registers. Costs much compiled code, so
    /// only common formats have it.
    const FUSED: bool = false;
    type Codes: Codes;
}

/// A K format.
pub(super) trait SuperWeights {
    const FORMAT: Format;
    const MINIMA: bool;
    /// Sub-blocks: 8 or 16.
    const PARTS: usize;
    /// As [`BlockWeights::FUSED`].
    const FUSED: bool = false;
    type Codes: Codes;

    /// Takes the scales of sub-blocks, and their minima, from the file's bytes, each for 16 rows. A format with
    /// fewer than 16 bytes a row ignores the rest, which is not scales.
    fn scales(bytes: &[[u8; TILE]; 12], out: &mut SuperParams);
}

macro_rules! block_weights {
    ($($name:ident $minima:literal $fused:literal $codes:ty;)*) => {$(
        #[doc = concat!("The format ", stringify!($name), ".")]
        pub(super) struct $name;

        impl BlockWeights for $name {
            const FORMAT: Format = Format::$name;
            const MINIMA: bool = $minima;
            const FUSED: bool = $fused;
            type Codes = $codes;
        }
    )*};
}

block_weights! {
    Q4_0 false true Bits4<8>;
    Q4_1 true false Bits4<0>;
    Q5_0 false false Bits5<16>;
    Q5_1 true false Bits5<0>;
    Q8_0 false true Bits8;
}

/// The format IQ4_NL.
pub(super) struct Iq4Nl;

impl BlockWeights for Iq4Nl {
    const FORMAT: Format = Format::Iq4Nl;
    type Codes = Uneven;
}

/// The format MXFP4.
pub(super) struct Mxfp4;

impl BlockWeights for Mxfp4 {
    const FORMAT: Format = Format::Mxfp4;
    type Codes = Micro;
}

/// The format Q2_K.
pub(super) struct Q2K;

impl SuperWeights for Q2K {
    const FORMAT: Format = Format::Q2K;
    const MINIMA: bool = true;
    const PARTS: usize = 16;
    type Codes = Bits2;

    #[inline(always)]
    fn scales(bytes: &[[u8; TILE]; 12], out: &mut SuperParams) {
        let bytes = sixteen(bytes);
        for part in 0..16 {
            for row in 0..TILE {
                out.scales[part][row] = twice(i16::from(bytes[part][row] & 15));
            }
        }
        for pair in 0..8 {
            for row in 0..TILE {
                out.minima[pair][row] = both(bytes[2 * pair][row] >> 4, bytes[2 * pair + 1][row] >> 4);
            }
        }
    }
}

/// The format Q3_K.
pub(super) struct Q3K;

impl SuperWeights for Q3K {
    const FORMAT: Format = Format::Q3K;
    const MINIMA: bool = false;
    const PARTS: usize = 16;
    type Codes = Bits3;

    #[inline(always)]
    fn scales(bytes: &[[u8; TILE]; 12], out: &mut SuperParams) {
        for part in 0..16 {
            for row in 0..TILE {
                let low = bytes[part % 8][row] >> (4 * (part / 8)) & 15;
                let high = bytes[8 + part % 4][row] >> (2 * (part / 4)) & 3;
                out.scales[part][row] = twice(i16::from(low | high << 4) - 32);
            }
        }
    }
}

/// The format Q4_K.
pub(super) struct Q4K;

impl SuperWeights for Q4K {
    const FORMAT: Format = Format::Q4K;
    const FUSED: bool = true;
    const MINIMA: bool = true;
    const PARTS: usize = 8;
    type Codes = Bits4<0>;

    #[inline(always)]
    fn scales(bytes: &[[u8; TILE]; 12], out: &mut SuperParams) {
        sixths(bytes, out);
    }
}

/// The format Q5_K.
pub(super) struct Q5K;

impl SuperWeights for Q5K {
    const FORMAT: Format = Format::Q5K;
    const FUSED: bool = true;
    const MINIMA: bool = true;
    const PARTS: usize = 8;
    type Codes = Bits5<0>;

    #[inline(always)]
    fn scales(bytes: &[[u8; TILE]; 12], out: &mut SuperParams) {
        sixths(bytes, out);
    }
}

/// The format Q6_K.
pub(super) struct Q6K;

impl SuperWeights for Q6K {
    const FORMAT: Format = Format::Q6K;
    const FUSED: bool = true;
    const MINIMA: bool = false;
    const PARTS: usize = 16;
    type Codes = Bits6;

    #[inline(always)]
    fn scales(bytes: &[[u8; TILE]; 12], out: &mut SuperParams) {
        let bytes = sixteen(bytes);
        for part in 0..16 {
            for row in 0..TILE {
                out.scales[part][row] = twice(i16::from(bytes[part][row] as i8));
            }
        }
    }
}

/// The eight 6-bit scales and minima of Q4_K and Q5_K.
#[inline(always)]
fn sixths(bytes: &[[u8; TILE]; 12], out: &mut SuperParams) {
    for part in 0..4 {
        for row in 0..TILE {
            let high = bytes[part][row] >> 6 << 4;
            out.scales[part][row] = twice(i16::from(bytes[part][row] & 63));
            out.scales[part + 4][row] = twice(i16::from(bytes[part + 8][row] & 15 | high));
        }
    }
    for pair in 0..2 {
        for row in 0..TILE {
            let (a, b) = (bytes[2 * pair + 4][row], bytes[2 * pair + 5][row]);
            let (low_a, low_b) = (bytes[2 * pair + 8][row] >> 4, bytes[2 * pair + 9][row] >> 4);
            out.minima[pair][row] = both(a & 63, b & 63);
            out.minima[pair + 2][row] = both(low_a | a >> 6 << 4, low_b | b >> 6 << 4);
        }
    }
}

/// The same bytes with the four that follow, in formats that have them.
#[inline(always)]
fn sixteen(bytes: &[[u8; TILE]; 12]) -> &[[u8; TILE]; 16] {
    // SAFETY: Q2_K and Q6_K have 16 bytes of scales a row, one after the other.
    unsafe { &*std::ptr::from_ref(bytes).cast() }
}

#[inline(always)]
fn twice(scale: i16) -> u32 {
    let bits = u32::from(scale as u16);
    bits | bits << 16
}

#[inline(always)]
fn both(a: u8, b: u8) -> u32 {
    u32::from(a) | u32::from(b) << 16
}
