//! Clusters as the planner sees them, and the same clusters as worlds.

use std::sync::Arc;
use std::time::Duration;

use heph_plan::{
    Cluster, CodecProfile, DirectForwarding, KvChoice, ModelChoice, Objective, Peer, Plan, Readying, Request,
};
use heph_runtime::line::Placement;
use heph_runtime::seat::Host;
use heph_types::{
    Caps, Exactness, Held, KvFormat, LayerProfile, LayerRange, Leaves, LinkProfile, ModelProfile, NodeId,
    NodeProfile, NodeState, Policy, Price, Role, Speed, StageInput, WireCodec,
};

use crate::dice::Dice;
use crate::link::{LinkShape, Rate};
use crate::member::MemberShape;
use crate::tiny::TinyModel;
use crate::world::World;

/// The desk of every scene.
pub const DESK: NodeId = NodeId([0; 32]);

/// Bytes of a layer, as the planner and the clock see it: with seven others and the head a model of half a gigabyte.
const LAYER_BYTES: u64 = 50_000_000;

/// Rows that an order takes through a stage: each way that guesses may go is a sequence of its own.
pub fn rows(input: &StageInput) -> usize {
    let branches = match input {
        StageInput::Guesses { branches, .. } => branches.as_slice(),
        StageInput::Tokens(_) | StageInput::Rows { .. } | StageInput::Handed { .. } => &[],
    };
    let beside: usize = branches
        .iter()
        .map(|branch| branch.at as usize + branch.tokens.len())
        .sum();
    input.tokens() + beside
}

/// Machines, the ways to them, and what is asked.
#[derive(Debug, Clone)]
pub struct Scene {
    /// The machines.
    pub cluster: Cluster,
    /// What is asked of them.
    pub request: Request,
}

impl Scene {
    /// A desk and `nodes` machines whose speed, memory and distance are drawn: no single one has room for everything.
    pub fn drawn(model: &TinyModel, nodes: usize, dice: &mut Dice) -> Self {
        let profile = profile(model);
        let whole = weight(&profile) as f64;
        let peer = |which: usize, dice: &mut Dice| {
            let memory = whole * dice.scaled(0.3, 1.6);
            Peer {
                profile: node(&profile, id(which), dice.scaled(8e9, 120e9), memory as u64),
                link: LinkProfile {
                    rtt: Duration::from_secs_f64(dice.scaled(0.5e-3, 120e-3)),
                    up: dice.scaled(1e6, 100e6),
                    down: dice.scaled(1e6, 100e6),
                    loss: *dice.one_of(&[0.0, 0.0, 0.01]),
                },
            }
        };
        let nodes = (1..=nodes).map(|which| peer(which, dice)).collect();
        let memory = whole * dice.scaled(0.2, 0.9);
        Self {
            cluster: Cluster {
                desk: node(&profile, DESK, dice.scaled(8e9, 40e9), memory as u64),
                nodes,
                between: Vec::new(),
            },
            request: request(profile),
        }
    }

    /// The world of this scene, and its hosts: the nodes in their order, the desk last.
    pub fn world(&self, model: &TinyModel, seed: u64) -> (World, Vec<Arc<dyn Host>>) {
        let world = World::new(seed);
        world.lend(model, &self.request.models[0].profile);
        let shape = |peer: &Peer| MemberShape {
            id: peer.profile.node,
            speed: peer.profile.speed.clone(),
            clock: 1.0 + f64::from(peer.profile.node.0[0]) * 1e-5,
            link: way(&peer.link),
        };
        let mut hosts: Vec<_> = self
            .cluster
            .nodes
            .iter()
            .map(|peer| world.add(shape(peer)))
            .collect();
        hosts.push(world.here(self.cluster.desk.node, &self.cluster.desk.speed));
        (world, hosts)
    }
}

/// Who holds which layers by a plan.
pub fn placements(plan: &Plan) -> Vec<Placement> {
    let placed = |stage: &heph_plan::Stage| Placement {
        node: stage.node,
        layers: stage.layers,
    };
    plan.stages.iter().map(placed).collect()
}

/// The node of a number; 0 is the desk.
pub fn id(which: usize) -> NodeId {
    NodeId([which as u8; 32])
}

/// A model of the size that a person runs, with the layers and rows of a tiny one.
pub fn profile(model: &TinyModel) -> ModelProfile {
    let line = model.line_model();
    let layer = LayerProfile {
        weight_bytes: LAYER_BYTES,
        weight_bytes_one_row: LAYER_BYTES,
        flops_per_token: 4.0 * LAYER_BYTES as f64,
        flops_per_position: 8192.0,
        kv_bytes_f16: 2048.0,
    };
    ModelProfile {
        model: model.hash,
        name: "a tiny model that counts as a large one".to_owned(),
        layers: vec![layer; line.layers],
        unasked: None,
        width: line.width as u32,
        head: LayerProfile {
            flops_per_position: 0.0,
            kv_bytes_f16: 0.0,
            ..layer
        },
        embed_bytes: 0,
        context_max: line.context as u32,
    }
}

fn weight(profile: &ModelProfile) -> u64 {
    profile.layers.iter().map(|layer| layer.weight_bytes).sum::<u64>() + profile.head.weight_bytes
}

/// A speed of so many bytes of weights a second, with ten multiplications for each byte.
pub fn speed(bytes_per_second: f64) -> Speed {
    Speed {
        bytes_per_second,
        flops_per_second: bytes_per_second * 40.0,
        overhead: Duration::from_micros(100),
        measured: Vec::new(),
    }
}

/// A machine that holds the whole file and has room for `memory` bytes of it.
pub fn node(profile: &ModelProfile, id: NodeId, bytes_per_second: f64, memory: u64) -> NodeProfile {
    let count = profile.layers.len();
    let layers = LayerRange::new(0, count, count).expect("all layers");
    NodeProfile {
        node: id,
        name: format!("n{}", id.0[0]),
        role: Role::Own,
        speed: speed(bytes_per_second),
        memory,
        holds: vec![Held {
            model: profile.model,
            layers,
        }],
        exactness: Exactness::Exact,
        caps: Caps::default(),
        state: NodeState::Open,
        queue: Duration::ZERO,
        price: Price::default(),
    }
}

/// A short answer that may be computed anywhere.
pub fn request(profile: ModelProfile) -> Request {
    let format = KvFormat::F16;
    let context = profile.context_max;
    Request {
        models: vec![ModelChoice { profile, loss: 0.0 }],
        prompt_tokens: 16,
        answer_tokens: 64,
        context,
        kv: vec![KvChoice { format, loss: 0.0 }],
        codecs: vec![CodecProfile::nominal(WireCodec::F32)],
        drafts: Vec::new(),
        document: None,
        warm: Vec::new(),
        rounds: false,
        readying: Readying::default(),
        policy: Policy::open(Leaves::Text, &Role::ALL),
        objective: Objective::default(),
        mode: None,
        direct: DirectForwarding::Never,
    }
}

/// The way that a profile describes.
fn way(link: &LinkProfile) -> LinkShape {
    LinkShape {
        rtt: link.rtt,
        jitter: link.rtt / 50,
        up: Rate::Steady(link.up),
        down: Rate::Steady(link.down),
        loss: link.loss,
    }
}
