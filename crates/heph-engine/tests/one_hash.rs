//! The bundled model's certificate: one hash of its logits for each KV format, the same on every machine.
//!
//! `models/heph-story.certificate` is what `heph certify` prints for it. This test holds it on every instruction
//! set of the machine it runs on; `tests/machines` runs it where this one is not: on ARM under emulation, in Node.

#![expect(
    clippy::disallowed_methods,
    reason = "a test reads the file and the setting that its script gives it"
)]

use heph_engine::model::{LoadOptions, Model};
use heph_engine::source::Source;
use heph_engine::worker::{Keep, Worker};
use heph_kernels::isa::Isa;
use heph_kernels::kv::KvFormat;
use heph_kernels::pool::Pool;
use heph_types::TokenId;
use std::path::Path;
use std::sync::Arc;

const CERTIFICATE: &str = include_str!("../../../models/heph-story.certificate");

/// As `heph certify` has it where it is not told otherwise; more than one page of the cache.
const TOKENS: u64 = 72;

fn model(kv: KvFormat) -> Arc<Model> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/heph-story.gguf");
    let bytes = std::fs::read(path).expect("the bundled pair is part of the repository");
    let source = Source::from_gguf(vec![Arc::new(bytes)]).expect("a sound file");
    let options = LoadOptions {
        kv,
        ..LoadOptions::default()
    };
    Arc::new(Model::load(Arc::new(source), &options, &Pool::serial(), &mut |_| {}).expect("it loads"))
}

/// The prompt of `heph certify`.
fn prompt(vocab: u64) -> Vec<TokenId> {
    (0..TOKENS)
        .map(|i| TokenId((i.wrapping_mul(2_654_435_761).wrapping_add(17) % vocab) as u32))
        .collect()
}

/// BLAKE3 of the logits of every position, little-endian.
fn hash(model: &Arc<Model>, isa: Isa, threads: usize) -> String {
    let mut worker = Worker::new(Arc::clone(model), Arc::new(Pool::new(threads)), isa);
    let mut cache = model.new_cache(worker.all_layers());
    let prompt = prompt(model.graph().vocab as u64);
    let logits = worker.run(&mut cache, &prompt, Keep::All).expect("a sound model");
    let bytes: Vec<u8> = logits.iter().flat_map(|x| x.to_le_bytes()).collect();
    blake3::hash(&bytes).to_hex().to_string()
}

#[test]
fn the_bundled_model_has_one_certificate_on_every_instruction_set() {
    for isa in Isa::all_available() {
        let mut found = String::new();
        for kv in KvFormat::ALL {
            let model = model(kv);
            for threads in [1, 2] {
                let line = format!("{} {}\n", kv.name(), hash(&model, isa, threads));
                if !found.ends_with(&line) {
                    found += &line;
                }
            }
        }
        assert!(
            found == CERTIFICATE,
            "{isa} gives\n{found}and models/heph-story.certificate has\n{CERTIFICATE}\
             Scalar code defines the bits: if that differs, then the model or the law was changed. Only if that was \
             meant is the file to be replaced, and for the law the version in docs/arithmetic.md to be raised."
        );
    }
}

/// The scripts in `tests/machines` say what their machine must have, so that nothing is passed over unseen.
#[test]
fn the_machine_has_the_instruction_sets_it_was_asked_for() {
    let Ok(asked) = std::env::var("HEPH_ISAS") else {
        return;
    };
    let found: Vec<_> = Isa::all_available().into_iter().map(Isa::name).collect();
    assert_eq!(found.join(" "), asked);
}
