//! The number format of a key-value cache.

use serde::{Deserialize, Serialize};

/// The number format of a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KvFormat {
    /// Single precision, as computed.
    F32,
    /// Half precision, rounded to nearest, ties to even.
    F16,
    /// 8-bit codes with one half-precision scale for 32 numbers of a head; a last block may be shorter.
    Q8_0,
}

impl KvFormat {
    /// All of them.
    pub const ALL: [KvFormat; 3] = [KvFormat::F32, KvFormat::F16, KvFormat::Q8_0];

    /// The name that `from_str` reads.
    pub fn name(self) -> &'static str {
        match self {
            KvFormat::F32 => "f32",
            KvFormat::F16 => "f16",
            KvFormat::Q8_0 => "q8_0",
        }
    }

    /// Whether a cache in this format takes no more room than one in `other`.
    pub fn fits_into(self, other: KvFormat) -> bool {
        let bits = |format| match format {
            KvFormat::F32 => 32,
            KvFormat::F16 => 16,
            KvFormat::Q8_0 => 8,
        };
        bits(self) <= bits(other)
    }
}

impl std::fmt::Display for KvFormat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A word that names no cache format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no cache format; known are f32, f16 and q8_0")]
pub struct UnknownKvFormat(pub String);

impl std::str::FromStr for KvFormat {
    type Err = UnknownKvFormat;

    fn from_str(word: &str) -> Result<KvFormat, UnknownKvFormat> {
        let named = KvFormat::ALL.into_iter().find(|format| format.name() == word);
        named.ok_or_else(|| UnknownKvFormat(word.to_owned()))
    }
}
