//! Everything that could be done, counted from the words of `docs/planner.md` and not from the planner's code.

use crate::scenes::drawn;
use heph_plan::{Cluster, CodecProfile, DirectForwarding, Forwarding, Place, Plan, Request, plan};
use heph_types::{Exactness, KvFormat, LayerProfile, Leaves, LinkProfile, NodeProfile, NodeState, WireCodec};

/// One way to do it: places as indices, 0 the desk.
#[derive(Debug, Clone)]
struct Way {
    model: usize,
    kv: usize,
    stages: Vec<(usize, usize, usize)>,
    chunk: u32,
    draft: Option<(usize, u16)>,
    direct: bool,
    lossy: bool,
}

struct Oracle<'a> {
    request: &'a Request,
    cluster: &'a Cluster,
}

impl Oracle<'_> {
    fn node(&self, at: usize) -> &NodeProfile {
        match at {
            0 => &self.cluster.desk,
            _ => &self.cluster.nodes[at - 1].profile,
        }
    }

    fn link(&self, at: usize) -> (f64, f64, f64) {
        let peer = &self.cluster.nodes[at - 1];
        let cap = peer.profile.caps.bytes_per_second.unwrap_or(f64::INFINITY);
        let trip = peer.link.rtt.as_secs_f64() * (1.0 + peer.link.loss);
        (trip, peer.link.up.min(cap), peer.link.down.min(cap))
    }

    fn beside(&self, a: usize, b: usize) -> Option<(f64, f64, f64)> {
        let (from, to) = (self.node(a).node, self.node(b).node);
        let trip = |l: &LinkProfile| l.rtt.as_secs_f64() * (1.0 + l.loss);
        self.cluster.between.iter().find_map(|k| {
            let one = (k.from == from && k.to == to).then(|| (trip(&k.link), k.link.up, k.link.down));
            one.or((k.from == to && k.to == from).then(|| (trip(&k.link), k.link.down, k.link.up)))
        })
    }

    fn codec(&self, up: f64, down: f64, lossy: bool) -> CodecProfile {
        let mut best: Option<(f64, CodecProfile)> = None;
        for codec in &self.request.codecs {
            if !codec.codec.is_exact() && (!lossy || self.request.policy.exact_only) {
                continue;
            }
            let cost =
                codec.bytes_per_number / up + codec.bytes_per_number / down + 2.0 * codec.seconds_per_number;
            if best.is_none_or(|(b, _)| cost < b) {
                best = Some((cost, *codec));
            }
        }
        best.map_or(CodecProfile::nominal(WireCodec::F32), |(_, c)| c)
    }

    fn layer(&self, at: usize, layer: &LayerProfile, rows: u32, context: f64, kv: KvFormat) -> f64 {
        let node = self.node(at);
        node.speed.layer_seconds(layer, rows, context, kv) / node.caps.cpu.unwrap_or(1.0)
    }

    /// Who may stand where.
    fn allowed(&self, way: &Way) -> bool {
        let policy = &self.request.policy;
        let layers = self.request.models[way.model].profile.layers.len();
        let (first, last) = (way.stages[0], *way.stages.last().unwrap());
        let k = usize::from(policy.layers_local_first).min(layers);
        let l = usize::from(policy.layers_local_last).min(layers);
        if k > 0 && (first.0 != 0 || first.2 - first.1 < k) || l > 0 && (last.0 != 0 || last.2 - last.1 < l) {
            return false;
        }
        way.stages.iter().filter(|s| s.0 != 0).all(|s| {
            let node = self.node(s.0);
            let sees = policy.seen_by(node.node, node.role);
            let needs = match s.1 == 0 || s.2 == layers {
                true => Leaves::Text,
                false => Leaves::Activations,
            };
            sees >= needs
                && node.state == NodeState::Open
                && (node.exactness == Exactness::Exact || !policy.exact_only)
        })
    }

    fn memory(&self, way: &Way) -> bool {
        let choice = &self.request.models[way.model].profile;
        let kv = self.request.kv[way.kv].format;
        let count = self.cluster.nodes.len() + 1;
        (0..count).all(|at| {
            let mut bytes = 0.0;
            let mut holds = true;
            for (place, start, end) in &way.stages {
                if *place != at {
                    continue;
                }
                for index in *start..*end {
                    let layer = &choice.layers[index];
                    bytes += layer.weight_bytes as f64 + layer.kv_bytes(kv) * f64::from(self.request.context);
                    holds &= self.node(at).holds_layer(choice.model, index)
                        || self.cluster.desk.holds_layer(choice.model, index);
                }
            }
            let (first, last) = (way.stages[0].0 == at, way.stages.last().unwrap().0 == at);
            if first || last {
                // One tensor in every scene: table and head.
                bytes += choice.head.weight_bytes as f64;
            }
            if let (0, Some((draft, _))) = (at, way.draft) {
                bytes += self.request.drafts[draft].memory as f64;
            }
            holds && bytes <= self.node(at).memory as f64
        })
    }

    /// Seconds of one pass, its busiest part, its part at the desk, and whether anything was rounded on the way.
    fn pass(&self, way: &Way, rows: u32, context: f64, decode: bool) -> Option<(f64, f64, f64, bool)> {
        let choice = &self.request.models[way.model].profile;
        let kv = self.request.kv[way.kv].format;
        let (mut seconds, mut busiest, mut desk, mut rounded) = (0.0, 0.0f64, 0.0, false);
        let count = way.stages.len();
        let alone = count == 1 && way.stages[0].0 != 0 && way.draft.is_none() && decode;
        for (index, (at, start, end)) in way.stages.iter().copied().enumerate() {
            let mut own = self.node(at).speed.overhead.as_secs_f64();
            own += choice.layers[start..end]
                .iter()
                .map(|l| self.layer(at, l, rows, context, kv))
                .sum::<f64>();
            if decode && index + 1 == count {
                own += self.layer(at, &choice.head, rows, 0.0, kv);
            }
            seconds += own;
            if at == 0 {
                desk += own;
                continue;
            }
            busiest = busiest.max(own);
            let (trip, up, down) = self.link(at);
            let numbers = f64::from(rows) * f64::from(choice.width);
            let ids = if decode { f64::from(rows) } else { 1.0 };
            let desk_codec = self.codec(up, down, way.lossy);
            let side = |other: Option<&(usize, usize, usize)>, into: bool| {
                let other = other.filter(|o| way.direct && o.0 != 0)?;
                let (from, to) = if into { (other.0, at) } else { (at, other.0) };
                Some(self.beside(from, to))
            };
            let before = side(index.checked_sub(1).map(|i| &way.stages[i]), true);
            let after = side(way.stages.get(index + 1), false);
            // Into the stage.
            let (way_trip, rate, codec) = match before {
                None => (trip, up, desk_codec),
                Some(known) => {
                    let (t, u, d) = known?;
                    (t, u, self.codec(u, d, way.lossy))
                }
            };
            if !alone {
                let crossing = match index {
                    0 => (64.0 + 4.0 * f64::from(rows)) / rate,
                    _ => {
                        (64.0 + numbers * codec.bytes_per_number) / rate + numbers * codec.seconds_per_number
                    }
                };
                rounded |= index > 0 && !codec.codec.is_exact();
                seconds += way_trip / 2.0 + crossing;
                busiest = busiest.max(crossing);
            }
            // And out, where it does not go on to a neighbour.
            if let Some(known) = after {
                let (_, u, d) = known?;
                rounded |= !self.codec(u, d, way.lossy).codec.is_exact();
                continue;
            }
            let crossing = match index + 1 == count {
                true => (64.0 + 4.0 * ids) / down,
                false => {
                    (64.0 + numbers * desk_codec.bytes_per_number) / down
                        + numbers * desk_codec.seconds_per_number
                }
            };
            rounded |= index + 1 < count && !desk_codec.codec.is_exact();
            match alone {
                true => seconds = seconds.max(crossing),
                false => {
                    seconds += trip / 2.0 + crossing;
                    busiest = busiest.max(crossing);
                }
            }
        }
        Some((seconds, busiest.max(desk), desk, rounded))
    }

    /// Weighed seconds of a way, if it may be gone.
    fn cost(&self, way: &Way) -> Option<f64> {
        if !self.allowed(way) || !self.memory(way) {
            return None;
        }
        let request = self.request;
        let choice = &request.models[way.model];
        let prompt = request.prompt_tokens.max(1);
        let answer = f64::from(request.answer_tokens.saturating_sub(1));
        let chunks = prompt.div_ceil(way.chunk);
        let rows = prompt.div_ceil(chunks);
        let drafted = way.draft.map_or(0, |d| u32::from(d.1));
        let seen = f64::from(request.prompt_tokens) + answer / 2.0;
        let decode = self.pass(way, drafted + 1, seen, true)?;
        let prefill = self.pass(way, rows, f64::from(request.prompt_tokens) / 2.0, false)?;
        let kv = request.kv[way.kv].format;
        let last = way.stages.last().unwrap().0;

        let mut load = 0.0;
        let mut queue = 0.0f64;
        let mut credits = 0.0;
        let all: f64 = choice
            .profile
            .layers
            .iter()
            .map(|l| l.flops_per_token)
            .sum::<f64>()
            + choice.profile.head.flops_per_token;
        let (mut gain, mut power) = (0.0, 1.0);
        let accept = way.draft.map_or(0.0, |d| request.drafts[d.0].acceptance);
        for _ in 0..=drafted {
            gain += power;
            power *= accept;
        }
        for (index, (at, start, end)) in way.stages.iter().copied().enumerate() {
            queue = queue.max(self.node(at).queue.as_secs_f64());
            let mut flops = 0.0;
            for layer in start..end {
                if at > 0 && !self.node(at).holds_layer(choice.profile.model, layer) {
                    load += choice.profile.layers[layer].weight_bytes as f64 / self.link(at).1;
                }
                flops += choice.profile.layers[layer].flops_per_token;
            }
            if index + 1 == way.stages.len() {
                flops += choice.profile.head.flops_per_token;
            }
            let price = self.node(at).price;
            let answered = answer / gain * f64::from(drafted + 1);
            credits += flops / all
                * (price.prompt_token * f64::from(request.prompt_tokens) + price.answer_token * answered);
        }
        if request.objective.credits_max.is_some_and(|most| credits > most) {
            return None;
        }
        let mut first = queue + load + prefill.0 + f64::from(chunks - 1) * prefill.1;
        first += self.layer(last, &choice.profile.head, 1, 0.0, kv);
        let mut round = decode.0;
        if let Some((at, length)) = way.draft {
            let draft = &request.drafts[at];
            first += draft.seconds_for_prompt;
            let drafting = f64::from(length) * draft.seconds_per_token;
            round += drafting - power * drafting.min(decode.0 - decode.2);
        }
        let exact = way
            .stages
            .iter()
            .all(|s| self.node(s.0).exactness == Exactness::Exact)
            && !decode.3;
        let loss = choice.loss
            + request.kv[way.kv].loss
            + if exact {
                0.0
            } else {
                request.objective.inexact_loss
            };
        let time = request.objective.first_token_weight * first + answer * round / gain;
        Some(time * (1.0 + loss) + request.objective.seconds_per_credit * credits)
    }

    /// The least cost of all ways, known to be at most `best`.
    fn least(&self, mut best: f64) -> f64 {
        let request = self.request;
        for model in 0..request.models.len() {
            for kv in 0..request.kv.len() {
                for direct in [false, true] {
                    for lossy in [false, true] {
                        let skip = direct && request.direct == DirectForwarding::Never
                            || lossy && request.codecs.iter().all(|c| c.codec.is_exact());
                        if skip {
                            continue;
                        }
                        for draft in drafts(request) {
                            for chunk in chunks(request.prompt_tokens) {
                                let stages = Vec::new();
                                let mut way = Way {
                                    model,
                                    kv,
                                    stages,
                                    chunk,
                                    draft,
                                    direct,
                                    lossy,
                                };
                                self.extend(&mut way, &mut best);
                            }
                        }
                    }
                }
            }
        }
        best
    }

    fn extend(&self, way: &mut Way, best: &mut f64) {
        let layers = self.request.models[way.model].profile.layers.len();
        let done = way.stages.last().map_or(0, |s| s.2);
        if done == layers && !way.stages.is_empty() {
            *best = best.min(self.cost(way).unwrap_or(f64::INFINITY));
            if way.stages.last().unwrap().0 != 0 {
                way.stages.push((0, layers, layers));
                *best = best.min(self.cost(way).unwrap_or(f64::INFINITY));
                way.stages.pop();
            }
            return;
        }
        if self.at_least(way) >= *best {
            return;
        }
        let used = |at: usize| way.stages.iter().any(|s| s.0 == at);
        let free: Vec<usize> = (1..=self.cluster.nodes.len()).filter(|at| !used(*at)).collect();
        let remote_before = way.stages.last().is_some_and(|s| s.0 != 0);
        if way.stages.is_empty() || remote_before {
            // The desk begins with any number of layers, or ends with all that are left.
            for end in done + 1..=layers {
                if way.stages.is_empty() || end == layers {
                    way.stages.push((0, done, end));
                    self.extend(way, best);
                    way.stages.pop();
                }
            }
        }
        for at in free {
            let node = self.node(at);
            if self.request.policy.seen_by(node.node, node.role) < Leaves::Activations
                || node.state != NodeState::Open
            {
                continue;
            }
            for end in done + 1..=layers {
                way.stages.push((at, done, end));
                self.extend(way, best);
                way.stages.pop();
            }
        }
    }

    /// No way that goes on from here costs less: what has been placed, computed once for the first chunk, the busiest
    /// so far for the others, and the answer.
    fn at_least(&self, way: &Way) -> f64 {
        let request = self.request;
        let choice = &request.models[way.model].profile;
        let kv = request.kv[way.kv].format;
        let prompt = request.prompt_tokens.max(1);
        let chunks = prompt.div_ceil(way.chunk);
        let rows = prompt.div_ceil(chunks);
        let drafted = way.draft.map_or(0, |d| u32::from(d.1));
        let accept = way.draft.map_or(0.0, |d| request.drafts[d.0].acceptance);
        let gain: f64 = (0..=drafted as i32).map(|n| accept.powi(n)).sum();
        let answer = f64::from(request.answer_tokens.saturating_sub(1));
        let seen = f64::from(request.prompt_tokens) + answer / 2.0;
        let (mut first, mut token, mut busiest) = (0.0, 0.0, 0.0f64);
        for (index, (at, start, end)) in way.stages.iter().copied().enumerate() {
            let of = &choice.layers[start..end];
            let half = f64::from(request.prompt_tokens) / 2.0;
            let prefill: f64 = of.iter().map(|l| self.layer(at, l, rows, half, kv)).sum();
            first += prefill;
            busiest = busiest.max(prefill);
            token += of
                .iter()
                .map(|l| self.layer(at, l, drafted + 1, seen, kv))
                .sum::<f64>();
            if at > 0 && !way.direct && (index > 0 || end < choice.layers.len()) {
                token += self.link(at).0;
                first += self.link(at).0;
            }
        }
        first += f64::from(chunks - 1) * busiest;
        request.objective.first_token_weight * first + answer * token / gain
    }
}

fn drafts(request: &Request) -> Vec<Option<(usize, u16)>> {
    let all = request.drafts.iter().enumerate();
    let all = all.flat_map(|(at, draft)| (1..=draft.length_max).map(move |length| Some((at, length))));
    std::iter::once(None).chain(all).collect()
}

fn chunks(prompt: u32) -> Vec<u32> {
    let smaller = [16, 32, 64, 128, 256, 512].into_iter().filter(|c| *c < prompt);
    smaller.chain([prompt.max(1)]).collect()
}

fn way_of(request: &Request, cluster: &Cluster, plan: &Plan) -> Way {
    let place = |stage: &heph_plan::Stage| match stage.place {
        Place::Desk => 0,
        Place::Peer => {
            1 + cluster
                .nodes
                .iter()
                .position(|p| p.profile.node == stage.node)
                .unwrap()
        }
    };
    let stages = plan
        .stages
        .iter()
        .map(|s| (place(s), s.layers.start(), s.layers.end()));
    let inexact = |c: WireCodec| !c.is_exact();
    Way {
        model: request
            .models
            .iter()
            .position(|m| m.profile.model == plan.model)
            .unwrap(),
        kv: request.kv.iter().position(|k| k.format == plan.kv).unwrap(),
        stages: stages.collect(),
        chunk: plan.chunk_rows,
        draft: plan.draft.map(|d| (d.choice, d.length)),
        direct: plan.forwarding == Forwarding::Direct,
        lossy: plan
            .stages
            .iter()
            .flat_map(|s| [s.wire_in, s.wire_out])
            .flatten()
            .any(inexact),
    }
}

/// The planner's cost over the least cost, or `None` where nothing can be done and the planner says so.
fn ratio(seed: u64, peers: u32, layers: u32) -> Option<f64> {
    let (request, cluster) = drawn(seed, peers, layers);
    let oracle = Oracle {
        request: &request,
        cluster: &cluster,
    };
    let Ok(decision) = plan(&request, &cluster) else {
        assert_eq!(
            oracle.least(1e12),
            1e12,
            "seed {seed}: refused, but there is a way"
        );
        return None;
    };
    let way = way_of(&request, &cluster, &decision.plan);
    let counted = oracle
        .cost(&way)
        .unwrap_or_else(|| panic!("seed {seed}: breaks a rule: {way:?}"));
    let said = decision.plan.expected.objective;
    assert!(
        (counted / said - 1.0).abs() < 1e-6,
        "seed {seed}: said {said}, counted {counted}: {way:?}"
    );
    Some(said / oracle.least(said))
}

#[test]
fn within_two_percent_of_exhaustive_search_on_a_thousand_clusters() {
    let ratios: Vec<f64> = (0..1000).filter_map(|seed| ratio(seed, 5, 16)).collect();
    let good = ratios.iter().filter(|r| **r <= 1.02).count();
    let worst = ratios.iter().copied().fold(1.0, f64::max);
    assert!(
        ratios.len() >= 700,
        "too few of the clusters can do anything: {}",
        ratios.len()
    );
    assert!(
        good as f64 >= 0.99 * ratios.len() as f64 && worst <= 1.05,
        "{good} of {} within 2 %, worst {worst:.3}",
        ratios.len()
    );
}
