//! The `heph` program: arguments in, answers out, one plain sentence when something fails.
//!
//! It decides nothing about models: commands read what the user typed, call the runtime and the engine, and
//! show what came back. What a script reads goes to standard output; progress and errors go to standard error.
//!
//! | exit code | meaning |
//! |---|---|
//! | 0 | done |
//! | 1 | it ran and the answer is no, or something unforeseen failed |
//! | 2 | the command line, or a setting, cannot be understood |
//! | 3 | a model or file is missing, damaged or of a kind we cannot read |
//! | 4 | memory or disk is too small |
//! | 5 | the network or the other side failed |
//! | 130 | stopped with Ctrl-C |

use std::process::ExitCode;

use clap::Parser;

mod about;
mod arguments;
mod asking;
mod caps;
mod commands;
mod engine;
mod explain;
mod failure;
mod machine;
mod sampling;
mod terminal;

use arguments::Arguments;
use heph_runtime::settings::Settings;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = Settings::read()
        .map_err(Into::into)
        .and_then(|settings| commands::run(arguments, &settings));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
