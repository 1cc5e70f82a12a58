//! Labels: how private a text is and why. They join, so what is made of two things is as private as both.
//!
//! A label only ever rises. Nothing here takes one off: what may leave all the same is for the policy to say.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// How private something is. Each level includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Nobody minds.
    #[default]
    Public,
    /// Nobody said.
    Internal,
    /// It tells of people.
    Private,
    /// It opens doors, or its owner said so.
    Secret,
}

impl Level {
    /// The word by which policies and people name it.
    pub fn name(self) -> &'static str {
        match self {
            Level::Public => "public",
            Level::Internal => "internal",
            Level::Private => "private",
            Level::Secret => "secret",
        }
    }
}

/// No label has more tags; one that would counts as [`Label::top`].
pub const TAGS_MAX: usize = 64;

/// No tag is longer, in bytes.
pub const TAG_BYTES_MAX: usize = 96;

/// Folders above a file that name it.
const FOLDERS_MAX: usize = 8;

/// How private something is, and what made it so: `pii:EMAIL`, `folder:salaries`, `source:calendar`, `user:private`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Label {
    level: Level,
    tags: BTreeSet<String>,
}

impl Label {
    /// What nobody minds.
    pub fn public() -> Label {
        Label::default()
    }

    /// The most private there is: everything that is joined with it stays so.
    pub fn top() -> Label {
        Label {
            level: Level::Secret,
            tags: BTreeSet::from(["*".to_owned()]),
        }
    }

    /// A level for one reason. A tag that is too long or empty makes it [`Label::top`].
    pub fn new(level: Level, tag: &str) -> Label {
        if tag.is_empty() || tag.len() > TAG_BYTES_MAX || tag == "*" {
            return Label::top();
        }
        Label {
            level,
            tags: BTreeSet::from([tag.to_owned()]),
        }
    }

    /// What a person says of a text in a word: a level, or anything else, which is a reason for [`Level::Private`].
    pub fn mark(word: &str) -> Label {
        let level = match word {
            "public" => Level::Public,
            "internal" => Level::Internal,
            "secret" => Level::Secret,
            _ => Level::Private,
        };
        Label::new(level, &format!("user:{word}"))
    }

    /// What a request is of which a person says no more than how private it is; [`Level::Internal`] is what nobody said anything about.
    pub fn of_level(level: Level) -> Label {
        match level {
            Level::Internal => Label::new(level, "source:prompt"),
            Level::Public | Level::Private | Level::Secret => Label::mark(level.name()),
        }
    }

    /// What a request is that has this reason, written as rules write it: as a find of that class makes it, as a file that stands
    /// in that folder, or as what a person says in a word. Any other word is one that a person says.
    pub fn of_reason(reason: &str) -> Label {
        match reason.split_once(':') {
            Some(("pii", class)) => Label::of_find(class),
            Some(("folder", folder)) => Label::of_path(&format!("{folder}/")),
            Some(("source", _)) => Label::new(Level::Internal, reason),
            Some(("user", word)) => Label::mark(word),
            _ => Label::mark(reason),
        }
    }

    /// What a request is that has these reasons ([`Label::of_reason`]), and is at least so private. Where a person says a word of it, that stands
    /// in the place of what nobody said anything about, as it does in a request.
    pub fn of_reasons(level: Option<Level>, reasons: &[String]) -> Label {
        let all = reasons.iter().map(|reason| Label::of_reason(reason));
        let all = all.fold(Label::public(), |label, reason| label.join(&reason));
        let least = match level {
            Some(level) if all.meets("user:*") => Label::mark(level.name()),
            None if all.meets("user:*") => Label::public(),
            level => Label::of_level(level.unwrap_or(Level::Internal)),
        };
        least.join(&all)
    }

    /// What a find of this class makes of a text.
    fn of_find(class: &str) -> Label {
        let level = match class {
            "SECRET" => Level::Secret,
            _ => Level::Private,
        };
        Label::new(level, &format!("pii:{class}"))
    }

    /// What a file is by where it stands: `folder:NAME` for each of the nearest eight folders above it, so that a rule about a
    /// folder counts for everything below.
    pub fn of_path(path: &str) -> Label {
        let mut above = path.rsplit(['/', '\\']).skip(1).filter(|name| !name.is_empty());
        let near = above.by_ref().take(FOLDERS_MAX);
        near.fold(Label::new(Level::Internal, "source:file"), |label, name| {
            label.join(&Label::new(Level::Internal, &format!("folder:{name}")))
        })
    }

    /// The label of what was made of both.
    #[must_use]
    pub fn join(&self, other: &Label) -> Label {
        let tags: BTreeSet<String> = self.tags.union(&other.tags).cloned().collect();
        if tags.contains("*") || tags.len() > TAGS_MAX {
            return Label::top();
        }
        Label {
            level: self.level.max(other.level),
            tags,
        }
    }

    /// How private it is.
    pub fn level(&self) -> Level {
        self.level
    }

    /// What made it so.
    pub fn tags(&self) -> impl Iterator<Item = &str> {
        self.tags.iter().map(String::as_str)
    }

    /// What a log says of it: its level, then what made it so.
    pub fn words(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.level.name()).chain(self.tags())
    }

    /// Whether this is at least as private as `other`, for all its reasons.
    pub fn covers(&self, other: &Label) -> bool {
        self.join(other) == *self
    }

    /// Whether a tag meets `pattern`: the same, or the same up to a `*` at its end. [`Label::top`] meets every pattern.
    pub fn meets(&self, pattern: &str) -> bool {
        self.tags.iter().any(|tag| {
            tag == "*"
                || pattern
                    .strip_suffix('*')
                    .map_or(tag == pattern, |front| tag.starts_with(front))
        })
    }

    /// What `spans` found in a text make of it.
    pub fn of_spans(spans: &[crate::pii::Span]) -> Label {
        let finds = spans.iter().map(|span| Label::of_find(span.kind));
        finds.fold(Label::public(), |label, find| label.join(&find))
    }
}

/// A value with its label: a prompt, a cache, an answer, a summary.
#[derive(Clone, PartialEq, Eq)]
pub struct Labelled<T> {
    value: T,
    label: Label,
}

/// Printing it for a log shows how private it is, and nothing of what it is.
impl<T> std::fmt::Debug for Labelled<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Labelled({:?})", self.label)
    }
}

impl<T> Labelled<T> {
    /// A value that has this label.
    pub fn new(value: T, label: Label) -> Labelled<T> {
        Labelled { value, label }
    }

    /// Its label.
    pub fn label(&self) -> &Label {
        &self.label
    }

    /// What it is. Looking does not take the label off: what is made of it goes through [`Labelled::map`].
    pub fn peek(&self) -> &T {
        &self.value
    }

    /// Something made of it alone, as a summary: as private as it is.
    pub fn map<U>(self, make: impl FnOnce(T) -> U) -> Labelled<U> {
        Labelled {
            value: make(self.value),
            label: self.label,
        }
    }

    /// Something made of both, as an answer of a question and a document.
    pub fn with<U, V>(self, other: Labelled<U>, make: impl FnOnce(T, U) -> V) -> Labelled<V> {
        let label = self.label.join(&other.label);
        Labelled {
            value: make(self.value, other.value),
            label,
        }
    }

    /// The same, at least as private as `label`.
    #[must_use]
    pub fn raised(self, label: &Label) -> Labelled<T> {
        Labelled {
            label: self.label.join(label),
            value: self.value,
        }
    }

    pub(crate) fn into_parts(self) -> (T, Label) {
        (self.value, self.label)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn labels() -> impl Strategy<Value = Label> {
        let level = prop_oneof![
            Just(Level::Public),
            Just(Level::Internal),
            Just(Level::Private),
            Just(Level::Secret)
        ];
        // Many tags, so that some joins go beyond the most there may be.
        let tags = prop::collection::btree_set(0_u8..120, 0..50);
        (level, tags, any::<u8>()).prop_map(|(level, tags, odd)| {
            if odd < 8 {
                return Label::top();
            }
            Label {
                level,
                tags: tags.into_iter().map(|t| format!("t:{t}")).collect(),
            }
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn joining_is_a_lattice(a in labels(), b in labels(), c in labels()) {
            prop_assert_eq!(a.join(&b), b.join(&a));
            prop_assert_eq!(a.join(&b).join(&c), a.join(&b.join(&c)));
            prop_assert_eq!(a.join(&a), a.clone());
            prop_assert_eq!(a.join(&Label::public()), a.clone());
            prop_assert_eq!(a.join(&Label::top()), Label::top());
            prop_assert!(a.join(&b).covers(&a) && a.join(&b).covers(&b));
            prop_assert!(a.join(&b).level() >= a.level());
        }

        #[test]
        fn a_reason_that_was_met_is_met_for_ever(a in labels(), b in labels(), tag in 0_u8..120) {
            let pattern = format!("t:{tag}");
            prop_assert!(!a.meets(&pattern) || a.join(&b).meets(&pattern));
            prop_assert!(!a.meets("t:*") || a.join(&b).meets("t:*"));
        }
    }

    #[test]
    fn a_word_of_a_person_and_a_folder_are_reasons() {
        let said = |word: &str| {
            let label = Label::mark(word);
            (label.level(), label.tags().map(str::to_owned).collect::<Vec<_>>())
        };
        assert_eq!(said("secret"), (Level::Secret, vec!["user:secret".to_owned()]));
        assert_eq!(said("salary"), (Level::Private, vec!["user:salary".to_owned()]));
        assert_eq!(said("public").0, Level::Public);
        assert_eq!(Label::mark(&"x".repeat(200)), Label::top());
        let file = Label::of_path("/home/ann/salaries/2024/may.txt");
        assert!(file.meets("folder:salaries") && file.meets("folder:2024") && !file.meets("folder:may.txt"));
        assert!(Label::of_path("C:\\notes\\a.txt").meets("folder:notes"));
        assert!(!Label::of_path("a.txt").meets("folder:*"));
    }

    #[test]
    fn a_reason_is_as_private_as_what_it_stands_for() {
        let text = "Write to ann.lee@example.org, password: tr0mb0ne!X";
        let found = Label::of_spans(&crate::pii::patterns(text));
        let told = Label::of_reason("pii:EMAIL").join(&Label::of_reason("pii:SECRET"));
        assert_eq!((&found, found.level()), (&told, Level::Secret));
        assert_eq!(Label::of_reason("pii:EMAIL").level(), Level::Private);
        assert_eq!(
            Label::of_reason("folder:salaries"),
            Label::of_path("salaries/may.txt")
        );
        for word in ["salaries", "secret", "public", "medical:notes"] {
            assert_eq!(Label::of_reason(word), Label::mark(word), "{word}");
        }
        assert_eq!(Label::of_reason("user:secret"), Label::mark("secret"));
        for odd in ["", "pii:", "folder:", "user:"] {
            assert!(Label::of_reason(odd).level() >= Level::Internal, "{odd:?}");
        }
        assert_eq!(Label::of_reason(&"x".repeat(200)), Label::top());
    }

    #[test]
    fn what_a_person_says_stands_in_the_place_of_what_nobody_said() {
        let of = |level, reasons: &[&str]| {
            let reasons: Vec<String> = reasons.iter().map(|&reason| reason.to_owned()).collect();
            Label::of_reasons(level, &reasons)
        };
        assert_eq!(of(None, &[]), Label::of_level(Level::Internal));
        assert_eq!(of(None, &["public"]), Label::mark("public"));
        assert_eq!(of(None, &["salaries"]), Label::mark("salaries"));
        assert_eq!(of(Some(Level::Public), &[]), Label::mark("public"));
        assert_eq!(of(Some(Level::Internal), &["public"]).level(), Level::Internal);
        assert_eq!(of(Some(Level::Secret), &["salaries"]).level(), Level::Secret);
        let found = of(None, &["pii:EMAIL"]);
        assert_eq!(
            found,
            Label::of_level(Level::Internal).join(&Label::of_find("EMAIL"))
        );
    }

    #[test]
    fn a_summary_of_a_private_note_is_private() {
        let note = Labelled::new("I earn 5000.", Label::new(Level::Private, "folder:salaries"));
        let question = Labelled::new("How much?", Label::public());
        let answer = question.with(note, |q, n| format!("{q} {n}"));
        let summary = answer.map(|text| text.len());
        assert!(summary.label().meets("folder:*") && summary.label().level() == Level::Private);
    }

    #[test]
    fn odd_tags_make_the_most_private_label() {
        for tag in ["", "*", &"x".repeat(TAG_BYTES_MAX + 1)] {
            assert_eq!(Label::new(Level::Public, tag), Label::top());
        }
        assert!(Label::top().meets("anything") && !Label::public().meets("*"));
    }
}
