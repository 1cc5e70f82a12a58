//! Damaged JSON files and templates of a model folder: a named error or a model, never a panic, never without end.
//!
//! Bits are flipped, files cut, and values replaced inside their structure, so that damage passes the JSON reader and
//! reaches the code that believes it.
#![cfg(not(target_family = "wasm"))]

use std::sync::Arc;

use heph_engine::chat::{ChatInput, ChatTemplate, LocalTime};
use heph_engine::graph::Graph;
use heph_engine::hf::{FolderTexts, weight_files};
use heph_engine::source::{FileBytes, Source};
use heph_engine::tokenizer::{AddSpecial, ParseSpecial, Tokenizer};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};

/// Damaged copies tried of each file.
const CASES: u32 = 1_500;

/// Text with spaces, digits, marks, other scripts and special words.
const TEXT: &str = "Hello  wörld, 1234! [CLS] <s> été 日本語 👩‍👩‍👧 \u{0}\u{feff}\t\n";

/// What to do to a file.
#[derive(Debug, Clone)]
enum Damage {
    /// Turn these bits over.
    Flip(Vec<(usize, u8)>),
    /// Cut it short.
    Cut(usize),
    /// Put a value in the place of the n-th one.
    Plant(usize, Value),
    /// Take the n-th value out of its list or object.
    Drop(usize),
}

fn damage() -> impl Strategy<Value = Damage> {
    let flips = prop::collection::vec((any::<usize>(), 0u8..8), 1..6);
    prop_oneof![
        1 => flips.prop_map(Damage::Flip),
        1 => any::<usize>().prop_map(Damage::Cut),
        4 => (any::<usize>(), bomb()).prop_map(|(at, value)| Damage::Plant(at, value)),
        1 => any::<usize>().prop_map(Damage::Drop),
    ]
}

/// Values that careless readers stumble over.
fn bomb() -> impl Strategy<Value = Value> {
    let deep = (0..100).fold(json!(1), |inner, _| json!([inner]));
    prop::sample::select(vec![
        json!(null),
        json!(true),
        json!(-1),
        json!(0),
        json!(u64::MAX),
        json!(1e308),
        json!(0.5),
        json!(""),
        json!("\u{0}"),
        json!("(a*)*b|(?<!x){99999}"),
        json!("a".repeat(5000)),
        json!([]),
        json!({}),
        json!([[], [1], ["a", "b", "c"], {"a": null}]),
        json!({"type": "Sequence", "normalizers": [], "pretokenizers": [], "decoders": []}),
        deep,
    ])
}

impl Damage {
    fn done_to(&self, file: &[u8]) -> Vec<u8> {
        let mut bytes = file.to_vec();
        match self {
            Self::Flip(bits) => bits.iter().for_each(|(at, bit)| {
                let at = at % bytes.len();
                bytes[at] ^= 1 << bit;
            }),
            Self::Cut(at) => bytes.truncate(at % bytes.len()),
            Self::Plant(at, value) => return edit(file, *at, &mut |place| *place = value.clone()),
            Self::Drop(at) => {
                return edit(file, *at, &mut |place| match place {
                    Value::Array(list) => drop(list.pop()),
                    Value::Object(map) => map.retain(|key, _| key.len() % 2 == 0),
                    other => *other = Value::Null,
                });
            }
        }
        bytes
    }
}

/// The file with `change` done to one of its values, counted round and round.
fn edit(file: &[u8], at: usize, change: &mut dyn FnMut(&mut Value)) -> Vec<u8> {
    let mut tree: Value = serde_json::from_slice(file).expect("the sample is JSON");
    let mut left = at % count(&tree);
    visit(&mut tree, &mut left, change);
    serde_json::to_vec(&tree).expect("a tree is JSON")
}

fn count(tree: &Value) -> usize {
    1 + match tree {
        Value::Array(list) => list.iter().map(count).sum(),
        Value::Object(map) => map.values().map(count).sum(),
        _ => 0,
    }
}

fn visit(tree: &mut Value, left: &mut usize, change: &mut dyn FnMut(&mut Value)) -> bool {
    if *left == 0 {
        change(tree);
        return true;
    }
    *left -= 1;
    match tree {
        Value::Array(list) => list.iter_mut().any(|value| visit(value, left, change)),
        Value::Object(map) => map.values_mut().any(|value| visit(value, left, change)),
        _ => false,
    }
}

/// Tries every kind of damage on `file`; `read` says whether it was taken. Some must be taken and some refused, or the
/// damage proves nothing.
fn survive(file: &[u8], read: impl Fn(&[u8]) -> bool) {
    assert!(read(file), "the sample is refused");
    let (mut taken, mut refused) = (0, 0);
    let mut runner = TestRunner::deterministic();
    for _ in 0..CASES {
        let damage = damage()
            .new_tree(&mut runner)
            .expect("a strategy without filters")
            .current();
        match read(&damage.done_to(file)) {
            true => taken += 1,
            false => refused += 1,
        }
    }
    assert!(taken > 5 && refused > 5, "{taken} taken, {refused} refused");
}

fn tokenizes(file: &[u8]) -> bool {
    let Ok(tokenizer) = Tokenizer::from_json(file) else {
        return false;
    };
    for parse in [ParseSpecial::No, ParseSpecial::Yes] {
        let ids = tokenizer.encode(TEXT, AddSpecial::Yes, parse);
        assert!(ids.iter().all(|id| id.index() < tokenizer.vocab_size()));
        let _ = tokenizer.decode(&ids);
    }
    true
}

#[test]
fn damaged_tokenizers_are_refused_or_work() {
    for file in [
        &include_bytes!("../fixtures/tokenizers/byte_level.json")[..],
        include_bytes!("../fixtures/tokenizers/unigram.json"),
        include_bytes!("../fixtures/tokenizers/wordpiece.json"),
        include_bytes!("../fixtures/tokenizers/words.json"),
    ] {
        survive(file, tokenizes);
    }
}

/// The configuration of a small model with everything that may be said.
fn config() -> Vec<u8> {
    let config = json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
        "vocab_size": 32, "max_position_embeddings": 256, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "tie_word_embeddings": true, "torch_dtype": "float32",
        "rope_scaling": {
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 128
        },
        "bos_token_id": 1, "eos_token_id": [2, 3], "attention_bias": false, "sliding_window": null
    });
    serde_json::to_vec(&config).expect("JSON")
}

/// The weights of that model: zeros.
fn weights() -> Vec<u8> {
    let shapes: [(&str, &[usize]); 11] = [
        ("model.embed_tokens.weight", &[32, 64]),
        ("model.norm.weight", &[64]),
        ("model.layers.0.input_layernorm.weight", &[64]),
        ("model.layers.0.post_attention_layernorm.weight", &[64]),
        ("model.layers.0.self_attn.q_proj.weight", &[64, 64]),
        ("model.layers.0.self_attn.k_proj.weight", &[32, 64]),
        ("model.layers.0.self_attn.v_proj.weight", &[32, 64]),
        ("model.layers.0.self_attn.o_proj.weight", &[64, 64]),
        ("model.layers.0.mlp.gate_proj.weight", &[96, 64]),
        ("model.layers.0.mlp.up_proj.weight", &[96, 64]),
        ("model.layers.0.mlp.down_proj.weight", &[64, 96]),
    ];
    let mut header = serde_json::Map::new();
    let mut end = 0;
    for (name, shape) in shapes {
        let begin = end;
        end += 4 * shape.iter().product::<usize>();
        let entry = json!({"dtype": "F32", "shape": shape, "data_offsets": [begin, end]});
        header.insert(name.to_owned(), entry);
    }
    let header = serde_json::to_vec(&header).expect("JSON");
    let length = (header.len() as u64).to_le_bytes();
    [&length[..], &header, &vec![0; end]].concat()
}

#[test]
fn damaged_configurations_are_refused_or_describe_a_model() {
    let file: Arc<dyn FileBytes> = Arc::new(weights());
    survive(&config(), |config| {
        let texts = FolderTexts {
            config: config.to_vec(),
            ..FolderTexts::default()
        };
        Source::from_folder(texts, vec![("model.safetensors".to_owned(), Arc::clone(&file))])
            .is_ok_and(|source| Graph::build(source.config(), &source).is_ok())
    });
}

#[test]
fn a_damaged_index_names_files_of_the_folder_or_nothing() {
    let index = json!({
        "metadata": {"total_size": 100},
        "weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    });
    survive(&serde_json::to_vec(&index).expect("JSON"), |index| {
        let names = weight_files(index);
        for name in names.iter().flatten() {
            assert!(
                !name.contains(['/', '\\', '\0']) && !name.starts_with('.'),
                "{name:?}"
            );
        }
        names.is_ok()
    });
}

/// A template with the constructs that real ones use.
const TEMPLATE: &str = "{% set ns = namespace(n=0) %}{% for m in messages %}{% if m.role == 'user' %}<u>{{ m.content | trim }}\
     </u>{% elif loop.last %}{{ raise_exception('last') }}{% else %}{{ m['content'][:10] }}{% set ns.n = ns.n + 1 %}{% endif %}\
     {% endfor %}{% macro say(x, times=2) %}{{ x * times }}{% endmacro %}{{ say('ab') }}{{ messages | tojson }}";

/// Pieces that make templates long, deep or endless.
const PIECES: [&str; 12] = [
    "{% for a in range(100000) %}{% for b in range(100000) %}x{% endfor %}{% endfor %}",
    "{{ 'x' * 1000000000 }}",
    "{{ range(10000000000) | list }}",
    "{% macro r() %}{{ r() }}{% endmacro %}{{ r() }}",
    "{{ messages[99999999999999999999] }}",
    "{% for",
    "{{ (((((((((((((((((((((((((((((((",
    "{% include 'chat' %}",
    "{{ 9223372036854775807 + 1 }}{{ 1 // 0 }}{{ -9223372036854775808 // -1 }}",
    "{{ 'a'.replace('', 'aaaaaaaaaa').replace('', 'aaaaaaaaaa').replace('', 'aaaaaaaaaa').replace('', 'aaaaaaaaaa') }}",
    "{{ strftime_now('%Q%%%') }}",
    "{% set ns.messages = messages %}{{ '%s' % messages }}{{ '%999999999d' % 1 }}",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn a_damaged_template_writes_a_bounded_text_or_fails(
        bits in prop::collection::vec((any::<usize>(), 0u8..7), 0..4),
        piece in prop::option::of((any::<usize>(), 0..PIECES.len())),
    ) {
        let mut bytes = TEMPLATE.as_bytes().to_vec();
        for (at, bit) in bits {
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
        }
        if let Some((at, piece)) = piece {
            let at = at % bytes.len();
            bytes.splice(at..at, PIECES[piece].bytes());
        }
        let source = String::from_utf8(bytes).expect("seven bits");
        if let Ok(template) = ChatTemplate::new(&source) {
            let messages = json!([{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello there all"},
                {"role": "user", "content": "again"}]);
            let text = template.render(&ChatInput {
                messages: &messages, tools: None, add_generation_prompt: true, bos_token: "<s>", eos_token: "</s>",
                kwargs: &serde_json::Map::new(), now: LocalTime::new(2026, 1, 2, 3, 4, 5).expect("a date"),
            });
            prop_assert!(text.map_or(0, |text| text.len()) <= 64 << 20);
        }
    }
}
