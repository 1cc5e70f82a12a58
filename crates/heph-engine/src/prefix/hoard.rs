//! What stays on a hoard of bounded size: what was used lately, and what costs much to compute again for its bytes.
//!
//! The rule is GreedyDual: an entry is worth its cost per byte above the worth of what was given up last, so that what is
//! dear outlives what is cheap, but not for ever. Entries are links of chains and of no use without those before them, so
//! a use counts for all of them: nothing is given up before what hangs on it.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;

/// What is known of an entry when it comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<K> {
    /// Its name.
    pub key: K,
    /// The entry before it in its chain; that of the first one is no entry.
    pub parent: K,
    /// How many entries come before it.
    pub depth: u32,
    /// Bytes that it takes.
    pub bytes: u64,
    /// Operations that one of its bytes costs to compute again.
    pub rate: u64,
}

/// Where an entry stands among those to be given up, the first of them first.
type Rank<K> = (u64, u64, Reverse<u32>, K);

#[derive(Debug)]
struct Place<K> {
    entry: Entry<K>,
    worth: u64,
    used: u64,
}

impl<K: Copy> Place<K> {
    fn rank(&self) -> Rank<K> {
        (self.worth, self.used, Reverse(self.entry.depth), self.entry.key)
    }
}

/// Names of entries that may take a number of bytes together.
#[derive(Debug)]
pub struct Hoard<K> {
    places: HashMap<K, Place<K>>,
    ranks: BTreeSet<Rank<K>>,
    bytes: u64,
    limit: u64,
    /// The worth of what was given up last.
    floor: u64,
    uses: u64,
}

impl<K: Copy + Ord + Hash> Hoard<K> {
    /// An empty hoard for `limit` bytes.
    pub fn new(limit: u64) -> Self {
        Self {
            places: HashMap::new(),
            ranks: BTreeSet::new(),
            bytes: 0,
            limit,
            floor: 0,
            uses: 0,
        }
    }

    /// Bytes on it.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Entries on it.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether nothing is on it.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// The entry of this name.
    pub fn find(&self, key: &K) -> Option<&Entry<K>> {
        self.places.get(key).map(|place| &place.entry)
    }

    /// Counts a use of the entry and of those before it.
    pub fn touch(&mut self, key: K) {
        self.uses += 1;
        let Some(place) = self.places.get(&key) else {
            return;
        };
        let worth = self.floor.saturating_add(place.entry.rate);
        let (mut next, mut depth) = (key, u32::MAX);
        // A chain that somebody made up may lead back to itself; depths fall, so the way ends.
        while let Some(place) = self.places.get_mut(&next).filter(|p| p.entry.depth < depth) {
            self.ranks.remove(&place.rank());
            place.worth = place.worth.max(worth);
            place.used = self.uses;
            self.ranks.insert(place.rank());
            (next, depth) = (place.entry.parent, place.entry.depth);
        }
    }

    /// Takes an entry in and gives others up for it. Returns the names of what found no room: others, and the entry itself
    /// where it is larger than the hoard, hangs on nothing, or only those before it in its chain are left.
    pub fn put(&mut self, entry: Entry<K>) -> Vec<K> {
        if self.places.contains_key(&entry.key) {
            self.touch(entry.key);
            return Vec::new();
        }
        let hangs = entry.depth == 0 || self.places.contains_key(&entry.parent);
        if entry.bytes > self.limit || !hangs {
            return vec![entry.key];
        }
        self.touch(entry.parent);
        let mut gone = Vec::new();
        while self.limit - self.bytes < entry.bytes {
            // Those before it in its chain were used just now.
            let others = self.ranks.iter().find(|rank| rank.1 != self.uses);
            let Some(&(.., key)) = others else {
                gone.push(entry.key);
                return gone;
            };
            self.drop_lowest(key);
            gone.push(key);
        }
        let place = Place {
            entry,
            worth: 0,
            used: 0,
        };
        self.bytes += entry.bytes;
        self.ranks.insert(place.rank());
        self.places.insert(entry.key, place);
        self.touch(entry.key);
        gone
    }

    /// Lets go of `key`, below whose worth nothing new begins from now on.
    fn drop_lowest(&mut self, key: K) {
        let worth = self.places.get(&key).map_or(0, |place| place.worth);
        self.floor = self.floor.max(worth);
        self.remove(&key);
    }

    /// Gives up the entry that is worth least among those that `may` go; `None` where there is none.
    pub fn give_up(&mut self, may: impl Fn(&K) -> bool) -> Option<K> {
        let key = self.ranks.iter().map(|rank| rank.3).find(|key| may(key))?;
        self.drop_lowest(key);
        Some(key)
    }

    /// Takes an entry away that is no longer there.
    pub fn remove(&mut self, key: &K) -> bool {
        let Some(place) = self.places.remove(key) else {
            return false;
        };
        self.ranks.remove(&place.rank());
        self.bytes -= place.entry.bytes;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An entry of 10 bytes: the link `depth` of chain `chain`.
    fn link(chain: u32, depth: u32, rate: u64) -> Entry<u32> {
        Entry {
            key: chain * 100 + depth,
            parent: (chain * 100 + depth).saturating_sub(1),
            depth,
            bytes: 10,
            rate,
        }
    }

    #[test]
    fn what_was_used_longest_ago_goes_first() {
        let mut hoard = Hoard::new(30);
        for chain in 1..=3 {
            assert!(hoard.put(link(chain, 0, 5)).is_empty());
        }
        hoard.touch(100);
        assert_eq!(hoard.put(link(4, 0, 5)), [200]);
        assert_eq!(hoard.put(link(5, 0, 5)), [300]);
        assert_eq!((hoard.bytes(), hoard.len()), (30, 3));
    }

    #[test]
    fn what_costs_more_for_its_bytes_stays_longer_but_not_for_ever() {
        let mut hoard = Hoard::new(30);
        hoard.put(link(1, 0, 20));
        hoard.put(link(2, 0, 5));
        hoard.put(link(3, 0, 5));
        // The dear one is the oldest, and others go before it until the worth of what went has caught up with it.
        let gone: Vec<u32> = (4..20).flat_map(|chain| hoard.put(link(chain, 0, 5))).collect();
        let when = gone.iter().position(|&key| key == 100);
        assert!(when.is_some_and(|when| when >= 4), "{gone:?}");
    }

    #[test]
    fn nothing_goes_before_what_hangs_on_it() {
        let mut state = 7_u64;
        let mut draw = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) % below
        };
        let mut hoard = Hoard::new(200);
        for _ in 0..5_000 {
            let (chain, depth) = (draw(6) as u32 + 1, draw(8) as u32);
            match draw(3) {
                0 => hoard.touch(chain * 100 + depth),
                1 if draw(20) == 0 => {
                    hoard.give_up(|_| true);
                }
                _ => {
                    for depth in 0..=depth {
                        hoard.put(link(chain, depth, 3 + u64::from(chain + depth)));
                    }
                }
            }
            assert!(hoard.bytes() <= 200);
            for entry in hoard.places.values().map(|p| p.entry).filter(|e| e.depth > 0) {
                assert!(
                    hoard.find(&entry.parent).is_some(),
                    "{} hangs on nothing",
                    entry.key
                );
            }
        }
    }

    #[test]
    fn a_chain_longer_than_the_shelf_keeps_its_beginning() {
        let mut hoard = Hoard::new(25);
        assert!(hoard.put(link(1, 0, 1)).is_empty());
        assert!(hoard.put(link(1, 1, 1)).is_empty());
        assert_eq!(hoard.put(link(1, 2, 9)), [102]);
        assert_eq!(
            hoard.put(Entry {
                bytes: 26,
                ..link(2, 0, 1)
            }),
            [200]
        );
        assert_eq!(hoard.put(link(2, 1, 1)), [201], "it hangs on nothing");
        assert_eq!(hoard.bytes(), 20);
    }

    #[test]
    fn chains_that_lead_back_to_themselves_end() {
        let mut hoard = Hoard::new(100);
        hoard.put(Entry {
            parent: 100,
            ..link(1, 0, 1)
        });
        hoard.put(Entry {
            parent: 100,
            ..link(1, 1, 1)
        });
        hoard.put(link(1, 2, 1));
        hoard.touch(102);
        assert!(hoard.remove(&102) && !hoard.remove(&102));
        assert_eq!((hoard.len(), hoard.is_empty()), (2, false));
    }
}
