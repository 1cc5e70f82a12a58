//! A place in a sequence of tokens.

/// The number of tokens that stand before this one in its sequence: the first token has position 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position(pub u32);

impl Position {
    /// The position as an index into a table with one row per token of the sequence.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl std::fmt::Display for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}
