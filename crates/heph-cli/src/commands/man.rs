//! `heph man`: the manual pages.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::CommandFactory;
use clap_mangen::Man;

use crate::failure::Failure;

/// Print the manual page, or write one per command into a folder.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Write heph.1, heph-chat.1 and so on into this folder
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
}

/// Prints or writes the pages.
pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let mut command = crate::Arguments::command();
    command.build();
    match &arguments.out {
        None => Ok(io::stdout().lock().write_all(&page(&command)?)?),
        Some(folder) => write_pages(&command, folder),
    }
}

/// The page of `command` and those of the commands below it, each under its full name.
fn write_pages(command: &clap::Command, folder: &Path) -> Result<(), Failure> {
    let name = command.get_display_name().unwrap_or(command.get_name());
    let path = folder.join(format!("{name}.1"));
    let written = page(command).and_then(|page| {
        fs::create_dir_all(folder)?;
        fs::write(&path, page)
    });
    written.map_err(|e| Failure::writing(&path, &e))?;
    let named = command
        .get_subcommands()
        .filter(|c| c.get_name() != "help" && !c.is_hide_set());
    named.into_iter().try_for_each(|c| write_pages(c, folder))
}

fn page(command: &clap::Command) -> io::Result<Vec<u8>> {
    let mut page = Vec::new();
    Man::new(command.clone()).render(&mut page)?;
    Ok(page)
}
