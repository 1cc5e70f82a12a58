//! GGUF files, versions 2 and 3: metadata, tensor table and tensor bytes of a file that is already in memory.
//!
//! Nothing is copied: names, strings, arrays and tensors are views into the file's bytes, so a vocabulary of
//! 128,000 tokens opens in the time it takes to walk over it. A file is walked once to check every length
//! against the bytes that are there and only then is anything allocated, so a hostile header costs no more
//! memory than a small multiple of its own size. The format is that of the GGUF specification in GGML.

mod cursor;
mod shards;
mod value;
mod write;

pub use shards::shard_names;
pub use value::{Array, Kind, Metadata, Value};
pub use write::{Body, Header};

use cursor::Cursor;
use heph_kernels::format::Format;

/// The four bytes that open every file.
const MAGIC: &[u8; 4] = b"GGUF";

/// Bytes between which tensors start when a file does not say otherwise.
pub const ALIGNMENT: usize = 32;

/// Alignments above one huge page mean nothing and would only move a tensor out of a small file.
const ALIGNMENT_MAX: u64 = 1 << 21;

/// Longest key that the specification allows, in bytes.
const KEY_MAX: u64 = 65_535;

/// Longest tensor name that the reference implementation reads, in bytes.
const NAME_MAX: u64 = 64;

/// Dimensions that a tensor may have.
const DIMS_MAX: usize = 4;

/// Why bytes are not a GGUF file that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GgufError {
    /// The first four bytes are others.
    #[error("this is not a GGUF file")]
    Magic,
    /// A version that HEPH does not read.
    #[error("GGUF version {version} is not supported, only 2 and 3")]
    Version {
        /// The version as read.
        version: u32,
    },
    /// The numbers are stored with the highest byte first.
    #[error("the file is a big-endian GGUF; only little-endian files are supported")]
    BigEndian,
    /// The file ends inside something.
    #[error("the file ends at byte {len}, inside {what} that starts at byte {at}")]
    Truncated {
        /// What was being read.
        what: &'static str,
        /// Where it starts.
        at: usize,
        /// Length of the file.
        len: usize,
    },
    /// A key is empty, too long or not UTF-8.
    #[error("metadata key {index} is not a name")]
    Key {
        /// Position of the entry in the file.
        index: u64,
    },
    /// A value type that the specification does not know.
    #[error("metadata value of unknown type {kind} at byte {at}")]
    ValueType {
        /// The type as read.
        kind: u32,
        /// Where it stands.
        at: usize,
    },
    /// Arrays within arrays, deeper than any file needs.
    #[error("metadata arrays are nested more than {max} deep at byte {at}")]
    Nesting {
        /// The deepest allowed.
        max: usize,
        /// Where the array stands.
        at: usize,
    },
    /// Two metadata entries or two tensors with one name.
    #[error("{name:?} is in the file twice")]
    Duplicate {
        /// The name.
        name: String,
    },
    /// A metadata value has another type than its key asks for.
    #[error("metadata {key:?} is {found}, not {wanted}")]
    WrongType {
        /// The key.
        key: String,
        /// What is there.
        found: &'static str,
        /// What was expected.
        wanted: &'static str,
    },
    /// `general.alignment` is not a power of two in range.
    #[error("tensors cannot be aligned to {alignment} bytes")]
    Alignment {
        /// The value in the file.
        alignment: u64,
    },
    /// A tensor name is empty, too long or not UTF-8.
    #[error("the name of tensor {index} is not a name")]
    TensorName {
        /// Position of the tensor in the file.
        index: u64,
    },
    /// A tensor format that HEPH does not read.
    #[error("tensor {name:?} is stored as {}, which is not supported", format_name(.id))]
    TensorType {
        /// The tensor.
        name: String,
        /// The format as read.
        id: u32,
    },
    /// A tensor with no, too many, empty or uncountable dimensions, or rows that are no whole blocks.
    #[error("tensor {name:?} has an impossible shape")]
    Shape {
        /// The tensor.
        name: String,
    },
    /// A tensor that starts off its alignment, ends after the file, or lies over another one.
    #[error("tensor {name:?} does not lie at a place of its own inside the file")]
    Extent {
        /// The tensor.
        name: String,
    },
    /// Files that are not the parts of one model, in order.
    #[error("part {part} of the model does not belong there: {why}")]
    Shard {
        /// Number of the part, from one.
        part: usize,
        /// What is wrong with it, as part of a sentence.
        why: String,
    },
}

/// One tensor of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GgufTensor<'a> {
    /// The name, such as `blk.0.attn_q.weight`.
    pub name: &'a str,
    /// How the weights are stored.
    pub format: Format,
    /// Length of a row, number of rows, number of matrices, one more; 1 where the file has fewer dimensions.
    pub dims: [usize; DIMS_MAX],
    /// How many of `dims` the file states.
    pub rank: usize,
    /// The weights, row after row.
    pub bytes: &'a [u8],
}

/// A whole file, or all parts of a sharded one.
#[derive(Debug, Clone, PartialEq)]
pub struct Gguf<'a> {
    /// Version of the format: 2 or 3.
    pub version: u32,
    /// Everything but the tensors.
    pub metadata: Metadata<'a>,
    tensors: Vec<GgufTensor<'a>>,
    /// Indices into `tensors`, by name.
    by_name: Vec<u32>,
}

impl<'a> Gguf<'a> {
    /// Reads the header of a file and finds its tensors.
    ///
    /// # Errors
    /// For anything that is not a complete, consistent file. A file without tensors (a vocabulary) is complete.
    pub fn parse(bytes: &'a [u8]) -> Result<Gguf<'a>, GgufError> {
        let mut cursor = Cursor::new(bytes);
        let version = version(&mut cursor)?;
        let tensor_count = cursor.u64("the tensor count")?;
        let entry_count = cursor.u64("the metadata count")?;
        let metadata = Metadata::parse(&mut cursor, entry_count)?;
        let alignment = alignment(&metadata)?;
        let tensors = tensors(&mut cursor, tensor_count, alignment)?;
        Gguf::assemble(version, metadata, tensors)
    }

    /// Bytes in front of the tensors' own: all that a header says, padding included. `beginning` may end anywhere.
    ///
    /// # Errors
    /// [`GgufError::Truncated`] where the beginning is too short to tell, and what else a header can have wrong.
    pub fn header_bytes(beginning: &[u8]) -> Result<usize, GgufError> {
        let mut cursor = Cursor::new(beginning);
        version(&mut cursor)?;
        let tensor_count = cursor.u64("the tensor count")?;
        let entry_count = cursor.u64("the metadata count")?;
        let metadata = Metadata::parse(&mut cursor, entry_count)?;
        let alignment = alignment(&metadata)?;
        for index in 0..tensor_count {
            entry(&mut cursor, index)?;
        }
        Ok(cursor.position().next_multiple_of(alignment))
    }

    /// The tensors in the order of the file.
    pub fn tensors(&self) -> &[GgufTensor<'a>] {
        &self.tensors
    }

    /// The tensor of this name.
    pub fn tensor(&self, name: &str) -> Option<&GgufTensor<'a>> {
        let found = self
            .by_name
            .binary_search_by(|&i| self.tensors[i as usize].name.cmp(name))
            .ok()?;
        Some(&self.tensors[self.by_name[found] as usize])
    }

    /// Indexes the tensors by name and refuses two of one name.
    fn assemble(
        version: u32,
        metadata: Metadata<'a>,
        tensors: Vec<GgufTensor<'a>>,
    ) -> Result<Gguf<'a>, GgufError> {
        let mut by_name: Vec<u32> = (0..tensors.len() as u32).collect();
        by_name.sort_unstable_by_key(|&i| tensors[i as usize].name);
        let name = |i: u32| tensors[i as usize].name;
        if let Some(pair) = by_name.windows(2).find(|pair| name(pair[0]) == name(pair[1])) {
            return Err(GgufError::Duplicate {
                name: name(pair[0]).to_owned(),
            });
        }
        Ok(Gguf {
            version,
            metadata,
            tensors,
            by_name,
        })
    }
}

/// What the format numbers of ggml that HEPH does not read are called.
const UNREAD: [(u32, &str); 18] = [
    (9, "Q8_1"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (40, "NVFP4"),
];

fn format_name(id: &u32) -> String {
    let named = UNREAD.iter().find(|(number, _)| number == id);
    named.map_or_else(|| format!("format number {id}"), |(_, name)| (*name).to_owned())
}

fn version(cursor: &mut Cursor<'_>) -> Result<u32, GgufError> {
    if cursor.take(4, "the magic").map_err(|_| GgufError::Magic)? != MAGIC {
        return Err(GgufError::Magic);
    }
    match cursor.u32("the version")? {
        version @ (2 | 3) => Ok(version),
        version if matches!(version.swap_bytes(), 1..=3) => Err(GgufError::BigEndian),
        version => Err(GgufError::Version { version }),
    }
}

fn alignment(metadata: &Metadata<'_>) -> Result<usize, GgufError> {
    match metadata.integer("general.alignment")? {
        None => Ok(ALIGNMENT),
        Some(alignment) if alignment.is_power_of_two() && alignment <= ALIGNMENT_MAX => {
            Ok(alignment as usize)
        }
        Some(alignment) => Err(GgufError::Alignment { alignment }),
    }
}

/// What the file says of one tensor, before its place is known to be good.
struct Entry<'a> {
    name: &'a str,
    format: Format,
    dims: [usize; DIMS_MAX],
    rank: usize,
    bytes: usize,
    offset: u64,
}

/// Reads the tensor table and finds the bytes of each tensor.
fn tensors<'a>(
    cursor: &mut Cursor<'a>,
    count: u64,
    alignment: usize,
) -> Result<Vec<GgufTensor<'a>>, GgufError> {
    let table = cursor.clone();
    for index in 0..count {
        entry(cursor, index)?;
    }
    let start = cursor.position().next_multiple_of(alignment);
    let data = cursor.whole().get(start..).unwrap_or_default();
    let mut found = Vec::with_capacity(count as usize);
    let mut again = table;
    for index in 0..count {
        let entry = entry(&mut again, index)?;
        found.push(place(entry, data, alignment)?);
    }
    apart(&found)?;
    Ok(found)
}

fn entry<'a>(cursor: &mut Cursor<'a>, index: u64) -> Result<Entry<'a>, GgufError> {
    let name = cursor
        .string(NAME_MAX, "a tensor name")
        .map_err(|e| e.or(GgufError::TensorName { index }))?;
    let name = std::str::from_utf8(name).ok().filter(|name| !name.is_empty());
    let name = name.ok_or(GgufError::TensorName { index })?;
    let impossible = || GgufError::Shape {
        name: name.to_owned(),
    };
    let rank = cursor.u32("a tensor's dimensions")? as usize;
    if !(1..=DIMS_MAX).contains(&rank) {
        return Err(impossible());
    }
    let mut dims = [1; DIMS_MAX];
    for dim in &mut dims[..rank] {
        *dim = usize::try_from(cursor.u64("a tensor's dimensions")?).map_err(|_| impossible())?;
    }
    let id = cursor.u32("a tensor's format")?;
    let format = Format::from_ggml(id).ok_or_else(|| GgufError::TensorType {
        name: name.to_owned(),
        id,
    })?;
    let bytes = size(format, &dims).ok_or_else(impossible)?;
    let offset = cursor.u64("a tensor's offset")?;
    Ok(Entry {
        name,
        format,
        dims,
        rank,
        bytes,
        offset,
    })
}

/// Bytes of a tensor, or `None` for one that is empty, ragged or uncountable.
fn size(format: Format, dims: &[usize; DIMS_MAX]) -> Option<usize> {
    let row = format.row_bytes(dims[0])?;
    dims[1..]
        .iter()
        .try_fold(row, |size, &dim| size.checked_mul(dim))
        .filter(|&size| size > 0)
}

fn place<'a>(entry: Entry<'a>, data: &'a [u8], alignment: usize) -> Result<GgufTensor<'a>, GgufError> {
    let Entry {
        name,
        format,
        dims,
        rank,
        bytes,
        offset,
    } = entry;
    let start = usize::try_from(offset)
        .ok()
        .filter(|start| start.is_multiple_of(alignment));
    let end = start.and_then(|start| start.checked_add(bytes));
    let range = start.zip(end).and_then(|(start, end)| data.get(start..end));
    let bytes = range.ok_or_else(|| GgufError::Extent {
        name: name.to_owned(),
    })?;
    Ok(GgufTensor {
        name,
        format,
        dims,
        rank,
        bytes,
    })
}

/// Refuses tensors that share bytes: a small file could otherwise stand for a huge model.
fn apart(tensors: &[GgufTensor<'_>]) -> Result<(), GgufError> {
    let span = |i: u32| {
        let bytes = tensors[i as usize].bytes.as_ptr_range();
        (bytes.start as usize, bytes.end as usize)
    };
    let mut order: Vec<u32> = (0..tensors.len() as u32).collect();
    order.sort_unstable_by_key(|&i| span(i));
    match order.windows(2).find(|pair| span(pair[0]).1 > span(pair[1]).0) {
        None => Ok(()),
        Some(pair) => Err(GgufError::Extent {
            name: tensors[pair[1] as usize].name.to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests;
