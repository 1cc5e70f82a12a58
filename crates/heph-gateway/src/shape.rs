//! From an answer to bytes: at once, or as a stream of frames in the shape that was asked for.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde::Serialize;
use serde_json::Value;

use crate::answer::{Answer, Part};
use crate::error::{Dialect, Refusal};
use crate::house::Door;
use crate::kept::{self, KeptStream};

/// Bytes of frames that go into one write where the answer has more ready than was taken of it.
const WRITE_BYTES: usize = 4 << 10;

/// Writes of a stream that wait for nothing: short answers, and the beginning of long ones.
const WRITES_AT_ONCE: usize = 8;

/// Between two writes after those, where tokens come faster than that: no screen shows 250 pictures a second, and a token that is
/// written by itself costs a thread's waking and the reader's.
const WRITE_EVERY: Duration = Duration::from_millis(4);

/// Frames that are ready to be sent.
#[derive(Debug, Default)]
pub(crate) struct Frames(pub(crate) Vec<String>);

impl Frames {
    /// An event with data alone.
    pub(crate) fn data(&mut self, value: &impl Serialize) {
        self.0.push(format!("data: {}\n\n", text(value)));
    }

    /// An event with a name.
    pub(crate) fn event(&mut self, name: &str, value: &impl Serialize) {
        self.0.push(format!("event: {name}\ndata: {}\n\n", text(value)));
    }

    /// A line of its own.
    pub(crate) fn line(&mut self, value: &impl Serialize) {
        self.0.push(format!("{}\n", text(value)));
    }

    /// A word that is no JSON.
    pub(crate) fn word(&mut self, word: &str) {
        self.0.push(format!("data: {word}\n\n"));
    }

    /// The event of a mould, with this text.
    pub(crate) fn cast(&mut self, mould: &Mould, words: &str) {
        self.0
            .push([mould.before.as_str(), &text(&words), &mould.after].concat());
    }

    fn bytes(&self) -> usize {
        self.0.iter().map(String::len).sum()
    }
}

/// An event that comes again for each token with another text: everything but the text, written once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mould {
    before: String,
    after: String,
}

impl Mould {
    /// Stands where the text will be. What follows it in an event is ours, and never this.
    pub(crate) const HOLE: &str = "\u{1}";

    /// An event with data alone.
    ///
    /// # Panics
    /// Where the event has no text that is [`Mould::HOLE`].
    pub(crate) fn data(event: &impl Serialize) -> Self {
        let whole = format!("data: {}\n\n", text(event));
        let parts = whole.rsplit_once(&text(&Self::HOLE));
        let (before, after) = parts.expect("an event of a mould has a hole");
        Self {
            before: before.to_owned(),
            after: after.to_owned(),
        }
    }
}

/// JSON as text; our own values have no map with keys that are no text, and so always have one.
pub(crate) fn text(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_else(|_| "null".to_owned())
}

/// How an API writes an answer as a stream.
pub(crate) trait Shape: Send + 'static {
    /// What the stream is.
    const CONTENT_TYPE: &'static str = "text/event-stream";
    /// Whose errors it has.
    const DIALECT: Dialect;

    /// Before anything has come.
    fn begin(&mut self, answer: &Answer, out: &mut Frames);
    /// A piece of the answer.
    fn part(&mut self, answer: &Answer, part: Part, out: &mut Frames);
    /// After the last piece.
    fn end(&mut self, answer: &Answer, out: &mut Frames);

    /// Something broke after the stream had begun.
    fn broken(&mut self, refusal: &Refusal, out: &mut Frames) {
        out.data(&refusal.body(Self::DIALECT));
    }
}

/// What a stream is read from.
pub(crate) trait Source: Send + 'static {
    /// The next frames; `None` after the last.
    fn next(&mut self) -> impl Future<Output = Option<Vec<String>>> + Send;
}

struct Writing<S> {
    answer: Answer,
    shape: S,
    over: bool,
    /// How often it was written, and when last.
    writes: usize,
    last: Instant,
    /// Whether several pieces went into the last write: then it is no use to wake for the next one alone.
    crowded: bool,
}

impl<S: Shape> Source for Writing<S> {
    /// What comes next, and what is ready behind it: a write costs more than what it writes.
    async fn next(&mut self) -> Option<Vec<String>> {
        let mut out = Frames::default();
        if self.crowded {
            self.rest().await;
        }
        while out.0.is_empty() && !self.over {
            let heard = self.answer.next().await;
            self.write(heard, &mut out);
        }
        self.crowded = false;
        if !self.over {
            self.rest().await;
        }
        while !self.over
            && out.bytes() < WRITE_BYTES
            && let Some(heard) = self.answer.ready()
        {
            self.write(Some(heard), &mut out);
            self.crowded = true;
        }
        self.writes += 1;
        self.last = Instant::now();
        Some(out.0).filter(|frames| !frames.is_empty())
    }
}

impl<S: Shape> Writing<S> {
    /// Waits until the next write is due; for no clock where it is, as it is for tokens that come slowly.
    async fn rest(&mut self) {
        let since = self.last.elapsed();
        if self.writes >= WRITES_AT_ONCE && since < WRITE_EVERY {
            tokio::time::sleep(WRITE_EVERY - since).await;
        }
    }

    fn write(&mut self, heard: Option<Result<Vec<Part>, Refusal>>, out: &mut Frames) {
        match heard {
            Some(Ok(parts)) => {
                for part in parts {
                    self.shape.part(&self.answer, part, out);
                }
                if self.answer.is_over() {
                    self.over = true;
                    self.shape.end(&self.answer, out);
                }
            }
            Some(Err(refusal)) => {
                self.over = true;
                self.shape.broken(&refusal, out);
            }
            None => self.over = true,
        }
    }
}

/// Whether a reply is kept for a connection that may be lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    /// It ends with its connection.
    No,
    /// It goes on for a while without a reader.
    Yes,
}

/// The answer as a stream.
pub(crate) fn stream<S: Shape>(door: &Door, answer: Answer, mut shape: S, keep: Keep) -> Response {
    let headers = headers(&answer, S::CONTENT_TYPE);
    let mut first = Frames::default();
    shape.begin(&answer, &mut first);
    let id = answer.id.clone();
    let writing = Writing {
        answer,
        shape,
        over: false,
        writes: 0,
        last: Instant::now(),
        crowded: false,
    };
    sent(door, &id, headers, first.0, writing, keep)
}

/// A stream called `id`, which begins with `first`.
pub(crate) fn sent(
    door: &Door,
    id: &str,
    headers: HeaderMap,
    first: Vec<String>,
    mut source: impl Source,
    keep: Keep,
) -> Response {
    if keep == Keep::Yes {
        let kept = door.kept.open(id);
        let (fed, door) = (Arc::clone(&kept), Arc::clone(door));
        tokio::spawn(async move {
            fed.put(first);
            loop {
                tokio::select! {
                    frames = source.next() => match frames {
                        // Whoever takes it up again does so at the door that takes this one's place, and has it made anew there.
                        _ if door.closing.is_closed() => return,
                        Some(frames) => fed.put(frames),
                        None => break,
                    },
                    () = fed.deserted() => break,
                }
                fed.room().await;
            }
            fed.end();
        });
        return match kept_body(kept, 0) {
            Some(body) => (headers, body).into_response(),
            None => Refusal::ours("an answer ended before it began").into_response(),
        };
    }
    let begin = Some(first).filter(|frames| !frames.is_empty());
    // In a box, since the whole state moves with each piece, to and fro.
    let source = Box::new(source);
    let body = stream::unfold((begin, source), |(begin, mut source)| async move {
        let frames = match begin {
            Some(frames) => frames,
            None => source.next().await?,
        };
        Some((Ok::<_, Infallible>(Bytes::from(frames.concat())), (None, source)))
    });
    (headers, Body::from_stream(body)).into_response()
}

/// What a kept reply still has to say after its event number `after`; `None` where not all of that is kept.
pub(crate) fn resumed(kept: Arc<KeptStream>, after: usize) -> Option<Response> {
    let fixed = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    let body = kept_body(kept, after)?;
    Some((StatusCode::OK, fixed, body).into_response())
}

fn kept_body(kept: Arc<KeptStream>, after: usize) -> Option<Body> {
    let reader = kept::Reader::new(kept, after)?;
    Some(Body::from_stream(stream::unfold(
        reader,
        |mut reader| async move {
            let event = reader.next().await?;
            Some((event.map(Bytes::from), reader))
        },
    )))
}

/// The whole answer, once it is there; `gather` takes its pieces.
pub(crate) async fn whole(answer: &mut Answer, mut gather: impl FnMut(Part)) -> Result<(), Refusal> {
    while let Some(parts) = answer.next().await {
        parts?.into_iter().for_each(&mut gather);
    }
    Ok(())
}

/// A complete answer as JSON, with HEPH's headers.
pub(crate) fn complete(answer: &Answer, body: &Value) -> Response {
    (headers(answer, "application/json"), text(body)).into_response()
}

/// The headers of every answer.
pub(crate) fn named(id: &str, content_type: &'static str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("content-type", content_type),
        ("cache-control", "no-cache"),
        // Proxies such as nginx would hold a stream back otherwise.
        ("x-accel-buffering", "no"),
        ("heph-request-id", id),
        ("x-request-id", id),
    ] {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
    headers
}

fn headers(answer: &Answer, content_type: &'static str) -> HeaderMap {
    let mut headers = named(&answer.id, content_type);
    let mut set = |name: &'static str, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    };
    let (mode, exactness) = answer.class();
    if let Some(mode) = mode {
        set("heph-mode", mode);
    }
    set("heph-exactness", &exactness);
    if answer.is_recalled() {
        set("heph-cache", "semantic");
    }
    set("heph-receipt", &answer.receipt_id());
    headers
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_from_a_mould_is_the_event_with_that_text() {
        let event =
            |text: &str| json!({ "model": "\u{1}m\"\u{1}", "choices": [{ "text": text, "why": null }] });
        let mould = Mould::data(&event(Mould::HOLE));
        for words in ["", "x", " \"so\" \\ \n\u{0}", Mould::HOLE, "日本 🦊 \u{2028}"] {
            let (mut cast, mut whole) = (Frames::default(), Frames::default());
            cast.cast(&mould, words);
            whole.data(&event(words));
            assert_eq!(cast.0, whole.0);
        }
    }
}
