//! What the guard of what leaves costs a request: looking through its text, asking the rules, the leave at the door of a
//! machine, the looks while an answer is under way, and the count.
//!
//! `cargo bench -p heph-runtime --bench guard [-- ROUNDS]`. A request with the guard and one without take turns; both give the same
//! 64 orders to a machine that does nothing. Medians in microseconds; one line of JSON for each policy and size, which is kept in
//! `benches/raw/guard.jsonl`. Looking through a text grows with it, so it is told apart from the rest, and so is looking up one that was
//! looked through before.

#![expect(clippy::print_stdout, reason = "a measurement prints")]

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use heph_providers::{Client, Dial, Direct, Limits, Listener, Provider};
use heph_runtime::discretion::{Discretion, place, unsaid};
use heph_runtime::gate::{Doors, Gate, Meter};
use heph_runtime::guard::{self, Outlet, Stands};
use heph_runtime::providers::ProviderBook;
use heph_runtime::rules::{POLICY_FILE, Rules};
use heph_runtime::seat::{Bell, Host, Seat, SeatError};
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
    // The guard is this program once more.
    #[cfg(target_os = "linux")]
    if std::env::args().any(|word| word == "egress-guard") {
        let settings = heph_runtime::settings::Settings::read().expect("settings");
        guard::process::run(&settings, false, None).expect("a socket");
        return;
    }
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
    guard::begin_with();
    connections(rounds);
}

/// Answers each request, on as many connections as come, and keeps them.
fn answering() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a socket");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                stream.set_nodelay(true).expect("an option");
                let mut lines = BufReader::new(stream.try_clone().expect("a socket")).lines();
                while let Some(Ok(line)) = lines.next() {
                    let body = "{\"data\":[{\"id\":\"m\"}]}";
                    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length";
                    if line.is_empty() && write!(stream, "{head}: {}\r\n\r\n{body}", body.len()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    format!("http://{address}/v1")
}

/// What a request takes directly and through a guard.
fn connections(rounds: usize) {
    let home = tempfile::tempdir().expect("a folder");
    let text = format!(
        "name = \"near\"\ndialect = \"openai\"\nurl = \"{}\"\nmodels = [\"m\"]",
        answering()
    );
    let provider: Provider = toml::from_str(&text).expect("a provider");
    let mut book = ProviderBook::open(home.path()).expect("a book");
    book.add(provider.clone()).expect("it is new");
    let outlet = Outlet::at(home.path(), &[]);
    let alone = matches!(outlet.stands(), Ok(Stands::Alone { .. }));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a thread");
    let ask = |client: &Client| {
        let listener = Listener {
            stopped: &|| false,
            deadline: Some(Instant::now() + Duration::from_secs(20)),
        };
        let began = Instant::now();
        let models = runtime.block_on(client.models(&provider, None, &listener));
        models.expect("it answers");
        micros(began)
    };
    fn client(dial: impl Dial) -> Client {
        Client::new(Limits::default(), dial).expect("TLS")
    }
    let (kept_direct, kept_guarded) = (client(Direct), client(outlet.clone()));
    let mut taken = [const { Vec::new() }; 4];
    for round in 0..rounds + 8 {
        let times = [
            ask(&client(Direct)),
            ask(&client(outlet.clone())),
            ask(&kept_direct),
            ask(&kept_guarded),
        ];
        if round >= 8 {
            taken.iter_mut().zip(times).for_each(|(all, time)| all.push(time));
        }
    }
    let [new, new_guarded, kept, kept_guarded] = taken.map(|mut all| median(&mut all));
    println!(
        "{{\"kind\": \"connections\", \"guard_alone\": {alone}, \"rounds\": {rounds}, \"new_us\": {new:.1}, \"new_guarded_us\": \
         {new_guarded:.1}, \"kept_us\": {kept:.1}, \"kept_guarded_us\": {kept_guarded:.1}, \"guard_new_us\": {:.1}, \"guard_kept_us\": {:.1}}}",
        new_guarded - new,
        kept_guarded - kept
    );
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
        Ok(Box::new(Deaf))
    }
}

struct Deaf;

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
}
