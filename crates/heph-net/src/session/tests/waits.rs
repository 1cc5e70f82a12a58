//! Every wait ends: silence, lateness, idleness, sleep, and what each side is told.

use heph_types::{Forward, Position, StageInput};

use super::*;
use crate::wire::{Farewell, FaultCode};

fn prompt() -> Order {
    Order::Forward(Forward {
        first: Position(0),
        input: StageInput::Tokens(ids(0..4)),
        answers: 1,
        pass: None,
    })
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_node_that_stops_is_lost_within_three_seconds_and_not_before() {
    for stopped_ms in [0, 1, 400, 499, 1_700] {
        let mut world = World::opened(stopped_ms, Duration::from_millis(150), whole());
        world.run(Duration::from_millis(stopped_ms));
        world.node_lives = false;
        let began = world.now;
        world.order(prompt());
        while world.over().0.is_none() {
            world.run(Duration::from_millis(20));
            assert!(world.now < began + 3 * SECOND, "still waiting");
        }
        assert_eq!(world.over().0, Some(&SessionError::Silent(LOST_AFTER)));
        assert!(world.now > began + 2 * SECOND, "a slow packet is no death");
    }
}

/// The way to it is closed at once: what is still written to that is counted, and never sent.
#[test]
fn a_node_that_is_not_heard_is_told_nothing_more() {
    let mut world = World::opened(1, Duration::from_millis(150), whole());
    world.node_lives = false;
    world.order(prompt());
    let mut before = world.bytes.0;
    while world.over().0.is_none() {
        before = world.bytes.0;
        world.run(Duration::from_millis(1));
    }
    assert_eq!(world.over().0, Some(&SessionError::Silent(LOST_AFTER)));
    world.run(60 * SECOND);
    assert_eq!(world.bytes.0, before, "a last word was said");
}

#[test]
fn a_node_that_thinks_long_is_not_lost_as_long_as_it_lives() {
    let mut world = World::opened(1, Duration::from_millis(150), whole());
    world.stages[0].broods = true;
    world.order(prompt());
    world.run(60 * SECOND);
    let round_trips = world.told.iter().filter(|e| matches!(e, DeskEvent::RoundTrip(_)));
    let round_trips: Vec<_> = round_trips.collect();
    assert!(round_trips.len() > 100);
    assert!(round_trips.contains(&&DeskEvent::RoundTrip(Duration::from_millis(300))));
    assert_eq!(world.over(), (None, None));
    world.run(ANSWER_DEADLINE);
    assert!(
        matches!(world.over().0, Some(SessionError::Late { .. })),
        "{:?}",
        world.over()
    );
}

#[test]
fn nobody_asks_for_signs_of_life_while_nothing_is_asked() {
    let mut world = World::opened(1, Duration::from_millis(5), whole());
    world.run(5 * SECOND);
    let before = world.bytes;
    world.run(300 * SECOND);
    assert_eq!(world.bytes, before);
    world.node_lives = false;
    world.run(3_600 * SECOND);
    assert_eq!(world.over(), (None, None), "nobody waits for anything");
}

#[test]
fn a_session_that_nobody_uses_ends_and_says_so() {
    let mut world = World::opened(1, Duration::from_millis(5), whole());
    world.run(601 * SECOND);
    assert_eq!(world.noted.last(), Some(&NodeEvent::Close(LINE)));
    let ended = world.told.iter().any(|event| {
        matches!(event, DeskEvent::Ended { line: LINE, code: FaultCode::Idle, sentence } if sentence.contains("600 s"))
    });
    assert!(ended, "{:?}", world.told);
    world.run(601 * SECOND);
    assert_eq!(world.over().0, Some(&SessionError::Left(Farewell::Idle)));
}

#[test]
fn who_never_says_hello_is_not_waited_for() {
    let mut desk = DeskEnd::new(LAW, SECOND);
    let mut node = NodeEnd::new(LAW, NodeLimits::default(), SECOND);
    assert_eq!(desk.deadline(), Some(SECOND + GREETING_DEADLINE));
    assert_eq!(node.deadline(), Some(SECOND + GREETING_DEADLINE));
    desk.wake(SECOND + GREETING_DEADLINE).unwrap();
    node.wake(SECOND + GREETING_DEADLINE).unwrap();
    assert!(matches!(
        desk.event(),
        Some(DeskEvent::Over(SessionError::Late { .. }))
    ));
    assert!(matches!(
        node.event(),
        Some(NodeEvent::Over(SessionError::Late { .. }))
    ));
    // What was said last is not waited for without end either.
    desk.wake(SECOND + GREETING_DEADLINE + GOODBYE_DEADLINE)
        .unwrap_err();
}

#[test]
fn a_node_that_lives_and_does_not_open_is_not_waited_for() {
    let mut desk = DeskEnd::new(LAW, Duration::ZERO);
    desk.command(Duration::ZERO, open(whole())).unwrap();
    let hello = Frame::Hello(crate::wire::Hello {
        versions: crate::wire::VERSIONS,
        law: LAW,
        capabilities: crate::wire::Capabilities::SERVES,
    });
    desk.receive(Duration::ZERO, &encoded(&[hello])).unwrap();
    let mut said = Vec::new();
    let mut now = Duration::ZERO;
    let over = loop {
        let over = std::iter::from_fn(|| desk.event()).find_map(|event| match event {
            DeskEvent::Over(error) => Some(error),
            _ => None,
        });
        if let Some(error) = over {
            break error;
        }
        said.clear();
        desk.transmit(&mut said);
        let mut inbox = crate::wire::Inbox::default();
        inbox.push(&said);
        while let Some(frame) = inbox.pop().unwrap() {
            if let Frame::Ping(stamp) = frame {
                desk.receive(now, &encoded(&[Frame::Pong(stamp)])).unwrap();
            }
        }
        now = desk.deadline().expect("it waits").max(now);
        desk.wake(now).unwrap();
    };
    assert_eq!(now, OPEN_DEADLINE);
    assert!(over.to_string().contains("to open a session"), "{over}");
}

#[test]
fn a_machine_that_slept_does_not_blame_its_peer() {
    let mut world = World::opened(1, Duration::from_millis(5), whole());
    world.node_lives = false;
    world.order(prompt());
    world.run(Duration::from_millis(100));
    // The lid is closed for an hour; the node has answered meanwhile, and its bytes come right after.
    world.now += 3_600 * SECOND;
    world.desk.wake(world.now).unwrap();
    world.carry();
    assert_eq!(world.over().0, None, "it may not have been heard");
}

#[test]
fn versions_and_laws_that_do_not_meet_are_named_on_both_sides() {
    let meet = |versions: (u16, u16), law: u16| {
        let hello = Frame::Hello(crate::wire::Hello {
            versions,
            law,
            capabilities: crate::wire::Capabilities::default(),
        });
        let mut desk = DeskEnd::new(LAW, Duration::ZERO);
        desk.receive(Duration::ZERO, &encoded(std::slice::from_ref(&hello)))
            .unwrap();
        let mut node = NodeEnd::new(LAW, NodeLimits::default(), Duration::ZERO);
        node.receive(Duration::ZERO, &encoded(&[hello])).unwrap();
        let mut said = Vec::new();
        node.transmit(&mut said);
        let told = match desk.event() {
            Some(DeskEvent::Over(error)) => error.to_string(),
            event => format!("{event:?}"),
        };
        let noted = match node.event() {
            Some(NodeEvent::Over(error)) => {
                assert!(node.finished(), "it has said why, and all it will say");
                error.to_string()
            }
            event => format!("{event:?}"),
        };
        assert_eq!(told, noted);
        told
    };
    assert!(meet((5, 6), LAW).contains("it speaks versions 5 to 6 of the protocol, this machine 1 to 4"));
    assert!(meet((1, 1), LAW + 1).contains("law 2 of arithmetic, this machine by law 1"));
    assert!(
        meet((1, 9), LAW).starts_with("Some(Greeted"),
        "one version is enough"
    );
}

#[test]
fn leaving_ends_the_work_at_once() {
    let mut world = World::opened(1, Duration::from_millis(5), whole());
    world.order(prompt());
    world.ask(DeskCommand::Leave);
    world.run(Duration::from_millis(5));
    assert!(world.noted.contains(&NodeEvent::Close(LINE)));
    assert!(world.stages.is_empty() && world.desk.finished());
    let mut world = World::opened(1, Duration::from_millis(5), whole());
    world
        .node
        .command(world.now, NodeCommand::Leave(Farewell::Leaving))
        .unwrap();
    world.carry();
    world.run(Duration::from_millis(5));
    assert_eq!(world.over().0, Some(&SessionError::Left(Farewell::Leaving)));
}

#[test]
fn a_failed_session_tells_why_and_leaves_the_others() {
    let mut world = World::opened(1, Duration::from_millis(5), whole());
    world.ask(open(whole()));
    world.run(SECOND);
    let sentence = "no memory for more".to_owned();
    let code = FaultCode::Memory;
    world
        .node
        .command(
            world.now,
            NodeCommand::Fail {
                line: LINE,
                code,
                sentence: sentence.clone(),
            },
        )
        .unwrap();
    // It is on its way to a session that has ended.
    world.order(prompt());
    world.ask(DeskCommand::Order(Line(1), cleared(prompt())));
    world.run(SECOND);
    assert!(world.told.contains(&DeskEvent::Ended {
        line: LINE,
        code,
        sentence
    }));
    assert!(
        world
            .told
            .iter()
            .any(|event| matches!(event, DeskEvent::Reply(Line(1), _)))
    );
    assert_eq!(world.over(), (None, None));
}

#[test]
fn a_small_window_is_kept_and_every_order_answered() {
    let limits = NodeLimits {
        orders: 2,
        bytes: 40,
        ..NodeLimits::default()
    };
    let mut world = World::with(1, Duration::from_millis(40), limits);
    world.ask(open(whole()));
    for first in (0..40).step_by(4) {
        world.order(Order::Forward(Forward {
            first: Position(first),
            input: StageInput::Tokens(ids(0..4)),
            answers: 1,
            pass: None,
        }));
    }
    world.run(10 * SECOND);
    assert_eq!(world.replies().len(), 10);
    assert_eq!(world.over(), (None, None));
}
