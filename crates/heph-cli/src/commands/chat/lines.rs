//! Reads what the user says: with editing and history at a terminal, line by line from a pipe.

use std::io::{self, BufRead, IsTerminal};
use std::path::{Path, PathBuf};

use rustyline::completion::Completer;
use rustyline::config::Config;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Context, Editor, Helper};

use heph_runtime::preload::Typed;

/// Messages remembered between chats.
const HISTORY_MAX: usize = 1000;

/// Longest message taken from a pipe: more would not fit any model's context.
const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// Opens and closes a message of many lines.
const FENCE: &str = "\"\"\"";

/// What came in.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// A message, whole.
    Message(String),
    /// Ctrl-C on an empty line: not a word, not a goodbye.
    Nothing,
    /// Bytes that are no text in UTF-8.
    Garbled,
    /// The end: Ctrl-D, or the pipe is empty.
    Goodbye,
}

/// Where messages come from.
pub(super) enum Lines {
    /// A person at a terminal.
    Terminal {
        editor: Box<Editor<Fences, FileHistory>>,
        history: PathBuf,
    },
    /// A pipe or file.
    Pipe,
}

impl Lines {
    /// For the standard input of this program; the history lies in `home`.
    pub(super) fn open(home: &Path) -> io::Result<Self> {
        if !io::stdin().is_terminal() {
            return Ok(Self::Pipe);
        }
        let config = Config::builder()
            .max_history_size(HISTORY_MAX)
            .map_err(io::Error::other)?;
        let config = config.auto_add_history(true).build();
        let mut editor = Editor::with_config(config).map_err(io::Error::other)?;
        editor.set_helper(Some(Fences::default()));
        let history = home.join("chat_history.txt");
        // A first chat has no history yet, and a damaged one is no reason not to talk.
        let _ = editor.load_history(&history);
        Ok(Self::Terminal {
            editor: Box::new(editor),
            history,
        })
    }

    /// Whether a person is typing.
    pub(super) fn is_terminal(&self) -> bool {
        matches!(self, Self::Terminal { .. })
    }

    /// Tells `typed` what is typed from now on.
    pub(super) fn tell(&mut self, typed: Typed) {
        if let Self::Terminal { editor, .. } = self
            && let Some(fences) = editor.helper_mut()
        {
            fences.typed = Some(typed);
        }
    }

    /// The next message.
    pub(super) fn next(&mut self) -> io::Result<Said> {
        match self {
            Self::Pipe => next_of_pipe(&mut io::stdin().lock()),
            Self::Terminal { editor, .. } => match editor.readline("> ") {
                Ok(text) => Ok(Said::Message(joined(&text))),
                Err(ReadlineError::Interrupted) => Ok(Said::Nothing),
                Err(ReadlineError::Eof) => Ok(Said::Goodbye),
                Err(ReadlineError::Io(e)) if e.kind() == io::ErrorKind::InvalidData => Ok(Said::Garbled),
                Err(ReadlineError::Io(e)) => Err(e),
                Err(e) => Err(io::Error::other(e)),
            },
        }
    }

    /// Remembers what was said for the next chat.
    pub(super) fn close(&mut self) {
        if let Self::Terminal { editor, history } = self {
            // Losing the history is not worth an error at the end of a chat.
            let _ = history.parent().map_or(Ok(()), std::fs::create_dir_all);
            let _ = editor.save_history(history);
        }
    }
}

fn next_of_pipe(input: &mut impl BufRead) -> io::Result<Said> {
    let mut bytes = Vec::new();
    loop {
        let before = bytes.len();
        let ended = input.read_until(b'\n', &mut bytes)? == 0;
        if ended && before == 0 {
            return Ok(Said::Goodbye);
        }
        // A message that goes on is judged when it is whole: its fences are letters in any text.
        let text = String::from_utf8_lossy(&bytes);
        if ended || is_whole(&text) || bytes.len() > MESSAGE_BYTES_MAX {
            return Ok(match std::str::from_utf8(&bytes) {
                Ok(text) => Said::Message(joined(text)),
                Err(_) => Said::Garbled,
            });
        }
    }
}

/// Whether nothing more belongs to a message: its fences are closed and its last line does not go on.
fn is_whole(text: &str) -> bool {
    text.matches(FENCE).count().is_multiple_of(2) && !text.trim_end_matches(['\n', '\r']).ends_with('\\')
}

/// The message without its fences and backslashes.
fn joined(text: &str) -> String {
    let text = text.replace("\\\r\n", "\n").replace("\\\n", "\n");
    let text = text.trim();
    let inside = text.strip_prefix(FENCE).and_then(|t| t.strip_suffix(FENCE));
    inside.map_or(text, str::trim).to_owned()
}

/// Tells the editor that a message goes on in the next line, and whoever reads ahead what is typed.
#[derive(Default)]
pub(super) struct Fences {
    typed: Option<Typed>,
}

impl Validator for Fences {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        Ok(if is_whole(context.input()) {
            ValidationResult::Valid(None)
        } else {
            ValidationResult::Incomplete
        })
    }
}

impl Completer for Fences {
    type Candidate = String;
}

impl Hinter for Fences {
    type Hint = String;

    /// Called after every change of the line. There is nothing to show; a command is not read ahead.
    fn hint(&self, line: &str, _at: usize, _context: &Context<'_>) -> Option<String> {
        if let Some(typed) = self.typed.as_ref().filter(|_| !line.starts_with('/')) {
            typed.say(joined(line).as_str());
        }
        None
    }
}

impl Highlighter for Fences {}

impl Helper for Fences {}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(mut input: &[u8]) -> Vec<String> {
        std::iter::from_fn(|| match next_of_pipe(&mut input).unwrap() {
            Said::Message(text) => Some(text),
            Said::Garbled => Some("garbled".to_owned()),
            Said::Nothing | Said::Goodbye => None,
        })
        .collect()
    }

    #[test]
    fn each_line_is_a_message() {
        assert_eq!(messages(b"one\ntwo"), ["one", "two"]);
    }

    #[test]
    fn a_backslash_goes_on_in_the_next_line() {
        assert_eq!(messages(b"one\\\ntwo\nthree\n"), ["one\ntwo", "three"]);
    }

    #[test]
    fn fences_hold_lines_together() {
        assert_eq!(
            messages(b"\"\"\"\none\n\ntwo\n\"\"\"\nthree\n"),
            ["one\n\ntwo", "three"]
        );
    }

    #[test]
    fn bytes_that_are_no_text_are_one_message_that_was_not_understood() {
        assert_eq!(messages(b"one\n\xff\xfe\ntwo\n"), ["one", "garbled", "two"]);
        assert_eq!(messages(b"\"\"\"\n\xff\nx\n\"\"\"\ntwo\n"), ["garbled", "two"]);
    }

    #[test]
    fn an_open_fence_ends_with_the_pipe() {
        assert_eq!(messages(b"\"\"\"\none\n"), ["\"\"\"\none"]);
    }
}
