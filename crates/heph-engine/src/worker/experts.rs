//! A mixture of experts: each token goes through the few experts that the router picks for it.

use super::apply_gate;
use crate::graph::ExpertsSpec;
use crate::model::Model;
use heph_kernels::activations::Activations;
use heph_kernels::elementwise::softmax;
use heph_kernels::isa::Isa;
use heph_kernels::matmul::{Job, Store, matmul};
use heph_kernels::pack::Packed;
use heph_kernels::pool::Pool;
use std::cmp::Ordering;

/// Buffers kept between calls.
#[derive(Default)]
pub(super) struct Scratch {
    activations: Option<Activations>,
    scores: Vec<f32>,
    choices: Vec<Choice>,
    input: Vec<f32>,
    gate: Vec<f32>,
    up: Vec<f32>,
    down: Vec<f32>,
    outputs: Vec<f32>,
}

/// One token's use of one expert.
#[derive(Debug, Clone, Copy)]
struct Choice {
    token: usize,
    /// Place among the token's choices, the likeliest first.
    rank: usize,
    expert: usize,
    weight: f32,
}

impl Scratch {
    /// `out = sum over the chosen experts, likeliest first, of weight * expert(x)`, for rows of `x`.
    pub(super) fn run(
        &mut self,
        model: &Model,
        spec: &ExpertsSpec,
        x: &[f32],
        out: &mut [f32],
        isa: Isa,
        pool: &Pool,
    ) {
        let router = model.matrix(spec.router);
        let hidden = router.cols();
        let tokens = x.len() / hidden;
        self.route(router, spec, x, isa, pool);
        self.outputs.resize(tokens * spec.used * hidden, 0.0);
        let mut choices = std::mem::take(&mut self.choices);
        choices.sort_by_key(|c| (c.expert, c.token));
        for group in choices.chunk_by(|a, b| a.expert == b.expert) {
            self.one_expert(model, spec, group, x, hidden, isa, pool);
        }
        choices.sort_by_key(|c| (c.token, c.rank));
        out.fill(0.0);
        for choice in &choices {
            let at = (choice.token * spec.used + choice.rank) * hidden;
            let row = &mut out[choice.token * hidden..][..hidden];
            for (sum, y) in row.iter_mut().zip(&self.outputs[at..at + hidden]) {
                *sum += choice.weight * y;
            }
        }
        self.choices = choices;
    }

    /// Fills `choices` with each token's likeliest experts; equal scores go to the lower number.
    fn route(&mut self, router: &Packed, spec: &ExpertsSpec, x: &[f32], isa: Isa, pool: &Pool) {
        let activations = self.activations.get_or_insert_with(Activations::new);
        activations.set(x, router.cols(), std::iter::once(router.format()), isa, pool);
        self.scores.resize(x.len() / router.cols() * spec.count, 0.0);
        let mut job = [Job {
            weights: router,
            out: &mut self.scores,
            mode: Store::Write,
        }];
        matmul(&mut job, activations, isa, pool);
        self.choices.clear();
        for (token, scores) in self.scores.chunks_exact_mut(spec.count).enumerate() {
            softmax(scores, isa);
            let mut order: Vec<usize> = (0..spec.count).collect();
            order.sort_by(|&a, &b| likelier(scores, a, b));
            let chosen = &order[..spec.used];
            let total: f32 = chosen.iter().map(|&e| scores[e]).sum();
            for (rank, &expert) in chosen.iter().enumerate() {
                let weight = if spec.normalise {
                    scores[expert] / total
                } else {
                    scores[expert]
                };
                self.choices.push(Choice {
                    token,
                    rank,
                    expert,
                    weight,
                });
            }
        }
    }

    /// Takes the tokens of `group`, which all chose one expert, through it.
    #[expect(clippy::too_many_arguments, reason = "one call site, which names each")]
    fn one_expert(
        &mut self,
        model: &Model,
        spec: &ExpertsSpec,
        group: &[Choice],
        x: &[f32],
        hidden: usize,
        isa: Isa,
        pool: &Pool,
    ) {
        let expert = group[0].expert;
        let [gate, up, down] = [spec.gate, spec.up, spec.down].map(|id| model.expert(id, expert));
        let activations = self.activations.get_or_insert_with(Activations::new);
        self.input.clear();
        group
            .iter()
            .for_each(|c| self.input.extend_from_slice(&x[c.token * hidden..][..hidden]));
        activations.set(
            &self.input,
            hidden,
            [gate.format(), up.format()].into_iter(),
            isa,
            pool,
        );
        self.gate.resize(group.len() * spec.ffn, 0.0);
        self.up.resize(group.len() * spec.ffn, 0.0);
        let mut jobs = [
            Job {
                weights: gate,
                out: &mut self.gate,
                mode: Store::Write,
            },
            Job {
                weights: up,
                out: &mut self.up,
                mode: Store::Write,
            },
        ];
        matmul(&mut jobs, activations, isa, pool);
        apply_gate(spec.activation, &mut self.gate, &self.up, isa, pool);
        activations.set(&self.gate, spec.ffn, std::iter::once(down.format()), isa, pool);
        self.down.resize(group.len() * hidden, 0.0);
        matmul(
            &mut [Job {
                weights: down,
                out: &mut self.down,
                mode: Store::Write,
            }],
            activations,
            isa,
            pool,
        );
        for (choice, row) in group.iter().zip(self.down.chunks_exact(hidden)) {
            let at = (choice.token * spec.used + choice.rank) * hidden;
            self.outputs[at..at + hidden].copy_from_slice(row);
        }
    }
}

/// Higher score first, then lower index; NaN after every number.
fn likelier(scores: &[f32], a: usize, b: usize) -> Ordering {
    let key = |i: usize| {
        if scores[i].is_nan() {
            f32::NEG_INFINITY
        } else {
            scores[i]
        }
    };
    key(b).total_cmp(&key(a)).then(a.cmp(&b))
}
