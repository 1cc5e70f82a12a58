//! The cheapest cover of all layers by nodes in a fixed order: the additive part of the cost, solved exactly by one pass
//! over the nodes with a sliding minimum over the layers.

use crate::ground::{DESK, Way};
use crate::plan::Forwarding;
use crate::score::{TOKEN_BYTES, expected_tokens};
use crate::space::{Phase, Segment, Space};
use core::cell::OnceCell;
use heph_types::Leaves;

/// How many layers the desk takes at least at the beginning, and how many it keeps at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DeskEnds {
    pub(crate) prefix_min: usize,
    pub(crate) suffix: Option<usize>,
}

impl DeskEnds {
    pub(crate) fn new(prefix_min: usize, suffix: Option<usize>) -> DeskEnds {
        DeskEnds { prefix_min, suffix }
    }
}

/// What a cover is made for besides the layers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Wishes {
    /// Which draft, and how many tokens a round.
    pub(crate) draft: Option<(usize, u16)>,
    /// Seconds that a credit is worth.
    pub(crate) credit: f64,
    /// Share of every further chunk's seconds that each stage is charged for: 0 where only one chunk's pass counts, 1 where
    /// all chunks wait for one another.
    pub(crate) pace: f64,
    /// Where stages send to each other, the cost of a node counts the way from the one before it in the order.
    pub(crate) forwarding: Forwarding,
}

/// How hidden states come to a node and leave it.
#[derive(Clone, Copy)]
pub(crate) struct Hop<'w> {
    /// From a neighbour; `None` from the desk.
    pub(crate) from: Option<&'w Way>,
    /// Whether it embeds.
    pub(crate) first: bool,
    /// Whether it runs the head.
    pub(crate) last: bool,
    /// Whether its results go to the desk.
    pub(crate) back: bool,
}

impl Hop<'_> {
    /// From the desk and back to it, somewhere in the middle.
    pub(crate) const MIDDLE: Hop<'static> = Hop {
        from: None,
        first: false,
        last: false,
        back: true,
    };
}

/// How seconds of the prompt and of the answer weigh in the additive cost, for one chunk size and one draft.
pub(crate) struct Rates<'s, 'a> {
    space: &'s Space<'a>,
    chunk: usize,
    rows: u32,
    forwarding: Forwarding,
    first: f64,
    /// Passes of a chunk that a stage is charged for.
    chunk_passes: f64,
    tokens: f64,
    draft_memory: f64,
    /// Seconds of a credit, for a token of the prompt and a token of the answer.
    prompt_price: f64,
    answer_price: f64,
    /// Running cost before each layer, by site.
    sums: Vec<OnceCell<Vec<f64>>>,
}

/// Rooms that a cover works in, kept from one to the next.
#[derive(Default)]
pub(crate) struct Bench {
    best: Vec<f64>,
    new: Vec<f64>,
    choices: Vec<u32>,
    window: Vec<usize>,
}

/// No layers of this node end here.
const SKIPPED: u32 = u32::MAX;

impl<'s, 'a> Rates<'s, 'a> {
    pub(crate) fn new(space: &'s Space<'a>, chunk: usize, wishes: Wishes) -> Rates<'s, 'a> {
        let Wishes {
            draft,
            credit,
            pace,
            forwarding,
        } = wishes;
        let further = f64::from(space.chunks[chunk].1 - 1);
        let request = space.ground.permitted.request;
        let objective = &request.objective;
        let of = draft.map(|(at, length)| (&request.drafts[at], length));
        let gain = of.map_or(1.0, |(d, length)| expected_tokens(d.acceptance, length));
        let rows = of.map_or(1, |(_, length)| u32::from(length) + 1);
        // Losses lengthen time and not credits.
        let credit = credit / space.patience;
        Rates {
            space,
            chunk,
            rows,
            forwarding,
            first: objective.first_token_weight,
            chunk_passes: 1.0 + pace * further,
            tokens: space.answer / gain,
            draft_memory: of.map_or(0.0, |(d, _)| d.memory as f64),
            prompt_price: credit * f64::from(space.prompt),
            answer_price: credit * space.answer * f64::from(rows) / gain,
            sums: (0..space.ground.sites.len()).map(|_| OnceCell::new()).collect(),
        }
    }

    /// Running cost before each layer at a site.
    pub(crate) fn sums(&self, site: usize) -> &[f64] {
        self.sums[site].get_or_init(|| {
            let space = self.space;
            let price = space.ground.sites[site].profile.price;
            let credits = price.prompt_token * self.prompt_price + price.answer_token * self.answer_price;
            let prefill = &space.sums(site, Phase::Prefill(self.chunk)).layers;
            let decode = &space.sums(site, Phase::Decode(self.rows)).layers;
            let sum = |at: usize| {
                let prompt = self.chunk_passes * prefill[at] + space.load_seconds(site, 0, at);
                self.first * prompt + self.tokens * decode[at] + credits * space.work[at]
            };
            (0..=space.layers()).map(sum).collect()
        })
    }

    /// Cost of using a remote site at all: the way there and back, its overhead and queue, and the head where it is last.
    pub(crate) fn fixed(&self, site: usize, hop: Hop) -> f64 {
        let of = &self.space.ground.sites[site];
        let numbers = f64::from(self.space.model.width) * of.way.codec(false).bytes_per_number;
        let bytes = |tokens: bool| if tokens { TOKEN_BYTES } else { numbers };
        let (trip, rate) = match hop.from {
            Some(way) => (way.round_trip, way.up),
            None => (of.way.round_trip, of.way.up),
        };
        let back = match hop.back {
            true => (of.way.round_trip / 2.0, bytes(hop.last) / of.way.down),
            false => (0.0, 0.0),
        };
        let each = bytes(hop.first) / rate + back.1;
        let way = |rows: f64| trip / 2.0 + back.0 + of.overhead + rows * each;
        let head = match hop.last {
            true => self.space.sums(site, Phase::Decode(self.rows)).head,
            false => 0.0,
        };
        let prompt = way(f64::from(self.space.chunks[self.chunk].0)) + of.queue;
        self.first * prompt + self.tokens * (way(f64::from(self.rows)) + head)
    }

    /// Seconds that a chunk keeps the busiest machine of these stages busy.
    pub(crate) fn busiest(&self, segments: &[Segment]) -> f64 {
        let seconds = |g: &Segment| {
            let sums = self.space.sums(g.site, Phase::Prefill(self.chunk));
            sums.span(g.start, g.end)
        };
        segments.iter().map(seconds).fold(0.0, f64::max)
    }

    /// The cheapest cover of all layers by some of the nodes in this order, no stage longer than the bound.
    pub(crate) fn cover(
        &self,
        order: &[usize],
        ends: DeskEnds,
        bound: f64,
        bench: &mut Bench,
    ) -> Option<Vec<Segment>> {
        let layers = self.space.layers();
        let target = layers - ends.suffix.unwrap_or(0);
        self.desk_prefixes(ends, bound, &mut bench.best)?;
        bench.choices.clear();
        bench.choices.resize(order.len() * (target + 1), SKIPPED);
        for (turn, site) in order.iter().enumerate() {
            let before = turn.checked_sub(1).map(|t| order[t]);
            let from = match (self.forwarding, before) {
                (Forwarding::Direct, Some(before)) => match self.space.ground.between(before, *site) {
                    Some(way) => Some(way),
                    None => continue,
                },
                _ => None,
            };
            self.extend((*site, from), turn, ends, bound, bench);
        }
        bench.best[target].is_finite().then_some(())?;
        let mut segments = Vec::new();
        if ends.suffix.is_some() {
            segments.push(Segment::new(DESK, target, layers));
        }
        let mut at = target;
        for (turn, site) in order.iter().enumerate().rev() {
            let start = bench.choices[turn * (target + 1) + at];
            if start != SKIPPED {
                segments.push(Segment::new(*site, start as usize, at));
                at = start as usize;
            }
        }
        if at > 0 {
            segments.push(Segment::new(DESK, 0, at));
        }
        segments.reverse();
        join(&mut segments);
        Some(segments)
    }

    /// Cost of having run the first layers at the desk, for each number of them.
    fn desk_prefixes(&self, ends: DeskEnds, bound: f64, best: &mut Vec<f64>) -> Option<()> {
        let space = self.space;
        let layers = space.layers();
        let suffix = ends.suffix.unwrap_or(0);
        let sums = self.sums(DESK);
        let prefill = &space.sums(DESK, Phase::Prefill(self.chunk)).layers;
        let spent = |sums: &[f64], a: usize| sums[a] + sums[layers] - sums[layers - suffix];
        let memory = space.ground.sites[DESK].memory - self.draft_memory;
        best.clear();
        best.extend((0..=layers - suffix).map(|a| {
            let bytes = spent(&space.bytes, a) + space.ends_bytes(a > 0, ends.suffix.is_some());
            let held = space.can_have(DESK, 0, a) && space.can_have(DESK, layers - suffix, layers);
            // All layers at the desk is no cover by nodes; the whole model in one place is looked at by itself.
            let shares = a < layers - suffix;
            match shares && a >= ends.prefix_min && held && bytes <= memory && spent(prefill, a) <= bound {
                true => spent(sums, a),
                false => f64::INFINITY,
            }
        }));
        best.iter().any(|c| c.is_finite()).then_some(())
    }

    /// Lets one more node take layers, anywhere after what is already covered. Notes, for each end, where it began.
    fn extend(
        &self,
        (site, from): (usize, Option<&'s Way>),
        turn: usize,
        ends: DeskEnds,
        bound: f64,
        bench: &mut Bench,
    ) {
        let space = self.space;
        let (layers, target) = (space.layers(), bench.best.len() - 1);
        let node = &space.ground.sites[site];
        let sums = self.sums(site);
        let prefill = &space.sums(site, Phase::Prefill(self.chunk)).layers;
        let sees_text = node.leaves == Leaves::Text;
        let from_start = sees_text && bench.best[0].is_finite();
        let direct = self.forwarding == Forwarding::Direct;
        // What using the node costs besides its layers: where it goes on after another and where it begins, by whether
        // something comes after it.
        let hop = |first: bool, end: usize| {
            let last = end == layers && ends.suffix.is_none();
            Hop {
                from: from.filter(|_| !first),
                first,
                last,
                back: !direct || end == target,
            }
        };
        let fixed = [0, target].map(|end| [false, true].map(|first| self.fixed(site, hop(first, end))));
        let Bench {
            best,
            new,
            choices,
            window,
        } = bench;
        let choice = &mut choices[turn * (target + 1)..][..target + 1];
        new.clone_from(best);
        window.clear();
        let mut front = 0;
        let room_last = node.memory - space.ends_bytes(false, true);
        let target = if sees_text { target } else { target.min(layers - 1) };
        let (bytes, whole) = (&space.bytes[..=layers], space.can_have(site, 0, layers));
        for end in 1..=target {
            let last = end == layers && ends.suffix.is_none();
            let [inner, outer] = fixed[usize::from(end + 1 == best.len())];
            let memory = if last { room_last } else { node.memory };
            let fits = |start: usize| {
                bytes[end] - bytes[start] <= memory
                    && prefill[end] - prefill[start] <= bound
                    && (whole || space.can_have(site, start, end))
            };
            let start = end - 1;
            if start > 0 && best[start].is_finite() {
                let value = |s: usize| best[s] - sums[s];
                while window.len() > front && value(window[window.len() - 1]) >= value(start) {
                    window.pop();
                }
                window.push(start);
            }
            while window.len() > front && !fits(window[front]) {
                front += 1;
            }
            let mut take = |start: usize, fixed: f64| {
                let cost = best[start] + sums[end] - sums[start] + fixed;
                if cost < new[end] {
                    new[end] = cost;
                    choice[end] = start as u32;
                }
            };
            if let Some(start) = window.get(front) {
                take(*start, inner);
            }
            if from_start && fits(0) && space.bytes[end] + space.ends_bytes(true, last) <= node.memory {
                take(0, outer);
            }
        }
        std::mem::swap(best, new);
    }
}

/// Joins neighbours of one site into one segment.
pub(crate) fn join(segments: &mut Vec<Segment>) {
    segments.dedup_by(|next, kept| {
        let same = next.site == kept.site;
        if same {
            kept.end = next.end;
        }
        same
    });
}
