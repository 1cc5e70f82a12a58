//! Small models for worlds: the bundled pair, and one of many layers whose weights are drawn.

use std::sync::{Arc, OnceLock};

use heph_engine::gguf::Header;
use heph_engine::model::{LoadOptions, Model};
use heph_engine::source::Source;
use heph_kernels::format::Format;
use heph_kernels::isa::Isa;
use heph_kernels::pool::Pool;
use heph_runtime::bundled::{self, Bundled};
use heph_runtime::line::LineModel;
use heph_runtime::node::Lent;
use heph_runtime::words::Words;
use heph_types::ModelHash;

use crate::dice::Dice;

/// Positions of a conversation in a world.
pub const CONTEXT: usize = 384;

/// Layers of the drawn model.
pub const LAYERS: usize = 8;

/// Heads of a drawn model, of 16 numbers each, two to one of keys and values.
const HEADS: usize = 4;

/// Numbers of a head.
const HEAD: usize = 16;

/// Numbers between the two halves of a drawn model's feed-forward part.
const FFN: usize = 96;

/// A drawn model's measures that differ.
#[derive(Clone, Copy)]
struct Shape {
    layers: usize,
    /// Numbers of its hidden states.
    width: usize,
    /// Positions of a conversation.
    context: usize,
}

/// So narrow that a token costs microseconds.
const TINY: Shape = Shape {
    layers: LAYERS,
    width: 64,
    context: CONTEXT,
};

/// With the rows of a model of a billion parameters, and as little work as these leave.
const WIDE: Shape = Shape {
    layers: 4,
    width: 2048,
    context: 1024,
};

/// Sessions that a world may hold at one moment, over all its nodes.
const SESSIONS: usize = 256;

/// A model that is loaded, and its words.
#[derive(Clone)]
pub struct TinyModel {
    /// Its name among the nodes.
    pub hash: ModelHash,
    /// The weights.
    pub model: Arc<Model>,
    /// The text side.
    pub words: Arc<Words>,
}

impl TinyModel {
    /// The model on the thread that asks.
    pub fn lent(&self) -> Lent {
        Lent::new(Arc::clone(&self.model), Arc::new(Pool::serial()), Isa::best())
    }

    /// What a line knows of it.
    pub fn line_model(&self) -> LineModel {
        LineModel::of(self.hash, &self.model)
    }
}

/// A model of [`LAYERS`] layers with drawn weights and the words of the bundled pair: it says nothing sensible, and every
/// bit of it counts.
pub fn drawn() -> &'static TinyModel {
    static DRAWN: OnceLock<TinyModel> = OnceLock::new();
    DRAWN.get_or_init(|| load(drawn_file(TINY), ModelHash([1; 32])))
}

/// A GGUF file of a drawn model whose rows are as long as those of a model of a billion parameters, for the network lab.
pub fn wide_file() -> Vec<u8> {
    drawn_file(WIDE)
}

/// The bundled model.
pub fn story() -> &'static TinyModel {
    static STORY: OnceLock<TinyModel> = OnceLock::new();
    STORY.get_or_init(|| load(bytes(bundled::STORY), ModelHash([2; 32])))
}

/// Its small sibling.
pub fn story_draft() -> &'static TinyModel {
    static DRAFT: OnceLock<TinyModel> = OnceLock::new();
    DRAFT.get_or_init(|| load(bytes(bundled::STORY_DRAFT), ModelHash([3; 32])))
}

fn bytes(bundled: Bundled) -> Vec<u8> {
    bundled.bytes.to_vec()
}

fn load(file: Vec<u8>, hash: ModelHash) -> TinyModel {
    let source = Arc::new(Source::from_gguf(vec![Arc::new(file)]).expect("a sound file"));
    let options = LoadOptions {
        context: Some(CONTEXT),
        sessions: SESSIONS,
        ..LoadOptions::default()
    };
    let model = Model::load(Arc::clone(&source), &options, &Pool::serial(), &mut |_| {}).expect("it loads");
    let words = Words::of(&source.vocabulary().expect("it has one")).expect("a sound vocabulary");
    TinyModel {
        hash,
        model: Arc::new(model),
        words: Arc::new(words),
    }
}

/// A GGUF file with the bundled pair's vocabulary and drawn weights.
fn drawn_file(drawn: Shape) -> Vec<u8> {
    let donor = Source::from_gguf(vec![Arc::new(bytes(bundled::STORY_DRAFT))]).expect("a sound file");
    let vocab = donor.config().vocab;
    let heph_engine::source::Vocabulary::Gguf(metadata) = donor.vocabulary().expect("it has one") else {
        unreachable!("the bundled pair is GGUF")
    };
    let mut header = Header::new();
    let words = metadata.iter().filter(|(key, _)| key.starts_with("tokenizer."));
    words.for_each(|(key, value)| header.set(key, value));
    shape(&mut header, drawn, vocab);
    let tensors = tensors(drawn, vocab);
    for (name, dims) in &tensors {
        header.tensor(name, Format::F32, dims).expect("a shape of floats");
    }
    let mut body = header.begin(Vec::new()).expect("a vector takes all");
    let mut dice = Dice::new(8);
    for (name, dims) in &tensors {
        let numbers: usize = dims.iter().product();
        let weight = |_| weight(name, dims, &mut dice).to_le_bytes();
        let bytes: Vec<u8> = (0..numbers).flat_map(weight).collect();
        body.tensor(&bytes).expect("as many bytes as announced");
    }
    body.finish().expect("all tensors are there")
}

fn shape(header: &mut Header, drawn: Shape, vocab: usize) {
    header.text("general.architecture", "llama");
    for (key, value) in [
        ("vocab_size", vocab),
        ("context_length", drawn.context),
        ("embedding_length", drawn.width),
        ("block_count", drawn.layers),
        ("feed_forward_length", FFN),
        ("attention.head_count", HEADS),
        ("attention.head_count_kv", HEADS / 2),
        ("attention.key_length", HEAD),
        ("attention.value_length", HEAD),
        ("rope.dimension_count", HEAD),
    ] {
        header.u32(&format!("llama.{key}"), value as u32);
    }
    header.f32("llama.attention.layer_norm_rms_epsilon", 1e-5);
    header.f32("llama.rope.freq_base", 10_000.0);
}

/// The tensors of the model, each with the length of a row first.
fn tensors(drawn: Shape, vocab: usize) -> Vec<(String, Vec<usize>)> {
    let (width, queries, kv) = (drawn.width, HEADS * HEAD, HEADS / 2 * HEAD);
    let mut tensors = vec![
        ("token_embd.weight".to_owned(), vec![width, vocab]),
        ("output_norm.weight".to_owned(), vec![width]),
        ("output.weight".to_owned(), vec![width, vocab]),
    ];
    for layer in 0..drawn.layers {
        let own = [
            ("attn_norm", vec![width]),
            ("attn_q", vec![width, queries]),
            ("attn_k", vec![width, kv]),
            ("attn_v", vec![width, kv]),
            ("attn_output", vec![queries, width]),
            ("ffn_norm", vec![width]),
            ("ffn_gate", vec![width, FFN]),
            ("ffn_up", vec![width, FFN]),
            ("ffn_down", vec![FFN, width]),
        ];
        tensors.extend(own.map(|(name, dims)| (format!("blk.{layer}.{name}.weight"), dims)));
    }
    tensors
}

/// Weights of a size that keeps rows of unit length; norms stay one.
fn weight(name: &str, dims: &[usize], dice: &mut Dice) -> f32 {
    match dims {
        [_] => 1.0,
        _ if name.starts_with("token") => dice.normal() as f32,
        [row, ..] => (dice.normal() * 1.5 / (*row as f64).sqrt()) as f32,
        [] => 0.0,
    }
}
