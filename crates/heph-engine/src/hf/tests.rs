//! What folders are taken and what is refused.

use super::*;
use crate::config::RopeScaling;
use crate::source::{FileBytes, Source};
use heph_kernels::pool::Pool;
use serde_json::{Value, json};
use std::sync::Arc;

/// A safetensors file of F32 tensors whose numbers count up from `first`.
pub(crate) fn weights(tensors: &[(&str, &[usize], f32)]) -> Vec<u8> {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for &(name, shape, first) in tensors {
        let start = data.len();
        let count: usize = shape.iter().product();
        data.extend((0..count).flat_map(|n| (first + n as f32).to_le_bytes()));
        let facts = json!({"dtype": "F32", "shape": shape, "data_offsets": [start, data.len()]});
        header.insert(name.to_owned(), facts);
    }
    file(&Value::Object(header).to_string(), &data)
}

fn file(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
}

/// A configuration of the kind that transformers 5 writes, with `changes` on top; `null` takes a key away.
fn config(changes: Value) -> Vec<u8> {
    let mut config = json!({
        "architectures": ["LlamaForCausalLM"], "hidden_size": 8, "intermediate_size": 4, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 16, "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5, "hidden_act": "silu",
        "rope_parameters": {"rope_type": "default", "rope_theta": 500_000.0},
    });
    for (key, value) in changes.as_object().expect("an object") {
        config[key] = value.clone();
    }
    config.to_string().into_bytes()
}

fn read(changes: Value) -> Result<ModelConfig, SourceError> {
    config::read(&config(changes))
}

#[test]
fn a_setting_of_another_type_is_named() {
    for (changes, key) in [
        (json!({"hidden_size": "8"}), "\"hidden_size\""),
        (json!({"rope_parameters": [1, 2]}), "\"rope_parameters\""),
        (json!({"rms_norm_eps": "small"}), "\"rms_norm_eps\""),
        (json!({"num_hidden_layers": -1}), "\"num_hidden_layers\""),
    ] {
        let said = read(changes).unwrap_err().to_string();
        assert!(
            said.starts_with(&format!("config.json cannot be read: {key}: ")),
            "{said}"
        );
        assert!(!said.contains("Raw"), "{said}");
    }
}

#[test]
fn both_generations_of_config_read_alike() {
    let five = read(json!({"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e6}}));
    let four = read(
        json!({"rope_parameters": null, "rope_theta": 1e6, "rope_scaling": {"type": "linear", "factor": 4.0}}),
    );
    assert_eq!(five, four);
    let five = five.expect("a good configuration");
    assert_eq!((five.rope.theta, five.rope.dims), (1e6, 2));
    assert_eq!(five.rope.scaling, RopeScaling::Linear { factor: 4.0 });
    assert_eq!(
        (five.architecture.as_str(), five.head_dim, five.kv_heads),
        ("llama", 2, 2)
    );
}

#[test]
fn each_architecture_has_its_own_rotary_base() {
    for (architecture, changes, theta) in [
        ("LlamaForCausalLM", json!({}), 1e4),
        ("MixtralForCausalLM", json!({}), 1e6),
        ("MixtralForCausalLM", json!({"rope_theta": 1e5}), 1e5),
    ] {
        let mut all = changes.clone();
        all["architectures"] = json!([architecture]);
        all["rope_parameters"] = json!(null);
        assert_eq!(
            read(all).expect("a good configuration").rope.theta,
            theta,
            "{architecture} {changes}"
        );
    }
}

#[test]
fn each_architecture_reads_its_window_its_own_way() {
    let cases = [
        ("LlamaForCausalLM", json!({"sliding_window": 16}), None),
        ("MistralForCausalLM", json!({"sliding_window": 16}), Some(16)),
        ("MistralForCausalLM", json!({"sliding_window": null}), None),
        ("MistralForCausalLM", json!({}), Some(4096)),
        ("MixtralForCausalLM", json!({}), None),
        (
            "Qwen2ForCausalLM",
            json!({"sliding_window": 16, "max_window_layers": 0}),
            None,
        ),
        (
            "Qwen2ForCausalLM",
            json!({"sliding_window": 16, "use_sliding_window": true, "max_window_layers": 0}),
            Some(16),
        ),
        (
            "Qwen2ForCausalLM",
            json!({"sliding_window": 16, "use_sliding_window": true, "max_window_layers": 2}),
            None,
        ),
        (
            "Qwen3ForCausalLM",
            json!({"sliding_window": 16, "use_sliding_window": true, "max_window_layers": 2,
                "layer_types": ["sliding_attention", "sliding_attention"]}),
            Some(16),
        ),
        (
            "Qwen3ForCausalLM",
            json!({"sliding_window": 16, "use_sliding_window": true, "max_window_layers": 0,
                "layer_types": ["full_attention", "full_attention"]}),
            None,
        ),
        (
            "Qwen3MoeForCausalLM",
            json!({"sliding_window": 16, "use_sliding_window": true, "max_window_layers": 2}),
            Some(16),
        ),
        ("Qwen3MoeForCausalLM", json!({"sliding_window": 16}), None),
    ];
    for (architecture, mut changes, expected) in cases {
        changes["architectures"] = json!([architecture]);
        let got = read(changes.clone())
            .expect("a good configuration")
            .sliding_window;
        assert_eq!(got, expected, "{changes}");
    }
}

#[test]
fn experts_are_read_under_both_names() {
    let mixtral = read(
        json!({"architectures": ["MixtralForCausalLM"], "num_local_experts": 4, "num_experts_per_tok": 2}),
    );
    let mixtral = mixtral.expect("a good configuration").experts.expect("experts");
    assert_eq!(
        (mixtral.count, mixtral.used, mixtral.ffn, mixtral.normalise),
        (4, 2, 4, true)
    );
    let qwen = json!({"architectures": ["Qwen3MoeForCausalLM"], "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 6});
    let qwen = read(qwen)
        .expect("a good configuration")
        .experts
        .expect("experts");
    assert_eq!((qwen.count, qwen.ffn, qwen.normalise), (8, 6, false));
}

#[test]
fn yarn_takes_the_defaults_of_transformers() {
    let rope = json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "mscale": 1.0, "mscale_all_dim": 0.5});
    let scaling = read(json!({"rope_parameters": rope}))
        .expect("a good configuration")
        .rope
        .scaling;
    let RopeScaling::Yarn {
        factor,
        beta_fast,
        beta_slow,
        original_context,
        attention_factor,
    } = scaling
    else {
        panic!("{scaling:?} is not YaRN");
    };
    assert_eq!(
        (factor, beta_fast, beta_slow, original_context),
        (4.0, 32.0, 1.0, 64)
    );
    let ratio = (0.1 * 4f64.ln() + 1.0) / (0.05 * 4f64.ln() + 1.0);
    assert!((attention_factor.expect("a ratio") - ratio).abs() < 1e-12);
}

#[test]
fn what_is_missing_or_unsupported_is_named() {
    let cases = [
        (
            json!({"architectures": null}),
            "the model's configuration does not say \"architectures\"",
        ),
        (
            json!({"architectures": []}),
            "the model's configuration does not say \"architectures\"",
        ),
        (
            json!({"architectures": ["BloomForCausalLM"]}),
            "models of the architecture \"BloomForCausalLM\" are not supported",
        ),
        (
            json!({"hidden_size": null}),
            "the model's configuration does not say \"hidden_size\"",
        ),
        (
            json!({"hidden_act": "gelu"}),
            "the model asks for something that is not supported: the activation \"gelu\"",
        ),
        (
            json!({"rope_parameters": {"rope_type": "longrope"}}),
            "the model asks for something that is not supported: rope scaling \"longrope\"",
        ),
        (
            json!({"rope_parameters": {"rope_type": "linear"}}),
            "the model's configuration does not say \"rope_parameters.factor\"",
        ),
        (
            json!({"quantization_config": {}}),
            "the model asks for something that is not supported: weights that are quantised inside safetensors",
        ),
    ];
    for (changes, sentence) in cases {
        assert_eq!(read(changes).expect_err(sentence).to_string(), sentence);
    }
    for changes in [
        json!({"hidden_size": -1}),
        json!({"vocab_size": "many"}),
        json!({"hidden_size": 1e99}),
    ] {
        assert!(matches!(
            read(changes),
            Err(SourceError::Folder(HfError::Json { .. }))
        ));
    }
}

#[test]
fn hostile_numbers_are_refused_before_they_size_anything() {
    for changes in [
        json!({"num_attention_heads": 0}),
        json!({"num_key_value_heads": 3}),
        json!({"num_key_value_heads": 0}),
        json!({"head_dim": 0}),
        json!({"num_hidden_layers": 1u64 << 40}),
        json!({"hidden_size": u64::MAX}),
        json!({"vocab_size": 0}),
        json!({"rope_parameters": {"rope_theta": -1.0}}),
        json!({"rms_norm_eps": -1.0}),
    ] {
        let texts = FolderTexts {
            config: config(changes.clone()),
            ..FolderTexts::default()
        };
        assert!(Source::from_folder(texts, vec![]).is_err(), "{changes}");
    }
}

fn source(changes: Value, tensors: &[(&str, &[usize], f32)]) -> Result<Source, SourceError> {
    let texts = FolderTexts {
        config: config(changes),
        ..FolderTexts::default()
    };
    let file: Arc<dyn FileBytes> = Arc::new(weights(tensors));
    Source::from_folder(texts, vec![(WEIGHTS.to_owned(), file)])
}

fn moe() -> Value {
    json!({"architectures": ["Qwen3MoeForCausalLM"], "num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 4})
}

#[test]
fn fused_and_separate_experts_are_one_model() {
    let fused = source(
        moe(),
        &[
            ("model.layers.0.mlp.experts.gate_up_proj", &[2, 8, 8], 0.0),
            ("model.layers.0.mlp.experts.down_proj", &[2, 8, 4], 500.0),
        ],
    );
    let apart = source(
        moe(),
        &[
            ("model.layers.0.mlp.experts.1.up_proj.weight", &[4, 8], 96.0),
            ("model.layers.0.mlp.experts.0.gate_proj.weight", &[4, 8], 0.0),
            ("model.layers.0.mlp.experts.0.up_proj.weight", &[4, 8], 32.0),
            ("model.layers.0.mlp.experts.1.gate_proj.weight", &[4, 8], 64.0),
            ("model.layers.0.mlp.experts.0.down_proj.weight", &[8, 4], 500.0),
            ("model.layers.0.mlp.experts.1.down_proj.weight", &[8, 4], 532.0),
        ],
    );
    let (fused, apart) = (fused.expect("a model"), apart.expect("a model"));
    for name in [
        "blk.0.ffn_gate_exps.weight",
        "blk.0.ffn_up_exps.weight",
        "blk.0.ffn_down_exps.weight",
    ] {
        let (one, other) = (fused.tensor(name).expect(name), apart.tensor(name).expect(name));
        assert_eq!(one, other);
        assert_eq!(one.spec.experts, 2);
        assert_eq!(
            fused.read(name, &Pool::serial()),
            apart.read(name, &Pool::serial())
        );
        assert_eq!(
            fused.read(name, &Pool::serial()).expect(name).len(),
            2 * 4 * 8 * 4
        );
    }
}

#[test]
fn a_missing_or_odd_expert_is_an_error() {
    let one: (&str, &[usize], f32) = ("model.layers.0.mlp.experts.0.down_proj.weight", &[8, 4], 0.0);
    let odd: (&str, &[usize], f32) = ("model.layers.0.mlp.experts.1.down_proj.weight", &[4, 8], 0.0);
    let far: (&str, &[usize], f32) = ("model.layers.0.mlp.experts.99.down_proj.weight", &[8, 4], 0.0);
    for tensors in [&[one][..], &[one, odd], &[one, far]] {
        let error = source(moe(), tensors).err().expect("no model");
        assert!(
            matches!(error, SourceError::Folder(HfError::Experts { count: 2, .. })),
            "{error}"
        );
    }
}

#[test]
fn vectors_are_one_row_and_a_tied_head_is_dropped() {
    let tensors: &[(&str, &[usize], f32)] = &[
        ("model.embed_tokens.weight", &[16, 8], 0.0),
        ("lm_head.weight", &[16, 8], 1000.0),
        ("model.norm.weight", &[8], 1.0),
        ("model.layers.1.self_attn.q_proj.bias", &[8], 2.0),
        ("model.layers.1.self_attn.rotary_emb.inv_freq", &[4], 0.0),
    ];
    let names = |source: &Source| source.specs().map(|spec| spec.name.clone()).collect::<Vec<_>>();
    let apart = source(json!({}), tensors).expect("a model");
    assert_eq!(
        names(&apart),
        [
            "blk.1.attn_q.bias",
            "output.weight",
            "output_norm.weight",
            "token_embd.weight"
        ]
    );
    let tied = source(json!({"tie_word_embeddings": true}), tensors).expect("a model");
    assert_eq!(
        names(&tied),
        ["blk.1.attn_q.bias", "output_norm.weight", "token_embd.weight"]
    );
    let norm = tied.tensor("output_norm.weight").expect("a norm").spec;
    assert_eq!((norm.rows, norm.cols, norm.experts), (1, 8, 1));
    let mut row = [0.0; 8];
    tied.row("token_embd.weight", 2, &mut row).expect("a row");
    assert_eq!(row, [16.0, 17.0, 18.0, 19.0, 20.0, 21.0, 22.0, 23.0]);
    assert_eq!(tied.row("token_embd.weight", 16, &mut row), None);
}

#[test]
fn a_head_that_is_promised_must_be_there() {
    let table: &[(&str, &[usize], f32)] = &[("model.embed_tokens.weight", &[16, 8], 0.0)];
    let error = source(json!({"tie_word_embeddings": false}), table)
        .err()
        .expect("no model");
    assert_eq!(error.to_string(), "the model has no tensor \"output.weight\"");
    assert!(source(json!({}), table).is_ok());
}

#[test]
fn an_unknown_tensor_is_an_error() {
    let error = source(json!({}), &[("vision.tower.weight", &[2, 2], 0.0)])
        .err()
        .expect("no model");
    assert_eq!(
        error.to_string(),
        "tensor \"vision.tower.weight\" is not part of any supported model"
    );
}

#[test]
fn an_index_names_each_file_once_and_none_outside() {
    let index = br#"{"metadata": {"total_size": 1}, "weight_map": {"a": "m-2.safetensors", "b": "m-1.safetensors", "c": "m-2.safetensors"}}"#;
    assert_eq!(
        weight_files(index),
        Ok(vec!["m-1.safetensors".to_owned(), "m-2.safetensors".to_owned()])
    );
    for name in [
        "../m.safetensors",
        "/etc/passwd",
        "a/b.safetensors",
        "m.bin",
        "c:\\\\m.safetensors",
    ] {
        let index = format!(r#"{{"weight_map": {{"a": "{name}"}}}}"#);
        assert!(
            matches!(weight_files(index.as_bytes()), Err(HfError::FileName { .. })),
            "{name}"
        );
    }
    assert!(matches!(weight_files(b"[]"), Err(HfError::Json { .. })));
}

#[test]
fn broken_safetensors_are_named_errors() {
    let data = [0u8; 16];
    let good = r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}"#;
    assert_eq!(
        Safetensors::parse(&file(good, &data)).map(|file| file.tensors().len()),
        Ok(1)
    );
    let truncated = |len| SafetensorsError::Truncated { len };
    assert_eq!(Safetensors::parse(&[]), Err(truncated(0)));
    assert_eq!(Safetensors::parse(&[255; 16]), Err(truncated(16)));
    for len in 8..file(good, &data).len() {
        assert!(
            Safetensors::parse(&file(good, &data)[..len]).is_err(),
            "{len} bytes were read"
        );
    }
    let extent = || SafetensorsError::Extent { name: "a".to_owned() };
    let cases = [
        (
            r#"{"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,17]}}"#,
            extent(),
        ),
        (
            r#"{"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,12]}}"#,
            extent(),
        ),
        (
            r#"{"a":{"dtype":"F32","shape":[2,2],"data_offsets":[16,0]}}"#,
            extent(),
        ),
        (
            r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296,4294967296],"data_offsets":[0,16]}}"#,
            extent(),
        ),
        (
            r#"{"b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#,
            extent(),
        ),
        (
            r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#,
            SafetensorsError::Duplicate { name: "a".to_owned() },
        ),
    ];
    for (header, expected) in cases {
        assert_eq!(
            Safetensors::parse(&file(header, &data)).expect_err(header),
            expected,
            "{header}"
        );
    }
    for header in [
        "",
        "[]",
        "{",
        r#"{"a":1}"#,
        r#"{"a":{"dtype":"F32","shape":[1,1,1,1,1],"data_offsets":[0,4]}}"#,
    ] {
        let error = Safetensors::parse(&file(header, &data)).expect_err(header);
        assert!(
            matches!(error, SafetensorsError::Header { .. }),
            "{header}: {error}"
        );
    }
}
