//! Tools: how a model is told of them, what a call looks like, and how it is read while it comes.
//!
//! Calls are enforced: the answer's shape is a grammar made from the tools' own schemas. Each family of models writes
//! calls in its own form; a model that was never trained to call is told the commonest one in a system message.

mod reader;

pub(crate) use reader::{CallReader, Read};

use heph_engine::constrain::Shape;
use heph_runtime::words::Words;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::error::Refusal;

/// Tools of one request.
const TOOLS_MAX: usize = 128;

/// A tool on offer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Tool {
    pub(crate) name: String,
    pub(crate) description: String,
    /// A JSON schema of its arguments.
    pub(crate) parameters: Value,
}

impl Tool {
    /// A tool with a checked name.
    pub(crate) fn new(
        name: &str,
        description: Option<&str>,
        parameters: Option<&Value>,
    ) -> Result<Self, Refusal> {
        let sound = |b: u8| b.is_ascii_alphanumeric() || b"_-.:".contains(&b);
        if name.is_empty() || name.len() > 128 || !name.bytes().all(sound) {
            let sentence = "a tool's name has 1 to 128 letters, digits, '_', '-', '.' or ':'";
            return Err(Refusal::param("tools", sentence));
        }
        let parameters = match parameters {
            None | Some(Value::Null) => {
                json!({ "type": "object", "properties": {}, "additionalProperties": false })
            }
            Some(Value::Object(schema)) => {
                let mut schema = schema.clone();
                schema.entry("type").or_insert_with(|| json!("object"));
                Value::Object(schema)
            }
            Some(_) => {
                return Err(Refusal::param(
                    "tools",
                    format!("the parameters of {name} are no JSON schema"),
                ));
            }
        };
        Ok(Self {
            name: name.to_owned(),
            description: description.unwrap_or_default().to_owned(),
            parameters,
        })
    }

    fn for_template(&self) -> Value {
        json!({ "type": "function", "function": {
            "name": self.name, "description": self.description, "parameters": self.parameters,
        } })
    }

    /// `name(room: "kitchen" | "hall", on: boolean)`, as short as a small context needs it.
    fn signature(&self) -> String {
        let properties = self.parameters["properties"].as_object();
        let parts = properties
            .into_iter()
            .flatten()
            .map(|(name, schema)| format!("{name}: {}", kind(schema)));
        let list: Vec<_> = parts.collect();
        let about = match self.description.is_empty() {
            true => String::new(),
            false => format!(" - {}", self.description),
        };
        format!("{}({}){about}", self.name, list.join(", "))
    }
}

fn kind(schema: &Value) -> String {
    if let Some(values) = schema["enum"].as_array() {
        let values: Vec<_> = values.iter().map(Value::to_string).collect();
        return values.join(" | ");
    }
    match &schema["type"] {
        Value::String(kind) => kind.clone(),
        _ => "any".to_owned(),
    }
}

/// Whether tools are to be called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Choice {
    /// They are not.
    None,
    /// As the model likes.
    Auto,
    /// At least one.
    Required,
    /// This one.
    Named(String),
}

/// The tools of a request and what is to be done with them.
#[derive(Debug, Clone)]
pub(crate) struct Toolbox {
    pub(crate) tools: Vec<Tool>,
    pub(crate) choice: Choice,
    pub(crate) parallel: bool,
}

impl Toolbox {
    /// Nothing to call.
    pub(crate) fn empty() -> Self {
        Self {
            tools: Vec::new(),
            choice: Choice::None,
            parallel: true,
        }
    }

    /// Checked tools.
    pub(crate) fn new(tools: Vec<Tool>, choice: Option<Choice>, parallel: bool) -> Result<Self, Refusal> {
        if tools.len() > TOOLS_MAX {
            return Err(Refusal::param(
                "tools",
                format!("there are more than {TOOLS_MAX} tools"),
            ));
        }
        let known = |name: &str| tools.iter().any(|tool| tool.name == name);
        let choice = match choice {
            Some(Choice::Named(name)) if !known(&name) => {
                return Err(Refusal::param(
                    "tool_choice",
                    format!("no tool is called {name:?}"),
                ));
            }
            Some(Choice::Required) if tools.is_empty() => {
                return Err(Refusal::param(
                    "tool_choice",
                    "a tool is to be called, and there is none",
                ));
            }
            Some(choice) => choice,
            None if tools.is_empty() => Choice::None,
            None => Choice::Auto,
        };
        Ok(Self {
            tools,
            choice,
            parallel,
        })
    }

    /// Whether the answer may hold calls.
    pub(crate) fn may_call(&self) -> bool {
        self.choice != Choice::None && !self.tools.is_empty()
    }

    /// Whether the answer is to be a call and nothing else.
    pub(crate) fn must_call(&self) -> bool {
        matches!(self.choice, Choice::Required | Choice::Named(_))
    }

    fn callable(&self) -> impl Iterator<Item = &Tool> {
        self.tools.iter().filter(|tool| match &self.choice {
            Choice::Named(name) => tool.name == *name,
            Choice::None | Choice::Auto | Choice::Required => true,
        })
    }

    /// The only tool that can be called, with the beginning of its call, where the answer is one call and nothing else. The
    /// prompt then ends with that beginning, and the answer is the arguments.
    pub(crate) fn begun(&self, form: &CallForm) -> Option<(&Tool, String)> {
        let once = matches!(self.choice, Choice::Named(_)) || !self.parallel || !form.native;
        let mut callable = self.callable();
        let tool = callable.next().filter(|_| self.must_call() && once)?;
        if callable.next().is_some() {
            return None;
        }
        let Style { open, key, .. } = form.style;
        Some((
            tool,
            format!("{open}{{\"name\": {}, \"{key}\": ", json!(tool.name)),
        ))
    }

    /// What the answer must look like; nothing where it may be any text.
    pub(crate) fn shape(&self, form: &CallForm) -> Option<Shape> {
        if !self.may_call() || (!self.must_call() && !form.native) {
            return None;
        }
        if let Some((tool, _)) = self.begun(form) {
            return Some(Shape::JsonSchema(compact(&tool.parameters)));
        }
        let Style { open, key, close } = form.style;
        let mut rules = String::new();
        let mut names = Vec::new();
        for (at, tool) in self.callable().enumerate() {
            let head = format!("{{\"name\": {}, \"{key}\": ", json!(tool.name));
            rules.push_str(&format!("call_{at}: {} args_{at} \"}}\"\n", quoted(&head)));
            rules.push_str(&format!("args_{at}: %json {}\n", compact(&tool.parameters)));
            names.push(format!("call_{at}"));
        }
        let one = names.join(" | ");
        let (open, close) = (visible(open, form), visible(close, form));
        let wrap = |inner: &str| {
            let part = |text: &str| {
                if text.is_empty() {
                    String::new()
                } else {
                    quoted(text)
                }
            };
            format!("{} {inner} {}", part(&open), part(&close))
        };
        // A model that was never trained to call would call until its tokens are gone.
        let again = match self.parallel && form.native && !open.is_empty() {
            true => format!(" (\"\\n\" {})*", wrap("one")),
            false => String::new(),
        };
        let start = if self.must_call() {
            format!("start: {}{again}\n", wrap("one"))
        } else if open.is_empty() {
            return None;
        } else {
            let rest = if close.is_empty() {
                "one".to_owned()
            } else {
                format!("one {}", quoted(&close))
            };
            format!(
                "start: (head {rest})* text\nhead[lazy]: TEXT {}\ntext: TEXT\nTEXT: /(.|\\n)*/\n",
                quoted(&open)
            )
        };
        Some(Shape::Lark(format!("{start}one: {one}\n{rules}")))
    }

    /// The tools as a template takes them.
    pub(crate) fn for_template(&self) -> Option<Value> {
        self.may_call()
            .then(|| Value::Array(self.tools.iter().map(Tool::for_template).collect()))
    }

    /// What a model without a form of its own is told.
    pub(crate) fn told(&self) -> Option<String> {
        self.may_call().then(|| {
            let list: Vec<_> = self.tools.iter().map(Tool::signature).collect();
            format!(
                "You can call these tools:\n{}\nTo call one, answer only with\n<tool_call>\n\
                 {{\"name\": \"...\", \"arguments\": {{...}}}}\n</tool_call>",
                list.join("\n")
            )
        })
    }
}

/// A schema written without room to ramble between its words.
pub(crate) fn compact(schema: &Value) -> Value {
    let mut schema = schema.clone();
    if let Value::Object(map) = &mut schema {
        map.insert(
            "x-guidance".to_owned(),
            json!({ "whitespace_flexible": false, "item_separator": ", ", "key_separator": ": " }),
        );
    }
    schema
}

/// A text as a literal of a grammar.
fn quoted(text: &str) -> String {
    json!(text).to_string()
}

/// A mark that the model writes as a control token has no text, and is left out.
fn visible(mark: &str, form: &CallForm) -> String {
    if form.marks_are_text {
        mark.to_owned()
    } else {
        String::new()
    }
}

/// How calls are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Style {
    pub(crate) open: &'static str,
    /// What the arguments are called.
    pub(crate) key: &'static str,
    pub(crate) close: &'static str,
}

/// Hermes, Qwen and most others.
const HERMES: Style = Style {
    open: "<tool_call>\n",
    key: "arguments",
    close: "\n</tool_call>",
};

/// Llama 3.
const LLAMA: Style = Style {
    open: "",
    key: "parameters",
    close: "",
};

/// Mistral.
const MISTRAL: Style = Style {
    open: "[TOOL_CALLS] [",
    key: "arguments",
    close: "]",
};

/// How a model writes calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CallForm {
    pub(crate) style: Style,
    /// Whether its template knows tools.
    pub(crate) native: bool,
    /// Whether the marks around a call are text and no control tokens.
    marks_are_text: bool,
}

impl CallForm {
    /// Looks how the model's template writes a call that was made.
    pub(crate) fn of(words: &Words) -> Self {
        let call = json!({ "type": "function", "id": "abcdefghi", "function": { "name": "probe", "arguments": { "at": 1 } } });
        let messages = json!([
            { "role": "user", "content": "?" },
            { "role": "assistant", "content": "", "tool_calls": [call] },
        ]);
        let tools = json!([Tool {
            name: "probe".to_owned(),
            description: "probes".to_owned(),
            parameters: json!({ "type": "object", "properties": { "at": { "type": "integer" } } }),
        }
        .for_template()]);
        let text = words
            .written(&messages, Some(&tools), &|| false)
            .and_then(Result::ok)
            .unwrap_or_default();
        let style = [
            ("[TOOL_CALLS]", MISTRAL),
            ("<tool_call>", HERMES),
            ("\"parameters\": {\"at\"", LLAMA),
        ];
        let known = style.into_iter().find(|(mark, _)| text.contains(mark));
        let control = |text: &str| {
            words
                .tokenizer
                .token_of_text(text)
                .is_some_and(|t| words.tokenizer.is_control(t))
        };
        match known {
            Some((mark, style)) => Self {
                style,
                native: true,
                marks_are_text: !control(mark),
            },
            None => Self {
                style: HERMES,
                native: false,
                marks_are_text: true,
            },
        }
    }
}

/// A call that was made earlier in a conversation, as the APIs write it.
#[derive(Debug, Clone, Deserialize, utoipa::ToSchema)]
pub(crate) struct MadeCall {
    /// Its id.
    #[serde(default)]
    pub(crate) id: String,
    /// What was called.
    pub(crate) function: MadeFunction,
}

/// What was called, and with what.
#[derive(Debug, Clone, Deserialize, utoipa::ToSchema)]
pub(crate) struct MadeFunction {
    /// The tool.
    pub(crate) name: String,
    /// Its arguments: JSON, or JSON in a string.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub(crate) arguments: Value,
}

impl MadeCall {
    /// The arguments as a value, where they are JSON.
    pub(crate) fn arguments(&self) -> Value {
        match &self.function.arguments {
            Value::String(text) => serde_json::from_str(text).unwrap_or_else(|_| json!(text)),
            other => other.clone(),
        }
    }

    /// The call as a model without a form of its own was told to write it.
    pub(crate) fn told(&self) -> String {
        let call = json!({ "name": self.function.name, "arguments": self.arguments() });
        format!("<tool_call>\n{call}\n</tool_call>")
    }

    pub(crate) fn for_template(&self) -> Value {
        json!({ "type": "function", "id": self.id, "function": {
            "name": self.function.name, "arguments": self.arguments(),
        } })
    }
}

#[cfg(test)]
mod tests {
    use heph_engine::constrain::Constraint;
    use heph_engine::tokenizer::{AddSpecial, ParseSpecial};
    use heph_runtime::bundled;
    use heph_runtime::open;
    use heph_runtime::store::Found;

    use super::*;

    fn tool(name: &str) -> Tool {
        let schema = json!({
            "type": "object", "properties": { "city": { "type": "string" } }, "required": ["city"],
            "additionalProperties": false,
        });
        Tool::new(name, Some("Says \"hello\"."), Some(&schema)).unwrap()
    }

    /// Whether the shape of these calls takes `text` to its end, and whether the answer may end there.
    fn takes(style: Style, choice: Choice, text: &str) -> (bool, bool) {
        let words = open::words(&Found::Bundled(bundled::STORY)).unwrap();
        let shaper = words.shaper().unwrap().unwrap();
        let form = CallForm {
            style,
            native: true,
            marks_are_text: true,
        };
        let toolbox = Toolbox::new(vec![tool("get"), tool("put")], Some(choice), true).unwrap();
        let shape = toolbox.shape(&form).unwrap();
        let mut constraint: Constraint = shaper.constraint(&shape).unwrap();
        let tokens = words.tokenizer.encode(text, AddSpecial::No, ParseSpecial::No);
        let whole = tokens.iter().all(|token| constraint.accept(*token).is_ok());
        let end = words.tokenizer.eog_ids()[0];
        (
            whole,
            whole && constraint.allowed().is_ok_and(|allowed| allowed[end.index()]),
        )
    }

    #[test]
    fn each_style_has_a_grammar_of_its_calls() {
        let call = |key: &str| format!("{{\"name\": \"put\", \"{key}\": {{\"city\": \"Oslo\"}}}}");
        let hermes = format!("<tool_call>\n{}\n</tool_call>", call("arguments"));
        assert_eq!(takes(HERMES, Choice::Required, &hermes), (true, true));
        assert_eq!(takes(HERMES, Choice::Required, "Hello"), (false, false));
        let named = || Choice::Named("get".to_owned());
        assert_eq!(takes(HERMES, named(), &hermes), (false, false));
        assert_eq!(takes(HERMES, named(), "{\"city\": \"Oslo\"}"), (true, true));
        assert_eq!(
            takes(HERMES, Choice::Required, &format!("{hermes}\n{hermes}")),
            (true, true)
        );
        assert_eq!(takes(LLAMA, Choice::Required, &call("parameters")), (true, true));
        assert_eq!(
            takes(
                MISTRAL,
                Choice::Required,
                &format!("[TOOL_CALLS] [{}]", call("arguments"))
            ),
            (true, true)
        );
    }

    #[test]
    fn where_calls_are_free_text_is_too_and_calls_are_still_held_to_their_schemas() {
        assert_eq!(takes(HERMES, Choice::Auto, "Hello there. a < b"), (true, true));
        let call =
            "I look. <tool_call>\n{\"name\": \"get\", \"arguments\": {\"city\": \"Rome\"}}\n</tool_call>";
        assert_eq!(takes(HERMES, Choice::Auto, call), (true, true));
        assert!(!takes(HERMES, Choice::Auto, "<tool_call>\n{\"name\": \"steal\"").0);
    }
}
