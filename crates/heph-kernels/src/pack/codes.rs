//! Codes of one row of a group: from the bytes of a file to quads, and back.
//!
//! A quad is four codes in one word, the first in the lowest byte; codes stand as in the file, without any offset
//! taken away. [`GROUP`] columns are 64 quads.

use crate::format::{BLOCK, Format, SUPERBLOCK};

/// Quads of a group.
type Quads = [u32; 64];

/// Reads the codes of all blocks in `raw`, at most 256 columns.
pub(super) fn read(format: Format, raw: &[u8], quads: &mut Quads) {
    let mut codes = [0u8; SUPERBLOCK];
    if format.is_superblock() {
        read_superblock(format, raw, &mut codes);
    } else {
        for (raw, codes) in raw
            .chunks_exact(format.block_bytes())
            .zip(codes.chunks_exact_mut(BLOCK))
        {
            read_block(format, raw, codes);
        }
    }
    for (quad, codes) in quads.iter_mut().zip(codes.chunks_exact(4)) {
        *quad = u32::from_le_bytes([codes[0], codes[1], codes[2], codes[3]]);
    }
}

/// Writes codes where [`read`] found them; `raw` is zero there.
pub(super) fn write(format: Format, quads: &Quads, raw: &mut [u8]) {
    let mut codes = [0u8; SUPERBLOCK];
    for (codes, quad) in codes.chunks_exact_mut(4).zip(quads) {
        codes.copy_from_slice(&quad.to_le_bytes());
    }
    if format.is_superblock() {
        write_superblock(format, &codes, raw);
    } else {
        for (raw, codes) in raw
            .chunks_exact_mut(format.block_bytes())
            .zip(codes.chunks_exact(BLOCK))
        {
            write_block(format, codes, raw);
        }
    }
}

/// Where the codes of a block of 32 are: first byte of the fifth bits if any, first byte of the rest.
fn places(format: Format) -> (Option<usize>, usize) {
    match format {
        Format::Q4_0 | Format::Iq4Nl | Format::Q8_0 => (None, 2),
        Format::Q4_1 => (None, 4),
        Format::Mxfp4 => (None, 1),
        Format::Q5_0 => (Some(2), 6),
        Format::Q5_1 => (Some(4), 8),
        _ => unreachable!("{format} has no blocks of 32"),
    }
}

fn read_block(format: Format, raw: &[u8], codes: &mut [u8]) {
    let (fifth, rest) = places(format);
    if format == Format::Q8_0 {
        codes.copy_from_slice(&raw[rest..]);
        return;
    }
    read_field::<16, 4>(&raw[rest..], codes, 0);
    if let Some(at) = fifth {
        let bits = u32::from_le_bytes([raw[at], raw[at + 1], raw[at + 2], raw[at + 3]]);
        for (j, code) in codes.iter_mut().enumerate() {
            *code |= ((bits >> j & 1) << 4) as u8;
        }
    }
}

fn write_block(format: Format, codes: &[u8], raw: &mut [u8]) {
    let (fifth, rest) = places(format);
    if format == Format::Q8_0 {
        raw[rest..].copy_from_slice(codes);
        return;
    }
    write_field(codes, &mut raw[rest..], 16, 4, 0);
    if let Some(at) = fifth {
        let bits = codes
            .iter()
            .enumerate()
            .map(|(j, &code)| u32::from(code >> 4) << j)
            .sum::<u32>();
        raw[at..at + 4].copy_from_slice(&bits.to_le_bytes());
    }
}

/// A field of a superblock: first byte, bytes in a run, bits of each code, where in the code they begin. A run of
/// bytes holds first the codes of its lowest bits, one a byte, then those of the next bits, and so on.
type Field = (usize, usize, u32, u32);

fn fields(format: Format) -> &'static [Field] {
    match format {
        Format::Q2K => &[(16, 32, 2, 0)],
        Format::Q3K => &[(32, 32, 2, 0), (0, 32, 1, 2)],
        Format::Q4K => &[(16, 32, 4, 0)],
        Format::Q5K => &[(48, 32, 4, 0), (16, 32, 1, 4)],
        Format::Q6K => &[(0, 64, 4, 0), (128, 32, 2, 4)],
        _ => unreachable!("{format} has no superblocks"),
    }
}

fn read_superblock(format: Format, raw: &[u8], codes: &mut [u8; SUPERBLOCK]) {
    for &(at, run, bits, shift) in fields(format) {
        let raw = &raw[at..];
        match (run, bits) {
            (32, 1) => read_field::<32, 1>(raw, codes, shift),
            (32, 2) => read_field::<32, 2>(raw, codes, shift),
            (32, 4) => read_field::<32, 4>(raw, codes, shift),
            _ => read_field::<64, 4>(raw, codes, shift),
        }
    }
}

fn write_superblock(format: Format, codes: &[u8; SUPERBLOCK], raw: &mut [u8]) {
    for &(at, run, bits, shift) in fields(format) {
        write_field(codes, &mut raw[at..], run, bits, shift);
    }
}

/// Adds a field of `BITS` bits a code in runs of `RUN` bytes: constants, so that this is fast code.
fn read_field<const RUN: usize, const BITS: u32>(raw: &[u8], codes: &mut [u8], shift: u32) {
    let per_byte = (8 / BITS) as usize;
    let mask = ((1u32 << BITS) - 1) as u8;
    let (runs, _) = raw.as_chunks::<RUN>();
    for (raw, codes) in runs.iter().zip(codes.chunks_exact_mut(RUN * per_byte)) {
        let (parts, _) = codes.as_chunks_mut::<RUN>();
        for (j, codes) in parts.iter_mut().enumerate() {
            for (code, byte) in codes.iter_mut().zip(raw) {
                *code |= (byte >> (BITS * j as u32) & mask) << shift;
            }
        }
    }
}

fn write_field(codes: &[u8], raw: &mut [u8], run: usize, bits: u32, shift: u32) {
    let per_byte = (8 / bits) as usize;
    let mask = ((1u32 << bits) - 1) as u8;
    for (raw, codes) in raw.chunks_exact_mut(run).zip(codes.chunks_exact(run * per_byte)) {
        for (j, codes) in codes.chunks_exact(run).enumerate() {
            for (code, byte) in codes.iter().zip(raw.iter_mut()) {
                *byte |= (code >> shift & mask) << (bits * j as u32);
            }
        }
    }
}
