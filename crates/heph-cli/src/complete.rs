//! What a shell may put after an option: words that it knows, names of models, paths.

use std::ffi::OsStr;
use std::fmt;

use clap::builder::{PossibleValue, TypedValueParser};
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate, PathCompleter, ValueCompleter};
use heph_engine::quantize::FileType;
use heph_kernels::isa::Isa;
use heph_runtime::bundled;
use heph_runtime::settings::Settings;
use heph_runtime::store::Store;
use heph_types::KvFormat;

/// Reads a word out of a list that shells complete. Other spellings may be read too.
pub(crate) struct Named<T> {
    names: Vec<&'static str>,
    parse: fn(&str) -> Result<T, String>,
}

impl<T> Named<T> {
    /// Reads what `parse` reads, and offers `names`.
    pub(crate) fn new(
        names: impl IntoIterator<Item = &'static str>,
        parse: fn(&str) -> Result<T, String>,
    ) -> Self {
        Self {
            names: names.into_iter().collect(),
            parse,
        }
    }
}

impl<T> Clone for Named<T> {
    fn clone(&self) -> Self {
        Self {
            names: self.names.clone(),
            parse: self.parse,
        }
    }
}

impl<T: Clone + Send + Sync + 'static> TypedValueParser for Named<T> {
    type Value = T;

    fn parse_ref(
        &self,
        command: &clap::Command,
        argument: Option<&clap::Arg>,
        value: &OsStr,
    ) -> Result<T, clap::Error> {
        TypedValueParser::parse_ref(&self.parse, command, argument, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(self.names.iter().map(|name| PossibleValue::new(*name))))
    }
}

/// Words that [`std::str::FromStr`] reads.
fn read<T>(text: &str) -> Result<T, String>
where
    T: std::str::FromStr,
    T::Err: fmt::Display,
{
    text.parse().map_err(|error: T::Err| error.to_string())
}

/// How keys and values are stored.
pub(crate) fn kv() -> Named<KvFormat> {
    Named::new(KvFormat::ALL.map(KvFormat::name), read)
}

/// How weights are stored.
pub(crate) fn file_type() -> Named<FileType> {
    Named::new(FileType::all().map(FileType::name), read)
}

/// The instruction sets of this machine, by `parse`.
pub(crate) fn isa(parse: fn(&str) -> Result<Isa, String>) -> Named<Isa> {
    Named::new(Isa::all_available().into_iter().map(Isa::name), parse)
}

/// A model: one of the program, one of the store, or a path.
pub(crate) fn model() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| {
        let mut candidates = names(current, bundled::ALL.iter().map(|model| model.name.to_owned()));
        candidates.extend(stored_names(current));
        candidates.extend(PathCompleter::any().complete(current));
        candidates
    })
}

/// A model of the store.
pub(crate) fn stored() -> ArgValueCompleter {
    ArgValueCompleter::new(stored_names)
}

fn stored_names(current: &OsStr) -> Vec<CompletionCandidate> {
    let list = Settings::read().map(|settings| Store::new(settings.models).list());
    // Who presses Tab is told of no error.
    let records = list.into_iter().flatten().flatten().flatten();
    names(current, records.map(|record| record.name.to_string()))
}

fn names(current: &OsStr, all: impl Iterator<Item = String>) -> Vec<CompletionCandidate> {
    let begun = current.to_string_lossy();
    let fitting = all.filter(|name| name.starts_with(&*begun));
    fitting.map(CompletionCandidate::new).collect()
}
