//! `heph completions`: the completion script of a shell.

use std::io::{self, Write};

use clap_complete::Shell;
use clap_complete::env::Shells;

use crate::failure::{Exit, Failure};

/// The variable by which a shell asks for what may come next.
pub(crate) const VARIABLE: &str = "HEPH_COMPLETE";

/// Print the completion script of a shell.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "For bash:  heph completions bash > ~/.local/share/bash-completion/completions/heph\n\
                        For zsh:   heph completions zsh > \"${fpath[1]}/_heph\"\n\
                        For fish:  heph completions fish > ~/.config/fish/completions/heph.fish\n\
                        The script asks this program, so names of models are completed too."
)]
pub(crate) struct Arguments {
    /// Which shell
    shell: Shell,
}

/// Prints the script.
pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let name = arguments.shell.to_string();
    let shells = Shells::builtins();
    let shell = shells
        .completer(&name)
        .ok_or_else(|| Failure::new(Exit::Usage, format!("there is no completion for {name}")))?;
    let mut script = Vec::new();
    shell.write_registration(VARIABLE, "heph", "heph", "heph", &mut script)?;
    Ok(io::stdout().lock().write_all(&script)?)
}
