//! How fast personal data is found. `cargo bench -p heph-privacy` prints megabytes a second of patterns over prose with some
//! personal data, code and a table of numbers, and milliseconds a kilobyte with the model of names, on one core.
#![allow(clippy::print_stdout, reason = "a bench prints what it measured")]
#![allow(
    clippy::disallowed_methods,
    reason = "a bench looks at the clock and at files; the crate does not"
)]

use std::hint::black_box;
use std::time::Instant;

use heph_privacy::pii;
use heph_privacy::pii::names::Model;

/// Bytes of each kind of text; blocks of 64 KiB are scanned, as a long attachment would be.
const BYTES: usize = 4 << 20;

fn repeated(piece: &str) -> String {
    piece.chars().cycle().take(64 << 10).collect()
}

fn main() {
    let prose = "The committee met again in the old town hall and talked about the bridge for three hours. Nobody wanted to \
        pay for the second arch, though everybody agreed that it leans. Please call Maria on +49 30 6509482 or write to \
        m.keller@example.org before Friday; the card 4111 1111 1111 1111 was charged on 04 Sep 2025.\n";
    let code = include_str!("../src/pii/checks.rs");
    let table: String = (0..4000_u64)
        .map(|i| {
            format!(
                "{},{},{}.{:03}\n",
                i,
                i * 7_919_333 % 1_000_000_007,
                i % 97,
                i % 1000
            )
        })
        .collect();
    println!("{:<10} {:>8} {:>8}", "text", "MB/s", "ms/KB");
    for (name, piece) in [("prose", prose), ("code", code), ("numbers", &table)] {
        let text = repeated(piece);
        let patterns = best(BYTES / text.len(), || {
            black_box(pii::patterns(black_box(&text))).len()
        });
        let names = best(4, || {
            black_box(pii::scan(black_box(&text), Model::bundled())).len()
        });
        let kilobytes = text.len() as f64 / 1e3;
        println!(
            "{name:<10} {:>8.1} {:>8.3}",
            kilobytes / 1e3 / patterns,
            names * 1e3 / kilobytes
        );
    }
}

/// Seconds of one `run`: the best of five rounds of `times`.
fn best(times: usize, run: impl Fn() -> usize) -> f64 {
    let mut best = f64::MAX;
    for _ in 0..5 {
        let began = Instant::now();
        let found: usize = (0..times).map(|_| run()).sum();
        best = best.min(began.elapsed().as_secs_f64() / times as f64);
        black_box(found);
    }
    best
}
