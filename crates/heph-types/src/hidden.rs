//! What passes between two layers.

/// Hidden states between layers: `(tokens, width)`, row after row.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Hidden {
    /// Numbers of one row.
    pub width: usize,
    /// All rows.
    pub rows: Vec<f32>,
}

impl Hidden {
    /// Number of rows.
    pub fn tokens(&self) -> usize {
        self.rows.len().checked_div(self.width).unwrap_or(0)
    }
}
