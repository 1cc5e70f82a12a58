//! `heph models import`.

use std::io::{self, Write};
use std::path::PathBuf;

use heph_runtime::store::{ModelName, Store, StoreError};

use crate::failure::Failure;
use crate::terminal;

/// Copy a model file or folder into the store.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// A GGUF file (with its other parts beside it) or a Hugging Face folder
    path: PathBuf,
    /// The name it gets [default: the file's]
    #[arg(long)]
    name: Option<String>,
}

/// Copies and prints the name.
pub(crate) fn run(arguments: &Arguments, store: &Store) -> Result<(), Failure> {
    let name = match &arguments.name {
        Some(name) => ModelName::new(name),
        None => ModelName::suggested_by(&arguments.path.to_string_lossy()),
    }
    .map_err(StoreError::from)?;
    let bar = terminal::bytes_bar(&format!("importing {name}"));
    let cancel = terminal::cancel_on_ctrl_c()?;
    let record = store.import(&arguments.path, &name, &cancel, &mut |p| terminal::show(&bar, p));
    bar.finish_and_clear();
    let record = record?;
    let (size, content) = (terminal::bytes(record.bytes()), &record.content);
    Ok(writeln!(io::stdout().lock(), "{name}  {size}  {content:.12}")?)
}
