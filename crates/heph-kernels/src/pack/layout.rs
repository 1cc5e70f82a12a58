//! Where everything is in a record of a packed tile.
//!
//! A record holds 16 rows and up to 256 columns: `low` plane, `high` plane, then the scales as they are in the
//! file, the 16 rows side by side: each byte of sub-block scales, then the half float `d` and, where the format
//! has one, the half float minimum. Formats with blocks of 32 have all `d` of the group before all minima.
//!
//! A line of a plane holds as many quads as its bits allow, the first in the lowest bits of each byte: one of
//! 8 bits, two of 4, four of 2, eight of 1.

use crate::format::Format;

/// Rows in a tile.
pub(crate) const TILE: usize = 16;

/// Blocks of 32 columns in a record.
const BLOCKS: usize = 8;

/// Some bits of every code: the low plane begins with the lowest, the high plane has those above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plane {
    /// How many bits of each code are here: 0, 1, 2, 4 or 8.
    pub(super) bits: u32,
}

impl Plane {
    /// Bytes of this plane for `blocks` blocks of 32 columns.
    pub(crate) const fn bytes(self, blocks: usize) -> usize {
        64 * self.bits as usize * blocks
    }
}

/// The record of one format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(super) format: Format,
    pub(crate) low: Plane,
    pub(crate) high: Plane,
    /// Bytes of sub-block scales in a superblock of the file: where they begin and how many there are.
    scales: (usize, usize),
    /// Where the step of a block is in the file, and how many bytes it has.
    step: (usize, usize),
    /// Where the minimum of a block is in the file, if there is one.
    minimum: Option<usize>,
}

impl Layout {
    /// The layout of `format`; for plain floats, one without planes.
    pub(crate) const fn of(format: Format) -> Layout {
        let (low, high) = match format {
            Format::F32 | Format::F16 | Format::BF16 => (0, 0),
            Format::Q8_0 => (8, 0),
            Format::Q4_0 | Format::Q4_1 | Format::Iq4Nl | Format::Mxfp4 | Format::Q4K => (4, 0),
            Format::Q5_0 | Format::Q5_1 | Format::Q5K => (4, 1),
            Format::Q6K => (4, 2),
            Format::Q2K => (2, 0),
            Format::Q3K => (2, 1),
        };
        let (scales, step, minimum) = match format {
            Format::Q2K => ((0, 16), (80, 2), Some(82)),
            Format::Q3K => ((96, 12), (108, 2), None),
            Format::Q4K | Format::Q5K => ((4, 12), (0, 2), Some(2)),
            Format::Q6K => ((192, 16), (208, 2), None),
            Format::Q4_1 | Format::Q5_1 => ((0, 0), (0, 2), Some(2)),
            Format::Mxfp4 => ((0, 0), (0, 1), None),
            _ => ((0, 0), (0, 2), None),
        };
        let (low, high) = (Plane { bits: low }, Plane { bits: high });
        Layout {
            format,
            low,
            high,
            scales,
            step,
            minimum,
        }
    }

    /// Blocks of the file in a full group.
    pub(super) const fn blocks_per_group(&self) -> usize {
        256 / self.format.block_len()
    }

    /// Bytes of a full group of one row.
    pub(super) const fn group_bytes(&self) -> usize {
        self.format.block_bytes() * self.blocks_per_group()
    }

    /// Blocks of 32 columns in a group that takes `raw` bytes of a row.
    pub(super) const fn blocks_of(&self, raw: usize) -> usize {
        raw / self.format.block_bytes() * self.format.block_len() / 32
    }

    /// Bytes of a record of `blocks` blocks of 32 columns.
    pub(crate) const fn record_bytes(&self, blocks: usize) -> usize {
        32 * blocks / self.format.block_len() * self.format.block_bytes() * TILE
    }

    /// Where the bytes of sub-block scales begin in a full record.
    pub(crate) const fn scales_at(&self) -> usize {
        self.low.bytes(BLOCKS) + self.high.bytes(BLOCKS)
    }

    /// Where the steps begin in a record of `blocks` blocks of 32 columns.
    pub(crate) const fn steps_at(&self, blocks: usize) -> usize {
        self.low.bytes(blocks) + self.high.bytes(blocks) + TILE * self.scales.1
    }

    /// Where the minima begin in a record of `blocks` blocks of 32 columns.
    pub(crate) const fn minima_at(&self, blocks: usize) -> usize {
        self.steps_at(blocks) + TILE * self.step.1 * (32 * blocks / self.format.block_len())
    }

    /// Calls `f` with the place in the file's group, the place behind the planes of a record, and the size, of
    /// every scale.
    #[inline(always)]
    pub(super) fn for_params(&self, blocks: usize, mut f: impl FnMut(usize, usize, usize)) {
        let (from, count) = self.scales;
        for byte in 0..count {
            f(from + byte, TILE * byte, 1);
        }
        let behind = self.low.bytes(blocks) + self.high.bytes(blocks);
        let (steps, minima) = (self.steps_at(blocks) - behind, self.minima_at(blocks) - behind);
        let (from, size) = self.step;
        for block in 0..32 * blocks / self.format.block_len() {
            let start = block * self.format.block_bytes();
            f(start + from, steps + TILE * size * block, size);
            if let Some(from) = self.minimum {
                f(start + from, minima + TILE * 2 * block, 2);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planes_and_scales_fill_a_record_exactly() {
        for format in Format::ALL.into_iter().filter(|f| f.block_len() > 1) {
            let layout = Layout::of(format);
            let blocks = if format.block_len() == 32 { 5 } else { 8 };
            let mut end = 0;
            layout.for_params(blocks, |_, to, size| end = end.max(to + TILE * size));
            let planes = layout.low.bytes(blocks) + layout.high.bytes(blocks);
            assert_eq!(planes + end, layout.record_bytes(blocks), "{format}");
        }
    }
}
