//! Networks in virtual time: loss, delay, deaths, by seed.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::*;

/// When, a tie-breaker, to whom, from whom, what.
type Due = (Duration, u64, NodeId, NodeId, Vec<u8>);

/// A network of nodes; each message is lost or delayed by lot.
struct Net {
    now: Duration,
    nodes: BTreeMap<NodeId, Members>,
    /// Messages under way; an empty one is a wake-up.
    due: BinaryHeap<Reverse<Due>>,
    sent: u64,
    loss: f64,
    one_way: Duration,
    lots: Members,
    lives: u64,
    events: Vec<(Duration, NodeId, Event)>,
    /// The planted mistake: nodes that are suspected do not refute.
    mute: bool,
}

fn id(at: u32) -> NodeId {
    NodeId(*blake3::hash(&at.to_le_bytes()).as_bytes())
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

impl Net {
    fn new(seed: u64, loss: f64, one_way: Duration) -> Net {
        Net {
            now: Duration::ZERO,
            nodes: BTreeMap::new(),
            due: BinaryHeap::new(),
            sent: 0,
            loss,
            one_way,
            lots: Members::new(NodeId([0; 32]), NodeAddress::default(), 0, seed, Duration::ZERO),
            lives: 0,
            events: Vec::new(),
            mute: false,
        }
    }

    /// `count` nodes that have found each other.
    fn settled(seed: u64, count: u32, loss: f64, one_way: Duration) -> Net {
        let mut net = Net::new(seed, loss, one_way);
        (0..count).for_each(|at| net.start(id(at)));
        net.run_to(ms(20_000));
        net.events.clear();
        net
    }

    fn start(&mut self, node: NodeId) {
        self.lives += 1;
        let seed = (self.lots.fraction() * 1e15) as u64;
        let mut members = Members::new(node, NodeAddress::default(), self.lives, seed, self.now);
        let known: Vec<NodeId> = self.nodes.keys().copied().take(3).collect();
        members.join(known.into_iter().map(|node| (node, NodeAddress::default())));
        self.nodes.insert(node, members);
        self.flush(node);
    }

    fn kill(&mut self, node: NodeId) {
        self.nodes.remove(&node);
    }

    fn leave(&mut self, node: NodeId) {
        self.nodes.get_mut(&node).unwrap().leave();
        self.flush(node);
        self.kill(node);
    }

    fn flush(&mut self, node: NodeId) {
        let members = self.nodes.get_mut(&node).unwrap();
        while let Some(event) = members.event() {
            self.events.push((self.now, node, event));
        }
        while let Some(Outgoing { to, bytes, .. }) = members.transmit() {
            assert!(bytes.len() <= message::BYTES_MAX);
            self.sent += 1;
            if self.lots.fraction() >= self.loss {
                // Up to a tenth more, so that messages overtake each other.
                let delay = self.one_way.mul_f64(1.0 + self.lots.fraction() / 10.0);
                self.due
                    .push(Reverse((self.now + delay, self.sent, to, node, bytes)));
            }
        }
        if let Some(at) = members.deadline() {
            self.sent += 1;
            self.due.push(Reverse((at, self.sent, node, node, Vec::new())));
        }
    }

    fn run_to(&mut self, end: Duration) {
        while let Some(Reverse((at, ..))) = self.due.peek()
            && *at <= end
        {
            let Reverse((at, _, to, from, bytes)) = self.due.pop().unwrap();
            self.now = at;
            let bytes = self.heard(to, bytes);
            let Some(node) = self.nodes.get_mut(&to) else {
                continue;
            };
            if bytes.is_empty() {
                if node.deadline().is_none_or(|due| due > at) {
                    continue;
                }
                node.wake(at);
            } else {
                node.receive(at, from, &bytes);
            }
            self.flush(to);
        }
        self.now = end;
    }

    /// What `to` hears; with the planted mistake, nothing bad about itself.
    fn heard(&self, to: NodeId, bytes: Vec<u8>) -> Vec<u8> {
        if !self.mute || bytes.is_empty() {
            return bytes;
        }
        let mut message = Message::decode(&bytes).unwrap();
        message.rumours.retain(|rumour| rumour.node != to);
        message.encode()
    }

    fn lost(&self, node: NodeId) -> Vec<Duration> {
        let times = self
            .events
            .iter()
            .filter(|(_, _, event)| *event == Event::Lost(node));
        times.map(|(at, ..)| *at).collect()
    }

    fn everybody_knows_everybody(&self) -> bool {
        self.nodes.iter().all(|(me, node)| {
            let known: Vec<NodeId> = node.members().map(|(other, _)| other).collect();
            let there: Vec<NodeId> = self.nodes.keys().copied().filter(|other| other != me).collect();
            known == there
        })
    }
}

#[test]
fn nodes_find_each_other_through_one_contact() {
    for seed in 0..5 {
        let net = Net::settled(seed, 30, 0.01, ms(150));
        assert!(net.everybody_knows_everybody(), "seed {seed}");
    }
}

#[test]
#[expect(clippy::print_stderr, reason = "the figure that is promised is also shown")]
fn a_dead_node_is_noticed_within_three_seconds_by_everybody() {
    for one_way in [ms(1), ms(150)] {
        let mut taken = Vec::new();
        for (seed, count) in (0..40).zip([2, 3, 8, 20].into_iter().cycle()) {
            let mut net = Net::settled(seed, count, 0.01, one_way);
            net.run_to(net.now + PING_EVERY.mul_f64(seed as f64 / 40.0));
            let (died, victim) = (net.now, id(seed as u32 % count));
            net.kill(victim);
            net.run_to(died + ms(12_000));
            let lost = net.lost(victim);
            assert_eq!(
                lost.len(),
                count as usize - 1,
                "everybody notices once (seed {seed})"
            );
            taken.extend(lost.into_iter().map(|at| at - died));
            assert!(
                net.everybody_knows_everybody(),
                "nobody else was lost (seed {seed})"
            );
        }
        taken.sort_unstable();
        let p99 = taken[taken.len() * 99 / 100];
        eprintln!(
            "noticed at {one_way:?} one way: median {:?}, p99 {p99:?}, of {}",
            taken[taken.len() / 2],
            taken.len()
        );
        assert!(p99 <= ms(3_000), "{p99:?} of {} at {one_way:?}", taken.len());
    }
}

/// Nodes taken for dead while nobody dies, in half an hour at 1 % loss and 300 ms there and back.
fn false_alarms(seed: u64, count: u32, plant: bool) -> usize {
    let mut net = Net::settled(seed, count, 0.01, ms(150));
    net.mute = plant;
    // Silence that ends before the suspicion does: what a refutation is for. Loss alone hardly ever gets so far.
    for minute in 0..30 {
        net.run_to(ms(20_000 + minute * 60_000));
        let somebody = id(minute as u32 % count);
        let silent = net.nodes.remove(&somebody).unwrap();
        net.run_to(net.now + ms(900));
        net.nodes.insert(somebody, silent);
        net.nodes.get_mut(&somebody).unwrap().wake(net.now);
        net.flush(somebody);
    }
    net.run_to(ms(20_000 + 30 * 60_000));
    net.events
        .iter()
        .filter(|(_, _, event)| matches!(event, Event::Lost(_)))
        .count()
}

#[test]
fn nobody_living_is_taken_for_dead_in_half_an_hour() {
    for (seed, count) in [(1, 2), (2, 5), (3, 12)] {
        assert_eq!(false_alarms(seed, count, false), 0, "seed {seed}, {count} nodes");
    }
}

#[test]
fn without_refutation_the_living_are_taken_for_dead() {
    assert!(
        false_alarms(3, 12, true) > 0,
        "the test above would not notice the planted mistake"
    );
}

#[test]
fn fifty_nodes_come_and_go_for_ten_minutes_and_leave_no_ghosts() {
    let mut net = Net::settled(11, 50, 0.01, ms(40));
    let mut dead: BTreeMap<NodeId, Duration> = BTreeMap::new();
    let mut born: BTreeMap<NodeId, Duration> = BTreeMap::new();
    for turn in 0..300 {
        let now = net.now;
        if turn % 2 == 0 {
            let at = (net.lots.fraction() * net.nodes.len() as f64) as usize;
            let node = *net.nodes.keys().nth(at).unwrap();
            match turn % 4 {
                0 => net.kill(node),
                _ => net.leave(node),
            }
            dead.insert(node, now);
            born.remove(&node);
        } else {
            // Every fourth is one of the dead, come back.
            let back = dead.keys().next().copied().filter(|_| turn % 8 == 1);
            let node = back.unwrap_or(id(1_000 + turn));
            dead.remove(&node);
            net.start(node);
            born.insert(node, now);
        }
        net.run_to(now + ms(2_000));
        for (me, members) in &net.nodes {
            for (known, _) in members.members() {
                let age = dead.get(&known).map(|died| net.now - *died);
                assert!(
                    age.is_none_or(|age| age <= ms(10_000)),
                    "{me:?} lists {known:?}, dead for {age:?}"
                );
            }
            assert!(members.gone.len() <= MEMBERS_MAX && members.news.len() <= NEWS_MAX);
            assert!(members.outgoing.is_empty() && members.errands.len() <= ERRANDS_MAX);
        }
    }
    net.run_to(net.now + ms(10_000));
    assert!(net.everybody_knows_everybody());
}

#[test]
fn a_goodbye_is_no_loss() {
    let mut net = Net::settled(5, 10, 0.0, ms(20));
    net.leave(id(3));
    net.run_to(net.now + ms(1_000));
    let told: Vec<&Event> = net.events.iter().map(|(_, _, event)| event).collect();
    assert_eq!(told, vec![&Event::Left(id(3)); 9]);
}

#[test]
fn a_node_that_was_cut_off_comes_back_under_its_own_name() {
    let mut net = Net::settled(6, 8, 0.0, ms(20));
    let asleep = net.nodes.remove(&id(2)).unwrap();
    net.run_to(net.now + ms(6_000));
    assert_eq!(net.lost(id(2)).len(), 7);
    net.nodes.insert(id(2), asleep);
    net.nodes.get_mut(&id(2)).unwrap().wake(net.now);
    net.flush(id(2));
    net.run_to(net.now + ms(10_000));
    assert!(net.everybody_knows_everybody());
}

#[test]
fn hostile_messages_leave_every_list_bounded() {
    let mut node = Members::new(id(0), NodeAddress::default(), 1, 7, Duration::ZERO);
    for at in 0..5_000_u32 {
        let state = match at % 4 {
            0 => State::Dead,
            1 => State::Left,
            2 => State::Suspect,
            _ => State::Alive(NodeAddress::default()),
        };
        let rumours = vec![Rumour {
            node: id(at),
            incarnation: u64::MAX - 1,
            state,
        }];
        let kind = Kind::PingFor {
            number: u64::from(at),
            target: id(3),
        };
        node.receive(ms(u64::from(at)), id(9), &Message { kind, rumours }.encode());
    }
    assert!(node.members.len() <= MEMBERS_MAX && node.gone.len() <= MEMBERS_MAX);
    assert!(node.errands.len() <= ERRANDS_MAX && node.outgoing.len() <= OUTGOING_MAX);
    assert!(node.events.len() <= EVENTS_MAX && node.news.len() <= NEWS_MAX);
}
