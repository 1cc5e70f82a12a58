//! How long a plan takes: `cargo bench -p heph-plan`. Prints the median and the worst of some clusters of each size, with
//! everything that a decision holds: the plan, its reason and its alternatives.
#![allow(clippy::print_stdout, reason = "a bench prints what it measured")]
#![allow(
    clippy::disallowed_methods,
    reason = "a bench looks at the clock; the crate does not"
)]

#[path = "../tests/planner/scenes.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod scenes;

use heph_plan::{Cluster, Request, plan};
use heph_types::Role;
use std::time::Instant;

/// Nodes that hold `share` of the model each, at uneven speeds and distances.
fn scene(seed: u64, nodes: usize, layers: usize, share: f64) -> (Request, Cluster) {
    let mut dice = scenes::Dice(seed);
    let of = scenes::model(layers, 40.0);
    let whole = layers as f64 * 42e6;
    let mut node = |which| {
        let memory = (whole * share * dice.scale(0.5, 2.0)) as u64;
        scenes::node(which, Role::Own, dice.scale(10.0, 100.0), memory, &of)
    };
    let desk = node(0);
    let others: Vec<_> = (1..nodes).map(&mut node).collect();
    let others = others
        .into_iter()
        .map(|n| (n, scenes::link(dice.scale(1.0, 50.0), dice.scale(50.0, 1000.0))));
    let cluster = scenes::cluster(desk, others.collect());
    (scenes::request(of), cluster)
}

fn main() {
    println!("nodes  layers  share of the model a node holds  median ms  worst ms");
    for (nodes, layers, share) in [
        (2, 22, 2.0),
        (6, 16, 0.4),
        (6, 32, 0.4),
        (16, 64, 0.2),
        (64, 128, 2.0),
        (64, 128, 0.1),
    ] {
        let mut times: Vec<f64> = (0..15)
            .map(|seed| {
                let (request, cluster) = scene(seed, nodes, layers, share);
                let begun = Instant::now();
                let planned = plan(&request, &cluster);
                let took = begun.elapsed().as_secs_f64() * 1e3;
                assert!(planned.is_ok());
                took
            })
            .collect();
        times.sort_by(f64::total_cmp);
        println!(
            "{nodes:>5}  {layers:>6}  {share:>31}  {:>9.2}  {:>8.2}",
            times[7], times[14]
        );
    }
}
