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
    /// Nothing passes between these and the others.
    cut: BTreeSet<NodeId>,
    /// Nothing passes between two of these, as between machines behind strict routers.
    strict: BTreeSet<NodeId>,
}

/// The connection by which nodes of one program speak.
const ONE: ConnectionId = ConnectionId(1);

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
            cut: BTreeSet::new(),
            strict: BTreeSet::new(),
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
            let parted = self.strict.contains(&to) && self.strict.contains(&node);
            if parted || self.cut.contains(&to) != self.cut.contains(&node) {
                continue;
            }
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
                node.receive(at, from, ONE, &bytes);
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
    // Who cannot ask a suspect itself depends on what the others say.
    net.strict = (0..count / 4).map(id).collect();
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

/// A node that knows one other, which says nothing any more; awake whenever something is due, until it suspects it.
fn suspecting() -> (Members, Duration) {
    let mut node = Members::new(id(0), NodeAddress::default(), 1, 7, Duration::ZERO);
    let rumours = vec![Rumour {
        node: id(1),
        incarnation: 1,
        state: State::Alive(NodeAddress::default()),
    }];
    let kind = Kind::Tell;
    node.receive(Duration::ZERO, id(1), ONE, &Message { kind, rumours }.encode());
    let mut now = Duration::ZERO;
    while !node.suspected(id(1)) {
        now = node.deadline().unwrap();
        assert!(now < ms(10_000), "nobody is suspected");
        node.wake(now);
    }
    (node, now)
}

#[test]
fn a_machine_that_slept_does_not_blame_others_for_it() {
    // Asleep for longer than a suspicion may be refuted; the refutation waits in the socket meanwhile.
    for asleep in [SUSPECT_FOR + LATE, SUSPECT_FOR * 4] {
        let (mut node, since) = suspecting();
        let woke = since + asleep;
        node.wake(woke);
        assert_eq!(node.members().count(), 1, "it was given up unheard");
        let rumours = vec![Rumour {
            node: id(1),
            incarnation: 2,
            state: State::Alive(NodeAddress::default()),
        }];
        let kind = Kind::Tell;
        node.receive(woke, id(1), ONE, &Message { kind, rumours }.encode());
        assert!(!node.suspected(id(1)));
    }

    // A machine that was awake all the time gives it up.
    let (mut node, since) = suspecting();
    while let Some(due) = node.deadline().filter(|due| *due <= since + SUSPECT_FOR) {
        node.wake(due);
    }
    assert_eq!(node.members().count(), 0);
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
        node.receive(ms(u64::from(at)), id(9), ONE, &Message { kind, rumours }.encode());
    }
    assert!(node.members.len() <= MEMBERS_MAX && node.gone.len() <= MEMBERS_MAX);
    assert!(node.errands.len() <= ERRANDS_MAX && node.outgoing.len() <= OUTGOING_MAX);
    assert!(node.events.len() <= EVENTS_MAX && node.news.len() <= NEWS_MAX);
}

/// A desk that admits all, and devices that admit the desk alone.
fn star(seed: u64, devices: u32, one_way: Duration) -> Net {
    let mut net = Net::new(seed, 0.01, one_way);
    let nowhere = |at: u32| (id(at), NodeAddress::default());
    for at in 0..=devices {
        net.start(id(at));
        let circle: Vec<_> = match at {
            0 => (1..=devices).map(nowhere).collect(),
            _ => vec![nowhere(0)],
        };
        net.nodes.get_mut(&id(at)).unwrap().admit(circle);
        net.flush(id(at));
    }
    net.run_to(ms(20_000));
    net.events.clear();
    net
}

#[test]
fn devices_that_know_only_the_desk_are_watched_by_it_and_hear_of_nobody_else() {
    let mut taken = Vec::new();
    for seed in 0..30 {
        let mut net = star(seed, 32, ms(20));
        for (node, members) in &net.nodes {
            let known: Vec<NodeId> = members.members().map(|(other, _)| other).collect();
            match *node == id(0) {
                true => assert_eq!(known.len(), 32, "the desk knows all"),
                false => assert_eq!(known, [id(0)], "a device knows the desk"),
            }
        }
        let died = net.now;
        net.kill(id(1 + seed as u32));
        net.run_to(died + ms(12_000));
        let lost = net.lost(id(1 + seed as u32));
        assert_eq!(
            lost.len(),
            1,
            "the desk notices, nobody else hears of it (seed {seed})"
        );
        assert_eq!(net.events.len(), 1, "nobody else was lost (seed {seed})");
        taken.push(lost[0] - died);
    }
    taken.sort_unstable();
    assert!(*taken.last().unwrap() <= ms(3_000), "{taken:?}");
}

#[test]
fn nothing_is_heard_from_or_about_somebody_outside_the_circle() {
    for admitted in [false, true] {
        let mut node = Members::new(id(0), NodeAddress::default(), 1, 7, Duration::ZERO);
        let circle = [1].into_iter().chain(admitted.then_some(2));
        node.admit(circle.map(|at| (id(at), NodeAddress::default())));
        let alive = |at: u32| Rumour {
            node: id(at),
            incarnation: 1,
            state: State::Alive(NodeAddress::default()),
        };
        for from in [1, 2] {
            let rumours = vec![alive(from), alive(2), alive(3)];
            node.receive(
                ms(5),
                id(from),
                ONE,
                &Message {
                    kind: Kind::Ping { number: 4 },
                    rumours,
                }
                .encode(),
            );
        }
        while let Some(Outgoing { to, bytes, .. }) = node.transmit() {
            let about = Message::decode(&bytes)
                .unwrap()
                .rumours
                .into_iter()
                .map(|rumour| rumour.node);
            let named = about.chain([to]).any(|named| named == id(2));
            assert!(admitted || !named, "the stranger is answered or spoken of");
            assert!(to != id(3));
        }
        assert_eq!(node.members().count(), 1 + usize::from(admitted));
        node.admit([(id(1), NodeAddress::default())]);
        assert_eq!(
            node.members().count(),
            1,
            "who is struck out of the book is gone at once"
        );
    }
}

#[test]
fn time_that_this_machine_slept_is_not_held_against_others() {
    let mut net = Net::settled(8, 6, 0.0, ms(20));
    let asleep = net.nodes.remove(&id(2)).unwrap();
    net.run_to(net.now + ms(60_000));
    net.events.clear();
    net.nodes.insert(id(2), asleep);
    net.nodes.get_mut(&id(2)).unwrap().wake(net.now);
    net.flush(id(2));
    net.run_to(net.now + ms(5_000));
    let taken_for_dead = net
        .events
        .iter()
        .filter(|(_, by, event)| *by == id(2) && matches!(event, Event::Lost(_)));
    assert_eq!(taken_for_dead.count(), 0);
    assert!(net.everybody_knows_everybody());
}

#[test]
fn two_halves_of_a_network_find_each_other_again() {
    let mut net = Net::settled(9, 10, 0.0, ms(20));
    let everybody: Vec<_> = net
        .nodes
        .keys()
        .map(|node| (*node, NodeAddress::default()))
        .collect();
    for node in net.nodes.values_mut() {
        node.admit(everybody.clone());
    }
    let half: Vec<NodeId> = net.nodes.keys().copied().take(5).collect();
    net.cut = half.iter().copied().collect();
    net.run_to(net.now + ms(90_000));
    assert!(
        net.nodes.values().all(|node| node.members().count() == 4),
        "each half knows itself"
    );
    net.cut.clear();
    net.run_to(net.now + ms(10_000));
    assert!(net.everybody_knows_everybody());
}

#[test]
fn a_new_address_is_told_and_an_admitted_machine_that_is_seen_is_asked_at_once() {
    let mut net = Net::settled(10, 4, 0.0, ms(20));
    let address = NodeAddress::at("10.0.0.9:1".parse().unwrap());
    net.nodes.get_mut(&id(1)).unwrap().moved(address.clone());
    net.flush(id(1));
    net.run_to(net.now + ms(500));
    let shown = |node: &Members| node.members().any(|(other, at)| other == id(1) && *at == address);
    assert!(net.nodes.iter().all(|(me, node)| *me == id(1) || shown(node)));
    let mut alone = Members::new(id(7), NodeAddress::default(), 1, 7, Duration::ZERO);
    alone.admit([(id(8), NodeAddress::default())]);
    while alone.transmit().is_some() {}
    alone.seek(id(9), address.clone());
    assert_eq!(alone.transmit(), None, "a stranger is not asked");
    alone.seek(id(8), address.clone());
    assert_eq!(
        alone.transmit().map(|out| (out.to, out.address)),
        Some((id(8), address))
    );
}

#[test]
fn a_rumour_at_the_highest_number_is_refuted_in_words_that_can_be_read() {
    let mut node = Members::new(id(0), NodeAddress::default(), 1, 7, Duration::ZERO);
    for _ in 0..3 {
        let rumours = vec![Rumour {
            node: id(0),
            incarnation: u64::MAX - 1,
            state: State::Dead,
        }];
        node.receive(
            ms(1),
            id(1),
            ONE,
            &Message {
                kind: Kind::Ask,
                rumours,
            }
            .encode(),
        );
    }
    let said: Vec<Message> = std::iter::from_fn(|| node.transmit())
        .map(|out| Message::decode(&out.bytes).unwrap())
        .collect();
    assert!(!said.is_empty());
}

proptest::proptest! {
    #[test]
    fn whatever_arrives_in_whatever_order_lists_stay_bounded_and_time_goes_on(
        steps in proptest::collection::vec((0_u64..2_000, 0_u32..6, proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)), 0..60)
    ) {
        let mut node = Members::new(id(0), NodeAddress::default(), 1, 7, Duration::ZERO);
        let mut now = Duration::ZERO;
        for (wait, from, mut bytes) in steps {
            now += ms(wait);
            // Half of them begin as messages do.
            if let Some(first) = bytes.first_mut().filter(|_| wait % 2 == 0) {
                *first %= 6;
            }
            node.receive(now, id(from), ONE, &bytes);
            node.wake(now);
            while let Some(out) = node.transmit() {
                proptest::prop_assert!(Message::decode(&out.bytes).is_some());
            }
            while node.event().is_some() {}
            proptest::prop_assert!(node.deadline().is_some_and(|due| due > now));
        }
    }
}

/// A node and two programs of one identity, the first of which is a member: each at a connection of its own.
struct Programs {
    now: Duration,
    node: Members,
    theirs: [Members; 2],
}

impl Programs {
    fn start() -> Programs {
        let new = |at: u32| Members::new(id(at), NodeAddress::default(), 5, 7, Duration::ZERO);
        let mut programs = Programs {
            now: Duration::ZERO,
            node: new(1),
            theirs: [new(0), new(0).looking_on()],
        };
        for theirs in &mut programs.theirs {
            theirs.join([(id(1), NodeAddress::default())]);
        }
        programs
    }

    /// Carries what is said until `end`; `is_there` are those of the programs that hear and speak. What is for nobody
    /// who asked goes to the member.
    fn run_to(&mut self, end: Duration, is_there: [bool; 2]) {
        while self.now < end {
            self.now += ms(1);
            self.node.wake_if_due(self.now);
            for at in (0..2).filter(|at| is_there[*at]) {
                self.theirs[at].wake_if_due(self.now);
                while let Some(out) = self.theirs[at].transmit() {
                    self.node
                        .receive(self.now, id(0), ConnectionId(at as u64), &out.bytes);
                }
            }
            while let Some(out) = self.node.transmit() {
                let at = out.by.map_or(0, |by| by.0 as usize);
                if is_there[at] {
                    self.theirs[at].receive(self.now, id(1), ONE, &out.bytes);
                }
            }
        }
    }
}

impl Members {
    fn wake_if_due(&mut self, now: Duration) {
        if self.deadline().is_some_and(|due| due <= now) {
            self.wake(now);
        }
    }
}

#[test]
fn two_programs_of_one_machine_both_see_the_others_and_one_of_them_is_seen() {
    let mut programs = Programs::start();
    programs.run_to(ms(10_000), [true, true]);
    for theirs in &programs.theirs {
        assert!(theirs.round_trip(id(1)).is_some() && !theirs.suspected(id(1)));
    }
    let digest = programs.node.digest();
    let same = programs.theirs.iter().all(|theirs| theirs.digest() == digest);
    assert!(same, "lists go to and fro for ever");
    assert_eq!(programs.node.event(), Some(Event::Joined(id(0))));

    // Whoever only looked on ends as it likes.
    programs.theirs[1].leave();
    programs.run_to(ms(10_100), [true, true]);
    programs.run_to(ms(15_000), [true, false]);
    assert_eq!(programs.node.event(), None);
    assert!(!programs.node.suspected(id(0)) && !programs.theirs[0].suspected(id(1)));
}

#[test]
fn a_member_that_died_is_missed_though_another_of_its_programs_looks_on() {
    let mut programs = Programs::start();
    programs.run_to(ms(10_000), [true, true]);
    programs.run_to(ms(15_000), [false, true]);
    let events: Vec<Event> = std::iter::from_fn(|| programs.node.event()).collect();
    assert_eq!(events, [Event::Joined(id(0)), Event::Lost(id(0))]);
    assert!(programs.theirs[1].members().any(|(node, _)| node == id(1)));
    assert_eq!(programs.theirs[1].digest(), programs.node.digest());
}
