//! How long a decision takes, with everything that it holds: the plan, its reason and its alternatives.
//! `cargo bench -p heph-plan` prints the median, the 99th of a hundred and the worst over clusters of each size: seconds
//! of the processor where the system tells them, so that other programs do not count, else of the clock. Beside them what
//! the plans are worth: the geometric mean of their objectives, in seconds.
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

/// Clusters of each size.
const CLUSTERS: u64 = 100;

/// Nodes that hold `share` of the model each, at uneven speeds and distances; one model, nothing else to choose.
fn plain(seed: u64, nodes: usize, layers: usize, share: f64) -> (Request, Cluster) {
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

/// Seconds that this thread has had the processor for. `None` where the system does not say.
fn processor() -> Option<f64> {
    // What ran since the last tick is counted when the thread lets others run.
    std::thread::yield_now();
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    let nanoseconds: f64 = told.split_whitespace().next()?.parse().ok()?;
    Some(nanoseconds / 1e9)
}

fn main() {
    let sizes = [
        (2, 22, 2.0),
        (6, 16, 0.4),
        (6, 32, 0.4),
        (16, 64, 0.2),
        (64, 128, 2.0),
        (64, 128, 0.1),
    ];
    type Scene = fn(u64, usize, usize, f64) -> (Request, Cluster);
    let kinds: [(&str, Scene); 2] = [("plain", plain), ("mixed", scenes::crowd)];
    println!(
        "kind   nodes  layers  share of the model a node holds  median ms   p99 ms  worst ms  without a plan  objective"
    );
    // Words after `--` choose a kind, or a number of nodes.
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with('-'))
        .collect();
    let wanted = |word: &str| words.is_empty() || words.iter().any(|w| w == word);
    for (kind, scene) in kinds {
        for (nodes, layers, share) in sizes {
            if !wanted(kind) && !wanted(&nodes.to_string()) {
                continue;
            }
            let (mut refused, mut worth) = (0, 0.0);
            let mut times: Vec<f64> = (0..CLUSTERS)
                .map(|seed| {
                    let (request, cluster) = scene(seed, nodes, layers, share);
                    let (begun, spent) = (Instant::now(), processor());
                    let planned = plan(&request, &cluster);
                    let took = spent.and_then(|before| Some(processor()? - before));
                    let took = took.unwrap_or(begun.elapsed().as_secs_f64()) * 1e3;
                    match &planned {
                        Ok(decision) => worth += decision.plan.expected.objective.ln(),
                        Err(_) => refused += 1,
                    }
                    took
                })
                .collect();
            times.sort_by(f64::total_cmp);
            let at = |share: f64| times[(share * (times.len() - 1) as f64) as usize];
            println!(
                "{kind:5}  {nodes:>5}  {layers:>6}  {share:>31}  {:>9.2}  {:>7.2}  {:>8.2}  {refused:>14}  {:>9.4}",
                at(0.5),
                at(0.99),
                at(1.0),
                (worth / (times.len() - refused).max(1) as f64).exp()
            );
        }
    }
}
