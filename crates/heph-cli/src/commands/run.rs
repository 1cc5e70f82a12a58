//! `heph run`: one question, one answer.

use std::io::{self, IsTerminal, Read, Write};

use heph_runtime::cancel::Cancel;
use heph_runtime::desk::{Answer, AnswerOptions, Desk, Finish, Message, Prompt};
use heph_runtime::settings::Settings;
use serde::Serialize;

use super::tokenize::unreadable;
use crate::engine::EngineArguments;
use crate::failure::{Exit, Failure};
use crate::sampling::SamplingArguments;
use crate::terminal;

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
    #[command(flatten)]
    sampling: SamplingArguments,
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
}

/// Loads, answers, prints.
pub(crate) fn run(arguments: &Arguments, settings: &Settings) -> Result<(), Failure> {
    let question = question(arguments.prompt.as_deref())?;
    let options = AnswerOptions {
        sampling: arguments.sampling.options()?,
        max_tokens: Some(arguments.max_tokens),
        stops: arguments.stops.clone(),
    };
    let engine = arguments.engine.load(&arguments.model, None, 1, settings)?;
    let cancel = terminal::cancel_on_ctrl_c()?;
    let mut desk = Desk::new(engine.worker(), engine.words()?, cancel.clone());
    let messages = messages(arguments.system.as_deref(), &question);
    let prompt = if arguments.raw {
        Prompt::Text(&question)
    } else {
        Prompt::Chat(&messages)
    };
    let answer = if arguments.json {
        desk.answer(prompt, &options, &mut |_| {})?
    } else {
        streamed(&mut desk, prompt, &options, &cancel)?
    };
    if arguments.json {
        write_json(&answer, engine.load_time.as_secs_f64())?;
    }
    if answer.finish == Finish::Cancelled {
        Err(Failure::Stopped)
    } else {
        Ok(())
    }
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
    Ok(answer?)
}

fn write_json(answer: &Answer, load_s: f64) -> Result<(), Failure> {
    let report = Report {
        text: &answer.text,
        finish: answer.finish,
        prompt_tokens: answer.prompt.len(),
        answer_tokens: answer.tokens.len(),
        load_s,
        prefill_tok_s: answer.prefill_tok_s(),
        decode_tok_s: answer.decode_tok_s(),
    };
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, &report).map_err(io::Error::from)?;
    Ok(writeln!(out)?)
}
