//! Asking a model wherever it runs: the arguments that say where, the machines that may answer, the plan, and the desk
//! that carries it out. Shared by every command that answers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use heph_kernels::isa::Isa;
use heph_net::endpoint::EndpointOptions;
use heph_net::ticket::Ticket;
use heph_net::trust::TrustBook;
use heph_plan::{DraftProfile, DraftSource, Mode, Plan, Record};
use heph_runtime::bundled;
use heph_runtime::cancel::Cancel;
use heph_runtime::desk::{Answer, Desk, Precision, Relief};
use heph_runtime::draft::{Drafter, ModelDrafter};
use heph_runtime::gate::Meter;
use heph_runtime::hardware::Hardware;
use heph_runtime::line::{Line, LineLimits, LineModel};
use heph_runtime::node::{Lent, Node, NodeCaps};
use heph_runtime::pool::{Contact, Here, NodePool, contacts};
use heph_runtime::pressure::Pressure;
use heph_runtime::profile::{self, KeptSpeeds, SpeedKey};
use heph_runtime::receipt::Receipt;
use heph_runtime::route::{self, Question, Route};
use heph_runtime::seat::Traffic;
use heph_runtime::settings::{self, Allowance, Settings};
use heph_runtime::words::Words;
use heph_types::{
    Caps, Exactness, Held, KvFormat, LayerRange, ModelHash, ModelProfile, NodeId, NodeProfile, NodeState,
    Policy, Price, Role, Speed,
};

use crate::engine::{Engine, EngineArguments, Opened};
use crate::failure::{Exit, Failure};
use crate::machine::{self, Joined};
use crate::terminal;

/// Tokens that an answer is expected to have where nobody says how long it will be.
const ANSWER_TOKENS_USUAL: usize = 200;

/// Share of drafted tokens that the bundled pair gets right when it draws with temperature: below the greedy 0.88 that
/// `models/README.md` measures.
const PAIR_ACCEPTANCE: f64 = 0.75;

/// How long a peer may take to say what it is; whoever is slower does not take part.
const ANSWER_DEADLINE: Duration = Duration::from_secs(3);

/// How long a machine on this machine may take to be met.
const MEET_DEADLINE: Duration = Duration::from_secs(5);

/// This machine where it has no identity yet, because nobody else is asked.
const ALONE: NodeId = NodeId([0; 32]);

/// Where an answer may be computed. None of this changes a bit of it.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Where it runs")]
pub(crate) struct PlaceArguments {
    /// auto, local, remote, layered, speculative, layered-speculative or preprocess
    #[arg(long, default_value = "auto", value_parser = mode)]
    pub(crate) mode: Asked,
    /// What machines of a role may see: ROLE=nothing, ROLE=activations or ROLE=text. Roles are own, cloud, miner, edge
    #[arg(long, value_name = "ROLE=WHAT")]
    pub(crate) allow: Vec<Allowance>,
    /// The first so many layers stay on this machine
    #[arg(long, default_value_t = 0, value_name = "LAYERS")]
    pub(crate) keep_first: u16,
    /// The last so many layers stay on this machine
    #[arg(long, default_value_t = 0, value_name = "LAYERS")]
    pub(crate) keep_last: u16,
    /// The small model that guesses ahead, or none [default: heph-story-draft where the words are the same]
    #[arg(long, value_name = "MODEL")]
    pub(crate) draft: Option<String>,
}

/// A mode, or whichever is best.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    Auto,
    Mode(Mode),
}

impl Asked {
    pub(crate) fn by_name(self) -> Option<Mode> {
        match self {
            Self::Auto => None,
            Self::Mode(mode) => Some(mode),
        }
    }
}

fn mode(text: &str) -> Result<Asked, String> {
    match text {
        "auto" => Ok(Asked::Auto),
        _ => text
            .parse()
            .map(Asked::Mode)
            .map_err(|e: heph_plan::UnknownMode| e.to_string()),
    }
}

impl PlaceArguments {
    /// As where nothing was said.
    fn usual() -> Self {
        Self {
            mode: Asked::Auto,
            allow: Vec::new(),
            keep_first: 0,
            keep_last: 0,
            draft: None,
        }
    }

    /// Whether there is nothing to plan: everything is to run here, or nobody else is known.
    fn is_plain(&self, settings: &Settings) -> Result<bool, Failure> {
        Ok(match self.mode {
            Asked::Mode(Mode::Local) => true,
            Asked::Mode(_) => false,
            Asked::Auto => TrustBook::open(&settings.home)?.peers().is_empty(),
        })
    }

    /// What may leave: the hard constraint.
    fn policy(&self, settings: &Settings) -> Policy {
        Policy {
            layers_local_first: self.keep_first,
            layers_local_last: self.keep_last,
            ..settings::policy(settings.allow.iter().chain(&self.allow).copied())
        }
    }
}

/// A desk that is ready to answer, and how it was planned where it was.
pub(crate) struct Ready {
    pub(crate) desk: Desk,
    /// Whether a question about documents is to be asked with the excerpts.
    pub(crate) excerpts: bool,
    pub(crate) planned: Option<Planned>,
    pub(crate) load_time: Duration,
    pub(crate) threads: usize,
    pub(crate) isa: Isa,
}

/// A decision that a desk carries out.
pub(crate) struct Planned {
    pub(crate) record: Record,
    pool: NodePool,
    meter: Meter,
    /// What the meter said after the last answer.
    counted: BTreeMap<NodeId, Traffic>,
    /// Peers that did not answer: name and why.
    pub(crate) away: Vec<(String, String)>,
    /// What carries the connections; they end with it.
    _network: Option<Joined>,
}

impl Planned {
    /// The receipt of the answer that the desk just gave.
    pub(crate) fn receipt(&mut self, answer: &Answer) -> Receipt {
        let now = self.meter.read();
        let spent = now.iter().map(|(node, bytes)| {
            let before = self.counted.get(node).copied().unwrap_or_default();
            let (up, down) = (bytes.up - before.up, bytes.down - before.down);
            (*node, Traffic { up, down })
        });
        let spent = spent.collect();
        self.counted = now;
        Receipt::new(&self.record.decision.plan, &self.pool, answer, &spent)
    }
}

/// Tokens of what is asked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes {
    /// Of all of it.
    pub(crate) whole: usize,
    /// Of the excerpts that it needs, where it is about documents.
    pub(crate) excerpts: Option<usize>,
}

impl Sizes {
    /// Of a prompt that is about no documents.
    pub(crate) fn of(whole: usize) -> Self {
        let excerpts = None;
        Self { whole, excerpts }
    }

    /// What the planner is told of: all of it, or the excerpts where a context of so many tokens holds no more.
    fn prompt(self, context: usize, answer: usize) -> usize {
        match self.excerpts {
            Some(excerpts) if self.whole + answer > context => excerpts,
            _ => self.whole,
        }
    }

    /// Whether the excerpts are asked about and not all of it.
    fn takes_excerpts(self, mode: Option<Mode>, context: usize) -> bool {
        let too_long = mode != Some(Mode::Local) && self.whole >= context;
        self.excerpts.is_some() && (mode == Some(Mode::Preprocess) || too_long)
    }
}

/// A desk for `model`: planned where other machines are known or a mode is asked for, else simply here. `size` tells the
/// tokens of the prompt.
pub(crate) fn ready(
    model: &str,
    engine: &EngineArguments,
    place: &PlaceArguments,
    settings: &Settings,
    answer_tokens_max: Option<usize>,
    size: impl FnOnce(&Words) -> Result<Sizes, Failure>,
) -> Result<Ready, Failure> {
    if place.is_plain(settings)? {
        let engine = engine.load(model, None, 1, settings)?;
        let (words, mode) = (engine.words()?, place.mode.by_name());
        let excerpts = size(&words)?.takes_excerpts(mode, engine.model.context());
        let desk = Desk::new(engine.worker(), words, terminal::cancel_on_ctrl_c()?);
        let relief = |pressure| Relief::new(&engine.model, pressure, Precision::Kept);
        let desk = match Pressure::watch() {
            Some(pressure) => desk.with_relief(relief(pressure)),
            None => desk,
        };
        return Ok(Ready {
            excerpts,
            desk,
            planned: None,
            load_time: engine.load_time,
            threads: engine.pool.threads(),
            isa: engine.isa,
        });
    }
    let asking = Asking::open(model, engine, place, settings)?;
    let sizes = size(asking.words())?;
    let record = asking.plan(place.mode.by_name(), sizes, answer_tokens_max)?;
    let mode = Some(record.decision.plan.mode);
    let (desk, meter) = asking.desk(&record.decision.plan)?;
    let opened = &asking.model.opened;
    Ok(Ready {
        desk,
        excerpts: sizes.takes_excerpts(mode, asking.model.opened.context()),
        load_time: asking.model.load_time(),
        threads: opened.threads,
        isa: opened.isa,
        planned: Some(Planned {
            record,
            pool: asking.pool,
            meter,
            counted: BTreeMap::new(),
            away: asking.away,
            _network: asking.network,
        }),
    })
}

/// A model, and who may answer with it.
pub(crate) struct Asking {
    model: Arc<Lazy>,
    hash: ModelHash,
    profile: ModelProfile,
    words: Arc<Words>,
    draft: Option<Draft>,
    pool: NodePool,
    policy: Policy,
    cancel: Cancel,
    /// Peers that did not answer: name and why.
    away: Vec<(String, String)>,
    network: Option<Joined>,
}

/// A model that is loaded when it is first needed here.
struct Lazy {
    opened: Opened,
    loaded: Mutex<Option<Arc<Engine>>>,
}

impl Lazy {
    fn engine(&self) -> Result<Arc<Engine>, Failure> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if loaded.is_none() {
            *loaded = Some(Arc::new(self.opened.load()?));
        }
        Ok(loaded
            .as_ref()
            .map(Arc::clone)
            .unwrap_or_else(|| unreachable!("it was loaded")))
    }

    /// What loading took; nothing where nothing was loaded here.
    fn load_time(&self) -> Duration {
        let loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        loaded.as_ref().map_or(Duration::ZERO, |engine| engine.load_time)
    }
}

/// The small model that guesses ahead.
struct Draft {
    engine: Arc<Engine>,
    hash: ModelHash,
    profile: ModelProfile,
    speed: Speed,
}

impl Asking {
    /// Opens `model` and looks who may answer with it: nobody else where the mode keeps everything here.
    pub(crate) fn open(
        model: &str,
        engine: &EngineArguments,
        place: &PlaceArguments,
        settings: &Settings,
    ) -> Result<Self, Failure> {
        let others = place.mode != Asked::Mode(Mode::Local);
        let network = match others && !TrustBook::open(&settings.home)?.peers().is_empty() {
            true => Some(Joined::start(machine::asking(settings))?),
            false => None,
        };
        Self::over(network, model, engine, place, settings)
    }

    /// Opens `model` among the machines of these tickets, on loopback: for a demonstration.
    pub(crate) fn among(
        tickets: &[Ticket],
        model: &str,
        engine: &EngineArguments,
        settings: &Settings,
    ) -> Result<Self, Failure> {
        let network = Joined::start(machine::options(settings, None, EndpointOptions::loopback()))?;
        for ticket in tickets {
            network.block_on(network.join(ticket, MEET_DEADLINE))?;
        }
        Self::over(Some(network), model, engine, &PlaceArguments::usual(), settings)
    }

    fn over(
        network: Option<Joined>,
        model: &str,
        engine: &EngineArguments,
        place: &PlaceArguments,
        settings: &Settings,
    ) -> Result<Self, Failure> {
        let opened = engine.open(model, None, 1, settings)?;
        let (hash, words, graph) = (opened.hash()?, opened.words()?, opened.graph()?);
        let profile = profile::of_model(hash, model, &graph, opened.source.config().context);
        let model = Arc::new(Lazy {
            opened,
            loaded: Mutex::default(),
        });
        let cancel = terminal::cancel_on_ctrl_c()?;
        let draft = draft(place, &words, settings)?;
        let speed = speed(hash, &model.opened, settings, || model.engine())?;
        let node = network.as_ref().map_or(ALONE, |network| network.node());
        let pool = NodePool::alone(
            desk_profile(node, speed, &profile),
            here(node, hash, &model, &cancel),
        );
        let met = match &network {
            Some(network) => contacts(network, &network.peers()?, ANSWER_DEADLINE),
            None => Vec::new(),
        };
        Ok(Self {
            policy: place.policy(settings),
            model,
            hash,
            profile,
            words,
            draft,
            pool: pool.among(&met),
            away: met.into_iter().filter_map(away).collect(),
            cancel,
            network,
        })
    }

    /// The machines.
    pub(crate) fn pool(&self) -> &NodePool {
        &self.pool
    }

    /// Peers that did not answer: name and why.
    pub(crate) fn away(&self) -> &[(String, String)] {
        &self.away
    }

    /// How the model reads and writes.
    pub(crate) fn words(&self) -> &Arc<Words> {
        &self.words
    }

    /// What the planner says to a prompt of so many tokens, with all that it was told.
    pub(crate) fn plan(
        &self,
        mode: Option<Mode>,
        sizes: Sizes,
        answer_tokens_max: Option<usize>,
    ) -> Result<Record, Failure> {
        let answer_tokens = answer_tokens_max.unwrap_or(usize::MAX).min(ANSWER_TOKENS_USUAL);
        let prompt_tokens = sizes.prompt(self.model.opened.context(), answer_tokens);
        let question = Question {
            model: self.profile.clone(),
            prompt_tokens,
            answer_tokens,
            context: self.model.opened.context(),
            kv: self.model.opened.options.kv,
            drafts: self.drafts(prompt_tokens),
            document: sizes.excerpts.map(route::document_profile),
            policy: self.policy.clone(),
            mode,
        };
        Ok(Record::new(question.request(), self.pool.cluster())?)
    }

    /// The desk that carries a plan out, and the meter of what leaves.
    pub(crate) fn desk(&self, plan: &Plan) -> Result<(Desk, Meter), Failure> {
        let source = &self.model.opened.source;
        let model = LineModel {
            hash: self.hash,
            layers: self.profile.layers.len(),
            width: self.profile.width as usize,
            vocab: source.config().vocab,
            context: self.model.opened.context(),
            kv_format: self.model.opened.options.kv,
        };
        if plan
            .stages
            .iter()
            .any(|stage| stage.node == self.pool.desk().node)
        {
            // Loaded now, with a bar, and not in the middle of the first token.
            self.model.engine()?;
        }
        let by_model = plan.draft.is_some_and(|draft| draft.source == DraftSource::Model);
        let drafter = self
            .draft
            .as_ref()
            .filter(|_| by_model)
            .map(|draft| self.drafter(draft));
        let route = Route {
            plan,
            pool: &self.pool,
            policy: &self.policy,
            model,
            words: Arc::clone(&self.words),
            drafter,
            limits: LineLimits::default(),
            cancel: self.cancel.clone(),
        };
        Ok(route.desk()?)
    }

    fn drafts(&self, prompt_tokens: usize) -> Vec<DraftProfile> {
        let model = self.draft.iter().map(|draft| {
            route::model_draft_profile(&draft.profile, &draft.speed, prompt_tokens, PAIR_ACCEPTANCE)
        });
        model.chain([route::echo_profile()]).collect()
    }

    fn drafter(&self, draft: &Draft) -> Box<dyn Drafter> {
        let model = LineModel::of(draft.hash, &draft.engine.model);
        let node = Node::new(ALONE, NodeCaps::default()).with_stop(self.cancel.flag());
        let node = node.with(draft.hash, Lent::of(&draft.engine.worker()));
        let line = Line::whole(model, Arc::new(node), LineLimits::default());
        Box::new(ModelDrafter::new(line, self.cancel.clone()))
    }
}

/// This machine as a host: the model is loaded when its first stage is opened.
fn here(node: NodeId, hash: ModelHash, model: &Arc<Lazy>, cancel: &Cancel) -> Arc<Here> {
    let model = Arc::clone(model);
    let load = move || match model.engine() {
        Ok(engine) => Ok(Lent::of(&engine.worker())),
        Err(failure) => Err(failure.sentence()),
    };
    Arc::new(Here::new(node, hash, cancel.clone(), Box::new(load)))
}

/// This machine in the planner's words.
fn desk_profile(node: NodeId, speed: Speed, model: &ModelProfile) -> NodeProfile {
    let count = model.layers.len();
    let layers = LayerRange::new(0, count, count).ok();
    NodeProfile {
        node,
        name: "here".to_owned(),
        role: Role::Own,
        speed,
        memory: Hardware::look().memory_available_bytes,
        holds: layers
            .map(|layers| Held {
                model: model.model,
                layers,
            })
            .into_iter()
            .collect(),
        exactness: Exactness::Exact,
        caps: Caps::default(),
        state: NodeState::Open,
        queue: Duration::ZERO,
        price: Price::default(),
    }
}

/// A peer that did not answer.
fn away(contact: Contact) -> Option<(String, String)> {
    contact.reached.err().map(|why| (contact.peer.name, why))
}

/// How fast this machine runs a model: as it was timed before, or timed now, with `engine` in memory.
pub(crate) fn speed(
    hash: ModelHash,
    opened: &Opened,
    settings: &Settings,
    engine: impl FnOnce() -> Result<Arc<Engine>, Failure>,
) -> Result<Speed, Failure> {
    let key = SpeedKey {
        model: hash,
        processor: processor(),
        threads: opened.threads,
        isa: opened.isa.name().to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let mut kept = KeptSpeeds::open(&settings.home);
    if let Some(speed) = kept.find(&key) {
        return Ok(speed.clone());
    }
    let measured = profile::of_speed(&mut engine()?.worker())?;
    let speed = measured.ok_or_else(|| Failure::new(Exit::No, "the clock of this machine stands still"))?;
    // A speed that cannot be kept is timed again next time.
    let _ = kept.keep(key, speed.clone());
    Ok(speed)
}

fn processor() -> String {
    static NAME: OnceLock<String> = OnceLock::new();
    NAME.get_or_init(|| Hardware::look().cpu).clone()
}

/// The small model to draft with: the one asked for, or the bundled one where it has the same words.
fn draft(place: &PlaceArguments, words: &Words, settings: &Settings) -> Result<Option<Draft>, Failure> {
    let drafts = |mode| !matches!(mode, Some(Mode::Local | Mode::Remote | Mode::Layered));
    let asked = place.draft.as_deref();
    if asked == Some("none") || !drafts(place.mode.by_name()) {
        return Ok(None);
    }
    let name = asked.unwrap_or(bundled::STORY_DRAFT.name);
    let opened = EngineArguments::with_kv(KvFormat::F16).open(name, None, 1, settings)?;
    let same = opened.words()?.tokenizer.same_tokens(&words.tokenizer);
    match (same, asked) {
        (true, _) => {}
        (false, None) => return Ok(None),
        (false, Some(name)) => {
            let sentence = format!("{name} cannot draft: it has other tokens than the model");
            return Err(Failure::new(Exit::Input, sentence).hint("a draft needs the vocabulary of its model"));
        }
    }
    let hash = opened.hash()?;
    let profile = profile::of_model(hash, name, &opened.graph()?, opened.context());
    let lazy = Lazy {
        opened,
        loaded: Mutex::default(),
    };
    let engine = lazy.engine()?;
    let speed = speed(hash, &lazy.opened, settings, || Ok(Arc::clone(&engine)))?;
    Ok(Some(Draft {
        engine,
        hash,
        profile,
        speed,
    }))
}
