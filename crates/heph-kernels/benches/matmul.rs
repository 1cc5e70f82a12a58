//! How near matrix products come to what the machine can do.
//!
//! `cargo bench -p heph-kernels --bench matmul [-- FORMAT... ISA... THREADS]` prints, for every format and instruction
//! set, the weights read per second for one token and the products per second for many, each as a share of what the
//! machine did in the same run: reading memory in large pages, and a bare chain of dot product instructions.

#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a benchmark reads the clock and prints"
)]

use heph_kernels::activations::Activations;
use heph_kernels::format::Format;
use heph_kernels::isa::Isa;
use heph_kernels::matmul::{Job, Store, matmul};
use heph_kernels::pack::{Packed, Room};
use heph_kernels::pool::Pool;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Rows and columns of the matrices of a model of 1.1 billion weights.
const SHAPES: [(usize, usize); 3] = [(2048, 2048), (5632, 2048), (2048, 5632)];

/// Larger than any last-level cache here.
const FAR: usize = 512 << 20;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let threads = words.iter().find_map(|w| w.parse().ok());
    let pool =
        Pool::new(threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from)));
    let named = |names: &mut dyn Iterator<Item = &'static str>, name: &str| {
        let mut chosen = names.filter(|n| words.iter().any(|w| w == n)).peekable();
        chosen.peek().is_none() || chosen.any(|n| n == name)
    };
    let machine = Machine {
        bandwidth: bandwidth(&pool),
        peak: peak(&pool),
    };
    println!(
        "{} threads, memory read {:.1} GB/s",
        pool.threads(),
        machine.bandwidth
    );
    if let Some(peak) = machine.peak {
        println!("peak of bare dot products: {peak:.0} GMAC/s");
    }
    for format in Format::ALL {
        for isa in Isa::all_available().into_iter().skip(1) {
            let wanted = named(&mut Format::ALL.iter().map(|f| f.name()), format.name())
                && named(&mut Isa::ALL.iter().map(|i| i.name()), isa.name());
            if wanted {
                report(format, isa, &machine, &pool);
            }
        }
    }
}

/// What the machine does where nothing else is in the way.
struct Machine {
    /// GB a second.
    bandwidth: f64,
    /// 8-bit products a nanosecond by the widest dot product there is, if it is known here how to ask.
    peak: Option<f64>,
}

fn report(format: Format, isa: Isa, machine: &Machine, pool: &Pool) {
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
                100.0 * speed / machine.bandwidth
            );
        } else {
            print!(" {tokens}: {:4.2}", seconds / one);
        }
    }
    drop(far);
    let far = in_place(format, 5632, 2048, FAR);
    let speed = bytes as f64 / seconds(&far, 1, isa, pool) / 1e9;
    print!(" | in place {speed:5.1} GB/s");
    drop(far);
    print!(" | 512 tokens, GMAC/s:");
    for (rows, cols) in SHAPES {
        let near = matrices(format, rows, cols, 1, pool);
        let speed = (rows * cols * 512) as f64 / seconds(&near, 512, isa, pool) / 1e9;
        print!(" {speed:5.1}");
        if let Some(peak) = machine.peak.filter(|_| isa == Isa::best()) {
            print!(" = {:2.0}%", 100.0 * speed / peak);
        }
    }
    println!();
}

/// As many matrices as take `bytes`.
fn matrices(format: Format, rows: usize, cols: usize, bytes: usize, pool: &Pool) -> Vec<Packed> {
    let size = format.row_bytes(cols).expect("whole blocks") * rows;
    let raw: Vec<u8> = (0..size as u32)
        .map(|i| (i.wrapping_mul(0x9e37_79b9) >> 23) as u8 & 0x3b)
        .collect();
    let count = bytes.div_ceil(size);
    let mut room = Room::of(count * Packed::bytes_of(format, rows, cols).expect("a fitting shape"));
    let mut one = || Packed::pack_into(&mut room, format, rows, cols, &raw, pool).expect("a fitting shape");
    (0..count).map(|_| one()).collect()
}

/// As many matrices as take `bytes`, as they lie in a file.
fn in_place(format: Format, rows: usize, cols: usize, bytes: usize) -> Vec<Packed> {
    let size = format.row_bytes(cols).expect("whole blocks") * rows;
    let one = || {
        let raw: Vec<u8> = (0..size as u32).map(|i| i as u8 & 0x3b).collect();
        Packed::in_place(format, rows, cols, Arc::new(raw)).expect("a fitting shape")
    };
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

/// Reading memory with all threads, in large pages where the system has them and in four places at once: more than
/// one stream keeps more reads under way.
fn bandwidth(pool: &Pool) -> f64 {
    let mut memory = memmap2::MmapMut::map_anon(FAR).expect("memory to read");
    #[cfg(target_os = "linux")]
    let _ = memory.advise(memmap2::Advice::HugePage);
    memory.fill(1);
    let words = memory.as_chunks::<8>().0;
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
                    let word = |of: &[[u8; 8]]| u64::from_ne_bytes(of[j]);
                    *sum ^= word(a) ^ word(b) ^ word(c) ^ word(d);
                }
            }
            black_box(sums);
        });
    });
    FAR as f64 / seconds / 1e9
}

/// Instructions of one round of a chain: as many sums as hide the latency of each.
#[cfg(target_arch = "x86_64")]
const SUMS: usize = 12;

/// 8-bit products a nanosecond where nothing is loaded: `vpdpbusd` in 512 bits, or `vpmaddubsw` and an addition in 256.
#[cfg(target_arch = "x86_64")]
fn peak(pool: &Pool) -> Option<f64> {
    const ROUNDS: usize = 2_000_000;
    let (each, chain): (usize, unsafe fn(usize)) = if Isa::Avx512.available() {
        (64, chain_512)
    } else if Isa::Avx2.available() {
        (32, chain_256)
    } else {
        return None;
    };
    let seconds = median(|| {
        pool.run(pool.threads(), &|_| {
            // SAFETY: the machine has the instruction set, as was asked above.
            unsafe { chain(ROUNDS) };
        });
    });
    Some((ROUNDS * SUMS * each * pool.threads()) as f64 / seconds / 1e9)
}

#[cfg(not(target_arch = "x86_64"))]
fn peak(_: &Pool) -> Option<f64> {
    None
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vnni")]
fn chain_512(rounds: usize) {
    use std::arch::x86_64::*;
    let (a, x) = (black_box(_mm512_set1_epi8(3)), black_box(_mm512_set1_epi8(5)));
    let mut sums = [_mm512_setzero_si512(); SUMS];
    for _ in 0..rounds {
        let mut codes = a;
        // SAFETY: no instruction at all; it hides that the codes are the same in every round.
        unsafe {
            std::arch::asm!("/* {v} */", v = inout(zmm_reg) codes, options(nomem, nostack, preserves_flags))
        };
        for sum in &mut sums {
            *sum = _mm512_dpbusd_epi32(*sum, codes, x);
        }
    }
    black_box(sums);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn chain_256(rounds: usize) {
    use std::arch::x86_64::*;
    let (a, x) = (black_box(_mm256_set1_epi8(3)), black_box(_mm256_set1_epi8(5)));
    let mut sums = [_mm256_setzero_si256(); SUMS];
    for _ in 0..rounds {
        for sum in &mut sums {
            let mut codes = a;
            // SAFETY: no instruction at all; it hides that the products are the same in every round.
            unsafe {
                std::arch::asm!("/* {v} */", v = inout(ymm_reg) codes, options(nomem, nostack, preserves_flags))
            };
            *sum = _mm256_add_epi16(*sum, _mm256_maddubs_epi16(codes, x));
        }
    }
    black_box(sums);
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
