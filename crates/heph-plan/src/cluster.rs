//! Who could work: the desk, the nodes, and the links between them.

use crate::request::{Readying, Request, WAIT_MAX};
use heph_types::{LinkProfile, ModelProfile, NodeId, NodeProfile, SPEED_POINTS_MAX};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::ops::RangeInclusive;

/// Nodes that one cluster may list.
pub const NODES_MAX: usize = 1024;
/// Layers that one model may have.
pub const LAYERS_MAX: usize = 1024;
/// Choices of models, cache formats, codecs or drafts that one request may list.
pub const CHOICES_MAX: usize = 16;

/// The machines of a plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cluster {
    /// The machine that asks.
    pub desk: NodeProfile,
    /// The others, each with its link from the desk.
    pub nodes: Vec<Peer>,
    /// Links between the others, where known.
    pub between: Vec<Between>,
}

/// Another machine and the way to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Peer {
    /// The machine.
    pub profile: NodeProfile,
    /// The way there, from the desk.
    pub link: LinkProfile,
}

/// A known way between two nodes that are not the desk.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Between {
    /// One of them: `link.up` leads away from it.
    pub from: NodeId,
    /// The other.
    pub to: NodeId,
    /// The way.
    pub link: LinkProfile,
}

/// Two machines, by their places in [`Cluster::nodes`].
pub(crate) type Pair = (usize, usize);

impl Cluster {
    /// Whom the ways in [`Cluster::between`] lead between, in their order; `None` where one of them is not listed.
    pub(crate) fn pairs(&self) -> Vec<Option<Pair>> {
        let places = self.nodes.iter().enumerate();
        let places: HashMap<NodeId, usize> = places.map(|(at, peer)| (peer.profile.node, at)).collect();
        let between = self.between.iter();
        between
            .map(|way| Some((*places.get(&way.from)?, *places.get(&way.to)?)))
            .collect()
    }
}

/// A number that no plan can be made from.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum InputError {
    /// A list is empty.
    #[error("the request names no {0}")]
    Missing(&'static str),
    /// A list is too long.
    #[error("{what}: {count} are listed, {max} is the most")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many are listed.
        count: usize,
        /// The most.
        max: usize,
    },
    /// A measured or wished number is not one that can be counted with.
    #[error("{what} of {of} cannot be {value}")]
    Number {
        /// Which number.
        what: &'static str,
        /// Whose.
        of: String,
        /// Its value.
        value: f64,
    },
    /// Two nodes have one identity.
    #[error("node {0} is listed twice")]
    Twice(NodeId),
    /// The context cannot hold what is asked.
    #[error("a context of {context} positions cannot hold {prompt} of the prompt and {answer} of the answer")]
    Context {
        /// Positions asked for.
        context: u32,
        /// Tokens of the prompt.
        prompt: u32,
        /// Tokens of the answer.
        answer: u32,
    },
}

/// Checks everything that a plan counts with: a peer's profile is a stranger's word.
pub(crate) fn check(request: &Request, cluster: &Cluster) -> Result<(), InputError> {
    check_lists(request, cluster)?;
    let asked = request.prompt_tokens.saturating_add(request.answer_tokens);
    if request.context < asked {
        return Err(InputError::Context {
            context: request.context,
            prompt: request.prompt_tokens,
            answer: request.answer_tokens,
        });
    }
    check_wishes(request)?;
    request.models.iter().try_for_each(|m| check_model(&m.profile))?;
    check_node(&cluster.desk)?;
    for peer in &cluster.nodes {
        check_node(&peer.profile)?;
        check_link(&peer.link, &peer.profile.name)?;
    }
    cluster
        .between
        .iter()
        .try_for_each(|b| check_link(&b.link, "a link between nodes"))
}

fn check_lists(request: &Request, cluster: &Cluster) -> Result<(), InputError> {
    let few = |what, count, max| match count > max {
        true => Err(InputError::TooMany { what, count, max }),
        false => Ok(()),
    };
    few("nodes", cluster.nodes.len(), NODES_MAX)?;
    few("links", cluster.between.len(), NODES_MAX * 64)?;
    few("models", request.models.len(), CHOICES_MAX)?;
    few("cache formats", request.kv.len(), CHOICES_MAX)?;
    few("wire codecs", request.codecs.len(), CHOICES_MAX)?;
    few("drafts", request.drafts.len(), CHOICES_MAX)?;
    for (what, empty) in [
        ("model", request.models.is_empty()),
        ("cache format", request.kv.is_empty()),
    ] {
        if empty {
            return Err(InputError::Missing(what));
        }
    }
    let mut ids: Vec<NodeId> = cluster.nodes.iter().map(|p| p.profile.node).collect();
    ids.push(cluster.desk.node);
    ids.sort_unstable();
    match ids.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(InputError::Twice(pair[0])),
        None => Ok(()),
    }
}

fn check_wishes(request: &Request) -> Result<(), InputError> {
    let of = "the request";
    let o = &request.objective;
    not_negative("the weight of the first token", of, o.first_token_weight)?;
    not_negative("the worth of a credit", of, o.seconds_per_credit)?;
    not_negative("the loss of an inexact answer", of, o.inexact_loss)?;
    not_negative("the most credits", of, o.credits_max.unwrap_or(0.0))?;
    check_readying(request.readying, of)?;
    for codec in &request.codecs {
        positive("bytes per number", codec.codec.name(), codec.bytes_per_number)?;
        not_negative("seconds per number", codec.codec.name(), codec.seconds_per_number)?;
    }
    for draft in &request.drafts {
        not_negative("seconds per token", "a draft", draft.seconds_per_token)?;
        not_negative("seconds for the prompt", "a draft", draft.seconds_for_prompt)?;
        check_readying(draft.readying, "a draft")?;
        if !(0.0..=1.0).contains(&draft.acceptance) {
            return Err(number("acceptance", "a draft", draft.acceptance));
        }
    }
    if let Some(document) = &request.document {
        not_negative("seconds", "choosing spans", document.seconds)?;
        not_negative("loss", "choosing spans", document.loss)?;
    }
    request
        .kv
        .iter()
        .try_for_each(|k| not_negative("loss", k.format.name(), k.loss))?;
    let mut models = request.models.iter();
    models.try_for_each(|m| not_negative("loss", &m.profile.name, m.loss))
}

fn check_readying(readying: Readying, of: &str) -> Result<(), InputError> {
    let longest = readying.first.max(readying.rest);
    match longest > WAIT_MAX {
        true => Err(number("readying the model", of, longest.as_secs_f64())),
        false => Ok(()),
    }
}

fn check_model(model: &ModelProfile) -> Result<(), InputError> {
    if model.layers.is_empty() {
        return Err(InputError::Missing("layer"));
    }
    if model.layers.len() > LAYERS_MAX {
        return Err(InputError::TooMany {
            what: "layers",
            count: model.layers.len(),
            max: LAYERS_MAX,
        });
    }
    for layer in model.layers.iter().chain([&model.head]).chain(&model.unasked) {
        not_negative("flops per token", &model.name, layer.flops_per_token)?;
        not_negative("flops per position", &model.name, layer.flops_per_position)?;
        not_negative("bytes of a position", &model.name, layer.kv_bytes_f16)?;
    }
    Ok(())
}

fn check_node(node: &NodeProfile) -> Result<(), InputError> {
    let of = &node.name;
    positive("bandwidth", of, node.speed.bytes_per_second)?;
    positive("arithmetic", of, node.speed.flops_per_second)?;
    not_negative("price", of, node.price.prompt_token)?;
    not_negative("price", of, node.price.answer_token)?;
    positive("share of the processor", of, node.caps.cpu.unwrap_or(1.0))?;
    positive("allowed bandwidth", of, node.caps.bytes_per_second.unwrap_or(1.0))?;
    for point in &node.speed.measured {
        positive("a measured factor", of, point.factor)?;
    }
    if node.queue > WAIT_MAX || node.speed.overhead > WAIT_MAX {
        return Err(number("a wait", of, node.queue.as_secs_f64()));
    }
    Ok(())
}

/// Whether a machine that says this of itself can be planned with. What it says is a stranger's word: one that cannot be is a reason to leave that
/// machine out, and none to have no plan.
///
/// # Errors
/// What cannot be.
pub fn believable(said: &NodeProfile) -> Result<(), InputError> {
    let of = &said.name;
    check_node(said)?;
    let within = |what, value: f64, range: RangeInclusive<f64>| match range.contains(&value) {
        true => Ok(()),
        false => Err(number(what, of, value)),
    };
    within("bandwidth", said.speed.bytes_per_second, RATES)?;
    within("arithmetic", said.speed.flops_per_second, RATES)?;
    within("share of the processor", said.caps.cpu.unwrap_or(1.0), SHARES)?;
    within(
        "allowed bandwidth",
        said.caps.bytes_per_second.unwrap_or(1.0),
        RATES,
    )?;
    let prices = [said.price.prompt_token, said.price.answer_token];
    prices
        .into_iter()
        .try_for_each(|price| within("price", price, PRICES))?;
    for point in &said.speed.measured {
        within("a measured factor", point.factor, FACTORS)?;
    }
    let (count, max) = (said.speed.measured.len(), SPEED_POINTS_MAX);
    if count > max {
        let what = "measured factors";
        return Err(InputError::TooMany { what, count, max });
    }
    let mut pairs = said.speed.measured.windows(2);
    let falls = pairs.find(|pair| pair[0].rows >= pair[1].rows);
    falls.map_or(Ok(()), |pair| {
        Err(number("rows of a pass", of, f64::from(pair[1].rows)))
    })
}

/// Bytes or operations a second of a machine: one that needs days for a token helps nobody, and none is faster.
const RATES: RangeInclusive<f64> = 1.0..=1e24;

/// What may be allowed of a processor.
const SHARES: RangeInclusive<f64> = 1e-3..=1.0;

/// By how much passes of many rows may be slower or faster than they would be by speed alone.
const FACTORS: RangeInclusive<f64> = 1e-6..=1e6;

/// Credits for a token.
const PRICES: RangeInclusive<f64> = 0.0..=1e12;

fn check_link(link: &LinkProfile, of: &str) -> Result<(), InputError> {
    positive("goodput up", of, link.up)?;
    positive("goodput down", of, link.down)?;
    if !(0.0..1.0).contains(&link.loss) {
        return Err(number("loss", of, link.loss));
    }
    match link.rtt > WAIT_MAX {
        true => Err(number("round trip", of, link.rtt.as_secs_f64())),
        false => Ok(()),
    }
}

fn positive(what: &'static str, of: &str, value: f64) -> Result<(), InputError> {
    match value > 0.0 && value.is_finite() {
        true => Ok(()),
        false => Err(number(what, of, value)),
    }
}

fn not_negative(what: &'static str, of: &str, value: f64) -> Result<(), InputError> {
    match value >= 0.0 && value.is_finite() {
        true => Ok(()),
        false => Err(number(what, of, value)),
    }
}

fn number(what: &'static str, of: &str, value: f64) -> InputError {
    InputError::Number {
        what,
        of: of.to_owned(),
        value,
    }
}
