//! Which beginnings of prompts a node holds in its cache.

use std::collections::{HashMap, VecDeque};

/// Which blocks of prompts a node holds: the least recently used go first.
#[derive(Debug, Clone)]
pub struct PrefixCache {
    blocks_max: usize,
    used: HashMap<u64, u64>,
    order: VecDeque<(u64, u64)>,
    clock: u64,
}

impl PrefixCache {
    /// An empty cache of so many blocks.
    pub fn new(blocks_max: usize) -> PrefixCache {
        PrefixCache {
            blocks_max,
            used: HashMap::new(),
            order: VecDeque::new(),
            clock: 0,
        }
    }

    /// How many blocks from the beginning are held.
    pub fn overlap(&self, prefix: &[u64]) -> usize {
        prefix
            .iter()
            .take_while(|block| self.used.contains_key(block))
            .count()
    }

    /// Takes a prompt's blocks in; the first of them stay longest.
    pub fn hold(&mut self, prefix: &[u64]) {
        for block in prefix.iter().rev() {
            self.clock += 1;
            self.used.insert(*block, self.clock);
            self.order.push_back((self.clock, *block));
        }
        while self.used.len() > self.blocks_max || self.order.len() > 4 * self.blocks_max + prefix.len() {
            let Some((when, block)) = self.order.pop_front() else {
                return;
            };
            if self.used.get(&block) == Some(&when) {
                match self.used.len() > self.blocks_max {
                    true => drop(self.used.remove(&block)),
                    false => self.order.push_back((when, block)),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_holds_no_more_than_it_may() {
        let mut cache = PrefixCache::new(8);
        for round in 0..1000u64 {
            let blocks: Vec<u64> = (0..5).map(|at| round % 7 * 10 + at).collect();
            cache.hold(&blocks);
            assert!(cache.used.len() <= 8 && cache.order.len() <= 4 * 8 + 5);
            assert_eq!(cache.overlap(&blocks), 5);
        }
    }
}
