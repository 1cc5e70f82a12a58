//! How soon an answer goes on: a loss is noticed in time and costs its replay, and a slow node is left.

use std::time::Duration;

use heph_world::Fault;
use heph_world::recovery::{Slowed, lost, slowed};

/// A stopped machine is given up within three seconds.
const NOTICED_MAX: Duration = Duration::from_secs(3);

#[test]
fn a_loss_costs_noticing_it_and_its_replay() {
    let mut seen = 0;
    for seed in 0..60 {
        let fault = [Fault::Killed, Fault::Stopped, Fault::HalfOpen, Fault::CutOff][seed as usize % 4];
        let Some(lost) = lost(seed, fault, 3 + seed) else {
            continue;
        };
        seen += 1;
        assert!(
            lost.noticed <= NOTICED_MAX,
            "seed {seed}: {:?}\n{}",
            lost.noticed,
            lost.story
        );
        let bound = lost.replay.mul_f64(1.2);
        assert!(
            lost.gap <= bound,
            "seed {seed}: {:?}, expected {:?}\n{}",
            lost.gap,
            lost.replay,
            lost.story
        );
    }
    assert!(seen >= 40, "{seen}");
}

/// The pace is back within ten seconds, but for a line whose new best is better by less than moving is worth: see
/// docs/open.md.
#[test]
fn a_node_that_becomes_slow_changes_no_token_and_is_left_in_time() {
    let told: Vec<_> = (0..12).filter_map(slowed).collect();
    for slowed in &told {
        assert!(slowed.same, "{}", slowed.story);
    }
    let in_time = |slowed: &&Slowed| slowed.back.is_some_and(|back| back <= Duration::from_secs(10));
    let back = told.iter().filter(in_time).count();
    assert!(
        told.len() >= 6 && back * 8 >= told.len() * 7,
        "{back} of {}",
        told.len()
    );
}
