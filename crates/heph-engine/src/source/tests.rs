//! What GGUF files are taken and what is refused.

use super::*;
use crate::config::{ModelConfig, RopeScaling};
use crate::gguf::{Header, Value};
use crate::graph::{Graph, GraphError};
use heph_kernels::format::Format;
use heph_kernels::rope::RopeStyle;

/// A key and its value instead of the sample's: `None` takes the key away.
type Change<'a> = (&'a str, Option<Value<'a>>);

/// Metadata to put over the sample's.
type Changes<'a> = &'a [Change<'a>];

/// A file with the metadata of a small model, `changes` on top, a token table and other tensors.
fn file(changes: Changes<'_>, tensors: &[(&str, Format, &[usize])]) -> Vec<u8> {
    let sample = [
        ("general.architecture", Value::String(b"llama")),
        ("llama.block_count", Value::U32(2)),
        ("llama.context_length", Value::U32(512)),
        ("llama.embedding_length", Value::U32(64)),
        ("llama.feed_forward_length", Value::U32(96)),
        ("llama.attention.head_count", Value::U32(4)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
    ];
    let mut header = Header::new();
    let unchanged = sample
        .iter()
        .filter(|(key, _)| changes.iter().all(|change| change.0 != *key));
    unchanged.for_each(|(key, value)| header.set(key, value));
    changes
        .iter()
        .filter_map(|(key, value)| Some((key, value.as_ref()?)))
        .for_each(|(key, value)| header.set(key, value));
    for (name, format, dims) in tensors {
        header.tensor(name, *format, dims).expect("a shape");
    }
    let mut body = header.begin(Vec::new()).expect("a vector takes all");
    for (_, format, dims) in tensors {
        let bytes = format.row_bytes(dims[0]).expect("whole blocks") * dims[1..].iter().product::<usize>();
        let ones: Vec<u8> = std::iter::repeat_n(1f32.to_le_bytes(), bytes.div_ceil(4))
            .flatten()
            .take(bytes)
            .collect();
        body.tensor(&ones).expect("as many bytes");
    }
    body.finish().expect("complete")
}

const TABLE: (&str, Format, &[usize]) = ("token_embd.weight", Format::Q8_0, &[64, 100]);

fn open(bytes: Vec<u8>) -> Result<Source, SourceError> {
    Source::from_gguf(vec![Arc::new(bytes)])
}

fn config(changes: Changes<'_>) -> Result<ModelConfig, SourceError> {
    open(file(changes, &[TABLE])).map(|source| source.config().clone())
}

#[test]
fn what_a_file_leaves_out_has_the_usual_value() {
    let config = config(&[]).expect("a good file");
    assert_eq!(
        (
            config.layers,
            config.hidden,
            config.ffn,
            config.vocab,
            config.context
        ),
        (2, 64, 96, 100, 512)
    );
    assert_eq!((config.heads, config.kv_heads, config.head_dim), (4, 4, 16));
    assert_eq!(
        (config.rope.theta, config.rope.dims, config.rope.style),
        (10_000.0, 16, RopeStyle::Interleaved)
    );
    assert_eq!(
        (config.rope.scaling, config.sliding_window, config.experts),
        (RopeScaling::None, None, None)
    );
}

#[test]
fn rope_scaling_is_read_in_every_way_it_is_written() {
    let linear = RopeScaling::Linear { factor: 4.0 };
    let factor = ("llama.rope.scaling.factor", Some(Value::F32(4.0)));
    let kind = |name: &'static str| ("llama.rope.scaling.type", Some(Value::String(name.as_bytes())));
    let yarn = |attention_factor| RopeScaling::Yarn {
        factor: 4.0,
        beta_fast: 32.0,
        beta_slow: 1.0,
        original_context: 128,
        attention_factor,
    };
    let original = (
        "llama.rope.scaling.original_context_length",
        Some(Value::U32(128)),
    );
    let stated = ("llama.rope.scaling.yarn_attn_factor", Some(Value::F32(1.5)));
    let cases: Vec<(Vec<Change<'_>>, RopeScaling)> = vec![
        (vec![factor], linear.clone()),
        (vec![factor, kind("linear")], linear.clone()),
        (vec![("llama.rope.scale_linear", Some(Value::F32(4.0)))], linear),
        (vec![factor, kind("none")], RopeScaling::None),
        (
            vec![("llama.rope.scaling.factor", Some(Value::F32(0.0)))],
            RopeScaling::None,
        ),
        (vec![factor, kind("yarn"), original], yarn(None)),
        (vec![factor, kind("yarn"), original, stated], yarn(Some(1.5))),
    ];
    for (changes, expected) in cases {
        assert_eq!(
            config(&changes).expect("a good file").rope.scaling,
            expected,
            "{changes:?}"
        );
    }
    let extra = [
        factor,
        kind("yarn"),
        original,
        ("llama.rope.scaling.attn_factor", Some(Value::F32(2.0))),
    ];
    let RopeScaling::Yarn {
        attention_factor: Some(got),
        ..
    } = config(&extra).expect("a good file").rope.scaling
    else {
        panic!("no attention factor");
    };
    assert!((got - 2.0 * (0.1 * 4f64.ln() + 1.0)).abs() < 1e-12);
}

#[test]
fn rope_divisors_are_configuration_and_no_weights() {
    let source = open(file(&[], &[TABLE, ("rope_freqs.weight", Format::F32, &[8])])).expect("a good file");
    assert_eq!(source.config().rope.scaling, RopeScaling::Divisors(vec![1.0; 8]));
    assert!(source.tensor("rope_freqs.weight").is_none());
    let wrong = open(file(&[], &[TABLE, ("rope_freqs.weight", Format::F32, &[9])]));
    assert!(matches!(wrong.err(), Some(SourceError::Config(_))));
}

#[test]
fn windows_and_experts_are_read() {
    let window = [("llama.attention.sliding_window", Some(Value::U32(16)))];
    assert_eq!(config(&window).expect("a good file").sliding_window, Some(16));
    let none = [("llama.attention.sliding_window", Some(Value::U32(0)))];
    assert_eq!(config(&none).expect("a good file").sliding_window, None);
    let experts = [
        ("llama.expert_count", Some(Value::U32(8))),
        ("llama.expert_used_count", Some(Value::U32(2))),
    ];
    let experts = config(&experts).expect("a good file").experts.expect("experts");
    assert_eq!(
        (experts.count, experts.used, experts.ffn, experts.normalise),
        (8, 2, 96, true)
    );
}

#[test]
fn what_is_missing_hostile_or_unsupported_is_named() {
    let cases: Vec<(Vec<Change<'_>>, &str)> = vec![
        (
            vec![("general.architecture", None)],
            "the model's configuration does not say \"general.architecture\"",
        ),
        (
            vec![("general.architecture", Some(Value::String(b"bloom")))],
            "models of the architecture \"bloom\" are not supported",
        ),
        (
            vec![("llama.block_count", None)],
            "the model's configuration does not say \"llama.block_count\"",
        ),
        (
            vec![("llama.block_count", Some(Value::String(b"2")))],
            "metadata \"llama.block_count\" is a string, not a whole number",
        ),
        (
            vec![("llama.block_count", Some(Value::U64(u64::MAX)))],
            "the model's configuration is not usable: the number of layers is 18446744073709551615, more than 4096",
        ),
        (
            vec![("llama.attention.head_count", Some(Value::U32(0)))],
            "the model's configuration is not usable: the number of heads is 0",
        ),
        (
            vec![("llama.attention.head_count_kv", Some(Value::U32(3)))],
            "the model's configuration is not usable: 4 heads do not share 3 key heads evenly",
        ),
        (
            vec![("llama.attention.key_length", Some(Value::U32(0)))],
            "the model's configuration is not usable: the width of a head is 0",
        ),
        (
            vec![("llama.attention.value_length", Some(Value::U32(8)))],
            "the model asks for something that is not supported: values as wide as keys are not",
        ),
        (
            vec![("llama.rope.scaling.type", Some(Value::String(b"longrope")))],
            "the model asks for something that is not supported: rope scaling \"longrope\"",
        ),
        (
            vec![("llama.expert_count", Some(Value::U32(8)))],
            "the model's configuration does not say \"llama.expert_used_count\"",
        ),
    ];
    for (changes, sentence) in cases {
        assert_eq!(config(&changes).expect_err(sentence).to_string(), sentence);
    }
    let vocabulary = open(file(&[], &[])).err().expect("no model");
    assert_eq!(
        vocabulary.to_string(),
        "the model has no tensor \"token_embd.weight\""
    );
}

#[test]
fn stacked_experts_are_read_in_one_piece_and_one_by_one() {
    let source = open(file(
        &[],
        &[TABLE, ("blk.0.ffn_up_exps.weight", Format::Q8_0, &[64, 3, 2])],
    ))
    .expect("a good file");
    let tensor = source.tensor("blk.0.ffn_up_exps.weight").expect("a stack");
    assert_eq!(
        (tensor.spec.rows, tensor.spec.cols, tensor.spec.experts),
        (3, 64, 2)
    );
    assert_eq!(
        tensor
            .matrices
            .iter()
            .map(|matrix| matrix.len())
            .collect::<Vec<_>>(),
        [204, 204]
    );
    assert!(
        matches!(source.read("blk.0.ffn_up_exps.weight", &Pool::serial()), Some(Cow::Borrowed(bytes)) if bytes.len() == 408)
    );
    assert!(
        source
            .read("blk.0.ffn_down_exps.weight", &Pool::serial())
            .is_none()
    );
}

#[test]
fn a_tensor_that_nothing_computes_with_is_refused() {
    const LAYER: [(&str, Format, &[usize]); 10] = [
        ("output_norm.weight", Format::F32, &[64]),
        ("blk.0.attn_norm.weight", Format::F32, &[64]),
        ("blk.0.ffn_norm.weight", Format::F32, &[64]),
        ("blk.0.attn_q.weight", Format::Q8_0, &[64, 64]),
        ("blk.0.attn_k.weight", Format::Q8_0, &[64, 64]),
        ("blk.0.attn_v.weight", Format::Q8_0, &[64, 64]),
        ("blk.0.attn_output.weight", Format::Q8_0, &[64, 64]),
        ("blk.0.ffn_gate.weight", Format::Q8_0, &[64, 96]),
        ("blk.0.ffn_up.weight", Format::Q8_0, &[64, 96]),
        ("blk.0.ffn_down.weight", Format::Q8_0, &[96, 64]),
    ];
    let built = |more: &[(&str, Format, &[usize])]| {
        let tensors = [&[TABLE][..], &LAYER, more].concat();
        let source =
            open(file(&[("llama.block_count", Some(Value::U32(1)))], &tensors)).expect("a good file");
        Graph::build(source.config(), &source).map(|graph| graph.layers.len())
    };
    assert_eq!(built(&[]), Ok(1));
    assert_eq!(built(&[("blk.0.attn_q.bias", Format::F32, &[64])]), Ok(1));
    assert_eq!(built(&[("rope_freqs.weight", Format::F32, &[8])]), Ok(1));
    // Norms that only Qwen has, and a layer more than the file speaks of.
    for name in ["blk.0.attn_q_norm.weight", "blk.1.attn_norm.weight"] {
        let name_of = name.to_owned();
        assert_eq!(
            built(&[(name, Format::F32, &[16])]),
            Err(GraphError::Unused { name: name_of })
        );
    }
}
