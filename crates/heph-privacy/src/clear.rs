//! The only door through which something becomes fit to leave.

use std::sync::Arc;

use crate::label::{Label, Labelled};
use crate::pii::{self, names::Model};
use crate::policy::{Ask, Decision, Destination, Policies, Verdict};
use crate::pseudonym::{PseudonymError, Pseudonyms, Replacing};

/// Something that may leave, to one destination, by one decision. Nothing else can make it:
///
/// ```compile_fail
/// let forged = heph_privacy::Cleared { value: "a secret", grounds: todo!() };
/// ```
///
/// and it is not for copying to other destinations:
///
/// ```compile_fail
/// fn twice(cleared: heph_privacy::Cleared<String>) -> (heph_privacy::Cleared<String>, heph_privacy::Cleared<String>) {
///     (cleared.clone(), cleared)
/// }
/// ```
#[derive(PartialEq, Eq)]
pub struct Cleared<T> {
    value: T,
    grounds: Arc<Basis>,
}

/// Printing it for a log shows where it may go, and nothing of what it is.
impl<T> std::fmt::Debug for Cleared<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let to = &self.grounds.to;
        write!(f, "Cleared(for {:?} {:?})", to.kind, to.name)
    }
}

/// On what grounds something may leave.
#[derive(Debug, PartialEq, Eq)]
struct Basis {
    label: Label,
    decision: Decision,
    to: Destination,
    mode: String,
    credits: u64,
    replaced: usize,
    replaced_by: Option<Replacing>,
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

    /// The leave by which it may.
    pub fn clearance(&self) -> Clearance {
        Clearance(Arc::clone(&self.grounds))
    }

    /// Another form of the same, as the frame that carries it: to the same destination, by the same decision.
    pub fn map<U>(self, make: impl FnOnce(T) -> U) -> Cleared<U> {
        Cleared {
            value: make(self.value),
            grounds: self.grounds,
        }
    }

    /// How private it was before anything was replaced.
    pub fn label(&self) -> &Label {
        &self.grounds.label
    }

    /// Why it may.
    pub fn decision(&self) -> &Decision {
        &self.grounds.decision
    }

    /// Where it may go, and nowhere else.
    pub fn to(&self) -> &Destination {
        &self.grounds.to
    }

    /// How many things were replaced.
    pub fn replaced(&self) -> usize {
        self.grounds.replaced
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
    /// It may leave only with people masked, and this is nothing that words can be masked in.
    #[error("this stays on this machine: it would have to be masked, and it is no text")]
    Unmasked,
    /// It may leave only with people replaced, and they cannot be.
    #[error("this stays on this machine: {0}")]
    NoPseudonym(#[from] PseudonymError),
    /// It is more private than what the decision was about.
    #[error("this stays on this machine: it is more private than what was decided about")]
    MorePrivate,
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

/// The leave of one request to one destination, for the many small things that it sends there: tokens, rows, caches. The
/// policy gives it once for the label of the whole request. Nothing else makes one:
///
/// ```compile_fail
/// let forged = heph_privacy::Clearance(todo!());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clearance(Arc<Basis>);

impl Clearance {
    /// Leave for what is as private as `label` says: whole, or not at all.
    ///
    /// # Errors
    /// When the policy denies it, or would have it redacted.
    pub fn of(label: &Label, purpose: Purpose, policies: &Policies) -> Result<Clearance, Stays> {
        let decision = purpose.decide(policies, label);
        match decision.verdict {
            Verdict::Allow => Ok(Clearance::by(label, decision, purpose, (0, None))),
            Verdict::Redact => Err(Stays::NoText),
            Verdict::Mask => Err(Stays::Unmasked),
            Verdict::Deny => Err(Stays::Denied(decision)),
        }
    }

    /// Leave for what is made of texts whose people and doors were replaced.
    ///
    /// # Errors
    /// When the policy denies it all the same.
    pub fn of_replaced(
        replaced: &Replaced,
        purpose: Purpose,
        policies: &Policies,
    ) -> Result<Clearance, Stays> {
        let decision = purpose.decide(policies, &replaced.label);
        match decision.verdict {
            Verdict::Mask if replaced.by == Replacing::Pseudonyms => Err(Stays::Unmasked),
            Verdict::Allow | Verdict::Redact | Verdict::Mask => {
                let replaced_by = Some(replaced.by);
                Ok(Clearance::by(
                    &replaced.label,
                    decision,
                    purpose,
                    (replaced.count, replaced_by),
                ))
            }
            Verdict::Deny => Err(Stays::Denied(decision)),
        }
    }

    fn by(
        label: &Label,
        decision: Decision,
        purpose: Purpose,
        (replaced, replaced_by): (usize, Option<Replacing>),
    ) -> Clearance {
        Clearance(Arc::new(Basis {
            label: label.clone(),
            decision,
            to: purpose.to.clone(),
            mode: purpose.mode.to_owned(),
            credits: purpose.credits,
            replaced,
            replaced_by,
        }))
    }

    /// Clears something that is part of the request.
    ///
    /// # Errors
    /// When it is more private than the request.
    pub fn clear<T>(&self, value: Labelled<T>) -> Result<Cleared<T>, Stays> {
        if !self.0.label.covers(value.label()) {
            return Err(Stays::MorePrivate);
        }
        let (value, _) = value.into_parts();
        Ok(Cleared {
            value,
            grounds: Arc::clone(&self.0),
        })
    }

    /// Clears something that was made of the request alone, and so is as private as it: its tokens, rows of it.
    pub fn clear_part<T>(&self, value: T) -> Cleared<T> {
        Cleared {
            value,
            grounds: Arc::clone(&self.0),
        }
    }

    /// How private the request is.
    pub fn label(&self) -> &Label {
        &self.0.label
    }

    /// Why it may leave.
    pub fn decision(&self) -> &Decision {
        &self.0.decision
    }

    /// Where to, and nowhere else.
    pub fn to(&self) -> &Destination {
        &self.0.to
    }

    /// How the answer is to be computed.
    pub fn mode(&self) -> &str {
        &self.0.mode
    }

    /// What it may cost, in credits.
    pub fn credits(&self) -> u64 {
        self.0.credits
    }

    /// How many things were replaced.
    pub fn replaced(&self) -> usize {
        self.0.replaced
    }

    /// By what things were replaced, where that was looked for.
    pub fn replaced_by(&self) -> Option<Replacing> {
        self.0.replaced_by
    }
}

/// Says that in texts of this label every find was replaced. Nothing but [`replace`] makes one:
///
/// ```compile_fail
/// let forged = heph_privacy::Replaced { label: heph_privacy::label::Label::public(), count: 0, by: todo!() };
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replaced {
    label: Label,
    count: usize,
    by: Replacing,
}

impl Replaced {
    /// How private the texts were.
    pub fn label(&self) -> &Label {
        &self.label
    }

    /// How many things were replaced.
    pub fn count(&self) -> usize {
        self.count
    }
}

/// How private texts are that came with `label`: as that says, and as what is found in them says.
pub fn label_of<'a>(texts: impl IntoIterator<Item = &'a str>, label: &Label, model: &Model) -> Label {
    texts.into_iter().fold(label.clone(), |label, text| {
        label.join(&Label::of_spans(&pii::scan(text, model)))
    })
}

/// Replaces what is found in each of `texts`, in place. The label is that of all of them together, as it was before.
///
/// # Errors
/// When the way back would not give a text as it was. Then the texts are of no use: some may have been replaced.
pub fn replace<'a>(
    texts: impl IntoIterator<Item = &'a mut String>,
    label: &Label,
    model: &Model,
    session: &mut Pseudonyms,
) -> Result<Replaced, Stays> {
    let mut replaced = Replaced {
        label: label.clone(),
        count: 0,
        by: session.replacing(),
    };
    for text in texts {
        let spans = pii::scan(text, model);
        replaced.label = replaced.label.join(&Label::of_spans(&spans));
        *text = session.replace(text, &spans)?;
        replaced.count += spans.len();
    }
    Ok(replaced)
}

/// Clears anything that is no text, as embeddings or hidden states: whole or not at all.
pub fn clear<T>(value: Labelled<T>, purpose: Purpose, policies: &Policies) -> Result<Cleared<T>, Stays> {
    Clearance::of(value.label(), purpose, policies)?.clear(value)
}

/// Clears a text. What patterns and the model find in it raises its label first; where the policy asks for it, each find is
/// replaced as the session does.
pub fn clear_text(
    text: Labelled<String>,
    purpose: Purpose,
    policies: &Policies,
    model: &Model,
    session: &mut Pseudonyms,
) -> Result<Cleared<String>, Stays> {
    let label = label_of([text.peek().as_str()], text.label(), model);
    match Clearance::of(&label, purpose, policies) {
        Err(Stays::NoText | Stays::Unmasked) => {}
        pass => return Ok(pass?.clear_part(text.into_parts().0)),
    }
    let (mut value, label) = text.into_parts();
    let replaced = replace([&mut value], &label, model, session)?;
    Ok(Clearance::of_replaced(&replaced, purpose, policies)?.clear_part(value))
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
            id: String::new(),
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
    fn what_is_to_be_masked_leaves_neither_as_it_is_nor_with_pseudonyms() {
        let rules = "version = 1\npreset = \"open\"\n[[rule]]\nname = \"masked\"\nthen = \"mask\"\n\
            [[rule]]\nname = \"redacted\"\nthen = \"redact\"\n";
        let policies = Policies::new(Policy::read(rules).unwrap(), Vec::new());
        let to = place(Kind::Provider);
        let purpose = Purpose {
            to: &to,
            mode: "remote",
            credits: 0,
        };
        let sent = |mut session: Pseudonyms| {
            let text = Labelled::new("Write to ann.lee@example.org.".to_owned(), Label::public());
            clear_text(text, purpose, &policies, Model::bundled(), &mut session)
        };
        assert_eq!(sent(Pseudonyms::new([7; 32])), Err(Stays::Unmasked));
        let masked = sent(Pseudonyms::masks()).unwrap();
        assert_eq!(masked.value(), "Write to [EMAIL 1].");
        assert_eq!(masked.decision().rules, ["masked"], "the stricter of both speaks");
        let hidden = Labelled::new(vec![0.5_f32], Label::public());
        assert_eq!(clear(hidden, purpose, &policies), Err(Stays::Unmasked));
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

    #[test]
    fn a_clearance_covers_what_it_was_given_for_and_nothing_more_private() {
        let to = place(Kind::Miner);
        let purpose = Purpose {
            to: &to,
            mode: "layered",
            credits: 0,
        };
        let policies = Policies::new(Policy::of(Preset::RedactThenRemote), Vec::new());
        let clearance =
            Clearance::of(&Label::new(Level::Internal, "source:prompt"), purpose, &policies).unwrap();
        assert!(clearance.clear(Labelled::new(1, Label::public())).is_ok());
        let private = Labelled::new(1, Label::new(Level::Private, "folder:x"));
        assert_eq!(clearance.clear(private), Err(Stays::MorePrivate));
    }

    #[test]
    fn replacing_opens_no_door_that_is_shut() {
        let to = place(Kind::Provider);
        let purpose = Purpose {
            to: &to,
            mode: "remote",
            credits: 0,
        };
        let mut session = Pseudonyms::new([7; 32]);
        let mut texts = [
            "Ann Lee, ann.lee@example.org".to_owned(),
            "ann.lee@example.org".to_owned(),
        ];
        let label = Label::new(Level::Private, "user:private");
        let replaced = replace(&mut texts, &label, Model::bundled(), &mut session).unwrap();
        assert!(replaced.count() >= 2 && replaced.label().meets("pii:EMAIL"));
        // The same thing has the same pseudonym in all texts.
        assert!(texts[0].ends_with(&texts[1]) && !texts[1].contains("ann.lee"));
        let may = |preset| {
            Clearance::of_replaced(&replaced, purpose, &Policies::new(Policy::of(preset), Vec::new()))
        };
        assert_eq!(
            may(Preset::RedactThenRemote).unwrap().replaced(),
            replaced.count()
        );
        assert!(matches!(may(Preset::OwnDevices), Err(Stays::Denied(_))));
        let mut keys = ["password: tr0mb0ne!X".to_owned()];
        let replaced = replace(&mut keys, &label, Model::bundled(), &mut session).unwrap();
        let secret = Clearance::of_replaced(
            &replaced,
            purpose,
            &Policies::new(Policy::of(Preset::RedactThenRemote), Vec::new()),
        );
        assert!(
            matches!(secret, Err(Stays::Denied(_))),
            "keys stay, replaced or not"
        );
    }
}
