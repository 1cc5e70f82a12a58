//! Clusters and requests to plan with, some drawn by seed, some plain; and the check that a plan keeps its policy, written
//! from the policy's words, apart from the rule that the planner follows. The crate's own tests and the bench use them too.

use core::ops::Range;
use core::time::Duration;
use heph_plan::{
    Between, Cluster, CodecProfile, DirectForwarding, DocumentProfile, DraftProfile, DraftSource, Forwarding,
    KvChoice, ModelChoice, Objective, Peer, Place, Plan, Readying, Request, WarmPrefix, WarmStage,
};
use heph_types::{
    Caps, Exactness, Held, KvFormat, LayerProfile, LayerRange, Leaves, LinkProfile, ModelHash, ModelProfile,
    NodeId, NodeProfile, NodeState, Policy, Price, Role, Speed, SpeedPoint, WireCodec,
};

/// SplitMix64: the same numbers for the same seed.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in 0..1.
    pub(crate) fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Whether something of this probability happens.
    pub(crate) fn chance(&mut self, share: f64) -> bool {
        self.share() < share
    }

    /// Uniform in `from..=to`.
    pub(crate) fn whole(&mut self, from: u32, to: u32) -> u32 {
        from + (self.next() % u64::from(to - from + 1)) as u32
    }

    /// Between two positive numbers, each decade as likely as the next.
    pub(crate) fn scale(&mut self, from: f64, to: f64) -> f64 {
        from * (to / from).powf(self.share())
    }

    /// One of some.
    pub(crate) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.whole(0, of.len() as u32 - 1) as usize]
    }
}

/// The model's hash in every scene; another quantisation has another.
pub(crate) fn hash(which: u8) -> ModelHash {
    ModelHash([which; 32])
}

/// The node with this number.
pub(crate) fn node_id(which: usize) -> NodeId {
    let mut id = [0; 32];
    id[..8].copy_from_slice(&(which as u64 + 1).to_be_bytes());
    NodeId(id)
}

/// A layer of so many megabytes of 4-bit weights.
pub(crate) fn layer(megabytes: f64) -> LayerProfile {
    let bytes = megabytes * 1e6;
    LayerProfile {
        weight_bytes: bytes as u64,
        weight_bytes_one_row: bytes as u64,
        flops_per_token: bytes * 4.0,
        flops_per_position: 8192.0,
        kv_bytes_f16: 2048.0,
    }
}

/// A model of equal layers.
pub(crate) fn model(layers: usize, megabytes: f64) -> ModelProfile {
    ModelProfile {
        model: hash(1),
        name: "a model".to_owned(),
        layers: vec![layer(megabytes); layers],
        unasked: layers.is_multiple_of(2).then(|| layer(megabytes / 8.0)),
        width: 2048,
        head: LayerProfile {
            flops_per_position: 0.0,
            kv_bytes_f16: 0.0,
            ..layer(megabytes * 0.8)
        },
        embed_bytes: 0,
        context_max: 1 << 17,
    }
}

/// A machine with all layers of the model.
pub(crate) fn node(
    which: usize,
    role: Role,
    gigabytes_per_second: f64,
    memory: u64,
    of: &ModelProfile,
) -> NodeProfile {
    let count = of.layers.len();
    NodeProfile {
        node: node_id(which),
        name: format!("n{which}"),
        role,
        speed: Speed {
            bytes_per_second: gigabytes_per_second * 1e9,
            flops_per_second: gigabytes_per_second * 40e9,
            overhead: Duration::from_micros(50),
            measured: Vec::new(),
        },
        memory,
        holds: vec![Held {
            model: of.model,
            layers: LayerRange::new(0, count, count).unwrap(),
        }],
        exactness: Exactness::Exact,
        caps: Caps::default(),
        state: NodeState::Open,
        queue: Duration::ZERO,
        price: Price::default(),
    }
}

/// A link.
pub(crate) fn link(rtt_ms: f64, megabits: f64) -> LinkProfile {
    LinkProfile {
        rtt: Duration::from_secs_f64(rtt_ms / 1e3),
        up: megabits * 125e3,
        down: megabits * 125e3,
        loss: 0.0,
    }
}

/// A request that lets text leave to everybody.
pub(crate) fn request(of: ModelProfile) -> Request {
    Request {
        models: vec![ModelChoice {
            profile: of,
            loss: 0.0,
        }],
        prompt_tokens: 200,
        answer_tokens: 100,
        context: 512,
        kv: vec![KvChoice {
            format: KvFormat::F16,
            loss: 0.0,
        }],
        codecs: vec![
            CodecProfile::nominal(WireCodec::F32),
            CodecProfile::nominal(WireCodec::Packed),
        ],
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

/// A cluster of a desk and some others.
pub(crate) fn cluster(desk: NodeProfile, nodes: Vec<(NodeProfile, LinkProfile)>) -> Cluster {
    let nodes = nodes.into_iter().map(|(profile, link)| Peer { profile, link });
    Cluster {
        desk,
        nodes: nodes.collect(),
        between: Vec::new(),
    }
}

/// A request and a cluster of at most `peers` others and `layers` layers, drawn by seed.
pub(crate) fn drawn(seed: u64, peers: u32, layers: u32) -> (Request, Cluster) {
    let mut dice = Dice(seed.wrapping_mul(0x5851_f42d_4c95_7f2d));
    let layers = dice.whole(1, layers) as usize;
    let megabytes = dice.scale(5.0, 300.0);
    let mut profile = model(layers, megabytes);
    if dice.chance(0.3) {
        for layer in &mut profile.layers {
            *layer = self::layer(megabytes * dice.scale(0.5, 2.0));
        }
    }
    let request = drawn_request(&mut dice, profile);
    let whole: u64 = request.models[0]
        .profile
        .layers
        .iter()
        .map(|l| l.weight_bytes)
        .sum();
    let count = dice.whole(0, peers) as usize;
    let desk = drawn_node(&mut dice, 0, Role::Own, whole, &request);
    let others = (1..=count).map(|which| {
        let role = dice.pick(&Role::ALL);
        let node = drawn_node(&mut dice, which, role, whole, &request);
        let link = LinkProfile {
            down: dice.scale(1e5, 1e8),
            loss: if dice.chance(0.2) { 0.01 } else { 0.0 },
            ..link(dice.scale(0.2, 300.0), dice.scale(1.0, 1000.0))
        };
        (node, link)
    });
    let mut cluster = cluster(desk, others.collect());
    if request.direct == DirectForwarding::Allowed {
        for a in 1..=count {
            for b in a + 1..=count {
                let link = link(dice.scale(0.2, 300.0), dice.scale(1.0, 1000.0));
                let (from, to) = (node_id(a), node_id(b));
                if dice.chance(0.8) {
                    cluster.between.push(Between { from, to, link });
                }
            }
        }
    }
    (request, cluster)
}

fn drawn_request(dice: &mut Dice, profile: ModelProfile) -> Request {
    let mut request = request(profile);
    request.prompt_tokens = dice.scale(4.0, 4000.0) as u32;
    request.answer_tokens = dice.scale(1.0, 800.0) as u32;
    request.context = request.prompt_tokens + request.answer_tokens + dice.whole(0, 1000);
    request.objective.first_token_weight = dice.pick(&[1.0, 1.0, 3.0]);
    if dice.chance(0.25) {
        let mut small = request.models[0].profile.clone();
        small.model = hash(2);
        for layer in small.layers.iter_mut().chain([&mut small.head]) {
            layer.weight_bytes /= 2;
            layer.weight_bytes_one_row /= 2;
        }
        request.models.push(ModelChoice {
            profile: small,
            loss: 0.3,
        });
    }
    if dice.chance(0.25) {
        request.kv.push(KvChoice {
            format: KvFormat::Q8_0,
            loss: 0.02,
        });
    }
    if dice.chance(0.3) {
        request.codecs.push(CodecProfile {
            seconds_per_number: 1e-9,
            ..CodecProfile::nominal(WireCodec::Bf16)
        });
    }
    let drafts = dice.pick(&[0, 0, 1, 2]);
    for _ in 0..drafts {
        request.drafts.push(DraftProfile {
            source: DraftSource::Model,
            acceptance: 0.3 + 0.6 * dice.share(),
            seconds_per_token: dice.scale(1e-5, 1e-2),
            seconds_for_prompt: dice.scale(1e-4, 0.1),
            readying: Readying::default(),
            memory: 20_000_000,
            length_max: dice.whole(1, 6) as u16,
        });
    }
    if dice.chance(0.4) {
        request.policy = drawn_policy(dice);
    }
    if dice.chance(0.2) {
        request.objective.seconds_per_credit = dice.scale(0.01, 1.0);
    }
    if dice.chance(0.15) {
        request.objective.credits_max = Some(dice.scale(0.01, 10.0));
    }
    if dice.chance(0.25) {
        request.document = Some(DocumentProfile {
            kept_tokens: 1 + (f64::from(request.prompt_tokens) * dice.scale(0.05, 0.6)) as u32,
            seconds: dice.scale(0.001, 0.5),
            loss: dice.pick(&[0.02, 0.1, 0.3]),
        });
    }
    if dice.chance(0.15) {
        let tokens = dice.whole(0, request.prompt_tokens);
        let layers = request.models[0].profile.layers.len();
        let whole = warm_stage(dice.whole(0, 2) as usize, 0..layers);
        let left = warm(&request.models[0].profile, vec![whole], tokens);
        request.warm.push(left);
    }
    if dice.chance(0.3) {
        request.direct = DirectForwarding::Allowed;
    }
    // Of its own dice: the other scenes stay as they are.
    let mut dice = Dice(u64::from(request.prompt_tokens) << 32 | u64::from(request.answer_tokens));
    if dice.chance(0.2) {
        let [first, rest] = [(); 2].map(|()| Duration::from_secs_f64(dice.scale(0.01, 5.0)));
        request.readying = Readying { first, rest };
    }
    for draft in &mut request.drafts {
        if dice.chance(0.5) {
            let [first, rest] = [(); 2].map(|()| Duration::from_secs_f64(dice.scale(1e-3, 0.5)));
            draft.readying = Readying { first, rest };
        }
    }
    if dice.chance(0.3) && request.models[0].profile.layers.len() > 1 {
        request.warm.push(drawn_line(&mut dice, &request));
    }
    request
}

/// A prompt's beginning in the caches of several stages, the first or the last of them the desk's.
fn drawn_line(dice: &mut Dice, request: &Request) -> WarmPrefix {
    let count = request.models[0].profile.layers.len();
    let places: &[usize] = match dice.whole(0, 3) {
        0 => &[0, 1],
        1 => &[0, 2, 0],
        2 => &[1, 2],
        _ => &[0, 1, 2],
    };
    let mut cuts: Vec<usize> = places[1..]
        .iter()
        .map(|_| dice.whole(1, count as u32 - 1) as usize)
        .collect();
    cuts.sort_unstable();
    let ends = cuts.iter().copied().chain([count]);
    let starts = [0].into_iter().chain(cuts.iter().copied());
    let stages = places.iter().zip(starts.zip(ends));
    WarmPrefix {
        forwarding: match dice.chance(0.3) {
            true => Forwarding::Direct,
            false => Forwarding::ThroughDesk,
        },
        rounded: dice.chance(0.2),
        draft: request
            .drafts
            .first()
            .map(|draft| draft.source)
            .filter(|_| dice.chance(0.3)),
        ..warm(
            &request.models[0].profile,
            stages
                .map(|(place, (start, end))| warm_stage(*place, start..end))
                .collect(),
            dice.whole(0, request.prompt_tokens),
        )
    }
}

/// Stages in whose caches the beginning of a prompt lies.
pub(crate) fn warm(of: &ModelProfile, stages: Vec<WarmStage>, tokens: u32) -> WarmPrefix {
    WarmPrefix {
        rounded: false,
        model: of.model,
        kv: KvFormat::F16,
        stages,
        forwarding: Forwarding::ThroughDesk,
        draft: None,
        tokens,
    }
}

/// One of these stages: the desk is number 0.
pub(crate) fn warm_stage(which: usize, layers: Range<usize>) -> WarmStage {
    WarmStage {
        node: node_id(which),
        layers: LayerRange::new(layers.start, layers.end, layers.end).unwrap(),
    }
}

fn drawn_policy(dice: &mut Dice) -> Policy {
    let leaves = [
        Leaves::Nothing,
        Leaves::Embeddings,
        Leaves::Activations,
        Leaves::Text,
    ];
    let may_see = Role::ALL.map(|role| (role, dice.pick(&leaves)));
    Policy {
        may_see: may_see.to_vec(),
        nodes: Vec::new(),
        layers_local_first: dice.pick(&[0, 0, 1, 2]),
        layers_local_last: dice.pick(&[0, 0, 1]),
        forbidden: if dice.chance(0.3) {
            vec![node_id(1)]
        } else {
            Vec::new()
        },
        exact_only: dice.chance(0.2),
    }
}

fn drawn_node(dice: &mut Dice, which: usize, role: Role, whole: u64, request: &Request) -> NodeProfile {
    let of = &request.models[0].profile;
    let share = dice.scale(0.2, 4.0);
    let mut node = node(
        which,
        role,
        dice.scale(2.0, 400.0),
        (whole as f64 * share) as u64,
        of,
    );
    node.speed.flops_per_second = node.speed.bytes_per_second * dice.scale(5.0, 200.0);
    for (rows, factor) in [(1, 1.0), (8, 1.6), (64, 1.3), (512, 1.1)] {
        let factor = factor * dice.scale(1.0, 1.3);
        node.speed.measured.push(SpeedPoint { rows, factor });
    }
    let count = of.layers.len();
    let layers = LayerRange::new(0, count, count).unwrap();
    if which > 0 && dice.chance(0.2) {
        let from = dice.whole(0, count as u32) as usize;
        let some = LayerRange::new(from, count, count).unwrap();
        node.holds[0].layers = some;
        // Nothing, half of the model at most, or any of it.
        node.caps.accepts_bytes = [0, whole / 2, whole * 4][which % 3];
    }
    let second = request.models.get(1).map(|m| m.profile.model);
    node.holds.extend(second.map(|model| Held { model, layers }));
    if dice.chance(0.15) {
        node.exactness = Exactness::Close;
    }
    if dice.chance(0.1) {
        node.state = NodeState::OwnerWorks;
    }
    if dice.chance(0.1) {
        node.queue = Duration::from_secs_f64(dice.scale(0.01, 5.0));
    }
    if dice.chance(0.3) {
        node.price = Price {
            prompt_token: dice.scale(1e-4, 1e-2),
            answer_token: dice.scale(1e-3, 1e-1),
        };
    }
    node
}

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
        let sees = policy.seen_by(stage.node, stage.role);
        stage.place == Place::Peer && (sees < needs || sees < stage.sees)
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
    let of = model(16, 50.0);
    let desk = node(0, Role::Own, 4.0, 2_000_000_000, &of);
    let stranger = node(1, Role::Miner, 400.0, 2_000_000_000, &of);
    let friend = node(2, Role::Own, 200.0, 2_000_000_000, &of);
    let others = [stranger, friend].map(|n| (n, link(1.0, 800.0)));
    let request = Request {
        policy: Policy {
            layers_local_first: 2,
            ..Policy::open(Leaves::Activations, &[Role::Own])
        },
        ..request(of)
    };
    (request, cluster(desk, others.to_vec()))
}

/// A crowd of unlike nodes, each with room for about `share` of the model, and everything to choose at once: two
/// quantisations, two cache formats, three codecs, two drafts, documents, prices, a policy, nodes that hold parts or are
/// not exact, links among most of them.
pub(crate) fn crowd(seed: u64, nodes: usize, layers: usize, share: f64) -> (Request, Cluster) {
    let mut dice = Dice(seed.wrapping_mul(0x5851_f42d_4c95_7f2d) ^ 0xc0de);
    let mut profile = model(layers, 40.0);
    // Every fourth layer takes more bits, as in a mixed quantisation.
    let more = profile.layers.iter_mut().step_by(4);
    more.for_each(|l| *l = layer(52.0));
    let mut request = drawn_request(&mut dice, profile);
    let mut small = request.models[0].profile.clone();
    small.model = hash(2);
    for layer in small.layers.iter_mut().chain([&mut small.head]) {
        layer.weight_bytes /= 2;
        layer.weight_bytes_one_row /= 2;
    }
    request.models.truncate(1);
    let loss = 0.3;
    request.models.push(ModelChoice { profile: small, loss });
    request.kv.truncate(1);
    let format = KvFormat::Q8_0;
    request.kv.push(KvChoice { format, loss: 0.02 });
    request.codecs.truncate(2);
    request.codecs.push(CodecProfile::nominal(WireCodec::Bf16));
    request.drafts = [(0.75, 0.002, 12), (0.4, 1e-5, 16)]
        .map(|(acceptance, seconds_per_token, length_max)| DraftProfile {
            source: DraftSource::Model,
            acceptance,
            seconds_per_token,
            seconds_for_prompt: 0.02,
            readying: Readying::default(),
            memory: 20_000_000,
            length_max,
        })
        .to_vec();
    request.document = Some(DocumentProfile {
        kept_tokens: 1 + request.prompt_tokens / 6,
        seconds: 0.1,
        loss: 0.1,
    });
    request.direct = DirectForwarding::Allowed;
    request.objective.credits_max = None;
    request.policy = Policy {
        layers_local_first: 1,
        ..Policy::open(Leaves::Text, &Role::ALL)
    };
    request.policy.may_see[Role::ALL.len() - 1].1 = Leaves::Activations;
    let whole = layers as f64 * 46e6;
    let mut made: Vec<NodeProfile> = Vec::new();
    for which in 0..nodes {
        let role = if which == 0 {
            Role::Own
        } else {
            dice.pick(&Role::ALL)
        };
        let mut node = drawn_node(&mut dice, which, role, whole as u64, &request);
        node.memory = (whole * share * dice.scale(0.5, 2.0)) as u64;
        made.push(node);
    }
    let desk = made.remove(0);
    let others = made.into_iter();
    let others = others.map(|n| (n, link(dice.scale(1.0, 100.0), dice.scale(20.0, 1000.0))));
    let mut cluster = cluster(desk, others.collect());
    for a in 1..nodes {
        for b in a + 1..nodes {
            let link = link(dice.scale(1.0, 100.0), dice.scale(20.0, 1000.0));
            let (from, to) = (node_id(a), node_id(b));
            if dice.chance(0.8) {
                cluster.between.push(Between { from, to, link });
            }
        }
    }
    (request, cluster)
}
