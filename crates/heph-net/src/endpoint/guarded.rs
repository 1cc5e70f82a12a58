//! An endpoint whose socket a guard in another process owns: the side of whoever asks.
//!
//! One guard at a time is asked for what is new. One that is gone ends what went through it; one that is over, since it has read what is old by
//! now, says so and is still asked what passed. Either way the next is begun. A connection is a task that hears what the guard says of
//! it; the bytes of a conversation pass over a pair of their own, whose buffers are its flow control, and touch no task but the caller's.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use heph_privacy::Grounds;
use heph_types::NodeId;
use iroh::endpoint::VarInt;
use rustix::net::Shutdown;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use tokio::sync::{broadcast, mpsc, watch};

use super::pipe::Pipe;
use super::words::{
    Answer, Ask, Carried, Channel, Facts, Hear, Heard, More, Numbered, Question, Say, Tell, hear_waiting,
    pair, say_waiting,
};
use super::{
    AcceptError, Account, AtRelay, BindError, ConnectError, EndpointOptions, Goodbye, LinkError, Passed,
    Protocol, SocketTotal, Traffic, Way, within,
};
use crate::address::{NodeAddress, RelayAddress};
use crate::discovery::{Discovery, Sighting, Sightings};
use crate::identity::Identity;

/// Who owns sockets for others.
#[derive(Clone)]
pub struct Guards {
    /// Hands the far ends of two pairs to a guard: of that for words, and of that for questions. Asked once more, it hands them to another
    /// guard, since the one before is gone or over. It may take as long as the start of a program.
    pub hand: Arc<dyn Fn(OwnedFd, OwnedFd) -> io::Result<()> + Send + Sync>,
    /// Opens the book of machines as it lies there now, for a guard that cannot.
    pub book: Arc<dyn Fn() -> io::Result<OwnedFd> + Send + Sync>,
    /// What becomes of the address when a guard is begun anew.
    pub port: Port,
}

/// What becomes of a socket's port when a guard is begun anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Port {
    /// It stays: machines were told it. It is waited for while whoever had it before lets go of it.
    Stays,
    /// It may be another one each time.
    Changes,
}

/// How long a guard may take to do what needs no network.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// How long a question may take, which a thread waits for: tens of microseconds are usual.
const QUESTION_WITHIN: Duration = Duration::from_millis(500);

/// How long whoever lost a guard waits before it begins another one that nobody asked for.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// How long a port that has to stay is waited for at the start: whoever ended just now may still say goodbye there.
const FREE_WITHIN: Duration = Duration::from_secs(2);

/// The same where the guard before had it: two who meet may go on there for a while, and it says goodbye.
const LEFT_WITHIN: Duration = Duration::from_secs(10);

/// Machines seen on the local network that wait to be heard of.
const SIGHTINGS_WAITING: usize = 256;

/// How long a guard that is over is still asked what passed: the last of its connections have ended by then.
const OVER_FOR: Duration = Duration::from_secs(8);

/// Peers that have begun to connect and wait for somebody to take them in.
const ARRIVING_MAX: usize = 64;

/// Datagrams of a connection that wait to be read; more are lost, as they may be.
const DATAGRAMS_WAITING: usize = 256;

/// Conversations that a peer has opened and nobody took yet: as many as a connection has.
const CAME_WAITING: usize = 128;

/// Connections of one guard, in the number of a connection.
const OF_A_GUARD_BITS: u32 = 32;

/// What is said where a guard went away in the middle.
const GONE: &str = "the guard of connections ended";

/// This machine among its peers. Clones are the same socket.
#[derive(Debug, Clone)]
pub(super) struct Endpoint(Arc<Inner>);

struct Inner {
    guards: Guards,
    identity: Identity,
    options: EndpointOptions,
    /// The port that the last guard had; 0 before there was one.
    port: AtomicU16,
    /// Guards that are asked; the last one for what is new.
    lives: Mutex<Vec<Arc<Live>>>,
    /// Held while one is begun.
    beginning: tokio::sync::Mutex<()>,
    begun: AtomicU64,
    /// What sockets of guards that are asked no more have sent.
    earlier: Mutex<SocketTotal>,
    arriving: mpsc::Sender<Arriving>,
    arrived: tokio::sync::Mutex<mpsc::Receiver<Arriving>>,
    sightings: broadcast::Sender<Sighting>,
    closed: watch::Sender<bool>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Guarded({})", self.identity.node().short())
    }
}

/// One guard's endpoint.
#[derive(Debug)]
struct Live {
    channel: Channel,
    questions: Questions,
    /// Which of the guards it is, from 0.
    turn: u64,
    /// Since when nothing new is asked of it.
    over: Mutex<Option<Instant>>,
    /// Whether another one is begun in its place.
    replaced: AtomicBool,
    gone: AtomicBool,
    total: Mutex<SocketTotal>,
    at_relay: watch::Sender<AtRelay>,
    closed: watch::Sender<bool>,
}

impl Live {
    fn is_over(&self) -> bool {
        held(&self.over).is_some()
    }

    /// Asks nothing new of it any more.
    fn end(&self) {
        held(&self.over).get_or_insert_with(Instant::now);
    }

    /// Asks nothing new of it any more, and has another one begun, once.
    fn replace(&self, endpoint: &Weak<Inner>) {
        self.end();
        if !self.replaced.swap(true, Ordering::AcqRel) {
            tokio::spawn(begin_again(Weak::clone(endpoint)));
        }
    }

    /// The number of one of its connections, among those of all guards.
    fn number(&self, of_guard: u64) -> u64 {
        (self.turn << OF_A_GUARD_BITS) | of_guard
    }
}

impl Endpoint {
    pub(super) async fn bind(
        guards: Guards,
        identity: &Identity,
        options: EndpointOptions,
    ) -> Result<Endpoint, BindError> {
        let (arriving, arrived) = mpsc::channel(ARRIVING_MAX);
        let endpoint = Endpoint(Arc::new(Inner {
            guards,
            identity: identity.clone(),
            options,
            port: AtomicU16::new(0),
            lives: Mutex::default(),
            beginning: tokio::sync::Mutex::default(),
            begun: AtomicU64::new(0),
            earlier: Mutex::default(),
            arriving,
            arrived: tokio::sync::Mutex::new(arrived),
            sightings: broadcast::Sender::new(SIGHTINGS_WAITING),
            closed: watch::Sender::new(false),
        }));
        endpoint.0.live().await?;
        Ok(endpoint)
    }

    pub(super) fn node(&self) -> NodeId {
        self.0.identity.node()
    }

    pub(super) fn account(&self) -> Account {
        let lives = self.0.lives();
        let connections = lives.iter().flat_map(|live| live.account()).collect();
        let sum = |a: SocketTotal, b: SocketTotal| SocketTotal {
            sent_bytes: a.sent_bytes + b.sent_bytes,
            relayed_bytes: a.relayed_bytes + b.relayed_bytes,
            is_abroad: a.is_abroad || b.is_abroad,
        };
        let totals = lives.iter().map(|live| *held(&live.total));
        let total = totals.fold(*held(&self.0.earlier), sum);
        self.0.forget_old();
        Account { total, connections }
    }

    pub(super) fn passing(&self) -> Vec<(u64, Traffic)> {
        let mut all = Vec::new();
        for live in self.0.lives() {
            live.questions.ask(Question::Passing, |answer| {
                let Answer::Passing(some, more) = answer else {
                    return More::Nothing;
                };
                all.extend(
                    some.into_iter()
                        .map(|(number, traffic)| (live.number(number), traffic)),
                );
                more
            });
        }
        all
    }

    pub(super) fn is_loopback(&self) -> bool {
        let EndpointOptions { bind, relay, .. } = &self.0.options;
        relay.is_none() && bind.ip().is_loopback()
    }

    /// Where it waits.
    pub(super) fn relays(&self) -> Vec<RelayAddress> {
        self.0.options.relay.iter().cloned().collect()
    }

    /// What guards see on the local network from now on.
    pub(super) async fn seen(&self) -> Option<Sightings> {
        let looks = self.0.options.discovery != Discovery::Off;
        looks.then(|| Sightings::told(self.0.sightings.subscribe()))
    }

    /// As the newest guard said last.
    pub(super) fn at_relay(&self) -> AtRelay {
        let live = self.0.lives().pop();
        live.map_or(AtRelay::Unknown, |live| live.at_relay.borrow().clone())
    }

    pub(super) async fn waiting_at_relay(&self, deadline: Duration) -> bool {
        let waits = async {
            let live = self.0.live().await.ok()?;
            let mut at_relay = live.at_relay.subscribe();
            at_relay
                .wait_for(|standing| *standing == AtRelay::There)
                .await
                .ok()
                .map(drop)
        };
        self.0.options.relay.is_none() || within(deadline, waits).await.flatten().is_some()
    }

    pub(super) fn address(&self) -> NodeAddress {
        let mut found = NodeAddress::default();
        if let Some(live) = self.0.lives().last() {
            live.questions.ask(Question::Address, |answer| {
                if let Answer::Address(address) = answer {
                    found = address;
                }
                More::Nothing
            });
        }
        found
    }

    pub(super) async fn connect(
        &self,
        node: NodeId,
        address: &NodeAddress,
        protocol: Protocol,
        deadline: Duration,
    ) -> Result<Connection, ConnectError> {
        let failed = |cause: String| ConnectError::Failed { node, cause };
        let until = Instant::now() + deadline;
        let mut seen = failed(GONE.to_owned());
        // A guard that is gone or over is noticed by asking it; the one behind it has read what counts now.
        for _ in 0..2 {
            let left = until.saturating_duration_since(Instant::now());
            let live = within(left, self.0.live()).await;
            let live = live.ok_or(ConnectError::NoAnswer {
                node,
                deadline,
                relay: None,
            })?;
            let live = live.map_err(|error| failed(error.to_string()))?;
            let asked = Ask::Connect {
                node,
                address: address.clone(),
                protocol,
                deadline: until.saturating_duration_since(Instant::now()),
            };
            match live.stand(&asked, deadline + ANSWER_WITHIN).await {
                Ok(Stands::Connected(connection)) => return Ok(connection),
                Ok(Stands::NotConnected(error)) => return Err(error),
                Ok(Stands::NotAccepted(error)) => return Err(failed(error.to_string())),
                Ok(Stands::Over(why)) => {
                    seen = failed(why);
                    live.end();
                }
                Err(error) => {
                    seen = failed(format!("{GONE} ({error})"));
                    live.end();
                }
            }
        }
        Err(seen)
    }

    pub(super) async fn accept(&self) -> Option<Arriving> {
        let mut closed = self.0.closed.subscribe();
        let mut arrived = self.0.arrived.lock().await;
        tokio::select! {
            // Nobody who waits is taken in any more.
            biased;
            _ = closed.wait_for(|closed| *closed) => None,
            arriving = arrived.recv() => arriving,
        }
    }

    pub(super) async fn close(&self, deadline: Duration) {
        self.0.closed.send_replace(true);
        let Some(live) = self.0.lives().pop() else { return };
        let mut closed = live.closed.subscribe();
        if live.channel.say(&Ask::Close(deadline), None).await.is_ok() {
            let _ = within(deadline + QUESTION_WITHIN, closed.wait_for(|closed| *closed)).await;
        }
    }
}

impl Inner {
    /// The guards that are asked, the newest last.
    fn lives(&self) -> Vec<Arc<Live>> {
        held(&self.lives).clone()
    }

    /// Lets go of guards that have nothing more to tell.
    fn forget_old(&self) {
        let mut earlier = held(&self.earlier);
        held(&self.lives).retain(|live| {
            let old = held(&live.over).is_some_and(|since| since.elapsed() > OVER_FOR);
            let keeps = !old && !live.gone.load(Ordering::Acquire);
            if !keeps {
                let total = *held(&live.total);
                earlier.sent_bytes += total.sent_bytes;
                earlier.relayed_bytes += total.relayed_bytes;
                earlier.is_abroad |= total.is_abroad;
                live.channel.hang_up();
            }
            keeps
        });
    }

    /// The guard that is asked for what is new; begun where there is none. One that is being begun is begun also where nobody waits any more.
    async fn live(self: &Arc<Self>) -> Result<Arc<Live>, BindError> {
        if let Some(live) = self.lives().pop().filter(|live| !live.is_over()) {
            return Ok(live);
        }
        let begun = tokio::spawn(Arc::clone(self).begun()).await;
        begun.unwrap_or_else(|error| Err(BindError::Guard(error.to_string())))
    }

    async fn begun(self: Arc<Self>) -> Result<Arc<Live>, BindError> {
        let _one = self.beginning.lock().await;
        if let Some(live) = self.lives().pop().filter(|live| !live.is_over()) {
            return Ok(live);
        }
        let had = self.port.load(Ordering::Acquire);
        let bind = self.options.bind;
        let here = |port: u16| SocketAddr::new(bind.ip(), port);
        match (self.guards.port, had) {
            (Port::Stays, 0) if bind.port() == 0 => self.begin(bind, Duration::ZERO).await,
            (Port::Stays, 0) => self.begin(bind, FREE_WITHIN).await,
            (Port::Stays, had) => self.begin(here(had), LEFT_WITHIN).await,
            (Port::Changes, _) => self.begin(bind, Duration::ZERO).await,
        }
    }

    /// Begins a guard whose socket has this address, once that is free.
    async fn begin(self: &Arc<Self>, bind: SocketAddr, patience: Duration) -> Result<Arc<Live>, BindError> {
        let gone = |cause: String| BindError::Guard(cause);
        if *self.closed.borrow() {
            return Err(gone("this machine leaves the network".to_owned()));
        }
        let broken = |error: io::Error| gone(error.to_string());
        let (words, far_words) = pair().map_err(broken)?;
        let (questions, far_questions) = pair().map_err(broken)?;
        let hand = Arc::clone(&self.guards.hand);
        let handed = tokio::task::spawn_blocking(move || hand(far_words, far_questions));
        handed
            .await
            .map_err(|error| gone(error.to_string()))?
            .map_err(broken)?;
        let channel = Channel::of(words).map_err(broken)?;
        let ask = Ask::Bind {
            secret: self.identity.secret().to_bytes(),
            bind,
            relay: self.options.relay.clone(),
            discovery: self.options.discovery,
            patience,
        };
        channel.say(&ask, None).await.map_err(broken)?;
        let port = match within(patience + ANSWER_WITHIN, channel.hear()).await {
            Some(Ok(Heard::Word(Tell::Bound(port), _))) => port,
            Some(Ok(Heard::Word(Tell::NotBound(error), _))) => return Err(error),
            Some(Err(error)) => return Err(broken(error)),
            _ => return Err(gone("it does not answer".to_owned())),
        };
        self.port.store(port, Ordering::Release);
        let live = Arc::new(Live {
            channel,
            questions: Questions::on(questions).map_err(broken)?,
            turn: self.begun.fetch_add(1, Ordering::Relaxed),
            over: Mutex::default(),
            replaced: AtomicBool::new(false),
            gone: AtomicBool::new(false),
            total: Mutex::default(),
            at_relay: watch::Sender::new(AtRelay::Unknown),
            closed: watch::Sender::new(false),
        });
        held(&self.lives).push(Arc::clone(&live));
        tokio::spawn(listen(Arc::downgrade(self), Arc::clone(&live)));
        Ok(live)
    }
}

/// Whoever asks is gone: the guards are told by the end of their channels.
impl Drop for Inner {
    fn drop(&mut self) {
        held(&self.lives).iter().for_each(|live| live.channel.hang_up());
    }
}

/// Hears what a guard says of an endpoint, until it says nothing more.
async fn listen(endpoint: Weak<Inner>, live: Arc<Live>) {
    loop {
        match live.channel.hear().await {
            Ok(Heard::Word(Tell::Arriving(number), _)) => {
                let Some(inner) = endpoint.upgrade() else { return };
                let live = Arc::clone(&live);
                // One for whom there is no room is refused as it is dropped.
                let _ = inner.arriving.try_send(Arriving {
                    live,
                    number: Some(number),
                });
            }
            Ok(Heard::Word(Tell::AtRelay(standing), _)) => {
                live.at_relay.send_replace(standing);
            }
            Ok(Heard::Word(Tell::Sighted(sighting), _)) => {
                let Some(inner) = endpoint.upgrade() else { return };
                // It fails where nobody listens.
                let _ = inner.sightings.send(sighting);
            }
            Ok(Heard::Word(Tell::Book, _)) => {
                let Some(inner) = endpoint.upgrade() else { return };
                tokio::spawn(hand_book(Arc::clone(&inner.guards.book), Arc::clone(&live)));
            }
            Ok(Heard::Word(Tell::Over(_), _)) => {
                live.replace(&endpoint);
            }
            Ok(Heard::Word(Tell::Closed, _)) => {
                live.closed.send_replace(true);
            }
            Ok(Heard::Word(Tell::Bound(_) | Tell::NotBound(_), _) | Heard::Datagram(_)) => {}
            Ok(Heard::End) | Err(_) => break,
        }
    }
    live.gone.store(true, Ordering::Release);
    live.closed.send_replace(true);
    live.replace(&endpoint);
}

/// Hands the book of machines to a guard. Without one it is over, and the next one reads what lies there.
async fn hand_book(book: Arc<dyn Fn() -> io::Result<OwnedFd> + Send + Sync>, live: Arc<Live>) {
    let opened = tokio::task::spawn_blocking(move || book()).await;
    let opened = opened.ok().and_then(Result::ok);
    // One that is gone by now wants none.
    let _ = live
        .channel
        .say(&Ask::Book, opened.as_ref().map(AsFd::as_fd))
        .await;
}

/// Begins another guard, so that peers find this machine, and tries again until there is one or nobody wants any.
fn begin_again(endpoint: Weak<Inner>) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    // In a box, since the next guard's task may do the same.
    Box::pin(async move {
        loop {
            tokio::time::sleep(AGAIN_AFTER).await;
            let Some(inner) = endpoint.upgrade() else { return };
            if *inner.closed.borrow() || inner.live().await.is_ok() {
                return;
            }
        }
    })
}

/// Questions to a guard, one at a time, by threads that wait for the answer.
#[derive(Debug)]
struct Questions(Mutex<(OwnedFd, u64)>);

impl Questions {
    fn on(socket: OwnedFd) -> io::Result<Questions> {
        set_socket_timeout(&socket, Timeout::Recv, Some(QUESTION_WITHIN))?;
        set_socket_timeout(&socket, Timeout::Send, Some(QUESTION_WITHIN))?;
        Ok(Questions(Mutex::new((socket, 0))))
    }

    /// Asks, and tells `each` the answer and what follows of it. Where none comes in time, nothing is told.
    fn ask(&self, what: Question, mut each: impl FnMut(Answer) -> More) {
        let mut asking = held(&self.0);
        asking.1 += 1;
        let (socket, number) = (&asking.0, asking.1);
        if say_waiting(socket, &Numbered { number, what }).is_err() {
            return;
        }
        // What came too late for somebody else is passed over.
        while let Ok(answer) = hear_waiting::<Numbered<Answer>>(socket) {
            if answer.number == number && each(answer.what) == More::Nothing {
                return;
            }
        }
    }
}

impl Live {
    /// What its connections say; its own count is kept from then on, for when it is gone.
    fn account(&self) -> Vec<Passed> {
        let (mut total, mut connections) = (None, Vec::new());
        self.questions.ask(Question::Account, |answer| match answer {
            Answer::Total(told) => {
                total = Some(told);
                More::Follows
            }
            Answer::Passed(some, more) => {
                connections.extend(some.into_iter().map(|passed| Passed {
                    number: self.number(passed.number),
                    ..passed
                }));
                if let (More::Nothing, Some(total)) = (more, total) {
                    *held(&self.total) = total;
                }
                more
            }
            _ => More::Nothing,
        });
        connections
    }

    /// Asks for a connection, and waits until it stands or does not.
    async fn stand(self: &Arc<Self>, ask: &Ask, deadline: Duration) -> io::Result<Stands> {
        let (near, far) = pair()?;
        let channel = Channel::of(near)?;
        within(ANSWER_WITHIN, self.channel.say(ask, Some(far.as_fd())))
            .await
            .ok_or(ErrorKind::TimedOut)??;
        drop(far);
        let heard = within(deadline, channel.hear()).await;
        Ok(match heard.ok_or(ErrorKind::TimedOut)?? {
            Heard::Word(
                Hear::Connected {
                    number,
                    node,
                    protocol,
                    datagram_bytes_max,
                },
                _,
            ) => Stands::Connected(Connection::new(
                Arc::clone(self),
                channel,
                number,
                (node, protocol),
                datagram_bytes_max,
            )),
            Heard::Word(Hear::NotConnected(error), _) => Stands::NotConnected(error),
            Heard::Word(Hear::NotAccepted(error), _) => Stands::NotAccepted(error),
            Heard::Word(Hear::Over(why), _) => Stands::Over(why),
            _ => return Err(ErrorKind::UnexpectedEof.into()),
        })
    }
}

/// What becomes of a connection that was asked for.
enum Stands {
    Connected(Connection),
    NotConnected(ConnectError),
    NotAccepted(AcceptError),
    Over(String),
}

/// A peer that has begun to connect. Dropping it refuses it.
pub(super) struct Arriving {
    live: Arc<Live>,
    number: Option<u64>,
}

impl Arriving {
    pub(super) async fn finish(mut self, deadline: Duration) -> Result<Connection, AcceptError> {
        let failed = |why: String| Err(AcceptError::Failed(why));
        let Some(number) = self.number.take() else {
            return failed(GONE.to_owned());
        };
        let ask = Ask::Finish { number, deadline };
        match self.live.stand(&ask, deadline + ANSWER_WITHIN).await {
            Ok(Stands::Connected(connection)) => Ok(connection),
            Ok(Stands::NotAccepted(error)) => Err(error),
            Ok(Stands::NotConnected(error)) => failed(error.to_string()),
            Ok(Stands::Over(why)) => failed(why),
            Err(error) => failed(format!("{GONE} ({error})")),
        }
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.live.channel.say_now(&Ask::Refuse(number));
        }
    }
}

/// A way to one peer. Clones are the same connection.
#[derive(Debug, Clone)]
pub(super) struct Connection(Arc<Link>);

/// What a connection's clones and conversations share. It ends with the last of them.
#[derive(Debug)]
struct Link {
    live: Arc<Live>,
    channel: Arc<Channel>,
    /// Among those of its guard.
    number: u64,
    peer: NodeId,
    protocol: Protocol,
    datagram_bytes_max: usize,
    facts: Mutex<Facts>,
    ended: watch::Sender<Option<LinkError>>,
    conversations: Mutex<BTreeMap<u64, Arc<Conversation>>>,
    next: AtomicU64,
    came: tokio::sync::Mutex<mpsc::Receiver<u64>>,
    datagrams: tokio::sync::Mutex<mpsc::Receiver<Vec<u8>>>,
    /// Answers to [`Say::Shows`], one asker at a time.
    shown: tokio::sync::Mutex<mpsc::Receiver<Result<(), LinkError>>>,
}

/// What a connection's task tells its clones.
struct News {
    came: mpsc::Sender<u64>,
    datagrams: mpsc::Sender<Vec<u8>>,
    shown: mpsc::Sender<Result<(), LinkError>>,
}

impl Connection {
    fn new(
        live: Arc<Live>,
        channel: Channel,
        number: u64,
        (peer, protocol): (NodeId, Protocol),
        datagram_bytes_max: usize,
    ) -> Connection {
        let (came, coming) = mpsc::channel(CAME_WAITING);
        let (datagrams, read) = mpsc::channel(DATAGRAMS_WAITING);
        let (shown, showing) = mpsc::channel(1);
        let link = Arc::new(Link {
            live,
            channel: Arc::new(channel),
            number,
            peer,
            protocol,
            datagram_bytes_max,
            facts: Mutex::default(),
            ended: watch::Sender::new(None),
            conversations: Mutex::default(),
            next: AtomicU64::new(0),
            came: tokio::sync::Mutex::new(coming),
            datagrams: tokio::sync::Mutex::new(read),
            shown: tokio::sync::Mutex::new(showing),
        });
        let news = News {
            came,
            datagrams,
            shown,
        };
        tokio::spawn(hear(Arc::downgrade(&link), Arc::clone(&link.channel), news));
        Connection(link)
    }

    pub(super) fn peer(&self) -> NodeId {
        self.0.peer
    }

    pub(super) fn protocol(&self) -> Protocol {
        self.0.protocol
    }

    pub(super) async fn open(&self, grounds: Option<&Grounds>) -> Result<(SendHalf, ReceiveHalf), LinkError> {
        let conversation = 2 * self.0.next.fetch_add(1, Ordering::Relaxed);
        let say = Say::Open {
            conversation,
            grounds: grounds.cloned(),
        };
        let (shared, halves) = self.begin(conversation, &say).await?;
        let opened = shared.news(|news| news.opened.clone()).await;
        opened.map(|()| halves)
    }

    pub(super) async fn accept(&self) -> Result<(SendHalf, ReceiveHalf), LinkError> {
        let mut coming = self.0.came.lock().await;
        let conversation = tokio::select! {
            biased;
            Some(conversation) = coming.recv() => conversation,
            why = self.closed() => return Err(why),
        };
        drop(coming);
        let (_, halves) = self.begin(conversation, &Say::Take(conversation)).await?;
        Ok(halves)
    }

    /// Hands the far end of a conversation's pair to the guard. A wait that is given up closes the near one.
    async fn begin(
        &self,
        number: u64,
        say: &Say,
    ) -> Result<(Arc<Conversation>, (SendHalf, ReceiveHalf)), LinkError> {
        self.over()?;
        let broken = |error: io::Error| self.0.broken(error.to_string());
        let (near, far) = std::os::unix::net::UnixStream::pair().map_err(broken)?;
        let conversation = Arc::new(Conversation {
            pipe: Pipe::of(near.into()).map_err(broken)?,
            news: Arc::default(),
        });
        held(&self.0.conversations).insert(number, Arc::clone(&conversation));
        let end = || End {
            link: Arc::clone(&self.0),
            conversation: Arc::clone(&conversation),
            number,
            is_over: false,
        };
        let halves = (SendHalf(end()), ReceiveHalf(end()));
        self.0
            .channel
            .say(say, Some(far.as_fd()))
            .await
            .map_err(|_| self.0.why())?;
        // Where all ended meanwhile, nobody tells this one.
        self.over()?;
        Ok((conversation, halves))
    }

    fn over(&self) -> Result<(), LinkError> {
        self.0.ended.borrow().clone().map_or(Ok(()), Err)
    }

    pub(super) fn send_datagram(&self, bytes: Vec<u8>) -> bool {
        self.is_open() && bytes.len() <= self.0.datagram_bytes_max && self.0.channel.send_datagram(&bytes)
    }

    pub(super) fn datagram_bytes_max(&self) -> usize {
        self.0.datagram_bytes_max
    }

    pub(super) async fn datagram(&self) -> Result<Vec<u8>, LinkError> {
        let mut read = self.0.datagrams.lock().await;
        tokio::select! {
            biased;
            Some(bytes) = read.recv() => Ok(bytes),
            why = self.closed() => Err(why),
        }
    }

    pub(super) fn round_trip(&self) -> Option<Duration> {
        self.0.ask_facts().round_trip
    }

    pub(super) fn way(&self) -> Option<Way> {
        self.0.ask_facts().way
    }

    pub(super) fn traffic(&self) -> Traffic {
        self.0.ask_facts().traffic
    }

    pub(super) async fn shows(&self, grounds: &Grounds) -> Result<(), LinkError> {
        let mut shown = self.0.shown.lock().await;
        // An answer that somebody did not wait for.
        while shown.try_recv().is_ok() {}
        let say = Say::Shows(grounds.clone());
        self.0.channel.say(&say, None).await.map_err(|_| self.0.why())?;
        match within(ANSWER_WITHIN, shown.recv()).await {
            Some(Some(shown)) => shown,
            Some(None) => Err(self.0.why()),
            None => Err(self
                .0
                .broken("the guard of connections does not answer".to_owned())),
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.0.ended.borrow().is_none()
    }

    pub(super) fn close(&self, goodbye: Goodbye) {
        self.0.end(LinkError::ClosedHere { node: self.peer() });
        self.0.channel.say_now(&Say::Close(goodbye));
    }

    pub(super) async fn closed(&self) -> LinkError {
        let mut ended = self.0.ended.subscribe();
        let told = ended.wait_for(Option::is_some).await;
        let told = told.ok().and_then(|told| told.clone());
        told.unwrap_or_else(|| self.0.broken(GONE.to_owned()))
    }
}

impl Link {
    fn broken(&self, cause: String) -> LinkError {
        LinkError::Broken {
            node: self.peer,
            cause,
        }
    }

    /// Why nothing more can be said.
    fn why(&self) -> LinkError {
        let ended = self.ended.borrow().clone();
        ended.unwrap_or_else(|| self.broken(GONE.to_owned()))
    }

    /// The first reason counts.
    fn end(&self, why: LinkError) {
        self.ended.send_if_modified(|ended| {
            let first = ended.is_none();
            if first {
                *ended = Some(why);
            }
            first
        });
    }

    /// What the guard knows now, else what it said last.
    fn ask_facts(&self) -> Facts {
        if self.ended.borrow().is_none() {
            self.live.questions.ask(Question::Facts(self.number), |answer| {
                if let Answer::Facts(Some(facts)) = answer {
                    *held(&self.facts) = facts;
                }
                More::Nothing
            });
        }
        *held(&self.facts)
    }

    fn tell(&self, conversation: u64, news: impl FnOnce(&mut Told)) {
        if let Some(conversation) = held(&self.conversations).get(&conversation) {
            conversation.news.send_modify(news);
        }
    }
}

/// The guard is told by the end of the channel.
impl Drop for Link {
    fn drop(&mut self) {
        self.channel.hang_up();
    }
}

/// Hears what the guard says of a connection, until it says nothing more.
async fn hear(link: Weak<Link>, channel: Arc<Channel>, news: News) {
    loop {
        let heard = channel.hear().await;
        let Some(link) = link.upgrade() else { return };
        match heard {
            Ok(Heard::Word(word, _)) => match word {
                Hear::Opened(number, opened) => link.tell(number, |told| told.opened = Some(opened)),
                // A peer has no more conversations than that.
                Hear::Came(number) => drop(news.came.try_send(number)),
                Hear::Shown(shown) => drop(news.shown.try_send(shown)),
                Hear::Sent(number, sent) => link.tell(number, |told| told.sent = Some(sent)),
                Hear::Heard(number, heard) => link.tell(number, |told| told.heard = Some(heard)),
                Hear::Done(number, carried) => {
                    link.tell(number, |told| told.carried = Some(carried));
                    held(&link.conversations).remove(&number);
                }
                Hear::Closed(why, facts) => {
                    *held(&link.facts) = facts;
                    link.end(why);
                }
                Hear::Connected { .. } | Hear::NotConnected(_) | Hear::NotAccepted(_) | Hear::Over(_) => {}
            },
            // What there is no room for is lost.
            Ok(Heard::Datagram(bytes)) => drop(news.datagrams.try_send(bytes)),
            Ok(Heard::End) | Err(_) => {
                let gone = link.broken(GONE.to_owned());
                link.end(gone);
                let why = link.why();
                let conversations = std::mem::take(&mut *held(&link.conversations));
                for conversation in conversations.values() {
                    conversation.news.send_modify(|told| told.break_off(&why));
                }
                return;
            }
        }
    }
}

/// What both halves of a conversation share.
#[derive(Debug)]
struct Conversation {
    /// Its bytes.
    pipe: Pipe,
    news: Arc<watch::Sender<Told>>,
}

/// What the guard said of a conversation.
#[derive(Debug, Default)]
struct Told {
    opened: Option<Result<(), LinkError>>,
    sent: Option<Result<(), String>>,
    heard: Option<Result<(), String>>,
    carried: Option<Carried>,
}

impl Told {
    /// Nothing more is said of it, for this reason.
    fn break_off(&mut self, why: &LinkError) {
        self.opened.get_or_insert_with(|| Err(why.clone()));
        self.sent.get_or_insert_with(|| Err(why.to_string()));
        self.heard.get_or_insert_with(|| Err(why.to_string()));
    }
}

impl Conversation {
    /// Waits until the guard said it.
    async fn news<T: Clone>(&self, of: impl Fn(&Told) -> Option<T>) -> T {
        let mut news = self.news.subscribe();
        loop {
            if let Some(told) = of(&news.borrow_and_update()) {
                return told;
            }
            // Its sender is this very conversation.
            let _ = news.changed().await;
        }
    }
}

/// What the guard counts of a conversation, for whoever keeps books. It holds neither the conversation nor its connection.
#[derive(Debug, Clone)]
pub(super) struct Witness {
    live: Arc<Live>,
    connection: u64,
    conversation: u64,
    news: Arc<watch::Sender<Told>>,
}

impl Witness {
    /// Bytes that went up and came down so far, and whether no more go up; `None` where no guard can say.
    pub(super) fn carried(&self) -> Option<(u64, u64, bool)> {
        let told = || self.news.borrow().carried;
        let mut carried = told();
        if carried.is_none() {
            let question = Question::Carried {
                connection: self.connection,
                conversation: self.conversation,
            };
            self.live.questions.ask(question, |answer| {
                if let Answer::Carried(answer) = answer {
                    carried = answer;
                }
                More::Nothing
            });
        }
        // It may have ended meanwhile.
        let carried = carried.or_else(told)?;
        Some((carried.up, carried.down, carried.is_over))
    }
}

/// One half's hold on a conversation.
#[derive(Debug)]
struct End {
    link: Arc<Link>,
    conversation: Arc<Conversation>,
    number: u64,
    /// Whether its direction came to an end that the guard knows of.
    is_over: bool,
}

impl End {
    fn pipe(&self) -> &Pipe {
        &self.conversation.pipe
    }
}

/// The half that says something. Dropping it says that nothing follows.
#[derive(Debug)]
pub(super) struct SendHalf(End);

/// The half that hears something. Dropping it says that nothing more is wanted.
#[derive(Debug)]
pub(super) struct ReceiveHalf(End);

impl SendHalf {
    pub(super) async fn write(&mut self, bytes: &[u8]) -> Result<usize, String> {
        match self.0.pipe().write(bytes).await {
            Ok(count) => Ok(count),
            // The guard closed its end, and says why.
            Err(_) => {
                let sent = self.0.conversation.news(|told| told.sent.clone());
                match within(ANSWER_WITHIN, sent).await {
                    Some(Err(why)) => Err(why),
                    Some(Ok(())) | None => Err(GONE.to_owned()),
                }
            }
        }
    }

    pub(super) fn witness(&self) -> Witness {
        Witness {
            live: Arc::clone(&self.0.link.live),
            connection: self.0.link.number,
            conversation: self.0.number,
            news: Arc::clone(&self.0.conversation.news),
        }
    }

    pub(super) fn finish(&mut self) -> bool {
        let first = !self.0.is_over;
        self.0.is_over = true;
        first && self.0.pipe().shutdown(Shutdown::Write).is_ok()
    }

    pub(super) async fn stopped(&mut self) {
        // Gone or not, nothing more can be done about it.
        let _ = self.0.conversation.news(|told| told.sent.clone()).await;
    }

    pub(super) fn reset(&mut self, code: VarInt) {
        self.0.is_over = true;
        // The link holds the pipe until the guard is done with it, so that it ends by this word and not by its close.
        self.0.link.channel.say_now(&Say::Reset {
            conversation: self.0.number,
            code: u32::try_from(code.into_inner()).unwrap_or(u32::MAX),
        });
    }
}

impl Drop for SendHalf {
    fn drop(&mut self) {
        self.finish();
    }
}

impl ReceiveHalf {
    pub(super) async fn read(&mut self, bytes: &mut [u8]) -> Result<Option<usize>, String> {
        if bytes.is_empty() {
            return Ok(Some(0));
        }
        match self.0.pipe().read(bytes).await {
            Ok(count) if count > 0 => Ok(Some(count)),
            // The guard closed its end, and says why.
            Ok(_) | Err(_) => {
                let heard = self.0.conversation.news(|told| told.heard.clone());
                let heard = within(ANSWER_WITHIN, heard).await;
                self.0.is_over = true;
                match heard {
                    Some(heard) => heard.map(|()| None),
                    None => Err(GONE.to_owned()),
                }
            }
        }
    }

    pub(super) fn stop(&mut self, code: VarInt) {
        if !std::mem::replace(&mut self.0.is_over, true) {
            self.0.link.channel.say_now(&Say::Stop {
                conversation: self.0.number,
                code: u32::try_from(code.into_inner()).unwrap_or(u32::MAX),
            });
        }
    }
}

impl Drop for ReceiveHalf {
    fn drop(&mut self) {
        self.stop(VarInt::from_u32(0));
    }
}

/// What a lock guards; a thread that panicked with it left it whole, since every change here is one step.
fn held<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}
