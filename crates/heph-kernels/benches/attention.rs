//! What attention costs a token, and what the machine would allow: multiplications and additions stay apart,
//! so the limit of arithmetic is one multiply-add a cycle of what its vector units can start.
//!
//! `cargo bench -p heph-kernels --bench attention [-- THREADS]`

#![expect(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a measurement prints and reads the clock"
)]

use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use heph_kernels::attention::{AttentionJob, AttentionShape, Sight, attention};
use heph_kernels::isa::Isa;
use heph_kernels::kv::{KvFormat, KvPage, KvShape, PAGE};
use heph_kernels::pool::Pool;

/// Layers of the model whose attention is measured; its caches together do not fit the processor's.
const LAYERS: usize = 22;

/// 32 query heads over 4 key-value heads of 64 numbers, as in TinyLlama 1.1B.
const SHAPE: AttentionShape = AttentionShape {
    heads: 32,
    kv_heads: 4,
    head_dim: 64,
    scale: 0.125,
    window: None,
    softcap: None,
    sight: Sight::Back,
};

fn main() {
    let threads = std::env::args()
        .filter_map(|a| a.parse().ok())
        .next()
        .unwrap_or(2);
    let pool = Pool::new(threads);
    println!(
        "{} threads, {}, {LAYERS} layers of {SHAPE:?}",
        pool.threads(),
        Isa::best()
    );
    dispatch(&pool);
    let bandwidth = read_bandwidth(&pool);
    let arithmetic = multiply_add_rate(&pool);
    println!("limits: memory reads {bandwidth:.1} GB/s, multiply-adds unfused {arithmetic:.1} GFLOP/s");
    for format in [KvFormat::F16, KvFormat::Q8_0, KvFormat::F32] {
        for depth in [0, 512, 2048, 8192] {
            row(&format!("decode {format}"), depth, 1, format, &pool);
        }
        row(&format!("verify {format}"), 2048, 8, format, &pool);
        row(&format!("prefill {format}"), 0, 512, format, &pool);
    }
}

/// One line of figures: `tokens` computed together behind `depth` others.
fn row(name: &str, depth: usize, tokens: usize, format: KvFormat, pool: &Pool) {
    let (width, kv) = (SHAPE.heads * SHAPE.head_dim, SHAPE.kv_heads * SHAPE.head_dim);
    let page = KvShape {
        kv_heads: SHAPE.kv_heads,
        head_dim: SHAPE.head_dim,
        format,
    };
    let positions = depth + tokens;
    let layers: Vec<Vec<KvPage>> = (0..LAYERS)
        .map(|layer| fill(page, positions, kv, layer))
        .collect();
    let q: Vec<f32> = (0..tokens * width).map(|i| wave(i, 7)).collect();
    let mut out = vec![0.0; tokens * width];
    let mut once = || {
        for pages in &layers {
            let pages: Vec<&KvPage> = pages.iter().collect();
            let job = AttentionJob {
                q: &q,
                tokens,
                first: depth,
                pages: &pages,
                out: &mut out,
            };
            attention(&mut [job], &SHAPE, Isa::best(), pool);
        }
    };
    let seconds = fastest(&mut once);
    black_box(&out);
    let seen: usize = (depth + 1..=depth + tokens).sum();
    let flop = (4 * seen * width * LAYERS) as f64;
    let bytes = (positions * page.position_bytes() * LAYERS) as f64;
    println!(
        "{name:13} depth {depth:5}: {:9.1} us a token, {:6.1} GB/s of cache, {:6.1} GFLOP/s",
        seconds * 1e6 / tokens as f64,
        bytes / seconds / 1e9,
        flop / seconds / 1e9,
    );
}

fn fill(shape: KvShape, positions: usize, width: usize, layer: usize) -> Vec<KvPage> {
    let mut pages = vec![KvPage::new(shape); positions.div_ceil(PAGE)];
    for position in 0..positions {
        let keys: Vec<f32> = (0..width).map(|i| wave(i + position * width, layer)).collect();
        let values: Vec<f32> = (0..width)
            .map(|i| wave(i + position * width, layer + 1))
            .collect();
        pages[position / PAGE].write(position % PAGE, &keys, &values);
    }
    pages
}

/// A cheap number in (-1, 1) without a pattern that matters.
fn wave(i: usize, seed: usize) -> f32 {
    let mixed = (i as u32)
        .wrapping_mul(0x9e37_79b1)
        .wrapping_add(seed as u32)
        .wrapping_mul(0x85eb_ca6b);
    (mixed >> 8) as f32 / (1 << 23) as f32 - 1.0
}

/// Seconds of one call: the fastest of those that fit in a third of a second, at least five, since whatever else
/// runs on the machine only ever slows a call down.
fn fastest(call: &mut impl FnMut()) -> f64 {
    call();
    let start = Instant::now();
    let mut times = Vec::new();
    while times.len() < 5 || (start.elapsed().as_secs_f64() < 0.3 && times.len() < 1_000) {
        let begin = Instant::now();
        call();
        times.push(begin.elapsed().as_secs_f64());
    }
    times.into_iter().fold(f64::INFINITY, f64::min)
}

/// What one dispatch to the pool costs when every thread takes part: no task ends before all have begun.
fn dispatch(pool: &Pool) {
    const ROUNDS: usize = 1_000;
    let begun = AtomicUsize::new(0);
    let mut due = 0;
    let seconds = fastest(&mut || {
        for _ in 0..ROUNDS {
            due += pool.threads();
            pool.run(pool.threads(), &|_| {
                begun.fetch_add(1, Ordering::Relaxed);
                while begun.load(Ordering::Relaxed) < due {
                    std::hint::spin_loop();
                }
            });
        }
    });
    println!(
        "a dispatch to all threads of the pool: {:.2} us",
        seconds * 1e6 / ROUNDS as f64
    );
}

/// Gigabytes a second that all threads together read from memory.
fn read_bandwidth(pool: &Pool) -> f64 {
    let words = vec![1u64; 32 << 20];
    let part = words.len() / 64;
    let seconds = fastest(&mut || {
        pool.run(64, &|i| {
            black_box(
                words[i * part..][..part]
                    .iter()
                    .fold(0u64, |sum, w| sum.wrapping_add(*w)),
            );
        });
    });
    (words.len() * 8) as f64 / seconds / 1e9
}

/// Chains of [`multiply_add_rate`]: twelve vectors of 256 bits.
const CHAINS: usize = 96;

/// Giga-operations a second of separate products and sums, out of registers.
fn multiply_add_rate(pool: &Pool) -> f64 {
    const ROUNDS: usize = 50_000;
    let tasks = 4 * pool.threads();
    let seconds = fastest(&mut || {
        pool.run(tasks, &|_| {
            black_box(chains(black_box(0.999), ROUNDS));
        });
    });
    (tasks * ROUNDS * CHAINS * 2) as f64 / seconds / 1e9
}

fn chains(factor: f32, rounds: usize) -> f32 {
    #[cfg(target_arch = "x86_64")]
    if Isa::Avx512.available() {
        // SAFETY: the line above.
        return unsafe { chains_avx512(factor, rounds) };
    } else if Isa::Avx2.available() {
        // SAFETY: the line above.
        return unsafe { chains_avx2(factor, rounds) };
    }
    chains_plain(factor, rounds)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn chains_avx2(factor: f32, rounds: usize) -> f32 {
    chains_plain(factor, rounds)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn chains_avx512(factor: f32, rounds: usize) -> f32 {
    chains_plain(factor, rounds)
}

/// 96 chains of a product and a sum side by side, so that none waits for another.
#[inline(always)]
fn chains_plain(factor: f32, rounds: usize) -> f32 {
    let mut sums = [1.0f32; CHAINS];
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = *sum * factor + factor;
        }
    }
    sums.iter().sum()
}
