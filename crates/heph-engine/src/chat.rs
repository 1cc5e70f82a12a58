//! A conversation as the text a model was trained on: the Jinja template that comes with the model, rendered
//! as Hugging Face's `apply_chat_template` does.
//!
//! The template is not trusted: it can call nothing but string and list work. Its source, the length of its expressions,
//! its steps and the bytes it makes (both are paid from one budget), the depth of its values and its output are bounded,
//! so that no template takes more than some hundred MB, or more stack than a thread has. The time of day is an argument.
//! Knows no token.

mod clock;
mod filters;
mod json;
mod methods;
mod python;
mod source;
#[cfg(test)]
mod tests;

use std::io;

use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior, Value};

pub use clock::LocalTime;

/// A template, compiled.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
}

/// What a template is rendered with.
#[derive(Debug, Clone)]
pub struct ChatInput<'a> {
    /// The conversation: a list of objects with `role`, `content` and whatever else the template knows.
    pub messages: &'a serde_json::Value,
    /// Descriptions of the tools on offer: a list of objects.
    pub tools: Option<&'a serde_json::Value>,
    /// Whether the text ends with the start of an answer.
    pub add_generation_prompt: bool,
    /// Spelling of the beginning-of-text token.
    pub bos_token: &'a str,
    /// Spelling of the end-of-text token.
    pub eos_token: &'a str,
    /// Further variables, such as `enable_thinking`; they hide those above of the same name.
    pub kwargs: &'a serde_json::Map<String, serde_json::Value>,
    /// What `strftime_now` takes for now.
    pub now: LocalTime,
}

/// Why a conversation has no text.
#[derive(Debug, thiserror::Error)]
pub enum ChatError {
    /// The template is not valid.
    #[error("the chat template is not valid: {0}")]
    Template(String),
    /// The template refuses this conversation.
    #[error("the chat template refuses: {0}")]
    Refused(String),
    /// The template fails on this conversation, or is too long at work.
    #[error("the chat template failed: {0}")]
    Render(String),
    /// Nobody waits for the text any more.
    #[error("the chat template was stopped")]
    Stopped,
}

/// What a template may do: a unit runs one instruction, or makes 64 bytes of text or list. It is some hundred times what
/// a long conversation takes, and 256 MiB of text.
const FUEL: u64 = 4 << 20;

/// Fuel on top for each byte of the conversation: a template may look at every word of it some hundred times.
const FUEL_PER_BYTE: u64 = 4;

/// Nesting of macros and loops.
const DEPTH: usize = 200;

/// Bytes a template may write, and that one of its texts may have: more than any context holds.
const OUTPUT_MAX: usize = 16 << 20;

/// Bytes a template itself may have: the largest of those known have 17 kB.
const SOURCE_MAX: usize = 128 << 10;

const NAME: &str = "chat";

impl ChatTemplate {
    /// Compiles the Jinja source of a template.
    ///
    /// # Errors
    /// [`ChatError::Template`] for sources that are no template or too long.
    pub fn new(source: &str) -> Result<Self, ChatError> {
        if source.len() > SOURCE_MAX {
            return Err(ChatError::Template(format!(
                "it is longer than {SOURCE_MAX} bytes"
            )));
        }
        let wrong = |cause: Error| ChatError::Template(cause.to_string());
        let mut environment = environment().map_err(wrong)?;
        let source = source::translate(source).map_err(|why| ChatError::Template(why.to_owned()))?;
        environment.add_template_owned(NAME, source).map_err(wrong)?;
        Ok(Self { environment })
    }

    /// The text of a conversation.
    ///
    /// # Errors
    /// [`ChatError::Refused`] where the template calls `raise_exception`; [`ChatError::Render`] where it fails.
    pub fn render(&self, input: &ChatInput<'_>) -> Result<String, ChatError> {
        self.render_unless(input, &|| false)
    }

    /// The same, as long as `stop` does not say that nobody waits for it; it is asked whenever the template writes something.
    ///
    /// # Errors
    /// As [`ChatTemplate::render`], and [`ChatError::Stopped`].
    pub fn render_unless(&self, input: &ChatInput<'_>, stop: &dyn Fn() -> bool) -> Result<String, ChatError> {
        let mut environment = self.environment.clone();
        environment.set_fuel(Some(FUEL + FUEL_PER_BYTE * input.bytes()));
        let now = input.now;
        environment.add_function("strftime_now", move |format: &str| now.format(format));
        let template = environment
            .get_template(NAME)
            .map_err(|cause| ChatError::Template(cause.to_string()))?;
        let mut output = Bounded {
            text: Vec::new(),
            stop,
            stopped: false,
        };
        let written = template.render_captured_to(input.context(), &mut output);
        let (text, stopped) = (output.text, output.stopped);
        match written {
            Err(_) if stopped => Err(ChatError::Stopped),
            Err(error) => Err(error.into()),
            Ok(_) => String::from_utf8(text).map_err(|cause| ChatError::Render(cause.to_string())),
        }
    }
}

impl ChatInput<'_> {
    /// About how long the conversation is.
    fn bytes(&self) -> u64 {
        let others = self.kwargs.values().chain(self.tools);
        others.chain([self.messages]).map(bytes).sum()
    }

    fn context(&self) -> Value {
        let text = |text: &str| Value::from(text);
        let fixed = [
            ("messages", python::value(self.messages)),
            ("tools", self.tools.map_or(Value::from(()), python::value)),
            ("documents", Value::from(())),
            ("add_generation_prompt", Value::from(self.add_generation_prompt)),
            ("bos_token", text(self.bos_token)),
            ("eos_token", text(self.eos_token)),
        ];
        let fixed = fixed.into_iter().map(|(name, value)| (name.to_owned(), value));
        let named = self
            .kwargs
            .iter()
            .map(|(name, value)| (name.clone(), python::value(value)));
        Value::from_pairs(fixed.chain(named))
    }
}

/// About how many bytes `json` has as text.
fn bytes(json: &serde_json::Value) -> u64 {
    use serde_json::Value as Json;
    match json {
        Json::Null | Json::Bool(_) | Json::Number(_) => 1,
        Json::String(text) => text.len() as u64,
        Json::Array(items) => items.iter().map(bytes).sum::<u64>() + 1,
        Json::Object(entries) => entries
            .iter()
            .map(|(key, item)| key.len() as u64 + bytes(item))
            .sum(),
    }
}

impl From<Error> for ChatError {
    fn from(error: Error) -> Self {
        let detail = error.detail().unwrap_or_default();
        match detail.strip_prefix(REFUSAL) {
            Some(reason) => Self::Refused(reason.to_owned()),
            None => Self::Render(error.to_string()),
        }
    }
}

/// Marks the errors that a template raised itself.
const REFUSAL: &str = "raise_exception: ";

fn environment() -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    environment.set_syntax(
        SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()?,
    );
    environment.set_undefined_behavior(UndefinedBehavior::Lenient);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_recursion_limit(DEPTH);
    environment.set_unknown_method_callback(methods::call);
    environment.set_formatter(|out, _, value| {
        out.write_str(&python::text(value))
            .map_err(|_| Error::new(ErrorKind::WriteFailure, "output is too long"))
    });
    environment.add_function("raise_exception", |reason: &Value| -> Result<Value, Error> {
        Err(Error::new(
            ErrorKind::InvalidOperation,
            format!("{REFUSAL}{}", python::text(reason)),
        ))
    });
    filters::add(&mut environment);
    Ok(environment)
}

/// Memory for a template's output, up to [`OUTPUT_MAX`], as long as somebody waits for it.
struct Bounded<'a> {
    text: Vec<u8>,
    stop: &'a dyn Fn() -> bool,
    stopped: bool,
}

impl io::Write for Bounded<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stopped = (self.stop)();
        if self.stopped {
            return Err(io::Error::other("nobody waits"));
        }
        if self.text.len() + bytes.len() > OUTPUT_MAX {
            return Err(io::Error::other("the output is too long"));
        }
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
