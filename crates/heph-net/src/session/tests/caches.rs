//! Caches on their way from one node to another: only what is held, only where nothing else is under way.

use heph_types::{CachePart, Forward, Position, StageInput};

use super::*;
use crate::wire::{CACHES_SINCE, Capabilities, Hello, VouchedFrame};

fn prompt(first: u32, tokens: u32) -> Order {
    Order::Forward(Forward {
        first: Position(first),
        input: StageInput::Tokens(ids(0..tokens)),
        answers: 1,
        pass: None,
    })
}

fn part(first: u32, tokens: u32) -> CachePart {
    CachePart {
        first: Position(first),
        tokens,
        check: [1; 32],
        bytes: vec![7; 100],
    }
}

const STEP: Duration = Duration::from_millis(100);

fn take(first: u32, to: u32) -> DeskCommand {
    DeskCommand::TakeCache {
        line: LINE,
        first: Position(first),
        to: Position(to),
    }
}

/// A world whose stage holds ten positions.
fn world() -> World {
    let mut world = World::opened(3, Duration::from_millis(5), whole());
    world.order(prompt(0, 10));
    world.run(Duration::from_secs(1));
    world.told.clear();
    world
}

#[test]
fn a_cache_is_asked_for_and_given() {
    let mut world = world();
    world.ask(take(0, 10));
    world.run(STEP);
    let asked = NodeEvent::TakeCache {
        line: LINE,
        first: Position(0),
        to: Position(10),
    };
    assert!(world.noted.contains(&asked));
    let said = NodeCommand::Cache(LINE, part(0, 6));
    world.node.command(world.now, said).unwrap();
    world.carry();
    world.run(STEP);
    assert!(world.told.contains(&DeskEvent::Cache(LINE, part(0, 6))));
    // What is given follows what is held, and orders follow that.
    world.ask(DeskCommand::PutCache(LINE, cleared(part(10, 5))));
    world.run(STEP);
    assert!(world.noted.contains(&NodeEvent::PutCache(LINE, part(10, 5))));
    let held = NodeCommand::CacheHeld(LINE, Position(15));
    world.node.command(world.now, held).unwrap();
    world.carry();
    world.run(STEP);
    assert!(world.told.contains(&DeskEvent::CacheHeld(LINE, Position(15))));
    assert_eq!(world.over(), (None, None));
}

fn vouched(first: u32, to: u32) -> VouchedFrame {
    VouchedFrame {
        line: LINE,
        first: Position(first),
        to: Position(to),
        signature: [7; 64],
    }
}

#[test]
fn a_node_signs_what_it_holds_and_only_where_it_was_asked() {
    let mut world = world();
    world.ask(DeskCommand::Vouch(LINE));
    world.run(STEP);
    assert!(world.noted.contains(&NodeEvent::Vouch(LINE)));
    let said = NodeCommand::Vouched(vouched(2, 10));
    world.node.command(world.now, said).unwrap();
    world.carry();
    world.run(STEP);
    assert!(world.told.contains(&DeskEvent::Vouched(vouched(2, 10))));
    // Orders go on behind it.
    world.order(prompt(10, 2));
    world.run(STEP);
    assert_eq!(world.over(), (None, None));
    for (asked, said) in [
        (false, vouched(0, 10)),
        (true, vouched(0, 11)),
        (true, vouched(5, 4)),
    ] {
        let mut world = self::world();
        if asked {
            world.ask(DeskCommand::Vouch(LINE));
            world.run(STEP);
        }
        // The node's own end does not say it: it ends the conversation, or hands the mistake back.
        let handed_back = world.node.command(world.now, NodeCommand::Vouched(said)).is_err();
        world.carry();
        assert!(handed_back || world.over() != (None, None));
    }
}

#[test]
fn a_desk_believes_no_signature_for_more_than_it_asked() {
    for (asked, said) in [
        (false, vouched(0, 10)),
        (true, vouched(0, 11)),
        (true, vouched(5, 4)),
    ] {
        let mut world = world();
        if asked {
            world.ask(DeskCommand::Vouch(LINE));
            world.run(STEP);
        }
        let frame = Frame::Vouched(said.clone());
        world.desk.receive(world.now, &encoded(&[frame])).unwrap();
        world.carry();
        let over = world.over().0;
        assert!(
            matches!(over, Some(SessionError::Unexpected { .. })),
            "{said:?}: {over:?}"
        );
    }
}

#[test]
fn a_node_gives_only_what_it_holds_and_takes_only_what_follows() {
    let cases = [
        take(0, 11),
        take(5, 5),
        DeskCommand::PutCache(LINE, cleared(part(9, 2))),
        DeskCommand::PutCache(LINE, cleared(part(11, 2))),
        DeskCommand::PutCache(LINE, cleared(part(10, 0))),
        DeskCommand::PutCache(LINE, cleared(part(10, 191))),
        DeskCommand::PutCache(LINE, cleared(part(10, u32::MAX))),
    ];
    for command in cases {
        let mut world = world();
        let told = format!("{command:?}");
        world.ask(command);
        world.run(STEP);
        let broken = matches!(world.over().1, Some(SessionError::Unexpected { .. }));
        assert!(broken, "{told}: {:?}", world.over());
    }
}

#[test]
fn a_desk_takes_only_the_positions_that_it_asked_for() {
    for (first, tokens) in [(1, 3), (0, 0), (0, 11), (0, u32::MAX)] {
        let mut world = world();
        world.ask(take(0, 10));
        world.run(STEP);
        let lie = Frame::Cache {
            line: LINE,
            part: part(first, tokens),
        };
        world.desk.receive(world.now, &encoded(&[lie])).unwrap();
        world.carry();
        let over = world.over().0;
        assert!(
            matches!(over, Some(SessionError::Unexpected { .. })),
            "{first}, {tokens}: {over:?}"
        );
    }
    // And none that it did not ask for.
    let mut world = world();
    let unasked = Frame::CacheHeld {
        line: LINE,
        held: Position(10),
    };
    world.desk.receive(world.now, &encoded(&[unasked])).unwrap();
    world.carry();
    assert!(matches!(world.over().0, Some(SessionError::Unexpected { .. })));
}

#[test]
fn nothing_else_is_under_way_meanwhile() {
    let mut world = world();
    world.stages[0].broods = true;
    world.order(prompt(10, 2));
    world.run(STEP);
    world.ask(take(0, 10));
    assert!(
        world.told.contains(&DeskEvent::CacheStays(LINE)),
        "an order is under way"
    );
    let mut world = self::world();
    world.ask(take(0, 10));
    world.order(prompt(10, 2));
    world.run(STEP);
    assert_eq!(world.stages[0].held(), 10, "the order waits");
    world
        .node
        .command(world.now, NodeCommand::Cache(LINE, part(0, 10)))
        .unwrap();
    world.carry();
    world.run(Duration::from_secs(1));
    assert_eq!((world.stages[0].held(), world.over()), (12, (None, None)));
}

#[test]
fn a_node_of_an_older_version_is_not_asked() {
    let mut desk = DeskEnd::new(LAW, Duration::ZERO);
    let hello = Frame::Hello(Hello {
        versions: (1, CACHES_SINCE - 1),
        law: LAW,
        capabilities: Capabilities::SERVES,
    });
    let opened = Frame::Opened {
        line: LINE,
        width: WIDTH as u32,
        orders: 8,
        bytes: 1 << 20,
    };
    desk.command(Duration::ZERO, open(whole())).unwrap();
    desk.receive(Duration::ZERO, &encoded(&[hello, opened])).unwrap();
    desk.command(Duration::ZERO, DeskCommand::PutCache(LINE, cleared(part(0, 5))))
        .unwrap();
    let told: Vec<_> = std::iter::from_fn(|| desk.event()).collect();
    assert!(told.contains(&DeskEvent::CacheStays(LINE)), "{told:?}");
}
