//! `POST /v1/chat/completions`.

use axum::body::Bytes;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    FINGERPRINT, OneOrMany, SamplingFields, StreamOptions, chat_logprobs, finish_reason, form, read,
};
use crate::answer::{Answer, Part};
use crate::ask::{Ask, Source, Turn, Wishes};
use crate::error::{Dialect, Refusal};
use crate::heph::streams;
use crate::house::Door;
use crate::mcp::agent;
use crate::shape::{self, Frames, Keep, Shape};
use crate::tools::{Choice, MadeCall, Tool, Toolbox};

/// What a message may be said by.
const ROLES: [&str; 6] = ["system", "developer", "user", "assistant", "tool", "function"];

/// A chat request. Fields that are not listed are ignored.
#[derive(Debug, Clone, Deserialize, utoipa::ToSchema)]
pub(crate) struct ChatRequest {
    /// A model of `/v1/models`; the served one where none is named.
    #[serde(default)]
    model: Option<String>,
    /// The conversation.
    messages: Vec<Message>,
    #[serde(flatten)]
    sampling: SamplingFields,
    /// Choices to make.
    n: Option<i64>,
    /// Tokens to make at most.
    max_tokens: Option<i64>,
    /// The same, by its newer name.
    max_completion_tokens: Option<i64>,
    /// Texts that end the answer.
    stop: Option<OneOrMany>,
    /// Whether pieces are sent as they come.
    stream: Option<bool>,
    /// What the stream tells besides.
    stream_options: Option<StreamOptions>,
    /// Whether tokens are told with their probabilities.
    logprobs: Option<bool>,
    /// How many of the likeliest.
    top_logprobs: Option<i64>,
    /// The tools on offer.
    #[schema(value_type = Option<Vec<Object>>)]
    tools: Option<Vec<Value>>,
    /// `none`, `auto`, `required`, or one tool.
    #[serde(default)]
    #[schema(value_type = Object)]
    tool_choice: Option<Value>,
    /// Whether there may be several calls.
    parallel_tool_calls: Option<bool>,
    /// `text`, `json_object` or `json_schema`; enforced.
    #[serde(default)]
    #[schema(value_type = Object)]
    response_format: Option<Value>,
    /// For whom it is asked: nothing that one user asked is found again by another.
    user: Option<String>,
    /// The same, by its newer name.
    safety_identifier: Option<String>,
    /// HEPH's own wishes.
    heph: Option<Wishes>,
}

/// One message.
#[derive(Debug, Clone, Deserialize, utoipa::ToSchema)]
pub(crate) struct Message {
    role: String,
    #[serde(default)]
    content: Option<Content>,
    #[serde(default)]
    tool_calls: Option<Vec<MadeCall>>,
    #[serde(default)]
    tool_call_id: Option<String>,
    #[serde(default)]
    name: Option<String>,
}

/// A text, or pieces of one.
#[derive(Debug, Clone, Deserialize, utoipa::ToSchema)]
#[serde(untagged)]
pub(crate) enum Content {
    /// A text.
    Text(String),
    /// Pieces.
    #[schema(value_type = Vec<Object>)]
    Pieces(Vec<Value>),
}

impl Content {
    /// The whole text.
    pub(crate) fn text(self) -> Result<String, Refusal> {
        match self {
            Self::Text(text) => Ok(text),
            Self::Pieces(pieces) => pieces.iter().map(piece).collect(),
        }
    }
}

/// One piece of a text.
fn piece(piece: &Value) -> Result<String, Refusal> {
    if let Some(text) = piece.as_str() {
        return Ok(text.to_owned());
    }
    match (
        piece["type"].as_str(),
        piece["text"].as_str(),
        piece["refusal"].as_str(),
    ) {
        (Some("text" | "input_text" | "output_text") | None, Some(text), _) => Ok(text.to_owned()),
        (Some("refusal"), _, Some(text)) => Ok(text.to_owned()),
        (Some(kind), ..) => Err(Refusal::param(
            "messages",
            format!("content of the type {kind:?} is not understood; text is"),
        )),
        (None, ..) => Err(Refusal::param("messages", "a piece of content has no type")),
    }
}

impl Message {
    fn turn(self) -> Result<Turn, Refusal> {
        if !ROLES.contains(&self.role.as_str()) {
            let known = ROLES.join(", ");
            return Err(Refusal::param(
                "messages",
                format!("{:?} is no role; known are {known}", self.role),
            ));
        }
        if self.content.is_none() && self.tool_calls.is_none() && self.role != "assistant" {
            return Err(Refusal::param(
                "messages",
                format!("a message of the role {} has no content", self.role),
            ));
        }
        Ok(Turn {
            role: self.role,
            content: self.content.map_or(Ok(String::new()), Content::text)?,
            calls: self.tool_calls.unwrap_or_default(),
            call_id: self.tool_call_id,
            name: self.name,
        })
    }
}

/// The tools and what is to be done with them, as chat writes them.
fn toolbox(request: &ChatRequest) -> Result<Toolbox, Refusal> {
    let tools = request
        .tools
        .iter()
        .flatten()
        .map(|tool| match (tool["type"].as_str(), &tool["function"]) {
            (Some("function") | None, function @ Value::Object(_)) => {
                let name = function["name"].as_str().unwrap_or_default();
                Tool::new(name, function["description"].as_str(), function.get("parameters"))
            }
            _ => Err(Refusal::param(
                "tools",
                "a tool has the type function and an object called function",
            )),
        });
    let choice = choice(request.tool_choice.as_ref())?;
    Toolbox::new(
        tools.collect::<Result<_, _>>()?,
        choice,
        request.parallel_tool_calls.unwrap_or(true),
    )
}

/// What `tool_choice` says; the Responses API names a function one level higher.
pub(crate) fn choice(choice: Option<&Value>) -> Result<Option<Choice>, Refusal> {
    let wrong = || Refusal::param("tool_choice", "it is none, auto, required, or names a function");
    match choice {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(word)) => match word.as_str() {
            "none" => Ok(Some(Choice::None)),
            "auto" => Ok(Some(Choice::Auto)),
            "required" | "any" => Ok(Some(Choice::Required)),
            _ => Err(wrong()),
        },
        Some(named) => {
            let name = named["function"]["name"]
                .as_str()
                .or_else(|| named["name"].as_str());
            name.map(|name| Some(Choice::Named(name.to_owned())))
                .ok_or_else(wrong)
        }
    }
}

/// A count that may not be below `least`.
pub(crate) fn count(name: &'static str, value: Option<i64>, least: i64) -> Result<Option<u64>, Refusal> {
    match value {
        Some(value) if value < least => Err(Refusal::param(
            name,
            format!("{name} is {value}; it must be at least {least}"),
        )),
        value => Ok(value.and_then(|v| u64::try_from(v).ok())),
    }
}

impl ChatRequest {
    fn ask(self, headers: &HeaderMap) -> Result<Ask, Refusal> {
        let toolbox = toolbox(&self)?;
        let turns = self
            .messages
            .into_iter()
            .map(Message::turn)
            .collect::<Result<_, _>>()?;
        let mut ask = Ask::new(self.model.unwrap_or_default(), Source::Chat(turns));
        ask.choices = count("n", self.n, 1)?.map_or(1, |n| usize::try_from(n).unwrap_or(usize::MAX));
        let newer = count("max_completion_tokens", self.max_completion_tokens, 1)?;
        // Some clients write -1 for no limit.
        let older = count("max_tokens", self.max_tokens.filter(|&n| n != -1), 1)?;
        ask.max_tokens = newer.or(older);
        ask.stops = OneOrMany::list(self.stop);
        ask.form = form(self.response_format.as_ref())?;
        ask.toolbox = toolbox;
        let top =
            count("top_logprobs", self.top_logprobs, 0)?.map(|n| usize::try_from(n).unwrap_or(usize::MAX));
        ask.logprobs = match (self.logprobs.unwrap_or(false), top) {
            (true, top) => Some(top.unwrap_or(0)),
            (false, Some(n)) if n > 0 => {
                return Err(Refusal::param("top_logprobs", "top_logprobs needs logprobs"));
            }
            (false, _) => None,
        };
        ask.sampling = self.sampling.into();
        ask.user = self.safety_identifier.or(self.user);
        ask.wishes = self.heph.unwrap_or_default().with_headers(headers)?;
        Ok(ask)
    }
}

/// Answers a conversation.
#[utoipa::path(post, path = "/v1/chat/completions", request_body = ChatRequest, tag = "OpenAI",
    responses((status = 200, description = "The answer, or a stream of its pieces"),
              (status = 400, description = "The request has no meaning"),
              (status = 503, description = "Too many answers are under way")))]
pub(crate) async fn completions(
    State(door): State<Door>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Refusal> {
    if let Some(resumed) = streams::resume(&door, &headers)? {
        return Ok(resumed);
    }
    if let Some(answered) = agent::answer(&door, &headers, &body).await? {
        return Ok(answered);
    }
    let request: ChatRequest = read(&body)?;
    let stream = request.stream.unwrap_or(false);
    let usage = request
        .stream_options
        .as_ref()
        .and_then(|o| o.include_usage)
        .unwrap_or(false);
    let ask = request.ask(&headers)?;
    let keep = if ask.wishes.resume.unwrap_or(false) {
        Keep::Yes
    } else {
        Keep::No
    };
    let reports = ask.logprobs.is_some();
    let mut answer = ask.submit(&door).await?;
    if stream {
        let shape = Chunks {
            usage,
            reports,
            left: answer.choices(),
            begun: vec![false; answer.choices()],
        };
        return Ok(shape::stream(&door, answer, shape, keep));
    }
    let mut choices: Vec<Gathered> = vec![Gathered::default(); answer.choices()];
    let words = std::sync::Arc::clone(answer.words());
    shape::whole(&mut answer, |part| match part {
        Part::Text { choice, text, said } => {
            choices[choice].text.push_str(&text);
            choices[choice].logprobs.extend(chat_logprobs(&words, &said));
        }
        Part::Call { choice, id, name, .. } => choices[choice].calls.push((id, name, String::new())),
        Part::Arguments { choice, text, .. } => {
            if let Some(call) = choices[choice].calls.last_mut() {
                call.2.push_str(&text);
            }
        }
        Part::End { choice, finish } => choices[choice].finish = finish_reason(&finish),
    })
    .await?;
    let list = choices
        .into_iter()
        .enumerate()
        .map(|(at, choice)| choice.json(at, reports));
    let body = json!({
        "id": format!("chatcmpl-{}", answer.id),
        "object": "chat.completion",
        "created": answer.created_s,
        "model": answer.model(),
        "system_fingerprint": FINGERPRINT,
        "choices": list.collect::<Vec<_>>(),
        "usage": usage_of(&answer, 1),
        "heph": answer.receipt(),
    });
    Ok(shape::complete(&answer, &body))
}

/// The tokens, as OpenAI counts them.
pub(crate) fn usage_of(answer: &Answer, prompts: usize) -> Value {
    let usage = answer.usage(prompts);
    json!({
        "prompt_tokens": usage.prompt, "completion_tokens": usage.answer, "total_tokens": usage.prompt + usage.answer,
        "prompt_tokens_details": { "cached_tokens": usage.cached },
    })
}

#[derive(Debug, Clone, Default)]
struct Gathered {
    text: String,
    calls: Vec<(String, String, String)>,
    logprobs: Vec<Value>,
    finish: &'static str,
}

impl Gathered {
    fn json(self, at: usize, reports: bool) -> Value {
        let calls = self.calls.iter().map(|(id, name, arguments)| {
            json!({ "id": id, "type": "function", "function": { "name": name, "arguments": arguments } })
        });
        let calls: Vec<_> = calls.collect();
        let content = if self.text.is_empty() && !calls.is_empty() {
            Value::Null
        } else {
            json!(self.text)
        };
        let mut message = json!({ "role": "assistant", "content": content, "refusal": null });
        if !calls.is_empty() {
            message["tool_calls"] = Value::Array(calls);
        }
        let logprobs = if reports {
            json!({ "content": self.logprobs, "refusal": null })
        } else {
            Value::Null
        };
        json!({ "index": at, "message": message, "logprobs": logprobs, "finish_reason": self.finish })
    }
}

/// The answer as chunks.
struct Chunks {
    usage: bool,
    reports: bool,
    left: usize,
    begun: Vec<bool>,
}

impl Chunks {
    fn chunk(&self, answer: &Answer, choices: Value) -> Value {
        let mut chunk = json!({
            "id": format!("chatcmpl-{}", answer.id),
            "object": "chat.completion.chunk",
            "created": answer.created_s,
            "model": answer.model(),
            "system_fingerprint": FINGERPRINT,
            "choices": choices,
        });
        if self.usage {
            chunk["usage"] = Value::Null;
        }
        chunk
    }

    fn delta(&self, answer: &Answer, choice: usize, delta: &Value) -> Value {
        self.chunk(
            answer,
            json!([{ "index": choice, "delta": delta, "logprobs": null, "finish_reason": null }]),
        )
    }

    /// The first chunk of a choice says who speaks.
    fn role(&mut self, answer: &Answer, choice: usize, out: &mut Frames) {
        if !std::mem::replace(&mut self.begun[choice], true) {
            out.data(&self.delta(
                answer,
                choice,
                &json!({ "role": "assistant", "content": "", "refusal": null }),
            ));
        }
    }
}

impl Shape for Chunks {
    const DIALECT: Dialect = Dialect::OpenAi;

    fn begin(&mut self, answer: &Answer, out: &mut Frames) {
        for choice in 0..answer.choices() {
            self.role(answer, choice, out);
        }
    }

    fn part(&mut self, answer: &Answer, part: Part, out: &mut Frames) {
        match part {
            Part::Text { choice, text, said } => {
                if text.is_empty() && said.is_empty() {
                    return;
                }
                let mut chunk = self.delta(answer, choice, &json!({ "content": text }));
                if self.reports {
                    let list = chat_logprobs(answer.words(), &said);
                    chunk["choices"][0]["logprobs"] = json!({ "content": list, "refusal": null });
                }
                out.data(&chunk);
            }
            Part::Call {
                choice,
                call,
                id,
                name,
            } => {
                let function = json!({ "name": name, "arguments": "" });
                let delta = json!({ "index": call, "id": id, "type": "function", "function": function });
                out.data(&self.delta(answer, choice, &json!({ "tool_calls": [delta] })));
            }
            Part::Arguments { choice, call, text } => {
                let delta = json!({ "index": call, "function": { "arguments": text } });
                out.data(&self.delta(answer, choice, &json!({ "tool_calls": [delta] })));
            }
            Part::End { choice, finish } => {
                self.left -= 1;
                let last = json!([{
                    "index": choice, "delta": {}, "logprobs": null, "finish_reason": finish_reason(&finish),
                }]);
                let mut chunk = self.chunk(answer, last);
                if self.left == 0
                    && let Some(receipt) = answer.receipt()
                {
                    chunk["heph"] = receipt.clone();
                }
                out.data(&chunk);
            }
        }
    }

    fn end(&mut self, answer: &Answer, out: &mut Frames) {
        if self.usage {
            let mut chunk = self.chunk(answer, json!([]));
            chunk["usage"] = usage_of(answer, 1);
            out.data(&chunk);
        }
        out.word("[DONE]");
    }
}
