//! Many sequences at once: each gets the tokens it would get alone, whatever happens beside it.

use heph_engine::batch::{
    Asker, Batch, BatchError, BatchLimits, Event, Finish, Request, SequenceId, TokenReport,
};
use heph_engine::constrain::{Shape, Shaper, TokenText};
use heph_engine::model::{LoadOptions, Model};
use heph_engine::prefix::{NewBlock, Owner, Reach, Share};
use heph_engine::sample::{Sampler, SamplingOptions};
use heph_engine::source::Source;
use heph_engine::worker::{Keep, Worker};
use heph_kernels::isa::Isa;
use heph_kernels::kv::KvFormat;
use heph_kernels::pool::Pool;
use heph_types::{LayerRange, ModelHash, Position, TokenId};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// The small draft of the bundled pair: these tests are about bookkeeping, not about text.
fn model(context: usize, sessions: usize) -> Arc<Model> {
    model_as(context, sessions, KvFormat::F16)
}

fn model_as(context: usize, sessions: usize, kv: KvFormat) -> Arc<Model> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/heph-story-draft.gguf");
    let bytes = std::fs::read(path).expect("the bundled pair is part of the repository");
    let source = Source::from_gguf(vec![Arc::new(bytes)]).expect("a sound file");
    let options = LoadOptions {
        context: Some(context),
        sessions,
        kv,
        ..LoadOptions::default()
    };
    Arc::new(Model::load(Arc::new(source), &options, &Pool::serial(), &mut |_| {}).expect("it loads"))
}

fn batch(model: &Arc<Model>, limits: BatchLimits) -> Batch {
    Batch::new(
        Worker::new(Arc::clone(model), Arc::new(Pool::new(2)), Isa::best()),
        ModelHash([3; 32]),
        limits,
    )
}

/// A request whose prompt and seed follow from `number`; every other one shares a long beginning.
fn request(number: u32, max_tokens: usize) -> Request {
    let shared = (0..40)
        .map(|i| TokenId(300 + i * 7 % 900))
        .take(if number.is_multiple_of(2) { 40 } else { 0 });
    let own = (0..5 + number % 11).map(|i| TokenId(10 + (number * 131 + i * 17) % 1500));
    Request {
        prompt: shared.chain(own).collect(),
        sampling: SamplingOptions {
            seed: u64::from(number),
            ..SamplingOptions::default()
        },
        max_tokens,
        stop_tokens: Vec::new(),
        constraint: None,
        logprobs: None,
        share: share(1),
        asker: Asker::default(),
        cache: None,
    }
}

/// Whatever may be kept is kept for this owner.
fn share(owner: u8) -> Share {
    Share {
        owner: Owner([owner; 32]),
        reach: Reach::Disk,
    }
}

/// Runs until idle; the tokens and the end of each sequence.
fn finish(batch: &mut Batch) -> BTreeMap<SequenceId, (Vec<TokenId>, Option<Finish>)> {
    let mut answers: BTreeMap<SequenceId, (Vec<TokenId>, Option<Finish>)> = BTreeMap::new();
    for _ in 0..10_000 {
        if batch.is_idle() {
            return answers;
        }
        for event in batch.step() {
            match event {
                Event::Token { id, token, .. } => answers.entry(id).or_default().0.push(token),
                Event::Finished { id, why } => answers.entry(id).or_default().1 = Some(why),
                Event::Admitted { .. } | Event::Kept(_) => {}
                Event::Failed { id, error } => panic!("{id:?} failed: {error}"),
            }
        }
    }
    panic!("the batch never comes to rest");
}

/// The answer as the law says it: one pass a token, drawn at the position that the token takes.
fn alone(model: &Arc<Model>, number: u32, max_tokens: usize) -> Vec<TokenId> {
    let Request { prompt, sampling, .. } = request(number, max_tokens);
    let mut worker = Worker::new(Arc::clone(model), Arc::new(Pool::serial()), Isa::best());
    let mut cache = model.new_cache(worker.all_layers());
    let (mut sampler, mut tokens) = (Sampler::new(sampling).unwrap(), prompt.clone());
    for _ in 0..max_tokens {
        let held = cache.len();
        let logits = worker.run(&mut cache, &tokens[held..], Keep::Last).unwrap();
        let position = Position(tokens.len() as u32);
        tokens.push(sampler.sample(&logits, position, &tokens, None).unwrap());
    }
    tokens.split_off(prompt.len())
}

#[test]
fn a_held_answer_goes_on_as_if_nothing_had_been() {
    let model = model(256, 4);
    let limits = BatchLimits {
        running: 2,
        ..BatchLimits::default()
    };
    let mut batch = batch(&model, limits);
    let ids: Vec<_> = (0..4).map(|n| batch.submit(request(n, 20)).unwrap()).collect();
    let mut tokens: BTreeMap<SequenceId, Vec<TokenId>> = BTreeMap::new();
    let mut steps = 0_usize;
    let mut held = None;
    while !batch.is_idle() || held.is_some() {
        for event in batch.step() {
            match event {
                Event::Token { id, token, .. } => tokens.entry(id).or_default().push(token),
                Event::Finished { .. } | Event::Admitted { .. } | Event::Kept(_) => {}
                Event::Failed { id, error } => panic!("{id:?} failed: {error}"),
            }
        }
        steps += 1;
        // Every third step another answer stands aside for seven steps.
        if steps.is_multiple_of(7)
            && let Some(id) = held.take()
        {
            batch.release(id);
        } else if steps.is_multiple_of(3) && held.is_none() {
            held = Some(ids[steps % 4]);
            batch.hold(ids[steps % 4]);
        }
        assert!(steps < 10_000, "the batch never comes to rest");
    }
    for (number, id) in ids.iter().enumerate() {
        assert_eq!(tokens[id], alone(&model, number as u32, 20), "sequence {number}");
    }
}

#[test]
fn neighbours_prefixes_and_small_steps_change_no_token() {
    let model = model(256, 16);
    let expected: Vec<_> = (0..12).map(|n| alone(&model, n, 20)).collect();
    for limits in [
        BatchLimits::default(),
        BatchLimits {
            running: 3,
            step_tokens: 16,
            prefix_bytes: 256 << 10,
            ..BatchLimits::default()
        },
        BatchLimits {
            running: 12,
            step_tokens: 5,
            prefix_bytes: 0,
            ..BatchLimits::default()
        },
    ] {
        let mut batch = batch(&model, limits);
        let ids: Vec<_> = (0..12).map(|n| batch.submit(request(n, 20)).unwrap()).collect();
        let answers = finish(&mut batch);
        for (id, expected) in ids.iter().zip(&expected) {
            assert_eq!(
                answers[id],
                (expected.clone(), Some(Finish::Length)),
                "{limits:?}"
            );
        }
    }
}

#[test]
fn a_cache_too_small_for_all_delays_but_changes_no_token() {
    // Room for two full sequences, eight of them wanted together: some must give way and be computed again.
    let model = model(128, 2);
    let expected: Vec<_> = (0..8).map(|n| alone(&model, n, 60)).collect();
    let mut batch = batch(
        &model,
        BatchLimits {
            running: 8,
            ..BatchLimits::default()
        },
    );
    let ids: Vec<_> = (0..8).map(|n| batch.submit(request(n, 60)).unwrap()).collect();
    let answers = finish(&mut batch);
    for (id, expected) in ids.iter().zip(expected) {
        assert_eq!(answers[id].0, expected);
    }
    drop(batch);
    assert_eq!(model.kv_budget().used(), 0, "every page was given back");
}

#[test]
fn a_prompt_that_was_answered_before_is_answered_alike() {
    let model = model(256, 4);
    let expected = alone(&model, 2, 20);
    let mut batch = batch(&model, BatchLimits::default());
    for round in 0..3 {
        let id = batch.submit(request(2, 20)).unwrap();
        assert_eq!(finish(&mut batch)[&id].0, expected, "round {round}");
    }
    // A prompt that ends inside what an earlier answer left behind.
    let [first, second] = [7, 20].map(|more| {
        let mut longer = request(2, 13);
        longer.prompt.extend(&expected[..more]);
        longer
    });
    for (request, from) in [(first, 7), (second, 20)] {
        let id = batch.submit(request).unwrap();
        let tokens = finish(&mut batch).remove(&id).unwrap().0;
        let rest = &expected[from..];
        assert_eq!(tokens[..rest.len()], *rest);
        assert_eq!(tokens.len(), 13);
    }
}

/// The tokens with all that is reported of each, how many tokens of the prompt were there already, and the blocks that may
/// be kept elsewhere.
fn report(batch: &mut Batch, request: Request) -> (Vec<(TokenId, TokenReport)>, usize, Vec<NewBlock>) {
    let asked = batch
        .submit(Request {
            logprobs: Some(20),
            ..request
        })
        .unwrap();
    let (mut tokens, mut held, mut kept) = (Vec::new(), None, Vec::new());
    while !batch.is_idle() {
        for event in batch.step() {
            match event {
                Event::Token { token, report, .. } => tokens.push((token, report.unwrap())),
                Event::Admitted { id, cached } => {
                    assert_eq!((id, held), (asked, None));
                    held = Some(cached);
                }
                Event::Kept(blocks) => kept.extend(blocks),
                Event::Finished { .. } => {}
                Event::Failed { error, .. } => panic!("{error}"),
            }
        }
    }
    (tokens, held.unwrap(), kept)
}

/// A prompt of `tokens` tokens for this owner.
fn long(owner: u8, tokens: u32) -> Request {
    Request {
        prompt: (0..tokens).map(|i| TokenId(300 + i * 7 % 900)).collect(),
        share: share(owner),
        ..request(1, 8)
    }
}

#[test]
fn warm_and_cold_answers_are_the_same_bits_down_to_every_probability() {
    let model = model(512, 4);
    let mut warm = batch(&model, BatchLimits::default());
    for tokens in [200, 201, 130, 300, 300] {
        let none = BatchLimits {
            prefix_bytes: 0,
            ..BatchLimits::default()
        };
        let (expected, cached, _) = report(&mut batch(&model, none), long(1, tokens));
        assert_eq!(cached, 0);
        assert_eq!(report(&mut warm, long(1, tokens)).0, expected, "{tokens} tokens");
    }
    let (_, cached, _) = report(&mut warm, long(1, 300));
    assert_eq!(cached, 299, "all but the last token, whose logits are not kept");
}

#[test]
fn nobody_takes_from_another_owner_while_it_runs_or_afterwards() {
    let model = model(512, 8);
    let mut batch = batch(&model, BatchLimits::default());
    let prompt = |owner| long(owner, 200);
    report(&mut batch, prompt(1));
    for (owner, cached) in [(2, 0), (1, 192), (3, 0), (3, 192)] {
        assert_eq!(report(&mut batch, prompt(owner)).1, cached, "owner {owner}");
    }
    // One that runs: the same owner goes on from it, others do not.
    let fresh = |owner| Request {
        prompt: (0..150).map(|i| TokenId(20 + i)).collect(),
        ..prompt(owner)
    };
    batch
        .submit(Request {
            max_tokens: 100,
            ..fresh(4)
        })
        .unwrap();
    batch.step();
    let ids = [5, 4].map(|owner| batch.submit(fresh(owner)).unwrap());
    let held: BTreeMap<_, _> = batch
        .step()
        .into_iter()
        .filter_map(|event| match event {
            Event::Admitted { id, cached } => Some((id, cached)),
            _ => None,
        })
        .collect();
    assert_eq!(ids.map(|id| held[&id]), [0, 149]);
}

#[test]
fn what_may_be_kept_nowhere_is_not_kept_and_takes_from_nobody() {
    let model = model(512, 4);
    let mut batch = batch(&model, BatchLimits::default());
    let with = |reach| Request {
        share: Share { reach, ..share(1) },
        ..long(1, 200)
    };
    let cases = [
        (Reach::Nowhere, 0, 0),
        (Reach::Memory, 0, 0),
        (Reach::Nowhere, 0, 0),
        // What memory alone was to keep goes to the disk once it may.
        (Reach::Disk, 192, 3),
        (Reach::Disk, 192, 0),
    ];
    for (reach, cached, told) in cases {
        let (_, held, kept) = report(&mut batch, with(reach));
        assert_eq!((held, kept.len()), (cached, told), "{reach:?}");
    }
    let (_, _, kept) = report(&mut batch, long(2, 200));
    // 200 tokens of the prompt and 7 of the answer are three whole blocks.
    assert_eq!(kept.len(), 3);
}

#[test]
fn blocks_that_were_written_out_and_read_again_give_the_same_bits() {
    for kv in [KvFormat::F32, KvFormat::F16, KvFormat::Q8_0] {
        let model = model_as(512, 4, kv);
        let (expected, _, blocks) = report(&mut batch(&model, BatchLimits::default()), long(1, 200));
        let mut cache = model.new_cache(LayerRange::new(0, model.graph().layers.len(), 99).unwrap());
        for (number, block) in blocks.iter().enumerate() {
            let (first, bytes) = (Position(64 * number as u32), block.pages.export());
            cache.import(first, 64, &bytes).unwrap();
        }
        let again = Request {
            cache: Some(cache),
            ..long(1, 200)
        };
        let (tokens, cached, _) = report(&mut batch(&model, BatchLimits::default()), again);
        assert_eq!((tokens, cached), (expected, 192), "{kv}");
    }
}

#[test]
fn caches_of_those_who_wait_give_way() {
    // Room for one full sequence; the caches that come along fill most of it.
    let model = model(256, 1);
    let limits = BatchLimits {
        running: 1,
        ..BatchLimits::default()
    };
    let mut batch = batch(&model, limits);
    let filled = |tokens: u32| {
        let mut worker = Worker::new(Arc::clone(&model), Arc::new(Pool::serial()), Isa::best());
        let mut cache = model.new_cache(worker.all_layers());
        worker
            .run(&mut cache, &long(1, tokens).prompt, Keep::Last)
            .unwrap();
        cache
    };
    let expected = alone(&model, 1, 100);
    let first = batch
        .submit(Request {
            max_tokens: 100,
            ..request(1, 100)
        })
        .unwrap();
    let cache = Some(filled(190));
    let second = batch
        .submit(Request {
            cache,
            ..long(1, 200)
        })
        .unwrap();
    let answers = finish(&mut batch);
    assert_eq!(answers[&first].0, expected);
    assert_eq!(answers[&second].0.len(), 8);
}

#[test]
fn a_stop_token_ends_the_answer_and_is_no_part_of_it() {
    let model = model(256, 4);
    let expected = alone(&model, 5, 12);
    let stop = expected[7];
    let before = expected.iter().position(|t| *t == stop).unwrap();
    let mut batch = batch(&model, BatchLimits::default());
    let id = batch
        .submit(Request {
            stop_tokens: vec![stop],
            ..request(5, 12)
        })
        .unwrap();
    let answer = finish(&mut batch).remove(&id).unwrap();
    assert_eq!(answer, (expected[..before].to_vec(), Some(Finish::Stop)));
}

#[test]
fn a_cancelled_sequence_is_gone_at_once_and_disturbs_no_other() {
    let model = model(256, 4);
    let expected = alone(&model, 1, 30);
    let mut batch = batch(
        &model,
        BatchLimits {
            prefix_bytes: 0,
            ..BatchLimits::default()
        },
    );
    let kept = batch.submit(request(1, 30)).unwrap();
    let dropped = batch.submit(request(2, 30)).unwrap();
    for _ in 0..5 {
        batch.step();
    }
    let both = model.kv_budget().used();
    batch.cancel(dropped);
    assert!(
        model.kv_budget().used() < both,
        "its cache is free before the next step"
    );
    let answers = finish(&mut batch);
    assert!(!answers.contains_key(&dropped));
    // The first tokens came during the five steps above.
    assert!(expected.ends_with(&answers[&kept].0) && answers[&kept].0.len() >= 25);
}

/// Runs until idle; who ended, in their order.
fn ends(batch: &mut Batch) -> Vec<SequenceId> {
    let mut ended = Vec::new();
    while !batch.is_idle() {
        let events = batch.step().into_iter();
        ended.extend(events.filter_map(|event| match event {
            Event::Finished { id, .. } => Some(id),
            _ => None,
        }));
    }
    ended
}

#[test]
fn nobody_waits_behind_all_that_another_asked() {
    let model = model(256, 4);
    let two = BatchLimits {
        running: 2,
        ..BatchLimits::default()
    };
    let ask = |asker: u64, number: u32| Request {
        asker: Asker(asker),
        ..request(number, 6)
    };
    let mut batch = batch(&model, two);
    let crowd: Vec<_> = (0..20).map(|n| batch.submit(ask(1, n)).unwrap()).collect();
    batch.step();
    let once = [2, 3].map(|asker| batch.submit(ask(asker, 30)).unwrap());
    let ended = ends(&mut batch);
    // Two had their places, and these are next.
    let mut soon = ended[..4].to_vec();
    soon.sort();
    assert_eq!(soon, [crowd[0], crowd[1], once[0], once[1]]);
    let own: Vec<_> = ended.iter().filter(|id| crowd.contains(id)).collect();
    assert!(
        own.is_sorted(),
        "of one asker in the order that they came: {own:?}"
    );
    // Who ask alike much have alike much, whoever came first.
    let crowds: [Vec<_>; 2] =
        [4, 5].map(|asker| (0..10).map(|_| batch.submit(ask(asker, 1)).unwrap()).collect());
    let ended = ends(&mut batch);
    let first = ended[..10].iter().filter(|id| crowds[0].contains(id)).count();
    assert!((4..=6).contains(&first), "{first} of the first ten");
}

#[test]
fn what_cannot_be_done_is_refused_by_name() {
    let model = model(64, 1);
    let mut batch = batch(
        &model,
        BatchLimits {
            waiting: 1,
            ..BatchLimits::default()
        },
    );
    let ask = |prompt| Request {
        prompt,
        ..request(1, 4)
    };
    assert!(matches!(batch.submit(ask(vec![])), Err(BatchError::EmptyPrompt)));
    assert!(matches!(
        batch.submit(ask(vec![TokenId(1); 65])),
        Err(BatchError::TooLong {
            tokens: 65,
            context: 64
        })
    ));
    let mut filled = Worker::new(Arc::clone(&model), Arc::new(Pool::serial()), Isa::best());
    let mut cache = model.new_cache(filled.all_layers());
    filled.run(&mut cache, &[TokenId(1); 8], Keep::Last).unwrap();
    let with_all = Request {
        cache: Some(cache),
        ..ask(vec![TokenId(1); 8])
    };
    assert!(matches!(
        batch.submit(with_all),
        Err(BatchError::WrongCache { held: 8, tokens: 8 })
    ));
    batch.submit(ask(vec![TokenId(1); 8])).unwrap();
    assert!(matches!(
        batch.submit(ask(vec![TokenId(1); 8])),
        Err(BatchError::Busy { waiting: 1 })
    ));
}

#[test]
fn an_answer_ends_at_the_end_of_its_context() {
    let model = model(64, 1);
    let mut batch = batch(&model, BatchLimits::default());
    let id = batch.submit(request(1, 1000)).unwrap();
    let (tokens, why) = finish(&mut batch).remove(&id).unwrap();
    assert_eq!(
        (tokens.len() + request(1, 0).prompt.len(), why),
        (64, Some(Finish::Context))
    );
}

#[test]
fn a_constraint_holds_for_its_own_sequence_alone() {
    let model = model(256, 4);
    let vocab = model.graph().vocab;
    // Stand-in texts: token `n` writes one of ten digits, or nothing readable; the last one ends the answer.
    let texts: Vec<Vec<u8>> = (0..vocab).map(|n| format!("{}", n % 10).into_bytes()).collect();
    let end = TokenId(vocab as u32 - 1);
    let tokens = texts.iter().enumerate();
    let tokens = tokens.map(|(n, t)| TokenText {
        bytes: t,
        is_control: n == end.index(),
    });
    let shaper = Shaper::new(tokens, end).unwrap();
    let constraint = shaper.constraint(&Shape::Regex("[37]{4}".into())).unwrap();
    let free = alone(&model, 3, 12);
    let mut batch = batch(&model, BatchLimits::default());
    let stop_tokens = vec![end];
    let shaped = Request {
        constraint: Some(constraint),
        stop_tokens,
        ..request(5, 40)
    };
    let shaped = batch.submit(shaped).unwrap();
    let other = batch.submit(request(3, 12)).unwrap();
    let answers = finish(&mut batch);
    let text: String = answers[&shaped]
        .0
        .iter()
        .map(|t| (t.0 % 10).to_string())
        .collect();
    assert!(
        text.len() == 4 && text.chars().all(|c| c == '3' || c == '7'),
        "{text}"
    );
    assert_eq!(answers[&shaped].1, Some(Finish::Stop));
    assert_eq!(answers[&other].0, free);
}
