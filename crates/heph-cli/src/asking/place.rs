//! The arguments that say where an answer may be computed.

use heph_net::trust::TrustBook;
use heph_plan::{DirectForwarding, Mode};
use heph_privacy::label::{Label, Level};
use heph_runtime::discretion::unsaid;
use heph_runtime::pool::Waits;
use heph_runtime::rules::Rules;
use heph_runtime::settings::{Allowance, Settings};
use heph_types::Policy;

use crate::complete::{self, Named};
use crate::failure::{Exit, Failure};
use crate::terminal;

/// Where an answer may be computed. None of this changes a bit of it, but for rows that may be rounded.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Where it runs")]
pub(crate) struct PlaceArguments {
    /// auto, local, remote, layered, speculative, layered-speculative or preprocess
    #[arg(long, default_value = "auto", value_parser = modes(), hide_possible_values = true)]
    pub(crate) mode: Asked,
    /// What machines of a role may see: ROLE=nothing, ROLE=activations or ROLE=text. Roles are own, cloud, miner, edge.
    /// A policy in policy.toml is only tightened by it
    #[arg(long, value_name = "ROLE=WHAT")]
    pub(crate) allow: Vec<Allowance>,
    /// How private this is: public, internal, private, secret, or a word of your own that rules of the policy know
    #[arg(long = "label", value_name = "WORD")]
    pub(crate) labels: Vec<String>,
    /// The first so many layers stay on this machine
    #[arg(long, default_value_t = 0, value_name = "LAYERS")]
    pub(crate) keep_first: u16,
    /// The last so many layers stay on this machine
    #[arg(long, default_value_t = 0, value_name = "LAYERS")]
    pub(crate) keep_last: u16,
    /// exact, or certified: rows between machines may be rounded where heph certify found that it changes no token
    #[arg(long, default_value = "exact", value_name = "HOW", value_parser = Named::new(["exact", "certified"], rows), hide_possible_values = true)]
    pub(crate) rows: Rows,
    /// exact, or any: machines whose bits are not those of this one may answer too, as engines behind `heph node --backend`
    #[arg(long, default_value = "exact", value_name = "CLASS", value_parser = Named::new(["exact", "any"], class), hide_possible_values = true)]
    pub(crate) exactness: Class,
    /// desk, or direct: rows go from machine to machine and not through this one, where both are yours
    #[arg(long, default_value = "desk", value_name = "HOW", value_parser = Named::new(["desk", "direct"], forward), hide_possible_values = true)]
    pub(crate) forward: DirectForwarding,
    /// Credits that an answer may cost at most, by the prices that machines announce [default: whatever they ask]
    #[arg(long, value_name = "CREDITS", value_parser = credits, allow_negative_numbers = true)]
    pub(crate) max_price: Option<f64>,
    /// The small model that guesses ahead, or none [default: heph-story-draft where the words are the same]
    #[arg(long, value_name = "MODEL", add = complete::model())]
    pub(crate) draft: Option<String>,
}

/// How hidden states may be written on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rows {
    /// With every bit.
    Exact,
    /// Rounded, too, where the model is certified for it; the answer is then of the class `close`.
    Certified,
}

/// What the bits of an answer must be worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// Those of this machine.
    Exact,
    /// Whatever they are; the answer's class says so.
    Any,
}

fn class(text: &str) -> Result<Class, String> {
    match text {
        "exact" => Ok(Class::Exact),
        "any" => Ok(Class::Any),
        _ => Err("an answer's bits are exact or any".to_owned()),
    }
}

/// A mode, or whichever is best.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    Auto,
    Mode(Mode),
}

impl Asked {
    pub(crate) fn by_name(self) -> Option<Mode> {
        match self {
            Self::Auto => None,
            Self::Mode(mode) => Some(mode),
        }
    }
}

fn rows(text: &str) -> Result<Rows, String> {
    match text {
        "exact" => Ok(Rows::Exact),
        "certified" => Ok(Rows::Certified),
        _ => Err("rows travel exact or certified".to_owned()),
    }
}

fn forward(text: &str) -> Result<DirectForwarding, String> {
    match text {
        "desk" => Ok(DirectForwarding::Never),
        "direct" => Ok(DirectForwarding::Allowed),
        _ => Err("rows go through the desk or direct".to_owned()),
    }
}

fn credits(text: &str) -> Result<f64, String> {
    let credits = text.parse().ok();
    let credits = credits.filter(|credits: &f64| *credits >= 0.0 && credits.is_finite());
    credits.ok_or_else(|| "a number of credits from 0 on is needed".to_owned())
}

fn modes() -> Named<Asked> {
    let names = Mode::ALL.map(Mode::name);
    Named::new(["auto"].into_iter().chain(names), mode)
}

fn mode(text: &str) -> Result<Asked, String> {
    match text {
        "auto" => Ok(Asked::Auto),
        _ => text
            .parse()
            .map(Asked::Mode)
            .map_err(|e: heph_plan::UnknownMode| format!("{e}; auto leaves the choice to the planner")),
    }
}

impl PlaceArguments {
    /// As where nothing was said.
    pub(crate) fn usual() -> Self {
        Self {
            mode: Asked::Auto,
            allow: Vec::new(),
            labels: Vec::new(),
            keep_first: 0,
            keep_last: 0,
            rows: Rows::Exact,
            exactness: Class::Exact,
            forward: DirectForwarding::Never,
            max_price: None,
            draft: None,
        }
    }

    /// Whether the mode can do what the other arguments ask for.
    pub(super) fn check(&self) -> Result<(), Failure> {
        let guesses = !matches!(
            self.mode.by_name(),
            Some(Mode::Local | Mode::Remote | Mode::Layered)
        );
        match self.drafter() {
            Some(name) if !guesses => {
                let sentence = format!("--draft {name}: nothing is guessed ahead in this mode");
                Err(Failure::new(Exit::Usage, sentence)
                    .hint("--mode auto, speculative and layered-speculative guess ahead"))
            }
            _ => Ok(()),
        }
    }

    /// Whether the model has the layers that are to stay here.
    pub(super) fn check_layers(&self, layers: usize) -> Result<(), Failure> {
        for (option, count) in [("--keep-first", self.keep_first), ("--keep-last", self.keep_last)] {
            if usize::from(count) > layers {
                let sentence = format!("{option} {count}: the model has {layers} layers");
                return Err(Failure::new(Exit::Usage, sentence).hint(format!(
                    "{option} {layers} keeps all of them here, as --mode local does"
                )));
            }
        }
        Ok(())
    }

    /// The small model that was asked for by name.
    pub(crate) fn drafter(&self) -> Option<&str> {
        self.draft.as_deref().filter(|name| *name != "none")
    }

    /// Whether there is nothing to plan: everything is to run here, or nobody else is known and no guessing was asked for.
    pub(super) fn is_plain(&self, settings: &Settings) -> Result<bool, Failure> {
        Ok(match self.mode {
            Asked::Mode(Mode::Local) => true,
            Asked::Mode(_) => false,
            Asked::Auto if self.drafter().is_some() => false,
            Asked::Auto => TrustBook::open(&settings.home)?.peers().is_empty(),
        })
    }

    /// Whether no other machine is asked, whatever is planned: the mode keeps everything here, or nobody else is known.
    pub(crate) fn stays_here(&self, settings: &Settings) -> Result<bool, Failure> {
        let here = self.mode == Asked::Mode(Mode::Local);
        Ok(here || TrustBook::open(&settings.home)?.peers().is_empty())
    }

    /// How long other machines are waited for: to the end where one of them is asked for.
    pub(crate) fn waits(&self) -> Waits {
        match self.mode {
            Asked::Auto => Waits::AsWorth,
            Asked::Mode(_) => Waits::ToTheEnd,
        }
    }

    /// What stays here whatever may leave, and what the bits must be worth.
    pub(super) fn stays(&self) -> Policy {
        Policy {
            layers_local_first: self.keep_first,
            layers_local_last: self.keep_last,
            exact_only: self.exactness == Class::Exact,
            ..Policy::closed()
        }
    }

    /// Says so where a word of the person is no level and no rule knows it: it may be mistyped.
    pub(super) fn note_unknown_labels(&self, rules: &Rules) {
        let levels = [Level::Public, Level::Internal, Level::Private, Level::Secret].map(Level::name);
        let policies = rules.now(&[]);
        let own = self.labels.iter().filter(|word| !levels.contains(&word.as_str()));
        for word in own.filter(|word| !policies.names(&Label::mark(word))) {
            terminal::note(&format!(
                "no rule knows the label {word:?}, so it makes the request private and nothing more"
            ));
        }
    }

    /// How private it is, by what the person says.
    pub(crate) fn label(&self) -> Label {
        let marks = self.labels.iter().map(|word| Label::mark(word));
        marks.reduce(|all, one| all.join(&one)).unwrap_or_else(unsaid)
    }
}
