//! Who is served next at one node: users take turns by start-time fair queueing, and of a user's own requests short ones
//! go first, as far as that makes nobody wait without end.

use super::{Ticket, UserId};
use core::time::Duration;
use std::collections::{BTreeMap, HashMap};

/// Seconds by which a request's turn moves back for each second that it takes. A request is passed only by those that come
/// within this many times its own time: long ones wait a little, and never without end.
const SHORT_FIRST: f64 = 4.0;
/// Users that are remembered between their requests.
const USERS_MAX: usize = 4096;

/// Requests that wait at a node.
#[derive(Debug, Clone, Default)]
pub(super) struct Queue {
    users: BTreeMap<UserId, BTreeMap<(Turn, Ticket), Waiting>>,
    length: usize,
    seconds: f64,
    virtual_time: f64,
    /// How far the work that each user was given lies ahead of the node's time.
    finished: HashMap<UserId, f64>,
}

/// A request that waits.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Waiting {
    pub(super) ticket: Ticket,
    pub(super) user: UserId,
    pub(super) weight: f64,
    pub(super) since: Duration,
    /// Seconds that the node is expected to take for it, at its speed as first known.
    pub(super) seconds: f64,
    /// Seconds that it was expected to wait.
    pub(super) expected: f64,
    pub(super) prompt_tokens: u32,
    pub(super) answer_tokens: u32,
    pub(super) block_tokens: u32,
    pub(super) prefix: Vec<u64>,
}

/// A place in a user's own order. Never negative, so that its bits order as it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Turn(u64);

impl Turn {
    fn of(since: Duration, seconds: f64) -> Turn {
        Turn((since.as_secs_f64() + SHORT_FIRST * seconds).max(0.0).to_bits())
    }
}

impl Queue {
    /// Requests that wait.
    pub(super) fn len(&self) -> usize {
        self.length
    }

    /// Seconds of work that wait.
    pub(super) fn seconds(&self) -> f64 {
        self.seconds
    }

    /// Lets a request wait.
    pub(super) fn push(&mut self, waiting: Waiting) {
        let turn = (Turn::of(waiting.since, waiting.seconds), waiting.ticket);
        self.length += 1;
        self.seconds += waiting.seconds;
        self.users.entry(waiting.user).or_default().insert(turn, waiting);
    }

    /// Whoever is served next.
    pub(super) fn peek(&self) -> Option<&Waiting> {
        let heads = self.users.iter().filter_map(|(user, own)| {
            let (turn, waiting) = own.first_key_value()?;
            Some((self.start(*user), *turn, waiting))
        });
        let next = heads.min_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        next.map(|(_, _, waiting)| waiting)
    }

    /// Takes whoever is served next, and counts it as work for its user.
    pub(super) fn pop(&mut self) -> Option<Waiting> {
        let user = self.peek()?.user;
        let start = self.start(user);
        let own = self.users.get_mut(&user)?;
        let (_, waiting) = own.pop_first()?;
        if own.is_empty() {
            self.users.remove(&user);
        }
        self.left(&waiting);
        self.served(start, &waiting);
        Some(waiting)
    }

    /// Takes a request out, whoever's turn it is, and counts it as work for its user.
    pub(super) fn take(&mut self, ticket: Ticket) -> Option<Waiting> {
        let waiting = self.remove(ticket)?;
        self.served(self.start(waiting.user), &waiting);
        Some(waiting)
    }

    /// Takes a request out that nobody will serve.
    pub(super) fn remove(&mut self, ticket: Ticket) -> Option<Waiting> {
        let found = self.users.iter().find_map(|(user, own)| {
            let turn = own.keys().find(|(_, waits)| *waits == ticket)?;
            Some((*user, *turn))
        });
        let (user, turn) = found?;
        let own = self.users.get_mut(&user)?;
        let waiting = own.remove(&turn)?;
        if own.is_empty() {
            self.users.remove(&user);
        }
        self.left(&waiting);
        Some(waiting)
    }

    /// A request waits no more.
    fn left(&mut self, waiting: &Waiting) {
        self.length -= 1;
        self.seconds = if self.length == 0 {
            0.0
        } else {
            self.seconds - waiting.seconds
        };
    }

    /// The node serves a request that began at `start` of its virtual time.
    fn served(&mut self, start: f64, waiting: &Waiting) {
        self.virtual_time = self.virtual_time.max(start);
        if self.finished.len() >= USERS_MAX {
            self.forget();
        }
        self.finished
            .insert(waiting.user, start + waiting.seconds / waiting.weight.max(1e-6));
    }

    /// Forgets users. Whoever is not ahead of the node's time is as good as new. Those who come once do not move that time on: where too many are
    /// ahead of it, the half that is so least is forgotten, too.
    fn forget(&mut self) {
        let now = self.virtual_time;
        self.finished.retain(|_, finished| *finished > now);
        let half = USERS_MAX / 2;
        if self.finished.len() > half {
            let mut ahead: Vec<f64> = self.finished.values().copied().collect();
            let (_, middle, _) = ahead.select_nth_unstable_by(half, f64::total_cmp);
            let middle = *middle;
            self.finished.retain(|_, finished| *finished > middle);
        }
    }

    /// Seconds of work that would be served before such a request.
    pub(super) fn before(&self, user: UserId, weight: f64, since: Duration, seconds: f64) -> f64 {
        let turn = (Turn::of(since, seconds), Ticket(u64::MAX));
        let own = self.users.get(&user);
        let own: f64 = own.map_or(0.0, |own| own.range(..turn).map(|(_, w)| w.seconds).sum());
        let start = self.start(user) + own / weight.max(1e-6);
        let others = self.users.iter().filter(|(other, _)| **other != user);
        let others = others.map(|(other, queued)| {
            // What this user gets until then: whole requests, each as soon as its start comes first.
            let mut at = self.start(*other);
            let mut before = 0.0;
            for waiting in queued.values() {
                if at > start {
                    break;
                }
                before += waiting.seconds;
                at += waiting.seconds / waiting.weight.max(1e-6);
            }
            before
        });
        own + others.sum::<f64>()
    }

    /// Where a user's next request begins in the node's virtual time.
    fn start(&self, user: UserId) -> f64 {
        let finished = self.finished.get(&user).copied().unwrap_or(0.0);
        finished.max(self.virtual_time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(number: u64, user: u64, since: u64, seconds: f64) -> Waiting {
        Waiting {
            ticket: Ticket(number),
            user: UserId(user),
            weight: 1.0,
            since: Duration::from_secs(since),
            seconds,
            expected: 0.0,
            prompt_tokens: 1,
            answer_tokens: 1,
            block_tokens: 1,
            prefix: Vec::new(),
        }
    }

    #[test]
    fn a_short_request_passes_a_long_one_and_not_for_ever() {
        let mut queue = Queue::default();
        queue.push(waiting(0, 1, 0, 10.0));
        for number in 1..100 {
            queue.push(waiting(number, 1, number, 1.0));
        }
        let served: Vec<u64> = std::iter::from_fn(|| queue.pop()).map(|w| w.ticket.0).collect();
        let passed = served.iter().position(|number| *number == 0).unwrap();
        // Whoever comes before four times nine seconds is before it, and nobody after that.
        assert_eq!(passed as f64, SHORT_FIRST * 9.0 - 1.0);
        assert_eq!((queue.len(), queue.seconds()), (0, 0.0));
    }

    #[test]
    fn users_who_come_once_are_not_remembered_for_ever() {
        let mut queue = Queue::default();
        let mut serve = |user: u64, seconds| {
            queue.push(waiting(user, user, 0, seconds));
            queue.pop();
            assert!(queue.finished.len() <= USERS_MAX);
        };
        serve(0, 1_000.0);
        (1..4 * USERS_MAX as u64).for_each(|user| serve(user, 1.0));
        assert_eq!(
            queue.start(UserId(0)),
            1_000.0,
            "who had most is the last to be forgotten"
        );
    }

    #[test]
    fn users_take_turns_whatever_the_length_of_their_queues() {
        let mut queue = Queue::default();
        (0..30).for_each(|number| queue.push(waiting(number, 1, 0, 1.0)));
        (30..33).for_each(|number| queue.push(waiting(number, 2, 1, 1.0)));
        let before = queue.before(UserId(2), 1.0, Duration::from_secs(1), 1.0);
        let served: Vec<u64> = std::iter::from_fn(|| queue.pop())
            .map(|w| w.user.0)
            .take(6)
            .collect();
        assert_eq!(served.iter().filter(|user| **user == 2).count(), 3, "{served:?}");
        assert!((6.0..=8.0).contains(&before), "{before}");
    }
}
