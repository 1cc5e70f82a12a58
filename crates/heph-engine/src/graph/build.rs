//! Making blocks node by node, each shape checked against the file as it is named.

use super::{
    Activation, AttentionSpec, Block, ExpertsSpec, Node, Op, RowChoice, TensorId, TensorSpec, ValueId,
};

/// Where a builder looks up what the file holds.
pub trait TensorIndex {
    /// The tensor of this name, or `None` when the file has none.
    fn spec(&self, name: &str) -> Option<TensorSpec>;

    /// The names of all of them.
    fn names(&self) -> Vec<&str>;
}

/// Why a file's tensors do not make a model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GraphError {
    /// No builder knows the architecture.
    #[error("this engine does not run the architecture {name:?}")]
    Architecture {
        /// The name in the file.
        name: String,
    },
    /// A tensor that the architecture needs is not in the file.
    #[error("the file has no tensor {name:?}")]
    Missing {
        /// The canonical name.
        name: String,
    },
    /// A tensor that the architecture has no place for: without it, the model would compute something else than it means.
    #[error("the file holds a tensor {name:?}, for which the architecture has no place")]
    Unused {
        /// The canonical name.
        name: String,
    },
    /// A tensor has another shape than the configuration asks for.
    #[error(
        "tensor {name:?} is {got_rows} x {got_cols} (x {got_experts}), the configuration asks for {rows} x {cols} (x {experts})"
    )]
    Shape {
        /// The canonical name.
        name: String,
        /// Rows asked for.
        rows: usize,
        /// Columns asked for.
        cols: usize,
        /// Stacked matrices asked for.
        experts: usize,
        /// Rows in the file.
        got_rows: usize,
        /// Columns in the file.
        got_cols: usize,
        /// Stacked matrices in the file.
        got_experts: usize,
    },
    /// A tensor's rows do not divide into blocks of its format.
    #[error("tensor {name:?} has rows of {cols} numbers, which its format {format} cannot hold")]
    Ragged {
        /// The canonical name.
        name: String,
        /// Columns in the file.
        cols: usize,
        /// The format's name.
        format: &'static str,
    },
    /// The configuration contradicts itself.
    #[error("{what}")]
    Config {
        /// What is wrong, as a sentence.
        what: String,
    },
}

/// The tensors named so far, shared by the blocks of one graph.
pub(super) struct Tensors<'a> {
    index: &'a dyn TensorIndex,
    pub(super) named: Vec<TensorSpec>,
}

impl<'a> Tensors<'a> {
    pub(super) fn new(index: &'a dyn TensorIndex) -> Self {
        Self {
            index,
            named: Vec::new(),
        }
    }

    /// Whether the file holds a tensor of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.index.spec(name).is_some()
    }

    fn need(&mut self, name: &str, rows: usize, cols: usize, experts: usize) -> Result<TensorId, GraphError> {
        let spec = self.index.spec(name).ok_or_else(|| GraphError::Missing {
            name: name.to_owned(),
        })?;
        if (spec.rows, spec.cols, spec.experts) != (rows, cols, experts) {
            let (got_rows, got_cols, got_experts) = (spec.rows, spec.cols, spec.experts);
            let name = spec.name;
            return Err(GraphError::Shape {
                name,
                rows,
                cols,
                experts,
                got_rows,
                got_cols,
                got_experts,
            });
        }
        if spec.format.row_bytes(cols).is_none() {
            return Err(GraphError::Ragged {
                name: spec.name,
                cols,
                format: spec.format.name(),
            });
        }
        if let Some(known) = self.named.iter().position(|t| t.name == spec.name) {
            return Ok(TensorId(known));
        }
        self.named.push(spec);
        Ok(TensorId(self.named.len() - 1))
    }
}

/// Builds one block, node by node.
pub struct BlockBuilder<'t, 'a> {
    tensors: &'t mut Tensors<'a>,
    block: Block,
}

impl<'t, 'a> BlockBuilder<'t, 'a> {
    /// An empty block whose input is `width` wide.
    pub(super) fn new(tensors: &'t mut Tensors<'a>, width: usize) -> Self {
        Self {
            tensors,
            block: Block {
                widths: vec![width],
                nodes: Vec::new(),
            },
        }
    }

    /// The block's input.
    pub(super) fn input(&self) -> ValueId {
        ValueId(0)
    }

    /// Whether the file holds a tensor of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.tensors.has(name)
    }

    /// Looks rows of a `(vocab, width)` table up by token id.
    pub(super) fn embed(&mut self, table: &str, vocab: usize, width: usize) -> Result<ValueId, GraphError> {
        let table = self.tensors.need(table, vocab, width, 1)?;
        Ok(self.push(Op::Embed { table }, vec![], width))
    }

    /// Adds the chosen row of a `(rows, width)` table to each row.
    pub(super) fn add_row(
        &mut self,
        x: ValueId,
        table: &str,
        rows: usize,
        row: RowChoice,
    ) -> Result<ValueId, GraphError> {
        let width = self.width(x);
        let table = self.tensors.need(table, rows, width, 1)?;
        Ok(self.push(Op::AddRow { table, row }, vec![x], width))
    }

    /// Layer normalisation of whole rows, by the weight and the bias of `stem`.
    pub(super) fn layer_norm(&mut self, x: ValueId, stem: &str, eps: f32) -> Result<ValueId, GraphError> {
        let width = self.width(x);
        let weight = self.tensors.need(&format!("{stem}.weight"), 1, width, 1)?;
        let bias = self.tensors.need(&format!("{stem}.bias"), 1, width, 1)?;
        Ok(self.push(Op::LayerNorm { weight, bias, eps }, vec![x], width))
    }

    /// RMS normalisation in groups of `group` numbers.
    pub(super) fn rms_norm(
        &mut self,
        x: ValueId,
        weight: &str,
        group: usize,
        eps: f32,
    ) -> Result<ValueId, GraphError> {
        let weight = self.tensors.need(weight, 1, group, 1)?;
        Ok(self.push(Op::RmsNorm { weight, eps }, vec![x], self.width(x)))
    }

    /// A matrix product to `rows` outputs, with the bias of the same stem where the file has one.
    pub(super) fn linear(&mut self, x: ValueId, stem: &str, rows: usize) -> Result<ValueId, GraphError> {
        let weight = self
            .tensors
            .need(&format!("{stem}.weight"), rows, self.width(x), 1)?;
        let bias = format!("{stem}.bias");
        let bias = if self.has(&bias) {
            Some(self.tensors.need(&bias, 1, rows, 1)?)
        } else {
            None
        };
        Ok(self.push(Op::Linear { weight, bias }, vec![x], rows))
    }

    /// Rotary embedding of each head of `head_dim`.
    pub(super) fn rope(&mut self, x: ValueId, head_dim: usize) -> ValueId {
        self.push(Op::Rope { head_dim }, vec![x], self.width(x))
    }

    /// Attention of `q` over the cache extended by `k` and `v`.
    pub(super) fn attention(&mut self, q: ValueId, k: ValueId, v: ValueId, spec: AttentionSpec) -> ValueId {
        self.push(Op::Attention(spec), vec![q, k, v], spec.heads * spec.head_dim)
    }

    /// `activation(gate) * up`.
    pub(super) fn gate(&mut self, gate: ValueId, up: ValueId, activation: Activation) -> ValueId {
        self.push(Op::Gate(activation), vec![gate, up], self.width(gate))
    }

    /// The exact GELU.
    pub(super) fn gelu(&mut self, x: ValueId) -> ValueId {
        self.push(Op::Gelu, vec![x], self.width(x))
    }

    /// The mixture of experts of layer prefix `stem`.
    pub(super) fn experts(&mut self, x: ValueId, stem: &str, of: Mixture) -> Result<ValueId, GraphError> {
        let hidden = self.width(x);
        let Mixture {
            count,
            used,
            ffn,
            normalise,
            activation,
        } = of;
        let router = self
            .tensors
            .need(&format!("{stem}.ffn_gate_inp.weight"), count, hidden, 1)?;
        let gate = self
            .tensors
            .need(&format!("{stem}.ffn_gate_exps.weight"), ffn, hidden, count)?;
        let up = self
            .tensors
            .need(&format!("{stem}.ffn_up_exps.weight"), ffn, hidden, count)?;
        let down = self
            .tensors
            .need(&format!("{stem}.ffn_down_exps.weight"), hidden, ffn, count)?;
        let spec = ExpertsSpec {
            router,
            gate,
            up,
            down,
            count,
            used,
            ffn,
            normalise,
            activation,
        };
        Ok(self.push(Op::Experts(spec), vec![x], hidden))
    }

    /// `residual + x`.
    pub(super) fn add(&mut self, residual: ValueId, x: ValueId) -> ValueId {
        self.push(Op::Add, vec![residual, x], self.width(residual))
    }

    /// The finished block.
    pub(super) fn finish(self) -> Block {
        self.block
    }

    fn width(&self, value: ValueId) -> usize {
        self.block.widths[value.0]
    }

    fn push(&mut self, op: Op, inputs: Vec<ValueId>, width: usize) -> ValueId {
        let output = ValueId(self.block.widths.len());
        self.block.widths.push(width);
        self.block.nodes.push(Node { op, inputs, output });
        output
    }
}

/// The numbers of a mixture of experts that the configuration gives.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mixture {
    pub(super) count: usize,
    pub(super) used: usize,
    pub(super) ffn: usize,
    pub(super) normalise: bool,
    pub(super) activation: Activation,
}
