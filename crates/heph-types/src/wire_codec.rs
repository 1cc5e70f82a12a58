//! How hidden states are written on the way between two stages.

use serde::{Deserialize, Serialize};

/// A form of hidden states on the wire. Which one a link uses is the planner's choice; a codec that is not exact is
/// chosen only for a model whose family is certified for it, and then the answer's class says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WireCodec {
    /// Single precision, as computed: four bytes a number.
    F32,
    /// The same bits in fewer bytes, by a lossless code.
    Packed,
    /// The upper half of single precision, rounded to nearest, ties to even: two bytes a number.
    Bf16,
    /// 8-bit codes with one scale for 32 numbers.
    Int8,
}

impl WireCodec {
    /// All of them, from most to least bytes.
    pub const ALL: [WireCodec; 4] = [
        WireCodec::F32,
        WireCodec::Packed,
        WireCodec::Bf16,
        WireCodec::Int8,
    ];

    /// The name that `from_str` reads.
    pub fn name(self) -> &'static str {
        match self {
            WireCodec::F32 => "f32",
            WireCodec::Packed => "packed",
            WireCodec::Bf16 => "bf16",
            WireCodec::Int8 => "int8",
        }
    }

    /// Whether what arrives has the bits that were sent.
    pub fn is_exact(self) -> bool {
        match self {
            WireCodec::F32 | WireCodec::Packed => true,
            WireCodec::Bf16 | WireCodec::Int8 => false,
        }
    }
}

impl std::fmt::Display for WireCodec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A word that names no wire codec.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no wire codec; known are f32, packed, bf16 and int8")]
pub struct UnknownWireCodec(pub String);

impl std::str::FromStr for WireCodec {
    type Err = UnknownWireCodec;

    fn from_str(word: &str) -> Result<WireCodec, UnknownWireCodec> {
        let named = WireCodec::ALL.into_iter().find(|codec| codec.name() == word);
        named.ok_or_else(|| UnknownWireCodec(word.to_owned()))
    }
}
