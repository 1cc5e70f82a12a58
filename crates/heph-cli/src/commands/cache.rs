//! `heph cache`: what earlier prompts left on disk, for `heph serve --cache-disk`.

use std::io::{self, Write};

use clap::Subcommand;
use heph_runtime::blocks::{self, BlocksError};
use heph_runtime::settings::Settings;
use serde::Serialize;

use crate::failure::{Exit, Failure};
use crate::terminal;

/// What to do with the caches.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Say how much there is, and where
    Show(Arguments),
    /// Remove all of it; a server that uses it computes again
    Clear(Arguments),
}

/// How it is said.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

/// What is there, or was.
#[derive(Debug, Serialize)]
struct Line {
    folder: String,
    blocks: u64,
    bytes: u64,
}

/// Runs one of them.
pub(crate) fn run(command: &Command, settings: &Settings) -> Result<(), Failure> {
    let folder = blocks::folder(&settings.home);
    let (arguments, verb, (blocks, bytes)) = match command {
        Command::Show(arguments) => (arguments, "lie in", blocks::survey(&folder)),
        Command::Clear(arguments) => (arguments, "were removed from", blocks::clear(&folder)?),
    };
    let mut out = io::stdout().lock();
    let folder = folder.display().to_string();
    if arguments.json {
        let line = Line {
            folder,
            blocks,
            bytes,
        };
        serde_json::to_writer_pretty(&mut out, &line).map_err(io::Error::from)?;
        return Ok(writeln!(out)?);
    }
    let size = terminal::bytes(bytes);
    Ok(writeln!(
        out,
        "{blocks} blocks of 64 tokens, {size}, {verb} {folder}"
    )?)
}

impl From<BlocksError> for Failure {
    fn from(error: BlocksError) -> Self {
        Self::new(Exit::No, error.to_string())
    }
}
