//! What can be typed after `heph`. Each command's own arguments stand in the command's file.

use std::num::NonZeroUsize;

use clap::{Parser, Subcommand};

use crate::commands::{
    bench, cache, certify, chat, completions, demo, doctor, egress, egress_guard, embed, excerpts, join,
    logits, man, mcp, models, node, pairing, peers, pii, plan, policy, privacy_report, providers, quantize,
    read, receipt, relay, render, run, serve, tokenize,
};
use crate::failure::{Exit, Failure};

/// Language models on your own machine, with the same answer on every machine.
#[derive(Debug, Parser)]
#[command(name = "heph", version, max_term_width = 100, arg_required_else_help = true)]
#[command(
    after_help = "Exit codes: 0 done, 1 no or unforeseen, 2 command line, 3 model or file, 4 memory or \
                        disk, 5 network, 130 stopped. With --json, an error is one JSON object on standard \
                        error: error, hint, exit."
)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// One word, one job.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Talk with the model that is part of the program, and see that its answer is exact
    Demo(demo::Arguments),
    /// Talk with a model; /help shows what steers the chat
    Chat(chat::Arguments),
    /// Answer one question
    Run(run::Arguments),
    /// Answer other programs over HTTP and show a page
    Serve(serve::Arguments),
    /// Give HEPH's tools to a program that speaks the Model Context Protocol
    Mcp(mcp::Arguments),
    /// See, let in and send away the pages and extensions that ask `heph serve`
    #[command(subcommand)]
    Pairing(pairing::Command),
    /// Answer questions about long texts part by part, on several machines at once
    Read(read::Arguments),
    /// Say where an answer would be computed, what that takes, and why not elsewhere
    Plan(plan::Arguments),
    /// Lend this machine to your other machines
    Node(node::Arguments),
    /// Meet a machine whose ticket you have
    Join(join::Arguments),
    /// Show the machines you met and which of them are there
    Peers(peers::Arguments),
    /// Show the outside providers that you added, or change the list
    Providers(providers::Arguments),
    /// Run a meeting place for machines that no direct way joins
    Relay(relay::Arguments),
    /// Measure prefill, decoding and small passes of a model
    Bench(bench::Arguments),
    /// Run a model in every way there is here and compare the bits
    Certify(certify::Arguments),
    /// Turn texts into token ids
    Tokenize(tokenize::Arguments),
    /// Render chat templates
    Render(render::Arguments),
    /// Write the logits of prompts given as token ids
    Logits(logits::Arguments),
    /// Turn texts into vectors, with a model that only reads
    Embed(embed::Arguments),
    /// Show what of documents would be sent with a question
    Excerpts(excerpts::Arguments),
    /// Show personal data, keys and passwords in a text
    Pii(pii::Arguments),
    /// Check, explain and test what may leave this machine
    #[command(subcommand)]
    Policy(policy::Command),
    /// Show what left this machine, to whom, for what, in bytes
    Egress(egress::Arguments),
    /// Show how much of a text can be read back from what a split sends to another machine
    PrivacyReport(privacy_report::Arguments),
    /// Check receipts of answers
    #[command(subcommand)]
    Receipt(receipt::Command),
    /// List, show, import, pull and remove models
    #[command(subcommand)]
    Models(models::Command),
    /// Show or remove the caches of earlier prompts that lie on disk
    #[command(subcommand)]
    Cache(cache::Command),
    /// Write a model in another format, as a GGUF file
    Quantize(quantize::Arguments),
    /// Say what this machine is, how fast its memory is, and what fits
    Doctor(doctor::Arguments),
    /// Print the completion script of a shell
    Completions(completions::Arguments),
    /// Print the manual page, or write one per command into a folder
    Man(man::Arguments),
    /// Be the guard of another one's connections, on the socket that is standard input
    #[command(hide = true)]
    EgressGuard(egress_guard::Arguments),
}

/// Whether an answer of so many tokens at most is one.
pub(crate) fn has_room(max_tokens: usize) -> Result<(), Failure> {
    match max_tokens {
        0 => Err(
            Failure::new(Exit::Usage, "--max-tokens 0 leaves no room for an answer")
                .hint("an answer has one token at the least"),
        ),
        _ => Ok(()),
    }
}

/// A count that nothing is not one of.
pub(crate) fn count(text: &str) -> Result<NonZeroUsize, String> {
    text.parse()
        .map_err(|_| "a whole number from 1 on is needed".to_owned())
}
