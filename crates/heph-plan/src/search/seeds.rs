//! Where a search begins: the whole model in each place, and covers of all layers by nodes in some orders, for several
//! weights of what matters. The cheapest of them are swept with bounds on the busiest stage.

use super::{Effort, SMALL, Search};
use crate::cover::{DeskEnds, Order, Rates, Wishes};
use crate::field;
use crate::ground::DESK;
use crate::plan::Forwarding;
use crate::request::DirectForwarding;
use crate::space::{Phase, Segment, Shape, Space};

/// Bounds on the busiest stage that are tried, each four fifths of the busiest stage before.
const BOUNDS: usize = 8;
/// A bound that makes a cover cost so many times the cheapest of its sweep is the last: tighter ones cost more.
const HOPELESS: f64 = 1.2;
/// Numbers of layers that the desk may keep at the end for nodes in a given order, and for those in the cheapest.
const ENDS: usize = 4 * SMALL;
const QUARTERS: usize = 4;
/// Of the orders in a large cluster, those that are tried for more than the first wishes.
const ORDERS_KEPT: usize = 2;
/// Covers that are swept with bounds, of the cheapest.
const SWEPT: usize = 3;
/// As [`SWEPT`], for a small cluster.
const SWEPT_SMALL: usize = 12;
/// Drafts with which covers are made in a small cluster.
const DRAFTS_SMALL: usize = 2;
/// Share of its turn that a stage is thought to wait for the busiest one: as in a pipeline of a few even stages.
const PACE: f64 = 0.3;
/// What all of the most credits are worth where they bind, over the seconds of the answer here.
const DEAR: [f64; 3] = [0.3, 3.0, 1000.0];

/// A cover to be swept with bounds.
struct Promising {
    cost: f64,
    order: usize,
    wishes: Wishes,
    ends: DeskEnds,
}

/// Rates that were made: how hidden states are forwarded changes nothing else of them.
#[derive(Default)]
struct Made<'s, 'a>(Vec<((usize, Wishes), Rates<'s, 'a>)>);

impl<'s, 'a> Made<'s, 'a> {
    /// Those of a cut of the prompt and wishes.
    fn get(&mut self, space: &'s Space<'a>, chunk: usize, wishes: Wishes) -> &Rates<'s, 'a> {
        let forwarding = Forwarding::ThroughDesk;
        let key = (chunk, Wishes { forwarding, ..wishes });
        let known = self.0.iter().position(|made| made.0 == key);
        let at = known.unwrap_or_else(|| {
            self.0.push((key, Rates::new(space, chunk, wishes)));
            self.0.len() - 1
        });
        let rates = &mut self.0[at].1;
        rates.forwarding = wishes.forwarding;
        rates
    }
}

/// Orders that the cheapest covers have, for wishes that come later.
fn best_orders(found: &[Promising]) -> Vec<usize> {
    let mut costs: Vec<(f64, usize)> = Vec::new();
    for cover in found {
        match costs.iter_mut().find(|known| known.1 == cover.order) {
            Some(known) => known.0 = known.0.min(cover.cost),
            None => costs.push((cover.cost, cover.order)),
        }
    }
    costs.sort_by(|a, b| a.0.total_cmp(&b.0));
    costs
        .into_iter()
        .take(ORDERS_KEPT)
        .map(|(_, order)| order)
        .collect()
}

impl Search<'_, '_> {
    /// The whole model in one place, and the best of these places tuned.
    pub(super) fn whole(&mut self) {
        let (space, layers) = (self.space, self.space.layers());
        let count = if self.effort == Effort::Full { SMALL } else { 2 };
        // Where a most of credits binds, the cheapest may be too dear.
        let bounded = space.ground.permitted.request.objective.credits_max.is_none();
        let desk = self.space.plain(vec![Segment::new(DESK, 0, layers)]);
        self.consider(&desk);
        let sites = DESK + 1..space.ground.sites.len();
        let mut sites: Vec<(f64, usize)> = sites.map(|site| (space.whole_at_least(site), site)).collect();
        sites.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut found: Vec<(f64, usize, Shape)> = Vec::new();
        for (least, site) in sites {
            if bounded && found.len() >= count && least > found[count - 1].0 {
                break;
            }
            let shape = self.space.plain(vec![Segment::new(site, 0, layers)]);
            let cost = self.consider(&shape);
            if cost.is_finite() {
                let before = |(other, at, _): &(f64, usize, Shape)| (*other, *at) < (cost, site);
                found.insert(found.partition_point(before), (cost, site, shape));
            }
        }
        // The desk's own draft may take the room that the whole model would need, or the other way round.
        self.tune(&desk);
        for (_, _, shape) in found.iter().take(count) {
            self.tune(shape);
        }
    }

    /// Seeds for several stages: covers in some orders, and the cheapest of them with bounds on the busiest stage.
    pub(super) fn layered(&mut self) {
        if self.nodes.is_empty() {
            return;
        }
        let space = self.space;
        let orders = match self.effort {
            Effort::Full => field::orders(space, &self.nodes),
            Effort::Glance => vec![self.nodes.clone()],
        };
        let middle = space.chunks.len() / 2;
        let mut found: Vec<Promising> = Vec::new();
        let mut made = Made::default();
        for (at, wishes) in self.wishes().into_iter().enumerate() {
            let first = (at > 0 && self.nodes.len() >= SMALL).then(|| best_orders(&found));
            let tried = |number: &usize| first.as_ref().is_none_or(|best| best.contains(number));
            let direct = wishes.forwarding == Forwarding::Direct;
            for (number, order) in orders.iter().enumerate() {
                // The last of them follows the ways between nodes.
                if !(tried(&number) || direct && number + 1 == orders.len()) {
                    continue;
                }
                let rates = made.get(space, middle, wishes);
                let row = rates.row(order);
                for ends in self.desk_ends(ENDS) {
                    let order = Order::Given(&row);
                    let cost = self.covered(rates, order, (middle, wishes), ends, f64::INFINITY);
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
                let rates = made.get(space, chunk, cover.wishes);
                let row = rates.row(&orders[cover.order]);
                let bounds = if self.effort == Effort::Full { BOUNDS } else { 2 };
                self.sweep(
                    rates,
                    Order::Given(&row),
                    (chunk, cover.wishes),
                    cover.ends,
                    bounds,
                );
            }
        }
    }

    /// Tightens the bound on the busiest stage, and considers what each bound leads to.
    fn sweep(
        &mut self,
        rates: &Rates,
        order: Order,
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
        let mut least = f64::INFINITY;
        for _ in 0..bounds {
            let Some((cost, busiest)) = self.covered(rates, order, (chunk, wishes), ends, bound) else {
                return;
            };
            least = least.min(cost);
            if cost > HOPELESS * least {
                return;
            }
            bound = busiest * 0.8;
        }
    }

    /// Tunes a cover, once; gives what it costs so and the seconds of its busiest stage.
    fn covered(
        &mut self,
        rates: &Rates,
        order: Order,
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
            ..self.space.plain(segments)
        };
        let tuned = self.tune(&shape);
        let cost = tuned.as_ref().map_or(f64::INFINITY, |t| t.1);
        self.tuned.insert(place, cost);
        self.starts.extend(tuned.map(|(shape, cost)| (cost, shape)));
        Some((cost, busiest))
    }

    /// The cheapest order of a small cluster's nodes for each end: what links between nodes, layers that lie ready and
    /// uneven layers ask for shows only in the order.
    pub(super) fn every_order(&mut self) {
        let last = self.space.chunks.len() - 1;
        let mut chunks = vec![0, last.div_ceil(2), last];
        chunks.dedup();
        let nodes = self.nodes.clone();
        let wishes = self.wishes().into_iter().filter(|w| w.pace == PACE);
        for (wishes, chunk) in wishes.flat_map(|w| chunks.iter().map(move |chunk| (w, *chunk))) {
            let rates = Rates::new(self.space, chunk, wishes);
            for ends in self.desk_ends(QUARTERS) {
                self.sweep(&rates, Order::Any(&nodes), (chunk, wishes), ends, BOUNDS);
            }
        }
    }

    /// What covers are made for: with and without a draft, through the desk and directly, at several prices.
    fn wishes(&self) -> Vec<Wishes> {
        let direct = self.space.ground.permitted.request.direct == DirectForwarding::Allowed;
        let ways: &[Forwarding] = match (direct && self.nodes.len() > 1, &self.forwarding) {
            (false, _) => &[Forwarding::ThroughDesk],
            (true, Some(own)) => std::slice::from_ref(own),
            (true, None) => &[Forwarding::ThroughDesk, Forwarding::Direct],
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

    /// Seconds that a credit is worth: as the person says, and where there is a most, more and more, so that some of what
    /// is found costs less than that.
    fn seed_credits(&self) -> Vec<f64> {
        let space = self.space;
        let objective = &space.ground.permitted.request.objective;
        let asks = |site: &usize| space.ground.sites[*site].profile.price != heph_types::Price::default();
        let most = objective
            .credits_max
            .filter(|_| self.nodes.iter().chain([&DESK]).any(asks));
        let here = space.sums(DESK, Phase::Decode(1)).before(space.layers()) * (space.answer + 1.0);
        let dear = most.into_iter().flat_map(|most| match self.effort {
            Effort::Full => DEAR.map(|times| times * here / most.max(1e-9)).to_vec(),
            Effort::Glance => vec![here / most.max(1e-9)],
        });
        std::iter::once(objective.seconds_per_credit)
            .chain(dear)
            .collect()
    }

    /// What the desk keeps at the end: nothing, only the head, or layers, of which about so many numbers are tried; and
    /// whether it may begin.
    fn desk_ends(&self, tried: usize) -> Vec<DeskEnds> {
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
            let inside = (1..layers).step_by(layers.div_ceil(tried));
            ends.extend(inside.map(|l| DeskEnds::new(first, Some(l.max(last)))));
        }
        ends.retain(|e| last == 0 || e.suffix.is_some());
        let mut different: Vec<DeskEnds> = Vec::with_capacity(ends.len());
        ends.into_iter().for_each(|end| {
            if !different.contains(&end) {
                different.push(end);
            }
        });
        let mut ends = different;
        if self.effort == Effort::Glance {
            // Both ends here, and neither: what lies between, small changes find.
            ends.retain(|e| e.suffix != Some(0));
        }
        ends
    }
}
