//! The words that steer a chat instead of being said to the model.

use std::path::PathBuf;

use heph_runtime::files::Existing;

/// What a line that starts with a slash asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Slash {
    /// Show the list of these.
    Help,
    /// Forget the conversation.
    Reset,
    /// Write the conversation to a file; what becomes of one that is there.
    Save(PathBuf, Existing),
    /// Take the conversation from a file.
    Load(PathBuf),
    /// Show the documents, or add a file or a folder; `none` forgets them.
    Documents(Option<PathBuf>),
    /// Show the model, or talk with another one.
    Model(Option<String>),
    /// Show or change the system message; an empty one removes it.
    System(Option<String>),
    /// Show the settings of the sampler, or change one.
    Set(Option<(String, String)>),
    /// Answer the last message again.
    Regenerate,
    /// Show how fast the last answer came.
    Stats,
    /// Leave.
    Quit,
}

/// What `/help` shows.
pub(super) const HELP: &str = "\
/help                 this list
/reset                forget the conversation
/regenerate           answer the last message again, with another seed
/save FILE            write the conversation to a new file (JSON); /save! FILE replaces one that is there
/load FILE            take the conversation from a file
/documents [PATH]     show the documents, or add a file or a folder; /documents none forgets them
/model [NAME]         show the model, or talk with another one
/system [TEXT]        show or change the system message; /system none removes it
/set [NAME VALUE]     show the settings, or change one (temperature, top-p, seed, max-tokens, ...)
/stats                how fast the last answer came
/quit                 leave (so does Ctrl-D)

Ctrl-C stops an answer. A line that ends in \\ goes on in the next; lines between \"\"\" and \"\"\" are one message.
";

/// Why a line is no command.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum SlashError {
    /// There is no such word.
    #[error("there is no {0}; /help shows what there is")]
    Unknown(String),
    /// The word needs something after it.
    #[error("{0} needs {1} after it")]
    Missing(&'static str, &'static str),
    /// The word stands alone.
    #[error("{0} takes nothing after it")]
    TooMuch(&'static str),
}

/// `line` as a command, `None` if it is something said to the model.
pub(super) fn parse(line: &str) -> Option<Result<Slash, SlashError>> {
    let line = line.trim();
    if !line.starts_with('/') {
        return None;
    }
    let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    Some(command(word, rest.trim()))
}

fn command(word: &str, rest: &str) -> Result<Slash, SlashError> {
    let some = || (!rest.is_empty()).then(|| rest.to_owned());
    let alone = |word, slash| {
        if rest.is_empty() {
            Ok(slash)
        } else {
            Err(SlashError::TooMuch(word))
        }
    };
    let file = |word| {
        some()
            .map(PathBuf::from)
            .ok_or(SlashError::Missing(word, "a file"))
    };
    match word {
        "/help" | "/?" => alone("/help", Slash::Help),
        "/reset" | "/clear" => alone("/reset", Slash::Reset),
        "/regenerate" => alone("/regenerate", Slash::Regenerate),
        "/stats" => alone("/stats", Slash::Stats),
        "/quit" | "/exit" | "/bye" => alone("/quit", Slash::Quit),
        "/save" => file("/save").map(|path| Slash::Save(path, Existing::Stays)),
        "/save!" => file("/save!").map(|path| Slash::Save(path, Existing::Replaced)),
        "/load" => file("/load").map(Slash::Load),
        "/documents" | "/document" => Ok(Slash::Documents(some().map(PathBuf::from))),
        "/model" => Ok(Slash::Model(some())),
        "/system" => Ok(Slash::System(some())),
        "/set" => set(rest).map(Slash::Set),
        _ => Err(SlashError::Unknown(word.to_owned())),
    }
}

fn set(rest: &str) -> Result<Option<(String, String)>, SlashError> {
    if rest.is_empty() {
        return Ok(None);
    }
    match rest.split_once(|c: char| c.is_whitespace() || c == '=') {
        Some((name, value)) => Ok(Some((name.to_owned(), value.trim().to_owned()))),
        None => Err(SlashError::Missing("/set", "a name and a value")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_slash_makes_a_command() {
        assert_eq!(parse("hello /help"), None);
        assert_eq!(parse("  /help "), Some(Ok(Slash::Help)));
    }

    #[test]
    fn each_word_is_understood() {
        let cases = [
            ("/reset", Slash::Reset),
            (
                "/save my chat.json",
                Slash::Save("my chat.json".into(), Existing::Stays),
            ),
            (
                "/save! my chat.json",
                Slash::Save("my chat.json".into(), Existing::Replaced),
            ),
            ("/load a.json", Slash::Load("a.json".into())),
            ("/documents", Slash::Documents(None)),
            ("/documents my notes", Slash::Documents(Some("my notes".into()))),
            ("/model", Slash::Model(None)),
            ("/model tiny", Slash::Model(Some("tiny".into()))),
            (
                "/system You are kind.",
                Slash::System(Some("You are kind.".into())),
            ),
            ("/set", Slash::Set(None)),
            ("/set top-p 0.9", Slash::Set(Some(("top-p".into(), "0.9".into())))),
            ("/set seed=7", Slash::Set(Some(("seed".into(), "7".into())))),
            ("/exit", Slash::Quit),
        ];
        for (line, wanted) in cases {
            assert_eq!(parse(line), Some(Ok(wanted)), "{line}");
        }
    }

    #[test]
    fn a_slip_is_explained() {
        let cases = [
            ("/hlep", "there is no /hlep; /help shows what there is"),
            ("/save", "/save needs a file after it"),
            ("/quit now", "/quit takes nothing after it"),
            ("/set seed", "/set needs a name and a value after it"),
        ];
        for (line, sentence) in cases {
            assert_eq!(parse(line).unwrap().unwrap_err().to_string(), sentence);
        }
    }
}
