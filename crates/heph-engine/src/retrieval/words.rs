//! The words of a text, and when two of them are the same.

use std::borrow::Cow;
use std::ops::Range;
use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

/// A word as it stands in a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Word<'a> {
    pub(super) text: &'a str,
    pub(super) bytes: Range<usize>,
}

impl Word<'_> {
    /// Whether it begins as a name does.
    pub(super) fn capital(&self) -> bool {
        self.text.chars().next().is_some_and(char::is_uppercase)
    }

    /// Whether it holds a digit: a number, a code, a part of a date.
    pub(super) fn digits(&self) -> bool {
        self.text.bytes().any(|b| b.is_ascii_digit())
    }
}

/// The words of `text` in order. A mark between two digits belongs to their number: `1,240`, `3.5`, `14:30`. A
/// character of a script without spaces is a word.
pub(super) fn words(text: &str) -> impl Iterator<Item = Word<'_>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = at + text[at..].find(char::is_alphanumeric)?;
        at = end_of_word(text, start);
        Some(Word {
            text: &text[start..at],
            bytes: start..at,
        })
    })
}

fn end_of_word(text: &str, start: usize) -> usize {
    let mut chars = text[start..].char_indices().peekable();
    let mut before = '\0';
    while let Some((at, c)) = chars.next() {
        if unspaced(c) {
            return start + if at == 0 { c.len_utf8() } else { at };
        }
        let inside = |next: Option<&(usize, char)>| {
            matches!(c, ',' | '.' | ':')
                && before.is_ascii_digit()
                && next.is_some_and(|(_, n)| n.is_ascii_digit())
        };
        if !c.is_alphanumeric() && !is_combining_mark(c) && !inside(chars.peek()) {
            return start + at;
        }
        before = c;
    }
    text.len()
}

/// Chinese, Japanese and Thai write without spaces.
fn unspaced(c: char) -> bool {
    matches!(c, '\u{e00}'..='\u{e7f}' | '\u{3040}'..='\u{30ff}' | '\u{3400}'..='\u{9fff}' | '\u{20000}'..='\u{3ffff}')
}

/// The word that all its spellings share: lower case, without accents, numbers without the marks between thousands.
pub(super) fn key(word: &str) -> Cow<'_, str> {
    if word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()) {
        return Cow::Borrowed(word);
    }
    let number = word.bytes().all(|b| b.is_ascii_digit() || b == b',' || b == b'.');
    let bare = word.chars().filter(|&c| !(number && c == ','));
    if word.is_ascii() {
        return Cow::Owned(bare.map(|c| c.to_ascii_lowercase()).collect());
    }
    let plain = word.nfkd().filter(|&c| !is_combining_mark(c));
    Cow::Owned(plain.flat_map(char::to_lowercase).collect())
}

/// What is left of a key without the endings of English: `walks`, `walked` and `walking` become one.
pub(super) fn stem(key: &str) -> &str {
    if !key.is_ascii() || key.len() < 4 || key.bytes().any(|b| b.is_ascii_digit()) {
        return key;
    }
    let base = ["ingly", "edly", "ing", "ied", "ies", "ed", "es", "ly", "s"]
        .iter()
        .find_map(|ending| key.strip_suffix(ending).filter(|base| base.len() >= 3))
        .unwrap_or(key);
    let base = base
        .strip_suffix(['e', 'y'])
        .filter(|b| b.len() >= 3)
        .unwrap_or(base);
    let bytes = base.as_bytes();
    match bytes {
        [.., a, b] if a == b && bytes.len() > 3 && !b"ls".contains(b) => &base[..base.len() - 1],
        _ => base,
    }
}

/// Words that a question is made of and that tell nothing about what is sought.
const SMALL: &[&str] = &[
    "a", "about", "after", "all", "also", "am", "an", "and", "any", "are", "as", "at", "be", "because",
    "been", "before", "being", "but", "by", "can", "could", "did", "do", "does", "during", "each", "find",
    "for", "from", "give", "had", "has", "have", "he", "her", "here", "hers", "him", "his", "how", "i", "if",
    "in", "into", "is", "it", "its", "just", "know", "let", "list", "many", "may", "me", "might", "more",
    "most", "much", "must", "my", "no", "not", "of", "on", "one", "only", "or", "other", "our", "out",
    "over", "please", "s", "said", "say", "shall", "she", "should", "show", "so", "some", "such", "t",
    "tell", "than", "that", "the", "their", "them", "then", "there", "these", "they", "this", "those", "to",
    "under", "until", "up", "upon", "us", "was", "we", "were", "what", "when", "where", "which", "while",
    "who", "whom", "whose", "why", "will", "with", "would", "you", "your",
];

/// Whether a key is one of the small words.
pub(super) fn small(key: &str) -> bool {
    SMALL.binary_search(&key).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_their_marks_and_scripts_without_spaces_have_words() {
        let found: Vec<_> = words("At 14:30, 1,240 men; NE-7. Café 日本!")
            .map(|w| w.text)
            .collect();
        assert_eq!(
            found,
            ["At", "14:30", "1,240", "men", "NE", "7", "Café", "日", "本"]
        );
        let at: Vec<_> = words(" é a").map(|w| w.bytes).collect();
        assert_eq!(at, [1..3, 4..5]);
    }

    #[test]
    fn spellings_meet() {
        for (one, other) in [
            ("1,240", "1240"),
            ("Café", "cafe"),
            ("Straße", "straße"),
            ("ΑΘΗΝΑ", "αθηνα"),
        ] {
            assert_eq!(key(one), key(other), "{one}");
        }
        for family in [
            &["walk", "walks", "walked", "walking"][..],
            &["city", "cities"],
            &["hire", "hired", "hiring"],
            &["stop", "stopped"],
        ] {
            assert!(family.iter().all(|w| stem(w) == stem(family[0])), "{family:?}");
        }
        assert_ne!(stem("1987"), stem("1986"));
    }

    #[test]
    fn the_small_words_are_sorted() {
        assert!(SMALL.is_sorted());
        assert!(small("the") && !small("harbour"));
    }
}
