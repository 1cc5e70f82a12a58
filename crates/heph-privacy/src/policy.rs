//! What may leave, by label, destination, mode and money: a file that a person writes, and overlays that an organisation signs.
//!
//! Nothing leaves unless a rule allows it. Where several rules speak, the strictest counts; an overlay can only make things
//! stricter. A file that cannot be read is no policy, and whoever has no policy has [`Policy::closed`].

use ed25519_dalek::{Signature, VerifyingKey};
use heph_types::{Role, hex};
use serde::{Deserialize, Serialize};

use crate::label::{Label, Level};

/// What a rule says, from the loosest to the strictest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It may leave as it is.
    Allow,
    /// It may leave once what it tells of people and doors has been replaced.
    Redact,
    /// It may leave once each such thing has given way to a word for its kind, which nobody turns back.
    Mask,
    /// It stays.
    Deny,
}

/// Kinds of places outside of this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A machine of the same person.
    Own,
    /// A machine whose enclave was attested.
    Attested,
    /// A provider in a cloud.
    Provider,
    /// A data centre near by.
    Edge,
    /// A stranger's machine.
    Miner,
    /// A relay: it sees who speaks to whom and how much, and nothing of what is said.
    Relay,
    /// A server of tools, which is told what a model wants to know.
    ToolServer,
}

impl From<Role> for Kind {
    fn from(role: Role) -> Kind {
        match role {
            Role::Own => Kind::Own,
            Role::Cloud => Kind::Provider,
            Role::Edge => Kind::Edge,
            Role::Miner => Kind::Miner,
        }
    }
}

/// Where something would go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Destination {
    /// What kind of place it is.
    pub kind: Kind,
    /// What the person calls it, as `openai` or `attic`: never what it calls itself.
    #[serde(default)]
    pub name: String,
    /// What no two places have in common: a node's key in hexadecimal. Rules may name a place by it, too.
    #[serde(default)]
    pub id: String,
    /// Where it keeps data, as `eu`; empty where nobody says.
    #[serde(default)]
    pub region: String,
    /// How many days it keeps what it sees; `None` where nobody says, which counts as for ever.
    #[serde(default)]
    pub retention_days: Option<u32>,
}

/// Ways in which an answer is computed, and others in which something leaves: what rules may name.
pub const MODES: [&str; 9] = [
    "local",
    "remote",
    "layered",
    "speculative",
    "layered-speculative",
    "preprocess",
    "parts",
    "relay",
    "tools",
];

/// What a place of this kind is shown of a request that is so private, by which it is decided about: a relay is shown none of it, whatever passes.
pub fn shown(kind: Kind, request: Label) -> Label {
    match kind {
        Kind::Relay => Label::public(),
        Kind::Own | Kind::Attested | Kind::Provider | Kind::Edge | Kind::Miner | Kind::ToolServer => request,
    }
}

/// What somebody wants to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask<'a> {
    /// How private it is.
    pub label: &'a Label,
    /// Where it would go.
    pub to: &'a Destination,
    /// How the answer would be computed, as `layered`.
    pub mode: &'a str,
    /// What it would cost, in credits.
    pub credits: u64,
}

/// When a rule speaks: every condition that it names must hold; of a list, one entry.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct When {
    /// Tags of the label, a `*` at the end stands for any rest.
    pub labels: Vec<String>,
    /// The label is at least this private.
    pub level: Option<Level>,
    /// The label is at most this private.
    pub level_max: Option<Level>,
    /// Kinds of places.
    pub to: Vec<Kind>,
    /// Names of places.
    pub names: Vec<String>,
    /// Regions. A place whose region nobody says is in none of them.
    pub regions: Vec<String>,
    /// The place is in none of these regions, or nobody says where it is.
    pub outside_regions: Vec<String>,
    /// The place keeps what it sees for more days than this, or nobody says how long.
    pub keeps_longer_than_days: Option<u32>,
    /// Modes.
    pub modes: Vec<String>,
    /// It costs more than so many credits.
    pub credits_over: Option<u64>,
}

impl When {
    fn holds(&self, ask: &Ask) -> bool {
        let one_of =
            |list: &[String], value: &str| list.is_empty() || list.iter().any(|entry| entry == value);
        let outside = |list: &[String]| list.is_empty() || !list.contains(&ask.to.region);
        (self.labels.is_empty() || self.labels.iter().any(|pattern| ask.label.meets(pattern)))
            && self.level.is_none_or(|level| ask.label.level() >= level)
            && self.level_max.is_none_or(|level| ask.label.level() <= level)
            && (self.to.is_empty() || self.to.contains(&ask.to.kind))
            && (one_of(&self.names, &ask.to.name) || one_of(&self.names, &ask.to.id))
            && one_of(&self.regions, &ask.to.region)
            && outside(&self.outside_regions)
            && self
                .keeps_longer_than_days
                .is_none_or(|days| ask.to.retention_days.is_none_or(|kept| kept > days))
            && one_of(&self.modes, ask.mode)
            && self.credits_over.is_none_or(|credits| ask.credits > credits)
    }
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// What a person calls it; receipts name it.
    pub name: String,
    /// When it speaks; always, where it says nothing.
    #[serde(default)]
    pub when: When,
    /// What it says.
    pub then: Verdict,
}

/// Rules that come with the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    /// Nothing leaves.
    #[default]
    LocalOnly,
    /// Machines of the same person may see everything.
    OwnDevices,
    /// Own machines see everything; others see text without what tells of people; secrets stay on own machines.
    RedactThenRemote,
    /// Everything may leave; keys and passwords are replaced.
    Open,
}

impl Preset {
    /// The word by which policies name it.
    pub fn name(self) -> &'static str {
        match self {
            Preset::LocalOnly => "local-only",
            Preset::OwnDevices => "own-devices",
            Preset::RedactThenRemote => "redact-then-remote",
            Preset::Open => "open",
        }
    }

    fn rules(self) -> Vec<Rule> {
        let rule = |name: &str, when: When, then| Rule {
            name: format!("preset: {name}"),
            when,
            then,
        };
        let own = || {
            rule(
                "own machines",
                When {
                    to: vec![Kind::Own],
                    ..When::default()
                },
                Verdict::Allow,
            )
        };
        let away = vec![
            Kind::Attested,
            Kind::Provider,
            Kind::Edge,
            Kind::Miner,
            Kind::ToolServer,
        ];
        let to = |kinds: &[Kind]| When {
            to: kinds.to_vec(),
            ..When::default()
        };
        let relays = || {
            rule(
                "relays, which see nothing of it",
                to(&[Kind::Relay]),
                Verdict::Allow,
            )
        };
        match self {
            Preset::LocalOnly => Vec::new(),
            Preset::OwnDevices => vec![own(), relays()],
            Preset::RedactThenRemote => vec![
                own(),
                relays(),
                rule(
                    "others",
                    When {
                        level_max: Some(Level::Internal),
                        ..to(&away)
                    },
                    Verdict::Allow,
                ),
                rule(
                    "others, without people",
                    When {
                        level: Some(Level::Private),
                        ..to(&away)
                    },
                    Verdict::Redact,
                ),
                rule(
                    "secrets stay",
                    When {
                        level: Some(Level::Secret),
                        ..to(&away)
                    },
                    Verdict::Deny,
                ),
            ],
            Preset::Open => vec![
                rule("everything", When::default(), Verdict::Allow),
                rule(
                    "no keys",
                    When {
                        labels: vec!["pii:SECRET".into()],
                        ..to(&away)
                    },
                    Verdict::Redact,
                ),
            ],
        }
    }
}

/// What a person expects of the policy, for `heph policy test`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Example {
    /// What it shows.
    pub name: String,
    /// Reasons for which what would leave is private, as rules name them; each makes it as private as a request that has it.
    #[serde(default)]
    pub labels: Vec<String>,
    /// How private it is at least; as a request of which nobody said anything, where it is missing.
    #[serde(default)]
    pub level: Option<Level>,
    /// Where it would go.
    pub to: Destination,
    /// How the answer would be computed.
    #[serde(default)]
    pub mode: String,
    /// What it would cost.
    #[serde(default)]
    pub credits: u64,
    /// What the policy must say.
    pub expect: Verdict,
}

/// The file of a person.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// The form of the file: 1.
    pub version: u32,
    /// Rules to begin with.
    #[serde(default)]
    pub preset: Preset,
    /// More rules.
    #[serde(default, rename = "rule")]
    pub rules: Vec<Rule>,
    /// What is expected of them.
    #[serde(default, rename = "example")]
    pub examples: Vec<Example>,
}

/// No policy is longer, in bytes.
pub const BYTES_MAX: usize = 1 << 20;

/// No policy has more rules.
pub const RULES_MAX: usize = 10_000;

/// The form of the file that this program reads.
pub const VERSION: u32 = 1;

/// The schema of the file in JSON, for editors.
pub const SCHEMA: &str = include_str!("../policy.schema.json");

/// Why a file is no policy. Whoever gets this sends nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// It is longer than [`BYTES_MAX`] or has more rules than [`RULES_MAX`].
    #[error("the policy is too long; {BYTES_MAX} bytes and {RULES_MAX} rules are the most")]
    TooLong,
    /// It is no TOML of the right form.
    #[error("the policy cannot be read: {0}")]
    Form(String),
    /// A rule names labels in a way that none has.
    #[error("rule {0:?} has the label {1:?}; a `*` may stand at its end, and stands for any rest")]
    Pattern(String, String),
    /// A rule names a mode that there is not.
    #[error("rule {0:?} has the mode {1:?}; known are {known}", known = MODES.join(", "))]
    Mode(String, String),
    /// It is of another version.
    #[error("the policy is of version {0}, this program reads version {VERSION}")]
    Version(u32),
    /// A rule of an overlay allows something.
    #[error("rule {0:?} of the overlay allows something; an overlay may only deny and redact")]
    Loosens(String),
    /// The signature is missing or of another form.
    #[error(
        "the overlay has no signature that can be read; its first line is `heph-overlay 1 KEY SIGNATURE`"
    )]
    Unsigned,
    /// The key is none of those that are trusted.
    #[error("the overlay is signed by a key that is not trusted here")]
    Untrusted,
    /// The signature does not fit.
    #[error("the overlay was changed after it was signed")]
    Forged,
    /// Its time is over, or not come.
    #[error("the overlay is not valid now; ask whoever signed it for a new one")]
    Expired,
}

/// A condition that nothing meets would be a rule that never speaks, and whoever wrote it would not know.
fn speaks(rules: &[Rule]) -> Result<(), PolicyError> {
    let odd = |pattern: &&String| {
        let front = pattern.strip_suffix('*').unwrap_or(pattern);
        pattern.is_empty() || front.contains('*')
    };
    let unknown = |mode: &&String| !MODES.contains(&mode.as_str());
    for Rule { name, when, .. } in rules {
        if let Some(pattern) = when.labels.iter().find(odd) {
            return Err(PolicyError::Pattern(name.clone(), pattern.clone()));
        }
        if let Some(mode) = when.modes.iter().find(unknown) {
            return Err(PolicyError::Mode(name.clone(), mode.clone()));
        }
    }
    Ok(())
}

fn form<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, PolicyError> {
    if text.len() > BYTES_MAX {
        return Err(PolicyError::TooLong);
    }
    toml::from_str(text).map_err(|error| PolicyError::Form(in_a_sentence(text, &error)))
}

/// Where the text is wrong and why, in one line: the library draws the place over five.
fn in_a_sentence(text: &str, error: &toml::de::Error) -> String {
    let why = error
        .message()
        .lines()
        .map(str::trim)
        .collect::<Vec<_>>()
        .join(" ");
    let before = error.span().and_then(|span| text.get(..span.start));
    match before {
        Some(before) => {
            let line = before.matches('\n').count() + 1;
            let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
            format!("{why}, in line {line}, column {column}")
        }
        None => why,
    }
}

impl Policy {
    /// Nothing leaves.
    pub fn closed() -> Policy {
        Policy {
            version: VERSION,
            ..Policy::default()
        }
    }

    /// A preset and nothing else.
    pub fn of(preset: Preset) -> Policy {
        Policy {
            preset,
            ..Policy::closed()
        }
    }

    /// Reads a policy file.
    pub fn read(text: &str) -> Result<Policy, PolicyError> {
        let policy: Policy = form(text)?;
        if policy.version != VERSION {
            return Err(PolicyError::Version(policy.version));
        }
        if policy.rules.len() + policy.examples.len() > RULES_MAX {
            return Err(PolicyError::TooLong);
        }
        speaks(&policy.rules)?;
        Ok(policy)
    }
}

/// Rules of an organisation. They make a policy stricter and never looser.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Overlay {
    /// The form of the file: 1.
    pub version: u32,
    /// Whose rules they are.
    pub organisation: String,
    /// Valid from here on, in seconds since 1970.
    pub valid_from: u64,
    /// Valid until here, in seconds since 1970.
    pub valid_until: u64,
    /// The rules.
    #[serde(default, rename = "rule")]
    pub rules: Vec<Rule>,
}

/// What is signed begins with this, so that a signature for something else is none for a policy.
const OVERLAY_CONTEXT: &[u8] = b"heph policy overlay v1\n";

impl Overlay {
    /// Reads a signed overlay: a line `heph-overlay 1 KEY SIGNATURE` in hexadecimal, then TOML. `now` is in seconds since 1970.
    pub fn read(text: &str, trusted: &[[u8; 32]], now: u64) -> Result<Overlay, PolicyError> {
        if text.len() > BYTES_MAX {
            return Err(PolicyError::TooLong);
        }
        let (head, body) = text.split_once('\n').ok_or(PolicyError::Unsigned)?;
        let parts: Vec<&str> = head.trim_end().split(' ').collect();
        let ["heph-overlay", "1", key, signature] = parts[..] else {
            return Err(PolicyError::Unsigned);
        };
        let key: [u8; 32] = hex::read(key).map_err(|_| PolicyError::Unsigned)?;
        let signature: [u8; 64] = hex::read(signature).map_err(|_| PolicyError::Unsigned)?;
        if !trusted.contains(&key) {
            return Err(PolicyError::Untrusted);
        }
        let key = VerifyingKey::from_bytes(&key).map_err(|_| PolicyError::Untrusted)?;
        let signed = [OVERLAY_CONTEXT, body.as_bytes()].concat();
        let fits = key.verify_strict(&signed, &Signature::from_bytes(&signature));
        fits.map_err(|_| PolicyError::Forged)?;
        let overlay: Overlay = form(body)?;
        if overlay.version != VERSION {
            return Err(PolicyError::Version(overlay.version));
        }
        if overlay.rules.len() > RULES_MAX {
            return Err(PolicyError::TooLong);
        }
        speaks(&overlay.rules)?;
        if let Some(rule) = overlay.rules.iter().find(|rule| rule.then == Verdict::Allow) {
            return Err(PolicyError::Loosens(rule.name.clone()));
        }
        if !(overlay.valid_from..overlay.valid_until).contains(&now) {
            return Err(PolicyError::Expired);
        }
        Ok(overlay)
    }

    /// What is to be signed of a body.
    pub fn to_sign(body: &str) -> Vec<u8> {
        [OVERLAY_CONTEXT, body.as_bytes()].concat()
    }
}

/// All rules that count for a person: their own policy and the overlays over it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policies {
    policy: Policy,
    overlays: Vec<Overlay>,
    /// More rules, which only make it stricter.
    tighter: Vec<Rule>,
}

/// Whose word a rule is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose<'a> {
    /// One of the rules that come with the program, by this preset.
    Preset(Preset),
    /// One of the person's own.
    Own,
    /// One that this organisation signed.
    Overlay(&'a str),
    /// One that only makes it stricter ([`Policies::tightened`]).
    Tighter,
}

/// What the policy says, and which rules said it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Decision {
    /// What it says.
    pub verdict: Verdict,
    /// Names of the rules that spoke with the strictest voice; none where no rule spoke.
    pub rules: Vec<String>,
}

impl std::fmt::Display for Decision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let verdict = match self.verdict {
            Verdict::Allow => "it may leave",
            Verdict::Redact => "it may leave once people and keys are replaced",
            Verdict::Mask => "it may leave once people and keys are masked",
            Verdict::Deny => "it stays",
        };
        match &self.rules[..] {
            [] => write!(f, "{verdict}: no rule allows it, and what no rule allows stays"),
            rules => write!(f, "{verdict}, by {}", rules.join(", ")),
        }
    }
}

impl Policies {
    /// Nothing leaves.
    pub fn closed() -> Policies {
        Policies::new(Policy::closed(), Vec::new())
    }

    /// A policy with overlays.
    pub fn new(policy: Policy, overlays: Vec<Overlay>) -> Policies {
        Policies {
            policy,
            overlays,
            tighter: Vec::new(),
        }
    }

    /// What was read, or nothing leaves: a file that is there and cannot be read is worse than none. Every decision names
    /// what could not be read.
    pub fn or_closed(
        policy: Result<Policy, PolicyError>,
        overlays: Vec<Result<Overlay, PolicyError>>,
    ) -> Policies {
        match (policy, overlays.into_iter().collect::<Result<Vec<_>, _>>()) {
            (Ok(policy), Ok(overlays)) => Policies::new(policy, overlays),
            (Err(error), _) | (_, Err(error)) => Policies::unread(error.to_string().trim_end()),
        }
    }

    /// Nothing leaves, because of `why`, which every decision names.
    pub fn unread(why: &str) -> Policies {
        let deny = Rule {
            name: why.to_owned(),
            when: When::default(),
            then: Verdict::Deny,
        };
        Policies {
            policy: Policy {
                rules: vec![deny],
                ..Policy::closed()
            },
            ..Policies::closed()
        }
    }

    /// The same with more rules, which only make it stricter: those that allow are left out.
    #[must_use]
    pub fn tightened(mut self, rules: impl IntoIterator<Item = Rule>) -> Policies {
        let stricter = rules.into_iter().filter(|rule| rule.then > Verdict::Allow);
        self.tighter.extend(stricter);
        self
    }

    /// What the rules say of `ask`: the strictest that speaks, and deny where none does.
    pub fn decide(&self, ask: &Ask) -> Decision {
        let preset = self.policy.preset.rules();
        let own = preset.iter().chain(&self.policy.rules);
        let mut spoken: Vec<&Rule> = own.filter(|rule| rule.when.holds(ask)).collect();
        if spoken.is_empty() {
            return Decision {
                verdict: Verdict::Deny,
                rules: Vec::new(),
            };
        }
        let over = self.overlays.iter().flat_map(|o| &o.rules).chain(&self.tighter);
        spoken.extend(over.filter(|rule| rule.when.holds(ask)));
        let verdict = spoken.iter().map(|rule| rule.then).max().unwrap_or(Verdict::Deny);
        let rules = spoken
            .iter()
            .filter(|rule| rule.then == verdict)
            .map(|rule| rule.name.clone())
            .collect();
        Decision { verdict, rules }
    }

    /// Whose the rule is that a decision with this verdict names so; `None` where none of these is. Of several of that name the first.
    pub fn whose(&self, name: &str, verdict: Verdict) -> Option<Whose<'_>> {
        let holds = |rules: &[Rule]| rules.iter().any(|rule| rule.name == name && rule.then == verdict);
        let preset = holds(&self.policy.preset.rules()).then_some(Whose::Preset(self.policy.preset));
        let own = || holds(&self.policy.rules).then_some(Whose::Own);
        let signed = || {
            let mut overlays = self.overlays.iter();
            let overlay = overlays.find(|overlay| holds(&overlay.rules))?;
            Some(Whose::Overlay(&overlay.organisation))
        };
        let tighter = || holds(&self.tighter).then_some(Whose::Tighter);
        preset.or_else(own).or_else(signed).or_else(tighter)
    }

    /// Whether any rule looks at labels. Where none does, it makes no difference what is found in a text.
    pub fn minds_labels(&self) -> bool {
        self.any(|when| !when.labels.is_empty() || when.level.is_some() || when.level_max.is_some())
    }

    /// Whether any rule names a reason that this label has.
    pub fn names(&self, label: &Label) -> bool {
        self.any(|when| when.labels.iter().any(|pattern| label.meets(pattern)))
    }

    fn any(&self, minds: impl Fn(&When) -> bool) -> bool {
        let preset = self.policy.preset.rules();
        let own = preset.iter().chain(&self.policy.rules).chain(&self.tighter);
        let signed = self.overlays.iter().flat_map(|overlay| &overlay.rules);
        own.chain(signed).any(|rule| minds(&rule.when))
    }

    /// What the policy says of each of its examples.
    pub fn examples(&self) -> impl Iterator<Item = (&Example, Decision)> {
        self.policy.examples.iter().map(|example| {
            let label = shown(example.to.kind, Label::of_reasons(example.level, &example.labels));
            let ask = Ask {
                label: &label,
                to: &example.to,
                mode: &example.mode,
                credits: example.credits,
            };
            (example, self.decide(&ask))
        })
    }
}
