//! `POST /v1/chat/completions`.

use axum::body::Bytes;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use heph_providers::Picture;
use serde::Deserialize;
use serde_json::{Value, json};

use super::chunks::{CHAT, Chunks};
use super::{
    FORMAT, Guides, OneOrMany, SamplingFields, StreamOptions, chat_logprobs, finish_reason, form, guided,
    read,
};
use crate::answer::{Answer, Finish, Part};
use crate::ask::{Ask, Source, Strays, Turn, Wishes};
use crate::error::{Dialect, Refusal};
use crate::heph::streams;
use crate::house::Door;
use crate::mcp::agent;
use crate::pictures;
use crate::shape::{self, Frames, Keep, Shape};
use crate::tools::{Choice, MadeCall, Tool, Toolbox};

/// What a message may be said by.
const ROLES: [&str; 6] = ["system", "developer", "user", "assistant", "tool", "function"];

/// The field for what a model thinks before it answers, as those who have one call it: OpenAI's own API tells none.
const THOUGHT: &str = "reasoning_content";

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
    #[serde(flatten)]
    guides: Guides,
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
    tool_choice: Option<Value>,
    /// Whether there may be several calls.
    parallel_tool_calls: Option<bool>,
    /// `text`, `json_object` or `json_schema`; enforced.
    #[serde(default)]
    response_format: Option<Value>,
    /// For whom it is asked: nothing that one user asked is found again by another.
    user: Option<String>,
    /// The same, by its newer name.
    safety_identifier: Option<String>,
    /// HEPH's own wishes.
    heph: Option<Wishes>,
    #[serde(flatten)]
    #[schema(ignore)]
    strays: Strays,
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
    /// As a turn of `role`: the whole text, and what is shown with it.
    pub(crate) fn turn(self, role: &str) -> Result<Turn, Refusal> {
        let mut turn = Turn::new(role, "");
        match self {
            Self::Text(text) => turn.content = text,
            Self::Pieces(pieces) => {
                for one in &pieces {
                    match (picture(one)?, role) {
                        (None, _) => turn.content.push_str(&piece(one)?),
                        (Some(shown), "user") => turn.pictures.push(shown),
                        (Some(_), _) => {
                            let sentence =
                                format!("a message of the role {role} shows a picture; one of a user may");
                            return Err(Refusal::param("messages", sentence).code("picture"));
                        }
                    }
                }
            }
        }
        Ok(turn)
    }
}

/// A piece that shows something: chat has its address one level down, the Responses API beside its type.
fn picture(piece: &Value) -> Result<Option<Picture>, Refusal> {
    if !matches!(piece["type"].as_str(), Some("image_url" | "input_image")) {
        return Ok(None);
    }
    let shown = &piece["image_url"];
    let address = shown["url"].as_str().or(shown.as_str()).unwrap_or_default();
    pictures::of_address(address).map(Some)
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
        let content = self.content.unwrap_or(Content::Text(String::new()));
        Ok(Turn {
            calls: self.tool_calls.unwrap_or_default(),
            call_id: self.tool_call_id,
            name: self.name,
            ..content.turn(&self.role)?
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
    pub(crate) fn ask(self, headers: &HeaderMap) -> Result<Ask, Refusal> {
        let toolbox = toolbox(&self)?;
        let turns = self
            .messages
            .into_iter()
            .map(Message::turn)
            .collect::<Result<_, _>>()?;
        let mut ask = Ask::new(self.model.unwrap_or_default(), Source::Chat(turns));
        ask.choices = count("n", self.n, 1)?.map_or(1, |n| usize::try_from(n).unwrap_or(usize::MAX));
        let newer = count("max_completion_tokens", self.max_completion_tokens, 1)?;
        // Programs for llama.cpp and others write -1 for no limit.
        let older = count("max_tokens", self.max_tokens.filter(|&n| n != -1), 1)?;
        ask.max_tokens = newer.or(older);
        ask.stops = OneOrMany::list(self.stop);
        ask.form = guided(FORMAT, form(FORMAT, self.response_format.as_ref())?, self.guides)?;
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
        self.strays.check()?;
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
    if request.stream.unwrap_or(false) {
        let (answer, shape, keep) = streamed(&door, &headers, request).await?;
        return Ok(shape::stream(&door, answer, shape, keep));
    }
    let ask = request.ask(&headers)?;
    ask.tells_whole(&door)?;
    let reports = ask.logprobs.is_some();
    let mut answer = ask.submit(&door).await?;
    let mut choices: Vec<Gathered> = vec![Gathered::default(); answer.choices()];
    let words = std::sync::Arc::clone(answer.words());
    shape::whole(&mut answer, |part| match part {
        Part::Text { choice, text, said } => {
            choices[choice].text.push_str(&text);
            choices[choice].logprobs.extend(chat_logprobs(&words, &said));
        }
        Part::Thought { choice, text } => choices[choice].thought.push_str(&text),
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
    let body = CHAT.whole(&answer, list.collect(), 1);
    Ok(shape::complete(&answer, &body))
}

/// An answer that is to be told in chunks, and whether it is kept for a lost connection.
pub(crate) async fn streamed(
    door: &Door,
    headers: &HeaderMap,
    request: ChatRequest,
) -> Result<(Answer, Stream, Keep), Refusal> {
    let usage = request
        .stream_options
        .as_ref()
        .and_then(|o| o.include_usage)
        .unwrap_or(false);
    let ask = request.ask(headers)?;
    let keep = ask.wishes.keep();
    let reports = ask.logprobs.is_some();
    let answer = ask.submit(door).await?;
    let chunks = Chunks::new(CHAT, &answer, 1, usage);
    Ok((answer, Stream { chunks, reports }, keep))
}

#[derive(Debug, Clone, Default)]
struct Gathered {
    text: String,
    thought: String,
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
        if !self.thought.is_empty() {
            message[THOUGHT] = self.thought.into();
        }
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

/// What the request of a stream says of its chunks.
pub(crate) struct Ahead {
    model: String,
    usage: bool,
    reports: bool,
}

impl Ahead {
    pub(crate) fn of(body: &Value) -> Self {
        Self {
            model: body["model"].as_str().unwrap_or_default().to_owned(),
            usage: body["stream_options"]["include_usage"] == json!(true),
            reports: body["logprobs"] == json!(true),
        }
    }
}

/// The answer as chunks.
pub(crate) struct Stream {
    chunks: Chunks,
    reports: bool,
}

/// A choice that adds something.
fn adds(choice: usize, delta: &Value) -> Value {
    json!({ "index": choice, "delta": delta, "logprobs": null, "finish_reason": null })
}

/// A choice that adds nothing any more.
fn ended(choice: usize, finish: &Finish) -> Value {
    json!({ "index": choice, "delta": {}, "logprobs": null, "finish_reason": finish_reason(finish) })
}

impl Stream {
    /// The stream of an answer that no model was asked for yet; its first chunk says who will speak.
    pub(crate) fn ahead(door: &Door, said: &Ahead, out: &mut Frames) -> Self {
        let model = match said.model.as_str() {
            "" => &door.engines.served.name,
            named => named,
        };
        let stream = Self {
            chunks: Chunks::ahead(CHAT, door, model, said.usage),
            reports: said.reports,
        };
        stream.begins(1, out);
        stream
    }

    /// The first chunk of a choice says who speaks.
    fn begins(&self, choices: usize, out: &mut Frames) {
        let delta = json!({ "role": "assistant", "content": "", "refusal": null });
        for choice in 0..choices {
            self.adds(choice, &delta, out);
        }
    }

    /// What became of a tool of a server, in a chunk that adds nothing to the answer.
    pub(crate) fn tool(&self, told: &Value, out: &mut Frames) {
        let mut chunk = self.chunks.of(json!([adds(0, &json!({}))]));
        chunk["heph"] = json!({ "tool": told });
        out.data(&chunk);
    }

    /// The last chunk of an answer with tools: why it ended, its receipt, and what became of them.
    pub(crate) fn ends_with_tools(
        &mut self,
        answer: &Answer,
        finish: &Finish,
        tools: &Value,
        out: &mut Frames,
    ) {
        let mut chunk = self.chunks.of(json!([ended(0, finish)]));
        chunk["heph"] = answer.receipt().cloned().unwrap_or_else(|| json!({}));
        chunk["heph"]["tools"] = tools.clone();
        out.data(&chunk);
        self.chunks.end(answer, out);
    }

    fn adds(&self, choice: usize, delta: &Value, out: &mut Frames) {
        out.data(&self.chunks.of(json!([adds(choice, delta)])));
    }
}

impl Shape for Stream {
    const DIALECT: Dialect = Dialect::OpenAi;

    fn begin(&mut self, answer: &Answer, out: &mut Frames) {
        self.begins(answer.choices(), out);
    }

    fn part(&mut self, answer: &Answer, part: Part, out: &mut Frames) {
        match part {
            Part::Text { text, said, .. } if text.is_empty() && said.is_empty() => {}
            Part::Text { choice, text, said } if self.reports => {
                let mut one = adds(choice, &json!({ "content": text }));
                let list = chat_logprobs(answer.words(), &said);
                one["logprobs"] = json!({ "content": list, "refusal": null });
                out.data(&self.chunks.of(json!([one])));
            }
            Part::Text { choice, text, .. } => {
                let one = |text: &str| adds(choice, &json!({ "content": text }));
                self.chunks.text(choice, &text, one, out);
            }
            Part::Thought { choice, text } => self.adds(choice, &json!({ THOUGHT: text }), out),
            Part::Call {
                choice,
                call,
                id,
                name,
            } => {
                let function = json!({ "name": name, "arguments": "" });
                let delta = json!({ "index": call, "id": id, "type": "function", "function": function });
                self.adds(choice, &json!({ "tool_calls": [delta] }), out);
            }
            Part::Arguments { choice, call, text } => {
                let delta = json!({ "index": call, "function": { "arguments": text } });
                self.adds(choice, &json!({ "tool_calls": [delta] }), out);
            }
            Part::End { choice, finish } => {
                self.chunks.last(answer, ended(choice, &finish), out);
            }
        }
    }

    fn end(&mut self, answer: &Answer, out: &mut Frames) {
        self.chunks.end(answer, out);
    }
}
