//! Blocks of 32 weights under one scale: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, IQ4_NL, MXFP4.

use super::{BLOCK, Format, half_at, put_half};

/// The 16 steps of IQ4_NL.
pub(super) const IQ4_NL_STEPS: [i8; 16] = [
    -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113,
];

/// The 16 values of E2M1, doubled to be whole.
pub(super) const E2M1_STEPS: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// One block as whole numbers: weight `i` is `scale * codes[i] + minimum`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Block32 {
    /// Signed codes in the order of the weights; 0 to 31 where the format has a minimum.
    pub codes: [i8; BLOCK],
    /// The step between codes.
    pub scale: f32,
    /// Added to each weight; zero where the format has none.
    pub minimum: f32,
}

impl Block32 {
    /// Reads the first block of `bytes`.
    ///
    /// # Panics
    /// If `bytes` is shorter than a block, or `format` has no blocks of 32.
    pub fn read(&mut self, format: Format, bytes: &[u8]) {
        self.scale = if format == Format::Mxfp4 {
            e8m0_half(bytes[0])
        } else {
            half_at(bytes, 0)
        };
        self.minimum = if format.has_minimum() {
            half_at(bytes, 2)
        } else {
            0.0
        };
        match format {
            Format::Q4_0 => self.nibbles(&bytes[2..18], |q| q as i8 - 8),
            Format::Q4_1 => self.nibbles(&bytes[4..20], |q| q as i8),
            Format::Q5_0 => self.fifths(&bytes[2..22], 16),
            Format::Q5_1 => self.fifths(&bytes[4..24], 0),
            Format::Q8_0 => self.codes = std::array::from_fn(|i| bytes[2 + i] as i8),
            Format::Iq4Nl => self.nibbles(&bytes[2..18], |q| IQ4_NL_STEPS[usize::from(q)]),
            Format::Mxfp4 => self.nibbles(&bytes[1..17], |q| E2M1_STEPS[usize::from(q)]),
            _ => unreachable!("{format} has no blocks of 32"),
        }
    }

    /// Writes the block over the first of `bytes`: the reverse of [`Block32::read`].
    ///
    /// Scale and minimum are rounded to the format; codes must be among the format's.
    ///
    /// # Panics
    /// If `bytes` is shorter than a block, or `format` has no blocks of 32.
    pub fn write(&self, format: Format, bytes: &mut [u8]) {
        match format {
            Format::Mxfp4 => bytes[0] = e8m0_of_half(self.scale),
            _ => put_half(bytes, 0, self.scale),
        }
        if format.has_minimum() {
            put_half(bytes, 2, self.minimum);
        }
        match format {
            Format::Q4_0 => self.put_nibbles(&mut bytes[2..18], |code| (code + 8) as u8),
            Format::Q4_1 => self.put_nibbles(&mut bytes[4..20], |code| code as u8),
            Format::Q5_0 => self.put_fifths(&mut bytes[2..22], 16),
            Format::Q5_1 => self.put_fifths(&mut bytes[4..24], 0),
            Format::Q8_0 => bytes[2..34]
                .iter_mut()
                .zip(&self.codes)
                .for_each(|(b, &code)| *b = code as u8),
            Format::Iq4Nl => self.put_nibbles(&mut bytes[2..18], |code| index_of(&IQ4_NL_STEPS, code)),
            Format::Mxfp4 => self.put_nibbles(&mut bytes[1..17], |code| index_of(&E2M1_STEPS, code)),
            _ => unreachable!("{format} has no blocks of 32"),
        }
    }

    /// Writes the 32 weights.
    pub fn dequantize(&self, out: &mut [f32]) {
        for (weight, &code) in out.iter_mut().zip(&self.codes) {
            *weight = self.scale * f32::from(code) + self.minimum;
        }
    }

    /// Byte `j` holds weight `j` in its low half and weight `j + 16` in its high half.
    fn nibbles(&mut self, packed: &[u8], code: impl Fn(u8) -> i8) {
        for (j, &byte) in packed.iter().enumerate() {
            self.codes[j] = code(byte & 15);
            self.codes[j + 16] = code(byte >> 4);
        }
    }

    fn put_nibbles(&self, packed: &mut [u8], nibble: impl Fn(i8) -> u8) {
        let (low, high) = self.codes.split_at(16);
        for ((byte, &low), &high) in packed.iter_mut().zip(low).zip(high) {
            *byte = (nibble(low) & 15) | nibble(high) << 4;
        }
    }

    fn put_fifths(&self, packed: &mut [u8], zero: i8) {
        let fifth = |j: usize| u32::from((self.codes[j] + zero) as u8 >> 4) << j;
        packed[..4].copy_from_slice(&(0..BLOCK).fold(0, |bits, j| bits | fifth(j)).to_le_bytes());
        self.put_nibbles(&mut packed[4..20], |code| (code + zero) as u8 & 15);
    }

    /// Four bytes of fifth bits, one per weight, then the nibbles.
    fn fifths(&mut self, packed: &[u8], zero: i8) {
        let fifth = u32::from_le_bytes([packed[0], packed[1], packed[2], packed[3]]);
        self.nibbles(&packed[4..], |q| q as i8);
        for (j, code) in self.codes.iter_mut().enumerate() {
            *code += ((fifth >> j & 1) << 4) as i8 - zero;
        }
    }
}

/// Half of the power of two that the exponent byte of a microscaling block stands for: `2^(e - 128)`.
pub(super) fn e8m0_half(exponent: u8) -> f32 {
    let bits = match exponent {
        0 | 1 => 0x0020_0000 << exponent,
        _ => u32::from(exponent - 1) << 23,
    };
    f32::from_bits(bits)
}

/// The exponent byte whose half power of two is `scale`, which must be one.
fn e8m0_of_half(scale: f32) -> u8 {
    let bits = scale.to_bits();
    if bits < 0x0080_0000 {
        u8::from(bits >= 0x0040_0000)
    } else {
        (bits >> 23) as u8 + 1
    }
}

/// Where `code` stands among the steps of its format.
fn index_of(steps: &[i8; 16], code: i8) -> u8 {
    steps.iter().position(|&step| step == code).unwrap_or(0) as u8
}
