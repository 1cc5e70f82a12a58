//! This machine among its peers: one socket, one identity, one book of peers, and the threads that carry them.
//!
//! [`Network::start`] opens all of it. Whoever offers something registers a service for a [`Protocol`] with
//! [`Network::serve`]; a peer that connects is looked up in the book, sent away if it may not, and else handed to the
//! service in a task of its own. [`Network::connect`] goes the other way. Threads that are not of the network wait for it
//! with [`Network::block_on`]; tasks run on it with [`Network::spawn`]. Devices meet by [`Network::invite`] and
//! [`Network::join`]. [`Network::close`] says goodbye and ends everything within its deadline.
//!
//! Knows no model, stage or member: the services do.

mod arrivals;
mod pairing;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use heph_net::address::NodeAddress;
use heph_net::endpoint::{BindError, ConnectError, Connection, Endpoint, EndpointOptions, Protocol};
use heph_net::identity::{Identity, IdentityError};
use heph_net::pairing::Invitations;
use heph_net::trust::{Peer, TrustBook, TrustError};
use heph_types::NodeId;

use crate::settings::{self, Keys};
use crate::ways::Ways;

pub use pairing::JoinError;

/// Threads that carry bytes: one to read while another waits for the system. They compute nothing.
const THREADS: usize = 2;

/// Peers whose address was heard of and is remembered while the program runs.
const HEARD_MAX: usize = 1_024;

/// What a machine needs to be on the network.
#[derive(Debug, Clone)]
pub struct NetworkOptions {
    /// Folder with the identity and the book of peers; both are made at the first start.
    pub home: PathBuf,
    /// How this machine calls itself to the devices it meets.
    pub name: String,
    /// The socket, the relay and whether to look around.
    pub endpoint: EndpointOptions,
}

/// Why a machine cannot be on the network.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// It does not know who it is.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// It does not know whom it trusts.
    #[error(transparent)]
    Book(#[from] TrustError),
    /// It has no socket.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The system gives no threads.
    #[error("no threads for the network")]
    Threads(#[source] io::Error),
}

/// A peer that connected and may.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The way to it.
    pub connection: Connection,
    /// What the book says of it; `None` is a stranger.
    pub peer: Option<Peer>,
}

/// Whom a service takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admits {
    /// Peers that stand in the book.
    Known,
    /// Everybody. The service decides by [`Caller::peer`].
    Anyone,
}

/// A task of a service.
type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What is done for a peer that connects for one protocol.
#[derive(Clone)]
struct Service {
    admits: Admits,
    handle: Arc<dyn Fn(Caller) -> Task + Send + Sync>,
}

/// This machine among its peers. Clones are the same machine.
#[derive(Clone)]
pub struct Network(Arc<Inner>);

struct Inner {
    options: NetworkOptions,
    endpoint: Endpoint,
    tasks: tokio::runtime::Handle,
    runtime: Mutex<Option<tokio::runtime::Runtime>>,
    services: Mutex<BTreeMap<&'static [u8], Service>>,
    /// Connections that services work on.
    arrived: Mutex<BTreeMap<u64, Connection>>,
    heard: Mutex<BTreeMap<NodeId, NodeAddress>>,
    invitations: Mutex<Invitations>,
    /// Held while the book is read, changed and written.
    book: Mutex<()>,
    ways: Ways,
}

impl Network {
    /// Opens the socket and begins to answer. Pairing is served from the start, nothing else.
    ///
    /// # Errors
    /// When the identity or the book cannot be read, or there is no socket or thread.
    pub fn start(options: NetworkOptions) -> Result<Network, NetworkError> {
        let identity = identity(&options.home)?;
        TrustBook::open(&options.home)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("heph-network")
            .enable_all()
            .build()
            .map_err(NetworkError::Threads)?;
        let ways = Ways::open(&options.home);
        let endpoint = runtime.block_on(Endpoint::bind(&identity, options.endpoint.clone()))?;
        let network = Network(Arc::new(Inner {
            options,
            endpoint,
            tasks: runtime.handle().clone(),
            runtime: Mutex::new(Some(runtime)),
            services: Mutex::default(),
            arrived: Mutex::default(),
            heard: Mutex::default(),
            invitations: Mutex::default(),
            book: Mutex::new(()),
            ways,
        }));
        network.serve_pairing();
        network.spawn(arrivals::take(
            Arc::downgrade(&network.0),
            network.0.endpoint.clone(),
        ));
        Ok(network)
    }

    /// Who this machine is.
    pub fn node(&self) -> NodeId {
        self.0.endpoint.node()
    }

    /// How it calls itself.
    pub fn name(&self) -> &str {
        &self.0.options.name
    }

    /// Its folder.
    pub fn home(&self) -> &Path {
        &self.0.options.home
    }

    /// Whether it was closed.
    pub fn is_closed(&self) -> bool {
        held(&self.0.runtime).is_none()
    }

    /// Where it can be reached.
    pub fn address(&self) -> NodeAddress {
        self.0.endpoint.address()
    }

    /// The socket, for what looks around: discovery and the relay.
    pub fn endpoint(&self) -> &Endpoint {
        &self.0.endpoint
    }

    /// How fast the ways to its peers are, as measured.
    pub fn ways(&self) -> &Ways {
        &self.0.ways
    }

    /// Answers peers that connect for `protocol` from now on, in place of whoever did so far.
    pub fn serve<F, Handled>(&self, protocol: Protocol, admits: Admits, handle: F)
    where
        F: Fn(Caller) -> Handled + Send + Sync + 'static,
        Handled: Future<Output = ()> + Send + 'static,
    {
        let handle = Arc::new(move |caller| Box::pin(handle(caller)) as Task);
        let service = Service { admits, handle };
        held(&self.0.services).insert(protocol.alpn(), service);
    }

    /// Refuses peers that connect for `protocol` from now on. Those who are there stay.
    pub fn stop_serving(&self, protocol: Protocol) {
        held(&self.0.services).remove(protocol.alpn());
    }

    /// Connects to `node` at `address`, within `deadline`.
    ///
    /// # Errors
    /// When it does not answer, is somebody else, or does not speak this protocol.
    pub async fn connect(
        &self,
        node: NodeId,
        address: &NodeAddress,
        protocol: Protocol,
        deadline: Duration,
    ) -> Result<Connection, ConnectError> {
        self.0.endpoint.connect(node, address, protocol, deadline).await
    }

    /// Connects to `node` where it was heard of last: see [`Network::address_of`].
    ///
    /// # Errors
    /// As [`Network::connect`].
    pub async fn reach(
        &self,
        node: NodeId,
        protocol: Protocol,
        deadline: Duration,
    ) -> Result<Connection, ConnectError> {
        self.connect(node, &self.address_of(node), protocol, deadline)
            .await
    }

    /// Where `node` was heard of last, else where the book says; empty where nobody knows, and then only the local
    /// network's discovery can find it.
    pub fn address_of(&self, node: NodeId) -> NodeAddress {
        let heard = held(&self.0.heard).get(&node).cloned();
        let book = || Some(self.book().ok()?.peer(node)?.address.clone());
        heard.or_else(book).unwrap_or_default()
    }

    /// Remembers while the program runs that `node` is at `address`: what membership and discovery tell.
    pub fn heard_of(&self, node: NodeId, address: NodeAddress) {
        let mut heard = held(&self.0.heard);
        if heard.len() < HEARD_MAX || heard.contains_key(&node) {
            heard.insert(node, address.bounded());
        }
    }

    /// Everybody in the book. It is read anew each time: another program of this person may have changed it.
    ///
    /// # Errors
    /// When the book cannot be read.
    pub fn peers(&self) -> Result<Vec<Peer>, TrustError> {
        Ok(self.book()?.peers().to_vec())
    }

    /// What the book says of `node`.
    ///
    /// # Errors
    /// When the book cannot be read.
    pub fn peer(&self, node: NodeId) -> Result<Option<Peer>, TrustError> {
        Ok(self.book()?.peer(node).cloned())
    }

    /// Enters a peer in the book, or changes what it says of it.
    ///
    /// # Errors
    /// When the book cannot be read or written, or is full.
    pub fn remember(&self, peer: Peer) -> Result<(), TrustError> {
        let _writing = held(&self.0.book);
        self.book()?.remember(peer)
    }

    /// Strikes `node` out of the book and ends what it is connected for. `false` if it was a stranger.
    ///
    /// # Errors
    /// When the book cannot be read or written.
    pub fn forget(&self, node: NodeId) -> Result<bool, TrustError> {
        let known = {
            let _writing = held(&self.0.book);
            self.book()?.forget(node)?
        };
        arrivals::send_away(&self.0, node);
        Ok(known)
    }

    /// Runs a task on the network's threads. It must not compute for long there.
    pub fn spawn<T>(&self, task: impl Future<Output = T> + Send + 'static) -> tokio::task::JoinHandle<T>
    where
        T: Send + 'static,
    {
        self.0.tasks.spawn(task)
    }

    /// Waits on a thread that is not of the network for what only the network can tell.
    ///
    /// # Panics
    /// On one of the network's own threads.
    pub fn block_on<T>(&self, what: impl Future<Output = T>) -> T {
        self.0.tasks.block_on(what)
    }

    /// Says goodbye to every peer, ends every task and closes the socket, within `deadline`. Not to be called on one of
    /// the network's own threads.
    pub fn close(&self, deadline: Duration) {
        let until = Instant::now() + deadline;
        let Some(runtime) = held(&self.0.runtime).take() else {
            return;
        };
        held(&self.0.services).clear();
        runtime.block_on(self.0.endpoint.close(deadline));
        runtime.shutdown_timeout(until.saturating_duration_since(Instant::now()));
    }

    /// Ends as a killed process does: no goodbye, only silence. For tests of what the others make of it.
    pub fn vanish(&self) {
        if let Some(runtime) = held(&self.0.runtime).take() {
            held(&self.0.services).clear();
            runtime.shutdown_background();
        }
    }

    fn book(&self) -> Result<TrustBook, TrustError> {
        TrustBook::open(&self.0.options.home)
    }
}

/// A machine that nobody closed leaves without a goodbye.
impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(runtime) = held(&self.runtime).take() {
            runtime.shutdown_background();
        }
    }
}

impl std::fmt::Debug for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Network({})", self.node().short())
    }
}

/// The identity of `home`, kept where the person wants it: see [`settings`](crate::settings).
fn identity(home: &Path) -> Result<Identity, IdentityError> {
    match settings::keys() {
        Some(Keys::System) => Identity::keep_in_store(home),
        Some(Keys::File) => Identity::keep_in_file(home),
        None => Identity::load_or_create(home),
    }
}

/// Seconds since 1970: what tickets and the book count in.
pub fn seconds_since_1970() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// What a lock guards; a thread that panicked with it left it whole, since every change here is one step.
fn held<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}
