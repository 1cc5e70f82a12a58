//! Mode "preprocess": the spans of documents and of the conversation that a question needs are chosen here, and only
//! they go to the machine that answers.
//!
//! What is chosen travels as plain text: whoever answers reads it. This is a saving of bytes, and no disguise; what it
//! shows is told by [`Exposure`]. Nothing in here sends anything.

mod documents;
mod embedder;
mod exposure;

pub use documents::{
    DOCUMENT_BYTES_MAX, Document, DocumentError, FOLDER_ENTRIES_MAX, label_of, label_of_all,
};
pub use embedder::Embedder;
pub use exposure::Exposure;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use heph_engine::model::LoadError;
use heph_engine::retrieval::{
    Likeness, Lock, Question, QuestionError, Source, Span, Survey, SurveyError, Upload,
};
use heph_engine::worker::ForwardError;

use crate::cancel::Cancel;
use crate::open::OpenError;

/// Of the bytes of documents and question, the share that may be sent: one sixth.
pub const BYTES_DIVISOR: usize = 6;

/// An upload that may always be sent, however small the documents: about one page.
pub const BYTES_FLOOR: usize = 2 << 10;

/// Spans that are compared by their meaning: about a megabyte of text, a few seconds on one core. Of more, those with
/// the best words are compared.
pub const COMPARED_MAX: usize = 4096;

/// Vectors that a library keeps: four questions over different spans of large documents, 12 MiB.
const KNOWN_MAX: usize = 4 * COMPARED_MAX;

/// Why there is nothing to send.
#[derive(Debug, thiserror::Error)]
pub enum PreprocessError {
    /// The question cannot be taken apart.
    #[error(transparent)]
    Question(#[from] QuestionError),
    /// A document cannot be read.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// The sources cannot be searched.
    #[error(transparent)]
    Sources(#[from] SurveyError),
    /// There is no text to choose from.
    #[error("the documents hold no text")]
    Nothing,
    /// The encoder's file cannot be read.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The encoder cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The encoder failed.
    #[error(transparent)]
    Forward(#[from] ForwardError),
}

impl PreprocessError {
    /// What to do about it, where we know.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Question(QuestionError::TooLong { .. }) => {
                Some("put the long part into a file and name it with --document".into())
            }
            Self::Question(QuestionError::TooMuchNamed { .. }) => Some("ask in several questions".into()),
            Self::Sources(_) => Some("name fewer or smaller documents".into()),
            Self::Document(error) => error.hint(),
            Self::Open(error) => error.hint(),
            Self::Question(QuestionError::Empty) | Self::Nothing | Self::Load(_) | Self::Forward(_) => None,
        }
    }
}

/// Documents to ask about, any number of times: what was once made a vector is not made one again.
pub struct Library {
    documents: Vec<Document>,
    /// At most [`KNOWN_MAX`].
    known: HashMap<Span, Vec<f32>>,
    /// Tokens that were read to make vectors.
    tokens: usize,
    /// Bytes that an upload should not exceed.
    bytes_max: usize,
}

impl Library {
    /// Nothing is read yet.
    pub fn new(documents: Vec<Document>) -> Self {
        Self {
            documents,
            known: HashMap::new(),
            tokens: 0,
            bytes_max: usize::MAX,
        }
    }

    /// Chooses no more than so many bytes from now on, beside what the question names: for a model that can read no more.
    pub fn limit(&mut self, bytes: usize) {
        self.bytes_max = bytes;
    }

    /// What it holds.
    pub fn documents(&self) -> &[Document] {
        &self.documents
    }

    /// Makes the vectors of those of `spans` that have none yet.
    fn learn(
        &mut self,
        spans: &[Span],
        embedder: &mut Embedder,
        cancel: &Cancel,
    ) -> Result<(), PreprocessError> {
        if self.known.len() + spans.len() > KNOWN_MAX {
            self.known.clear();
        }
        let missing: Vec<&Span> = spans.iter().filter(|s| !self.known.contains_key(s)).collect();
        let texts: Vec<&str> = missing
            .iter()
            .map(|s| &self.documents[s.source].text()[s.bytes.clone()])
            .collect();
        let (vectors, tokens) = embedder.vectors(&texts, cancel)?;
        self.tokens += tokens;
        let learned = missing.into_iter().cloned().zip(vectors).collect::<Vec<_>>();
        self.known.extend(learned);
        Ok(())
    }
}

/// What is ready to be sent, and what it took.
#[derive(Debug, Clone)]
pub struct Preprocessed {
    /// The text that leaves, with its citations.
    pub upload: Upload,
    /// Everything that the question names, and whether the documents hold it.
    pub locks: Vec<Lock>,
    /// Bytes of documents and question, which would be sent without this mode.
    pub raw_bytes: usize,
    /// Bytes past a sixth that were needed for what the question names.
    pub over_budget: usize,
    /// Spans of all documents.
    pub spans: usize,
    /// Of these, those that were compared by their meaning; the others were left to their words.
    pub compared: usize,
    /// Tokens that were read to compare them; none where all were compared before.
    pub tokens_read: usize,
    /// Time that choosing took.
    pub local: Duration,
}

impl Preprocessed {
    /// What a machine that reads the upload learns.
    pub fn exposure(&self) -> Exposure {
        Exposure::of(self)
    }
}

/// Chooses what of the library's documents goes with `question`.
///
/// # Errors
/// When question or documents are none or too much, and when `cancel` is raised.
pub fn preprocess(
    embedder: &mut Embedder,
    question: &str,
    library: &mut Library,
    cancel: &Cancel,
) -> Result<Preprocessed, PreprocessError> {
    let began = Instant::now();
    let question = Question::read(question)?;
    let texts: Vec<&str> = library.documents.iter().map(Document::text).collect();
    let survey = Survey::of(&question, &texts)?;
    if survey.is_empty() {
        return Err(PreprocessError::Nothing);
    }
    let before = library.tokens;
    let likeness = likeness(embedder, &question, &survey, library, cancel)?;
    let sources: Vec<Source<'_>> = library.documents.iter().map(Document::source).collect();
    let raw_bytes = survey.bytes() + question.text().len();
    let budget = (raw_bytes / BYTES_DIVISOR)
        .max(BYTES_FLOOR)
        .min(library.bytes_max);
    let for_spans = budget.saturating_sub(Upload::frame(&question));
    let selection = survey.choose(&likeness, for_spans, |source| Upload::overhead(&sources[source]));
    let upload = Upload::of(&question, &sources, &selection);
    Ok(Preprocessed {
        over_budget: upload.text.len().saturating_sub(budget),
        upload,
        locks: selection.locks,
        raw_bytes,
        spans: survey.len(),
        compared: likeness.len(),
        tokens_read: library.tokens - before,
        local: began.elapsed(),
    })
}

/// How alike the question and each candidate are.
fn likeness(
    embedder: &mut Embedder,
    question: &Question,
    survey: &Survey<'_>,
    library: &mut Library,
    cancel: &Cancel,
) -> Result<Vec<Likeness>, PreprocessError> {
    let (asked, _) = embedder.vectors(&[question.text()], cancel)?;
    let candidates = survey.candidates(COMPARED_MAX);
    let spans: Vec<Span> = candidates.iter().map(|&span| survey.span(span)).collect();
    library.learn(&spans, embedder, cancel)?;
    let like = |(&number, span): (&usize, &Span)| {
        let pairs = asked[0].iter().zip(&library.known[span]);
        Likeness {
            span: number,
            cosine: pairs.map(|(a, b)| a * b).sum(),
        }
    };
    Ok(candidates.iter().zip(&spans).map(like).collect())
}

#[cfg(test)]
mod tests;
