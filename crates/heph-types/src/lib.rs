//! Words that every floor shares: tokens, positions, layer ranges, nodes, stages and their orders, profiles and policy.
//!
//! Holds no behaviour beyond the checks that make a value valid. Knows no model, file or clock, and opens no connection.

pub mod hex;
mod hidden;
mod kv_format;
mod layers;
mod node;
mod position;
mod profile;
mod sampling;
mod stage;
mod token;
mod wire_codec;

pub use hidden::Hidden;
pub use kv_format::{KvFormat, UnknownKvFormat};
pub use layers::{LayerRange, LayerRangeError};
pub use node::{NodeId, Role, UnknownRole};
pub use position::Position;
pub use profile::{
    Caps, Exactness, Held, Hours, LayerProfile, Leaves, LinkProfile, ModelProfile, NodeProfile, NodeState,
    Policy, Price, SPEED_POINTS_MAX, Speed, SpeedPoint, TimedPass,
};
pub use sampling::{DryOptions, SamplingOptionError, SamplingOptions};
pub use stage::{
    BRANCHES_MAX, Branch, CachePart, Course, Forward, GUESSES_MAX, ModelHash, Order, Pass, Reply, SessionId,
    StageInput, StageSpec, Tag, Ticket,
};
pub use token::TokenId;
pub use wire_codec::{UnknownWireCodec, WireCodec};
