//! One pass over the sources with a question in hand: which span holds which of its words, names, numbers and dates.
//!
//! Nothing else is kept of a source than the ranges of its spans, so memory follows the number of spans, not the words.

use super::dates::DateReader;
use super::question::{Form, NamedKind, Question};
use super::spans::spans;
use super::words::{Word, key, stem, words};
use std::collections::{BTreeSet, HashMap};
use std::ops::Range;

/// Sources of one question.
pub const SOURCES_MAX: usize = 4096;

/// Bytes of all sources together. Their spans and counts then take less than 200 MB.
pub const SOURCE_BYTES_MAX: usize = 64 << 20;

/// Why sources cannot be searched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SurveyError {
    /// Too many of them.
    #[error("there are {sources} sources and {SOURCES_MAX} can be searched at once")]
    TooMany {
        /// How many.
        sources: usize,
    },
    /// Too much of them.
    #[error("the sources have {bytes} bytes and {SOURCE_BYTES_MAX} can be searched at once")]
    TooLarge {
        /// How much.
        bytes: usize,
    },
}

/// A span of a source.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Span {
    /// Which source, in the order they were given.
    pub source: usize,
    /// Its place there.
    pub bytes: Range<usize>,
}

/// What the spans of the sources have of a question.
#[derive(Debug)]
pub struct Survey<'q> {
    pub(super) question: &'q Question,
    spans: Vec<Seen>,
    /// Stems with their counts, of one span after another.
    counts: Vec<(u8, u8)>,
    /// Words of all spans.
    words: u64,
    /// Spans that hold each stem.
    holding: Vec<u32>,
    /// Spans whose last words and the next span's first are one name.
    tied: BTreeSet<u32>,
    /// For each word of the question, how often it stands with a capital and without.
    capitals: Vec<[u32; 2]>,
    bytes: usize,
}

/// A span as it was seen.
#[derive(Debug, Clone, Copy)]
struct Seen {
    source: u32,
    start: u32,
    end: u32,
    words: u16,
    /// Where its counts begin.
    counts: u32,
    /// One bit for each thing that the question names.
    named: u128,
}

impl<'q> Survey<'q> {
    /// Reads every source once.
    ///
    /// # Errors
    /// For too many sources, or too much of them.
    pub fn of(question: &'q Question, sources: &[&str]) -> Result<Self, SurveyError> {
        let bytes = sources.iter().map(|s| s.len()).sum();
        if sources.len() > SOURCES_MAX {
            return Err(SurveyError::TooMany {
                sources: sources.len(),
            });
        }
        if bytes > SOURCE_BYTES_MAX {
            return Err(SurveyError::TooLarge { bytes });
        }
        let mut survey = Self {
            question,
            spans: Vec::new(),
            counts: Vec::new(),
            words: 0,
            holding: vec![0; question.stems.len()],
            tied: BTreeSet::new(),
            capitals: vec![[0; 2]; question.keys.len()],
            bytes,
        };
        let finder = Finder::of(question);
        for (number, text) in sources.iter().enumerate() {
            survey.read(number as u32, text, &finder);
        }
        Ok(survey)
    }

    /// Bytes of all sources.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many spans there are.
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Whether the sources hold no word.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// Where span `number` is.
    pub fn span(&self, number: usize) -> Span {
        let seen = &self.spans[number];
        Span {
            source: seen.source as usize,
            bytes: seen.start as usize..seen.end as usize,
        }
    }

    /// The bits of what span `number` names.
    pub(super) fn named(&self, number: usize) -> u128 {
        self.spans[number].named
    }

    /// The stems of span `number` with their counts.
    pub(super) fn counts(&self, number: usize) -> &[(u8, u8)] {
        let end = self
            .spans
            .get(number + 1)
            .map_or(self.counts.len(), |next| next.counts as usize);
        &self.counts[self.spans[number].counts as usize..end]
    }

    /// Words of span `number`, and of a span on average.
    pub(super) fn length(&self, number: usize) -> (f64, f64) {
        let mean = self.words as f64 / self.spans.len().max(1) as f64;
        (f64::from(self.spans[number].words), mean)
    }

    /// Spans that hold stem `number`.
    pub(super) fn holding(&self, number: usize) -> u32 {
        self.holding[number]
    }

    /// Whether spans `number` and `number + 1` share a name that must not be cut.
    pub(super) fn tied(&self, number: usize) -> bool {
        self.tied.contains(&(number as u32))
    }

    /// Whether spans `number` and `number + 1` follow each other in one source.
    pub(super) fn adjacent(&self, number: usize) -> bool {
        matches!(self.spans.get(number..number + 2), Some([a, b]) if a.source == b.source)
    }

    /// Whether a word that might be a name is one: the sources write it with a capital, and never without.
    pub(super) fn is_name(&self, word: u16) -> bool {
        matches!(self.capitals[usize::from(word)], [capital, 0] if capital > 0)
    }

    fn read(&mut self, source: u32, text: &str, finder: &Finder<'_>) {
        let first = self.spans.len();
        let ranges = spans(text);
        let mut pass = Pass::new(finder);
        let mut all = words(text).peekable();
        for bytes in ranges {
            let counts = self.counts.len() as u32;
            // Offsets of 64 MiB fit a u32.
            self.spans.push(Seen {
                source,
                start: bytes.start as u32,
                end: bytes.end as u32,
                words: 0,
                counts,
                named: 0,
            });
            while let Some(word) = all.next_if(|word| word.bytes.start < bytes.end) {
                self.take(text, word, first, &mut pass);
            }
            for at in counts as usize..self.counts.len() {
                self.holding[usize::from(self.counts[at].0)] += 1;
            }
        }
    }

    /// Counts a word of the newest span, and marks what ends with it.
    fn take(&mut self, text: &str, word: Word<'_>, first: usize, pass: &mut Pass<'_, '_>) {
        let last = self.spans.len() - 1;
        let key = key(word.text);
        self.spans[last].words = self.spans[last].words.saturating_add(1);
        self.words += 1;
        if let Some(&stem) = self.question.stems.get(stem(&key)) {
            let begin = self.spans[last].counts as usize;
            match self.counts[begin..].iter_mut().find(|(known, _)| *known == stem) {
                Some((_, count)) => *count = count.saturating_add(1),
                None => self.counts.push((stem, 1)),
            }
        }
        let known = self.question.keys.get(&*key).copied();
        if let Some(known) = known {
            let count = &mut self.capitals[usize::from(known)][usize::from(!word.capital())];
            *count = count.saturating_add(1);
        }
        for (named, start) in pass.push(text, &word, known) {
            self.mark(named, start, first);
        }
    }

    /// A named thing reaches from byte `start` to the newest span.
    fn mark(&mut self, named: usize, start: usize, first: usize) {
        let last = self.spans.len() - 1;
        for at in (first..=last).rev() {
            self.spans[at].named |= 1 << named;
            if self.spans[at].start as usize <= start {
                break;
            }
            if at > first {
                self.tied.insert(at as u32 - 1);
            }
        }
    }
}

/// What the question names, by the last word of each.
struct Finder<'q> {
    by_last: HashMap<u16, Vec<(usize, &'q [u16])>>,
    dates: Vec<(usize, super::dates::Date)>,
    longest: usize,
}

impl<'q> Finder<'q> {
    fn of(question: &'q Question) -> Self {
        let mut finder = Self {
            by_last: HashMap::new(),
            dates: Vec::new(),
            longest: 1,
        };
        for (number, named) in question.named.iter().enumerate() {
            match &named.form {
                Form::Date(date) => finder.dates.push((number, *date)),
                Form::Words(words) => {
                    if let Some(last) = words.last() {
                        finder.by_last.entry(*last).or_default().push((number, words));
                        finder.longest = finder.longest.max(words.len());
                    }
                }
            }
        }
        finder
    }
}

/// The way through one source.
struct Pass<'f, 'q> {
    finder: &'f Finder<'q>,
    /// The words before, as numbers of the question's keys, with where they begin; the newest last.
    recent: Vec<(Option<u16>, usize)>,
    dates: DateReader,
    found_dates: Vec<(super::dates::Date, Range<usize>)>,
    end: usize,
}

impl<'f, 'q> Pass<'f, 'q> {
    fn new(finder: &'f Finder<'q>) -> Self {
        Self {
            finder,
            recent: Vec::new(),
            dates: DateReader::default(),
            found_dates: Vec::new(),
            end: 0,
        }
    }

    /// The named things that end with `word`, with the byte at which each begins.
    fn push(&mut self, text: &str, word: &Word<'_>, known: Option<u16>) -> Vec<(usize, usize)> {
        let gap = &text[self.end..word.bytes.start];
        self.end = word.bytes.end;
        if self.recent.len() == self.finder.longest {
            self.recent.remove(0);
        }
        self.recent.push((known, word.bytes.start));
        let mut ended = Vec::new();
        for (number, words) in known
            .and_then(|k| self.finder.by_last.get(&k))
            .into_iter()
            .flatten()
        {
            let begin = self.recent.len().checked_sub(words.len());
            let row = begin.map(|b| &self.recent[b..]);
            if let Some(row) = row.filter(|row| row.iter().zip(*words).all(|((k, _), w)| *k == Some(*w))) {
                ended.push((*number, row[0].1));
            }
        }
        if !self.finder.dates.is_empty() {
            self.found_dates.clear();
            self.dates.push(word, gap, &mut self.found_dates);
            for (date, bytes) in &self.found_dates {
                let asked = self.finder.dates.iter().filter(|(_, asked)| asked.within(*date));
                ended.extend(asked.map(|(number, _)| (*number, bytes.start)));
            }
        }
        ended
    }
}

/// Whether a kind of thing is locked whatever the sources say.
pub(super) fn certain(kind: NamedKind) -> bool {
    kind != NamedKind::MaybeName
}
