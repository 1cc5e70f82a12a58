//! Unigram segmentation: of all ways to spell a text with tokens, the one with the best sum of scores
//! (Kudo 2018, arXiv:1804.10959), found by Viterbi's algorithm.

use super::trie::Trie;

/// Tokens and their log probabilities.
#[derive(Debug, Clone)]
pub(super) struct Unigram {
    trie: Trie,
    scores: Vec<f64>,
    unknown: Option<u32>,
    unknown_score: f64,
    bytes: Option<Box<[Option<u32>; 256]>>,
}

/// The best way to reach a place in the text.
#[derive(Debug, Clone, Copy)]
struct Best {
    score: f64,
    from: usize,
    id: Option<u32>,
}

/// What an unknown character costs on top of the rarest token.
const UNKNOWN_PENALTY: f64 = 10.0;

impl Unigram {
    /// A model of `tokens`, each with its id; `scores[id]` is the score of a token. A score that is not a
    /// number counts as the worst. `rarest` is the lowest score of an ordinary token.
    pub(super) fn new<'a>(
        tokens: impl IntoIterator<Item = (&'a str, u32)>,
        scores: Vec<f64>,
        rarest: f64,
        unknown: Option<u32>,
        bytes: Option<Box<[Option<u32>; 256]>>,
    ) -> Self {
        let trie = Trie::new(tokens.into_iter().map(|(text, id)| (text.as_bytes(), id)));
        let scores = scores
            .into_iter()
            .map(|score| if score.is_nan() { f64::MIN } else { score })
            .collect();
        let unknown_score = if rarest.is_finite() {
            rarest - UNKNOWN_PENALTY
        } else {
            -UNKNOWN_PENALTY
        };
        Self {
            trie,
            scores,
            unknown,
            unknown_score,
            bytes,
        }
    }

    /// The token for what cannot be spelled.
    pub(super) fn unknown(&self) -> Option<u32> {
        self.unknown
    }

    /// Whether unknown text is spelled byte by byte.
    pub(super) fn falls_back_to_bytes(&self) -> bool {
        self.bytes.is_some()
    }

    /// Adds the tokens of `text` to `out`. Time is linear in its length; memory is 32 bytes a byte.
    pub(super) fn encode(&self, text: &str, out: &mut Vec<u32>) {
        let best = self.best_paths(text);
        let start = out.len();
        let mut end = text.len();
        let mut unknown_until = None;
        while end > 0 {
            let Best { from, id, .. } = best[end];
            match id {
                Some(id) if Some(id) != self.unknown => {
                    self.flush_unknown(text, end, &mut unknown_until, out);
                    out.push(id);
                }
                _ => unknown_until = unknown_until.or(Some(end)),
            }
            end = from;
        }
        self.flush_unknown(text, 0, &mut unknown_until, out);
        out[start..].reverse();
    }

    fn best_paths(&self, text: &str) -> Vec<Best> {
        let mut best = vec![
            Best {
                score: f64::NEG_INFINITY,
                from: 0,
                id: None
            };
            text.len() + 1
        ];
        best[0].score = 0.0;
        for (at, c) in text.char_indices() {
            let mut covered = false;
            let here = best[at].score;
            for (len, id) in self.trie.prefixes(&text.as_bytes()[at..]) {
                improve(&mut best[at + len], here + self.scores[id as usize], at, Some(id));
                covered |= len == c.len_utf8();
            }
            if !covered {
                improve(&mut best[at + c.len_utf8()], here + self.unknown_score, at, None);
            }
        }
        best
    }

    /// Adds, last first, what stands for the unknown text between `start` and `until`: its bytes, or one
    /// unknown token.
    fn flush_unknown(&self, text: &str, start: usize, until: &mut Option<usize>, out: &mut Vec<u32>) {
        let Some(until) = until.take() else { return };
        let unknown = &text.as_bytes()[start..until];
        match self.bytes.as_deref() {
            Some(bytes) if unknown.iter().all(|&byte| bytes[usize::from(byte)].is_some()) => {
                out.extend(unknown.iter().rev().filter_map(|&byte| bytes[usize::from(byte)]));
            }
            _ => out.extend(self.unknown),
        }
    }
}

fn improve(best: &mut Best, score: f64, from: usize, id: Option<u32>) {
    if score > best.score || (best.id.is_none() && best.score == f64::NEG_INFINITY) {
        *best = Best { score, from, id };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(tokens: &[(&str, f64)], text: &str) -> Vec<u32> {
        let scores = tokens.iter().map(|token| token.1).collect();
        let ids = tokens.iter().zip(0..).map(|(token, id)| (token.0, id));
        let mut out = vec![7];
        Unigram::new(ids, scores, -9.0, Some(99), None).encode(text, &mut out);
        out
    }

    #[test]
    fn the_best_sum_wins_over_the_longest_token() {
        let tokens = [("a", -1.0), ("b", -1.0), ("ab", -3.0), ("c", -1.0), ("bc", -0.5)];
        assert_eq!(encode(&tokens, "abc"), [7, 0, 4]);
        assert_eq!(encode(&tokens, ""), [7]);
    }

    #[test]
    fn a_run_of_unknown_characters_is_one_unknown_token() {
        assert_eq!(encode(&[("a", -1.0)], "aéüa中"), [7, 0, 99, 0, 99]);
    }

    #[test]
    fn scores_that_are_no_numbers_do_no_harm() {
        assert_eq!(
            encode(&[("a", f64::NAN), ("b", f64::NEG_INFINITY)], "ab").first(),
            Some(&7)
        );
    }
}
