//! Damaged and hostile files: no panic, and memory that stays in proportion to the file. Their headers are read, and what
//! stands there is opened: configuration, graph and vocabulary.
//!
//! One test in a program of its own, since the count of allocated bytes is of the whole program.

use heph_engine::gguf::{Gguf, Header, Value};
use heph_engine::graph::Graph;
use heph_engine::hf::Safetensors;
use heph_engine::source::{FileBytes, Source};
use heph_engine::tokenizer::{AddSpecial, ParseSpecial, Tokenizer, VocabularyMetadata};
use heph_kernels::format::Format;
use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Mutations tried of each file; a third of them each flip bits, cut, and plant lengths.
const MUTATIONS: u64 = 15_000;

/// Mutations tried of the vocabulary of each kind, 10,000 together; two kinds compile patterns each time.
const OPENED: [(&str, u64); 4] = [("llama", 4_500), ("t5", 4_500), ("gpt2", 500), ("bert", 500)];

/// The same of each kind of `tokenizer.json`.
const OPENED_JSON: [(&str, u64); 3] = [("BPE", 300), ("Unigram", 1_500), ("WordPiece", 300)];

/// What opening one takes at most, as a multiple of the file: an entry such as `["1f",-0.5],` is shorter than its place in
/// a table, its score and its spelling are.
const TIMES_JSON: f64 = 12.0;

/// What opening takes whatever the file's size: the patterns of a pre-tokenizer, and tables of bytes.
const OPENING_BYTES: usize = 6 << 20;

/// What an error of a sentence with a name may take on top: the file's size says nothing about it.
const ERROR_BYTES: usize = 512;

/// Steele, Lea and Flood 2014, "SplitMix64": a short generator is enough to pick places in a file.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}

/// Many short entries: the header is most of the file, which is the worst ratio of memory to bytes.
fn dense() -> Vec<u8> {
    let mut header = Header::new();
    for n in 0..200u8 {
        header.set(&format!("{n:x}"), &Value::U8(n));
    }
    for n in 0..100 {
        header
            .tensor(&format!("{n}"), Format::F32, &[1])
            .expect("a shape");
    }
    let mut body = header.begin(Vec::new()).expect("a vector takes all");
    (0..100).for_each(|_| body.tensor(&[0; 4]).expect("four bytes"));
    body.finish().expect("complete")
}

/// The header of a small language model.
fn model() -> Vec<u8> {
    let mut header = Header::new();
    header.text("general.architecture", "llama");
    header.u32("general.alignment", 32);
    let tokens: Vec<String> = (0..300).map(|n| format!("token{n}")).collect();
    header.texts("tokenizer.ggml.tokens", &tokens);
    header.f32s("tokenizer.ggml.scores", &[0.5; 300]);
    header.i32s("tokenizer.ggml.token_type", &[1; 300]);
    for name in ["token_embd.weight", "output.weight"] {
        header.tensor(name, Format::Q4K, &[256, 4]).expect("a shape");
    }
    let mut body = header.begin(Vec::new()).expect("a vector takes all");
    (0..2).for_each(|_| body.tensor(&[1; 576]).expect("four rows"));
    body.finish().expect("complete")
}

/// A safetensors file of many short entries.
fn table() -> Vec<u8> {
    let entry = |n: usize| {
        let end = 4 * (n + 1);
        format!(
            r#""{n}":{{"dtype":"F32","shape":[1],"data_offsets":[{},{end}]}}"#,
            4 * n
        )
    };
    let header = format!("{{{}}}", (0..200).map(entry).collect::<Vec<_>>().join(","));
    [
        &(header.len() as u64).to_le_bytes()[..],
        header.as_bytes(),
        &[0; 800],
    ]
    .concat()
}

/// Lengths that break careless sums.
const BOMBS: [u64; 8] = [
    u64::MAX,
    u64::MAX / 2,
    i64::MAX as u64 + 1,
    1 << 40,
    1 << 32,
    u32::MAX as u64,
    1 << 20,
    0,
];

fn mutate(file: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = file.to_vec();
    match random.below(3) {
        0 => {
            for _ in 0..1 + random.below(8) {
                let at = random.below(bytes.len());
                bytes[at] ^= 1 << random.below(8);
            }
        }
        1 => bytes.truncate(random.below(bytes.len())),
        _ => {
            let at = random.below(bytes.len() - 8);
            bytes[at..at + 8].copy_from_slice(&BOMBS[random.below(BOMBS.len())].to_le_bytes());
        }
    }
    bytes
}

/// What the reader of a kind of file says of these bytes.
type Verdict = fn(&[u8]) -> Result<(), String>;

#[test]
fn damaged_files_neither_panic_nor_take_more_than_four_times_their_size() {
    opened();
    let gguf: Verdict = |bytes| Gguf::parse(bytes).map(drop).map_err(|error| error.to_string());
    let safetensors: Verdict = |bytes| {
        Safetensors::parse(bytes)
            .map(drop)
            .map_err(|error| error.to_string())
    };
    for (name, file, verdict) in [
        ("many entries", dense(), gguf),
        ("a model", model(), gguf),
        ("safetensors", table(), safetensors),
    ] {
        verdict(&file).expect(name);
        let mut random = Random(2);
        let (mut refused, mut worst) = (0, 0.0f64);
        for round in 0..MUTATIONS {
            let bytes = mutate(&file, &mut random);
            MEMORY.reset_peak_usage();
            let before = MEMORY.current_usage();
            let outcome = verdict(&bytes);
            let taken = MEMORY.peak_usage().saturating_sub(before);
            refused += u64::from(outcome.is_err());
            let limit = 4 * bytes.len() + ERROR_BYTES;
            assert!(
                taken <= limit,
                "{name}, round {round}: {taken} bytes for {}",
                bytes.len()
            );
            if bytes.len() > 1000 {
                worst = worst.max(taken as f64 / bytes.len() as f64);
            }
        }
        assert!(
            refused > MUTATIONS / 4,
            "{name}: only {refused} were refused, the mutations are too tame"
        );
        assert!(
            worst > 0.05,
            "{name}: at most {worst:.2} times the file, so the count does not count"
        );
    }
}

/// A vocabulary of `model` with as many tokens, merges, scores and kinds as real ones have, and the configuration of a
/// model without weights.
fn vocabulary(model: &str, tokens: usize) -> Vec<u8> {
    let mut header = Header::new();
    header.text("general.architecture", "llama");
    for (key, value) in [
        ("context_length", 128),
        ("embedding_length", 64),
        ("block_count", 2),
        ("feed_forward_length", 96),
        ("attention.head_count", 4),
        ("attention.head_count_kv", 2),
        ("vocab_size", tokens as u32),
    ] {
        header.u32(&format!("llama.{key}"), value);
    }
    header.text("tokenizer.ggml.model", model);
    header.text("tokenizer.ggml.pre", "qwen2");
    let texts: Vec<String> = (0..tokens).map(|n| format!("{n:x}")).collect();
    header.texts("tokenizer.ggml.tokens", &texts);
    header.f32s("tokenizer.ggml.scores", &vec![-0.5; tokens]);
    let kinds: Vec<i32> = (0..tokens as i32)
        .map(|n| [1, 1, 1, 3, 4, 6][n as usize % 6])
        .collect();
    header.i32s("tokenizer.ggml.token_type", &kinds);
    let merges: Vec<String> = (16..tokens)
        .map(|n| format!("{:x} {:x}", n / 16, n % 16))
        .collect();
    header.texts("tokenizer.ggml.merges", &merges);
    let body = header.begin(Vec::new()).expect("a vector takes all");
    body.finish().expect("complete")
}

/// Opens a file as far as its vocabulary: what the program does before it reads a weight.
fn open(bytes: &[u8]) -> Result<(), String> {
    let file: std::sync::Arc<dyn FileBytes> = std::sync::Arc::new(bytes.to_vec());
    if let Ok(source) = Source::from_gguf(vec![file]) {
        let _ = Graph::build(source.config(), &source);
    }
    let file = Gguf::parse(bytes).map_err(|error| error.to_string())?;
    let vocabulary = VocabularyMetadata::from_gguf(&file.metadata).map_err(|error| error.to_string())?;
    let tokenizer = Tokenizer::from_metadata(&vocabulary).map_err(|error| error.to_string())?;
    drop(vocabulary);
    let ids = tokenizer.encode("1f 20 \u{e9}", AddSpecial::Yes, ParseSpecial::Yes);
    assert!(ids.iter().all(|id| id.index() < tokenizer.vocab_size()));
    Ok(())
}

/// A `tokenizer.json` whose model is of `kind`, with as many tokens and merges as real ones have.
fn tokenizer_json(kind: &str, tokens: usize) -> Vec<u8> {
    let list = |entry: fn(usize) -> String| (0..tokens).map(entry).collect::<Vec<_>>().join(",");
    let model = match kind {
        "BPE" => format!(
            r#""vocab":{{{}}},"merges":[{}]"#,
            list(|n| format!(r#""{n:x}":{n}"#)),
            (16..tokens)
                .map(|n| format!(r#""{:x} {:x}""#, n / 16, n % 16))
                .collect::<Vec<_>>()
                .join(",")
        ),
        "Unigram" => format!(
            r#""unk_id":0,"vocab":[{}]"#,
            list(|n| format!(r#"["{n:x}",-0.5]"#))
        ),
        _ => format!(
            r#""unk_token":"0","continuing_subword_prefix":"@","max_input_chars_per_word":100,"vocab":{{{}}}"#,
            list(|n| format!(r#""{n:x}":{n}"#))
        ),
    };
    format!(r#"{{"added_tokens":[],"normalizer":null,"pre_tokenizer":{{"type":"ByteLevel"}},"post_processor":null,"decoder":null,"model":{{"type":"{kind}",{model}}}}}"#)
        .into_bytes()
}

/// Opens the tokenizer of a Hugging Face folder.
fn open_json(bytes: &[u8]) -> Result<(), String> {
    let tokenizer = Tokenizer::from_json(bytes).map_err(|error| error.to_string())?;
    let ids = tokenizer.encode("1f 20 \u{e9}", AddSpecial::Yes, ParseSpecial::Yes);
    assert!(ids.iter().all(|id| id.index() < tokenizer.vocab_size()));
    Ok(())
}

/// Opens damaged copies of vocabularies of each kind, and one large whole one: four times the file at most
/// ([`TIMES_JSON`] where it is a `tokenizer.json`), and a constant.
fn opened() {
    for (model, mutations) in OPENED {
        // The copy that `open` makes of the file is its own.
        each_opened(
            model,
            open,
            |tokens| vocabulary(model, tokens),
            mutations,
            (1, 4.0),
        );
    }
    for (kind, mutations) in OPENED_JSON {
        each_opened(
            kind,
            open_json,
            |tokens| tokenizer_json(kind, tokens),
            mutations,
            (0, TIMES_JSON),
        );
    }
}

fn each_opened(
    name: &str,
    open: Verdict,
    file: impl Fn(usize) -> Vec<u8>,
    mutations: u64,
    (copies, times_max): (usize, f64),
) {
    let taken = |bytes: &[u8]| {
        MEMORY.reset_peak_usage();
        let before = MEMORY.current_usage();
        let outcome = open(bytes);
        (MEMORY.peak_usage().saturating_sub(before), outcome)
    };
    let small = file(600);
    open(&small).expect(name);
    let mut random = Random(3);
    for round in 0..mutations {
        let bytes = mutate(&small, &mut random);
        let (taken, _) = taken(&bytes);
        let limit = 4 * bytes.len() + OPENING_BYTES;
        assert!(
            taken <= limit,
            "{name}, round {round}: {taken} bytes for {}",
            bytes.len()
        );
    }
    let large = file(400_000);
    let (taken, outcome) = taken(&large);
    outcome.expect(name);
    let times = (taken - copies * large.len()) as f64 / large.len() as f64;
    assert!(times <= times_max, "{name}: {times:.1} times the file");
    assert!(
        times > 0.5,
        "{name}: {times:.1} times the file, so the count does not count"
    );
}
