//! A question in the shape of each provider.

use serde_json::{Map, Value, json};

use crate::provider::{Dialect, Provider};
use crate::question::{Call, Form, Picture, Question, Sampling, Source, Tool, ToolChoice, Turn};

/// Tokens that Anthropic's models make where nobody says how many: the shape demands a number.
const ANTHROPIC_TOKENS: u64 = 4096;

/// A request, ready to be sent.
#[derive(Debug)]
pub(crate) struct Body {
    /// Behind the provider's address.
    pub(crate) path: String,
    pub(crate) json: Value,
    /// What was asked and cannot be said in this shape.
    pub(crate) dropped: Vec<&'static str>,
}

/// The question as `provider` is asked it, or what its shape cannot say at all.
pub(crate) fn body(provider: &Provider, question: &Question) -> Result<Body, &'static str> {
    match (provider.dialect, &question.source) {
        (Dialect::OpenAi | Dialect::Vllm | Dialect::LlamaServer, Source::Chat(turns)) => {
            Ok(chat(provider, question, turns))
        }
        (Dialect::OpenAi | Dialect::Vllm | Dialect::LlamaServer, Source::Text(text)) => {
            Ok(completion(provider, question, text))
        }
        (Dialect::Ollama, Source::Text(text)) => Ok(generate(question, text)),
        (Dialect::Anthropic | Dialect::Gemini, Source::Text(_)) => {
            Err("goes on with no text, and answers chats")
        }
        (Dialect::Ollama, Source::Chat(turns)) => ollama(question, turns),
        (Dialect::Anthropic, Source::Chat(turns)) => anthropic(question, turns),
        (Dialect::Gemini, Source::Chat(turns)) => gemini(question, turns),
    }
}

/// Numbers in the order of [`Sampling`], by the names that a shape has for them.
fn put_sampling(
    to: &mut Map<String, Value>,
    sampling: &Sampling,
    names: [Option<&'static str>; 8],
) -> Vec<&'static str> {
    let values = [
        ("temperature", sampling.temperature.map(Value::from)),
        ("top_p", sampling.top_p.map(Value::from)),
        ("top_k", sampling.top_k.map(Value::from)),
        ("min_p", sampling.min_p.map(Value::from)),
        ("repeat_penalty", sampling.repeat_penalty.map(Value::from)),
        ("frequency_penalty", sampling.frequency_penalty.map(Value::from)),
        ("presence_penalty", sampling.presence_penalty.map(Value::from)),
        ("seed", sampling.seed.map(Value::from)),
    ];
    let mut dropped = Vec::new();
    for ((own, value), name) in values.into_iter().zip(names) {
        match (value, name) {
            (Some(value), Some(name)) => {
                to.insert(name.to_owned(), value);
            }
            (Some(_), None) => dropped.push(own),
            (None, _) => {}
        }
    }
    dropped
}

fn put(to: &mut Map<String, Value>, name: &str, value: impl Into<Value>) {
    to.insert(name.to_owned(), value.into());
}

/// What OpenAI's two shapes have in common.
fn openai(provider: &Provider, question: &Question) -> (Map<String, Value>, Vec<&'static str>) {
    let mut map = Map::new();
    put(&mut map, "model", question.model.as_str());
    put(&mut map, "stream", true);
    put(&mut map, "stream_options", json!({ "include_usage": true }));
    let (t, p, f, s, seed) = (
        "temperature",
        "top_p",
        "frequency_penalty",
        "presence_penalty",
        "seed",
    );
    let more = |repeat| {
        [
            Some(t),
            Some(p),
            Some("top_k"),
            Some("min_p"),
            Some(repeat),
            Some(f),
            Some(s),
            Some(seed),
        ]
    };
    let names = match provider.dialect {
        Dialect::Vllm => more("repetition_penalty"),
        Dialect::LlamaServer => more("repeat_penalty"),
        _ => [Some(t), Some(p), None, None, None, Some(f), Some(s), Some(seed)],
    };
    let dropped = put_sampling(&mut map, &question.sampling, names);
    if !question.stops.is_empty() {
        put(&mut map, "stop", question.stops.clone());
    }
    (map, dropped)
}

fn chat(provider: &Provider, question: &Question, turns: &[Turn]) -> Body {
    let (mut map, dropped) = openai(provider, question);
    put(
        &mut map,
        "messages",
        turns.iter().map(openai_turn).collect::<Vec<_>>(),
    );
    if let Some(most) = question.max_tokens {
        // The newer name is the only one that OpenAI's newer models know, and unknown to others who speak this shape.
        let newer = provider.url.host() == "api.openai.com";
        let name = if newer {
            "max_completion_tokens"
        } else {
            "max_tokens"
        };
        put(&mut map, name, most);
    }
    if !question.tools.is_empty() {
        let tools = question.tools.iter().map(|tool| {
            let Tool { name, description, parameters } = tool;
            json!({ "type": "function", "function": { "name": name, "description": description, "parameters": parameters } })
        });
        put(&mut map, "tools", tools.collect::<Vec<_>>());
        let choice = match &question.choice {
            ToolChoice::Auto => json!("auto"),
            ToolChoice::None => json!("none"),
            ToolChoice::Required => json!("required"),
            ToolChoice::Named(name) => json!({ "type": "function", "function": { "name": name } }),
        };
        put(&mut map, "tool_choice", choice);
    }
    if let Some(form) = openai_form(&question.form) {
        put(&mut map, "response_format", form);
    }
    Body {
        path: "/chat/completions".to_owned(),
        json: Value::Object(map),
        dropped,
    }
}

fn openai_form(form: &Form) -> Option<Value> {
    match form {
        Form::Text => None,
        Form::Object => Some(json!({ "type": "json_object" })),
        Form::Schema(schema) => {
            Some(json!({ "type": "json_schema", "json_schema": { "name": "answer", "schema": schema } }))
        }
    }
}

fn openai_turn(turn: &Turn) -> Value {
    let mut told = json!({ "role": turn.role, "content": turn.content });
    if !turn.pictures.is_empty() {
        let picture = |Picture { kind, base64 }: &Picture| json!({ "type": "image_url", "image_url": { "url": format!("data:{kind};base64,{base64}") } });
        told["content"] = text_block(turn)
            .into_iter()
            .chain(turn.pictures.iter().map(picture))
            .collect();
    }
    if !turn.calls.is_empty() {
        let calls = turn.calls.iter().map(|Call { id, name, arguments }| {
            json!({ "id": id, "type": "function", "function": { "name": name, "arguments": arguments.to_string() } })
        });
        told["tool_calls"] = calls.collect();
    }
    if let Some(id) = &turn.call_id {
        told["tool_call_id"] = json!(id);
    }
    told
}

/// What was said, as a block; none where nothing was.
fn text_block(turn: &Turn) -> Option<Value> {
    (!turn.content.is_empty()).then(|| json!({ "type": "text", "text": turn.content }))
}

fn completion(provider: &Provider, question: &Question, text: &str) -> Body {
    let (mut map, dropped) = openai(provider, question);
    put(&mut map, "prompt", text);
    if let Some(most) = question.max_tokens {
        put(&mut map, "max_tokens", most);
    }
    if let Some(form) = openai_form(&question.form) {
        put(&mut map, "response_format", form);
    }
    Body {
        path: "/completions".to_owned(),
        json: Value::Object(map),
        dropped,
    }
}

fn ollama_options(question: &Question) -> Map<String, Value> {
    let mut options = Map::new();
    let names = [
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "repeat_penalty",
        "frequency_penalty",
        "presence_penalty",
        "seed",
    ];
    put_sampling(&mut options, &question.sampling, names.map(Some));
    if let Some(most) = question.max_tokens {
        put(&mut options, "num_predict", most);
    }
    if !question.stops.is_empty() {
        put(&mut options, "stop", question.stops.clone());
    }
    options
}

fn ollama_form(form: &Form) -> Option<Value> {
    match form {
        Form::Text => None,
        Form::Object => Some(json!("json")),
        Form::Schema(schema) => Some(schema.clone()),
    }
}

fn ollama(question: &Question, turns: &[Turn]) -> Result<Body, &'static str> {
    if !question.tools.is_empty()
        && question.choice != ToolChoice::Auto
        && question.choice != ToolChoice::None
    {
        return Err("cannot be told which tool to call");
    }
    let turn = |turn: &Turn| {
        let mut told = json!({ "role": turn.role, "content": turn.content });
        if !turn.pictures.is_empty() {
            told["images"] = turn
                .pictures
                .iter()
                .map(|picture| json!(picture.base64))
                .collect();
        }
        if !turn.calls.is_empty() {
            let calls = turn.calls.iter();
            let call =
                |call: &Call| json!({ "function": { "name": call.name, "arguments": call.arguments } });
            told["tool_calls"] = calls.map(call).collect();
        }
        if let Some(name) = &turn.name {
            told["tool_name"] = json!(name);
        }
        told
    };
    let messages: Vec<Value> = turns.iter().map(turn).collect();
    let mut json = json!({
        "model": question.model, "stream": true, "messages": messages, "options": ollama_options(question),
    });
    if question.choice == ToolChoice::Auto && !question.tools.is_empty() {
        let tools = question.tools.iter().map(|tool| {
            let Tool { name, description, parameters } = tool;
            json!({ "type": "function", "function": { "name": name, "description": description, "parameters": parameters } })
        });
        json["tools"] = tools.collect();
    }
    if let Some(form) = ollama_form(&question.form) {
        json["format"] = form;
    }
    Ok(Body {
        path: "/api/chat".to_owned(),
        json,
        dropped: Vec::new(),
    })
}

fn generate(question: &Question, text: &str) -> Body {
    let mut json = json!({
        "model": question.model, "stream": true, "prompt": text, "raw": true, "options": ollama_options(question),
    });
    if let Some(form) = ollama_form(&question.form) {
        json["format"] = form;
    }
    Body {
        path: "/api/generate".to_owned(),
        json,
        dropped: Vec::new(),
    }
}

/// System turns as one text, and the others.
fn parted(turns: &[Turn]) -> (String, Vec<&Turn>) {
    let system: Vec<&str> = turns
        .iter()
        .filter(|turn| turn.role == "system")
        .map(|turn| turn.content.as_str())
        .collect();
    let others = turns.iter().filter(|turn| turn.role != "system").collect();
    (system.join("\n\n"), others)
}

/// Turns in which user and assistant take turns: neighbours of one role are one message of several blocks.
fn taking_turns(
    turns: &[&Turn],
    model: &str,
    blocks_name: &str,
    blocks: impl Fn(&Turn) -> Vec<Value>,
) -> Vec<Value> {
    let mut messages: Vec<Value> = Vec::new();
    for turn in turns {
        let role = if turn.role == "assistant" { model } else { "user" };
        let blocks = blocks(turn);
        if blocks.is_empty() {
            continue;
        }
        match messages.last_mut().filter(|last| last["role"] == role) {
            Some(last) => {
                if let Some(list) = last[blocks_name].as_array_mut() {
                    list.extend(blocks);
                }
            }
            None => messages.push(json!({ "role": role, blocks_name: blocks })),
        }
    }
    messages
}

fn anthropic(question: &Question, turns: &[Turn]) -> Result<Body, &'static str> {
    if question.form != Form::Text {
        return Err("gives no answers of a shape that is asked for");
    }
    let (system, others) = parted(turns);
    let blocks = |turn: &Turn| {
        if turn.role == "tool" {
            let id = turn.call_id.as_deref().unwrap_or_default();
            return vec![json!({ "type": "tool_result", "tool_use_id": id, "content": turn.content })];
        }
        let picture = |Picture { kind, base64 }: &Picture| json!({ "type": "image", "source": { "type": "base64", "media_type": kind, "data": base64 } });
        let call = |call: &Call| {
            let Call { id, name, arguments } = call;
            json!({ "type": "tool_use", "id": id, "name": name, "input": arguments })
        };
        let shown = turn.pictures.iter().map(picture).chain(text_block(turn));
        shown.chain(turn.calls.iter().map(call)).collect()
    };
    let mut map = Map::new();
    put(&mut map, "model", question.model.as_str());
    put(&mut map, "stream", true);
    put(
        &mut map,
        "max_tokens",
        question.max_tokens.unwrap_or(ANTHROPIC_TOKENS),
    );
    put(
        &mut map,
        "messages",
        taking_turns(&others, "assistant", "content", blocks),
    );
    if !system.is_empty() {
        put(&mut map, "system", system);
    }
    let names = [
        Some("temperature"),
        Some("top_p"),
        Some("top_k"),
        None,
        None,
        None,
        None,
        None,
    ];
    let dropped = put_sampling(&mut map, &question.sampling, names);
    if !question.stops.is_empty() {
        put(&mut map, "stop_sequences", question.stops.clone());
    }
    if !question.tools.is_empty() {
        let tools = question.tools.iter().map(|tool| {
            json!({ "name": tool.name, "description": tool.description, "input_schema": tool.parameters })
        });
        put(&mut map, "tools", tools.collect::<Vec<_>>());
        let choice = match &question.choice {
            ToolChoice::Auto => json!({ "type": "auto" }),
            ToolChoice::None => json!({ "type": "none" }),
            ToolChoice::Required => json!({ "type": "any" }),
            ToolChoice::Named(name) => json!({ "type": "tool", "name": name }),
        };
        put(&mut map, "tool_choice", choice);
    }
    Ok(Body {
        path: "/v1/messages".to_owned(),
        json: Value::Object(map),
        dropped,
    })
}

fn gemini(question: &Question, turns: &[Turn]) -> Result<Body, &'static str> {
    // The model's name becomes part of the address.
    let letter = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    if !question.model.bytes().all(letter) {
        return Err("knows no model of such a name");
    }
    let (system, others) = parted(turns);
    let parts = |turn: &Turn| {
        if turn.role == "tool" {
            let name = turn
                .name
                .as_deref()
                .or(turn.call_id.as_deref())
                .unwrap_or_default();
            let response = json!({ "name": name, "response": { "result": turn.content } });
            return vec![json!({ "functionResponse": response })];
        }
        let picture = |Picture { kind, base64 }: &Picture| json!({ "inlineData": { "mimeType": kind, "data": base64 } });
        let text = (!turn.content.is_empty()).then(|| json!({ "text": turn.content }));
        let call = |call: &Call| json!({ "functionCall": { "name": call.name, "args": call.arguments } });
        let shown = turn.pictures.iter().map(picture).chain(text);
        shown.chain(turn.calls.iter().map(call)).collect()
    };
    let mut config = Map::new();
    let names = [
        Some("temperature"),
        Some("topP"),
        Some("topK"),
        None,
        None,
        Some("frequencyPenalty"),
        Some("presencePenalty"),
        Some("seed"),
    ];
    let dropped = put_sampling(&mut config, &question.sampling, names);
    if let Some(most) = question.max_tokens {
        put(&mut config, "maxOutputTokens", most);
    }
    if !question.stops.is_empty() {
        put(&mut config, "stopSequences", question.stops.clone());
    }
    match &question.form {
        Form::Text => {}
        Form::Object => put(&mut config, "responseMimeType", "application/json"),
        Form::Schema(schema) => {
            put(&mut config, "responseMimeType", "application/json");
            put(&mut config, "responseJsonSchema", schema.clone());
        }
    }
    let mut json =
        json!({ "contents": taking_turns(&others, "model", "parts", parts), "generationConfig": config });
    if !system.is_empty() {
        json["systemInstruction"] = json!({ "parts": [{ "text": system }] });
    }
    if !question.tools.is_empty() {
        let tools = question.tools.iter().map(|tool| {
            json!({ "name": tool.name, "description": tool.description, "parametersJsonSchema": tool.parameters })
        });
        json["tools"] = json!([{ "functionDeclarations": tools.collect::<Vec<_>>() }]);
        let config = match &question.choice {
            ToolChoice::Auto => json!({ "mode": "AUTO" }),
            ToolChoice::None => json!({ "mode": "NONE" }),
            ToolChoice::Required => json!({ "mode": "ANY" }),
            ToolChoice::Named(name) => json!({ "mode": "ANY", "allowedFunctionNames": [name] }),
        };
        json["toolConfig"] = json!({ "functionCallingConfig": config });
    }
    Ok(Body {
        path: format!("/v1beta/models/{}:streamGenerateContent?alt=sse", question.model),
        json,
        dropped,
    })
}
