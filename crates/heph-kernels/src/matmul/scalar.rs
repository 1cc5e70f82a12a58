//! The reference: every product row by row and token by token, as `docs/arithmetic.md` states it.

use super::Work;
use crate::activations::{Activations, GROUP};
use crate::format::{BLOCK, Block32, Format, SUPERBLOCK, Superblock};
use crate::pack::TILE;
use half::{bf16, f16};

/// Multiplies the tiles of `work` by every token.
pub(super) fn run(work: &Work) {
    let mut raw = Vec::new();
    let mut sums = vec![[0.0; TILE]; work.x.tokens()];
    for tile in work.tiles.clone() {
        for lane in 0..TILE.min(work.weights.rows() - TILE * tile) {
            work.weights.raw_row(TILE * tile + lane, &mut raw);
            let row = Row::read(work.weights.format(), &raw);
            for (token, sums) in sums.iter_mut().enumerate() {
                sums[lane] = row.dot(work.x, token);
            }
        }
        for (token, sums) in sums.iter().enumerate() {
            work.out.store(tile, token, sums);
        }
    }
}

/// One row of weights as numbers.
enum Row {
    Floats(Vec<f32>),
    Blocks { blocks: Vec<Block32>, minima: bool },
    Superblocks { blocks: Vec<Superblock>, minima: bool },
}

impl Row {
    fn read(format: Format, raw: &[u8]) -> Row {
        let pairs = || raw.chunks_exact(2).map(|b| [b[0], b[1]]);
        let minima = format.has_minimum();
        match format {
            Format::F32 => Row::Floats(
                raw.chunks_exact(4)
                    .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                    .collect(),
            ),
            Format::F16 => Row::Floats(pairs().map(|b| f16::from_le_bytes(b).to_f32()).collect()),
            Format::BF16 => Row::Floats(pairs().map(|b| bf16::from_le_bytes(b).to_f32()).collect()),
            _ if format.is_superblock() => {
                let mut blocks = vec![Superblock::default(); raw.len() / format.block_bytes()];
                for (block, raw) in blocks.iter_mut().zip(raw.chunks_exact(format.block_bytes())) {
                    block.read(format, raw);
                }
                Row::Superblocks { blocks, minima }
            }
            _ => {
                let mut blocks = vec![Block32::default(); raw.len() / format.block_bytes()];
                for (block, raw) in blocks.iter_mut().zip(raw.chunks_exact(format.block_bytes())) {
                    block.read(format, raw);
                }
                Row::Blocks { blocks, minima }
            }
        }
    }

    fn dot(&self, x: &Activations, token: usize) -> f32 {
        match self {
            Row::Floats(weights) => {
                let x = x.floats().expect("set for float formats");
                dot_floats(weights, &x[token * weights.len()..][..weights.len()])
            }
            Row::Blocks { blocks, minima } => dot_blocks(blocks, *minima, x, token),
            Row::Superblocks { blocks, minima } => dot_superblocks(blocks, *minima, x, token),
        }
    }
}

/// Blocks of 32 columns are summed one by one, then added to the row's sum.
fn dot_floats(weights: &[f32], x: &[f32]) -> f32 {
    let mut acc = 0.0;
    for (weights, x) in weights.chunks(BLOCK).zip(x.chunks(BLOCK)) {
        let mut sum = 0.0;
        for (w, x) in weights.iter().zip(x) {
            sum += w * x;
        }
        acc += sum;
    }
    acc
}

fn dot_blocks(blocks: &[Block32], minima: bool, x: &Activations, token: usize) -> f32 {
    let groups = x.by_32().expect("set for blocks of 32");
    let mut acc = 0.0;
    for (i, block) in blocks.iter().enumerate() {
        let (group, i) = (&groups[i / 8 * x.tokens() + token], i % 8);
        let codes = &group.codes[BLOCK * i..][..BLOCK];
        let sum: i32 = block
            .codes
            .iter()
            .zip(codes)
            .map(|(&w, &x)| i32::from(w) * i32::from(x))
            .sum();
        acc += (block.scale * group.d[i]) * sum as f32;
        if minima {
            let sum: i32 = codes.iter().map(|&x| i32::from(x)).sum();
            acc += block.minimum * (group.d[i] * sum as f32);
        }
    }
    acc
}

fn dot_superblocks(blocks: &[Superblock], minima: bool, x: &Activations, token: usize) -> f32 {
    const { assert!(SUPERBLOCK == GROUP) };
    let groups = x.by_256().expect("set for blocks of 256");
    let mut acc = 0.0;
    for (i, block) in blocks.iter().enumerate() {
        let group = &groups[i * x.tokens() + token];
        let (mut products, mut minimum) = (0i32, 0i32);
        for (part, codes) in group.codes.chunks_exact(16).enumerate() {
            let weights = &block.codes[16 * part..][..16];
            let sum: i32 = weights
                .iter()
                .zip(codes)
                .map(|(&w, &x)| i32::from(w) * i32::from(x))
                .sum();
            products += i32::from(block.scales[part]) * sum;
            let sum: i32 = codes.iter().map(|&x| i32::from(x)).sum();
            minimum += i32::from(block.minima[part]) * sum;
        }
        acc += (block.scale * group.d) * products as f32;
        if minima {
            acc -= (block.minimum * group.d) * minimum as f32;
        }
    }
    acc
}
