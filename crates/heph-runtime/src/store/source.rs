//! Which files make up the model at a path.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use super::{Format, StoreError};

/// Most parts a sharded file may claim: five digits of the naming scheme, cut to what anyone ships.
const PARTS_MAX: usize = 9999;

/// The files of one model, in the order they are opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelFiles {
    /// A GGUF file, or all parts of one in order.
    Gguf(Vec<PathBuf>),
    /// A folder with `config.json` and `.safetensors` files.
    HuggingFace(PathBuf),
}

impl ModelFiles {
    /// How they are written.
    pub fn format(&self) -> Format {
        match self {
            Self::Gguf(_) => Format::Gguf,
            Self::HuggingFace(_) => Format::HuggingFace,
        }
    }

    /// Each file. Of a folder, those that make up the model: `.json`, `.safetensors`, `.jinja`, `.model`, `.txt`, and
    /// `POOLING`.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn paths(&self) -> Result<Vec<PathBuf>, StoreError> {
        match self {
            Self::Gguf(paths) => Ok(paths.clone()),
            Self::HuggingFace(folder) => {
                let entries = fs::read_dir(folder).map_err(StoreError::io("read", folder))?;
                let paths = entries.flatten().map(|e| e.path());
                let paths = paths.filter(|path| belongs(path)).chain([folder.join(POOLING)]);
                let mut files: Vec<_> = paths.filter(|path| path.is_file()).collect();
                files.sort();
                Ok(files)
            }
        }
    }

    /// What a file among `paths` is called inside the model's folder.
    pub(super) fn name_of(&self, path: &Path) -> String {
        let inside = match self {
            Self::Gguf(_) => path.file_name().map(Path::new),
            Self::HuggingFace(folder) => path.strip_prefix(folder).ok(),
        };
        let parts = inside.into_iter().flat_map(Path::components);
        let parts: Vec<_> = parts.map(|part| part.as_os_str().to_string_lossy()).collect();
        parts.join("/")
    }
}

/// How the rows of a text become one vector, in folders of models that only read: the one file of a model that lies
/// deeper.
pub(crate) const POOLING: &str = "1_Pooling/config.json";

/// Whether a file of a Hugging Face folder is part of the model, by its ending.
pub(crate) fn belongs(path: &Path) -> bool {
    let endings = ["json", "safetensors", "jinja", "model", "txt"];
    let hidden = path
        .file_name()
        .is_some_and(|n| n.to_string_lossy().starts_with('.'));
    !hidden
        && path
            .extension()
            .and_then(OsStr::to_str)
            .is_some_and(|e| endings.contains(&e))
}

/// The model at `path`: a GGUF file with all its parts, or a Hugging Face folder.
///
/// # Errors
/// When it is neither, or a part is missing.
pub fn find_files(path: &Path) -> Result<ModelFiles, StoreError> {
    let not_a_model = || StoreError::NotAModel {
        path: path.to_owned(),
    };
    if !path.exists() {
        return Err(StoreError::Absent {
            path: path.to_owned(),
        });
    }
    if path.is_dir() {
        let whole = path.join("config.json").is_file() && holds(path, "safetensors");
        return if whole {
            Ok(ModelFiles::HuggingFace(path.to_owned()))
        } else {
            Err(not_a_model())
        };
    }
    // A pipe or a device of that name might never end.
    if path.extension().is_none_or(|e| e != "gguf") || !path.is_file() {
        return Err(not_a_model());
    }
    let stem = path.file_stem().and_then(OsStr::to_str).unwrap_or_default();
    match shard(stem) {
        None => Ok(ModelFiles::Gguf(vec![path.to_owned()])),
        Some(shard) => all_parts(path, &shard).map(ModelFiles::Gguf),
    }
}

/// Whether a file of that name, with nothing beside it, is taken for a model.
pub fn names_one_file(path: &Path) -> bool {
    let stem = path.file_stem().and_then(OsStr::to_str).unwrap_or_default();
    path.extension().is_some_and(|e| e == "gguf") && shard(stem).is_none()
}

fn holds(folder: &Path, ending: &str) -> bool {
    let mut entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.any(|e| e.path().extension().is_some_and(|x| x == ending))
}

/// A part's name taken apart: `model-00002-of-00005`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Shard<'a> {
    /// What all parts share.
    pub(crate) stem: &'a str,
    /// How many there are.
    pub(crate) parts: usize,
}

/// `stem` read as the name of a part, without its ending.
pub(crate) fn shard(stem: &str) -> Option<Shard<'_>> {
    let (rest, parts) = stem.rsplit_once("-of-")?;
    let (stem, part) = rest.rsplit_once('-')?;
    let number = |digits: &str| -> Option<usize> {
        (digits.len() == 5 && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok())?
    };
    let (part, parts) = (number(part)?, number(parts)?);
    ((1..=parts).contains(&part) && parts <= PARTS_MAX).then_some(Shard { stem, parts })
}

/// The names of all parts of `shard`, with their ending.
pub(crate) fn part_names(shard: &Shard<'_>) -> impl Iterator<Item = String> {
    (1..=shard.parts).map(|part| format!("{}-{part:05}-of-{:05}.gguf", shard.stem, shard.parts))
}

fn all_parts(path: &Path, shard: &Shard<'_>) -> Result<Vec<PathBuf>, StoreError> {
    let parts: Vec<_> = part_names(shard).map(|name| path.with_file_name(name)).collect();
    match parts.iter().position(|p| !p.is_file()) {
        None => Ok(parts),
        Some(missing) => {
            let missing = missing + 1;
            Err(StoreError::PartMissing {
                path: path.to_owned(),
                parts: shard.parts,
                missing,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_file_is_a_model_by_its_name() {
        for (name, one) in [
            ("a/b.gguf", true),
            ("b.bin", false),
            ("gguf", false),
            ("b-00001-of-00002.gguf", false),
        ] {
            assert_eq!(names_one_file(Path::new(name)), one, "{name}");
        }
    }

    #[test]
    fn only_the_naming_scheme_makes_a_part() {
        assert_eq!(
            shard("big-00002-of-00005"),
            Some(Shard {
                stem: "big",
                parts: 5
            })
        );
        for plain in [
            "big",
            "big-2-of-5",
            "big-00006-of-00005",
            "big-00000-of-00005",
            "big-0000x-of-00005",
        ] {
            assert_eq!(shard(plain), None, "{plain}");
        }
    }
}
