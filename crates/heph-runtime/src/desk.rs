//! The desk: takes a conversation, answers it, streams the text.
//!
//! Template, tokens, choice and text follow each other here; a [`Line`] of seats says which token comes next, wherever
//! its layers are. What the line holds is kept between answers, so that a conversation that goes on pays for its new
//! part only.

mod ahead;
mod relief;
mod speculation;
mod teller;

pub use relief::{Precision, Relief};
pub use speculation::{Expectation, GuessSource, Guessed, Plain, Speculation};
pub use teller::{Guess, Guesses, Pace};

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use heph_engine::chat::{ChatError, LocalTime};
use heph_engine::sample::{SamplingError, SamplingOptions};
use heph_engine::text::TextStream;
use heph_engine::tokenizer::{AddSpecial, ParseSpecial};
use heph_engine::worker::{ForwardError, Worker};
use heph_plan::ladder::TooLittleMemory;
use heph_types::{ModelHash, NodeId, TokenId};
use serde::{Deserialize, Serialize};
use teller::Teller;

use crate::cancel::Cancel;
use crate::line::{Line, LineError, LineLimits, LineModel, Move, Placement};
use crate::node::{Lent, Node, NodeCaps, StageError};
use crate::seat::{Refusal, SeatError, Traffic, Vouched};
use crate::words::Words;

/// One contribution to a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Whose it is: `system`, `user`, `assistant`, or what the model's template knows besides.
    pub role: String,
    /// What was said.
    pub content: String,
}

impl Message {
    /// A message of `role`.
    pub fn new(role: &str, content: impl Into<String>) -> Self {
        Self {
            role: role.to_owned(),
            content: content.into(),
        }
    }
}

/// What to answer.
#[derive(Debug, Clone, Copy)]
pub enum Prompt<'a> {
    /// A conversation, written as the model's template says.
    Chat(&'a [Message]),
    /// A text to go on with, as it is.
    Text(&'a str),
    /// Tokens to go on with.
    Tokens(&'a [TokenId]),
}

impl Prompt<'_> {
    /// Its tokens, as the model whose words these are reads them.
    ///
    /// # Errors
    /// When the model has no template for a conversation, or nothing was said.
    pub fn tokens(self, words: &Words) -> Result<Vec<TokenId>, DeskError> {
        let tokenizer = &words.tokenizer;
        let tokens = match self {
            Prompt::Text(text) => tokenizer.encode(text, AddSpecial::Yes, ParseSpecial::No),
            Prompt::Tokens(tokens) => tokens.to_vec(),
            Prompt::Chat(messages) => {
                let list = messages
                    .iter()
                    .map(|m| serde_json::json!({ "role": m.role, "content": m.content }));
                let list = serde_json::Value::Array(list.collect());
                let tokens = words.conversation(&list, None, &|| false);
                tokens.ok_or(DeskError::NoTemplate)??
            }
        };
        match (tokens.is_empty(), self) {
            (false, _) => Ok(tokens),
            (true, Prompt::Text("") | Prompt::Tokens(_) | Prompt::Chat([])) => Err(DeskError::Empty),
            (true, Prompt::Text(_) | Prompt::Chat(_)) => Err(DeskError::Wordless),
        }
    }
}

/// How to answer.
#[derive(Debug, Clone)]
pub struct AnswerOptions {
    /// How words are chosen.
    pub sampling: SamplingOptions,
    /// Tokens to make at most; `None` goes on to the end of the context.
    pub max_tokens: Option<usize>,
    /// Texts that end the answer and are not part of it.
    pub stops: Vec<String>,
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// The model ended it, or a stop text came.
    Stop,
    /// It has as many tokens as asked for.
    Length,
    /// The context is full.
    Context,
    /// Somebody asked to stop.
    Cancelled,
}

/// How long a machine may take to sign what it computed.
const VOUCHED_WITHIN: Duration = Duration::from_secs(2);

/// No model makes a token in so little time: those that come this fast were made before and came together.
const AT_ONCE: Duration = Duration::from_micros(5);

/// An answer and what it took.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The whole text.
    pub text: String,
    /// Its tokens.
    pub tokens: Vec<TokenId>,
    /// The prompt as the model read it.
    pub prompt: Vec<TokenId>,
    /// Those of them that the cache held already.
    pub cached_tokens: usize,
    /// Why it ended.
    pub finish: Finish,
    /// The stop text that ended it.
    pub stopped_by: Option<String>,
    /// Until the first token was chosen.
    pub prefill: Duration,
    /// From there to the last.
    pub decode: Duration,
    /// Who held which layers when it began: a line that lost somebody over an earlier answer goes on without.
    pub stages: Vec<Placement>,
    /// Stages that went from one node to another meanwhile.
    pub moves: Vec<Move>,
    /// What guessing ahead brought.
    pub guesses: Guesses,
    /// How often each of those who guess was right.
    pub guessed: Vec<Guessed>,
    /// Bytes on the network for it.
    pub traffic: Traffic,
    /// What was given up, for want of memory or because a way did not open, a sentence each.
    pub degraded: Vec<String>,
}

impl Answer {
    /// Tokens of the prompt that were computed, per second.
    pub fn prefill_tok_s(&self) -> f64 {
        (self.prompt.len() - self.cached_tokens) as f64 / self.prefill.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// Tokens made after the first one, per second; of an answer that came in one go, all of them in all of its time.
    pub fn decode_tok_s(&self) -> f64 {
        let later = self.tokens.len().saturating_sub(1);
        let (tokens, time) = match self.decode < AT_ONCE * later as u32 {
            true => (self.tokens.len(), self.prefill + self.decode),
            false => (later, self.decode),
        };
        tokens as f64 / time.as_secs_f64().max(f64::MIN_POSITIVE)
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum DeskError {
    /// The model was not made for conversations.
    #[error("the model has no chat template")]
    NoTemplate,
    /// The template does not take this conversation.
    #[error(transparent)]
    Template(#[from] ChatError),
    /// Nothing was said.
    #[error("the prompt is empty")]
    Empty,
    /// Something was said that the model has no tokens for.
    #[error("the model's vocabulary has no token for what was said")]
    Wordless,
    /// The conversation is longer than the context.
    #[error("the prompt has {tokens} tokens and the context holds {context}")]
    TooLong {
        /// Tokens of the prompt.
        tokens: usize,
        /// Positions of the context.
        context: usize,
    },
    /// A pass failed here.
    #[error(transparent)]
    Forward(#[from] ForwardError),
    /// No token could be chosen.
    #[error(transparent)]
    Sampling(#[from] SamplingError),
    /// Memory is short, and nothing is left to give up.
    #[error("memory is short: {0}")]
    Memory(#[from] TooLittleMemory),
    /// The line of seats cannot go on.
    #[error(transparent)]
    Line(LineError),
}

/// What failed in this process is told as what it is; the line adds nothing to it.
impl From<LineError> for DeskError {
    fn from(error: LineError) -> Self {
        match error {
            LineError::NoSeat {
                cause:
                    SeatError::Refused {
                        why: Refusal::Stage(StageError::Forward(error)),
                        ..
                    },
                ..
            } => Self::Forward(error),
            LineError::NoSeat {
                cause:
                    SeatError::Refused {
                        why: Refusal::Stage(StageError::Sampling(error)),
                        ..
                    },
                ..
            } => Self::Sampling(error),
            error => Self::Line(error),
        }
    }
}

impl DeskError {
    /// What to do about it, where we know.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NoTemplate => Some("`heph run --raw` goes on with a text as it is"),
            Self::TooLong { .. } => Some(
                "say less, start anew (/reset in a chat), or give a larger --context, up to what `heph models show` \
                 says of the model",
            ),
            Self::Wordless => Some("the file may be damaged: download or convert it again"),
            Self::Memory(_) => Some("close other programs, or take a smaller model or --context"),
            Self::Template(_) | Self::Empty | Self::Forward(_) | Self::Sampling(_) | Self::Line(_) => None,
        }
    }
}

/// A line of seats with the words of its model, and one conversation on it.
pub struct Desk {
    line: Line,
    pace: Pace,
    words: Arc<Words>,
    cancel: Cancel,
    relief: Option<Relief>,
}

/// Names this process and its model where nobody else is asked: the names are compared with nothing.
const ALONE: (NodeId, ModelHash) = (NodeId([0; 32]), ModelHash([0; 32]));

impl Desk {
    /// A desk for the model that `worker` runs, all of it here. Whoever raises `cancel` ends the answer under way.
    pub fn new(worker: Worker, words: Arc<Words>, cancel: Cancel) -> Self {
        let (node, hash) = ALONE;
        let model = LineModel::of(hash, worker.model());
        let limits = LineLimits {
            chunk: worker.chunk(),
            ..LineLimits::default()
        };
        let node = Node::new(node, NodeCaps::default()).with_stop(cancel.flag());
        let node = node.with(hash, Lent::of(&worker));
        let line = Line::whole(model, Arc::new(node), limits);
        Self::over(line, Pace::Steps, words, cancel)
    }

    /// A desk for a model that is laid out over a line.
    pub fn over(line: Line, pace: Pace, words: Arc<Words>, cancel: Cancel) -> Self {
        Self {
            line: line.stopped_by(&cancel),
            pace,
            words,
            cancel,
            relief: None,
        }
    }

    /// The desk that gives something up before memory runs out.
    pub fn with_relief(mut self, relief: Relief) -> Self {
        self.relief = Some(relief);
        self
    }

    /// The line it asks.
    pub fn line(&self) -> &Line {
        &self.line
    }

    /// How its model reads and writes.
    pub fn words(&self) -> &Words {
        &self.words
    }

    /// Positions that a conversation may have, whatever the last answer had to give up.
    pub fn context(&self) -> usize {
        let relief = self.relief.as_ref();
        relief.map_or(self.line.model().context, Relief::context)
    }

    /// Answers `prompt`; `on_text` gets each piece of text as soon as it cannot change any more.
    ///
    /// # Errors
    /// When the prompt cannot be written or does not fit, or a pass fails.
    pub fn answer(
        &mut self,
        prompt: Prompt<'_>,
        options: &AnswerOptions,
        on_text: &mut dyn FnMut(&str),
    ) -> Result<Answer, DeskError> {
        let prompt = prompt.tokens(&self.words)?;
        let context = self.context();
        if prompt.len() > context {
            return Err(DeskError::TooLong {
                tokens: prompt.len(),
                context,
            });
        }
        options.sampling.check().map_err(SamplingError::Option)?;
        let clock = Arc::clone(self.line.clock());
        let (began, traffic) = (clock.now(), self.line.traffic());
        let most = options.max_tokens.unwrap_or(context);
        let cached_tokens = self.go_back_to(&prompt, &options.sampling);
        let stages = self.line.stages();
        self.pace
            .begin(&options.sampling, most.min(context - prompt.len() + 1));
        let mut turn = Turn {
            stream: TextStream::new(options.stops.clone()),
            text: String::new(),
        };
        let room = context.min(prompt.len().saturating_add(most.saturating_sub(1)));
        let Self {
            line,
            pace,
            words,
            cancel,
            relief,
        } = self;
        if let Some(relief) = relief {
            relief.begin(line);
        }
        let ends = words.tokenizer.eog_ids();
        let mut teller = Teller::new(line, pace, cancel, prompt.len(), cached_tokens, room, ends);
        let mut history = prompt.clone();
        let mut first = None;
        let finish = loop {
            if history.len() - prompt.len() >= most {
                break Finish::Length;
            }
            if let Some(relief) = relief {
                relief.look(teller.line(), history.len() > prompt.len(), room)?;
            }
            if history.len() > teller.line().model().context {
                break Finish::Context;
            }
            let token = match teller.next(&history) {
                Err(LineError::Cancelled) => break Finish::Cancelled,
                token => token?,
            };
            first.get_or_insert_with(|| clock.now());
            if ends.contains(&token) {
                break Finish::Stop;
            }
            history.push(token);
            if turn.say(words.tokenizer.token_bytes(token), on_text) {
                break Finish::Stop;
            }
        };
        turn.end(on_text);
        let stopped_by = turn.stream.stopped_by().and_then(|at| {
            let stops = options.stops.iter().filter(|stop| !stop.is_empty());
            stops.clone().nth(at).cloned()
        });
        let guesses = teller.guesses;
        let last = clock.now();
        let first = first.unwrap_or(last);
        let moves = line.moves().to_vec();
        let parted = line.parted().to_vec();
        line.settle();
        let spent = line.traffic();
        Ok(Answer {
            text: turn.text,
            tokens: history.split_off(prompt.len()),
            prompt,
            cached_tokens,
            finish,
            stopped_by,
            prefill: first - began,
            decode: last - first,
            stages,
            moves,
            guesses,
            guessed: pace.guessed(),
            degraded: relief.iter().flat_map(Relief::told).chain(parted).collect(),
            traffic: Traffic {
                up: spent.up - traffic.up,
                down: spent.down - traffic.down,
            },
        })
    }

    /// What the machines of the last answer sign that they computed. Costs a round trip to each.
    pub fn vouched(&mut self) -> Vec<Vouched> {
        self.line.vouched(VOUCHED_WITHIN)
    }

    /// Starts an answer, and tells how many tokens of `prompt` the line holds; the last one's are never among them,
    /// since what follows it is asked for.
    fn go_back_to(&mut self, prompt: &[TokenId], sampling: &SamplingOptions) -> usize {
        let held = self.line.begin(sampling);
        let held = &self.line.tokens()[..held];
        let same = held.iter().zip(prompt).take_while(|(a, b)| a == b).count();
        same.min(prompt.len().saturating_sub(1))
    }
}

/// One answer on its way.
struct Turn {
    stream: TextStream,
    text: String,
}

impl Turn {
    /// Passes on what a token adds. Returns whether a stop text is complete.
    fn say(&mut self, bytes: &[u8], on_text: &mut dyn FnMut(&str)) -> bool {
        let piece = self.stream.push(bytes);
        self.pass_on(&piece, on_text);
        self.stream.stopped_by().is_some()
    }

    /// Passes on what was held back in case it became a stop text.
    fn end(&mut self, on_text: &mut dyn FnMut(&str)) {
        let rest = self.stream.finish();
        self.pass_on(&rest, on_text);
    }

    fn pass_on(&mut self, piece: &str, on_text: &mut dyn FnMut(&str)) {
        if !piece.is_empty() {
            self.text.push_str(piece);
            on_text(piece);
        }
    }
}

/// The time for templates that print the date, in UTC: the standard library knows no time zones.
pub fn now() -> LocalTime {
    let seconds = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_secs());
    let epoch = || LocalTime::new(1970, 1, 1, 0, 0, 0);
    let now = i64::try_from(seconds)
        .ok()
        .and_then(|s| LocalTime::from_unix(s, 0));
    now.or_else(epoch)
        .unwrap_or_else(|| unreachable!("1 January 1970 is a date"))
}
