//! The exactness scan: one model, one prompt, every way of running it, one hash.
//!
//! The reference is the scalar path on one thread with the whole prompt in one piece. Each [`Way`] differs from
//! it in threads, instruction set, chunk, company in a batch or a split between two workers, and must give the
//! same bits.

pub mod rounding;

use std::sync::Arc;

use heph_engine::model::Model;
use heph_engine::sample::SamplingError;
use heph_engine::worker::{ForwardError, Hidden, Keep, Part, Worker};
use heph_kernels::isa::Isa;
use heph_kernels::pool::Pool;
use heph_net::codec::CodecError;
use heph_types::{LayerRange, Position, TokenId};
use serde::Serialize;

use crate::cancel::Cancel;

/// One way to run a prompt through a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Way {
    /// Instruction set, by name.
    pub isa: &'static str,
    /// Threads.
    pub threads: usize,
    /// Tokens that go through a layer together.
    pub chunk: usize,
    /// Sequences that run together, the prompt among them.
    pub batch: usize,
    /// The layer where a second worker takes over; `None` runs all layers in one.
    pub split: Option<usize>,
}

impl std::fmt::Display for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            isa,
            threads,
            chunk,
            batch,
            split,
        } = self;
        let s = if *threads == 1 { "" } else { "s" };
        write!(f, "{isa}, {threads} thread{s}, chunk {chunk}, batch {batch}")?;
        split.map_or(Ok(()), |layer| write!(f, ", split at layer {layer}"))
    }
}

/// How thorough the scan is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Each choice alone against the rest at their usual values, on every instruction set.
    EachChoice,
    /// All combinations.
    AllCombinations,
}

/// What the scan of one KV format found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Certificate {
    /// How keys and values were stored.
    pub kv: &'static str,
    /// BLAKE3 of the reference's logits, little-endian float bits, position after position.
    pub blake3: String,
    /// Ways that were run.
    pub ways: usize,
    /// Those that gave other bits.
    pub mismatches: Vec<Way>,
}

impl Certificate {
    /// Whether every way gave the same bits.
    pub fn holds(&self) -> bool {
        self.mismatches.is_empty()
    }
}

/// Why a scan could not be finished.
#[derive(Debug, thiserror::Error)]
pub enum CertifyError {
    /// A pass failed.
    #[error(transparent)]
    Forward(#[from] ForwardError),
    /// No token could be chosen.
    #[error(transparent)]
    Sampling(#[from] SamplingError),
    /// Rows that cannot be written.
    #[error(transparent)]
    Rows(#[from] CodecError),
    /// Somebody asked to stop.
    #[error("stopped")]
    Stopped,
}

/// Every way to run `tokens` positions on a model of `layers` layers, the reference first.
pub fn ways(depth: Depth, tokens: usize, layers: usize, threads_max: usize) -> Vec<Way> {
    let whole = tokens.max(1);
    let threads = distinct([1, 2, threads_max]);
    let chunks = distinct([whole, 1, 7, 16]);
    let batches = [1, 3];
    let inside = distinct([1, layers / 2, layers.saturating_sub(1)])
        .into_iter()
        .filter(|&l| l > 0 && l < layers);
    let splits: Vec<_> = std::iter::once(None).chain(inside.map(Some)).collect();
    let mut ways = Vec::new();
    for isa in Isa::all_available() {
        for &threads in &threads {
            for &chunk in &chunks {
                for &batch in &batches {
                    for &split in &splits {
                        let way = Way {
                            isa: isa.name(),
                            threads,
                            chunk,
                            batch,
                            split,
                        };
                        ways.extend(
                            (depth == Depth::AllCombinations || way.differs_once(whole)).then_some(way),
                        );
                    }
                }
            }
        }
    }
    ways
}

impl Way {
    /// Whether at most one choice is not the reference's, the instruction set not counted.
    fn differs_once(&self, whole: usize) -> bool {
        let others = [
            self.threads != 1,
            self.chunk != whole,
            self.batch != 1,
            self.split.is_some(),
        ];
        others.into_iter().filter(|o| *o).count() <= 1
    }
}

fn distinct<const N: usize>(values: [usize; N]) -> Vec<usize> {
    let mut seen = Vec::with_capacity(N);
    for value in values {
        if !seen.contains(&value) {
            seen.push(value);
        }
    }
    seen
}

/// Runs `prompt` through `model` in every way of `ways` and compares with the first. `step` is called after each.
///
/// # Errors
/// When a pass fails or `cancel` is raised.
pub fn scan(
    model: &Arc<Model>,
    prompt: &[TokenId],
    ways: &[Way],
    cancel: &Cancel,
    step: &mut dyn FnMut(),
) -> Result<Certificate, CertifyError> {
    let mut reference: Option<blake3::Hash> = None;
    let mut mismatches = Vec::new();
    for way in ways {
        if cancel.is_raised() {
            return Err(CertifyError::Stopped);
        }
        let hash = logits(model, prompt, way)?;
        if *reference.get_or_insert(hash) != hash {
            mismatches.push(*way);
        }
        step();
    }
    let blake3 = reference.map(|h| h.to_hex().to_string()).unwrap_or_default();
    Ok(Certificate {
        kv: model.kv_format().name(),
        blake3,
        ways: ways.len(),
        mismatches,
    })
}

/// BLAKE3 of logits as [`bytes`] has them, piece after piece.
#[derive(Debug, Default)]
struct LogitsHash(blake3::Hasher);

impl LogitsHash {
    fn add(&mut self, logits: &[f32]) {
        logits.chunks(4096).for_each(|part| {
            self.0.update(&bytes(part));
        });
    }
}

/// Numbers of logits that are held at once: all rows of a usual scan, 72 of 230,000 numbers.
const LOGITS_HELD: usize = 16 << 20;

/// Logits as they are hashed and compared: little-endian bits, with one NaN for all, since processors differ in theirs.
pub fn bytes(logits: &[f32]) -> Vec<u8> {
    let known = |x: &f32| if x.is_nan() { f32::NAN } else { *x };
    logits.iter().flat_map(|x| known(x).to_le_bytes()).collect()
}

/// The hash of the logits of every position of `prompt`, computed in one way.
fn logits(model: &Arc<Model>, prompt: &[TokenId], way: &Way) -> Result<blake3::Hash, ForwardError> {
    let pool = Arc::new(Pool::new(way.threads));
    let isa = Isa::all_available()
        .into_iter()
        .find(|i| i.name() == way.isa)
        .unwrap_or(Isa::Scalar);
    let layers = model.graph().layers.len();
    let cuts: Vec<usize> = [Some(0), way.split, Some(layers)].into_iter().flatten().collect();
    let mut stages = Vec::new();
    for cut in cuts.windows(2) {
        if let Ok(range) = LayerRange::new(cut[0], cut[1], layers) {
            stages.push(Stage::new(model, &pool, isa, range, way.batch));
        }
    }
    let company: Vec<Vec<TokenId>> = (0..way.batch).map(|n| rotated(prompt, n)).collect();
    let rows_held = rows_held(model.graph().vocab);
    let mut all = LogitsHash::default();
    for start in (0..prompt.len()).step_by(way.chunk.max(1)) {
        let end = (start + way.chunk.max(1)).min(prompt.len());
        let rows: Vec<TokenId> = company.iter().flat_map(|c| &c[start..end]).copied().collect();
        let mut hidden = stages[0].worker.embed(&rows)?;
        for stage in &mut stages {
            stage.forward(&mut hidden, start, end - start)?;
        }
        // The prompt itself is the first of the batch; its company's rows are of no interest.
        hidden.rows.truncate((end - start) * hidden.width);
        let width = hidden.width;
        for rows in hidden.rows.chunks(rows_held * width) {
            let rows = rows.to_vec();
            if let Some(last) = stages.last_mut() {
                all.add(&last.worker.head(&Hidden { rows, width })?);
            }
        }
    }
    Ok(all.0.finalize())
}

/// Positions whose logits are held at once.
fn rows_held(vocab: usize) -> usize {
    (LOGITS_HELD / vocab.max(1)).max(1)
}

/// `prompt` with its first `by` tokens moved to the end: other tokens at the same positions.
fn rotated(prompt: &[TokenId], by: usize) -> Vec<TokenId> {
    let mut tokens = prompt.to_vec();
    tokens.rotate_left(by % prompt.len().max(1));
    tokens
}

/// One worker with its layers and one cache for each sequence.
struct Stage {
    worker: Worker,
    layers: LayerRange,
    caches: Vec<heph_engine::cache::KvCache>,
}

impl Stage {
    fn new(model: &Arc<Model>, pool: &Arc<Pool>, isa: Isa, layers: LayerRange, batch: usize) -> Self {
        let worker = Worker::new(Arc::clone(model), Arc::clone(pool), isa);
        Self {
            worker,
            layers,
            caches: (0..batch).map(|_| model.new_cache(layers)).collect(),
        }
    }

    fn forward(&mut self, hidden: &mut Hidden, start: usize, tokens: usize) -> Result<(), ForwardError> {
        let first = Position(start as u32);
        let mut parts: Vec<_> = self
            .caches
            .iter_mut()
            .map(|cache| Part { cache, tokens, first })
            .collect();
        self.worker.forward(self.layers, &mut parts, hidden, Keep::All)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_choice_is_tried_on_every_instruction_set() {
        let ways = ways(Depth::EachChoice, 72, 4, 8);
        let first = Way {
            isa: "scalar",
            threads: 1,
            chunk: 72,
            batch: 1,
            split: None,
        };
        assert_eq!(ways[0], first);
        for isa in Isa::all_available() {
            let mine: Vec<_> = ways.iter().filter(|w| w.isa == isa.name()).collect();
            assert_eq!(
                mine.len(),
                1 + 2 + 3 + 1 + 3,
                "{isa}: base, threads, chunks, batch, splits"
            );
        }
    }

    #[test]
    fn a_model_of_one_layer_is_not_split() {
        assert!(
            ways(Depth::AllCombinations, 8, 1, 1)
                .iter()
                .all(|w| w.split.is_none())
        );
    }

    fn hash(logits: &[f32]) -> blake3::Hash {
        let mut hash = LogitsHash::default();
        hash.add(logits);
        hash.0.finalize()
    }

    /// A scan of as many positions as a model has takes no more memory for its logits than a short one.
    #[test]
    fn logits_are_held_by_the_piece() {
        for vocab in [1, 512, 32_000, 151_936, 262_144] {
            let rows = rows_held(vocab);
            assert!(rows >= 1 && rows * vocab <= LOGITS_HELD, "{vocab}");
            assert!(vocab > 230_000 || rows >= 72, "{vocab}");
        }
        let mut pieces = LogitsHash::default();
        [&[0.5; 5_000][..], &[0.25; 3]]
            .iter()
            .for_each(|piece| pieces.add(piece));
        let whole = [&[0.5; 5_000][..], &[0.25; 3]].concat();
        assert_eq!(pieces.0.finalize(), hash(&whole));
    }

    #[test]
    fn one_bit_changes_the_hash() {
        assert_ne!(hash(&[0.0, 1.0]), hash(&[-0.0, 1.0]));
        assert_ne!(hash(&[f32::NAN]), hash(&[f32::INFINITY]));
    }

    #[test]
    fn all_nan_are_one() {
        let others = [u32::MAX, 0xffc0_0000, 0x7f80_0001].map(f32::from_bits);
        assert_eq!(hash(&others), hash(&[f32::NAN; 3]));
    }
}
