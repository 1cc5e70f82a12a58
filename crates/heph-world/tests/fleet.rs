//! Very many machines: what the shortlist keeps, what it costs, and the queues of ten thousand.

use heph_plan::{Request, plan, shortlist};
use heph_types::{NodeId, NodeState, Policy};
use heph_world::fleet::{Rule, Sieve, planned, served};
use heph_world::scene::Scene;
use heph_world::{Dice, tiny};

#[test]
fn ten_thousand_machines_are_sifted_and_planned_with() {
    let [ours, nearest, drawn] =
        [Sieve::Shortlist, Sieve::Nearest, Sieve::Drawn].map(|sieve| planned(10_000, 60, sieve, 3));
    for told in [&ours, &nearest, &drawn] {
        assert_eq!((told.leaks, told.closed), (0, 0));
    }
    assert_eq!(ours.refused, 0);
    let medians = [&ours, &nearest, &drawn].map(|told| told.median());
    assert!(
        medians[0] < 0.8 * medians[1] && medians[0] < 0.8 * medians[2],
        "{medians:?}"
    );
}

#[test]
fn ten_thousand_queues_stay_bounded_and_short() {
    let [ours, round_robin] = [Rule::Balancer, Rule::RoundRobin].map(|rule| served(10_000, 30_000, rule, 3));
    assert!(ours.waiting_max <= 16, "{}", ours.waiting_max);
    let p95 = [ours.p95(), round_robin.p95()];
    assert!(p95[0] < 0.5 * p95[1], "{p95:?}");
}

#[test]
fn a_plan_from_the_shortlist_is_nearly_the_plan_from_all() {
    let mut ratios = Vec::new();
    for seed in 0..60 {
        let scene = Scene::drawn(tiny::drawn(), 48, &mut Dice::new(seed));
        let short = shortlist(&scene.request, &scene.cluster, 24);
        let [all, short] = [&scene.cluster, &short].map(|cluster| {
            let decision = plan(&scene.request, cluster).expect("a plan");
            decision.plan.expected.objective
        });
        ratios.push(short / all);
    }
    ratios.sort_by(f64::total_cmp);
    assert!(ratios[54] < 1.02 && ratios[59] < 1.10, "{ratios:?}");
}

#[test]
fn nobody_is_listed_who_may_see_nothing_or_takes_no_work() {
    let mut scene = Scene::drawn(tiny::drawn(), 4, &mut Dice::new(1));
    let kept = |request: &Request, scene: &Scene| -> Vec<u8> {
        let short = shortlist(request, &scene.cluster, 8);
        short.nodes.iter().map(|peer| peer.profile.node.0[0]).collect()
    };
    assert_eq!(kept(&scene.request, &scene), [1, 2, 3, 4]);
    scene.cluster.nodes[0].profile.state = NodeState::Leaving;
    scene.cluster.nodes[1].profile.memory = 1000;
    scene.request.policy.forbidden.push(NodeId([3; 32]));
    assert_eq!(kept(&scene.request, &scene), [4]);
    scene.request.policy = Policy::closed();
    assert!(kept(&scene.request, &scene).is_empty());
}
