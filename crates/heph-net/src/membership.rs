//! Who is there: a failure detector in the manner of SWIM, without IO. Time and messages go in, messages and events come
//! out.
//!
//! A list is kept within a circle: the nodes that its owner admits. Nothing is heard from or about anybody else, and
//! nothing is told to them, so one circle never learns of another.
//!
//! Every node pings its next [`WATCHED`] neighbours on a ring of ids, and [`IN_TURN`] of the others in turn: two nodes
//! whom nobody else admits watch each other too. A neighbour that does not answer is asked through others, then suspected; the suspicion is told to everybody and to itself, and a living node refutes it by raising its
//! incarnation. Only a suspicion that nobody refuted makes a node lost. News is told at once and repeated on later
//! messages; a digest compared with a random member every [`COMPARE_EVERY`] repairs what was lost all the same.
//!
//! Of several programs with one identity one is a member. The others [look on](Members::looking_on): they watch and say
//! nothing of themselves, and each is answered by the connection that it asked by.

mod message;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use heph_types::NodeId;

use crate::address::NodeAddress;
use message::{Kind, Message};
pub use message::{Rumour, State};

/// Nodes that one list holds; more are not taken in.
pub const MEMBERS_MAX: usize = 256;

/// Neighbours that a node watches. With six, a dead one's first missed ping comes 70 ms after its death on average.
pub const WATCHED: usize = 6;

/// Nodes beyond the neighbours that are pinged at once. Up to 32 others everybody pings everybody; beyond that each is
/// reached after so many others, and whoever has it as a neighbour is faster.
pub const IN_TURN: usize = 26;

/// How often neighbours are pinged.
pub const PING_EVERY: Duration = Duration::from_millis(500);

/// How long a suspicion may be refuted: five round trips of 300 ms. With a first missed ping after 70 ms on average, a
/// wait of about 400 ms and two of 40 % of that before, a dead node is noticed within 3 s.
pub const SUSPECT_FOR: Duration = Duration::from_millis(1_600);

/// How often a random member's list is compared with one's own.
pub const COMPARE_EVERY: Duration = Duration::from_secs(2);

/// How long it is remembered that a node is gone, so that late news does not bring it back.
const GONE_FOR: Duration = Duration::from_secs(60);

/// Pings to a suspect, so that one lost packet does not decide.
const SUSPECT_PING_EVERY: Duration = Duration::from_millis(200);

/// The wait for a first answer, at least and at most; between them it follows the measured round trip.
const WAIT_MIN: Duration = Duration::from_millis(200);
const WAIT_MAX: Duration = Duration::from_millis(700);

/// The wait for the answer of a node that was never heard before: a way to it may have to be found first, at a round trip
/// of 300 ms and with a packet lost on the way.
const WAIT_FIRST: Duration = Duration::from_millis(2_500);

/// A wake-up that is later than this says that this machine was busy or asleep: the time is not held against others.
const LATE: Duration = Duration::from_millis(100);

/// Others that are asked to ping a silent neighbour.
const HELPERS: usize = 3;

/// Members that hear news from whoever has it first hand, at once.
const TOLD_AT_ONCE: usize = 64;

/// Members that hear news from whoever has it second hand.
const TOLD_ON: usize = 3;

/// Messages that repeat a piece of news after it was told.
const REPEATS: u32 = 12;

/// Pieces of news that are repeated at once; the oldest make room.
const NEWS_MAX: usize = 128;

/// Messages that wait to be sent; the oldest are dropped, as a network would.
const OUTGOING_MAX: usize = 4_096;

/// Events that wait for the caller; the oldest are dropped, and [`Members::members`] stays right.
const EVENTS_MAX: usize = 1_024;

/// Pings that are carried out for others and not yet answered; the oldest make room.
const ERRANDS_MAX: usize = 256;

/// Contacts that are asked at once by a node that knows nobody.
const ASKED_AT_ONCE: usize = 16;

/// What changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A node is there.
    Joined(NodeId),
    /// A node said goodbye.
    Left(NodeId),
    /// A node is dead, or cut off.
    Lost(NodeId),
}

/// A connection of a peer, as whoever carries numbers them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

/// A message to send. It may be lost; it fits a datagram.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// To whom.
    pub to: NodeId,
    /// Which of its programs asked; `None` is for the one that is a member.
    pub by: Option<ConnectionId>,
    /// Where that is, as far as known here.
    pub address: NodeAddress,
    /// What.
    pub bytes: Vec<u8>,
}

/// One node's view of who is there.
#[derive(Debug)]
pub struct Members {
    me: NodeId,
    address: NodeAddress,
    incarnation: u64,
    members: BTreeMap<NodeId, Member>,
    gone: BTreeMap<NodeId, Gone>,
    contacts: BTreeMap<NodeId, NodeAddress>,
    /// Who else is listened to; `None` is everybody.
    circle: Option<BTreeSet<NodeId>>,
    /// Where among the nodes that are not neighbours the next turn begins.
    turn: usize,
    news: VecDeque<(Rumour, u32)>,
    errands: VecDeque<Errand>,
    outgoing: VecDeque<Outgoing>,
    events: VecDeque<Event>,
    next_ping: Duration,
    next_compare: Duration,
    number: u64,
    random: u64,
    here: bool,
    /// The peer whose message is being taken, and how it came: what is said to it meanwhile goes back there.
    taking: Option<(NodeId, ConnectionId)>,
    /// Whether it only looks on, and then what the others take its identity for.
    looks_on: Option<Stands>,
}

/// Whether another program of one's own identity is a member, and in which of its lives.
type Stands = Option<u64>;

#[derive(Debug)]
struct Member {
    incarnation: u64,
    address: NodeAddress,
    suspect: Option<Suspicion>,
    probe: Option<Probe>,
    round_trip: Option<RoundTrip>,
    /// Whether it spoke itself: then there is a way to it.
    heard: bool,
}

#[derive(Debug)]
struct Suspicion {
    until: Duration,
    next_ping: Duration,
}

/// A neighbour that was pinged and has not answered.
#[derive(Debug)]
struct Probe {
    number: u64,
    sent: Duration,
    due: Duration,
    missed: u32,
}

#[derive(Debug, Clone, Copy)]
struct RoundTrip {
    mean: Duration,
    spread: Duration,
}

#[derive(Debug)]
struct Gone {
    incarnation: u64,
    state: State,
    forget: Duration,
}

/// A ping on behalf of `asker`, who gave it `theirs` as its number.
#[derive(Debug)]
struct Errand {
    mine: u64,
    asker: NodeId,
    by: ConnectionId,
    theirs: u64,
}

impl Members {
    /// A node that knows nobody. `incarnation` must be higher than in every earlier life of this node: the milliseconds
    /// since 1970 will do. `seed` spreads what nodes do over time and over each other.
    pub fn new(me: NodeId, address: NodeAddress, incarnation: u64, seed: u64, now: Duration) -> Members {
        let mut members = Members {
            me,
            address: address.bounded(),
            incarnation,
            members: BTreeMap::new(),
            gone: BTreeMap::new(),
            contacts: BTreeMap::new(),
            circle: None,
            turn: 0,
            news: VecDeque::new(),
            errands: VecDeque::new(),
            outgoing: VecDeque::new(),
            events: VecDeque::new(),
            next_ping: now,
            next_compare: now,
            number: 0,
            random: seed,
            here: true,
            taking: None,
            looks_on: None,
        };
        let (ping, compare) = (members.fraction(), members.fraction());
        members.next_ping += PING_EVERY.mul_f64(ping);
        members.next_compare += COMPARE_EVERY.mul_f64(compare);
        members
    }

    /// Watches the others and is no member: it says nothing of itself, and nobody misses it.
    pub fn looking_on(mut self) -> Members {
        self.looks_on = Some(None);
        self
    }

    /// Asks these for the list, now and, one after another, whenever they are not on it.
    pub fn join(&mut self, contacts: impl IntoIterator<Item = (NodeId, NodeAddress)>) {
        let others = contacts.into_iter().filter(|(node, _)| *node != self.me);
        self.contacts = others.take(MEMBERS_MAX).collect();
        self.ask_contacts(ASKED_AT_ONCE);
    }

    /// Makes these the circle, and joins by them: nobody else is heard, heard of or told anything from now on.
    pub fn admit(&mut self, circle: impl IntoIterator<Item = (NodeId, NodeAddress)>) {
        let circle: BTreeMap<NodeId, NodeAddress> = circle.into_iter().take(MEMBERS_MAX).collect();
        let outside: Vec<NodeId> = self
            .members
            .keys()
            .copied()
            .filter(|node| !circle.contains_key(node))
            .collect();
        for node in outside {
            self.members.remove(&node);
            self.tell_caller(Event::Left(node));
        }
        self.gone.retain(|node, _| circle.contains_key(node));
        self.news
            .retain(|(rumour, _)| circle.contains_key(&rumour.node) || rumour.node == self.me);
        self.circle = Some(circle.keys().copied().collect());
        self.join(circle);
    }

    /// A contact was seen at this address: it is asked at once if it is not on the list.
    pub fn seek(&mut self, node: NodeId, address: NodeAddress) {
        let wanted = node != self.me && self.admits(node) && !self.members.contains_key(&node);
        if wanted && (self.contacts.contains_key(&node) || self.contacts.len() < MEMBERS_MAX) {
            self.contacts.insert(node, address.clone());
            self.ask(node, address);
        }
    }

    /// This node is reached at another address from now on. Told to everybody.
    pub fn moved(&mut self, address: NodeAddress) {
        let address = address.bounded();
        if address != self.address {
            self.address = address;
            self.raise(self.incarnation);
            self.tell_of_myself();
        }
    }

    /// Says goodbye to everybody. Nothing is sent or believed afterwards.
    pub fn leave(&mut self) {
        if let Some(mine) = self.myself() {
            let goodbye = Rumour {
                state: State::Left,
                ..mine
            };
            let all: Vec<NodeId> = self.members.keys().copied().collect();
            for node in all {
                self.send_rumours(node, Kind::Tell, vec![goodbye.clone()]);
            }
        }
        self.here = false;
    }

    /// Everybody who is there, without this node; suspects are there until they are lost.
    pub fn members(&self) -> impl Iterator<Item = (NodeId, &NodeAddress)> {
        self.members.iter().map(|(node, member)| (*node, &member.address))
    }

    /// Whether `node` has stopped answering and has not been given up yet: nothing new should be asked of it.
    pub fn suspected(&self, node: NodeId) -> bool {
        self.members
            .get(&node)
            .is_some_and(|member| member.suspect.is_some())
    }

    /// The measured time to `node` and back; `None` for nodes that others watch.
    pub fn round_trip(&self, node: NodeId) -> Option<Duration> {
        Some(self.members.get(&node)?.round_trip?.mean)
    }

    /// The next message to send.
    pub fn transmit(&mut self) -> Option<Outgoing> {
        self.outgoing.pop_front()
    }

    /// The next change.
    pub fn event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When [`Members::wake`] is to be called next; `None` after leaving.
    pub fn deadline(&self) -> Option<Duration> {
        let timers = self.members.values().flat_map(|member| {
            let probe = member.probe.as_ref().map(|probe| probe.due);
            let suspect = member
                .suspect
                .as_ref()
                .map(|suspicion| suspicion.until.min(suspicion.next_ping));
            probe.into_iter().chain(suspect)
        });
        let own = [self.next_ping, self.next_compare];
        timers.chain(own).min().filter(|_| self.here)
    }

    /// Does what is due.
    pub fn wake(&mut self, now: Duration) {
        if !self.here {
            return;
        }
        let late = self
            .deadline()
            .map_or(Duration::ZERO, |due| now.saturating_sub(due));
        if late > LATE {
            self.bear(late);
        }
        self.gone.retain(|_, gone| gone.forget > now);
        if self.next_ping <= now {
            self.next_ping = now + PING_EVERY;
            self.ping_neighbours(now);
        }
        if self.next_compare <= now {
            self.next_compare = now + COMPARE_EVERY;
            self.compare();
        }
        let due = |at: Duration| at <= now;
        let silent: Vec<NodeId> = self.of(|member| member.probe.as_ref().is_some_and(|probe| due(probe.due)));
        for node in silent {
            self.answer_missed(now, node);
        }
        let suspects: Vec<NodeId> = self.of(|member| member.suspect.as_ref().is_some_and(|s| due(s.until)));
        for node in suspects {
            self.lose(now, node);
        }
        let pinged: Vec<NodeId> = self.of(|member| member.suspect.as_ref().is_some_and(|s| due(s.next_ping)));
        for node in pinged {
            self.ping_suspect(now, node);
        }
    }

    /// Takes a message that `from` has proven to have sent, by one of its connections. What is no message is ignored.
    pub fn receive(&mut self, now: Duration, from: NodeId, by: ConnectionId, bytes: &[u8]) {
        self.taking = Some((from, by));
        self.take(now, from, by, bytes);
        self.taking = None;
    }

    fn take(&mut self, now: Duration, from: NodeId, by: ConnectionId, bytes: &[u8]) {
        if !self.here || from == self.me || !self.admits(from) {
            return;
        }
        let Some(message) = Message::decode(bytes) else {
            return;
        };
        for rumour in message.rumours {
            self.hear(now, rumour);
        }
        if let Some(member) = self.members.get_mut(&from) {
            member.heard = true;
        }
        match message.kind {
            Kind::Tell => {}
            Kind::Ping { number } => self.answer_ping(from, number),
            Kind::Answer { number } => self.take_answer(now, from, number),
            Kind::PingFor { number, target } => self.run_errand(from, by, number, target),
            Kind::Compare { digest } if digest == self.digest() => {}
            Kind::Compare { .. } => {
                self.send_list(from, Kind::Tell);
                self.send_rumours(from, Kind::Ask, Vec::new());
            }
            Kind::Ask => self.send_list(from, Kind::Tell),
        }
    }

    /// The ids of those for whom `which` holds.
    fn of(&self, which: impl Fn(&Member) -> bool) -> Vec<NodeId> {
        self.members
            .iter()
            .filter(|(_, member)| which(member))
            .map(|(node, _)| *node)
            .collect()
    }

    /// Lives on under a higher incarnation than `said`. The highest number is no incarnation on the wire.
    fn raise(&mut self, said: u64) {
        self.incarnation = said.saturating_add(1).min(u64::MAX - 1);
    }

    fn admits(&self, node: NodeId) -> bool {
        self.circle.as_ref().is_none_or(|circle| circle.contains(&node))
    }

    /// Moves every wait for others by the time that this machine itself was away.
    fn bear(&mut self, late: Duration) {
        for member in self.members.values_mut() {
            if let Some(probe) = &mut member.probe {
                probe.due += late;
            }
            if let Some(suspicion) = &mut member.suspect {
                suspicion.until += late;
            }
        }
    }

    /// Asks some of the contacts that are not on the list, chosen by lot.
    fn ask_contacts(&mut self, count: usize) {
        let missing = self
            .contacts
            .iter()
            .filter(|(node, _)| !self.members.contains_key(node));
        let mut missing: Vec<(NodeId, NodeAddress)> = missing.map(|(node, at)| (*node, at.clone())).collect();
        self.draw(&mut missing, count);
        for (node, address) in missing {
            self.ask(node, address);
        }
    }

    fn ask(&mut self, node: NodeId, address: NodeAddress) {
        for kind in [Kind::Tell, Kind::Ask] {
            let rumours = self.myself().into_iter().collect();
            let bytes = Message { kind, rumours }.encode();
            self.push(Outgoing {
                to: node,
                by: None,
                address: address.clone(),
                bytes,
            });
        }
    }

    fn ping_neighbours(&mut self, now: Duration) {
        if self.members.is_empty() {
            self.ask_contacts(ASKED_AT_ONCE);
        }
        for node in self.watched() {
            self.ping(now, node);
        }
    }

    fn ping(&mut self, now: Duration, node: NodeId) {
        let number = self.next_number();
        let member = self.members.get_mut(&node).expect("taken from the list");
        if member.probe.is_some() || member.suspect.is_some() {
            return;
        }
        member.probe = Some(Probe {
            number,
            sent: now,
            due: now + member.wait(),
            missed: 0,
        });
        self.send(node, Kind::Ping { number });
    }

    /// The next neighbours on the ring, and the others in turn.
    fn watched(&mut self) -> Vec<NodeId> {
        let after = self.members.range(self.me..).map(|(node, _)| *node);
        let around = self.members.range(..self.me).map(|(node, _)| *node);
        let ring: Vec<NodeId> = after.chain(around).collect();
        let (near, others) = ring.split_at(WATCHED.min(ring.len()));
        let count = IN_TURN.min(others.len());
        let turn = others.iter().cycle().skip(self.turn).take(count);
        let watched = near.iter().chain(turn).copied().collect();
        self.turn = (self.turn + count).checked_rem(others.len()).unwrap_or(0);
        watched
    }

    /// First the neighbour is asked again and through others, then again, then it is suspected.
    fn answer_missed(&mut self, now: Duration, node: NodeId) {
        let Some(member) = self.members.get_mut(&node) else {
            return;
        };
        let wait = member.wait().mul_f64(0.4);
        let Some(probe) = &mut member.probe else { return };
        probe.missed += 1;
        probe.due = now + wait;
        let (number, missed) = (probe.number, probe.missed);
        match missed {
            1 => {
                self.send(node, Kind::Ping { number });
                for helper in self.some_members(HELPERS, node) {
                    self.send(helper, Kind::PingFor { number, target: node });
                }
            }
            2 => self.send(node, Kind::Ping { number }),
            _ => {
                let incarnation = member.incarnation;
                self.suspect(
                    now,
                    Rumour {
                        node,
                        incarnation,
                        state: State::Suspect,
                    },
                    TOLD_AT_ONCE,
                );
            }
        }
    }

    fn suspect(&mut self, now: Duration, rumour: Rumour, told: usize) {
        let Some(member) = self.members.get_mut(&rumour.node) else {
            return;
        };
        member.suspect = Some(Suspicion {
            until: now + SUSPECT_FOR,
            next_ping: now,
        });
        let node = rumour.node;
        self.tell(rumour, told);
        self.ping_suspect(now, node);
    }

    /// The suspect itself must hear of it: a living one refutes.
    fn ping_suspect(&mut self, now: Duration, node: NodeId) {
        let number = self.next_number();
        let Some(member) = self.members.get_mut(&node) else {
            return;
        };
        let Some(suspicion) = &mut member.suspect else {
            return;
        };
        suspicion.next_ping = now + SUSPECT_PING_EVERY;
        let due = suspicion.until + PING_EVERY;
        let probe = member.probe.get_or_insert(Probe {
            number,
            sent: now,
            due,
            missed: u32::MAX / 2,
        });
        probe.due = due;
        let number = probe.number;
        let rumour = Rumour {
            node,
            incarnation: member.incarnation,
            state: State::Suspect,
        };
        self.send_rumours(node, Kind::Ping { number }, vec![rumour]);
    }

    fn lose(&mut self, now: Duration, node: NodeId) {
        let Some(member) = self.members.get(&node) else {
            return;
        };
        let rumour = Rumour {
            node,
            incarnation: member.incarnation,
            state: State::Dead,
        };
        self.remove(now, rumour, TOLD_AT_ONCE);
    }

    fn remove(&mut self, now: Duration, rumour: Rumour, told: usize) {
        let Rumour {
            node,
            incarnation,
            ref state,
        } = rumour;
        let event = match state {
            State::Left => Event::Left(node),
            _ => Event::Lost(node),
        };
        if self.gone.len() >= MEMBERS_MAX {
            let oldest = self
                .gone
                .iter()
                .min_by_key(|(_, gone)| gone.forget)
                .map(|(node, _)| *node);
            oldest.map(|node| self.gone.remove(&node));
        }
        self.gone.insert(
            node,
            Gone {
                incarnation,
                state: state.clone(),
                forget: now + GONE_FOR,
            },
        );
        if self.members.remove(&node).is_some() {
            self.tell_caller(event);
        }
        self.tell(rumour, told);
    }

    fn answer_ping(&mut self, from: NodeId, number: u64) {
        // Whoever is taken for gone hears so, and comes back with a higher incarnation.
        let gone = self.gone.get(&from).map(|gone| Rumour {
            node: from,
            incarnation: gone.incarnation,
            state: gone.state.clone(),
        });
        self.send_rumours(from, Kind::Answer { number }, gone.into_iter().collect());
    }

    fn take_answer(&mut self, now: Duration, from: NodeId, number: u64) {
        if let Some(at) = self.errands.iter().position(|errand| errand.mine == number) {
            let errand = self.errands.remove(at).expect("found there");
            let bytes = Message {
                kind: Kind::Answer {
                    number: errand.theirs,
                },
                rumours: Vec::new(),
            }
            .encode();
            let address = self.address_of(errand.asker);
            return self.push(Outgoing {
                to: errand.asker,
                by: Some(errand.by),
                address,
                bytes,
            });
        }
        // An answer counts for whoever was asked, whoever brings it.
        let asked = self.of(|member| member.probe.as_ref().is_some_and(|probe| probe.number == number));
        let Some(member) = asked.first().and_then(|node| self.members.get_mut(node)) else {
            return;
        };
        if let Some(probe) = member.probe.take()
            && probe.missed == 0
            && asked.first() == Some(&from)
        {
            member.round_trip = Some(RoundTrip::with(member.round_trip, now.saturating_sub(probe.sent)));
        }
        member.suspect = None;
    }

    fn run_errand(&mut self, asker: NodeId, by: ConnectionId, theirs: u64, target: NodeId) {
        if !self.members.contains_key(&target) {
            return;
        }
        let mine = self.next_number();
        if self.errands.len() >= ERRANDS_MAX {
            self.errands.pop_front();
        }
        self.errands.push_back(Errand {
            mine,
            asker,
            by,
            theirs,
        });
        self.send(target, Kind::Ping { number: mine });
    }

    /// Believes a rumour if it is news: a higher incarnation, or the same one in a worse state.
    fn hear(&mut self, now: Duration, rumour: Rumour) {
        if rumour.node == self.me {
            return self.refute(&rumour);
        }
        if !self.admits(rumour.node) {
            return;
        }
        if self
            .gone
            .get(&rumour.node)
            .is_some_and(|gone| gone.incarnation >= rumour.incarnation)
        {
            return;
        }
        let known = self.members.get_mut(&rumour.node);
        match (&rumour.state, known) {
            (State::Alive(address), Some(member)) => {
                if rumour.incarnation > member.incarnation {
                    member.incarnation = rumour.incarnation;
                    member.address = address.clone();
                    member.suspect = None;
                    member.probe = None;
                    self.tell(rumour, TOLD_ON);
                }
            }
            (State::Alive(address), None) => {
                if self.members.len() >= MEMBERS_MAX {
                    return;
                }
                let (node, incarnation, address) = (rumour.node, rumour.incarnation, address.clone());
                let member = Member {
                    incarnation,
                    address,
                    suspect: None,
                    probe: None,
                    round_trip: None,
                    heard: false,
                };
                self.members.insert(node, member);
                self.gone.remove(&node);
                self.tell_caller(Event::Joined(node));
                self.tell(rumour, TOLD_ON);
                if self.members.len() <= WATCHED + IN_TURN {
                    self.ping(now, node);
                }
            }
            (State::Suspect, Some(member)) => {
                let news = rumour.incarnation > member.incarnation
                    || (rumour.incarnation == member.incarnation && member.suspect.is_none());
                if news && rumour.incarnation >= member.incarnation {
                    member.incarnation = rumour.incarnation;
                    self.suspect(now, rumour, TOLD_ON);
                }
            }
            (State::Suspect, None) => {}
            (State::Dead | State::Left, Some(member)) => {
                if rumour.incarnation >= member.incarnation {
                    self.remove(now, rumour, TOLD_ON);
                }
            }
            (State::Dead | State::Left, None) => self.remove(now, rumour, TOLD_ON),
        }
    }

    /// A rumour about this node that is not the truth: it lives, and says so with a higher incarnation. Whoever only
    /// looks on hears of the program that is a member, which speaks for itself.
    fn refute(&mut self, rumour: &Rumour) {
        if let Some(stands) = &mut self.looks_on {
            if stands.is_none_or(|life| life <= rumour.incarnation) {
                let is_there = matches!(rumour.state, State::Alive(_) | State::Suspect);
                *stands = is_there.then_some(rumour.incarnation);
            }
            return;
        }
        let untrue = !matches!(rumour.state, State::Alive(_)) && rumour.incarnation >= self.incarnation;
        if untrue || rumour.incarnation > self.incarnation {
            self.raise(rumour.incarnation);
            self.tell_of_myself();
        }
    }

    /// That it is there, where it is a member.
    fn myself(&self) -> Option<Rumour> {
        let mine = Rumour {
            node: self.me,
            incarnation: self.incarnation,
            state: State::Alive(self.address.clone()),
        };
        self.looks_on.is_none().then_some(mine)
    }

    fn tell_of_myself(&mut self) {
        if let Some(mine) = self.myself() {
            self.tell(mine, TOLD_AT_ONCE);
        }
    }

    /// Tells news to `told` members now, and repeats it on later messages.
    fn tell(&mut self, rumour: Rumour, told: usize) {
        for node in self.some_members(told, rumour.node) {
            self.send_rumours(node, Kind::Tell, vec![rumour.clone()]);
        }
        self.news.retain(|(old, _)| old.node != rumour.node);
        if self.news.len() >= NEWS_MAX {
            self.news.pop_front();
        }
        self.news.push_back((rumour, REPEATS));
    }

    fn compare(&mut self) {
        self.ask_contacts(1);
        let digest = self.digest();
        for node in self.some_members(1, self.me) {
            self.send(node, Kind::Compare { digest });
        }
    }

    /// The same for two nodes that know of the same others, in the same incarnations.
    fn digest(&self) -> u64 {
        let others = self
            .members
            .iter()
            .map(|(node, member)| (*node, member.incarnation));
        let own = self.looks_on.unwrap_or(Some(self.incarnation));
        others
            .chain(own.map(|incarnation| (self.me, incarnation)))
            .fold(0, |sum, (node, incarnation)| {
                let hash = blake3::hash(&[&node.0[..], &incarnation.to_le_bytes()].concat());
                sum ^ u64::from_le_bytes(*hash.as_bytes().first_chunk().expect("a hash has more bytes"))
            })
    }

    /// Everything that is known, in as many messages as it takes.
    fn send_list(&mut self, to: NodeId, kind: Kind) {
        let alive = self.members.iter().map(|(node, member)| Rumour {
            node: *node,
            incarnation: member.incarnation,
            state: match member.suspect {
                Some(_) => State::Suspect,
                None => State::Alive(member.address.clone()),
            },
        });
        let gone = self.gone.iter().map(|(node, gone)| Rumour {
            node: *node,
            incarnation: gone.incarnation,
            state: gone.state.clone(),
        });
        let mut list: Vec<Rumour> = alive.chain(gone).chain(self.myself()).collect();
        while !list.is_empty() {
            let message = Message {
                kind: kind.clone(),
                rumours: list,
            };
            let (bytes, said) = message.encode_what_fits();
            list = message.rumours;
            list.drain(..said.max(1));
            self.push_to(to, bytes);
        }
    }

    fn send(&mut self, to: NodeId, kind: Kind) {
        self.send_rumours(to, kind, Vec::new());
    }

    /// Sends `first`, and what else is new as far as it fits.
    fn send_rumours(&mut self, to: NodeId, kind: Kind, first: Vec<Rumour>) {
        let own = first.len();
        let news = self.news.iter().rev().map(|(rumour, _)| rumour.clone());
        let rumours = first.into_iter().chain(news.take(message::RUMOURS_MAX)).collect();
        let (bytes, said) = Message { kind, rumours }.encode_what_fits();
        let repeated = said.saturating_sub(own);
        for (_, left) in self.news.iter_mut().rev().take(repeated) {
            *left -= 1;
        }
        self.news.retain(|(_, left)| *left > 0);
        self.push_to(to, bytes);
    }

    fn push_to(&mut self, to: NodeId, bytes: Vec<u8>) {
        let answers = self.taking.filter(|(from, _)| *from == to);
        self.push(Outgoing {
            to,
            by: answers.map(|(_, by)| by),
            address: self.address_of(to),
            bytes,
        });
    }

    fn push(&mut self, outgoing: Outgoing) {
        if self.outgoing.len() >= OUTGOING_MAX {
            self.outgoing.pop_front();
        }
        self.outgoing.push_back(outgoing);
    }

    fn tell_caller(&mut self, event: Event) {
        if self.events.len() >= EVENTS_MAX {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    fn address_of(&self, node: NodeId) -> NodeAddress {
        let member = self.members.get(&node).map(|member| &member.address);
        member
            .or_else(|| self.contacts.get(&node))
            .cloned()
            .unwrap_or_default()
    }

    /// At most `count` members, chosen by lot, without `but`.
    fn some_members(&mut self, count: usize, but: NodeId) -> Vec<NodeId> {
        let mut all: Vec<NodeId> = self.members.keys().copied().filter(|node| *node != but).collect();
        self.draw(&mut all, count);
        all
    }

    /// Leaves at most `count` of `all`, chosen by lot.
    fn draw<T>(&mut self, all: &mut Vec<T>, count: usize) {
        let count = count.min(all.len());
        for at in 0..count {
            let left = (all.len() - at) as f64;
            let other = at + ((self.fraction() * left) as usize).min(all.len() - at - 1);
            all.swap(at, other);
        }
        all.truncate(count);
    }

    fn next_number(&mut self) -> u64 {
        self.number += 1;
        self.number
    }

    /// Between 0 and 1, by splitmix64.
    fn fraction(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

impl Member {
    /// How long an answer may take.
    fn wait(&self) -> Duration {
        match self.round_trip {
            Some(trip) => (trip.mean + trip.spread * 4 + Duration::from_millis(50)).clamp(WAIT_MIN, WAIT_MAX),
            None if self.heard => WAIT_MAX,
            None => WAIT_FIRST,
        }
    }
}

impl RoundTrip {
    /// Smoothed as TCP does (RFC 6298).
    fn with(old: Option<RoundTrip>, measured: Duration) -> RoundTrip {
        match old {
            None => RoundTrip {
                mean: measured,
                spread: measured / 2,
            },
            Some(RoundTrip { mean, spread }) => RoundTrip {
                spread: (spread * 3 + mean.abs_diff(measured)) / 4,
                mean: (mean * 7 + measured) / 8,
            },
        }
    }
}

#[cfg(test)]
mod tests;
