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
use heph_runtime::settings::Settings;
use heph_types::TokenId;

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

use modes::Task;

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
    #[command(flatten)]
    engine: EngineArguments,
}

/// Asks, answers, computes the answer again in other ways, shows the table.
pub(crate) fn run(arguments: &Arguments, settings: &Settings) -> Result<(), Failure> {
    let question = question(arguments.prompt.as_deref())?;
    let engine = arguments.engine.load(bundled::STORY.name, None, 2, settings)?;
    let cancel = terminal::cancel_on_ctrl_c()?;
    let mut desk = Desk::new(engine.worker(), engine.words()?, cancel.clone());
    let messages = [Message::new("user", question)];
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
    let answer = streamed(&mut desk, prompt, &options, &cancel)?;
    cancel.lower();
    let history = [&answer.prompt[..], &answer.tokens].concat();
    let (ways, certificate) = again(&engine, &history, &cancel)?;
    write_table(&mut io::stdout().lock(), &engine, &answer, &ways, &certificate)?;
    if !certificate.holds() {
        return Err(Failure::new(
            Exit::No,
            "the same answer gave different bits; this is a defect of heph",
        ));
    }
    if arguments.alone {
        return Ok(());
    }
    let task = Task {
        prompt,
        options: &options,
        answer: &answer,
        cancel: &cancel,
    };
    over_nodes(arguments, settings, &task)
}

/// Answers the question again over machines of its own, which end with it.
fn over_nodes(arguments: &Arguments, settings: &Settings, task: &Task<'_>) -> Result<(), Failure> {
    let folder = nodes::folder()?;
    let settings = Settings {
        home: folder.path().join("desk"),
        models: folder.path().join("models"),
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
    writeln!(
        out,
        "\nThe same question over this machine and two nodes, {}:",
        ids.join(" and ")
    )?;
    let rows = modes::rows(&asking, &mut nodes, task, &about)?;
    modes::write(&mut out, &rows)?;
    modes::check(&rows)
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
        let threads = if way.threads == 1 {
            "1 thread".to_owned()
        } else {
            format!("{} threads", way.threads)
        };
        writeln!(out, "  {:<9} {threads:<10} {pieces:<15} {same}", way.isa)?;
    }
    writeln!(out, "  blake3 {}", certificate.blake3)
}
