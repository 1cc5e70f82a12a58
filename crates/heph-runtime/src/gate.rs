//! The policy at the door of a machine, and the count of what went through.
//!
//! The planner never places a stage where the policy forbids it. A line that loses a machine looks for another by itself,
//! so the same rule stands once more at every host of a line: a stage that would show its machine more than it may see is
//! refused before anything is sent.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use heph_net::address::NodeAddress;
use heph_types::{
    CachePart, LayerRange, Leaves, NodeId, Order, Policy, Position, Reply, Role, SamplingOptions, SessionId,
    StageSpec,
};

use crate::seat::{Bell, Hop, HopState, Host, Refusal, Seat, SeatError, Traffic};

/// Bytes by machine, shared by all gates of a line.
#[derive(Debug, Clone, Default)]
pub struct Meter(Arc<Mutex<Counted>>);

/// What was counted.
#[derive(Debug, Clone, Default)]
struct Counted {
    by_machine: BTreeMap<NodeId, Traffic>,
    /// What machines say that they handed to each other.
    between: BTreeMap<(NodeId, NodeId), u64>,
}

impl Meter {
    /// What went to and from each machine so far; machines with no traffic are left out.
    pub fn read(&self) -> BTreeMap<NodeId, Traffic> {
        self.counted().by_machine.clone()
    }

    /// Bytes that went from one machine to another past this one so far, by the word of the machine that sent them.
    pub fn read_between(&self) -> BTreeMap<(NodeId, NodeId), u64> {
        self.counted().between.clone()
    }

    fn add(&self, node: NodeId, more: Traffic) {
        if more != Traffic::default() {
            *self.counted().by_machine.entry(node).or_default() += more;
        }
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

/// A host behind the policy.
pub struct Gate {
    host: Arc<dyn Host>,
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
            sees: Leaves::Text,
            layers: 0..usize::MAX,
            meets: false,
            meter: meter.clone(),
        }
    }

    /// Another machine, for a model of `layers` layers.
    pub fn there(host: Arc<dyn Host>, role: Role, policy: &Policy, layers: usize, meter: &Meter) -> Self {
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
        Ok(Box::new(Watched {
            seat: self.host.open(session, spec, bell)?,
            counted: Traffic::default(),
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

/// A seat whose traffic is added to the meter, and that meets only whom it may.
struct Watched {
    seat: Box<dyn Seat>,
    counted: Traffic,
    meets: bool,
    /// Where its rows were last asked to go.
    hop: Option<(NodeId, NodeId)>,
    /// Bytes that it told of so far.
    handed: u64,
    meter: Meter,
}

impl Watched {
    fn count(&mut self) {
        let now = self.seat.traffic();
        let more = Traffic {
            up: now.up.saturating_sub(self.counted.up),
            down: now.down.saturating_sub(self.counted.down),
        };
        self.counted = now;
        self.meter.add(self.seat.node(), more);
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
        self.seat.submit(order)
    }

    fn poll(&mut self) -> Result<Option<Reply>, SeatError> {
        let polled = self.seat.poll();
        self.count();
        polled
    }

    fn choose_by(&mut self, options: &SamplingOptions) -> bool {
        self.seat.choose_by(options)
    }

    fn take_cache(&mut self, first: Position, to: Position) -> Result<Option<CachePart>, SeatError> {
        self.seat.take_cache(first, to)
    }

    fn put_cache(&mut self, part: &CachePart) -> Result<bool, SeatError> {
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
    use heph_types::{KvFormat, LayerRange, ModelHash};

    use super::*;

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

        fn traffic(&self) -> Traffic {
            Traffic { up: 5, down: 7 }
        }
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

    fn opens(policy: &Policy, (start, end): (usize, usize)) -> bool {
        let gate = Gate::there(Arc::new(Anybody), Role::Miner, policy, LAYERS, &Meter::default());
        gate.open(SessionId(1), &stage(start, end), &Bell::new()).is_ok()
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
    fn bytes_are_counted_once_and_by_machine() {
        let meter = Meter::default();
        let gate = Gate::here(Arc::new(Anybody), &meter);
        for _ in 0..2 {
            let mut seat = gate.open(SessionId(1), &stage(0, 8), &Bell::new()).unwrap();
            seat.poll().unwrap();
            seat.poll().unwrap();
        }
        let wanted = Traffic { up: 10, down: 14 };
        assert_eq!(meter.read(), BTreeMap::from([(NodeId([1; 32]), wanted)]));
    }
}
