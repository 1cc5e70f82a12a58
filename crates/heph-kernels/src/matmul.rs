//! Matrix products: activations of any number of tokens times packed weights.
//!
//! Every output is one row of weights times one token, summed in the order that `docs/arithmetic.md` lays down, so
//! neither the number of tokens in a call, nor threads, nor vector width can be seen in it. What differs is how
//! often weights are unpacked. A few tokens are multiplied while codes are being unpacked in registers; many
//! tokens, unless that costs nothing here, by a tile's record unpacked once into the first-level cache. Either way weights are read from memory
//! once for all tokens of a chunk.
//!
//! All jobs of a call share its activations and run in one dispatch: the three projections of attention, say.

mod codes;
mod floats;
mod integers;
mod params;
mod scalar;

use crate::activations::Activations;
use crate::format::Format;
use crate::isa::Isa;
use crate::pack::{Packed, TILE};
use crate::pool::Pool;
use crate::simd::{self, Kernel};
use integers::{Blocks, Integers, Superblocks};
use std::ops::Range;

/// So many tokens, and multiples of them, are whole sets of those that registers hold, whatever the instructions are: a set that
/// is not full takes nearly as long as one that is.
pub const EVEN_TOKENS: usize = 12;

/// The most tokens for which a tile is unpacked once: unpacking is then a few parts in a hundred.
const CHUNK: usize = 128;

/// Bytes of activations that a chunk of tokens may take, so that they stay in the second-level cache while all tiles
/// of a task are multiplied by them: a third of the 2 MiB of a server's core, half of what others have.
const CHUNK_BYTES: usize = 640 * 1024;

/// The fewest bytes of weights that one task reads: some microseconds, so that threads finish together, and far more
/// than the cost of taking a task.
const TASK_BYTES: usize = 64 * 1024;

/// Tasks that each thread would get if all were as large as the next one. What is asked for ahead at the end of a task
/// is often read by another thread, so tasks begin large; they end small, so that nobody waits long for the slowest.
const TASKS_LEFT: usize = 2;

/// The most tiles of one task when there are many tokens. For each of them the activations of a chunk come from the
/// second-level cache and only for the first from further away.
const TASK_TILES: usize = 32;

/// What happens to the values already in the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    /// They are replaced.
    Write,
    /// The product is added to them, as `out + product`.
    Add,
}

/// One matrix product of a call.
pub struct Job<'a> {
    /// The weights, of shape (rows, cols).
    pub weights: &'a Packed,
    /// The results, of shape (tokens, rows).
    pub out: &'a mut [f32],
    /// What to do with them.
    pub mode: Store,
}

/// Multiplies the activations `x` by the weights of every job.
///
/// # Panics
/// If a job's shape does not fit `x`, if `x` was not set for its format, or if this machine has no `isa`.
pub fn matmul(jobs: &mut [Job], x: &Activations, isa: Isa, pool: &Pool) {
    let targets: Vec<Target> = jobs.iter_mut().map(|job| Target::of(job, x)).collect();
    let tasks = tasks(&targets, x.tokens(), pool.threads());
    pool.run(tasks.len(), &|task| {
        let (target, tiles) = &tasks[task];
        targets[*target].run(tiles.clone(), x, isa);
    });
}

/// The tiles of all targets in parts worth a task, each with its target.
fn tasks(targets: &[Target], tokens: usize, threads: usize) -> Vec<(usize, Range<usize>)> {
    let most = if tokens > TILE { TASK_TILES } else { usize::MAX };
    let mut left: usize = targets.iter().map(|t| t.weights.bytes()).sum();
    let mut tasks = Vec::new();
    for (target, Target { weights, .. }) in targets.iter().enumerate() {
        let tiles = weights.tiles();
        let tile_bytes = (weights.bytes() / tiles.max(1)).max(1);
        let mut start = 0;
        while start < tiles {
            let bytes = (left / (TASKS_LEFT * threads)).max(TASK_BYTES);
            let end = tiles.min(start + (bytes / tile_bytes).clamp(1, most));
            left -= (end - start) * tile_bytes;
            tasks.push((target, start..end));
            start = end;
        }
    }
    tasks
}

/// A job whose output tasks may share.
struct Target<'a> {
    weights: &'a Packed,
    out: Out,
}

impl<'a> Target<'a> {
    fn of(job: &'a mut Job<'_>, x: &Activations) -> Target<'a> {
        let weights = job.weights;
        assert_eq!(
            weights.cols(),
            x.cols(),
            "columns of {weights:?} and of the activations"
        );
        assert_eq!(
            job.out.len(),
            x.tokens() * weights.rows(),
            "results of {weights:?} for {} tokens",
            x.tokens()
        );
        let out = Out {
            at: job.out.as_mut_ptr(),
            tokens: x.tokens(),
            rows: weights.rows(),
            mode: job.mode,
        };
        Target { weights, out }
    }

    fn run(&self, tiles: Range<usize>, x: &Activations, isa: Isa) {
        let work = Work {
            weights: self.weights,
            tiles,
            x,
            out: &self.out,
        };
        let done = match self.weights.format() {
            Format::F32 => run(isa, floats::Floats::<floats::F32>::new(work)),
            Format::F16 => run(isa, floats::Floats::<floats::F16>::new(work)),
            Format::BF16 => run(isa, floats::Floats::<floats::BF16>::new(work)),
            Format::Q4_0 => run(isa, Integers::<Blocks<params::Q4_0>>::new(work)),
            Format::Q4_1 => run(isa, Integers::<Blocks<params::Q4_1>>::new(work)),
            Format::Q5_0 => run(isa, Integers::<Blocks<params::Q5_0>>::new(work)),
            Format::Q5_1 => run(isa, Integers::<Blocks<params::Q5_1>>::new(work)),
            Format::Q8_0 => run(isa, Integers::<Blocks<params::Q8_0>>::new(work)),
            Format::Iq4Nl => run(isa, Integers::<Blocks<params::Iq4Nl>>::new(work)),
            Format::Mxfp4 => run(isa, Integers::<Blocks<params::Mxfp4>>::new(work)),
            Format::Q2K => run(isa, Integers::<Superblocks<params::Q2K>>::new(work)),
            Format::Q3K => run(isa, Integers::<Superblocks<params::Q3K>>::new(work)),
            Format::Q4K => run(isa, Integers::<Superblocks<params::Q4K>>::new(work)),
            Format::Q5K => run(isa, Integers::<Superblocks<params::Q5K>>::new(work)),
            Format::Q6K => run(isa, Integers::<Superblocks<params::Q6K>>::new(work)),
        };
        if let Err(work) = done {
            scalar::run(&work);
        }
    }
}

/// Runs a kernel, or gives its work back where this build has no vectors for `isa`.
fn run<'a, K: Kernel + Into<Work<'a>>>(isa: Isa, kernel: K) -> Result<(), Work<'a>> {
    simd::run(isa, kernel).map_err(Into::into)
}

/// Some tiles of one matrix, to be multiplied by every token.
#[derive(Clone)]
struct Work<'a> {
    weights: &'a Packed,
    tiles: Range<usize>,
    x: &'a Activations,
    out: &'a Out,
}

/// The output of a job, shared by tasks that write different rows.
struct Out {
    at: *mut f32, // (tokens, rows)
    tokens: usize,
    rows: usize,
    mode: Store,
}

// SAFETY: a row of weights belongs to one task, and a task writes only the results of its rows.
unsafe impl Sync for Out {}

impl Out {
    /// Stores what the rows of `tile` made of `token`.
    #[inline(always)]
    fn store(&self, tile: usize, token: usize, sums: &[f32; TILE]) {
        assert!(token < self.tokens);
        let first = TILE * tile;
        let rows = TILE.min(self.rows - first);
        // SAFETY: token and row are within the output, and no other task has these rows.
        let out = unsafe { std::slice::from_raw_parts_mut(self.at.add(token * self.rows + first), rows) };
        match self.mode {
            Store::Write => out.copy_from_slice(&sums[..rows]),
            Store::Add => {
                for (out, sum) in out.iter_mut().zip(sums) {
                    *out += sum;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
