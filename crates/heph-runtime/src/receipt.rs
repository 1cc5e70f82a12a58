//! What became of a request: who computed which tokens, what crossed the network, and what the answer's bits are worth.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;

use heph_net::identity::Identity;
use heph_plan::replan::MoveBy;
use heph_plan::{Mode, Plan};
use heph_privacy::label::{Label, Level};
use heph_privacy::policy::Kind;
use heph_privacy::receipt::{self, Body, Bytes, Checked, Computed, Place, ReceiptError};
use heph_types::{Exactness, LayerRange, Leaves, ModelHash, NodeId, Price, Role, hex};
use serde::Serialize;

use crate::desk::{Answer, Finish, Guesses};
use crate::gate::Left;
use crate::line::Placement;
use crate::network::seconds_since_1970;
use crate::pool::NodePool;
use crate::seat::{Traffic, Vouched};

/// Letters of a server's name in a signed receipt.
const SERVER_LETTERS_MAX: usize = 40;

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
    /// Layers of the model that were sent to machines before it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub weights: Vec<WeightsLine>,
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
    /// Credits that the machines ask for it, by the prices that they announced; nothing is charged yet.
    pub price: f64,
    /// The hash of the model's file; empty where nobody here has it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub file: String,
    /// How its weights are kept.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub precision: String,
    /// By which leave something went to each machine.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub left: Vec<LeftLine>,
    /// Servers of tools that were told something on the way to the answer.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<ToolLine>,
    /// What machines signed that they computed.
    #[serde(skip)]
    pub vouched: Vec<Vouched>,
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

/// By which leave something went to a machine.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LeftLine {
    /// The machine.
    pub node: NodeId,
    /// What kind of place it is.
    pub kind: Kind,
    /// How private the most private of it was, and why.
    #[serde(flatten)]
    pub label: Label,
    /// The rules that allowed it.
    pub rules: Vec<String>,
    /// Things that were replaced by pseudonyms.
    pub replaced: usize,
}

/// What a server of tools was told for an answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ToolLine {
    /// What the person calls it.
    pub server: String,
    /// How often it was called.
    pub calls: u32,
    /// Bytes of the calls and of their results, without what carries them. Of a call that failed all counts as told.
    pub up: u64,
    /// Bytes of the results.
    pub down: u64,
    /// How private the most private of it was, and why.
    #[serde(flatten)]
    pub label: Label,
    /// The rules that allowed it.
    pub rules: BTreeSet<String>,
}

impl LeftLine {
    /// For `node`, by this leave.
    pub fn new(node: NodeId, left: &Left) -> LeftLine {
        LeftLine {
            node,
            kind: left.kind,
            label: left.label.clone(),
            rules: left.rules.iter().cloned().collect(),
            replaced: left.replaced,
        }
    }
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

/// Layers of the model that a machine lacked, and was sent for the answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WeightsLine {
    /// The machine.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// The layers that it was to have.
    pub layers: LayerRange,
    /// Bytes of the model's file that left for it: what lay there already was not sent again.
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
    /// Whether the old holder was lost, and neither gave them away nor had no room for them.
    pub lost: bool,
    /// How what its caches hold came there.
    pub by: MoveBy,
    /// Tokens that the old holder had computed by then.
    pub at: usize,
    /// Seconds without a token: from the last one before it, or from where the answer began, to the next.
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
            why: pool.named(&m.why),
            lost: m.lost,
            by: m.by,
            at: m.at.index(),
            gap_s: m.silence.map(|gap| gap.as_secs_f64()),
        });
        let line = |(node, bytes): (&NodeId, &Traffic)| TrafficLine {
            node: *node,
            name: pool.name(*node),
            up: bytes.up,
            down: bytes.down,
        };
        let per_token = plan.expected.per_token.as_secs_f64();
        let places = places(pool, answer, tokens);
        Self {
            mode: plan.mode,
            model: plan.model_name.clone(),
            exactness: plan.exactness,
            price: price(&places, answer, |node| {
                pool.profile(node)
                    .map(|profile| profile.price)
                    .unwrap_or_default()
            }),
            places,
            traffic: traffic.iter().map(line).collect(),
            between: Vec::new(),
            weights: Vec::new(),
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
            file: String::new(),
            precision: String::new(),
            left: Vec::new(),
            tools: Vec::new(),
            vouched: Vec::new(),
            provider: None,
        }
    }

    /// The receipt with what is known of the model's file.
    pub fn with_model(self, model: ModelHash, precision: String) -> Self {
        Self {
            file: hex::write(&model.0),
            precision,
            ..self
        }
    }

    /// The receipt with what left of the model for it.
    pub fn with_weights(mut self, mut weights: Vec<WeightsLine>) -> Self {
        weights.retain(|sent| sent.bytes > 0);
        self.weights = weights;
        self
    }

    /// The receipt with the leave by which something went to each machine that got anything.
    pub fn with_left(mut self, left: &BTreeMap<NodeId, Left>) -> Self {
        let got = |node: &NodeId| self.traffic.iter().any(|line| line.node == *node);
        let left = left.iter().filter(|(node, _)| got(node));
        self.left = left.map(|(node, left)| LeftLine::new(*node, left)).collect();
        self
    }

    /// The receipt with what another answer on the way to this one cost and let leave: a round in which the model called tools.
    #[must_use]
    pub fn with_round(mut self, round: &Receipt) -> Self {
        self.traffic = together(self.traffic.iter().chain(&round.traffic));
        self.weights.extend(round.weights.iter().cloned());
        self.price += round.price;
        for left in &round.left {
            if !self
                .left
                .iter()
                .any(|known| known.node == left.node && known.rules == left.rules)
            {
                self.left.push(left.clone());
            }
        }
        self.tools_told(&round.tools);
        self
    }

    /// Servers of tools were told this, too.
    pub fn tools_told(&mut self, tools: &[ToolLine]) {
        for told in tools {
            match self.tools.iter_mut().find(|known| known.server == told.server) {
                Some(known) => {
                    known.calls = known.calls.saturating_add(told.calls);
                    known.up = known.up.saturating_add(told.up);
                    known.down = known.down.saturating_add(told.down);
                    known.label = known.label.join(&told.label);
                    known.rules.extend(told.rules.iter().cloned());
                }
                None => self.tools.push(told.clone()),
            }
        }
    }

    /// What a signed receipt says, of the request `id`, answered by `now` in seconds since 1970 where `here` asked.
    pub fn body(&self, id: &str, here: NodeId, now: u64) -> Body {
        let mut nodes = vec![here.to_string()];
        let mut number = |node: NodeId| {
            let key = node.to_string();
            let at = nodes.iter().position(|known| *known == key).unwrap_or_else(|| {
                nodes.push(key);
                nodes.len() - 1
            });
            short_of(at)
        };
        let short = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        let layer = short_of;
        let places = self.places.iter().map(|place| Place {
            // A machine that asks nobody has no key until it signs something.
            node: if place.role.is_none() {
                0
            } else {
                number(place.node)
            },
            tokens: (short(place.from), short(place.to)),
            layers: (layer(place.layers.start()), layer(place.layers.end())),
        });
        let places: Vec<Place> = places.collect();
        let bytes = self.traffic.iter().map(|line| {
            let left = self.left.iter().find(|left| left.node == line.node);
            Bytes {
                node: number(line.node),
                kind: left.map_or(Kind::Own, |left| left.kind),
                level: left.map_or(Level::Public, |left| left.label.level()),
                up: line.up,
                down: line.down,
                weights: false,
            }
        });
        let mut bytes: Vec<Bytes> = bytes.collect();
        // They went up like others; how private the request was says nothing of a model.
        bytes.extend(self.weights.iter().map(|sent| Bytes {
            node: number(sent.node),
            kind: Kind::Own,
            level: Level::Public,
            up: sent.bytes,
            down: 0,
            weights: true,
        }));
        let computed = self.vouched.iter().map(|vouched| Computed {
            node: number(vouched.node),
            session: vouched.session.0,
            layers: (layer(vouched.layers.start()), layer(vouched.layers.end())),
            tokens: vouched.tokens,
            signature: hex::write(&vouched.signature),
        });
        // What a node signed wrongly is no statement of it.
        let computed: Vec<Computed> = computed.collect();
        let rules = self.left.iter().flat_map(|left| &left.rules);
        let rules: BTreeSet<&String> = rules
            .chain(self.tools.iter().flat_map(|tool| &tool.rules))
            .collect();
        let ms = |seconds: f64| (seconds.max(0.0) * 1e3).round().min(f64::from(u32::MAX)) as u32;
        let after = match self.tokens_per_s > 0.0 {
            true => self.answer_tokens.saturating_sub(1) as f64 / self.tokens_per_s,
            false => 0.0,
        };
        let alone = places.iter().all(|place| place.node == 0);
        let mut body = Body {
            id: hex::write(&blake3::hash(id.as_bytes()).as_bytes()[..16]),
            at: now,
            model: self.model.clone(),
            file: self.file.clone(),
            precision: self.precision.clone(),
            exactness: self.exactness.to_string(),
            mode: self.mode.to_string(),
            nodes: Vec::new(),
            places,
            bytes,
            computed,
            rules: rules.into_iter().cloned().collect(),
            replaced: short(self.left.iter().map(|left| left.replaced).max().unwrap_or(0)),
            credits: self.price.max(0.0).ceil() as u64,
            prompt_tokens: short(self.prompt_tokens),
            answer_tokens: short(self.answer_tokens),
            first_ms: ms(self.first_token_s),
            total_ms: ms(self.first_token_s).saturating_add(ms(after)),
            checked: if alone { Checked::Here } else { Checked::Not },
        };
        body.nodes = nodes;
        // They have no key.
        for tool in &self.tools {
            let node = short_of(body.nodes.len());
            body.nodes
                .push(tool.server.chars().take(SERVER_LETTERS_MAX).collect());
            body.bytes.push(Bytes {
                node,
                kind: Kind::ToolServer,
                level: tool.label.level(),
                up: tool.up,
                down: tool.down,
                weights: false,
            });
        }
        let stated = |body: &Body, stated: &Computed| receipt::is_stated(body, &here.0, stated);
        let kept: Vec<Computed> = body
            .computed
            .iter()
            .filter(|one| stated(&body, one))
            .cloned()
            .collect();
        body.computed = kept;
        body
    }

    /// The receipt of an answer of so many tokens that this machine alone computed; what else it tells is for the caller.
    pub fn here(model: &str, layers: usize, tokens: usize) -> Self {
        let place = LayerRange::new(0, layers, layers).map(|layers| PlaceLine {
            from: 0,
            to: tokens,
            layers,
            node: NodeId([0; 32]),
            name: "here".to_owned(),
            role: None,
            saw: Leaves::Nothing,
        });
        Self {
            mode: Mode::Local,
            model: model.to_owned(),
            exactness: Exactness::Exact,
            places: place.into_iter().collect(),
            traffic: Vec::new(),
            between: Vec::new(),
            weights: Vec::new(),
            moves: Vec::new(),
            guesses: Guesses::default(),
            degraded: Vec::new(),
            finish: Finish::Stop,
            prompt_tokens: 0,
            answer_tokens: 0,
            first_token_s: 0.0,
            tokens_per_s: 0.0,
            expected_first_token_s: 0.0,
            expected_tokens_per_s: 0.0,
            price: 0.0,
            file: String::new(),
            precision: String::new(),
            left: Vec::new(),
            tools: Vec::new(),
            vouched: Vec::new(),
            provider: None,
        }
    }

    /// As [`Receipt::signed`], by the identity kept below `home`, HEPH's folder; made there if none is.
    ///
    /// # Errors
    /// A sentence where there is no identity, or the receipt contradicts itself.
    pub fn signed_below(&self, id: &str, home: &Path) -> Result<String, String> {
        let identity = crate::network::identity(home, None).map_err(|error| error.to_string())?;
        self.signed(id, &identity).map_err(|error| error.to_string())
    }

    /// The receipt, signed by this machine: text that `heph receipt verify` reads.
    ///
    /// # Errors
    /// When it contradicts itself.
    pub fn signed(&self, id: &str, identity: &Identity) -> Result<String, ReceiptError> {
        let body = self.body(id, identity.node(), seconds_since_1970());
        receipt::sign_by(&body, &identity.node().0, |bytes| identity.sign(bytes))
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

/// What machines ask for their layers' share of the tokens that they took through them: those of the prompt that no cache
/// held, those of the answer, and those that were guessed wrong, which every layer computed too.
fn price(places: &[PlaceLine], answer: &Answer, of: impl Fn(NodeId) -> Price) -> f64 {
    let prompt = answer.cached_tokens..answer.prompt.len();
    let told = answer.prompt.len()..answer.prompt.len() + answer.tokens.len();
    let wrong = answer.guesses.judged.saturating_sub(answer.guesses.right) as f64;
    let all = places.iter().map(|place| place.layers.end()).max().unwrap_or(0);
    let both = |place: &PlaceLine, of: &Range<usize>| {
        let (from, to) = (place.from.max(of.start), place.to.min(of.end));
        to.saturating_sub(from) as f64
    };
    let asked = places.iter().map(|place| {
        let price = of(place.node);
        let share = place.layers.len() as f64 / all.max(1) as f64;
        let answered = both(place, &told);
        let of_wrong = wrong * answered / answer.tokens.len().max(1) as f64;
        share * (price.prompt_token * both(place, &prompt) + price.answer_token * (answered + of_wrong))
    });
    asked.sum()
}

/// What went to and from each machine in all of these together.
pub fn together<'a>(lines: impl IntoIterator<Item = &'a TrafficLine>) -> Vec<TrafficLine> {
    let mut sums: Vec<TrafficLine> = Vec::new();
    for line in lines {
        match sums.iter_mut().find(|sum| sum.node == line.node) {
            Some(sum) => (sum.up, sum.down) = (sum.up + line.up, sum.down + line.down),
            None => sums.push(line.clone()),
        }
    }
    sums
}

fn short_of(at: usize) -> u16 {
    u16::try_from(at).unwrap_or(u16::MAX)
}

/// Follows each layer from where it was when the answer began through its moves, and puts neighbours with one fate together. After
/// a move the machine holds the replayed positions too, so a later line begins where the earlier one ended.
fn places(pool: &NodePool, answer: &Answer, tokens: usize) -> Vec<PlaceLine> {
    let stages = &answer.stages;
    let count = stages.last().map_or(0, |stage| stage.layers.end());
    let apart = |stage: Option<&Placement>| stage.is_some_and(|stage| stage.layers.is_empty());
    let (table_apart, head_apart) = (apart(stages.first()), apart(stages.last()));
    let mut spans: Vec<Span> = stages
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
fn single(stage: &Placement) -> impl Iterator<Item = Range<usize>> {
    let (start, end) = (stage.layers.start(), stage.layers.end());
    (start..end.max(start + 1)).map(move |layer| layer..end.min(layer + 1))
}

/// Who computed one layer of a stage, or what a stage without layers does, for which tokens.
fn spans(stage: &Placement, answer: &Answer, tokens: usize, layers: Range<usize>) -> Vec<Span> {
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use heph_types::TokenId;

    use super::*;

    /// Ten tokens for a prompt of twenty.
    fn answered() -> Answer {
        Answer {
            text: String::new(),
            tokens: vec![TokenId(0); 10],
            prompt: vec![TokenId(0); 20],
            cached_tokens: 4,
            finish: Finish::Length,
            stopped_by: None,
            prefill: Duration::ZERO,
            decode: Duration::ZERO,
            stages: Vec::new(),
            moves: Vec::new(),
            guesses: Guesses {
                judged: 9,
                right: 4,
                ..Guesses::default()
            },
            guessed: Vec::new(),
            traffic: Traffic::default(),
            degraded: Vec::new(),
        }
    }

    #[test]
    fn layers_that_were_sent_are_signed_for_as_bytes_that_went_up() {
        let taker = NodeId([7; 32]);
        let sent = |bytes| WeightsLine {
            node: taker,
            name: "taker".to_owned(),
            layers: LayerRange::new(1, 3, 4).unwrap(),
            bytes,
        };
        let receipt = Receipt::here("a model", 4, 20).with_weights(vec![sent(0), sent(1_000)]);
        assert_eq!(receipt.weights, [sent(1_000)], "what lay there was not sent");
        let body = receipt.body("r", NodeId([1; 32]), 0);
        let at = body.nodes.iter().position(|node| *node == taker.to_string());
        let told = body.bytes.iter();
        let told = told.map(|bytes| (Some(usize::from(bytes.node)), bytes.up, bytes.weights));
        assert_eq!(told.collect::<Vec<_>>(), [(at, 1_000, true)]);
    }

    #[test]
    fn an_answer_that_came_in_one_go_is_as_fast_as_all_of_it() {
        let speed = |decode| {
            let prefill = Duration::from_millis(100);
            let answer = Answer {
                prefill,
                decode,
                ..answered()
            };
            answer.decode_tok_s()
        };
        assert_eq!(speed(Duration::from_millis(90)), 100.0);
        let at_once = speed(Duration::from_micros(10));
        assert!((90.0..=100.0).contains(&at_once), "{at_once}");
    }

    #[test]
    fn a_machine_asks_for_its_share_of_what_it_computed() {
        let (dear, free) = (NodeId([1; 32]), NodeId([2; 32]));
        let place = |node, from, to, start, end| PlaceLine {
            from,
            to,
            layers: LayerRange::new(start, end, 8).unwrap(),
            node,
            name: String::new(),
            role: None,
            saw: Leaves::Text,
        };
        let answer = answered();
        let of = |node: NodeId| match node == dear {
            true => Price {
                prompt_token: 1.0,
                answer_token: 10.0,
            },
            false => Price::default(),
        };
        // Half of the layers: of 16 tokens of the prompt that no cache held, of 10 of the answer and 5 wrong guesses.
        let half = [place(free, 0, 30, 0, 4), place(dear, 0, 30, 4, 8)];
        assert_eq!(price(&half, &answer, of), 0.5 * (16.0 + 10.0 * 15.0));
        // It left after three tokens of the answer.
        let left = [place(dear, 0, 23, 0, 8), place(free, 23, 30, 0, 8)];
        assert_eq!(price(&left, &answer, of), 16.0 + 10.0 * (3.0 + 1.5));
        assert_eq!(price(&half[..1], &answer, of), 0.0);
    }
}
