//! Byte-pair encoding: the pair that was learnt first is merged first (Sennrich et al. 2016, arXiv:1508.07909).

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use super::texts::Ids;

/// Vocabulary and merges of a byte-pair encoding.
#[derive(Debug, Clone, Default)]
pub(super) struct Bpe {
    pub(super) ids: Ids,
    /// Rank (lower first) and result of each pair of tokens that merges.
    pub(super) merges: HashMap<(u32, u32), (u32, u32)>,
    /// The token of each byte, for characters the vocabulary lacks.
    pub(super) bytes: Option<Box<[Option<u32>; 256]>>,
    /// The token for what nothing else stands for; without it such characters are left out.
    pub(super) unknown: Option<u32>,
    /// One unknown token for a run of unknown characters.
    pub(super) fuse_unknown: bool,
    /// A piece that is a token as it stands is never split.
    pub(super) whole_pieces: bool,
    /// What the characters after a piece's first are prefixed with in the vocabulary.
    pub(super) continuing_prefix: String,
    /// What a piece's last character is followed by in the vocabulary.
    pub(super) end_suffix: String,
}

/// Buffers that the encoding of one piece hands on to the next.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    symbols: Vec<Symbol>,
    queue: BinaryHeap<Reverse<Candidate>>,
}

#[derive(Debug, Clone, Copy)]
struct Symbol {
    id: u32,
    previous: u32,
    next: u32,
    merged_away: bool,
}

/// A pair that may merge; ordered by rank, then from left to right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    rank: u32,
    at: u32,
    left: u32,
    right: u32,
    id: u32,
}

/// No neighbour.
const NONE: u32 = u32::MAX;

impl Bpe {
    /// Adds the tokens of `piece` to `out`. Time is `n log n` in the length of the piece.
    pub(super) fn encode(&self, piece: &str, scratch: &mut Scratch, out: &mut Vec<u32>) {
        if self.whole_pieces
            && let Some(id) = self.ids.get(piece)
        {
            out.push(id);
            return;
        }
        self.spell(piece, &mut scratch.symbols);
        self.merge(scratch);
        out.extend(
            scratch
                .symbols
                .iter()
                .filter(|symbol| !symbol.merged_away)
                .map(|symbol| symbol.id),
        );
    }

    /// The characters of `piece` as tokens.
    fn spell(&self, piece: &str, symbols: &mut Vec<Symbol>) {
        symbols.clear();
        let mut buffer = [0; 4];
        let mut after_unknown = false;
        for (at, c) in piece.char_indices() {
            let last = at + c.len_utf8() == piece.len();
            if let Some(id) = self.id_of_char(c, at == 0, last) {
                push(symbols, id);
                after_unknown = false;
            } else if let Some(ids) = self.ids_of_bytes(c.encode_utf8(&mut buffer)) {
                ids.for_each(|id| push(symbols, id));
                after_unknown = false;
            } else if let Some(id) = self.unknown {
                if !(self.fuse_unknown && after_unknown) {
                    push(symbols, id);
                }
                after_unknown = true;
            }
        }
        if let Some(last) = symbols.last_mut() {
            last.next = NONE;
        }
    }

    fn id_of_char(&self, c: char, first: bool, last: bool) -> Option<u32> {
        let prefix = if first { "" } else { &self.continuing_prefix };
        let suffix = if last { &self.end_suffix } else { "" };
        if prefix.is_empty() && suffix.is_empty() {
            return self.ids.get(c.encode_utf8(&mut [0; 4]));
        }
        self.ids.get(&format!("{prefix}{c}{suffix}"))
    }

    fn ids_of_bytes<'a>(&'a self, c: &'a str) -> Option<impl Iterator<Item = u32> + 'a> {
        let table = self.bytes.as_deref()?;
        let known = c.bytes().all(|byte| table[usize::from(byte)].is_some());
        known.then(|| c.bytes().filter_map(|byte| table[usize::from(byte)]))
    }

    fn merge(&self, Scratch { symbols, queue }: &mut Scratch) {
        queue.clear();
        for left in 1..symbols.len() {
            self.propose(symbols, left as u32 - 1, queue);
        }
        while let Some(Reverse(pair)) = queue.pop() {
            let left = symbols[pair.at as usize];
            if left.merged_away || left.id != pair.left || left.next == NONE {
                continue;
            }
            let right = symbols[left.next as usize];
            if right.id != pair.right {
                continue;
            }
            symbols[left.next as usize].merged_away = true;
            symbols[pair.at as usize].id = pair.id;
            symbols[pair.at as usize].next = right.next;
            if right.next != NONE {
                symbols[right.next as usize].previous = pair.at;
                self.propose(symbols, pair.at, queue);
            }
            if left.previous != NONE {
                self.propose(symbols, left.previous, queue);
            }
        }
    }

    /// Queues the pair that starts at symbol `at`, if it merges.
    fn propose(&self, symbols: &[Symbol], at: u32, queue: &mut BinaryHeap<Reverse<Candidate>>) {
        let left = symbols[at as usize];
        let right = symbols[left.next as usize];
        if let Some(&(rank, id)) = self.merges.get(&(left.id, right.id)) {
            queue.push(Reverse(Candidate {
                rank,
                at,
                left: left.id,
                right: right.id,
                id,
            }));
        }
    }
}

fn push(symbols: &mut Vec<Symbol>, id: u32) {
    let at = symbols.len() as u32;
    symbols.push(Symbol {
        id,
        previous: at.wrapping_sub(1),
        next: at + 1,
        merged_away: false,
    });
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn bpe(tokens: &[&str], merges: &[(&str, &str)]) -> Bpe {
        let ids = Ids::of_places(&Arc::new(tokens.iter().collect()), |_| true);
        let id = |text: &str| ids.get(text).unwrap();
        let merges = merges.iter().zip(0..);
        let merges = merges
            .map(|((a, b), rank)| ((id(a), id(b)), (rank, id(&format!("{a}{b}")))))
            .collect();
        Bpe {
            ids,
            merges,
            ..Bpe::default()
        }
    }

    fn encode(bpe: &Bpe, text: &str) -> Vec<u32> {
        let mut out = Vec::new();
        bpe.encode(text, &mut Scratch::default(), &mut out);
        out
    }

    #[test]
    fn the_earliest_merge_comes_first() {
        let bpe = bpe(
            &["a", "b", "c", "ab", "bc", "abc"],
            &[("b", "c"), ("a", "b"), ("a", "bc")],
        );
        assert_eq!(encode(&bpe, "abc"), [5]);
        assert_eq!(encode(&bpe, "ab"), [3]);
        assert_eq!(encode(&bpe, "abab"), [3, 3]);
        assert!(encode(&bpe, "").is_empty());
    }

    #[test]
    fn equal_ranks_merge_from_left_to_right() {
        let bpe = bpe(&["a", "aa"], &[("a", "a")]);
        assert_eq!(encode(&bpe, "aaaaa"), [1, 1, 0]);
    }

    #[test]
    fn what_the_vocabulary_lacks_is_bytes_then_unknown_then_left_out() {
        let mut bpe = bpe(&["a", "<unk>", "<0xC3>", "<0xA9>"], &[]);
        assert_eq!(encode(&bpe, "aéa"), [0, 0]);
        bpe.unknown = Some(1);
        assert_eq!(encode(&bpe, "aééa"), [0, 1, 1, 0]);
        bpe.fuse_unknown = true;
        assert_eq!(encode(&bpe, "aééa"), [0, 1, 0]);
        let mut bytes = Box::new([None; 256]);
        bytes[0xc3] = Some(2);
        bytes[0xa9] = Some(3);
        bpe.bytes = Some(bytes);
        assert_eq!(encode(&bpe, "aéx"), [0, 2, 3, 1]);
    }

    #[test]
    fn a_million_characters_in_one_piece_take_no_square_time() {
        let bpe = bpe(&["a", "aa", "aaaa"], &[("a", "a"), ("aa", "aa")]);
        assert_eq!(encode(&bpe, &"a".repeat(1_000_000)).len(), 250_000);
    }
}
