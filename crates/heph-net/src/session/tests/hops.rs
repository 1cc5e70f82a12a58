//! Rows from node to node: only from whom the desk named, only with its ticket, only what an order awaits.

use heph_types::{Forward, Hidden, NodeId, Pass, Position, StageInput, Tag, Ticket};

use super::*;
use crate::address::NodeAddress;
use crate::codec::{self, PackedRows};
use crate::wire::{Capabilities, HOPS_SINCE, HandFrame, Hello, JoinFrame, VERSIONS};

const FROM: NodeId = NodeId([4; 32]);
const TICKET: Ticket = Ticket([5; 32]);
const STEP: Duration = Duration::from_millis(100);

/// An order whose rows another node hands over.
fn awaited(first: u32, count: usize, tag: u64) -> Order {
    Order::Forward(Forward {
        first: Position(first),
        input: StageInput::Handed {
            tag: Tag(tag),
            count,
            tokens: Vec::new(),
        },
        answers: 1,
        pass: None,
    })
}

fn rows(count: usize) -> PackedRows {
    let rows = (0..count * WIDTH).map(|n| n as f32).collect();
    codec::pack(&Hidden { width: WIDTH, rows }, WireCodec::F32).unwrap()
}

/// The last stage of a model.
fn last() -> StageSpec {
    StageSpec {
        layers: LayerRange::new(1, 2, 2).unwrap(),
        ..whole()
    }
}

/// A world whose stage awaits rows of another node.
fn world() -> World {
    let mut world = World::opened(5, Duration::from_millis(5), last());
    world.ask(DeskCommand::Expect {
        line: LINE,
        from: FROM,
        ticket: TICKET,
    });
    world.run(STEP);
    let asked = NodeEvent::Expect {
        line: LINE,
        from: FROM,
        ticket: TICKET,
    };
    assert!(world.noted.contains(&asked), "{:?}", world.noted);
    world.command(NodeCommand::Expecting(LINE));
    assert!(world.told.contains(&DeskEvent::Expecting(LINE)));
    world.told.clear();
    world
}

impl World {
    /// The node says something, and everybody hears it.
    fn command(&mut self, command: NodeCommand) {
        self.node.command(self.now, command).unwrap();
        self.carry();
        self.run(STEP);
    }

    fn hand(&mut self, tag: u64, rows: PackedRows) {
        let (line, tag) = (LINE, Tag(tag));
        self.command(NodeCommand::Hand { line, tag, rows });
    }

    /// Bytes of handed rows that wait no longer.
    fn taken(&self) -> u64 {
        let taken = |event: &NodeEvent| match event {
            NodeEvent::Taken { bytes, .. } => *bytes,
            _ => 0,
        };
        self.noted.iter().map(taken).sum()
    }
}

#[test]
fn rows_meet_their_order_whichever_comes_first() {
    for early in [true, false] {
        let mut world = world();
        if early {
            world.hand(1, rows(3));
        }
        world.order(awaited(0, 3, 1));
        world.run(STEP);
        assert_eq!(world.stages[0].held(), if early { 3 } else { 0 });
        if !early {
            world.hand(1, rows(3));
        }
        assert_eq!(world.stages[0].held(), 3, "{early}");
        assert_eq!((world.replies().len(), world.over()), (1, (None, None)));
        assert_eq!(world.taken(), rows(3).bytes.len() as u64, "room for others");
    }
}

#[test]
fn what_became_void_is_answered_and_its_rows_are_dropped() {
    let mut world = world();
    world.order(awaited(0, 3, 1));
    world.hand(1, rows(3));
    world.order(awaited(3, 2, 2));
    world.order(awaited(3, 1, 3));
    world.run(STEP);
    assert_eq!(world.replies().len(), 2, "the void one was answered without rows");
    world.hand(2, rows(2));
    world.hand(3, rows(1));
    assert_eq!((world.stages[0].held(), world.replies().len()), (4, 3));
    // A rollback alone makes void what is still awaited.
    world.order(awaited(4, 1, 4));
    world.order(Order::Rollback(Position(4)));
    world.run(STEP);
    assert_eq!((world.stages[0].held(), world.replies().len()), (4, 4));
    world.hand(4, rows(1));
    assert_eq!(world.taken(), rows(7).bytes.len() as u64);
    assert_eq!(world.over(), (None, None));
}

#[test]
fn rows_that_nobody_awaits_end_the_hop_and_not_the_session() {
    let misled = |world: &World| world.noted.contains(&NodeEvent::Misled(LINE));
    // Another shape than the order's, a name that was there, and more than may wait.
    let mut shape = world();
    shape.order(awaited(0, 3, 1));
    shape.hand(1, rows(2));
    assert!(misled(&shape));
    let mut twice = world();
    twice.hand(5, rows(1));
    twice.hand(5, rows(1));
    assert!(misled(&twice));
    let mut many = world();
    (1..=u64::from(ORDERS_WINDOW) + 1).for_each(|tag| many.hand(tag, rows(1)));
    assert!(misled(&many));
    // And where the desk named nobody.
    let mut nobody = World::opened(5, Duration::from_millis(5), last());
    nobody.hand(1, rows(1));
    assert!(misled(&nobody));
    for world in [&mut shape, &mut twice, &mut many, &mut nobody] {
        assert_eq!(world.over(), (None, None));
        // The desk goes on by itself.
        world.order(Order::Rollback(Position(0)));
        world.order(Order::Forward(Forward {
            first: Position(0),
            input: StageInput::Rows {
                hidden: codec::unpack(&rows(2)).unwrap(),
                tokens: Vec::new(),
            },
            answers: 1,
            pass: None,
        }));
        world.run(STEP);
        assert_eq!(world.stages[0].held(), 2);
    }
}

#[test]
fn a_desk_that_orders_rows_from_nobody_or_out_of_turn_is_cut_off() {
    let broken = |world: &World| matches!(world.over().1, Some(SessionError::Unexpected { .. }));
    let mut nobody = World::opened(5, Duration::from_millis(5), last());
    nobody.order(awaited(0, 1, 1));
    nobody.run(STEP);
    assert!(broken(&nobody));
    for tag in [1, 0] {
        let mut world = world();
        world.order(awaited(0, 1, 1));
        world.order(awaited(1, 1, tag));
        world.run(STEP);
        assert!(broken(&world), "a name comes once, and they ascend");
    }
}

#[test]
fn rows_are_handed_on_all_or_not_at_all() {
    for answers in [1, 3] {
        let mut world = World::opened(5, Duration::from_millis(5), spec(None));
        world.order(Order::Forward(Forward {
            first: Position(0),
            input: StageInput::Tokens(ids(0..3)),
            answers,
            pass: Some(Pass {
                tag: Tag(1),
                codec: WireCodec::Bf16,
            }),
        }));
        world.run(STEP);
        assert_eq!(world.over().1.is_none(), answers == 3);
        if answers == 3 {
            // They go on in the format of the answer, whatever was asked: the desk remembers what was handed on.
            let passed = Some(Pass {
                tag: Tag(1),
                codec: WireCodec::F32,
            });
            assert_eq!(world.stages[0].passed, passed);
        }
    }
}

#[test]
fn a_node_tells_what_it_hands_on_only_where_it_was_asked_to() {
    let mut world = World::opened(5, Duration::from_millis(5), spec(None));
    let join = JoinFrame {
        line: LINE,
        to: FROM,
        ticket: TICKET,
        address: NodeAddress::default(),
    };
    world.ask(DeskCommand::Join(cleared(join.clone())));
    world.run(STEP);
    assert!(world.noted.contains(&NodeEvent::Join(join)));
    let round_trip = Duration::from_millis(7);
    world.command(NodeCommand::Joined {
        line: LINE,
        round_trip,
    });
    world.command(NodeCommand::HandedOn {
        line: LINE,
        bytes: 900,
    });
    world.command(NodeCommand::Parted {
        line: LINE,
        sentence: "the way broke\u{7}".to_owned(),
    });
    let told = [
        DeskEvent::Joined {
            line: LINE,
            round_trip,
        },
        DeskEvent::HandedOn {
            line: LINE,
            bytes: 900,
        },
        DeskEvent::Parted {
            line: LINE,
            sentence: "the way broke".to_owned(),
        },
    ];
    assert!(
        told.iter().all(|event| world.told.contains(event)),
        "{:?}",
        world.told
    );
    // Fewer bytes than before, and what was never asked for.
    world.command(NodeCommand::HandedOn {
        line: LINE,
        bytes: 899,
    });
    assert!(matches!(world.over().0, Some(SessionError::Unexpected { .. })));
    for unasked in [
        NodeCommand::Expecting(LINE),
        NodeCommand::Joined {
            line: LINE,
            round_trip,
        },
        NodeCommand::HandedOn { line: LINE, bytes: 1 },
    ] {
        let mut world = World::opened(5, Duration::from_millis(5), spec(None));
        world.command(unasked.clone());
        let over = world.over().0;
        assert!(
            matches!(over, Some(SessionError::Unexpected { .. })),
            "{unasked:?}"
        );
    }
}

/// What both ends of a hop were told, where the giver shows `ticket` and then hands two pieces.
fn hop(welcome: bool) -> (Vec<GiverEvent>, Vec<TakerEvent>) {
    let now = Duration::ZERO;
    let (mut giver, mut taker) = (GiverEnd::new(LAW, TICKET, now), TakerEnd::new(LAW, now));
    let (mut gave, mut took) = (Vec::new(), Vec::new());
    for round in 0..6 {
        let (mut up, mut down) = (Vec::new(), Vec::new());
        giver.transmit(&mut up);
        taker.transmit(&mut down);
        up.chunks(7).for_each(|piece| taker.receive(now, piece).unwrap());
        down.chunks(7)
            .for_each(|piece| giver.receive(now, piece).unwrap());
        took.extend(std::iter::from_fn(|| taker.event()));
        gave.extend(std::iter::from_fn(|| giver.event()));
        if round == 1 && welcome {
            taker.command(now, TakerCommand::Welcome).unwrap();
        }
        if round == 3 {
            giver.command(now, GiverCommand::Hand(Tag(1), rows(2))).unwrap();
            giver.command(now, GiverCommand::Hand(Tag(2), rows(1))).unwrap();
        }
    }
    (gave, took)
}

#[test]
fn rows_come_after_a_ticket_and_a_welcome() {
    let (gave, took) = hop(true);
    assert_eq!(gave, [GiverEvent::Welcome]);
    let wanted = [
        TakerEvent::Presented(TICKET),
        TakerEvent::Handed(Tag(1), rows(2)),
        TakerEvent::Handed(Tag(2), rows(1)),
    ];
    assert_eq!(took, wanted);
    // Nobody is handed rows who did not say that they may come.
    let (gave, took) = hop(false);
    assert!(matches!(gave[..], [GiverEvent::Over(SessionError::Misuse(_))]));
    assert_eq!(took[0], TakerEvent::Presented(TICKET));
    assert!(took.iter().all(|event| !matches!(event, TakerEvent::Handed(..))));
}

#[test]
fn a_stranger_hands_nothing_over() {
    let hello = |versions| {
        Frame::Hello(Hello {
            versions,
            law: LAW,
            capabilities: Capabilities::default(),
        })
    };
    let hand = || {
        Frame::Hand(HandFrame {
            tag: Tag(1),
            rows: rows(1),
        })
    };
    let said = [
        vec![hello(VERSIONS), hand()],
        vec![hand()],
        vec![hello(VERSIONS), Frame::Present(TICKET), hand()],
        vec![hello(VERSIONS), Frame::Present(TICKET), Frame::Present(TICKET)],
        vec![hello((1, HOPS_SINCE - 1)), Frame::Present(TICKET)],
        vec![hello(VERSIONS), Frame::Welcome],
        vec![hello(VERSIONS), Frame::Close(LINE)],
    ];
    for frames in said {
        let mut taker = TakerEnd::new(LAW, Duration::ZERO);
        taker.receive(Duration::ZERO, &encoded(&frames)).unwrap();
        let told: Vec<_> = std::iter::from_fn(|| taker.event()).collect();
        assert!(
            matches!(told.last(), Some(TakerEvent::Over(_))),
            "{frames:?}: {told:?}"
        );
        assert!(told.iter().all(|event| !matches!(event, TakerEvent::Handed(..))));
    }
    // Who shows no ticket is not waited for, nor who does not take one.
    let late = GREETING_DEADLINE + Duration::from_millis(1);
    let mut taker = TakerEnd::new(LAW, Duration::ZERO);
    taker
        .receive(Duration::ZERO, &encoded(&[hello(VERSIONS)]))
        .unwrap();
    taker.wake(late).unwrap();
    assert!(matches!(
        taker.event(),
        Some(TakerEvent::Over(SessionError::Late { .. }))
    ));
    let mut giver = GiverEnd::new(LAW, TICKET, Duration::ZERO);
    giver
        .receive(Duration::ZERO, &encoded(&[hello(VERSIONS)]))
        .unwrap();
    giver.wake(late).unwrap();
    assert!(matches!(
        giver.event(),
        Some(GiverEvent::Over(SessionError::Late { .. }))
    ));
}
