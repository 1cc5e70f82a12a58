//! How well each span answers: by its words (BM25), by its meaning (vectors), by what it names; and the three as one.

use super::survey::Survey;
use heph_kernels::math::ln64;

/// How soon more of the same word stops counting, and how much a long span is held against it: the usual values
/// (Robertson and Zaragoza 2009).
const K1: f64 = 1.2;
const B: f64 = 0.75;

/// Places in a list that make little difference among each other (Cormack et al. 2009 take 60, for longer lists).
const RANK_SOFTNESS: f64 = 6.0;

/// What the list by meaning counts beside those of words and names: the bundled encoder alone is right less often. A
/// question that names nothing has two lists, and they count the same. Chosen on documents of other seeds than the test's.
const MEANING_WEIGHT: f64 = 0.4;

/// Share of its own score that a span lends the next one, which may go on with `she`, and the one before.
const TO_NEXT: f64 = 0.6;
const TO_PREVIOUS: f64 = 0.35;

/// The BM25 score of each span.
pub(super) fn words(survey: &Survey<'_>) -> Vec<f64> {
    let all = survey.len() as f64;
    let weight = |stem: u8| {
        let holding = f64::from(survey.holding(usize::from(stem)));
        ln64(1.0 + (all - holding + 0.5) / (holding + 0.5))
    };
    let weights: Vec<f64> = (0..survey.question.stems.len())
        .map(|stem| weight(stem as u8))
        .collect();
    let score = |span: usize| {
        let (length, mean) = survey.length(span);
        let norm = K1 * (1.0 - B + B * length / mean);
        let one = |&(stem, count): &(u8, u8)| {
            let count = f64::from(count);
            weights[usize::from(stem)] * count * (K1 + 1.0) / (count + norm)
        };
        survey.counts(span).iter().map(one).sum()
    };
    (0..survey.len()).map(score).collect()
}

/// How much of what is named each span holds: what few spans hold weighs more.
pub(super) fn names(survey: &Survey<'_>, locked: &[usize]) -> Vec<f64> {
    let mut scores = vec![0.0; survey.len()];
    for &bit in locked {
        let holds = |span: &usize| survey.named(*span) >> bit & 1 == 1;
        let holding = (0..survey.len()).filter(holds).count() as f64;
        let weight = ln64(1.0 + survey.len() as f64 / holding.max(1.0));
        for span in (0..survey.len()).filter(holds) {
            scores[span] += weight;
        }
    }
    scores
}

/// The three lists as one: each gives a span the more, the nearer to its top the span stands. What scores nothing in a
/// list gets nothing from it.
pub(super) fn fuse(words: &[f64], meaning: &[f64], names: &[f64]) -> Vec<f64> {
    let nameless = names.iter().all(|&score| score == 0.0);
    let weight = if nameless { 1.0 } else { MEANING_WEIGHT };
    let mut fused = vec![0.0; words.len()];
    for (list, weight) in [(words, 1.0), (meaning, weight), (names, 1.0)] {
        for (span, place) in places(list) {
            fused[span] += weight / (RANK_SOFTNESS + place as f64);
        }
    }
    fused
}

/// The spans that score in a list, each with its place; equals share the first.
fn places(list: &[f64]) -> Vec<(usize, usize)> {
    let mut order: Vec<usize> = (0..list.len()).filter(|&span| list[span] > 0.0).collect();
    order.sort_by(|&a, &b| list[b].total_cmp(&list[a]));
    let mut place = 0;
    let place_of = |(at, &span): (usize, &usize)| {
        if at > 0 && list[span] < list[order[at - 1]] {
            place = at;
        }
        (span, place)
    };
    order.iter().enumerate().map(place_of).collect()
}

/// The fused scores, with what neighbours lend each other.
pub(super) fn with_neighbours(survey: &Survey<'_>, fused: &[f64]) -> Vec<f64> {
    let lent = |span: usize| {
        let before = (span > 0 && survey.adjacent(span - 1)).then(|| TO_NEXT * fused[span - 1]);
        let after = survey.adjacent(span).then(|| TO_PREVIOUS * fused[span + 1]);
        before.unwrap_or(0.0).max(after.unwrap_or(0.0))
    };
    (0..fused.len()).map(|span| fused[span].max(lent(span))).collect()
}
