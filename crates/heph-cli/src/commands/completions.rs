//! `heph completions`: the completion script of a shell.

use std::io;

use clap::CommandFactory;
use clap_complete::Shell;

use crate::failure::Failure;

/// Print the completion script of a shell.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "For bash:  heph completions bash > ~/.local/share/bash-completion/completions/heph\n\
                        For zsh:   heph completions zsh > \"${fpath[1]}/_heph\"\n\
                        For fish:  heph completions fish > ~/.config/fish/completions/heph.fish"
)]
pub(crate) struct Arguments {
    /// Which shell
    shell: Shell,
}

/// Prints the script.
pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(
        arguments.shell,
        &mut crate::Arguments::command(),
        "heph",
        &mut script,
    );
    Ok(io::Write::write_all(&mut io::stdout().lock(), &script)?)
}
