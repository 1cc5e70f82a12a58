//! Whole tokenizers against recorded answers (`fixtures/tokenizers/make.py`), and what a hostile file does.

use serde_json::Value;

use super::*;

fn ids(tokens: &[TokenId]) -> Vec<u64> {
    tokens.iter().map(|token| u64::from(token.0)).collect()
}

fn numbers(value: &Value) -> Vec<u64> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|id| id.as_u64().unwrap())
        .collect()
}

fn check_recorded(file: &str, expected: &str) -> Tokenizer {
    let tokenizer = Tokenizer::from_json(file.as_bytes()).unwrap();
    let cases: Vec<Value> = serde_json::from_str(expected).unwrap();
    assert!(cases.len() > 15);
    for case in &cases {
        let text = case["text"].as_str().unwrap();
        let whole = tokenizer.encode(text, AddSpecial::Yes, ParseSpecial::Yes);
        assert_eq!(ids(&whole), numbers(&case["ids"]), "{text:?}");
        let bare = tokenizer.encode(text, AddSpecial::No, ParseSpecial::Yes);
        assert_eq!(ids(&bare), numbers(&case["bare"]), "{text:?}");
    }
    tokenizer
}

macro_rules! recorded {
    ($name:literal) => {
        check_recorded(
            include_str!(concat!("../../fixtures/tokenizers/", $name, ".json")),
            include_str!(concat!("../../fixtures/tokenizers/", $name, ".expected.json")),
        )
    };
}

#[test]
fn byte_level_pairs_answer_as_recorded() {
    let tokenizer = recorded!("byte_level");
    let text = "The smith's café 👩‍🚒\n";
    let tokens = tokenizer.encode(text, AddSpecial::Yes, ParseSpecial::Yes);
    assert_eq!(tokenizer.decode(&tokens), text);
    assert_eq!(
        (tokenizer.bos(), tokenizer.eos()),
        (Some(TokenId(0)), Some(TokenId(1)))
    );
    assert!(tokenizer.is_control(TokenId(0)) && tokenizer.adds_bos());
    assert_eq!(tokenizer.eog_ids(), [TokenId(1)]);
}

#[test]
fn pairs_with_byte_fallback_answer_as_recorded() {
    let tokenizer = recorded!("byte_fallback");
    let text = "The iron 日本 Ω 🔥";
    let tokens = tokenizer.encode(text, AddSpecial::Yes, ParseSpecial::Yes);
    assert_eq!(tokenizer.decode(&tokens), text);
    let byte = tokenizer.token_of_text("<0xE6>").unwrap();
    assert_eq!(tokenizer.token_bytes(byte), [0xe6]);
}

#[test]
fn unigrams_answer_as_recorded() {
    let tokenizer = recorded!("unigram");
    let tokens = tokenizer.encode("the smith", AddSpecial::Yes, ParseSpecial::Yes);
    assert_eq!(tokenizer.decode(&tokens), "the smith");
}

#[test]
fn word_pieces_answer_as_recorded() {
    let tokenizer = recorded!("wordpiece");
    let tokens = tokenizer.encode("The smith", AddSpecial::Yes, ParseSpecial::Yes);
    assert_eq!(tokenizer.decode(&tokens), "the smith");
}

#[test]
fn words_answer_as_recorded() {
    recorded!("words");
}

/// The vocabulary of a byte-level GGUF file: the stand-ins of all bytes, then `more`.
fn byte_metadata(pre: &str, more: &[(&str, i32)], merges: &[&str]) -> VocabularyMetadata {
    let bytes = (0..=255).map(|byte| (byte_level::char_of(byte).to_string(), 1));
    let tokens = bytes.chain(more.iter().map(|(text, kind)| ((*text).to_owned(), *kind)));
    let (tokens, token_types): (Texts, _) = tokens.unzip();
    VocabularyMetadata {
        model: "gpt2".to_owned(),
        pre: Some(pre.to_owned()),
        tokens: Arc::new(tokens),
        token_types,
        merges: merges.iter().collect(),
        ..VocabularyMetadata::default()
    }
}

#[test]
fn a_byte_level_file_is_read() {
    let more = [("ab", 1), ("Ġab", 1), ("<|im_end|>", 3), ("<x>", 4)];
    let vocabulary = VocabularyMetadata {
        bos: Some(258),
        eos: Some(258),
        add_bos: Some(true),
        ..byte_metadata("qwen2", &more, &["a b", "Ġ ab"])
    };
    let tokenizer = Tokenizer::from_metadata(&vocabulary).unwrap();
    let encode = |text, add, parse| ids(&tokenizer.encode(text, add, parse));
    assert_eq!(
        encode("ab ab", AddSpecial::Yes, ParseSpecial::Yes),
        [258, 256, 257]
    );
    assert_eq!(
        encode("ab<|im_end|>", AddSpecial::No, ParseSpecial::Yes),
        [256, 258]
    );
    assert_eq!(encode("<x>ab", AddSpecial::No, ParseSpecial::No), [259, 256]);
    assert_eq!(encode("<|im_end|>", AddSpecial::No, ParseSpecial::No).len(), 10);
    assert_eq!(tokenizer.eog_ids(), [TokenId(258)]);
    assert_eq!(tokenizer.token_bytes(TokenId(257)), b" ab");
    assert_eq!(tokenizer.token_bytes(TokenId(258)), b"");
    assert_eq!(tokenizer.token_bytes(TokenId(9999)), b"");
    assert_eq!(tokenizer.token_text(TokenId(258)), Some("<|im_end|>"));
}

fn spm_metadata(tokens: &[(&str, f32, i32)]) -> VocabularyMetadata {
    VocabularyMetadata {
        model: "llama".to_owned(),
        tokens: Arc::new(tokens.iter().map(|token| token.0).collect()),
        scores: tokens.iter().map(|token| token.1).collect(),
        token_types: tokens.iter().map(|token| token.2).collect(),
        ..VocabularyMetadata::default()
    }
}

const SPM: [(&str, f32, i32); 8] = [
    ("<unk>", 0.0, 2),
    ("<s>", 0.0, 3),
    ("</s>", 0.0, 3),
    ("<0x21>", 0.0, 6),
    ("▁", -3.0, 1),
    ("a", -4.0, 1),
    ("▁a", -1.0, 1),
    ("▁a▁a", -2.0, 1),
];

#[test]
fn a_sentencepiece_file_is_read() {
    let tokenizer = Tokenizer::from_metadata(&spm_metadata(&SPM)).unwrap();
    let encode = |text| ids(&tokenizer.encode(text, AddSpecial::Yes, ParseSpecial::Yes));
    assert_eq!(encode("a a"), [1, 7]);
    assert_eq!(encode("a!é"), [1, 6, 3, 0, 0]);
    assert_eq!(encode("a</s>a"), [1, 6, 2, 6]);
    assert_eq!(encode(""), [1]);
    assert_eq!(tokenizer.decode(&[TokenId(1), TokenId(7), TokenId(3)]), "a a!");
    assert_eq!(tokenizer.eog_ids(), [TokenId(2)]);
}

#[test]
fn a_unigram_file_is_read() {
    let tokens = [
        ("<pad>", 0.0, 3),
        ("</s>", 0.0, 3),
        ("<unk>", 0.0, 2),
        ("▁", -3.0, 1),
        ("▁a", -2.0, 1),
        ("b", -2.5, 1),
        ("<x>", -1.0, 4),
    ];
    let vocabulary = VocabularyMetadata {
        model: "t5".to_owned(),
        remove_extra_whitespaces: Some(true),
        ..spm_metadata(&tokens)
    };
    let tokenizer = Tokenizer::from_metadata(&vocabulary).unwrap();
    let encode = |text| ids(&tokenizer.encode(text, AddSpecial::Yes, ParseSpecial::Yes));
    assert_eq!(encode("  a   ab "), [4, 4, 5, 1]);
    assert_eq!(encode("é<x>b"), [3, 2, 6, 3, 5, 1]);
}

#[test]
fn a_wordpiece_file_is_read() {
    let tokens = [
        ("[UNK]", 3),
        ("[CLS]", 3),
        ("[SEP]", 3),
        ("▁iron", 1),
        ("s", 1),
        ("▁!", 1),
    ];
    let vocabulary = VocabularyMetadata {
        model: "bert".to_owned(),
        tokens: Arc::new(tokens.iter().map(|token| token.0).collect()),
        token_types: tokens.iter().map(|token| token.1).collect(),
        unknown: Some(0),
        bos: Some(1),
        separator: Some(2),
        ..VocabularyMetadata::default()
    };
    let tokenizer = Tokenizer::from_metadata(&vocabulary).unwrap();
    let encode = |text, parse| ids(&tokenizer.encode(text, AddSpecial::Yes, parse));
    assert_eq!(
        encode("Írons! rust [SEP]", ParseSpecial::Yes),
        [1, 3, 4, 5, 0, 2, 2]
    );
    assert_eq!(encode("[SEP]", ParseSpecial::No), [1, 0, 0, 0, 2]);
}

#[test]
fn unknown_kinds_and_uneven_lists_are_errors() {
    let empty = VocabularyMetadata {
        model: "llama".to_owned(),
        ..VocabularyMetadata::default()
    };
    assert!(matches!(
        Tokenizer::from_metadata(&empty),
        Err(TokenizerError::Size(0))
    ));
    let strange = VocabularyMetadata {
        model: "strange".to_owned(),
        ..spm_metadata(&SPM)
    };
    assert!(matches!(
        Tokenizer::from_metadata(&strange),
        Err(TokenizerError::UnknownModel(_))
    ));
    let pre = byte_metadata("strange", &[], &[]);
    assert!(matches!(
        Tokenizer::from_metadata(&pre),
        Err(TokenizerError::UnknownPreTokenizer(_))
    ));
    let mut uneven = spm_metadata(&SPM);
    uneven.scores.pop();
    assert!(matches!(
        Tokenizer::from_metadata(&uneven),
        Err(TokenizerError::Uneven { .. })
    ));
    assert!(Tokenizer::from_json(b"{}").is_err());
    assert!(Tokenizer::from_json(br#"{"model":{"type":"Magic"}}"#).is_err());
    let huge = br#"{"model":{"type":"WordLevel","unk_token":"","vocab":{"a":4000000000}}}"#;
    assert!(matches!(Tokenizer::from_json(huge), Err(TokenizerError::Size(_))));
}

#[test]
fn hostile_vocabularies_do_no_harm() {
    let text = "a ab <s></s>\u{0}é🔥 aaaa   ![SEP]<|im_end|>";
    let strange = [
        "", " ", "a", "a", "▁", "▁▁", "<0xZZ>", "<0x41", "Ġ", "[SEP]", "é", "\u{0}", "<s>", "</s>",
    ];
    let scores = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, -1.0];
    for seed in 0..400usize {
        let pick = |i: usize| (seed.wrapping_mul(2_654_435_761) >> (i % 13)) ^ i.wrapping_mul(40_503);
        let tokens: Vec<String> = (0..1 + seed % 40)
            .map(|i| strange[pick(i) % strange.len()].to_owned())
            .collect();
        let vocabulary = VocabularyMetadata {
            model: ["llama", "gpt2", "t5", "bert", "gemma4"][seed % 5].to_owned(),
            pre: Some("qwen2".to_owned()),
            scores: (0..tokens.len())
                .map(|i| scores[pick(i) % scores.len()])
                .collect(),
            token_types: (0..tokens.len()).map(|i| (pick(i) % 9) as i32 - 1).collect(),
            merges: [" ", "a", "a a", "", "x  y"].into_iter().collect(),
            bos: Some(pick(1) as u32),
            eos: Some(seed as u32 % 50),
            unknown: Some(seed as u32 % 70),
            precompiled_charsmap: if seed % 3 == 0 {
                Vec::new()
            } else {
                vec![4, 0, 0, 0, 9, seed as u8, 1, 2, 65, 0]
            },
            tokens: Arc::new(tokens.iter().collect()),
            ..VocabularyMetadata::default()
        };
        let tokenizer = Tokenizer::from_metadata(&vocabulary).unwrap();
        let tokens = tokenizer.encode(text, AddSpecial::Yes, ParseSpecial::Yes);
        assert!(tokens.iter().all(|token| token.index() < tokenizer.vocab_size()));
        tokenizer.decode(&tokens);
    }
}

#[test]
fn long_runs_take_no_square_time() {
    let vocabulary = byte_metadata("llama-bpe", &[("ĠĠ", 1), ("aa", 1)], &["Ġ Ġ", "a a"]);
    let tokenizer = Tokenizer::from_metadata(&vocabulary).unwrap();
    for run in [" ", "\n", "a", "7", "!", "é", "👩‍", "'"] {
        let text = format!("{}x", run.repeat(200_000));
        assert!(tokenizer.encode(&text, AddSpecial::No, ParseSpecial::No).len() >= 66_667);
    }
}
