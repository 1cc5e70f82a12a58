//! `heph quantize`: a model in a smaller format, as a GGUF file.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use heph_engine::quantize::{self, FileType, QuantizeError};
use heph_engine::source::Source;
use heph_kernels::pool::Pool;
use heph_runtime::open;
use heph_runtime::settings::Settings;
use heph_runtime::store::Store;

use crate::failure::{Exit, Failure};
use crate::terminal;

/// Write a model in another format, as a GGUF file that llama.cpp opens too.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// A name of `heph models list`, a GGUF file, or a Hugging Face folder
    model: String,
    /// The file to write
    out: PathBuf,
    /// How weights are stored: f16, q8_0, q6_k, q5_k_m, q4_k_m, q4_0, iq4_nl, mxfp4, and the others of llama.cpp
    #[arg(long = "type", value_name = "TYPE", default_value = "q4_k_m", value_parser = str::parse::<FileType>)]
    file_type: FileType,
    /// Replace the file if it is there
    #[arg(long)]
    force: bool,
    /// Threads to compute with [default: one per core]
    #[arg(long)]
    threads: Option<std::num::NonZeroUsize>,
}

/// Writes beside the file and renames, so that nobody sees half of one.
pub(crate) fn run(arguments: &Arguments, settings: &Settings) -> Result<(), Failure> {
    let out = &arguments.out;
    if out.exists() && !arguments.force {
        return Err(
            Failure::new(Exit::Usage, format!("{} is already there", out.display()))
                .hint("--force replaces it"),
        );
    }
    let source = open::open(&Store::new(&settings.models).find(&arguments.model)?)?;
    let part = out.with_added_extension("part");
    let written = write(&source, arguments, settings, &part)
        .and_then(|()| fs::rename(&part, out).map_err(|e| Failure::writing(out, &e)));
    if written.is_err() {
        // Best effort: the failure that led here is the one to tell.
        let _ = fs::remove_file(&part);
    }
    written?;
    let size = fs::metadata(out).map_or(0, |m| m.len());
    Ok(writeln!(
        io::stdout().lock(),
        "{}  {}  {}",
        out.display(),
        arguments.file_type,
        terminal::bytes(size)
    )?)
}

fn write(source: &Source, arguments: &Arguments, settings: &Settings, part: &Path) -> Result<(), Failure> {
    let pool = Pool::new(
        arguments
            .threads
            .map_or(settings.threads, std::num::NonZeroUsize::get),
    );
    let file = BufWriter::new(File::create(part).map_err(|e| Failure::writing(part, &e))?);
    let bar = terminal::steps_bar(&format!("writing {}", arguments.file_type), 0);
    let mut show = |p: quantize::Progress<'_>| {
        bar.set_length(p.total);
        bar.set_position(p.done);
    };
    let name = source
        .config()
        .name
        .clone()
        .unwrap_or_else(|| arguments.model.clone());
    let written = quantize::write(source, arguments.file_type, &name, &pool, file, &mut show);
    bar.finish_and_clear();
    let file = written.map_err(|e| failed(e, part))?;
    let file = file.into_inner().map_err(|e| Failure::writing(part, e.error()))?;
    file.sync_all().map_err(|e| Failure::writing(part, &e))
}

fn failed(error: QuantizeError, part: &Path) -> Failure {
    match error {
        QuantizeError::Write(cause) => Failure::writing(part, &cause),
        other => Failure::new(Exit::Input, other.to_string()),
    }
}
