//! Everything that could be done, counted from the words of `docs/planner.md` and not from the planner's code.

#![allow(clippy::print_stdout, reason = "an evaluation prints what it reached")]

use crate::scenes::drawn;
use heph_plan::{
    Cluster, CodecProfile, DirectForwarding, Forwarding, Mode, Place, Plan, Readying, Request, plan,
};
use heph_types::{
    Exactness, KvFormat, LayerProfile, Leaves, LinkProfile, NodeProfile, NodeState, Role, WireCodec,
};
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{iter, thread};

/// One way to do it: places as indices, 0 the desk.
#[derive(Debug, Clone)]
pub(crate) struct Way {
    model: usize,
    kv: usize,
    stages: Vec<(usize, usize, usize)>,
    chunk: u32,
    draft: Option<(usize, u16)>,
    direct: bool,
    lossy: bool,
    /// Whether spans of the documents are chosen first.
    spans: bool,
}

/// Model, cache format, place, rows, and the bits of the context.
type Key = (usize, usize, usize, u32, bool, u64);

pub(crate) struct Oracle<'a> {
    request: &'a Request,
    cluster: &'a Cluster,
    /// Running seconds of layers, by model, cache format, place, rows and what they look back on.
    sums: RefCell<HashMap<Key, Vec<f64>>>,
}

impl Way {
    /// Stages through the desk with nothing else chosen.
    pub(crate) fn plain(stages: Vec<(usize, usize, usize)>, chunk: u32) -> Way {
        Way {
            model: 0,
            kv: 0,
            stages,
            chunk,
            draft: None,
            direct: false,
            lossy: false,
            spans: false,
        }
    }
}

/// One pass through all stages, as this checker counts it.
struct Pass {
    seconds: f64,
    /// Its longest part but for the desk's in front.
    others: f64,
    /// Its parts at the desk: in front and behind.
    desk: (f64, f64),
    /// Whether anything was rounded on the way.
    rounded: bool,
    /// Bytes that leave the desk.
    up_bytes: f64,
    /// Seconds that are the way itself.
    trips: f64,
}

impl<'a> Oracle<'a> {
    pub(crate) fn new(request: &'a Request, cluster: &'a Cluster) -> Oracle<'a> {
        Oracle {
            request,
            cluster,
            sums: RefCell::default(),
        }
    }

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

    /// Tokens of the prompt that are computed.
    fn prompt(&self, way: &Way) -> u32 {
        let asked = self.request.prompt_tokens;
        match self.request.document.filter(|_| way.spans) {
            Some(document) => document.kept_tokens.min(asked),
            None => asked,
        }
    }

    /// Tokens of the prompt that a conversation left in the caches of this very way, if one did: of use only for the prompt as it was.
    fn held(&self, way: &Way) -> Option<u32> {
        let drafts = way.draft.map(|(at, _)| self.request.drafts[at].source);
        let mut most = None;
        for warm in self.request.warm.iter().filter(|_| !way.spans) {
            let model = &self.request.models[way.model].profile;
            let filled = (warm.model, warm.kv) == (model.model, self.request.kv[way.kv].format);
            let mut same = filled && warm.stages.len() == way.stages.len() && warm.draft == drafts;
            same &= (warm.forwarding == Forwarding::Direct, warm.rounded) == (way.direct, way.lossy);
            for (held, (at, start, end)) in warm.stages.iter().zip(&way.stages) {
                let layers = (held.layers.start(), held.layers.end());
                same &= held.node == self.node(*at).node && layers == (*start, *end);
            }
            if same {
                most = most.max(Some(warm.tokens));
            }
        }
        most
    }

    /// Share of the prompt that is still to be computed.
    fn cold(&self, way: &Way) -> f64 {
        let prompt = self.prompt(way);
        let held = self.held(way).unwrap_or(0);
        1.0 - f64::from(held.min(prompt.saturating_sub(1))) / f64::from(prompt.max(1))
    }

    /// A session is asked for before anything is sent, unless a conversation left one open.
    fn opening(&self, way: &Way, at: usize) -> f64 {
        match at {
            0 => 0.0,
            _ if self.held(way).is_some() => 0.0,
            _ => self.link(at).0,
        }
    }

    /// Seconds of some layers one after another.
    fn span(
        &self,
        way: &Way,
        (at, start, end): (usize, usize, usize),
        (rows, decode): (u32, bool),
        context: f64,
    ) -> f64 {
        let key = (way.model, way.kv, at, rows, decode, context.to_bits());
        let mut sums = self.sums.borrow_mut();
        let sums = sums.entry(key).or_insert_with(|| {
            let kv = self.request.kv[way.kv].format;
            let profile = &self.request.models[way.model].profile;
            let mut running = vec![0.0];
            for (number, layer) in profile.layers.iter().enumerate() {
                let unasked = !decode && number + 1 == profile.layers.len();
                let layer = profile.unasked.as_ref().filter(|_| unasked).unwrap_or(layer);
                running.push(running[running.len() - 1] + self.layer(at, layer, rows, context, kv));
            }
            running
        });
        sums[end] - sums[start]
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

    /// Whether a stage's layers alone fit where it is.
    fn has_room(&self, way: &Way, (at, start, end): (usize, usize, usize)) -> bool {
        let kv = self.request.kv[way.kv].format;
        let layers = &self.request.models[way.model].profile.layers[start..end];
        let context = f64::from(self.request.context);
        let bytes = layers
            .iter()
            .map(|l| l.weight_bytes as f64 + l.kv_bytes(kv) * context);
        bytes.sum::<f64>() <= self.node(at).memory as f64
    }

    fn memory(&self, way: &Way) -> bool {
        let choice = &self.request.models[way.model].profile;
        let kv = self.request.kv[way.kv].format;
        let count = self.cluster.nodes.len() + 1;
        (0..count).all(|at| {
            let (mut bytes, mut lacking) = (0.0, 0.0);
            let mut holds = true;
            for (place, start, end) in &way.stages {
                if *place != at {
                    continue;
                }
                for index in *start..*end {
                    let layer = &choice.layers[index];
                    bytes += layer.weight_bytes as f64 + layer.kv_bytes(kv) * f64::from(self.request.context);
                    if !self.node(at).holds_layer(choice.model, index) {
                        lacking += layer.weight_bytes as f64;
                        holds &= self.cluster.desk.holds_layer(choice.model, index);
                    }
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
            // Only the owner's other machines are sent what they lack, and no more than they take.
            let takes = match self.node(at).role {
                Role::Own => self.node(at).caps.accepts_bytes as f64,
                _ => 0.0,
            };
            holds && (lacking == 0.0 || lacking <= takes) && bytes <= self.node(at).memory as f64
        })
    }

    fn pass(&self, way: &Way, rows: u32, context: f64, decode: bool) -> Option<Pass> {
        let choice = &self.request.models[way.model].profile;
        let kv = self.request.kv[way.kv].format;
        let (mut seconds, mut others, mut desk, mut rounded) = (0.0, 0.0f64, (0.0, 0.0), false);
        let (mut up_bytes, mut trips) = (0.0, 0.0);
        let count = way.stages.len();
        let alone = count == 1 && way.stages[0].0 != 0 && way.draft.is_none() && decode;
        for (index, (at, start, end)) in way.stages.iter().copied().enumerate() {
            let mut own = self.node(at).speed.overhead.as_secs_f64();
            own += self.span(way, (at, start, end), (rows, decode), context);
            if decode && index + 1 == count {
                own += self.layer(at, &choice.head, rows, 0.0, kv);
            }
            // Whoever hands on what all layers make of a row was asked about each.
            if !decode && index + 1 < count && end == choice.layers.len() {
                let last = (at, end - 1, end);
                own += self.span(way, last, (rows, true), context)
                    - self.span(way, last, (rows, false), context);
            }
            seconds += own;
            if at == 0 {
                match index {
                    0 => desk.0 += own,
                    _ => desk.1 += own,
                }
                others = others.max(desk.1);
                continue;
            }
            others = others.max(own);
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
                up_bytes += match (before, index) {
                    (Some(_), _) => 0.0,
                    (None, 0) => 6.0 + 2.0 * f64::from(rows),
                    (None, _) => 6.0 + numbers * codec.bytes_per_number,
                };
                seconds += way_trip / 2.0 + crossing;
                trips += way_trip / 2.0;
                others = others.max(crossing);
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
                    trips += trip / 2.0;
                    others = others.max(crossing);
                }
            }
        }
        Some(Pass {
            seconds,
            others,
            desk,
            rounded,
            up_bytes,
            trips,
        })
    }

    /// Weighed seconds of a way, if it may be gone.
    pub(crate) fn cost(&self, way: &Way) -> Option<f64> {
        if !self.allowed(way) || !self.memory(way) || way.spans && way.stages.iter().all(|s| s.0 == 0) {
            return None;
        }
        let request = self.request;
        let choice = &request.models[way.model];
        let tokens = f64::from(self.prompt(way));
        let prompt = self.prompt(way).max(1);
        let answer = f64::from(request.answer_tokens.saturating_sub(1));
        let chunks = prompt.div_ceil(way.chunk);
        let rows = prompt.div_ceil(chunks);
        let drafted = way.draft.map_or(0, |d| u32::from(d.1));
        let decode = self.pass(way, drafted + 1, tokens + answer / 2.0, true)?;
        let prefill = self.pass(way, rows, tokens / 2.0, false)?;
        // Spans are chosen so that less is sent than the documents.
        let whole = 6.0 + 2.0 * f64::from(request.prompt_tokens);
        if way.spans && self.cold(way) * f64::from(chunks) * prefill.up_bytes > whole {
            return None;
        }
        let kv = request.kv[way.kv].format;
        let last = way.stages.last().unwrap().0;

        let mut load = 0.0;
        let (mut queue, mut open) = (0.0f64, 0.0f64);
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
            let waits = self.node(at).queue.as_secs_f64();
            open = open.max(waits + self.opening(way, at));
            queue = queue.max(if at == 0 { waits } else { 0.0 });
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
            credits += flops / all * (price.prompt_token * tokens + price.answer_token * answered);
        }
        if request.objective.credits_max.is_some_and(|most| credits > most) {
            return None;
        }
        // Chunks behind the first wait for the busiest stage, and no machine does more at once than it can.
        let (front, behind) = prefill.desk;
        let busiest = prefill.others.max(front);
        let lag = |stage: f64| lag(chunks, stage, busiest);
        let elsewhere = prefill.seconds - front - behind;
        // While others open their sessions a desk that begins computes. Whoever goes on where a prompt lies waits for everybody.
        let begins = way.stages.len() > 1 && way.stages[0].0 == 0 && self.held(way).is_none();
        let late = if begins { (open - queue).max(0.0) } else { 0.0 };
        let queue = if begins { queue } else { open };
        let in_turn = lag(front) + elsewhere + lag(behind) + f64::from(chunks - 1) * busiest;
        let late = late + elsewhere + lag(behind) + f64::from(chunks - 1) * prefill.others;
        let here = f64::from(chunks) * (front + behind);
        // Who is done with the first layers of all has the last ones of those left that went out while one was away.
        let left = behind / front.max(1e-15);
        let waits = elsewhere * (1.0 - left).clamp(0.0, 1.0);
        // What a conversation left is not computed again; what is new goes all the way.
        let prompt_all =
            prefill.trips + self.cold(way) * (in_turn.max(late).max(here + waits) - prefill.trips);
        let mut first = queue + load + prompt_all;
        first += self.layer(last, &choice.profile.head, 1, 0.0, kv);
        if choice.profile.unasked.is_some() {
            let layers = choice.profile.layers.len();
            first += self.span(way, (last, layers - 1, layers), (1, true), tokens + answer / 2.0);
        }
        // A model at the desk that nobody computed with yet: 32 passes share its packing.
        let readying = match way.stages.iter().any(|stage| stage.0 == 0) {
            true => request.readying,
            false => Readying::default(),
        };
        first += readying.first.as_secs_f64();
        let mut packing = readying.rest.as_secs_f64() * (answer / gain / 32.0).min(1.0);
        let mut round = decode.seconds;
        if let Some((at, length)) = way.draft {
            let draft = &request.drafts[at];
            // It gets ready and reads the prompt while others compute theirs; whoever computes alone is sent guesses with it.
            let before = self.cold(way) * draft.seconds_for_prompt + draft.readying.first.as_secs_f64();
            let hidden = match way.stages.len() {
                1 => 0.0,
                _ => before.min((prompt_all - self.cold(way) * here).max(0.0)),
            };
            first += before - hidden;
            let passes = answer / gain * f64::from(length);
            packing += draft.readying.rest.as_secs_f64() * (passes / 32.0).min(1.0);
            let drafting = f64::from(length) * draft.seconds_per_token;
            round += drafting - power * drafting.min(decode.seconds - decode.desk.0 - decode.desk.1);
        }
        let exact = way
            .stages
            .iter()
            .all(|s| self.node(s.0).exactness == Exactness::Exact)
            && !decode.rounded;
        let document = request.document.filter(|_| way.spans);
        first += document.map_or(0.0, |d| d.seconds);
        let loss = choice.loss
            + request.kv[way.kv].loss
            + document.map_or(0.0, |d| d.loss)
            + if exact {
                0.0
            } else {
                request.objective.inexact_loss
            };
        let time = request.objective.first_token_weight * first + answer * round / gain + packing;
        Some(time * (1.0 + loss) + request.objective.seconds_per_credit * credits)
    }

    /// The least cost of all ways, known to be at most `best`, and a way that costs less than that.
    fn least(&self, best: f64) -> (f64, Option<Way>) {
        let mut best = (best, None);
        for mut way in self.settings() {
            self.extend(&mut way, &mut best);
        }
        best
    }

    fn keep(&self, way: &Way, best: &mut (f64, Option<Way>)) {
        let cost = self.cost(way).unwrap_or(f64::INFINITY);
        if cost < best.0 {
            *best = (cost, Some(way.clone()));
        }
    }

    /// Everything that can be set but the stages.
    fn settings(&self) -> Vec<Way> {
        let request = self.request;
        let whether = |possible: bool| if possible { vec![false, true] } else { vec![false] };
        let direct = whether(request.direct == DirectForwarding::Allowed);
        let lossy = whether(request.codecs.iter().any(|c| !c.codec.is_exact()));
        let spans = whether(request.document.is_some());
        let mut ways = vec![Way::plain(Vec::new(), 0)];
        ways = each(ways, |_| 0..request.models.len(), |way, model| way.model = model);
        ways = each(ways, |_| 0..request.kv.len(), |way, kv| way.kv = kv);
        ways = each(ways, |_| direct.clone(), |way, direct| way.direct = direct);
        ways = each(ways, |_| lossy.clone(), |way, lossy| way.lossy = lossy);
        ways = each(ways, |_| spans.clone(), |way, spans| way.spans = spans);
        ways = each(ways, |_| drafts(request), |way, draft| way.draft = draft);
        each(
            ways,
            |way| chunks(self.prompt(way)),
            |way, chunk| way.chunk = chunk,
        )
    }

    fn extend(&self, way: &mut Way, best: &mut (f64, Option<Way>)) {
        let layers = self.request.models[way.model].profile.layers.len();
        let done = way.stages.last().map_or(0, |s| s.2);
        if done == layers && !way.stages.is_empty() {
            self.keep(way, best);
            if way.stages.last().unwrap().0 != 0 {
                way.stages.push((0, layers, layers));
                self.keep(way, best);
                way.stages.pop();
            }
            return;
        }
        if way.stages.last().is_some_and(|stage| !self.has_room(way, *stage)) || self.at_least(way) >= best.0
        {
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
        let tokens = f64::from(self.prompt(way));
        let prompt = self.prompt(way).max(1);
        let chunks = prompt.div_ceil(way.chunk);
        let rows = prompt.div_ceil(chunks);
        let drafted = way.draft.map_or(0, |d| u32::from(d.1));
        let accept = way.draft.map_or(0.0, |d| request.drafts[d.0].acceptance);
        let gain: f64 = (0..=drafted as i32).map(|n| accept.powi(n)).sum();
        let answer = f64::from(request.answer_tokens.saturating_sub(1));
        let seen = tokens + answer / 2.0;
        let (mut first, mut token, mut busiest, mut here) = (0.0, 0.0, 0.0f64, Vec::new());
        for (index, (at, start, end)) in way.stages.iter().copied().enumerate() {
            let half = tokens / 2.0;
            let prefill = self.span(way, (at, start, end), (rows, false), half);
            busiest = busiest.max(prefill);
            match at {
                0 => here.push(prefill),
                _ => first += prefill,
            }
            token += self.span(way, (at, start, end), (drafted + 1, true), seen);
            if at > 0 && !way.direct && (index > 0 || end < choice.layers.len()) {
                token += self.link(at).0;
                first += self.link(at).0;
            }
        }
        // A stage that makes the busiest one longer adds more to the chunks behind the first than it takes from these.
        first += here.iter().map(|stage| lag(chunks, *stage, busiest)).sum::<f64>();
        first = self.cold(way) * (first + f64::from(chunks - 1) * busiest);
        request.objective.first_token_weight * first + answer * token / gain
    }
}

/// What others wait for a stage of the desk: the first and last pieces of some chunks are short, a third, then two thirds, and whole ones
/// behind those.
fn lag(chunks: u32, stage: f64, busiest: f64) -> f64 {
    match chunks {
        0..=2 => stage,
        _ => [(1.0, 0.0), (3.0, 1.0), (6.0, 3.0)]
            .map(|(through, done)| (through * stage - done * busiest) / 3.0)
            .into_iter()
            .fold(0.0, f64::max),
    }
}

/// Every way with every choice.
fn each<T, I: IntoIterator<Item = T>>(
    ways: Vec<Way>,
    choices: impl Fn(&Way) -> I,
    set: impl Fn(&mut Way, T),
) -> Vec<Way> {
    let with = |way: &Way, choice| {
        let mut way = way.clone();
        set(&mut way, choice);
        way
    };
    let all = ways
        .iter()
        .flat_map(|way| choices(way).into_iter().map(move |c| (way, c)));
    all.map(|(way, choice)| with(way, choice)).collect()
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
        spans: plan.mode == Mode::Preprocess,
    }
}

/// The planner's cost over the least cost, or `None` where nothing can be done and the planner says so.
fn ratio(seed: u64, peers: u32, layers: u32) -> Option<f64> {
    let (request, cluster) = drawn(seed, peers, layers);
    let oracle = Oracle::new(&request, &cluster);
    let Ok(decision) = plan(&request, &cluster) else {
        assert_eq!(
            oracle.least(1e12).0,
            1e12,
            "seed {seed}: refused, but there is a way"
        );
        return None;
    };
    let said = counted_as_said(seed, &oracle, &decision.plan);
    let (least, better) = oracle.least(said);
    if said > TOLD * least {
        let taken = way_of(&request, &cluster, &decision.plan);
        println!(
            "seed {seed}: {:.4} times the best, {taken:?} for {better:?}",
            said / least
        );
    }
    Some(said / least)
}

#[test]
fn what_a_plan_says_it_costs_is_what_is_counted() {
    let counted = (0..400).filter(|seed| {
        let (request, cluster) = drawn(*seed, 5, 16);
        let oracle = Oracle::new(&request, &cluster);
        let said = plan(&request, &cluster).ok();
        said.is_some_and(|decision| counted_as_said(*seed, &oracle, &decision.plan) > 0.0)
    });
    assert!(counted.count() >= 200);
}

/// The plan's cost, after it was counted again.
fn counted_as_said(seed: u64, oracle: &Oracle, plan: &Plan) -> f64 {
    let way = way_of(oracle.request, oracle.cluster, plan);
    let counted = oracle.cost(&way);
    let counted = counted.unwrap_or_else(|| panic!("seed {seed}: breaks a rule: {way:?}"));
    let said = plan.expected.objective;
    assert!(
        (counted / said - 1.0).abs() < 1e-6,
        "seed {seed}: said {said}, counted {counted}: {way:?}"
    );
    said
}

/// What the worst plan of these may cost, over the best.
const WORST: f64 = 1.1;

/// A plan that costs so many times the best is told with it.
const TOLD: f64 = 1.02;

/// Seeds that nobody looked at while the planner was made; three that were far from the best were looked at since.
const HELD_OUT: u64 = 7_310_000;

/// The first thousand clusters from a seed on in which anything can be done: how many are within 2 %, the worst, and how
/// many were drawn.
fn thousand(from: u64) -> (usize, f64, u64) {
    let (mut good, mut worst, mut planned) = (0, 1.0f64, 0);
    for block in (from..).step_by(BLOCK) {
        for (seed, ratio) in (block..).zip(ratios(block)) {
            let Some(ratio) = ratio else { continue };
            planned += 1;
            good += usize::from(ratio <= TOLD);
            worst = worst.max(ratio);
            if planned == 1000 {
                return (good, worst, seed + 1 - from);
            }
        }
    }
    unreachable!("seeds do not end");
}

/// So many seeds are tried beside each other.
const BLOCK: usize = 200;

/// The ratios of a block of seeds, in their order, searched by all cores.
fn ratios(from: u64) -> Vec<Option<f64>> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicUsize::new(0);
    let search = || {
        iter::repeat_with(|| next.fetch_add(1, Ordering::Relaxed))
            .take_while(|place| *place < BLOCK)
            .map(|place| (place, ratio(from + place as u64, 5, 16)))
            .collect::<Vec<_>>()
    };
    let mut found: Vec<_> = thread::scope(|scope| {
        let searches: Vec<_> = (0..cores).map(|_| scope.spawn(search)).collect();
        searches
            .into_iter()
            .flat_map(|search| search.join().unwrap())
            .collect()
    });
    found.sort_by_key(|(place, _)| *place);
    found.into_iter().map(|(_, ratio)| ratio).collect()
}

#[test]
fn within_two_percent_of_exhaustive_search_on_a_thousand_clusters_never_seen_before() {
    let (good, worst, drawn) = thousand(HELD_OUT);
    println!("{good} of 1000 within 2 % of the best, worst {worst:.4}; {drawn} drawn");
    assert!(good >= 990, "{good} of 1000 within 2 %, worst {worst:.3}");
    // What was looked at and mended is not lost again.
    assert!(worst <= WORST, "{good} of 1000 within 2 %, worst {worst:.3}");
}
