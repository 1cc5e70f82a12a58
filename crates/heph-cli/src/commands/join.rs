//! `heph join`: meet a machine whose ticket one has.

use std::io::{self, Write};
use std::time::Duration;

use heph_net::ticket::Ticket;
use heph_net::trust::Peer;
use heph_runtime::network::Network;
use heph_runtime::settings::Settings;
use heph_types::{NodeId, Role};
use serde::Serialize;

use crate::failure::{ANOTHER_TICKET, Exit, Failure};
use crate::machine;

/// How long the other machine may take to answer: with the goodbye it stays below ten seconds.
const DEADLINE: Duration = Duration::from_secs(8);

/// How long the goodbye may take.
const GOODBYE: Duration = Duration::from_secs(1);

/// Meet a machine whose ticket you have: afterwards each stands in the other's list of peers.
#[derive(Debug, clap::Args)]
#[command(after_help = "`heph node` on the other machine prints the ticket. It works once, and for an hour.")]
pub(crate) struct Arguments {
    /// What `heph node` printed there; line breaks do no harm
    #[arg(required = true, num_args = 1.., value_name = "TICKET")]
    ticket: Vec<String>,
    /// What the machine is to you: own, cloud, miner or edge
    #[arg(long, default_value = "own")]
    role: Role,
    /// What to call the machine, instead of what it calls itself
    #[arg(long, value_parser = machine::name)]
    name: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What a script reads.
#[derive(Debug, Serialize)]
struct Report<'a> {
    node: String,
    name: &'a str,
    role: Role,
}

/// Redeems the ticket.
pub(crate) fn run(arguments: &Arguments, settings: &Settings) -> Result<(), Failure> {
    let ticket: Ticket = arguments
        .ticket
        .concat()
        .parse()
        .map_err(|e: heph_net::ticket::TicketError| {
            Failure::new(Exit::Usage, e.to_string()).hint(ANOTHER_TICKET)
        })?;
    let network = Network::start(machine::asking(settings, &[]))?;
    let met = network
        .block_on(network.join(&ticket, DEADLINE))
        .map_err(Failure::from);
    let met = met.and_then(|peer| enter(&network, peer, arguments));
    let others = met.as_ref().map_or(Vec::new(), |peer| namesakes(&network, peer));
    network.close(GOODBYE);
    let peer = met?;
    let mut out = io::stdout().lock();
    if arguments.json {
        let report = Report {
            node: peer.node.to_string(),
            name: &peer.name,
            role: peer.role,
        };
        serde_json::to_writer(&mut out, &report).map_err(io::Error::from)?;
        return Ok(writeln!(out)?);
    }
    writeln!(
        out,
        "{} ({}) is one of your peers now, as {}.",
        peer.name,
        peer.node.short(),
        peer.role
    )?;
    for other in others {
        writeln!(
            out,
            "Another of your peers has that name, too: if it is this one before it was set up anew, heph peers forget {} strikes it out.",
            other.short()
        )?;
    }
    Ok(writeln!(
        out,
        "heph peers shows them; heph run \"...\" uses them where that is faster."
    )?)
}

/// Pairing enters a machine as one's own; the person may know better.
fn enter(network: &Network, peer: Peer, arguments: &Arguments) -> Result<Peer, Failure> {
    let peer = Peer {
        role: arguments.role,
        name: arguments.name.clone().unwrap_or_else(|| peer.name.clone()),
        ..peer
    };
    network.remember(peer.clone())?;
    Ok(peer)
}

/// Others of its name.
fn namesakes(network: &Network, peer: &Peer) -> Vec<NodeId> {
    let known = network.peers().unwrap_or_default().into_iter();
    let same = known.filter(|other| other.name == peer.name && other.node != peer.node);
    same.map(|other| other.node).collect()
}
