//! Vocabulary matching: every candidate goes through the same layers, and the nearest rows win.
//!
//! It works from the left, on what it read itself before. A row is a deterministic function of the tokens up to it, so
//! the right candidate's row is the one that was sent, bit for bit, however many layers there are; rounding
//! moves it less than another token would. What it costs is a pass for each token and each entry of the vocabulary.

use heph_engine::cache::KvCache;
use heph_engine::worker::{ForwardError, Hidden, Keep, Part};
use heph_types::{Position, TokenId};

use super::{CANDIDATES, Front, InversionError, Secret, Wire};
use crate::cancel::Cancel;

/// Those of the wires, by their number, from which the same was read so far; what that was lies in the cache.
struct Reading {
    cache: KvCache,
    wires: Vec<usize>,
}

/// How near the candidates came to one row.
struct Match {
    /// Distance of the right token's row.
    right: f64,
    /// Candidates that came nearer than that.
    nearer: usize,
    /// The nearest candidate, and its distance.
    best: (f64, TokenId),
}

/// Reads the text from the rows of every wire, and notes how many candidates were nearer than the right one.
pub(super) fn read(
    front: &mut Front,
    secret: &Secret,
    wires: &mut [Wire],
    cancel: &Cancel,
    step: &mut dyn FnMut(),
) -> Result<(), InversionError> {
    let mut cache = front.worker.model().new_cache(front.layers);
    if secret.known > 0 {
        pass(front, &mut cache, 0, &secret.tokens[..secret.known])?;
    }
    let mut readings = vec![Reading {
        cache,
        wires: (0..wires.len()).collect(),
    }];
    let mut right_so_far = vec![true; wires.len()];
    for position in secret.known..secret.tokens.len() {
        let token = secret.tokens[position];
        let mut next = Vec::new();
        for reading in readings {
            let matches = matches(front, &reading, position, token, wires, cancel)?;
            for (&wire, found) in reading.wires.iter().zip(&matches) {
                wires[wire].matched.push(found.nearer);
                if right_so_far[wire] && wires[wire].codec.is_exact() && found.best.0 != 0.0 {
                    return Err(InversionError::Blind { position });
                }
                right_so_far[wire] &= found.best.1 == token;
            }
            let chosen: Vec<TokenId> = matches.iter().map(|found| found.best.1).collect();
            next.extend(go_on(front, reading, position, &chosen)?);
        }
        readings = next;
        step();
    }
    Ok(())
}

/// Compares the row of every candidate at `position`, after what was read before it, with the rows of the reading's wires.
fn matches(
    front: &mut Front,
    reading: &Reading,
    position: usize,
    right: TokenId,
    wires: &[Wire],
    cancel: &Cancel,
) -> Result<Vec<Match>, InversionError> {
    let vocab = front.vocab();
    let fork = || reading.cache.fork(Position(position as u32));
    let right_row = pass(front, &mut fork(), position, &[right])?;
    let rows: Vec<&[f32]> = reading.wires.iter().map(|&w| wires[w].row(position)).collect();
    let mut found: Vec<Match> = rows
        .iter()
        .map(|row| Match {
            right: distance(row, &right_row.rows),
            nearer: 0,
            best: (f64::INFINITY, TokenId(0)),
        })
        .collect();
    let mut caches: Vec<KvCache> = (0..CANDIDATES.min(vocab)).map(|_| fork()).collect();
    for start in (0..vocab).step_by(CANDIDATES) {
        if cancel.is_raised() {
            return Err(InversionError::Stopped);
        }
        let tokens: Vec<TokenId> = (start..vocab.min(start + CANDIDATES))
            .map(|id| TokenId(id as u32))
            .collect();
        let hidden = candidates(front, &mut caches, position, &tokens)?;
        for (token, candidate) in tokens.iter().zip(hidden.rows.chunks_exact(hidden.width)) {
            for (row, found) in rows.iter().zip(&mut found) {
                found.see(*token, distance(row, candidate), right);
            }
        }
    }
    Ok(found)
}

impl Match {
    /// Takes a candidate in. Of candidates at the same distance the first is taken.
    fn see(&mut self, token: TokenId, distance: f64, right: TokenId) {
        if distance < self.best.0 {
            self.best = (distance, token);
        }
        if distance < self.right || (distance == self.right && token < right) {
            self.nearer += 1;
        }
    }
}

/// The rows of candidates that each follow the same tokens. The caches are as before afterwards.
fn candidates(
    front: &mut Front,
    caches: &mut [KvCache],
    position: usize,
    tokens: &[TokenId],
) -> Result<Hidden, ForwardError> {
    let mut hidden = front.worker.embed(tokens)?;
    let first = Position(position as u32);
    let mut parts: Vec<Part> = caches[..tokens.len()]
        .iter_mut()
        .map(|cache| Part {
            cache,
            tokens: 1,
            first,
        })
        .collect();
    let layers = front.layers;
    front.worker.forward(layers, &mut parts, &mut hidden, Keep::All)?;
    caches.iter_mut().for_each(|cache| cache.rollback(first));
    Ok(hidden)
}

/// Takes each wire on with the token that was read from it: those with the same one stay together.
fn go_on(
    front: &mut Front,
    reading: Reading,
    position: usize,
    chosen: &[TokenId],
) -> Result<Vec<Reading>, ForwardError> {
    let mut tokens = chosen.to_vec();
    tokens.sort_unstable();
    tokens.dedup();
    let Reading { cache, wires } = reading;
    let with = |token: TokenId| {
        let same = wires.iter().zip(chosen).filter(move |(_, t)| **t == token);
        same.map(|(wire, _)| *wire).collect()
    };
    let mut next = Vec::with_capacity(tokens.len());
    for token in tokens {
        let mut cache = cache.fork(Position(position as u32));
        pass(front, &mut cache, position, &[token])?;
        next.push(Reading {
            cache,
            wires: with(token),
        });
    }
    Ok(next)
}

/// Takes tokens through the layers, and gives the rows that they leave with.
fn pass(
    front: &mut Front,
    cache: &mut KvCache,
    position: usize,
    tokens: &[TokenId],
) -> Result<Hidden, ForwardError> {
    let mut hidden = front.worker.embed(tokens)?;
    let parts = &mut [Part {
        cache,
        tokens: tokens.len(),
        first: Position(position as u32),
    }];
    let layers = front.layers;
    front.worker.forward(layers, parts, &mut hidden, Keep::All)?;
    Ok(hidden)
}

/// The squared distance of two rows. What is no number is infinitely far.
fn distance(a: &[f32], b: &[f32]) -> f64 {
    let sum: f64 = a
        .iter()
        .zip(b)
        .map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2))
        .sum();
    if sum.is_nan() { f64::INFINITY } else { sum }
}
