//! Asks the peers of the book what they are, all at once, and how fast the ways to them are where that is not known.

use std::collections::VecDeque;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use heph_net::endpoint::Way;
use heph_net::trust;
use heph_types::{LinkProfile, NodeProfile};

use super::{Machine, NodePool, by_name};
use crate::cancel::Cancel;
use crate::hails::{self, Hail};
use crate::network::{Network, seconds_since_1970};
use crate::peer::Peer;
use crate::seat::SeatError;
use crate::ways;

/// Peers that are asked at the same time, each by a thread that waits.
const ASKED_AT_ONCE: usize = 32;

/// How often somebody who waits looks whether to stop.
const CANCEL_LOOK: Duration = Duration::from_millis(50);

/// Of what is left of a wait once a peer answers, what its way may be measured for. A way of 3 Mbit/s takes three
/// seconds to be looked at twice, and whoever answered would be taken for silent.
const MEASURED_FOR: f64 = 0.75;

/// Bytes a second that a way is taken to carry each way until somebody has measured it: 100 Mbit/s.
const GOODPUT_USUAL: f64 = 12.5e6;

/// The same inside one machine.
const GOODPUT_LOOPBACK: f64 = 1e9;

/// A peer that was asked.
pub struct Contact {
    /// What the book says.
    pub peer: trust::Peer,
    /// What came of it; else why it is away, as one sentence.
    pub reached: Result<Reached, String>,
    /// Since when it says nothing, in seconds since 1970, where it did not the last time either.
    pub silent_since: Option<u64>,
}

/// A peer that answered.
pub struct Reached {
    /// What it says of itself, where that is for it to say.
    pub profile: NodeProfile,
    /// One small message there and back.
    pub rtt: Duration,
    /// Whether packets go through a relay.
    pub relayed: bool,
    /// The way there, as measured.
    pub link: LinkProfile,
    host: Peer,
}

/// How long peers are waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waits {
    /// Each as long as any may take: somebody wants it.
    ToTheEnd,
    /// Each as long as it is worth by what came of asking it before. Who answers later is met beside whatever goes on by then, and
    /// is known the next time.
    AsWorth,
}

/// Asks each of `known` what it is, and waits no longer than `deadline` for any. In their order.
pub fn contacts(network: &Network, known: &[trust::Peer], deadline: Duration) -> Vec<Contact> {
    Hailing::start(network, known.to_vec(), deadline).wait(Waits::ToTheEnd)
}

/// Peers that are being asked, each for as long as `deadline` whoever waits for them.
pub struct Hailing {
    network: Network,
    known: Vec<trust::Peer>,
    hails: Vec<Option<Hail>>,
    deadline: Duration,
    now: u64,
    began: Instant,
    heard: Receiver<(usize, Heard)>,
}

/// What is heard of a peer that is asked.
enum Heard {
    /// It is asked since then.
    Asked(Instant),
    /// It answered, and the way there is being measured.
    Answers,
    /// That is what came of it.
    Told(Box<Result<Reached, String>>),
}

impl Hailing {
    /// Asks each of `known` what it is, those first who did not stay silent the last time.
    pub fn start(network: &Network, known: Vec<trust::Peer>, deadline: Duration) -> Hailing {
        let now = seconds_since_1970();
        let hails: Vec<Option<Hail>> = known.iter().map(|peer| network.hails().of(peer.node)).collect();
        let mut order: Vec<usize> = (0..known.len()).collect();
        order.sort_by_key(|at| hails[*at].is_some_and(|hail| hail.is_silent(now)));
        let waiting: VecDeque<(usize, trust::Peer)> =
            order.into_iter().map(|at| (at, known[at].clone())).collect();
        let (tell, heard) = mpsc::channel();
        let threads = waiting.len().min(ASKED_AT_ONCE);
        let waiting = Arc::new(Mutex::new(waiting));
        for _ in 0..threads {
            let (network, waiting, tell) = (network.clone(), Arc::clone(&waiting), tell.clone());
            let next = move || waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let asks = move || {
                while let Some((at, peer)) = next().filter(|_| !network.is_closed()) {
                    let told = ask(&network, &peer, deadline, |heard| drop(tell.send((at, heard))));
                    // Whoever waited may have gone; what came of it is kept for the next time.
                    let _ = tell.send((at, Heard::Told(Box::new(told))));
                }
            };
            // Those whom no thread asks are told to be away.
            let _ = std::thread::Builder::new()
                .name("heph-hail".to_owned())
                .spawn(asks);
        }
        Hailing {
            network: network.clone(),
            known,
            hails,
            deadline,
            now,
            began: Instant::now(),
            heard,
        }
    }

    /// What came of it, in their order.
    pub fn wait(self, waits: Waits) -> Vec<Contact> {
        self.wait_unless(waits, &Cancel::new())
    }

    /// What came of it until then, where `cancel` is raised meanwhile.
    pub fn wait_unless(self, waits: Waits, cancel: &Cancel) -> Vec<Contact> {
        let patience = |at: usize| match waits {
            Waits::ToTheEnd => self.deadline,
            Waits::AsWorth => hails::patience(self.hails[at], self.now, self.deadline),
        };
        let silent = |at: usize| self.hails[at].is_some_and(|hail| hail.is_silent(self.now));
        // Until when each is waited for; `None` for those whose turn has not come, and who are worth waiting for.
        let first = |at| (waits == Waits::AsWorth && silent(at)).then(|| self.began + patience(at));
        let mut until: Vec<Option<Instant>> = (0..self.known.len()).map(first).collect();
        let mut told: Vec<Option<Result<Reached, String>>> = self.known.iter().map(|_| None).collect();
        let mut is_stopped = false;
        loop {
            let waited = (0..self.known.len()).filter(|at| told[*at].is_none());
            // The least is a turn that has not come: there is always somebody before it.
            let last = waited
                .map(|at| until[at].ok_or(()))
                .collect::<Result<Vec<_>, ()>>();
            let left = match last {
                Ok(untils) => {
                    let Some(last) = untils.into_iter().max() else {
                        break;
                    };
                    last.saturating_duration_since(Instant::now())
                }
                Err(()) => Duration::MAX,
            };
            if cancel.is_raised() {
                is_stopped = true;
                break;
            }
            let heard = match self.heard.recv_timeout(left.min(CANCEL_LOOK)) {
                Ok(heard) => Some(heard),
                Err(RecvTimeoutError::Timeout) if left > CANCEL_LOOK => continue,
                Err(_) => None,
            };
            match heard {
                Some((at, Heard::Asked(since))) => until[at] = Some(since + patience(at)),
                Some((at, Heard::Answers)) => {
                    until[at] = until[at].map(|until| until - patience(at) + self.deadline);
                }
                Some((at, Heard::Told(came))) => told[at] = Some(*came),
                None => break,
            }
        }
        let unheard = |at: &usize| !is_stopped && told[*at].is_none() && !silent(*at);
        for at in (0..self.known.len()).filter(unheard) {
            // Whoever waits ends before it may answer after all, which would be heard, too.
            self.network.hails().silent(self.known[at].node, self.now);
        }
        let not_yet = |at: usize| {
            let waited = patience(at).as_millis();
            format!("it says nothing within {waited} ms{}", by_relay(&self.known[at]))
        };
        let since = |at: usize| self.hails[at].and_then(|hail| Some(hail.silent?.since_unix_s));
        let contact = |(at, (peer, told)): (usize, (trust::Peer, Option<Result<Reached, String>>))| {
            let reached = told.unwrap_or_else(|| Err(not_yet(at)));
            let silent_since = since(at).filter(|_| reached.is_err());
            let reached = reached.map_err(|why| match silent_since {
                Some(since) => format!("{why}, and has said nothing for {}", ago(self.now, since)),
                None => why,
            });
            Contact {
                peer,
                reached,
                silent_since,
            }
        };
        let peers = self.known.iter().cloned().zip(told);
        peers.enumerate().map(contact).collect()
    }
}

/// By which relay a machine was asked for, too, behind what is said of its silence.
fn by_relay(known: &trust::Peer) -> String {
    let relay = known.address.relay.as_ref();
    relay.map_or_else(String::new, |relay| format!(", {}", relay.in_vain()))
}

/// How long ago it was, as people say it.
fn ago(now: u64, since: u64) -> String {
    match now.saturating_sub(since) {
        seconds @ 0..=119 => format!("{seconds} s"),
        seconds @ 120..=7_199 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3_600),
    }
}

fn ask(
    network: &Network,
    known: &trust::Peer,
    deadline: Duration,
    tell: impl Fn(Heard),
) -> Result<Reached, String> {
    let began = Instant::now();
    tell(Heard::Asked(began));
    let host = Peer::new(network, known.node);
    let probe = host.probe(deadline).map_err(|error| {
        // One that a closed network does not reach is not silent.
        let is_late = matches!(error, SeatError::Late { .. });
        if is_late && !network.is_closed() {
            network.hails().silent(known.node, seconds_since_1970());
        }
        let asked = if is_late { by_relay(known) } else { String::new() };
        by_name(&(error.without_name() + &asked), known.node, &known.name)
    })?;
    let (took, now) = (began.elapsed(), seconds_since_1970());
    network.hails().answered(known.node, took, now);
    let silent = || "it is there and lends nothing, or in a version that is not known here".to_owned();
    let profile = as_the_book_says(probe.profile.ok_or_else(silent)?, known)?;
    if network.ways().is_old(known.node, now) {
        tell(Heard::Answers);
        let share = deadline.saturating_sub(began.elapsed()).mul_f64(MEASURED_FOR);
        let (tell, told) = mpsc::channel();
        let (machine, node) = (network.clone(), known.node);
        network.spawn(async move {
            // Whoever waited may have gone.
            let _ = tell.send(ways::measure(&machine, node, share).await.is_ok());
        });
        // A way that takes longer is known the next time.
        let _ = told.recv_timeout(share);
    }
    let rtt = probe.round_trip.unwrap_or_default();
    Ok(Reached {
        profile,
        rtt,
        link: link_to(network, known, rtt),
        relayed: probe.way == Some(Way::Relayed),
        host,
    })
}

/// A machine's word counts for what it can do, where that can be. Who it is, and what it is to this person, the book says.
fn as_the_book_says(said: NodeProfile, known: &trust::Peer) -> Result<NodeProfile, String> {
    let profile = NodeProfile {
        node: known.node,
        name: known.name.clone(),
        role: known.role,
        ..said
    };
    match heph_plan::believable(&profile) {
        Ok(()) => Ok(profile),
        Err(cannot) => Err(format!("what it says of itself makes no sense: {cannot}")),
    }
}

impl NodePool {
    /// With every machine that was reached.
    pub fn among(self, contacts: &[Contact]) -> Self {
        contacts
            .iter()
            .fold(self, |pool, contact| match &contact.reached {
                Ok(reached) => pool.with(machine(reached)),
                Err(_) => pool,
            })
    }
}

fn machine(reached: &Reached) -> Machine {
    Machine {
        profile: reached.profile.clone(),
        link: reached.link,
        host: Arc::new(reached.host.clone()),
    }
}

/// The way to a peer at a round trip that was just measured: its rates as they were measured last, else assumed.
pub(super) fn link_to(network: &Network, peer: &trust::Peer, rtt: Duration) -> LinkProfile {
    let direct = &peer.address.direct;
    let near = !direct.is_empty() && direct.iter().all(|socket| socket.ip().is_loopback());
    let assumed = if near { GOODPUT_LOOPBACK } else { GOODPUT_USUAL };
    let measured = network.ways().to(peer.node);
    LinkProfile {
        rtt,
        up: measured.map_or(assumed, |way| way.up),
        down: measured.map_or(assumed, |way| way.down),
        loss: 0.0,
    }
}

#[cfg(test)]
mod tests {
    use heph_net::address::NodeAddress;
    use heph_types::{NodeId, Role};

    use super::*;
    use crate::pool::testing::profile;

    #[test]
    fn a_peer_cannot_say_that_it_is_somebody_else_or_ones_own() {
        let known = trust::Peer {
            node: NodeId([1; 32]),
            role: Role::Miner,
            name: "stranger".to_owned(),
            since: 0,
            address: NodeAddress::default(),
        };
        let lie = NodeProfile {
            name: "tower".to_owned(),
            ..profile(NodeId([2; 32]), Role::Own)
        };
        let believed = as_the_book_says(lie.clone(), &known).expect("it can be");
        let who = (believed.node, believed.role, believed.name.as_str());
        assert_eq!(who, (NodeId([1; 32]), Role::Miner, "stranger"));
        assert_eq!(believed.speed, lie.speed);
        // One that says what cannot be is left out, and nobody else's plan fails for it.
        let lies: [fn(&mut NodeProfile); 4] = [
            |said| said.speed.bytes_per_second = 0.0,
            |said| said.speed.flops_per_second = 1e-300,
            |said| said.queue = Duration::MAX,
            |said| said.price.answer_token = -1.0,
        ];
        for (at, tells) in lies.into_iter().enumerate() {
            let mut said = lie.clone();
            tells(&mut said);
            let why = as_the_book_says(said, &known).expect_err("it cannot be");
            assert!(why.contains("stranger cannot be"), "{at}: {why}");
        }
    }
}
