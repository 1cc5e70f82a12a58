//! A line of seats: the layers of one model, laid out over nodes, for one conversation.
//!
//! Tokens are fed in at one end and chosen tokens come out at the other; in between, hidden states pass from stage to
//! stage, many pieces under way at once. The line keeps what went into each stage. When a seat is lost it gives the
//! stage to another node, replays that, and goes on: whoever feeds and collects does not notice, and because every stage
//! computes the same bits everywhere, neither does the text.
//!
//! Embedding alone and choosing alone are stages too, with an empty range of layers: `0..0` at the desk keeps the ids
//! at home, `n..n` keeps the logits there.

mod history;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use heph_engine::model::Model;
use heph_engine::sample::SamplingOptions;
use heph_types::{
    Forward, KvFormat, LayerRange, ModelHash, NodeId, Order, Position, Reply, SessionId, StageInput,
    StageSpec, TokenId,
};

use crate::cancel::Cancel;
use crate::clock::{Clock, SystemClock};
use crate::seat::{Bell, Host, Seat, SeatError, Traffic};
use history::History;

/// Orders that a line keeps under way at one seat: enough to fill a link of 300 ms with chunks of 10 ms.
const FLIGHT_MAX: usize = 32;

/// Tokens that are replayed in one order.
const REPLAY_TOKENS: usize = 256;

/// How long a node that was lost is not asked again.
const FORGIVEN_AFTER: Duration = Duration::from_secs(30);

/// How often a waiting line looks whether it should stop.
const CANCEL_LOOK: Duration = Duration::from_millis(50);

/// What a line knows of its model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LineModel {
    /// Which model.
    pub hash: ModelHash,
    /// Its layers.
    pub layers: usize,
    /// Numbers of one hidden state.
    pub width: usize,
    /// Entries of its vocabulary.
    pub vocab: usize,
    /// Positions of a conversation.
    pub context: usize,
    /// How caches are stored.
    pub kv_format: KvFormat,
}

impl LineModel {
    /// A model that is loaded here.
    pub fn of(hash: ModelHash, model: &Model) -> Self {
        let graph = model.graph();
        Self {
            hash,
            layers: graph.layers.len(),
            width: graph.hidden,
            vocab: graph.vocab,
            context: model.context(),
            kv_format: model.kv_format(),
        }
    }

    /// Layers `start..end` of it.
    ///
    /// # Panics
    /// When it has fewer.
    pub fn range(&self, start: usize, end: usize) -> LayerRange {
        LayerRange::new(start, end, self.layers).expect("a range of the model's layers")
    }
}

/// One stage of a line and who is to hold it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placement {
    /// The node.
    pub node: NodeId,
    /// The layers.
    pub layers: LayerRange,
}

/// What a line waits for and how it cuts prompts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LineLimits {
    /// How long a seat may be silent over a piece of work,
    pub patience: Duration,
    /// and how much longer for each token in it.
    pub patience_per_token: Duration,
    /// Tokens of a prompt that travel together. Shorter pieces keep more stages busy, longer ones run faster.
    pub chunk: usize,
    /// Bytes of rows kept in memory for one stage; older ones go to disk.
    pub history_bytes: usize,
}

impl Default for LineLimits {
    fn default() -> Self {
        Self {
            patience: Duration::from_secs(3),
            patience_per_token: Duration::from_millis(100),
            chunk: 64,
            history_bytes: history::MEMORY_BYTES_MAX,
        }
    }
}

/// Tokens that the model says come next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// Position of the first of them.
    pub first: Position,
    /// One for each answered row.
    pub tokens: Vec<TokenId>,
}

/// A stage that went from one node to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    /// The layers.
    pub layers: LayerRange,
    /// Who held them.
    pub from: NodeId,
    /// Who holds them now.
    pub to: NodeId,
    /// Why, in a sentence.
    pub why: String,
    /// Tokens that were fed when it happened.
    pub at: Position,
    /// From the loss being noticed to the next chosen token.
    pub gap: Option<Duration>,
    /// When the loss was noticed.
    noticed: Instant,
}

/// Why a line cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    /// Nobody is left who could take a stage.
    #[error("no node is left for layers {}..{}: {cause}", layers.start(), layers.end())]
    NoSeat {
        /// The layers of the stage.
        layers: LayerRange,
        /// Why the last one could not.
        #[source]
        cause: SeatError,
    },
    /// The placements are not the model's layers in order, or name a node that is no host of the line.
    #[error("the stages do not make the model: {0}")]
    Layout(String),
    /// Somebody asked to stop. Collecting again goes on where it stopped.
    #[error("the work was stopped")]
    Cancelled,
    /// What went into a stage could not be kept.
    #[error("the history of a stage cannot be kept: {0}")]
    History(#[from] std::io::Error),
}

/// A line of seats.
pub struct Line {
    model: LineModel,
    hosts: Vec<Arc<dyn Host>>,
    limits: LineLimits,
    posts: Vec<Post>,
    /// Every token that was fed: the history of the first stage.
    tokens: Vec<TokenId>,
    sampling: SamplingOptions,
    stream: Option<Stream>,
    chosen: VecDeque<Chosen>,
    lost: Vec<(NodeId, Instant)>,
    moves: Vec<Move>,
    clock: Arc<dyn Clock>,
    bell: Bell,
    sessions: u64,
    /// Of seats that are gone.
    traffic: Traffic,
}

/// A stage's place in the line.
struct Post {
    node: NodeId,
    layers: LayerRange,
    seat: Option<Box<dyn Seat>>,
    /// What went in; the first stage's are the line's tokens.
    inputs: History,
    /// Under way at the seat, oldest first.
    flight: VecDeque<Piece>,
    /// Not yet handed to the seat.
    waiting: VecDeque<Piece>,
    /// Since when the oldest piece under way is the oldest.
    since: Instant,
}

/// Consecutive tokens on their way through a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Piece {
    first: usize,
    tokens: usize,
    /// How many of them still count: a later feed may have taken the others' places.
    live: usize,
    /// How many of the last of them are to be answered by a chosen token.
    wanted: usize,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Its result goes on to the next stage.
    New,
    /// Its result is known already: it only fills a new seat's cache.
    Replay,
}

impl Piece {
    fn end(&self) -> usize {
        self.first + self.live
    }

    /// The part of it before `to`.
    fn cut(&mut self, to: usize) {
        let live = to.saturating_sub(self.first);
        if live < self.live {
            self.live = live;
            self.wanted = 0;
        }
    }
}

/// A node that holds the whole model goes on alone.
struct Stream {
    left: u32,
    ends: Vec<TokenId>,
    /// Whether the seat knows.
    sent: bool,
}

impl Line {
    /// A line over `stages`, each placed at one of `hosts`; the others stand by, in their order of preference.
    ///
    /// # Errors
    /// When the stages are not the model's layers in order, or a placement names no host.
    pub fn new(
        model: LineModel,
        hosts: Vec<Arc<dyn Host>>,
        stages: &[Placement],
        limits: LineLimits,
    ) -> Result<Self, LineError> {
        let mut next = 0;
        for stage in stages {
            let (start, end) = (stage.layers.start(), stage.layers.end());
            if start != next || end > model.layers {
                let why = format!("layers {start}..{end} follow layer {next} of {}", model.layers);
                return Err(LineError::Layout(why));
            }
            next = end;
            if !hosts.iter().any(|host| host.node() == stage.node) {
                return Err(LineError::Layout(format!("{} is no host", stage.node.short())));
            }
        }
        if stages.is_empty() || next != model.layers {
            return Err(LineError::Layout(format!(
                "they end with layer {next} of {}",
                model.layers
            )));
        }
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let post = |stage: &Placement| Post {
            node: stage.node,
            layers: stage.layers,
            seat: None,
            inputs: History::new(model.width, limits.history_bytes),
            flight: VecDeque::new(),
            waiting: VecDeque::new(),
            since: clock.now(),
        };
        Ok(Self {
            posts: stages.iter().map(post).collect(),
            model,
            hosts,
            limits,
            tokens: Vec::new(),
            sampling: SamplingOptions::greedy(),
            stream: None,
            chosen: VecDeque::new(),
            lost: Vec::new(),
            moves: Vec::new(),
            clock,
            bell: Bell::new(),
            sessions: first_session(),
            traffic: Traffic::default(),
        })
    }

    /// A line of one stage at one node.
    pub fn whole(model: LineModel, host: Arc<dyn Host>, limits: LineLimits) -> Self {
        let stage = Placement {
            node: host.node(),
            layers: model.range(0, model.layers),
        };
        Self::new(model, vec![host], &[stage], limits).expect("one stage is the whole model")
    }

    /// The line that counts its time by `clock`.
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// What it counts its time by.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// Its model.
    pub fn model(&self) -> &LineModel {
        &self.model
    }

    /// Every token that was fed and not taken back.
    pub fn tokens(&self) -> &[TokenId] {
        &self.tokens
    }

    /// Who holds which layers.
    pub fn stages(&self) -> Vec<Placement> {
        let placement = |post: &Post| Placement {
            node: post.node,
            layers: post.layers,
        };
        self.posts.iter().map(placement).collect()
    }

    /// Stages that went from one node to another since the last [`Line::begin`].
    pub fn moves(&self) -> &[Move] {
        &self.moves
    }

    /// What went over the network so far.
    pub fn traffic(&self) -> Traffic {
        let mut sum = self.traffic;
        for seat in self.posts.iter().filter_map(|post| post.seat.as_ref()) {
            sum += seat.traffic();
        }
        sum
    }

    /// Starts an answer: from now on tokens are chosen by `sampling`. Work under way is taken back, and the number of
    /// tokens that all stages hold is returned.
    pub fn begin(&mut self, sampling: &SamplingOptions) -> usize {
        let held = self.settle();
        self.moves.clear();
        let now = self.clock.now();
        self.lost
            .retain(|(_, when)| now.saturating_duration_since(*when) < FORGIVEN_AFTER);
        if self.lost.len() == self.hosts.len() {
            self.lost.clear();
        }
        if self.sampling != *sampling {
            self.sampling = sampling.clone();
            let last = self.posts.len() - 1;
            let seat = &mut self.posts[last].seat;
            if seat.as_mut().is_some_and(|seat| !seat.choose_by(sampling)) {
                self.unseat(last);
            }
        }
        held
    }

    /// Sends `tokens` on their way; the first of them takes position `first`, and what was fed from there on before is
    /// taken back. For each of the last `answers` tokens, [`Line::collect`] will tell what the model says comes next.
    ///
    /// # Panics
    /// When `first` lies beyond what was fed, or more answers are wanted than tokens given.
    pub fn feed(&mut self, first: usize, tokens: &[TokenId], answers: usize) {
        assert!(
            first <= self.tokens.len() && answers <= tokens.len(),
            "a piece that follows what was fed"
        );
        self.truncate(first);
        self.tokens.extend_from_slice(tokens);
        let unanswered = tokens.len() - answers;
        for from in (0..tokens.len()).step_by(self.limits.chunk.max(1)) {
            let to = tokens.len().min(from + self.limits.chunk.max(1));
            self.posts[0].waiting.push_back(Piece {
                first: first + from,
                tokens: to - from,
                live: to - from,
                wanted: to.saturating_sub(unanswered.max(from)),
                kind: Kind::New,
            });
        }
    }

    /// Feeds `last` and lets the model go on alone from there, for `tokens_max` tokens or until one of `ends`. The chosen
    /// tokens count as fed, but for the last one.
    ///
    /// # Panics
    /// When the line has more than one stage.
    pub fn generate(&mut self, last: TokenId, tokens_max: u32, ends: &[TokenId]) {
        assert_eq!(
            self.posts.len(),
            1,
            "only a node with the whole model goes on alone"
        );
        self.tokens.push(last);
        self.stream = Some(Stream {
            left: tokens_max,
            ends: ends.to_vec(),
            sent: false,
        });
    }

    /// Whether this line can go on alone: one node holds the whole model.
    pub fn is_whole(&self) -> bool {
        self.posts.len() == 1
    }

    /// Hands out what waits and takes in what is there, without waiting: keeps the line busy while the desk does other
    /// work.
    ///
    /// # Errors
    /// As [`Line::collect`].
    pub fn nudge(&mut self) -> Result<(), LineError> {
        (0..self.posts.len())
            .rev()
            .try_for_each(|at| self.push(at).map(drop))
    }

    /// The next chosen tokens, in the order in which they were asked for.
    ///
    /// # Errors
    /// When no node is left for a stage, or `cancel` is raised.
    ///
    /// # Panics
    /// When nothing was asked for.
    pub fn collect(&mut self, cancel: &Cancel) -> Result<Chosen, LineError> {
        loop {
            if let Some(chosen) = self.chosen.pop_front() {
                self.note_gap();
                return Ok(chosen);
            }
            if cancel.is_raised() {
                return Err(LineError::Cancelled);
            }
            let seen = self.bell.rings();
            if !self.turn()? {
                self.wait(seen)?;
            }
        }
    }

    /// Takes back what is under way; returns how many tokens every stage holds or will hold.
    pub fn settle(&mut self) -> usize {
        if self.stream.take().is_some() {
            // The seat may have chosen more than it was heard to. Another session is surer than sorting that out.
            self.unseat(0);
        }
        let solid = (0..self.posts.len()).map(|at| self.solid(at)).min().unwrap_or(0);
        self.truncate(solid);
        self.chosen.clear();
        solid
    }

    /// Looks at every seat once, the last first: what comes out of the line matters most. Returns whether anything moved.
    fn turn(&mut self) -> Result<bool, LineError> {
        let mut moved = false;
        for at in (0..self.posts.len()).rev() {
            moved |= self.push(at)?;
            let Some(seat) = &mut self.posts[at].seat else {
                continue;
            };
            match seat.poll() {
                Ok(Some(reply)) => {
                    moved = true;
                    if let Err(error) = self.take(at, reply)? {
                        self.replace(at, error)?;
                    }
                }
                Ok(None) => {}
                Err(error) => {
                    moved = true;
                    self.replace(at, error)?;
                }
            }
        }
        Ok(moved)
    }

    /// Waits for a bell or for the first seat's patience to end; a seat that is too late is replaced.
    fn wait(&mut self, seen: u64) -> Result<(), LineError> {
        let now = self.clock.now();
        let deadlines = (0..self.posts.len()).filter_map(|at| self.deadline(at).map(|when| (when, at)));
        let (deadline, at) = deadlines.min().expect("something was asked for");
        if deadline <= now {
            let Post { node, since, .. } = self.posts[at];
            let waited = now - since;
            return self.replace(at, SeatError::Late { node, waited });
        }
        self.clock.wait(&self.bell, seen, deadline.min(now + CANCEL_LOOK));
        Ok(())
    }

    /// Until when the seat may be silent; `None` where nothing is under way.
    fn deadline(&self, at: usize) -> Option<Instant> {
        let post = &self.posts[at];
        let streams = at == 0 && self.stream.as_ref().is_some_and(|stream| stream.sent);
        let tokens = post
            .flight
            .front()
            .map(|piece| piece.tokens)
            .or(streams.then_some(1))?;
        let LineLimits {
            patience,
            patience_per_token,
            ..
        } = self.limits;
        Some(post.since + patience + patience_per_token * tokens as u32)
    }

    /// Hands waiting pieces to a seat, opening it first where there is none. Returns whether it did anything.
    fn push(&mut self, at: usize) -> Result<bool, LineError> {
        let mut moved = false;
        while let Some(order) = self.next_order(at)? {
            moved = true;
            if self.posts[at].seat.is_none() {
                self.open(at, None)?;
                continue;
            }
            let post = &mut self.posts[at];
            let Some(seat) = &mut post.seat else { continue };
            if let Err(error) = seat.submit(order) {
                self.replace(at, error)?;
                continue;
            }
            if post.flight.is_empty() {
                post.since = self.clock.now();
            }
            match post.waiting.pop_front() {
                Some(piece) => post.flight.push_back(piece),
                None => self.stream.iter_mut().for_each(|stream| stream.sent = true),
            }
        }
        Ok(moved)
    }

    /// The order for the piece that a seat should get next.
    fn next_order(&mut self, at: usize) -> Result<Option<Order>, LineError> {
        let last = at + 1 == self.posts.len();
        let post = &mut self.posts[at];
        let Some(piece) = post.waiting.front() else {
            let stream = self.stream.as_ref().filter(|stream| at == 0 && !stream.sent);
            return Ok(stream.and_then(|stream| {
                Some(Order::Generate {
                    last: *self.tokens.last()?,
                    tokens_max: stream.left,
                    ends: stream.ends.clone(),
                })
            }));
        };
        if post.flight.len() >= FLIGHT_MAX {
            return Ok(None);
        }
        let (from, to) = (piece.first, piece.end());
        let input = if at == 0 {
            StageInput::Tokens(self.tokens[from..to].to_vec())
        } else {
            let ids = last && self.sampling.looks_back();
            StageInput::Rows {
                hidden: post.inputs.read(from, to)?,
                tokens: if ids {
                    self.tokens[from..to].to_vec()
                } else {
                    Vec::new()
                },
            }
        };
        Ok(Some(Order::Forward(Forward {
            first: Position(from as u32),
            input,
            answers: answers(piece, last) as u32,
        })))
    }

    /// Takes a reply in. The inner error is the seat's fault.
    fn take(&mut self, at: usize, reply: Reply) -> Result<Result<(), SeatError>, LineError> {
        let last = at + 1 == self.posts.len();
        let post = &mut self.posts[at];
        post.since = self.clock.now();
        let Some(piece) = post.flight.pop_front() else {
            return Ok(self.take_streamed(at, &reply));
        };
        if let Err(why) = fits(&reply, &piece, last, &self.model, &self.tokens) {
            let node = post.node;
            // What was asked is still to be answered, by somebody else.
            post.flight.push_front(piece);
            return Ok(Err(SeatError::Wrong { node, why }));
        }
        if piece.kind == Kind::Replay || piece.live == 0 {
            return Ok(Ok(()));
        }
        match reply {
            Reply::Choices { first, tokens } if piece.wanted > 0 => {
                self.chosen.push_back(Chosen { first, tokens })
            }
            Reply::Choices { .. } => {}
            Reply::Rows { hidden, .. } => {
                let next = &mut self.posts[at + 1];
                next.inputs.push(&hidden.rows[..piece.live * hidden.width])?;
                next.waiting.push_back(Piece {
                    tokens: piece.live,
                    ..piece
                });
            }
        }
        Ok(Ok(()))
    }

    /// Takes in a token that a node chose on its own.
    fn take_streamed(&mut self, at: usize, reply: &Reply) -> Result<(), SeatError> {
        let node = self.posts[at].node;
        let wrong = |why: &str| SeatError::Wrong {
            node,
            why: why.to_owned(),
        };
        let (Some(stream), Reply::Choices { first, tokens }) = (&mut self.stream, reply) else {
            return Err(wrong("nothing was asked"));
        };
        let [token] = tokens[..] else {
            return Err(wrong("one token at a time was asked for"));
        };
        if !stream.sent || first.index() != self.tokens.len() || token.index() >= self.model.vocab {
            return Err(wrong("the token is for another place"));
        }
        stream.left -= 1;
        if stream.left == 0 || stream.ends.contains(&token) {
            self.stream = None;
        } else {
            self.tokens.push(token);
        }
        self.chosen.push_back(Chosen {
            first: *first,
            tokens: vec![token],
        });
        Ok(())
    }

    /// Gives a lost seat's stage to somebody else.
    fn replace(&mut self, at: usize, error: SeatError) -> Result<(), LineError> {
        if matches!(error, SeatError::Stopped) {
            self.take_back(at);
            return Err(LineError::Cancelled);
        }
        let node = self.posts[at].node;
        if matches!(error, SeatError::Expired { .. }) {
            // The node is well, and as good as any other to begin anew with.
            self.unseat(at);
            return self.open(at, None);
        }
        self.lost.push((node, self.clock.now()));
        for other in 0..self.posts.len() {
            if self.posts[other].node == node {
                self.unseat(other);
            }
        }
        self.open(at, Some(error))
    }

    /// Puts pieces under way back to where they wait.
    fn take_back(&mut self, at: usize) {
        let post = &mut self.posts[at];
        while let Some(piece) = post.flight.pop_back() {
            let tokens = piece.live;
            post.waiting.push_front(Piece { tokens, ..piece });
        }
        post.waiting.retain(|piece| piece.live > 0);
        if at == 0 {
            self.stream.iter_mut().for_each(|stream| stream.sent = false);
        }
    }

    /// Leaves a seat; what was under way waits for the next one.
    fn unseat(&mut self, at: usize) {
        self.take_back(at);
        let post = &mut self.posts[at];
        post.waiting.retain(|piece| piece.kind == Kind::New);
        if let Some(seat) = post.seat.take() {
            self.traffic += seat.traffic();
        }
    }

    /// Opens a seat for a stage at its node, or at another where that one was lost, and lets it replay what went in.
    fn open(&mut self, at: usize, lost: Option<SeatError>) -> Result<(), LineError> {
        let (noticed, from, layers) = (self.clock.now(), self.posts[at].node, self.posts[at].layers);
        let mut cause = lost;
        loop {
            let Some(host) = self.substitute(at) else {
                let nobody = || SeatError::Lost {
                    node: from,
                    why: "it failed a moment ago".to_owned(),
                };
                let cause = cause.unwrap_or_else(nobody);
                return Err(LineError::NoSeat { layers, cause });
            };
            let (node, spec) = (host.node(), self.spec(at));
            self.sessions = self.sessions.wrapping_add(1);
            match host.open(SessionId(self.sessions), &spec, &self.bell) {
                Ok(seat) => {
                    self.posts[at].seat = Some(seat);
                    self.posts[at].node = node;
                    self.replay(at);
                    if node != from {
                        let elsewhere = || "it failed in another stage".to_owned();
                        self.moves.push(Move {
                            layers,
                            from,
                            to: node,
                            why: cause.map_or_else(elsewhere, |cause| cause.to_string()),
                            at: Position(self.tokens.len() as u32),
                            gap: None,
                            noticed,
                        });
                    }
                    return Ok(());
                }
                Err(error) => {
                    self.lost.push((node, self.clock.now()));
                    cause = Some(error);
                }
            }
        }
    }

    /// Who should hold a stage: its own node unless lost, else the one that holds the fewest layers of this line.
    fn substitute(&self, at: usize) -> Option<Arc<dyn Host>> {
        let lost = |node: NodeId| self.lost.iter().any(|(lost, _)| *lost == node);
        let load = |node: NodeId| -> usize {
            let others = self.posts.iter().enumerate().filter(|(other, _)| *other != at);
            let theirs = others.filter(|(_, post)| post.node == node);
            theirs.map(|(_, post)| post.layers.len().max(1)).sum()
        };
        let here = self.posts[at].node;
        let candidates = self.hosts.iter().filter(|host| !lost(host.node()));
        candidates
            .min_by_key(|host| (host.node() != here, load(host.node())))
            .cloned()
    }

    fn spec(&self, at: usize) -> StageSpec {
        let last = at + 1 == self.posts.len();
        StageSpec {
            model: self.model.hash,
            layers: self.posts[at].layers,
            context: self.model.context as u32,
            kv_format: self.model.kv_format,
            choose: last.then(|| self.sampling.clone()),
        }
    }

    /// Lets a new seat catch up with what its stage has been through.
    fn replay(&mut self, at: usize) {
        let solid = self.solid(at);
        let waiting = &mut self.posts[at].waiting;
        for from in (0..solid).step_by(REPLAY_TOKENS).rev() {
            let tokens = REPLAY_TOKENS.min(solid - from);
            waiting.push_front(Piece {
                first: from,
                tokens,
                live: tokens,
                wanted: 0,
                kind: Kind::Replay,
            });
        }
    }

    /// Tokens that a stage has been through for good: everything before its oldest unanswered piece.
    fn solid(&self, at: usize) -> usize {
        let post = &self.posts[at];
        let open = post.flight.iter().chain(&post.waiting);
        let open = open.filter(|piece| piece.kind == Kind::New && piece.live > 0);
        let fed = if at == 0 {
            self.tokens.len()
        } else {
            post.inputs.len()
        };
        // The last token of a stream goes in with the order itself.
        let streamed = usize::from(at == 0 && self.stream.is_some());
        open.map(|piece| piece.first).min().unwrap_or(fed - streamed)
    }

    /// Takes back what was fed from position `to` on.
    fn truncate(&mut self, to: usize) {
        if to >= self.tokens.len() && self.stream.is_none() {
            return;
        }
        self.tokens.truncate(to);
        self.chosen.clear();
        for post in &mut self.posts {
            post.inputs.truncate(to);
            post.flight.iter_mut().for_each(|piece| piece.cut(to));
            post.waiting.iter_mut().for_each(|piece| {
                piece.cut(to);
                piece.tokens = piece.live;
            });
            post.waiting.retain(|piece| piece.live > 0);
        }
    }

    /// Tells moves that nobody has waited out yet how long the wait was.
    fn note_gap(&mut self) {
        for moved in self.moves.iter_mut().filter(|moved| moved.gap.is_none()) {
            moved.gap = Some(self.clock.now().saturating_duration_since(moved.noticed));
        }
    }
}

/// Rows of a piece that its stage has to answer.
fn answers(piece: &Piece, last: bool) -> usize {
    match piece.kind {
        Kind::Replay => 0,
        Kind::New if last => piece.wanted,
        Kind::New => piece.tokens,
    }
}

/// Whether a reply is one to this piece of what was `fed`.
fn fits(reply: &Reply, piece: &Piece, last: bool, model: &LineModel, fed: &[TokenId]) -> Result<(), String> {
    // A piece that was cut while under way was sent whole.
    let sent = piece.tokens;
    let (count, first, wanted) = match reply {
        Reply::Rows { first, hidden } => {
            let shaped = hidden.width == model.width && hidden.rows.len().is_multiple_of(model.width.max(1));
            if last || !shaped {
                return Err("rows of another shape".to_owned());
            }
            // What became void while under way may be left out.
            let wanted = match piece.kind {
                _ if piece.live == 0 => hidden.tokens(),
                Kind::Replay => 0,
                Kind::New => sent,
            };
            (hidden.tokens(), first.index(), wanted)
        }
        Reply::Choices { first, tokens } => {
            if !last || tokens.iter().any(|token| token.index() >= model.vocab) {
                return Err("tokens that do not exist or were not asked for".to_owned());
            }
            // How many were wanted when it was sent is forgotten once it was cut.
            let wanted = if piece.live < sent {
                tokens.len()
            } else {
                piece.wanted
            };
            // A peer leaves out what follows a guess that was wrong: nobody would use it.
            let guess = fed.get((first.index() + tokens.len()).saturating_sub(1));
            let ends_early = !tokens.is_empty() && guess.is_some() && tokens.last() != guess;
            let told = if ends_early {
                wanted.max(tokens.len())
            } else {
                tokens.len()
            };
            (told, first.index() - 1.min(first.index()), wanted)
        }
    };
    if count != wanted {
        return Err(format!("{count} rows, asked for {wanted}"));
    }
    if first + count != piece.first + sent {
        return Err(format!(
            "for position {first}, asked for {}",
            piece.first + sent - wanted
        ));
    }
    Ok(())
}

/// A number that sessions of this process count on from: two desks that use one node should not meet.
fn first_session() -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    RandomState::new().build_hasher().finish()
}
