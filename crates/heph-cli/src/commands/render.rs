//! `heph render`: conversations in, the text a model reads out.

use std::io::{self, BufRead, BufWriter, Write};

use heph_engine::chat::{ChatInput, ChatTemplate, LocalTime};
use heph_runtime::desk;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::tokenize::unreadable;
use crate::failure::{Exit, Failure};
use crate::terminal;

/// Render chat templates: JSON lines on standard input, JSON lines out.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "In:  {\"id\", \"template\", \"messages\", \"tools\", \"add_generation_prompt\", \"bos_token\", \
                        \"eos_token\", \"kwargs\", \"now\"}\nOut: {\"id\", \"text\"} or {\"id\", \"error\"}, a line for each; exit code 3 if a line was no JSON object"
)]
pub(crate) struct Arguments {}

/// One line of input.
#[derive(Debug, Deserialize)]
struct Question {
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

/// Renders line by line, so that a pipe can be kept open. A line that is none gets an error, and the next one its turn.
pub(crate) fn run(_: &Arguments) -> Result<(), Failure> {
    let mut out = BufWriter::new(io::stdout().lock());
    let (mut line, mut number, mut wrong) = (Vec::new(), 0, 0);
    let mut input = io::stdin().lock();
    while input.read_until(b'\n', &mut line).map_err(unreadable)? > 0 {
        number += 1;
        if !line.trim_ascii().is_empty() {
            let (reply, object) = reply(&line, number);
            wrong += usize::from(!object);
            serde_json::to_writer(&mut out, &reply).map_err(io::Error::from)?;
            writeln!(out)?;
            out.flush()?;
        }
        line.clear();
    }
    match wrong {
        0 => Ok(()),
        _ => {
            let lines = terminal::counted(wrong, "line");
            Err(Failure::new(Exit::Input, format!("{lines} held no JSON object")))
        }
    }
}

/// The reply to a line, and whether the line was a JSON object.
fn reply(line: &[u8], number: usize) -> (Reply, bool) {
    let asked: Map<String, Value> = match serde_json::from_slice(line) {
        Ok(asked) => asked,
        Err(error) => {
            let (id, error) = (Value::Null, format!("line {number} is no JSON object: {error}"));
            return (Reply::Error { id, error }, false);
        }
    };
    let id = asked.get("id").cloned().unwrap_or_default();
    let question: Result<Question, _> = serde_json::from_value(Value::Object(asked));
    let rendered = question
        .map_err(|error| format!("line {number} is not a question for render: {error}"))
        .and_then(|question| render(&question));
    let reply = match rendered {
        Ok(text) => Reply::Text { id, text },
        Err(error) => Reply::Error { id, error },
    };
    (reply, true)
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
