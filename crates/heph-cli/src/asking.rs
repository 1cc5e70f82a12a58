//! Asking a model wherever it runs: the arguments that say where, the machines that may answer, the plan, and the desk
//! that carries it out. Shared by every command that answers.

mod draft;
mod here;
mod place;
mod readers;
mod relief;

pub(crate) use here::{part_speed, speed};
pub(crate) use place::{Asked, PlaceArguments, Rows};
pub(crate) use readers::Readers;
pub(crate) use relief::ReliefArguments;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use heph_kernels::isa::Isa;
use heph_net::endpoint::EndpointOptions;
use heph_net::ticket::Ticket;
use heph_net::transfer::Goodput;
use heph_net::trust::TrustBook;
use heph_plan::{Cluster, DirectForwarding, DraftProfile, DraftSource, Mode, Plan, Record, Request};
use heph_runtime::acceptance::{Acceptances, Task};
use heph_runtime::cancel::Cancel;
use heph_runtime::certify::rounding::{KeptRoundings, Rounding};
use heph_runtime::codecs;
use heph_runtime::desk::{Answer, Desk, Precision, Relief};
use heph_runtime::draft::{Drafter, ModelDrafter};
use heph_runtime::gate::Meter;
use heph_runtime::line::{Line, LineLimits, LineModel};
use heph_runtime::network::seconds_since_1970;
use heph_runtime::node::{Lent, Node, NodeCaps};
use heph_runtime::pool::{Came, Contact, Doors, NodePool, contacts, follow};
use heph_runtime::pressure::Pressure;
use heph_runtime::profile;
use heph_runtime::receipt::Receipt;
use heph_runtime::route::{self, Guessing, Question, Route};
use heph_runtime::seat::Traffic;
use heph_runtime::settings::Settings;
use heph_runtime::words::Words;
use heph_types::{ModelHash, ModelProfile, NodeId, Policy};

use crate::engine::EngineArguments;
use crate::failure::Failure;
use crate::machine::{self, Joined};
use crate::terminal;
use draft::{Draft, draft};
use here::{Lazy, desk_profile, here};

/// Tokens that an answer is expected to have where nobody says how long it will be.
const ANSWER_TOKENS_USUAL: usize = 200;

/// Share of drafted tokens that the bundled pair gets right when it draws with temperature: below the greedy 0.88 that
/// `models/README.md` measures. Counts until a pair's own answers tell better.
const PAIR_ACCEPTANCE: f64 = 0.75;

/// How long a peer may take to say what it is; whoever is slower does not take part.
const ANSWER_DEADLINE: Duration = Duration::from_secs(3);

/// How long a machine on this machine may take to be met.
const MEET_DEADLINE: Duration = Duration::from_secs(5);

/// This machine where it has no identity yet, because nobody else is asked.
const ALONE: NodeId = NodeId([0; 32]);

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
    /// Who may answer; the connections end with it.
    asking: Asking,
    mode: Option<Mode>,
    precision: Precision,
    books: Books,
}

/// What is written down while a desk answers.
pub(crate) struct Books {
    /// Machines that came since.
    came: Came,
    meter: Meter,
    /// What the meter said after the last answer, of bytes to and from machines and of those between them.
    counted: BTreeMap<NodeId, Traffic>,
    between: BTreeMap<(NodeId, NodeId), u64>,
    /// How well such answers were guessed for.
    acceptances: Acceptances,
}

impl Books {
    /// Settles the answer that the desk just gave: remembers how well it was guessed for, and tells what became of the plan.
    pub(crate) fn settle(&mut self, asking: &Asking, plan: &Plan, answer: &Answer) -> Receipt {
        // What cannot be kept is learned again.
        let _ = self.acceptances.learn(&answer.guessed);
        let now = self.meter.read();
        let spent = now.iter().map(|(node, bytes)| {
            let before = self.counted.get(node).copied().unwrap_or_default();
            let (up, down) = (bytes.up - before.up, bytes.down - before.down);
            (*node, Traffic { up, down })
        });
        let spent: BTreeMap<NodeId, Traffic> = spent.collect();
        self.counted = now;
        if let Some(network) = &asking.network {
            learn(network, &spent, answer.prefill + answer.decode);
        }
        let pool = self.came.join(&asking.pool);
        let between = self.meter.read_between();
        let handed = between.iter().map(|(hop, bytes)| {
            let before = self.between.get(hop).copied().unwrap_or_default();
            (*hop, bytes - before)
        });
        let handed: BTreeMap<_, _> = handed.collect();
        self.between = between;
        Receipt::new(plan, &pool, answer, &spent).with_between(&pool, &handed)
    }
}

impl Planned {
    /// Peers that did not answer: name and why.
    pub(crate) fn away(&self) -> &[(String, String)] {
        self.asking.away()
    }

    /// Plans again for a prompt of another size. Returns the desk of the new plan where that differs in more than its
    /// expectations.
    pub(crate) fn again(
        &mut self,
        sizes: Sizes,
        answer_tokens_max: Option<usize>,
    ) -> Result<Option<Desk>, Failure> {
        let record = self.asking.plan(self.mode, sizes, answer_tokens_max)?;
        let (old, new) = (&self.record.decision.plan, &record.decision.plan);
        let source = |plan: &Plan| plan.draft.map(|draft| draft.source);
        let same = old.mode == new.mode && old.same_places(new) && source(old) == source(new);
        let desk = match same {
            true => None,
            false => {
                let seated = self
                    .asking
                    .desk(&record, Guessing::WhereItHelps, self.precision)?;
                let Books {
                    came,
                    meter,
                    counted,
                    between,
                    ..
                } = &mut self.books;
                (*meter, *came) = (seated.meter, seated.came);
                (*counted, *between) = Default::default();
                Some(seated.desk)
            }
        };
        self.record = record;
        Ok(desk)
    }

    /// As [`Books::settle`].
    pub(crate) fn settle(&mut self, answer: &Answer) -> Receipt {
        self.books
            .settle(&self.asking, &self.record.decision.plan, answer)
    }
}

/// Learns that the ways carried at least so much: what passed in the whole time of an answer.
fn learn(network: &Joined, spent: &BTreeMap<NodeId, Traffic>, time: Duration) {
    let seconds = time.as_secs_f64();
    for (node, bytes) in spent.iter().filter(|_| seconds > 0.0) {
        let least = Goodput {
            up: bytes.up as f64 / seconds,
            down: bytes.down as f64 / seconds,
        };
        network.ways().carried(*node, least, seconds_since_1970());
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

    fn task(self) -> Task {
        match self.excerpts {
            Some(_) => Task::Documents,
            None => Task::Talk,
        }
    }

    /// Whether the excerpts are asked about and not all of it.
    fn takes_excerpts(self, mode: Option<Mode>, context: usize) -> bool {
        let too_long = mode != Some(Mode::Local) && self.whole >= context;
        self.excerpts.is_some() && (mode == Some(Mode::Preprocess) || too_long)
    }
}

/// What is to be asked, and how.
#[derive(Clone, Copy)]
pub(crate) struct Ask<'a> {
    pub(crate) model: &'a str,
    pub(crate) engine: &'a EngineArguments,
    pub(crate) place: &'a PlaceArguments,
    pub(crate) relief: &'a ReliefArguments,
    pub(crate) settings: &'a Settings,
}

impl Ask<'_> {
    /// A desk for the model: planned where other machines are known or a mode is asked for, else simply here. `size` tells
    /// the tokens of the prompt.
    pub(crate) fn ready(
        &self,
        answer_tokens_max: Option<usize>,
        size: impl FnOnce(&Words) -> Result<Sizes, Failure>,
    ) -> Result<Ready, Failure> {
        match self.place.is_plain(self.settings)? {
            true => self.here(size),
            false => self.planned(answer_tokens_max, size),
        }
    }

    fn here(&self, size: impl FnOnce(&Words) -> Result<Sizes, Failure>) -> Result<Ready, Failure> {
        let (engine, given_up) = relief::load(self)?;
        let (words, mode) = (engine.words()?, self.place.mode.by_name());
        let excerpts = size(&words)?.takes_excerpts(mode, engine.model.context());
        let cancel = terminal::cancel_on_ctrl_c()?;
        let desk = Desk::new(engine.worker(), words, cancel.clone());
        let desk = match relief::plain(self, &engine, given_up, &cancel)? {
            Some(relief) => desk.with_relief(relief),
            None => desk,
        };
        Ok(Ready {
            excerpts,
            desk,
            planned: None,
            load_time: engine.load_time,
            threads: engine.pool.threads(),
            isa: engine.isa,
        })
    }

    fn planned(
        &self,
        answer_tokens_max: Option<usize>,
        size: impl FnOnce(&Words) -> Result<Sizes, Failure>,
    ) -> Result<Ready, Failure> {
        let asking = Asking::open(self.model, self.engine, self.place, self.settings)?;
        let (sizes, mode) = (size(asking.words())?, self.place.mode.by_name());
        let record = asking.plan(mode, sizes, answer_tokens_max)?;
        let precision = self.relief.precision;
        let seated = asking.desk(&record, Guessing::WhereItHelps, precision)?;
        let opened = &asking.model.opened;
        let (desk, books) = seated.with_books(asking.acceptances(sizes));
        Ok(Ready {
            desk,
            excerpts: sizes.takes_excerpts(Some(record.decision.plan.mode), opened.context()),
            load_time: asking.model.load_time(),
            threads: opened.threads,
            isa: opened.isa,
            planned: Some(Planned {
                record,
                asking,
                mode,
                precision,
                books,
            }),
        })
    }
}

/// A desk over the machines of a plan.
pub(crate) struct Seated {
    pub(crate) desk: Desk,
    /// What passes the doors.
    pub(crate) meter: Meter,
    /// Machines that come while it answers.
    pub(crate) came: Came,
}

impl Seated {
    /// The desk, and the books of what it does.
    fn with_books(self, acceptances: Acceptances) -> (Desk, Books) {
        let Self { desk, meter, came } = self;
        let books = Books {
            came,
            meter,
            counted: BTreeMap::new(),
            between: BTreeMap::new(),
            acceptances,
        };
        (desk, books)
    }
}

/// A model, and who may answer with it.
pub(crate) struct Asking {
    model: Arc<Lazy>,
    hash: ModelHash,
    profile: ModelProfile,
    words: Arc<Words>,
    draft: Option<Draft>,
    /// What is certified of rounded rows, where they may be used.
    rounding: Option<Rounding>,
    /// Whether rows may go from machine to machine.
    forward: DirectForwarding,
    pool: NodePool,
    policy: Policy,
    cancel: Cancel,
    /// Where HEPH keeps what it learned.
    home: PathBuf,
    /// Peers that did not answer: name and why.
    away: Vec<(String, String)>,
    /// What carries the connections; they end with it.
    network: Option<Arc<Joined>>,
}

impl Asking {
    /// Opens `model` and looks who may answer with it: nobody else where the mode keeps everything here.
    pub(crate) fn open(
        model: &str,
        engine: &EngineArguments,
        place: &PlaceArguments,
        settings: &Settings,
    ) -> Result<Self, Failure> {
        Self::open_for(1, model, engine, place, settings)
    }

    /// As [`Asking::open`], with caches here that hold so many full contexts: for several answers at once.
    pub(crate) fn open_for(
        sessions: usize,
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
        Self::over(network, sessions, model, engine, place, settings)
    }

    /// The same model among the machines as they are now: those of the book are asked anew, over the connections that there
    /// are. `None` where there are none and some are wanted.
    pub(crate) fn again(&self) -> Result<Option<Self>, Failure> {
        let Some(network) = &self.network else {
            return Ok(TrustBook::open(&self.home)?
                .peers()
                .is_empty()
                .then(|| self.among_those(Vec::new())));
        };
        let met = contacts(network, &network.peers()?, ANSWER_DEADLINE);
        Ok(Some(self.among_those(met)))
    }

    fn among_those(&self, met: Vec<Contact>) -> Self {
        let alone = NodePool::alone(self.pool.desk().clone(), Arc::clone(self.pool.here()));
        Self {
            model: Arc::clone(&self.model),
            hash: self.hash,
            profile: self.profile.clone(),
            words: Arc::clone(&self.words),
            draft: self.draft.clone(),
            rounding: self.rounding.clone(),
            pool: alone.among(&met),
            policy: self.policy.clone(),
            cancel: self.cancel.clone(),
            home: self.home.clone(),
            away: met.into_iter().filter_map(away).collect(),
            network: self.network.clone(),
            forward: self.forward,
        }
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
        Self::over(
            Some(network),
            1,
            model,
            engine,
            &PlaceArguments::usual(),
            settings,
        )
    }

    fn over(
        network: Option<Joined>,
        sessions: usize,
        model: &str,
        engine: &EngineArguments,
        place: &PlaceArguments,
        settings: &Settings,
    ) -> Result<Self, Failure> {
        let opened = engine.open(model, None, sessions, settings)?;
        let (hash, words, graph) = (opened.hash()?, opened.words()?, opened.graph()?);
        let profile = profile::of_model(hash, model, &graph, opened.source.config().context);
        let model = Arc::new(Lazy::new(opened));
        let cancel = terminal::cancel_on_ctrl_c()?;
        let draft = draft(place, &words, settings)?;
        let kept = |home| {
            KeptRoundings::open(home)
                .find(hash, model.opened.options.kv)
                .cloned()
        };
        let rounding = (place.rows == Rows::Certified)
            .then(|| kept(&settings.home))
            .flatten();
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
            rounding,
            forward: place.forward,
            pool: pool.among(&met),
            away: met.into_iter().filter_map(away).collect(),
            cancel,
            home: settings.home.clone(),
            network: network.map(Arc::new),
        })
    }

    /// The machines.
    pub(crate) fn pool(&self) -> &NodePool {
        &self.pool
    }

    /// What machines call the model.
    pub(crate) fn hash(&self) -> ModelHash {
        self.hash
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
        self.plan_over(self.pool.cluster(), mode, sizes, answer_tokens_max)
    }

    /// As [`Asking::plan`], where no more may leave than `policy` says.
    pub(crate) fn plan_under(
        &self,
        policy: Policy,
        mode: Option<Mode>,
        sizes: Sizes,
        answer_tokens_max: Option<usize>,
    ) -> Result<Record, Failure> {
        let request = self.request(policy, mode, sizes, answer_tokens_max);
        Ok(Record::new(request, self.pool.cluster())?)
    }

    /// As [`Asking::plan`], over machines as `cluster` says they are: a demonstration takes the same ones for several.
    pub(crate) fn plan_over(
        &self,
        cluster: Cluster,
        mode: Option<Mode>,
        sizes: Sizes,
        answer_tokens_max: Option<usize>,
    ) -> Result<Record, Failure> {
        let request = self.request(self.policy.clone(), mode, sizes, answer_tokens_max);
        Ok(Record::new(request, cluster)?)
    }

    fn request(
        &self,
        policy: Policy,
        mode: Option<Mode>,
        sizes: Sizes,
        answer_tokens_max: Option<usize>,
    ) -> Request {
        let answer_tokens = answer_tokens_max.unwrap_or(usize::MAX).min(ANSWER_TOKENS_USUAL);
        let prompt_tokens = sizes.prompt(self.model.opened.context(), answer_tokens);
        let question = Question {
            model: self.profile.clone(),
            prompt_tokens,
            answer_tokens,
            context: self.model.opened.context(),
            kv: self.model.opened.options.kv,
            drafts: self.drafts(prompt_tokens, &self.acceptances(sizes)),
            document: sizes.excerpts.map(route::document_profile),
            policy,
            mode,
        };
        let mut request = question.request();
        request.direct = self.forward;
        self.rounding
            .iter()
            .for_each(|rounding| codecs::offer(&mut request, rounding));
        request
    }

    /// The desk that carries a plan out, told of machines that come and go.
    pub(crate) fn desk(
        &self,
        record: &Record,
        guessing: Guessing,
        precision: Precision,
    ) -> Result<Seated, Failure> {
        self.desk_until(record, guessing, precision, &self.cancel)
    }

    /// A desk for one answer among several, which whoever raises `cancel` ends; with the books of what it does.
    pub(crate) fn desk_for_one(
        &self,
        record: &Record,
        sizes: Sizes,
        cancel: &Cancel,
    ) -> Result<(Desk, Books), Failure> {
        let seated = self.desk_until(record, Guessing::WhereItHelps, Precision::Kept, cancel)?;
        Ok(seated.with_books(self.acceptances(sizes)))
    }

    fn desk_until(
        &self,
        record: &Record,
        guessing: Guessing,
        precision: Precision,
        cancel: &Cancel,
    ) -> Result<Seated, Failure> {
        let plan = &record.decision.plan;
        let model = self.line_model();
        if plan
            .stages
            .iter()
            .any(|stage| stage.node == self.pool.desk().node)
        {
            // Loaded now, with a bar, and not in the middle of the first token.
            self.model.warm()?;
        }
        let drafts = plan.draft.is_some();
        let drafter = self
            .draft
            .as_ref()
            .filter(|_| drafts)
            .map(|draft| self.drafter(draft, cancel));
        let meter = Meter::default();
        let doors = || Doors {
            policy: record.request.policy.clone(),
            layers: model.layers,
            meter: meter.clone(),
        };
        let follow = |network: &Arc<Joined>| follow(network.lookout(), &self.pool, doors());
        let (changes, came) = self.network.as_ref().map(follow).unzip();
        let route = Route {
            record,
            pool: &self.pool,
            model,
            words: Arc::clone(&self.words),
            drafter,
            rounding: self.rounding.as_ref(),
            guessing,
            limits: LineLimits::default(),
            changes,
            meter: meter.clone(),
            cancel: cancel.clone(),
        };
        let desk = route.desk()?;
        let (context, here) = (self.model.opened.context(), self.pool.desk().node);
        let relief = |pressure| Relief::among(&self.profile, context, here, pressure, precision);
        let desk = match Pressure::watch() {
            Some(pressure) => desk.with_relief(relief(pressure)),
            None => desk,
        };
        Ok(Seated {
            desk,
            meter,
            came: came.unwrap_or_default(),
        })
    }

    /// The model as a line knows it.
    fn line_model(&self) -> LineModel {
        let opened = &self.model.opened;
        LineModel {
            hash: self.hash,
            layers: self.profile.layers.len(),
            width: self.profile.width as usize,
            vocab: opened.source.config().vocab,
            context: opened.context(),
            kv_format: opened.options.kv,
        }
    }

    fn drafts(&self, prompt_tokens: usize, known: &Acceptances) -> Vec<DraftProfile> {
        let acceptance = known.of(DraftSource::Model, PAIR_ACCEPTANCE);
        let model = self
            .draft
            .iter()
            .map(|draft| route::model_draft_profile(&draft.profile, &draft.speed, prompt_tokens, acceptance));
        let echo = route::echo_profile();
        let echo = DraftProfile {
            acceptance: known.of(DraftSource::NGram, echo.acceptance),
            ..echo
        };
        model.chain([echo]).collect()
    }

    /// How well answers of this kind were guessed for.
    fn acceptances(&self, sizes: Sizes) -> Acceptances {
        let draft = self.draft.as_ref().map(|draft| draft.hash);
        Acceptances::open(&self.home, self.hash, draft, sizes.task())
    }

    fn drafter(&self, draft: &Draft, cancel: &Cancel) -> Box<dyn Drafter> {
        let model = LineModel::of(draft.hash, &draft.engine.model);
        let node = Node::new(ALONE, NodeCaps::default()).with_stop(cancel.flag());
        let node = node.with(draft.hash, Lent::of(&draft.engine.worker()));
        let line = Line::whole(model, Arc::new(node), LineLimits::default());
        Box::new(ModelDrafter::new(line, cancel.clone()))
    }
}

/// A peer that did not answer.
fn away(contact: Contact) -> Option<(String, String)> {
    contact.reached.err().map(|why| (contact.peer.name, why))
}
