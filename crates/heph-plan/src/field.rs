//! Which nodes of a large cluster are looked at closely, and in which orders.

use crate::cover::{Hop, Rates, Wishes};
use crate::ground::DESK;
use crate::plan::Forwarding;
use crate::search::Effort;
use crate::space::{Phase, Space};
use heph_types::Exactness;

/// Nodes that are looked at closely at least, where there are so many; at a glance, half as many.
const NEAR: usize = 20;
/// And one for so many of these of the best in each single quality whatever the rest: speed, the way there, memory.
const BEST_OF_EACH: usize = 5;
/// They have room for the model so many times.
const ROOM: usize = 2;
/// Each layer that the desk cannot send lies at so many of them.
const HOLDERS: usize = 3;

/// The nodes worth a closer look, those first that cost least for each layer that they have room for.
pub(crate) fn nodes(space: &Space, effort: Effort) -> Vec<usize> {
    let near = if effort == Effort::Full { NEAR } else { NEAR / 2 };
    let wishes = Wishes {
        draft: None,
        credit: space.ground.permitted.request.objective.seconds_per_credit,
        pace: 0.1,
        forwarding: Forwarding::ThroughDesk,
    };
    let middle = space.chunks.len() / 2;
    let rates = Rates::new(space, middle, wishes);
    // With no draft a round is one row; most nodes are seen here only, so nothing is kept of them.
    let decode: Vec<f64> = (0..space.ground.sites.len())
        .map(|site| space.through(site, Phase::Decode(1)))
        .collect();
    let layers = space.layers();
    let mean = space.bytes[layers] / layers as f64;
    let room = |site: usize| {
        let memory = space.ground.sites[site].memory;
        ((memory / mean.max(1.0)) as usize).min(layers)
    };
    let density = |site: usize| {
        let close = space.ground.sites[site].profile.exactness != Exactness::Exact;
        let loss = if close {
            space.ground.permitted.request.objective.inexact_loss
        } else {
            0.0
        };
        let all = rates.through(site, space.through(site, Phase::Prefill(middle)), decode[site]);
        let each = all / layers as f64;
        (each + rates.fixed(site, Hop::MIDDLE) / room(site) as f64) * (space.patience + loss)
    };
    let usable = (DESK + 1..space.ground.sites.len()).filter(|site| room(*site) > 0);
    let mut dense: Vec<(f64, usize)> = usable.map(|site| (density(site), site)).collect();
    dense.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let dense: Vec<usize> = dense.into_iter().map(|d| d.1).collect();
    if dense.len() <= near {
        return dense;
    }
    let mut chosen = vec![false; space.ground.sites.len()];
    let best = |key: &dyn Fn(usize) -> f64| {
        let sorted = sorted_by(&dense, key);
        sorted.into_iter().take(near / BEST_OF_EACH).collect::<Vec<_>>()
    };
    let seconds = |site: usize| decode[site];
    let qualities = [
        best(&seconds),
        best(&|site| space.ground.sites[site].way.round_trip),
        best(&|site| -space.ground.sites[site].memory),
    ];
    qualities.iter().flatten().for_each(|site| chosen[*site] = true);
    let (mut count, mut places, mut holders) = (0, 0, vec![0; layers]);
    let mut rare: Vec<usize> = (0..layers).collect();
    for site in &dense {
        let has = |at: &usize| space.can_have(*site, *at, at + 1);
        if count < near || places < ROOM * layers || rare.iter().any(has) {
            chosen[*site] = true;
            count += 1;
            places += room(*site);
            rare.iter().filter(|at| has(at)).for_each(|at| holders[*at] += 1);
            rare.retain(|at| holders[*at] < HOLDERS);
        }
    }
    dense.into_iter().filter(|site| chosen[*site]).collect()
}

/// Orders in which layers may run through the nodes: cheapest first and last, fastest first and last, and without those
/// that are not exact.
pub(crate) fn orders(space: &Space, nodes: &[usize]) -> Vec<Vec<usize>> {
    let layers = space.layers();
    let speed = sorted_by(nodes, &|site| space.sums(site, Phase::Decode(1)).before(layers));
    let reversed = |order: &[usize]| order.iter().rev().copied().collect::<Vec<_>>();
    let exact = |site: &usize| space.ground.sites[*site].profile.exactness == Exactness::Exact;
    let exact: Vec<usize> = nodes.iter().copied().filter(exact).collect();
    let mut orders = vec![nodes.to_vec(), reversed(&speed), reversed(nodes), speed];
    if exact.len() < nodes.len() {
        orders.push(exact);
    }
    orders.extend(chain(space, nodes));
    let mut different: Vec<Vec<usize>> = Vec::new();
    orders.into_iter().for_each(|order| {
        if !different.contains(&order) {
            different.push(order);
        }
    });
    different
}

/// From the first node on always to the nearest that is left; `None` where everything passes the desk.
fn chain(space: &Space, nodes: &[usize]) -> Option<Vec<usize>> {
    let mut left = nodes.to_vec();
    let trip = |a: usize, b: usize| space.ground.between(a, b).map_or(f64::INFINITY, |w| w.round_trip);
    let first = *left.first()?;
    nodes.iter().find(|b| trip(first, **b).is_finite())?;
    let mut chain = vec![left.remove(0)];
    while let Some(last) = chain.last().copied().filter(|_| !left.is_empty()) {
        let near = (0..left.len()).min_by(|a, b| trip(last, left[*a]).total_cmp(&trip(last, left[*b])))?;
        chain.push(left.remove(near));
    }
    Some(chain)
}

fn sorted_by(nodes: &[usize], key: &dyn Fn(usize) -> f64) -> Vec<usize> {
    let mut keyed: Vec<(f64, usize)> = nodes.iter().map(|site| (key(*site), *site)).collect();
    keyed.sort_by(|a, b| a.0.total_cmp(&b.0));
    keyed.into_iter().map(|k| k.1).collect()
}
