//! Dates in the ways people write them, so that `14 March 2011` finds `2011-03-14` and `March 14th, 2011`.

use super::words::Word;
use std::ops::Range;

/// A date, or as much of one as was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Date {
    year: Option<u16>,
    month: u8,
    day: Option<u8>,
}

impl Date {
    /// Whether everything that this date says, `other` says too.
    pub(super) fn within(self, other: Date) -> bool {
        self.month == other.month
            && (self.year.is_none() || self.year == other.year)
            && (self.day.is_none() || self.day == other.day)
    }
}

/// Finds dates in words that are handed in one after another. A date is found at its last word, and its beginnings at
/// theirs: `14 March` before `14 March 2011`.
#[derive(Debug, Default)]
pub(super) struct DateReader {
    /// The two words before, the later one first.
    recent: [Option<Part>; 2],
}

/// A date and the bytes it was read from.
pub(super) type Found = (Date, Range<usize>);

#[derive(Debug, Clone)]
struct Part {
    kind: Kind,
    bytes: Range<usize>,
    /// What stands between it and the part before.
    gap: Gap,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Month(u8),
    /// A number and how many digits it was written with.
    Number(u16, usize),
    Other,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Gap {
    Space,
    /// `-` or `/`, alone.
    Mark,
    Other,
}

impl DateReader {
    /// The dates that end with `word`; `gap` is the text between it and the word before.
    pub(super) fn push(&mut self, word: &Word<'_>, gap: &str, found: &mut Vec<Found>) {
        if matches!(word.text, "of" | "the") && self.recent[0].is_some() {
            return;
        }
        dotted(word, found);
        let last = Part {
            kind: kind(word.text),
            bytes: word.bytes.clone(),
            gap: gap_kind(gap),
        };
        if let [Some(before), first] = &self.recent {
            let mut add = |start: &Part, date: Option<Date>| {
                found.extend(date.map(|date| (date, start.bytes.start..last.bytes.end)));
            };
            add(before, two(before, &last));
            if let Some(first) = first {
                for date in three(first, before, &last) {
                    add(first, date);
                }
            }
        }
        self.recent = [Some(last), self.recent[0].take()];
    }
}

fn kind(text: &str) -> Kind {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    match (digits, &text[digits..]) {
        (0, _) => month(text).map_or(Kind::Other, Kind::Month),
        (1..=4, "" | "st" | "nd" | "rd" | "th") => text[..digits]
            .parse()
            .map_or(Kind::Other, |n| Kind::Number(n, digits)),
        _ => Kind::Other,
    }
}

/// The number of a month by its name or its first three or four letters.
fn month(text: &str) -> Option<u8> {
    const NAMES: [&str; 12] = [
        "january",
        "february",
        "march",
        "april",
        "may",
        "june",
        "july",
        "august",
        "september",
        "october",
        "november",
        "december",
    ];
    let short = text.len() == 3 || (text.len() == 4 && text.eq_ignore_ascii_case("sept"));
    let is = |name: &&str| {
        text.eq_ignore_ascii_case(name)
            || (short && name.as_bytes()[..text.len()].eq_ignore_ascii_case(text.as_bytes()))
    };
    (1..)
        .zip(NAMES.iter())
        .find(|(_, name)| is(name))
        .map(|(number, _)| number)
}

fn gap_kind(gap: &str) -> Gap {
    match gap.trim() {
        "-" | "/" if gap.len() == 1 => Gap::Mark,
        // A word that was left out, as the `of` of `14th of March`, is no gap of its own.
        "" | "," | "." if gap.len() <= 4 => Gap::Space,
        _ => Gap::Other,
    }
}

fn date(year: Option<(u16, usize)>, month: u16, day: Option<u16>) -> Option<Date> {
    let year = match year {
        Some((year, 4)) => Some(year),
        Some(_) => return None,
        None => None,
    };
    let day = match day {
        Some(day @ 1..=31) => Some(u8::try_from(day).ok()?),
        Some(_) => return None,
        None => None,
    };
    let month = u8::try_from(month).ok().filter(|m| (1..=12).contains(m))?;
    Some(Date { year, month, day })
}

/// `14 March`, `March 14`, `March 2011`.
fn two(first: &Part, last: &Part) -> Option<Date> {
    if last.gap == Gap::Other {
        return None;
    }
    match (first.kind, last.kind) {
        (Kind::Number(day, 1 | 2), Kind::Month(month)) => date(None, month.into(), Some(day)),
        (Kind::Month(month), Kind::Number(day, 1 | 2)) => date(None, month.into(), Some(day)),
        (Kind::Month(month), Kind::Number(year, 4)) => date(Some((year, 4)), month.into(), None),
        _ => None,
    }
}

/// `14 March 2011`, `March 14, 2011`, `2011-03-14`; `3/4/2011` in both orders.
fn three(first: &Part, before: &Part, last: &Part) -> [Option<Date>; 2] {
    use Kind::{Month, Number};
    if before.gap == Gap::Other || last.gap == Gap::Other {
        return [None; 2];
    }
    let marked = before.gap == Gap::Mark && last.gap == Gap::Mark;
    match (first.kind, before.kind, last.kind) {
        (Number(d, 1 | 2), Month(m), Number(y, digits)) | (Month(m), Number(d, 1 | 2), Number(y, digits)) => {
            [date(Some((y, digits)), m.into(), Some(d)), None]
        }
        (Number(y, 4), Number(m, 1 | 2), Number(d, 1 | 2)) if marked => {
            [date(Some((y, 4)), m, Some(d)), None]
        }
        (Number(a, 1 | 2), Number(b, 1 | 2), Number(y, 4)) if marked => {
            [date(Some((y, 4)), a, Some(b)), date(Some((y, 4)), b, Some(a))]
        }
        _ => [None; 2],
    }
}

/// `14.3.2011`, which is one word.
fn dotted(word: &Word<'_>, found: &mut Vec<Found>) {
    let mut parts = word.text.split('.').map(str::parse::<u16>);
    if let (Some(Ok(day)), Some(Ok(month)), Some(Ok(year)), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    {
        let date = date(
            Some((year, year.checked_ilog10().unwrap_or(0) as usize + 1)),
            month,
            Some(day),
        );
        found.extend(date.map(|date| (date, word.bytes.clone())));
    }
}

#[cfg(test)]
mod tests {
    use super::super::words::words;
    use super::*;

    fn read(text: &str) -> Vec<Date> {
        let (mut reader, mut found, mut end) = (DateReader::default(), Vec::new(), 0);
        for word in words(text) {
            reader.push(&word, &text[end..word.bytes.start], &mut found);
            end = word.bytes.end;
        }
        found.into_iter().map(|(date, _)| date).collect()
    }

    #[test]
    fn one_day_in_many_spellings() {
        let asked = Date {
            year: Some(2011),
            month: 3,
            day: Some(14),
        };
        for text in [
            "14 March 2011",
            "March 14, 2011",
            "on the 14th of March 2011,",
            "2011-03-14",
            "14.3.2011",
            "3/14/2011",
            "14/03/2011",
            "Mar. 14 2011",
            "14 mar 2011",
        ] {
            assert!(read(text).iter().any(|d| asked.within(*d)), "{text}");
        }
        for text in [
            "15 March 2011",
            "14 March",
            "14 and March 2011",
            "2011-14-14",
            "14 2011",
            "",
            "99999999 March",
        ] {
            assert!(!read(text).iter().any(|d| asked.within(*d)), "{text}");
        }
    }

    #[test]
    fn a_part_of_a_date_is_found_in_the_whole() {
        let month = Date {
            year: Some(2011),
            month: 3,
            day: None,
        };
        let day = Date {
            year: None,
            month: 3,
            day: Some(14),
        };
        for text in ["14 March 2011", "March 14, 2011", "2011-03-14"] {
            assert!(read(text).iter().any(|d| month.within(*d)), "{text}");
            assert!(read(text).iter().any(|d| day.within(*d)), "{text}");
        }
    }
}
