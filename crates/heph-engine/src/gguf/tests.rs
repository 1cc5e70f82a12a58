//! What the reader takes and what it refuses.

use super::*;

/// A small file with every kind of value and two tensors.
fn sample() -> Vec<u8> {
    let mut header = Header::new();
    header.text("general.architecture", "llama");
    header.u32("llama.block_count", 2);
    header.f32("llama.rope.freq_base", 10_000.0);
    header.flag("tokenizer.ggml.add_bos_token", true);
    header.texts("tokenizer.ggml.tokens", &["<s>", "a", "\u{2581}b"]);
    header.i32s("tokenizer.ggml.token_type", &[3, 1, -1]);
    header.f32s("tokenizer.ggml.scores", &[0.0, -1.5, 2.0]);
    header.set("big", &Value::U64(u64::MAX));
    header.set("small", &Value::I8(-5));
    header.tensor("a.weight", Format::F32, &[3, 2]).expect("a shape");
    header
        .tensor("b.weight", Format::Q8_0, &[32, 2, 2])
        .expect("a shape");
    let mut body = header.begin(Vec::new()).expect("a vector takes all");
    body.tensor(&[7; 24]).expect("24 bytes");
    body.tensor(&[9; 136]).expect("136 bytes");
    body.finish().expect("complete")
}

#[test]
fn what_is_written_is_read() {
    let bytes = sample();
    let file = Gguf::parse(&bytes).expect("a good file");
    let meta = &file.metadata;
    assert_eq!(file.version, 3);
    assert_eq!(meta.text("general.architecture"), Ok(Some("llama")));
    assert_eq!(meta.integer("llama.block_count"), Ok(Some(2)));
    assert_eq!(meta.float("llama.rope.freq_base"), Ok(Some(10_000.0)));
    assert_eq!(meta.flag("tokenizer.ggml.add_bos_token"), Ok(Some(true)));
    assert_eq!(meta.integer("big"), Ok(Some(u64::MAX)));
    assert_eq!(meta.get("small"), Some(&Value::I8(-5)));
    assert_eq!(meta.integer("absent"), Ok(None));
    let tokens = meta
        .array("tokenizer.ggml.tokens")
        .expect("an array")
        .expect("present");
    let tokens: Vec<_> = tokens.strings().expect("strings").collect();
    assert_eq!(tokens, ["<s>".as_bytes(), b"a", "\u{2581}b".as_bytes()]);
    let kinds = meta
        .array("tokenizer.ggml.token_type")
        .expect("an array")
        .expect("present");
    assert!(kinds.integers().expect("whole numbers").eq([3, 1, -1]));
    let scores = meta
        .array("tokenizer.ggml.scores")
        .expect("an array")
        .expect("present");
    assert!(scores.floats().expect("floats").eq([0.0, -1.5, 2.0]));
    let tensor = file.tensor("b.weight").expect("present");
    assert_eq!(
        (tensor.format, tensor.dims, tensor.rank),
        (Format::Q8_0, [32, 2, 2, 1], 3)
    );
    assert_eq!(tensor.bytes, [9; 136]);
    assert_eq!(tensor.bytes.as_ptr() as usize % 32, bytes.as_ptr() as usize % 32);
    assert_eq!(file.tensor("c.weight"), None);
}

#[test]
fn every_truncation_is_an_error() {
    let bytes = sample();
    // The padding after the last tensor may be missing.
    for len in 0..bytes.len() - 24 {
        assert!(
            Gguf::parse(&bytes[..len]).is_err(),
            "{len} of {} bytes were read",
            bytes.len()
        );
    }
}

/// Bytes of a file with these counts and whatever follows.
fn raw(tensors: u64, entries: u64, rest: &[&[u8]]) -> Vec<u8> {
    let counts = [tensors.to_le_bytes(), entries.to_le_bytes()].concat();
    [MAGIC, &3u32.to_le_bytes()[..], &counts, &rest.concat()].concat()
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

fn word(value: u32) -> [u8; 4] {
    value.to_le_bytes()
}

fn long(value: u64) -> [u8; 8] {
    value.to_le_bytes()
}

/// A tensor entry of rank 1.
fn vector(name: &str, cols: u64, id: u32, offset: u64) -> Vec<u8> {
    [
        string(name),
        word(1).to_vec(),
        long(cols).to_vec(),
        word(id).to_vec(),
        long(offset).to_vec(),
    ]
    .concat()
}

#[test]
fn hostile_headers_are_named_errors() {
    let f32s = |name: &str, offset| vector(name, 8, 0, offset);
    let deep: Vec<u8> = [word(9).to_vec(), long(1).to_vec()].concat().repeat(50);
    let a = || GgufError::Shape { name: "a".to_owned() };
    let misplaced = |name: &str| GgufError::Extent {
        name: name.to_owned(),
    };
    let twice = |name: &str| GgufError::Duplicate {
        name: name.to_owned(),
    };
    let data = [0u8; 128];
    let cases: Vec<(&str, Vec<u8>, GgufError)> = vec![
        ("no magic", b"GGML".to_vec(), GgufError::Magic),
        ("nothing", vec![], GgufError::Magic),
        (
            "version 1",
            [MAGIC, &word(1)[..]].concat(),
            GgufError::Version { version: 1 },
        ),
        (
            "big-endian",
            [MAGIC, &3u32.to_be_bytes()[..]].concat(),
            GgufError::BigEndian,
        ),
        (
            "endless metadata",
            raw(0, u64::MAX, &[]),
            GgufError::Truncated {
                what: "a metadata key",
                at: 24,
                len: 24,
            },
        ),
        (
            "endless tensors",
            raw(u64::MAX, 0, &[]),
            GgufError::Truncated {
                what: "a tensor name",
                at: 24,
                len: 24,
            },
        ),
        (
            "endless key",
            raw(0, 1, &[&long(u64::MAX)]),
            GgufError::Key { index: 0 },
        ),
        (
            "empty key",
            raw(0, 1, &[&long(0), &word(0), &[1]]),
            GgufError::Key { index: 0 },
        ),
        (
            "key of noise",
            raw(0, 1, &[&long(1), &[0xff], &word(0), &[1]]),
            GgufError::Key { index: 0 },
        ),
        (
            "type 13",
            raw(0, 1, &[&string("k"), &word(13)]),
            GgufError::ValueType { kind: 13, at: 33 },
        ),
        (
            "endless string",
            raw(0, 1, &[&string("k"), &word(8), &long(u64::MAX)]),
            GgufError::Truncated {
                what: "a metadata value",
                at: 45,
                len: 45,
            },
        ),
        (
            "endless array",
            raw(0, 1, &[&string("k"), &word(9), &word(4), &long(u64::MAX / 2)]),
            GgufError::Truncated {
                what: "a metadata array",
                at: 37,
                len: 49,
            },
        ),
        (
            "endless array of strings",
            raw(0, 1, &[&string("k"), &word(9), &word(8), &long(1 << 40)]),
            GgufError::Truncated {
                what: "a metadata array",
                at: 37,
                len: 49,
            },
        ),
        (
            "deep arrays",
            raw(0, 1, &[&string("k"), &word(9), &deep]),
            GgufError::Nesting { max: 4, at: 85 },
        ),
        (
            "key twice",
            raw(
                0,
                2,
                &[&string("k"), &word(0), &[1], &string("k"), &word(0), &[1]],
            ),
            twice("k"),
        ),
        (
            "alignment 3",
            raw(0, 1, &[&string("general.alignment"), &word(4), &word(3)]),
            GgufError::Alignment { alignment: 3 },
        ),
        (
            "alignment as text",
            raw(0, 1, &[&string("general.alignment"), &word(8), &string("32")]),
            GgufError::WrongType {
                key: "general.alignment".to_owned(),
                found: "a string",
                wanted: "a whole number",
            },
        ),
        (
            "long name",
            raw(1, 0, &[&f32s(&"n".repeat(65), 0), &data]),
            GgufError::TensorName { index: 0 },
        ),
        (
            "unknown format",
            raw(1, 0, &[&vector("a", 8, 4, 0), &data]),
            GgufError::TensorType {
                name: "a".to_owned(),
                id: 4,
            },
        ),
        ("no dimensions", raw(1, 0, &[&string("a"), &word(0), &data]), a()),
        (
            "five dimensions",
            raw(1, 0, &[&string("a"), &word(5), &data]),
            a(),
        ),
        ("an empty tensor", raw(1, 0, &[&vector("a", 0, 0, 0), &data]), a()),
        ("ragged blocks", raw(1, 0, &[&vector("a", 33, 8, 0), &data]), a()),
        (
            "uncountable",
            raw(1, 0, &[&vector("a", u64::MAX, 0, 0), &data]),
            a(),
        ),
        (
            "off alignment",
            raw(1, 0, &[&f32s("a", 4), &data]),
            misplaced("a"),
        ),
        (
            "past the end",
            raw(1, 0, &[&f32s("a", 1 << 20), &data]),
            misplaced("a"),
        ),
        (
            "offset overflow",
            raw(1, 0, &[&f32s("a", u64::MAX - 31), &data]),
            misplaced("a"),
        ),
        (
            "tensor twice",
            raw(2, 0, &[&f32s("a", 0), &f32s("a", 32), &data]),
            twice("a"),
        ),
        (
            "one over another",
            raw(2, 0, &[&vector("a", 16, 0, 0), &f32s("b", 32), &data]),
            misplaced("b"),
        ),
    ];
    for (name, bytes, expected) in cases {
        assert_eq!(Gguf::parse(&bytes).expect_err(name), expected, "{name}");
    }
}

#[test]
fn a_vocabulary_needs_no_tensors_and_no_padding() {
    let bytes = raw(0, 1, &[&string("k"), &word(7), &[1]]);
    assert_eq!(Gguf::parse(&bytes).map(|file| file.tensors().len()), Ok(0));
}

#[test]
fn arrays_in_arrays_are_read() {
    let inner = [&word(5)[..], &long(2), &word(1), &word(2)].concat();
    let bytes = raw(
        0,
        1,
        &[&string("k"), &word(9), &word(9), &long(2), &inner, &inner],
    );
    let file = Gguf::parse(&bytes).expect("a good file");
    let outer = file.metadata.array("k").expect("an array").expect("present");
    let inner: Vec<Vec<i64>> = outer
        .values()
        .map(|value| match value {
            Value::Array(array) => array.integers().expect("whole numbers").collect(),
            other => panic!("{other:?} in an array of arrays"),
        })
        .collect();
    assert_eq!(inner, [[1, 2], [1, 2]]);
}

/// Part `number` of `count`, with one tensor.
fn part(number: u32, count: u32, tensor: &str) -> Vec<u8> {
    let mut header = Header::new();
    header.set("split.no", &Value::U16(number as u16));
    header.set("split.count", &Value::U16(count as u16));
    header.set("split.tensors.count", &Value::I32(2));
    header.tensor(tensor, Format::F32, &[8]).expect("a shape");
    let mut body = header.begin(Vec::new()).expect("a vector takes all");
    body.tensor(&[number as u8; 32]).expect("32 bytes");
    body.finish().expect("complete")
}

fn join(parts: &[Vec<u8>]) -> Result<usize, GgufError> {
    let parts = parts
        .iter()
        .map(|bytes| Gguf::parse(bytes).expect("a good part"))
        .collect();
    Gguf::join(parts).map(|whole| whole.tensors().len())
}

#[test]
fn parts_join_only_in_order_and_complete() {
    let (first, second) = (part(0, 2, "a"), part(1, 2, "b"));
    assert_eq!(join(&[first.clone(), second.clone()]), Ok(2));
    let refused = |parts: &[Vec<u8>]| matches!(join(parts), Err(GgufError::Shard { .. }));
    assert!(refused(&[second.clone(), first.clone()]), "wrong order");
    assert!(refused(std::slice::from_ref(&first)), "a part missing");
    assert!(refused(&[]), "no parts");
    assert!(
        refused(&[part(0, 3, "a"), part(1, 3, "b"), part(2, 3, "c")]),
        "one tensor too many"
    );
    assert_eq!(
        join(&[first, part(1, 2, "a")]),
        Err(GgufError::Duplicate { name: "a".to_owned() })
    );
}

#[test]
fn part_names_come_from_any_part() {
    let names = shard_names("dir/big-00002-of-00003.gguf").expect("a part");
    assert_eq!(
        names,
        [
            "dir/big-00001-of-00003.gguf",
            "dir/big-00002-of-00003.gguf",
            "dir/big-00003-of-00003.gguf"
        ]
    );
    for name in [
        "model.gguf",
        "m-1-of-2.gguf",
        "m-00003-of-00002.gguf",
        "m-00000-of-00002.gguf",
        "m-00001-of-99999.gguf",
    ] {
        assert_eq!(shard_names(name), None, "{name}");
    }
}

#[test]
fn the_writer_refuses_what_the_header_did_not_say() {
    let mut header = Header::new();
    assert!(header.tensor("a", Format::Q4K, &[255, 2]).is_err());
    header.tensor("a", Format::F32, &[2]).expect("a shape");
    let mut body = header.begin(Vec::new()).expect("a vector takes all");
    assert!(body.tensor(&[0; 4]).is_err());
    assert!(body.finish().is_err());
}
