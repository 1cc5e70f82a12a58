//! What simpler rules would have done: an equal split, as in distributed-llama; a split by memory, as in exo; and the
//! fastest servers first, each as full as it gets, as in Petals. Counted by the oracle, each with its best chunk size.

#![allow(clippy::print_stdout, reason = "an evaluation prints what it reached")]

use crate::oracle::{Oracle, Way};
use crate::scenes::{Dice, cluster, link, model, node, request};
use heph_plan::{Cluster, Request, plan};
use heph_types::Role;

/// Layers of every model here.
const LAYERS: usize = 16;
/// Clusters that are drawn.
const CLUSTERS: u64 = 200;

/// Machines of very unlike speed, memory and distance, as people have them.
fn skewed(seed: u64) -> (Request, Cluster) {
    let mut dice = Dice(seed);
    let of = model(LAYERS, 100.0);
    let whole = 1.7e9;
    let mut machine = |which| {
        let memory = (whole * dice.scale(0.2, 1.5)) as u64;
        (
            node(which, Role::Own, dice.scale(5.0, 200.0), memory, &of),
            dice.scale(0.5, 60.0),
        )
    };
    let (desk, _) = machine(0);
    let others = [1, 2, 3, 4, 5].map(machine);
    let others = others.map(|(node, rtt_ms)| (node, link(rtt_ms, 200.0)));
    (request(of), cluster(desk, others.to_vec()))
}

/// Layers for each place in this order, as stages.
fn stages(shares: &[(usize, usize)]) -> Vec<(usize, usize, usize)> {
    let mut start = 0;
    let stage = |(at, layers): &(usize, usize)| {
        let stage = (*at, start, start + layers);
        start += layers;
        stage
    };
    let stages: Vec<_> = shares.iter().filter(|s| s.1 > 0).map(stage).collect();
    stages
}

fn memory(cluster: &Cluster, at: usize) -> u64 {
    match at {
        0 => cluster.desk.memory,
        _ => cluster.nodes[at - 1].profile.memory,
    }
}

/// Layers in proportion to a weight of each place.
fn split(weights: &[f64]) -> Vec<(usize, usize, usize)> {
    let sum: f64 = weights.iter().sum();
    let mut before = 0.0;
    let share = |(at, weight): (usize, &f64)| {
        let start = (before / sum * LAYERS as f64).round() as usize;
        before += weight;
        (at, (before / sum * LAYERS as f64).round() as usize - start)
    };
    stages(&weights.iter().enumerate().map(share).collect::<Vec<_>>())
}

fn equal(cluster: &Cluster) -> Vec<(usize, usize, usize)> {
    split(&vec![1.0; cluster.nodes.len() + 1])
}

fn by_memory(cluster: &Cluster) -> Vec<(usize, usize, usize)> {
    let places = 0..=cluster.nodes.len();
    split(&places.map(|at| memory(cluster, at) as f64).collect::<Vec<_>>())
}

/// The client embeds and runs the head; the fastest servers take as many layers as they hold.
fn greedy(cluster: &Cluster) -> Vec<(usize, usize, usize)> {
    let mut servers: Vec<usize> = (1..=cluster.nodes.len()).collect();
    let speed = |at: &usize| cluster.nodes[at - 1].profile.speed.bytes_per_second;
    servers.sort_by(|a, b| speed(b).total_cmp(&speed(a)));
    let mut left = LAYERS - 1;
    let mut shares = vec![(0, 1)];
    for at in servers {
        let takes = (memory(cluster, at) as usize / 102_000_000).min(left);
        shares.push((at, takes));
        left -= takes;
    }
    let mut stages = stages(&shares);
    stages.push((0, LAYERS, LAYERS));
    stages
}

#[test]
fn plans_are_half_again_as_fast_as_equal_and_greedy_splits_on_unlike_machines() {
    type Rule = fn(&Cluster) -> Vec<(usize, usize, usize)>;
    let rules: [(&str, Rule); 3] = [("equal", equal), ("by memory", by_memory), ("greedy", greedy)];
    println!("rule       clusters where it can run  times as long, geometric mean");
    for (name, rule) in rules {
        let ratios: Vec<f64> = (0..CLUSTERS).filter_map(|seed| ratio(seed, rule)).collect();
        let mean = (ratios.iter().map(|r| r.ln()).sum::<f64>() / ratios.len() as f64).exp();
        println!("{name:9}  {:>25}  {mean:>29.2}", ratios.len());
        assert!(
            ratios.iter().all(|r| *r > 1.0 - 1e-9),
            "{name} is better somewhere"
        );
        assert!(
            ratios.len() >= 40,
            "{name} runs in {} clusters only",
            ratios.len()
        );
        assert!(mean >= 1.5, "{name}: {mean:.2}");
    }
}

/// The rule's cost over the plan's, where the rule can run at all.
fn ratio(seed: u64, rule: fn(&Cluster) -> Vec<(usize, usize, usize)>) -> Option<f64> {
    let (request, cluster) = skewed(seed);
    let ours = plan(&request, &cluster).ok()?.plan.expected.objective;
    let oracle = Oracle::new(&request, &cluster);
    let costs = [16, 32, 64, 128, request.prompt_tokens].map(|chunk| {
        let way = Way::plain(rule(&cluster), chunk);
        oracle.cost(&way).unwrap_or(f64::INFINITY)
    });
    let best = costs.into_iter().fold(f64::INFINITY, f64::min);
    best.is_finite().then_some(best / ours)
}
