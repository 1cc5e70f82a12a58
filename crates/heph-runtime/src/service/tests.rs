//! The shared engine under many askers, the draft model as its model.

use std::sync::Arc;
use std::time::{Duration, Instant};

use heph_engine::batch::BatchLimits;
use heph_engine::model::{LoadOptions, Model};
use heph_engine::prefix::{BlockKey, Owner};
use heph_engine::sample::SamplingOptions;
use heph_engine::tokenizer::{AddSpecial, ParseSpecial};
use heph_engine::worker::Worker;
use heph_kernels::isa::Isa;
use heph_kernels::kv::KvFormat;
use heph_kernels::pool::Pool;

use super::*;
use crate::bundled;
use crate::open;
use crate::store::Found;

fn service(limits: BatchLimits) -> Service {
    service_with(limits, None, &Closing::default())
}

/// One that keeps caches there.
fn keeping(store: &Arc<BlockStore>) -> Service {
    service_with(
        BatchLimits::default(),
        Some(Arc::clone(store)),
        &Closing::default(),
    )
}

fn service_with(limits: BatchLimits, blocks: Option<Arc<BlockStore>>, closing: &Closing) -> Service {
    let source = open::open(&Found::Bundled(bundled::STORY_DRAFT)).unwrap();
    let words = Arc::new(Words::of(&source.vocabulary().unwrap()).unwrap());
    let options = LoadOptions {
        sessions: 8,
        ..LoadOptions::default()
    };
    let model = Model::load(Arc::new(source), &options, &Pool::serial(), &mut |_| {}).unwrap();
    let worker = Worker::new(Arc::new(model), Arc::new(Pool::new(2)), Isa::best());
    Service::start(worker, ModelHash([2; 32]), words, limits, blocks, closing).unwrap()
}

/// Whatever may be kept is kept for this owner.
fn share(owner: u8) -> Share {
    Share {
        owner: Owner([owner; 32]),
        reach: Reach::Disk,
    }
}

fn job(service: &Service, prompt: &str, max_tokens: usize, seed: u64) -> Job {
    Job {
        prompt: service
            .words()
            .tokenizer
            .encode(prompt, AddSpecial::Yes, ParseSpecial::No),
        sampling: SamplingOptions {
            seed,
            ..SamplingOptions::default()
        },
        max_tokens,
        stops: Vec::new(),
        constraint: None,
        logprobs: None,
        deadline: None,
        share: share(1),
        asker: Asker::default(),
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

async fn read(mut reply: Reply) -> (String, Result<Outcome, ServiceError>) {
    let mut whole = String::new();
    loop {
        match reply.next().await {
            Heard::More { text, .. } => whole.push_str(&text),
            Heard::Thought(_) | Heard::Call { .. } | Heard::Arguments(_) => {
                unreachable!("the batch tells none")
            }
            Heard::End(outcome) => return (whole, outcome),
        }
    }
}

#[test]
fn each_of_many_answers_is_the_answer_alone() {
    let service = service(BatchLimits::default());
    runtime().block_on(async {
        let prompts = ["Once upon a time", "One day, a dog", "The fox"];
        let ask = |n: usize| job(&service, prompts[n % 3], 24, n as u64);
        let mut alone = Vec::new();
        for n in 0..24 {
            let reply = service.submit(vec![ask(n)]).unwrap().remove(0);
            alone.push(read(reply).await.0);
        }
        let replies = service.submit((0..24).map(ask).collect()).unwrap();
        for (reply, expected) in replies.into_iter().zip(alone) {
            let (text, outcome) = read(reply).await;
            assert_eq!(text, expected);
            assert!(outcome.unwrap().answer_tokens <= 24);
        }
    });
}

/// One answer, and one that waits.
fn one_at_a_time() -> BatchLimits {
    BatchLimits {
        running: 1,
        waiting: 1,
        ..BatchLimits::default()
    }
}

#[test]
fn one_too_many_is_refused_and_a_place_comes_free() {
    let service = service(one_at_a_time());
    runtime().block_on(async {
        let ask = || vec![job(&service, "Once upon a time", 400, 1)];
        let first = service.submit(ask()).unwrap().remove(0);
        let second = service.submit(ask()).unwrap().remove(0);
        assert!(matches!(
            service.submit(ask()),
            Err(ServiceError::Busy { open: 2, .. })
        ));
        drop(first);
        let third = service.submit(ask()).unwrap().remove(0);
        drop(second);
        assert!(read(third).await.1.is_ok());
        assert_eq!(service.load().open, 0);
    });
}

#[test]
fn a_service_that_closes_ends_what_is_under_way_what_waits_and_what_comes() {
    let closing = Closing::default();
    let service = service_with(one_at_a_time(), None, &closing);
    runtime().block_on(async {
        let ask = || service.submit(vec![job(&service, "Once upon a time", 400, 1)]);
        let mut first = ask().unwrap().remove(0);
        let second = ask().unwrap().remove(0);
        assert!(matches!(first.next().await, Heard::More { .. }));
        closing.close();
        for reply in [first, second] {
            assert!(matches!(read(reply).await.1, Err(ServiceError::Stopped)));
        }
        let later = ask().unwrap().remove(0);
        let (text, outcome) = read(later).await;
        assert!(text.is_empty() && matches!(outcome, Err(ServiceError::Stopped)));
        assert_eq!(service.load().open, 0);
    });
}

#[test]
fn whoever_has_to_wait_is_told_for_how_long() {
    let service = service(one_at_a_time());
    runtime().block_on(async {
        let ask = || vec![job(&service, "Once upon a time", 300, 1)];
        assert_eq!(service.wait(), Duration::ZERO);
        let (_, outcome) = read(service.submit(ask()).unwrap().remove(0)).await;
        let took = outcome.unwrap().total;
        assert_eq!(service.wait(), Duration::ZERO, "there is a place");
        let _first = service.submit(ask()).unwrap();
        let _second = service.submit(ask()).unwrap();
        // Both must end first; for a place among those who wait, one.
        let told = service.wait();
        assert!(took < told && told <= took * 2, "{told:?} of {took:?}");
        match service.submit(ask()) {
            Err(ServiceError::Busy { open: 2, again }) => {
                assert!(took / 2 < again && again <= took, "{again:?} of {took:?}");
            }
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn whoever_goes_away_ends_the_work() {
    let service = service(BatchLimits::default());
    runtime().block_on(async {
        let mut reply = service
            .submit(vec![job(&service, "Once", 900, 1)])
            .unwrap()
            .remove(0);
        assert!(matches!(reply.next().await, Heard::More { .. }));
        drop(reply);
        // Another answer is asked for after the one that was dropped, and the engine is then at rest.
        assert!(
            read(
                service
                    .submit(vec![job(&service, "Once", 2, 1)])
                    .unwrap()
                    .remove(0)
            )
            .await
            .1
            .is_ok()
        );
        let after = service.load().tokens;
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(service.load().tokens, after);
    });
}

#[test]
fn stop_texts_deadlines_and_bad_jobs_end_as_they_should() {
    let service = service(BatchLimits::default());
    runtime().block_on(async {
        let one = |job: Job| service.submit(vec![job]).unwrap().remove(0);
        let (whole, _) = read(one(job(&service, "Once upon a time", 40, 3))).await;
        let stop: String = whole.chars().skip(8).take(4).collect();
        let (text, outcome) = read(one(Job {
            stops: vec![stop.clone()],
            ..job(&service, "Once upon a time", 40, 3)
        }))
        .await;
        assert_eq!(text, whole[..whole.find(&stop).unwrap()]);
        assert_eq!(outcome.unwrap().ending, Ending::StopText(stop));
        let late = Job {
            deadline: Some(Instant::now()),
            ..job(&service, "Once upon a time", 900, 3)
        };
        assert_eq!(read(one(late)).await.1.unwrap().ending, Ending::Deadline);
        let empty = Job {
            prompt: Vec::new(),
            ..job(&service, "", 1, 1)
        };
        assert!(read(one(empty)).await.1.is_err());
    });
}

#[test]
fn a_slow_reader_is_held_and_misses_nothing() {
    let service = service(BatchLimits::default());
    runtime().block_on(async {
        let reported = || Job {
            logprobs: Some(20),
            ..job(&service, "Once upon a time", 200, 5)
        };
        let (quick, outcome) = read(service.submit(vec![reported()]).unwrap().remove(0)).await;
        assert!(outcome.unwrap().answer_tokens > 40);
        let before = service.load().tokens;
        let mut slow = service.submit(vec![reported()]).unwrap().remove(0);
        // Others are answered meanwhile.
        let other = service
            .submit(vec![job(&service, "The fox", 300, 6)])
            .unwrap()
            .remove(0);
        let others = read(other).await.1.unwrap().answer_tokens;
        // 24 KiB of tokens with 20 others each are 19 at most.
        let made = service.load().tokens - before - others;
        assert!((1..=20).contains(&made), "{made} tokens lie ready");
        let mut text = String::new();
        let outcome = loop {
            match slow.next().await {
                Heard::More { text: more, .. } => {
                    text.push_str(&more);
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                Heard::Thought(_) | Heard::Call { .. } | Heard::Arguments(_) => {
                    unreachable!("the batch tells none")
                }
                Heard::End(outcome) => break outcome,
            }
        };
        assert_eq!(text, quick);
        assert!(outcome.is_ok());
    });
}

/// A prompt of some hundred tokens.
fn tale(sentences: usize) -> String {
    "Once upon a time there was a little dog who liked to run and play. ".repeat(sentences)
}

/// Waits until so many blocks lie on disk.
async fn written(blocks: &BlockStore, count: u64) {
    for _ in 0..6_000 {
        if blocks.counts().written >= count {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{:?} and no more", blocks.counts());
}

#[test]
fn an_answer_is_the_same_from_memory_from_disk_and_from_nothing() {
    let home = tempfile::tempdir().unwrap();
    let store = Arc::new(BlockStore::open(home.path(), 1 << 30).unwrap());
    let asked = |service: &Service, owner: u8| Job {
        share: share(owner),
        ..job(service, &tale(12), 20, 9)
    };
    runtime().block_on(async {
        let first = keeping(&store);
        let one = |service: &Service, owner| service.submit(vec![asked(service, owner)]).unwrap().remove(0);
        let (text, outcome) = read(one(&first, 1)).await;
        let cold = outcome.unwrap();
        assert_eq!(cold.cached_tokens, 0);
        let whole = (cold.prompt_tokens - 1) / PAGE;
        assert!(whole >= 3, "{cold:?}");
        let (warm, outcome) = read(one(&first, 1)).await;
        assert_eq!(
            (&warm, outcome.unwrap().cached_tokens),
            (&text, cold.prompt_tokens - 1)
        );
        assert!(first.load().kept.1 > 0);
        written(&store, whole as u64).await;
        drop(first);
        // Another process, as far as memory goes.
        let second = keeping(&store);
        let (again, outcome) = read(one(&second, 1)).await;
        assert_eq!((&again, outcome.unwrap().cached_tokens), (&text, whole * PAGE));
        let (again, outcome) = read(one(&second, 2)).await;
        assert_eq!(
            (&again, outcome.unwrap().cached_tokens),
            (&text, 0),
            "another owner"
        );
        // A block in the middle is spoilt: what lies before it is of use, and no bit of it is believed.
        let third = keeping(&store);
        let root = BlockKey::root(ModelHash([2; 32]), KvFormat::F16, Owner([1; 32]));
        let key = root.chain(&asked(&third, 1).prompt).nth(1).unwrap();
        let path = store.path(&key);
        let mut bytes = std::fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let (again, outcome) = read(one(&third, 1)).await;
        assert_eq!((&again, outcome.unwrap().cached_tokens), (&text, PAGE));
        assert_eq!(store.counts().damaged, 1);
    });
}

#[test]
fn what_may_be_kept_in_memory_alone_is_not_written() {
    let home = tempfile::tempdir().unwrap();
    let store = Arc::new(BlockStore::open(home.path(), 1 << 30).unwrap());
    let service = keeping(&store);
    runtime().block_on(async {
        let ask = |reach, owner| Job {
            share: Share {
                reach,
                ..share(owner)
            },
            ..job(&service, &tale(12), 4, 1)
        };
        for reach in [Reach::Memory, Reach::Nowhere] {
            let reply = service.submit(vec![ask(reach, 1)]).unwrap().remove(0);
            assert!(read(reply).await.1.is_ok());
        }
        let reply = service.submit(vec![ask(Reach::Disk, 2)]).unwrap().remove(0);
        let outcome = read(reply).await.1.unwrap();
        let whole = (outcome.prompt_tokens + 3) / PAGE;
        written(&store, whole as u64).await;
        assert_eq!(
            crate::blocks::survey(&crate::blocks::folder(home.path())).0,
            whole as u64
        );
    });
}
