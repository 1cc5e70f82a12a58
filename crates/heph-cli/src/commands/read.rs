//! `heph read`: questions about texts of any length, part by part, on several machines at once.

use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use heph_plan::Mode;
use heph_plan::decompose::questions;
use heph_runtime::decompose::{Note, Read, Reader, Reading, Tally, read};
use heph_runtime::desk::{AnswerOptions, DeskError, Message, Prompt};
use heph_runtime::pool::by_name;
use heph_runtime::preprocess::Document;
use heph_runtime::route::Alone;
use heph_runtime::settings::Settings;
use heph_runtime::words::Words;
use heph_types::NodeId;
use serde::Serialize;

use crate::arguments::{count, has_room};
use crate::asking::{Ask, Asked, PlaceArguments, Readers, ReliefArguments};
use crate::complete;
use crate::engine::EngineArguments;
use crate::failure::{Exit, Failure};
use crate::sampling::SamplingArguments;
use crate::terminal::{self, Style};

/// Tokens of a piece where nobody says how many: long enough to be worth a prompt, short enough to be shared out.
const PIECE_TOKENS_USUAL: usize = 1024;

/// A context that leaves less than this to a piece is too small for the question.
const PIECE_TOKENS_LEAST: usize = 32;

/// Notes that are joined at a time at most.
const FAN_IN_MAX: usize = 8;

/// Tokens that a prompt may have beside those of its parts, where they meet.
const SLACK: usize = 16;

/// Longest that a machine may take for a part before another gets it, too: a machine that is lost is noticed much sooner.
const LEASE: Duration = Duration::from_secs(600);

/// Answer questions about long texts part by part, on several machines at once.
///
/// Several questions that do not need each other are answered beside each other. Each text is cut into pieces that fit,
/// each piece is read once for each question, and what was noted is joined until one answer is left. A part whose machine
/// is lost is read by another; the answer is the same whoever reads what.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The question, or several; what to do with the texts
    #[arg(value_parser = question)]
    task: String,
    /// A text file to read, or a folder of them; may be given several times. Without one the questions alone are answered
    #[arg(long = "document", alias = "documents", value_name = "PATH")]
    documents: Vec<PathBuf>,
    /// A name of `heph models list`, a GGUF file, or a Hugging Face folder
    #[arg(long, default_value = "heph-story", add = complete::model())]
    model: String,
    /// Tokens of an answer, and of what is noted of a piece, at most
    #[arg(long, default_value_t = 200, value_name = "TOKENS")]
    max_tokens: usize,
    /// Tokens of a piece at most [default: what fits, up to 1024]
    #[arg(long, value_name = "TOKENS", value_parser = count)]
    piece: Option<NonZeroUsize>,
    /// Take the instruction as one, however many questions it holds
    #[arg(long)]
    whole: bool,
    /// Print one JSON object instead of the text
    #[arg(long)]
    json: bool,
    /// Say before the answer what is read by whom, meanwhile how far it is, and afterwards who read what
    #[arg(long)]
    explain: bool,
    #[command(flatten)]
    sampling: SamplingArguments,
    #[command(flatten)]
    pub(super) place: PlaceArguments,
    #[command(flatten)]
    relief: ReliefArguments,
    #[command(flatten)]
    engine: EngineArguments,
}

/// What a script reads.
#[derive(Debug, Serialize)]
struct Report<'a> {
    text: &'a str,
    answers: Vec<Answered<'a>>,
    pieces: usize,
    parts: usize,
    tally: Tally,
    seconds: f64,
    readers: &'a [ReaderLine],
    /// What was given up for want of memory, a sentence each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    degraded: Vec<&'a str>,
}

#[derive(Debug, Serialize)]
struct Answered<'a> {
    question: &'a str,
    text: &'a str,
}

/// What a machine did of it, and what went there and back.
#[derive(Debug, Serialize)]
struct ReaderLine {
    node: NodeId,
    name: String,
    parts: usize,
    prompt_tokens: usize,
    answer_tokens: usize,
    up: u64,
    down: u64,
}

/// Reads, joins, prints.
pub(crate) fn run(arguments: &Arguments, settings: &Settings) -> Result<(), Failure> {
    if !matches!(
        arguments.place.mode,
        Asked::Auto | Asked::Mode(Mode::Local | Mode::Remote)
    ) {
        return Err(Failure::new(Exit::Usage, "parts are read by whole machines")
            .hint("--mode auto, local or remote says which"));
    }
    if let Some(name) = arguments.place.drafter() {
        let sentence = format!("--draft {name}: nothing is guessed ahead where parts are read");
        return Err(Failure::new(Exit::Usage, sentence).hint("leave --draft away"));
    }
    has_room(arguments.max_tokens)?;
    let options = AnswerOptions {
        sampling: arguments.sampling.options()?,
        max_tokens: Some(arguments.max_tokens),
        stops: Vec::new(),
    };
    let document = document(&arguments.documents)?;
    let tasks = match arguments.whole {
        true => vec![arguments.task.clone()],
        false => questions(&arguments.task),
    };
    let mut texts = vec![arguments.task.as_str()];
    texts.extend(document.as_deref());
    let ask = Ask {
        model: &arguments.model,
        engine: &arguments.engine,
        place: &arguments.place,
        relief: &arguments.relief,
        settings,
        texts: &texts,
        paths: &arguments.documents,
        receipt: false,
        goes_on: false,
    };
    let mut asked: Vec<String> = tasks.iter().cloned().chain(document.clone()).collect();
    let mut readers = ask.readers(&mut asked)?;
    arguments.sampling.check(&readers.words)?;
    let told = document.as_ref().and_then(|_| asked.pop());
    let reading = reading(arguments, &readers, asked, options)?;
    if arguments.explain {
        explain(&reading, &tasks, &readers, told.as_deref())?;
    }
    let began = Instant::now();
    let pseudonyms = readers.pseudonyms.take();
    let (mut done, lines) = carried_out(arguments, told.as_deref(), &reading, readers)?;
    if let Some(pseudonyms) = &pseudonyms {
        let answers = done.answers.iter_mut();
        answers.for_each(|answer| *answer = pseudonyms.restore(answer));
    }
    let text = joined(&tasks, &done.answers);
    let mut degraded: Vec<&str> = done
        .notes
        .iter()
        .flat_map(|n| &n.degraded)
        .map(String::as_str)
        .collect();
    degraded.dedup();
    if arguments.explain && !arguments.json {
        write_lines(&mut io::stderr().lock(), &done, &lines)?;
    }
    let mut out = io::stdout().lock();
    if !arguments.json {
        let style = Style::of_stderr();
        for given_up in degraded {
            // Where standard error is closed nobody wants to know.
            let _ = writeln!(io::stderr().lock(), "{}", style.dim(given_up));
        }
        return Ok(writeln!(out, "{text}")?);
    }
    let answered = tasks.iter().zip(&done.answers);
    let report = Report {
        text: &text,
        answers: answered
            .map(|(question, text)| Answered { question, text })
            .collect(),
        pieces: done.pieces.len(),
        parts: done.notes.len(),
        tally: done.tally,
        seconds: began.elapsed().as_secs_f64(),
        readers: &lines,
        degraded,
    };
    serde_json::to_writer(&mut out, &report).map_err(io::Error::from)?;
    Ok(writeln!(out)?)
}

/// All documents one after another, each under its name; `None` where there are none.
fn document(paths: &[PathBuf]) -> Result<Option<String>, Failure> {
    if paths.is_empty() {
        return Ok(None);
    }
    let documents = Document::read_all(paths)?;
    Ok(Some(match &documents[..] {
        [one] => one.text().to_owned(),
        several => {
            let text = |d: &Document| format!("{}:\n{}\n\n", d.name(), d.text());
            several.iter().map(text).collect()
        }
    }))
}

fn question(text: &str) -> Result<String, String> {
    match text.trim().is_empty() {
        true => Err("a question is needed, or what to do with the texts".to_owned()),
        false => Ok(text.to_owned()),
    }
}

/// How it is read: pieces and joins that fit into the context, the same whoever takes part.
fn reading(
    arguments: &Arguments,
    readers: &Readers,
    tasks: Vec<String>,
    options: AnswerOptions,
) -> Result<Reading, Failure> {
    let mut asked = 0;
    for task in &tasks {
        asked = asked.max(tokens(&readers.words, task)?);
    }
    let room = readers
        .context
        .saturating_sub(asked + arguments.max_tokens + SLACK);
    let fan_in = (room / (arguments.max_tokens + 2)).min(FAN_IN_MAX);
    if room < PIECE_TOKENS_LEAST || fan_in < 2 {
        let context = readers.context;
        let sentence =
            format!("the context of {context} tokens is too small for this question and its answers");
        return Err(Failure::new(Exit::Usage, sentence)
            .hint("a smaller --max-tokens, a shorter question or a larger --context makes room"));
    }
    if let Some(piece) = arguments.piece.filter(|piece| piece.get() > room) {
        let sentence = format!("--piece {piece}: beside this question and its answers {room} tokens fit");
        return Err(Failure::new(Exit::Usage, sentence).hint("give a smaller --piece or a larger --context"));
    }
    let piece = arguments.piece.map_or(PIECE_TOKENS_USUAL, NonZeroUsize::get);
    Ok(Reading {
        tasks,
        piece_tokens: piece.min(room),
        fan_in,
        options,
        lease: LEASE,
    })
}

/// How long a task is as the model reads it.
fn tokens(words: &Words, task: &str) -> Result<usize, DeskError> {
    let messages = [Message::new("user", task)];
    Ok(Prompt::Chat(&messages).tokens(words)?.len())
}

/// Carries the parts out, and counts what each machine did.
fn carried_out(
    arguments: &Arguments,
    document: Option<&str>,
    reading: &Reading,
    readers: Readers,
) -> Result<(Read, Vec<ReaderLine>), Failure> {
    let cancel = terminal::cancel_on_ctrl_c()?;
    let Readers {
        desks, words, meter, ..
    } = readers;
    let names: Vec<(NodeId, String)> = desks.iter().map(|d| (d.node, d.name.clone())).collect();
    let desk = |alone: Alone| -> Box<dyn Reader> { Box::new(alone.desk) };
    let desks = desks.into_iter().map(desk).collect();
    let bar = terminal::spinner();
    let mut step = |done: usize| {
        let said = match done {
            1 => "1 part is done".to_owned(),
            done => format!("{done} parts are done"),
        };
        if arguments.explain && bar.is_hidden() {
            // Where standard error is closed nobody wants to know.
            let _ = writeln!(io::stderr().lock(), "{said}");
        }
        bar.set_message(said);
    };
    let done = read(document, reading, &words, desks, &cancel, &mut step);
    bar.finish_and_clear();
    let called = |text: &str| {
        let named = names.iter().map(|(node, name)| (*node, name));
        named.fold(text.to_owned(), |text, (node, name)| by_name(&text, node, name))
    };
    let done = done.map_err(|error| Failure::from(error).worded(called))?;
    let spent = meter.settle();
    let line = |(number, (node, name)): (usize, (NodeId, String))| {
        let own: Vec<&Note> = done.notes.iter().filter(|note| note.reader == number).collect();
        let spent = spent.get(&node).copied().unwrap_or_default();
        ReaderLine {
            node,
            name,
            parts: own.len(),
            prompt_tokens: own.iter().map(|note| note.prompt_tokens).sum(),
            answer_tokens: own.iter().map(|note| note.answer_tokens).sum(),
            up: spent.up,
            down: spent.down,
        }
    };
    let lines = names.into_iter().enumerate().map(line).collect();
    Ok((done, lines))
}

/// One answer as it is; several under their questions.
fn joined(tasks: &[String], answers: &[String]) -> String {
    match answers {
        [one] => one.trim().to_owned(),
        several => {
            let part = |(task, answer): (&String, &String)| format!("{task}\n{}", answer.trim());
            let parts: Vec<String> = tasks.iter().zip(several).map(part).collect();
            parts.join("\n\n")
        }
    }
}

fn explain(reading: &Reading, tasks: &[String], readers: &Readers, document: Option<&str>) -> io::Result<()> {
    let mut out = io::stderr().lock();
    for (at, task) in tasks.iter().enumerate() {
        let name = if at == 0 { "questions" } else { "" };
        writeln!(out, "{name:<12}{}", task.replace('\n', " "))?;
    }
    if let Some(document) = document {
        let bytes = terminal::bytes(document.len() as u64);
        writeln!(
            out,
            "{:<12}{bytes} in pieces of at most {} tokens, joined {} at a time",
            "text", reading.piece_tokens, reading.fan_in
        )?;
    }
    for (at, alone) in readers.desks.iter().enumerate() {
        let name = if at == 0 { "readers" } else { "" };
        writeln!(out, "{name:<12}{}", alone.name)?;
    }
    if readers.pseudonyms.is_some() {
        writeln!(
            out,
            "{:<12}people and doors are replaced before anybody reads",
            "text"
        )?;
    }
    for (name, why) in &readers.away {
        writeln!(out, "{:<12}{name}: {why}", "away")?;
    }
    writeln!(out)
}

fn write_lines(out: &mut impl Write, done: &Read, lines: &[ReaderLine]) -> io::Result<()> {
    let Tally {
        counted,
        uncounted,
        returned,
        lost,
    } = done.tally;
    writeln!(
        out,
        "\n{:<12}{counted} of {} counted, each once ({} pieces, and what joins them); {returned} were given back, {uncounted} came too late",
        "parts",
        done.notes.len(),
        done.pieces.len()
    )?;
    for (at, line) in lines.iter().enumerate() {
        let name = if at == 0 { "read" } else { "" };
        let (up, down) = (terminal::bytes(line.up), terminal::bytes(line.down));
        let network = match (line.up, line.down) {
            (0, 0) => String::new(),
            _ => format!(", {up} up, {down} down"),
        };
        writeln!(
            out,
            "{name:<12}{}: {}, {} tokens read, {} written{network}",
            line.name,
            terminal::counted(line.parts, "part"),
            line.prompt_tokens,
            line.answer_tokens
        )?;
    }
    match lost {
        0 => Ok(()),
        lost => writeln!(out, "{:<12}{lost} machines", "lost"),
    }
}
