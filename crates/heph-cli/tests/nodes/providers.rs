//! Outside providers through `heph serve`: what goes to one, what comes back, and what never leaves. The providers play
//! scripts over real HTTP.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};

use super::Home;
use super::door::{DoorProcess, events};
use super::mock::{Act, ok, play, status};

const KEY: &str = "sk-very-secret-7";

/// A home whose provider `mock` is at `url`, with a key.
pub(crate) fn home(url: &str, more: &[&str]) -> Home {
    let home = Home::new();
    let fixed = [
        "providers",
        "add",
        "mock",
        "--dialect",
        "openai",
        "--model",
        "m-1",
        "--key-stdin",
        "--url",
        url,
    ];
    let mut child = home
        .command(&[&fixed[..], more].concat())
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    writeln!(child.stdin.take().unwrap(), "{KEY}").unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    home
}

pub(crate) fn story() -> String {
    let events = [
        json!({ "choices": [{ "delta": { "role": "assistant", "content": "" } }] }),
        json!({ "choices": [{ "delta": { "content": "Once upon" } }] }),
        json!({ "choices": [{ "delta": { "content": " a time." } }] }),
        json!({ "choices": [{ "delta": {}, "finish_reason": "stop" }] }),
        json!({ "choices": [], "usage": { "prompt_tokens": 20, "completion_tokens": 10 } }),
    ];
    let events: String = events.iter().map(|event| format!("data: {event}\n\n")).collect();
    ok("text/event-stream", &format!("{events}data: [DONE]\n\n"))
}

pub(crate) fn chat(heph: &Value) -> Value {
    json!({
        "model": "mock/m-1", "max_tokens": 50, "heph": heph,
        "messages": [{ "role": "user", "content": "Tell me a story." }],
    })
}

#[test]
fn a_provider_answers_through_every_api_and_the_receipt_says_what_left() {
    let (url, heard) = play(vec![Act::Pieces(story(), 11)]);
    let home = home(
        &url,
        &[
            "--allow",
            "--price",
            "100,1000",
            "--region",
            "eu",
            "--retention",
            "30 days",
        ],
    );
    let door = DoorProcess::start(&home, &[], &[]);
    let turns = json!([{ "role": "user", "content": "Tell me a story." }]);
    let cases = [
        (
            "/v1/chat/completions",
            json!({ "messages": turns }),
            "/choices/0/message/content",
        ),
        (
            "/v1/completions",
            json!({ "prompt": "Tell me a story." }),
            "/choices/0/text",
        ),
        (
            "/v1/responses",
            json!({ "input": "Tell me a story." }),
            "/output/0/content/0/text",
        ),
        (
            "/api/chat",
            json!({ "messages": turns, "stream": false }),
            "/message/content",
        ),
        (
            "/api/generate",
            json!({ "prompt": "Tell me a story.", "stream": false }),
            "/response",
        ),
        (
            "/v1/messages",
            json!({ "messages": turns, "max_tokens": 50 }),
            "/content/0/text",
        ),
    ];
    for (path, mut body, place) in cases {
        body["model"] = json!("mock/m-1");
        let answer = door.post(path, &body);
        assert_eq!(
            answer.pointer(place),
            Some(&json!("Once upon a time.")),
            "{path}: {answer}"
        );
        let (head, sent) = heard.lock().unwrap().last().unwrap().clone();
        assert!(head.contains(&format!("authorization: bearer {KEY}")) && sent.contains("Tell me a story."));
        let receipt = &answer["heph"]["receipt"];
        assert_eq!(
            (&receipt["mode"], &receipt["exactness"]),
            (&json!("remote"), &json!("unknown")),
            "{path}"
        );
        assert_eq!(receipt["traffic"][0]["up"], sent.len(), "{receipt}");
        assert_eq!(receipt["price"], 0.012, "{receipt}");
        let provider = &receipt["provider"];
        assert_eq!(
            (&provider["name"], &provider["region"]),
            (&json!("mock"), &json!("eu"))
        );
        assert_eq!(
            (&provider["retention"], &provider["tries"]),
            (&json!("30 days"), &json!(1))
        );
        assert_eq!(receipt["places"][0]["saw"], "text");
    }
    let mut body = chat(&json!({}));
    body["stream"] = json!(true);
    let (code, head, text) = door.ask("POST", "/v1/chat/completions", &body, "heph-mode: auto\r\n");
    assert!(code == 200 && head.contains("heph-exactness: unknown"), "{head}");
    let events = events(&text);
    let said: String = events
        .iter()
        .filter_map(|e| e["choices"][0]["delta"]["content"].as_str())
        .collect();
    assert_eq!(said, "Once upon a time.");
    assert!(text.ends_with("data: [DONE]\n\n"));
    let receipts: Vec<_> = events.iter().filter(|e| e["heph"].is_object()).collect();
    assert_eq!(receipts.len(), 1, "{text}");
    let models = door.get("/v1/models").to_string();
    assert!(models.contains("mock/m-1") && !models.contains(KEY), "{models}");
}

#[test]
fn nothing_goes_to_a_provider_that_may_not_see_it() {
    let (url, heard) = play(vec![Act::Raw(story())]);
    let home = home(&url, &["--price", "100,1000"]);
    let refused = |door: &DoorProcess, body: &Value, wanted: u16, code: &str| {
        let (status, _, text) = door.ask("POST", "/v1/chat/completions", body, "");
        let said: Value = serde_json::from_str(&text).unwrap();
        assert!(
            status == wanted && (code.is_empty() || said["error"]["code"] == code),
            "{status} {said}"
        );
    };
    let door = DoorProcess::start(&home, &[], &[]);
    refused(&door, &chat(&json!({})), 403, "provider_forbidden");
    assert!(!door.get("/v1/models").to_string().contains("mock/"));
    // Allowed while the door is open: it is heard with the next request.
    assert!(home.output(&["providers", "allow", "mock"]).status.success());
    for (heph, wanted, code) in [
        (json!({ "privacy": "nothing" }), 403, "provider_forbidden"),
        (json!({ "privacy": "own" }), 403, "provider_forbidden"),
        (json!({ "mode": "local" }), 400, "mode_unavailable"),
        (json!({ "mode": "layered" }), 400, "mode_unavailable"),
        (json!({ "max_price": 0 }), 400, ""),
    ] {
        refused(&door, &chat(&heph), wanted, code);
    }
    let mut other = chat(&json!({}));
    other["model"] = json!("mock/dearer");
    refused(&door, &other, 404, "model_not_found");
    let strict = DoorProcess::start(&home, &[], &[("HEPH_ALLOW", "cloud=nothing")]);
    refused(&strict, &chat(&json!({})), 403, "provider_forbidden");
    assert!(heard.lock().unwrap().is_empty(), "nothing was sent");
    // What it may cost bounds what is asked for.
    let answer = door.post("/v1/chat/completions", &chat(&json!({ "max_price": 1 })));
    assert_eq!(answer["choices"][0]["message"]["content"], "Once upon a time.");
    let sent: Value = serde_json::from_str(&heard.lock().unwrap()[0].1).unwrap();
    assert_eq!(sent["max_tokens"], 50, "{sent}");
    // A list that cannot be read sends nothing to anybody.
    std::fs::write(home.0.path().join("providers.toml"), "[[provider]]\nname = 7").unwrap();
    refused(&door, &chat(&json!({})), 503, "providers_unreadable");
    assert_eq!(heard.lock().unwrap().len(), 1);
}

#[test]
fn refusals_cuts_and_hangups_are_told_and_no_key_is() {
    let refusal = format!("{{\"error\":{{\"message\":\"key {KEY} is spent\"}}}}");
    let begun = ok(
        "text/event-stream",
        "data: {\"choices\":[{\"delta\":{\"content\":\"Once\"}}]}\n\n",
    );
    let (url, _) = play(vec![
        Act::Raw(status(429, "retry-after: 900\r\n", &refusal)),
        Act::Raw(status(401, "", &refusal)),
        Act::Raw(begun.clone()),
        Act::Slam,
        Act::Slam,
        Act::Slam,
        Act::Hang(begun, Duration::from_secs(100)),
    ]);
    let home = home(&url, &["--allow"]);
    let door = DoorProcess::start(&home, &[], &[]);
    let mut body = chat(&json!({}));
    body["stream"] = json!(true);
    let (code, head, text) = door.ask("POST", "/v1/chat/completions", &body, "");
    assert!(code == 429 && head.contains("retry-after: 900"), "{code} {head}");
    assert!(text.contains("[key] is spent"), "{text}");
    let (code, _, text) = door.ask("POST", "/v1/chat/completions", &body, "");
    assert!(
        code == 502 && text.contains("refuses (401)") && !text.contains(KEY),
        "{code} {text}"
    );
    // In the middle of a stream an error is an event, and no answer begins anew.
    let (code, _, text) = door.ask("POST", "/v1/chat/completions", &body, "");
    assert!(
        code == 200 && text.contains("Once") && text.contains("broke off"),
        "{code} {text}"
    );
    assert!(!text.contains("[DONE]"), "{text}");
    let (code, _, text) = door.ask("POST", "/v1/chat/completions", &body, "");
    assert!(code == 503 && text.contains("cannot be reached"), "{code} {text}");
    // Whoever hangs up ends the request.
    let mut stream = BufReader::new(door.send("POST", "/v1/chat/completions", &body, ""));
    let mut line = String::new();
    while !line.contains("Once") {
        assert!(stream.read_line(&mut line).unwrap() > 0, "{line}");
    }
    drop(stream);
    door.comes_to_rest();
    let status = door.get("/heph/v1/status").to_string();
    assert!(!status.contains(KEY));
}

#[test]
fn the_list_is_kept_and_its_keys_are_shown_to_nobody() {
    let list = ok(
        "application/json",
        "{\"data\":[{\"id\":\"m-1\"},{\"id\":\"m-2\"}]}",
    );
    let (url, heard) = play(vec![Act::Raw(list)]);
    let home = home(&url, &["--retention", "nothing", "--speed", "300,50"]);
    let shown = home.json(&["providers", "--json"]);
    assert_eq!(
        (&shown[0]["name"], &shown[0]["sees"], &shown[0]["key"]),
        (&json!("mock"), &json!("nothing"), &json!(true))
    );
    let plain = String::from_utf8(home.output(&["providers", "list"]).stdout).unwrap();
    assert!(
        plain.contains("is sent nothing") && plain.contains("price unknown"),
        "{plain}"
    );
    let file = std::fs::read_to_string(home.0.path().join("providers.toml")).unwrap();
    assert!(!format!("{shown}{plain}{file}").contains(KEY));
    // A test shows the key and no text.
    let tested = home.json(&["providers", "test", "mock", "--json"]);
    assert_eq!(
        (&tested["models"][1], tested["missing"].as_array().unwrap().len()),
        (&json!("m-2"), 0)
    );
    assert_eq!(heard.lock().unwrap()[0].1, "");
    let again = home.fails(&[
        "providers",
        "add",
        "mock",
        "--dialect",
        "openai",
        "--model",
        "m",
        "--url",
        "https://x",
    ]);
    assert!(again.0 == 2 && again.1.contains("already"), "{again:?}");
    let plain = [
        "providers",
        "add",
        "x",
        "--dialect",
        "openai",
        "--model",
        "m",
        "--url",
        "http://api.example",
    ];
    let (code, said) = home.fails(&plain);
    assert!(code == 2 && said.contains("needs https"), "{code} {said}");
    let key = home.0.path().join("keys/mock");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(
            std::fs::metadata(&key).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }
    assert!(home.output(&["providers", "remove", "mock"]).status.success());
    assert!(!key.exists() && home.json(&["providers", "--json"]).as_array().unwrap().is_empty());
    let mut rest = String::new();
    std::fs::File::open(home.0.path().join("providers.toml"))
        .unwrap()
        .read_to_string(&mut rest)
        .unwrap();
    assert!(!rest.contains("m-1"), "{rest}");
}

/// A picture of one point.
const PNG: &str =
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg==";

#[test]
fn a_picture_goes_to_a_provider_where_the_rules_let_it_and_to_no_model_of_this_house() {
    let (url, heard) = play(vec![Act::Pieces(story(), 50)]);
    let home = home(&url, &["--allow", "--price", "100,1000"]);
    let door = DoorProcess::start(&home, &[], &[]);
    let address = format!("data:image/png;base64,{PNG}");
    let chat = |url: &str| {
        json!([{ "role": "user", "content": [
        { "type": "text", "text": "What is this?" }, { "type": "image_url", "image_url": { "url": url } },
    ] }])
    };
    let block = json!([{ "type": "text", "text": "What is this?" },
        { "type": "image", "source": { "type": "base64", "media_type": "image/png", "data": PNG } }]);
    let input = json!([{ "role": "user", "content": [
        { "type": "input_text", "text": "What is this?" }, { "type": "input_image", "image_url": address },
    ] }]);
    let cases = [
        ("/v1/chat/completions", json!({ "messages": chat(&address) })),
        ("/v1/responses", json!({ "input": input })),
        (
            "/v1/messages",
            json!({ "messages": [{ "role": "user", "content": block }], "max_tokens": 50 }),
        ),
        (
            "/api/chat",
            json!({ "messages": [{ "role": "user", "content": "What is this?", "images": [PNG] }], "stream": false }),
        ),
        (
            "/api/generate",
            json!({ "prompt": "What is this?", "images": [PNG], "stream": false }),
        ),
    ];
    for (path, mut body) in cases {
        // The bundled model reads words alone, and says so.
        let (status, _, text) = door.ask("POST", path, &body, "");
        assert!(
            status == 400 && text.contains("heph-story reads no pictures"),
            "{path}: {status} {text}"
        );
        body["model"] = json!("mock/m-1");
        door.post(path, &body);
        let (_, sent) = heard.lock().unwrap().last().unwrap().clone();
        assert!(
            sent.contains(&address) && sent.contains("What is this?"),
            "{path}: {sent}"
        );
    }
    let told = heard.lock().unwrap().len();
    let refused = |messages: Value, more: Value, status: u16, word: &str| {
        let mut body = json!({ "model": "mock/m-1", "messages": messages });
        body["heph"] = more;
        let (code, _, text) = door.ask("POST", "/v1/chat/completions", &body, "");
        assert!(code == status && text.contains(word), "{body}: {code} {text}");
        assert_eq!(heard.lock().unwrap().len(), told, "nothing left");
    };
    refused(
        chat("https://pictures.example/a.png"),
        json!({}),
        400,
        "this door fetches none",
    );
    refused(
        chat("data:image/png;base64,aGVwaA=="),
        json!({}),
        400,
        "PNG, JPEG, GIF or WebP",
    );
    refused(
        chat(&address),
        json!({ "max_price": 5 }),
        400,
        "for a picture is not known",
    );
    refused(
        json!([{ "role": "system", "content": chat(&address)[0]["content"] }]),
        json!({}),
        400,
        "of a user may",
    );
    // What may leave with pseudonyms only stays: nobody finds a name in a picture.
    std::fs::write(
        home.0.path().join("policy.toml"),
        "version = 1\npreset = \"redact-then-remote\"\n",
    )
    .unwrap();
    refused(chat(&address), json!({}), 403, "");
    drop(door);
}
