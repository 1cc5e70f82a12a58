//! Which tensor gets which format: the mixes of llama.cpp by their usual names.

use crate::graph::{TensorIndex, TensorSpec};
use crate::source::Source;
use heph_kernels::format::Format;
use std::fmt;
use std::str::FromStr;

/// The kinds of files that can be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of llama.cpp")]
pub enum FileType {
    F32,
    F16,
    BF16,
    Q8_0,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q2K,
    Q3KS,
    Q3KM,
    Q3KL,
    Q4KS,
    Q4KM,
    Q5KS,
    Q5KM,
    Q6K,
    Iq4Nl,
    Mxfp4,
}

use FileType::{Iq4Nl, Mxfp4, Q2K, Q3KL, Q3KM, Q3KS, Q4KM, Q4KS, Q5KM, Q5KS};

/// Type, name, number in `general.file_type`, format of most tensors.
const TABLE: [(FileType, &str, u32, Format); 19] = [
    (FileType::F32, "f32", 0, Format::F32),
    (FileType::F16, "f16", 1, Format::F16),
    (FileType::BF16, "bf16", 32, Format::BF16),
    (FileType::Q8_0, "q8_0", 7, Format::Q8_0),
    (FileType::Q4_0, "q4_0", 2, Format::Q4_0),
    (FileType::Q4_1, "q4_1", 3, Format::Q4_1),
    (FileType::Q5_0, "q5_0", 8, Format::Q5_0),
    (FileType::Q5_1, "q5_1", 9, Format::Q5_1),
    (Q2K, "q2_k", 10, Format::Q2K),
    (Q3KS, "q3_k_s", 11, Format::Q3K),
    (Q3KM, "q3_k_m", 12, Format::Q3K),
    (Q3KL, "q3_k_l", 13, Format::Q3K),
    (Q4KS, "q4_k_s", 14, Format::Q4K),
    (Q4KM, "q4_k_m", 15, Format::Q4K),
    (Q5KS, "q5_k_s", 16, Format::Q5K),
    (Q5KM, "q5_k_m", 17, Format::Q5K),
    (FileType::Q6K, "q6_k", 18, Format::Q6K),
    (Iq4Nl, "iq4_nl", 25, Format::Iq4Nl),
    (Mxfp4, "mxfp4", 38, Format::Mxfp4),
];

/// A name that stands for no file type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} is no file type; known are {}", FileType::names())]
pub struct UnknownFileType {
    /// What was asked for.
    pub name: String,
}

impl FileType {
    /// Every file type.
    pub fn all() -> impl Iterator<Item = FileType> {
        TABLE.iter().map(|line| line.0)
    }

    const fn line(self) -> &'static (FileType, &'static str, u32, Format) {
        &TABLE[self as usize]
    }

    /// The name in lower case, as in `q4_k_m`.
    pub const fn name(self) -> &'static str {
        self.line().1
    }

    /// The number that stands for the type in `general.file_type`.
    pub const fn to_ggml(self) -> u32 {
        self.line().2
    }

    /// The format of most tensors.
    pub const fn format(self) -> Format {
        self.line().3
    }

    fn names() -> String {
        TABLE.map(|line| line.1).join(", ")
    }
}

impl FromStr for FileType {
    type Err = UnknownFileType;

    fn from_str(name: &str) -> Result<FileType, UnknownFileType> {
        let found = TABLE.iter().find(|line| line.1.eq_ignore_ascii_case(name));
        found.map(|line| line.0).ok_or_else(|| UnknownFileType {
            name: name.to_owned(),
        })
    }
}

impl fmt::Display for FileType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The layer that a tensor belongs to; `None` stands before the first.
pub(super) fn layer(name: &str) -> Option<usize> {
    name.strip_prefix("blk.")?.split_once('.')?.0.parse().ok()
}

/// One file type for one model.
pub(super) struct Mix {
    file_type: FileType,
    layers: usize,
    /// Query heads that share a key head.
    sharing: usize,
    experts: usize,
    tied: bool,
}

/// What a matrix is for, as far as formats differ by it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Head,
    Table,
    Value,
    Key,
    AttentionOutput,
    Down,
    GateOrUp,
    Other,
}

impl Mix {
    pub(super) fn new(source: &Source, file_type: FileType) -> Mix {
        let config = source.config();
        Mix {
            file_type,
            layers: config.layers,
            sharing: config.heads / config.kv_heads,
            experts: config.experts.map_or(0, |experts| experts.count),
            tied: source.spec("output.weight").is_none(),
        }
    }

    /// The format of one tensor.
    pub(super) fn format(&self, spec: &TensorSpec) -> Format {
        if !spec.name.ends_with(".weight") || spec.name.ends_with("_norm.weight") {
            return Format::F32;
        }
        // Only single rows of these are read.
        if ["position_embd.weight", "token_types.weight"].contains(&spec.name.as_str()) {
            return Format::F32;
        }
        // Routers are small, and a wrong choice of experts is not.
        if spec.name.ends_with("ffn_gate_inp.weight") {
            return Format::F32;
        }
        let wanted = match self.file_type {
            FileType::F32 | FileType::F16 | FileType::BF16 => self.file_type.format(),
            _ => self.quantized(spec),
        };
        fitting(wanted, spec.cols)
    }

    fn quantized(&self, spec: &TensorSpec) -> Format {
        let base = self.file_type.format();
        let layer = layer(&spec.name).unwrap_or(0);
        match self.role(&spec.name) {
            Role::Head => self.head(spec.cols),
            Role::Table if self.tied => self.head(spec.cols),
            role if self.file_type == Mxfp4 => self.microscaled(role),
            Role::Value => self.value(layer),
            Role::Key if self.experts == 8 => Format::Q8_0,
            Role::Down => self.down(layer),
            Role::AttentionOutput => self.attention_output(),
            Role::Table | Role::Key | Role::GateOrUp | Role::Other => base,
        }
    }

    fn role(&self, name: &str) -> Role {
        match name {
            "output.weight" => return Role::Head,
            "token_embd.weight" => return Role::Table,
            _ => {}
        }
        match name.split('.').nth(2).unwrap_or_default() {
            "attn_v" => Role::Value,
            "attn_k" => Role::Key,
            "attn_output" => Role::AttentionOutput,
            "ffn_down" | "ffn_down_exps" => Role::Down,
            "ffn_gate" | "ffn_up" | "ffn_gate_exps" | "ffn_up_exps" => Role::GateOrUp,
            _ => Role::Other,
        }
    }

    /// The head speaks the last word.
    fn head(&self, cols: usize) -> Format {
        let base = self.file_type.format();
        let eight = self.file_type == Mxfp4 || base == Format::Q8_0 || !cols.is_multiple_of(base.block_len());
        if eight { Format::Q8_0 } else { Format::Q6K }
    }

    /// Only feed-forward matrices are made for microscaling; experts where there are some.
    fn microscaled(&self, role: Role) -> Format {
        if matches!(role, Role::Down | Role::GateOrUp) {
            Format::Mxfp4
        } else {
            Format::Q8_0
        }
    }

    fn value(&self, layer: usize) -> Format {
        let base = self.file_type.format();
        let chosen = match self.file_type {
            Q2K if self.sharing >= 4 => Format::Q4K,
            Q2K => Format::Q3K,
            Q3KM if layer < 2 => Format::Q5K,
            Q3KM => Format::Q4K,
            Q3KL => Format::Q5K,
            Iq4Nl if self.sharing >= 4 => Format::Q5K,
            Q4KM | Q5KM if self.more_bits(layer) => Format::Q6K,
            Q4KS if layer < 4 => Format::Q5K,
            _ => base,
        };
        match chosen {
            _ if self.experts == 8 => Format::Q8_0,
            // The 70 B models share each value matrix among eight heads: it is small and matters.
            Format::Q3K | Format::Q4K if self.layers == 80 => Format::Q5K,
            chosen => chosen,
        }
    }

    fn down(&self, layer: usize) -> Format {
        let base = self.file_type.format();
        match self.file_type {
            Q2K => Format::Q3K,
            Q3KM if layer < self.layers / 16 => Format::Q5K,
            Q3KM => Format::Q4K,
            Q3KL => Format::Q5K,
            Q4KM | Q5KM if self.more_bits(layer) => Format::Q6K,
            Q4KS | Iq4Nl if layer < self.layers / 8 => Format::Q5K,
            _ => base,
        }
    }

    fn attention_output(&self) -> Format {
        match self.file_type {
            Q2K | Q3KS | Q3KM | Iq4Nl | Q4KS | Q4KM if self.experts == 8 => Format::Q5K,
            _ if self.experts == 8 => self.file_type.format(),
            Q2K => Format::Q3K,
            Q3KM => Format::Q4K,
            Q3KL => Format::Q5K,
            _ => self.file_type.format(),
        }
    }

    /// The first and last eighth of the layers, and every third between.
    fn more_bits(&self, layer: usize) -> bool {
        let eighth = self.layers / 8;
        layer < eighth || layer >= 7 * self.layers / 8 || (layer - eighth) % 3 == 2
    }
}

/// The wanted format, or the nearest one with shorter blocks that can hold rows of `cols`.
fn fitting(wanted: Format, cols: usize) -> Format {
    if wanted.row_bytes(cols).is_some() {
        return wanted;
    }
    let shorter = match wanted {
        Format::Q2K | Format::Q3K => Format::Q4_0,
        Format::Q4K => Format::Q5_0,
        Format::Q5K => Format::Q5_1,
        Format::Q6K => Format::Q8_0,
        other => other,
    };
    if shorter.row_bytes(cols).is_some() {
        shorter
    } else {
        Format::F16
    }
}
