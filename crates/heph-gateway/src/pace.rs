//! How slow a caller may be: in sending the body of a request, and in taking what it is told; and how much all of them may send at once.
//!
//! A door has places for so many connections, and whoever holds one for nothing keeps somebody else out.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use hyper::body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use crate::error::Refusal;

/// How long a body may take, whatever its length.
const BODY_WITHIN: Duration = Duration::from_secs(30);

/// And how many bytes of it come in each second beyond that: what the slowest of telephones send.
const BODY_BYTES_S: u64 = 4 << 10;

/// How long a caller may take nothing at all of what it is told, as long as an answer waits for a reader: one who reads a kilobyte a
/// second takes some of it every ten.
pub(crate) const ASLEEP_AFTER: Duration = Duration::from_secs(120);

/// Bytes of bodies that are held at one time: of those that come, and of those whose requests are made ready. The longest one alone fits.
pub(crate) const BODIES_MAX: u64 = 256 << 20;

/// How soon a caller may come again whose body found no room: those that come as fast as they must are through by then.
const COME_AGAIN_S: u64 = 2;

/// The bytes of all bodies that are held now.
#[derive(Debug)]
pub(crate) struct Bodies {
    held: AtomicU64,
    most: u64,
}

impl Bodies {
    pub(crate) fn new(most: u64) -> Self {
        Self {
            held: AtomicU64::new(0),
            most,
        }
    }

    /// Whether so many bytes more may come now.
    fn has_room(&self, bytes: u64) -> bool {
        self.held.load(Ordering::Relaxed).saturating_add(bytes) <= self.most
    }
}

/// What is held of one body until its request is answered, or the answer begins.
struct Held {
    bodies: Arc<Bodies>,
    bytes: AtomicU64,
    /// Why the body is given up, once it is.
    over: AtomicBool,
    late: AtomicBool,
}

impl Held {
    fn new(bodies: &Arc<Bodies>) -> Arc<Self> {
        Arc::new(Self {
            bodies: Arc::clone(bodies),
            bytes: AtomicU64::new(0),
            over: AtomicBool::new(false),
            late: AtomicBool::new(false),
        })
    }

    /// Holds so many bytes more; `false` where there is no room.
    fn take(&self, bytes: u64) -> bool {
        let before = self.bodies.held.fetch_add(bytes, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        before.saturating_add(bytes) <= self.bodies.most
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let bytes = self.bytes.load(Ordering::Relaxed);
        self.bodies.held.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Has a body only as long as it comes as fast as it must, and there is room for it.
pub(crate) async fn paced(State(bodies): State<Arc<Bodies>>, request: Request, next: Next) -> Response {
    if request.body().is_end_stream() {
        return next.run(request).await;
    }
    // What was announced and cannot be held is not begun. It is not held before it comes: words alone take no room.
    if !bodies.has_room(request.body().size_hint().lower()) {
        return closing(full());
    }
    let held = Held::new(&bodies);
    let request = request.map(|body| Body::new(Paced::new(body, BODY_WITHIN, Arc::clone(&held))));
    let response = next.run(request).await;
    if held.over.load(Ordering::Relaxed) {
        return closing(full());
    }
    if held.late.load(Ordering::Relaxed) {
        let sentence = "the body came too slowly";
        return closing(Refusal::new(StatusCode::REQUEST_TIMEOUT, sentence));
    }
    response
}

fn full() -> Refusal {
    let sentence = "the bodies of other requests take all the room that there is for them";
    let refusal = Refusal::new(StatusCode::SERVICE_UNAVAILABLE, sentence).code("busy");
    refusal.retry_after(COME_AGAIN_S)
}

/// The refusal, and the end of the connection: what is left of the body would be taken for the next request.
fn closing(refusal: Refusal) -> Response {
    let mut response = refusal.into_response();
    let close = HeaderValue::from_static("close");
    response.headers_mut().insert(header::CONNECTION, close);
    response
}

/// A body that is given up where it comes too slowly, or finds no room.
struct Paced {
    body: Body,
    within: Duration,
    began: Instant,
    bytes: u64,
    /// Runs while nothing is there.
    until: Option<Pin<Box<Sleep>>>,
    held: Arc<Held>,
}

impl Paced {
    fn new(body: Body, within: Duration, held: Arc<Held>) -> Self {
        Self {
            body,
            within,
            began: Instant::now(),
            bytes: 0,
            until: None,
            held,
        }
    }

    /// When more must have come.
    fn due(&self) -> Instant {
        self.began + self.within + Duration::from_secs(self.bytes / BODY_BYTES_S)
    }
}

impl HttpBody for Paced {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            self.until = None;
            let data = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref());
            let came = data.map_or(0, |data| data.len() as u64);
            self.bytes += came;
            if !self.held.take(came) {
                self.held.over.store(true, Ordering::Relaxed);
                let full = io::Error::from(io::ErrorKind::OutOfMemory);
                return Poll::Ready(Some(Err(axum::Error::new(full))));
            }
            return Poll::Ready(frame);
        }
        let due = self.due();
        let sleep = || Box::pin(tokio::time::sleep_until(due.into()));
        ready!(self.until.get_or_insert_with(sleep).as_mut().poll(context));
        self.held.late.store(true, Ordering::Relaxed);
        Poll::Ready(Some(Err(axum::Error::new(io::Error::from(
            io::ErrorKind::TimedOut,
        )))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A connection that ends when its other side takes nothing for too long.
pub(crate) struct Awake<S> {
    stream: S,
    within: Duration,
    /// Runs while nothing can be written.
    until: Option<Pin<Box<Sleep>>>,
}

impl<S> Awake<S> {
    pub(crate) fn new(stream: S, within: Duration) -> Self {
        Self {
            stream,
            within,
            until: None,
        }
    }

    /// What came of writing, unless nothing has for too long.
    fn judged<T>(&mut self, context: &mut Context<'_>, wrote: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if wrote.is_ready() {
            self.until = None;
            return wrote;
        }
        let within = self.within;
        let sleep = || Box::pin(tokio::time::sleep(within));
        ready!(self.until.get_or_insert_with(sleep).as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Awake<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Awake<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.judged(context, wrote)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write_vectored(context, bytes);
        self.judged(context, wrote)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let wrote = Pin::new(&mut self.stream).poll_flush(context);
        self.judged(context, wrote)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let wrote = Pin::new(&mut self.stream).poll_shutdown(context);
        self.judged(context, wrote)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    }

    /// So many pieces of that many bytes, one each `pause`.
    fn body(pieces: usize, bytes: usize, pause: Duration) -> Body {
        Body::from_stream(stream::unfold(0, move |said| async move {
            tokio::time::sleep(pause).await;
            (said < pieces).then(|| (Ok::<_, io::Error>(Bytes::from(vec![b' '; bytes])), said + 1))
        }))
    }

    #[test]
    fn a_body_that_does_not_come_is_given_up_and_one_that_does_is_not() {
        let within = Duration::from_millis(300);
        let read = |body: Body| {
            let held = Held::new(&Arc::new(Bodies::new(1 << 20)));
            let paced = Body::new(Paced::new(body, within, Arc::clone(&held)));
            let read = runtime().block_on(axum::body::to_bytes(paced, 1 << 20));
            (
                read.ok().map(|read| read.len()),
                held.late.load(Ordering::Relaxed),
            )
        };
        assert_eq!(read(Body::from("so")), (Some(2), false));
        assert_eq!(read(body(1, 1, Duration::from_secs(5))), (None, true));
        // A byte now and then holds no place.
        assert_eq!(read(body(100_000, 1, Duration::from_millis(20))), (None, true));
        // Who sends much may take as long as that takes.
        let much = body(6, 64 << 10, Duration::from_millis(80));
        assert_eq!(read(much), (Some(6 << 16), false));
    }

    #[test]
    fn bodies_have_so_much_room_together_and_give_it_back_with_their_requests() {
        let bodies = Arc::new(Bodies::new(100));
        let read = |length: usize, announced: bool| {
            let held = Held::new(&bodies);
            let body = match announced {
                true => Body::from(vec![b' '; length]),
                false => body(length.div_ceil(10), 10, Duration::ZERO),
            };
            let paced = Body::new(Paced::new(body, BODY_WITHIN, Arc::clone(&held)));
            let read = runtime().block_on(axum::body::to_bytes(paced, 1 << 20));
            (held, read.is_ok())
        };
        for announced in [true, false] {
            let (one, whole) = read(60, announced);
            assert!(whole && bodies.has_room(40) && !bodies.has_room(41));
            let (two, whole) = read(50, announced);
            assert!(!whole && two.over.load(Ordering::Relaxed));
            // What was given up takes no room either.
            drop(two);
            let (three, whole) = read(40, announced);
            assert!(whole && !bodies.has_room(1));
            drop((one, three));
            assert_eq!(bodies.held.load(Ordering::Relaxed), 0);
        }
    }

    #[test]
    fn a_reader_who_takes_nothing_is_let_go_and_a_slow_one_is_not() {
        let within = Duration::from_millis(300);
        runtime().block_on(async {
            let (here, _asleep) = tokio::io::duplex(64);
            let mut here = Awake::new(here, within);
            let wrote = tokio::time::timeout(Duration::from_secs(20), here.write_all(&[0; 4096]));
            let wrote = wrote.await.expect("it waits for nobody");
            assert_eq!(wrote.unwrap_err().kind(), io::ErrorKind::TimedOut);
            let (here, mut slow) = tokio::io::duplex(64);
            let mut here = Awake::new(here, within);
            let reads = async {
                let mut some = [0; 64];
                for _ in 0..10 {
                    tokio::time::sleep(Duration::from_millis(60)).await;
                    slow.read_exact(&mut some).await.unwrap();
                }
            };
            let (wrote, ()) = tokio::join!(here.write_all(&[0; 640]), reads);
            wrote.unwrap();
        });
    }
}
