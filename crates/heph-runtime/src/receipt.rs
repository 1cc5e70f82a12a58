//! What became of a request: who computed which tokens, what crossed the network, and what the answer's bits are worth.

use std::collections::BTreeMap;
use std::ops::Range;

use heph_plan::replan::MoveBy;
use heph_plan::{Mode, Plan, Stage};
use heph_types::{Exactness, LayerRange, Leaves, NodeId, Role};
use serde::Serialize;

use crate::desk::{Answer, Finish, Guesses};
use crate::pool::NodePool;
use crate::seat::Traffic;

/// The receipt of one answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Receipt {
    /// How it was answered.
    pub mode: Mode,
    /// The model's name.
    pub model: String,
    /// What its bits are worth.
    pub exactness: Exactness,
    /// Who computed what.
    pub places: Vec<PlaceLine>,
    /// What crossed the network, by machine.
    pub traffic: Vec<TrafficLine>,
    /// What machines say that they sent to each other, past this one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub between: Vec<BetweenLine>,
    /// Stages that went from one machine to another.
    pub moves: Vec<MoveLine>,
    /// What guessing ahead brought.
    pub guesses: Guesses,
    /// What was given up, for want of memory or because a way did not open, a sentence each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub degraded: Vec<String>,
    /// Why it ended.
    pub finish: Finish,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens of the answer.
    pub answer_tokens: usize,
    /// Seconds until the first token.
    pub first_token_s: f64,
    /// Tokens a second after it.
    pub tokens_per_s: f64,
    /// What the plan expected until the first token, in seconds.
    pub expected_first_token_s: f64,
    /// What the plan expected after it, in tokens a second.
    pub expected_tokens_per_s: f64,
    /// Credits that it costs.
    pub price: f64,
    /// The outside provider that gave the answer, where one did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider: Option<ProviderLine>,
}

/// Who outside gave an answer, and on which terms.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ProviderLine {
    /// What the person calls it.
    pub name: String,
    /// Where it was asked, without a key.
    pub address: String,
    /// The model, as the provider calls it.
    pub model: String,
    /// Where it computes, as the person was told.
    pub region: Option<String>,
    /// What it keeps of what it is shown, as the person was told.
    pub retention: String,
    /// How often it was asked: more than once where it was busy before it said anything.
    pub tries: u32,
}

/// A range of layers at a machine for a range of tokens.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PlaceLine {
    /// First position.
    pub from: usize,
    /// First position that it did not compute any more.
    pub to: usize,
    /// The layers; an empty range at the beginning embeds only, one at the end chooses only.
    pub layers: LayerRange,
    /// The machine.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// What it is to the person.
    pub role: Option<Role>,
    /// What it saw of the text.
    pub saw: Leaves,
}

/// Bytes to and from a machine.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TrafficLine {
    /// The machine.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// Bytes to it.
    pub up: u64,
    /// Bytes from it.
    pub down: u64,
}

/// Bytes from one machine to another that this one did not see: the word of the machine that sent them.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BetweenLine {
    /// Who sent them, and says so.
    pub from: String,
    /// Who got them.
    pub to: String,
    /// How many.
    pub bytes: u64,
}

/// A stage that moved.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MoveLine {
    /// The layers.
    pub layers: LayerRange,
    /// Who held them.
    pub from: String,
    /// Who holds them now.
    pub to: String,
    /// Why.
    pub why: String,
    /// How what its caches hold came there.
    pub by: MoveBy,
    /// The position it happened at.
    pub at: usize,
    /// Seconds until tokens came again.
    pub gap_s: Option<f64>,
}

impl Receipt {
    /// The receipt of `answer`, which was planned as `plan` over `pool`; `traffic` is what the gates counted for it.
    pub fn new(plan: &Plan, pool: &NodePool, answer: &Answer, traffic: &BTreeMap<NodeId, Traffic>) -> Self {
        let tokens = answer.prompt.len() + answer.tokens.len();
        let moves = answer.moves.iter().map(|m| MoveLine {
            layers: m.layers,
            from: pool.name(m.from),
            to: pool.name(m.to),
            why: m.why.clone(),
            by: m.by,
            at: m.at.index(),
            gap_s: m.gap.map(|gap| gap.as_secs_f64()),
        });
        let line = |(node, bytes): (&NodeId, &Traffic)| TrafficLine {
            node: *node,
            name: pool.name(*node),
            up: bytes.up,
            down: bytes.down,
        };
        let per_token = plan.expected.per_token.as_secs_f64();
        Self {
            mode: plan.mode,
            model: plan.model_name.clone(),
            exactness: plan.exactness,
            places: places(plan, pool, answer, tokens),
            traffic: traffic.iter().map(line).collect(),
            between: Vec::new(),
            moves: moves.collect(),
            guesses: answer.guesses,
            degraded: answer.degraded.clone(),
            finish: answer.finish,
            prompt_tokens: answer.prompt.len(),
            answer_tokens: answer.tokens.len(),
            first_token_s: answer.prefill.as_secs_f64(),
            tokens_per_s: answer.decode_tok_s(),
            expected_first_token_s: plan.expected.first_token.as_secs_f64(),
            expected_tokens_per_s: if per_token > 0.0 { 1.0 / per_token } else { 0.0 },
            price: plan.expected.credits,
            provider: None,
        }
    }

    /// The receipt with what machines say that they sent to each other.
    pub fn with_between(mut self, pool: &NodePool, between: &BTreeMap<(NodeId, NodeId), u64>) -> Self {
        let line = |((from, to), bytes): (&(NodeId, NodeId), &u64)| BetweenLine {
            from: pool.name(*from),
            to: pool.name(*to),
            bytes: *bytes,
        };
        self.between = between
            .iter()
            .filter(|(_, bytes)| **bytes > 0)
            .map(line)
            .collect();
        self
    }
}

/// Follows each layer of the plan through its moves, and puts neighbours with one fate together. After a move the machine
/// holds the replayed positions too, so a later line begins where the earlier one ended.
fn places(plan: &Plan, pool: &NodePool, answer: &Answer, tokens: usize) -> Vec<PlaceLine> {
    let count = plan.stages.last().map_or(0, |stage| stage.layers.end());
    let apart = |stage: Option<&Stage>| stage.is_some_and(|stage| stage.layers.is_empty());
    let (table_apart, head_apart) = (apart(plan.stages.first()), apart(plan.stages.last()));
    let mut spans: Vec<Span> = plan
        .stages
        .iter()
        .flat_map(|stage| single(stage).flat_map(|layers| spans(stage, answer, tokens, layers)))
        .collect();
    spans.sort_by_key(|span| (span.from, span.start));
    let mut joined: Vec<Span> = Vec::new();
    for span in spans {
        match joined.last_mut() {
            Some(last)
                if (last.from, last.to, last.node, last.end)
                    == (span.from, span.to, span.node, span.start) =>
            {
                last.end = span.end;
            }
            _ => joined.push(span),
        }
    }
    let line = |span: Span| {
        let here = span.node == pool.desk().node;
        let at_an_end = span.start == 0 && !table_apart || span.end == count && !head_apart;
        Some(PlaceLine {
            from: span.from,
            to: span.to,
            layers: LayerRange::new(span.start, span.end, count).ok()?,
            node: span.node,
            name: pool.name(span.node),
            role: pool
                .profile(span.node)
                .map(|profile| profile.role)
                .filter(|_| !here),
            saw: match (here, at_an_end) {
                (true, _) => Leaves::Nothing,
                (false, true) => Leaves::Text,
                (false, false) => Leaves::Activations,
            },
        })
    };
    joined.into_iter().filter_map(line).collect()
}

/// Layers at a machine for some of the tokens; none where it embeds or chooses only.
struct Span {
    from: usize,
    to: usize,
    start: usize,
    end: usize,
    node: NodeId,
}

/// The layers of a stage, each alone. A stage without any, which embeds or chooses only, is one empty range.
fn single(stage: &Stage) -> impl Iterator<Item = Range<usize>> {
    let (start, end) = (stage.layers.start(), stage.layers.end());
    (start..end.max(start + 1)).map(move |layer| layer..end.min(layer + 1))
}

/// Who computed one layer of a stage, or what a stage without layers does, for which tokens.
fn spans(stage: &Stage, answer: &Answer, tokens: usize, layers: Range<usize>) -> Vec<Span> {
    let holds = |range: &LayerRange| match layers.is_empty() {
        true => *range == stage.layers,
        false => range.iter().contains(&layers.start),
    };
    let (mut node, mut from) = (stage.node, 0);
    let span = |from, to, node| Span {
        from,
        to,
        start: layers.start,
        end: layers.end,
        node,
    };
    let mut spans = Vec::new();
    for moved in answer.moves.iter().filter(|moved| holds(&moved.layers)) {
        let to = moved.at.index().clamp(from, tokens);
        spans.push(span(from, to, node));
        (node, from) = (moved.to, to);
    }
    spans.push(span(from, tokens, node));
    spans.retain(|span| span.from < span.to);
    spans
}
