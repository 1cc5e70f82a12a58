//! How fast a way is, as a desk sees it, and rows that travel in another format from one order to the next.

use heph_types::{Forward, Hidden, Position, StageInput};

use super::*;

/// Rows of one order: 16 KB in single precision.
const ROWS: usize = 1024;

fn rows(first: usize) -> Order {
    some_rows(first, ROWS)
}

fn some_rows(first: usize, count: usize) -> Order {
    let numbers = (0..count * WIDTH).map(|n| (n % 7) as f32 * 0.25 + 1.0);
    Order::Forward(Forward {
        first: Position(first as u32),
        input: StageInput::Rows {
            hidden: Hidden {
                width: WIDTH,
                rows: numbers.collect(),
            },
            tokens: Vec::new(),
        },
        answers: count as u32,
        pass: None,
    })
}

fn world() -> World {
    let mut world = World::new(5, Duration::from_millis(20));
    let long = StageSpec {
        context: 10_000,
        ..spec(None)
    };
    world.ask(open(long));
    world.run(Duration::from_secs(1));
    world.ask(DeskCommand::Carry(LINE, both(WireCodec::F32)));
    world.told.clear();
    world
}

fn both(codec: WireCodec) -> Codecs {
    Codecs {
        up: codec,
        down: codec,
    }
}

/// Bytes a second that the desk saw in a direction, last.
fn seen(world: &World, wanted: Heading) -> Option<f64> {
    world.told.iter().rev().find_map(|event| match event {
        DeskEvent::Crossed { heading, bytes, busy } if *heading == wanted => {
            Some(*bytes as f64 / busy.as_secs_f64())
        }
        _ => None,
    })
}

#[test]
fn a_desk_sees_how_fast_a_way_is_in_each_direction() {
    let mut world = world();
    for (at, rate) in [1e6, 1e5, 4e5].into_iter().enumerate() {
        world.rate = Some(rate);
        world.order(rows(at * ROWS));
        world.run(Duration::from_secs(3));
        for heading in [Heading::Up, Heading::Down] {
            let seen = seen(&world, heading).expect("it was measured");
            assert!(
                seen / rate > 0.8 && seen / rate < 1.2,
                "{heading:?}: {seen} of {rate}"
            );
        }
    }
    assert_eq!(world.over(), (None, None));
}

#[test]
fn a_way_is_followed_by_the_single_rows_of_a_narrow_model_too() {
    let (mut world, mut at) = (world(), 0);
    world.packet = Some(1200);
    // 2 KB in single precision, as of 512 numbers, and half a kilobyte of them rounded.
    for (count, codec) in [(128, WireCodec::F32), (128, WireCodec::Int8)] {
        for rate in [1e6, 1e5, 4e5] {
            world.ask(DeskCommand::Carry(LINE, both(codec)));
            world.rate = Some(rate);
            world.told.clear();
            world.order(some_rows(at, count));
            at += count;
            world.run(Duration::from_secs(1));
            let up = seen(&world, Heading::Up).expect("it was measured");
            assert!(up / rate > 0.7 && up / rate < 1.3, "{up} of {rate} by {codec}");
            // One that comes in a single packet tells nothing of how long it took.
            let down = seen(&world, Heading::Down);
            assert!(
                down.is_none_or(|down| down / rate > 0.5 && down / rate < 2.0),
                "{down:?} of {rate} by {codec}"
            );
            assert_eq!(down.is_some(), codec == WireCodec::F32, "{codec}");
        }
    }
}

#[test]
fn a_message_that_comes_at_once_tells_of_what_followed_its_first_packet() {
    let (mut world, mut at) = (world(), 0);
    world.packet = Some(1 << 20);
    let mut told = |count| {
        world.told.clear();
        world.order(some_rows(at, count));
        at += count;
        world.run(Duration::from_secs(1));
        seen(&world, Heading::Down)
    };
    // 1 KB fits a packet, 4 KB need three.
    assert_eq!(told(64), None);
    let least = told(256).expect("they were measured");
    assert!(least > 2e7 && least < 3e7, "{least}");
}

#[test]
fn small_messages_and_long_work_say_nothing_about_a_way() {
    let mut world = world();
    world.stages[0].broods = true;
    world.order(rows(0));
    world.run(Duration::from_secs(20));
    let up = seen(&world, Heading::Up).expect("it was measured");
    assert!(up > 1e7, "the stage's own time is left out: {up}");
    assert_eq!(seen(&world, Heading::Down), None);
}

#[test]
fn rows_travel_in_another_format_from_the_next_order_on() {
    let mut world = world();
    let mut sent = Vec::new();
    for (at, codec) in [WireCodec::F32, WireCodec::Packed, WireCodec::Int8]
        .into_iter()
        .enumerate()
    {
        world.ask(DeskCommand::Carry(LINE, both(codec)));
        let before = world.bytes;
        world.order(rows(at * ROWS));
        world.run(Duration::from_secs(3));
        sent.push((world.bytes.0 - before.0, world.bytes.1 - before.1));
    }
    assert!(sent[0].0 > sent[1].0 && sent[1].0 > sent[2].0, "{sent:?}");
    assert!(sent[0].1 > sent[1].1 && sent[1].1 > sent[2].1, "{sent:?}");
    assert_eq!((world.replies().len(), world.over()), (3, (None, None)));
}
