//! Asking a model wherever it runs: the arguments that say where, the machines that may answer, the plan, and the desk
//! that carries it out. Shared by every command that answers.

mod draft;
mod here;
mod kept;
mod place;
mod readers;
mod relief;
mod send;

pub(crate) use here::{part_speed, speed};
pub(crate) use place::{Asked, PlaceArguments, Rows};
pub(crate) use readers::Readers;
pub(crate) use relief::ReliefArguments;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::mem;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use heph_engine::worker::ForwardError;
use heph_kernels::isa::Isa;
use heph_net::endpoint::EndpointOptions;
use heph_net::ticket::Ticket;
use heph_net::transfer::Goodput;
use heph_net::trust::{TrustBook, TrustError};
use heph_plan::replan::{Event, after};
use heph_plan::{
    Cluster, DirectForwarding, DraftProfile, DraftSource, Mode, Plan, Readying, Record, Refusal, Request,
    Stage, WarmPrefix, shortlist,
};
use heph_privacy::pii::names::Model;
use heph_privacy::pseudonym::{Pseudonyms, Replacing};
use heph_runtime::acceptance::{Acceptances, Task};
use heph_runtime::cancel::Cancel;
use heph_runtime::certify::rounding::{KeptRoundings, Rounding};
use heph_runtime::codecs;
use heph_runtime::desk::{Answer, Desk, Precision, Relief};
use heph_runtime::discretion::{Discretion, destination, shows_text_alone};
use heph_runtime::draft::Drafter;
use heph_runtime::gate::{Doors, Meter};
use heph_runtime::line::{LineLimits, LineModel};
use heph_runtime::network::seconds_since_1970;
use heph_runtime::pool::{Came, Contact, Hailing, NodePool, Waits, follow};
use heph_runtime::preprocess::label_of_all;
use heph_runtime::pressure::Pressure;
use heph_runtime::profile;
use heph_runtime::receipt::{Receipt, WeightsLine};
use heph_runtime::route::{self, Guessing, Question, Route};
use heph_runtime::rules::Rules;
use heph_runtime::seat::Traffic;
use heph_runtime::settings::Settings;
use heph_runtime::ways::Distances;
use heph_runtime::words::Words;
use heph_types::{ModelHash, ModelProfile, NodeId, NodeState, Policy};

use crate::engine::{EngineArguments, LentModel};
use crate::explain;
use crate::failure::{Exit, Failure};
use crate::machine::{self, Joined};
use crate::terminal::{self, Style};
use draft::{Draft, draft};
use here::{Lazy, desk_profile, here, readying};

/// Tokens that an answer is expected to have where nobody says how long it will be.
pub(crate) const ANSWER_TOKENS_USUAL: usize = 200;

/// Share of drafted tokens that the bundled pair gets right when it draws with temperature: below the greedy 0.88 that
/// `models/README.md` measures. Counts until a pair's own answers tell better.
const PAIR_ACCEPTANCE: f64 = 0.75;

/// How long a peer may take to say what it is; whoever is slower does not take part.
const ANSWER_DEADLINE: Duration = Duration::from_secs(3);

/// How long a machine on this machine may take to be met.
const MEET_DEADLINE: Duration = Duration::from_secs(5);

/// Machines that are away which a refusal names at most.
const AWAY_TOLD: usize = 4;

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

impl Ready {
    /// Whether anything of what is asked goes to another machine.
    pub(crate) fn leaves(&self) -> bool {
        let planned = self.planned.as_ref();
        planned.is_some_and(|planned| planned.record.decision.plan.remote_stages().next().is_some())
    }

    /// `failure` with the machines by their names.
    pub(crate) fn named(&self, failure: Failure) -> Failure {
        match &self.planned {
            Some(planned) => failure.worded(|text| planned.named(text)),
            None => failure,
        }
    }

    /// As [`Planned::replace`]; the desk that may ask the texts is this one's from then on.
    pub(crate) fn replace(&mut self, texts: &mut [String]) -> Result<(), Failure> {
        if let Some(planned) = &mut self.planned
            && let Some(desk) = planned.replace(texts)?
        {
            self.desk = desk;
        }
        Ok(())
    }

    /// Turns back in an answer what was replaced in what was last asked.
    pub(crate) fn restore(&self, answer: &mut String) {
        if let Some(pseudonyms) = self.planned.as_ref().and_then(Planned::pseudonyms) {
            *answer = pseudonyms.restore(answer);
        }
    }
}

/// A decision that a desk carries out.
pub(crate) struct Planned {
    pub(crate) record: Record,
    /// Who may answer; the connections end with it.
    asking: Asking,
    mode: Option<Mode>,
    precision: Precision,
    books: Books,
    /// What stood for people and doors so far.
    pseudonyms: Option<Pseudonyms>,
    /// Machines of a plan that the conversation goes on without, since they were lost.
    missed: Vec<NodeId>,
}

/// What is written down while a desk answers.
pub(crate) struct Books {
    /// Machines that came since.
    came: Came,
    meter: Meter,
    /// What the meter said after the last answer, of bytes to and from machines and of those between them.
    counted: BTreeMap<NodeId, Traffic>,
    between: BTreeMap<(NodeId, NodeId), u64>,
    /// What left of the model for the next answer.
    weights: Vec<WeightsLine>,
    /// How well such answers were guessed for.
    acceptances: Acceptances,
}

impl Books {
    /// Settles the answer that the desk just gave: remembers how well it was guessed for, and tells what became of the plan.
    pub(crate) fn settle(&mut self, asking: &Asking, plan: &Plan, answer: &Answer) -> Receipt {
        // What cannot be kept is learned again.
        let _ = self.acceptances.learn(&answer.guessed);
        let now = self.meter.settle();
        let spent = self.spent(&now);
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
        Receipt::new(plan, &pool, answer, &spent)
            .with_between(&pool, &handed)
            .with_model(asking.hash, asking.precision.clone())
            .with_left(&self.meter.read_left())
            .with_weights(mem::take(&mut self.weights))
    }

    /// What the meter, which says `now`, counted since the last answer.
    fn spent(&self, now: &BTreeMap<NodeId, Traffic>) -> BTreeMap<NodeId, Traffic> {
        let spent = now.iter().map(|(node, bytes)| {
            let before = self.counted.get(node).copied().unwrap_or_default();
            let more = Traffic {
                up: bytes.up.saturating_sub(before.up),
                down: bytes.down.saturating_sub(before.down),
            };
            (*node, more)
        });
        spent.collect()
    }

    /// Takes over what went out for the same answer by a desk that failed: it left, too.
    pub(crate) fn go_on_from(&self, failed: &Books) {
        let spent = failed.spent(&failed.meter.settle());
        self.meter.take_over(&spent, &failed.meter.read_left());
    }
}

impl Planned {
    /// `text` with the machines by their names, those that came since among them.
    pub(crate) fn named(&self, text: &str) -> String {
        self.books.came.join(&self.asking.pool).named(text)
    }

    /// What may be told of the conversation.
    pub(crate) fn discretion(&self) -> &Discretion {
        self.asking.discretion()
    }

    /// Peers that did not answer: name and why.
    pub(crate) fn away(&self) -> &[(String, String)] {
        self.asking.away()
    }

    /// Asks the machines anew, where the conversation misses some: whether all of these are there, and take work. They are those of the next plan then.
    pub(crate) fn are_back(&mut self) -> Result<bool, Failure> {
        if self.missed.is_empty() {
            return Ok(false);
        }
        let Some(met) = self.asking.again(Waits::AsWorth)? else {
            return Ok(false);
        };
        let others = met.pool().others().iter().map(|machine| &machine.profile);
        let open = others.filter(|profile| profile.state == NodeState::Open && !met.is_lost(profile.node));
        let open: Vec<NodeId> = open.map(|profile| profile.node).collect();
        let are = self.missed.iter().all(|node| open.contains(node));
        if are {
            self.missed.clear();
            self.asking = met;
        }
        Ok(are)
    }

    /// Plans again for a prompt of another size, for one that became more private, or for a desk that has left its plan. Returns the desk
    /// of the new plan where that differs in more than its expectations, or the old one has moved.
    pub(crate) fn again(
        &mut self,
        sizes: Sizes,
        answer_tokens_max: Option<usize>,
        has_moved: bool,
    ) -> Result<Option<Desk>, Failure> {
        // Whether anything will be replaced is asked anew for the new plan.
        let bounds = Bounds {
            discretion: &self.asking.discretion.clone().unreplaced(),
            ..self.asking.bounds()
        };
        let cluster = self.asking.cluster_that_answers();
        let record = self
            .asking
            .best(&cluster, &bounds, self.mode, sizes, answer_tokens_max)?;
        let (old, new) = (&self.record.decision.plan, &record.decision.plan);
        let source = |plan: &Plan| plan.draft.map(|draft| draft.source);
        let same = old.mode == new.mode && old.same_places(new) && source(old) == source(new);
        self.record = record;
        (!same || has_moved).then(|| self.seat()).transpose()
    }

    /// Replaces what tells of people and doors in `texts`, which are all that will be asked, where the machines of the plan may
    /// see no more; the same thing has the same pseudonym all through a conversation. Returns a desk where the one before may
    /// not ask them.
    pub(crate) fn replace(&mut self, texts: &mut [String]) -> Result<Option<Desk>, Failure> {
        let discretion = self.asking.discretion.clone().unreplaced();
        self.asking.discretion = match self.asking.wants_replaced(&self.record, &discretion) {
            Some(by) => {
                let session = session(&mut self.pseudonyms, by)?;
                let replaced = heph_privacy::replace(texts, &discretion.label(), Model::bundled(), session);
                let replaced = replaced.map_err(|stays| Failure::new(Exit::No, stays.to_string()))?;
                discretion.with_replaced(replaced)
            }
            None if self.asking.discretion.is_replaced() => discretion,
            None => return Ok(None),
        };
        self.seat().map(Some)
    }

    /// The way back from what was last asked, where something in it may have been replaced.
    pub(crate) fn pseudonyms(&self) -> Option<&Pseudonyms> {
        self.pseudonyms
            .as_ref()
            .filter(|_| self.asking.discretion.is_replaced())
    }

    /// A desk for the plan as it stands, with books of its own.
    fn seat(&mut self) -> Result<Desk, Failure> {
        let seated = self
            .asking
            .desk(&self.record, Guessing::WhereItHelps, self.precision)?;
        let Books {
            came,
            meter,
            counted,
            between,
            ..
        } = &mut self.books;
        (*meter, *came) = (seated.meter, seated.came);
        (*counted, *between) = Default::default();
        Ok(seated.desk)
    }

    /// As [`Books::settle`].
    pub(crate) fn settle(&mut self, answer: &Answer) -> Receipt {
        let receipt = self
            .books
            .settle(&self.asking, &self.record.decision.plan, answer);
        self.miss(&receipt);
        receipt
    }

    /// That the answer with this receipt did not end in the mode that was asked for, where one was.
    pub(crate) fn mode_lost(&self, receipt: &Receipt) -> Option<String> {
        let here = self.asking.pool.desk().node;
        let elsewhere = self.record.decision.plan.remote_stages().next().is_some();
        explain::mode_lost(self.mode?, (here, elsewhere), &receipt.places, &receipt.moves)
    }

    /// Remembers which machines of the plan the conversation goes on without, since one was lost in the answer with this receipt; where a mode was
    /// asked for, as long as it is not answered in that.
    fn miss(&mut self, receipt: &Receipt) {
        let strayed = match self.mode {
            Some(_) => self.mode_lost(receipt).is_some(),
            None => receipt.moves.iter().any(|moved| moved.lost),
        };
        if strayed && self.missed.is_empty() {
            let stages = self.record.decision.plan.remote_stages();
            self.missed = stages.map(|stage| stage.node).collect();
        } else if !strayed && self.mode.is_some() {
            self.missed.clear();
        }
    }

    /// That nothing was guessed ahead of it, where a mode that guesses was asked for.
    pub(crate) fn unguessed(&self, receipt: &Receipt) -> Option<String> {
        explain::unguessed(self.mode?, receipt)
    }
}

/// The pseudonyms of a conversation, drawn from a key of its own from the first time on that they are needed, or its masks.
pub(crate) fn session(
    pseudonyms: &mut Option<Pseudonyms>,
    by: Replacing,
) -> Result<&mut Pseudonyms, Failure> {
    *pseudonyms = pseudonyms.take().filter(|known| known.replacing() == by);
    match (pseudonyms, by) {
        (Some(known), _) => Ok(known),
        (none, Replacing::Masks) => Ok(none.insert(Pseudonyms::masks())),
        (none, Replacing::Pseudonyms) => {
            let mut key = [0; 32];
            getrandom::fill(&mut key).map_err(|error| {
                Failure::new(Exit::No, format!("the system gives no randomness: {error}"))
            })?;
            Ok(none.insert(Pseudonyms::new(key)))
        }
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
    /// What is asked, as far as it is known: it is looked through before anything is planned.
    pub(crate) texts: &'a [&'a str],
    /// The files and folders that it is about.
    pub(crate) paths: &'a [PathBuf],
    /// Whether a receipt is wanted also where there is nothing to choose.
    pub(crate) receipt: bool,
    /// Whether more is asked afterwards: what is made ready once is then no cost of the first answer.
    pub(crate) goes_on: bool,
}

impl Ask<'_> {
    /// A desk for the model: planned where other machines are known or a mode is asked for, else simply here. `size` tells
    /// the tokens of the prompt, for a model that holds so many.
    pub(crate) fn ready(
        &self,
        answer_tokens_max: Option<usize>,
        size: impl FnOnce(&Words, usize) -> Result<Sizes, Failure>,
    ) -> Result<Ready, Failure> {
        self.place.check()?;
        match !self.receipt && self.place.is_plain(self.settings)? {
            true => self.here(size),
            false => self.planned(answer_tokens_max, size),
        }
    }

    fn here(&self, size: impl FnOnce(&Words, usize) -> Result<Sizes, Failure>) -> Result<Ready, Failure> {
        let (engine, given_up) = relief::load(self)?;
        self.place.check_layers(engine.model.graph().layers.len())?;
        let (words, mode) = (engine.words()?, self.place.mode.by_name());
        let context = engine.model.context();
        let excerpts = size(&words, context)?.takes_excerpts(mode, context);
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

    /// Tells that nothing leaves where the policy cannot be read: whoever asked for others has no answer, else it is given here.
    fn say_what_stays(&self, asking: &Asking) -> Result<(), Failure> {
        let Some(why) = asking.rules.trouble() else {
            return Ok(());
        };
        match self.place.mode.by_name() {
            None => Ok(writeln!(io::stderr().lock(), "{}", Style::of_stderr().dim(&why))?),
            Some(Mode::Local) => Ok(()),
            Some(_) => Err(Failure::new(Exit::Input, why).hint(kept::until(&asking.rules))),
        }
    }

    /// Raises the label by what is asked and by where the files stand that it is about.
    fn look_through(&self, asking: &Asking) {
        asking.discretion.about(self.texts.iter().copied());
        asking.discretion.also(&label_of_all(self.paths));
    }

    fn planned(
        &self,
        answer_tokens_max: Option<usize>,
        size: impl FnOnce(&Words, usize) -> Result<Sizes, Failure>,
    ) -> Result<Ready, Failure> {
        let (asking, sizes) = Asking::open(self.model, self.engine, self.place, self.settings, size)?;
        if self.goes_on {
            asking.ready_draft()?;
        }
        self.look_through(&asking);
        self.say_what_stays(&asking)?;
        let mode = self.place.mode.by_name();
        let best = |asking: &Asking| {
            let cluster = asking.cluster_that_takes();
            asking.best(&cluster, &asking.bounds(), mode, sizes, answer_tokens_max)
        };
        let (asking, record) = match best(&asking) {
            // Somebody is needed, and may not have been waited for long enough.
            Err(_) if self.place.waits() == Waits::AsWorth && !asking.away.is_empty() => {
                let asking = asking.again(Waits::ToTheEnd)?.unwrap_or(asking);
                let record = best(&asking)?;
                (asking, record)
            }
            record => (asking, record?),
        };
        let sent = asking.send(&record.decision.plan);
        let (asking, record) = match sent.is_nothing() {
            true => (asking, record),
            // Whoever has the layers now says so, and whoever does not is not counted on.
            false => {
                let asking = asking.again(Waits::ToTheEnd)?.unwrap_or(asking);
                let cluster = asking.pool.cluster();
                let record = asking.best(&cluster, &asking.bounds(), mode, sizes, answer_tokens_max);
                let record = match (record, sent.refused) {
                    (Err(_), Some(refused)) => return Err(refused),
                    (Ok(record), Some(refused)) => {
                        terminal::note(&refused.sentence());
                        record
                    }
                    (record, None) => record?,
                };
                (asking, record)
            }
        };
        let precision = self.relief.precision;
        let seated = asking.desk(&record, Guessing::WhereItHelps, precision)?;
        let opened = &asking.model.opened;
        let (desk, mut books) = seated.with_books(asking.acceptances(sizes));
        books.weights = sent.weights;
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
                pseudonyms: None,
                missed: Vec::new(),
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
            weights: Vec::new(),
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
    /// How its weights are kept.
    precision: String,
    words: Arc<Words>,
    draft: Option<Draft>,
    /// What is certified of rounded rows, where they may be used.
    rounding: Option<Rounding>,
    /// Whether rows may go from machine to machine.
    forward: DirectForwarding,
    pool: NodePool,
    /// What this machine takes to make the model ready.
    readying: Readying,
    /// The rules of this machine.
    rules: Arc<Rules>,
    /// What may be told of what is asked, where each question is not one for itself.
    discretion: Discretion,
    /// What stays here whatever may leave, and what the bits must be worth.
    stays: Policy,
    /// What an answer may cost at most.
    credits_max: Option<f64>,
    cancel: Cancel,
    /// Where HEPH keeps what it learned.
    home: PathBuf,
    /// Peers that did not answer: name and why.
    away: Vec<(String, String)>,
    /// Machines that had answered again after they were lost when these were met.
    returns: u64,
    /// What carries the connections; they end with it.
    network: Option<Arc<Joined>>,
}

/// The lesser of two bounds, where any is said.
fn lesser(one: Option<f64>, other: Option<f64>) -> Option<f64> {
    one.into_iter().chain(other).reduce(f64::min)
}

/// What a plan for a request of its own keeps to.
pub(crate) struct Bounds<'a> {
    /// What may be told of it, and to whom.
    pub(crate) discretion: &'a Discretion,
    /// What stays here whatever may leave, and what the bits must be worth.
    pub(crate) stays: &'a Policy,
    /// Credits that it may cost at most, and never more than was said at the start.
    pub(crate) credits_max: Option<f64>,
    /// Stages that hold its beginning.
    pub(crate) warm: &'a [WarmPrefix],
}

/// What layers here may take.
pub(crate) struct Memory {
    /// Full contexts that their caches have room for.
    pub(crate) contexts: usize,
    /// A model that is in memory already.
    pub(crate) lent: Option<LentModel>,
    /// What ends all work; Ctrl-C where nothing is said.
    pub(crate) cancel: Option<Cancel>,
}

impl Default for Memory {
    /// For one conversation.
    fn default() -> Self {
        Self {
            contexts: 1,
            lent: None,
            cancel: None,
        }
    }
}

impl Asking {
    /// Opens `model` and looks who may answer with it: nobody else where the mode keeps everything here. With what
    /// `asked` says of the words and the context: what cannot be asked waits for nobody.
    pub(crate) fn open<T>(
        model: &str,
        engine: &EngineArguments,
        place: &PlaceArguments,
        settings: &Settings,
        asked: impl FnOnce(&Words, usize) -> Result<T, Failure>,
    ) -> Result<(Self, T), Failure> {
        let network = Self::network(place, settings)?;
        Self::over(network, &Memory::default(), model, engine, place, settings, asked)
    }

    /// As [`Asking::open`], for several answers at once.
    pub(crate) fn open_for(
        memory: &Memory,
        model: &str,
        engine: &EngineArguments,
        place: &PlaceArguments,
        settings: &Settings,
    ) -> Result<Self, Failure> {
        let network = Self::network(place, settings)?;
        let (asking, ()) = Self::over(network, memory, model, engine, place, settings, |_, _| Ok(()))?;
        Ok(asking)
    }

    /// Times this machine on `model`, and on the small one that guesses for it, where that was never done. Beside an answer it
    /// would seem half as fast as it is, and that would be kept.
    pub(crate) fn time_here(
        memory: &Memory,
        model: &str,
        engine: &EngineArguments,
        settings: &Settings,
    ) -> Result<(), Failure> {
        let place = PlaceArguments::usual();
        Self::over(None, memory, model, engine, &place, settings, |_, _| Ok(())).map(drop)
    }

    /// This machine on the network, where others may answer.
    fn network(place: &PlaceArguments, settings: &Settings) -> Result<Option<Joined>, Failure> {
        Ok(match place.stays_here(settings)? {
            true => None,
            false => Some(Joined::start(machine::asking(settings, &place.allow))?),
        })
    }

    /// The same model among the machines as they are now: those of the book are asked anew, over the connections that there
    /// are, and waited for so long. `None` where there are none and some are wanted.
    pub(crate) fn again(&self, waits: Waits) -> Result<Option<Self>, Failure> {
        let Some(network) = &self.network else {
            return Ok(TrustBook::open(&self.home)?
                .peers()
                .is_empty()
                .then(|| self.among_those(Vec::new(), 0)));
        };
        let returns = network.returns();
        let hailing = Hailing::start(network, network.peers()?, ANSWER_DEADLINE);
        Ok(Some(self.among_those(hailing.wait(waits), returns)))
    }

    fn among_those(&self, met: Vec<Contact>, returns: u64) -> Self {
        let alone = NodePool::alone(self.pool.desk().clone(), Arc::clone(self.pool.here()));
        Self {
            model: Arc::clone(&self.model),
            hash: self.hash,
            profile: self.profile.clone(),
            precision: self.precision.clone(),
            words: Arc::clone(&self.words),
            draft: self.draft.clone(),
            rounding: self.rounding.clone(),
            pool: alone.among(&met).apart(distances(self.network.as_deref())),
            readying: self.readying,
            rules: Arc::clone(&self.rules),
            discretion: self.discretion.clone(),
            stays: self.stays.clone(),
            credits_max: self.credits_max,
            cancel: self.cancel.clone(),
            home: self.home.clone(),
            away: met.into_iter().filter_map(away).collect(),
            returns,
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
        let network = Joined::start(machine::guarded(settings, &[], EndpointOptions::loopback()))?;
        for ticket in tickets {
            network.block_on(network.join(ticket, MEET_DEADLINE))?;
        }
        let (memory, place) = (Memory::default(), PlaceArguments::usual());
        let (asking, ()) = Self::over(Some(network), &memory, model, engine, &place, settings, |_, _| {
            Ok(())
        })?;
        asking.ready_draft()?;
        Ok(asking)
    }

    fn over<T>(
        network: Option<Joined>,
        memory: &Memory,
        model: &str,
        engine: &EngineArguments,
        place: &PlaceArguments,
        settings: &Settings,
        asked: impl FnOnce(&Words, usize) -> Result<T, Failure>,
    ) -> Result<(Self, T), Failure> {
        place.check()?;
        let returns = network.as_ref().map_or(0, |network| network.returns());
        // They are asked while the model is opened here.
        let hailing = |network: &Joined| Ok(Hailing::start(network, network.peers()?, ANSWER_DEADLINE));
        let hailing = network
            .as_ref()
            .map(hailing)
            .transpose()
            .map_err(|e: TrustError| Failure::from(e))?;
        let opened = engine.open(model, None, memory.contexts, settings)?;
        if opened.only_reads()? {
            return Err(Failure::from(ForwardError::OnlyReads).of(model));
        }
        let (hash, words, graph) = (opened.hash()?, opened.words()?, opened.graph()?);
        let profile = profile::of_model(hash, model, &graph, opened.source.config().context);
        place.check_layers(profile.layers.len())?;
        let asked = asked(&words, opened.context())?;
        let model = Arc::new(Lazy::new(opened, memory.lent.as_ref())?);
        let cancel = match &memory.cancel {
            Some(cancel) => cancel.clone(),
            None => terminal::cancel_on_ctrl_c()?,
        };
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
        let readying = readying(hash, &model.opened, settings);
        let node = network.as_ref().map_or(ALONE, |network| network.node());
        let pool = NodePool::alone(
            desk_profile(node, speed, &profile),
            here(node, hash, &model, &cancel),
        );
        let met = hailing.map_or_else(Vec::new, |hailing| hailing.wait_unless(place.waits(), &cancel));
        if cancel.is_raised() {
            return Err(Failure::Stopped);
        }
        let rules = Rules::new(settings, &place.allow);
        place.note_unknown_labels(&rules);
        let asking = Self {
            discretion: Discretion::new(&rules, place.label()),
            rules,
            stays: place.stays(),
            credits_max: place.max_price,
            model,
            hash,
            profile,
            precision: graph.precision().to_string(),
            words,
            draft,
            rounding,
            forward: place.forward,
            pool: pool.among(&met).apart(distances(network.as_ref())),
            readying,
            away: met.into_iter().filter_map(away).collect(),
            returns,
            cancel,
            home: settings.home.clone(),
            network: network.map(Arc::new),
        };
        Ok((asking, asked))
    }

    /// Brings the small model into memory, for whoever answers more than once with it.
    pub(crate) fn ready_draft(&self) -> Result<(), Failure> {
        self.draft.as_ref().map_or(Ok(()), |draft| draft.model.warm())
    }

    /// The machines.
    pub(crate) fn pool(&self) -> &NodePool {
        &self.pool
    }

    /// The machines without those that were lost and have not answered since.
    pub(crate) fn cluster_that_answers(&self) -> Cluster {
        let cluster = self.pool.cluster();
        let others = self.pool.others().iter().map(|machine| machine.profile.node);
        let lost = others.filter(|node| self.is_lost(*node));
        lost.fold(cluster, |cluster, node| after(&cluster, &Event::Lost(node)))
    }

    /// Whether a machine was lost and has not answered since.
    pub(crate) fn is_lost(&self, node: NodeId) -> bool {
        self.network.as_ref().is_some_and(|network| network.is_lost(node))
    }

    /// Whether any machine was away when these were met, or was lost since.
    pub(crate) fn misses_any(&self) -> bool {
        let mut others = self.pool.others().iter();
        !self.away.is_empty() || others.any(|machine| self.is_lost(machine.profile.node))
    }

    /// Whether machines that were lost answer again since these were met.
    pub(crate) fn others_returned(&self) -> bool {
        self.network.as_ref().map_or(0, |network| network.returns()) != self.returns
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

    /// The machines, with those that take layers they lack: see [`Asking::send`].
    pub(crate) fn cluster_that_takes(&self) -> Cluster {
        match self.model.opened.sendable() {
            Some(_) => self.pool.cluster_that_takes(),
            None => self.pool.cluster(),
        }
    }

    /// The best plan over `cluster` for a request of its own. Where no plan shows anything to others, or none is possible, one
    /// that shows them the request with people and doors replaced, if that is sooner there.
    pub(crate) fn best(
        &self,
        cluster: &Cluster,
        bounds: &Bounds<'_>,
        mode: Option<Mode>,
        sizes: Sizes,
        answer_tokens_max: Option<usize>,
    ) -> Result<Record, Failure> {
        let Bounds {
            discretion,
            stays,
            credits_max,
            warm,
        } = *bounds;
        let plan = |discretion: &Discretion, mode| -> Result<Record, Failure> {
            let policy = self.planned(discretion, stays.clone(), mode);
            let mut request = self.request(policy, mode, sizes, answer_tokens_max);
            request.objective.credits_max = lesser(credits_max, self.credits_max);
            request.warm = warm.to_vec();
            let cluster = within_reach(&request, cluster);
            self.decided(request, cluster, discretion)
        };
        let whole = plan(discretion, mode);
        let alone = match &whole {
            Ok(record) => record.decision.plan.mode == Mode::Local,
            Err(_) => true,
        };
        let telling = match mode {
            None => Some(Mode::Remote),
            Some(mode) => Some(mode).filter(|mode| shows_text_alone(mode.name())),
        };
        let replaced = telling
            .filter(|_| alone)
            .and_then(|mode| plan(&discretion.clone().replaceable(), Some(mode)).ok());
        let expected = |record: &Record| record.decision.plan.expected.total;
        match (whole, replaced) {
            (Ok(whole), Some(replaced)) if expected(&replaced) < expected(&whole) => Ok(replaced),
            (Err(_), Some(replaced)) => Ok(replaced),
            (whole, _) => whole,
        }
    }

    /// By what people and doors have to be replaced before the machines of this plan may see the request; the strictest counts.
    pub(crate) fn wants_replaced(&self, record: &Record, discretion: &Discretion) -> Option<Replacing> {
        let plan = &record.decision.plan;
        let asked = discretion.clone().in_mode(plan.mode.name());
        let wants = |stage: &Stage| {
            let profile = self.pool.profile(stage.node);
            asked.wants_replacing(&destination(profile?))
        };
        plan.remote_stages().filter_map(wants).max()
    }

    /// What the planner is told that machines may see.
    fn planned(&self, discretion: &Discretion, stays: Policy, mode: Option<Mode>) -> Policy {
        let machines: Vec<_> = self
            .pool
            .others()
            .iter()
            .map(|machine| &machine.profile)
            .collect();
        let discretion = match mode {
            Some(mode) => discretion.clone().in_mode(mode.name()),
            None => discretion.clone(),
        };
        discretion.planned(stays, &machines)
    }

    fn bounds(&self) -> Bounds<'_> {
        Bounds {
            discretion: &self.discretion,
            stays: &self.stays,
            credits_max: self.credits_max,
            warm: &[],
        }
    }

    /// What may be told of what is asked.
    pub(crate) fn discretion(&self) -> &Discretion {
        &self.discretion
    }

    /// The rules of this machine.
    pub(crate) fn rules(&self) -> &Arc<Rules> {
        &self.rules
    }

    /// The decision over machines as `cluster` says they are: a demonstration takes the same ones for several.
    pub(crate) fn plan_over(
        &self,
        cluster: Cluster,
        mode: Option<Mode>,
        sizes: Sizes,
        answer_tokens_max: Option<usize>,
    ) -> Result<Record, Failure> {
        let policy = self.planned(&self.discretion, self.stays.clone(), mode);
        let request = self.request(policy, mode, sizes, answer_tokens_max);
        let cluster = within_reach(&request, &cluster);
        self.decided(request, cluster, &self.discretion)
    }

    /// What the planner decides.
    fn decided(
        &self,
        request: Request,
        cluster: Cluster,
        discretion: &Discretion,
    ) -> Result<Record, Failure> {
        let asked = (request.clone(), cluster.clone());
        Record::new(request, cluster).map_err(|refusal| {
            let kept = kept::by_rules(&refusal, &asked, self.pool.others(), discretion);
            let kept = kept.or_else(|| kept::by_layers(&refusal, &asked));
            kept.unwrap_or_else(|| self.refused(refusal))
        })
    }

    /// Why there is no plan; where it is that nobody else is there, what to do about that.
    fn refused(&self, refusal: Refusal) -> Failure {
        let others = self.pool.others().iter().map(|machine| &machine.profile);
        let (lost, there): (Vec<_>, Vec<_>) = others.partition(|profile| self.is_lost(profile.node));
        let alone = there.is_empty();
        let impossible = matches!(refusal, Refusal::Impossible { .. });
        let failure = Failure::from(refusal);
        let away = self
            .away
            .iter()
            .map(|(name, why)| format!("{name} is known and away: {why}"));
        let lost = lost
            .into_iter()
            .map(|profile| format!("{} was lost and has not answered since", profile.name));
        let away: Vec<String> = away.chain(lost).take(AWAY_TOLD).collect();
        match (alone, away.is_empty()) {
            _ if !impossible => failure,
            (true, false) => failure.hint(format!("no other machine is there; {}", away.join("; "))),
            (false, false) => failure.hint(away.join("; ")),
            (false, true) => failure,
            (true, true) => failure.hint(
                "no other machine is known here: `heph node` on it prints a ticket for `heph join`; ask for auto \
                 or local until then",
            ),
        }
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
        if !self.model.is_in_memory() {
            request.readying = self.readying;
        }
        request.objective.credits_max = self.credits_max;
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
        self.desk_until(record, &self.discretion, guessing, precision, &self.cancel)
    }

    /// A desk for one answer among several, which whoever raises `cancel` ends; with the books of what it does.
    pub(crate) fn desk_for_one(
        &self,
        record: &Record,
        discretion: &Discretion,
        sizes: Sizes,
        cancel: &Cancel,
    ) -> Result<(Desk, Books), Failure> {
        let seated = self.desk_until(
            record,
            discretion,
            Guessing::WhereItHelps,
            Precision::Kept,
            cancel,
        )?;
        Ok(seated.with_books(self.acceptances(sizes)))
    }

    fn desk_until(
        &self,
        record: &Record,
        discretion: &Discretion,
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
        let draft = plan
            .draft
            .and_then(|by| self.draft.as_ref().filter(|draft| draft.takes_part(by.source)));
        let drafter = draft.map(|draft| draft.drafter(cancel)).transpose()?;
        let meter = Meter::default();
        let doors = || Doors {
            discretion: discretion
                .clone()
                .in_mode(plan.mode.name())
                .costing(plan.expected.credits),
            policy: record.request.policy.clone(),
            layers: model.layers,
            meter: meter.clone(),
        };
        let follow = |network: &Arc<Joined>| follow(network.members(), &self.pool, doors());
        let (changes, came) = self.network.as_ref().map(follow).unzip();
        let route = Route {
            record,
            pool: &self.pool,
            model,
            words: Arc::clone(&self.words),
            drafter: drafter.map(|drafter| Box::new(drafter) as Box<dyn Drafter>),
            rounding: self.rounding.as_ref(),
            guessing,
            limits: LineLimits::default(),
            discretion: discretion.clone(),
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
        let model = self.draft.iter().map(|draft| {
            let (profile, speed) = (&draft.profile, &draft.speed);
            let passes =
                route::model_draft_profile(profile, speed, draft.readying(), prompt_tokens, acceptance);
            // What is done around its pass is done once more where a guess is looked at: that token is chosen, too.
            let made = draft.seconds_per_guess.unwrap_or(passes.seconds_per_token);
            DraftProfile {
                seconds_per_token: made + (made - passes.seconds_per_token).max(0.0),
                ..passes
            }
        });
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
}

/// Machines that a plan looks at: more are sifted first by what each would add alone, so that a decision takes milliseconds.
const MACHINES_PLANNED: usize = 64;

/// The machines that are worth planning with.
fn within_reach(request: &Request, cluster: &Cluster) -> Cluster {
    match cluster.nodes.len() > MACHINES_PLANNED {
        true => shortlist(request, cluster, MACHINES_PLANNED),
        false => cluster.clone(),
    }
}

/// How far the other machines are from each other, as they told.
fn distances(network: Option<&Joined>) -> Distances {
    network.map_or_else(Distances::new, |network| {
        network.ways().distances(seconds_since_1970())
    })
}

/// A peer that did not answer.
fn away(contact: Contact) -> Option<(String, String)> {
    contact.reached.err().map(|why| (contact.peer.name, why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_request_may_cost_more_than_the_person_said() {
        assert_eq!(lesser(Some(1_000.0), Some(10.0)), Some(10.0));
        assert_eq!(lesser(Some(5.0), Some(10.0)), Some(5.0));
        assert_eq!(lesser(None, Some(10.0)), Some(10.0));
        assert_eq!(lesser(Some(5.0), None), Some(5.0));
        assert_eq!(lesser(None, None), None);
    }
}
