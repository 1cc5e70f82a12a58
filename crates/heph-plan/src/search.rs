//! Finds the shape that costs least: seeds by exact covers in some orders of the nodes, then small changes until none
//! helps.
//!
//! What is not additive (the busiest stage of a pipelined prompt) is swept as a bound. What an order misses, the small
//! changes find. How much is tried is bounded by the number of layers and by what [`field`] lets through, not by the
//! size of the cluster.

mod seeds;
mod settings;

use crate::cover::{Bench, join};
use crate::field;
use crate::ground::DESK;
use crate::moves::{FAMILIES, From, well_formed};
use crate::plan::Mode;
use crate::request::DirectForwarding;
use crate::score::Score;
use crate::space::{Segment, Shape, Space};
use std::collections::{HashMap, HashSet};

/// Small changes that one descent may make.
const STEPS_MAX: usize = 64;
/// Clusters of fewer other nodes are searched in every order.
pub(crate) const SMALL: usize = 6;
/// Nodes without layers that a descent tries in a large cluster.
const ENTRANTS: usize = 6;
/// Seeds from which changes are made besides the best of each mode, which may be among them; some may cost too much and
/// lead to what does not.
const STARTS: usize = 2;
/// As [`STARTS`], for a small cluster.
const STARTS_SMALL: usize = 10;
/// A mode is searched further when its seeds cost less than this many times the cheapest.
const PROMISING: f64 = 1.5;

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

    /// Makes small changes to other good seeds, too: the best one may lead nowhere. Of those that run through the same
    /// nodes one is enough.
    fn descend_from_others(&mut self) {
        let mut starts = std::mem::take(&mut self.starts);
        starts.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut seen: HashSet<Vec<usize>> = HashSet::new();
        starts.retain(|(_, shape)| seen.insert(shape.segments.iter().map(|g| g.site).collect()));
        let count = if self.nodes.len() < SMALL {
            STARTS_SMALL
        } else {
            STARTS
        };
        for (cost, shape) in starts.into_iter().take(count) {
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
                let chunks = self.chunks_beside(shape.chunk);
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
                    let settings = ways
                        .iter()
                        .flat_map(|way| chunks.iter().map(move |chunk| (*way, *chunk)));
                    settings.into_iter().any(|(direct, chunk)| {
                        (trial.direct, trial.chunk) = (direct, chunk);
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

    /// Chunk sizes with which a change of stages is tried: a stage more may pay only where a prompt goes in more parts, and
    /// smaller ones are worth it only where more stages share the work.
    fn chunks_beside(&self, chunk: usize) -> Vec<usize> {
        let last = self.space.chunks.len() - 1;
        if self.effort == Effort::Glance || self.nodes.len() >= SMALL {
            return vec![chunk];
        }
        let others = [chunk.saturating_sub(1), (chunk + 1).min(last), last / 2];
        let mut beside = vec![chunk];
        for other in others {
            if !beside.contains(&other) {
                beside.push(other);
            }
        }
        beside
    }

    fn unused(&self, shape: &Shape) -> Vec<usize> {
        let used = |site: usize| shape.segments.iter().any(|g| g.site == site);
        let unused = self.nodes.iter().copied().filter(|site| !used(*site));
        unused.take(ENTRANTS).collect()
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
