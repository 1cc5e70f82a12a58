//! The probabilities of a prompt's own tokens: what `echo` with `logprobs` and `prompt_logprobs` tell.
//!
//! The prompt goes through the model once more for them, beside the batch and with the same bits; one prompt at a time.

use std::sync::{Arc, PoisonError};

use heph_engine::sample::{LogProbability, log_probabilities};
use heph_engine::worker::Keep;
use heph_runtime::cancel::Cancel;
use heph_types::TokenId;

use crate::caller;
use crate::engines::Writer;
use crate::error::Refusal;

/// Tokens whose logits are held together: 16 rows of a vocabulary of 128 thousand are 8 MB.
const ROWS: usize = 16;

/// What is known of a token of the prompt.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PromptToken {
    pub(crate) token: TokenId,
    /// What the tokens before it say of it; nothing for the first.
    pub(crate) told: Option<Told>,
}

/// A token's probability, its place among all, and the likeliest ones.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Told {
    pub(crate) value: f64,
    /// 1 for the likeliest; of equals the smaller token comes first, as it is chosen.
    pub(crate) rank: usize,
    pub(crate) top: Vec<LogProbability>,
}

/// What is known of each token of `prompts`, with the `top` likeliest in its place.
pub(crate) async fn told(
    writer: &Arc<Writer>,
    prompts: Vec<Vec<TokenId>>,
    top: usize,
) -> Result<Vec<Vec<PromptToken>>, Refusal> {
    let writer = Arc::clone(writer);
    let work = move |cancel: &Cancel| {
        prompts
            .iter()
            .map(|prompt| one(&writer, prompt, top, cancel))
            .collect()
    };
    caller::on_thread(work).await?
}

fn one(
    writer: &Writer,
    prompt: &[TokenId],
    top: usize,
    cancel: &Cancel,
) -> Result<Vec<PromptToken>, Refusal> {
    let mut worker = writer.prober.lock().unwrap_or_else(PoisonError::into_inner);
    let mut cache = worker.model().new_cache(worker.all_layers());
    let vocab = worker.model().graph().vocab;
    let mut told = Vec::with_capacity(prompt.len());
    told.extend(prompt.first().map(|&token| PromptToken { token, told: None }));
    // The last row says what follows the prompt, which is the answer's affair.
    let rows = prompt.len().saturating_sub(1);
    for from in (0..rows).step_by(ROWS) {
        caller::waits(cancel)?;
        let to = rows.min(from + ROWS);
        let logits = worker
            .run(&mut cache, &prompt[from..to], Keep::All)
            .map_err(Refusal::ours)?;
        for (row, &token) in logits.chunks_exact(vocab).zip(&prompt[from + 1..=to]) {
            let (chosen, top) = log_probabilities(row, token, top);
            let own = row.get(token.index()).copied().unwrap_or(f32::NEG_INFINITY);
            let before = |(at, logit): &(usize, &f32)| **logit > own || **logit == own && *at < token.index();
            let told_of = Told {
                value: chosen.value,
                rank: 1 + row.iter().enumerate().filter(before).count(),
                top,
            };
            told.push(PromptToken {
                token,
                told: Some(told_of),
            });
        }
    }
    Ok(told)
}
