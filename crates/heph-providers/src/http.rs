//! HTTP/1.1 over ways that somebody else opens. Follows no redirect, knows no proxy, and keeps a connection for the next request
//! to the same place.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{HOST, HeaderMap, HeaderValue, USER_AGENT};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use rustls_platform_verifier::ConfigVerifierExt;
use tokio_rustls::TlsConnector;

use crate::dial::{Barred, Dial, Io, Keeper, Sending};

/// Connections that are kept for the next request: of a few providers, some answers at once each.
const KEPT_MAX: usize = 16;

/// How long they are: servers keep theirs for a minute and more.
const KEPT_FOR: Duration = Duration::from_secs(55);

/// Bytes of an answer's head.
const HEAD_BYTES_MAX: usize = 256 << 10;

/// What is asked.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) method: Method,
    /// Path and question, as they stand in the first line.
    pub(crate) target: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

/// The head of an answer, and the rest of it as it comes.
pub(crate) struct Response {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    body: Incoming,
    keeper: Arc<dyn Keeper>,
}

/// A connection that may be used again.
struct Line {
    place: (bool, String, u16),
    sender: SendRequest<Full<Bytes>>,
    keeper: Arc<dyn Keeper>,
    since: Instant,
}

/// Sends requests.
#[derive(Clone)]
pub(crate) struct Http {
    dial: Arc<dyn Dial>,
    tls: Arc<ClientConfig>,
    kept: Arc<Mutex<Vec<Line>>>,
}

impl std::fmt::Debug for Http {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Http")
            .field("dial", &self.dial)
            .finish_non_exhaustive()
    }
}

impl Http {
    /// Over ways that `dial` opens, with the certificates that this system trusts.
    pub(crate) fn new(dial: Arc<dyn Dial>) -> Result<Self, String> {
        // Whoever was first installed the same one.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut tls = ClientConfig::with_platform_verifier().map_err(|error| error.to_string())?;
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self {
            dial,
            tls: Arc::new(tls),
            kept: Arc::default(),
        })
    }

    /// The answer to a request, over a connection that is kept or a new one.
    pub(crate) async fn send(&self, sending: Sending, asked: Asked) -> Result<Response, Barred> {
        let place = place(&sending);
        let mut request = request(&place, asked)?;
        while let Some(mut line) = self.take(&place) {
            match line.keeper.leave(sending.clone()).await {
                Ok(()) => {}
                // Whoever kept it is gone; a new one is asked anew.
                Err(Barred::Unreachable(_)) => continue,
                Err(barred) => return Err(barred),
            }
            // What a connection that ended meanwhile did not take goes over another one.
            match line.sender.try_send_request(request).await {
                Ok(answer) => return Ok(self.heard(line, answer)),
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(broken(&line.keeper, unreachable(&error.into_error())).await),
                },
            }
        }
        let mut line = self.open(place, sending).await?;
        match line.sender.send_request(request).await {
            Ok(answer) => Ok(self.heard(line, answer)),
            Err(error) => Err(broken(&line.keeper, unreachable(&error)).await),
        }
    }

    async fn open(&self, place: (bool, String, u16), sending: Sending) -> Result<Line, Barred> {
        let patience = sending.patience;
        let opening = async {
            let url = &sending.provider.url;
            let (encrypted, host) = (url.is_encrypted(), url.bare_host().to_owned());
            let way = self.dial.open(sending).await?;
            let keeper = way.keeper;
            let io: Box<dyn Io> = match encrypted {
                false => way.io,
                true => {
                    let name = ServerName::try_from(host).map_err(|error| unreachable(&error))?;
                    let shaken = TlsConnector::from(Arc::clone(&self.tls))
                        .connect(name, way.io)
                        .await;
                    match shaken {
                        Ok(stream) => Box::new(stream),
                        Err(error) => return Err(broken(&keeper, unreachable(&error)).await),
                    }
                }
            };
            let handshake = http1::Builder::new()
                .max_buf_size(HEAD_BYTES_MAX)
                .handshake(TokioIo::new(io))
                .await;
            let (sender, connection) = handshake.map_err(|error| unreachable(&error))?;
            // It ends with the last of its two users, or with the other side.
            tokio::spawn(async move { drop(connection.await) });
            Ok(Line {
                place,
                sender,
                keeper,
                since: Instant::now(),
            })
        };
        // A second more than the keeper of the way has, which knows better what is late.
        let late = |_| Barred::Unreachable("no connection stands in time".to_owned());
        tokio::time::timeout(patience + Duration::from_secs(1), opening)
            .await
            .map_err(late)?
    }

    /// A connection that is kept for that place and ready. Those that are not any more are let go of.
    fn take(&self, place: &(bool, String, u16)) -> Option<Line> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|line| !line.sender.is_closed() && line.since.elapsed() < KEPT_FOR);
        let ready = |line: &Line| line.place == *place && line.sender.is_ready();
        let at = kept.iter().position(ready)?;
        Some(kept.swap_remove(at))
    }

    /// The head of an answer. Its connection is ready for the next request once the body was read.
    fn heard(&self, line: Line, answer: hyper::Response<Incoming>) -> Response {
        let (head, body) = answer.into_parts();
        let keeper = Arc::clone(&line.keeper);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= KEPT_MAX {
            kept.remove(0);
        }
        let since = Instant::now();
        kept.push(Line { since, ..line });
        Response {
            status: head.status,
            headers: head.headers,
            body,
            keeper,
        }
    }
}

impl Response {
    /// The next bytes; nothing after the last.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>, Barred> {
        while let Some(frame) = self.body.frame().await {
            match frame.map(Frame::into_data) {
                Ok(Ok(bytes)) => return Ok(Some(bytes)),
                // What stands behind a body tells nothing here.
                Ok(Err(_)) => {}
                Err(error) => return Err(broken(&self.keeper, unreachable(&error)).await),
            }
        }
        Ok(None)
    }

    /// Why whoever keeps the connection ended it, where it did.
    pub(crate) async fn trouble(&self) -> Option<Barred> {
        self.keeper.trouble().await
    }
}

fn place(sending: &Sending) -> (bool, String, u16) {
    let url = &sending.provider.url;
    (url.is_encrypted(), url.host().to_owned(), url.port())
}

fn request(
    (encrypted, host, port): &(bool, String, u16),
    asked: Asked,
) -> Result<Request<Full<Bytes>>, Barred> {
    let usual = if *encrypted { 443 } else { 80 };
    let named = match *port == usual {
        true => host.clone(),
        false => format!("{host}:{port}"),
    };
    let mut request = Request::new(Full::new(Bytes::from(asked.body)));
    *request.method_mut() = asked.method;
    *request.uri_mut() = asked.target.parse().map_err(|error| unreachable(&error))?;
    *request.headers_mut() = asked.headers;
    let agent = HeaderValue::from_static(concat!("heph/", env!("CARGO_PKG_VERSION")));
    let host = HeaderValue::from_str(&named).map_err(|error| unreachable(&error))?;
    request.headers_mut().insert(USER_AGENT, agent);
    request.headers_mut().insert(HOST, host);
    Ok(request)
}

/// What was seen of a broken connection, unless whoever keeps it says why it ended.
async fn broken(keeper: &Arc<dyn Keeper>, seen: Barred) -> Barred {
    keeper.trouble().await.unwrap_or(seen)
}

fn unreachable(error: &dyn std::error::Error) -> Barred {
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    Barred::Unreachable(cause.to_string())
}
