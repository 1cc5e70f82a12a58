//! `heph peers`: who this machine knows, and who of them is there.

mod watch;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::Duration;

use heph_net::trust::{Peer, TrustBook};
use heph_runtime::bundled;
use heph_runtime::network::Network;
use heph_runtime::pool::{Contact, contacts};
use heph_runtime::settings::Settings;
use heph_runtime::store::Store;
use heph_types::{ModelHash, NodeId, NodeProfile, NodeState, Role};
use serde::Serialize;

use crate::explain;
use crate::failure::{Exit, Failure};
use crate::machine;
use crate::terminal::{self, Style};

/// How long a peer may take to answer.
const DEADLINE: Duration = Duration::from_secs(3);

/// How long the goodbye may take.
const GOODBYE: Duration = Duration::from_secs(1);

/// Show the machines you met, and which of them are there; or change the list.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Arguments {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Do not ask them: show what the list says
    #[arg(long)]
    offline: bool,
    /// Show them again whenever somebody comes, goes or falls silent, until Ctrl-C; with --json a line each time
    #[arg(long, conflicts_with = "offline")]
    watch: bool,
    #[command(subcommand)]
    change: Option<Change>,
}

/// What can be done with a peer.
#[derive(Debug, clap::Subcommand)]
enum Change {
    /// Strike a machine out: from now on it is a stranger
    Forget {
        /// Its name, or the beginning of its id
        peer: String,
    },
    /// Say what a machine is to you: own, cloud, miner or edge
    Role {
        /// Its name, or the beginning of its id
        peer: String,
        /// What it is
        role: Role,
    },
    /// Call a machine something else
    Name {
        /// Its name, or the beginning of its id
        peer: String,
        /// What to call it
        #[arg(value_parser = machine::name)]
        name: String,
    },
}

/// What a script reads of a peer.
#[derive(Debug, Serialize)]
struct Line<'a> {
    node: NodeId,
    name: &'a str,
    role: Role,
    addresses: Vec<String>,
    since_unix_s: u64,
    /// `here`, `away` or, where nobody was asked, nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rtt_ms: Option<f64>,
    /// Bytes of payload a second away from here and towards here, as measured last.
    #[serde(skip_serializing_if = "Option::is_none")]
    up_bytes_per_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    down_bytes_per_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    profile: Option<&'a NodeProfile>,
    #[serde(skip_serializing_if = "Option::is_none")]
    why_away: Option<&'a str>,
    /// Since when it says nothing, as far as it was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    silent_since_unix_s: Option<u64>,
}

/// Shows or changes the list.
pub(crate) fn run(arguments: &Arguments, settings: &Settings) -> Result<(), Failure> {
    match &arguments.change {
        None if arguments.watch => watch::run(arguments.json, settings),
        None => show(arguments, settings),
        Some(Change::Forget { peer }) => {
            let (mut book, known) = find(peer, settings)?;
            book.forget(known.node)?;
            said(&format!("{} is a stranger again", known.name))
        }
        Some(Change::Role { peer, role }) => {
            let (mut book, known) = find(peer, settings)?;
            let sentence = format!("{} is {role} now", known.name);
            book.remember(Peer { role: *role, ..known })?;
            said(&sentence)
        }
        Some(Change::Name { peer, name }) => {
            let (mut book, known) = find(peer, settings)?;
            let other = |other: &&Peer| other.node != known.node && other.name == *name;
            if let Some(other) = book.peers().iter().find(other) {
                let sentence = format!("another peer is called {name}: {}", other.node.short());
                return Err(Failure::new(Exit::Usage, sentence).hint("each needs a name of its own"));
            }
            let sentence = format!("{} is called {name} now", known.name);
            let name = name.clone();
            book.remember(Peer { name, ..known })?;
            said(&sentence)
        }
    }
}

fn find(word: &str, settings: &Settings) -> Result<(TrustBook, Peer), Failure> {
    let book = TrustBook::open(&settings.home)?;
    let fitting = book.called(word);
    let known = match fitting[..] {
        [known] => known.clone(),
        [] => {
            let nobody = Failure::new(Exit::Usage, format!("no peer is called {word:?}"));
            return Err(nobody.hint("`heph peers` shows who is known"));
        }
        _ => {
            let ids: Vec<String> = fitting.iter().map(|peer| peer.node.short()).collect();
            let sentence = format!("{} peers are called {word:?}: {}", ids.len(), ids.join(", "));
            return Err(Failure::new(Exit::Usage, sentence).hint("say which by the beginning of its id"));
        }
    };
    Ok((book, known))
}

fn said(sentence: &str) -> Result<(), Failure> {
    Ok(writeln!(io::stdout().lock(), "{sentence}")?)
}

fn show(arguments: &Arguments, settings: &Settings) -> Result<(), Failure> {
    let known = TrustBook::open(&settings.home)?.peers().to_vec();
    let found = match arguments.offline || known.is_empty() {
        true => None,
        false => {
            let network = Network::start(machine::asking(settings, &[]))?;
            let found = contacts(&network, &known, DEADLINE);
            network.close(GOODBYE);
            Some(found)
        }
    };
    let contact = |at: usize| found.as_ref().map(|found| &found[at]);
    let mut out = io::stdout().lock();
    if arguments.json {
        let lines: Vec<_> = known
            .iter()
            .enumerate()
            .map(|(at, peer)| line(peer, contact(at)))
            .collect();
        serde_json::to_writer_pretty(&mut out, &lines).map_err(io::Error::from)?;
        return Ok(writeln!(out)?);
    }
    if known.is_empty() {
        return Ok(writeln!(
            out,
            "nobody yet: `heph node` on another machine prints a ticket for `heph join`"
        )?);
    }
    let names = names(settings);
    for (at, peer) in known.iter().enumerate() {
        write_peer(&mut out, peer, contact(at), &names)?;
    }
    Ok(())
}

fn line<'a>(peer: &'a Peer, contact: Option<&'a Contact>) -> Line<'a> {
    let reached = contact.and_then(|contact| contact.reached.as_ref().ok());
    Line {
        node: peer.node,
        name: &peer.name,
        role: peer.role,
        addresses: addresses(peer),
        since_unix_s: peer.since,
        state: contact.map(|contact| if contact.reached.is_ok() { "here" } else { "away" }),
        rtt_ms: reached.map(|reached| reached.rtt.as_secs_f64() * 1e3),
        up_bytes_per_s: reached.map(|reached| reached.link.up),
        down_bytes_per_s: reached.map(|reached| reached.link.down),
        profile: reached.map(|reached| &reached.profile),
        why_away: contact
            .and_then(|contact| contact.reached.as_ref().err())
            .map(String::as_str),
        silent_since_unix_s: contact.and_then(|contact| contact.silent_since),
    }
}

fn addresses(peer: &Peer) -> Vec<String> {
    let direct = peer.address.direct.iter().map(ToString::to_string);
    direct
        .chain(peer.address.relay.iter().map(ToString::to_string))
        .collect()
}

fn write_peer(
    out: &mut impl Write,
    peer: &Peer,
    contact: Option<&Contact>,
    names: &BTreeMap<ModelHash, String>,
) -> io::Result<()> {
    let style = Style::of_stdout();
    let address = addresses(peer)
        .into_iter()
        .next()
        .unwrap_or_else(|| "address unknown".to_owned());
    write!(
        out,
        "{:<20} {:<6} {}  {address:<22}",
        peer.name,
        peer.role.name(),
        peer.node.short()
    )?;
    match contact.map(|contact| &contact.reached) {
        None => writeln!(out),
        Some(Err(why)) => writeln!(out, " {}\n{:>21}{}", style.red("away"), "", style.dim(why)),
        Some(Ok(reached)) => {
            let rtt = explain::seconds(reached.rtt.as_secs_f64());
            let profile = &reached.profile;
            let state = state_words(profile.state, style);
            let way = if reached.relayed { ", through a relay" } else { "" };
            let memory = terminal::bytes(profile.memory_usable());
            let rate = terminal::bytes(reached.link.up.min(reached.link.down) as u64);
            writeln!(out, " {state}, {rtt} away{way}, {rate}/s, {memory}")?;
            for held in &profile.holds {
                let name = names.get(&held.model).cloned();
                let name = name.unwrap_or_else(|| format!("model {}", NodeId(held.model.0).short()));
                writeln!(
                    out,
                    "{:>21}{name}, layers {}..{}",
                    "",
                    held.layers.start(),
                    held.layers.end()
                )?;
            }
            Ok(())
        }
    }
}

fn state_words(state: NodeState, style: Style) -> String {
    match state {
        NodeState::Open => style.green("here"),
        NodeState::OutOfHours => style.dim("outside its hours"),
        NodeState::OwnerWorks => style.dim("paused, its owner works"),
        NodeState::Leaving => style.dim("leaving"),
    }
}

/// What the models that lie on this machine are called.
fn names(settings: &Settings) -> BTreeMap<ModelHash, String> {
    let store = Store::new(&settings.models);
    let stored = store.list().unwrap_or_default().into_iter().flatten();
    let stored = stored.map(|record| record.name.to_string());
    let all = bundled::ALL
        .iter()
        .map(|model| model.name.to_owned())
        .chain(stored);
    all.filter_map(|name| Some((store.find(&name).ok()?.model_hash().ok()?, name)))
        .collect()
}
