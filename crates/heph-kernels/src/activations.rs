//! Activations as the weight formats want them: floats, or 8-bit codes with one scale per 32 or per 256 columns.
//!
//! A block is quantised by its largest magnitude: `d = max / 127`, `code = round(x * (127 / max))`, ties to even,
//! and the code 0 throughout where `max` is 0. A block with a NaN or an infinity has codes 0 and `d` NaN, so that
//! every result it enters is NaN. Codes stand together with the sums that minima and offsets need, one record per
//! 256 columns and token.

use crate::format::Format;
use crate::isa::Isa;
use crate::pool::Pool;
use crate::simd::{self, Kernel, Simd};

/// Columns in one record.
pub(crate) const GROUP: usize = 256;

/// Tokens that one task quantises.
const TOKENS_PER_TASK: usize = 16;

/// Two sums of activation codes that meet two 16-bit weights in one 32-bit lane.
pub(crate) type Pair = [i16; 2];

/// 256 columns of one token in blocks of 32. The last group of a row may be shorter; what is beyond is zero.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Group32 {
    /// Codes, -127 to 127.
    pub(crate) codes: [i8; GROUP],
    /// Per block, the step between codes.
    pub(crate) d: [f32; 8],
    /// Per block, minus 128 times the sum of its codes: what an offset of 128 in the weights adds.
    pub(crate) less_128: [i32; 8],
    /// Per block, `d` times the sum of the codes.
    pub(crate) ds: [f32; 8],
    /// Per block, minus the sum of its codes: what an offset of one in the weights adds.
    pub(crate) negated: [i32; 8],
    /// Per block, the sum over columns 0 and 1 of every four, and the sum over columns 2 and 3.
    pub(crate) halves: [Pair; 8],
}

/// 256 columns of one token as one block.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Group256 {
    /// Codes, -127 to 127.
    pub(crate) codes: [i8; GROUP],
    /// Per 32 columns, minus 8 times the sum: what an offset of 8 in the weights adds.
    pub(crate) less_8: [i32; 8],
    /// Sums over 32 columns, two by two.
    pub(crate) sums32: [Pair; 4],
    /// The step between codes.
    pub(crate) d: f32,
    /// So that what one format reads is in few cache lines.
    rest_of_line: [u32; 3],
    /// Per 8 columns, minus 32 times the sum.
    pub(crate) less_32: [i32; 32],
    /// Per 16 columns, minus the sum.
    pub(crate) negated: [i32; 16],
    /// Per 16 columns, the sum over columns 0 and 1 of every four, and the sum over columns 2 and 3.
    pub(crate) halves: [Pair; 16],
    /// Sums over 16 columns, two by two.
    pub(crate) sums16: [Pair; 8],
}

const EMPTY_32: Group32 = Group32 {
    codes: [0; GROUP],
    d: [0.0; 8],
    less_128: [0; 8],
    ds: [0.0; 8],
    negated: [0; 8],
    halves: [[0; 2]; 8],
};

const EMPTY_256: Group256 = Group256 {
    codes: [0; GROUP],
    less_8: [0; 8],
    sums32: [[0; 2]; 4],
    d: 0.0,
    rest_of_line: [0; 3],
    less_32: [0; 32],
    negated: [0; 16],
    halves: [[0; 2]; 16],
    sums16: [[0; 2]; 8],
};

/// The activations of some tokens, ready for matrix products. Made once and filled again for every layer.
#[derive(Default)]
pub struct Activations {
    tokens: usize,
    cols: usize,
    floats: Vec<f32>,      // (tokens, cols), empty unless asked for
    by_32: Vec<Group32>,   // (groups, tokens), empty unless asked for
    by_256: Vec<Group256>, // (groups, tokens), empty unless asked for
}

/// Which forms a matrix product will read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Forms {
    floats: bool,
    by_32: bool,
    by_256: bool,
}

impl Forms {
    fn of(formats: impl Iterator<Item = Format>) -> Forms {
        formats.fold(Forms::default(), |forms, format| match format.block_len() {
            1 => Forms {
                floats: true,
                ..forms
            },
            32 => Forms { by_32: true, ..forms },
            _ => Forms {
                by_256: true,
                ..forms
            },
        })
    }
}

impl Activations {
    /// No tokens yet.
    pub fn new() -> Self {
        Activations::default()
    }

    /// Takes `x`, of shape (tokens, `cols`), in the forms that weights of `formats` want.
    ///
    /// # Panics
    /// If `x` is no whole number of rows of `cols`, or a format's blocks do not divide `cols`.
    pub fn set(
        &mut self,
        x: &[f32],
        cols: usize,
        formats: impl Iterator<Item = Format>,
        isa: Isa,
        pool: &Pool,
    ) {
        assert!(
            cols > 0 && x.len().is_multiple_of(cols),
            "{} values in rows of {cols}",
            x.len()
        );
        let forms = Forms::of(formats);
        assert!(
            !forms.by_32 || cols.is_multiple_of(32),
            "{cols} columns are no whole blocks of 32"
        );
        assert!(
            !forms.by_256 || cols.is_multiple_of(GROUP),
            "{cols} columns are no whole blocks of 256"
        );
        self.tokens = x.len() / cols;
        self.cols = cols;
        let groups = cols.div_ceil(GROUP) * self.tokens;
        self.floats.clear();
        if forms.floats {
            self.floats.extend_from_slice(x);
        }
        self.by_32.resize(if forms.by_32 { groups } else { 0 }, EMPTY_32);
        self.by_256
            .resize(if forms.by_256 { groups } else { 0 }, EMPTY_256);
        if forms.by_32 || forms.by_256 {
            self.quantise(x, isa, pool);
        }
    }

    /// The number of tokens.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// The number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The values of one token, if a float format was asked for.
    pub(crate) fn floats(&self) -> Option<&[f32]> {
        (self.floats.len() == self.tokens * self.cols).then_some(&self.floats)
    }

    /// Records (groups, tokens) in blocks of 32, if a format with such blocks was asked for.
    pub(crate) fn by_32(&self) -> Option<&[Group32]> {
        (self.by_32.len() == self.records()).then_some(&self.by_32)
    }

    /// Records (groups, tokens) in blocks of 256, if a K format was asked for.
    pub(crate) fn by_256(&self) -> Option<&[Group256]> {
        (self.by_256.len() == self.records()).then_some(&self.by_256)
    }

    fn records(&self) -> usize {
        self.cols.div_ceil(GROUP) * self.tokens
    }

    fn quantise(&mut self, x: &[f32], isa: Isa, pool: &Pool) {
        let (tokens, cols) = (self.tokens, self.cols);
        let by_32 = Shared(self.by_32.as_mut_ptr());
        let by_256 = Shared(self.by_256.as_mut_ptr());
        let (has_32, has_256) = (!self.by_32.is_empty(), !self.by_256.is_empty());
        pool.run(tokens.div_ceil(TOKENS_PER_TASK), &|task| {
            for token in TOKENS_PER_TASK * task..tokens.min(TOKENS_PER_TASK * (task + 1)) {
                let row = Row {
                    x: &x[token * cols..][..cols],
                    token,
                    tokens,
                    by_32: if has_32 { by_32.get() } else { std::ptr::null_mut() },
                    by_256: if has_256 {
                        by_256.get()
                    } else {
                        std::ptr::null_mut()
                    },
                };
                if let Err(row) = simd::run(isa, row) {
                    row.quantise();
                }
            }
        });
    }
}

/// A pointer that tasks share; each writes to places of its own.
struct Shared<T>(*mut T);

impl<T> Shared<T> {
    fn get(&self) -> *mut T {
        self.0
    }
}

// SAFETY: a task writes only the records of its own tokens.
unsafe impl<T> Sync for Shared<T> {}

/// One token on its way.
struct Row<'a> {
    x: &'a [f32],
    token: usize,
    tokens: usize,
    by_32: *mut Group32,
    by_256: *mut Group256,
}

impl Kernel for Row<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        self.quantise();
    }
}

impl Row<'_> {
    /// The same plain code for every instruction set.
    #[inline(always)]
    fn quantise(self) {
        for (group, x) in self.x.chunks(GROUP).enumerate() {
            let at = group * self.tokens + self.token;
            if !self.by_32.is_null() {
                // SAFETY: the record of this token and group exists, and no other task has it.
                quantise_32(x, unsafe { &mut *self.by_32.add(at) });
            }
            if !self.by_256.is_null() {
                // SAFETY: as above.
                quantise_256(x, unsafe { &mut *self.by_256.add(at) });
            }
        }
    }
}

#[inline(always)]
fn quantise_32(x: &[f32], out: &mut Group32) {
    if x.len() < GROUP {
        *out = EMPTY_32;
    }
    for (block, x) in x.chunks_exact(32).enumerate() {
        let codes = &mut out.codes[32 * block..][..32];
        out.d[block] = encode(x, codes);
        let halves = add(halves(&codes[..16]), halves(&codes[16..]));
        out.halves[block] = halves;
        out.negated[block] = -i32::from(halves[0] + halves[1]);
        out.less_128[block] = 128 * out.negated[block];
        out.ds[block] = out.d[block] * f32::from(halves[0] + halves[1]);
    }
}

#[inline(always)]
fn quantise_256(x: &[f32], out: &mut Group256) {
    out.d = encode(x, &mut out.codes);
    for (part, codes) in out.codes.chunks_exact(16).enumerate() {
        let (low, high) = (halves(&codes[..8]), halves(&codes[8..]));
        out.less_32[2 * part] = -32 * i32::from(low[0] + low[1]);
        out.less_32[2 * part + 1] = -32 * i32::from(high[0] + high[1]);
        let halves = add(low, high);
        out.halves[part] = halves;
        out.negated[part] = -i32::from(halves[0] + halves[1]);
    }
    out.less_8 = std::array::from_fn(|i| 8 * (out.negated[2 * i] + out.negated[2 * i + 1]));
    let sum = |part: usize| out.halves[part][0] + out.halves[part][1];
    out.sums16 = std::array::from_fn(|i| [sum(2 * i), sum(2 * i + 1)]);
    let sum = |i: usize| out.sums16[i][0] + out.sums16[i][1];
    out.sums32 = std::array::from_fn(|i| [sum(2 * i), sum(2 * i + 1)]);
}

/// Writes the codes of one block and returns the step between them.
#[inline(always)]
fn encode(x: &[f32], codes: &mut [i8]) -> f32 {
    let magnitude = largest(x);
    if magnitude >= f32::INFINITY.to_bits() {
        codes.fill(0);
        return f32::NAN;
    }
    let largest = f32::from_bits(magnitude);
    let inverse = if largest == 0.0 { 0.0 } else { 127.0 / largest };
    if inverse.is_infinite() {
        // The inverse of a denormal: its product with zero is NaN, which casts to 0.
        for (code, &x) in codes.iter_mut().zip(x) {
            *code = (x * inverse).round_ties_even().clamp(-127.0, 127.0) as i8;
        }
    } else {
        for (code, &x) in codes.iter_mut().zip(x) {
            let rounded = (x * inverse).round_ties_even();
            // SAFETY: `x` is at most `largest`, and two roundings of 127 parts in 2^24 do not reach 128.
            *code = unsafe { rounded.to_int_unchecked::<i32>() } as i8;
        }
    }
    largest / 127.0
}

/// The bits of the largest magnitude; those of a NaN or an infinity are larger than any number's.
#[inline(always)]
fn largest(x: &[f32]) -> u32 {
    let mut lanes = [0u32; 8];
    for chunk in x.chunks_exact(8) {
        for (lane, v) in lanes.iter_mut().zip(chunk) {
            *lane = (*lane).max(v.to_bits() & 0x7fff_ffff);
        }
    }
    lanes.into_iter().fold(0, u32::max)
}

/// Sums of 8 or 16 codes: columns 0 and 1 of every four, columns 2 and 3.
#[inline(always)]
fn halves(codes: &[i8]) -> Pair {
    let mut lanes = [0i16; 4];
    for quad in codes.chunks_exact(4) {
        for (lane, &code) in lanes.iter_mut().zip(quad) {
            *lane += i16::from(code);
        }
    }
    [lanes[0] + lanes[1], lanes[2] + lanes[3]]
}

#[inline(always)]
fn add(a: Pair, b: Pair) -> Pair {
    [a[0] + b[0], a[1] + b[1]]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proof::{CASES, Draws};

    /// A block of 32 with these values first and zeros behind them: its step and codes.
    fn encoded(values: &[f32]) -> (f32, [i8; 32]) {
        let (mut x, mut codes) = ([0.0; 32], [0; 32]);
        x[..values.len()].copy_from_slice(values);
        (encode(&x, &mut codes), codes)
    }

    #[test]
    fn codes_are_rounded_to_the_nearest_and_ties_to_even() {
        let (d, codes) = encoded(&[127.0, 1.4, 1.5, 2.5, -2.5, -3.6, 0.5, -0.5]);
        assert_eq!((d, &codes[..8]), (1.0, &[127, 1, 2, 2, -2, -4, 0, 0][..]));
        let mut draws = Draws::new(61);
        for _ in 0..CASES {
            let scale = 2.0f32.powi(draws.below(200) as i32 - 100);
            let values: Vec<f32> = (0..32)
                .map(|_| (draws.below(20001) as f32 - 10000.0) * scale)
                .collect();
            let (d, codes) = encoded(&values);
            for (x, code) in values.iter().zip(codes) {
                let off = (f64::from(*x) / f64::from(d) - f64::from(code)).abs();
                assert!(off <= 0.5 + 1e-4 || d == 0.0, "{x} in steps of {d} is {code}");
            }
        }
    }

    #[test]
    fn nothing_has_no_step_and_what_is_no_number_makes_its_block_none() {
        assert_eq!(encoded(&[]), (0.0, [0; 32]));
        for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let (d, codes) = encoded(&[1.0, wrong]);
            assert!(d.is_nan() && codes == [0; 32], "{wrong}");
        }
        // The inverse of the least magnitude is infinite.
        let least = f32::from_bits(1);
        assert_eq!(encoded(&[least, -least]).1[..3], [127, -127, 0]);
    }
}
