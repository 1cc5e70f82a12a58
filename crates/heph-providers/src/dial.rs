//! Who opens the ways to providers: a guard that asks the policy again and counts, or, where whoever starts a program named the
//! engine itself, this crate.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use heph_privacy::Clearance;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::provider::Provider;

/// What is about to be sent to a provider, for whoever opens or keeps the way.
#[derive(Debug, Clone)]
pub struct Sending {
    /// To whom.
    pub provider: Provider,
    /// By which leave; `None` where nothing is said, as where only a list of models is asked for.
    pub leave: Option<Clearance>,
    /// Bytes of the body: what HTTP and TLS put around it comes on top.
    pub bytes: u64,
    /// How long a connection may take to stand.
    pub patience: Duration,
}

/// Why something is not sent, or was cut while it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Barred {
    /// It may not leave: asking again helps nobody.
    Forbidden(String),
    /// Nobody is there, or the guard is not.
    Unreachable(String),
}

/// Bytes both ways.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A way that is open.
pub struct Way {
    /// What passes, as it is.
    pub io: Box<dyn Io>,
    /// Whoever is asked before something else is sent over it.
    pub keeper: Arc<dyn Keeper>,
}

impl fmt::Debug for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Way")
    }
}

/// What is waited for.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = Result<T, Barred>> + Send + 'a>>;

/// Opens ways to providers.
pub trait Dial: fmt::Debug + Send + Sync + 'static {
    /// A way, for what is to be sent first.
    fn open(&self, sending: Sending) -> Pending<'_, Way>;
}

/// Keeps a way that is open.
pub trait Keeper: Send + Sync + 'static {
    /// Leave to send something else over the same way.
    fn leave(&self, sending: Sending) -> Pending<'_, ()>;

    /// Why the keeper ended the way, where it did: asked once it ended.
    fn trouble(&self) -> Pin<Box<dyn Future<Output = Option<Barred>> + Send + '_>>;
}

/// Opens connections itself, and asks nobody.
#[derive(Debug, Clone, Copy)]
pub struct Direct;

impl Dial for Direct {
    fn open(&self, sending: Sending) -> Pending<'_, Way> {
        Box::pin(async move {
            let url = &sending.provider.url;
            let connecting = TcpStream::connect((url.bare_host(), url.port()));
            let late = || Barred::Unreachable("nobody answers in time".to_owned());
            let broken = |error: std::io::Error| Barred::Unreachable(error.to_string());
            let waited = tokio::time::timeout(sending.patience, connecting).await;
            let stream = waited.map_err(|_| late())?.map_err(broken)?;
            stream.set_nodelay(true).map_err(broken)?;
            Ok(Way {
                io: Box::new(stream),
                keeper: Arc::new(Self),
            })
        })
    }
}

impl Keeper for Direct {
    fn leave(&self, _: Sending) -> Pending<'_, ()> {
        Box::pin(async { Ok(()) })
    }

    fn trouble(&self) -> Pin<Box<dyn Future<Output = Option<Barred>> + Send + '_>> {
        Box::pin(async { None })
    }
}
