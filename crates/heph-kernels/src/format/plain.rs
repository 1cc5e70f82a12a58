//! Floats stored as floats: F32, F16, BF16.

use super::Format;
use half::{bf16, f16};

/// Widens a row of floats.
pub(super) fn dequantize(format: Format, raw: &[u8], out: &mut [f32]) {
    let pairs = || raw.chunks_exact(2).map(|b| [b[0], b[1]]);
    match format {
        Format::F16 => fill(out, pairs().map(|b| f16::from_le_bytes(b).to_f32())),
        Format::BF16 => fill(out, pairs().map(|b| bf16::from_le_bytes(b).to_f32())),
        _ => fill(
            out,
            raw.chunks_exact(4)
                .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])),
        ),
    }
}

/// Rounds a row of floats to the nearest, ties to even.
pub(super) fn quantize(format: Format, x: &[f32], out: &mut [u8]) {
    let pairs = out.chunks_exact_mut(2).zip(x);
    match format {
        Format::F16 => pairs.for_each(|(b, &v)| b.copy_from_slice(&f16::from_f32(v).to_le_bytes())),
        Format::BF16 => pairs.for_each(|(b, &v)| b.copy_from_slice(&bf16::from_f32(v).to_le_bytes())),
        _ => out
            .chunks_exact_mut(4)
            .zip(x)
            .for_each(|(b, &v)| b.copy_from_slice(&v.to_le_bytes())),
    }
}

fn fill(out: &mut [f32], values: impl Iterator<Item = f32>) {
    for (slot, value) in out.iter_mut().zip(values) {
        *slot = value;
    }
}
