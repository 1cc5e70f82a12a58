//! A line of seats: the layers of one model, laid out over nodes, for one conversation.
//!
//! Tokens are fed in at one end and chosen tokens come out at the other; in between, hidden states pass from stage to
//! stage, many pieces under way at once. The line keeps what went into each stage. When a seat is lost it gives the
//! stage to another node, replays that, and goes on: whoever feeds and collects does not notice, and because every stage
//! computes the same bits everywhere, neither does the text.
//!
//! Embedding alone and choosing alone are stages too, with an empty range of layers: `0..0` at the desk keeps the ids
//! at home, `n..n` keeps the logits there.

mod cut;
mod history;
mod hops;
mod layout;
mod opening;
mod post;
mod recovery;
mod tempo;

pub use layout::{Layout, Standing, Steering};

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use heph_engine::model::Model;
use heph_engine::sample::{RunnerUp, SamplingOptions};
use heph_plan::replan::MoveBy;
use heph_types::{
    Branch, Course, Forward, KvFormat, LayerRange, ModelHash, NodeId, Order, Position, Reply, StageInput,
    TokenId,
};

use crate::cancel::Cancel;
use crate::clock::{Clock, SystemClock};
use crate::seat::{Bell, Host, SeatError, Traffic, Vouched};
use history::{History, HistoryLimits};
use hops::Promise;
use post::{Kind, Piece, Post, answers, fits};

/// Orders that a line keeps under way at one seat: enough to fill a link of 300 ms with chunks of 10 ms.
const FLIGHT_MAX: usize = 32;

/// Tokens that are replayed in one order.
const REPLAY_TOKENS: usize = 256;

/// Moves that are told of one answer; a line that moves more often is told of no further.
const MOVES_MAX: usize = 1024;

/// Seats of a stage that may expire one after the other at the same node before it is taken for lost.
const EXPIRED_MAX: usize = 3;

/// How long a node that was lost is not asked again.
const FORGIVEN_AFTER: Duration = Duration::from_secs(30);

/// How long a line waits in all for nodes that are full, where nobody else could take a stage.
const BUSY_WAIT_MAX: Duration = Duration::from_secs(60);

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
    /// How long a seat whose pace is not known yet may be silent over a piece of work,
    pub patience: Duration,
    /// and how much longer for each token in it.
    pub patience_per_token: Duration,
    /// How long a seat is waited for at the least once its pace is known; else by its pace.
    pub patience_least: Duration,
    /// Tokens of a prompt that travel together, on average: see `line/cut.rs`. Shorter pieces keep more stages busy, longer
    /// ones run faster.
    pub chunk: usize,
    /// Bytes of rows kept in memory for one stage; older ones go to disk.
    pub history_bytes: usize,
    /// Bytes of rows that one stage may have on disk.
    pub history_disk_bytes: u64,
}

impl LineLimits {
    fn history(&self) -> HistoryLimits {
        HistoryLimits {
            memory: self.history_bytes,
            disk: self.history_disk_bytes,
        }
    }
}

impl Default for LineLimits {
    fn default() -> Self {
        Self {
            patience: Duration::from_secs(3),
            patience_per_token: Duration::from_millis(100),
            patience_least: Duration::from_secs(1),
            chunk: 64,
            history_bytes: history::MEMORY_BYTES_MAX,
            history_disk_bytes: history::DISK_BYTES_MAX,
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
    /// Whether they run along a branch: all but the last count as fed then, in place of the guesses.
    pub branched: bool,
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
    /// Whether the old holder was lost, and neither gave them away nor had no room for them.
    pub lost: bool,
    /// How what the caches hold came to the new node.
    pub by: MoveBy,
    /// Tokens that the old holder had computed by then.
    pub at: Position,
    /// From the loss being noticed to the next chosen token.
    pub gap: Option<Duration>,
    /// How long there was no token: from the last one before it, or from where the answer began, to the next.
    pub silence: Option<Duration>,
    /// When the loss was noticed.
    noticed: Instant,
}

/// A node that is asked no more for a while.
struct Loss {
    node: NodeId,
    when: Instant,
    /// It is there, and has no room.
    full: bool,
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
    /// Positions that its seats are opened for: conversations are shorter for a while where memory is short.
    context: usize,
    hosts: Vec<Arc<dyn Host>>,
    limits: LineLimits,
    posts: Vec<Post>,
    /// Every token that was fed: the history of the first stage.
    tokens: Vec<TokenId>,
    sampling: SamplingOptions,
    stream: Option<Stream>,
    /// How the guesses that were fed last may go on in other ways.
    forked: Option<Forked>,
    chosen: VecDeque<Chosen>,
    lost: Vec<Loss>,
    /// Nodes that were full, and when they may have room.
    busy: Vec<(NodeId, Instant)>,
    /// How long it waits in all for nodes that are full.
    room_wait: Duration,
    /// Since when nodes have had no room for what this line has begun, without a token in between.
    short_since: Option<Instant>,
    moves: Vec<Move>,
    /// Whether rows may go from node to node.
    forwards: bool,
    /// The last name that was given to rows.
    tags: u64,
    /// Hops that ended, a sentence each.
    parted: Vec<String>,
    steering: Option<Box<dyn Steering>>,
    /// Who held the whole model when the line was made; `None` where nobody did.
    began_at: Option<NodeId>,
    /// What the answer may still have, as its teller said last.
    tokens_left: usize,
    /// Who may stop it.
    cancel: Option<Cancel>,
    /// Time spent waiting for seats.
    waited: Duration,
    /// When a token was told last, or the answer began.
    told: Instant,
    clock: Arc<dyn Clock>,
    bell: Bell,
    sessions: u64,
    /// Of seats that are gone.
    traffic: Traffic,
}

/// Guesses that branch.
struct Forked {
    /// Where the piece begins, and how many tokens and answers it has.
    first: usize,
    tokens: usize,
    answers: usize,
    branches: Vec<Branch>,
}

/// A node that holds the whole model goes on alone.
struct Stream {
    left: u32,
    ends: Vec<TokenId>,
    /// Whether the seat knows.
    sent: bool,
}

impl Forked {
    /// Whether it is about this piece, as it was fed.
    fn is(&self, piece: &Piece) -> bool {
        let whole = piece.live == piece.tokens && piece.tokens == self.tokens;
        whole && piece.first == self.first && piece.kind == Kind::New
    }

    /// How an answer to the piece ran along a branch; `None` where it did not.
    fn course(&self, piece: &Piece, reply: &Reply, fed: &[TokenId]) -> Option<Course> {
        let Reply::Choices { tokens, .. } = reply else {
            return None;
        };
        let guesses = fed
            .get(self.first..self.first + self.tokens)
            .filter(|_| self.is(piece))?;
        let course = Course::of(guesses, self.answers, &self.branches, tokens);
        // An end that knows no branches tells no more than the first token of one.
        course
            .branch
            .filter(|_| tokens.len() > course.agreed + 1)
            .map(|_| course)
    }

    /// Whether an answer that ran along a branch is one that can be.
    fn fits(&self, course: &Course, reply: &Reply, model: &LineModel) -> Result<(), String> {
        let Reply::Choices { first, tokens } = reply else {
            return Err("rows where tokens were asked for".to_owned());
        };
        if first.index() != self.first + self.tokens - self.answers + 1 {
            return Err("tokens for another place".to_owned());
        }
        if tokens.len() != course.right() + 1 || tokens.iter().any(|token| token.index() >= model.vocab) {
            return Err("tokens that do not exist or were not asked for".to_owned());
        }
        Ok(())
    }
}

/// An order that a seat took in.
enum Submitted {
    /// A piece: the seat's cache will end here.
    Piece { end: usize },
    /// What stands from here on is forgotten.
    Rollback { to: usize },
    /// The node goes on alone.
    Stream,
}

impl Submitted {
    fn of(order: &Order) -> Self {
        match order {
            Order::Forward(forward) => Self::Piece {
                end: forward.first.index() + forward.input.tokens(),
            },
            Order::Rollback(to) => Self::Rollback { to: to.index() },
            Order::Generate { .. } => Self::Stream,
        }
    }
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
        layout::check(&model, &hosts, stages)?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let inputs = || History::new(model.width, limits.history());
        let post = |stage: &Placement| Post::vacant(stage, inputs(), clock.now());
        Ok(Self {
            posts: stages.iter().map(post).collect(),
            context: model.context,
            model,
            hosts,
            limits,
            tokens: Vec::new(),
            sampling: SamplingOptions::greedy(),
            stream: None,
            forked: None,
            chosen: VecDeque::new(),
            lost: Vec::new(),
            busy: Vec::new(),
            room_wait: BUSY_WAIT_MAX,
            short_since: None,
            moves: Vec::new(),
            forwards: false,
            tags: 0,
            parted: Vec::new(),
            steering: None,
            began_at: match stages {
                [whole] => Some(whole.node),
                _ => None,
            },
            tokens_left: 0,
            cancel: None,
            waited: Duration::ZERO,
            told: clock.now(),
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
        self.told = clock.now();
        self.clock = clock;
        self
    }

    /// The line that waits for no node that is full: what it brings is worth less than that.
    pub fn waiting_for_no_room(mut self) -> Self {
        self.room_wait = Duration::ZERO;
        self
    }

    /// The line that waits for nobody any more once `cancel` is raised, whoever feeds it.
    pub fn stopped_by(mut self, cancel: &Cancel) -> Self {
        self.cancel = Some(cancel.clone());
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

    /// Time spent waiting for seats so far: what the desk could have used for guessing.
    pub fn waited(&self) -> Duration {
        self.waited
    }

    /// What the nodes of the line sign that they computed, as far as each does so within this time.
    pub fn vouched(&mut self, within: Duration) -> Vec<Vouched> {
        let seats = self.posts.iter_mut().filter_map(|post| post.seat.as_mut());
        seats.filter_map(|seat| seat.vouch(within)).collect()
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
        self.parted.clear();
        self.busy.clear();
        self.short_since = None;
        let now = self.clock.now();
        self.told = now;
        self.lost
            .retain(|loss| now.saturating_duration_since(loss.when) < FORGIVEN_AFTER);
        if self.hosts.iter().all(|host| self.is_lost(host.node())) {
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
        self.forked = None;
        self.tokens.extend_from_slice(tokens);
        let unanswered = tokens.len() - answers;
        for piece in cut::pieces(tokens.len(), self.limits.chunk, !self.is_whole()) {
            let wanted = piece.end.saturating_sub(unanswered.max(piece.start));
            let piece = Piece::new(first + piece.start, piece.len(), wanted, Kind::New);
            self.posts[0].waiting.push_back(piece);
        }
    }

    /// As [`Line::feed`], with other ways in which the tokens may go on. They are looked at where one node holds the whole
    /// model and takes the tokens in one piece that keeps the rules of [`Branch::check`]; they change no token.
    ///
    /// # Panics
    /// As [`Line::feed`].
    pub fn feed_guesses(&mut self, first: usize, tokens: &[TokenId], answers: usize, branches: Vec<Branch>) {
        self.feed(first, tokens, answers);
        let together = self.is_whole() && tokens.len() <= self.limits.chunk.max(1);
        let sound = !branches.is_empty() && Branch::check(&branches, tokens, answers).is_ok();
        self.forked = (together && sound).then_some(Forked {
            first,
            tokens: tokens.len(),
            answers,
            branches,
        });
    }

    /// The second best choice in place of the last token that was chosen for a lone row.
    pub fn runner_up(&mut self) -> Option<RunnerUp> {
        self.posts.last_mut()?.seat.as_mut()?.runner_up()
    }

    /// Feeds `last` behind what was fed and lets the model go on alone from there, for `tokens_max` tokens or until one of
    /// `ends`. The chosen tokens count as fed, but for the last one. A line of several stages feeds each itself.
    pub fn generate(&mut self, last: TokenId, tokens_max: u32, ends: &[TokenId]) {
        self.stream = Some(Stream {
            left: tokens_max,
            ends: ends.to_vec(),
            sent: false,
        });
        self.go_on_with(last);
    }

    /// Lets a stream go on after `token`.
    fn go_on_with(&mut self, token: TokenId) {
        self.tokens.push(token);
        if !self.is_whole() {
            let piece = Piece::new(self.tokens.len() - 1, 1, 1, Kind::New);
            self.posts[0].waiting.push_back(piece);
        }
    }

    /// Whether this line can go on alone: one node holds the whole model.
    pub fn is_whole(&self) -> bool {
        self.posts.len() == 1
    }

    /// Whether one node holds the whole model that did not when the line was made: how its tokens are asked for was chosen
    /// for another layout.
    pub fn is_whole_by_move(&self) -> bool {
        self.is_whole() && self.began_at != Some(self.posts[0].node)
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

    /// Waits until everything that was fed is in the caches. Nothing of it may be waited for as an answer.
    ///
    /// # Errors
    /// As [`Line::collect`].
    pub fn catch_up(&mut self, cancel: &Cancel) -> Result<(), LineError> {
        let busy = |post: &Post| !(post.flight.is_empty() && post.waiting.is_empty());
        while self.posts.iter().any(busy) {
            if cancel.is_raised() {
                return Err(LineError::Cancelled);
            }
            let seen = self.bell.rings();
            if !self.turn()? {
                self.wait(seen)?;
            }
        }
        Ok(())
    }

    /// Makes conversations as long as this, and never shorter than what was fed. Seats stay, and new ones are as good for longer ones.
    pub fn limit_context(&mut self, positions: usize) {
        self.model.context = positions.max(self.tokens.len());
    }

    /// Keeps caches in another format from now on: every stage is opened anew and replays what went in. The bits of what
    /// follows are those of the new format.
    pub fn store_as(&mut self, format: KvFormat) {
        self.model.kv_format = format;
        (0..self.posts.len()).for_each(|at| self.unseat(at));
    }

    /// Goes on with another model of the same shape and words, at `host` alone: what was fed goes through it anew. The bits
    /// of what follows are those of that model.
    ///
    /// # Errors
    /// When the host cannot open a stage.
    pub fn answer_from(&mut self, host: Arc<dyn Host>) -> Result<(), LineError> {
        (0..self.posts.len()).for_each(|at| self.unseat(at));
        self.posts.iter_mut().for_each(|post| post.node = host.node());
        self.lost.clear();
        // The old one gives its memory back before the new one takes its own.
        self.hosts = vec![host];
        (0..self.posts.len()).try_for_each(|at| self.open(at, None))
    }

    /// The next chosen tokens, in the order in which they were asked for.
    ///
    /// # Errors
    /// When no node is left for a stage, or `cancel` is raised.
    ///
    /// # Panics
    /// When nothing was asked for.
    pub fn collect(&mut self, cancel: &Cancel) -> Result<Chosen, LineError> {
        self.cancel = Some(cancel.clone());
        loop {
            if let Some(chosen) = self.chosen.pop_front() {
                self.short_since = None;
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
        if let Some(stream) = self.stream.take()
            && self.is_whole()
        {
            self.leave_stream(stream.sent);
        }
        // A seat for what was asked before would choose by that, and what leaves for it belongs to it.
        self.posts.iter_mut().for_each(|post| post.opening = None);
        let held = self.held();
        self.truncate(held);
        self.chosen.clear();
        held
    }

    /// Takes back a stream. The seat may have chosen more than it was heard to; the last token that it was given or told
    /// need not be in its cache.
    fn leave_stream(&mut self, sent: bool) {
        let to = self.tokens.len().saturating_sub(1);
        self.tokens.truncate(to);
        let post = &mut self.posts[0];
        let idle = post.flight.is_empty() && post.waiting.is_empty();
        let leaves = |post: &mut Post| {
            let seat = post.seat.as_mut();
            sent && idle && seat.is_some_and(|seat| seat.leave(Position(to as u32)))
        };
        if leaves(post) {
            post.reach = to;
        } else {
            self.unseat(0);
            // The last token may wait as a step, where the line went from stages to one.
            let waiting = &mut self.posts[0].waiting;
            waiting.iter_mut().for_each(|piece| piece.cut(to));
            waiting.retain(|piece| piece.live > 0);
        }
    }

    /// Looks at every seat once, the last first: what comes out of the line matters most. Returns whether anything moved.
    fn turn(&mut self) -> Result<bool, LineError> {
        self.tend_hops();
        let mut moved = false;
        // A seat here computes as it is looked at: what others are to get is on its way before.
        for at in (0..self.posts.len()).rev() {
            moved |= self.push(at)?;
        }
        for at in (0..self.posts.len()).rev() {
            // Whoever was lost may have taken stages with it.
            let Some(seat) = self.posts.get_mut(at).and_then(|post| post.seat.as_mut()) else {
                continue;
            };
            let fault = match seat.poll() {
                Ok(None) => continue,
                Ok(Some(reply)) => self.take(at, reply)?.err(),
                Err(error) => Some(error),
            };
            moved = true;
            if let Some(fault) = fault {
                self.replace(at, fault)?;
                return Ok(true);
            }
        }
        Ok(moved)
    }

    /// Waits for a bell or for the first seat's patience to end; a seat that is too late is replaced.
    fn wait(&mut self, seen: u64) -> Result<(), LineError> {
        let now = self.clock.now();
        let deadlines = (0..self.posts.len()).filter_map(|at| self.deadline(at).map(|when| (when, at)));
        // Whoever is asked for a seat answers within a time of its own.
        let opens = self.posts.iter().any(|post| post.opening.is_some());
        let look = now + CANCEL_LOOK;
        let Some((deadline, at)) = deadlines.min().or(opens.then_some((look, 0))) else {
            unreachable!("something was asked for");
        };
        if deadline <= now {
            let Post { node, since, .. } = self.posts[at];
            let waited = now - since;
            let promised = self.posts[at].flight.front().is_some_and(|piece| piece.promised);
            if let Some(before) = at
                .checked_sub(1)
                .filter(|before| promised && self.forwards(*before))
            {
                // The node before has done its part: whether it is the way between the two or this one is seen next.
                self.posts[at].since = now;
                self.part(before, "nothing came of them in time");
                return Ok(());
            }
            return self.replace(at, SeatError::Late { node, waited });
        }
        self.clock.wait(&self.bell, seen, deadline.min(look));
        self.waited += self.clock.now().saturating_duration_since(now);
        Ok(())
    }

    /// Until when the seat may be silent; `None` where nothing is under way.
    fn deadline(&self, at: usize) -> Option<Instant> {
        let post = &self.posts[at];
        if post
            .flight
            .front()
            .is_some_and(|piece| piece.promised && !piece.given)
        {
            // The node that hands its rows over is waited for.
            return None;
        }
        let streams = at == 0 && self.stream.as_ref().is_some_and(|stream| stream.sent);
        let tokens = post
            .flight
            .front()
            .map(|piece| piece.tokens)
            .or(streams.then_some(1))?;
        let LineLimits {
            patience,
            patience_per_token,
            patience_least,
            ..
        } = self.limits;
        let unknown = || patience + patience_per_token * tokens as u32;
        let known = post.tempo.patience(tokens).map(|own| own.max(patience_least));
        Some(post.since + known.unwrap_or_else(unknown))
    }

    /// Hands waiting pieces to a seat, opening it first where there is none. Returns whether it did anything.
    fn push(&mut self, at: usize) -> Result<bool, LineError> {
        let mut moved = false;
        while let Some(order) = self.next_order(at)? {
            if self.posts[at].seat.is_none() {
                if !self.seated(at)? {
                    break;
                }
                moved = true;
                continue;
            }
            moved = true;
            let post = &mut self.posts[at];
            let Some(seat) = &mut post.seat else { continue };
            let kind = Submitted::of(&order);
            let pass = match &order {
                Order::Forward(forward) => forward.pass,
                Order::Rollback(_) | Order::Generate { .. } => None,
            };
            if let Err(error) = seat.submit(order) {
                self.replace(at, error)?;
                return Ok(true);
            }
            if post.flight.is_empty() {
                post.since = self.clock.now();
            }
            match kind {
                Submitted::Piece { end } => {
                    post.reach = end;
                    post.flight.extend(post.waiting.pop_front());
                }
                Submitted::Rollback { to } => post.reach = to,
                Submitted::Stream => {
                    post.tempo.forget_short();
                    self.stream.iter_mut().for_each(|stream| stream.sent = true);
                }
            }
            if let Some(pass) = pass {
                self.promise(at, pass.tag)?;
            }
        }
        Ok(moved)
    }

    /// The order for the piece that a seat should get next.
    fn next_order(&mut self, at: usize) -> Result<Option<Order>, LineError> {
        let (last, alone) = (at + 1 == self.posts.len(), self.posts.len() == 1);
        let Some(post) = self.posts.get_mut(at) else {
            return Ok(None);
        };
        let Some(piece) = post.waiting.front() else {
            let asked = post.flight.iter().any(|piece| piece.wanted > 0);
            let stream = self
                .stream
                .as_ref()
                .filter(|stream| alone && !stream.sent && !asked);
            let last = self.tokens.last().copied();
            let Some((stream, last)) = stream.zip(last) else {
                return Ok(None);
            };
            // A node goes on from the end of its cache, where guesses may stand that were wrong.
            let to = self.tokens.len() - 1;
            if post.reach > to {
                return Ok(Some(Order::Rollback(Position(to as u32))));
            }
            return Ok(Some(Order::Generate {
                last,
                tokens_max: stream.left,
                ends: stream.ends.clone(),
            }));
        };
        if post.flight.len() >= FLIGHT_MAX {
            return Ok(None);
        }
        let (piece, from, to) = (*piece, piece.first, piece.end());
        let pass = match self.may_promise(at, &piece) {
            Promise::Yes => Some(self.pass()),
            Promise::Later => return Ok(None),
            Promise::No => None,
        };
        let post = &mut self.posts[at];
        let input = if at == 0 {
            let tokens = self.tokens[from..to].to_vec();
            match self.forked.as_ref().filter(|forked| alone && forked.is(&piece)) {
                Some(Forked { branches, .. }) => StageInput::Guesses {
                    tokens,
                    branches: branches.clone(),
                },
                None => StageInput::Tokens(tokens),
            }
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
            answers: answers(&piece, last) as u32,
            pass,
        })))
    }

    /// Takes a reply in. The inner error is the seat's fault.
    fn take(&mut self, at: usize, reply: Reply) -> Result<Result<(), SeatError>, LineError> {
        let last = at + 1 == self.posts.len();
        let (post, now) = (&mut self.posts[at], self.clock.now());
        let took = now.saturating_duration_since(std::mem::replace(&mut post.since, now));
        let tells = post.seat.as_ref().is_none_or(|seat| seat.is_settled());
        let Some(piece) = post.flight.pop_front() else {
            if tells {
                post.tempo.saw(1, took);
            }
            post.expired = 0;
            return Ok(self.take_streamed(at, &reply));
        };
        // A row of stages was told no branches, whatever its choices look like.
        let forked = self.forked.as_ref().filter(|_| last && at == 0);
        let course = forked.and_then(|forked| forked.course(&piece, &reply, &self.tokens));
        let fit = match (&course, forked) {
            (Some(course), Some(forked)) => forked.fits(course, &reply, &self.model),
            _ => fits(&reply, &piece, last, &self.model, &self.tokens),
        };
        if let Err(why) = fit {
            let node = post.node;
            // What was asked is still to be answered, by somebody else.
            post.flight.push_front(piece);
            return Ok(Err(SeatError::Wrong { node, why }));
        }
        if tells && (piece.given || !piece.promised) {
            post.tempo.saw(piece.tokens, took);
        }
        if piece.kind == Kind::Replay || piece.live == 0 {
            return Ok(Ok(()));
        }
        post.expired = 0;
        match reply {
            Reply::Choices { first, tokens } if piece.wanted > 0 => {
                if let Some(token) = tokens.last() {
                    self.take_step(*token);
                }
                let branched = course.is_some();
                if let Some(course) = course {
                    // What was fed are the tokens that were chosen: they are in the cache.
                    let right = course.right();
                    self.tokens.truncate(first.index());
                    self.tokens.extend_from_slice(&tokens[..right]);
                    self.forked = None;
                }
                self.chosen.push_back(Chosen {
                    first,
                    tokens,
                    branched,
                });
            }
            Reply::Choices { .. } => {}
            Reply::Rows { hidden, .. } => self.pass_on(at, piece, &hidden.rows)?,
        }
        Ok(Ok(()))
    }

    /// Hands a stage's rows on to the next one.
    fn pass_on(&mut self, at: usize, piece: Piece, rows: &[f32]) -> Result<(), LineError> {
        let known = self.known_after(at + 1);
        let copy = piece.kind == Kind::Copy;
        let copied = copy && self.copied(at, &piece);
        let next = &mut self.posts[at + 1];
        // Rows that it has already, because it was told them by another seat before.
        let had = next.inputs.len().saturating_sub(piece.first).min(piece.live);
        let (first, tokens) = (piece.first + had, piece.live - had);
        if tokens == 0 {
            return Ok(());
        }
        let width = self.model.width;
        next.inputs.push(&rows[had * width..piece.live * width])?;
        if copied {
            return Ok(());
        }
        let kind = match piece.kind {
            // Another seat answered it, and this one has yet to hear of it.
            Kind::Copy | Kind::Rebuild if known >= first + tokens => Kind::Replay,
            Kind::Copy => Kind::Rebuild,
            kind => kind,
        };
        let wanted = if copy { 0 } else { piece.wanted };
        next.waiting.push_back(Piece::new(first, tokens, wanted, kind));
        Ok(())
    }

    /// A stream's token that came step by step: the next one is asked for.
    fn take_step(&mut self, token: TokenId) {
        let Some(stream) = &mut self.stream else { return };
        stream.left = stream.left.saturating_sub(1);
        if stream.left == 0 || stream.ends.contains(&token) {
            self.stream = None;
        } else {
            self.go_on_with(token);
        }
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
        // What it chose on its own stands in its cache: whoever asks it for another answer has to take that back.
        let post = &mut self.posts[at];
        post.reach = post.reach.max(self.tokens.len());
        self.take_step(token);
        self.chosen.push_back(Chosen {
            first: *first,
            tokens: vec![token],
            branched: false,
        });
        Ok(())
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
        (0..self.posts.len()).for_each(|at| self.forgo(at, to));
    }
}

/// A number that sessions of this process count on from: two desks that use one node should not meet.
fn first_session() -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    RandomState::new().build_hasher().finish()
}
