//! Nodes die, stall, lie and come back in virtual time: no token changes, and what cannot be seen is seen to be unseen.

use heph_world::storm::{Plant, Tally, storm};

/// Faults of one run in the checks; the `world` program runs more.
const KILLS: usize = 1500;

fn told(tally: &Tally) -> String {
    tally.stories.join("\n")
}

#[test]
fn losing_nodes_changes_no_token() {
    let tally = storm(0, KILLS, Plant::Nothing);
    assert_eq!(tally.differing, 0, "{}", told(&tally));
    assert!(tally.moves >= KILLS / 2, "{} moves", tally.moves);
}

#[test]
fn a_world_repeats_itself() {
    let [once, again] = [(), ()].map(|()| storm(40, 60, Plant::Nothing));
    assert_eq!(once.time, again.time);
    assert_eq!((once.moves, once.gap_max), (again.moves, again.gap_max));
}

#[test]
fn a_plausible_lie_is_what_the_comparison_finds() {
    assert!(storm(0, 100, Plant::BentRows).differing > 0);
}
