//! By what something may leave, in words that one process tells another: whoever hears them decides anew.

use serde::{Deserialize, Serialize};

use crate::clear::Clearance;
use crate::label::Label;
use crate::pseudonym::Replacing;

/// By what something may leave. It is a claim and opens nothing by itself: the guard of connections asks the policy about it once more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grounds {
    /// How private it is.
    pub label: Label,
    /// How the answer is to be computed.
    pub mode: String,
    /// What it may cost, in credits.
    pub credits: u64,
    /// By what people and keys were replaced, all that were found; `None` where nobody looked for them.
    pub replaced: Option<Replacing>,
    /// The rules that allowed it where it was cleared.
    pub rules: Vec<String>,
}

impl From<&Clearance> for Grounds {
    fn from(clearance: &Clearance) -> Self {
        Self {
            label: clearance.label().clone(),
            mode: clearance.mode().to_owned(),
            credits: clearance.credits(),
            replaced: clearance.replaced_by(),
            rules: clearance.decision().rules.clone(),
        }
    }
}
