//! What can be typed after `heph`. Each command's own arguments stand in the command's file.

use clap::{Parser, Subcommand};

use crate::commands::{bench, certify, completions, doctor, logits, man, models};

/// Language models on your own machine, with the same answer on every machine.
#[derive(Debug, Parser)]
#[command(name = "heph", version, max_term_width = 100, arg_required_else_help = true)]
#[command(
    after_help = "Exit codes: 0 done, 1 no or unforeseen, 2 command line, 3 model or file, 4 memory or \
                        disk, 5 network, 130 stopped."
)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// One word, one job.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Measure prefill, decoding and small passes of a model
    Bench(bench::Arguments),
    /// Run a model in every way there is here and compare the bits
    Certify(certify::Arguments),
    /// Write the logits of prompts given as token ids
    Logits(logits::Arguments),
    /// List, show, import, pull and remove models
    #[command(subcommand)]
    Models(models::Command),
    /// Say what this machine is, how fast its memory is, and what fits
    Doctor(doctor::Arguments),
    /// Print the completion script of a shell
    Completions(completions::Arguments),
    /// Print the manual page, or write one per command into a folder
    Man(man::Arguments),
}
