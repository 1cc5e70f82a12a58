//! The nearest embedding, of a row as it is and of one that a trained map has turned back.
//!
//! The map is ridge regression from rows to the directions of embeddings, fitted on rows of other text. Both find less the
//! deeper the split lies, and nothing behind a secret rotation: they are here to be compared with, never to calm anybody.

use heph_engine::worker::ForwardError;
use heph_kernels::pool::Pool;
use heph_types::TokenId;

use super::{CANDIDATES, Front, InversionError, Secret, Wire};
use crate::cancel::Cancel;

/// How much of the mean square of a number is added for stability: a thousandth.
const RIDGE: f64 = 1e-3;

/// Notes for both attacks and every wire how many embeddings were nearer than the right one. `lessons` is what the inverter
/// learns from.
pub(super) fn read(
    front: &mut Front,
    lessons: &[Vec<TokenId>],
    secret: &Secret,
    wires: &mut [Wire],
    cancel: &Cancel,
    step: &mut dyn FnMut(),
) -> Result<(), InversionError> {
    let tokens = &secret.tokens[secret.known..];
    let inverter = Inverter::learn(front, lessons, cancel)?;
    step();
    let mut guesses = Vec::new();
    for wire in wires.iter() {
        let rows = (secret.known..secret.tokens.len()).map(|position| wire.row(position));
        guesses.extend(rows.clone().map(direction));
        guesses.extend(rows.map(|row| inverter.invert(row)));
    }
    let rights: Vec<TokenId> = tokens.iter().cycle().take(guesses.len()).copied().collect();
    let mut ranks = ranks(front, &guesses, &rights, cancel)?.into_iter();
    for wire in wires.iter_mut() {
        wire.nearest.extend(ranks.by_ref().take(tokens.len()));
        wire.inverted.extend(ranks.by_ref().take(tokens.len()));
    }
    step();
    Ok(())
}

/// For each guess, the number of embeddings that point more nearly where it does than that of the right token.
fn ranks(
    front: &Front,
    guesses: &[Vec<f64>],
    rights: &[TokenId],
    cancel: &Cancel,
) -> Result<Vec<usize>, InversionError> {
    let near = guesses.iter().zip(rights).map(|(guess, right)| {
        let row = front.worker.embed(&[*right])?;
        Ok(dot(guess, &direction(&row.rows)))
    });
    let near = near.collect::<Result<Vec<f64>, ForwardError>>()?;
    let (vocab, pool) = (front.vocab(), front.worker.pool());
    let mut ranks = vec![0; guesses.len()];
    for start in (0..vocab).step_by(CANDIDATES) {
        if cancel.is_raised() {
            return Err(InversionError::Stopped);
        }
        let tokens: Vec<TokenId> = (start..vocab.min(start + CANDIDATES))
            .map(|id| TokenId(id as u32))
            .collect();
        let table = front.worker.embed(&tokens)?;
        let table: Vec<Vec<f64>> = table.rows.chunks_exact(table.width).map(direction).collect();
        pool.run_each(&mut ranks, |at, rank| {
            for (token, embedding) in tokens.iter().zip(&table) {
                let score = dot(&guesses[at], embedding);
                let nearer = score > near[at] || (score == near[at] && *token < rights[at]);
                *rank += usize::from(nearer || near[at].is_nan());
            }
        });
    }
    Ok(ranks)
}

/// A linear map from rows to directions of embeddings: the solution of ridge regression, as the triangle of its normal
/// equations and their right side.
struct Inverter {
    width: usize,
    /// Cholesky's triangle, `(width, width)`, the lower half.
    triangle: Vec<f64>,
    /// Sums of numbers of a row times the numbers of an embedding: `(width, embedding)`.
    products: Vec<f64>,
}

impl Inverter {
    /// Fits the map. The rows of a few sequences are in memory at a time.
    fn learn(front: &mut Front, lessons: &[Vec<TokenId>], cancel: &Cancel) -> Result<Self, InversionError> {
        let inner = front.width();
        let width = inner + 1;
        let mut squares = vec![0.0; width * width];
        let mut products = vec![0.0; width * inner];
        for lesson in lessons {
            if cancel.is_raised() {
                return Err(InversionError::Stopped);
            }
            let rows = front.rows(lesson)?;
            let rows: Vec<Vec<f64>> = rows.rows.chunks_exact(inner).map(with_one).collect();
            let table = front.worker.embed(lesson)?;
            let table: Vec<Vec<f64>> = table.rows.chunks_exact(inner).map(direction).collect();
            let pool = front.worker.pool();
            add_products(&mut squares, &rows, &rows, pool);
            add_products(&mut products, &rows, &table, pool);
        }
        let trace: f64 = squares.iter().step_by(width + 1).sum();
        let ridge = RIDGE * trace / width as f64;
        squares.iter_mut().step_by(width + 1).for_each(|x| *x += ridge);
        factor(&mut squares, width);
        Ok(Self {
            width,
            triangle: squares,
            products,
        })
    }

    /// Where the embedding of a row's token should point.
    fn invert(&self, row: &[f32]) -> Vec<f64> {
        let mut weights = with_one(row);
        solve(&self.triangle, self.width, &mut weights);
        let mut embedding = vec![0.0; self.width - 1];
        for (weight, products) in weights.iter().zip(self.products.chunks_exact(self.width - 1)) {
            for (x, product) in embedding.iter_mut().zip(products) {
                *x += weight * product;
            }
        }
        unit(embedding)
    }
}

/// Adds the products of the numbers of `a` and `b`, row by row: `out` is `(numbers of a, numbers of b)`.
fn add_products(out: &mut [f64], a: &[Vec<f64>], b: &[Vec<f64>], pool: &Pool) {
    let width = b.first().map_or(1, Vec::len).max(1);
    pool.run_chunks(out, width, |number, out| {
        for (a, b) in a.iter().zip(b) {
            let a = a[number];
            out.iter_mut().zip(b).for_each(|(out, b)| *out += a * b);
        }
    });
}

/// Cholesky's triangle of a symmetric matrix, in its lower half. The ridge keeps its pivots above nothing; where rounding
/// did not, the row counts for nothing.
fn factor(matrix: &mut [f64], width: usize) {
    for row in 0..width {
        let (before, from) = matrix.split_at_mut(row * width);
        let this = &mut from[..width];
        for column in 0..row {
            let other = &before[column * width..][..=column];
            let sum = dot(&this[..column], &other[..column]);
            this[column] = (this[column] - sum) / other[column];
        }
        let pivot = this[row] - dot(&this[..row], &this[..row]);
        this[row] = if pivot > 0.0 { pivot.sqrt() } else { f64::INFINITY };
    }
}

/// Solves the equations of a triangle and its transpose, in place.
fn solve(triangle: &[f64], width: usize, x: &mut [f64]) {
    for row in 0..width {
        let line = &triangle[row * width..][..=row];
        x[row] = (x[row] - dot(&line[..row], &x[..row])) / line[row];
    }
    for row in (0..width).rev() {
        let line = &triangle[row * width..][..=row];
        x[row] /= line[row];
        let (before, at) = x.split_at_mut(row);
        before.iter_mut().zip(line).for_each(|(x, t)| *x -= t * at[0]);
    }
}

/// A row's direction and a one, so that the map has a constant part.
fn with_one(row: &[f32]) -> Vec<f64> {
    let mut numbers = direction(row);
    numbers.push(1.0 / (numbers.len().max(1) as f64).sqrt());
    numbers
}

fn direction(row: &[f32]) -> Vec<f64> {
    unit(row.iter().map(|x| f64::from(*x)).collect())
}

fn unit(mut numbers: Vec<f64>) -> Vec<f64> {
    let length = dot(&numbers, &numbers).sqrt();
    if length > 0.0 {
        numbers.iter_mut().for_each(|x| *x /= length);
    }
    numbers
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_triangle_solves_its_equations() {
        let width = 5;
        let rows: Vec<Vec<f64>> = (0..9)
            .map(|i| (0..width).map(|j| ((i * 7 + j * 3) % 11) as f64 - 5.0).collect())
            .collect();
        let mut matrix = vec![0.0; width * width];
        add_products(&mut matrix, &rows, &rows, &Pool::serial());
        matrix.iter_mut().step_by(width + 1).for_each(|x| *x += 0.5);
        let wanted: Vec<f64> = (0..width).map(|i| i as f64 - 1.5).collect();
        let mut x: Vec<f64> = matrix.chunks(width).map(|row| dot(row, &wanted)).collect();
        factor(&mut matrix, width);
        solve(&matrix, width, &mut x);
        assert!(x.iter().zip(&wanted).all(|(x, y)| (x - y).abs() < 1e-9), "{x:?}");
    }
}
