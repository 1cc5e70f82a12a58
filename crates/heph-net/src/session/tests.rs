//! Two ends in virtual time, over a wire that cuts bytes anywhere; a toy stage whose answers depend on everything before.

mod caches;
mod goodput;
mod hops;
mod hostile;
mod orders;
mod toy;
mod waits;

use std::collections::VecDeque;
use std::time::Duration;

use heph_privacy::label::Label;
use heph_privacy::policy::{Destination, Kind, Policies, Policy, Preset};
use heph_privacy::{Clearance, Cleared, Purpose};
use heph_types::{
    KvFormat, LayerRange, ModelHash, Order, Reply, SamplingOptions, SessionId, StageSpec, TokenId, WireCodec,
};

use super::*;
use crate::drive::Machine;
use crate::wire::{Frame, Line};
use toy::Toy;

/// The law of arithmetic that both ends of these tests compute by.
const LAW: u16 = 1;

/// Numbers of a row of the toy.
const WIDTH: usize = 4;

const LINE: Line = Line(0);

fn spec(choose: Option<SamplingOptions>) -> StageSpec {
    let layers = if choose.is_some() { (0, 2) } else { (0, 1) };
    StageSpec {
        model: ModelHash([3; 32]),
        layers: LayerRange::new(layers.0, layers.1, 2).unwrap(),
        context: 200,
        kv_format: KvFormat::F16,
        choose,
    }
}

fn whole() -> StageSpec {
    spec(Some(SamplingOptions::greedy()))
}

fn open(spec: StageSpec) -> DeskCommand {
    DeskCommand::Open {
        session: SessionId(9),
        spec,
        codecs: Codecs {
            up: WireCodec::Packed,
            down: WireCodec::F32,
        },
    }
}

/// Whom the policy of these tests lets see everything.
fn friend(id: &str) -> Destination {
    Destination {
        kind: Kind::Own,
        name: "friend".into(),
        id: id.into(),
        region: String::new(),
        retention_days: None,
    }
}

/// `value`, cleared for the node whose key in hexadecimal is `id`.
fn cleared_for<T>(id: &str, value: T) -> Cleared<T> {
    let (to, policies) = (
        friend(id),
        Policies::new(Policy::of(Preset::OwnDevices), Vec::new()),
    );
    let purpose = Purpose {
        to: &to,
        mode: "remote",
        credits: 0,
    };
    Clearance::of(&Label::public(), purpose, &policies)
        .unwrap()
        .clear_part(value)
}

fn cleared<T>(value: T) -> Cleared<T> {
    cleared_for("", value)
}

#[test]
fn what_was_cleared_for_another_node_does_not_go_there() {
    let node = heph_types::NodeId([5; 32]);
    for (id, goes) in [
        (node.to_string(), true),
        ("5".repeat(64), false),
        (String::new(), false),
    ] {
        let mut desk = DeskEnd::new(LAW, Duration::ZERO).towards(node);
        desk.command(Duration::ZERO, open(whole())).unwrap();
        let order = cleared_for(&id, Order::Rollback(heph_types::Position(0)));
        desk.command(Duration::ZERO, DeskCommand::Order(LINE, order))
            .unwrap();
        let over = std::iter::from_fn(|| desk.event()).any(|event| matches!(event, DeskEvent::Over(_)));
        assert_eq!(over, !goes, "cleared for {id:?}");
    }
}

/// Numbers that follow from a seed (xorshift64*, Vigna 2014).
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound
    }
}

/// Bytes on their way, with the time of their arrival.
type Wire = VecDeque<(Duration, Vec<u8>)>;

/// A desk and a node, the wire between them, and the node's stages.
struct World {
    now: Duration,
    delay: Duration,
    dice: Dice,
    desk: DeskEnd,
    node: NodeEnd,
    up: Wire,
    down: Wire,
    stages: Vec<Toy>,
    /// What the desk was told.
    told: Vec<DeskEvent>,
    /// What the node was told and its stages do not handle.
    noted: Vec<NodeEvent>,
    /// Bytes that were sent.
    bytes: (usize, usize),
    /// Whether the node hears and does anything.
    node_lives: bool,
    /// Bytes a second each way; `None`: as many as there are.
    rate: Option<f64>,
    /// Bytes that arrive together; any few where nothing is said.
    packet: Option<usize>,
}

impl World {
    fn new(seed: u64, delay: Duration) -> World {
        World::with(seed, delay, NodeLimits::default())
    }

    fn with(seed: u64, delay: Duration, limits: NodeLimits) -> World {
        World {
            now: Duration::ZERO,
            delay,
            dice: Dice(seed | 1),
            desk: DeskEnd::new(LAW, Duration::ZERO),
            node: NodeEnd::new(LAW, limits, Duration::ZERO),
            up: Wire::new(),
            down: Wire::new(),
            stages: Vec::new(),
            told: Vec::new(),
            noted: Vec::new(),
            bytes: (0, 0),
            node_lives: true,
            rate: None,
            packet: None,
        }
    }

    /// A world with one open session.
    fn opened(seed: u64, delay: Duration, spec: StageSpec) -> World {
        let mut world = World::new(seed, delay);
        world.ask(open(spec));
        world.run(Duration::from_secs(2));
        assert!(world.told.contains(&DeskEvent::Opened {
            line: LINE,
            width: WIDTH
        }));
        world.told.clear();
        world
    }

    fn ask(&mut self, command: DeskCommand) {
        self.desk.command(self.now, command).unwrap();
        self.carry();
    }

    fn order(&mut self, order: Order) {
        self.ask(DeskCommand::Order(LINE, cleared(order)));
    }

    /// Lets everything happen that happens within `time`.
    fn run(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(next) = self.next().filter(|next| *next <= until) {
            self.now = next.max(self.now);
            self.step();
        }
        self.now = until;
    }

    /// When something happens next.
    fn next(&self) -> Option<Duration> {
        let wires = [self.up.front(), self.down.front()].into_iter().flatten();
        let arrivals = wires.map(|(at, _)| *at);
        let node = self
            .node
            .deadline()
            .filter(|_| self.node_lives && !self.node.finished());
        let desk = self.desk.deadline().filter(|_| !self.desk.finished());
        let stages = self
            .stages
            .iter()
            .filter(|_| self.node_lives)
            .filter_map(Toy::done_at);
        arrivals.chain(node).chain(desk).chain(stages).min()
    }

    fn step(&mut self) {
        let now = self.now;
        while let Some((_, bytes)) = self.up.pop_front_if(|(at, _)| *at <= now) {
            if self.node_lives {
                self.node.receive(now, &bytes).unwrap();
            }
        }
        while let Some((_, bytes)) = self.down.pop_front_if(|(at, _)| *at <= now) {
            self.desk.receive(now, &bytes).unwrap();
        }
        if self.node_lives && self.node.deadline().is_some_and(|at| at <= now) && !self.node.finished() {
            self.node.wake(now).unwrap();
        }
        if self.desk.deadline().is_some_and(|at| at <= now) && !self.desk.finished() {
            self.desk.wake(now).unwrap();
        }
        self.carry();
        for at in 0..self.stages.len() {
            while let Some(command) = self.stages[at].work(now).filter(|_| self.node_lives) {
                self.node.command(now, command).unwrap();
                self.carry();
            }
        }
    }

    /// Events to whom they are for, bytes on their way.
    fn carry(&mut self) {
        while let Some(event) = self.desk.event() {
            self.told.push(event);
        }
        while let Some(event) = self.node.event() {
            self.serve(event);
        }
        let mut bytes = (Vec::new(), Vec::new());
        self.desk.transmit(&mut bytes.0);
        if self.node_lives {
            self.node.transmit(&mut bytes.1);
        }
        self.bytes.0 += bytes.0.len();
        self.bytes.1 += bytes.1.len();
        let (at, way) = (self.now + self.delay, (self.rate, self.packet));
        send(&mut self.up, &mut self.dice, at, way, &bytes.0);
        send(&mut self.down, &mut self.dice, at, way, &bytes.1);
    }

    fn serve(&mut self, event: NodeEvent) {
        match event {
            NodeEvent::Open { line, spec, .. } => {
                self.stages.push(Toy::new(line, &spec));
                let width = WIDTH as u32;
                let grant = NodeCommand::Grant { line, width };
                self.node.command(self.now, grant).unwrap();
            }
            NodeEvent::Order(line, order) => {
                let now = self.now;
                let stage = self.stages.iter_mut().find(|stage| stage.line == line);
                stage.unwrap().take(now, order);
            }
            NodeEvent::Close(line) => {
                self.stages.retain(|stage| stage.line != line);
                self.noted.push(NodeEvent::Close(line));
            }
            other => self.noted.push(other),
        }
    }

    fn replies(&self) -> Vec<&Reply> {
        let reply = |event| match event {
            &DeskEvent::Reply(LINE, ref reply) => Some(reply),
            _ => None,
        };
        self.told.iter().filter_map(reply).collect()
    }

    /// Why it is over for the desk, and for the node.
    fn over(&self) -> (Option<&SessionError>, Option<&SessionError>) {
        let desk = self.told.iter().find_map(|event| match event {
            DeskEvent::Over(error) => Some(error),
            _ => None,
        });
        let node = self.noted.iter().find_map(|event| match event {
            NodeEvent::Over(error) => Some(error),
            _ => None,
        });
        (desk, node)
    }
}

/// Cuts bytes into packets, or pieces of any size, on their way until `at`, or later where the way lets only so many through.
fn send(
    wire: &mut Wire,
    dice: &mut Dice,
    mut at: Duration,
    (rate, packet): (Option<f64>, Option<usize>),
    mut bytes: &[u8],
) {
    if rate.is_some() {
        at = wire.back().map_or(at, |(last, _)| at.max(*last));
    }
    while !bytes.is_empty() {
        let piece = packet.unwrap_or_else(|| 1 + dice.below(40)).min(bytes.len());
        at += rate.map_or(Duration::ZERO, |rate| {
            Duration::from_secs_f64(piece as f64 / rate)
        });
        wire.push_back((at, bytes[..piece].to_vec()));
        bytes = &bytes[piece..];
    }
}

fn ids(range: std::ops::Range<u32>) -> Vec<TokenId> {
    range.map(TokenId).collect()
}

fn encoded(frames: &[Frame]) -> Vec<u8> {
    frames.iter().flat_map(|frame| frame.encode().unwrap()).collect()
}
