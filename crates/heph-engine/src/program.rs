//! A block of the graph lowered to steps over numbered buffers.
//!
//! Lowering decides what runs together and where values live: products of one input become one parallel
//! dispatch, a product that is only added to the residual adds in place, and a buffer is used again as
//! soon as nothing reads its value. None of this changes a bit of any result.

use crate::graph::{
    Activation, AttentionSpec, Block, ExpertsSpec, Graph, Node, Op, RowChoice, TensorId, ValueId,
};

/// A buffer of `(tokens, width)` numbers. Slot 0 holds the block's input, and at the end its output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slot(pub(crate) usize);

/// One matrix product of a [`Step::MatMul`].
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Product {
    pub(crate) weight: TensorId,
    pub(crate) bias: Option<TensorId>,
    pub(crate) out: Slot,
    /// Whether the product is added to what `out` holds, or replaces it.
    pub(crate) adds: bool,
}

/// One thing done to the buffers.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Step {
    Norm {
        x: Slot,
        out: Slot,
        weight: TensorId,
        eps: f32,
    },
    /// Normalises in place.
    LayerNorm {
        x: Slot,
        weight: TensorId,
        bias: TensorId,
        eps: f32,
    },
    /// Adds a row of a table to each row, in place.
    AddRow {
        into: Slot,
        table: TensorId,
        row: RowChoice,
    },
    MatMul {
        x: Slot,
        products: Vec<Product>,
    },
    Rope {
        x: Slot,
        head_dim: usize,
    },
    /// `live` are the buffers that later steps read, `out` among them.
    Attention {
        q: Slot,
        k: Slot,
        v: Slot,
        out: Slot,
        spec: AttentionSpec,
        live: Vec<Slot>,
    },
    /// Leaves its result in `gate`.
    Gate {
        gate: Slot,
        up: Slot,
        activation: Activation,
    },
    /// Works in place.
    Gelu {
        x: Slot,
    },
    Experts {
        x: Slot,
        out: Slot,
        spec: ExpertsSpec,
    },
    Add {
        into: Slot,
        x: Slot,
    },
}

/// The steps of one block.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Program {
    pub(crate) steps: Vec<Step>,
    /// Width of each buffer while it holds its widest value.
    pub(crate) widths: Vec<usize>,
    /// Where the block's output ends up.
    pub(crate) output: Slot,
}

impl Program {
    /// Lowers `block`. An [`Op::Embed`] has no step: the worker looks rows up itself.
    pub(crate) fn lower(graph: &Graph, block: &Block) -> Program {
        let mut lowering = Lowering::new(graph, block);
        let mut at = 0;
        while at < block.nodes.len() {
            at = lowering.node(at);
        }
        let output = lowering.slot_of(block.output());
        Program {
            steps: lowering.steps,
            widths: lowering.widths,
            output,
        }
    }
}

struct Lowering<'g> {
    graph: &'g Graph,
    block: &'g Block,
    /// For each value, the index of the last node that reads it; the output is read after all of them.
    last_use: Vec<usize>,
    slots: Vec<Option<Slot>>,
    widths: Vec<usize>,
    free: Vec<Slot>,
    steps: Vec<Step>,
}

impl<'g> Lowering<'g> {
    fn new(graph: &'g Graph, block: &'g Block) -> Self {
        let mut last_use = vec![0; block.widths.len()];
        for (at, node) in block.nodes.iter().enumerate() {
            node.inputs.iter().for_each(|v| last_use[v.0] = at);
        }
        last_use[block.output().0] = usize::MAX;
        let mut slots = vec![None; block.widths.len()];
        slots[0] = Some(Slot(0));
        let widths = vec![block.widths[0]];
        Self {
            graph,
            block,
            last_use,
            slots,
            widths,
            free: Vec::new(),
            steps: Vec::new(),
        }
    }

    /// Lowers the node at `at`, and those it absorbs; returns the next one to lower.
    fn node(&mut self, at: usize) -> usize {
        let node = &self.block.nodes[at];
        match &node.op {
            Op::Embed { .. } => {
                self.slots[node.output.0] = Some(Slot(0));
                at + 1
            }
            Op::RmsNorm { weight, eps } => {
                let x = self.slot_of(node.inputs[0]);
                let out = if self.dies(node.inputs[0], at) {
                    self.reuse(x, node)
                } else {
                    self.take(node)
                };
                self.steps.push(Step::Norm {
                    x,
                    out,
                    weight: *weight,
                    eps: *eps,
                });
                at + 1
            }
            Op::LayerNorm { weight, bias, eps } => {
                let x = self.in_place(at);
                self.steps.push(Step::LayerNorm {
                    x,
                    weight: *weight,
                    bias: *bias,
                    eps: *eps,
                });
                at + 1
            }
            Op::AddRow { table, row } => {
                let into = self.in_place(at);
                self.steps.push(Step::AddRow {
                    into,
                    table: *table,
                    row: *row,
                });
                at + 1
            }
            Op::Gelu => {
                let x = self.in_place(at);
                self.steps.push(Step::Gelu { x });
                at + 1
            }
            Op::Linear { .. } => self.linear(at),
            Op::Rope { head_dim } => {
                let x = self.in_place(at);
                self.steps.push(Step::Rope {
                    x,
                    head_dim: *head_dim,
                });
                at + 1
            }
            Op::Attention(spec) => {
                let [q, k, v] = [0, 1, 2].map(|i| self.slot_of(node.inputs[i]));
                let out = self.take(node);
                self.release(node, at);
                let live = self.live_after(at);
                self.steps.push(Step::Attention {
                    q,
                    k,
                    v,
                    out,
                    spec: *spec,
                    live,
                });
                at + 1
            }
            Op::Gate(activation) => {
                let [gate, up] = [0, 1].map(|i| self.slot_of(node.inputs[i]));
                assert!(self.dies(node.inputs[0], at), "the gate is computed in place");
                self.reuse(gate, node);
                self.free_if_dead(node.inputs[1], at);
                self.steps.push(Step::Gate {
                    gate,
                    up,
                    activation: *activation,
                });
                at + 1
            }
            Op::Experts(spec) => {
                let x = self.slot_of(node.inputs[0]);
                let out = self.take(node);
                self.release(node, at);
                self.steps.push(Step::Experts { x, out, spec: *spec });
                at + 1
            }
            Op::Add => {
                let [into, x] = [0, 1].map(|i| self.slot_of(node.inputs[i]));
                assert!(self.dies(node.inputs[0], at), "the residual is added to in place");
                self.reuse(into, node);
                self.free_if_dead(node.inputs[1], at);
                self.steps.push(Step::Add { into, x });
                at + 1
            }
        }
    }

    /// Lowers a product together with its neighbours that read the same input, or with the sum after it.
    fn linear(&mut self, at: usize) -> usize {
        if let Some(next) = self.linear_onto_residual(at) {
            return next;
        }
        let x = self.block.nodes[at].inputs[0];
        let source = self.slot_of(x);
        let mut products = Vec::new();
        let mut end = at;
        while let Some(node) = self.block.nodes.get(end).filter(|n| n.inputs == [x]) {
            let Op::Linear { weight, bias } = &node.op else {
                break;
            };
            let out = self.take(node);
            products.push(Product {
                weight: *weight,
                bias: *bias,
                out,
                adds: false,
            });
            end += 1;
        }
        self.free_if_dead(x, end - 1);
        self.steps.push(Step::MatMul { x: source, products });
        end
    }

    /// `residual + W x`, where nothing else reads either: the product adds to the residual's buffer.
    fn linear_onto_residual(&mut self, at: usize) -> Option<usize> {
        let node = &self.block.nodes[at];
        let Op::Linear { weight, bias: None } = &node.op else {
            return None;
        };
        let sum = self
            .block
            .nodes
            .get(at + 1)
            .filter(|n| n.op == Op::Add && n.inputs[1] == node.output)?;
        let alone = self.dies(node.output, at + 1) && self.dies(sum.inputs[0], at + 1);
        if !alone || self.graph.tensor(*weight).rows != self.block.widths[sum.inputs[0].0] {
            return None;
        }
        let x = self.slot_of(node.inputs[0]);
        let out = self.slot_of(sum.inputs[0]);
        self.reuse(out, sum);
        self.free_if_dead(node.inputs[0], at);
        let products = vec![Product {
            weight: *weight,
            bias: None,
            out,
            adds: true,
        }];
        self.steps.push(Step::MatMul { x, products });
        Some(at + 2)
    }

    /// The slot of a node's only input, which its output takes over.
    fn in_place(&mut self, at: usize) -> Slot {
        let node = &self.block.nodes[at];
        assert!(
            self.dies(node.inputs[0], at),
            "what works in place is the last to read its input"
        );
        let slot = self.slot_of(node.inputs[0]);
        self.reuse(slot, node)
    }

    fn slot_of(&self, value: ValueId) -> Slot {
        self.slots[value.0].expect("a node reads only values made before it")
    }

    /// Whether no node after `at` reads `value`.
    fn dies(&self, value: ValueId, at: usize) -> bool {
        self.last_use[value.0] <= at
    }

    /// Puts the node's output into a slot that already holds one of its inputs.
    fn reuse(&mut self, slot: Slot, node: &Node) -> Slot {
        self.slots[node.output.0] = Some(slot);
        slot
    }

    /// Puts the node's output into a free slot, one of the same width if there is one.
    fn take(&mut self, node: &Node) -> Slot {
        let width = self.block.widths[node.output.0];
        let same = self.free.iter().position(|s| self.widths[s.0] == width);
        let slot = match same {
            Some(i) => self.free.swap_remove(i),
            None => {
                self.widths.push(width);
                Slot(self.widths.len() - 1)
            }
        };
        self.reuse(slot, node)
    }

    fn release(&mut self, node: &Node, at: usize) {
        node.inputs.iter().for_each(|v| self.free_if_dead(*v, at));
    }

    fn free_if_dead(&mut self, value: ValueId, at: usize) {
        let slot = self.slot_of(value);
        if self.dies(value, at) && !self.free.contains(&slot) {
            self.free.push(slot);
        }
    }

    /// The slots of values that a node after `at` reads, or that the block hands on.
    fn live_after(&self, at: usize) -> Vec<Slot> {
        let mut live: Vec<Slot> = Vec::new();
        for (value, slot) in self.slots.iter().enumerate() {
            match slot.filter(|_| self.last_use[value] > at) {
                Some(slot) if !live.contains(&slot) => live.push(slot),
                _ => {}
            }
        }
        live
    }
}
