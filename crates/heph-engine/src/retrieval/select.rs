//! Which spans are sent: first those that keep what the question names, then the best until the budget is used up.

use super::question::{Form, Named, NamedKind};
use super::rank;
use super::survey::{Span, Survey, certain};
use std::collections::BTreeSet;

/// What became of something that the question names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kept {
    /// It stands in a chosen span, as the source writes it.
    Kept,
    /// No source holds it.
    Absent,
}

/// A name, number or date of the question, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Lock {
    /// As the question writes it.
    pub text: String,
    /// What it is.
    pub kind: NamedKind,
    /// What became of it.
    pub kept: Kept,
}

/// The spans that were chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    /// In the order of the sources.
    pub spans: Vec<Span>,
    /// Everything that the question names.
    pub locks: Vec<Lock>,
    /// Bytes past the budget, because what is named takes more than all of it.
    pub over_budget: usize,
}

/// How alike a span and the question are, for the spans that were compared.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Likeness {
    /// The span.
    pub span: usize,
    /// Cosine of the two vectors.
    pub cosine: f32,
}

/// Which lists rank the spans.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ranking {
    /// Words, meaning and names: what is used.
    Fused,
    /// BM25 alone, to compare with.
    Words,
    /// Vectors alone, to compare with.
    Meaning,
}

impl Survey<'_> {
    /// The spans to compare with the question by their meaning: all of them, or the `most` with the best words.
    pub fn candidates(&self, most: usize) -> Vec<usize> {
        let mut all: Vec<usize> = (0..self.len()).collect();
        if all.len() > most {
            let scores = rank::words(self);
            all.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
            all.truncate(most);
            all.sort_unstable();
        }
        all
    }

    /// All spans, the best first; equal ones in the order of the sources.
    pub fn ranked(&self, likeness: &[Likeness], ranking: Ranking) -> Vec<usize> {
        let scores = self.scores(likeness, ranking, &self.locked());
        let mut order: Vec<usize> = (0..self.len()).collect();
        order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
        order
    }

    /// Chooses spans of `budget` bytes together; each costs its length and `overhead` of its source. What the question
    /// names and a source holds is in one of them, even if the budget is too small for it.
    pub fn choose(
        &self,
        likeness: &[Likeness],
        budget: usize,
        overhead: impl Fn(usize) -> usize,
    ) -> Selection {
        let locked = self.locked();
        let scores = rank::with_neighbours(self, &self.scores(likeness, Ranking::Fused, &locked));
        let mut order: Vec<usize> = (0..self.len()).collect();
        order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
        let cost = |span: usize| {
            let place = self.span(span);
            place.bytes.len() + overhead(place.source)
        };
        let mut chosen = self.keep_named(&order, &locked);
        let mut used: usize = chosen.iter().map(|&span| cost(span)).sum();
        let over_budget = used.saturating_sub(budget);
        for &span in order.iter().take_while(|&&span| scores[span] > 0.0) {
            if !chosen.contains(&span) && used + cost(span) <= budget {
                chosen.insert(span);
                used += cost(span);
            }
        }
        Selection {
            locks: self.locks(&locked),
            spans: chosen.into_iter().map(|span| self.span(span)).collect(),
            over_budget,
        }
    }

    fn scores(&self, likeness: &[Likeness], ranking: Ranking, locked: &[usize]) -> Vec<f64> {
        let mut meaning = vec![0.0; self.len()];
        for one in likeness {
            // Cosines reach from -1 to 1, and nothing that was compared scores nothing.
            meaning[one.span] = f64::from(one.cosine) + 2.0;
        }
        match ranking {
            Ranking::Words => rank::words(self),
            Ranking::Meaning => meaning,
            Ranking::Fused => {
                let (words, names) = (rank::words(self), rank::names(self, locked));
                rank::fuse(&words, &meaning, &names)
            }
        }
    }

    /// The spans without which something named would be lost: for each the best that holds it, if none is chosen yet.
    fn keep_named(&self, order: &[usize], locked: &[usize]) -> BTreeSet<usize> {
        let mut chosen = BTreeSet::new();
        for &bit in locked {
            let holds = |span: usize| self.named(span) >> bit & 1 == 1;
            if chosen.iter().any(|&span| holds(span)) {
                continue;
            }
            if let Some(&best) = order.iter().find(|&&span| holds(span)) {
                self.with_tied(best, &mut chosen);
            }
        }
        chosen
    }

    /// Adds a span and those that share a name with it.
    fn with_tied(&self, span: usize, chosen: &mut BTreeSet<usize>) {
        let first = (0..span)
            .rev()
            .take_while(|&before| self.tied(before))
            .last()
            .unwrap_or(span);
        let last = (span..self.len()).find(|&at| !self.tied(at)).unwrap_or(span);
        chosen.extend(first..=last);
    }

    /// The bits of what must be kept: all that is certainly named, the words of names that do not occur whole, and
    /// words that the sources show to be names.
    fn locked(&self) -> Vec<usize> {
        let named = &self.question.named;
        let occurs = self.occurring();
        let asked = |n: &Named| match n.part_of {
            Some(whole) => occurs >> whole & 1 == 0,
            None => {
                certain(n.kind) || matches!(&n.form, Form::Words(w) if w.iter().all(|&w| self.is_name(w)))
            }
        };
        (0..named.len()).filter(|&bit| asked(&named[bit])).collect()
    }

    fn occurring(&self) -> u128 {
        (0..self.len()).fold(0, |all, span| all | self.named(span))
    }

    fn locks(&self, locked: &[usize]) -> Vec<Lock> {
        let occurs = self.occurring();
        let lock = |&bit: &usize| {
            let named = &self.question.named[bit];
            Lock {
                text: named.text.clone(),
                kind: named.kind,
                kept: if occurs >> bit & 1 == 1 {
                    Kept::Kept
                } else {
                    Kept::Absent
                },
            }
        };
        locked.iter().map(lock).collect()
    }
}
