//! The machines that were met, for the door: looked for when somebody asks, remembered for a moment, and asked for answers.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use heph_gateway::{Course, Invitation, Machines, MetMachine, NodeLine, Privacy, Wish};
use heph_net::picture;
use heph_net::ticket::{Ticket, TicketError};
use heph_net::trust::TrustBook;
use heph_plan::Record;
use heph_runtime::desk::{AnswerOptions, DeskError, Finish, Prompt};
use heph_runtime::network::Network;
use heph_runtime::providers::own_alone;
use heph_runtime::service::{Ending, Fate, Job, Outcome, ServiceError, Speaker};
use heph_runtime::settings::{self, Settings};
use heph_types::{Leaves, NodeId, Policy, Role};

use crate::asking::{Asking, PlaceArguments, Sizes};
use crate::engine::EngineArguments;
use crate::failure::Failure;
use crate::machine;

/// What was heard of other machines is asked for anew after this.
const FRESH: Duration = Duration::from_secs(20);

/// Full contexts that the caches of layers here have room for; more answers share them.
const CONTEXTS: usize = 4;

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
    last: Mutex<Option<(Instant, Arc<Asking>)>>,
    /// Held by whoever meets them, which takes seconds.
    meeting: Mutex<()>,
    /// Whether somebody is about to.
    looking: AtomicBool,
    /// The invitation that is open ends when this is let go of.
    inviting: Mutex<Option<Sender<()>>>,
}

impl Met {
    pub(in crate::commands) fn new(model: &str, engine: EngineArguments, settings: &Settings) -> Self {
        let met = Self(Arc::new(Acquaintance {
            model: model.to_owned(),
            engine,
            settings: settings.clone(),
            last: Mutex::default(),
            meeting: Mutex::default(),
            looking: AtomicBool::new(false),
            inviting: Mutex::default(),
        }));
        if met.any() {
            // Whoever asks first need not wait until everybody was met.
            met.0.look_again();
        }
        met
    }
}

impl Acquaintance {
    fn last(&self) -> MutexGuard<'_, Option<(Instant, Arc<Asking>)>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who was met: as they were a moment ago where nobody asked since, and then asked anew for the next time. What
    /// becomes of them while they answer, a desk sees for itself.
    fn asking(self: &Arc<Self>) -> Result<Arc<Asking>, Failure> {
        let known = self.last().clone();
        match known {
            Some((when, asking)) => {
                if when.elapsed() >= FRESH {
                    self.look_again();
                }
                Ok(asking)
            }
            None => self.met_now(),
        }
    }

    /// Who is there now.
    fn met_now(&self) -> Result<Arc<Asking>, Failure> {
        let _meeting = self.meeting.lock().unwrap_or_else(PoisonError::into_inner);
        let known = self.last().clone();
        let again = match known {
            Some((when, asking)) if when.elapsed() < FRESH => return Ok(asking),
            Some((_, asking)) => asking.again()?,
            None => None,
        };
        let asking = match again {
            Some(asking) => asking,
            None => Asking::open_for(
                CONTEXTS,
                &self.model,
                &self.engine,
                &PlaceArguments::usual(),
                &self.settings,
            )?,
        };
        let asking = Arc::new(asking);
        *self.last() = Some((Instant::now(), Arc::clone(&asking)));
        Ok(asking)
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

    fn policy(&self, privacy: Privacy) -> Policy {
        let policy = settings::policy(self.settings.allow.iter().copied());
        match privacy {
            Privacy::Nothing => Policy {
                may_see: Vec::new(),
                ..policy
            },
            Privacy::Own => own_alone(policy),
            Privacy::Policy => policy,
        }
    }
}

/// A plan, and the machines as they were when it was made.
struct Planned {
    asking: Arc<Asking>,
    record: Record,
    sizes: Sizes,
}

impl Course for Planned {
    fn record(&self) -> &Record {
        &self.record
    }

    fn answer(&self, job: &Job, speaker: &Speaker) -> Result<Outcome, ServiceError> {
        let cancel = match job.deadline {
            Some(deadline) => speaker.cancel().until(deadline),
            None => speaker.cancel().clone(),
        };
        let seated = self.asking.desk_for_one(&self.record, self.sizes, &cancel);
        let (mut desk, mut books) =
            seated.map_err(|failure| elsewhere(failure.sentence(), Fate::Unavailable))?;
        let options = AnswerOptions {
            sampling: job.sampling.clone(),
            max_tokens: Some(job.max_tokens),
            stops: job.stops.clone(),
        };
        let mut first = None;
        let answer = desk
            .answer(Prompt::Tokens(&job.prompt), &options, &mut |text| {
                first.get_or_insert_with(Instant::now);
                speaker.say(text);
            })
            .map_err(failed)?;
        let ending = match (answer.finish, &answer.stopped_by) {
            (Finish::Stop, Some(stop)) => Ending::StopText(stop.clone()),
            (Finish::Stop, None) => Ending::Stop,
            (Finish::Length, _) => Ending::Length,
            (Finish::Context, _) => Ending::Context,
            (Finish::Cancelled, _) => Ending::Deadline,
        };
        let now = Instant::now();
        let receipt = books.settle(&self.asking, &self.record.decision.plan, &answer);
        Ok(Outcome {
            ending,
            prompt_tokens: answer.prompt.len(),
            cached_tokens: 0,
            answer_tokens: answer.tokens.len(),
            first_token: first.unwrap_or(now) - speaker.began(),
            total: now - speaker.began(),
            elsewhere: Some(Box::new(receipt)),
        })
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
        DeskError::Forward(_) => Fate::Broken,
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

    fn course(&self, wish: &Wish) -> Result<Arc<dyn Course>, String> {
        let plan = || -> Result<Arc<dyn Course>, Failure> {
            let asking = self.0.asking()?;
            let sizes = Sizes {
                whole: wish.prompt_tokens,
                excerpts: wish.excerpts_tokens,
            };
            let policy = Policy {
                exact_only: !wish.any_bits,
                ..self.0.policy(wish.privacy)
            };
            let record = asking.plan_under(policy, wish.mode, sizes, wish.answer_tokens_max)?;
            Ok(Arc::new(Planned {
                asking,
                record,
                sizes,
            }))
        };
        plan().map_err(|failure| failure.sentence())
    }

    fn invite(&self) -> Result<Invitation, String> {
        let mut inviting = self.0.inviting.lock().unwrap_or_else(PoisonError::into_inner);
        *inviting = None;
        let network = Network::start(machine::asking(&self.0.settings)).map_err(|error| error.to_string())?;
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
        let ticket: Ticket = ticket.parse().map_err(|error: TicketError| error.to_string())?;
        // The connections of the planner end first: two of one identity would be in each other's way.
        *self.0.last() = None;
        let network = Network::start(machine::asking(&self.0.settings)).map_err(|error| error.to_string())?;
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
        let policy = self.0.policy(Privacy::Policy);
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
                sees: policy.seen_by(profile.node, profile.role),
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
