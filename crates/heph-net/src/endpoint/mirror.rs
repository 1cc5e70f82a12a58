//! The guard's side of an endpoint: keeps the very same endpoint for a process that has no socket, and asks its [`Warden`] before anything
//! is shown.
//!
//! [`keep`] is all of it, on one thread: what comes over a pair is handed on at once, both ways. It knows no policy and reads no
//! conversation. It knows which of them shows something, since that has to be said before: in any other no more goes up than greetings need.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::iter;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use heph_privacy::Grounds;
use heph_types::NodeId;
use iroh::endpoint::VarInt;
use rustix::net::Shutdown;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinSet;

use super::here::{self, Endpoint};
use super::pipe::Pipe;
use super::tally::Tally;
use super::words::{Answer, Ask, Carried, Channel, Facts, Hear, Heard, More, Numbered, Question, Say, Tell};
use super::{
    AcceptError, AtRelay, BindError, CONNECT_DEADLINE, ConnectError, EndpointOptions, Goodbye, LinkError,
    Protocol, ReceiveHalf, SendHalf, SocketTotal, within,
};
use crate::address::{NodeAddress, RelayAddress};
use crate::discovery::Discovery;
use crate::identity::Identity;

/// How long whoever wants an endpoint may take to say so.
const BEGINS_WITHIN: Duration = Duration::from_secs(10);

/// How often the warden is asked whether what it read is old.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How long the book of machines may take to be handed over where it changed.
const BOOK_WITHIN: Duration = Duration::from_secs(2);

/// How long is waited before a book that was handed over and is another one again is asked for once more.
const BOOK_AGAIN: Duration = Duration::from_millis(20);

/// How long an address that is taken may be waited for at most.
const PATIENCE_MAX: Duration = Duration::from_secs(30);

/// How often an address that is taken is tried again.
const BIND_EVERY: Duration = Duration::from_millis(50);

/// How long whoever asked may take to hear that a guard is over.
const TOLD_WITHIN: Duration = Duration::from_secs(1);

/// How long two devices that meet may go on when a guard is over.
const MEETING_ENDS_WITHIN: Duration = Duration::from_secs(5);

/// How long the goodbye to all peers may take where nobody waits for it.
const GOODBYE: Duration = Duration::from_secs(1);

/// How long all peers may take to hear that a guard is over. The next one may wait for the address.
const CLOSED_WITHIN: Duration = Duration::from_secs(3);

/// How long what came before a connection ended may take to be taken from the pair.
const REST_WITHIN: Duration = Duration::from_secs(5);

/// Bytes that are handed on at once.
const PIECE_BYTES: usize = 64 << 10;

/// Peers that have begun to connect and were not asked for.
const ARRIVING_MAX: usize = 128;

/// Connections of one endpoint.
const CONNECTIONS_MAX: usize = 1024;

/// Conversations of one connection, those that wait to be opened among them.
const CONVERSATIONS_MAX: usize = 256;

/// Entries of an answer in one word: each has up to 17 labels of 96 bytes.
const ENTRIES_OF_A_WORD: usize = 8;

/// Which of both ends began a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begun {
    /// This machine.
    Here,
    /// The peer.
    There,
}

/// A connection that somebody wants.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// With whom.
    pub node: NodeId,
    /// For what.
    pub protocol: Protocol,
    /// By whom.
    pub begun: Begun,
    /// Who has a connection for sessions here that it began.
    pub served: &'a [NodeId],
}

/// How many bytes may go up in a conversation in which nothing was cleared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// In one that this machine opened.
    pub opened: u64,
    /// In one that the peer opened.
    pub taken: u64,
}

/// What counts no more of what a guard has read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Old {
    /// The book of machines alone, for this reason: it can be handed over ([`Warden::read`]).
    Book(String),
    /// More than that: nothing passes any more, for this reason.
    All(String),
}

/// What a guard asks before something passes. It knows the rules and the book of peers as it read them itself.
pub trait Warden: Send + Sync + 'static {
    /// How many bytes may go up in the conversations of such a connection.
    ///
    /// # Errors
    /// Why there may be none.
    fn greets(&self, wanted: &Wanted<'_>) -> Result<Bounds, String>;

    /// Whether what leaves by these grounds may be shown to `node`.
    ///
    /// # Errors
    /// Why not.
    fn shows(&self, node: NodeId, grounds: &Grounds) -> Result<(), String>;

    /// Whether this machine may wait at this relay, and peers be reached by it.
    ///
    /// # Errors
    /// Why not.
    fn relays(&self, relay: &RelayAddress) -> Result<(), String>;

    /// Whether this machine may be seen on the local network.
    ///
    /// # Errors
    /// Why not.
    fn is_seen(&self) -> Result<(), String>;

    /// Reads the book of machines from this file, where it is the one that lies there now. Says who is not in it any more, or is something else.
    ///
    /// # Errors
    /// Why it is not read. What was read before stays.
    fn read(&self, book: OwnedFd) -> Result<Vec<NodeId>, String>;

    /// What does not count any more of what was read.
    fn old(&self) -> Option<Old>;
}

/// Keeps an endpoint for whoever has the near ends of both pairs, until they are closed.
pub async fn keep(words: OwnedFd, questions: OwnedFd, warden: Arc<dyn Warden>) {
    let (Ok(words), Ok(questions)) = (Channel::of(words), Channel::of(questions)) else {
        return;
    };
    let first = within(BEGINS_WITHIN, words.hear()).await;
    let Some(Ok(Heard::Word(
        Ask::Bind {
            secret,
            bind,
            relay,
            discovery,
            patience,
        },
        _,
    ))) = first
    else {
        return;
    };
    let options = EndpointOptions {
        bind,
        relay,
        // Who may not be seen is not; what it asks is asked all the same.
        discovery: match warden.is_seen() {
            Ok(()) => discovery,
            Err(_) => Discovery::Off,
        },
    };
    let bound = match options.relay.as_ref().map(|relay| warden.relays(relay)) {
        Some(Err(why)) => Err(BindError::Guard(why)),
        Some(Ok(())) | None => bound(&Identity::of_secret(&secret), &options, patience).await,
    };
    let (endpoint, said) = match bound {
        Ok(endpoint) => {
            let port = endpoint.port();
            (Some(endpoint), Tell::Bound(port))
        }
        Err(error) => (None, Tell::NotBound(error)),
    };
    // Whoever asked may have gone.
    let heard = words.say(&said, None).await;
    let (Some(endpoint), Ok(())) = (endpoint, heard) else {
        return;
    };
    let guard = Arc::new(Guard {
        tally: endpoint.tally(),
        socket: Mutex::new(Socket::Open(endpoint.clone())),
        words,
        warden,
        over: Mutex::default(),
        arriving: Mutex::default(),
        arrived: AtomicU64::new(0),
        connections: Mutex::default(),
        counts: Mutex::default(),
        renewing: tokio::sync::Mutex::default(),
        handed: Notify::new(),
    });
    tokio::select! {
        () = guard.asked() => {}
        () = guard.answers(&questions) => {}
        () = guard.stays(endpoint) => {}
    }
    if let Some(endpoint) = guard.endpoint() {
        endpoint.close(GOODBYE).await;
    }
}

/// The socket, once its address is free.
async fn bound(
    identity: &Identity,
    options: &EndpointOptions,
    patience: Duration,
) -> Result<Endpoint, BindError> {
    let until = Instant::now() + patience.min(PATIENCE_MAX);
    loop {
        match Endpoint::bind(identity, options.clone()).await {
            Err(BindError::Socket { .. }) if Instant::now() < until => {
                tokio::time::sleep(BIND_EVERY).await;
            }
            bound => return bound,
        }
    }
}

struct Guard {
    socket: Mutex<Socket>,
    tally: Tally,
    words: Channel,
    warden: Arc<dyn Warden>,
    /// Why nothing passes any more.
    over: Mutex<Option<String>>,
    arriving: Mutex<BTreeMap<u64, here::Arriving>>,
    arrived: AtomicU64,
    /// Connections by their number, and who began them.
    connections: Mutex<BTreeMap<u64, (here::Connection, Begun)>>,
    /// What conversations carry, by the numbers of their connection and their own.
    counts: Mutex<BTreeMap<(u64, u64), Arc<Counts>>>,
    /// Held while another book of machines is waited for.
    renewing: tokio::sync::Mutex<()>,
    /// A book was handed over, whatever came of it.
    handed: Notify,
}

/// The socket, for as long as it is there: the next guard may wait for its address.
enum Socket {
    Open(Endpoint),
    /// What it had sent.
    Left(SocketTotal),
}

/// What one conversation carries.
#[derive(Debug, Default)]
struct Counts {
    up: AtomicU64,
    down: AtomicU64,
    is_over: AtomicBool,
}

impl Counts {
    fn carried(&self) -> Carried {
        // In this order, so that what is over is told whole.
        let is_over = self.is_over.load(Ordering::Acquire);
        Carried {
            up: self.up.load(Ordering::Relaxed),
            down: self.down.load(Ordering::Relaxed),
            is_over,
        }
    }
}

impl Guard {
    /// Does what is asked, until whoever asks is gone.
    async fn asked(self: &Arc<Self>) {
        let mut under_way = JoinSet::new();
        loop {
            while under_way.try_join_next().is_some() {}
            match self.words.hear().await {
                Ok(Heard::Word(ask, end)) => match (ask, end) {
                    (Ask::Refuse(number), _) => {
                        if let Some(arriving) = held(&self.arriving).remove(&number) {
                            arriving.refuse();
                        }
                    }
                    (Ask::Close(deadline), _) => {
                        let guard = Arc::clone(self);
                        under_way.spawn(async move {
                            if let Some(endpoint) = guard.endpoint() {
                                endpoint.close(deadline.min(CONNECT_DEADLINE)).await;
                            }
                            let _ = guard.words.say(&Tell::Closed, None).await;
                        });
                    }
                    (Ask::Book, book) => self.read(book),
                    // One too many: its end is closed, which says so.
                    (_, _) if under_way.len() >= CONNECTIONS_MAX => {}
                    (
                        Ask::Connect {
                            node,
                            address,
                            protocol,
                            deadline,
                        },
                        Some(end),
                    ) => {
                        let guard = Arc::clone(self);
                        under_way.spawn(async move {
                            let Ok(channel) = Channel::of(end) else { return };
                            let reached = guard.reach(node, &address, protocol, deadline);
                            guard.stands(channel, reached, Begun::Here).await;
                        });
                    }
                    (Ask::Finish { number, deadline }, Some(end)) => {
                        let guard = Arc::clone(self);
                        under_way.spawn(async move {
                            let Ok(channel) = Channel::of(end) else { return };
                            let finished = guard.finish(number, deadline);
                            guard.stands(channel, finished, Begun::There).await;
                        });
                    }
                    // What has no meaning here.
                    (Ask::Bind { .. } | Ask::Connect { .. } | Ask::Finish { .. }, _) => return,
                },
                _ => return,
            }
        }
    }

    async fn reach(
        &self,
        node: NodeId,
        address: &NodeAddress,
        protocol: Protocol,
        deadline: Duration,
    ) -> Result<here::Connection, Hear> {
        let failed = |cause: String| Hear::NotConnected(ConnectError::Failed { node, cause });
        if let Some(why) = self.is_over().await {
            return Err(Hear::Over(why));
        }
        self.greets(node, protocol, Begun::Here).map_err(failed)?;
        let mut address = address.clone();
        if let Some(Err(why)) = address.relay.as_ref().map(|relay| self.warden.relays(relay)) {
            if address.direct.is_empty() {
                return Err(failed(why));
            }
            address.relay = None;
        }
        let deadline = deadline.min(CONNECT_DEADLINE);
        let endpoint = self
            .endpoint()
            .ok_or_else(|| failed("the socket is closed".to_owned()))?;
        let connected = endpoint.connect(node, &address, protocol, deadline).await;
        connected.map_err(Hear::NotConnected)
    }

    async fn finish(&self, number: u64, deadline: Duration) -> Result<here::Connection, Hear> {
        let failed = |cause: String| Hear::NotAccepted(AcceptError::Failed(cause));
        let arriving = held(&self.arriving).remove(&number);
        let arriving = arriving.ok_or_else(|| failed("it has left".to_owned()))?;
        let finished = arriving.finish(deadline.min(CONNECT_DEADLINE)).await;
        let connection = finished.map_err(Hear::NotAccepted)?;
        let (node, protocol) = (connection.peer(), connection.protocol());
        if let Some(why) = self.is_over().await {
            connection.close(Goodbye::Done);
            return Err(Hear::Over(why));
        }
        match self.greets(node, protocol, Begun::There) {
            Ok(_) => Ok(connection),
            Err(why) => {
                connection.close(Goodbye::NotAllowed);
                Err(failed(why))
            }
        }
    }

    /// Says whether a connection stands, and keeps it where it does.
    async fn stands(
        self: &Arc<Self>,
        channel: Channel,
        made: impl Future<Output = Result<here::Connection, Hear>>,
        begun: Begun,
    ) {
        let made = tokio::select! {
            made = made => made,
            // Whoever asked waits no more.
            _ = channel.hear::<Say>() => return,
        };
        // Asked again, since rules may have changed while it was made.
        let over = self.is_over().await;
        let stands = made.and_then(|connection| {
            let greets = self.greets(connection.peer(), connection.protocol(), begun);
            match over.map_or(greets, Err) {
                Ok(bounds) => Ok((connection, bounds)),
                Err(why) => {
                    connection.close(Goodbye::Done);
                    Err(Hear::Over(why))
                }
            }
        });
        match stands {
            // Whoever asked may have gone.
            Err(why) => drop(channel.say(&why, None).await),
            Ok((connection, bounds)) => {
                let said = Hear::Connected {
                    number: connection.number(),
                    node: connection.peer(),
                    protocol: connection.protocol(),
                    datagram_bytes_max: connection.datagram_bytes_max(),
                };
                // Kept before that is said: a book that is read meanwhile may end it.
                let kept = Kept::new(self, (connection, begun), channel, bounds);
                if kept.channel.say(&said, None).await.is_ok() {
                    kept.keep().await;
                }
            }
        }
    }

    /// The socket, while it is there.
    fn endpoint(&self) -> Option<Endpoint> {
        match &*held(&self.socket) {
            Socket::Open(endpoint) => Some(endpoint.clone()),
            Socket::Left(_) => None,
        }
    }

    fn greets(&self, node: NodeId, protocol: Protocol, begun: Begun) -> Result<Bounds, String> {
        let served = self.served();
        let served = &served;
        self.warden.greets(&Wanted {
            node,
            protocol,
            begun,
            served,
        })
    }

    /// Who has a connection for sessions here that it began.
    fn served(&self) -> Vec<NodeId> {
        let connections = held(&self.connections);
        let of = connections.values().filter(|(connection, begun)| {
            *begun == Begun::There && connection.protocol() == Protocol::Session && connection.is_open()
        });
        of.map(|(connection, _)| connection.peer()).collect()
    }

    /// Tells of machines on the local network, and how it stands with the relay.
    async fn looks_around(&self, endpoint: &Endpoint) {
        let waits = async {
            let mut standing = AtRelay::Unknown;
            loop {
                standing = endpoint.at_relay_after(&standing).await;
                if self
                    .words
                    .say(&Tell::AtRelay(standing.clone()), None)
                    .await
                    .is_err()
                {
                    // Whoever asked is gone.
                    return;
                }
            }
        };
        let looks = async {
            let Some(mut sightings) = endpoint.seen().await else {
                return;
            };
            while let Some(sighting) = sightings.next().await {
                let _ = self.words.say(&Tell::Sighted(sighting), None).await;
            }
        };
        tokio::join!(waits, looks);
    }

    /// Tells of peers that begin to connect.
    async fn takes_in(&self, endpoint: &Endpoint) {
        while let Some(arriving) = endpoint.accept().await {
            let number = self.arrived.fetch_add(1, Ordering::Relaxed);
            {
                let mut waiting = held(&self.arriving);
                if waiting.len() >= ARRIVING_MAX || held(&self.over).is_some() {
                    arriving.refuse();
                    continue;
                }
                waiting.insert(number, arriving);
            }
            if self.words.say(&Tell::Arriving(number), None).await.is_err() {
                break;
            }
        }
    }

    /// Keeps the socket until what the warden read is old, and ends everything then. Questions are answered all the same.
    async fn stays(&self, endpoint: Endpoint) {
        let serves = async { tokio::join!(self.takes_in(&endpoint), self.looks_around(&endpoint)) };
        let why = tokio::select! {
            why = self.minds() => why,
            _ = async { serves.await; std::future::pending::<()>().await } => return,
        };
        self.close_those(
            |connection, _| connection.protocol() != Protocol::Pair,
            Goodbye::Done,
        );
        // Whoever asked may have gone, or hear nothing any more.
        let _ = within(TOLD_WITHIN, self.words.say(&Tell::Over(why), None)).await;
        let met = async {
            while !self.close_those(|_, _| false, Goodbye::Done) {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        let _ = within(MEETING_ENDS_WITHIN, met).await;
        endpoint.close(CLOSED_WITHIN).await;
        *held(&self.socket) = Socket::Left(endpoint.total());
        drop(endpoint);
        std::future::pending().await
    }

    /// Looks whether what the warden read is old, and whether rows may still go on; says why all is over.
    async fn minds(&self) -> String {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            if let Some(why) = self.is_over().await {
                return why;
            }
            self.close_those(
                |connection, begun| self.outlived(connection, begun),
                Goodbye::Done,
            );
        }
    }

    /// Rows go on only while somebody is served who may have wanted that.
    fn outlived(&self, connection: &here::Connection, begun: Begun) -> bool {
        let (node, protocol) = (connection.peer(), connection.protocol());
        protocol == Protocol::Hop && begun == Begun::Here && self.greets(node, protocol, begun).is_err()
    }

    /// Ends connections; `true` where none is left open.
    fn close_those(&self, which: impl Fn(&here::Connection, Begun) -> bool, goodbye: Goodbye) -> bool {
        // Whoever decides may look at them.
        let all: Vec<_> = held(&self.connections).values().cloned().collect();
        let open = all.into_iter().filter(|(connection, _)| connection.is_open());
        let mut left = 0;
        for (connection, begun) in open {
            match which(&connection, begun) {
                true => connection.close(goodbye),
                false => left += 1,
            }
        }
        left == 0
    }

    /// What does not count any more. Once all is over it stays so.
    fn old(&self) -> Option<Old> {
        let mut over = held(&self.over);
        if let Some(why) = &*over {
            return Some(Old::All(why.clone()));
        }
        let old = self.warden.old();
        if let Some(Old::All(why)) = &old {
            *over = Some(why.clone());
        }
        old
    }

    /// Why nothing new passes. Where the book of machines alone is another one, waits a moment for it to be handed over.
    async fn is_over(&self) -> Option<String> {
        if let Old::All(why) = self.old()? {
            return Some(why);
        }
        let _one = self.renewing.lock().await;
        let until = Instant::now() + BOOK_WITHIN;
        loop {
            let why = match self.old()? {
                Old::All(why) => return Some(why),
                Old::Book(why) => why,
            };
            if Instant::now() >= until {
                held(&self.over).get_or_insert(why);
                continue;
            }
            // Whoever asked may have gone, or hear nothing any more; then all ends.
            let handed = async {
                let _ = self.words.say(&Tell::Book, None).await;
                self.handed.notified().await;
            };
            let left = until.saturating_duration_since(Instant::now());
            let _ = within(left, handed).await;
            if self.old().is_some() {
                tokio::time::sleep(BOOK_AGAIN).await;
            }
        }
    }

    /// Reads another book of machines. Whoever is not in it any more, or is something else, is spoken to no longer.
    fn read(&self, book: Option<OwnedFd>) {
        // What cannot be read is asked for again, or all is over.
        if let Some(Ok(others)) = book.map(|book| self.warden.read(book)) {
            let gone = |connection: &here::Connection, _| others.contains(&connection.peer());
            self.close_those(gone, Goodbye::NotAllowed);
        }
        self.handed.notify_one();
    }

    /// Answers questions, until whoever asks is gone.
    async fn answers(&self, questions: &Channel) {
        while let Ok(Heard::Word(Numbered { number, what }, _)) = questions.hear().await {
            for what in self.answer(what) {
                if questions.say(&Numbered { number, what }, None).await.is_err() {
                    return;
                }
            }
        }
    }

    fn answer(&self, question: Question) -> Vec<Answer> {
        match question {
            Question::Account => {
                let total = match &*held(&self.socket) {
                    Socket::Open(endpoint) => endpoint.total(),
                    Socket::Left(total) => *total,
                };
                let connections = pieces(self.tally.passed(), Answer::Passed);
                iter::once(Answer::Total(total)).chain(connections).collect()
            }
            Question::Passing => pieces(self.tally.passing(), Answer::Passing),
            Question::Address => {
                let address = self.endpoint().map(|endpoint| endpoint.address());
                vec![Answer::Address(address.unwrap_or_default())]
            }
            Question::Facts(number) => {
                let connection = held(&self.connections).get(&number).cloned();
                vec![Answer::Facts(
                    connection.map(|(connection, _)| facts(&connection)),
                )]
            }
            Question::Carried {
                connection,
                conversation,
            } => {
                let counts = held(&self.counts).get(&(connection, conversation)).cloned();
                vec![Answer::Carried(counts.map(|counts| counts.carried()))]
            }
        }
    }
}

/// An answer in words that are short enough.
fn pieces<T>(all: Vec<T>, answer: impl Fn(Vec<T>, More) -> Answer) -> Vec<Answer> {
    let mut rest = all.into_iter().peekable();
    let mut answers = Vec::new();
    loop {
        let some: Vec<T> = rest.by_ref().take(ENTRIES_OF_A_WORD).collect();
        let more = match rest.peek() {
            Some(_) => More::Follows,
            None => More::Nothing,
        };
        answers.push(answer(some, more));
        if more == More::Nothing {
            return answers;
        }
    }
}

fn facts(connection: &here::Connection) -> Facts {
    Facts {
        round_trip: connection.round_trip(),
        way: connection.way(),
        traffic: connection.traffic(),
    }
}

/// One connection that stands, and whoever asked for it.
struct Kept {
    guard: Arc<Guard>,
    connection: here::Connection,
    channel: Arc<Channel>,
    /// Bytes that go up in a conversation in which nothing was cleared.
    bounds: Bounds,
    /// Why the guard itself ended it.
    barred: Arc<Mutex<Option<String>>>,
    conversations: JoinSet<u64>,
    orders: BTreeMap<u64, Orders>,
    /// Conversations that the peer opened and nobody took.
    came: BTreeMap<u64, (SendHalf, ReceiveHalf)>,
    /// The peer's have odd numbers.
    next: u64,
}

/// What the asker may still say about a conversation.
struct Orders {
    reset: Option<oneshot::Sender<u32>>,
    stop: Option<oneshot::Sender<u32>>,
}

impl Kept {
    fn new(
        guard: &Arc<Guard>,
        (connection, begun): (here::Connection, Begun),
        channel: Channel,
        bounds: Bounds,
    ) -> Self {
        held(&guard.connections).insert(connection.number(), (connection.clone(), begun));
        Self {
            guard: Arc::clone(guard),
            connection,
            channel: Arc::new(channel),
            bounds,
            barred: Arc::default(),
            conversations: JoinSet::new(),
            orders: BTreeMap::new(),
            came: BTreeMap::new(),
            next: 1,
        }
    }

    /// Until the connection ended and all that came of it was handed on, or whoever asked has gone.
    async fn keep(mut self) {
        let (connection, channel) = (self.connection.clone(), Arc::clone(&self.channel));
        loop {
            tokio::select! {
                said = channel.hear() => match said {
                    Ok(Heard::Word(say, end)) => if self.said(say, end).await.is_err() { return },
                    Ok(Heard::Datagram(bytes)) => {
                        // It may be lost.
                        connection.send_datagram(bytes);
                    }
                    Ok(Heard::End) | Err(_) => return,
                },
                Ok((send, receive)) = connection.accept() => {
                    let number = self.next;
                    self.next += 2;
                    self.came.insert(number, (send.into(), receive.into()));
                    if channel.say(&Hear::Came(number), None).await.is_err() {
                        return;
                    }
                }
                Ok(bytes) = connection.datagram() => {
                    // It may be lost.
                    channel.send_datagram(&bytes);
                }
                Some(done) = self.conversations.join_next() => self.done(done.ok()).await,
                why = connection.closed() => {
                    let node = connection.peer();
                    let barred = held(&self.barred).take().or_else(|| held(&self.guard.over).clone());
                    let why = barred.map_or(why, |why| LinkError::Barred { node, why });
                    // Whoever asked may have gone.
                    let _ = channel.say(&Hear::Closed(why, facts(&connection)), None).await;
                    let _ = within(REST_WITHIN, self.rest()).await;
                    return;
                }
            }
        }
    }

    /// Hands on what came before the connection ended.
    async fn rest(&mut self) {
        while !self.conversations.is_empty() {
            tokio::select! {
                said = self.channel.hear::<Say>() => if matches!(said, Ok(Heard::End) | Err(_)) { return },
                Some(done) = self.conversations.join_next() => self.done(done.ok()).await,
            }
        }
    }

    async fn done(&mut self, conversation: Option<u64>) {
        if let Some(number) = conversation {
            self.orders.remove(&number);
            let counts = held(&self.guard.counts).remove(&(self.connection.number(), number));
            let carried = counts.map_or_else(Carried::default, |counts| counts.carried());
            // Whoever asked may have gone.
            let _ = self.channel.say(&Hear::Done(number, carried), None).await;
        }
    }

    /// Does what is asked. The error: it has no meaning here.
    async fn said(&mut self, say: Say, end: Option<OwnedFd>) -> io::Result<()> {
        match (say, end) {
            (
                Say::Open {
                    conversation,
                    grounds,
                },
                Some(end),
            ) if conversation % 2 == 0 && !self.orders.contains_key(&conversation) => {
                let opened = match &grounds {
                    _ if self.orders.len() >= CONVERSATIONS_MAX => {
                        Err(self.barred("too many conversations are open".to_owned()))
                    }
                    Some(grounds) => self.decides(grounds).await,
                    None => Ok(()),
                };
                if let Err(why) = opened {
                    self.channel
                        .say(&Hear::Opened(conversation, Err(why)), None)
                        .await?;
                    let done = Hear::Done(conversation, Carried::default());
                    return self.channel.say(&done, None).await;
                }
                let most = if grounds.is_some() {
                    u64::MAX
                } else {
                    self.bounds.opened
                };
                let (carrying, connection) =
                    (self.carrying(conversation, end, most)?, self.connection.clone());
                let channel = Arc::clone(&self.channel);
                self.conversations.spawn(async move {
                    let (opened, halves) = match connection.open(grounds.as_ref()).await {
                        Ok(halves) => (Ok(()), Some(halves)),
                        Err(why) => (Err(why), None),
                    };
                    // Whoever asked may have gone.
                    let _ = channel.say(&Hear::Opened(conversation, opened), None).await;
                    if let Some((send, receive)) = halves {
                        carrying.carry(send.into(), receive.into()).await;
                    }
                    conversation
                });
                Ok(())
            }
            (Say::Take(conversation), Some(end)) => {
                // One that is not there is closed, which says so.
                if let Some((send, receive)) = self.came.remove(&conversation) {
                    let carrying = self.carrying(conversation, end, self.bounds.taken)?;
                    self.conversations.spawn(async move {
                        carrying.carry(send, receive).await;
                        conversation
                    });
                }
                Ok(())
            }
            (Say::Shows(grounds), _) => {
                let shown = self.decides(&grounds).await;
                if shown.is_ok() {
                    self.connection.shows(&grounds).await.map_err(io::Error::other)?;
                }
                let denied = shown.clone().err();
                self.channel.say(&Hear::Shown(shown), None).await?;
                if let Some(LinkError::Barred { why, .. }) = denied {
                    *held(&self.barred) = Some(why);
                    self.connection.close(Goodbye::Done);
                }
                Ok(())
            }
            (Say::Reset { conversation, code }, _) => {
                let reset = self.orders.get_mut(&conversation);
                if let Some(reset) = reset.and_then(|orders| orders.reset.take()) {
                    // It may be over.
                    let _ = reset.send(code);
                }
                Ok(())
            }
            (Say::Stop { conversation, code }, _) => {
                let stop = self.orders.get_mut(&conversation);
                if let Some(stop) = stop.and_then(|orders| orders.stop.take()) {
                    // It may be over.
                    let _ = stop.send(code);
                }
                Ok(())
            }
            (Say::Close(goodbye), _) => {
                self.connection.close(goodbye);
                Ok(())
            }
            (Say::Open { .. } | Say::Take(_), _) => Err(ErrorKind::InvalidData.into()),
        }
    }

    /// Asks the warden whether what leaves by these grounds may be shown here.
    async fn decides(&self, grounds: &Grounds) -> Result<(), LinkError> {
        if let Some(why) = self.guard.is_over().await {
            return Err(self.barred(why));
        }
        let shows = self.guard.warden.shows(self.connection.peer(), grounds);
        shows.map_err(|why| self.barred(why))
    }

    fn barred(&self, why: String) -> LinkError {
        let node = self.connection.peer();
        LinkError::Barred { node, why }
    }

    fn carrying(&mut self, number: u64, end: OwnedFd, most: u64) -> io::Result<Carrying> {
        let ((reset, to_reset), (stop, to_stop)) = (oneshot::channel(), oneshot::channel());
        let orders = Orders {
            reset: Some(reset),
            stop: Some(stop),
        };
        self.orders.insert(number, orders);
        let counts = Arc::new(Counts::default());
        held(&self.guard.counts).insert((self.connection.number(), number), Arc::clone(&counts));
        Ok(Carrying {
            number,
            pipe: Pipe::of(end)?,
            most,
            counts,
            reset: to_reset,
            stop: to_stop,
            connection: self.connection.clone(),
            channel: Arc::clone(&self.channel),
            barred: Arc::clone(&self.barred),
        })
    }
}

/// Whatever ended it, others are told no more of it.
impl Drop for Kept {
    fn drop(&mut self) {
        let number = self.connection.number();
        held(&self.guard.connections).remove(&number);
        held(&self.guard.counts).retain(|(connection, _), _| *connection != number);
    }
}

/// One conversation, whose bytes are handed on as they are.
struct Carrying {
    number: u64,
    pipe: Pipe,
    /// How many bytes may go up.
    most: u64,
    counts: Arc<Counts>,
    reset: oneshot::Receiver<u32>,
    stop: oneshot::Receiver<u32>,
    connection: here::Connection,
    channel: Arc<Channel>,
    barred: Arc<Mutex<Option<String>>>,
}

impl Carrying {
    async fn carry(self, send: SendHalf, receive: ReceiveHalf) {
        let Self {
            number,
            pipe,
            most,
            counts,
            reset,
            stop,
            connection,
            channel,
            barred,
        } = self;
        let up = async {
            let sent = tokio::select! {
                biased;
                sent = up(&pipe, send, reset, (most, &counts)) => sent,
                why = connection.closed() => Err(NotSent::Broken(why.to_string())),
            };
            if sent == Err(NotSent::NotCleared) {
                *held(&barred) = Some(NotSent::NotCleared.to_string());
                connection.close(Goodbye::Done);
            }
            counts.is_over.store(true, Ordering::Release);
            // Said before the pipe ends, so that whoever sees its end knows why.
            let said = sent.clone().map_err(|why| why.to_string());
            let _ = channel.say(&Hear::Sent(number, said), None).await;
            if sent.is_err() {
                let _ = pipe.shutdown(Shutdown::Read);
            }
        };
        let down = async {
            let heard = down(&pipe, receive, stop, &counts.down).await;
            let _ = channel.say(&Hear::Heard(number, heard), None).await;
            let _ = pipe.shutdown(Shutdown::Write);
        };
        tokio::join!(up, down);
    }
}

/// Why not everything went up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum NotSent {
    /// Nothing was cleared in this conversation, and it carries more than greetings.
    #[error("more was to be sent than was cleared")]
    NotCleared,
    /// It broke.
    #[error("{0}")]
    Broken(String),
}

/// Hands on what goes up, as far as it may. A byte beyond that takes its whole piece with it.
async fn up(
    pipe: &Pipe,
    mut send: SendHalf,
    mut reset: oneshot::Receiver<u32>,
    (most, counts): (u64, &Counts),
) -> Result<(), NotSent> {
    let (mut piece, mut sent) = (vec![0; PIECE_BYTES], 0);
    loop {
        let count = tokio::select! {
            biased;
            Ok(code) = &mut reset => return Err(broken_off(send, code)),
            read = pipe.read(&mut piece) => read.unwrap_or(0),
        };
        if count == 0 {
            send.finish();
            tokio::select! {
                Ok(code) = &mut reset => return Err(broken_off(send, code)),
                () = send.stopped() => return Ok(()),
            }
        }
        sent += count as u64;
        if sent > most {
            send.reset(VarInt::from_u32(1));
            return Err(NotSent::NotCleared);
        }
        let mut rest = &piece[..count];
        while !rest.is_empty() {
            let wrote = tokio::select! {
                biased;
                Ok(code) = &mut reset => return Err(broken_off(send, code)),
                wrote = send.write(rest) => wrote.map_err(NotSent::Broken)?,
            };
            counts.up.fetch_add(wrote as u64, Ordering::Relaxed);
            rest = &rest[wrote..];
        }
    }
}

fn broken_off(mut send: SendHalf, code: u32) -> NotSent {
    send.reset(VarInt::from_u32(code));
    NotSent::Broken("it was broken off here".to_owned())
}

/// Hands on what comes down.
async fn down(
    pipe: &Pipe,
    mut receive: ReceiveHalf,
    mut stop: oneshot::Receiver<u32>,
    came: &AtomicU64,
) -> Result<(), String> {
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let count = tokio::select! {
            biased;
            Ok(code) = &mut stop => return Err(unwanted(receive, code)),
            read = receive.read(&mut piece) => match read? {
                Some(count) => count,
                None => return Ok(()),
            },
        };
        came.fetch_add(count as u64, Ordering::Relaxed);
        let mut rest = &piece[..count];
        while !rest.is_empty() {
            let wrote = tokio::select! {
                biased;
                Ok(code) = &mut stop => return Err(unwanted(receive, code)),
                wrote = pipe.write(rest) => wrote,
            };
            match wrote {
                Ok(wrote) => rest = &rest[wrote..],
                Err(_) => return Err(unwanted(receive, 0)),
            }
        }
    }
}

fn unwanted(mut receive: ReceiveHalf, code: u32) -> String {
    receive.stop(VarInt::from_u32(code));
    "nobody listens here".to_owned()
}

/// What a lock guards; a thread that panicked with it left it whole, since every change here is one step.
fn held<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::os::fd::AsFd;

    use rustix::net::sockopt::set_socket_send_buffer_size;

    use super::super::words::pair;
    use super::*;

    /// Wants another book for ever.
    struct Insatiable;

    impl Warden for Insatiable {
        fn greets(&self, _: &Wanted<'_>) -> Result<Bounds, String> {
            Err("nobody is known".to_owned())
        }

        fn shows(&self, _: NodeId, _: &Grounds) -> Result<(), String> {
            Err("nothing is shown".to_owned())
        }

        fn relays(&self, _: &RelayAddress) -> Result<(), String> {
            Ok(())
        }

        fn is_seen(&self) -> Result<(), String> {
            Ok(())
        }

        fn read(&self, _: OwnedFd) -> Result<Vec<NodeId>, String> {
            Err("it is not the book".to_owned())
        }

        fn old(&self) -> Option<Old> {
            Some(Old::Book("the book has changed".to_owned()))
        }
    }

    #[tokio::test]
    async fn whoever_hears_nothing_keeps_no_guard_from_its_end() {
        let ((words, far_words), (_questions, far_questions)) = (pair().unwrap(), pair().unwrap());
        // There is room for a few words that nobody hears.
        set_socket_send_buffer_size(&far_words, 1).unwrap();
        let asks = async {
            let words = Channel::of(words).unwrap();
            let bind = Ask::Bind {
                secret: Identity::fresh().unwrap().secret().to_bytes(),
                bind: (Ipv4Addr::LOCALHOST, 0).into(),
                relay: None,
                discovery: Discovery::Off,
                patience: Duration::MAX,
            };
            words.say(&bind, None).await.unwrap();
            assert!(matches!(
                words.hear().await,
                Ok(Heard::Word(Tell::Bound(_), None))
            ));
            // Each is answered by the wish for another one.
            let hands_none = async {
                while words.say(&Ask::Book, None).await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            };
            let connects = async {
                tokio::time::sleep(Duration::from_millis(1_500)).await;
                let (near, end) = pair().unwrap();
                let connect = Ask::Connect {
                    node: NodeId([1; 32]),
                    address: NodeAddress::default(),
                    protocol: Protocol::Session,
                    deadline: CONNECT_DEADLINE,
                };
                words.say(&connect, Some(end.as_fd())).await.unwrap();
                drop(end);
                let near = Channel::of(near).unwrap();
                within(5 * BOOK_WITHIN, near.hear()).await
            };
            tokio::select! {
                heard = connects => heard,
                () = hands_none => None,
            }
        };
        let kept = keep(far_words, far_questions, Arc::new(Insatiable));
        let heard = tokio::select! {
            heard = asks => heard,
            () = kept => None,
        };
        assert!(
            matches!(&heard, Some(Ok(Heard::Word(Hear::Over(why), None))) if why.contains("book")),
            "{heard:?}"
        );
    }
}
