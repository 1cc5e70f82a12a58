//! The commands, one file each, all of one shape: `Arguments`, then `run`.

use heph_runtime::settings::Settings;
use heph_runtime::{guard, seal};

use crate::arguments::{Arguments, Command};
use crate::failure::Failure;

pub(crate) mod bench;
pub(crate) mod cache;
pub(crate) mod certify;
pub(crate) mod chat;
pub(crate) mod completions;
pub(crate) mod demo;
pub(crate) mod doctor;
pub(crate) mod egress;
pub(crate) mod egress_guard;
pub(crate) mod embed;
pub(crate) mod excerpts;
pub(crate) mod join;
pub(crate) mod logits;
pub(crate) mod man;
pub(crate) mod mcp;
pub(crate) mod models;
pub(crate) mod node;
pub(crate) mod pairing;
pub(crate) mod peers;
pub(crate) mod pii;
pub(crate) mod plan;
pub(crate) mod policy;
pub(crate) mod privacy_report;
pub(crate) mod providers;
pub(crate) mod quantize;
pub(crate) mod read;
pub(crate) mod receipt;
pub(crate) mod relay;
pub(crate) mod render;
pub(crate) mod run;
pub(crate) mod serve;
pub(crate) mod tokenize;

/// Runs the command that was typed. One that asks nobody else gives up the network first.
pub(crate) fn run(arguments: Arguments, settings: &Settings) -> Result<(), Failure> {
    if asks_nobody(&arguments.command, settings)? {
        // What this says is in `heph doctor`; where there is no such filter, the command asks nobody all the same.
        seal::process();
    } else if !matches!(arguments.command, Command::EgressGuard(_)) {
        guard::begin_with();
        if !has_sockets(&arguments.command) {
            // What is wanted of the network is the guard's. What this says is in `heph doctor` too.
            seal::outward();
        }
    }
    match arguments.command {
        Command::Demo(arguments) => demo::run(&arguments, settings),
        Command::Chat(arguments) => chat::run(&arguments, settings),
        Command::Run(arguments) => run::run(&arguments, settings),
        Command::Serve(arguments) => serve::run(&arguments, settings),
        Command::Read(arguments) => read::run(&arguments, settings),
        Command::Plan(arguments) => plan::run(&arguments, settings),
        Command::Node(arguments) => node::run(&arguments, settings),
        Command::Join(arguments) => join::run(&arguments, settings),
        Command::Mcp(arguments) => mcp::run(&arguments, settings),
        Command::Pairing(command) => pairing::run(command, settings),
        Command::Peers(arguments) => peers::run(&arguments, settings),
        Command::Providers(arguments) => providers::run(&arguments, settings),
        Command::Relay(arguments) => relay::run(&arguments, settings),
        Command::Tokenize(arguments) => tokenize::run(&arguments, settings),
        Command::Render(arguments) => render::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments, settings),
        Command::Certify(arguments) => certify::run(&arguments, settings),
        Command::Logits(arguments) => logits::run(&arguments, settings),
        Command::Embed(arguments) => embed::run(&arguments, settings),
        Command::Excerpts(arguments) => excerpts::run(&arguments, settings),
        Command::Models(command) => models::run(command, settings),
        Command::Cache(command) => cache::run(&command, settings),
        Command::Pii(arguments) => pii::run(&arguments),
        Command::Policy(command) => policy::run(command, settings),
        Command::Egress(arguments) => egress::run(&arguments, settings),
        Command::PrivacyReport(arguments) => privacy_report::run(&arguments, settings),
        Command::Receipt(command) => receipt::run(command),
        Command::Quantize(arguments) => quantize::run(&arguments, settings),
        Command::Doctor(arguments) => doctor::run(&arguments, settings),
        Command::Completions(arguments) => completions::run(&arguments),
        Command::Man(arguments) => man::run(&arguments),
        Command::EgressGuard(arguments) => egress_guard::run(&arguments, settings),
    }
}

/// Whether a command makes sockets of the internet itself: a relay, which is nothing else. Machines, providers, hubs, servers of tools and the
/// engine behind a node are the guard's to reach. The doctor gives up the network as a whole.
fn has_sockets(command: &Command) -> bool {
    matches!(
        command,
        Command::Relay(_) | Command::Doctor(_) | Command::EgressGuard(_)
    )
}

/// Whether a command opens no socket, as it was typed.
fn asks_nobody(command: &Command, settings: &Settings) -> Result<bool, Failure> {
    Ok(match command {
        Command::Chat(arguments) => arguments.place.stays_here(settings)?,
        // A receipt is signed with the key of this machine, which the system's key store may have.
        Command::Run(arguments) => arguments.receipt.is_none() && arguments.place.stays_here(settings)?,
        Command::Read(arguments) => arguments.place.stays_here(settings)?,
        Command::Plan(arguments) => arguments.place.stays_here(settings)?,
        Command::Models(command) => !matches!(command, models::Command::Pull(_)),
        Command::Tokenize(_)
        | Command::Render(_)
        | Command::Bench(_)
        | Command::Certify(_)
        | Command::Logits(_)
        | Command::Embed(_)
        | Command::Excerpts(_)
        | Command::Cache(_)
        | Command::Pii(_)
        | Command::Policy(_)
        | Command::PrivacyReport(_)
        | Command::Egress(_)
        | Command::Receipt(_)
        | Command::Quantize(_)
        | Command::Completions(_)
        | Command::Man(_) => true,
        // Where this machine's key lies is asked of the system's key store; the doctor gives up the network after that.
        Command::Doctor(_) => false,
        Command::Demo(_)
        | Command::Serve(_)
        | Command::Node(_)
        | Command::Join(_)
        | Command::Mcp(_)
        | Command::Pairing(_)
        | Command::Peers(_)
        | Command::Providers(_)
        | Command::Relay(_)
        | Command::EgressGuard(_) => false,
    })
}
