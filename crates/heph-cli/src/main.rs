//! The `heph` program: arguments in, answers out, one plain sentence when something fails.
//!
//! It decides nothing about models: commands read what the user typed, call the runtime and the engine, and
//! show what came back. What a script reads goes to standard output; progress and errors go to standard error.
//!
//! | exit code | meaning |
//! |---|---|
//! | 0 | done |
//! | 1 | it ran and the answer is no, or something unforeseen failed |
//! | 2 | the command line, or a setting, cannot be understood, or what is asked is longer than the context |
//! | 3 | a model or file is missing, damaged or of a kind we cannot read |
//! | 4 | memory or disk is too small |
//! | 5 | the network or the other side failed, or an address is taken |
//! | 130 | stopped with Ctrl-C |
//! | 143 | ended by a signal to terminate, what was begun being thrown away |
//!
//! With `--json`, an error is one JSON object on standard error: `error`, `hint` where there is one, and `exit`.

use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use clap_complete::CompleteEnv;

mod about;
mod arguments;
mod asking;
mod caps;
mod commands;
mod complete;
mod engine;
mod explain;
mod failure;
mod machine;
mod sampling;
mod terminal;

use arguments::Arguments;
use commands::completions;
use failure::Failure;
use heph_runtime::crash;
use heph_runtime::settings::Settings;

fn main() -> ExitCode {
    crash::tell_no_words();
    crash::leave_no_memory();
    // A shell that asks what may come next: it is answered, and nothing else is done.
    CompleteEnv::with_factory(Arguments::command)
        .var(completions::VARIABLE)
        .complete();
    let done = match Arguments::try_parse() {
        Ok(arguments) => Settings::read()
            .map_err(Into::into)
            .and_then(|settings| commands::run(arguments, &settings)),
        Err(help) if !help.use_stderr() => show(&help),
        Err(slip) => Err(slip.into()),
    };
    heph_runtime::network::note_all();
    heph_runtime::guard::note_all();
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// Help, or the version, which were asked for.
fn show(text: &clap::Error) -> Result<(), Failure> {
    text.print()?;
    Ok(std::io::stdout().flush()?)
}
