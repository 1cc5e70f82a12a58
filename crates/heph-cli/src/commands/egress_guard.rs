//! `heph egress-guard`: the guard of connections, which other commands begin and nobody types.

#[cfg(target_os = "linux")]
use heph_runtime::guard::Lends;
use heph_runtime::settings::Settings;

use crate::failure::{Exit, Failure};

/// Be the guard of another one's connections, on the socket that is standard input.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// A policy stood in a file before
    #[arg(long)]
    policy_was_there: bool,
    /// That one lends to machines of the book
    #[arg(long)]
    lends: bool,
    /// They may fetch parts of models there
    #[arg(long, requires = "lends")]
    offers: bool,
    /// Where the engine is that does the work
    #[arg(long, requires = "lends", value_name = "HOST:PORT", value_parser = place)]
    engine: Option<(String, u16)>,
}

fn place(text: &str) -> Result<(String, u16), String> {
    let place = text
        .rsplit_once(':')
        .and_then(|(host, port)| Some((host.to_owned(), port.parse().ok()?)));
    place.ok_or_else(|| "HOST:PORT is needed".to_owned())
}

/// Keeps connections until whoever began it is gone.
#[cfg(target_os = "linux")]
pub(crate) fn run(arguments: &Arguments, settings: &Settings) -> Result<(), Failure> {
    let lends = arguments.lends.then(|| Lends {
        offers: arguments.offers,
        engine: arguments.engine.clone(),
    });
    let kept = heph_runtime::guard::process::run(settings, arguments.policy_was_there, lends);
    kept.map_err(|error| {
        let sentence = format!("standard input is no socket of a program that wants a guard: {error}");
        Failure::new(Exit::Usage, sentence)
    })
}

/// Keeps connections until whoever began it is gone.
#[cfg(not(target_os = "linux"))]
pub(crate) fn run(_: &Arguments, _: &Settings) -> Result<(), Failure> {
    Err(Failure::new(
        Exit::Usage,
        "guards are processes of their own on Linux only",
    ))
}
