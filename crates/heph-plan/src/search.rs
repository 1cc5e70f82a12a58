//! Finds the shape that costs least: seeds by exact covers in some orders of the nodes, then small changes until none
//! helps.
//!
//! What is not additive (the busiest stage of a pipelined prompt) is swept as a bound. What an order misses, the small
//! changes find. How much is tried is bounded by the number of layers and by what [`field`] lets through, not by the
//! size of the cluster.

use crate::cover::{Bench, DeskEnds, Rates, Wishes, join};
use crate::field;
use crate::ground::DESK;
use crate::moves::{FAMILIES, From, well_formed};
use crate::plan::{Forwarding, Mode};
use crate::request::DirectForwarding;
use crate::score::Score;
use crate::space::{DRAFT_MAX, Phase, Segment, Shape, Space};
use std::collections::HashMap;

/// Small changes that one descent may make.
const STEPS_MAX: usize = 64;
/// Bounds on the busiest stage that are tried, each four fifths of the busiest stage before.
const BOUNDS: usize = 8;
/// As [`BOUNDS`], for each order of a small cluster.
const BOUNDS_EACH: usize = 4;
/// Lengths of a draft that are tried.
const LENGTHS: [u16; 10] = [1, 2, 3, 4, 5, 6, 8, 10, 12, DRAFT_MAX];
/// Clusters of fewer other nodes are searched in every order.
pub(crate) const SMALL: usize = 6;
/// Covers that are swept with bounds, of the cheapest.
const SWEPT: usize = 4;
/// As [`SWEPT`], for a small cluster.
const SWEPT_SMALL: usize = 12;
/// Nodes without layers that a descent tries in a large cluster.
const ENTRANTS: usize = 6;
/// Other seeds than the best of each mode from which changes are made, in a large cluster and in a small one.
const STARTS: usize = 1;
/// As [`STARTS`], for a small cluster.
const STARTS_SMALL: usize = 10;
/// Drafts with which covers are made in a small cluster.
const DRAFTS_SMALL: usize = 2;
/// Share of its turn that a stage is thought to wait for the busiest one: as in a pipeline of a few even stages.
const PACE: f64 = 0.3;
/// A mode is searched further when its seeds cost less than this many times the cheapest.
const PROMISING: f64 = 1.5;

/// What all of the most credits are worth where they bind, over the seconds of the answer here.
const DEAR: [f64; 3] = [0.3, 3.0, 1000.0];

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
    pub(crate) space: &'s Space<'a>,
    effort: Effort,
    nodes: Vec<usize>,
    /// Stages that were tuned, and what they cost then.
    tuned: HashMap<Vec<Segment>, f64>,
    starts: Vec<(f64, Shape)>,
    bench: Bench,
    pub(crate) best: [Option<(Shape, Score)>; Mode::ALL.len()],
}

/// A cover to be swept with bounds.
struct Promising {
    cost: f64,
    order: usize,
    wishes: Wishes,
    ends: DeskEnds,
}

impl<'s, 'a> Search<'s, 'a> {
    /// Good shapes of a space to begin from. With a seed, that is one of them.
    pub(crate) fn seeds(space: &'s Space<'a>, effort: Effort, seed: Option<&Shape>) -> Search<'s, 'a> {
        let mut search = Search {
            space,
            effort,
            nodes: field::nodes(space, effort),
            tuned: HashMap::new(),
            starts: Vec::new(),
            bench: Bench::default(),
            best: Default::default(),
        };
        seed.map(|shape| search.tune(shape));
        search.whole();
        search.layered();
        if effort == Effort::Full && search.nodes.len() < SMALL {
            search.every_order();
        }
        search
    }

    /// Makes what was found better by small changes. With `only`, every other mode is left as it falls out.
    pub(crate) fn improve(&mut self, only: Option<Mode>) {
        for mode in self.promising(only) {
            self.descend(mode);
        }
        if self.effort == Effort::Full {
            self.descend_from_others();
        }
    }

    /// What the best shape costs, of one mode if `only` names it.
    pub(crate) fn cheapest(&self, only: Option<Mode>) -> f64 {
        let modes = Mode::ALL.into_iter().filter(|m| only.is_none_or(|o| o == *m));
        let costs = modes.filter_map(|m| Some(self.best[m.index()].as_ref()?.1.objective));
        costs.fold(f64::INFINITY, f64::min)
    }

    /// Modes whose best seed is not far from the cheapest.
    fn promising(&self, only: Option<Mode>) -> Vec<Mode> {
        let cost = |m: Mode| self.best[m.index()].as_ref().map(|b| (b.1.objective, m));
        let modes = Mode::ALL.into_iter().filter(|m| only.is_none_or(|o| o == *m));
        let mut modes: Vec<(f64, Mode)> = modes.filter_map(cost).collect();
        modes.sort_by(|a, b| a.0.total_cmp(&b.0));
        let least = modes.first().map_or(0.0, |m| m.0);
        let count = match self.effort {
            Effort::Full if self.nodes.len() < SMALL => modes.len(),
            Effort::Full => modes.iter().take_while(|m| m.0 <= PROMISING * least).count(),
            Effort::Glance => 1,
        };
        modes.into_iter().take(count).map(|m| m.1).collect()
    }

    /// Scores a shape, and keeps it where it is affordable and the best of its mode. Gives what it costs, weighed.
    fn consider(&mut self, shape: &Shape) -> Option<f64> {
        let score = self.space.score(shape)?;
        let mode = mode(self.space, shape)?;
        let best = &mut self.best[mode.index()];
        let kept = best.as_ref().is_some_and(|(_, b)| score.objective >= b.objective);
        if !kept && self.space.affordable(&score) {
            match best {
                Some((kept, b)) => {
                    kept.clone_from(shape);
                    *b = score;
                }
                None => *best = Some((shape.clone(), score)),
            }
        }
        Some(self.space.weighed(&score))
    }

    /// The whole model in one place, and the best of these places tuned.
    fn whole(&mut self) {
        let layers = self.space.layers();
        let mut found: Vec<(f64, Shape)> = Vec::new();
        for site in 0..self.space.ground.sites.len() {
            let shape = self.plain(vec![Segment::new(site, 0, layers)]);
            let cost = self.consider(&shape).unwrap_or(f64::INFINITY);
            if site == DESK || cost.is_finite() {
                found.push((cost, shape));
            }
        }
        // The desk's own draft may take the room that the whole model would need, or the other way round.
        let rest = found.split_off(1.min(found.len()));
        found.into_iter().for_each(|(_, desk)| drop(self.tune(&desk)));
        let mut rest = rest;
        rest.sort_by(|a, b| a.0.total_cmp(&b.0));
        let count = if self.effort == Effort::Full { SMALL } else { 2 };
        rest.iter()
            .take(count)
            .for_each(|(_, shape)| drop(self.tune(shape)));
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

    /// Seeds for several stages: covers in some orders, and the cheapest of them with bounds on the busiest stage.
    fn layered(&mut self) {
        if self.nodes.is_empty() {
            return;
        }
        let space = self.space;
        let orders = match self.effort {
            Effort::Full => field::orders(space, &self.nodes),
            Effort::Glance => vec![self.nodes.clone()],
        };
        let middle = space.chunks.len() / 2;
        let mut found = Vec::new();
        for wishes in self.wishes() {
            let rates = Rates::new(space, middle, wishes);
            for (number, order) in orders.iter().enumerate() {
                for ends in self.desk_ends() {
                    let cost = self.covered(&rates, order, (middle, wishes), ends, f64::INFINITY);
                    found.extend(cost.map(|(cost, _)| Promising {
                        cost,
                        order: number,
                        wishes,
                        ends,
                    }));
                }
            }
        }
        found.sort_by(|a, b| a.cost.total_cmp(&b.cost));
        let mut seen: Vec<(Wishes, DeskEnds)> = Vec::new();
        found.retain(|f| {
            let new = !seen.contains(&(f.wishes, f.ends));
            seen.extend(new.then_some((f.wishes, f.ends)));
            new
        });
        found.truncate(match self.effort {
            Effort::Full if self.nodes.len() < SMALL => SWEPT_SMALL,
            Effort::Full => SWEPT,
            Effort::Glance => 1,
        });
        for chunk in self.seed_chunks() {
            for cover in &found {
                let rates = Rates::new(space, chunk, cover.wishes);
                let order = &orders[cover.order];
                let bounds = if self.effort == Effort::Full { BOUNDS } else { 2 };
                self.sweep(&rates, order, (chunk, cover.wishes), cover.ends, bounds);
            }
        }
    }

    /// Tightens the bound on the busiest stage, and considers what each bound leads to.
    fn sweep(
        &mut self,
        rates: &Rates,
        order: &[usize],
        (chunk, wishes): (usize, Wishes),
        ends: DeskEnds,
        bounds: usize,
    ) {
        let mut bound = f64::INFINITY;
        let bounds = if self.space.chunks[chunk].1 == 1 {
            1
        } else {
            bounds
        };
        for _ in 0..bounds {
            let Some((_, busiest)) = self.covered(rates, order, (chunk, wishes), ends, bound) else {
                return;
            };
            bound = busiest * 0.8;
        }
    }

    /// Tunes a cover, once; gives what it costs so and the seconds of its busiest stage.
    fn covered(
        &mut self,
        rates: &Rates,
        order: &[usize],
        (chunk, wishes): (usize, Wishes),
        ends: DeskEnds,
        bound: f64,
    ) -> Option<(f64, f64)> {
        let segments = rates.cover(order, ends, bound, &mut self.bench)?;
        let busiest = rates.busiest(&segments);
        if let Some(cost) = self.tuned.get(&segments) {
            return Some((*cost, busiest));
        }
        let place = segments.clone();
        let shape = Shape {
            chunk,
            draft: wishes.draft,
            direct: wishes.forwarding == Forwarding::Direct,
            ..self.plain(segments)
        };
        let tuned = self.tune(&shape);
        let cost = tuned.as_ref().map_or(f64::INFINITY, |t| t.1);
        self.tuned.insert(place, cost);
        self.starts.extend(tuned.map(|(shape, cost)| (cost, shape)));
        Some((cost, busiest))
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
        let drafts = &self.space.ground.permitted.request.drafts;
        let usable = drafts.iter().enumerate().filter(|(_, d)| d.length_max > 0);
        let mut usable: Vec<_> = usable.collect();
        usable.sort_by(|a, b| b.1.acceptance.total_cmp(&a.1.acceptance));
        let count = match self.effort {
            Effort::Full if self.nodes.len() < SMALL => DRAFTS_SMALL,
            Effort::Full => 1,
            // What a draft is good for, tuning finds.
            Effort::Glance => 0,
        };
        let seeds = usable.into_iter().take(count);
        let seeds = seeds.map(|(at, d)| Some((at, d.length_max.min(4))));
        std::iter::once(None).chain(seeds).collect()
    }

    /// What covers are made for: with and without a draft, through the desk and directly, at several prices.
    fn wishes(&self) -> Vec<Wishes> {
        let direct = self.space.ground.permitted.request.direct == DirectForwarding::Allowed;
        let ways: &[Forwarding] = match direct && self.nodes.len() > 1 {
            true => &[Forwarding::ThroughDesk, Forwarding::Direct],
            false => &[Forwarding::ThroughDesk],
        };
        let (drafts, credits) = (self.seed_drafts(), self.seed_credits());
        let mut wishes = Vec::new();
        for (draft, forwarding) in drafts.iter().flat_map(|d| ways.iter().map(|w| (*d, *w))) {
            wishes.extend(credits.iter().map(|credit| Wishes {
                draft,
                credit: *credit,
                forwarding,
                pace: 0.0,
            }));
        }
        let paces: &[f64] = match self.effort {
            Effort::Glance => &[PACE],
            Effort::Full if self.nodes.len() < SMALL => &[0.0, PACE, 1.0],
            Effort::Full => &[PACE],
        };
        let wishes = wishes.into_iter();
        wishes
            .flat_map(|w| paces.iter().map(move |pace| Wishes { pace: *pace, ..w }))
            .collect()
    }

    /// Seconds that a credit is worth: as the person says, and where there is a most, more and more, so that some of what
    /// is found costs less than that.
    fn seed_credits(&self) -> Vec<f64> {
        let space = self.space;
        let objective = &space.ground.permitted.request.objective;
        let asks = |site: &usize| space.ground.sites[*site].profile.price != heph_types::Price::default();
        let most = objective
            .credits_max
            .filter(|_| self.nodes.iter().chain([&DESK]).any(asks));
        let here = space.sums(DESK, Phase::Decode(1)).layers[space.layers()] * (space.answer + 1.0);
        let dear = most.into_iter().flat_map(|most| match self.effort {
            Effort::Full => DEAR.map(|times| times * here / most.max(1e-9)).to_vec(),
            Effort::Glance => vec![here / most.max(1e-9)],
        });
        std::iter::once(objective.seconds_per_credit)
            .chain(dear)
            .collect()
    }

    /// Every order of a small cluster's nodes, each tried once: what links between nodes, layers that lie ready and
    /// uneven layers ask for shows only in the order.
    fn every_order(&mut self) {
        let chunk = self.space.chunks.len() / 2;
        let orders = permutations(&self.nodes);
        for wishes in self.wishes().into_iter().filter(|w| w.pace == PACE) {
            let rates = Rates::new(self.space, chunk, wishes);
            for order in &orders {
                for ends in self.desk_ends().into_iter().take(4) {
                    self.sweep(&rates, order, (chunk, wishes), ends, BOUNDS_EACH);
                }
            }
        }
    }

    /// What the desk keeps at the end: nothing, only the head, or layers; and whether it may begin.
    fn desk_ends(&self) -> Vec<DeskEnds> {
        let (first, last) = self.space.ground.permitted.local;
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
            let inside = (1..layers).step_by(layers.div_ceil(4 * SMALL));
            ends.extend(inside.map(|l| DeskEnds::new(first, Some(l.max(last)))));
        }
        ends.retain(|e| last == 0 || e.suffix.is_some());
        ends.dedup();
        if self.effort == Effort::Glance {
            // Both ends here, and neither: what lies between, small changes find.
            ends.retain(|e| e.suffix != Some(0));
        }
        ends
    }

    /// Sets, one after another, what does not move layers: draft, chunk, codecs, forwarding.
    fn tune(&mut self, shape: &Shape) -> Option<(Shape, f64)> {
        let mut best = shape.clone();
        let mut trial = shape.clone();
        let mut cost = self.consider(&best).unwrap_or(f64::INFINITY);
        let settings: [fn(&Self, &Shape) -> Vec<Setting>; 4] =
            [Self::codecs, Self::ways, Self::drafts, Self::chunks];
        for _ in 0..2 {
            let before = cost;
            for set in settings {
                for setting in set(self, &best) {
                    trial.clone_from(&best);
                    setting.put(&mut trial);
                    let other = self.consider(&trial).unwrap_or(f64::INFINITY);
                    if other < cost {
                        cost = other;
                        std::mem::swap(&mut best, &mut trial);
                    }
                }
            }
            if cost == before {
                break;
            }
        }
        cost.is_finite().then_some((best, cost))
    }

    fn codecs(&self, shape: &Shape) -> Vec<Setting> {
        let codecs = &self.space.ground.permitted.codecs;
        let rounded = codecs.iter().any(|c| !c.codec.is_exact()) && shape.segments.len() > 1;
        rounded
            .then_some(Setting::Lossy(!shape.lossy))
            .into_iter()
            .collect()
    }

    fn ways(&self, shape: &Shape) -> Vec<Setting> {
        let direct = self.space.ground.permitted.request.direct == DirectForwarding::Allowed;
        let between = shape
            .segments
            .windows(2)
            .any(|p| p[0].site != DESK && p[1].site != DESK);
        let other = (direct && between).then_some(Setting::Direct(!shape.direct));
        other.into_iter().collect()
    }

    fn drafts(&self, shape: &Shape) -> Vec<Setting> {
        let mut settings = vec![Setting::Draft(None)];
        let drafts = &self.space.ground.permitted.request.drafts;
        for (source, draft) in drafts.iter().enumerate() {
            let lengths = LENGTHS.into_iter().filter(|l| *l <= draft.length_max);
            settings.extend(lengths.map(|length| Setting::Draft(Some((source, length)))));
        }
        settings.retain(|s| *s != Setting::Draft(shape.draft));
        settings
    }

    fn chunks(&self, shape: &Shape) -> Vec<Setting> {
        let all = (0..self.space.chunks.len()).filter(|chunk| *chunk != shape.chunk);
        all.map(Setting::Chunk).collect()
    }

    /// Makes small changes to the best shape of a mode until none helps.
    fn descend(&mut self, wanted: Mode) {
        let steps = match self.effort {
            Effort::Full => STEPS_MAX,
            Effort::Glance => 2,
        };
        for _ in 0..steps {
            let Some((shape, score)) = self.best[wanted.index()].clone() else {
                return;
            };
            let (changed, cost) = self.changed(wanted, shape, score.objective);
            self.tune(&changed);
            let now = self.best[wanted.index()].as_ref().map_or(cost, |b| b.1.objective);
            if now >= score.objective {
                return;
            }
        }
    }

    /// Makes small changes to other good seeds, too: the best one may lead nowhere.
    fn descend_from_others(&mut self) {
        let mut starts = std::mem::take(&mut self.starts);
        starts.sort_by(|a, b| a.0.total_cmp(&b.0));
        let count = if self.nodes.len() < SMALL {
            STARTS_SMALL
        } else {
            STARTS
        };
        for (cost, shape) in starts.into_iter().skip(1).take(count) {
            let Some(mode) = mode(self.space, &shape) else {
                continue;
            };
            let (changed, _) = self.changed(mode, shape, cost);
            self.tune(&changed);
        }
    }

    /// The shape with every change made that helps, each kind of change as long as it does.
    fn changed(&mut self, wanted: Mode, mut shape: Shape, mut cost: f64) -> (Shape, f64) {
        let layers = self.space.layers();
        let direct = self.space.ground.permitted.request.direct == DirectForwarding::Allowed;
        let ways: &[bool] = if direct { &[false, true] } else { &[false] };
        for family in FAMILIES {
            for _ in 0..STEPS_MAX {
                let mut trial = shape.clone();
                let unused = self.unused(&shape);
                let from = From {
                    segments: &shape.segments,
                    unused: &unused,
                };
                let taken = family(&from, &mut |segments| {
                    join(segments);
                    if !well_formed(segments, layers) {
                        return false;
                    }
                    trial.segments.clone_from(segments);
                    ways.iter().any(|direct| {
                        trial.direct = *direct;
                        let now = self.consider(&trial).filter(|now| *now < cost);
                        let better = now.filter(|_| mode(self.space, &trial) == Some(wanted));
                        cost = better.unwrap_or(cost);
                        better.is_some()
                    })
                });
                if !taken {
                    break;
                }
                shape = trial;
            }
        }
        (shape, cost)
    }

    fn unused(&self, shape: &Shape) -> Vec<usize> {
        let used = |site: usize| shape.segments.iter().any(|g| g.site == site);
        let unused = self.nodes.iter().copied().filter(|site| !used(*site));
        unused.take(ENTRANTS).collect()
    }
}

/// One thing that is set apart from the stages.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Setting {
    Lossy(bool),
    Direct(bool),
    Draft(Option<(usize, u16)>),
    Chunk(usize),
}

impl Setting {
    fn put(self, shape: &mut Shape) {
        match self {
            Setting::Lossy(lossy) => shape.lossy = lossy,
            Setting::Direct(direct) => shape.direct = direct,
            Setting::Draft(draft) => shape.draft = draft,
            Setting::Chunk(chunk) => shape.chunk = chunk,
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
        let tails = permutations(&rest).into_iter();
        all.extend(tails.map(|tail| [&[first], tail.as_slice()].concat()));
    }
    all
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
