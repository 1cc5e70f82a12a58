//! Which of very many machines are worth planning with.
//!
//! A plan looks at every pair of layers and nodes; thousands of nodes are first sifted by what each would add alone. One
//! pass over the nodes, and a sort of what is left.

use crate::request::Request;
use crate::{Cluster, Peer};
use heph_types::{Exactness, KvFormat, Leaves, NodeState};

/// The cluster with the `count` nodes that promise most, in the order in which they were listed: nodes that may see
/// enough, take work and have room for at least one layer, by what a layer there costs a token when the way, the queue
/// and the overhead are shared by all the layers that fit, and the way by all tokens where the whole model does; before them those that hold the
/// beginning of the prompt. `cluster` may list more nodes than a plan takes.
pub fn shortlist(request: &Request, cluster: &Cluster, count: usize) -> Cluster {
    // A conversation may go on where it lies.
    let holds = |node| {
        let mut stages = request.warm.iter().flat_map(|warm| &warm.stages);
        stages.any(|stage| stage.node == node)
    };
    let worth = |(at, peer): (usize, &Peer)| {
        let cost = cost(request, peer)?;
        Some((if holds(peer.profile.node) { 0.0 } else { cost }, at))
    };
    let mut known: Vec<(f64, usize)> = cluster.nodes.iter().enumerate().filter_map(worth).collect();
    if count < known.len() {
        known.select_nth_unstable_by(count, |a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        known.truncate(count);
    }
    known.sort_unstable_by_key(|(_, at)| *at);
    let nodes: Vec<Peer> = known.iter().map(|(_, at)| cluster.nodes[*at].clone()).collect();
    let listed = |node| nodes.iter().any(|peer| peer.profile.node == node);
    let between = cluster
        .between
        .iter()
        .filter(|way| listed(way.from) && listed(way.to));
    Cluster {
        desk: cluster.desk.clone(),
        between: between.copied().collect(),
        nodes,
    }
}

/// Seconds of a token for each layer at this node; `None` where it cannot take one.
fn cost(request: &Request, peer: &Peer) -> Option<f64> {
    let profile = &peer.profile;
    let sees = request.policy.seen_by(profile.node, profile.role);
    let exact = profile.exactness == Exactness::Exact || !request.policy.exact_only;
    if sees < Leaves::Activations || profile.state != NodeState::Open || !exact {
        return None;
    }
    // The smallest model says most about who can help: what does not fit of a larger one is found by the plan.
    let model = &request.models.last()?.profile;
    let kv = request.kv.last().map_or(KvFormat::F16, |choice| choice.format);
    let (layer, count) = (model.layers.first()?, model.layers.len());
    let room = layer.weight_bytes as f64 + layer.kv_bytes(kv) * f64::from(request.context);
    let fits = (profile.memory_usable() as f64 / room.max(1.0))
        .min(count as f64)
        .floor();
    if fits < 1.0 {
        return None;
    }
    let seen = f64::from(request.prompt_tokens) + f64::from(request.answer_tokens) / 2.0;
    let share = profile.caps.cpu.unwrap_or(1.0);
    let each = profile.speed.layer_seconds(layer, 1, seen, kv) / share;
    let answer = f64::from(request.answer_tokens.max(1));
    // Opening a session takes the way once.
    let queue = (profile.queue.as_secs_f64() + peer.link.round_trip_seconds()) / answer;
    // Whoever holds the whole model sends tokens as they come: the way is paid once.
    let whole = fits >= count as f64 && sees == Leaves::Text;
    let trip = peer.link.round_trip_seconds() / if whole { answer } else { 1.0 };
    let shared = trip + profile.speed.overhead.as_secs_f64() + queue;
    let seconds = each + shared / fits;
    seconds.is_finite().then_some(seconds)
}
