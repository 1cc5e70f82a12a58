//! `heph demo`: talk with the model that is part of the program, and see that its answer is the same however and wherever
//! it is computed: on other instruction sets, over other machines, and when one of them is killed.

use std::fs;
use std::io::{self, BufRead, IsTerminal, Write};
use std::path::Path;

use heph_engine::sample::SamplingOptions;
use heph_kernels::isa::Isa;
use heph_runtime::bundled;
use heph_runtime::cancel::Cancel;
use heph_runtime::certify::{self, Certificate, Way};
use heph_runtime::desk::{Answer, AnswerOptions, Desk, Message, Prompt};
use heph_runtime::settings::{Keys, Settings};
use heph_types::TokenId;
use serde::Serialize;

use super::models::print_json;
use super::run::streamed;
use super::tokenize::unreadable;
use crate::about::{About, DocumentArguments};
use crate::asking::Asking;
use crate::engine::{Engine, EngineArguments};
use crate::failure::{Exit, Failure};
use crate::terminal::{self, Style};

mod harbor;
mod modes;
mod nodes;

use modes::{Row, Task};

/// What is asked where nobody is there to ask.
const QUESTION: &str = "Tell me a story about a little fox.";

/// Words enough for a short story.
const ANSWER_TOKENS: usize = 200;

/// The other machines: processes of this program, for the time of the demonstration.
const NODES: [&str; 2] = ["node-a", "node-b"];

/// Talk with the model that is part of the program, and see that its answer is the same wherever it is computed.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// What to say to it, instead of asking you
    #[arg(long)]
    prompt: Option<String>,
    /// Only this process: start no nodes
    #[arg(long)]
    alone: bool,
    /// Print one JSON object at the end instead of the text
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    engine: EngineArguments,
}

/// What a script reads.
#[derive(Debug, Serialize)]
struct Report<'a> {
    question: &'a str,
    text: &'a str,
    load_s: f64,
    prompt_tokens: usize,
    prefill_tok_s: f64,
    answer_tokens: usize,
    decode_tok_s: f64,
    threads: usize,
    isa: &'static str,
    /// How the answer was computed again; the certificate says which of these ways gave other bits.
    ways: &'a [Way],
    certificate: &'a Certificate,
    /// The same question in every mode, one of them losing a node; empty where it stayed in this process.
    modes: &'a [Row],
}

/// Asks, answers, computes the answer again in other ways, shows the table.
pub(crate) fn run(arguments: &Arguments, settings: &Settings) -> Result<(), Failure> {
    let question = match arguments.json {
        true => arguments.prompt.clone().unwrap_or_else(|| QUESTION.to_owned()),
        false => question(arguments.prompt.as_deref())?,
    };
    let engine = arguments.engine.load(bundled::STORY.name, None, 2, settings)?;
    let cancel = terminal::cancel_on_any_signal()?;
    let mut desk = Desk::new(engine.worker(), engine.words()?, cancel.clone());
    let messages = [Message::new("user", question.as_str())];
    let sampling = SamplingOptions {
        temperature: 0.7,
        ..SamplingOptions::default()
    };
    let options = AnswerOptions {
        sampling,
        max_tokens: Some(ANSWER_TOKENS),
        stops: Vec::new(),
    };
    let prompt = Prompt::Chat(&messages);
    let answer = match arguments.json {
        true => desk.answer(prompt, &options, &mut |_| {})?,
        false => streamed(&mut desk, prompt, &options, &cancel, None)?,
    };
    cancel.lower();
    let history = [&answer.prompt[..], &answer.tokens].concat();
    let (ways, certificate) = again(&engine, &history, &cancel)?;
    if !arguments.json {
        write_table(&mut io::stdout().lock(), &engine, &answer, &ways, &certificate)?;
    }
    let task = Task {
        prompt,
        options: &options,
        answer: &answer,
        cancel: &cancel,
    };
    let rows = match arguments.alone || !certificate.holds() {
        true => Vec::new(),
        false => over_nodes(arguments, settings, &task)?,
    };
    if arguments.json {
        print_json(&Report {
            question: &question,
            text: &answer.text,
            load_s: engine.load_time.as_secs_f64(),
            prompt_tokens: answer.prompt.len(),
            prefill_tok_s: answer.prefill_tok_s(),
            answer_tokens: answer.tokens.len(),
            decode_tok_s: answer.decode_tok_s(),
            threads: engine.pool.threads(),
            isa: engine.isa.name(),
            ways: &ways,
            certificate: &certificate,
            modes: &rows,
        })?;
    }
    if !certificate.holds() {
        return Err(Failure::new(
            Exit::No,
            "the same answer gave different bits; this is a defect of heph",
        ));
    }
    modes::check(&rows)
}

/// Answers the question again over machines of its own, which end with it.
fn over_nodes(arguments: &Arguments, settings: &Settings, task: &Task<'_>) -> Result<Vec<Row>, Failure> {
    let folder = nodes::folder()?;
    let settings = Settings {
        home: folder.path().join("desk"),
        models: folder.path().join("models"),
        keys: Some(Keys::File),
        ..settings.clone()
    };
    let mut out = io::stdout().lock();
    let about = document(folder.path(), arguments, &settings)?;
    let bar = terminal::steps_bar("starting two nodes", 1);
    let mut nodes = nodes::start(&NODES, folder.path())?;
    let tickets: Vec<_> = nodes.iter().map(|node| node.ticket.clone()).collect();
    let asking = Asking::among(&tickets, bundled::STORY.name, &arguments.engine, &settings)?;
    bar.finish_and_clear();
    if let Some((name, why)) = asking.away().first() {
        return Err(Failure::new(
            Exit::Network,
            format!("{name} does not take part: {why}"),
        ));
    }
    let ids: Vec<String> = nodes
        .iter()
        .map(|node| format!("{} (process {})", node.name, node.id()))
        .collect();
    if !arguments.json {
        writeln!(
            out,
            "\nThe same question over this machine and two nodes, {}:",
            ids.join(" and ")
        )?;
    }
    let rows = modes::rows(&asking, &mut nodes, task, &about)?;
    if !arguments.json {
        modes::write(&mut out, &rows)?;
    }
    Ok(rows)
}

/// The question about a document, whose excerpts are chosen here.
fn document(folder: &Path, arguments: &Arguments, settings: &Settings) -> Result<About, Failure> {
    let file = folder.join(harbor::NAME);
    fs::write(&file, harbor::log()).map_err(|e| Failure::writing(&file, &e))?;
    let documents = DocumentArguments {
        documents: vec![file],
        embedder: bundled::EMBED.name.to_owned(),
    };
    About::read(harbor::QUESTION, &documents, &arguments.engine, settings)
}

/// What to ask: what was given, what the user types, or the question of the house.
fn question(given: Option<&str>) -> Result<String, Failure> {
    let mut out = io::stdout().lock();
    if let Some(text) = given {
        return Ok(text.to_owned());
    }
    let mut text = String::new();
    if io::stdin().is_terminal() {
        writeln!(
            out,
            "{} is part of this program and {}.",
            bundled::STORY.name,
            bundled::STORY.about
        )?;
        write!(out, "Say something, or press Enter for {QUESTION:?}\n> ")?;
        out.flush()?;
        io::stdin().lock().read_line(&mut text).map_err(unreadable)?;
    } else {
        writeln!(out, "> {QUESTION}")?;
    }
    let text = text.trim();
    Ok(if text.is_empty() {
        QUESTION.to_owned()
    } else {
        text.to_owned()
    })
}

/// Runs the tokens of the conversation again: token by token as it was answered, then in other ways.
fn again(engine: &Engine, history: &[TokenId], cancel: &Cancel) -> Result<(Vec<Way>, Certificate), Failure> {
    let (threads, whole) = (engine.pool.threads(), history.len());
    let others = Isa::all_available().into_iter().filter(|isa| *isa != engine.isa);
    let as_answered = Way {
        isa: engine.isa.name(),
        threads,
        chunk: 1,
        batch: 1,
        split: None,
    };
    let more_threads = Way {
        threads: threads + 1,
        chunk: whole,
        ..as_answered
    };
    let other_isa = others.map(|isa| Way {
        isa: isa.name(),
        threads: 1,
        chunk: whole,
        ..as_answered
    });
    let ways: Vec<_> = [as_answered, more_threads].into_iter().chain(other_isa).collect();
    let bar = terminal::steps_bar("computing it again", ways.len() as u64);
    let certificate = certify::scan(&engine.model, history, &ways, cancel, &mut || bar.inc(1));
    bar.finish_and_clear();
    Ok((ways, certificate?))
}

fn write_table(
    out: &mut impl Write,
    engine: &Engine,
    answer: &Answer,
    ways: &[Way],
    certificate: &Certificate,
) -> io::Result<()> {
    let style = Style::of_stdout();
    writeln!(out)?;
    writeln!(out, "load         {:.0} ms", engine.load_time.as_secs_f64() * 1e3)?;
    writeln!(
        out,
        "prompt       {} tokens, {:.0} tokens/s",
        answer.prompt.len(),
        answer.prefill_tok_s()
    )?;
    writeln!(
        out,
        "answer       {} tokens, {:.0} tokens/s",
        answer.tokens.len(),
        answer.decode_tok_s()
    )?;
    writeln!(out, "threads      {}", engine.pool.threads())?;
    writeln!(out, "instructions {}", engine.isa)?;
    writeln!(
        out,
        "\nThe same answer computed again, the bits of all its logits compared:"
    )?;
    for way in ways {
        let same = if certificate.mismatches.contains(way) {
            style.red("differs")
        } else {
            style.green("same")
        };
        let pieces = if way.chunk == 1 {
            "token by token"
        } else {
            "in one piece"
        };
        let threads = terminal::counted(way.threads, "thread");
        writeln!(out, "  {:<9} {threads:<10} {pieces:<15} {same}", way.isa)?;
    }
    writeln!(out, "  blake3 {}", certificate.blake3)
}
