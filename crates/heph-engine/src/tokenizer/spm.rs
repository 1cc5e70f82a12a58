//! SentencePiece's byte-pair encoding: of all neighbours whose join is a token, the best score is joined first
//! (Kudo and Richardson 2018, arXiv:1808.06226).

use std::collections::BinaryHeap;

use super::texts::Ids;

/// Vocabulary and scores.
#[derive(Debug, Clone)]
pub(super) struct Spm {
    pub(super) ids: Ids,
    /// Score of each token; never NaN.
    pub(super) scores: Vec<f32>,
    /// The token of each byte, for characters the vocabulary lacks.
    pub(super) bytes: Box<[Option<u32>; 256]>,
    /// The token of a byte without one; without it such bytes are left out.
    pub(super) unknown: Option<u32>,
    /// Length in bytes of the longest token.
    pub(super) longest: usize,
}

#[derive(Debug, Clone, Copy)]
struct Symbol {
    start: usize,
    /// Zero once the symbol was joined to its left neighbour.
    len: usize,
    previous: u32,
    next: u32,
}

/// Two neighbours whose join is a token; the greatest is joined first.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    score: f32,
    left: u32,
    right: u32,
    len: usize,
}

/// No neighbour.
const NONE: u32 = u32::MAX;

impl Spm {
    /// Adds the tokens of `text` to `out`. Time is `n log n` in its length.
    pub(super) fn encode(&self, text: &str, out: &mut Vec<u32>) {
        let mut symbols = characters(text);
        let mut queue = BinaryHeap::new();
        for right in 1..symbols.len() as u32 {
            self.propose(text, &symbols, right - 1, right, &mut queue);
        }
        while let Some(pair) = queue.pop() {
            let left = symbols[pair.left as usize];
            let right = symbols[pair.right as usize];
            if left.len == 0 || right.len == 0 || left.len + right.len != pair.len {
                continue;
            }
            symbols[pair.left as usize].len = pair.len;
            symbols[pair.left as usize].next = right.next;
            symbols[pair.right as usize].len = 0;
            if right.next != NONE {
                symbols[right.next as usize].previous = pair.left;
            }
            self.propose(text, &symbols, left.previous, pair.left, &mut queue);
            self.propose(text, &symbols, pair.left, right.next, &mut queue);
        }
        for symbol in symbols.iter().filter(|symbol| symbol.len > 0) {
            self.emit(&text[symbol.start..symbol.start + symbol.len], out);
        }
    }

    fn propose(
        &self,
        text: &str,
        symbols: &[Symbol],
        left: u32,
        right: u32,
        queue: &mut BinaryHeap<Candidate>,
    ) {
        if left == NONE || right == NONE {
            return;
        }
        let start = symbols[left as usize].start;
        let len = symbols[left as usize].len + symbols[right as usize].len;
        if len > self.longest {
            return;
        }
        if let Some(id) = self.ids.get(&text[start..start + len]) {
            queue.push(Candidate {
                score: self.scores[id as usize],
                left,
                right,
                len,
            });
        }
    }

    fn emit(&self, symbol: &str, out: &mut Vec<u32>) {
        match self.ids.get(symbol) {
            Some(id) => out.push(id),
            None => out.extend(
                symbol
                    .bytes()
                    .filter_map(|b| self.bytes[usize::from(b)].or(self.unknown)),
            ),
        }
    }
}

fn characters(text: &str) -> Vec<Symbol> {
    let mut symbols: Vec<Symbol> = text
        .char_indices()
        .zip(0u32..)
        .map(|((start, c), at)| Symbol {
            start,
            len: c.len_utf8(),
            previous: at.wrapping_sub(1),
            next: at + 1,
        })
        .collect();
    if let Some(last) = symbols.last_mut() {
        last.next = NONE;
    }
    symbols
}

impl Ord for Candidate {
    /// By score; of equal scores the leftmost is the greatest.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.score
            .total_cmp(&other.score)
            .then_with(|| other.left.cmp(&self.left))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Candidate {}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn encode(tokens: &[(&str, f32)], text: &str) -> Vec<u32> {
        let mut bytes = Box::new([None; 256]);
        bytes[0xc3] = Some(100);
        let texts = Arc::new(tokens.iter().map(|token| token.0).collect());
        let ids = Ids::of_places(&texts, |_| true);
        let scores = tokens.iter().map(|token| token.1).collect();
        let mut out = Vec::new();
        Spm {
            ids,
            scores,
            bytes,
            unknown: Some(101),
            longest: 4,
        }
        .encode(text, &mut out);
        out
    }

    #[test]
    fn the_best_score_joins_first() {
        let tokens = [("a", 0.0), ("b", 0.0), ("c", 0.0), ("ab", -2.0), ("bc", -1.0)];
        assert_eq!(encode(&tokens, "abc"), [0, 4]);
        assert_eq!(encode(&tokens, "ab"), [3]);
        assert!(encode(&tokens, "").is_empty());
    }

    #[test]
    fn of_equal_scores_the_leftmost_joins_first() {
        assert_eq!(encode(&[("a", 0.0), ("aa", -1.0)], "aaa"), [1, 0]);
    }

    #[test]
    fn unknown_characters_fall_back_to_bytes() {
        assert_eq!(encode(&[("a", 0.0)], "aé"), [0, 100, 101]);
    }
}
