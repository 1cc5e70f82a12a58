//! `heph models show`.

use std::io::{self, Write};

use heph_runtime::bundled::Bundled;
use heph_runtime::store::{Found, ModelFiles, Origin, Record, Store};

use crate::failure::Failure;
use crate::terminal;

/// Show what is known of one model.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// A name of `heph models list`, a GGUF file, or a Hugging Face folder
    model: String,
}

/// Prints what is known.
pub(crate) fn run(arguments: &Arguments, store: &Store) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match store.find(&arguments.model)? {
        Found::Bundled(model) => write_bundled(&mut out, model)?,
        Found::Stored(folder, record) => {
            writeln!(out, "folder   {}", folder.display())?;
            write_record(&mut out, &record)?;
        }
        Found::Path(files) => write_files(&mut out, &files)?,
    }
    Ok(())
}

fn write_bundled(out: &mut impl Write, model: Bundled) -> io::Result<()> {
    writeln!(out, "name     {}", model.name)?;
    writeln!(out, "about    {}", model.about)?;
    writeln!(out, "format   gguf, part of the program")?;
    writeln!(out, "size     {}", terminal::bytes(model.bytes.len() as u64))?;
    writeln!(out, "content  {}", model.content())
}

fn write_record(out: &mut impl Write, record: &Record) -> io::Result<()> {
    writeln!(out, "name     {}", record.name)?;
    writeln!(out, "format   {}", record.format.name())?;
    writeln!(out, "size     {}", terminal::bytes(record.bytes()))?;
    writeln!(out, "content  {}", record.content)?;
    match &record.origin {
        Origin::Import { path } => writeln!(out, "from     {}", path.display())?,
        Origin::Pull {
            hub,
            repository,
            revision,
            commit,
        } => {
            let commit = commit.as_deref().unwrap_or("unknown");
            writeln!(out, "from     {hub}/{repository}, {revision}, commit {commit}")?;
        }
    }
    for file in &record.files {
        let (size, hash) = (terminal::bytes(file.bytes), &file.blake3);
        let checked = if file.sha256.is_some() {
            ", checked against the publisher's SHA-256"
        } else {
            ""
        };
        writeln!(
            out,
            "file     {} ({size}, blake3 {hash:.12}…{checked})",
            file.name
        )?;
    }
    Ok(())
}

fn write_files(out: &mut impl Write, files: &ModelFiles) -> Result<(), Failure> {
    writeln!(out, "format   {}", files.format().name())?;
    for path in files.paths()? {
        let size = std::fs::metadata(&path).map_or(0, |m| m.len());
        writeln!(out, "file     {} ({})", path.display(), terminal::bytes(size))?;
    }
    Ok(())
}
