//! A question, taken apart: the words to look for, and the names, numbers and dates that must not be lost.

use super::dates::{Date, DateReader};
use super::words::{Word, key, small, stem, words};
use std::collections::HashMap;
use std::ops::Range;

/// Bytes of a question: a page of text. What is longer is a document.
pub const QUESTION_BYTES_MAX: usize = 8 << 10;

/// Things that a question may name; each is one bit of a span's mask.
pub const NAMED_MAX: usize = 128;

/// Words of one name.
const NAME_WORDS_MAX: usize = 8;

/// Why a question cannot be taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QuestionError {
    /// Nothing is asked.
    #[error("the question is empty")]
    Empty,
    /// It is a document.
    #[error("the question has {bytes} bytes and may have {QUESTION_BYTES_MAX}")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// More names, numbers and dates than are followed.
    #[error("the question names {named} things and may name {NAMED_MAX}")]
    TooMuchNamed {
        /// How many.
        named: usize,
    },
}

/// What a thing that is named is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum NamedKind {
    /// Words with capitals, or in quotes.
    Name,
    /// Anything with a digit: an amount, a code, a year, a time.
    Number,
    /// A day or a month.
    Date,
    /// A word that is a name only if the sources write it with a capital.
    MaybeName,
}

/// Something that a question names.
#[derive(Debug, Clone)]
pub struct Named {
    /// As the question writes it.
    pub text: String,
    /// What it is.
    pub kind: NamedKind,
    /// The name that this is a word of: it has to be kept only where the whole name does not occur.
    pub(super) part_of: Option<usize>,
    pub(super) form: Form,
}

/// How a named thing is recognised.
#[derive(Debug, Clone)]
pub(super) enum Form {
    /// These words in a row, as numbers of [`Question::keys`].
    Words(Vec<u16>),
    /// A date that says at least this.
    Date(Date),
}

/// A question, taken apart.
#[derive(Debug, Clone)]
pub struct Question {
    text: String,
    /// Every distinct word.
    pub(super) keys: HashMap<String, u16>,
    /// Every distinct stem of a word that is worth looking for.
    pub(super) stems: HashMap<String, u8>,
    pub(super) named: Vec<Named>,
}

impl Question {
    /// Takes `text` apart.
    ///
    /// # Errors
    /// When it is empty, too long, or names too much.
    pub fn read(text: &str) -> Result<Question, QuestionError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(QuestionError::Empty);
        }
        if text.len() > QUESTION_BYTES_MAX {
            return Err(QuestionError::TooLong { bytes: text.len() });
        }
        let all: Vec<Word<'_>> = words(text).collect();
        let mut question = Question {
            text: text.to_owned(),
            keys: HashMap::new(),
            stems: HashMap::new(),
            named: Vec::new(),
        };
        for word in &all {
            let next = question.keys.len();
            // A question of 8 KiB has fewer words than a u16 counts.
            question
                .keys
                .entry(key(word.text).into_owned())
                .or_insert(next as u16);
        }
        question.add_stems(&all);
        question.add_named(&all);
        match question.named.len() {
            named if named > NAMED_MAX => Err(QuestionError::TooMuchNamed { named }),
            _ => Ok(question),
        }
    }

    /// As it was asked.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// All that it names, and the words that may turn out to be names.
    pub fn named(&self) -> &[Named] {
        &self.named
    }

    /// The words that tell something; all of them if none does. 255 at most.
    fn add_stems(&mut self, all: &[Word<'_>]) {
        let telling = all.iter().any(|w| !small(&key(w.text)));
        for word in all {
            let key = key(word.text);
            let next = self.stems.len();
            if (!telling || !small(&key)) && next < usize::from(u8::MAX) {
                self.stems.entry(stem(&key).to_owned()).or_insert(next as u8);
            }
        }
    }

    fn add_named(&mut self, all: &[Word<'_>]) {
        let dates = dates(&self.text, all);
        for (date, bytes) in &dates {
            let text = self.text[bytes.clone()].to_owned();
            self.add(text, NamedKind::Date, Form::Date(*date), None);
        }
        let inside = |w: &Word<'_>, r: &Range<usize>| r.start <= w.bytes.start && w.bytes.end <= r.end;
        let dated = |w: &Word<'_>| dates.iter().any(|(_, date)| inside(w, date));
        let codes: Vec<Vec<&Word<'_>>> = codes(&self.text, all)
            .into_iter()
            .filter(|run| !run.iter().any(|w| dated(w)))
            .collect();
        for run in &codes {
            self.add_whole(run, NamedKind::Number);
        }
        for run in names(&self.text, all) {
            let run: Vec<&Word<'_>> = run.iter().filter(|w| !dated(w)).collect();
            self.add_whole(&run, NamedKind::Name);
        }
        for word in all.iter().filter(|w| !dated(w)) {
            let coded = codes.iter().flatten().any(|c| c.bytes == word.bytes);
            if word.digits() && !coded {
                self.add_words(&[word], NamedKind::Number, None);
            } else if !word.digits() && !small(&key(word.text)) && self.named.len() < NAMED_MAX {
                self.add_words(&[word], NamedKind::MaybeName, None);
            }
        }
    }

    /// A name or code, and after it each of its words.
    fn add_whole(&mut self, run: &[&Word<'_>], kind: NamedKind) {
        let Some(whole) = self.add_words(run, kind, None) else {
            return;
        };
        if run.len() > 1 {
            for word in run.iter().filter(|w| !small(&key(w.text))) {
                self.add_words(&[word], kind, Some(whole));
            }
        }
    }

    fn add_words(&mut self, run: &[&Word<'_>], kind: NamedKind, part_of: Option<usize>) -> Option<usize> {
        let (first, last) = (run.first()?, run.last()?);
        let text = self.text[first.bytes.start..last.bytes.end].to_owned();
        let form = Form::Words(run.iter().map(|w| self.keys[&*key(w.text)]).collect());
        self.add(text, kind, form, part_of)
    }

    /// The number of the named thing; `None` if it is named already.
    fn add(&mut self, text: String, kind: NamedKind, form: Form, part_of: Option<usize>) -> Option<usize> {
        let same = |n: &Named| match (&n.form, &form) {
            (Form::Words(a), Form::Words(b)) => a == b,
            (Form::Date(a), Form::Date(b)) => a == b,
            _ => false,
        };
        if let Some(known) = self.named.iter_mut().find(|n| same(n)) {
            // A part that is also named by itself counts by itself.
            if kind != NamedKind::MaybeName {
                known.part_of = known.part_of.and(part_of);
            }
            return None;
        }
        self.named.push(Named {
            text,
            kind,
            part_of,
            form,
        });
        Some(self.named.len() - 1)
    }
}

/// The dates of a question, without those that are parts of longer ones.
fn dates(text: &str, all: &[Word<'_>]) -> Vec<(Date, Range<usize>)> {
    let (mut reader, mut found, mut end) = (DateReader::default(), Vec::new(), 0);
    for word in all {
        reader.push(word, &text[end..word.bytes.start], &mut found);
        end = word.bytes.end;
    }
    let inside =
        |a: &Range<usize>, b: &Range<usize>| b.start <= a.start && a.end <= b.end && b.len() > a.len();
    let longest: Vec<_> = found
        .iter()
        .filter(|(_, a)| !found.iter().any(|(_, b)| inside(a, b)))
        .cloned()
        .collect();
    longest
}

/// The runs of words that marks join without a space, as in `NE-45244` or an address of mail. Words that only hyphens
/// join are none.
fn codes<'w, 'a>(text: &str, all: &'w [Word<'a>]) -> Vec<Vec<&'w Word<'a>>> {
    let mut codes: Vec<Vec<&Word<'_>>> = Vec::new();
    let (mut run, mut code): (Vec<&Word<'_>>, bool) = (Vec::new(), false);
    for (at, word) in all.iter().enumerate() {
        run.push(word);
        code |= word.digits();
        let joint = all
            .get(at + 1)
            .map_or("", |next| &text[word.bytes.end..next.bytes.start]);
        code |= matches!(joint, "@" | "_" | "." | "/");
        if !matches!(joint, "-" | "@" | "_" | "." | "/" | "#") || run.len() == NAME_WORDS_MAX {
            if code && run.len() > 1 {
                codes.push(std::mem::take(&mut run));
            }
            run.clear();
            code = false;
        }
    }
    codes
}

/// The runs of words that are names: quoted, or with capitals and next to each other.
fn names<'w, 'a>(text: &str, all: &'w [Word<'a>]) -> Vec<Vec<Word<'a>>> {
    let mut runs: Vec<Vec<Word<'a>>> = quoted(text)
        .map(|bytes| {
            all.iter()
                .filter(|w| bytes.start <= w.bytes.start && w.bytes.end <= bytes.end)
                .cloned()
                .collect()
        })
        .filter(|run: &Vec<_>| (1..=NAME_WORDS_MAX).contains(&run.len()))
        .collect();
    let mut run: Vec<Word<'a>> = Vec::new();
    let mut end_run = |run: &mut Vec<Word<'a>>| {
        while run.last().is_some_and(|w| !w.capital() && !w.digits()) {
            run.pop();
        }
        // A small word with a capital opens a question; `The Hague` keeps its own.
        if run.iter().any(|w| w.capital() && !small(&key(w.text))) {
            runs.push(run.clone());
        }
        run.clear();
    };
    let mut end = 0;
    for word in all {
        let gap = &text[end..word.bytes.start];
        end = word.bytes.end;
        let near = matches!(gap, " " | "-" | "'" | "’" | "&" | " & ") || (gap == ". " && titled(&run));
        if !near || run.len() == NAME_WORDS_MAX {
            end_run(&mut run);
        }
        let opens = run.is_empty() && small(&key(word.text));
        let follows = !run.is_empty()
            && (word.digits() || matches!(word.text, "of" | "de" | "la" | "van" | "von" | "der" | "and"));
        if (word.capital() && !opens) || follows {
            run.push(word.clone());
        } else {
            end_run(&mut run);
        }
    }
    end_run(&mut run);
    runs
}

/// Whether a run ends with a word that a full stop shortens.
fn titled(run: &[Word<'_>]) -> bool {
    run.last().is_some_and(|w| w.text.len() <= 4)
}

/// The byte ranges between double quotes, straight or curved.
fn quoted(text: &str) -> impl Iterator<Item = Range<usize>> + '_ {
    let mut at = 0;
    std::iter::from_fn(move || {
        let (open, mark) = text[at..]
            .char_indices()
            .find(|(_, c)| matches!(c, '"' | '“' | '«' | '「'))?;
        let start = at + open + mark.len_utf8();
        let close = text[start..].find(['"', '”', '»', '」'])?;
        at = start + close + text[start + close..].chars().next().map_or(0, char::len_utf8);
        Some(start..start + close)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names, numbers and dates of a question, without words that may be names and parts of names.
    fn named(text: &str) -> Vec<String> {
        let question = Question::read(text).unwrap();
        let sure = question
            .named
            .iter()
            .filter(|n| n.kind != NamedKind::MaybeName && n.part_of.is_none());
        sure.map(|n| n.text.clone()).collect()
    }

    #[test]
    fn names_numbers_and_dates_are_found() {
        let cases: &[(&str, &[&str])] = &[
            ("When was Ada Lovelace born?", &["Ada Lovelace"]),
            ("What does Dr. Hall earn?", &["Dr. Hall"]),
            ("Where is the Bank of Norland based?", &["Bank of Norland"]),
            ("who paid invoice NE-45244 of $1,240?", &["NE-45244", "1,240"]),
            (
                "What happened on 14 March 2011 in The Hague?",
                &["14 March 2011", "Hague"],
            ),
            ("what is \"blue harbour\"?", &["blue harbour"]),
            ("Is it 3.5 or 14:30?", &["3.5", "14:30"]),
            (
                "Who reads ann@mill.example on host-12?",
                &["ann@mill.example", "host-12"],
            ),
            ("why is the sky blue?", &[]),
        ];
        for (text, expected) in cases {
            let mut found = named(text);
            found.sort_by_key(|name| text.find(name.as_str()));
            assert_eq!(&found, expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_question_is_refused() {
        assert_eq!(Question::read(" \n").unwrap_err(), QuestionError::Empty);
        let bytes = QUESTION_BYTES_MAX + 1;
        assert_eq!(
            Question::read(&"x".repeat(bytes)).unwrap_err(),
            QuestionError::TooLong { bytes }
        );
        let many: String = (0..200).map(|n| format!("{n} ")).collect();
        assert_eq!(
            Question::read(&many).unwrap_err(),
            QuestionError::TooMuchNamed { named: 200 }
        );
        assert!(Question::read("?!…").is_ok());
    }
}
