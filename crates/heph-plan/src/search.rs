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
use crate::plan::{Forwarding, Mode};
use crate::request::DirectForwarding;
use crate::score::{Neighbours, Score};
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
    /// For each kind of change, shapes at whose cost none of it helps.
    exhausted: [HashMap<Shape, f64>; FAMILIES.len()],
    starts: Vec<(f64, Shape)>,
    /// At a glance from a plan over a large cluster: how that one forwards. Covers are made for no other.
    forwarding: Option<Forwarding>,
    bench: Bench,
    pub(crate) best: [Option<(Shape, Score)>; Mode::ALL.len()],
}

impl<'s, 'a> Search<'s, 'a> {
    /// Good shapes of a space to begin from. With a seed, that is one of them.
    pub(crate) fn seeds(space: &'s Space<'a>, effort: Effort, seed: Option<&Shape>) -> Search<'s, 'a> {
        let nodes = field::nodes(space, effort);
        let seen = seed.filter(|seed| {
            let remote = seed.segments.iter().filter(|g| g.site != DESK);
            effort == Effort::Glance && nodes.len() >= SMALL && remote.count() > 1
        });
        let mut search = Search {
            space,
            effort,
            nodes,
            tuned: HashMap::new(),
            exhausted: Default::default(),
            starts: Vec::new(),
            forwarding: seen.map(|seed| match seed.direct {
                true => Forwarding::Direct,
                false => Forwarding::ThroughDesk,
            }),
            bench: Bench::default(),
            best: Default::default(),
        };
        seed.map(|shape| search.tune(shape));
        for shape in space.left_shapes() {
            search.tune(&shape);
        }
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

    /// Scores a shape, and keeps it where it is affordable and the best of its mode. Gives what it costs, weighed; infinite
    /// where it cannot be.
    fn consider(&mut self, shape: &Shape) -> f64 {
        let Some(mode) = mode(self.space, shape) else {
            return f64::INFINITY;
        };
        let score = self.space.score(shape);
        score.map_or(f64::INFINITY, |score| self.keep(shape, mode, score))
    }

    /// What a shape of this mode must cost less than to be of use.
    fn most(&self, mode: Mode, most: f64) -> f64 {
        let best = self.best[mode.index()].as_ref();
        best.map_or(f64::INFINITY, |(_, score)| score.objective.max(most))
    }

    /// Keeps a shape that was scored where it is affordable and the best of its mode.
    fn keep(&mut self, shape: &Shape, mode: Mode, score: Score) -> f64 {
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
        self.space.weighed(&score)
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
        let large = self.nodes.len() >= SMALL;
        // Of the shape as it is now.
        let mut known: Vec<Neighbours> = Vec::new();
        for (kind, family) in FAMILIES.into_iter().enumerate() {
            // In a large cluster a kind of change goes on where it helped last instead of beginning again.
            let (mut passed, mut gained) = (0, false);
            for _ in 0..STEPS_MAX {
                let exhausted = self.exhausted[kind].get(&shape);
                if passed == 0 && exhausted.is_some_and(|at| cost <= *at) {
                    break;
                }
                let chunks = self.chunks_beside(shape.chunk);
                let ways: &[bool] = match (direct, self.effort) {
                    (false, _) => &[false],
                    (true, Effort::Full) => &[false, true],
                    (true, Effort::Glance) => std::slice::from_ref(&shape.direct),
                };
                let mut trial = shape.clone();
                let unused = self.unused(&shape);
                let from = From {
                    segments: &shape.segments,
                    unused: &unused,
                };
                let mut number = 0;
                let taken = family(&from, &mut |segments| {
                    number += 1;
                    if number <= passed {
                        return false;
                    }
                    join(segments);
                    if !well_formed(segments, layers) {
                        return false;
                    }
                    std::mem::swap(&mut trial.segments, segments);
                    // How nobody forwards makes no difference.
                    let ways = if forwards(&trial) { ways } else { &ways[..1] };
                    let settings = ways
                        .iter()
                        .flat_map(|way| chunks.iter().map(move |chunk| (*way, *chunk)));
                    settings.into_iter().any(|(direct, chunk)| {
                        (trial.direct, trial.chunk) = (direct, chunk);
                        let now = self.beside(&trial, cost, &shape, &mut known);
                        let better = now < cost && mode(self.space, &trial) == Some(wanted);
                        if better {
                            cost = now;
                        }
                        better
                    })
                });
                if taken {
                    shape = trial;
                    known.clear();
                    (passed, gained) = (if large { number } else { 0 }, true);
                } else if passed > 0 && gained {
                    (passed, gained) = (0, false);
                } else {
                    self.exhausted[kind].insert(shape.clone(), cost);
                    break;
                }
            }
        }
        (shape, cost)
    }

    /// Scores a shape that is `base` with other stages, forwarding or cut of the prompt, and keeps it where it is
    /// affordable and the best of its mode. Gives what it costs, weighed; infinite where it cannot be, or is seen to cost
    /// `most` or more.
    fn beside(&mut self, trial: &Shape, most: f64, base: &Shape, known: &mut Vec<Neighbours<'s, 'a>>) -> f64 {
        let Some(mode) = mode(self.space, trial) else {
            return f64::INFINITY;
        };
        let at = known.iter().position(|of| of.are(trial)).unwrap_or_else(|| {
            let segments = base.segments.clone();
            known.push(Neighbours::new(
                self.space,
                Shape {
                    segments,
                    ..trial.clone()
                },
            ));
            known.len() - 1
        });
        let score = known[at].score_below(trial, self.most(mode, most));
        score.map_or(f64::INFINITY, |score| self.keep(trial, mode, score))
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

/// Whether there is anybody who could send to another without the desk.
fn forwards(shape: &Shape) -> bool {
    let mut pairs = shape.segments.windows(2);
    pairs.any(|pair| pair[0].site != DESK && pair[1].site != DESK)
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
