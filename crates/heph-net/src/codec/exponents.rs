//! Numbers with their exponents in a canonical Huffman code. Signs and mantissas are noise and stay as they are.
//!
//! ```text
//! 0 | the numbers plainly                                              where coding would not pay
//! 1 | lowest exponent | exponents - 1 | code lengths | signs and mantissas | bits
//! ```
//!
//! A code length takes four bits, low half first, 0 for an exponent that does not occur. The bits of the codes follow
//! one another from the lowest bit of the first byte on; what is left of the last byte is zero. A single exponent takes
//! no bits. Signs and mantissas stand before the bits so that their number alone bounds what is reserved.

use super::{CodecError, le32};

/// Bytes that every form has besides signs and mantissas: the mode.
pub(super) const HEADER: usize = 1;

/// Longest code. A table for it has 4,096 entries, which is 8 KiB on the stack.
const LENGTH_MAX: u32 = 12;

/// A number format: how many bytes of a single's bits it keeps, counted from the top.
#[derive(Clone, Copy)]
pub(super) struct Format {
    bytes: usize,
}

/// All of a single's bits.
pub(super) const SINGLE: Format = Format { bytes: 4 };

/// Its upper two bytes.
pub(super) const BRAIN: Format = Format { bytes: 2 };

/// Writes numbers, given as a single's bits, packed or plainly, whichever is shorter.
pub(super) fn pack(values: impl Iterator<Item = u32> + Clone, format: Format) -> Vec<u8> {
    let counts = counts(values.clone());
    let count = counts.iter().sum::<u32>() as usize;
    let plain = 1 + count * format.bytes;
    let lengths = code_lengths(&counts);
    let coded_bits: u64 = (0..256)
        .map(|e| u64::from(counts[e]) * u64::from(lengths[e]))
        .sum();
    let used = |e: &usize| counts[*e] > 0;
    let ends = ((0..256).find(used), (0..256).rfind(used));
    let (Some(low), Some(high)) = ends else {
        return vec![0];
    };
    let symbols = high - low + 1;
    let coded = 3 + symbols.div_ceil(2) + count * (format.bytes - 1) + coded_bits.div_ceil(8) as usize;
    if coded >= plain {
        let mut out = Vec::with_capacity(plain);
        out.push(0);
        values.for_each(|bits| out.extend(&bits.to_le_bytes()[4 - format.bytes..]));
        return out;
    }
    let mut out = Vec::with_capacity(coded);
    out.extend([1, low as u8, (symbols - 1) as u8]);
    out.extend(
        lengths[low..=high]
            .chunks(2)
            .map(|pair| pair[0] | pair.get(1).unwrap_or(&0) << 4),
    );
    match format.bytes {
        4 => put_mantissas::<3>(&mut out, count, values.clone()),
        _ => put_mantissas::<1>(&mut out, count, values.clone()),
    }
    let codes = canonical_codes(&lengths);
    let mut bits = BitWriter {
        out,
        held: 0,
        count: 0,
    };
    values.for_each(|value| {
        let e = exponent(value);
        bits.write(codes[e], u32::from(lengths[e]));
    });
    bits.finish()
}

/// How often each exponent occurs. Neighbours are counted apart: they are often equal, and would wait for each other.
fn counts(values: impl Iterator<Item = u32>) -> [u32; 256] {
    let mut apart = [[0u32; 256]; 4];
    for (at, bits) in values.enumerate() {
        apart[at % 4][exponent(bits)] += 1;
    }
    std::array::from_fn(|e| apart.iter().map(|counts| counts[e]).sum())
}

/// Appends the upper `EACH` bytes of each sign and mantissa.
fn put_mantissas<const EACH: usize>(out: &mut Vec<u8>, count: usize, values: impl Iterator<Item = u32>) {
    let start = out.len();
    out.resize(start + count * EACH, 0);
    let (places, _) = out[start..].as_chunks_mut::<EACH>();
    for (place, bits) in places.iter_mut().zip(values) {
        let bytes = sign_and_mantissa(bits).to_le_bytes();
        *place = std::array::from_fn(|at| bytes[3 - EACH + at]);
    }
}

/// Reads `count` numbers. The caller has checked that the bytes hold that many signs and mantissas.
pub(super) fn unpack(bytes: &[u8], count: usize, format: Format) -> Result<Vec<f32>, CodecError> {
    let (mode, rest) = bytes.split_first().ok_or(CodecError::Damaged)?;
    match mode {
        0 if rest.len() == count * format.bytes => {
            let number = |b: &[u8]| f32::from_bits(le32(b) << (32 - 8 * format.bytes));
            Ok(rest.chunks_exact(format.bytes).map(number).collect())
        }
        1 if count > 0 => unpack_coded(rest, count, format),
        _ => Err(CodecError::Damaged),
    }
}

fn unpack_coded(bytes: &[u8], count: usize, format: Format) -> Result<Vec<f32>, CodecError> {
    let (&[low, more], rest) = bytes.split_first_chunk().ok_or(CodecError::Damaged)?;
    let (low, symbols) = (usize::from(low), usize::from(more) + 1);
    let (halves, rest) = rest
        .split_at_checked(symbols.div_ceil(2))
        .ok_or(CodecError::Damaged)?;
    if low + symbols > 256 {
        return Err(CodecError::Damaged);
    }
    let mut lengths = [0u8; 256];
    for (at, length) in lengths[low..low + symbols].iter_mut().enumerate() {
        *length = halves[at / 2] >> (at % 2 * 4) & 15;
    }
    let single = symbols == 1;
    let table = if single {
        None
    } else {
        Some(decoding_table(&lengths)?)
    };
    let each = format.bytes - 1;
    let (mantissas, bits) = rest.split_at_checked(count * each).ok_or(CodecError::Damaged)?;
    let bits = BitReader {
        bytes: bits,
        held: 0,
        count: 0,
    };
    let exponents = Exponents {
        table,
        alone: low as u8,
        bits,
    };
    match each {
        3 => numbers::<3>(mantissas, exponents),
        _ => numbers::<1>(mantissas, exponents),
    }
}

/// The exponents of the numbers, one after another.
struct Exponents<'a> {
    table: Option<Box<Table>>,
    /// The only one there is, where there is no table.
    alone: u8,
    bits: BitReader<'a>,
}

/// Numbers of signs and mantissas that have `EACH` bytes, and of their exponents.
fn numbers<const EACH: usize>(mantissas: &[u8], exponents: Exponents<'_>) -> Result<Vec<f32>, CodecError> {
    let Exponents {
        table,
        alone,
        mut bits,
    } = exponents;
    let (mantissas, _) = mantissas.as_chunks::<EACH>();
    let mut numbers = Vec::with_capacity(mantissas.len());
    for mantissa in mantissas {
        let exponent = match &table {
            Some(table) => bits.symbol(table)?,
            None => alone,
        };
        let mut bytes = [0; 4];
        bytes[3 - EACH..3].copy_from_slice(mantissa);
        let word = u32::from_le_bytes(bytes);
        numbers.push(f32::from_bits(
            (word & 0x80_0000) << 8 | u32::from(exponent) << 23 | word & 0x7F_FFFF,
        ));
    }
    bits.finish()?;
    Ok(numbers)
}

fn exponent(bits: u32) -> usize {
    (bits >> 23 & 0xFF) as usize
}

/// The other 24 bits, the sign above the mantissa.
fn sign_and_mantissa(bits: u32) -> u32 {
    bits >> 8 & 0x80_0000 | bits & 0x7F_FFFF
}

/// Lengths of a Huffman code in which none is longer than [`LENGTH_MAX`]; a lone symbol has length 0. Counts are halved
/// until the code is short enough: with equal counts 256 symbols take 8 bits.
fn code_lengths(counts: &[u32; 256]) -> [u8; 256] {
    let mut counts = *counts;
    loop {
        let lengths = huffman(&counts);
        if lengths.iter().all(|length| u32::from(*length) <= LENGTH_MAX) {
            return lengths;
        }
        counts
            .iter_mut()
            .filter(|c| **c > 0)
            .for_each(|c| *c = *c >> 1 | 1);
    }
}

/// Huffman's lengths (1952), by two queues: leaves sorted by count, and inner nodes, which arise in order. At equal
/// counts a leaf goes first, then the lower exponent, so that every machine builds the same code.
fn huffman(counts: &[u32; 256]) -> [u8; 256] {
    let mut leaves: Vec<usize> = (0..256).filter(|symbol| counts[*symbol] > 0).collect();
    leaves.sort_by_key(|symbol| counts[*symbol]);
    let n = leaves.len();
    let mut lengths = [0u8; 256];
    if n < 2 {
        return lengths;
    }
    // Nodes 0..n are the leaves in order, n.. the inner nodes; the last one is the root.
    let mut weight: Vec<u64> = leaves.iter().map(|symbol| u64::from(counts[*symbol])).collect();
    let mut parent = vec![0; 2 * n - 1];
    let (mut leaf, mut inner) = (0, n);
    for node in n..2 * n - 1 {
        let mut lightest = || {
            let take_leaf = leaf < n && (inner >= weight.len() || weight[leaf] <= weight[inner]);
            let taken = if take_leaf { &mut leaf } else { &mut inner };
            *taken += 1;
            *taken - 1
        };
        let (a, b) = (lightest(), lightest());
        (parent[a], parent[b]) = (node, node);
        weight.push(weight[a] + weight[b]);
    }
    let mut depth = vec![0u8; 2 * n - 1];
    for node in (0..2 * n - 2).rev() {
        depth[node] = depth[parent[node]].saturating_add(1);
    }
    leaves
        .iter()
        .zip(depth)
        .for_each(|(symbol, depth)| lengths[*symbol] = depth);
    lengths
}

/// Codes in order of length and then of symbol, with their first bit lowest.
fn canonical_codes(lengths: &[u8; 256]) -> [u32; 256] {
    let mut of_length = [0u32; LENGTH_MAX as usize + 2];
    for length in lengths.iter().filter(|length| **length > 0) {
        of_length[usize::from(*length) + 1] += 1;
    }
    // The first code of each length follows the last one that is a bit shorter.
    let mut next = [0u32; LENGTH_MAX as usize + 1];
    for length in 1..next.len() {
        next[length] = (next[length - 1] + of_length[length]) << 1;
    }
    let mut codes = [0; 256];
    for (code, length) in codes.iter_mut().zip(lengths).filter(|(_, length)| **length > 0) {
        let first = &mut next[usize::from(*length)];
        *code = first.reverse_bits() >> (32 - u32::from(*length));
        *first += 1;
    }
    codes
}

/// For each run of [`LENGTH_MAX`] bits the symbol that it begins with and its length.
type Table = [(u8, u8); 1 << LENGTH_MAX];

/// The table of a complete code; others are refused, so that every run of bits means something.
fn decoding_table(lengths: &[u8; 256]) -> Result<Box<Table>, CodecError> {
    let share = |length: &u8| match u32::from(*length) {
        0 => Ok(0),
        length if length <= LENGTH_MAX => Ok(1u32 << (LENGTH_MAX - length)),
        _ => Err(CodecError::Damaged),
    };
    let full = lengths
        .iter()
        .try_fold(0, |sum, length| share(length).map(|part| sum + part))?;
    if full != 1 << LENGTH_MAX {
        return Err(CodecError::Damaged);
    }
    let codes = canonical_codes(lengths);
    let mut table = Box::new([(0, 0); 1 << LENGTH_MAX]);
    for symbol in (0..256).filter(|symbol| lengths[*symbol] > 0) {
        let length = lengths[symbol];
        for at in (codes[symbol] as usize..table.len()).step_by(1 << length) {
            table[at] = (symbol as u8, length);
        }
    }
    Ok(table)
}

struct BitWriter {
    out: Vec<u8>,
    held: u64,
    count: u32,
}

impl BitWriter {
    fn write(&mut self, code: u32, length: u32) {
        self.held |= u64::from(code) << self.count;
        self.count += length;
        if self.count >= 32 {
            self.out.extend((self.held as u32).to_le_bytes());
            self.held >>= 32;
            self.count -= 32;
        }
    }

    fn finish(mut self) -> Vec<u8> {
        let left = self.count.div_ceil(8) as usize;
        self.out.extend(&self.held.to_le_bytes()[..left]);
        self.out
    }
}

struct BitReader<'a> {
    bytes: &'a [u8],
    held: u64,
    count: u32,
}

impl BitReader<'_> {
    fn symbol(&mut self, table: &Table) -> Result<u8, CodecError> {
        if self.count < LENGTH_MAX {
            self.fill();
        }
        let (symbol, length) = table[self.held as usize & (table.len() - 1)];
        let length = u32::from(length);
        if length > self.count {
            return Err(CodecError::Damaged);
        }
        self.held >>= length;
        self.count -= length;
        Ok(symbol)
    }

    /// Takes as many bytes as fit. Eight at a time leave bits of the next byte above the count, which it sets again.
    fn fill(&mut self) {
        if let Some(word) = self.bytes.first_chunk() {
            self.held |= u64::from_le_bytes(*word) << self.count;
            let taken = (63 - self.count) / 8;
            self.bytes = &self.bytes[taken as usize..];
            self.count += 8 * taken;
        }
        while self.count <= 56
            && let Some((byte, rest)) = self.bytes.split_first()
        {
            self.held |= u64::from(*byte) << self.count;
            self.count += 8;
            self.bytes = rest;
        }
    }

    /// Nothing may be left but the zeros that fill the last byte.
    fn finish(self) -> Result<(), CodecError> {
        let clean = self.bytes.is_empty() && self.count < 8 && self.held == 0;
        clean.then_some(()).ok_or(CodecError::Damaged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_never_longer_than_its_table() {
        let mut fibonacci = [0u32; 256];
        let (mut a, mut b) = (1u32, 1u32);
        for count in fibonacci.iter_mut().take(40) {
            *count = a;
            (a, b) = (b, a + b);
        }
        let lengths = code_lengths(&fibonacci);
        assert!(lengths.iter().all(|length| u32::from(*length) <= LENGTH_MAX));
        assert!(decoding_table(&lengths).is_ok());
        assert!(decoding_table(&code_lengths(&[1; 256])).is_ok());
    }

    #[test]
    fn one_exponent_takes_no_bits() {
        let ones = vec![1.0f32.to_bits(); 100];
        let bytes = pack(ones.iter().copied(), SINGLE);
        assert_eq!(bytes.len(), 4 + 300);
        assert_eq!(unpack(&bytes, 100, SINGLE), Ok(vec![1.0; 100]));
    }

    #[test]
    fn damaged_tables_and_left_over_bits_are_refused() {
        let values: Vec<u32> = (1..200).map(|n| (n as f32).to_bits()).collect();
        let good = pack(values.iter().copied(), SINGLE);
        assert!(unpack(&good, 199, SINGLE).is_ok());
        let mut longer = good.clone();
        longer.push(0);
        let mut table = good.clone();
        table[3] ^= 1;
        let mut high = good.clone();
        high[1] = 255;
        for bad in [&longer[..], &table, &high, &good[..good.len() - 1], &[2], &[]] {
            assert_eq!(unpack(bad, 199, SINGLE), Err(CodecError::Damaged));
        }
        assert_eq!(unpack(&good, 198, SINGLE), Err(CodecError::Damaged));
    }
}
