//! Running a model: any range of its layers, for any number of sequences at once.
//!
//! A worker owns the buffers of one stream of work. Tokens of many sequences go through a layer together;
//! each row's bits are the same as if it went alone, in any chunk, on any number of threads.

mod encode;
mod experts;

use crate::cache::{CacheError, KvCache};
use crate::graph::{Activation, AttentionSpec, Op, TensorId};
use crate::model::Model;
use crate::program::{Product, Program, Slot, Step};
use heph_kernels::activations::Activations;
use heph_kernels::attention::{AttentionJob, AttentionShape, attention};
use heph_kernels::elementwise;
use heph_kernels::isa::Isa;
use heph_kernels::kv::KvPage;
use heph_kernels::matmul::{Job, Store, matmul};
use heph_kernels::norm::{rms_norm, rms_norm_in_place};
use heph_kernels::pool::{self, Pool};
use heph_kernels::rope::{RopeRows, RopeTable, rope};
pub use heph_types::Hidden;
use heph_types::{LayerRange, Position, TokenId};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// The tokens of one sequence in a batch, which stand one after another in the hidden states.
#[derive(Debug)]
pub struct Part<'a> {
    /// The sequence's cache; its length says where the tokens stand.
    pub cache: &'a mut KvCache,
    /// How many rows of the batch are this sequence's.
    pub tokens: usize,
    /// Position of the first of them.
    pub first: Position,
}

/// Which rows are wanted after the model's last layer. The others are not computed further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Every row.
    All,
    /// The last row of each part.
    Last,
    /// None: what later rows look at is in the caches.
    Nothing,
}

/// Why a pass could not be made.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ForwardError {
    /// A token id is not in the vocabulary.
    #[error("token {token} is outside the vocabulary of {vocab}")]
    Token {
        /// The id.
        token: TokenId,
        /// Entries of the vocabulary.
        vocab: usize,
    },
    /// A part of the batch has no token.
    #[error("a part of the batch has no token")]
    EmptyPart,
    /// The hidden states do not fit the model or the batch.
    #[error("the hidden states are {rows} numbers, {tokens} rows of {width} were announced")]
    Shape {
        /// Numbers given.
        rows: usize,
        /// Rows announced.
        tokens: usize,
        /// Width of the model's hidden states.
        width: usize,
    },
    /// The model has fewer layers.
    #[error("layers {start}..{end} asked of a model of {count}")]
    Layers {
        /// First layer asked for.
        start: usize,
        /// First layer after those asked for.
        end: usize,
        /// Layers of the model.
        count: usize,
    },
    /// The model was loaded without these layers.
    #[error("layers {}..{} are asked for, and {}..{} are held", asked.start(), asked.end(), held.start(), held.end())]
    NotHeld {
        /// Layers asked for; an empty range is the embedding or the head.
        asked: LayerRange,
        /// Layers that are there.
        held: LayerRange,
    },
    /// The model only reads.
    #[error("this model reads whole texts and makes vectors of them: it writes no text")]
    OnlyReads,
    /// The model only writes.
    #[error("this model writes text: it makes no vectors of texts")]
    OnlyWrites,
    /// The work was asked to stop.
    #[error("the work was stopped")]
    Stopped,
    /// The cache cannot hold the positions.
    #[error(transparent)]
    Cache(#[from] CacheError),
}

/// Tokens that a prompt is cut into by default: enough to read each weight seldom, few enough to keep the
/// buffers small.
pub const CHUNK_DEFAULT: usize = 512;

/// Runs a model on one pool of threads with one instruction set.
pub struct Worker {
    model: Arc<Model>,
    pool: Arc<Pool>,
    isa: Isa,
    buffers: Vec<Vec<f32>>,
    activations: Activations,
    rope: RopeTable,
    /// Sines and cosines of the tokens that are under way.
    turns: RopeRows,
    experts: experts::Scratch,
    chunk: usize,
    stop: Option<Arc<AtomicBool>>,
}

impl Worker {
    /// A worker for `model`.
    pub fn new(model: Arc<Model>, pool: Arc<Pool>, isa: Isa) -> Self {
        let rope = RopeTable::new(model.graph().rope.inv_freq.clone(), model.graph().rope.magnitude);
        Self {
            model,
            pool,
            isa,
            buffers: Vec::new(),
            activations: Activations::new(),
            turns: rope.rows([]),
            rope,
            experts: experts::Scratch::default(),
            chunk: CHUNK_DEFAULT,
            stop: None,
        }
    }

    /// Cuts prompts into chunks of `tokens` (at least one). Changes speed and memory, never a bit.
    pub fn with_chunk(mut self, tokens: usize) -> Self {
        self.chunk = tokens.max(1);
        self
    }

    /// Gives work up once `flag` is set, with [`ForwardError::Stopped`]: between layers, and inside one when each thread has
    /// done the task it is at, which for a prompt is a small part of a matrix product.
    pub fn with_stop(mut self, flag: Arc<AtomicBool>) -> Self {
        self.stop = Some(flag);
        self
    }

    /// Tokens that prompts are cut into.
    pub fn chunk(&self) -> usize {
        self.chunk
    }

    /// The model it runs.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// The instruction set it runs on.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// The threads it computes with.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// Threads of its pool.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// Takes `tokens` from the end of what `cache` holds through the whole model, and returns the logits of
    /// the rows that `keep` names: `(rows, vocabulary)`. On an error the cache is as long as before.
    pub fn run(
        &mut self,
        cache: &mut KvCache,
        tokens: &[TokenId],
        keep: Keep,
    ) -> Result<Vec<f32>, ForwardError> {
        let held = Position(cache.len() as u32);
        let result = self.run_chunks(cache, tokens, keep);
        if result.is_err() {
            cache.rollback(held);
        }
        result
    }

    fn run_chunks(
        &mut self,
        cache: &mut KvCache,
        tokens: &[TokenId],
        keep: Keep,
    ) -> Result<Vec<f32>, ForwardError> {
        if self.model.graph().pooling.is_some() {
            return Err(ForwardError::OnlyReads);
        }
        let layers = self.all_layers();
        let mut logits = Vec::new();
        let chunks = tokens.len().div_ceil(self.chunk);
        for (number, chunk) in tokens.chunks(self.chunk).enumerate() {
            let mut hidden = self.embed(chunk)?;
            let first = Position(cache.len() as u32);
            let parts = &mut [Part {
                cache,
                tokens: chunk.len(),
                first,
            }];
            let last = number + 1 == chunks;
            let keep = if keep == Keep::Last && !last {
                Keep::Nothing
            } else {
                keep
            };
            self.forward(layers, parts, &mut hidden, keep)?;
            if keep != Keep::Nothing {
                logits.extend(self.head(&hidden)?);
            }
        }
        Ok(logits)
    }

    /// Every layer of the model.
    pub fn all_layers(&self) -> LayerRange {
        let count = self.model.graph().layers.len();
        LayerRange::new(0, count, count).expect("0..count fits count")
    }

    /// Hidden states of tokens before the first layer.
    pub fn embed(&self, tokens: &[TokenId]) -> Result<Hidden, ForwardError> {
        self.check_held(0, 0)?;
        let graph = self.model.graph();
        let (width, vocab) = (graph.hidden, graph.vocab);
        let Some(table) = graph.embed.nodes.iter().find_map(|n| match n.op {
            Op::Embed { table } => Some(table),
            _ => None,
        }) else {
            return Ok(Hidden {
                width,
                rows: Vec::new(),
            });
        };
        let mut rows = vec![0.0; tokens.len() * width];
        for (token, row) in tokens.iter().zip(rows.chunks_exact_mut(width)) {
            if token.index() >= vocab {
                return Err(ForwardError::Token { token: *token, vocab });
            }
            self.model.table_row(table, token.index(), row);
        }
        Ok(Hidden { width, rows })
    }

    /// Takes hidden states through `layers`; `hidden` holds the rows of all parts, one part after another,
    /// and is replaced by the result. After the model's last layer only the rows that `keep` names remain.
    /// On an error the caches of earlier layers may be longer than before: roll them back.
    pub fn forward(
        &mut self,
        layers: LayerRange,
        parts: &mut [Part],
        hidden: &mut Hidden,
        keep: Keep,
    ) -> Result<(), ForwardError> {
        let model = Arc::clone(&self.model);
        let count = model.graph().layers.len();
        self.check_held(layers.start(), layers.end())?;
        self.check_rows(parts, hidden)?;
        if parts.iter().any(|p| p.tokens == 0) {
            return Err(ForwardError::EmptyPart);
        }
        // A token that looks around must find its whole text.
        if model.graph().pooling.is_some() && parts.iter().any(|p| p.first != Position(0)) {
            return Err(ForwardError::OnlyReads);
        }
        for layer in layers.iter() {
            for part in parts.iter_mut() {
                part.cache.reserve(layer, part.first, part.tokens)?;
            }
        }
        model.settle_share(&self.pool);
        self.take_in(hidden);
        self.turns = self.rope.rows(
            parts
                .iter()
                .flat_map(|p| (0..p.tokens).map(|t| p.first.index() + t)),
        );
        self.stoppable(|worker| {
            for layer in layers.iter() {
                if pool::stopped() {
                    return Err(ForwardError::Stopped);
                }
                let keep = if layer + 1 == count { keep } else { Keep::All };
                worker.block(&model, model.layer_program(layer), layer, parts, keep);
            }
            Ok(())
        })?;
        std::mem::swap(&mut self.buffers[0], &mut hidden.rows);
        Ok(())
    }

    /// Does `work`, which is worth nothing where the flag was set in its midst.
    fn stoppable(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<(), ForwardError>,
    ) -> Result<(), ForwardError> {
        match self.stop.clone() {
            Some(flag) => pool::until(&flag, || work(self)).unwrap_or(Err(ForwardError::Stopped)),
            None => work(self),
        }
    }

    /// Logits of each row of hidden states that left the last layer: `(rows, vocabulary)`.
    pub fn head(&mut self, hidden: &Hidden) -> Result<Vec<f32>, ForwardError> {
        let model = Arc::clone(&self.model);
        let count = model.graph().layers.len();
        self.check_held(count, count)?;
        self.check_rows(&[], hidden)?;
        let mut input = hidden.clone();
        self.take_in(&mut input);
        let program = model.head_program();
        self.stoppable(|worker| {
            worker.block(&model, program, usize::MAX, &mut [], Keep::All);
            Ok(())
        })?;
        Ok(std::mem::take(&mut self.buffers[program.output.0]))
    }

    fn check_held(&self, start: usize, end: usize) -> Result<(), ForwardError> {
        let (held, count) = (self.model.held(), self.model.graph().layers.len());
        let asked =
            LayerRange::new(start, end, count).map_err(|_| ForwardError::Layers { start, end, count })?;
        match self.model.holds(asked) {
            true => Ok(()),
            false => Err(ForwardError::NotHeld { asked, held }),
        }
    }

    fn check_rows(&self, parts: &[Part], hidden: &Hidden) -> Result<(), ForwardError> {
        let width = self.model.graph().hidden;
        let tokens = if parts.is_empty() {
            hidden.tokens()
        } else {
            parts.iter().map(|p| p.tokens).sum()
        };
        match hidden.width == width && hidden.rows.len() == tokens * width {
            true => Ok(()),
            false => Err(ForwardError::Shape {
                rows: hidden.rows.len(),
                tokens,
                width,
            }),
        }
    }

    /// Moves hidden states into buffer 0.
    fn take_in(&mut self, hidden: &mut Hidden) {
        if self.buffers.is_empty() {
            self.buffers.push(Vec::new());
        }
        std::mem::swap(&mut self.buffers[0], &mut hidden.rows);
    }

    /// Runs the steps of one block on buffer 0; the caches of `parts` have room for it. Ends early where the work is to stop.
    fn block(&mut self, model: &Model, program: &Program, layer: usize, parts: &mut [Part], keep: Keep) {
        while self.buffers.len() < program.widths.len() {
            self.buffers.push(Vec::new());
        }
        let mut tokens = self.buffers[0].len() / program.widths[0];
        for step in &program.steps {
            if pool::stopped() {
                return;
            }
            match step {
                Step::Norm { x, out, weight, eps } => self.norm(model, *x, *out, *weight, *eps),
                Step::LayerNorm { x, weight, bias, eps } => {
                    self.layer_norm(model, *x, [*weight, *bias], *eps)
                }
                Step::AddRow { into, table, row } => self.add_row(model, *into, *table, *row, parts),
                Step::Gelu { x } => {
                    let isa = self.isa;
                    self.pool
                        .run_chunks(&mut self.buffers[x.0], GATE_CHUNK, |_, part| {
                            elementwise::gelu_in_place(part, isa)
                        });
                }
                Step::MatMul { x, products } => self.products(model, *x, products, tokens),
                Step::Rope { x, head_dim } => self.turn(model, *x, *head_dim),
                Step::Attention {
                    q,
                    k,
                    v,
                    out,
                    spec,
                    live,
                } => {
                    self.attend(layer, [*q, *k, *v, *out], spec, parts);
                    match keep {
                        Keep::All => {}
                        Keep::Last => tokens = self.keep_last(program, live, parts),
                        Keep::Nothing => return self.buffers[0].clear(),
                    }
                }
                Step::Gate { gate, up, activation } => self.gate(*gate, *up, *activation),
                Step::Experts { x, out, spec } => {
                    let [out, x] = two(&mut self.buffers, *out, *x);
                    out.resize(x.len(), 0.0);
                    self.experts.run(model, spec, x, out, self.isa, &self.pool);
                }
                Step::Add { into, x } => {
                    let [into, x] = two(&mut self.buffers, *into, *x);
                    elementwise::add_assign(into, x, self.isa);
                }
            }
        }
    }

    fn norm(&mut self, model: &Model, x: Slot, out: Slot, weight: TensorId, eps: f32) {
        let (weight, isa) = (model.vector(weight), self.isa);
        let rows = NORM_CHUNK.div_ceil(weight.len()) * weight.len();
        if x == out {
            let x = &mut self.buffers[x.0];
            self.pool
                .run_chunks(x, rows, |_, part| rms_norm_in_place(part, weight, eps, isa));
            return;
        }
        let [out, x] = two(&mut self.buffers, out, x);
        out.resize(x.len(), 0.0);
        self.pool.run_chunks(out, rows, |n, part| {
            rms_norm(&x[n * rows..][..part.len()], weight, eps, part, isa)
        });
    }

    fn products(&mut self, model: &Model, x: Slot, products: &[Product], tokens: usize) {
        let mut outs: Vec<Vec<f32>> = products
            .iter()
            .map(|p| std::mem::take(&mut self.buffers[p.out.0]))
            .collect();
        let input = &self.buffers[x.0];
        let formats = products.iter().map(|p| model.matrix(p.weight).format());
        self.activations
            .set(input, input.len() / tokens.max(1), formats, self.isa, &self.pool);
        let mut jobs: Vec<Job> = Vec::with_capacity(products.len());
        for (product, out) in products.iter().zip(&mut outs) {
            let weights = model.matrix(product.weight);
            out.resize(tokens * weights.rows(), 0.0);
            jobs.push(Job {
                weights,
                out,
                mode: if product.adds { Store::Add } else { Store::Write },
            });
        }
        matmul(&mut jobs, &self.activations, self.isa, &self.pool);
        for (product, mut out) in products.iter().zip(outs) {
            if let Some(bias) = product.bias {
                let bias = model.vector(bias);
                out.chunks_exact_mut(bias.len())
                    .for_each(|row| elementwise::add_assign(row, bias, self.isa));
            }
            self.buffers[product.out.0] = out;
        }
    }

    /// Turns the heads of queries or keys, one task per token.
    fn turn(&mut self, model: &Model, x: Slot, head_dim: usize) {
        let (turns, style, isa) = (&self.turns, model.graph().rope.style, self.isa);
        let x = &mut self.buffers[x.0];
        let width = x.len() / turns.tokens().max(1);
        self.pool.run_chunks(x, width.max(1), |token, row| {
            rope(row, head_dim, style, turns.row(token), isa)
        });
    }

    /// Writes keys and values to the caches and lets the queries look at them.
    fn attend(&mut self, layer: usize, [q, k, v, out]: [Slot; 4], spec: &AttentionSpec, parts: &mut [Part]) {
        let (q_width, kv_width) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
        let mut row = 0;
        for part in parts.iter_mut() {
            let rows = row * kv_width..(row + part.tokens) * kv_width;
            part.cache.write(
                layer,
                part.first,
                &self.buffers[k.0][rows.clone()],
                &self.buffers[v.0][rows],
            );
            row += part.tokens;
        }
        let mut result = std::mem::take(&mut self.buffers[out.0]);
        result.resize(row * q_width, 0.0);
        let pages: Vec<Vec<&KvPage>> = parts.iter().map(|p| p.cache.pages(layer).collect()).collect();
        let mut jobs = Vec::with_capacity(parts.len());
        let (mut queries, mut results) = (self.buffers[q.0].as_slice(), result.as_mut_slice());
        for (part, pages) in parts.iter().zip(&pages) {
            let (mine, others) = queries.split_at(part.tokens * q_width);
            let (out, rest) = std::mem::take(&mut results).split_at_mut(part.tokens * q_width);
            jobs.push(AttentionJob {
                q: mine,
                tokens: part.tokens,
                first: part.first.index(),
                pages,
                out,
            });
            (queries, results) = (others, rest);
        }
        let shape = AttentionShape {
            heads: spec.heads,
            kv_heads: spec.kv_heads,
            head_dim: spec.head_dim,
            scale: spec.scale,
            window: spec.window,
            softcap: spec.softcap,
            sight: spec.sight,
        };
        attention(&mut jobs, &shape, self.isa, &self.pool);
        self.buffers[out.0] = result;
    }

    /// Keeps the last row of each part in every buffer that is read again; returns the rows left.
    fn keep_last(&mut self, program: &Program, live: &[Slot], parts: &[Part]) -> usize {
        let tokens: usize = parts.iter().map(|p| p.tokens).sum();
        for slot in live {
            let width = program.widths[slot.0];
            let buffer = &mut self.buffers[slot.0];
            debug_assert_eq!(buffer.len(), tokens * width);
            let mut end = 0;
            for (to, part) in parts.iter().enumerate() {
                end += part.tokens;
                buffer.copy_within((end - 1) * width..end * width, to * width);
            }
            buffer.truncate(parts.len() * width);
        }
        parts.len()
    }

    fn gate(&mut self, gate: Slot, up: Slot, activation: Activation) {
        let [gate, up] = two(&mut self.buffers, gate, up);
        apply_gate(activation, gate, up, self.isa, &self.pool);
    }
}

/// Two different buffers at once.
fn two(buffers: &mut [Vec<f32>], a: Slot, b: Slot) -> [&mut Vec<f32>; 2] {
    buffers
        .get_disjoint_mut([a.0, b.0])
        .expect("lowering gives a step different buffers")
}

/// `gate = activation(gate) * up`, shared out over the pool.
fn apply_gate(activation: Activation, gate: &mut [f32], up: &[f32], isa: Isa, pool: &Pool) {
    pool.run_chunks(gate, GATE_CHUNK, |index, gate| {
        let up = &up[index * GATE_CHUNK..][..gate.len()];
        match activation {
            Activation::Silu => elementwise::silu_mul_in_place(gate, up, isa),
            Activation::GeluTanh => elementwise::gelu_tanh_mul_in_place(gate, up, isa),
        }
    });
}

/// Numbers that one task of the gate works on: 16 KiB, a fraction of a first-level cache.
const GATE_CHUNK: usize = 4096;

/// Numbers that one task of a norm works on at least: a decoded token is one task, a prompt is many.
const NORM_CHUNK: usize = 16384;
