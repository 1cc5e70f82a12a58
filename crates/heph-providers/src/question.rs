//! What a provider is asked, in nobody's shape.

use serde_json::Value;

/// One contribution to a conversation.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Turn {
    /// `system`, `user`, `assistant` or `tool`.
    pub role: String,
    /// What was said.
    pub content: String,
    /// Pictures that were shown with it; a user's only.
    pub pictures: Vec<Picture>,
    /// The tools that the assistant called.
    pub calls: Vec<Call>,
    /// Which call this is the result of.
    pub call_id: Option<String>,
    /// The tool whose result it is, where that is known.
    pub name: Option<String>,
}

/// A picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// What it is, as `image/png`.
    pub kind: String,
    /// Its bytes in base64.
    pub base64: String,
}

/// A call of a tool.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// What it is called.
    pub id: String,
    /// The tool.
    pub name: String,
    /// Its arguments, an object.
    pub arguments: Value,
}

/// A tool on offer.
#[derive(Debug, Clone, PartialEq)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// What it does.
    pub description: String,
    /// Its arguments, a JSON schema.
    pub parameters: Value,
}

/// What is to be done with the tools.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ToolChoice {
    /// As the model thinks.
    #[default]
    Auto,
    /// None is called.
    None,
    /// Some tool is called.
    Required,
    /// This one is called.
    Named(String),
}

/// What is gone on from.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    /// A conversation.
    Chat(Vec<Turn>),
    /// A text as it is.
    Text(String),
}

/// What an answer must look like.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Form {
    /// Any text.
    #[default]
    Text,
    /// A JSON object.
    Object,
    /// JSON of this schema.
    Schema(Value),
}

/// How words are chosen; what is not said is left to the provider.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Sampling {
    /// Divides the logits.
    pub temperature: Option<f64>,
    /// Keeps the likeliest tokens that together reach this.
    pub top_p: Option<f64>,
    /// Keeps so many of the likeliest.
    pub top_k: Option<i64>,
    /// Keeps tokens at least this fraction as likely as the likeliest.
    pub min_p: Option<f64>,
    /// Divides the logits of what was said.
    pub repeat_penalty: Option<f64>,
    /// Subtracted for each time a token was said.
    pub frequency_penalty: Option<f64>,
    /// Subtracted once from what was said.
    pub presence_penalty: Option<f64>,
    /// Key of the draw.
    pub seed: Option<i64>,
}

/// One question.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    /// The model, as the provider calls it.
    pub model: String,
    /// What is gone on from.
    pub source: Source,
    /// How words are chosen.
    pub sampling: Sampling,
    /// Tokens to make at most.
    pub max_tokens: Option<u64>,
    /// Texts that end the answer.
    pub stops: Vec<String>,
    /// The tools on offer.
    pub tools: Vec<Tool>,
    /// What is to be done with them.
    pub choice: ToolChoice,
    /// What the answer must look like.
    pub form: Form,
}

impl Question {
    /// A question with nothing said but the conversation.
    pub fn chat(model: &str, turns: Vec<Turn>) -> Self {
        Self {
            model: model.to_owned(),
            source: Source::Chat(turns),
            sampling: Sampling::default(),
            max_tokens: None,
            stops: Vec::new(),
            tools: Vec::new(),
            choice: ToolChoice::Auto,
            form: Form::Text,
        }
    }

    /// Whether a picture is shown.
    pub fn shows_pictures(&self) -> bool {
        match &self.source {
            Source::Text(_) => false,
            Source::Chat(turns) => turns.iter().any(|turn| !turn.pictures.is_empty()),
        }
    }

    /// Bytes of the text that is gone on from: no fewer than its tokens, whoever counts them.
    pub fn bytes(&self) -> usize {
        match &self.source {
            Source::Text(text) => text.len(),
            Source::Chat(turns) => turns
                .iter()
                .map(|turn| {
                    let calls = turn.calls.iter().map(|call| call.arguments.to_string().len());
                    turn.role.len() + turn.content.len() + calls.sum::<usize>()
                })
                .sum(),
        }
    }
}

impl Turn {
    /// A plain turn.
    pub fn new(role: &str, content: impl Into<String>) -> Self {
        Self {
            role: role.to_owned(),
            content: content.into(),
            ..Self::default()
        }
    }
}
