//! OpenAI's shapes.

pub(crate) mod chat;
pub(crate) mod chunks;
pub(crate) mod completions;
pub(crate) mod embeddings;
pub(crate) mod models;
pub(crate) mod responses;

use heph_engine::constrain::Shape;
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

/// The field of chat and completions that asks for a shape.
pub(crate) const FORMAT: &str = "response_format";

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
    #[schema(value_type = Option<Object>)]
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

/// The fields by which other servers ask for answers of a shape; enforced, and at most one of them.
#[derive(Debug, Clone, Default, Deserialize, utoipa::ToSchema)]
pub(crate) struct Guides {
    /// A regular expression that the whole answer matches, as vLLM has it.
    guided_regex: Option<String>,
    /// A grammar in the form of Lark or GBNF, as vLLM has it.
    guided_grammar: Option<String>,
    /// A JSON schema, or one as a text, as vLLM has it.
    #[schema(value_type = Option<Object>)]
    guided_json: Option<Value>,
    /// The answers to choose from, as vLLM has it.
    guided_choice: Option<Vec<String>>,
    /// The same four as `regex`, `grammar`, `json` and `choice` of an object, as vLLM has it now.
    #[schema(value_type = Option<Object>)]
    structured_outputs: Option<Value>,
    /// A grammar in GBNF (or Lark), as llama.cpp's server has it.
    grammar: Option<String>,
    /// A JSON schema, as llama.cpp's server has it.
    #[schema(value_type = Option<Object>)]
    json_schema: Option<Value>,
    /// A regular expression, as SGLang has it.
    regex: Option<String>,
    /// Not known here: refused.
    #[schema(value_type = Option<Object>)]
    guided_whitespace_pattern: Option<Value>,
    /// A grammar in another form, as SGLang has it: refused.
    ebnf: Option<String>,
}

impl Guides {
    /// The one form that is asked for, with the name of its field.
    fn form(self) -> Result<Option<(&'static str, Form)>, Refusal> {
        for (name, given) in [
            (
                "guided_whitespace_pattern",
                self.guided_whitespace_pattern.is_some_and(|v| !v.is_null()),
            ),
            ("ebnf", self.ebnf.is_some()),
        ] {
            if given {
                let sentence = format!(
                    "{name} is not known here: send a regex, a grammar in GBNF or Lark, or a JSON schema"
                );
                return Err(Refusal::param(name, sentence));
            }
        }
        let mut asked = Vec::new();
        let mut add = |name, form| asked.push((name, form));
        for (name, expression) in [("guided_regex", self.guided_regex), ("regex", self.regex)] {
            expression
                .into_iter()
                .for_each(|e| add(name, Form::Words(Shape::Regex(e))));
        }
        let grammar = self.grammar.filter(|grammar| !grammar.is_empty());
        for (name, grammar) in [("guided_grammar", self.guided_grammar), ("grammar", grammar)] {
            grammar
                .into_iter()
                .for_each(|g| add(name, Form::Words(Shape::Lark(g))));
        }
        for (name, schema) in [
            ("guided_json", self.guided_json),
            ("json_schema", self.json_schema),
        ] {
            if let Some(schema) = schema.filter(|schema| !schema.is_null()) {
                add(name, schema_form(name, schema)?);
            }
        }
        if let Some(texts) = self.guided_choice {
            add("guided_choice", Form::Words(Shape::Choice(texts)));
        }
        if let Some(outputs) = self.structured_outputs.filter(|outputs| !outputs.is_null()) {
            add("structured_outputs", structured(&outputs)?);
        }
        match asked.len() {
            0 | 1 => Ok(asked.pop()),
            _ => Err(Refusal::param(
                asked[1].0,
                format!(
                    "an answer has one shape: {} and {} are both given",
                    asked[0].0, asked[1].0
                ),
            )),
        }
    }
}

/// A schema as an object, or as the text of one.
fn schema_form(name: &'static str, schema: Value) -> Result<Form, Refusal> {
    let read = match schema {
        Value::String(text) => serde_json::from_str(&text).ok(),
        other => Some(other),
    };
    match read {
        Some(schema @ Value::Object(_)) => Ok(Form::Schema(schema)),
        _ => Err(Refusal::param(
            name,
            format!("{name} is no JSON schema: an object is needed"),
        )),
    }
}

/// The form of vLLM's `structured_outputs`.
fn structured(outputs: &Value) -> Result<Form, Refusal> {
    const NAME: &str = "structured_outputs";
    let given = outputs
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(_, value)| !value.is_null());
    let given: Vec<_> = given.collect();
    let wrong = || {
        Refusal::param(
            NAME,
            "structured_outputs holds one of regex, grammar, json and choice",
        )
    };
    let [(key, value)] = given.as_slice() else {
        return Err(wrong());
    };
    let text = || value.as_str().map(str::to_owned).ok_or_else(wrong);
    match key.as_str() {
        "regex" => Ok(Form::Words(Shape::Regex(text()?))),
        "grammar" => Ok(Form::Words(Shape::Lark(text()?))),
        "json" => schema_form(NAME, (*value).clone()),
        "choice" => {
            let texts = value.as_array().ok_or_else(wrong)?.iter();
            let texts: Option<Vec<String>> = texts.map(|text| text.as_str().map(str::to_owned)).collect();
            Ok(Form::Words(Shape::Choice(texts.ok_or_else(wrong)?)))
        }
        _ => Err(wrong()),
    }
}

/// The form that an API's own field `field` asks for, which is `own`, or the fields of other servers.
pub(crate) fn guided(field: &'static str, own: Form, guides: Guides) -> Result<Form, Refusal> {
    match (own, guides.form()?) {
        (own, None) => Ok(own),
        (Form::Text, Some((_, form))) => Ok(form),
        (_, Some((name, _))) => Err(Refusal::param(
            name,
            format!("an answer has one shape: {field} and {name} are both given"),
        )),
    }
}

/// The form that `response_format` asks for, or what another API calls `field`.
pub(crate) fn form(field: &'static str, format: Option<&Value>) -> Result<Form, Refusal> {
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
                _ => Err(Refusal::param(field, "json_schema needs an object called schema")),
            }
        }
        _ => Err(Refusal::param(
            field,
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
