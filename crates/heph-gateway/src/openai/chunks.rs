//! What chat and completions write alike: the fields around choices, and the chunks of a stream.

use serde_json::{Value, json};

use super::FINGERPRINT;
use crate::answer::Answer;
use crate::house::{Door, now_ms};
use crate::shape::{Frames, Mould};

/// One of the two, by what it calls itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct Api {
    /// How its ids begin.
    id: &'static str,
    whole: &'static str,
    chunk: &'static str,
}

/// `POST /v1/chat/completions`.
pub(super) const CHAT: Api = Api {
    id: "chatcmpl",
    whole: "chat.completion",
    chunk: "chat.completion.chunk",
};

/// `POST /v1/completions`.
pub(super) const COMPLETION: Api = Api {
    id: "cmpl",
    whole: "text_completion",
    chunk: "text_completion",
};

impl Api {
    /// What an answer is called.
    fn id_of(self, answer: &Answer) -> String {
        format!("{}-{}", self.id, answer.id)
    }

    /// The complete answer to so many prompts.
    pub(super) fn whole(self, answer: &Answer, choices: Vec<Value>, prompts: usize) -> Value {
        let mut body = head(
            &self.id_of(answer),
            self.whole,
            answer.created_s,
            answer.model(),
            choices.into(),
        );
        body["usage"] = usage_of(answer, prompts);
        body["heph"] = json!(answer.receipt());
        body
    }
}

fn head(id: &str, object: &str, created_s: u64, model: &str, choices: Value) -> Value {
    json!({
        "id": id, "object": object, "created": created_s, "model": model, "system_fingerprint": FINGERPRINT,
        "choices": choices,
    })
}

/// The tokens, as OpenAI counts them.
pub(crate) fn usage_of(answer: &Answer, prompts: usize) -> Value {
    let usage = answer.usage(prompts);
    json!({
        "prompt_tokens": usage.prompt, "completion_tokens": usage.answer, "total_tokens": usage.prompt + usage.answer,
        "prompt_tokens_details": { "cached_tokens": usage.cached },
    })
}

/// The chunks of one answer, or of several that follow each other as one.
pub(super) struct Chunks {
    api: Api,
    id: String,
    created_s: u64,
    model: String,
    prompts: usize,
    /// Whether the tokens are told after the last choice.
    usage: bool,
    /// Choices that have not ended.
    left: usize,
    /// For each choice, once it has said something.
    moulds: Vec<Option<Mould>>,
}

impl Chunks {
    /// For an answer to so many prompts.
    pub(super) fn new(api: Api, answer: &Answer, prompts: usize, usage: bool) -> Self {
        Self {
            api,
            id: api.id_of(answer),
            created_s: answer.created_s,
            model: answer.model().to_owned(),
            prompts,
            usage,
            left: answer.choices(),
            moulds: vec![None; answer.choices()],
        }
    }

    /// For an answer of one choice by `model` that nobody was asked for yet.
    pub(super) fn ahead(api: Api, door: &Door, model: &str, usage: bool) -> Self {
        Self {
            api,
            id: format!("{}-{}", api.id, door.serial()),
            created_s: now_ms() / 1000,
            model: model.to_owned(),
            prompts: 1,
            usage,
            left: 1,
            moulds: vec![None],
        }
    }

    /// A chunk of these choices.
    pub(super) fn of(&self, choices: Value) -> Value {
        let mut chunk = head(&self.id, self.api.chunk, self.created_s, &self.model, choices);
        if self.usage {
            chunk["usage"] = Value::Null;
        }
        chunk
    }

    /// A chunk that adds nothing but text to a choice, of which `one` makes the choice from its text.
    pub(super) fn text(
        &mut self,
        choice: usize,
        text: &str,
        one: impl FnOnce(&str) -> Value,
        out: &mut Frames,
    ) {
        if self.moulds[choice].is_none() {
            let chunk = self.of(json!([one(Mould::HOLE)]));
            self.moulds[choice] = Some(Mould::data(&chunk));
        }
        if let Some(mould) = &self.moulds[choice] {
            out.cast(mould, text);
        }
    }

    /// The last chunk of a choice; that of the last choice has the receipt.
    pub(super) fn last(&mut self, answer: &Answer, one: Value, out: &mut Frames) {
        self.left -= 1;
        let mut chunk = self.of(json!([one]));
        if self.left == 0
            && let Some(receipt) = answer.receipt()
        {
            chunk["heph"] = receipt.clone();
        }
        out.data(&chunk);
    }

    /// What comes after the last choice.
    pub(super) fn end(&self, answer: &Answer, out: &mut Frames) {
        if self.usage {
            let mut chunk = self.of(json!([]));
            chunk["usage"] = usage_of(answer, self.prompts);
            out.data(&chunk);
        }
        out.word("[DONE]");
    }
}
