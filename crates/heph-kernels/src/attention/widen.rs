//! Keys and values of one head of a page as `f32`, in the layout they have there.

use super::lanes::Lanes;
use crate::kv::{BLOCK, GROUP, Numbers, PAGE, from_half};

/// The keys of the positions `from..to` as `(PAGE / GROUP, head_dim, GROUP)`: in place where they are `f32`,
/// else in `room`. Positions outside are not defined.
///
/// # Safety
/// The machine has the instruction set of `S`.
#[inline(always)]
pub(super) unsafe fn widen_keys<'a, S: Lanes>(
    keys: Numbers<'a>,
    head_dim: usize,
    (from, to): (usize, usize),
    room: &'a mut [f32],
) -> &'a [f32] {
    let (first, last) = (from / GROUP, to.div_ceil(GROUP));
    match keys {
        Numbers::F32(keys) => keys,
        Numbers::F16(keys) => {
            let range = first * head_dim * GROUP..last * head_dim * GROUP;
            // SAFETY: the machine has the instruction set (contract).
            unsafe { widen_halves::<S>(&keys[range.clone()], &mut room[range]) };
            room
        }
        Numbers::Q8 { codes, scales } => {
            for group in first..last {
                for (block, dims) in (0..head_dim).step_by(BLOCK).enumerate() {
                    let scales = &scales[block * PAGE + group * GROUP..][..GROUP];
                    let start = (group * head_dim + dims) * GROUP;
                    let len = BLOCK.min(head_dim - dims) * GROUP;
                    // SAFETY: the machine has the instruction set (contract).
                    unsafe { widen_lines::<S>(&codes[start..][..len], scales, &mut room[start..][..len]) };
                }
            }
            room
        }
    }
}

/// The values of the positions `from..to` as `(PAGE, stride)`: in place where they are `f32`, else in `room`.
/// Positions outside are not defined.
///
/// # Safety
/// The machine has the instruction set of `S`.
#[inline(always)]
pub(super) unsafe fn widen_values<'a, S: Lanes>(
    values: Numbers<'a>,
    stride: usize,
    (from, to): (usize, usize),
    room: &'a mut [f32],
) -> &'a [f32] {
    match values {
        Numbers::F32(values) => values,
        Numbers::F16(values) => {
            let range = from * stride..to * stride;
            // SAFETY: the machine has the instruction set (contract).
            unsafe { widen_halves::<S>(&values[range.clone()], &mut room[range]) };
            room
        }
        Numbers::Q8 { codes, scales } => {
            let blocks = scales.len() / PAGE;
            for position in from..to {
                for block in 0..blocks {
                    let start = position * stride + block * BLOCK;
                    let len = BLOCK.min(stride - block * BLOCK);
                    let scale = from_half(scales[position * blocks + block]);
                    // SAFETY: the machine has the instruction set (contract).
                    unsafe { widen_codes::<S>(&codes[start..][..len], scale, &mut room[start..][..len]) };
                }
            }
            room
        }
    }
}

/// Widens halves; the length is a multiple of 16.
#[inline(always)]
unsafe fn widen_halves<S: Lanes>(halves: &[u16], out: &mut [f32]) {
    assert!(halves.len() == out.len() && out.len().is_multiple_of(16));
    for at in (0..out.len()).step_by(S::WIDTH) {
        // SAFETY: the length is a multiple of every width, so a whole vector stands at `at`.
        unsafe { S::store(S::halves(halves.as_ptr().add(at)), out.as_mut_ptr().add(at)) };
    }
}

/// Widens codes with one scale; the length is a multiple of 16.
#[inline(always)]
unsafe fn widen_codes<S: Lanes>(codes: &[i8], scale: f32, out: &mut [f32]) {
    assert!(codes.len() == out.len() && out.len().is_multiple_of(16));
    for at in (0..out.len()).step_by(S::WIDTH) {
        // SAFETY: the length is a multiple of every width, so a whole vector stands at `at`.
        unsafe {
            let v = S::mul(S::codes(codes.as_ptr().add(at)), S::splat(scale));
            S::store(v, out.as_mut_ptr().add(at));
        }
    }
}

/// Widens lines of 16 codes, code `j` of each with scale `j`.
#[inline(always)]
unsafe fn widen_lines<S: Lanes>(codes: &[i8], scales: &[u16], out: &mut [f32]) {
    assert!(codes.len() == out.len() && out.len().is_multiple_of(GROUP) && scales.len() == GROUP);
    for lane in (0..GROUP).step_by(S::WIDTH) {
        // SAFETY: `lane + WIDTH <= GROUP` numbers, and every line has GROUP codes.
        unsafe {
            let scale = S::halves(scales.as_ptr().add(lane));
            for line in (lane..out.len()).step_by(GROUP) {
                let v = S::mul(S::codes(codes.as_ptr().add(line)), scale);
                S::store(v, out.as_mut_ptr().add(line));
            }
        }
    }
}
