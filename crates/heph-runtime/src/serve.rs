//! Lends the stages of a [`Node`] to desks that connect.
//!
//! Each stream of a peer is one conversation, each session a thread of its own that computes; the network's thread only
//! carries. A session ends when its desk closes it, leaves, vanishes or is silent for long, and the work for it stops
//! between two layers. Nothing that a peer says ends this process: its mistakes end its own stream.

mod hop;
mod session;
mod stays;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use heph_net::drive::drive;
use heph_net::endpoint::{Protocol, Stream};
use heph_net::session::{NodeCommand, NodeEnd, NodeEvent, NodeLimits};
use heph_net::wire::{FaultCode, Line, PROFILE_MAX, Refusal};
use heph_types::{NodeId, NodeProfile, Role};
use tokio::sync::watch;

use crate::network::{Admits, Caller, Network};
use crate::node::Node;
use crate::peer::law;
use hop::{Expected, Hops};
use session::{Session, Signer};
use stays::Stays;

/// What a serving node allows.
#[derive(Clone)]
pub struct ServeRules {
    /// Who may open sessions.
    pub admits: Admits,
    /// Sessions of one peer at a time.
    pub sessions_of_a_peer: usize,
    /// How long a session may be unused, and how much may wait in it.
    pub limits: NodeLimits,
    /// What this machine says of itself.
    pub profile: Option<Arc<dyn Fn() -> NodeProfile + Send + Sync>>,
}

impl Default for ServeRules {
    /// Peers of the book, 16 sessions each: as many stages as a desk lays on one node with some conversations open.
    fn default() -> Self {
        Self {
            admits: Admits::Known,
            sessions_of_a_peer: 16,
            limits: NodeLimits::default(),
            profile: None,
        }
    }
}

/// What was done for others so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Served {
    /// Sessions that are open.
    pub sessions: usize,
    /// Sessions that were opened.
    pub opened: u64,
    /// Sessions that were refused.
    pub refused: u64,
    /// Tokens that went through layers here.
    pub tokens: u64,
}

/// A node at work for others. It goes on when this is dropped; [`Serving::stop`] ends it.
#[derive(Clone)]
pub struct Serving(Arc<Lender>);

struct Lender {
    network: Network,
    node: Arc<Node>,
    rules: ServeRules,
    state: watch::Sender<State>,
    open: Mutex<BTreeMap<NodeId, usize>>,
    stays: Mutex<Stays>,
    hops: Arc<Hops>,
    counts: Counts,
}

#[derive(Default)]
struct Counts {
    opened: AtomicU64,
    refused: AtomicU64,
    tokens: AtomicU64,
}

/// Whether sessions are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Paused,
}

/// Answers desks that connect, from now on.
pub fn serve(network: &Network, node: Arc<Node>, rules: ServeRules) -> Serving {
    let admits = rules.admits;
    let lender = Arc::new(Lender {
        network: network.clone(),
        node,
        rules,
        state: watch::Sender::new(State::Open),
        open: Mutex::default(),
        stays: Mutex::default(),
        hops: Arc::default(),
        counts: Counts::default(),
    });
    let serving = Serving(Arc::clone(&lender));
    let hops = Arc::clone(&lender.hops);
    // Whoever hands rows over need not stand in the book: a desk that does has named it, and it shows that desk's ticket.
    network.serve(Protocol::Hop, Admits::Anyone, move |caller| {
        Arc::clone(&hops).receive(caller)
    });
    network.serve(Protocol::Session, admits, move |caller| {
        Arc::clone(&lender).receive(caller)
    });
    serving
}

impl Serving {
    /// What was done so far.
    pub fn served(&self) -> Served {
        let counts = &self.0.counts;
        Served {
            sessions: held(&self.0.open).values().sum(),
            opened: counts.opened.load(Ordering::Relaxed),
            refused: counts.refused.load(Ordering::Relaxed),
            tokens: counts.tokens.load(Ordering::Relaxed),
        }
    }

    /// How long somebody who asks now waits for a session: nothing while there is room, else what stays took.
    pub fn queue(&self) -> Duration {
        self.0.queue()
    }

    /// Peers that have sessions open, and how many.
    pub fn desks(&self) -> Vec<(NodeId, usize)> {
        held(&self.0.open)
            .iter()
            .map(|(node, count)| (*node, *count))
            .collect()
    }

    /// Ends all sessions at once and takes no new ones until [`Serving::resume`]: their desks go on elsewhere.
    pub fn pause(&self) {
        self.0.state.send_replace(State::Paused);
    }

    /// Takes sessions again.
    pub fn resume(&self) {
        self.0.state.send_replace(State::Open);
    }

    /// Ends all sessions, and answers nobody any more.
    pub fn stop(&self) {
        self.pause();
        self.0.network.stop_serving(Protocol::Session);
        self.0.network.stop_serving(Protocol::Hop);
    }
}

impl Lender {
    /// One peer's connection: each of its streams is a conversation.
    async fn receive(self: Arc<Self>, caller: Caller) {
        let peer = caller.connection.peer();
        let owner = caller.peer.as_ref().is_some_and(|peer| peer.role == Role::Own);
        let mut talks = tokio::task::JoinSet::new();
        while let Ok(stream) = caller.connection.accept().await {
            talks.spawn(Arc::clone(&self).converse(peer, owner, stream));
            while talks.try_join_next().is_some() {}
        }
        // The connection is over: what is left of its conversations computes for nobody.
        talks.shutdown().await;
    }

    /// One conversation with a desk. Only for a desk of the same owner this machine opens connections to others: a
    /// stranger must not make it knock at doors.
    async fn converse(self: Arc<Self>, peer: NodeId, owner: bool, stream: Stream) {
        let end = NodeEnd::new(law(), self.rules.limits, Duration::ZERO);
        let mut conversation = drive(stream, end, Instant::now());
        let commands = conversation.commands();
        let mut sessions: BTreeMap<Line, Session> = BTreeMap::new();
        let mut state = self.state.subscribe();
        loop {
            tokio::select! {
                event = conversation.event() => match event {
                    None => return,
                    Some(NodeEvent::Greeted(_)) => {
                        commands.send(self.profile()).await;
                    }
                    Some(NodeEvent::Open { line, session, spec }) => {
                        match self.place(peer) {
                            Ok(place) => {
                                let node = Arc::clone(&self.node);
                                let signer = Signer {
                                    network: self.network.clone(),
                                    desk: peer,
                                };
                                let opened = Session::open(line, session, spec, node, commands.clone(), place, signer);
                                sessions.insert(line, opened);
                            }
                            Err(reason) => {
                                commands.send(NodeCommand::Refuse { line, reason }).await;
                            }
                        }
                    }
                    Some(NodeEvent::Order(line, order)) => {
                        if let Some(session) = sessions.get(&line) {
                            session.order(order).await;
                        }
                    }
                    Some(NodeEvent::Choose(line, options)) => {
                        if let Some(session) = sessions.get(&line) {
                            session.choose(options).await;
                        }
                    }
                    Some(NodeEvent::TakeCache { line, first, to }) => {
                        if let Some(session) = sessions.get(&line) {
                            session.take_cache(first, to).await;
                        }
                    }
                    Some(NodeEvent::PutCache(line, part)) => {
                        if let Some(session) = sessions.get(&line) {
                            session.put_cache(part).await;
                        }
                    }
                    Some(NodeEvent::Vouch(line)) => {
                        if let Some(session) = sessions.get(&line) {
                            session.vouch().await;
                        }
                    }
                    Some(NodeEvent::Expect { line, from, ticket }) => {
                        if let Some(session) = sessions.get_mut(&line) {
                            let expected = Expected::new(&self.hops, (from, ticket), line, commands.clone());
                            session.expects(expected);
                            commands.send(NodeCommand::Expecting(line)).await;
                        }
                    }
                    Some(NodeEvent::Join(join)) => {
                        if let Some(session) = sessions.get_mut(&join.line) {
                            let network = owner.then(|| self.network.clone());
                            session.hand_to(hop::giver(network, join, commands.clone(), session.jobs()));
                        }
                    }
                    Some(NodeEvent::Taken { line, bytes }) => {
                        if let Some(session) = sessions.get(&line) {
                            session.taken(bytes);
                        }
                    }
                    Some(NodeEvent::Misled(line)) => {
                        if let Some(session) = sessions.get_mut(&line) {
                            session.expects_nobody();
                        }
                    }
                    Some(NodeEvent::Close(line)) => drop(sessions.remove(&line)),
                    Some(NodeEvent::Over(_)) => sessions.clear(),
                },
                Ok(()) = state.changed() => {
                    if *state.borrow_and_update() == State::Paused {
                        for line in std::mem::take(&mut sessions).into_keys() {
                            commands.send(draining(line)).await;
                        }
                    }
                }
            }
        }
    }

    /// What this machine says of itself; an empty record where it says nothing.
    fn profile(&self) -> NodeCommand {
        let record = self.rules.profile.as_ref().and_then(|profile| {
            let said = NodeProfile {
                queue: self.queue(),
                ..profile()
            };
            serde_json::to_vec(&said).ok()
        });
        let record = record
            .filter(|record| record.len() <= PROFILE_MAX)
            .unwrap_or_default();
        NodeCommand::Profile {
            version: crate::peer::PROFILE_VERSION,
            record,
        }
    }

    fn queue(&self) -> Duration {
        match self.node.is_full() {
            true => held(&self.stays).wait(Instant::now()),
            false => Duration::ZERO,
        }
    }

    /// Room for one more session of a peer.
    fn place(self: &Arc<Self>, peer: NodeId) -> Result<Place, Refusal> {
        if *self.state.borrow() == State::Paused {
            return Err(self.refused(Refusal::Paused));
        }
        let mut open = held(&self.open);
        let theirs = open.entry(peer).or_default();
        if *theirs >= self.rules.sessions_of_a_peer {
            return Err(self.refused(Refusal::TooManySessions));
        }
        *theirs += 1;
        Ok(Place {
            lender: Arc::clone(self),
            peer,
            stay: held(&self.stays).begin(Instant::now()),
            opened: AtomicBool::new(false),
        })
    }

    fn refused(&self, reason: Refusal) -> Refusal {
        self.counts.refused.fetch_add(1, Ordering::Relaxed);
        reason
    }
}

fn draining(line: Line) -> NodeCommand {
    NodeCommand::Fail {
        line,
        code: FaultCode::Draining,
        sentence: "its person needs the machine, or it is leaving".to_owned(),
    }
}

/// One session's place, given back when dropped.
struct Place {
    lender: Arc<Lender>,
    peer: NodeId,
    stay: u64,
    opened: AtomicBool,
}

impl Place {
    /// The session is open.
    fn opened(&self) {
        self.opened.store(true, Ordering::Relaxed);
        self.lender.counts.opened.fetch_add(1, Ordering::Relaxed);
    }

    /// The session is not opened after all.
    fn refused(&self, reason: Refusal) -> Refusal {
        self.lender.refused(reason)
    }

    /// When there will be room, where there is none now. This place itself waits for it and does not count.
    fn wait(&self) -> Duration {
        let now = Instant::now();
        let mut stays = held(&self.lender.stays);
        stays.end(self.stay, false, now);
        stays.wait(now)
    }

    /// Tokens went through layers.
    fn computed(&self, tokens: usize) {
        self.lender
            .counts
            .tokens
            .fetch_add(tokens as u64, Ordering::Relaxed);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let opened = self.opened.load(Ordering::Relaxed);
        held(&self.lender.stays).end(self.stay, opened, Instant::now());
        let mut open = held(&self.lender.open);
        if let Some(theirs) = open.get_mut(&self.peer) {
            *theirs -= 1;
            if *theirs == 0 {
                open.remove(&self.peer);
            }
        }
    }
}

/// What a lock guards; a thread that panicked with it left it whole.
fn held<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}
