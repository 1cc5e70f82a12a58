//! `heph embed`: texts in, vectors out.

use std::io::{self, BufWriter, Read, Write};
use std::num::NonZeroUsize;

use heph_engine::worker::Worker;
use heph_kernels::kv::KvFormat;
use heph_runtime::bundled;
use heph_runtime::settings::Settings;
use heph_runtime::words::Words;
use heph_types::TokenId;
use serde::Serialize;

use crate::arguments::count;
use crate::complete;
use crate::engine::EngineArguments;
use crate::failure::{Exit, Failure};

/// Texts that are held as vectors before they are written.
const BATCH: usize = 64;

/// Turn texts into vectors of length 1: near each other where the texts mean alike.
///
/// A vector can be turned back into much of its text: it is no disguise.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// A name of `heph models list`, a GGUF file, or a Hugging Face folder of an encoder (bert, nomic-bert)
    #[arg(long, default_value = bundled::EMBED.name, add = complete::model())]
    model: String,
    /// Tokens to read of each text at most; a longer one is an error otherwise
    #[arg(long, value_name = "TOKENS", value_parser = count)]
    cut: Option<NonZeroUsize>,
    /// One JSON object a line: text, tokens, cut, embedding
    #[arg(long)]
    json: bool,
    /// The texts; without any, each line of standard input is one
    texts: Vec<String>,
    #[command(flatten)]
    engine: EngineArguments,
}

/// One answer of `--json`.
#[derive(Serialize)]
struct Line<'a> {
    text: &'a str,
    /// Tokens that were read.
    tokens: usize,
    /// Whether the text had more.
    cut: bool,
    embedding: &'a [f32],
}

/// A text as the model reads it.
struct Reading<'a> {
    text: &'a str,
    tokens: Vec<TokenId>,
    cut: bool,
}

/// Reads every text on its own.
pub(crate) fn run(arguments: &Arguments, settings: &Settings) -> Result<(), Failure> {
    let input = if arguments.texts.is_empty() {
        lines_of_input()?
    } else {
        arguments.texts.clone()
    };
    if arguments.engine.kv.is_some_and(|kv| kv != KvFormat::F32) {
        return Err(Failure::new(
            Exit::Usage,
            "an encoder keeps nothing between texts: --kv is f32 here",
        ));
    }
    let engine = arguments.engine.load(&arguments.model, None, 1, settings)?;
    let (words, mut worker) = (engine.words()?, engine.worker());
    let limit = arguments.cut.map(NonZeroUsize::get);
    let readings = input
        .iter()
        .enumerate()
        .map(|(number, text)| reading(&words, &worker, number + 1, text, limit))
        .collect::<Result<Vec<_>, _>>()?;
    let mut out = BufWriter::new(io::stdout().lock());
    for batch in readings.chunks(BATCH) {
        let tokens: Vec<&[TokenId]> = batch.iter().map(|r| r.tokens.as_slice()).collect();
        for (reading, vector) in batch.iter().zip(worker.encode(&tokens)?) {
            write_line(&mut out, reading, &vector, arguments.json)?;
        }
    }
    Ok(out.flush()?)
}

fn lines_of_input() -> Result<Vec<String>, Failure> {
    let mut text = String::new();
    io::stdin()
        .lock()
        .read_to_string(&mut text)
        .map_err(|e| Failure::new(Exit::Input, format!("cannot read standard input: {e}")))?;
    Ok(text.lines().map(str::to_owned).collect())
}

fn reading<'a>(
    words: &Words,
    worker: &Worker,
    number: usize,
    text: &'a str,
    limit: Option<usize>,
) -> Result<Reading<'a>, Failure> {
    let context = worker.model().context();
    let whole = words
        .tokenizer
        .encode_within(text, usize::MAX)
        .unwrap_or_default();
    let most = limit.unwrap_or(context).min(context);
    if whole.len() <= most {
        return Ok(Reading {
            text,
            tokens: whole,
            cut: false,
        });
    }
    if limit.is_none() {
        let tokens = whole.len();
        return Err(Failure::new(
            Exit::Room,
            format!("text {number} has {tokens} tokens and the model reads {context} at once"),
        )
        .hint(format!("--cut {context} reads its beginning only")));
    }
    let tokens = words.tokenizer.encode_within(text, most).ok_or_else(|| {
        Failure::new(
            Exit::Usage,
            format!("--cut {most} leaves no room for the tokens around a text"),
        )
    })?;
    Ok(Reading {
        text,
        tokens,
        cut: true,
    })
}

fn write_line(
    out: &mut impl Write,
    reading: &Reading<'_>,
    vector: &[f32],
    json: bool,
) -> Result<(), Failure> {
    if json {
        let line = Line {
            text: reading.text,
            tokens: reading.tokens.len(),
            cut: reading.cut,
            embedding: vector,
        };
        serde_json::to_writer(&mut *out, &line).map_err(io::Error::from)?;
    } else {
        for (at, number) in vector.iter().enumerate() {
            let gap = if at == 0 { "" } else { " " };
            write!(out, "{gap}{number}")?;
        }
    }
    Ok(writeln!(out)?)
}
