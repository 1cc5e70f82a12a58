//! Pages of the key-value cache: what attention remembers of 64 positions of one layer.
//!
//! Keys lie transposed, so that a vector of the score kernel holds one number of 16 positions; values lie
//! by position, so that a vector holds numbers of one head. Both live in the cache's own number format and
//! are read back as exact `f32`.

mod lines;

pub(crate) use crate::kv::lines::Lines;
pub use heph_types::KvFormat;

/// Positions of one page.
pub const PAGE: usize = 64;

/// Positions whose keys stand side by side.
pub(crate) const GROUP: usize = 16;

/// Numbers of a head that share one scale in [`KvFormat::Q8_0`].
pub(crate) const BLOCK: usize = 32;

/// Bytes of the keys or of the values of one head at one position, as [`KvPage::export`] writes them.
fn head_bytes(format: KvFormat, head_dim: usize) -> usize {
    match format {
        KvFormat::F32 => 4 * head_dim,
        KvFormat::F16 => 2 * head_dim,
        KvFormat::Q8_0 => head_dim + 2 * head_dim.div_ceil(BLOCK),
    }
}

/// What a page holds for each position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KvShape {
    /// Heads of keys and of values.
    pub kv_heads: usize,
    /// Numbers of one head.
    pub head_dim: usize,
    /// Number format.
    pub format: KvFormat,
}

impl KvShape {
    /// Bytes of memory that one page of this shape takes, padding included.
    pub fn page_bytes(&self) -> usize {
        let keys = self.kv_heads * PAGE * self.head_dim;
        let values = self.kv_heads * PAGE * self.stride();
        match self.format {
            KvFormat::F32 => 4 * (keys + values),
            KvFormat::F16 => 2 * (keys + values),
            KvFormat::Q8_0 => keys + values + 2 * 2 * self.kv_heads * PAGE * self.blocks(),
        }
    }

    /// Bytes of one position in an export: keys and values of all heads.
    pub fn position_bytes(&self) -> usize {
        2 * self.kv_heads * head_bytes(self.format, self.head_dim)
    }

    /// Numbers from the values of one position to those of the next: `head_dim`, padded to whole vectors.
    pub(crate) fn stride(&self) -> usize {
        self.head_dim.next_multiple_of(GROUP)
    }

    fn blocks(&self) -> usize {
        self.head_dim.div_ceil(BLOCK)
    }

    /// Where number `dim` of the key of `head` at `position` stands: `(head, position / 16, dim, position % 16)`.
    fn key_at(&self, position: usize, head: usize, dim: usize) -> usize {
        ((head * (PAGE / GROUP) + position / GROUP) * self.head_dim + dim) * GROUP + position % GROUP
    }

    /// Where the scale of block `block` of a key stands: `(head, block, position)`.
    fn key_scale_at(&self, position: usize, head: usize, block: usize) -> usize {
        (head * self.blocks() + block) * PAGE + position
    }

    /// Where number `dim` of the value of `head` at `position` stands: `(head, position, dim)`.
    fn value_at(&self, position: usize, head: usize, dim: usize) -> usize {
        (head * PAGE + position) * self.stride() + dim
    }

    /// Where the scale of block `block` of a value stands: `(head, position, block)`.
    fn value_scale_at(&self, position: usize, head: usize, block: usize) -> usize {
        (head * PAGE + position) * self.blocks() + block
    }
}

/// Why stored bytes were not taken into a page.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImportError {
    /// The bytes are not whole positions.
    #[error("{bytes} bytes are not whole positions of {position_bytes} bytes")]
    Ragged {
        /// How many bytes came.
        bytes: usize,
        /// How many one position takes.
        position_bytes: usize,
    },
    /// The positions do not fit behind `first`.
    #[error("{positions} positions from {first} on do not fit in a page of {PAGE}")]
    TooMany {
        /// How many positions came.
        positions: usize,
        /// The place of the first in the page.
        first: usize,
    },
}

/// Keys and values of 64 positions of one layer.
///
/// A position may be written again at any time; going back in a sequence needs no call, since attention is
/// told which positions count and reads no others into its result.
#[derive(Debug, Clone)]
pub struct KvPage {
    shape: KvShape,
    store: Store,
}

/// The numbers of a page in their format.
#[derive(Debug, Clone)]
enum Store {
    F32 {
        keys: Lines<f32>,
        values: Lines<f32>,
    },
    F16 {
        keys: Lines<u16>,
        values: Lines<u16>,
    },
    Q8 {
        keys: Lines<i8>,
        key_scales: Lines<u16>,
        values: Lines<i8>,
        value_scales: Lines<u16>,
    },
}

/// Keys of one head of a page as `(group, dim, 16)`, or its values as `(position, stride)`.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Numbers<'a> {
    /// Single precision.
    F32(&'a [f32]),
    /// Half precision.
    F16(&'a [u16]),
    /// Codes, and scales as `(block, position)` for keys and `(position, block)` for values.
    Q8 { codes: &'a [i8], scales: &'a [u16] },
}

impl Numbers<'_> {
    /// Where the numbers begin, and how many bytes they take, scales left out.
    pub(crate) fn place(&self) -> (*const u8, usize) {
        match self {
            Numbers::F32(numbers) => (numbers.as_ptr().cast(), size_of_val(*numbers)),
            Numbers::F16(numbers) => (numbers.as_ptr().cast(), size_of_val(*numbers)),
            Numbers::Q8 { codes, .. } => (codes.as_ptr().cast(), codes.len()),
        }
    }
}

impl KvPage {
    /// A page of zeros.
    pub fn new(shape: KvShape) -> KvPage {
        let keys = shape.kv_heads * PAGE * shape.head_dim;
        let values = shape.kv_heads * PAGE * shape.stride();
        let scales = shape.kv_heads * PAGE * shape.blocks();
        let store = match shape.format {
            KvFormat::F32 => Store::F32 {
                keys: Lines::zeros(keys),
                values: Lines::zeros(values),
            },
            KvFormat::F16 => Store::F16 {
                keys: Lines::zeros(keys),
                values: Lines::zeros(values),
            },
            KvFormat::Q8_0 => Store::Q8 {
                keys: Lines::zeros(keys),
                key_scales: Lines::zeros(scales),
                values: Lines::zeros(values),
                value_scales: Lines::zeros(scales),
            },
        };
        KvPage { shape, store }
    }

    /// What the page holds for each position.
    pub fn shape(&self) -> KvShape {
        self.shape
    }

    /// Bytes of memory the page takes.
    pub fn bytes(&self) -> usize {
        self.shape.page_bytes()
    }

    /// Writes the key of `head` (`head_dim` numbers) at `position` of the page.
    ///
    /// # Panics
    /// When the position, the head or the length is outside the page's shape.
    pub fn write_k(&mut self, position: usize, head: usize, key: &[f32]) {
        self.check(position, head, key.len());
        let shape = self.shape;
        let first = shape.key_at(position, head, 0);
        match &mut self.store {
            Store::F32 { keys, .. } => scatter(&mut keys[first..], key.iter().copied()),
            Store::F16 { keys, .. } => scatter(&mut keys[first..], key.iter().map(|&v| to_half(v))),
            Store::Q8 { keys, key_scales, .. } => {
                for (block, numbers) in key.chunks(BLOCK).enumerate() {
                    let (scale, inverse) = block_scale(numbers);
                    key_scales[shape.key_scale_at(position, head, block)] = scale;
                    let codes = numbers.iter().map(|&v| code(v, inverse));
                    scatter(&mut keys[first + block * BLOCK * GROUP..], codes);
                }
            }
        }
    }

    /// Writes the value of `head` (`head_dim` numbers) at `position` of the page.
    ///
    /// # Panics
    /// When the position, the head or the length is outside the page's shape.
    pub fn write_v(&mut self, position: usize, head: usize, value: &[f32]) {
        self.check(position, head, value.len());
        let shape = self.shape;
        let first = shape.value_at(position, head, 0);
        match &mut self.store {
            Store::F32 { values, .. } => values[first..][..value.len()].copy_from_slice(value),
            Store::F16 { values, .. } => {
                let places = values[first..].iter_mut();
                places.zip(value).for_each(|(place, &v)| *place = to_half(v));
            }
            Store::Q8 {
                values, value_scales, ..
            } => {
                for (block, numbers) in value.chunks(BLOCK).enumerate() {
                    let (scale, inverse) = block_scale(numbers);
                    value_scales[shape.value_scale_at(position, head, block)] = scale;
                    let places = values[first + block * BLOCK..].iter_mut();
                    places
                        .zip(numbers)
                        .for_each(|(place, &v)| *place = code(v, inverse));
                }
            }
        }
    }

    /// Writes keys and values of all heads, each `(kv_heads, head_dim)`, at `position` of the page.
    ///
    /// # Panics
    /// When the position or a length is outside the page's shape.
    pub fn write(&mut self, position: usize, keys: &[f32], values: &[f32]) {
        let KvShape {
            kv_heads, head_dim, ..
        } = self.shape;
        assert_eq!(
            (keys.len(), values.len()),
            (kv_heads * head_dim, kv_heads * head_dim),
            "heads of the page"
        );
        for head in 0..kv_heads {
            self.write_k(position, head, &keys[head * head_dim..][..head_dim]);
            self.write_v(position, head, &values[head * head_dim..][..head_dim]);
        }
    }

    /// The key of `head` at `position` as attention reads it.
    ///
    /// # Panics
    /// When the position, the head or the length is outside the page's shape.
    pub fn read_k(&self, position: usize, head: usize, out: &mut [f32]) {
        self.check(position, head, out.len());
        for (dim, out) in out.iter_mut().enumerate() {
            let at = self.shape.key_at(position, head, dim);
            *out = match &self.store {
                Store::F32 { keys, .. } => keys[at],
                Store::F16 { keys, .. } => from_half(keys[at]),
                Store::Q8 { keys, key_scales, .. } => {
                    let scale = key_scales[self.shape.key_scale_at(position, head, dim / BLOCK)];
                    f32::from(keys[at]) * from_half(scale)
                }
            };
        }
    }

    /// The value of `head` at `position` as attention reads it.
    ///
    /// # Panics
    /// When the position, the head or the length is outside the page's shape.
    pub fn read_v(&self, position: usize, head: usize, out: &mut [f32]) {
        self.check(position, head, out.len());
        for (dim, out) in out.iter_mut().enumerate() {
            let at = self.shape.value_at(position, head, dim);
            *out = match &self.store {
                Store::F32 { values, .. } => values[at],
                Store::F16 { values, .. } => from_half(values[at]),
                Store::Q8 {
                    values, value_scales, ..
                } => {
                    let scale = value_scales[self.shape.value_scale_at(position, head, dim / BLOCK)];
                    f32::from(values[at]) * from_half(scale)
                }
            };
        }
    }

    /// Appends the positions `0..positions` to `out` in a form that no memory layout shows in.
    ///
    /// Position after position: the keys of each head, then the values of each head. A head is `head_dim`
    /// little-endian numbers; in `Q8_0`, for each block its scale and then its codes.
    ///
    /// # Panics
    /// When `positions` is more than a page.
    pub fn export(&self, positions: usize, out: &mut Vec<u8>) {
        assert!(positions <= PAGE, "{positions} positions of a page of {PAGE}");
        out.reserve(positions * self.shape.position_bytes());
        for position in 0..positions {
            self.for_each_head(position, |place| self.export_head(place, out));
        }
    }

    /// Takes exported positions in from place `first` on, and says how many there were.
    ///
    /// # Errors
    /// When the bytes are not whole positions of this shape, or do not fit behind `first`. The page is then
    /// as it was.
    pub fn import(&mut self, first: usize, bytes: &[u8]) -> Result<usize, ImportError> {
        let position_bytes = self.shape.position_bytes();
        if position_bytes == 0 || !bytes.len().is_multiple_of(position_bytes) {
            return Err(ImportError::Ragged {
                bytes: bytes.len(),
                position_bytes,
            });
        }
        let positions = bytes.len() / position_bytes;
        if first > PAGE || positions > PAGE - first {
            return Err(ImportError::TooMany { positions, first });
        }
        let mut heads = bytes.chunks_exact(head_bytes(self.shape.format, self.shape.head_dim));
        for position in first..first + positions {
            let mut places = Vec::with_capacity(2 * self.shape.kv_heads);
            self.for_each_head(position, |place| places.push(place));
            places
                .into_iter()
                .zip(&mut heads)
                .for_each(|(place, head)| self.import_head(place, head));
        }
        Ok(positions)
    }

    /// The keys of one head: `(group, dim, 16)`.
    pub(crate) fn keys(&self, head: usize) -> Numbers<'_> {
        let (len, scales) = (PAGE * self.shape.head_dim, PAGE * self.shape.blocks());
        match &self.store {
            Store::F32 { keys, .. } => Numbers::F32(&keys[head * len..][..len]),
            Store::F16 { keys, .. } => Numbers::F16(&keys[head * len..][..len]),
            Store::Q8 { keys, key_scales, .. } => Numbers::Q8 {
                codes: &keys[head * len..][..len],
                scales: &key_scales[head * scales..][..scales],
            },
        }
    }

    /// The values of one head: `(position, stride)`.
    pub(crate) fn values(&self, head: usize) -> Numbers<'_> {
        let (len, scales) = (PAGE * self.shape.stride(), PAGE * self.shape.blocks());
        match &self.store {
            Store::F32 { values, .. } => Numbers::F32(&values[head * len..][..len]),
            Store::F16 { values, .. } => Numbers::F16(&values[head * len..][..len]),
            Store::Q8 {
                values, value_scales, ..
            } => Numbers::Q8 {
                codes: &values[head * len..][..len],
                scales: &value_scales[head * scales..][..scales],
            },
        }
    }

    fn check(&self, position: usize, head: usize, len: usize) {
        assert!(position < PAGE, "position {position} of a page of {PAGE}");
        assert!(
            head < self.shape.kv_heads,
            "head {head} of {}",
            self.shape.kv_heads
        );
        assert_eq!(len, self.shape.head_dim, "numbers of a head");
    }

    fn for_each_head(&self, position: usize, mut f: impl FnMut(Place)) {
        for part in [Part::Key, Part::Value] {
            (0..self.shape.kv_heads).for_each(|head| f(Place { part, position, head }));
        }
    }

    fn export_head(&self, place: Place, out: &mut Vec<u8>) {
        for dim in 0..self.shape.head_dim {
            let (at, scale_at) = place.of(&self.shape, dim);
            match (&self.store, place.part) {
                (Store::F32 { keys: n, .. }, Part::Key) | (Store::F32 { values: n, .. }, Part::Value) => {
                    out.extend(n[at].to_le_bytes());
                }
                (Store::F16 { keys: n, .. }, Part::Key) | (Store::F16 { values: n, .. }, Part::Value) => {
                    out.extend(n[at].to_le_bytes());
                }
                (
                    Store::Q8 {
                        keys: n,
                        key_scales: s,
                        ..
                    },
                    Part::Key,
                )
                | (
                    Store::Q8 {
                        values: n,
                        value_scales: s,
                        ..
                    },
                    Part::Value,
                ) => {
                    if dim.is_multiple_of(BLOCK) {
                        out.extend(s[scale_at].to_le_bytes());
                    }
                    out.extend(n[at].to_le_bytes());
                }
            }
        }
    }

    fn import_head(&mut self, place: Place, bytes: &[u8]) {
        let mut bytes = bytes.iter().copied();
        let mut next = || bytes.next().unwrap_or_default();
        for dim in 0..self.shape.head_dim {
            let (at, scale_at) = place.of(&self.shape, dim);
            match (&mut self.store, place.part) {
                (Store::F32 { keys: n, .. }, Part::Key) | (Store::F32 { values: n, .. }, Part::Value) => {
                    n[at] = f32::from_le_bytes([next(), next(), next(), next()]);
                }
                (Store::F16 { keys: n, .. }, Part::Key) | (Store::F16 { values: n, .. }, Part::Value) => {
                    n[at] = u16::from_le_bytes([next(), next()]);
                }
                (
                    Store::Q8 {
                        keys: n,
                        key_scales: s,
                        ..
                    },
                    Part::Key,
                )
                | (
                    Store::Q8 {
                        values: n,
                        value_scales: s,
                        ..
                    },
                    Part::Value,
                ) => {
                    if dim.is_multiple_of(BLOCK) {
                        s[scale_at] = u16::from_le_bytes([next(), next()]);
                    }
                    n[at] = next() as i8;
                }
            }
        }
    }
}

/// Keys or values.
#[derive(Debug, Clone, Copy)]
enum Part {
    Key,
    Value,
}

/// One head at one position.
#[derive(Debug, Clone, Copy)]
struct Place {
    part: Part,
    position: usize,
    head: usize,
}

impl Place {
    /// Where number `dim` and the scale of its block stand.
    fn of(self, shape: &KvShape, dim: usize) -> (usize, usize) {
        let Place { part, position, head } = self;
        match part {
            Part::Key => (
                shape.key_at(position, head, dim),
                shape.key_scale_at(position, head, dim / BLOCK),
            ),
            Part::Value => (
                shape.value_at(position, head, dim),
                shape.value_scale_at(position, head, dim / BLOCK),
            ),
        }
    }
}

/// Writes numbers to every 16th place from the first on.
fn scatter<T>(places: &mut [T], numbers: impl Iterator<Item = T>) {
    places
        .iter_mut()
        .step_by(GROUP)
        .zip(numbers)
        .for_each(|(place, number)| *place = number);
}

/// The scale of a block, as a half, and the factor that makes codes of its numbers.
///
/// Scale `max / 127`, factor `127 / max`; a block of zeros has the factor 0, one with a number that is not
/// finite has the scale NaN and the factor 0.
fn block_scale(numbers: &[f32]) -> (u16, f32) {
    if numbers.iter().any(|v| !v.is_finite()) {
        return (HALF_NAN, 0.0);
    }
    let max = numbers
        .iter()
        .fold(0.0, |max: f32, v| if v.abs() > max { v.abs() } else { max });
    let inverse = if max > 0.0 { 127.0 / max } else { 0.0 };
    (to_half(max / 127.0), inverse)
}

/// `v * inverse`, rounded to nearest with ties to even and brought into -127..=127; NaN gives 0.
fn code(v: f32, inverse: f32) -> i8 {
    (v * inverse).round_ties_even().clamp(-127.0, 127.0) as i8
}

/// The NaN that this crate writes.
const HALF_NAN: u16 = 0x7e00;

/// A number as IEEE half precision: to nearest, ties to even; every NaN becomes `0x7e00`.
pub(crate) fn to_half(v: f32) -> u16 {
    if v.is_nan() {
        HALF_NAN
    } else {
        half::f16::from_f32_const(v).to_bits()
    }
}

/// A half as the same number in single precision; without branches, so that loops over it become vectors.
#[inline(always)]
pub(crate) fn from_half(h: u16) -> f32 {
    let magnitude = u32::from(h & 0x7fff);
    // As an f32 with the exponent 112 too small, which the product repairs, subnormals included.
    let scaled = f32::from_bits(magnitude << 13) * f32::from_bits((127 + 112) << 23);
    let special = f32::from_bits((magnitude << 13) | 0x7f80_0000);
    let value = if magnitude >= 0x7c00 { special } else { scaled };
    f32::from_bits(value.to_bits() | (u32::from(h & 0x8000) << 16))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::Isa;
    use crate::proof::{CASES, Draws, same_bits};

    fn shape(kv_heads: usize, head_dim: usize, format: KvFormat) -> KvShape {
        KvShape {
            kv_heads,
            head_dim,
            format,
        }
    }

    #[test]
    fn every_half_reads_as_its_number() {
        for h in 0..=u16::MAX {
            let (got, want) = (from_half(h), half::f16::from_bits(h).to_f32_const());
            same_bits(&[want], &[got], Isa::Scalar);
        }
    }

    #[test]
    fn every_half_and_the_ties_between_them_round_to_even() {
        for h in 0..0x7bffu16 {
            let (low, high) = (from_half(h), from_half(h + 1));
            let tie = ((f64::from(low) + f64::from(high)) / 2.0) as f32;
            assert_eq!(to_half(low), h);
            assert_eq!(to_half(tie), if h % 2 == 0 { h } else { h + 1 }, "{tie:e}");
            assert_eq!((to_half(tie.next_down()), to_half(tie.next_up())), (h, h + 1));
            assert_eq!(to_half(-low), h | 0x8000);
        }
        assert_eq!((to_half(65_519.996), to_half(65_520.0)), (0x7bff, 0x7c00));
        assert_eq!((to_half(f32::INFINITY), to_half(f32::NAN)), (0x7c00, HALF_NAN));
    }

    #[test]
    fn a_page_gives_back_what_was_written_within_its_format() {
        let mut draws = Draws::new(5);
        for case in 0..CASES {
            let format = KvFormat::ALL[case % 3];
            let s = shape(1 + draws.below(3), 1 + draws.below(70), format);
            let (position, head) = (draws.below(PAGE), draws.below(s.kv_heads));
            let mut page = KvPage::new(s);
            let (key, value) = (draws.plains(s.head_dim), draws.plains(s.head_dim));
            page.write_k(position, head, &key);
            page.write_v(position, head, &value);
            let (mut k, mut v) = (vec![0.0; s.head_dim], vec![0.0; s.head_dim]);
            page.read_k(position, head, &mut k);
            page.read_v(position, head, &mut v);
            let tolerance = match format {
                KvFormat::F32 => 0.0,
                KvFormat::F16 => 4.0 / 2048.0,
                KvFormat::Q8_0 => 4.0 / 254.0 + 4.0 / 2000.0,
            };
            let close = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() <= tolerance);
            assert!(
                close(&k, &key) && close(&v, &value),
                "{s:?} at {position}, head {head}"
            );
        }
    }

    #[test]
    fn a_block_that_is_not_finite_reads_as_nan_and_its_neighbour_stays() {
        let mut page = KvPage::new(shape(1, 40, KvFormat::Q8_0));
        let mut value = vec![1.0; 40];
        value[3] = f32::INFINITY;
        page.write_v(9, 0, &value);
        let mut back = vec![0.0; 40];
        page.read_v(9, 0, &mut back);
        assert!(back[..32].iter().all(|v| v.is_nan()) && back[32..].iter().all(|v| (v - 1.0).abs() < 1e-3));
    }

    #[test]
    fn an_export_gives_the_same_page_elsewhere() {
        let mut draws = Draws::new(6);
        for case in 0..300 {
            let s = shape(1 + draws.below(3), 1 + draws.below(70), KvFormat::ALL[case % 3]);
            let width = s.kv_heads * s.head_dim;
            let positions = draws.below(PAGE + 1);
            let mut page = KvPage::new(s);
            (0..positions).for_each(|p| page.write(p, &draws.floats(width), &draws.floats(width)));
            let (mut bytes, mut again) = (Vec::new(), Vec::new());
            page.export(positions, &mut bytes);
            assert_eq!(bytes.len(), positions * s.position_bytes());
            let mut copy = KvPage::new(s);
            assert_eq!(copy.import(0, &bytes), Ok(positions));
            copy.export(positions, &mut again);
            assert!(bytes == again, "{s:?}");
        }
    }

    #[test]
    fn an_import_that_does_not_fit_is_refused() {
        let mut page = KvPage::new(shape(1, 4, KvFormat::F16));
        assert_eq!(
            page.import(0, &[0; 17]),
            Err(ImportError::Ragged {
                bytes: 17,
                position_bytes: 16
            })
        );
        assert_eq!(
            page.import(63, &[0; 32]),
            Err(ImportError::TooMany {
                positions: 2,
                first: 63
            })
        );
        assert_eq!(page.import(63, &[0; 16]), Ok(1));
    }

    #[test]
    fn the_bytes_of_a_page_are_counted_as_stored() {
        assert_eq!(
            KvPage::new(shape(4, 64, KvFormat::F16)).bytes(),
            2 * 2 * 4 * 64 * 64
        );
        assert_eq!(shape(4, 64, KvFormat::Q8_0).page_bytes(), 2 * 4 * 64 * 68);
        assert_eq!(shape(1, 8, KvFormat::F32).page_bytes(), 4 * 64 * (8 + 16));
    }

    #[test]
    fn every_format_name_reads_back() {
        KvFormat::ALL
            .into_iter()
            .for_each(|f| assert_eq!(f.name().parse(), Ok(f)));
        assert_eq!(
            "q4".parse::<KvFormat>(),
            Err(heph_types::UnknownKvFormat("q4".to_owned()))
        );
    }
}
