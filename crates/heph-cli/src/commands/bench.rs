//! `heph bench`: how fast a model runs here.

use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::time::Instant;

use heph_engine::model::Packing;
use heph_runtime::bench::{self, BenchError, Plan, Speeds};
use heph_runtime::hardware;
use heph_runtime::settings::Settings;
use serde::Serialize;

use crate::arguments::count;
use crate::complete;
use crate::engine::EngineArguments;
use crate::failure::Failure;
use crate::terminal;

/// Measure prefill, decoding and small passes of a model.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// A name of `heph models list`, a GGUF file, or a Hugging Face folder
    #[arg(long, default_value = "heph-story", add = complete::model())]
    model: String,
    /// Tokens of the prompt; 0 measures no prefill
    #[arg(long, default_value_t = 512)]
    prompt: usize,
    /// Tokens decoded one by one; 0 measures no decoding
    #[arg(long = "gen", default_value_t = 64)]
    generate: usize,
    /// Tokens that stand in the cache before anything is measured
    #[arg(long, default_value_t = 0)]
    depth: usize,
    /// How often each is measured
    #[arg(long, default_value = "3", value_parser = repetitions)]
    repetitions: usize,
    /// Also time passes of so many tokens, with logits for each, as verifying a draft needs
    #[arg(long, value_delimiter = ',', value_name = "1,2,4,8", value_parser = count)]
    verify: Vec<NonZeroUsize>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    engine: EngineArguments,
}

/// Each repetition is kept and told.
const REPETITIONS_MAX: usize = 1_000;

/// How often something is measured.
fn repetitions(text: &str) -> Result<usize, String> {
    let count = text.parse().ok().filter(|n| (1..=REPETITIONS_MAX).contains(n));
    count.ok_or_else(|| format!("a number from 1 to {REPETITIONS_MAX} is needed"))
}

/// What a script reads.
#[derive(Debug, Serialize)]
struct Report {
    #[serde(flatten)]
    speeds: Speeds,
    /// Until all weights are packed for the kernels.
    load_s: f64,
    /// From opening the file to the choice of a first token; nothing was packed before.
    first_token_s: f64,
    peak_rss_bytes: Option<u64>,
    threads: usize,
    isa: &'static str,
    kv: &'static str,
    depth: usize,
}

/// Loads, measures, prints.
pub(crate) fn run(arguments: &Arguments, settings: &Settings) -> Result<(), Failure> {
    let plan = Plan {
        prompt: arguments.prompt,
        generate: arguments.generate,
        depth: arguments.depth,
        repetitions: arguments.repetitions,
        verify: arguments.verify.iter().map(|n| n.get()).collect(),
    };
    let began = Instant::now();
    let opened = arguments
        .engine
        .open(&arguments.model, Some(plan.context()), 1, settings)?;
    let (wanted, context) = (plan.context(), opened.context());
    if wanted > context {
        return Err(BenchError::TooLong { wanted, context }.into());
    }
    let engine = opened.load(Packing::AsUsed)?;
    engine.words()?;
    let mut worker = engine.worker();
    bench::first_token(&mut worker)?;
    let first_token = began.elapsed();
    let settling = Instant::now();
    engine.model.settle(&engine.pool);
    let load = engine.load_time + settling.elapsed();
    let bar = terminal::steps_bar("measuring", (plan.repetitions as u64).saturating_add(1));
    let speeds = bench::measure(&mut worker, &plan, &mut || bar.inc(1));
    bar.finish_and_clear();
    let report = Report {
        speeds: speeds?,
        load_s: load.as_secs_f64(),
        first_token_s: first_token.as_secs_f64(),
        peak_rss_bytes: hardware::peak_memory_bytes(),
        threads: engine.pool.threads(),
        isa: engine.isa.name(),
        kv: engine.model.kv_format().name(),
        depth: plan.depth,
    };
    let mut out = io::stdout().lock();
    if arguments.json {
        serde_json::to_writer(&mut out, &report).map_err(io::Error::from)?;
        writeln!(out)?;
    } else {
        write_report(&mut out, &report)?;
    }
    Ok(())
}

fn write_report(out: &mut impl Write, report: &Report) -> io::Result<()> {
    let Report {
        threads,
        isa,
        kv,
        depth,
        ..
    } = report;
    let threads = terminal::counted(*threads, "thread");
    writeln!(out, "{threads}, {isa}, kv {kv}, depth {depth}")?;
    writeln!(out, "load     {:.3} s", report.load_s)?;
    writeln!(out, "first    {:.3} s to a first token", report.first_token_s)?;
    if let Some(peak) = report.peak_rss_bytes {
        writeln!(out, "memory   {} at most", terminal::bytes(peak))?;
    }
    for (what, values) in [
        ("prefill", &report.speeds.prefill_tok_s),
        ("decode", &report.speeds.decode_tok_s),
    ] {
        if let Some((middle, low, high)) = spread(values) {
            writeln!(out, "{what:<8} {middle:.1} tok/s  ({low:.1} to {high:.1})")?;
        }
    }
    for (width, values) in &report.speeds.verify_s {
        if let Some((middle, ..)) = spread(values) {
            writeln!(out, "pass {width:<3} {:.2} ms", middle * 1e3)?;
        }
    }
    Ok(())
}

/// Median, least and greatest.
fn spread(values: &[f64]) -> Option<(f64, f64, f64)> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    Some((*sorted.get(sorted.len() / 2)?, *sorted.first()?, *sorted.last()?))
}
