//! Other machines, as the door asks for them. The program knows how they are met; the door only shows what it is told.

use std::sync::Arc;
use std::time::Duration;

use heph_engine::batch::Asker;
use heph_engine::prefix::Share;
use heph_engine::worker::Worker;
use heph_plan::{Mode, Record};
use heph_privacy::Replaced;
use heph_privacy::pseudonym::Replacing;
use heph_runtime::discretion::{Discretion, Limit};
use heph_runtime::placing::Given;
use heph_runtime::service::{Job, Outcome, ServiceError, Speaker};
use heph_types::{Leaves, ModelHash, NodeState, Role, TokenId};
use serde::Serialize;

use crate::engines::Writer;

/// What may leave this machine at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Privacy {
    /// Nothing.
    Nothing,
    /// What the settings let the person's own machines see, and nothing for others.
    Own,
    /// What the settings say.
    #[default]
    Policy,
}

impl Privacy {
    /// The same, for the rules.
    pub(crate) fn limit(self) -> Limit {
        match self {
            Self::Nothing => Limit::Nothing,
            Self::Own => Limit::Own,
            Self::Policy => Limit::Rules,
        }
    }
}

/// What is to be planned.
#[derive(Debug, Clone)]
pub struct Wish {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens of the prompt with excerpts, where it is about texts.
    pub excerpts_tokens: Option<usize>,
    /// Tokens that the answer may have at most.
    pub answer_tokens_max: Option<usize>,
    /// A mode that is asked for by name.
    pub mode: Option<Mode>,
    /// What may be told of it, and to whom.
    pub discretion: Discretion,
    /// Credits that the answer may cost at most.
    pub price_max: Option<u64>,
    /// Whether machines may answer whose bits are not those of this one.
    pub any_bits: bool,
    /// How long an answer waits here for its place.
    pub wait_here: WaitHere,
    /// Whose it is.
    pub asker: Asker,
    /// Its prompt, to see who holds the beginning of it; empty where nobody is to be asked.
    pub prompt: Vec<TokenId>,
    /// What may be kept of it, and for whom.
    pub share: Share,
}

/// How long an answer waits here for its place, whenever that is asked.
#[derive(Clone)]
pub struct WaitHere(Arc<dyn Fn() -> Duration + Send + Sync>);

impl WaitHere {
    pub(crate) fn at(writer: &Arc<Writer>) -> Self {
        let writer = Arc::clone(writer);
        Self(Arc::new(move || writer.service.wait()))
    }

    /// Now.
    pub fn now(&self) -> Duration {
        self.0()
    }
}

impl std::fmt::Debug for WaitHere {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "WaitHere({:?})", self.now())
    }
}

/// Another machine.
#[derive(Debug, Clone, Serialize)]
pub struct NodeLine {
    /// Its identity, as hexadecimal digits.
    pub node: String,
    /// Its name.
    pub name: String,
    /// What it is to the person.
    pub role: Role,
    /// Whether it answered.
    pub reachable: bool,
    /// Why not.
    pub why: Option<String>,
    /// The way there and back.
    pub latency_ms: Option<f64>,
    /// Whether it takes work.
    pub state: Option<NodeState>,
    /// What waits there.
    pub queue_s: Option<f64>,
    /// Memory that it lends.
    pub memory_bytes: Option<u64>,
    /// What it holds, by name.
    pub models: Vec<String>,
    /// What it may see of a text.
    pub sees: Leaves,
}

/// A plan, with those who carry it out.
pub trait Course: Send + Sync {
    /// The plan, and what it was made from.
    fn record(&self) -> &Record;

    /// What may be told of the request, and to whom.
    fn discretion(&self) -> &Discretion;

    /// By what people and doors have to be replaced before the machines of the plan may see the request.
    fn wants_replaced(&self) -> Option<Replacing> {
        None
    }

    /// The same plan, for the same request with these things replaced.
    fn with_replaced(&self, replaced: Replaced) -> Arc<dyn Course>;

    /// Gives `job` to the machines of the plan: it waits for them from now on, and those who are planned after it know that.
    fn give(&self, job: &Job) -> Given;

    /// Answers `job`, which was given so, and says the answer as it comes. Where it waited long, whoever is free by now may answer instead, by the
    /// same rules. Ends soon after the speaker's wish to stop or the job's deadline. The outcome holds a receipt.
    ///
    /// # Errors
    /// When nobody is left who could answer.
    fn answer(&self, job: &Job, speaker: &Speaker, given: Given) -> Result<Outcome, ServiceError>;
}

/// Why no plan meets a wish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoCourse {
    /// In one sentence.
    pub sentence: String,
    /// What whoever asks may do about it, or who is away.
    pub hint: Option<String>,
}

/// An invitation for another machine.
#[derive(Debug, Clone, Serialize)]
pub struct Invitation {
    /// What `heph join`, or the page of the other machine, takes.
    pub ticket: String,
    /// Until when it works, in milliseconds since 1970.
    pub expires_ms: u64,
    /// The ticket as a QR code: modules a side, and the dark ones as the path of an SVG picture.
    pub picture: Option<(usize, String)>,
}

/// A machine that was met by its ticket.
#[derive(Debug, Clone, Serialize)]
pub struct MetMachine {
    /// Its identity, as hexadecimal digits.
    pub node: String,
    /// Its name.
    pub name: String,
    /// What it is to the person.
    pub role: Role,
}

/// Who knows the other machines.
pub trait Machines: Send + Sync {
    /// This machine's identity, as hexadecimal digits, where it has one.
    fn here(&self) -> Option<String>;

    /// Whether there may be anybody else. Answers at once.
    fn any(&self) -> bool;

    /// The served model is in memory: `worker` runs it, and machines call it `hash`. Whoever needs layers of it here may take
    /// these.
    fn lend(&self, hash: ModelHash, worker: &Worker) {
        let _ = (hash, worker);
    }

    /// What the planner says to `wish`. May take as long as machines take to answer, the first time.
    ///
    /// # Errors
    /// Why no plan meets the wish.
    fn course(&self, wish: &Wish) -> Result<Arc<dyn Course>, NoCourse>;

    /// Invites another machine: whoever has the ticket may meet this one, once. An earlier invitation ends.
    ///
    /// # Errors
    /// A sentence where nobody can be met.
    fn invite(&self) -> Result<Invitation, String> {
        Err("this program invites no machines".to_owned())
    }

    /// Ends every way to others at once: this machine was cut off.
    fn part(&self) {}

    /// Meets the machine whose ticket this is. May take as long as it takes to answer.
    ///
    /// # Errors
    /// A sentence where the ticket is none, or the machine does not answer.
    fn join(&self, ticket: &str) -> Result<MetMachine, String> {
        let _ = ticket;
        Err("this program meets no machines".to_owned())
    }

    /// Who was met, and who is there. May take as long as machines take to answer.
    ///
    /// # Errors
    /// A sentence where nobody can be asked.
    fn nodes(&self) -> Result<Vec<NodeLine>, String>;
}
