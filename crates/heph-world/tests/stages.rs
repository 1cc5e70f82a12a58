//! What a node refuses: every order that a stage cannot carry out is an error with a reason, and costs nothing.

use heph_engine::model::{LoadOptions, Model};
use heph_engine::sample::SamplingOptions;
use heph_engine::source::Source;
use heph_kernels::isa::Isa;
use heph_kernels::kv::KvFormat;
use heph_kernels::pool::Pool;
use heph_runtime::bundled;
use heph_runtime::node::{Lent, Node, NodeCaps, Stage, StageError};
use heph_runtime::seat::ORDERS_MAX;
use heph_types::{
    Forward, Hidden, LayerRange, ModelHash, NodeId, Order, Position, Reply, StageInput, StageSpec, TokenId,
};
use std::sync::Arc;

const HASH: ModelHash = ModelHash([3; 32]);

fn node() -> Node {
    let source =
        Source::from_gguf(vec![Arc::new(bundled::STORY_DRAFT.bytes.to_vec())]).expect("a sound file");
    let options = LoadOptions {
        context: Some(64),
        sessions: 2,
        ..LoadOptions::default()
    };
    let model = Model::load(Arc::new(source), &options, &Pool::serial(), &mut |_| {}).expect("it loads");
    let lent = Lent::new(Arc::new(model), Arc::new(Pool::serial()), Isa::best());
    Node::new(NodeId([1; 32]), NodeCaps { sessions: 2 }).with(HASH, lent)
}

fn layers(start: usize, end: usize) -> LayerRange {
    LayerRange::new(start, end, 9).expect("a range")
}

/// The whole model of two layers, greedy.
fn spec() -> StageSpec {
    StageSpec {
        model: HASH,
        layers: layers(0, 2),
        context: 64,
        kv_format: KvFormat::F16,
        choose: Some(SamplingOptions::greedy()),
    }
}

fn tokens(first: u32, count: u32, answers: u32) -> Order {
    Order::Forward(Forward {
        first: Position(first),
        input: StageInput::Tokens((0..count).map(|n| TokenId(20 + first + n)).collect()),
        answers,
        pass: None,
    })
}

fn rows(count: usize, width: usize, ids: usize) -> Order {
    let rows = vec![0.25; count * width];
    Order::Forward(Forward {
        first: Position(0),
        input: StageInput::Rows {
            hidden: Hidden { width, rows },
            tokens: vec![TokenId(1); ids],
        },
        answers: 1,
        pass: None,
    })
}

fn ask(stage: &mut Stage, order: Order) -> Result<Option<Reply>, StageError> {
    stage.take(order)?;
    stage.work()
}

#[test]
fn a_stage_that_cannot_be_is_refused_with_its_reason() {
    let node = node();
    let choose = spec().choose;
    let wrong_options = SamplingOptions {
        temperature: -1.0,
        ..SamplingOptions::greedy()
    };
    let cases = [
        (
            StageSpec {
                model: ModelHash([4; 32]),
                ..spec()
            },
            "the model is not held here",
        ),
        (
            StageSpec {
                layers: layers(1, 3),
                ..spec()
            },
            "layers 1..3 are asked of a model of 2",
        ),
        (
            StageSpec {
                layers: layers(0, 1),
                choose,
                ..spec()
            },
            "only the stage that ends with layer 2 can choose tokens",
        ),
        (
            StageSpec {
                context: 65,
                ..spec()
            },
            "65 positions are asked for and 64 may be held",
        ),
        (
            StageSpec {
                kv_format: KvFormat::F32,
                ..spec()
            },
            "a cache in f32 is asked for, and caches are in f16 here",
        ),
        (
            StageSpec {
                choose: Some(wrong_options),
                ..spec()
            },
            "temperature cannot be -1",
        ),
    ];
    for (spec, why) in cases {
        let refused = node.stage(&spec).err().map(|error| error.to_string());
        assert_eq!(refused.as_deref(), Some(why));
    }
    assert_eq!(node.sessions(), 0, "a refusal gives its place back");
}

#[test]
fn a_node_lends_as_many_sessions_as_it_may() {
    let node = node();
    let held = [node.stage(&spec()).ok(), node.stage(&spec()).ok()];
    assert!(held.iter().all(Option::is_some));
    assert!(matches!(
        node.stage(&spec()),
        Err(StageError::Sessions { cap: 2 })
    ));
    drop(held);
    assert!(node.stage(&spec()).is_ok());
}

#[test]
fn an_order_that_cannot_be_carried_out_costs_nothing() {
    let node = node();
    let width = 128;
    let untouched = {
        let mut stage = node.stage(&spec()).unwrap();
        ask(&mut stage, tokens(0, 5, 1)).unwrap();
        ask(&mut stage, tokens(5, 3, 3)).unwrap()
    };
    let mut stage = node.stage(&spec()).unwrap();
    ask(&mut stage, tokens(0, 5, 1)).unwrap();
    let unknown = Order::Forward(Forward {
        first: Position(5),
        input: StageInput::Tokens(vec![TokenId(30), TokenId(u32::MAX)]),
        answers: 1,
        pass: None,
    });
    let wrong = [
        tokens(6, 1, 1),
        tokens(5, 60, 1),
        tokens(5, 0, 0),
        tokens(5, 1, 2),
        rows(2, width, 1),
        rows(2, width + 1, 0),
        rows(2, 0, 0),
        unknown,
    ];
    for order in wrong {
        let what = format!("{order:?}");
        assert!(
            ask(&mut stage, order).is_err(),
            "{}",
            &what[..what.len().min(120)]
        );
        assert!(stage.is_idle());
    }
    // A refused piece that goes back in the sequence has taken back what stood there.
    ask(&mut stage, tokens(0, 5, 1)).unwrap();
    assert_eq!(ask(&mut stage, tokens(5, 3, 3)).unwrap(), untouched);
}

#[test]
fn only_so_many_orders_wait() {
    let node = node();
    let mut stage = node.stage(&spec()).unwrap();
    (0..ORDERS_MAX).for_each(|_| stage.take(tokens(0, 1, 0)).unwrap());
    assert!(matches!(stage.take(tokens(0, 1, 0)), Err(StageError::Full)));
}

#[test]
fn an_answer_that_goes_on_alone_ends_where_it_should() {
    let node = node();
    let choices = |reply: Option<Reply>| match reply {
        Some(Reply::Choices { first, tokens }) => (first.0, tokens[0]),
        other => panic!("{other:?}"),
    };
    let go_on = |tokens_max, ends| Order::Generate {
        last: TokenId(25),
        tokens_max,
        ends,
    };
    let mut stage = node.stage(&spec()).unwrap();
    ask(&mut stage, tokens(0, 5, 0)).unwrap();
    let told: Vec<_> = {
        stage.take(go_on(4, Vec::new())).unwrap();
        (0..4).map(|_| choices(stage.work().unwrap())).collect()
    };
    assert_eq!(told.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [6, 7, 8, 9]);
    assert_eq!(stage.work().unwrap(), None);
    // It ends with a token that ends it, and for whatever else is wanted.
    stage.take(Order::Rollback(Position(5))).unwrap();
    stage.take(go_on(40, vec![told[0].1])).unwrap();
    assert_eq!(choices(stage.work().unwrap()), told[0]);
    assert_eq!(stage.work().unwrap(), None);
    stage.take(Order::Rollback(Position(5))).unwrap();
    stage.take(go_on(40, Vec::new())).unwrap();
    assert_eq!(choices(stage.work().unwrap()), told[0]);
    stage.take(tokens(0, 5, 1)).unwrap();
    assert_eq!(choices(stage.work().unwrap()).0, 5);
    assert_eq!(stage.work().unwrap(), None);
}
