//! `heph peers --watch`: who is there, as it changes.

use std::collections::BTreeSet;
use std::io::{self, IsTerminal, Write};
use std::sync::mpsc;
use std::time::{Duration, Instant, SystemTime};

use heph_net::transfer::PROBE_DEADLINE;
use heph_runtime::members::{Follow, Load, Member, Presence};
use heph_runtime::network::seconds_since_1970;
use heph_runtime::settings::Settings;
use heph_runtime::ways::{self, Measured};
use heph_types::{NodeId, NodeProfile, NodeState, Role};
use serde::Serialize;

use super::{addresses, state_words};
use crate::explain;
use crate::failure::Failure;
use crate::machine::{self, Joined};
use crate::terminal::{self, Style};

/// How often a watch looks whether it should stop.
const LOOK: Duration = Duration::from_millis(250);

/// How long machines may take to be heard before those that were not are shown as away.
const FIRST_WITHIN: Duration = Duration::from_secs(1);

/// Round trips and counters are shown anew this often where nothing else changes.
const SHOW_EVERY: Duration = Duration::from_secs(2);

/// What a script reads of a peer.
#[derive(Debug, Serialize)]
struct Line<'a> {
    node: NodeId,
    name: &'a str,
    role: Role,
    addresses: Vec<String>,
    /// `here`, `suspect` or `away`.
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    rtt_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    way: Option<Measured>,
    #[serde(skip_serializing_if = "Option::is_none")]
    load: Option<Load>,
    #[serde(skip_serializing_if = "Option::is_none")]
    profile: Option<&'a NodeProfile>,
}

/// Shows everybody again whenever something changes, until Ctrl-C.
pub(super) fn run(json: bool, settings: &Settings) -> Result<(), Failure> {
    let cancel = terminal::cancel_on_ctrl_c()?;
    let network = Joined::start(machine::asking(settings, &[]))?;
    let (tell, told) = mpsc::sync_channel(1);
    network.members().follow(move |all| match tell.try_send(all) {
        Err(mpsc::TrySendError::Disconnected(_)) => Follow::Enough,
        // What finds no room is told with what comes next.
        Ok(()) | Err(mpsc::TrySendError::Full(_)) => Follow::On,
    });
    let mut asked = BTreeSet::new();
    let mut shown: Option<(Vec<(NodeId, Presence)>, SystemTime)> = None;
    let began = Instant::now();
    let mut last = None;
    while !cancel.is_raised() {
        let heard = told.recv_timeout(LOOK).ok();
        if heard.is_none() && shown.is_some() {
            continue;
        }
        last = heard.or(last);
        let Some(members) = &last else { continue };
        // Who has not been heard yet may be about to answer.
        let all_here = members.iter().all(|member| member.presence == Presence::Here);
        if shown.is_none() && !all_here && began.elapsed() < FIRST_WITHIN {
            continue;
        }
        let standing: Vec<_> = members.iter().map(|m| (m.peer.node, m.presence)).collect();
        let old = |at: &SystemTime| at.elapsed().is_ok_and(|age| age >= SHOW_EVERY);
        let news = shown
            .as_ref()
            .is_none_or(|(before, at)| *before != standing || old(at));
        if news {
            show(json, &network, members)?;
            shown = Some((standing, SystemTime::now()));
        }
        measure_one(&network, members, &mut asked);
    }
    Ok(())
}

/// Measures the way to one peer that is here and whose way is not known or was long ago; each once a watch.
fn measure_one(network: &Joined, members: &[Member], asked: &mut BTreeSet<NodeId>) {
    let wanted = |member: &&Member| {
        let node = member.peer.node;
        member.presence == Presence::Here
            && network.ways().is_old(node, seconds_since_1970())
            && !asked.contains(&node)
    };
    if let Some(node) = members.iter().find(wanted).map(|member| member.peer.node) {
        asked.insert(node);
        let machine = (**network).clone();
        // A way that cannot be measured is shown without.
        network.spawn(async move { ways::measure(&machine, node, PROBE_DEADLINE).await.is_ok() });
    }
}

fn show(json: bool, network: &Joined, members: &[Member]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    let way = |member: &Member| network.ways().to(member.peer.node);
    if json {
        let lines: Vec<_> = members.iter().map(|member| line(member, way(member))).collect();
        serde_json::to_writer(&mut out, &lines).map_err(io::Error::from)?;
        writeln!(out)?;
        return Ok(out.flush()?);
    }
    if io::stdout().is_terminal() {
        // From the top again, and nothing of before below.
        write!(out, "\x1b[H\x1b[J")?;
    }
    for member in members {
        write_member(&mut out, member, way(member))?;
    }
    if !io::stdout().is_terminal() {
        writeln!(out)?;
    }
    Ok(out.flush()?)
}

fn line(member: &Member, way: Option<Measured>) -> Line<'_> {
    Line {
        node: member.peer.node,
        name: &member.peer.name,
        role: member.peer.role,
        addresses: addresses(&member.peer),
        state: match member.presence {
            Presence::Here => "here",
            Presence::Suspect => "suspect",
            Presence::Away => "away",
        },
        rtt_ms: member.round_trip.map(|rtt| rtt.as_secs_f64() * 1e3),
        way,
        load: member.load,
        profile: member.profile.as_ref(),
    }
}

fn write_member(out: &mut impl Write, member: &Member, way: Option<Measured>) -> io::Result<()> {
    let style = Style::of_stdout();
    let peer = &member.peer;
    let state = match (member.presence, member.profile.as_ref()) {
        (Presence::Away, _) => style.red("away"),
        (Presence::Suspect, _) => style.red("does not answer"),
        (Presence::Here, Some(profile)) => state_words(profile.state, style),
        (Presence::Here, None) => state_words(NodeState::Open, style),
    };
    write!(
        out,
        "{:<20} {:<6} {}  {state}",
        peer.name,
        peer.role.name(),
        peer.node.short()
    )?;
    if let Some(rtt) = member.round_trip {
        write!(out, ", {} away", explain::seconds(rtt.as_secs_f64()))?;
    }
    if let Some(way) = way {
        let rate = |bytes: f64| terminal::bytes(bytes as u64);
        let age = explain::seconds(way.age_s(seconds_since_1970()) as f64);
        write!(
            out,
            ", {}/s up, {}/s down ({age} ago)",
            rate(way.up),
            rate(way.down)
        )?;
    }
    if let Some(load) = member.load {
        let Load {
            sessions,
            sessions_max,
            tokens,
        } = load;
        write!(
            out,
            ", {sessions} of {sessions_max} sessions, {tokens} tokens so far"
        )?;
    }
    writeln!(out)
}
