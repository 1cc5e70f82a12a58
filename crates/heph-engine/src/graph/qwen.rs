//! The Qwen family: Qwen 2 with biased projections, Qwen 3 with normalised heads, dense and with experts.

use super::build::{BlockBuilder, GraphError};
use super::llama::{assemble, layer};
use super::{Graph, TensorIndex, ValueId};
use crate::config::ModelConfig;

/// Builds the graph of a Qwen-shaped model. Qwen 2 adds a bias to queries, keys and values, Qwen 3 has none:
/// a projection takes what the file holds.
pub(super) fn graph(config: &ModelConfig, index: &dyn TensorIndex) -> Result<Graph, GraphError> {
    let norms = config.architecture.starts_with("qwen3");
    let prepare = |name: &str, heads: ValueId, b: &mut BlockBuilder| match norms {
        true => b.rms_norm(
            heads,
            &format!("{name}_norm.weight"),
            config.head_dim,
            config.rms_eps,
        ),
        false => Ok(heads),
    };
    assemble(config, index, |number, b| layer(config, number, b, prepare))
}
