//! What the guard of what leaves costs a request: looking through its text, asking the rules, the leave at the door of a
//! machine, the looks while an answer is under way, and the count.
//!
//! `cargo bench -p heph-runtime --bench guard [-- ROUNDS]`. A request with the guard and one without take turns; both give the same
//! 64 orders to a machine that does nothing. Medians in microseconds; one line of JSON for each policy and size, which is kept in
//! `benches/raw/guard.jsonl`. Looking through a text grows with it, so it is told apart from the rest, and so is looking up one that was
//! looked through before.

#![expect(clippy::print_stdout, reason = "a measurement prints")]

use std::sync::Arc;
use std::time::Instant;

use heph_runtime::discretion::{Discretion, place, unsaid};
use heph_runtime::gate::{Doors, Gate, Meter};
use heph_runtime::rules::{POLICY_FILE, Rules};
use heph_runtime::seat::{Bell, Host, Seat, SeatError, Traffic};
use heph_types::{
    KvFormat, LayerRange, ModelHash, NodeId, Order, Policy, Position, Reply, Role, SamplingOptions,
    SessionId, StageSpec,
};

/// Orders of one answer.
const ORDERS: u64 = 64;

const LAYERS: usize = 8;

/// Policies that are measured: none, and a preset with rules of a person, which looks at labels.
const POLICIES: [(&str, Option<&str>); 2] = [
    ("none", None),
    ("redact-then-remote and 20 rules", Some("redact-then-remote")),
];

/// Bytes of a prompt.
const SIZES: [usize; 3] = [200, 2_000, 16_000];

const PROSE: &str = "The committee met again in the old town hall and talked about the bridge for three hours. Nobody wanted to \
    pay for the second arch, though everybody agreed that it leans. ";

fn main() {
    let rounds = std::env::args().find_map(|word| word.parse().ok()).unwrap_or(400);
    for (name, preset) in POLICIES {
        let home = tempfile::tempdir().expect("a folder");
        if let Some(preset) = preset {
            std::fs::write(home.path().join(POLICY_FILE), policy(preset)).expect("a file");
        }
        let rules = Rules::below(home.path());
        for bytes in SIZES {
            measure(&rules, (name, bytes), rounds);
        }
    }
}

fn policy(preset: &str) -> String {
    let rule = |n: usize| {
        format!(
            "[[rule]]\nname = \"folder {n}\"\nwhen = {{ labels = [\"folder:salaries{n}*\"] }}\nthen = \"deny\"\n"
        )
    };
    let rules: String = (0..20).map(rule).collect();
    format!("version = 1\npreset = \"{preset}\"\n{rules}")
}

/// What a request took, in microseconds.
#[derive(Default)]
struct Taken {
    without: Vec<f64>,
    looking: Vec<f64>,
    again: Vec<f64>,
    guarded: Vec<f64>,
}

fn measure(rules: &Arc<Rules>, (policy, bytes): (&str, usize), rounds: usize) {
    let prompt: String = PROSE.chars().cycle().take(bytes).collect();
    let host: Arc<dyn Host> = Arc::new(Idle);
    let mut taken = Taken::default();
    // The first ones load the model of names and read the file.
    for round in 0..rounds + 8 {
        let began = Instant::now();
        carry_out(&*host);
        let without = micros(began);
        // A text that nobody looked through before.
        let prompt = format!("{prompt}{round}");
        let look = || {
            let began = Instant::now();
            let discretion = Discretion::new(rules, unsaid());
            discretion.about([prompt.as_str()]);
            (discretion, micros(began))
        };
        let (discretion, looking) = look();
        let (_, again) = look();
        let began = Instant::now();
        let doors = Doors {
            discretion: discretion.in_mode("remote"),
            policy: own_sees_text(),
            layers: LAYERS,
            meter: Meter::default(),
        };
        let to = place(host.node(), "attic", Role::Own);
        carry_out(&Gate::there(Arc::clone(&host), to, Role::Own, &doors));
        assert_eq!(doors.meter.read().len(), 1, "it was counted");
        assert_eq!(doors.meter.read_left().len(), 1, "by a leave");
        let guarded = micros(began);
        if round >= 8 {
            taken.without.push(without);
            taken.looking.push(looking);
            taken.again.push(again);
            taken.guarded.push(guarded);
        }
    }
    let [without, looking, again, guarded] =
        [taken.without, taken.looking, taken.again, taken.guarded].map(|mut all| median(&mut all));
    println!(
        "{{\"kind\": \"guard\", \"policy\": \"{policy}\", \"prompt_bytes\": {bytes}, \"orders\": {ORDERS}, \"rounds\": {rounds}, \
         \"without_us\": {without:.2}, \"guarded_us\": {guarded:.2}, \"guard_us\": {:.2}, \"looking_through_us\": {looking:.2}, \
         \"again_us\": {again:.2}}}",
        guarded - without
    );
}

/// Own machines see everything.
fn own_sees_text() -> Policy {
    Policy {
        may_see: vec![(Role::Own, heph_types::Leaves::Text)],
        ..Policy::closed()
    }
}

fn micros(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e6
}

fn median(all: &mut [f64]) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

/// A session and its orders.
fn carry_out(host: &dyn Host) {
    let spec = StageSpec {
        model: ModelHash([7; 32]),
        layers: LayerRange::new(0, LAYERS, LAYERS).expect("all layers"),
        context: 512,
        kv_format: KvFormat::F16,
        choose: Some(SamplingOptions::greedy()),
    };
    let mut seat = host
        .open(SessionId(1), &spec, &Bell::new())
        .expect("an own machine may");
    for order in 0..ORDERS {
        seat.submit(Order::Rollback(Position(order as u32)))
            .expect("it takes any");
        seat.poll().expect("it says nothing wrong");
    }
}

/// A machine that takes every stage and does nothing.
struct Idle;

impl Host for Idle {
    fn node(&self) -> NodeId {
        NodeId([1; 32])
    }

    fn open(&self, _: SessionId, _: &StageSpec, _: &Bell) -> Result<Box<dyn Seat>, SeatError> {
        Ok(Box::new(Deaf(0)))
    }
}

struct Deaf(u64);

impl Seat for Deaf {
    fn node(&self) -> NodeId {
        NodeId([1; 32])
    }

    fn submit(&mut self, _: Order) -> Result<(), SeatError> {
        self.0 += 1;
        Ok(())
    }

    fn poll(&mut self) -> Result<Option<Reply>, SeatError> {
        Ok(None)
    }

    fn traffic(&self) -> Traffic {
        Traffic {
            up: 40 * self.0,
            down: 10 * self.0,
        }
    }
}
