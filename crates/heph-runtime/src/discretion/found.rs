//! What was found in texts that were looked through before: a chat shows its earlier messages again with each new one, and an
//! answer's end its whole request. Lives as long as the process, in memory alone, and holds no text.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use heph_privacy::label::Label;
use heph_privacy::pii::{self, names::Model};

/// Texts of one half of what is remembered, some hundred bytes each: when it is full, the older half is forgotten.
const HALF_MAX: usize = 2048;

/// Shorter texts are looked through as fast as they are looked up.
const WORTH_BYTES: usize = 64;

/// What is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Look {
    /// What patterns find.
    Patterns,
    /// Names of people, places and organisations, too.
    Names,
}

/// A text as it is known again.
type Mark = ([u8; 32], Look);

/// Labels by the texts that they were found in.
#[derive(Debug, Default)]
pub(crate) struct Found(Mutex<Halves>);

#[derive(Debug, Default)]
struct Halves {
    newer: HashMap<Mark, Label>,
    older: HashMap<Mark, Label>,
}

impl Found {
    /// How private `text` is by what is found in it.
    pub(crate) fn label(&self, text: &str, look: Look) -> Label {
        self.label_by(text, look, found)
    }

    fn label_by(&self, text: &str, look: Look, find: impl FnOnce(&str, Look) -> Label) -> Label {
        if text.len() < WORTH_BYTES {
            return find(text, look);
        }
        let mark = (*blake3::hash(text.as_bytes()).as_bytes(), look);
        let known = self.with(|halves| halves.find(&mark));
        known.unwrap_or_else(|| {
            let label = find(text, look);
            self.with(|halves| halves.keep(mark, label.clone()));
            label
        })
    }

    fn with<T>(&self, work: impl FnOnce(&mut Halves) -> T) -> T {
        // Each change is one step, so a thread that panicked left it whole.
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Halves {
    fn find(&mut self, mark: &Mark) -> Option<Label> {
        if let Some(label) = self.newer.get(mark) {
            return Some(label.clone());
        }
        let label = self.older.remove(mark)?;
        self.keep(*mark, label.clone());
        Some(label)
    }

    fn keep(&mut self, mark: Mark, label: Label) {
        if self.newer.len() >= HALF_MAX {
            self.older = std::mem::take(&mut self.newer);
        }
        self.newer.insert(mark, label);
    }
}

fn found(text: &str, look: Look) -> Label {
    Label::of_spans(&match look {
        Look::Patterns => pii::patterns(text),
        Look::Names => pii::scan(text, Model::bundled()),
    })
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    const CARD: &str = "Once upon a time somebody wrote down a number, 4111 1111 1111 1111, and lost it.";

    /// Looks a text up, and says how often something was looked through for it.
    fn looks(found: &Found, text: &str, look: Look) -> (Label, usize) {
        let looked = Cell::new(0);
        let label = found.label_by(text, look, |text, look| {
            looked.set(looked.get() + 1);
            super::found(text, look)
        });
        (label, looked.get())
    }

    #[test]
    fn a_text_is_looked_through_once_for_each_thing_that_is_looked_for() {
        let known = Found::default();
        let (first, looked) = looks(&known, CARD, Look::Patterns);
        assert!(looked == 1 && first.meets("pii:CREDIT_CARD"), "{first:?}");
        assert_eq!(looks(&known, CARD, Look::Patterns), (first.clone(), 0));
        assert_eq!(looks(&known, CARD, Look::Names).1, 1);
        // One letter more is another text.
        let other = format!("{CARD}!");
        assert_eq!(looks(&known, &other, Look::Patterns), (first, 1));
        let short = "4111 1111 1111 1111";
        assert!((0..2).all(|_| looks(&known, short, Look::Patterns).1 == 1));
    }

    #[test]
    fn what_is_remembered_is_bounded_and_what_is_used_stays() {
        let known = Found::default();
        looks(&known, CARD, Look::Patterns);
        let nothing = |_: &str, _| Label::public();
        for n in 0..4 * HALF_MAX {
            known.label_by(
                &format!("{n:0width$}", width = WORTH_BYTES),
                Look::Patterns,
                nothing,
            );
            if n % HALF_MAX == 0 {
                assert_eq!(looks(&known, CARD, Look::Patterns).1, 0, "{n}");
            }
        }
        let halves = known.0.lock().unwrap();
        assert!(halves.newer.len() + halves.older.len() <= 2 * HALF_MAX);
    }
}
