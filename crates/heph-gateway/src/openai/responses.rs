//! `POST /v1/responses`. Nothing is stored: a conversation is sent whole each time.

use axum::body::Bytes;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Value, json};

use super::chat::{Content, choice, count};
use super::{Guides, form, guided, read};
use crate::answer::{Answer, Finish, Part};
use crate::ask::{Ask, Source, Strays, Turn, Wishes};
use crate::error::{Dialect, Refusal};
use crate::heph::streams;
use crate::house::Door;
use crate::sampling::Sampling;
use crate::shape::{self, Frames, Shape};
use crate::tools::{MadeCall, MadeFunction, Tool, Toolbox};

/// A request of the Responses API. Fields that are not listed are ignored.
#[derive(Debug, Clone, Deserialize, utoipa::ToSchema)]
pub(crate) struct ResponsesRequest {
    #[serde(default)]
    model: Option<String>,
    /// A text, or items.
    input: Value,
    instructions: Option<String>,
    max_output_tokens: Option<i64>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    #[schema(value_type = Option<Vec<Object>>)]
    tools: Option<Vec<Value>>,
    #[serde(default)]
    tool_choice: Option<Value>,
    parallel_tool_calls: Option<bool>,
    /// `{"format": …}`, as `response_format` of chat.
    #[serde(default)]
    text: Option<Value>,
    stream: Option<bool>,
    previous_response_id: Option<String>,
    #[serde(default)]
    metadata: Option<Value>,
    /// For whom it is asked, as in chat.
    user: Option<String>,
    /// The same, by its newer name.
    safety_identifier: Option<String>,
    #[serde(flatten)]
    guides: Guides,
    heph: Option<Wishes>,
    #[serde(flatten)]
    #[schema(ignore)]
    strays: Strays,
}

fn turns(request: &ResponsesRequest) -> Result<Vec<Turn>, Refusal> {
    let mut turns: Vec<Turn> = request
        .instructions
        .iter()
        .map(|text| Turn::new("system", text))
        .collect();
    match &request.input {
        Value::String(text) => turns.push(Turn::new("user", text)),
        Value::Array(items) => {
            for item in items {
                turns.extend(turn(item)?);
            }
        }
        _ => return Err(Refusal::param("input", "input is a text or a list of items")),
    }
    if turns.is_empty() {
        return Err(Refusal::param("input", "input is empty"));
    }
    Ok(turns)
}

/// One item as a turn; items of reasoning say nothing to a model that cannot read them.
fn turn(item: &Value) -> Result<Option<Turn>, Refusal> {
    let text = |name: &str| item[name].as_str().unwrap_or_default().to_owned();
    match item["type"].as_str().unwrap_or("message") {
        "message" => {
            let role = item["role"].as_str().unwrap_or_default();
            if !["system", "developer", "user", "assistant"].contains(&role) {
                return Err(Refusal::param(
                    "input",
                    format!("{role:?} is no role of an input message"),
                ));
            }
            let content: Content = serde_json::from_value(item["content"].clone())
                .map_err(|_| Refusal::param("input", "a message's content is a text or a list of pieces"))?;
            content.turn(role).map(Some)
        }
        "function_call" => {
            let mut turn = Turn::new("assistant", "");
            let function = MadeFunction {
                name: text("name"),
                arguments: item["arguments"].clone(),
            };
            turn.calls.push(MadeCall {
                id: text("call_id"),
                function,
            });
            Ok(Some(turn))
        }
        "function_call_output" => {
            let output = match &item["output"] {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            let mut turn = Turn::new("tool", output);
            turn.call_id = Some(text("call_id"));
            Ok(Some(turn))
        }
        "reasoning" => Ok(None),
        other => Err(Refusal::param(
            "input",
            format!("an item of the type {other:?} is not understood"),
        )),
    }
}

fn toolbox(request: &ResponsesRequest) -> Result<Toolbox, Refusal> {
    let tools = request
        .tools
        .iter()
        .flatten()
        .map(|tool| match tool["type"].as_str() {
            Some("function") => {
                let name = tool["name"].as_str().unwrap_or_default();
                Tool::new(name, tool["description"].as_str(), tool.get("parameters"))
            }
            other => {
                let kind = other.unwrap_or("none");
                Err(Refusal::param(
                    "tools",
                    format!("tools of the type {kind} are not had here; function is"),
                ))
            }
        });
    let choice = choice(request.tool_choice.as_ref())?;
    Toolbox::new(
        tools.collect::<Result<_, _>>()?,
        choice,
        request.parallel_tool_calls.unwrap_or(true),
    )
}

/// Answers an input.
#[utoipa::path(post, path = "/v1/responses", request_body = ResponsesRequest, tag = "OpenAI",
    responses((status = 200, description = "The response, or a stream of its events")))]
pub(crate) async fn create(
    State(door): State<Door>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Refusal> {
    if let Some(resumed) = streams::resume(&door, &headers)? {
        return Ok(resumed);
    }
    let request: ResponsesRequest = read(&body)?;
    if request.previous_response_id.is_some() {
        let sentence = "responses are not stored here: send the whole conversation as input";
        return Err(Refusal::param("previous_response_id", sentence).code("previous_response_not_found"));
    }
    let mut ask = Ask::new(
        request.model.clone().unwrap_or_default(),
        Source::Chat(turns(&request)?),
    );
    ask.toolbox = toolbox(&request)?;
    ask.max_tokens = count("max_output_tokens", request.max_output_tokens, 1)?;
    let own = form("text", request.text.as_ref().map(|text| &text["format"]))?;
    ask.form = guided("text", own, request.guides.clone())?;
    ask.sampling = Sampling {
        temperature: request.temperature,
        top_p: request.top_p,
        ..Sampling::default()
    };
    ask.user = request.safety_identifier.clone().or(request.user.clone());
    request.strays.check()?;
    ask.wishes = request.heph.clone().unwrap_or_default().with_headers(&headers)?;
    let keep = ask.wishes.keep();
    let mut answer = ask.submit(&door).await?;
    let mut events = Events {
        fixed: fixed(&request),
        number: 0,
        items: Vec::new(),
        finish: None,
    };
    if request.stream.unwrap_or(false) {
        return Ok(shape::stream(&door, answer, events, keep));
    }
    let mut unsent = Frames::default();
    let mut parts = Vec::new();
    shape::whole(&mut answer, |part| parts.push(part)).await?;
    for part in parts {
        events.part(&answer, part, &mut unsent);
        unsent.0.clear();
    }
    let body = events.response(&answer, events.status());
    Ok(shape::complete(&answer, &body))
}

/// What is said back of the request.
fn fixed(request: &ResponsesRequest) -> Value {
    json!({
        "instructions": request.instructions,
        "max_output_tokens": request.max_output_tokens,
        "parallel_tool_calls": request.parallel_tool_calls.unwrap_or(true),
        "previous_response_id": null,
        "reasoning": { "effort": null, "summary": null },
        "store": false,
        "temperature": request.temperature.unwrap_or(1.0),
        "text": request.text.clone().unwrap_or_else(|| json!({ "format": { "type": "text" } })),
        "tool_choice": request.tool_choice.clone().unwrap_or_else(|| json!("auto")),
        "tools": request.tools.clone().unwrap_or_default(),
        "top_p": request.top_p.unwrap_or(1.0),
        "truncation": "disabled",
        "metadata": request.metadata.clone().unwrap_or_else(|| json!({})),
        "user": null,
    })
}

#[derive(Debug)]
enum Item {
    Thought(String),
    Text(String),
    Call {
        id: String,
        name: String,
        arguments: String,
    },
}

/// The answer as events.
struct Events {
    fixed: Value,
    number: usize,
    items: Vec<(Item, bool)>,
    finish: Option<Finish>,
}

impl Events {
    fn status(&self) -> &'static str {
        match self.finish {
            None => "in_progress",
            Some(Finish::Length) => "incomplete",
            Some(_) => "completed",
        }
    }

    fn response(&self, answer: &Answer, status: &str) -> Value {
        let over = status == "completed" || status == "incomplete";
        let usage = answer.usage(1);
        let mut response = self.fixed.clone();
        let output: Vec<_> = (0..self.items.len()).map(|at| self.item(answer, at)).collect();
        let own = json!({
            "id": format!("resp_{}", answer.id),
            "object": "response",
            "created_at": answer.created_s,
            "status": status,
            "background": false,
            "error": null,
            "incomplete_details": if status == "incomplete" { json!({ "reason": "max_output_tokens" }) } else { Value::Null },
            "model": answer.model(),
            "output": if over { json!(output) } else { json!([]) },
            "usage": if over { json!({
                "input_tokens": usage.prompt, "input_tokens_details": { "cached_tokens": usage.cached },
                "output_tokens": usage.answer, "output_tokens_details": { "reasoning_tokens": 0 },
                "total_tokens": usage.prompt + usage.answer,
            }) } else { Value::Null },
            "heph": answer.receipt(),
        });
        if let (Some(all), Value::Object(own)) = (response.as_object_mut(), own) {
            all.extend(own);
        }
        response
    }

    fn item(&self, answer: &Answer, at: usize) -> Value {
        let (item, done) = &self.items[at];
        let status = match (done, &self.finish) {
            (false, None) => "in_progress",
            (_, Some(Finish::Length)) if at + 1 == self.items.len() => "incomplete",
            _ => "completed",
        };
        match item {
            Item::Thought(text) => json!({
                "id": format!("rs_{}_{at}", answer.id), "type": "reasoning", "status": status, "summary": [],
                "content": [thought_piece(text)],
            }),
            Item::Text(text) => json!({
                "id": format!("msg_{}_{at}", answer.id), "type": "message", "status": status, "role": "assistant",
                "content": [text_piece(text)],
            }),
            Item::Call { id, name, arguments } => json!({
                "id": format!("fc_{}_{at}", answer.id), "type": "function_call", "status": status, "call_id": id,
                "name": name, "arguments": arguments,
            }),
        }
    }

    fn say(&mut self, out: &mut Frames, kind: &str, mut event: Value) {
        event["type"] = json!(kind);
        event["sequence_number"] = json!(self.number);
        self.number += 1;
        out.event(kind, &event);
    }

    fn open(&mut self, answer: &Answer, item: Item, out: &mut Frames) {
        self.close(answer, out);
        let piece = match &item {
            Item::Thought(_) => Some(thought_piece("")),
            Item::Text(_) => Some(text_piece("")),
            Item::Call { .. } => None,
        };
        self.items.push((item, false));
        let at = self.items.len() - 1;
        let mut added = self.item(answer, at);
        if piece.is_some() {
            added["content"] = json!([]);
        }
        let id = added["id"].clone();
        self.say(
            out,
            "response.output_item.added",
            json!({ "output_index": at, "item": added }),
        );
        if let Some(piece) = piece {
            let event = json!({ "item_id": id, "output_index": at, "content_index": 0, "part": piece });
            self.say(out, "response.content_part.added", event);
        }
    }

    /// Ends the item under way.
    fn close(&mut self, answer: &Answer, out: &mut Frames) {
        let Some((item, done)) = self.items.last_mut().filter(|(_, done)| !done) else {
            return;
        };
        *done = true;
        let said = match item {
            Item::Thought(text) => Ok((text.clone(), thought_piece(text))),
            Item::Text(text) => Ok((text.clone(), text_piece(text))),
            Item::Call { arguments, .. } => Err(arguments.clone()),
        };
        let at = self.items.len() - 1;
        let whole = self.item(answer, at);
        let id = whole["id"].clone();
        match said {
            Ok((text, piece)) => {
                let mut event =
                    json!({ "item_id": id, "output_index": at, "content_index": 0, "text": text });
                let kind = match piece["type"] == THOUGHT {
                    true => "response.reasoning_text.done",
                    false => {
                        event["logprobs"] = json!([]);
                        "response.output_text.done"
                    }
                };
                self.say(out, kind, event);
                let event = json!({ "item_id": id, "output_index": at, "content_index": 0, "part": piece });
                self.say(out, "response.content_part.done", event);
            }
            Err(arguments) => {
                let event = json!({ "item_id": id, "output_index": at, "name": whole["name"], "arguments": arguments });
                self.say(out, "response.function_call_arguments.done", event);
            }
        }
        self.say(
            out,
            "response.output_item.done",
            json!({ "output_index": at, "item": whole }),
        );
    }
}

/// The type of a piece of what was thought before the answer.
const THOUGHT: &str = "reasoning_text";

fn thought_piece(text: &str) -> Value {
    json!({ "type": THOUGHT, "text": text })
}

fn text_piece(text: &str) -> Value {
    json!({ "type": "output_text", "text": text, "annotations": [], "logprobs": [] })
}

impl Shape for Events {
    const DIALECT: Dialect = Dialect::OpenAi;

    fn begin(&mut self, answer: &Answer, out: &mut Frames) {
        for kind in ["response.created", "response.in_progress"] {
            let response = self.response(answer, "in_progress");
            self.say(out, kind, json!({ "response": response }));
        }
    }

    fn part(&mut self, answer: &Answer, part: Part, out: &mut Frames) {
        match part {
            Part::Text { text, .. } if text.is_empty() => {}
            Part::Text { text, .. } => {
                if !matches!(self.items.last(), Some((Item::Text(_), false))) {
                    self.open(answer, Item::Text(String::new()), out);
                }
                let at = self.items.len() - 1;
                if let Some((Item::Text(whole), _)) = self.items.last_mut() {
                    whole.push_str(&text);
                }
                let id = format!("msg_{}_{at}", answer.id);
                let event = json!({ "item_id": id, "output_index": at, "content_index": 0, "delta": text, "logprobs": [] });
                self.say(out, "response.output_text.delta", event);
            }
            Part::Thought { text, .. } => {
                if !matches!(self.items.last(), Some((Item::Thought(_), false))) {
                    self.open(answer, Item::Thought(String::new()), out);
                }
                let at = self.items.len() - 1;
                if let Some((Item::Thought(whole), _)) = self.items.last_mut() {
                    whole.push_str(&text);
                }
                let id = format!("rs_{}_{at}", answer.id);
                let event = json!({ "item_id": id, "output_index": at, "content_index": 0, "delta": text });
                self.say(out, "response.reasoning_text.delta", event);
            }
            Part::Call { id, name, .. } => {
                self.open(
                    answer,
                    Item::Call {
                        id,
                        name,
                        arguments: String::new(),
                    },
                    out,
                );
            }
            Part::Arguments { text, .. } => {
                let at = self.items.len().saturating_sub(1);
                if let Some((Item::Call { arguments, .. }, _)) = self.items.last_mut() {
                    arguments.push_str(&text);
                }
                let event =
                    json!({ "item_id": format!("fc_{}_{at}", answer.id), "output_index": at, "delta": text });
                self.say(out, "response.function_call_arguments.delta", event);
            }
            Part::End { finish, .. } => {
                if self.items.is_empty() {
                    self.open(answer, Item::Text(String::new()), out);
                }
                self.finish = Some(finish);
                self.close(answer, out);
            }
        }
    }

    fn end(&mut self, answer: &Answer, out: &mut Frames) {
        let status = self.status();
        let response = self.response(answer, status);
        let kind = if status == "incomplete" {
            "response.incomplete"
        } else {
            "response.completed"
        };
        self.say(out, kind, json!({ "response": response }));
    }

    fn broken(&mut self, refusal: &Refusal, out: &mut Frames) {
        let event = json!({ "code": "server_error", "message": refusal.message, "param": null });
        self.say(out, "error", event);
    }
}
