//! `POST /v1/completions`: texts that are gone on with.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use heph_runtime::cancel::Cancel;
use heph_runtime::service::Said;
use heph_runtime::words::Words;
use heph_types::TokenId;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::chat::count;
use super::chunks::{COMPLETION, Chunks};
use super::{
    FORMAT, Guides, OneOrMany, SamplingFields, StreamOptions, finish_reason, finite, form, guided, read,
    spelled,
};
use crate::answer::{Answer, Part};
use crate::ask::{Ask, Source, Strays, TOP_LOGPROBS_MAX, Text, Wishes, reader};
use crate::caller;
use crate::error::{Dialect, Refusal};
use crate::heph::streams;
use crate::house::Door;
use crate::outside;
use crate::prompts::{self, PromptToken};
use crate::shape::{self, Frames, Shape};

/// Prompts of one request.
const PROMPTS_MAX: usize = 128;

/// Bytes of a suffix, for all prompts together: as long as a body may be.
const SUFFIXES_BYTES_MAX: usize = 8 << 20;

/// Probabilities of prompts that are told in one answer: 25,000 tokens with the 20 likeliest beside each.
const TOLD_MAX: usize = 1 << 19;

/// Tokens that are made where nobody says how many: what this API always did.
const TOKENS_USUAL: u64 = 16;

/// A request to go on with texts. Fields that are not listed are ignored.
#[derive(Debug, Clone, Deserialize, utoipa::ToSchema)]
pub(crate) struct CompletionRequest {
    #[serde(default)]
    model: Option<String>,
    /// A text, texts, tokens, or lists of tokens.
    prompt: Prompt,
    #[serde(flatten)]
    sampling: SamplingFields,
    #[serde(flatten)]
    guides: Guides,
    n: Option<i64>,
    /// So many answers are made for each prompt, and the `n` whose tokens are likeliest on average are told. Not in streams.
    best_of: Option<i64>,
    max_tokens: Option<i64>,
    stop: Option<OneOrMany>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    /// So many of the likeliest tokens beside each.
    logprobs: Option<i64>,
    /// Whether the prompt stands before the answer; with `logprobs` its tokens are told too.
    echo: Option<bool>,
    /// What the model thinks of the prompt's own tokens, with so many of the likeliest beside each, as vLLM tells it.
    prompt_logprobs: Option<i64>,
    /// Whether tokens are told by their numbers, too.
    return_token_ids: Option<bool>,
    /// What comes after the answer.
    suffix: Option<String>,
    #[serde(default)]
    response_format: Option<Value>,
    /// For whom it is asked, as in chat.
    user: Option<String>,
    heph: Option<Wishes>,
    #[serde(flatten)]
    #[schema(ignore)]
    strays: Strays,
}

/// What is gone on with.
#[derive(Debug, Clone, Deserialize, utoipa::ToSchema)]
#[serde(untagged)]
pub(crate) enum Prompt {
    /// A text.
    Text(String),
    /// Tokens.
    Tokens(Vec<u32>),
    /// Texts.
    Texts(Vec<String>),
    /// Lists of tokens.
    TokenLists(Vec<Vec<u32>>),
}

impl Prompt {
    fn texts(self) -> Vec<Text> {
        match self {
            Self::Text(text) => vec![Text::Words(text)],
            Self::Tokens(tokens) => vec![Text::Tokens(tokens)],
            Self::Texts(texts) => texts.into_iter().map(Text::Words).collect(),
            Self::TokenLists(lists) => lists.into_iter().map(Text::Tokens).collect(),
        }
    }
}

/// A suffix for a model without tokens for it: the answer ends where it begins to say what follows anyway.
fn stop_at(suffix: &str) -> Option<String> {
    let start: String = suffix.trim().chars().take(12).collect();
    (start.chars().count() >= 4).then_some(start)
}

/// Goes on with texts.
#[utoipa::path(post, path = "/v1/completions", request_body = CompletionRequest, tag = "OpenAI",
    responses((status = 200, description = "The text that follows, or a stream of its pieces"),
              (status = 400, description = "The request has no meaning")))]
pub(crate) async fn completions(
    State(door): State<Door>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Refusal> {
    if let Some(resumed) = streams::resume(&door, &headers)? {
        return Ok(resumed);
    }
    let request: CompletionRequest = read(&body)?;
    let wanted = Wanted::of(&request)?;
    let texts = request.prompt.texts();
    if texts.is_empty() || texts.len() > PROMPTS_MAX {
        return Err(Refusal::param(
            "prompt",
            format!("there must be 1 to {PROMPTS_MAX} prompts"),
        ));
    }
    let model = reader(&door, request.model.as_deref().unwrap_or_default()).await?;
    let words = Arc::clone(model.service.words());
    let (mut texts, echoes) = match request.echo.unwrap_or(false) {
        true => {
            let words = Arc::clone(&words);
            let echoed = move |_: &Cancel| {
                let echoes: Vec<String> = texts.iter().map(|text| echo(text, &words)).collect();
                (texts, echoes)
            };
            caller::on_thread(echoed).await?
        }
        false => {
            let none = vec![String::new(); texts.len()];
            (texts, none)
        }
    };
    let mut stops = OneOrMany::list(request.stop);
    if let Some(suffix) = request.suffix.filter(|suffix| !suffix.is_empty()) {
        if suffix.len().saturating_mul(texts.len()) > SUFFIXES_BYTES_MAX {
            let sentence =
                format!("a suffix counts for each prompt, and all may have {SUFFIXES_BYTES_MAX} bytes");
            return Err(Refusal::param("suffix", sentence));
        }
        texts = texts
            .into_iter()
            .map(|text| match text {
                Text::Words(prefix) => Ok(Text::Between(prefix, suffix.clone())),
                Text::Tokens(_) | Text::Between(..) => {
                    Err(Refusal::param("suffix", "a suffix needs a prompt of words"))
                }
            })
            .collect::<Result<_, _>>()?;
        if model.middle.is_none() {
            stops.extend(stop_at(&suffix));
        }
    }
    let prompts = texts.len();
    let mut ask = Ask::new(request.model.unwrap_or_default(), Source::Texts(texts));
    let choices = count("n", request.n, 1)?.unwrap_or(1);
    let made = count("best_of", request.best_of, 1)?.unwrap_or(choices);
    if made < choices {
        return Err(Refusal::param("best_of", "best_of must be at least n"));
    }
    let ranks = made > choices;
    if ranks && request.stream.unwrap_or(false) {
        let sentence = "which of the answers are best is known when all of them are there: best_of beyond n has no stream";
        return Err(Refusal::param("best_of", sentence));
    }
    ask.choices = usize::try_from(made).unwrap_or(usize::MAX);
    let most = count("max_tokens", request.max_tokens.filter(|&n| n != -1), 0)?;
    let nothing = most == Some(0);
    ask.max_tokens = Some(match request.max_tokens {
        Some(-1) => u64::MAX,
        _ => most.unwrap_or(TOKENS_USUAL).max(1),
    });
    ask.stops = stops;
    ask.form = guided(
        FORMAT,
        form(FORMAT, request.response_format.as_ref())?,
        request.guides,
    )?;
    ask.logprobs = count("logprobs", request.logprobs, 0)?.map(|n| usize::try_from(n).unwrap_or(usize::MAX));
    let reports = ask.logprobs.is_some();
    if wanted.ids || ranks {
        // Tokens are told with their probabilities, or not at all.
        ask.logprobs.get_or_insert(0);
    }
    ask.sampling = request.sampling.into();
    ask.user = request.user;
    request.strays.check()?;
    ask.wishes = request.heph.unwrap_or_default().with_headers(&headers)?;
    let keep = ask.wishes.keep();
    let each = ask.choices;
    let (ask, prompts_read) = match wanted.reads_prompts() && !outside::is_outside(&door, &ask.model)? {
        true => {
            let read = move |cancel: &Cancel| {
                let read = ask.prompts(&model, cancel);
                (ask, read)
            };
            let (ask, read) = caller::on_thread(read).await?;
            (ask, read?)
        }
        false => (ask, Vec::new()),
    };
    wanted.fits(&prompts_read, each)?;
    if !request.stream.unwrap_or(false) {
        ask.tells_whole(&door)?;
    }
    let mut answer = ask.submit(&door).await?;
    let heads = wanted.heads(&answer, prompts_read, each, &words).await?;
    let echoes: Vec<String> = echoes.into_iter().flat_map(|echo| vec![echo; each]).collect();
    if request.stream.unwrap_or(false) {
        let usage = request
            .stream_options
            .and_then(|o| o.include_usage)
            .unwrap_or(false);
        let offsets = echoes.iter().map(|echo| echo.chars().count()).collect();
        let shape = Stream {
            chunks: Chunks::new(COMPLETION, &answer, prompts, usage),
            reports,
            ids: wanted.ids,
            heads,
            echoes,
            offsets,
            nothing,
        };
        return Ok(shape::stream(&door, answer, shape, keep));
    }
    let mut gathered: Vec<Gathered> = echoes
        .into_iter()
        .zip(heads)
        .map(|(text, head)| Gathered {
            legacy: head.legacy(&text),
            text,
            ids: Vec::new(),
            likely: Likely::default(),
            finish: "stop",
            head,
        })
        .collect();
    shape::whole(&mut answer, |part| match part {
        Part::Text { choice, text, said } if !nothing => {
            let one = &mut gathered[choice];
            one.text.push_str(&text);
            one.ids.extend(said.iter().map(|said| said.token.0));
            one.likely.add(&said);
            if reports {
                one.legacy.add(&words, &said);
            }
        }
        Part::End { choice, finish } => {
            gathered[choice].finish = if nothing { "length" } else { finish_reason(&finish) }
        }
        Part::Text { .. } | Part::Thought { .. } | Part::Call { .. } | Part::Arguments { .. } => {}
    })
    .await?;
    let told = usize::try_from(choices).unwrap_or(usize::MAX);
    let gathered = match ranks {
        true => best(gathered, each, told),
        false => gathered,
    };
    let list = gathered.into_iter().enumerate().map(|(at, one)| {
        let Gathered {
            text,
            legacy,
            finish,
            ids,
            head,
            ..
        } = one;
        let logprobs = if reports { legacy.json() } else { Value::Null };
        let mut choice = json!({ "index": at, "text": text, "logprobs": logprobs, "finish_reason": finish });
        head.put(&mut choice);
        if wanted.ids {
            choice["token_ids"] = json!(ids);
        }
        choice
    });
    let body = COMPLETION.whole(&answer, list.collect(), prompts);
    Ok(shape::complete(&answer, &body))
}

/// Of the answers to each prompt, `made` of them, those whose tokens are likeliest on average; of equals the first.
fn best(all: Vec<Gathered>, made: usize, told: usize) -> Vec<Gathered> {
    let mut all = all.into_iter();
    let mut best = Vec::new();
    loop {
        let mut of_prompt: Vec<Gathered> = all.by_ref().take(made.max(1)).collect();
        if of_prompt.is_empty() {
            return best;
        }
        of_prompt.sort_by(|a, b| b.likely.mean().total_cmp(&a.likely.mean()));
        of_prompt.truncate(told);
        best.extend(of_prompt);
    }
}

fn echo(text: &Text, words: &Words) -> String {
    match text {
        Text::Words(text) => text.clone(),
        Text::Tokens(ids) => words
            .tokenizer
            .decode(&ids.iter().map(|&id| TokenId(id)).collect::<Vec<_>>()),
        Text::Between(prefix, _) => prefix.clone(),
    }
}

/// What is told besides the text.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    /// The prompt's tokens before the answer's, with so many of the likeliest.
    echo: Option<usize>,
    /// The prompt's tokens by themselves.
    prompt: Option<usize>,
    /// Tokens by their numbers.
    ids: bool,
}

impl Wanted {
    fn of(request: &CompletionRequest) -> Result<Self, Refusal> {
        let number = |name, value| {
            let told = count(name, value, 0)?.map(|n| usize::try_from(n).unwrap_or(usize::MAX));
            match told {
                Some(n) if n > TOP_LOGPROBS_MAX => Err(Refusal::param(
                    name,
                    format!("{name} may be {TOP_LOGPROBS_MAX} at most"),
                )),
                told => Ok(told),
            }
        };
        let prompt = number("prompt_logprobs", request.prompt_logprobs)?;
        let suffixed = request.suffix.as_ref().is_some_and(|suffix| !suffix.is_empty());
        let echo = request.echo.unwrap_or(false) && !suffixed;
        Ok(Self {
            echo: number("logprobs", request.logprobs)?.filter(|_| echo),
            prompt,
            ids: request.return_token_ids.unwrap_or(false),
        })
    }

    /// That what is told of prompts can be held, with each choice once more.
    fn fits(self, prompts: &[Vec<TokenId>], each: usize) -> Result<(), Refusal> {
        let tokens: usize = prompts.iter().map(Vec::len).sum();
        let beside: usize = [self.echo, self.prompt]
            .into_iter()
            .flatten()
            .map(|top| top + 1)
            .sum();
        match tokens.saturating_mul(beside).saturating_mul(each) > TOLD_MAX {
            true => Err(Refusal::param(
                "prompt_logprobs",
                format!("of prompts {TOLD_MAX} probabilities are told at most, with each choice once more"),
            )),
            false => Ok(()),
        }
    }

    fn reads_prompts(self) -> bool {
        self.echo.is_some() || self.prompt.is_some() || self.ids
    }

    /// What is told of its prompt with each choice.
    async fn heads(
        self,
        answer: &Answer,
        prompts: Vec<Vec<TokenId>>,
        each: usize,
        words: &Arc<Words>,
    ) -> Result<Vec<Head>, Refusal> {
        if prompts.is_empty() {
            if self.echo.is_some() || self.prompt.is_some() {
                return Err(Refusal::param(
                    "prompt_logprobs",
                    "a provider's probabilities are not passed on",
                ));
            }
            return Ok(vec![Head::default(); answer.choices()]);
        }
        let ids: Vec<Vec<u32>> = prompts
            .iter()
            .map(|prompt| prompt.iter().map(|t| t.0).collect())
            .collect();
        let told = match self.echo.max(self.prompt) {
            Some(top) => prompts::told(answer.writer(), prompts, top).await?,
            None => vec![Vec::new(); ids.len()],
        };
        let words = Arc::clone(words);
        let written = move |_: &Cancel| {
            let head = |(ids, told): (Vec<u32>, Vec<PromptToken>)| Head {
                echoed: self.echo.map(|top| Legacy::of_prompt(&words, &told, top)),
                probabilities: self.prompt.map(|top| by_rank(&words, &told, top)),
                ids: self.ids.then_some(ids),
            };
            let heads = ids.into_iter().zip(told).map(head);
            heads.flat_map(|head| vec![head; each]).collect()
        };
        caller::on_thread(written).await
    }
}

/// What is told of a prompt.
#[derive(Debug, Clone, Default)]
struct Head {
    echoed: Option<Legacy>,
    probabilities: Option<Value>,
    ids: Option<Vec<u32>>,
}

impl Head {
    /// The lists that the answer's tokens go on.
    fn legacy(&self, echo: &str) -> Legacy {
        self.echoed
            .clone()
            .unwrap_or_else(|| Legacy::after(echo.chars().count()))
    }

    fn put(self, choice: &mut Value) {
        if let Some(told) = self.probabilities {
            choice["prompt_logprobs"] = told;
        }
        if let Some(ids) = self.ids {
            choice["prompt_token_ids"] = json!(ids);
        }
    }
}

/// The prompt's tokens as vLLM tells them: by number, each with its place among all.
fn by_rank(words: &Words, told: &[PromptToken], top: usize) -> Value {
    let entry = |token: TokenId, value: f64, rank: usize| {
        let decoded = String::from_utf8_lossy(&spelled(words, token)).into_owned();
        (
            token.0.to_string(),
            json!({ "logprob": finite(value), "rank": rank, "decoded_token": decoded }),
        )
    };
    let row = |one: &PromptToken| {
        let Some(told) = &one.told else { return Value::Null };
        let likeliest = told.top.iter().take(top).enumerate();
        let mut row: Map<String, Value> = likeliest.map(|(at, t)| entry(t.token, t.value, at + 1)).collect();
        row.extend([entry(one.token, told.value, told.rank)]);
        Value::Object(row)
    };
    told.iter().map(row).collect()
}

/// How likely the tokens of an answer are together.
#[derive(Debug, Clone, Copy, Default)]
struct Likely {
    /// Of log probabilities.
    sum: f64,
    tokens: usize,
}

impl Likely {
    fn add(&mut self, said: &[Said]) {
        for report in said.iter().filter_map(|said| said.report.as_ref()) {
            self.sum += finite(report.chosen.value);
            self.tokens += 1;
        }
    }

    /// The least where nothing was said.
    fn mean(self) -> f64 {
        match self.tokens {
            0 => f64::NEG_INFINITY,
            tokens => self.sum / tokens as f64,
        }
    }
}

/// A choice as it comes together.
struct Gathered {
    text: String,
    legacy: Legacy,
    ids: Vec<u32>,
    likely: Likely,
    finish: &'static str,
    head: Head,
}

/// Probabilities as this API tells them: lists side by side.
#[derive(Debug, Clone, Default)]
struct Legacy {
    tokens: Vec<String>,
    values: Vec<Option<f64>>,
    top: Vec<Value>,
    offsets: Vec<usize>,
    at: usize,
}

impl Legacy {
    fn after(at: usize) -> Self {
        Self {
            at,
            ..Self::default()
        }
    }

    /// The tokens of a prompt; nothing is known of the first.
    fn of_prompt(words: &Words, told: &[PromptToken], top: usize) -> Self {
        let word = |token| String::from_utf8_lossy(&spelled(words, token)).into_owned();
        let mut all = Self::default();
        for one in told {
            let token = word(one.token);
            all.offsets.push(all.at);
            all.at += token.chars().count();
            all.tokens.push(token);
            all.values.push(one.told.as_ref().map(|told| finite(told.value)));
            all.top.push(match &one.told {
                None => Value::Null,
                Some(told) => {
                    let likeliest = told.top.iter().take(top);
                    Value::Object(
                        likeliest
                            .map(|t| (word(t.token), json!(finite(t.value))))
                            .collect(),
                    )
                }
            });
        }
        all
    }

    fn add(&mut self, words: &Words, said: &[Said]) {
        let word = |token| String::from_utf8_lossy(&spelled(words, token)).into_owned();
        for report in said.iter().filter_map(|said| said.report.as_ref()) {
            let token = word(report.chosen.token);
            let top: Map<String, Value> = report
                .top
                .iter()
                .map(|t| (word(t.token), json!(finite(t.value))))
                .collect();
            self.offsets.push(self.at);
            self.at += token.chars().count();
            self.tokens.push(token);
            self.values.push(Some(finite(report.chosen.value)));
            self.top.push(Value::Object(top));
        }
    }

    fn json(&self) -> Value {
        json!({
            "tokens": self.tokens, "token_logprobs": self.values, "top_logprobs": self.top, "text_offset": self.offsets,
        })
    }
}

struct Stream {
    chunks: Chunks,
    reports: bool,
    ids: bool,
    /// What is told of the prompts; taken when it is said.
    heads: Vec<Head>,
    echoes: Vec<String>,
    offsets: Vec<usize>,
    nothing: bool,
}

/// A choice that adds something.
fn adds(choice: usize, text: &str, logprobs: Value) -> Value {
    json!({ "index": choice, "text": text, "logprobs": logprobs, "finish_reason": null })
}

impl Stream {
    fn logprobs(&mut self, answer: &Answer, choice: usize, said: &[Said]) -> Value {
        if !self.reports {
            return Value::Null;
        }
        let mut legacy = Legacy::after(self.offsets[choice]);
        legacy.add(answer.words(), said);
        self.offsets[choice] = legacy.at;
        legacy.json()
    }
}

impl Shape for Stream {
    const DIALECT: Dialect = Dialect::OpenAi;

    fn begin(&mut self, _: &Answer, out: &mut Frames) {
        for (choice, head) in std::mem::take(&mut self.heads).into_iter().enumerate() {
            let echo = &self.echoes[choice];
            if echo.is_empty() && head.ids.is_none() && head.probabilities.is_none() {
                continue;
            }
            let logprobs = match &head.echoed {
                Some(legacy) => {
                    self.offsets[choice] = legacy.at;
                    legacy.json()
                }
                None => Value::Null,
            };
            let mut one = adds(choice, echo, logprobs);
            head.put(&mut one);
            out.data(&self.chunks.of(json!([one])));
        }
    }

    fn part(&mut self, answer: &Answer, part: Part, out: &mut Frames) {
        match part {
            Part::Text { text, said, .. } if self.nothing || text.is_empty() && said.is_empty() => {}
            Part::Text { choice, text, said } if self.reports || self.ids => {
                let logprobs = self.logprobs(answer, choice, &said);
                let mut one = adds(choice, &text, logprobs);
                if self.ids {
                    one["token_ids"] = said.iter().map(|said| said.token.0).collect();
                }
                out.data(&self.chunks.of(json!([one])));
            }
            Part::Text { choice, text, .. } => {
                let one = |text: &str| adds(choice, text, Value::Null);
                self.chunks.text(choice, &text, one, out);
            }
            Part::End { choice, finish } => {
                let reason = if self.nothing {
                    "length"
                } else {
                    finish_reason(&finish)
                };
                let mut last = adds(choice, "", Value::Null);
                last["finish_reason"] = json!(reason);
                self.chunks.last(answer, last, out);
            }
            Part::Thought { .. } | Part::Call { .. } | Part::Arguments { .. } => {}
        }
    }

    fn end(&mut self, answer: &Answer, out: &mut Frames) {
        self.chunks.end(answer, out);
    }
}
