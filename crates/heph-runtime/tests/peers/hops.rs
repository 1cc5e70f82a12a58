//! Rows that go from node to node past the desk: over real sockets, with the bits and the failovers of always.

use heph_net::address::NodeAddress;
use heph_net::drive::drive;
use heph_net::endpoint::Protocol;
use heph_net::session::{GiverEnd, GiverEvent};
use heph_runtime::discretion::{Discretion, place, unsaid};
use heph_runtime::gate::{Doors, Gate, Meter};
use heph_runtime::network::seconds_since_1970;
use heph_runtime::rules::Rules;
use heph_runtime::seat::{Bell, Hop, HopState, Seat};
use heph_runtime::settings::Allowance;
use heph_types::{Policy, SessionId, StageSpec, Ticket};
use std::time::Instant;

use super::*;

/// Two layers at two nodes, and three stages at three.
const TWO: &[(usize, usize, usize)] = &[(0, 0, 1), (1, 1, 2)];
const THREE: &[(usize, usize, usize)] = &[(0, 0, 1), (1, 1, 2), (2, 2, 2)];

/// What stands at the doors of a model of two layers; roles of `allow` may see text besides one's own machines.
fn doors(allow: &[&str], meter: &Meter) -> Doors {
    let allow: Vec<Allowance> = allow.iter().map(|word| word.parse().unwrap()).collect();
    let discretion = Discretion::new(&Rules::without_files(allow), unsaid()).in_mode("layered");
    Doors {
        policy: discretion.planned(Policy::closed(), &[]),
        discretion,
        layers: 2,
        meter: meter.clone(),
    }
}

fn door(doors: &Doors, host: Arc<dyn Host>, role: Role) -> Arc<dyn Host> {
    let to = place(host.node(), "", role);
    Arc::new(Gate::there(host, to, role, doors))
}

/// A line whose rows go direct, with every host behind the policy of one's own machines.
fn line(world: &World, stages: &[(usize, usize, usize)], meter: &Meter) -> Line {
    let doors = doors(&[], meter);
    let here = world.desk.node();
    let gated = |host: Arc<dyn Host>| -> Arc<dyn Host> {
        match host.node() == here {
            true => Arc::new(Gate::here(host, meter)),
            false => door(&doors, host, Role::Own),
        }
    };
    let hosts = world.hosts().into_iter().map(gated).collect();
    world.line_over(hosts, stages).forwarding()
}

/// A desk whose line forwards, once its nodes have met: how soon they do is the machine's affair.
fn met(world: &World, stages: &[(usize, usize, usize)], pace: Pace, meter: &Meter) -> Desk {
    let mut desk = desk(line(world, stages, meter), pace);
    let hops = hops(world, stages);
    let until = Instant::now() + PATIENCE;
    loop {
        let first = ask(&mut desk, "The cat", &options(true)).expect("an answer");
        assert!(!first.tokens.is_empty());
        let between = meter.read_between();
        if hops.iter().all(|hop| between.contains_key(hop)) {
            return desk;
        }
        assert!(Instant::now() < until, "they do not meet: {between:?}");
    }
}

/// Who hands rows on to whom.
fn hops(world: &World, stages: &[(usize, usize, usize)]) -> Vec<(NodeId, NodeId)> {
    let node = |stage: &(usize, usize, usize)| world.nodes[stage.0].0.node();
    let pairs = stages.windows(2);
    pairs.map(|pair| (node(&pair[0]), node(&pair[1]))).collect()
}

/// An answer over a line that forwards; `harm` is done once rows have gone direct for a while.
fn answer(
    world: &World,
    stages: &[(usize, usize, usize)],
    pace: Pace,
    meter: &Meter,
    mut harm: impl FnMut(),
) -> Answer {
    let mut desk = met(world, stages, pace, meter);
    let mut done = false;
    let answer = desk.answer(Prompt::Text(PROMPT), &options(true), &mut |_| {
        if !std::mem::replace(&mut done, true) {
            harm();
        }
    });
    answer.expect("somebody is left")
}

fn guessing() -> Pace {
    let line = Line::whole(model(), Arc::new(node_of(NodeId([1; 32]))), LineLimits::default());
    Pace::Guess(Guess {
        branches: 0,
        drafter: Box::new(Either(
            EchoDrafter::default(),
            ModelDrafter::new(line, Cancel::new()),
        )),
        length: 3,
        ahead: 2,
    })
}

#[test]
fn rows_go_direct_and_the_answer_is_the_same() {
    let expected = at_home(&options(true));
    for (stages, guesses) in [(TWO, false), (THREE, false), (TWO, true)] {
        let world = World::new(3);
        let meter = Meter::default();
        let pace = if guesses { guessing() } else { Pace::Steps };
        let mut desk = met(&world, stages, pace, &meter);
        let (between, through) = (meter.read_between(), meter.read());
        let answer = ask(&mut desk, PROMPT, &options(true)).expect("an answer");
        assert_eq!(answer.tokens, expected.tokens, "{stages:?}");
        assert_eq!((answer.moves.len(), answer.degraded.len()), (0, 0), "{answer:?}");
        for hop in hops(&world, stages) {
            let bytes = meter.read_between()[&hop] - between[&hop];
            let through = meter.read()[&hop.1].up - through[&hop.1].up;
            assert!(bytes > 1000, "{stages:?}: {bytes} bytes between");
            // The planner is told how far the two are from each other, as they measured.
            let pair = [hop.0.min(hop.1), hop.0.max(hop.1)];
            let far = || {
                let known = world.desk.network.ways().distances(seconds_since_1970());
                known.get(&pair).copied()
            };
            let until = Instant::now() + PATIENCE;
            while far().is_none() && Instant::now() < until {
                std::thread::yield_now();
            }
            assert!(far().is_some_and(|far| far < PATIENCE), "{:?}", far());
            // The desk sends the second node names of rows.
            assert!(
                through < bytes,
                "{stages:?}: {through} through the desk, {bytes} direct"
            );
        }
    }
}

#[test]
fn each_stage_of_a_line_that_forwards_may_die() {
    let expected = at_home(&options(true));
    for killed in 0..3 {
        let world = World::new(4);
        let meter = Meter::default();
        let answer = answer(&world, THREE, Pace::Steps, &meter, || {
            world.nodes[killed].0.network.vanish();
        });
        assert_eq!(answer.tokens, expected.tokens, "node {killed}");
        assert_eq!(answer.moves.len(), 1, "node {killed}: {:?}", answer.moves);
    }
}

#[test]
fn machines_that_may_not_meet_send_through_the_desk() {
    let expected = at_home(&options(true));
    // Strangers to each other by the policy: a machine of another owner hears of nobody.
    let world = World::new(2);
    let meter = Meter::default();
    let doors = doors(&["miner=text"], &meter);
    let gated = |(at, host): (usize, Arc<dyn Host>)| -> Arc<dyn Host> {
        let role = if at == 1 { Role::Miner } else { Role::Own };
        door(&doors, host, role)
    };
    let hosts = world.hosts().into_iter().enumerate().map(gated).collect();
    let mut desk = desk(world.line_over(hosts, TWO).forwarding(), Pace::Steps);
    let answer = ask(&mut desk, PROMPT, &options(true)).expect("an answer");
    assert_eq!(answer.tokens, expected.tokens);
    assert_eq!(meter.read_between().len(), 0);
    // And a node opens no connection for a desk of another owner, whatever that desk's own policy says.
    let world = World::new(2);
    let lent = Known {
        role: Role::Miner,
        ..world.nodes[0].0.network.peer(world.desk.node()).unwrap().unwrap()
    };
    world.nodes[0].0.network.remember(lent).unwrap();
    let meter = Meter::default();
    let mut desk = self::desk(line(&world, TWO, &meter), Pace::Steps);
    let answer = ask(&mut desk, PROMPT, &options(true)).expect("an answer");
    assert_eq!(answer.tokens, expected.tokens);
    assert_eq!(meter.read_between().len(), 0);
    assert!(
        answer
            .degraded
            .iter()
            .any(|told| told.contains("its own owner only")),
        "{:?}",
        answer.degraded
    );
}

/// A seat for the second layer at node `at`.
fn seat(world: &World, at: usize) -> Box<dyn Seat> {
    let spec = StageSpec {
        model: HASH,
        layers: model().range(1, 2),
        context: 100,
        kv_format: model().kv_format,
        choose: Some(SamplingOptions::greedy()),
    };
    world
        .peer(at)
        .open(SessionId(1), &spec, &Bell::new())
        .expect("a seat")
}

/// What becomes of `who` when it shows this ticket to node `at`.
fn shown(world: &World, who: &Machine, at: usize, ticket: Ticket) -> Option<GiverEvent> {
    let node = &world.nodes[at].0;
    let (node, address) = (node.node(), node.network.address());
    who.network.block_on(async {
        let connection = who.network.connect(node, &address, Protocol::Hop, PATIENCE).await;
        let stream = connection.ok()?.open().await.ok()?;
        let law = u16::try_from(heph_kernels::ARITHMETIC_VERSION).unwrap();
        let end = GiverEnd::new(law, ticket, Duration::ZERO);
        let mut talk = drive(stream, end, Instant::now());
        tokio::time::timeout(PATIENCE, talk.event()).await.ok().flatten()
    })
}

#[test]
fn a_stranger_pushes_no_rows_into_a_session() {
    let world = World::new(2);
    let mut seat = seat(&world, 0);
    let (good, other) = (Ticket([5; 32]), Ticket([6; 32]));
    let from = &world.nodes[1].0;
    let stranger = Machine::new("stranger");
    // Nobody was named yet, not even to somebody who knows the ticket.
    assert_eq!(shown(&world, from, 0, good), None);
    let hop = Hop {
        from: from.node(),
        to: world.nodes[0].0.node(),
        ticket: good,
        address: NodeAddress::default(),
    };
    assert!(seat.expect(&hop));
    let waited = Instant::now();
    while seat.takes() != HopState::Joined {
        assert!(waited.elapsed() < PATIENCE, "{:?}", seat.takes());
        std::thread::sleep(Duration::from_millis(2));
    }
    // The right ticket in the wrong hands, the wrong one in the right hands, then the right one, and that once.
    let welcomed = |who: &Machine, ticket| shown(&world, who, 0, ticket) == Some(GiverEvent::Welcome);
    assert!(!welcomed(&stranger, good));
    assert!(!welcomed(from, other));
    assert!(welcomed(from, good));
    assert!(!welcomed(from, good));
    drop(seat);
    assert!(!welcomed(from, good));
}
