//! `heph tokenize`: texts in, ids out.

use std::io::{self, BufWriter, Read, Write};

use heph_engine::tokenizer::{AddSpecial, ParseSpecial};
use heph_runtime::open;
use heph_runtime::settings::Settings;
use heph_runtime::store::Store;

use crate::complete;
use crate::failure::{Exit, Failure};

/// Turn NUL-terminated texts on standard input into lines of token ids.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// A name of `heph models list`, a GGUF file (a vocabulary is enough), or a Hugging Face folder
    #[arg(long, add = complete::model())]
    model: String,
    /// 1 adds the tokens that the model expects around a text
    #[arg(long, value_parser = clap::value_parser!(u8).range(0..=1), default_value_t = 1)]
    add_special: u8,
    /// 1 reads the spelling of a control token as that token
    #[arg(long, value_parser = clap::value_parser!(u8).range(0..=1), default_value_t = 0)]
    parse_special: u8,
}

/// One line of ids for each text.
pub(crate) fn run(arguments: &Arguments, settings: &Settings) -> Result<(), Failure> {
    let words = open::words(&Store::new(&settings.models).find(&arguments.model)?)?;
    let add = if arguments.add_special == 1 {
        AddSpecial::Yes
    } else {
        AddSpecial::No
    };
    let parse = if arguments.parse_special == 1 {
        ParseSpecial::Yes
    } else {
        ParseSpecial::No
    };
    let mut input = Vec::new();
    io::stdin().lock().read_to_end(&mut input).map_err(unreadable)?;
    let mut out = BufWriter::new(io::stdout().lock());
    for (number, text) in texts(&input).enumerate() {
        let text = std::str::from_utf8(text).map_err(|error| {
            let (number, at) = (number + 1, error.valid_up_to());
            let sentence = format!("text {number} is not UTF-8 from its byte {at} on");
            Failure::new(Exit::Input, sentence).hint("texts end with a NUL each, and are written in UTF-8")
        });
        let text = match text {
            Ok(text) => text,
            Err(failure) => {
                out.flush()?;
                return Err(failure);
            }
        };
        let ids = words.tokenizer.encode(text, add, parse);
        let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
        writeln!(out, "{}", ids.join(" "))?;
    }
    Ok(out.flush()?)
}

/// The texts of `input`: each ends with NUL, the last one may lack it.
fn texts(input: &[u8]) -> impl Iterator<Item = &[u8]> {
    let ended = input.strip_suffix(b"\0").unwrap_or(input);
    ended
        .split(|b| *b == 0)
        .take(if input.is_empty() { 0 } else { usize::MAX })
}

/// Standard input broke.
pub(crate) fn unreadable(error: io::Error) -> Failure {
    Failure::new(Exit::Input, format!("cannot read standard input: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nul_ends_a_text() {
        let cases: [(&[u8], &[&[u8]]); 5] = [
            (b"", &[]),
            (b"\0", &[b""]),
            (b"a", &[b"a"]),
            (b"a\0b\0", &[b"a", b"b"]),
            (b"a\0\0", &[b"a", b""]),
        ];
        for (input, wanted) in cases {
            assert_eq!(texts(input).collect::<Vec<_>>(), wanted, "{input:?}");
        }
    }
}
