//! What files come out.

use super::mix::{FileType, Mix};
use super::*;
use crate::gguf::{Gguf, Value};
use crate::hf::FolderTexts;
use crate::source::FileBytes;
use serde_json::json;
use std::sync::Arc;

/// A folder of a small Llama: 16 layers with one matrix each, a query projection, a token table.
fn folder() -> Source {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    let mut put = |name: String, shape: &[usize]| {
        let start = data.len();
        let count: usize = shape.iter().product();
        data.extend(
            (0..count).flat_map(|n| (((n * 7919 + start) % 1009) as f32 / 500.0 - 1.0).to_le_bytes()),
        );
        header.insert(
            name,
            json!({"dtype": "F32", "shape": shape, "data_offsets": [start, data.len()]}),
        );
    };
    put("model.embed_tokens.weight".to_owned(), &[300, 256]);
    put("model.norm.weight".to_owned(), &[256]);
    put("model.layers.0.self_attn.q_proj.weight".to_owned(), &[256, 256]);
    put("model.layers.0.self_attn.k_proj.weight".to_owned(), &[128, 256]);
    for layer in 0..16 {
        put(
            format!("model.layers.{layer}.self_attn.v_proj.weight"),
            &[128, 256],
        );
        put(format!("model.layers.{layer}.mlp.down_proj.weight"), &[256, 96]);
    }
    let header = serde_json::Value::Object(header).to_string();
    let file = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat();
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "hidden_size": 256, "intermediate_size": 96, "num_hidden_layers": 16,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 300, "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5, "tie_word_embeddings": true, "bos_token_id": 1, "eos_token_id": [2, 3],
        "rope_parameters": {"rope_type": "llama3", "rope_theta": 500_000.0, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 64},
    });
    let texts = FolderTexts {
        config: config.to_string().into_bytes(),
        tokenizer: Some(tokenizer().to_string().into_bytes()),
        tokenizer_config: Some(
            json!({"bos_token": "<s>", "eos_token": {"content": "</s>"}, "chat_template": "{{ messages }}"})
                .to_string()
                .into_bytes(),
        ),
        ..FolderTexts::default()
    };
    let file: Arc<dyn FileBytes> = Arc::new(file);
    Source::from_folder(texts, vec![("model.safetensors".to_owned(), file)]).expect("a good folder")
}

/// BPE over visible spaces with byte fallback.
fn tokenizer() -> serde_json::Value {
    json!({
        "added_tokens": [
            {"id": 0, "content": "<unk>", "special": true},
            {"id": 1, "content": "<s>", "special": true},
            {"id": 2, "content": "</s>", "special": true},
            {"id": 7, "content": "<tool>", "special": false},
        ],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u{2581}"}]},
        "pre_tokenizer": null,
        "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}]},
        "model": {
            "type": "BPE", "unk_token": "<unk>", "byte_fallback": true,
            "vocab": {"<unk>": 0, "<s>": 1, "</s>": 2, "<0x0A>": 3, "a": 4, "ab": 5, "aba": 6},
            "merges": [["a", "b"], "ab a"],
        },
    })
}

fn written(source: &Source, file_type: FileType) -> Vec<u8> {
    write(source, file_type, "small", &Pool::new(2), Vec::new(), &mut |_| {}).expect("a file")
}

#[test]
fn a_folder_becomes_a_file_with_the_same_numbers() {
    let source = folder();
    let bytes = written(&source, FileType::F32);
    let again = Source::from_gguf(vec![Arc::new(bytes)]).expect("a good file");
    let (old, new) = (source.config(), again.config());
    assert_eq!(
        (old.layers, old.heads, old.kv_heads, old.head_dim),
        (new.layers, new.heads, new.kv_heads, new.head_dim)
    );
    assert_eq!(
        (old.vocab, old.context, old.rope.theta),
        (new.vocab, new.context, new.rope.theta)
    );
    for (old, new) in old.rope_spec().inv_freq.iter().zip(new.rope_spec().inv_freq) {
        assert!((old / new - 1.0).abs() < 1e-6, "{old} became {new}");
    }
    for name in ["token_embd.weight", "blk.3.ffn_down.weight", "output_norm.weight"] {
        assert_eq!(source.tensor(name), again.tensor(name));
    }
}

#[test]
fn rotary_pairs_become_neighbours() {
    let source = folder();
    let again = Source::from_gguf(vec![Arc::new(written(&source, FileType::F32))]).expect("a good file");
    let row = |source: &Source, name: &str, row: usize| {
        let mut weights = [0.0; 256];
        source.row(name, row, &mut weights).expect("a row");
        weights
    };
    for (name, heads) in [("blk.0.attn_q.weight", 4), ("blk.0.attn_k.weight", 2)] {
        for head in 0..heads {
            for pair in 0..32 {
                let first = 64 * head + 2 * pair;
                assert_eq!(
                    row(&again, name, first),
                    row(&source, name, 64 * head + pair),
                    "{name}"
                );
                assert_eq!(
                    row(&again, name, first + 1),
                    row(&source, name, 64 * head + pair + 32),
                    "{name}"
                );
            }
        }
    }
    assert_eq!(
        row(&again, "blk.0.attn_v.weight", 5),
        row(&source, "blk.0.attn_v.weight", 5)
    );
}

#[test]
fn the_mix_follows_the_usual_rules() {
    let cases = [
        ("q4_k_m", "token_embd.weight", Format::Q6K),
        ("q4_k_m", "output_norm.weight", Format::F32),
        ("q4_k_m", "blk.0.attn_q.weight", Format::Q4K),
        ("q4_k_m", "blk.0.attn_v.weight", Format::Q6K),
        ("q4_k_m", "blk.2.attn_v.weight", Format::Q4K),
        ("q4_k_m", "blk.4.attn_v.weight", Format::Q6K),
        ("q4_k_m", "blk.14.attn_v.weight", Format::Q6K),
        // Rows of 96 do not fill superblocks.
        ("q4_k_m", "blk.0.ffn_down.weight", Format::Q8_0),
        ("q4_k_m", "blk.2.ffn_down.weight", Format::Q5_0),
        ("q5_k_s", "blk.2.ffn_down.weight", Format::Q5_1),
        ("q3_k_m", "blk.1.attn_v.weight", Format::Q5K),
        ("q3_k_m", "blk.2.attn_v.weight", Format::Q4K),
        ("q2_k", "blk.0.attn_v.weight", Format::Q3K),
        ("q8_0", "token_embd.weight", Format::Q8_0),
        ("q4_0", "token_embd.weight", Format::Q6K),
        ("f16", "blk.0.attn_q.weight", Format::F16),
        ("mxfp4", "blk.2.ffn_down.weight", Format::Mxfp4),
        ("mxfp4", "blk.0.attn_q.weight", Format::Q8_0),
    ];
    for (name, tensor, expected) in cases {
        let source = folder();
        let mix = Mix::new(&source, name.parse().expect("a file type"));
        assert_eq!(
            mix.format(&source.tensor(tensor).expect("a tensor").spec),
            expected,
            "{tensor} in {name}"
        );
    }
}

#[test]
fn names_and_numbers_of_file_types_are_unique() {
    for file_type in FileType::all() {
        assert_eq!(file_type.name().parse(), Ok(file_type));
        assert_eq!(file_type.name().to_uppercase().parse(), Ok(file_type));
        let same = FileType::all().filter(|other| other.to_ggml() == file_type.to_ggml());
        assert_eq!(same.count(), 1, "{file_type}");
    }
    assert!("q9".parse::<FileType>().is_err());
}

#[test]
fn quantising_at_load_and_before_give_the_same_bytes() {
    let before = Source::from_gguf(vec![Arc::new(written(&folder(), FileType::Q4KM))]).expect("a good file");
    let at_load = folder().quantized(FileType::Q4KM);
    for name in [
        "token_embd.weight",
        "blk.0.attn_v.weight",
        "blk.2.ffn_down.weight",
        "output_norm.weight",
    ] {
        assert_eq!(
            before.read(name, &Pool::serial()),
            at_load.read(name, &Pool::new(2)),
            "{name}"
        );
        let cols = before.tensor(name).expect("a tensor").spec.cols;
        let (mut one, mut other) = (vec![0.0; cols], vec![0.0; cols]);
        before.row(name, 0, &mut one).expect("a row");
        at_load.row(name, 0, &mut other).expect("a row");
        assert_eq!(one, other, "{name}");
    }
}

#[test]
fn threads_do_not_change_a_file() {
    let source = folder();
    let file = |threads| {
        write(
            &source,
            FileType::Q3KM,
            "small",
            &Pool::new(threads),
            Vec::new(),
            &mut |_| {},
        )
        .expect("a file")
    };
    assert!(file(1) == file(3));
}

#[test]
fn the_vocabulary_of_a_folder_is_written() {
    let bytes = written(&folder(), FileType::Q8_0);
    let file = Gguf::parse(&bytes).expect("a good file");
    let meta = &file.metadata;
    assert_eq!(meta.text("tokenizer.ggml.model"), Ok(Some("llama")));
    assert_eq!(meta.integer("tokenizer.ggml.bos_token_id"), Ok(Some(1)));
    assert_eq!(meta.integer("tokenizer.ggml.eos_token_id"), Ok(Some(2)));
    assert_eq!(meta.integer("tokenizer.ggml.eot_token_id"), Ok(Some(3)));
    assert_eq!(meta.flag("tokenizer.ggml.add_bos_token"), Ok(Some(true)));
    assert_eq!(meta.flag("tokenizer.ggml.add_space_prefix"), Ok(Some(true)));
    assert_eq!(meta.text("tokenizer.chat_template"), Ok(Some("{{ messages }}")));
    assert_eq!(meta.integer("general.file_type"), Ok(Some(7)));
    assert_eq!(meta.integer("general.quantization_version"), Ok(Some(2)));
    let array = |key: &str| meta.array(key).expect("an array").expect(key);
    let tokens = array("tokenizer.ggml.tokens");
    assert_eq!(tokens.len(), 300);
    assert_eq!(
        tokens.strings().expect("strings").nth(299),
        Some(&b"[PAD299]"[..])
    );
    let kinds: Vec<i64> = array("tokenizer.ggml.token_type")
        .integers()
        .expect("numbers")
        .take(9)
        .collect();
    assert_eq!(kinds, [2, 3, 3, 6, 1, 1, 1, 4, 5]);
    let scores: Vec<f32> = array("tokenizer.ggml.scores")
        .floats()
        .expect("floats")
        .take(7)
        .collect();
    assert_eq!(scores, [-2.0, -2.0, -2.0, -2.0, -2.0, 0.0, -1.0]);
}

#[test]
fn a_file_requantised_keeps_what_it_said() {
    let first = written(&folder(), FileType::F16);
    let source = Source::from_gguf(vec![Arc::new(first.clone())]).expect("a good file");
    let second = written(&source, FileType::Q5KS);
    let (first, second) = (
        Gguf::parse(&first).expect("a good file"),
        Gguf::parse(&second).expect("a good file"),
    );
    for (key, value) in first.metadata.iter() {
        match key {
            "general.file_type" => assert_eq!(second.metadata.get(key), Some(&Value::U32(16))),
            _ => assert_eq!(second.metadata.get(key), Some(value), "{key}"),
        }
    }
    assert_eq!(first.tensors().len(), second.tensors().len());
    assert_eq!(
        first.tensor(ROPE_FREQS).map(|t| t.bytes),
        second.tensor(ROPE_FREQS).map(|t| t.bytes)
    );
}

#[test]
fn a_weight_that_is_no_number_or_too_large_is_an_error() {
    let header = json!({"model.embed_tokens.weight": {"dtype": "F32", "shape": [300, 256], "data_offsets": [0, 307_200]}});
    let header = header.to_string();
    let good = folder();
    let Ok(Vocabulary::Folder(texts)) = good.vocabulary() else {
        panic!("no folder")
    };
    let refusal = |weight: f32, file_type| {
        let data = weight.to_le_bytes().repeat(300 * 256);
        let file: Arc<dyn FileBytes> =
            Arc::new([&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat());
        let source = Source::from_folder(texts.clone(), vec![("model.safetensors".to_owned(), file)]);
        let (source, pool) = (source.expect("a folder"), Pool::serial());
        let written = write(&source, file_type, "small", &pool, Vec::new(), &mut |_| {});
        written.err().map(|error| error.to_string())
    };
    for (weight, file_type, format) in [
        (f32::NAN, FileType::Q8_0, "q8_0"),
        (f32::INFINITY, FileType::BF16, "bf16"),
        (65_520.0, FileType::F16, "f16"),
    ] {
        let wanted =
            format!("tensor \"token_embd.weight\" holds a weight that is no finite number as {format}");
        assert_eq!(refusal(weight, file_type), Some(wanted));
    }
    for (weight, file_type) in [
        (65_519.0, FileType::F16),
        (1e9, FileType::BF16),
        (1e9, FileType::Q8_0),
    ] {
        assert_eq!(refusal(weight, file_type), None, "{weight} as {file_type}");
    }
}
