//! Speculative decoding within one machine: a small model drafts, the large one verifies many tokens at once.
//!
//! Both models draw with the same noise (see [`crate::sample`]), so the draft's token is accepted exactly
//! when it is the token that the large model chooses itself at that position: the answer is bit for bit the
//! one that the large model gives alone (Leviathan et al. 2023, in the Gumbel form).

use crate::cache::KvCache;
use crate::sample::{Sampler, SamplingError};
use crate::worker::{ForwardError, Keep, Worker};
use heph_types::{Position, TokenId};

/// Why a round failed.
#[derive(Debug, thiserror::Error)]
pub enum SpeculateError {
    /// A pass failed.
    #[error(transparent)]
    Forward(#[from] ForwardError),
    /// No token could be chosen.
    #[error(transparent)]
    Sampling(#[from] SamplingError),
}

/// A model, its cache and the sampler that chooses for it.
pub struct Seat<'a> {
    /// The model.
    pub worker: &'a mut Worker,
    /// Its cache of the sequence.
    pub cache: &'a mut KvCache,
    /// Chooses its tokens.
    pub sampler: &'a mut Sampler,
}

/// Drafts up to `count` tokens after `history`; the cache is brought up to date first.
pub fn draft(seat: &mut Seat, history: &[TokenId], count: usize) -> Result<Vec<TokenId>, SpeculateError> {
    let mut tokens = history.to_vec();
    seat.cache
        .rollback(Position(history.len().saturating_sub(1) as u32));
    for _ in 0..count {
        let pending = &tokens[seat.cache.len()..];
        let logits = seat.worker.run(seat.cache, pending, Keep::Last)?;
        let position = Position(tokens.len() as u32);
        tokens.push(seat.sampler.sample(&logits, position, &tokens, None)?);
    }
    Ok(tokens.split_off(history.len()))
}

/// Runs the tokens that the cache lacks together with `drafted`, and returns the tokens that the model
/// itself chooses: the accepted beginning of the draft and one more. The cache then holds all of `history`
/// and the accepted tokens, and nothing of the refused ones.
pub fn verify(
    seat: &mut Seat,
    history: &[TokenId],
    drafted: &[TokenId],
) -> Result<Vec<TokenId>, SpeculateError> {
    let mut tokens = history.to_vec();
    seat.cache
        .rollback(Position(history.len().saturating_sub(1) as u32));
    // All but the last token of the history need no logits: they go first, if there are many.
    let pending = &history[seat.cache.len()..];
    if pending.len() > 1 {
        seat.worker
            .run(seat.cache, &pending[..pending.len() - 1], Keep::Last)?;
    }
    let checked: Vec<TokenId> = history[seat.cache.len()..]
        .iter()
        .chain(drafted)
        .copied()
        .collect();
    let logits = seat.worker.run(seat.cache, &checked, Keep::All)?;
    let vocab = logits.len() / checked.len();
    for (at, row) in logits.chunks_exact(vocab).enumerate() {
        let chosen = seat
            .sampler
            .sample(row, Position(tokens.len() as u32), &tokens, None)?;
        tokens.push(chosen);
        if drafted.get(at) != Some(&chosen) {
            break;
        }
    }
    seat.cache.rollback(Position(tokens.len() as u32 - 1));
    Ok(tokens.split_off(history.len()))
}
