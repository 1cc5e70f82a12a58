//! Continuous batching: many sequences through one worker, each joining and leaving at any step.
//!
//! Every step takes one token of each sequence that is answering, fills the rest of its token budget with
//! pieces of prompts, and runs them together. A sequence's tokens do not depend on its neighbours: the
//! engine's rows are exact, and its draws are keyed by its own seed and position.

use crate::cache::{CacheError, KvCache};
use crate::constrain::{Constraint, ConstraintError};
use crate::graph::Work;
use crate::prefix::{BlockKey, NewBlock, PrefixCache, Reach, Share, common};
use crate::sample::{LogProbability, Sampler, SamplingError, SamplingOptions, log_probabilities};
use crate::worker::{ForwardError, Hidden, Keep, Part, Worker};
use heph_kernels::kv::PAGE;
use heph_types::{ModelHash, Position, TokenId};
use std::collections::VecDeque;

/// Names one sequence of a batch; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SequenceId(pub u64);

/// Who asks: those who wait have their turns by asker, so that nobody waits behind all that another asked. The number says
/// nothing but who is the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Asker(pub u64);

/// What a batch may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchLimits {
    /// Sequences that run together.
    pub running: usize,
    /// Sequences that wait for a place; one more is refused.
    pub waiting: usize,
    /// Tokens that go through a layer in one step.
    pub step_tokens: usize,
    /// Bytes of the caches of finished sequences that are kept for prompts that begin alike; they give way to sequences.
    pub prefix_bytes: u64,
}

impl Default for BatchLimits {
    fn default() -> Self {
        Self {
            running: 16,
            waiting: 256,
            step_tokens: crate::worker::CHUNK_DEFAULT,
            prefix_bytes: 64 << 20,
        }
    }
}

/// One answer asked for.
#[derive(Debug)]
pub struct Request {
    /// The prompt; at least one token.
    pub prompt: Vec<TokenId>,
    /// How to choose tokens.
    pub sampling: SamplingOptions,
    /// Tokens to make at most.
    pub max_tokens: usize,
    /// Tokens that end the answer; they are not part of it.
    pub stop_tokens: Vec<TokenId>,
    /// What the answer must look like.
    pub constraint: Option<Constraint>,
    /// How many of the likeliest tokens to report with each token; `None` reports no probability.
    pub logprobs: Option<usize>,
    /// Whom what is computed may serve again, and from whom it takes.
    pub share: Share,
    /// Whose turn it takes.
    pub asker: Asker,
    /// A cache of this model that holds the prompt's beginning already.
    pub cache: Option<KvCache>,
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// A stop token came, or the constraint is complete.
    Stop,
    /// It has as many tokens as asked for.
    Length,
    /// The context is full.
    Context,
}

/// A token's probability and those of the likeliest tokens in its place.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenReport {
    /// The chosen token's.
    pub chosen: LogProbability,
    /// The likeliest tokens', likeliest first.
    pub top: Vec<LogProbability>,
}

/// What a step did to a sequence.
#[derive(Debug)]
pub enum Event {
    /// The sequence has its place.
    Admitted {
        /// Whose.
        id: SequenceId,
        /// Tokens of the prompt that need not be computed.
        cached: usize,
    },
    /// One more token of the answer.
    Token {
        /// Whose.
        id: SequenceId,
        /// The token.
        token: TokenId,
        /// Its probability, if asked for.
        report: Option<TokenReport>,
    },
    /// The answer is complete.
    Finished {
        /// Whose.
        id: SequenceId,
        /// Why.
        why: Finish,
    },
    /// The answer cannot go on.
    Failed {
        /// Whose.
        id: SequenceId,
        /// Why.
        error: BatchError,
    },
    /// Whole blocks of a finished sequence that may be kept on disk, and were not given out for it before.
    Kept(Vec<NewBlock>),
}

/// Why a request was refused or an answer broke off.
#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    /// The prompt is empty.
    #[error("the prompt has no token")]
    EmptyPrompt,
    /// The cache that came with the request is none of this prompt.
    #[error("a cache of {held} positions came with a prompt of {tokens} tokens")]
    WrongCache {
        /// Positions that it holds.
        held: usize,
        /// Tokens of the prompt.
        tokens: usize,
    },
    /// The prompt leaves no room for an answer.
    #[error("the prompt has {tokens} tokens and the context holds {context}")]
    TooLong {
        /// Tokens of the prompt.
        tokens: usize,
        /// Positions of the context.
        context: usize,
    },
    /// Too many sequences wait already.
    #[error("{waiting} requests are waiting already")]
    Busy {
        /// How many wait.
        waiting: usize,
    },
    /// A pass failed.
    #[error(transparent)]
    Forward(#[from] ForwardError),
    /// No token could be chosen.
    #[error(transparent)]
    Sampling(#[from] SamplingError),
    /// The constraint broke.
    #[error(transparent)]
    Constraint(#[from] ConstraintError),
}

struct Sequence {
    id: SequenceId,
    /// Prompt and answer so far.
    tokens: Vec<TokenId>,
    prompt: usize,
    cache: KvCache,
    sampling: SamplingOptions,
    max_tokens: usize,
    stop_tokens: Vec<TokenId>,
    constraint: Option<Constraint>,
    logprobs: Option<usize>,
    share: Share,
    asker: Asker,
    /// Those whose turn begins first have the next place.
    turn: u64,
    /// Where its asker's next turn begins: behind all tokens that this one may take.
    turn_end: u64,
    /// Whether it was told that it has a place.
    admitted: bool,
}

impl Sequence {
    /// Tokens that the cache does not hold yet: at least one while the sequence runs.
    fn pending(&self) -> &[TokenId] {
        &self.tokens[self.cache.len()..]
    }
}

/// A sequence's share of one step.
#[derive(Debug, Clone, Copy)]
struct Planned {
    id: SequenceId,
    tokens: usize,
}

/// Many sequences on one worker.
pub struct Batch {
    worker: Worker,
    limits: BatchLimits,
    running: Vec<Sequence>,
    waiting: VecDeque<Sequence>,
    /// Set aside until somebody reads what they made: bounded by who submits, since each was running once.
    held: Vec<Sequence>,
    prefixes: PrefixCache,
    hash: ModelHash,
    /// Its buffers are as long as the vocabulary, so there is one for all.
    sampler: Sampler,
    /// Operations that a byte of the block so many blocks into a sequence costs.
    rates: Vec<u64>,
    next: u64,
    /// Where the latest turn began that had a place.
    turn: u64,
}

impl Batch {
    /// An empty batch. `hash` is what machines call the worker's model.
    pub fn new(worker: Worker, hash: ModelHash, limits: BatchLimits) -> Self {
        let prefixes = PrefixCache::new(limits.prefix_bytes);
        Self {
            rates: rates(&worker),
            hash,
            sampler: Sampler::default(),
            worker,
            limits,
            running: Vec::new(),
            waiting: VecDeque::new(),
            held: Vec::new(),
            prefixes,
            next: 0,
            turn: 0,
        }
    }

    /// The worker it runs on.
    pub fn worker(&self) -> &Worker {
        &self.worker
    }

    /// Whether no sequence runs or waits; those that are held do neither.
    pub fn is_idle(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty()
    }

    /// What is kept of finished sequences.
    pub fn prefixes(&self) -> &PrefixCache {
        &self.prefixes
    }

    /// Where the blocks of those begin whom `share` names.
    pub fn root(&self, share: &Share) -> BlockKey {
        BlockKey::root(self.hash, self.worker.model().kv_format(), share.owner)
    }

    /// A cache of as many of `tokens` as are kept for those whom `share` names.
    pub fn beginning(&mut self, share: &Share, tokens: &[TokenId]) -> KvCache {
        let mut cache = self.worker.model().new_cache(self.worker.all_layers());
        self.prefixes.begin(self.root(share), tokens, &mut cache);
        cache
    }

    /// Sequences that run, and those that wait for a place.
    pub fn load(&self) -> (usize, usize) {
        (self.running.len(), self.waiting.len())
    }

    /// Takes a request in.
    pub fn submit(&mut self, request: Request) -> Result<SequenceId, BatchError> {
        if request.prompt.is_empty() {
            return Err(BatchError::EmptyPrompt);
        }
        let context = self.worker.model().context();
        if request.prompt.len() > context {
            return Err(BatchError::TooLong {
                tokens: request.prompt.len(),
                context,
            });
        }
        if self.waiting.len() >= self.limits.waiting {
            return Err(BatchError::Busy {
                waiting: self.waiting.len(),
            });
        }
        request.sampling.check().map_err(SamplingError::from)?;
        let all = self.worker.all_layers();
        let cache = match request.cache {
            Some(cache) if cache.len() >= request.prompt.len() => {
                return Err(BatchError::WrongCache {
                    held: cache.len(),
                    tokens: request.prompt.len(),
                });
            }
            Some(cache) => cache,
            None => self.worker.model().new_cache(all),
        };
        let id = SequenceId(self.next);
        self.next += 1;
        let turn = self.turn_of(request.asker);
        let tokens = request.prompt.len() + request.max_tokens.min(context);
        self.waiting.push_back(Sequence {
            id,
            prompt: request.prompt.len(),
            tokens: request.prompt,
            cache,
            sampling: request.sampling,
            max_tokens: request.max_tokens,
            stop_tokens: request.stop_tokens,
            constraint: request.constraint,
            logprobs: request.logprobs,
            share: request.share,
            asker: request.asker,
            turn,
            turn_end: turn + tokens as u64,
            admitted: false,
        });
        Ok(id)
    }

    /// Ends a sequence; its compute is free from the next step on. Unknown ids are ignored.
    pub fn cancel(&mut self, id: SequenceId) {
        self.running.retain(|s| s.id != id);
        self.waiting.retain(|s| s.id != id);
        self.held.retain(|s| s.id != id);
    }

    /// Sets a running sequence aside, so that its place is free for others; ids of no running sequence are ignored.
    pub fn hold(&mut self, id: SequenceId) {
        if let Some(index) = self.running.iter().position(|s| s.id == id) {
            self.held.push(self.running.remove(index));
        }
    }

    /// Lets a held sequence go on, before all that wait. Its tokens are those it would have had without the pause.
    pub fn release(&mut self, id: SequenceId) {
        if let Some(index) = self.held.iter().position(|s| s.id == id) {
            self.waiting.push_front(self.held.remove(index));
        }
    }

    /// Runs one pass and returns what came of it; empty when idle.
    pub fn step(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        self.admit(&mut events);
        let plan = self.plan(&mut events);
        if plan.is_empty() {
            return events;
        }
        match self.pass(&plan) {
            Ok(rows) => self.take_tokens(&plan, rows, &mut events),
            Err(error) => self.fail(&plan, error, &mut events),
        }
        events
    }

    /// Where a turn of this asker begins (start-time fair queueing, Goyal et al. 1996): now, or behind what it asked before
    /// and what is not answered yet. Whoever waits for one answer is next, however much others asked.
    fn turn_of(&self, asker: Asker) -> u64 {
        let all = self.running.iter().chain(&self.waiting).chain(&self.held);
        let own = all.filter(|s| s.asker == asker).map(|s| s.turn_end);
        own.max().unwrap_or_default().max(self.turn)
    }

    /// Takes out whoever has the next place: those who had one before, then by turns, and at the same turn who came first.
    fn pop_waiting(&mut self) -> Option<Sequence> {
        let waiting = self.waiting.iter().enumerate();
        let (at, _) = waiting.min_by_key(|(_, s)| (!s.admitted, s.turn))?;
        let next = self.waiting.remove(at)?;
        self.turn = self.turn.max(next.turn);
        Some(next)
    }

    /// Moves waiting sequences into free places; their caches start from the longest prefix known to their owner.
    fn admit(&mut self, events: &mut Vec<Event>) {
        while self.running.len() < self.limits.running {
            let Some(mut sequence) = self.pop_waiting() else {
                return;
            };
            self.begin(&mut sequence);
            if !std::mem::replace(&mut sequence.admitted, true) {
                events.push(Event::Admitted {
                    id: sequence.id,
                    cached: sequence.cache.len(),
                });
            }
            self.running.push(sequence);
        }
    }

    /// Finds the longest beginning of a sequence in what is kept and in what runs, unless its own cache is longer.
    fn begin(&mut self, sequence: &mut Sequence) {
        let share = sequence.share;
        if share.reach == Reach::Nowhere {
            return;
        }
        // The last token must go through the model again: its logits are not kept.
        let useful = &sequence.tokens[..sequence.tokens.len() - 1];
        let kept = self.beginning(&share, useful);
        if kept.len() > sequence.cache.len() {
            sequence.cache = kept;
        }
        let of_owner =
            |other: &&Sequence| other.share.owner == share.owner && other.share.reach > Reach::Nowhere;
        let alike = |other: &Sequence| common(&other.tokens, useful).min(other.cache.len());
        let running = self.running.iter().filter(of_owner).max_by_key(|s| alike(s));
        let in_running = running.map_or(0, alike);
        if let Some(running) = running.filter(|_| in_running > sequence.cache.len()) {
            sequence.cache = running.cache.fork(Position(in_running as u32));
        }
    }

    /// How many tokens of which running sequence go into this step: answers first, then prompts in order of
    /// arrival. A sequence that finds no room in the KV cache waits for a later step.
    fn plan(&mut self, events: &mut Vec<Event>) -> Vec<Planned> {
        let mut budget = self.limits.step_tokens.max(1);
        let mut order: Vec<(bool, SequenceId)> = self
            .running
            .iter()
            .map(|s| (s.pending().len() > 1, s.id))
            .collect();
        order.sort_unstable();
        let mut plan: Vec<Planned> = Vec::new();
        for (_, id) in order {
            let tokens = self.running[self.index(id)].pending().len().min(budget);
            match self.prepare(id, tokens, &plan) {
                Ok(()) if tokens == 0 => {}
                Ok(()) => {
                    plan.push(Planned { id, tokens });
                    budget -= tokens;
                }
                Err(CacheError::Full { .. }) if !plan.is_empty() => {}
                Err(error) => {
                    self.cancel(id);
                    events.push(Event::Failed {
                        id,
                        error: ForwardError::Cache(error).into(),
                    });
                }
            }
        }
        plan.sort_unstable_by_key(|p| self.index(p.id));
        plan
    }

    /// Makes room in a sequence's cache. Kept prefixes give way first, then the caches of sequences that are held or
    /// wait, then those of younger ones, which are computed again later: exactness makes that invisible.
    fn prepare(&mut self, id: SequenceId, tokens: usize, plan: &[Planned]) -> Result<(), CacheError> {
        loop {
            let index = self.index(id);
            match self.running[index].cache.prepare(tokens) {
                Err(CacheError::Full { .. })
                    if self.prefixes.give_up() || self.empty_idle() || self.preempt(id, plan) => {}
                result => return result,
            }
        }
    }

    /// Empties the cache of one sequence that is held or waits, the youngest that waits first; false when none has any.
    fn empty_idle(&mut self) -> bool {
        let waiting = self.waiting.iter_mut().rev();
        let mut idle = waiting.chain(&mut self.held);
        let full = idle.find(|s| s.cache.bytes() > 0);
        full.map(|idle| idle.cache.rollback(Position(0))).is_some()
    }

    /// Empties the cache of the youngest sequence that is younger than `id` and not in this step's plan.
    fn preempt(&mut self, id: SequenceId, plan: &[Planned]) -> bool {
        let planned = |s: &Sequence| plan.iter().any(|p| p.id == s.id);
        let younger = self
            .running
            .iter_mut()
            .filter(|s| s.id > id && s.cache.bytes() > 0 && !planned(s));
        match younger.max_by_key(|s| s.id) {
            Some(sequence) => {
                sequence.cache.rollback(Position(0));
                true
            }
            None => false,
        }
    }

    fn index(&self, id: SequenceId) -> usize {
        self.running
            .iter()
            .position(|s| s.id == id)
            .expect("a planned sequence runs")
    }

    /// One pass of the planned tokens; the logits of each part's last row, where an answer needs them.
    fn pass(&mut self, plan: &[Planned]) -> Result<Vec<Option<Vec<f32>>>, ForwardError> {
        let pending = |p: &Planned| self.running[self.index(p.id)].pending();
        let tokens: Vec<TokenId> = plan
            .iter()
            .flat_map(|p| pending(p)[..p.tokens].iter().copied())
            .collect();
        let finishes: Vec<bool> = plan.iter().map(|p| pending(p).len() == p.tokens).collect();
        let mut hidden = self.worker.embed(&tokens)?;
        let mut parts = Vec::with_capacity(plan.len());
        let mut at = plan.iter().peekable();
        for sequence in &mut self.running {
            if let Some(planned) = at.next_if(|p| p.id == sequence.id) {
                let first = Position(sequence.cache.len() as u32);
                parts.push(Part {
                    cache: &mut sequence.cache,
                    tokens: planned.tokens,
                    first,
                });
            }
        }
        let layers = self.worker.all_layers();
        let keep = if finishes.contains(&true) {
            Keep::Last
        } else {
            Keep::Nothing
        };
        self.worker.forward(layers, &mut parts, &mut hidden, keep)?;
        self.logits(hidden, &finishes)
    }

    /// Logits of the rows that `wanted` marks.
    fn logits(&mut self, hidden: Hidden, wanted: &[bool]) -> Result<Vec<Option<Vec<f32>>>, ForwardError> {
        let width = hidden.width;
        let kept = hidden.rows.chunks_exact(width).zip(wanted).filter(|(_, w)| **w);
        let rows: Vec<f32> = kept.flat_map(|(row, _)| row.iter().copied()).collect();
        if rows.is_empty() {
            return Ok(vec![None; wanted.len()]);
        }
        let logits = self.worker.head(&Hidden { width, rows })?;
        let mut rows = logits.chunks_exact(self.worker.model().graph().vocab);
        Ok(wanted
            .iter()
            .map(|&w| if w { rows.next().map(<[f32]>::to_vec) } else { None })
            .collect())
    }

    /// Chooses a token for each sequence that has logits, and lets go of those that ended.
    fn take_tokens(&mut self, plan: &[Planned], rows: Vec<Option<Vec<f32>>>, events: &mut Vec<Event>) {
        let mut ended = Vec::new();
        let context = self.worker.model().context();
        for (planned, logits) in plan.iter().zip(rows) {
            let Some(logits) = logits else { continue };
            let index = self.index(planned.id);
            if !advance(
                &mut self.running[index],
                &mut self.sampler,
                &logits,
                context,
                events,
            ) {
                ended.push(index);
            }
        }
        for index in ended.into_iter().rev() {
            let sequence = self.running.remove(index);
            self.keep(&sequence, events);
        }
    }

    /// Keeps what a finished sequence leaves behind, as far as its share goes.
    fn keep(&mut self, sequence: &Sequence, events: &mut Vec<Event>) {
        if sequence.share.reach == Reach::Nowhere {
            return;
        }
        let (root, rates) = (self.root(&sequence.share), &self.rates);
        let rate = |number: usize| rates.get(number).copied().unwrap_or(1);
        let reach = sequence.share.reach;
        let new = self
            .prefixes
            .keep(root, &sequence.tokens, &sequence.cache, reach, rate);
        if !new.is_empty() {
            events.push(Event::Kept(new));
        }
    }

    fn fail(&mut self, plan: &[Planned], error: ForwardError, events: &mut Vec<Event>) {
        for &Planned { id, .. } in plan {
            self.cancel(id);
            events.push(Event::Failed {
                id,
                error: error.clone().into(),
            });
        }
    }
}

/// What a byte of each block of a full context costs to compute, in operations.
fn rates(worker: &Worker) -> Vec<u64> {
    let (model, graph) = (worker.model(), worker.model().graph());
    let rate = |number: usize| {
        let work = Work {
            tokens: PAGE,
            context: (number + 1) * PAGE,
        };
        let cost = graph.total_cost(work, model.kv_format());
        let bytes = cost.kv_bytes_per_position.saturating_mul(PAGE as u64);
        (cost.flops / bytes.max(1)).max(1)
    };
    (0..model.context().div_ceil(PAGE)).map(rate).collect()
}

/// Adds one token to a sequence; false when the sequence has ended.
fn advance(
    sequence: &mut Sequence,
    sampler: &mut Sampler,
    logits: &[f32],
    context: usize,
    events: &mut Vec<Event>,
) -> bool {
    let id = sequence.id;
    match choose(sequence, sampler, logits, context) {
        Err(error) => {
            events.push(Event::Failed { id, error });
            false
        }
        Ok(token) if sequence.stop_tokens.contains(&token) => {
            events.push(Event::Finished {
                id,
                why: Finish::Stop,
            });
            false
        }
        Ok(token) => {
            let report = sequence.logprobs.map(|top| {
                let (chosen, top) = log_probabilities(logits, token, top);
                TokenReport { chosen, top }
            });
            sequence.tokens.push(token);
            events.push(Event::Token { id, token, report });
            match finish(sequence, context) {
                Some(why) => {
                    events.push(Event::Finished { id, why });
                    false
                }
                None => true,
            }
        }
    }
}

fn choose(
    sequence: &mut Sequence,
    sampler: &mut Sampler,
    logits: &[f32],
    context: usize,
) -> Result<TokenId, BatchError> {
    let made = sequence.tokens.len() - sequence.prompt;
    let left = context.saturating_sub(sequence.tokens.len()).max(1);
    let room = sequence.max_tokens.saturating_sub(made).min(left);
    let position = Position(sequence.tokens.len() as u32);
    let allowed = match &mut sequence.constraint {
        Some(constraint) => Some(constraint.allowed_within(room)?),
        None => None,
    };
    let (options, tokens) = (&mut sequence.sampling, &sequence.tokens);
    let token = sampler.sample_as(options, logits, position, tokens, allowed.as_deref())?;
    match &mut sequence.constraint {
        Some(constraint) => Ok(constraint.accept_within(token, room)?),
        None => Ok(token),
    }
}

/// Why the sequence is complete after its newest token, if it is.
fn finish(sequence: &Sequence, context: usize) -> Option<Finish> {
    if sequence.constraint.as_ref().is_some_and(Constraint::is_complete) {
        return Some(Finish::Stop);
    }
    if sequence.tokens.len() - sequence.prompt >= sequence.max_tokens {
        return Some(Finish::Length);
    }
    (sequence.tokens.len() >= context).then_some(Finish::Context)
}
