//! The policy at the door of a machine, and the count of what went through.
//!
//! The planner never places a stage where the policy forbids it. A line that loses a machine looks for another by itself,
//! so the same rule stands once more at every host of a line: a stage that would show its machine more than it may see is
//! refused before anything is sent. What a machine may see of its structure the planner's policy says; whether this request may
//! go there at all the rules say ([`Discretion`]), when a stage is opened and again whenever they changed since.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use heph_net::address::NodeAddress;
use heph_privacy::Clearance;
use heph_privacy::label::Label;
use heph_privacy::policy::{Destination, Kind};
use heph_types::{
    CachePart, LayerRange, Leaves, NodeId, NodeProfile, Order, Policy, Position, Reply, Role,
    SamplingOptions, SessionId, StageSpec,
};

use crate::discretion::{Discretion, destination};
use crate::seat::{Bell, Hop, HopState, Host, Refusal, Seat, SeatError, Tally, Traffic, Vouched};

/// How often an answer under way looks whether its rules still are what they were: a policy that was just written counts
/// from the next token but few on.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Bytes by machine, shared by all gates of a line.
#[derive(Debug, Clone, Default)]
pub struct Meter(Arc<Mutex<Counted>>);

/// What was counted.
#[derive(Debug, Default)]
struct Counted {
    /// Each session, those that are over among them.
    sessions: Vec<Session>,
    /// Taken over from other meters.
    earlier: BTreeMap<NodeId, Traffic>,
    /// What machines say that they handed to each other.
    between: BTreeMap<(NodeId, NodeId), u64>,
    /// By which leave something went to a machine.
    left: BTreeMap<NodeId, Left>,
}

/// What is known of a session.
#[derive(Debug, Clone)]
struct Session {
    node: NodeId,
    books: Arc<dyn Tally>,
    /// What was told of it for receipts: of what waited, some may have been broken off since.
    told: Traffic,
}

/// By which leave something of a request went to a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// What kind of place it is.
    pub kind: Kind,
    /// How private the most private of it was.
    pub label: Label,
    /// The rules that allowed it.
    pub rules: BTreeSet<String>,
    /// Things that were replaced by pseudonyms.
    pub replaced: usize,
}

impl Left {
    /// By `clearance`.
    pub fn by(clearance: &Clearance) -> Left {
        Left {
            kind: clearance.to().kind,
            label: clearance.label().clone(),
            rules: clearance.decision().rules.iter().cloned().collect(),
            replaced: clearance.replaced(),
        }
    }
}

impl Meter {
    /// What went to and from each machine so far, as it was counted here; machines with no traffic are left out.
    pub fn read(&self) -> BTreeMap<NodeId, Traffic> {
        let counted = self.counted();
        counted.with(counted.sessions.iter().map(|session| session.books.bytes()))
    }

    /// The same as counted by whoever owns the sockets, for a receipt, and no less than was told before. May wait a moment for it.
    pub fn settle(&self) -> BTreeMap<NodeId, Traffic> {
        let sessions = self.counted().sessions.clone();
        // Not under the lock, since it may wait. Sessions only come.
        let carried: Vec<Traffic> = sessions.iter().map(|session| session.books.carried()).collect();
        let mut counted = self.counted();
        for (session, carried) in counted.sessions.iter_mut().zip(&carried) {
            session.told = session.told.max(*carried);
        }
        let told = counted.sessions.iter().take(carried.len());
        counted.with(told.map(|session| session.told))
    }

    /// Bytes that went from one machine to another past this one so far, by the word of the machine that sent them.
    pub fn read_between(&self) -> BTreeMap<(NodeId, NodeId), u64> {
        self.counted().between.clone()
    }

    /// By which leave something went to each machine so far.
    pub fn read_left(&self) -> BTreeMap<NodeId, Left> {
        self.counted().left.clone()
    }

    /// Counts what went to machines for the same answer past another meter, and by which leave.
    pub fn take_over(&self, spent: &BTreeMap<NodeId, Traffic>, left: &BTreeMap<NodeId, Left>) {
        for (node, traffic) in spent {
            *self.counted().earlier.entry(*node).or_default() += *traffic;
        }
        left.iter()
            .for_each(|(node, left)| self.left(*node, left.clone()));
    }

    fn leave(&self, node: NodeId, clearance: &Clearance) {
        self.left(node, Left::by(clearance));
    }

    fn left(&self, node: NodeId, more: Left) {
        let mut counted = self.counted();
        match counted.left.get_mut(&node) {
            Some(left) => {
                left.label = left.label.join(&more.label);
                left.rules.extend(more.rules);
                left.replaced = left.replaced.max(more.replaced);
            }
            None => drop(counted.left.insert(node, more)),
        }
    }

    fn watch(&self, node: NodeId, books: Arc<dyn Tally>) {
        let told = Traffic::default();
        self.counted().sessions.push(Session { node, books, told });
    }

    fn add_between(&self, hop: (NodeId, NodeId), more: u64) {
        if more > 0 {
            let mut counted = self.counted();
            let bytes = counted.between.entry(hop).or_default();
            *bytes = bytes.saturating_add(more);
        }
    }

    fn counted(&self) -> MutexGuard<'_, Counted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counted {
    /// What went to and from each machine, where its sessions had so much, one after the other.
    fn with(&self, sessions: impl Iterator<Item = Traffic>) -> BTreeMap<NodeId, Traffic> {
        let mut all = self.earlier.clone();
        for (session, traffic) in self.sessions.iter().zip(sessions) {
            *all.entry(session.node).or_default() += traffic;
        }
        all.retain(|_, traffic| *traffic != Traffic::default());
        all
    }
}

/// What stands at the doors of the machines that may be asked for one answer.
#[derive(Debug, Clone)]
pub struct Doors {
    /// What may be told of the request, and to whom.
    pub discretion: Discretion,
    /// What the planner was told that machines may see.
    pub policy: Policy,
    /// Layers of the model.
    pub layers: usize,
    /// Counts what passes.
    pub meter: Meter,
}

impl Doors {
    /// `host` behind its door; what `profile` says of it is the word of the book.
    pub fn door(&self, host: Arc<dyn Host>, profile: &NodeProfile) -> Gate {
        Gate::there(host, destination(profile), profile.role, self)
    }
}

/// A host behind the policy.
pub struct Gate {
    host: Arc<dyn Host>,
    /// Where it is for the rules, and what may go there; `None` for this machine.
    away: Option<(Destination, Discretion)>,
    /// What the machine may see.
    sees: Leaves,
    /// Layers from here on, and to there, may run on the machine.
    layers: std::ops::Range<usize>,
    /// Whether it may hear of other machines, and they of it: those of one owner form a circle in any case.
    meets: bool,
    meter: Meter,
}

impl Gate {
    /// This machine: it sees everything.
    pub fn here(host: Arc<dyn Host>, meter: &Meter) -> Self {
        Self {
            host,
            away: None,
            sees: Leaves::Text,
            layers: 0..usize::MAX,
            meets: false,
            meter: meter.clone(),
        }
    }

    /// Another machine, which is `to` for the rules.
    pub fn there(host: Arc<dyn Host>, to: Destination, role: Role, doors: &Doors) -> Self {
        let Doors {
            discretion,
            policy,
            layers,
            meter,
        } = doors;
        let first = usize::from(policy.layers_local_first);
        let last = usize::from(policy.layers_local_last);
        Self {
            sees: policy.seen_by(host.node(), role),
            meets: role == Role::Own && policy.seen_by(host.node(), role) >= Leaves::Activations,
            // A stage at an end touches it even without layers, so a kept end shuts that end's choice out as well.
            layers: first..if last == 0 {
                usize::MAX
            } else {
                layers.saturating_sub(last)
            },
            away: Some((to, discretion.clone())),
            host,
            meter: meter.clone(),
        }
    }

    /// What stands against this stage.
    fn objection(&self, spec: &StageSpec) -> Option<String> {
        let needs = match spec.layers.start() == 0 || spec.choose.is_some() {
            true => Leaves::Text,
            false => Leaves::Activations,
        };
        if self.sees < needs {
            return Some(format!(
                "the policy lets it see {}, and the stage would show it {needs}",
                self.sees
            ));
        }
        let kept = spec.layers.start() < self.layers.start
            || spec.layers.end() > self.layers.end
            || spec.choose.is_some() && self.layers.end != usize::MAX;
        kept.then(|| "the policy keeps these layers on this machine".to_owned())
    }
}

impl Host for Gate {
    fn node(&self) -> NodeId {
        self.host.node()
    }

    fn open(&self, session: SessionId, spec: &StageSpec, bell: &Bell) -> Result<Box<dyn Seat>, SeatError> {
        if let Some(why) = self.objection(spec) {
            return Err(SeatError::Refused {
                node: self.node(),
                why: Refusal::Said(why),
            });
        }
        let leave = self.away.as_ref().map(|(to, discretion)| Leave {
            node: self.host.node(),
            to: to.clone(),
            discretion: discretion.clone(),
        });
        let rose = leave.as_ref().map_or(0, |leave| leave.discretion.rose());
        let clearance = leave.as_ref().map(Leave::ask).transpose()?;
        let cleared = clearance.as_ref().and_then(|clearance| {
            self.meter.leave(self.host.node(), clearance);
            self.host.cleared(clearance)
        });
        let host = cleared.as_ref().unwrap_or(&self.host);
        // Also what is asked for in vain has left.
        if let Some(tally) = host.tally() {
            self.meter.watch(self.host.node(), tally);
        }
        Ok(Box::new(Watched {
            seat: host.open(session, spec, bell)?,
            leave,
            looked: (Instant::now(), rose),
            meets: self.meets,
            hop: None,
            handed: 0,
            meter: self.meter.clone(),
        }))
    }

    fn meeting_place(&self) -> Option<NodeAddress> {
        self.host.meeting_place().filter(|_| self.meets)
    }

    fn is_far(&self) -> bool {
        self.host.is_far()
    }

    fn let_go(&self, kept: &[LayerRange]) {
        self.host.let_go(kept);
    }
}

/// The rules, for one machine and one request.
struct Leave {
    node: NodeId,
    to: Destination,
    discretion: Discretion,
}

impl Leave {
    /// The leave as the rules stand now.
    fn ask(&self) -> Result<Clearance, SeatError> {
        self.discretion
            .clearance(&self.to)
            .map_err(|stays| SeatError::Refused {
                node: self.node,
                why: Refusal::Said(stays.to_string()),
            })
    }
}

/// A seat that the rules go on allowing, and that meets only whom it may.
struct Watched {
    seat: Box<dyn Seat>,
    /// What has to go on allowing it; `None` on this machine.
    leave: Option<Leave>,
    /// When that was looked at last, and how often the label had risen.
    looked: (Instant, u64),
    meets: bool,
    /// Where its rows were last asked to go.
    hop: Option<(NodeId, NodeId)>,
    /// Bytes that it told of so far.
    handed: u64,
    meter: Meter,
}

impl Watched {
    /// Whether the rules still let something go there.
    fn still(&mut self) -> Result<(), SeatError> {
        let Some(leave) = &self.leave else {
            return Ok(());
        };
        let rose = leave.discretion.rose();
        if self.looked.0.elapsed() < LOOK_EVERY && self.looked.1 == rose {
            return Ok(());
        }
        let clearance = leave.ask()?;
        if self.looked.1 != rose {
            self.meter.leave(leave.node, &clearance);
            self.seat.cleared(&clearance);
        }
        self.looked = (Instant::now(), rose);
        Ok(())
    }

    fn count(&mut self) {
        let handed = self.seat.handed_bytes();
        if let Some(hop) = self.hop {
            self.meter.add_between(hop, handed.saturating_sub(self.handed));
        }
        self.handed = handed;
    }
}

impl Seat for Watched {
    fn node(&self) -> NodeId {
        self.seat.node()
    }

    fn submit(&mut self, order: Order) -> Result<(), SeatError> {
        self.still()?;
        self.seat.submit(order)
    }

    fn poll(&mut self) -> Result<Option<Reply>, SeatError> {
        let polled = self.seat.poll();
        self.count();
        polled
    }

    fn choose_by(&mut self, options: &SamplingOptions) -> bool {
        // Options name tokens of the request; who says no to a seat says why when it is opened anew.
        self.still().is_ok() && self.seat.choose_by(options)
    }

    fn is_settled(&self) -> bool {
        self.seat.is_settled()
    }

    fn take_cache(&mut self, first: Position, to: Position) -> Result<Option<CachePart>, SeatError> {
        self.seat.take_cache(first, to)
    }

    fn put_cache(&mut self, part: &CachePart) -> Result<bool, SeatError> {
        self.still()?;
        self.seat.put_cache(part)
    }

    fn leave(&mut self, to: Position) -> bool {
        self.seat.leave(to)
    }

    fn expect(&mut self, hop: &Hop) -> bool {
        self.meets && self.seat.expect(hop)
    }

    fn join(&mut self, hop: &Hop) -> bool {
        self.count();
        let joins = self.meets && self.seat.join(hop);
        if joins {
            self.hop = Some((hop.from, hop.to));
        }
        joins
    }

    fn takes(&mut self) -> HopState {
        self.seat.takes()
    }

    fn hands(&mut self) -> HopState {
        self.seat.hands()
    }

    fn handed_bytes(&self) -> u64 {
        self.seat.handed_bytes()
    }

    fn vouch(&mut self, within: Duration) -> Option<Vouched> {
        let vouched = self.seat.vouch(within);
        self.count();
        vouched
    }

    fn traffic(&self) -> Traffic {
        self.seat.traffic()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.count();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use heph_types::{KvFormat, LayerRange, ModelHash};

    use super::*;
    use crate::discretion::{place, shows_text_alone, unsaid};
    use crate::rules::testing::rules;
    use crate::rules::{POLICY_FILE, Rules};

    /// A machine that takes every stage: what reaches it has left.
    struct Anybody;

    struct Deaf;

    impl Host for Anybody {
        fn node(&self) -> NodeId {
            NodeId([1; 32])
        }

        fn open(&self, _: SessionId, _: &StageSpec, _: &Bell) -> Result<Box<dyn Seat>, SeatError> {
            Ok(Box::new(Deaf))
        }

        fn tally(&self) -> Option<Arc<dyn Tally>> {
            Some(Arc::new(Fixed(Traffic { up: 5, down: 7 })))
        }
    }

    /// Books in which nothing changes; whoever owns the socket counted a byte less up, and a byte more down.
    #[derive(Debug)]
    struct Fixed(Traffic);

    impl Tally for Fixed {
        fn bytes(&self) -> Traffic {
            self.0
        }

        fn carried(&self) -> Traffic {
            Traffic {
                up: self.0.up - 1,
                down: self.0.down + 1,
            }
        }
    }

    impl Seat for Deaf {
        fn node(&self) -> NodeId {
            NodeId([1; 32])
        }

        fn submit(&mut self, _: Order) -> Result<(), SeatError> {
            Ok(())
        }

        fn poll(&mut self) -> Result<Option<Reply>, SeatError> {
            Ok(None)
        }

        fn choose_by(&mut self, _: &SamplingOptions) -> bool {
            true
        }
    }

    /// A machine that hears what is asked of it and opens nothing.
    struct Shut;

    impl Host for Shut {
        fn node(&self) -> NodeId {
            NodeId([1; 32])
        }

        fn open(&self, _: SessionId, _: &StageSpec, _: &Bell) -> Result<Box<dyn Seat>, SeatError> {
            Err(SeatError::Refused {
                node: self.node(),
                why: Refusal::Said("shut".to_owned()),
            })
        }

        fn tally(&self) -> Option<Arc<dyn Tally>> {
            Some(Arc::new(Fixed(Traffic { up: 107, down: 20 })))
        }
    }

    #[test]
    fn what_was_asked_for_in_vain_left_all_the_same() {
        let policy = Policy {
            may_see: vec![(Role::Miner, Leaves::Text)],
            ..Policy::closed()
        };
        let doors = doors(&policy, open_to_strangers(unsaid()));
        let to = place(NodeId([1; 32]), "stranger", Role::Miner);
        let gate = Gate::there(Arc::new(Shut), to, Role::Miner, &doors);
        assert!(gate.open(SessionId(1), &stage(0, LAYERS), &Bell::new()).is_err());
        let read = doors.meter.read();
        assert_eq!(read[&NodeId([1; 32])], Traffic { up: 107, down: 20 });
    }

    const LAYERS: usize = 8;

    fn stage(start: usize, end: usize) -> StageSpec {
        StageSpec {
            model: ModelHash([1; 32]),
            layers: LayerRange::new(start, end, LAYERS).unwrap(),
            context: 16,
            kv_format: KvFormat::F16,
            choose: (end == LAYERS).then(SamplingOptions::greedy),
        }
    }

    fn doors(policy: &Policy, discretion: Discretion) -> Doors {
        Doors {
            discretion,
            policy: policy.clone(),
            layers: LAYERS,
            meter: Meter::default(),
        }
    }

    fn gate(doors: &Doors) -> Gate {
        let to = place(NodeId([1; 32]), "stranger", Role::Miner);
        Gate::there(Arc::new(Anybody), to, Role::Miner, doors)
    }

    /// What may be told where strangers may see everything, but for what `label` says.
    fn open_to_strangers(label: Label) -> Discretion {
        let rules = Rules::without_files(vec!["miner=text".parse().unwrap()]);
        Discretion::new(&rules, label).in_mode("layered")
    }

    fn opens(policy: &Policy, (start, end): (usize, usize)) -> bool {
        let gate = gate(&doors(policy, open_to_strangers(unsaid())));
        gate.open(SessionId(1), &stage(start, end), &Bell::new()).is_ok()
    }

    const PRIVATE_STAYS: &str = "version = 1\npreset = \"open\"\n[[rule]]\nname = \"private stays\"\n\
        when = { level = \"private\", to = [\"miner\"] }\nthen = \"deny\"\n";

    #[test]
    fn the_rules_are_asked_again_at_the_door_whatever_the_planner_was_told() {
        let everything = Policy::open(Leaves::Text, &[Role::Miner]);
        let opens = |discretion: Discretion| {
            let doors = doors(&everything, discretion);
            gate(&doors)
                .open(SessionId(1), &stage(2, 4), &Bell::new())
                .map(drop)
        };
        let (_home, rules) = rules(PRIVATE_STAYS);
        let asked = |word: &str, mode| opens(Discretion::new(&rules, Label::mark(word)).in_mode(mode));
        assert!(asked("internal", "layered").is_ok());
        let said = asked("private", "layered").unwrap_err().to_string();
        assert!(said.contains("private stays"), "{said}");
        // Redaction is no measure where hidden states travel, and none was done here either.
        let (_home, rules) = self::rules("version = 1\npreset = \"redact-then-remote\"\n");
        for mode in ["layered", "remote", "speculative", "preprocess"] {
            let private = Discretion::new(&rules, Label::mark("private"));
            assert!(opens(private.clone().in_mode(mode)).is_err(), "{mode}");
            let mut texts = ["Write to ann.lee@example.org.".to_owned()];
            let replaced = replace(&mut texts);
            let opened = opens(private.with_replaced(replaced).in_mode(mode)).is_ok();
            assert_eq!(opened, shows_text_alone(mode), "{mode}");
        }
    }

    fn replace(texts: &mut [String]) -> heph_privacy::Replaced {
        let mut session = heph_privacy::pseudonym::Pseudonyms::new([1; 32]);
        let model = heph_privacy::pii::names::Model::bundled();
        heph_privacy::replace(texts, &Label::mark("private"), model, &mut session).unwrap()
    }

    #[test]
    fn an_answer_under_way_ends_where_its_rules_or_its_label_change() {
        let everything = Policy::open(Leaves::Text, &[Role::Miner]);
        let order = || Order::Rollback(Position(0));
        let (home, rules) = rules(PRIVATE_STAYS);
        let discretion = Discretion::new(&rules, unsaid()).in_mode("layered");
        let gate = gate(&doors(&everything, discretion.clone()));
        let card = Label::of_spans(&heph_privacy::pii::patterns("My card is 4111 1111 1111 1111."));
        let open = || gate.open(SessionId(1), &stage(2, 4), &Bell::new()).unwrap();
        let (mut first, mut second) = (open(), open());
        assert!(first.submit(order()).is_ok() && first.choose_by(&SamplingOptions::greedy()));
        // A later message is private: at once, and for every answer of the conversation.
        discretion.also(&card);
        assert!(!first.choose_by(&SamplingOptions::greedy()) && first.submit(order()).is_err());
        let part = CachePart {
            first: Position(0),
            tokens: 0,
            check: [0; 32],
            bytes: Vec::new(),
        };
        assert!(second.put_cache(&part).is_err(), "a cache is made of it, too");
        // The file changes so that it cannot be read.
        let discretion = Discretion::new(&rules, unsaid()).in_mode("layered");
        let gate = super::tests::gate(&doors(&everything, discretion));
        let mut seat = gate.open(SessionId(1), &stage(2, 4), &Bell::new()).unwrap();
        std::fs::write(home.path().join(POLICY_FILE), "version = 1\npreset = \"opne\"\n").unwrap();
        std::thread::sleep(2 * LOOK_EVERY);
        let said = seat.submit(order()).unwrap_err().to_string();
        assert!(said.contains("nothing leaves"), "{said}");
    }

    #[test]
    fn a_stage_that_would_show_too_much_is_refused_at_the_door() {
        let ends_stay = Policy {
            layers_local_first: 2,
            layers_local_last: 1,
            ..Policy::open(Leaves::Text, &[Role::Miner])
        };
        let forbidden = Policy {
            forbidden: vec![NodeId([1; 32])],
            ..Policy::open(Leaves::Text, &[Role::Miner])
        };
        let all = [(0, 8), (0, 4), (0, 0), (2, 7), (1, 7), (4, 8), (8, 8)];
        let cases: [(Policy, &[(usize, usize)]); 7] = [
            (Policy::closed(), &[]),
            (Policy::open(Leaves::Text, &[Role::Own]), &[]),
            (Policy::open(Leaves::Embeddings, &[Role::Miner]), &[]),
            (
                Policy::open(Leaves::Activations, &[Role::Miner]),
                &[(2, 7), (1, 7)],
            ),
            (ends_stay, &[(2, 7)]),
            (forbidden, &[]),
            (Policy::open(Leaves::Text, &[Role::Miner]), &all),
        ];
        for (policy, allowed) in cases {
            for range in all {
                assert_eq!(
                    opens(&policy, range),
                    allowed.contains(&range),
                    "{range:?} under {policy:?}"
                );
            }
        }
    }

    #[test]
    fn what_a_desk_that_failed_sent_is_told_by_the_one_after_it() {
        let policy = Policy::open(Leaves::Text, &[Role::Miner]);
        let doors = doors(&policy, open_to_strangers(unsaid()));
        let open = || gate(&doors).open(SessionId(1), &stage(0, 8), &Bell::new());
        drop(open().unwrap());
        let after = Meter::default();
        after.take_over(&doors.meter.read(), &doors.meter.read_left());
        let spent = Traffic { up: 5, down: 7 };
        assert_eq!(after.read(), BTreeMap::from([(NodeId([1; 32]), spent)]));
        assert_eq!(after.read_left(), doors.meter.read_left());
        assert!(after.read_left().values().all(|left| left.kind == Kind::Miner));
    }

    /// What waited was told, and broken off then.
    #[derive(Debug, Default)]
    struct BrokenOff(AtomicU64);

    impl Tally for BrokenOff {
        fn bytes(&self) -> Traffic {
            Traffic { up: 1_000, down: 0 }
        }

        fn carried(&self) -> Traffic {
            let up = 1_000 - 400 * self.0.fetch_add(1, Ordering::Relaxed);
            Traffic { up, down: 0 }
        }
    }

    #[test]
    fn what_was_told_too_much_once_is_missing_from_no_later_receipt() {
        let (meter, node) = (Meter::default(), NodeId([1; 32]));
        meter.watch(node, Arc::new(BrokenOff::default()));
        let before = meter.settle()[&node];
        assert_eq!(before.up, 1_000);
        meter.watch(node, Arc::new(Fixed(Traffic { up: 301, down: 0 })));
        assert_eq!(meter.settle()[&node].up - before.up, 300);
    }

    #[test]
    fn bytes_are_counted_once_and_by_machine() {
        let meter = Meter::default();
        let gate = Gate::here(Arc::new(Anybody), &meter);
        for _ in 0..2 {
            let mut seat = gate.open(SessionId(1), &stage(0, 8), &Bell::new()).unwrap();
            seat.poll().unwrap();
            seat.poll().unwrap();
        }
        let of_all = |up, down| BTreeMap::from([(NodeId([1; 32]), Traffic { up, down })]);
        assert_eq!(meter.read(), of_all(10, 14));
        assert_eq!(
            meter.settle(),
            of_all(8, 16),
            "receipts have what the owner of the sockets counted"
        );
    }
}
