//! Pictures of identifiers, compiled, and found at a place of a text.

use super::table::{Recogniser, TABLE};

/// No identifier is longer, separators left out.
pub(super) const COMPACT_MAX: usize = 48;

/// What may stand between the groups of an identifier.
const SEPARATORS: &[u8] = b" -./";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Element {
    Digit,
    Letter,
    Either,
    Separator,
    Exactly(u8),
}

impl Element {
    fn is(self, byte: u8) -> bool {
        match self {
            Element::Digit => byte.is_ascii_digit(),
            Element::Letter => byte.is_ascii_alphabetic(),
            Element::Either => byte.is_ascii_alphanumeric(),
            Element::Exactly(b) if b.is_ascii_lowercase() => byte.eq_ignore_ascii_case(&b),
            Element::Exactly(b) => byte == b,
            Element::Separator => SEPARATORS.contains(&byte),
        }
    }
}

/// One way to write one identifier.
#[derive(Debug)]
struct Way {
    elements: Vec<Element>,
    row: usize,
    /// Whether separators stand in it.
    grouped: bool,
    /// Places of digits in the run that it begins with, a bit each.
    digits: u64,
    /// Places of letters in it.
    letters: u64,
    /// What follows the run.
    next: Option<Element>,
}

/// Places of digits among the `run` letters and digits at the front of `text`, a bit each. Places beyond 64 are left out.
fn digit_places(text: &[u8], run: usize) -> u64 {
    let front = &text[..run.min(64)];
    if !front.iter().any(u8::is_ascii_digit) {
        return 0;
    }
    let places = front.iter().enumerate();
    places.fold(0, |mask, (i, b)| mask | u64::from(b.is_ascii_digit()) << i)
}

/// All ways, by the length of the letters and digits that they begin with.
#[derive(Debug)]
pub(super) struct Pictures {
    by_run: Vec<Ways>,
}

/// Ways that begin with as many letters and digits.
#[derive(Debug, Default)]
struct Ways {
    all: Vec<Way>,
    /// Places of those in whose beginning no digit must stand: a word of a sentence is compared with few others.
    lettered: Vec<usize>,
}

impl Ways {
    fn add(&mut self, way: Way) {
        if way.digits == 0 {
            self.lettered.push(self.all.len());
        }
        self.all.push(way);
    }

    /// Those that may fit a beginning whose digits stand at these places, in the order of the table.
    fn that_fit(&self, digits: u64) -> impl Iterator<Item = &Way> {
        let (all, lettered) = match digits {
            0 => (&[][..], self.lettered.as_slice()),
            _ => (self.all.as_slice(), &[][..]),
        };
        all.iter().chain(lettered.iter().map(|place| &self.all[*place]))
    }
}

/// An identifier that stands in a text.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sight {
    /// The row of [`TABLE`].
    pub(super) row: usize,
    /// Where it ends.
    pub(super) end: usize,
    /// Whether it is written with separators.
    pub(super) grouped: bool,
    /// Whether its letters are all capitals.
    pub(super) capitals: bool,
}

impl Pictures {
    pub(super) fn new() -> Pictures {
        let mut by_run: Vec<Ways> = Vec::new();
        for (row, recogniser) in TABLE.iter().enumerate() {
            for way in ways(row, recogniser) {
                let run = way.elements.iter().take_while(|e| is_word(**e)).count();
                if by_run.len() <= run {
                    by_run.resize_with(run + 1, Ways::default);
                }
                by_run[run].add(way);
            }
        }
        Pictures { by_run }
    }

    /// Hands each identifier that begins at `start` to `found`; `run` letters and digits stand there. `wanted` says of a row
    /// whether looking is worth it.
    pub(super) fn at(
        &self,
        text: &[u8],
        start: usize,
        run: usize,
        wanted: impl Fn(usize, bool) -> bool,
        mut found: impl FnMut(Sight),
    ) {
        let Some(ways) = self.by_run.get(run) else {
            return;
        };
        let digits = digit_places(&text[start..], run);
        let after = text.get(start + run).copied();
        let separated = after.is_some_and(|b| SEPARATORS.contains(&b));
        for way in ways.that_fit(digits) {
            let shaped = digits & way.digits == way.digits && digits & way.letters == 0;
            let followed = match way.next {
                None => true,
                Some(Element::Separator) => separated,
                Some(Element::Exactly(b)) => after == Some(b),
                Some(_) => false,
            };
            if !shaped || !followed || !wanted(way.row, way.grouped) {
                continue;
            }
            let mut compact = [0; COMPACT_MAX];
            let Some((end, length, capitals)) = fits(&way.elements, &text[start..], &mut compact) else {
                continue;
            };
            let end = start + end;
            if ends(text, end) && (TABLE[way.row].check)(&compact[..length]) {
                found(Sight {
                    row: way.row,
                    end,
                    grouped: way.grouped,
                    capitals,
                });
            }
        }
    }
}

fn is_word(element: Element) -> bool {
    match element {
        Element::Digit | Element::Letter | Element::Either => true,
        Element::Exactly(b) => b.is_ascii_alphanumeric(),
        Element::Separator => false,
    }
}

/// The ways that the pictures of a row allow: with separators and without.
fn ways(row: usize, recogniser: &Recogniser) -> Vec<Way> {
    let compile = |picture: &str, separated: bool| {
        let elements: Vec<Element> = picture
            .bytes()
            .filter(|b| separated || *b != b'_')
            .map(|b| match b {
                b'9' => Element::Digit,
                b'A' => Element::Letter,
                b'X' => Element::Either,
                b'_' => Element::Separator,
                other => Element::Exactly(other),
            })
            .collect();
        let grouped = elements.iter().any(|e| !is_word(*e));
        let run = elements.iter().take_while(|e| is_word(**e)).count();
        let places = |test: fn(&Element) -> bool| {
            let elements = elements[..run].iter().enumerate();
            elements.fold(0, |mask, (i, e)| mask | u64::from(test(e)) << i)
        };
        let is_digit =
            |e: &Element| matches!(e, Element::Digit) || matches!(e, Element::Exactly(b'0'..=b'9'));
        let is_letter = |e: &Element| {
            matches!(e, Element::Letter) || matches!(e, Element::Exactly(b) if b.is_ascii_alphabetic())
        };
        let (digits, letters) = (places(is_digit), places(is_letter));
        let next = elements.get(run).copied();
        Way {
            elements,
            row,
            grouped,
            digits,
            letters,
            next,
        }
    };
    let mut ways = Vec::new();
    for picture in recogniser.pictures.split(" | ") {
        if picture.contains('_') {
            ways.push(compile(picture, true));
        }
        ways.push(compile(picture, false));
    }
    ways
}

/// Reads `elements` at the front of `text` into `compact`: where they end, how much is in `compact`, and whether all letters are
/// capitals.
fn fits(elements: &[Element], text: &[u8], compact: &mut [u8; COMPACT_MAX]) -> Option<(usize, usize, bool)> {
    let (mut length, mut capitals, mut separator) = (0, true, None);
    for (place, element) in elements.iter().enumerate() {
        let byte = *text.get(place)?;
        let same = *element != Element::Separator || *separator.get_or_insert(byte) == byte;
        if !element.is(byte) || !same {
            return None;
        }
        if byte.is_ascii_alphanumeric() {
            *compact.get_mut(length)? = byte.to_ascii_uppercase();
            length += 1;
            capitals &= !byte.is_ascii_lowercase();
        }
    }
    Some((elements.len(), length, capitals))
}

/// Whether a word may begin at `start`: no letter, digit or joint of a longer number before it.
pub(super) fn begins(text: &[u8], start: usize) -> bool {
    match text[..start] {
        [] => true,
        [.., before, b'.' | b',' | b'-' | b'/' | b'+' | b'*' | b'\''] if before.is_ascii_digit() => false,
        [.., b'.' | b'_' | b'$' | b'#'] => matches!(text[..start], [.., b' ' | b'(' | b':', b'#']),
        [.., before] => !before.is_ascii_alphanumeric() && !letter_ends(&text[..start]),
    }
}

/// Whether a word may end at `end`.
pub(super) fn ends(text: &[u8], end: usize) -> bool {
    match text[end..] {
        [] => true,
        [b'.' | b',' | b'-' | b'/' | b':' | b'\'' | b'*', after, ..] if after.is_ascii_digit() => false,
        [b'-' | b'/' | b'@', after, ..] if after.is_ascii_alphanumeric() => false,
        [after, ..] => !after.is_ascii_alphanumeric() && after != b'_' && !letter_begins(&text[end..]),
    }
}

/// Whether `text` begins with a letter of the Latin, Greek or Cyrillic script beyond ASCII. Scripts without spaces do not
/// hinder a number beside them.
fn letter_begins(text: &[u8]) -> bool {
    matches!(text, [0xC3..=0xD4, ..])
}

fn letter_ends(text: &[u8]) -> bool {
    matches!(text, [.., 0xC3..=0xD4, 0x80..=0xBF])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn separators_are_the_same_throughout_or_missing() {
        let pictures = Pictures::new();
        let seen = |text: &str| {
            let run = text.bytes().take_while(u8::is_ascii_alphanumeric).count();
            let mut names = Vec::new();
            pictures.at(
                text.as_bytes(),
                0,
                run,
                |_, _| true,
                |sight| names.push(TABLE[sight.row].name),
            );
            names
        };
        for text in ["4111 1111 1111 1111", "4111-1111-1111-1111", "4111111111111111"] {
            assert!(seen(text).contains(&"CREDIT_CARD"), "{text}");
        }
        for text in [
            "4111 1111-1111 1111",
            "41111111 11111111",
            "4111 1111 1111 11112",
            "4111 1111 1111 1111-2",
        ] {
            assert!(!seen(text).contains(&"CREDIT_CARD"), "{text}");
        }
    }
}
