//! Nodes that slow down, come and go in the middle of an answer: no token changes, and the pace comes back.

use super::emulated::{Emulated, Loaded, Machine, cluster, id, load, model_profile, request};
use heph_plan::replan::Event;
use heph_plan::{Cluster, plan};
use heph_runtime::bundled;
use heph_runtime::cancel::Cancel;
use heph_runtime::desk::{Answer, Desk, Pace, Prompt};
use heph_runtime::line::Placement;
use heph_runtime::replan::{Change, Replanner};
use std::sync::mpsc::channel;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

const TOKENS: usize = 300;
const PROMPT: &str = "Once upon a time there was a little fox who lived in the wood. One day";

fn story() -> &'static Loaded {
    static STORY: OnceLock<Loaded> = OnceLock::new();
    STORY.get_or_init(|| load(bundled::STORY))
}

/// Machines 0 (the desk) to 4, and how many layers each has room for.
struct Scene {
    clock: Arc<Emulated>,
    machines: Vec<Arc<Machine>>,
    cluster: Cluster,
}

/// The desk is slow and holds a layer or two; no machine has room for the whole model.
fn scene() -> Scene {
    let clock = Emulated::new();
    let layers = story().model.graph().layers.len();
    let machine = |which, layer_ms, rtt_ms| Machine::new(story(), &clock, which, layer_ms, rtt_ms);
    let machines = vec![
        machine(0, 60.0, 0),
        machine(1, 5.0, 4),
        machine(2, 5.0, 6),
        machine(3, 8.0, 8),
        machine(4, 9.0, 10),
    ];
    let model = model_profile(story());
    let half = layers.div_ceil(2);
    let peers = machines[1..].iter().map(|m| m.peer(&model, half)).collect();
    let cluster = cluster(machines[0].profile(&model, half), peers);
    Scene {
        clock,
        machines,
        cluster,
    }
}

/// An answer, when each of its tokens came, and who held which layers in the end.
struct Told {
    answer: Answer,
    times: Vec<Duration>,
    stages: Vec<Placement>,
}

impl Scene {
    fn answer(
        &self,
        changes: Option<std::sync::mpsc::Receiver<Change>>,
        event: &mut dyn FnMut(&Scene, usize),
    ) -> Told {
        let request = request(model_profile(story()), TOKENS as u32);
        let decision = plan(&request, &self.cluster).expect("a plan");
        let stages = Replanner::placements(&decision.plan);
        let mut replanner = Replanner::new(request, self.cluster.clone(), decision.plan);
        if let Some(changes) = changes {
            replanner = replanner.with_changes(changes);
        }
        let line = story().line(&self.machines, &stages, &self.clock);
        let line = line.with_steering(Box::new(replanner));
        let mut desk = Desk::over(line, Pace::Steps, Arc::clone(&story().words), Cancel::new());
        let mut times = Vec::new();
        let answer = desk.answer(Prompt::Text(PROMPT), &story().options(TOKENS, 0.8), &mut |_| {
            times.push(self.clock.passed());
            event(self, times.len());
        });
        let stages = desk.line().stages();
        Told {
            answer: answer.expect("an answer"),
            times,
            stages,
        }
    }
}

/// Tokens a second over the last `count` pieces of text before `at`.
fn pace(times: &[Duration], at: usize, count: usize) -> f64 {
    count as f64 / (times[at] - times[at - count]).as_secs_f64()
}

fn calm() -> Told {
    scene().answer(None, &mut |_, _| {})
}

#[test]
fn a_node_that_slows_down_is_left_and_the_pace_comes_back() {
    let calm = calm();
    for slowed in [1usize, 2] {
        let mut began = Duration::ZERO;
        let told = scene().answer(None, &mut |scene, token| {
            if token == 100 {
                began = scene.clock.passed();
                scene.machines[slowed].slow_down(5.0);
            }
        });
        assert_eq!(told.answer.tokens, calm.answer.tokens);
        assert!(!told.answer.moves.is_empty(), "something was moved");
        // The best that can be had now: an answer planned afresh.
        let fresh = scene();
        fresh.machines[slowed].slow_down(5.0);
        let mut slow = fresh;
        let event = Event::Slowed {
            node: id(slowed as u8),
            times: 5.0,
        };
        slow.cluster = heph_plan::replan::after(&slow.cluster, &event);
        let best = slow.answer(None, &mut |_, _| {});
        let best = pace(&best.times, best.times.len() - 1, 50);
        let back = (150..told.times.len()).find(|at| pace(&told.times, *at, 20) >= 0.9 * best);
        let after = told.times[back.expect("the pace comes back")] - began;
        println!("node {slowed} five times slower: back at nine tenths of the new best after {after:?}");
        assert!(after <= Duration::from_secs(10), "{after:?}");
    }
}

#[test]
fn a_node_that_comes_is_used() {
    let calm = calm();
    let mut scene = scene();
    let come = scene.machines.remove(1);
    scene.cluster.nodes.remove(0);
    let (sender, changes) = channel();
    let told = scene.answer(Some(changes), &mut |_, token| {
        if token == 100 {
            let model = model_profile(story());
            let half = model.layers.len().div_ceil(2);
            let peer = Box::new(come.peer(&model, half));
            sender
                .send(Change::Joined {
                    peer,
                    host: come.host(),
                })
                .expect("somebody listens");
        }
    });
    assert_eq!(told.answer.tokens, calm.answer.tokens);
    assert!(
        told.stages.iter().any(|stage| stage.node == id(1)),
        "{:?}",
        told.stages
    );
    let (before, after) = (
        pace(&told.times, 100, 50),
        pace(&told.times, told.times.len() - 1, 50),
    );
    println!("a faster node came: {before:.1} tokens a second before, {after:.1} after");
    assert!(after > before * 1.1);
}

#[test]
fn losses_one_after_another_cost_no_more_than_their_replay() {
    let calm = calm();
    for deaths in [&[(100usize, 1usize)] as &[_], &[(100, 2)], &[(100, 1), (101, 2)]] {
        let mut killed_at = Vec::new();
        let told = scene().answer(None, &mut |scene, token| {
            for (when, which) in deaths {
                if *when == token {
                    killed_at.push((token, scene.clock.passed()));
                    scene.machines[*which].kill();
                }
            }
        });
        assert_eq!(told.answer.tokens, calm.answer.tokens);
        assert!(!told.answer.moves.is_empty());
        let fresh = scene();
        for (token, when) in killed_at {
            let gap = told.times[token] - when;
            // All that was said goes through every layer once more at the slowest machine that is left, and then a token.
            let rows = told.answer.prompt.len() + token;
            let layers = story().model.graph().layers.len();
            let slowest = told
                .stages
                .iter()
                .map(|s| fresh.machines[usize::from(s.node.0[0])].pass(rows, s.layers.len()));
            let replay: Duration = slowest.sum();
            let token = Duration::from_millis(200) + fresh.machines[0].pass(1, layers);
            println!("lost {deaths:?}: a gap of {gap:?}, of which replay {replay:?}");
            assert!(
                gap <= replay.mul_f64(1.2) + token,
                "{gap:?} and {replay:?} for {rows} rows"
            );
        }
    }
}
