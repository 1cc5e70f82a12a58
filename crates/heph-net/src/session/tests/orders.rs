//! What is asked is answered as a stage at hand would, whatever overtakes what.

use heph_types::{Branch, Forward, Hidden, Position, StageInput};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::session::orders::{Asked, Means, choices_reply, forward_frame};
use crate::wire::{ChoicesFrame, Epoch, Fill, GuessesFrame, TakeUntil};

/// One thing that a desk does; numbers are taken modulo what there is.
#[derive(Debug, Clone, Copy)]
struct Act {
    kind: u8,
    back: usize,
    count: usize,
    answers: usize,
    wait_ms: u64,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = (0u8..10, 0usize..8, 1usize..9, 0usize..9, 0u64..60);
    let act = act.prop_map(|(kind, back, count, answers, wait_ms)| Act {
        kind,
        back,
        count,
        answers,
        wait_ms,
    });
    vec(act, 1..25)
}

/// What was asked, what a stage at hand answers, and from where on it was asked again later.
struct Expected {
    replies: Vec<Reply>,
    streamed: bool,
    first: usize,
    void: bool,
    /// Whether anything came behind it.
    left: bool,
}

/// Gives a world random orders, and says what the replies should be.
fn act_out(world: &mut World, spec: &StageSpec, acts: &[Act]) -> Vec<Expected> {
    let mut at_hand = Toy::new(LINE, spec);
    let mut expected: Vec<Expected> = Vec::new();
    // Positions that are held whatever a stream has come to.
    let mut sure = 0;
    for act in acts {
        let room = spec.context as usize - sure;
        let first = sure - act.back.min(sure);
        let count = act.count.min(room);
        if count == 0 {
            break;
        }
        let order = match act.kind {
            0 => Order::Rollback(Position(first as u32)),
            1..=3 if spec.choose.is_some() && spec.layers.start() == 0 => Order::Generate {
                last: TokenId(act.back as u32 % 5),
                tokens_max: count as u32,
                ends: vec![TokenId(act.answers as u32)],
            },
            _ => forward(spec, first, count, act.answers.min(count)),
        };
        // A stream begins where a stage at hand has come to, which is only known once the one before it is over.
        let streams = matches!(order, Order::Generate { .. });
        if streams && expected.last().is_some_and(|last| last.streamed) {
            continue;
        }
        let begins = if streams { sure } else { first };
        for earlier in &mut expected {
            earlier.left = true;
            earlier.void |= begins <= earlier.first && !streams;
        }
        at_hand.carry_out(Order::Rollback(Position(begins as u32)));
        let mut replies = Vec::new();
        let mut rest = Some(order.clone());
        while let Some(order) = rest.take() {
            if matches!(order, Order::Generate { tokens_max: 0, .. }) {
                break;
            }
            if let Some((reply, more)) = at_hand.carry_out(order) {
                replies.push(reply);
                rest = more;
            }
        }
        sure = if streams { sure } else { at_hand.held() };
        if !matches!(order, Order::Rollback(_)) {
            expected.push(Expected {
                replies,
                streamed: streams,
                first: begins,
                void: false,
                left: false,
            });
        }
        world.order(order);
        world.run(Duration::from_millis(act.wait_ms));
    }
    world.run(Duration::from_secs(30));
    expected
}

fn forward(spec: &StageSpec, first: usize, count: usize, answers: usize) -> Order {
    let tokens: Vec<TokenId> = (0..count).map(|at| TokenId(((first + at) % 5) as u32)).collect();
    let rows = tokens
        .iter()
        .flat_map(|token| [f32::from_bits(token.0); WIDTH])
        .collect();
    let hidden = Hidden { width: WIDTH, rows };
    let input = if spec.layers.start() == 0 {
        StageInput::Tokens(tokens)
    } else {
        StageInput::Rows {
            hidden,
            tokens: Vec::new(),
        }
    };
    Order::Forward(Forward {
        first: Position(first as u32),
        input,
        answers: answers as u32,
        pass: None,
    })
}

/// Whether a reply is the expected one, or its beginning as far as the order guessed right.
fn fits(reply: &Reply, expected: &Expected) -> bool {
    let full = &expected.replies[0];
    let shorter = match (reply, full) {
        (
            Reply::Choices { first, tokens },
            Reply::Choices {
                first: all,
                tokens: full,
            },
        ) => first == all && !tokens.is_empty() && full.starts_with(tokens),
        _ => false,
    };
    let void = match reply {
        Reply::Choices { tokens, .. } => tokens.is_empty(),
        Reply::Rows { hidden, .. } => hidden.rows.is_empty(),
    };
    reply == full || shorter || expected.void && void
}

fn check(seed: u64, spec: StageSpec, acts: &[Act], delay: Duration) -> Result<(), TestCaseError> {
    let mut world = World::opened(seed, delay, spec.clone());
    let expected = act_out(&mut world, &spec, acts);
    prop_assert_eq!(world.over(), (None, None));
    let replies = world.replies();
    prop_assert!(
        all_fit(&replies, &expected),
        "{replies:?} for {:?}",
        expected.iter().map(|e| &e.replies).collect::<Vec<_>>()
    );
    Ok(())
}

/// Whether the replies are the expected ones, in their order. A stream that was left may have told any of its tokens.
fn all_fit(replies: &[&Reply], expected: &[Expected]) -> bool {
    let Some((first, rest)) = expected.split_first() else {
        return replies.is_empty();
    };
    if !first.streamed {
        return replies.first().is_some_and(|reply| fits(reply, first)) && all_fit(&replies[1..], rest);
    }
    let full = first.replies.len();
    let told = first
        .replies
        .iter()
        .zip(replies)
        .take_while(|(a, b)| a == *b)
        .count();
    let least = if first.left { 0 } else { full };
    (least..=told).any(|told| all_fit(&replies[told..], rest))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_stage_far_away_answers_as_one_at_hand(seed in any::<u64>(), acts in acts(), delay in 0u64..200, kind in 0..3) {
        let spec = match kind {
            0 => whole(),
            1 => spec(None),
            _ => StageSpec { layers: LayerRange::new(1, 2, 2).unwrap(), ..whole() },
        };
        check(seed, spec, &acts, Duration::from_millis(delay))?;
    }
}

#[test]
fn work_that_is_void_in_part_is_done_for_the_part_that_counts() {
    let mut world = World::opened(1, Duration::from_millis(50), whole());
    let mut at_hand = Toy::new(LINE, &whole());
    let mut last = None;
    // The last one begins in the middle of one that still waits.
    for first in [0, 4, 8, 12, 10] {
        let order = forward(&whole(), first, 4, 1);
        last = at_hand.carry_out(order.clone());
        world.order(order);
    }
    world.run(Duration::from_secs(2));
    assert_eq!(world.over(), (None, None));
    let replies = world.replies();
    assert_eq!(replies.len(), 5);
    assert_eq!(last.map(|(reply, _)| reply).as_ref(), Some(replies[4]));
}

#[test]
fn what_was_overtaken_before_it_began_is_not_computed() {
    let mut world = World::opened(1, Duration::from_millis(50), whole());
    for first in [0, 4, 8, 12, 16] {
        world.order(forward(&whole(), first, 4, 1));
    }
    world.order(forward(&whole(), 4, 4, 1));
    world.run(Duration::from_secs(2));
    assert_eq!(world.replies().len(), 6);
    assert!(
        world.stages[0].done < 6,
        "{} orders computed",
        world.stages[0].done
    );
    assert_eq!(world.over(), (None, None));
}

#[test]
fn a_verification_costs_what_is_promised() {
    let drafted = 16;
    for right in 0..=drafted {
        let mut world = World::opened(1, Duration::from_millis(50), whole());
        let mut at_hand = Toy::new(LINE, &whole());
        at_hand.carry_out(forward(&whole(), 0, 4, 1));
        world.order(forward(&whole(), 0, 4, 1));
        world.run(Duration::from_secs(2));
        let last = at_hand.choice(4);
        let mut guess = vec![last];
        for at in 0..drafted {
            let mut trial = Toy::new(LINE, &whole());
            trial.carry_out(forward(&whole(), 0, 4, 1));
            trial.carry_out(Order::Forward(Forward {
                first: Position(4),
                input: StageInput::Tokens(guess.clone()),
                answers: 1,
                pass: None,
            }));
            let next = trial.choice(5 + at);
            // Ids as large as vocabularies are, where the guess is wrong.
            guess.push(if at < right {
                next
            } else {
                TokenId(151_000 + at as u32)
            });
        }
        let before = world.bytes;
        world.order(Order::Forward(Forward {
            first: Position(4),
            input: StageInput::Tokens(guess),
            answers: drafted as u32 + 1,
            pass: None,
        }));
        world.run(Duration::from_millis(400));
        let (up, down) = (world.bytes.0 - before.0, world.bytes.1 - before.1);
        // A ping and its answer may fall into a round.
        assert!(up <= 4 * (drafted + 1) + 16 && down <= 32, "{up} up, {down} down");
        let Some(Reply::Choices { tokens, .. }) = world.replies().last().copied() else {
            panic!("choices");
        };
        assert_eq!(tokens.len(), right + 1);
    }
}

#[test]
fn guesses_that_branch_are_followed_where_the_branch_is_right_at_what_is_promised() {
    let drafted = 6;
    for leaves in 0..drafted {
        let mut world = World::opened(1, Duration::from_millis(50), whole());
        let mut at_hand = Toy::new(LINE, &whole());
        at_hand.carry_out(forward(&whole(), 0, 4, 1));
        world.order(forward(&whole(), 0, 4, 1));
        world.run(Duration::from_secs(2));
        // What the model itself says, and guesses that leave it and come back to it by a branch.
        let mut right = vec![at_hand.choice(4)];
        for at in 0..=drafted {
            let mut trial = Toy::new(LINE, &whole());
            trial.carry_out(forward(&whole(), 0, 4, 1));
            trial.carry_out(Order::Forward(Forward {
                first: Position(4),
                input: StageInput::Tokens(right.clone()),
                answers: 1,
                pass: None,
            }));
            right.push(trial.choice(5 + at));
        }
        let mut tokens = right[..=drafted].to_vec();
        tokens[leaves + 1] = TokenId(151_000);
        let branches = vec![Branch {
            at: leaves as u32 + 1,
            tokens: right[leaves + 1..=drafted].to_vec(),
        }];
        let before = world.bytes;
        let answers = tokens.len() as u32;
        world.order(Order::Forward(Forward {
            first: Position(4),
            input: StageInput::Guesses { tokens, branches },
            answers,
            pass: None,
        }));
        world.run(Duration::from_millis(400));
        let (up, down) = (world.bytes.0 - before.0, world.bytes.1 - before.1);
        let sent = drafted + drafted - leaves;
        assert!(up <= 4 * (sent + 1) + 16 && down <= 32, "{up} up, {down} down");
        let Some(Reply::Choices { tokens, .. }) = world.replies().last().copied() else {
            panic!("choices");
        };
        assert_eq!(tokens, &right[1..], "left at {leaves}");
        // The stage holds the branch: the next order goes on behind it.
        world.order(Order::Forward(Forward {
            first: Position(4 + drafted as u32 + 1),
            input: StageInput::Tokens(right[drafted + 1..].to_vec()),
            answers: 1,
            pass: None,
        }));
        world.run(Duration::from_millis(400));
        assert_eq!(world.over(), (None, None));
        assert_eq!(world.stages[0].held(), 4 + drafted + 2);
    }
}

#[test]
fn branches_that_break_a_rule_end_the_stream() {
    let branch = |at, tokens: &[u32]| Branch {
        at,
        tokens: tokens.iter().copied().map(TokenId).collect(),
    };
    let goes_on = |branches: Vec<Branch>| {
        let mut world = World::opened(1, Duration::from_millis(5), whole());
        world.order(forward(&whole(), 0, 4, 1));
        world.order(Order::Forward(Forward {
            first: Position(4),
            input: StageInput::Guesses {
                tokens: ids(1..5),
                branches,
            },
            answers: 4,
            pass: None,
        }));
        world.run(Duration::from_millis(200));
        world.over() == (None, None)
    };
    assert!(goes_on(vec![branch(2, &[9, 9]), branch(3, &[9])]));
    for wrong in [
        vec![branch(0, &[9])],
        vec![branch(4, &[9])],
        vec![branch(2, &[])],
        vec![branch(2, &[9, 9, 9])],
        vec![branch(2, &[3])],
        vec![branch(2, &[9]), branch(2, &[9, 1])],
    ] {
        assert!(!goes_on(wrong.clone()), "{wrong:?}");
    }
}

#[test]
fn a_branch_is_told_to_its_end_or_to_where_it_is_left_and_no_further() {
    let frame = GuessesFrame {
        line: LINE,
        epoch: Epoch(0),
        first: Position(4),
        branches: vec![Branch {
            at: 2,
            tokens: ids(7..9),
        }],
        tokens: ids(1..5),
    };
    let asked = Asked::of_guesses(&frame);
    let reply = |agreed: u32, tokens: &[u32]| {
        let tokens = tokens.iter().copied().map(TokenId).collect();
        let (line, epoch, first) = (LINE, Epoch(0), Position(5));
        let frame = ChoicesFrame {
            line,
            epoch,
            first,
            agreed,
            tokens,
        };
        match choices_reply(frame, &asked) {
            Ok(Reply::Choices { tokens, .. }) => Some(tokens),
            _ => None,
        }
    };
    assert_eq!(reply(1, &[7, 8, 50]), Some([2, 7, 8, 50].map(TokenId).to_vec()));
    assert_eq!(reply(1, &[7, 50]), Some([2, 7, 50].map(TokenId).to_vec()));
    assert_eq!(reply(1, &[50]), Some([2, 50].map(TokenId).to_vec()));
    assert_eq!(reply(3, &[50]), Some([2, 3, 4, 50].map(TokenId).to_vec()));
    for (agreed, tokens) in [
        (1, &[7][..]),
        (1, &[7, 8]),
        (1, &[7, 8, 50, 51]),
        (1, &[7, 50, 51]),
        (0, &[2, 50]),
        (2, &[7, 50]),
        (4, &[50]),
        (3, &[]),
    ] {
        assert_eq!(reply(agreed, tokens), None, "{agreed} agreed and {tokens:?}");
    }
}

#[test]
fn an_end_that_knows_no_branches_is_sent_none() {
    let branches = vec![Branch {
        at: 2,
        tokens: vec![TokenId(9)],
    }];
    let guesses = Forward {
        first: Position(4),
        input: StageInput::Guesses {
            tokens: ids(1..5),
            branches,
        },
        answers: 4,
        pass: None,
    };
    let means = |guesses| Means {
        chooses: true,
        codecs: Codecs {
            up: WireCodec::F32,
            down: WireCodec::F32,
        },
        width: WIDTH,
        guesses,
    };
    let frame = |knows| forward_frame(LINE, Epoch(0), &guesses, means(knows)).unwrap();
    let Frame::Forward(plain) = frame(false) else {
        panic!("a message of version 1");
    };
    assert_eq!(plain.fill, Fill::Tokens(ids(1..5)));
    assert_eq!(plain.until, TakeUntil::Disagreement);
    assert!(matches!(frame(true), Frame::Guesses(guesses) if guesses.branches.len() == 1));
}

#[test]
fn a_stream_needs_no_round_trip_for_each_token_and_ends_where_it_is_left() {
    let mut world = World::opened(1, Duration::from_millis(150), whole());
    world.order(forward(&whole(), 0, 4, 0));
    let generate = |tokens_max| Order::Generate {
        last: TokenId(1),
        tokens_max,
        ends: Vec::new(),
    };
    world.order(generate(100));
    world.run(Duration::from_millis(700));
    // One order without answers, then the stream: a hundred tokens in less than five round trips.
    assert_eq!(world.replies().len(), 101);
    world.order(forward(&whole(), 4, 1, 1));
    world.run(Duration::from_secs(1));
    assert_eq!(world.replies().len(), 102);
    world.order(generate(100));
    world.run(Duration::from_millis(200));
    world.order(Order::Rollback(Position(5)));
    let done = world.stages[0].done;
    world.run(Duration::from_millis(160));
    let more = world.stages[0].done - done;
    world.run(Duration::from_secs(2));
    assert_eq!(
        world.stages[0].done,
        done + more,
        "the node stopped with the rollback"
    );
    assert!(more < 60, "{more} tokens after it was left");
    assert_eq!(world.stages[0].held(), 5);
    assert_eq!(world.over(), (None, None));
}

#[test]
fn other_options_hold_from_the_next_order_on() {
    let mut world = World::opened(1, Duration::from_millis(5), whole());
    world.order(forward(&whole(), 0, 4, 1));
    let options = SamplingOptions {
        seed: 77,
        temperature: 0.5,
        ..SamplingOptions::greedy()
    };
    world.ask(DeskCommand::Choose(LINE, options.clone()));
    world.order(forward(&whole(), 4, 4, 1));
    world.run(Duration::from_secs(1));
    assert!(world.noted.contains(&NodeEvent::Choose(LINE, options)));
    assert_eq!(world.replies().len(), 2);
}

#[test]
fn several_sessions_share_a_stream() {
    let mut world = World::new(1, Duration::from_millis(5));
    (0..3).for_each(|_| world.ask(open(whole())));
    for line in [2, 0, 1] {
        world.ask(DeskCommand::Order(
            Line(line),
            cleared(forward(&whole(), 0, 4, 1)),
        ));
    }
    world.ask(DeskCommand::Close(Line(1)));
    world.run(Duration::from_secs(1));
    let answered = |line| {
        let mine = |event: &&DeskEvent| matches!(event, DeskEvent::Reply(l, _) if *l == Line(line));
        world.told.iter().filter(mine).count()
    };
    assert_eq!([0, 1, 2].map(answered), [1, 0, 1]);
    assert!(world.told.contains(&DeskEvent::Closed(Line(1))));
    assert_eq!(world.noted.last(), Some(&NodeEvent::Close(Line(1))));
}
