//! Weight matrices as the kernels want to read them: 16 rows interleaved, every bit of the file kept.
//!
//! Rows go into tiles of 16, the last tile filled up with zero bytes. Within a tile, columns go into groups of 256,
//! and a group is one record: a plane with the low bits of the codes, a plane with their high bits if the format
//! has any, then scales. Four columns of one row (a quad) lie in one 32-bit word, the 16 words of a tile in one
//! line of 64 bytes, so that a vector lane is a row. `pack/layout.rs` says where everything is. A packed matrix
//! takes no more bytes than the file, because generating text is bound by the reading of weights.

mod codes;
mod layout;
mod memory;

pub(crate) use layout::{Layout, TILE};

use crate::format::{Format, dequantize_row};
use crate::isa::Isa;
use crate::pool::Pool;
use crate::simd::{self, Kernel, Simd};
use codes::Words;
use memory::Memory;
pub use memory::Room;
pub(crate) use memory::Scratch;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

/// Why a matrix could not be packed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PackError {
    /// The columns are no whole number of the format's blocks.
    #[error("rows of {cols} weights are no whole number of {format} blocks")]
    Ragged {
        /// The format asked for.
        format: Format,
        /// The columns asked for.
        cols: usize,
    },
    /// The bytes are more or fewer than the shape takes.
    #[error("{rows} rows of {cols} weights in {format} do not take {bytes} bytes")]
    WrongSize {
        /// The format asked for.
        format: Format,
        /// The rows asked for.
        rows: usize,
        /// The columns asked for.
        cols: usize,
        /// The bytes given.
        bytes: usize,
    },
    /// The shape takes more memory than there is.
    #[error("{rows} rows of {cols} weights in {format} take more memory than there is")]
    TooLarge {
        /// The format asked for.
        format: Format,
        /// The rows asked for.
        rows: usize,
        /// The columns asked for.
        cols: usize,
    },
}

/// The rows of a matrix where they lie: a part of a mapped file, say.
pub type InPlace = Arc<dyn Rows>;

/// Bytes of rows that somebody else holds.
pub trait Rows: Send + Sync {
    /// All of them.
    fn bytes(&self) -> &[u8];

    /// Says that these will not be asked for soon: the memory behind them may be given back.
    fn release(&self, _bytes: Range<usize>) {}
}

impl Rows for Vec<u8> {
    fn bytes(&self) -> &[u8] {
        self
    }
}

/// A weight matrix of shape (rows, cols) in tiles of 16 rows.
///
/// One made by [`Packed::in_place`] stays where it lies until [`Packed::settle`]: whoever multiplies by it packs each tile
/// for himself, in the cache. That makes the same bits and asks for no memory, so that a first token need not wait
/// for a whole model to be packed; each further one is slower than with tiles at hand.
pub struct Packed {
    format: Format,
    rows: usize,
    cols: usize,
    layout: Layout,
    /// Bytes of one row as it stands in a file.
    row_bytes: usize,
    /// Bytes of one tile, whole cache lines.
    stride: usize,
    tiles: OnceLock<Memory>,
    in_place: Option<InPlace>,
}

impl Packed {
    /// Packs `raw`, the rows of a tensor as they stand in a file.
    ///
    /// # Errors
    /// If `raw` is not exactly `rows` rows of `cols` weights in `format`.
    pub fn pack(
        format: Format,
        rows: usize,
        cols: usize,
        raw: &[u8],
        pool: &Pool,
    ) -> Result<Packed, PackError> {
        Packed::pack_into(&mut Room::default(), format, rows, cols, raw, pool)
    }

    /// As [`Packed::pack`], with memory of `room`.
    ///
    /// # Errors
    /// As [`Packed::pack`].
    pub fn pack_into(
        room: &mut Room,
        format: Format,
        rows: usize,
        cols: usize,
        raw: &[u8],
        pool: &Pool,
    ) -> Result<Packed, PackError> {
        let packed = Packed::empty(format, rows, cols, raw.len())?;
        let tiles = packed.filled(room, raw, pool, &|_| ())?;
        Ok(Packed {
            tiles: OnceLock::from(tiles),
            ..packed
        })
    }

    /// A matrix whose rows stay where they lie, for now.
    ///
    /// # Errors
    /// As [`Packed::pack`].
    pub fn in_place(format: Format, rows: usize, cols: usize, raw: InPlace) -> Result<Packed, PackError> {
        let packed = Packed::empty(format, rows, cols, raw.bytes().len())?;
        Ok(Packed {
            in_place: Some(raw),
            ..packed
        })
    }

    /// Packs what [`Packed::in_place`] left where it lies, with memory of `room`, and lets go of its rows part by part, so
    /// that little is ever held twice. Products may be under way meanwhile.
    ///
    /// # Errors
    /// If there is no memory; the matrix is then as it was.
    pub fn settle(&self, room: &mut Room, pool: &Pool) -> Result<(), PackError> {
        if let (None, Some(raw)) = (self.tiles.get(), &self.in_place) {
            let tiles = self.filled(room, raw.bytes(), pool, &|done| raw.release(0..done))?;
            // Another caller may have been faster; what it has packed is the same.
            let _ = self.tiles.set(tiles);
        }
        Ok(())
    }

    /// Whether its tiles are at hand.
    pub fn settled(&self) -> bool {
        self.tiles.get().is_some()
    }

    /// A matrix of a checked shape and no weights yet.
    fn empty(format: Format, rows: usize, cols: usize, bytes: usize) -> Result<Packed, PackError> {
        let row_bytes = format.row_bytes(cols).ok_or(PackError::Ragged { format, cols })?;
        if row_bytes.checked_mul(rows) != Some(bytes) {
            return Err(PackError::WrongSize {
                format,
                rows,
                cols,
                bytes,
            });
        }
        let too_large = PackError::TooLarge { format, rows, cols };
        let stride = stride(row_bytes).ok_or(too_large.clone())?;
        stride.checked_mul(rows.div_ceil(TILE)).ok_or(too_large)?;
        Ok(Packed {
            format,
            rows,
            cols,
            layout: Layout::of(format),
            row_bytes,
            stride,
            tiles: OnceLock::new(),
            in_place: None,
        })
    }

    /// The bytes of memory that a matrix of this shape will take; `None` where there is no such matrix.
    pub fn bytes_of(format: Format, rows: usize, cols: usize) -> Option<usize> {
        stride(format.row_bytes(cols)?)?.checked_mul(rows.div_ceil(TILE))
    }

    /// The number of rows: values this matrix makes of one token.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The number of columns: values of one token that this matrix takes.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The format of the weights.
    pub fn format(&self) -> Format {
        self.format
    }

    /// The memory this matrix takes.
    pub fn bytes(&self) -> usize {
        self.stride * self.tiles()
    }

    /// Writes row `r` as floats, exactly as [`dequantize_row`] reads it from the file.
    ///
    /// # Panics
    /// If there is no row `r`, or `out` has not the length of a row.
    pub fn row(&self, r: usize, out: &mut [f32]) {
        assert!(r < self.rows, "row {r} of {}", self.rows);
        assert_eq!(out.len(), self.cols, "values of a row");
        let mut raw = Vec::new();
        self.raw_row(r, &mut raw);
        dequantize_row(self.format, &raw, out);
    }

    /// The bytes of row `r` as they stood in the file.
    pub(crate) fn raw_row(&self, r: usize, raw: &mut Vec<u8>) {
        raw.clear();
        let Some(tiles) = self.tiles.get() else {
            raw.extend_from_slice(&self.raw()[r * self.row_bytes..][..self.row_bytes]);
            return;
        };
        raw.resize(self.row_bytes, 0);
        let (tile, lane) = (
            &tiles.as_slice()[r / TILE * self.stride..][..self.stride],
            r % TILE,
        );
        if self.format.block_len() == 1 {
            let size = self.format.block_bytes();
            for (k, bytes) in raw.chunks_exact_mut(size).enumerate() {
                bytes.copy_from_slice(&tile[size * (TILE * k + lane)..][..size]);
            }
            return;
        }
        let group_bytes = self.format.block_bytes() * self.layout.blocks_per_group();
        let mut record = tile;
        for group in raw.chunks_mut(group_bytes) {
            let blocks = self.layout.blocks_of(group.len());
            unpack_group(&self.layout, blocks, record, lane, group);
            record = &record[self.layout.record_bytes(blocks)..];
        }
    }

    /// The number of tiles.
    pub(crate) fn tiles(&self) -> usize {
        self.rows.div_ceil(TILE)
    }

    /// The bytes of one tile; packed into `scratch` where there are none.
    pub(crate) fn tile<'a>(&'a self, tile: usize, scratch: &'a mut Scratch) -> &'a [u8] {
        if let Some(tiles) = self.tiles.get() {
            return &tiles.as_slice()[tile * self.stride..][..self.stride];
        }
        let out = scratch.of(self.stride);
        self.pack_tile(Isa::best(), self.raw(), tile, out);
        out
    }

    /// The rows of a matrix that is not packed.
    fn raw(&self) -> &[u8] {
        self.in_place
            .as_ref()
            .expect("what is not packed lies somewhere")
            .bytes()
    }

    /// Tiles with the weights of `raw`; `done` is told now and then how many of its bytes are no longer needed.
    fn filled(
        &self,
        room: &mut Room,
        raw: &[u8],
        pool: &Pool,
        done: &dyn Fn(usize),
    ) -> Result<Memory, PackError> {
        let &Packed {
            format, rows, cols, ..
        } = self;
        let too_large = PackError::TooLarge { format, rows, cols };
        let mut memory = room.take(self.bytes()).ok_or(too_large)?;
        let (bytes, isa) = (self.stride, Isa::best());
        let base = Base(memory.as_mut_slice().as_mut_ptr());
        let part = (PART / bytes.max(1)).max(1);
        for first in (0..self.tiles()).step_by(part) {
            pool.run(part.min(self.tiles() - first), &|tile| {
                let tile = first + tile;
                // SAFETY: tiles are disjoint parts of the memory, and each has one task.
                let out = unsafe { std::slice::from_raw_parts_mut(base.tile(tile * bytes), bytes) };
                self.pack_tile(isa, raw, tile, out);
            });
            done(self.row_bytes * self.rows.min(TILE * (first + part)));
        }
        Ok(memory)
    }

    /// Writes one tile of the rows in `raw`.
    fn pack_tile(&self, isa: Isa, raw: &[u8], tile: usize, out: &mut [u8]) {
        let mine: Range<usize> = TILE * tile..self.rows.min(TILE * (tile + 1));
        let whole = mine.len() == TILE;
        let raw = &raw[mine.start * self.row_bytes..mine.end * self.row_bytes];
        let rows = TileRows {
            layout: &self.layout,
            raw,
            row_bytes: self.row_bytes,
            tile: out,
        };
        match self.format.block_bytes() {
            2 => pack_floats::<2>(rows),
            4 => pack_floats::<4>(rows),
            _ if !whole => pack_blocks(rows),
            _ => {
                if let Err(rows) = simd::run(isa, rows) {
                    pack_blocks(rows);
                }
            }
        }
    }
}

impl std::fmt::Debug for Packed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Packed({} x {} {})", self.rows, self.cols, self.format)
    }
}

/// The bytes of a tile of rows of `row_bytes`: whole cache lines.
fn stride(row_bytes: usize) -> Option<usize> {
    row_bytes.checked_mul(TILE)?.checked_next_multiple_of(LINE)
}

/// Bytes that are packed before what they were packed from is let go.
const PART: usize = 16 << 20;

/// Where the tiles of a matrix begin.
struct Base(*mut u8);

impl Base {
    fn tile(&self, offset: usize) -> *mut u8 {
        self.0.wrapping_add(offset)
    }
}

// SAFETY: each task turns the pointer into its own tile only.
unsafe impl Sync for Base {}

/// The rows of one tile, and where they go.
struct TileRows<'a> {
    layout: &'a Layout,
    raw: &'a [u8],
    row_bytes: usize,
    /// Zero where there are fewer than 16 rows.
    tile: &'a mut [u8],
}

/// Writes the rows of a tile whose weights take `SIZE` bytes each, column by column.
fn pack_floats<const SIZE: usize>(rows: TileRows) {
    if rows.raw.len() < TILE * rows.row_bytes {
        rows.tile.fill(0);
    }
    for (lane, row) in rows.raw.chunks_exact(rows.row_bytes.max(1)).enumerate() {
        let (row, _) = row.as_chunks::<SIZE>();
        let (columns, _) = rows.tile.as_chunks_mut::<SIZE>();
        for (column, weight) in columns[lane..].iter_mut().step_by(TILE).zip(row) {
            *column = *weight;
        }
    }
}

/// Writes the rows of a tile of a quantised format, record by record and row by row.
fn pack_blocks(rows: TileRows) {
    let (layout, row_bytes) = (rows.layout, rows.row_bytes);
    if rows.raw.len() < TILE * row_bytes {
        rows.tile.fill(0);
    }
    let group_bytes = layout.group_bytes();
    let mut record = rows.tile;
    for start in (0..row_bytes).step_by(group_bytes) {
        let blocks = layout.blocks_of(group_bytes.min(row_bytes - start));
        let (this, rest) = record.split_at_mut(layout.record_bytes(blocks));
        for (lane, row) in rows.raw.chunks_exact(row_bytes).enumerate() {
            let group = &row[start..row_bytes.min(start + group_bytes)];
            pack_group(layout, blocks, group, lane, this);
        }
        record = rest;
    }
}

/// All 16 rows of a tile of a quantised format at once.
impl Kernel for TileRows<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        macro_rules! by_format {
            ($($name:ident)*) => {
                match self.layout.format {
                    // A layout that is known here makes fast code.
                    $(Format::$name => self.records(s, const { &Layout::of(Format::$name) }),)*
                    Format::F32 | Format::F16 | Format::BF16 => unreachable!("floats have no records"),
                }
            };
        }
        by_format!(Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Iq4Nl Mxfp4 Q2K Q3K Q4K Q5K Q6K);
    }
}

impl TileRows<'_> {
    #[inline(always)]
    fn records<S: Simd>(self, s: S, layout: &Layout) {
        let row_bytes = self.row_bytes;
        assert_eq!(self.raw.len(), TILE * row_bytes, "a tile of whole rows");
        let group_bytes = layout.group_bytes();
        let mut record = self.tile;
        for start in (0..row_bytes).step_by(group_bytes) {
            let len = group_bytes.min(row_bytes - start);
            let blocks = layout.blocks_of(len);
            let (this, rest) = record.split_at_mut(layout.record_bytes(blocks));
            let raw = &self.raw[start..];
            // SAFETY: 16 rows begin `row_bytes` apart, each with `len` bytes from `start` on, and the record has the
            // planes of so many blocks.
            unsafe { codes::read_rows(s, layout, raw.as_ptr(), row_bytes, len, this.as_mut_ptr()) };
            let (_, params) = this.split_at_mut(layout.low.bytes(blocks) + layout.high.bytes(blocks));
            for lane in 0..TILE {
                let row = &raw[lane * row_bytes..][..len];
                pack_params(layout, blocks, row, lane, params);
            }
            record = rest;
        }
    }
}

/// Writes the `blocks` blocks of 32 columns in `raw` into lane `lane` of a record.
#[inline(always)]
fn pack_group(layout: &Layout, blocks: usize, raw: &[u8], lane: usize, record: &mut [u8]) {
    let mut words: Words = [0; 64];
    let count = codes::read(layout, raw, &mut words);
    let (planes, params) = record.split_at_mut(LINE * count);
    let (lines, _) = planes.as_chunks_mut::<LINE>();
    for (line, word) in lines.iter_mut().zip(&words) {
        line[4 * lane..][..4].copy_from_slice(&word.to_le_bytes());
    }
    pack_params(layout, blocks, raw, lane, params);
}

/// Writes the scales of the blocks in `raw` into lane `lane` of what stands behind the planes of a record.
#[inline(always)]
fn pack_params(layout: &Layout, blocks: usize, raw: &[u8], lane: usize, params: &mut [u8]) {
    layout.for_params(blocks, |from, to, size| match size {
        1 => params[to + lane] = raw[from],
        _ => params[to + 2 * lane..][..2].copy_from_slice(&raw[from..from + 2]),
    });
}

/// The reverse of [`pack_group`].
fn unpack_group(layout: &Layout, blocks: usize, record: &[u8], lane: usize, raw: &mut [u8]) {
    let mut words: Words = [0; 64];
    let planes = layout.low.bytes(blocks) + layout.high.bytes(blocks);
    let (planes, params) = record.split_at(planes);
    for (line, word) in planes.chunks_exact(LINE).zip(&mut words) {
        *word = u32::from_le_bytes(line[4 * lane..][..4].try_into().expect("four bytes"));
    }
    codes::write(layout, &words, raw);
    layout.for_params(blocks, |from, to, size| {
        raw[from..from + size].copy_from_slice(&params[to + size * lane..][..size]);
    });
}

/// Bytes of a line: one word for each row of a tile.
const LINE: usize = 4 * TILE;

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(n: usize) -> Vec<u8> {
        (0..n as u32)
            .map(|i| (i.wrapping_mul(0x9e37_79b9) >> 24) as u8)
            .collect()
    }

    #[test]
    fn every_byte_of_a_row_comes_back() {
        for format in Format::ALL {
            for blocks in [1, 7, 8, 9, 19] {
                let (rows, cols) = (21, format.block_len() * blocks);
                let row = format.row_bytes(cols).expect("whole blocks");
                let raw = bytes(rows * row);
                let packed = Packed::pack(format, rows, cols, &raw, &Pool::serial()).expect("fits");
                let mut back = Vec::new();
                for (r, raw) in raw.chunks(row).enumerate() {
                    packed.raw_row(r, &mut back);
                    assert_eq!(back, raw, "{format}, {blocks} blocks, row {r}");
                }
            }
        }
    }

    #[test]
    fn every_instruction_set_packs_the_same_tile() {
        for format in Format::ALL {
            for blocks in [1, 7, 8, 9, 19] {
                let cols = format.block_len() * blocks;
                let raw = bytes(16 * format.row_bytes(cols).expect("whole blocks"));
                let packed = Packed::empty(format, 16, cols, raw.len()).expect("a fitting shape");
                let tile = |isa| {
                    let mut tile = vec![0xa5; packed.stride];
                    packed.pack_tile(isa, &raw, 0, &mut tile);
                    tile
                };
                let expected = tile(Isa::Scalar);
                for isa in Isa::all_available() {
                    assert_eq!(tile(isa)[..raw.len()], expected[..raw.len()], "{format} {isa}");
                }
            }
        }
    }

    #[test]
    fn a_packed_matrix_is_no_larger_than_the_file() {
        for format in Format::ALL {
            assert_eq!(
                Packed::bytes_of(format, 64, 2048),
                Some(64 * format.row_bytes(2048).expect("whole"))
            );
            let raw = bytes(format.row_bytes(2048).expect("whole") * 64);
            let packed = Packed::pack(format, 64, 2048, &raw, &Pool::serial()).expect("fits");
            assert_eq!(packed.bytes(), raw.len(), "{format}");
        }
    }

    #[test]
    fn a_row_reads_as_in_the_file() {
        let raw = bytes(18 * 8 * 17);
        let packed = Packed::pack(Format::Q4_0, 17, 256, &raw, &Pool::serial()).expect("fits");
        let (mut got, mut expected) = ([0.0; 256], [0.0; 256]);
        packed.row(16, &mut got);
        dequantize_row(Format::Q4_0, &raw[18 * 8 * 16..], &mut expected);
        assert_eq!(got.map(f32::to_bits), expected.map(f32::to_bits));
    }

    #[test]
    fn a_wrong_size_is_an_error() {
        let pack = |rows, cols, bytes: usize| {
            Packed::pack(Format::Q4K, rows, cols, &vec![0; bytes], &Pool::serial())
        };
        assert!(matches!(pack(1, 255, 144), Err(PackError::Ragged { .. })));
        assert!(matches!(pack(2, 256, 144), Err(PackError::WrongSize { .. })));
        assert!(matches!(
            pack(usize::MAX, 256, 144),
            Err(PackError::WrongSize { .. })
        ));
        assert!(pack(1, 256, 144).is_ok());
    }
}
