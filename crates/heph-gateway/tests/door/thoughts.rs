//! What an outside provider's model thinks before it answers: passed on by every API that has a field for it, and part of no answer.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::knocking::Door;
use crate::shown::ruled;

/// A provider that thinks before it answers.
fn thinking() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let deltas = [
            json!({ "role": "assistant", "reasoning_content": "Ferries to the island " }),
            json!({ "reasoning_content": "are slow in winter." }),
            json!({ "content": "At " }),
            json!({ "content": "noon." }),
        ];
        let event = |delta: &Value, why: Value| {
            let choice = json!({ "index": 0, "delta": delta, "finish_reason": why });
            format!("data: {}\n\n", json!({ "choices": [choice] }))
        };
        let said: String = deltas.iter().map(|delta| event(delta, Value::Null)).collect();
        let body = format!("{said}{}data: [DONE]\n\n", event(&json!({}), json!("stop")));
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let _ = stream.read(&mut [0; 8192]);
            let _ = stream.write_all(format!("{head}{body}").as_bytes());
        }
    });
    url
}

const THOUGHT: &str = "Ferries to the island are slow in winter.";
const ANSWER: &str = "At noon.";

/// The texts that stand at `place` in the values, one after the other.
fn all(values: &[Value], place: &str) -> String {
    let texts = values.iter().filter_map(|value| value.pointer(place)?.as_str());
    texts.collect()
}

/// A stream's lines of JSON, whatever stands before each.
fn lines(door: &Door, path: &str, body: &Value) -> Vec<Value> {
    let (status, text) = door.post(path, body);
    assert_eq!(status, 200, "{path}: {text}");
    let lines = text
        .lines()
        .map(|line| line.strip_prefix("data: ").unwrap_or(line));
    lines.filter_map(|line| serde_json::from_str(line).ok()).collect()
}

#[test]
fn thoughts_are_passed_on_where_a_shape_has_a_field_and_are_part_of_no_answer() {
    let door = ruled(&thinking(), None);
    let turns = json!([{ "role": "user", "content": "When does the ferry leave?" }]);
    let asked = |stream: bool, more: Value| {
        let mut body = json!({ "model": "far/m", "messages": turns, "stream": stream });
        let body_fields = body.as_object_mut().unwrap();
        body_fields.extend(more.as_object().unwrap().clone());
        body
    };

    let path = "/v1/chat/completions";
    let message = &door.json(path, &asked(false, json!({})))["choices"][0]["message"];
    assert_eq!(
        (&message["reasoning_content"], &message["content"]),
        (&json!(THOUGHT), &json!(ANSWER))
    );
    let chunks = door.events(path, &asked(true, json!({})));
    assert_eq!(all(&chunks, "/choices/0/delta/reasoning_content"), THOUGHT);
    assert_eq!(all(&chunks, "/choices/0/delta/content"), ANSWER);

    for (path, whole, piece) in [
        ("/api/chat", "/message/thinking", "/message/content"),
        ("/api/generate", "/thinking", "/response"),
    ] {
        let body = |stream| asked(stream, json!({ "prompt": "When does the ferry leave?" }));
        for said in [lines(&door, path, &body(false)), lines(&door, path, &body(true))] {
            assert_eq!(
                (all(&said, whole), all(&said, piece)),
                (THOUGHT.to_owned(), ANSWER.to_owned()),
                "{path}"
            );
        }
    }

    let path = "/v1/responses";
    let body = |stream: bool| json!({ "model": "far/m", "input": turns, "stream": stream });
    let output = &door.json(path, &body(false))["output"];
    assert_eq!(
        (&output[0]["type"], &output[0]["content"][0]["text"]),
        (&json!("reasoning"), &json!(THOUGHT))
    );
    assert_eq!(
        (&output[1]["type"], &output[1]["content"][0]["text"]),
        (&json!("message"), &json!(ANSWER))
    );
    let events = lines(&door, path, &body(true));
    let of = |kind: &str| -> Vec<Value> {
        events
            .iter()
            .filter(|event| event["type"] == kind)
            .cloned()
            .collect()
    };
    assert_eq!(all(&of("response.reasoning_text.delta"), "/delta"), THOUGHT);
    assert_eq!(all(&of("response.reasoning_text.done"), "/text"), THOUGHT);
    assert_eq!(all(&of("response.output_text.delta"), "/delta"), ANSWER);
    assert_eq!(of("response.output_item.done").len(), 2);

    // Who did not ask for thoughts takes the first block for the answer.
    let path = "/v1/messages";
    let body =
        |stream: bool, thinking: Value| asked(stream, json!({ "max_tokens": 50, "thinking": thinking }));
    let plain = &door.json(path, &body(false, Value::Null))["content"];
    assert_eq!(
        (plain.as_array().unwrap().len(), &plain[0]["text"]),
        (1, &json!(ANSWER))
    );
    let wish = || json!({ "type": "enabled", "budget_tokens": 1024 });
    let told = &door.json(path, &body(false, wish()))["content"];
    assert_eq!(
        (&told[0]["thinking"], &told[1]["text"]),
        (&json!(THOUGHT), &json!(ANSWER))
    );
    let events = lines(&door, path, &body(true, wish()));
    assert_eq!(all(&events, "/delta/thinking"), THOUGHT);
    assert_eq!(all(&events, "/delta/text"), ANSWER);
}

#[test]
fn what_was_thought_about_something_private_is_private_wherever_it_is_shown_again() {
    let door = ruled(&thinking(), None);
    let ask = |text: &str, labels: Value| {
        let turns = json!([{ "role": "user", "content": text }]);
        let body = json!({ "model": "far/m", "messages": turns, "heph": { "labels": labels } });
        door.post("/v1/chat/completions", &body).0
    };
    assert_eq!(ask("When does the ferry leave?", json!(["island"])), 200);
    let stays =
        "[[rule]]\nname = \"the island stays\"\nwhen = { labels = [\"user:island\"] }\nthen = \"deny\"\n";
    let policy = format!("version = 1\npreset = \"open\"\n{stays}");
    std::fs::write(door.home.path().join("policy.toml"), policy).unwrap();
    assert_eq!(ask("When does the bus leave?", Value::Null), 200);
    let began = Instant::now();
    // It is remembered behind the answer.
    while ask(&format!("Is this true?\n{THOUGHT}"), Value::Null) != 403 {
        assert!(began.elapsed() < Duration::from_secs(40), "it leaves");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(ask("When does the bus leave?", Value::Null), 200);
}
