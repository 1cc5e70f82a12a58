//! From bytes to the data of events: server-sent events, or a JSON object a line.

/// How a stream is cut into pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// Server-sent events.
    Events,
    /// Lines.
    Lines,
}

/// A line or an event is longer than any that is sound.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooLong;

/// Takes bytes in and gives data out; holds no more than one event.
#[derive(Debug)]
pub(crate) struct Frames {
    framing: Framing,
    /// Bytes of an event at most.
    most: usize,
    line: Vec<u8>,
    data: Option<Vec<u8>>,
    begun: bool,
}

impl Frames {
    pub(crate) fn new(framing: Framing, most: usize) -> Self {
        Self {
            framing,
            most,
            line: Vec::new(),
            data: None,
            begun: false,
        }
    }

    /// Takes `bytes` in, and adds the data of each event that they complete to `out`.
    pub(crate) fn push(&mut self, bytes: &[u8], out: &mut Vec<Vec<u8>>) -> Result<(), TooLong> {
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|&b| b == b'\n') {
            self.extend(&rest[..end])?;
            rest = &rest[end + 1..];
            self.line_ends(out)?;
        }
        self.extend(rest)
    }

    /// The stream is over: what was not ended is ended.
    pub(crate) fn finish(&mut self, out: &mut Vec<Vec<u8>>) -> Result<(), TooLong> {
        self.line_ends(out)?;
        out.extend(self.data.take());
        Ok(())
    }

    fn extend(&mut self, bytes: &[u8]) -> Result<(), TooLong> {
        let held = self.line.len() + self.data.as_ref().map_or(0, Vec::len);
        if held + bytes.len() > self.most {
            return Err(TooLong);
        }
        self.line.extend_from_slice(bytes);
        Ok(())
    }

    fn line_ends(&mut self, out: &mut Vec<Vec<u8>>) -> Result<(), TooLong> {
        let mut line = std::mem::take(&mut self.line);
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        if !std::mem::replace(&mut self.begun, true) && line.starts_with(b"\xef\xbb\xbf") {
            line.drain(..3);
        }
        match self.framing {
            Framing::Lines if line.iter().all(u8::is_ascii_whitespace) => {}
            Framing::Lines => out.push(line),
            Framing::Events if line.is_empty() => out.extend(self.data.take()),
            // Comments, names, ids and times of events say nothing to us.
            Framing::Events => {
                if let Some(data) = line.strip_prefix(b"data:") {
                    let data = data.strip_prefix(b" ").unwrap_or(data);
                    match &mut self.data {
                        Some(held) => {
                            held.push(b'\n');
                            held.extend_from_slice(data);
                        }
                        None => self.data = Some(data.to_vec()),
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(framing: Framing, most: usize, chunks: &[&[u8]]) -> Result<Vec<String>, TooLong> {
        let (mut frames, mut out) = (Frames::new(framing, most), Vec::new());
        for chunk in chunks {
            frames.push(chunk, &mut out)?;
        }
        frames.finish(&mut out)?;
        Ok(out
            .into_iter()
            .map(|data| String::from_utf8_lossy(&data).into_owned())
            .collect())
    }

    #[test]
    fn events_are_read_however_they_are_written() {
        let text = "\u{feff}: hello\r\nevent: x\r\ndata: {\"a\":\r\ndata:1}\r\n\r\n\nid: 7\nretry: 5\n\ndata: [DONE]";
        let wanted = vec!["{\"a\":\n1}".to_owned(), "[DONE]".to_owned()];
        assert_eq!(all(Framing::Events, 100, &[text.as_bytes()]).unwrap(), wanted);
        let lines = "{\"a\":1}\n\r\n{\"b\":2}\r\n{\"c\":3}";
        let wanted = ["{\"a\":1}", "{\"b\":2}", "{\"c\":3}"]
            .map(str::to_owned)
            .to_vec();
        assert_eq!(all(Framing::Lines, 100, &[lines.as_bytes()]).unwrap(), wanted);
    }

    #[test]
    fn a_giant_line_and_a_giant_event_are_refused_before_they_are_held() {
        let long = [b'x'; 101];
        assert_eq!(all(Framing::Lines, 100, &[&long]), Err(TooLong));
        let event = "data: 0123456789\n".repeat(12);
        assert_eq!(all(Framing::Events, 100, &[event.as_bytes()]), Err(TooLong));
        let many = "data: 0123456789\n\n".repeat(100);
        assert_eq!(all(Framing::Events, 100, &[many.as_bytes()]).unwrap().len(), 100);
    }

    proptest! {
        #[test]
        fn how_a_stream_is_cut_changes_nothing(
            text in "(data: ?[a-z\u{e4}{}]{0,9}|:|\r?\n|id: 1){0,40}",
            cuts in proptest::collection::vec(0..400usize, 0..8),
            lines in any::<bool>(),
        ) {
            let framing = if lines { Framing::Lines } else { Framing::Events };
            let bytes = text.as_bytes();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|at| at.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let chunks: Vec<&[u8]> = cuts.windows(2).map(|w| &bytes[w[0]..w[1]]).collect();
            prop_assert_eq!(all(framing, 4096, &chunks), all(framing, 4096, &[bytes]));
        }
    }
}
