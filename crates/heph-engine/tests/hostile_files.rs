//! Damaged and hostile files: no panic, and memory that stays in proportion to the file.
//!
//! One test in a program of its own, since the count of allocated bytes is of the whole program.

use heph_engine::gguf::{Gguf, Header, Value};
use heph_engine::hf::Safetensors;
use heph_kernels::format::Format;
use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Mutations tried of each file; a third of them each flip bits, cut, and plant lengths.
const MUTATIONS: u64 = 15_000;

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
