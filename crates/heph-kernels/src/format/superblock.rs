//! Blocks of 256 weights with a scale for every 16 or 32: the K formats Q2_K, Q3_K, Q4_K, Q5_K, Q6_K.

use super::{Format, SUPERBLOCK, half_at, put_half};

/// Sub-blocks of 16 in a superblock. Formats with sub-blocks of 32 repeat each scale.
const PARTS: usize = SUPERBLOCK / 16;

/// One superblock as whole numbers: weight `i` is `(scale * scales[i / 16]) * codes[i] - minimum * minima[i / 16]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Superblock {
    /// Codes in the order of the weights; never negative where the format has minima.
    pub codes: [i8; SUPERBLOCK],
    /// Whole-number scale of each 16 weights.
    pub scales: [i8; PARTS],
    /// Whole-number minimum of each 16 weights; zero where the format has none.
    pub minima: [u8; PARTS],
    /// The step between scales.
    pub scale: f32,
    /// The step between minima; zero where the format has none.
    pub minimum: f32,
}

impl Default for Superblock {
    fn default() -> Self {
        Superblock {
            codes: [0; SUPERBLOCK],
            scales: [0; PARTS],
            minima: [0; PARTS],
            scale: 0.0,
            minimum: 0.0,
        }
    }
}

impl Superblock {
    /// Reads the first superblock of `bytes`.
    ///
    /// # Panics
    /// If `bytes` is shorter than a superblock, or `format` is no K format.
    pub fn read(&mut self, format: Format, bytes: &[u8]) {
        self.minima = [0; PARTS];
        self.minimum = 0.0;
        match format {
            Format::Q2K => self.read_q2(bytes),
            Format::Q3K => self.read_q3(bytes),
            Format::Q4K => self.read_q4(bytes),
            Format::Q5K => self.read_q5(bytes),
            Format::Q6K => self.read_q6(bytes),
            _ => unreachable!("{format} has no superblocks"),
        }
    }

    /// Writes the superblock over the first of `bytes`: the reverse of [`Superblock::read`].
    ///
    /// The two steps are rounded to the format; codes, scales and minima must be among the format's.
    ///
    /// # Panics
    /// If `bytes` is shorter than a superblock, or `format` is no K format.
    pub fn write(&self, format: Format, bytes: &mut [u8]) {
        bytes[..format.block_bytes()].fill(0);
        match format {
            Format::Q2K => self.write_q2(bytes),
            Format::Q3K => self.write_q3(bytes),
            Format::Q4K => self.write_q4(bytes),
            Format::Q5K => self.write_q5(bytes),
            Format::Q6K => self.write_q6(bytes),
            _ => unreachable!("{format} has no superblocks"),
        }
    }

    /// Writes the 256 weights.
    pub fn dequantize(&self, out: &mut [f32]) {
        for (part, weights) in out.chunks_exact_mut(16).enumerate() {
            let scale = self.scale * f32::from(self.scales[part]);
            let minimum = self.minimum * f32::from(self.minima[part]);
            for (weight, &code) in weights.iter_mut().zip(&self.codes[16 * part..]) {
                *weight = scale * f32::from(code) - minimum;
            }
        }
    }

    /// 16 bytes of scale and minimum halves, 64 of codes, the two steps.
    fn read_q2(&mut self, bytes: &[u8]) {
        self.scales = std::array::from_fn(|part| (bytes[part] & 15) as i8);
        self.minima = std::array::from_fn(|part| bytes[part] >> 4);
        self.quarters(&bytes[16..80]);
        self.scale = half_at(bytes, 80);
        self.minimum = half_at(bytes, 82);
    }

    /// 32 bytes of third bits, 64 of codes, 12 of scales, the step. A clear third bit takes 4 away.
    fn read_q3(&mut self, bytes: &[u8]) {
        self.quarters(&bytes[32..96]);
        for (i, code) in self.codes.iter_mut().enumerate() {
            *code -= if bytes[i % 32] >> (i / 32) & 1 == 1 { 0 } else { 4 };
        }
        let packed = &bytes[96..108];
        for (part, scale) in self.scales.iter_mut().enumerate() {
            let low = packed[part % 8] >> (4 * (part / 8)) & 15;
            let high = packed[8 + part % 4] >> (2 * (part / 4)) & 3;
            *scale = (low | high << 4) as i8 - 32;
        }
        self.scale = half_at(bytes, 108);
    }

    /// The two steps, 12 bytes of scales and minima, 128 of codes.
    fn read_q4(&mut self, bytes: &[u8]) {
        self.steps_and_sixths(bytes);
        self.halves(&bytes[16..144]);
    }

    /// As Q4_K with 32 bytes of fifth bits before the codes: bit `i` of byte `j` belongs to weight `32 i + j`.
    fn read_q5(&mut self, bytes: &[u8]) {
        self.steps_and_sixths(bytes);
        self.halves(&bytes[48..176]);
        for (i, code) in self.codes.iter_mut().enumerate() {
            *code += ((bytes[16 + i % 32] >> (i / 32) & 1) << 4) as i8;
        }
    }

    /// 128 bytes of low halves, 64 of upper bits, 16 signed scales, the step. Each half of 128 weights uses 64
    /// bytes of low halves (weights 0 to 63 low, 64 to 127 high) and 32 of upper bits.
    fn read_q6(&mut self, bytes: &[u8]) {
        for (i, code) in self.codes.iter_mut().enumerate() {
            let (half, rest) = (i / 128, i % 128);
            let low = bytes[64 * half + rest % 64] >> (4 * (rest / 64)) & 15;
            let high = bytes[128 + 32 * half + rest % 32] >> (2 * (rest / 32)) & 3;
            *code = (low | high << 4) as i8 - 32;
        }
        self.scales = std::array::from_fn(|part| bytes[192 + part] as i8);
        self.scale = half_at(bytes, 208);
    }

    /// Two bits a weight: each half of 128 weights uses 32 bytes, weights 0 to 31 in their lowest bits.
    fn quarters(&mut self, packed: &[u8]) {
        for (i, code) in self.codes.iter_mut().enumerate() {
            let (half, rest) = (i / 128, i % 128);
            *code = (packed[32 * half + rest % 32] >> (2 * (rest / 32)) & 3) as i8;
        }
    }

    /// Four bits a weight: each 64 weights use 32 bytes, the first 32 in the low halves.
    fn halves(&mut self, packed: &[u8]) {
        for (i, code) in self.codes.iter_mut().enumerate() {
            let (run, rest) = (i / 64, i % 64);
            *code = (packed[32 * run + rest % 32] >> (4 * (rest / 32)) & 15) as i8;
        }
    }

    /// The two steps, then eight 6-bit scales and eight 6-bit minima in 12 bytes: the first four of each are the
    /// low bits of bytes 0 to 7; the last four have their low halves in bytes 8 to 11 and their upper bits on top
    /// of bytes 0 to 7.
    fn steps_and_sixths(&mut self, bytes: &[u8]) {
        self.scale = half_at(bytes, 0);
        self.minimum = half_at(bytes, 2);
        let packed = &bytes[4..16];
        for part in 0..PARTS {
            let sub = part / 2;
            let (scale, minimum) = if sub < 4 {
                (packed[sub] & 63, packed[sub + 4] & 63)
            } else {
                let low = packed[sub + 4];
                (
                    (low & 15) | packed[sub - 4] >> 6 << 4,
                    low >> 4 | packed[sub] >> 6 << 4,
                )
            };
            self.scales[part] = scale as i8;
            self.minima[part] = minimum;
        }
    }

    fn write_q2(&self, bytes: &mut [u8]) {
        for (part, byte) in bytes[..PARTS].iter_mut().enumerate() {
            *byte = self.scales[part] as u8 | self.minima[part] << 4;
        }
        self.put_quarters(&mut bytes[16..80], 0);
        put_half(bytes, 80, self.scale);
        put_half(bytes, 82, self.minimum);
    }

    fn write_q3(&self, bytes: &mut [u8]) {
        for (i, &code) in self.codes.iter().enumerate() {
            bytes[i % 32] |= u8::from(code >= 0) << (i / 32);
        }
        self.put_quarters(&mut bytes[32..96], 4);
        let packed = &mut bytes[96..108];
        for (part, &scale) in self.scales.iter().enumerate() {
            let raised = (scale + 32) as u8;
            packed[part % 8] |= (raised & 15) << (4 * (part / 8));
            packed[8 + part % 4] |= raised >> 4 << (2 * (part / 4));
        }
        put_half(bytes, 108, self.scale);
    }

    fn write_q4(&self, bytes: &mut [u8]) {
        self.put_steps_and_sixths(bytes);
        self.put_halves(&mut bytes[16..144]);
    }

    fn write_q5(&self, bytes: &mut [u8]) {
        self.put_steps_and_sixths(bytes);
        self.put_halves(&mut bytes[48..176]);
        for (i, &code) in self.codes.iter().enumerate() {
            bytes[16 + i % 32] |= (code as u8 >> 4) << (i / 32);
        }
    }

    fn write_q6(&self, bytes: &mut [u8]) {
        for (i, &code) in self.codes.iter().enumerate() {
            let (half, rest) = (i / 128, i % 128);
            let raised = (code + 32) as u8;
            bytes[64 * half + rest % 64] |= (raised & 15) << (4 * (rest / 64));
            bytes[128 + 32 * half + rest % 32] |= raised >> 4 << (2 * (rest / 32));
        }
        for (byte, &scale) in bytes[192..208].iter_mut().zip(&self.scales) {
            *byte = scale as u8;
        }
        put_half(bytes, 208, self.scale);
    }

    /// The lowest two bits of each code, raised by `zero`.
    fn put_quarters(&self, packed: &mut [u8], zero: i8) {
        for (i, &code) in self.codes.iter().enumerate() {
            let (half, rest) = (i / 128, i % 128);
            packed[32 * half + rest % 32] |= ((code + zero) as u8 & 3) << (2 * (rest / 32));
        }
    }

    /// The lowest four bits of each code.
    fn put_halves(&self, packed: &mut [u8]) {
        for (i, &code) in self.codes.iter().enumerate() {
            let (run, rest) = (i / 64, i % 64);
            packed[32 * run + rest % 32] |= (code as u8 & 15) << (4 * (rest / 32));
        }
    }

    fn put_steps_and_sixths(&self, bytes: &mut [u8]) {
        put_half(bytes, 0, self.scale);
        put_half(bytes, 2, self.minimum);
        let packed = &mut bytes[4..16];
        for sub in 0..8 {
            let (scale, minimum) = (self.scales[2 * sub] as u8, self.minima[2 * sub]);
            if sub < 4 {
                packed[sub] |= scale;
                packed[sub + 4] |= minimum;
            } else {
                packed[sub + 4] |= (scale & 15) | minimum << 4;
                packed[sub - 4] |= scale >> 4 << 6;
                packed[sub] |= minimum >> 4 << 6;
            }
        }
    }
}
