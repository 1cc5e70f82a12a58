//! Decides where each part of a request runs.
//!
//! Called by the runtime once per request, and again when a node is lost, slows down or joins. Never talks to a node,
//! reads a clock or draws a number: same input, same plan. Knows no text, only sizes; the cost model and the rules in
//! their order are in `docs/planner.md`.

pub mod balance;
pub mod bandwidth;
mod cluster;
mod cover;
pub mod decompose;
pub mod draft;
mod explore;
mod field;
mod ground;
pub mod ladder;
mod moves;
mod pass;
mod permit;
mod plan;
mod reason;
mod record;
pub mod replan;
mod request;
mod score;
mod search;
mod shortlist;
mod space;
#[cfg(test)]
extern crate self as heph_plan;
#[cfg(test)]
#[path = "../tests/planner/scenes.rs"]
#[expect(dead_code, reason = "the tests beside the crate use the rest")]
mod scenes;

pub use cluster::{Between, CHOICES_MAX, Cluster, InputError, LAYERS_MAX, NODES_MAX, Peer, believable};
pub use plan::{
    Alternative, Decision, DraftPlan, DraftSource, Expected, Forwarding, Mode, Place, Plan, Stage,
    UnknownMode,
};
pub use reason::{Constraint, Reason, binds};
pub use record::{Digest, Record, ReplayError};
pub use request::{
    CodecProfile, DirectForwarding, DocumentProfile, DraftProfile, KvChoice, ModelChoice, Objective,
    READYING_PASSES, Readying, Request, WarmPrefix, WarmStage,
};
pub use score::Rounds;
pub use shortlist::shortlist;

/// Chooses mode, stages, places, codecs, draft, cache format and precision for a request.
///
/// The rules in their order: the input is checked; the policy takes away whoever may not take part; what is left is
/// searched; the cheapest plan is taken; and what binds it becomes its reason.
pub fn plan(request: &Request, cluster: &Cluster) -> Result<Decision, Refusal> {
    cluster::check(request, cluster)?;
    let permitted = permit::permit(request, cluster);
    let explored = explore::explore(&permitted, search::Effort::Full, None);
    let Some(plan) = explored.chosen(request.mode).cloned() else {
        return Err(Refusal::impossible(&permitted));
    };
    Ok(Decision {
        reason: reason::reason(&permitted, &plan),
        alternatives: reason::alternatives(&permitted, explored, &plan),
        plan,
    })
}

/// What rounds of a plan cost in which guesses are verified, by the profiles that it was made from. `None` where the plan
/// does not guess.
pub fn rounds(request: &Request, cluster: &Cluster, plan: &Plan) -> Option<Rounds> {
    explore::rounds(&permit::permit(request, cluster), plan)
}

/// Why there is no plan.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// The input is no input.
    #[error(transparent)]
    Input(#[from] InputError),
    /// Something stands against every plan.
    #[error("no plan is possible: {}", hint(.constraint))]
    Impossible {
        /// The first thing without which there would be one.
        constraint: Constraint,
    },
}

impl Refusal {
    fn impossible(permitted: &permit::Permitted) -> Refusal {
        Refusal::Impossible {
            constraint: reason::obstacle(permitted),
        }
    }
}

/// What would have to change, for a person.
fn hint(constraint: &Constraint) -> &'static str {
    match constraint {
        Constraint::Asked => "the mode that was asked for cannot be done; ask for auto",
        Constraint::Policy => {
            "the policy keeps it here, where it does not fit; allow another machine or take a smaller model"
        }
        Constraint::ExactOnly => "only machines that are not exact have room, and exact answers are wanted",
        Constraint::MemoryHere => "the memory here is too small, and no other machine may or can help",
        Constraint::MemoryThere => "the memory of other machines is too small",
        Constraint::CreditsMax => "it would cost more than the most credits that are allowed",
        Constraint::Closed => "the machines that could do it take no work now",
        Constraint::Weights => "nobody who may take part holds the weights",
        Constraint::Queue
        | Constraint::RoundTrip
        | Constraint::Goodput
        | Constraint::SpeedThere
        | Constraint::SpeedHere
        | Constraint::Price => "the machines that may take part are too slow or too dear",
        Constraint::Nothing => {
            "no single change would help: the model is too large for every machine that is known"
        }
    }
}
