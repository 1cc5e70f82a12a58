//! Opens a model's files for the engine: mapped, never read whole, or taken from the program itself.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use heph_engine::gguf::{Gguf, GgufError};
use heph_engine::graph::ARCHITECTURES;
use heph_engine::hf::{FolderTexts, HfError, Safetensors, WEIGHTS, weight_files};
use heph_engine::source::{FileBytes, Source, SourceError, Vocabulary};
use heph_kernels::mapped::MappedFile;

use crate::store::{Found, ModelFiles, POOLING};
use crate::words::{Words, WordsError};

/// A configuration or tokenizer file larger than this is none: the largest known is 35 MB.
const TEXT_BYTES_MAX: u64 = 256 << 20;

/// Why a model's files could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The system refused a file.
    #[error("cannot open {path}: {cause}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// A folder, a device or a pipe goes by that name: it might never end.
    #[error("{path} is no regular file")]
    Special {
        /// What goes by that name.
        path: PathBuf,
    },
    /// A text file of a folder is too large to be one.
    #[error("{path} is larger than any file of its kind")]
    TooLarge {
        /// Which file.
        path: PathBuf,
    },
    /// The folder's index of weight files is broken.
    #[error(transparent)]
    Index(#[from] HfError),
    /// The files are not a model we can run.
    #[error("{name}: {cause}")]
    Source {
        /// What was opened.
        name: String,
        /// What the engine says.
        #[source]
        cause: SourceError,
    },
    /// The file is no GGUF file.
    #[error("{name}: {cause}")]
    Gguf {
        /// What was opened.
        name: String,
        /// What the engine says.
        #[source]
        cause: GgufError,
    },
    /// The model's text side cannot be used.
    #[error("{name}: {cause}")]
    Words {
        /// What was opened.
        name: String,
        /// What is wrong with it.
        #[source]
        cause: WordsError,
    },
}

impl OpenError {
    /// What to do about it, where we know.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Source { cause, .. } => Some(source_hint(cause)),
            Self::Gguf { cause, .. } => Some(gguf_hint(cause)),
            Self::Index(cause) => Some(folder_hint(cause)),
            Self::TooLarge { .. } => Some(DAMAGED.to_owned()),
            Self::Io { .. } | Self::Special { .. } | Self::Words { .. } => None,
        }
    }

    fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |cause| Self::Io { path, cause }
    }
}

/// What to do about a file that is not as it was written.
const DAMAGED: &str = "the file may be damaged or cut short: download or convert it again";

fn source_hint(error: &SourceError) -> String {
    match error {
        SourceError::Architecture { .. } => {
            format!("models of these architectures run: {}", ARCHITECTURES.join(", "))
        }
        SourceError::Unsupported { .. } => "take another model, or another version of this one".to_owned(),
        SourceError::Gguf(cause) => gguf_hint(cause),
        SourceError::Folder(cause) => folder_hint(cause),
        SourceError::Config(_) | SourceError::MissingKey { .. } | SourceError::MissingTensor { .. } => {
            DAMAGED.to_owned()
        }
    }
}

fn gguf_hint(error: &GgufError) -> String {
    match error {
        GgufError::TensorType { .. } => {
            "take the model in another quantisation, such as Q4_K_M, Q8_0 or F16".to_owned()
        }
        GgufError::Version { .. } | GgufError::BigEndian => {
            "convert the model again, to a little-endian GGUF of version 2 or 3".to_owned()
        }
        _ => DAMAGED.to_owned(),
    }
}

fn folder_hint(error: &HfError) -> String {
    match error {
        HfError::Dtype { .. } => {
            "take the model with weights in BF16, F16 or F32, or as a GGUF file, such as Q4_K_M or Q8_0"
                .to_owned()
        }
        _ => DAMAGED.to_owned(),
    }
}

/// A mapped file, as the engine sees it.
struct Mapped(MappedFile);

impl FileBytes for Mapped {
    fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn release(&self, bytes: Range<usize>) {
        self.0.release(bytes);
    }
}

/// Bytes that are part of the program.
struct InProgram(&'static [u8]);

impl FileBytes for InProgram {
    fn bytes(&self) -> &[u8] {
        self.0
    }
}

/// The files of the model that was found, ready for the engine.
///
/// # Errors
/// When a file cannot be opened, or the files are not a model we can run.
pub fn open(found: &Found) -> Result<Source, OpenError> {
    let named = |name: String| move |cause| OpenError::Source { name, cause };
    match (found, found.files()) {
        (Found::Bundled(model), _) => {
            Source::from_gguf(vec![Arc::new(InProgram(model.bytes))]).map_err(named(model.name.to_owned()))
        }
        (_, Some(ModelFiles::Gguf(paths))) => {
            let files = paths.iter().map(|p| map(p)).collect::<Result<Vec<_>, _>>()?;
            let name = paths.first().map(|p| p.display().to_string()).unwrap_or_default();
            Source::from_gguf(files).map_err(named(name))
        }
        (_, Some(ModelFiles::HuggingFace(folder))) => {
            let (texts, weights) = (texts(&folder)?, weights(&folder)?);
            Source::from_folder(texts, weights).map_err(named(folder.display().to_string()))
        }
        (Found::Stored(..) | Found::Path(_), None) => unreachable!("only bundled models have no files"),
    }
}

/// The text side of the model that was found, without its weights: a GGUF file with nothing but a vocabulary has one.
///
/// # Errors
/// When a file cannot be opened, or holds no vocabulary we can use.
pub fn words(found: &Found) -> Result<Words, OpenError> {
    match (found, found.files()) {
        (_, Some(ModelFiles::HuggingFace(folder))) => {
            let texts = texts(&folder)?;
            read_words(&Vocabulary::Folder(&texts), &folder.display().to_string())
        }
        (_, Some(ModelFiles::Gguf(paths))) => {
            let first = paths.first().map(PathBuf::as_path).unwrap_or(Path::new(""));
            words_of_gguf(map(first)?.bytes(), &first.display().to_string())
        }
        (Found::Bundled(model), None) => words_of_gguf(model.bytes, model.name),
        (Found::Stored(..) | Found::Path(_), None) => unreachable!("only bundled models have no files"),
    }
}

/// Looks whether these are the files of a model, as far as their headers say: of a kind that HEPH does not run, too.
///
/// # Errors
/// When a file cannot be opened, or is not what its name says.
pub fn headers(files: &ModelFiles) -> Result<(), OpenError> {
    match files {
        ModelFiles::Gguf(paths) => paths.iter().try_for_each(|path| {
            let name = path.display().to_string();
            match Gguf::parse(map(path)?.bytes()) {
                Ok(_) => Ok(()),
                Err(cause) => Err(OpenError::Gguf { name, cause }),
            }
        }),
        ModelFiles::HuggingFace(folder) => {
            let texts = texts(folder)?;
            let json: Result<serde_json::Map<String, serde_json::Value>, _> =
                serde_json::from_slice(&texts.config);
            json.map_err(|error| HfError::Json {
                file: "config.json",
                why: error.to_string(),
            })?;
            weights(folder)?.iter().try_for_each(|(name, file)| {
                let header = Safetensors::parse(file.bytes()).map(drop);
                header.map_err(|cause| {
                    let file = name.clone();
                    OpenError::Index(HfError::Weights { file, cause })
                })
            })
        }
    }
}

fn words_of_gguf(bytes: &[u8], name: &str) -> Result<Words, OpenError> {
    let file = Gguf::parse(bytes).map_err(|cause| OpenError::Gguf {
        name: name.to_owned(),
        cause,
    })?;
    read_words(&Vocabulary::Gguf(file.metadata), name)
}

fn read_words(vocabulary: &Vocabulary<'_>, name: &str) -> Result<Words, OpenError> {
    Words::of(vocabulary).map_err(|cause| OpenError::Words {
        name: name.to_owned(),
        cause,
    })
}

pub(crate) fn map(path: &Path) -> Result<Arc<dyn FileBytes>, OpenError> {
    regular(path)?;
    let file = File::open(path).map_err(OpenError::io(path))?;
    let mapped = MappedFile::new(&file).map_err(OpenError::io(path))?;
    Ok(Arc::new(Mapped(mapped)))
}

/// Its length, where it is a regular file: to open a pipe would wait for whoever writes into it.
fn regular(path: &Path) -> Result<u64, OpenError> {
    let found = fs::metadata(path).map_err(OpenError::io(path))?;
    match found.is_file() {
        true => Ok(found.len()),
        false => Err(OpenError::Special {
            path: path.to_owned(),
        }),
    }
}

fn texts(folder: &Path) -> Result<FolderTexts, OpenError> {
    let optional = |name: &str| text_if_there(&folder.join(name));
    Ok(FolderTexts {
        config: text(&folder.join("config.json"))?,
        tokenizer: optional("tokenizer.json")?,
        tokenizer_config: optional("tokenizer_config.json")?,
        special_tokens_map: optional("special_tokens_map.json")?,
        generation_config: optional("generation_config.json")?,
        chat_template: optional("chat_template.jinja")?,
        pooling: optional(POOLING)?,
    })
}

/// A file with its name inside its folder.
type NamedFile = (String, Arc<dyn FileBytes>);

/// The weight files that the index names, or the one file a small model has.
fn weights(folder: &Path) -> Result<Vec<NamedFile>, OpenError> {
    let names = match text_if_there(&folder.join("model.safetensors.index.json"))? {
        Some(index) => weight_files(&index)?,
        None => weight_files_without_index(folder)?,
    };
    names
        .into_iter()
        .map(|name| map(&folder.join(&name)).map(|file| (name, file)))
        .collect()
}

fn weight_files_without_index(folder: &Path) -> Result<Vec<String>, OpenError> {
    let entries = fs::read_dir(folder).map_err(OpenError::io(folder))?;
    let names = entries
        .flatten()
        .map(|e| e.file_name().to_string_lossy().into_owned());
    let mut names: Vec<_> = names.filter(|n| n.ends_with(".safetensors")).collect();
    if names.iter().any(|name| name == WEIGHTS) {
        // Beside it there may be the same once more, as another library reads it.
        names = vec![WEIGHTS.to_owned()];
    }
    names.sort();
    Ok(names)
}

fn text_if_there(path: &Path) -> Result<Option<Vec<u8>>, OpenError> {
    if path.is_file() {
        text(path).map(Some)
    } else {
        Ok(None)
    }
}

fn text(path: &Path) -> Result<Vec<u8>, OpenError> {
    if regular(path)? > TEXT_BYTES_MAX {
        return Err(OpenError::TooLarge {
            path: path.to_owned(),
        });
    }
    fs::read(path).map_err(OpenError::io(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundled::STORY_DRAFT;
    use crate::store::find_files;
    use tempfile::TempDir;

    const TOKENIZER: &[u8] = include_bytes!("../../heph-engine/fixtures/tokenizers/byte_level.json");

    /// A folder of these files; `config.json` and a weight file are there always.
    fn folder(files: &[(&str, &[u8])]) -> TempDir {
        let folder = TempDir::new().unwrap();
        let always: [(&str, &[u8]); 2] = [("config.json", b"{}"), ("model.safetensors", b"")];
        for (name, content) in always.iter().chain(files) {
            fs::write(folder.path().join(name), content).unwrap();
        }
        folder
    }

    fn found(path: &Path) -> Found {
        Found::Path(find_files(path).unwrap())
    }

    #[test]
    fn a_model_cut_short_anywhere_is_an_error_that_names_the_file() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("cut.gguf");
        let whole = STORY_DRAFT.bytes;
        for len in [0, 1, 4, 8, 23, 24, 100, 5000, whole.len() / 2, whole.len() - 1] {
            fs::write(&path, &whole[..len]).unwrap();
            let error = open(&found(&path)).err().expect("half a model is none");
            assert!(error.to_string().contains("cut.gguf"), "{len}: {error}");
            // The words stand before the weights: with the header whole they can be read.
            match words(&found(&path)) {
                Ok(_) => assert!(len >= whole.len() / 2, "{len}"),
                Err(error) => assert!(error.to_string().contains("cut.gguf"), "{len}: {error}"),
            }
        }
        fs::write(&path, whole).unwrap();
        assert!(open(&found(&path)).is_ok() && words(&found(&path)).is_ok());
    }

    #[test]
    fn a_header_tells_whether_a_file_is_what_its_name_says() {
        let at = TempDir::new().unwrap();
        let path = at.path().join("a.gguf");
        for (bytes, good) in [
            (&b"<html><body>404</body></html>"[..], false),
            (&[0; 4096], false),
            (&STORY_DRAFT.bytes[..STORY_DRAFT.bytes.len() / 2], false),
            (STORY_DRAFT.bytes, true),
        ] {
            fs::write(&path, bytes).unwrap();
            assert_eq!(headers(&ModelFiles::Gguf(vec![path.clone()])).is_ok(), good);
        }
        let empty: &[u8] = b"\x02\0\0\0\0\0\0\0{}";
        for (config, weights, good) in [
            (&b"{}"[..], empty, true),
            (b"[]", empty, false),
            (b"<html>", empty, false),
            (b"{}", b"tensors", false),
        ] {
            let folder = folder(&[("config.json", config), ("model.safetensors", weights)]);
            let files = ModelFiles::HuggingFace(folder.path().to_owned());
            assert_eq!(headers(&files).is_ok(), good, "{config:?}");
        }
    }

    #[test]
    fn what_is_not_supported_is_named_and_called_no_damage() {
        let gguf = |cause| OpenError::Gguf {
            name: "m".into(),
            cause,
        };
        let error = gguf(GgufError::TensorType {
            name: "w".into(),
            id: 23,
        });
        assert!(error.to_string().contains("IQ4_XS"), "{error}");
        assert!(error.hint().unwrap().contains("another quantisation"));
        let version = gguf(GgufError::Version { version: 4 });
        assert!(version.hint().unwrap().contains("version 2 or 3"));
        let folder = OpenError::Source {
            name: "m".into(),
            cause: SourceError::Folder(HfError::Dtype {
                name: "w".into(),
                dtype: "F8_E4M3".into(),
            }),
        };
        assert!(folder.hint().unwrap().contains("BF16"));
        let architecture = OpenError::Source {
            name: "m".into(),
            cause: SourceError::Architecture { name: "gemma".into() },
        };
        assert!(architecture.hint().unwrap().contains("llama, mistral"));
    }

    #[test]
    fn a_folder_is_no_file_whatever_it_is_called() {
        let at = TempDir::new().unwrap();
        let error = map(at.path()).err().unwrap();
        assert!(matches!(error, OpenError::Special { .. }), "{error}");
    }

    #[test]
    #[cfg(unix)]
    fn a_pipe_is_not_waited_for() {
        let folder = folder(&[]);
        let pipe = folder.path().join("pipe.gguf");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.unwrap().success());
        assert!(matches!(map(&pipe), Err(OpenError::Special { .. })));
        assert!(matches!(text(&pipe), Err(OpenError::Special { .. })));
        assert!(find_files(&pipe).is_err());
    }

    #[test]
    fn a_folder_without_a_tokenizer_says_so() {
        let folder = folder(&[]);
        let error = words(&found(folder.path())).unwrap_err();
        assert!(matches!(
            error,
            OpenError::Words {
                cause: WordsError::NoTokenizer,
                ..
            }
        ));
    }

    #[test]
    fn texts_that_are_none_are_named_errors() {
        let broken: [(&str, &[u8]); 4] = [
            ("tokenizer.json", b"{"),
            ("tokenizer.json", b"\xff\xfe\x00"),
            ("tokenizer.json", b"[[[[[[[["),
            ("tokenizer.json", b"{\"model\":{\"type\":\"Dream\"}}"),
        ];
        for file in broken {
            let folder = folder(&[file]);
            let error = words(&found(folder.path())).unwrap_err();
            let cause = matches!(
                error,
                OpenError::Words {
                    cause: WordsError::Tokenizer(_),
                    ..
                }
            );
            assert!(cause, "{error}");
        }
        for config in [&b""[..], b"{}", b"[1]", b"\xff", &[b'['; 100_000]] {
            let folder = folder(&[("config.json", config), ("tokenizer.json", TOKENIZER)]);
            assert!(open(&found(folder.path())).is_err());
        }
    }

    #[test]
    fn a_template_that_does_not_parse_is_a_named_error() {
        let folder = folder(&[
            ("tokenizer.json", TOKENIZER),
            ("chat_template.jinja", b"{% if %}"),
        ]);
        let error = words(&found(folder.path())).unwrap_err();
        let cause = matches!(
            error,
            OpenError::Words {
                cause: WordsError::Template(_),
                ..
            }
        );
        assert!(cause, "{error}");
    }

    #[test]
    fn settings_beside_a_tokenizer_may_be_broken_but_never_believed() {
        for settings in [
            &b"{"[..],
            b"[]",
            b"{\"bos_token\":7}",
            b"{\"chat_template\":[{\"name\":1}]}",
        ] {
            let folder = folder(&[("tokenizer.json", TOKENIZER), ("tokenizer_config.json", settings)]);
            let words = words(&found(folder.path())).unwrap();
            assert!(words.template.is_none());
        }
    }

    #[test]
    fn an_index_reaches_no_file_outside_its_folder() {
        for name in [
            "../secret.safetensors",
            "/etc/secret.safetensors",
            "a\\b.safetensors",
        ] {
            let index = serde_json::json!({ "weight_map": { "w": name } }).to_string();
            let folder = folder(&[("model.safetensors.index.json", index.as_bytes())]);
            assert!(
                matches!(open(&found(folder.path())), Err(OpenError::Index(_))),
                "{name}"
            );
        }
    }

    #[test]
    fn a_text_too_large_to_be_one_is_not_read() {
        let folder = folder(&[]);
        let file = File::create(folder.path().join("tokenizer.json")).unwrap();
        file.set_len(TEXT_BYTES_MAX + 1).unwrap();
        let error = words(&found(folder.path())).unwrap_err();
        assert!(matches!(error, OpenError::TooLarge { .. }), "{error}");
    }

    #[test]
    fn a_file_that_went_away_is_named() {
        let folder = folder(&[]);
        let found = found(folder.path());
        fs::remove_file(folder.path().join("config.json")).unwrap();
        let error = words(&found).unwrap_err();
        assert!(error.to_string().contains("config.json"), "{error}");
    }
}
