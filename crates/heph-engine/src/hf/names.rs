//! From the names of a folder's tensors to those of GGUF, with the experts of a layer stacked.

use super::{HfError, StoredTensor, encoder};
use crate::config::ModelConfig;
use crate::graph::TensorSpec;
use crate::source::{SourceError, SourceTensor};
use heph_kernels::format::Format;
use std::collections::BTreeMap;

/// Tensors outside the layers: name in the folder, name in GGUF.
const WHOLE: &[(&str, &str)] = &[
    ("model.embed_tokens.weight", "token_embd.weight"),
    ("model.norm.weight", "output_norm.weight"),
    ("lm_head.weight", "output.weight"),
];

/// Parts of a layer, each with a `.weight` and perhaps a `.bias`: name in the folder, name in GGUF.
const PARTS: &[(&str, &str)] = &[
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
    ("mlp.gate", "ffn_gate_inp"),
    ("block_sparse_moe.gate", "ffn_gate_inp"),
];

/// Matrices of one expert: name in the folder, name of the stack in GGUF.
const EXPERT_PARTS: &[(&str, &str)] = &[
    ("gate_proj", "ffn_gate_exps"),
    ("up_proj", "ffn_up_exps"),
    ("down_proj", "ffn_down_exps"),
    ("w1", "ffn_gate_exps"),
    ("w3", "ffn_up_exps"),
    ("w2", "ffn_down_exps"),
];

/// What the folder's tensor is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A tensor of its own.
    Whole(String),
    /// One matrix of a stack.
    Expert { stack: String, index: usize },
    /// The gate matrices of all experts of a layer over their up matrices.
    GatesAndUps { layer: usize },
    /// The down matrices of all experts of a layer.
    Downs { layer: usize },
    /// Queries over keys over values of a layer.
    Fused { layer: usize },
    /// Something that follows from the configuration, or that nothing here asks for.
    Derived,
}

/// Finds what `name` is, or `None` for a name of no supported model.
fn place(name: &str) -> Option<Place> {
    if name.ends_with(".rotary_emb.inv_freq") {
        return Some(Place::Derived);
    }
    if let Some((_, gguf)) = WHOLE.iter().find(|(theirs, _)| *theirs == name) {
        return Some(Place::Whole((*gguf).to_owned()));
    }
    let (layer, part) = name.strip_prefix("model.layers.")?.split_once('.')?;
    let layer: usize = layer.parse().ok()?;
    match part {
        "mlp.experts.gate_up_proj" => return Some(Place::GatesAndUps { layer }),
        "mlp.experts.down_proj" => return Some(Place::Downs { layer }),
        _ => {}
    }
    let (stem, kind) = part
        .rsplit_once('.')
        .filter(|(_, kind)| matches!(*kind, "weight" | "bias"))?;
    if let Some((_, ours)) = PARTS.iter().find(|(theirs, _)| *theirs == stem) {
        return Some(Place::Whole(format!("blk.{layer}.{ours}.{kind}")));
    }
    let expert = stem
        .strip_prefix("mlp.experts.")
        .or_else(|| stem.strip_prefix("block_sparse_moe.experts."))?;
    let (index, matrix) = expert.split_once('.')?;
    let (_, ours) = EXPERT_PARTS.iter().find(|(theirs, _)| *theirs == matrix)?;
    let stack = (kind == "weight").then(|| format!("blk.{layer}.{ours}.weight"))?;
    Some(Place::Expert {
        stack,
        index: index.parse().ok()?,
    })
}

/// Collects the tensors of a model from its files, in any order.
pub(super) struct Stacker<'a> {
    /// Experts in a layer.
    experts: usize,
    /// Finds what a name is.
    place: fn(&str) -> Option<Place>,
    tensors: BTreeMap<String, SourceTensor<'a>>,
    /// Stacks that are not complete yet, and the matrices that were found.
    stacks: BTreeMap<String, BTreeMap<usize, Matrix<'a>>>,
}

#[derive(Clone, Copy)]
struct Matrix<'a> {
    format: Format,
    rows: usize,
    cols: usize,
    bytes: &'a [u8],
}

impl<'a> Stacker<'a> {
    pub(super) fn new(config: &ModelConfig) -> Self {
        let experts = config.experts.map_or(0, |experts| experts.count);
        Stacker {
            experts,
            place: config.encoder.map_or(place, |_| encoder::place),
            tensors: BTreeMap::new(),
            stacks: BTreeMap::new(),
        }
    }

    /// Takes one tensor of a file.
    pub(super) fn add(&mut self, tensor: &StoredTensor<'a>) -> Result<(), SourceError> {
        let unknown = || HfError::UnknownTensor {
            name: tensor.name.clone().into_owned(),
        };
        match (self.place)(&tensor.name).ok_or_else(unknown)? {
            Place::Derived => Ok(()),
            Place::Fused { layer } => {
                let all = matrix(tensor)?;
                let thirds = all.thirds().ok_or_else(|| shape(tensor))?;
                ["attn_q", "attn_k", "attn_v"]
                    .into_iter()
                    .zip(thirds)
                    .try_for_each(|(part, third)| {
                        self.insert(format!("blk.{layer}.{part}.weight"), vec![third])
                    })
            }
            Place::Whole(name) => {
                let matrix = matrix(tensor)?;
                self.insert(name, vec![matrix])
            }
            Place::Expert { stack, index } => {
                let found = self
                    .stacks
                    .entry(stack.clone())
                    .or_default()
                    .insert(index, matrix(tensor)?);
                if found.is_some() {
                    Err(HfError::Duplicate { name: stack }.into())
                } else {
                    Ok(())
                }
            }
            Place::GatesAndUps { layer } => {
                let both = self.unstack(tensor)?;
                let halves = both
                    .iter()
                    .map(|matrix| matrix.halves())
                    .collect::<Option<Vec<_>>>();
                let (gates, ups) = halves.ok_or_else(|| shape(tensor))?.into_iter().unzip();
                self.insert(format!("blk.{layer}.ffn_gate_exps.weight"), gates)?;
                self.insert(format!("blk.{layer}.ffn_up_exps.weight"), ups)
            }
            Place::Downs { layer } => {
                let downs = self.unstack(tensor)?;
                self.insert(format!("blk.{layer}.ffn_down_exps.weight"), downs)
            }
        }
    }

    /// All tensors, once every file was taken.
    pub(super) fn finish(mut self) -> Result<BTreeMap<String, SourceTensor<'a>>, SourceError> {
        for (name, found) in std::mem::take(&mut self.stacks) {
            let complete = found.keys().copied().eq(0..self.experts);
            let mut shapes = found.values().map(|m| (m.format, m.rows, m.cols));
            let first = shapes.next();
            if !complete || shapes.any(|other| Some(other) != first) {
                return Err(HfError::Experts {
                    name,
                    count: self.experts,
                }
                .into());
            }
            self.insert(name, found.into_values().collect())?;
        }
        Ok(self.tensors)
    }

    /// The matrices of a tensor of three dimensions, one per expert.
    fn unstack(&self, tensor: &StoredTensor<'a>) -> Result<Vec<Matrix<'a>>, SourceError> {
        let &[experts, rows, cols] = tensor.shape() else {
            return Err(shape(tensor));
        };
        if experts != self.experts || tensor.bytes.is_empty() {
            return Err(shape(tensor));
        }
        let format = known(tensor)?;
        let parts = tensor.bytes.chunks_exact(tensor.bytes.len() / experts);
        Ok(parts
            .map(|bytes| Matrix {
                format,
                rows,
                cols,
                bytes,
            })
            .collect())
    }

    /// Files matrices of one shape under a GGUF name.
    fn insert(&mut self, name: String, matrices: Vec<Matrix<'a>>) -> Result<(), SourceError> {
        let experts = matrices.len();
        let Some(&Matrix {
            format, rows, cols, ..
        }) = matrices.first()
        else {
            return Err(HfError::Experts {
                name,
                count: self.experts,
            }
            .into());
        };
        let spec = TensorSpec {
            name: name.clone(),
            format,
            rows,
            cols,
            experts,
        };
        let matrices = matrices.into_iter().map(|matrix| matrix.bytes).collect();
        match self.tensors.insert(name.clone(), SourceTensor { spec, matrices }) {
            None => Ok(()),
            Some(_) => Err(HfError::Duplicate { name }.into()),
        }
    }
}

impl<'a> Matrix<'a> {
    /// The rows in three equal parts, or `None` where they are not.
    fn thirds(&self) -> Option<[Matrix<'a>; 3]> {
        let rows = self.rows.is_multiple_of(3).then_some(self.rows / 3)?;
        let each = self.bytes.len() / 3;
        Some([0, 1, 2].map(|part| Matrix {
            rows,
            bytes: &self.bytes[part * each..][..each],
            ..*self
        }))
    }

    /// The upper and the lower half of the rows, or `None` for an odd number of them.
    fn halves(&self) -> Option<(Matrix<'a>, Matrix<'a>)> {
        let rows = self.rows.is_multiple_of(2).then_some(self.rows / 2)?;
        let (upper, lower) = self.bytes.split_at(self.bytes.len() / 2);
        Some((
            Matrix {
                rows,
                bytes: upper,
                ..*self
            },
            Matrix {
                rows,
                bytes: lower,
                ..*self
            },
        ))
    }
}

/// A matrix, or a vector as a matrix of one row.
fn matrix<'a>(tensor: &StoredTensor<'a>) -> Result<Matrix<'a>, SourceError> {
    let (rows, cols) = match *tensor.shape() {
        [cols] => (1, cols),
        [rows, cols] => (rows, cols),
        _ => return Err(shape(tensor)),
    };
    if tensor.bytes.is_empty() {
        return Err(shape(tensor));
    }
    Ok(Matrix {
        format: known(tensor)?,
        rows,
        cols,
        bytes: tensor.bytes,
    })
}

fn known(tensor: &StoredTensor<'_>) -> Result<Format, SourceError> {
    let (name, dtype) = (&tensor.name, &tensor.dtype);
    let unknown = || HfError::Dtype {
        name: name.clone().into_owned(),
        dtype: dtype.clone().into_owned(),
    };
    Ok(tensor.format().ok_or_else(unknown)?)
}

fn shape(tensor: &StoredTensor<'_>) -> SourceError {
    HfError::Shape {
        name: tensor.name.clone().into_owned(),
        shape: tensor.shape().to_vec(),
    }
    .into()
}
