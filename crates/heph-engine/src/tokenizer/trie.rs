//! The longest and every token that starts a piece of text.

/// A set of byte strings with a number each, as a trie in flat arrays. A run of bytes without a branch is one node, so
/// there are at most two nodes an entry, however long the entries are.
#[derive(Debug, Clone, Default)]
pub(super) struct Trie {
    nodes: Vec<Node>,
    /// The edges of all nodes, those of one node together and in order of their byte.
    edges: Vec<Edge>,
    /// The bytes that the labels of the nodes point into.
    labels: Vec<u8>,
}

#[derive(Debug, Clone, Copy)]
struct Node {
    /// The bytes that follow the edge's own.
    label: u32,
    label_len: u32,
    first_edge: u32,
    edges: u16,
    ends: bool,
    value: u32,
}

#[derive(Debug, Clone, Copy)]
struct Edge {
    byte: u8,
    to: u32,
}

impl Trie {
    /// A trie of `entries`. Of equal strings the last one counts; empty strings are left out, and what goes beyond 4 GiB.
    pub(super) fn new<'a>(entries: impl IntoIterator<Item = (&'a [u8], u32)>) -> Self {
        let mut sorted: Vec<(&[u8], u32)> = entries.into_iter().filter(|entry| !entry.0.is_empty()).collect();
        sorted.sort_by_key(|entry| entry.0);
        let mut trie = Self::default();
        let mut open = std::collections::VecDeque::from([(0..sorted.len(), 0usize)]);
        // Nodes are made in the order in which they are looked at, so the place of the next one is known.
        let mut next = 1;
        while let Some((range, depth)) = open.pop_front() {
            let label = trie.labels.len();
            // What the first and the last of a sorted range share, all of it share. The root has no label.
            if let (Some(first), Some(last)) = (sorted[range.clone()].first(), sorted[range.clone()].last())
                && !trie.nodes.is_empty()
            {
                let (first, last) = (&first.0[depth..], &last.0[depth..]);
                let shared = first.iter().zip(last).take_while(|(a, b)| a == b).count();
                trie.labels.extend_from_slice(&first[..shared]);
            }
            let shared = trie.labels.len() - label;
            let depth = depth + shared;
            let ended = sorted[range.clone()].partition_point(|entry| entry.0.len() == depth);
            let mut node = Node {
                label: label as u32,
                label_len: shared as u32,
                first_edge: trie.edges.len() as u32,
                edges: 0,
                ends: ended > 0,
                value: if ended > 0 {
                    sorted[range.start + ended - 1].1
                } else {
                    0
                },
            };
            let mut start = range.start + ended;
            while start < range.end {
                let byte = sorted[start].0[depth];
                let same = sorted[start..range.end].partition_point(|entry| entry.0[depth] == byte);
                trie.edges.push(Edge { byte, to: next });
                next += 1;
                node.edges += 1;
                open.push_back((start..start + same, depth + 1));
                start += same;
            }
            trie.nodes.push(node);
        }
        trie.nodes.shrink_to_fit();
        trie.edges.shrink_to_fit();
        trie.labels.shrink_to_fit();
        trie
    }

    /// Length and number of every entry that `text` starts with, shortest first.
    pub(super) fn prefixes<'t>(&'t self, text: &'t [u8]) -> impl Iterator<Item = (usize, u32)> + 't {
        let mut node = self.nodes.first().copied();
        let mut depth = 0;
        std::iter::from_fn(move || {
            loop {
                let byte = *text.get(depth)?;
                node = self.child(node?, byte);
                let next = node?;
                let label = &self.labels[next.label as usize..][..next.label_len as usize];
                if !text[depth + 1..].starts_with(label) {
                    node = None;
                    return None;
                }
                depth += 1 + label.len();
                if next.ends {
                    return Some((depth, next.value));
                }
            }
        })
    }

    /// Length and number of the longest entry that `text` starts with.
    pub(super) fn longest_prefix(&self, text: &[u8]) -> Option<(usize, u32)> {
        self.prefixes(text).last()
    }

    /// Whether `text` is the beginning of an entry that is longer.
    pub(super) fn begins(&self, text: &[u8]) -> bool {
        let Some(mut node) = self.nodes.first().copied() else {
            return false;
        };
        let mut rest = text;
        while let [byte, behind @ ..] = rest {
            let Some(next) = self.child(node, *byte) else {
                return false;
            };
            let label = &self.labels[next.label as usize..][..next.label_len as usize];
            match behind.strip_prefix(label) {
                Some(behind) => (node, rest) = (next, behind),
                None => return label.starts_with(behind),
            }
        }
        node.edges > 0
    }

    /// The bytes with which entries start.
    pub(super) fn first_bytes(&self) -> [bool; 256] {
        let mut starts = [false; 256];
        if let Some(root) = self.nodes.first() {
            self.edges_of(*root)
                .iter()
                .for_each(|edge| starts[usize::from(edge.byte)] = true);
        }
        starts
    }

    fn child(&self, node: Node, byte: u8) -> Option<Node> {
        let edges = self.edges_of(node);
        let found = if edges.len() <= 8 {
            edges.iter().find(|edge| edge.byte == byte)
        } else {
            edges
                .binary_search_by_key(&byte, |edge| edge.byte)
                .ok()
                .map(|at| &edges[at])
        };
        found.map(|edge| self.nodes[edge.to as usize])
    }

    fn edges_of(&self, node: Node) -> &[Edge] {
        let first = node.first_edge as usize;
        &self.edges[first..first + usize::from(node.edges)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_prefix_is_found_shortest_first() {
        let words: [&[u8]; 6] = [b"a", b"abc", b"ab", b"b", b"", b"abcde"];
        let trie = Trie::new(words.iter().enumerate().map(|(i, w)| (*w, i as u32)));
        assert_eq!(
            trie.prefixes(b"abcdx").collect::<Vec<_>>(),
            [(1, 0), (2, 2), (3, 1)]
        );
        assert_eq!(trie.longest_prefix(b"abcdef"), Some((5, 5)));
        assert_eq!(trie.longest_prefix(b"xyz"), None);
        assert_eq!(trie.longest_prefix(b""), None);
    }

    #[test]
    fn a_beginning_of_an_entry_is_no_whole_one() {
        let words: [&[u8]; 4] = [b"abc", b"abcde", b"x", b"axyz"];
        let trie = Trie::new(words.iter().zip(0..).map(|(word, at)| (*word, at)));
        let all = [
            "", "a", "ab", "abc", "abcd", "abcde", "abcdef", "abd", "x", "xy", "ax", "axyz", "b",
        ];
        let found: Vec<_> = all
            .into_iter()
            .filter(|text| trie.begins(text.as_bytes()))
            .collect();
        assert_eq!(found, ["", "a", "ab", "abc", "abcd", "ax"]);
        assert!(!Trie::default().begins(b"") && !Trie::default().begins(b"a"));
    }

    #[test]
    fn entries_are_found_as_by_looking_at_each() {
        let letters = |mut n: usize| {
            let mut word = Vec::new();
            while n > 0 {
                word.push(b"ab"[n % 2]);
                n /= 2;
            }
            word
        };
        let words: Vec<Vec<u8>> = (1..400).step_by(7).map(letters).collect();
        let trie = Trie::new(words.iter().zip(0..).map(|(word, at)| (word.as_slice(), at)));
        assert!(trie.nodes.len() <= 2 * words.len() + 1);
        for text in (0..3_000).map(letters) {
            let mut wanted: Vec<(usize, u32)> = words
                .iter()
                .zip(0..)
                .filter(|(word, _)| text.starts_with(word))
                .map(|(word, at)| (word.len(), at))
                .collect();
            wanted.sort_unstable();
            let found: Vec<_> = trie.prefixes(&text).collect();
            assert_eq!(
                found.iter().map(|f| f.0).collect::<Vec<_>>(),
                wanted.iter().map(|w| w.0).collect::<Vec<_>>()
            );
        }
    }

    #[test]
    fn of_equal_entries_the_last_counts() {
        let trie = Trie::new([(&b"a"[..], 1), (b"a", 2)]);
        assert_eq!(trie.longest_prefix(b"a"), Some((1, 2)));
    }

    #[test]
    fn an_empty_trie_holds_nothing() {
        assert_eq!(Trie::default().longest_prefix(b"a"), None);
        assert_eq!(Trie::new([]).longest_prefix(b"a"), None);
    }
}
