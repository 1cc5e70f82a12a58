//! Finds personal data and secrets in text: prose, tables, JSON, logs and code.
//!
//! One pass over the text, in plain characters, finds candidates by table, form and telling word; a rule settles those that overlap. Time
//! grows with the length of the text, and so does memory; nothing in a text makes it panic.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::LazyLock;

mod checks;
mod forms;
pub mod names;
mod picture;
mod plain;
mod secrets;
mod table;
mod wallets;
mod words;

use picture::{Pictures, begins};
use table::TABLE;
use words::{About, Words};

pub use checks::Check;
pub(crate) use plain::Plain;
pub use table::{Need, Recogniser};

/// Every recogniser of the table, in its order.
pub fn recognisers() -> &'static [Recogniser] {
    TABLE
}

/// Classes of finds that no recogniser of the table has.
const CLASSES_OF_FORMS: [&str; 13] = [
    "ADDRESS",
    "CRYPTO",
    "DATE",
    "EMAIL",
    "IBAN",
    "ID_NUMBER",
    "IP_ADDRESS",
    "MAC_ADDRESS",
    "ORGANIZATION",
    "PERSON",
    "PHONE",
    "SECRET",
    "ZIP_CODE",
];

/// Whether there is a class of finds of this name: no other is ever the type of a [`Span`].
pub fn is_class(name: &str) -> bool {
    CLASSES_OF_FORMS.contains(&name) || TABLE.iter().any(|row| row.kind == name)
}

/// Something in a text that tells of a person or opens a door.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// Where it stands, in bytes.
    pub bytes: Range<usize>,
    /// Where it stands, in Unicode code points.
    pub chars: Range<usize>,
    /// Its type, as `EMAIL` or `US_SSN`.
    pub kind: &'static str,
    /// What told it: the row of the table, the form, or the provider of a key.
    pub name: &'static str,
    /// How sure that is, of 100.
    pub score: u8,
}

/// What may be personal data, before overlaps are settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) start: usize,
    pub(crate) end: usize,
    pub(crate) kind: &'static str,
    pub(crate) name: &'static str,
    pub(crate) score: u8,
}

static PICTURES: LazyLock<Pictures> = LazyLock::new(Pictures::new);

/// What patterns alone find in `text`, in its order and without overlaps.
pub fn patterns(text: &str) -> Vec<Span> {
    let plain = Plain::of(text);
    let found = settle(&plain.text, candidates(&plain.text));
    written(text, &plain, found)
}

/// What patterns and the model of names find in `text`, in its order and without overlaps.
pub fn scan(text: &str, model: &names::Model) -> Vec<Span> {
    let plain = Plain::of(text);
    let mut found = candidates(&plain.text);
    let seen = settle(&plain.text, found.clone());
    found.extend(model.candidates(&plain.text, &seen));
    let found = settle(&plain.text, found);
    written(text, &plain, found)
}

/// What was found in the plain text, where it stands in the one that was written.
fn written(text: &str, plain: &Plain, mut found: Vec<Span>) -> Vec<Span> {
    if plain.is_as_written() {
        return found;
    }
    let mut chars_at = chars_before(text);
    for span in &mut found {
        span.bytes = plain.written(&span.bytes);
        let first = chars_at(span.bytes.start);
        span.chars = first..chars_at(span.bytes.end);
    }
    found
}

/// Candidates of all recognisers that need no model.
fn candidates(text: &str) -> Vec<Candidate> {
    let words = Words::of(text);
    let mut scan = Scan::of(text, &words);
    scan.run();
    let mut found = scan.found;
    secrets::secrets(text, &words, |s| {
        found.push(Candidate {
            start: s.start,
            end: s.end,
            kind: "SECRET",
            name: s.name,
            score: s.score,
        });
    });
    found
}

/// Keeps the surer of two that overlap, the longer of two as sure, the earlier of two as long.
fn settle(text: &str, mut candidates: Vec<Candidate>) -> Vec<Span> {
    candidates.sort_by_key(|c| {
        (
            std::cmp::Reverse(c.score),
            std::cmp::Reverse(c.end - c.start),
            c.start,
        )
    });
    let mut kept: BTreeMap<usize, Candidate> = BTreeMap::new();
    for candidate in candidates {
        let before = kept.range(..candidate.end).next_back();
        if before.is_none_or(|(_, other)| other.end <= candidate.start) {
            kept.insert(candidate.start, candidate);
        }
    }
    let mut chars_at = chars_before(text);
    kept.into_values()
        .map(|c| {
            debug_assert!(is_class(c.kind), "{} is no class", c.kind);
            let first = chars_at(c.start);
            let last = chars_at(c.end);
            Span {
                bytes: c.start..c.end,
                chars: first..last,
                kind: c.kind,
                name: c.name,
                score: c.score,
            }
        })
        .collect()
}

/// How many code points stand before a place of `text`; asked for one place after the other.
fn chars_before(text: &str) -> impl FnMut(usize) -> usize {
    let (mut byte, mut char) = (0, 0);
    move |place| {
        char += text[byte..place].chars().count();
        byte = place;
        char
    }
}

/// Longer runs of letters and digits are no identifier.
const RUN_MAX: usize = 128;

struct Scan<'t> {
    text: &'t str,
    bytes: &'t [u8],
    words: &'t Words<'t>,
    /// Whether any word of telephones stands in the text.
    phones: bool,
    found: Vec<Candidate>,
}

impl<'t> Scan<'t> {
    fn of(text: &'t str, words: &'t Words<'t>) -> Scan<'t> {
        let phones = words.mentions_about(About::Phone) || words.mentions_about(About::PhonePerhaps);
        Scan {
            text,
            bytes: text.as_bytes(),
            words,
            phones,
            found: Vec::new(),
        }
    }

    fn run(&mut self) {
        let mut place = 0;
        while let Some(byte) = self.bytes.get(place) {
            if !byte.is_ascii_alphanumeric() {
                match byte {
                    b'@' => {
                        if let Some((start, end)) = forms::email(self.bytes, place) {
                            self.add(start, end, "EMAIL", "EMAIL", 96);
                        }
                    }
                    b'+' | b'('
                        if self
                            .bytes
                            .get(place + 1)
                            .is_some_and(|b| b.is_ascii_digit() || *b == b'+') =>
                    {
                        self.phone(place)
                    }
                    _ => {}
                }
                place += 1;
                continue;
            }
            let run = self.bytes[place..]
                .iter()
                .take_while(|b| b.is_ascii_alphanumeric())
                .count();
            if run <= RUN_MAX {
                self.token(place, run);
            }
            place += run;
        }
    }

    fn add(&mut self, start: usize, end: usize, kind: &'static str, name: &'static str, score: u8) {
        self.found.push(Candidate {
            start,
            end,
            kind,
            name,
            score,
        });
    }

    /// Everything that may begin with the `run` letters and digits at `start`.
    fn token(&mut self, start: usize, run: usize) {
        let bytes = self.bytes;
        let (first, after) = (bytes[start], bytes.get(start + run).copied().unwrap_or(b'\n'));
        if after == b':' || after == b'-' {
            self.hexadecimal(start, run, after);
        }
        if after == b'.'
            && run < 4
            && first.is_ascii_digit()
            && let Some(end) = forms::ipv4(bytes, start)
        {
            self.ipv4(start, end);
        }
        if run > 13
            && let Some(wallet) = wallets::wallet(&bytes[start..start + run])
        {
            let (kind, name) = match wallet {
                wallets::Wallet::Address(name) => ("CRYPTO", name),
                wallets::Wallet::Key => ("SECRET", "WIF"),
            };
            self.add(start, start + run, kind, name, 96);
        } else if (32..=44).contains(&run) || run == 95 || run == 106 {
            self.wallet_by_word(start, run);
        }
        if !begins(bytes, start) {
            return;
        }
        if first.is_ascii_digit() {
            if run < 7
                || bytes[start..]
                    .iter()
                    .take(3)
                    .take_while(|b| b.is_ascii_digit())
                    .count()
                    < 3
            {
                self.date(start);
            }
            let announced = start > 0 && matches!(bytes[start - 1], b'+' | b'(');
            // Without a word only numbers with a trunk zero, and those of North America, can be told.
            let alone = first == b'0' && run > 1 || run == 3 || first == b'1' && run == 1;
            if !announced && (alone || self.phones) {
                self.phone(start);
            }
        } else if run > 3
            && bytes[start + 1].is_ascii_alphabetic()
            && bytes[start + 2].is_ascii_digit()
            && bytes[start + 3].is_ascii_digit()
            && let Some(end) = forms::iban(bytes, start)
        {
            self.add(start, end, "IBAN", "IBAN", 97);
        }
        self.table(start, run);
        self.by_word_alone(start, run);
    }

    fn hexadecimal(&mut self, start: usize, run: usize, after: u8) {
        if !self.bytes[start..start + run].iter().all(u8::is_ascii_hexdigit) {
            return;
        }
        if run == 2
            && let Some(end) = forms::mac(self.bytes, start)
        {
            self.add(start, end, "MAC_ADDRESS", "MAC_ADDRESS", 93);
        }
        if after == b':'
            && run < 5
            && let Some(end) = forms::ipv6(self.bytes, start)
        {
            self.add(start, end, "IP_ADDRESS", "IPV6", 92);
        }
    }

    fn ipv4(&mut self, start: usize, end: usize) {
        if self
            .words
            .near_about(About::Version, start, end)
            .is_none_or(|near| near > 3)
        {
            self.add(start, end, "IP_ADDRESS", "IPV4", 92);
        }
    }

    /// Addresses of currencies whose form alone says too little.
    fn wallet_by_word(&mut self, start: usize, run: usize) {
        let word = &self.bytes[start..start + run];
        let base58 = word.iter().all(|b| !matches!(b, b'0' | b'O' | b'I' | b'l'));
        let mixed = word.iter().any(u8::is_ascii_uppercase)
            && word.iter().any(u8::is_ascii_lowercase)
            && word.iter().any(u8::is_ascii_digit);
        if base58 && mixed && self.words.near_about(About::Wallet, start, start + run).is_some() {
            self.add(start, start + run, "CRYPTO", "WALLET", 80);
        }
    }

    fn date(&mut self, start: usize) {
        let Some((start, end)) = forms::date(self.text, start) else {
            return;
        };
        let clock = matches!(self.bytes[end..], [b'T' | b' ' | b':' | b',' , a, b, ..] if a.is_ascii_digit() && (b.is_ascii_digit() || b == b':'));
        if let Some(near) = self.words.near_about(About::Date, start, end) {
            self.add(start, end, "DATE", "DATE", 84 + bonus(near));
        } else if !clock && self.said(start) {
            self.add(start, end, "DATE", "DATE", 66);
        }
    }

    /// Whether a word of a sentence stands right before `start`.
    fn said(&self, start: usize) -> bool {
        let before = self.text[..start]
            .strip_suffix([' ', ','])
            .unwrap_or_default()
            .trim_end_matches(' ');
        let word: Vec<char> = before
            .chars()
            .rev()
            .take(24)
            .take_while(|c| c.is_alphabetic() || matches!(c, '\'' | '’'))
            .collect();
        let colon = before.ends_with(':') && before.len() > 1;
        (word.len() > 1 && word.iter().any(|c| c.is_lowercase())) || colon
    }

    fn phone(&mut self, start: usize) {
        let Some(dialled) = forms::dialled(self.bytes, start) else {
            return;
        };
        let (end, digits) = (dialled.end, dialled.digits.len());
        if !(6..=17).contains(&digits) || !begins(self.bytes, start) {
            return;
        }
        let certain = forms::phone_certainty(&dialled, || self.is_prose(start, end));
        let perhaps = || {
            self.words
                .near_about(About::PhonePerhaps, start, end)
                .filter(|near| matches!(near, 0..=4 | 8..=10) && digits > 6)
        };
        if let Some(near) = self.words.near_about(About::Phone, start, end).or_else(perhaps) {
            let date = forms::date(self.text, start).is_some();
            let thing = self
                .words
                .near_about(About::Thing, start, end)
                .is_some_and(|other| other < near);
            let short = digits < 7;
            let far = dialled.groups.len() == 1 && !dialled.international && near > 28;
            // Dates and amounts are written with the same marks.
            if !date && !thing && !short && !far && (dialled.even || certain > 0 || dialled.international) {
                self.add(start, end, "PHONE", "PHONE", 66.max(certain) + bonus(near));
                return;
            }
        }
        if certain > 0 {
            self.add(start, end, "PHONE", "PHONE", certain);
        }
    }

    fn table(&mut self, start: usize, run: usize) {
        let (words, bytes) = (self.words, self.bytes);
        let mut sights = Vec::new();
        let wanted = |row: usize, grouped: bool| match TABLE[row].need {
            Need::Nothing | Need::Prose => true,
            Need::Grouped => grouped || words.mentions(row),
            Need::Word => words.mentions(row),
        };
        PICTURES.at(bytes, start, run, wanted, |sight| sights.push(sight));
        for sight in sights {
            let row = &TABLE[sight.row];
            let near = words.near_row(sight.row, start, sight.end);
            let thing = || words.near_about(About::Thing, start, sight.end).is_some();
            // Digits and spaces alone are everywhere in tables.
            let bare = bytes[start..sight.end]
                .iter()
                .all(|b| b.is_ascii_digit() || *b == b' ');
            let alone = row.need != Need::Word
                && sight.capitals
                && (row.need != Need::Grouped || sight.grouped)
                && (row.need == Need::Nothing || !thing())
                && !self.is_operand(start)
                && (!bare && (sight.grouped || row.need != Need::Prose) || self.is_prose(start, sight.end));
            // A check lets nothing through for nothing; the rule of those without one lets everything.
            let checked = !(row.check)(b"");
            let score = match (near, alone) {
                (Some(near), _) if checked => 82 + bonus(near),
                (Some(near), _) => 64 + bonus(near),
                (None, true) if checked => 80,
                (None, _) => continue,
            };
            self.add(start, sight.end, row.kind, row.name, score);
        }
    }

    /// Whether an operator stands before `start`, and something before that.
    fn is_operand(&self, start: usize) -> bool {
        let line = self.text[..start]
            .rsplit('\n')
            .next()
            .unwrap_or_default()
            .trim_end_matches(' ');
        line.len() > 1 && line.ends_with(['+', '-', '*', '/', '^', '%']) && self.text[..start].ends_with(' ')
    }

    /// Numbers that a firm or a post gives out: nothing but the word before them tells them.
    fn by_word_alone(&mut self, start: usize, run: usize) {
        let bytes = self.bytes;
        if !(3..=16).contains(&run) || !bytes[start..start + run].iter().any(u8::is_ascii_digit) {
            return;
        }
        let near = |about| {
            self.words
                .near_about(about, start, start + run)
                .filter(|near| *near < 8)
        };
        let post = near(About::PostCode).is_some();
        let account = near(About::Account).is_some();
        let more = |end: usize| match bytes[end..] {
            [b' ' | b'-', a, b, ..]
                if a.is_ascii_digit()
                    || post && a.is_ascii_uppercase() && (b.is_ascii_uppercase() || b.is_ascii_digit()) =>
            {
                end + 1
                    + bytes[end + 1..]
                        .iter()
                        .take(8)
                        .take_while(|b| b.is_ascii_alphanumeric())
                        .count()
            }
            _ => end,
        };
        let end = more(start + run);
        let digits = bytes[start..end].iter().filter(|b| b.is_ascii_digit()).count();
        let capitals = bytes[start..end]
            .iter()
            .filter(|b| b.is_ascii_uppercase())
            .count();
        let whole = digits + capitals + usize::from(end > start + run) == end - start;
        if post
            && whole
            && (digits > 2 || digits > 1 && capitals > 1)
            && end - start < 11
            && picture::ends(bytes, end)
        {
            self.add(start, end, "ZIP_CODE", "ZIP_CODE", 70);
        } else if account && digits > 3 && picture::ends(bytes, start + run) {
            self.add(start, start + run, "ID_NUMBER", "ACCOUNT", 70);
        }
    }

    /// Whether `start..end` stands in a line of words and not in a table of numbers. What stands alone in its line does too.
    fn is_prose(&self, start: usize, end: usize) -> bool {
        const FAR: usize = 160;
        let bytes = self.bytes;
        let from = bytes[start.saturating_sub(FAR)..start]
            .iter()
            .rposition(|b| *b == b'\n')
            .map_or(start.saturating_sub(FAR), |i| start.saturating_sub(FAR) + i + 1);
        let to = bytes[end..bytes.len().min(end + FAR)]
            .iter()
            .position(|b| *b == b'\n')
            .map_or(bytes.len().min(end + FAR), |i| end + i);
        let rest = || bytes[from..start].iter().chain(&bytes[end..to]);
        let digits = rest().filter(|b| b.is_ascii_digit()).count();
        let letters = rest().filter(|b| b.is_ascii_alphabetic() || **b >= 0x80).count();
        let alone = bytes.len() < 64 && !bytes.trim_ascii().contains(&b'\n');
        if letters == 0 {
            digits == 0 && alone
        } else {
            letters >= 2 * digits && letters > 5
        }
    }
}

/// What a word that stands `near` adds to the score: 14 right beside, 0 far away.
fn bonus(near: usize) -> u8 {
    14 - (near.min(56) / 4) as u8
}
