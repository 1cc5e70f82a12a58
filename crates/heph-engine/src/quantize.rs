//! A whole model in other formats: which tensor becomes what, and the GGUF file that comes of it.
//!
//! The mixes are llama.cpp's, so that a `q4_k_m` made here has the tensors of one made there: tensors that hurt
//! more get more bits, vectors and routers stay floats. [`write()`] streams a file tensor by tensor and holds one
//! tensor at a time; [`crate::source::Source::quantized`] does the same to a model as it is loaded.

mod header;
mod mix;
mod vocabulary;

pub use mix::FileType;
pub use vocabulary::VocabularyError;

use crate::config::{RopeConfig, RopeScaling};
use crate::gguf::GgufError;
use crate::graph::TensorSpec;
use crate::source::{Source, SourceError, SourceTensor, Vocabulary};
use heph_kernels::format::{Format, dequantize_row, quantize_row};
use heph_kernels::pool::Pool;
use heph_kernels::rope::RopeStyle;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};

/// Rows that one task quantises: some hundred microseconds of work.
const ROWS_PER_TASK: usize = 8;

/// Why a model could not be written.
#[derive(Debug, thiserror::Error)]
pub enum QuantizeError {
    /// The files of the model are broken.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The vocabulary cannot be said in GGUF.
    #[error(transparent)]
    Vocabulary(#[from] VocabularyError),
    /// A tensor holds weights that are infinite or no numbers, or would be in its new format.
    #[error("tensor {name:?} holds a weight that is no finite number as {format}")]
    NotFinite {
        /// The tensor.
        name: String,
        /// Its new format.
        format: Format,
    },
    /// A tensor cannot be stored as the file needs it.
    #[error("tensor {name:?} cannot be stored: {why}")]
    Tensor {
        /// The tensor.
        name: String,
        /// Why, as part of a sentence.
        why: String,
    },
    /// The file cannot be written.
    #[error("the file cannot be written: {0}")]
    Write(#[from] io::Error),
}

/// How far writing has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress<'a> {
    /// The tensor that was written last.
    pub tensor: &'a str,
    /// Its format.
    pub format: Format,
    /// Weights written so far.
    pub done: u64,
    /// Weights to write.
    pub total: u64,
}

/// The format of each tensor of `source` in a file of this type, in the order in which files hold them.
pub fn plan(source: &Source, file_type: FileType) -> Vec<(String, Format)> {
    let mix = mix::Mix::new(source, file_type);
    let mut specs: Vec<&TensorSpec> = source.specs().collect();
    specs.sort_by_key(|spec| (mix::layer(&spec.name), spec.name.as_str()));
    specs
        .into_iter()
        .map(|spec| (spec.name.clone(), mix.format(spec)))
        .collect()
}

/// From here on weights are infinite as half floats; the other formats take the largest that they have.
const HALF_END: f32 = 65_520.0;

/// A tensor in another format, all matrices in one piece; `None` if the format cannot hold its rows or a weight
/// is no finite number in it.
pub fn convert(tensor: &SourceTensor<'_>, to: Format, pool: &Pool) -> Option<Vec<u8>> {
    let TensorSpec {
        format: from,
        rows,
        cols,
        experts,
        ..
    } = tensor.spec;
    let (from_row, to_row) = (from.row_bytes(cols)?, to.row_bytes(cols)?);
    let mut out = vec![0; to_row.checked_mul(rows)?.checked_mul(experts)?];
    if from == to {
        out.copy_from_slice(&tensor.matrices.concat());
        return Some(out);
    }
    let end = if to == Format::F16 {
        HALF_END
    } else {
        f32::INFINITY
    };
    let finite = AtomicBool::new(true);
    for (matrix, out) in tensor.matrices.iter().zip(out.chunks_exact_mut(to_row * rows)) {
        pool.run_chunks(out, ROWS_PER_TASK * to_row, |task, out| {
            let mut row = vec![0.0; cols];
            let rows = matrix.chunks_exact(from_row).skip(ROWS_PER_TASK * task);
            for (raw, out) in rows.zip(out.chunks_exact_mut(to_row)) {
                dequantize_row(from, raw, &mut row);
                if !row.iter().all(|weight| weight.abs() < end) {
                    finite.store(false, Ordering::Relaxed);
                }
                quantize_row(to, &row, None, out);
            }
        });
    }
    finite.into_inner().then_some(out)
}

/// Writes the model as a GGUF file of this type. `name` is what the file calls the model if `source` does not
/// say. `progress` is called after each tensor.
///
/// # Errors
/// When the model cannot be said in GGUF, holds weights that are no numbers, or `out` refuses.
pub fn write<W: Write>(
    source: &Source,
    file_type: FileType,
    name: &str,
    pool: &Pool,
    out: W,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<W, QuantizeError> {
    let vocabulary = source.vocabulary()?;
    let tensors = plan(source, file_type);
    let divisors = divisors(source);
    let mut header = header::metadata(source, &vocabulary, file_type, name)?;
    if let Some(divisors) = &divisors {
        header
            .tensor(ROPE_FREQS, Format::F32, &[divisors.len()])
            .map_err(unstorable(ROPE_FREQS))?;
    }
    for (name, format) in &tensors {
        let dims = source
            .tensor(name)
            .map(|tensor| dims(&tensor.spec))
            .unwrap_or_default();
        header.tensor(name, *format, &dims).map_err(unstorable(name))?;
    }
    let mut body = header.begin(out)?;
    if let Some(divisors) = &divisors {
        body.tensor(
            &divisors
                .iter()
                .flat_map(|divisor| divisor.to_le_bytes())
                .collect::<Vec<u8>>(),
        )?;
    }
    let turned = matches!(vocabulary, Vocabulary::Folder(_)) && source.config().architecture == "llama";
    let total = source.specs().map(TensorSpec::parameters).sum();
    let mut done = 0;
    for (name, format) in &tensors {
        let Some(mut tensor) = source.tensor(name) else {
            continue;
        };
        let turned = if turned { turn(&tensor, source)? } else { None };
        if let Some(bytes) = &turned {
            tensor.matrices = vec![bytes];
        }
        let bytes = convert(&tensor, *format, pool);
        body.tensor(&bytes.ok_or_else(|| QuantizeError::NotFinite {
            name: name.clone(),
            format: *format,
        })?)?;
        source.release(name);
        done += tensor.spec.parameters();
        progress(Progress {
            tensor: name,
            format: *format,
            done,
            total,
        });
    }
    Ok(body.finish()?)
}

fn unstorable(name: &str) -> impl FnOnce(GgufError) -> QuantizeError {
    let name = name.to_owned();
    move |error| QuantizeError::Tensor {
        name,
        why: error.to_string(),
    }
}

/// Divisors of the rotary frequencies, one per pair.
const ROPE_FREQS: &str = "rope_freqs.weight";

/// Llama 3's bands as a GGUF file holds them; other scalings are metadata.
fn divisors(source: &Source) -> Option<Vec<f32>> {
    let rope = &source.config().rope;
    match &rope.scaling {
        RopeScaling::Divisors(divisors) => Some(divisors.clone()),
        RopeScaling::Llama3 { .. } => {
            let scaled = source.config().rope_spec().inv_freq;
            let plain = RopeConfig {
                scaling: RopeScaling::None,
                ..rope.clone()
            };
            Some(
                plain
                    .inv_freq()
                    .iter()
                    .zip(scaled)
                    .map(|(plain, scaled)| (plain / scaled) as f32)
                    .collect(),
            )
        }
        RopeScaling::None | RopeScaling::Linear { .. } | RopeScaling::Yarn { .. } => None,
    }
}

/// Row length first, then rows, then experts; vectors and single matrices have fewer.
fn dims(spec: &TensorSpec) -> Vec<usize> {
    match (spec.rows, spec.experts) {
        (1, 1) if spec.name.ends_with("_norm.weight") || spec.name.ends_with(".bias") => vec![spec.cols],
        (rows, 1) if !spec.name.contains("_exps.") => vec![spec.cols, rows],
        (rows, experts) => vec![spec.cols, rows, experts],
    }
}

/// The rows of a Llama query or key projection in the order of GGUF, whose rotary pairs are neighbours: within a
/// head, rows `i` and `i + d / 2` of the folder become rows `2 i` and `2 i + 1`. `None` for other tensors.
fn turn(tensor: &SourceTensor<'_>, source: &Source) -> Result<Option<Vec<u8>>, QuantizeError> {
    let config = source.config();
    let name = &tensor.spec.name;
    let heads = match name.split('.').nth(2) {
        Some("attn_q") => config.heads,
        Some("attn_k") => config.kv_heads,
        _ => return Ok(None),
    };
    let odd = |why: &str| QuantizeError::Tensor {
        name: name.clone(),
        why: why.to_owned(),
    };
    if config.rope.style != RopeStyle::Halves || config.rope.dims != config.head_dim {
        return Err(odd("its heads are not rotated as a whole"));
    }
    // A bias is one row of as many numbers as the matrix has rows.
    let count = tensor.spec.rows.max(if name.ends_with(".bias") {
        tensor.spec.cols
    } else {
        0
    });
    if count != heads * config.head_dim {
        return Err(odd("it has not the rows that its heads need"));
    }
    let all = tensor.matrices.concat();
    let size = all.len() / count;
    let mut turned = Vec::with_capacity(all.len());
    for row in 0..count {
        let (head, inside) = (row / config.head_dim, row % config.head_dim);
        let from = head * config.head_dim + inside % 2 * (config.head_dim / 2) + inside / 2;
        turned.extend_from_slice(&all[size * from..size * (from + 1)]);
    }
    Ok(Some(turned))
}

#[cfg(test)]
mod tests;
