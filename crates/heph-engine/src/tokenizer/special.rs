//! Tokens that are cut out of a text before anything else looks at it.

use std::ops::Range;

use unicode_general_category::{GeneralCategory, get_general_category};

use super::ParseSpecial;
use super::trie::Trie;

/// A token that is found by its text.
#[derive(Debug, Clone, Copy)]
pub(super) struct AddedToken {
    pub(super) id: u32,
    /// Found only where the caller asks for special tokens.
    pub(super) special: bool,
    /// Swallows white space before it.
    pub(super) strip_left: bool,
    /// Swallows white space after it.
    pub(super) strip_right: bool,
    /// Not found inside a word.
    pub(super) single_word: bool,
}

/// Finds added tokens: the leftmost first, and of those the longest.
#[derive(Debug, Clone, Default)]
pub(super) struct AddedTokens {
    tokens: Vec<AddedToken>,
    all: Matcher,
    /// Those that are not special; absent where that is all of them.
    ordinary: Option<Matcher>,
}

#[derive(Debug, Clone)]
struct Matcher {
    trie: Trie,
    starts: [bool; 256],
}

impl Default for Matcher {
    fn default() -> Self {
        Self::new(Trie::default())
    }
}

impl Matcher {
    fn new(trie: Trie) -> Self {
        let starts = trie.first_bytes();
        Self { trie, starts }
    }
}

/// A stretch of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Section {
    /// This token.
    Token(u32),
    /// Text without added tokens.
    Text(Range<usize>),
}

impl AddedTokens {
    /// A finder of tokens by their texts. Tokens without text are never found.
    pub(super) fn new<T: AsRef<str>>(entries: impl IntoIterator<Item = (T, AddedToken)>) -> Self {
        let (texts, tokens): (Vec<T>, Vec<AddedToken>) = entries.into_iter().unzip();
        let matcher = |wanted: &dyn Fn(&AddedToken) -> bool| {
            let entries = texts.iter().zip(&tokens).zip(0..);
            let entries = entries.filter(|((_, token), _)| wanted(token));
            Matcher::new(Trie::new(
                entries.map(|((text, _), at)| (text.as_ref().as_bytes(), at)),
            ))
        };
        let all = matcher(&|_| true);
        let any_special = tokens.iter().any(|token| token.special);
        let ordinary = any_special.then(|| matcher(&|token| !token.special));
        Self {
            tokens,
            all,
            ordinary,
        }
    }

    /// All of them.
    pub(super) fn tokens(&self) -> &[AddedToken] {
        &self.tokens
    }

    /// The sections of `text` in order; no section is empty text.
    pub(super) fn sections(&self, text: &str, parse: ParseSpecial) -> Vec<Section> {
        let matcher = match parse {
            ParseSpecial::Yes => &self.all,
            ParseSpecial::No => self.ordinary.as_ref().unwrap_or(&self.all),
        };
        self.cut(matcher, text, |_, _| true)
    }

    /// The same with special tokens, where what stands there is not `barred` as such a token.
    pub(super) fn sections_but(
        &self,
        text: &str,
        barred: impl Fn(&AddedToken, &Range<usize>) -> bool,
    ) -> Vec<Section> {
        self.cut(&self.all, text, |token, range| !barred(token, range))
    }

    fn cut(
        &self,
        matcher: &Matcher,
        text: &str,
        may: impl Fn(&AddedToken, &Range<usize>) -> bool,
    ) -> Vec<Section> {
        let mut sections = Vec::new();
        let (mut at, mut done) = (0, 0);
        while let Some((start, end, token)) = self.next(matcher, text, at, &may) {
            at = end;
            if token.single_word && (ends_in_word(&text[..start]) || starts_in_word(&text[end..])) {
                continue;
            }
            let start = if token.strip_left {
                text[..start].trim_end().len().max(done)
            } else {
                start
            };
            if done < start {
                sections.push(Section::Text(done..start));
            }
            sections.push(Section::Token(token.id));
            let after = &text[end..];
            done = if token.strip_right {
                text.len() - after.trim_start().len()
            } else {
                end
            };
            at = at.max(done);
        }
        if done < text.len() {
            sections.push(Section::Text(done..text.len()));
        }
        sections
    }

    fn next(
        &self,
        matcher: &Matcher,
        text: &str,
        from: usize,
        may: impl Fn(&AddedToken, &Range<usize>) -> bool,
    ) -> Option<(usize, usize, &AddedToken)> {
        let bytes = text.as_bytes();
        (from..bytes.len())
            .filter(|&at| matcher.starts[usize::from(bytes[at])])
            .find_map(|at| {
                let found = matcher.trie.prefixes(&bytes[at..]);
                let found = found.map(|(len, token)| (at..at + len, &self.tokens[token as usize]));
                let (range, token) = found.filter(|(range, token)| may(token, range)).last()?;
                Some((range.start, range.end, token))
            })
    }
}

fn ends_in_word(text: &str) -> bool {
    text.chars().next_back().is_some_and(is_word)
}

fn starts_in_word(text: &str) -> bool {
    text.chars().next().is_some_and(is_word)
}

/// What `\w` matches.
fn is_word(c: char) -> bool {
    use GeneralCategory::{ConnectorPunctuation, DecimalNumber, EnclosingMark, NonspacingMark, SpacingMark};
    let parts = [
        ConnectorPunctuation,
        DecimalNumber,
        EnclosingMark,
        NonspacingMark,
        SpacingMark,
    ];
    c.is_alphabetic() || parts.contains(&get_general_category(c)) || matches!(c, '\u{200c}' | '\u{200d}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(id: u32, text: &'static str) -> (&'static str, AddedToken) {
        let token = AddedToken {
            id,
            special: false,
            strip_left: false,
            strip_right: false,
            single_word: false,
        };
        (text, token)
    }

    fn with(
        mut token: (&'static str, AddedToken),
        change: impl Fn(&mut AddedToken),
    ) -> (&'static str, AddedToken) {
        change(&mut token.1);
        token
    }

    fn sections(tokens: Vec<(&str, AddedToken)>, text: &str, parse: ParseSpecial) -> String {
        let found = AddedTokens::new(tokens).sections(text, parse);
        let words = found.into_iter().map(|section| match section {
            Section::Token(id) => id.to_string(),
            Section::Text(range) => format!("[{}]", &text[range]),
        });
        words.collect()
    }

    #[test]
    fn the_leftmost_longest_token_is_found() {
        let tokens = vec![token(1, "<a>"), token(2, "<a>b"), token(3, "")];
        assert_eq!(
            sections(tokens.clone(), "x<a>by<a>", ParseSpecial::Yes),
            "[x]2[y]1"
        );
        assert_eq!(sections(tokens.clone(), "<a", ParseSpecial::Yes), "[<a]");
        assert_eq!(sections(tokens, "", ParseSpecial::Yes), "");
    }

    #[test]
    fn special_tokens_are_text_unless_asked_for() {
        let special = with(token(1, "<s>"), |token| token.special = true);
        let tokens = vec![special, token(2, "  ")];
        assert_eq!(sections(tokens.clone(), "<s>  x", ParseSpecial::No), "[<s>]2[x]");
        assert_eq!(sections(tokens, "<s>  x", ParseSpecial::Yes), "12[x]");
    }

    #[test]
    fn tokens_swallow_white_space_as_told() {
        let left = with(token(1, "<l>"), |token| token.strip_left = true);
        let right = with(token(2, "<r>"), |token| token.strip_right = true);
        assert_eq!(
            sections(vec![left, right], "a \n<l> b<r> \t<r> <l>", ParseSpecial::Yes),
            "[a]1[ b]221"
        );
    }

    #[test]
    fn a_single_word_token_is_not_part_of_a_word() {
        let word = with(token(1, "ab"), |token| token.single_word = true);
        assert_eq!(
            sections(vec![word], "ab cab abc-ab", ParseSpecial::Yes),
            "1[ cab abc-]1"
        );
    }
}
