//! The arguments that say where an answer may be computed.

use heph_net::trust::TrustBook;
use heph_plan::{DirectForwarding, Mode};
use heph_runtime::settings::{self, Allowance, Settings};
use heph_types::Policy;

use crate::failure::Failure;

/// Where an answer may be computed. None of this changes a bit of it, but for rows that may be rounded.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Where it runs")]
pub(crate) struct PlaceArguments {
    /// auto, local, remote, layered, speculative, layered-speculative or preprocess
    #[arg(long, default_value = "auto", value_parser = mode)]
    pub(crate) mode: Asked,
    /// What machines of a role may see: ROLE=nothing, ROLE=activations or ROLE=text. Roles are own, cloud, miner, edge
    #[arg(long, value_name = "ROLE=WHAT")]
    pub(crate) allow: Vec<Allowance>,
    /// The first so many layers stay on this machine
    #[arg(long, default_value_t = 0, value_name = "LAYERS")]
    pub(crate) keep_first: u16,
    /// The last so many layers stay on this machine
    #[arg(long, default_value_t = 0, value_name = "LAYERS")]
    pub(crate) keep_last: u16,
    /// exact, or certified: rows between machines may be rounded where heph certify found that it changes no token
    #[arg(long, default_value = "exact", value_name = "HOW", value_parser = rows)]
    pub(crate) rows: Rows,
    /// exact, or any: machines whose bits are not those of this one may answer too, as engines behind `heph node --backend`
    #[arg(long, default_value = "exact", value_name = "CLASS", value_parser = class)]
    pub(crate) exactness: Class,
    /// desk, or direct: rows go from machine to machine and not through this one, where both are yours
    #[arg(long, default_value = "desk", value_name = "HOW", value_parser = forward)]
    pub(crate) forward: DirectForwarding,
    /// The small model that guesses ahead, or none [default: heph-story-draft where the words are the same]
    #[arg(long, value_name = "MODEL")]
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

fn mode(text: &str) -> Result<Asked, String> {
    match text {
        "auto" => Ok(Asked::Auto),
        _ => text
            .parse()
            .map(Asked::Mode)
            .map_err(|e: heph_plan::UnknownMode| e.to_string()),
    }
}

impl PlaceArguments {
    /// As where nothing was said.
    pub(crate) fn usual() -> Self {
        Self {
            mode: Asked::Auto,
            allow: Vec::new(),
            keep_first: 0,
            keep_last: 0,
            rows: Rows::Exact,
            exactness: Class::Exact,
            forward: DirectForwarding::Never,
            draft: None,
        }
    }

    /// Whether there is nothing to plan: everything is to run here, or nobody else is known.
    pub(super) fn is_plain(&self, settings: &Settings) -> Result<bool, Failure> {
        Ok(match self.mode {
            Asked::Mode(Mode::Local) => true,
            Asked::Mode(_) => false,
            Asked::Auto => TrustBook::open(&settings.home)?.peers().is_empty(),
        })
    }

    /// What may leave: the hard constraint.
    pub(super) fn policy(&self, settings: &Settings) -> Policy {
        Policy {
            layers_local_first: self.keep_first,
            layers_local_last: self.keep_last,
            exact_only: self.exactness == Class::Exact,
            ..settings::policy(settings.allow.iter().chain(&self.allow).copied())
        }
    }
}
