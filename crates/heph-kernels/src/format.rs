//! The weight formats of GGUF files: how many bytes a row takes, and what numbers those bytes are.
//!
//! A row is a run of blocks that stand alone: 1 weight for plain floats, 32 for the older quantised formats,
//! 256 for the K formats. [`Block32`] and [`Superblock`] hold one block as whole numbers and scales, which is
//! what the integer matrix product needs; [`dequantize_row`] multiplies them out. The layouts are those of the
//! GGML tensor types with the same names.

mod block32;
mod plain;
mod search;
mod search256;
mod search32;
mod superblock;

pub use block32::Block32;
pub use superblock::Superblock;

use crate::isa::Isa;

/// Weights per block of Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, IQ4_NL and MXFP4.
pub const BLOCK: usize = 32;

/// Weights per block of the K formats.
pub const SUPERBLOCK: usize = 256;

/// How the weights of one tensor are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Format {
    /// IEEE 754 single precision.
    F32,
    /// IEEE 754 half precision.
    F16,
    /// The upper half of an IEEE 754 single.
    BF16,
    /// 4 bits, one scale per 32.
    Q4_0,
    /// 4 bits, a scale and a minimum per 32.
    Q4_1,
    /// 5 bits, one scale per 32.
    Q5_0,
    /// 5 bits, a scale and a minimum per 32.
    Q5_1,
    /// 8 bits, one scale per 32.
    Q8_0,
    /// 2 bits, a 4-bit scale and minimum per 16.
    Q2K,
    /// 3 bits, a 6-bit scale per 16.
    Q3K,
    /// 4 bits, a 6-bit scale and minimum per 32.
    Q4K,
    /// 5 bits, a 6-bit scale and minimum per 32.
    Q5K,
    /// 6 bits, an 8-bit scale per 16.
    Q6K,
    /// 4 bits that index a table of 16 uneven steps, one scale per 32.
    Iq4Nl,
    /// 4-bit floats E2M1 with a power-of-two scale per 32 (OCP Microscaling v1.0).
    Mxfp4,
}

use Format::{BF16, F16, F32, Iq4Nl, Mxfp4, Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};

/// One line of the format table: format, type id in GGUF, name, weights per block, bytes per block.
type Line = (Format, u32, &'static str, usize, usize);

/// Every format, in the order of the enum.
const TABLE: [Line; 15] = [
    (F32, 0, "f32", 1, 4),
    (F16, 1, "f16", 1, 2),
    (BF16, 30, "bf16", 1, 2),
    (Q4_0, 2, "q4_0", BLOCK, 2 + 16),
    (Q4_1, 3, "q4_1", BLOCK, 4 + 16),
    (Q5_0, 6, "q5_0", BLOCK, 2 + 4 + 16),
    (Q5_1, 7, "q5_1", BLOCK, 4 + 4 + 16),
    (Q8_0, 8, "q8_0", BLOCK, 2 + 32),
    (Q2K, 10, "q2_k", SUPERBLOCK, 16 + 64 + 4),
    (Q3K, 11, "q3_k", SUPERBLOCK, 32 + 64 + 12 + 2),
    (Q4K, 12, "q4_k", SUPERBLOCK, 4 + 12 + 128),
    (Q5K, 13, "q5_k", SUPERBLOCK, 4 + 12 + 32 + 128),
    (Q6K, 14, "q6_k", SUPERBLOCK, 128 + 64 + 16 + 2),
    (Iq4Nl, 20, "iq4_nl", BLOCK, 2 + 16),
    (Mxfp4, 39, "mxfp4", BLOCK, 1 + 16),
];

impl Format {
    /// Every format.
    pub const ALL: [Format; 15] = [
        F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2K, Q3K, Q4K, Q5K, Q6K, Iq4Nl, Mxfp4,
    ];

    const fn line(self) -> &'static Line {
        &TABLE[self as usize]
    }

    /// Weights per block: 1, 32 or 256.
    pub const fn block_len(self) -> usize {
        self.line().3
    }

    /// Bytes per block.
    pub const fn block_bytes(self) -> usize {
        self.line().4
    }

    /// Bytes of a row of `cols` weights, or `None` where the row is no whole number of blocks or too long to count.
    pub const fn row_bytes(self, cols: usize) -> Option<usize> {
        if !cols.is_multiple_of(self.block_len()) {
            return None;
        }
        (cols / self.block_len()).checked_mul(self.block_bytes())
    }

    /// The format with this GGUF tensor type, or `None` for a type that HEPH does not read.
    pub fn from_ggml(id: u32) -> Option<Format> {
        TABLE.iter().find(|line| line.1 == id).map(|line| line.0)
    }

    /// The tensor type that stands for this format in a GGUF file.
    pub const fn to_ggml(self) -> u32 {
        self.line().1
    }

    /// The name in lower case, as in `q4_k`.
    pub const fn name(self) -> &'static str {
        self.line().2
    }

    /// Whether this is a K format: 256 weights a block, read by [`Superblock`].
    pub const fn is_superblock(self) -> bool {
        self.block_len() == SUPERBLOCK
    }

    /// Whether a weight is `scale * code` plus or minus a minimum rather than `scale * code` alone.
    pub const fn has_minimum(self) -> bool {
        matches!(self, Q4_1 | Q5_1 | Q2K | Q4K | Q5K)
    }
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Writes the weights that `raw` stands for to `out`.
///
/// One multiplication for the scale of a sub-block, one per weight, and one addition or subtraction for a
/// minimum, each rounded to `f32`: the same numbers as the GGML reference.
///
/// # Panics
/// If `raw` is not exactly the bytes of a row of `out.len()` weights.
pub fn dequantize_row(format: Format, raw: &[u8], out: &mut [f32]) {
    assert_eq!(
        Some(raw.len()),
        format.row_bytes(out.len()),
        "{} weights in {format}",
        out.len()
    );
    let blocks = raw.chunks_exact(format.block_bytes());
    match format {
        F32 | F16 | BF16 => plain::dequantize(format, raw, out),
        _ if format.is_superblock() => {
            let mut block = Superblock::default();
            for (bytes, weights) in blocks.zip(out.chunks_exact_mut(SUPERBLOCK)) {
                block.read(format, bytes);
                block.dequantize(weights);
            }
        }
        _ => {
            let mut block = Block32::default();
            for (bytes, weights) in blocks.zip(out.chunks_exact_mut(BLOCK)) {
                block.read(format, bytes);
                block.dequantize(weights);
            }
        }
    }
}

/// Stores a row of weights as close as the format allows, and writes its bytes to `out`.
///
/// Scales are searched for, not only taken from the largest weight; what is minimised is the squared error,
/// weighed by `importance` (one number per weight, not negative, often the mean square of what the weight
/// is multiplied with). The same bytes on every machine. Weights should be finite: those that are not
/// become some finite number or none.
///
/// # Panics
/// If `x` is no whole number of blocks, or `importance` or `out` are not as long as it says.
pub fn quantize_row(format: Format, x: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    assert_eq!(
        Some(out.len()),
        format.row_bytes(x.len()),
        "{} weights in {format}",
        x.len()
    );
    assert!(
        importance.is_none_or(|all| all.len() == x.len()),
        "one importance per weight"
    );
    match format {
        F32 | F16 | BF16 => plain::quantize(format, x, out),
        _ if format.is_superblock() => search256::quantize(Isa::best(), format, x, importance, out),
        _ => search32::quantize(Isa::best(), format, x, importance, out),
    }
}

/// A half float at `offset` of `bytes`.
fn half_at(bytes: &[u8], offset: usize) -> f32 {
    half::f16::from_le_bytes([bytes[offset], bytes[offset + 1]]).to_f32()
}

/// Stores the nearest half float at `offset` of `bytes`.
fn put_half(bytes: &mut [u8], offset: usize, value: f32) {
    bytes[offset..offset + 2].copy_from_slice(&half::f16::from_f32(value).to_le_bytes());
}

/// The nearest half float that is not infinite.
fn to_half(value: f32) -> f32 {
    half::f16::from_f32(value.clamp(-65504.0, 65504.0)).to_f32()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Recorded by `fixtures/make_dequantize.py`: per format a type id and a byte count as `u32`, the bytes of
    /// 256 weights, and those weights as `f32`, little-endian.
    const RECORDED: &[u8] = include_bytes!("../fixtures/dequantize.bin");

    fn recorded() -> Vec<(Format, &'static [u8], Vec<f32>)> {
        let mut rest = RECORDED;
        let mut cases = Vec::new();
        while !rest.is_empty() {
            let word = |at: usize| u32::from_le_bytes(rest[at..at + 4].try_into().expect("four bytes"));
            let format = Format::from_ggml(word(0)).expect("a known type");
            let (raw, tail) = rest[8..].split_at(word(4) as usize);
            let (floats, tail) = tail.split_at(4 * 256);
            let weights = floats
                .chunks_exact(4)
                .map(|b| f32::from_le_bytes(b.try_into().expect("four bytes")));
            cases.push((format, raw, weights.collect()));
            rest = tail;
        }
        cases
    }

    #[test]
    fn every_format_reads_as_the_gguf_package_does() {
        let cases = recorded();
        for format in Format::ALL {
            assert!(cases.iter().any(|case| case.0 == format), "no case for {format}");
        }
        for (format, raw, expected) in cases {
            let mut got = vec![0.0; expected.len()];
            dequantize_row(format, raw, &mut got);
            for (i, (g, e)) in got.iter().zip(&expected).enumerate() {
                assert!(
                    g == e || (g.is_nan() && e.is_nan()),
                    "{format} weight {i}: {g} for {e}"
                );
            }
        }
    }

    #[test]
    fn the_table_stands_in_the_order_of_the_enum() {
        for (format, line) in Format::ALL.into_iter().zip(TABLE) {
            assert_eq!(format, line.0);
            assert_eq!(Format::from_ggml(format.to_ggml()), Some(format));
        }
        assert_eq!(Format::from_ggml(4), None);
    }

    #[test]
    fn a_row_is_a_whole_number_of_blocks() {
        assert_eq!(Format::Q4K.row_bytes(512), Some(288));
        assert_eq!(Format::Q4K.row_bytes(288), None);
        assert_eq!(Format::F32.row_bytes(usize::MAX), None);
        assert_eq!(Format::Q8_0.row_bytes(0), Some(0));
    }

    /// Weights like a trained layer's, made by `fixtures/make_quantize.py`.
    fn weights() -> Vec<f32> {
        let stored = include_bytes!("../fixtures/quantize.f16");
        let mut weights = vec![0.0; stored.len() / 2];
        dequantize_row(F16, stored, &mut weights);
        weights
    }

    /// Quantises and reads back.
    fn round_trip(format: Format, x: &[f32], importance: Option<&[f32]>) -> Vec<f32> {
        let mut raw = vec![0; format.row_bytes(x.len()).expect("whole blocks")];
        quantize_row(format, x, importance, &mut raw);
        let mut back = vec![0.0; x.len()];
        dequantize_row(format, &raw, &mut back);
        back
    }

    fn error(x: &[f32], back: &[f32]) -> f64 {
        let squares = x.iter().zip(back).map(|(a, b)| f64::from(a - b).powi(2));
        (squares.sum::<f64>() / x.len() as f64).sqrt()
    }

    #[test]
    fn no_format_loses_more_than_llama_cpp_does() {
        // As printed by `fixtures/make_quantize.py` with ggml 0.25.3.
        let peer = [
            (Q4_0, 2.8771e-3),
            (Q4_1, 2.3435e-3),
            (Q5_0, 1.4041e-3),
            (Q5_1, 1.1571e-3),
            (Q8_0, 1.8106e-4),
            (Q2K, 9.1650e-3),
            (Q3K, 4.7862e-3),
            (Q4K, 2.1803e-3),
            (Q5K, 1.1279e-3),
            (Q6K, 5.6962e-4),
            (Iq4Nl, 2.3065e-3),
            (Mxfp4, 3.2744e-3),
        ];
        let x = weights();
        for (format, peer) in peer {
            let ours = error(&x, &round_trip(format, &x, None));
            assert!(ours <= peer, "{format}: {ours:.4e}, the peer {peer:.4e}");
            assert!(ours > 0.5 * peer, "{format}: {ours:.4e} is too good to be true");
        }
    }

    #[test]
    fn every_instruction_set_quantises_to_the_same_bytes() {
        let x = weights();
        let importance: Vec<f32> = x.iter().map(|v| 1.0 + v * v).collect();
        for format in Format::ALL.into_iter().skip(3) {
            let run = |isa: Isa| {
                let mut raw = vec![0; format.row_bytes(x.len()).expect("whole blocks")];
                match format.is_superblock() {
                    true => search256::quantize(isa, format, &x, Some(&importance), &mut raw),
                    false => search32::quantize(isa, format, &x, Some(&importance), &mut raw),
                }
                raw
            };
            let scalar = run(Isa::Scalar);
            for isa in Isa::all_available() {
                assert!(run(isa) == scalar, "{format} on {isa}");
            }
        }
    }

    #[test]
    fn importance_moves_precision_to_where_it_is_asked_for() {
        let x = weights();
        let importance: Vec<f32> = (0..x.len())
            .map(|i| if i % 4 == 0 { 100.0 } else { 1.0 })
            .collect();
        let chosen = |values: &[f32]| values.iter().step_by(4).copied().collect::<Vec<_>>();
        for format in [Q4_0, Q4_1, Q5_0, Q5_1, Q2K, Q3K, Q4K, Q5K, Q6K, Iq4Nl] {
            let plain = error(&chosen(&x), &chosen(&round_trip(format, &x, None)));
            let asked = error(&chosen(&x), &chosen(&round_trip(format, &x, Some(&importance))));
            assert!(
                asked < 0.97 * plain,
                "{format}: {asked:.3e} with importance, {plain:.3e} without"
            );
        }
    }

    #[test]
    fn what_is_read_is_written_back() {
        for (format, raw, _) in recorded() {
            let mut again = raw.to_vec();
            for (block, bytes) in raw
                .chunks_exact(format.block_bytes())
                .zip(again.chunks_exact_mut(format.block_bytes()))
            {
                match format.block_len() {
                    BLOCK => {
                        let mut read = Block32::default();
                        read.read(format, block);
                        bytes.fill(0xa5);
                        read.write(format, bytes);
                    }
                    SUPERBLOCK => {
                        let mut read = Superblock::default();
                        read.read(format, block);
                        bytes.fill(0xa5);
                        read.write(format, bytes);
                    }
                    _ => {}
                }
            }
            if format == Mxfp4 {
                // Its two zeros become one.
                assert_eq!(again.len(), raw.len());
                let values = |raw: &[u8]| {
                    let mut values = vec![0.0; 256];
                    dequantize_row(format, raw, &mut values);
                    values
                };
                assert_eq!(values(&again), values(raw));
            } else {
                assert_eq!(again, raw, "{format}");
            }
        }
    }

    #[test]
    fn weights_at_the_edge_of_floats_do_no_harm() {
        let rows: [(&str, [f32; 4]); 7] = [
            ("zero", [0.0, -0.0, 0.0, 0.0]),
            ("denormal", [1e-42, -1e-42, 1e-45, 0.0]),
            ("tiny", [1e-8, -1e-9, 1e-10, 0.0]),
            ("huge", [3e38, -3e38, 1.0, 0.0]),
            ("infinite", [f32::INFINITY, 1.0, -1.0, 0.0]),
            ("no number", [f32::NAN, 1.0, -1.0, 0.0]),
            ("constant", [0.5; 4]),
        ];
        for format in Format::ALL {
            for (name, row) in rows {
                let back = round_trip(format, &row.repeat(64), None);
                match name {
                    "zero" => assert!(back.iter().all(|&v| v == 0.0), "{format} of {name}"),
                    "constant" => assert!(error(&[0.5; 256], &back) < 0.02, "{format} of {name}"),
                    _ => assert_eq!(back.len(), 256, "{format} of {name}"),
                }
            }
        }
    }
}
