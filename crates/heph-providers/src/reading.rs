//! What a provider's events say, whatever their shape.

use serde_json::Value;

use crate::frames::Framing;
use crate::provider::Dialect;

/// A piece of an answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Said {
    /// More text.
    Text(String),
    /// More of what the model thinks before it answers, which is no part of the answer.
    Thought(String),
    /// A tool is called.
    Call {
        /// What the call is called.
        id: String,
        /// The tool.
        name: String,
    },
    /// More of the arguments of the last call: JSON, in pieces.
    Arguments(String),
}

/// Why an answer ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The model ended it.
    Stop,
    /// This stop text came.
    StopText(String),
    /// It has as many tokens as asked for, or as the provider makes.
    Length,
    /// Tools are called.
    Calls,
    /// The provider does not want to say more.
    Withheld,
    /// The time was up, and something had been said.
    TimeUp,
}

/// What is wrong with an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wrong {
    /// It has no meaning.
    Nonsense(&'static str),
    /// The provider says in the middle that it failed.
    Failed(String),
}

/// Reads the events of one answer.
#[derive(Debug)]
pub(crate) struct Reading {
    dialect: Dialect,
    pub(crate) end: Option<End>,
    /// Tokens of the prompt and of the answer, as the provider counts them.
    pub(crate) usage: (Option<u64>, Option<u64>),
    /// Nothing comes any more.
    pub(crate) over: bool,
    /// OpenAI's number of the last call.
    call: Option<u64>,
    calls: usize,
    /// Whether the arguments of Anthropic's last call come in pieces.
    block_is_call: bool,
}

impl Reading {
    pub(crate) fn new(dialect: Dialect) -> Self {
        Self {
            dialect,
            end: None,
            usage: (None, None),
            over: false,
            call: None,
            calls: 0,
            block_is_call: false,
        }
    }

    /// How the dialect's streams are cut.
    pub(crate) fn framing(dialect: Dialect) -> Framing {
        match dialect {
            Dialect::Ollama => Framing::Lines,
            Dialect::OpenAi | Dialect::Anthropic | Dialect::Vllm | Dialect::LlamaServer | Dialect::Gemini => {
                Framing::Events
            }
        }
    }

    /// The content type that its streams have.
    pub(crate) fn content_type(dialect: Dialect) -> &'static str {
        match Self::framing(dialect) {
            Framing::Events => "text/event-stream",
            Framing::Lines => "application/x-ndjson",
        }
    }

    /// Reads one event.
    pub(crate) fn read(&mut self, data: &[u8], out: &mut Vec<Said>) -> Result<(), Wrong> {
        if data == b"[DONE]" {
            self.over = true;
            return Ok(());
        }
        let event: Value =
            serde_json::from_slice(data).map_err(|_| Wrong::Nonsense("an event is no JSON"))?;
        if !event.is_object() {
            return Err(Wrong::Nonsense("an event is no object"));
        }
        if let Some(error) = event.get("error").filter(|error| !error.is_null()) {
            return Err(Wrong::Failed(sentence(error)));
        }
        match self.dialect {
            Dialect::OpenAi | Dialect::Vllm | Dialect::LlamaServer => self.openai(&event, out),
            Dialect::Anthropic => self.anthropic(&event, out),
            Dialect::Ollama => self.ollama(&event, out),
            Dialect::Gemini => self.gemini(&event, out),
        }
    }

    fn count(&mut self, usage: &Value, prompt: &str, answer: &str) {
        let (old_prompt, old_answer) = self.usage;
        self.usage = (
            usage[prompt].as_u64().or(old_prompt),
            usage[answer].as_u64().or(old_answer),
        );
    }

    fn openai(&mut self, event: &Value, out: &mut Vec<Said>) -> Result<(), Wrong> {
        self.count(&event["usage"], "prompt_tokens", "completion_tokens");
        let Some(choice) = event["choices"].as_array().and_then(|choices| choices.first()) else {
            return Ok(());
        };
        let delta = &choice["delta"];
        // The newer name of the two is that of fewer.
        let thought = delta["reasoning_content"]
            .as_str()
            .or_else(|| delta["reasoning"].as_str());
        think(thought, out);
        say(delta["content"].as_str().or_else(|| choice["text"].as_str()), out);
        for call in delta["tool_calls"].as_array().into_iter().flatten() {
            let at = call["index"].as_u64().unwrap_or(0);
            let function = &call["function"];
            if self.call != Some(at) {
                let name = function["name"].as_str();
                let name = name.ok_or(Wrong::Nonsense("a call has no name"))?;
                if self.call.is_some_and(|last| at < last) {
                    return Err(Wrong::Nonsense("calls come mixed"));
                }
                self.call = Some(at);
                let id = call["id"].as_str().unwrap_or_default();
                self.called(id, name, out);
            }
            if let Some(text) = function["arguments"].as_str().filter(|text| !text.is_empty()) {
                out.push(Said::Arguments(text.to_owned()));
            }
        }
        if let Some(why) = choice["finish_reason"].as_str() {
            self.end = Some(match why {
                "length" => End::Length,
                "content_filter" => End::Withheld,
                "tool_calls" | "function_call" => End::Calls,
                _ => match choice["stop_reason"].as_str() {
                    Some(stop) => End::StopText(stop.to_owned()),
                    None => End::Stop,
                },
            });
        }
        Ok(())
    }

    fn anthropic(&mut self, event: &Value, out: &mut Vec<Said>) -> Result<(), Wrong> {
        match event["type"].as_str() {
            Some("message_start") => {
                self.count(&event["message"]["usage"], "input_tokens", "output_tokens");
            }
            Some("content_block_start") => {
                let block = &event["content_block"];
                self.block_is_call = block["type"] == "tool_use";
                if self.block_is_call {
                    let name = block["name"].as_str();
                    let name = name.ok_or(Wrong::Nonsense("a call has no name"))?;
                    let id = block["id"].as_str().unwrap_or_default();
                    self.called(id, name, out);
                } else {
                    think(block["thinking"].as_str(), out);
                    say(block["text"].as_str(), out);
                }
            }
            Some("content_block_delta") => {
                let delta = &event["delta"];
                match delta["type"].as_str() {
                    Some("text_delta") => say(delta["text"].as_str(), out),
                    Some("thinking_delta") => think(delta["thinking"].as_str(), out),
                    Some("input_json_delta") if self.block_is_call => {
                        let text = delta["partial_json"].as_str().unwrap_or_default();
                        if !text.is_empty() {
                            out.push(Said::Arguments(text.to_owned()));
                        }
                    }
                    // Signatures are for the provider alone.
                    _ => {}
                }
            }
            Some("message_delta") => {
                self.count(&event["usage"], "input_tokens", "output_tokens");
                let delta = &event["delta"];
                if let Some(why) = delta["stop_reason"].as_str() {
                    self.end = Some(match (why, delta["stop_sequence"].as_str()) {
                        ("max_tokens", _) => End::Length,
                        ("tool_use", _) => End::Calls,
                        ("refusal", _) => End::Withheld,
                        ("stop_sequence", Some(stop)) => End::StopText(stop.to_owned()),
                        _ => End::Stop,
                    });
                }
            }
            Some("message_stop") => self.over = true,
            // Pings, ends of blocks, and events that came to be later.
            Some(_) => {}
            None => return Err(Wrong::Nonsense("an event has no type")),
        }
        Ok(())
    }

    fn ollama(&mut self, event: &Value, out: &mut Vec<Said>) -> Result<(), Wrong> {
        let message = &event["message"];
        let thought = message["thinking"].as_str();
        think(thought.or_else(|| event["thinking"].as_str()), out);
        say(
            message["content"].as_str().or_else(|| event["response"].as_str()),
            out,
        );
        for call in message["tool_calls"].as_array().into_iter().flatten() {
            let function = &call["function"];
            let name = function["name"].as_str();
            let name = name.ok_or(Wrong::Nonsense("a call has no name"))?;
            self.called("", name, out);
            out.push(Said::Arguments(function["arguments"].to_string()));
        }
        if event["done"] == true {
            self.count(event, "prompt_eval_count", "eval_count");
            self.end = Some(match event["done_reason"].as_str() {
                Some("length") => End::Length,
                _ if self.calls > 0 => End::Calls,
                _ => End::Stop,
            });
            self.over = true;
        }
        Ok(())
    }

    fn gemini(&mut self, event: &Value, out: &mut Vec<Said>) -> Result<(), Wrong> {
        self.count(
            &event["usageMetadata"],
            "promptTokenCount",
            "candidatesTokenCount",
        );
        if event["promptFeedback"]["blockReason"].is_string() {
            self.end = Some(End::Withheld);
        }
        let candidate = &event["candidates"][0];
        for part in candidate["content"]["parts"].as_array().into_iter().flatten() {
            if part["thought"] == true {
                think(part["text"].as_str(), out);
                continue;
            }
            say(part["text"].as_str(), out);
            let call = &part["functionCall"];
            if call.is_object() {
                let name = call["name"].as_str();
                let name = name.ok_or(Wrong::Nonsense("a call has no name"))?;
                self.called(call["id"].as_str().unwrap_or_default(), name, out);
                out.push(Said::Arguments(call["args"].to_string()));
            }
        }
        if let Some(why) = candidate["finishReason"].as_str() {
            self.end = Some(match why {
                "MAX_TOKENS" => End::Length,
                "STOP" if self.calls > 0 => End::Calls,
                "STOP" => End::Stop,
                _ => End::Withheld,
            });
        }
        Ok(())
    }

    /// A call; one without an id gets one.
    fn called(&mut self, id: &str, name: &str, out: &mut Vec<Said>) {
        self.calls += 1;
        let id = match id.is_empty() {
            true => format!("call_{}", self.calls - 1),
            false => id.to_owned(),
        };
        let name = name.to_owned();
        out.push(Said::Call { id, name });
    }
}

fn say(text: Option<&str>, out: &mut Vec<Said>) {
    if let Some(text) = text.filter(|text| !text.is_empty()) {
        out.push(Said::Text(text.to_owned()));
    }
}

fn think(thought: Option<&str>, out: &mut Vec<Said>) {
    if let Some(thought) = thought.filter(|thought| !thought.is_empty()) {
        out.push(Said::Thought(thought.to_owned()));
    }
}

/// The sentence of an error in anybody's shape.
pub(crate) fn sentence(error: &Value) -> String {
    let text = error.as_str().or_else(|| error["message"].as_str());
    text.map_or_else(|| error.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_event_breaks_the_reader(events in proptest::collection::vec(event(), 0..6), which in 0..6usize) {
            let mut reading = Reading::new(Dialect::ALL[which]);
            for data in events {
                // Refused or read; never a panic.
                let _ = reading.read(data.as_bytes(), &mut Vec::new());
            }
        }
    }

    #[test]
    fn thoughts_are_no_part_of_the_answer() {
        let cases = [
            (
                Dialect::OpenAi,
                r#"{"choices":[{"delta":{"reasoning_content":"hm","content":"so"}}]}"#,
            ),
            (
                Dialect::Vllm,
                r#"{"choices":[{"delta":{"reasoning":"hm","content":"so"}}]}"#,
            ),
            (Dialect::Ollama, r#"{"message":{"thinking":"hm","content":"so"}}"#),
            (Dialect::Ollama, r#"{"thinking":"hm","response":"so"}"#),
            (
                Dialect::Gemini,
                r#"{"candidates":[{"content":{"parts":[{"text":"hm","thought":true},{"text":"so"}]}}]}"#,
            ),
        ];
        for (dialect, event) in cases {
            let mut said = Vec::new();
            Reading::new(dialect).read(event.as_bytes(), &mut said).unwrap();
            assert_eq!(
                said,
                [Said::Thought("hm".to_owned()), Said::Text("so".to_owned())],
                "{event}"
            );
        }
        let (mut reading, mut said) = (Reading::new(Dialect::Anthropic), Vec::new());
        for event in [
            r#"{"type":"content_block_start","content_block":{"type":"thinking","thinking":"h"}}"#,
            r#"{"type":"content_block_delta","delta":{"type":"thinking_delta","thinking":"m"}}"#,
            r#"{"type":"content_block_delta","delta":{"type":"signature_delta","signature":"x"}}"#,
            r#"{"type":"content_block_delta","delta":{"type":"text_delta","text":"so"}}"#,
        ] {
            reading.read(event.as_bytes(), &mut said).unwrap();
        }
        let thought = |text: &str| Said::Thought(text.to_owned());
        assert_eq!(said, [thought("h"), thought("m"), Said::Text("so".to_owned())]);
    }

    /// Sound events with a word of them exchanged, and noise.
    fn event() -> impl Strategy<Value = String> {
        let sound = prop::sample::select(vec![
            r#"{"choices":[{"delta":{"content":"x","tool_calls":[{"index":0,"id":"a","function":{"name":"f","arguments":"{"}}]},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":2}}"#,
            r#"{"type":"content_block_start","content_block":{"type":"tool_use","id":"a","name":"f"}}"#,
            r#"{"choices":[{"delta":{"reasoning_content":"hm","reasoning":"hm"},"finish_reason":null}]}"#,
            r#"{"type":"content_block_delta","delta":{"type":"thinking_delta","thinking":"hm"}}"#,
            r#"{"type":"message_delta","delta":{"stop_reason":"stop_sequence","stop_sequence":"x"},"usage":{"output_tokens":1}}"#,
            r#"{"message":{"content":"x","tool_calls":[{"function":{"name":"f","arguments":{}}}]},"done":true,"eval_count":1}"#,
            r#"{"candidates":[{"content":{"parts":[{"text":"x"},{"functionCall":{"name":"f","args":{}}}]},"finishReason":"STOP"}]}"#,
            r#"{"error":{"message":"no"}}"#,
        ]);
        let words = prop::sample::select(vec![
            "null", "[]", "{}", "-1", "1e999", "\"\"", "true", "[[[]]]", "",
        ]);
        prop_oneof![
            (sound, any::<prop::sample::Index>(), words).prop_map(|(text, at, word)| {
                let places: Vec<usize> = text.match_indices(':').map(|(at, _)| at + 1).collect();
                let place = places[at.index(places.len())];
                let end = text[place..]
                    .find([',', '}'])
                    .map_or(text.len(), |end| place + end);
                format!("{}{word}{}", &text[..place], &text[end..])
            }),
            ".{0,40}",
        ]
    }
}
