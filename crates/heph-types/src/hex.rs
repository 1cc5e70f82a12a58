//! Bytes as hexadecimal digits: for people, and in what is kept or sent as text (`#[serde(with = "hex")]`).

use serde::{Deserialize, Deserializer, Serializer};

/// A text that does not spell the bytes that it is to spell.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{digits} hexadecimal digits are needed")]
pub struct HexError {
    digits: usize,
}

/// The bytes that `text` spells, neither more nor fewer.
///
/// # Errors
/// When it spells others, or none.
pub fn read<const N: usize>(text: &str) -> Result<[u8; N], HexError> {
    let digits = text.as_bytes();
    let error = HexError { digits: 2 * N };
    if digits.len() != error.digits {
        return Err(error);
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |at: usize| char::from(pair[at]).to_digit(16);
        let (Some(high), Some(low)) = (digit(0), digit(1)) else {
            return Err(error);
        };
        *byte = (high * 16 + low) as u8;
    }
    Ok(bytes)
}

/// Spells `bytes`.
pub fn write(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// As [`write()`], for serde.
///
/// # Errors
/// The serializer's own.
pub fn serialize<const N: usize, S: Serializer>(bytes: &[u8; N], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&write(bytes))
}

/// As [`read`], for serde; in a text a list of the bytes is read too, as hashes were kept at first.
///
/// # Errors
/// The deserializer's own, and those of [`read`].
pub fn deserialize<'de, const N: usize, D: Deserializer<'de>>(deserializer: D) -> Result<[u8; N], D::Error> {
    let kept = match deserializer.is_human_readable() {
        true => Kept::deserialize(deserializer)?,
        false => Kept::Digits(String::deserialize(deserializer)?),
    };
    let bytes = match kept {
        Kept::Digits(text) => read(&text),
        Kept::Bytes(bytes) => bytes.try_into().map_err(|_| HexError { digits: 2 * N }),
    };
    bytes.map_err(serde::de::Error::custom)
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "hexadecimal digits, or a list of bytes")]
enum Kept {
    Digits(String),
    Bytes(Vec<u8>),
}

#[cfg(test)]
mod tests {
    use super::{read, write};

    #[test]
    fn what_is_spelled_is_read_and_nothing_else() {
        let bytes = [0, 1, 0x9a, 0xff];
        assert_eq!(write(&bytes), "00019aff");
        assert_eq!(read("00019aff"), Ok(bytes));
        assert_eq!(read("00019AFF"), Ok(bytes));
        for wrong in [
            "",
            "00019af",
            "00019aff0",
            "00019aff00",
            "+1019aff",
            "0001 9af",
            "00019aé",
        ] {
            let error = read::<4>(wrong).unwrap_err();
            assert_eq!(error.to_string(), "8 hexadecimal digits are needed", "{wrong:?}");
        }
    }
}
