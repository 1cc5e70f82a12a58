//! The machines that were met, for the door: looked for when somebody asks, remembered for a moment, and asked for answers.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use heph_engine::batch::Asker;
use heph_engine::prefix::{Reach, Share};
use heph_engine::worker::Worker;
use heph_gateway::{Course, Invitation, Machines, MetMachine, NoCourse, NodeLine, Wish};
use heph_net::picture;
use heph_net::ticket::{Ticket, TicketError};
use heph_net::trust::TrustBook;
use heph_plan::{Record, WarmPrefix};
use heph_privacy::Replaced;
use heph_privacy::pseudonym::Replacing;
use heph_runtime::cancel::Cancel;
use heph_runtime::desk::{Answer, AnswerOptions, Desk, DeskError, Finish, Prompt};
use heph_runtime::discretion::{Discretion, destination, unsaid};
use heph_runtime::network::Network;
use heph_runtime::placing::{self, Asked, Given, Placing};
use heph_runtime::pool::Waits;
use heph_runtime::resting::{self, For, Resting, Rests};
use heph_runtime::rules::Rules;
use heph_runtime::service::{Ending, Fate, Job, Outcome, ServiceError, Speaker};
use heph_runtime::settings::Settings;
use heph_types::{Leaves, ModelHash, NodeId, Policy, Role, TokenId};

use crate::asking::{ANSWER_TOKENS_USUAL, Asking, Books, Bounds, Memory, PlaceArguments, Sizes};
use crate::engine::{EngineArguments, LentModel};
use crate::failure::{Exit, Failure};
use crate::machine;

/// What was heard of other machines is asked for anew after this.
const FRESH: Duration = Duration::from_secs(20);

/// Who was away so long ago is looked for again by a request that needs them.
const AWAY_FOR: Duration = Duration::from_secs(1);

/// Full contexts that the caches of layers here have room for, besides those of desks that rest; more answers share them.
const CONTEXTS: usize = 4;

/// A request that waited so long is planned anew when its turn comes.
const AGAIN_AFTER: Duration = Duration::from_millis(500);

/// How long an invitation of the page works: as long as a person walks to another machine.
const INVITED_FOR: Duration = Duration::from_secs(600);

/// How long a machine that was named by its ticket may take to answer.
const JOIN_WITHIN: Duration = Duration::from_secs(8);

/// How long the goodbye may take.
const GOODBYE: Duration = Duration::from_secs(1);

/// Who was met, and how they answer for one model.
pub(in crate::commands) struct Met(Arc<Acquaintance>);

struct Acquaintance {
    model: String,
    engine: EngineArguments,
    settings: Settings,
    rules: Arc<Rules>,
    last: Mutex<Option<(Instant, Arc<Asking>)>>,
    /// Held by whoever meets them, which takes seconds.
    meeting: Mutex<()>,
    /// Whether somebody is about to.
    looking: AtomicBool,
    /// The invitation that is open ends when this is let go of.
    inviting: Mutex<Option<Sender<()>>>,
    /// The served model, once it is in memory.
    lent: OnceLock<LentModel>,
    /// Desks of conversations that may go on.
    resting: Arc<Resting<Seat>>,
    /// What was given to each machine.
    placing: Arc<Placing>,
}

impl Met {
    pub(in crate::commands) fn new(model: &str, engine: EngineArguments, settings: &Settings) -> Self {
        Self(Arc::new(Acquaintance {
            model: model.to_owned(),
            engine,
            settings: settings.clone(),
            rules: Rules::new(settings, &[]),
            last: Mutex::default(),
            meeting: Mutex::default(),
            looking: AtomicBool::new(false),
            inviting: Mutex::default(),
            lent: OnceLock::new(),
            resting: Arc::default(),
            placing: Arc::default(),
        }))
    }
}

impl Acquaintance {
    fn last(&self) -> MutexGuard<'_, Option<(Instant, Arc<Asking>)>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// While this machine is cut off nobody is met, and the ways that there were are let go of.
    fn not_cut_off(&self) -> Result<(), Failure> {
        if !self.rules.is_cut() {
            return Ok(());
        }
        *self.last() = None;
        self.resting.clear();
        *self.inviting.lock().unwrap_or_else(PoisonError::into_inner) = None;
        Err(Failure::new(Exit::No, "this machine is cut off")
            .hint("end that first, on the page or in the window"))
    }

    /// Who was met: as they were a moment ago where nobody asked since, and then asked anew for the next time. What
    /// becomes of them while they answer, a desk sees for itself.
    fn asking(self: &Arc<Self>) -> Result<Arc<Asking>, Failure> {
        self.not_cut_off()?;
        let known = self.last().clone();
        match known {
            Some((when, asking)) => {
                if !is_fresh(when, &asking) {
                    self.look_again();
                }
                Ok(asking)
            }
            None => self.met_now(),
        }
    }

    /// Who is there now.
    fn met_now(&self) -> Result<Arc<Asking>, Failure> {
        self.met_within(FRESH)
    }

    /// Who is there now; who was met so long ago at most, and all who were lost since are lost still, is not met anew.
    fn met_within(&self, age: Duration) -> Result<Arc<Asking>, Failure> {
        self.not_cut_off()?;
        let _meeting = self.meeting.lock().unwrap_or_else(PoisonError::into_inner);
        let known = self.last().clone();
        let again = match known {
            Some((when, asking)) if when.elapsed() < age && !asking.others_returned() => return Ok(asking),
            Some((_, asking)) => asking.again(Waits::AsWorth)?,
            None => None,
        };
        let asking = match again {
            Some(asking) => asking,
            None => {
                let (place, settings) = (PlaceArguments::usual(), &self.settings);
                let asking = Asking::open_for(&self.memory(), &self.model, &self.engine, &place, settings)?;
                asking.ready_draft()?;
                asking
            }
        };
        let asking = Arc::new(asking);
        *self.last() = Some((Instant::now(), Arc::clone(&asking)));
        // It may have been cut off while the others were met.
        self.not_cut_off()?;
        Ok(asking)
    }

    /// The served model, for every conversation that may lie here.
    fn memory(&self) -> Memory {
        Memory {
            contexts: CONTEXTS + resting::DESKS_MAX,
            lent: self.lent.get().cloned(),
            // The door ends its answers one by one: their readers hear why.
            cancel: Some(Cancel::new()),
        }
    }

    fn look_again(self: &Arc<Self>) {
        if self.looking.swap(true, Ordering::AcqRel) {
            return;
        }
        let this = Arc::clone(self);
        let look = move || {
            // What keeps it from looking is told to whoever asks next.
            let _ = this.met_now();
            this.looking.store(false, Ordering::Release);
        };
        if std::thread::Builder::new().spawn(look).is_err() {
            self.looking.store(false, Ordering::Release);
        }
    }
}

/// Whether machines that were met then need not be met anew.
fn is_fresh(when: Instant, asking: &Asking) -> bool {
    when.elapsed() < FRESH && !asking.others_returned()
}

/// A desk with what belongs to it.
struct Seat {
    asking: Arc<Asking>,
    desk: Desk,
    books: Books,
    /// What ends its answer.
    cancel: Cancel,
}

impl Rests for Seat {
    fn held(&self) -> &[TokenId] {
        self.desk.line().tokens()
    }
}

/// A plan, and the machines as they were when it was made.
struct Planned {
    asking: Arc<Asking>,
    record: Record,
    /// What was given to its machines when it was made, for the first who asks by it.
    given: Mutex<Option<Given>>,
    discretion: Discretion,
    sizes: Sizes,
    met: Arc<Acquaintance>,
    /// What was wished, to plan again; `None` where words in it stand for others by now.
    wish: Option<Wish>,
}

impl Planned {
    /// The best plan for the wish.
    fn best(met: &Arc<Acquaintance>, wish: &Wish) -> Result<Planned, Failure> {
        let asking = met.asking()?;
        let misses = asking.misses_any();
        match Self::among(met, asking, wish) {
            // Somebody is needed, and who was away when all were met may be there by now.
            Err(_) if misses && wish.mode.is_some() => Self::among(met, met.met_within(AWAY_FOR)?, wish),
            planned => planned,
        }
    }

    /// The best plan for the wish over these machines. What lies along stages makes a plan over them sooner only where the desk that
    /// holds it goes on.
    fn among(met: &Arc<Acquaintance>, asking: Arc<Asking>, wish: &Wish) -> Result<Planned, Failure> {
        let mut warm = met.resting.held(wish.share.owner, &wish.prompt);
        warm.retain(|prefix| !prefix.stages.iter().any(|stage| asking.is_lost(stage.node)));
        loop {
            let planned = Planned::with(met, Arc::clone(&asking), wish, &warm)?;
            let plan = &planned.record.decision.plan;
            let in_vain =
                |warm: &WarmPrefix| warm.lies_along(plan) && warm.tokens as usize > planned.goes_on(wish);
            match warm.iter().position(in_vain) {
                Some(at) => drop(warm.remove(at)),
                None => return Ok(planned),
            }
        }
    }

    /// Tokens that the desk holds which is taken for it.
    fn goes_on(&self, wish: &Wish) -> usize {
        let whom = self.whom(wish.share).filter(|_| self.wants_replaced().is_none());
        whom.map_or(0, |whom| self.met.resting.holds(&whom, &wish.prompt))
    }

    /// The best plan where the beginning of it lies along these stages.
    fn with(
        met: &Arc<Acquaintance>,
        asking: Arc<Asking>,
        wish: &Wish,
        warm: &[WarmPrefix],
    ) -> Result<Planned, Failure> {
        let sizes = Sizes {
            whole: wish.prompt_tokens,
            excerpts: wish.excerpts_tokens,
        };
        let stays = Policy {
            exact_only: !wish.any_bits,
            ..Policy::closed()
        };
        let discretion = wish.discretion.clone();
        let bounds = Bounds {
            discretion: &discretion,
            stays: &stays,
            credits_max: wish.price_max.map(|credits| credits as f64),
            warm,
        };
        let mut cluster = asking.cluster_that_answers();
        cluster.desk.queue = wish.wait_here.now();
        let answer_tokens = wish
            .answer_tokens_max
            .unwrap_or(usize::MAX)
            .min(ANSWER_TOKENS_USUAL);
        let asked = asked(wish.asker, wish.prompt_tokens, answer_tokens);
        let turn = met.placing.turn();
        met.placing.tell(&mut cluster, &asked);
        let record = asking.best(&cluster, &bounds, wish.mode, sizes, wish.answer_tokens_max)?;
        let given = Mutex::new(Some(met.placing.give(&record, &asked)));
        drop(turn);
        Ok(Planned {
            asking,
            record,
            given,
            discretion,
            sizes,
            met: Arc::clone(met),
            wish: Some(wish.clone()),
        })
    }

    /// The best plan as it is now, where that is another one: who waited may go to whoever is free meanwhile. Over the machines as they are
    /// known: nobody is met for it, so it takes no longer than a plan does.
    fn again(&self) -> Option<Planned> {
        self.met.not_cut_off().ok()?;
        let (_, asking) = self.met.last().clone()?;
        let now = Planned::among(&self.met, asking, self.wish.as_ref()?).ok()?;
        // Whoever may see the request with people and doors replaced only would have to be told another one.
        let as_it_is = now.wants_replaced().is_none();
        (as_it_is && placing::takes_over(&self.record.decision.plan, &now.record.decision.plan))
            .then_some(now)
    }

    /// What was given to its machines when it was made, where nobody has asked by it yet.
    fn reserved(&self) -> Option<Given> {
        self.given.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Whether it is worth planning anew before `job` begins: it waited long, or a machine of the plan was lost meanwhile. Not where nobody
    /// waits for the answer any more.
    fn wants_again(&self, job: &Job, speaker: &Speaker, waited: Duration) -> bool {
        let over = job.deadline.is_some_and(|due| due <= Instant::now()) || speaker.cancel().is_raised();
        let mut stages = self.record.decision.plan.remote_stages();
        !over && (waited >= AGAIN_AFTER || stages.any(|stage| self.asking.is_lost(stage.node)))
    }

    /// Whom its desk may rest for; nobody where nothing of the answer may be kept, or words in it stand for others.
    fn whom(&self, share: Share) -> Option<For> {
        if share.reach == Reach::Nowhere {
            return None;
        }
        let plan = &self.record.decision.plan;
        let discretion = self.discretion.clone().in_mode(plan.mode.name());
        let others = self.asking.pool().others().iter();
        Some(For {
            owner: share.owner,
            standing: discretion.costing(plan.expected.credits).standing()?,
            plan: plan.clone(),
            policy: self.record.request.policy.clone(),
            credits_max: self.record.request.objective.credits_max,
            machines: others
                .map(|machine| (machine.profile.node, destination(&machine.profile)))
                .collect(),
            about: self.sizes.excerpts.is_some(),
        })
    }

    /// A desk that nobody has asked yet.
    fn seat(&self, cancel: Cancel) -> Result<Seat, ServiceError> {
        let seated = self
            .asking
            .desk_for_one(&self.record, &self.discretion, self.sizes, &cancel);
        let (desk, books) = seated.map_err(|failure| elsewhere(failure.sentence(), Fate::Unavailable))?;
        Ok(Seat {
            asking: Arc::clone(&self.asking),
            desk,
            books,
            cancel,
        })
    }

    /// Has `seat` answer. What came of it, and when its first word did.
    fn ask(
        &self,
        seat: &mut Seat,
        job: &Job,
        speaker: &Speaker,
    ) -> (Result<Answer, DeskError>, Option<Instant>) {
        let options = AnswerOptions {
            sampling: job.sampling.clone(),
            max_tokens: Some(job.max_tokens),
            stops: job.stops.clone(),
        };
        let mut first = None;
        let answer = seat
            .desk
            .answer(Prompt::Tokens(&job.prompt), &options, &mut |text| {
                first.get_or_insert_with(Instant::now);
                speaker.say(text);
            });
        (answer, first)
    }
}

impl Course for Planned {
    fn record(&self) -> &Record {
        &self.record
    }

    fn discretion(&self) -> &Discretion {
        &self.discretion
    }

    fn wants_replaced(&self) -> Option<Replacing> {
        self.asking.wants_replaced(&self.record, &self.discretion)
    }

    fn with_replaced(&self, replaced: Replaced) -> Arc<dyn Course> {
        Arc::new(Planned {
            asking: Arc::clone(&self.asking),
            record: self.record.clone(),
            given: Mutex::new(self.reserved()),
            discretion: self.discretion.clone().with_replaced(replaced),
            sizes: self.sizes,
            met: Arc::clone(&self.met),
            wish: None,
        })
    }

    fn give(&self, job: &Job) -> Given {
        if let Some(given) = self.reserved() {
            return given;
        }
        let asked = asked(
            job.asker,
            job.prompt.len(),
            job.max_tokens.min(ANSWER_TOKENS_USUAL),
        );
        self.met.placing.give(&self.record, &asked)
    }

    fn answer(&self, job: &Job, speaker: &Speaker, mut given: Given) -> Result<Outcome, ServiceError> {
        if self.wants_again(job, speaker, given.waited()) {
            // What it was given counts no more for the plan that takes its place.
            drop(given);
            if let Some(planned) = self.again() {
                let given = planned.give(job);
                return planned.begin(job, speaker, given);
            }
            given = self.give(job);
        }
        self.begin(job, speaker, given)
    }
}

impl Planned {
    /// Answers by this plan.
    fn begin(&self, job: &Job, speaker: &Speaker, mut given: Given) -> Result<Outcome, ServiceError> {
        given.begin();
        let outcome = self.carry_out(job, speaker)?;
        let moves = outcome
            .elsewhere
            .as_ref()
            .map_or(0, |receipt| receipt.moves.len());
        given.done(&outcome.ending, moves);
        Ok(outcome)
    }

    fn carry_out(&self, job: &Job, speaker: &Speaker) -> Result<Outcome, ServiceError> {
        let whom = self.whom(job.share);
        let rested = whom
            .as_ref()
            .and_then(|whom| self.met.resting.take(whom, &job.prompt));
        let begin = |cancel: &Cancel| {
            cancel.lower();
            cancel.due(job.deadline);
            speaker.cancelled_by(cancel);
        };
        let anew = || {
            let cancel = Cancel::new();
            begin(&cancel);
            self.seat(cancel)
        };
        let has_rested = rested.is_some();
        let mut seat = match rested {
            Some(seat) => {
                begin(&seat.cancel);
                seat
            }
            None => anew()?,
        };
        let (mut answer, mut first) = self.ask(&mut seat, job, speaker);
        if answer.is_err() && first.is_none() && (self.met.resting.clear() || has_rested) {
            // What its machines held of it may be gone, or others that rest are in its way: another desk begins with nothing.
            let failed = seat.books;
            // Until it is gone it counts what goes out.
            drop(seat.desk);
            seat = anew()?;
            seat.books.go_on_from(&failed);
            (answer, first) = self.ask(&mut seat, job, speaker);
        }
        let answer = answer.map_err(failed)?;
        let ending = match (answer.finish, &answer.stopped_by) {
            (Finish::Stop, Some(stop)) => Ending::StopText(stop.clone()),
            (Finish::Stop, None) => Ending::Stop,
            (Finish::Length, _) => Ending::Length,
            (Finish::Context, _) => Ending::Context,
            (Finish::Cancelled, _) => Ending::Deadline,
        };
        let now = Instant::now();
        let mut receipt = seat
            .books
            .settle(&seat.asking, &self.record.decision.plan, &answer);
        receipt.vouched = seat.desk.vouched();
        // Where a machine was lost the line is no longer the plan's that another question is asked by.
        let rests = answer.finish != Finish::Cancelled && answer.moves.is_empty();
        // As it stands now: what was asked may have become more private meanwhile, and the rules stricter.
        if let Some(whom) = self
            .whom(job.share)
            .filter(|_| rests && !self.asking.rules().is_cut())
        {
            self.met.resting.rest(whom, seat);
        }
        Ok(Outcome {
            ending,
            prompt_tokens: answer.prompt.len(),
            cached_tokens: answer.cached_tokens,
            answer_tokens: answer.tokens.len(),
            first_token: first.unwrap_or(now) - speaker.began(),
            total: now - speaker.began(),
            elsewhere: Some(Box::new(receipt)),
        })
    }
}

/// A request in sizes.
fn asked(asker: Asker, prompt_tokens: usize, answer_tokens: usize) -> Asked {
    let count = |tokens: usize| u32::try_from(tokens).unwrap_or(u32::MAX);
    Asked {
        asker,
        prompt_tokens: count(prompt_tokens),
        answer_tokens: count(answer_tokens),
    }
}

fn elsewhere(sentence: String, fate: Fate) -> ServiceError {
    ServiceError::Elsewhere { sentence, fate }
}

fn failed(error: DeskError) -> ServiceError {
    let fate = match &error {
        DeskError::NoTemplate
        | DeskError::Template(_)
        | DeskError::Empty
        | DeskError::TooLong { .. }
        | DeskError::Sampling(_) => Fate::Refused,
        DeskError::Memory(_) | DeskError::Line(_) => Fate::Unavailable,
        DeskError::Forward(_) | DeskError::Wordless => Fate::Broken,
    };
    elsewhere(error.to_string(), fate)
}

impl Machines for Met {
    fn here(&self) -> Option<String> {
        let last = self.0.last();
        let node = last.as_ref().map(|(_, asking)| asking.pool().desk().node)?;
        (node != NodeId([0; 32])).then(|| node.to_string())
    }

    fn any(&self) -> bool {
        TrustBook::open(&self.0.settings.home).is_ok_and(|book| !book.peers().is_empty())
    }

    fn lend(&self, hash: ModelHash, worker: &Worker) {
        // One model is served as long as the process lives.
        let contexts = CONTEXTS + resting::DESKS_MAX;
        let _ = self.0.lent.set(LentModel::new(hash, worker, contexts));
        if self.any() {
            // Nobody asks before the door is open. What keeps this machine from being timed is told to whoever asks first, and they
            // need not wait until everybody was met.
            let (model, engine, settings) = (&self.0.model, &self.0.engine, &self.0.settings);
            let _ = Asking::time_here(&self.0.memory(), model, engine, settings);
            self.0.look_again();
        }
    }

    fn course(&self, wish: &Wish) -> Result<Arc<dyn Course>, NoCourse> {
        let planned = Planned::best(&self.0, wish).map_err(|failure| NoCourse {
            sentence: failure.sentence(),
            hint: failure.advice(),
        })?;
        Ok(Arc::new(planned))
    }

    fn part(&self) {
        // Whoever is not answering just now is let go of here; answers under way end by their own look at the rules.
        let _ = self.0.not_cut_off();
    }

    fn invite(&self) -> Result<Invitation, String> {
        self.0.not_cut_off().map_err(|failure| failure.sentence())?;
        let mut inviting = self.0.inviting.lock().unwrap_or_else(PoisonError::into_inner);
        *inviting = None;
        let network =
            Network::start(machine::asking(&self.0.settings, &[])).map_err(|error| error.to_string())?;
        let ticket = network.invite(INVITED_FOR).map_err(|error| error.to_string())?;
        let (open, closed) = mpsc::channel();
        *inviting = Some(open);
        std::thread::spawn(move || {
            // Either the time is over, or another invitation took its place, or the door is closed.
            let _ = closed.recv_timeout(INVITED_FOR);
            network.close(GOODBYE);
        });
        let text = ticket.to_string();
        Ok(Invitation {
            picture: picture::path(&text.to_uppercase()),
            ticket: text,
            expires_ms: ticket.expires * 1000,
        })
    }

    fn join(&self, ticket: &str) -> Result<MetMachine, String> {
        self.0.not_cut_off().map_err(|failure| failure.sentence())?;
        let ticket: Ticket = ticket.parse().map_err(|error: TicketError| error.to_string())?;
        // The connections of the planner end first: two of one identity would be in each other's way.
        self.0.resting.clear();
        *self.0.last() = None;
        let network =
            Network::start(machine::asking(&self.0.settings, &[])).map_err(|error| error.to_string())?;
        let met = network.block_on(network.join(&ticket, JOIN_WITHIN));
        network.close(GOODBYE);
        let peer = met.map_err(|error| error.to_string())?;
        Ok(MetMachine {
            node: peer.node.to_string(),
            name: peer.name,
            role: peer.role,
        })
    }

    fn nodes(&self) -> Result<Vec<NodeLine>, String> {
        let asking = self.0.met_now().map_err(|failure| failure.sentence())?;
        let discretion = Discretion::new(asking.rules(), unsaid());
        let there = asking.pool().others().iter().map(|machine| {
            let profile = &machine.profile;
            let holds = profile.holds.iter().any(|held| held.model == asking.hash());
            NodeLine {
                node: profile.node.to_string(),
                name: profile.name.clone(),
                role: profile.role,
                reachable: true,
                why: None,
                latency_ms: Some(machine.link.rtt.as_secs_f64() * 1e3),
                state: Some(profile.state),
                queue_s: Some(profile.queue.as_secs_f64()),
                memory_bytes: Some(profile.memory),
                models: holds.then(|| self.0.model.clone()).into_iter().collect(),
                sees: discretion.sees(&destination(profile), profile.role),
            }
        });
        let away = asking.away().iter().map(|(name, why)| NodeLine {
            node: String::new(),
            name: name.clone(),
            role: Role::Own,
            reachable: false,
            why: Some(why.clone()),
            latency_ms: None,
            state: None,
            queue_s: None,
            memory_bytes: None,
            models: Vec::new(),
            sees: Leaves::Nothing,
        });
        Ok(there.chain(away).collect())
    }
}
