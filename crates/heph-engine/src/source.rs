//! One view of a model's files, whatever their kind: a configuration, a vocabulary, and tensors by GGUF name.
//!
//! [`Source::from_gguf`] and [`Source::from_folder`] make it; everything after them (graph, weights, tokenizer,
//! quantising) reads only this. Nothing is copied: a tensor is a list of places in the files, one per matrix,
//! since Hugging Face folders keep each expert of a mixture apart and GGUF keeps them together.

mod gguf;

use crate::config::{ConfigError, ModelConfig};
use crate::gguf::{Gguf, GgufError, Metadata};
use crate::graph::{TensorIndex, TensorSpec};
use crate::hf::{Folder, FolderTexts, HfError};
use crate::quantize::{self, FileType};
use heph_kernels::format::{Format, dequantize_row, quantize_row};
use heph_kernels::pack::Rows;
use heph_kernels::pool::Pool;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// Why files are not a model that HEPH can run.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SourceError {
    /// The GGUF file is broken.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// The Hugging Face folder is broken.
    #[error(transparent)]
    Folder(#[from] HfError),
    /// The numbers of the configuration do not go together.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The configuration lacks something that the architecture needs.
    #[error("the model's configuration does not say {key:?}")]
    MissingKey {
        /// The key in the file.
        key: String,
    },
    /// The file holds no model of a kind that HEPH knows.
    #[error("models of the architecture {name:?} are not supported")]
    Architecture {
        /// The name in the file.
        name: String,
    },
    /// The model uses something that HEPH does not do.
    #[error("the model asks for something that is not supported: {what}")]
    Unsupported {
        /// What it asks for, as part of a sentence.
        what: String,
    },
    /// A tensor that every model has is absent; a vocabulary has none.
    #[error("the model has no tensor {name:?}")]
    MissingTensor {
        /// Its GGUF name.
        name: String,
    },
}

/// The weights of one tensor, in place.
#[derive(Debug, Clone, PartialEq)]
pub struct SourceTensor<'a> {
    /// Name, format and shape.
    pub spec: TensorSpec,
    /// The bytes of each matrix, `spec.experts` of them, rows one after another.
    pub matrices: Vec<&'a [u8]>,
}

/// The bytes of one file, mapped into memory or read.
pub trait FileBytes: Send + Sync {
    /// All of them.
    fn bytes(&self) -> &[u8];

    /// Says that these bytes will not be asked for soon: the memory behind them may be given back.
    fn release(&self, _bytes: Range<usize>) {}
}

impl FileBytes for Vec<u8> {
    fn bytes(&self) -> &[u8] {
        self
    }
}

/// One matrix where it lies.
pub(crate) struct FileView {
    file: Arc<dyn FileBytes>,
    bytes: Range<usize>,
}

impl Rows for FileView {
    fn bytes(&self) -> &[u8] {
        &self.file.bytes()[self.bytes.clone()]
    }

    fn release(&self, bytes: Range<usize>) {
        let start = self.bytes.start;
        self.file.release(start + bytes.start..start + bytes.end);
    }
}

/// What the files say about text and tokens, not yet read.
#[derive(Debug, Clone, PartialEq)]
pub enum Vocabulary<'a> {
    /// The metadata of a GGUF file: `tokenizer.*`.
    Gguf(Metadata<'a>),
    /// The JSON files of a Hugging Face folder.
    Folder(&'a FolderTexts),
}

/// A model in files.
pub struct Source {
    config: ModelConfig,
    files: Vec<Arc<dyn FileBytes>>,
    /// The small files of a folder; a GGUF file has all in one.
    texts: Option<FolderTexts>,
    tensors: BTreeMap<String, Located>,
}

/// A tensor and where it lies.
struct Located {
    /// As it is read, which is in another format than in the file when it is quantised at load.
    spec: TensorSpec,
    /// The format in the file.
    stored: Format,
    matrices: Vec<Place>,
}

/// Bytes of one of the files.
struct Place {
    file: usize,
    bytes: Range<usize>,
}

impl Source {
    /// The model in a GGUF file, or in all parts of a sharded one, in order.
    pub fn from_gguf(files: Vec<Arc<dyn FileBytes>>) -> Result<Source, SourceError> {
        let parts = files
            .iter()
            .map(|file| Gguf::parse(file.bytes()))
            .collect::<Result<Vec<_>, _>>()?;
        let whole = Gguf::join(parts)?;
        let tensors = gguf::tensors(&whole)?;
        let config = gguf::config(&whole, &tensors)?;
        let tensors = locate(tensors, &files);
        Source::checked(config, files, None, tensors)
    }

    /// The model in a Hugging Face folder: its small files, and its weight files with their names.
    pub fn from_folder(
        texts: FolderTexts,
        weights: Vec<(String, Arc<dyn FileBytes>)>,
    ) -> Result<Source, SourceError> {
        let named = weights
            .iter()
            .map(|(name, file)| (name.as_str(), file.bytes()))
            .collect();
        let folder = Folder {
            texts: &texts,
            weights: named,
        };
        let config = folder.config()?;
        let tensors = folder.tensors(&config)?;
        let files: Vec<_> = weights.iter().map(|(_, file)| Arc::clone(file)).collect();
        let tensors = locate(tensors, &files);
        Source::checked(config, files, Some(texts), tensors)
    }

    fn checked(
        config: ModelConfig,
        files: Vec<Arc<dyn FileBytes>>,
        texts: Option<FolderTexts>,
        tensors: BTreeMap<String, Located>,
    ) -> Result<Source, SourceError> {
        config.check()?;
        Ok(Source {
            config,
            files,
            texts,
            tensors,
        })
    }

    /// The same model, its tensors stored as `file_type` does it from the moment they are read.
    pub fn quantized(mut self, file_type: FileType) -> Source {
        let plan = quantize::plan(&self, file_type);
        for (name, format) in plan {
            if let Some(tensor) = self.tensors.get_mut(&name) {
                tensor.spec.format = format;
            }
        }
        self
    }

    /// The shape of the model, checked.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// What the files say about text and tokens.
    pub fn vocabulary(&self) -> Result<Vocabulary<'_>, SourceError> {
        match &self.texts {
            Some(texts) => Ok(Vocabulary::Folder(texts)),
            None => Ok(Vocabulary::Gguf(Gguf::parse(self.files[0].bytes())?.metadata)),
        }
    }

    /// Name, format and shape of every tensor, by name.
    pub fn specs(&self) -> impl Iterator<Item = &TensorSpec> {
        self.tensors.values().map(|tensor| &tensor.spec)
    }

    /// The tensor of this GGUF name as it is in the file.
    pub fn tensor(&self, name: &str) -> Option<SourceTensor<'_>> {
        let tensor = self.tensors.get(name)?;
        let matrices = tensor.matrices.iter().map(|place| self.bytes(place)).collect();
        let spec = TensorSpec {
            format: tensor.stored,
            ..tensor.spec.clone()
        };
        Some(SourceTensor { spec, matrices })
    }

    /// All bytes of a tensor in one piece; copied only where it is quantised now, or where the files keep its
    /// experts apart. `None` where there is no such tensor.
    pub fn read(&self, name: &str, pool: &Pool) -> Option<Cow<'_, [u8]>> {
        let tensor = self.tensors.get(name)?;
        if tensor.spec.format != tensor.stored {
            return quantize::convert(&self.tensor(name)?, tensor.spec.format, pool).map(Cow::Owned);
        }
        Some(match tensor.matrices.as_slice() {
            [one] => Cow::Borrowed(self.bytes(one)),
            [first, .., last] if tensor.in_one_piece() => {
                Cow::Borrowed(&self.files[first.file].bytes()[first.bytes.start..last.bytes.end])
            }
            many => Cow::Owned(many.iter().flat_map(|place| self.bytes(place)).copied().collect()),
        })
    }

    /// The `count` matrices of a tensor where they lie; `None` where they lie otherwise, or are quantised when they are read.
    pub(crate) fn views(&self, name: &str, count: usize) -> Option<Vec<FileView>> {
        let tensor = self.tensors.get(name)?;
        let here = tensor.spec.format == tensor.stored && tensor.matrices.len() == count;
        let view = |place: &Place| FileView {
            file: Arc::clone(&self.files[place.file]),
            bytes: place.bytes.clone(),
        };
        here.then(|| tensor.matrices.iter().map(view).collect())
    }

    /// One row of a tensor's first matrix as floats; `None` where there is no such row.
    pub fn row(&self, name: &str, row: usize, out: &mut [f32]) -> Option<()> {
        let tensor = self.tensors.get(name)?;
        let (stored, matrix) = (tensor.stored, self.bytes(tensor.matrices.first()?));
        let row_bytes = stored.row_bytes(tensor.spec.cols)?;
        let bytes = matrix.chunks_exact(row_bytes.max(1)).nth(row)?;
        if out.len() != tensor.spec.cols {
            return None;
        }
        dequantize_row(stored, bytes, out);
        if tensor.spec.format != stored {
            // What the kernels would read had the file been quantised before.
            let mut raw = vec![0; tensor.spec.format.row_bytes(out.len())?];
            quantize_row(tensor.spec.format, out, None, &mut raw);
            dequantize_row(tensor.spec.format, &raw, out);
        }
        Some(())
    }

    /// Where the bytes of a tensor lie: the number of a file and a range in it, for each of its matrices.
    pub(crate) fn places(&self, name: &str) -> impl Iterator<Item = (usize, Range<u64>)> {
        let matrices = self.tensors.get(name).map(|tensor| tensor.matrices.as_slice());
        let place = |p: &Place| (p.file, p.bytes.start as u64..p.bytes.end as u64);
        matrices.unwrap_or_default().iter().map(place)
    }

    /// Says that a tensor will not be asked for soon.
    pub fn release(&self, name: &str) {
        for place in self
            .tensors
            .get(name)
            .into_iter()
            .flat_map(|tensor| &tensor.matrices)
        {
            self.files[place.file].release(place.bytes.clone());
        }
    }

    fn bytes(&self, place: &Place) -> &[u8] {
        &self.files[place.file].bytes()[place.bytes.clone()]
    }
}

/// The ranges of a GGUF file that [`Source::from_gguf`] reads whatever layers are wanted: the header, and the divisors
/// of the rotary frequencies, which are configuration. The tensors' bytes may be missing from `file` as long as it has
/// their length.
///
/// # Errors
/// [`GgufError::Truncated`] where the header is not all there, and what else a header can have wrong.
pub fn beyond_layers(file: &[u8]) -> Result<Vec<Range<u64>>, GgufError> {
    let start = file.as_ptr() as usize;
    let header = Gguf::header_bytes(file)? as u64;
    let parsed = Gguf::parse(file)?;
    let divisors = parsed.tensor(gguf::ROPE_FREQS).map(|tensor| {
        let at = (tensor.bytes.as_ptr() as usize - start) as u64;
        at..at + tensor.bytes.len() as u64
    });
    let header = 0..header;
    Ok(std::iter::once(header).chain(divisors).collect())
}

impl TensorIndex for Source {
    fn spec(&self, name: &str) -> Option<TensorSpec> {
        self.tensors.get(name).map(|tensor| tensor.spec.clone())
    }

    fn names(&self) -> Vec<&str> {
        self.tensors.keys().map(String::as_str).collect()
    }
}

impl Located {
    /// Whether every matrix begins where the one before it ends.
    fn in_one_piece(&self) -> bool {
        self.matrices
            .windows(2)
            .all(|pair| pair[0].file == pair[1].file && pair[0].bytes.end == pair[1].bytes.start)
    }
}

/// Turns views into places, so that the files can be kept beside them.
fn locate(
    tensors: BTreeMap<String, SourceTensor<'_>>,
    files: &[Arc<dyn FileBytes>],
) -> BTreeMap<String, Located> {
    let place = |view: &[u8]| {
        let at = view.as_ptr() as usize;
        let inside = |file: &Arc<dyn FileBytes>| {
            let start = file.bytes().as_ptr() as usize;
            (start..start + file.bytes().len())
                .contains(&at)
                .then(|| at - start)
        };
        let found = files
            .iter()
            .enumerate()
            .find_map(|(file, bytes)| Some((file, inside(bytes)?)));
        let (file, start) = found.expect("a reader only returns bytes of its files");
        Place {
            file,
            bytes: start..start + view.len(),
        }
    };
    let located = |tensor: SourceTensor<'_>| {
        let matrices = tensor.matrices.iter().map(|view| place(view)).collect();
        Located {
            stored: tensor.spec.format,
            spec: tensor.spec,
            matrices,
        }
    };
    tensors
        .into_iter()
        .map(|(name, tensor)| (name, located(tensor)))
        .collect()
}

#[cfg(test)]
mod tests;
