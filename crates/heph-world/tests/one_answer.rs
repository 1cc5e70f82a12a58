//! The law of exactness on a whole model: one hash of the logits, however the work is cut.
//!
//! The bundled pair is run on every instruction set this machine has, with several thread counts, prompt
//! chunks, batches and split points, forked, rolled back and verified in one pass. Every way must give the
//! bits of the scalar path on one thread.

use heph_engine::cache::KvCache;
use heph_engine::model::{LoadOptions, Model, Packing, places};
use heph_engine::source::{Source, beyond_layers};
use heph_engine::worker::{ForwardError, Hidden, Keep, Part, Worker};
use heph_kernels::isa::Isa;
use heph_kernels::kv::KvFormat;
use heph_kernels::pool::Pool;
use heph_types::{LayerRange, Position, TokenId};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const PROMPT_TOKENS: usize = 80;

fn model(file: &str, kv: KvFormat) -> Arc<Model> {
    loaded(file, kv, Packing::AtLoad)
}

fn loaded(file: &str, kv: KvFormat, packing: Packing) -> Arc<Model> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../models")
        .join(file);
    let bytes = std::fs::read(path).expect("the bundled pair is part of the repository");
    let source = Source::from_gguf(vec![Arc::new(bytes)]).expect("a sound file");
    let options = LoadOptions {
        kv,
        sessions: 16,
        packing,
        ..LoadOptions::default()
    };
    let model = Model::load(Arc::new(source), &options, &Pool::serial(), &mut |_| {});
    Arc::new(model.expect("the bundled pair loads"))
}

fn worker(model: &Arc<Model>, threads: usize, isa: Isa) -> Worker {
    Worker::new(Arc::clone(model), Arc::new(Pool::new(threads)), isa)
}

fn cache(worker: &Worker) -> KvCache {
    worker.model().new_cache(worker.all_layers())
}

/// Token ids that no one chose.
fn prompt(seed: u32, vocab: usize) -> Vec<TokenId> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(12345);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        TokenId((state >> 8) % vocab as u32)
    };
    (0..PROMPT_TOKENS).map(|_| next()).collect()
}

/// Logits of every position, by the reference: scalar code, one thread, the whole prompt at once.
fn reference(model: &Arc<Model>, tokens: &[TokenId]) -> Vec<u32> {
    let mut worker = worker(model, 1, Isa::Scalar);
    let mut cache = cache(&worker);
    bits(&worker.run(&mut cache, tokens, Keep::All).unwrap())
}

fn bits(numbers: &[f32]) -> Vec<u32> {
    numbers.iter().map(|n| n.to_bits()).collect()
}

#[test]
fn threads_instruction_sets_and_chunks_change_no_bit() {
    for kv in KvFormat::ALL {
        let model = model("heph-story.gguf", kv);
        let tokens = prompt(1, model.graph().vocab);
        let expected = reference(&model, &tokens);
        for isa in Isa::all_available() {
            for (threads, chunk) in [(1, 512), (2, 7), (3, 32), (2, 1)] {
                let mut worker = worker(&model, threads, isa).with_chunk(chunk);
                let mut cache = cache(&worker);
                let logits = worker.run(&mut cache, &tokens, Keep::All).unwrap();
                assert!(
                    bits(&logits) == expected,
                    "{kv:?} {isa} {threads} threads, chunks of {chunk}"
                );
            }
        }
    }
}

#[test]
fn weights_that_are_packed_while_passes_are_made_change_no_bit() {
    let file = "heph-story.gguf";
    let tokens = prompt(4, model(file, KvFormat::F16).graph().vocab);
    let expected = reference(&model(file, KvFormat::F16), &tokens);
    for isa in Isa::all_available() {
        for (threads, chunk) in [(1, 512), (2, 7), (2, 2)] {
            let model = loaded(file, KvFormat::F16, Packing::AsUsed);
            let mut worker = worker(&model, threads, isa).with_chunk(chunk);
            let mut cache = cache(&worker);
            let logits = worker.run(&mut cache, &tokens, Keep::All).unwrap();
            assert!(
                bits(&logits) == expected,
                "{isa} {threads} threads, chunks of {chunk}"
            );
        }
    }
}

#[test]
fn the_first_pass_packs_nothing_and_the_next_thirty_two_pack_all() {
    let model = loaded("heph-story.gguf", KvFormat::F16, Packing::AsUsed);
    let tokens = prompt(5, model.graph().vocab);
    let mut worker = worker(&model, 2, Isa::best());
    let mut cache = cache(&worker);
    let mut left_after = |passes: &[TokenId]| {
        for token in passes {
            worker.run(&mut cache, &[*token], Keep::Last).unwrap();
        }
        model.in_file()
    };
    let all = left_after(&[]);
    assert_eq!(left_after(&tokens[..1]), all);
    let some = left_after(&tokens[1..2]);
    assert!(0 < some && some < all, "{some} of {all} bytes are left");
    assert_eq!(left_after(&tokens[2..33]), 0);
    let other = loaded("heph-story.gguf", KvFormat::F16, Packing::AsUsed);
    other.settle(&Pool::serial());
    assert_eq!(other.in_file(), 0);
}

#[test]
fn a_split_at_any_layer_changes_no_bit() {
    let model = model("heph-story.gguf", KvFormat::F16);
    let tokens = prompt(2, model.graph().vocab);
    let expected = reference(&model, &tokens);
    let count = model.graph().layers.len();
    for split in 0..=count {
        let [here, there] = [(0, split), (split, count)].map(|(a, b)| LayerRange::new(a, b, count).unwrap());
        let (mut near, mut far) = (worker(&model, 1, Isa::best()), worker(&model, 2, Isa::best()));
        let (mut near_cache, mut far_cache) = (model.new_cache(here), model.new_cache(there));
        let mut logits = Vec::new();
        for (step, chunk) in tokens.chunks(33).enumerate() {
            let first = Position(step as u32 * 33);
            let mut hidden = near.embed(chunk).unwrap();
            let part = |cache| {
                [Part {
                    cache,
                    tokens: chunk.len(),
                    first,
                }]
            };
            near.forward(here, &mut part(&mut near_cache), &mut hidden, Keep::All)
                .unwrap();
            far.forward(there, &mut part(&mut far_cache), &mut hidden, Keep::All)
                .unwrap();
            logits.extend(far.head(&hidden).unwrap());
        }
        assert!(bits(&logits) == expected, "split before layer {split}");
    }
}

#[test]
fn neighbours_in_a_batch_change_no_bit() {
    let model = model("heph-story.gguf", KvFormat::F16);
    let vocab = model.graph().vocab;
    let prompts: Vec<Vec<TokenId>> = (10..26)
        .map(|seed| prompt(seed, vocab)[..20 + seed as usize].to_vec())
        .collect();
    let expected: Vec<Vec<u32>> = prompts.iter().map(|p| reference(&model, p)).collect();
    for size in [1, 4, 16] {
        let mut worker = worker(&model, 2, Isa::best());
        for (group, expected) in prompts.chunks(size).zip(expected.chunks(size)) {
            let mut caches: Vec<KvCache> = group.iter().map(|_| cache(&worker)).collect();
            let tokens: Vec<TokenId> = group.concat();
            let mut hidden = worker.embed(&tokens).unwrap();
            let part = |(cache, prompt): (_, &Vec<TokenId>)| Part {
                cache,
                tokens: prompt.len(),
                first: Position(0),
            };
            let mut parts: Vec<Part> = caches.iter_mut().zip(group).map(part).collect();
            worker
                .forward(worker.all_layers(), &mut parts, &mut hidden, Keep::All)
                .unwrap();
            assert!(
                bits(&worker.head(&hidden).unwrap()) == expected.concat(),
                "batches of {size}"
            );
        }
    }
}

#[test]
fn keeping_only_the_last_row_changes_none_of_its_bits() {
    let model = model("heph-story.gguf", KvFormat::F16);
    let vocab = model.graph().vocab;
    let tokens = prompt(3, vocab);
    let expected = reference(&model, &tokens);
    let mut worker = worker(&model, 2, Isa::best());
    for chunk in [512, 7, 16, 1] {
        worker = worker.with_chunk(chunk);
        let logits = worker.run(&mut cache(&worker), &tokens, Keep::Last).unwrap();
        assert_eq!(
            bits(&logits),
            expected[expected.len() - vocab..],
            "chunks of {chunk}"
        );
    }
}

#[test]
fn a_prompt_that_breaks_off_between_two_chunks_leaves_the_cache_as_it_was() {
    let model = model("heph-story-draft.gguf", KvFormat::F16);
    let vocab = model.graph().vocab;
    let tokens = prompt(7, vocab);
    let expected = reference(&model, &tokens);
    let mut worker = worker(&model, 1, Isa::best()).with_chunk(16);
    let mut cache = cache(&worker);
    worker.run(&mut cache, &tokens[..20], Keep::Last).unwrap();
    let mut broken = tokens[20..].to_vec();
    broken[40] = TokenId(vocab as u32);
    let token = broken[40];
    assert_eq!(
        worker.run(&mut cache, &broken, Keep::Last),
        Err(ForwardError::Token { token, vocab })
    );
    assert_eq!(cache.len(), 20);
    let rest = worker.run(&mut cache, &tokens[20..], Keep::All).unwrap();
    assert_eq!(bits(&rest), expected[20 * vocab..]);
}

#[test]
fn forks_and_rollbacks_change_no_bit() {
    let model = model("heph-story.gguf", KvFormat::F16);
    let vocab = model.graph().vocab;
    let (a, b) = (prompt(4, vocab), prompt(5, vocab));
    let mixed: Vec<TokenId> = a[..70].iter().chain(&b[..10]).copied().collect();
    let expected = reference(&model, &mixed);
    let tail = expected[70 * vocab..].to_vec();
    let mut worker = worker(&model, 2, Isa::best());
    let mut first = cache(&worker);
    worker.run(&mut first, &a, Keep::Last).unwrap();
    let mut fork = first.fork(Position(70));
    assert!(
        bits(&worker.run(&mut fork, &b[..10], Keep::All).unwrap()) == tail,
        "a fork"
    );
    let again = worker.run(&mut first, &b[..1], Keep::Last).unwrap();
    first.rollback(Position(70));
    assert!(
        bits(&worker.run(&mut first, &b[..10], Keep::All).unwrap()) == tail,
        "a rollback"
    );
    assert_eq!(again.len(), vocab);
}

#[test]
fn hidden_states_carried_as_bytes_change_no_bit() {
    let model = model("heph-story-draft.gguf", KvFormat::F32);
    let tokens = prompt(6, model.graph().vocab);
    let expected = reference(&model, &tokens);
    let mut worker = worker(&model, 2, Isa::best());
    let Hidden { width, rows } = worker.embed(&tokens).unwrap();
    let wire: Vec<u8> = rows.iter().flat_map(|n| n.to_le_bytes()).collect();
    let back = wire
        .as_chunks()
        .0
        .iter()
        .map(|b| f32::from_le_bytes(*b))
        .collect();
    let mut hidden = Hidden { width, rows: back };
    let mut cache = cache(&worker);
    let part = Part {
        cache: &mut cache,
        tokens: tokens.len(),
        first: Position(0),
    };
    worker
        .forward(worker.all_layers(), &mut [part], &mut hidden, Keep::All)
        .unwrap();
    assert!(bits(&worker.head(&hidden).unwrap()) == expected);
}

#[test]
fn stopped_work_leaves_the_cache_as_it_was() {
    let model = model("heph-story-draft.gguf", KvFormat::F16);
    let tokens = prompt(9, model.graph().vocab);
    let expected = reference(&model, &tokens);
    let flag = Arc::new(AtomicBool::new(false));
    let mut worker = worker(&model, 1, Isa::best()).with_stop(Arc::clone(&flag));
    let mut cache = cache(&worker);
    worker.run(&mut cache, &tokens[..30], Keep::Last).unwrap();
    flag.store(true, Ordering::Relaxed);
    assert_eq!(
        worker.run(&mut cache, &tokens[30..], Keep::Last),
        Err(ForwardError::Stopped)
    );
    assert_eq!(cache.len(), 30);
    flag.store(false, Ordering::Relaxed);
    let rest = worker.run(&mut cache, &tokens[30..], Keep::All).unwrap();
    assert_eq!(bits(&rest), expected[30 * model.graph().vocab..]);
}

/// The bundled model with every byte blank that the part needs not.
fn with_holes(file: &str, layers: LayerRange) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../models")
        .join(file);
    let whole = std::fs::read(path).expect("the bundled pair is part of the repository");
    let source = Source::from_gguf(vec![Arc::new(whole.clone())]).expect("a sound file");
    let needed = places(&source, layers)
        .expect("a sound graph")
        .into_iter()
        .map(|(_, range)| range);
    let needed = needed.chain(beyond_layers(&whole).expect("a sound header"));
    let mut holes = vec![0; whole.len()];
    for range in needed {
        let range = range.start as usize..range.end as usize;
        holes[range.clone()].copy_from_slice(&whole[range]);
    }
    assert!(holes != whole, "a part is not the whole");
    holes
}

#[test]
fn parts_loaded_from_files_with_holes_give_the_same_bits_and_refuse_the_rest() {
    let whole = model("heph-story-draft.gguf", KvFormat::F16);
    let tokens = prompt(3, whole.graph().vocab);
    let expected = reference(&whole, &tokens);
    let count = whole.graph().layers.len();
    let range = |start, end| LayerRange::new(start, end, count).unwrap();
    let load = |layers| {
        let source = Source::from_gguf(vec![Arc::new(with_holes("heph-story-draft.gguf", layers))]).unwrap();
        let options = LoadOptions {
            layers: Some(layers),
            ..LoadOptions::default()
        };
        let model = Model::load(Arc::new(source), &options, &Pool::serial(), &mut |_| {}).expect("it loads");
        assert_eq!(model.held(), layers);
        worker(&Arc::new(model), 2, Isa::best())
    };
    // Embedding alone, layers alone, the head alone; then everything in two parts.
    for cuts in [vec![0, 0, 1, count, count], vec![0, count / 2, count]] {
        let mut hidden = None;
        let mut logits = Vec::new();
        for pair in cuts.windows(2) {
            let layers = range(pair[0], pair[1]);
            let mut worker = load(layers);
            let mut hidden_here = match hidden.take() {
                Some(rows) => rows,
                None => worker.embed(&tokens).unwrap(),
            };
            let mut cache = worker.model().new_cache(layers);
            let part = Part {
                cache: &mut cache,
                tokens: tokens.len(),
                first: Position(0),
            };
            worker
                .forward(layers, &mut [part], &mut hidden_here, Keep::All)
                .unwrap();
            if layers.end() == count {
                logits = worker.head(&hidden_here).unwrap();
            }
            refuses_the_rest(&mut worker, &tokens, &hidden_here);
            hidden = Some(hidden_here);
        }
        assert!(bits(&logits) == expected, "{cuts:?}");
    }
}

fn refuses_the_rest(worker: &mut Worker, tokens: &[TokenId], hidden: &Hidden) {
    let (held, all) = (worker.model().held(), worker.all_layers());
    let not_held = |result: Result<(), ForwardError>| matches!(result, Err(ForwardError::NotHeld { .. }));
    assert_eq!(not_held(worker.embed(tokens).map(|_| ())), held.start() > 0);
    assert_eq!(not_held(worker.head(hidden).map(|_| ())), held.end() < all.end());
    let mut cache = worker.model().new_cache(all);
    let parts = &mut [Part {
        cache: &mut cache,
        tokens: tokens.len(),
        first: Position(0),
    }];
    assert!(not_held(worker.forward(
        all,
        parts,
        &mut hidden.clone(),
        Keep::All
    )));
}
