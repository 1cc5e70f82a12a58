//! `heph certify`: does this model give the same bits on this machine, whatever way it is run? And does it keep its words
//! where rows are rounded on their way to another machine?

use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::sync::Arc;

use heph_engine::model::Packing;
use heph_engine::source::Source;
use heph_kernels::kv::KvFormat;
use heph_runtime::certify::rounding::{self, KeptRoundings, Rounding, Verdict};
use heph_runtime::certify::{self, Certificate, Depth};
use heph_runtime::settings::Settings;
use heph_types::{TokenId, hex};
use serde::Serialize;

use crate::arguments::count;
use crate::complete;
use crate::engine::{EngineArguments, threads};
use crate::failure::{Exit, Failure};
use crate::terminal::{self, Style};

/// Run a model in every way there is here and compare the bits.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Prints one BLAKE3 hash of the logits per KV format. The hash is the same on every machine. \
                        Instruction sets are tried all; threads, chunks, companions and split points each alone, with \
                        the others as usual, and all combinations of them with --full. \
                        Exit code 1 if any way gave other bits. Then answers some prompts with rows rounded on the \
                        way between machines and keeps what was found: --rows certified of run and chat uses it."
)]
pub(crate) struct Arguments {
    /// A name of `heph models list`, a GGUF file, or a Hugging Face folder
    #[arg(default_value = "heph-story", add = complete::model())]
    model: String,
    /// KV formats to scan
    #[arg(long, value_delimiter = ',', default_value = "f32,f16,q8_0", value_parser = complete::kv(), hide_possible_values = true)]
    kv: Vec<KvFormat>,
    /// Positions of the prompt
    #[arg(long, default_value = "72", value_name = "N", value_parser = count)]
    tokens: NonZeroUsize,
    /// Every combination of the choices, not each choice alone
    #[arg(long)]
    full: bool,
    /// Most threads tried [default: one per core, at least 3]
    #[arg(long, value_parser = threads)]
    threads: Option<usize>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What a script reads.
#[derive(Debug, Serialize)]
struct Report {
    model: String,
    arithmetic: u32,
    tokens: usize,
    /// `each_choice` alone, or `all_combinations`.
    ways: &'static str,
    certificates: Vec<Certificate>,
    rounding: Vec<Rounded>,
    /// Whether what rounding does is kept for `--rows certified`.
    rounding_kept: bool,
    pass: bool,
}

/// What rounding does to the model with one KV format.
#[derive(Debug, Serialize)]
struct Rounded {
    /// The hash of its files, as hexadecimal digits.
    model: String,
    kv: &'static str,
    /// Boundaries between machines of one pass, at most.
    boundaries: usize,
    codecs: Vec<Verdict>,
}

impl From<Rounding> for Rounded {
    fn from(rounding: Rounding) -> Self {
        Self {
            model: hex::write(&rounding.model.0),
            kv: rounding.kv.name(),
            boundaries: rounding.boundaries,
            codecs: rounding.codecs,
        }
    }
}

/// Scans each KV format, prints a line for each.
pub(crate) fn run(arguments: &Arguments, settings: &Settings) -> Result<(), Failure> {
    let (mut certificates, mut rounding) = (Vec::new(), Vec::new());
    let mut kept = KeptRoundings::open(&settings.home);
    let mut rounding_kept = true;
    for &kv in &arguments.kv {
        let (certificate, rounded) = scan(arguments, kv, settings)?;
        if !arguments.json {
            let mut out = io::stdout().lock();
            write_line(&mut out, &certificate)?;
            write_rounding(&mut out, &rounded)?;
        }
        if let Err(error) = kept.keep(rounded.clone()) {
            rounding_kept = false;
            warn(&error, settings);
        }
        certificates.push(certificate);
        rounding.push(Rounded::from(rounded));
    }
    let pass = certificates.iter().all(Certificate::holds);
    let depth = depth(arguments);
    if !arguments.json {
        let told = match depth {
            Depth::EachChoice => {
                "each choice was tried alone, with the others as usual; --full tries all combinations"
            }
            Depth::AllCombinations => "all combinations of the choices were tried",
        };
        writeln!(io::stdout().lock(), "{told}")?;
    }
    if arguments.json {
        let (model, tokens) = (arguments.model.clone(), arguments.tokens.get());
        let report = Report {
            model,
            arithmetic: heph_kernels::ARITHMETIC_VERSION,
            tokens,
            ways: match depth {
                Depth::EachChoice => "each_choice",
                Depth::AllCombinations => "all_combinations",
            },
            certificates,
            rounding,
            rounding_kept,
            pass,
        };
        let mut out = io::stdout().lock();
        serde_json::to_writer_pretty(&mut out, &report).map_err(io::Error::from)?;
        writeln!(out)?;
    }
    if pass {
        Ok(())
    } else {
        Err(Failure::new(
            Exit::No,
            "the same model gave different bits; this is a defect of heph",
        ))
    }
}

/// What cannot be kept was found all the same: the bits are judged, and nothing else is.
fn warn(error: &io::Error, settings: &Settings) {
    // Where standard error is closed nobody wants to know.
    let _ = writeln!(
        io::stderr().lock(),
        "note: what rounding changes cannot be kept below {}: {error}; --rows certified will not use it",
        settings.home.display()
    );
}

fn depth(arguments: &Arguments) -> Depth {
    match arguments.full {
        true => Depth::AllCombinations,
        false => Depth::EachChoice,
    }
}

fn scan(
    arguments: &Arguments,
    kv: KvFormat,
    settings: &Settings,
) -> Result<(Certificate, Rounding), Failure> {
    let tokens = arguments.tokens.get();
    let engine_arguments = EngineArguments::with_kv(kv);
    let positions = Some(tokens.max(rounding::POSITIONS));
    let opened = engine_arguments.open(&arguments.model, positions, BATCH_MAX, settings)?;
    if tokens > opened.context() {
        let holds = opened.context();
        return Err(Failure::new(
            Exit::Usage,
            format!(
                "{} holds {holds} tokens, and --tokens asks for {tokens}",
                arguments.model
            ),
        ));
    }
    // What does not fit says so before all of it is read through.
    let engine = opened.load(Packing::AtLoad)?;
    let hash = opened.hash()?;
    let threads = arguments.threads.unwrap_or(settings.threads.max(3));
    let ways = certify::ways(
        depth(arguments),
        tokens,
        engine.model.graph().layers.len(),
        threads,
    );
    let bar = terminal::steps_bar(&format!("kv {}", kv.name()), ways.len() as u64);
    let cancel = terminal::cancel_on_ctrl_c()?;
    let prompt = prompt(&engine.source, tokens);
    let certificate = certify::scan(&engine.model, &prompt, &ways, &cancel, &mut || bar.inc(1));
    bar.finish_and_clear();
    let certificate = certificate?;
    let layers = engine.model.graph().layers.len();
    let bar = terminal::steps_bar("rounded rows", rounding::steps(layers) as u64);
    let tokenizer = &engine.words()?.tokenizer;
    let pool = Arc::clone(&engine.pool);
    let rounded = rounding::rounding(hash, &engine.model, tokenizer, &pool, &cancel, &mut || bar.inc(1));
    bar.finish_and_clear();
    Ok((certificate, rounded?))
}

/// Most sequences that a scan runs together.
const BATCH_MAX: usize = 3;

/// Tokens spread over the whole vocabulary, the same on every machine.
fn prompt(source: &Source, count: usize) -> Vec<TokenId> {
    let vocab = source.config().vocab.max(1) as u64;
    (0..count as u64)
        .map(|i| TokenId((i.wrapping_mul(2_654_435_761).wrapping_add(17) % vocab) as u32))
        .collect()
}

fn write_line(out: &mut impl Write, certificate: &Certificate) -> io::Result<()> {
    let style = Style::of_stdout();
    let Certificate {
        kv,
        blake3,
        ways,
        mismatches,
    } = certificate;
    let verdict = if certificate.holds() {
        style.green("PASS")
    } else {
        style.red("FAIL")
    };
    writeln!(
        out,
        "kv {kv:<5} {blake3}  {verdict}  {} of {ways} ways agree",
        ways - mismatches.len()
    )?;
    mismatches
        .iter()
        .try_for_each(|way| writeln!(out, "  differs: {way}"))
}

fn write_rounding(out: &mut impl Write, rounding: &Rounding) -> io::Result<()> {
    for verdict in &rounding.codecs {
        let said = match (verdict.codec.is_exact(), rounding.keeps(verdict.codec)) {
            (true, _) => "exact".to_owned(),
            (false, true) => format!("keeps all of {} tokens", verdict.tokens),
            (false, false) => format!("changes {} of {} tokens", verdict.changed, verdict.tokens),
        };
        let (codec, bytes) = (verdict.codec.name(), verdict.bytes_per_number);
        writeln!(out, "  rows {codec:<6} {bytes:.2} bytes a number, {said}")?;
    }
    Ok(())
}
