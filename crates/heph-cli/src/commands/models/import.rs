//! `heph models import`.

use std::path::{Path, PathBuf};

use heph_runtime::store::{ModelName, Store, StoreError};

use crate::failure::{Exit, Failure};
use crate::terminal;

/// Copy a model file or folder into the store.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// A GGUF file (with its other parts beside it) or a Hugging Face folder
    #[arg(value_hint = clap::ValueHint::AnyPath)]
    path: PathBuf,
    /// The name it gets [default: the file's]
    #[arg(long)]
    name: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Copies and prints the name.
pub(crate) fn run(arguments: &Arguments, store: &Store) -> Result<(), Failure> {
    let name = match &arguments.name {
        Some(name) => ModelName::new(name).map_err(StoreError::from)?,
        None => suggested(&arguments.path)?,
    };
    let bar = terminal::bytes_bar(&format!("importing {name}"));
    let cancel = terminal::cancel_on_any_signal()?;
    let record = store.import(&arguments.path, &name, &cancel, &mut |p| terminal::show(&bar, p));
    bar.finish_and_clear();
    super::tell(record?, arguments.json)
}

/// The name of what lies at `path`; of the folder that `.` is, too.
fn suggested(path: &Path) -> Result<ModelName, Failure> {
    let whole = match path.file_name() {
        Some(_) => path.to_owned(),
        None => path.canonicalize().unwrap_or_else(|_| path.to_owned()),
    };
    ModelName::suggested_by(&whole.to_string_lossy()).map_err(|_| {
        let sentence = format!("{} suggests no name for a model", path.display());
        Failure::new(Exit::Usage, sentence).hint("give it one with --name")
    })
}
