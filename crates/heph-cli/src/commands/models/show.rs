//! `heph models show`.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use heph_engine::source::Source;
use heph_runtime::bundled::Bundled;
use heph_runtime::open;
use heph_runtime::store::{Found, ModelFiles, Origin, Record, Store};
use heph_types::{ModelHash, hex};
use serde::Serialize;

use crate::complete;
use crate::failure::Failure;
use crate::terminal;

/// Show what is known of one model.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// A name of `heph models list`, a GGUF file, or a Hugging Face folder
    #[arg(add = complete::model())]
    model: String,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What a script reads.
#[derive(Debug, Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    files: Files<'a>,
    /// What machines and receipts call it.
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    architecture: &'a str,
    parameters: u64,
    layers: usize,
    width: usize,
    heads: usize,
    kv_heads: usize,
    head_width: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    experts: Option<Experts>,
    context: usize,
    vocabulary: usize,
    weights: Vec<Share>,
}

/// Where a model lies, and whether it came whole.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Files<'a> {
    Bundled {
        name: &'a str,
        about: &'a str,
        format: &'a str,
        bytes: u64,
        content: String,
    },
    Stored {
        folder: &'a Path,
        bytes: u64,
        #[serde(flatten)]
        record: &'a Record,
    },
    Path {
        format: &'a str,
        paths: Vec<PathBuf>,
    },
}

impl<'a> Files<'a> {
    fn of(found: &'a Found) -> Result<Self, Failure> {
        Ok(match found {
            Found::Bundled(model) => Self::Bundled {
                name: model.name,
                about: model.about,
                format: "gguf",
                bytes: model.bytes.len() as u64,
                content: model.content(),
            },
            Found::Stored(folder, record) => Self::Stored {
                folder,
                bytes: record.bytes(),
                record,
            },
            Found::Path(files) => Self::Path {
                format: files.format().name(),
                paths: files.paths()?,
            },
        })
    }
}

/// Experts of each layer.
#[derive(Debug, Serialize)]
struct Experts {
    count: usize,
    used: usize,
}

/// What of the weights is in one format.
#[derive(Debug, Serialize)]
struct Share {
    format: &'static str,
    bytes: u64,
}

/// Opens it, then prints what is known: first of the files, then what stands in them.
pub(crate) fn run(arguments: &Arguments, store: &Store) -> Result<(), Failure> {
    let found = store.find(&arguments.model)?;
    let source = open::open(&found)?;
    if arguments.json {
        return super::print_json(&report(&found, &source)?);
    }
    let mut out = io::stdout().lock();
    match &found {
        Found::Bundled(model) => write_bundled(&mut out, *model)?,
        Found::Stored(folder, record) => {
            writeln!(out, "folder        {}", folder.display())?;
            write_record(&mut out, record)?;
        }
        Found::Path(files) => write_files(&mut out, files)?,
    }
    if let Some(hash) = known_as(&found)? {
        let hash = hex::write(&hash.0);
        writeln!(out, "known as      {hash} to other machines and in receipts")?;
    }
    Ok(write_shape(&mut out, &source)?)
}

/// What machines call the model, where that is known without reading all of it.
fn known_as(found: &Found) -> Result<Option<ModelHash>, Failure> {
    Ok(match found {
        Found::Bundled(_) | Found::Stored(..) => Some(found.model_hash()?),
        Found::Path(_) => None,
    })
}

fn report<'a>(found: &'a Found, source: &'a Source) -> Result<Report<'a>, Failure> {
    let config = source.config();
    Ok(Report {
        files: Files::of(found)?,
        model: known_as(found)?.map(|hash| hex::write(&hash.0)),
        architecture: &config.architecture,
        parameters: source.specs().map(|s| s.parameters()).sum(),
        layers: config.layers,
        width: config.hidden,
        heads: config.heads,
        kv_heads: config.kv_heads,
        head_width: config.head_dim,
        experts: config.experts.as_ref().map(|experts| Experts {
            count: experts.count,
            used: experts.used,
        }),
        context: config.context,
        vocabulary: config.vocab,
        weights: weight_formats(source),
    })
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
        Origin::Quantised { from, file_type } => writeln!(out, "from          {from}, as {file_type}")?,
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
            terminal::plain(&path.display().to_string()),
            terminal::bytes(size)
        )?;
    }
    Ok(())
}

fn write_shape(out: &mut impl Write, source: &Source) -> io::Result<()> {
    let config = source.config();
    let (heads, kv_heads, head_dim) = (config.heads, config.kv_heads, config.head_dim);
    let parameters: u64 = source.specs().map(|s| s.parameters()).sum();
    writeln!(out, "architecture  {}", terminal::plain(&config.architecture))?;
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
    let shares = weight_formats(source).into_iter();
    let shares = shares.map(|share| format!("{} {}", share.format, terminal::bytes(share.bytes)));
    writeln!(out, "weights       {}", shares.collect::<Vec<_>>().join(", "))
}

/// The formats of the weights, each with its share of the bytes, largest first.
fn weight_formats(source: &Source) -> Vec<Share> {
    let mut shares: Vec<Share> = Vec::new();
    for spec in source.specs() {
        let (format, bytes) = (spec.format.name(), spec.bytes());
        match shares.iter_mut().find(|share| share.format == format) {
            Some(share) => share.bytes += bytes,
            None => shares.push(Share { format, bytes }),
        }
    }
    shares.sort_by_key(|share| (std::cmp::Reverse(share.bytes), share.format));
    shares
}
