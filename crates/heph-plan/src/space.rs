//! The cost model: what a shape costs, from profiles alone. `docs/planner.md` writes the same sums out with units.

use crate::permit::Permitted;
use crate::request::CodecProfile;
use heph_types::{
    Exactness, KvFormat, LayerProfile, Leaves, LinkProfile, ModelProfile, NodeProfile, WireCodec,
};

/// Bytes around the payload of one message.
pub(crate) const FRAME_BYTES: f64 = 64.0;
/// Bytes of one token id on the wire.
const TOKEN_BYTES: f64 = 4.0;
/// Rows of a prompt that may go through a stage together.
const CHUNKS: [u32; 6] = [16, 32, 64, 128, 256, 512];
/// The desk's number among the sites.
pub(crate) const DESK: usize = 0;

/// Consecutive layers at one site. Empty only for a desk that keeps nothing but the head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Segment {
    pub(crate) site: usize,
    pub(crate) start: usize,
    pub(crate) end: usize,
}

/// Everything that is chosen once the model and its cache format are.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Shape {
    /// In layer order; the first embeds, the last runs the head.
    pub(crate) segments: Vec<Segment>,
    /// Whether neighbouring stages send to each other.
    pub(crate) direct: bool,
    /// Whether codecs that are not exact may be used.
    pub(crate) lossy: bool,
    /// Rows of the prompt that go together: an index into [`Space::chunks`].
    pub(crate) chunk: usize,
    /// Which draft, and how many tokens a round.
    pub(crate) draft: Option<(usize, u16)>,
}

/// What a shape costs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Score {
    /// Seconds, all wishes weighed in: what is made small.
    pub(crate) objective: f64,
    pub(crate) first_token: f64,
    pub(crate) per_token: f64,
    pub(crate) credits: f64,
    pub(crate) bytes_up: f64,
    pub(crate) bytes_down: f64,
    pub(crate) exactness: Exactness,
}

/// A machine that may take layers, with running sums over the layers.
pub(crate) struct Site<'a> {
    pub(crate) profile: &'a NodeProfile,
    pub(crate) leaves: Leaves,
    /// Seconds there and back, and bytes a second each way; of no meaning for the desk.
    pub(crate) round_trip: f64,
    pub(crate) up: f64,
    pub(crate) down: f64,
    pub(crate) memory: f64,
    /// Bytes of weights and cache before each layer.
    pub(crate) bytes: Vec<f64>,
    /// Seconds to send what the site lacks, before each layer.
    pub(crate) load: Vec<f64>,
    /// Layers that the site lacks and the desk cannot send, before each layer.
    pub(crate) missing: Vec<f64>,
    /// Share of the prompt that is not in a cache of the whole model there.
    pub(crate) cold: f64,
    /// Running seconds of a prompt's chunk, for each chunk size.
    pub(crate) prefill: Vec<Vec<f64>>,
    /// Running seconds of a decoding pass, for 1, 2, .. rows.
    pub(crate) decode: Vec<Vec<f64>>,
    pub(crate) overhead: f64,
    pub(crate) head_first: f64,
    pub(crate) head: Vec<f64>,
}

/// One model, one cache format, one prompt, on what is permitted.
pub(crate) struct Space<'a> {
    pub(crate) permitted: &'a Permitted<'a>,
    pub(crate) model: &'a ModelProfile,
    /// Index among the request's models and among its cache formats.
    pub(crate) choice: (usize, usize),
    /// Whether spans are chosen here first.
    pub(crate) preprocess: bool,
    pub(crate) sites: Vec<Site<'a>>,
    /// Rows of a chunk and number of chunks.
    pub(crate) chunks: Vec<(u32, u32)>,
    /// Share of all multiplications before each layer; the head's comes last.
    pub(crate) work: Vec<f64>,
    pub(crate) prompt: u32,
    pub(crate) answer: f64,
    /// One plus everything that the person would rather not have.
    patience: f64,
    between: Vec<Option<LinkProfile>>,
}

impl<'a> Space<'a> {
    /// Sums over layers for every site. `preprocess` needs the request's document.
    pub(crate) fn new(permitted: &'a Permitted<'a>, choice: (usize, usize), preprocess: bool) -> Space<'a> {
        let request = permitted.request;
        let model = &request.models[choice.0];
        let kv = request.kv[choice.1];
        let document = request.document.filter(|_| preprocess);
        let prompt = document.map_or(request.prompt_tokens, |d| {
            d.kept_tokens.min(request.prompt_tokens)
        });
        let losses = model.loss + kv.loss + document.map_or(0.0, |d| d.loss);
        let mut space = Space {
            permitted,
            model: &model.profile,
            choice,
            preprocess,
            sites: Vec::new(),
            chunks: chunks(prompt),
            work: work(&model.profile),
            prompt,
            answer: f64::from(request.answer_tokens.saturating_sub(1)),
            patience: 1.0 + losses,
            between: Vec::new(),
        };
        space.sites = space.sites(kv.format);
        space.between = space.links();
        space
    }

    /// Number of layers.
    pub(crate) fn layers(&self) -> usize {
        self.model.layers.len()
    }

    /// What a shape costs, or `None` where it breaks a rule: memory, privacy, a missing layer, the most credits.
    pub(crate) fn score(&self, shape: &Shape) -> Option<Score> {
        if !self.keeps_the_rules(shape) || !self.fits(shape) {
            return None;
        }
        let request = self.permitted.request;
        let rows = shape.draft.map_or(1, |(_, length)| u32::from(length) + 1);
        let (_, chunk_count) = self.chunks[shape.chunk];
        let pass = self.pass(shape, Phase::Decode(rows))?;
        let chunk = self.pass(shape, Phase::Prefill(shape.chunk))?;
        let (gain, draft_seconds, draft_prompt) = self.drafting(shape, &pass);
        let per_token = (pass.seconds + draft_seconds) / gain;

        let load: f64 = self.over(shape, |s, seg| s.load[seg.end] - s.load[seg.start]);
        let queue = shape
            .segments
            .iter()
            .map(|g| self.sites[g.site].profile.queue.as_secs_f64());
        let chosen = request
            .document
            .filter(|_| self.preprocess)
            .map_or(0.0, |d| d.seconds);
        let last = self.sites[shape.segments.last()?.site].head_first;
        let waits = chosen + load + queue.fold(0.0, f64::max) + draft_prompt;
        // A prefix in a cache helps only where the whole model runs in one place.
        let cold = match shape.segments.as_slice() {
            [whole] => self.sites[whole.site].cold,
            _ => 1.0,
        };
        let prefill = cold * (chunk.seconds + f64::from(chunk_count - 1) * chunk.bottleneck);
        let first_token = waits + prefill + last;

        let credits = self.credits(shape, gain, f64::from(rows));
        if request.objective.credits_max.is_some_and(|most| credits > most) {
            return None;
        }
        let exactness = self.exactness(shape);
        let inexact = match exactness {
            Exactness::Exact => 0.0,
            Exactness::Close | Exactness::Unknown => request.objective.inexact_loss,
        };
        let time = request.objective.first_token_weight * first_token + self.answer * per_token;
        let rounds = self.answer / gain;
        let chunk_count = f64::from(chunk_count) * cold;
        Some(Score {
            objective: time * (self.patience + inexact) + request.objective.seconds_per_credit * credits,
            first_token,
            per_token,
            credits,
            bytes_up: chunk_count * chunk.up + rounds * pass.up,
            bytes_down: chunk_count * chunk.down + rounds * pass.down,
            exactness,
        })
    }

    /// The codec of a link: the one that takes least time there and back, of those that the shape may use.
    pub(crate) fn codec(&self, up: f64, down: f64, lossy: bool) -> CodecProfile {
        let usable = self
            .permitted
            .codecs
            .iter()
            .filter(|c| lossy || c.codec.is_exact());
        let seconds =
            |c: &CodecProfile| c.bytes_per_number * (1.0 / up + 1.0 / down) + 2.0 * c.seconds_per_number;
        let best = usable.min_by(|a, b| seconds(a).total_cmp(&seconds(b)));
        best.copied().unwrap_or(CodecProfile::nominal(WireCodec::F32))
    }

    /// The link between two sites that are not the desk.
    pub(crate) fn link(&self, from: usize, to: usize) -> Option<LinkProfile> {
        self.between.get(from * self.sites.len() + to).copied().flatten()
    }

    /// Bytes that the segments of one site take there.
    pub(crate) fn bytes_at(&self, shape: &Shape, site: usize) -> f64 {
        let own = shape.segments.iter().filter(|g| g.site == site);
        let bytes = &self.sites[site].bytes;
        let layers: f64 = own.map(|g| bytes[g.end] - bytes[g.start]).sum();
        let first = shape.segments.first().is_some_and(|g| g.site == site);
        let last = shape.segments.last().is_some_and(|g| g.site == site);
        let draft = shape.draft.filter(|_| site == DESK);
        let draft = draft.map_or(0, |(d, _)| self.permitted.request.drafts[d].memory);
        layers + self.ends_bytes(first, last) + draft as f64
    }

    /// Bytes of token table and head for a site that is first, last or both. Where both are one tensor, either needs it.
    pub(crate) fn ends_bytes(&self, first: bool, last: bool) -> f64 {
        let head = self.model.head.weight_bytes as f64;
        let table = match self.model.embed_bytes {
            0 => head,
            own => own as f64,
        };
        match (first, last) {
            (true, true) => head + self.model.embed_bytes as f64,
            (true, false) => table,
            (false, true) => head,
            (false, false) => 0.0,
        }
    }

    /// Whether the shape is one that the policy allows: an independent second look at what the permit let through.
    pub(crate) fn keeps_the_rules(&self, shape: &Shape) -> bool {
        let (first_local, last_local) = self.permitted.local;
        let layers = self.layers();
        let (Some(first), Some(last)) = (shape.segments.first(), shape.segments.last()) else {
            return false;
        };
        let local = |g: &Segment, wanted: u16| {
            wanted == 0 || g.site == DESK && g.end - g.start >= usize::from(wanted).min(layers)
        };
        local(first, first_local)
            && local(last, last_local)
            && shape.segments.iter().all(|g| match self.sites[g.site].leaves {
                Leaves::Text => true,
                Leaves::Activations => g.start > 0 && g.end < layers,
                Leaves::Nothing | Leaves::Embeddings => false,
            })
    }

    fn fits(&self, shape: &Shape) -> bool {
        let held = |g: &Segment| {
            let missing = &self.sites[g.site].missing;
            missing[g.end] == missing[g.start]
        };
        let room = |site: usize| self.bytes_at(shape, site) <= self.sites[site].memory;
        // A draft takes room at the desk even where no layer does.
        room(DESK) && shape.segments.iter().all(|g| held(g) && room(g.site))
    }

    /// Tokens that a round is worth, and seconds of drafting that a round and the prompt cost besides.
    fn drafting(&self, shape: &Shape, pass: &Pass) -> (f64, f64, f64) {
        let Some((source, length)) = shape.draft else {
            return (1.0, 0.0, 0.0);
        };
        let draft = &self.permitted.request.drafts[source];
        let seconds = f64::from(length) * draft.seconds_per_token;
        let whole = draft.acceptance.powi(i32::from(length) + 1);
        // The next round is drafted while this one is verified elsewhere; that helps when every guess was right.
        let hidden = whole * seconds.min(pass.seconds - pass.desk);
        (
            expected_tokens(draft.acceptance, length),
            seconds - hidden,
            draft.seconds_for_prompt,
        )
    }

    fn credits(&self, shape: &Shape, gain: f64, rows: f64) -> f64 {
        let last = shape.segments.len() - 1;
        let of = |(at, g): (usize, &Segment)| {
            let head = if at == last {
                1.0 - self.work[self.layers()]
            } else {
                0.0
            };
            let share = self.work[g.end] - self.work[g.start] + head;
            let price = self.sites[g.site].profile.price;
            let answer = price.answer_token * self.answer * rows / gain;
            share * (price.prompt_token * f64::from(self.prompt) + answer)
        };
        shape.segments.iter().enumerate().map(of).sum()
    }

    fn exactness(&self, shape: &Shape) -> Exactness {
        let nodes = shape
            .segments
            .iter()
            .map(|g| self.sites[g.site].profile.exactness);
        let class = nodes.max().unwrap_or(Exactness::Exact);
        let rounded = self.boundaries(shape).any(|codec| !codec.is_exact());
        match rounded {
            true => class.max(Exactness::Close),
            false => class,
        }
    }

    /// Codecs of all places where hidden states cross a link.
    fn boundaries<'s>(&'s self, shape: &'s Shape) -> impl Iterator<Item = WireCodec> + 's {
        (0..shape.segments.len()).flat_map(|at| {
            let (before, after) = self.wires(shape, at);
            [before, after].into_iter().flatten().map(|c| c.codec)
        })
    }

    /// Codecs of hidden states into and out of a segment's site; `None` where tokens cross, or nothing does.
    pub(crate) fn wires(&self, shape: &Shape, at: usize) -> (Option<CodecProfile>, Option<CodecProfile>) {
        let segment = shape.segments[at];
        if segment.site == DESK {
            return (None, None);
        }
        let site = &self.sites[segment.site];
        let desk = self.codec(site.up, site.down, shape.lossy);
        let beside = |from: usize, to: usize| match self.link(from, to).filter(|_| shape.direct) {
            Some(link) => self.codec(link.up, link.down, shape.lossy),
            None => desk,
        };
        let remote = |at: Option<usize>| {
            at.and_then(|at| shape.segments.get(at))
                .filter(|g| g.site != DESK)
        };
        let before = remote(at.checked_sub(1)).map_or(desk, |g| beside(g.site, segment.site));
        let after = remote(at.checked_add(1)).map_or(desk, |g| beside(segment.site, g.site));
        let last = at + 1 == shape.segments.len();
        ((at > 0).then_some(before), (!last).then_some(after))
    }

    fn over(&self, shape: &Shape, of: impl Fn(&Site, &Segment) -> f64) -> f64 {
        shape.segments.iter().map(|g| of(&self.sites[g.site], g)).sum()
    }

    /// One pass of some rows through all stages.
    fn pass(&self, shape: &Shape, phase: Phase) -> Option<Pass> {
        let mut pass = Pass::default();
        let last = shape.segments.len() - 1;
        for (at, segment) in shape.segments.iter().enumerate() {
            let site = &self.sites[segment.site];
            let mut seconds = site.overhead + site.span(phase, segment.start, segment.end);
            if let (Phase::Decode(rows), true) = (phase, at == last) {
                seconds += site.head[rows as usize - 1];
            }
            pass.seconds += seconds;
            if segment.site == DESK {
                pass.desk += seconds;
            } else {
                pass.bottleneck = pass.bottleneck.max(seconds);
                self.hop(shape, at, phase, &mut pass)?;
            }
        }
        pass.bottleneck = pass.bottleneck.max(pass.desk);
        Some(pass)
    }

    /// Adds the way to a remote stage, and back to the desk where it does not go on to a neighbour.
    fn hop(&self, shape: &Shape, at: usize, phase: Phase, pass: &mut Pass) -> Option<()> {
        let segment = shape.segments[at];
        let site = &self.sites[segment.site];
        let rows = match phase {
            Phase::Decode(rows) => f64::from(rows),
            Phase::Prefill(chunk) => f64::from(self.chunks[chunk].0),
        };
        let numbers = rows * f64::from(self.model.width);
        let message = |codec: Option<CodecProfile>, tokens: f64| match codec {
            Some(codec) => (
                FRAME_BYTES + numbers * codec.bytes_per_number,
                numbers * codec.seconds_per_number,
            ),
            None => (FRAME_BYTES + tokens * TOKEN_BYTES, 0.0),
        };
        let (into, out) = self.wires(shape, at);
        let (in_bytes, in_work) = message(into, rows);
        let (out_bytes, out_work) = message(
            out,
            if matches!(phase, Phase::Decode(_)) {
                rows
            } else {
                1.0
            },
        );
        let alone = shape.segments.len() == 1 && shape.draft.is_none() && matches!(phase, Phase::Decode(_));
        if alone {
            // The node goes on by itself and tells each token; only the telling can hold it up.
            pass.seconds = pass.seconds.max(out_bytes / site.down);
            pass.down += out_bytes;
            return Some(());
        }
        let beside = |other: usize| shape.segments.get(other).is_some_and(|g| g.site != DESK);
        let way_in = match at.checked_sub(1).filter(|before| shape.direct && beside(*before)) {
            Some(before) => {
                let link = self.link(shape.segments[before].site, segment.site)?;
                (link.round_trip_seconds(), link.up)
            }
            None => {
                pass.up += in_bytes;
                (site.round_trip, site.up)
            }
        };
        pass.cross(way_in, in_bytes, in_work);
        if !(shape.direct && beside(at + 1)) {
            pass.down += out_bytes;
            pass.cross((site.round_trip, site.down), out_bytes, out_work);
        }
        Some(())
    }

    fn sites(&self, kv: KvFormat) -> Vec<Site<'a>> {
        let cluster = self.permitted.cluster;
        let desk = (&cluster.desk, Leaves::Text, (0.0, 1.0, 1.0));
        let peers = self.permitted.peers.iter().map(|(peer, leaves)| {
            let cap = peer.profile.caps.bytes_per_second.unwrap_or(f64::INFINITY);
            let way = (
                peer.link.round_trip_seconds(),
                peer.link.up.min(cap),
                peer.link.down.min(cap),
            );
            (&peer.profile, *leaves, way)
        });
        let all = std::iter::once(desk).chain(peers);
        all.map(|(profile, leaves, way)| self.site(profile, leaves, way, kv))
            .collect()
    }

    fn site(&self, profile: &'a NodeProfile, leaves: Leaves, way: (f64, f64, f64), kv: KvFormat) -> Site<'a> {
        let request = self.permitted.request;
        let desk = &self.permitted.cluster.desk;
        let share = profile.caps.cpu.map_or(1.0, |s| s.min(1.0));
        let seconds =
            |l: &LayerProfile, rows, context| profile.speed.layer_seconds(l, rows, context, kv) / share;
        let running = |of: &dyn Fn(usize, &LayerProfile) -> f64| running(&self.model.layers, of);
        let seen = f64::from(self.prompt) + self.answer / 2.0;
        let half = f64::from(self.prompt) / 2.0;
        let (round_trip, up, down) = way;
        let longest = request
            .drafts
            .iter()
            .map(|d| d.length_max)
            .max()
            .unwrap_or(0)
            .min(DRAFT_MAX);
        let rows = 1..=u32::from(longest) + 1;
        let warm = request
            .warm
            .iter()
            .filter(|w| w.node == profile.node)
            .map(|w| w.tokens)
            .max();
        let cold = 1.0
            - f64::from(warm.unwrap_or(0).min(self.prompt.saturating_sub(1))) / f64::from(self.prompt.max(1));
        let held = |of: &NodeProfile, at| of.holds_layer(self.model.model, at);
        Site {
            profile,
            leaves,
            round_trip,
            up,
            down,
            memory: profile.memory_usable() as f64,
            bytes: running(&|_, l| l.weight_bytes as f64 + l.kv_bytes(kv) * f64::from(request.context)),
            load: running(&|at, l| match held(profile, at) {
                true => 0.0,
                false => l.weight_bytes as f64 / up,
            }),
            missing: running(&|at, _| match held(profile, at) || held(desk, at) {
                true => 0.0,
                false => 1.0,
            }),
            cold,
            prefill: self
                .chunks
                .iter()
                .map(|(rows, _)| running(&|_, l| seconds(l, *rows, half)))
                .collect(),
            decode: rows
                .clone()
                .map(|rows| running(&|_, l| seconds(l, rows, seen)))
                .collect(),
            overhead: profile.speed.overhead.as_secs_f64(),
            head_first: seconds(&self.model.head, 1, 0.0),
            head: rows.map(|rows| seconds(&self.model.head, rows, 0.0)).collect(),
        }
    }

    fn links(&self) -> Vec<Option<LinkProfile>> {
        let count = self.sites.len();
        let mut links = vec![None; count * count];
        let at = |node| self.sites.iter().position(|s| s.profile.node == node);
        for known in &self.permitted.cluster.between {
            let (Some(from), Some(to)) = (at(known.from), at(known.to)) else {
                continue;
            };
            let back = LinkProfile {
                up: known.link.down,
                down: known.link.up,
                ..known.link
            };
            links[from * count + to] = Some(known.link);
            links[to * count + from].get_or_insert(back);
        }
        links
    }
}

/// Longest round of drafted tokens that a plan may choose.
pub(crate) const DRAFT_MAX: u16 = 16;

/// Tokens that a round of `length` drafted ones is worth when each is accepted with this probability.
pub(crate) fn expected_tokens(acceptance: f64, length: u16) -> f64 {
    (0..=i32::from(length)).map(|n| acceptance.powi(n)).sum()
}

/// Which of the two passes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Phase {
    /// A chunk of the prompt, by index.
    Prefill(usize),
    /// So many rows of the answer.
    Decode(u32),
}

impl Site<'_> {
    /// Running seconds before each layer.
    pub(crate) fn sums(&self, phase: Phase) -> &[f64] {
        match phase {
            Phase::Prefill(chunk) => &self.prefill[chunk],
            Phase::Decode(rows) => &self.decode[rows as usize - 1],
        }
    }

    fn span(&self, phase: Phase, start: usize, end: usize) -> f64 {
        let sums = self.sums(phase);
        sums[end] - sums[start]
    }
}

/// Seconds and bytes of one pass.
#[derive(Debug, Clone, Copy, Default)]
struct Pass {
    seconds: f64,
    /// Of these, spent computing at the desk.
    desk: f64,
    /// The busiest machine or wire: what a long row of chunks waits for.
    bottleneck: f64,
    up: f64,
    down: f64,
}

impl Pass {
    /// Half a round trip and the bytes of one message.
    fn cross(&mut self, (round_trip, rate): (f64, f64), bytes: f64, work: f64) {
        let busy = bytes / rate + work;
        self.seconds += round_trip / 2.0 + busy;
        self.bottleneck = self.bottleneck.max(busy);
    }
}

/// Ways to cut a prompt into chunks of nearly equal size: rows of one and how many.
fn chunks(prompt: u32) -> Vec<(u32, u32)> {
    let whole = prompt.max(1);
    let smaller = CHUNKS.iter().filter(|c| **c < whole).map(|c| {
        let count = whole.div_ceil(*c);
        (whole.div_ceil(count), count)
    });
    smaller.chain([(whole, 1)]).collect()
}

/// Share of a token's multiplications before each layer.
fn work(model: &ModelProfile) -> Vec<f64> {
    let sums = running(&model.layers, &|_, l| l.flops_per_token);
    let all = (sums.last().copied().unwrap_or(0.0) + model.head.flops_per_token).max(f64::MIN_POSITIVE);
    sums.into_iter().map(|s| s / all).collect()
}

/// Running sums, one more than there are layers. A sum that became infinite stays so.
fn running(layers: &[LayerProfile], of: &dyn Fn(usize, &LayerProfile) -> f64) -> Vec<f64> {
    let mut sum = 0.0;
    let sums = layers.iter().enumerate().map(|(at, layer)| {
        sum += of(at, layer);
        sum
    });
    std::iter::once(0.0).chain(sums).collect()
}
