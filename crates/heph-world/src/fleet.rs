//! Ten thousand machines: which of them a request is planned with, and who serves the next of very many requests.
//!
//! No model runs here. The planner and the balancer are the real ones; what a plan or a request takes is what they
//! expect, a tenth more or less.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use heph_plan::balance::{Ask, Balancer, Seat, SeatStart, Ticket, UserId};
use heph_plan::{Cluster, Peer, Request, plan, shortlist};
use heph_types::{
    LayerProfile, Leaves, LinkProfile, ModelHash, ModelProfile, NodeId, NodeState, Policy, Role,
};

use crate::dice::Dice;
use crate::scene;
use crate::traces::RoundTrips;

/// Machines that a plan is made of.
pub const LISTED: usize = 24;

/// How the machines of a plan are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sieve {
    /// The planner's own.
    Shortlist,
    /// The nearest.
    Nearest,
    /// Any.
    Drawn,
}

/// What came of many plans.
#[derive(Debug, Clone, Default)]
pub struct Planned {
    /// Requests.
    pub requests: usize,
    /// Requests for which there was no plan.
    pub refused: usize,
    /// Expected seconds of each answer, sorted.
    pub seconds: Vec<f64>,
    /// Stages at nodes that may not see what they would.
    pub leaks: usize,
    /// Stages at nodes that take no work.
    pub closed: usize,
}

impl Planned {
    /// Of the answers, in the middle.
    pub fn median(&self) -> f64 {
        self.seconds
            .get(self.seconds.len() / 2)
            .copied()
            .unwrap_or(f64::NAN)
    }
}

/// Plans `requests` one after another over `nodes` machines spread over the world; each plan keeps its machines busy.
pub fn planned(nodes: usize, requests: usize, sieve: Sieve, seed: u64) -> Planned {
    let mut dice = Dice::new(seed);
    let globe = Globe::new(&mut dice);
    let mut fleet = Fleet::drawn(nodes, &globe, &mut dice);
    let request = request();
    let mut told = Planned {
        requests,
        ..Planned::default()
    };
    // So many requests that every machine would be asked about once in ten seconds.
    let rate = nodes as f64 / 10.0 / 8.0;
    let mut now = 0.0;
    for _ in 0..requests {
        now += -(1.0 - dice.share()).ln() / rate;
        let desk = dice.below(globe.places as u64) as usize;
        fleet.look_from(desk, now, &globe);
        let listed = fleet.listed(&request, sieve, &mut dice);
        let Ok(decision) = plan(&request, &listed) else {
            told.refused += 1;
            continue;
        };
        let seconds = decision.plan.expected.total.as_secs_f64();
        told.seconds.push(seconds);
        for stage in decision.plan.remote_stages() {
            let at = which(stage.node);
            let profile = &fleet.cluster.nodes[at].profile;
            let sees = request.policy.seen_by(profile.node, profile.role);
            told.leaks += usize::from(sees < stage.sees);
            told.closed += usize::from(profile.state != NodeState::Open);
            fleet.busy[at] = fleet.busy[at].max(now) + seconds * (0.9 + 0.2 * dice.share());
        }
    }
    told.seconds.sort_by(f64::total_cmp);
    told
}

/// Places on a globe and the times between them: measured ones where the record lies beside the tree.
struct Globe {
    places: usize,
    trips: Option<RoundTrips>,
    at: Vec<[f64; 3]>,
}

/// Places that are drawn where none were measured.
const PLACES: usize = 490;

/// Milliseconds there and back over half the globe, by cable.
const ANTIPODES_MS: f64 = 280.0;

impl Globe {
    fn new(dice: &mut Dice) -> Self {
        let trips = RoundTrips::planetlab().ok();
        let places = trips.as_ref().map_or(PLACES, RoundTrips::places);
        let mut point = |_| {
            let [x, y, z] = [(); 3].map(|()| dice.normal());
            let length = (x * x + y * y + z * z).sqrt().max(1e-9);
            [x / length, y / length, z / length]
        };
        let at = (0..places).map(&mut point).collect();
        Self { places, trips, at }
    }

    fn ms(&self, from: usize, to: usize) -> f64 {
        let measured = self.trips.as_ref().and_then(|trips| trips.between(from, to));
        measured.unwrap_or_else(|| {
            let dot: f64 = (0..3).map(|axis| self.at[from][axis] * self.at[to][axis]).sum();
            2.0 + dot.clamp(-1.0, 1.0).acos() / std::f64::consts::PI * ANTIPODES_MS
        })
    }
}

struct Fleet {
    cluster: Cluster,
    place: Vec<usize>,
    /// What its owner's line adds to every way, in seconds.
    last_mile: Vec<f64>,
    /// Until when each machine is busy.
    busy: Vec<f64>,
}

impl Fleet {
    fn drawn(nodes: usize, globe: &Globe, dice: &mut Dice) -> Self {
        let profile = &request().models[0].profile;
        let roles = [Role::Own, Role::Cloud, Role::Miner, Role::Edge];
        let mut peers = Vec::with_capacity(nodes);
        for at in 0..nodes {
            let memory = dice.scaled(0.5e9, 24e9) as u64;
            let mut node = scene::node(profile, id(at), dice.scaled(5e9, 400e9), memory);
            node.role = *dice.one_of(&roles);
            if dice.below(10) == 0 {
                node.state =
                    *dice.one_of(&[NodeState::OutOfHours, NodeState::OwnerWorks, NodeState::Leaving]);
            }
            peers.push(Peer {
                profile: node,
                link: LinkProfile {
                    rtt: Duration::ZERO,
                    up: dice.scaled(0.5e6, 100e6),
                    down: dice.scaled(0.5e6, 100e6),
                    loss: *dice.one_of(&[0.0, 0.0, 0.0, 0.01]),
                },
            });
        }
        Self {
            place: (0..nodes)
                .map(|_| dice.below(globe.places as u64) as usize)
                .collect(),
            last_mile: (0..nodes).map(|_| dice.scaled(0.5e-3, 20e-3)).collect(),
            busy: vec![0.0; nodes],
            cluster: Cluster {
                desk: scene::node(profile, NodeId([255; 32]), 20e9, 2_000_000_000),
                nodes: peers,
                between: Vec::new(),
            },
        }
    }

    /// Measures every way and every queue anew, for a desk at this place.
    fn look_from(&mut self, desk: usize, now: f64, globe: &Globe) {
        for (at, peer) in self.cluster.nodes.iter_mut().enumerate() {
            let ms = globe.ms(desk, self.place[at]);
            peer.link.rtt = Duration::from_secs_f64(ms / 1e3 + self.last_mile[at]);
            let queue = (self.busy[at] - now).clamp(0.0, 3600.0);
            peer.profile.queue = Duration::from_secs_f64(queue);
        }
    }

    fn listed(&self, request: &Request, sieve: Sieve, dice: &mut Dice) -> Cluster {
        if sieve == Sieve::Shortlist {
            return shortlist(request, &self.cluster, LISTED);
        }
        let mut order: Vec<usize> = (0..self.cluster.nodes.len()).collect();
        match sieve {
            Sieve::Nearest => order.sort_by_key(|at| self.cluster.nodes[*at].link.rtt),
            _ => (0..LISTED).for_each(|at| {
                let other = at as u64 + dice.below((order.len() - at) as u64);
                order.swap(at, other as usize);
            }),
        }
        let nodes = order
            .iter()
            .take(LISTED)
            .map(|at| self.cluster.nodes[*at].clone());
        Cluster {
            desk: self.cluster.desk.clone(),
            nodes: nodes.collect(),
            between: Vec::new(),
        }
    }
}

/// A model of 32 layers and 7 GB, of which strangers may see activations and own machines the text.
fn request() -> Request {
    let layer = LayerProfile {
        weight_bytes: 200_000_000,
        weight_bytes_one_row: 200_000_000,
        flops_per_token: 800e6,
        flops_per_position: 16_384.0,
        kv_bytes_f16: 4096.0,
    };
    let profile = ModelProfile {
        model: ModelHash([9; 32]),
        name: "a model of 7 GB".to_owned(),
        layers: vec![layer; 32],
        unasked: None,
        width: 4096,
        head: LayerProfile {
            flops_per_position: 0.0,
            kv_bytes_f16: 0.0,
            ..layer
        },
        embed_bytes: 0,
        context_max: 4096,
    };
    let mut policy = Policy::open(Leaves::Text, &[Role::Own]);
    policy.may_see.extend([
        (Role::Cloud, Leaves::Activations),
        (Role::Edge, Leaves::Activations),
    ]);
    Request {
        prompt_tokens: 300,
        answer_tokens: 200,
        policy,
        ..scene::request(profile)
    }
}

/// The machine of a number.
fn id(at: usize) -> NodeId {
    let mut id = [7; 32];
    id[..8].copy_from_slice(&(at as u64).to_be_bytes());
    NodeId(id)
}

fn which(node: NodeId) -> usize {
    let (number, _) = node.0.split_first_chunk::<8>().expect("32 bytes");
    u64::from_be_bytes(*number) as usize
}

/// How the next request finds its machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// The balancer.
    Balancer,
    /// One machine after another.
    RoundRobin,
}

/// What came of many requests to machines that hold the whole model.
#[derive(Debug, Clone, Default)]
pub struct Served {
    /// Seconds until the first token, sorted.
    pub first_tokens: Vec<f64>,
    /// Requests that were told to come again.
    pub busy: usize,
    /// Requests that waited at one machine at one moment, at most.
    pub waiting_max: usize,
}

impl Served {
    /// Seconds until the first token that 95 of 100 stay under.
    pub fn p95(&self) -> f64 {
        let at = self.first_tokens.len() * 95 / 100;
        self.first_tokens.get(at).copied().unwrap_or(f64::NAN)
    }
}

/// Requests that may wait at one machine.
const QUEUE_MAX: usize = 16;

/// Lets `requests` come to `nodes` machines of which the fastest is eight times the slowest, four fifths as many as they
/// can serve.
pub fn served(nodes: usize, requests: usize, rule: Rule, seed: u64) -> Served {
    let mut dice = Dice::new(seed);
    let seats: Vec<SeatStart> = (0..nodes).map(|_| seat(dice.scaled(1.0, 8.0))).collect();
    let work: f64 = seats.iter().map(|seat| 1.0 / seconds(seat, (600, 200))).sum();
    let mut queues = Queues::new(seats, rule);
    let mut now = 0.0;
    for number in 0..requests {
        now += -(1.0 - dice.share()).ln() / (0.8 * work);
        queues.finish_until(now);
        let size = (dice.scaled(100.0, 2500.0) as u32, dice.scaled(50.0, 500.0) as u32);
        queues.arrive(number, now, size, dice.below(1000));
    }
    queues.finish_until(f64::INFINITY);
    queues.told.first_tokens.sort_by(f64::total_cmp);
    queues.told
}

/// A machine so many times as fast as the slowest.
fn seat(speed: f64) -> SeatStart {
    SeatStart {
        prefill: 4e-3 / speed,
        decode: 40e-3 / speed,
        queue_max: QUEUE_MAX,
        blocks_max: 16,
    }
}

fn seconds(seat: &SeatStart, (prompt, answer): (u32, u32)) -> f64 {
    f64::from(prompt) * seat.prefill + f64::from(answer) * seat.decode
}

struct Queues {
    seats: Vec<SeatStart>,
    rule: Rule,
    balancer: Balancer,
    asked: BTreeMap<Ticket, (f64, (u32, u32))>,
    /// Without the balancer: who waits where.
    plain: Vec<std::collections::VecDeque<Ticket>>,
    running: Vec<Option<(Ticket, f64)>>,
    ends: BinaryHeap<Reverse<(u64, usize)>>,
    told: Served,
}

impl Queues {
    fn new(seats: Vec<SeatStart>, rule: Rule) -> Self {
        Self {
            balancer: Balancer::new(&seats),
            asked: BTreeMap::new(),
            plain: vec![Default::default(); seats.len()],
            running: vec![None; seats.len()],
            ends: BinaryHeap::new(),
            told: Served::default(),
            seats,
            rule,
        }
    }

    fn arrive(&mut self, number: usize, now: f64, size: (u32, u32), user: u64) {
        let placed = match self.rule {
            Rule::RoundRobin => {
                let (ticket, at) = (Ticket(number as u64), number % self.seats.len());
                self.plain[at].push_back(ticket);
                Some((ticket, at, self.plain[at].len()))
            }
            Rule::Balancer => {
                let ask = Ask {
                    user: UserId(user),
                    weight: 1.0,
                    prompt_tokens: size.0,
                    answer_tokens: 200,
                    prefix: &[],
                    block_tokens: 512,
                };
                let placed = self.balancer.place(&ask, Duration::from_secs_f64(now)).ok();
                placed.map(|placed| (placed.ticket, placed.seat.0, self.balancer.waiting(placed.seat)))
            }
        };
        let Some((ticket, at, waiting)) = placed else {
            self.told.busy += 1;
            return;
        };
        self.told.waiting_max = self.told.waiting_max.max(waiting);
        self.asked.insert(ticket, (now, size));
        self.begin(at, now);
    }

    fn begin(&mut self, at: usize, now: f64) {
        if self.running[at].is_some() {
            return;
        }
        let next = match self.rule {
            Rule::RoundRobin => self.plain[at].pop_front(),
            Rule::Balancer => self.balancer.begin(Seat(at), Duration::from_secs_f64(now)),
        };
        let Some((ticket, (since, size))) = next.and_then(|ticket| self.asked.remove_entry(&ticket)) else {
            return;
        };
        let seat = &self.seats[at];
        self.told
            .first_tokens
            .push(now - since + f64::from(size.0) * seat.prefill);
        self.running[at] = Some((ticket, now));
        let ends = ((now + seconds(seat, size)) * 1e9) as u64;
        self.ends.push(Reverse((ends, at)));
    }

    fn finish_until(&mut self, until: f64) {
        while let Some(Reverse((when, at))) = self.ends.peek().copied() {
            let now = when as f64 / 1e9;
            if now > until {
                return;
            }
            self.ends.pop();
            let Some((ticket, began)) = self.running[at].take() else {
                continue;
            };
            if self.rule == Rule::Balancer {
                let took = Duration::from_secs_f64((now - began).max(0.0));
                self.balancer.finish(Seat(at), ticket, took);
            }
            self.begin(at, now);
        }
    }
}
