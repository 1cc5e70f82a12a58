//! What a block costs: counted from its nodes.

use super::{Block, Graph, Op, RowChoice, Sight, TensorId};
use heph_kernels::kv::KvFormat;

/// How much a block is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Work {
    /// Tokens that go through the block together.
    pub tokens: usize,
    /// Positions that the last of them can look back on, itself included.
    pub context: usize,
}

/// What doing it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cost {
    /// Numbers in the weights.
    pub parameters: u64,
    /// Bytes of the weights as stored.
    pub weight_bytes: u64,
    /// Bytes of the weights that this work reads (a mixture reads only the experts used).
    pub weight_bytes_read: u64,
    /// Multiplications and additions of the matrix products and of attention, counted singly.
    pub flops: u64,
    /// Bytes that one more position adds to the KV cache.
    pub kv_bytes_per_position: u64,
    /// Bytes of the values inside the block for the work's tokens.
    pub activation_bytes: u64,
}

impl std::ops::AddAssign for Cost {
    fn add_assign(&mut self, other: Self) {
        self.parameters += other.parameters;
        self.weight_bytes += other.weight_bytes;
        self.weight_bytes_read += other.weight_bytes_read;
        self.flops += other.flops;
        self.kv_bytes_per_position += other.kv_bytes_per_position;
        self.activation_bytes += other.activation_bytes;
    }
}

impl Graph {
    /// Cost of one block of this graph.
    pub fn cost(&self, block: &Block, work: Work, kv: KvFormat) -> Cost {
        let mut cost = Cost::default();
        for node in &block.nodes {
            self.add_op(&mut cost, &node.op, work, kv);
        }
        let widths: usize = block.widths.iter().sum();
        cost.activation_bytes = (widths * work.tokens * size_of::<f32>()) as u64;
        cost
    }

    /// Cost of the whole model. A table shared by embedding and head counts once.
    pub fn total_cost(&self, work: Work, kv: KvFormat) -> Cost {
        let mut total = Cost::default();
        for block in self.blocks() {
            total += self.cost(block, work, kv);
        }
        total.parameters = self.tensors.iter().map(super::TensorSpec::parameters).sum();
        total.weight_bytes = self.tensors.iter().map(super::TensorSpec::bytes).sum();
        total
    }

    fn add_op(&self, cost: &mut Cost, op: &Op, work: Work, kv: KvFormat) {
        match op {
            Op::Embed { table } => {
                self.add_tensor(cost, *table, 0);
                let row = self.tensor(*table).bytes() / self.tensor(*table).rows.max(1) as u64;
                cost.weight_bytes_read += row * work.tokens as u64;
            }
            Op::AddRow { table, row } => {
                self.add_tensor(cost, *table, 0);
                let one = self.tensor(*table).bytes() / self.tensor(*table).rows.max(1) as u64;
                cost.weight_bytes_read += match row {
                    RowChoice::First => one,
                    RowChoice::Position => one * work.tokens as u64,
                };
            }
            Op::LayerNorm { weight, bias, .. } => {
                self.add_tensor(cost, *weight, 1);
                self.add_tensor(cost, *bias, 1);
            }
            Op::RmsNorm { weight, .. } => self.add_tensor(cost, *weight, 1),
            Op::Linear { weight, bias } => {
                self.add_tensor(cost, *weight, 1);
                bias.iter().for_each(|b| self.add_tensor(cost, *b, 1));
                cost.flops += 2 * self.tensor(*weight).parameters() * work.tokens as u64;
            }
            Op::Attention(spec) => {
                let pairs = match spec.sight {
                    Sight::Back => visible_pairs(work, spec.window),
                    Sight::Around => work.tokens as u64 * work.context as u64,
                };
                cost.flops += 4 * (spec.heads * spec.head_dim) as u64 * pairs;
                cost.kv_bytes_per_position += spec.kv_shape(kv).position_bytes() as u64;
            }
            Op::Experts(spec) => {
                self.add_tensor(cost, spec.router, 1);
                cost.flops += 2 * self.tensor(spec.router).parameters() * work.tokens as u64;
                let reached = spec.count.min(spec.used * work.tokens) as u64;
                for id in [spec.gate, spec.up, spec.down] {
                    self.add_tensor(cost, id, 0);
                    let one = self.tensor(id);
                    cost.weight_bytes_read += one.bytes() / spec.count as u64 * reached;
                    let used = one.parameters() / spec.count as u64 * spec.used as u64;
                    cost.flops += 2 * used * work.tokens as u64;
                }
            }
            Op::Rope { .. } | Op::Gate(_) | Op::Gelu | Op::Add => {}
        }
    }

    /// Counts a tensor as held, and as read `times` times.
    fn add_tensor(&self, cost: &mut Cost, id: TensorId, times: u64) {
        let spec = self.tensor(id);
        cost.parameters += spec.parameters();
        cost.weight_bytes += spec.bytes();
        cost.weight_bytes_read += spec.bytes() * times;
    }
}

/// Pairs of a query and a position that it sees, over the work's tokens.
fn visible_pairs(work: Work, window: Option<u32>) -> u64 {
    let first = work.context.saturating_sub(work.tokens);
    let widest = window.map_or(usize::MAX, |w| w as usize);
    (first..first + work.tokens)
        .map(|p| (p + 1).min(widest) as u64)
        .sum()
}
