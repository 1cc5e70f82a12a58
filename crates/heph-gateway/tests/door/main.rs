//! A real door on loopback, knocked at over HTTP.

mod again;
mod caches;
mod encrypted;
mod knocking;
#[cfg(unix)]
mod local;
mod logs;
mod much;
mod pairing;
mod policy;
mod shelves;
mod shown;
mod thoughts;
mod tools;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use knocking::{chat, door, guarded};
use serde_json::{Value, json};

#[test]
fn an_answer_is_the_same_whole_in_pieces_and_in_company() {
    let door = door();
    let ask = |n: usize| {
        let who = ["a dog", "a cat", "a bird", "a fish"][n % 4];
        json!({
            "messages": [{ "role": "user", "content": format!("Tell me a story about {who}.") }],
            "max_tokens": 24, "temperature": 0.9, "seed": n,
        })
    };
    let alone: Vec<String> = (0..8).map(|n| chat(&door, &ask(n))).collect();
    let texts: Vec<String> = std::thread::scope(|scope| {
        let door = &door;
        // 72 at once: more than run together, so that some wait.
        let threads: Vec<_> = (0..72)
            .map(|n| {
                scope.spawn(move || {
                    let mut body = ask(n % 8);
                    body["stream"] = json!(true);
                    door.events("/v1/chat/completions", &body)
                })
            })
            .collect();
        let spoken = |events: Vec<Value>| {
            let pieces = events
                .iter()
                .filter_map(|e| e["choices"][0]["delta"]["content"].as_str());
            pieces.collect::<String>()
        };
        threads.into_iter().map(|t| spoken(t.join().unwrap())).collect()
    });
    for (n, text) in texts.iter().enumerate() {
        assert_eq!(*text, alone[n % 8], "stream {n}");
    }
}

#[test]
fn a_lost_connection_goes_on_at_the_same_byte() {
    let door = door();
    let body = json!({
        "messages": [{ "role": "user", "content": "Tell me a story about a fox." }], "max_tokens": 40, "seed": 1,
        "stream": true, "heph": { "resume": true },
    });
    let whole = door.post("/v1/chat/completions", &body).1;
    let ids: Vec<&str> = whole.lines().filter_map(|l| l.strip_prefix("id: ")).collect();
    let (stream, _) = ids[0].split_once(':').unwrap();
    for at in [0, 3, ids.len() - 2] {
        let rest = door
            .get_with(
                &format!("/heph/v1/streams/{stream}"),
                &[("last-event-id", ids[at])],
            )
            .1;
        let cut = whole.find(&format!("id: {}\n", ids[at + 1])).unwrap();
        assert_eq!(rest, whole[cut..], "after event {at}");
    }
    let (status, _) = door.get_with("/heph/v1/streams/none", &[("last-event-id", "none:1")]);
    assert_eq!(status, 404);
    // Each shape of events, by the same question with the last event's name.
    let turns = &body["messages"];
    for (path, body) in [
        (
            "/v1/completions",
            json!({ "prompt": "Once", "max_tokens": 20, "temperature": 0 }),
        ),
        (
            "/v1/responses",
            json!({ "input": turns, "max_output_tokens": 20 }),
        ),
        ("/v1/messages", json!({ "messages": turns, "max_tokens": 20 })),
    ] {
        let mut body = body;
        body["stream"] = json!(true);
        body["heph"] = json!({ "resume": true });
        let whole = door.post(path, &body).1;
        let ids: Vec<&str> = whole.lines().filter_map(|l| l.strip_prefix("id: ")).collect();
        assert!(ids.len() > 4, "{path}: {whole}");
        let said = door.raw("POST", path, &body.to_string(), &[("last-event-id", ids[2])]);
        let rest = said.split_once("\r\n\r\n").unwrap().1;
        let cut = whole.find(&format!("id: {}\n", ids[3])).unwrap();
        assert_eq!(rest, &whole[cut..], "{path}");
    }
    // Lines have no names: who wants them kept is told so.
    let lines = json!({ "messages": turns, "heph": { "resume": true } });
    assert_eq!(door.post("/api/chat", &lines).0, 400);
}

#[test]
fn a_kept_answer_ends_when_it_is_asked_to() {
    let door = door();
    let body = json!({
        "prompt": "Once", "max_tokens": 1000, "temperature": 1, "stream": true, "heph": { "resume": true }, "n": 8,
        // Nothing ends it but the number of its tokens.
        "logit_bias": { "0": -100, "1": -100, "2": -100 },
    })
    .to_string();
    let mut stream = door.connect();
    let length = body.len();
    write!(
        stream,
        "POST /v1/completions HTTP/1.0\r\nhost: 127.0.0.1\r\ncontent-length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    let mut heard = String::new();
    let id = loop {
        let mut some = [0; 64];
        let count = stream.read(&mut some).unwrap();
        heard.push_str(&String::from_utf8_lossy(&some[..count]));
        let id = heard
            .split_once("\nid: ")
            .and_then(|(_, rest)| rest.split_once(':'));
        if let Some((id, _)) = id {
            break id.to_owned();
        }
        assert!(count > 0, "{heard}");
    };
    let ended = door.raw("DELETE", &format!("/heph/v1/streams/{id}"), "", &[]);
    assert!(ended.starts_with("HTTP/1.0 204"), "{ended}");
    stream.read_to_string(&mut heard).unwrap();
    assert!(!heard.contains("[DONE]"), "it went on to its end");
    door.comes_to_rest();
}

#[test]
fn a_door_that_is_shut_tells_those_who_listen_that_their_answers_have_no_end() {
    let door = door();
    let asks = |more: Value| {
        let mut body = json!({
            "prompt": "Once", "max_tokens": 1000, "temperature": 1, "n": 4,
            // Nothing ends it but the number of its tokens.
            "logit_bias": { "0": -100, "1": -100, "2": -100 },
        });
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        let (mut stream, body) = (door.connect(), body.to_string());
        let length = body.len();
        write!(
            stream,
            "POST /v1/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        stream
    };
    let mut streamed = asks(json!({ "stream": true }));
    let mut kept = asks(json!({ "stream": true, "heph": { "resume": true } }));
    let whole = asks(json!({}));
    // A connection on which nothing is asked is in nobody's way.
    let _idle = door.connect();
    for stream in [&mut streamed, &mut kept] {
        stream.read_exact(&mut [0; 64]).unwrap();
    }
    door.is_at_work();
    let readers = [streamed, kept, whole].map(|mut stream| {
        std::thread::spawn(move || {
            let mut heard = Vec::new();
            // One whose answer is not told to have ended may be reset.
            let _ = stream.read_to_end(&mut heard);
            String::from_utf8_lossy(&heard).replace("\r\n", "\n")
        })
    });
    let _home = door.leave();
    let [streamed, kept, whole] = readers.map(|reader| reader.join().unwrap());
    // A whole stream, whose last word is no finish but why there is none.
    let last = streamed.rsplit_once("data: ").expect("events").1;
    assert!(
        last.contains("\"error\"") && last.contains("the engine has stopped"),
        "{last}"
    );
    assert!(
        streamed.ends_with("\n0\n\n") && !streamed.contains("\"finish_reason\":\"length\""),
        "{last}"
    );
    // Its reader comes again and has it made anew, as where the connection broke.
    assert!(!kept.contains("error") && !kept.ends_with("\n0\n\n"), "{kept}");
    assert!(
        whole.starts_with("HTTP/1.1 503") && whole.contains("the engine has stopped"),
        "{whole}"
    );
}

#[test]
fn whoever_hangs_up_frees_the_engine() {
    let door = door();
    let body = json!({ "prompt": "Once", "max_tokens": 900, "temperature": 1, "stream": true }).to_string();
    for _ in 0..8 {
        let mut stream = door.connect();
        write!(
            stream,
            "POST /v1/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut some = [0; 64];
        stream.read_exact(&mut some).unwrap();
        stream.shutdown(Shutdown::Both).unwrap();
    }
    door.comes_to_rest();
}

#[test]
fn a_reader_who_takes_nothing_holds_back_only_itself() {
    let door = door();
    let body = json!({
        "messages": [{ "role": "user", "content": "Tell me a story." }], "max_tokens": 700, "stream": true,
        "logprobs": true, "top_logprobs": 20, "logit_bias": { "0": -100 }, "temperature": 1, "seed": 3,
    })
    .to_string();
    let mut idle = door.connect();
    write!(
        idle,
        "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let ask = json!({ "messages": [{ "role": "user", "content": "Hello" }], "max_tokens": 8 });
    assert!(!chat(&door, &ask).is_empty());
    let mut some = [0; 1024];
    idle.read_exact(&mut some).unwrap();
    assert!(some.starts_with(b"HTTP/1.1 200"));
}

#[test]
fn each_refusal_has_the_shape_that_its_callers_read() {
    let door = door();
    let user = json!([{ "role": "user", "content": "Hello" }]);
    let long = "word and ".repeat(1500);
    let cases = [
        ("/v1/chat/completions", "{".to_owned(), 400),
        (
            "/v1/chat/completions",
            json!({ "messages": "hi" }).to_string(),
            400,
        ),
        ("/v1/chat/completions", json!({ "messages": [] }).to_string(), 400),
        (
            "/v1/chat/completions",
            json!({ "messages": user, "model": "no-such" }).to_string(),
            404,
        ),
        (
            "/v1/chat/completions",
            json!({ "messages": user, "model": "../../etc/passwd" }).to_string(),
            404,
        ),
        (
            "/v1/chat/completions",
            json!({ "messages": user, "temperature": -1 }).to_string(),
            400,
        ),
        (
            "/v1/chat/completions",
            json!({ "messages": user, "n": 0 }).to_string(),
            400,
        ),
        (
            "/v1/chat/completions",
            json!({ "messages": [{ "role": "wizard", "content": "x" }] }).to_string(),
            400,
        ),
        (
            "/v1/chat/completions",
            json!({ "messages": [{ "role": "user", "content": long }], "stream": true }).to_string(),
            400,
        ),
        (
            "/v1/chat/completions",
            json!({ "messages": user, "heph": { "mode": "sideways" } }).to_string(),
            400,
        ),
        (
            "/v1/chat/completions",
            json!({ "messages": user, "heph": { "privacy": "maybe" } }).to_string(),
            400,
        ),
        (
            "/v1/completions",
            json!({ "prompt": [[1, 99_999_999]] }).to_string(),
            400,
        ),
        ("/v1/embeddings", json!({ "input": [] }).to_string(), 400),
        (
            "/v1/embeddings",
            json!([null, "a list is no object", null, null]).to_string(),
            400,
        ),
        ("/v1/responses", json!({ "input": 7 }).to_string(), 400),
        ("/v1/messages", json!({ "messages": user }).to_string(), 400),
        ("/v1/no/such/route", "{}".to_owned(), 404),
        (
            "/api/chat",
            json!({ "model": "no-such", "messages": user }).to_string(),
            404,
        ),
        (
            "/heph/v1/models/pull",
            json!({ "repository": "no" }).to_string(),
            400,
        ),
    ];
    for (path, body, expected) in cases {
        let (status, text) = door.post_text(path, &body);
        let said: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{path}: {text}"));
        assert_eq!(status, expected, "{path} {body:.80}: {text}");
        let sentence = match path {
            "/api/chat" => &said["error"],
            "/v1/messages" => {
                assert_eq!(said["type"], "error");
                &said["error"]["message"]
            }
            _ => &said["error"]["message"],
        };
        assert!(sentence.as_str().is_some_and(|s| s.len() > 8), "{text}");
    }
}

#[test]
fn the_door_is_shut_to_those_without_the_token() {
    let door = guarded("sesame-sesame-sesame-sesame-sesame");
    let bearer = ("authorization", "Bearer sesame-sesame-sesame-sesame-sesame");
    for path in [
        "/v1/models",
        "/heph/v1/status",
        "/metrics",
        "/heph/v1/chats",
        "/api/tags",
    ] {
        assert_eq!(door.get_with(path, &[]).0, 401, "{path}");
        assert_eq!(door.get_with(path, &[("x-api-key", "sesame")]).0, 401, "{path}");
        assert_eq!(door.get_with(path, &[bearer]).0, 200, "{path}");
        let foreign = [bearer, ("origin", "https://evil.example")];
        assert_eq!(door.get_with(path, &foreign).0, 403, "{path}");
        assert_eq!(
            door.get_with(path, &[bearer, ("host", "evil.example")]).0,
            403,
            "{path}"
        );
    }
    assert_eq!(door.get_with("/health", &[]).0, 200);
    let page = door.get_with("/", &[]);
    assert!(page.0 == 200 && page.1.contains("<html"), "{page:?}");
}

#[test]
fn no_door_stands_open_to_others() {
    assert!(knocking::refuses_to_open("0.0.0.0:0"));
    assert!(knocking::refuses_to_open("[::]:0"));
}

#[test]
fn calls_and_shapes_are_enforced_in_every_dialect() {
    let door = door();
    let parameters = json!({
        "type": "object", "properties": { "city": { "type": "string" }, "days": { "type": "integer" } },
        "required": ["city", "days"], "additionalProperties": false,
    });
    let user = json!([{ "role": "user", "content": "What is the weather?" }]);
    let function =
        json!({ "name": "weather", "description": "Tells the weather.", "parameters": parameters });
    let tools = json!([{ "type": "function", "function": function }]);
    for seed in 0..3 {
        let body = json!({
            "messages": user, "tools": tools, "tool_choice": "required", "max_tokens": 60, "temperature": 1.5,
            "seed": seed,
        });
        let said = door.json("/v1/chat/completions", &body);
        let call = &said["choices"][0]["message"]["tool_calls"][0]["function"];
        assert_eq!(said["choices"][0]["finish_reason"], "tool_calls", "{said}");
        let arguments: Value = serde_json::from_str(call["arguments"].as_str().unwrap()).unwrap();
        assert!(
            arguments["city"].is_string() && arguments["days"].is_number(),
            "{arguments}"
        );
    }
    let body = json!({
        "messages": user, "tools": [{ "name": "weather", "input_schema": parameters }], "tool_choice": { "type": "any" },
        "max_tokens": 60,
    });
    let said = door.json("/v1/messages", &body);
    assert_eq!(said["stop_reason"], "tool_use", "{said}");
    assert!(said["content"][0]["input"]["city"].is_string(), "{said}");
    let body =
        json!({ "messages": user, "format": parameters, "stream": false, "options": { "num_predict": 60 } });
    let said = door.json("/api/chat", &body);
    let made: Value = serde_json::from_str(said["message"]["content"].as_str().unwrap()).unwrap();
    assert!(made["days"].is_number(), "{said}");
    let body = json!({
        "input": "Weather?", "tools": [{ "type": "function", "name": "weather", "parameters": parameters }],
        "tool_choice": "required", "max_output_tokens": 60,
    });
    let said = door.json("/v1/responses", &body);
    assert_eq!(said["output"][0]["type"], "function_call", "{said}");
}

#[test]
fn a_full_queue_says_when_to_come_again() {
    let door = knocking::narrow();
    let body = |n: usize| json!({ "prompt": "Once", "max_tokens": 900, "temperature": 1, "n": n });
    // There will never be room for three: whoever were told to come again would come for ever.
    let (status, text) = door.post("/v1/completions", &body(3));
    assert_eq!(status, 400, "{text}");
    // Two whom nobody reads take both places.
    let mut two = body(2);
    two["stream"] = json!(true);
    // Nothing ends them but the number of their tokens.
    two["logit_bias"] = json!({ "0": -100, "1": -100, "2": -100 });
    let (two, mut unread) = (two.to_string(), door.connect());
    let length = two.len();
    write!(
        unread,
        "POST /v1/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {length}\r\n\r\n{two}"
    )
    .unwrap();
    door.is_at_work();
    let raw = door.raw("POST", "/v1/completions", &body(1).to_string(), &[]);
    assert!(
        raw.starts_with("HTTP/1.0 503") && raw.to_lowercase().contains("retry-after: 1"),
        "{raw}"
    );
    drop(unread);
    door.comes_to_rest();
    assert_eq!(
        door.post("/v1/completions", &json!({ "prompt": "Once", "max_tokens": 2 }))
            .0,
        200
    );
}

#[test]
fn what_would_take_too_much_is_refused_before_it_is_made() {
    let door = door();
    let half = "x".repeat(4 << 20);
    for (path, body, field) in [
        // The suffix stands in each prompt, and probabilities of a prompt stand beside each choice.
        (
            "/v1/completions",
            json!({ "prompt": ["a", "b", "c"], "suffix": half, "max_tokens": 1 }),
            "suffix",
        ),
        (
            "/v1/completions",
            json!({ "prompt": "a ".repeat(900), "prompt_logprobs": 20, "n": 128, "max_tokens": 1 }),
            "prompt_logprobs",
        ),
        (
            "/v1/chat/completions",
            json!({ "messages": [{ "role": "user", "content": "a" }], "n": 128, "logprobs": true, "top_logprobs": 20 }),
            "top_logprobs",
        ),
        // What stands beside its place would be counted on for nothing.
        (
            "/v1/chat/completions",
            json!({ "messages": [], "mode": "local" }),
            "mode",
        ),
        (
            "/v1/completions",
            json!({ "prompt": "a", "privacy": "nothing" }),
            "privacy",
        ),
        (
            "/v1/responses",
            json!({ "input": "a", "labels": ["salaries"] }),
            "labels",
        ),
        (
            "/v1/chat/completions",
            json!({ "messages": [{ "role": "user", "content": "a" }], "max_tokens": -2 }),
            "max_tokens",
        ),
        (
            "/v1/completions",
            json!({ "prompt": "a", "max_tokens": -2 }),
            "max_tokens",
        ),
        // More answers than there will ever be room for: whoever asks is not told to come again.
        (
            "/v1/completions",
            json!({ "prompt": vec!["a"; 128], "n": 128, "guided_regex": "a+" }),
            "n",
        ),
    ] {
        let (status, text) = door.post(path, &body);
        let said: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((status, &said["error"]["param"]), (400, &json!(field)), "{text}");
    }
}

#[test]
fn a_download_that_fails_is_no_answer_that_went_well() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let hub = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut caller in listener.incoming().flatten() {
            let _ = caller.read(&mut [0; 4096]);
            let _ =
                caller.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        }
    });
    let door = knocking::asking(&hub);
    let (status, text) = door.post("/api/pull", &json!({ "model": "a/b", "stream": false }));
    let said: Value = serde_json::from_str(&text).unwrap();
    assert!(status == 502 && said["error"].is_string(), "{status} {text}");
    let (status, text) = door.post("/api/pull", &json!({ "model": "a/b" }));
    assert!(
        status == 200 && text.lines().last().unwrap().contains("error"),
        "{text}"
    );
}

#[test]
fn a_model_of_a_provider_is_found_by_the_name_that_it_is_listed_under() {
    let door = shown::ruled("http://127.0.0.1:9/v1", None);
    let all: Value = serde_json::from_str(&door.get_with("/v1/models", &[]).1).unwrap();
    let listed = all["data"].as_array().unwrap();
    assert!(listed.iter().any(|model| model["id"] == "far/m"), "{all}");
    for name in ["far/m", "far%2Fm", "heph-story"] {
        let (status, text) = door.get_with(&format!("/v1/models/{name}"), &[]);
        let one: Value = serde_json::from_str(&text).unwrap();
        assert!(status == 200 && listed.contains(&one), "{name}: {text}");
    }
    assert_eq!(door.get_with("/v1/models/far/none", &[]).0, 404);
}

#[test]
fn a_receipt_tells_what_became_of_an_answer() {
    let door = door();
    let ask = json!({ "messages": [{ "role": "user", "content": "Hello" }], "max_tokens": 8 });
    let said = door.json("/v1/chat/completions", &ask);
    let receipt = &said["heph"]["receipt"];
    assert_eq!(receipt["mode"], "local");
    assert_eq!(receipt["exactness"], "exact");
    assert_eq!(receipt["traffic"], json!([]));
    assert_eq!(receipt["answer_tokens"], said["usage"]["completion_tokens"]);
    let id = said["heph"]["receipt_id"].as_str().unwrap();
    let kept: Value =
        serde_json::from_str(&door.get_with(&format!("/heph/v1/receipts/{id}"), &[]).1).unwrap();
    assert_eq!(kept, *receipt);
}

#[test]
fn answers_have_the_shapes_that_other_servers_ask_for() {
    let door = door();
    let ask = |fields: &[(&str, Value)]| {
        let mut body =
            json!({ "messages": [{ "role": "user", "content": "Which?" }], "max_tokens": 40, "seed": 1 });
        fields
            .iter()
            .for_each(|(field, value)| body[*field] = value.clone());
        body
    };
    let gbnf = "root ::= (\"red\" | \"blue\") \" \" [0-9]";
    let schema = json!({
        "type": "object", "properties": { "ok": { "type": "boolean" } }, "required": ["ok"],
        "additionalProperties": false,
    });
    let color = |text: &str| text.len() >= 5 && (text.starts_with("red ") || text.starts_with("blue "));
    let number = |text: &str| text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit());
    let object = |text: &str| serde_json::from_str::<Value>(text).is_ok_and(|value| value["ok"].is_boolean());
    let choice = |text: &str| ["yes", "no"].contains(&text);
    type Fits<'a> = &'a dyn Fn(&str) -> bool;
    let cases: [(&str, Value, Fits<'_>); 9] = [
        ("guided_regex", json!("[0-9]{2}"), &number),
        ("regex", json!("[0-9]{2}"), &number),
        ("guided_grammar", json!("start: \"yes\" | \"no\""), &choice),
        ("grammar", json!(gbnf), &color),
        ("guided_json", json!(schema.to_string()), &object),
        ("json_schema", schema.clone(), &object),
        ("guided_choice", json!(["yes", "no"]), &choice),
        (
            "structured_outputs",
            json!({ "regex": "[0-9]{2}", "json": null }),
            &number,
        ),
        ("structured_outputs", json!({ "choice": ["yes", "no"] }), &choice),
    ];
    for (field, value, fits) in cases {
        let said = door.json("/v1/chat/completions", &ask(&[(field, value)]));
        let text = said["choices"][0]["message"]["content"].as_str().unwrap();
        assert!(fits(text), "{field}: {text:?}");
    }
    // Every API has them, beside its own.
    let turns = json!([{ "role": "user", "content": "Which?" }]);
    let own = json!({ "format": { "type": "json_schema", "schema": schema } });
    for (path, body, place, fits) in [
        (
            "/v1/responses",
            json!({ "input": "Which?", "guided_regex": "[0-9]{2}" }),
            "/output/0/content/0/text",
            &number as &dyn Fn(&str) -> bool,
        ),
        (
            "/v1/responses",
            json!({ "input": "Which?", "text": { "format": { "type": "json_schema", "schema": schema } } }),
            "/output/0/content/0/text",
            &object,
        ),
        (
            "/v1/messages",
            json!({ "messages": turns, "max_tokens": 40, "guided_choice": ["yes", "no"] }),
            "/content/0/text",
            &choice,
        ),
        (
            "/v1/messages",
            json!({ "messages": turns, "max_tokens": 40, "output_config": own }),
            "/content/0/text",
            &object,
        ),
        (
            "/v1/messages",
            json!({ "messages": turns, "max_tokens": 40, "output_format": own["format"] }),
            "/content/0/text",
            &object,
        ),
        (
            "/api/chat",
            json!({ "messages": turns, "stream": false, "grammar": gbnf }),
            "/message/content",
            &color,
        ),
        (
            "/api/generate",
            json!({ "prompt": "Which?", "stream": false, "structured_outputs": { "regex": "[0-9]{2}" } }),
            "/response",
            &number,
        ),
    ] {
        let said = door.json(path, &body);
        let text = said.pointer(place).and_then(Value::as_str);
        assert!(text.is_some_and(fits), "{path} {body}: {said}");
    }
    for (path, body) in [
        ("/v1/responses", json!({ "input": "Which?", "ebnf": "a" })),
        (
            "/v1/responses",
            json!({ "input": "Which?", "regex": "a", "text": { "format": { "type": "json_object" } } }),
        ),
        (
            "/v1/messages",
            json!({ "messages": turns, "max_tokens": 9, "regex": "a", "output_config": own }),
        ),
        (
            "/v1/messages",
            json!({ "messages": turns, "max_tokens": 9, "output_format": own["format"], "output_config": own }),
        ),
        (
            "/api/chat",
            json!({ "messages": turns, "format": "json", "regex": "a" }),
        ),
        (
            "/api/generate",
            json!({ "prompt": "Which?", "guided_whitespace_pattern": "a" }),
        ),
        // Only to be loaded, and read all the same.
        ("/api/chat", json!({ "messages": [], "format": 5 })),
        ("/api/generate", json!({ "format": ["json"] })),
    ] {
        let (status, said) = door.post(path, &body);
        assert!(status == 400, "{path} {body}: {status} {said}");
    }
    let format = json!({ "type": "json_object" });
    for (fields, why) in [
        (
            vec![("guided_regex", json!("a")), ("grammar", json!(gbnf))],
            "both given",
        ),
        (
            vec![("guided_regex", json!("a")), ("response_format", format)],
            "both given",
        ),
        (vec![("guided_regex", json!("("))], "not usable"),
        (
            vec![("grammar", json!("root ::= nothing"))],
            "the rule nothing is not made",
        ),
        (
            vec![("json_schema", json!({ "$ref": "#" }))],
            "no value is finite",
        ),
        (vec![("guided_json", json!("no"))], "no JSON schema"),
        (vec![("ebnf", json!("a"))], "ebnf is not known"),
        (
            vec![("structured_outputs", json!({ "tag": "a" }))],
            "one of regex",
        ),
    ] {
        let (status, said) = door.post("/v1/chat/completions", &ask(&fields));
        assert!(status == 400 && said.contains(why), "{fields:?}: {status} {said}");
    }
}

#[test]
fn bodies_that_were_changed_at_random_break_nothing() {
    let door = door();
    let good = [
        (
            "/v1/chat/completions",
            json!({
                "model": "heph-story", "messages": [{ "role": "user", "content": "Hi" }], "max_tokens": 1, "n": 1,
                "stop": ["x"], "tools": [{ "type": "function", "function": { "name": "f", "parameters": { "type": "object" } } }],
                "tool_choice": "none", "response_format": { "type": "text" }, "logit_bias": { "5": 1 }, "seed": 1,
            }),
        ),
        (
            "/v1/completions",
            json!({ "prompt": ["a", "b"], "max_tokens": 1, "logprobs": 1, "suffix": null }),
        ),
        (
            "/v1/responses",
            json!({
                "input": [{ "role": "user", "content": [{ "type": "input_text", "text": "Hi" }] }], "max_output_tokens": 1,
            }),
        ),
        (
            "/v1/embeddings",
            json!({ "input": ["a", "b"], "encoding_format": "base64", "dimensions": 4 }),
        ),
        (
            "/v1/messages",
            json!({
                "messages": [{ "role": "user", "content": [{ "type": "text", "text": "Hi" }] }], "max_tokens": 1,
            }),
        ),
        (
            "/api/chat",
            json!({ "messages": [{ "role": "user", "content": "Hi" }], "stream": false,
            "options": { "num_predict": 1, "stop": "x" } }),
        ),
        ("/api/show", json!({ "model": "heph-story" })),
        ("/heph/v1/chats/a", json!({ "title": "t", "body": {} })),
    ];
    let began = Instant::now();
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below.max(1) as u64) as usize
    };
    for round in 0..40 {
        for (path, body) in &good {
            let mut body = body.clone();
            knocking::spoil(&mut body, &mut random);
            let mut text = body.to_string();
            if round % 5 == 0 {
                let mut cut = random(text.len());
                while !text.is_char_boundary(cut) {
                    cut -= 1;
                }
                text.truncate(cut);
            }
            let (status, said) = door.post_text(path, &text);
            assert!(status < 500, "{path} {text}: {status} {said}");
        }
        // A machine under load has done enough.
        if began.elapsed() > Duration::from_secs(20) {
            break;
        }
    }
    assert_eq!(door.get_with("/health", &[]).0, 200);
}

#[test]
fn chats_are_kept_and_the_document_names_every_path() {
    let door = door();
    let body =
        json!({ "title": "Dogs", "body": { "messages": [{ "role": "user", "content": "a brave hound" }] } });
    let raw = door.raw("PUT", "/heph/v1/chats/c-1", &body.to_string(), &[]);
    assert!(raw.starts_with("HTTP/1.0 200"), "{raw}");
    let found: Value = serde_json::from_str(&door.get_with("/heph/v1/chats?query=houn", &[]).1).unwrap();
    assert_eq!(found["chats"][0]["snippet"], "a brave [hound]");
    let text = door.get_with("/heph/v1/chats/c-1/export?format=markdown", &[]).1;
    assert!(text.contains("a brave hound"), "{text}");
    let gone = door.raw("DELETE", "/heph/v1/chats/c-1", "", &[]);
    assert!(gone.starts_with("HTTP/1.0 204"), "{gone}");
    assert_eq!(door.get_with("/heph/v1/chats/c-1", &[]).0, 404);
    let document: Value = serde_json::from_str(&door.get_with("/openapi.json", &[]).1).unwrap();
    let paths = document["paths"].as_object().unwrap();
    assert!(
        paths.contains_key("/v1/chat/completions") && paths.len() > 25,
        "{}",
        paths.len()
    );
}

#[test]
fn a_prompt_is_told_with_the_probabilities_that_its_tokens_had_as_an_answer() {
    let door = door();
    let start = json!({ "prompt": "Once upon a time", "max_tokens": 8, "temperature": 0, "logprobs": 2, "return_token_ids": true });
    let made = door.json("/v1/completions", &start)["choices"][0].clone();
    let ids = |place: &Value| -> Vec<u64> {
        place
            .as_array()
            .unwrap()
            .iter()
            .map(|id| id.as_u64().unwrap())
            .collect()
    };
    let (prompt, answer) = (ids(&made["prompt_token_ids"]), ids(&made["token_ids"]));
    assert_eq!(answer.len(), 8, "{made}");
    let whole: Vec<u64> = prompt.iter().chain(&answer).copied().collect();
    let body = json!({ "prompt": whole, "max_tokens": 1, "temperature": 0, "prompt_logprobs": 1, "echo": true, "logprobs": 2 });
    let read = door.json("/v1/completions", &body)["choices"][0].clone();
    let rows = read["prompt_logprobs"].as_array().unwrap();
    assert!(rows.len() == whole.len() && rows[0].is_null(), "{read}");
    let lists = &read["logprobs"];
    assert_eq!(lists["tokens"].as_array().unwrap().len(), whole.len() + 1);
    assert!(lists["token_logprobs"][0].is_null() && lists["top_logprobs"][0].is_null());
    for (at, id) in whole.iter().enumerate().skip(1) {
        let told = &rows[at][id.to_string()];
        assert_eq!(told["logprob"], lists["token_logprobs"][at], "{at}");
        assert!(
            told["rank"].as_u64() >= Some(1) && told["decoded_token"].is_string(),
            "{told}"
        );
    }
    // What was chosen greedily is of rank one in its place, with the very same probability.
    for (at, id) in answer.iter().enumerate() {
        let told = &rows[prompt.len() + at][id.to_string()];
        assert_eq!(told["rank"], 1, "{told}");
        assert_eq!(told["logprob"], made["logprobs"]["token_logprobs"][at], "{at}");
    }
    let text = read["text"].as_str().unwrap();
    assert!(text.contains(made["text"].as_str().unwrap()), "{text}");
    // The same in pieces.
    let mut stream = body.clone();
    stream["stream"] = json!(true);
    let events = door.events("/v1/completions", &stream);
    assert_eq!(
        events[0]["choices"][0]["prompt_logprobs"],
        read["prompt_logprobs"]
    );
    // Also where nothing else is told of the prompt.
    let alone =
        json!({ "prompt": whole, "max_tokens": 1, "temperature": 0, "prompt_logprobs": 1, "stream": true });
    let alone = door.events("/v1/completions", &alone);
    assert_eq!(alone[0]["choices"][0]["prompt_logprobs"], read["prompt_logprobs"]);
    assert_eq!(
        events[0]["choices"][0]["logprobs"]["tokens"]
            .as_array()
            .unwrap()
            .len(),
        whole.len()
    );
    let scored = json!({ "prompt": whole, "max_tokens": 0, "echo": true, "logprobs": 0 });
    let scored = door.json("/v1/completions", &scored)["choices"][0]["logprobs"]["token_logprobs"].clone();
    assert_eq!(scored.as_array().unwrap().len(), whole.len());
}

#[test]
fn the_best_of_many_answers_are_those_whose_tokens_are_likeliest() {
    let door = door();
    let body = |more: Value| {
        let mut body = json!({ "prompt": ["Once", "A dog"], "max_tokens": 6, "temperature": 1.5, "seed": 4 });
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        body
    };
    let all = door.json("/v1/completions", &body(json!({ "n": 5, "logprobs": 0 })));
    let mean = |choice: &Value| {
        let values = choice["logprobs"]["token_logprobs"].as_array().unwrap();
        let sum: f64 = values.iter().map(|value| value.as_f64().unwrap()).sum();
        sum / values.len() as f64
    };
    let all: Vec<(f64, &Value)> = all["choices"]
        .as_array()
        .unwrap()
        .iter()
        .map(|choice| (mean(choice), &choice["text"]))
        .collect();
    let mut expected = Vec::new();
    for of_prompt in all.chunks(5) {
        let mut ranked = of_prompt.to_vec();
        ranked.sort_by(|a, b| b.0.total_cmp(&a.0));
        expected.extend(ranked[..2].iter().map(|(_, text)| (*text).clone()));
    }
    let best = door.json("/v1/completions", &body(json!({ "n": 2, "best_of": 5 })));
    let choices = best["choices"].as_array().unwrap();
    let texts: Vec<Value> = choices.iter().map(|choice| choice["text"].clone()).collect();
    assert_eq!(texts, expected, "{best}");
    let at: Vec<u64> = choices
        .iter()
        .map(|choice| choice["index"].as_u64().unwrap())
        .collect();
    assert_eq!(at, [0, 1, 2, 3]);
    // What was not asked for is not told.
    assert!(
        choices.iter().all(|choice| choice["logprobs"].is_null()),
        "{best}"
    );
    for (more, why) in [
        (json!({ "n": 2, "best_of": 1 }), "at least n"),
        (json!({ "best_of": 0 }), "at least 1"),
        (json!({ "best_of": 2, "stream": true }), "no stream"),
        (json!({ "best_of": 1_000_000 }), "128"),
    ] {
        let (status, said) = door.post("/v1/completions", &body(more.clone()));
        assert!(status == 400 && said.contains(why), "{more}: {status} {said}");
    }
    let same = door.post("/v1/completions", &body(json!({ "best_of": 1, "stream": true })));
    assert_eq!(same.0, 200, "one is the best of one");
}
