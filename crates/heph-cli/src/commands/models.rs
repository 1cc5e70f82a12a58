//! `heph models`: the store, seen from the command line.

use std::io::{self, Write};

use clap::Subcommand;
use heph_runtime::settings::Settings;
use heph_runtime::store::{Record, Store};
use serde::Serialize;

use crate::failure::Failure;
use crate::terminal;

mod import;
mod list;
mod pull;
mod rm;
mod show;

/// What to do with the store.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the models of the program and of the store
    List(list::Arguments),
    /// Show what is known of one model
    Show(show::Arguments),
    /// Copy a model file or folder into the store
    Import(import::Arguments),
    /// Download a model from a Hugging Face style hub into the store
    Pull(pull::Arguments),
    /// Remove a model from the store
    Rm(rm::Arguments),
}

/// Runs one of them.
pub(crate) fn run(command: Command, settings: &Settings) -> Result<(), Failure> {
    let store = Store::new(&settings.models);
    match command {
        Command::List(arguments) => list::run(&arguments, &store),
        Command::Show(arguments) => show::run(&arguments, &store),
        Command::Import(arguments) => import::run(&arguments, &store),
        Command::Pull(arguments) => pull::run(&arguments, &store, settings),
        Command::Rm(arguments) => rm::run(&arguments, &store),
    }
}

/// A model in a few words, for people and scripts.
#[derive(Debug, Serialize)]
struct Line {
    name: String,
    format: &'static str,
    bytes: u64,
    bundled: bool,
    content: String,
}

impl From<Record> for Line {
    fn from(record: Record) -> Self {
        Self {
            bytes: record.bytes(),
            name: record.name.to_string(),
            format: record.format.name(),
            bundled: false,
            content: record.content,
        }
    }
}

/// Tells of a model that came.
fn tell(record: Record, json: bool) -> Result<(), Failure> {
    let line = Line::from(record);
    if json {
        return print_json(&line);
    }
    let (name, size, content) = (&line.name, terminal::bytes(line.bytes), &line.content);
    Ok(writeln!(io::stdout().lock(), "{name}  {size}  {content:.12}")?)
}

/// Prints `value` as one JSON document.
pub(super) fn print_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, value).map_err(io::Error::from)?;
    Ok(writeln!(out)?)
}
