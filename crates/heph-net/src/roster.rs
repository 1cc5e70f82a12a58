//! Carries [membership](crate::membership) between endpoints: who of the book of peers is there right now, how far away,
//! and what it says of itself.
//!
//! A message is a datagram on a `heph/members/1` connection; one that is lost is lost. A machine's own devices share a
//! circle. Everybody else stands in a circle of two with this machine: a stranger never learns of the others and cannot
//! call one of them dead. On the same connection a stream with one byte asks for a profile: what a node says of itself,
//! bytes that only the runtime understands; one with another byte says that the program at that end only looks on, so
//! that nothing is sent there but answers.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use heph_types::NodeId;
use tokio::sync::{mpsc, watch};

use crate::address::NodeAddress;
use crate::endpoint::{CONNECT_DEADLINE, Connection, Endpoint, Goodbye, Protocol, Way};
use crate::membership::{ConnectionId, Event, MEMBERS_MAX, Members, Outgoing};

/// Bytes of a profile: a list of held layers of some hundred models.
pub const PROFILE_BYTES_MAX: usize = 16 << 10;

/// How often a member is asked again what it says of itself.
pub const PROFILE_EVERY: Duration = Duration::from_secs(5);

/// How long a profile may take: a few round trips of 300 ms and a lost packet.
const PROFILE_DEADLINE: Duration = Duration::from_secs(3);

/// How often this machine looks at its own address, and shows round trips anew.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Messages that wait for a connection; the oldest are dropped, as a network would.
const WAITING_MAX: usize = 32;

/// Connections that one peer may hold open: both sides may have connected at once, it may have started anew, and others
/// of its programs look on.
const LINKS_MAX: usize = 4;

/// Arrivals and orders that wait for the task; then whoever brings more waits.
const QUEUE: usize = 1_024;

/// Arrivals that are taken in before the clock is looked at again.
const AT_ONCE: usize = 64;

/// The pause after a failed attempt to connect, doubled each time from the first to the second.
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// The byte that asks for a profile.
const ASK_PROFILE: u8 = 1;

/// The byte of a program that is no member.
const LOOKS_ON: u8 = 2;

/// Somebody whom this machine knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acquaintance {
    /// Who.
    pub node: NodeId,
    /// Where it was last.
    pub address: NodeAddress,
    /// Who else it hears of.
    pub circle: Circle,
}

/// Whom a peer hears of, and whom it may speak of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Circle {
    /// All others of this circle: the devices of one person.
    Shared,
    /// Only this machine.
    Apart,
}

/// Somebody who is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Present {
    /// Who.
    pub node: NodeId,
    /// Where.
    pub address: NodeAddress,
    /// Whether it answers.
    pub standing: Standing,
    /// Time there and back; `None` before its first answer.
    pub round_trip: Option<Duration>,
    /// The way that packets take; `None` while no connection is open.
    pub way: Option<Way>,
    /// What it says of itself; `None` before it was asked.
    pub profile: Option<Arc<[u8]>>,
}

/// Whether a member answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It does.
    Here,
    /// It stopped, and is not given up yet: nothing new should be asked of it.
    Suspect,
}

/// Whether a program stands for its machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// It is a member. Of the programs with one identity one may be.
    Member,
    /// It only looks who is there, and nobody hears of it.
    Onlooker,
}

/// What tells one life of this node from another.
#[derive(Debug, Clone, Copy)]
pub struct Life {
    /// Higher than in every earlier life: the milliseconds since 1970.
    pub incarnation: u64,
    /// Spreads what nodes do over time.
    pub seed: u64,
}

/// Who is there. Clones are the same roster; when the last is dropped, this machine falls silent.
#[derive(Debug, Clone)]
pub struct Roster {
    orders: mpsc::Sender<Order>,
    present: watch::Receiver<Arc<Vec<Present>>>,
    profile: Arc<watch::Sender<Arc<[u8]>>>,
}

enum Order {
    Admit(Vec<Acquaintance>),
    Arrived(Connection),
    Seen(NodeId, NodeAddress),
    Leave,
}

impl Roster {
    /// Starts on the current runtime. Until somebody is admitted nobody is there.
    pub fn start(endpoint: Endpoint, life: Life, part: Part) -> Roster {
        let (orders, order_queue) = mpsc::channel(QUEUE);
        let (present_in, present) = watch::channel(Arc::default());
        let (profile, own_profile) = watch::channel(Arc::default());
        let carrier = Carrier::new(endpoint, life, part, present_in, own_profile);
        tokio::spawn(carrier.run(order_queue));
        Roster {
            orders,
            present,
            profile: Arc::new(profile),
        }
    }

    /// Makes these the only ones that may be there.
    pub async fn admit(&self, known: Vec<Acquaintance>) {
        self.order(Order::Admit(known)).await;
    }

    /// Takes over a connection that a peer has opened for [`Protocol::Members`]; a stranger's is refused.
    pub async fn arrived(&self, connection: Connection) {
        self.order(Order::Arrived(connection)).await;
    }

    /// Somebody was seen at this address, on the local network say: if it is admitted, it is asked at once.
    pub async fn seen(&self, node: NodeId, address: NodeAddress) {
        self.order(Order::Seen(node, address)).await;
    }

    /// What this machine says of itself from now on, at most [`PROFILE_BYTES_MAX`]; `false` for more.
    pub fn say(&self, profile: Vec<u8>) -> bool {
        let fits = profile.len() <= PROFILE_BYTES_MAX;
        if fits {
            self.profile.send_replace(profile.into());
        }
        fits
    }

    /// Who is there, by node id.
    pub fn present(&self) -> Arc<Vec<Present>> {
        self.present.borrow().clone()
    }

    /// Told of every change: somebody comes, goes, is suspected, says something else. Round trips change once a second.
    pub fn watch(&self) -> watch::Receiver<Arc<Vec<Present>>> {
        self.present.clone()
    }

    /// Says goodbye to everybody, and waits until it is said, no longer than `deadline`.
    pub async fn leave(&self, deadline: Duration) {
        self.order(Order::Leave).await;
        let mut present = self.present.clone();
        let over = async { while present.changed().await.is_ok() {} };
        // Those who did not hear the goodbye notice the silence.
        let _ = tokio::time::timeout(deadline, over).await;
    }

    async fn order(&self, order: Order) {
        // After leaving nobody is there to take an order, and nothing is left to do.
        let _ = self.orders.send(order).await;
    }
}

/// What happened on the network.
enum Arrival {
    Message(NodeId, ConnectionId, Vec<u8>),
    Connected(NodeId, Connection),
    Unreachable(NodeId),
    LooksOn(NodeId, ConnectionId),
    Ended(NodeId, ConnectionId),
    Profile(NodeId, Vec<u8>),
}

/// The way to one peer.
#[derive(Default)]
struct Link {
    /// Open connections, the newest last.
    open: Vec<Open>,
    connecting: bool,
    waiting: VecDeque<Vec<u8>>,
    /// No attempt to connect before this.
    retry: Duration,
    pause: Duration,
}

/// A connection that is listened to.
struct Open {
    id: ConnectionId,
    connection: Connection,
    /// Whether the program at its other end only looks on.
    looks_on: bool,
}

impl Link {
    /// The newest connection to the program that is a member.
    fn member(&self) -> Option<&Connection> {
        let members = self.open.iter().rev().find(|open| !open.looks_on);
        members.map(|open| &open.connection)
    }

    fn by(&mut self, id: ConnectionId) -> Option<&mut Open> {
        self.open.iter_mut().find(|open| open.id == id)
    }

    /// Makes room for one more: those who look on come again.
    fn make_room(&mut self) {
        if self.open.len() >= LINKS_MAX {
            let least = self.open.iter().position(|open| open.looks_on).unwrap_or(0);
            self.open.remove(least).connection.close(Goodbye::Busy);
        }
    }
}

/// The one task that owns the lists.
struct Carrier {
    endpoint: Endpoint,
    born: Instant,
    life: Life,
    part: Part,
    address: NodeAddress,
    shared: Members,
    apart: BTreeMap<NodeId, Members>,
    known: BTreeMap<NodeId, Acquaintance>,
    links: BTreeMap<NodeId, Link>,
    links_made: u64,
    profiles: BTreeMap<NodeId, Arc<[u8]>>,
    arrivals: mpsc::Sender<Arrival>,
    arrived: mpsc::Receiver<Arrival>,
    present: watch::Sender<Arc<Vec<Present>>>,
    own_profile: watch::Receiver<Arc<[u8]>>,
    next_look: Duration,
    next_profiles: Duration,
}

impl Carrier {
    fn new(
        endpoint: Endpoint,
        life: Life,
        part: Part,
        present: watch::Sender<Arc<Vec<Present>>>,
        own_profile: watch::Receiver<Arc<[u8]>>,
    ) -> Carrier {
        let (arrivals, arrived) = mpsc::channel(QUEUE);
        let address = endpoint.address();
        let shared = list_of(&endpoint, address.clone(), life, part, Duration::ZERO);
        let mut carrier = Carrier {
            endpoint,
            born: Instant::now(),
            life,
            part,
            address,
            shared,
            apart: BTreeMap::new(),
            known: BTreeMap::new(),
            links: BTreeMap::new(),
            links_made: 0,
            profiles: BTreeMap::new(),
            arrivals,
            arrived,
            present,
            own_profile,
            next_look: LOOK_EVERY,
            next_profiles: PROFILE_EVERY,
        };
        carrier.shared.admit([]);
        carrier
    }

    async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        loop {
            self.flush();
            let wake = tokio::time::Instant::from_std(self.born + self.deadline());
            tokio::select! {
                biased;
                Some(arrival) = self.arrived.recv() => {
                    self.take(arrival);
                    for _ in 1..AT_ONCE {
                        let Ok(arrival) = self.arrived.try_recv() else { break };
                        self.take(arrival);
                    }
                }
                order = orders.recv() => match order {
                    Some(Order::Admit(known)) => self.admit(known),
                    Some(Order::Arrived(connection)) => self.adopt_arrived(connection),
                    Some(Order::Seen(node, address)) => self.seen(node, address),
                    // The last handle was dropped: nobody looks any more.
                    Some(Order::Leave) | None => return self.leave().await,
                },
                () = tokio::time::sleep_until(wake) => {}
            }
            if self.deadline() <= self.now() {
                self.wake();
            }
        }
    }

    fn now(&self) -> Duration {
        self.born.elapsed()
    }

    fn lists(&mut self) -> impl Iterator<Item = &mut Members> {
        std::iter::once(&mut self.shared).chain(self.apart.values_mut())
    }

    /// The list that `node` stands on.
    fn list(&mut self, node: NodeId) -> &mut Members {
        self.apart.get_mut(&node).unwrap_or(&mut self.shared)
    }

    fn deadline(&self) -> Duration {
        let lists = std::iter::once(&self.shared).chain(self.apart.values());
        let own = [self.next_look, self.next_profiles];
        let due = lists.filter_map(Members::deadline).chain(own);
        due.min().expect("two of them are always there")
    }

    fn wake(&mut self) {
        let now = self.now();
        self.lists()
            .filter(|list| list.deadline().is_some_and(|due| due <= now))
            .for_each(|list| list.wake(now));
        if self.next_look <= now {
            self.next_look = now + LOOK_EVERY;
            self.look();
        }
        if self.next_profiles <= now {
            self.next_profiles = now + PROFILE_EVERY;
            let linked: Vec<NodeId> = self.links.keys().copied().collect();
            linked.into_iter().for_each(|node| self.ask_profile(node));
        }
    }

    /// This machine may have come to another network since.
    fn look(&mut self) {
        let address = self.endpoint.address();
        if address != self.address {
            self.address = address.clone();
            self.lists().for_each(|list| list.moved(address.clone()));
        }
        self.show();
    }

    fn admit(&mut self, known: Vec<Acquaintance>) {
        let me = self.endpoint.node();
        let known = known.into_iter().filter(|one| one.node != me).take(MEMBERS_MAX);
        self.known = known.map(|one| (one.node, one)).collect();
        let of = |circle: Circle| {
            let known = self.known.values().filter(move |one| one.circle == circle);
            known.map(|one| (one.node, one.address.clone()))
        };
        let (shared, apart): (Vec<_>, BTreeMap<_, _>) =
            (of(Circle::Shared).collect(), of(Circle::Apart).collect());
        self.shared.admit(shared);
        self.apart.retain(|node, _| apart.contains_key(node));
        for (node, address) in apart {
            if !self.apart.contains_key(&node) {
                let mut two = self.circle_of_two();
                two.admit([(node, address)]);
                self.apart.insert(node, two);
            }
        }
        let outside: Vec<NodeId> = self
            .links
            .keys()
            .filter(|node| !self.known.contains_key(node))
            .copied()
            .collect();
        outside
            .into_iter()
            .for_each(|node| self.hang_up(node, Goodbye::NotAllowed));
        self.profiles.retain(|node, _| self.known.contains_key(node));
        self.show();
    }

    fn circle_of_two(&self) -> Members {
        let (address, now) = (self.address.clone(), self.now());
        list_of(&self.endpoint, address, self.life, self.part, now)
    }

    fn seen(&mut self, node: NodeId, address: NodeAddress) {
        let Some(known) = self.known.get_mut(&node) else {
            return;
        };
        let together = known
            .address
            .direct
            .drain(..)
            .filter(|old| !address.direct.contains(old));
        let direct = address
            .direct
            .iter()
            .copied()
            .chain(together.collect::<Vec<_>>())
            .collect();
        let relay = address.relay.or(known.address.relay.take());
        known.address = NodeAddress { direct, relay }.bounded();
        let address = known.address.clone();
        let link = self.links.entry(node).or_default();
        (link.retry, link.pause) = (Duration::ZERO, Duration::ZERO);
        self.list(node).seek(node, address);
    }

    /// Sends what is to be sent, and follows what has changed.
    fn flush(&mut self) {
        let (mut outgoing, mut events) = (Vec::new(), Vec::new());
        for list in self.lists() {
            outgoing.extend(std::iter::from_fn(|| list.transmit()));
            events.extend(std::iter::from_fn(|| list.event()));
        }
        outgoing.into_iter().for_each(|message| self.send(message));
        let changed = !events.is_empty();
        for event in events {
            match event {
                Event::Joined(node) => self.ask_profile(node),
                // A way that led to the dead leads nowhere: whoever comes back is connected to anew.
                Event::Lost(node) | Event::Left(node) => {
                    self.profiles.remove(&node);
                    self.hang_up_on_member(node);
                }
            }
        }
        if changed {
            self.show();
        }
    }

    fn send(&mut self, message: Outgoing) {
        let now = self.now();
        let Outgoing {
            to,
            by,
            address,
            bytes,
        } = message;
        let link = self.links.entry(to).or_default();
        // Whether it arrives is what the protocol finds out.
        if let Some(by) = by {
            if let Some(asked) = link.by(by) {
                asked.connection.send_datagram(bytes);
            }
            return;
        }
        if let Some(newest) = link.member() {
            newest.send_datagram(bytes);
            return;
        }
        if link.waiting.len() >= WAITING_MAX {
            link.waiting.pop_front();
        }
        link.waiting.push_back(bytes);
        if !link.connecting && link.retry <= now {
            link.connecting = true;
            self.connect(to, address);
        }
    }

    fn connect(&self, to: NodeId, address: NodeAddress) {
        let (endpoint, arrivals) = (self.endpoint.clone(), self.arrivals.clone());
        let known = self
            .known
            .get(&to)
            .map(|known| known.address.clone())
            .unwrap_or_default();
        let direct = address.direct.into_iter().chain(known.direct).collect();
        let address = NodeAddress {
            direct,
            relay: address.relay.or(known.relay),
        };
        tokio::spawn(async move {
            let connected = endpoint
                .connect(to, &address.bounded(), Protocol::Members, CONNECT_DEADLINE)
                .await;
            let arrival = match connected {
                Ok(connection) => Arrival::Connected(to, connection),
                Err(_) => Arrival::Unreachable(to),
            };
            // The task may have ended meanwhile.
            let _ = arrivals.send(arrival).await;
        });
    }

    fn take(&mut self, arrival: Arrival) {
        let now = self.now();
        match arrival {
            Arrival::Message(from, by, bytes) => self.list(from).receive(now, from, by, &bytes),
            Arrival::Connected(node, connection) => {
                self.links.entry(node).or_default().connecting = false;
                self.adopt(node, connection);
            }
            Arrival::Unreachable(node) => {
                let link = self.links.entry(node).or_default();
                link.pause = (link.pause * 2).clamp(PAUSE_MIN, PAUSE_MAX);
                (link.connecting, link.retry) = (false, now + link.pause);
                link.waiting.clear();
            }
            Arrival::LooksOn(node, id) => {
                if let Some(open) = self.links.get_mut(&node).and_then(|link| link.by(id)) {
                    open.looks_on = true;
                }
            }
            Arrival::Ended(node, id) => {
                if let Some(link) = self.links.get_mut(&node) {
                    link.open.retain(|open| open.id != id);
                }
            }
            Arrival::Profile(node, bytes) => {
                let news = self.profiles.get(&node).is_none_or(|old| **old != *bytes);
                if news && self.known.contains_key(&node) {
                    self.profiles.insert(node, bytes.into());
                    self.show();
                }
            }
        }
    }

    fn adopt_arrived(&mut self, connection: Connection) {
        let node = connection.peer();
        if !self.known.contains_key(&node) {
            return connection.close(Goodbye::NotAllowed);
        }
        self.adopt(node, connection);
    }

    /// Listens to a connection, and speaks over it from now on.
    fn adopt(&mut self, node: NodeId, connection: Connection) {
        if !self.known.contains_key(&node) {
            return connection.close(Goodbye::NotAllowed);
        }
        self.links_made += 1;
        let id = ConnectionId(self.links_made);
        let link = self.links.entry(node).or_default();
        link.make_room();
        link.pause = Duration::ZERO;
        for bytes in link.waiting.drain(..) {
            connection.send_datagram(bytes);
        }
        link.open.push(Open {
            id,
            connection: connection.clone(),
            looks_on: false,
        });
        if self.part == Part::Onlooker {
            tokio::spawn(say_looks_on(connection.clone()));
        }
        tokio::spawn(listen(node, id, connection.clone(), self.arrivals.clone()));
        let (arrivals, own) = (self.arrivals.clone(), self.own_profile.clone());
        tokio::spawn(answer_streams(node, id, connection, arrivals, own));
        self.ask_profile(node);
    }

    fn hang_up(&mut self, node: NodeId, goodbye: Goodbye) {
        for open in self.links.remove(&node).into_iter().flat_map(|link| link.open) {
            open.connection.close(goodbye);
        }
    }

    /// Ends the connections to the program that was a member; those who look on beside it stay.
    fn hang_up_on_member(&mut self, node: NodeId) {
        let Some(mut link) = self.links.remove(&node) else {
            return;
        };
        let (onlookers, member): (Vec<_>, Vec<_>) = link.open.drain(..).partition(|open| open.looks_on);
        member
            .iter()
            .for_each(|open| open.connection.close(Goodbye::Done));
        if !onlookers.is_empty() {
            link.open = onlookers;
            self.links.insert(node, link);
        }
    }

    fn ask_profile(&self, node: NodeId) {
        let Some(connection) = self.links.get(&node).and_then(Link::member) else {
            return;
        };
        let (connection, arrivals) = (connection.clone(), self.arrivals.clone());
        tokio::spawn(async move {
            let asked = tokio::time::timeout(PROFILE_DEADLINE, profile_of(&connection));
            if let Ok(Some(profile)) = asked.await {
                // The task may have ended meanwhile.
                let _ = arrivals.send(Arrival::Profile(node, profile)).await;
            }
        });
    }

    /// Tells whoever looks who is there now.
    fn show(&self) {
        let lists = std::iter::once(&self.shared).chain(self.apart.values());
        let mut present: Vec<Present> = lists.flat_map(|list| self.present_on(list)).collect();
        present.sort_unstable_by_key(|one| one.node);
        self.present.send_if_modified(|shown| {
            let news = **shown != present;
            if news {
                *shown = Arc::new(present);
            }
            news
        });
    }

    fn present_on(&self, list: &Members) -> Vec<Present> {
        let present = |(node, address): (NodeId, &NodeAddress)| Present {
            node,
            address: address.clone(),
            standing: match list.suspected(node) {
                true => Standing::Suspect,
                false => Standing::Here,
            },
            round_trip: list.round_trip(node),
            way: self.links.get(&node).and_then(|link| link.member()?.way()),
            profile: self.profiles.get(&node).cloned(),
        };
        list.members().map(present).collect()
    }

    async fn leave(mut self) {
        self.lists().for_each(Members::leave);
        self.flush();
        // A datagram leaves when its connection is polled next; closing at once would swallow it.
        tokio::time::sleep(FAREWELL).await;
        let links: Vec<NodeId> = self.links.keys().copied().collect();
        links
            .into_iter()
            .for_each(|node| self.hang_up(node, Goodbye::Done));
        self.present.send_replace(Arc::default());
    }
}

/// How long the last messages have to leave the socket.
const FAREWELL: Duration = Duration::from_millis(50);

/// What one machine knows of a circle at first: nobody.
fn list_of(endpoint: &Endpoint, address: NodeAddress, life: Life, part: Part, now: Duration) -> Members {
    let Life { incarnation, seed } = life;
    let list = Members::new(endpoint.node(), address, incarnation, seed, now);
    match part {
        Part::Member => list,
        Part::Onlooker => list.looking_on(),
    }
}

async fn listen(node: NodeId, id: ConnectionId, connection: Connection, arrivals: mpsc::Sender<Arrival>) {
    while let Ok(bytes) = connection.datagram().await {
        if arrivals.send(Arrival::Message(node, id, bytes)).await.is_err() {
            return;
        }
    }
    // The task may have ended meanwhile.
    let _ = arrivals.send(Arrival::Ended(node, id)).await;
}

/// Answers a peer's questions one after another, until it leaves, and hears whether it only looks on.
async fn answer_streams(
    node: NodeId,
    id: ConnectionId,
    connection: Connection,
    arrivals: mpsc::Sender<Arrival>,
    own: watch::Receiver<Arc<[u8]>>,
) {
    while let Ok(mut stream) = connection.accept().await {
        let answer = async {
            match stream.read_all(1).await.ok()?[..] {
                [ASK_PROFILE] => {
                    let profile = own.borrow().clone();
                    stream.write(&profile).await.ok()?;
                    stream.finish();
                }
                [LOOKS_ON] => arrivals.send(Arrival::LooksOn(node, id)).await.ok()?,
                // A later version says more.
                _ => {}
            }
            Some(())
        };
        // A question that fails costs the peer that question.
        let _ = tokio::time::timeout(PROFILE_DEADLINE, answer).await;
    }
}

/// Says that this program is no member. A peer of a version that does not know it sends here what was for the member,
/// too.
async fn say_looks_on(connection: Connection) {
    if let Ok(mut stream) = connection.open().await {
        // A connection that ends meanwhile is said it anew by its successor.
        let _ = stream.write(&[LOOKS_ON]).await;
        stream.finish();
    }
}

async fn profile_of(connection: &Connection) -> Option<Vec<u8>> {
    let mut stream = connection.open().await.ok()?;
    stream.write(&[ASK_PROFILE]).await.ok()?;
    stream.finish();
    let profile = stream.read_all(PROFILE_BYTES_MAX).await.ok()?;
    (!profile.is_empty()).then_some(profile)
}
