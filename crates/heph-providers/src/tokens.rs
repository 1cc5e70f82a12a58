//! Servers that take tokens as they are and give tokens back: vLLM, SGLang, and HEPH's own door.
//!
//! What they compute is theirs: the tokens are the likeliest by their arithmetic, not by ours.

use heph_privacy::Cleared;
use serde_json::{Value, json};

use crate::client::{AskError, Call, Client, Listener, meant};
use crate::frames::{Frames, Framing};
use crate::provider::Provider;
use crate::question::Sampling;
use crate::reading::{Wrong, sentence};
use crate::secret::Secret;

/// What is to be gone on from, and how. What was not cleared is not gone on from:
///
/// ```compile_fail
/// # use heph_providers::{Client, Listener, Provider, tokens::TokenQuestion};
/// async fn tell(client: &Client, to: &Provider, question: &TokenQuestion<'_>, listener: &Listener<'_>) {
///     let _ = client.go_on(to, None, question, listener, &mut |_| true).await;
/// }
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct TokenQuestion<'a> {
    /// The model, as the server calls it.
    pub model: &'a str,
    /// The tokens so far; at least one.
    pub prompt: &'a [u32],
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Added to the logits of these tokens.
    pub logit_bias: &'a [(u32, f32)],
    /// Tokens to make at most; at least one.
    pub max_tokens: u64,
}

/// Bytes that crossed the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Bytes {
    /// Of the bodies that went there.
    pub up: u64,
    /// Of those that came.
    pub down: u64,
}

impl TokenQuestion<'_> {
    fn json(&self) -> Value {
        let Sampling {
            temperature,
            top_p,
            top_k,
            min_p,
            repeat_penalty,
            frequency_penalty,
            presence_penalty,
            seed,
        } = self.sampling;
        let bias: serde_json::Map<String, Value> = self
            .logit_bias
            .iter()
            .map(|(token, bias)| (token.to_string(), json!(bias)))
            .collect();
        let mut json = json!({
            "model": self.model, "prompt": self.prompt, "max_tokens": self.max_tokens, "return_token_ids": true,
            // An end is told as a token, so that whoever asked sees it.
            "ignore_eos": false, "include_stop_str_in_output": true, "skip_special_tokens": false,
        });
        let named = [
            ("temperature", json!(temperature)),
            ("top_p", json!(top_p)),
            ("top_k", json!(top_k)),
            ("min_p", json!(min_p)),
            ("repetition_penalty", json!(repeat_penalty)),
            ("frequency_penalty", json!(frequency_penalty)),
            ("presence_penalty", json!(presence_penalty)),
            ("seed", json!(seed)),
        ];
        for (name, value) in named {
            if !value.is_null() {
                json[name] = value;
            }
        }
        if !bias.is_empty() {
            json["logit_bias"] = Value::Object(bias);
        }
        json
    }
}

/// Why a stream of tokens ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenEnd {
    /// The model ended it. The token that did so may have been told or not.
    Stop,
    /// It has as many as asked for.
    Length,
}

impl Client {
    /// Goes on from tokens, each told as it comes; `more` says whether another one is wanted.
    ///
    /// # Errors
    /// When the server gives none, breaks off, or tells no tokens.
    pub async fn go_on(
        &self,
        provider: &Provider,
        key: Option<&Secret>,
        question: &Cleared<TokenQuestion<'_>>,
        listener: &Listener<'_>,
        more: &mut (dyn FnMut(u32) -> bool + Send),
    ) -> Result<(Option<TokenEnd>, Bytes), AskError> {
        let leave = question.clearance();
        let question = meant(provider, question)?;
        let mut call = Call::new(self, provider, key, listener).bearing(leave);
        let mut json = question.json();
        json["stream"] = json!(true);
        let mut response = call.post("/completions", &json, "text/event-stream").await?;
        let mut frames = Frames::new(Framing::Events, EVENT_BYTES_MAX);
        let (mut events, mut end, mut told) = (Vec::new(), None, 0_u64);
        let bytes = |call: &Call<'_>| Bytes {
            up: call.up,
            down: call.down as u64,
        };
        loop {
            let chunk = call.chunk(&mut response).await?;
            let framed = match &chunk {
                Some(bytes) => frames.push(bytes, &mut events),
                None => frames.finish(&mut events),
            };
            framed.map_err(|_| call.nonsense("an event is longer than any sound one"))?;
            for event in events.drain(..) {
                if event == b"[DONE]" {
                    return Ok((
                        Some(end.ok_or_else(|| call.nonsense("the stream has no end"))?),
                        bytes(&call),
                    ));
                }
                let event: Value =
                    serde_json::from_slice(&event).map_err(|_| call.nonsense("an event is no JSON"))?;
                if let Some(error) = event.get("error").filter(|error| !error.is_null()) {
                    return Err(call.wrong(Wrong::Failed(sentence(error))));
                }
                let choice = &event["choices"][0];
                let ids = choice["token_ids"].as_array();
                let text = choice["text"].as_str().unwrap_or_default();
                if ids.is_none() && !text.is_empty() {
                    return Err(call.nonsense("it tells texts and no tokens"));
                }
                for id in ids.into_iter().flatten() {
                    let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
                    let id = id.ok_or_else(|| call.nonsense("a token is no number"))?;
                    told += 1;
                    if told > question.max_tokens {
                        return Err(call.nonsense("there are more tokens than were asked for"));
                    }
                    if !more(id) {
                        return Ok((None, bytes(&call)));
                    }
                }
                match choice["finish_reason"].as_str() {
                    Some("length") => end = Some(TokenEnd::Length),
                    Some(_) => end = Some(TokenEnd::Stop),
                    None => {}
                }
            }
            if chunk.is_none() {
                return Err(call.nonsense("the stream has no end"));
            }
        }
    }

    /// The likeliest token after each of the last `answers` tokens of the prompt: the server reads the whole prompt in one
    /// pass and tells the probabilities of its tokens, of which the likeliest at each place is read, and one token behind it;
    /// `end` where it ends there and says no token.
    ///
    /// # Errors
    /// When the server does not tell them.
    ///
    /// # Panics
    /// When no answer is wanted, or more than there are tokens.
    pub async fn likeliest(
        &self,
        provider: &Provider,
        key: Option<&Secret>,
        question: &Cleared<TokenQuestion<'_>>,
        answers: usize,
        end: u32,
        listener: &Listener<'_>,
    ) -> Result<(Vec<u32>, Bytes), AskError> {
        let leave = question.clearance();
        let question = meant(provider, question)?;
        let prompt = question.prompt;
        assert!(
            (1..=prompt.len()).contains(&answers),
            "answers for tokens of the prompt"
        );
        let mut call = Call::new(self, provider, key, listener).bearing(leave);
        let mut json = question.json();
        json["max_tokens"] = json!(1);
        json["temperature"] = json!(0);
        if answers > 1 {
            json["prompt_logprobs"] = json!(1);
        }
        let told = call.whole("/completions", Some(&json)).await?;
        let choice = &told["choices"][0];
        let mut tokens = Vec::with_capacity(answers);
        if answers > 1 {
            let rows = choice["prompt_logprobs"].as_array();
            let rows = rows.filter(|rows| rows.len() == prompt.len());
            let rows = rows.ok_or_else(|| call.nonsense("it tells no probabilities of the prompt"))?;
            for (row, given) in rows.iter().zip(prompt).skip(prompt.len() + 1 - answers) {
                let likeliest = likeliest(row, *given);
                tokens.push(
                    likeliest.ok_or_else(|| call.nonsense("a place of the prompt has no likeliest token"))?,
                );
            }
        }
        let ids = choice["token_ids"].as_array();
        let ids = ids.ok_or_else(|| call.nonsense("it tells texts and no tokens"))?;
        tokens.push(match ids.first() {
            None if choice["finish_reason"] == "stop" => end,
            None => return Err(call.nonsense("there is no token")),
            Some(id) => id
                .as_u64()
                .and_then(|id| u32::try_from(id).ok())
                .ok_or_else(|| call.nonsense("a token is no number"))?,
        });
        let (up, down) = (call.up, call.down as u64);
        Ok((tokens, Bytes { up, down }))
    }
}

/// Bytes of one event.
const EVENT_BYTES_MAX: usize = 1 << 20;

/// The token of rank 1 at a place; the given token counts among those that are told. Where ranks are missing or equal, the
/// greatest probability decides, and where those are equal too the smallest token, as a sampler that takes the first does.
fn likeliest(row: &Value, given: u32) -> Option<u32> {
    let told = row.as_object()?;
    let mut best: Option<(f64, u32)> = None;
    for (token, about) in told {
        let token: u32 = token.parse().ok()?;
        let value = about["logprob"].as_f64()?;
        if !value.is_finite() && token != given {
            return None;
        }
        if about["rank"] == 1 {
            return Some(token);
        }
        let better = best.is_none_or(|(most, least)| value > most || value == most && token < least);
        if better {
            best = Some((value, token));
        }
    }
    best.map(|(_, token)| token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_likeliest_token_is_the_one_of_rank_one() {
        let row = json!({ "5": { "logprob": -0.1, "rank": 1 }, "9": { "logprob": -4.0, "rank": 7 } });
        assert_eq!(likeliest(&row, 9), Some(5));
        let only = json!({ "9": { "logprob": -0.2, "rank": 1 } });
        assert_eq!(likeliest(&only, 9), Some(9));
        let unranked =
            json!({ "8": { "logprob": -0.5 }, "3": { "logprob": -0.5 }, "1": { "logprob": -2.0 } });
        assert_eq!(likeliest(&unranked, 1), Some(3));
        for wrong in [
            json!(null),
            json!([]),
            json!({ "x": { "logprob": 0 } }),
            json!({ "1": {} }),
            json!({}),
        ] {
            assert_eq!(likeliest(&wrong, 1), None, "{wrong}");
        }
    }
}
