//! The longest and every token that starts a piece of text.

/// A set of byte strings with a number each, as a trie in two flat arrays.
#[derive(Debug, Clone, Default)]
pub(super) struct Trie {
    nodes: Vec<Node>,
    /// The edges of all nodes, those of one node together and in order of their byte.
    edges: Vec<Edge>,
}

#[derive(Debug, Clone, Copy)]
struct Node {
    first_edge: u32,
    edges: u16,
    value: Option<u32>,
}

#[derive(Debug, Clone, Copy)]
struct Edge {
    byte: u8,
    to: u32,
}

impl Trie {
    /// A trie of `entries`. Of equal strings the last one counts; empty strings are left out.
    pub(super) fn new<'a>(entries: impl IntoIterator<Item = (&'a [u8], u32)>) -> Self {
        let mut sorted: Vec<(&[u8], u32)> = entries.into_iter().filter(|entry| !entry.0.is_empty()).collect();
        sorted.sort_by_key(|entry| entry.0);
        let mut trie = Self {
            nodes: vec![Node {
                first_edge: 0,
                edges: 0,
                value: None,
            }],
            edges: Vec::new(),
        };
        let mut open = std::collections::VecDeque::from([(0usize, 0..sorted.len(), 0usize)]);
        while let Some((node, range, depth)) = open.pop_front() {
            let ended = sorted[range.clone()]
                .iter()
                .take_while(|entry| entry.0.len() == depth)
                .count();
            if ended > 0 {
                trie.nodes[node].value = Some(sorted[range.start + ended - 1].1);
            }
            let mut start = range.start + ended;
            trie.nodes[node].first_edge = trie.edges.len() as u32;
            while start < range.end {
                let byte = sorted[start].0[depth];
                let same = sorted[start..range.end].partition_point(|entry| entry.0[depth] == byte);
                let to = trie.nodes.len();
                trie.nodes.push(Node {
                    first_edge: 0,
                    edges: 0,
                    value: None,
                });
                trie.edges.push(Edge { byte, to: to as u32 });
                trie.nodes[node].edges += 1;
                open.push_back((to, start..start + same, depth + 1));
                start += same;
            }
        }
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
                depth += 1;
                if let Some(value) = node?.value {
                    return Some((depth, value));
                }
            }
        })
    }

    /// Length and number of the longest entry that `text` starts with.
    pub(super) fn longest_prefix(&self, text: &[u8]) -> Option<(usize, u32)> {
        self.prefixes(text).last()
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
