//! Nodes that are killed, fall silent or answer wrongly in the middle of an answer: the text does not change.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use heph_net::drive::drive;
use heph_net::endpoint::Protocol;
use heph_net::session::{NodeCommand, NodeEnd, NodeEvent, NodeLimits};
use heph_net::wire::FaultCode;
use heph_plan::replan::MoveBy;
use heph_runtime::line::{Layout, Standing, Steering};
use heph_runtime::network::Admits;
use heph_types::{Hidden, Position, Reply, TokenId};

use super::*;

/// Answers the prompt over `stages` and does `harm` once the first text is there.
fn answer_through(
    world: &World,
    stages: &[(usize, usize, usize)],
    pace: Pace,
    harm: impl FnOnce(),
) -> Answer {
    let mut desk = desk(world.line(stages), pace);
    let mut harm = Some(harm);
    let answer = desk.answer(Prompt::Text(PROMPT), &options(true), &mut |_| {
        if let Some(harm) = harm.take() {
            harm();
        }
    });
    answer.expect("somebody is left")
}

#[test]
fn a_node_killed_in_mid_answer_changes_no_token() {
    let expected = at_home(&options(true));
    for (stages, killed) in [
        (&[(0, 0, 1), (1, 1, 2)][..], 0),
        (&[(0, 0, 1), (1, 1, 2)][..], 1),
        (&[(0, 0, 2)][..], 0),
    ] {
        let world = World::new(2);
        let pace = if stages.len() == 1 {
            Pace::Stream
        } else {
            Pace::Steps
        };
        let began = Instant::now();
        let answer = answer_through(&world, stages, pace, || world.nodes[killed].0.network.vanish());
        assert_eq!(answer.tokens, expected.tokens);
        if stages.len() > 1 {
            assert_eq!(answer.moves.len(), 1, "{:?}", answer.moves);
            let gap = answer.moves[0].gap.expect("it went on");
            assert!(gap < Duration::from_secs(5), "{gap:?}");
            assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
        }
    }
}

#[test]
fn a_node_that_leaves_is_left_at_once() {
    let expected = at_home(&options(true));
    let world = World::new(2);
    let began = Instant::now();
    let stages = [(0, 0, 1), (1, 1, 2)];
    let answer = answer_through(&world, &stages, Pace::Steps, || world.nodes[1].1.pause());
    assert_eq!(answer.tokens, expected.tokens);
    assert_eq!(answer.moves.len(), 1);
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

/// What a dishonest node does with its replies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lie {
    /// One more row or token than asked for.
    More,
    /// Another position.
    Elsewhere,
    /// A token that the model does not have, rows of no width.
    Impossible,
    /// Nothing any more, though it lives.
    Nothing,
    /// That nobody had used the session.
    Unused,
}

/// A machine that lends the model, and lies after so many replies. Its session ends are the real ones; what they carry
/// is not.
fn liar(lie: Lie, honest: usize) -> Machine {
    let machine = Machine::new("liar");
    let node = Arc::new(node_of(machine.network.node()));
    let told = Arc::new(AtomicUsize::new(0));
    machine
        .network
        .serve(Protocol::Session, Admits::Anyone, move |caller| {
            let (node, told) = (Arc::clone(&node), Arc::clone(&told));
            async move {
                while let Ok(stream) = caller.connection.accept().await {
                    let (node, told) = (Arc::clone(&node), Arc::clone(&told));
                    tokio::spawn(async move {
                        let end = NodeEnd::new(1, NodeLimits::default(), Duration::ZERO);
                        let mut talk = drive(stream, end, Instant::now());
                        let mut stage = None;
                        while let Some(event) = talk.event().await {
                            match event {
                                NodeEvent::Open { line, spec, .. } => {
                                    let opened = node.stage(&spec).expect("a stage");
                                    let width = opened.width() as u32;
                                    stage = Some(opened);
                                    talk.command(NodeCommand::Grant { line, width }).await;
                                }
                                NodeEvent::Order(line, order) => {
                                    let stage = stage.as_mut().expect("it was opened");
                                    stage.take(order).expect("room");
                                    let Some(reply) = stage.work().expect("work") else {
                                        continue;
                                    };
                                    let lies = told.fetch_add(1, Ordering::Relaxed) >= honest;
                                    if lies && lie == Lie::Nothing {
                                        continue;
                                    }
                                    if lies && lie == Lie::Unused {
                                        let (code, sentence) = (FaultCode::Idle, String::new());
                                        talk.command(NodeCommand::Fail { line, code, sentence }).await;
                                        continue;
                                    }
                                    let reply = if lies { bent(reply, lie) } else { reply };
                                    talk.command(NodeCommand::Reply(line, reply)).await;
                                }
                                _ => {}
                            }
                        }
                    });
                }
            }
        });
    machine
}

fn bent(reply: Reply, lie: Lie) -> Reply {
    let elsewhere = u32::from(lie == Lie::Elsewhere);
    match reply {
        Reply::Rows { first, hidden } => Reply::Rows {
            first: Position(first.0 + elsewhere),
            hidden: match lie {
                Lie::More => Hidden {
                    rows: [hidden.rows.clone(), vec![0.0; hidden.width]].concat(),
                    ..hidden
                },
                Lie::Impossible => Hidden {
                    width: hidden.width / 2,
                    ..hidden
                },
                Lie::Elsewhere | Lie::Nothing | Lie::Unused => hidden,
            },
        },
        Reply::Choices { first, mut tokens } => {
            match lie {
                Lie::More => tokens.push(TokenId(0)),
                Lie::Impossible => tokens = vec![TokenId(u32::MAX); tokens.len().max(1)],
                Lie::Elsewhere | Lie::Nothing | Lie::Unused => {}
            }
            Reply::Choices {
                first: Position(first.0 + elsewhere),
                tokens,
            }
        }
    }
}

#[test]
fn a_node_that_answers_wrongly_or_not_at_all_is_replaced() {
    let expected = at_home(&options(true));
    for lie in [
        Lie::More,
        Lie::Elsewhere,
        Lie::Impossible,
        Lie::Nothing,
        Lie::Unused,
    ] {
        for at in [0, 1] {
            let mut world = World::new(1);
            let liar = liar(lie, 9);
            world.desk.knows(&liar);
            let serving = world.nodes[0].1.clone();
            world.nodes.push((liar, serving));
            // Layer `at` at the liar.
            let stages = if at == 0 {
                [(1, 0, 1), (0, 1, 2)]
            } else {
                [(0, 0, 1), (1, 1, 2)]
            };
            let mut desk = desk(world.line(&stages), Pace::Steps);
            let answer = ask(&mut desk, PROMPT, &options(true)).expect("an answer");
            assert_eq!(answer.tokens, expected.tokens, "{lie:?}");
            assert_eq!(answer.moves.len(), 1, "{lie:?}: {:?}", answer.moves);
        }
    }
}

#[test]
fn a_session_that_expired_is_opened_anew_at_the_same_node() {
    let rules = ServeRules {
        limits: NodeLimits {
            idle_after: Duration::from_millis(150),
            ..NodeLimits::default()
        },
        ..ServeRules::default()
    };
    let world = World::with(1, rules);
    let line = world.line_over(vec![Arc::new(world.peer(0))], &[(0, 0, 2)]);
    let mut desk = desk(line, Pace::Steps);
    let first = ask(&mut desk, PROMPT, &options(true)).expect("an answer");
    let serving = &world.nodes[0].1;
    until("it expires", || serving.served().sessions == 0);
    let second = ask(&mut desk, PROMPT, &options(true)).expect("the only node is well");
    assert_eq!(first.tokens, second.tokens);
    assert_eq!(serving.served().opened, 2);
}

#[test]
fn a_node_that_was_started_again_is_found_again() {
    let world = World::new(1);
    let (node, _) = &world.nodes[0];
    let peer = world.peer(0);
    peer.probe(PATIENCE).expect("it is there");
    node.network.vanish();
    let began = Instant::now();
    let spec = heph_types::StageSpec {
        model: HASH,
        layers: model().range(0, 2),
        context: 64,
        kv_format: model().kv_format,
        choose: None,
    };
    let bell = heph_runtime::seat::Bell::new();
    let error = peer
        .open(heph_types::SessionId(1), &spec, &bell)
        .err()
        .expect("it is gone");
    assert!(began.elapsed() < Duration::from_secs(7), "{:?}", began.elapsed());
    // The kept connection was silent first; the new one has had less time.
    let short = error.to_string().contains("did not answer within 1300 ms");
    assert!(short, "{error}");
}

/// Sends the caches of every stage to the next node over, once, after some tokens.
struct Mover {
    looks: usize,
    stages: Vec<Placement>,
}

impl Steering for Mover {
    fn lost(&mut self, _: NodeId, _: &Standing) -> Option<Layout> {
        None
    }

    fn look(&mut self, _: &Standing) -> Option<Layout> {
        self.looks += 1;
        (self.looks == 8).then(|| Layout {
            stages: self.stages.clone(),
            why: "a better node came".to_owned(),
            transfers: self.stages.iter().map(|stage| stage.layers).collect(),
            hosts: Vec::new(),
        })
    }
}

#[test]
fn a_stage_goes_to_another_node_with_its_cache_and_no_token_changes() {
    for sampled in [false, true] {
        let expected = at_home(&options(sampled));
        let world = World::new(3);
        let hosts = world.hosts();
        let place = |at: usize, start, end| Placement {
            node: hosts[at].node(),
            layers: model().range(start, end),
        };
        // The first stage goes from node 0 to node 2; under the sampled options the last one looks back at ids.
        let mover = Mover {
            looks: 0,
            stages: vec![place(2, 0, 1), place(1, 1, 2)],
        };
        let line = world.line(&[(0, 0, 1), (1, 1, 2)]).with_steering(Box::new(mover));
        let mut desk = desk(line, Pace::Steps);
        let answer = ask(&mut desk, PROMPT, &options(sampled)).expect("an answer");
        assert_eq!(answer.tokens, expected.tokens);
        let moves: Vec<_> = answer.moves.iter().map(|moved| (moved.to, moved.by)).collect();
        assert_eq!(moves, [(hosts[2].node(), MoveBy::Transfer)]);
        // Node 2 computed what came after, and nothing of what was before.
        let computed = world.nodes[2].1.served().tokens;
        let (all, after) = (answer.prompt.len() + answer.tokens.len(), answer.tokens.len());
        assert!(computed < after as u64, "{computed} of {all}");
    }
}

#[test]
fn a_machine_that_vanished_is_waited_for_once_by_all() {
    let world = World::new(1);
    let (node, network) = (world.nodes[0].0.node(), &world.desk.network);
    let spec = heph_types::StageSpec {
        model: HASH,
        layers: model().range(0, 2),
        context: 100,
        kv_format: model().kv_format,
        choose: Some(SamplingOptions::greedy()),
    };
    let bell = heph_runtime::seat::Bell::new();
    let open = |peer: &Peer, session: u64| peer.open(heph_types::SessionId(session), &spec, &bell).is_ok();
    let kept = world.peer(0);
    assert!(open(&kept, 1) && !network.is_lost(node));
    world.nodes[0].0.network.vanish();
    // Over a connection that is kept and over new ones, four times each.
    let fresh = world.peer(0);
    for most in [Duration::from_millis(3_600), Duration::from_millis(500)] {
        let began = Instant::now();
        std::thread::scope(|scope| {
            for at in 0..4 {
                let (kept, fresh, open) = (&kept, &fresh, &open);
                scope.spawn(move || assert!(!open(kept, 10 + at)));
                scope.spawn(move || assert!(!open(fresh, 20 + at)));
            }
        });
        assert!(began.elapsed() < most, "{:?}", began.elapsed());
        assert!(network.is_lost(node));
    }
}
