//! The only door through which something becomes fit to leave.

use crate::label::{Label, Labelled};
use crate::pii::{self, names::Model};
use crate::policy::{Ask, Decision, Destination, Policies, Verdict};
use crate::pseudonym::{PseudonymError, Pseudonyms};

/// Something that may leave, to one destination, by one decision. Nothing else can make it:
///
/// ```compile_fail
/// let forged = heph_privacy::Cleared { value: "a secret", decision: todo!(), to: todo!() };
/// ```
///
/// and it is not for copying to other destinations:
///
/// ```compile_fail
/// fn twice(cleared: heph_privacy::Cleared<String>) -> (heph_privacy::Cleared<String>, heph_privacy::Cleared<String>) {
///     (cleared.clone(), cleared)
/// }
/// ```
#[derive(Debug, PartialEq, Eq)]
pub struct Cleared<T> {
    value: T,
    label: Label,
    decision: Decision,
    to: Destination,
    replaced: usize,
}

impl<T> Cleared<T> {
    /// What leaves.
    pub fn value(&self) -> &T {
        &self.value
    }

    /// What leaves, for the one who sends it.
    pub fn into_value(self) -> T {
        self.value
    }

    /// How private it was before anything was replaced.
    pub fn label(&self) -> &Label {
        &self.label
    }

    /// Why it may.
    pub fn decision(&self) -> &Decision {
        &self.decision
    }

    /// Where it may go, and nowhere else.
    pub fn to(&self) -> &Destination {
        &self.to
    }

    /// How many things were replaced.
    pub fn replaced(&self) -> usize {
        self.replaced
    }
}

/// Why something stays.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Stays {
    /// The policy says so.
    #[error("this stays on this machine: {0}")]
    Denied(Decision),
    /// It may leave only with people replaced, and this is nothing that words can be replaced in.
    #[error("this stays on this machine: it would have to be redacted, and it is no text")]
    NoText,
    /// It may leave only with people replaced, and they cannot be.
    #[error("this stays on this machine: {0}")]
    NoPseudonym(#[from] PseudonymError),
}

/// What is asked beside the value itself.
#[derive(Debug, Clone, Copy)]
pub struct Purpose<'a> {
    /// Where it would go.
    pub to: &'a Destination,
    /// How the answer would be computed.
    pub mode: &'a str,
    /// What it would cost, in credits.
    pub credits: u64,
}

impl Purpose<'_> {
    fn decide(&self, policies: &Policies, label: &Label) -> Decision {
        policies.decide(&Ask {
            label,
            to: self.to,
            mode: self.mode,
            credits: self.credits,
        })
    }
}

/// Clears anything that is no text, as embeddings or hidden states: whole or not at all.
pub fn clear<T>(value: Labelled<T>, purpose: Purpose, policies: &Policies) -> Result<Cleared<T>, Stays> {
    let decision = purpose.decide(policies, value.label());
    match decision.verdict {
        Verdict::Deny => Err(Stays::Denied(decision)),
        Verdict::Redact => Err(Stays::NoText),
        Verdict::Allow => {
            let (value, label) = value.into_parts();
            Ok(Cleared {
                value,
                label,
                decision,
                to: purpose.to.clone(),
                replaced: 0,
            })
        }
    }
}

/// Clears a text. What patterns and the model find in it raises its label first; where the policy asks for it, each find is
/// replaced by a pseudonym of the session.
pub fn clear_text(
    text: Labelled<String>,
    purpose: Purpose,
    policies: &Policies,
    model: &Model,
    session: &mut Pseudonyms,
) -> Result<Cleared<String>, Stays> {
    let spans = pii::scan(text.peek(), model);
    let text = text.raised(&Label::of_spans(&spans));
    let decision = purpose.decide(policies, text.label());
    let (value, label) = text.into_parts();
    match decision.verdict {
        Verdict::Deny => Err(Stays::Denied(decision)),
        Verdict::Allow => Ok(Cleared {
            value,
            label,
            decision,
            to: purpose.to.clone(),
            replaced: 0,
        }),
        Verdict::Redact => {
            let value = session.replace(&value, &spans)?;
            Ok(Cleared {
                value,
                label,
                decision,
                to: purpose.to.clone(),
                replaced: spans.len(),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::label::Level;
    use crate::policy::{Kind, Policy, Preset};

    fn place(kind: Kind) -> Destination {
        Destination {
            kind,
            name: String::new(),
            region: String::new(),
            retention_days: None,
        }
    }

    fn cleared(preset: Preset, kind: Kind, text: &str, label: Label) -> Result<Cleared<String>, Stays> {
        let to = place(kind);
        let purpose = Purpose {
            to: &to,
            mode: "cloud",
            credits: 0,
        };
        let policies = Policies::new(Policy::of(preset), Vec::new());
        let mut session = Pseudonyms::new([7; 32]);
        clear_text(
            Labelled::new(text.to_owned(), label),
            purpose,
            &policies,
            Model::bundled(),
            &mut session,
        )
    }

    #[test]
    fn what_leaves_for_strangers_has_no_people_in_it() {
        let text = "Write to ann.lee@example.org, card 4111 1111 1111 1111.";
        let sent = cleared(Preset::RedactThenRemote, Kind::Provider, text, Label::public()).unwrap();
        assert!(
            !sent.value().contains("ann.lee") && !sent.value().contains("1111 1111") && sent.replaced() == 2
        );
        let own = cleared(Preset::RedactThenRemote, Kind::Own, text, Label::public()).unwrap();
        assert_eq!(own.value(), text);
        let home = cleared(Preset::LocalOnly, Kind::Own, text, Label::public());
        assert!(matches!(home, Err(Stays::Denied(_))));
    }

    #[test]
    fn a_key_raises_a_public_text_so_that_it_stays() {
        let text = "deploy with password: tr0mb0ne!X please";
        assert!(cleared(Preset::RedactThenRemote, Kind::Provider, text, Label::public()).is_err());
    }

    #[test]
    fn what_is_no_text_leaves_whole_or_not_at_all() {
        let to = place(Kind::Miner);
        let purpose = Purpose {
            to: &to,
            mode: "layered",
            credits: 0,
        };
        let policies = Policies::new(Policy::of(Preset::RedactThenRemote), Vec::new());
        let hidden = |level| Labelled::new(vec![0.5_f32], Label::new(level, "user:x"));
        assert!(clear(hidden(Level::Internal), purpose, &policies).is_ok());
        assert_eq!(
            clear(hidden(Level::Private), purpose, &policies),
            Err(Stays::NoText)
        );
        assert!(matches!(
            clear(hidden(Level::Secret), purpose, &policies),
            Err(Stays::Denied(_))
        ));
    }
}
