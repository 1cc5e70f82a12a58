//! Scenes for the tests inside this crate, and the check that a plan keeps its policy: written from the policy's words,
//! apart from the rule that the planner follows.

use crate::plan::{Place, Plan};
use crate::request::{CodecProfile, DirectForwarding, KvChoice, ModelChoice, Objective, Request};
use crate::{Cluster, Peer};
use core::time::Duration;
use heph_types::{
    Caps, Exactness, Held, KvFormat, LayerProfile, LayerRange, Leaves, LinkProfile, ModelHash, ModelProfile,
    NodeId, NodeProfile, NodeState, Policy, Price, Role, Speed, WireCodec,
};

/// Whether somebody sees more than the policy lets them.
pub(crate) fn leaks(plan: &Plan, request: &Request) -> bool {
    let policy = &request.policy;
    let layers = plan.stages.last().map_or(0, |s| s.layers.end());
    let stranger = plan.stages.iter().any(|stage| {
        let at_an_end = stage.layers.start() == 0 || stage.layers.end() == layers;
        let needs = if at_an_end {
            Leaves::Text
        } else {
            Leaves::Activations
        };
        stage.place == Place::Peer && policy.seen_by(stage.node, stage.role) < needs
    });
    let here = |layer: usize| {
        let at = plan.stages.iter().find(|s| s.layers.iter().contains(&layer));
        at.is_some_and(|s| s.place == Place::Desk)
    };
    let first = usize::from(policy.layers_local_first).min(layers);
    let last = usize::from(policy.layers_local_last).min(layers);
    stranger || !(0..first).all(here) || !(layers - last..layers).all(here)
}

/// A slow desk, a fast stranger who may see nothing and a fast friend who may see activations.
pub(crate) fn private_scene() -> (Request, Cluster) {
    let model = model();
    let request = Request {
        policy: Policy {
            layers_local_first: 2,
            ..Policy::open(Leaves::Activations, &[Role::Own])
        },
        ..request(model.clone())
    };
    let desk = node(0, Role::Own, 4e9, &model);
    let stranger = peer(node(1, Role::Miner, 400e9, &model), 1);
    let friend = peer(node(2, Role::Own, 200e9, &model), 1);
    let nodes = vec![stranger, friend];
    let between = Vec::new();
    (request, Cluster { desk, nodes, between })
}

/// Sixteen layers of 50 MB.
pub(crate) fn model() -> ModelProfile {
    let layer = LayerProfile {
        weight_bytes: 50_000_000,
        weight_bytes_one_row: 50_000_000,
        flops_per_token: 200e6,
        flops_per_position: 8192.0,
        kv_bytes_f16: 2048.0,
    };
    ModelProfile {
        model: ModelHash([1; 32]),
        name: "a model".to_owned(),
        layers: vec![layer; 16],
        width: 2048,
        head: LayerProfile {
            flops_per_position: 0.0,
            kv_bytes_f16: 0.0,
            ..layer
        },
        embed_bytes: 0,
        context_max: 4096,
    }
}

/// A request whose text may go anywhere.
pub(crate) fn request(profile: ModelProfile) -> Request {
    let format = KvFormat::F16;
    Request {
        models: vec![ModelChoice { profile, loss: 0.0 }],
        prompt_tokens: 200,
        answer_tokens: 100,
        context: 512,
        kv: vec![KvChoice { format, loss: 0.0 }],
        codecs: vec![CodecProfile::nominal(WireCodec::F32)],
        drafts: Vec::new(),
        document: None,
        warm: Vec::new(),
        policy: Policy::open(Leaves::Text, &Role::ALL),
        objective: Objective::default(),
        mode: None,
        direct: DirectForwarding::Never,
    }
}

/// A machine with the whole model and room for it.
pub(crate) fn node(which: u8, role: Role, bytes_per_second: f64, of: &ModelProfile) -> NodeProfile {
    let count = of.layers.len();
    let layers = LayerRange::new(0, count, count).expect("all layers");
    NodeProfile {
        node: NodeId([which; 32]),
        name: format!("n{which}"),
        role,
        speed: Speed {
            bytes_per_second,
            flops_per_second: bytes_per_second * 40.0,
            overhead: Duration::ZERO,
            measured: Vec::new(),
        },
        memory: 2_000_000_000,
        holds: vec![Held {
            model: of.model,
            layers,
        }],
        exactness: Exactness::Exact,
        caps: Caps::default(),
        state: NodeState::Open,
        queue: Duration::ZERO,
        price: Price::default(),
    }
}

/// A machine this many milliseconds away, at 100 MB/s.
pub(crate) fn peer(profile: NodeProfile, rtt_ms: u64) -> Peer {
    let link = LinkProfile {
        rtt: Duration::from_millis(rtt_ms),
        up: 1e8,
        down: 1e8,
        loss: 0.0,
    };
    Peer { profile, link }
}
