//! A text in the characters that recognisers know, and the way back to where things stand in it.
//!
//! People, programs and paper write one number in many ways: with spaces that do not break, hyphens that do not break, digits of other
//! scripts, marks that nobody sees, or escaped as JSON, HTML and addresses of the web escape. Each of these is read as the plain character
//! that it stands for; everything else is left as it is.

use std::borrow::Cow;
use std::ops::Range;

/// A text as it reads.
pub(crate) struct Plain<'t> {
    pub(crate) text: Cow<'t, str>,
    /// What reads otherwise than it is written, in the order of the text.
    units: Vec<Unit>,
}

/// A piece that reads otherwise than it is written.
struct Unit {
    plain: Range<usize>,
    written: Range<usize>,
}

/// No escape is longer than a pair of `\uXXXX`, in bytes.
const ESCAPE_MAX: usize = 12;

/// Zeros of scripts with digits of their own; the other nine follow each.
const ZEROS: [char; 16] = [
    '٠', '۰', '०', '০', '੦', '૦', '୦', '௦', '౦', '೦', '൦', '๐', '໐', '༠', '၀', '០',
];

impl<'t> Plain<'t> {
    pub(crate) fn of(text: &'t str) -> Plain<'t> {
        let mut plain = Plain {
            text: Cow::Borrowed(text),
            units: Vec::new(),
        };
        let (mut read, mut at, mut copied) = (String::new(), 0, 0);
        while let Some(next) = text.as_bytes()[at..]
            .iter()
            .position(|byte| MAY_BEGIN[usize::from(*byte)])
        {
            at += next;
            // All bytes that may begin a unit begin a character.
            let (length, meant) = unit(&text[at..]);
            if let Meant::Otherwise(meant) = meant {
                read.push_str(&text[copied..at]);
                let begin = read.len();
                read.extend(meant);
                plain.units.push(Unit {
                    plain: begin..read.len(),
                    written: at..at + length,
                });
                copied = at + length;
            }
            at += length;
        }
        if !plain.units.is_empty() {
            read.push_str(&text[copied..]);
            plain.text = Cow::Owned(read);
        }
        plain
    }

    /// Whether it reads as it is written.
    pub(crate) fn is_as_written(&self) -> bool {
        self.units.is_empty()
    }

    /// Where in the text as it is written a place of the plain one lies. What nobody sees at its edges is left out.
    pub(crate) fn written(&self, place: &Range<usize>) -> Range<usize> {
        let begun = self.units.partition_point(|unit| unit.plain.end <= place.start);
        let start = match self.units.get(begun) {
            Some(unit) if unit.plain.contains(&place.start) => unit.written.start,
            _ => self.behind(begun, place.start),
        };
        let before = self.units.partition_point(|unit| unit.plain.start < place.end);
        let end = match before.checked_sub(1).and_then(|last| self.units.get(last)) {
            Some(unit) if place.end <= unit.plain.end => unit.written.end,
            _ => self.behind(before, place.end),
        };
        start..end
    }

    /// A place behind the first `count` units and before the next.
    fn behind(&self, count: usize, place: usize) -> usize {
        match count.checked_sub(1).and_then(|last| self.units.get(last)) {
            Some(unit) => unit.written.end + (place - unit.plain.end),
            None => place,
        }
    }
}

/// How a piece of a text reads.
enum Meant {
    AsWritten,
    /// As this character, or as none.
    Otherwise(Option<char>),
}

/// First bytes of what may read otherwise than it is written.
static MAY_BEGIN: [bool; 256] = {
    let mut table = [false; 256];
    let leads = [
        b'\\', b'%', b'&', 0xC2, 0xD8, 0xD9, 0xDB, 0xE0, 0xE1, 0xE2, 0xE3, 0xEF,
    ];
    let mut at = 0;
    while at < leads.len() {
        table[leads[at] as usize] = true;
        at += 1;
    }
    table
};

/// The bytes of the piece at the front of `text`, and how it reads.
fn unit(text: &str) -> (usize, Meant) {
    let first = text.chars().next().unwrap_or_default();
    if let Some((length, escaped)) = escape(first, text) {
        return (length, Meant::Otherwise(read(escaped).unwrap_or(Some(escaped))));
    }
    let meant = read(first).map_or(Meant::AsWritten, Meant::Otherwise);
    (first.len_utf8(), meant)
}

/// What a character that is no plain one reads as; nothing in place of marks that nobody sees. `None` for all others.
fn read(c: char) -> Option<Option<char>> {
    Some(match c {
        '\u{a0}' | '\u{2000}'..='\u{200a}' | '\u{202f}' | '\u{205f}' | '\u{3000}' => Some(' '),
        // Hyphens; dashes part things.
        '\u{2010}'..='\u{2012}' => Some('-'),
        '\u{ff01}'..='\u{ff5e}' => char::from_u32(u32::from(c) - 0xff01 + u32::from('!')),
        '\u{ad}'
        | '\u{61c}'
        | '\u{200b}'..='\u{200f}'
        | '\u{202a}'..='\u{202e}'
        | '\u{2060}'
        | '\u{2066}'..='\u{2069}'
        | '\u{feff}' => None,
        c if c > '\u{65f}' => Some(digit(c)?),
        _ => return None,
    })
}

/// The digit that a digit of another script is.
fn digit(c: char) -> Option<char> {
    let value = ZEROS.iter().find_map(|zero| {
        let value = u32::from(c).checked_sub(u32::from(*zero))?;
        (value < 10).then_some(value)
    })?;
    char::from_digit(value, 10)
}

/// The bytes of an escape at the front of `text`, and its character.
fn escape(first: char, text: &str) -> Option<(usize, char)> {
    let bytes = text.as_bytes();
    match (first, bytes.get(1)?) {
        ('\\', b'n' | b'r') => Some((2, '\n')),
        ('\\', b't') => Some((2, '\t')),
        ('\\', mark @ (b'"' | b'/' | b'\\')) => Some((2, char::from(*mark))),
        ('\\', b'u') => {
            let high = hexadecimal(bytes.get(2..6)?)?;
            let low = || hexadecimal(bytes.get(6..ESCAPE_MAX)?.strip_prefix(b"\\u")?);
            match high {
                0xd800..0xdc00 => {
                    let low = low().filter(|low| (0xdc00..0xe000).contains(low))?;
                    let c = char::from_u32(0x1_0000 + ((high - 0xd800) << 10) + (low - 0xdc00))?;
                    Some((ESCAPE_MAX, c))
                }
                _ => Some((6, char::from_u32(high)?)),
            }
        }
        ('%', _) => {
            let c = char::from_u32(hexadecimal(bytes.get(1..3)?)?)?;
            matches!(c, ' '..='~').then_some((3, c))
        }
        ('&', b'#') => {
            let end = bytes.iter().take(ESCAPE_MAX).position(|byte| *byte == b';')?;
            let code = &bytes[2..end];
            let code = match code.strip_prefix(b"x").or(code.strip_prefix(b"X")) {
                Some(code) => hexadecimal(code)?,
                None => std::str::from_utf8(code).ok()?.parse().ok()?,
            };
            Some((end + 1, char::from_u32(code)?))
        }
        ('&', _) => text.starts_with("&nbsp;").then_some((6, ' ')),
        _ => None,
    }
}

/// A number of hexadecimal digits and nothing else.
fn hexadecimal(digits: &[u8]) -> Option<u32> {
    let all = (1..=6).contains(&digits.len()) && digits.iter().all(u8::is_ascii_hexdigit);
    all.then(|| u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok())?
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn reads(written: &str) -> String {
        Plain::of(written).text.into_owned()
    }

    #[test]
    fn what_stands_for_plain_characters_reads_as_they_do() {
        for (written, plain) in [
            ("06\u{a0}12\u{202f}34\u{2009}56\u{3000}78", "06 12 34 56 78"),
            ("219\u{2010}09\u{2011}9999", "219-09-9999"),
            ("４１１１－１１１１", "4111-1111"),
            ("٤١١١ ۴۱ ४१", "4111 41 41"),
            ("\u{202a}+49\u{202c} a\u{ad}b\u{200b}c\u{feff}", "+49 abc"),
            (r#"{\"a\":\"x\u0040y\n\tz\\n\/"#, "{\"a\":\"x@y\n\tz\\n/"),
            (r"\ud83d\ude00 \u00a0.", "\u{1f600}  ."),
            ("x%40y%2Bz", "x@y+z"),
            ("x&#64;y&#x40;z&nbsp;1", "x@y@z 1"),
        ] {
            assert_eq!(reads(written), plain, "{written}");
        }
        // What is no escape, and what is as it is.
        for same in [
            "José, 10–12 — “so” it’s; 50%, 3%2 &amp; &#; &#xffffffff; \\ \\x \\u12 \\ud800 \\ud800\\ud800 %zz %0a",
            "5 % of 4 & 3",
            "",
            "ü名前한국",
        ] {
            assert!(Plain::of(same).is_as_written(), "{same}");
        }
    }

    #[test]
    fn a_place_is_where_it_is_written() {
        let written = "é \u{200b}x\\u0040y\u{200b} z";
        let plain = Plain::of(written);
        assert_eq!(plain.text, "é x@y z");
        let at = plain.text.find("x@y").unwrap();
        assert_eq!(&written[plain.written(&(at..at + 3))], "x\\u0040y");
        assert_eq!(&written[plain.written(&(0..plain.text.len()))], written);
        let end = plain.text.len();
        assert_eq!(&written[plain.written(&(end - 1..end))], "z");
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Whatever is written: each place of the plain text lies at borders of characters, in order, and what reads as it is
        /// written is the same there.
        #[test]
        fn every_place_has_a_way_back(written in r#"([a-z0-9 @é٤\u{a0}\u{200b}４%&#;]|\\|\\u0040|\\n|%40|&#64;|😀){0,40}"#) {
            let plain = Plain::of(&written);
            let ends = plain.text.char_indices().map(|(at, c)| (at, at + c.len_utf8(), c));
            let mut last = 0;
            for (start, end, c) in ends {
                let place = plain.written(&(start..end));
                prop_assert!(last <= place.start && place.start < place.end && place.end <= written.len());
                let there = &written[place.clone()];
                prop_assert!(there.chars().eq([c]) || matches!(unit(there), (length, Meant::Otherwise(Some(read))) if length == there.len() && read == c));
                last = place.end;
            }
        }
    }
}
