//! HEPH's own tools: what they take, and how a call becomes a request to this door.

use std::convert::Infallible;
use std::pin::Pin;
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;

use super::client::Far;
use super::offers::{self, Offer};
use super::{Code, Listening, Next, VERSIONS, done, failed};
use crate::answer::{Finish, Part};
use crate::caller::Caller;
use crate::error::{AsItIs, Refusal};
use crate::heph::{knowledge, models, places};
use crate::house::Door;
use crate::knowledge::{For, Label};
use crate::openai::embeddings::{Input, TooLong, encode};
use crate::{openai, routes};

/// Bytes of an answer that is read back from this door: more than the longest answer takes.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// How often a long request tells how far it is.
const TOLD_EVERY: Duration = Duration::from_millis(250);

/// What is told and not read yet; more than that is told to nobody.
const TOLD_WAITING: usize = 8;

/// What is told to the model that has the tools.
const INSTRUCTIONS: &str = "HEPH runs language models on this machine and on the person's other machines. `ask` answers with one \
of them; `plan` says beforehand where that would happen and what would leave. `search_documents` finds exact excerpts in the \
folders that the person opened to programs.";

/// What the other side says.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Incoming {
    /// It wants an answer.
    Request {
        id: Value,
        method: String,
        params: Value,
    },
    /// It wants none.
    Notice { method: String, params: Value },
    /// It answers something that was never asked here.
    Answer,
}

/// Reads a message.
///
/// # Errors
/// The answer to what is no message.
pub(crate) fn read(bytes: &[u8]) -> Result<Incoming, Value> {
    let wrong = |code, sentence: &str| failed(&Value::Null, code, sentence);
    let message: Value =
        serde_json::from_slice(bytes).map_err(|e| wrong(Code::Parse, &format!("this is no JSON: {e}")))?;
    let Value::Object(mut message) = message else {
        return Err(wrong(
            Code::Message,
            "a message is an object; several in one are not taken",
        ));
    };
    if message.get("jsonrpc") != Some(&json!("2.0")) {
        return Err(wrong(Code::Message, "a message says \"jsonrpc\": \"2.0\""));
    }
    let id = message.remove("id");
    let params = message.remove("params").unwrap_or_else(|| json!({}));
    match (message.remove("method"), id) {
        (Some(Value::String(method)), None) => Ok(Incoming::Notice { method, params }),
        (Some(Value::String(method)), Some(id)) if id.is_string() || id.is_i64() || id.is_u64() => {
            Ok(Incoming::Request { id, method, params })
        }
        (Some(Value::String(_)), Some(_)) => Err(wrong(Code::Message, "an id is a text or a whole number")),
        (None, Some(_)) if message.contains_key("result") || message.contains_key("error") => {
            Ok(Incoming::Answer)
        }
        (_, _) => Err(wrong(Code::Message, "the message names no method")),
    }
}

/// Whom a long request tells how far it is; nobody where it was not asked to.
#[derive(Debug, Clone)]
pub(crate) struct Progress {
    token: Value,
    to: mpsc::Sender<Value>,
    last: Instant,
}

impl Progress {
    /// As the parameters of a request ask for it.
    pub(crate) fn of(params: &Value, to: &mpsc::Sender<Value>) -> Option<Self> {
        let token = &params["_meta"]["progressToken"];
        (token.is_string() || token.is_i64() || token.is_u64()).then(|| Self {
            token: token.clone(),
            to: to.clone(),
            last: Instant::now(),
        })
    }

    /// So many bytes of the answer are there. Told now and then, and to nobody who does not listen.
    fn tell(&mut self, bytes: usize) {
        if self.last.elapsed() < TOLD_EVERY {
            return;
        }
        self.last = Instant::now();
        self.pass_on(&Far {
            progress: bytes.into(),
            total: None,
            message: Some(format!("{bytes} bytes of the answer are there")),
        });
    }

    /// What a server says of how far it is, as our own word. Told to nobody who does not listen.
    pub(super) fn pass_on(&self, far: &Far) {
        let mut params = json!(far);
        params["progressToken"] = self.token.clone();
        let told = json!({ "jsonrpc": "2.0", "method": "notifications/progress", "params": params });
        let _ = self.to.try_send(told);
    }
}

/// Answers a request.
pub(crate) async fn answer(
    door: &Door,
    id: &Value,
    method: &str,
    params: Value,
    progress: Option<Progress>,
) -> Value {
    let offered = |said: Result<Value, String>| match said {
        Ok(result) => done(id, &result),
        Err(sentence) => failed(id, Code::Params, &sentence),
    };
    match method {
        "initialize" => done(id, &welcome(&params, offers::capabilities(door).await)),
        "ping" => done(id, &json!({})),
        "tools/list" => done(id, &json!({ "tools": tools() })),
        "prompts/list" => offered(offers::list(door, Offer::Prompts).await),
        "prompts/get" => offered(offers::prompt(door, &params, progress).await),
        "resources/list" => offered(offers::list(door, Offer::Resources).await),
        "resources/templates/list" => offered(offers::list(door, Offer::Templates).await),
        "resources/read" => offered(offers::read(door, &params, progress).await),
        "tools/call" => {
            let name = params["name"].as_str().unwrap_or_default();
            let arguments = match &params["arguments"] {
                Value::Null => json!({}),
                given => given.clone(),
            };
            // The reader would take a list of values for an object.
            if !arguments.is_object() {
                return failed(id, Code::Params, "arguments are an object");
            }
            match call(door, name, arguments, progress).await {
                Ok(result) => done(id, &result),
                Err(sentence) => failed(id, Code::Params, &sentence),
            }
        }
        other => failed(id, Code::Method, &format!("there is no method {other:?} here")),
    }
}

/// The version that both speak: the one that was asked for where we know it, else our newest.
fn welcome(params: &Value, mut can: Map<String, Value>) -> Value {
    let asked = params["protocolVersion"].as_str().unwrap_or_default();
    let version = VERSIONS
        .iter()
        .find(|known| **known == asked)
        .unwrap_or(&VERSIONS[0]);
    can.insert("tools".to_owned(), json!({ "listChanged": false }));
    json!({
        "protocolVersion": version,
        "capabilities": can,
        "serverInfo": { "name": "heph", "title": "HEPH", "version": env!("CARGO_PKG_VERSION") },
        "instructions": INSTRUCTIONS,
    })
}

/// All tools, with the shape of what they take. None of them changes anything.
fn tools() -> Value {
    let text = |about: &str| json!({ "type": "string", "description": about });
    let model = || text("A name of list_models; the served one where none is named");
    let mode = || text("auto, local, remote, layered, speculative or layered-speculative");
    let privacy = || {
        json!({ "type": "string", "enum": ["nothing", "own", "policy"],
            "description": "What may leave this machine: nothing, text to the person's own machines, or what their policy says" })
    };
    let tool = |name: &str, title: &str, about: &str, properties: Value, required: &[&str]| {
        json!({
            "name": name, "title": title, "description": about,
            "inputSchema": {
                "type": "object", "properties": properties, "required": required, "additionalProperties": false,
            },
            "annotations": { "readOnlyHint": true, "openWorldHint": false },
        })
    };
    json!([
        tool(
            "ask",
            "Ask a model",
            "Answers a question with a model of this machine or of the person's machines.",
            json!({
                "question": text("The question"), "system": text("How the model is to answer"), "model": model(),
                "max_tokens": { "type": "integer", "minimum": 1 }, "temperature": { "type": "number", "minimum": 0 },
                "seed": { "type": "integer" }, "mode": mode(), "privacy": privacy(),
            }),
            &["question"]
        ),
        tool(
            "plan",
            "Plan an answer",
            "Says where an answer would be computed, how long that takes, and who would see what.",
            json!({
                "question": text("The question"), "model": model(), "max_tokens": { "type": "integer", "minimum": 1 },
                "mode": mode(), "privacy": privacy(),
            }),
            &["question"]
        ),
        tool(
            "list_models",
            "Models",
            "Lists the models of this machine and whether they fit its memory.",
            json!({}),
            &[]
        ),
        tool(
            "list_machines",
            "Machines",
            "Lists this machine and the person's others, and which of them are there.",
            json!({}),
            &[]
        ),
        tool(
            "embed",
            "Vectors of texts",
            "Turns texts into vectors of length 1 to compare meanings by.",
            json!({
                "texts": { "type": "array", "items": { "type": "string" }, "minItems": 1, "maxItems": 2048 }, "model": model(),
            }),
            &["texts"]
        ),
        tool(
            "tokenize",
            "Tokens of a text",
            "Turns a text into the tokens of a model, to count them.",
            json!({
                "text": text("The text"), "model": model(),
            }),
            &["text"]
        ),
        tool(
            "list_folders",
            "Folders",
            "Lists the folders that the person opened to programs.",
            json!({}),
            &[]
        ),
        tool(
            "search_documents",
            "Search documents",
            "Finds what a question needs in the person's folders: exact excerpts with their places.",
            json!({
                "question": text("The question"),
                "folders": { "type": "array", "items": { "type": "string" }, "description": "Names of list_folders; all where none is named" },
                "bytes_max": { "type": "integer", "minimum": 256, "maximum": 1 << 20, "description": "Bytes of excerpts at most" },
            }),
            &["question"]
        ),
    ])
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Question {
    question: String,
    system: Option<String>,
    model: Option<String>,
    max_tokens: Option<i64>,
    temperature: Option<f64>,
    seed: Option<i64>,
    mode: Option<String>,
    privacy: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Texts {
    texts: Vec<String>,
    model: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Words {
    text: String,
    model: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Search {
    question: String,
    #[serde(default)]
    folders: Vec<String>,
    bytes_max: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

/// Calls a tool. What the door refuses is a result that says so: the model that called can read it.
///
/// # Errors
/// A sentence where there is no such tool, or it does not take that.
async fn call(
    door: &Door,
    name: &str,
    arguments: Value,
    progress: Option<Progress>,
) -> Result<Value, String> {
    fn taken<T: serde::de::DeserializeOwned>(name: &str, arguments: Value) -> Result<T, String> {
        serde_json::from_value(arguments).map_err(|e| format!("{name} does not take that: {e}"))
    }
    let got = match name {
        "ask" => ask(door, taken(name, arguments)?, progress).await,
        "plan" => plan(door, taken(name, arguments)?).await,
        "list_models" => {
            let Nothing {} = taken(name, arguments)?;
            models::list(State(door.clone())).await.map(|json| json.0)
        }
        "list_machines" => {
            let Nothing {} = taken(name, arguments)?;
            places::nodes(State(door.clone())).await.map(|json| json.0)
        }
        "embed" => embed(door, taken(name, arguments)?).await,
        "tokenize" => {
            let Words { text, model } = taken(name, arguments)?;
            let body = json!({ "content": text, "model": model.unwrap_or_default() });
            routes::tokenize(State(door.clone()), Bytes::from(body.to_string()))
                .await
                .map(|json| json.0)
        }
        "list_folders" => {
            let Nothing {} = taken(name, arguments)?;
            folders(door).await
        }
        "search_documents" => {
            let Search {
                question,
                folders,
                bytes_max,
            } = taken(name, arguments)?;
            let found = knowledge::find(door, question, folders, bytes_max, For::Program).await;
            found.map(|found| json!(found))
        }
        other => return Err(format!("there is no tool {other:?}; tools/list names them")),
    };
    Ok(match got {
        Ok(value) => {
            let shown = value["text"]
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned);
            json!({ "content": [{ "type": "text", "text": shown }], "structuredContent": value, "isError": false })
        }
        Err(refusal) => json!({ "content": [{ "type": "text", "text": refusal.message }], "isError": true }),
    })
}

async fn ask(door: &Door, question: Question, progress: Option<Progress>) -> Result<Value, Refusal> {
    let system = question
        .system
        .map(|text| json!({ "role": "system", "content": text }));
    let user = json!({ "role": "user", "content": question.question });
    let mut body = json!({
        "messages": system.into_iter().chain([user]).collect::<Vec<_>>(),
        "heph": { "mode": question.mode, "privacy": question.privacy },
    });
    for (name, value) in [
        ("model", json!(question.model)),
        ("max_tokens", json!(question.max_tokens)),
        ("temperature", json!(question.temperature)),
        ("seed", json!(question.seed)),
    ] {
        if !value.is_null() {
            body[name] = value;
        }
    }
    if let Some(progress) = progress {
        return ask_and_tell(door, &body, progress).await;
    }
    let said = completion(door, &HeaderMap::new(), &body).await?;
    Ok(json!({
        "text": said["choices"][0]["message"]["content"], "finish_reason": said["choices"][0]["finish_reason"],
        "model": said["model"], "usage": said["usage"], "heph": said["heph"],
    }))
}

/// The same, told while it comes.
async fn ask_and_tell(door: &Door, body: &Value, mut progress: Progress) -> Result<Value, Refusal> {
    let request = openai::read(body.to_string().as_bytes())?;
    let (mut answer, ..) = openai::chat::streamed(door, &HeaderMap::new(), request).await?;
    let (mut text, mut finish) = (String::new(), Finish::Stop);
    while let Some(parts) = answer.next().await {
        for part in parts? {
            match part {
                Part::Text { text: more, .. } => text.push_str(&more),
                Part::End { finish: why, .. } => finish = why,
                Part::Thought { .. } | Part::Call { .. } | Part::Arguments { .. } => {}
            }
        }
        progress.tell(text.len());
    }
    Ok(json!({
        "text": text, "finish_reason": openai::finish_reason(&finish), "model": answer.model(),
        "usage": openai::chunks::usage_of(&answer, 1), "heph": answer.receipt(),
    }))
}

/// A whole answer of `/v1/chat/completions`.
pub(super) async fn completion(door: &Door, headers: &HeaderMap, body: &Value) -> Result<Value, Refusal> {
    let body = Bytes::from(body.to_string());
    // Boxed: an answer with tools asks for further answers.
    let answered = Box::pin(openai::chat::completions(
        State(door.clone()),
        headers.clone(),
        body,
    ))
    .await?;
    let bytes = axum::body::to_bytes(answered.into_body(), ANSWER_BYTES_MAX)
        .await
        .map_err(Refusal::ours)?;
    serde_json::from_slice(&bytes).map_err(Refusal::ours)
}

async fn plan(door: &Door, question: Question) -> Result<Value, Refusal> {
    let body = json!({
        "messages": [{ "role": "user", "content": question.question }], "model": question.model,
        "max_tokens": question.max_tokens, "mode": question.mode, "privacy": question.privacy,
    });
    places::plan(State(door.clone()), Bytes::from(body.to_string()))
        .await
        .map(|json| json.0)
}

async fn embed(door: &Door, Texts { texts, model }: Texts) -> Result<Value, Refusal> {
    let name = model.unwrap_or_else(|| door.engines.served.name.clone());
    let made = encode(door, &name, Input::Texts(texts), TooLong::Refuse).await?;
    Ok(json!({ "model": made.model, "vectors": made.vectors, "tokens": made.tokens }))
}

async fn folders(door: &Door) -> Result<Value, Refusal> {
    let list = knowledge::list(State(door.clone())).await?;
    let private = json!(Label::Nothing);
    let open = list.0["shelves"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|shelf| shelf["label"] != private);
    let names = open.map(|shelf| json!({ "name": shelf["name"], "label": shelf["label"] }));
    Ok(json!({ "folders": names.collect::<Vec<_>>() }))
}

/// Speaks the Model Context Protocol over HTTP: one message, one answer.
#[utoipa::path(post, path = "/mcp", request_body = Object, tag = "Model Context Protocol",
    responses((status = 200, description = "The answer to a request"), (status = 202, description = "A notice was heard"),
              (status = 400, description = "That is no message, or of a version that is not spoken here")))]
pub(crate) async fn over_http(State(door): State<Door>, headers: HeaderMap, body: Bytes) -> Response {
    let json = |status: StatusCode, value: Value| {
        let mut response = (
            status,
            [(header::CONTENT_TYPE, "application/json")],
            value.to_string(),
        )
            .into_response();
        response.extensions_mut().insert(AsItIs);
        response
    };
    let version = headers
        .get("mcp-protocol-version")
        .map(|version| version.to_str().unwrap_or_default());
    if let Some(version) = version.filter(|version| !VERSIONS.contains(version)) {
        let sentence = format!(
            "version {version:?} of the protocol is not spoken here; {} is",
            VERSIONS[0]
        );
        return json(
            StatusCode::BAD_REQUEST,
            failed(&Value::Null, Code::Message, &sentence),
        );
    }
    match read(&body) {
        Ok(Incoming::Request { id, method, params }) => {
            let (to, told) = mpsc::channel(TOLD_WAITING);
            let hears = headers.get_all(header::ACCEPT).iter().any(|kinds| {
                let kinds = kinds.to_str().unwrap_or_default();
                kinds.contains("text/event-stream")
            });
            match Progress::of(&params, &to).filter(|_| hears) {
                None => json(StatusCode::OK, answer(&door, &id, &method, params, None).await),
                Some(progress) => {
                    let asked = async move { answer(&door, &id, &method, params, Some(progress)).await };
                    drop(to);
                    stream(asked, told)
                }
            }
        }
        Ok(Incoming::Notice { .. } | Incoming::Answer) => StatusCode::ACCEPTED.into_response(),
        Err(answer) => json(StatusCode::BAD_REQUEST, answer),
    }
}

/// What is told while something is answered, and then the answer. Whoever hangs up ends it.
fn stream(asked: impl Future<Output = Value> + Send + 'static, told: mpsc::Receiver<Value>) -> Response {
    // What a stream does after its head is done for whoever asked.
    let asked: Pin<Box<dyn Future<Output = Value> + Send>> = match Caller::now() {
        Some(caller) => Box::pin(caller.asks(asked)),
        None => Box::pin(asked),
    };
    let listening = Some(Listening::new(asked, told));
    let events = futures_util::stream::unfold(listening, |listening| async move {
        let mut listening = listening?;
        let (message, rest) = match listening.next().await {
            Next::Told(message) => (message, Some(listening)),
            Next::Said(answer) => (answer, None),
        };
        let event = Bytes::from(format!("event: message\ndata: {message}\n\n"));
        Some((Ok::<_, Infallible>(event), rest))
    });
    let kinds = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (StatusCode::OK, kinds, Body::from_stream(events)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_message_is_told_so() {
        for (text, code) in [
            ("", -32700),
            ("{", -32700),
            ("\u{0}", -32700),
            ("[]", -32600),
            ("7", -32600),
            ("{}", -32600),
            (r#"{"jsonrpc":"1.0","id":1,"method":"ping"}"#, -32600),
            (r#"{"jsonrpc":"2.0","id":1}"#, -32600),
            (r#"{"jsonrpc":"2.0","id":1.5,"method":"ping"}"#, -32600),
            (r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#, -32600),
            (r#"{"jsonrpc":"2.0","id":1,"method":7}"#, -32600),
            (r#"[{"jsonrpc":"2.0","id":1,"method":"ping"}]"#, -32600),
        ] {
            assert_eq!(
                read(text.as_bytes()).unwrap_err()["error"]["code"],
                code,
                "{text}"
            );
        }
        let nested = "[".repeat(100_000);
        assert!(read(nested.as_bytes()).is_err());
        assert!(matches!(
            read(br#"{"jsonrpc":"2.0","method":"x"}"#),
            Ok(Incoming::Notice { .. })
        ));
        assert!(matches!(
            read(br#"{"jsonrpc":"2.0","id":"a","result":{}}"#),
            Ok(Incoming::Answer)
        ));
    }

    #[test]
    fn a_version_is_agreed_on() {
        let agreed = |asked: &str| {
            let asked = json!({ "protocolVersion": asked });
            welcome(&asked, Map::new())["protocolVersion"].clone()
        };
        for version in VERSIONS {
            assert_eq!(agreed(version), version);
        }
        assert_eq!(agreed("2999-01-01"), VERSIONS[0]);
        assert_eq!(agreed(""), VERSIONS[0]);
    }

    proptest::proptest! {
        #[test]
        fn no_message_breaks_the_reader(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            let _ = read(&bytes);
        }
    }
}
