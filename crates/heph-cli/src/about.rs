//! Questions about documents: the files that a question is about, whole and as excerpts.

use std::path::PathBuf;
use std::sync::Arc;

use heph_engine::worker::Worker;
use heph_kernels::kv::KvFormat;
use heph_kernels::pool::Pool;
use heph_runtime::bundled;
use heph_runtime::preprocess::{Document, Embedder, Library, Preprocessed, preprocess};
use heph_runtime::settings::Settings;

use crate::engine::EngineArguments;
use crate::failure::Failure;
use crate::terminal;

/// A question about documents, in the two forms in which it can be asked.
pub(crate) struct About {
    /// All documents, and the question.
    pub(crate) whole: String,
    /// What of them the question needs.
    pub(crate) chosen: Preprocessed,
}

impl About {
    /// Reads the files and chooses, by the encoder `embedder`, on what `engine` says.
    pub(crate) fn read(
        question: &str,
        files: &[PathBuf],
        embedder: &str,
        engine: &EngineArguments,
        settings: &Settings,
    ) -> Result<Self, Failure> {
        let documents = Document::read_all(files)?;
        let parts = documents
            .iter()
            .map(|d| format!("{}:\n{}\n\n", d.name(), d.text()));
        let whole = parts.chain([question.to_owned()]).collect();
        let mut embedder = open(embedder, engine, settings)?;
        let cancel = terminal::cancel_on_ctrl_c()?;
        let chosen = preprocess(&mut embedder, question, &mut Library::new(documents), &cancel)?;
        Ok(Self { whole, chosen })
    }
}

fn open(name: &str, engine: &EngineArguments, settings: &Settings) -> Result<Embedder, Failure> {
    if name == bundled::EMBED.name {
        let threads = engine.threads.unwrap_or(settings.threads);
        let isa = engine.isa.unwrap_or_else(heph_kernels::isa::Isa::best);
        return Ok(Embedder::bundled(&Arc::new(Pool::new(threads)), isa)?);
    }
    let usual = EngineArguments {
        threads: engine.threads,
        isa: engine.isa,
        ..EngineArguments::with_kv(KvFormat::F32)
    };
    let loaded = usual.load(name, None, 1, settings)?;
    let worker: Worker = loaded.worker();
    Ok(Embedder::new(loaded.words()?, worker))
}
