//! What the door says to whoever listens to its log: names of models and kinds of things, and no word of a question or an answer.

use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::json;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::knocking::{chat, door};

/// Everything that crates of this house said.
static SAID: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Hears every event of every level.
struct Listener(AtomicU64);

impl Subscriber for Listener {
    fn enabled(&self, about: &Metadata) -> bool {
        about.target().starts_with("heph")
    }

    fn new_span(&self, about: &Attributes) -> Id {
        let mut words = Words::default();
        about.record(&mut words);
        words.keep();
        Id::from_u64(self.0.fetch_add(1, Ordering::Relaxed) + 1)
    }

    fn record(&self, _: &Id, values: &Record) {
        let mut words = Words::default();
        values.record(&mut words);
        words.keep();
    }

    fn event(&self, event: &Event) {
        let mut words = Words::default();
        event.record(&mut words);
        words.keep();
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

#[derive(Default)]
struct Words(String);

impl Words {
    fn keep(self) {
        SAID.lock().unwrap().push(self.0);
    }
}

impl Visit for Words {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0 += &format!("{field}={value:?} ");
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0 += &format!("{field}={value} ");
    }
}

#[test]
fn no_word_of_a_question_or_an_answer_is_told_to_a_log() {
    // Other tests of this program may run beside this one, and are heard too.
    let _ = tracing::subscriber::set_global_default(Listener(AtomicU64::new(0)));
    let door = door();
    let canary = "vuzokemigal";
    let question = |more: serde_json::Value| {
        let mut body = json!({
            "messages": [{ "role": "user", "content": format!("Tell me a story about {canary}.") }],
            "max_tokens": 24, "temperature": 0,
        });
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        body
    };
    let answer = chat(&door, &question(json!({})));
    let piece = answer.trim();
    assert!(piece.len() > 12, "{answer}");
    let streamed = door.events("/v1/chat/completions", &question(json!({ "stream": true })));
    assert!(streamed.len() > 1);
    for wrong in [
        json!({ "model": canary }),
        json!({ "temperature": canary }),
        json!({ "tools": [{ "type": "function", "function": { "name": canary, "parameters": { "type": canary } } }] }),
        json!({ "response_format": { "type": "json_schema", "json_schema": { "name": canary, "schema": { "$ref": canary } } } }),
    ] {
        let (_, _) = door.post("/v1/chat/completions", &question(wrong));
    }
    let (status, _) = door.post("/v1/embeddings", &json!({ "input": canary }));
    assert!(status < 500);
    let said = SAID.lock().unwrap();
    assert!(
        said.iter().any(|line| line.contains("asked")) && said.iter().any(|line| line.contains("answered")),
        "{said:?}"
    );
    let leaked = said
        .iter()
        .find(|line| line.contains(canary) || line.contains(piece));
    assert_eq!(leaked, None);
}
