//! Names of people, addresses and organisations, by a small model of hashed features.
//!
//! A line of tokens gets a line of tags, the best one by Viterbi under weights that are whole numbers, so that it is the same on
//! every machine. The recipe that made the weights stands in `models/recipe/names`; it calls [`tokens`] and [`features`], so that
//! what was trained is what runs. The model knows no dictionary: what it saw in training it remembers by hash alone.

use super::Candidate;

mod plausible;

/// What a token is a part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Tag {
    /// Nothing.
    Outside,
    /// The first token of a person's name.
    Person,
    /// A later one.
    PersonOn,
    /// The first token of an address.
    Address,
    /// A later one.
    AddressOn,
    /// The first token of an organisation's name.
    Organisation,
    /// A later one.
    OrganisationOn,
}

/// How many tags there are.
pub const TAGS: usize = 7;

impl Tag {
    /// All tags, by their number.
    pub const ALL: [Tag; TAGS] = [
        Tag::Outside,
        Tag::Person,
        Tag::PersonOn,
        Tag::Address,
        Tag::AddressOn,
        Tag::Organisation,
        Tag::OrganisationOn,
    ];

    /// Whether this may follow `before`: nothing goes on that did not begin.
    pub fn follows(self, before: Tag) -> bool {
        match self {
            Tag::PersonOn => matches!(before, Tag::Person | Tag::PersonOn),
            Tag::AddressOn => matches!(before, Tag::Address | Tag::AddressOn),
            Tag::OrganisationOn => matches!(before, Tag::Organisation | Tag::OrganisationOn),
            _ => true,
        }
    }

    /// The type and the score of what begins with this tag.
    fn kind(self) -> Option<(&'static str, u8)> {
        match self {
            Tag::Person => Some(("PERSON", 75)),
            // An address holds numbers that look like other things.
            Tag::Address => Some(("ADDRESS", 79)),
            Tag::Organisation => Some(("ORGANIZATION", 72)),
            _ => None,
        }
    }
}

/// A word, a number or a mark, with what the features need of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    /// Where it begins, in bytes.
    pub start: usize,
    /// Where it ends.
    pub end: usize,
    /// Its letters in small, hashed. Training puts [`UNKNOWN`] here at times, so that the rest must do.
    pub word: u64,
    shape: u64,
    heads: [u64; 3],
    tails: [u64; 4],
    /// What stands before it: nothing, a space, the end of a line.
    gap: u8,
    /// What a pattern saw here, hashed, or 0.
    pattern: u64,
    capital: bool,
}

/// The hash of a word that is not to be known.
pub const UNKNOWN: u64 = 0x5bd1_e995_9e37_79b9;

/// One line of tags is found for this many tokens at most; longer texts are cut at the ends of lines where that can be.
const LINE_MAX: usize = 400;

fn mix(a: u64, b: u64) -> u64 {
    let product = (a ^ b.rotate_left(23)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    product ^ product >> 29
}

fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, b| {
        (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Kinds of characters that tokens are made of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Word,
    Mark,
    Space,
}

fn class(c: char) -> Class {
    match c {
        c if c.is_whitespace() => Class::Space,
        // Combining accents belong to the letter before them; house numbers and post codes mix letters and digits.
        c if c.is_alphanumeric() || ('\u{300}'..='\u{36f}').contains(&c) => Class::Word,
        _ => Class::Mark,
    }
}

/// The tokens of `text`: runs of letters and digits, single marks. `patterns` are what patterns found in it, in order.
pub fn tokens(text: &str, patterns: &[super::Span]) -> Vec<Token> {
    let mut found = Vec::new();
    let mut gap = 2;
    let mut letters = text.char_indices().peekable();
    let mut seen = patterns.iter().peekable();
    while let Some((start, first)) = letters.next() {
        let kind = class(first);
        if kind == Class::Space {
            gap = if first == '\n' { 2 } else { gap.max(1) };
            continue;
        }
        let mut end = start + first.len_utf8();
        while kind != Class::Mark
            && let Some((at, next)) = letters.peek().copied()
            && class(next) == kind
            && end - start < 64
        {
            end = at + next.len_utf8();
            letters.next();
        }
        while seen.next_if(|s| s.bytes.end <= start).is_some() {}
        let pattern = seen
            .peek()
            .filter(|s| s.bytes.start <= start)
            .map_or(0, |s| hash(s.kind.as_bytes()));
        found.push(token(text, start, end, gap, pattern));
        gap = 0;
    }
    found
}

fn token(text: &str, start: usize, end: usize, gap: u8, pattern: u64) -> Token {
    let lower: Vec<char> = text[start..end].chars().flat_map(char::to_lowercase).collect();
    let part = |chars: &[char]| chars.iter().fold(0x9e37, |h, c| mix(h, u64::from(u32::from(*c))));
    let head = |n: usize| if lower.len() > n { part(&lower[..n]) } else { 0 };
    let tail = |n: usize| {
        if lower.len() > n {
            part(&lower[lower.len() - n..])
        } else {
            0
        }
    };
    let mut shape = 0;
    let (mut run, mut last) = (0, ' ');
    for c in text[start..end].chars() {
        let class = match c {
            c if c.is_numeric() => '9',
            c if c.is_uppercase() => 'X',
            c if c.is_lowercase() => 'x',
            c if c.is_alphabetic() => 'o',
            c => c,
        };
        run = if class == last { run + 1 } else { 1 };
        last = class;
        // The number of digits matters, the number of letters does not.
        if run < 3 || class == '9' && run < 7 {
            shape = mix(shape, u64::from(u32::from(class)));
        }
    }
    Token {
        start,
        end,
        word: part(&lower),
        shape,
        heads: [head(2), head(3), head(4)],
        tails: [tail(1), tail(2), tail(3), tail(4)],
        gap,
        pattern,
        capital: text[start..end].starts_with(char::is_uppercase),
    }
}

/// How many features a token has at most.
pub const FEATURES_MAX: usize = 48;

/// The features of the token at `place`, as hashes.
pub fn features(tokens: &[Token], place: usize, found: &mut Vec<u64>) {
    let at = |offset: isize| place.checked_add_signed(offset).and_then(|i| tokens.get(i));
    let word = |offset| at(offset).map_or(1, |t| t.word);
    let shape = |offset| at(offset).map_or(1, |t| t.shape);
    let this = &tokens[place];
    let mut number = 0;
    let mut add = |hashes: &[u64]| {
        number += 1;
        found.push(hashes.iter().fold(number, |h, part| mix(h, *part)));
    };
    let next_gap = u64::from(at(1).map_or(2, |t| t.gap));
    let gap = u64::from(this.gap);
    add(&[]);
    add(&[this.word]);
    add(&[this.word, u64::from(this.capital)]);
    add(&[this.shape]);
    add(&[this.shape, gap, next_gap]);
    for (n, part) in (1..).zip(this.heads.iter().chain(&this.tails)) {
        add(&[n, *part]);
    }
    add(&[this.tails[2], this.shape]);
    for offset in [-2, -1, 1, 2] {
        add(&[word(offset)]);
        add(&[shape(offset), this.shape]);
    }
    add(&[word(-1), this.word]);
    add(&[this.word, word(1)]);
    add(&[word(-1), this.shape]);
    add(&[word(1), this.shape]);
    add(&[word(-2), word(-1), this.shape]);
    add(&[word(1), word(2), this.shape]);
    add(&[word(-1), word(1), this.shape]);
    add(&[shape(-2), shape(-1), this.shape]);
    add(&[shape(-1), this.shape, shape(1)]);
    add(&[this.shape, shape(1), shape(2)]);
    add(&[shape(-2), shape(-1), this.shape, shape(1), shape(2)]);
    add(&[word(-3), word(-2), word(-1)]);
    add(&[word(-3), this.shape]);
    add(&[word(3), this.shape]);
    for offset in [-1, 1] {
        let other = at(offset);
        add(&[other.map_or(1, |t| t.tails[2]), this.shape]);
        add(&[other.map_or(1, |t| t.tails[1]), this.tails[1]]);
        add(&[other.map_or(1, |t| t.heads[2]), this.shape]);
    }
    add(&[
        this.pattern,
        at(-1).map_or(1, |t| t.pattern),
        at(1).map_or(1, |t| t.pattern),
    ]);
    add(&[at(-2).map_or(1, |t| t.pattern), this.shape]);
    add(&[gap, next_gap, shape(-1), shape(1)]);
}

/// Trained weights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    /// Rows of features, as a power of two.
    bits: u32,
    /// Weights by feature and tag.
    weights: Vec<i8>,
    /// What following is worth, by the tag before and the tag.
    follows: [[i32; TAGS]; TAGS],
}

/// Why bytes are no model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ModelError {
    /// They do not begin as a model does, or are of another version.
    #[error("this is no model of names; train one with the recipe in models/recipe/names")]
    Unknown,
    /// They end too early or too late.
    #[error("the model of names is cut off; take it from the release again")]
    Length,
}

/// What a file of weights begins with.
pub const MAGIC: &[u8; 8] = b"HEPHNAM1";

impl Model {
    /// The model that is part of the program.
    pub fn bundled() -> &'static Model {
        static BUNDLED: std::sync::LazyLock<Model> = std::sync::LazyLock::new(|| {
            Model::read(include_bytes!("../../../../models/heph-names.bin"))
                .expect("the bundled model is whole")
        });
        &BUNDLED
    }

    /// Reads [`MAGIC`], the bits, what following is worth (little-endian, 4 bytes each), then the weights, a byte each.
    pub fn read(bytes: &[u8]) -> Result<Model, ModelError> {
        let rest = bytes.strip_prefix(MAGIC).ok_or(ModelError::Unknown)?;
        let (bits, rest) = rest.split_first().ok_or(ModelError::Length)?;
        let bits = u32::from(*bits);
        if !(8..=22).contains(&bits) {
            return Err(ModelError::Unknown);
        }
        let (table, weights) = rest.split_at_checked(4 * TAGS * TAGS).ok_or(ModelError::Length)?;
        if weights.len() != TAGS << bits {
            return Err(ModelError::Length);
        }
        let mut follows = [[0; TAGS]; TAGS];
        for (value, bytes) in follows.iter_mut().flatten().zip(table.chunks_exact(4)) {
            *value = i32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
        Ok(Model {
            bits,
            weights: weights.iter().map(|b| *b as i8).collect(),
            follows,
        })
    }

    /// What each tag is worth to each token.
    fn scores(&self, tokens: &[Token]) -> Vec<[i32; TAGS]> {
        let mask = (1 << self.bits) - 1;
        let mut found = Vec::with_capacity(FEATURES_MAX);
        let scores = (0..tokens.len()).map(|place| {
            found.clear();
            features(tokens, place, &mut found);
            let mut scores = [0_i32; TAGS];
            for feature in &found {
                let row = (feature & mask) as usize * TAGS;
                for (score, weight) in scores.iter_mut().zip(&self.weights[row..row + TAGS]) {
                    *score += i32::from(*weight);
                }
            }
            scores
        });
        scores.collect()
    }

    /// The best tags for a line of tokens.
    pub fn tags(&self, tokens: &[Token]) -> Vec<Tag> {
        best(self.scores(tokens).into_iter(), &self.follows)
    }

    /// People, addresses and organisations in `text`; `patterns` are what patterns found in it.
    pub(crate) fn candidates(&self, text: &str, patterns: &[super::Span]) -> Vec<Candidate> {
        let tokens = tokens(text, patterns);
        let mut found: Vec<Named> = Vec::new();
        let mut rest = &tokens[..];
        while !rest.is_empty() {
            let line = cut(rest);
            let scores = self.scores(&rest[..line]);
            let tags = best(scores.iter().copied(), &self.follows);
            for ((token, tag), score) in rest[..line].iter().zip(tags).zip(scores) {
                let margin = score[tag as usize] - score[Tag::Outside as usize];
                match (tag, found.last_mut()) {
                    (Tag::Outside, _) => {}
                    (Tag::Person | Tag::Address | Tag::Organisation, _) | (_, None) => {
                        found.push(Named {
                            tag,
                            start: token.start,
                            end: token.end,
                            margin,
                            tokens: 1,
                        });
                    }
                    (_, Some(last)) => {
                        last.end = token.end;
                        last.margin += margin;
                        last.tokens += 1;
                    }
                }
            }
            rest = &rest[line..];
        }
        let code = plausible::is_code(text);
        found
            .into_iter()
            .filter_map(|named| named.candidate(text, code))
            .collect()
    }
}

/// What the model takes for a name.
#[derive(Debug, Clone, Copy)]
struct Named {
    tag: Tag,
    start: usize,
    end: usize,
    /// How much better its tags are than none, over all its tokens.
    margin: i32,
    tokens: i32,
}

impl Named {
    /// The name without the marks at its ends, if it can be one at all.
    fn candidate(self, text: &str, code: bool) -> Option<Candidate> {
        let (kind, score) = self.tag.kind()?;
        if self.margin < MARGIN_MIN * self.tokens {
            return None;
        }
        let (start, end) = plausible::trimmed(text, self.start, self.end);
        let can = match self.tag {
            Tag::Person => plausible::person(text, start, end, code),
            Tag::Address => plausible::address(text, start, end, code),
            _ => plausible::organisation(text, start, end, code),
        };
        can.then_some(Candidate {
            start,
            end,
            kind,
            name: "model",
            score,
        })
    }
}

/// A name's tags are better than none by so much a token, in units of the weights.
const MARGIN_MIN: i32 = 0;

/// How many tokens make the next line of tags.
fn cut(tokens: &[Token]) -> usize {
    if tokens.len() <= LINE_MAX {
        return tokens.len();
    }
    let ends = (LINE_MAX / 2..LINE_MAX).rev().find(|i| tokens[*i].gap == 2);
    ends.unwrap_or(LINE_MAX)
}

/// The line of tags with the highest sum of scores and of what following is worth; the lower tag where two are equal.
pub fn best(scores: impl Iterator<Item = [i32; TAGS]>, follows: &[[i32; TAGS]; TAGS]) -> Vec<Tag> {
    const NEVER: i32 = i32::MIN / 2;
    let mut back: Vec<[u8; TAGS]> = Vec::new();
    let mut sums = [NEVER; TAGS];
    sums[0] = 0;
    for score in scores {
        let mut next = [NEVER; TAGS];
        let mut from = [0_u8; TAGS];
        for tag in Tag::ALL {
            let to = tag as usize;
            for before in Tag::ALL.into_iter().filter(|before| tag.follows(*before)) {
                let sum = sums[before as usize].saturating_add(follows[before as usize][to]);
                if sum > next[to] {
                    (next[to], from[to]) = (sum, before as u8);
                }
            }
            next[to] = next[to].saturating_add(score[to]);
        }
        sums = next;
        back.push(from);
    }
    let mut at = (0..TAGS).rev().max_by_key(|t| sums[*t]).unwrap_or_default();
    let mut tags: Vec<Tag> = back
        .iter()
        .rev()
        .map(|from| {
            let tag = Tag::ALL[at];
            at = usize::from(from[at]);
            tag
        })
        .collect();
    tags.reverse();
    tags
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_no_model_are_refused() {
        assert_eq!(Model::read(b""), Err(ModelError::Unknown));
        assert_eq!(Model::read(b"HEPHNAM1"), Err(ModelError::Length));
        assert_eq!(Model::read(b"HEPHNAM1\xff"), Err(ModelError::Unknown));
        let mut whole = [&MAGIC[..], &[8], &[0; 4 * TAGS * TAGS], &vec![0; TAGS << 8]].concat();
        assert!(Model::read(&whole).is_ok());
        whole.push(0);
        assert_eq!(Model::read(&whole), Err(ModelError::Length));
    }

    #[test]
    fn nothing_goes_on_that_did_not_begin() {
        let liking = |tag: Tag| {
            let mut scores = [0; TAGS];
            scores[tag as usize] = 10;
            scores
        };
        let scores = [
            liking(Tag::PersonOn),
            liking(Tag::AddressOn),
            liking(Tag::Person),
            liking(Tag::PersonOn),
        ];
        let tags = best(scores.into_iter(), &[[0; TAGS]; TAGS]);
        assert!(tags[0] != Tag::PersonOn && tags[2..] == [Tag::Person, Tag::PersonOn]);
        for pair in tags.windows(2) {
            assert!(pair[1].follows(pair[0]));
        }
    }
}
