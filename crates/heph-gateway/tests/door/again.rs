//! Answers that are given again, and to whom they are not.

use serde_json::{Value, json};

use crate::knocking::{Door, recalling};

/// The words, and of which question they were the answer.
fn said(door: &Door, question: &str, change: Value) -> (String, Option<String>) {
    let mut body = json!({
        "messages": [{ "role": "user", "content": question }], "max_tokens": 200, "temperature": 0, "stop": ["."],
    });
    for (key, value) in change.as_object().unwrap() {
        body[key] = value.clone();
    }
    let raw = door.raw("POST", "/v1/chat/completions", &body.to_string(), &[]);
    let (head, text) = raw.split_once("\r\n\r\n").unwrap();
    let said: Value = serde_json::from_str(text).unwrap();
    let from = &said["heph"]["receipt"]["answered_from"];
    assert_eq!(head.contains("heph-cache: semantic"), !from.is_null(), "{head}");
    assert_eq!(
        said["choices"][0]["finish_reason"], "stop",
        "the test wants whole answers: {said}"
    );
    let question = from["question"].as_str().map(str::to_owned);
    (
        said["choices"][0]["message"]["content"]
            .as_str()
            .unwrap()
            .to_owned(),
        question,
    )
}

#[test]
fn an_answer_is_given_again_to_its_own_question_and_to_nobody_else() {
    let door = recalling(0.05);
    let question = "Tell me a story about a dog.";
    let (text, from) = said(&door, question, json!({}));
    assert_eq!(from, None);
    assert_eq!(
        said(&door, question, json!({})),
        (text.clone(), Some(question.to_owned()))
    );
    // In pieces, too.
    let body = json!({
        "messages": [{ "role": "user", "content": question }], "max_tokens": 200, "temperature": 0, "stop": ["."],
        "stream": true,
    });
    let events = door.events("/v1/chat/completions", &body);
    let pieces = events
        .iter()
        .filter_map(|e| e["choices"][0]["delta"]["content"].as_str());
    assert_eq!(pieces.collect::<String>(), text);
    let receipt = events
        .iter()
        .find_map(|e| e["heph"]["receipt"].as_object())
        .unwrap();
    assert_eq!(receipt["answered_from"]["question"], question);
    assert_eq!(receipt["answered_from"]["bound"], 0.05);
    // What is merely alike, another circumstance, another user or label, a wish against it: all are asked.
    for (question, change) in [
        ("Tell me a story about a cat.", json!({})),
        ("Tell me a story about a hound.", json!({})),
        ("Tell me no story about a dog.", json!({})),
        (question, json!({ "max_tokens": 201 })),
        (question, json!({ "user": "ann" })),
        (question, json!({ "heph": { "privacy": "own" } })),
        (question, json!({ "heph": { "recall": false } })),
        (question, json!({ "temperature": 1, "seed": 4 })),
        (question, json!({ "temperature": 1, "seed": 4 })),
        (question, json!({ "logprobs": true })),
    ] {
        assert_eq!(
            said(&door, question, change.clone()).1,
            None,
            "{question} {change}"
        );
    }
    // Sampled words are given again where that is asked for.
    let sampled = json!({ "temperature": 1, "seed": 4, "heph": { "recall": true } });
    let first = said(&door, question, sampled.clone());
    assert_eq!(
        said(&door, question, sampled),
        (first.0, Some(question.to_owned()))
    );
    assert_eq!(door.count("heph_answers_recalled_total"), 3);
}

#[test]
fn answers_that_were_cut_short_are_not_kept() {
    let door = recalling(0.05);
    let body = json!({
        "messages": [{ "role": "user", "content": "Tell me a story about a dog." }], "max_tokens": 5, "temperature": 0,
    });
    for _ in 0..3 {
        let said = door.json("/v1/chat/completions", &body);
        assert_eq!(said["choices"][0]["finish_reason"], "length");
        assert!(said["heph"]["receipt"]["answered_from"].is_null());
    }
}
