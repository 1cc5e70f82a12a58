//! Many requests over many nodes: who takes the next one, in which order each serves, and an honest time to wait.
//!
//! A request looks at some nodes drawn by its number and at those that hold most of its beginning (the power of two
//! choices, Mitzenmacher 2001, with more than two where looking is cheap), and goes where its first token is expected
//! first: the queue there, what is still to be computed there, and how fast that node was lately
//! are one sum, so that a popular beginning draws requests only as long as its queue is worth it. Each node serves its
//! users by start-time fair queueing (Goyal et al. 1996), short requests of one user before long ones, and a node that has
//! nothing to do takes over what waits elsewhere. Queues are bounded, and a refusal says when to come again.

mod prefix;
mod queue;

pub use prefix::PrefixCache;

use core::time::Duration;
use queue::{Queue, Waiting};

/// Nodes that are looked at because a request's number draws them.
const DRAWN: usize = 8;
/// What a request counts of the work lately given to a node when that work is forgotten.
const FORGET: f64 = 0.01;
/// How much longer a request's own work counts at a node that was given twice its share lately.
const SPREAD: f64 = 3.0;
/// What one request that begins changes of how waits compare with what was promised.
const PROMISE: f64 = 0.05;
/// Lengths of requests, and of waits, whose promises are learned apart.
const CLASSES: usize = 12;
/// Nodes that are looked at because they hold most of a request's beginning.
const AFFINE: usize = 2;
/// Share of what was expected of a request that it still takes, at least, however long it has run: lengths of answers are
/// guesses, and one that is overdue does not end at once.
const OVERDUE: f64 = 0.35;
/// What one measurement changes of a node's speed.
const LEARN: f64 = 0.1;

/// Somebody who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserId(pub u64);

/// A node, by index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seat(pub usize);

/// A request that waits or runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// A node as it is known before the first request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SeatStart {
    /// Seconds for one token of a prompt.
    pub prefill: f64,
    /// Seconds for one token of an answer.
    pub decode: f64,
    /// Requests that may wait.
    pub queue_max: usize,
    /// Blocks of prompts that stay in its cache.
    pub blocks_max: usize,
}

/// A request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ask<'a> {
    /// Whose.
    pub user: UserId,
    /// The user's share of the work against others'; 1 is everybody's.
    pub weight: f64,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Tokens that the answer is expected to have.
    pub answer_tokens: u32,
    /// A hash for each block of the prompt that includes all blocks before it; empty where nothing is known.
    pub prefix: &'a [u64],
    /// Tokens of one block.
    pub block_tokens: u32,
}

/// Where a request waits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Placed {
    /// Its number.
    pub ticket: Ticket,
    /// At this node.
    pub seat: Seat,
    /// Expected time until its first token.
    pub first_token: Duration,
}

/// Every queue that could take it is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("every queue is full; there will be room in about {} s", .again.as_secs_f64().ceil())]
pub struct Busy {
    /// When to come again.
    pub again: Duration,
}

/// The queues of all nodes.
#[derive(Debug, Clone)]
pub struct Balancer {
    nodes: Vec<Node>,
    next_ticket: u64,
    promises: Promises,
}

#[derive(Debug, Clone)]
struct Node {
    start: SeatStart,
    /// Measured seconds over expected ones, lately.
    factor: f64,
    /// Seconds of work given to it lately.
    given: f64,
    queue: Queue,
    running: Vec<Running>,
    cache: PrefixCache,
}

/// A request that a node serves.
#[derive(Debug, Clone, Copy)]
struct Running {
    ticket: Ticket,
    /// Its expected end.
    ends: Duration,
    /// Seconds that were expected of it.
    expected: f64,
}

impl Balancer {
    /// Empty queues.
    pub fn new(seats: &[SeatStart]) -> Balancer {
        let mut balancer = Balancer {
            nodes: Vec::with_capacity(seats.len()),
            next_ticket: 0,
            promises: Promises::default(),
        };
        for start in seats {
            balancer.add(*start);
        }
        balancer
    }

    /// One more node.
    pub fn add(&mut self, start: SeatStart) -> Seat {
        self.nodes.push(Node::new(start));
        Seat(self.nodes.len() - 1)
    }

    /// Another node in the place of one of which nothing is wanted any more.
    pub fn renew(&mut self, seat: Seat, start: SeatStart) {
        if let Some(node) = self.nodes.get_mut(seat.0) {
            *node = Node::new(start);
        }
    }

    /// Whether nothing waits or runs at a node.
    pub fn is_idle(&self, seat: Seat) -> bool {
        let node = self.nodes.get(seat.0);
        node.is_none_or(|node| node.queue.len() == 0 && node.running.is_empty())
    }

    /// A node is known better now.
    pub fn know(&mut self, seat: Seat, start: SeatStart) {
        if let Some(node) = self.nodes.get_mut(seat.0) {
            node.start = start;
        }
    }

    /// How long such a request is expected to wait at a node behind what was put there.
    pub fn expected_wait(&self, seat: Seat, ask: &Ask, now: Duration) -> Duration {
        match seat.0 < self.nodes.len() {
            true => Duration::from_secs_f64(self.wait(seat.0, ask, now).clamp(0.0, 1e9)),
            false => Duration::ZERO,
        }
    }

    /// Puts a request into the queue of a node that somebody else chose, however long that is; `None` where there is no such node.
    pub fn give(&mut self, seat: Seat, ask: &Ask, now: Duration) -> Option<Placed> {
        (seat.0 < self.nodes.len()).then(|| self.enqueue(seat.0, ask, now))
    }

    /// Puts a request into the queue where it is expected to begin first.
    pub fn place(&mut self, ask: &Ask, now: Duration) -> Result<Placed, Busy> {
        let room = |node: &Node| node.queue.len() < node.start.queue_max;
        let candidates = self
            .candidates(ask)
            .into_iter()
            .filter(|at| room(&self.nodes[*at]));
        let mean = self.nodes.iter().map(|n| n.given).sum::<f64>() / self.nodes.len().max(1) as f64;
        let timed = |at: usize| {
            let node = &self.nodes[at];
            let over = (node.given / mean.max(1e-9) - 1.0).max(0.0);
            let own = node.factor * node.prompt_seconds(ask);
            (self.wait(at, ask, now) + own * (1.0 + SPREAD * over), at)
        };
        let best = candidates.map(timed).min_by(|a, b| a.0.total_cmp(&b.0));
        let best = best.or_else(|| {
            let others = (0..self.nodes.len()).filter(|at| room(&self.nodes[*at]));
            others.map(timed).min_by(|a, b| a.0.total_cmp(&b.0))
        });
        let Some((_, at)) = best else {
            return Err(self.busy(now));
        };
        Ok(self.enqueue(at, ask, now))
    }

    fn enqueue(&mut self, at: usize, ask: &Ask, now: Duration) -> Placed {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        let wait = self.wait(at, ask, now);
        let node = &self.nodes[at];
        let seconds = self.promises.wait(node.seconds(ask), wait) + node.factor * node.prompt_seconds(ask);
        self.nodes.iter_mut().for_each(|n| n.given *= 1.0 - FORGET);
        let waiting = waiting(ticket, ask, now, wait);
        self.nodes[at].enqueue(waiting);
        Placed {
            ticket,
            seat: Seat(at),
            first_token: Duration::from_secs_f64(seconds.clamp(0.0, 1e9)),
        }
    }

    /// The request that an idle node serves next: of the user who has had least of the node. Where none waits there, one
    /// that waits elsewhere and begins here sooner, even though what is cached there has to be computed.
    pub fn begin(&mut self, seat: Seat, now: Duration) -> Option<Ticket> {
        let node = self.nodes.get(seat.0)?;
        if !node.running.is_empty() {
            return None;
        }
        let waiting = match node.queue.len() {
            0 => self.taken_over(seat.0, now)?,
            _ => self.nodes[seat.0].queue.pop()?,
        };
        Some(self.run(seat.0, &waiting, now))
    }

    /// A request begins now at the node where it waits, whoever's turn it is, and beside whatever else runs there: nodes take more than one
    /// at a time, and each is the slower for it. `false` where it does not wait there.
    pub fn start(&mut self, seat: Seat, ticket: Ticket, now: Duration) -> bool {
        let waiting = self
            .nodes
            .get_mut(seat.0)
            .and_then(|node| node.queue.take(ticket));
        if let Some(waiting) = &waiting {
            self.run(seat.0, waiting, now);
        }
        waiting.is_some()
    }

    /// A request is wanted no more: it waits no longer, or does not run.
    pub fn forget(&mut self, seat: Seat, ticket: Ticket) {
        if let Some(node) = self.nodes.get_mut(seat.0) {
            node.queue.remove(ticket);
            node.running.retain(|running| running.ticket != ticket);
        }
    }

    fn run(&mut self, at: usize, waiting: &Waiting, now: Duration) -> Ticket {
        let waited = now.saturating_sub(waiting.since).as_secs_f64();
        self.promises.learn(waiting.seconds, waiting.expected, waited);
        let node = &mut self.nodes[at];
        node.cache.hold(&waiting.prefix);
        let seconds = waiting.seconds * node.factor + node.busy(now);
        node.running.push(Running {
            ticket: waiting.ticket,
            ends: now + Duration::from_secs_f64(seconds.clamp(0.0, 1e9)),
            expected: waiting.seconds,
        });
        waiting.ticket
    }

    /// Takes the next request of the node with most work waiting, where it would begin later there than here.
    fn taken_over(&mut self, here: usize, now: Duration) -> Option<Waiting> {
        let load = |at: usize| self.nodes[at].queue.seconds() * self.nodes[at].factor;
        let there = (0..self.nodes.len()).filter(|at| *at != here && self.nodes[*at].queue.len() > 0);
        let there = there.max_by(|a, b| load(*a).total_cmp(&load(*b)))?;
        let next = self.nodes[there].queue.peek()?;
        let prompt = |at: usize| self.nodes[at].factor * self.nodes[at].prompt_seconds(&next.as_ask());
        if prompt(here) >= self.nodes[there].busy(now) + prompt(there) {
            return None;
        }
        let mut waiting = self.nodes[there].queue.pop()?;
        let node = &mut self.nodes[here];
        let ask = waiting.as_ask();
        waiting.seconds = node.seconds(&ask);
        node.given += waiting.seconds;
        node.queue.push(waiting);
        node.queue.pop()
    }

    /// A node is idle again: what it served took so long.
    pub fn finish(&mut self, seat: Seat, ticket: Ticket, took: Duration) {
        let Some(node) = self.nodes.get_mut(seat.0) else {
            return;
        };
        let beside = node.running.len();
        if let Some(at) = node.running.iter().position(|running| running.ticket == ticket) {
            let expected = node.running.remove(at).expected;
            // Beside others it had a share of the node.
            let own = took.as_secs_f64() / beside as f64;
            let factor = (own / expected.max(1e-9)).clamp(0.05, 20.0);
            node.factor += LEARN * (factor - node.factor);
        }
    }

    /// Requests that wait at a node.
    pub fn waiting(&self, seat: Seat) -> usize {
        self.nodes.get(seat.0).map_or(0, |n| n.queue.len())
    }

    /// Some nodes drawn by the request's number, and those that hold most of its beginning.
    fn candidates(&self, ask: &Ask) -> Vec<usize> {
        let count = self.nodes.len();
        if count == 0 {
            return Vec::new();
        }
        let draw =
            |salt: usize| (mixed(self.next_ticket * DRAWN as u64 + salt as u64) % count as u64) as usize;
        let mut candidates: Vec<usize> = match count <= DRAWN {
            true => (0..count).collect(),
            false => (0..DRAWN).map(draw).collect(),
        };
        let mut affine: Vec<(usize, usize)> = (0..count)
            .map(|at| (self.nodes[at].cache.overlap(ask.prefix), at))
            .filter(|(overlap, _)| *overlap > 0)
            .collect();
        affine.sort_unstable_by(|a, b| {
            b.0.cmp(&a.0).then_with(|| {
                let load = |at: usize| self.nodes[at].queue.seconds() * self.nodes[at].factor;
                load(a.1).total_cmp(&load(b.1))
            })
        });
        candidates.extend(affine.into_iter().take(AFFINE).map(|(_, at)| at));
        candidates.sort_unstable();
        candidates.dedup();
        candidates
    }

    /// Expected seconds of waiting at a node: what runs, and what is served before.
    fn wait(&self, at: usize, ask: &Ask, now: Duration) -> f64 {
        let node = &self.nodes[at];
        let before = node.queue.before(ask.user, ask.weight, now, node.seconds(ask));
        node.busy(now) + node.factor * before
    }

    fn busy(&self, now: Duration) -> Busy {
        let soonest = self
            .nodes
            .iter()
            .map(|node| node.busy(now))
            .fold(f64::INFINITY, f64::min);
        let again = if soonest.is_finite() { soonest } else { 60.0 };
        Busy {
            again: Duration::from_secs_f64(again),
        }
    }
}

impl Node {
    fn new(start: SeatStart) -> Self {
        Self {
            start,
            factor: 1.0,
            given: 0.0,
            queue: Queue::default(),
            running: Vec::new(),
            cache: PrefixCache::new(start.blocks_max),
        }
    }

    fn prompt_seconds(&self, ask: &Ask) -> f64 {
        let held = self.cache.overlap(ask.prefix) as u64 * u64::from(ask.block_tokens);
        let rest = u64::from(ask.prompt_tokens).saturating_sub(held).max(1);
        rest as f64 * self.start.prefill
    }

    /// Seconds of the whole request at its speed as first known.
    fn seconds(&self, ask: &Ask) -> f64 {
        self.prompt_seconds(ask) + f64::from(ask.answer_tokens) * self.start.decode
    }

    /// Expected seconds until what runs has ended.
    fn busy(&self, now: Duration) -> f64 {
        let left = |running: &Running| {
            let left = running.ends.saturating_sub(now).as_secs_f64();
            left.max(OVERDUE * running.expected * self.factor)
        };
        // Each that began beside others ends behind them.
        self.running.iter().map(left).fold(0.0, f64::max)
    }

    fn enqueue(&mut self, mut waiting: Waiting) {
        waiting.seconds = self.seconds(&waiting.as_ask());
        self.given += waiting.seconds;
        self.queue.push(waiting);
    }
}

impl Waiting {
    /// The request as it was asked.
    fn as_ask(&self) -> Ask<'_> {
        Ask {
            user: self.user,
            weight: self.weight,
            prompt_tokens: self.prompt_tokens,
            answer_tokens: self.answer_tokens,
            prefix: &self.prefix,
            block_tokens: self.block_tokens,
        }
    }
}

/// How long requests wait over what was expected, lately, by how long they are and how long they were to wait: those that
/// come later pass long ones, and not short ones.
#[derive(Debug, Clone)]
struct Promises([[f64; CLASSES]; CLASSES]);

impl Default for Promises {
    fn default() -> Promises {
        Promises([[0.0; CLASSES]; CLASSES])
    }
}

impl Promises {
    /// An honest time to wait for a request of so many seconds.
    fn wait(&self, seconds: f64, expected: f64) -> f64 {
        expected * self.0[class(seconds)][class(expected)].exp()
    }

    fn learn(&mut self, seconds: f64, expected: f64, waited: f64) {
        if expected > 0.0 && waited > 0.0 {
            let known = &mut self.0[class(seconds)][class(expected)];
            // By no more than a step: what counts is the middle, not one request that waited very long.
            *known += PROMISE * ((waited / expected).ln() - *known).clamp(-1.0, 1.0);
        }
    }
}

/// Each twice the one before; the first below an eighth of a second.
fn class(seconds: f64) -> usize {
    let doublings = (seconds.max(1e-9) * 8.0).log2().ceil();
    doublings.clamp(0.0, CLASSES as f64 - 1.0) as usize
}

fn waiting(ticket: Ticket, ask: &Ask, since: Duration, expected: f64) -> Waiting {
    Waiting {
        ticket,
        user: ask.user,
        weight: ask.weight,
        since,
        seconds: 0.0,
        expected,
        prompt_tokens: ask.prompt_tokens,
        answer_tokens: ask.answer_tokens,
        block_tokens: ask.block_tokens,
        prefix: ask.prefix.to_vec(),
    }
}

/// SplitMix64's last step: spreads request numbers.
fn mixed(of: u64) -> u64 {
    let mut z = of.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEAT: SeatStart = SeatStart {
        prefill: 0.001,
        decode: 0.01,
        queue_max: 4,
        blocks_max: 64,
    };

    fn ask(user: u64, prefix: &[u64]) -> Ask<'_> {
        Ask {
            user: UserId(user),
            weight: 1.0,
            prompt_tokens: 100,
            answer_tokens: 10,
            prefix,
            block_tokens: 10,
        }
    }

    #[test]
    fn a_queue_is_bounded_and_says_when_to_come_again() {
        let mut balancer = Balancer::new(&[SEAT]);
        balancer.place(&ask(1, &[]), Duration::ZERO).unwrap();
        balancer.begin(Seat(0), Duration::ZERO).unwrap();
        for _ in 0..4 {
            balancer.place(&ask(1, &[]), Duration::ZERO).unwrap();
        }
        let busy = balancer.place(&ask(2, &[]), Duration::ZERO).unwrap_err();
        assert!((busy.again.as_secs_f64() - 0.2).abs() < 1e-6, "{busy}");
    }

    #[test]
    fn a_greedy_user_does_not_stand_before_everybody() {
        let mut balancer = Balancer::new(&[SeatStart {
            queue_max: 100,
            ..SEAT
        }]);
        let greedy: Vec<_> = (0..10)
            .map(|_| balancer.place(&ask(1, &[]), Duration::ZERO).unwrap())
            .collect();
        let modest = balancer.place(&ask(2, &[]), Duration::ZERO).unwrap();
        let first = balancer.begin(Seat(0), Duration::ZERO).unwrap();
        balancer.finish(Seat(0), first, Duration::from_millis(200));
        let second = balancer.begin(Seat(0), Duration::ZERO).unwrap();
        assert_eq!((first, second), (greedy[0].ticket, modest.ticket));
        assert!(modest.first_token < greedy[3].first_token);
    }

    #[test]
    fn a_known_beginning_draws_requests_until_its_queue_is_longer_than_it_saves() {
        let seats = vec![
            SeatStart {
                queue_max: 100,
                ..SEAT
            };
            2
        ];
        let mut balancer = Balancer::new(&seats);
        let blocks: Vec<u64> = (0..10).collect();
        let home = balancer.place(&ask(1, &blocks), Duration::ZERO).unwrap().seat;
        balancer.begin(home, Duration::ZERO).unwrap();
        let next: Vec<Seat> = (0..6)
            .map(|_| balancer.place(&ask(1, &blocks), Duration::ZERO).unwrap().seat)
            .collect();
        assert!(next.contains(&home), "{next:?}");
        assert!(next.iter().any(|seat| *seat != home), "{next:?}");
    }

    #[test]
    fn what_others_chose_a_node_for_is_waited_for_until_it_is_done_or_taken_back() {
        let mut balancer = Balancer::new(&[SEAT]);
        let late = balancer.add(SEAT);
        let wait = |balancer: &Balancer, seat| {
            balancer
                .expected_wait(seat, &ask(9, &[]), Duration::ZERO)
                .as_secs_f64()
        };
        let given: Vec<Ticket> = (0..3)
            .map(|user| {
                balancer
                    .give(late, &ask(user, &[]), Duration::ZERO)
                    .unwrap()
                    .ticket
            })
            .collect();
        assert!((wait(&balancer, late) - 0.6).abs() < 1e-6 && wait(&balancer, Seat(0)) == 0.0);
        // Nodes take several at once, and each is the slower for it.
        assert!(
            balancer.start(late, given[2], Duration::ZERO) && balancer.start(late, given[0], Duration::ZERO)
        );
        assert!(
            (wait(&balancer, late) - 0.6).abs() < 1e-6,
            "{}",
            wait(&balancer, late)
        );
        assert!(!balancer.start(late, given[0], Duration::ZERO), "it runs");
        balancer.forget(late, given[1]);
        assert!((wait(&balancer, late) - 0.4).abs() < 1e-6);
        balancer.finish(late, given[0], Duration::from_millis(400));
        balancer.forget(late, given[2]);
        assert_eq!((wait(&balancer, late), balancer.waiting(late)), (0.0, 0));
        assert!(balancer.give(Seat(7), &ask(1, &[]), Duration::ZERO).is_none());
    }
}
