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
    /// Changes no running cost.
    pub(crate) forwarding: Forwarding,
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
    /// What using a site costs on the way from the desk and back: in the middle, first, last, both.
    alone: Vec<OnceCell<[f64; 4]>>,
}

/// In which order layers may run through nodes.
#[derive(Clone, Copy)]
pub(crate) enum Order<'o> {
    /// As they stand.
    Given(&'o Row<'o>),
    /// In the cheapest; for a few nodes.
    Any(&'o [usize]),
}

/// Nodes in an order, for one kind of rates.
pub(crate) struct Row<'o> {
    nodes: &'o [usize],
    /// Their turns, where one of them runs the head and where the desk does; `None` where the one before should send to it and
    /// no way is known.
    turns: [OnceCell<Vec<Option<Turn>>>; 2],
}

/// What a node can do at best where it takes layers.
struct Offer {
    /// Its number in the order.
    turn: usize,
    /// What a byte of them costs, where it takes as many as it can.
    price: f64,
    /// Bytes for which it has room and time.
    room: f64,
}

/// A node's turn to take layers.
struct Turn {
    site: usize,
    /// What using it costs besides its layers: in the middle and at the end, and of these where it goes on after another
    /// and where it begins.
    fixed: [[f64; 2]; 2],
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
    /// Of all nodes, the best first.
    offers: Vec<Offer>,
    /// For some turns at once, what the layers from each place on cost at least where these and later ones take them.
    rests: Vec<f64>,
    room: Room,
}

/// Room for letting one node take layers.
#[derive(Default)]
struct Room {
    /// What was best before each layer, less what the node would have cost by then; infinite where it is not worth it.
    ahead: Vec<f64>,
    window: Vec<(f64, u32)>,
    /// The first and the last place from which on it is worth it.
    from: usize,
    to: usize,
}

/// A sum in another order may be so many times as much.
const ROUNDED: f64 = 1.0 + 1e-9;

/// Turns for which one bound of what comes is good enough: one for each would take longer than it spares.
const TOGETHER: usize = 4;

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
            alone: vec![OnceCell::new(); space.ground.sites.len()],
        }
    }

    /// Running cost before each layer at a site.
    pub(crate) fn sums(&self, site: usize) -> &[f64] {
        self.sums[site].get_or_init(|| {
            let prefill = self.space.sums(site, Phase::Prefill(self.chunk));
            let decode = self.space.sums(site, Phase::Decode(self.rows));
            let credits = self.credits(site);
            let passes = prefill.running().zip(decode.running());
            let all = passes.zip(&self.space.work);
            match self.space.loads(site) {
                Some(loads) => all
                    .zip(loads)
                    .map(|(((p, d), work), load)| self.sum(p, *load, d, credits * work))
                    .collect(),
                None => all
                    .map(|((p, d), work)| self.sum(p, 0.0, d, credits * work))
                    .collect(),
            }
        })
    }

    /// Cost of all layers at a site where they take so many seconds in a chunk's pass and in a round's.
    pub(crate) fn through(&self, site: usize, prefill: f64, decode: f64) -> f64 {
        let layers = self.space.layers();
        let load = self.space.load_seconds(site, 0, layers);
        self.sum(
            prefill,
            load,
            decode,
            self.credits(site) * self.space.work[layers],
        )
    }

    fn sum(&self, prefill: f64, load: f64, decode: f64, credits: f64) -> f64 {
        let prompt = self.chunk_passes * prefill + load;
        self.first * prompt + self.tokens * decode + credits
    }

    /// What all of the work costs at a site.
    fn credits(&self, site: usize) -> f64 {
        let price = self.space.ground.sites[site].profile.price;
        price.prompt_token * self.prompt_price + price.answer_token * self.answer_price
    }

    /// As [`Rates::fixed`], from the desk and back to it.
    fn fixed_alone(&self, site: usize, first: bool, last: bool) -> f64 {
        let known = self.alone[site].get_or_init(|| {
            [(false, false), (true, false), (false, true), (true, true)].map(|(first, last)| {
                self.fixed(
                    site,
                    Hop {
                        first,
                        last,
                        ..Hop::MIDDLE
                    },
                )
            })
        });
        known[usize::from(first) + 2 * usize::from(last)]
    }

    /// Cost of using a remote site at all: the way there and back, its overhead, its queue and the session that is asked for, and the
    /// head where it is last.
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
            true => self.space.sums(site, Phase::Decode(self.rows)).head(),
            false => 0.0,
        };
        let prompt = way(f64::from(self.space.chunks[self.chunk].0)) + of.queue + of.way.round_trip;
        self.first * prompt + self.tokens * (way(f64::from(self.rows)) + head)
    }

    /// Seconds that a chunk keeps the busiest of these stages busy.
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
            Order::Given(row) => self.cover_in_order(row, ends, bound, bench),
            Order::Any(nodes) => self.cover_in_any_order(nodes, ends, bound, bench),
        }
    }

    /// Nodes in this order.
    pub(crate) fn row<'o>(&self, nodes: &'o [usize]) -> Row<'o> {
        let turns = Default::default();
        Row { nodes, turns }
    }

    fn cover_in_order(
        &self,
        row: &Row,
        ends: DeskEnds,
        bound: f64,
        bench: &mut Bench,
    ) -> Option<Vec<Segment>> {
        let order = row.nodes;
        (!order.is_empty()).then_some(())?;
        let target = self.space.layers() - ends.suffix.unwrap_or(0);
        let wide = target + 1;
        self.desk_prefixes(ends, bound, &mut bench.best)?;
        let turns = row.turns[usize::from(ends.suffix.is_some())].get_or_init(|| {
            (0..order.len())
                .map(|turn| self.turn(order, turn, ends))
                .collect()
        });
        let Bench {
            best,
            new,
            choices,
            offers,
            rests,
            room,
            ..
        } = bench;
        self.rests(turns, bound, wide, (&mut *offers, &mut *rests));
        let filled = self.filled(turns, (ends, bound), best, (&offers[..], &rests[..wide]));
        choices.clear();
        choices.resize(order.len() * wide, SKIPPED);
        for ((number, turn), choice) in turns.iter().enumerate().zip(choices.chunks_mut(wide)) {
            let Some(turn) = turn else {
                continue;
            };
            let rest = &rests[number / TOGETHER * wide..][..wide];
            let whole = best[target].min(filled);
            room.begin(best, whole, self.sums(turn.site), rest);
            if room.from == target {
                continue;
            }
            new.clone_from(best);
            self.extend(turn, (ends, bound), room, (&mut new[..], choice), |start| start);
            std::mem::swap(best, new);
        }
        best[target].is_finite().then_some(())?;
        let mut segments = self.desk_suffix(ends);
        let mut at = target;
        for (site, choice) in order.iter().zip(choices.chunks(wide)).rev() {
            let start = choice[at];
            if start != SKIPPED {
                segments.push(Segment::new(*site, start as usize, at));
                at = start as usize;
            }
        }
        Some(finished(segments, at))
    }

    /// A node's turn in an order. `None` where the node before it should send to it and no way is known.
    fn turn(&self, order: &[usize], turn: usize, ends: DeskEnds) -> Option<Turn> {
        let (site, before) = (order[turn], turn.checked_sub(1).map(|before| order[before]));
        match (self.forwarding, before) {
            (Forwarding::Direct, Some(before)) => {
                let way = self.space.ground.between(before, site)?;
                Some(self.turn_of(site, Some(way), ends))
            }
            _ => Some(self.turn_of(site, None, ends)),
        }
    }

    fn turn_of(&self, site: usize, from: Option<&Way>, ends: DeskEnds) -> Turn {
        let direct = self.forwarding == Forwarding::Direct;
        let fixed = [false, true].map(|at_end| {
            [false, true].map(|first| {
                let last = at_end && ends.suffix.is_none();
                match from.filter(|_| !first).is_some() || direct && !at_end {
                    false => self.fixed_alone(site, first, last),
                    true => self.fixed(
                        site,
                        Hop {
                            from: from.filter(|_| !first),
                            first,
                            last,
                            back: !direct || at_end,
                        },
                    ),
                }
            })
        });
        Turn { site, fixed }
    }

    /// What a cover costs that is not far from the cheapest: in their turns the nodes with the best offers take what they
    /// can, as many nodes as it takes. Infinite where none is found.
    fn filled(
        &self,
        turns: &[Option<Turn>],
        limits: (DeskEnds, f64),
        best: &[f64],
        (offers, rest): (&[Offer], &[f64]),
    ) -> f64 {
        let target = best.len() - 1;
        let whole = |at: usize| best[at] + rest[at];
        let first = (0..target).min_by(|a, b| whole(*a).total_cmp(&whole(*b)));
        let Some(start) = first.filter(|at| whole(*at).is_finite()) else {
            return f64::INFINITY;
        };
        let mut left = self.space.bytes[target] - self.space.bytes[start];
        let few = offers.iter().take_while(|offer| {
            left -= offer.room;
            left > 0.0
        });
        let few = few.count() + 1;
        // Whole layers may leave so much of a room that more nodes are needed.
        let counts = [few, few + 1, few + 2, offers.len()];
        let mut costs = counts.into_iter().map(|count| {
            let mut taking: Vec<usize> = offers.iter().take(count).map(|offer| offer.turn).collect();
            taking.sort_unstable();
            let taking = taking.iter().filter_map(|turn| turns[*turn].as_ref());
            best[start] + self.filled_by(taking, limits, (start, target))
        });
        costs.find(|cost| cost.is_finite()).unwrap_or(f64::INFINITY)
    }

    /// What the layers from one place to another cost where each of these nodes takes as many as it can; infinite where that is
    /// not all.
    fn filled_by<'t>(
        &self,
        turns: impl Iterator<Item = &'t Turn>,
        limits: (DeskEnds, f64),
        (mut at, target): (usize, usize),
    ) -> f64 {
        let mut cost = 0.0;
        for turn in turns {
            let Some(end) = self.reach(turn.site, at, target, limits) else {
                continue;
            };
            let sums = self.sums(turn.site);
            cost += sums[end] - sums[at] + turn.fixed[usize::from(end == target)][usize::from(at == 0)];
            at = end;
            if at == target {
                return cost;
            }
        }
        f64::INFINITY
    }

    /// How far a site can go on from here; `None` where it has no room for a layer.
    fn reach(
        &self,
        site: usize,
        start: usize,
        target: usize,
        (ends, bound): (DeskEnds, f64),
    ) -> Option<usize> {
        let (space, layers) = (self.space, self.space.layers());
        let (node, prefill) = (
            &space.ground.sites[site],
            space.sums(site, Phase::Prefill(self.chunk)),
        );
        let most = match node.leaves == Leaves::Text {
            true => target,
            false if start == 0 => return None,
            false => target.min(layers - 1),
        };
        let begins = space.begins(site).first.get(start + 1..=most)?;
        let roomy = begins.partition_point(|begin| *begin as usize <= start);
        let in_time = |end: usize| prefill.span(start, end) <= bound;
        let (mut end, mut beyond) = (start, start + roomy + 1);
        while beyond - end > 1 {
            let middle = end + (beyond - end) / 2;
            match in_time(middle) {
                true => end = middle,
                false => beyond = middle,
            }
        }
        let fits = |end: usize| {
            let last = end == layers && ends.suffix.is_none();
            space.bytes[end] - space.bytes[start] + space.ends_bytes(start == 0, last) <= node.memory
        };
        (start + 1..=end).rev().find(|end| fits(*end))
    }

    /// For so many turns at once, what the layers from each place on cost at least where these and all later ones take them, no
    /// stage longer than the bound; infinite where they have no room for them. As if layers could be cut: so whoever takes a
    /// byte for least takes as many as it can.
    fn rests(
        &self,
        turns: &[Option<Turn>],
        bound: f64,
        wide: usize,
        (offers, rests): (&mut Vec<Offer>, &mut Vec<f64>),
    ) {
        let bytes = &self.space.bytes[..wide];
        offers.clear();
        rests.clear();
        rests.resize(turns.len().div_ceil(TOGETHER) * wide, f64::INFINITY);
        let rests = rests.chunks_mut(wide).zip(turns.chunks(TOGETHER)).enumerate();
        for (block, (rest, turns)) in rests.rev() {
            for (at, turn) in turns.iter().enumerate() {
                let offer = turn.as_ref().and_then(|turn| self.offer(turn, bound));
                let Some((price, room)) = offer else {
                    continue;
                };
                let turn = block * TOGETHER + at;
                let worse = offers.partition_point(|other| other.price < price);
                offers.insert(worse, Offer { turn, price, room });
            }
            // From `known` on it is known: what stands behind these bytes comes to this cost.
            let (mut behind, mut cost) = (bytes[wide - 1], 0.0);
            let mut known = bytes.partition_point(|byte| *byte < behind);
            rest[known..].fill(cost);
            for offer in &*offers {
                let reach = behind - offer.room;
                let from = bytes[..known].partition_point(|byte| *byte < reach);
                let places = rest[from..known].iter_mut().zip(&bytes[from..known]);
                places.for_each(|(rest, byte)| *rest = cost + (behind - byte) * offer.price);
                (known, behind, cost) = (from, reach, cost + offer.room * offer.price);
            }
        }
    }

    /// What a byte of layers costs at a node at least in a stage no longer than the bound, and for how many it has room; `None`
    /// where that is none.
    fn offer(&self, turn: &Turn, bound: f64) -> Option<(f64, f64)> {
        let (space, site) = (self.space, turn.site);
        let [prefill, decode] =
            [Phase::Prefill(self.chunk), Phase::Decode(self.rows)].map(|phase| space.sums(site, phase));
        let credits = self.credits(site);
        let (mut price, mut pace, mut largest) = (f64::INFINITY, 0.0f64, 0.0f64);
        for layer in space.kinds.iter().map(|kind| kind.first) {
            let of = |running: &[f64]| running[layer + 1] - running[layer];
            let (bytes, work) = (of(&space.bytes), of(&space.work));
            let [prefill, decode] = [prefill, decode].map(|sums| sums.span(layer, layer + 1));
            price = price.min(self.sum(prefill, 0.0, decode, credits * work) / bytes);
            pace = pace.max(bytes / prefill);
            largest = largest.max(bytes);
        }
        let in_time = (bound / prefill.least() * ROUNDED).floor() * largest;
        let room = space.begins(site).bytes.min(bound * pace).min(in_time) * ROUNDED;
        let fixed = turn.fixed.iter().flatten().fold(f64::INFINITY, |a, b| a.min(*b));
        (room > 0.0 && price.is_finite()).then_some((price + fixed / room, room))
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
        let nothing = vec![0.0; wide];
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
                    let turn = self.turn_of(nodes[next], from, ends);
                    room.begin(known, least.0, self.sums(turn.site), &nothing);
                    let before = (own * count + next) as u32;
                    self.extend(&turn, (ends, bound), room, (new, origin), |start| (start, before));
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
        let (sums, prefill) = (self.sums(DESK), space.sums(DESK, Phase::Prefill(self.chunk)));
        let spent = |sums: &[f64], a: usize| sums[a] + sums[layers] - sums[layers - suffix];
        let seconds = |a: usize| prefill.before(a) + prefill.before(layers) - prefill.before(layers - suffix);
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
        best.resize(layers - suffix + 1, f64::INFINITY);
        space.can_have(DESK, layers - suffix, layers).then_some(())?;
        let fits = |a: &usize| {
            let bytes = spent(&space.bytes, *a) + space.ends_bytes(*a > 0, ends.suffix.is_some());
            bytes <= memory && seconds(*a) <= bound && space.can_have(DESK, 0, *a)
        };
        // All layers at the desk is no cover by nodes; the whole model in one place is looked at by itself. More layers need
        // more of everything.
        for a in (ends.prefix_min..layers - suffix).take_while(fits) {
            best[a] = spent(sums, a) + waits(a);
        }
        best.iter().any(|c| c.is_finite()).then_some(())
    }

    /// Lets one more node take layers, anywhere after what is already covered. Notes, for each end where that costs less, what it
    /// costs then, and by `origin` where it would best begin.
    fn extend<C>(
        &self,
        turn: &Turn,
        (ends, bound): (DeskEnds, f64),
        room: &mut Room,
        (new, choice): (&mut [f64], &mut [C]),
        origin: impl Fn(u32) -> C,
    ) {
        let (space, layers, target) = (self.space, self.space.layers(), new.len() - 1);
        let node = &space.ground.sites[turn.site];
        let sums = &self.sums(turn.site)[..=target];
        let prefill = space.sums(turn.site, Phase::Prefill(self.chunk));
        let bytes = &space.bytes[..=target];
        let begins = &space.begins(turn.site).first[..=target];
        let choice = &mut choice[..=target];
        let sees_text = node.leaves == Leaves::Text;
        let (from, to) = (room.from, room.to);
        let (ahead, window) = (&room.ahead[..=target], &mut room.window[..=target]);
        let from_start = sees_text && from == 0 && ahead[0].is_finite();
        // Where it may begin stands in window[front..back], what that costs rising.
        let (mut front, mut back, mut in_time) = (0, 0, 0);
        let reach = if sees_text { target } else { target.min(layers - 1) };
        let inside = (from + 1..reach.min(target - 1) + 1, turn.fixed[0], false);
        let at_end = (
            target.max(from + 1)..reach + 1,
            turn.fixed[1],
            ends.suffix.is_none(),
        );
        'ends: for (range, [inner, outer], last) in [inside, at_end] {
            for end in range {
                let mut begin = begins[end] as usize;
                if bound.is_finite() {
                    while prefill.span(in_time, end) > bound {
                        in_time += 1;
                    }
                    begin = begin.max(in_time);
                }
                // No later end can begin where it is worth it either.
                if begin > to {
                    break 'ends;
                }
                if last {
                    let memory = node.memory - space.ends_bytes(false, true);
                    while begin < end && bytes[end] - bytes[begin] > memory {
                        begin += 1;
                    }
                }
                let start = end - 1;
                let value = ahead[start];
                if start > 0 && value.is_finite() {
                    while back > front && window[back - 1].0 >= value {
                        back -= 1;
                    }
                    window[back] = (value, start as u32);
                    back += 1;
                }
                while back > front && (window[front].1 as usize) < begin {
                    front += 1;
                }
                if back > front {
                    let (cost, start) = window[front];
                    let cost = cost + sums[end] + inner;
                    if cost < new[end] {
                        (new[end], choice[end]) = (cost, origin(start));
                    }
                }
                if from_start && begin == 0 && bytes[end] + space.ends_bytes(true, last) <= node.memory {
                    let cost = ahead[0] + sums[end] + outer;
                    if cost < new[end] {
                        (new[end], choice[end]) = (cost, origin(0));
                    }
                }
            }
        }
    }
}

impl Room {
    /// Makes ready for a node to go on from what is covered at the costs in `best`, where that is worth it: with what the rest
    /// from there on costs at least, it must cost less than a whole cover does.
    fn begin(&mut self, best: &[f64], whole: f64, sums: &[f64], rest: &[f64]) {
        let target = best.len() - 1;
        // A rounding is no reason to be left out.
        let most = whole * ROUNDED;
        self.ahead.clear();
        self.ahead.resize(target + 1, f64::INFINITY);
        self.window.resize(target + 1, (0.0, 0));
        let from = rest.partition_point(|rest| rest.is_infinite()).min(target);
        let reached = best[from..target].iter().rposition(|cost| cost.is_finite());
        let to = reached.map_or(from, |last| from + last + 1);
        let ahead = &mut self.ahead[from..to];
        let places = best[from..to].iter().zip(&sums[from..to]).zip(&rest[from..to]);
        for (((best, sum), rest), ahead) in places.zip(&mut *ahead) {
            let worth = best + rest < most;
            *ahead = if worth { best - sum } else { f64::INFINITY };
        }
        let first = ahead.iter().position(|cost| cost.is_finite());
        let last = ahead.iter().rposition(|cost| cost.is_finite());
        (self.from, self.to) = (
            first.map_or(target, |at| from + at),
            last.map_or(0, |at| from + at),
        );
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field;
    use crate::ground::Ground;
    use crate::permit::permit;
    use crate::scenes::crowd;
    use crate::search::Effort;

    /// The cheapest cover in an order, with nothing left out: from the last node to the first, each takes nothing or any run.
    fn cheapest(rates: &Rates, order: &[usize], ends: DeskEnds, bound: f64) -> f64 {
        let target = rates.space.layers() - ends.suffix.unwrap_or(0);
        let mut best = Vec::new();
        if rates.desk_prefixes(ends, bound, &mut best).is_none() {
            return f64::INFINITY;
        }
        let mut rest = vec![f64::INFINITY; target + 1];
        rest[target] = 0.0;
        for number in (0..order.len()).rev() {
            let Some(turn) = rates.turn(order, number, ends) else {
                continue;
            };
            let sums = rates.sums(turn.site);
            let from = |start: usize| {
                let runs =
                    (start + 1..=target).filter(|end| may_run(rates, turn.site, (start, *end), ends, bound));
                let cost = |end: usize| {
                    let fixed = turn.fixed[usize::from(end == target)][usize::from(start == 0)];
                    fixed + (sums[end] - sums[start]) + rest[end]
                };
                runs.map(cost).fold(rest[start], f64::min)
            };
            rest = (0..=target).map(from).collect();
        }
        best.iter()
            .zip(&rest)
            .map(|(best, rest)| best + rest)
            .fold(f64::INFINITY, f64::min)
    }

    fn may_run(rates: &Rates, site: usize, (start, end): (usize, usize), ends: DeskEnds, bound: f64) -> bool {
        let (space, of) = (rates.space, &rates.space.ground.sites[site]);
        let last = end == space.layers() && ends.suffix.is_none();
        let bytes = space.bytes[end] - space.bytes[start] + space.ends_bytes(start == 0, last);
        let at_an_end = start == 0 || end == space.layers();
        let seconds = space.sums(site, Phase::Prefill(rates.chunk)).span(start, end);
        (of.leaves == Leaves::Text || !at_an_end)
            && bytes <= of.memory
            && space.can_have(site, start, end)
            && seconds <= bound
    }

    /// What the rates say of a cover that was found.
    fn cost(rates: &Rates, order: &[usize], ends: DeskEnds, bound: f64, cover: &[Segment]) -> f64 {
        let target = rates.space.layers() - ends.suffix.unwrap_or(0);
        let mut best = Vec::new();
        rates.desk_prefixes(ends, bound, &mut best).unwrap();
        let remote = cover.iter().filter(|g| g.site != DESK);
        let first = remote.clone().next().unwrap().start;
        remote.fold(best[first], |sum, g| {
            let number = order.iter().position(|site| *site == g.site).unwrap();
            assert!(may_run(rates, g.site, (g.start, g.end), ends, bound), "{g:?}");
            let fixed = rates.turn(order, number, ends).unwrap().fixed;
            let sums = rates.sums(g.site);
            sum + fixed[usize::from(g.end == target)][usize::from(g.start == 0)] + sums[g.end] - sums[g.start]
        })
    }

    /// What is left out on the way to it is what cannot lead to the cheapest.
    #[test]
    fn covers_are_the_cheapest_of_their_order() {
        let (mut bench, mut found) = (Bench::default(), 0);
        for (seed, share) in (0..24).flat_map(|seed| [(seed, 0.1), (seed, 0.4), (seed, 2.0)]) {
            let (request, cluster) = crowd(seed, 10, 24, share);
            let permitted = permit(&request, &cluster);
            let ground = Ground::new(&permitted);
            let space = Space::new(&ground, (seed as usize % 2, 0), false);
            let mut order = field::nodes(&space, Effort::Full);
            if seed % 3 == 0 {
                order.reverse();
            }
            for forwarding in [Forwarding::ThroughDesk, Forwarding::Direct] {
                let wishes = Wishes {
                    draft: None,
                    credit: 0.01,
                    pace: 0.3,
                    forwarding,
                };
                let rates = Rates::new(&space, space.chunks.len() / 2, wishes);
                let row = rates.row(&order);
                for ends in [(1, Some(1)), (1, Some(0)), (1, None), (0, None)] {
                    let (ends, mut bound) = (DeskEnds::new(ends.0, ends.1), f64::INFINITY);
                    for _ in 0..3 {
                        let least = cheapest(&rates, &order, ends, bound);
                        let Some(cover) = rates.cover(Order::Given(&row), ends, bound, &mut bench) else {
                            assert!(least.is_infinite(), "seed {seed}: there is a cover of {least}");
                            break;
                        };
                        let cost = cost(&rates, &order, ends, bound, &cover);
                        assert!(
                            (cost / least - 1.0).abs() < 1e-9,
                            "seed {seed}: {cost}, not {least}"
                        );
                        found += 1;
                        bound = 0.8 * rates.busiest(&cover);
                    }
                }
            }
        }
        assert!(found > 300, "{found} covers were found");
    }
}
