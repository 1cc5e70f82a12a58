//! OpenAI's shapes.

pub(crate) mod chat;
pub(crate) mod completions;
pub(crate) mod embeddings;
pub(crate) mod models;
pub(crate) mod responses;

use heph_runtime::service::Said;
use heph_runtime::words::Words;
use heph_types::TokenId;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::answer::Finish;
use crate::ask::Form;
use crate::error::Refusal;
use crate::sampling::Sampling;

/// What the engine's arithmetic is called: answers of one fingerprint have the same bits.
pub(crate) const FINGERPRINT: &str = concat!("heph-", env!("CARGO_PKG_VERSION"));

/// The body as what it must be: an object. The reader would take a list of its values for one.
pub(crate) fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    if body.trim_ascii_start().first() == Some(&b'[') {
        return Err(Refusal::bad("the body is a list, and must be an object").code("invalid_json"));
    }
    serde_json::from_slice(body)
        .map_err(|e| Refusal::bad(format!("the body cannot be read: {e}")).code("invalid_json"))
}

/// The fields about sampling that chat and completions share, and those of other servers that clients send.
#[derive(Debug, Clone, Default, Deserialize, utoipa::ToSchema)]
pub(crate) struct SamplingFields {
    /// 0 takes the likeliest token, always.
    pub(crate) temperature: Option<f64>,
    /// The likeliest tokens that together reach this probability.
    pub(crate) top_p: Option<f64>,
    /// So many of the likeliest tokens.
    pub(crate) top_k: Option<i64>,
    /// Tokens at least this fraction as likely as the likeliest.
    pub(crate) min_p: Option<f64>,
    /// Divides the logits of recent tokens.
    #[serde(alias = "repetition_penalty")]
    pub(crate) repeat_penalty: Option<f64>,
    /// Subtracted once per occurrence.
    pub(crate) frequency_penalty: Option<f64>,
    /// Subtracted once.
    pub(crate) presence_penalty: Option<f64>,
    /// Added to the logits of tokens, by id.
    #[schema(value_type = Object)]
    pub(crate) logit_bias: Option<Map<String, Value>>,
    /// The same seed, the same text, on every machine.
    pub(crate) seed: Option<i64>,
}

impl From<SamplingFields> for Sampling {
    fn from(fields: SamplingFields) -> Self {
        Self {
            temperature: fields.temperature,
            top_p: fields.top_p,
            top_k: fields.top_k,
            min_p: fields.min_p,
            repeat_penalty: fields.repeat_penalty,
            frequency_penalty: fields.frequency_penalty,
            presence_penalty: fields.presence_penalty,
            logit_bias: fields.logit_bias,
            seed: fields.seed,
            ..Self::default()
        }
    }
}

/// One text or several.
#[derive(Debug, Clone, Deserialize, utoipa::ToSchema)]
#[serde(untagged)]
pub(crate) enum OneOrMany {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

impl OneOrMany {
    pub(crate) fn list(option: Option<Self>) -> Vec<String> {
        match option {
            None => Vec::new(),
            Some(Self::One(text)) => vec![text],
            Some(Self::Many(texts)) => texts,
        }
    }
}

/// What `stream_options` says.
#[derive(Debug, Clone, Default, Deserialize, utoipa::ToSchema)]
pub(crate) struct StreamOptions {
    /// Whether the tokens are told after the last choice.
    pub(crate) include_usage: Option<bool>,
}

/// The form that `response_format` asks for.
pub(crate) fn form(format: Option<&Value>) -> Result<Form, Refusal> {
    let Some(format) = format.filter(|f| !f.is_null()) else {
        return Ok(Form::Text);
    };
    match format["type"].as_str() {
        Some("text") => Ok(Form::Text),
        Some("json_object") => Ok(Form::Object),
        Some("json_schema") => {
            // Chat has the schema one level down, the Responses API has it beside the type.
            let inner = if format["json_schema"].is_object() {
                &format["json_schema"]
            } else {
                format
            };
            match &inner["schema"] {
                Value::Object(schema) => Ok(Form::Schema(Value::Object(schema.clone()))),
                _ => Err(Refusal::param(
                    "response_format",
                    "json_schema needs an object called schema",
                )),
            }
        }
        _ => Err(Refusal::param(
            "response_format",
            "its type is text, json_object or json_schema",
        )),
    }
}

pub(crate) fn finish_reason(finish: &Finish) -> &'static str {
    match finish {
        Finish::Stop | Finish::StopText(_) => "stop",
        Finish::Length => "length",
        Finish::Calls => "tool_calls",
    }
}

/// The tokens of a chat choice with their probabilities.
pub(crate) fn chat_logprobs(words: &Words, said: &[Said]) -> Vec<Value> {
    let one = |token: TokenId, value: f64| {
        let bytes = spelled(words, token);
        json!({ "token": String::from_utf8_lossy(&bytes), "logprob": finite(value), "bytes": bytes })
    };
    said.iter()
        .filter_map(|said| said.report.as_ref())
        .map(|report| {
            let mut entry = one(report.chosen.token, report.chosen.value);
            let top = report.top.iter().map(|t| one(t.token, t.value)).collect();
            entry["top_logprobs"] = Value::Array(top);
            entry
        })
        .collect()
}

/// What a token adds to a text, or how a control token is written.
pub(crate) fn spelled(words: &Words, token: TokenId) -> Vec<u8> {
    match words.tokenizer.is_control(token) {
        true => words
            .tokenizer
            .token_text(token)
            .unwrap_or_default()
            .as_bytes()
            .to_vec(),
        false => words.tokenizer.token_bytes(token).to_vec(),
    }
}

/// JSON knows no infinity; APIs write this instead of an impossible token's.
pub(crate) fn finite(value: f64) -> f64 {
    value.max(-9999.0)
}
