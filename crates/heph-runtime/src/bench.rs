//! How fast a model runs here: prefill, decode at a depth, and passes of a few tokens at once.
//!
//! Every figure comes as one value per repetition, after a warm-up that is not counted.

use std::collections::BTreeMap;
use std::time::Instant;

use heph_engine::cache::KvCache;
use heph_engine::worker::{ForwardError, Keep, Worker};
use heph_types::{Position, TokenId};
use serde::Serialize;

/// What to measure.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Tokens of the prompt; 0 measures no prefill.
    pub prompt: usize,
    /// Tokens decoded one by one; 0 measures no decoding.
    pub generate: usize,
    /// Tokens that stand in the cache before anything is measured.
    pub depth: usize,
    /// How often each is measured.
    pub repetitions: usize,
    /// Counts of tokens that go through the model in one pass, with logits for each.
    pub verify: Vec<usize>,
}

impl Plan {
    /// Positions that the cache must hold; the most there are where they cannot be counted.
    pub fn context(&self) -> usize {
        let widest = self.verify.iter().copied().max().unwrap_or(0);
        let measured = self.prompt.max(self.generate).max(widest).max(1);
        self.depth.saturating_add(measured)
    }
}

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// No session of the model is as long as the plan.
    #[error("this needs {wanted} positions, and a session of the model holds {context}")]
    TooLong {
        /// Positions of the plan.
        wanted: usize,
        /// Positions that a session holds.
        context: usize,
    },
    /// A pass failed.
    #[error(transparent)]
    Forward(#[from] ForwardError),
}

/// What was measured, one value per repetition.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Speeds {
    /// Tokens of the prompt per second.
    pub prefill_tok_s: Vec<f64>,
    /// Tokens decoded per second.
    pub decode_tok_s: Vec<f64>,
    /// Seconds of one pass of so many tokens.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub verify_s: BTreeMap<usize, Vec<f64>>,
}

/// Measures `worker`'s model. `step` is called after each measurement.
///
/// # Errors
/// When the plan is longer than a session, or a pass fails. Nothing is allocated for a plan that is too long.
pub fn measure(worker: &mut Worker, plan: &Plan, step: &mut dyn FnMut()) -> Result<Speeds, BenchError> {
    let (wanted, context) = (plan.context(), worker.model().context());
    if wanted > context {
        return Err(BenchError::TooLong { wanted, context });
    }
    let mut cache = worker.model().new_cache(worker.all_layers());
    let vocab = worker.model().graph().vocab;
    if plan.depth > 0 {
        worker.run(&mut cache, &tokens(plan.depth, vocab, 0), Keep::Last)?;
    }
    let mut stand = Stand {
        worker,
        cache,
        depth: plan.depth,
        vocab,
    };
    let mut speeds = Speeds::default();
    // Repetition 0 is the warm-up. Rounds take turns, so that a slow minute of the machine falls on all figures.
    for repetition in 0..=plan.repetitions {
        let counts = repetition > 0;
        if plan.prompt > 0 {
            let seconds = stand.prefill(plan.prompt)?;
            speeds
                .prefill_tok_s
                .extend(counts.then(|| plan.prompt as f64 / seconds));
        }
        if plan.generate > 0 {
            let generate = if counts {
                plan.generate
            } else {
                plan.generate.min(WARM_UP_TOKENS)
            };
            let seconds = stand.decode(generate)?;
            speeds
                .decode_tok_s
                .extend(counts.then(|| generate as f64 / seconds));
        }
        for &width in &plan.verify {
            let seconds = stand.pass(width)?;
            speeds
                .verify_s
                .entry(width)
                .or_default()
                .extend(counts.then_some(seconds));
        }
        step();
    }
    Ok(speeds)
}

/// Takes one token through the whole model.
///
/// # Errors
/// When the pass fails.
pub fn first_token(worker: &mut Worker) -> Result<(), ForwardError> {
    let mut cache = worker.model().new_cache(worker.all_layers());
    worker.run(&mut cache, &[TokenId(0)], Keep::Last).map(drop)
}

/// Tokens decoded to warm up.
const WARM_UP_TOKENS: usize = 8;

/// Passes of one width that are timed together, so that a short pass is not lost in the clock's noise.
const PASSES: usize = 5;

/// A worker with a cache filled to some depth.
struct Stand<'a> {
    worker: &'a mut Worker,
    cache: KvCache,
    depth: usize,
    vocab: usize,
}

impl Stand<'_> {
    fn prefill(&mut self, count: usize) -> Result<f64, ForwardError> {
        let prompt = tokens(count, self.vocab, 1);
        self.timed(|worker, cache| worker.run(cache, &prompt, Keep::Last).map(drop))
    }

    fn decode(&mut self, count: usize) -> Result<f64, ForwardError> {
        let answer = tokens(count, self.vocab, 2);
        self.timed(|worker, cache| {
            answer
                .iter()
                .try_for_each(|token| worker.run(cache, &[*token], Keep::Last).map(drop))
        })
    }

    /// The median of some passes of `width` tokens.
    fn pass(&mut self, width: usize) -> Result<f64, ForwardError> {
        let drafted = tokens(width, self.vocab, 3);
        let mut seconds = Vec::with_capacity(PASSES);
        for _ in 0..PASSES {
            seconds.push(self.timed(|worker, cache| worker.run(cache, &drafted, Keep::All).map(drop))?);
        }
        seconds.sort_by(f64::total_cmp);
        Ok(seconds[PASSES / 2])
    }

    /// Seconds that `job` takes; the cache is as before afterwards.
    fn timed(
        &mut self,
        job: impl FnOnce(&mut Worker, &mut KvCache) -> Result<(), ForwardError>,
    ) -> Result<f64, ForwardError> {
        let began = Instant::now();
        job(self.worker, &mut self.cache)?;
        let seconds = began.elapsed().as_secs_f64();
        self.cache.rollback(Position(self.depth as u32));
        Ok(seconds)
    }
}

/// `count` tokens, which a session was found to hold, that look like no text: their values do not change what a pass costs, but equal rows might let
/// a cache help.
fn tokens(count: usize, vocab: usize, stream: u32) -> Vec<TokenId> {
    let mix = |i: u32| (i ^ stream.rotate_left(16)).wrapping_mul(2_654_435_761) >> 8;
    (0..count as u32)
        .map(|i| TokenId((mix(i) as usize % vocab.max(1)) as u32))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use heph_engine::model::{LoadOptions, Model};
    use heph_kernels::isa::Isa;
    use heph_kernels::pool::Pool;

    use super::*;
    use crate::bundled::STORY_DRAFT;
    use crate::store::Found;

    #[test]
    fn a_plan_that_no_session_holds_is_refused_before_anything_is_allocated() {
        let source = Arc::new(crate::open::open(&Found::Bundled(STORY_DRAFT)).unwrap());
        let options = LoadOptions {
            context: Some(32),
            ..LoadOptions::default()
        };
        let pool = Arc::new(Pool::serial());
        let model = Arc::new(Model::load(source, &options, &pool, &mut |_| {}).unwrap());
        let mut worker = Worker::new(model, pool, Isa::Scalar);
        let short = Plan {
            prompt: 16,
            generate: 2,
            depth: 16,
            repetitions: 1,
            verify: vec![4],
        };
        assert!(measure(&mut worker, &short, &mut || {}).is_ok());
        for (prompt, generate, depth, widest) in [
            (17, 2, 16, 1),
            (99_999_999_999, 1, 0, 1),
            (1, usize::MAX, 0, 1),
            (1, usize::MAX, usize::MAX, 1),
            (1, 1, 99_999_999_999, 1),
            (1, 1, 0, usize::MAX),
        ] {
            let plan = Plan {
                prompt,
                generate,
                depth,
                verify: vec![widest],
                ..short.clone()
            };
            let refused = measure(&mut worker, &plan, &mut || {});
            assert!(matches!(refused, Err(BenchError::TooLong { context: 32, .. })));
        }
    }
}
