//! `heph receipt`: whether a receipt is what its signers signed. Needs nothing but the file.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use heph_privacy::receipt::{self, BYTES_MAX, Body, Checked, ReceiptError, Verified};
use serde::Serialize;

use crate::failure::{Exit, Failure};
use crate::terminal::{Style, line};

/// Check receipts of answers.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Check the signatures of a receipt, and print what it says
    Verify(Verify),
}

/// Which receipt, by whom.
#[derive(Debug, clap::Args)]
pub(crate) struct Verify {
    /// The receipt
    file: PathBuf,
    /// The key, in hexadecimal, that must have signed it first
    #[arg(long)]
    signer: Option<String>,
    /// Print one JSON object: what it says, and who signed
    #[arg(long)]
    json: bool,
}

/// What a script reads.
#[derive(Debug, Serialize)]
struct Report<'a> {
    signers: Vec<String>,
    #[serde(flatten)]
    body: &'a Body,
}

/// Reads, checks, prints.
pub(crate) fn run(command: Command) -> Result<(), Failure> {
    let Command::Verify(arguments) = command;
    let path = arguments.file.display();
    let text = read(&arguments.file)
        .map_err(|error| Failure::new(Exit::Input, format!("cannot read {path}: {error}")))?;
    let verified = receipt::verify(&text).map_err(|error| {
        let exit = match error {
            ReceiptError::Forged(_) | ReceiptError::Unsigned | ReceiptError::Unstated(_) => Exit::No,
            _ => Exit::Input,
        };
        Failure::new(exit, format!("{path}: {error}"))
            .hint("ask whoever gave it to you for the receipt as it was signed")
    })?;
    let signers: Vec<String> = verified.signers.iter().map(|key| HEXLOWER.encode(key)).collect();
    if let Some(wanted) = &arguments.signer
        && signers.first() != Some(&wanted.to_lowercase())
    {
        return Err(Failure::new(
            Exit::No,
            format!("{path} was signed by another machine, {}", signers[0]),
        ));
    }
    let mut out = io::stdout().lock();
    if arguments.json {
        serde_json::to_writer(
            &mut out,
            &Report {
                signers,
                body: &verified.body,
            },
        )
        .map_err(io::Error::from)?;
        return Ok(writeln!(out)?);
    }
    show(&mut out, &verified, &signers)
}

/// What stands in a file, and no more of it than shows that it is no receipt.
fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?
        .take(BYTES_MAX as u64 + 1)
        .read_to_string(&mut text)?;
    Ok(text)
}

/// Every word of a receipt is its first signer's, and stays in its line.
fn show(out: &mut impl Write, verified: &Verified, signers: &[String]) -> Result<(), Failure> {
    let (body, style) = (&verified.body, Style::of_stdout());
    writeln!(out, "{}", style.green("The signatures fit."))?;
    writeln!(
        out,
        "{} ({}, {}), mode {}",
        line(&body.model),
        line(&body.precision),
        line(&body.exactness),
        line(&body.mode)
    )?;
    if !body.file.is_empty() {
        writeln!(out, "file {}", line(&body.file))?;
    }
    writeln!(
        out,
        "{} tokens in, {} out; first after {} ms, all after {} ms; {} credits",
        body.prompt_tokens, body.answer_tokens, body.first_ms, body.total_ms, body.credits
    )?;
    let node = |n: u16| body.nodes.get(usize::from(n)).map_or("?", String::as_str);
    let is_signer = |n: u16| signers.first().is_some_and(|signer| signer == node(n));
    for place in &body.places {
        let ((t0, t1), (l0, l1)) = (place.tokens, place.layers);
        let vouched = match verified.is_vouched_for(place.node) {
            true => ", signed by it",
            false if is_signer(place.node) => "",
            false => ", by the word of the first signer",
        };
        writeln!(
            out,
            "  tokens {t0}-{t1}, layers {l0}-{l1}: {}{vouched}",
            line(node(place.node))
        )?;
    }
    for bytes in &body.bytes {
        if bytes.weights {
            let to = line(node(bytes.node));
            writeln!(out, "  {} bytes of the model to {to}", bytes.up)?;
            continue;
        }
        writeln!(
            out,
            "  {} bytes to and {} from {} ({:?}, at most {:?})",
            bytes.up,
            bytes.down,
            line(node(bytes.node)),
            bytes.kind,
            bytes.level
        )?;
    }
    if body.bytes.is_empty() {
        match body.places.iter().all(|place| is_signer(place.node)) {
            true => writeln!(out, "  nothing left this machine")?,
            false => writeln!(out, "  it does not say what left, though others computed")?,
        }
    }
    let rules: Vec<_> = body.rules.iter().map(|rule| line(rule)).collect();
    writeln!(
        out,
        "  {} things replaced; rules: {}",
        body.replaced,
        if rules.is_empty() {
            "none".to_owned()
        } else {
            rules.join(", ")
        }
    )?;
    let checked = match body.checked {
        Checked::Here => "nobody else computed",
        Checked::Not => "what others computed was not checked",
        Checked::Sampled => "some of what others computed was computed again",
        Checked::All => "all that others computed was computed again",
    };
    writeln!(out, "  {checked}")?;
    for (n, signer) in signers.iter().enumerate() {
        writeln!(
            out,
            "{} {}",
            if n == 0 { "signed by" } else { "agreed by" },
            style.dim(signer)
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use heph_privacy::receipt::Place;

    use super::*;

    fn shown(change: impl FnOnce(&mut Body)) -> String {
        let mut body = Body {
            id: String::new(),
            at: 0,
            model: "m".into(),
            file: "ab".repeat(32),
            precision: "Q8_0".into(),
            exactness: "exact".into(),
            mode: "remote".into(),
            nodes: vec!["aa".into(), "bb".into()],
            places: Vec::new(),
            bytes: Vec::new(),
            computed: Vec::new(),
            rules: Vec::new(),
            replaced: 0,
            credits: 0,
            prompt_tokens: 5,
            answer_tokens: 5,
            first_ms: 0,
            total_ms: 0,
            checked: Checked::Not,
        };
        change(&mut body);
        let verified = Verified {
            body,
            signers: vec![[0xaa; 32]],
        };
        let mut out = Vec::new();
        show(&mut out, &verified, &["aa".to_owned()]).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn no_word_of_a_receipt_forges_a_line_of_what_is_shown() {
        let lie = "m\nagreed by bb\r\u{1b}[2K\u{202e}";
        let honest = shown(|_| ()).lines().count();
        let told = shown(|body| {
            for text in [
                &mut body.model,
                &mut body.precision,
                &mut body.exactness,
                &mut body.mode,
                &mut body.file,
            ] {
                *text = lie.to_owned();
            }
            body.rules = vec![lie.to_owned()];
        });
        assert_eq!(told.lines().count(), honest, "{told}");
        assert!(
            !told.contains(['\r', '\u{202e}']) && !told.contains("\u{1b}[2K"),
            "{told:?}"
        );
        assert!(!told.lines().any(|line| line.starts_with("agreed")), "{told}");
    }

    #[test]
    fn what_a_receipt_does_not_say_is_not_said() {
        let place = |node| Place {
            node,
            tokens: (0, 10),
            layers: (0, 4),
        };
        let alone = shown(|body| body.places = vec![place(0)]);
        assert!(
            alone.contains("nothing left") && !alone.contains("by the word"),
            "{alone}"
        );
        let others = shown(|body| body.places = vec![place(0), place(1)]);
        assert!(
            !others.contains("nothing left") && others.contains("bb, by the word"),
            "{others}"
        );
        // The first in its list is another machine than the one that signed it.
        let first = shown(|body| {
            body.nodes.reverse();
            body.places = vec![place(0)];
        });
        assert!(
            !first.contains("nothing left") && first.contains("bb, by the word"),
            "{first}"
        );
        assert!(
            alone.contains("not checked") && alone.contains(&"ab".repeat(32)),
            "{alone}"
        );
    }
}
