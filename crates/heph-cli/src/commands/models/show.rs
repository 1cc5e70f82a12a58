//! `heph models show`.

use std::io::{self, Write};

use heph_engine::source::Source;
use heph_runtime::bundled::Bundled;
use heph_runtime::open;
use heph_runtime::store::{Found, ModelFiles, Origin, Record, Store};

use crate::failure::Failure;
use crate::terminal;

/// Show what is known of one model.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// A name of `heph models list`, a GGUF file, or a Hugging Face folder
    model: String,
}

/// Prints what is known: first of the files, then what stands in them.
pub(crate) fn run(arguments: &Arguments, store: &Store) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    let found = store.find(&arguments.model)?;
    match &found {
        Found::Bundled(model) => write_bundled(&mut out, *model)?,
        Found::Stored(folder, record) => {
            writeln!(out, "folder        {}", folder.display())?;
            write_record(&mut out, record)?;
        }
        Found::Path(files) => write_files(&mut out, files)?,
    }
    Ok(write_shape(&mut out, &open::open(&found)?)?)
}

fn write_bundled(out: &mut impl Write, model: Bundled) -> io::Result<()> {
    writeln!(out, "name          {}", model.name)?;
    writeln!(out, "about         {}", model.about)?;
    writeln!(out, "format        gguf, part of the program")?;
    writeln!(out, "size          {}", terminal::bytes(model.bytes.len() as u64))?;
    writeln!(out, "content       {}", model.content())
}

fn write_record(out: &mut impl Write, record: &Record) -> io::Result<()> {
    writeln!(out, "name          {}", record.name)?;
    writeln!(out, "format        {}", record.format.name())?;
    writeln!(out, "size          {}", terminal::bytes(record.bytes()))?;
    writeln!(out, "content       {}", record.content)?;
    match &record.origin {
        Origin::Import { path } => writeln!(out, "from          {}", path.display())?,
        Origin::Pull {
            hub,
            repository,
            revision,
            commit,
        } => {
            let commit = commit.as_deref().unwrap_or("unknown");
            writeln!(
                out,
                "from          {hub}/{repository}, {revision}, commit {commit}"
            )?;
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
            "file          {} ({size}, blake3 {hash:.12}…{checked})",
            file.name
        )?;
    }
    Ok(())
}

fn write_files(out: &mut impl Write, files: &ModelFiles) -> Result<(), Failure> {
    writeln!(out, "format        {}", files.format().name())?;
    for path in files.paths()? {
        let size = std::fs::metadata(&path).map_or(0, |m| m.len());
        writeln!(
            out,
            "file          {} ({})",
            path.display(),
            terminal::bytes(size)
        )?;
    }
    Ok(())
}

fn write_shape(out: &mut impl Write, source: &Source) -> io::Result<()> {
    let config = source.config();
    let (heads, kv_heads, head_dim) = (config.heads, config.kv_heads, config.head_dim);
    let parameters: u64 = source.specs().map(|s| s.parameters()).sum();
    writeln!(out, "architecture  {}", config.architecture)?;
    writeln!(out, "parameters    {}", terminal::count(parameters))?;
    writeln!(out, "layers        {} of width {}", config.layers, config.hidden)?;
    writeln!(
        out,
        "heads         {heads}, sharing {kv_heads} of keys and values, {head_dim} wide"
    )?;
    if let Some(experts) = &config.experts {
        writeln!(
            out,
            "experts       {} of {} per token",
            experts.used, experts.count
        )?;
    }
    writeln!(out, "context       {} tokens", config.context)?;
    writeln!(out, "vocabulary    {} tokens", config.vocab)?;
    writeln!(out, "weights       {}", weight_formats(source))
}

/// The formats of the weights, each with its share of the bytes, largest first.
fn weight_formats(source: &Source) -> String {
    let mut by_format: Vec<(&'static str, u64)> = Vec::new();
    for spec in source.specs() {
        let name = spec.format.name();
        match by_format.iter_mut().find(|(n, _)| *n == name) {
            Some((_, bytes)) => *bytes += spec.bytes(),
            None => by_format.push((name, spec.bytes())),
        }
    }
    by_format.sort_by_key(|(name, bytes)| (std::cmp::Reverse(*bytes), *name));
    let shown = by_format
        .into_iter()
        .map(|(name, bytes)| format!("{name} {}", terminal::bytes(bytes)));
    shown.collect::<Vec<_>>().join(", ")
}
