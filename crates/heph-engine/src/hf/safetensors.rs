//! Safetensors files: a JSON header of names, types, shapes and places, then the numbers.
//!
//! Read in place. The header is walked once to count its entries before anything is allocated.

use heph_kernels::format::Format;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::borrow::Cow;
use std::fmt;

/// Dimensions that a tensor may have.
const DIMS_MAX: usize = 4;

/// Why bytes are not a safetensors file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SafetensorsError {
    /// The file is shorter than its header says.
    #[error("the file of {len} bytes ends inside its header")]
    Truncated {
        /// Length of the file.
        len: usize,
    },
    /// The header is not what it should be.
    #[error("the header cannot be read: {why}")]
    Header {
        /// What the JSON reader said.
        why: String,
    },
    /// Two tensors of one name.
    #[error("{name:?} is in the file twice")]
    Duplicate {
        /// The name.
        name: String,
    },
    /// A tensor whose place is outside the file, over another tensor, or not as long as its shape.
    #[error("tensor {name:?} does not lie at a place of its own inside the file")]
    Extent {
        /// The name.
        name: String,
    },
}

/// One tensor of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredTensor<'a> {
    /// Its name in the file.
    pub name: Cow<'a, str>,
    /// What its numbers are stored as, such as `BF16`.
    pub dtype: Cow<'a, str>,
    dims: [usize; DIMS_MAX],
    rank: usize,
    /// The numbers, last dimension first.
    pub bytes: &'a [u8],
}

impl StoredTensor<'_> {
    /// Its dimensions; the last is the length of a row.
    pub fn shape(&self) -> &[usize] {
        &self.dims[..self.rank]
    }

    /// Its format, or `None` for numbers that are not weights to HEPH.
    pub fn format(&self) -> Option<Format> {
        format(&self.dtype)
    }
}

fn format(dtype: &str) -> Option<Format> {
    match dtype {
        "F32" => Some(Format::F32),
        "F16" => Some(Format::F16),
        "BF16" => Some(Format::BF16),
        _ => None,
    }
}

/// A whole file.
#[derive(Debug, Clone, PartialEq)]
pub struct Safetensors<'a> {
    tensors: Vec<StoredTensor<'a>>,
}

impl<'a> Safetensors<'a> {
    /// Reads the header of a file and finds its tensors.
    ///
    /// # Errors
    /// For anything that is not a complete, consistent file.
    pub fn parse(bytes: &'a [u8]) -> Result<Safetensors<'a>, SafetensorsError> {
        let (header, data) = split(bytes).ok_or(SafetensorsError::Truncated { len: bytes.len() })?;
        let count = read(header, Count)?;
        let entries = read(header, Entries { count })?;
        let placed: Result<Vec<_>, _> = entries.into_iter().map(|entry| place(entry, data)).collect();
        let mut tensors = placed?;
        apart(&mut tensors)?;
        tensors.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        match tensors.windows(2).find(|pair| pair[0].name == pair[1].name) {
            Some(pair) => Err(SafetensorsError::Duplicate {
                name: pair[0].name.clone().into_owned(),
            }),
            None => Ok(Safetensors { tensors }),
        }
    }

    /// The tensors, by name.
    pub fn tensors(&self) -> &[StoredTensor<'a>] {
        &self.tensors
    }
}

/// The header of as many bytes as the first eight say, and what follows it.
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = bytes.split_first_chunk::<8>()?;
    rest.split_at_checked(usize::try_from(u64::from_le_bytes(*len)).ok()?)
}

fn read<'a, S: DeserializeSeed<'a>>(header: &'a [u8], seed: S) -> Result<S::Value, SafetensorsError> {
    let wrong = |error: serde_json::Error| SafetensorsError::Header {
        why: error.to_string(),
    };
    let mut json = serde_json::Deserializer::from_slice(header);
    let value = seed.deserialize(&mut json).map_err(wrong)?;
    json.end().map_err(wrong)?;
    Ok(value)
}

fn place<'a>(entry: Entry<'a>, data: &'a [u8]) -> Result<StoredTensor<'a>, SafetensorsError> {
    let Entry { name, facts } = entry;
    let Facts {
        dtype,
        shape: Shape { dims, rank },
        data_offsets: [start, end],
    } = facts;
    let bytes = data.get(start..end).filter(|bytes| match format(&dtype) {
        None => true,
        Some(format) => dims[..rank]
            .iter()
            .try_fold(format.block_bytes(), |size, &dim| size.checked_mul(dim))
            .is_some_and(|size| size == bytes.len()),
    });
    match bytes {
        Some(bytes) => Ok(StoredTensor {
            name,
            dtype,
            dims,
            rank,
            bytes,
        }),
        None => Err(SafetensorsError::Extent {
            name: name.into_owned(),
        }),
    }
}

/// Refuses tensors that share bytes. Leaves the tensors in the order of their bytes.
fn apart(tensors: &mut [StoredTensor<'_>]) -> Result<(), SafetensorsError> {
    let span = |tensor: &StoredTensor<'_>| {
        let bytes = tensor.bytes.as_ptr_range();
        (bytes.start as usize, bytes.end as usize)
    };
    tensors.sort_unstable_by_key(span);
    let mut end = 0;
    for tensor in tensors.iter().filter(|tensor| !tensor.bytes.is_empty()) {
        if span(tensor).0 < end {
            return Err(SafetensorsError::Extent {
                name: tensor.name.clone().into_owned(),
            });
        }
        end = span(tensor).1;
    }
    Ok(())
}

struct Entry<'a> {
    name: Cow<'a, str>,
    facts: Facts<'a>,
}

#[derive(Deserialize)]
struct Facts<'a> {
    #[serde(borrow)]
    dtype: Cow<'a, str>,
    shape: Shape,
    data_offsets: [usize; 2],
}

struct Shape {
    dims: [usize; DIMS_MAX],
    rank: usize,
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        struct Dims;
        impl<'de> Visitor<'de> for Dims {
            type Value = Shape;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "at most {DIMS_MAX} dimensions")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Shape, A::Error> {
                let mut shape = Shape {
                    dims: [1; DIMS_MAX],
                    rank: 0,
                };
                while let Some(dim) = items.next_element()? {
                    let slot = shape.dims.get_mut(shape.rank);
                    *slot.ok_or_else(|| A::Error::custom("a tensor has too many dimensions"))? = dim;
                    shape.rank += 1;
                }
                Ok(shape)
            }
        }
        json.deserialize_seq(Dims)
    }
}

/// A key of the header: a tensor's name, or the free text that files may carry.
#[derive(Deserialize)]
#[serde(transparent)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

const FREE_TEXT: &str = "__metadata__";

/// Counts the tensors of a header.
struct Count;

impl<'de> DeserializeSeed<'de> for Count {
    type Value = usize;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<usize, D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Count {
    type Value = usize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<usize, A::Error> {
        let mut count = 0;
        while let Some(Name(name)) = map.next_key()? {
            if name == FREE_TEXT {
                map.next_value::<IgnoredAny>()?;
            } else {
                map.next_value::<Facts<'de>>()?;
                count += 1;
            }
        }
        Ok(count)
    }
}

/// Collects the tensors of a header that has `count`.
struct Entries {
    count: usize,
}

impl<'de> DeserializeSeed<'de> for Entries {
    type Value = Vec<Entry<'de>>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Entries {
    type Value = Vec<Entry<'de>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut entries = Vec::with_capacity(self.count);
        while let Some(Name(name)) = map.next_key()? {
            if name == FREE_TEXT {
                map.next_value::<IgnoredAny>()?;
            } else {
                entries.push(Entry {
                    name,
                    facts: map.next_value()?,
                });
            }
        }
        Ok(entries)
    }
}
