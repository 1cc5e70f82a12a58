//! Hidden states as bytes on the wire: exact, packed without loss, or rounded by name.
//!
//! Called by the sessions, on each side of a boundary between two stages. Integer work and single IEEE operations
//! only, so that the same rows are the same bytes on every machine. Never chooses a format, and never reserves more
//! than the bytes at hand can fill.

mod exponents;

use heph_types::{Hidden, WireCodec};

/// Numbers of one frame at most: 512 rows of 8,192. A longer prompt goes in several orders.
pub const VALUES_MAX: usize = 512 * 8192;

/// Numbers of one row at most: four times the widest model there is.
pub const WIDTH_MAX: usize = 65_536;

/// Numbers that share a scale in [`WireCodec::Int8`].
const BLOCK: usize = 32;

/// Hidden states in the form in which they travel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedRows {
    /// The number format.
    pub codec: WireCodec,
    /// Number of rows.
    pub tokens: u32,
    /// Numbers of one row.
    pub width: u32,
    /// The numbers.
    pub bytes: Vec<u8>,
}

/// Why rows cannot travel, or bytes are no rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The rows do not fit into one frame.
    #[error("{tokens} rows of {width} numbers do not fit one frame of {VALUES_MAX} numbers")]
    TooLarge {
        /// Rows.
        tokens: usize,
        /// Numbers of a row.
        width: usize,
    },
    /// Rows whose length is no multiple of their width.
    #[error("{values} numbers are no whole rows of {width}")]
    Ragged {
        /// Numbers given.
        values: usize,
        /// Numbers of a row.
        width: usize,
    },
    /// A number that the format cannot hold.
    #[error("an infinite or undefined number cannot travel as {0}")]
    NotFinite(WireCodec),
    /// More or fewer bytes than the rows take.
    #[error("{got} bytes are not {tokens} rows of {width} numbers in {codec}")]
    WrongLength {
        /// The number format.
        codec: WireCodec,
        /// Rows.
        tokens: u32,
        /// Numbers of a row.
        width: u32,
        /// Bytes given.
        got: usize,
    },
    /// A code table or bit stream that no encoder makes.
    #[error("the packed exponents are damaged")]
    Damaged,
}

/// Checks a shape before anything is reserved for it, and gives its number of values.
pub fn check_shape(tokens: usize, width: usize) -> Result<usize, CodecError> {
    let values = tokens.checked_mul(width).filter(|values| *values <= VALUES_MAX);
    match values {
        Some(values) if width <= WIDTH_MAX && (width > 0 || tokens == 0) => Ok(values),
        _ => Err(CodecError::TooLarge { tokens, width }),
    }
}

/// Bytes that rows take, where the format alone says it; `None` where it depends on the numbers.
pub fn bytes_of(codec: WireCodec, tokens: usize, width: usize) -> Option<usize> {
    match codec {
        WireCodec::F32 => Some(tokens * width * 4),
        WireCodec::Int8 => Some(tokens * (width + 2 * width.div_ceil(BLOCK))),
        WireCodec::Packed | WireCodec::Bf16 => None,
    }
}

/// The fewest bytes that rows can take: what a frame must hold before its rows are believed.
pub fn bytes_least(codec: WireCodec, tokens: usize, width: usize) -> usize {
    let packed = |each: usize| exponents::HEADER + tokens * width * each;
    match codec {
        WireCodec::Packed => packed(3),
        WireCodec::Bf16 => packed(1),
        WireCodec::F32 | WireCodec::Int8 => bytes_of(codec, tokens, width).unwrap_or(0),
    }
}

/// The most bytes that rows can take: a plain copy behind one byte.
pub fn bytes_most(codec: WireCodec, tokens: usize, width: usize) -> usize {
    match codec {
        WireCodec::Packed => 1 + tokens * width * 4,
        WireCodec::Bf16 => 1 + tokens * width * 2,
        WireCodec::F32 | WireCodec::Int8 => bytes_of(codec, tokens, width).unwrap_or(0),
    }
}

/// Writes rows in the form in which they travel.
pub fn pack(hidden: &Hidden, codec: WireCodec) -> Result<PackedRows, CodecError> {
    let (tokens, width) = (hidden.tokens(), hidden.width);
    check_shape(tokens, width)?;
    if tokens * width != hidden.rows.len() {
        let values = hidden.rows.len();
        return Err(CodecError::Ragged { values, width });
    }
    let bytes = match codec {
        WireCodec::F32 => pack_f32(&hidden.rows),
        WireCodec::Packed => exponents::pack(hidden.rows.iter().map(|x| x.to_bits()), exponents::SINGLE),
        WireCodec::Bf16 => exponents::pack(
            hidden.rows.iter().map(|x| u32::from(bf16(*x)) << 16),
            exponents::BRAIN,
        ),
        WireCodec::Int8 => pack_int8(hidden)?,
    };
    Ok(PackedRows {
        codec,
        tokens: tokens as u32,
        width: width as u32,
        bytes,
    })
}

/// Reads rows back. Reserves at most four bytes a number, after the bytes have been found to hold that many.
pub fn unpack(packed: &PackedRows) -> Result<Hidden, CodecError> {
    let PackedRows {
        codec,
        tokens,
        width,
        ref bytes,
    } = *packed;
    let (rows, columns) = (tokens as usize, width as usize);
    let values = check_shape(rows, columns)?;
    let got = bytes.len();
    if got < bytes_least(codec, rows, columns) || got > bytes_most(codec, rows, columns) {
        return Err(CodecError::WrongLength {
            codec,
            tokens,
            width,
            got,
        });
    }
    let rows = match codec {
        WireCodec::F32 => bytes
            .as_chunks()
            .0
            .iter()
            .map(|b| f32::from_le_bytes(*b))
            .collect(),
        WireCodec::Packed => exponents::unpack(bytes, values, exponents::SINGLE)?,
        WireCodec::Bf16 => exponents::unpack(bytes, values, exponents::BRAIN)?,
        WireCodec::Int8 => unpack_int8(bytes, columns),
    };
    Ok(Hidden { width: columns, rows })
}

fn pack_f32(rows: &[f32]) -> Vec<u8> {
    let mut bytes = vec![0; 4 * rows.len()];
    for (place, x) in bytes.as_chunks_mut().0.iter_mut().zip(rows) {
        *place = x.to_le_bytes();
    }
    bytes
}

fn le32(bytes: &[u8]) -> u32 {
    bytes
        .iter()
        .rev()
        .fold(0, |word, byte| word << 8 | u32::from(*byte))
}

/// The upper half of a number's bits, rounded to nearest, ties to even. What is no number stays none.
fn bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    if x.is_nan() {
        return (bits >> 16) as u16 | 0x40;
    }
    let tie = (bits >> 16) & 1;
    ((bits + 0x7FFF + tie) >> 16) as u16
}

/// The least number of 8 bits of mantissa that is not below `x`, so that no code leaves its range. `x` is finite and
/// not negative.
fn bf16_up(x: f32) -> u16 {
    (x.to_bits().div_ceil(1 << 16)).min(0x7F7F) as u16
}

fn widen(half: u16) -> f32 {
    f32::from_bits(u32::from(half) << 16)
}

/// For each 32 numbers of a row: the scale (2 bytes), then a code a number. The last block of a row may be shorter.
fn pack_int8(hidden: &Hidden) -> Result<Vec<u8>, CodecError> {
    if hidden.rows.iter().any(|x| !x.is_finite()) {
        return Err(CodecError::NotFinite(WireCodec::Int8));
    }
    let mut bytes = Vec::with_capacity(hidden.rows.len() + hidden.rows.len() / 8 + 2 * hidden.tokens());
    for row in hidden.rows.chunks_exact(hidden.width.max(1)) {
        for block in row.chunks(BLOCK) {
            let largest = block.iter().fold(0.0f32, |most, x| most.max(x.abs()));
            let scale = bf16_up(largest / 127.0);
            bytes.extend(scale.to_le_bytes());
            bytes.extend(block.iter().map(|x| code(*x, widen(scale))));
        }
    }
    Ok(bytes)
}

/// `x / scale`, rounded to nearest, ties to even, as a byte in two's complement.
fn code(x: f32, scale: f32) -> u8 {
    if scale == 0.0 {
        return 0;
    }
    (x / scale).round_ties_even().clamp(-127.0, 127.0) as i8 as u8
}

fn unpack_int8(bytes: &[u8], width: usize) -> Vec<f32> {
    let row_bytes = bytes_of(WireCodec::Int8, 1, width).unwrap_or(0).max(1);
    let mut rows = Vec::with_capacity(bytes.len() / row_bytes * width);
    for row in bytes.chunks_exact(row_bytes) {
        for block in row.chunks(BLOCK + 2) {
            let scale = widen(u16::from_le_bytes([block[0], block[1]]));
            rows.extend(block[2..].iter().map(|code| f32::from(*code as i8) * scale));
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rows(width: usize, rows: Vec<f32>) -> Hidden {
        Hidden { width, rows }
    }

    fn bits(hidden: &Hidden) -> Vec<u32> {
        hidden.rows.iter().map(|x| x.to_bits()).collect()
    }

    /// Numbers as layers make them: a bell around zero, with a few far outliers.
    fn like_layers() -> impl Strategy<Value = f32> {
        prop_oneof![
            20 => (-4.0f32..4.0, -3i32..2).prop_map(|(x, e)| x * 2f32.powi(e)),
            1 => -900.0f32..900.0,
            1 => Just(0.0f32),
        ]
    }

    fn hidden(of: impl Strategy<Value = f32>) -> impl Strategy<Value = Hidden> {
        (1usize..70, proptest::collection::vec(of, 0..400)).prop_map(|(width, mut all)| {
            all.truncate(all.len() / width * width);
            rows(width, all)
        })
    }

    proptest! {
        #[test]
        fn exact_formats_carry_every_bit_pattern(h in hidden(any::<u32>().prop_map(f32::from_bits))) {
            for codec in WireCodec::ALL.into_iter().filter(|codec| codec.is_exact()) {
                let packed = pack(&h, codec).unwrap();
                prop_assert!(packed.bytes.len() <= bytes_most(codec, h.tokens(), h.width));
                prop_assert_eq!(bits(&unpack(&packed).unwrap()), bits(&h));
            }
        }

        #[test]
        fn bf16_is_the_rounded_half_and_never_longer_than_it(h in hidden(like_layers())) {
            let packed = pack(&h, WireCodec::Bf16).unwrap();
            prop_assert!(packed.bytes.len() <= 1 + 2 * h.rows.len());
            let halves: Vec<u32> = h.rows.iter().map(|x| u32::from(bf16(*x)) << 16).collect();
            prop_assert_eq!(bits(&unpack(&packed).unwrap()), halves);
        }

        #[test]
        fn rounding_stays_within_half_a_step(h in hidden(like_layers())) {
            let bf16 = unpack(&pack(&h, WireCodec::Bf16).unwrap()).unwrap();
            for (x, y) in h.rows.iter().zip(&bf16.rows) {
                prop_assert!((x - y).abs() <= x.abs() / 256.0);
            }
            let int8 = unpack(&pack(&h, WireCodec::Int8).unwrap()).unwrap();
            for (x, y) in h.rows.chunks(h.width).zip(int8.rows.chunks(h.width)) {
                for (x, y) in x.chunks(BLOCK).zip(y.chunks(BLOCK)) {
                    let largest = x.iter().fold(0.0f32, |most, x| most.max(x.abs()));
                    // Half a step of 1/127, and the scale is at most 1/128 above the least possible one.
                    let bound = largest / 127.0 * 0.5 * (1.0 + 1.0 / 64.0);
                    prop_assert!(x.iter().zip(y).all(|(x, y)| (x - y).abs() <= bound));
                }
            }
        }

        #[test]
        fn rounding_twice_is_rounding_once(h in hidden(like_layers()), codec in 0usize..4) {
            let codec = WireCodec::ALL[codec];
            prop_assume!(codec != WireCodec::Int8);
            let once = unpack(&pack(&h, codec).unwrap()).unwrap();
            let twice = unpack(&pack(&once, codec).unwrap()).unwrap();
            prop_assert_eq!(bits(&once), bits(&twice));
        }

        #[test]
        fn hostile_bytes_are_refused_or_read_within_bounds(
            codec in 0usize..4, tokens in 0u32..9, width in 0u32..70,
            mut bytes in proptest::collection::vec(any::<u8>(), 0..600), fit in any::<bool>(), mode in 0u8..3,
        ) {
            let codec = WireCodec::ALL[codec];
            if fit && check_shape(tokens as usize, width as usize).is_ok() {
                bytes.resize(bytes_least(codec, tokens as usize, width as usize) + bytes.len() % 40, 7);
            }
            if let Some(first) = bytes.first_mut() {
                *first = mode;
            }
            let packed = PackedRows { codec, tokens, width, bytes };
            if let Ok(hidden) = unpack(&packed) {
                prop_assert_eq!(hidden.rows.len(), (tokens * width) as usize);
                prop_assert!(hidden.rows.len() <= packed.bytes.len());
            }
        }
    }

    #[test]
    fn halves_are_rounded_to_even() {
        let table = [
            (0x3F80_8000, 0x3F80), // a tie, even below
            (0x3F81_8000, 0x3F82), // a tie, even above
            (0x3F80_8001, 0x3F81),
            (0x7F7F_FFFF, 0x7F80), // rounds up to infinity
            (0xFF80_0000, 0xFF80),
            (0x7F80_0001, 0x7FC0), // stays no number
        ];
        for (single, half) in table {
            assert_eq!(bf16(f32::from_bits(single)), half, "{single:x}");
        }
    }

    #[test]
    fn shapes_are_checked_before_anything_is_reserved() {
        for (tokens, width) in [(u32::MAX, u32::MAX), (513, 8192), (1, 70_000), (3, 0)] {
            let packed = PackedRows {
                codec: WireCodec::F32,
                tokens,
                width,
                bytes: Vec::new(),
            };
            assert!(matches!(unpack(&packed), Err(CodecError::TooLarge { .. })));
        }
        assert!(matches!(
            pack(&rows(3, vec![0.0; 4]), WireCodec::F32),
            Err(CodecError::Ragged { .. })
        ));
        let nan = rows(1, vec![f32::NAN]);
        assert_eq!(
            pack(&nan, WireCodec::Int8),
            Err(CodecError::NotFinite(WireCodec::Int8))
        );
    }

    #[test]
    fn the_same_rows_are_these_bytes() {
        let h = rows(3, vec![1.0, -2.5, 0.1, 0.0, 3.0, -0.75]);
        let hex = |codec| {
            pack(&h, codec)
                .unwrap()
                .bytes
                .iter()
                .map(|b| format!("{b:02x}"))
                .collect::<String>()
        };
        assert_eq!(hex(WireCodec::Bf16), "00803f20c0cd3d0000404040bf");
        assert_eq!(hex(WireCodec::Int8), "a23c338205c23c00 7fe0".replace(' ', ""));
    }
}
