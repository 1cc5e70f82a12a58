//! A text cut into spans: a few sentences each, small enough to choose among and whole enough to be read alone.
//!
//! Spans follow each other and nothing but white space lies between them.

use std::ops::Range;

/// A span is closed once it has this many bytes: two or three sentences, about 60 tokens.
const BYTES_WANTED: usize = 260;

/// A sentence that would make a span longer than this begins the next one; a longer sentence is cut.
const BYTES_MAX: usize = 480;

/// A paragraph's end closes a span only from this length on, so that a text of `n` bytes has at most `n / 80 + 1` spans.
pub(super) const BYTES_MIN: usize = 80;

/// Words with a full stop that ends no sentence.
const SHORTENED: &[&str] = &[
    "dr", "mr", "mrs", "ms", "st", "no", "vs", "prof", "sr", "jr", "nr", "inc", "ltd", "co", "eg", "ie",
];

/// The byte ranges of the spans of `text`, in order, without the white space around them.
pub(super) fn spans(text: &str) -> Vec<Range<usize>> {
    let mut spans = Vec::new();
    let mut open = 0..0;
    for unit in Units::of(text) {
        if open.len() + unit.bytes.len() > BYTES_MAX && open.len() >= BYTES_MIN {
            close(text, &mut open, &mut spans);
        }
        open.end = unit.bytes.end;
        let full = open.len() >= BYTES_WANTED;
        if full || (unit.ends_paragraph && text[open.clone()].trim().len() >= BYTES_MIN) {
            close(text, &mut open, &mut spans);
        }
    }
    close(text, &mut open, &mut spans);
    spans
}

/// Adds the trimmed span, if anything is left of it, and opens the next where it ended.
fn close(text: &str, open: &mut Range<usize>, spans: &mut Vec<Range<usize>>) {
    let whole = &text[open.clone()];
    let start = open.start + (whole.len() - whole.trim_start().len());
    let end = start + whole.trim().len();
    if start < end {
        spans.push(start..end);
    }
    open.start = open.end;
}

/// A sentence, a line, or a part of one that is too long.
struct Unit {
    bytes: Range<usize>,
    ends_paragraph: bool,
}

struct Units<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Units<'a> {
    fn of(text: &'a str) -> Self {
        Self { text, at: 0 }
    }
}

impl Iterator for Units<'_> {
    type Item = Unit;

    fn next(&mut self) -> Option<Unit> {
        let start = self.at;
        if start == self.text.len() {
            return None;
        }
        let most = self.text.floor_char_boundary(start.saturating_add(BYTES_MAX));
        let end = sentence_end(self.text, start, most).unwrap_or_else(|| cut(self.text, start, most));
        // The white space behind belongs to the unit, so that units tile the text.
        let rest = &self.text[end..];
        let space = rest.len() - rest.trim_start().len();
        let gap = &rest[..space];
        self.at = end + space;
        Some(Unit {
            bytes: start..self.at,
            ends_paragraph: gap.bytes().filter(|&b| b == b'\n').count() > 1,
        })
    }
}

/// Where the first sentence or line of `text[start..most]` ends, before the white space behind it.
fn sentence_end(text: &str, start: usize, most: usize) -> Option<usize> {
    let bytes = &text.as_bytes()[start..most];
    for (at, &byte) in bytes.iter().enumerate() {
        let after = bytes.get(at + 1);
        let ends = match byte {
            b'\n' => at > 0,
            b'.' => closes(bytes, at + 1) && !shortened(&bytes[..at]),
            b'!' | b'?' => closes(bytes, at + 1),
            // The full stops of Chinese and Japanese need no space behind them.
            0xe3 if bytes[at..].starts_with("。".as_bytes()) => return Some(start + at + 3),
            _ => false,
        };
        if ends {
            let quoted = matches!(after, Some(b'"' | b'\'' | b')'));
            return Some(start + at + usize::from(byte != b'\n') + usize::from(quoted && byte != b'\n'));
        }
    }
    (most == text.len()).then_some(most)
}

/// Whether a sentence may end before `bytes[at..]`: white space follows, maybe behind one closing mark.
fn closes(bytes: &[u8], at: usize) -> bool {
    let behind = match bytes.get(at) {
        Some(b'"' | b'\'' | b')') => bytes.get(at + 1),
        other => other,
    };
    behind.is_none_or(u8::is_ascii_whitespace)
}

/// Whether the word at the end of `bytes` is one that a full stop shortens: a single letter, or one of the list.
fn shortened(bytes: &[u8]) -> bool {
    let letters = bytes.iter().rev().take_while(|b| b.is_ascii_alphabetic()).count();
    let word = &bytes[bytes.len() - letters..];
    letters == 1 || SHORTENED.iter().any(|s| word.eq_ignore_ascii_case(s.as_bytes()))
}

/// The last white space in the second half of a piece that has no end, or its end.
fn cut(text: &str, start: usize, most: usize) -> usize {
    let piece = &text[start..most];
    match piece.rfind(char::is_whitespace) {
        Some(at) if at > piece.len() / 2 => start + at,
        _ => most,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is true of every text: in order, at characters, nothing lost but white space, each within its bounds.
    fn check(text: &str) -> Vec<&str> {
        let spans = spans(text);
        let mut at = 0;
        for span in &spans {
            assert!(
                text[at..span.start].trim().is_empty(),
                "{:?}",
                &text[at..span.start]
            );
            assert_eq!(text[span.clone()].trim(), &text[span.clone()]);
            assert!(!span.is_empty() && span.len() <= BYTES_WANTED + BYTES_MAX);
            at = span.end;
        }
        assert!(text[at..].trim().is_empty());
        assert!(spans.len() <= text.len() / BYTES_MIN + 1);
        spans.into_iter().map(|s| &text[s]).collect()
    }

    #[test]
    fn sentences_stay_whole_and_paragraphs_apart() {
        let long = "The harbour was rebuilt after the storm by Dr. J. Hall and his men. ".repeat(3);
        let text = format!(
            "{long}\n\nA second paragraph, which is a little longer than eighty bytes, stands by itself here.\n\nEnd."
        );
        let spans = check(&text);
        assert_eq!(spans.len(), 3, "{spans:?}");
        assert!(spans[1].starts_with("A second") && spans[2] == "End.");
        assert!(check("He said \"Go.\" Then he left.").len() == 1);
    }

    #[test]
    fn any_text_is_covered() {
        let cases = [
            String::new(),
            " \n\n ".into(),
            "word".into(),
            "x".repeat(5000),
            "日本語の文章です。".repeat(200),
            "é".repeat(3000),
            "a\n\n".repeat(4000),
            "a b ".repeat(4000),
            "\u{3000}\u{2028}x\u{85}y. ".repeat(100),
            "? ! . ".repeat(300),
            format!("{}\u{1F44B}", "z".repeat(479)),
        ];
        for text in cases {
            check(&text);
        }
    }
}
