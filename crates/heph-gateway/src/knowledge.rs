//! Folders as knowledge: which folders of this machine may be asked about, and what of them a question needs.
//!
//! A shelf is a folder, or a file, with a name and a label that says what of it may leave. The search runs here and chooses
//! excerpts with exact places; it sends nothing. Whoever hands the excerpts on keeps to the strictest label among them.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use heph_engine::retrieval::Lock;
use heph_privacy::label::Label as Stands;
use heph_runtime::cancel::Cancel;
use heph_runtime::preprocess::{
    Document, DocumentError, Embedder, Exposure, Library, PreprocessError, preprocess,
};
use serde::{Deserialize, Serialize};

use crate::private;

/// The file's name inside HEPH's home folder.
const FILE: &str = "knowledge.json";

/// Bytes of that file: all shelves with their longest paths take about 300,000.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Shelves of a machine.
const SHELVES_MAX: usize = 64;

/// Characters of a shelf's name.
const NAME_MAX: usize = 60;

/// Folders that a look into a folder names.
const FOLDERS_MAX: usize = 500;

/// Bytes before and after a span that are shown around it.
const AROUND: usize = 600;

/// What of a shelf may leave this machine; stricter ones come first.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Label {
    /// Nothing: questions about it are answered here.
    Nothing,
    /// Text, to machines that were paired as one's own.
    Own,
    /// What the person's policy says of any text.
    Policy,
}

/// A folder or a file that may be asked about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Shelf {
    /// Its id.
    pub(crate) id: String,
    /// What the person calls it.
    pub(crate) name: String,
    /// Where it lies.
    pub(crate) path: PathBuf,
    /// What of it may leave.
    pub(crate) label: Label,
}

/// Why there is no answer from the shelves.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KnowledgeError {
    #[error("a shelf's name has 1 to {NAME_MAX} characters")]
    Name,
    #[error("{} is no folder or file of this machine that can be read", .0.display())]
    Path(PathBuf),
    #[error("there is no shelf {0:?}")]
    Unknown(String),
    #[error("{SHELVES_MAX} shelves are the most; remove one first")]
    Full,
    #[error("{} is on a shelf already", .0.display())]
    Twice(PathBuf),
    #[error("no shelf was chosen")]
    NoShelf,
    #[error("{0:?} is labelled private and stays on this machine")]
    Private(String),
    #[error("there is no document {0:?} on this shelf")]
    NoDocument(String),
    #[error("the document has no text from byte {0} to {1}")]
    NoSpan(usize, usize),
    #[error("{} holds no shelves", .0.display())]
    Damaged(PathBuf),
    #[error("cannot {step} {}: {cause}", path.display())]
    Io {
        step: &'static str,
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error(transparent)]
    Search(#[from] PreprocessError),
    #[error("the system gives no randomness")]
    Random,
}

impl From<DocumentError> for KnowledgeError {
    fn from(error: DocumentError) -> Self {
        Self::Search(error.into())
    }
}

/// An excerpt and exactly where it stands.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Cited {
    /// The number by which the text calls it, from 1.
    pub(crate) number: usize,
    /// The shelf's id.
    pub(crate) shelf: String,
    /// The document's name on its shelf.
    pub(crate) document: String,
    /// The first byte.
    pub(crate) start: usize,
    /// One past the last byte.
    pub(crate) end: usize,
    /// These bytes.
    pub(crate) text: String,
    /// What they are by where they stand, whatever was said of the shelf.
    #[serde(skip)]
    pub(crate) stands: Stands,
}

/// What a question needs of the shelves.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Found {
    /// The excerpts with their numbers, and the question: what a model is to be asked.
    pub(crate) text: String,
    pub(crate) citations: Vec<Cited>,
    /// What the question names, and whether it was found.
    pub(crate) named: Vec<Lock>,
    /// What whoever reads the text learns.
    pub(crate) exposure: Exposure,
    /// The strictest label of the shelves that were searched.
    pub(crate) label: Label,
    pub(crate) local_s: f64,
}

/// A span and what stands around it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Shown {
    pub(crate) document: String,
    pub(crate) start: usize,
    pub(crate) end: usize,
    pub(crate) before: String,
    pub(crate) text: String,
    pub(crate) after: String,
    /// What all of it is by where it stands.
    #[serde(skip)]
    pub(crate) stands: Stands,
}

/// Whose search it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum For {
    /// The person's page: what it shows stays here.
    Person,
    /// A program that may hand on what it gets: private shelves are closed to it.
    Program,
}

/// The shelves of a home folder.
pub(crate) struct Knowledge {
    path: PathBuf,
    /// One change at a time.
    writing: Mutex<()>,
    /// What was searched last: its vectors are not made again.
    last: Mutex<Option<Searched>>,
}

struct Searched {
    embedder: Embedder,
    library: Library,
    /// Of each document its shelf.
    shelves: Vec<String>,
}

impl Knowledge {
    pub(crate) fn at(home: &Path) -> Self {
        Self {
            path: home.join(FILE),
            writing: Mutex::default(),
            last: Mutex::default(),
        }
    }

    pub(crate) fn shelves(&self) -> Result<Vec<Shelf>, KnowledgeError> {
        let text = match private::read(&self.path, FILE_BYTES_MAX) {
            Ok(text) => text,
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(cause) => return Err(self.failed("read", cause)),
        };
        serde_json::from_str(&text).map_err(|_| KnowledgeError::Damaged(self.path.clone()))
    }

    /// Puts a folder or a file on a shelf of its own. Without a name it is called as its folder.
    pub(crate) fn add(&self, path: &Path, name: Option<&str>, label: Label) -> Result<Shelf, KnowledgeError> {
        let wrong = |_| KnowledgeError::Path(path.to_owned());
        if !path.is_absolute() {
            return Err(KnowledgeError::Path(path.to_owned()));
        }
        let path = fs::canonicalize(path).map_err(wrong)?;
        let own = path
            .file_name()
            .unwrap_or(path.as_os_str())
            .to_string_lossy()
            .into_owned();
        let own = own.chars().take(NAME_MAX).collect::<String>();
        let name = name.map_or(own, |name| name.trim().to_owned());
        if !(1..=NAME_MAX).contains(&name.chars().count()) || name.chars().any(char::is_control) {
            return Err(KnowledgeError::Name);
        }
        let mut random = [0; 6];
        getrandom::fill(&mut random).map_err(|_| KnowledgeError::Random)?;
        let id = data_encoding::HEXLOWER.encode(&random);
        let shelf = Shelf {
            id,
            name,
            path,
            label,
        };
        self.edit(|shelves| {
            if shelves.len() >= SHELVES_MAX {
                return Err(KnowledgeError::Full);
            }
            if shelves.iter().any(|other| other.path == shelf.path) {
                return Err(KnowledgeError::Twice(shelf.path.clone()));
            }
            shelves.push(shelf.clone());
            Ok(shelf)
        })
    }

    /// Says anew what of a shelf may leave: for every question from now on. What a conversation already holds of it keeps the
    /// label that it had.
    pub(crate) fn mark(&self, id: &str, label: Label) -> Result<Shelf, KnowledgeError> {
        self.edit(|shelves| {
            let shelf = shelves.iter_mut().find(|shelf| shelf.id == id);
            let shelf = shelf.ok_or_else(|| KnowledgeError::Unknown(id.to_owned()))?;
            shelf.label = label;
            Ok(shelf.clone())
        })
    }

    /// Takes a shelf away; its folder stays as it is. Whether there was one.
    pub(crate) fn remove(&self, id: &str) -> Result<bool, KnowledgeError> {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.edit(|shelves| {
            let before = shelves.len();
            shelves.retain(|shelf| shelf.id != id);
            Ok(shelves.len() < before)
        })
    }

    /// What `question` needs of the shelves with these ids, in at most `bytes_max` bytes beside what it names.
    pub(crate) fn search(
        &self,
        question: &str,
        ids: &[String],
        bytes_max: usize,
        whose: For,
        encoder: impl FnOnce() -> Result<Embedder, PreprocessError>,
        cancel: &Cancel,
    ) -> Result<Found, KnowledgeError> {
        let shelves = self.chosen(ids, whose)?;
        let label = strictest(&shelves).ok_or(KnowledgeError::NoShelf)?;
        let (mut documents, mut of) = (Vec::new(), Vec::new());
        for shelf in &shelves {
            let read = Document::read_all(std::slice::from_ref(&shelf.path))?;
            of.extend(read.iter().map(|_| shelf.id.clone()));
            documents.extend(read);
        }
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let searched = match last.take() {
            Some(searched) if searched.shelves == of && searched.library.documents() == documents => searched,
            old => Searched {
                embedder: old.map_or_else(encoder, |old| Ok(old.embedder))?,
                library: Library::new(documents),
                shelves: of,
            },
        };
        let searched = last.insert(searched);
        searched.library.limit(bytes_max);
        let chosen = preprocess(&mut searched.embedder, question, &mut searched.library, cancel)?;
        let cited = chosen.upload.citations.iter().map(|citation| Cited {
            number: citation.number,
            shelf: searched.shelves[citation.source].clone(),
            document: citation.name.clone(),
            start: citation.bytes.start,
            end: citation.bytes.end,
            text: searched.library.documents()[citation.source].text()[citation.bytes.clone()].to_owned(),
            stands: searched.library.documents()[citation.source].label().clone(),
        });
        Ok(Found {
            citations: cited.collect(),
            exposure: chosen.exposure(),
            named: chosen.locks,
            text: chosen.upload.text,
            label,
            local_s: chosen.local.as_secs_f64(),
        })
    }

    /// A span of a document, and what stands around it.
    pub(crate) fn show(
        &self,
        id: &str,
        document: &str,
        start: usize,
        end: usize,
    ) -> Result<Shown, KnowledgeError> {
        let shelves = self.chosen(&[id.to_owned()], For::Person)?;
        let shelf = shelves.first().ok_or(KnowledgeError::NoShelf)?;
        let documents = Document::read_all(std::slice::from_ref(&shelf.path))?;
        let found = documents.iter().find(|found| found.name() == document);
        let found = found.ok_or_else(|| KnowledgeError::NoDocument(document.to_owned()))?;
        let text = found.text();
        let span = text.get(start..end).ok_or(KnowledgeError::NoSpan(start, end))?;
        let from = text.ceil_char_boundary(start.saturating_sub(AROUND).min(start));
        let to = text.floor_char_boundary(end.saturating_add(AROUND).min(text.len()));
        Ok(Shown {
            document: document.to_owned(),
            start,
            end,
            before: text[from..start].to_owned(),
            text: span.to_owned(),
            after: text[end..to].to_owned(),
            stands: found.label().clone(),
        })
    }

    /// The shelves with these ids, all of those that are open to `whose` where none is named.
    fn chosen(&self, ids: &[String], whose: For) -> Result<Vec<Shelf>, KnowledgeError> {
        let all = self.shelves()?;
        let is_open = |shelf: &Shelf| whose == For::Person || shelf.label != Label::Nothing;
        if ids.is_empty() {
            return Ok(all.into_iter().filter(is_open).collect());
        }
        let ids: BTreeSet<&String> = ids.iter().collect();
        let find = |id: &String| {
            let shelf = all.iter().find(|shelf| shelf.id == *id || shelf.name == *id);
            let shelf = shelf.ok_or_else(|| KnowledgeError::Unknown(id.clone()))?;
            match is_open(shelf) {
                true => Ok(shelf.clone()),
                false => Err(KnowledgeError::Private(shelf.name.clone())),
            }
        };
        ids.into_iter().map(find).collect()
    }

    fn edit<T>(
        &self,
        change: impl FnOnce(&mut Vec<Shelf>) -> Result<T, KnowledgeError>,
    ) -> Result<T, KnowledgeError> {
        let _one = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut shelves = self.shelves()?;
        let done = change(&mut shelves)?;
        let text = serde_json::to_string_pretty(&shelves).map_err(|e| self.failed("write", e.into()))?;
        private::replace(&self.path, &text).map_err(|cause| self.failed("write", cause))?;
        Ok(done)
    }

    fn failed(&self, step: &'static str, cause: io::Error) -> KnowledgeError {
        KnowledgeError::Io {
            step,
            path: self.path.clone(),
            cause,
        }
    }
}

/// The label that holds for all of them together; nothing where there are none.
fn strictest(shelves: &[Shelf]) -> Option<Label> {
    let labels = shelves.iter().map(|shelf| shelf.label);
    labels.min()
}

/// The folders in a folder, by name, without hidden ones; without a path those of the person's home.
pub(crate) fn folders(path: Option<&Path>) -> Result<(PathBuf, Vec<String>), KnowledgeError> {
    let home = || std::env::home_dir().unwrap_or_else(|| PathBuf::from("/"));
    let path = path.map_or_else(home, Path::to_owned);
    let wrong = |_| KnowledgeError::Path(path.clone());
    if !path.is_absolute() {
        return Err(KnowledgeError::Path(path));
    }
    let path = fs::canonicalize(&path).map_err(wrong)?;
    let entries = fs::read_dir(&path).map_err(|_| KnowledgeError::Path(path.clone()))?;
    let names = entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names
        .filter(|name| !name.starts_with('.'))
        .take(FOLDERS_MAX)
        .collect();
    names.sort();
    Ok((path, names))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use heph_kernels::isa::Isa;
    use heph_kernels::pool::Pool;

    use super::*;

    /// A home, and a folder with two documents.
    fn house() -> (tempfile::TempDir, Knowledge, PathBuf) {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("notes");
        fs::create_dir(&folder).unwrap();
        fs::write(
            folder.join("boats.txt"),
            "The ferry to Elba leaves at 7:40 from pier four.\n\nSwans sleep.\n",
        )
        .unwrap();
        fs::write(
            folder.join("bread.txt"),
            "Rye bread needs sourdough and a night of patience.\n",
        )
        .unwrap();
        let knowledge = Knowledge::at(&home.path().join("home"));
        (home, knowledge, folder)
    }

    fn search(knowledge: &Knowledge, ids: &[String], whose: For) -> Result<Found, KnowledgeError> {
        let encoder = || Embedder::bundled(&Arc::new(Pool::new(1)), Isa::best());
        knowledge.search(
            "When does the ferry to Elba leave?",
            ids,
            4096,
            whose,
            encoder,
            &Cancel::default(),
        )
    }

    #[test]
    fn an_excerpt_opens_where_it_stands() {
        let (_home, knowledge, folder) = house();
        let shelf = knowledge.add(&folder, Some("Notes"), Label::Nothing).unwrap();
        let found = search(&knowledge, std::slice::from_ref(&shelf.id), For::Person).unwrap();
        let cited = found
            .citations
            .iter()
            .find(|cited| cited.text.contains("7:40"))
            .unwrap();
        let shown = knowledge
            .show(&cited.shelf, &cited.document, cited.start, cited.end)
            .unwrap();
        assert_eq!(
            (shown.text.as_str(), shown.document.as_str()),
            (cited.text.as_str(), "boats.txt")
        );
        assert_eq!(found.label, Label::Nothing);
        // The second time nothing is read anew, and the answer is the same.
        let again = search(&knowledge, std::slice::from_ref(&shelf.id), For::Person).unwrap();
        assert_eq!(again.text, found.text);
        for (start, end) in [(3, 2), (0, 1 << 40), (usize::MAX, usize::MAX)] {
            assert!(matches!(
                knowledge.show(&shelf.id, "boats.txt", start, end),
                Err(KnowledgeError::NoSpan(..))
            ));
        }
    }

    #[test]
    fn a_private_shelf_is_closed_to_programs() {
        let (home, knowledge, folder) = house();
        let private = knowledge.add(&folder, None, Label::Nothing).unwrap();
        assert!(matches!(
            search(&knowledge, std::slice::from_ref(&private.id), For::Program),
            Err(KnowledgeError::Private(_))
        ));
        assert!(matches!(
            search(&knowledge, &[], For::Program),
            Err(KnowledgeError::NoShelf)
        ));
        let open = home.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::write(open.join("a.txt"), "Nobody knows the ferry to Giglio.\n").unwrap();
        knowledge.add(&open, None, Label::Policy).unwrap();
        let found = search(&knowledge, &[], For::Program).unwrap();
        assert!(
            found.citations.iter().all(|cited| cited.document == "a.txt"),
            "{found:?}"
        );
        let both = search(&knowledge, &[], For::Person).unwrap();
        assert_eq!(both.label, Label::Nothing, "the strictest label holds");
    }

    #[test]
    fn shelves_come_and_go() {
        let (_home, knowledge, folder) = house();
        assert!(matches!(
            knowledge.add(Path::new("notes"), None, Label::Own),
            Err(KnowledgeError::Path(_))
        ));
        assert!(matches!(
            knowledge.add(&folder, Some("  "), Label::Own),
            Err(KnowledgeError::Name)
        ));
        let shelf = knowledge.add(&folder, None, Label::Own).unwrap();
        assert_eq!(shelf.name, "notes");
        assert!(matches!(
            knowledge.add(&folder, None, Label::Own),
            Err(KnowledgeError::Twice(_))
        ));
        assert_eq!(knowledge.shelves().unwrap(), std::slice::from_ref(&shelf));
        assert!(knowledge.remove(&shelf.id).unwrap());
        assert!(!knowledge.remove(&shelf.id).unwrap());
        assert!(matches!(
            search(&knowledge, &["none".to_owned()], For::Person),
            Err(KnowledgeError::Unknown(_))
        ));
    }

    #[test]
    fn folders_are_seen_without_what_is_hidden() {
        let (home, _, folder) = house();
        fs::create_dir(home.path().join(".hidden")).unwrap();
        let (path, names) = folders(Some(home.path())).unwrap();
        assert_eq!(names, ["notes"]);
        assert_eq!(path.join(&names[0]), fs::canonicalize(folder).unwrap());
        assert!(folders(Some(Path::new("relative"))).is_err());
    }
}
