//! Who is served, how much, and how it stops.

use std::time::Instant;

use heph_runtime::seat::{Bell, Refusal, SeatError};
use heph_types::{Forward, KvFormat, Order, Position, SessionId, StageInput, StageSpec, TokenId};

use super::*;

fn spec() -> StageSpec {
    StageSpec {
        model: HASH,
        layers: model().range(0, 2),
        context: 160,
        kv_format: model().kv_format,
        choose: Some(SamplingOptions::greedy()),
    }
}

fn refusal(peer: &Peer, spec: &StageSpec) -> String {
    match peer.open(SessionId(1), spec, &Bell::new()) {
        Ok(_) => "opened".to_owned(),
        Err(SeatError::Refused {
            why: Refusal::Peer(reason),
            ..
        }) => reason.to_string(),
        Err(error) => format!("{error}"),
    }
}

#[test]
fn what_is_not_lent_is_refused_with_the_reason() {
    let rules = ServeRules {
        sessions_of_a_peer: 2,
        ..ServeRules::default()
    };
    let world = World::with(1, rules);
    let peer = world.peer(0);
    let other_model = StageSpec {
        model: ModelHash([8; 32]),
        ..spec()
    };
    let other_layers = StageSpec {
        layers: heph_types::LayerRange::new(0, 3, 3).unwrap(),
        ..spec()
    };
    let other_cache = StageSpec {
        kv_format: KvFormat::ALL
            .into_iter()
            .find(|f| *f != model().kv_format)
            .unwrap(),
        ..spec()
    };
    let middle = StageSpec {
        layers: model().range(0, 1),
        ..spec()
    };
    let too_long = StageSpec {
        context: 161,
        ..spec()
    };
    assert_eq!(refusal(&peer, &other_model), "the node does not have this model");
    assert_eq!(
        refusal(&peer, &other_layers),
        "the node does not hold these layers"
    );
    assert_eq!(
        refusal(&peer, &other_cache),
        "the node does not serve this cache format"
    );
    assert_eq!(
        refusal(&peer, &middle),
        "only the stage that holds the last layer can choose tokens"
    );
    assert_eq!(
        refusal(&peer, &too_long),
        "the node holds at most 160 positions a session"
    );
    let seats: Vec<_> = (0..2)
        .map(|at| peer.open(SessionId(at), &spec(), &Bell::new()).expect("a place"))
        .collect();
    assert_eq!(
        refusal(&peer, &spec()),
        "the node serves as many sessions as it can"
    );
    drop(seats);
    let serving = &world.nodes[0].1;
    until("places are given back", || serving.served().sessions == 0);
    assert_eq!(refusal(&peer, &spec()), "opened");
    serving.pause();
    assert_eq!(refusal(&peer, &spec()), "the node is paused");
    serving.resume();
    assert_eq!(refusal(&peer, &spec()), "opened");
}

#[test]
fn a_stranger_opens_nothing() {
    let world = World::new(1);
    let stranger = Machine::new("stranger");
    stranger.knows(&world.nodes[0].0);
    let peer = cleared(Peer::new(&stranger.network, world.nodes[0].0.node()));
    let began = Instant::now();
    let said = refusal(&peer, &spec());
    assert!(said.contains("was lost"), "{said}");
    assert!(began.elapsed() < PATIENCE);
    assert_eq!(world.nodes[0].1.served().opened, 0);
}

#[test]
fn work_for_a_desk_that_left_stops_within_a_token() {
    let world = World::new(1);
    let peer = world.peer(0);
    let serving = &world.nodes[0].1;
    let mut seat = peer.open(SessionId(1), &spec(), &Bell::new()).expect("a seat");
    seat.submit(Order::Generate {
        last: TokenId(1),
        tokens_max: 160,
        ends: Vec::new(),
    })
    .expect("room");
    until("it has begun", || serving.served().tokens > 3);
    drop(seat);
    until("the session is over", || serving.served().sessions == 0);
    let after = serving.served().tokens;
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(serving.served().tokens, after);
    assert!(after < 160, "it was stopped");
}

#[test]
fn a_desk_that_vanishes_leaves_no_session_behind() {
    let world = World::new(1);
    let peer = world.peer(0);
    let seat = peer.open(SessionId(1), &spec(), &Bell::new()).expect("a seat");
    let serving = &world.nodes[0].1;
    assert_eq!(serving.served().sessions, 1);
    world.desk.network.vanish();
    let deadline = Instant::now() + Duration::from_secs(15);
    while serving.served().sessions > 0 {
        assert!(
            Instant::now() < deadline,
            "ten seconds of silence end a connection"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    drop(seat);
}

#[test]
fn orders_that_make_no_sense_end_the_session_and_not_the_node() {
    let world = World::new(1);
    let peer = world.peer(0);
    let bell = Bell::new();
    // A token that the model does not have.
    let mut seat = peer.open(SessionId(1), &spec(), &bell).expect("a seat");
    seat.submit(Order::Forward(Forward {
        first: Position(0),
        input: StageInput::Tokens(vec![TokenId(u32::MAX)]),
        answers: 1,
        pass: None,
    }))
    .expect("room");
    let error = loop {
        let seen = bell.rings();
        match seat.poll() {
            Ok(Some(reply)) => panic!("{reply:?}"),
            Ok(None) => bell.wait(seen, Instant::now() + PATIENCE),
            Err(error) => break error,
        }
    };
    assert!(error.to_string().contains("refused"), "{error}");
    drop(seat);
    assert_eq!(refusal(&peer, &spec()), "opened");
}

#[test]
fn a_peer_says_what_it_is_when_asked() {
    let rules = ServeRules {
        profile: Some(Arc::new(profile)),
        ..ServeRules::default()
    };
    let world = World::with(1, rules);
    let probe = world.peer(0).probe(PATIENCE).expect("it is there");
    assert_eq!(probe.profile, Some(profile()));
    assert!(probe.round_trip.is_some());
    let (silent, _serving) = Machine::lending("silent", ServeRules::default());
    silent.knows(&world.desk);
    world.desk.knows(&silent);
    let probe = Peer::new(&world.desk.network, silent.node())
        .probe(PATIENCE)
        .expect("it is there");
    assert_eq!(probe.profile, None);
}

pub(super) fn profile() -> heph_types::NodeProfile {
    heph_types::NodeProfile {
        node: NodeId([4; 32]),
        name: "tower".to_owned(),
        role: Role::Own,
        speed: heph_types::Speed {
            bytes_per_second: 2e10,
            flops_per_second: 3e11,
            overhead: Duration::from_micros(40),
            measured: Vec::new(),
        },
        memory: 1 << 33,
        holds: Vec::new(),
        exactness: heph_types::Exactness::Exact,
        caps: heph_types::Caps::default(),
        state: heph_types::NodeState::Open,
        queue: Duration::ZERO,
        price: heph_types::Price::default(),
    }
}
