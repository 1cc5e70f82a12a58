//! The next plan when something happened to a node, and whether it is worth moving for.
//!
//! A plan that can go on is kept until another is better by a margin for long enough, what moving costs included: so that
//! two plans of nearly one worth do not take turns. A plan that cannot go on is replaced at once.

use crate::cluster::Cluster;
use crate::explore::{beside, explore};
use crate::permit::permit;
use crate::plan::{Mode, Place, Plan};
use crate::request::{Readying, Request};
use crate::search::Effort;
use crate::{Refusal, cluster};
use core::time::Duration;
use heph_types::{LayerRange, LinkProfile, NodeId, NodeState};
use serde::{Deserialize, Serialize};

/// A new plan must take this much less of what remains before anything is moved that need not be.
const MARGIN: f64 = 0.95;
/// Unless its tokens take less than this share of what they take now: then whatever moving leaves is gain enough.
const FALLEN: f64 = 0.9;
/// Plans that one small change makes of the old one, of the cheapest, that are looked at with what moving costs.
const NEARBY: usize = 32;
/// For this long nothing is moved again that need not be.
pub const CALM: Duration = Duration::from_secs(5);

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Event {
    /// A node is gone.
    Lost(NodeId),
    /// A node's passes take this many times what they took.
    Slowed {
        /// Which.
        node: NodeId,
        /// 5 is five times slower; below 1 it became faster.
        times: f64,
    },
    /// A node came.
    Joined(Box<crate::Peer>),
    /// The way to a node was measured anew.
    Link {
        /// Which.
        node: NodeId,
        /// The way now.
        link: LinkProfile,
    },
    /// A node may hold another number of bytes.
    Memory {
        /// Which.
        node: NodeId,
        /// Bytes that it may hold now.
        bytes: u64,
    },
}

/// How far an answer has come.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Positions that the caches hold.
    pub positions: u32,
    /// Tokens of the answer still expected.
    pub tokens_left: u32,
    /// Time since something was moved last; `None` if nothing was.
    pub since_move: Option<Duration>,
    /// The one way in which a cache can come to another node; `None` where both are possible.
    pub only: Option<MoveBy>,
}

/// What to do now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Replan {
    /// The plan from here on.
    pub plan: Plan,
    /// What moves; empty when the old plan goes on.
    pub moves: Vec<Move>,
    /// Expected seconds of moving.
    pub seconds: f64,
    /// Why, as one sentence.
    pub sentence: String,
}

/// Layers whose cache has to come to another node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Move {
    /// Which layers.
    pub layers: LayerRange,
    /// From where; `None` where the old node is gone.
    pub from: Option<NodeId>,
    /// To where.
    pub to: NodeId,
    /// How.
    pub by: MoveBy,
    /// Expected seconds.
    pub seconds: f64,
}

/// How a cache comes to another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MoveBy {
    /// The history is sent through the layers again.
    Replay,
    /// The cache's bytes are sent.
    Transfer,
}

/// The cluster after the event.
pub fn after(cluster: &Cluster, event: &Event) -> Cluster {
    let mut cluster = cluster.clone();
    let peer = |cluster: &Cluster, node: &NodeId| cluster.nodes.iter().position(|p| p.profile.node == *node);
    match event {
        Event::Lost(node) => cluster.nodes.retain(|p| p.profile.node != *node),
        Event::Slowed { node, times } => {
            let times = times.clamp(1e-3, 1e6);
            let speed = match peer(&cluster, node) {
                Some(at) => &mut cluster.nodes[at].profile.speed,
                None if cluster.desk.node == *node => &mut cluster.desk.speed,
                None => return cluster,
            };
            speed.bytes_per_second /= times;
            speed.flops_per_second /= times;
        }
        Event::Joined(new) => {
            cluster.nodes.retain(|p| p.profile.node != new.profile.node);
            cluster.nodes.push((**new).clone());
        }
        Event::Link { node, link } => {
            if let Some(at) = peer(&cluster, node) {
                cluster.nodes[at].link = *link;
            }
        }
        Event::Memory { node, bytes } => match peer(&cluster, node) {
            Some(at) => cluster.nodes[at].profile.memory = *bytes,
            None if cluster.desk.node == *node => cluster.desk.memory = *bytes,
            None => {}
        },
    }
    cluster
}

/// Bytes that a node holds for its stages of a plan, with so many positions in their caches: counted as a stage's
/// `memory` is.
pub fn held(request: &Request, plan: &Plan, node: NodeId, positions: u32) -> u64 {
    let choice = request.models.iter().find(|m| m.profile.model == plan.model);
    let Some(model) = choice.map(|choice| &choice.profile) else {
        return 0;
    };
    let own = plan.stages.iter().filter(|stage| stage.node == node);
    let layers = own.flat_map(|stage| &model.layers[stage.layers.iter()]);
    let layers: f64 = layers
        .map(|l| l.weight_bytes as f64 + l.kv_bytes(plan.kv) * f64::from(positions))
        .sum();
    let at_end = |stage: Option<&crate::plan::Stage>| stage.is_some_and(|stage| stage.node == node);
    let head = model.head.weight_bytes;
    let table = if model.embed_bytes == 0 {
        head
    } else {
        model.embed_bytes
    };
    let ends = match (at_end(plan.stages.first()), at_end(plan.stages.last())) {
        (true, true) => head + model.embed_bytes,
        (true, false) => table,
        (false, true) => head,
        (false, false) => 0,
    };
    let draft = plan.draft.and_then(|draft| request.drafts.get(draft.choice));
    let draft = draft.map_or(0, |d| d.memory);
    let here = plan
        .stages
        .iter()
        .any(|s| s.node == node && s.place == Place::Desk);
    layers.ceil() as u64 + ends + if here { draft } else { 0 }
}

/// The plan from here on. `cluster` is the one after the event ([`after`] makes it from an event); `request` is the one
/// that `old` was made for.
pub fn replan(
    request: &Request,
    cluster: &Cluster,
    old: &Plan,
    progress: Progress,
) -> Result<Replan, Refusal> {
    cluster::check(request, cluster)?;
    let rest = remaining(request, old, progress);
    let permitted = permit(&rest, cluster);
    // What was chosen from documents is history by now, and the rest an answer like any other.
    let chosen_from = old.mode == Mode::Preprocess;
    let old = &match chosen_from {
        true => Plan {
            mode: Mode::Remote,
            ..old.clone()
        },
        false => old.clone(),
    };
    let explored = explore(&permitted, Effort::Full, Some(old));
    let kept = explored.seed.clone().filter(|_| takes_work(cluster, old));
    let Some(chosen) = explored.chosen(rest.mode).cloned() else {
        return Err(Refusal::impossible(&permitted));
    };
    // The best plan may want much moved for little; where nothing has to move, one that leaves more where it is may save
    // more in the end.
    let mut plans = vec![chosen];
    if kept.is_some() {
        plans.extend(explored.best.into_iter().flatten());
        plans.extend(beside(&permitted, old, NEARBY));
        plans.retain(|plan| rest.mode.is_none_or(|mode| mode == plan.mode));
    }
    let moved = plans.into_iter().map(|plan| {
        let moves = moves((&rest, request.readying), cluster, old, &plan, progress);
        let seconds: f64 = moves.iter().map(|m| m.seconds).sum();
        (plan, moves, seconds)
    });
    let all = |(plan, _, seconds): &(Plan, Vec<Move>, f64)| plan.expected.objective + seconds;
    let Some((best, moves, seconds)) = moved.min_by(|a, b| all(a).total_cmp(&all(b))) else {
        return Err(Refusal::impossible(&permitted));
    };
    // Nothing of the prompt has to be taken in again but what the moves replay.
    let left = |plan: &Plan| f64::from(progress.tokens_left) * plan.expected.per_token.as_secs_f64();
    let mut next = match kept {
        Some(kept) => {
            let calm = progress.since_move.is_some_and(|since| since < CALM);
            let fallen = left(&best) < FALLEN * left(&kept);
            let margin = if fallen { 1.0 } else { MARGIN };
            let worth = left(&best) + seconds < margin * left(&kept);
            let stays = calm || !worth || best.same_places(&kept);
            match stays {
                true => going_on(kept, calm),
                false => {
                    let gain = left(&kept) - left(&best);
                    moving(best, moves, seconds, gain)
                }
            }
        }
        None => moving(best, moves, seconds, f64::INFINITY),
    };
    if chosen_from && next.plan.remote_stages().next().is_some() {
        next.plan.mode = Mode::Preprocess;
    }
    Ok(next)
}

fn going_on(plan: Plan, calm: bool) -> Replan {
    let sentence = match calm {
        true => "Something was moved a moment ago, so nothing is moved again yet.",
        false => "No other plan is enough better with its moving paid, so everything stays.",
    };
    Replan {
        plan,
        moves: Vec::new(),
        seconds: 0.0,
        sentence: sentence.to_owned(),
    }
}

fn moving(plan: Plan, moves: Vec<Move>, seconds: f64, gain: f64) -> Replan {
    let what = match moves.is_empty() {
        true => "no cache has to move".to_owned(),
        false => {
            let parts = moves.iter().map(|m| {
                let by = match m.by {
                    MoveBy::Replay => "by replay",
                    MoveBy::Transfer => "by sending its cache",
                };
                format!(
                    "layers {}..{} go to {} {by}",
                    m.layers.start(),
                    m.layers.end(),
                    m.to.short()
                )
            });
            parts.collect::<Vec<_>>().join(", ")
        }
    };
    let why = match gain.is_finite() {
        true => format!("The new plan saves {gain:.1} s and moving takes {seconds:.1} s"),
        false => "The old plan cannot go on".to_owned(),
    };
    Replan {
        plan,
        moves,
        seconds,
        sentence: format!("{why}, so {what}."),
    }
}

/// The request as what is left of it: same model and cache format, because these name the answer's bits, and no loss of
/// exactness on the way.
fn remaining(request: &Request, old: &Plan, progress: Progress) -> Request {
    let mut rest = request.clone();
    rest.models.retain(|m| m.profile.model == old.model);
    rest.kv.retain(|k| k.format == old.kv);
    rest.prompt_tokens = progress.positions;
    rest.answer_tokens = progress.tokens_left.max(1);
    rest.context = rest
        .context
        .max(rest.prompt_tokens.saturating_add(rest.answer_tokens));
    rest.document = None;
    rest.warm.clear();
    // Most of it is done where the desk computed already; else it is counted where layers come here.
    rest.readying = Readying::default();
    if let Some(draft) = old.draft.and_then(|draft| rest.drafts.get_mut(draft.choice)) {
        draft.readying = Readying::default();
    }
    // The history is in the caches already; what has to be replayed is counted as moves.
    rest.objective.first_token_weight = 0.0;
    rest.mode = request.mode.filter(|m| *m != Mode::Preprocess);
    if old.exactness == heph_types::Exactness::Exact {
        (rest.policy.exact_only, rest.rounds) = (true, false);
    }
    rest
}

fn takes_work(cluster: &Cluster, plan: &Plan) -> bool {
    plan.remote_stages().all(|stage| {
        let peer = cluster.nodes.iter().find(|p| p.profile.node == stage.node);
        peer.is_some_and(|p| p.profile.state == NodeState::Open)
    })
}

/// Layers that the new plan runs elsewhere, each run of them by the cheaper way.
fn moves(
    (request, readying): (&Request, Readying),
    cluster: &Cluster,
    old: &Plan,
    new: &Plan,
    progress: Progress,
) -> Vec<Move> {
    let Some(choice) = request.models.first() else {
        return Vec::new();
    };
    let layers = choice.profile.layers.len();
    let at = |plan: &Plan, layer: usize| {
        let stage = plan.stages.iter().find(|s| s.layers.iter().contains(&layer));
        stage.map(|s| s.node)
    };
    let mut moves: Vec<(usize, usize, Option<NodeId>, NodeId)> = Vec::new();
    for layer in 0..layers {
        let (before, Some(now)) = (at(old, layer), at(new, layer)) else {
            continue;
        };
        if before == Some(now) {
            continue;
        }
        match moves.last_mut() {
            Some(last) if last.1 == layer && last.2 == before && last.3 == now => last.1 += 1,
            _ => moves.push((layer, layer + 1, before, now)),
        }
    }
    let whole =
        |range: LayerRange| [old, new].map(|p| p.stages.iter().any(|s| s.layers == range)) == [true; 2];
    let priced = moves.into_iter().filter_map(|(start, end, from, to)| {
        let range = LayerRange::new(start, end, layers).ok()?;
        // A stage that changes its layers as well has to compute what goes in at its new border.
        let only = progress.only.or((!whole(range)).then_some(MoveBy::Replay));
        Some(priced(
            request,
            cluster,
            range,
            from,
            to,
            Progress { only, ..progress },
        ))
    });
    let mut moves: Vec<Move> = priced.collect();
    // Whoever takes no part yet first ends what waits there.
    let mut asked: Vec<NodeId> = old.stages.iter().map(|stage| stage.node).collect();
    for moved in &mut moves {
        if !asked.contains(&moved.to) {
            asked.push(moved.to);
            let peer = cluster.nodes.iter().find(|peer| peer.profile.node == moved.to);
            let profile = peer.map_or(&cluster.desk, |peer| &peer.profile);
            moved.seconds += profile.queue.as_secs_f64();
            if peer.is_none() {
                moved.seconds += (readying.first + readying.rest).as_secs_f64();
            }
        }
    }
    moves
}

fn priced(
    request: &Request,
    cluster: &Cluster,
    layers: LayerRange,
    from: Option<NodeId>,
    to: NodeId,
    progress: Progress,
) -> Move {
    let positions = progress.positions;
    let choice = &request.models[0].profile;
    let kv = request.kv.first().map_or(heph_types::KvFormat::F16, |k| k.format);
    let own = &choice.layers[layers.iter()];
    let peer = |node: NodeId| cluster.nodes.iter().find(|p| p.profile.node == node);
    let profile = peer(to).map_or(&cluster.desk, |p| &p.profile);
    let rows = f64::from(positions);
    let weights: u64 = layers
        .iter()
        .filter(|l| !profile.holds_layer(choice.model, *l))
        .map(|l| choice.layers[l].weight_bytes)
        .sum();
    let up = |node: NodeId| peer(node).map_or(f64::INFINITY, |p| p.link.up);
    let trip = |node: NodeId| peer(node).map_or(0.0, |p| p.link.round_trip_seconds());
    let load = weights as f64 / up(to);
    // Replay: the desk's history of what went into these layers goes to the new node in one piece after another.
    let chunk = positions.clamp(1, 128);
    let pass: f64 = layers
        .iter()
        .map(|l| {
            profile
                .speed
                .layer_seconds(choice.unasked(l), chunk, rows / 2.0, kv)
        })
        .sum();
    let width = if layers.start() == 0 {
        1.0
    } else {
        f64::from(choice.width)
    };
    let replay = trip(to) + (rows / f64::from(chunk)) * pass + rows * width * 4.0 / up(to);
    // Transfer: the cache comes through the desk.
    let bytes: f64 = own.iter().map(|l| l.kv_bytes(kv)).sum::<f64>() * rows;
    let alive = from.filter(|node| *node == cluster.desk.node || peer(*node).is_some());
    let transfer = alive.map_or(f64::INFINITY, |node| {
        let down = peer(node).map_or(f64::INFINITY, |p| p.link.down);
        trip(node) + trip(to) + bytes / down + bytes / up(to)
    });
    let sends = match progress.only {
        Some(only) => only == MoveBy::Transfer,
        None => transfer < replay,
    };
    let (by, seconds) = match sends {
        true => (MoveBy::Transfer, transfer),
        false => (MoveBy::Replay, replay),
    };
    Move {
        layers,
        from: alive,
        to,
        by,
        seconds: seconds + load,
    }
}

/// How many caches a plan keeps at the desk: what survives the loss of every other node.
pub fn layers_here(plan: &Plan) -> usize {
    let here = plan.stages.iter().filter(|s| s.place == Place::Desk);
    here.map(|s| s.layers.len()).sum()
}
