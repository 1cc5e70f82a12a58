//! The commands, one file each, all of one shape: `Arguments`, then `run`.

use heph_runtime::settings::Settings;

use crate::arguments::{Arguments, Command};
use crate::failure::Failure;

pub(crate) mod completions;
pub(crate) mod doctor;
pub(crate) mod man;
pub(crate) mod models;

/// Runs the command that was typed.
pub(crate) fn run(arguments: Arguments, settings: &Settings) -> Result<(), Failure> {
    match arguments.command {
        Command::Models(command) => models::run(command, settings),
        Command::Doctor(arguments) => doctor::run(&arguments, settings),
        Command::Completions(arguments) => completions::run(&arguments),
        Command::Man(arguments) => man::run(&arguments),
    }
}
