//! The KV cache of one sequence: pages of 64 positions per layer, taken as needed from a common budget.
//!
//! Pages can be shared: a fork of a prefix holds the same pages until one of the two writes to them.
//! Rolling back drops pages and shortens the sequence; what a page holds beyond the end is never read.

use heph_kernels::kv::{KvPage, KvShape, PAGE};
use heph_types::{LayerRange, Position};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes that all caches drawing on it may hold together.
#[derive(Debug)]
pub struct KvBudget {
    limit: u64,
    used: AtomicU64,
}

impl KvBudget {
    /// A budget of `limit` bytes.
    pub fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self {
            limit,
            used: AtomicU64::new(0),
        })
    }

    /// Bytes that may be held together.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Bytes held now.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    fn lease(self: &Arc<Self>, bytes: u64) -> Result<Lease, CacheError> {
        let grow = |used: u64| used.checked_add(bytes).filter(|&total| total <= self.limit);
        match self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grow) {
            Ok(_) => Ok(Lease {
                budget: Arc::clone(self),
                bytes,
            }),
            Err(used) => Err(CacheError::Full {
                needed: bytes,
                used,
                limit: self.limit,
            }),
        }
    }
}

/// Bytes taken from a budget, given back when dropped.
#[derive(Debug)]
struct Lease {
    budget: Arc<KvBudget>,
    bytes: u64,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Why a cache cannot take more positions or does not hold those asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CacheError {
    /// The budget of all caches is used up.
    #[error("the KV cache needs {needed} bytes more, and {used} of its {limit} are in use")]
    Full {
        /// Bytes of the page that was asked for.
        needed: u64,
        /// Bytes in use.
        used: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// The sequence would outgrow the context that the session was opened with.
    #[error("position {position} lies beyond the context of {context}")]
    Context {
        /// The first position that does not fit.
        position: usize,
        /// Positions that the session may hold.
        context: usize,
    },
    /// A layer holds another number of positions than the caller believes.
    #[error("layer {layer} holds {held} positions, the work is for position {asked}")]
    WrongPosition {
        /// The layer.
        layer: usize,
        /// Positions it holds.
        held: Position,
        /// Position of the first token of the work.
        asked: Position,
    },
    /// Bytes of another cache that are not so many positions of this one.
    #[error("{got} bytes are not {tokens} positions of {each} bytes")]
    Bytes {
        /// Bytes given.
        got: usize,
        /// Positions that they should be.
        tokens: usize,
        /// Bytes of a position of all layers.
        each: usize,
    },
    /// The session does not hold this layer.
    #[error("the session holds layers {start}..{end}, not layer {layer}")]
    WrongLayer {
        /// The layer asked for.
        layer: usize,
        /// First layer held.
        start: usize,
        /// First layer after those held.
        end: usize,
    },
}

#[derive(Debug)]
struct Held {
    page: KvPage,
    /// Gives the page's bytes back when the last sharer drops it.
    _lease: Lease,
}

#[derive(Debug, Clone, Default)]
struct LayerCache {
    pages: Vec<Arc<Held>>,
    len: usize,
}

/// The pages of all layers for the same 64 positions, shared with every cache that holds them.
#[derive(Debug, Clone)]
pub struct CacheBlock(Vec<Arc<Held>>);

impl CacheBlock {
    /// Bytes of its pages.
    pub fn bytes(&self) -> u64 {
        self.0.iter().map(|held| held.page.bytes() as u64).sum()
    }

    /// Whether a cache, or another copy of this block, holds the pages too: letting go of it frees nothing then.
    pub fn is_shared(&self) -> bool {
        self.0.iter().any(|held| Arc::strong_count(held) > 1)
    }

    /// Keys and values of all 64 positions, as [`KvCache::export`] writes them.
    pub fn export(&self) -> Vec<u8> {
        let each = self.0.iter().map(|held| held.page.shape().position_bytes());
        let mut out = Vec::with_capacity(PAGE * each.sum::<usize>());
        self.0.iter().for_each(|held| held.page.export(PAGE, &mut out));
        out
    }
}

/// Keys and values of one sequence for a range of layers.
#[derive(Debug)]
pub struct KvCache {
    layers: LayerRange,
    shapes: Vec<KvShape>,
    caches: Vec<LayerCache>,
    budget: Arc<KvBudget>,
    context: usize,
}

impl KvCache {
    /// An empty cache for `layers`, one shape for each, of at most `context` positions.
    pub fn new(layers: LayerRange, shapes: Vec<KvShape>, context: usize, budget: Arc<KvBudget>) -> Self {
        assert_eq!(shapes.len(), layers.len(), "one shape per layer");
        let caches = vec![LayerCache::default(); layers.len()];
        Self {
            layers,
            shapes,
            caches,
            budget,
            context,
        }
    }

    /// The layers it holds.
    pub fn layers(&self) -> LayerRange {
        self.layers
    }

    /// Positions that it may hold at most.
    pub fn context(&self) -> usize {
        self.context
    }

    /// Positions that every layer holds.
    pub fn len(&self) -> usize {
        self.caches.iter().map(|c| c.len).min().unwrap_or(0)
    }

    /// Whether no position is held by every layer.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of its pages, shared ones included.
    pub fn bytes(&self) -> u64 {
        self.caches
            .iter()
            .zip(&self.shapes)
            .map(|(c, s)| c.pages.len() as u64 * s.page_bytes() as u64)
            .sum()
    }

    /// Bytes of the pages that `tokens` more positions need and that are not there yet.
    pub fn bytes_more(&self, tokens: usize) -> u64 {
        let more = |(cache, shape): (&LayerCache, &KvShape)| {
            let pages = (cache.len + tokens).div_ceil(PAGE);
            pages.saturating_sub(cache.pages.len()) as u64 * shape.page_bytes() as u64
        };
        self.caches.iter().zip(&self.shapes).map(more).sum()
    }

    /// Forgets every position from `len` on. Keeping more than it holds changes nothing.
    pub fn rollback(&mut self, len: Position) {
        for cache in &mut self.caches {
            cache.len = cache.len.min(len.index());
            cache.pages.truncate(cache.len.div_ceil(PAGE));
        }
    }

    /// Bytes of one position of all layers, as [`KvCache::export`] writes them.
    pub fn position_bytes(&self) -> usize {
        self.shapes.iter().map(KvShape::position_bytes).sum()
    }

    /// The keys and values of `tokens` positions from `first` on: layer after layer, position after position, in the
    /// cache's own number format.
    pub fn export(&self, first: Position, tokens: usize) -> Result<Vec<u8>, CacheError> {
        let (from, end) = (first.index(), first.index() + tokens);
        if end > self.len() {
            return Err(CacheError::WrongPosition {
                layer: self.layers.start(),
                held: Position(self.len() as u32),
                asked: Position(end as u32),
            });
        }
        let mut out = Vec::with_capacity(tokens * self.position_bytes());
        let mut page = Vec::new();
        for (cache, shape) in self.caches.iter().zip(&self.shapes) {
            let each = shape.position_bytes();
            for (number, held) in cache.pages.iter().enumerate() {
                let start = number * PAGE;
                let (lower, upper) = (from.clamp(start, start + PAGE), end.clamp(start, start + PAGE));
                if lower < upper {
                    page.clear();
                    held.page.export(upper - start, &mut page);
                    out.extend_from_slice(&page[(lower - start) * each..]);
                }
            }
        }
        Ok(out)
    }

    /// Takes in what another cache of these layers and this format exported for `tokens` positions from `first` on, which
    /// is where this one ends. Afterwards it holds what that one held, bit for bit; after an error, what it held before.
    pub fn import(&mut self, first: Position, tokens: usize, bytes: &[u8]) -> Result<(), CacheError> {
        let (got, each) = (bytes.len(), self.position_bytes());
        let wrong = CacheError::Bytes { got, tokens, each };
        if tokens.checked_mul(each) != Some(got) {
            return Err(wrong);
        }
        let taken = self.import_layers(first, tokens, bytes);
        if taken.is_err() {
            self.rollback(first);
        }
        taken
    }

    fn import_layers(&mut self, first: Position, tokens: usize, mut bytes: &[u8]) -> Result<(), CacheError> {
        for (index, layer) in self.layers.iter().enumerate() {
            self.reserve(layer, first, tokens)?;
            let each = self.shapes[index].position_bytes();
            let cache = &mut self.caches[index];
            let (mut at, end) = (first.index(), first.index() + tokens);
            while at < end {
                let count = (PAGE - at % PAGE).min(end - at);
                let (own, rest) = bytes.split_at(count * each);
                let page = Arc::get_mut(&mut cache.pages[at / PAGE]).expect("reserved pages are not shared");
                let imported = page.page.import(at % PAGE, own);
                assert_eq!(
                    imported,
                    Ok(count),
                    "whole positions of this shape that fit the page"
                );
                (bytes, at) = (rest, at + count);
            }
            cache.len = end;
        }
        Ok(())
    }

    /// The pages of the positions from `64 * number` on, where all layers have them.
    pub fn block(&self, number: usize) -> Option<CacheBlock> {
        let pages = self.caches.iter().map(|cache| cache.pages.get(number).cloned());
        pages.collect::<Option<_>>().map(CacheBlock)
    }

    /// Shares the pages of a block of the same model and format, of which `tokens` positions count from here on. They are
    /// what comes next: the cache ends at the beginning of a page.
    ///
    /// # Panics
    /// When the cache ends elsewhere, or the block is of another shape.
    pub fn join(&mut self, block: &CacheBlock, tokens: usize) {
        assert_eq!(block.0.len(), self.caches.len(), "a block of these layers");
        assert!(self.len().is_multiple_of(PAGE) && tokens <= PAGE, "whole pages");
        for ((cache, shape), held) in self.caches.iter_mut().zip(&self.shapes).zip(&block.0) {
            assert_eq!(held.page.shape(), *shape, "a block of this format");
            cache.pages.truncate(cache.len / PAGE);
            cache.pages.push(Arc::clone(held));
            cache.len += tokens;
        }
    }

    /// A cache of the first `len` positions that shares their pages with this one.
    pub fn fork(&self, len: Position) -> Self {
        let mut fork = Self {
            layers: self.layers,
            shapes: self.shapes.clone(),
            caches: self.caches.clone(),
            budget: Arc::clone(&self.budget),
            context: self.context,
        };
        fork.rollback(len);
        fork
    }

    /// Makes room for `tokens` more positions in every layer, so that the next pass cannot run out of it.
    pub fn prepare(&mut self, tokens: usize) -> Result<(), CacheError> {
        let first = Position(self.len() as u32);
        self.layers
            .iter()
            .try_for_each(|layer| self.reserve(layer, first, tokens))
    }

    /// Makes room for `tokens` positions from `first` on in `layer`, with no page shared among those to be
    /// written. Fails without a change to what is held when the layer is not exactly `first` long.
    pub(crate) fn reserve(&mut self, layer: usize, first: Position, tokens: usize) -> Result<(), CacheError> {
        let index = self.index(layer)?;
        let shape = self.shapes[index];
        let held = Position(self.caches[index].len as u32);
        if held != first {
            return Err(CacheError::WrongPosition {
                layer,
                held,
                asked: first,
            });
        }
        let end = first.index() + tokens;
        if end > self.context {
            return Err(CacheError::Context {
                position: self.context.max(first.index()),
                context: self.context,
            });
        }
        let cache = &mut self.caches[index];
        if let Some(page) = cache.pages.get_mut(first.index() / PAGE) {
            own(page, shape, &self.budget)?;
        }
        while cache.pages.len() * PAGE < end {
            cache.pages.push(Arc::new(blank(shape, &self.budget)?));
        }
        Ok(())
    }

    /// Writes the keys and values of `tokens` positions from `first` on, `(tokens, kv_heads, head_dim)` each.
    /// Room must have been reserved.
    pub(crate) fn write(&mut self, layer: usize, first: Position, k: &[f32], v: &[f32]) {
        let index = layer - self.layers.start();
        let KvShape {
            kv_heads, head_dim, ..
        } = self.shapes[index];
        let width = kv_heads * head_dim;
        let cache = &mut self.caches[index];
        for (token, (k, v)) in k.chunks_exact(width).zip(v.chunks_exact(width)).enumerate() {
            let position = first.index() + token;
            let page = &mut cache.pages[position / PAGE];
            let page = Arc::get_mut(page).expect("reserved pages are not shared");
            page.page.write(position % PAGE, k, v);
            cache.len = position + 1;
        }
    }

    /// The pages of one layer, in order.
    pub(crate) fn pages(&self, layer: usize) -> impl Iterator<Item = &KvPage> {
        self.caches[layer - self.layers.start()]
            .pages
            .iter()
            .map(|held| &held.page)
    }

    fn index(&self, layer: usize) -> Result<usize, CacheError> {
        let (start, end) = (self.layers.start(), self.layers.end());
        match (start..end).contains(&layer) {
            true => Ok(layer - start),
            false => Err(CacheError::WrongLayer { layer, start, end }),
        }
    }
}

fn blank(shape: KvShape, budget: &Arc<KvBudget>) -> Result<Held, CacheError> {
    let lease = budget.lease(shape.page_bytes() as u64)?;
    Ok(Held {
        page: KvPage::new(shape),
        _lease: lease,
    })
}

/// Replaces a shared page by a copy of its own.
fn own(page: &mut Arc<Held>, shape: KvShape, budget: &Arc<KvBudget>) -> Result<(), CacheError> {
    if Arc::get_mut(page).is_none() {
        let lease = budget.lease(shape.page_bytes() as u64)?;
        *page = Arc::new(Held {
            page: page.page.clone(),
            _lease: lease,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use heph_kernels::kv::KvFormat;

    const SHAPE: KvShape = KvShape {
        kv_heads: 1,
        head_dim: 32,
        format: KvFormat::F32,
    };
    /// Keys and values of 64 positions of 32 numbers of 4 bytes.
    const PAGE_BYTES: u64 = 2 * 64 * 32 * 4;

    fn cache(context: usize, pages: u64) -> KvCache {
        let layers = LayerRange::new(0, 1, 1).unwrap();
        KvCache::new(layers, vec![SHAPE], context, KvBudget::new(pages * PAGE_BYTES))
    }

    fn extend(cache: &mut KvCache, tokens: usize) -> Result<(), CacheError> {
        let first = Position(cache.len() as u32);
        cache.reserve(0, first, tokens)?;
        let rows = vec![first.0 as f32; tokens * 32];
        cache.write(0, first, &rows, &rows);
        Ok(())
    }

    #[test]
    fn pages_come_as_needed_and_go_back_to_the_budget() {
        let mut c = cache(1000, 4);
        extend(&mut c, 65).unwrap();
        assert_eq!(c.budget.used(), 2 * PAGE_BYTES);
        c.rollback(Position(64));
        assert_eq!((c.len(), c.budget.used()), (64, PAGE_BYTES));
        let budget = Arc::clone(&c.budget);
        drop(c);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_fork_shares_pages_until_one_side_writes() {
        let mut a = cache(1000, 4);
        extend(&mut a, 70).unwrap();
        let mut b = a.fork(Position(66));
        assert_eq!(a.budget.used(), 2 * PAGE_BYTES);
        extend(&mut b, 1).unwrap();
        assert_eq!((a.len(), b.len()), (70, 67));
        assert_eq!(a.budget.used(), 3 * PAGE_BYTES);
    }

    #[test]
    fn a_full_budget_and_a_full_context_are_errors_that_lose_nothing() {
        let mut c = cache(1000, 1);
        extend(&mut c, 64).unwrap();
        assert!(matches!(extend(&mut c, 1), Err(CacheError::Full { .. })));
        assert_eq!(c.len(), 64);
        let mut c = cache(10, 1);
        assert_eq!(
            extend(&mut c, 11),
            Err(CacheError::Context {
                position: 10,
                context: 10
            })
        );
        extend(&mut c, 10).unwrap();
    }

    #[test]
    fn work_for_another_position_is_refused() {
        let mut c = cache(100, 2);
        extend(&mut c, 5).unwrap();
        for asked in [0, 3, 4, 6, 64].map(Position) {
            let (layer, held) = (0, Position(5));
            assert_eq!(
                c.reserve(0, asked, 1),
                Err(CacheError::WrongPosition { layer, held, asked })
            );
        }
        assert!(matches!(
            c.reserve(1, Position(5), 1),
            Err(CacheError::WrongLayer { .. })
        ));
    }

    /// The first number of the key at each position, in order.
    fn content(cache: &KvCache) -> Vec<f32> {
        let head = |page: &KvPage, position| {
            let mut key = [0.0; 32];
            page.read_k(position, 0, &mut key);
            key[0]
        };
        let pages: Vec<&KvPage> = cache.pages(0).collect();
        (0..cache.len())
            .map(|at| head(pages[at / PAGE], at % PAGE))
            .collect()
    }

    #[test]
    fn a_rollback_or_fork_to_any_position_keeps_exactly_what_stood_before_it() {
        for len in [0usize, 1, 62, 63, 64, 65, 127, 128, 129] {
            let mut whole = cache(1000, 8);
            for _ in 0..129 {
                extend(&mut whole, 1).unwrap();
            }
            let mut fork = whole.fork(Position(len as u32));
            extend(&mut fork, 1).unwrap();
            let mut expected: Vec<f32> = (0..len).map(|at| at as f32).collect();
            let all: Vec<f32> = (0..129).map(|at| at as f32).collect();
            assert_eq!(content(&whole), all, "forked at {len}");
            whole.rollback(Position(len as u32));
            assert_eq!(content(&whole), expected, "rolled back to {len}");
            expected.push(len as f32);
            assert_eq!(content(&fork), expected, "a fork at {len}");
            drop(fork);
            assert_eq!(whole.budget.used(), len.div_ceil(PAGE) as u64 * PAGE_BYTES);
        }
    }

    #[test]
    fn a_cache_is_as_long_as_its_shortest_layer() {
        let layers = LayerRange::new(0, 2, 2).unwrap();
        let mut c = KvCache::new(layers, vec![SHAPE; 2], 100, KvBudget::new(8 * PAGE_BYTES));
        c.reserve(0, Position(0), 3).unwrap();
        c.write(0, Position(0), &[0.0; 96], &[0.0; 96]);
        assert_eq!(c.len(), 0);
        c.rollback(Position(0));
        c.prepare(1).unwrap();
    }

    #[test]
    fn what_was_exported_is_held_again_bit_for_bit() {
        for format in KvFormat::ALL {
            let shape = KvShape { format, ..SHAPE };
            let layers = LayerRange::new(3, 5, 8).unwrap();
            let budget = KvBudget::new(1 << 20);
            let empty = || KvCache::new(layers, vec![shape; 2], 300, Arc::clone(&budget));
            let mut from = empty();
            for layer in layers.iter() {
                from.reserve(layer, Position(0), 150).unwrap();
                let rows: Vec<f32> = (0..150 * 32)
                    .map(|n| ((n * 7 + layer) % 101) as f32 * 0.37 - 9.0)
                    .collect();
                let values: Vec<f32> = rows.iter().map(|x| x * -1.5).collect();
                from.write(layer, Position(0), &rows, &values);
            }
            let mut to = empty();
            for (first, count) in [(0usize, 64usize), (64, 7), (71, 79)] {
                let bytes = from.export(Position(first as u32), count).unwrap();
                assert_eq!(bytes.len(), count * from.position_bytes());
                to.import(Position(first as u32), count, &bytes).unwrap();
            }
            assert_eq!(to.len(), 150);
            let all = from.export(Position(0), 150).unwrap();
            assert_eq!(to.export(Position(0), 150).unwrap(), all, "{format:?}");
            // What does not fit is refused and changes nothing.
            assert!(from.export(Position(100), 51).is_err());
            assert!(matches!(
                to.import(Position(150), 3, &all[1..]),
                Err(CacheError::Bytes { .. })
            ));
            let gap = to.import(Position(151), 150, &all);
            assert!(matches!(gap, Err(CacheError::WrongPosition { .. })), "{gap:?}");
            let long = to.import(Position(150), 150, &all);
            assert!(long.is_ok(), "{long:?}");
            assert!(matches!(
                to.import(Position(300), 150, &all),
                Err(CacheError::Context { .. })
            ));
            assert_eq!(to.len(), 300);
        }
    }
}
