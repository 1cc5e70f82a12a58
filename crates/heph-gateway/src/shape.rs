//! From an answer to bytes: at once, or as a stream of frames in the shape that was asked for.

use std::convert::Infallible;
use std::sync::Arc;

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

struct Writing<S> {
    answer: Answer,
    shape: S,
    over: bool,
}

impl<S: Shape> Writing<S> {
    async fn next(&mut self) -> Option<Vec<String>> {
        let mut out = Frames::default();
        while out.0.is_empty() {
            if self.over {
                return None;
            }
            match self.answer.next().await {
                Some(Ok(parts)) => {
                    for part in parts {
                        self.shape.part(&self.answer, part, &mut out);
                    }
                    if self.answer.is_over() {
                        self.over = true;
                        self.shape.end(&self.answer, &mut out);
                    }
                }
                Some(Err(refusal)) => {
                    self.over = true;
                    self.shape.broken(&refusal, &mut out);
                }
                None => self.over = true,
            }
        }
        Some(out.0)
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
    let mut writing = Writing {
        answer,
        shape,
        over: false,
    };
    if keep == Keep::Yes {
        let kept = door.kept.open(&id);
        let fed = Arc::clone(&kept);
        tokio::spawn(async move {
            fed.put(first.0);
            loop {
                tokio::select! {
                    frames = writing.next() => match frames {
                        Some(frames) => fed.put(frames),
                        None => break,
                    },
                    () = fed.deserted() => break,
                }
                fed.room().await;
            }
            fed.end();
        });
        return (headers, kept_body(kept, 0)).into_response();
    }
    let begin = Some(first.0).filter(|frames| !frames.is_empty());
    let body = stream::unfold((begin, writing), |(begin, mut writing)| async move {
        let frames = match begin {
            Some(frames) => frames,
            None => writing.next().await?,
        };
        Some((Ok::<_, Infallible>(Bytes::from(frames.concat())), (None, writing)))
    });
    (headers, Body::from_stream(body)).into_response()
}

/// What a kept reply still has to say after its event number `after`.
pub(crate) fn resumed(kept: Arc<KeptStream>, after: usize) -> Response {
    let fixed = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (StatusCode::OK, fixed, kept_body(kept, after)).into_response()
}

fn kept_body(kept: Arc<KeptStream>, after: usize) -> Body {
    let reader = kept::Reader::new(kept, after);
    Body::from_stream(stream::unfold(reader, |mut reader| async move {
        let bytes = reader.next().await?;
        Some((Ok::<_, Infallible>(Bytes::from(bytes)), reader))
    }))
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

fn headers(answer: &Answer, content_type: &'static str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let mut set = |name: &'static str, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    };
    set("content-type", content_type);
    set("cache-control", "no-cache");
    // Proxies such as nginx would hold a stream back otherwise.
    set("x-accel-buffering", "no");
    set("heph-request-id", &answer.id);
    set("x-request-id", &answer.id);
    let (mode, exactness) = answer.class();
    set("heph-mode", mode);
    set("heph-exactness", &exactness);
    if answer.is_recalled() {
        set("heph-cache", "semantic");
    }
    set("heph-receipt", &answer.receipt_id());
    headers
}
