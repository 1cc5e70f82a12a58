//! Codes of one row of a group: from the bytes of a file to the words of a record, and back.
//!
//! A quad is four codes in one word, the first in the lowest byte; codes stand as in the file, without any offset
//! taken away. A row has one word in every line of a plane: bits of as many quads as a line holds, the first quad in
//! the lowest bits of each byte. A field of a file and its words are the same bits in another order, so a word is
//! made in a few operations and no code is ever alone.

use super::layout::{Layout, TILE};
use crate::format::Format;
use crate::simd::Simd;

/// The words of one row in a record: those of the low plane, then those of the high plane.
pub(super) type Words = [u32; 64];

/// Reads the codes of all blocks in `raw`, at most 256 columns, and returns how many words they make.
#[inline(always)]
pub(super) fn read(layout: &Layout, raw: &[u8], words: &mut Words) -> usize {
    let places = Places::of(layout, raw.len());
    for (block, raw) in raw.chunks_exact(layout.format.block_bytes()).enumerate() {
        for field in fields(layout.format) {
            let (raw, words) = (&raw[field.at..], &mut words[places.words(field.plane, block)]);
            match field.form {
                Form::Bytes => turn::<32, 8>(raw, words),
                Form::Nibbles16 => turn::<16, 4>(raw, words),
                Form::Nibbles32 => turn::<32, 4>(raw, words),
                Form::Nibbles64 => turn::<64, 4>(raw, words),
                Form::Pairs32 => turn::<32, 2>(raw, words),
                Form::Bits32 => turn::<32, 1>(raw, words),
                Form::Fifth => words[0] = spread(word(raw)),
            }
        }
    }
    places.count()
}

/// Writes codes where [`read`] found them; the words are as many as it returned.
pub(super) fn write(layout: &Layout, words: &Words, raw: &mut [u8]) {
    let places = Places::of(layout, raw.len());
    for (block, raw) in raw.chunks_exact_mut(layout.format.block_bytes()).enumerate() {
        for field in fields(layout.format) {
            let (raw, words) = (&mut raw[field.at..], &words[places.words(field.plane, block)]);
            match field.form {
                Form::Bytes => turn_back::<32, 8>(words, raw),
                Form::Nibbles16 => turn_back::<16, 4>(words, raw),
                Form::Nibbles32 => turn_back::<32, 4>(words, raw),
                Form::Nibbles64 => turn_back::<64, 4>(words, raw),
                Form::Pairs32 => turn_back::<32, 2>(words, raw),
                Form::Bits32 => turn_back::<32, 1>(words, raw),
                Form::Fifth => raw[..4].copy_from_slice(&gather(words[0]).to_le_bytes()),
            }
        }
    }
}

/// Reads the codes of 16 rows at once, `stride` bytes apart, and writes the lines of a record's planes. A row's part of
/// the record takes `len` bytes.
///
/// # Safety
/// That much of each row can be read, and as many lines written as [`read`] would make words.
#[inline(always)]
pub(super) unsafe fn read_rows<S: Simd>(
    s: S,
    layout: &Layout,
    raw: *const u8,
    stride: usize,
    len: usize,
    lines: *mut u8,
) {
    let places = Places::of(layout, len);
    for block in 0..places.blocks {
        for field in fields(layout.format) {
            let words = places.words(field.plane, block);
            let at = raw.wrapping_add(block * layout.format.block_bytes() + field.at);
            for row in (0..TILE).step_by(S::LANES) {
                let (at, lines) = (at.wrapping_add(row * stride), lines.wrapping_add(4 * row));
                for (run, first) in words.clone().step_by(field.form.words()).enumerate() {
                    let at = at.wrapping_add(4 * field.form.words() * run);
                    let to = lines.wrapping_add(4 * TILE * first);
                    // SAFETY: a run of the field in each row, and lines for it.
                    unsafe {
                        match field.form {
                            Form::Bytes => turn_rows::<S, 8, 8>(s, at, stride, to),
                            Form::Nibbles16 => turn_rows::<S, 4, 4>(s, at, stride, to),
                            Form::Nibbles32 => turn_rows::<S, 8, 4>(s, at, stride, to),
                            Form::Nibbles64 => turn_rows::<S, 16, 4>(s, at, stride, to),
                            Form::Pairs32 => turn_rows::<S, 8, 2>(s, at, stride, to),
                            Form::Bits32 => turn_rows::<S, 8, 1>(s, at, stride, to),
                            Form::Fifth => {
                                for lane in 0..S::LANES {
                                    let bits = at.add(lane * stride).cast::<u32>().read_unaligned();
                                    to.cast::<u32>().add(lane).write(spread(bits));
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// As [`turn`], of a run of `WORDS` words in each row of a vector.
///
/// # Safety
/// Each row has them, and `to` has as many lines.
#[inline(always)]
unsafe fn turn_rows<S: Simd, const WORDS: usize, const BITS: u32>(
    s: S,
    raw: *const u8,
    stride: usize,
    to: *mut u8,
) {
    let quads = (8 / BITS) as usize;
    let parts = WORDS / quads;
    // SAFETY: as the caller promises.
    unsafe {
        let mut words = [s.words(raw, stride); 4];
        for (four, words) in words.iter_mut().enumerate().take(WORDS / 4).skip(1) {
            *words = s.words(raw.add(16 * four), stride);
        }
        for part in 0..quads {
            for n in 0..parts {
                let line = |i: usize| {
                    let word = words[(quads * n + i) / 4][(quads * n + i) % 4];
                    match BITS {
                        8 => word,
                        _ => {
                            let codes = s.and(s.down(word, BITS * part as u32), mask(BITS) as u8);
                            s.up(codes, BITS * i as u32)
                        }
                    }
                };
                let line = (1..quads).fold(line(0), |sum, i| s.or(sum, line(i)));
                s.store(line, to.add(4 * TILE * (parts * part + n)));
            }
        }
    }
}

/// Some bits of every code of a block of the file.
struct Field {
    /// Its first byte.
    at: usize,
    plane: Half,
    form: Form,
}

/// Which plane a field goes into.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Half {
    Low,
    High,
}

/// How a field lies in the file: in runs of bytes that hold first the codes of their lowest bits, one a byte, then
/// those of the next bits, and so on.
#[derive(Clone, Copy)]
enum Form {
    /// Whole bytes.
    Bytes,
    /// 4 bits a code, in runs of 16 bytes.
    Nibbles16,
    /// 4 bits a code, in runs of 32 bytes.
    Nibbles32,
    /// 4 bits a code, in runs of 64 bytes.
    Nibbles64,
    /// 2 bits a code, in runs of 32 bytes.
    Pairs32,
    /// 1 bit a code, in runs of 32 bytes.
    Bits32,
    /// 1 bit a code, 32 codes one after another in four bytes.
    Fifth,
}

impl Form {
    /// Words of a run.
    const fn words(self) -> usize {
        match self {
            Form::Nibbles16 => 4,
            Form::Bytes | Form::Nibbles32 | Form::Pairs32 | Form::Bits32 => 8,
            Form::Nibbles64 => 16,
            Form::Fifth => 1,
        }
    }
}

const fn low(at: usize, form: Form) -> Field {
    let plane = Half::Low;
    Field { at, plane, form }
}

const fn high(at: usize, form: Form) -> Field {
    let plane = Half::High;
    Field { at, plane, form }
}

fn fields(format: Format) -> &'static [Field] {
    match format {
        Format::F32 | Format::F16 | Format::BF16 => &[],
        Format::Q8_0 => const { &[low(2, Form::Bytes)] },
        Format::Q4_0 | Format::Iq4Nl => const { &[low(2, Form::Nibbles16)] },
        Format::Q4_1 => const { &[low(4, Form::Nibbles16)] },
        Format::Mxfp4 => const { &[low(1, Form::Nibbles16)] },
        Format::Q5_0 => const { &[low(6, Form::Nibbles16), high(2, Form::Fifth)] },
        Format::Q5_1 => const { &[low(8, Form::Nibbles16), high(4, Form::Fifth)] },
        Format::Q2K => const { &[low(16, Form::Pairs32)] },
        Format::Q3K => const { &[low(32, Form::Pairs32), high(0, Form::Bits32)] },
        Format::Q4K => const { &[low(16, Form::Nibbles32)] },
        Format::Q5K => const { &[low(48, Form::Nibbles32), high(16, Form::Bits32)] },
        Format::Q6K => const { &[low(0, Form::Nibbles64), high(128, Form::Pairs32)] },
    }
}

/// Where the words of each block are: a block of 32 columns has a word for each bit of its codes in a plane.
struct Places {
    low: usize,
    high: usize,
    blocks: usize,
}

impl Places {
    /// Of the blocks in `raw` bytes of a row.
    #[inline(always)]
    fn of(layout: &Layout, raw: usize) -> Places {
        let each = layout.format.block_len() / 32;
        Places {
            low: each * layout.low.bits as usize,
            high: each * layout.high.bits as usize,
            blocks: raw / layout.format.block_bytes(),
        }
    }

    /// The words of one block.
    #[inline(always)]
    fn words(&self, plane: Half, block: usize) -> std::ops::Range<usize> {
        let (start, count) = match plane {
            Half::Low => (self.low * block, self.low),
            Half::High => (self.low * self.blocks + self.high * block, self.high),
        };
        start..start + count
    }

    fn count(&self) -> usize {
        (self.low + self.high) * self.blocks
    }
}

/// The words of a field of `BITS` bits a code in runs of `RUN` bytes: constants, so that this is fast code.
#[inline(always)]
fn turn<const RUN: usize, const BITS: u32>(raw: &[u8], words: &mut [u32]) {
    let (quads, mask) = ((8 / BITS) as usize, mask(BITS));
    let parts = RUN / 4 / quads;
    let (runs, _) = raw.as_chunks::<RUN>();
    for (run, words) in runs.iter().zip(words.chunks_exact_mut(RUN / 4)) {
        for part in 0..quads {
            for n in 0..parts {
                words[parts * part + n] = (0..quads).fold(0, |sum, i| {
                    let codes = word(&run[4 * (quads * n + i)..]) >> (BITS * part as u32) & mask;
                    sum | codes << (BITS * i as u32)
                });
            }
        }
    }
}

/// The reverse of [`turn`].
fn turn_back<const RUN: usize, const BITS: u32>(words: &[u32], raw: &mut [u8]) {
    let (quads, mask) = ((8 / BITS) as usize, mask(BITS));
    let parts = RUN / 4 / quads;
    let (runs, _) = raw.as_chunks_mut::<RUN>();
    for (run, words) in runs.iter_mut().zip(words.chunks_exact(RUN / 4)) {
        for (i, bytes) in run.chunks_exact_mut(4).enumerate() {
            let all = (0..quads).fold(0, |sum, part| {
                let codes = words[parts * part + i / quads] >> (BITS * (i % quads) as u32) & mask;
                sum | codes << (BITS * part as u32)
            });
            bytes.copy_from_slice(&all.to_le_bytes());
        }
    }
}

/// The lowest `bits` of every byte.
const fn mask(bits: u32) -> u32 {
    0x0101_0101 * ((1 << bits) - 1)
}

#[inline(always)]
fn word(raw: &[u8]) -> u32 {
    u32::from_le_bytes([raw[0], raw[1], raw[2], raw[3]])
}

/// Bit `4 * i + b` moved to bit `8 * b + i`: one bit for each of 32 codes, as eight quads have it.
fn spread(bits: u32) -> u32 {
    (0..32).fold(0, |sum, n| sum | (bits >> n & 1) << (8 * (n % 4) + n / 4))
}

/// The reverse of [`spread`].
fn gather(word: u32) -> u32 {
    (0..32).fold(0, |sum, n| sum | (word >> (8 * (n % 4) + n / 4) & 1) << n)
}
