//! Quantising blocks of 32.

use super::block32::{Block32, E2M1_STEPS, IQ4_NL_STEPS, e8m0_half};
use super::search::{Group, nearest, sum};
use super::{BLOCK, Format, to_half};
use crate::isa::per_isa;

per_isa! {
    /// Quantises a row of whole blocks.
    pub(super) fn quantize(format: Format, x: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
        let mut block = Block32::default();
        for (index, bytes) in out.chunks_exact_mut(format.block_bytes()).enumerate() {
            let at = BLOCK * index;
            let x: &[f32; BLOCK] = x[at..at + BLOCK].try_into().expect("a whole block");
            let w: [f32; BLOCK] = match importance {
                Some(all) => all[at..at + BLOCK].try_into().expect("a whole block"),
                None => [1.0; BLOCK],
            };
            fit(format, &Group { x, w: &w }, &mut block);
            block.write(format, bytes);
        }
    }
}

#[inline(always)]
fn fit(format: Format, group: &Group<'_, BLOCK>, block: &mut Block32) {
    match format {
        Format::Q4_0 | Format::Q5_0 => whole(group, if format == Format::Q4_0 { 8.0 } else { 16.0 }, block),
        Format::Q8_0 => bytes(group, block),
        Format::Q4_1 | Format::Q5_1 => line(group, if format == Format::Q4_1 { 15.0 } else { 31.0 }, block),
        Format::Iq4Nl => uneven(group, block),
        _ => microscaled(group, block),
    }
}

/// Codes from `-half` to `half - 1`.
#[inline(always)]
fn whole(group: &Group<'_, BLOCK>, half: f32, block: &mut Block32) {
    let (low, high) = (-half, half - 1.0);
    let code = |v: f32| nearest(v, low, high);
    // The farthest weight goes to either end; a scale may be negative.
    let scale = group.scale(&[low, high], 9, code);
    set(block, group, to_half(scale), 0.0, code);
}

/// 8 bits: the farthest weight is 127, and nothing is gained by searching.
#[inline(always)]
fn bytes(group: &Group<'_, BLOCK>, block: &mut Block32) {
    let scale = to_half(group.farthest().abs() / 127.0);
    set(block, group, scale, 0.0, |v| nearest(v, -127.0, 127.0));
}

/// Codes `0..=high` above a minimum of either sign.
#[inline(always)]
fn line(group: &Group<'_, BLOCK>, high: f32, block: &mut Block32) {
    let line = group.line(high, -10..=10, true);
    set(block, group, to_half(line.scale), to_half(line.offset), |v| {
        nearest(v, 0.0, high)
    });
}

/// The uneven steps of IQ4_NL.
#[inline(always)]
fn uneven(group: &Group<'_, BLOCK>, block: &mut Block32) {
    let code = |v: f32| step_nearest(&IQ4_NL_STEPS, v);
    let (low, high) = (f32::from(IQ4_NL_STEPS[0]), f32::from(IQ4_NL_STEPS[15]));
    let edges: [f32; 14] =
        std::array::from_fn(|i| if i < 7 { low } else { high } * (0.94 + 0.02 * (i % 7) as f32));
    let scale = group.scale(&edges, 0, code);
    set(block, group, to_half(scale), 0.0, code);
}

/// E2M1 under a power of two: the one that just holds the farthest weight, or a neighbour.
#[inline(always)]
fn microscaled(group: &Group<'_, BLOCK>, block: &mut Block32) {
    // 12 is the largest of the doubled steps; the scale byte of `far / 12` is its exponent plus one.
    let exponent = ((group.farthest().abs() / 12.0).to_bits() >> 23) as i32 + 1;
    let mut best = (f32::INFINITY, 0.0);
    for exponent in exponent - 1..=exponent + 1 {
        let scale = e8m0_half(exponent.clamp(0, 254) as u8);
        let inverse = 1.0 / scale;
        let left = |i: usize| group.x[i] - scale * e2m1_nearest(group.x[i] * inverse);
        let error = sum::<BLOCK>(|i| group.w[i] * left(i) * left(i));
        best = if error < best.0 { (error, scale) } else { best };
    }
    set(block, group, best.1, 0.0, e2m1_nearest);
}

/// Takes the nearest code for each weight at the scale and minimum as they will be read back.
#[inline(always)]
fn set(block: &mut Block32, group: &Group<'_, BLOCK>, scale: f32, minimum: f32, code: impl Fn(f32) -> f32) {
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    block.scale = scale;
    block.minimum = minimum;
    block.codes = std::array::from_fn(|i| code((group.x[i] - minimum) * inverse) as i8);
}

/// The step nearest to `value`, of steps that rise.
#[inline(always)]
fn step_nearest(steps: &[i8; 16], value: f32) -> f32 {
    let mut found = f32::from(steps[0]);
    for pair in steps.windows(2) {
        let (below, above) = (f32::from(pair[0]), f32::from(pair[1]));
        found = if value > 0.5 * (below + above) {
            above
        } else {
            found
        };
    }
    found
}

/// The doubled value of E2M1 nearest to `value`.
#[inline(always)]
fn e2m1_nearest(value: f32) -> f32 {
    let mut found = 0.0;
    for pair in E2M1_STEPS[..8].windows(2) {
        let (below, above) = (f32::from(pair[0]), f32::from(pair[1]));
        found = if value.abs() > 0.5 * (below + above) {
            above
        } else {
            found
        };
    }
    if value < 0.0 { -found } else { found }
}
