//! How a text is cut into the pieces that a model then spells each on its own.

use std::ops::Range;

use unicode_general_category::{GeneralCategory, get_general_category};

use super::byte_level;
use super::pattern::Pattern;

/// A text and the places where it is cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pieces {
    text: String,
    ranges: Vec<Range<usize>>,
    /// Whether the first piece is the start of the whole input.
    first: bool,
}

/// One cutting step; it sees each piece as a text of its own.
#[derive(Debug, Clone)]
pub(super) enum Cut {
    /// Cuts around the matches of a pattern.
    Pattern {
        pattern: Pattern,
        matches: Matches,
        invert: bool,
    },
    /// Cuts runs of digits into threes, counted from their right end.
    Thousands(Thousands),
    /// Cuts into pieces of this many characters.
    Length(usize),
    /// Puts a space in front of each piece that has none.
    SpacePrefix,
    /// Turns spaces into SentencePiece's visible ones, and may cut in front of each.
    Metaspace { mark: char, prefix: Prefix, cut: bool },
    /// Replaces each byte by its stand-in.
    ByteLevel,
}

/// What becomes of the matches of a pattern and the text between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Matches {
    /// Each is a piece of its own.
    Isolated,
    /// Matches are dropped.
    Removed,
    /// Matches that touch are one piece.
    Contiguous,
    /// A match ends the piece before it.
    WithPrevious,
    /// A match starts the piece after it.
    WithNext,
}

/// The two ways in which vocabularies cut numbers into threes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Thousands {
    /// `\d{1,3}(?=(?:\d{3})*\b)`: a run that ends at a word boundary is cut off from its neighbours.
    Isolated,
    /// `(?=(\d{3})+(?!\d))`: a cut in front of each three digits, and nowhere else.
    Before,
}

/// Which pieces get a visible space in front.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Prefix {
    /// All.
    Always,
    /// The one that starts the input.
    First,
    /// None.
    Never,
}

impl Pieces {
    /// The whole of `text` as one piece; `first` if it starts the input.
    pub(super) fn new(text: String, first: bool) -> Self {
        let whole = 0..text.len();
        Self {
            text,
            ranges: vec![whole],
            first,
        }
    }

    /// The pieces that are not empty, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &str> {
        self.ranges
            .iter()
            .filter(|range| !range.is_empty())
            .map(|range| &self.text[range.clone()])
    }

    /// The pieces after one more step.
    pub(super) fn cut(self, step: &Cut) -> Self {
        match step {
            Cut::Pattern {
                pattern,
                matches,
                invert,
            } => self.split(|piece, out| by_pattern(piece, pattern, *matches, *invert, out)),
            Cut::Thousands(form) => self.split(|piece, out| thousands(piece, *form, out)),
            Cut::Length(length) => self.split(|piece, out| by_length(piece, *length, out)),
            Cut::SpacePrefix => self.rewrite(|piece, _, out| {
                if !piece.starts_with(' ') {
                    out.push(' ');
                }
                out.push_str(piece);
            }),
            Cut::ByteLevel => self.rewrite(|piece, _, out| byte_level::encode(piece, out)),
            Cut::Metaspace { mark, prefix, cut } => self.metaspace(*mark, *prefix, *cut),
        }
    }

    fn metaspace(self, mark: char, prefix: Prefix, cut: bool) -> Self {
        let marked = self.rewrite(|piece, first, out| {
            let starts = piece.starts_with([' ', mark]);
            let wanted = prefix == Prefix::Always || (prefix == Prefix::First && first);
            if wanted && !starts {
                out.push(mark);
            }
            out.extend(piece.chars().map(|c| if c == ' ' { mark } else { c }));
        });
        if cut {
            marked.split(|piece, out| before_each(piece, mark, out))
        } else {
            marked
        }
    }

    /// Cuts each piece by `split`, which adds ranges of its argument.
    fn split(mut self, mut split: impl FnMut(&str, &mut Vec<Range<usize>>)) -> Self {
        let mut ranges = Vec::with_capacity(self.ranges.len() * 2);
        for range in &self.ranges {
            let start = ranges.len();
            split(&self.text[range.clone()], &mut ranges);
            for cut in &mut ranges[start..] {
                *cut = cut.start + range.start..cut.end + range.start;
            }
        }
        self.ranges = ranges;
        self
    }

    /// Rewrites each piece by `rewrite`, which is told whether the piece starts the input.
    fn rewrite(self, rewrite: impl Fn(&str, bool, &mut String)) -> Self {
        let mut text = String::with_capacity(self.text.len() * 2);
        let mut ranges = Vec::with_capacity(self.ranges.len());
        for range in &self.ranges {
            let start = text.len();
            rewrite(
                &self.text[range.clone()],
                self.first && range.start == 0,
                &mut text,
            );
            ranges.push(start..text.len());
        }
        Self {
            text,
            ranges,
            first: self.first,
        }
    }
}

fn by_pattern(piece: &str, pattern: &Pattern, matches: Matches, invert: bool, out: &mut Vec<Range<usize>>) {
    let base = out.len();
    let mut last_was_match = None;
    let mut add = |range: Range<usize>, found: bool| {
        let is_match = found != invert;
        let joins = match matches {
            Matches::Isolated => false,
            Matches::Removed if is_match => return,
            Matches::Removed => false,
            Matches::Contiguous => last_was_match == Some(is_match),
            Matches::WithPrevious => is_match && last_was_match == Some(false),
            Matches::WithNext => !is_match && last_was_match == Some(true),
        };
        last_was_match = Some(is_match);
        match out[base..].last_mut() {
            Some(last) if joins => last.end = range.end,
            _ => out.push(range),
        }
    };
    let mut done = 0;
    for found in pattern.matches(piece) {
        if done < found.start {
            add(done..found.start, false);
        }
        done = found.end;
        add(found, true);
    }
    if done < piece.len() {
        add(done..piece.len(), false);
    }
}

/// Does in one pass what the patterns named at [`Thousands`] mean; run as patterns they look at the rest of
/// a number again for each digit.
fn thousands(piece: &str, form: Thousands, out: &mut Vec<Range<usize>>) {
    let mut cuts = Vec::new();
    let mut chars = piece.char_indices().peekable();
    while let Some((start, c)) = chars.next() {
        if !is_digit(c) {
            continue;
        }
        let mut digits = vec![start];
        while let Some((at, _)) = chars.next_if(|&(_, c)| is_digit(c)) {
            digits.push(at);
        }
        let after = chars.peek().copied();
        if form == Thousands::Isolated {
            if after.is_some_and(|(_, c)| is_word(c)) {
                continue;
            }
            cuts.push(start);
        }
        cuts.extend(
            digits
                .iter()
                .enumerate()
                .filter(|(i, _)| (digits.len() - i) % 3 == 0)
                .map(|(_, &at)| at),
        );
        if form == Thousands::Isolated {
            cuts.extend(after.map(|(at, _)| at));
        }
    }
    let mut from = 0;
    for cut in cuts.into_iter().chain([piece.len()]) {
        if from < cut {
            out.push(from..cut);
        }
        from = cut;
    }
}

fn by_length(piece: &str, length: usize, out: &mut Vec<Range<usize>>) {
    let starts = piece.char_indices().map(|(at, _)| at).step_by(length.max(1));
    let ends = starts.clone().skip(1).chain([piece.len()]);
    out.extend(starts.zip(ends).map(|(start, end)| start..end));
}

fn before_each(piece: &str, mark: char, out: &mut Vec<Range<usize>>) {
    let cuts = piece.match_indices(mark).map(|(at, _)| at).filter(|&at| at > 0);
    let mut from = 0;
    for cut in cuts.chain([piece.len()]) {
        out.push(from..cut);
        from = cut;
    }
}

fn is_digit(c: char) -> bool {
    c.is_ascii_digit() || (!c.is_ascii() && get_general_category(c) == GeneralCategory::DecimalNumber)
}

/// A letter, mark, number or connector: what the engine behind these vocabularies takes for a part of a word.
fn is_word(c: char) -> bool {
    use GeneralCategory::{ConnectorPunctuation, EnclosingMark, NonspacingMark, SpacingMark};
    let joins = [ConnectorPunctuation, EnclosingMark, NonspacingMark, SpacingMark];
    c.is_alphanumeric() || joins.contains(&get_general_category(c))
}

#[cfg(test)]
mod tests {
    use super::super::normalizer::SPACE;
    use super::*;

    fn cut(text: &str, steps: &[Cut]) -> Vec<String> {
        let pieces = steps.iter().fold(Pieces::new(text.to_owned(), true), Pieces::cut);
        pieces.iter().map(str::to_owned).collect()
    }

    fn pattern(pattern: &str, matches: Matches, invert: bool) -> Cut {
        Cut::Pattern {
            pattern: Pattern::new(pattern).unwrap(),
            matches,
            invert,
        }
    }

    #[test]
    fn matches_are_kept_dropped_or_joined() {
        let by_dash = |matches| cut("a--b-", &[pattern("-", matches, false)]);
        assert_eq!(by_dash(Matches::Isolated), ["a", "-", "-", "b", "-"]);
        assert_eq!(by_dash(Matches::Removed), ["a", "b"]);
        assert_eq!(by_dash(Matches::Contiguous), ["a", "--", "b", "-"]);
        assert_eq!(by_dash(Matches::WithPrevious), ["a-", "-", "b-"]);
        assert_eq!(by_dash(Matches::WithNext), ["a", "-", "-b", "-"]);
        assert_eq!(
            cut("ab c", &[pattern(r"\w+", Matches::Removed, true)]),
            ["ab", "c"]
        );
    }

    #[test]
    fn each_step_sees_the_pieces_of_the_last() {
        let steps = [pattern(r"\p{N}", Matches::Isolated, false), Cut::ByteLevel];
        assert_eq!(cut("é 12", &steps), ["Ã©Ġ", "1", "2"]);
        assert_eq!(cut("", &steps), [""; 0]);
    }

    #[test]
    fn numbers_are_cut_from_the_right() {
        let isolated = |text| cut(text, &[Cut::Thousands(Thousands::Isolated)]);
        assert_eq!(
            isolated("a 1234567, 12 x"),
            ["a ", "1", "234", "567", ", ", "12", " x"]
        );
        assert_eq!(isolated("1234x"), ["1234x"]);
        assert_eq!(isolated("123456"), ["123", "456"]);
        let before = |text| cut(text, &[Cut::Thousands(Thousands::Before)]);
        assert_eq!(before("a1234b"), ["a1", "234b"]);
        assert_eq!(before("123456"), ["123", "456"]);
    }

    #[test]
    fn numbers_are_cut_as_their_patterns_say() {
        let isolated = pattern(r"\d{1,3}(?=(?:\d{3})*\b)", Matches::Isolated, false);
        let before = pattern(r"(?=(\d{3})+(?!\d))", Matches::Isolated, false);
        for text in [
            "1234567 12",
            "½1234",
            "12_",
            "٣٤٥٦",
            "a1b22c333d4444",
            "1.234.567",
            "9",
        ] {
            assert_eq!(
                cut(text, &[Cut::Thousands(Thousands::Isolated)]),
                cut(text, std::slice::from_ref(&isolated))
            );
            assert_eq!(
                cut(text, &[Cut::Thousands(Thousands::Before)]),
                cut(text, std::slice::from_ref(&before))
            );
        }
    }

    #[test]
    fn metaspace_marks_and_cuts() {
        let meta = |prefix, cut| Cut::Metaspace {
            mark: SPACE,
            prefix,
            cut,
        };
        assert_eq!(cut("a b", &[meta(Prefix::Always, true)]), ["▁a", "▁b"]);
        assert_eq!(cut("a  b", &[meta(Prefix::Never, true)]), ["a", "▁", "▁b"]);
        assert_eq!(cut(" a b", &[meta(Prefix::First, false)]), ["▁a▁b"]);
        let words = pattern(r"\s+", Matches::Removed, false);
        assert_eq!(cut("a b", &[words, meta(Prefix::First, true)]), ["▁a", "b"]);
    }

    #[test]
    fn lengths_count_characters() {
        assert_eq!(cut("éüab中", &[Cut::Length(2)]), ["éü", "ab", "中"]);
    }
}
