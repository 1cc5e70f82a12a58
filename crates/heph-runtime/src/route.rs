//! From a question to a desk that answers it: what the planner is asked, and the line that its plan becomes.
//!
//! Nothing is chosen here. [`Question::request`] writes down what is known, [`heph_plan::Record::new`] decides, and
//! [`Route::desk`] seats the stages where the plan places them, every host behind the policy's [`Gate`].

use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use heph_plan::draft::{RoundStart, SourceStart, Unready};
use heph_plan::{
    CodecProfile, DirectForwarding, DocumentProfile, DraftProfile, DraftSource, Forwarding, KvChoice, Mode,
    ModelChoice, Objective, Place, Readying, Record, Request, Stage,
};
use heph_types::{
    Exactness, KvFormat, LayerProfile, Leaves, ModelProfile, NodeId, NodeProfile, NodeState, Policy, Price,
    Speed, WireCodec,
};

use crate::cancel::Cancel;
use crate::certify::rounding::Rounding;
use crate::codecs::{self, Allowed, Uncertified};
use crate::desk::{Desk, Expectation, Guess, GuessSource, Pace, Plain, Speculation};
use crate::discretion::{Discretion, PARTS};
use crate::draft::{Drafter, EchoDrafter};
use crate::gate::{Doors, Gate, Meter};
use crate::line::{Line, LineError, LineLimits, LineModel};
use crate::pool::NodePool;
use crate::replan::{Change, Replanner};
use crate::seat::Host;
use crate::words::Words;

/// Tokens in a round that a draft may have: longer runs are rarely right to the end.
const DRAFT_LENGTH_MAX: u16 = 12;

/// Other ways in which a round's guesses may go on, where one node confirms them: a third is seldom the right one.
const BRANCHES_MAX: u16 = 2;

/// What an answer from excerpts may miss: 2 of 100 questions, the most that `heph-world`'s test of retrieval lets pass.
const EXCERPTS_LOSS: f64 = 0.02;

/// How often what followed the same words before follows again, as long as nothing better is known.
const ECHO_ACCEPTANCE: f64 = 0.2;

/// A look-up in a table and a copy.
const ECHO_SECONDS: f64 = 2e-6;

/// Bytes of that table for a conversation of 8,192 tokens.
const ECHO_BYTES: u64 = 1 << 20;

/// What is asked, in sizes.
#[derive(Debug, Clone)]
pub struct Question {
    /// The model.
    pub model: ModelProfile,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens that the answer is expected to have.
    pub answer_tokens: usize,
    /// Positions that a cache holds.
    pub context: usize,
    /// How caches are stored.
    pub kv: KvFormat,
    /// What could draft here.
    pub drafts: Vec<DraftProfile>,
    /// Documents whose spans could be chosen here.
    pub document: Option<DocumentProfile>,
    /// What may leave.
    pub policy: Policy,
    /// A mode that was asked for by name.
    pub mode: Option<Mode>,
}

impl Question {
    /// What the planner is asked. Only exact codecs: the answer's bits are those of this machine alone. Others are for
    /// [`codecs::offer`] to add.
    pub fn request(self) -> Request {
        let count = |tokens: usize| u32::try_from(tokens).unwrap_or(u32::MAX);
        let room = self.context.saturating_sub(self.prompt_tokens);
        Request {
            models: vec![ModelChoice {
                profile: self.model,
                loss: 0.0,
            }],
            prompt_tokens: count(self.prompt_tokens),
            answer_tokens: count(self.answer_tokens.min(room)),
            context: count(self.context),
            kv: vec![KvChoice {
                format: self.kv,
                loss: 0.0,
            }],
            codecs: [WireCodec::F32, WireCodec::Packed]
                .map(CodecProfile::nominal)
                .to_vec(),
            drafts: self.drafts,
            document: self.document,
            warm: Vec::new(),
            rounds: false,
            readying: Readying::default(),
            policy: self.policy,
            objective: Objective::default(),
            mode: self.mode,
            direct: DirectForwarding::Never,
        }
    }
}

/// A question about documents whose excerpts have so many tokens and were chosen already.
pub fn document_profile(excerpts_tokens: usize) -> DocumentProfile {
    DocumentProfile {
        kept_tokens: u32::try_from(excerpts_tokens).unwrap_or(u32::MAX),
        seconds: 0.0,
        loss: EXCERPTS_LOSS,
    }
}

/// What followed the same words before, as a source of drafts.
pub fn echo_profile() -> DraftProfile {
    DraftProfile {
        source: DraftSource::NGram,
        acceptance: ECHO_ACCEPTANCE,
        seconds_per_token: ECHO_SECONDS,
        seconds_for_prompt: 0.0,
        readying: Readying::default(),
        memory: ECHO_BYTES,
        length_max: DRAFT_LENGTH_MAX,
    }
}

/// A small model that runs here at `speed` once it is ready, as a source of drafts for a prompt of so many tokens.
pub fn model_draft_profile(
    draft: &ModelProfile,
    speed: &Speed,
    readying: Readying,
    prompt_tokens: usize,
    acceptance: f64,
) -> DraftProfile {
    let pass = |rows: u32| {
        let seconds = |layer: &LayerProfile| speed.layer_seconds(layer, rows, 0.0, KvFormat::F16);
        draft.layers.iter().map(seconds).sum::<f64>()
    };
    let head = speed.layer_seconds(&draft.head, 1, 0.0, KvFormat::F16);
    let chunk = prompt_tokens.clamp(1, 256) as u32;
    let weights: u64 = draft.layers.iter().map(|layer| layer.weight_bytes).sum();
    DraftProfile {
        source: DraftSource::Model,
        acceptance,
        seconds_per_token: pass(1) + head,
        seconds_for_prompt: pass(chunk) * (prompt_tokens as f64 / f64::from(chunk)),
        readying,
        memory: weights + draft.head.weight_bytes + draft.embed_bytes,
        length_max: DRAFT_LENGTH_MAX,
    }
}

/// Why a plan does not become a line.
#[derive(Debug, thiserror::Error)]
pub enum RouteError {
    /// The plan names a machine that the pool no longer has.
    #[error("the plan needs {}, which is not known any more", .0.short())]
    Unknown(NodeId),
    /// The plan drafts by a model, and none was given.
    #[error("the plan drafts by a model, and there is none here")]
    NoDrafter,
    /// The plan's rows would be rounded by a codec that nobody certified.
    #[error(transparent)]
    Uncertified(#[from] Uncertified),
    /// The stages do not make the model.
    #[error(transparent)]
    Line(#[from] LineError),
}

/// When a plan that guesses does so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guessing {
    /// Where it helps, by what rounds before gave.
    WhereItHelps,
    /// In every round, as far as was planned: to be seen.
    Always,
}

/// What it takes to seat a plan.
pub struct Route<'a> {
    /// The plan, and what it was made from. Its policy is asked again at every door.
    pub record: &'a Record,
    /// The machines.
    pub pool: &'a NodePool,
    /// The model.
    pub model: LineModel,
    /// How the model reads and writes.
    pub words: Arc<Words>,
    /// The small model that drafts, where there is one.
    pub drafter: Option<Box<dyn Drafter>>,
    /// What `heph certify` found of rounded rows: the plan may use no other rounding codecs.
    pub rounding: Option<&'a Rounding>,
    /// Whether a plan that guesses may leave it.
    pub guessing: Guessing,
    /// What a line waits for.
    pub limits: LineLimits,
    /// What may be told of the request, and to whom.
    pub discretion: Discretion,
    /// What becomes of the machines while answers are given; `None` where nobody looks.
    pub changes: Option<Receiver<Change>>,
    /// Counts what passes the doors.
    pub meter: Meter,
    /// Whoever raises it ends the answer.
    pub cancel: Cancel,
}

impl Route<'_> {
    /// The desk that answers as planned.
    ///
    /// # Errors
    /// When the plan and the pool do not fit each other.
    pub fn desk(self) -> Result<Desk, RouteError> {
        let allowed = self.allowed()?;
        let hosts = self.hosts(&self.meter, &allowed)?;
        let Record {
            request,
            cluster,
            decision,
            ..
        } = self.record;
        let plan = &decision.plan;
        let limits = LineLimits {
            chunk: plan.chunk_rows.max(1) as usize,
            ..patient(self.limits, self.record)
        };
        let mut line = Line::new(self.model, hosts, &Replanner::placements(plan), limits)?;
        let mut replanner = Replanner::new(request.clone(), cluster.clone(), plan.clone())
            .with_boundaries_max(allowed.boundaries_max());
        let alone = cluster.nodes.is_empty() && self.changes.is_none();
        if let Some(changes) = self.changes {
            replanner = replanner.with_changes(changes);
        }
        if plan.forwarding == Forwarding::Direct {
            line = line.forwarding();
        }
        if !alone {
            line = line.with_steering(Box::new(replanner));
        }
        let pace = pace(self.record, self.guessing, self.drafter)?;
        Ok(Desk::over(line, pace, self.words, self.cancel))
    }

    /// The formats that rows may travel in: exact ones, and where the plan's answer is of another class those that are
    /// certified.
    fn allowed(&self) -> Result<Allowed, Uncertified> {
        let Record {
            request, decision, ..
        } = self.record;
        let plan = &decision.plan;
        if plan.exactness == Exactness::Exact {
            return Ok(Allowed::exact());
        }
        let wanted: Vec<WireCodec> = request.codecs.iter().map(|cost| cost.codec).collect();
        Allowed::certified(&wanted, self.rounding, &self.model, codecs::boundaries(plan))
    }

    /// The hosts of the plan in its order, then this machine, then whoever else may help where one is lost.
    fn hosts(&self, meter: &Meter, allowed: &Allowed) -> Result<Vec<Arc<dyn Host>>, RouteError> {
        let policy = &self.record.request.policy;
        let plan = &self.record.decision.plan;
        let discretion = self.discretion.clone().in_mode(plan.mode.name());
        let doors = Doors {
            discretion: discretion.costing(plan.expected.credits),
            policy: policy.clone(),
            layers: self.model.layers,
            meter: meter.clone(),
        };
        let mut hosts: Vec<Arc<dyn Host>> = Vec::new();
        let mut admit = |host: Gate| {
            if !hosts.iter().any(|known| known.node() == host.node()) {
                hosts.push(Arc::new(host));
            }
        };
        let there = |machine: &crate::pool::Machine| {
            let host = &machine.host;
            let host = host.carrying(allowed).unwrap_or_else(|| Arc::clone(host));
            doors.door(host, &machine.profile)
        };
        for stage in &self.record.decision.plan.stages {
            match stage.place {
                Place::Desk => admit(Gate::here(Arc::clone(self.pool.here()), meter)),
                Place::Peer => {
                    let machines = self.pool.others();
                    let machine = machines.iter().find(|machine| machine.profile.node == stage.node);
                    admit(there(machine.ok_or(RouteError::Unknown(stage.node))?));
                }
            }
        }
        admit(Gate::here(Arc::clone(self.pool.here()), meter));
        // A line that helps itself asks no planner: whoever it may turn to keeps the answer's bits, and where there is a most of credits asks for none.
        let is_boundless = self.record.request.objective.credits_max.is_none();
        let helps = |machine: &&crate::pool::Machine| {
            let profile = &machine.profile;
            let sees = policy.seen_by(profile.node, profile.role) >= Leaves::Activations;
            let promised =
                profile.exactness <= plan.exactness && (is_boundless || profile.price == Price::default());
            sees && promised && profile.state == NodeState::Open
        };
        self.pool
            .others()
            .iter()
            .filter(helps)
            .for_each(|machine| admit(there(machine)));
        Ok(hosts)
    }
}

/// So many times what the planner expects a seat may take before its pace is known.
const EXPECTED_TIMES: f64 = 8.0;

/// Longest that a seat whose pace is not known is waited for over a token, and over each token more in a piece of a prompt. Whoever lives and is as slow
/// as planned is worth waiting for; whoever is gone is found out by its silence.
const PATIENCE_MAX: [Duration; 2] = [Duration::from_secs(30), Duration::from_millis(500)];

/// How long a line waits for seats whose pace is not known yet: longer where the planner took a slow machine, which nobody else may be there for.
fn patient(limits: LineLimits, record: &Record) -> LineLimits {
    let (plan, model) = (&record.decision.plan, &record.request.models);
    let Some(model) = model.iter().find(|choice| choice.profile.model == plan.model) else {
        return limits;
    };
    let (rows, positions) = (plan.chunk_rows.max(1), f64::from(record.request.prompt_tokens));
    let seconds = |rows: u32| {
        let takes = |stage: &Stage| {
            let mut peers = record.cluster.nodes.iter().map(|peer| &peer.profile);
            let profile = peers.find(|profile| profile.node == stage.node)?;
            let layers = stage
                .layers
                .iter()
                .filter_map(|layer| model.profile.layers.get(layer));
            let layer = |layer| profile.speed.layer_seconds(layer, rows, positions, plan.kv);
            Some(layers.map(layer).sum::<f64>() / profile.caps.cpu.unwrap_or(1.0))
        };
        plan.remote_stages().filter_map(takes).fold(0.0, f64::max)
    };
    let waits = |seconds: f64, most: Duration| {
        Duration::try_from_secs_f64(seconds * EXPECTED_TIMES).map_or(most, |waits| waits.min(most))
    };
    let [one, more] = PATIENCE_MAX;
    let each = seconds(rows) / f64::from(rows);
    LineLimits {
        patience: limits.patience.max(waits(seconds(1), one)),
        patience_per_token: limits.patience_per_token.max(waits(each, more)),
        ..limits
    }
}

/// A machine that answers alone.
pub struct Alone {
    /// Which.
    pub node: NodeId,
    /// What people call it.
    pub name: String,
    /// Asks it, and nobody else: where it is lost, the desk has no answer.
    pub desk: Desk,
}

/// A desk for this machine and for each other that has the whole model and may see the text, for work that falls into
/// parts; all behind the policy, with one meter. The bits of an answer are those of this machine, whoever gives it.
pub fn alone(
    pool: &NodePool,
    model: LineModel,
    words: &Arc<Words>,
    policy: &Policy,
    discretion: &Discretion,
    cancel: &Cancel,
) -> (Vec<Alone>, Meter) {
    let meter = Meter::default();
    let doors = Doors {
        discretion: discretion.clone().in_mode(PARTS),
        policy: policy.clone(),
        layers: model.layers,
        meter: meter.clone(),
    };
    let here = (
        pool.desk(),
        Gate::here(Arc::clone(pool.here()), &meter),
        Pace::Steps,
    );
    let helps = |machine: &&crate::pool::Machine| {
        let profile = &machine.profile;
        let whole = (0..model.layers).all(|layer| profile.holds_layer(model.hash, layer));
        let ends = policy.layers_local_first == 0 && policy.layers_local_last == 0;
        let sees = policy.seen_by(profile.node, profile.role) >= Leaves::Text;
        let exact = profile.exactness == Exactness::Exact;
        whole && ends && sees && exact && profile.state == NodeState::Open
    };
    let there = |machine: &crate::pool::Machine| {
        let host = Arc::clone(&machine.host);
        let gate = doors.door(host, &machine.profile);
        (machine.profile.clone(), gate, Pace::Stream)
    };
    let others: Vec<_> = pool.others().iter().filter(helps).map(there).collect();
    let here = (here.0.clone(), here.1, here.2);
    let alone = |(profile, gate, pace): (NodeProfile, Gate, Pace)| Alone {
        node: profile.node,
        name: profile.name,
        desk: Desk::over(
            Line::whole(model, Arc::new(gate), LineLimits::default()),
            pace,
            Arc::clone(words),
            cancel.clone(),
        ),
    };
    let all = std::iter::once(here).chain(others).map(alone).collect();
    (all, meter)
}

/// How the plan's tokens are asked for. A plan that drafts says with what it is worth beginning; by whom and how far, and
/// whether at all, is decided anew for each round from what the rounds before gave.
fn pace(
    record: &Record,
    guessing: Guessing,
    mut by_model: Option<Box<dyn Drafter>>,
) -> Result<Pace, RouteError> {
    let (plan, request) = (&record.decision.plan, &record.request);
    let drafts = &request.drafts;
    let alone = plan.stages.len() == 1 && plan.remote_stages().next().is_some();
    let Some(planned) = plan.draft else {
        return Ok(if alone { Pace::Stream } else { Pace::Steps });
    };
    if planned.source != DraftSource::NGram && by_model.is_none() {
        return Err(RouteError::NoDrafter);
    }
    if guessing == Guessing::Always {
        let echo = || Box::new(EchoDrafter::default()) as Box<dyn Drafter>;
        return Ok(Pace::Guess(Guess {
            drafter: by_model.unwrap_or_else(echo),
            length: usize::from(planned.length),
            ahead: 1,
            branches: 0,
        }));
    }
    let source = |draft: &DraftProfile| {
        let drafter: Box<dyn Drafter> = match draft.source {
            DraftSource::NGram => Box::new(EchoDrafter::default()),
            DraftSource::Model | DraftSource::Tree => by_model.take()?,
        };
        let start = SourceStart {
            acceptance: draft.acceptance,
            seconds_per_token: draft.seconds_per_token,
            length_max: draft.length_max,
            branches_max: match draft.source {
                DraftSource::NGram => 0,
                DraftSource::Model | DraftSource::Tree if alone => BRANCHES_MAX,
                DraftSource::Model | DraftSource::Tree => 0,
            },
        };
        Some(GuessSource {
            kind: draft.source,
            drafter,
            start,
        })
    };
    let sources = drafts.iter().filter_map(source).collect();
    let plain = if alone { Plain::Stream } else { Plain::Steps };
    let speculation = Speculation::new(sources, plain, expectation(record).filter(|_| alone));
    let speculation = match once_ready(record) {
        Some(planned) => speculation.with_planned(planned),
        None => speculation,
    };
    Ok(Pace::Adapt(Box::new(speculation.with_unready(unready(record)))))
}

/// Whether all of the plan is computed here.
fn is_here(record: &Record) -> bool {
    record.decision.plan.remote_stages().next().is_none()
}

/// What rounds will take once the model is ready, where all of it is here and is not.
fn once_ready(record: &Record) -> Option<RoundStart> {
    let unready = is_here(record) && record.request.readying != Readying::default();
    expectation(record)
        .filter(|_| unready)
        .map(|expected| expected.round)
}

/// What getting ready may take of what it was timed to take: it was timed once, as the machine was then.
const UNREADY_SLACK: f64 = 1.5;

/// What the models that compute here will take beyond what they take once they are ready, after their first pass.
fn unready(record: &Record) -> Unready {
    let seconds = |readying: &Readying| readying.rest.as_secs_f64();
    let drafts = record.request.drafts.iter().map(|draft| seconds(&draft.readying));
    let target = seconds(&record.request.readying);
    let target = if is_here(record) { target } else { 0.0 };
    Unready::by(UNREADY_SLACK * (target + drafts.sum::<f64>()))
}

/// What a plan's rounds are thought to take. Where no guesses mean a step, two timed steps tell better; a node that goes on
/// alone is not slowed by the way, and a timed step would say that it is.
fn expectation(record: &Record) -> Option<Expectation> {
    let Record {
        request,
        cluster,
        decision,
        ..
    } = record;
    let rounds = heph_plan::rounds(request, cluster, &decision.plan)?;
    Some(Expectation {
        round: RoundStart {
            plain: rounds.plain,
            fixed: rounds.fixed,
            per_row: rounds.per_row,
            tokens: request.answer_tokens,
        },
        way: rounds.way,
    })
}

#[cfg(test)]
mod tests;
