//! Finds the shape that costs least: seeds by dynamic programming over layers and nodes, then small changes until none
//! helps.
//!
//! For a fixed order of nodes the additive part of the cost is solved exactly by one pass over the nodes with a sliding
//! minimum over the layers. What is not additive (the busiest stage of a pipelined prompt) is swept as a bound. What an
//! order misses, the small changes find.

use crate::plan::Mode;
use crate::space::{DESK, DRAFT_MAX, Phase, Score, Segment, Shape, Space};
use std::collections::VecDeque;

/// Small changes that one descent may make.
const STEPS_MAX: usize = 64;
/// Bounds on the busiest stage that are tried, each four fifths of the busiest stage before.
const BOUNDS: usize = 8;
/// Lengths of a draft that are tried.
const LENGTHS: [u16; 10] = [1, 2, 3, 4, 5, 6, 8, 10, 12, DRAFT_MAX];
/// Clusters up to this size are searched from several orders of their nodes.
const SMALL: usize = 6;

/// How much is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effort {
    /// For the plan itself.
    Full,
    /// To see whether anything better exists at all.
    Glance,
}

/// The best shape of each mode so far.
pub(crate) struct Search<'s, 'a> {
    space: &'s Space<'a>,
    effort: Effort,
    pub(crate) best: [Option<(Shape, Score)>; Mode::ALL.len()],
}

impl<'s, 'a> Search<'s, 'a> {
    /// Searches a space. With `only`, every other mode is left as it falls out.
    pub(crate) fn run(
        space: &'s Space<'a>,
        effort: Effort,
        only: Option<Mode>,
        seed: Option<&Shape>,
    ) -> Search<'s, 'a> {
        let mut search = Search {
            space,
            effort,
            best: Default::default(),
        };
        seed.map(|shape| search.tune(shape));
        search.whole();
        search.layered();
        search.every_order();
        let modes = Mode::ALL.into_iter().filter(|m| only.is_none_or(|o| o == *m));
        match effort {
            Effort::Full => modes.for_each(|mode| search.descend(mode)),
            Effort::Glance => {
                let best = modes.filter_map(|m| Some((m, search.best[m.index()].as_ref()?.1.objective)));
                let best = best.min_by(|a, b| a.1.total_cmp(&b.1));
                best.into_iter().for_each(|(mode, _)| search.descend(mode));
            }
        }
        search
    }

    /// Scores a shape, and keeps it where it is the best of its mode.
    fn consider(&mut self, shape: &Shape) -> Option<f64> {
        let score = self.space.score(shape)?;
        let mode = mode(self.space, shape)?;
        let best = &mut self.best[mode.index()];
        if best.as_ref().is_none_or(|(_, b)| score.objective < b.objective) {
            *best = Some((shape.clone(), score));
        }
        Some(score.objective)
    }

    /// The whole model in one place.
    fn whole(&mut self) {
        let layers = self.space.layers();
        for site in 0..self.space.sites.len() {
            let segment = Segment {
                site,
                start: 0,
                end: layers,
            };
            self.tune(&self.plain(vec![segment]));
        }
    }

    fn plain(&self, segments: Vec<Segment>) -> Shape {
        Shape {
            segments,
            direct: false,
            lossy: false,
            chunk: self.space.chunks.len() - 1,
            draft: None,
        }
    }

    /// Seeds for several stages.
    fn layered(&mut self) {
        if self.space.sites.len() < 2 {
            return;
        }
        let chunks = self.seed_chunks();
        let drafts = self.seed_drafts();
        for order in self.orders() {
            for chunk in &chunks {
                for draft in &drafts {
                    for ends in self.desk_ends() {
                        self.sweep(&order, *chunk, *draft, ends);
                    }
                }
            }
        }
    }

    fn seed_chunks(&self) -> Vec<usize> {
        let last = self.space.chunks.len() - 1;
        let mut chunks = match self.effort {
            Effort::Full => vec![last.min(1), last.min(3), last],
            Effort::Glance => vec![last.min(3)],
        };
        chunks.dedup();
        chunks
    }

    fn seed_drafts(&self) -> Vec<Option<(usize, u16)>> {
        let drafts = &self.space.permitted.request.drafts;
        let usable = drafts.iter().enumerate().filter(|(_, d)| d.length_max > 0);
        let best = usable.max_by(|a, b| a.1.acceptance.total_cmp(&b.1.acceptance));
        let seed = best.map(|(at, d)| Some((at, d.length_max.min(4))));
        std::iter::once(None).chain(seed).collect()
    }

    /// Orders of the nodes to try: those that are best for one token first, and for a small cluster other orders too.
    fn orders(&self) -> Vec<Vec<usize>> {
        let space = self.space;
        let sites = 1..space.sites.len();
        let all = space.layers();
        let by = |key: &dyn Fn(usize) -> f64| {
            let mut order: Vec<usize> = sites.clone().collect();
            order.sort_by(|a, b| key(*a).total_cmp(&key(*b)));
            order
        };
        let speed = by(&|s| space.sites[s].decode[0][all]);
        let whole = by(&|s| {
            let site = &space.sites[s];
            site.round_trip + site.decode[0][all] * (site.bytes[all] / site.memory.max(1.0)).min(1.0)
        });
        if self.effort == Effort::Glance {
            return vec![whole];
        }
        let reversed: Vec<usize> = speed.iter().rev().copied().collect();
        let mut orders = vec![whole, speed, reversed];
        orders.dedup();
        orders
    }

    /// Every order of a small cluster's nodes, each tried once: what links between nodes, layers that lie ready and
    /// uneven layers ask for shows only in the order.
    fn every_order(&mut self) {
        let sites: Vec<usize> = (1..self.space.sites.len()).collect();
        if self.effort == Effort::Glance || sites.len() >= SMALL {
            return;
        }
        let chunk = self.space.chunks.len() / 2;
        for order in permutations(&sites) {
            for draft in self.seed_drafts() {
                for ends in self.desk_ends().into_iter().take(4) {
                    if let Some(segments) = self.cover(&order, chunk, draft, ends, f64::INFINITY) {
                        let draft_only = self.plain(segments);
                        self.tune(&Shape { draft, ..draft_only });
                    }
                }
            }
        }
    }

    /// What the desk keeps at the end: nothing, only the head, or layers; and whether it may begin.
    fn desk_ends(&self) -> Vec<DeskEnds> {
        let (first, last) = self.space.permitted.local;
        let layers = self.space.layers();
        let (first, last) = (usize::from(first).min(layers), usize::from(last).min(layers));
        let one = 1.min(layers);
        let mut ends = vec![
            DeskEnds::new(first.max(one), Some(last.max(one))),
            DeskEnds::new(first.max(one), Some(last)),
            DeskEnds::new(first, None),
            DeskEnds::new(first, Some(last)),
        ];
        if self.effort == Effort::Full && layers <= 2 * SMALL * 4 {
            ends.extend(
                (1..layers)
                    .step_by(layers.div_ceil(8))
                    .map(|l| DeskEnds::new(first, Some(l.max(last)))),
            );
        }
        ends.retain(|e| last == 0 || e.suffix.is_some());
        ends.dedup();
        ends
    }

    /// Tightens the bound on the busiest stage, and considers what each bound leads to.
    fn sweep(&mut self, order: &[usize], chunk: usize, draft: Option<(usize, u16)>, ends: DeskEnds) {
        let mut bound = f64::INFINITY;
        let bounds = match (self.space.chunks[chunk].1, self.effort) {
            (1, _) => 1,
            (_, Effort::Full) => BOUNDS,
            (_, Effort::Glance) => 3,
        };
        for _ in 0..bounds {
            let Some(segments) = self.cover(order, chunk, draft, ends, bound) else {
                return;
            };
            let busiest = segments.iter().map(|g| {
                let sums = &self.space.sites[g.site].prefill[chunk];
                sums[g.end] - sums[g.start]
            });
            bound = busiest.fold(0.0, f64::max) * 0.8;
            let shape = Shape {
                chunk,
                draft,
                ..self.plain(segments)
            };
            self.tune(&shape);
        }
    }

    /// The cheapest cover of all layers by some of the nodes in this order, no stage longer than the bound.
    fn cover(
        &self,
        order: &[usize],
        chunk: usize,
        draft: Option<(usize, u16)>,
        ends: DeskEnds,
        bound: f64,
    ) -> Option<Vec<Segment>> {
        let layers = self.space.layers();
        let target = layers - ends.suffix.unwrap_or(0);
        let rates = Rates::new(self.space, chunk, draft);
        let mut best = self.desk_prefixes(&rates, ends, bound)?;
        best.truncate(target + 1);
        let mut choices: Vec<Vec<usize>> = Vec::with_capacity(order.len());
        for site in order {
            choices.push(self.extend(&rates, *site, &mut best, ends, bound));
        }
        best[target].is_finite().then_some(())?;
        let mut segments = Vec::new();
        let mut at = target;
        for (site, choice) in order.iter().zip(&choices).rev() {
            let start = choice[at];
            if start != SKIPPED {
                segments.push(Segment {
                    site: *site,
                    start,
                    end: at,
                });
                at = start;
            }
        }
        if at > 0 {
            segments.push(Segment {
                site: DESK,
                start: 0,
                end: at,
            });
        }
        segments.reverse();
        if ends.suffix.is_some() {
            segments.push(Segment {
                site: DESK,
                start: target,
                end: layers,
            });
        }
        Some(joined(segments))
    }

    /// Cost of having run the first layers at the desk, for each number of them.
    fn desk_prefixes(&self, rates: &Rates, ends: DeskEnds, bound: f64) -> Option<Vec<f64>> {
        let space = self.space;
        let layers = space.layers();
        let desk = &space.sites[DESK];
        let suffix = ends.suffix.unwrap_or(0);
        let sums = rates.sums(space, DESK);
        let prefill = &desk.prefill[rates.chunk];
        let spent = |sums: &[f64], a: usize| sums[a] + sums[layers] - sums[layers - suffix];
        let costs = (0..=layers - suffix).map(|a| {
            let bytes = spent(&desk.bytes, a) + space.ends_bytes(a > 0, ends.suffix.is_some());
            let fits = bytes + rates.draft_memory <= desk.memory && spent(prefill, a) <= bound;
            let held = spent(&desk.missing, a) == 0.0;
            match a >= ends.prefix_min && fits && held {
                true => spent(&sums, a),
                false => f64::INFINITY,
            }
        });
        let costs: Vec<f64> = costs.collect();
        costs.iter().any(|c| c.is_finite()).then_some(costs)
    }

    /// Lets one more node take layers, anywhere after what `best` already covers. Gives, for each end, where it began.
    fn extend(&self, rates: &Rates, site: usize, best: &mut [f64], ends: DeskEnds, bound: f64) -> Vec<usize> {
        let space = self.space;
        let (layers, target) = (space.layers(), best.len() - 1);
        let node = &space.sites[site];
        let sums = rates.sums(space, site);
        let prefill = &node.prefill[rates.chunk];
        let sees_text = node.leaves == heph_types::Leaves::Text;
        let mut choice = vec![SKIPPED; target + 1];
        let mut new = best.to_vec();
        let mut window: VecDeque<usize> = VecDeque::new();
        for end in 1..=target {
            if end == layers && !sees_text {
                break;
            }
            let last = end == layers && ends.suffix.is_none();
            let fits = |start: usize| {
                node.bytes[end] - node.bytes[start] + space.ends_bytes(start == 0, last) <= node.memory
                    && prefill[end] - prefill[start] <= bound
                    && node.missing[end] == node.missing[start]
            };
            let start = end - 1;
            if start > 0 && best[start].is_finite() {
                let value = |s: usize| best[s] - sums[s];
                while window.back().is_some_and(|b| value(*b) >= value(start)) {
                    window.pop_back();
                }
                window.push_back(start);
            }
            while window.front().is_some_and(|s| !fits(*s)) {
                window.pop_front();
            }
            let from_start = (sees_text && best[0].is_finite() && fits(0)).then_some(0);
            for start in window.front().copied().into_iter().chain(from_start) {
                let cost = best[start] + sums[end] - sums[start] + rates.fixed(space, site, start == 0, last);
                if cost < new[end] {
                    new[end] = cost;
                    choice[end] = start;
                }
            }
        }
        best.copy_from_slice(&new);
        choice
    }

    /// Tries, one after another, what does not move layers: draft, chunk, codecs, forwarding.
    fn tune(&mut self, shape: &Shape) -> Option<(Shape, f64)> {
        let mut best = shape.clone();
        let mut cost = self.consider(&best).unwrap_or(f64::INFINITY);
        for _ in 0..2 {
            let before = cost;
            for other in self.settings(&best) {
                let other_cost = self.consider(&other).unwrap_or(f64::INFINITY);
                if other_cost < cost {
                    (best, cost) = (other, other_cost);
                }
            }
            if cost == before {
                break;
            }
        }
        cost.is_finite().then_some((best, cost))
    }

    /// The same stages with one other setting each.
    fn settings(&self, shape: &Shape) -> Vec<Shape> {
        let request = self.space.permitted.request;
        let mut others = Vec::new();
        for (source, draft) in request.drafts.iter().enumerate() {
            let lengths = LENGTHS.into_iter().filter(|l| *l <= draft.length_max);
            others.extend(lengths.map(|length| Shape {
                draft: Some((source, length)),
                ..shape.clone()
            }));
        }
        others.push(Shape {
            draft: None,
            ..shape.clone()
        });
        others.extend((0..self.space.chunks.len()).map(|chunk| Shape {
            chunk,
            ..shape.clone()
        }));
        if self.space.permitted.codecs.iter().any(|c| !c.codec.is_exact()) {
            others.push(Shape {
                lossy: !shape.lossy,
                ..shape.clone()
            });
        }
        if request.direct == crate::request::DirectForwarding::Allowed {
            others.push(Shape {
                direct: !shape.direct,
                ..shape.clone()
            });
        }
        others.retain(|other| other != shape);
        others
    }

    /// Makes small changes to the best shape of a mode until none helps.
    fn descend(&mut self, wanted: Mode) {
        for _ in 0..STEPS_MAX {
            let Some((shape, score)) = self.best[wanted.index()].clone() else {
                return;
            };
            let mut found: Option<(Shape, f64)> = None;
            for other in crate::moves::neighbours(self.space, &shape) {
                if mode(self.space, &other) != Some(wanted) {
                    self.consider(&other);
                    continue;
                }
                let cost = self.consider(&other).unwrap_or(f64::INFINITY);
                if cost < found.as_ref().map_or(score.objective, |f| f.1) {
                    found = Some((other, cost));
                }
            }
            let next = found.map_or(shape, |f| f.0);
            self.tune(&next);
            let now = self.best[wanted.index()]
                .as_ref()
                .map_or(f64::INFINITY, |b| b.1.objective);
            if now >= score.objective {
                return;
            }
        }
    }
}

fn permutations(of: &[usize]) -> Vec<Vec<usize>> {
    if of.is_empty() {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for at in 0..of.len() {
        let mut rest = of.to_vec();
        let first = rest.remove(at);
        all.extend(
            permutations(&rest)
                .into_iter()
                .map(|tail| [&[first], tail.as_slice()].concat()),
        );
    }
    all
}

/// How many layers the desk takes at least at the beginning, and how many it keeps at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct DeskEnds {
    prefix_min: usize,
    suffix: Option<usize>,
}

impl DeskEnds {
    fn new(prefix_min: usize, suffix: Option<usize>) -> DeskEnds {
        DeskEnds { prefix_min, suffix }
    }
}

/// No layers of this node end here.
const SKIPPED: usize = usize::MAX;

/// How seconds of the prompt and of the answer weigh in the additive cost.
struct Rates {
    chunk: usize,
    rows: u32,
    first: f64,
    tokens: f64,
    draft_memory: f64,
    credit: f64,
    prompt_price: f64,
    answer_price: f64,
}

impl Rates {
    fn new(space: &Space, chunk: usize, draft: Option<(usize, u16)>) -> Rates {
        let request = space.permitted.request;
        let objective = &request.objective;
        let of = draft.map(|(at, length)| (&request.drafts[at], length));
        let gain = of.map_or(1.0, |(d, length)| {
            crate::space::expected_tokens(d.acceptance, length)
        });
        let rows = of.map_or(1, |(_, length)| u32::from(length) + 1);
        Rates {
            chunk,
            rows,
            first: objective.first_token_weight,
            tokens: space.answer / gain,
            draft_memory: of.map_or(0.0, |(d, _)| d.memory as f64),
            credit: objective.seconds_per_credit,
            prompt_price: f64::from(space.prompt),
            answer_price: space.answer * f64::from(rows) / gain,
        }
    }

    /// Running cost before each layer at a site.
    fn sums(&self, space: &Space, site: usize) -> Vec<f64> {
        let of = &space.sites[site];
        let price = of.profile.price;
        let credits = price.prompt_token * self.prompt_price + price.answer_token * self.answer_price;
        let credits = credits * self.credit;
        let (prefill, decode) = (&of.prefill[self.chunk], of.sums(Phase::Decode(self.rows)));
        let sum = |at: usize| {
            self.first * (prefill[at] + of.load[at]) + self.tokens * decode[at] + credits * space.work[at]
        };
        (0..=space.layers()).map(sum).collect()
    }

    /// Cost of using a remote site at all: the way there and back, its overhead and queue, and the head where it is last.
    fn fixed(&self, space: &Space, site: usize, first: bool, last: bool) -> f64 {
        let of = &space.sites[site];
        let codec = space.codec(of.up, of.down, false);
        let numbers = f64::from(space.model.width) * codec.bytes_per_number;
        let way = |rows: f64| {
            let up = if first { 4.0 } else { numbers };
            let down = if last { 4.0 } else { numbers };
            of.round_trip + of.overhead + rows * (up / of.up + down / of.down)
        };
        let head = if last {
            of.head[self.rows as usize - 1]
        } else {
            0.0
        };
        let prompt = way(f64::from(space.chunks[self.chunk].0)) + of.profile.queue.as_secs_f64();
        self.first * prompt + self.tokens * (way(f64::from(self.rows)) + head)
    }
}

/// The mode that a shape is, or `None` where a space for chosen spans would send nothing anyway.
pub(crate) fn mode(space: &Space, shape: &Shape) -> Option<Mode> {
    let here = shape.segments.iter().all(|g| g.site == DESK);
    if space.preprocess {
        return (!here).then_some(Mode::Preprocess);
    }
    Some(match (shape.segments.len() > 1 && !here, shape.draft.is_some()) {
        (true, true) => Mode::LayeredSpeculative,
        (true, false) => Mode::Layered,
        (false, true) => Mode::Speculative,
        (false, false) if here => Mode::Local,
        (false, false) => Mode::Remote,
    })
}

/// Joins neighbours of one site into one segment.
pub(crate) fn joined(segments: Vec<Segment>) -> Vec<Segment> {
    let mut joined: Vec<Segment> = Vec::with_capacity(segments.len());
    for segment in segments {
        match joined.last_mut() {
            Some(last) if last.site == segment.site => last.end = segment.end,
            _ => joined.push(segment),
        }
    }
    joined
}
