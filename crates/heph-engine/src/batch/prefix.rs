//! Caches of finished sequences, kept for prompts that begin alike.

use crate::cache::KvCache;
use heph_types::{Position, TokenId};
use std::collections::VecDeque;

/// A bounded store, the oldest dropped first.
pub(super) struct PrefixStore {
    kept: VecDeque<(Vec<TokenId>, KvCache)>,
    limit: usize,
}

/// Shorter matches are computed anew: sharing a page costs a copy on the first write.
const WORTH_SHARING: usize = 16;

impl PrefixStore {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            kept: VecDeque::new(),
            limit,
        }
    }

    /// Keeps a finished sequence; `tokens` may be longer than what the cache holds.
    pub(super) fn keep(&mut self, mut tokens: Vec<TokenId>, cache: KvCache) {
        if self.limit == 0 {
            return;
        }
        tokens.truncate(cache.len());
        while self.kept.len() >= self.limit {
            self.kept.pop_front();
        }
        self.kept.push_back((tokens, cache));
    }

    /// Drops the oldest; false when there was none.
    pub(super) fn drop_oldest(&mut self) -> bool {
        self.kept.pop_front().is_some()
    }

    /// A fork of the cache, kept or running, that holds the longest beginning of `tokens`.
    pub(super) fn longest<'a>(
        &'a self,
        tokens: &[TokenId],
        running: impl Iterator<Item = (&'a [TokenId], &'a KvCache)>,
    ) -> Option<KvCache> {
        let kept = self.kept.iter().map(|(t, c)| (t.as_slice(), c));
        let matches = kept
            .chain(running)
            .map(|(held, cache)| (common(held, tokens).min(cache.len()), cache));
        let (length, cache) = matches.max_by_key(|(length, _)| *length)?;
        (length >= WORTH_SHARING).then(|| cache.fork(Position(length as u32)))
    }
}

fn common(a: &[TokenId], b: &[TokenId]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
