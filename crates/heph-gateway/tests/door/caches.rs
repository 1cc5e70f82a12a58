//! What earlier prompts left: the same words, sooner, and nobody else's.

use heph_gateway::CacheChoice;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::knocking::{Door, chat, door, keeping};

/// Positions of one block.
const BLOCK: u64 = 64;

/// A conversation whose beginning takes some hundred tokens.
fn ask(question: &str) -> Value {
    let rules = "You tell short stories for children. The dog is kind, the cat is shy, and the bird sings. "
        .repeat(10);
    json!({
        "messages": [{ "role": "system", "content": rules }, { "role": "user", "content": question }],
        "max_tokens": 16, "temperature": 0.8, "seed": 5,
    })
}

/// The words, and how many tokens of the prompt were there already.
fn said(door: &Door, body: &Value) -> (String, u64) {
    let said = door.json("/v1/chat/completions", body);
    let cached = said["usage"]["prompt_tokens_details"]["cached_tokens"]
        .as_u64()
        .unwrap();
    assert_eq!(said["heph"]["receipt"]["cached_tokens"].as_u64(), Some(cached));
    let text = said["choices"][0]["message"]["content"].as_str().unwrap();
    (text.to_owned(), cached)
}

#[test]
fn a_warm_answer_has_the_words_of_a_cold_one_and_says_what_was_there() {
    let none = CacheChoice {
        ram: Some(0),
        ..CacheChoice::default()
    };
    let cold = keeping(TempDir::new().unwrap(), none);
    let warm = door();
    for (number, question) in ["A dog?", "A dog?", "A cat, please.", "A dog and a bird?"]
        .iter()
        .enumerate()
    {
        let body = ask(question);
        let (expected, cached) = said(&cold, &body);
        assert_eq!(cached, 0);
        let (text, cached) = said(&warm, &body);
        assert_eq!(text, expected, "{question}");
        assert_eq!(cached > 100, number > 0, "{question}: {cached} tokens");
    }
    assert!(warm.count("heph_prompt_tokens_cached_total") > 300 && warm.count("heph_cache_ram_bytes") > 0);
    assert_eq!(cold.count("heph_cache_ram_blocks"), 0);
}

#[test]
fn every_dialect_tells_what_was_there() {
    let door = door();
    let system = ask("x")["messages"][0]["content"].clone();
    let user = json!([{ "role": "user", "content": "A dog?" }]);
    let message = json!({ "system": system, "messages": user, "max_tokens": 8, "temperature": 0 });
    let usage = |stream: bool| {
        let mut body = message.clone();
        body["stream"] = json!(stream);
        match stream {
            false => door.json("/v1/messages", &body)["usage"].clone(),
            true => {
                let text = door.post("/v1/messages", &body).1;
                let last = text.lines().find(|l| l.contains("message_delta")).and_then(|_| {
                    let mut data = text.lines().filter_map(|l| l.strip_prefix("data: "));
                    data.find(|d| d.contains("\"message_delta\""))
                });
                serde_json::from_str::<Value>(last.unwrap()).unwrap()["usage"].clone()
            }
        }
    };
    let (cold, warm, streamed) = (usage(false), usage(false), usage(true));
    assert_eq!(cold["cache_read_input_tokens"], 0);
    let of = |usage: &Value, name: &str| usage[name].as_u64().unwrap();
    assert!(of(&warm, "cache_read_input_tokens") > 100, "{warm}");
    let total = |usage: &Value| of(usage, "input_tokens") + of(usage, "cache_read_input_tokens");
    assert_eq!((total(&warm), &streamed), (total(&cold), &warm));
    let body = json!({ "instructions": system, "input": "A cat?", "max_output_tokens": 8 });
    let usage = door.json("/v1/responses", &body)["usage"].clone();
    assert!(
        usage["input_tokens_details"]["cached_tokens"].as_u64() > Some(100),
        "{usage}"
    );
    let body = json!({ "prompt": system, "max_tokens": 4, "n": 3 });
    let usage = |door: &Door| door.json("/v1/completions", &body)["usage"]["prompt_tokens_details"].clone();
    assert_eq!(usage(&door)["cached_tokens"], 0);
    assert!(usage(&door)["cached_tokens"].as_u64() > Some(100));
}

#[test]
fn callers_users_and_labels_do_not_meet() {
    let door = door();
    let ask = |change: Value, headers: &[(&str, &str)]| {
        let mut body = ask("A dog?");
        for (key, value) in change.as_object().unwrap() {
            body[key] = value.clone();
        }
        let raw = door.raw("POST", "/v1/chat/completions", &body.to_string(), headers);
        let said: Value = serde_json::from_str(raw.split_once("\r\n\r\n").unwrap().1).unwrap();
        said["usage"]["prompt_tokens_details"]["cached_tokens"]
            .as_u64()
            .unwrap()
            > 0
    };
    let cases: [(Value, &[(&str, &str)]); 7] = [
        (json!({}), &[]),
        (json!({ "user": "ann" }), &[]),
        (json!({ "user": "bob" }), &[]),
        (json!({ "heph": { "privacy": "nothing" } }), &[]),
        (json!({ "heph": { "privacy": "own" } }), &[]),
        (json!({}), &[("authorization", "Bearer one")]),
        (json!({}), &[("x-api-key", "one")]),
    ];
    for warm in [false, true] {
        for (change, headers) in &cases {
            assert_eq!(ask(change.clone(), headers), warm, "{change} {headers:?}");
        }
    }
}

#[test]
fn caches_on_disk_outlive_the_process_and_private_ones_are_not_written() {
    let disk = || CacheChoice {
        disk: Some(1 << 30),
        ..CacheChoice::default()
    };
    let first = keeping(TempDir::new().unwrap(), disk());
    let mut private = ask("A horse?");
    private["heph"] = json!({ "privacy": "nothing" });
    let (secret, _) = said(&first, &private);
    let (text, cached) = said(&first, &ask("A dog?"));
    assert_eq!((cached, first.count("heph_cache_disk_failed_total")), (0, 0));
    first.comes_to("heph_cache_disk_written_total", 3);
    first.comes_to_rest();
    let home = first.leave();
    let second = keeping(home, disk());
    // The folder is looked through in the background.
    second.comes_to("heph_cache_disk_blocks", 3);
    assert_eq!(said(&second, &private), (secret, 0), "nothing of it lies on disk");
    let (again, cached) = said(&second, &ask("A dog?"));
    assert_eq!(again, text);
    assert!(cached >= 3 * BLOCK && cached.is_multiple_of(BLOCK), "{cached}");
    assert!(second.count("heph_cache_disk_read_total") >= 3);
    // With every file spoilt the words are the same, and no bit of them is used.
    let home = second.leave();
    for file in std::fs::read_dir(home.path().join("prefixes")).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_some_and(|ending| ending == "kv") {
            let mut bytes = std::fs::read(&path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0x10;
            std::fs::write(&path, bytes).unwrap();
        }
    }
    let third = keeping(home, disk());
    third.comes_to("heph_cache_disk_blocks", 3);
    assert_eq!(said(&third, &ask("A dog?")), (text, 0));
    assert_eq!(third.count("heph_cache_disk_damaged_total"), 1);
    assert!(!chat(&third, &ask("A bird?")).is_empty());
}
