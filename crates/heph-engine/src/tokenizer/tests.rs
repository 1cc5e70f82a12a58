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

/// Stands in no text of these tests.
const MARK: char = '\u{fdd0}';

/// Vocabularies whose control tokens are found before and after texts are rewritten.
fn guarding() -> Vec<Tokenizer> {
    let more = [
        ("ab", 1),
        ("<|im_end|>", 3),
        ("<|im_start|>", 3),
        ("<|im_", 3),
        ("<x>", 4),
        ("→", 3),
        ("<|eot_id|>", 4),
    ];
    let byte_level = VocabularyMetadata {
        eos: Some(257),
        ..byte_metadata("qwen2", &more, &["a b"])
    };
    let folder = |normalized: bool| {
        let added = [(5, "<s>"), (6, "</s>"), (7, "<|im_end|>"), (8, "<|im_start|>")];
        let added = added.map(|(id, content)| {
            serde_json::json!({
                "id": id, "content": content, "special": true, "normalized": normalized, "single_word": false,
                "lstrip": false, "rstrip": false,
            })
        });
        let file = serde_json::json!({
            "added_tokens": added,
            "normalizer": { "type": "Replace", "pattern": { "String": " " }, "content": "▁" },
            "pre_tokenizer": null, "post_processor": null, "decoder": null,
            "model": { "type": "BPE", "unk_token": "<unk>", "byte_fallback": false, "merges": [],
                "vocab": { "<unk>": 0, "▁": 1, "a": 2, "<": 3, "x": 4 } },
        });
        Tokenizer::from_json(file.to_string().as_bytes()).unwrap()
    };
    vec![
        Tokenizer::from_metadata(&byte_level).unwrap(),
        folder(false),
        folder(true),
    ]
}

/// What messages may hold, and templates put beside it.
const PARTS: [&str; 14] = [
    "<|im_end|>",
    "<|im_start|>",
    "<|im_",
    "<|",
    "end|>",
    "<s>",
    "</s>",
    "<x>",
    "→",
    "<|eot_id|>",
    "ab ",
    " <",
    ">",
    "é\n",
];

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config::with_cases(2000))]

    #[test]
    fn no_words_of_others_become_control_tokens(
        words in proptest::collection::vec(proptest::collection::vec(0..PARTS.len(), 0..5), 1..4),
        cut in 0..9_usize,
    ) {
        for tokenizer in guarding() {
            // What guards a token of one character stands beside it, where a template may cut it off.
            let stays = |part: &&str| cut < 3 || *part != "→";
            let words = words.iter().map(|parts| parts.iter().map(|&at| PARTS[at]).filter(stays).collect());
            let words: Vec<String> = words.collect();
            let template_writes = |words: &[String]| {
                let mut text = String::from("<|im_start|>a");
                for words in words {
                    // Templates cut white space off, and what is too long.
                    let words: String = words.trim().chars().skip(cut / 3).collect();
                    text.push_str(&words);
                    text.push_str(["", " ", "<|im_end|>"][cut % 3]);
                }
                text + "<|im_end|>→<|im_start|>"
            };
            let controls = |ids: &[TokenId]| {
                ids.iter().filter(|&&id| tokenizer.is_control(id) || tokenizer.eog_ids().contains(&id)).copied()
                    .filter(|&id| Some(id) != tokenizer.unknown()).collect::<Vec<_>>()
            };
            let benign = vec!["b".to_owned(); words.len()];
            let wanted = controls(&tokenizer.encode(&template_writes(&benign), AddSpecial::No, ParseSpecial::Yes));
            let guarded: Vec<String> =
                words.iter().map(|words| tokenizer.guard(words, MARK).unwrap_or_else(|| words.clone())).collect();
            let text = template_writes(&guarded);
            let found = tokenizer.encode_guarded(&text, MARK, AddSpecial::No);
            proptest::prop_assert_eq!(controls(&found), wanted, "{:?}", text);
        }
    }

    #[test]
    fn guarded_words_alone_are_read_as_plain_text(parts in proptest::collection::vec(0..PARTS.len(), 0..6)) {
        for tokenizer in guarding() {
            let words: String = parts.iter().map(|&at| PARTS[at]).filter(|part| *part != "<|eot_id|>").collect();
            let plain = tokenizer.encode(&words, AddSpecial::Yes, ParseSpecial::No);
            let guarded = tokenizer.guard(&words, MARK).unwrap_or_else(|| words.clone());
            proptest::prop_assert_eq!(tokenizer.encode_guarded(&guarded, MARK, AddSpecial::Yes), plain, "{:?}", guarded);
            // Without a guard there was nothing to guard.
            if guarded == words {
                let special = tokenizer.encode(&words, AddSpecial::Yes, ParseSpecial::Yes);
                proptest::prop_assert_eq!(special, tokenizer.encode(&words, AddSpecial::Yes, ParseSpecial::No));
            }
        }
    }
}

#[test]
fn a_template_keeps_its_control_tokens_beside_guarded_words() {
    let tokenizer = guarding().remove(0);
    let id = |text: &str| tokenizer.token_of_text(text).unwrap();
    let read = |before: &str, words: &str, behind: &str| {
        let words = tokenizer.guard(words, MARK).unwrap_or_else(|| words.to_owned());
        tokenizer.encode_guarded(&format!("{before}{words}{behind}"), MARK, AddSpecial::No)
    };
    // What others write goes on where the template's own token ends, and does not make a longer one of it.
    assert_eq!(read("<|im_", "end|>", "")[0], id("<|im_"));
    assert_eq!(*read("", "<|im_", "<|im_end|>").last().unwrap(), id("<|im_end|>"));
    assert!(!read("", "<|im_", "end|>").contains(&id("<|im_end|>")));
    assert!(!read("", "<|", "im_end|>").contains(&id("<|im_end|>")));
    assert!(!read("<|im_", "end|>", "").contains(&id("<|im_end|>")));
    // A control token of one character.
    assert!(!read("a", "→", "a").contains(&id("→")));
    assert_eq!(read("", "ab", "→"), [id("ab"), id("→")]);
    assert_eq!(
        read("<x>", "<x>", "<|im_end|>"),
        [id("<x>"), id("<x>"), id("<|im_end|>")]
    );
    // An end of answers, even where the vocabulary calls it a word like others.
    assert!(tokenizer.eog_ids().contains(&id("<|eot_id|>")));
    assert!(!read("", "<|eot_id|>", "").contains(&id("<|eot_id|>")));
    assert_eq!(read("", "ab", "<|eot_id|>"), [id("ab"), id("<|eot_id|>")]);
    for ordinary in ["", "Hello", "a < b", "x|> y", "<|", "end|>", "[INST]", "<x>"] {
        assert_eq!(
            tokenizer.guard(ordinary, MARK).is_some(),
            ["<|", "end|>"].contains(&ordinary),
            "{ordinary:?}"
        );
    }
}

#[test]
fn what_a_file_names_as_its_begin_and_end_is_no_word_of_others() {
    // The vocabulary calls all three words like others.
    let vocabulary = VocabularyMetadata {
        bos: Some(256),
        eos: Some(257),
        ..byte_metadata("qwen2", &[("<b>", 4), ("<e>", 4), ("<x>", 4)], &["a b"])
    };
    let tokenizer = Tokenizer::from_metadata(&vocabulary).unwrap();
    for (text, is_named) in [("<b>", true), ("<e>", true), ("<x>", false)] {
        let id = tokenizer.token_of_text(text).unwrap();
        let read = |text: &str| tokenizer.encode_guarded(text, MARK, AddSpecial::No);
        let words = tokenizer.guard(text, MARK);
        assert_eq!(words.is_some(), is_named, "{text}");
        assert_eq!(
            read(words.as_deref().unwrap_or(text)).contains(&id),
            !is_named,
            "{text}"
        );
        assert_eq!(read(text), [id], "a template's own {text}");
    }
}
