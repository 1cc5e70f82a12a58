//! The spellings of a vocabulary in little memory: a file with millions of short tokens stays about as large as it is.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use hashbrown::HashTable;

/// Texts one after another in one piece of memory: four bytes a text on top of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Texts {
    text: String,
    /// Where each ends.
    ends: Vec<u32>,
}

impl Texts {
    /// Adds a text. What would go beyond 4 GiB of texts is left empty: no vocabulary has as much.
    pub fn push(&mut self, text: &str) {
        if u32::try_from(self.text.len() + text.len()).is_ok() {
            self.text.push_str(text);
        }
        self.ends.push(self.text.len() as u32);
    }

    /// The text at `at`.
    pub fn get(&self, at: usize) -> Option<&str> {
        let end = *self.ends.get(at)? as usize;
        let start = at.checked_sub(1).map_or(0, |before| self.ends[before] as usize);
        Some(&self.text[start..end])
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &str> + ExactSizeIterator + Clone {
        (0..self.len()).map(|at| self.get(at).unwrap_or_default())
    }

    /// Gives back what was taken in advance.
    pub(super) fn shrink(&mut self) {
        self.text.shrink_to_fit();
        self.ends.shrink_to_fit();
    }
}

impl<T: AsRef<str>> Extend<T> for Texts {
    fn extend<I: IntoIterator<Item = T>>(&mut self, texts: I) {
        texts.into_iter().for_each(|text| self.push(text.as_ref()));
    }
}

impl<T: AsRef<str>> FromIterator<T> for Texts {
    fn from_iter<I: IntoIterator<Item = T>>(texts: I) -> Self {
        let mut all = Self::default();
        all.extend(texts);
        all.shrink();
        all
    }
}

/// Ids by spelling: a table of four bytes an entry over texts that stand elsewhere.
#[derive(Debug, Clone, Default)]
pub(super) struct Ids {
    texts: Arc<Texts>,
    /// The id of each text; a text's place where there is none.
    numbers: Option<Vec<u32>>,
    table: HashTable<u32>,
    hasher: RandomState,
}

impl Ids {
    /// The ids of those texts that `wanted` names by their place, which is the id. Of equal texts the last counts.
    pub(super) fn of_places(texts: &Arc<Texts>, wanted: impl Fn(usize) -> bool) -> Self {
        let mut ids = Self {
            texts: Arc::clone(texts),
            ..Self::default()
        };
        let count = (0..texts.len()).filter(|&at| wanted(at)).count();
        ids.fill((0..texts.len() as u32).filter(|&at| wanted(at as usize)), count);
        ids
    }

    /// The ids `numbers` of `texts`. Of equal texts the last counts.
    pub(super) fn new(texts: Texts, numbers: Vec<u32>) -> Self {
        let count = texts.len().min(numbers.len());
        let mut ids = Self {
            texts: Arc::new(texts),
            numbers: Some(numbers),
            ..Self::default()
        };
        ids.fill(0..count as u32, count);
        ids
    }

    fn fill(&mut self, places: impl Iterator<Item = u32>, count: usize) {
        let (texts, hasher) = (&self.texts, &self.hasher);
        let text = |at: u32| texts.get(at as usize).unwrap_or_default();
        let hash = |at: &u32| hasher.hash_one(text(*at));
        self.table.reserve(count, hash);
        for at in places {
            let same = |other: &u32| text(*other) == text(at);
            match self.table.entry(hash(&at), same, hash) {
                hashbrown::hash_table::Entry::Occupied(mut entry) => *entry.get_mut() = at,
                hashbrown::hash_table::Entry::Vacant(entry) => drop(entry.insert(at)),
            }
        }
    }

    /// The id of `text`.
    pub(super) fn get(&self, text: &str) -> Option<u32> {
        let place = |at: u32| self.texts.get(at as usize).unwrap_or_default();
        let hash = self.hasher.hash_one(text);
        let at = *self.table.find(hash, |&at| place(at) == text)?;
        match &self.numbers {
            Some(numbers) => numbers.get(at as usize).copied(),
            None => Some(at),
        }
    }

    /// How many texts have an id.
    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    /// Bytes of the longest text that has an id.
    pub(super) fn longest(&self) -> usize {
        let lengths = self.table.iter().filter_map(|&at| self.texts.get(at as usize));
        lengths.map(str::len).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_found_by_place() {
        let texts: Texts = ["a", "", "bcd"].into_iter().collect();
        assert_eq!(texts.iter().collect::<Vec<_>>(), ["a", "", "bcd"]);
        assert_eq!((texts.len(), texts.get(2), texts.get(3)), (3, Some("bcd"), None));
        assert!(Texts::default().is_empty());
    }

    #[test]
    fn ids_are_found_by_text_and_of_equal_texts_the_last_counts() {
        let texts: Arc<Texts> = Arc::new(["a", "b", "a", "c"].into_iter().collect());
        let ids = Ids::of_places(&texts, |at| at != 3);
        assert_eq!(
            ["a", "b", "c", ""].map(|text| ids.get(text)),
            [Some(2), Some(1), None, None]
        );
        let ids = Ids::new(["x", "yy", "x"].into_iter().collect(), vec![7, 8, 9]);
        assert_eq!(
            (ids.get("x"), ids.get("yy"), ids.longest()),
            (Some(9), Some(8), 2)
        );
    }
}
