//! Why a plan is what it is: the first constraint whose absence would have changed it, said in one sentence.
//!
//! A constraint binds when the same search without it finds a better plan in other places. That is how it is found, and
//! how the tests hold each sentence against the decision.

use crate::cluster::Cluster;
use crate::explore::{as_it_would_be, explore};
use crate::permit::{Permitted, permit, permit_among};
use crate::plan::{Alternative, Mode, Place, Plan};
use crate::request::{Readying, Request};
use crate::search::Effort;
use core::time::Duration;
use heph_types::{Leaves, NodeState};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::rc::Rc;

/// Something that keeps a plan from being better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Constraint {
    /// The person asked for a mode.
    Asked,
    /// The policy: what other machines may see, which layers stay here, who is forbidden.
    Policy,
    /// Only exact answers are wanted.
    ExactOnly,
    /// Memory of the desk.
    MemoryHere,
    /// Memory of the others.
    MemoryThere,
    /// The most that the answer may cost.
    CreditsMax,
    /// Nodes that take no work now.
    Closed,
    /// Layers that nodes do not hold yet.
    Weights,
    /// Requests that wait before this one.
    Queue,
    /// Round trips to the others.
    RoundTrip,
    /// Bytes a second to the others.
    Goodput,
    /// Speed of the others.
    SpeedThere,
    /// Speed of the desk.
    SpeedHere,
    /// What the others ask.
    Price,
    /// None of these: the plan would be the same without any one of them.
    Nothing,
}

impl Constraint {
    /// All that can be taken away, in the order in which they are asked.
    pub const ALL: [Constraint; 14] = [
        Constraint::Asked,
        Constraint::Policy,
        Constraint::ExactOnly,
        Constraint::MemoryHere,
        Constraint::MemoryThere,
        Constraint::CreditsMax,
        Constraint::Closed,
        Constraint::Weights,
        Constraint::Queue,
        Constraint::RoundTrip,
        Constraint::Goodput,
        Constraint::SpeedThere,
        Constraint::SpeedHere,
        Constraint::Price,
    ];

    /// The words by which every sentence names it.
    pub fn words(self) -> &'static str {
        match self {
            Constraint::Asked => "was asked for",
            Constraint::Policy => "policy",
            Constraint::ExactOnly => "exact answers",
            Constraint::MemoryHere => "memory here",
            Constraint::MemoryThere => "memory of other machines",
            Constraint::CreditsMax => "most credits",
            Constraint::Closed => "take no work now",
            Constraint::Weights => "weights would have to be sent",
            Constraint::Queue => "queue",
            Constraint::RoundTrip => "round trip",
            Constraint::Goodput => "bytes a second",
            Constraint::SpeedThere => "speed of other machines",
            Constraint::SpeedHere => "speed of this machine",
            Constraint::Price => "price",
            Constraint::Nothing => "nothing stands in the way",
        }
    }

    /// Takes the constraint away. `false` where it was not there.
    pub fn relax(self, request: &mut Request, cluster: &mut Cluster) -> bool {
        let (mut free, mut wide) = (Cow::Borrowed(&*request), Cow::Borrowed(&*cluster));
        let stood = self.take_away(&mut free, &mut wide);
        (*request, *cluster) = (free.into_owned(), wide.into_owned());
        stood
    }

    /// As [`Constraint::relax`]; what it does not stand in is not copied.
    fn take_away(self, request: &mut Cow<Request>, cluster: &mut Cow<Cluster>) -> bool {
        match self {
            Constraint::Asked => put(&mut request.to_mut().mode, None),
            Constraint::Policy => {
                let open = heph_types::Policy {
                    exact_only: request.policy.exact_only,
                    ..heph_types::Policy::open(Leaves::Text, &heph_types::Role::ALL)
                };
                put(&mut request.to_mut().policy, open)
            }
            Constraint::ExactOnly => {
                let request = request.to_mut();
                put(&mut request.policy.exact_only, false) | put(&mut request.objective.inexact_loss, 0.0)
            }
            Constraint::MemoryHere => ample(&mut cluster.to_mut().desk),
            Constraint::MemoryThere => any(&mut cluster.to_mut().nodes, |p| ample(&mut p.profile)),
            Constraint::CreditsMax => put(&mut request.to_mut().objective.credits_max, None),
            Constraint::Closed => any(&mut cluster.to_mut().nodes, |p| {
                put(&mut p.profile.state, NodeState::Open)
            }),
            Constraint::Weights => {
                let all = request.models.iter().filter_map(|m| {
                    let count = m.profile.layers.len();
                    let layers = heph_types::LayerRange::new(0, count, count).ok()?;
                    let model = m.profile.model;
                    Some(heph_types::Held { model, layers })
                });
                let all: Vec<_> = all.collect();
                any(machines(cluster.to_mut()), |m| put(&mut m.holds, all.clone()))
            }
            Constraint::Queue => any(machines(cluster.to_mut()), |m| put(&mut m.queue, Duration::ZERO)),
            Constraint::RoundTrip => any(links(cluster.to_mut()), |link| put(&mut link.rtt, Duration::ZERO)),
            Constraint::Goodput => {
                let cluster = cluster.to_mut();
                any(&mut cluster.nodes, |p| {
                    put(&mut p.profile.caps.bytes_per_second, None)
                }) | any(links(cluster), |link| ease(&mut link.up) | ease(&mut link.down))
            }
            Constraint::SpeedThere => any(&mut cluster.to_mut().nodes, |p| fast(&mut p.profile.speed)),
            Constraint::SpeedHere => {
                let request = request.to_mut();
                let at_once = put(&mut request.readying, Readying::default())
                    | any(&mut request.drafts, |draft| {
                        put(&mut draft.readying, Readying::default())
                    });
                fast(&mut cluster.to_mut().desk.speed) | at_once
            }
            Constraint::Price => put(&mut request.to_mut().objective.seconds_per_credit, 0.0),
            Constraint::Nothing => false,
        }
    }
}

/// How many times faster "as fast as you like" is.
const EASE: f64 = 1000.0;

/// Gains below one part in ten thousand are none.
const GAIN: f64 = 1.0 - 1e-4;

/// Puts a value in its place. `false` where it was there.
fn put<T: PartialEq>(place: &mut T, value: T) -> bool {
    let other = *place != value;
    *place = value;
    other
}

/// Changes all of them. `false` where that changed none.
fn any<T>(all: impl IntoIterator<Item = T>, change: impl Fn(T) -> bool) -> bool {
    all.into_iter().fold(false, |changed, one| changed | change(one))
}

/// The desk and all others.
fn machines(cluster: &mut Cluster) -> impl Iterator<Item = &mut heph_types::NodeProfile> {
    let others = cluster.nodes.iter_mut().map(|peer| &mut peer.profile);
    std::iter::once(&mut cluster.desk).chain(others)
}

/// All ways, from the desk and between the others.
fn links(cluster: &mut Cluster) -> impl Iterator<Item = &mut heph_types::LinkProfile> {
    let between = cluster.between.iter_mut().map(|way| &mut way.link);
    between.chain(cluster.nodes.iter_mut().map(|peer| &mut peer.link))
}

fn ample(node: &mut heph_types::NodeProfile) -> bool {
    put(&mut node.memory, u64::MAX / 4) | put(&mut node.caps.memory, None)
}

fn ease(rate: &mut f64) -> bool {
    let eased = *rate * EASE;
    put(rate, eased)
}

fn fast(speed: &mut heph_types::Speed) -> bool {
    ease(&mut speed.bytes_per_second)
        | ease(&mut speed.flops_per_second)
        | put(&mut speed.overhead, Duration::ZERO)
}

/// The binding constraint, and a sentence that names it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reason {
    /// What binds.
    pub constraint: Constraint,
    /// For people.
    pub sentence: String,
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.sentence)
    }
}

/// Finds what binds a plan.
pub(crate) fn reason(permitted: &Permitted, plan: &Plan) -> Reason {
    let binding = Constraint::ALL
        .into_iter()
        .find(|c| binds_in(*c, permitted, plan));
    let constraint = binding.unwrap_or(Constraint::Nothing);
    let sentence = format!(
        "{}, so {}.",
        because(constraint, permitted.request, permitted.cluster, plan),
        so(plan)
    );
    Reason { constraint, sentence }
}

/// Whether a better plan in other places exists once the constraint is gone.
pub fn binds(constraint: Constraint, request: &Request, cluster: &Cluster, plan: &Plan) -> bool {
    binds_in(constraint, &permit(request, cluster), plan)
}

fn binds_in(constraint: Constraint, permitted: &Permitted, plan: &Plan) -> bool {
    let Some((better, kept)) = without(constraint, permitted, Some(plan)) else {
        return false;
    };
    let now = kept.map_or(f64::INFINITY, |kept| kept.expected.objective);
    better.expected.objective < now * GAIN && !better.same_places(plan)
}

/// What stands against any plan at all: the first constraint without which there is one. Who asked for a mode is told that it cannot be
/// where nothing else would help.
pub(crate) fn obstacle(permitted: &Permitted) -> Constraint {
    let (asked, others): (Vec<_>, Vec<_>) = Constraint::ALL
        .into_iter()
        .partition(|constraint| *constraint == Constraint::Asked);
    let mut all = others.into_iter().chain(asked);
    all.find(|constraint| without(*constraint, permitted, None).is_some())
        .unwrap_or(Constraint::Nothing)
}

/// What a glance takes for the best once the constraint is gone, and what this plan is worth then, where it can be. `None`
/// where the constraint was not there, or nothing is possible without it either.
fn without(
    constraint: Constraint,
    permitted: &Permitted,
    plan: Option<&Plan>,
) -> Option<(Plan, Option<Plan>)> {
    let mut request = Cow::Borrowed(permitted.request);
    let mut cluster = Cow::Borrowed(permitted.cluster);
    if !constraint.take_away(&mut request, &mut cluster) {
        return None;
    }
    let free = permit_among(&request, &cluster, Rc::clone(&permitted.pairs));
    let explored = explore(&free, Effort::Glance, plan);
    Some((explored.chosen(request.mode)?.clone(), explored.seed))
}

fn because(constraint: Constraint, request: &Request, cluster: &Cluster, plan: &Plan) -> String {
    let remote = plan.remote_stages().next();
    let words = constraint.words();
    match constraint {
        Constraint::Asked => format!("The mode {} {words}", plan.mode),
        Constraint::Policy => match (plan.mode, request.policy.layers_local_first) {
            (Mode::Local, _) => format!("The {words} keeps the text here"),
            (_, 0) => format!("The {words} limits what other machines may see"),
            (_, first) => format!("The {words} keeps the first {first} layers here"),
        },
        Constraint::ExactOnly => format!("Only {words} are wanted"),
        Constraint::MemoryHere => {
            format!("The {words} is {}", bytes(cluster.desk.memory_usable()))
        }
        Constraint::MemoryThere => format!("The {words} does not hold more"),
        Constraint::CreditsMax => format!(
            "The answer may cost {} at the {words}",
            request.objective.credits_max.unwrap_or(0.0)
        ),
        Constraint::Closed => format!("Other machines {words}"),
        Constraint::Weights => format!("The {words} first"),
        Constraint::Queue => format!("The {words} elsewhere is long"),
        Constraint::RoundTrip => match link_of(cluster, remote) {
            Some((name, link)) => format!("A {words} to {name} takes {} ms", link.rtt.as_millis()),
            None => format!("Each {words} to another machine costs more than it gains"),
        },
        Constraint::Goodput => match link_of(cluster, remote) {
            Some((name, link)) => format!("The way to {name} takes {} {words}", bytes(link.up as u64)),
            None => format!("The way to other machines takes too few {words}"),
        },
        Constraint::SpeedThere => match remote {
            Some(_) => format!("The {words} is the bound"),
            None => format!("The {words} is too low to gain by"),
        },
        Constraint::SpeedHere => format!("The {words} is the bound"),
        Constraint::Price => format!("The {words} of other machines outweighs the time"),
        Constraint::Nothing => match request.mode {
            // Where nobody else was asked, nobody knows what is fastest.
            Some(mode) => format!("The mode {mode} was asked for and {words}"),
            None => format!("This is the fastest way and {words}"),
        },
    }
}

fn link_of<'a>(
    cluster: &'a Cluster,
    stage: Option<&'a crate::plan::Stage>,
) -> Option<(&'a str, heph_types::LinkProfile)> {
    let stage = stage?;
    let peer = cluster.nodes.iter().find(|p| p.profile.node == stage.node)?;
    Some((&peer.profile.name, peer.link))
}

fn so(plan: &Plan) -> String {
    let places: Vec<String> = plan
        .stages
        .iter()
        .map(|stage| {
            let place = match stage.place {
                Place::Desk => "here".to_owned(),
                Place::Peer => format!("at {}", stage.name),
            };
            match (plan.stages.len(), stage.layers.is_empty()) {
                (1, _) => format!("the whole model runs {place}"),
                (_, true) => format!("the head {place}"),
                (_, false) => format!("layers {}..{} {place}", stage.layers.start(), stage.layers.end()),
            }
        })
        .collect();
    let spans = match plan.mode {
        Mode::Preprocess => "spans are chosen here and ",
        _ => "",
    };
    let draft = plan.draft.map_or(String::new(), |d| match d.length {
        1 => " and one token a round is drafted here".to_owned(),
        length => format!(" and {length} tokens a round are drafted here"),
    });
    let run = if plan.stages.len() > 1 { " run" } else { "" };
    let sent = match plan.stages.iter().map(|stage| stage.send_bytes).sum() {
        0 => String::new(),
        sent => format!(", once {} of weights are sent there", bytes(sent)),
    };
    format!("{spans}{}{run}{draft}{sent}", places.join(", "))
}

/// Every mode that was not chosen, with its best plan or what stands against it.
pub(crate) fn alternatives(
    permitted: &Permitted,
    explored: crate::explore::Explored,
    plan: &Plan,
) -> Vec<Alternative> {
    let others = Mode::ALL
        .into_iter()
        .zip(explored.best)
        .filter(|(mode, _)| *mode != plan.mode);
    others
        .map(|(mode, best)| Alternative {
            mode,
            why_not: match &best {
                Some(other) => slower(other, plan, permitted),
                None => absent(mode, permitted),
            },
            plan: best.map(Box::new),
        })
        .collect()
}

fn slower(other: &Plan, plan: &Plan, permitted: &Permitted) -> String {
    let (theirs, ours) = (seconds(other), seconds(plan));
    if permitted.request.mode == Some(plan.mode) {
        return format!("It would take {theirs}, and {} was asked for.", plan.mode);
    }
    let class = match other.exactness > plan.exactness {
        true => " and its answer would not be exact",
        false => "",
    };
    let cold = match would_win_ready(other, plan, permitted) {
        true => ", as the small model has to be made ready first",
        false => "",
    };
    match other.expected.total >= plan.expected.total {
        true => format!("It would take {theirs} where the plan takes {ours}{cold}{class}."),
        false => {
            format!("It would take {theirs}, but what else it costs weighs more than the time{class}.")
        }
    }
}

/// Whether the other plan would be the better one if the model that drafts in it were ready.
fn would_win_ready(other: &Plan, plan: &Plan, permitted: &Permitted) -> bool {
    let Some(draft) = other.draft else {
        return false;
    };
    let mut request = permitted.request.clone();
    if !put(&mut request.drafts[draft.choice].readying, Readying::default()) {
        return false;
    }
    let ready = permit_among(&request, permitted.cluster, Rc::clone(&permitted.pairs));
    let other = as_it_would_be(&ready, other);
    other.is_some_and(|other| other.expected.objective < plan.expected.objective)
}

/// What an answer is expected to take in all.
fn seconds(plan: &Plan) -> String {
    match plan.expected.total.as_secs_f64() {
        seconds if seconds < 1.0 => format!("{:.0} ms", 1e3 * seconds),
        seconds => format!("{seconds:.2} s"),
    }
}

fn absent(mode: Mode, permitted: &Permitted) -> String {
    let (request, peers) = (permitted.request, &permitted.peers);
    let drafts = matches!(mode, Mode::Speculative | Mode::LayeredSpeculative);
    let shown = matches!(mode, Mode::Remote | Mode::Preprocess);
    let elsewhere = mode != Mode::Local && mode != Mode::Speculative;
    let sentence = if elsewhere && permitted.cluster.nodes.is_empty() {
        match request.mode {
            Some(Mode::Local) => "No other machine was asked.",
            _ => "No other machine is there.",
        }
    } else if elsewhere && peers.is_empty() {
        "No other machine may take part."
    } else if drafts && request.drafts.is_empty() {
        "Nothing here drafts tokens."
    } else if mode == Mode::Preprocess && request.document.is_none() {
        "There are no documents to choose spans from."
    } else if shown && peers.iter().all(|(_, sees)| *sees < Leaves::Text) {
        "The policy shows the text to no other machine."
    } else if shown {
        "No machine that may see the text holds the model or has room for it."
    } else {
        match (request.policy.may_see.is_empty() && request.policy.nodes.is_empty()) || mode == Mode::Local {
            true => "The model does not fit there.",
            false => "Neither the memory nor the policy leaves a way to do it.",
        }
    };
    sentence.to_owned()
}

fn bytes(count: u64) -> String {
    match count {
        0..1_000_000 => format!("{:.0} kB", count as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.0} MB", count as f64 / 1e6),
        _ => format!("{:.1} GB", count as f64 / 1e9),
    }
}
