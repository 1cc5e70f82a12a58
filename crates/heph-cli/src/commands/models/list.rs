//! `heph models list`.

use std::io::{self, Write};

use heph_runtime::bundled;
use heph_runtime::store::Store;

use super::Line;
use crate::failure::Failure;
use crate::terminal;

/// List the models of the program and of the store.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

/// Prints the list: what is part of the program first, then the store by name.
pub(crate) fn run(arguments: &Arguments, store: &Store) -> Result<(), Failure> {
    let (good, damaged): (Vec<_>, Vec<_>) = store.list()?.into_iter().partition(Result::is_ok);
    let stored = good.into_iter().flatten().map(Line::from);
    let lines: Vec<_> = bundled::ALL.iter().map(of_bundled).chain(stored).collect();
    if arguments.json {
        super::print_json(&lines)?;
    } else {
        write_table(&lines)?;
    }
    damaged
        .into_iter()
        .find_map(Result::err)
        .map_or(Ok(()), |e| Err(e.into()))
}

fn of_bundled(model: &bundled::Bundled) -> Line {
    Line {
        name: model.name.to_owned(),
        format: "gguf",
        bytes: model.bytes.len() as u64,
        bundled: true,
        content: model.content(),
    }
}

fn write_table(lines: &[Line]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let width = lines.iter().map(|l| l.name.len()).max().unwrap_or(0);
    for line in lines {
        let place = if line.bundled {
            "in the program"
        } else {
            "in the store"
        };
        let (name, size) = (&line.name, terminal::bytes(line.bytes));
        writeln!(
            out,
            "{name:<width$}  {:<12}  {size:>8}  {place:<14}  {:.12}",
            line.format, line.content
        )?;
    }
    Ok(())
}
