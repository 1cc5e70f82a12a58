//! One session's stage: a range of layers over a cache of its own, and the choice of tokens after the last layer.

use std::collections::VecDeque;
use std::sync::Arc;

use heph_engine::cache::{CacheError, KvBudget, KvCache};
use heph_engine::sample::{RunnerUp, Sampler, SamplingError, SamplingOptions};
use heph_engine::worker::{ForwardError, Keep, Part, Worker};
use heph_types::{
    Branch, CachePart, Course, Forward, Hidden, KvFormat, LayerRange, NodeId, Order, Position, Reply,
    StageInput, StageSpec, TokenId,
};

use super::SessionPlace;
use crate::pressure::{Pressure, RESERVE};
use crate::seat::{ORDERS_MAX, Refusal, Seat, SeatError};

/// Rows whose logits are held together: 16 rows of a vocabulary of 128 thousand are 8 MB.
const HEAD_ROWS: usize = 16;

/// Bytes of a cache that travel together: at 100 Mbit/s a third of a second.
const PART_BYTES: usize = 4 << 20;

/// Why a stage cannot be opened or an order not be carried out.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// The node does not have the model.
    #[error("the model is not held here")]
    UnknownModel,
    /// The node has as many sessions as it may.
    #[error("all {cap} sessions are taken")]
    Sessions {
        /// Sessions it may have.
        cap: usize,
    },
    /// The stage is not one of this model.
    #[error("layers {}..{} are asked of a model of {count}", layers.start(), layers.end())]
    Layers {
        /// Layers asked for.
        layers: LayerRange,
        /// Layers of the model.
        count: usize,
    },
    /// The node has other layers of the model.
    #[error(
        "layers {}..{} are asked for, and {}..{} are held here",
        layers.start(), layers.end(), held.start(), held.end()
    )]
    NotHeld {
        /// Layers asked for.
        layers: LayerRange,
        /// Layers held.
        held: LayerRange,
    },
    /// A stage without the last layer cannot choose tokens.
    #[error("only the stage that ends with layer {count} can choose tokens")]
    NotLast {
        /// Layers of the model.
        count: usize,
    },
    /// The session wants more positions than one may hold here.
    #[error("{asked} positions are asked for and {context} may be held")]
    Context {
        /// Positions asked for.
        asked: usize,
        /// Positions that a session may hold.
        context: usize,
    },
    /// The model was loaded with another cache format.
    #[error("a cache in {asked} is asked for, and caches are in {held} here")]
    KvFormat {
        /// The format asked for.
        asked: KvFormat,
        /// The format that the model was loaded with.
        held: KvFormat,
    },
    /// Work for a position that the stage has not reached.
    #[error("the work is for position {first}, and the stage holds {held}")]
    Gap {
        /// First position of the work.
        first: Position,
        /// Positions that the stage holds.
        held: usize,
    },
    /// The order is not one for this stage, or says two things at once.
    #[error("the order is not one for this stage: {0}")]
    Order(&'static str),
    /// Too many orders wait.
    #[error("{ORDERS_MAX} orders wait already")]
    Full,
    /// The machine's memory became short.
    #[error("memory became short: the cache needs {needed} bytes more and {room} may be taken")]
    Memory {
        /// Bytes that the work needs.
        needed: u64,
        /// Bytes that may be taken.
        room: u64,
    },
    /// A pass failed.
    #[error(transparent)]
    Forward(#[from] ForwardError),
    /// A cache that cannot be told or taken in.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// No token could be chosen.
    #[error(transparent)]
    Sampling(#[from] SamplingError),
    /// The engine that runs the model elsewhere failed.
    #[error("{0}")]
    Backend(String),
}

/// What a token was chosen from.
struct Lone {
    logits: Vec<f32>,
    position: usize,
    token: TokenId,
}

/// Carries out the orders of one session. As a [`Seat`] it computes when it is asked for a reply.
pub struct Stage {
    node: NodeId,
    worker: Worker,
    layers: LayerRange,
    context: usize,
    format: KvFormat,
    cache: KvCache,
    sampler: Option<Sampler>,
    /// Positions held; the cache of a stage without layers cannot tell.
    held: usize,
    /// The ids of the positions held, as far as they were said.
    tokens: Vec<TokenId>,
    /// The first position that came with a cache and without its id: from there on no ids are kept.
    untold: Option<usize>,
    orders: VecDeque<Order>,
    /// What the last token was chosen from, where it was chosen for a lone row.
    lone: Option<Lone>,
    pressure: Option<Pressure>,
    _place: Option<SessionPlace>,
}

impl Stage {
    /// A stage of `worker`'s model.
    pub(crate) fn new(
        node: NodeId,
        worker: Worker,
        spec: &StageSpec,
        place: Option<SessionPlace>,
    ) -> Result<Self, StageError> {
        let model = worker.model();
        let (layers, count) = (spec.layers, model.graph().layers.len());
        let (asked, context) = (spec.context as usize, model.context());
        let (format, held) = (spec.kv_format, model.kv_format());
        if layers.end() > count {
            return Err(StageError::Layers { layers, count });
        }
        if !model.holds(layers) {
            let held = model.held();
            return Err(StageError::NotHeld { layers, held });
        }
        if spec.choose.is_some() && layers.end() != count {
            return Err(StageError::NotLast { count });
        }
        if asked > context {
            return Err(StageError::Context { asked, context });
        }
        // A smaller cache than the model was loaded for fits where that one would.
        if !format.fits_into(held) {
            return Err(StageError::KvFormat { asked: format, held });
        }
        let cache = model.new_cache_as(layers, format);
        Ok(Self {
            node,
            layers,
            context: asked,
            format,
            cache,
            sampler: spec.choose.clone().map(Sampler::new).transpose()?,
            held: 0,
            tokens: Vec::new(),
            untold: None,
            orders: VecDeque::new(),
            lone: None,
            worker,
            pressure: None,
            _place: place,
        })
    }

    /// The stage, whose cache takes its room from `budget`.
    pub(crate) fn with_room(mut self, budget: &Arc<KvBudget>) -> Self {
        let model = self.worker.model();
        self.cache = model.new_cache_from(self.layers, self.format, budget);
        self
    }

    /// The stage that gives up before memory runs out.
    ///
    /// # Errors
    /// When there is no room for a first token.
    pub(crate) fn with_pressure(mut self, pressure: Pressure) -> Result<Self, StageError> {
        self.pressure = Some(pressure);
        self.check_room(1)?;
        Ok(self)
    }

    /// Whether the caches may take so many tokens more.
    fn check_room(&self, tokens: usize) -> Result<(), StageError> {
        let Some(pressure) = &self.pressure else {
            return Ok(());
        };
        let needed = self.cache.bytes_more(tokens);
        let room = pressure.room().saturating_sub(RESERVE);
        match needed <= room {
            true => Ok(()),
            false => Err(StageError::Memory { needed, room }),
        }
    }

    /// Takes an order in; the ones before it come first.
    ///
    /// # Errors
    /// When as many orders wait as may.
    pub fn take(&mut self, order: Order) -> Result<(), StageError> {
        if self.orders.len() >= ORDERS_MAX {
            return Err(StageError::Full);
        }
        self.orders.push_back(order);
        Ok(())
    }

    /// Positions held.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Numbers of one hidden state.
    pub fn width(&self) -> usize {
        self.worker.model().graph().hidden
    }

    /// Leaves a stream that goes on alone, and every order behind it.
    pub fn leave_stream(&mut self) {
        self.orders.clear();
    }

    /// Chooses tokens by other options from now on. `false` where the stage does not choose, or the options look at
    /// tokens whose ids it was not told.
    pub fn choose_anew(&mut self, options: &SamplingOptions) -> bool {
        let told =
            self.tokens.len() == self.held && !self.orders.iter().any(is_untold) || !options.looks_back();
        match Sampler::new(options.clone()) {
            Ok(sampler) if told && self.sampler.is_some() => {
                self.sampler = Some(sampler);
                true
            }
            _ => false,
        }
    }

    /// What its caches hold of the positions from `first` on, as many of those before `to` as travel together.
    ///
    /// # Errors
    /// When they are not held.
    pub fn cache_part(&self, first: Position, to: Position) -> Result<CachePart, StageError> {
        let wanted = to.index().saturating_sub(first.index());
        if wanted == 0 || to.index() > self.held {
            let held = self.held;
            return Err(StageError::Gap { first: to, held });
        }
        let together = PART_BYTES / self.cache.position_bytes().max(1);
        let tokens = wanted.min(together.max(1));
        let bytes = match self.layers.is_empty() {
            true => Vec::new(),
            false => self.cache.export(first, tokens)?,
        };
        let tokens = tokens as u32;
        let check = self.check_of(first, tokens, &bytes);
        Ok(CachePart {
            first,
            tokens,
            check,
            bytes,
        })
    }

    /// Takes in, behind what is held, what the caches of a stage with the same layers held.
    ///
    /// # Errors
    /// When it does not follow what is held, is damaged, or does not fit. What was held is held afterwards.
    pub fn take_in(&mut self, part: &CachePart) -> Result<(), StageError> {
        let CachePart { first, tokens, .. } = *part;
        let end = first.index().saturating_add(tokens as usize);
        if first.index() != self.held {
            let held = self.held;
            return Err(StageError::Gap { first, held });
        }
        if end > self.context {
            return Err(StageError::Context {
                asked: end,
                context: self.context,
            });
        }
        if part.check != self.check_of(first, tokens, &part.bytes) {
            return Err(StageError::Order("the cache is damaged, or one of other layers"));
        }
        match self.layers.is_empty() {
            true if part.bytes.is_empty() => {}
            true => return Err(StageError::Order("a cache for a stage without layers")),
            false => self.cache.import(first, tokens as usize, &part.bytes)?,
        }
        self.untold.get_or_insert(self.held);
        self.held = end;
        Ok(())
    }

    /// BLAKE3 of a part of this stage's caches and its place.
    fn check_of(&self, first: Position, tokens: u32, bytes: &[u8]) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key("HEPH 2026-11 part of a cache");
        let numbers = [
            self.layers.start() as u32,
            self.layers.end() as u32,
            first.0,
            tokens,
        ];
        numbers.iter().for_each(|number| {
            hasher.update(&number.to_le_bytes());
        });
        hasher.update(self.format.name().as_bytes());
        hasher.update(bytes);
        *hasher.finalize().as_bytes()
    }

    /// Whether there is nothing to do.
    pub fn is_idle(&self) -> bool {
        self.orders.is_empty()
    }

    /// Works until the next reply, or until nothing is left to do.
    ///
    /// # Errors
    /// When an order cannot be carried out. The stage then holds what it held before it, and forgets the orders behind
    /// it, which count on it.
    pub fn work(&mut self) -> Result<Option<Reply>, StageError> {
        let reply = self.next_reply();
        if reply.is_err() {
            self.orders.clear();
        }
        reply
    }

    fn next_reply(&mut self) -> Result<Option<Reply>, StageError> {
        while let Some(order) = self.orders.pop_front() {
            match order {
                Order::Rollback(to) => self.roll_back(to),
                Order::Forward(forward) => return self.forward(forward).map(Some),
                // An answer that goes on alone ends where the desk wants something else.
                Order::Generate { .. } if !self.orders.is_empty() => {}
                Order::Generate { tokens_max: 0, .. } => {}
                Order::Generate {
                    last,
                    tokens_max,
                    ends,
                } => return self.generate(last, tokens_max, ends).map(Some),
            }
        }
        Ok(None)
    }

    fn roll_back(&mut self, to: Position) {
        self.cache.rollback(to);
        self.held = self.held.min(to.index());
        self.untold = self.untold.filter(|first| *first < self.held);
        self.tokens.truncate(self.held);
    }

    /// One token of an answer that goes on alone, with the rest of the order put back.
    fn generate(&mut self, last: TokenId, tokens_max: u32, ends: Vec<TokenId>) -> Result<Reply, StageError> {
        let reply = self.forward(Forward {
            first: Position(self.held as u32),
            input: StageInput::Tokens(vec![last]),
            answers: 1,
            pass: None,
        })?;
        let Reply::Choices { tokens, .. } = &reply else {
            return Err(StageError::Order("only a stage that chooses can go on alone"));
        };
        let chosen = tokens.first().copied();
        if let Some(last) = chosen.filter(|token| tokens_max > 1 && !ends.contains(token)) {
            self.orders.push_front(Order::Generate {
                last,
                tokens_max: tokens_max - 1,
                ends,
            });
        }
        Ok(reply)
    }

    fn forward(&mut self, forward: Forward) -> Result<Reply, StageError> {
        let (first, count) = (forward.first, forward.input.tokens());
        if count == 0 || forward.answers as usize > count {
            return Err(StageError::Order("it holds fewer tokens than answers"));
        }
        if let StageInput::Rows { tokens, .. } = &forward.input {
            let said = self.tokens.len() >= first.index();
            if !(tokens.is_empty() || tokens.len() == count && said) {
                return Err(StageError::Order("ids are said for all positions or for none"));
            }
        }
        if first.index() > self.held {
            let held = self.held;
            return Err(StageError::Gap { first, held });
        }
        if first.index() + count > self.context {
            return Err(StageError::Context {
                asked: first.index() + count,
                context: self.context,
            });
        }
        self.roll_back(first);
        self.check_room(count)?;
        let reply = match &forward.input {
            StageInput::Guesses { tokens, branches } if !branches.is_empty() => {
                self.confirm(first, tokens, branches, forward.answers as usize)
            }
            _ => self.run(forward, count).map(|reply| (reply, count)),
        };
        match &reply {
            Ok((_, held)) => self.held = first.index() + held,
            Err(_) => self.roll_back(first),
        }
        reply.map(|(reply, _)| reply)
    }

    /// Confirms guesses that branch; says how many positions of the order are held afterwards. Each branch goes through the
    /// layers beside the chain as a sequence of its own, in a cache that was forked where the order begins, so its bits are
    /// those of a chain. Choices end with the first that was not guessed.
    fn confirm(
        &mut self,
        first: Position,
        chain: &[TokenId],
        branches: &[Branch],
        answers: usize,
    ) -> Result<(Reply, usize), StageError> {
        if self.layers.start() != 0 || self.sampler.is_none() {
            return Err(StageError::Order(
                "only a whole model confirms guesses that branch",
            ));
        }
        Branch::check(branches, chain, answers).map_err(StageError::Order)?;
        let path = |branch: &Branch| [&chain[..branch.at as usize], &branch.tokens].concat();
        let paths: Vec<Vec<TokenId>> = branches.iter().map(path).collect();
        let all = [chain, &paths.concat()].concat();
        self.check_room(all.len())?;
        let mut hidden = self.worker.embed(&all)?;
        let mut forks: Vec<KvCache> = paths.iter().map(|_| self.cache.fork(first)).collect();
        let caches = std::iter::once(&mut self.cache).chain(&mut forks);
        let lengths = std::iter::once(chain.len()).chain(paths.iter().map(Vec::len));
        let part = |(cache, tokens)| Part { cache, tokens, first };
        let mut parts: Vec<Part> = caches.zip(lengths).map(part).collect();
        self.worker
            .forward(self.layers, &mut parts, &mut hidden, Keep::All)?;

        let width = hidden.width;
        let rows = |from: usize, to: usize| &hidden.rows[from * width..to * width];
        let unanswered = chain.len() - answers;
        let (start, mut chosen) = (first.index(), Vec::new());
        self.note(chain);
        self.choose(rows(unanswered, chain.len()), start + unanswered + 1, &mut chosen)?;
        let course = Course::of(chain, answers, branches, &chosen);
        let mut held = chain.len();
        chosen.truncate(course.agreed + 1);
        if let Some((which, _)) = course.branch {
            let branch = &branches[which];
            let at = branch.at as usize;
            held = at + branch.tokens.len();
            self.cache = forks.swap_remove(which);
            self.tokens.truncate(start + at);
            self.note(&branch.tokens);
            let before: usize = paths[..which].iter().map(Vec::len).sum();
            let from = chain.len() + before + at;
            let taken = rows(from, from + branch.tokens.len());
            self.choose(taken, start + at + 1, &mut chosen)?;
            let right = Course::of(chain, answers, branches, &chosen).right();
            chosen.truncate(right + 1);
        }
        let first = Position((start + unanswered + 1) as u32);
        Ok((
            Reply::Choices {
                first,
                tokens: chosen,
            },
            held,
        ))
    }

    /// Takes `count` tokens through the layers, some at a time.
    fn run(&mut self, forward: Forward, count: usize) -> Result<Reply, StageError> {
        let Forward {
            first,
            input,
            answers,
            ..
        } = forward;
        let width = self.worker.model().graph().hidden;
        let unanswered = count - answers as usize;
        let mut rows = Vec::new();
        let mut chosen = Vec::new();
        let mut from = 0;
        while from < count {
            let to = count.min(from + self.worker.chunk());
            let mut hidden = self.rows(&input, from, to)?;
            let wanted = to.saturating_sub(unanswered.max(from));
            self.pass(Position(first.0 + from as u32), to - from, wanted, &mut hidden)?;
            let kept = hidden.rows.len() - wanted * width;
            if self.sampler.is_some() {
                let position = first.index() + to - wanted + 1;
                self.choose(&hidden.rows[kept..], position, &mut chosen)?;
            } else if rows.is_empty() && kept == 0 {
                rows = hidden.rows;
            } else {
                rows.extend_from_slice(&hidden.rows[kept..]);
            }
            from = to;
        }
        let answered = Position(first.0 + unanswered as u32);
        Ok(if self.sampler.is_some() {
            Reply::Choices {
                first: Position(answered.0 + 1),
                tokens: chosen,
            }
        } else {
            Reply::Rows {
                first: answered,
                hidden: Hidden { width, rows },
            }
        })
    }

    /// Hidden states of the tokens `from..to` of an input before the first of the stage's layers.
    fn rows(&mut self, input: &StageInput, from: usize, to: usize) -> Result<Hidden, StageError> {
        match input {
            StageInput::Tokens(_) | StageInput::Guesses { .. } if self.layers.start() != 0 => Err(
                StageError::Order("tokens are for the stage that holds the first layer"),
            ),
            StageInput::Tokens(tokens) | StageInput::Guesses { tokens, .. } => {
                let tokens = &tokens[from..to];
                self.note(tokens);
                Ok(self.worker.embed(tokens)?)
            }
            StageInput::Rows { hidden, tokens } => {
                self.note(tokens.get(from..to).unwrap_or_default());
                let (width, rows) = (hidden.width, &hidden.rows);
                let rows = rows[from * width..to * width].to_vec();
                Ok(Hidden { width, rows })
            }
            StageInput::Handed { .. } => Err(StageError::Order("its rows were not handed over")),
        }
    }

    /// Remembers the ids of what goes in, where all before them are known.
    fn note(&mut self, tokens: &[TokenId]) {
        if self.untold.is_none() {
            self.tokens.extend_from_slice(tokens);
        }
    }

    /// Takes hidden states through the layers. Of the rows afterwards at least the last `wanted` are there.
    fn pass(
        &mut self,
        first: Position,
        tokens: usize,
        wanted: usize,
        hidden: &mut Hidden,
    ) -> Result<(), StageError> {
        let keep = match wanted {
            0 if self.sampler.is_some() => Keep::Nothing,
            1 if self.sampler.is_some() => Keep::Last,
            _ => Keep::All,
        };
        let cache = &mut self.cache;
        let part = Part { cache, tokens, first };
        Ok(self.worker.forward(self.layers, &mut [part], hidden, keep)?)
    }

    /// Chooses the tokens that follow `rows`; the first of them stands at `position`.
    fn choose(
        &mut self,
        rows: &[f32],
        mut position: usize,
        chosen: &mut Vec<TokenId>,
    ) -> Result<(), StageError> {
        let width = self.worker.model().graph().hidden;
        let Some(sampler) = &mut self.sampler else {
            return Ok(());
        };
        let looks_back = sampler.options().looks_back();
        let alone = rows.len() == width;
        self.lone = None;
        for rows in rows.chunks(HEAD_ROWS * width) {
            let rows = rows.to_vec();
            let logits = self.worker.head(&Hidden { width, rows })?;
            for logits in logits.chunks_exact(self.worker.model().graph().vocab) {
                let history = match self.tokens.get(..position) {
                    Some(history) => history,
                    None if looks_back => {
                        return Err(StageError::Order(
                            "the options look at earlier tokens, and none were said",
                        ));
                    }
                    None => &[],
                };
                chosen.push(sampler.sample(logits, Position(position as u32), history, None)?);
                position += 1;
            }
            self.lone = chosen.last().filter(|_| alone).map(|token| Lone {
                position: position - 1,
                token: *token,
                logits,
            });
        }
        Ok(())
    }
}

/// Whether an order brings rows without their ids.
fn is_untold(order: &Order) -> bool {
    let Order::Forward(forward) = order else {
        return false;
    };
    matches!(&forward.input, StageInput::Rows { tokens, .. } | StageInput::Handed { tokens, .. } if tokens.is_empty())
}

impl Seat for Stage {
    fn node(&self) -> NodeId {
        self.node
    }

    fn submit(&mut self, order: Order) -> Result<(), SeatError> {
        self.take(order).map_err(|error| self.refusal(error))
    }

    fn poll(&mut self) -> Result<Option<Reply>, SeatError> {
        self.work().map_err(|error| self.refusal(error))
    }

    fn choose_by(&mut self, options: &SamplingOptions) -> bool {
        self.choose_anew(options)
    }

    fn runner_up(&mut self) -> Option<RunnerUp> {
        let (lone, sampler) = (self.lone.as_ref()?, self.sampler.as_mut()?);
        let history = match self.tokens.get(..lone.position) {
            Some(history) => history,
            None if sampler.options().looks_back() => return None,
            None => &[],
        };
        sampler.runner_up(&lone.logits, Position(lone.position as u32), history, lone.token)
    }

    fn is_settled(&self) -> bool {
        self.worker.model().is_settled()
    }

    fn leave(&mut self, to: Position) -> bool {
        self.leave_stream();
        self.roll_back(to);
        true
    }

    fn take_cache(&mut self, first: Position, to: Position) -> Result<Option<CachePart>, SeatError> {
        if !self.is_idle() {
            return Ok(None);
        }
        let part = self.cache_part(first, to);
        part.map(Some).map_err(|error| self.refusal(error))
    }

    fn put_cache(&mut self, part: &CachePart) -> Result<bool, SeatError> {
        if !self.is_idle() {
            return Ok(false);
        }
        let taken = self.take_in(part);
        taken.map(|()| true).map_err(|error| self.refusal(error))
    }
}

impl Stage {
    fn refusal(&self, error: StageError) -> SeatError {
        match error {
            StageError::Forward(ForwardError::Stopped) => SeatError::Stopped,
            error => SeatError::Refused {
                node: self.node,
                why: Refusal::Stage(error),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use heph_engine::model::{LoadOptions, Model};
    use heph_kernels::isa::Isa;
    use heph_kernels::pool::Pool;
    use heph_types::ModelHash;

    use super::*;
    use crate::bundled;
    use crate::store::Found;

    fn stages(start: usize, end: usize, choose: bool) -> [Stage; 2] {
        let source = Arc::new(crate::open::open(&Found::Bundled(bundled::STORY_DRAFT)).unwrap());
        let options = LoadOptions {
            context: Some(200),
            sessions: 4,
            ..LoadOptions::default()
        };
        let model = Arc::new(Model::load(source, &options, &Pool::serial(), &mut |_| {}).unwrap());
        let spec = StageSpec {
            model: ModelHash([0; 32]),
            layers: LayerRange::new(start, end, 2).unwrap(),
            context: 200,
            kv_format: model.kv_format(),
            choose: choose.then(SamplingOptions::greedy),
        };
        [1, 2].map(|id| {
            let worker = Worker::new(Arc::clone(&model), Arc::new(Pool::serial()), Isa::best());
            Stage::new(NodeId([id; 32]), worker, &spec, None).unwrap()
        })
    }

    fn forward(first: u32, tokens: std::ops::Range<u32>) -> Order {
        Order::Forward(Forward {
            first: Position(first),
            answers: tokens.len() as u32,
            input: StageInput::Tokens(tokens.map(TokenId).collect()),
            pass: None,
        })
    }

    fn reply(stage: &mut Stage, order: Order) -> Reply {
        stage.take(order).unwrap();
        stage.work().unwrap().unwrap()
    }

    /// What the model itself says after a prompt, and guesses of which one is wrong.
    fn guessed(stage: &mut Stage, wrong: usize) -> (Vec<TokenId>, Vec<TokenId>) {
        let Reply::Choices { tokens, .. } = reply(stage, forward(0, 5..25)) else {
            panic!("a stage that chooses");
        };
        let mut right = vec![*tokens.last().unwrap()];
        for at in 0..7 {
            let next = Order::Forward(Forward {
                first: Position(20 + at),
                input: StageInput::Tokens(vec![right[at as usize]]),
                answers: 1,
                pass: None,
            });
            let Reply::Choices { tokens, .. } = reply(stage, next) else {
                panic!("a stage that chooses");
            };
            right.extend(tokens);
        }
        let mut tokens = right[..7].to_vec();
        tokens[wrong] = TokenId(tokens[wrong].0 ^ 1);
        (right, tokens)
    }

    fn confirm(stage: &mut Stage, tokens: &[TokenId], branches: Vec<Branch>) -> Vec<TokenId> {
        let order = Order::Forward(Forward {
            first: Position(20),
            input: StageInput::Guesses {
                tokens: tokens.to_vec(),
                branches,
            },
            answers: tokens.len() as u32,
            pass: None,
        });
        match reply(stage, order) {
            Reply::Choices { first, tokens } => {
                assert_eq!(first, Position(21));
                tokens
            }
            Reply::Rows { .. } => panic!("a stage that chooses"),
        }
    }

    #[test]
    fn a_stage_takes_its_room_where_it_is_told_to() {
        let [mut own, apart] = stages(0, 2, true);
        let budget = KvBudget::new(1 << 30);
        let mut apart = apart.with_room(&budget);
        assert_eq!(
            reply(&mut own, forward(0, 5..25)),
            reply(&mut apart, forward(0, 5..25))
        );
        let of_model = own.worker.model().kv_budget().used();
        assert!(
            of_model > 0 && budget.used() == of_model,
            "{of_model} and {}",
            budget.used()
        );
    }

    #[test]
    fn a_branch_that_is_right_is_followed_and_is_what_the_cache_holds_then() {
        for wrong in 1..7 {
            let [mut stage, mut plain] = stages(0, 2, true);
            let (right, tokens) = guessed(&mut plain, wrong);
            guessed(&mut stage, wrong);
            let branch = |at: usize, tokens: &[TokenId]| Branch {
                at: at as u32,
                tokens: tokens.to_vec(),
            };
            // One that is wrong stands before it, where there is room for one.
            let mut branches = vec![branch(wrong, &right[wrong..7])];
            if wrong > 1 {
                branches.insert(0, branch(wrong - 1, &[TokenId(right[wrong - 1].0 ^ 1)]));
            }
            assert_eq!(
                confirm(&mut stage, &tokens, branches),
                right[1..],
                "wrong at {wrong}"
            );
            let more = || forward(27, 30..40);
            assert_eq!(
                reply(&mut stage, more()),
                reply(&mut plain, more()),
                "wrong at {wrong}"
            );
        }
    }

    #[test]
    fn a_branch_that_is_wrong_in_the_middle_is_followed_so_far() {
        let [mut stage, mut plain] = stages(0, 2, true);
        let (right, tokens) = guessed(&mut plain, 2);
        guessed(&mut stage, 2);
        let mut along = right[2..7].to_vec();
        along[3] = TokenId(along[3].0 ^ 1);
        let branches = vec![Branch { at: 2, tokens: along }];
        assert_eq!(confirm(&mut stage, &tokens, branches), right[1..6]);
        let more = || forward(25, 30..40);
        assert_eq!(reply(&mut stage, more()), reply(&mut plain, more()));
        // Nothing that is right: as a chain.
        let [mut stage, _] = stages(0, 2, true);
        guessed(&mut stage, 2);
        let branches = vec![Branch {
            at: 3,
            tokens: vec![TokenId(right[3].0 ^ 1)],
        }];
        assert_eq!(confirm(&mut stage, &tokens, branches), right[1..3]);
    }

    #[test]
    fn branches_are_refused_where_they_cannot_be_followed() {
        let branches = |at| {
            vec![Branch {
                at,
                tokens: vec![TokenId(9)],
            }]
        };
        let order = |at| {
            Order::Forward(Forward {
                first: Position(0),
                input: StageInput::Guesses {
                    tokens: [1, 2, 3].map(TokenId).to_vec(),
                    branches: branches(at),
                },
                answers: 3,
                pass: None,
            })
        };
        let refused = |stage: &mut Stage, at| {
            stage.take(order(at)).unwrap();
            stage.work().is_err()
        };
        let [mut whole, _] = stages(0, 2, true);
        assert!(refused(&mut whole, 0) && refused(&mut whole, 3));
        assert!(!refused(&mut whole, 2));
        let [mut last, _] = stages(1, 2, true);
        let [mut blind, _] = stages(0, 2, false);
        assert!(refused(&mut last, 2) && refused(&mut blind, 2));
    }

    #[test]
    fn a_stage_with_anothers_cache_goes_on_with_the_same_bits() {
        let [mut old, mut new] = stages(0, 1, false);
        reply(&mut old, forward(0, 5..105));
        for (first, to) in [(0u32, 70u32), (70, 71), (71, 100)] {
            let part = old.cache_part(Position(first), Position(to)).unwrap();
            assert_eq!((part.first.0, part.tokens), (first, to - first));
            new.take_in(&part).unwrap();
        }
        let more = || forward(100, 30..40);
        assert_eq!(reply(&mut new, more()), reply(&mut old, more()));
        let back = || forward(40, 60..90);
        assert_eq!(reply(&mut new, back()), reply(&mut old, back()));
    }

    #[test]
    fn a_cache_that_is_damaged_or_belongs_elsewhere_is_refused() {
        let [mut old, mut new] = stages(0, 1, false);
        reply(&mut old, forward(0, 5..25));
        let part = old.cache_part(Position(0), Position(20)).unwrap();
        let with = |change: &dyn Fn(&mut CachePart)| {
            let mut changed = part.clone();
            change(&mut changed);
            changed
        };
        let damaged = [
            with(&|part| part.bytes[33] ^= 1),
            with(&|part| part.check[0] ^= 1),
            with(&|part| part.tokens = 19),
            with(&|part| part.tokens = u32::MAX),
            with(&|part| part.first = Position(1)),
            with(&|part| part.bytes.truncate(part.bytes.len() - 1)),
        ];
        for part in &damaged {
            assert!(new.take_in(part).is_err());
        }
        let [_, mut other] = stages(1, 2, true);
        assert!(other.take_in(&part).is_err(), "a cache of other layers");
        assert!(
            old.cache_part(Position(0), Position(21)).is_err(),
            "it is not held"
        );
        new.take_in(&part).unwrap();
        assert!(new.take_in(&part).is_err(), "it is held already");
    }

    #[test]
    fn ids_that_did_not_come_with_a_cache_are_not_made_up() {
        let [mut old, mut new] = stages(0, 2, true);
        reply(&mut old, forward(0, 5..25));
        new.take_in(&old.cache_part(Position(0), Position(20)).unwrap())
            .unwrap();
        reply(&mut new, forward(20, 1..6));
        let looks_back = SamplingOptions {
            repeat_penalty: 1.2,
            ..SamplingOptions::greedy()
        };
        assert!(!new.choose_anew(&looks_back));
        // Rolled back into what came with the cache, it still does not know what stands before.
        new.take(Order::Rollback(Position(3))).unwrap();
        reply(&mut new, forward(3, 1..3));
        assert!(!new.choose_anew(&looks_back));
        reply(&mut new, forward(0, 1..3));
        assert!(new.choose_anew(&looks_back), "all of it was said");
    }

    #[test]
    fn rows_that_wait_without_ids_keep_a_stage_from_looking_back() {
        let [mut before, _] = stages(0, 1, false);
        let [mut last, _] = stages(1, 2, true);
        let Reply::Rows { hidden, .. } = reply(&mut before, forward(0, 5..25)) else {
            panic!("a stage that tells rows");
        };
        let rows = |tokens: Vec<TokenId>| {
            Order::Forward(Forward {
                first: Position(0),
                input: StageInput::Rows {
                    hidden: hidden.clone(),
                    tokens,
                },
                answers: 1,
                pass: None,
            })
        };
        let looks_back = SamplingOptions {
            repeat_penalty: 1.2,
            ..SamplingOptions::greedy()
        };
        last.take(rows(Vec::new())).unwrap();
        assert!(
            !last.choose_anew(&looks_back),
            "nothing was done yet, and what waits is untold"
        );
        assert!(last.choose_anew(&SamplingOptions::greedy()));
        last.work().unwrap();
        last.take(rows((5..25).map(TokenId).collect())).unwrap();
        last.take(Order::Rollback(Position(0))).unwrap();
        last.work().unwrap();
        last.work().unwrap();
        assert!(last.choose_anew(&looks_back));
    }
}
