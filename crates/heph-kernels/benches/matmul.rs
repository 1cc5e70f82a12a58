//! How near matrix products come to what the machine can do.
//!
//! `cargo bench -p heph-kernels --bench matmul [-- FORMAT...]` prints, for every format and instruction set, the
//! weights read per second for one token and the products per second for many, beside the memory's reading speed
//! and the peak of a bare chain of dot product instructions measured in the same run.

#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a benchmark reads the clock and prints"
)]

use heph_kernels::activations::Activations;
use heph_kernels::format::Format;
use heph_kernels::isa::Isa;
use heph_kernels::matmul::{Job, Store, matmul};
use heph_kernels::pack::Packed;
use heph_kernels::pool::Pool;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Rows and columns of the matrices of a model of 1.1 billion weights.
const SHAPES: [(usize, usize); 3] = [(2048, 2048), (5632, 2048), (2048, 5632)];

/// Larger than any last-level cache here.
const FAR: usize = 512 << 20;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let (chosen, wanted): (Vec<String>, Vec<String>) =
        words.into_iter().partition(|w| w.parse::<Isa>().is_ok());
    let pool = Pool::new(std::thread::available_parallelism().map_or(1, usize::from));
    let bandwidth = bandwidth(&pool);
    println!("{} threads, memory read {bandwidth:.1} GB/s", pool.threads());
    #[cfg(target_arch = "x86_64")]
    if Isa::Avx2.available() {
        println!("peak of vpmaddubsw + vpaddw: {:.0} GMAC/s", peak(&pool));
    }
    for format in Format::ALL {
        let isas = Isa::all_available().into_iter().skip(1);
        let isas = isas.filter(|isa| chosen.is_empty() || chosen.iter().any(|c| c == isa.name()));
        if wanted.is_empty() || wanted.iter().any(|w| w == format.name()) {
            for isa in isas {
                report(format, isa, bandwidth, &pool);
            }
        }
    }
}

fn report(format: Format, isa: Isa, bandwidth: f64, pool: &Pool) {
    let start = Instant::now();
    let far: Vec<Packed> = matrices(format, 5632, 2048, FAR, pool);
    let packing = start.elapsed().as_secs_f64();
    let bytes: usize = far.iter().map(Packed::bytes).sum();
    print!(
        "{format:8} {isa:8} pack {:4.1} GB/s",
        bytes as f64 / packing / 1e9
    );
    let mut one = 0.0;
    for tokens in [1, 2, 4, 8, 16] {
        let seconds = seconds(&far, tokens, isa, pool);
        if tokens == 1 {
            one = seconds;
            let speed = bytes as f64 / seconds / 1e9;
            print!(
                " | 1 token {speed:5.1} GB/s = {:3.0}% | times that for",
                100.0 * speed / bandwidth
            );
        } else {
            print!(" {tokens}: {:4.2}", seconds / one);
        }
    }
    drop(far);
    print!(" | 512 tokens, GMAC/s:");
    for (rows, cols) in SHAPES {
        let near = matrices(format, rows, cols, 1, pool);
        print!(
            " {:5.1}",
            (rows * cols * 512) as f64 / seconds(&near, 512, isa, pool) / 1e9
        );
    }
    println!();
}

/// As many matrices as take `bytes`.
fn matrices(format: Format, rows: usize, cols: usize, bytes: usize, pool: &Pool) -> Vec<Packed> {
    let size = format.row_bytes(cols).expect("whole blocks") * rows;
    let raw: Vec<u8> = (0..size as u32)
        .map(|i| (i.wrapping_mul(0x9e37_79b9) >> 23) as u8 & 0x3b)
        .collect();
    let one = || Packed::pack(format, rows, cols, &raw, pool).expect("a fitting shape");
    (0..bytes.div_ceil(size)).map(|_| one()).collect()
}

/// The median time of multiplying all matrices once.
fn seconds(weights: &[Packed], tokens: usize, isa: Isa, pool: &Pool) -> f64 {
    let cols = weights[0].cols();
    let x: Vec<f32> = (0..tokens * cols).map(|i| (i as f32).sin()).collect();
    let mut acts = Activations::new();
    acts.set(&x, cols, weights.iter().map(Packed::format), isa, pool);
    let mut out = vec![0.0; tokens * weights[0].rows()];
    median(|| {
        for weights in weights {
            matmul(
                &mut [Job {
                    weights,
                    out: &mut out,
                    mode: Store::Write,
                }],
                &acts,
                isa,
                pool,
            );
        }
        black_box(&out);
    })
}

/// Reading memory with all threads, each in four places at once: more than one stream keeps more reads under way.
fn bandwidth(pool: &Pool) -> f64 {
    let words = vec![1u64; FAR / 8];
    let part = 1 << 18;
    let seconds = median(|| {
        pool.run(words.len() / part, &|i| {
            let (a, b) = words[i * part..][..part].split_at(part / 2);
            let ((a, b), (c, d)) = (a.split_at(part / 4), b.split_at(part / 4));
            let mut sums = [0u64; 8];
            for (((a, b), c), d) in a
                .chunks_exact(8)
                .zip(b.chunks_exact(8))
                .zip(c.chunks_exact(8))
                .zip(d.chunks_exact(8))
            {
                for (j, sum) in sums.iter_mut().enumerate() {
                    *sum ^= a[j] ^ b[j] ^ c[j] ^ d[j];
                }
            }
            black_box(sums);
        });
    });
    FAR as f64 / seconds / 1e9
}

/// 8-bit products a second, 32 an instruction, where nothing is loaded.
#[cfg(target_arch = "x86_64")]
fn peak(pool: &Pool) -> f64 {
    const ROUNDS: usize = 2_000_000;
    let seconds = median(|| {
        pool.run(pool.threads(), &|_| {
            // SAFETY: the caller has asked for AVX2.
            unsafe { chain(ROUNDS) };
        });
    });
    (ROUNDS * 8 * 32 * pool.threads()) as f64 / seconds / 1e9
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn chain(rounds: usize) {
    use std::arch::x86_64::*;
    let (a, x) = (black_box(_mm256_set1_epi8(3)), black_box(_mm256_set1_epi8(5)));
    let mut sums = [_mm256_setzero_si256(); 8];
    for _ in 0..rounds {
        for sum in &mut sums {
            let codes = black_box_vector(a);
            *sum = _mm256_add_epi16(*sum, _mm256_maddubs_epi16(codes, x));
        }
    }
    black_box(sums);
}

/// Hides where a vector comes from without moving it to memory.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn black_box_vector(mut v: std::arch::x86_64::__m256i) -> std::arch::x86_64::__m256i {
    // SAFETY: no instruction at all.
    unsafe { std::arch::asm!("/* {v} */", v = inout(ymm_reg) v, options(nomem, nostack, preserves_flags)) };
    v
}

/// The median of as many runs as fit half a second, at least 3.
fn median(mut f: impl FnMut()) -> f64 {
    f();
    let mut times = Vec::new();
    let start = Instant::now();
    while times.len() < 3 || start.elapsed() < Duration::from_millis(500) {
        let start = Instant::now();
        f();
        times.push(start.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
