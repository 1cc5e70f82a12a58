//! Desks that gave an answer, kept a while for a conversation that goes on: what their lines hold, here and at other machines,
//! need not be computed again.
//!
//! A desk rests for whoever asked it alone, for requests of which the same may leave to the same machines, and for the plan that it
//! carries out. It takes places at the machines of its plan meanwhile, so few rest, and not for long. Knows no machine and no
//! plan's reasons: what rests says what it holds.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use heph_engine::prefix::Owner;
use heph_plan::{Plan, WarmPrefix};
use heph_privacy::policy::Destination;
use heph_types::{NodeId, Policy, TokenId};

use crate::discretion::Standing;

/// Desks that rest at one time; the one that has rested longest goes first.
pub const DESKS_MAX: usize = 4;

/// How long one rests: as long as a person takes to read an answer and to write the next question.
const REST_MAX: Duration = Duration::from_secs(120);

/// How often somebody looks whether one has rested long enough.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Tokens that a prompt must have in common with what a desk holds: what is less is computed as fast.
const WORTH_TOKENS: usize = 16;

/// For whom a desk rests, and for what.
#[derive(Debug, Clone)]
pub struct For {
    /// Who asked it, with the label that was named.
    pub owner: Owner,
    /// What may leave of it, by its label and by the rules.
    pub standing: Standing,
    /// The plan that it carries out.
    pub plan: Plan,
    /// What the planner was told that machines may see.
    pub policy: Policy,
    /// The most credits that it may cost: its line keeps to that also where it goes to other machines.
    pub credits_max: Option<f64>,
    /// The other machines that it may ask, as rules see them.
    pub machines: BTreeMap<NodeId, Destination>,
    /// Whether it was asked about texts.
    pub about: bool,
}

impl For {
    /// Whether a desk that rests for this can carry out that.
    fn serves(&self, other: &Self) -> bool {
        self.owner == other.owner
            && self.standing == other.standing
            && self.policy == other.policy
            && self.credits_max == other.credits_max
            && self.about == other.about
            && self.meets_the_same(other)
            && alike(&self.plan, &other.plan)
    }

    /// Whether each machine that it may ask is for the rules what it was. Others may have come.
    fn meets_the_same(&self, other: &Self) -> bool {
        let mut machines = self.machines.iter();
        machines.all(|(node, was)| other.machines.get(node) == Some(was))
    }
}

/// Whether two plans differ in what they expect alone.
fn alike(one: &Plan, other: &Plan) -> bool {
    let stages = |plan: &Plan| -> Vec<_> {
        let stages = plan.stages.iter();
        stages
            .map(|s| (s.node, s.role, s.place, s.layers, s.sees, s.wire_in, s.wire_out))
            .collect()
    };
    let rest = |plan: &Plan| {
        let source = plan.draft.map(|draft| draft.source);
        (
            plan.mode,
            plan.model,
            plan.kv,
            plan.context,
            plan.forwarding,
            plan.exactness,
            source,
        )
    };
    rest(one) == rest(other) && stages(one) == stages(other)
}

/// What may rest.
pub trait Rests: Send + 'static {
    /// The tokens that it holds, from the first on.
    fn held(&self) -> &[TokenId];
}

struct Rested<D> {
    whom: For,
    desk: D,
    since: Instant,
}

/// The desks that rest.
pub struct Resting<D>(Mutex<Desks<D>>);

struct Desks<D> {
    rested: Vec<Rested<D>>,
    /// Whether somebody looks how long they have rested.
    watched: bool,
}

impl<D> Default for Resting<D> {
    fn default() -> Self {
        Self(Mutex::new(Desks {
            rested: Vec::new(),
            watched: false,
        }))
    }
}

impl<D: Rests> Desks<D> {
    /// How much of `prompt` the desk holds that holds most of it for these, and where that is, if it is worth anything.
    fn find(&self, whom: &For, prompt: &[TokenId]) -> Option<(usize, usize)> {
        let fits = |rested: &Rested<D>| rested.since.elapsed() < REST_MAX && rested.whom.serves(whom);
        let same = |rested: &Rested<D>| common(rested.desk.held(), prompt);
        let all = self.rested.iter().enumerate().filter(|(_, rested)| fits(rested));
        let most = all.map(|(at, rested)| (same(rested), at)).max();
        most.filter(|(count, _)| *count >= WORTH_TOKENS)
    }
}

impl<D: Rests> Resting<D> {
    /// The desk that holds most of `prompt` for these, if it is worth anything.
    pub fn take(&self, whom: &For, prompt: &[TokenId]) -> Option<D> {
        let mut desks = self.lock();
        let (_, at) = desks.find(whom, prompt)?;
        Some(desks.rested.remove(at).desk)
    }

    /// Tokens of `prompt` that the desk holds which [`Resting::take`] would find; none where it would find none.
    pub fn holds(&self, whom: &For, prompt: &[TokenId]) -> usize {
        self.lock().find(whom, prompt).map_or(0, |(count, _)| count)
    }

    /// The stages that hold the beginning of `prompt` for desks that rest for `owner`: a conversation is planned to go on where it lies, as long
    /// as that is not too busy. Whether such a desk goes on under the plan that comes of it is asked of
    /// [`Resting::holds`].
    pub fn held(&self, owner: Owner, prompt: &[TokenId]) -> Vec<WarmPrefix> {
        let desks = self.lock();
        let own = desks
            .rested
            .iter()
            .filter(|rested| rested.whom.owner == owner && rested.since.elapsed() < REST_MAX);
        own.filter_map(|rested| {
            let same = common(rested.desk.held(), prompt);
            let tokens = u32::try_from(same).unwrap_or(u32::MAX);
            (same >= WORTH_TOKENS).then(|| WarmPrefix::of(&rested.whom.plan, tokens))
        })
        .collect()
    }

    /// Lets a desk rest.
    pub fn rest(self: &Arc<Self>, whom: For, desk: D) {
        let since = Instant::now();
        let mut desks = self.lock();
        desks.rested.push(Rested { whom, desk, since });
        let gone = (desks.rested.len() > DESKS_MAX).then(|| desks.rested.remove(0));
        if !desks.watched {
            let this = Arc::downgrade(self);
            // Without a thread it rests until others come.
            desks.watched = std::thread::Builder::new().spawn(move || watch(&this)).is_ok();
        }
        drop(desks);
        // Connections say goodbye, and nobody waits for that.
        drop(gone);
    }

    /// Lets go of all of them. Whether there was any.
    pub fn clear(&self) -> bool {
        let gone = std::mem::take(&mut self.lock().rested);
        !gone.is_empty()
    }

    /// Lets go of those that have rested for so long. Whether any is left; where none is, nobody looks any more.
    fn tire(&self, long: Duration) -> bool {
        let mut desks = self.lock();
        let (gone, left): (Vec<_>, Vec<_>) = std::mem::take(&mut desks.rested)
            .into_iter()
            .partition(|rested| rested.since.elapsed() >= long);
        desks.rested = left;
        desks.watched = !desks.rested.is_empty();
        let any = desks.watched;
        drop(desks);
        drop(gone);
        any
    }

    fn lock(&self) -> MutexGuard<'_, Desks<D>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tokens that both begin with.
fn common(held: &[TokenId], prompt: &[TokenId]) -> usize {
    held.iter().zip(prompt).take_while(|(a, b)| a == b).count()
}

/// Lets go of desks that have rested long enough, until none rests.
fn watch<D: Rests>(resting: &Weak<Resting<D>>) {
    loop {
        std::thread::sleep(LOOK_EVERY);
        let any = resting.upgrade().is_some_and(|resting| resting.tire(REST_MAX));
        if !any {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use heph_kernels::kv::KvFormat;
    use heph_plan::{Expected, Forwarding, Mode, Place, Stage};
    use heph_privacy::label::Label;
    use heph_types::{Exactness, LayerRange, Leaves, ModelHash, Role};

    use super::*;
    use crate::discretion::{Discretion, place};
    use crate::rules::Rules;

    impl Rests for Vec<TokenId> {
        fn held(&self) -> &[TokenId] {
            self
        }
    }

    fn plan(mode: Mode, seconds: u64) -> Plan {
        Plan {
            mode,
            model: ModelHash([1; 32]),
            model_name: "m".to_owned(),
            kv: KvFormat::F16,
            context: 100,
            stages: Vec::new(),
            forwarding: Forwarding::ThroughDesk,
            chunk_rows: 1,
            prompt_tokens: 1,
            draft: None,
            exactness: Exactness::Exact,
            expected: Expected {
                first_token: Duration::from_secs(seconds),
                per_token: Duration::ZERO,
                total: Duration::ZERO,
                bytes_up: 0,
                bytes_down: 0,
                credits: 0.0,
                objective: 0.0,
            },
        }
    }

    fn whom(owner: u8) -> For {
        For {
            owner: Owner([owner; 32]),
            standing: standing("internal"),
            plan: plan(Mode::Remote, 1),
            policy: Policy::closed(),
            credits_max: Some(9.0),
            machines: machines(&[Role::Own, Role::Miner]),
            about: false,
        }
    }

    fn standing(word: &str) -> Standing {
        costs(word, 0.0)
    }

    fn costs(word: &str, credits: f64) -> Standing {
        let rules = Rules::without_files(Vec::new());
        let asked = Discretion::new(&rules, Label::mark(word)).in_mode("remote");
        asked.costing(credits).standing().unwrap()
    }

    fn machines(roles: &[Role]) -> BTreeMap<NodeId, Destination> {
        let machine = |(id, role): (u8, &Role)| {
            let node = NodeId([id; 32]);
            (node, place(node, "a machine", *role))
        };
        (1..).zip(roles).map(machine).collect()
    }

    fn text(seed: u32, tokens: u32) -> Vec<TokenId> {
        (0..tokens)
            .map(|i| TokenId(if i < 20 { i } else { seed * 1000 + i }))
            .collect()
    }

    #[test]
    fn a_desk_goes_on_for_its_caller_and_its_plan_alone() {
        let others = [
            whom(2),
            For {
                standing: standing("private"),
                ..whom(1)
            },
            For {
                standing: standing("salaries"),
                ..whom(1)
            },
            For {
                standing: costs("internal", 7.0),
                ..whom(1)
            },
            For {
                plan: plan(Mode::Layered, 1),
                ..whom(1)
            },
            For {
                machines: machines(&[Role::Own, Role::Own]),
                ..whom(1)
            },
            For {
                machines: machines(&[Role::Own]),
                ..whom(1)
            },
            For {
                policy: Policy::open(Leaves::Text, &[Role::Own]),
                ..whom(1)
            },
            For {
                credits_max: Some(2.0),
                ..whom(1)
            },
            For {
                about: true,
                ..whom(1)
            },
        ];
        let resting = Arc::new(Resting::default());
        resting.rest(whom(1), text(1, 50));
        for other in &others {
            assert!(resting.take(other, &text(1, 60)).is_none(), "{other:?}");
            assert_eq!(resting.holds(other, &text(1, 60)), 0, "{other:?}");
        }
        assert_eq!(resting.holds(&whom(1), &text(1, 10)), 0, "not worth it");
        let later = For {
            plan: plan(Mode::Remote, 9),
            machines: machines(&[Role::Own, Role::Miner, Role::Own]),
            ..whom(1)
        };
        assert_eq!(resting.holds(&later, &text(1, 60)), 50);
        assert_eq!(resting.take(&later, &text(1, 60)), Some(text(1, 50)));
        assert!(
            resting.take(&later, &text(1, 60)).is_none(),
            "one conversation at a time"
        );
    }

    #[test]
    fn the_desk_that_holds_most_is_taken_and_one_that_holds_little_is_not() {
        let resting = Arc::new(Resting::default());
        for seed in 1..=3 {
            resting.rest(whom(1), text(seed, 50));
        }
        assert_eq!(resting.take(&whom(1), &text(2, 60)), Some(text(2, 50)));
        assert!(resting.take(&whom(1), &text(1, 60)[1..]).is_none());
        let few = &text(1, 60)[..WORTH_TOKENS - 1];
        assert!(resting.take(&whom(1), few).is_none());
    }

    #[test]
    fn few_rest_and_not_for_long() {
        let resting = Arc::new(Resting::default());
        for seed in 1..=6 {
            resting.rest(whom(seed as u8), text(seed, 50));
        }
        let rests =
            |resting: &Resting<_>, seed: u32| resting.lock().rested.iter().any(|r| r.desk == text(seed, 50));
        assert!(!rests(&resting, 2) && rests(&resting, 3) && rests(&resting, 6));
        assert!(
            resting.tire(Duration::from_secs(3600)),
            "they have not rested for an hour"
        );
        assert!(!resting.tire(Duration::ZERO));
        resting.rest(whom(1), text(1, 50));
        assert!(resting.clear() && !resting.clear());
        assert!(resting.take(&whom(1), &text(1, 60)).is_none());
    }

    #[test]
    fn a_conversation_is_planned_to_go_on_where_it_lies_by_its_own_caller_alone() {
        let resting = Arc::new(Resting::default());
        let stage = |node: u8| Stage {
            node: NodeId([node; 32]),
            name: String::new(),
            role: Role::Own,
            place: Place::Peer,
            layers: LayerRange::new(0, 4, 4).unwrap(),
            sees: Leaves::Text,
            wire_in: None,
            wire_out: None,
            memory: 0,
            send_bytes: 0,
        };
        let mut whole = whom(1);
        whole.plan.stages = vec![stage(7)];
        resting.rest(whole.clone(), text(1, 50));
        let mut parts = whole.clone();
        parts.plan.stages = vec![stage(8), stage(9)];
        resting.rest(parts.clone(), text(1, 40));
        let held = [WarmPrefix::of(&whole.plan, 50), WarmPrefix::of(&parts.plan, 40)];
        assert_eq!(resting.held(Owner([1; 32]), &text(1, 60)), held);
        assert!(held[1].lies_along(&parts.plan) && !held[1].lies_along(&whole.plan));
        assert!(resting.held(Owner([2; 32]), &text(1, 60)).is_empty());
        assert!(
            resting.held(Owner([1; 32]), &text(1, 10)).is_empty(),
            "not worth it"
        );
    }
}
