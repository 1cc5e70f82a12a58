//! A reader without a model: takes the sentence that shares most with the question, and from it what is wanted.
//!
//! It knows no synonyms and is confused by distractors, as a poor reader is. It is there to be given a whole document
//! and an upload, and to be compared with itself.

use super::chronicle::Wanted;

/// Words that begin sentences and names nobody.
const NO_NAMES: &[&str] = &[
    "A",
    "The",
    "It",
    "In",
    "On",
    "By",
    "Bill",
    "He",
    "She",
    "Some",
    "Nobody",
    "They",
    "Surgeons",
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// The answer of the reader, if a sentence has one.
pub(crate) fn answer(context: &str, question: &str, wanted: Wanted) -> Option<String> {
    let asked = words(question);
    let mut best: Option<(usize, String)> = None;
    let mut before = 0;
    for sentence in context.split_inclusive(['\n', '.']).map(str::trim) {
        let shared = words(sentence)
            .iter()
            .filter(|w| asked.contains(w))
            .map(|w| weight(w))
            .sum::<usize>();
        // A sentence about `he` or `she` is about whom the one before names.
        let pronoun = sentence.starts_with("He ") || sentence.starts_with("She ");
        let score = if pronoun { shared + before } else { shared };
        before = shared;
        if let Some(found) = wanted_in(sentence, &asked, wanted).filter(|_| score > 0)
            && best.as_ref().is_none_or(|(most, _)| score > *most)
        {
            best = Some((score, found));
        }
    }
    best.map(|(_, found)| found)
}

fn words(text: &str) -> Vec<String> {
    let bare = |w: &str| {
        w.trim_matches(|c: char| !c.is_alphanumeric())
            .trim_end_matches("'s")
            .to_owned()
    };
    text.split_whitespace()
        .map(bare)
        .filter(|w| !w.is_empty())
        .collect()
}

/// Names and numbers count more than other words, and small words hardly at all.
fn weight(word: &str) -> usize {
    match word.chars().next() {
        Some(c) if c.is_uppercase() || c.is_ascii_digit() => 20,
        _ if word.len() > 3 => 6,
        _ => 1,
    }
}

fn wanted_in(sentence: &str, asked: &[String], wanted: Wanted) -> Option<String> {
    let all = words(sentence);
    let date = date(&all);
    match wanted {
        Wanted::Date => date,
        Wanted::Number => {
            let number =
                |w: &&String| w.chars().all(|c| c.is_ascii_digit() || c == ',') && !asked.contains(w);
            let dated = |w: &&String| date.as_ref().is_some_and(|d| d.contains(w.as_str()));
            all.iter().filter(number).find(|w| !dated(w)).cloned()
        }
        Wanted::Name => {
            let named = |w: &String| w.chars().next().is_some_and(char::is_uppercase);
            let fits = |w: &String| named(w) && !NO_NAMES.contains(&w.as_str()) && !asked.contains(w);
            let runs = all.split(|w| !fits(w)).map(|run| run.join(" "));
            runs.max_by_key(String::len).filter(|run| !run.is_empty())
        }
    }
}

/// The first date, as it is written in the documents.
fn date(all: &[String]) -> Option<String> {
    let number = |w: &String| w.parse::<u32>().is_ok();
    let month = |w: &String| NO_NAMES[13..].contains(&w.as_str());
    let rows = all.windows(3).find_map(|row| match row {
        [d, m, y] if number(d) && month(m) && number(y) => Some(format!("{d} {m} {y}")),
        [m, d, y] if month(m) && number(d) && number(y) => Some(format!("{m} {d}, {y}")),
        _ => None,
    });
    let dashed = |w: &&String| w.len() == 10 && w.split('-').count() == 3;
    rows.or_else(|| all.iter().find(dashed).cloned())
}
