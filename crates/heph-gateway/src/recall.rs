//! Answers that are given again (`heph serve --semantic-cache BOUND`): which requests may have one, and what is learnt from
//! the others. When an answer may be given to another question is [`heph_engine::recall`]'s affair.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use heph_engine::prefix::{Reach, Share};
use heph_engine::recall::{
    Asked, Bound, Lesson, Marks, Realm, Recall, Recalled, TEXT_BYTES_MAX, Topic, Verdict,
};
use heph_engine::tokenizer::{AddSpecial, ParseSpecial};
use heph_plan::Mode;
use heph_privacy::label::Label;
use heph_runtime::bundled;
use heph_runtime::service::{Ending, Job, Outcome};
use serde_json::{Value, json};

use crate::ask::{Ask, Source};
use crate::engines::{Reader, Writer};
use crate::house::Door;

/// The answers of this process, and how often they were given again.
pub(crate) struct Memory {
    recall: Mutex<Recall>,
    /// What the system gave as a beginning of all draws, and how many there were.
    secret: [u8; 32],
    draws: AtomicU64,
    again: AtomicU64,
    asked: AtomicU64,
}

impl Memory {
    pub(crate) fn new(bound: Bound) -> Option<Self> {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).ok()?;
        Some(Self {
            recall: Mutex::new(Recall::new(bound)),
            secret,
            draws: AtomicU64::new(0),
            again: AtomicU64::new(0),
            asked: AtomicU64::new(0),
        })
    }

    /// Answers given again, questions asked all the same, and answers that are kept.
    pub(crate) fn counts(&self) -> (u64, u64, usize) {
        let kept = self.lock().len();
        (
            self.again.load(Ordering::Relaxed),
            self.asked.load(Ordering::Relaxed),
            kept,
        )
    }

    fn look(&self, asked: Asked) -> Verdict {
        let number = self.draws.fetch_add(1, Ordering::Relaxed);
        let hash = blake3::keyed_hash(&self.secret, &number.to_le_bytes());
        let (bits, _) = hash.as_bytes().split_first_chunk().expect("32 bytes hold 8");
        // The upper 53 bits are the numbers from 0 up to 1 that an f64 holds.
        let draw = (u64::from_le_bytes(*bits) >> 11) as f64 / (1_u64 << 53) as f64;
        let verdict = self.lock().look(asked, draw);
        let count = match verdict {
            Verdict::Again(_) => &self.again,
            Verdict::Ask(_) => &self.asked,
        };
        count.fetch_add(1, Ordering::Relaxed);
        verdict
    }

    fn lock(&self) -> MutexGuard<'_, Recall> {
        self.recall.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An answer that is not computed: what it was, and what it took to find it.
pub(crate) struct Found {
    pub(crate) recalled: Recalled,
    pub(crate) outcome: Outcome,
}

/// The text of an answer that will be learnt from, as far as it has come.
pub(crate) struct Learning {
    lesson: Lesson,
    text: String,
    too_long: bool,
}

impl Learning {
    pub(crate) fn new(lesson: Lesson) -> Self {
        Self {
            lesson,
            text: String::new(),
            too_long: false,
        }
    }

    pub(crate) fn hears(&mut self, text: &str) {
        self.too_long |= self.text.len() + text.len() > TEXT_BYTES_MAX;
        if !self.too_long {
            self.text.push_str(text);
        }
    }

    /// The answer is complete. One that was cut short teaches nothing.
    pub(crate) fn ends(self, door: &Door, ending: &Ending) {
        let whole = matches!(ending, Ending::Stop | Ending::StopText(_)) && !self.too_long;
        if let Some(memory) = door.memory.as_ref().filter(|_| whole) {
            memory.lock().learn(self.lesson, &self.text);
        }
    }
}

/// What the memory says to a request; `None` where none is kept, or the request is not of a kind that may have an answer of
/// another: several choices, tools, probabilities, sampled words unless it says so, or no question at the end.
pub(crate) async fn look(
    door: &Door,
    ask: &Arc<Ask>,
    job: &Job,
    writer: &Arc<Writer>,
    share: Share,
) -> Option<Verdict> {
    let memory = door.memory.as_ref()?;
    let began = Instant::now();
    let (topic, text) = question(ask, job, writer, share)?;
    let marks = Marks::of(&text)?;
    let reader = door.engines.reader(bundled::EMBED.name).await.ok()?;
    let words = text.clone();
    let (asks, house, writes) = (Arc::clone(ask), Arc::clone(door), Arc::clone(writer));
    let looked = move || {
        let label = asks
            .discretion(&house, Some(writes.service.words()))
            .ok()?
            .label();
        Some((vector(&reader, &words)?, label))
    };
    let (vector, label) = tokio::task::spawn_blocking(looked).await.ok()??;
    let asked = Asked {
        realm: realm(writer, share),
        topic: as_private(&topic, &label),
        text,
        marks,
        vector,
    };
    tracing::debug!(took = ?began.elapsed(), "looked for an answer to give again");
    Some(memory.look(asked))
}

/// What a recalled answer comes to in numbers.
pub(crate) fn found(recalled: Recalled, job: &Job, writer: &Writer, began: Instant) -> Found {
    let tokenizer = &writer.service.words().tokenizer;
    let answer = tokenizer.encode(&recalled.answer, AddSpecial::No, ParseSpecial::No);
    let total: Duration = began.elapsed();
    Found {
        recalled,
        outcome: Outcome {
            ending: Ending::Stop,
            prompt_tokens: job.prompt.len(),
            cached_tokens: job.prompt.len(),
            answer_tokens: answer.len(),
            first_token: total,
            total,
            elsewhere: None,
        },
    }
}

/// What a receipt says of an answer that was given before.
pub(crate) fn told(recalled: &Recalled, door: &Door) -> Value {
    let bound = door.memory.as_ref().map(|memory| memory.lock().bound().share());
    json!({ "question": recalled.question, "likeness": recalled.likeness, "bound": bound })
}

fn vector(reader: &Reader, text: &str) -> Option<Vec<f32>> {
    let tokens = reader.words.tokenizer.encode_within(text, usize::MAX)?;
    if tokens.is_empty() || tokens.len() > reader.context {
        return None;
    }
    reader.encode(&[&tokens]).ok()?.pop()
}

/// The question at the end of a conversation, and everything else that its answer depends on.
fn question(ask: &Ask, job: &Job, writer: &Writer, share: Share) -> Option<(Topic, String)> {
    let Source::Chat(turns) = &ask.source else {
        return None;
    };
    let (last, before) = turns.split_last()?;
    let plain = last.role == "user" && last.calls.is_empty();
    let wished = ask.wishes.recall;
    let sampled = job.sampling.temperature > 0.0;
    let may = wished.unwrap_or(!sampled) && share.reach > Reach::Nowhere;
    // A mode by name is a wish for those who answer, and texts are no part of the question.
    let here = matches!(ask.wishes.mode(), Ok(None | Some(Mode::Local))) && ask.wishes.documents.is_none();
    let simple = here && ask.choices == 1 && job.logprobs.is_none() && !ask.toolbox.may_call();
    if !(plain && may && simple) {
        return None;
    }
    // Without noise the seed says nothing, and where none was named it is another each time.
    let seed = ask.sampling.seed.filter(|_| sampled);
    let sampling = heph_engine::sample::SamplingOptions {
        seed: 0,
        ..job.sampling.clone()
    };
    let rest = (
        before,
        &last.name,
        &sampling,
        seed,
        ask.max_tokens,
        &job.stops,
        &ask.form,
    );
    let mut hasher = blake3::Hasher::new_derive_key("HEPH 2026-11 circumstances of a question");
    hasher.update(&realm(writer, share).0);
    hasher.update(format!("{rest:?}").as_bytes());
    Some((Topic(hasher.finalize().into()), last.content.clone()))
}

/// What is more private, or so for other reasons, is another topic: an answer is as private as the question that it was given to.
fn as_private(topic: &Topic, label: &Label) -> Topic {
    let mut hasher = blake3::Hasher::new_derive_key("HEPH 2026-11 how private a question is");
    hasher.update(&topic.0);
    let reasons = format!("{label:?}");
    hasher.update(reasons.as_bytes());
    Topic(hasher.finalize().into())
}

fn realm(writer: &Writer, share: Share) -> Realm {
    let mut hasher = blake3::Hasher::new_derive_key("HEPH 2026-11 realm of answers");
    hasher.update(&writer.hash.0);
    hasher.update(&share.owner.0);
    Realm(hasher.finalize().into())
}

#[cfg(test)]
mod tests;
