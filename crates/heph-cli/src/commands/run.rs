//! `heph run`: one question, one answer.

use std::io::{self, IsTerminal, Read, Write};

use heph_engine::retrieval::Citation;
use heph_runtime::cancel::Cancel;
use heph_runtime::desk::{Answer, AnswerOptions, Desk, Finish, Message, Prompt};
use heph_runtime::preprocess::{Exposure, Preprocessed};
use heph_runtime::receipt::Receipt;
use heph_runtime::settings::Settings;
use heph_runtime::words::Words;
use serde::Serialize;

use super::tokenize::unreadable;
use crate::about::{self, About, DocumentArguments};
use crate::asking::{Ask, PlaceArguments, Ready, ReliefArguments, Sizes};
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
    #[arg(long, default_value = "heph-story")]
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
    #[command(flatten)]
    documents: DocumentArguments,
    #[command(flatten)]
    sampling: SamplingArguments,
    #[command(flatten)]
    place: PlaceArguments,
    #[command(flatten)]
    relief: ReliefArguments,
    #[command(flatten)]
    engine: EngineArguments,
}

/// What a script reads.
#[derive(Debug, Serialize)]
struct Report<'a> {
    text: &'a str,
    finish: Finish,
    prompt_tokens: usize,
    answer_tokens: usize,
    load_s: f64,
    prefill_tok_s: f64,
    decode_tok_s: f64,
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
    let question = question(arguments.prompt.as_deref())?;
    let options = AnswerOptions {
        sampling: arguments.sampling.options()?,
        max_tokens: Some(arguments.max_tokens),
        stops: arguments.stops.clone(),
    };
    let cancel = terminal::cancel_on_ctrl_c()?;
    let about = about(&question, arguments, settings)?;
    let whole = about
        .as_ref()
        .map_or(question.as_str(), |about| about.whole.as_str());
    let size = |words: &Words| {
        Ok(Sizes {
            whole: tokens(words, whole, arguments)?,
            excerpts: match &about {
                Some(about) => Some(tokens(words, &about.chosen.upload.text, arguments)?),
                None => None,
            },
        })
    };
    let ask = Ask {
        model: &arguments.model,
        engine: &arguments.engine,
        place: &arguments.place,
        relief: &arguments.relief,
        settings,
    };
    let mut ready = ask.ready(options.max_tokens, size)?;
    let excerpts = about
        .as_ref()
        .filter(|_| ready.excerpts)
        .map(|about| &about.chosen);
    let asked = excerpts.map_or(whole, |chosen| chosen.upload.text.as_str());
    let messages = messages(arguments.system.as_deref(), asked);
    let prompt = prompt(asked, &messages, arguments.raw);
    let exposure = excerpts.map(Preprocessed::exposure);
    if arguments.explain {
        explain_plan(&ready)?;
    }
    if let Some(exposure) = exposure.as_ref().filter(|_| !arguments.json) {
        writeln!(io::stderr().lock(), "{exposure}\n")?;
    }
    let answer = if arguments.json {
        ready.desk.answer(prompt, &options, &mut |_| {})?
    } else {
        streamed(&mut ready.desk, prompt, &options, &cancel)?
    };
    let digest = ready
        .planned
        .as_ref()
        .map(|planned| planned.record.digest.to_string());
    let receipt = ready.planned.as_mut().map(|planned| planned.settle(&answer));
    if let Some(receipt) = receipt.as_ref().filter(|_| arguments.explain && !arguments.json) {
        let mut out = io::stderr().lock();
        writeln!(out).and_then(|()| explain::write_receipt(&mut out, receipt))?;
    }
    let citations = excerpts.map_or(&[][..], |chosen| &chosen.upload.citations);
    if arguments.json {
        write_json(&Report {
            text: &answer.text,
            finish: answer.finish,
            prompt_tokens: answer.prompt.len(),
            answer_tokens: answer.tokens.len(),
            load_s: ready.load_time.as_secs_f64(),
            prefill_tok_s: answer.prefill_tok_s(),
            decode_tok_s: answer.decode_tok_s(),
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

fn explain_plan(ready: &Ready) -> Result<(), Failure> {
    let mut out = io::stderr().lock();
    match &ready.planned {
        Some(planned) => {
            let decision = &planned.record.decision;
            explain::write_decision(&mut out, decision, Style::of_stderr(), true)?;
            explain::write_away(&mut out, planned.away())?;
        }
        None => writeln!(
            out,
            "mode        local: no other machine is known, or none is to be asked"
        )?,
    }
    Ok(writeln!(out)?)
}

fn question(given: Option<&str>) -> Result<String, Failure> {
    let from_stdin = given.is_none_or(|p| p == "-");
    if !from_stdin {
        return Ok(given.unwrap_or_default().to_owned());
    }
    if io::stdin().is_terminal() {
        return Err(Failure::new(Exit::Usage, "there is no question")
            .hint("heph run \"why is the sky blue?\", or `heph chat` to talk"));
    }
    let mut text = String::new();
    io::stdin().lock().read_to_string(&mut text).map_err(unreadable)?;
    Ok(text)
}

fn messages(system: Option<&str>, question: &str) -> Vec<Message> {
    let system = system.map(|text| Message::new("system", text));
    system
        .into_iter()
        .chain([Message::new("user", question)])
        .collect()
}

/// Answers on standard output, word by word. Stops the answer when nobody reads any more.
pub(crate) fn streamed(
    desk: &mut Desk,
    prompt: Prompt<'_>,
    options: &AnswerOptions,
    cancel: &Cancel,
) -> Result<Answer, Failure> {
    let mut out = io::stdout().lock();
    let (mut written, mut begun) = (Ok(()), false);
    let mut write = |text: &str| {
        begun = true;
        if written.is_ok() {
            written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
            if written.is_err() {
                cancel.raise();
            }
        }
    };
    let answer = desk.answer(prompt, options, &mut write);
    written?;
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

fn write_json(report: &Report<'_>) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, report).map_err(io::Error::from)?;
    Ok(writeln!(out)?)
}
