//! Peers that mean harm, and mistakes made on purpose: each end names what is wrong and reserves nothing for it.

use heph_types::{Forward, Hidden, Position, StageInput};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::codec;
use crate::wire::{
    Capabilities, ChoicesFrame, Epoch, Fill, ForwardFrame, GenerateFrame, Hello, RowsFrame, TakeUntil,
    VERSIONS,
};

fn hello() -> Frame {
    Frame::Hello(Hello {
        versions: VERSIONS,
        law: LAW,
        capabilities: Capabilities::default(),
    })
}

fn opening(spec: StageSpec) -> Frame {
    Frame::Open {
        line: LINE,
        session: SessionId(1),
        spec,
    }
}

fn tokens(first: u32, count: u32, answers: u32, epoch: u32) -> Frame {
    Frame::Forward(ForwardFrame {
        line: LINE,
        epoch: Epoch(epoch),
        first: Position(first),
        answers,
        until: TakeUntil::End,
        reply: WireCodec::F32,
        fill: Fill::Tokens(ids(0..count)),
        pass: None,
    })
}

fn rows(count: usize, width: usize) -> crate::codec::PackedRows {
    let rows = vec![0.5; count * width];
    codec::pack(&Hidden { width, rows }, WireCodec::F32).unwrap()
}

fn generate(at: u32, tokens_max: u32, epoch: u32) -> Frame {
    Frame::Generate(GenerateFrame {
        line: LINE,
        epoch: Epoch(epoch),
        at: Position(at),
        last: TokenId(1),
        tokens_max,
        ends: Vec::new(),
    })
}

/// What a node makes of a desk that says this once its session is open.
fn node_hears(spec: StageSpec, said: &[Frame]) -> Option<SessionError> {
    let mut node = NodeEnd::new(LAW, NodeLimits::default(), Duration::ZERO);
    node.receive(Duration::ZERO, &encoded(&[hello(), opening(spec)]))
        .unwrap();
    let width = WIDTH as u32;
    node.command(Duration::ZERO, NodeCommand::Grant { line: LINE, width })
        .unwrap();
    node.receive(Duration::ZERO, &encoded(said)).unwrap();
    std::iter::from_fn(|| node.event()).find_map(|event| match event {
        NodeEvent::Over(error) => Some(error),
        _ => None,
    })
}

#[test]
fn a_desk_that_breaks_the_protocol_is_told_how() {
    let rollback = |epoch, to| Frame::Rollback {
        line: LINE,
        epoch: Epoch(epoch),
        to: Position(to),
    };
    let wide = Frame::Forward(ForwardFrame {
        line: LINE,
        epoch: Epoch(0),
        first: Position(0),
        answers: 1,
        until: TakeUntil::End,
        reply: WireCodec::F32,
        fill: Fill::Rows {
            rows: rows(1, WIDTH + 1),
            tokens: Vec::new(),
        },
        pass: None,
    });
    let cases: Vec<(&str, StageSpec, Vec<Frame>)> = vec![
        ("said before", whole(), vec![hello()]),
        ("counted in their order", whole(), vec![opening(whole())]),
        ("never opened", whole(), vec![Frame::Close(Line(1))]),
        ("a desk does not say this", whole(), vec![Frame::Closed(LINE)]),
        ("more answers than", whole(), vec![tokens(0, 2, 3, 0)]),
        ("more answers than", whole(), vec![tokens(0, 0, 0, 0)]),
        ("beyond the context", whole(), vec![tokens(0, 201, 1, 0)]),
        ("begins no epoch", whole(), vec![tokens(1, 2, 1, 0)]),
        (
            "begins no epoch",
            whole(),
            vec![tokens(0, 2, 1, 0), tokens(1, 2, 1, 0)],
        ),
        (
            "not reached",
            whole(),
            vec![tokens(0, 2, 1, 0), tokens(3, 2, 1, 1)],
        ),
        ("neither this one", whole(), vec![tokens(0, 2, 1, 2)]),
        ("another width", whole(), vec![wide]),
        ("begins no epoch", whole(), vec![rollback(0, 0)]),
        ("not reached", whole(), vec![rollback(1, 1)]),
        ("only a whole model", spec(None), vec![generate(0, 5, 0)]),
        ("beyond the context", whole(), vec![generate(0, 201, 0)]),
        ("beyond the context", whole(), vec![generate(0, 0, 0)]),
        (
            "stream is under way",
            whole(),
            vec![generate(0, 5, 0), tokens(0, 1, 1, 0)],
        ),
        (
            "does not choose",
            spec(None),
            vec![Frame::Choose {
                line: LINE,
                options: SamplingOptions::greedy(),
            }],
        ),
        (
            "no room",
            whole(),
            (0..65).map(|at| tokens(at, 1, 1, 0)).collect(),
        ),
        (
            "no room",
            whole(),
            std::iter::once(tokens(0, 1, 1, 0))
                .chain((1..400).map(|at| rollback(at, 0)))
                .collect(),
        ),
    ];
    for (why, spec, said) in cases {
        let error = node_hears(spec, &said).map(|error| error.to_string());
        let named = error.as_ref().is_some_and(|error| error.contains(why));
        assert!(named, "{why}: {error:?} for {:?}", said.last());
    }
    assert_eq!(
        node_hears(whole(), &[tokens(0, 4, 1, 0), tokens(2, 4, 1, 1)]),
        None
    );
}

/// What a desk makes of a node that answers so.
fn desk_hears(spec: StageSpec, orders: Vec<Order>, said: &[Frame]) -> Option<SessionError> {
    let mut desk = DeskEnd::new(LAW, Duration::ZERO);
    desk.command(Duration::ZERO, open(spec)).unwrap();
    let opened = Frame::Opened {
        line: LINE,
        width: WIDTH as u32,
        orders: 64,
        bytes: 1 << 20,
    };
    desk.receive(Duration::ZERO, &encoded(&[hello(), opened]))
        .unwrap();
    for order in orders {
        desk.command(Duration::ZERO, DeskCommand::Order(LINE, cleared(order)))
            .unwrap();
    }
    desk.receive(Duration::ZERO, &encoded(said)).unwrap();
    std::iter::from_fn(|| desk.event()).find_map(|event| match event {
        DeskEvent::Over(error) => Some(error),
        _ => None,
    })
}

fn ask(first: u32, count: u32, answers: u32) -> Order {
    Order::Forward(Forward {
        first: Position(first),
        input: StageInput::Tokens(ids(0..count)),
        answers,
        pass: None,
    })
}

#[test]
fn a_node_that_answers_something_else_is_caught() {
    let choices = |first, agreed, tokens: &[u32], epoch| {
        Frame::Choices(ChoicesFrame {
            line: LINE,
            epoch: Epoch(epoch),
            first: Position(first),
            agreed,
            tokens: tokens.iter().copied().map(TokenId).collect(),
        })
    };
    let answer = |first, count, width| {
        Frame::Rows(RowsFrame {
            line: LINE,
            epoch: Epoch(0),
            first: Position(first),
            rows: rows(count, width),
        })
    };
    let done = |epoch| Frame::Done {
        line: LINE,
        epoch: Epoch(epoch),
    };
    let alone = Order::Generate {
        last: TokenId(1),
        tokens_max: 2,
        ends: vec![TokenId(9)],
    };
    let middle = || spec(None);
    let cases: Vec<(StageSpec, Vec<Order>, Vec<Frame>)> = vec![
        // Nothing was asked.
        (whole(), vec![], vec![choices(1, 0, &[1], 0)]),
        (whole(), vec![], vec![done(0)]),
        // Another position, another epoch, too few, too many, of the wrong kind.
        (whole(), vec![ask(0, 4, 1)], vec![choices(3, 0, &[1], 0)]),
        (whole(), vec![ask(0, 4, 1)], vec![choices(4, 0, &[1], 1)]),
        (whole(), vec![ask(0, 4, 1)], vec![choices(4, 0, &[], 0)]),
        (whole(), vec![ask(0, 4, 1)], vec![choices(4, 0, &[1, 2], 0)]),
        (whole(), vec![ask(0, 4, 1)], vec![answer(3, 1, WIDTH)]),
        (whole(), vec![ask(0, 4, 1)], vec![done(0)]),
        // More agreed than guessed; short without a disagreement.
        (whole(), vec![ask(0, 4, 4)], vec![choices(1, 4, &[], 0)]),
        (whole(), vec![ask(0, 4, 4)], vec![choices(1, 0, &[1], 0)]),
        (whole(), vec![ask(0, 4, 4)], vec![choices(1, 1, &[2], 0)]),
        (whole(), vec![ask(0, 4, 4)], vec![choices(1, 1, &[7, 8], 0)]),
        // Rows of another shape or place.
        (middle(), vec![ask(0, 4, 4)], vec![answer(0, 3, WIDTH)]),
        (middle(), vec![ask(0, 4, 4)], vec![answer(0, 4, WIDTH + 1)]),
        (middle(), vec![ask(0, 4, 4)], vec![answer(1, 4, WIDTH)]),
        (
            middle(),
            vec![ask(0, 4, 4)],
            vec![choices(1, 0, &[1, 1, 1, 1], 0)],
        ),
        (middle(), vec![ask(0, 4, 0)], vec![answer(4, 0, WIDTH)]),
        // An order that is partly needed may not be left out.
        (
            whole(),
            vec![ask(0, 4, 1), ask(4, 4, 1), ask(6, 2, 1)],
            vec![choices(4, 0, &[1], 0), done(0)],
        ),
        // A stream that goes on too long, from elsewhere, or past its end.
        (whole(), vec![alone.clone()], vec![choices(1, 0, &[1, 2, 3], 0)]),
        (whole(), vec![alone.clone()], vec![choices(2, 0, &[1], 0)]),
        (whole(), vec![alone.clone()], vec![choices(1, 0, &[9, 1], 0)]),
        (whole(), vec![alone.clone()], vec![choices(1, 0, &[], 0)]),
        (whole(), vec![alone], vec![done(0)]),
        // Signs of life that nobody asked for, and what nodes do not say.
        (whole(), vec![], vec![Frame::Pong(12_345)]),
        (whole(), vec![], vec![Frame::Closed(LINE)]),
        (
            whole(),
            vec![],
            vec![Frame::Busy {
                line: Line(7),
                eta_ms: 1,
            }],
        ),
        (whole(), vec![], vec![tokens(0, 1, 1, 0)]),
        (whole(), vec![], vec![hello()]),
    ];
    for (spec, orders, said) in cases {
        let error = desk_hears(spec, orders, &said);
        assert!(
            matches!(error, Some(SessionError::Unexpected { .. })),
            "{error:?} for {said:?}"
        );
    }
    assert_eq!(
        desk_hears(whole(), vec![ask(0, 4, 4)], &[choices(1, 1, &[7], 0)]),
        None
    );
    assert_eq!(
        desk_hears(whole(), vec![ask(0, 4, 4)], &[choices(1, 3, &[7], 0)]),
        None
    );
}

#[test]
fn a_flood_of_pings_is_one_question() {
    let mut node = NodeEnd::new(LAW, NodeLimits::default(), Duration::ZERO);
    let flood: Vec<Frame> = std::iter::once(hello())
        .chain((0..100_000).map(Frame::Ping))
        .collect();
    node.receive(Duration::ZERO, &encoded(&flood)).unwrap();
    let mut said = Vec::new();
    node.transmit(&mut said);
    assert!(said.len() < 64, "{} bytes", said.len());
}

/// A sound conversation's bytes in both directions.
fn recorded() -> (Vec<u8>, Vec<u8>) {
    let mut world = World::opened(1, Duration::from_millis(5), whole());
    let (mut up, mut down) = (encoded(&[hello(), opening(whole())]), encoded(&[hello()]));
    down.extend(encoded(&[Frame::Opened {
        line: LINE,
        width: WIDTH as u32,
        orders: 64,
        bytes: 1 << 24,
    }]));
    world.order(ask(0, 40, 1));
    world.order(ask(40, 8, 8));
    world.order(ask(44, 8, 8));
    for _ in 0..400 {
        world.up.iter().for_each(|(_, bytes)| up.extend(bytes));
        world.down.iter().for_each(|(_, bytes)| down.extend(bytes));
        let next = world.now + Duration::from_millis(5);
        world.run(next - world.now);
    }
    (up, down)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_bytes_break_an_end(
        damage in vec((any::<u16>(), any::<u8>(), 0u8..4), 0..6),
        noise in vec(any::<u8>(), 0..300),
        cut in 1usize..700,
    ) {
        let (up, down) = recorded();
        let mut desk = DeskEnd::new(LAW, Duration::ZERO);
        desk.command(Duration::ZERO, open(whole())).unwrap();
        let mut node = NodeEnd::new(LAW, NodeLimits::default(), Duration::ZERO);
        let width = WIDTH as u32;
        let spoil = |mut bytes: Vec<u8>| {
            for (at, byte, how) in &damage {
                let at = *at as usize % bytes.len();
                match how {
                    0 => bytes[at] ^= byte | 1,
                    1 => bytes.truncate(at.max(1)),
                    2 => { let piece = bytes[at..].to_vec(); bytes.extend(piece); }
                    _ => bytes.insert(at, *byte),
                }
            }
            bytes.extend(&noise);
            bytes
        };
        let mut said = Vec::new();
        for piece in spoil(up).chunks(cut) {
            node.receive(Duration::ZERO, piece).unwrap();
            while let Some(event) = node.event() {
                if let NodeEvent::Open { line, .. } = event {
                    node.command(Duration::ZERO, NodeCommand::Grant { line, width }).unwrap();
                }
            }
            node.transmit(&mut said);
        }
        for (at, piece) in spoil(down).chunks(cut).enumerate() {
            desk.receive(Duration::ZERO, piece).unwrap();
            if at == 1 {
                for order in [ask(0, 40, 1), ask(40, 8, 8), ask(44, 8, 8)] {
                    desk.command(Duration::ZERO, DeskCommand::Order(LINE, cleared(order))).unwrap();
                }
            }
            while desk.event().is_some() {}
            desk.transmit(&mut said);
        }
        node.receive_end(Duration::ZERO).unwrap();
        desk.receive_end(Duration::ZERO).unwrap();
        prop_assert!(std::iter::from_fn(|| node.event()).count() <= 4);
        said.clear();
        node.transmit(&mut said);
        desk.transmit(&mut said);
        prop_assert!(node.finished() && desk.finished(), "an end is an end");
        prop_assert!(said.len() < 1_024);
    }
}
