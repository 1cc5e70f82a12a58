//! How fast this machine reads memory: the ceiling of every decode figure.

use std::hint::black_box;
use std::sync::Barrier;
use std::time::Instant;

/// What is read per thread and pass: far beyond any cache.
const BYTES_PER_THREAD: usize = 512 << 20;

/// Passes over the memory; each gives one figure.
const PASSES: usize = 7;

/// One JSON line with the bytes per second of each pass of `threads` threads reading at once.
pub fn probe(threads: usize) -> String {
    let threads = threads.max(1);
    let barrier = Barrier::new(threads);
    let passes: Vec<Vec<f64>> = std::thread::scope(|scope| {
        let readers: Vec<_> = (0..threads)
            .map(|_| scope.spawn(|| passes_of_one_thread(&barrier)))
            .collect();
        readers
            .into_iter()
            .map(|reader| reader.join().expect("a reader does not panic"))
            .collect()
    });
    let slowest = |pass: usize| passes.iter().map(|seconds| seconds[pass]).fold(0.0, f64::max);
    let rates: Vec<String> = (0..PASSES)
        .map(|pass| format!("{:.0}", (BYTES_PER_THREAD * threads) as f64 / slowest(pass)))
        .collect();
    format!("{{\"threads\":{threads},\"bytes_per_s\":[{}]}}", rates.join(","))
}

/// Seconds of each pass; the passes of all threads start together.
fn passes_of_one_thread(barrier: &Barrier) -> Vec<f64> {
    let memory = large_pages();
    // SAFETY: the mapping is aligned for any number, and its bytes were all written.
    let (_, words, _) = unsafe { memory.align_to::<u64>() };
    (0..PASSES)
        .map(|_| {
            barrier.wait();
            let start = Instant::now();
            black_box(sum(black_box(words)));
            start.elapsed().as_secs_f64()
        })
        .collect()
}

/// Written memory in large pages where the system has them: in small ones a machine reads a fifth slower, and a
/// program that is measured against the memory's speed should not be flattered.
fn large_pages() -> memmap2::MmapMut {
    let mut memory = memmap2::MmapMut::map_anon(BYTES_PER_THREAD).expect("memory to read");
    #[cfg(target_os = "linux")]
    let _ = memory.advise(memmap2::Advice::HugePage);
    memory.fill(1);
    memory
}

/// One plain sum, which the compiler spreads over several vectors of its own. Sums spread by hand became gathers on
/// AVX-512, at a sixth of the speed.
fn sum(memory: &[u64]) -> u64 {
    memory.iter().fold(0, |sum, word| sum.wrapping_add(*word))
}
