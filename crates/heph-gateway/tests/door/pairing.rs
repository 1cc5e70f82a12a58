//! Pages of other origins at a real door: who was not let in, who was, and who is not any more.

use std::io::{Read, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use heph_gateway::Pairings;
use serde_json::{Value, json};

use crate::knocking::{Door, guarded};

const TOKEN: &str = "sesame-sesame-sesame-sesame-sesame";
const PAGE: &str = "chrome-extension://abcdefghijklmnopabcdefghijklmnop";
const PERSON: (&str, &str) = ("authorization", "Bearer sesame-sesame-sesame-sesame-sesame");

/// Status, head and JSON body.
fn said(
    door: &Door,
    method: &str,
    path: &str,
    body: &Value,
    headers: &[(&str, &str)],
) -> (u16, String, Value) {
    let body = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    let raw = door.raw(method, path, &body, headers);
    let (head, body) = raw.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (
        status,
        head.to_ascii_lowercase(),
        serde_json::from_str(body).unwrap_or(Value::Null),
    )
}

fn ask(door: &Door, scopes: Value) -> Value {
    let body = json!({ "name": "A page", "scopes": scopes });
    let (status, head, asked) = said(door, "POST", "/heph/v1/pairing", &body, &[("origin", PAGE)]);
    assert_eq!(status, 201, "{asked}");
    assert!(
        head.contains(&format!("access-control-allow-origin: {PAGE}")),
        "{head}"
    );
    asked
}

/// The token of a page that was let in.
fn let_in(door: &Door, scopes: Value) -> (String, String) {
    let asked = ask(door, scopes);
    let id = asked["id"].as_str().unwrap().to_owned();
    let (status, ..) = said(
        door,
        "POST",
        &format!("/heph/v1/pairing/{id}/approve"),
        &json!({ "code": asked["code"] }),
        &[PERSON],
    );
    assert_eq!(status, 204);
    let secret = format!("Bearer {}", asked["secret"].as_str().unwrap());
    let claim = [("origin", PAGE), ("authorization", secret.as_str())];
    let (status, _, claimed) = said(
        door,
        "GET",
        &format!("/heph/v1/pairing/{id}"),
        &Value::Null,
        &claim,
    );
    assert_eq!((status, &claimed["state"]), (200, &json!("paired")), "{claimed}");
    (id, format!("Bearer {}", claimed["token"].as_str().unwrap()))
}

#[test]
fn a_page_comes_in_only_after_the_person_said_so() {
    let door = guarded(TOKEN);
    let from = ("origin", PAGE);
    let models = |headers: &[(&str, &str)]| said(&door, "GET", "/v1/models", &Value::Null, headers).0;
    assert_eq!(models(&[from, PERSON]), 403, "not even with the person's token");
    let asked = ask(&door, json!(["models"]));
    let (id, secret) = (
        asked["id"].as_str().unwrap(),
        format!("Bearer {}", asked["secret"].as_str().unwrap()),
    );
    let path = format!("/heph/v1/pairing/{id}");
    let look = || {
        said(
            &door,
            "GET",
            &path,
            &Value::Null,
            &[from, ("authorization", &secret)],
        )
    };
    assert_eq!(look().2["state"], "waiting");
    assert_eq!(models(&[from, ("authorization", &secret)]), 403);
    // The page cannot say yes itself, nor can anybody without the token, nor with a wrong code.
    let code = json!({ "code": asked["code"] });
    let approve = |headers: &[(&str, &str)], body: &Value| {
        said(&door, "POST", &format!("{path}/approve"), body, headers).0
    };
    assert_eq!(approve(&[from, ("authorization", &secret)], &code), 403);
    assert_eq!(approve(&[], &code), 401);
    assert_eq!(approve(&[PERSON], &json!({ "code": "12345" })), 404);
    assert_eq!(look().2["state"], "waiting");
    let (_, _, book) = said(&door, "GET", "/heph/v1/pairings", &Value::Null, &[PERSON]);
    assert_eq!(book["requests"][0]["code"], asked["code"]);
    assert!(book.to_string().find(asked["secret"].as_str().unwrap()).is_none());
    assert_eq!(approve(&[PERSON], &code), 204);
    // Another page fetches nothing.
    let other = [
        ("origin", "https://evil.example"),
        ("authorization", secret.as_str()),
    ];
    assert_eq!(said(&door, "GET", &path, &Value::Null, &other).0, 404);
    let token = format!("Bearer {}", look().2["token"].as_str().unwrap());
    assert_eq!(models(&[from, ("authorization", &token)]), 200);
    assert_eq!(
        models(&[("origin", "https://evil.example"), ("authorization", &token)]),
        401
    );
    assert_eq!(
        models(&[("origin", "http://localhost:3000"), ("authorization", &token)]),
        401
    );
    assert_eq!(models(&[("authorization", &token)]), 401, "without an origin");
    let (status, head, _) = said(&door, "OPTIONS", "/v1/models", &Value::Null, &[from]);
    assert!(
        status == 204 && head.contains(&format!("access-control-allow-origin: {PAGE}")),
        "{head}"
    );
    let (status, head, _) = said(
        &door,
        "OPTIONS",
        "/v1/models",
        &Value::Null,
        &[("origin", "https://evil.example")],
    );
    assert!(status == 403 && !head.contains("access-control"), "{head}");
}

#[test]
fn a_page_may_do_what_it_was_let_in_for() {
    let door = guarded(TOKEN);
    let (id, token) = let_in(&door, json!(["chat"]));
    let page = [("origin", PAGE), ("authorization", token.as_str())];
    let status = |method: &str, path: &str, body: &Value| said(&door, method, path, body, &page).0;
    let question = json!({ "messages": [{ "role": "user", "content": "Hello" }], "max_tokens": 4 });
    assert_eq!(status("POST", "/v1/chat/completions", &question), 200);
    let mut with_tools = question.clone();
    with_tools["heph"] = json!({ "mcp": ["files"] });
    assert_eq!(
        status("POST", "/v1/chat/completions", &with_tools),
        403,
        "tools are a scope of their own"
    );
    assert_eq!(status("POST", "/mcp", &json!({})), 403);
    assert_eq!(status("GET", "/v1/models", &Value::Null), 403);
    assert_eq!(status("GET", "/heph/v1/chats", &Value::Null), 403);
    assert_eq!(
        status("POST", "/heph/v1/models/pull", &json!({ "repository": "a/b" })),
        403
    );
    assert_eq!(status("GET", "/heph/v1/pairings", &Value::Null), 403);
    assert_eq!(
        status("DELETE", &format!("/heph/v1/pairings/{id}"), &Value::Null),
        403
    );
    assert_eq!(status("GET", "/metrics", &Value::Null), 403);
    assert_eq!(status("GET", "/health", &Value::Null), 200);
}

#[test]
fn asking_too_often_is_refused_and_says_when_to_come_again() {
    let door = guarded(TOKEN);
    let body = json!({ "name": "A page" });
    let asked = |n: usize| {
        said(
            &door,
            "POST",
            "/heph/v1/pairing",
            &body,
            &[("origin", &format!("https://{n}.example"))],
        )
    };
    let refused = (0..40).map(asked).find(|(status, ..)| *status != 201).unwrap();
    assert_eq!(refused.0, 429);
    assert!(refused.1.contains("retry-after: "), "{}", refused.1);
    for (body, headers, expected) in [
        (json!({ "name": "" }), vec![("origin", PAGE)], 400),
        (
            json!({ "name": "A page", "scopes": [] }),
            vec![("origin", PAGE)],
            400,
        ),
        (
            json!({ "name": "A page", "scopes": ["everything"] }),
            vec![("origin", PAGE)],
            400,
        ),
        (json!({ "name": "A page" }), vec![], 400),
        (json!({ "name": "A page" }), vec![("origin", "null")], 403),
        (
            json!({ "name": "A page" }),
            vec![("origin", PAGE), ("host", "evil.example")],
            403,
        ),
    ] {
        let (status, _, text) = said(&door, "POST", "/heph/v1/pairing", &body, &headers);
        assert_eq!(status, expected, "{body} {headers:?} {text}");
    }
}

/// The rest of a stream that a page reads, of which it heard the beginning before `cut` was called.
fn cut_off(door: &Door, token: &str, cut: impl FnOnce()) -> String {
    let body = json!({
        "prompt": "Once", "max_tokens": 1000, "temperature": 1, "stream": true, "n": 8,
        // Nothing ends it but the number of its tokens.
        "logit_bias": { "0": -100, "1": -100, "2": -100 },
    })
    .to_string();
    let mut stream = door.connect();
    let length = body.len();
    let head = format!(
        "POST /v1/completions HTTP/1.1\r\nhost: 127.0.0.1\r\norigin: {PAGE}\r\nauthorization: {token}\r\n"
    );
    write!(stream, "{head}content-length: {length}\r\n\r\n{body}").unwrap();
    let mut some = [0; 512];
    stream.read_exact(&mut some).unwrap();
    assert!(
        some.starts_with(b"HTTP/1.1 200"),
        "{}",
        String::from_utf8_lossy(&some)
    );
    cut();
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    String::from_utf8_lossy(&rest).into_owned()
}

#[test]
fn a_page_that_is_sent_away_hears_no_more() {
    let door = guarded(TOKEN);
    let (id, token) = let_in(&door, json!(["chat"]));
    let rest = cut_off(&door, &token, || {
        let (status, ..) = said(
            &door,
            "DELETE",
            &format!("/heph/v1/pairings/{id}"),
            &Value::Null,
            &[PERSON],
        );
        assert_eq!(status, 204);
    });
    // Neither the last word nor the end of a chunked body: the reader knows that it was cut off.
    assert!(
        !rest.contains("[DONE]") && !rest.ends_with("0\r\n\r\n"),
        "it went on to its end"
    );
    let page = [("origin", PAGE), ("authorization", token.as_str())];
    assert_eq!(
        said(
            &door,
            "POST",
            "/v1/completions",
            &json!({ "prompt": "Once" }),
            &page
        )
        .0,
        401
    );
    assert_eq!(
        said(
            &door,
            "DELETE",
            &format!("/heph/v1/pairings/{id}"),
            &Value::Null,
            &[PERSON]
        )
        .0,
        404
    );
}

#[test]
fn a_page_that_another_program_sends_away_hears_no_more() {
    let door = guarded(TOKEN);
    let (_, token) = let_in(&door, json!(["chat"]));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
    Pairings::at(door.home.path()).revoke(now, PAGE).unwrap().unwrap();
    let page = [("origin", PAGE), ("authorization", token.as_str())];
    assert_eq!(
        said(
            &door,
            "POST",
            "/v1/completions",
            &json!({ "prompt": "Once" }),
            &page
        )
        .0,
        401
    );
}
