//! Why the rules keep a request from the machines that could answer it, said to the person: which rule, and in which file.

use std::collections::BTreeMap;

use heph_plan::{Cluster, Refusal, Request};
use heph_privacy::label::Label;
use heph_runtime::discretion::{Discretion, destination};
use heph_runtime::pool::Machine;
use heph_runtime::rules::Rules;
use heph_types::{Leaves, Policy, Role};

use crate::failure::{Exit, Failure};

/// Machines that a sentence names, and reasons of a label that a hint repeats.
const NAMED: usize = 4;

/// What to do where nothing leaves because this machine is cut off, or a file cannot be read.
pub(super) fn until(rules: &Rules) -> String {
    match rules.cut_file().filter(|_| rules.is_cut()) {
        Some(mark) => format!(
            "end that on the page of `heph serve` or in the window, or remove {}; `heph policy check` tells how it stands",
            mark.display()
        ),
        None => "`heph policy check` tells what is wrong with it".to_owned(),
    }
}

/// That there is no plan because the rules keep the request from `others`; `None` where there would be none without rules either.
pub(super) fn by_rules(
    refusal: &Refusal,
    (request, cluster): &(Request, Cluster),
    others: &[Machine],
    discretion: &Discretion,
) -> Option<Failure> {
    let Refusal::Impossible { .. } = refusal else {
        return None;
    };
    let discretion = match request.mode {
        Some(mode) => discretion.clone().in_mode(mode.name()),
        None => discretion.clone(),
    };
    let kept = from(others, &discretion)?;
    let role = others.first()?.profile.role;
    if !without_rules(request, cluster) {
        return None;
    }
    let what = match request.mode {
        Some(mode) => format!("no plan is possible for the mode {mode}"),
        None => "no plan is possible".to_owned(),
    };
    let failure = Failure::new(Exit::No, format!("{what}, since {kept}"));
    let mut hint = format!(
        "{} says what each rule decides",
        explain(request, role, &discretion.label())
    );
    if request.mode.is_some() {
        hint.push_str("; with --mode auto it is answered wherever it may be");
    }
    Some(failure.hint(hint))
}

/// That there is no plan because of the layers that are to stay here; `None` where there would be none without them either.
pub(super) fn by_layers(refusal: &Refusal, (request, cluster): &(Request, Cluster)) -> Option<Failure> {
    let Refusal::Impossible { .. } = refusal else {
        return None;
    };
    let mode = request.mode?;
    let mut free = request.clone();
    let policy = &mut free.policy;
    let kept = [&mut policy.layers_local_first, &mut policy.layers_local_last];
    let [first, last] = kept.map(std::mem::take);
    if (first, last) == (0, 0) || heph_plan::plan(&free, cluster).is_err() {
        return None;
    }
    let sentence = format!(
        "no plan is possible for the mode {mode}, since the first {first} and the last {last} layers are to stay here"
    );
    let hint = "keep fewer layers, or ask for auto: it is answered wherever it may be";
    Some(Failure::new(Exit::Usage, sentence).hint(hint))
}

/// Which of these machines may not see the request, and by which rules; `None` where each may.
pub(super) fn from(others: &[Machine], discretion: &Discretion) -> Option<String> {
    let mut kept: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for Machine { profile, .. } in others {
        if let Some(why) = discretion.objection(&destination(profile), profile.role) {
            kept.entry(why).or_default().push(&profile.name);
        }
    }
    let whom = kept
        .iter()
        .map(|(why, names)| format!("{} may not see this{why}", listed(names)));
    (!kept.is_empty()).then(|| whom.collect::<Vec<_>>().join("; "))
}

/// Whether there would be a plan if every machine might see everything.
fn without_rules(request: &Request, cluster: &Cluster) -> bool {
    let policy = Policy {
        layers_local_first: request.policy.layers_local_first,
        layers_local_last: request.policy.layers_local_last,
        exact_only: request.policy.exact_only,
        ..Policy::open(Leaves::Text, &Role::ALL)
    };
    let open = Request {
        policy,
        ..request.clone()
    };
    heph_plan::plan(&open, cluster).is_ok()
}

/// The command that tells the same.
fn explain(request: &Request, role: Role, label: &Label) -> String {
    let kind = match role {
        Role::Own => "own",
        Role::Cloud => "provider",
        Role::Edge => "edge",
        Role::Miner => "miner",
    };
    let mode = request
        .mode
        .map_or_else(String::new, |mode| format!(" --mode {mode}"));
    let plain = |tag: &&str| {
        tag.chars()
            .all(|c| c.is_ascii_alphanumeric() || "_:-.".contains(c))
    };
    let told = label
        .tags()
        .filter(|tag| !tag.starts_with("source:"))
        .filter(plain);
    let labels: String = told.take(NAMED).map(|tag| format!(" --label {tag}")).collect();
    format!("`heph policy explain --to {kind}{mode}{labels}`")
}

/// The names of some machines, and how many more there are.
fn listed(names: &[&str]) -> String {
    match names {
        [names @ .., last] if names.len() < NAMED => match names {
            [] => (*last).to_owned(),
            names => format!("{} and {last}", names.join(", ")),
        },
        names => {
            let more = names.len().saturating_sub(NAMED);
            format!(
                "{} and {more} more",
                names.get(..NAMED).unwrap_or_default().join(", ")
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_machines_are_named_and_many_are_counted() {
        assert_eq!(listed(&["a"]), "a");
        assert_eq!(listed(&["a", "b", "c", "d"]), "a, b, c and d");
        assert_eq!(listed(&["a", "b", "c", "d", "e", "f"]), "a, b, c, d and 2 more");
    }
}
