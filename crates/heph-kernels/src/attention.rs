//! Attention over a paged cache: scores, softmax and the mix of values in one pass over keys and values.
//!
//! One call serves many sequences. Each page of a key-value head is read once for all query heads of its
//! group and all tokens of a task; the running softmax is that of Milakov and Gimelshein, "Online
//! normalizer calculation for softmax" (2018), page by page in order, whatever the tiling.

mod lanes;
mod tile;
mod widen;

use std::cell::RefCell;
use std::ops::Range;

use crate::attention::lanes::Lanes;
use crate::attention::tile::{Ahead, ROWS, highest, mix_rows, score_rows};
use crate::attention::widen::{widen_keys, widen_values};
use crate::isa::Isa;
use crate::kv::{KvPage, Lines, PAGE};
use crate::math::{exp, tanh};
use crate::pool::{Parts, Pool};

/// Which way a token looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sight {
    /// At its own position and those before it, as a model that writes does.
    Back,
    /// At every position of its sequence, as a model that only reads does. Has no window.
    Around,
}

/// What all tokens of a layer have in common.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionShape {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Numbers of one head.
    pub head_dim: usize,
    /// Factor on each query, usually `1 / sqrt(head_dim)`.
    pub scale: f32,
    /// How many positions a token sees, its own included; `None` for all before it.
    pub window: Option<u32>,
    /// Bound `c` of the soft cap `c * tanh(score / c)`; `None` leaves scores alone.
    pub softcap: Option<f32>,
    /// Which way a token looks.
    pub sight: Sight,
}

impl AttentionShape {
    /// Query heads that share a key-value head.
    fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// The positions that a token at `position` of a sequence of `len` sees.
    fn visible(&self, position: usize, len: usize) -> Range<usize> {
        let end = match self.sight {
            Sight::Back => position + 1,
            Sight::Around => len,
        };
        let start = self
            .window
            .map_or(0, |window| end.saturating_sub(window as usize));
        start..end
    }
}

/// The tokens of one sequence that are computed now.
#[derive(Debug)]
pub struct AttentionJob<'a> {
    /// Queries, `(tokens, heads, head_dim)`.
    pub q: &'a [f32],
    /// How many tokens.
    pub tokens: usize,
    /// The position of the first of them.
    pub first: usize,
    /// The pages of the sequence from position 0 on; keys and values of these tokens are written already.
    pub pages: &'a [&'a KvPage],
    /// Where the result goes, `(tokens, heads, head_dim)`.
    pub out: &'a mut [f32],
}

/// Computes attention for all jobs in one parallel dispatch.
///
/// Positions of a page that no token sees are never part of a result, whatever they hold.
///
/// # Panics
/// When lengths do not fit the shape, pages are missing or of another shape, a window is 0 or looks around, or
/// `isa` is not available.
pub fn attention(jobs: &mut [AttentionJob<'_>], shape: &AttentionShape, isa: Isa, pool: &Pool) {
    assert!(isa.available(), "this machine has no {isa}");
    jobs.iter().for_each(|job| check(job, shape));
    let tasks = split(jobs, shape, pool.threads());
    let sequences: Vec<Sequence<'_>> = jobs.iter_mut().map(Sequence::of).collect();
    pool.run(tasks.len(), &|index| {
        let task = &tasks[index];
        ROOM.with_borrow_mut(|room| compute(isa, task, &sequences[task.job], shape, room));
    });
}

fn check(job: &AttentionJob<'_>, shape: &AttentionShape) {
    let AttentionShape {
        heads,
        kv_heads,
        head_dim,
        ..
    } = *shape;
    assert!(
        kv_heads > 0 && head_dim > 0 && heads.is_multiple_of(kv_heads),
        "{heads} heads over {kv_heads}"
    );
    assert!(shape.window != Some(0), "a token sees at least itself");
    assert!(
        shape.sight == Sight::Back || shape.window.is_none(),
        "a window looks back"
    );
    assert_eq!(
        (job.q.len(), job.out.len()),
        (job.tokens * heads * head_dim, job.tokens * heads * head_dim)
    );
    assert!(
        job.first + job.tokens <= job.pages.len() * PAGE,
        "pages behind {} are missing",
        job.pages.len()
    );
    for page in job.pages {
        assert_eq!(
            (page.shape().kv_heads, page.shape().head_dim),
            (kv_heads, head_dim),
            "shape of a page"
        );
    }
}

/// Query rows for which a task reads a page once: enough that widening it costs little, few enough for the
/// second-level cache.
const TASK_ROWS: usize = 128;

/// A part of a job that one thread computes: some query heads of one group, for some tokens.
struct Task {
    job: usize,
    kv_head: usize,
    heads: Range<usize>,
    tokens: Range<usize>,
}

/// Cuts jobs into tasks, long ones first.
///
/// Tokens are cut so that each thread gets several tasks. A group of heads is cut only if threads would
/// be idle otherwise, since each part reads the whole cache of its group.
fn split(jobs: &[AttentionJob<'_>], shape: &AttentionShape, threads: usize) -> Vec<Task> {
    let group = shape.group();
    let rows: usize = jobs.iter().map(|job| job.tokens * shape.heads).sum();
    let tokens_each = (rows / (4 * threads)).min(TASK_ROWS).div_ceil(group).max(1);
    let cuts: usize = jobs
        .iter()
        .map(|job| job.tokens.div_ceil(tokens_each) * shape.kv_heads)
        .sum();
    let heads_each = group.div_ceil(threads.div_ceil(cuts.max(1)));
    let mut tasks = Vec::with_capacity(cuts);
    for (index, job) in jobs.iter().enumerate() {
        for start in (0..job.tokens).step_by(tokens_each) {
            let tokens = start..job.tokens.min(start + tokens_each);
            for kv_head in 0..shape.kv_heads {
                for head in (0..group).step_by(heads_each) {
                    let heads = head..group.min(head + heads_each);
                    tasks.push(Task {
                        job: index,
                        kv_head,
                        heads,
                        tokens: tokens.clone(),
                    });
                }
            }
        }
    }
    tasks.sort_by_key(|task| std::cmp::Reverse(jobs[task.job].first + task.tokens.end));
    tasks
}

/// A job whose output may be written by several tasks.
struct Sequence<'a> {
    q: &'a [f32],
    first: usize,
    /// Positions of the sequence, those before `first` counted.
    len: usize,
    pages: &'a [&'a KvPage],
    out: Parts<'a, f32>,
}

impl<'a> Sequence<'a> {
    fn of(job: &'a mut AttentionJob<'_>) -> Sequence<'a> {
        Sequence {
            q: job.q,
            first: job.first,
            len: job.first + job.tokens,
            pages: job.pages,
            out: Parts::of(job.out),
        }
    }
}

thread_local! {
    /// Kept between calls, since a task lasts some microseconds. Bounded by the widest model times
    /// `TASK_ROWS`; nothing in it outlives a task.
    static ROOM: RefCell<Room> = RefCell::new(Room::default());
}

/// What a task computes with.
#[derive(Default)]
struct Room {
    /// One head of a page as `f32`.
    wide: Lines<f32>,
    /// Scaled queries, `(tiles, head_dim, ROWS)`.
    queries: Lines<f32>,
    /// Scores and then weights of the page at hand, `(rows, PAGE)`.
    weights: Lines<f32>,
    /// Mixed values, `(rows, stride)`.
    mixed: Lines<f32>,
    /// The largest score of each row so far.
    max: Vec<f32>,
    /// The sum of the weights of each row so far.
    total: Vec<f32>,
    /// The factor by which the page at hand scales what each row has so far.
    rescale: Vec<f32>,
    /// What each row sees of the page at hand.
    visible: Vec<(usize, usize)>,
}

impl Room {
    /// Makes room for `rows` rows that have seen nothing.
    fn prepare(&mut self, rows: usize, head_dim: usize, stride: usize) {
        self.wide.at_least(PAGE * stride);
        self.queries.at_least(rows.next_multiple_of(ROWS) * head_dim);
        self.weights.at_least(rows * PAGE);
        self.mixed.at_least(rows * stride);
        self.mixed[..rows * stride].fill(0.0);
        for (list, value) in [
            (&mut self.max, f32::NEG_INFINITY),
            (&mut self.total, 0.0),
            (&mut self.rescale, 1.0),
        ] {
            list.clear();
            list.resize(rows, value);
        }
        self.visible.resize(rows, (0, 0));
    }
}

/// [`compute_rows`] for an instruction set that the caller has checked to be there.
fn compute(isa: Isa, task: &Task, sequence: &Sequence<'_>, shape: &AttentionShape, room: &mut Room) {
    match isa {
        // SAFETY: the machine has it, as `attention` asserts.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 | Isa::Avx2Vnni => unsafe { compute_avx2(task, sequence, shape, room) },
        // SAFETY: the machine has it, as `attention` asserts.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { compute_avx512(task, sequence, shape, room) },
        // SAFETY: the machine has it, as `attention` asserts.
        #[cfg(target_arch = "aarch64")]
        Isa::Neon | Isa::NeonDot => unsafe { compute_rows::<lanes::arm::Neon>(task, sequence, shape, room) },
        // SAFETY: the module was built for it.
        #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
        Isa::WasmSimd => unsafe { compute_rows::<lanes::wasm::Simd128>(task, sequence, shape, room) },
        // SAFETY: plain code needs nothing.
        _ => unsafe { compute_rows::<lanes::Plain>(task, sequence, shape, room) },
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,f16c")]
fn compute_avx2(task: &Task, sequence: &Sequence<'_>, shape: &AttentionShape, room: &mut Room) {
    // SAFETY: this function may only be entered on a machine with AVX2 and F16C.
    unsafe { compute_rows::<lanes::x86::Avx2>(task, sequence, shape, room) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,f16c,avx512f,avx512bw,avx512vl")]
fn compute_avx512(task: &Task, sequence: &Sequence<'_>, shape: &AttentionShape, room: &mut Room) {
    // SAFETY: this function may only be entered on a machine with AVX-512.
    unsafe { compute_rows::<lanes::x86::Avx512>(task, sequence, shape, room) }
}

/// Computes the rows of a task, page by page. Row `i` is head `i % heads` of token `i / heads` of the task.
///
/// # Safety
/// The machine has the instruction set of `S`.
#[inline(always)]
unsafe fn compute_rows<S: Lanes>(
    task: &Task,
    sequence: &Sequence<'_>,
    shape: &AttentionShape,
    room: &mut Room,
) {
    let head_dim = shape.head_dim;
    let Some(stride) = sequence.pages.first().map(|page| page.shape().stride()) else {
        return;
    };
    let heads = task.heads.len();
    let rows = task.tokens.len() * heads;
    room.prepare(rows, head_dim, stride);
    load_queries(task, sequence, shape, &mut room.queries);
    let position = |row: usize| sequence.first + task.tokens.start + row / heads;
    let visible = |row: usize| shape.visible(position(row), sequence.len);
    let seen = visible(0).start..visible(rows - 1).end;
    let mut pages = (seen.start / PAGE..seen.end.div_ceil(PAGE)).peekable();
    while let Some(index) = pages.next() {
        let page = sequence.pages[index];
        let span = in_page(&seen, index);
        for (row, range) in room.visible.iter_mut().enumerate() {
            *range = in_page(&visible(row), index);
        }
        // SAFETY: the machine has the instruction set (contract); `room` was prepared for these rows.
        unsafe {
            let keys = widen_keys::<S>(page.keys(task.kv_head), head_dim, span, &mut room.wide);
            let mut ahead = Ahead::of::<S>(Some(page.values(task.kv_head)), rows, PAGE, head_dim);
            for row in (0..rows).step_by(ROWS) {
                let count = ROWS.min(rows - row);
                let queries = room.queries[row * head_dim..].as_ptr();
                let weights = room.weights[row * PAGE..][..count * PAGE].as_mut_ptr();
                let (first, last) = (room.visible[row], room.visible[row + count - 1]);
                let span = (first.0.min(span.1), last.1.max(span.0));
                score_rows::<S>(count, queries, keys.as_ptr(), head_dim, span, weights, &mut ahead);
            }
        }
        // SAFETY: the machine has the instruction set (contract).
        unsafe { weigh::<S>(rows, shape.softcap, room) };
        // SAFETY: the machine has the instruction set (contract); `room` was prepared for these rows.
        unsafe {
            let values = widen_values::<S>(page.values(task.kv_head), stride, span, &mut room.wide);
            let next = pages
                .peek()
                .map(|&index| sequence.pages[index].keys(task.kv_head));
            let mut ahead = Ahead::of::<S>(next, rows, stride, PAGE);
            for row in (0..rows).step_by(ROWS) {
                let count = ROWS.min(rows - row);
                let out = room.mixed[row * stride..][..count * stride].as_mut_ptr();
                let weights = room.weights[row * PAGE..][..count * PAGE].as_ptr();
                let scales = room.rescale[row..][..count].as_mut_ptr();
                let visible = &room.visible[row..][..count];
                mix_tile::<S>(visible, scales, weights, values.as_ptr(), stride, out, &mut ahead);
            }
        }
    }
    store(task, sequence, shape, stride, room);
}

/// The part of `positions` that lies in page `index`, counted from its start; empty where there is none.
#[inline(always)]
fn in_page(positions: &Range<usize>, index: usize) -> (usize, usize) {
    let start = index * PAGE;
    let from = positions.start.saturating_sub(start).min(PAGE);
    (from, positions.end.saturating_sub(start).min(PAGE).max(from))
}

/// Queries times the scale, transposed by tiles: `(tiles, head_dim, ROWS)`.
#[inline(always)]
fn load_queries(task: &Task, sequence: &Sequence<'_>, shape: &AttentionShape, queries: &mut [f32]) {
    let head_dim = shape.head_dim;
    for (row, at) in row_places(task, shape).enumerate() {
        let tile = &mut queries[row / ROWS * ROWS * head_dim..][..ROWS * head_dim];
        for (place, &q) in tile[row % ROWS..]
            .iter_mut()
            .step_by(ROWS)
            .zip(&sequence.q[at..][..head_dim])
        {
            *place = q * shape.scale;
        }
    }
}

/// Where the rows of a task stand in queries and output.
#[inline(always)]
fn row_places(task: &Task, shape: &AttentionShape) -> impl Iterator<Item = usize> {
    let (heads, head_dim) = (shape.heads, shape.head_dim);
    let first = task.kv_head * shape.group();
    let each = task.heads.clone();
    task.tokens
        .clone()
        .flat_map(move |t| each.clone().map(move |h| (t * heads + first + h) * head_dim))
}

/// Turns the scores of a page into weights and carries maximum and sum of each row on.
///
/// Nothing changes for a row that sees nothing of the page.
///
/// # Safety
/// The machine has the instruction set of `S`.
#[inline(always)]
unsafe fn weigh<S: Lanes>(rows: usize, softcap: Option<f32>, room: &mut Room) {
    let weights = &mut room.weights.as_chunks_mut::<PAGE>().0[..rows];
    for (row, scores) in weights.iter_mut().enumerate() {
        if let Some(cap) = softcap {
            for s in scores.iter_mut() {
                *s = cap * tanh(*s / cap);
            }
        }
        let (from, to) = room.visible[row];
        // An invisible score becomes negative infinity, and its weight therefore 0.
        scores[..from].fill(f32::NEG_INFINITY);
        scores[to..].fill(f32::NEG_INFINITY);
        // SAFETY: the machine has the instruction set (contract).
        let highest = unsafe { highest::<S>(scores) };
        let max = room.max[row];
        let next = if highest > max { highest } else { max };
        room.rescale[row] = max - next;
        room.max[row] = next;
    }
    for change in &mut room.rescale[..rows] {
        *change = exp(*change);
    }
    for (row, weights) in weights.iter_mut().enumerate() {
        let (from, to) = room.visible[row];
        if from == to {
            room.rescale[row] = 1.0;
            continue;
        }
        // SAFETY: the machine has the instruction set (contract).
        let sum = unsafe { tile::weigh::<S>(weights, room.max[row]) };
        room.total[row] = room.total[row] * room.rescale[row] + sum;
    }
}

/// Mixes the values of a page into the rows of a tile, each row over the positions it sees, in order.
///
/// # Safety
/// As [`mix_rows`]; `scales` may be written.
#[inline(always)]
unsafe fn mix_tile<S: Lanes>(
    visible: &[(usize, usize)],
    scales: *mut f32,
    weights: *const f32,
    values: *const f32,
    stride: usize,
    out: *mut f32,
    ahead: &mut Ahead,
) {
    let rows = visible.len();
    let from = visible.iter().fold(0, |from, row| from.max(row.0));
    let to = visible.iter().fold(PAGE, |to, row| to.min(row.1));
    let to = to.max(from);
    // SAFETY: single rows of the tile, and the tile, are inside the arrays that the caller promises.
    unsafe {
        // What all rows see is mixed at once. What stands before and behind it at the edge of the mask, row by row.
        for (row, &(start, end)) in visible.iter().enumerate() {
            if start < from && start < end {
                let (scale, weights, out) = (scales.add(row), weights.add(row * PAGE), out.add(row * stride));
                mix_rows::<S>(
                    1,
                    scale,
                    weights,
                    values,
                    stride,
                    (start, end.min(from)),
                    out,
                    ahead,
                );
                *scale = 1.0;
            }
        }
        mix_rows::<S>(rows, scales, weights, values, stride, (from, to), out, ahead);
        for (row, &(start, end)) in visible.iter().enumerate() {
            if to < end {
                let (weights, out) = (weights.add(row * PAGE), out.add(row * stride));
                mix_rows::<S>(1, &1.0, weights, values, stride, (start.max(to), end), out, ahead);
            }
        }
    }
}

/// Divides what was mixed by the sum of the weights.
#[inline(always)]
fn store(task: &Task, sequence: &Sequence<'_>, shape: &AttentionShape, stride: usize, room: &Room) {
    for (row, at) in row_places(task, shape).enumerate() {
        // SAFETY: no other task has this token and head.
        let out = unsafe { sequence.out.range(at, at + shape.head_dim) };
        let total = room.total[row];
        for (out, &mixed) in out.iter_mut().zip(&room.mixed[row * stride..]) {
            *out = mixed / total;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elementwise::tree;
    use crate::kv::{KvFormat, KvShape};
    use crate::proof::{CASES, Draws, differ, same_bits};

    /// A sequence with queries for all of its tokens.
    struct Case {
        shape: AttentionShape,
        tokens: usize,
        q: Vec<f32>,
        pages: Vec<KvPage>,
    }

    impl Case {
        /// Random tokens; what lies behind the last position is NaN, as a rolled back sequence may leave it.
        fn draw(draws: &mut Draws, shape: AttentionShape, format: KvFormat, tokens: usize) -> Case {
            let AttentionShape {
                heads,
                kv_heads,
                head_dim,
                ..
            } = shape;
            let kv = KvShape {
                kv_heads,
                head_dim,
                format,
            };
            let mut pages = vec![KvPage::new(kv); tokens.div_ceil(PAGE)];
            for position in 0..pages.len() * PAGE {
                let (mut k, mut v) = (
                    draws.floats(kv_heads * head_dim),
                    draws.floats(kv_heads * head_dim),
                );
                if position >= tokens {
                    k.fill(f32::NAN);
                    v.fill(f32::NAN);
                }
                pages[position / PAGE].write(position % PAGE, &k, &v);
            }
            Case {
                shape,
                tokens,
                q: draws.floats(tokens * heads * head_dim),
                pages,
            }
        }

        /// As `draw`, with ordinary numbers only.
        fn plain(draws: &mut Draws, shape: AttentionShape, tokens: usize) -> Case {
            let mut case = Case::draw(draws, shape, KvFormat::F32, tokens);
            let width = shape.kv_heads * shape.head_dim;
            for page in &mut case.pages {
                (0..PAGE).for_each(|p| page.write(p, &draws.plains(width), &draws.plains(width)));
            }
            case.q = draws.plains(case.q.len());
            case
        }

        fn width(&self) -> usize {
            self.shape.heads * self.shape.head_dim
        }

        /// The tokens `range`, computed in one call.
        fn run(&self, range: Range<usize>, isa: Isa, pool: &Pool) -> Vec<f32> {
            let pages: Vec<&KvPage> = self.pages.iter().collect();
            let mut out = vec![0.0; range.len() * self.width()];
            let q = &self.q[range.start * self.width()..range.end * self.width()];
            let job = AttentionJob {
                q,
                tokens: range.len(),
                first: range.start,
                pages: &pages,
                out: &mut out,
            };
            attention(&mut [job], &self.shape, isa, pool);
            out
        }

        /// The tokens `range` by the letter of the law: one row, one position, one number after another.
        fn law(&self, range: Range<usize>) -> Vec<f32> {
            let rows = range.flat_map(|token| (0..self.shape.heads).map(move |head| (token, head)));
            rows.flat_map(|(token, head)| self.law_of_row(token, head, tree))
                .collect()
        }

        #[expect(clippy::needless_range_loop, reason = "a position indexes the page as well")]
        fn law_of_row(&self, token: usize, head: usize, sum: fn([f32; 16]) -> f32) -> Vec<f32> {
            let AttentionShape {
                head_dim,
                scale,
                softcap,
                ..
            } = self.shape;
            let kv_head = head / self.shape.group();
            let q = &self.q[token * self.width() + head * head_dim..][..head_dim];
            let visible = self.shape.visible(token, self.tokens);
            let (mut max, mut total, mut out) = (f32::NEG_INFINITY, 0.0, vec![0.0; head_dim]);
            let mut number = vec![0.0; head_dim];
            for (index, page) in self.pages.iter().enumerate() {
                let (from, to) = in_page(&visible, index);
                let mut scores = [f32::NEG_INFINITY; PAGE];
                for position in from..to {
                    page.read_k(position, kv_head, &mut number);
                    let score = q
                        .iter()
                        .zip(&number)
                        .fold(0.0, |sum, (q, k)| sum + (q * scale) * k);
                    scores[position] = softcap.map_or(score, |cap| cap * tanh(score / cap));
                }
                if from == to {
                    continue;
                }
                let next = scores.iter().fold(max, |max, &s| if s > max { s } else { max });
                let rescale = exp(max - next);
                let weights = scores.map(|s| exp(s - next));
                let mut lanes = [0.0; 16];
                (from..to).for_each(|position| lanes[position % 16] += weights[position]);
                total = total * rescale + sum(lanes);
                max = next;
                out.iter_mut().for_each(|o| *o *= rescale);
                for position in from..to {
                    page.read_v(position, kv_head, &mut number);
                    out.iter_mut()
                        .zip(&number)
                        .for_each(|(o, v)| *o += weights[position] * v);
                }
            }
            out.iter().map(|o| o / total).collect()
        }
    }

    /// Small, so that there can be many cases: one head to three, and short rows.
    fn draw_small_shape(draws: &mut Draws) -> AttentionShape {
        let kv_heads = 1 + draws.below(2);
        let head_dim = [1 + draws.below(20), 8, 16, 24][draws.below(4)];
        AttentionShape {
            heads: kv_heads * (1 + draws.below(3)),
            kv_heads,
            head_dim,
            scale: 1.0 / (head_dim as f32).sqrt(),
            window: [None, Some(1 + draws.below(30) as u32)][draws.below(2)],
            softcap: [None, None, None, Some(20.0)][draws.below(4)],
            sight: Sight::Back,
        }
    }

    fn draw_shape(draws: &mut Draws) -> AttentionShape {
        let kv_heads = 1 + draws.below(2);
        let head_dim = [1 + draws.below(48), 8, 16, 24, 32, 40, 64, 80][draws.below(8)];
        AttentionShape {
            heads: kv_heads * (1 + draws.below(9)),
            kv_heads,
            head_dim,
            scale: 1.0 / (head_dim as f32).sqrt(),
            window: [None, Some(1 + draws.below(100) as u32)][draws.below(2)],
            softcap: [None, None, Some(20.0)][draws.below(3)],
            sight: Sight::Back,
        }
    }

    #[test]
    fn every_instruction_set_follows_the_law() {
        let mut draws = Draws::new(41);
        let pools = [Pool::new(1), Pool::new(3)];
        for case in 0..CASES {
            let (shape, longest, most) = match case % 50 {
                0 => (draw_shape(&mut draws), [3, 70, 200][draws.below(3)], 9),
                _ => (
                    draw_small_shape(&mut draws),
                    [3, 12, 66][usize::from(case % 10 == 1) + draws.below(2)],
                    3,
                ),
            };
            let tokens = 1 + draws.below(longest);
            let format = KvFormat::ALL[draws.below(3)];
            let case = Case::draw(&mut draws, shape, format, tokens);
            let first = tokens - (1 + draws.below(most)).min(tokens);
            let want = case.law(first..tokens);
            for isa in Isa::all_available() {
                let pool = &pools[usize::from(draws.below(8) == 0)];
                same_bits(&want, &case.run(first..tokens, isa, pool), isa);
            }
        }
    }

    #[test]
    fn looking_around_follows_the_law_and_sees_what_comes_after() {
        let mut draws = Draws::new(46);
        let pools = [Pool::new(1), Pool::new(3)];
        let mut rows = 0;
        while rows < CASES {
            let shape = AttentionShape {
                window: None,
                sight: Sight::Around,
                ..draw_shape(&mut draws)
            };
            let tokens = 1 + draws.below(130);
            let case = Case::draw(&mut draws, shape, KvFormat::F32, tokens);
            let checked = tokens - (1 + draws.below(9)).min(tokens);
            let at = case.width() * checked;
            let want = case.law(checked..tokens);
            for isa in Isa::all_available() {
                let got = case.run(0..tokens, isa, &pools[draws.below(2)]);
                same_bits(&want, &got[at..], isa);
            }
            rows += (tokens - checked) * shape.heads;
        }
        let shape = AttentionShape {
            window: None,
            softcap: None,
            sight: Sight::Around,
            ..draw_shape(&mut draws)
        };
        let mut case = Case::plain(&mut draws, shape, 90);
        let before = case.run(0..90, Isa::best(), &pools[0]);
        let width = shape.kv_heads * shape.head_dim;
        case.pages[1].write(25, &draws.plains(width), &draws.plains(width));
        let after = case.run(0..90, Isa::best(), &pools[0]);
        // The planted mistake would be a mask: the first row must see the last position.
        assert!(differ(&before[..case.width()], &after[..case.width()]));
    }

    #[test]
    fn a_sum_in_another_order_is_noticed() {
        let mut draws = Draws::new(42);
        let noticed = (0..30).filter(|_| {
            let shape = AttentionShape {
                window: None,
                softcap: None,
                ..draw_shape(&mut draws)
            };
            let case = Case::plain(&mut draws, shape, 64);
            let want = case.run(63..64, Isa::best(), &Pool::serial());
            // The planted mistake: lanes are added from left to right instead of by the tree.
            let planted = |lanes: [f32; 16]| lanes.iter().fold(0.0, |sum, lane| sum + lane);
            let got: Vec<f32> = (0..shape.heads)
                .flat_map(|head| case.law_of_row(63, head, planted))
                .collect();
            differ(&want, &got)
        });
        assert!(noticed.count() > 10);
    }

    #[test]
    fn prompts_in_chunks_give_the_bits_of_single_tokens() {
        let mut draws = Draws::new(43);
        let pool = Pool::new(2);
        for format in KvFormat::ALL {
            for window in [None, Some(50)] {
                for (heads, kv_heads) in [(8, 1), (4, 4), (7, 1), (6, 2)] {
                    let shape = AttentionShape {
                        heads,
                        kv_heads,
                        head_dim: 32,
                        scale: 0.2,
                        window,
                        softcap: None,
                        sight: Sight::Back,
                    };
                    let case = Case::draw(&mut draws, shape, format, 150);
                    let single: Vec<f32> = (0..150)
                        .flat_map(|t| case.run(t..t + 1, Isa::best(), &pool))
                        .collect();
                    for chunk in [7, 32, 64, 150] {
                        let starts = (0..150).step_by(chunk);
                        let chunks = starts.map(|t| case.run(t..150.min(t + chunk), Isa::best(), &pool));
                        same_bits(&single, &chunks.collect::<Vec<_>>().concat(), Isa::best());
                    }
                }
            }
        }
    }

    #[test]
    fn a_batch_gives_the_bits_of_each_sequence_alone() {
        let mut draws = Draws::new(44);
        let pool = Pool::new(3);
        let shape = AttentionShape {
            heads: 6,
            kv_heads: 2,
            head_dim: 24,
            scale: 0.2,
            window: None,
            softcap: None,
            sight: Sight::Back,
        };
        let cases: Vec<Case> = [1, 64, 65, 130, 17]
            .map(|tokens| Case::draw(&mut draws, shape, KvFormat::F16, tokens))
            .into_iter()
            .collect();
        let pages: Vec<Vec<&KvPage>> = cases.iter().map(|case| case.pages.iter().collect()).collect();
        let firsts = [0, 63, 60, 0, 16];
        let mut outs: Vec<Vec<f32>> = cases
            .iter()
            .zip(firsts)
            .map(|(case, first)| vec![0.0; (case.tokens - first) * case.width()])
            .collect();
        let mut jobs: Vec<AttentionJob<'_>> = Vec::new();
        for (((case, first), pages), out) in cases.iter().zip(firsts).zip(&pages).zip(&mut outs) {
            let q = &case.q[first * case.width()..];
            jobs.push(AttentionJob {
                q,
                tokens: case.tokens - first,
                first,
                pages,
                out,
            });
        }
        attention(&mut jobs, &shape, Isa::best(), &pool);
        for ((case, first), out) in cases.iter().zip(firsts).zip(&outs) {
            same_bits(
                &case.run(first..case.tokens, Isa::best(), &pool),
                out,
                Isa::best(),
            );
        }
    }

    #[test]
    fn the_result_is_attention() {
        let mut draws = Draws::new(45);
        let shape = AttentionShape {
            heads: 4,
            kv_heads: 2,
            head_dim: 16,
            scale: 0.25,
            window: Some(70),
            softcap: None,
            sight: Sight::Back,
        };
        let case = Case::plain(&mut draws, shape, 100);
        let got = case.run(99..100, Isa::best(), &Pool::serial());
        for head in 0..4 {
            let q = &case.q[99 * 64 + head * 16..][..16];
            let mut number = [0.0; 16];
            let (mut total, mut mixed) = (0.0, [0.0; 16]);
            for position in 30..100 {
                case.pages[position / PAGE].read_k(position % PAGE, head / 2, &mut number);
                let score: f64 = q
                    .iter()
                    .zip(&number)
                    .map(|(q, k)| f64::from(*q) * f64::from(*k))
                    .sum();
                let weight = (score * 0.25).exp();
                case.pages[position / PAGE].read_v(position % PAGE, head / 2, &mut number);
                total += weight;
                mixed
                    .iter_mut()
                    .zip(&number)
                    .for_each(|(m, v)| *m += weight * f64::from(*v));
            }
            for (got, mixed) in got[head * 16..].iter().zip(mixed) {
                assert!((f64::from(*got) - mixed / total).abs() < 1e-5);
            }
        }
    }

    #[test]
    #[should_panic(expected = "missing")]
    fn a_missing_page_is_refused() {
        let shape = AttentionShape {
            heads: 1,
            kv_heads: 1,
            head_dim: 4,
            scale: 1.0,
            window: None,
            softcap: None,
            sight: Sight::Back,
        };
        let mut out = [0.0; 4];
        let job = AttentionJob {
            q: &[0.0; 4],
            tokens: 1,
            first: 0,
            pages: &[],
            out: &mut out,
        };
        attention(&mut [job], &shape, Isa::Scalar, &Pool::serial());
    }
}
