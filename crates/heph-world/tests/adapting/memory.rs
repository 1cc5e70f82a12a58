//! Memory that becomes short in the middle of an answer: something is given up and told, and nothing is killed.

use super::emulated::{Loaded, load};
use heph_engine::worker::Worker;
use heph_kernels::isa::Isa;
use heph_kernels::pool::Pool;
use heph_runtime::bundled;
use heph_runtime::cancel::Cancel;
use heph_runtime::desk::{Answer, Desk, DeskError, Finish, Precision, Prompt, Relief};
use heph_runtime::pressure::Pressure;
use heph_types::KvFormat;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
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
