//! Asking a provider: one request, its answer piece by piece, and every wait with an end.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use heph_privacy::{Clearance, Cleared};
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::{Method, StatusCode};
use serde_json::Value;

use crate::body::{Body, body};
use crate::dial::{Barred, Dial, Sending};
use crate::frames::Frames;
use crate::http::{Asked, Http, Response};
use crate::provider::{Dialect, Provider};
use crate::question::Question;
use crate::reading::{End, Reading, Said, Wrong, sentence};
use crate::secret::Secret;

/// The version of Anthropic's shape that is spoken.
const ANTHROPIC_VERSION: &str = "2023-06-01";

/// Letters of a provider's own sentence that are passed on.
const SENTENCE_MAX: usize = 300;

/// Bytes of a refusal that are read.
const REFUSAL_BYTES_MAX: usize = 64 << 10;

/// How often it is looked whether anybody still waits.
const LOOK_EVERY: Duration = Duration::from_millis(25);

/// What is waited for and read at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// For a connection.
    pub connect: Duration,
    /// From the request to the head of the answer: large models think before they speak.
    pub first_byte: Duration,
    /// Between two pieces.
    pub silence: Duration,
    /// For the whole answer.
    pub whole: Duration,
    /// Times that a provider is asked which says that it is busy, or cannot be reached.
    pub tries: u32,
    /// The first pause between two of them, where the provider names none; each later one is twice as long.
    pub pause: Duration,
    /// The longest pause that a provider may ask for; beyond it the caller is told.
    pub pause_max: Duration,
    /// Bytes of one event.
    pub event_bytes: usize,
    /// Bytes of the whole answer.
    pub answer_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            first_byte: Duration::from_secs(180),
            silence: Duration::from_secs(90),
            whole: Duration::from_secs(3600),
            tries: 3,
            pause: Duration::from_millis(500),
            pause_max: Duration::from_secs(20),
            event_bytes: 1 << 20,
            answer_bytes: 64 << 20,
        }
    }
}

/// A complete answer, in numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct Done {
    /// Why it ended.
    pub end: End,
    /// Tokens of the prompt, as the provider counts them.
    pub prompt_tokens: Option<u64>,
    /// Tokens of the answer, as the provider counts them.
    pub answer_tokens: Option<u64>,
    /// Bytes of the requests' bodies: what left.
    pub up: u64,
    /// Bytes of the answer's body.
    pub down: u64,
    /// How often the provider was asked.
    pub tries: u32,
    /// What was asked and could not be said in the provider's shape.
    pub dropped: Vec<&'static str>,
}

/// What a provider's refusal means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// It does not take the key.
    Key,
    /// It would refuse again.
    Request,
    /// It is asked too often; it may be asked again after this.
    TooOften(Option<Duration>),
    /// It is not well, or busy.
    Unwell(Option<Duration>),
}

/// Why there is no answer, or no more of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// The question cannot be said in the provider's shape.
    #[error("the provider {name} {what}")]
    Shape {
        /// The provider.
        name: String,
        /// What it does not do.
        what: &'static str,
    },
    /// What was cleared is for somebody else.
    #[error("the question was cleared for {meant:?} and not for the provider {name}")]
    Elsewhere {
        /// The provider.
        name: String,
        /// Whom it was cleared for.
        meant: String,
    },
    /// Whoever opens the ways to it does not let this pass.
    #[error("the provider {name} is not asked: {why}")]
    Forbidden {
        /// The provider.
        name: String,
        /// Why.
        why: String,
    },
    /// Nobody answers there.
    #[error("the provider {name} cannot be reached: {why}")]
    Unreachable {
        /// The provider.
        name: String,
        /// What was seen.
        why: String,
    },
    /// It refuses.
    #[error("the provider {name} refuses ({status}): {sentence}")]
    Refused {
        /// The provider.
        name: String,
        /// The status of its answer.
        status: u16,
        /// What it says, without the key.
        sentence: String,
        /// What that means.
        kind: Refused,
    },
    /// It took too long.
    #[error("the provider {name} said nothing for {} s", waited.as_secs_f64())]
    Late {
        /// The provider.
        name: String,
        /// How long it was waited for.
        waited: Duration,
    },
    /// The time for the whole answer is up.
    #[error("the time for the answer of {name} is up")]
    TimeUp {
        /// The provider.
        name: String,
    },
    /// What it says has no meaning.
    #[error("the provider {name} gives no sound answer: {what}")]
    Nonsense {
        /// The provider.
        name: String,
        /// What has none.
        what: String,
    },
    /// It failed, or the connection ended, in the middle of an answer.
    #[error("the answer of {name} broke off: {why}")]
    Cut {
        /// The provider.
        name: String,
        /// What was seen.
        why: String,
    },
    /// Nobody waits for the answer any more.
    #[error("the answer was not wanted any more")]
    Stopped,
}

impl AskError {
    /// Whether and after which pause asking again may help, as long as nothing was heard; the provider's own word counts.
    fn again_after(&self) -> Option<Option<Duration>> {
        match self {
            Self::Unreachable { .. } => Some(None),
            Self::Refused {
                kind: Refused::TooOften(pause) | Refused::Unwell(pause),
                ..
            } => Some(*pause),
            _ => None,
        }
    }
}

/// Whom an answer is for.
pub struct Listener<'a> {
    /// Whether nobody waits any more.
    pub stopped: &'a (dyn Fn() -> bool + Sync),
    /// When the answer is of no use any more.
    pub deadline: Option<Instant>,
}

/// Talks HTTP with providers. Follows no redirect and uses no proxy: a text goes where the person said, or nowhere.
#[derive(Debug, Clone)]
pub struct Client {
    http: Http,
    limits: Limits,
}

impl Client {
    /// A client whose ways `dial` opens; must be used inside a runtime with time and IO.
    ///
    /// # Errors
    /// A sentence where the system gives no TLS.
    pub fn new(limits: Limits, dial: impl Dial) -> Result<Self, String> {
        let http = Http::new(Arc::new(dial))?;
        Ok(Self { http, limits })
    }

    /// Asks, and says each piece of the answer as it comes. What was not cleared is not asked:
    ///
    /// ```compile_fail
    /// # use heph_providers::{Client, Listener, Provider, Question, Said};
    /// async fn tell(client: &Client, to: &Provider, question: &Question, listener: &Listener<'_>) {
    ///     let mut say = |_: Said| {};
    ///     let _ = client.ask(to, None, question, listener, &mut say).await;
    /// }
    /// ```
    ///
    /// # Errors
    /// When there is no answer, or it breaks off; then it is not begun again once anything of it was heard.
    pub async fn ask(
        &self,
        provider: &Provider,
        key: Option<&Secret>,
        question: &Cleared<Question>,
        listener: &Listener<'_>,
        say: &mut (dyn FnMut(Said) + Send),
    ) -> Result<Done, AskError> {
        let leave = question.clearance();
        let question = meant(provider, question)?;
        let shape = |what| AskError::Shape {
            name: provider.name.clone(),
            what,
        };
        let Body { path, json, dropped } = body(provider, question).map_err(shape)?;
        let mut call = Call::new(self, provider, key, listener).bearing(leave);
        let kind = Reading::content_type(provider.dialect);
        let mut response = call.post(&path, &json, kind).await?;
        let mut reading = Reading::new(provider.dialect);
        let mut frames = Frames::new(Reading::framing(provider.dialect), self.limits.event_bytes);
        let (mut events, mut said) = (Vec::new(), Vec::new());
        let mut heard = false;
        while !reading.over {
            let chunk = match call.chunk(&mut response).await {
                // What there is was said; whoever set the time wants no more.
                Err(AskError::TimeUp { .. }) if heard => {
                    reading.end = Some(End::TimeUp);
                    break;
                }
                chunk => chunk?,
            };
            let framed = match &chunk {
                Some(bytes) => frames.push(bytes, &mut events),
                None => frames.finish(&mut events),
            };
            framed.map_err(|_| call.nonsense("an event is longer than any sound one"))?;
            for event in events.drain(..) {
                if reading.over {
                    break;
                }
                let read = reading.read(&event, &mut said);
                heard |= !said.is_empty();
                // What came before a failure was said.
                said.drain(..).for_each(&mut *say);
                read.map_err(|wrong| call.wrong(wrong))?;
            }
            if chunk.is_none() {
                break;
            }
        }
        let Some(end) = reading.end else {
            let why = response.trouble().await.map(|barred| call.barred(barred));
            return Err(why.unwrap_or_else(|| call.cut("it has no end")));
        };
        Ok(Done {
            end,
            prompt_tokens: reading.usage.0,
            answer_tokens: reading.usage.1,
            up: call.up,
            down: call.down as u64,
            tries: call.tries,
            dropped,
        })
    }

    /// The models that a provider says it has: shows it the key, and nothing else.
    ///
    /// # Errors
    /// When it does not say.
    pub async fn models(
        &self,
        provider: &Provider,
        key: Option<&Secret>,
        listener: &Listener<'_>,
    ) -> Result<Vec<String>, AskError> {
        let mut call = Call::new(self, provider, key, listener);
        let (path, list, name) = match provider.dialect {
            Dialect::OpenAi | Dialect::Vllm | Dialect::LlamaServer => ("/models", "data", "id"),
            Dialect::Anthropic => ("/v1/models", "data", "id"),
            Dialect::Ollama => ("/api/tags", "models", "name"),
            Dialect::Gemini => ("/v1beta/models", "models", "name"),
        };
        let told = call.whole(path, None).await?;
        let models = told[list].as_array();
        let models = models.ok_or_else(|| call.nonsense("there is no list of models"))?;
        let names = models.iter().filter_map(|model| model[name].as_str());
        Ok(names
            .map(|name| name.strip_prefix("models/").unwrap_or(name).to_owned())
            .collect())
    }
}

/// What was cleared, where it was cleared for `provider`.
pub(crate) fn meant<'q, T>(provider: &Provider, cleared: &'q Cleared<T>) -> Result<&'q T, AskError> {
    match *cleared.to() == provider.destination() {
        true => Ok(cleared.value()),
        false => Err(AskError::Elsewhere {
            name: provider.name.clone(),
            meant: cleared.to().name.clone(),
        }),
    }
}

/// One request, with all its tries.
pub(crate) struct Call<'a> {
    client: &'a Client,
    provider: &'a Provider,
    key: Option<&'a Secret>,
    listener: &'a Listener<'a>,
    until: Instant,
    pub(crate) up: u64,
    pub(crate) down: usize,
    pub(crate) tries: u32,
    leave: Option<Clearance>,
}

impl<'a> Call<'a> {
    pub(crate) fn new(
        client: &'a Client,
        provider: &'a Provider,
        key: Option<&'a Secret>,
        listener: &'a Listener<'a>,
    ) -> Self {
        let whole = Instant::now() + client.limits.whole;
        Self {
            client,
            provider,
            key,
            listener,
            until: listener.deadline.map_or(whole, |deadline| deadline.min(whole)),
            up: 0,
            down: 0,
            tries: 0,
            leave: None,
        }
    }

    /// The same, which carries something by this leave.
    pub(crate) fn bearing(mut self, leave: Clearance) -> Self {
        self.leave = Some(leave);
        self
    }

    /// The head of an answer of this kind; asks again where that may help, since nothing was heard.
    pub(crate) async fn post(&mut self, path: &str, json: &Value, kind: &str) -> Result<Response, AskError> {
        self.send(path, Some(json), kind).await
    }

    /// A whole answer that is a JSON object.
    pub(crate) async fn whole(&mut self, path: &str, json: Option<&Value>) -> Result<Value, AskError> {
        let mut response = self.send(path, json, "application/json").await?;
        let mut bytes = Vec::new();
        while let Some(chunk) = self.chunk(&mut response).await? {
            bytes.extend_from_slice(&chunk);
        }
        let told: Value =
            serde_json::from_slice(&bytes).map_err(|_| self.nonsense("the answer is no JSON"))?;
        match told.get("error").filter(|error| !error.is_null()) {
            Some(error) => Err(self.wrong(Wrong::Failed(sentence(error)))),
            None => Ok(told),
        }
    }

    async fn send(&mut self, path: &str, json: Option<&Value>, kind: &str) -> Result<Response, AskError> {
        let mut pause = self.client.limits.pause;
        loop {
            self.tries += 1;
            let error = match self.once(path, json, kind).await {
                Ok(response) => return Ok(response),
                Err(error) => error,
            };
            let Some(asked) = error.again_after() else {
                return Err(error);
            };
            let wait = asked.unwrap_or(pause);
            let too_long = wait > self.client.limits.pause_max || Instant::now() + wait >= self.until;
            if self.tries >= self.client.limits.tries || too_long {
                return Err(error);
            }
            self.within(tokio::time::sleep(wait), Duration::MAX).await?;
            pause *= 2;
        }
    }

    async fn once(&mut self, path: &str, json: Option<&Value>, kind: &str) -> Result<Response, AskError> {
        let mut headers = self.headers(kind);
        let (method, body) = match json {
            Some(json) => {
                headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
                (Method::POST, json.to_string())
            }
            None => (Method::GET, String::new()),
        };
        let sending = Sending {
            provider: self.provider.clone(),
            leave: self.leave.clone(),
            bytes: body.len() as u64,
            patience: self.client.limits.connect,
        };
        self.up += body.len() as u64;
        let asked = Asked {
            method,
            target: self.provider.url.target(path),
            headers,
            body,
        };
        let sent = self.client.http.send(sending, asked);
        let sent = self.within(sent, self.client.limits.first_byte).await?;
        let mut response = sent.map_err(|barred| self.barred(barred))?;
        if response.status != StatusCode::OK {
            return Err(self.refusal(&mut response).await);
        }
        let told = response
            .headers
            .get(CONTENT_TYPE)
            .and_then(|kind| kind.to_str().ok());
        let told = told.unwrap_or_default();
        let same = told
            .split(';')
            .next()
            .unwrap_or_default()
            .trim()
            .eq_ignore_ascii_case(kind);
        // Ollama's lines are also called JSON.
        let lines = kind == "application/x-ndjson" && told.starts_with("application/json");
        if !same && !lines {
            let told: String = told.chars().filter(|c| !c.is_control()).take(60).collect();
            return Err(self.nonsense(&format!("it is {told:?} and not {kind}")));
        }
        Ok(response)
    }

    fn headers(&self, kind: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if let Ok(kind) = HeaderValue::from_str(kind) {
            headers.insert(ACCEPT, kind);
        }
        let dialect = self.provider.dialect;
        if dialect == Dialect::Anthropic {
            headers.insert("anthropic-version", HeaderValue::from_static(ANTHROPIC_VERSION));
        }
        // A key goes over no way on which others can read it.
        let safe = self.provider.url.is_encrypted() || self.provider.url.is_loopback();
        if let Some(key) = self.key.filter(|_| safe) {
            let (name, value) = match dialect {
                Dialect::Anthropic => ("x-api-key", key.reveal().to_owned()),
                Dialect::Gemini => ("x-goog-api-key", key.reveal().to_owned()),
                Dialect::OpenAi | Dialect::Ollama | Dialect::Vllm | Dialect::LlamaServer => {
                    (AUTHORIZATION.as_str(), format!("Bearer {}", key.reveal()))
                }
            };
            if let Ok(mut value) = HeaderValue::from_str(&value) {
                value.set_sensitive(true);
                headers.insert(
                    HeaderName::from_bytes(name.as_bytes()).unwrap_or(AUTHORIZATION),
                    value,
                );
            }
        }
        headers
    }

    async fn refusal(&mut self, response: &mut Response) -> AskError {
        let status = response.status.as_u16();
        let pause = retry_after(&response.headers, SystemTime::now());
        let mut bytes = Vec::new();
        while bytes.len() < REFUSAL_BYTES_MAX {
            match self.chunk(response).await {
                Ok(Some(chunk)) => bytes.extend_from_slice(&chunk),
                // What stands there already says enough.
                Ok(None) | Err(_) => break,
            }
        }
        bytes.truncate(REFUSAL_BYTES_MAX);
        let told: Option<Value> = serde_json::from_slice(&bytes).ok();
        let error = told.as_ref().map(|told| told.get("error").unwrap_or(told));
        let said = error.map_or_else(|| "it says no more".to_owned(), sentence);
        AskError::Refused {
            name: self.provider.name.clone(),
            status,
            sentence: self.told(&said),
            kind: match status {
                401 | 403 => Refused::Key,
                429 => Refused::TooOften(pause),
                500 | 502 | 503 | 504 | 529 => Refused::Unwell(pause),
                _ => Refused::Request,
            },
        }
    }

    /// The next bytes of an answer; nothing after the last.
    pub(crate) async fn chunk(&mut self, response: &mut Response) -> Result<Option<Vec<u8>>, AskError> {
        let read = self.within(response.chunk(), self.client.limits.silence).await?;
        let chunk = read.map_err(|barred| match barred {
            Barred::Unreachable(why) => self.cut(&why),
            barred => self.barred(barred),
        })?;
        self.down += chunk.as_ref().map_or(0, |bytes| bytes.len());
        if self.down > self.client.limits.answer_bytes {
            return Err(self.nonsense("the answer has no end"));
        }
        Ok(chunk.map(Vec::from))
    }

    /// Waits for `work`, for somebody who waits for it, and no longer than may be.
    async fn within<T>(&self, work: impl Future<Output = T>, patience: Duration) -> Result<T, AskError> {
        let began = Instant::now();
        let mut work = std::pin::pin!(work);
        loop {
            if let Ok(done) = tokio::time::timeout(LOOK_EVERY, &mut work).await {
                return Ok(done);
            }
            let name = || self.provider.name.clone();
            if (self.listener.stopped)() {
                return Err(AskError::Stopped);
            }
            if Instant::now() >= self.until {
                return Err(AskError::TimeUp { name: name() });
            }
            let waited = began.elapsed();
            if waited >= patience {
                return Err(AskError::Late { name: name(), waited });
            }
        }
    }

    pub(crate) fn nonsense(&self, what: &str) -> AskError {
        AskError::Nonsense {
            name: self.provider.name.clone(),
            what: what.to_owned(),
        }
    }

    fn barred(&self, barred: Barred) -> AskError {
        let name = self.provider.name.clone();
        match barred {
            Barred::Forbidden(why) => AskError::Forbidden { name, why },
            Barred::Unreachable(why) => AskError::Unreachable {
                name,
                why: self.told(&why),
            },
        }
    }

    fn cut(&self, why: &str) -> AskError {
        AskError::Cut {
            name: self.provider.name.clone(),
            why: self.told(why),
        }
    }

    /// What is wrong with an event, as an error.
    pub(crate) fn wrong(&self, wrong: Wrong) -> AskError {
        match wrong {
            Wrong::Nonsense(what) => self.nonsense(what),
            Wrong::Failed(sentence) => self.cut(&sentence),
        }
    }

    /// Somebody else's words, short, on one line and without the key.
    fn told(&self, text: &str) -> String {
        let text = self.key.map_or_else(|| text.to_owned(), |key| key.hide_in(text));
        let clean = |c: char| if c.is_control() { ' ' } else { c };
        text.chars().map(clean).take(SENTENCE_MAX).collect()
    }
}

/// The pause that a provider asks for: seconds, milliseconds, or a date.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = |name: &str| {
        headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .map(str::trim)
    };
    let number = |text: &str| text.parse::<f64>().ok().filter(|n| n.is_finite() && *n >= 0.0);
    let seconds = |n: f64| Duration::try_from_secs_f64(n).ok();
    if let Some(ms) = text("retry-after-ms").and_then(number) {
        return seconds(ms / 1e3);
    }
    let said = text(RETRY_AFTER.as_str())?;
    match number(said) {
        Some(n) => seconds(n),
        None => {
            let when = httpdate::parse_http_date(said).ok()?;
            Some(when.duration_since(now).unwrap_or_default())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_goes_over_tls_or_stays_on_this_machine() {
        let client = Client::new(Limits::default(), crate::dial::Direct).unwrap();
        let key = Secret::new("sk-1").unwrap();
        let listener = Listener {
            stopped: &|| false,
            deadline: None,
        };
        for (url, goes) in [
            ("https://api.example/v1", true),
            ("http://127.0.0.1:8000/v1", true),
            ("http://localhost:8000", true),
            ("http://192.168.0.9:8000", false),
        ] {
            for dialect in Dialect::ALL {
                let provider = crate::provider::testing::provider(dialect.name(), url);
                let headers = Call::new(&client, &provider, Some(&key), &listener).headers("text/plain");
                let told = headers
                    .values()
                    .any(|value| value.to_str().is_ok_and(|v| v.contains("sk-1")));
                assert_eq!(told, goes, "{url}");
            }
        }
    }

    #[test]
    fn a_pause_is_read_in_each_way_it_is_written() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let read = |name: &'static str, value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_static(value));
            retry_after(&headers, now)
        };
        let cases = [
            ("retry-after", "3", Some(3.0)),
            ("retry-after", " 0.5 ", Some(0.5)),
            ("retry-after-ms", "250", Some(0.25)),
            ("retry-after", "Sun, 06 Nov 1994 08:49:47 GMT", Some(10.0)),
            ("retry-after", "Sun, 06 Nov 1994 08:49:27 GMT", Some(0.0)),
            ("retry-after", "-1", None),
            ("retry-after", "soon", None),
            ("retry-after", "1e300", None),
        ];
        for (name, value, seconds) in cases {
            assert_eq!(
                read(name, value).map(|d| d.as_secs_f64()),
                seconds,
                "{name}: {value}"
            );
        }
    }
}
