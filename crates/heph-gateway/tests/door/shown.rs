//! Pictures and names at a real door: what may leave of them, and what stays whatever they show.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};

use heph_providers::Provider;
use heph_runtime::providers::ProviderBook;
use serde_json::{Value, json};

use crate::knocking::{Door, door};

/// The first bytes of a PNG file.
const PNG: &str = "iVBORw0KGgo=";

/// A provider that refuses whatever it is asked, and counts it.
fn refusing() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    let asked = Arc::new(AtomicUsize::new(0));
    let counts = Arc::clone(&asked);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            counts.fetch_add(1, Ordering::SeqCst);
            let mut some = [0; 4096];
            let _ = stream.read(&mut some);
            let _ = stream
                .write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}");
        }
    });
    (url, asked)
}

/// A door that knows a provider at `url`, under these rules, or under none but the leave that it has.
pub(crate) fn ruled(url: &str, rules: Option<&str>) -> Door {
    let door = door();
    let said = json!({ "name": "far", "dialect": "openai", "url": url, "models": ["m"], "sees": "text" });
    let provider: Provider = serde_json::from_value(said).unwrap();
    let mut book = ProviderBook::open(door.home.path()).unwrap();
    book.add(provider.checked().unwrap()).unwrap();
    if let Some(rules) = rules {
        let text = format!("version = 1\npreset = \"open\"\n{rules}");
        std::fs::write(door.home.path().join("policy.toml"), text).unwrap();
    }
    door
}

fn asks(door: &Door, content: &Value) -> (u16, String) {
    let body = json!({ "model": "far/m", "messages": [{ "role": "user", "content": content }] });
    door.post("/v1/chat/completions", &body)
}

#[test]
fn a_picture_is_as_private_as_can_be_and_stays_where_words_would_be_replaced() {
    let words = json!([{ "type": "text", "text": "What is this?" }]);
    let address = format!("data:image/png;base64,{PNG}");
    let shown = json!([words[0], { "type": "image_url", "image_url": { "url": address } }]);
    let (url, asked) = refusing();
    for rule in [
        "[[rule]]\nname = \"secrets stay\"\nwhen = { level = \"secret\" }\nthen = \"deny\"\n",
        "[[rule]]\nname = \"nobody is named\"\nthen = \"redact\"\n",
    ] {
        let door = ruled(&url, Some(rule));
        let before = asked.load(Ordering::SeqCst);
        let (status, said) = asks(&door, &words);
        assert_eq!(
            asked.load(Ordering::SeqCst),
            before + 1,
            "{rule}: {status} {said}"
        );
        let (status, said) = asks(&door, &shown);
        assert_eq!(
            (status, asked.load(Ordering::SeqCst)),
            (403, before + 1),
            "{rule}: {said}"
        );
    }
    // Where nothing speaks against it, it goes.
    let (door, before) = (ruled(&url, None), asked.load(Ordering::SeqCst));
    let (status, said) = asks(&door, &shown);
    assert_eq!(asked.load(Ordering::SeqCst), before + 1, "{status} {said}");
}

/// A provider that refuses whatever it is asked, and tells it.
fn telling() -> (String, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    let (tells, told) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let (mut heard, mut some) = (String::new(), [0; 4096]);
            // The body is an object, and the last thing that is said.
            while !heard.ends_with('}') {
                let Ok(count @ 1..) = stream.read(&mut some) else {
                    break;
                };
                heard.push_str(&String::from_utf8_lossy(&some[..count]));
            }
            let body = heard.split_once("\r\n\r\n").map_or("", |(_, body)| body);
            let _ = tells.send(body.to_owned());
            let _ = stream
                .write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}");
        }
    });
    (url, told)
}

#[test]
fn a_provider_cannot_tell_by_pseudonyms_that_two_callers_speak_of_one_person() {
    let (url, told) = telling();
    let door = ruled(
        &url,
        Some("[[rule]]\nname = \"nobody is named\"\nthen = \"redact\"\n"),
    );
    let shows = |token: &str, user: Option<&str>| {
        let content = "Write to maria.gonzalez@mail.example that the ferry is late.";
        let body =
            json!({ "model": "far/m", "user": user, "messages": [{ "role": "user", "content": content }] });
        let bearer = format!("Bearer {token}");
        door.raw(
            "POST",
            "/v1/chat/completions",
            &body.to_string(),
            &[("authorization", &bearer)],
        );
        let heard = told.recv_timeout(std::time::Duration::from_secs(60)).unwrap();
        assert!(
            heard.contains("ferry is late") && !heard.contains("gonzalez"),
            "{heard}"
        );
        let heard: Value = serde_json::from_str(&heard).unwrap();
        heard["messages"][0]["content"].as_str().unwrap().to_owned()
    };
    let ann = shows("ann", None);
    assert_eq!(shows("ann", None), ann, "one caller's stay as they are");
    assert_ne!(shows("bob", None), ann);
    assert_ne!(shows("ann", Some("carl")), ann);
}

#[test]
fn what_is_masked_reaches_a_provider_as_a_word_for_its_kind() {
    let (url, told) = telling();
    let door = ruled(
        &url,
        Some("[[rule]]\nname = \"nobody is named\"\nthen = \"mask\"\n"),
    );
    let content = json!("Write to maria.gonzalez@mail.example that the ferry is late.");
    asks(&door, &content);
    let heard = told.recv_timeout(std::time::Duration::from_secs(60)).unwrap();
    assert!(
        heard.contains("Write to [EMAIL 1] that the ferry is late.") && !heard.contains("gonzalez"),
        "{heard}"
    );
}
