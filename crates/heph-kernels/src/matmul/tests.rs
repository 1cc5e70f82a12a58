//! Every path against the reference, bit by bit.

use super::*;
use crate::format::dequantize_row;
use crate::pack::Room;
use crate::proof::CASES;
use std::sync::Arc;

/// Tokens of a call for each path: matrix-vector, unpacked in registers, small batch, many; and the products of each
/// among [`CASES`], fewer where one has many values.
const PATHS: [(Range<usize>, usize); 4] = [
    (1..2, CASES * 45 / 100),
    (2..5, CASES * 30 / 100),
    (5..17, CASES * 22 / 100),
    (17..CHUNK + 9, CASES * 3 / 100),
];

/// SplitMix64 (Steele, Lea and Flood 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn within(&mut self, range: Range<usize>) -> usize {
        range.start + self.below(range.len())
    }

    /// Between -1 and 1.
    fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }
}

/// One product in file form.
struct Case {
    format: Format,
    rows: usize,
    cols: usize,
    raw: Vec<u8>,
    x: Vec<f32>, // (tokens, cols)
    mode: Store,
}

impl Case {
    fn random(format: Format, tokens: usize, random: &mut Random) -> Case {
        // Most are small, so that there can be many; every sixteenth has several tiles and more columns than a chunk.
        let large = random.below(16) == 0;
        let (rows, blocks) = if large {
            (40, [300, 18, 5])
        } else {
            (20, [70, 4, 3])
        };
        let rows = random.within(1..rows);
        let cols = match format.block_len() {
            1 => random.within(1..blocks[0]),
            32 => 32 * random.within(1..blocks[1]),
            _ => 256 * random.within(1..blocks[2]),
        };
        let raw = weights(format, rows, cols, random);
        let x = (0..tokens).flat_map(|_| activations(cols, random)).collect();
        let mode = if random.below(4) == 0 {
            Store::Add
        } else {
            Store::Write
        };
        Case {
            format,
            rows,
            cols,
            raw,
            x,
            mode,
        }
    }

    fn tokens(&self) -> usize {
        self.x.len() / self.cols
    }

    fn packed(&self, pool: &Pool) -> Packed {
        Packed::pack(self.format, self.rows, self.cols, &self.raw, pool).expect("a fitting shape")
    }

    fn in_place(&self) -> Packed {
        let raw = Arc::new(self.raw.clone());
        Packed::in_place(self.format, self.rows, self.cols, raw).expect("a fitting shape")
    }

    fn product(&self, isa: Isa, pool: &Pool) -> Vec<f32> {
        self.product_of(&self.packed(pool), isa, pool)
    }

    fn product_of(&self, weights: &Packed, isa: Isa, pool: &Pool) -> Vec<f32> {
        let mut x = Activations::new();
        x.set(&self.x, self.cols, [self.format].into_iter(), isa, pool);
        let mut out = vec![0.25; self.tokens() * self.rows];
        matmul(
            &mut [Job {
                weights,
                out: &mut out,
                mode: self.mode,
            }],
            &x,
            isa,
            pool,
        );
        out
    }

    /// The same product with the blocks of every row, and those of the activations, in the opposite order.
    fn reversed(&self) -> Case {
        let block = self.format.block_bytes();
        let row = self.format.row_bytes(self.cols).expect("whole blocks");
        let raw = self
            .raw
            .chunks(row)
            .flat_map(|row| row.chunks(block).rev().flatten())
            .copied()
            .collect();
        let len = self.format.block_len();
        let x = self
            .x
            .chunks(self.cols)
            .flat_map(|x| x.chunks(len).rev().flatten())
            .copied()
            .collect();
        Case { raw, x, ..*self }
    }
}

/// Bytes of a matrix: any bytes, or sane scales, or codes that reach the bounds of 16-bit sums.
fn weights(format: Format, rows: usize, cols: usize, random: &mut Random) -> Vec<u8> {
    let bytes = format.row_bytes(cols).expect("whole blocks") * rows;
    let mut raw: Vec<u8> = (0..bytes).map(|_| random.next() as u8).collect();
    let style = random.below(4);
    if style == 0 {
        return raw; // scales of any kind, NaN and infinite among them
    }
    if style == 1 {
        let extreme = [0x00, 0xff, 0x80, 0x7f, 0x0f, 0xf0][random.below(6)];
        raw.fill(extreme);
    }
    for block in raw.chunks_exact_mut(format.block_bytes()) {
        sane_scales(format, block, random);
    }
    raw
}

/// Overwrites the half floats of a block by finite numbers, some of them denormal.
fn sane_scales(format: Format, block: &mut [u8], random: &mut Random) {
    let steps: &[usize] = match format {
        Format::F32 => {
            let value = random.unit() * 2f32.powi(random.below(20) as i32 - 10);
            block.copy_from_slice(&value.to_le_bytes());
            return;
        }
        Format::BF16 => {
            block[1] = 0x3c | (block[1] & 0x83);
            return;
        }
        Format::Mxfp4 => {
            block[0] = random.within(100..140) as u8;
            return;
        }
        Format::Q2K => &[80, 82],
        Format::Q3K => &[108],
        Format::Q6K => &[208],
        Format::Q4_1 | Format::Q5_1 | Format::Q4K | Format::Q5K => &[0, 2],
        Format::F16 | Format::Q4_0 | Format::Q5_0 | Format::Q8_0 | Format::Iq4Nl => &[0],
    };
    for &at in steps {
        let value = match random.below(8) {
            0 => half::f16::from_bits(random.below(1024) as u16),
            _ => half::f16::from_f32(random.unit()),
        };
        block[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }
}

/// One token: numbers of one size, of all sizes, at the bounds, tiny, or not finite.
fn activations(cols: usize, random: &mut Random) -> Vec<f32> {
    let style = random.below(8);
    let bounds = [random.below(3), random.below(2)];
    let mut x: Vec<f32> = (0..cols)
        .map(|k| match style {
            0 => f32::from_bits(random.next() as u32 & 0xbfff_ffff),
            1 => {
                let positive = bounds[0] == 0 || (k / (2 * bounds[0])) % 2 == bounds[1];
                if positive { 3.0 } else { -3.0 }
            }
            2 => random.unit() * 1e-39,
            3 => 0.0,
            _ => random.unit(),
        })
        .collect();
    if random.below(8) == 0 {
        let at = random.below(cols);
        x[at] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0, f32::MAX][random.below(5)];
    }
    x
}

/// The first result that differs, where all NaN are one.
fn difference(expected: &[f32], got: &[f32]) -> Option<usize> {
    assert_eq!(expected.len(), got.len());
    let same = |(a, b): (&f32, &f32)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan();
    expected.iter().zip(got).position(|pair| !same(pair))
}

fn every_path_equals_the_reference(format: Format) {
    let pools = [Pool::serial(), Pool::new(2)];
    let mut random = Random(format.to_ggml().into());
    for (tokens, products) in PATHS {
        for product in 0..products {
            let case = Case::random(format, random.within(tokens.clone()), &mut random);
            let pool = &pools[usize::from(product % 8 == 0)];
            let weights = match product % 2 {
                0 => case.packed(pool),
                _ => case.in_place(),
            };
            let expected = case.product_of(&weights, Isa::Scalar, pool);
            // Other tests do so meanwhile: over all, each format goes both ways.
            #[cfg(target_arch = "x86_64")]
            crate::simd::avx512::beside::set(random.below(2) == 0);
            for isa in Isa::all_available().into_iter().skip(1) {
                if let Some(at) = difference(&expected, &case.product_of(&weights, isa, pool)) {
                    let (rows, cols, tokens) = (case.rows, case.cols, case.tokens());
                    panic!(
                        "{format} {isa}: value {at} of {rows} x {cols} x {tokens}, expected {}",
                        expected[at]
                    );
                }
            }
        }
    }
}

macro_rules! every_path_equals_the_reference {
    ($($name:ident $format:ident,)*) => {$(
        #[test]
        fn $name() {
            every_path_equals_the_reference(Format::$format);
        }
    )*};
}

every_path_equals_the_reference! {
    every_path_of_f32_equals_the_reference F32,
    every_path_of_f16_equals_the_reference F16,
    every_path_of_bf16_equals_the_reference BF16,
    every_path_of_q4_0_equals_the_reference Q4_0,
    every_path_of_q4_1_equals_the_reference Q4_1,
    every_path_of_q5_0_equals_the_reference Q5_0,
    every_path_of_q5_1_equals_the_reference Q5_1,
    every_path_of_q8_0_equals_the_reference Q8_0,
    every_path_of_iq4_nl_equals_the_reference Iq4Nl,
    every_path_of_mxfp4_equals_the_reference Mxfp4,
    every_path_of_q2_k_equals_the_reference Q2K,
    every_path_of_q3_k_equals_the_reference Q3K,
    every_path_of_q4_k_equals_the_reference Q4K,
    every_path_of_q5_k_equals_the_reference Q5K,
    every_path_of_q6_k_equals_the_reference Q6K,
}

/// The suite can turn red: blocks summed in another order are caught in every format.
#[test]
fn a_reordered_sum_of_blocks_is_caught() {
    let pool = Pool::serial();
    for format in Format::ALL {
        let mut random = Random(7);
        let caught = (0..100).any(|_| {
            let case = Case::random(format, 3, &mut random);
            let expected = case.product(Isa::Scalar, &pool);
            let planted = case.reversed().product(Isa::best(), &pool);
            difference(&expected, &planted).is_some()
        });
        assert!(caught, "{format}");
    }
}

/// Weights that are still in their file and the same once they are packed: one result, and one row.
#[test]
fn where_weights_lie_changes_no_bit() {
    let pool = Pool::new(2);
    let mut random = Random(13);
    for format in Format::ALL {
        let case = Case::random(format, 3, &mut random);
        let (expected, weights) = (case.product(Isa::Scalar, &pool), case.in_place());
        let (mut row, mut packed_row) = (vec![0.0; case.cols], vec![0.0; case.cols]);
        case.packed(&pool).row(case.rows - 1, &mut packed_row);
        for when in ["in place", "packed"] {
            for isa in Isa::all_available() {
                let got = case.product_of(&weights, isa, &pool);
                assert_eq!(difference(&expected, &got), None, "{format} {isa} {when}");
            }
            weights.row(case.rows - 1, &mut row);
            assert_eq!(difference(&packed_row, &row), None, "{format} {when}");
            assert_eq!(weights.bytes(), case.packed(&pool).bytes());
            weights.settle(&mut Room::default(), &pool).expect("room");
        }
    }
}

#[test]
#[cfg_attr(target_family = "wasm", ignore = "there is one thread")]
fn packing_meanwhile_changes_no_bit() {
    let mut random = Random(17);
    for format in Format::ALL {
        let case = Case::random(format, 3, &mut random);
        let (expected, weights) = (case.product(Isa::Scalar, &Pool::serial()), case.in_place());
        std::thread::scope(|threads| {
            let settled = threads.spawn(|| weights.settle(&mut Room::default(), &Pool::serial()));
            let got = case.product_of(&weights, Isa::best(), &Pool::serial());
            settled.join().expect("no panic").expect("room");
            assert_eq!(difference(&expected, &got), None, "{format} meanwhile");
        });
    }
}

/// The law itself is a matrix product: with mild numbers the reference is close to the exact one.
#[test]
fn the_reference_is_near_the_exact_product() {
    let pool = Pool::serial();
    for format in Format::ALL {
        let mut random = Random(11);
        let (rows, cols) = (20, 512);
        let mut raw: Vec<u8> = (0..format.row_bytes(cols).expect("whole") * rows)
            .map(|_| random.next() as u8)
            .collect();
        for block in raw.chunks_exact_mut(format.block_bytes()) {
            sane_scales(format, block, &mut random);
        }
        let x: Vec<f32> = (0..cols).map(|_| random.unit()).collect();
        let case = Case {
            format,
            rows,
            cols,
            raw,
            x,
            mode: Store::Write,
        };
        let got = case.product(Isa::Scalar, &pool);
        let mut row = vec![0.0; cols];
        for (got, raw) in got
            .iter()
            .zip(case.raw.chunks(format.row_bytes(cols).expect("whole")))
        {
            dequantize_row(format, raw, &mut row);
            let terms = || {
                row.iter()
                    .zip(&case.x)
                    .map(|(w, x)| f64::from(*w) * f64::from(*x))
            };
            let (exact, size) = (terms().sum::<f64>(), terms().map(f64::abs).sum::<f64>());
            assert!(
                (f64::from(*got) - exact).abs() <= 0.01 * size,
                "{format}: {got} for {exact}"
            );
        }
    }
}

#[test]
fn jobs_of_one_call_do_not_disturb_each_other() {
    let pool = Pool::new(3);
    let mut random = Random(5);
    let cases: Vec<Case> = [Format::Q4K, Format::Q6K, Format::F16]
        .map(|format| Case {
            rows: 100,
            cols: 512,
            raw: weights(format, 100, 512, &mut random),
            ..Case::random(format, 1, &mut random)
        })
        .into();
    let x: Vec<f32> = (0..3 * 512).map(|_| random.unit()).collect();
    let packed: Vec<Packed> = cases
        .iter()
        .map(|c| Packed::pack(c.format, c.rows, c.cols, &c.raw, &pool).expect("fits"))
        .collect();
    let mut acts = Activations::new();
    acts.set(&x, 512, cases.iter().map(|c| c.format), Isa::best(), &pool);
    let mut outs = vec![vec![0.0; 300]; 3];
    let mut jobs: Vec<Job> = packed
        .iter()
        .zip(&mut outs)
        .map(|(weights, out)| Job {
            weights,
            out,
            mode: Store::Write,
        })
        .collect();
    matmul(&mut jobs, &acts, Isa::best(), &pool);
    for (case, out) in cases.iter().zip(&outs) {
        let alone = Case {
            x: x.clone(),
            raw: case.raw.clone(),
            mode: Store::Write,
            ..*case
        };
        assert_eq!(
            difference(&alone.product(Isa::Scalar, &pool), out),
            None,
            "{}",
            case.format
        );
    }
}

#[test]
fn no_tokens_and_no_rows_are_nothing() {
    let pool = Pool::serial();
    let case = Case {
        format: Format::Q4K,
        rows: 0,
        cols: 256,
        raw: vec![],
        x: vec![1.0; 256],
        mode: Store::Write,
    };
    assert!(case.product(Isa::best(), &pool).is_empty());
    let raw = vec![0; 144];
    let case = Case {
        format: Format::Q4K,
        rows: 1,
        cols: 256,
        raw,
        x: vec![],
        mode: Store::Write,
    };
    assert!(case.product(Isa::best(), &pool).is_empty());
}

#[test]
fn tasks_cover_every_tile_once_and_end_small() {
    let (format, cols) = (Format::Q8_0, 2048);
    let row = format.row_bytes(cols).expect("whole blocks");
    for (rows, tokens, threads) in [(1, 1, 1), (17, 1, 2), (3000, 1, 2), (3000, 40, 2), (700, 1, 64)] {
        let pack = |rows: usize| Packed::pack(format, rows, cols, &vec![0; rows * row], &Pool::serial());
        let weights = [rows, 16 * 5, 0].map(|rows| pack(rows).expect("fits"));
        let mut x = Activations::new();
        x.set(
            &vec![0.0; tokens * cols],
            cols,
            [format].into_iter(),
            Isa::Scalar,
            &Pool::serial(),
        );
        let mut outs = weights.each_ref().map(|w| vec![0.0; tokens * w.rows()]);
        let mut jobs: Vec<Job> = weights
            .iter()
            .zip(&mut outs)
            .map(|(weights, out)| Job {
                weights,
                out,
                mode: Store::Write,
            })
            .collect();
        let targets: Vec<Target> = jobs.iter_mut().map(|job| Target::of(job, &x)).collect();
        let tasks = tasks(&targets, tokens, threads);
        for (target, weights) in weights.iter().enumerate() {
            let mine = tasks.iter().filter(|(t, _)| *t == target);
            let tiles: Vec<usize> = mine.flat_map(|(_, tiles)| tiles.clone()).collect();
            assert_eq!(tiles, (0..weights.tiles()).collect::<Vec<_>>(), "{rows} rows");
        }
        let tile = 16 * row;
        let last = tasks.last().expect("some task").1.len();
        assert!(last * tile <= TASK_BYTES.max(tile), "{last} tiles at the end");
        if tokens > TILE {
            assert!(tasks.iter().all(|(_, tiles)| tiles.len() <= TASK_TILES));
        }
    }
}
