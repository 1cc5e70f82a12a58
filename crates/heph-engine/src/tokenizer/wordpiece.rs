//! WordPiece: each word is spelled with the longest token that fits, from the left (Devlin et al. 2019,
//! arXiv:1810.04805).

use super::trie::Trie;

/// Tokens that start a word and tokens that go on.
#[derive(Debug, Clone)]
pub(super) struct WordPiece {
    starts: Trie,
    continues: Trie,
    unknown: Option<u32>,
    /// A word of more characters than this is unknown.
    longest_word: usize,
}

impl WordPiece {
    /// A model of the tokens that start a word and of those that continue one, without their marks.
    pub(super) fn new<'a>(
        starts: impl IntoIterator<Item = (&'a str, u32)>,
        continues: impl IntoIterator<Item = (&'a str, u32)>,
        unknown: Option<u32>,
        longest_word: usize,
    ) -> Self {
        let trie = |tokens: &mut dyn Iterator<Item = (&'a str, u32)>| {
            Trie::new(tokens.map(|(text, id)| (text.as_bytes(), id)))
        };
        Self {
            starts: trie(&mut starts.into_iter()),
            continues: trie(&mut continues.into_iter()),
            unknown,
            longest_word,
        }
    }

    /// The token for words that are not covered.
    pub(super) fn unknown(&self) -> Option<u32> {
        self.unknown
    }

    /// Adds the tokens of `word` to `out`, or the unknown token if they do not cover it.
    pub(super) fn encode(&self, word: &str, out: &mut Vec<u32>) {
        let start = out.len();
        if word.chars().nth(self.longest_word).is_some() || !self.spell(word, out) {
            out.truncate(start);
            out.extend(self.unknown);
        }
    }

    fn spell(&self, word: &str, out: &mut Vec<u32>) -> bool {
        let mut at = 0;
        while at < word.len() {
            let trie = if at == 0 { &self.starts } else { &self.continues };
            let Some((len, id)) = trie.longest_prefix(&word.as_bytes()[at..]) else {
                return false;
            };
            out.push(id);
            at += len;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(word: &str) -> Vec<u32> {
        let model = WordPiece::new([("un", 0), ("u", 1)], [("a", 2), ("able", 3)], Some(9), 8);
        let mut out = Vec::new();
        model.encode(word, &mut out);
        out
    }

    #[test]
    fn the_longest_token_comes_first() {
        assert_eq!(encode("unable"), [0, 3]);
        assert_eq!(encode("ua"), [1, 2]);
        assert!(encode("").is_empty());
    }

    #[test]
    fn a_word_that_is_not_covered_is_unknown() {
        assert_eq!(encode("unx"), [9]);
        assert_eq!(encode("able"), [9]);
        assert_eq!(encode(&"ua".repeat(9)), [9]);
    }
}
