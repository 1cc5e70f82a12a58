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

/// In which order layers may run through nodes.
#[derive(Clone, Copy)]
pub(crate) enum Order<'o> {
    /// As they stand.
    Given(&'o [usize]),
    /// In the cheapest; for a few nodes.
    Any(&'o [usize]),
}

/// Rooms that a cover works in, kept from one to the next.
#[derive(Default)]
pub(crate) struct Bench {
    best: Vec<f64>,
    new: Vec<f64>,
    choices: Vec<u32>,
    /// For each set of nodes, what is best before each layer, where that layer's stage began, and who took it after whom.
    states: Vec<f64>,
    origins: Vec<(u32, u32)>,
    room: Room,
}

/// Room for letting one node take layers.
#[derive(Default)]
struct Room {
    /// What was best before each layer, less what the node would have cost by then.
    ahead: Vec<f64>,
    window: Vec<u32>,
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

    /// The cheapest cover of all layers by some of the nodes, no stage longer than the bound.
    pub(crate) fn cover(
        &self,
        order: Order,
        ends: DeskEnds,
        bound: f64,
        bench: &mut Bench,
    ) -> Option<Vec<Segment>> {
        match order {
            Order::Given(nodes) => self.cover_in_order(nodes, ends, bound, bench),
            Order::Any(nodes) => self.cover_in_any_order(nodes, ends, bound, bench),
        }
    }

    fn cover_in_order(
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
            let Bench {
                best,
                new,
                choices,
                room,
                ..
            } = bench;
            let choice = &mut choices[turn * (target + 1)..][..target + 1];
            new.clone_from(best);
            self.extend((*site, from), (ends, bound), best, room, |end, start, cost| {
                let better = cost < new[end];
                if better {
                    new[end] = cost;
                    choice[end] = start;
                }
            });
            std::mem::swap(best, new);
        }
        bench.best[target].is_finite().then_some(())?;
        let mut segments = self.desk_suffix(ends);
        let mut at = target;
        for (turn, site) in order.iter().enumerate().rev() {
            let start = bench.choices[turn * (target + 1) + at];
            if start != SKIPPED {
                segments.push(Segment::new(*site, start as usize, at));
                at = start as usize;
            }
        }
        Some(finished(segments, at))
    }

    /// The last segment of a cover, where the desk keeps it.
    fn desk_suffix(&self, ends: DeskEnds) -> Vec<Segment> {
        let layers = self.space.layers();
        let suffix = ends.suffix.map(|kept| Segment::new(DESK, layers - kept, layers));
        suffix.into_iter().collect()
    }

    /// What is covered by whom is all that later nodes need to know of earlier ones, and who came last where nodes send to
    /// each other: so every order is looked at without going through each.
    fn cover_in_any_order(
        &self,
        nodes: &[usize],
        ends: DeskEnds,
        bound: f64,
        bench: &mut Bench,
    ) -> Option<Vec<Segment>> {
        (!nodes.is_empty()).then_some(())?;
        let target = self.space.layers() - ends.suffix.unwrap_or(0);
        let (wide, count) = (target + 1, nodes.len());
        let direct = self.forwarding == Forwarding::Direct;
        self.desk_prefixes(ends, bound, &mut bench.best)?;
        let Bench {
            best,
            states,
            origins,
            room,
            ..
        } = bench;
        // A state is a set of nodes and, where that matters, the last of them; the empty set's is the first.
        let state = |set: usize, last: usize| set * count + if direct { last } else { 0 };
        states.clear();
        states.resize(wide * (count << count), f64::INFINITY);
        states[..wide].copy_from_slice(best);
        origins.clear();
        origins.resize(states.len(), (0, 0));
        let mut least = (f64::INFINITY, 0);
        for set in 0..1usize << count {
            for last in 0..if direct && set > 0 { count } else { 1 } {
                let own = state(set, last);
                let (known, later) = states.split_at_mut((own + 1) * wide);
                let known = &known[own * wide..];
                least = if known[target] < least.0 {
                    (known[target], own)
                } else {
                    least
                };
                // Costs only grow: what is dearer than a whole cover leads to none that is cheaper.
                if known.iter().all(|cost| *cost >= least.0) {
                    continue;
                }
                for next in (0..count).filter(|next| set >> next & 1 == 0) {
                    let from = match direct && set > 0 {
                        true => match self.space.ground.between(nodes[last], nodes[next]) {
                            Some(way) => Some(way),
                            None => continue,
                        },
                        false => None,
                    };
                    let then = state(set | 1 << next, next);
                    let new = &mut later[(then - own - 1) * wide..][..wide];
                    let origin = &mut origins[then * wide..][..wide];
                    self.extend(
                        (nodes[next], from),
                        (ends, bound),
                        known,
                        room,
                        |end, start, cost| {
                            let better = cost < new[end];
                            if better {
                                new[end] = cost;
                                origin[end] = (start, (own * count + next) as u32);
                            }
                        },
                    );
                }
            }
        }
        least.0.is_finite().then_some(())?;
        let mut segments = self.desk_suffix(ends);
        let (mut at, mut own) = (target, least.1);
        while own > 0 {
            let (start, before) = origins[own * wide + at];
            let (before, next) = (before as usize / count, before as usize % count);
            segments.push(Segment::new(nodes[next], start as usize, at));
            (at, own) = (start as usize, before);
        }
        Some(finished(segments, at))
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
        let queue = self.first * space.ground.sites[DESK].queue;
        let waits = |a: usize| {
            if a > 0 || ends.suffix.is_some() {
                queue
            } else {
                0.0
            }
        };
        best.clear();
        best.extend((0..=layers - suffix).map(|a| {
            let bytes = spent(&space.bytes, a) + space.ends_bytes(a > 0, ends.suffix.is_some());
            let held = space.can_have(DESK, 0, a) && space.can_have(DESK, layers - suffix, layers);
            // All layers at the desk is no cover by nodes; the whole model in one place is looked at by itself.
            let shares = a < layers - suffix;
            match shares && a >= ends.prefix_min && held && bytes <= memory && spent(prefill, a) <= bound {
                true => spent(sums, a) + waits(a),
                false => f64::INFINITY,
            }
        }));
        best.iter().any(|c| c.is_finite()).then_some(())
    }

    /// Lets one more node take layers, anywhere after what is already covered at the least costs in `best`. Tells, for each
    /// end, where it would best begin, and what all costs then.
    fn extend(
        &self,
        (site, from): (usize, Option<&'s Way>),
        (ends, bound): (DeskEnds, f64),
        best: &[f64],
        room: &mut Room,
        mut tell: impl FnMut(usize, u32, f64),
    ) {
        let space = self.space;
        let (layers, target) = (space.layers(), best.len() - 1);
        let node = &space.ground.sites[site];
        let sums = &self.sums(site)[..=target];
        let prefill = &space.sums(site, Phase::Prefill(self.chunk)).layers[..=target];
        let bytes = &space.bytes[..=target];
        let sees_text = node.leaves == Leaves::Text;
        let from_start = sees_text && best[0].is_finite();
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
        let Room { ahead, window } = room;
        ahead.clear();
        ahead.extend(best.iter().zip(sums).map(|(best, sum)| best - sum));
        window.clear();
        window.resize(target + 1, 0);
        // Where it may begin stands in window[front..back], what that costs rising.
        let (mut front, mut back) = (0, 0);
        let (ahead, window) = (&ahead[..=target], &mut window[..=target]);
        let memory_last = node.memory - space.ends_bytes(false, true);
        let whole = space.can_have(site, 0, layers);
        let reach = if sees_text { target } else { target.min(layers - 1) };
        for end in 1..=reach {
            let last = end == layers && ends.suffix.is_none();
            let [inner, outer] = fixed[usize::from(end == target)];
            let memory = if last { memory_last } else { node.memory };
            let fits = |start: usize| {
                bytes[end] - bytes[start] <= memory
                    && prefill[end] - prefill[start] <= bound
                    && (whole || space.can_have(site, start, end))
            };
            let start = end - 1;
            let value = ahead[start];
            if start > 0 && value.is_finite() {
                while back > front && ahead[window[back - 1] as usize] >= value {
                    back -= 1;
                }
                window[back] = start as u32;
                back += 1;
            }
            while back > front && !fits(window[front] as usize) {
                front += 1;
            }
            if back > front {
                let start = window[front];
                tell(end, start, ahead[start as usize] + sums[end] + inner);
            }
            if from_start && fits(0) && bytes[end] + space.ends_bytes(true, last) <= node.memory {
                tell(end, 0, ahead[0] + sums[end] + outer);
            }
        }
    }
}

/// A cover from its last segment to its first, with what is left before them at the desk.
fn finished(mut segments: Vec<Segment>, desk: usize) -> Vec<Segment> {
    if desk > 0 {
        segments.push(Segment::new(DESK, 0, desk));
    }
    segments.reverse();
    join(&mut segments);
    segments
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
