//! Texts to vectors, with a model that only reads.

use super::{ForwardError, Hidden, Keep, Part, Worker};
use crate::cache::KvCache;
use crate::config::Pooling;
use crate::graph::{RowChoice, TensorId};
use crate::model::Model;
use crate::program::Slot;
use heph_kernels::elementwise;
use heph_kernels::kv::PAGE;
use heph_kernels::norm::{layer_norm_in_place, mean_of_rows, unit_in_place};
use heph_types::{Position, TokenId};
use std::sync::Arc;

impl Worker {
    /// One vector of length 1 for each text, given as its tokens: the same bits in any company and order.
    ///
    /// As many texts go through the model together as the caches of one full context hold.
    ///
    /// # Errors
    /// For a model that writes, a text without tokens or longer than the context, and an unknown token.
    pub fn encode(&mut self, texts: &[&[TokenId]]) -> Result<Vec<Vec<f32>>, ForwardError> {
        let pooling = self.model.graph().pooling.ok_or(ForwardError::OnlyWrites)?;
        let mut vectors = Vec::with_capacity(texts.len());
        for batch in self.batches(texts) {
            let rows = self.encode_rows(batch)?;
            vectors.extend(rows.iter().map(|rows| self.pooled(rows, pooling)));
        }
        Ok(vectors)
    }

    /// The rows that leave the last layer, for each text of a batch that fits the model's caches.
    ///
    /// # Errors
    /// As [`Worker::encode`].
    pub fn encode_rows(&mut self, texts: &[&[TokenId]]) -> Result<Vec<Hidden>, ForwardError> {
        let model = Arc::clone(&self.model);
        if model.graph().pooling.is_none() {
            return Err(ForwardError::OnlyWrites);
        }
        if texts.iter().any(|text| text.is_empty()) {
            return Err(ForwardError::EmptyPart);
        }
        let tokens: Vec<TokenId> = texts.concat();
        let mut hidden = self.embed(&tokens)?;
        let layers = self.all_layers();
        let mut caches: Vec<KvCache> = texts.iter().map(|_| model.new_cache(layers)).collect();
        for (cache, text) in caches.iter_mut().zip(texts) {
            cache.prepare(text.len())?;
        }
        let mut parts: Vec<Part<'_>> = caches
            .iter_mut()
            .zip(texts)
            .map(|(cache, text)| Part {
                cache,
                tokens: text.len(),
                first: Position(0),
            })
            .collect();
        self.take_in(&mut hidden);
        self.block(&model, model.embed_program(), usize::MAX, &mut parts, Keep::All);
        std::mem::swap(&mut self.buffers[0], &mut hidden.rows);
        self.forward(layers, &mut parts, &mut hidden, Keep::All)?;
        let width = hidden.width;
        let mut rest = hidden.rows.as_slice();
        let mut rows_of = |text: &&[TokenId]| {
            let (rows, others) = rest.split_at(text.len() * width);
            rest = others;
            Hidden {
                width,
                rows: rows.to_vec(),
            }
        };
        Ok(texts.iter().map(&mut rows_of).collect())
    }

    /// The texts in order, cut where the caches would overflow. A text too long for any cache stands alone.
    fn batches<'t, 'a>(&self, texts: &'t [&'a [TokenId]]) -> Vec<&'t [&'a [TokenId]]> {
        let limit = self.model.context().div_ceil(PAGE);
        let (mut batches, mut start, mut pages) = (Vec::new(), 0, 0);
        for (at, text) in texts.iter().enumerate() {
            let more = text.len().div_ceil(PAGE);
            if at > start && pages + more > limit {
                batches.push(&texts[start..at]);
                (start, pages) = (at, 0);
            }
            pages += more;
        }
        if start < texts.len() {
            batches.push(&texts[start..]);
        }
        batches
    }

    fn pooled(&self, rows: &Hidden, pooling: Pooling) -> Vec<f32> {
        let mut vector = match pooling {
            Pooling::First => rows.rows[..rows.width].to_vec(),
            Pooling::Mean => {
                let mut mean = vec![0.0; rows.width];
                mean_of_rows(&rows.rows, &mut mean, self.isa);
                mean
            }
        };
        unit_in_place(&mut vector, self.isa);
        vector
    }

    pub(super) fn layer_norm(&mut self, model: &Model, x: Slot, [weight, bias]: [TensorId; 2], eps: f32) {
        let (weight, bias, isa) = (model.vector(weight), model.vector(bias), self.isa);
        let rows = super::NORM_CHUNK.div_ceil(weight.len()) * weight.len();
        self.pool.run_chunks(&mut self.buffers[x.0], rows, |_, part| {
            layer_norm_in_place(part, weight, bias, eps, isa)
        });
    }

    /// Adds the chosen row of a table to each token's row.
    pub(super) fn add_row(
        &mut self,
        model: &Model,
        into: Slot,
        table: TensorId,
        row: RowChoice,
        parts: &[Part],
    ) {
        let positions = parts
            .iter()
            .flat_map(|p| (0..p.tokens).map(|t| p.first.index() + t));
        let mut added = vec![0.0; model.graph().tensor(table).cols];
        let mut held = None;
        let width = added.len();
        for (x, position) in self.buffers[into.0].chunks_exact_mut(width).zip(positions) {
            let wanted = match row {
                RowChoice::First => 0,
                RowChoice::Position => position,
            };
            if held != Some(wanted) {
                model.table_row(table, wanted, &mut added);
                held = Some(wanted);
            }
            elementwise::add_assign(x, &added, self.isa);
        }
    }
}
