//! `heph models rm`.

use std::io::{self, Write};

use heph_runtime::store::Store;
use serde::Serialize;

use crate::complete;
use crate::failure::Failure;

/// Remove a model from the store, or what has arrived of one.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Names of `heph models list`
    #[arg(required = true, add = complete::stored())]
    models: Vec<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What a script reads.
#[derive(Debug, Serialize)]
struct Report<'a> {
    removed: &'a [String],
}

/// Removes them in order, stopping at the first that cannot be removed.
pub(crate) fn run(arguments: &Arguments, store: &Store) -> Result<(), Failure> {
    for model in &arguments.models {
        store.remove(model)?;
        if !arguments.json {
            writeln!(io::stdout().lock(), "removed {model}")?;
        }
    }
    match arguments.json {
        true => super::print_json(&Report {
            removed: &arguments.models,
        }),
        false => Ok(()),
    }
}
