//! A seat at a peer: orders go into its stream, replies come out of it, and a bell says when.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use heph_net::drive::{self, Commands, Conversation, DriveError};
use heph_net::session::{
    BUSY_MAX, Codecs, DeskCommand, DeskEnd, DeskEvent, LOST_AFTER, OPEN_DEADLINE, SessionError,
};
use heph_net::wire::{Farewell, FaultCode, JoinFrame, Line, VouchedFrame};
use heph_privacy::{Clearance, Grounds};
use heph_types::{
    CachePart, LayerRange, NodeId, NodeProfile, Order, Position, Reply, SamplingOptions, SessionId, StageSpec,
};
use tokio::task::AbortHandle;
use tokio::time::{timeout, timeout_at};

use super::link::{Found, Link};
use super::{AGAIN_DEADLINE, CONNECT_DEADLINE, Formats, Probe, ended, held};
use crate::codecs::{Carriage, GOODPUT_USUAL};
use crate::network::Network;
use crate::seat::{Bell, Hop, HopState, ORDERS_MAX, Refusal, Seat, SeatError, Tally, Traffic, Vouched};

/// The one session of a seat's stream.
const LINE: Line = Line(0);

/// How long a stream may take to say whether a session is open: what its own end waits, and a little.
const ANSWER_DEADLINE: Duration = OPEN_DEADLINE.saturating_add(Duration::from_secs(1));

/// How long a kept connection may be silent before another is tried beside it, so that it is known whether the peer can be
/// reached when the silence means loss.
const SILENT: Duration = Duration::from_millis(900);

/// How long a part of a cache may take to travel: 4 MB at 3 Mbit/s.
const CACHE_DEADLINE: Duration = Duration::from_secs(10);

/// The version of the profile record that is known here: a [`NodeProfile`] as JSON.
pub(crate) const PROFILE_VERSION: u16 = 1;

/// A stage of one session, held by a peer.
struct PeerSeat {
    node: NodeId,
    session: SessionId,
    layers: LayerRange,
    commands: Commands<DeskEnd>,
    /// The leave by which orders and caches go there.
    clearance: Clearance,
    /// The connection, whose entry in the network log bears what was cleared.
    link: Arc<Link>,
    talks: Talks,
    heard: Arc<Heard>,
    listener: AbortHandle,
    /// The formats that the session's end uses.
    codecs: Codecs,
    chooses: bool,
    ids: Ids,
    /// Orders handed in whose reply was not collected.
    owed: usize,
    /// Whether the last order was to go on alone.
    streams: bool,
    /// Rollbacks handed in.
    rollbacks: u64,
}

/// Whether a stage knows the ids of what went into it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ids {
    /// It is given ids.
    Given,
    /// It was told them with every row so far.
    Told,
    /// Some it was not told.
    Unknown,
}

impl Ids {
    fn of(spec: &StageSpec) -> Ids {
        let looks_back = spec.choose.as_ref().is_some_and(SamplingOptions::looks_back);
        match spec.layers.start() {
            0 => Ids::Given,
            _ if looks_back => Ids::Told,
            _ => Ids::Unknown,
        }
    }
}

/// What came from the peer and was not collected.
#[derive(Default)]
struct Heard {
    said: Mutex<Said>,
    /// The formats that the way carries best; `None` where they are fixed.
    carriage: Mutex<Option<Carriage>>,
    /// What became of a cache on its way, and who is told.
    cache: Mutex<Option<CacheNews>>,
    hops: Mutex<Hops>,
    moved: Bell,
}

/// The seat's ends of two hops: of that which brings it rows, and of that which carries its own on.
struct Hops {
    takes: HopState,
    hands: HopState,
    /// Whom it was asked to hand rows to last.
    hands_to: Option<NodeId>,
    /// Bytes that the node says it handed on.
    handed: u64,
}

impl Default for Hops {
    fn default() -> Self {
        let apart = || HopState::Apart(String::new());
        Hops {
            takes: apart(),
            hands: apart(),
            hands_to: None,
            handed: 0,
        }
    }
}

/// What became of a cache on its way.
enum CacheNews {
    Came(CachePart),
    Held,
    Stays,
    /// The node signed what it computed.
    Vouched(VouchedFrame),
}

#[derive(Default)]
struct Said {
    replies: VecDeque<Reply>,
    /// Rollbacks that the session's end has dealt with, and how many it has to have dealt with before a reply is for
    /// somebody again: before, it is of a stream that was left.
    forgot: u64,
    heard_from: u64,
    end: Option<End>,
}

/// Why nothing more comes.
#[derive(Debug, Clone)]
enum End {
    Stream(SessionError),
    Session(FaultCode, String),
    Broke(String),
}

impl End {
    fn error(&self, node: NodeId) -> SeatError {
        match self {
            End::Stream(error) => ended(node, error),
            End::Session(code, sentence) => {
                let said = format!("it {code}: {sentence}");
                let why = match code {
                    FaultCode::Memory => Refusal::Room(said),
                    _ => Refusal::Said(said),
                };
                SeatError::Refused { node, why }
            }
            End::Broke(why) => SeatError::Lost {
                node,
                why: why.clone(),
            },
        }
    }
}

/// Opens a seat. A connection that was kept may be one that the peer has forgotten: then a new one is tried, once.
pub(super) fn open(
    link: &Arc<Link>,
    session: SessionId,
    spec: &StageSpec,
    formats: &Formats,
    leave: Leave<'_>,
    bell: &Bell,
) -> Result<Box<dyn Seat>, SeatError> {
    let (codecs, carriage) = match formats {
        Formats::These(codecs) => (*codecs, None),
        Formats::Any(allowed) => {
            let goodput = link.goodput().unwrap_or((GOODPUT_USUAL, GOODPUT_USUAL));
            let mut carriage = Carriage::new(allowed, goodput);
            (carriage.codecs(), Some(carriage))
        }
    };
    let heard = Arc::new(Heard {
        said: Mutex::default(),
        carriage: Mutex::new(carriage),
        cache: Mutex::default(),
        hops: Mutex::default(),
        moved: Bell::new(),
    });
    let asked = spec.clone();
    let ask = move || DeskCommand::Open {
        session,
        spec: asked.clone(),
        codecs,
    };
    let (way, bell, hears) = (Arc::clone(link), bell.clone(), Arc::clone(&heard));
    let Leave { clearance, talks } = leave;
    let grounds = Grounds::from(clearance);
    let counted = talks.clone();
    let opened = async move {
        let passed_by = way.lost("it was lost a moment ago, and has not answered since".to_owned());
        let opening = open_twice(&way, (&ask, &grounds), &hears, &counted, &bell);
        tokio::select! {
            biased;
            // Somebody else has waited for it already.
            () = way.network().loss_of(way.node()) => Err(passed_by),
            opened = opening => opened,
        }
    };
    let (commands, listener) = wait(link, opened)??;
    Ok(Box::new(PeerSeat {
        node: link.node(),
        session,
        layers: spec.layers,
        commands,
        clearance: clearance.clone(),
        link: Arc::clone(link),
        talks: talks.clone(),
        heard,
        listener,
        codecs,
        chooses: spec.choose.is_some(),
        ids: Ids::of(spec),
        owed: 0,
        streams: false,
        rollbacks: 0,
    }))
}

/// Opens a session, by another connection where the one that is kept fails. Whoever is not heard is lost, for everybody.
async fn open_twice(
    way: &Arc<Link>,
    (ask, grounds): (&impl Fn() -> DeskCommand, &Grounds),
    hears: &Arc<Heard>,
    counted: &Talks,
    bell: &Bell,
) -> Result<Opened, SeatError> {
    let other = Arc::clone(way);
    let mut another = AbortOnDrop(tokio::spawn(async move {
        other.another(SILENT, AGAIN_DEADLINE).await
    }));
    let first = try_open(way, (ask(), grounds), hears, counted, bell, CONNECT_DEADLINE).await;
    let (error, found) = match first {
        Ok(opened) => {
            way.network().found(way.node());
            return Ok(opened);
        }
        Err((error @ (SeatError::Lost { .. } | SeatError::Late { .. }), found @ Found::Kept(_))) => {
            (error, found)
        }
        Err((error, _)) => return Err(error),
    };
    way.leave(found).await;
    // Both were waited for at once.
    if another.0.is_finished()
        && let Ok(Some(made)) = (&mut another.0).await
    {
        way.take(made).await?;
    }
    drop(another);
    let within = again_within(&error);
    let again = try_open(way, (ask(), grounds), hears, counted, bell, within).await;
    if again.is_ok() {
        way.network().found(way.node());
    }
    again.map_err(|(error, _)| error)
}

/// A task that ends with whoever waits for it.
struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// By which leave a session is asked for, and where its conversations are counted.
#[derive(Clone, Copy)]
pub(super) struct Leave<'a> {
    pub(super) clearance: &'a Clearance,
    pub(super) talks: &'a Talks,
}

/// The conversations of one session: the one that carries it, and those in which it was asked for in vain, which left all the same, a
/// little of it behind the failure. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(super) struct Talks(Arc<Mutex<Vec<drive::Tally>>>);

impl Talks {
    fn add(&self, talk: drive::Tally) {
        // A session is tried for twice at most.
        held(&self.0).push(talk);
    }

    fn sum(&self, of: impl Fn(&drive::Tally) -> (u64, u64)) -> Traffic {
        let talks = held(&self.0).clone();
        talks
            .iter()
            .map(of)
            .fold(Traffic::default(), |mut all, (up, down)| {
                all += Traffic { up, down };
                all
            })
    }
}

impl Tally for Talks {
    fn bytes(&self) -> Traffic {
        self.sum(drive::Tally::bytes)
    }

    fn carried(&self) -> Traffic {
        self.sum(drive::Tally::carried)
    }
}

/// Waits on the desk's thread for what happens on the network's.
fn wait<T: Send + 'static>(
    link: &Link,
    what: impl Future<Output = T> + Send + 'static,
) -> Result<T, SeatError> {
    let (told, heard) = tokio::sync::oneshot::channel();
    link.network().spawn(async move {
        // Who asked may have gone.
        let _ = told.send(what.await);
    });
    heard
        .blocking_recv()
        .map_err(|_| link.lost("the network is closed here".to_owned()))
}

type Opened = (Commands<DeskEnd>, AbortHandle);

/// How long a new connection may take after the kept one failed so: who was silent has had its time.
fn again_within(error: &SeatError) -> Duration {
    match error {
        SeatError::Late { .. } => AGAIN_DEADLINE,
        _ => CONNECT_DEADLINE,
    }
}

async fn try_open(
    link: &Arc<Link>,
    (ask, grounds): (DeskCommand, &Grounds),
    heard: &Arc<Heard>,
    talks: &Talks,
    bell: &Bell,
    deadline: Duration,
) -> Result<Opened, (SeatError, Found)> {
    let conversing = link.converse(Some(grounds), deadline).await;
    let (mut conversation, found) = conversing.map_err(|error| (error, Found::Nothing))?;
    talks.add(conversation.tally());
    let commands = conversation.commands();
    commands.send(ask).await;
    if let Err(error) = until_open(link, &mut conversation, found).await {
        // A stream that ended by itself tells more than that it did.
        return Err((error, found));
    }
    let (link, heard) = (Arc::clone(link), Arc::clone(heard));
    let listening = listen(link, (conversation, found), heard, bell.clone());
    let listener = tokio::spawn(listening).abort_handle();
    Ok((commands, listener))
}

/// Waits until the session is open, [`ANSWER_DEADLINE`] at most and what the node asks for by saying that it is busy.
async fn until_open(
    link: &Link,
    conversation: &mut Conversation<DeskEnd>,
    found: Found,
) -> Result<(), SeatError> {
    let node = link.node();
    let began = tokio::time::Instant::now();
    let mut until = began + ANSWER_DEADLINE;
    loop {
        let event = timeout_at(until, conversation.event()).await;
        let late = || SeatError::Late {
            node,
            waited: until - began,
        };
        let Some(event) = event.map_err(|_| late())? else {
            return Err(link.lost("the connection broke".to_owned()));
        };
        match event {
            DeskEvent::Busy { eta, .. } => {
                // As often as it likes, and for a minute in all.
                let asked = tokio::time::Instant::now() + eta + ANSWER_DEADLINE;
                until = until.max(asked).min(began + BUSY_MAX + ANSWER_DEADLINE);
            }
            DeskEvent::Opened { .. } => return Ok(()),
            DeskEvent::Refused { reason, .. } => {
                let why = Refusal::Peer(reason);
                return Err(SeatError::Refused { node, why });
            }
            DeskEvent::Ended { code, sentence, .. } => {
                return Err(End::Session(code, sentence).error(node));
            }
            DeskEvent::Over(error) => {
                // Of one that was kept it is seen next whether the peer has forgotten it.
                if matches!((&error, found), (SessionError::Silent(_), Found::Fresh(_))) {
                    link.network().lost(node);
                }
                return Err(ended(node, &error));
            }
            DeskEvent::RoundTrip(round_trip) => link.note_round_trip(round_trip),
            DeskEvent::Greeted(_)
            | DeskEvent::Profile { .. }
            | DeskEvent::Crossed { .. }
            | DeskEvent::Cache(..)
            | DeskEvent::CacheHeld(..)
            | DeskEvent::CacheStays(_)
            | DeskEvent::Vouched(_)
            | DeskEvent::Unvouched(_)
            | DeskEvent::Expecting(_)
            | DeskEvent::Joined { .. }
            | DeskEvent::Parted { .. }
            | DeskEvent::HandedOn { .. }
            | DeskEvent::Forgot(_)
            | DeskEvent::Reply(..)
            | DeskEvent::Closed(_) => {}
        }
    }
}

/// Takes in what the peer says until it says nothing more.
async fn listen(
    link: Arc<Link>,
    (mut conversation, found): (Conversation<DeskEnd>, Found),
    heard: Arc<Heard>,
    bell: Bell,
) {
    while let Some(event) = conversation.event().await {
        let end = match event {
            DeskEvent::Reply(_, reply) => {
                let mut said = held(&heard.said);
                let wanted = said.forgot >= said.heard_from;
                if wanted {
                    said.replies.push_back(reply);
                }
                // Whoever is woken looks at once.
                drop(said);
                if wanted {
                    bell.ring();
                }
                continue;
            }
            DeskEvent::Forgot(_) => {
                held(&heard.said).forgot += 1;
                continue;
            }
            DeskEvent::RoundTrip(round_trip) => {
                link.note_round_trip(round_trip);
                continue;
            }
            DeskEvent::Crossed { heading, bytes, busy } => {
                if let Some(carriage) = held(&heard.carriage).as_mut() {
                    carriage.crossed(Instant::now(), heading, bytes, busy);
                    link.note_goodput(carriage.goodput());
                }
                continue;
            }
            DeskEvent::Cache(_, part) => {
                heard.tell_cache(CacheNews::Came(part));
                continue;
            }
            DeskEvent::CacheHeld(..) => {
                heard.tell_cache(CacheNews::Held);
                continue;
            }
            DeskEvent::Vouched(vouched) => {
                heard.tell_cache(CacheNews::Vouched(vouched));
                continue;
            }
            DeskEvent::CacheStays(_) | DeskEvent::Unvouched(_) => {
                heard.tell_cache(CacheNews::Stays);
                continue;
            }
            DeskEvent::Expecting(_) => {
                held(&heard.hops).takes = HopState::Joined;
                bell.ring();
                continue;
            }
            DeskEvent::Joined { round_trip, .. } => {
                let mut hops = held(&heard.hops);
                hops.hands = HopState::Joined;
                let to = hops.hands_to;
                drop(hops);
                if let Some(to) = to {
                    link.note_distance(to, round_trip);
                }
                bell.ring();
                continue;
            }
            DeskEvent::Parted { sentence, .. } => {
                held(&heard.hops).part(sentence);
                bell.ring();
                continue;
            }
            DeskEvent::HandedOn { bytes, .. } => {
                held(&heard.hops).handed = bytes;
                continue;
            }
            DeskEvent::Ended { code, sentence, .. } => End::Session(code, sentence),
            DeskEvent::Over(error) => End::Stream(error),
            DeskEvent::Greeted(_)
            | DeskEvent::Profile { .. }
            | DeskEvent::Busy { .. }
            | DeskEvent::Opened { .. }
            | DeskEvent::Refused { .. }
            | DeskEvent::Closed(_) => continue,
        };
        let silent = matches!(end, End::Stream(SessionError::Silent(_)));
        held(&heard.said).end.get_or_insert(end);
        bell.ring();
        heard.moved.ring();
        if silent {
            // Whoever is silent on one stream is silent on all.
            link.network().lost(link.node());
            link.leave(found).await;
        }
    }
    let why = match conversation.end().await {
        Ok(()) | Err(DriveError::Cancelled) => "the conversation is over".to_owned(),
        Err(DriveError::Left(why)) => format!("the connection broke ({why})"),
        Err(DriveError::Machine(error)) => error.to_string(),
    };
    held(&heard.said).end.get_or_insert(End::Broke(why));
    bell.ring();
    heard.moved.ring();
}

impl Hops {
    /// What was asked for last does not come about, or ended.
    fn part(&mut self, why: String) {
        let end = match self.takes {
            HopState::Asked => &mut self.takes,
            HopState::Joined | HopState::Apart(_) => &mut self.hands,
        };
        *end = HopState::Apart(why);
    }
}

impl Heard {
    fn tell_cache(&self, news: CacheNews) {
        *held(&self.cache) = Some(news);
        self.moved.ring();
    }
}

impl PeerSeat {
    /// Asks something about a cache and waits for what becomes of it.
    fn move_cache(&mut self, ask: DeskCommand, within: Duration) -> Result<CacheNews, SeatError> {
        // Whether a stream is over the stream's own end knows, and answers so.
        let moves = !matches!(ask, DeskCommand::Vouch(_));
        if self.owed > 0 || moves && self.streams {
            return Ok(CacheNews::Stays);
        }
        *held(&self.heard.cache) = None;
        if self.commands.try_send(ask).is_err() {
            return Ok(CacheNews::Stays);
        }
        let deadline = Instant::now() + within;
        loop {
            let seen = self.heard.moved.rings();
            if let Some(news) = held(&self.heard.cache).take() {
                return Ok(news);
            }
            if let Some(end) = &held(&self.heard.said).end {
                return Err(self.ended(end));
            }
            if Instant::now() >= deadline {
                return Err(SeatError::Late {
                    node: self.node,
                    waited: within,
                });
            }
            self.heard.moved.wait(seen, deadline);
        }
    }

    /// Lets the next rows travel as the way carries best now. The error: there is no room to say so.
    fn follow_the_way(&mut self) -> Result<(), ()> {
        let Some(codecs) = held(&self.heard.carriage).as_mut().map(Carriage::codecs) else {
            return Ok(());
        };
        if codecs != self.codecs {
            let carry = DeskCommand::Carry(LINE, codecs);
            self.commands.try_send(carry).map_err(|_| ())?;
            self.codecs = codecs;
        }
        Ok(())
    }

    /// What an end means here: a node that gives up a session which nobody used is well. It may have said so while an
    /// order was on its way to it, so what is owed does not count; whoever always says so is found out by the line.
    fn ended(&self, end: &End) -> SeatError {
        match end {
            End::Session(FaultCode::Idle, _) | End::Stream(SessionError::Left(Farewell::Idle)) => {
                SeatError::Expired { node: self.node }
            }
            end => end.error(self.node),
        }
    }
}

impl Seat for PeerSeat {
    fn node(&self) -> NodeId {
        self.node
    }

    fn submit(&mut self, order: Order) -> Result<(), SeatError> {
        if let Some(end) = &held(&self.heard.said).end {
            return Err(self.ended(end));
        }
        let node = self.node;
        let full = || SeatError::Refused {
            node,
            why: Refusal::Said(format!("{ORDERS_MAX} orders wait already")),
        };
        if self.owed >= ORDERS_MAX {
            return Err(full());
        }
        let answered = matches!(order, Order::Forward(_));
        if answered {
            self.follow_the_way().map_err(|()| full())?;
        }
        let streams = matches!(order, Order::Generate { .. });
        let rolls_back = matches!(order, Order::Rollback(_));
        self.commands
            .try_send(DeskCommand::Order(LINE, self.clearance.clear_part(order)))
            .map_err(|_| full())?;
        self.owed += usize::from(answered);
        self.streams = streams;
        self.rollbacks += u64::from(rolls_back);
        Ok(())
    }

    fn poll(&mut self) -> Result<Option<Reply>, SeatError> {
        let mut said = held(&self.heard.said);
        if let Some(reply) = said.replies.pop_front() {
            self.owed = self.owed.saturating_sub(1);
            return Ok(Some(reply));
        }
        match &said.end {
            Some(end) => Err(self.ended(end)),
            None => Ok(None),
        }
    }

    fn choose_by(&mut self, options: &SamplingOptions) -> bool {
        // Options that look back need the ids of everything that went in; under others, rows come without.
        let looks_back = options.looks_back();
        if !self.chooses || looks_back && self.ids == Ids::Unknown {
            return false;
        }
        if !looks_back && self.ids == Ids::Told {
            self.ids = Ids::Unknown;
        }
        let choose = DeskCommand::Choose(LINE, options.clone());
        self.commands.try_send(choose).is_ok()
    }

    fn leave(&mut self, to: Position) -> bool {
        let mut said = held(&self.heard.said);
        if self.owed > 0 || said.end.is_some() {
            return false;
        }
        let back = self.clearance.clear_part(Order::Rollback(to));
        let back = DeskCommand::Order(LINE, back);
        if self.commands.try_send(back).is_err() {
            return false;
        }
        self.rollbacks += 1;
        said.replies.clear();
        said.heard_from = self.rollbacks;
        self.streams = false;
        true
    }

    fn take_cache(&mut self, first: Position, to: Position) -> Result<Option<CachePart>, SeatError> {
        let line = LINE;
        Ok(
            match self.move_cache(DeskCommand::TakeCache { line, first, to }, CACHE_DEADLINE)? {
                CacheNews::Came(part) => Some(part),
                CacheNews::Held | CacheNews::Stays | CacheNews::Vouched(_) => None,
            },
        )
    }

    fn put_cache(&mut self, part: &CachePart) -> Result<bool, SeatError> {
        let put = DeskCommand::PutCache(LINE, self.clearance.clear_part(part.clone()));
        let news = self.move_cache(put, CACHE_DEADLINE)?;
        let taken = matches!(news, CacheNews::Held);
        if taken {
            // The ids of what came this way were not told.
            self.ids = Ids::Unknown;
        }
        Ok(taken)
    }

    fn expect(&mut self, hop: &Hop) -> bool {
        let (line, from, ticket) = (LINE, hop.from, hop.ticket);
        let mut hops = held(&self.heard.hops);
        let asked = self
            .commands
            .try_send(DeskCommand::Expect { line, from, ticket })
            .is_ok();
        if asked {
            hops.takes = HopState::Asked;
        }
        asked
    }

    fn join(&mut self, hop: &Hop) -> bool {
        let mut hops = held(&self.heard.hops);
        let join = JoinFrame {
            line: LINE,
            to: hop.to,
            ticket: hop.ticket,
            address: hop.address.clone(),
        };
        let asked = self
            .commands
            .try_send(DeskCommand::Join(self.clearance.clear_part(join)))
            .is_ok();
        if asked {
            hops.hands = HopState::Asked;
            hops.hands_to = Some(hop.to);
        }
        asked
    }

    fn takes(&mut self) -> HopState {
        held(&self.heard.hops).takes.clone()
    }

    fn hands(&mut self) -> HopState {
        held(&self.heard.hops).hands.clone()
    }

    fn vouch(&mut self, within: Duration) -> Option<Vouched> {
        match self.move_cache(DeskCommand::Vouch(LINE), within) {
            Ok(CacheNews::Vouched(vouched)) => Some(Vouched {
                node: self.node,
                session: self.session,
                layers: self.layers,
                tokens: (vouched.first.0, vouched.to.0),
                signature: vouched.signature,
            }),
            // A node that does not say what it did is named in the receipt without a signature.
            _ => None,
        }
    }

    fn cleared(&mut self, clearance: &Clearance) {
        self.clearance = clearance.clone();
        let (link, grounds) = (Arc::clone(&self.link), Grounds::from(clearance));
        // A network that is closed here shows nothing.
        let _ = wait(&self.link, async move { link.shows(grounds).await });
    }

    fn handed_bytes(&self) -> u64 {
        held(&self.heard.hops).handed
    }

    fn traffic(&self) -> Traffic {
        self.talks.bytes()
    }
}

/// Work under way is cancelled at once; a seat that only leaves says goodbye.
impl Drop for PeerSeat {
    fn drop(&mut self) {
        let idle = self.owed == 0 && !self.streams;
        if !idle || self.commands.try_send(DeskCommand::Leave).is_err() {
            self.listener.abort();
        }
    }
}

/// Asks a peer what it is.
pub(super) fn probe(link: &Arc<Link>, deadline: Duration) -> Result<Probe, SeatError> {
    let way = Arc::clone(link);
    let late = SeatError::Late {
        node: link.node(),
        waited: deadline,
    };
    let asked = async move {
        match timeout(deadline.min(LOST_AFTER), hear_profile(&way)).await {
            Ok(Err((SeatError::Lost { .. } | SeatError::Late { .. }, found @ Found::Kept(_)))) => {
                way.leave(found).await;
                hear_profile(&way).await.map_err(|(error, _)| error)
            }
            Err(_) => {
                way.leave_any().await;
                hear_profile(&way).await.map_err(|(error, _)| error)
            }
            Ok(heard) => heard.map_err(|(error, _)| error),
        }
    };
    let asked = async move { timeout(deadline, asked).await };
    let profile = wait(link, asked)?.unwrap_or(Err(late))?;
    link.network().found(link.node());
    let connection = link.now();
    let round_trip = connection.as_ref().and_then(|way| way.round_trip());
    Ok(Probe {
        profile,
        round_trip: round_trip.or_else(|| link.round_trip()),
        way: connection.and_then(|connection| connection.way()),
    })
}

/// Whether a peer says what it is within `deadline`, over a connection of its own: one that is stopped may still have somebody who takes connections
/// in for it.
pub(crate) async fn greets(network: &Network, node: NodeId, deadline: Duration) -> bool {
    let link = Link::new(network.clone(), node);
    let heard = timeout(deadline, hear_profile(&link)).await;
    link.leave_any().await;
    matches!(heard, Ok(Ok(_)))
}

async fn hear_profile(link: &Link) -> Result<Option<NodeProfile>, (SeatError, Found)> {
    let conversing = link.converse(None, CONNECT_DEADLINE).await;
    let (mut conversation, found) = conversing.map_err(|error| (error, Found::Nothing))?;
    while let Some(event) = conversation.event().await {
        match event {
            DeskEvent::Profile { version, record } => {
                conversation.command(DeskCommand::Leave).await;
                let known = (version == PROFILE_VERSION).then(|| serde_json::from_slice(&record).ok());
                return Ok(known.flatten());
            }
            DeskEvent::Over(error) => return Err((ended(link.node(), &error), found)),
            _ => {}
        }
    }
    Err((link.lost("the connection broke".to_owned()), found))
}
