//! The guard's side of an endpoint: keeps the very same endpoint for a process that has no socket, and asks its [`Warden`] before anything
//! is shown.
//!
//! [`keep`] is all of it, on one thread: what comes over a pair is handed on at once, both ways. It knows no policy and reads no
//! conversation. It knows which of them shows something, since that has to be said before: in any other no more goes up than greetings need.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use heph_privacy::Grounds;
use heph_types::NodeId;
use iroh::endpoint::VarInt;
use rustix::net::Shutdown;
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::here::{self, Endpoint};
use super::words::{Answer, Ask, Carried, Channel, Facts, Hear, Heard, More, Numbered, Question, Say, Tell};
use super::{
    AcceptError, CONNECT_DEADLINE, ConnectError, EndpointOptions, Goodbye, LinkError, Protocol, ReceiveHalf,
    SendHalf, within,
};
use crate::address::{NodeAddress, RelayAddress};
use crate::discovery::Discovery;
use crate::identity::Identity;

/// How long whoever wants an endpoint may take to say so.
const BEGINS_WITHIN: Duration = Duration::from_secs(10);

/// How often the warden is asked whether what it read is old.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How long two devices that meet may go on when a guard is over: meeting changes the book of peers, which it has read.
const MEETING_ENDS_WITHIN: Duration = Duration::from_secs(5);

/// How long the goodbye to all peers may take where nobody waits for it.
const GOODBYE: Duration = Duration::from_secs(1);

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

/// What a guard asks before something passes. It knows the rules and the book of peers as it read them itself.
pub trait Warden: Send + Sync + 'static {
    /// How many bytes may go up in each conversation of a connection to `node` for `protocol` in which nothing was cleared.
    ///
    /// # Errors
    /// Why there may be no such connection.
    fn greets(&self, node: NodeId, protocol: Protocol, begun: Begun) -> Result<u64, String>;

    /// Whether what leaves by these grounds may be shown to `node`.
    ///
    /// # Errors
    /// Why not.
    fn shows(&self, node: NodeId, grounds: &Grounds) -> Result<(), String>;

    /// Whether peers may be reached by this relay.
    ///
    /// # Errors
    /// Why not.
    fn relays(&self, relay: &RelayAddress) -> Result<(), String>;

    /// Why nothing passes any more; `None` while what was read counts.
    fn is_over(&self) -> Option<String>;
}

/// Keeps an endpoint for whoever has the near ends of both pairs, until they are closed.
pub async fn keep(words: OwnedFd, questions: OwnedFd, warden: Arc<dyn Warden>) {
    let (Ok(words), Ok(questions)) = (Channel::of(words), Channel::of(questions)) else {
        return;
    };
    let first = within(BEGINS_WITHIN, words.hear()).await;
    let Some(Ok(Heard::Word(Ask::Bind { secret, bind }, _))) = first else {
        return;
    };
    let options = EndpointOptions {
        bind,
        relay: None,
        discovery: Discovery::Off,
    };
    let bound = Endpoint::bind(&Identity::of_secret(&secret), options).await;
    let (endpoint, said) = match bound {
        Ok(endpoint) => (Some(endpoint), Tell::Bound),
        Err(error) => (None, Tell::NotBound(error)),
    };
    // Whoever asked may have gone.
    let heard = words.say(&said, None).await;
    let (Some(endpoint), Ok(())) = (endpoint, heard) else {
        return;
    };
    let guard = Arc::new(Guard {
        endpoint,
        words,
        warden,
        over: Mutex::default(),
        arriving: Mutex::default(),
        arrived: AtomicU64::new(0),
        connections: Mutex::default(),
        counts: Mutex::default(),
    });
    tokio::select! {
        () = guard.asked() => {}
        _ = async { tokio::join!(guard.takes_in(), guard.minds(), guard.answers(&questions)) } => {}
    }
    guard.endpoint.close(GOODBYE).await;
}

struct Guard {
    endpoint: Endpoint,
    words: Channel,
    warden: Arc<dyn Warden>,
    /// Why nothing passes any more.
    over: Mutex<Option<String>>,
    arriving: Mutex<BTreeMap<u64, here::Arriving>>,
    arrived: AtomicU64,
    /// Connections by their number.
    connections: Mutex<BTreeMap<u64, here::Connection>>,
    /// What conversations carry, by the numbers of their connection and their own.
    counts: Mutex<BTreeMap<(u64, u64), Arc<Counts>>>,
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
                            guard.endpoint.close(deadline.min(CONNECT_DEADLINE)).await;
                            let _ = guard.words.say(&Tell::Closed, None).await;
                        });
                    }
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
        if let Some(why) = self.is_over() {
            return Err(Hear::Over(why));
        }
        self.warden.greets(node, protocol, Begun::Here).map_err(failed)?;
        let mut address = address.clone();
        if let Some(Err(why)) = address.relay.as_ref().map(|relay| self.warden.relays(relay)) {
            if address.direct.is_empty() {
                return Err(failed(why));
            }
            address.relay = None;
        }
        let deadline = deadline.min(CONNECT_DEADLINE);
        let connected = self.endpoint.connect(node, &address, protocol, deadline).await;
        connected.map_err(Hear::NotConnected)
    }

    async fn finish(&self, number: u64, deadline: Duration) -> Result<here::Connection, Hear> {
        let failed = |cause: String| Hear::NotAccepted(AcceptError::Failed(cause));
        let arriving = held(&self.arriving).remove(&number);
        let arriving = arriving.ok_or_else(|| failed("it has left".to_owned()))?;
        let finished = arriving.finish(deadline.min(CONNECT_DEADLINE)).await;
        let connection = finished.map_err(Hear::NotAccepted)?;
        let (node, protocol) = (connection.peer(), connection.protocol());
        match self.warden.greets(node, protocol, Begun::There) {
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
        let stands = made.and_then(|connection| {
            // Asked again, since rules may have changed while it was made.
            let greets = self
                .warden
                .greets(connection.peer(), connection.protocol(), begun);
            match self.is_over().map_or(greets, Err) {
                Ok(greeting) => Ok((connection, greeting)),
                Err(why) => {
                    connection.close(Goodbye::Done);
                    Err(Hear::Over(why))
                }
            }
        });
        let said = match &stands {
            Ok((connection, _)) => &Hear::Connected {
                number: connection.number(),
                node: connection.peer(),
                protocol: connection.protocol(),
                datagram_bytes_max: connection.datagram_bytes_max(),
            },
            Err(why) => why,
        };
        // Whoever asked may have gone.
        let heard = channel.say(said, None).await;
        if let (Ok((connection, greeting)), Ok(())) = (stands, heard) {
            Kept::new(self, connection, channel, greeting).keep().await;
        }
    }

    /// Tells of peers that begin to connect.
    async fn takes_in(&self) {
        while let Some(arriving) = self.endpoint.accept().await {
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
        // The socket is closed; questions are answered all the same.
        std::future::pending().await
    }

    /// Looks whether what the warden read is old, and ends everything then.
    async fn minds(&self) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            if let Some(why) = self.is_over() {
                for connection in self.of(|protocol| protocol != Protocol::Pair) {
                    connection.close(Goodbye::Done);
                }
                // It may have been said; twice is no harm.
                let _ = self.words.say(&Tell::Over(why), None).await;
                tokio::time::sleep(MEETING_ENDS_WITHIN).await;
                self.endpoint.close(GOODBYE).await;
                return std::future::pending().await;
            }
        }
    }

    /// Why nothing new passes. Once it is over it stays so.
    fn is_over(&self) -> Option<String> {
        let mut over = held(&self.over);
        if over.is_none() {
            *over = self.warden.is_over();
        }
        over.clone()
    }

    fn of(&self, wanted: impl Fn(Protocol) -> bool) -> Vec<here::Connection> {
        let connections = held(&self.connections);
        let of = connections
            .values()
            .filter(|connection| wanted(connection.protocol()));
        of.cloned().collect()
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
            Question::Passed => pieces(self.endpoint.passed(), Answer::Passed),
            Question::Passing => pieces(self.endpoint.passing(), Answer::Passing),
            Question::Total => vec![Answer::Total(self.endpoint.total())],
            Question::Address => vec![Answer::Address(self.endpoint.address())],
            Question::Facts(number) => {
                let connection = held(&self.connections).get(&number).cloned();
                vec![Answer::Facts(connection.as_ref().map(facts))]
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
    greeting: u64,
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
    fn new(guard: &Arc<Guard>, connection: here::Connection, channel: Channel, greeting: u64) -> Self {
        held(&guard.connections).insert(connection.number(), connection.clone());
        Self {
            guard: Arc::clone(guard),
            connection,
            channel: Arc::new(channel),
            greeting,
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
                    Some(grounds) => self.decides(grounds),
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
                    self.greeting
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
                    let carrying = self.carrying(conversation, end, self.greeting)?;
                    self.conversations.spawn(async move {
                        carrying.carry(send, receive).await;
                        conversation
                    });
                }
                Ok(())
            }
            (Say::Shows(grounds), _) => {
                let shown = self.decides(&grounds);
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
    fn decides(&self, grounds: &Grounds) -> Result<(), LinkError> {
        if let Some(why) = self.guard.is_over() {
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
        let pipe = std::os::unix::net::UnixStream::from(end);
        pipe.set_nonblocking(true)?;
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
            pipe: UnixStream::from_std(pipe)?,
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
    pipe: UnixStream,
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
                let _ = rustix::net::shutdown(&pipe, Shutdown::Read);
            }
        };
        let down = async {
            let heard = down(&pipe, receive, stop, &counts.down).await;
            let _ = channel.say(&Hear::Heard(number, heard), None).await;
            let _ = rustix::net::shutdown(&pipe, Shutdown::Write);
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
    pipe: &UnixStream,
    mut send: SendHalf,
    mut reset: oneshot::Receiver<u32>,
    (most, counts): (u64, &Counts),
) -> Result<(), NotSent> {
    let (mut piece, mut sent) = (vec![0; PIECE_BYTES], 0);
    loop {
        let count = tokio::select! {
            biased;
            Ok(code) = &mut reset => return Err(broken_off(send, code)),
            read = read_some(pipe, &mut piece) => read.unwrap_or(0),
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
    pipe: &UnixStream,
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
                wrote = write_some(pipe, rest) => wrote,
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

async fn read_some(pipe: &UnixStream, bytes: &mut [u8]) -> io::Result<usize> {
    loop {
        match pipe.try_read(bytes) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => pipe.readable().await?,
            read => return read,
        }
    }
}

async fn write_some(pipe: &UnixStream, bytes: &[u8]) -> io::Result<usize> {
    loop {
        match pipe.try_write(bytes) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => pipe.writable().await?,
            wrote => return wrote,
        }
    }
}

/// What a lock guards; a thread that panicked with it left it whole, since every change here is one step.
fn held<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}
