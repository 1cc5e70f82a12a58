//! Words that every floor shares: tokens, positions, layer ranges.
//!
//! Holds no behaviour beyond the checks that make a value valid. Knows no model, node, file or clock.

mod layers;
mod position;
mod token;

pub use layers::{LayerRange, LayerRangeError};
pub use position::Position;
pub use token::TokenId;
