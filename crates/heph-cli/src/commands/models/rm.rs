//! `heph models rm`.

use std::io::{self, Write};

use heph_runtime::store::Store;

use crate::failure::Failure;

/// Remove a model from the store.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Names of `heph models list`
    #[arg(required = true)]
    models: Vec<String>,
}

/// Removes them in order, stopping at the first that cannot be removed.
pub(crate) fn run(arguments: &Arguments, store: &Store) -> Result<(), Failure> {
    for model in &arguments.models {
        store.remove(model)?;
        writeln!(io::stdout().lock(), "removed {model}")?;
    }
    Ok(())
}
