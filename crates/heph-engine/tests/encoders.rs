//! Models that read: BERT and Nomic's BERT, against a plain reference in 64-bit floats, and against themselves.

use heph_engine::hf::FolderTexts;
use heph_engine::model::{LoadOptions, Model};
use heph_engine::source::{FileBytes, Source, SourceError};
use heph_engine::worker::{ForwardError, Keep, Worker};
use heph_kernels::isa::Isa;
use heph_kernels::pool::Pool;
use heph_types::TokenId;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

const HIDDEN: usize = 32;
const HEADS: usize = 4;
const FFN: usize = 48;
const LAYERS: usize = 2;
const VOCAB: usize = 40;
const CONTEXT: usize = 200;

/// The two families, as their folders write them.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Family {
    Bert,
    Nomic,
}

/// A folder in memory with weights drawn from a seed, and the same numbers by name.
struct Folder {
    family: Family,
    texts: FolderTexts,
    file: Vec<u8>,
    numbers: BTreeMap<String, Vec<f32>>,
}

impl Folder {
    fn new(family: Family) -> Folder {
        let mut shapes: Vec<(String, Vec<usize>)> = vec![
            ("embeddings.word_embeddings.weight".into(), vec![VOCAB, HIDDEN]),
            ("embeddings.token_type_embeddings.weight".into(), vec![2, HIDDEN]),
        ];
        let mut add = |name: String, shape: &[usize]| shapes.push((name, shape.to_vec()));
        match family {
            Family::Bert => {
                add("embeddings.position_embeddings.weight".into(), &[CONTEXT, HIDDEN]);
                for part in ["embeddings.LayerNorm.weight", "embeddings.LayerNorm.bias"] {
                    add(part.into(), &[HIDDEN]);
                }
                add("pooler.dense.weight".into(), &[HIDDEN, HIDDEN]);
            }
            Family::Nomic => ["emb_ln.weight", "emb_ln.bias"]
                .into_iter()
                .for_each(|part| add(part.into(), &[HIDDEN])),
        }
        for layer in 0..LAYERS {
            let of: &[(&str, &[usize])] = match family {
                Family::Bert => &[
                    ("attention.self.query", &[HIDDEN, HIDDEN]),
                    ("attention.self.key", &[HIDDEN, HIDDEN]),
                    ("attention.self.value", &[HIDDEN, HIDDEN]),
                    ("attention.output.dense", &[HIDDEN, HIDDEN]),
                    ("attention.output.LayerNorm", &[HIDDEN]),
                    ("intermediate.dense", &[FFN, HIDDEN]),
                    ("output.dense", &[HIDDEN, FFN]),
                    ("output.LayerNorm", &[HIDDEN]),
                ],
                Family::Nomic => &[
                    ("attn.Wqkv", &[3 * HIDDEN, HIDDEN]),
                    ("attn.out_proj", &[HIDDEN, HIDDEN]),
                    ("norm1", &[HIDDEN]),
                    ("mlp.fc11", &[FFN, HIDDEN]),
                    ("mlp.fc12", &[FFN, HIDDEN]),
                    ("mlp.fc2", &[HIDDEN, FFN]),
                    ("norm2", &[HIDDEN]),
                ],
            };
            let stem = if family == Family::Bert {
                "encoder.layer"
            } else {
                "encoder.layers"
            };
            for (part, shape) in of {
                add(format!("{stem}.{layer}.{part}.weight"), shape);
                if family == Family::Bert || shape.len() == 1 {
                    add(format!("{stem}.{layer}.{part}.bias"), &shape[..1]);
                }
            }
        }
        let mut draw = draws(7);
        let (mut header, mut data, mut numbers) = (serde_json::Map::new(), Vec::new(), BTreeMap::new());
        for (name, shape) in shapes {
            let count: usize = shape.iter().product();
            let norm = shape.len() == 1 && name.ends_with("weight");
            let values: Vec<f32> = (0..count)
                .map(|_| draw() * 0.4 + f32::from(u8::from(norm)))
                .collect();
            let start = data.len();
            data.extend(values.iter().flat_map(|v| v.to_le_bytes()));
            header.insert(
                name.clone(),
                json!({"dtype": "F32", "shape": shape, "data_offsets": [start, data.len()]}),
            );
            numbers.insert(name, values);
        }
        let header = Value::Object(header).to_string();
        let file = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat();
        let texts = FolderTexts {
            config: config(family).to_string().into_bytes(),
            ..FolderTexts::default()
        };
        Folder {
            family,
            texts,
            file,
            numbers,
        }
    }

    fn source(&self) -> Result<Source, SourceError> {
        let file: Arc<dyn FileBytes> = Arc::new(self.file.clone());
        Source::from_folder(self.texts.clone(), vec![("model.safetensors".into(), file)])
    }

    fn model(&self) -> Arc<Model> {
        let source = Arc::new(self.source().expect("the folder is a model"));
        let model = Model::load(source, &LoadOptions::default(), &Pool::serial(), &mut |_| ());
        Arc::new(model.expect("the folder loads"))
    }

    fn with(mut self, changes: Value) -> Folder {
        let mut config = config(self.family);
        for (key, value) in changes.as_object().expect("an object") {
            config[key] = value.clone();
        }
        self.texts.config = config.to_string().into_bytes();
        self
    }

    fn numbers(&self, name: &str) -> &[f32] {
        &self.numbers[name]
    }
}

fn config(family: Family) -> Value {
    match family {
        Family::Bert => json!({
            "architectures": ["BertModel"], "hidden_size": HIDDEN, "intermediate_size": FFN, "hidden_act": "gelu",
            "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "vocab_size": VOCAB, "type_vocab_size": 2,
            "max_position_embeddings": CONTEXT, "layer_norm_eps": 1e-12, "tie_word_embeddings": false,
        }),
        Family::Nomic => json!({
            "architectures": ["NomicBertModel"], "n_embd": HIDDEN, "n_inner": FFN, "activation_function": "swiglu",
            "n_layer": LAYERS, "n_head": HEADS, "vocab_size": VOCAB, "type_vocab_size": 2, "n_positions": CONTEXT,
            "layer_norm_epsilon": 1e-12, "rotary_emb_base": 1000, "rotary_emb_fraction": 1.0, "qkv_proj_bias": false,
            "rotary_scaling_factor": null, "prenorm": false,
        }),
    }
}

/// Numbers in (-1, 1) from a seed.
fn draws(seed: u64) -> impl FnMut() -> f32 {
    let mut state = seed;
    move || {
        state = state
            .wrapping_mul(0x5851_f42d_4c95_7f2d)
            .wrapping_add(0x1405_7b7e_f767_814f);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    }
}

/// The model by the letter of its paper, in 64-bit floats, one number after another.
struct Reference<'f>(&'f Folder);

type Rows = Vec<Vec<f64>>;

impl Reference<'_> {
    fn vector(&self, ids: &[u32]) -> Vec<f64> {
        let rows = self.rows(ids);
        let mean: Vec<f64> = (0..HIDDEN)
            .map(|d| rows.iter().map(|r| r[d]).sum::<f64>() / rows.len() as f64)
            .collect();
        let length = mean.iter().map(|v| v * v).sum::<f64>().sqrt();
        mean.iter().map(|v| v / length).collect()
    }

    fn rows(&self, ids: &[u32]) -> Rows {
        let (bert, f) = (self.0.family == Family::Bert, self.0);
        let row = |table: &str, at: usize| f.numbers(table)[at * HIDDEN..][..HIDDEN].to_vec();
        let mut x: Rows = Vec::new();
        for (position, &id) in ids.iter().enumerate() {
            let mut sum = vec![0.0; HIDDEN];
            let mut tables = vec![("embeddings.word_embeddings.weight", id as usize)];
            tables.push(("embeddings.token_type_embeddings.weight", 0));
            if bert {
                tables.push(("embeddings.position_embeddings.weight", position));
            }
            for (table, at) in tables {
                sum.iter_mut()
                    .zip(row(table, at))
                    .for_each(|(s, v)| *s += f64::from(v));
            }
            x.push(sum);
        }
        self.norm(&mut x, if bert { "embeddings.LayerNorm" } else { "emb_ln" });
        for layer in 0..LAYERS {
            x = self.layer(x, layer);
        }
        x
    }

    fn layer(&self, x: Rows, layer: usize) -> Rows {
        let bert = self.0.family == Family::Bert;
        let stem = if bert {
            format!("encoder.layer.{layer}")
        } else {
            format!("encoder.layers.{layer}")
        };
        let [q, k, v] = if bert {
            ["query", "key", "value"]
                .map(|part| self.linear(&x, &format!("{stem}.attention.self.{part}"), 0..HIDDEN))
        } else {
            let part = |n: usize| self.linear(&x, &format!("{stem}.attn.Wqkv"), n * HIDDEN..(n + 1) * HIDDEN);
            [turned(part(0)), turned(part(1)), part(2)]
        };
        let mixed = attention(&q, &k, &v);
        let out = if bert {
            "attention.output.dense"
        } else {
            "attn.out_proj"
        };
        let mut x = plus(x, self.linear(&mixed, &format!("{stem}.{out}"), 0..HIDDEN));
        self.norm(
            &mut x,
            &format!(
                "{stem}.{}",
                if bert {
                    "attention.output.LayerNorm"
                } else {
                    "norm1"
                }
            ),
        );
        let inner = if bert {
            each(
                self.linear(&x, &format!("{stem}.intermediate.dense"), 0..FFN),
                gelu,
            )
        } else {
            let up = self.linear(&x, &format!("{stem}.mlp.fc11"), 0..FFN);
            let gate = each(self.linear(&x, &format!("{stem}.mlp.fc12"), 0..FFN), |g| {
                g / (1.0 + (-g).exp())
            });
            let times = |(up, gate): (Vec<f64>, Vec<f64>)| up.iter().zip(gate).map(|(u, g)| u * g).collect();
            up.into_iter().zip(gate).map(times).collect()
        };
        let down = self.linear(
            &inner,
            &format!("{stem}.{}", if bert { "output.dense" } else { "mlp.fc2" }),
            0..HIDDEN,
        );
        let mut x = plus(x, down);
        self.norm(
            &mut x,
            &format!("{stem}.{}", if bert { "output.LayerNorm" } else { "norm2" }),
        );
        x
    }

    fn linear(&self, x: &Rows, stem: &str, rows: std::ops::Range<usize>) -> Rows {
        let weight = self.0.numbers(&format!("{stem}.weight"));
        let bias = self.0.numbers.get(&format!("{stem}.bias"));
        let one = |x: &Vec<f64>, row: usize| {
            let products = x
                .iter()
                .zip(&weight[row * x.len()..])
                .map(|(x, w)| x * f64::from(*w));
            products.sum::<f64>() + bias.map_or(0.0, |b| f64::from(b[row]))
        };
        x.iter()
            .map(|x| rows.clone().map(|row| one(x, row)).collect())
            .collect()
    }

    fn norm(&self, x: &mut Rows, stem: &str) {
        let (weight, bias) = (
            self.0.numbers(&format!("{stem}.weight")),
            self.0.numbers(&format!("{stem}.bias")),
        );
        for row in x {
            let mean = row.iter().sum::<f64>() / HIDDEN as f64;
            let variance = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / HIDDEN as f64;
            for ((v, w), b) in row.iter_mut().zip(weight).zip(bias) {
                *v = (*v - mean) / (variance + 1e-12).sqrt() * f64::from(*w) + f64::from(*b);
            }
        }
    }
}

fn each(x: Rows, f: impl Fn(f64) -> f64) -> Rows {
    x.into_iter()
        .map(|row| row.into_iter().map(&f).collect())
        .collect()
}

fn plus(mut x: Rows, y: Rows) -> Rows {
    x.iter_mut()
        .zip(y)
        .for_each(|(x, y)| x.iter_mut().zip(y).for_each(|(x, y)| *x += y));
    x
}

/// GELU from the series of the error function.
fn gelu(x: f64) -> f64 {
    let z = x / std::f64::consts::SQRT_2;
    let (mut term, mut sum) = (z, z);
    for n in 0..400 {
        term *= 2.0 * z * z / f64::from(2 * n + 3);
        sum += term;
    }
    0.5 * x * (1.0 + 2.0 / std::f64::consts::PI.sqrt() * (-z * z).exp() * sum)
}

const WIDTH: usize = HIDDEN / HEADS;

/// Rotary positions, element `i` with `i + half`.
fn turned(mut x: Rows) -> Rows {
    for (position, row) in x.iter_mut().enumerate() {
        for head in row.chunks_exact_mut(WIDTH) {
            for i in 0..WIDTH / 2 {
                let angle = position as f64 / 1000f64.powf(2.0 * i as f64 / WIDTH as f64);
                let (a, b) = (head[i], head[i + WIDTH / 2]);
                head[i] = a * angle.cos() - b * angle.sin();
                head[i + WIDTH / 2] = a * angle.sin() + b * angle.cos();
            }
        }
    }
    x
}

fn attention(q: &Rows, k: &Rows, v: &Rows) -> Rows {
    let mut out = vec![vec![0.0; HIDDEN]; q.len()];
    for head in 0..HEADS {
        let part = |row: &Vec<f64>| row[head * WIDTH..(head + 1) * WIDTH].to_vec();
        for (q, out) in q.iter().zip(&mut out) {
            let dot = |k: &Vec<f64>| part(q).iter().zip(part(k)).map(|(q, k)| q * k).sum::<f64>();
            let weights: Vec<f64> = k.iter().map(|k| (dot(k) / (WIDTH as f64).sqrt()).exp()).collect();
            let total: f64 = weights.iter().sum();
            for (weight, v) in weights.iter().zip(v) {
                let out = &mut out[head * WIDTH..(head + 1) * WIDTH];
                out.iter_mut()
                    .zip(part(v))
                    .for_each(|(o, v)| *o += weight / total * v);
            }
        }
    }
    out
}

/// Texts of many lengths, also beyond one page of the cache.
fn texts() -> Vec<Vec<TokenId>> {
    let mut draw = draws(9);
    let lengths = [1, 5, 64, 3, 65, 150, 200, 17];
    let id = |v: f32| TokenId((v.abs() * VOCAB as f32) as u32 % VOCAB as u32);
    lengths
        .iter()
        .map(|&n| (0..n).map(|_| id(draw())).collect())
        .collect()
}

fn borrowed(texts: &[Vec<TokenId>]) -> Vec<&[TokenId]> {
    texts.iter().map(Vec::as_slice).collect()
}

fn bits(vectors: &[Vec<f32>]) -> Vec<u32> {
    vectors.iter().flatten().map(|v| v.to_bits()).collect()
}

#[test]
fn a_vector_is_that_of_the_paper() {
    for family in [Family::Bert, Family::Nomic] {
        let folder = Folder::new(family);
        let mut worker = Worker::new(folder.model(), Arc::new(Pool::new(2)), Isa::best());
        let texts = texts();
        let vectors = worker.encode(&borrowed(&texts)).expect("good tokens");
        for (text, vector) in texts.iter().zip(vectors) {
            let ids: Vec<u32> = text.iter().map(|t| t.0).collect();
            for (got, want) in vector.iter().zip(Reference(&folder).vector(&ids)) {
                assert!(
                    (f64::from(*got) - want).abs() < 1e-5,
                    "{family:?} {} tokens: {got} {want}",
                    text.len()
                );
            }
        }
    }
}

#[test]
fn company_threads_and_instruction_sets_change_no_bit() {
    for family in [Family::Bert, Family::Nomic] {
        let model = Folder::new(family).model();
        let texts = texts();
        let mut alone = Worker::new(Arc::clone(&model), Arc::new(Pool::serial()), Isa::Scalar);
        let want: Vec<Vec<f32>> = texts
            .iter()
            .map(|text| alone.encode(&[text]).expect("good tokens").remove(0))
            .collect();
        for isa in Isa::all_available() {
            for threads in [1, 3] {
                let mut worker = Worker::new(Arc::clone(&model), Arc::new(Pool::new(threads)), isa);
                let got = worker.encode(&borrowed(&texts)).expect("good tokens");
                assert!(bits(&got) == bits(&want), "{family:?} {isa} {threads} threads");
            }
        }
    }
}

#[test]
fn a_reader_does_not_write_and_refuses_what_it_cannot_read() {
    let model = Folder::new(Family::Bert).model();
    let mut worker = Worker::new(Arc::clone(&model), Arc::new(Pool::serial()), Isa::best());
    let mut cache = model.new_cache(worker.all_layers());
    assert_eq!(
        worker.run(&mut cache, &[TokenId(1)], Keep::Last),
        Err(ForwardError::OnlyReads)
    );
    assert_eq!(worker.encode(&[&[]]), Err(ForwardError::EmptyPart));
    let long = vec![TokenId(1); CONTEXT + 1];
    assert!(matches!(worker.encode(&[&long]), Err(ForwardError::Cache(_))));
    assert!(matches!(
        worker.encode(&[&[TokenId(VOCAB as u32)]]),
        Err(ForwardError::Token { .. })
    ));
    assert_eq!(worker.encode(&[]), Ok(Vec::new()));
}

#[test]
fn what_would_compute_something_else_is_refused() {
    let refused = [
        (Family::Bert, json!({"hidden_act": "relu"})),
        (Family::Bert, json!({"position_embedding_type": "relative_key"})),
        (Family::Bert, json!({"is_decoder": true})),
        (Family::Nomic, json!({"activation_function": "gelu"})),
        (Family::Nomic, json!({"rotary_emb_fraction": 0.5})),
        (Family::Nomic, json!({"qkv_proj_bias": true})),
        (Family::Nomic, json!({"prenorm": true})),
        (Family::Nomic, json!({"rotary_scaling_factor": 2.0})),
    ];
    for (family, change) in refused {
        let found = Folder::new(family).with(change.clone()).source();
        assert!(matches!(found, Err(SourceError::Unsupported { .. })), "{change}");
    }
    let mut odd = Folder::new(Family::Bert);
    odd.texts.pooling = Some(br#"{"pooling_mode_max_tokens": true}"#.to_vec());
    assert!(matches!(odd.source(), Err(SourceError::Unsupported { .. })));
}

#[test]
fn the_folder_says_how_rows_become_a_vector() {
    let mut folder = Folder::new(Family::Bert);
    folder.texts.pooling =
        Some(br#"{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}"#.to_vec());
    let mut worker = Worker::new(folder.model(), Arc::new(Pool::serial()), Isa::best());
    let text = [TokenId(3), TokenId(9), TokenId(4)];
    let rows = worker.encode_rows(&[&text]).expect("good tokens").remove(0);
    let vector = worker.encode(&[&text]).expect("good tokens").remove(0);
    let first = &rows.rows[..rows.width];
    let length = first.iter().map(|v| v * v).sum::<f32>().sqrt();
    assert!(
        vector
            .iter()
            .zip(first)
            .all(|(v, f)| (v - f / length).abs() < 1e-6)
    );
}
