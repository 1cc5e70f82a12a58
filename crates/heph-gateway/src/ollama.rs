//! Ollama's shapes.

use std::time::Instant;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use heph_providers::Picture;
use heph_runtime::bundled;
use heph_runtime::store::Found;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::answer::{Answer, Finish, Part};
use crate::ask::{Ask, Form, Source, Strays, Text, Turn, Wishes, not_there, reader, writer};
use crate::engines::Engine;
use crate::error::{Dialect, Refusal};
use crate::heph::models::{Pull, pull_stream};
use crate::house::Door;
use crate::openai::embeddings::{Input, TooLong, encode};
use crate::openai::{Guides, OneOrMany, guided, read};
use crate::pictures;
use crate::sampling::Sampling;
use crate::shape::{self, Frames, Keep, Shape};
use crate::tools::{MadeCall, Tool, Toolbox};

/// Numbers of a request, with Ollama's usual values where they are not named.
#[derive(Debug, Clone, Default, Deserialize, utoipa::ToSchema)]
pub(crate) struct Options {
    temperature: Option<f64>,
    top_k: Option<i64>,
    top_p: Option<f64>,
    min_p: Option<f64>,
    typical_p: Option<f64>,
    repeat_penalty: Option<f64>,
    repeat_last_n: Option<i64>,
    frequency_penalty: Option<f64>,
    presence_penalty: Option<f64>,
    seed: Option<i64>,
    num_predict: Option<i64>,
    stop: Option<OneOrMany>,
}

impl Options {
    fn apply(self, ask: &mut Ask) {
        ask.sampling = Sampling {
            temperature: Some(self.temperature.unwrap_or(0.8)),
            top_k: Some(self.top_k.unwrap_or(40)),
            top_p: Some(self.top_p.unwrap_or(0.9)),
            min_p: self.min_p,
            typical_p: self.typical_p,
            repeat_penalty: Some(self.repeat_penalty.unwrap_or(1.1)),
            penalty_window: Some(self.repeat_last_n.unwrap_or(64)),
            frequency_penalty: self.frequency_penalty,
            presence_penalty: self.presence_penalty,
            logit_bias: None,
            seed: self.seed,
        };
        // -1 and -2 are words for no limit and for the whole context.
        ask.max_tokens = self
            .num_predict
            .and_then(|n| u64::try_from(n).ok())
            .map(|n| n.max(1));
        ask.stops = OneOrMany::list(self.stop);
    }
}

fn form(format: Option<&Value>) -> Result<Form, Refusal> {
    match format {
        None | Some(Value::Null) => Ok(Form::Text),
        Some(Value::String(word)) if word.is_empty() => Ok(Form::Text),
        Some(Value::String(word)) if word == "json" => Ok(Form::Object),
        Some(schema @ Value::Object(_)) => Ok(Form::Schema(schema.clone())),
        Some(_) => Err(Refusal::bad("format is \"json\" or a JSON schema")),
    }
}

/// A chat request.
#[derive(Debug, Clone, Deserialize, utoipa::ToSchema)]
pub(crate) struct ChatRequest {
    #[serde(default)]
    model: String,
    #[serde(default)]
    messages: Vec<Message>,
    #[schema(value_type = Option<Vec<Object>>)]
    tools: Option<Vec<Value>>,
    #[serde(default)]
    format: Option<Value>,
    #[serde(flatten)]
    guides: Guides,
    options: Option<Options>,
    stream: Option<bool>,
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
    content: Option<String>,
    #[serde(default)]
    tool_calls: Option<Vec<MadeCall>>,
    #[serde(default)]
    tool_name: Option<String>,
    /// Pictures in base64.
    images: Option<Vec<String>>,
}

fn shown(images: Option<Vec<String>>) -> Result<Vec<Picture>, Refusal> {
    let images = images.unwrap_or_default().into_iter();
    images.map(|image| pictures::of_base64(None, &image)).collect()
}

impl Message {
    fn turn(self) -> Result<Turn, Refusal> {
        if !["system", "user", "assistant", "tool"].contains(&self.role.as_str()) {
            return Err(Refusal::bad(format!("{:?} is no role", self.role)));
        }
        let mut turn = Turn::new(&self.role, self.content.unwrap_or_default());
        turn.pictures = shown(self.images)?;
        if self.role != "user" && !turn.pictures.is_empty() {
            return Err(Refusal::bad("only a message of the user shows a picture").code("picture"));
        }
        turn.calls = self.tool_calls.unwrap_or_default();
        turn.name = self.tool_name;
        Ok(turn)
    }
}

/// Answers a conversation.
#[utoipa::path(post, path = "/api/chat", request_body = ChatRequest, tag = "Ollama",
    responses((status = 200, description = "The answer, or lines with its pieces")))]
pub(crate) async fn chat(
    State(door): State<Door>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Refusal> {
    let request: ChatRequest = read(&body)?;
    let form = guided("format", form(request.format.as_ref())?, request.guides)?;
    request.strays.check()?;
    let wishes = request.heph.unwrap_or_default().with_headers(&headers)?;
    if request.messages.is_empty() {
        return loaded(&door, &request.model, Kind::Chat).await;
    }
    let tools = request.tools.iter().flatten().map(|tool| {
        let function = &tool["function"];
        let name = function["name"].as_str().unwrap_or_default();
        Tool::new(name, function["description"].as_str(), function.get("parameters"))
    });
    let toolbox = Toolbox::new(tools.collect::<Result<_, _>>()?, None, true)?;
    let turns = request
        .messages
        .into_iter()
        .map(Message::turn)
        .collect::<Result<_, _>>()?;
    let mut ask = Ask::new(request.model.clone(), Source::Chat(turns));
    ask.toolbox = toolbox;
    ask.form = form;
    request.options.unwrap_or_default().apply(&mut ask);
    ask.wishes = wishes;
    answer(
        &door,
        ask,
        Kind::Chat,
        request.model,
        request.stream.unwrap_or(true),
    )
    .await
}

/// A request to go on with a text.
#[derive(Debug, Clone, Deserialize, utoipa::ToSchema)]
pub(crate) struct GenerateRequest {
    #[serde(default)]
    model: String,
    #[serde(default)]
    prompt: Option<String>,
    /// Pictures in base64.
    images: Option<Vec<String>>,
    suffix: Option<String>,
    system: Option<String>,
    /// Whether the prompt is taken as it is.
    raw: Option<bool>,
    #[serde(default)]
    format: Option<Value>,
    #[serde(flatten)]
    guides: Guides,
    options: Option<Options>,
    stream: Option<bool>,
    heph: Option<Wishes>,
    #[serde(flatten)]
    #[schema(ignore)]
    strays: Strays,
}

/// Answers a prompt.
#[utoipa::path(post, path = "/api/generate", request_body = GenerateRequest, tag = "Ollama",
    responses((status = 200, description = "The answer, or lines with its pieces")))]
pub(crate) async fn generate(
    State(door): State<Door>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Refusal> {
    let request: GenerateRequest = read(&body)?;
    let form = guided("format", form(request.format.as_ref())?, request.guides)?;
    request.strays.check()?;
    let wishes = request.heph.unwrap_or_default().with_headers(&headers)?;
    let prompt = request.prompt.unwrap_or_default();
    if prompt.is_empty() {
        return loaded(&door, &request.model, Kind::Generate).await;
    }
    let model = reader(&door, &request.model).await?;
    let templated = model.service.words().template.is_some() && !request.raw.unwrap_or(false);
    let source = match request.suffix.filter(|suffix| !suffix.is_empty()) {
        None if templated => {
            let system = request.system.map(|text| Turn::new("system", text));
            let mut turn = Turn::new("user", prompt);
            turn.pictures = shown(request.images)?;
            Source::Chat(system.into_iter().chain([turn]).collect())
        }
        _ if request.images.as_ref().is_some_and(|images| !images.is_empty()) => {
            return Err(Refusal::bad("a text that is taken as it is shows no pictures").code("picture"));
        }
        Some(suffix) => Source::Texts(vec![Text::Between(prompt, suffix)]),
        None => Source::Texts(vec![Text::Words(prompt)]),
    };
    let mut ask = Ask::new(request.model.clone(), source);
    ask.form = form;
    request.options.unwrap_or_default().apply(&mut ask);
    ask.wishes = wishes;
    answer(
        &door,
        ask,
        Kind::Generate,
        request.model,
        request.stream.unwrap_or(true),
    )
    .await
}

/// Which of the two ways to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Chat,
    Generate,
}

/// An empty question brings a model into memory.
async fn loaded(door: &Door, model: &str, kind: Kind) -> Result<Response, Refusal> {
    let writer = writer(door, model).await?;
    let mut line = json!({ "model": writer.name, "created_at": now(), "done": true, "done_reason": "load" });
    kind.put(&mut line, "", &[]);
    Ok(axum::response::IntoResponse::into_response(Json(line)))
}

async fn answer(door: &Door, ask: Ask, kind: Kind, model: String, stream: bool) -> Result<Response, Refusal> {
    if stream && ask.wishes.keep() == Keep::Yes {
        let sentence = "lines of this shape have no ids to go on from: no such stream is kept";
        return Err(Refusal::param("resume", sentence));
    }
    let mut answer = ask.submit(door).await?;
    let model = if model.is_empty() {
        answer.model().to_owned()
    } else {
        model
    };
    let mut lines = Lines {
        kind,
        model,
        began: Instant::now(),
        first: None,
        calls: Vec::new(),
        finish: None,
    };
    if stream {
        return Ok(shape::stream(door, answer, lines, Keep::No));
    }
    let (mut text, mut thought) = (String::new(), String::new());
    let mut calls: Vec<(String, String)> = Vec::new();
    let mut finish = None;
    shape::whole(&mut answer, |part| match part {
        Part::Text { text: more, .. } => text.push_str(&more),
        Part::Thought { text: more, .. } => thought.push_str(&more),
        Part::Call { name, .. } => calls.push((name, String::new())),
        Part::Arguments { text, .. } => {
            if let Some(call) = calls.last_mut() {
                call.1.push_str(&text);
            }
        }
        Part::End { finish: why, .. } => finish = Some(why),
    })
    .await?;
    lines.finish = finish;
    let mut line = lines.last(&answer);
    kind.put(&mut line, &text, &calls);
    kind.put_thought(&mut line, &thought);
    Ok(shape::complete(&answer, &line))
}

impl Kind {
    /// What was thought before the answer, where anything was.
    fn put_thought(self, line: &mut Value, thought: &str) {
        let place = match self {
            Self::Generate => line,
            Self::Chat => &mut line["message"],
        };
        if !thought.is_empty() {
            place["thinking"] = json!(thought);
        }
    }

    fn put(self, line: &mut Value, text: &str, calls: &[(String, String)]) {
        match self {
            Self::Generate => line["response"] = json!(text),
            Self::Chat => {
                line["message"] = json!({ "role": "assistant", "content": text });
                if !calls.is_empty() {
                    let calls = calls.iter().map(|(name, arguments)| {
                        let arguments: Value = serde_json::from_str(arguments).unwrap_or_else(|_| json!({}));
                        json!({ "function": { "name": name, "arguments": arguments } })
                    });
                    line["message"]["tool_calls"] = calls.collect();
                }
            }
        }
    }
}

/// The time, as Ollama writes it.
fn now() -> String {
    jiff::Timestamp::now().to_string()
}

/// The answer as lines.
struct Lines {
    kind: Kind,
    model: String,
    began: Instant,
    first: Option<Instant>,
    /// Calls under way; told whole, as Ollama does.
    calls: Vec<(String, String)>,
    finish: Option<Finish>,
}

impl Lines {
    fn line(&self, text: &str, calls: &[(String, String)]) -> Value {
        let mut line = json!({ "model": self.model, "created_at": now(), "done": false });
        self.kind.put(&mut line, text, calls);
        line
    }

    fn last(&self, answer: &Answer) -> Value {
        let usage = answer.usage(1);
        let total = self.began.elapsed();
        let prompt = self.first.map_or(total, |first| first - self.began);
        let reason = if self.finish == Some(Finish::Length) {
            "length"
        } else {
            "stop"
        };
        json!({
            "model": self.model, "created_at": now(), "done": true, "done_reason": reason,
            "total_duration": total.as_nanos() as u64, "load_duration": 0,
            "prompt_eval_count": usage.prompt, "prompt_eval_duration": prompt.as_nanos() as u64,
            "eval_count": usage.answer, "eval_duration": (total - prompt).as_nanos() as u64,
            "heph": answer.receipt(),
        })
    }
}

impl Shape for Lines {
    const CONTENT_TYPE: &'static str = "application/x-ndjson";
    const DIALECT: Dialect = Dialect::Ollama;

    fn begin(&mut self, _: &Answer, _: &mut Frames) {}

    fn part(&mut self, _: &Answer, part: Part, out: &mut Frames) {
        self.first.get_or_insert_with(Instant::now);
        match part {
            Part::Text { text, .. } if text.is_empty() => {}
            Part::Text { text, .. } => out.line(&self.line(&text, &[])),
            Part::Thought { text, .. } => {
                let mut line = self.line("", &[]);
                self.kind.put_thought(&mut line, &text);
                out.line(&line);
            }
            Part::Call { name, .. } => self.calls.push((name, String::new())),
            Part::Arguments { text, .. } => {
                if let Some(call) = self.calls.last_mut() {
                    call.1.push_str(&text);
                }
            }
            Part::End { finish, .. } => {
                if !self.calls.is_empty() {
                    out.line(&self.line("", &self.calls));
                }
                self.finish = Some(finish);
            }
        }
    }

    fn end(&mut self, answer: &Answer, out: &mut Frames) {
        let mut line = self.last(answer);
        self.kind.put(&mut line, "", &[]);
        out.line(&line);
    }

    fn broken(&mut self, refusal: &Refusal, out: &mut Frames) {
        out.line(&refusal.body(Dialect::Ollama));
    }
}

/// A request for vectors.
#[derive(Debug, Clone, Deserialize, utoipa::ToSchema)]
pub(crate) struct EmbedRequest {
    #[serde(default)]
    model: String,
    /// A text or texts.
    #[serde(default)]
    input: Option<OneOrMany>,
    /// The text, as the older path calls it.
    #[serde(default)]
    prompt: Option<String>,
    /// Whether a text that is too long is cut; it is, unless this says otherwise.
    truncate: Option<bool>,
}

/// Turns texts into vectors.
#[utoipa::path(post, path = "/api/embed", request_body = EmbedRequest, tag = "Ollama",
    responses((status = 200, description = "A vector for each text")))]
pub(crate) async fn embed(State(door): State<Door>, body: Bytes) -> Result<Json<Value>, Refusal> {
    let request: EmbedRequest = read(&body)?;
    let began = Instant::now();
    let texts = OneOrMany::list(request.input);
    if texts.is_empty() {
        return Ok(Json(json!({ "model": request.model, "embeddings": [] })));
    }
    let too_long = if request.truncate.unwrap_or(true) {
        TooLong::Cut
    } else {
        TooLong::Refuse
    };
    let read = encode(&door, &request.model, Input::Texts(texts), too_long).await?;
    Ok(Json(json!({
        "model": read.model, "embeddings": read.vectors, "total_duration": began.elapsed().as_nanos() as u64,
        "load_duration": 0, "prompt_eval_count": read.tokens,
    })))
}

/// Turns one text into a vector, by the older path.
#[utoipa::path(post, path = "/api/embeddings", request_body = EmbedRequest, tag = "Ollama",
    responses((status = 200, description = "The vector")))]
pub(crate) async fn embeddings(State(door): State<Door>, body: Bytes) -> Result<Json<Value>, Refusal> {
    let request: EmbedRequest = read(&body)?;
    let text = request.prompt.unwrap_or_default();
    let mut read = encode(&door, &request.model, Input::Text(text), TooLong::Cut).await?;
    Ok(Json(
        json!({ "embedding": read.vectors.pop().unwrap_or_default() }),
    ))
}

fn line(name: &str, bytes: u64, digest: &str, added_s: i64, format: &str) -> Value {
    let modified = jiff::Timestamp::from_second(added_s)
        .unwrap_or_default()
        .to_string();
    json!({
        "name": name, "model": name, "modified_at": modified, "size": bytes, "digest": digest,
        "details": details(format),
    })
}

fn details(format: &str) -> Value {
    json!({
        "parent_model": "", "format": format, "family": "llama", "families": ["llama"], "parameter_size": "",
        "quantization_level": "",
    })
}

/// Names the models, the served one first.
#[utoipa::path(get, path = "/api/tags", tag = "Ollama", responses((status = 200, description = "The models")))]
pub(crate) async fn tags(State(door): State<Door>) -> Json<Value> {
    let bundled = bundled::ALL
        .iter()
        .map(|m| line(m.name, m.bytes.len() as u64, &m.content(), 0, "gguf"));
    let stored = door
        .engines
        .store()
        .list()
        .unwrap_or_default()
        .into_iter()
        .flatten();
    let stored = stored.map(|record| {
        let added = i64::try_from(record.added_unix_s).unwrap_or(0);
        line(
            record.name.as_str(),
            record.bytes(),
            &record.content,
            added,
            record.format.name(),
        )
    });
    let mut models: Vec<Value> = bundled.chain(stored).collect();
    models.sort_by_key(|model| model["name"] != door.engines.served.name.as_str());
    Json(json!({ "models": models }))
}

/// Names the models in memory.
#[utoipa::path(get, path = "/api/ps", tag = "Ollama", responses((status = 200, description = "The models in memory")))]
pub(crate) async fn ps(State(door): State<Door>) -> Json<Value> {
    let mut names = vec![door.engines.served.name.clone()];
    names.extend(door.engines.others().into_keys());
    let far = "2318-01-01T00:00:00Z";
    let models = names.iter().map(|name| {
        json!({
            "name": name, "model": name, "size": 0, "size_vram": 0, "digest": "", "expires_at": far,
            "details": details("gguf"),
        })
    });
    Json(json!({ "models": models.collect::<Vec<_>>() }))
}

/// The version.
#[utoipa::path(get, path = "/api/version", tag = "Ollama", responses((status = 200, description = "The version")))]
pub(crate) async fn version() -> Json<Value> {
    Json(json!({ "version": env!("CARGO_PKG_VERSION") }))
}

/// Names a model.
#[derive(Debug, Clone, Deserialize, utoipa::ToSchema)]
pub(crate) struct Named {
    #[serde(default)]
    model: Option<String>,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    stream: Option<bool>,
}

impl Named {
    fn model(&self) -> String {
        let name = self
            .model
            .clone()
            .or_else(|| self.name.clone())
            .unwrap_or_default();
        name.strip_suffix(":latest").unwrap_or(&name).to_owned()
    }
}

/// What is known of a model.
#[utoipa::path(post, path = "/api/show", request_body = Named, tag = "Ollama",
    responses((status = 200, description = "The model")))]
pub(crate) async fn show(State(door): State<Door>, body: Bytes) -> Result<Json<Value>, Refusal> {
    let named: Named = read(&body)?;
    let name = named.model();
    let engine = door.engines.engine(&name).await.map_err(not_there)?;
    let (model, capabilities) = match &engine {
        Engine::Writes(writer) => (
            json!({
                "general.architecture": "llama", "general.name": writer.name,
                "llama.context_length": writer.service.context(), "llama.block_count": writer.layers,
            }),
            json!(["completion", "tools"]),
        ),
        Engine::Reads(reader) => (
            json!({
                "general.architecture": "bert", "general.name": reader.name, "bert.context_length": reader.context,
            }),
            json!(["embedding"]),
        ),
    };
    let added = match door.engines.by_name(&name) {
        Ok(Found::Stored(_, record)) => i64::try_from(record.added_unix_s).unwrap_or(0),
        _ => 0,
    };
    Ok(Json(json!({
        "modelfile": "", "parameters": "", "template": "", "license": "", "details": details("gguf"),
        "model_info": model, "capabilities": capabilities,
        "modified_at": jiff::Timestamp::from_second(added).unwrap_or_default().to_string(),
    })))
}

/// Downloads a model of the hub: `owner/name`, or `owner/name:FILE`.
#[utoipa::path(post, path = "/api/pull", request_body = Named, tag = "Ollama",
    responses((status = 200, description = "Lines that tell how far it is")))]
pub(crate) async fn pull(State(door): State<Door>, body: Bytes) -> Result<Response, Refusal> {
    let named: Named = read(&body)?;
    let name = named.model();
    if door.engines.by_name(&name).is_ok() {
        let line = json!({ "status": "success" });
        return Ok(axum::response::IntoResponse::into_response(Json(line)));
    }
    let (repository, file) = match name.split_once(':') {
        Some((repository, file)) => (repository, Some(file.to_owned())),
        None => (name.as_str(), None),
    };
    let pull = Pull::new(repository.trim_start_matches("hf.co/"), None, file, None, None)?;
    pull_stream(&door, pull, Dialect::Ollama, named.stream.unwrap_or(true)).await
}
