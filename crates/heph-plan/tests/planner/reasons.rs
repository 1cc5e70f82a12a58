//! Every decision names what binds it.

use crate::scenes::drawn;
use heph_plan::{Constraint, binds, plan};
use std::collections::HashSet;

#[test]
fn the_sentence_names_the_constraint_without_which_the_plan_would_be_another() {
    let mut named = HashSet::new();
    for seed in 5000..5300 {
        let (request, cluster) = drawn(seed, 5, 16);
        let Ok(decision) = plan(&request, &cluster) else {
            continue;
        };
        let reason = &decision.reason;
        assert!(reason.sentence.contains(reason.constraint.words()), "{reason}");
        assert!(
            reason.sentence.ends_with('.') && !reason.sentence.trim_end_matches('.').contains(". "),
            "{reason}"
        );
        named.insert(reason.constraint);
        if reason.constraint == Constraint::Nothing {
            assert!(
                !Constraint::ALL
                    .iter()
                    .any(|c| binds(*c, &request, &cluster, &decision.plan))
            );
            continue;
        }
        // Taken away, the whole planner, with full effort, decides otherwise and better.
        let (mut free, mut wide) = (request.clone(), cluster.clone());
        assert!(reason.constraint.relax(&mut free, &mut wide));
        let better = plan(&free, &wide).expect("less stands in the way");
        assert!(!better.plan.same_places(&decision.plan), "seed {seed}: {reason}");
    }
    assert!(named.len() >= 6, "the scenes bind in few ways: {named:?}");
}

#[test]
fn every_mode_that_was_not_chosen_says_why() {
    for seed in 6000..6100 {
        let (request, cluster) = drawn(seed, 5, 16);
        if let Ok(decision) = plan(&request, &cluster) {
            assert_eq!(decision.alternatives.len(), 5);
            for other in &decision.alternatives {
                assert!(other.mode != decision.plan.mode && other.why_not.ends_with('.'));
                let worse = |p: &heph_plan::Plan| p.expected.objective >= decision.plan.expected.objective;
                assert!(other.plan.as_deref().is_none_or(worse));
            }
        }
    }
}
