//! What a question says that the likeness of two vectors may not see: whom and what it names, its numbers, and the words
//! that turn a meaning around.

use crate::retrieval::{NamedKind, Question};

/// Words that deny, limit, compare or order: with one of them another, the question is another.
const TURNS: [&str; 84] = [
    "not", "no", "never", "none", "nobody", "nothing", "neither", "nor", "cannot", "without", "except",
    "unless", "isn", "aren", "wasn", "weren", "don", "doesn", "didn", "won", "wouldn", "can", "couldn",
    "shouldn", "mustn", "hasn", "haven", "hadn", "more", "less", "most", "least", "fewer", "fewest",
    "before", "after", "above", "below", "over", "under", "up", "down", "in", "out", "on", "off", "left",
    "right", "first", "last", "next", "previous", "earliest", "latest", "largest", "smallest", "biggest",
    "highest", "lowest", "longest", "shortest", "best", "worst", "min", "max", "minimum", "maximum",
    "increase", "decrease", "add", "remove", "with", "to", "from", "all", "any", "some", "only", "always",
    "who", "when", "where", "why", "how",
];

/// Numbers in words.
const NUMBERS: [&str; 36] = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
    "twenty",
    "thirty",
    "forty",
    "fifty",
    "sixty",
    "seventy",
    "eighty",
    "ninety",
    "hundred",
    "thousand",
    "million",
    "billion",
    "half",
    "third",
    "twice",
    "dozen",
];

/// Words that begin a request and are no names, though they have a capital there.
const OPENINGS: [&str; 24] = [
    "answer",
    "compare",
    "compute",
    "define",
    "describe",
    "explain",
    "find",
    "give",
    "hello",
    "help",
    "hi",
    "imagine",
    "list",
    "make",
    "name",
    "please",
    "say",
    "show",
    "summarise",
    "summarize",
    "tell",
    "translate",
    "what",
    "write",
];

/// What a question names, counts and denies, in its order. Questions with other marks have other answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marks(Vec<String>);

impl Marks {
    /// The marks of a question; `None` where it cannot be taken apart, being empty, too long or full of names.
    pub fn of(text: &str) -> Option<Self> {
        let question = Question::read(text).ok()?;
        let certain = question
            .named()
            .iter()
            .filter(|named| named.kind != NamedKind::MaybeName);
        let mut marks: Vec<String> = certain.map(|named| named.text.to_lowercase()).collect();
        marks.retain(|mark| !OPENINGS.contains(&mark.as_str()));
        let words = text.split(|c: char| !c.is_alphanumeric() && c != '.' && c != ',');
        for word in words.map(|word| word.trim_matches(['.', ','])) {
            let small = word.to_lowercase();
            let telling = TURNS.contains(&small.as_str()) || NUMBERS.contains(&small.as_str());
            // Numbers once more in their places: from 3 to 5 is not from 5 to 3.
            if telling || word.contains(|c: char| c.is_numeric()) {
                marks.push(small);
            }
        }
        // Signs that count and compare, and operators of any kind.
        let signs = text.chars().filter(|c| "+-*/=<>%^&|!~°€$£¥#@".contains(*c));
        marks.extend(signs.map(String::from));
        Some(Self(marks))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_thing_is_asked_about_has_other_marks() {
        let pairs = [
            ("What is the capital of France?", "What is the capital of Italy?"),
            ("How many legs have 3 dogs?", "How many legs have 4 dogs?"),
            ("How many legs have three dogs?", "How many legs have four dogs?"),
            ("Is the door open?", "Is the door not open?"),
            ("Why does it work?", "Why doesn't it work?"),
            ("Which river is the longest?", "Which river is the shortest?"),
            ("How do I go from 3 to 5?", "How do I go from 5 to 3?"),
            ("What is 7 + 2?", "What is 7 - 2?"),
            ("Tell me of Anna and Ben.", "Tell me of Anna and Bea."),
            ("What happened on 3 May 2020?", "What happened on 3 May 2021?"),
            ("When was it built?", "Where was it built?"),
            ("Write it with tests.", "Write it without tests."),
        ];
        for (a, b) in pairs {
            assert_ne!(Marks::of(a), Marks::of(b), "{a} | {b}");
        }
    }

    #[test]
    fn other_words_for_the_same_have_the_same_marks() {
        let pairs = [
            (
                "What is the capital of France?",
                "Please tell me the capital of France.",
            ),
            ("Describe a happy dog", "describe a glad dog"),
            ("Is the water cold?", "Is this water cold"),
        ];
        for (a, b) in pairs {
            assert_eq!(Marks::of(a), Marks::of(b), "{a} | {b}");
        }
        assert_eq!(Marks::of(""), None);
    }
}
