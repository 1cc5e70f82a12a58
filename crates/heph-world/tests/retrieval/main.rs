//! What mode "preprocess" keeps: over a thousand questions about long documents, the upload against the whole.

mod chronicle;
mod reader;

use chronicle::{Asked, Chronicle, Wanted, chronicle};
use heph_engine::retrieval::{Likeness, Question, Ranking, Span, Survey};
use heph_kernels::isa::Isa;
use heph_kernels::pool::Pool;
use heph_runtime::cancel::Cancel;
use heph_runtime::preprocess::{BYTES_DIVISOR, Document, Embedder, Library, Preprocessed, preprocess};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Documents that are asked about: 162 questions each.
const DOCUMENTS: u64 = 7;

fn embedder() -> Embedder {
    let embedder = Embedder::bundled(&Arc::new(Pool::new(2)), Isa::best());
    embedder.expect("the bundled encoder loads")
}

/// Calls `check` with every question and what would be sent for it.
fn for_every_question(mut check: impl FnMut(&Chronicle, &Asked, &Preprocessed)) {
    let mut embedder = embedder();
    for seed in 0..DOCUMENTS {
        let told = chronicle(seed);
        let mut library = Library::new(vec![Document::new("chronicle.txt", told.text.as_str())]);
        for asked in &told.asked {
            let done = preprocess(&mut embedder, &asked.question, &mut library, &Cancel::new());
            check(&told, asked, &done.expect("a question about a document"));
        }
    }
}

/// Right answers with the whole document and with the upload.
#[derive(Debug, Default, Clone, Copy)]
struct Score {
    questions: usize,
    /// Every sentence that the answer needs is there: what a perfect reader answers. With the whole document all.
    sentences: usize,
    /// The plain reader's right answers with the whole document.
    whole: usize,
    /// And with the upload.
    upload: usize,
}

#[test]
#[expect(clippy::print_stdout, reason = "with --nocapture the test is the measurement")]
fn a_sixth_of_the_bytes_keeps_the_answers() {
    let mut scores: BTreeMap<&str, Score> = BTreeMap::new();
    let (mut sent, mut raw) = (0, 0);
    for_every_question(|told, asked, done| {
        assert!(
            done.upload.text.len() * BYTES_DIVISOR <= done.raw_bytes,
            "{}",
            asked.question
        );
        for name in &asked.names {
            assert!(
                done.upload.text.contains(name.as_str()),
                "{name:?} is lost: {}",
                asked.question
            );
        }
        for citation in &done.upload.citations {
            assert!(done.upload.text.contains(&told.text[citation.bytes.clone()]));
        }
        (sent, raw) = (sent + done.upload.text.len(), raw + done.raw_bytes);
        let read = |context: &str| {
            reader::answer(context, &asked.question, asked.wanted).as_ref() == Some(&asked.answer)
        };
        let excerpts = &done.upload.text[..done.upload.text.len() - asked.question.len()];
        let score = scores.entry(asked.kind).or_default();
        score.questions += 1;
        score.sentences += usize::from(asked.gold.iter().all(|g| excerpts.contains(g.as_str())));
        score.whole += usize::from(read(&told.text));
        score.upload += usize::from(read(excerpts));
    });
    println!(
        "{:12} {:>9} {:>9} {:>6} {:>6}",
        "kind", "questions", "sentences", "whole", "upload"
    );
    for (kind, s) in &scores {
        println!(
            "{kind:12} {:9} {:9} {:6} {:6}",
            s.questions, s.sentences, s.whole, s.upload
        );
    }
    let sum = |part: fn(&Score) -> usize| scores.values().map(part).sum::<usize>();
    let (questions, sentences) = (sum(|s| s.questions), sum(|s| s.sentences));
    let (whole, upload) = (sum(|s| s.whole), sum(|s| s.upload));
    println!("all          {questions:9} {sentences:9} {whole:6} {upload:6}");
    println!("sent {sent} of {raw} bytes: 1/{:.2}", raw as f64 / sent as f64);
    assert!(questions >= 1000);
    assert!(sentences * 100 >= questions * 98, "{sentences} of {questions}");
    assert!(upload * 100 >= whole * 98, "{upload} against {whole}");
    // A reader that is right by chance would compare nothing.
    assert!(whole * 2 > questions, "{whole} of {questions}");
}

#[test]
#[expect(clippy::print_stdout, reason = "with --nocapture the test is the measurement")]
fn words_and_meaning_together_find_more_than_words_alone() {
    let rankings = [Ranking::Words, Ranking::Meaning, Ranking::Fused];
    let mut found = [[0usize; 4]; 3];
    let (mut embedder, mut questions) = (embedder(), 0);
    for seed in 0..3 {
        let told = chronicle(200 + seed);
        let texts = [told.text.as_str()];
        let first = Question::read("any").expect("a question");
        let survey = Survey::of(&first, &texts).expect("a document");
        let spans: Vec<Span> = (0..survey.len()).map(|s| survey.span(s)).collect();
        let span_texts: Vec<&str> = spans.iter().map(|s| &told.text[s.bytes.clone()]).collect();
        let (vectors, _) = embedder.vectors(&span_texts, &Cancel::new()).expect("vectors");
        for asked in &told.asked {
            let question = Question::read(&asked.question).expect("a question");
            let survey = Survey::of(&question, &texts).expect("a document");
            let (own, _) = embedder
                .vectors(&[&asked.question], &Cancel::new())
                .expect("a vector");
            let cosine = |v: &[f32]| own[0].iter().zip(v).map(|(a, b)| a * b).sum();
            let like = |(span, v): (usize, &Vec<f32>)| Likeness {
                span,
                cosine: cosine(v),
            };
            let likeness: Vec<Likeness> = vectors.iter().enumerate().map(like).collect();
            let wanted = asked.gold.last().expect("a sentence");
            questions += 1;
            for (ranking, found) in rankings.iter().zip(&mut found) {
                let order = survey.ranked(&likeness, *ranking);
                let holds = |&span: &usize| span_texts[span].contains(wanted.as_str());
                let place = order.iter().position(holds).unwrap_or(usize::MAX);
                for (k, found) in [1, 3, 5, 10].iter().zip(found) {
                    *found += usize::from(place < *k);
                }
            }
        }
    }
    for (ranking, found) in rankings.iter().zip(&found) {
        let shares = found.map(|f| format!("{:.3}", f as f64 / f64::from(questions)));
        println!(
            "{ranking:?}: recall@1, 3, 5, 10 of {questions}: {}",
            shares.join(" ")
        );
    }
    let [words, _, fused] = found;
    assert!(
        fused.iter().zip(&words).all(|(f, w)| f >= w),
        "{fused:?} {words:?}"
    );
}

#[test]
fn the_plain_reader_reads() {
    let text =
        "The well of Old Hestle is 1,204 feet deep.\nIt was Runa Pell who taught Bram Tarrant the trade.";
    let read = |question, wanted| reader::answer(text, question, wanted);
    assert_eq!(
        read("How deep is the well of Old Hestle?", Wanted::Number).as_deref(),
        Some("1,204")
    );
    assert_eq!(
        read("Who taught Bram Tarrant?", Wanted::Name).as_deref(),
        Some("Runa Pell")
    );
    assert_eq!(read("When?", Wanted::Date), None);
}
