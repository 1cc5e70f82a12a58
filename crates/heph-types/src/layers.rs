//! A run of consecutive layers of one model.

use serde::{Deserialize, Serialize};

/// The layers `start..end` of a model, `start` included and `end` not. May be empty: a desk that keeps
/// only the embedding runs no layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "(u16, u16)", into = "(u16, u16)")]
pub struct LayerRange {
    start: u16,
    end: u16,
}

/// Why two numbers are not a range of layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LayerRangeError {
    /// The range ends before it starts.
    #[error("layers {start}..{end} end before they start")]
    Reversed {
        /// First layer asked for.
        start: usize,
        /// First layer not asked for.
        end: usize,
    },
    /// The model has fewer layers.
    #[error("layers {start}..{end} do not fit a model of {count} layers")]
    Outside {
        /// First layer asked for.
        start: usize,
        /// First layer not asked for.
        end: usize,
        /// Layers of the model.
        count: usize,
    },
}

impl LayerRange {
    /// The layers `start..end` of a model that has `count` layers.
    pub fn new(start: usize, end: usize, count: usize) -> Result<Self, LayerRangeError> {
        if start > end {
            return Err(LayerRangeError::Reversed { start, end });
        }
        if end > count || count > usize::from(u16::MAX) {
            return Err(LayerRangeError::Outside { start, end, count });
        }
        Ok(Self {
            start: start as u16,
            end: end as u16,
        })
    }

    /// Index of the first layer.
    pub fn start(self) -> usize {
        usize::from(self.start)
    }

    /// Index of the first layer after the range.
    pub fn end(self) -> usize {
        usize::from(self.end)
    }

    /// Number of layers.
    pub fn len(self) -> usize {
        self.end() - self.start()
    }

    /// Whether the range holds no layer.
    pub fn is_empty(self) -> bool {
        self.start == self.end
    }

    /// The layer indices in order.
    pub fn iter(self) -> std::ops::Range<usize> {
        self.start()..self.end()
    }
}

impl From<LayerRange> for (u16, u16) {
    fn from(range: LayerRange) -> Self {
        (range.start, range.end)
    }
}

/// Whoever reads a range checks it against the model; here only that it does not run backwards.
impl TryFrom<(u16, u16)> for LayerRange {
    type Error = LayerRangeError;

    fn try_from((start, end): (u16, u16)) -> Result<Self, LayerRangeError> {
        LayerRange::new(start.into(), end.into(), u16::MAX.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_stays_inside_its_model() {
        assert_eq!(LayerRange::new(2, 6, 8).map(LayerRange::len), Ok(4));
        assert!(LayerRange::new(0, 0, 8).unwrap().is_empty());
        assert_eq!(
            LayerRange::new(3, 2, 8),
            Err(LayerRangeError::Reversed { start: 3, end: 2 })
        );
        assert_eq!(
            LayerRange::new(0, 9, 8),
            Err(LayerRangeError::Outside {
                start: 0,
                end: 9,
                count: 8
            })
        );
    }
}
