//! Pages of other origins at a real door: who was not let in, who was, and who is not any more.

use std::io::{Read, Write};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use heph_gateway::Pairings;
use serde_json::{Value, json};

use crate::knocking::{Door, guarded};

const TOKEN: &str = "sesame-sesame-sesame-sesame-sesame";
const PAGE: &str = "chrome-extension://abcdefghijklmnopabcdefghijklmnop";
const PERSON: (&str, &str) = ("authorization", "Bearer sesame-sesame-sesame-sesame-sesame");

/// Somebody who knocks, by what they show.
#[derive(Clone, Copy)]
struct Caller<'a> {
    door: &'a Door,
    shows: &'a [(&'a str, &'a str)],
}

/// Somebody before `door` who shows these headers.
fn caller<'a>(door: &'a Door, shows: &'a [(&'a str, &'a str)]) -> Caller<'a> {
    Caller { door, shows }
}

/// The person, who has the token.
fn person(door: &Door) -> Caller<'_> {
    caller(door, &[PERSON])
}

impl Caller<'_> {
    /// Status, head and JSON body of the answer.
    fn hears(self, method: &str, path: &str, body: &Value) -> (u16, String, Value) {
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let raw = self.door.raw(method, path, &body, self.shows);
        let (head, body) = raw.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (
            status,
            head.to_ascii_lowercase(),
            serde_json::from_str(body).unwrap_or(Value::Null),
        )
    }

    fn get(self, path: &str) -> (u16, Value) {
        let (status, _, said) = self.hears("GET", path, &Value::Null);
        (status, said)
    }

    fn post(self, path: &str, body: &Value) -> u16 {
        self.hears("POST", path, body).0
    }

    fn delete(self, path: &str) -> u16 {
        self.hears("DELETE", path, &Value::Null).0
    }
}

/// How a token is shown.
fn bearer(token: &Value) -> String {
    format!("Bearer {}", token.as_str().unwrap())
}

fn ask(door: &Door, scopes: Value) -> Value {
    let body = json!({ "name": "A page", "scopes": scopes });
    let (status, head, asked) = caller(door, &[("origin", PAGE)]).hears("POST", "/heph/v1/pairing", &body);
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
    let code = json!({ "code": asked["code"] });
    assert_eq!(
        person(door).post(&format!("/heph/v1/pairing/{id}/approve"), &code),
        204
    );
    let secret = bearer(&asked["secret"]);
    let claim = [("origin", PAGE), ("authorization", secret.as_str())];
    let (status, claimed) = caller(door, &claim).get(&format!("/heph/v1/pairing/{id}"));
    assert_eq!((status, &claimed["state"]), (200, &json!("paired")), "{claimed}");
    (id, bearer(&claimed["token"]))
}

#[test]
fn a_page_comes_in_only_after_the_person_said_so() {
    let door = guarded(TOKEN);
    let from = ("origin", PAGE);
    let models = |shows: &[(&str, &str)]| caller(&door, shows).get("/v1/models").0;
    assert_eq!(models(&[from, PERSON]), 403, "not even with the person's token");
    let asked = ask(&door, json!(["models"]));
    let secret = bearer(&asked["secret"]);
    let page = [from, ("authorization", secret.as_str())];
    let path = format!("/heph/v1/pairing/{}", asked["id"].as_str().unwrap());
    let look = || caller(&door, &page).get(&path).1;
    assert_eq!(look()["state"], "waiting");
    assert_eq!(models(&page), 403);
    // The page cannot say yes itself, nor can anybody without the token, nor with a wrong code.
    let code = json!({ "code": asked["code"] });
    let approve =
        |shows: &[(&str, &str)], body: &Value| caller(&door, shows).post(&format!("{path}/approve"), body);
    assert_eq!(approve(&page, &code), 403);
    assert_eq!(approve(&[], &code), 401);
    assert_eq!(approve(&[PERSON], &json!({ "code": "12345" })), 404);
    assert_eq!(look()["state"], "waiting");
    let book = person(&door).get("/heph/v1/pairings").1;
    assert_eq!(book["requests"][0]["code"], asked["code"]);
    assert!(book.to_string().find(asked["secret"].as_str().unwrap()).is_none());
    assert_eq!(approve(&[PERSON], &code), 204);
    // Another page fetches nothing.
    let evil = ("origin", "https://evil.example");
    assert_eq!(caller(&door, &[evil, page[1]]).get(&path).0, 404);
    let token = bearer(&look()["token"]);
    let token = ("authorization", token.as_str());
    assert_eq!(models(&[from, token]), 200);
    assert_eq!(models(&[evil, token]), 401);
    assert_eq!(models(&[("origin", "http://localhost:3000"), token]), 401);
    assert_eq!(models(&[token]), 401, "without an origin");
    let asks_first = |from| caller(&door, &[from]).hears("OPTIONS", "/v1/models", &Value::Null);
    let (status, head, _) = asks_first(from);
    let told = head.contains(&format!("access-control-allow-origin: {PAGE}"));
    assert!(status == 204 && told, "{head}");
    let (status, head, _) = asks_first(evil);
    assert!(status == 403 && !head.contains("access-control"), "{head}");
    // Clients have headers of their own, and so have wishes.
    let sends = "authorization,content-type,heph-labels,heph-exactness,x-stainless-lang";
    let asks_first = |from, path: &str| {
        let shows = [
            from,
            ("access-control-request-method", "POST"),
            ("access-control-request-headers", sends),
        ];
        caller(&door, &shows).hears("OPTIONS", path, &Value::Null)
    };
    let (status, head, _) = asks_first(from, "/v1/chat/completions");
    assert!(
        status == 204 && head.contains(&format!("access-control-allow-headers: {sends}\r\n")),
        "{head}"
    );
    let (status, head, _) = asks_first(evil, "/heph/v1/pairing");
    assert!(
        status == 204 && head.contains("access-control-allow-headers: authorization, content-type\r\n"),
        "{head}"
    );
    // Whoever asks to be let in has little to say.
    let long = json!({ "name": "x".repeat(17 << 10) });
    let (status, _, said) = caller(&door, &[evil]).hears("POST", "/heph/v1/pairing", &long);
    assert_eq!(status, 413, "{said}");
}

#[test]
fn a_page_may_do_what_it_was_let_in_for() {
    let door = guarded(TOKEN);
    let (id, token) = let_in(&door, json!(["chat"]));
    let page = [("origin", PAGE), ("authorization", token.as_str())];
    let page = caller(&door, &page);
    let question = json!({ "messages": [{ "role": "user", "content": "Hello" }], "max_tokens": 4 });
    assert_eq!(page.post("/v1/chat/completions", &question), 200);
    let mut with_tools = question.clone();
    with_tools["heph"] = json!({ "mcp": ["files"] });
    let tools = page.post("/v1/chat/completions", &with_tools);
    assert_eq!(tools, 403, "tools are a scope of their own");
    assert_eq!(page.post("/mcp", &json!({})), 403);
    assert_eq!(
        page.post("/heph/v1/models/pull", &json!({ "repository": "a/b" })),
        403
    );
    assert_eq!(page.delete(&format!("/heph/v1/pairings/{id}")), 403);
    for path in [
        "/v1/models",
        "/heph/v1/chats",
        "/heph/v1/pairings",
        "/heph/v1/servers",
        "/metrics",
    ] {
        assert_eq!(page.get(path).0, 403, "{path}");
    }
    assert_eq!(page.get("/health").0, 200);
}

#[test]
fn asking_too_often_is_refused_and_says_when_to_come_again() {
    let door = guarded(TOKEN);
    let body = json!({ "name": "A page" });
    let asked = |n: usize| {
        let origin = format!("https://{n}.example");
        caller(&door, &[("origin", &origin)]).hears("POST", "/heph/v1/pairing", &body)
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
        let (status, _, text) = caller(&door, &headers).hears("POST", "/heph/v1/pairing", &body);
        assert_eq!(status, expected, "{body} {headers:?} {text}");
    }
}

/// The rest of a stream that a page reads, of which it heard the beginning, at least for so long, before `cut` was called.
fn cut_off(door: &Door, token: &str, read_for: Duration, cut: impl FnOnce()) -> String {
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
    let began = Instant::now();
    while began.elapsed() < read_for {
        stream.read_exact(&mut some).unwrap();
    }
    cut();
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    String::from_utf8_lossy(&rest).into_owned()
}

#[test]
fn a_page_that_is_sent_away_hears_no_more() {
    let door = guarded(TOKEN);
    let (id, token) = let_in(&door, json!(["chat"]));
    let rest = cut_off(&door, &token, Duration::ZERO, || {
        assert_eq!(person(&door).delete(&format!("/heph/v1/pairings/{id}")), 204);
    });
    // Neither the last word nor the end of a chunked body: the reader knows that it was cut off.
    assert!(
        !rest.contains("[DONE]") && !rest.ends_with("0\r\n\r\n"),
        "it went on to its end"
    );
    let page = [("origin", PAGE), ("authorization", token.as_str())];
    assert_eq!(
        caller(&door, &page).post("/v1/completions", &json!({ "prompt": "Once" })),
        401
    );
    assert_eq!(person(&door).delete(&format!("/heph/v1/pairings/{id}")), 404);
}

/// Another program takes back the leave of that page.
fn revoked_elsewhere(door: &Door) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
    Pairings::at(door.home.path()).revoke(now, PAGE).unwrap().unwrap();
}

#[test]
fn a_page_that_another_program_sends_away_hears_no_more() {
    let door = guarded(TOKEN);
    let (_, token) = let_in(&door, json!(["chat"]));
    revoked_elsewhere(&door);
    let page = [("origin", PAGE), ("authorization", token.as_str())];
    assert_eq!(
        caller(&door, &page).post("/v1/completions", &json!({ "prompt": "Once" })),
        401
    );
}

#[test]
fn what_a_page_reads_when_another_program_sends_it_away_breaks_off() {
    let door = guarded(TOKEN);
    // At once, and when the door has looked in vain already.
    for read_for in [Duration::ZERO, Duration::from_millis(500)] {
        let (_, token) = let_in(&door, json!(["chat"]));
        let rest = cut_off(&door, &token, read_for, || revoked_elsewhere(&door));
        assert!(
            !rest.contains("[DONE]") && !rest.ends_with("0\r\n\r\n"),
            "it went on to its end"
        );
    }
}
