//! Questions about documents: the files that questions are about, whole and as excerpts.

use std::path::PathBuf;
use std::sync::Arc;

use heph_engine::retrieval::Citation;
use heph_engine::worker::Worker;
use heph_kernels::kv::KvFormat;
use heph_kernels::pool::Pool;
use heph_runtime::bundled;
use heph_runtime::preprocess::{Document, Embedder, Library, Preprocessed, preprocess};
use heph_runtime::settings::Settings;

use crate::complete;
use crate::engine::EngineArguments;
use crate::failure::{Exit, Failure};
use crate::terminal;

/// How often excerpts that a model cannot read are chosen anew, shorter each time.
const SHORTER_MAX: usize = 4;

/// Excerpts that had to become shorter become so by this much more: what tokens a byte makes differs from excerpt to
/// excerpt.
const SHORTER_SHARE: f64 = 0.9;

/// Letters of an excerpt that a citation shows.
const SHOWN_CHARS: usize = 60;

/// The documents that questions are about.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Documents")]
pub(crate) struct DocumentArguments {
    /// A text file that the question is about, or a folder of them; may be given several times
    #[arg(long = "document", alias = "documents", value_name = "PATH")]
    pub(crate) documents: Vec<PathBuf>,
    /// The encoder that compares question and spans: a name, a GGUF file, or a Hugging Face folder
    #[arg(long, value_name = "MODEL", default_value = bundled::EMBED.name, add = complete::model())]
    pub(crate) embedder: String,
}

impl DocumentArguments {
    /// Reads them.
    pub(crate) fn read(&self) -> Result<Vec<Document>, Failure> {
        let documents = Document::read_all(&self.documents)?;
        match documents.is_empty() && !self.documents.is_empty() {
            true => Err(Failure::new(Exit::Input, "there is no text in these folders")),
            false => Ok(documents),
        }
    }

    /// The encoder, on what `engine` says.
    pub(crate) fn encoder(&self, engine: &EngineArguments, settings: &Settings) -> Result<Embedder, Failure> {
        if self.embedder == bundled::EMBED.name {
            let threads = engine.threads.unwrap_or(settings.threads);
            let isa = engine.isa.unwrap_or_else(heph_kernels::isa::Isa::best);
            return Ok(Embedder::bundled(&Arc::new(Pool::new(threads)), isa)?);
        }
        let usual = EngineArguments {
            threads: engine.threads,
            isa: engine.isa,
            ..EngineArguments::with_kv(KvFormat::F32)
        };
        let loaded = usual.load(&self.embedder, None, 1, settings)?;
        let worker: Worker = loaded.worker();
        Ok(Embedder::new(loaded.words()?, worker))
    }
}

/// A question about documents, in the two forms in which it can be asked.
pub(crate) struct About {
    /// All documents, and the question.
    pub(crate) whole: String,
    /// What of them the question needs.
    pub(crate) chosen: Preprocessed,
    /// The documents.
    pub(crate) library: Library,
    embedder: Embedder,
}

impl About {
    /// Reads the files and chooses.
    pub(crate) fn read(
        question: &str,
        documents: &DocumentArguments,
        engine: &EngineArguments,
        settings: &Settings,
    ) -> Result<Self, Failure> {
        let read = documents.read()?;
        let parts = read.iter().map(|d| format!("{}:\n{}\n\n", d.name(), d.text()));
        let whole = parts.chain([question.to_owned()]).collect();
        let mut embedder = documents.encoder(engine, settings)?;
        let cancel = terminal::cancel_on_ctrl_c()?;
        let mut library = Library::new(read);
        let chosen = preprocess(&mut embedder, question, &mut library, &cancel)?;
        Ok(Self {
            whole,
            chosen,
            library,
            embedder,
        })
    }

    /// Chooses less, where a model that can read `room` tokens needs that; `tokens` counts those of a text.
    pub(crate) fn fit(
        &mut self,
        question: &str,
        room: usize,
        tokens: &dyn Fn(&str) -> Result<usize, Failure>,
    ) -> Result<(), Failure> {
        if tokens(&self.chosen.upload.text)? > room {
            self.chosen = choose(question, &mut self.library, &mut self.embedder, room, tokens)?;
        }
        Ok(())
    }
}

/// Of the context, the share that excerpts leave to the answer.
const ANSWER_DIVISOR: usize = 4;

/// Tokens that a question and its excerpts may have, in a context of so many, before an answer of at most so many.
pub(crate) fn room(context: usize, answer_tokens_max: usize) -> usize {
    context.saturating_sub(answer_tokens_max.min(context / ANSWER_DIVISOR))
}

/// What of `library` goes with a question to a model that can read `room` tokens of it; `tokens` counts those of a text.
pub(crate) fn choose(
    question: &str,
    library: &mut Library,
    embedder: &mut Embedder,
    room: usize,
    tokens: &dyn Fn(&str) -> Result<usize, Failure>,
) -> Result<Preprocessed, Failure> {
    let cancel = terminal::cancel_on_ctrl_c()?;
    library.limit(usize::MAX);
    let mut chosen = preprocess(embedder, question, library, &cancel)?;
    for _ in 0..SHORTER_MAX {
        let (bytes, count) = (chosen.upload.text.len(), tokens(&chosen.upload.text)?);
        if count <= room {
            break;
        }
        let share = room as f64 / count as f64 * SHORTER_SHARE;
        library.limit((bytes as f64 * share) as usize);
        chosen = preprocess(embedder, question, library, &cancel)?;
    }
    Ok(chosen)
}

/// Where each excerpt of `documents` stands, to the byte, and how it begins; a line for each.
pub(crate) fn cited(citations: &[Citation], documents: &[Document]) -> Vec<String> {
    let line = |citation: &Citation| {
        let span = citation.bytes.clone();
        let text = documents
            .get(citation.source)
            .and_then(|d| d.text().get(span.clone()));
        let words: Vec<&str> = text.unwrap_or_default().split_whitespace().collect();
        let words = words.join(" ");
        let shown: String = words.chars().take(SHOWN_CHARS).collect();
        let more = if shown.len() < words.len() { "..." } else { "" };
        format!(
            "[{}] {}, bytes {}..{}: {}{more}",
            citation.number,
            terminal::plain(&citation.name),
            span.start,
            span.end,
            terminal::plain(&shown)
        )
    };
    citations.iter().map(line).collect()
}
