//! The encoder that makes vectors of spans and questions.

use std::sync::Arc;

use heph_engine::model::{LoadOptions, Model};
use heph_engine::worker::{ForwardError, Worker};
use heph_kernels::isa::Isa;
use heph_kernels::kv::KvFormat;
use heph_kernels::pool::Pool;
use heph_types::TokenId;

use super::PreprocessError;
use crate::bundled;
use crate::cancel::Cancel;
use crate::open;
use crate::store::Found;
use crate::words::Words;

/// Tokens of a span that its vector is made of: more than nearly every span has.
const SPAN_TOKENS_MAX: usize = 160;

/// Texts that become vectors together.
const BATCH: usize = 64;

/// A model that reads, with what it takes to run it.
pub struct Embedder {
    words: Arc<Words>,
    worker: Worker,
}

impl Embedder {
    /// The encoder that is part of the program.
    ///
    /// # Errors
    /// When it cannot be loaded, which no sound program shows.
    pub fn bundled(pool: &Arc<Pool>, isa: Isa) -> Result<Self, PreprocessError> {
        let found = Found::Bundled(bundled::EMBED);
        let (source, words) = (Arc::new(open::open(&found)?), Arc::new(open::words(&found)?));
        let options = LoadOptions {
            kv: KvFormat::F32,
            ..LoadOptions::default()
        };
        let model = Arc::new(Model::load(source, &options, pool, &mut |_| {})?);
        Ok(Self::new(words, Worker::new(model, Arc::clone(pool), isa)))
    }

    /// Another encoder.
    pub fn new(words: Arc<Words>, worker: Worker) -> Self {
        Self { words, worker }
    }

    /// The vector of each text's beginning, of length 1, and the tokens that were read.
    ///
    /// # Errors
    /// When the model only writes, or `cancel` is raised.
    pub fn vectors(
        &mut self,
        texts: &[&str],
        cancel: &Cancel,
    ) -> Result<(Vec<Vec<f32>>, usize), PreprocessError> {
        let most = SPAN_TOKENS_MAX.min(self.worker.model().context());
        let (mut vectors, mut read) = (Vec::with_capacity(texts.len()), 0);
        for batch in texts.chunks(BATCH) {
            if cancel.is_raised() {
                return Err(ForwardError::Stopped.into());
            }
            let tokens_of = |text: &&str| {
                let tokens = self.words.tokenizer.encode_within(text, most);
                tokens.ok_or(ForwardError::EmptyPart)
            };
            let tokens = batch.iter().map(tokens_of).collect::<Result<Vec<_>, _>>()?;
            let tokens: Vec<&[TokenId]> = tokens.iter().map(Vec::as_slice).collect();
            read += tokens.iter().map(|t| t.len()).sum::<usize>();
            vectors.extend(self.worker.encode(&tokens)?);
        }
        Ok((vectors, read))
    }
}
