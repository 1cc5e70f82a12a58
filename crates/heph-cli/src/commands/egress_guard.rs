//! `heph egress-guard`: the guard of connections, which other commands begin and nobody types.

use heph_runtime::settings::Settings;

use crate::failure::{Exit, Failure};

/// Be the guard of another one's connections, on the socket that is standard input.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// A policy stood in a file before
    #[arg(long)]
    policy_was_there: bool,
}

/// Keeps connections until whoever began it is gone.
#[cfg(target_os = "linux")]
pub(crate) fn run(arguments: &Arguments, settings: &Settings) -> Result<(), Failure> {
    let kept = heph_runtime::guard::process::run(settings, arguments.policy_was_there);
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
