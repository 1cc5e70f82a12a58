//! Tokens as text while they come: no half characters, no half emoji, and nothing of a stop string.
//!
//! Fed with the bytes of each token, [`TextStream`] hands out what is certain by then. What it handed out
//! never changes; all of it together is the whole text, whatever the boundaries of the tokens.

use unicode_segmentation::{GraphemeCursor, UnicodeSegmentation};

/// Turns the bytes of tokens into text that can be shown at once.
#[derive(Debug, Clone)]
pub struct TextStream {
    stops: Vec<String>,
    /// The start of a character whose other bytes have not come.
    bytes: Vec<u8>,
    /// Text that is not handed out yet.
    held: String,
    stopped: Option<usize>,
}

/// Graphemes of more bytes than this are cut: text may hold endless runs of combining marks.
const CLUSTER_MAX: usize = 256;

impl TextStream {
    /// A stream that ends before the first of `stops` that comes; empty stop strings are ignored.
    pub fn new(stops: impl IntoIterator<Item = String>) -> Self {
        let stops = stops.into_iter().filter(|stop| !stop.is_empty()).collect();
        Self {
            stops,
            bytes: Vec::new(),
            held: String::new(),
            stopped: None,
        }
    }

    /// Takes the bytes of a token; returns the text that is certain now. Bytes that are no UTF-8 become
    /// U+FFFD, one for each broken sequence. After a stop string everything is ignored.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        if self.stopped.is_some() {
            return String::new();
        }
        self.bytes.extend_from_slice(bytes);
        self.decode();
        if self.stop() {
            return std::mem::take(&mut self.held);
        }
        let certain = self.certain();
        self.held.drain(..certain).collect()
    }

    /// Ends the stream: returns what was held back.
    pub fn finish(&mut self) -> String {
        if self.stopped.is_some() {
            return String::new();
        }
        if !self.bytes.is_empty() {
            self.bytes.clear();
            self.held.push(char::REPLACEMENT_CHARACTER);
        }
        self.stop();
        std::mem::take(&mut self.held)
    }

    /// Which of the stop strings ended the stream, counted from 0 among those that are not empty.
    pub fn stopped_by(&self) -> Option<usize> {
        self.stopped
    }

    /// Moves whole characters from the bytes to the text.
    fn decode(&mut self) {
        let mut rest = self.bytes.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(text) => {
                    self.held.push_str(text);
                    rest = &[];
                    break;
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    self.held.push_str(&String::from_utf8_lossy(valid));
                    rest = after;
                    let Some(broken) = error.error_len() else { break };
                    self.held.push(char::REPLACEMENT_CHARACTER);
                    rest = &rest[broken..];
                }
            }
        }
        let left = rest.len();
        self.bytes.drain(..self.bytes.len() - left);
    }

    /// Cuts the text at the first stop string in it; of two at one place, the longer.
    fn stop(&mut self) -> bool {
        let found = self
            .stops
            .iter()
            .enumerate()
            .filter_map(|(at, stop)| Some((self.held.find(stop)?, at)));
        let first = found.min_by_key(|&(place, at)| (place, std::cmp::Reverse(self.stops[at].len())));
        if let Some((place, at)) = first {
            self.held.truncate(place);
            self.stopped = Some(at);
        }
        first.is_some()
    }

    /// How many bytes of the held text can be handed out: none that may start a stop string or whose
    /// grapheme cluster may still grow.
    fn certain(&self) -> usize {
        let mut end = self.held.len();
        for stop in &self.stops {
            end = end.min(self.held.len() - overlap(&self.held, stop));
        }
        let before = &self.held[..end];
        let last = before.grapheme_indices(true).next_back();
        match last {
            Some((start, cluster)) if cluster.len() < CLUSTER_MAX && may_grow(&self.held, start, end) => {
                start
            }
            _ => end,
        }
    }
}

/// Length of the longest end of `text` with which `stop` starts.
fn overlap(text: &str, stop: &str) -> usize {
    let longest = text.len().min(stop.len() - 1);
    (1..=longest)
        .rev()
        .find(|&len| text.as_bytes()[text.len() - len..] == stop.as_bytes()[..len])
        .unwrap_or(0)
}

/// Whether what follows could belong to the cluster that starts at `start`: not after plain ASCII, where only a
/// combining mark could follow and waiting for it would hold back every letter.
fn may_grow(text: &str, start: usize, end: usize) -> bool {
    let cluster = &text[start..end];
    if cluster.is_ascii() {
        return cluster.ends_with('\r');
    }
    if end < text.len() {
        let mut cursor = GraphemeCursor::new(end, text.len(), true);
        return cursor.is_boundary(text, 0) != Ok(true);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "Zażółć 👩‍👩‍👧‍👦 e\u{301}\u{302} 🇩🇪🇵🇱 中文 한국어 ❤️ 👍🏽\r\n नमस्ते END STOPPED";

    fn stream(stops: &[&str], chunks: &[&[u8]]) -> (String, Vec<String>, TextStream) {
        let mut stream = TextStream::new(stops.iter().map(|stop| (*stop).to_owned()));
        let mut parts: Vec<String> = chunks.iter().map(|chunk| stream.push(chunk)).collect();
        parts.push(stream.finish());
        (parts.concat(), parts, stream)
    }

    /// Cuts `bytes` at places that a small generator draws from `seed`.
    fn chunks(bytes: &[u8], seed: u64) -> Vec<&[u8]> {
        let mut state = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let mut rest = bytes;
        let mut chunks = Vec::new();
        while !rest.is_empty() {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let len = (((state >> 33) % 7) as usize).min(rest.len());
            let (chunk, after) = rest.split_at(len);
            chunks.push(chunk);
            rest = after;
        }
        chunks
    }

    #[test]
    fn any_chunking_gives_the_same_text() {
        for seed in 0..10_000 {
            let (whole, parts, _) = stream(&[], &chunks(TEXT.as_bytes(), seed));
            assert_eq!(whole, TEXT);
            assert!(
                parts
                    .iter()
                    .all(|part| !part.starts_with(['\u{200d}', '\u{fe0f}', '🏽', '\u{94d}']))
            );
        }
    }

    #[test]
    fn any_chunking_stops_at_the_same_place() {
        let expected = TEXT.split("END").next().unwrap();
        for seed in 0..10_000 {
            let (whole, _, stream) = stream(&["STOPPED", "END", ""], &chunks(TEXT.as_bytes(), seed));
            assert_eq!((whole.as_str(), stream.stopped_by()), (expected, Some(1)));
        }
    }

    #[test]
    fn broken_bytes_become_replacement_characters_in_any_chunking() {
        let bytes = b"a\xff\xe4\xb8b\xf0\x9f\x91\xc3\xa9\xed\xa0\x80z\xe4\xb8";
        let expected = String::from_utf8_lossy(bytes);
        for seed in 0..10_000 {
            assert_eq!(stream(&[], &chunks(bytes, seed)).0, expected);
        }
    }

    #[test]
    fn letters_are_not_held_back() {
        let mut stream = TextStream::new(["\n\n".to_owned()]);
        assert_eq!(stream.push(b"Hello"), "Hello");
        assert_eq!(stream.push(b" wor\n"), " wor");
        assert_eq!(stream.push(b"ld"), "\nld");
        assert_eq!(stream.push("é".as_bytes()), "");
        assert_eq!(stream.push(b"!"), "é!");
        assert_eq!(stream.finish(), "");
    }

    #[test]
    fn the_start_of_a_stop_string_waits() {
        let mut stream = TextStream::new(["</end>".to_owned()]);
        assert_eq!(stream.push(b"a </"), "a ");
        assert_eq!(stream.push(b"en"), "");
        assert_eq!(stream.push(b"t>"), "</ent>");
        assert_eq!(stream.push(b"x</en"), "x");
        assert_eq!(stream.push(b"d>y"), "");
        assert_eq!(
            (stream.stopped_by(), stream.push(b"more"), stream.finish()),
            (Some(0), String::new(), String::new())
        );
    }

    #[test]
    fn of_two_stop_strings_the_first_place_counts_and_then_the_longer() {
        let ended = |stops: &[&str], text: &str| {
            let (whole, _, stream) = stream(stops, &[text.as_bytes()]);
            (whole, stream.stopped_by())
        };
        assert_eq!(ended(&["b", "bcd"], "abcd"), ("a".to_owned(), Some(1)));
        assert_eq!(ended(&["bcd", "b"], "abcd"), ("a".to_owned(), Some(0)));
        assert_eq!(ended(&["d", "bc"], "abcd"), ("a".to_owned(), Some(1)));
        assert_eq!(ended(&["\u{fffd}"], "ab"), ("ab".to_owned(), None));
    }

    #[test]
    fn a_stop_string_that_only_the_end_completes_is_not_shown() {
        let mut stream = TextStream::new(["c\u{fffd}".to_owned()]);
        assert_eq!(stream.push(b"abc\xe4"), "ab");
        assert_eq!((stream.finish(), stream.stopped_by()), (String::new(), Some(0)));
    }

    #[test]
    fn what_waited_comes_at_the_end() {
        let mut stream = TextStream::new(["</end>".to_owned()]);
        assert_eq!(stream.push(b"a</e\xc3"), "a");
        assert_eq!(stream.finish(), "</e\u{fffd}");
    }

    #[test]
    fn endless_marks_do_not_pile_up() {
        let mut stream = TextStream::new([]);
        let marks = "\u{301}".repeat(10_000);
        let early: usize = marks
            .as_bytes()
            .chunks(2)
            .map(|mark| stream.push(mark).len())
            .sum();
        assert!(early >= marks.len() - CLUSTER_MAX);
    }
}
