//! Names and numbers that stand for others while a text is away, and their way back.
//!
//! A pseudonym looks like what it stands for, is the same all through a session, and is turned back in the answer, however the
//! answer is cut into pieces. Whoever has only the text away from here cannot turn it back; the pairs lie in the vault.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::ops::Deref;

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::pii::{Plain, Span};

const FIRST: &[&str] = &[
    "Alder", "Bryn", "Corin", "Darcy", "Ellis", "Faye", "Greer", "Hollis", "Indra", "Jules", "Kendal",
    "Lark", "Maris", "Noel", "Oakley", "Perrin", "Quill", "Robin", "Sorrel", "Tarin", "Umber", "Vesper",
    "Wynn", "Yarrow", "Zephyr", "Arden", "Blair", "Carey", "Devon", "Emery", "Finley", "Gale",
];

const LAST: &[&str] = &[
    "Ashdown",
    "Birchall",
    "Coldwell",
    "Dunmore",
    "Elmwood",
    "Fernley",
    "Goswick",
    "Harefield",
    "Ivory",
    "Juniper",
    "Kestle",
    "Lindow",
    "Marlowe",
    "Northam",
    "Orchard",
    "Pembrook",
    "Quarrie",
    "Redfern",
    "Stonely",
    "Thornby",
    "Upwood",
    "Vale",
    "Westerly",
    "Yewdale",
    "Ambler",
    "Brooksby",
    "Crossley",
    "Denholm",
    "Eastwood",
    "Foxley",
    "Granby",
    "Heathcote",
];

const STREETS: &[&str] = &[
    "Linden", "Mill", "Station", "Harbour", "Orchard", "Quarry", "Chapel", "Garden",
];

/// No session keeps more pairs.
pub const PAIRS_MAX: usize = 100_000;

/// Attempts at a pseudonym that nothing in the text looks like.
const ATTEMPTS: u32 = 40;

/// Why a text cannot be given pseudonyms. It stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PseudonymError {
    /// There is no room for more pairs.
    #[error("this session holds {PAIRS_MAX} pseudonyms already; begin a new one")]
    Full,
    /// No pseudonym was found from which the text comes back as it was.
    #[error("this text cannot be given pseudonyms that can be told from the rest of it")]
    Ambiguous,
}

/// By what things are replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Replacing {
    /// By others of their kind, which answers are turned back from.
    Pseudonyms,
    /// By words for their kinds, which nobody turns back.
    Masks,
}

/// The pairs of one session. Printing it for a log shows how many they are, and none of them.
#[derive(Clone, PartialEq, Eq)]
pub struct Pseudonyms {
    replacing: Replacing,
    key: [u8; 32],
    /// By kind and original.
    given: BTreeMap<(String, String), String>,
    /// By pseudonym.
    back: BTreeMap<String, String>,
    /// Masks of each kind.
    masks: BTreeMap<String, usize>,
}

impl std::fmt::Debug for Pseudonyms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pseudonyms({})", self.len())
    }
}

impl Pseudonyms {
    /// A session without pairs. Its pseudonyms are drawn from `key`, which is to be random and of this session alone.
    pub fn new(key: [u8; 32]) -> Pseudonyms {
        Pseudonyms {
            replacing: Replacing::Pseudonyms,
            key,
            given: BTreeMap::new(),
            back: BTreeMap::new(),
            masks: BTreeMap::new(),
        }
    }

    /// A session that masks: each thing gives way to a word for its kind with a number, and nothing is turned back.
    pub fn masks() -> Pseudonyms {
        Pseudonyms {
            replacing: Replacing::Masks,
            ..Pseudonyms::new([0; 32])
        }
    }

    /// By what it replaces.
    pub fn replacing(&self) -> Replacing {
        self.replacing
    }

    /// How many things were replaced.
    pub fn len(&self) -> usize {
        self.given.len()
    }

    /// Whether nothing was.
    pub fn is_empty(&self) -> bool {
        self.given.is_empty()
    }

    /// `text` with each of `spans` replaced. What comes back from [`Pseudonyms::restore`] of it is `text`; where that cannot be
    /// had, it is an error. Of a session that masks nothing comes back.
    pub fn replace(&mut self, text: &str, spans: &[Span]) -> Result<String, PseudonymError> {
        match self.replacing {
            Replacing::Pseudonyms => self.disguise(text, spans),
            Replacing::Masks => self.mask(text, spans),
        }
    }

    /// `text` with a word for its kind in the place of each of `spans`.
    fn mask(&mut self, text: &str, spans: &[Span]) -> Result<String, PseudonymError> {
        let mut masked = String::with_capacity(text.len());
        let mut place = 0;
        for span in spans {
            masked.push_str(&text[place..span.bytes.start]);
            let pair = (span.kind.to_owned(), text[span.bytes.clone()].to_owned());
            if !self.given.contains_key(&pair) {
                if self.given.len() >= PAIRS_MAX {
                    return Err(PseudonymError::Full);
                }
                let count = self.masks.entry(pair.0.clone()).or_default();
                *count += 1;
                let mark = format!("[{} {count}]", span.kind);
                self.given.insert(pair.clone(), mark);
            }
            masked.push_str(&self.given[&pair]);
            place = span.bytes.end;
        }
        masked.push_str(&text[place..]);
        Ok(masked)
    }

    fn disguise(&mut self, text: &str, spans: &[Span]) -> Result<String, PseudonymError> {
        // Where a text holds something that looks like a pseudonym already, that is replaced as well.
        let mut places: Vec<(usize, usize, String)> = spans
            .iter()
            .map(|s| (s.bytes.start, s.bytes.end, s.kind.to_owned()))
            .collect();
        for (start, end) in self.lookalikes(text) {
            if !places.iter().any(|(a, b, _)| *a < end && start < *b) {
                places.push((start, end, "LOOKALIKE".to_owned()));
            }
        }
        places.sort_unstable();
        for salt in 0..3 {
            let mut replaced = String::with_capacity(text.len());
            let mut place = 0;
            for (start, end, kind) in &places {
                replaced.push_str(&text[place..*start]);
                let kind = if salt == 0 {
                    kind.clone()
                } else {
                    format!("{kind}#{salt}")
                };
                replaced.push_str(self.of(&kind, &text[*start..*end], text, salt)?);
                place = *end;
            }
            replaced.push_str(&text[place..]);
            if self.restore(&replaced) == text {
                return Ok(replaced);
            }
        }
        Err(PseudonymError::Ambiguous)
    }

    /// Where `text` holds pseudonyms of this session, though nobody put them there.
    fn lookalikes(&self, text: &str) -> Vec<(usize, usize)> {
        let mut found = Vec::new();
        let mut place = 0;
        while place < text.len() {
            match self.longest(&text[place..]) {
                Some(pseudonym) => {
                    found.push((place, place + pseudonym.len()));
                    place += pseudonym.len();
                }
                None => place += text[place..].chars().next().map_or(1, char::len_utf8),
            }
        }
        found
    }

    /// The pseudonym of `original`; `text` is where it stands, and holds nothing like it.
    fn of(&mut self, kind: &str, original: &str, text: &str, salt: u32) -> Result<&str, PseudonymError> {
        let pair = (kind.to_owned(), original.to_owned());
        if !self.given.contains_key(&pair) {
            if self.back.len() >= PAIRS_MAX {
                return Err(PseudonymError::Full);
            }
            let free = |name: &String| {
                name != original && !self.back.contains_key(name) && !text.contains(name.as_str())
            };
            let drawn = (0..ATTEMPTS)
                .filter(|_| salt < 2)
                .map(|n| self.draw(kind, original, n))
                .find(free);
            // A mark that looks like nothing, where nothing that looks right is free.
            let number = self.back.len();
            let marked = || {
                (0..ATTEMPTS as usize)
                    .map(|n| format!("⟦{}⟧", number + n * PAIRS_MAX))
                    .find(free)
            };
            let name = drawn.or_else(marked).ok_or(PseudonymError::Ambiguous)?;
            self.back.insert(name.clone(), original.to_owned());
            self.given.insert(pair.clone(), name);
        }
        Ok(&self.given[&pair])
    }

    /// An attempt at a pseudonym that looks like `original`.
    fn draw(&self, kind: &str, original: &str, attempt: u32) -> String {
        let mut drawn = Drawn::new(&self.key, kind, original, attempt);
        // As it reads: an escape that is taken for letters would be broken.
        let plain = Plain::of(original);
        let unescaped = |c: char| {
            if c.is_control() || matches!(c, '"' | '\\' | '%' | '&') {
                '-'
            } else {
                c
            }
        };
        let shape: Cow<str> = match plain.is_as_written() {
            true => Cow::Borrowed(original),
            false => Cow::Owned(plain.text.chars().map(unescaped).collect()),
        };
        let original = shape.as_ref();
        let kind = kind.split('#').next().unwrap_or(kind);
        match kind {
            "PERSON" => person(original, attempt, &mut drawn),
            "ADDRESS" => {
                let (number, street) = (1 + drawn.below(180), drawn.of(STREETS));
                format!(
                    "{number} {street} Street, {} {}",
                    drawn.of(LAST),
                    10_000 + drawn.below(89_999)
                )
            }
            "ORGANIZATION" => format!("{} {} Ltd", drawn.of(FIRST), drawn.of(LAST)),
            "EMAIL" => {
                let local = original.rsplit_once('@').map_or(original, |(local, _)| local);
                format!(
                    "{}@example.{}",
                    alike(local, &mut drawn),
                    drawn.of(&["org", "com", "net"])
                )
            }
            "DATE" => numbers(original, |digits| match digits {
                4 => 1930 + drawn.below(90),
                _ => 1 + drawn.below(12),
            }),
            "IP_ADDRESS" if original.contains('.') => numbers(original, |_| 1 + drawn.below(254)),
            "CREDIT_CARD" => card(&alike(original, &mut drawn), original),
            _ => alike(original, &mut drawn),
        }
    }

    /// The longest pseudonym at the front of `text`.
    fn longest(&self, text: &str) -> Option<&str> {
        // The last name in order that is not behind `text` begins it, or parts from it at some letter; what begins `text` is
        // then no longer than what both share.
        let mut bound = text;
        loop {
            let (name, _) = self
                .back
                .range::<str, _>((Bound::Unbounded, Bound::Included(bound)))
                .next_back()?;
            if text.starts_with(name.as_str()) {
                return Some(name);
            }
            let shared = text
                .chars()
                .zip(name.chars())
                .take_while(|(a, b)| a == b)
                .map(|(a, _)| a.len_utf8())
                .sum();
            if shared == 0 {
                return None;
            }
            bound = &text[..shared];
        }
    }

    /// Whether `text` may grow into a pseudonym.
    fn grows(&self, text: &str) -> bool {
        let mut behind = self
            .back
            .range::<str, _>((Bound::Excluded(text), Bound::Unbounded));
        behind.next().is_some_and(|(name, _)| name.starts_with(text))
    }

    /// A whole text turned back.
    pub fn restore(&self, text: &str) -> String {
        let mut restorer = Restorer::new(self);
        let mut whole = restorer.push(text);
        whole.push_str(&restorer.finish());
        whole
    }

    /// The pairs, sealed with `key`. `nonce` is never to be used twice with one key. A session that masks has none: what it masked is to
    /// be turned back by nobody, and is kept nowhere.
    pub fn seal(&self, key: &[u8; 32], nonce: [u8; NONCE_LEN]) -> Result<Vec<u8>, VaultError> {
        if self.replacing == Replacing::Masks {
            return Err(VaultError::Masks);
        }
        let pairs = self.given.iter();
        let pairs = pairs.map(|((kind, original), name)| (kind.clone(), original.clone(), name.clone()));
        let vault = Vault {
            key: self.key,
            pairs: pairs.collect(),
        };
        let mut sealed = serde_json::to_vec(&vault).map_err(|_| VaultError::Damaged)?;
        let lock = lock(key)?;
        let done =
            lock.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(VAULT), &mut sealed);
        done.map_err(|_| VaultError::Damaged)?;
        Ok([VAULT, &nonce, &sealed].concat())
    }

    /// The pairs that [`Pseudonyms::seal`] sealed with the same key.
    pub fn open(sealed: &[u8], key: &[u8; 32]) -> Result<Pseudonyms, VaultError> {
        let rest = sealed.strip_prefix(VAULT).ok_or(VaultError::Unknown)?;
        let (nonce, rest) = rest.split_first_chunk::<NONCE_LEN>().ok_or(VaultError::Damaged)?;
        let mut plain = rest.to_vec();
        let opened =
            lock(key)?.open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(VAULT), &mut plain);
        let plain = opened.map_err(|_| VaultError::Damaged)?;
        let vault: Vault = serde_json::from_slice(plain).map_err(|_| VaultError::Damaged)?;
        if vault.pairs.len() > PAIRS_MAX {
            return Err(VaultError::Damaged);
        }
        let mut session = Pseudonyms::new(vault.key);
        for (kind, original, name) in vault.pairs {
            session.back.insert(name.clone(), original.clone());
            session.given.insert((kind, original), name);
        }
        Ok(session)
    }
}

/// What a vault begins with; a part of what its seal covers.
const VAULT: &[u8] = b"heph vault 1\n";

fn lock(key: &[u8; 32]) -> Result<LessSafeKey, VaultError> {
    UnboundKey::new(&CHACHA20_POLY1305, key)
        .map(LessSafeKey::new)
        .map_err(|_| VaultError::Damaged)
}

#[derive(Serialize, Deserialize)]
struct Vault {
    key: [u8; 32],
    pairs: Vec<(String, String, String)>,
}

/// Why a vault is not made, or stays shut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VaultError {
    /// The session masks.
    #[error("what was masked is kept in no vault: nobody turns it back")]
    Masks,
    /// It does not begin as a vault.
    #[error("this is no vault of pseudonyms")]
    Unknown,
    /// It was changed, or the key is another.
    #[error("the vault of pseudonyms cannot be opened: it was damaged, or its key is another")]
    Damaged,
}

/// Turns pseudonyms back in a text that comes in pieces. It owns the session, shares or borrows it.
#[derive(Debug)]
pub struct Restorer<S> {
    session: S,
    held: String,
}

impl<S: Deref<Target = Pseudonyms>> Restorer<S> {
    /// For the answer of one request.
    pub fn new(session: S) -> Restorer<S> {
        Restorer {
            session,
            held: String::new(),
        }
    }

    /// The next piece; what comes out is settled. What may be the beginning of a pseudonym is held, never more than the longest.
    pub fn push(&mut self, piece: &str) -> String {
        self.held.push_str(piece);
        self.settle(End::Open)
    }

    /// What was held, when nothing comes any more.
    pub fn finish(&mut self) -> String {
        self.settle(End::Reached)
    }

    fn settle(&mut self, end: End) -> String {
        let held = std::mem::take(&mut self.held);
        let mut settled = String::with_capacity(held.len());
        let mut rest = held.as_str();
        while let Some(first) = rest.chars().next() {
            if end == End::Open && self.session.grows(rest) {
                break;
            }
            match self.session.longest(rest) {
                Some(name) => {
                    settled.push_str(&self.session.back[name]);
                    rest = &rest[name.len()..];
                }
                None => {
                    settled.push(first);
                    rest = &rest[first.len_utf8()..];
                }
            }
        }
        self.held = rest.to_owned();
        settled
    }
}

/// Whether more may come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Open,
    Reached,
}

/// Numbers from a key and what is to be replaced: the same for the same, and nobody without the key can tell them.
struct Drawn {
    seed: [u8; 32],
    block: [u8; 32],
    used: usize,
    count: u64,
}

impl Drawn {
    fn new(key: &[u8; 32], kind: &str, original: &str, attempt: u32) -> Drawn {
        let mut hasher = Sha256::new();
        hasher.update(b"heph pseudonym v1\n");
        hasher.update(key);
        hasher.update((kind.len() as u64).to_le_bytes());
        hasher.update(kind);
        hasher.update(attempt.to_le_bytes());
        hasher.update(original);
        Drawn {
            seed: hasher.finalize().into(),
            block: [0; 32],
            used: 32,
            count: 0,
        }
    }

    fn byte(&mut self) -> u8 {
        if self.used == 32 {
            self.block = Sha256::new()
                .chain_update(self.seed)
                .chain_update(self.count.to_le_bytes())
                .finalize()
                .into();
            (self.used, self.count) = (0, self.count + 1);
        }
        self.used += 1;
        self.block[self.used - 1]
    }

    fn below(&mut self, n: u32) -> u32 {
        let drawn = (0..4).fold(0, |n, _| n << 8 | u64::from(self.byte()));
        ((drawn * u64::from(n)) >> 32) as u32
    }

    fn of<'a>(&mut self, list: &[&'a str]) -> &'a str {
        list[self.below(list.len() as u32) as usize]
    }
}

fn person(original: &str, attempt: u32, drawn: &mut Drawn) -> String {
    let first = drawn.of(FIRST);
    // After some attempts the short lists are used up, and an initial tells people apart.
    let initial = if attempt > 3 {
        format!(" {}.", char::from(b'A' + drawn.below(26) as u8))
    } else {
        String::new()
    };
    let more = if attempt > 12 {
        format!("-{}", drawn.of(LAST))
    } else {
        String::new()
    };
    let name = match original.contains(char::is_whitespace) || attempt > 3 {
        true => format!("{first}{initial} {}{more}", drawn.of(LAST)),
        false => first.to_owned(),
    };
    let letters = || original.chars().filter(|c| c.is_alphabetic());
    if letters().count() > 2 && letters().all(char::is_uppercase) {
        name.to_uppercase()
    } else {
        name
    }
}

/// Digits for digits, letters for letters in their case, everything else as it is.
fn alike(original: &str, drawn: &mut Drawn) -> String {
    let hexadecimal = original.len() > 6
        && original
            .chars()
            .all(|c| c.is_ascii_hexdigit() || ":-.x".contains(c));
    let letters = if hexadecimal { 6 } else { 26 };
    let mut first = true;
    original
        .chars()
        .map(|c| match c {
            '0'..='9' if first && c != '0' => {
                first = false;
                char::from(b'1' + drawn.below(9) as u8)
            }
            '0'..='9' => {
                first = false;
                char::from(b'0' + drawn.below(10) as u8)
            }
            c if c.is_uppercase() => char::from(b'A' + drawn.below(letters) as u8),
            c if c.is_alphabetic() => char::from(b'a' + drawn.below(letters) as u8),
            c => c,
        })
        .collect()
}

/// `original` with other numbers of about the same length in the places of its own.
fn numbers(original: &str, mut other: impl FnMut(usize) -> u32) -> String {
    let mut made = String::with_capacity(original.len());
    let mut digits = 0;
    for c in original.chars().chain(['\0']) {
        if c.is_ascii_digit() {
            digits += 1;
            continue;
        }
        if digits > 0 {
            made.push_str(&format!("{:0width$}", other(digits), width = digits.min(2)));
            digits = 0;
        }
        if c != '\0' {
            made.push(c);
        }
    }
    made
}

/// A card number that keeps its issuer and passes Luhn's check.
fn card(drawn: &str, original: &str) -> String {
    let mut digits: Vec<u32> = drawn.chars().filter_map(|c| c.to_digit(10)).collect();
    let issuer = original.chars().filter_map(|c| c.to_digit(10)).take(4);
    digits.iter_mut().zip(issuer).for_each(|(d, i)| *d = i);
    let doubled = |d: u32| if d > 4 { 2 * d - 9 } else { 2 * d };
    if let Some((last, body)) = digits.split_last_mut() {
        let sum: u32 = body
            .iter()
            .rev()
            .enumerate()
            .map(|(i, d)| if i % 2 == 0 { doubled(*d) } else { *d })
            .sum();
        *last = (10 - sum % 10) % 10;
    }
    let mut digits = digits.into_iter().filter_map(|d| char::from_digit(d, 10));
    drawn
        .chars()
        .map(|c| {
            if c.is_ascii_digit() {
                digits.next().unwrap_or(c)
            } else {
                c
            }
        })
        .collect()
}
