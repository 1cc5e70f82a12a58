//! `heph excerpts`: what of documents would be sent with a question. Sends nothing.

use std::io::{self, Write};

use heph_engine::retrieval::{Citation, Lock};
use heph_runtime::preprocess::Exposure;
use heph_runtime::settings::Settings;
use serde::Serialize;

use crate::about::{About, DocumentArguments};
use crate::engine::EngineArguments;
use crate::failure::{Exit, Failure};

/// Show which parts of documents a question needs: what mode preprocess would send.
///
/// Every name, number and date of the question that the documents hold is in an excerpt. Whoever answers reads the
/// excerpts as they are: the receipt on standard error says what they show.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The question
    question: String,
    /// Print one JSON object: the text, its citations, what is named, what it shows
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    documents: DocumentArguments,
    #[command(flatten)]
    engine: EngineArguments,
}

/// What a script reads.
#[derive(Debug, Serialize)]
struct Report<'a> {
    text: &'a str,
    citations: &'a [Citation],
    locks: &'a [Lock],
    spans: usize,
    spans_compared: usize,
    tokens_read: usize,
    local_s: f64,
    over_budget: usize,
    exposure: Exposure,
}

/// Reads, chooses, prints.
pub(crate) fn run(arguments: &Arguments, settings: &Settings) -> Result<(), Failure> {
    if arguments.documents.documents.is_empty() {
        return Err(Failure::new(Exit::Usage, "there is no document to choose from")
            .hint("name a file or a folder with --document"));
    }
    let about = About::read(
        &arguments.question,
        &arguments.documents,
        &arguments.engine,
        settings,
    )?;
    let chosen = &about.chosen;
    let mut out = io::stdout().lock();
    if arguments.json {
        let report = Report {
            text: &chosen.upload.text,
            citations: &chosen.upload.citations,
            locks: &chosen.locks,
            spans: chosen.spans,
            spans_compared: chosen.compared,
            tokens_read: chosen.tokens_read,
            local_s: chosen.local.as_secs_f64(),
            over_budget: chosen.over_budget,
            exposure: chosen.exposure(),
        };
        serde_json::to_writer(&mut out, &report).map_err(io::Error::from)?;
        return Ok(writeln!(out)?);
    }
    writeln!(out, "{}", chosen.upload.text)?;
    Ok(writeln!(io::stderr().lock(), "\n{}", chosen.exposure())?)
}
