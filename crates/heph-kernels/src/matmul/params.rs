//! Scales and minima of a record, taken out of the bits that a file keeps them in.

use super::codes::{Bits2, Bits3, Bits4, Bits5, Bits6, Bits8, Codes, Micro, Uneven};
use crate::format::Format;
use crate::pack::{Layout, TILE};
use crate::simd::Simd;

/// One word for each row of a tile: a scale as [`Simd::scales`] makes it, or a pair of minima.
pub(super) type Words = [u32; TILE];

/// The scales of a superblock of 16 rows.
#[repr(C, align(64))]
pub(super) struct SuperParams {
    /// Per sub-block, its scale.
    pub(super) scales: [Words; 16],
    /// Per two sub-blocks, their scales, where a centre is taken from the codes.
    pub(super) pairs: [Words; 4],
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
        pairs: [[0; TILE]; 4],
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
            self.read_bytes::<S, W>(s, record.add(layout.scales_at()));
            floats::<S>(s, record.add(layout.steps_at(8)), &mut self.d);
            if W::MINIMA {
                floats::<S>(s, record.add(layout.minima_at(8)), &mut self.m);
            }
        }
    }

    /// Takes scales and minima of sub-blocks from the file's bytes, each for 16 rows.
    ///
    /// # Safety
    /// As many lines can be read as the format has.
    #[inline(always)]
    unsafe fn read_bytes<S: Simd, W: SuperWeights>(&mut self, s: S, bytes: *const u8) {
        let (mut scales, mut minima) = (Scales::EMPTY, Scales::EMPTY);
        for at in (0..LINE).step_by(4 * S::LANES) {
            // SAFETY: the format asks for its own lines; four lines hold 16 sub-blocks.
            unsafe {
                let line = |i: usize| s.load(bytes.add(LINE * i + at));
                for (i, v) in W::scales(s, line).into_iter().take(W::PARTS / 4).enumerate() {
                    s.store(v, scales.at(LINE * i + at));
                }
                if W::MINIMA {
                    for (i, v) in W::minima(s, line).into_iter().take(W::PARTS / 4).enumerate() {
                        s.store(v, minima.at(LINE * i + at));
                    }
                }
            }
        }
        for lane in (0..TILE).step_by(S::LANES) {
            // SAFETY: 16 rows for each of 16 sub-blocks.
            unsafe {
                for part in 0..W::PARTS {
                    let to = self.scales[part].as_mut_ptr().add(lane);
                    s.scales(scales.at(TILE * part + lane).cast(), to);
                }
                if S::SHORT && W::CENTRE != 0 {
                    for pair in 0..4 {
                        let one = scales.at(2 * TILE * pair + lane);
                        s.minima(one, one.add(TILE), self.pairs[pair].as_mut_ptr().add(lane));
                    }
                }
                if W::MINIMA {
                    for pair in 0..W::PARTS / 2 {
                        let one = minima.at(2 * TILE * pair + lane);
                        s.minima(one, one.add(TILE), self.minima[pair].as_mut_ptr().add(lane));
                    }
                }
            }
        }
    }
}

/// Bytes of a line: four sub-blocks of 16 rows.
const LINE: usize = 64;

/// One byte for each row and sub-block.
#[repr(C, align(64))]
struct Scales([u8; 4 * LINE]);

impl Scales {
    const EMPTY: Scales = Scales([0; 4 * LINE]);

    #[inline(always)]
    fn at(&mut self, byte: usize) -> *mut u8 {
        self.0.as_mut_ptr().wrapping_add(byte)
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
                    floats::<S>(s, steps.add(2 * TILE * block), &mut self.d[block]);
                }
                if W::MINIMA {
                    floats::<S>(s, minima.add(2 * TILE * block), &mut self.m[block]);
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
unsafe fn floats<S: Simd>(s: S, halves: *const u8, out: &mut [f32; TILE]) {
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
    type Codes: Codes;
}

/// A K format.
pub(super) trait SuperWeights {
    const FORMAT: Format;
    const MINIMA: bool;
    /// Sub-blocks: 8 or 16.
    const PARTS: usize;
    /// The middle of the codes where they have no offset and half their magnitude is a gain; scales are then below 64.
    const CENTRE: i16 = 0;
    type Codes: Codes;

    /// Scales, signed bytes, from the file's bytes: four sub-blocks a line, here and there.
    fn scales<S: Simd>(s: S, line: impl Fn(usize) -> S::Bytes) -> [S::Bytes; 4];

    /// Minima from the file's bytes, as [`SuperWeights::scales`]; whatever it likes where there are none.
    fn minima<S: Simd>(s: S, line: impl Fn(usize) -> S::Bytes) -> [S::Bytes; 4] {
        Self::scales(s, line)
    }
}

macro_rules! block_weights {
    ($($name:ident $minima:literal $codes:ty;)*) => {$(
        #[doc = concat!("The format ", stringify!($name), ".")]
        pub(super) struct $name;

        impl BlockWeights for $name {
            const FORMAT: Format = Format::$name;
            const MINIMA: bool = $minima;
            type Codes = $codes;
        }
    )*};
}

block_weights! {
    Q4_0 false Bits4<8>;
    Q4_1 true Bits4<0>;
    Q5_0 false Bits5<16>;
    Q5_1 true Bits5<0>;
    Q8_0 false Bits8;
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
    fn scales<S: Simd>(s: S, line: impl Fn(usize) -> S::Bytes) -> [S::Bytes; 4] {
        std::array::from_fn(|i| s.and(line(i), 0x0f))
    }

    #[inline(always)]
    fn minima<S: Simd>(s: S, line: impl Fn(usize) -> S::Bytes) -> [S::Bytes; 4] {
        std::array::from_fn(|i| s.and(s.down(line(i), 4), 0x0f))
    }
}

/// The format Q3_K.
pub(super) struct Q3K;

impl SuperWeights for Q3K {
    const FORMAT: Format = Format::Q3K;
    const MINIMA: bool = false;
    const PARTS: usize = 16;
    type Codes = Bits3;

    /// The lower four bits are in two lines, one half of a byte after the other, the upper two in the third. 32 less
    /// is done by bits: the highest is flipped, and then stands for itself and all above it.
    #[inline(always)]
    fn scales<S: Simd>(s: S, line: impl Fn(usize) -> S::Bytes) -> [S::Bytes; 4] {
        std::array::from_fn(|i| {
            let low = s.and(s.down(line(i % 2), 4 * (i as u32 / 2)), 0x0f);
            let high = s.up(s.and(s.down(line(2), 2 * i as u32), 0x03), 4);
            let v = s.flip(s.or(low, high), 0x20);
            let sign = s.and(v, 0x20);
            s.or(v, s.or(s.up(sign, 1), s.up(sign, 2)))
        })
    }
}

/// The format Q4_K.
pub(super) struct Q4K;

impl SuperWeights for Q4K {
    const FORMAT: Format = Format::Q4K;
    const MINIMA: bool = true;
    const PARTS: usize = 8;
    const CENTRE: i16 = 8;
    type Codes = Bits4<0>;

    #[inline(always)]
    fn scales<S: Simd>(s: S, line: impl Fn(usize) -> S::Bytes) -> [S::Bytes; 4] {
        sixths(s, line(0), s.and(line(2), 0x0f))
    }

    #[inline(always)]
    fn minima<S: Simd>(s: S, line: impl Fn(usize) -> S::Bytes) -> [S::Bytes; 4] {
        sixths(s, line(1), s.and(s.down(line(2), 4), 0x0f))
    }
}

/// The format Q5_K.
pub(super) struct Q5K;

impl SuperWeights for Q5K {
    const FORMAT: Format = Format::Q5K;
    const MINIMA: bool = true;
    const PARTS: usize = 8;
    const CENTRE: i16 = 16;
    type Codes = Bits5<0>;

    #[inline(always)]
    fn scales<S: Simd>(s: S, line: impl Fn(usize) -> S::Bytes) -> [S::Bytes; 4] {
        sixths(s, line(0), s.and(line(2), 0x0f))
    }

    #[inline(always)]
    fn minima<S: Simd>(s: S, line: impl Fn(usize) -> S::Bytes) -> [S::Bytes; 4] {
        sixths(s, line(1), s.and(s.down(line(2), 4), 0x0f))
    }
}

/// The format Q6_K.
pub(super) struct Q6K;

impl SuperWeights for Q6K {
    const FORMAT: Format = Format::Q6K;
    const MINIMA: bool = false;
    const PARTS: usize = 16;
    type Codes = Bits6;

    #[inline(always)]
    fn scales<S: Simd>(_: S, line: impl Fn(usize) -> S::Bytes) -> [S::Bytes; 4] {
        std::array::from_fn(line)
    }
}

/// The eight 6-bit scales, or minima, of Q4_K and Q5_K: four in `line`, which also has the upper two bits of the other
/// four, whose lower bits are `low`.
#[inline(always)]
fn sixths<S: Simd>(s: S, line: S::Bytes, low: S::Bytes) -> [S::Bytes; 4] {
    let first = s.and(line, 0x3f);
    let rest = s.or(low, s.and(s.down(line, 2), 0x30));
    [first, rest, first, rest]
}
