//! What may leave, as a person changes it: the preset, and the switch that cuts everything off. And what is done with models.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::knocking::{Door, asking, door};

/// How long a machine under load may take to notice.
const PATIENCE: Duration = Duration::from_secs(60);

fn put(door: &Door, body: &Value) -> (u16, Value) {
    let raw = door.raw("PUT", "/heph/v1/policy", &body.to_string(), &[]);
    let (head, text) = raw.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(text).unwrap())
}

/// The events of a long work.
fn reports(door: &Door, path: &str, body: &Value) -> Vec<Value> {
    let (status, text) = door.post(path, body);
    assert_eq!(status, 200, "{text}");
    let events = text.lines().filter_map(|line| line.strip_prefix("data: "));
    events.map(|event| serde_json::from_str(event).unwrap()).collect()
}

fn get(door: &Door, path: &str) -> Value {
    let (status, text) = door.get_with(path, &[]);
    assert_eq!(status, 200, "{text}");
    serde_json::from_str(&text).unwrap()
}

/// A hub with one repository whose file comes a byte at a time, and never ends.
fn hub() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for caller in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut lines = BufReader::new(&caller).lines();
                let asked = lines.next().and_then(Result::ok).unwrap_or_default();
                lines
                    .by_ref()
                    .map_while(Result::ok)
                    .take_while(|line| !line.is_empty())
                    .for_each(drop);
                let listing = json!({
                    "sha": "c0ffee", "cardData": { "license": "apache-2.0" },
                    "siblings": [{ "rfilename": "m-q8_0.gguf", "size": 900_000_000_000_000_u64 }, { "rfilename": "m-q4_0.gguf", "size": 5_000 }],
                });
                let listing = listing.to_string();
                let mut caller = &caller;
                if asked.contains("/api/models/") {
                    let head = format!(
                        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                        listing.len()
                    );
                    let _ = caller.write_all((head + &listing).as_bytes());
                    return;
                }
                let _ =
                    caller.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\netag: \"a\"\r\n\r\n");
                while caller.write_all(b"x").is_ok() {
                    std::thread::sleep(Duration::from_millis(5));
                }
            });
        }
    });
    address
}

#[test]
fn a_preset_is_chosen_and_everything_is_cut_off_and_let_go_on() {
    let door = door();
    let stands = get(&door, "/heph/v1/policy");
    assert_eq!(
        (&stands["preset"], &stands["by"], &stands["cut"]),
        (&json!("own-devices"), &json!("usual"), &json!(false))
    );
    let (status, stands) = put(&door, &json!({ "preset": "redact-then-remote" }));
    assert_eq!(
        (status, &stands["preset"], &stands["by"]),
        (200, &json!("redact-then-remote"), &json!("file"))
    );
    let (_, stands) = put(&door, &json!({ "cut": true }));
    assert_eq!(
        (&stands["cut"], &stands["preset"]),
        (&json!(true), &json!("redact-then-remote"))
    );
    assert!(door.home.path().join("cut-off").exists());
    // Answers of this machine go on.
    let said = door.json(
        "/v1/chat/completions",
        &json!({ "messages": [{ "role": "user", "content": "Hello" }], "max_tokens": 2 }),
    );
    assert!(said["choices"][0]["message"]["content"].is_string(), "{said}");
    for (path, body) in [
        ("/heph/v1/models/look", json!({ "repository": "a/b" })),
        ("/heph/v1/models/pull", json!({ "repository": "a/b" })),
        ("/api/pull", json!({ "model": "a/b" })),
        (
            "/v1/chat/completions",
            json!({ "messages": [{ "role": "user", "content": "Hi" }], "heph": { "mcp": ["files"] } }),
        ),
    ] {
        let (status, text) = door.post(path, &body);
        assert!(
            status == 403 && text.contains("cut off"),
            "{path}: {status} {text}"
        );
    }
    assert_eq!(put(&door, &json!({ "cut": false })).1["cut"], false);
    for wrong in [
        json!({}),
        json!({ "preset": "opne" }),
        json!({ "cut": "yes" }),
        json!({ "cut": true, "more": 1 }),
    ] {
        assert_eq!(put(&door, &wrong).0, 400, "{wrong}");
    }
    std::fs::write(door.home.path().join("policy.toml"), "version = 9\n").unwrap();
    let (status, refused) = put(&door, &json!({ "preset": "open" }));
    assert_eq!(
        (status, &refused["error"]["code"]),
        (409, &json!("policy_unchanged")),
        "{refused}"
    );
    let stands = get(&door, "/heph/v1/policy");
    assert_eq!(
        (&stands["by"], &stands["preset"]),
        (&json!("unread"), &json!("local-only"))
    );
    assert!(stands["trouble"].is_string());
}

#[test]
fn a_hub_tells_sizes_and_a_licence_and_a_download_ends_when_this_machine_is_cut_off() {
    let door = asking(&hub());
    let offer = door.json("/heph/v1/models/look", &json!({ "repository": "a/b" }));
    assert_eq!(
        (&offer["licence"], &offer["models"][0]["bytes"]),
        (&json!("apache-2.0"), &json!(5_000)),
        "{offer}"
    );
    let fits = |at: usize| offer["models"][at]["fit"]["fits"].as_bool().unwrap();
    assert_eq!([fits(0), fits(1)], [true, false]);
    assert_eq!(
        door.post("/heph/v1/models/look", &json!({ "repository": "no slash" }))
            .0,
        400
    );
    let began = Instant::now();
    let events = std::thread::scope(|scope| {
        let pulled = scope.spawn(|| {
            reports(
                &door,
                "/heph/v1/models/pull",
                &json!({ "repository": "a/b", "file": "m-q4_0.gguf", "name": "m" }),
            )
        });
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(put(&door, &json!({ "cut": true })).0, 200);
        pulled.join().unwrap()
    });
    let last = events.last().unwrap();
    assert_eq!(last["status"], "failed", "{last}");
    assert!(began.elapsed() < PATIENCE);
}

#[test]
fn a_model_is_written_in_another_format_and_certified() {
    let door = door();
    let hardware = get(&door, "/heph/v1/hardware");
    assert!(
        hardware["cores"].as_u64() >= Some(1) && !hardware["fits"].as_array().unwrap().is_empty(),
        "{hardware}"
    );
    let formats = get(&door, "/heph/v1/models/heph-story/formats");
    let sizes: Vec<u64> = formats["formats"]
        .as_array()
        .unwrap()
        .iter()
        .map(|f| f["bytes"].as_u64().unwrap())
        .collect();
    assert!(
        sizes.len() > 5 && sizes.is_sorted() && sizes[0] > 1_000_000,
        "{sizes:?}"
    );
    let made = reports(
        &door,
        "/heph/v1/models/heph-story/quantize",
        &json!({ "type": "q4_0", "name": "small" }),
    );
    let last = made.last().unwrap();
    assert_eq!(
        (&last["status"], &last["model"]["name"]),
        (&json!("done"), &json!("small")),
        "{last}"
    );
    assert_eq!(get(&door, "/heph/v1/models/small")["kind"], "chat");
    let again = reports(
        &door,
        "/heph/v1/models/heph-story/quantize",
        &json!({ "type": "q4_0", "name": "small" }),
    );
    assert_eq!(again.last().unwrap()["status"], "failed");
    for (path, body, status) in [
        ("/heph/v1/models/none/quantize", json!({ "type": "q4_0" }), 404),
        (
            "/heph/v1/models/heph-story/quantize",
            json!({ "type": "q9" }),
            400,
        ),
        (
            "/heph/v1/models/heph-story/quantize",
            json!({ "type": "q4_0", "name": "../x" }),
            400,
        ),
        ("/heph/v1/models/none/certify", json!({}), 404),
    ] {
        assert_eq!(door.post(path, &body).0, status, "{path} {body}");
    }
    let certified = reports(&door, "/heph/v1/models/heph-story/certify", &json!({}));
    let last = certified.last().unwrap();
    assert!(
        last["holds"] == true && last["certificate"]["blake3"].as_str().unwrap().len() == 64,
        "{last}"
    );
    assert!(certified.len() > 1, "it says how far it is");
}
