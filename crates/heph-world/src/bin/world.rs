//! Runs simulated worlds of any size and says what came of them; a failing world tells its story.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program that tells what it found"
)]

use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use heph_world::fleet::{self, Rule, Sieve};
use heph_world::recovery::{Slowed, slowed};
use heph_world::storm::{Plant, storm};
use heph_world::tiny;

/// How to call it.
const USAGE: &str =
    "world storm [KILLS] [SEED]      answers whose nodes die, stall, lie and come back; 5000 from seed 0
world slow [SEEDS] [SEED]       a node becomes five times slower in mid-answer, and the planner moves on; 40 from seed 0
world fleet [NODES] [REQUESTS]  plans and queues over very many machines; 10000 and 1000
world wide                      a drawn model with wide rows, as a GGUF file on the standard output";

/// How long the pace may take to come back.
const BACK_AFTER: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let numbers: Result<Vec<usize>, _> = arguments.iter().skip(1).map(|word| word.parse()).collect();
    let what = arguments.first().map(String::as_str);
    if what == Some("wide") {
        return match std::io::stdout().write_all(&tiny::wide_file()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        };
    }
    let (Some(what), Ok(numbers)) = (what, numbers) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let number = |at: usize, default: usize| numbers.get(at).copied().unwrap_or(default);
    let began = Instant::now();
    let code = match what {
        "storm" => run_storm(number(0, 5000), number(1, 0)),
        "slow" => run_slow(number(0, 40), number(1, 0)),
        "fleet" => run_fleet(number(0, 10_000), number(1, 1000)),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    println!("took {:.1} s", began.elapsed().as_secs_f64());
    code
}

fn run_storm(kills: usize, seed: usize) -> ExitCode {
    let tally = storm(seed as u64, kills, Plant::Nothing);
    println!("answers         {}", tally.answers);
    println!("nodes struck    {}", tally.kills);
    println!("stages moved    {}", tally.moves);
    println!("differing       {}", tally.differing);
    println!(
        "longest gap     {:.3} s from the loss noticed to the next token",
        tally.gap_max.as_secs_f64()
    );
    println!("virtual time    {:.0} s", tally.time.as_secs_f64());
    tally.stories.iter().for_each(|story| println!("\n{story}"));
    match tally.differing {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

fn run_slow(seeds: usize, first: usize) -> ExitCode {
    let told: Vec<(u64, Slowed)> = (first as u64..(first + seeds) as u64)
        .filter_map(|seed| Some((seed, slowed(seed)?)))
        .collect();
    let back = |slowed: &Slowed| slowed.back.unwrap_or(Duration::MAX);
    let mut times: Vec<Duration> = told.iter().map(|(_, slowed)| back(slowed)).collect();
    times.sort_unstable();
    let differing = told.iter().filter(|(_, slowed)| !slowed.same).count();
    let late: Vec<&(u64, Slowed)> = told
        .iter()
        .filter(|(_, slowed)| back(slowed) > BACK_AFTER)
        .collect();
    if times.is_empty() {
        println!("no plan of these seeds needs another node");
        return ExitCode::FAILURE;
    }
    println!("{} answers, {differing} differing", told.len());
    println!(
        "back at nine tenths of the new best after {:?} in the middle",
        times[times.len() / 2]
    );
    println!("later than {} s or never: {}", BACK_AFTER.as_secs(), late.len());
    for (seed, slowed) in &late {
        let (reached, moves) = (slowed.reached, slowed.moves);
        println!(
            "seed {seed}: {reached:.2} of the new best, {moves} moves\n{}",
            slowed.story
        );
    }
    match differing + late.len() {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

fn run_fleet(nodes: usize, requests: usize) -> ExitCode {
    println!(
        "{nodes} machines, {requests} requests planned with {} of them each",
        fleet::LISTED
    );
    let mut broken = 0;
    for sieve in [Sieve::Shortlist, Sieve::Nearest, Sieve::Drawn] {
        let began = Instant::now();
        let told = fleet::planned(nodes, requests, sieve, 1);
        broken += told.leaks + told.closed;
        println!(
            "  {:<10} median answer {:.2} s, no plan for {}, {} rules broken, {:.1} ms a request",
            format!("{sieve:?}"),
            told.median(),
            told.refused,
            told.leaks + told.closed,
            began.elapsed().as_secs_f64() * 1e3 / requests as f64
        );
    }
    println!("{nodes} queues, {} requests", requests * 50);
    for rule in [Rule::Balancer, Rule::RoundRobin] {
        let began = Instant::now();
        let told = fleet::served(nodes, requests * 50, rule, 1);
        println!(
            "  {:<10} p95 first token {:.2} s, {} told to come again, at most {} waited at one, {:.0} us a request",
            format!("{rule:?}"),
            told.p95(),
            told.busy,
            told.waiting_max,
            began.elapsed().as_secs_f64() * 1e6 / (requests * 50) as f64
        );
    }
    match broken {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}
