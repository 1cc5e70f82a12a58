//! SentencePiece's precompiled normalisation: a double array that maps text prefixes to replacements.
//!
//! Layout: `u32` length of the array in bytes, the array (`u32` units, little-endian, as Darts-clone writes
//! them), then the replacements, each ended by a zero byte.

use super::TokenizerError;
use super::normalizer::REPLACEMENT_MAX;

/// A normalisation table.
#[derive(Debug, Clone)]
pub(super) struct Charsmap {
    units: Vec<u32>,
    replacements: Vec<u8>,
}

impl Charsmap {
    /// Reads the table from the bytes of a model file.
    pub(super) fn new(bytes: &[u8]) -> Result<Self, TokenizerError> {
        let (size, rest) = bytes.split_first_chunk::<4>().ok_or(TokenizerError::Charsmap)?;
        let size = u32::from_le_bytes(*size) as usize;
        let (array, replacements) = rest.split_at_checked(size).ok_or(TokenizerError::Charsmap)?;
        let units = array
            .chunks_exact(4)
            .map(|unit| u32::from_le_bytes([unit[0], unit[1], unit[2], unit[3]]));
        Ok(Self {
            units: units.collect(),
            replacements: replacements.to_vec(),
        })
    }

    /// Length of the longest prefix of `text` that has a replacement, and that replacement.
    pub(super) fn longest_prefix(&self, text: &[u8]) -> Option<(usize, &str)> {
        let (len, start) = self.leaves(text).last()?;
        Some((len, self.replacement(start)?))
    }

    /// The replacement of the shortest prefix of `text` that has one.
    pub(super) fn first_prefix(&self, text: &str) -> Option<&str> {
        let (_, start) = self.leaves(text.as_bytes()).next()?;
        self.replacement(start)
    }

    /// Length of each prefix of `text` that has a replacement, and where that starts.
    fn leaves<'a>(&'a self, text: &'a [u8]) -> impl Iterator<Item = (usize, usize)> + 'a {
        let mut at = self.unit(0).map(base);
        let mut depth = 0;
        std::iter::from_fn(move || {
            loop {
                let byte = *text.get(depth).filter(|&&byte| byte != 0)?;
                let place = at? ^ usize::from(byte);
                let unit = self.unit(place).filter(|&unit| label(unit) == u32::from(byte))?;
                depth += 1;
                at = Some(place ^ base(unit));
                if has_leaf(unit) {
                    return Some((depth, (self.unit(at?)? & 0x7fff_ffff) as usize));
                }
            }
        })
    }
    fn unit(&self, at: usize) -> Option<u32> {
        self.units.get(at).copied()
    }

    fn replacement(&self, start: usize) -> Option<&str> {
        let rest = self.replacements.get(start..)?;
        let end = rest.iter().take(REPLACEMENT_MAX).position(|&byte| byte == 0)?;
        std::str::from_utf8(&rest[..end]).ok()
    }
}

fn base(unit: u32) -> usize {
    ((unit >> 10) << ((unit & (1 << 9)) >> 6)) as usize
}

/// The byte on the edge to this unit; with the top bit set the unit is a value and matches no byte.
fn label(unit: u32) -> u32 {
    unit & (1 << 31 | 0xff)
}

fn has_leaf(unit: u32) -> bool {
    (unit >> 8) & 1 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A table with the one rule "a" -> "bc": the root's base is 2, "a" (0x61) sits at 2 ^ 0x61, its leaf
    /// at that place ^ 1.
    fn table() -> Vec<u8> {
        let mut units = vec![0u32; 256];
        units[0] = 2 << 10;
        units[2 ^ 0x61] = 1 << 10 | 1 << 8 | 0x61;
        units[2 ^ 0x61 ^ 1] = 1 << 31;
        let mut bytes = (units.len() as u32 * 4).to_le_bytes().to_vec();
        units.iter().for_each(|unit| bytes.extend(unit.to_le_bytes()));
        bytes.extend(b"bc\0");
        bytes
    }

    #[test]
    fn a_rule_replaces_its_prefix() {
        let map = Charsmap::new(&table()).unwrap();
        assert_eq!(map.longest_prefix(b"ax"), Some((1, "bc")));
        assert_eq!(map.longest_prefix(b"xa"), None);
        assert_eq!(map.longest_prefix(b""), None);
    }

    #[test]
    fn broken_tables_are_refused_or_match_nothing() {
        assert!(Charsmap::new(b"abc").is_err());
        assert!(Charsmap::new(b"\xff\xff\xff\xffabc").is_err());
        let mut unended = table();
        unended.truncate(unended.len() - 1);
        assert_eq!(Charsmap::new(&unended).unwrap().longest_prefix(b"a"), None);
        for at in 4..1028 {
            let mut wild = table();
            wild[at] ^= 0xff;
            let _ = Charsmap::new(&wild).unwrap().longest_prefix(b"abcdefgh");
        }
    }
}
