//! The attacks on the bundled draft model, and that they cannot be fooled.

use std::sync::Arc;

use heph_engine::model::{LoadOptions, Model};
use heph_kernels::isa::Isa;
use heph_kernels::pool::Pool;

use super::*;
use crate::bundled;
use crate::store::Found;

/// The smaller of the bundled pair, its words, and the letter's beginning.
struct Bench {
    model: Arc<Model>,
    tokenizer: Tokenizer,
    secret: Secret,
}

fn bench(tokens: usize) -> Bench {
    let found = Found::Bundled(bundled::STORY_DRAFT);
    let source = Arc::new(crate::open::open(&found).unwrap());
    let tokenizer = crate::open::words(&found).unwrap().tokenizer;
    let secret = Secret::new(ASKED, &tokenizer, tokens);
    let options = LoadOptions {
        context: Some(secret.positions()),
        sessions: SEQUENCES,
        ..LoadOptions::default()
    };
    let model = Model::load(source, &options, &Pool::serial(), &mut |_| {}).unwrap();
    Bench {
        model: Arc::new(model),
        tokenizer,
        secret,
    }
}

impl Bench {
    fn worker(&self) -> Worker {
        Worker::new(Arc::clone(&self.model), Arc::new(Pool::new(2)), Isa::best())
    }

    fn layers(&self) -> usize {
        self.model.graph().layers.len()
    }

    fn front(&self, split: usize) -> Front {
        Front::new(self.worker(), split).unwrap()
    }

    fn report(&self, split: usize, codecs: &[WireCodec]) -> Report {
        let mut made = 0;
        let mut step = || made += 1;
        let cancel = Cancel::new();
        let report = report(
            self.worker(),
            &self.tokenizer,
            &self.secret,
            split,
            codecs,
            &cancel,
            &mut step,
        );
        assert_eq!(made, steps(&self.secret));
        report.unwrap()
    }

    /// The share that vocabulary matching reads after `split` layers of rows that left somewhere else.
    fn matched(&self, received: &Hidden, codec: WireCodec, split: usize) -> Result<f64, InversionError> {
        let mut wires = [Wire::from((codec, received))];
        let cancel = Cancel::new();
        vocabulary::read(
            &mut self.front(split),
            &self.secret,
            &mut wires,
            &cancel,
            &mut || {},
        )?;
        let first = wires[0].matched.iter().filter(|rank| **rank == 0).count();
        Ok(first as f64 / self.secret.guessed() as f64)
    }
}

fn share(report: &Report, attack: Attack, codec: WireCodec) -> f64 {
    let mut findings = report.findings.iter();
    let finding = findings.find(|f| (f.attack, f.codec) == (attack, codec)).unwrap();
    assert!(finding.first <= finding.among_five && finding.among_five <= report.tokens);
    finding.first as f64 / report.tokens as f64
}

#[test]
fn after_one_layer_the_text_is_read_whatever_the_format() {
    let bench = bench(24);
    let report = bench.report(1, &WireCodec::ALL);
    for codec in WireCodec::ALL {
        let matched = share(&report, Attack::VocabularyMatching, codec);
        assert!(matched >= 0.9, "{codec}: {matched}");
        let inverted = share(&report, Attack::TrainedInverter, codec);
        assert!(inverted >= 0.4, "{codec}: {inverted}");
    }
    assert!(report.recovered() >= 0.9);
    assert_eq!(report.strongest().unwrap().attack, Attack::VocabularyMatching);
    assert_eq!(report, bench.report(1, &WireCodec::ALL), "the same every time");
}

#[test]
fn embeddings_are_read_by_every_attack_and_depth_protects_nothing() {
    let bench = bench(12);
    let shallow = bench.report(0, &[WireCodec::F32]);
    for attack in Attack::ALL {
        let read = share(&shallow, attack, WireCodec::F32);
        assert!(read >= 0.9, "{attack:?}: {read}");
    }
    let deep = bench.report(bench.layers(), &[WireCodec::F32, WireCodec::Bf16]);
    assert_eq!(share(&deep, Attack::VocabularyMatching, WireCodec::F32), 1.0);
    assert!(share(&deep, Attack::VocabularyMatching, WireCodec::Bf16) >= 0.9);
    let nearest = share(&deep, Attack::NearestEmbedding, WireCodec::F32);
    assert!(
        nearest < 0.5,
        "a report of this attack alone would call the split private: {nearest}"
    );
    assert_eq!(deep.recovered(), 1.0, "the strongest counts");
}

#[test]
fn an_attack_that_misses_its_own_rows_gives_no_figures() {
    let bench = bench(4);
    let sent = bench.front(2).rows(&bench.secret.tokens).unwrap();
    let wrong = bench.matched(&sent, WireCodec::F32, 1);
    assert!(matches!(wrong, Err(InversionError::Blind { .. })), "{wrong:?}");
    assert_eq!(bench.matched(&sent, WireCodec::F32, 2).unwrap(), 1.0);
}

#[test]
fn rows_of_nothing_are_read_as_nothing() {
    let bench = bench(24);
    let sent = bench.front(1).rows(&bench.secret.tokens).unwrap();
    // The same numbers in another order: as large as rows are, and nobody's.
    let mut noise = sent.clone();
    noise.rows.reverse();
    let read = bench.matched(&noise, WireCodec::Int8, 1).unwrap();
    assert!(read <= 0.1, "{read}");
}

#[test]
fn what_cannot_be_looked_at_is_said() {
    let bench = bench(3);
    let codecs = [WireCodec::F32];
    let ask = |secret: &Secret, split, cancel: &Cancel| {
        let (worker, words) = (bench.worker(), &bench.tokenizer);
        report(worker, words, secret, split, &codecs, cancel, &mut || {})
    };
    let nothing = Secret::new("", &bench.tokenizer, 9);
    assert!(matches!(
        ask(&nothing, 1, &Cancel::new()),
        Err(InversionError::NoText)
    ));
    let deep = ask(&bench.secret, bench.layers() + 1, &Cancel::new());
    assert!(matches!(deep, Err(InversionError::Split { .. })));
    let cancel = Cancel::new();
    cancel.raise();
    assert!(matches!(
        ask(&bench.secret, 1, &cancel),
        Err(InversionError::Stopped)
    ));
}
