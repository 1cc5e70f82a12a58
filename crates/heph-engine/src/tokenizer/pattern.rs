//! Regular expressions as vocabularies use them.

use std::ops::Range;

use super::TokenizerError;

/// A pattern with look-around, matched by backtracking.
///
/// A match that takes more steps than the engine allows counts as none: the text is then cut more coarsely,
/// never endlessly.
#[derive(Debug, Clone)]
pub(super) struct Pattern(fancy_regex::Regex);

impl Pattern {
    /// Compiles `pattern`.
    pub(super) fn new(pattern: &str) -> Result<Self, TokenizerError> {
        let compiled = fancy_regex::Regex::new(pattern);
        let wrong = |cause| TokenizerError::Pattern {
            pattern: pattern.to_owned(),
            cause: Box::new(cause),
        };
        compiled.map(Self).map_err(wrong)
    }

    /// A pattern that matches exactly `text`.
    pub(super) fn literal(text: &str) -> Result<Self, TokenizerError> {
        Self::new(&fancy_regex::escape(text))
    }

    /// Where the pattern matches in `text`, from left to right, without overlap.
    pub(super) fn matches<'a>(&'a self, text: &'a str) -> impl Iterator<Item = Range<usize>> + 'a {
        self.0
            .find_iter(text)
            .map_while(Result::ok)
            .map(|found| found.range())
    }

    /// `text` with each match replaced by `to`, those left out that come once there are `most` bytes.
    pub(super) fn replace_all(&self, text: &str, to: &str, most: usize) -> String {
        let mut out = String::with_capacity(text.len());
        let mut done = 0;
        for found in self.matches(text) {
            if out.len() > most {
                break;
            }
            out.push_str(&text[done..found.start]);
            out.push_str(to);
            done = found.end;
        }
        out.push_str(&text[done..]);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn look_ahead_and_classes_work() {
        let pattern = Pattern::new(r"\p{Lu}\p{Ll}+|\s+(?!\S)|\s+").unwrap();
        let text = "Ab  Äö ";
        let found: Vec<&str> = pattern.matches(text).map(|range| &text[range]).collect();
        assert_eq!(found, ["Ab", " ", " ", "Äö", " "]);
    }

    #[test]
    fn replacement_is_literal() {
        assert_eq!(
            Pattern::literal("a.").unwrap().replace_all("a.ab", "$0", 99),
            "$0ab"
        );
        assert_eq!(
            Pattern::literal("a").unwrap().replace_all("aaaa", "bb", 3),
            "bbbbaa"
        );
    }

    #[test]
    fn a_broken_pattern_is_an_error() {
        assert!(Pattern::new("(").is_err());
    }
}
