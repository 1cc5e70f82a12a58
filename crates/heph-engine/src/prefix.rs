//! Caches of earlier prompts, kept for prompts that begin alike: blocks of 64 positions, shared page by page.
//!
//! Called by the batch when a sequence begins and when it ends. A block's name follows from the model, its number format,
//! the law of arithmetic, its owner and every token up to its end, so a block that is found is what would be computed, and
//! one caller never meets another's. Knows no disk and no clock.

mod hoard;

use crate::cache::{CacheBlock, KvCache};
use heph_kernels::ARITHMETIC_VERSION;
use heph_kernels::kv::{KvFormat, PAGE};
use heph_types::{ModelHash, TokenId};
pub use hoard::{Entry, Hoard};
use std::collections::HashMap;

/// Shorter matches within a page are computed anew: sharing one costs a copy on the first write.
const WORTH_SHARING: usize = 16;

/// Who may meet what is kept: a caller and a privacy label, as one number that the door makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Owner(pub [u8; 32]);

/// How far what is computed for a request may be kept for later ones of the same owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// It is forgotten with the request.
    Nowhere,
    /// In memory, until the process ends or the room is needed.
    Memory,
    /// Also in files.
    Disk,
}

/// Whom what is computed for a request may serve again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// Nobody else.
    pub owner: Owner,
    /// Where it may be kept.
    pub reach: Reach,
}

impl Share {
    /// For no later request.
    pub const NONE: Self = Self {
        owner: Owner([0; 32]),
        reach: Reach::Nowhere,
    };
}

/// Names a block of 64 tokens after all those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockKey(pub [u8; 32]);

impl BlockKey {
    /// Where the blocks of one owner begin.
    pub fn root(model: ModelHash, kv: KvFormat, owner: Owner) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("HEPH 2026-11 prefix of a sequence");
        hasher.update(&model.0);
        hasher.update(&ARITHMETIC_VERSION.to_le_bytes());
        hasher.update(kv.to_string().as_bytes());
        hasher.update(&owner.0);
        Self(hasher.finalize().into())
    }

    /// The block of these tokens behind this one.
    pub fn next(&self, tokens: &[TokenId]) -> Self {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        for token in tokens {
            hasher.update(&token.0.to_le_bytes());
        }
        Self(hasher.finalize().into())
    }

    /// The names of all whole blocks of `tokens`, in order.
    pub fn chain(self, tokens: &[TokenId]) -> impl Iterator<Item = Self> {
        tokens.chunks_exact(PAGE).scan(self, |key, block| {
            *key = key.next(block);
            Some(*key)
        })
    }
}

/// A whole block that may be kept on disk.
#[derive(Debug, Clone)]
pub struct NewBlock {
    /// Its name, its place and its cost; its bytes are those in memory.
    pub entry: Entry<BlockKey>,
    /// Its pages.
    pub pages: CacheBlock,
}

#[derive(Debug)]
struct Block {
    /// 64, or fewer at the end of a sequence.
    tokens: Box<[TokenId]>,
    parent: BlockKey,
    pages: CacheBlock,
    /// Whether it was given out for the disk.
    given: bool,
}

/// What is kept in memory, of all owners.
#[derive(Debug)]
pub struct PrefixCache {
    hoard: Hoard<BlockKey>,
    blocks: HashMap<BlockKey, Block>,
    /// What follows a block, or a root.
    children: HashMap<BlockKey, Vec<BlockKey>>,
    given_up: u64,
}

impl PrefixCache {
    /// A cache of `limit` bytes at most. They are also counted in the budget of whoever computed them.
    pub fn new(limit: u64) -> Self {
        Self {
            hoard: Hoard::new(limit),
            blocks: HashMap::new(),
            children: HashMap::new(),
            given_up: 0,
        }
    }

    /// Bytes of the blocks.
    pub fn bytes(&self) -> u64 {
        self.hoard.bytes()
    }

    /// Blocks that are kept.
    pub fn len(&self) -> usize {
        self.hoard.len()
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.hoard.is_empty()
    }

    /// Blocks that were given up for others since the start.
    pub fn given_up(&self) -> u64 {
        self.given_up
    }

    /// How many whole blocks of `tokens` are kept from `root` on.
    pub fn blocks_held(&self, root: BlockKey, tokens: &[TokenId]) -> usize {
        root.chain(tokens)
            .take_while(|key| self.blocks.contains_key(key))
            .count()
    }

    /// Adds to the empty `cache` as many of `tokens` as are kept from `root` on.
    pub fn begin(&mut self, root: BlockKey, tokens: &[TokenId], cache: &mut KvCache) {
        let mut last = root;
        for key in root.chain(tokens) {
            let Some(block) = self.blocks.get(&key) else { break };
            cache.join(&block.pages, PAGE);
            last = key;
        }
        let rest = &tokens[cache.len()..];
        let following = self.children.get(&last).into_iter().flatten();
        let alike = following.map(|key| (common(&self.blocks[key].tokens, rest), *key));
        if let Some((count, key)) = alike.max()
            && count >= WORTH_SHARING
        {
            cache.join(&self.blocks[&key].pages, count);
            last = key;
        }
        self.hoard.touch(last);
    }

    /// Keeps what `cache` holds of `tokens` from `root` on, and returns the whole blocks that `reach` lets go to the disk and that were
    /// not given out for it before. `rate` tells what a byte of the block so many blocks into a sequence costs to compute again.
    pub fn keep(
        &mut self,
        root: BlockKey,
        tokens: &[TokenId],
        cache: &KvCache,
        reach: Reach,
        rate: impl Fn(usize) -> u64,
    ) -> Vec<NewBlock> {
        let mut new = Vec::new();
        let mut parent = root;
        for (number, tokens) in tokens[..cache.len().min(tokens.len())].chunks(PAGE).enumerate() {
            let key = parent.next(tokens);
            let gives = reach == Reach::Disk && tokens.len() == PAGE;
            if let Some(block) = self.blocks.get_mut(&key) {
                if let Some(&entry) = self.hoard.find(&key).filter(|_| gives && !block.given) {
                    block.given = true;
                    let pages = block.pages.clone();
                    new.push(NewBlock { entry, pages });
                }
            } else {
                let Some(pages) = cache.block(number) else { break };
                let entry = Entry {
                    key,
                    parent,
                    depth: number as u32,
                    bytes: pages.bytes(),
                    rate: rate(number),
                };
                if gives {
                    let pages = pages.clone();
                    new.push(NewBlock { entry, pages });
                }
                self.put(entry, tokens, pages, gives);
            }
            parent = key;
        }
        self.hoard.touch(parent);
        new
    }

    fn put(&mut self, entry: Entry<BlockKey>, tokens: &[TokenId], pages: CacheBlock, given: bool) {
        let following = self.children.get(&entry.parent).cloned().unwrap_or_default();
        let within =
            |long: &[TokenId], short: &[TokenId]| long.len() > short.len() && long.starts_with(short);
        let others = || following.iter().map(|key| (key, &self.blocks[key].tokens));
        if others().any(|(_, held)| within(held, tokens)) {
            return;
        }
        // The end of a sequence that went on is of no more use.
        let outgrown: Vec<BlockKey> = others()
            .filter(|(_, held)| within(tokens, held))
            .map(|(key, _)| *key)
            .collect();
        for key in outgrown {
            self.hoard.remove(&key);
            self.forget(&key);
        }
        let gone = self.hoard.put(entry);
        self.given_up += gone.len() as u64;
        gone.iter().for_each(|key| self.forget(key));
        if gone.last() != Some(&entry.key) {
            let (tokens, parent) = (tokens.into(), entry.parent);
            let block = Block {
                tokens,
                parent,
                pages,
                given,
            };
            self.blocks.insert(entry.key, block);
            self.children.entry(parent).or_default().push(entry.key);
        }
    }

    /// Gives up the block that is worth least among those whose pages nobody else holds; false when there is none.
    pub fn give_up(&mut self) -> bool {
        let blocks = &self.blocks;
        let alone = |key: &BlockKey| blocks.get(key).is_none_or(|block| !block.pages.is_shared());
        let Some(key) = self.hoard.give_up(alone) else {
            return false;
        };
        self.given_up += 1;
        self.forget(&key);
        true
    }

    fn forget(&mut self, key: &BlockKey) {
        let Some(block) = self.blocks.remove(key) else {
            return;
        };
        if let Some(following) = self.children.get_mut(&block.parent) {
            following.retain(|other| other != key);
            if following.is_empty() {
                self.children.remove(&block.parent);
            }
        }
    }
}

/// How many tokens two texts have in common from their beginnings on.
pub(crate) fn common(a: &[TokenId], b: &[TokenId]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::KvBudget;
    use heph_kernels::kv::KvShape;
    use heph_types::{LayerRange, Position};
    use std::sync::Arc;

    const SHAPE: KvShape = KvShape {
        kv_heads: 1,
        head_dim: 4,
        format: KvFormat::F32,
    };
    /// Keys and values of 64 positions of 4 numbers of 4 bytes, the values padded to 16 numbers.
    const BLOCK: u64 = 64 * 4 * (4 + 16);

    fn root(owner: u8) -> BlockKey {
        BlockKey::root(ModelHash([1; 32]), KvFormat::F32, Owner([owner; 32]))
    }

    fn empty(budget: &Arc<KvBudget>) -> KvCache {
        let layers = LayerRange::new(0, 1, 1).unwrap();
        KvCache::new(layers, vec![SHAPE], 10_000, Arc::clone(budget))
    }

    /// A cache in which each position holds the number of its token.
    fn computed(tokens: &[TokenId], budget: &Arc<KvBudget>) -> KvCache {
        let mut cache = empty(budget);
        let rows: Vec<f32> = tokens.iter().flat_map(|t| [t.0 as f32; 4]).collect();
        cache.reserve(0, Position(0), tokens.len()).unwrap();
        cache.write(0, Position(0), &rows, &rows);
        cache
    }

    fn text(seed: u32, tokens: usize) -> Vec<TokenId> {
        (0..tokens as u32).map(|i| TokenId(seed * 1000 + i)).collect()
    }

    #[test]
    fn what_is_found_is_what_would_be_computed() {
        let budget = KvBudget::new(1 << 24);
        let mut kept = PrefixCache::new(1 << 20);
        let mut state = 3_u64;
        let mut draw = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as usize % below
        };
        let mut longest = 0;
        for _ in 0..300 {
            // Texts that leave a common trunk at some place.
            let mut tokens = text(0, draw(200));
            tokens.extend(text(1 + draw(5) as u32, 1 + draw(200)));
            let mut cache = empty(&budget);
            kept.begin(root(1), &tokens, &mut cache);
            longest = longest.max(cache.len());
            let computed = computed(&tokens, &budget);
            let same = |cache: &KvCache| cache.export(Position(0), cache.len()).unwrap();
            assert_eq!(same(&cache), same(&computed.fork(Position(cache.len() as u32))));
            kept.keep(root(1), &tokens, &computed, Reach::Disk, |_| 1);
        }
        assert!(longest > 200, "{longest}");
    }

    #[test]
    fn nobody_meets_what_another_owner_left() {
        let budget = KvBudget::new(1 << 20);
        let mut kept = PrefixCache::new(1 << 20);
        let tokens = text(1, 150);
        kept.keep(root(1), &tokens, &computed(&tokens, &budget), Reach::Disk, |_| 1);
        let found = |kept: &mut PrefixCache, root| {
            let mut cache = empty(&budget);
            kept.begin(root, &tokens, &mut cache);
            (cache.len(), kept.blocks_held(root, &tokens))
        };
        assert_eq!(found(&mut kept, root(1)), (150, 2));
        assert_eq!(found(&mut kept, root(2)), (0, 0));
        let other = BlockKey::root(ModelHash([2; 32]), KvFormat::F32, Owner([1; 32]));
        assert_eq!(found(&mut kept, other), (0, 0));
        let other = BlockKey::root(ModelHash([1; 32]), KvFormat::F16, Owner([1; 32]));
        assert_eq!(found(&mut kept, other), (0, 0));
    }

    #[test]
    fn the_limit_holds_and_whole_blocks_are_told_once() {
        let budget = KvBudget::new(1 << 20);
        let mut kept = PrefixCache::new(4 * BLOCK);
        for seed in 1..20 {
            let tokens = text(seed, 64 * 3 + 7);
            let new = kept.keep(root(1), &tokens, &computed(&tokens, &budget), Reach::Disk, |_| 1);
            assert_eq!(new.len(), 3);
            assert_eq!(new[1].entry.parent, new[0].entry.key);
            assert!(kept.bytes() <= 4 * BLOCK && kept.len() <= 4);
            let again = kept.keep(root(1), &tokens, &computed(&tokens, &budget), Reach::Disk, |_| 1);
            assert_eq!(again.len(), 0);
        }
        assert!(kept.given_up() > 50 && budget.used() <= 4 * BLOCK);
        while kept.give_up() {}
        assert_eq!((kept.len(), budget.used(), kept.children.len()), (0, 0, 0));
    }

    #[test]
    fn the_end_of_a_sequence_that_went_on_is_let_go() {
        let budget = KvBudget::new(1 << 20);
        let mut kept = PrefixCache::new(1 << 20);
        for tokens in [70, 100, 127, 90] {
            let tokens = text(1, tokens);
            kept.keep(root(1), &tokens, &computed(&tokens, &budget), Reach::Disk, |_| 1);
            assert_eq!(kept.len(), 2);
        }
        let mut cache = empty(&budget);
        kept.begin(root(1), &text(1, 500), &mut cache);
        assert_eq!(cache.len(), 127);
    }

    #[test]
    fn pages_that_run_are_not_given_up() {
        let budget = KvBudget::new(1 << 20);
        let mut kept = PrefixCache::new(1 << 20);
        let (tokens, others) = (text(1, 64), text(2, 64));
        let running = computed(&tokens, &budget);
        kept.keep(root(1), &tokens, &running, Reach::Disk, |_| 1);
        kept.keep(root(1), &others, &computed(&others, &budget), Reach::Disk, |_| 1);
        assert!(kept.give_up() && !kept.give_up());
        assert_eq!(kept.blocks_held(root(1), &tokens), 1);
    }
}
