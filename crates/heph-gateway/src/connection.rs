//! The socket: who may bind where, and what one connection may take.

use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::http::Request;
use heph_runtime::seal;
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::engines::EngineError;
use crate::house::{Door, House, HouseError, Options, now_ms};
use crate::local::{Listening, LocalSocket};
use crate::pace::{ASLEEP_AFTER, Awake};
use crate::routes;
use crate::tls::Tls;

/// Connections at one time; those that come later wait to be accepted.
pub(crate) const CONNECTIONS_MAX: usize = 1024;

/// How long a caller may take to say what it wants, up to the body.
const HEADERS_WITHIN: Duration = Duration::from_secs(30);

/// How long readers may take to hear that their answers ended with the door. Streams that never end are cut off then.
const LEAVE_WITHIN: Duration = Duration::from_millis(500);

/// How soon an open stream ends whose page was sent away by another program.
const LEAVE_LOOKED_AT_EVERY: Duration = Duration::from_millis(200);

/// The name of the one thread that reads and writes. What waits or computes has threads of its own, and with two of these each
/// token of a lone stream would wake both.
const DOOR_THREAD: &str = "heph-door";

/// Bytes that a connection may have ready to be sent, besides what the system holds.
const SEND_BUFFER: usize = 16 << 10;

/// Bytes that the system holds for a reader who is too slow; it may take twice that for them.
const SYSTEM_BUFFER: u32 = 16 << 10;

/// Bytes of a segment: several go into what the system holds. One of loopback has 64 KB otherwise, and whoever gets less than two waits
/// before they say so: a long answer comes at 2 MB a second then.
#[cfg(unix)]
const SEGMENT: u32 = SYSTEM_BUFFER / 4;

/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;

/// Why there is no door.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Everybody could come in.
    #[error("without a token only this machine may ask: {0} is reached by others too")]
    OpenToOthers(SocketAddr),
    /// Everybody on the way could read along.
    #[error("beyond this machine only TLS is spoken, and there is no certificate for {0}")]
    PlainToOthers(SocketAddr),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {cause}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        cause: std::io::Error,
    },
    /// The model does not answer.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// Something that all requests share is not there.
    #[error("{0}")]
    House(String),
    /// The system gives no threads or sockets.
    #[error("the system refuses: {0}")]
    System(#[from] std::io::Error),
}

impl From<HouseError> for ServeError {
    fn from(error: HouseError) -> Self {
        match error {
            HouseError::Engine(error) => Self::Engine(error),
            HouseError::Random => Self::House(error.to_string()),
        }
    }
}

/// A door that listens.
pub struct Server {
    door: Door,
    runtime: tokio::runtime::Runtime,
    listener: TcpListener,
    tls: Option<Tls>,
    local: Option<LocalSocket>,
}

/// The way by which a request came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// The local socket, which only the person's own programs reach.
    Local,
    /// From this address.
    From(IpAddr),
}

impl Server {
    /// Loads the model and listens on `address`. Without a token, or without TLS, only on loopback.
    ///
    /// # Errors
    /// When the address is open to others and there is no token or no certificate, or cannot be had, or the model does not load.
    pub fn open(address: SocketAddr, options: Options) -> Result<Self, ServeError> {
        allowed(address, &options)?;
        // Before the model is loaded: an address that is taken is told at once.
        let listener = socket_at(address).map_err(|cause| ServeError::Bind { address, cause })?;
        Self::on(listener, options)
    }

    /// The same on a socket that listens already: whoever comes before the model is loaded waits in it.
    ///
    /// # Errors
    /// As [`Server::open`].
    pub fn on(listener: std::net::TcpListener, options: Options) -> Result<Self, ServeError> {
        allowed(listener.local_addr()?, &options)?;
        let runtime = threads()?;
        listener.set_nonblocking(true)?;
        let listener = {
            let _inside = runtime.enter();
            TcpListener::from_std(listener)?
        };
        Self::with(listener, runtime, options)
    }

    fn with(
        listener: TcpListener,
        runtime: tokio::runtime::Runtime,
        mut options: Options,
    ) -> Result<Self, ServeError> {
        let tls = options.tls.take();
        Ok(Self {
            door: House::open(options)?,
            runtime,
            listener,
            tls,
            local: None,
        })
    }

    /// The same door, which is open to programs of this user at a local socket, too.
    #[must_use]
    pub fn also_at(self, local: LocalSocket) -> Self {
        Self {
            local: Some(local),
            ..self
        }
    }

    /// Where it listens.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers, on a thread of its own, until `is_over` says so. It is asked again and again, and waits a while itself before it
    /// says no.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn run(self, mut is_over: impl FnMut() -> bool) -> std::io::Result<()> {
        let Self {
            door,
            runtime,
            listener,
            tls,
            local,
        } = self;
        // What is let go of last may wait for threads of its own, as whoever asks providers does, and nothing may wait in there.
        let last = Arc::clone(&door);
        let (close, mut closing) = watch::channel(false);
        let local = {
            let _inside = runtime.enter();
            local.map(LocalSocket::listening).transpose()?
        };
        let answers = move || {
            runtime.block_on(async move {
                let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
                let ended = closing.clone();
                tokio::select! {
                    () = keep_up(Arc::clone(&door)) => {}
                    () = accept(listener, tls, local, &places, Arc::clone(&door), ended) => {}
                    _ = closing.wait_for(|closed| *closed) => {}
                }
                // Answers under way end here, and their readers hear it, as far as they listen.
                door.closing.close();
                let all = places.acquire_many(CONNECTIONS_MAX as u32);
                let _ = tokio::time::timeout(LEAVE_WITHIN, all).await;
            });
            // What nobody took in time ends with its connection; a download stops between two blocks.
            runtime.shutdown_timeout(Duration::from_secs(2));
        };
        let thread = std::thread::Builder::new()
            .name(DOOR_THREAD.to_owned())
            .spawn(answers)?;
        while !thread.is_finished() && !is_over() {}
        let _ = close.send(true);
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
        drop(last);
        Ok(())
    }
}

/// A listener whose connections hold no more than [`SYSTEM_BUFFER`].
fn listening(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // A door that was just closed may be opened again; on Windows this would let another program listen, too.
    #[cfg(not(windows))]
    socket.set_reuseaddr(true)?;
    socket.set_send_buffer_size(SYSTEM_BUFFER)?;
    #[cfg(unix)]
    socket2::SockRef::from(&socket).set_tcp_mss(SEGMENT)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// A socket that listens at `address`, for [`Server::on`]: it is made where sockets can be made.
///
/// # Errors
/// When the address cannot be had.
pub fn socket_at(address: SocketAddr) -> std::io::Result<std::net::TcpListener> {
    seal::unsealed(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()?;
        let listener = runtime.block_on(async { listening(address) })?;
        listener.into_std()
    })
}

/// Whether a door may stand at `address`.
fn allowed(address: SocketAddr, options: &Options) -> Result<(), ServeError> {
    if options.guard.token.is_none() && !address.ip().is_loopback() {
        return Err(ServeError::OpenToOthers(address));
    }
    if options.tls.is_none() && !address.ip().is_loopback() {
        return Err(ServeError::PlainToOthers(address));
    }
    Ok(())
}

/// What reads and writes, on the thread that runs it, and threads beside it for what waits.
fn threads() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .thread_name(DOOR_THREAD)
        .enable_all()
        .build()
}

/// Looks again and again whether another program took somebody's leave back, as long as pages have streams open. Whoever comes anew
/// is looked up then, so where nobody is there, nothing is looked at.
async fn keep_up(door: Door) {
    loop {
        door.guard.pairings.somebody_came().await;
        loop {
            tokio::time::sleep(LEAVE_LOOKED_AT_EVERY).await;
            let shared = Arc::clone(&door);
            let kept_up = move || shared.guard.pairings.keep_up(now_ms());
            if let Ok(Err(error)) = tokio::task::spawn_blocking(kept_up).await {
                tracing::warn!(%error, "pairings");
            }
            if !door.guard.pairings.is_somebody_here() {
                break;
            }
        }
    }
}

async fn accept(
    listener: TcpListener,
    tls: Option<Tls>,
    local: Option<Listening>,
    places: &Arc<Semaphore>,
    door: Door,
    closing: Closing,
) {
    let router = TowerToHyperService::new(routes::router(door));
    let from_afar = accept_from_afar(&listener, tls, places, &router, &closing);
    match local {
        None => from_afar.await,
        Some(local) => {
            tokio::join!(from_afar, accept_here(&local, places, &router, &closing));
        }
    }
}

async fn accept_from_afar(
    listener: &TcpListener,
    tls: Option<Tls>,
    places: &Arc<Semaphore>,
    router: &TowerToHyperService<axum::Router>,
    closing: &Closing,
) {
    loop {
        let Some((place, (stream, from))) = next(places, || listener.accept()).await else {
            return;
        };
        // Tokens are small and wait for nobody.
        let _ = stream.set_nodelay(true);
        let answers = Answers {
            router: router.clone(),
            way: Way::From(from.ip()),
        };
        let (tls, closing) = (tls.clone(), closing.clone());
        tokio::spawn(async move {
            match tls {
                None => speak(stream, answers, closing).await,
                // In boxes of their own: a plain connection has no room for them, and after the handshake none has for that.
                Some(tls) => {
                    if let Some(own) = tls.admit(from.ip())
                        && let Some(stream) = Box::pin(tls.shake(stream, &own)).await
                    {
                        Box::pin(speak(stream, answers, closing)).await;
                    }
                }
            }
            drop(place);
        });
    }
}

async fn accept_here(
    local: &Listening,
    places: &Arc<Semaphore>,
    router: &TowerToHyperService<axum::Router>,
    closing: &Closing,
) {
    while let Some((place, stream)) = next(places, || local.accept()).await {
        let answers = Answers {
            router: router.clone(),
            way: Way::Local,
        };
        let closing = closing.clone();
        tokio::spawn(async move {
            speak(stream, answers, closing).await;
            drop(place);
        });
    }
}

/// A place, and the connection that has it.
async fn next<S, F: Future<Output = std::io::Result<S>>>(
    places: &Arc<Semaphore>,
    accept: impl Fn() -> F,
) -> Option<(OwnedSemaphorePermit, S)> {
    let place = Arc::clone(places).acquire_owned().await.ok()?;
    loop {
        match accept().await {
            Ok(stream) => return Some((place, stream)),
            // Out of file handles, mostly: they come back when connections end.
            Err(error) => {
                tracing::warn!(%error, "no connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// What answers the requests of one connection.
#[derive(Clone)]
struct Answers {
    router: TowerToHyperService<axum::Router>,
    way: Way,
}

impl Service<Request<Incoming>> for Answers {
    type Response = <TowerToHyperService<axum::Router> as Service<Request<Incoming>>>::Response;
    type Error = <TowerToHyperService<axum::Router> as Service<Request<Incoming>>>::Error;
    type Future = <TowerToHyperService<axum::Router> as Service<Request<Incoming>>>::Future;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        request.extensions_mut().insert(self.way);
        self.router.call(request)
    }
}

/// Turns true once nobody is answered any more.
type Closing = watch::Receiver<bool>;

async fn speak(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    answers: Answers,
    mut closing: Closing,
) {
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS_WITHIN)
        .max_buf_size(SEND_BUFFER)
        .serve_connection(TokioIo::new(Awake::new(stream, ASLEEP_AFTER)), answers);
    let mut connection = pin!(connection);
    // A caller that hangs up is none of our errors.
    tokio::select! {
        _ = &mut connection => return,
        _ = closing.wait_for(|closed| *closed) => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn several_segments_go_into_what_the_system_holds() {
        let listener = socket_at("127.0.0.1:0".parse().unwrap()).unwrap();
        let caller = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        for stream in [&caller, &accepted] {
            let segment = socket2::SockRef::from(stream).tcp_mss().unwrap();
            assert!(segment <= SEGMENT, "{segment}");
        }
    }
}
