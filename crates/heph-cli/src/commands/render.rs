//! `heph render`: conversations in, the text a model reads out.

use std::io::{self, BufRead, BufWriter, Write};

use heph_engine::chat::{ChatInput, ChatTemplate, LocalTime};
use heph_runtime::desk;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::tokenize::unreadable;
use crate::failure::{Exit, Failure};

/// Render chat templates: JSON lines on standard input, JSON lines out.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "In:  {\"id\", \"template\", \"messages\", \"tools\", \"add_generation_prompt\", \"bos_token\", \
                        \"eos_token\", \"kwargs\", \"now\"}\nOut: {\"id\", \"text\"} or {\"id\", \"error\"}"
)]
pub(crate) struct Arguments {}

/// One line of input.
#[derive(Debug, Deserialize)]
struct Question {
    #[serde(default)]
    id: Value,
    template: String,
    messages: Value,
    tools: Option<Value>,
    #[serde(default)]
    add_generation_prompt: bool,
    bos_token: Option<String>,
    eos_token: Option<String>,
    kwargs: Option<Map<String, Value>>,
    now: Option<String>,
}

/// One line of output.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Reply {
    Text { id: Value, text: String },
    Error { id: Value, error: String },
}

/// Renders line by line, so that a pipe can be kept open.
pub(crate) fn run(_: &Arguments) -> Result<(), Failure> {
    let mut out = BufWriter::new(io::stdout().lock());
    for (number, line) in io::stdin().lock().lines().enumerate() {
        let line = line.map_err(unreadable)?;
        if line.trim().is_empty() {
            continue;
        }
        let question: Question = serde_json::from_str(&line).map_err(|e| {
            Failure::new(
                Exit::Input,
                format!("line {} is not a question for render: {e}", number + 1),
            )
        })?;
        serde_json::to_writer(&mut out, &reply(question)).map_err(io::Error::from)?;
        writeln!(out)?;
        out.flush()?;
    }
    Ok(())
}

fn reply(question: Question) -> Reply {
    match render(&question) {
        Ok(text) => Reply::Text {
            id: question.id,
            text,
        },
        Err(error) => Reply::Error {
            id: question.id,
            error,
        },
    }
}

fn render(question: &Question) -> Result<String, String> {
    let now = match &question.now {
        Some(text) => LocalTime::parse(text).ok_or_else(|| format!("{text:?} is no time"))?,
        None => desk::now(),
    };
    let template = ChatTemplate::new(&question.template).map_err(|e| e.to_string())?;
    let none = Map::new();
    let input = ChatInput {
        messages: &question.messages,
        tools: question.tools.as_ref().filter(|t| !t.is_null()),
        add_generation_prompt: question.add_generation_prompt,
        bos_token: question.bos_token.as_deref().unwrap_or_default(),
        eos_token: question.eos_token.as_deref().unwrap_or_default(),
        kwargs: question.kwargs.as_ref().unwrap_or(&none),
        now,
    };
    template.render(&input).map_err(|e| e.to_string())
}
