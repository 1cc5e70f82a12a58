//! Exact arithmetic on slices: the same bits on every instruction set, thread count and batch.
//!
//! The law it follows stands in `docs/arithmetic.md`; the scalar path is its reference. Called by the
//! engine for every operator of a model. Knows no model, file format, token, clock or node. The only
//! crate that may say `unsafe`.

pub mod activations;
pub mod attention;
pub mod elementwise;
pub mod format;
pub mod isa;
pub mod kv;
pub mod mapped;
pub mod math;
pub mod matmul;
pub mod norm;
pub mod pack;
pub mod pool;
pub mod rng;
pub mod rope;

#[cfg(test)]
mod proof;
mod simd;

/// The version of the law in `docs/arithmetic.md`: results of one version are the same bits everywhere, results of
/// two versions may differ.
pub const ARITHMETIC_VERSION: u32 = 1;
