//! How a text is rewritten before it is cut into pieces.

use unicode_general_category::{GeneralCategory, get_general_category};
use unicode_normalization::UnicodeNormalization;
use unicode_segmentation::UnicodeSegmentation;

use super::byte_level;
use super::charsmap::Charsmap;
use super::pattern::Pattern;
use super::trie::Trie;

/// One rewriting step.
#[derive(Debug, Clone)]
pub(super) enum Normalizer {
    /// Canonical composition.
    Nfc,
    /// Canonical decomposition.
    Nfd,
    /// Compatibility composition.
    Nfkc,
    /// Compatibility decomposition.
    Nfkd,
    /// Each character by its lower-case form, without regard to its neighbours.
    Lowercase,
    /// Drops combining marks.
    StripAccents,
    /// Drops white space at the ends.
    Strip { left: bool, right: bool },
    /// Puts a text in front of a text that is not empty.
    Prepend(String),
    /// Replaces a fixed text.
    ReplaceText { from: String, to: String },
    /// Replaces what a pattern matches.
    ReplacePattern { from: Pattern, to: String },
    /// The stand-ins of bytes, see [`byte_level`].
    ByteLevel,
    /// Drops control characters and turns unusual spaces into plain ones.
    Nmt,
    /// BERT's cleaning.
    Bert(Bert),
    /// SentencePiece's table, looked up for each grapheme cluster, then for each character.
    Precompiled(Charsmap),
    /// SentencePiece's own walk over the text.
    SentencePiece(SentencePiece),
}

/// What BERT's normalisation does; see [`Normalizer::Bert`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Bert {
    pub(super) clean_text: bool,
    pub(super) space_chinese: bool,
    pub(super) strip_accents: bool,
    pub(super) lowercase: bool,
}

/// The normalisation rules of a SentencePiece model.
#[derive(Debug, Clone)]
pub(super) struct SentencePiece {
    pub(super) charsmap: Option<Charsmap>,
    /// Texts that are kept as they are.
    pub(super) kept: Trie,
    /// Whether a text starts with a space.
    pub(super) space_prefix: bool,
    /// Whether runs of spaces become one and those at the ends none.
    pub(super) merge_spaces: bool,
}

/// SentencePiece's visible space.
pub(super) const SPACE: char = '\u{2581}';

/// Steps that rewrite a text: the longest of real vocabularies have six.
pub(super) const STEPS_MAX: usize = 64;

/// Bytes that one step puts in the place of what it finds: real ones put one character there.
pub(super) const REPLACEMENT_MAX: usize = 256;

/// How much longer a text becomes: compatibility decomposition makes 11 bytes of one, and byte stand-ins double that.
const GROWTH_MAX: usize = 32;

/// What a text may grow by on top: marks in front of short ones.
const GROWTH_BYTES: usize = 4096;

/// `text` after all of `steps`. It does not grow without bound: where steps make it longer than any vocabulary does,
/// what is too long is left out.
pub(super) fn apply_all(steps: &[Normalizer], text: &str) -> String {
    let most = text.len().saturating_mul(GROWTH_MAX).saturating_add(GROWTH_BYTES);
    steps.iter().fold(text.to_owned(), |text, step| {
        let mut text = step.apply(&text, most);
        text.truncate(text.floor_char_boundary(most));
        text
    })
}

impl Normalizer {
    /// `text` rewritten. Once `most` bytes are there, what is replaced by longer texts may be left as it is.
    fn apply(&self, text: &str, most: usize) -> String {
        match self {
            Self::Nfc => text.nfc().collect(),
            Self::Nfd => text.nfd().collect(),
            Self::Nfkc => text.nfkc().collect(),
            Self::Nfkd => text.nfkd().collect(),
            Self::Lowercase => text.chars().flat_map(char::to_lowercase).collect(),
            Self::StripAccents => text.chars().filter(|&c| !is_mark(c)).collect(),
            Self::Strip { left, right } => strip(text, *left, *right).to_owned(),
            Self::Prepend(prefix) if !text.is_empty() => format!("{prefix}{text}"),
            Self::Prepend(_) => String::new(),
            Self::ReplaceText { from, to } => {
                let room = most.saturating_sub(text.len()) / to.len().max(1);
                text.replacen(from, to, if to.len() <= from.len() { usize::MAX } else { room })
            }
            Self::ReplacePattern { from, to } => from.replace_all(text, to, most),
            Self::ByteLevel => {
                let mut out = String::with_capacity(text.len() * 2);
                byte_level::encode(text, &mut out);
                out
            }
            Self::Nmt => text.chars().filter_map(nmt).collect(),
            Self::Bert(bert) => bert.apply(text),
            Self::Precompiled(charsmap) => precompiled(charsmap, text, most),
            Self::SentencePiece(rules) => rules.apply(text, most),
        }
    }
}

impl Bert {
    fn apply(self, text: &str) -> String {
        let cleaned = text
            .chars()
            .filter_map(|c| if self.clean_text { clean(c) } else { Some(c) });
        let mut spaced = String::with_capacity(text.len());
        for c in cleaned {
            if self.space_chinese && is_chinese(c) {
                spaced.extend([' ', c, ' ']);
            } else {
                spaced.push(c);
            }
        }
        if self.strip_accents {
            spaced = spaced.nfd().filter(|&c| !is_nonspacing_mark(c)).collect();
        }
        if self.lowercase {
            spaced = spaced.chars().flat_map(char::to_lowercase).collect();
        }
        spaced
    }
}

impl SentencePiece {
    fn apply(&self, text: &str, most: usize) -> String {
        let mut out = String::with_capacity(text.len() + text.len() / 2);
        let mut prefix_due = self.space_prefix;
        let mut in_word = false;
        let mut at = 0;
        while let Some(c) = text[at..].chars().next() {
            let rest = &text[at..];
            if out.len() > most {
                break;
            }
            let (len, normal) = self.normal_prefix(rest, c);
            for c in normal.chars() {
                if c == ' ' {
                    in_word = false;
                    if !self.merge_spaces {
                        out.push(SPACE);
                    }
                    continue;
                }
                if !in_word && (prefix_due || self.merge_spaces) {
                    out.push(SPACE);
                    prefix_due = false;
                }
                in_word = true;
                out.push(c);
            }
            at += len;
        }
        out
    }

    /// How many bytes of `rest` are rewritten next, and to what.
    fn normal_prefix<'a>(&'a self, rest: &'a str, first: char) -> (usize, &'a str) {
        if let Some((len, _)) = self.kept.longest_prefix(rest.as_bytes()) {
            return (len, &rest[..len]);
        }
        let mapped = self
            .charsmap
            .as_ref()
            .and_then(|map| map.longest_prefix(rest.as_bytes()));
        match mapped {
            Some((len, normal)) if rest.is_char_boundary(len) => (len, normal),
            _ => (first.len_utf8(), &rest[..first.len_utf8()]),
        }
    }
}

/// Looks `charsmap` up as the `tokenizers` library does: a short grapheme cluster as a whole first.
fn precompiled(charsmap: &Charsmap, text: &str, most: usize) -> String {
    let mut out = String::with_capacity(text.len());
    for cluster in text.graphemes(true) {
        if out.len() > most {
            break;
        }
        match charsmap.first_prefix(cluster) {
            Some(normal) if cluster.len() < 6 => out.push_str(normal),
            _ => {
                for c in cluster.chars() {
                    match charsmap.first_prefix(c.encode_utf8(&mut [0; 4])) {
                        Some(normal) => out.push_str(normal),
                        None => out.push(c),
                    }
                }
            }
        }
    }
    out
}

fn strip(text: &str, left: bool, right: bool) -> &str {
    let text = if left { text.trim_start() } else { text };
    if right { text.trim_end() } else { text }
}

fn clean(c: char) -> Option<char> {
    match c {
        '\0' | '\u{fffd}' => None,
        '\t' | '\n' | '\r' => Some(' '),
        _ if is_control(c) => None,
        _ if c.is_whitespace() => Some(' '),
        _ => Some(c),
    }
}

fn nmt(c: char) -> Option<char> {
    match c as u32 {
        0x01..=0x08 | 0x0b | 0x0e..=0x1f | 0x7f | 0x8f | 0x9f => None,
        0x09 | 0x0a | 0x0c | 0x0d | 0x1680 | 0x200b..=0x200f | 0x2028 | 0x2029 | 0x2581 | 0xfeff | 0xfffd => {
            Some(' ')
        }
        _ => Some(c),
    }
}

fn is_control(c: char) -> bool {
    use GeneralCategory::{Control, Format, PrivateUse};
    matches!(get_general_category(c), Control | Format | PrivateUse)
}

fn is_nonspacing_mark(c: char) -> bool {
    get_general_category(c) == GeneralCategory::NonspacingMark
}

fn is_mark(c: char) -> bool {
    use GeneralCategory::{EnclosingMark, NonspacingMark, SpacingMark};
    matches!(
        get_general_category(c),
        NonspacingMark | SpacingMark | EnclosingMark
    )
}

/// The blocks that BERT treats as words of one character. U+2B820 to U+2B91F are missing as in the library
/// that made the vocabularies.
fn is_chinese(c: char) -> bool {
    matches!(
        c as u32,
        0x3400..=0x4dbf
            | 0x4e00..=0x9fff
            | 0xf900..=0xfaff
            | 0x20000..=0x2a6df
            | 0x2a700..=0x2b73f
            | 0x2b740..=0x2b81f
            | 0x2b920..=0x2ceaf
            | 0x2f800..=0x2fa1f
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bert_cleans_strips_and_lowers() {
        let bert = Bert {
            clean_text: true,
            space_chinese: true,
            strip_accents: true,
            lowercase: true,
        };
        assert_eq!(bert.apply("Äpfel\u{0}\t中\u{ad}İ"), "apfel  中 i");
        let cased = Bert {
            strip_accents: false,
            lowercase: false,
            ..bert
        };
        assert_eq!(cased.apply("Äpfel"), "Äpfel");
    }

    #[test]
    fn sentencepiece_merges_spaces_or_keeps_them() {
        let rules = |space_prefix, merge_spaces| SentencePiece {
            charsmap: None,
            kept: Trie::default(),
            space_prefix,
            merge_spaces,
        };
        assert_eq!(rules(true, true).apply("  a  b ", 99), "▁a▁b");
        assert_eq!(rules(true, false).apply(" a b", 99), "▁▁a▁b");
        assert_eq!(rules(false, false).apply("a b", 99), "a▁b");
        assert_eq!(rules(true, true).apply("   ", 99), "");
    }

    #[test]
    fn simple_steps_do_what_they_say() {
        assert_eq!(Normalizer::Nfc.apply("e\u{301}", 99), "é");
        assert_eq!(Normalizer::Lowercase.apply("ΑΣ", 99), "ασ");
        assert_eq!(
            Normalizer::Strip {
                left: true,
                right: false
            }
            .apply(" a ", 99),
            "a "
        );
        assert_eq!(Normalizer::Prepend("▁".to_owned()).apply("", 99), "");
        assert_eq!(Normalizer::Nmt.apply("a\u{1}\u{200b}b", 99), "a b");
        assert_eq!(Normalizer::ByteLevel.apply(" é", 99), "ĠÃ©");
    }

    #[test]
    fn a_text_does_not_grow_without_bound() {
        let doubled = |of: &str| Normalizer::ReplaceText {
            from: "a".to_owned(),
            to: of.to_owned(),
        };
        let steps = vec![doubled("aa"); 60];
        let text = apply_all(&steps, &"a".repeat(1000));
        assert!(text.len() <= 1000 * GROWTH_MAX + GROWTH_BYTES, "{}", text.len());
        assert_eq!(apply_all(&steps[..4], "aba"), format!("{0}b{0}", "a".repeat(16)));
        let pattern = Normalizer::ReplacePattern {
            from: Pattern::new("[aé]").unwrap(),
            to: "éa".to_owned(),
        };
        let text = apply_all(&vec![pattern; 60], "aé");
        assert!(text.len() <= 3 * GROWTH_MAX + GROWTH_BYTES);
        // U+FDFA is 18 characters long when it is taken apart.
        let longest = "\u{fdfa}".repeat(10_000);
        let steps = [Normalizer::Nfkd, Normalizer::ByteLevel];
        assert_eq!(
            apply_all(&steps, &longest),
            Normalizer::ByteLevel.apply(&Normalizer::Nfkd.apply(&longest, 0), 0)
        );
    }
}
