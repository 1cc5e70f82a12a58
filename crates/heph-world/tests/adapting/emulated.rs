//! Nodes in this process whose work takes time on a clock that moves on when somebody waits.

use heph_engine::model::{LoadOptions, Model};
use heph_engine::source::Source;
use heph_kernels::isa::Isa;
use heph_kernels::pool::Pool;
use heph_plan::{
    Cluster, CodecProfile, DirectForwarding, KvChoice, ModelChoice, Objective, Peer, Readying, Request,
};
use heph_runtime::bundled::Bundled;
use heph_runtime::clock::Clock;
use heph_runtime::desk::AnswerOptions;
use heph_runtime::draft::Drafter;
use heph_runtime::line::{Line, LineError, LineLimits, LineModel, Placement};
use heph_runtime::node::{Lent, Node, NodeCaps};
use heph_runtime::seat::{Bell, Host, Seat, SeatError};
use heph_runtime::words::Words;
use heph_types::{
    Branch, Caps, Exactness, Held, KvFormat, LayerProfile, LayerRange, Leaves, LinkProfile, ModelHash,
    ModelProfile, NodeId, NodeProfile, NodeState, Order, Policy, Price, Reply, Role, SamplingOptions,
    SessionId, Speed, StageSpec, TimedPass, TokenId, WireCodec,
};
use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

pub(crate) const HASH: ModelHash = ModelHash([9; 32]);

/// What another row adds to a pass, as a share of the first.
pub(crate) const ROW_SHARE: f64 = 0.1;

/// Time that moves on when somebody waits or spends it.
#[derive(Debug)]
pub(crate) struct Emulated {
    base: Instant,
    state: Mutex<(Duration, BTreeSet<Duration>)>,
}

impl Emulated {
    pub(crate) fn new() -> Arc<Self> {
        let (base, state) = (Instant::now(), Mutex::new((Duration::ZERO, BTreeSet::new())));
        Arc::new(Self { base, state })
    }

    pub(crate) fn passed(&self) -> Duration {
        self.state.lock().unwrap().0
    }

    pub(crate) fn spend(&self, time: Duration) {
        self.state.lock().unwrap().0 += time;
    }

    /// Somebody will have something to say then.
    fn expect(&self, when: Duration) {
        self.state.lock().unwrap().1.insert(when);
    }
}

impl Clock for Emulated {
    fn now(&self) -> Instant {
        self.base + self.passed()
    }

    fn wait(&self, bell: &Bell, seen: u64, deadline: Instant) {
        if bell.rings() > seen {
            return;
        }
        let mut state = self.state.lock().unwrap();
        let now = state.0;
        state.1.retain(|when| *when > now);
        let next = state.1.first().copied().unwrap_or(Duration::MAX);
        state.0 = next.min(deadline - self.base).max(now);
    }
}

/// A model of the bundled pair.
pub(crate) struct Loaded {
    pub(crate) model: Arc<Model>,
    pub(crate) words: Arc<Words>,
}

pub(crate) fn load(bundled: Bundled) -> Loaded {
    let source = Arc::new(Source::from_gguf(vec![Arc::new(bundled.bytes.to_vec())]).expect("a sound file"));
    let options = LoadOptions {
        context: Some(512),
        sessions: 32,
        ..LoadOptions::default()
    };
    let model = Model::load(Arc::clone(&source), &options, &Pool::serial(), &mut |_| {}).expect("it loads");
    let words = Words::of(&source.vocabulary().expect("it has one")).expect("a sound vocabulary");
    Loaded {
        model: Arc::new(model),
        words: Arc::new(words),
    }
}

impl Loaded {
    pub(crate) fn line_model(&self) -> LineModel {
        LineModel::of(HASH, &self.model)
    }

    fn node(&self, id: NodeId) -> Node {
        let lent = Lent::new(Arc::clone(&self.model), Arc::new(Pool::serial()), Isa::best());
        Node::new(id, NodeCaps::default()).with(HASH, lent)
    }

    /// A line over these stages, on the clock.
    pub(crate) fn line(
        &self,
        machines: &[Arc<Machine>],
        stages: &[Placement],
        clock: &Arc<Emulated>,
    ) -> Line {
        let hosts = machines
            .iter()
            .map(|m| -> Arc<dyn Host> { Arc::new(Emulating(Arc::clone(m))) });
        let limits = LineLimits::default();
        let line = Line::new(self.line_model(), hosts.collect(), stages, limits).expect("a layout");
        line.with_clock(Arc::clone(clock) as Arc<dyn Clock>)
    }

    /// Options of an answer that goes on for `tokens` tokens.
    pub(crate) fn options(&self, tokens: usize, temperature: f32) -> AnswerOptions {
        let ends = self.words.tokenizer.eog_ids();
        let sampling = SamplingOptions {
            temperature,
            seed: 11,
            logit_bias: ends.iter().map(|end| (*end, f32::NEG_INFINITY)).collect(),
            ..SamplingOptions::greedy()
        };
        AnswerOptions {
            sampling,
            max_tokens: Some(tokens),
            stops: Vec::new(),
        }
    }
}

/// A node with the time that its work takes.
pub(crate) struct Machine {
    node: Node,
    clock: Arc<Emulated>,
    /// Seconds that a layer takes for one row.
    pub(crate) layer: f64,
    pub(crate) rtt: Duration,
    /// How many times slower it is than it was, in thousandths.
    slow: AtomicU64,
    dead: AtomicBool,
    /// Until when its processor is busy.
    busy: Mutex<Duration>,
}

pub(crate) fn id(which: u8) -> NodeId {
    NodeId([which; 32])
}

impl Machine {
    pub(crate) fn new(
        loaded: &Loaded,
        clock: &Arc<Emulated>,
        which: u8,
        layer_ms: f64,
        rtt_ms: u64,
    ) -> Arc<Self> {
        Arc::new(Self {
            node: loaded.node(id(which)),
            clock: Arc::clone(clock),
            layer: layer_ms / 1e3,
            rtt: Duration::from_millis(rtt_ms),
            slow: AtomicU64::new(1000),
            dead: AtomicBool::new(false),
            busy: Mutex::default(),
        })
    }

    pub(crate) fn slow_down(&self, times: f64) {
        self.slow.store((times * 1e3) as u64, Ordering::Relaxed);
    }

    pub(crate) fn kill(&self) {
        self.dead.store(true, Ordering::Relaxed);
    }

    pub(crate) fn host(self: &Arc<Self>) -> Arc<dyn Host> {
        Arc::new(Emulating(Arc::clone(self)))
    }

    /// What a pass takes; choosing and embedding alone take next to nothing.
    pub(crate) fn pass(&self, rows: usize, layers: usize) -> Duration {
        let slow = self.slow.load(Ordering::Relaxed) as f64 / 1e3;
        let rows = 1.0 + ROW_SHARE * (rows.max(1) - 1) as f64;
        Duration::from_secs_f64((self.layer * layers as f64 * rows + 1e-5) * slow)
    }

    /// The time at which work that arrives now is done.
    fn work(&self, takes: Duration) -> Duration {
        let arrives = self.clock.passed() + self.rtt / 2;
        let mut busy = self.busy.lock().unwrap();
        *busy = arrives.max(*busy) + takes;
        *busy
    }

    fn check(&self) -> Result<(), SeatError> {
        match self.dead.load(Ordering::Relaxed) {
            false => Ok(()),
            true => Err(SeatError::Lost {
                node: self.node.id(),
                why: "killed".to_owned(),
            }),
        }
    }

    /// The profile that a benchmark of it would have made.
    pub(crate) fn profile(&self, model: &ModelProfile, layers_max: usize) -> NodeProfile {
        let passes = [1u32, 2, 4, 8, 16, 64, 256].map(|rows| TimedPass {
            rows,
            seconds: self.layer * (1.0 + ROW_SHARE * f64::from(rows - 1)),
        });
        let count = model.layers.len();
        let room = |layers: usize| layers as u64 * (model.layers[0].weight_bytes + 512 * 1024);
        NodeProfile {
            node: self.node.id(),
            name: format!("n{}", self.node.id().0[0]),
            role: Role::Own,
            speed: Speed::from_passes(&model.layers[0], &passes).expect("real times"),
            memory: room(layers_max) + 1_000_000,
            holds: vec![Held {
                model: model.model,
                layers: LayerRange::new(0, count, count).expect("all layers"),
            }],
            exactness: Exactness::Exact,
            caps: Caps::default(),
            state: NodeState::Open,
            queue: Duration::ZERO,
            price: Price::default(),
        }
    }

    pub(crate) fn peer(&self, model: &ModelProfile, layers_max: usize) -> Peer {
        Peer {
            profile: self.profile(model, layers_max),
            link: LinkProfile {
                rtt: self.rtt,
                up: 1e9,
                down: 1e9,
                loss: 0.0,
            },
        }
    }
}

/// Costs of a model whose layers all weigh the same: only their proportions matter here.
pub(crate) fn model_profile(loaded: &Loaded) -> ModelProfile {
    let graph = loaded.model.graph();
    let layer = LayerProfile {
        weight_bytes: 50_000_000,
        weight_bytes_one_row: 50_000_000,
        flops_per_token: 100e6,
        flops_per_position: 0.0,
        kv_bytes_f16: 512.0,
    };
    ModelProfile {
        model: HASH,
        name: "story".to_owned(),
        layers: vec![layer; graph.layers.len()],
        unasked: None,
        width: graph.hidden as u32,
        head: LayerProfile {
            weight_bytes: 1000,
            weight_bytes_one_row: 1000,
            flops_per_token: 1000.0,
            kv_bytes_f16: 0.0,
            ..layer
        },
        embed_bytes: 0,
        context_max: 512,
    }
}

pub(crate) fn request(profile: ModelProfile, tokens: u32) -> Request {
    let format = KvFormat::F16;
    Request {
        models: vec![ModelChoice { profile, loss: 0.0 }],
        prompt_tokens: 30,
        answer_tokens: tokens,
        context: 512,
        kv: vec![KvChoice { format, loss: 0.0 }],
        codecs: vec![CodecProfile::nominal(WireCodec::F32)],
        drafts: Vec::new(),
        document: None,
        warm: Vec::new(),
        rounds: false,
        readying: Readying::default(),
        policy: Policy::open(Leaves::Text, &Role::ALL),
        objective: Objective::default(),
        mode: None,
        direct: DirectForwarding::Never,
    }
}

pub(crate) fn cluster(desk: NodeProfile, nodes: Vec<Peer>) -> Cluster {
    let between = Vec::new();
    Cluster { desk, nodes, between }
}

/// A machine as a host.
struct Emulating(Arc<Machine>);

impl Host for Emulating {
    fn node(&self) -> NodeId {
        self.0.node.id()
    }

    fn open(&self, session: SessionId, spec: &StageSpec, bell: &Bell) -> Result<Box<dyn Seat>, SeatError> {
        self.0.check()?;
        self.0.clock.spend(self.0.rtt);
        Ok(Box::new(EmulatedSeat {
            inner: self.0.node.open(session, spec, bell)?,
            machine: Arc::clone(&self.0),
            layers: spec.layers.len(),
            due: VecDeque::new(),
        }))
    }
}

struct EmulatedSeat {
    inner: Box<dyn Seat>,
    machine: Arc<Machine>,
    layers: usize,
    /// Orders, and when their next reply is heard here.
    due: VecDeque<(Duration, Order)>,
}

impl EmulatedSeat {
    fn schedule(&mut self, order: Order) {
        let rows = match &order {
            Order::Forward(forward) => heph_world::scene::rows(&forward.input),
            Order::Rollback(_) | Order::Generate { .. } => 1,
        };
        let heard = self.machine.work(self.machine.pass(rows, self.layers)) + self.machine.rtt / 2;
        self.machine.clock.expect(heard);
        self.due.push_back((heard, order));
    }
}

impl Seat for EmulatedSeat {
    fn node(&self) -> NodeId {
        self.inner.node()
    }

    fn submit(&mut self, order: Order) -> Result<(), SeatError> {
        self.machine.check()?;
        self.schedule(order);
        Ok(())
    }

    fn poll(&mut self) -> Result<Option<Reply>, SeatError> {
        self.machine.check()?;
        if self
            .due
            .front()
            .is_none_or(|(when, _)| *when > self.machine.clock.passed())
        {
            return Ok(None);
        }
        let Some((heard, order)) = self.due.pop_front() else {
            return Ok(None);
        };
        let goes_on = matches!(order, Order::Generate { .. });
        if !matches!(&order, Order::Generate { tokens_max: 0, .. }) {
            self.inner.submit(order)?;
        }
        let reply = self.inner.poll()?;
        if goes_on && reply.is_some() {
            // The node works on while its word is on the way; the empty order stands for the next token.
            let next = heard + self.machine.pass(1, self.layers);
            self.machine.clock.expect(next);
            let empty = Order::Generate {
                last: TokenId(0),
                tokens_max: 0,
                ends: Vec::new(),
            };
            self.due.push_front((next, empty));
        }
        Ok(reply)
    }
}

/// A drafter whose guesses take time.
pub(crate) struct Timed<D> {
    pub(crate) inner: D,
    pub(crate) clock: Arc<Emulated>,
    pub(crate) token: Duration,
}

impl<D: Drafter> Drafter for Timed<D> {
    fn begin(&mut self, sampling: &SamplingOptions) {
        self.inner.begin(sampling);
    }

    fn draft(&mut self, history: &[TokenId], count: usize) -> Result<Vec<TokenId>, LineError> {
        let tokens = self.inner.draft(history, count)?;
        self.clock.spend(self.token * tokens.len() as u32);
        Ok(tokens)
    }

    fn branches(
        &mut self,
        history: &[TokenId],
        guesses: &[TokenId],
        count: usize,
    ) -> Result<Vec<Branch>, LineError> {
        let branches = self.inner.branches(history, guesses, count)?;
        // The first token of each is known from when the guesses were made.
        let drafted: usize = branches.iter().map(|branch| branch.tokens.len() - 1).sum();
        self.clock.spend(self.token * drafted as u32);
        Ok(branches)
    }
}
