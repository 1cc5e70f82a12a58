//! Memory that becomes short in the middle of an answer: something is given up and told, and nothing is killed.

use super::emulated::{HASH, Loaded, load};
use heph_engine::model::{LoadOptions, Model};
use heph_engine::quantize::FileType;
use heph_engine::source::Source;
use heph_engine::worker::Worker;
use heph_kernels::isa::Isa;
use heph_kernels::pool::Pool;
use heph_runtime::bundled;
use heph_runtime::cancel::Cancel;
use heph_runtime::desk::{Answer, Desk, DeskError, Finish, Pace, Precision, Prompt, Relief};
use heph_runtime::line::{Layout, Line, LineLimits, Placement, Standing, Steering};
use heph_runtime::node::{Lent, Node, NodeCaps};
use heph_runtime::pool::{Here, Loader};
use heph_runtime::pressure::Pressure;
use heph_runtime::profile;
use heph_runtime::seat::Host;
use heph_types::{KvFormat, LayerRange, NodeId};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

const TOKENS: usize = 200;
const PROMPT: &str = "Once upon a time there was a little fox. One day";

/// What stays free for the program itself (`desk/relief.rs`).
const RESERVE: u64 = 24 << 20;

fn story() -> &'static Loaded {
    static STORY: OnceLock<Loaded> = OnceLock::new();
    STORY.get_or_init(|| load(bundled::STORY))
}

/// An answer for which `first` bytes are left, and `later` from its 60th token on.
fn answer(first: u64, later: u64, precision: Precision) -> (Result<Answer, DeskError>, KvFormat) {
    let left = Arc::new(AtomicU64::new(first));
    let seen = Arc::clone(&left);
    let pressure = Pressure::of(move || Some(seen.load(Ordering::Relaxed))).expect("it says something");
    let model = &story().model;
    let worker = Worker::new(Arc::clone(model), Arc::new(Pool::serial()), Isa::best());
    let desk = Desk::new(worker, Arc::clone(&story().words), Cancel::new());
    let mut desk = desk.with_relief(Relief::new(model, pressure.clone(), precision));
    let mut told = 0;
    let answer = desk.answer(Prompt::Text(PROMPT), &story().options(TOKENS, 0.8), &mut |_| {
        told += 1;
        if told == 60 {
            left.store(later, Ordering::Relaxed);
            while pressure.room() != later {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    });
    (answer, desk.line().model().kv_format)
}

#[test]
fn a_context_becomes_shorter_before_memory_ends() {
    let (calm, _) = answer(u64::MAX, u64::MAX, Precision::Kept);
    let calm = calm.expect("an answer");
    assert!(calm.degraded.is_empty() && calm.finish == Finish::Length);
    let position = position_bytes();
    let (short, format) = answer(u64::MAX, RESERVE + 40 * position, Precision::Kept);
    let short = short.expect("an answer");
    assert_eq!((short.finish, format), (Finish::Context, KvFormat::F16));
    assert!(
        short.degraded[0].starts_with("Memory became short: it can hold "),
        "{:?}",
        short.degraded
    );
    let told = short.tokens.len();
    assert!(
        (60..TOKENS).contains(&told) && short.tokens == calm.tokens[..told],
        "{told} tokens"
    );
}

#[test]
fn precision_falls_only_where_it_may() {
    let position = position_bytes();
    let (answered, format) = answer(u64::MAX, RESERVE + 220 * position, Precision::MayFall);
    let answered = answered.expect("an answer");
    assert_eq!((answered.finish, format), (Finish::Length, KvFormat::Q8_0));
    assert_eq!(
        answered.degraded,
        ["Memory became short: the cache is kept as q8_0."]
    );
}

#[test]
fn caches_that_took_fewer_bits_are_told_of_each_answer_that_they_are_used_for() {
    let model = &story().model;
    let (left, pressure) = said(u64::MAX);
    let worker = Worker::new(Arc::clone(model), Arc::new(Pool::serial()), Isa::best());
    let desk = Desk::new(worker, Arc::clone(&story().words), Cancel::new());
    let mut desk = desk.with_relief(Relief::new(model, pressure.clone(), Precision::MayFall));
    // There is room again for the second answer, and the bits are gone all the same.
    for later in [RESERVE + 220 * position_bytes(), u64::MAX] {
        let answer = answer_while(&mut desk, &left, &pressure, later).expect("an answer");
        assert_eq!(desk.line().model().kv_format, KvFormat::Q8_0);
        assert_eq!(
            answer.degraded,
            ["Memory became short: the cache is kept as q8_0."]
        );
        left.store(u64::MAX, Ordering::Relaxed);
        while pressure.room() != u64::MAX {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

#[test]
fn a_conversation_goes_on_at_its_full_length_once_there_is_room_again() {
    let model = &story().model;
    let (left, pressure) = said(u64::MAX);
    let worker = Worker::new(Arc::clone(model), Arc::new(Pool::serial()), Isa::best());
    let desk = Desk::new(worker, Arc::clone(&story().words), Cancel::new());
    let mut desk = desk.with_relief(Relief::new(model, pressure.clone(), Precision::MayFall));
    // The caches are made anew while the context is short.
    let short =
        answer_while(&mut desk, &left, &pressure, RESERVE + 20 * position_bytes()).expect("an answer");
    assert_eq!(short.finish, Finish::Context, "{:?}", short.degraded);
    assert_eq!(desk.line().model().kv_format, KvFormat::Q8_0);
    left.store(u64::MAX, Ordering::Relaxed);
    while pressure.room() != u64::MAX {
        std::thread::sleep(Duration::from_millis(5));
    }
    let more = [short.prompt, short.tokens].concat();
    let answer = desk.answer(Prompt::Tokens(&more), &story().options(TOKENS, 0.8), &mut |_| {});
    let answer = answer.expect("a longer answer");
    assert!(
        answer.tokens.len() > 100,
        "{} tokens, {:?}",
        answer.tokens.len(),
        answer.finish
    );
}

#[test]
fn where_nothing_is_left_to_give_up_an_answer_ends_or_is_refused_with_its_reason() {
    let (ended, _) = answer(u64::MAX, 0, Precision::Kept);
    let ended = ended.expect("what there is of the answer");
    assert!(ended.finish == Finish::Context && ended.tokens.len() >= 60);
    assert!(!ended.degraded.is_empty());
    let (refused, _) = answer(0, 0, Precision::Kept);
    let error = refused.expect_err("there is no room");
    assert!(matches!(error, DeskError::Memory(_)), "{error}");
    assert!(error.hint().is_some());
}

/// Memory that a test says is left.
fn said(first: u64) -> (Arc<AtomicU64>, Pressure) {
    let left = Arc::new(AtomicU64::new(first));
    let seen = Arc::clone(&left);
    let pressure = Pressure::of(move || Some(seen.load(Ordering::Relaxed))).expect("it says something");
    (left, pressure)
}

/// Answers, with `later` bytes left from the 60th token on.
fn answer_while(
    desk: &mut Desk,
    left: &AtomicU64,
    pressure: &Pressure,
    later: u64,
) -> Result<Answer, DeskError> {
    let mut told = 0;
    desk.answer(Prompt::Text(PROMPT), &story().options(TOKENS, 0.8), &mut |_| {
        told += 1;
        if told == 60 {
            left.store(later, Ordering::Relaxed);
            while pressure.room() != later {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    })
}

/// Brings the model with its weights in fewer bits, after which there is memory again; counts how often.
struct Requantised {
    loads: Arc<AtomicU64>,
    left: Arc<AtomicU64>,
}

impl Loader for Requantised {
    fn load(&self, layers: Option<LayerRange>) -> Result<Lent, String> {
        self.loads.fetch_add(1, Ordering::Relaxed);
        self.left.store(u64::MAX, Ordering::Relaxed);
        let source =
            Source::from_gguf(vec![Arc::new(bundled::STORY.bytes.to_vec())]).map_err(|e| e.to_string())?;
        let options = LoadOptions {
            context: Some(512),
            layers,
            ..LoadOptions::default()
        };
        let source = Arc::new(source.quantized(FileType::Q4KM));
        let model = Model::load(source, &options, &Pool::serial(), &mut |_| {}).map_err(|e| e.to_string())?;
        Ok(Lent::new(Arc::new(model), Arc::new(Pool::serial()), Isa::best()))
    }
}

#[test]
fn weights_of_fewer_bits_go_on_with_an_answer_only_where_bits_may_fall() {
    let model = &story().model;
    let counted = profile::of_model(HASH, "", model.graph(), model.context());
    let weights: u64 = counted.layers.iter().map(|l| l.weight_bytes).sum::<u64>() + counted.head.weight_bytes;
    for (precision, loads) in [(Precision::MayFall, 1), (Precision::Kept, 0)] {
        let loaded = Arc::new(AtomicU64::new(0));
        let (left, pressure) = said(u64::MAX);
        let worker = Worker::new(Arc::clone(model), Arc::new(Pool::serial()), Isa::best());
        let desk = Desk::new(worker, Arc::clone(&story().words), Cancel::new());
        let loader = Box::new(Requantised {
            loads: Arc::clone(&loaded),
            left: Arc::clone(&left),
        });
        let relief = Relief::new(model, pressure.clone(), precision);
        let relief = relief.or_smaller("q4_k_m", weights / 2, 0, &Cancel::new(), loader);
        let mut desk = desk.with_relief(relief);
        let answer = answer_while(&mut desk, &left, &pressure, RESERVE).expect("an answer");
        assert_eq!(loaded.load(Ordering::Relaxed), loads, "{:?}", answer.degraded);
        let told = answer.degraded.join(" ");
        match precision {
            Precision::MayFall => {
                assert_eq!(answer.finish, Finish::Length);
                assert!(
                    told.contains("the weights are q4_k_m") && told.contains("kept as q8_0"),
                    "{told}"
                );
            }
            Precision::Kept => assert_eq!(answer.finish, Finish::Context, "{told}"),
        }
    }
}

const DESK: NodeId = NodeId([1; 32]);
const PEER: NodeId = NodeId([2; 32]);

/// Hands the last layers of a node that has too little memory to the peer.
struct Hands(usize);

impl Steering for Hands {
    fn lost(&mut self, _node: NodeId, _now: &Standing) -> Option<Layout> {
        None
    }

    fn look(&mut self, _now: &Standing) -> Option<Layout> {
        None
    }

    fn relieve(&mut self, node: NodeId, _room: u64, now: &Standing) -> Option<Layout> {
        let model = story().line_model();
        let cut = model.layers.checked_sub(self.0)?;
        let own = now.stages.iter().all(|stage| stage.node == node);
        own.then(|| Layout {
            stages: vec![
                Placement {
                    node,
                    layers: model.range(0, cut),
                },
                Placement {
                    node: PEER,
                    layers: model.range(cut, model.layers),
                },
            ],
            why: "memory became short here".to_owned(),
            transfers: Vec::new(),
            hosts: Vec::new(),
        })
    }
}

/// Loads what is asked for of the model, and notes it; once all of it was let go, there is memory again.
struct Noting {
    loads: Arc<Mutex<Vec<Option<LayerRange>>>>,
    left: Arc<AtomicU64>,
}

impl Loader for Noting {
    fn load(&self, layers: Option<LayerRange>) -> Result<Lent, String> {
        self.loads.lock().expect("whole").push(layers);
        Ok(lent())
    }

    fn let_go(&self) {
        self.left.store(u64::MAX, Ordering::Relaxed);
    }
}

fn lent() -> Lent {
    Lent::new(Arc::clone(&story().model), Arc::new(Pool::serial()), Isa::best())
}

fn peer() -> Node {
    Node::new(PEER, NodeCaps::default()).with(HASH, lent())
}

#[test]
fn layers_go_to_a_peer_before_an_answer_is_cut_and_no_bit_changes() {
    let (calm, _) = answer(u64::MAX, u64::MAX, Precision::Kept);
    let calm = calm.expect("an answer");
    let model = story().line_model();
    for (handed, finish) in [(Some(3), Finish::Length), (None, Finish::Context)] {
        let (left, pressure) = said(u64::MAX);
        let loads = Arc::new(Mutex::new(Vec::new()));
        let noting = Noting {
            loads: Arc::clone(&loads),
            left: Arc::clone(&left),
        };
        let here = Here::new(DESK, HASH, Cancel::new(), Box::new(noting));
        let hosts: Vec<Arc<dyn Host>> = vec![Arc::new(here), Arc::new(peer())];
        let stages = [Placement {
            node: DESK,
            layers: model.range(0, model.layers),
        }];
        let line = Line::new(model, hosts, &stages, LineLimits::default()).expect("a layout");
        let line = match handed {
            Some(layers) => line.with_steering(Box::new(Hands(layers))),
            None => line,
        };
        let counted = profile::of_model(HASH, "", story().model.graph(), model.context);
        let relief = Relief::among(&counted, model.context, DESK, pressure.clone(), Precision::Kept);
        let mut desk =
            Desk::over(line, Pace::Steps, Arc::clone(&story().words), Cancel::new()).with_relief(relief);
        let answer = answer_while(&mut desk, &left, &pressure, RESERVE).expect("an answer");
        assert_eq!(answer.finish, finish, "{:?}", answer.degraded);
        let told = answer.tokens.len();
        assert_eq!(answer.tokens, calm.tokens[..told]);
        if let Some(layers) = handed {
            assert_eq!(answer.moves.len(), 1);
            let sentence = format!("{layers} layers went to another machine");
            assert!(answer.degraded[0].contains(&sentence), "{:?}", answer.degraded);
            // What stays is loaded without what went.
            let kept = model.range(0, model.layers - layers);
            assert_eq!(*loads.lock().expect("whole"), [None, Some(kept)]);
        }
    }
}

#[test]
fn a_node_whose_memory_ends_gives_its_stage_up_and_the_answer_goes_on_elsewhere() {
    let (calm, _) = answer(u64::MAX, u64::MAX, Precision::Kept);
    let calm = calm.expect("an answer");
    let model = story().line_model();
    let (left, pressure) = said(u64::MAX);
    let short = Node::new(DESK, NodeCaps::default())
        .with(HASH, lent())
        .with_pressure(pressure.clone());
    let hosts: Vec<Arc<dyn Host>> = vec![Arc::new(short), Arc::new(peer())];
    let stages = [Placement {
        node: DESK,
        layers: model.range(0, model.layers),
    }];
    let line = Line::new(model, hosts, &stages, LineLimits::default()).expect("a layout");
    let mut desk = Desk::over(line, Pace::Steps, Arc::clone(&story().words), Cancel::new());
    let answer = answer_while(&mut desk, &left, &pressure, RESERVE).expect("an answer");
    assert_eq!((answer.finish, &answer.tokens), (Finish::Length, &calm.tokens));
    assert!(
        answer.moves.len() == 1 && answer.moves[0].why.contains("memory became short"),
        "{:?}",
        answer.moves
    );
    // It is not asked again while it has no room.
    let refused = short_stage(&pressure);
    assert!(refused.is_some_and(|why| why.contains("memory became short")));
}

/// Why a node with this memory opens no stage.
fn short_stage(pressure: &Pressure) -> Option<String> {
    let node = Node::new(DESK, NodeCaps::default())
        .with(HASH, lent())
        .with_pressure(pressure.clone());
    let model = story().line_model();
    let spec = heph_types::StageSpec {
        model: HASH,
        layers: model.range(0, model.layers),
        kv_format: model.kv_format,
        context: 64,
        choose: None,
    };
    node.stage(&spec).err().map(|error| error.to_string())
}

fn position_bytes() -> u64 {
    let work = heph_engine::graph::Work {
        tokens: 1,
        context: 1,
    };
    story()
        .model
        .graph()
        .total_cost(work, KvFormat::F16)
        .kv_bytes_per_position
}
