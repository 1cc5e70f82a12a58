//! This machine among its peers: one socket, one identity, one book of peers, and the threads that carry them.
//!
//! [`Network::start`] opens all of it. Whoever offers something registers a service for a [`Protocol`] with
//! [`Network::serve`]; a peer that connects is looked up in the book, sent away if it may not, and else handed to the
//! service in a task of its own. [`Network::connect`] goes the other way. Threads that are not of the network wait for it
//! with [`Network::block_on`]; tasks run on it with [`Network::spawn`]. Devices meet by [`Network::invite`] and
//! [`Network::join`]. [`Network::close`] says goodbye and ends everything within its deadline.
//!
//! One thread carries bytes, another does what waits for a disk. A second one that carries would be woken for each row
//! that another thread hands in, and find nothing to do.
//!
//! Knows no model, stage or member: the services do.

mod arrivals;
mod losses;
mod pairing;

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use heph_net::address::{NodeAddress, RelayAddress};
use heph_net::endpoint::{BindError, ConnectError, Connection, Endpoint, EndpointOptions, Passed, Protocol};
use heph_net::identity::{Identity, IdentityError};
use heph_net::pairing::Invitations;
use heph_net::trust::{Peer, TrustBook, TrustError};
use heph_types::NodeId;
use tokio::runtime::{Handle, Runtime};

use heph_privacy::Stays;

use crate::discretion::through_relay;
use crate::egress::{Journal, Watch};
use crate::guard::Outlet;
use crate::hails::Hails;
use crate::rules::Rules;
use crate::settings::Keys;
use crate::ways::Ways;
use losses::Losses;

pub use pairing::JoinError;

/// How often what passed is written to the network log, however little it is. A person who follows it waits no longer than that.
const NOTE_EVERY: Duration = Duration::from_secs(2);

/// How often it is looked whether enough passed to be written sooner: a program that is killed has told all but what passed since.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// What is written sooner: more than the signs of life of a few quiet connections.
const NOTE_BYTES: u64 = 1 << 10;

/// How long a direct way may take to open to a machine whose relay is not used.
const DIRECTLY_WITHIN: Duration = Duration::from_secs(2);

/// How often the rules are asked again whether this machine may wait at its relay.
const RELAY_ASKED_EVERY: Duration = Duration::from_secs(1);

/// How long the goodbye may take of a machine whose relay was denied.
const DENIED_GOODBYE: Duration = Duration::from_secs(1);

/// Peers whose address was heard of and is remembered while the program runs.
const HEARD_MAX: usize = 1_024;

/// What a machine needs to be on the network.
#[derive(Debug, Clone)]
pub struct NetworkOptions {
    /// Folder with the identity and the book of peers; both are made at the first start.
    pub home: PathBuf,
    /// Where the identity is to be kept; `None` leaves it where it is, and makes it where the system keeps secrets.
    pub keys: Option<Keys>,
    /// How this machine calls itself to the devices it meets.
    pub name: String,
    /// The socket, the relay and whether to look around.
    pub endpoint: EndpointOptions,
    /// Whose guard is to own the socket, where it is a process of its own; `None`, and this process owns it: see [`crate::guard`].
    pub guard: Option<Outlet>,
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
    /// It may wait at no relay, or not at this one.
    #[error("the relay {relay} is not used: {cause}")]
    Relay {
        /// The one that was named.
        relay: String,
        /// What the policy says.
        #[source]
        cause: Stays,
    },
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
    thread: Handle,
    handle: Arc<dyn Fn(Caller) -> Task + Send + Sync>,
}

/// The threads of a machine, until it is closed.
struct Threads {
    carrier: Runtime,
    aside: Runtime,
}

impl Threads {
    fn start() -> Result<Threads, NetworkError> {
        let thread = |name: &str| {
            let mut one = tokio::runtime::Builder::new_multi_thread();
            one.worker_threads(1).thread_name(name).enable_all().build()
        };
        Ok(Threads {
            carrier: thread("heph-network").map_err(NetworkError::Threads)?,
            aside: thread("heph-network-disk").map_err(NetworkError::Threads)?,
        })
    }

    /// Ends what they do without waiting for it.
    fn shutdown(self) {
        self.carrier.shutdown_background();
        self.aside.shutdown_background();
    }
}

/// This machine among its peers. Clones are the same machine.
#[derive(Clone)]
pub struct Network(Arc<Inner>);

struct Inner {
    options: NetworkOptions,
    identity: Identity,
    endpoint: Endpoint,
    /// The thread that carries bytes. It computes nothing and waits for no disk.
    carrier: Handle,
    /// The thread that may wait for a disk.
    aside: Handle,
    threads: Mutex<Option<Threads>>,
    services: Mutex<BTreeMap<&'static [u8], Service>>,
    /// Connections that services work on.
    arrived: Mutex<BTreeMap<u64, Connection>>,
    heard: Mutex<BTreeMap<NodeId, NodeAddress>>,
    losses: Losses,
    invitations: Mutex<Invitations>,
    /// Held while the book is read, changed and written.
    book: Mutex<()>,
    ways: Ways,
    hails: Hails,
    journal: Journal,
    /// What the log knows of the socket.
    watch: Mutex<Watch>,
    /// The relay that the rules do not let it use any more, and why.
    denied: OnceLock<(String, Stays)>,
}

impl Network {
    /// Opens the socket and begins to answer. Pairing is served from the start, nothing else.
    ///
    /// # Errors
    /// When the identity or the book cannot be read, the policy denies the relay, or there is no socket or thread.
    pub fn start(options: NetworkOptions) -> Result<Network, NetworkError> {
        if let Some(relay) = &options.endpoint.relay {
            let relay = relay.to_string();
            through_relay(&Rules::below(&options.home), &relay)
                .map_err(|cause| NetworkError::Relay { relay, cause })?;
        }
        let identity = identity(&options.home, options.keys)?;
        TrustBook::open(&options.home)?;
        let threads = Threads::start()?;
        let (ways, journal) = (Ways::open(&options.home), Journal::at(&options.home));
        let hails = Hails::open(&options.home);
        let endpoint = threads.carrier.block_on(bound(&identity, &options))?;
        let network = Network(Arc::new(Inner {
            options,
            identity,
            endpoint,
            carrier: threads.carrier.handle().clone(),
            aside: threads.aside.handle().clone(),
            threads: Mutex::new(Some(threads)),
            services: Mutex::default(),
            arrived: Mutex::default(),
            heard: Mutex::default(),
            losses: Losses::default(),
            invitations: Mutex::default(),
            book: Mutex::new(()),
            ways,
            hails,
            journal,
            watch: Mutex::default(),
            denied: OnceLock::new(),
        }));
        live().push(Arc::downgrade(&network.0));
        network.serve_pairing();
        network.0.aside.spawn(note_often(Arc::downgrade(&network.0)));
        network.0.aside.spawn(mind_relays(Arc::downgrade(&network.0)));
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

    /// This machine's signature of `bytes`, which say first what they are for.
    pub fn sign(&self, bytes: &[u8]) -> [u8; 64] {
        self.0.identity.sign(bytes)
    }

    /// How it calls itself.
    pub fn name(&self) -> &str {
        &self.0.options.name
    }

    /// Its folder.
    pub fn home(&self) -> &Path {
        &self.0.options.home
    }

    /// Why this machine was closed by the rules: a relay that it is connected to was allowed and is not any more.
    pub fn denied(&self) -> Option<NetworkError> {
        let (relay, cause) = self.0.denied.get()?.clone();
        Some(NetworkError::Relay { relay, cause })
    }

    /// Whether it was closed.
    pub fn is_closed(&self) -> bool {
        held(&self.0.threads).is_none()
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

    /// What came of asking its peers what they are.
    pub fn hails(&self) -> &Hails {
        &self.0.hails
    }

    /// Answers peers that connect for `protocol` from now on, in place of whoever did so far.
    pub fn serve<F, Handled>(&self, protocol: Protocol, admits: Admits, handle: F)
    where
        F: Fn(Caller) -> Handled + Send + Sync + 'static,
        Handled: Future<Output = ()> + Send + 'static,
    {
        let handle = Arc::new(move |caller| Box::pin(handle(caller)) as Task);
        let thread = self.0.thread_of(protocol).clone();
        let service = Service {
            admits,
            thread,
            handle,
        };
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
        let denied = match &address.relay {
            Some(relay) => self.denies(relay).await,
            None => None,
        };
        let Some(why) = denied else {
            return self.0.endpoint.connect(node, address, protocol, deadline).await;
        };
        let direct = NodeAddress {
            direct: address.direct.clone(),
            relay: None,
        };
        // Sooner than whoever asks gives up, so that the reason is heard.
        let soon = DIRECTLY_WITHIN.min(deadline.mul_f64(0.9));
        let connected = self.0.endpoint.connect(node, &direct, protocol, soon).await;
        connected.map_err(|error| match error {
            ConnectError::NoAnswer { .. } | ConnectError::NoAddress { .. } => {
                let cause = format!("no direct way leads there, and its relay is not used: {why}");
                ConnectError::Failed { node, cause }
            }
            settled => settled,
        })
    }

    /// Why the rules do not let this relay learn who speaks to whom.
    async fn denies(&self, relay: &RelayAddress) -> Option<String> {
        let (home, relay) = (self.home().to_owned(), relay.to_string());
        let asked = move || through_relay(&Rules::below(&home), &relay);
        match self.aside(asked).await {
            Ok(allowed) => allowed.err().map(|stays| stays.to_string()),
            Err(_) => Some("this machine leaves the network".to_owned()),
        }
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
        let until = Instant::now() + deadline;
        let found = tokio::time::timeout(deadline, self.whereabouts(node)).await;
        let address = found.unwrap_or_default();
        let left = until.saturating_duration_since(Instant::now());
        let connected = self.connect(node, &address, protocol, left).await;
        connected.map_err(|error| match error {
            ConnectError::NoAnswer { node, relay, .. } => ConnectError::NoAnswer {
                node,
                deadline,
                relay,
            },
            other => other,
        })
    }

    /// Where `node` was heard of last, else where it was found last and where the book says; empty where nobody knows, and then only
    /// the local network's discovery can find it.
    pub fn address_of(&self, node: NodeId) -> NodeAddress {
        let book = || {
            let mut address = self.book().ok()?.peer(node)?.address.clone();
            if let Some(found) = self.0.hails.found_at(node) {
                address.direct.insert(0, found);
            }
            Some(address.bounded())
        };
        self.heard_address(node).or_else(book).unwrap_or_default()
    }

    /// As [`Network::address_of`], for tasks that carry: the book is read beside them.
    pub(crate) async fn whereabouts(&self, node: NodeId) -> NodeAddress {
        match self.heard_address(node) {
            Some(address) => address,
            None => {
                let machine = self.clone();
                let looked = self.aside(move || machine.address_of(node)).await;
                // A machine that is being closed finds nobody.
                looked.unwrap_or_default()
            }
        }
    }

    fn heard_address(&self, node: NodeId) -> Option<NodeAddress> {
        held(&self.0.heard).get(&node).cloned()
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

    /// Runs a task on the thread that carries bytes. It must not compute for long there, nor wait for a disk.
    pub fn spawn<T>(&self, task: impl Future<Output = T> + Send + 'static) -> tokio::task::JoinHandle<T>
    where
        T: Send + 'static,
    {
        self.0.carrier.spawn(task)
    }

    /// Runs what may wait for a disk, beside the thread that carries bytes.
    pub(crate) fn aside<T>(&self, work: impl FnOnce() -> T + Send + 'static) -> tokio::task::JoinHandle<T>
    where
        T: Send + 'static,
    {
        self.0.aside.spawn(async move { work() })
    }

    /// Waits on a thread that is not of the network for what only the network can tell.
    ///
    /// # Panics
    /// On one of the network's own threads.
    pub fn block_on<T>(&self, what: impl Future<Output = T>) -> T {
        self.0.carrier.block_on(what)
    }

    /// Says goodbye to every peer, ends every task and closes the socket, within `deadline`. Not to be called on one of
    /// the network's own threads.
    pub fn close(&self, deadline: Duration) {
        let until = Instant::now() + deadline;
        let Some(threads) = held(&self.0.threads).take() else {
            return;
        };
        held(&self.0.services).clear();
        threads.carrier.block_on(self.0.endpoint.close(deadline));
        self.0.note();
        for thread in [threads.carrier, threads.aside] {
            thread.shutdown_timeout(until.saturating_duration_since(Instant::now()));
        }
    }

    /// Ends as a killed process does: no goodbye, only silence. For tests of what the others make of it.
    pub fn vanish(&self) {
        if let Some(threads) = held(&self.0.threads).take() {
            held(&self.0.services).clear();
            threads.shutdown();
        }
    }

    fn book(&self) -> Result<TrustBook, TrustError> {
        TrustBook::open(&self.0.options.home)
    }
}

impl Inner {
    /// Who serves a protocol: files and the book of peers are a disk's.
    fn thread_of(&self, protocol: Protocol) -> &Handle {
        match protocol {
            Protocol::Shards | Protocol::Pair => &self.aside,
            Protocol::Session | Protocol::Members | Protocol::Hop => &self.carrier,
        }
    }

    /// Bytes that passed and are not noted yet.
    fn unnoted(&self) -> u64 {
        held(&self.watch).grew(&self.endpoint)
    }

    /// Writes to the network log what passed since it was asked last.
    fn note(&self) {
        let book = OnceCell::new();
        let name = |node| {
            let book = book.get_or_init(|| TrustBook::open(&self.options.home).ok());
            Some(book.as_ref()?.peer(node)?.name.clone())
        };
        // Held while the socket is asked: what is told later was asked later.
        let mut watch = held(&self.watch);
        let mut account = self.endpoint.account();
        account.total.is_abroad &= !self.endpoint.is_loopback();
        let now = seconds_since_1970();
        let known = |node| {
            let book = book.get_or_init(|| TrustBook::open(&self.options.home).ok());
            Some(book.as_ref()?.peer(node)?.address.direct.clone())
        };
        for (node, socket) in elsewhere(&account.connections, known) {
            self.hails.found(node, socket, now);
        }
        let lines = watch.lines(account, now, name);
        drop(watch);
        // A log that cannot be written ends no conversation.
        let _ = self.journal.note(&lines);
    }
}

/// Where each peer is that is connected directly: an address that `known`, the book, does not have, else `None`. One of several connections
/// speaks for all, as long as it is there: where two programs of a peer have a socket each, it does not move to and fro.
fn elsewhere(
    passed: &[Passed],
    known: impl Fn(NodeId) -> Option<Vec<SocketAddr>>,
) -> BTreeMap<NodeId, Option<SocketAddr>> {
    let mut found = BTreeMap::new();
    for (node, socket) in passed.iter().filter_map(direct) {
        // A stranger is nobody who will be asked.
        let Some(known) = known(node) else {
            continue;
        };
        let first = found.entry(node).or_insert(Some(socket));
        if known.contains(&socket) {
            *first = None;
        }
    }
    found
}

/// The socket at which a peer is reached, where no relay stands between.
fn direct(passed: &Passed) -> Option<(NodeId, SocketAddr)> {
    Some((passed.node, passed.to.as_ref()?.parse().ok()?))
}

/// Writes to the network log what every machine of this process carried and did not note yet: what a program does last, since
/// a thread that still works may keep one open.
pub fn note_all() {
    let machines: Vec<_> = live().drain(..).collect();
    for machine in machines.iter().filter_map(Weak::upgrade) {
        machine.note();
    }
}

/// The machines of this process, of which there are one or two at a time; those that are gone leave at the next start.
fn live() -> MutexGuard<'static, Vec<Weak<Inner>>> {
    static LIVE: Mutex<Vec<Weak<Inner>>> = Mutex::new(Vec::new());
    let mut live = held(&LIVE);
    live.retain(|machine| machine.strong_count() > 0);
    live
}

/// Writes the network log for as long as the machine is there.
async fn note_often(inner: Weak<Inner>) {
    let mut noted = Instant::now();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let Some(inner) = inner.upgrade() else { return };
        if is_due(noted.elapsed(), inner.unnoted()) {
            inner.note();
            noted = Instant::now();
        }
    }
}

/// Whether so many bytes that were not noted for so long are noted now.
fn is_due(since: Duration, bytes: u64) -> bool {
    since >= NOTE_EVERY || bytes >= NOTE_BYTES
}

/// Asks the rules again and again whether the machine may use the relays that it is connected to. A connection to a relay cannot be left alone:
/// where they deny one, everything is closed.
async fn mind_relays(inner: Weak<Inner>) {
    let Some(rules) = inner.upgrade().map(|inner| Rules::below(&inner.options.home)) else {
        return;
    };
    loop {
        tokio::time::sleep(RELAY_ASKED_EVERY).await;
        let Some(inner) = inner.upgrade() else { return };
        for relay in inner.endpoint.relays() {
            let relay = relay.to_string();
            if let Err(cause) = through_relay(&rules, &relay) {
                inner.endpoint.close(DENIED_GOODBYE).await;
                // It is said once.
                let _ = inner.denied.set((relay, cause));
                return;
            }
        }
    }
}

/// A machine that nobody closed leaves without a goodbye.
impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(threads) = held(&self.threads).take() {
            self.note();
            threads.shutdown();
        }
    }
}

impl std::fmt::Debug for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Network({})", self.node().short())
    }
}

/// The socket of this machine: the guard's where there is one, else its own.
async fn bound(identity: &Identity, options: &NetworkOptions) -> Result<Endpoint, BindError> {
    #[cfg(target_os = "linux")]
    if let Some(guards) = options.guard.as_ref().and_then(Outlet::machines) {
        return Endpoint::behind(guards, identity, options.endpoint.clone()).await;
    }
    Endpoint::bind(identity, options.endpoint.clone()).await
}

/// The identity of `home`, kept where the person wants it: see [`settings`](crate::settings).
pub(crate) fn identity(home: &Path, keys: Option<Keys>) -> Result<Identity, IdentityError> {
    match keys {
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

#[cfg(test)]
mod tests;
