//! Calls read from an answer while it comes.

use super::Style;

/// A head longer than this is no call.
const HEAD_MAX: usize = 1024;

/// What was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Read {
    /// Text that is no call.
    Text(String),
    /// A call of this tool begins.
    Call(String),
    /// More of its arguments.
    Arguments(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Text, in which a call may begin.
    Seek,
    /// After the mark, before the arguments.
    Head,
    /// In the arguments: how deep, whether in a string, whether after a backslash.
    Arguments {
        depth: usize,
        string: bool,
        escaped: bool,
    },
    /// After the arguments.
    Tail,
}

/// Reads calls of one style.
#[derive(Debug)]
pub(crate) struct CallReader {
    style: Style,
    state: State,
    held: String,
    said: bool,
    calls: usize,
    /// A call whose beginning stands in the prompt.
    begun: Option<String>,
}

impl CallReader {
    pub(crate) fn new(style: Style) -> Self {
        Self {
            style,
            state: State::Seek,
            held: String::new(),
            said: false,
            calls: 0,
            begun: None,
        }
    }

    /// Reads an answer that is the arguments of a call of `name`.
    pub(crate) fn begun(style: Style, name: String) -> Self {
        let state = State::Arguments {
            depth: 0,
            string: false,
            escaped: false,
        };
        Self {
            state,
            begun: Some(name),
            ..Self::new(style)
        }
    }

    /// Calls that began so far.
    pub(crate) fn calls(&self) -> usize {
        self.calls
    }

    /// Takes more of the answer.
    pub(crate) fn push(&mut self, text: &str) -> Vec<Read> {
        self.held.push_str(text);
        let mut read = self.beginning();
        while self.step(&mut read) {}
        read
    }

    fn beginning(&mut self) -> Vec<Read> {
        let name = self.begun.take();
        self.calls += usize::from(name.is_some());
        name.map(Read::Call).into_iter().collect()
    }

    /// The answer has ended: what was held back in case it became a call.
    pub(crate) fn finish(&mut self) -> Vec<Read> {
        let mut read = self.beginning();
        let rest = std::mem::take(&mut self.held);
        let keep = match self.state {
            State::Seek => self.calls == 0 || !rest.trim().is_empty(),
            State::Head => self.calls == 0,
            State::Arguments { .. } | State::Tail => false,
        };
        if keep && !rest.is_empty() {
            read.push(Read::Text(rest));
        }
        read
    }

    /// One move; false when more text is needed.
    fn step(&mut self, read: &mut Vec<Read>) -> bool {
        match self.state {
            State::Seek => self.seek(read),
            State::Head => self.head(read),
            State::Arguments { .. } => self.arguments(read),
            State::Tail => self.tail(),
        }
    }

    fn seek(&mut self, read: &mut Vec<Read>) -> bool {
        let mark = self.style.open.trim();
        let start = self.held.trim_start();
        // Without a mark, and where the mark is a control token, a call is an answer that begins as one.
        let bare = !self.said && start.starts_with('{');
        if bare {
            self.state = State::Head;
            return true;
        }
        if !mark.is_empty()
            && let Some(at) = self.held.find(mark)
        {
            let before = self.held[..at].to_owned();
            self.held.drain(..at + mark.len());
            self.text(before, read);
            self.state = State::Head;
            return true;
        }
        if !self.said && start.is_empty() {
            return false;
        }
        let keep = (1..=mark.len().min(self.held.len()))
            .rev()
            .find(|&n| {
                self.held.is_char_boundary(self.held.len() - n)
                    && mark.starts_with(&self.held[self.held.len() - n..])
            })
            .unwrap_or(0);
        let certain: String = self.held.drain(..self.held.len() - keep).collect();
        self.text(certain, read);
        false
    }

    fn text(&mut self, text: String, read: &mut Vec<Read>) {
        // What stands between calls is no text.
        if text.is_empty() || (self.calls > 0 && text.trim().is_empty()) {
            return;
        }
        self.said = true;
        read.push(Read::Text(text));
    }

    fn head(&mut self, read: &mut Vec<Read>) -> bool {
        if let Some((name, used)) = head(&self.held) {
            self.held.drain(..used);
            self.calls += 1;
            read.push(Read::Call(name));
            self.state = State::Arguments {
                depth: 0,
                string: false,
                escaped: false,
            };
            return true;
        }
        if self.held.len() > HEAD_MAX || !could_be_head(&self.held) {
            self.state = State::Seek;
            let text = std::mem::take(&mut self.held);
            self.said = true;
            read.push(Read::Text(text));
        }
        false
    }

    fn arguments(&mut self, read: &mut Vec<Read>) -> bool {
        let State::Arguments {
            mut depth,
            mut string,
            mut escaped,
        } = self.state
        else {
            return false;
        };
        let mut end = None;
        for (at, byte) in self.held.bytes().enumerate() {
            match byte {
                _ if escaped => escaped = false,
                b'\\' if string => escaped = true,
                b'"' => string = !string,
                _ if string => {}
                b'{' | b'[' => depth += 1,
                b'}' | b']' => {
                    depth = depth.saturating_sub(1);
                    if depth == 0 {
                        end = Some(at + 1);
                        break;
                    }
                }
                _ => {}
            }
        }
        let take = end.unwrap_or(self.held.len());
        let piece: String = self.held.drain(..take).collect();
        if !piece.is_empty() {
            read.push(Read::Arguments(piece));
        }
        self.state = match end {
            Some(_) => State::Tail,
            None => State::Arguments {
                depth,
                string,
                escaped,
            },
        };
        end.is_some()
    }

    /// Skips what closes a call.
    fn tail(&mut self) -> bool {
        let close = self.style.close.trim();
        let rest = self.held.trim_start();
        let Some(after) = rest.strip_prefix('}') else {
            return false;
        };
        let after = after.trim_start();
        let next = match after.strip_prefix(close) {
            Some(next) => next,
            // The mark is not whole yet, or was left out.
            None if after.is_empty() || close.starts_with(after) => return false,
            None => after.trim_start_matches([',', ']']),
        };
        self.held = next.to_owned();
        self.state = State::Seek;
        self.said = false;
        true
    }
}

/// The tool's name and the bytes before its arguments.
fn head(text: &str) -> Option<(String, usize)> {
    let mut at = Cursor { text, at: 0 };
    at.skip("{")?;
    at.skip("\"name\"")?;
    at.skip(":")?;
    let name = at.string()?;
    at.skip(",")?;
    at.skip("\"arguments\"").or_else(|| at.skip("\"parameters\""))?;
    at.skip(":")?;
    at.space();
    at.text[at.at..].starts_with(['{', '[']).then_some((name, at.at))
}

/// Whether a text may still become a head.
fn could_be_head(text: &str) -> bool {
    let tight: String = text.chars().filter(|c| !c.is_whitespace()).collect();
    let start = "{\"name\":\"";
    tight.starts_with(start) || start.starts_with(&tight)
}

struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl Cursor<'_> {
    fn space(&mut self) {
        let rest = &self.text[self.at..];
        self.at += rest.len() - rest.trim_start().len();
    }

    fn skip(&mut self, word: &str) -> Option<()> {
        let mut after = Self {
            text: self.text,
            at: self.at,
        };
        after.space();
        after.text[after.at..]
            .starts_with(word)
            .then(|| self.at = after.at + word.len())
    }

    fn string(&mut self) -> Option<String> {
        self.space();
        let rest = &self.text[self.at..];
        let mut strings = serde_json::Deserializer::from_str(rest).into_iter::<String>();
        let text = strings.next()?.ok()?;
        self.at += strings.byte_offset();
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{HERMES, LLAMA};
    use super::*;

    /// Reads `text` in pieces of every size; the text, and the calls with their arguments.
    fn check(style: Style, text: &str, said: &str, calls: &[(&str, &str)]) {
        for size in 1..=text.chars().count() {
            let mut reader = CallReader::new(style);
            let (mut spoken, mut made): (String, Vec<(String, String)>) = Default::default();
            let letters: Vec<char> = text.chars().collect();
            let pieces = letters.chunks(size).map(|piece| piece.iter().collect::<String>());
            let mut reads: Vec<Read> = pieces.flat_map(|piece| reader.push(&piece)).collect();
            reads.extend(reader.finish());
            for read in reads {
                match read {
                    Read::Text(text) => spoken.push_str(&text),
                    Read::Call(name) => made.push((name, String::new())),
                    Read::Arguments(text) => made.last_mut().unwrap().1.push_str(&text),
                }
            }
            assert_eq!(spoken, said, "in pieces of {size}");
            let made: Vec<_> = made
                .iter()
                .map(|(name, text)| (name.as_str(), text.as_str()))
                .collect();
            assert_eq!(made, calls, "in pieces of {size}");
        }
    }

    #[test]
    fn calls_are_found_in_whatever_pieces_they_come() {
        let one = "<tool_call>\n{\"name\": \"get\", \"arguments\": {\"a\": \"}\\\"\"}}\n</tool_call>";
        check(HERMES, one, "", &[("get", "{\"a\": \"}\\\"\"}")]);
        let two = format!("{one}\n{one}");
        check(
            HERMES,
            &two,
            "",
            &[("get", "{\"a\": \"}\\\"\"}"), ("get", "{\"a\": \"}\\\"\"}")],
        );
        let after = format!("Let me see. <b {one}");
        check(
            HERMES,
            &after,
            "Let me see. <b ",
            &[("get", "{\"a\": \"}\\\"\"}")],
        );
        check(
            LLAMA,
            "{\"name\": \"get\", \"parameters\": {}}",
            "",
            &[("get", "{}")],
        );
    }

    #[test]
    fn a_call_that_began_in_the_prompt_is_its_arguments() {
        let mut reader = CallReader::begun(HERMES, "get".to_owned());
        let mut read = reader.push("{\"a\": ");
        read.extend(reader.push("1}"));
        read.extend(reader.finish());
        let expected = [
            Read::Call("get".to_owned()),
            Read::Arguments("{\"a\": ".to_owned()),
            Read::Arguments("1}".to_owned()),
        ];
        assert_eq!(read, expected);
        assert_eq!(reader.calls(), 1);
    }

    #[test]
    fn text_stays_text() {
        for text in [
            "Hello <tool",
            "{\"names\": 1}",
            "a < b",
            "{",
            "<tool_call> no",
            "naïve 日本語",
        ] {
            let said = if text == "<tool_call> no" { " no" } else { text };
            check(HERMES, text, said, &[]);
        }
    }
}
