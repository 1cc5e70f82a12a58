//! Work that takes a while, told about while it is done.

use std::convert::Infallible;

use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use heph_runtime::cancel::Cancel;
use serde_json::Value;
use tokio::sync::mpsc::{self, Sender};

use crate::shape::text;

/// Reports that may wait to be sent; what is too many is left out, the last one never.
const REPORTS_WAITING: usize = 16;

/// Where work says how far it is.
pub(crate) struct Teller(Sender<Value>);

impl Teller {
    /// Says it, unless nobody has read what was said before.
    pub(crate) fn tell(&self, report: Value) {
        let _ = self.0.try_send(report);
    }
}

/// Stops the work when nobody hears of it any more.
struct Watch(Cancel);

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.raise();
    }
}

/// Does `work` and answers with its reports as events; the last is what it gives. Whoever hangs up ends it.
pub(crate) fn told(work: impl FnOnce(&Cancel, &Teller) -> Value + Send + 'static) -> Response {
    let (reports, heard) = mpsc::channel::<Value>(REPORTS_WAITING);
    let cancel = Cancel::new();
    let job = cancel.clone();
    tokio::task::spawn_blocking(move || {
        let teller = Teller(reports);
        let last = work(&job, &teller);
        let _ = teller.0.blocking_send(last);
    });
    let body = stream::unfold((heard, Watch(cancel)), |(mut heard, watch)| async move {
        let report = heard.recv().await?;
        let frame = format!("data: {}\n\n", text(&report));
        Some((Ok::<_, Infallible>(Bytes::from(frame)), (heard, watch)))
    });
    let head = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (head, Body::from_stream(body)).into_response()
}
