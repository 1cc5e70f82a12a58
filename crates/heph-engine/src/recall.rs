//! Answers that were given before, and whether one of them may be given again to another question.
//!
//! Called by the door before a question is asked and after it was answered. The same question in the same circumstances
//! has the same answer. To a question that is merely alike, an answer is given again only at a likeness at which so many
//! pairs were verified that, by an exact confidence interval, no more than the bound of them differ; until then, and in every
//! twentieth case afterwards, the question is asked and the pair is one more that was verified. An answer that was wrong for
//! a question alike is never given to another again. Questions that name different things, or of which one denies what the
//! other says, are never alike. The bound holds while questions go on to come as they came. Knows no clock and draws nothing.

mod interval;
mod marks;

pub use marks::Marks;
use std::collections::{HashMap, VecDeque};

/// Answers that are kept; the one that was used longest ago goes first.
const ANSWERS_MAX: usize = 4096;

/// Bytes of a question and of an answer that are kept.
pub const TEXT_BYTES_MAX: usize = 16 << 10;

/// Where the classes of likeness begin. Below the first, questions are not alike.
const CLASSES: [f32; 5] = [0.80, 0.88, 0.93, 0.96, 0.98];

/// Pairs of a class at which it is judged first; then each time that they have doubled.
const JUDGED_FIRST: usize = 32;

/// Pairs that are remembered of a class, the newest: with them it is judged for the eighth time.
const VERIFIED_MAX: usize = JUDGED_FIRST << 7;

/// Of the bound, what all judgements together may be wrong; each has an eighth of it.
const UNSURE: f64 = 0.2;

/// Pairs that show whether questions still come as they came, and how unlikely it must be that so many of them differ.
const NEWEST: usize = 64;
const UNLIKELY: f64 = 0.01;

/// Of the cases in which an answer may be given again, the share in which the question is asked all the same.
const AUDITED: f64 = 0.05;

/// Whose pairs are counted together, as a hash: a caller, a label and a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Realm(pub [u8; 32]);

/// All that an answer depends on besides the last question, as a hash: what was said before, the rules, how tokens are
/// chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Topic(pub [u8; 32]);

/// How many answers may be wrong at most: a share above 0 and below one half.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Bound(f64);

impl Bound {
    /// A bound of this share; `None` for what is none.
    pub fn new(share: f64) -> Option<Self> {
        (share > 0.0 && share < 0.5).then_some(Self(share))
    }

    /// The share.
    pub fn share(self) -> f64 {
        self.0
    }
}

/// A question, as far as recalling needs it.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Whose.
    pub realm: Realm,
    /// In which circumstances.
    pub topic: Topic,
    /// As it was asked.
    pub text: String,
    /// What it names and denies.
    pub marks: Marks,
    /// Its vector, of length 1.
    pub vector: Vec<f32>,
}

/// An answer that may be given again.
#[derive(Debug, Clone, PartialEq)]
pub struct Recalled {
    /// The question that it was an answer to.
    pub question: String,
    /// The answer.
    pub answer: String,
    /// How alike the two questions are; 1 for the same question.
    pub likeness: f32,
}

/// What is to be done about a question.
#[derive(Debug, Clone)]
pub enum Verdict {
    /// Give this answer.
    Again(Recalled),
    /// Ask, and tell what the answer was.
    Ask(Lesson),
}

/// A question that is asked, and the answer it is compared with.
#[derive(Debug, Clone)]
pub struct Lesson {
    asked: Asked,
    against: Option<(u64, f32)>,
}

#[derive(Debug, Clone)]
struct Kept {
    asked: Asked,
    answer: String,
    /// Whether it was wrong for a question alike.
    failed: bool,
    used: u64,
}

/// What was verified of pairs that are alike to one degree.
#[derive(Debug, Default)]
struct Class {
    /// Whether the two answers were the same, the newest last.
    same: VecDeque<bool>,
    /// Pairs since the last judgement, and at it.
    since: usize,
    judged_at: usize,
    /// Whether answers are given again.
    open: bool,
}

impl Class {
    fn add(&mut self, same: bool, bound: Bound) {
        if self.same.len() == VERIFIED_MAX {
            self.same.pop_front();
        }
        self.same.push_back(same);
        self.since += 1;
        let unsure = bound.0 * UNSURE;
        if self.since >= self.judged_at.max(JUDGED_FIRST) || self.since >= VERIFIED_MAX {
            self.open = self.differ_at_most(unsure / 8.0) <= bound.0 - unsure;
            (self.judged_at, self.since) = (self.same.len(), 0);
        } else if !same && self.open {
            // Shutting is always safe.
            self.open = self.differ_at_most(unsure) <= bound.0;
        }
        self.forget_what_changed(bound);
    }

    /// Where more of the newest pairs differ than the bound lets expect, the older ones tell nothing any more.
    fn forget_what_changed(&mut self, bound: Bound) {
        let older = self.same.len().saturating_sub(NEWEST);
        let wrong = self.same.range(older..).filter(|same| !**same).count();
        if self.open && wrong > 0 && 1.0 - interval::at_most(NEWEST, wrong - 1, bound.0) < UNLIKELY {
            self.same.drain(..older);
            (self.open, self.judged_at, self.since) = (false, 0, 0);
        }
    }

    /// The share that differs is no more than this, but with probability `unsure`.
    fn differ_at_most(&self, unsure: f64) -> f64 {
        let wrong = self.same.iter().filter(|same| !**same).count();
        interval::upper(self.same.len(), wrong, unsure)
    }
}

/// The answers and what was verified.
#[derive(Debug)]
pub struct Recall {
    bound: Bound,
    kept: HashMap<u64, Kept>,
    topics: HashMap<Topic, Vec<u64>>,
    classes: HashMap<Realm, [Class; CLASSES.len()]>,
    next: u64,
    uses: u64,
}

impl Recall {
    /// Nothing yet, and no more than `bound` of what is given again may be wrong.
    pub fn new(bound: Bound) -> Self {
        Self {
            bound,
            kept: HashMap::new(),
            topics: HashMap::new(),
            classes: HashMap::new(),
            next: 0,
            uses: 0,
        }
    }

    /// The bound.
    pub fn bound(&self) -> Bound {
        self.bound
    }

    /// Answers that are kept.
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// What to do about a question. `draw` is a number from 0 up to 1 that nobody can foresee.
    pub fn look(&mut self, asked: Asked, draw: f64) -> Verdict {
        let nearest = self.nearest(&asked);
        let Some((id, likeness)) = nearest else {
            return Verdict::Ask(Lesson { asked, against: None });
        };
        let same = self.kept[&id].asked.text == asked.text;
        if same || (self.is_open(asked.realm, likeness) && draw >= AUDITED) {
            self.uses += 1;
            let uses = self.uses;
            let kept = self.kept.get_mut(&id).expect("the nearest is kept");
            kept.used = uses;
            return Verdict::Again(Recalled {
                question: kept.asked.text.clone(),
                answer: kept.answer.clone(),
                likeness: if same { 1.0 } else { likeness },
            });
        }
        let against = Some((id, likeness));
        Verdict::Ask(Lesson { asked, against })
    }

    /// Whether answers are given again to questions that are so much alike.
    fn is_open(&self, realm: Realm, likeness: f32) -> bool {
        let classes = self.classes.get(&realm);
        class_of(likeness).is_some_and(|class| classes.is_some_and(|classes| classes[class].open))
    }

    /// The kept answer whose question is most like this one, in the same circumstances and with the same marks.
    fn nearest(&self, asked: &Asked) -> Option<(u64, f32)> {
        let alike = |id: &u64| {
            let kept = &self.kept[id].asked;
            if kept.realm != asked.realm || kept.vector.len() != asked.vector.len() {
                return None;
            }
            if kept.text == asked.text {
                return Some((*id, f32::INFINITY));
            }
            let likeness = kept.vector.iter().zip(&asked.vector).map(|(a, b)| a * b).sum();
            let alike = kept.marks == asked.marks && class_of(likeness).is_some();
            (alike && !self.kept[id].failed).then_some((*id, likeness))
        };
        let candidates = self.topics.get(&asked.topic)?.iter().filter_map(alike);
        candidates.max_by(|a, b| a.1.total_cmp(&b.1))
    }

    /// Takes in what the answer to a question was: whole, and ended by itself.
    pub fn learn(&mut self, lesson: Lesson, answer: &str) {
        let Lesson { asked, against } = lesson;
        if let Some((id, likeness)) = against
            && let Some(kept) = self.kept.get_mut(&id)
            && let Some(class) = class_of(likeness)
        {
            let same = words_of(&kept.answer).eq(words_of(answer));
            kept.failed |= !same;
            self.classes.entry(asked.realm).or_default()[class].add(same, self.bound);
        }
        let known =
            |id: &u64| self.kept[id].asked.text == asked.text && self.kept[id].asked.realm == asked.realm;
        let there = self
            .topics
            .get(&asked.topic)
            .is_some_and(|ids| ids.iter().any(known));
        if there || asked.text.len().max(answer.len()) > TEXT_BYTES_MAX {
            return;
        }
        if self.kept.len() >= ANSWERS_MAX {
            self.forget_oldest();
        }
        let (id, topic) = (self.next, asked.topic);
        (self.next, self.uses) = (id + 1, self.uses + 1);
        let kept = Kept {
            asked,
            answer: answer.to_owned(),
            failed: false,
            used: self.uses,
        };
        self.kept.insert(id, kept);
        self.topics.entry(topic).or_default().push(id);
    }

    /// Makes room for some: one by one, each would be looked for among all.
    fn forget_oldest(&mut self) {
        let mut uses: Vec<u64> = self.kept.values().map(|kept| kept.used).collect();
        let (_, newest_gone, _) = uses.select_nth_unstable(ANSWERS_MAX / 8);
        self.kept.retain(|_, kept| kept.used > *newest_gone);
        let kept = &self.kept;
        self.topics.retain(|_, ids| {
            ids.retain(|id| kept.contains_key(id));
            !ids.is_empty()
        });
        self.classes
            .retain(|realm, _| kept.values().any(|kept| kept.asked.realm == *realm));
    }
}

fn class_of(likeness: f32) -> Option<usize> {
    CLASSES.iter().rposition(|&begins| likeness >= begins)
}

/// What two answers must have in common to be the same: their words, whatever stands between them.
fn words_of(answer: &str) -> impl Iterator<Item = String> {
    let words = answer
        .split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty());
    words.map(str::to_lowercase)
}

#[cfg(test)]
mod tests;
