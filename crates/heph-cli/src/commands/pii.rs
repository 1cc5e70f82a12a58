//! `heph pii`: what in a text tells of a person or opens a door. Sends nothing.

use std::fs;
use std::io::{self, BufRead, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use heph_privacy::pii::names::Model;
use heph_privacy::pii::{self, Span};
use serde::{Deserialize, Serialize};

use crate::commands::tokenize::unreadable;
use crate::failure::{Exit, Failure};
use crate::terminal::Style;

/// A line of `--jsonl` is no longer.
const LINE_MAX: usize = 64 << 20;

/// Show personal data, keys and passwords in a text.
///
/// Marks what it finds and lists it. Without a file it reads standard input. What it is sure of has a score near 100; offsets are
/// in Unicode code points.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The text; standard input where it is missing
    file: Option<PathBuf>,
    /// Print one JSON object: what was found, where, how sure
    #[arg(long, conflicts_with = "jsonl")]
    json: bool,
    /// Read lines {"id","text"} and write a line {"id","spans"} for each
    #[arg(long)]
    jsonl: bool,
    /// Leave names, addresses and organisations out: patterns alone, many times as fast
    #[arg(long)]
    patterns: bool,
    /// Print the identifiers that are known, their countries and who defines them
    #[arg(long, exclusive = true)]
    types: bool,
}

/// One thing found, as a script reads it.
#[derive(Debug, Serialize)]
struct Found {
    start: usize,
    end: usize,
    #[serde(rename = "type")]
    kind: &'static str,
    /// Of 1.
    score: f64,
    /// The recogniser.
    by: &'static str,
}

impl From<&Span> for Found {
    fn from(span: &Span) -> Self {
        Self {
            start: span.chars.start,
            end: span.chars.end,
            kind: span.kind,
            score: f64::from(span.score) / 100.0,
            by: span.name,
        }
    }
}

/// A line in.
#[derive(Debug, Deserialize)]
struct Line {
    id: serde_json::Value,
    text: String,
}

/// What a script reads for a text: its spans, and the id of its line where it has one.
#[derive(Debug, Serialize)]
struct Report {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<serde_json::Value>,
    spans: Vec<Found>,
}

/// Reads, looks, prints.
pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let mut out = BufWriter::new(io::stdout().lock());
    if arguments.types {
        return types(&mut out);
    }
    let mut input = open(arguments.file.as_deref())?;
    if arguments.jsonl {
        return lines(arguments, input, &mut out);
    }
    let mut bytes = Vec::new();
    let failed = |error| unread(arguments.file.as_deref(), error);
    input.read_to_end(&mut bytes).map_err(failed)?;
    let text = String::from_utf8(bytes).map_err(|_| {
        Failure::new(Exit::Input, "this is no text in UTF-8").hint("convert it, or name a text file")
    })?;
    let spans = look(arguments, &text);
    if arguments.json {
        let report = Report {
            id: None,
            spans: spans.iter().map(Found::from).collect(),
        };
        serde_json::to_writer(&mut out, &report).map_err(io::Error::from)?;
        writeln!(out)?;
    } else {
        show(&mut out, &text, &spans)?;
    }
    Ok(out.flush()?)
}

/// The file, or standard input.
fn open(file: Option<&Path>) -> Result<Box<dyn BufRead>, Failure> {
    let Some(path) = file else {
        return Ok(Box::new(io::stdin().lock()));
    };
    if path.is_dir() {
        let sentence = format!("{} is a folder, and no text", path.display());
        return Err(Failure::new(Exit::Input, sentence).hint("name a file, one at a time"));
    }
    let opened = fs::File::open(path).map_err(|error| unread(file, error))?;
    Ok(Box::new(io::BufReader::new(opened)))
}

/// The system gave no more of it.
fn unread(file: Option<&Path>, error: io::Error) -> Failure {
    match file {
        Some(path) => Failure::new(Exit::Input, format!("cannot read {}: {error}", path.display())),
        None => unreadable(error),
    }
}

fn look(arguments: &Arguments, text: &str) -> Vec<Span> {
    if arguments.patterns {
        pii::patterns(text)
    } else {
        pii::scan(text, Model::bundled())
    }
}

/// A line of spans for each line of text, in the same order.
fn lines(arguments: &Arguments, mut input: impl BufRead, out: &mut impl Write) -> Result<(), Failure> {
    let mut number = 0;
    loop {
        let mut bytes = Vec::new();
        number += 1;
        let read = (&mut input)
            .take(LINE_MAX as u64 + 1)
            .read_until(b'\n', &mut bytes)
            .map_err(|error| unread(arguments.file.as_deref(), error))?;
        if read == 0 {
            return Ok(out.flush()?);
        }
        if read > LINE_MAX {
            return Err(Failure::new(
                Exit::Input,
                format!("line {number} is longer than {} MB", LINE_MAX >> 20),
            ));
        }
        if bytes.trim_ascii().is_empty() {
            continue;
        }
        let line: Line = serde_json::from_slice(&bytes).map_err(|error| {
            Failure::new(Exit::Input, format!("line {number} cannot be read: {error}"))
                .hint("write one JSON object a line: {\"id\": \"1\", \"text\": \"…\"}")
        })?;
        let spans = look(arguments, &line.text).iter().map(Found::from).collect();
        serde_json::to_writer(
            &mut *out,
            &Report {
                id: Some(line.id),
                spans,
            },
        )
        .map_err(io::Error::from)?;
        writeln!(out)?;
    }
}

/// The text with what was found marked, then a list of it.
fn show(out: &mut impl Write, text: &str, spans: &[Span]) -> Result<(), Failure> {
    let style = Style::of_stdout();
    let mut place = 0;
    for span in spans {
        let (before, found) = (&text[place..span.bytes.start], &text[span.bytes.clone()]);
        write!(
            out,
            "{before}{}{}",
            style.red(&format!("[{found}]")),
            style.dim(&format!("({})", span.kind))
        )?;
        place = span.bytes.end;
    }
    writeln!(out, "{}", text[place..].trim_end_matches('\n'))?;
    match spans.len() {
        0 => writeln!(
            out,
            "\nNothing was found. That is no proof that nothing is there."
        )?,
        n => writeln!(out, "\n{n} found:")?,
    }
    for span in spans {
        writeln!(
            out,
            "  {:<18} {:>3}  {}",
            span.kind,
            span.score,
            style.dim(span.name)
        )?;
    }
    Ok(())
}

fn types(out: &mut impl Write) -> Result<(), Failure> {
    for row in pii::recognisers() {
        let country = if row.country.is_empty() { "-" } else { row.country };
        writeln!(
            out,
            "{:<22} {:<18} {country:<3} {}",
            row.name, row.kind, row.source
        )?;
    }
    Ok(out.flush()?)
}
