//! An instruction that holds several questions, taken apart by a fixed rule: no model is asked, and the same words give the
//! same questions everywhere.
//!
//! Items of a list are questions, else what ends with a question mark. Where one leans on what stands before it ("why did
//! she leave?"), the two stay together: rather one question too few than one that nobody can answer alone.

/// Questions that an instruction is taken apart into at most; more stay in the last one.
pub const QUESTIONS_MAX: usize = 16;

/// Words by which a question leans on the one before it.
const LEANING: [&str; 33] = [
    "it",
    "its",
    "itself",
    "they",
    "them",
    "their",
    "theirs",
    "he",
    "him",
    "his",
    "she",
    "her",
    "hers",
    "this",
    "that",
    "these",
    "those",
    "former",
    "latter",
    "then",
    "there",
    "therefore",
    "also",
    "else",
    "otherwise",
    "instead",
    "same",
    "above",
    "previous",
    "both",
    "such",
    "so",
    "too",
];

/// Letters of a word that ends a sentence: shorter ones may be abbreviations.
const WORD_LETTERS: usize = 3;

/// The questions of an instruction that can be answered without each other, in their order, each with what is said before
/// all of them and after. One, where there are no several.
pub fn questions(instruction: &str) -> Vec<String> {
    let text = instruction.trim();
    let found = list(text).or_else(|| sentences(text));
    let Some(Found { lead, asked, tail }) = found else {
        return vec![text.to_owned()];
    };
    let mut own: Vec<String> = Vec::new();
    for question in asked {
        match own.last_mut() {
            Some(before) if leans(question) => {
                before.push('\n');
                before.push_str(question);
            }
            _ => own.push(question.to_owned()),
        }
    }
    if own.len() > QUESTIONS_MAX {
        let rest = own.split_off(QUESTIONS_MAX - 1);
        own.push(rest.join("\n"));
    }
    if own.len() < 2 {
        return vec![text.to_owned()];
    }
    let whole = |question: &String| {
        let parts = [lead, question, tail].into_iter().filter(|part| !part.is_empty());
        parts.collect::<Vec<_>>().join("\n")
    };
    own.iter().map(whole).collect()
}

/// Questions with what stands around all of them.
struct Found<'a> {
    lead: &'a str,
    asked: Vec<&'a str>,
    tail: &'a str,
}

/// The items of a list, each with the lines that belong to it.
fn list(text: &str) -> Option<Found<'_>> {
    let mut starts = Vec::new();
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        if let Some(mark) = mark(line) {
            starts.push((at, at + mark));
        }
        at += line.len();
    }
    if starts.len() < 2 {
        return None;
    }
    let ends = starts.iter().skip(1).map(|(line, _)| *line).chain([text.len()]);
    let item = |((_, from), to): (&(usize, usize), usize)| text[*from..to].trim();
    Some(Found {
        lead: text[..starts[0].0].trim(),
        asked: starts.iter().zip(ends).map(item).collect(),
        tail: "",
    })
}

/// Bytes of the mark with which a line begins an item: `- `, `* `, `3. `, `3) `.
fn mark(line: &str) -> Option<usize> {
    let inside = line.trim_start();
    let indent = line.len() - inside.len();
    let digits = inside.bytes().take_while(u8::is_ascii_digit).count();
    let rest = &inside[digits..];
    let marks: &[&str] = if digits == 0 {
        &["- ", "* ", "\u{2022} "]
    } else {
        &[". ", ") "]
    };
    let mark = marks.iter().find(|mark| rest.starts_with(**mark))?;
    Some(indent + digits + mark.len())
}

/// What ends with a question mark.
fn sentences(text: &str) -> Option<Found<'_>> {
    let mut asked = Vec::new();
    let mut from = 0;
    for (at, _) in text.match_indices('?') {
        let end = at + 1;
        if text[end..].chars().next().is_none_or(char::is_whitespace) {
            asked.push(text[from..end].trim());
            from = end;
        }
    }
    let first = asked.first_mut()?;
    let (lead, own) = first.split_at(said_before(first));
    *first = own.trim();
    let lead = lead.trim();
    Some(Found {
        lead,
        asked,
        tail: text[from..].trim(),
    })
}

/// Where the question begins after what is said before it.
fn said_before(text: &str) -> usize {
    let ends = |(at, mark): &(usize, char)| {
        let after = text[at + mark.len_utf8()..].chars().next();
        let spaced = after.is_some_and(char::is_whitespace);
        match mark {
            '\n' => true,
            ':' | '!' => spaced,
            '.' => spaced && ends_sentence(&text[..*at]),
            _ => false,
        }
    };
    let last = text.char_indices().rfind(ends);
    last.map_or(0, |(at, mark)| at + mark.len_utf8())
}

/// Whether a full stop after this text is likely the end of a sentence and no abbreviation's.
fn ends_sentence(text: &str) -> bool {
    let word = text.rsplit(char::is_whitespace).next().unwrap_or_default();
    word.chars().count() >= WORD_LETTERS && word.chars().all(char::is_lowercase)
}

/// Whether a question needs the one before it to be understood.
fn leans(question: &str) -> bool {
    let words = question.split(|c: char| !c.is_alphanumeric());
    words
        .map(str::to_lowercase)
        .any(|word| LEANING.contains(&word.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_asked_apart_is() {
        let cases: &[(&str, &[&str])] = &[
            ("Summarise the text.", &["Summarise the text."]),
            ("Who is Ada?", &["Who is Ada?"]),
            ("Who is Ada? Where is Bath?", &["Who is Ada?", "Where is Bath?"]),
            // What leans on another stays with it.
            (
                "Who is Ada? Why did she leave? Where is Bath?",
                &["Who is Ada?\nWhy did she leave?", "Where is Bath?"],
            ),
            (
                "Who is Ada? Where did she go?",
                &["Who is Ada? Where did she go?"],
            ),
            // What is said before or after holds for each.
            (
                "Answer in one word. Who is Ada? Where is Bath? Be brief.",
                &[
                    "Answer in one word.\nWho is Ada?\nBe brief.",
                    "Answer in one word.\nWhere is Bath?\nBe brief.",
                ],
            ),
            // An abbreviation ends no sentence.
            ("Who is Dr. Grey? Who is Bo?", &["Who is Dr. Grey?", "Who is Bo?"]),
            (
                "From the report:\n1. Names\n2) Dates\n   with years",
                &[
                    "From the report:\nNames",
                    "From the report:\nDates\n   with years",
                ],
            ),
            ("- the fox\n- the cat", &["the fox", "the cat"]),
            ("- the fox and its den", &["- the fox and its den"]),
            // A question inside another is none of its own.
            ("What does \"who?\" mean?", &["What does \"who?\" mean?"]),
            ("", &[""]),
        ];
        for (instruction, wanted) in cases {
            assert_eq!(&questions(instruction), wanted, "{instruction:?}");
        }
    }

    #[test]
    fn there_are_never_too_many_and_no_word_is_lost() {
        let text: String = (0..40).map(|n| format!("Who is number {n}? ")).collect();
        let found = questions(&text);
        assert_eq!(found.len(), QUESTIONS_MAX);
        for n in 0..40 {
            assert!(found.iter().any(|q| q.contains(&format!("number {n}?"))), "{n}");
        }
    }
}
