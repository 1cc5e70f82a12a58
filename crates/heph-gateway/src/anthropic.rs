//! Anthropic's shapes: `POST /v1/messages` and `/v1/messages/count_tokens`.

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use heph_providers::Picture;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::answer::{Answer, Finish, Part, Usage};
use crate::ask::{Ask, Form, Source, Strays, Turn, Wishes, writer};
use crate::caller;
use crate::error::{Dialect, Refusal};
use crate::heph::streams;
use crate::house::Door;
use crate::openai::chat::count;
use crate::openai::{Guides, form, guided, read};
use crate::pictures;
use crate::sampling::Sampling;
use crate::shape::{self, Frames, Shape};
use crate::tools::{Choice, MadeCall, MadeFunction, Tool, Toolbox};

/// A request. Fields that are not listed are ignored.
#[derive(Debug, Clone, Deserialize, utoipa::ToSchema)]
pub(crate) struct MessagesRequest {
    #[serde(default)]
    model: Option<String>,
    /// The conversation: `{"role", "content"}`, content being a text or blocks.
    #[schema(value_type = Vec<Object>)]
    messages: Vec<Value>,
    /// A text or text blocks.
    #[serde(default)]
    system: Option<Value>,
    /// Tokens to make at most.
    max_tokens: Option<i64>,
    stop_sequences: Option<Vec<String>>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    top_k: Option<i64>,
    #[schema(value_type = Option<Vec<Object>>)]
    tools: Option<Vec<Value>>,
    #[serde(default)]
    tool_choice: Option<Value>,
    stream: Option<bool>,
    /// `{"type": "enabled"}` or `adaptive`: what a provider's model thinks before it answers is told, where it says it.
    #[serde(default)]
    thinking: Option<Value>,
    /// `{"user_id"}`: for whom it is asked; nothing that one user asked is found again by another.
    #[serde(default)]
    metadata: Option<Value>,
    /// `{"format": {"type": "json_schema", "schema"}}`: the answer is such a value.
    #[serde(default)]
    output_config: Option<Value>,
    /// The same format by itself, as it was called before.
    #[serde(default)]
    output_format: Option<Value>,
    #[serde(flatten)]
    guides: Guides,
    heph: Option<Wishes>,
    #[serde(flatten)]
    #[schema(ignore)]
    strays: Strays,
}

impl MessagesRequest {
    /// Whether the caller wants to know what is thought before the answer.
    fn thinks(&self) -> bool {
        let kind = self.thinking.as_ref().map(|thinking| &thinking["type"]);
        kind.is_some_and(|kind| *kind == "enabled" || *kind == "adaptive")
    }
}

/// The text of a text or of text blocks.
fn plain(content: &Value) -> Result<String, Refusal> {
    match content {
        Value::String(text) => Ok(text.clone()),
        Value::Array(blocks) => blocks
            .iter()
            .map(|block| match (block["type"].as_str(), block["text"].as_str()) {
                (Some("text"), Some(text)) => Ok(text),
                (kind, _) => {
                    let kind = kind.unwrap_or("none");
                    Err(Refusal::bad(format!(
                        "content of the type {kind} is not understood; text is"
                    )))
                }
            })
            .collect(),
        Value::Null => Ok(String::new()),
        _ => Err(Refusal::bad("content is a text or a list of blocks")),
    }
}

fn turns(request: &MessagesRequest) -> Result<Vec<Turn>, Refusal> {
    let mut turns = Vec::new();
    if let Some(system) = &request.system {
        turns.push(Turn::new("system", plain(system)?));
    }
    for message in &request.messages {
        let role = message["role"].as_str().unwrap_or_default();
        if !["user", "assistant"].contains(&role) {
            return Err(Refusal::bad(format!(
                "{role:?} is no role; user and assistant are"
            )));
        }
        match &message["content"] {
            Value::Array(blocks) => turns.extend(blocks_of(role, blocks)?),
            content @ Value::String(_) => turns.push(Turn::new(role, plain(content)?)),
            _ => return Err(Refusal::bad("a message's content is a text or a list of blocks")),
        }
    }
    Ok(turns)
}

/// A message of blocks: results of tools stand as turns of their own.
fn blocks_of(role: &str, blocks: &[Value]) -> Result<Vec<Turn>, Refusal> {
    let mut turns = Vec::new();
    let mut own = Turn::new(role, "");
    for block in blocks {
        let text = |name: &str| block[name].as_str().unwrap_or_default().to_owned();
        match block["type"].as_str() {
            Some("text") => own.content.push_str(&text("text")),
            Some("image") => own.pictures.push(picture(role, &block["source"])?),
            Some("tool_use") => {
                let function = MadeFunction {
                    name: text("name"),
                    arguments: block["input"].clone(),
                };
                own.calls.push(MadeCall {
                    id: text("id"),
                    function,
                });
            }
            Some("tool_result") => {
                let mut turn = Turn::new("tool", plain(&block["content"])?);
                turn.call_id = Some(text("tool_use_id"));
                turns.push(turn);
            }
            Some("thinking" | "redacted_thinking") => {}
            kind => {
                let kind = kind.unwrap_or("none");
                return Err(Refusal::bad(format!(
                    "a block of the type {kind} is not understood"
                )));
            }
        }
    }
    if turns.is_empty() || !own.content.is_empty() || !own.calls.is_empty() || !own.pictures.is_empty() {
        turns.push(own);
    }
    Ok(turns)
}

/// What a block shows, by its source.
fn picture(role: &str, source: &Value) -> Result<Picture, Refusal> {
    if role != "user" {
        return Err(Refusal::bad("only a message of the user shows a picture").code("picture"));
    }
    match source["type"].as_str() {
        Some("base64") => pictures::of_base64(
            source["media_type"].as_str(),
            source["data"].as_str().unwrap_or_default(),
        ),
        _ => pictures::of_address(source["url"].as_str().unwrap_or_default()),
    }
}

fn toolbox(request: &MessagesRequest) -> Result<Toolbox, Refusal> {
    let tools = request.tools.iter().flatten().map(|tool| {
        Tool::new(
            tool["name"].as_str().unwrap_or_default(),
            tool["description"].as_str(),
            tool.get("input_schema"),
        )
    });
    let wish = request.tool_choice.as_ref();
    let choice = match wish.and_then(|wish| wish["type"].as_str()) {
        None if wish.is_some_and(|wish| !wish.is_null()) => {
            return Err(Refusal::bad("tool_choice has no type"));
        }
        None => None,
        Some("auto") => Some(Choice::Auto),
        Some("any") => Some(Choice::Required),
        Some("none") => Some(Choice::None),
        Some("tool") => {
            let name = wish.and_then(|wish| wish["name"].as_str()).unwrap_or_default();
            Some(Choice::Named(name.to_owned()))
        }
        Some(other) => return Err(Refusal::bad(format!("{other:?} is no tool_choice"))),
    };
    let alone = wish
        .and_then(|wish| wish["disable_parallel_tool_use"].as_bool())
        .unwrap_or(false);
    Toolbox::new(tools.collect::<Result<_, _>>()?, choice, !alone)
}

/// What the answer must look like.
fn shape_of(request: &MessagesRequest) -> Result<Form, Refusal> {
    let newer = request.output_config.as_ref().map(|config| &config["format"]);
    let newer = form("output_config", newer)?;
    let older = form("output_format", request.output_format.as_ref())?;
    let own = match (newer, older) {
        (Form::Text, own) | (own, Form::Text) => own,
        _ => {
            let sentence = "an answer has one shape: output_config and output_format are both given";
            return Err(Refusal::param("output_format", sentence));
        }
    };
    guided("output_config", own, request.guides.clone())
}

fn ask(request: &MessagesRequest, headers: &HeaderMap) -> Result<Ask, Refusal> {
    let mut ask = Ask::new(
        request.model.clone().unwrap_or_default(),
        Source::Chat(turns(request)?),
    );
    ask.toolbox = toolbox(request)?;
    ask.form = shape_of(request)?;
    ask.max_tokens = count("max_tokens", request.max_tokens, 1)?;
    ask.stops = request.stop_sequences.clone().unwrap_or_default();
    ask.sampling = Sampling {
        temperature: request.temperature,
        top_p: request.top_p,
        top_k: request.top_k,
        ..Sampling::default()
    };
    let metadata = request.metadata.as_ref();
    ask.user = metadata.and_then(|about| about["user_id"].as_str().map(str::to_owned));
    request.strays.check()?;
    ask.wishes = request.heph.clone().unwrap_or_default().with_headers(headers)?;
    Ok(ask)
}

/// Answers a conversation.
#[utoipa::path(post, path = "/v1/messages", request_body = MessagesRequest, tag = "Anthropic",
    responses((status = 200, description = "The message, or a stream of its events")))]
pub(crate) async fn messages(
    State(door): State<Door>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Refusal> {
    if let Some(resumed) = streams::resume(&door, &headers)? {
        return Ok(resumed);
    }
    let request: MessagesRequest = read(&body)?;
    if request.max_tokens.is_none() {
        return Err(Refusal::bad("max_tokens: Field required"));
    }
    let ask = ask(&request, &headers)?;
    let keep = ask.wishes.keep();
    let mut answer = ask.submit(&door).await?;
    let mut events = Events {
        thinks: request.thinks(),
        blocks: Vec::new(),
        open: false,
        finish: None,
    };
    if request.stream.unwrap_or(false) {
        return Ok(shape::stream(&door, answer, events, keep));
    }
    let (mut parts, mut unsent) = (Vec::new(), Frames::default());
    shape::whole(&mut answer, |part| parts.push(part)).await?;
    for part in parts {
        events.part(&answer, part, &mut unsent);
        unsent.0.clear();
    }
    let usage = answer.usage(1);
    let mut message = message(&answer);
    message["content"] = events.blocks.iter().map(Block::json).collect();
    (message["stop_reason"], message["stop_sequence"]) = events.stop();
    message["usage"] = usage_of(usage);
    message["heph"] = json!(answer.receipt());
    Ok(shape::complete(&answer, &message))
}

/// Counts the tokens of a conversation.
#[utoipa::path(post, path = "/v1/messages/count_tokens", request_body = MessagesRequest, tag = "Anthropic",
    responses((status = 200, description = "How many there are")))]
pub(crate) async fn count_tokens(
    State(door): State<Door>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<Value>, Refusal> {
    let request: MessagesRequest = read(&body)?;
    let ask = ask(&request, &headers)?;
    let model = writer(&door, &ask.model).await?;
    let counted = caller::on_thread(move |cancel| ask.prompts(&model, cancel)).await??;
    Ok(Json(
        json!({ "input_tokens": counted.iter().map(Vec::len).sum::<usize>() }),
    ))
}

fn message(answer: &Answer) -> Value {
    json!({
        "id": format!("msg_{}", answer.id), "type": "message", "role": "assistant", "model": answer.model(),
        "content": [], "stop_reason": null, "stop_sequence": null,
        "usage": { "input_tokens": answer.prompt_tokens(), "output_tokens": 0 },
    })
}

/// The tokens, as Anthropic counts them: what was cached is no input.
fn usage_of(usage: Usage) -> Value {
    json!({
        "input_tokens": usage.prompt - usage.cached, "cache_read_input_tokens": usage.cached,
        "cache_creation_input_tokens": 0, "output_tokens": usage.answer,
    })
}

#[derive(Debug)]
enum Block {
    Thought(String),
    Text(String),
    Call {
        id: String,
        name: String,
        arguments: String,
    },
}

impl Block {
    fn json(&self) -> Value {
        match self {
            // Its signature is for the provider that made it, and what is sent back of it is passed over.
            Self::Thought(text) => json!({ "type": "thinking", "thinking": text, "signature": "" }),
            Self::Text(text) => json!({ "type": "text", "text": text }),
            Self::Call { id, name, arguments } => {
                let input: Value = serde_json::from_str(arguments).unwrap_or_else(|_| json!({}));
                json!({ "type": "tool_use", "id": id, "name": name, "input": input })
            }
        }
    }
}

/// The answer as events.
struct Events {
    /// Whether the caller wants to know what is thought before the answer: others take the first block for the answer.
    thinks: bool,
    blocks: Vec<Block>,
    open: bool,
    finish: Option<Finish>,
}

impl Events {
    fn stop(&self) -> (Value, Value) {
        match &self.finish {
            Some(Finish::StopText(text)) => (json!("stop_sequence"), json!(text)),
            Some(Finish::Length) => (json!("max_tokens"), Value::Null),
            Some(Finish::Calls) => (json!("tool_use"), Value::Null),
            Some(Finish::Stop) => (json!("end_turn"), Value::Null),
            None => (Value::Null, Value::Null),
        }
    }

    fn start(&mut self, block: Block, out: &mut Frames) {
        self.close(out);
        let mut shown = block.json();
        if let Block::Call { .. } = block {
            shown["input"] = json!({});
        }
        self.blocks.push(block);
        self.open = true;
        let index = self.blocks.len() - 1;
        out.event(
            "content_block_start",
            &json!({ "type": "content_block_start", "index": index, "content_block": shown }),
        );
    }

    fn close(&mut self, out: &mut Frames) {
        if std::mem::take(&mut self.open) {
            let index = self.blocks.len() - 1;
            out.event(
                "content_block_stop",
                &json!({ "type": "content_block_stop", "index": index }),
            );
        }
    }

    fn delta(&self, delta: &Value, out: &mut Frames) {
        let index = self.blocks.len().saturating_sub(1);
        out.event(
            "content_block_delta",
            &json!({ "type": "content_block_delta", "index": index, "delta": delta }),
        );
    }
}

impl Shape for Events {
    const DIALECT: Dialect = Dialect::Anthropic;

    fn begin(&mut self, answer: &Answer, out: &mut Frames) {
        out.event(
            "message_start",
            &json!({ "type": "message_start", "message": message(answer) }),
        );
        out.event("ping", &json!({ "type": "ping" }));
    }

    fn part(&mut self, _: &Answer, part: Part, out: &mut Frames) {
        match part {
            Part::Text { text, .. } if text.is_empty() => {}
            Part::Text { text, .. } => {
                if !(self.open && matches!(self.blocks.last(), Some(Block::Text(_)))) {
                    self.start(Block::Text(String::new()), out);
                }
                if let Some(Block::Text(whole)) = self.blocks.last_mut() {
                    whole.push_str(&text);
                }
                self.delta(&json!({ "type": "text_delta", "text": text }), out);
            }
            Part::Thought { .. } if !self.thinks => {}
            Part::Thought { text, .. } => {
                if !(self.open && matches!(self.blocks.last(), Some(Block::Thought(_)))) {
                    self.start(Block::Thought(String::new()), out);
                }
                if let Some(Block::Thought(whole)) = self.blocks.last_mut() {
                    whole.push_str(&text);
                }
                self.delta(&json!({ "type": "thinking_delta", "thinking": text }), out);
            }
            Part::Call { id, name, .. } => {
                let id = format!("toolu_{}", id.trim_start_matches("call_"));
                self.start(
                    Block::Call {
                        id,
                        name,
                        arguments: String::new(),
                    },
                    out,
                );
            }
            Part::Arguments { text, .. } => {
                if let Some(Block::Call { arguments, .. }) = self.blocks.last_mut() {
                    arguments.push_str(&text);
                }
                self.delta(&json!({ "type": "input_json_delta", "partial_json": text }), out);
            }
            Part::End { finish, .. } => {
                if self.blocks.is_empty() {
                    self.start(Block::Text(String::new()), out);
                }
                self.close(out);
                self.finish = Some(finish);
            }
        }
    }

    fn end(&mut self, answer: &Answer, out: &mut Frames) {
        let (reason, sequence) = self.stop();
        let usage = answer.usage(1);
        out.event(
            "message_delta",
            &json!({
                "type": "message_delta", "delta": { "stop_reason": reason, "stop_sequence": sequence },
                "usage": usage_of(usage), "heph": answer.receipt(),
            }),
        );
        out.event("message_stop", &json!({ "type": "message_stop" }));
    }

    fn broken(&mut self, refusal: &Refusal, out: &mut Frames) {
        out.event("error", &refusal.body(Dialect::Anthropic));
    }
}
