//! How a quad of codes is taken out of a record, and into the dot product.

use crate::pack::Layout;
use crate::simd::Simd;

/// The planes of a record.
#[derive(Clone, Copy)]
pub(super) struct Planes {
    low: *const u8,
    high: *const u8,
    /// What will be read some records later.
    ahead: *const u8,
    /// Lines of it to ask for with every block of 32 columns.
    lines: usize,
}

/// Records between the one being read and the one being asked for: a few KiB, so that a line comes in time and
/// is still there when it is used.
const AHEAD: usize = 4;

impl Planes {
    /// The planes of a record of `blocks` blocks of 32 columns.
    #[inline(always)]
    pub(super) fn of(layout: &Layout, record: *const u8, blocks: usize) -> Planes {
        let bytes = layout.record_bytes(8);
        Planes {
            low: record,
            high: record.wrapping_add(layout.low.bytes(blocks)),
            ahead: record.wrapping_add(AHEAD * bytes),
            lines: bytes.div_ceil(8 * 64),
        }
    }

    /// The same planes, with nothing to be asked for ahead of them.
    #[inline(always)]
    pub(super) fn near(self) -> Planes {
        Planes { lines: 0, ..self }
    }

    /// Asks for a part of what will be read, with block `block`.
    #[inline(always)]
    pub(super) fn fetch<S: Simd>(self, s: S, block: usize) {
        for line in 0..self.lines {
            s.prefetch(self.ahead.wrapping_add(64 * (self.lines * block + line)));
        }
    }
}

/// Codes as a record keeps them.
pub(super) trait Codes {
    /// What is to be taken from every code to get the one that is multiplied, where codes are unsigned.
    const OFFSET: i16;
    /// Whether the sum of a sub-block of 32 may need more than 16 bits.
    const LARGE: bool;
    /// The largest code before the offset is taken away.
    const LARGEST: i16;
    /// Whether codes are signed; [`Codes::quad`] then returns them signed or, with [`Simd::BIASED`], 128 larger.
    const SIGNED: bool = false;

    /// Quad `quad` (0 to 7) of block `block` of 32 columns, for the rows of vector `vector` of the tile.
    ///
    /// # Safety
    /// The planes of a record can be read at that place.
    unsafe fn quad<S: Simd>(s: S, planes: Planes, block: usize, quad: usize, vector: usize) -> S::Bytes;
}

/// One vector of line `line` of a plane.
///
/// # Safety
/// The plane has that line.
#[inline(always)]
unsafe fn line<S: Simd>(s: S, plane: *const u8, line: usize, vector: usize) -> S::Bytes {
    // SAFETY: the caller vouches for the line, of which the vector is a part.
    unsafe { s.load(plane.add(64 * line + 4 * S::LANES * vector)) }
}

/// The low four bits of quad `quad`.
///
/// # Safety
/// As [`Codes::quad`].
#[inline(always)]
unsafe fn nibbles<S: Simd>(s: S, planes: Planes, block: usize, quad: usize, vector: usize) -> S::Bytes {
    // SAFETY: two quads a line, the even one in the low bits.
    let line = unsafe { line(s, planes.low, 4 * block + quad / 2, vector) };
    s.and(
        if quad.is_multiple_of(2) {
            line
        } else {
            s.down(line, 4)
        },
        0x0f,
    )
}

/// Bits of a plane with `bits` a code, moved to begin at `to`.
///
/// # Safety
/// As [`Codes::quad`], of the plane given.
#[inline(always)]
unsafe fn field<S: Simd>(
    s: S,
    plane: *const u8,
    bits: u32,
    to: u32,
    block: usize,
    quad: usize,
    vector: usize,
) -> S::Bytes {
    let per_line = (8 / bits) as usize;
    // SAFETY: as many quads a line as fit.
    let line = unsafe { line(s, plane, (8 * block + quad) / per_line, vector) };
    let from = bits * (quad % per_line) as u32;
    let moved = if from > to {
        s.down(line, from - to)
    } else {
        s.up(line, to - from)
    };
    s.and(moved, (((1 << bits) - 1) << to) as u8)
}

/// Four bits, less `OFFSET`.
pub(super) struct Bits4<const OFFSET: i16>;

impl<const OFFSET: i16> Codes for Bits4<OFFSET> {
    const OFFSET: i16 = OFFSET;
    const LARGE: bool = false;
    const LARGEST: i16 = 15;

    #[inline(always)]
    unsafe fn quad<S: Simd>(s: S, planes: Planes, block: usize, quad: usize, vector: usize) -> S::Bytes {
        // SAFETY: passed on.
        unsafe { nibbles(s, planes, block, quad, vector) }
    }
}

/// Five bits, less `OFFSET`, which is 0 or 16.
pub(super) struct Bits5<const OFFSET: i16>;

impl<const OFFSET: i16> Codes for Bits5<OFFSET> {
    const OFFSET: i16 = OFFSET;
    const LARGE: bool = OFFSET != 16;
    const LARGEST: i16 = 31;

    #[inline(always)]
    unsafe fn quad<S: Simd>(s: S, planes: Planes, block: usize, quad: usize, vector: usize) -> S::Bytes {
        // SAFETY: passed on.
        unsafe {
            let high = field(s, planes.high, 1, 4, block, quad, vector);
            s.or(nibbles(s, planes, block, quad, vector), high)
        }
    }
}

/// Six bits, less 32.
pub(super) struct Bits6;

impl Codes for Bits6 {
    const OFFSET: i16 = 32;
    const LARGE: bool = true;
    const LARGEST: i16 = 63;

    #[inline(always)]
    unsafe fn quad<S: Simd>(s: S, planes: Planes, block: usize, quad: usize, vector: usize) -> S::Bytes {
        // SAFETY: passed on.
        unsafe {
            let high = field(s, planes.high, 2, 4, block, quad, vector);
            s.or(nibbles(s, planes, block, quad, vector), high)
        }
    }
}

/// Two bits.
pub(super) struct Bits2;

impl Codes for Bits2 {
    const OFFSET: i16 = 0;
    const LARGE: bool = false;
    const LARGEST: i16 = 3;

    #[inline(always)]
    unsafe fn quad<S: Simd>(s: S, planes: Planes, block: usize, quad: usize, vector: usize) -> S::Bytes {
        // SAFETY: passed on.
        unsafe { field(s, planes.low, 2, 0, block, quad, vector) }
    }
}

/// Three bits, less 4.
pub(super) struct Bits3;

impl Codes for Bits3 {
    const OFFSET: i16 = 4;
    const LARGE: bool = false;
    const LARGEST: i16 = 7;

    #[inline(always)]
    unsafe fn quad<S: Simd>(s: S, planes: Planes, block: usize, quad: usize, vector: usize) -> S::Bytes {
        // SAFETY: passed on.
        unsafe {
            let high = field(s, planes.high, 1, 2, block, quad, vector);
            s.or(field(s, planes.low, 2, 0, block, quad, vector), high)
        }
    }
}

/// Signed bytes.
pub(super) struct Bits8;

impl Codes for Bits8 {
    const OFFSET: i16 = 128;
    const LARGE: bool = true;
    const LARGEST: i16 = 255;
    const SIGNED: bool = true;

    #[inline(always)]
    unsafe fn quad<S: Simd>(s: S, planes: Planes, block: usize, quad: usize, vector: usize) -> S::Bytes {
        // SAFETY: one quad a line.
        let codes = unsafe { line(s, planes.low, 8 * block + quad, vector) };
        if S::BIASED { s.flip(codes, 0x80) } else { codes }
    }
}

/// Four bits that index the uneven steps of IQ4_NL.
pub(super) struct Uneven;

impl Uneven {
    const STEPS: [i8; 16] = [
        -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113,
    ];
}

impl Codes for Uneven {
    const OFFSET: i16 = 128;
    const LARGE: bool = true;
    const LARGEST: i16 = 255;
    const SIGNED: bool = true;

    #[inline(always)]
    unsafe fn quad<S: Simd>(s: S, planes: Planes, block: usize, quad: usize, vector: usize) -> S::Bytes {
        // SAFETY: passed on.
        let codes = s.look_up(unsafe { nibbles(s, planes, block, quad, vector) }, &Self::STEPS);
        if S::BIASED { s.flip(codes, 0x80) } else { codes }
    }
}

/// Four bits that index the values of E2M1, doubled and 12 larger.
pub(super) struct Micro;

impl Micro {
    const STEPS: [i8; 16] = [12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0];
}

impl Codes for Micro {
    const OFFSET: i16 = 12;
    const LARGE: bool = false;
    const LARGEST: i16 = 24;

    #[inline(always)]
    unsafe fn quad<S: Simd>(s: S, planes: Planes, block: usize, quad: usize, vector: usize) -> S::Bytes {
        // SAFETY: passed on.
        s.look_up(unsafe { nibbles(s, planes, block, quad, vector) }, &Self::STEPS)
    }
}

/// Codes that [`unpack`] has put one to a byte, in `low`.
pub(super) struct Unpacked<C>(std::marker::PhantomData<C>);

impl<C: Codes> Codes for Unpacked<C> {
    const OFFSET: i16 = C::OFFSET;
    const LARGE: bool = C::LARGE;
    const LARGEST: i16 = C::LARGEST;
    const SIGNED: bool = C::SIGNED;

    #[inline(always)]
    unsafe fn quad<S: Simd>(s: S, planes: Planes, block: usize, quad: usize, vector: usize) -> S::Bytes {
        // SAFETY: one quad a line.
        unsafe { line(s, planes.low, 8 * block + quad, vector) }
    }
}

/// A record's codes, one to a byte: 256 columns of 16 rows, as much as an eighth of a first-level cache.
#[repr(C, align(64))]
pub(super) struct Panel(pub(super) [u8; 4096]);

impl Panel {
    pub(super) const EMPTY: Panel = Panel([0; 4096]);

    /// Where [`Unpacked`] finds the codes.
    #[inline(always)]
    pub(super) fn planes(&self) -> Planes {
        Planes {
            low: self.0.as_ptr(),
            high: self.0.as_ptr(),
            ahead: self.0.as_ptr(),
            lines: 0,
        }
    }

    /// Fills in the codes of `blocks` blocks.
    ///
    /// # Safety
    /// The planes have that many blocks.
    #[inline(always)]
    pub(super) unsafe fn fill<S: Simd, C: Codes>(&mut self, s: S, planes: Planes, blocks: usize) {
        for block in 0..blocks {
            planes.fetch(s, block);
            for quad in 0..8 {
                for vector in 0..16 / S::LANES {
                    let at = 64 * (8 * block + quad) + 4 * S::LANES * vector;
                    // SAFETY: at most 8 blocks, so within the panel.
                    unsafe {
                        s.store(
                            C::quad(s, planes, block, quad, vector),
                            self.0.as_mut_ptr().add(at),
                        )
                    };
                }
            }
        }
    }
}
