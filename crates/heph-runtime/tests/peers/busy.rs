//! Nodes that are full: they say so over the wire, with how long it will be, and desks ask others, or wait and ask again.

use std::time::Instant;

use heph_engine::cache::KvBudget;
use heph_net::drive::drive;
use heph_net::endpoint::Protocol;
use heph_net::session::{NodeCommand, NodeEnd, NodeEvent, NodeLimits, OPEN_DEADLINE};
use heph_net::wire;
use heph_runtime::network::Admits;
use heph_runtime::seat::{Bell, Refusal, Seat, SeatError};
use heph_types::{SessionId, StageSpec};

use super::*;

/// How long somebody has been at the full node when the desk asks.
const STAYED: Duration = Duration::from_millis(300);

/// A desk and nodes of which the first takes one session at a time.
fn world(nodes: usize) -> World {
    let desk = Machine::new("desk");
    let lend = |at: usize| {
        let caps = match at {
            0 => NodeCaps { sessions: 1 },
            _ => NodeCaps::default(),
        };
        Machine::lending_with(&format!("node {at}"), caps, ServeRules::default())
    };
    let nodes: Vec<_> = (0..nodes).map(lend).collect();
    for (node, _) in &nodes {
        node.knows(&desk);
        desk.knows(node);
    }
    World { desk, nodes }
}

/// Somebody else's session, which fills the first node.
fn occupy(world: &World) -> Box<dyn Seat> {
    open(world).expect("the first finds room")
}

fn open(world: &World) -> Result<Box<dyn Seat>, SeatError> {
    let spec = StageSpec {
        model: HASH,
        layers: model().range(0, 2),
        context: 100,
        kv_format: model().kv_format,
        choose: Some(SamplingOptions::greedy()),
    };
    world.peer(0).open(SessionId(1), &spec, &Bell::new())
}

#[test]
fn a_full_node_says_for_how_long() {
    let world = world(1);
    let _held = occupy(&world);
    std::thread::sleep(STAYED);
    let error = open(&world).err().expect("it is full");
    let SeatError::Refused {
        why: Refusal::Peer(wire::Refusal::Busy { eta_ms }),
        ..
    } = &error
    else {
        panic!("{error}");
    };
    // Nobody has left yet, so whoever is there is taken to be half done.
    let said = Duration::from_millis((*eta_ms).into());
    assert!(said >= STAYED && said < STAYED * 100, "{said:?}");
    assert_eq!(error.busy_for(), Some(said));
    assert!(
        world.nodes[0].1.queue() >= said,
        "and it tells the others by its profile"
    );
}

#[test]
fn a_full_node_is_passed_by_where_another_is_there() {
    let expected = at_home(&options(true));
    let world = world(2);
    let _held = occupy(&world);
    let mut desk = desk(world.line(&[(0, 0, 2)]), Pace::Steps);
    let answer = ask(&mut desk, PROMPT, &options(true)).expect("another has room");
    assert_eq!(answer.tokens, expected.tokens);
    let [moved] = &answer.moves[..] else {
        panic!("{:?}", answer.moves);
    };
    assert_eq!(
        (moved.from, moved.to),
        (world.nodes[0].0.node(), world.nodes[1].0.node())
    );
    assert!(moved.why.contains("busy"), "{}", moved.why);
    assert_eq!(world.nodes[0].1.served().refused, 1, "it was asked once");
}

#[test]
fn a_full_node_is_waited_for_where_nobody_else_is_left() {
    let expected = at_home(&options(true));
    let world = world(1);
    let held = occupy(&world);
    std::thread::sleep(STAYED);
    let hosts = vec![Arc::new(world.peer(0)) as Arc<dyn Host>];
    let mut desk = desk(world.line_over(hosts, &[(0, 0, 2)]), Pace::Steps);
    let began = Instant::now();
    let answer = std::thread::scope(|scope| {
        scope.spawn(move || {
            std::thread::sleep(STAYED * 2);
            drop(held);
        });
        ask(&mut desk, PROMPT, &options(true)).expect("it is waited for")
    });
    assert_eq!(answer.tokens, expected.tokens);
    assert_eq!(answer.moves, []);
    assert!(began.elapsed() >= STAYED * 2, "{:?}", began.elapsed());
    // Each time it said a while, and nobody asked sooner: a node that is full is not knocked at.
    let refused = world.nodes[0].1.served().refused;
    assert!((1..=8).contains(&refused), "asked {refused} times in vain");
}

/// A machine that says twice that it is busy before it opens a stage, longer than a desk waits otherwise.
fn slow_to_open() -> Machine {
    let machine = Machine::new("slow");
    let node = Arc::new(node_of(machine.network.node()));
    machine
        .network
        .serve(Protocol::Session, Admits::Anyone, move |caller| {
            let node = Arc::clone(&node);
            async move {
                while let Ok(stream) = caller.connection.accept().await {
                    let mut talk = drive(
                        stream,
                        NodeEnd::new(1, NodeLimits::default(), Duration::ZERO),
                        Instant::now(),
                    );
                    while let Some(event) = talk.event().await {
                        let NodeEvent::Open { line, spec, .. } = event else {
                            continue;
                        };
                        let eta = Duration::from_secs(3);
                        talk.command(NodeCommand::Busy { line, eta }).await;
                        tokio::time::sleep(OPEN_DEADLINE + Duration::from_millis(1_500)).await;
                        let width = node.stage(&spec).expect("a stage").width() as u32;
                        talk.command(NodeCommand::Grant { line, width }).await;
                    }
                }
            }
        });
    machine
}

#[test]
fn a_node_that_is_busy_opening_is_given_what_it_asks_for() {
    let mut world = world(1);
    let slow = slow_to_open();
    world.desk.knows(&slow);
    world.nodes[0].0 = slow;
    let began = Instant::now();
    assert!(open(&world).is_ok(), "after {:?}", began.elapsed());
    assert!(began.elapsed() > OPEN_DEADLINE + Duration::from_secs(1));
}

/// Two answers of which both begin, and one alone can end: each has a page of 64 positions, and there are two more.
#[test]
fn an_answer_that_finds_no_room_in_its_middle_waits_for_those_beside_it() {
    let long = AnswerOptions {
        max_tokens: Some(90),
        ..options(true)
    };
    let expected = at_home(&long);
    assert!(
        expected.prompt.len() + expected.tokens.len() > 80,
        "it needs two pages"
    );
    let cramped = |id: NodeId| {
        let tiny = tiny();
        let each = tiny.model.new_cache(model().range(0, 2)).position_bytes() as u64;
        let lent = Lent::new(Arc::clone(&tiny.model), Arc::new(Pool::serial()), Isa::best());
        let lent = lent.with_room(KvBudget::new(128 * each));
        Arc::new(Node::new(id, NodeCaps::default()).with(HASH, lent))
    };
    let mut world = world(1);
    let there = Machine::new("cramped");
    world.desk.knows(&there);
    there.knows(&world.desk);
    let _serving = serve(&there.network, cramped(there.node()), ServeRules::default());
    world.nodes[0].0 = there;
    let hosts: [Arc<dyn Host>; 2] = [Arc::new(world.peer(0)), cramped(NodeId([9; 32]))];
    for host in hosts {
        let both = std::sync::Barrier::new(2);
        std::thread::scope(|scope| {
            let answers: Vec<_> = (0..2)
                .map(|_| {
                    let line = world.line_over(vec![Arc::clone(&host)], &[(0, 0, 2)]);
                    let mut desk = desk(line, Pace::Steps);
                    let (long, both) = (&long, &both);
                    scope.spawn(move || {
                        let mut met = false;
                        let say = &mut |_: &str| {
                            // Each has its first page before one of them asks for a second.
                            if !std::mem::replace(&mut met, true) {
                                both.wait();
                            }
                        };
                        desk.answer(Prompt::Text(PROMPT), long, say)
                    })
                })
                .collect();
            for answer in answers {
                let answer = answer.join().expect("no panic").expect("it waits");
                assert_eq!(answer.tokens, expected.tokens);
            }
        });
    }
}

#[test]
fn an_answer_that_never_finds_room_says_so() {
    let tiny = tiny();
    let each = tiny.model.new_cache(model().range(0, 2)).position_bytes() as u64;
    let budget = KvBudget::new(64 * each);
    let lent = Lent::new(Arc::clone(&tiny.model), Arc::new(Pool::serial()), Isa::best());
    let node = Node::new(NodeId([9; 32]), NodeCaps::default()).with(HASH, lent.with_room(budget));
    let long = AnswerOptions {
        max_tokens: Some(90),
        ..options(true)
    };
    let clock = Arc::new(Hasty(std::sync::Mutex::new(Instant::now())));
    let line = Line::whole(model(), Arc::new(node), LineLimits::default()).with_clock(clock);
    let error = ask(&mut desk(line, Pace::Steps), PROMPT, &long).expect_err("one page is all there is");
    assert!(error.to_string().contains("KV cache"), "{error}");
}

/// A clock by which waiting takes no time.
#[derive(Debug)]
struct Hasty(std::sync::Mutex<Instant>);

impl heph_runtime::clock::Clock for Hasty {
    fn now(&self) -> Instant {
        *self.0.lock().expect("a time")
    }

    fn wait(&self, _bell: &Bell, _seen: u64, deadline: Instant) {
        let mut now = self.0.lock().expect("a time");
        *now = deadline.max(*now);
    }
}
