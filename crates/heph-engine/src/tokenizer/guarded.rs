//! What others write into a text that a template makes: nobody's words become control tokens.
//!
//! A template writes a control token by its spelling, and so could a message that holds the same characters. Such words are guarded
//! before they are put into the template: marks, a character that stands in no text, are set between the characters of a spelling, and at
//! an end of the words where they could go on to be one. The text that comes out is read without its marks, and a control token is taken for
//! one only where no mark stands inside it. Whatever a template cuts off or puts beside such words, what is left of them stays marked.
//!
//! Tokens that the vocabulary does not call special are found in any text, as the model was trained.

use std::ops::Range;

use super::special::{AddedToken, AddedTokens, Section};
use super::trie::Trie;
use super::{AddSpecial, ParseSpecial, Tokenizer, bpe, normalizer};
use heph_types::TokenId;

/// The spellings of control tokens, to be found in what others write.
#[derive(Debug, Clone)]
pub(super) struct Spellings {
    whole: Trie,
    /// Each from its end to its beginning.
    backwards: Trie,
    starts: [bool; 256],
    longest: usize,
}

impl Spellings {
    fn new<'a>(texts: impl Iterator<Item = &'a str>) -> Self {
        let texts: Vec<&str> = texts.collect();
        let backwards: Vec<Vec<u8>> = texts.iter().map(|text| text.bytes().rev().collect()).collect();
        let whole = Trie::new(texts.iter().map(|text| (text.as_bytes(), 0)));
        Self {
            starts: whole.first_bytes(),
            whole,
            backwards: Trie::new(backwards.iter().map(|text| (text.as_slice(), 0))),
            longest: texts.iter().map(|text| text.len()).max().unwrap_or(0),
        }
    }

    /// Where marks belong in `text`, in order.
    fn places(&self, text: &str) -> Vec<usize> {
        let bytes = text.as_bytes();
        let begins = |at: usize| self.starts[usize::from(bytes[at])];
        let mut places = Vec::new();
        for at in (0..bytes.len()).filter(|&at| begins(at)) {
            if let Some((length, _)) = self.whole.longest_prefix(&bytes[at..]) {
                let inside = at + 1..at + length;
                let inside: Vec<usize> = inside.filter(|&at| text.is_char_boundary(at)).collect();
                // A token of one character has no inside, and stands between two.
                match inside.is_empty() {
                    true => places.extend([at, at + length]),
                    false => places.extend(inside),
                }
            }
        }
        // What is only a part of one could become whole by what comes beside it.
        let short = self.longest.min(bytes.len());
        if (bytes.len() - short..bytes.len()).any(|at| begins(at) && self.whole.begins(&bytes[at..])) {
            places.push(bytes.len());
        }
        let backwards: Vec<u8> = bytes[..short].iter().rev().copied().collect();
        if (0..short).any(|at| self.backwards.begins(&backwards[at..])) {
            places.push(0);
        }
        places.sort_unstable();
        places.dedup();
        places
    }
}

/// A text without its marks, and where they were.
struct Unmarked {
    text: String,
    marks: Vec<usize>,
}

impl Unmarked {
    fn of(text: &str, mark: char) -> Self {
        let mut unmarked = Self {
            text: String::with_capacity(text.len()),
            marks: Vec::new(),
        };
        for (number, part) in text.split(mark).enumerate() {
            if number > 0 {
                unmarked.marks.push(unmarked.text.len());
            }
            unmarked.text.push_str(part);
        }
        unmarked
    }

    /// Whether others wrote a part of what stands there.
    fn bars(&self, range: &Range<usize>) -> bool {
        let has = |at: usize| self.marks.binary_search(&at).is_ok();
        let behind = self.marks.partition_point(|&mark| mark <= range.start);
        let inside = self.marks.get(behind).is_some_and(|&mark| mark < range.end);
        // A longer one between two marks is a template's, between words of others.
        let is_short = || self.text[range.clone()].chars().nth(1).is_none();
        inside || (has(range.start) && has(range.end) && is_short())
    }

    /// A part of it with its marks.
    fn marked(&self, range: &Range<usize>, mark: char) -> String {
        let from = self.marks.partition_point(|&at| at < range.start);
        let mut marked = String::with_capacity(range.len());
        let mut done = range.start;
        for &at in self.marks[from..].iter().take_while(|&&at| at <= range.end) {
            marked.push_str(&self.text[done..at]);
            marked.push(mark);
            done = at;
        }
        marked.push_str(&self.text[done..range.end]);
        marked
    }
}

impl Tokenizer {
    /// `text`, which others wrote and which is to be put into a template, with `mark` where it would be read as a control token
    /// otherwise. `None` where it needs no guard: then it is read everywhere as it is. `mark` must not be in it.
    pub fn guard(&self, text: &str, mark: char) -> Option<String> {
        let places = self.spellings().places(text);
        if places.is_empty() {
            return None;
        }
        let mut guarded = String::with_capacity(text.len() + places.len() * mark.len_utf8());
        let mut done = 0;
        for at in &places {
            guarded.push_str(&text[done..*at]);
            guarded.push(mark);
            done = *at;
        }
        guarded.push_str(&text[done..]);
        Some(guarded)
    }

    /// The tokens of a text that a template made, into which words were put that are guarded by `mark`: its control tokens are those that
    /// the template wrote alone.
    pub fn encode_guarded(&self, text: &str, mark: char, add: AddSpecial) -> Vec<TokenId> {
        let unmarked = Unmarked::of(text, mark);
        if unmarked.marks.is_empty() {
            return self.encode(text, add, ParseSpecial::Yes);
        }
        let mut ids = Vec::with_capacity(text.len() / 3 + 2);
        if add == AddSpecial::Yes {
            ids.extend(&self.prefix);
        }
        let mut scratch = bpe::Scratch::default();
        for section in self.unbarred(&self.added, &unmarked) {
            match section {
                Section::Token(id) => ids.push(id),
                Section::Text(range) => {
                    let first = range.start == 0;
                    let (text, sections) = self.rewritten(&unmarked, &range, mark);
                    self.encode_sections(&text, sections, first, &mut scratch, &mut ids);
                }
            }
        }
        if add == AddSpecial::Yes {
            ids.extend(&self.suffix);
        }
        ids.into_iter().map(TokenId).collect()
    }

    /// A part of the text as normalisers leave it, and its sections.
    fn rewritten(&self, unmarked: &Unmarked, range: &Range<usize>, mark: char) -> (String, Vec<Section>) {
        let of_templates = |token: &AddedToken| self.is_for_templates(token);
        if self.added_normalized.tokens().iter().any(of_templates) {
            // Where normalisers move characters, they move the marks with them.
            let marked = unmarked.marked(range, mark);
            let rewritten = normalizer::apply_all(&self.normalizers, &marked);
            let rewritten = Unmarked::of(&rewritten, mark);
            if rewritten.marks.len() == marked.matches(mark).count() {
                let sections = self.unbarred(&self.added_normalized, &rewritten);
                return (rewritten.text, sections);
            }
        }
        // No control token is found here any more, or none may be, since a normaliser lost who wrote what.
        let text = normalizer::apply_all(&self.normalizers, &unmarked.text[range.clone()]);
        let sections = self.added_normalized.sections(&text, ParseSpecial::No);
        (text, sections)
    }

    /// The sections of a text in which no control token stands that others wrote a part of.
    fn unbarred(&self, added: &AddedTokens, unmarked: &Unmarked) -> Vec<Section> {
        added.sections_but(&unmarked.text, |token, range| {
            self.is_for_templates(token) && unmarked.bars(range)
        })
    }

    /// Whether a token is for templates alone: those that the vocabulary calls special, and those that begin a text or end an answer,
    /// whatever it calls them.
    fn is_for_templates(&self, token: &AddedToken) -> bool {
        let ends = || self.eog_ids().contains(&TokenId(token.id));
        token.special || self.special.bos == Some(token.id) || ends()
    }

    fn spellings(&self) -> &Spellings {
        self.spellings.get_or_init(|| {
            let added = self.added.tokens().iter().chain(self.added_normalized.tokens());
            let found = added.filter(|token| self.is_for_templates(token));
            Spellings::new(found.filter_map(|token| self.token_text(TokenId(token.id))))
        })
    }
}
