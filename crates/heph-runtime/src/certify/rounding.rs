//! The rounding scan: do rows that are rounded on the wire change what a model says?
//!
//! A model answers some prompts greedily first. Then prompt and answer go through it once for every codec and every set of
//! cuts, their rows written and read at each cut as on the way to another machine, and what it says after each position is
//! compared. By the law of arithmetic one pass over all positions has the bits of a step for each. What is found is kept
//! ([`KeptRoundings`]), names the files that it was found for, and is what [`crate::codecs::Allowed`] asks before a
//! rounding codec is used. It holds for these prompts and no others: answers with rounded rows stay of a class of their own.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use heph_engine::model::Model;
use heph_engine::sample::Sampler;
use heph_engine::tokenizer::{AddSpecial, ParseSpecial, Tokenizer};
use heph_engine::worker::Hidden;
use heph_kernels::isa::Isa;
use heph_kernels::pool::Pool;
use heph_net::codec::{pack, unpack};
use heph_types::{KvFormat, LayerRange, ModelHash, Position, SamplingOptions, TokenId, WireCodec};
use serde::{Deserialize, Serialize};

use super::{CertifyError, Stage};
use crate::cancel::Cancel;

/// What the models are asked to go on with: a story, an explanation, a list, a letter.
const PROMPTS: [&str; 4] = [
    "Once upon a time there was a little fox who lived in the wood. One day",
    "Water freezes when it becomes cold enough. The reason for this is that",
    "To bake a simple bread one needs flour, water, salt and",
    "Dear Anna, thank you for your letter. I was glad to hear that",
];

/// Tokens of each answer.
const ANSWER: usize = 48;

/// Positions that a model has to hold for the scan: the longest prompt in single bytes, and its answer.
pub const POSITIONS: usize = 160;

/// The file below HEPH's folder.
const FILE: &str = "rounding.json";

/// Models whose roundings are kept; the oldest goes first.
const KEPT_MAX: usize = 64;

/// 64 roundings of four codecs with about 100 bytes each, four times.
const FILE_BYTES_MAX: u64 = 128 << 10;

/// What rounding does to a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rounding {
    /// The files that were scanned.
    pub model: ModelHash,
    /// The law of arithmetic that they were run by.
    pub arithmetic: u32,
    /// How keys and values were stored.
    pub kv: KvFormat,
    /// Boundaries between machines of one pass, at most.
    pub boundaries: usize,
    /// What was found for each codec.
    pub codecs: Vec<Verdict>,
}

/// What a codec does to a model.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// The codec.
    pub codec: WireCodec,
    /// Bytes that a number of this model's rows took.
    pub bytes_per_number: f64,
    /// Tokens that were compared.
    pub tokens: usize,
    /// Those that were others.
    pub changed: usize,
}

impl Rounding {
    /// Whether a codec was found to keep every token. An exact one does.
    pub fn keeps(&self, codec: WireCodec) -> bool {
        let kept = |verdict: &Verdict| verdict.codec == codec && verdict.tokens > 0 && verdict.changed == 0;
        codec.is_exact() || self.codecs.iter().any(kept)
    }
}

/// Passes that a scan of a model with so many layers makes.
pub fn steps(layers: usize) -> usize {
    PROMPTS.len() * (1 + cuts(layers).len() * WireCodec::ALL.len())
}

/// The layers at which a line may be cut: near the beginning, in the middle, near the end, and all three.
fn cuts(layers: usize) -> Vec<Vec<usize>> {
    let mut inside = vec![1, layers / 2, layers.saturating_sub(1)];
    inside.retain(|cut| (1..layers).contains(cut));
    inside.dedup();
    let mut sets: Vec<Vec<usize>> = inside.iter().map(|cut| vec![*cut]).collect();
    if inside.len() > 1 {
        sets.push(inside);
    }
    sets
}

/// Compares what `model`, whose files are `hash`, says with and without rounding. `step` is called [`steps`] times.
///
/// # Errors
/// When a pass fails or `cancel` is raised.
pub fn rounding(
    hash: ModelHash,
    model: &Arc<Model>,
    tokenizer: &Tokenizer,
    pool: &Arc<Pool>,
    cancel: &Cancel,
    step: &mut dyn FnMut(),
) -> Result<Rounding, CertifyError> {
    let layers = model.graph().layers.len();
    let sets = cuts(layers);
    let mut verdicts = WireCodec::ALL.map(|codec| Verdict {
        codec,
        bytes_per_number: 0.0,
        tokens: 0,
        changed: 0,
    });
    let mut bytes = [(0u64, 0u64); WireCodec::ALL.len()];
    for prompt in PROMPTS {
        let mut tokens = tokenizer.encode(prompt, AddSpecial::Yes, ParseSpecial::No);
        tokens.truncate(model.context().saturating_sub(ANSWER));
        if tokens.is_empty() {
            continue;
        }
        let answer = greedy(model, pool, &tokens, ANSWER)?;
        tokens.extend(&answer[..answer.len().saturating_sub(1)]);
        step();
        for (verdict, bytes) in verdicts.iter_mut().zip(&mut bytes) {
            for cuts in &sets {
                if cancel.is_raised() {
                    return Err(CertifyError::Stopped);
                }
                let mut wire = Wire {
                    codec: verdict.codec,
                    cuts,
                    counted: bytes,
                };
                let said = wire.said(model, pool, &tokens, answer.len())?;
                verdict.tokens += answer.len();
                verdict.changed += said.iter().zip(&answer).filter(|(a, b)| a != b).count();
                step();
            }
        }
    }
    for (verdict, (bytes, numbers)) in verdicts.iter_mut().zip(bytes) {
        verdict.bytes_per_number = bytes as f64 / numbers.max(1) as f64;
    }
    Ok(Rounding {
        model: hash,
        arithmetic: heph_kernels::ARITHMETIC_VERSION,
        kv: model.kv_format(),
        boundaries: sets.iter().map(Vec::len).max().unwrap_or(0),
        codecs: verdicts.to_vec(),
    })
}

/// The tokens that `model` chooses after `prompt`, all layers in one place.
fn greedy(
    model: &Arc<Model>,
    pool: &Arc<Pool>,
    prompt: &[TokenId],
    count: usize,
) -> Result<Vec<TokenId>, CertifyError> {
    let layers = model.graph().layers.len();
    let mut stage = stage(model, pool, 0, layers);
    let mut sampler = Sampler::new(SamplingOptions::greedy())?;
    let (mut tokens, mut held) = (prompt.to_vec(), 0);
    while tokens.len() < prompt.len() + count {
        let mut hidden = stage.worker.embed(&tokens[held..])?;
        stage.forward(&mut hidden, held, tokens.len() - held)?;
        held = tokens.len();
        let logits = stage.worker.head(&last_rows(&hidden, 1))?;
        tokens.push(sampler.sample(&logits, Position(held as u32), &[], None)?);
    }
    Ok(tokens.split_off(prompt.len()))
}

/// A line cut at some layers, rows written and read at each cut.
struct Wire<'a> {
    codec: WireCodec,
    cuts: &'a [usize],
    /// Bytes and numbers that crossed.
    counted: &'a mut (u64, u64),
}

impl Wire<'_> {
    /// What is said after each of the last `count` of `tokens`.
    fn said(
        &mut self,
        model: &Arc<Model>,
        pool: &Arc<Pool>,
        tokens: &[TokenId],
        count: usize,
    ) -> Result<Vec<TokenId>, CertifyError> {
        let mut start = 0;
        let ends = self.cuts.iter().copied().chain([model.graph().layers.len()]);
        let mut stages: Vec<Stage> = ends
            .map(|end| stage(model, pool, std::mem::replace(&mut start, end), end))
            .collect();
        let mut hidden = stages[0].worker.embed(tokens)?;
        let last = stages.len() - 1;
        for (at, stage) in stages.iter_mut().enumerate() {
            stage.forward(&mut hidden, 0, tokens.len())?;
            if at < last {
                hidden = self.cross(&hidden)?;
            }
        }
        let vocab = model.graph().vocab;
        let logits = stages[last].worker.head(&last_rows(&hidden, count))?;
        let mut sampler = Sampler::new(SamplingOptions::greedy())?;
        let chosen = logits.chunks_exact(vocab).enumerate().map(|(at, logits)| {
            let position = Position((tokens.len() - count + at + 1) as u32);
            Ok(sampler.sample(logits, position, &[], None)?)
        });
        chosen.collect()
    }

    /// Rows as they arrive at another machine. They are written twice, as where they pass the desk on the way between two
    /// others: a format whose rounding is not settled by the first time shows it.
    fn cross(&mut self, hidden: &Hidden) -> Result<Hidden, CertifyError> {
        let packed = pack(hidden, self.codec)?;
        self.counted.0 += packed.bytes.len() as u64;
        self.counted.1 += hidden.rows.len() as u64;
        let once = unpack(&packed)?;
        Ok(unpack(&pack(&once, self.codec)?)?)
    }
}

fn stage(model: &Arc<Model>, pool: &Arc<Pool>, start: usize, end: usize) -> Stage {
    let layers = model.graph().layers.len();
    let range = LayerRange::new(start, end, layers).expect("cuts lie inside the model, in order");
    Stage::new(model, pool, Isa::best(), range, 1)
}

fn last_rows(hidden: &Hidden, count: usize) -> Hidden {
    let from = hidden.rows.len() - count * hidden.width;
    Hidden {
        width: hidden.width,
        rows: hidden.rows[from..].to_vec(),
    }
}

/// The roundings that were found on this machine. A file that cannot be read is as good as none: then only exact codecs
/// are used.
#[derive(Debug)]
pub struct KeptRoundings {
    path: PathBuf,
    roundings: Vec<Rounding>,
}

impl KeptRoundings {
    /// The roundings kept below `home`.
    pub fn open(home: &Path) -> Self {
        let path = home.join(FILE);
        let small = std::fs::metadata(&path).is_ok_and(|m| m.len() <= FILE_BYTES_MAX);
        let text = small.then(|| std::fs::read(&path).ok()).flatten();
        let roundings = text
            .and_then(|text| serde_json::from_slice(&text).ok())
            .unwrap_or_default();
        Self { path, roundings }
    }

    /// What was found for these files with caches in this format.
    pub fn find(&self, model: ModelHash, kv: KvFormat) -> Option<&Rounding> {
        let mut kept = self.roundings.iter();
        kept.find(|kept| (kept.model, kept.kv) == (model, kv))
    }

    /// Keeps what was found, in place of what was known of the same files.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn keep(&mut self, rounding: Rounding) -> std::io::Result<()> {
        self.roundings
            .retain(|kept| (kept.model, kept.kv) != (rounding.model, rounding.kv));
        self.roundings.push(rounding);
        let spare = self.roundings.len().saturating_sub(KEPT_MAX);
        self.roundings.drain(..spare);
        let folder = self.path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder)?;
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(&serde_json::to_vec(&self.roundings).map_err(std::io::Error::from)?)?;
        file.persist(&self.path)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use heph_engine::model::LoadOptions;

    use super::*;
    use crate::bundled;
    use crate::store::Found;

    const HASH: ModelHash = ModelHash([4; 32]);

    fn scanned() -> Rounding {
        let found = Found::Bundled(bundled::STORY_DRAFT);
        let source = Arc::new(crate::open::open(&found).unwrap());
        let options = LoadOptions {
            context: Some(POSITIONS),
            sessions: 4,
            ..LoadOptions::default()
        };
        let pool = Arc::new(Pool::serial());
        let model = Arc::new(Model::load(source, &options, &pool, &mut |_| {}).unwrap());
        let words = crate::open::words(&found).unwrap();
        let mut made = 0;
        let rounding = rounding(HASH, &model, &words.tokenizer, &pool, &Cancel::new(), &mut || {
            made += 1
        });
        assert_eq!(made, steps(model.graph().layers.len()));
        rounding.unwrap()
    }

    #[test]
    fn exact_codecs_change_nothing_and_what_was_found_is_kept() {
        let rounding = scanned();
        let verdict = |codec| rounding.codecs.iter().find(|v| v.codec == codec).unwrap();
        for codec in WireCodec::ALL {
            let verdict = verdict(codec);
            assert!(verdict.tokens >= PROMPTS.len() * ANSWER);
            assert!(!codec.is_exact() || verdict.changed == 0, "{codec}");
            assert_eq!(rounding.keeps(codec), verdict.changed == 0);
        }
        // What is written is what was counted: four bytes, fewer without loss, half of them, a quarter and its scales.
        assert_eq!(verdict(WireCodec::F32).bytes_per_number, 4.0);
        assert!(verdict(WireCodec::Packed).bytes_per_number < 4.0);
        assert!(verdict(WireCodec::Bf16).bytes_per_number < 2.01);
        assert!(verdict(WireCodec::Int8).bytes_per_number < 1.1);

        let home = tempfile::tempdir().unwrap();
        let mut kept = KeptRoundings::open(home.path());
        kept.keep(rounding.clone()).unwrap();
        let kept = KeptRoundings::open(home.path());
        assert_eq!(kept.find(HASH, rounding.kv), Some(&rounding));
        assert_eq!(kept.find(ModelHash([5; 32]), rounding.kv), None);
        assert_eq!(kept.find(HASH, KvFormat::Q8_0), None);
    }

    #[test]
    fn a_token_that_changed_is_counted() {
        let mut rounding = scanned();
        for verdict in &mut rounding.codecs {
            verdict.changed = 1;
        }
        assert!(!rounding.keeps(WireCodec::Bf16) && rounding.keeps(WireCodec::Packed));
        rounding.codecs.clear();
        assert!(!rounding.keeps(WireCodec::Int8), "nothing was compared");
    }

    #[test]
    fn a_model_of_one_layer_is_not_cut() {
        assert!(cuts(1).is_empty());
        assert_eq!(cuts(2), [vec![1]]);
        assert_eq!(cuts(8), [vec![1], vec![4], vec![7], vec![1, 4, 7]]);
    }
}
