//! `heph privacy-report`: how much of a text whoever gets its rows reads back.

use std::fs;
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::path::PathBuf;

use heph_engine::model::Packing;
use heph_runtime::inversion::{self, ASKED, Attack, Finding, Report, SEQUENCES, Secret};
use heph_runtime::settings::Settings;
use heph_types::{LayerRange, WireCodec};

use crate::arguments::count;
use crate::complete;
use crate::engine::EngineArguments;
use crate::failure::{Exit, Failure};
use crate::terminal::{self, Style};

/// A text longer than this is not read: only its beginning is asked for.
const TEXT_BYTES_MAX: u64 = 16 << 20;

/// Show how much of a text can be read back from what a split sends to another machine.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Runs the first layers of the model here, writes their rows as layered mode would, and reads the text \
                        back as the other machine could: the model's file is all that takes. The strongest attack counts. \
                        No split is a measure of privacy, whatever is found: what must not be read stays here with --mode \
                        local or by a policy (heph policy)."
)]
pub(crate) struct Arguments {
    /// A name of `heph models list`, a GGUF file, or a Hugging Face folder
    #[arg(default_value = "heph-story", add = complete::model())]
    model: String,
    /// Layers that run here before rows leave; several are looked at one after another
    #[arg(long, value_name = "K", value_delimiter = ',', required = true)]
    split: Vec<usize>,
    /// How rows are written: f32, packed, bf16, int8 [default: each]
    #[arg(long, value_name = "CODEC", value_delimiter = ',', value_parser = str::parse::<WireCodec>)]
    codec: Vec<WireCodec>,
    /// A text to read back in place of the one that is part of the program
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// Tokens of it that are read back; each takes a pass of the whole vocabulary
    #[arg(long, value_name = "TOKENS", default_value = "32", value_parser = count)]
    tokens: NonZeroUsize,
    /// Print one JSON array, an object for each split
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    engine: EngineArguments,
}

/// Looks at each split and prints a table for each.
pub(crate) fn run(arguments: &Arguments, settings: &Settings) -> Result<(), Failure> {
    let text = arguments
        .text
        .as_ref()
        .map_or_else(|| Ok(ASKED.to_owned()), read)?;
    let tokens = arguments.tokens.get();
    let opened = arguments
        .engine
        .open(&arguments.model, Some(tokens), SEQUENCES, settings)?;
    let graph = opened.graph()?;
    let layers = graph.layers.len();
    if graph.pooling.is_some() {
        return Err(no_split(&arguments.model));
    }
    let deepest = arguments.split.iter().copied().max().unwrap_or(0);
    let held =
        LayerRange::new(0, deepest, layers).map_err(|_| too_deep(&arguments.model, deepest, layers))?;
    let words = opened.words()?;
    let secret = Secret::new(&text, &words.tokenizer, tokens);
    let opened = arguments
        .engine
        .open(&arguments.model, Some(secret.positions()), SEQUENCES, settings)?;
    let engine = opened.try_load(Some(held), Packing::AtLoad)?;
    let codecs = match arguments.codec.as_slice() {
        [] => &WireCodec::ALL[..],
        asked => asked,
    };
    let cancel = terminal::cancel_on_ctrl_c()?;
    let mut reports = Vec::new();
    for split in &arguments.split {
        let bar = terminal::steps_bar(&format!("split after {split}"), inversion::steps(&secret) as u64);
        let report = inversion::report(
            engine.worker(),
            &words.tokenizer,
            &secret,
            *split,
            codecs,
            &cancel,
            &mut || bar.inc(1),
        );
        bar.finish_and_clear();
        let report = report?;
        if !arguments.json {
            write_report(&mut io::stdout().lock(), &arguments.model, &report, codecs)?;
        }
        reports.push(report);
    }
    if arguments.json {
        let mut out = io::stdout().lock();
        serde_json::to_writer_pretty(&mut out, &reports).map_err(io::Error::from)?;
        writeln!(out)?;
    }
    Ok(())
}

fn read(path: &PathBuf) -> Result<String, Failure> {
    let cannot = |why: String| Failure::new(Exit::Input, format!("cannot read {}: {why}", path.display()));
    let length = fs::metadata(path).map_err(|e| cannot(e.to_string()))?.len();
    if length > TEXT_BYTES_MAX {
        return Err(cannot("it is longer than 16 MiB".to_owned()));
    }
    fs::read_to_string(path).map_err(|e| cannot(e.to_string()))
}

fn no_split(model: &str) -> Failure {
    Failure::new(
        Exit::Usage,
        format!("{model} only reads, and is never split between machines"),
    )
    .hint("heph models list shows the models that write")
}

fn too_deep(model: &str, split: usize, layers: usize) -> Failure {
    Failure::new(
        Exit::Usage,
        format!("{model} has {layers} layers and cannot be split after {split}"),
    )
    .hint(format!("--split takes a number from 0 to {layers}"))
}

fn write_report(out: &mut impl Write, model: &str, report: &Report, codecs: &[WireCodec]) -> io::Result<()> {
    let style = Style::of_stdout();
    let Report {
        split,
        layers,
        tokens,
        vocabulary,
        ..
    } = report;
    writeln!(
        out,
        "{model}, split after layer {split} of {layers}: {tokens} tokens, {vocabulary} candidates for each"
    )?;
    write!(out, "{:<22}", "read back (among 5)")?;
    codecs
        .iter()
        .try_for_each(|codec| write!(out, "{:>14}", codec.name()))?;
    writeln!(out)?;
    for attack in Attack::ALL {
        write!(out, "{:<22}", attack.name())?;
        let findings = report.findings.iter().filter(|finding| finding.attack == attack);
        for finding in findings {
            write!(out, "{:>14}", shares(finding, *tokens))?;
        }
        writeln!(out)?;
    }
    let read = percent(report.strongest().map_or(0, |finding| finding.first), *tokens);
    let by = report.strongest().map_or("", |finding| finding.attack.name());
    let said = format!(
        "Whoever gets these rows reads {read} of the tokens, by {by}: a split keeps no text private."
    );
    writeln!(out, "{}", style.red(&said))?;
    writeln!(
        out,
        "{} what must not be read stays here with --mode local, or by a policy (heph policy schema)",
        style.dim("hint:")
    )
}

fn shares(finding: &Finding, tokens: usize) -> String {
    let (first, five) = (
        percent(finding.first, tokens),
        percent(finding.among_five, tokens),
    );
    format!("{first} ({five})")
}

fn percent(count: usize, of: usize) -> String {
    format!("{:.0} %", 100.0 * count as f64 / of.max(1) as f64)
}
