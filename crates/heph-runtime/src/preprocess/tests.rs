//! What preprocessing promises, with the bundled encoder.

use super::*;
use crate::desk::Message;
use heph_kernels::isa::Isa;
use heph_kernels::pool::Pool;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;

/// What is chosen of `documents`.
fn choose(question: &str, documents: &[Document]) -> Result<Preprocessed, PreprocessError> {
    preprocess(
        &mut embedder(),
        question,
        &mut Library::new(documents.to_vec()),
        &Cancel::new(),
    )
}

fn embedder() -> Embedder {
    Embedder::bundled(&Arc::new(Pool::new(1)), Isa::best()).unwrap()
}

/// Sentences about nothing that is asked for.
fn filler(sentences: usize) -> String {
    let words = [
        "harbour", "lantern", "meadow", "copper", "winter", "bridge", "barley", "signal", "garden",
    ];
    let sentence = |n: usize| {
        let word = |k: usize| words[(n * 7 + n / 9 * k + k * 4) % words.len()];
        format!(
            "The {} near the {} was closed while the {} of the {} stood open. ",
            word(0),
            word(1),
            word(2),
            word(3)
        )
    };
    (0..sentences).map(sentence).collect()
}

#[test]
fn a_sixth_is_sent_and_holds_what_was_asked() {
    let text = format!(
        "{}Ada Lovelace was paid 4,210 dollars on 3 May 1842. {}",
        filler(200),
        filler(200)
    );
    let documents = [
        Document::new("pay.txt", text.as_str()),
        Document::new("other.txt", filler(100)),
    ];
    let done = choose("How much did Ada Lovelace earn?", &documents).unwrap();
    assert!(done.upload.text.len() * BYTES_DIVISOR <= done.raw_bytes);
    assert!(done.upload.text.contains("4,210 dollars"));
    assert_eq!(done.over_budget, 0);
    for citation in &done.upload.citations {
        let excerpt = &documents[citation.source].text()[citation.bytes.clone()];
        assert!(done.upload.text.contains(excerpt));
    }
}

#[test]
fn the_same_bits_are_chosen_on_every_instruction_set() {
    let documents = [Document::new("a", filler(300))];
    let chosen = |isa, threads| {
        let mut embedder = Embedder::bundled(&Arc::new(Pool::new(threads)), isa).unwrap();
        preprocess(
            &mut embedder,
            "which light by the water?",
            &mut Library::new(documents.to_vec()),
            &Cancel::new(),
        )
        .unwrap()
        .upload
    };
    let first = chosen(Isa::Scalar, 1);
    for isa in Isa::all_available() {
        assert_eq!(first, chosen(isa, 2), "{isa:?}");
    }
}

#[test]
fn the_receipt_says_what_is_shown_and_claims_no_secrecy() {
    let documents = [Document::new(
        "pay.txt",
        format!("{}Ada Lovelace left.", filler(90)),
    )];
    let done = choose("When did Ada Lovelace meet Charles Babbage?", &documents).unwrap();
    let exposure = done.exposure();
    assert_eq!(exposure.named, ["Ada Lovelace"]);
    assert!(exposure.named_absent.contains(&"Charles Babbage".to_owned()));
    assert_eq!(exposure.bytes_sent, done.upload.text.len());
    let text = exposure.to_string().to_lowercase();
    for word in ["can read", "word for word", "pay.txt"] {
        assert!(text.contains(word), "{text}");
    }
    for claim in ["private", "secret", "anonym", "confidential", "safe"] {
        assert!(!text.contains(claim), "{text}");
    }
}

#[test]
fn a_file_that_is_no_text_is_refused_by_name() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("letter.txt");
    let cases: [(&[u8], usize); 5] = [
        (b"abc\xff", 3),
        (b"\xff\xfeA\0", 0),
        (b"ok \xc3", 3),
        (b"\xed\xa0\x80", 0),
        (b"%PDF-1.4\n\xe2\xe3\xcf\xd3", 9),
    ];
    for (bytes, wrong) in cases {
        fs::write(&path, bytes).unwrap();
        match Document::read(&path) {
            Err(error @ DocumentError::NotText { at, .. }) => {
                assert_eq!(at, wrong);
                assert!(error.to_string().contains("letter.txt") && error.hint().is_some());
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(matches!(
        Document::read(folder.path()),
        Err(DocumentError::Io { .. })
    ));
    assert!(matches!(
        Document::read(Path::new("/no/such/file")),
        Err(DocumentError::Io { .. })
    ));
    fs::File::create(&path)
        .unwrap()
        .set_len(DOCUMENT_BYTES_MAX as u64 + 1)
        .unwrap();
    assert!(matches!(
        Document::read(&path),
        Err(DocumentError::TooLarge { .. })
    ));
}

#[test]
fn names_of_documents_tell_no_folder_and_break_no_citation() {
    let folder = TempDir::new().unwrap();
    let (one, two) = (folder.path().join("x"), folder.path().join("y"));
    for path in [&one, &two] {
        fs::create_dir(path).unwrap();
        fs::write(path.join("a[1]:b.txt"), "text").unwrap();
    }
    let paths = [one.join("a[1]:b.txt"), two.join("a[1]:b.txt")];
    let names: Vec<_> = Document::read_all(&paths)
        .unwrap()
        .iter()
        .map(|d| d.name().to_owned())
        .collect();
    assert_eq!(names, ["a_1__b.txt", "a_1__b.txt (2)"]);
    assert_eq!(Document::new(&"é".repeat(100), "").name().len(), 60);
}

#[test]
fn of_a_folder_all_texts_are_read_and_nothing_hidden() {
    let folder = TempDir::new().unwrap();
    let put = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    };
    put("b.txt", b"second");
    put("a.txt", b"first");
    put("in/a.txt", b"third");
    put("picture.png", b"\x89PNG\xff");
    put(".secret", b"hidden");
    let names = |paths: &[PathBuf]| -> Vec<String> {
        let documents = Document::read_all(paths).unwrap();
        documents.iter().map(|d| d.name().to_owned()).collect()
    };
    let all = [folder.path().to_owned()];
    assert_eq!(names(&all), ["a.txt", "b.txt", "a.txt (2)"]);
    let twice = [folder.path().join("a.txt"), folder.path().to_owned()];
    assert_eq!(names(&twice), ["a.txt", "a.txt (2)", "b.txt", "a.txt (3)"]);
    for number in 0..FOLDER_ENTRIES_MAX {
        put(&format!("many/{number}"), b"");
    }
    let error = Document::read_all(&all).unwrap_err();
    assert!(
        matches!(error, DocumentError::Folder { .. }) && error.to_string().contains("4096"),
        "{error}"
    );
}

#[test]
fn a_library_with_a_limit_chooses_less() {
    let mut library = Library::new(vec![Document::new("a", filler(400))]);
    let (mut embedder, cancel) = (embedder(), Cancel::new());
    let mut chosen = |library: &mut Library| {
        let done = preprocess(&mut embedder, "which garden was closed?", library, &cancel);
        done.unwrap().upload.text.len()
    };
    let free = chosen(&mut library);
    library.limit(1000);
    let limited = chosen(&mut library);
    assert!(limited <= 1000 && free > 2 * limited, "{limited} of {free}");
}

#[test]
fn history_is_a_source_like_any_other() {
    let history: Vec<Message> = (0..40)
        .map(|n| Message::new("user", filler(6 + n % 3)))
        .chain([Message::new("assistant", "The code of the blue door is 7731.")])
        .collect();
    let mut documents = Document::of_history(&history);
    documents.push(Document::new("notes.txt", filler(100)));
    let done = choose("Which number opens the blue door?", &documents).unwrap();
    assert!(
        done.upload.text.contains("7731")
            && done.upload.text.contains("[")
            && done.upload.text.contains("turn 41, assistant")
    );
}

#[test]
fn a_second_question_reads_nothing_again_and_chooses_as_if_it_were_the_first() {
    let mut library = Library::new(vec![Document::new("a", filler(150))]);
    let (mut embedder, cancel) = (embedder(), Cancel::new());
    let first = preprocess(&mut embedder, "which garden was closed?", &mut library, &cancel).unwrap();
    let second = preprocess(&mut embedder, "who lit the lantern?", &mut library, &cancel).unwrap();
    assert!(first.tokens_read > 1000 && second.tokens_read == 0);
    let alone = choose("who lit the lantern?", library.documents()).unwrap();
    assert_eq!(second.upload, alone.upload);
}

#[test]
fn nothing_and_too_much_are_refused() {
    let refused = |question: &str, documents: &[Document]| choose(question, documents).expect_err("refused");
    let text = [Document::new("a", "Some text.")];
    assert!(matches!(refused("who?", &[]), PreprocessError::Nothing));
    assert!(matches!(
        refused("who?", &[Document::new("a", " \n ")]),
        PreprocessError::Nothing
    ));
    assert!(matches!(
        refused("", &text),
        PreprocessError::Question(QuestionError::Empty)
    ));
    assert!(matches!(
        refused(&"long ".repeat(4000), &text),
        PreprocessError::Question(QuestionError::TooLong { .. })
    ));
    let cancel = Cancel::new();
    cancel.raise();
    let stopped = preprocess(&mut embedder(), "who?", &mut Library::new(text.to_vec()), &cancel);
    assert!(matches!(
        stopped,
        Err(PreprocessError::Forward(ForwardError::Stopped))
    ));
}
