//! What may be told of one request, and to whom: how private it is, and the rules of this machine, asked anew at each door.
//!
//! It decides nothing: [`heph_privacy::policy::Policies::decide`] does. A [`Discretion`] is a request's label and its way of being
//! answered, kept together with the rules; where something is to leave it gives a [`Clearance`], or says why not.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use heph_plan::Mode;
use heph_privacy::label::{Label, Level};
use heph_privacy::policy::{Ask, Destination, Kind, Policies, Rule, Verdict, When};
use heph_privacy::pseudonym::Replacing;
use heph_privacy::{Clearance, Purpose, Replaced, Stays};
use heph_types::{Leaves, NodeId, NodeProfile, Policy, Role};

use crate::rules::Rules;
use found::Look;

pub(crate) mod found;
pub mod talk;

/// What may leave at most, whatever the rules allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Limit {
    /// Nothing.
    Nothing,
    /// What the rules let the person's own machines see, and nothing for others.
    Own,
    /// What the rules say.
    #[default]
    Rules,
}

/// How the answers of work in parts are computed, as rules name it.
pub const PARTS: &str = "parts";

/// A request's label, its way, and the rules. Clones are of the same request, and a conversation is one: what is said in it
/// later raises the label for all of them, and for the answers under way.
#[derive(Debug, Clone)]
pub struct Discretion {
    rules: Arc<Rules>,
    /// Rules of the person that stand elsewhere and count where there is no file.
    usual: Vec<Rule>,
    tide: Arc<Tide>,
    limit: Limit,
    /// How it is answered; every way, where that is not known yet.
    mode: Option<&'static str>,
    credits: u64,
    replaced: Option<Replaced>,
    /// Whether the planner may count on it that people and doors will be replaced.
    replaceable: bool,
}

/// What may leave of a request, as it stood at one moment: every door says the same to two that are equal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    label: Label,
    /// With the limit of what was asked for.
    policies: Arc<Policies>,
    mode: Option<&'static str>,
    credits: u64,
}

/// A label that only rises.
#[derive(Debug)]
struct Tide {
    label: Mutex<Label>,
    /// How often it rose.
    rose: AtomicU64,
}

impl Tide {
    fn raise(&self, by: &Label) {
        let mut label = self.label.lock().unwrap_or_else(PoisonError::into_inner);
        let joined = label.join(by);
        if joined != *label {
            *label = joined;
            self.rose.fetch_add(1, Ordering::Release);
        }
    }
}

/// What nobody said anything about.
pub fn unsaid() -> Label {
    Label::of_level(Level::Internal)
}

impl Discretion {
    /// For a request as private as `label` says.
    pub fn new(rules: &Arc<Rules>, label: Label) -> Self {
        Self {
            rules: Arc::clone(rules),
            usual: Vec::new(),
            tide: Arc::new(Tide {
                label: Mutex::new(label),
                rose: AtomicU64::new(0),
            }),
            limit: Limit::Rules,
            mode: None,
            credits: 0,
            replaced: None,
            replaceable: false,
        }
    }

    /// At most so much leaves.
    #[must_use]
    pub fn within(self, limit: Limit) -> Self {
        Self { limit, ..self }
    }

    /// The same with rules that count where the person wrote no file.
    #[must_use]
    pub fn with_usual(self, usual: Vec<Rule>) -> Self {
        Self { usual, ..self }
    }

    /// From now on also as private as `label` says: the request became one about more.
    pub fn also(&self, label: &Label) {
        self.tide.raise(label);
    }

    /// From now on also as private as what is found in `texts`. The model of names is asked where the rules mind it.
    pub fn about<'a>(&self, texts: impl IntoIterator<Item = &'a str>) {
        let look = match self.minds_labels() {
            true => Look::Names,
            false => Look::Patterns,
        };
        let found = texts.into_iter().fold(Label::public(), |label, text| {
            label.join(&self.rules.found().label(text, look))
        });
        self.also(&found);
    }

    /// Answered in this way.
    #[must_use]
    pub fn in_mode(self, mode: &'static str) -> Self {
        Self {
            mode: Some(mode),
            ..self
        }
    }

    /// Costs so many credits; parts of one count as one.
    #[must_use]
    pub fn costing(self, credits: f64) -> Self {
        // Saturates: what costs more than there are numbers is over every bound.
        let credits = credits.max(0.0).ceil() as u64;
        Self { credits, ..self }
    }

    /// To be planned as if people and doors were replaced, where that is a measure. No door opens by this.
    #[must_use]
    pub fn replaceable(self) -> Self {
        Self {
            replaceable: true,
            ..self
        }
    }

    /// With texts in which people and doors were replaced.
    #[must_use]
    pub fn with_replaced(self, replaced: Replaced) -> Self {
        self.also(replaced.label());
        Self {
            replaced: Some(replaced),
            ..self
        }
    }

    /// As private as it is, with texts in which nothing was replaced.
    #[must_use]
    pub fn unreplaced(self) -> Self {
        Self {
            replaced: None,
            ..self
        }
    }

    /// Whether it speaks of texts in which people and doors were replaced.
    pub fn is_replaced(&self) -> bool {
        self.replaced.is_some()
    }

    /// Whether the rules look at labels at all: where they do not, no verdict depends on one.
    pub fn minds_labels(&self) -> bool {
        self.policies().minds_labels()
    }

    /// How private the request is.
    pub fn label(&self) -> Label {
        let label = self.tide.label.lock().unwrap_or_else(PoisonError::into_inner);
        label.clone()
    }

    /// How often the label rose so far.
    pub fn rose(&self) -> u64 {
        self.tide.rose.load(Ordering::Acquire)
    }

    /// How it stands now. `None` where words were replaced: they stand for other things in the next request.
    pub fn standing(&self) -> Option<Standing> {
        self.replaced.is_none().then(|| Standing {
            label: self.label(),
            policies: self.policies(),
            mode: self.mode,
            credits: self.credits,
        })
    }

    /// Leave for the request at `to`, as the rules stand now.
    ///
    /// # Errors
    /// Why it stays.
    pub fn clearance(&self, to: &Destination) -> Result<Clearance, Stays> {
        let policies = self.policies();
        match self.mode {
            Some(mode) => self.clearance_in(mode, to, &policies),
            None => {
                let mut modes = MODES.into_iter();
                let first = modes.next().map(|mode| self.clearance_in(mode, to, &policies));
                let rest = modes.map(|mode| self.clearance_in(mode, to, &policies));
                // A way that is not known yet could be any: all of them have to be allowed.
                rest.fold(first.unwrap_or(Err(Stays::NoText)), |all, one| all.and(one))
            }
        }
    }

    fn clearance_in(&self, mode: &str, to: &Destination, policies: &Policies) -> Result<Clearance, Stays> {
        let credits = self.credits;
        let purpose = Purpose { to, mode, credits };
        match &self.replaced {
            // Where hidden states travel, replacing words is no measure.
            Some(replaced) if shows_text_alone(mode) => Clearance::of_replaced(replaced, purpose, policies),
            _ => Clearance::of(&self.label(), purpose, policies),
        }
    }

    /// By what people and doors would have to be replaced for this to leave for `to`; `None` where it may as it is, or not at all.
    pub fn wants_replacing(&self, to: &Destination) -> Option<Replacing> {
        match self.clearance(to) {
            Err(Stays::NoText) => Some(Replacing::Pseudonyms),
            Err(Stays::Unmasked) => Some(Replacing::Masks),
            _ => None,
        }
    }

    /// Why a place of this role may not see the request as the planner would have it shown, to stand behind a sentence that says so: it names
    /// the rules and their files; `None` where it may.
    pub fn objection(&self, to: &Destination, role: Role) -> Option<String> {
        let policies = self.policies();
        let modes = match &self.mode {
            Some(mode) => std::slice::from_ref(mode),
            None => &MODES[..],
        };
        let against = |mode: &&'static str| {
            let stays = self.clearance_in(mode, to, &policies).err()?;
            let replaced = self.replaceable && shows_text_alone(mode);
            let decision = policies.decide(&Ask {
                label: &self.label(),
                to,
                mode,
                credits: self.credits,
            });
            let by = self.rules.said_by(&decision);
            match stays {
                Stays::NoText | Stays::Unmasked if replaced => None,
                Stays::NoText | Stays::Unmasked => Some(format!(
                    " in {mode}, where more than words travels and nothing can be replaced{by}"
                )),
                Stays::Denied(_) | Stays::NoPseudonym(_) | Stays::MorePrivate => Some(by),
            }
        };
        let bound = self.rules.bound(role);
        let word = match bound {
            Leaves::Text => None,
            Leaves::Activations if !self.mode.is_some_and(shows_text_alone) => None,
            Leaves::Activations => Some("activations"),
            Leaves::Nothing | Leaves::Embeddings => Some("nothing"),
        };
        let short = || {
            Some(format!(
                ", by \"allow {}={}\" of --allow or HEPH_ALLOW",
                role.name(),
                word?
            ))
        };
        modes.iter().find_map(against).or_else(short)
    }

    /// What the planner is told: what machines may see, as the rules stand now. `base` says the rest.
    pub fn planned(&self, base: Policy, machines: &[&NodeProfile]) -> Policy {
        let may = |leaves: &Leaves| *leaves > Leaves::Nothing;
        let roles = Role::ALL.map(|role| (role, self.sees(&nobody(role), role)));
        let of_role = |role: Role| {
            roles
                .iter()
                .find(|(of, _)| *of == role)
                .map(|(_, leaves)| *leaves)
        };
        let node = |machine: &&NodeProfile| {
            let leaves = self.sees(&destination(machine), machine.role);
            (of_role(machine.role) != Some(leaves)).then_some((machine.node, leaves))
        };
        Policy {
            may_see: roles.into_iter().filter(|(_, leaves)| may(leaves)).collect(),
            nodes: machines.iter().filter_map(node).collect(),
            ..base
        }
    }

    /// The most that a place of this role may see.
    pub fn sees(&self, to: &Destination, role: Role) -> Leaves {
        match self.clearance(to) {
            Ok(_) => self.rules.bound(role),
            Err(Stays::NoText | Stays::Unmasked)
                if self.replaceable && self.mode.is_some_and(shows_text_alone) =>
            {
                self.rules.bound(role)
            }
            Err(_) => Leaves::Nothing,
        }
    }

    /// The rules as they stand now, within the limit.
    fn policies(&self) -> Arc<Policies> {
        let now = self.rules.now(&self.usual);
        let kinds = match self.limit {
            Limit::Rules => return now,
            Limit::Own => vec![
                Kind::Attested,
                Kind::Provider,
                Kind::Edge,
                Kind::Miner,
                Kind::ToolServer,
            ],
            Limit::Nothing => Vec::new(),
        };
        let deny = Rule {
            name: "what was asked for".to_owned(),
            when: When {
                to: kinds,
                ..When::default()
            },
            then: Verdict::Deny,
        };
        Arc::new(Policies::clone(&now).tightened([deny]))
    }
}

/// Ways in which somebody else takes part.
const MODES: [&str; 6] = [
    "remote",
    "layered",
    "speculative",
    "layered-speculative",
    "preprocess",
    PARTS,
];

/// Whether a machine that takes part in this way is shown texts and nothing between layers.
pub fn shows_text_alone(mode: &str) -> bool {
    mode == Mode::Remote.name() || mode == Mode::Preprocess.name() || mode == PARTS
}

/// Leave at a machine of one's own, by rules that no file has a say in: for measurements and tests.
pub fn between_own(node: NodeId) -> Result<Clearance, Stays> {
    let discretion = Discretion::new(&Rules::without_files(Vec::new()), unsaid());
    discretion.clearance(&place(node, "", Role::Own))
}

/// A machine as rules see it: its name and its role are those of the book, not those that it gives itself.
pub fn destination(machine: &NodeProfile) -> Destination {
    place(machine.node, &machine.name, machine.role)
}

/// A node of this name and role.
pub fn place(node: NodeId, name: &str, role: Role) -> Destination {
    Destination {
        id: node.to_string(),
        name: name.to_owned(),
        ..nobody(role)
    }
}

/// Leave for the connections of this machine to wait at a relay and pass through it: what they carry is encrypted, and cleared for
/// whoever it is for; the relay sees who speaks to whom.
///
/// # Errors
/// Why none may.
pub fn through_relay(rules: &Arc<Rules>, relay: &str) -> Result<Clearance, Stays> {
    Discretion::new(rules, Label::public())
        .in_mode(RELAY_MODE)
        .clearance(&relay_place(relay))
}

/// The mode of a way through a relay, which is shown no content.
pub(crate) const RELAY_MODE: &str = "relay";

/// A relay as the rules know it.
pub(crate) fn relay_place(relay: &str) -> Destination {
    Destination {
        kind: Kind::Relay,
        name: relay.to_owned(),
        id: String::new(),
        region: String::new(),
        retention_days: None,
    }
}

/// Any machine of this role.
fn nobody(role: Role) -> Destination {
    Destination {
        kind: role.into(),
        name: String::new(),
        id: String::new(),
        region: String::new(),
        retention_days: None,
    }
}

#[cfg(test)]
mod tests {
    use heph_privacy::pii::names::Model;
    use heph_privacy::policy::{Policy as Rulebook, Preset};
    use heph_privacy::pseudonym::Pseudonyms;

    use super::*;
    use crate::pool::testing::profile;
    use crate::rules::POLICY_FILE;
    use crate::rules::testing::rules;

    /// Pages and prompts that tell whoever reads them to change a label, the policy, or where something goes.
    const PAGES: &str = include_str!("discretion/pages.txt");

    const NOTE: &str = "Ann Lee, ann.lee@example.org, card 4111 1111 1111 1111: the salary is 5000.";

    fn preset(preset: &str) -> (tempfile::TempDir, Arc<Rules>) {
        rules(&format!("version = 1\npreset = \"{preset}\"\n"))
    }

    /// What is said of every destination in every mode, as a table.
    fn verdicts(discretion: &Discretion) -> Vec<bool> {
        let asked =
            |role: Role| MODES.map(|mode| discretion.clone().in_mode(mode).clearance(&nobody(role)).is_ok());
        Role::ALL.into_iter().flat_map(asked).collect()
    }

    #[test]
    fn rules_know_every_mode_in_which_something_leaves() {
        let known = heph_privacy::policy::MODES;
        let modes = Mode::ALL.iter().map(|mode| mode.name());
        for mode in modes.chain(MODES).chain(["relay", "tools"]) {
            assert!(known.contains(&mode), "{mode}");
        }
    }

    #[test]
    fn no_page_talks_a_label_or_a_policy_into_anything() {
        let pages: Vec<&str> = PAGES.split("\n----\n").collect();
        assert!(pages.len() >= 50, "{}", pages.len());
        let policies = [
            preset("redact-then-remote"),
            preset("own-devices"),
            preset("local-only"),
        ];
        for (home, rules) in &policies {
            let written = std::fs::read(home.path().join(POLICY_FILE)).unwrap();
            let alone = Discretion::new(rules, Label::mark("private"));
            alone.about([NOTE]);
            for page in &pages {
                for order in [[NOTE, page], [page, NOTE]] {
                    let both = Discretion::new(rules, Label::mark("private"));
                    both.about(order);
                    assert!(both.label().covers(&alone.label()), "{page}");
                    let looser = verdicts(&both)
                        .into_iter()
                        .zip(verdicts(&alone))
                        .any(|(both, alone)| both && !alone);
                    assert!(!looser, "{page}");
                    // Nor where it stands in the same text, before or behind.
                    let one = Discretion::new(rules, Label::mark("private"));
                    one.about([order.join("\n").as_str()]);
                    assert!(one.label().level() >= alone.label().level(), "{page}");
                }
            }
            assert_eq!(std::fs::read(home.path().join(POLICY_FILE)).unwrap(), written);
        }
    }

    #[test]
    fn what_a_page_says_of_pseudonyms_keeps_nobody_in_the_text() {
        for page in PAGES.split("\n----\n") {
            let mut session = Pseudonyms::new([9; 32]);
            let mut texts = [format!("{page}\n\n{NOTE}"), format!("{NOTE}\n\n{page}")];
            let before = texts.clone();
            let replaced = heph_privacy::replace(
                &mut texts,
                &Label::mark("private"),
                Model::bundled(),
                &mut session,
            );
            // Where the way back is not sure it stays, and nothing leaves.
            if replaced.is_ok() {
                for (text, before) in texts.iter().zip(&before) {
                    let told = text.contains("ann.lee@example.org") || text.contains("4111 1111 1111 1111");
                    assert!(!told, "{page}");
                    assert_eq!(session.restore(text), *before, "{page}");
                }
            }
        }
    }

    #[test]
    fn a_conversation_stays_as_private_as_what_was_said_in_it_once() {
        let (_home, rules) = preset("redact-then-remote");
        let talk = Discretion::new(&rules, unsaid());
        let to = nobody(Role::Miner);
        let may = |talk: &Discretion| talk.clone().in_mode("layered").clearance(&to).is_ok();
        talk.about(["What is the capital of France?"]);
        assert!(may(&talk));
        let (answer, rose) = (talk.clone(), talk.rose());
        talk.about([NOTE]);
        assert!(
            !may(&talk) && !may(&answer),
            "clones are of the same conversation"
        );
        assert!(answer.rose() > rose);
        talk.about(["And of Italy?"]);
        assert!(!may(&talk));
        assert!(!may(&talk.within(Limit::Rules).in_mode("layered")));
    }

    #[test]
    fn whoever_asks_may_ask_for_less_than_the_rules_allow_and_never_for_more() {
        let seen = |rules: &Arc<Rules>, limit| {
            let asked = Discretion::new(rules, unsaid()).within(limit);
            let may = |role: &Role| asked.sees(&nobody(*role), *role) == Leaves::Text;
            Role::ALL.iter().filter(|role| may(role)).count()
        };
        let ((_a, open), (_b, own), (_c, local)) =
            (preset("open"), preset("own-devices"), preset("local-only"));
        let seen = |limit| [&open, &own, &local].map(|rules| seen(rules, limit));
        assert_eq!(seen(Limit::Rules), [4, 1, 0]);
        assert_eq!(seen(Limit::Own), [1, 1, 0]);
        assert_eq!(seen(Limit::Nothing), [0, 0, 0]);
    }

    #[test]
    fn the_planner_hears_what_each_machine_may_see() {
        let (_home, rules) = rules(
            "version = 1\npreset = \"own-devices\"\n\
             [[rule]]\nname = \"the attic is not for work\"\nwhen = { names = [\"attic\"], labels = [\"user:work\"] }\nthen = \"deny\"\n\
             [[rule]]\nname = \"a friend\"\nwhen = { names = [\"friend\"] }\nthen = \"allow\"\n\
             [[rule]]\nname = \"not layered\"\nwhen = { names = [\"friend\"], modes = [\"layered\"] }\nthen = \"deny\"\n",
        );
        let machine = |id: u8, name: &str, role| NodeProfile {
            name: name.to_owned(),
            ..profile(NodeId([id; 32]), role)
        };
        let machines = [
            machine(1, "attic", Role::Own),
            machine(2, "cellar", Role::Own),
            machine(3, "friend", Role::Miner),
            machine(4, "stranger", Role::Miner),
        ];
        let all: Vec<&NodeProfile> = machines.iter().collect();
        let sees = |discretion: Discretion| {
            let policy = discretion.planned(Policy::closed(), &all);
            machines
                .each_ref()
                .map(|machine| policy.seen_by(machine.node, machine.role) == Leaves::Text)
        };
        let asked = |word: &str| Discretion::new(&rules, Label::mark(word));
        assert_eq!(
            sees(asked("internal").in_mode("remote")),
            [true, true, true, false]
        );
        assert_eq!(sees(asked("work").in_mode("remote")), [false, true, true, false]);
        // A mode that is not known yet could be any.
        assert_eq!(sees(asked("internal")), [true, true, false, false]);
        assert_eq!(
            sees(asked("internal").in_mode("layered")),
            [true, true, false, false]
        );
    }

    #[test]
    fn what_any_door_would_treat_otherwise_stands_otherwise() {
        let (home, rules) = preset("redact-then-remote");
        let asked = |word: &str| Discretion::new(&rules, Label::mark(word)).in_mode("remote");
        let alike = |other: &Discretion| other.standing() == asked("internal").standing();
        assert!(alike(&asked("internal")) && alike(&asked("internal").within(Limit::Rules)));
        let others = [
            asked("private"),
            asked("salaries"),
            asked("internal").within(Limit::Own),
            asked("internal").in_mode("layered"),
            asked("internal").costing(0.5),
            Discretion::new(&preset("own-devices").1, Label::mark("internal")).in_mode("remote"),
        ];
        for other in &others {
            assert!(!alike(other), "{other:?}");
        }
        let raised = asked("internal");
        raised.about([NOTE]);
        assert!(!alike(&raised));
        let mut texts = [NOTE.to_owned()];
        let mut session = Pseudonyms::new([9; 32]);
        let label = Label::mark("internal");
        let replaced = heph_privacy::replace(&mut texts, &label, Model::bundled(), &mut session).unwrap();
        assert_eq!(asked("internal").with_replaced(replaced).standing(), None);
        // A policy that was written meanwhile counts.
        let before = asked("internal").standing();
        let file = home.path().join(POLICY_FILE);
        std::fs::write(&file, "version = 1\npreset = \"local-only\"\n").unwrap();
        assert_ne!(asked("internal").standing(), before);
    }

    #[test]
    fn redaction_is_planned_for_where_words_travel_and_nowhere_else() {
        let (_home, rules) = preset("redact-then-remote");
        let private = Discretion::new(&rules, Label::mark("private"));
        for mode in MODES {
            let asked = private.clone().in_mode(mode);
            let to = nobody(Role::Miner);
            assert_eq!(asked.wants_replacing(&to), Some(Replacing::Pseudonyms));
            assert_eq!(asked.sees(&to, Role::Miner), Leaves::Nothing);
            let planned = asked.replaceable();
            let seen = planned.sees(&to, Role::Miner) == Leaves::Text;
            assert_eq!(seen, shows_text_alone(mode), "{mode}");
            // The plan opens no door.
            assert!(planned.clearance(&to).is_err());
        }
        let secret = Discretion::new(&rules, Label::mark("secret"))
            .in_mode("remote")
            .replaceable();
        assert_eq!(secret.sees(&nobody(Role::Miner), Role::Miner), Leaves::Nothing);
        // Presets are what they are: these tests would say nothing under an open one.
        assert_ne!(Rulebook::of(Preset::RedactThenRemote), Rulebook::of(Preset::Open));
    }
}
