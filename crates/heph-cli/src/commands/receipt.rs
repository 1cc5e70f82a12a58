//! `heph receipt`: whether a receipt is what its signers signed. Needs nothing but the file.

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;

use data_encoding::HEXLOWER;
use heph_privacy::receipt::{self, Body, ReceiptError, Verified};
use serde::Serialize;

use crate::failure::{Exit, Failure};
use crate::terminal::Style;

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
    let text = fs::read_to_string(&arguments.file)
        .map_err(|error| Failure::new(Exit::Input, format!("cannot read {path}: {error}")))?;
    let verified = receipt::verify(&text).map_err(|error| {
        let exit = if matches!(error, ReceiptError::Forged(_) | ReceiptError::Unsigned) {
            Exit::No
        } else {
            Exit::Input
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

fn show(out: &mut impl Write, verified: &Verified, signers: &[String]) -> Result<(), Failure> {
    let (body, style) = (&verified.body, Style::of_stdout());
    writeln!(out, "{}", style.green("The signatures fit."))?;
    writeln!(
        out,
        "{} ({}, {}), mode {}",
        body.model, body.precision, body.exactness, body.mode
    )?;
    writeln!(
        out,
        "{} tokens in, {} out; first after {} ms, all after {} ms; {} credits",
        body.prompt_tokens, body.answer_tokens, body.first_ms, body.total_ms, body.credits
    )?;
    let node = |n: u16| body.nodes.get(usize::from(n)).map_or("?", String::as_str);
    for place in &body.places {
        let ((t0, t1), (l0, l1)) = (place.tokens, place.layers);
        let vouched = match verified.is_vouched_for(place.node) {
            true => ", signed by it",
            false if place.node == 0 => "",
            false => ", by the word of the first signer",
        };
        writeln!(
            out,
            "  tokens {t0}-{t1}, layers {l0}-{l1}: {}{vouched}",
            node(place.node)
        )?;
    }
    for bytes in &body.bytes {
        writeln!(
            out,
            "  {} bytes to and {} from {} ({:?}, at most {:?})",
            bytes.up,
            bytes.down,
            node(bytes.node),
            bytes.kind,
            bytes.level
        )?;
    }
    if body.bytes.is_empty() {
        writeln!(out, "  nothing left this machine")?;
    }
    writeln!(
        out,
        "  {} things replaced; rules: {}",
        body.replaced,
        if body.rules.is_empty() {
            "none".to_owned()
        } else {
            body.rules.join(", ")
        }
    )?;
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
