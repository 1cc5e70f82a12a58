//! How soon an answer goes on: a loss is noticed in time and costs its replay, and a slow node is left.

use std::time::Duration;

use heph_world::Fault;
use heph_world::recovery::{GATHERED_RTT, Slowed, gathered, lost, slowed};

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
        // Whoever waits waits for the noticing, too.
        assert!(
            lost.silence >= lost.noticed + lost.gap,
            "seed {seed}: {:?} of {:?} and {:?}",
            lost.silence,
            lost.noticed,
            lost.gap
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

#[test]
fn an_answer_that_moves_to_one_node_goes_on_there_without_a_round_trip_a_token() {
    let calm = gathered(0, None).expect("an answer");
    assert!(calm.same, "{}", calm.story);
    assert!(
        calm.each * 4 < GATHERED_RTT,
        "{:?} a token\n{}",
        calm.each,
        calm.story
    );
    let faults = [
        Fault::Killed,
        Fault::Stopped,
        Fault::HalfOpen,
        Fault::CutOff,
        Fault::Slowed(5.0),
    ];
    for seed in 0..20 {
        let fault = faults[seed as usize % faults.len()];
        // Before the move, in it and behind it.
        let told = gathered(seed, Some((fault, 10 + 3 * seed))).expect("an answer");
        assert!(told.same, "seed {seed}\n{}", told.story);
    }
}
