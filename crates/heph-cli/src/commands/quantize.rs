//! `heph quantize`: a model in a smaller format, as a GGUF file.

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use heph_engine::quantize::{self, FileType, QuantizeError};
use heph_engine::source::Source;
use heph_kernels::pool::Pool;
use heph_runtime::cancel::Cancel;
use heph_runtime::files::{Existing, FileError, NewFile};
use heph_runtime::open;
use heph_runtime::settings::Settings;
use heph_runtime::store::{Store, names_one_file};
use serde::Serialize;

use super::models::print_json;
use crate::complete;
use crate::engine::threads;
use crate::failure::{Exit, Failure};
use crate::terminal;

/// Write a model in another format, as a GGUF file that llama.cpp opens too.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// A name of `heph models list`, a GGUF file, or a Hugging Face folder
    #[arg(add = complete::model())]
    model: String,
    /// The file to write; its name ends in .gguf
    #[arg(value_hint = clap::ValueHint::FilePath)]
    out: PathBuf,
    /// How weights are stored: f16, q8_0, q6_k, q5_k_m, q4_k_m, q4_0, iq4_nl, mxfp4, and the others of llama.cpp
    #[arg(long = "type", value_name = "TYPE", default_value = "q4_k_m", value_parser = complete::file_type(), hide_possible_values = true)]
    file_type: FileType,
    /// Replace the file if it is there; a folder, a link or a device never is
    #[arg(long)]
    force: bool,
    /// Threads to compute with [default: one per core]
    #[arg(long, value_parser = threads)]
    threads: Option<usize>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What a script reads.
#[derive(Debug, Serialize)]
struct Report<'a> {
    path: &'a Path,
    #[serde(rename = "type")]
    file_type: &'static str,
    bytes: u64,
}

/// Writes beside the file and renames, so that nobody sees half of one.
pub(crate) fn run(arguments: &Arguments, settings: &Settings) -> Result<(), Failure> {
    let out = &arguments.out;
    if !names_one_file(out) {
        let sentence = format!("{} is no name of one GGUF file", out.display());
        return Err(Failure::new(Exit::Usage, sentence)
            .hint("end it in .gguf, without the number of a part: models are known by that"));
    }
    let existing = match arguments.force {
        true => Existing::Replaced,
        false => Existing::Stays,
    };
    // Listened for before anything is there that a signal could leave behind.
    let cancel = terminal::cancel_on_any_signal()?;
    let file = NewFile::create(out, existing).map_err(refused)?;
    let source = open::open(&Store::new(&settings.models).find(&arguments.model)?)?;
    let written = write(
        &source,
        arguments,
        settings,
        Watched {
            file,
            cancel: &cancel,
        },
    );
    let Watched { file, .. } = written.map_err(|failure| match cancel.is_raised() {
        true => Failure::Stopped,
        false => failure,
    })?;
    file.finish().map_err(refused)?;
    let report = Report {
        path: out,
        file_type: arguments.file_type.name(),
        bytes: std::fs::metadata(out).map_or(0, |m| m.len()),
    };
    if arguments.json {
        return print_json(&report);
    }
    let (name, size) = (report.file_type, terminal::bytes(report.bytes));
    Ok(writeln!(
        io::stdout().lock(),
        "{}  {name}  {size}",
        terminal::plain(&out.display().to_string())
    )?)
}

fn refused(error: FileError) -> Failure {
    match error {
        FileError::Taken { .. } => Failure::from(error).hint("--force replaces it"),
        FileError::Special { path } => Failure::new(
            Exit::Usage,
            format!("{} is a folder, a link or a device, and stays", path.display()),
        )
        .hint("name a file of its own"),
        error => error.into(),
    }
}

fn write<'a>(
    source: &Source,
    arguments: &Arguments,
    settings: &Settings,
    file: Watched<'a>,
) -> Result<Watched<'a>, Failure> {
    let pool = Pool::new(arguments.threads.unwrap_or(settings.threads));
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
    let out = &arguments.out;
    let file = BufWriter::new(file);
    let written = quantize::write(source, arguments.file_type, &name, &pool, file, &mut show);
    bar.finish_and_clear();
    let file = written.map_err(|error| match error {
        QuantizeError::Write(cause) => FileError::writing(out, cause).into(),
        other => Failure::new(Exit::Input, other.to_string()).of(&arguments.model),
    })?;
    file.into_inner()
        .map_err(|e| FileError::writing(out, e.into_error()).into())
}

/// A file that takes nothing more once somebody wants to stop.
struct Watched<'a> {
    file: NewFile,
    cancel: &'a Cancel,
}

impl Write for Watched<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.cancel.is_raised() {
            true => Err(io::Error::other("stopped")),
            false => self.file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
