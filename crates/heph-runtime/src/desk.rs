//! The desk: takes a conversation, answers it, streams the text.
//!
//! Template, tokens, prefill, choice and text follow each other here; what each of them does is the engine's. The
//! cache is kept between answers, so that a conversation that goes on pays for its new part only.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use heph_engine::cache::KvCache;
use heph_engine::chat::{ChatError, ChatInput, LocalTime};
use heph_engine::sample::{Sampler, SamplingError, SamplingOptions};
use heph_engine::text::TextStream;
use heph_engine::tokenizer::{AddSpecial, ParseSpecial};
use heph_engine::worker::{ForwardError, Keep, Worker};
use heph_types::{Position, TokenId};
use serde::{Deserialize, Serialize};

use crate::cancel::Cancel;
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
    /// Until the first token was chosen.
    pub prefill: Duration,
    /// From there to the last.
    pub decode: Duration,
}

impl Answer {
    /// Tokens of the prompt that were computed, per second.
    pub fn prefill_tok_s(&self) -> f64 {
        (self.prompt.len() - self.cached_tokens) as f64 / self.prefill.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// Tokens made after the first one, per second.
    pub fn decode_tok_s(&self) -> f64 {
        self.tokens.len().saturating_sub(1) as f64 / self.decode.as_secs_f64().max(f64::MIN_POSITIVE)
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
    /// The conversation is longer than the context.
    #[error("the prompt has {tokens} tokens and the context holds {context}")]
    TooLong {
        /// Tokens of the prompt.
        tokens: usize,
        /// Positions of the context.
        context: usize,
    },
    /// A pass failed.
    #[error(transparent)]
    Forward(#[from] ForwardError),
    /// No token could be chosen.
    #[error(transparent)]
    Sampling(#[from] SamplingError),
}

impl DeskError {
    /// What to do about it, where we know.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NoTemplate => Some("`heph run --raw` goes on with a text as it is"),
            Self::TooLong { .. } => Some("start anew (/reset in a chat), or give a larger --context"),
            Self::Template(_) | Self::Empty | Self::Forward(_) | Self::Sampling(_) => None,
        }
    }
}

/// A model with its words and one conversation's cache.
pub struct Desk {
    worker: Worker,
    words: Arc<Words>,
    cache: KvCache,
    /// The tokens that the cache holds.
    held: Vec<TokenId>,
    cancel: Cancel,
}

impl Desk {
    /// A desk for the model that `worker` runs. Whoever raises `cancel` ends the answer under way.
    pub fn new(worker: Worker, words: Arc<Words>, cancel: Cancel) -> Self {
        let worker = worker.with_stop(cancel.flag());
        let cache = worker.model().new_cache(worker.all_layers());
        Self {
            worker,
            words,
            cache,
            held: Vec::new(),
            cancel,
        }
    }

    /// The worker it runs on.
    pub fn worker(&self) -> &Worker {
        &self.worker
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
        let prompt = self.tokens(prompt)?;
        let context = self.cache.context();
        if prompt.len() > context {
            return Err(DeskError::TooLong {
                tokens: prompt.len(),
                context,
            });
        }
        let sampler = Sampler::new(options.sampling.clone())?;
        let began = Instant::now();
        let cached_tokens = self.go_back_to(&prompt);
        let words = Arc::clone(&self.words);
        let mut turn = Turn {
            sampler,
            stream: TextStream::new(options.stops.clone()),
            text: String::new(),
        };
        let mut history = prompt.clone();
        let mut first = None;
        let finish = loop {
            let made = history.len() - prompt.len();
            if options.max_tokens.is_some_and(|most| made >= most) {
                break Finish::Length;
            }
            if history.len() > context {
                break Finish::Context;
            }
            let Some(token) = self.next(&history, &mut turn.sampler)? else {
                break Finish::Cancelled;
            };
            first.get_or_insert_with(Instant::now);
            if words.tokenizer.eog_ids().contains(&token) {
                break Finish::Stop;
            }
            history.push(token);
            if turn.say(words.tokenizer.token_bytes(token), on_text) {
                break Finish::Stop;
            }
        };
        turn.end(on_text);
        let first = first.unwrap_or_else(Instant::now);
        Ok(Answer {
            text: turn.text,
            tokens: history.split_off(prompt.len()),
            prompt,
            cached_tokens,
            finish,
            prefill: first - began,
            decode: first.elapsed(),
        })
    }

    /// The tokens of a prompt.
    fn tokens(&self, prompt: Prompt<'_>) -> Result<Vec<TokenId>, DeskError> {
        let tokenizer = &self.words.tokenizer;
        let tokens = match prompt {
            Prompt::Text(text) => tokenizer.encode(text, AddSpecial::Yes, ParseSpecial::No),
            Prompt::Chat(messages) => {
                let text = self.written(messages)?;
                // Most templates write the beginning-of-text token themselves; it must stand there once.
                let bos = self.words.spelling(tokenizer.bos());
                let has_bos = !bos.is_empty() && text.starts_with(bos);
                let add = if has_bos || !tokenizer.adds_bos() {
                    AddSpecial::No
                } else {
                    AddSpecial::Yes
                };
                tokenizer.encode(&text, add, ParseSpecial::Yes)
            }
        };
        if tokens.is_empty() {
            Err(DeskError::Empty)
        } else {
            Ok(tokens)
        }
    }

    /// The text of a conversation, ready for an answer.
    fn written(&self, messages: &[Message]) -> Result<String, DeskError> {
        let template = self.words.template.as_ref().ok_or(DeskError::NoTemplate)?;
        let list = messages
            .iter()
            .map(|m| serde_json::json!({ "role": m.role, "content": m.content }));
        Ok(template.render(&ChatInput {
            messages: &serde_json::Value::Array(list.collect()),
            tools: None,
            add_generation_prompt: true,
            bos_token: self.words.spelling(self.words.tokenizer.bos()),
            eos_token: self.words.spelling(self.words.tokenizer.eos()),
            kwargs: &serde_json::Map::new(),
            now: now(),
        })?)
    }

    /// Keeps of the cache what `prompt` begins with, but for its last token, whose logits are needed. Returns how
    /// many tokens that are.
    fn go_back_to(&mut self, prompt: &[TokenId]) -> usize {
        let same = self.held.iter().zip(prompt).take_while(|(a, b)| a == b).count();
        let kept = same.min(prompt.len().saturating_sub(1));
        self.cache.rollback(Position(kept as u32));
        self.held.truncate(kept);
        kept
    }

    /// The token after `history`, of which the cache holds a beginning; `None` where the answer is cancelled.
    fn next(&mut self, history: &[TokenId], sampler: &mut Sampler) -> Result<Option<TokenId>, DeskError> {
        if self.cancel.is_raised() {
            return Ok(None);
        }
        let logits = match self
            .worker
            .run(&mut self.cache, &history[self.held.len()..], Keep::Last)
        {
            Err(ForwardError::Stopped) => return Ok(None),
            logits => logits?,
        };
        self.held = history.to_vec();
        Ok(Some(sampler.sample(
            &logits,
            Position(history.len() as u32),
            history,
            None,
        )?))
    }
}

/// One answer on its way.
struct Turn {
    sampler: Sampler,
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
