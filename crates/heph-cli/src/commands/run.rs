//! `heph run`: one question, one answer.

mod shaped;

use std::borrow::Cow;
use std::fs;
use std::io::{self, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use heph_engine::retrieval::Citation;
use heph_plan::Mode;
use heph_privacy::pseudonym::{Pseudonyms, Restorer};
use heph_runtime::cancel::Cancel;
use heph_runtime::desk::{Answer, AnswerOptions, Desk, Finish, Message, Prompt};
use heph_runtime::preprocess::{Exposure, Preprocessed};
use heph_runtime::receipt::Receipt;
use heph_runtime::settings::Settings;
use heph_runtime::words::Words;
use serde::Serialize;

use self::shaped::ShapeArguments;
use super::tokenize::unreadable;
use crate::about::{self, About, DocumentArguments};
use crate::arguments::has_room;
use crate::asking::{Ask, Asked, PlaceArguments, Planned, Ready, ReliefArguments, Sizes};
use crate::complete;
use crate::engine::EngineArguments;
use crate::explain;
use crate::failure::{Exit, Failure};
use crate::sampling::SamplingArguments;
use crate::terminal::{self, Style};

/// Answer one question.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The question; standard input if there is none
    prompt: Option<String>,
    /// A name of `heph models list`, a GGUF file, or a Hugging Face folder
    #[arg(long, default_value = "heph-story", add = complete::model())]
    model: String,
    /// A system message
    #[arg(long, conflicts_with = "raw")]
    system: Option<String>,
    /// Go on with the text as it is, without the model's chat template
    #[arg(long)]
    raw: bool,
    /// Tokens to make at most
    #[arg(long, default_value_t = 512, value_name = "TOKENS")]
    max_tokens: usize,
    /// A text that ends the answer; may be given several times
    #[arg(long = "stop", value_name = "TEXT")]
    stops: Vec<String>,
    /// Print one JSON object instead of the text
    #[arg(long)]
    json: bool,
    /// Say before the answer where it is computed and why, and after it what became of that
    #[arg(long)]
    explain: bool,
    /// Write the receipt to this file, signed by this machine: `heph receipt verify FILE` reads it
    #[arg(long, value_name = "FILE")]
    pub(crate) receipt: Option<PathBuf>,
    #[command(flatten)]
    shape: ShapeArguments,
    #[command(flatten)]
    documents: DocumentArguments,
    #[command(flatten)]
    sampling: SamplingArguments,
    #[command(flatten)]
    pub(super) place: PlaceArguments,
    #[command(flatten)]
    relief: ReliefArguments,
    #[command(flatten)]
    engine: EngineArguments,
}

impl Arguments {
    /// Whether an answer can be given as it is asked for.
    fn check(&self) -> Result<(), Failure> {
        has_room(self.max_tokens)?;
        let preprocess = self.place.mode.by_name() == Some(Mode::Preprocess);
        if preprocess && self.documents.documents.is_empty() {
            return Err(Failure::new(
                Exit::Usage,
                "--mode preprocess sends excerpts of documents, and none is named",
            )
            .hint("--document PATH names a file or a folder; without one, ask for --mode remote"));
        }
        Ok(())
    }
}

/// What a script reads.
#[derive(Debug, Serialize)]
struct Report<'a> {
    text: &'a str,
    finish: Finish,
    prompt_tokens: usize,
    answer_tokens: usize,
    load_s: f64,
    /// Nothing where nothing was computed.
    prefill_tok_s: Option<f64>,
    decode_tok_s: Option<f64>,
    /// Where it was planned: what became of the plan.
    #[serde(skip_serializing_if = "Option::is_none")]
    receipt: Option<Receipt>,
    /// Of what it was planned from.
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
    /// What the excerpts of documents show, where they were asked about and not all of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    exposure: Option<Exposure>,
    /// Where each of these excerpts stands.
    #[serde(skip_serializing_if = "<[Citation]>::is_empty")]
    citations: &'a [Citation],
    /// What was given up for want of memory, a sentence each.
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    degraded: &'a [String],
}

/// Loads, answers, prints.
pub(crate) fn run(arguments: &Arguments, settings: &Settings) -> Result<(), Failure> {
    arguments.check()?;
    let question = question(arguments.prompt.as_deref())?;
    let mut options = AnswerOptions {
        sampling: arguments.sampling.options()?,
        max_tokens: Some(arguments.max_tokens),
        stops: arguments.stops.clone(),
    };
    let cancel = terminal::cancel_on_ctrl_c()?;
    if arguments.shape.any() {
        return shaped::run(&question, arguments, &options, &cancel, settings);
    }
    let mut about = about(&question, arguments, settings)?;
    let whole = about
        .as_ref()
        .map_or_else(|| question.clone(), |about| about.whole.clone());
    let whole = whole.as_str();
    let size = |words: &Words, context: usize| {
        arguments.sampling.check(words)?;
        let count = |text: &str| tokens(words, text, arguments);
        let excerpts = match &mut about {
            Some(about) => {
                about.fit(&question, about::room(context, arguments.max_tokens), &count)?;
                Some(count(&about.chosen.upload.text)?)
            }
            None => None,
        };
        let whole = count(whole)?;
        Ok(Sizes { whole, excerpts })
    };
    let ask = Ask {
        model: &arguments.model,
        engine: &arguments.engine,
        place: &arguments.place,
        relief: &arguments.relief,
        settings,
        texts: &[arguments.system.as_deref().unwrap_or_default(), whole],
        paths: &arguments.documents.documents,
        receipt: arguments.receipt.is_some(),
        goes_on: false,
    };
    let mut ready = ask.ready(options.max_tokens, size)?;
    let excerpts = about
        .as_ref()
        .filter(|_| ready.excerpts)
        .map(|about| &about.chosen);
    let asked = excerpts.map_or(whole, |chosen| chosen.upload.text.as_str());
    let mut texts = vec![arguments.system.clone().unwrap_or_default(), asked.to_owned()];
    texts.append(&mut options.stops);
    ready.replace(&mut texts)?;
    options.stops = texts.split_off(2);
    let (system, asked) = (texts[0].as_str(), texts[1].as_str());
    let messages = messages(arguments.system.as_ref().map(|_| system), asked);
    let prompt = prompt(asked, &messages, arguments.raw);
    let exposure = excerpts.map(Preprocessed::exposure);
    if arguments.explain {
        explain_plan(&ready, arguments.place.mode)?;
    }
    if let Some(exposure) = exposure.as_ref().filter(|_| !arguments.json) {
        let told = match ready.leaves() {
            true => exposure.to_string(),
            false => exposure.kept_here(),
        };
        writeln!(io::stderr().lock(), "{}\n", terminal::plain(&told))?;
    }
    let answer = if arguments.json {
        let answer = ready.desk.answer(prompt, &options, &mut |_| {});
        answer.map_err(Failure::from)
    } else {
        let pseudonyms = ready.planned.as_ref().and_then(Planned::pseudonyms);
        streamed(&mut ready.desk, prompt, &options, &cancel, pseudonyms)
    };
    let mut answer = answer.map_err(|failure| ready.named(failure))?;
    ready.restore(&mut answer.text);
    let digest = ready
        .planned
        .as_ref()
        .map(|planned| planned.record.digest.to_string());
    let mut receipt = ready.planned.as_mut().map(|planned| planned.settle(&answer));
    if let (Some(path), Some(receipt)) = (&arguments.receipt, &mut receipt) {
        receipt.vouched = ready.desk.vouched();
        write_receipt(path, receipt, settings)?;
    }
    if arguments.explain && !arguments.json {
        let mut out = io::stderr().lock();
        writeln!(out)?;
        match &receipt {
            Some(receipt) => explain::write_receipt(&mut out, receipt)?,
            None => explain::write_here(&mut out, &answer)?,
        }
    }
    let planned = ready.planned.as_ref().zip(receipt.as_ref());
    let unlike = planned
        .filter(|_| !arguments.json)
        .and_then(|(planned, receipt)| planned.mode_lost(receipt).or_else(|| planned.unguessed(receipt)));
    if let Some(sentence) = unlike {
        terminal::note(&sentence);
    }
    let citations = excerpts.map_or(&[][..], |chosen| &chosen.upload.citations);
    if arguments.json {
        write_json(&Report {
            text: &answer.text,
            finish: answer.finish,
            prompt_tokens: answer.prompt.len(),
            answer_tokens: answer.tokens.len(),
            load_s: ready.load_time.as_secs_f64(),
            prefill_tok_s: (!answer.tokens.is_empty()).then(|| answer.prefill_tok_s()),
            decode_tok_s: (answer.tokens.len() > 1).then(|| answer.decode_tok_s()),
            receipt,
            digest,
            exposure,
            citations,
            degraded: &answer.degraded,
        })?;
    } else if let Some(about) = &about {
        let style = Style::of_stderr();
        for line in about::cited(citations, about.library.documents()) {
            writeln!(io::stderr().lock(), "{}", style.dim(&line))?;
        }
    }
    if answer.finish == Finish::Cancelled {
        Err(Failure::Stopped)
    } else {
        Ok(())
    }
}

/// Writes the receipt as text that this machine signed, with what others signed that they computed.
fn write_receipt(path: &Path, receipt: &Receipt, settings: &Settings) -> Result<(), Failure> {
    // A receipt has a name of its own: the moment and the process make it.
    let id = format!("{} {:?}", std::process::id(), SystemTime::now());
    let signed = receipt
        .signed_below(&id, &settings.home)
        .map_err(|error| Failure::new(Exit::No, format!("the receipt cannot be signed: {error}")))?;
    fs::write(path, signed).map_err(|error| {
        Failure::new(
            Exit::Input,
            format!("cannot write the receipt {}: {error}", path.display()),
        )
    })
}

/// The documents that the question is about, if it is about any.
fn about(question: &str, arguments: &Arguments, settings: &Settings) -> Result<Option<About>, Failure> {
    if arguments.documents.documents.is_empty() {
        return Ok(None);
    }
    About::read(question, &arguments.documents, &arguments.engine, settings).map(Some)
}

fn prompt<'a>(text: &'a str, messages: &'a [Message], raw: bool) -> Prompt<'a> {
    if raw {
        Prompt::Text(text)
    } else {
        Prompt::Chat(messages)
    }
}

/// How long `text` is as the model reads it.
fn tokens(words: &Words, text: &str, arguments: &Arguments) -> Result<usize, Failure> {
    let messages = messages(arguments.system.as_deref(), text);
    Ok(prompt(text, &messages, arguments.raw).tokens(words)?.len())
}

fn explain_plan(ready: &Ready, asked: Asked) -> Result<(), Failure> {
    let mut out = io::stderr().lock();
    match &ready.planned {
        Some(planned) => {
            let decision = &planned.record.decision;
            explain::write_decision(&mut out, decision, Style::of_stderr(), true)?;
            explain::write_away(&mut out, planned.away())?;
        }
        None if asked == Asked::Mode(Mode::Local) => writeln!(out, "mode        local, as was asked")?,
        None => writeln!(out, "mode        local: no other machine is known")?,
    }
    Ok(writeln!(out)?)
}

fn question(given: Option<&str>) -> Result<String, Failure> {
    let none = |sentence: &str| {
        let failure = Failure::new(Exit::Usage, sentence);
        failure.hint("heph run \"why is the sky blue?\", or `heph chat` to talk")
    };
    let text = match given.filter(|given| *given != "-") {
        Some(given) => given.to_owned(),
        None if io::stdin().is_terminal() => return Err(none("there is no question")),
        None => {
            let mut text = String::new();
            io::stdin().lock().read_to_string(&mut text).map_err(unreadable)?;
            text
        }
    };
    match text.trim().is_empty() {
        true => Err(none("the question is empty")),
        false => Ok(text),
    }
}

fn messages(system: Option<&str>, question: &str) -> Vec<Message> {
    let system = system.map(|text| Message::new("system", text));
    system
        .into_iter()
        .chain([Message::new("user", question)])
        .collect()
}

/// Answers on standard output, word by word, with pseudonyms turned back. Stops the answer when nobody reads any more.
pub(crate) fn streamed(
    desk: &mut Desk,
    prompt: Prompt<'_>,
    options: &AnswerOptions,
    cancel: &Cancel,
    pseudonyms: Option<&Pseudonyms>,
) -> Result<Answer, Failure> {
    let mut out = io::stdout().lock();
    let watched = out.is_terminal();
    let (mut written, mut begun) = (Ok(()), false);
    let mut restorer = pseudonyms.map(Restorer::new);
    let mut write = |text: &str| {
        begun = true;
        let restored = restorer.as_mut().map(|restorer| restorer.push(text));
        let text = restored.as_deref().unwrap_or(text);
        if written.is_ok() {
            written = out
                .write_all(shown(text, watched).as_bytes())
                .and_then(|()| out.flush());
            if written.is_err() {
                cancel.raise();
            }
        }
    };
    let answer = desk.answer(prompt, options, &mut write);
    written?;
    if let Some(restorer) = &mut restorer {
        out.write_all(shown(&restorer.finish(), watched).as_bytes())?;
    }
    if begun {
        writeln!(out)?;
    }
    let answer = answer?;
    let style = Style::of_stderr();
    for given_up in &answer.degraded {
        // Where standard error is closed nobody wants to know.
        let _ = writeln!(io::stderr().lock(), "{}", style.dim(given_up));
    }
    Ok(answer)
}

/// What a model writes steers no terminal that is watched; a file or a pipe gets its bytes.
fn shown(text: &str, watched: bool) -> Cow<'_, str> {
    match watched {
        true => terminal::plain(text),
        false => Cow::Borrowed(text),
    }
}

fn write_json(report: &Report<'_>) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, report).map_err(io::Error::from)?;
    Ok(writeln!(out)?)
}
