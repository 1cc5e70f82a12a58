//! Documents and turns of a conversation, as sources to choose from.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use heph_engine::retrieval::{SOURCE_BYTES_MAX, Source};
use heph_privacy::label::Label;

use crate::desk::Message;

/// A document's bytes: as much as can be searched at once.
pub const DOCUMENT_BYTES_MAX: usize = SOURCE_BYTES_MAX;

/// Bytes of a name in a citation: it is sent with every excerpt.
const NAME_BYTES_MAX: usize = 60;

/// Entries of a folder, and of the folders in it, that are looked at.
pub const FOLDER_ENTRIES_MAX: usize = 4096;

/// Folders in folders that are looked into.
const FOLDER_DEPTH_MAX: usize = 16;

/// Why a document cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// The system refused.
    #[error("cannot read {path}: {cause}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// A folder holds too much.
    #[error(
        "{path} holds more than {FOLDER_ENTRIES_MAX} files and folders, or folders too deep in each other"
    )]
    Folder {
        /// Which folder.
        path: PathBuf,
    },
    /// It is too large.
    #[error("{path} is larger than the {} MiB that can be searched", DOCUMENT_BYTES_MAX >> 20)]
    TooLarge {
        /// Which file.
        path: PathBuf,
    },
    /// It is no text.
    #[error("{path} is not UTF-8 text: byte {at} belongs to no character")]
    NotText {
        /// Which file.
        path: PathBuf,
        /// The first byte that is wrong.
        at: usize,
    },
}

impl DocumentError {
    /// What to do about it, where we know.
    pub(super) fn hint(&self) -> Option<String> {
        match self {
            Self::Io { .. } => None,
            Self::Folder { .. } => Some("name the folder or the files in it that matter".into()),
            Self::TooLarge { .. } => Some("cut it into parts and ask about the one that matters".into()),
            Self::NotText { .. } => {
                Some("save it as UTF-8 text; a PDF or an office file must be exported as text first".into())
            }
        }
    }
}

/// A text to choose from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    name: String,
    text: String,
    label: Label,
}

impl Document {
    /// A text under a name that citations call it by. The name leaves the machine.
    pub fn new(name: &str, text: impl Into<String>) -> Self {
        let clean = |c: char| {
            if c.is_control() || matches!(c, '[' | ']' | ':') {
                '_'
            } else {
                c
            }
        };
        let name: String = name.chars().map(clean).collect();
        Self {
            name: name[..name.floor_char_boundary(NAME_BYTES_MAX)].to_owned(),
            text: text.into(),
            label: Label::public(),
        }
    }

    /// The file at `path`. Citations call it by its name without its folders, which stay here.
    ///
    /// # Errors
    /// When it cannot be read, is too large, or is no UTF-8 text.
    pub fn read(path: &Path) -> Result<Self, DocumentError> {
        let refused = |cause| DocumentError::Io {
            path: path.to_owned(),
            cause,
        };
        let mut bytes = Vec::new();
        let limit = DOCUMENT_BYTES_MAX as u64 + 1;
        let file = File::open(path).map_err(refused)?;
        file.take(limit).read_to_end(&mut bytes).map_err(refused)?;
        if bytes.len() > DOCUMENT_BYTES_MAX {
            return Err(DocumentError::TooLarge {
                path: path.to_owned(),
            });
        }
        let text = String::from_utf8(bytes).map_err(|error| DocumentError::NotText {
            path: path.to_owned(),
            at: error.utf8_error().valid_up_to(),
        })?;
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
        Ok(Self {
            label: label_of(path),
            ..Self::new(&name, text)
        })
    }

    /// Files, each under a name of its own; of a folder those that are text, without hidden ones.
    ///
    /// # Errors
    /// For the first file that cannot be read, and for a folder that holds too much.
    pub fn read_all(paths: &[PathBuf]) -> Result<Vec<Self>, DocumentError> {
        let mut documents: Vec<Self> = Vec::with_capacity(paths.len());
        for path in paths {
            if !path.is_dir() {
                add(&mut documents, Self::read(path)?);
                continue;
            }
            for path in files_of(path)? {
                match Self::read(&path) {
                    Ok(document) => add(&mut documents, document),
                    // Pictures lie between texts in any folder.
                    Err(DocumentError::NotText { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(documents)
    }

    /// What was said in a conversation, one source for each turn.
    pub fn of_history(history: &[Message]) -> Vec<Self> {
        let turn = |(at, message): (usize, &Message)| {
            Self::new(
                &format!("turn {}, {}", at + 1, message.role),
                message.content.as_str(),
            )
        };
        history.iter().enumerate().map(turn).collect()
    }

    /// What citations call it by.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// All of it.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// How private it is by where it stands; a text that stands nowhere says nothing.
    pub fn label(&self) -> &Label {
        &self.label
    }

    pub(super) fn source(&self) -> Source<'_> {
        Source {
            name: &self.name,
            text: &self.text,
        }
    }
}

/// What a file is by where it stands: by the folders of the name that it is called by, and by those in which it lies where that is a
/// link. Where nobody can say, it is as private as can be.
pub fn label_of(path: &Path) -> Label {
    match (std::path::absolute(path), path.canonicalize()) {
        (Ok(called), Ok(lies)) => [called, lies].iter().fold(Label::public(), |label, path| {
            label.join(&Label::of_path(&path.to_string_lossy()))
        }),
        _ => Label::top(),
    }
}

/// What files and folders are by where they stand, each file of a folder by itself, since folders lie in folders.
pub fn label_of_all(paths: &[PathBuf]) -> Label {
    paths.iter().fold(Label::public(), |label, path| {
        label.join(&match path.is_dir() {
            true => files_of(path).map_or_else(|_| Label::top(), |files| label_of_files(&files)),
            false => label_of(path),
        })
    })
}

/// All files of one folder say the same.
fn label_of_files(files: &[PathBuf]) -> Label {
    let mut folders = BTreeSet::new();
    let first = files.iter().filter(|file| folders.insert(file.parent()));
    first.fold(Label::public(), |label, file| label.join(&label_of(file)))
}

/// Adds a document under a name that none of the others has.
fn add(documents: &mut Vec<Document>, mut document: Document) {
    let (given, mut same) = (document.name.clone(), 1);
    while documents.iter().any(|d| d.name == document.name) {
        same += 1;
        document.name = format!("{given} ({same})");
    }
    documents.push(document);
}

/// The files in a folder and in the folders in it, by name; links and what is hidden are left out.
fn files_of(folder: &Path) -> Result<Vec<PathBuf>, DocumentError> {
    let too_much = || DocumentError::Folder {
        path: folder.to_owned(),
    };
    let (mut files, mut looked_at) = (Vec::new(), 0);
    let mut open = vec![(folder.to_owned(), 0)];
    while let Some((path, depth)) = open.pop() {
        let refused = |cause| DocumentError::Io {
            path: path.clone(),
            cause,
        };
        for entry in path.read_dir().map_err(refused)? {
            let entry = entry.map_err(refused)?;
            let kind = entry.file_type().map_err(refused)?;
            looked_at += 1;
            if looked_at > FOLDER_ENTRIES_MAX || depth >= FOLDER_DEPTH_MAX {
                return Err(too_much());
            }
            let hidden = entry.file_name().to_string_lossy().starts_with('.');
            match (hidden, kind.is_dir(), kind.is_file()) {
                (false, true, _) => open.push((entry.path(), depth + 1)),
                (false, _, true) => files.push(entry.path()),
                _ => {}
            }
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_as_private_as_every_folder_that_it_is_in() {
        let home = tempfile::tempdir().unwrap();
        let (open, kept) = (home.path().join("open"), home.path().join("open/notes/kept"));
        std::fs::create_dir_all(&kept).unwrap();
        for file in [open.join("a.txt"), kept.join("b.txt"), home.path().join("c.txt")] {
            std::fs::write(file, "words").unwrap();
        }
        let all = label_of_all(&[open.clone(), home.path().join("c.txt")]);
        assert!(all.meets("folder:kept") && all.meets("folder:notes") && all.meets("folder:open"));
        assert!(!label_of_all(&[open.join("a.txt")]).meets("folder:kept"));
        assert_eq!(label_of_all(&[]), Label::public());
        assert_eq!(label_of_all(&[home.path().join("nowhere.txt")]), Label::top());
        // What is read says so of itself.
        let read = Document::read_all(std::slice::from_ref(&open)).unwrap();
        let kept_ones = read
            .iter()
            .filter(|document| document.label().meets("folder:kept"));
        assert_eq!(kept_ones.map(Document::name).collect::<Vec<_>>(), ["b.txt"]);
        assert_eq!(Document::new("b.txt", "words").label(), &Label::public());
    }

    #[cfg(unix)]
    #[test]
    fn a_link_is_as_private_as_where_it_is_and_where_it_leads() {
        let home = tempfile::tempdir().unwrap();
        let (kept, far) = (home.path().join("kept"), home.path().join("far"));
        std::fs::create_dir_all(&kept).unwrap();
        std::fs::create_dir_all(&far).unwrap();
        std::fs::write(far.join("a.txt"), "words").unwrap();
        std::os::unix::fs::symlink(far.join("a.txt"), kept.join("link.txt")).unwrap();
        let label = label_of(&kept.join("link.txt"));
        assert!(
            label.meets("folder:kept") && label.meets("folder:far"),
            "{label:?}"
        );
    }
}
