//! What expressions may cost their compiler, told before it begins.
//!
//! The library follows an expression by its derivatives (Brzozowski 1964) and counts what that takes only between two of
//! them, while one alone may take the square of the expression's length, or the product of what `&` joins. So these are
//! counted here, from above, and what is far from all that people write is refused. All counts stop at the largest number.

use std::collections::HashSet;

use regex_syntax::ParserBuilder;
use regex_syntax::hir::{Class, Hir, HirKind};

/// Ways that all expressions of a shape may go on in at once: two thousand parts in a row that may be left out. Each takes
/// up to 16 bytes while the compiler is at it.
const WAYS_MAX: u64 = 4_000_000;

/// Ways that expressions joined by `&` may go on in together: the compiler pairs each of one with each of the others.
pub(super) const JOINED_MAX: u64 = 200_000;

/// Letters, sets and signs of all expressions, with what their names stand for.
const PLACES_MAX: u64 = 1_000_000;

/// Different texts and expressions: the compiler compares each with all before it.
const LEXEMES_MAX: usize = 10_000;

/// Sets of letters that are called by a name, as `\w`: each holds some hundred ranges.
const NAMED_SETS_MAX: usize = 5_000;

/// Letters of a text that the compiler keeps in one piece.
const PIECE: u64 = 8;

/// Ways that a set of letters may begin in, in bytes.
const SET_BEGINS_MAX: u64 = 64;

/// Ways that a text or a set may be at once within an expression that reads it from several places.
const TEXT_WAYS_MAX: u64 = 4;

/// How large an expression is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size {
    /// Whether the empty text fits it.
    empty: bool,
    /// Its parts that may come first.
    heads: u64,
    /// Its parts behind which nothing more must come, and which may go on themselves.
    tails: u64,
    /// Ways in which it may go on after any letter, those of all its parts together.
    ways: u64,
    /// Different letters that it may ask for at once.
    branches: u64,
    /// Letters, sets and signs.
    places: u64,
}

impl Size {
    /// The empty text.
    pub(super) const EMPTY: Self = Self {
        empty: true,
        heads: 0,
        tails: 0,
        ways: 0,
        branches: 0,
        places: 0,
    };

    /// A text of so many bytes.
    pub(super) fn text(bytes: usize) -> Self {
        let bytes = bytes as u64;
        match bytes {
            0 => Self::EMPTY,
            _ => Self {
                empty: false,
                heads: 1,
                tails: 0,
                ways: 1,
                branches: bytes.min(TEXT_WAYS_MAX),
                places: bytes / PIECE + 1,
            },
        }
    }

    /// A letter of a set that has so many ranges.
    fn set(ranges: u64, ascii: bool) -> Self {
        let ranges = if ascii {
            1
        } else {
            ranges.saturating_add(TEXT_WAYS_MAX)
        };
        Self {
            empty: false,
            heads: 1,
            tails: 0,
            ways: 1,
            branches: ranges.min(SET_BEGINS_MAX),
            places: ranges,
        }
    }

    /// This and then `next`.
    pub(super) fn then(self, next: Self) -> Self {
        if self == Self::EMPTY {
            return next;
        }
        let heads = self.heads.saturating_add(if self.empty { next.heads } else { 0 });
        let tails = next.tails.saturating_add(if next.empty { self.tails } else { 0 });
        // Whatever may end here goes on with all that may come first behind it.
        let across = self.tails.saturating_mul(next.heads);
        Self {
            empty: self.empty && next.empty,
            heads,
            tails,
            ways: [self.ways, next.ways, across, 1]
                .into_iter()
                .fold(0, u64::saturating_add),
            branches: self.branches.saturating_add(next.branches),
            places: self.places.saturating_add(next.places),
        }
    }

    /// One of `parts`.
    pub(super) fn either(parts: &[Self]) -> Self {
        if let [only] = parts {
            return *only;
        }
        let sum = |of: fn(&Self) -> u64| parts.iter().map(of).fold(parts.len() as u64, u64::saturating_add);
        Self {
            empty: parts.iter().any(|part| part.empty),
            heads: 1,
            tails: 1,
            ways: sum(|part| part.ways.saturating_add(part.heads)),
            branches: sum(|part| part.branches),
            places: sum(|part| part.places),
        }
    }

    /// This again and again, or not at all where `optional`.
    pub(super) fn repeated(self, optional: bool) -> Self {
        Self {
            empty: self.empty || optional,
            heads: 1,
            tails: 1,
            ways: self.ways.saturating_add(self.heads).saturating_add(1),
            places: self.places.saturating_add(1),
            ..self
        }
    }

    /// What is not this.
    pub(super) fn not(self) -> Self {
        Self {
            empty: !self.empty,
            branches: self.branches.saturating_mul(2).saturating_add(1).min(256),
            ..self.repeated(false)
        }
    }

    /// What is all of `parts`.
    pub(super) fn all(parts: &[Self]) -> Result<Self, String> {
        if let [only] = parts {
            return Ok(*only);
        }
        let branches = parts
            .iter()
            .map(|part| part.branches.max(1))
            .fold(1, u64::saturating_mul);
        if branches > JOINED_MAX {
            return Err(joined(branches));
        }
        let either = Self::either(parts);
        Ok(Self {
            empty: parts.iter().all(|part| part.empty),
            ways: either.ways.saturating_add(branches),
            branches,
            ..either
        })
    }

    /// Different letters that it may ask for at once.
    pub(super) fn branches(self) -> u64 {
        self.branches
    }
}

/// Why expressions that hold together are refused which may go on in so many ways.
pub(super) fn joined(branches: u64) -> String {
    format!(
        "expressions that must all fit the same text can go on in {} ways together, and {JOINED_MAX} is the most",
        counted(branches)
    )
}

fn counted(count: u64) -> String {
    match count {
        u64::MAX => "very many".to_owned(),
        count => count.to_string(),
    }
}

/// What the expressions of one shape come to.
#[derive(Debug, Default)]
pub(super) struct Meter {
    ways: u64,
    places: u64,
    lexemes: usize,
    named_sets: usize,
    /// Sets of letters that were met, by their ranges: the compiler makes each once.
    sets: HashSet<Vec<(char, char)>>,
}

impl Meter {
    /// Counts one more expression that stands by itself.
    pub(super) fn add(&mut self, size: Size) -> Result<(), String> {
        self.ways = self.ways.saturating_add(size.ways);
        self.places = self.places.saturating_add(size.places);
        self.lexemes += 1;
        if self.ways > WAYS_MAX {
            return Err(format!(
                "its expressions can go on in {} ways at once, and {WAYS_MAX} is the most: parts that may be left out, \
                 one after the other, make many",
                counted(self.ways)
            ));
        }
        if self.places > PLACES_MAX {
            return Err(format!(
                "its expressions have {} parts, and {PLACES_MAX} is the most",
                counted(self.places)
            ));
        }
        if self.lexemes > LEXEMES_MAX {
            return Err(format!(
                "it has more than {LEXEMES_MAX} different texts and expressions"
            ));
        }
        Ok(())
    }

    /// The size of a regular expression, or `None` for what is none.
    pub(super) fn expression(&mut self, pattern: &str, flags: &str) -> Result<Option<Size>, String> {
        self.named_sets += named_sets(pattern);
        if self.named_sets > NAMED_SETS_MAX {
            return Err(format!(
                "its expressions name more than {NAMED_SETS_MAX} sets of letters, as \\w or \\p"
            ));
        }
        let pattern = match flags {
            "" => pattern.to_owned(),
            flags => format!("(?{flags}){pattern}"),
        };
        // Bytes that are no text are allowed where a grammar says so; more is understood here than there.
        let mut parser = ParserBuilder::new().utf8(false).build();
        match parser.parse(&pattern) {
            Ok(parsed) => Ok(Some(self.size(&parsed))),
            Err(_) => Ok(None),
        }
    }

    fn size(&mut self, parsed: &Hir) -> Size {
        match parsed.kind() {
            HirKind::Empty | HirKind::Look(_) => Size::EMPTY,
            HirKind::Literal(text) => Size::text(text.0.len()),
            HirKind::Class(Class::Bytes(_)) => Size::set(1, true),
            HirKind::Class(Class::Unicode(set)) => {
                let ranges: Vec<_> = set.ranges().iter().map(|r| (r.start(), r.end())).collect();
                let size = Size::set(ranges.len() as u64, set.is_ascii());
                match self.sets.insert(ranges) {
                    true => size,
                    false => Size { places: 1, ..size },
                }
            }
            HirKind::Repetition(repetition) => self.size(&repetition.sub).repeated(repetition.min == 0),
            HirKind::Capture(capture) => self.size(&capture.sub),
            HirKind::Concat(parts) => {
                let parts = parts.iter().rev();
                parts.fold(Size::EMPTY, |after, part| self.size(part).then(after))
            }
            HirKind::Alternation(parts) => {
                let parts: Vec<Size> = parts.iter().map(|part| self.size(part)).collect();
                Size::either(&parts)
            }
        }
    }
}

/// How many sets of letters a pattern calls by a name.
fn named_sets(pattern: &str) -> usize {
    let (mut count, mut escaped) = (0, false);
    for c in pattern.bytes() {
        count += usize::from(escaped && b"wWdDsSpP".contains(&c));
        escaped = c == b'\\' && !escaped;
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(pattern: &str) -> Size {
        Meter::default().expression(pattern, "").unwrap().unwrap()
    }

    fn refused(pattern: &str) -> Option<String> {
        let mut meter = Meter::default();
        let size = meter.expression(pattern, "").map(Option::unwrap);
        size.and_then(|size| meter.add(size)).err()
    }

    #[test]
    fn parts_that_may_be_left_out_count_by_the_square() {
        let ways = |times: usize| size(&"(?:ab|c)?".repeat(times)).ways;
        assert!(ways(100) >= 5_000 && ways(1_000) >= 500_000);
        assert!(ways(1_000) <= 1_000_000);
        // So they do where they are put together from groups.
        let group = format!("(?:{})", "(?:ab|c)?".repeat(100));
        assert!(size(&group.repeat(10)).ways >= 400_000);
        // What must stand does not.
        assert!(size(&"(?:ab|c)".repeat(1_000)).ways <= 10_000);
        assert!(size(&"(?:ab|c)?d".repeat(1_000)).ways <= 20_000);
        let words: Vec<String> = (0..5_000).map(|word| format!("colou?r{word}")).collect();
        assert!(size(&words.join("|")).ways <= 100_000);
    }

    #[test]
    fn what_people_write_is_far_below_the_bounds() {
        for pattern in [
            r"^\w+([\.-]?\w+)*@\w+([\.-]?\w+)*(\.\w{2,})+$",
            r"^(?:[0-9a-fA-F]{1,4}:){7}[0-9a-fA-F]{1,4}$",
            r"(?i)https?://[^\s/$.?#].[^\s]*",
            r"(-?(0|[1-9]\d*))(\.\d+)?([eE][+-]?\d+)?",
        ] {
            let size = size(pattern);
            assert!(size.ways < 2_000 && size.places < 5_000, "{pattern}: {size:?}");
        }
    }

    #[test]
    fn what_is_too_much_is_refused_and_says_why() {
        assert_eq!(refused(&"(?:ab|c)?".repeat(1_500)), None);
        assert!(
            refused(&"(?:ab|c)?".repeat(3_500))
                .unwrap()
                .contains("ways at once")
        );
        assert_eq!(refused(&r"\w".repeat(4_000)), None);
        assert!(refused(&r"\w".repeat(6_000)).unwrap().contains("sets of letters"));
        let sets: String = (0..3_000)
            .map(|at| format!("[\\w\\x{{{:x}}}]", 0x2000 + at))
            .collect();
        assert!(refused(&sets).unwrap().contains("parts"));
        let part = size("[ab]*c[a-d]*");
        assert!(Size::all(&[part; 4]).is_ok());
        assert!(Size::all(&[part; 100]).unwrap_err().contains("ways together"));
        assert!(Size::all(&[size("[ab]+"); 100]).is_ok());
    }
}
