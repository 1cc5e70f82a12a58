//! Providers that play scripts, in each dialect: what is asked of them, what is read of them, and what becomes of answers that
//! are late, cut, malformed, refused or endless.

mod server;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use heph_privacy::label::Label;
use heph_privacy::policy::{Policies, Policy, Preset};
use heph_privacy::{Clearance, Cleared, Purpose};
use heph_providers::tokens::{TokenEnd, TokenQuestion};
use heph_providers::{
    AskError, Call, Client, Direct, Done, End, Limits, Listener, Picture, Provider, Question, Refused, Said,
    Sampling, Secret, Source, Tool, ToolChoice, Turn,
};
use serde_json::{Value, json};
use server::{Act, Heard, ok, play, status};

const DIALECTS: [&str; 6] = ["openai", "anthropic", "ollama", "vllm", "llama-server", "gemini"];

/// Short waits, so that a test of a wait is short; long beside what loopback takes.
fn limits() -> Limits {
    Limits {
        first_byte: Duration::from_secs(20),
        silence: Duration::from_secs(20),
        pause: Duration::from_millis(10),
        pause_max: Duration::from_secs(2),
        event_bytes: 64 << 10,
        answer_bytes: 1 << 20,
        ..Limits::default()
    }
}

fn provider(dialect: &str, url: &str) -> Provider {
    let openai = ["openai", "vllm", "llama-server"].contains(&dialect);
    let said = json!({
        "name": "mock", "dialect": dialect, "url": format!("{url}{}", if openai { "/v1" } else { "" }), "models": ["m-1"],
        "sees": "text",
    });
    serde_json::from_value::<Provider>(said)
        .unwrap()
        .checked()
        .unwrap()
}

fn question() -> Question {
    let mut question = Question::chat(
        "m-1",
        vec![
            Turn::new("system", "Be brief."),
            Turn::new("user", "Tell me a story."),
        ],
    );
    question.max_tokens = Some(64);
    question.sampling.temperature = Some(0.5);
    question.stops = vec!["END".to_owned()];
    question
}

fn wait<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(work)
}

/// `value`, cleared for `provider` by a policy that lets everything leave.
fn cleared<T>(provider: &Provider, value: T) -> Cleared<T> {
    let (to, policies) = (
        provider.destination(),
        Policies::new(Policy::of(Preset::Open), Vec::new()),
    );
    let purpose = Purpose {
        to: &to,
        mode: "remote",
        credits: 0,
    };
    Clearance::of(&Label::public(), purpose, &policies)
        .unwrap()
        .clear_part(value)
}

#[test]
fn what_was_cleared_for_another_provider_is_not_asked() {
    let (url, heard) = play(vec![Act::Raw(ok("text/event-stream", &story("openai")))]);
    let (meant, other) = (provider("openai", &url), provider("vllm", "http://127.0.0.1:1"));
    let elsewhere = Provider {
        region: Some("eu".parse().unwrap()),
        ..meant.clone()
    };
    let renamed = Provider {
        name: "renamed".to_owned(),
        ..meant.clone()
    };
    for (cleared_for, asked) in [
        (&other, &meant),
        (&elsewhere, &meant),
        (&renamed, &meant),
        (&meant, &elsewhere),
    ] {
        if cleared_for.destination() == asked.destination() {
            continue;
        }
        let question = cleared(cleared_for, question());
        let listener = Listener {
            stopped: &|| false,
            deadline: None,
        };
        let done = wait(async {
            let client = Client::new(limits(), Direct).unwrap();
            client.ask(asked, None, &question, &listener, &mut |_| {}).await
        });
        assert!(matches!(done, Err(AskError::Elsewhere { .. })), "{done:?}");
    }
    assert!(heard.lock().unwrap().is_empty());
}

/// Asks, and returns what was heard as one text.
fn ask_with(provider: &Provider, question: &Question, limits: Limits) -> (String, Result<Done, AskError>) {
    let key = Secret::new("sk-secret-1").unwrap();
    let mut heard = String::new();
    let listener = Listener {
        stopped: &|| false,
        deadline: None,
    };
    let done = wait(async {
        let client = Client::new(limits, Direct).unwrap();
        let question = cleared(provider, question.clone());
        let mut say = |said| match said {
            Said::Text(text) => heard.push_str(&text),
            // What is thought stands in the tests of what is read.
            Said::Thought(_) => {}
            Said::Call { id, name } => heard.push_str(&format!("[{id} {name}]")),
            Said::Arguments(text) => heard.push_str(&text),
        };
        client
            .ask(provider, Some(&key), &question, &listener, &mut say)
            .await
    });
    if let Err(error) = &done {
        let told = format!("{error} {error:?}");
        assert!(!told.contains("sk-secret"), "{told}");
    }
    (heard, done)
}

fn ask(dialect: &str, acts: Vec<Act>) -> (String, Result<Done, AskError>, Heard) {
    let (url, heard) = play(acts);
    let (text, done) = ask_with(&provider(dialect, &url), &question(), limits());
    (text, done, heard)
}

/// The kind of a dialect's streams.
fn kind(dialect: &str) -> &'static str {
    match dialect {
        "ollama" => "application/x-ndjson",
        _ => "text/event-stream; charset=utf-8",
    }
}

/// A sound answer, "Once upon a time.", of 9 tokens to a prompt of 21, in the dialect's events.
fn story(dialect: &str) -> String {
    let events = |list: &[Value]| list.iter().map(|e| format!("data: {e}\n\n")).collect::<String>();
    match dialect {
        "anthropic" => [
            json!({ "type": "message_start", "message": { "usage": { "input_tokens": 21, "output_tokens": 1 } } }),
            json!({ "type": "content_block_start", "index": 0, "content_block": { "type": "text", "text": "" } }),
            json!({ "type": "ping" }),
            json!({ "type": "content_block_delta", "index": 0, "delta": { "type": "text_delta", "text": "Once upon" } }),
            json!({ "type": "content_block_delta", "index": 0, "delta": { "type": "text_delta", "text": " a time." } }),
            json!({ "type": "content_block_stop", "index": 0 }),
            json!({ "type": "message_delta", "delta": { "stop_reason": "end_turn" }, "usage": { "output_tokens": 9 } }),
            json!({ "type": "message_stop" }),
        ]
        .iter()
        .map(|e| format!("event: {}\ndata: {e}\n\n", e["type"].as_str().unwrap()))
        .collect(),
        "ollama" => [
            json!({ "message": { "role": "assistant", "content": "Once upon" }, "done": false }),
            json!({ "message": { "role": "assistant", "content": " a time." }, "done": false }),
            json!({ "message": { "content": "" }, "done": true, "done_reason": "stop", "prompt_eval_count": 21, "eval_count": 9 }),
        ]
        .iter()
        .map(|e| format!("{e}\n"))
        .collect(),
        "gemini" => events(&[
            json!({ "candidates": [{ "content": { "parts": [{ "text": "Once upon" }] } }] }),
            json!({ "candidates": [{ "content": { "parts": [{ "text": "thinking", "thought": true }, { "text": " a time." }] },
                "finishReason": "STOP" }], "usageMetadata": { "promptTokenCount": 21, "candidatesTokenCount": 9 } }),
        ]),
        _ => {
            events(&[
                json!({ "choices": [{ "index": 0, "delta": { "role": "assistant", "content": "" }, "finish_reason": null }] }),
                json!({ "choices": [{ "index": 0, "delta": { "content": "Once upon" }, "finish_reason": null }] }),
                json!({ "choices": [{ "index": 0, "delta": { "content": " a time." }, "finish_reason": null }] }),
                json!({ "choices": [{ "index": 0, "delta": {}, "finish_reason": "stop" }] }),
                json!({ "choices": [], "usage": { "prompt_tokens": 21, "completion_tokens": 9, "total_tokens": 30 } }),
            ]) + "data: [DONE]\n\n"
        }
    }
}

#[test]
fn each_dialect_is_asked_in_its_own_shape_and_read() {
    for dialect in DIALECTS {
        for pieces in [1, 7, 100_000] {
            let (text, done, heard) = ask(
                dialect,
                vec![Act::Pieces(ok(kind(dialect), &story(dialect)), pieces)],
            );
            let done = done.unwrap_or_else(|e| panic!("{dialect}: {e}"));
            assert_eq!(text, "Once upon a time.", "{dialect}");
            assert_eq!(
                (done.end, done.prompt_tokens, done.answer_tokens),
                (End::Stop, Some(21), Some(9)),
                "{dialect}"
            );
            let (head, body) = heard.lock().unwrap()[0].clone();
            assert_eq!(
                (done.up, done.down),
                (body.len() as u64, story(dialect).len() as u64),
                "{dialect}"
            );
            let path = head.split(' ').nth(1).unwrap();
            let (path_wanted, key) = match dialect {
                "anthropic" => ("/v1/messages", "x-api-key: sk-secret-1"),
                "ollama" => ("/api/chat", "authorization: bearer sk-secret-1"),
                "gemini" => (
                    "/v1beta/models/m-1:streamgeneratecontent?alt=sse",
                    "x-goog-api-key: sk-secret-1",
                ),
                _ => ("/v1/chat/completions", "authorization: bearer sk-secret-1"),
            };
            assert_eq!(path, path_wanted, "{dialect}");
            assert!(head.contains(key), "{dialect}: {head}");
            let body: Value = serde_json::from_str(&body).unwrap();
            for (place, value) in asked(dialect) {
                assert_eq!(body.pointer(place), Some(&value), "{dialect} {place}: {body}");
            }
        }
    }
}

/// What stands where in the request of [`question`].
fn asked(dialect: &str) -> Vec<(&'static str, Value)> {
    match dialect {
        "anthropic" => vec![
            ("/system", json!("Be brief.")),
            ("/messages/0/content/0/text", json!("Tell me a story.")),
            ("/max_tokens", json!(64)),
            ("/stop_sequences/0", json!("END")),
            ("/temperature", json!(0.5)),
        ],
        "ollama" => vec![
            ("/messages/1/content", json!("Tell me a story.")),
            ("/options/num_predict", json!(64)),
            ("/options/stop/0", json!("END")),
        ],
        "gemini" => vec![
            ("/systemInstruction/parts/0/text", json!("Be brief.")),
            ("/contents/0/parts/0/text", json!("Tell me a story.")),
            ("/generationConfig/maxOutputTokens", json!(64)),
            ("/generationConfig/stopSequences/0", json!("END")),
        ],
        _ => vec![
            ("/messages/0/content", json!("Be brief.")),
            ("/messages/1/role", json!("user")),
            ("/max_tokens", json!(64)),
            ("/stop/0", json!("END")),
            ("/stream", json!(true)),
        ],
    }
}

#[test]
fn calls_of_tools_go_there_and_come_back_in_each_dialect() {
    let mut question = question();
    question.tools = vec![Tool {
        name: "look".to_owned(),
        description: "Looks.".to_owned(),
        parameters: json!({ "type": "object", "properties": { "at": { "type": "string" } } }),
    }];
    question.choice = ToolChoice::Auto;
    let made = Call {
        id: "c9".to_owned(),
        name: "look".to_owned(),
        arguments: json!({ "at": "sky" }),
    };
    let Source::Chat(turns) = &mut question.source else {
        unreachable!()
    };
    turns.push(Turn {
        calls: vec![made],
        ..Turn::new("assistant", "")
    });
    turns.push(Turn {
        call_id: Some("c9".to_owned()),
        name: Some("look".to_owned()),
        ..Turn::new("tool", "blue")
    });
    for dialect in DIALECTS {
        let (events, call) = match dialect {
            "anthropic" => (
                [
                    json!({ "type": "message_start", "message": {} }),
                    json!({ "type": "content_block_start", "content_block": { "type": "tool_use", "id": "a", "name": "look", "input": {} } }),
                    json!({ "type": "content_block_delta", "delta": { "type": "input_json_delta", "partial_json": "{\"at\":" } }),
                    json!({ "type": "content_block_delta", "delta": { "type": "input_json_delta", "partial_json": "1}" } }),
                    json!({ "type": "message_delta", "delta": { "stop_reason": "tool_use" } }),
                    json!({ "type": "message_stop" }),
                ]
                .to_vec(),
                "/messages/1/content/0/input/at",
            ),
            "ollama" => (
                [
                    json!({ "message": { "content": "", "tool_calls": [{ "function": { "name": "look", "arguments": { "at": 1 } } }] }, "done": false }),
                    json!({ "message": { "content": "" }, "done": true, "done_reason": "stop" }),
                ]
                .to_vec(),
                "/messages/2/tool_calls/0/function/arguments/at",
            ),
            "gemini" => (
                [json!({ "candidates": [{ "content": { "parts": [{ "functionCall": { "name": "look", "args": { "at": 1 } } }] }, "finishReason": "STOP" }] })].to_vec(),
                "/contents/1/parts/0/functionCall/args/at",
            ),
            _ => (
                [
                    json!({ "choices": [{ "delta": { "tool_calls": [{ "index": 0, "id": "a", "function": { "name": "look", "arguments": "{\"at\":" } }] } }] }),
                    json!({ "choices": [{ "delta": { "tool_calls": [{ "index": 0, "function": { "arguments": "1}" } }] } }] }),
                    json!({ "choices": [{ "delta": {}, "finish_reason": "tool_calls" }] }),
                ]
                .to_vec(),
                "/messages/2/tool_calls/0/id",
            ),
        };
        let mut body: String = match dialect {
            "ollama" => events.iter().map(|e| format!("{e}\n")).collect(),
            _ => events.iter().map(|e| format!("data: {e}\n\n")).collect(),
        };
        if ["openai", "vllm", "llama-server"].contains(&dialect) {
            body.push_str("data: [DONE]\n\n");
        }
        let (url, heard) = play(vec![Act::Raw(ok(kind(dialect), &body))]);
        let (text, done) = ask_with(&provider(dialect, &url), &question, limits());
        let done = done.unwrap_or_else(|e| panic!("{dialect}: {e}"));
        assert_eq!(done.end, End::Calls, "{dialect}");
        assert!(text.contains(" look]{\"at\":1}"), "{dialect}: {text}");
        let asked: Value = serde_json::from_str(&heard.lock().unwrap()[0].1).unwrap();
        let told = asked
            .pointer(call)
            .unwrap_or_else(|| panic!("{dialect}: {asked}"));
        assert!(*told == "sky" || *told == "c9", "{dialect}: {told}");
        assert!(
            asked.to_string().contains("\"look\"") && asked.to_string().contains("blue"),
            "{dialect}: {asked}"
        );
    }
}

#[test]
fn a_picture_goes_there_as_each_dialect_writes_it() {
    let mut question = question();
    let Source::Chat(turns) = &mut question.source else {
        unreachable!()
    };
    turns[1].pictures = vec![Picture {
        kind: "image/png".to_owned(),
        base64: "aGVwaA==".to_owned(),
    }];
    for dialect in DIALECTS {
        let (place, expected) = match dialect {
            "anthropic" => (
                "/messages/0/content/0",
                json!({ "type": "image", "source": { "type": "base64", "media_type": "image/png", "data": "aGVwaA==" } }),
            ),
            "ollama" => ("/messages/1/images", json!(["aGVwaA=="])),
            "gemini" => (
                "/contents/0/parts/0",
                json!({ "inlineData": { "mimeType": "image/png", "data": "aGVwaA==" } }),
            ),
            _ => (
                "/messages/1/content/1",
                json!({ "type": "image_url", "image_url": { "url": "data:image/png;base64,aGVwaA==" } }),
            ),
        };
        let (url, heard) = play(vec![Act::Raw(ok(kind(dialect), &story(dialect)))]);
        let (_, done) = ask_with(&provider(dialect, &url), &question, limits());
        done.unwrap_or_else(|e| panic!("{dialect}: {e}"));
        let asked: Value = serde_json::from_str(&heard.lock().unwrap()[0].1).unwrap();
        assert_eq!(asked.pointer(place), Some(&expected), "{dialect}: {asked}");
        assert!(
            asked.to_string().contains("Tell me a story."),
            "{dialect}: {asked}"
        );
    }
}

#[test]
fn who_is_busy_is_asked_again_after_the_pause_that_it_names() {
    for (dialect, code) in DIALECTS.into_iter().zip([429, 529, 503, 500, 502, 429]) {
        let busy = Act::Raw(status(
            code,
            "retry-after: 0.2\r\n",
            "{\"error\":{\"message\":\"slow down\"}}",
        ));
        let well = Act::Raw(ok(kind(dialect), &story(dialect)));
        let began = Instant::now();
        let (text, done, heard) = ask(dialect, vec![busy, Act::Slam, well]);
        let done = done.unwrap_or_else(|e| panic!("{dialect}: {e}"));
        assert!(
            began.elapsed() >= Duration::from_millis(200),
            "{dialect}: it waits as it is asked to"
        );
        assert_eq!((text.as_str(), done.tries), ("Once upon a time.", 3), "{dialect}");
        let sent: usize = heard.lock().unwrap().iter().map(|(_, body)| body.len()).sum();
        assert_eq!(done.up, sent as u64, "every try left");
    }
}

#[test]
fn who_asks_for_a_long_pause_or_refuses_is_not_asked_again() {
    let long = status(429, "retry-after: 3600\r\n", "{\"error\":\"tomorrow\"}");
    let (_, done, heard) = ask("openai", vec![Act::Raw(long)]);
    let pause = Some(Duration::from_secs(3600));
    assert!(
        matches!(done, Err(AskError::Refused { status: 429, kind: Refused::TooOften(told), .. }) if told == pause),
        "{done:?}"
    );
    assert_eq!(heard.lock().unwrap().len(), 1);
    let cases = [
        (400, Refused::Request),
        (401, Refused::Key),
        (403, Refused::Key),
        (404, Refused::Request),
        (413, Refused::Request),
        // A text goes nowhere else than where the person said.
        (307, Refused::Request),
    ];
    for (code, wanted) in cases {
        let told = "{\"error\":{\"message\":\"wrong key sk-secret-1\\n\\u0007 given\"}}";
        let refusal = status(code, "location: http://127.0.0.1:9/\r\n", told);
        let (_, done, heard) = ask("openai", vec![Act::Raw(refusal)]);
        let Err(AskError::Refused { kind, sentence, .. }) = done else {
            panic!("{code}: {done:?}")
        };
        assert_eq!(
            (kind, sentence.as_str()),
            (wanted, "wrong key [key]   given"),
            "{code}"
        );
        assert_eq!(heard.lock().unwrap().len(), 1, "{code}");
    }
    let (_, done, heard) = ask("openai", vec![Act::Raw(status(503, "", ""))]);
    assert!(
        matches!(
            done,
            Err(AskError::Refused {
                kind: Refused::Unwell(None),
                ..
            })
        ),
        "{done:?}"
    );
    assert_eq!(heard.lock().unwrap().len(), 3, "so often and no more");
}

#[test]
fn an_answer_that_breaks_off_is_told_as_such_and_never_begun_again() {
    for dialect in DIALECTS {
        let whole = story(dialect);
        // Before its end, in the middle of an event and between two.
        for share in [0.3, 0.45, 0.6] {
            let mut at = (whole.len() as f64 * share) as usize;
            while !whole.is_char_boundary(at) {
                at += 1;
            }
            let (text, done, heard) = ask(dialect, vec![Act::Raw(ok(kind(dialect), &whole[..at]))]);
            assert!(
                matches!(done, Err(AskError::Cut { .. } | AskError::Nonsense { .. })),
                "{dialect} at {at}: {done:?}"
            );
            assert!("Once upon a time.".starts_with(&text), "{dialect}: {text}");
            assert_eq!(heard.lock().unwrap().len(), 1, "{dialect} at {at}");
        }
        // With a length that is never reached.
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: {}\r\ncontent-length: 99999\r\n\r\n",
            kind(dialect)
        );
        let half = &whole[..whole.len() / 3];
        let (_, done, heard) = ask(dialect, vec![Act::Raw(head + half)]);
        assert!(matches!(done, Err(AskError::Cut { .. })), "{dialect}: {done:?}");
        assert_eq!(heard.lock().unwrap().len(), 1, "{dialect}");
    }
    let failed = "data: {\"choices\":[{\"delta\":{\"content\":\"Once\"}}]}\n\ndata: {\"error\":{\"message\":\"overloaded\"}}\n\n";
    let (text, done, _) = ask("openai", vec![Act::Raw(ok("text/event-stream", failed))]);
    assert_eq!(text, "Once");
    assert!(
        matches!(&done, Err(AskError::Cut { why, .. }) if why == "overloaded"),
        "{done:?}"
    );
}

#[test]
fn malformed_answers_are_refused_in_a_sentence() {
    let giant = format!(
        "data: {{\"choices\":[{{\"delta\":{{\"content\":\"{}\"}}}}]}}\n\n",
        "x".repeat(100_000)
    );
    let endless =
        "data: {\"choices\":[{\"delta\":{\"content\":\"xxxxxxxxxxxxxxxxxxxxxxxx\"}}]}\n\n".repeat(25_000);
    let stream = "text/event-stream";
    let cases = [
        (ok(stream, "data: {\"choices\":\n\n"), "no JSON"),
        (ok(stream, "data: 7\n\n"), "no object"),
        (ok(stream, &giant), "longer than any"),
        (ok(stream, &endless), "sound answer: the answer has no end"),
        (ok("text/html", "<html>please log in</html>"), "text/html"),
        (ok("application/json", "{}"), "application/json"),
        (ok("", ""), "and not text/event-stream"),
        (ok(stream, ""), "has no end"),
        (ok(stream, "data: [DONE]\n\n"), "has no end"),
        (
            ok(
                stream,
                "data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"index\":0}]}}]}\n\n",
            ),
            "no name",
        ),
    ];
    for (answer, wanted) in cases {
        let (_, done, heard) = ask("openai", vec![Act::Raw(answer)]);
        let error = done.unwrap_err();
        assert!(
            matches!(error, AskError::Nonsense { .. } | AskError::Cut { .. }),
            "{error:?}"
        );
        assert!(error.to_string().contains(wanted), "{wanted}: {error}");
        assert_eq!(heard.lock().unwrap().len(), 1);
    }
}

#[test]
fn every_wait_has_an_end() {
    let hung = Duration::from_secs(30);
    let short = Duration::from_millis(150);
    let begun = ok(
        "text/event-stream",
        "data: {\"choices\":[{\"delta\":{\"content\":\"Once\"}}]}\n\n",
    );
    let ask = |act, limits| {
        let (url, _) = play(vec![act]);
        let began = Instant::now();
        let (text, done) = ask_with(&provider("openai", &url), &question(), limits);
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
        (text, done)
    };
    let silent = ask(
        Act::Hang(String::new(), hung),
        Limits {
            first_byte: short,
            ..limits()
        },
    );
    assert!(matches!(silent.1, Err(AskError::Late { .. })), "{silent:?}");
    let stalled = ask(
        Act::Hang(begun.clone(), hung),
        Limits {
            silence: short,
            ..limits()
        },
    );
    assert!(
        stalled.0 == "Once" && matches!(stalled.1, Err(AskError::Late { .. })),
        "{stalled:?}"
    );
    let slow = ask(
        Act::Hang(begun.clone(), hung),
        Limits {
            whole: short,
            ..limits()
        },
    );
    // What there was counts: the answer ends, and says what left.
    let (text, done) = slow;
    let done = done.unwrap();
    assert_eq!((text.as_str(), done.end), ("Once", End::TimeUp));
    assert!(done.up > 0 && done.down > 0);
    // Whoever stops waiting ends the request.
    let (url, _) = play(vec![Act::Hang(begun, hung)]);
    let stop = AtomicBool::new(false);
    let provider = provider("openai", &url);
    let stopped = || stop.load(Ordering::SeqCst);
    let listener = Listener {
        stopped: &stopped,
        deadline: None,
    };
    let done = wait(async {
        let client = Client::new(limits(), Direct).unwrap();
        let mut say = |_| stop.store(true, Ordering::SeqCst);
        let question = cleared(&provider, question());
        client.ask(&provider, None, &question, &listener, &mut say).await
    });
    assert_eq!(done, Err(AskError::Stopped));
    // Nobody is there.
    let nobody = ask_with(&provider_at("http://127.0.0.1:1"), &question(), limits());
    assert!(
        matches!(nobody.1, Err(AskError::Unreachable { .. })),
        "{nobody:?}"
    );
}

fn provider_at(url: &str) -> Provider {
    provider("openai", url)
}

#[test]
fn what_a_shape_cannot_say_is_told_and_what_it_drops_is_named() {
    let mut text = question();
    text.source = Source::Text("Once".to_owned());
    for dialect in ["anthropic", "gemini"] {
        let (_, done) = ask_with(&provider(dialect, "http://127.0.0.1:1"), &text, limits());
        assert!(matches!(done, Err(AskError::Shape { .. })), "{dialect}: {done:?}");
    }
    let mut odd = question();
    odd.sampling.min_p = Some(0.1);
    odd.sampling.top_k = Some(5);
    let (url, _) = play(vec![Act::Raw(ok("text/event-stream", &story("openai")))]);
    let (_, done) = ask_with(&provider("openai", &url), &odd, limits());
    assert_eq!(done.unwrap().dropped, ["top_k", "min_p"]);
    let (url, heard) = play(vec![Act::Raw(ok("text/event-stream", &story("vllm")))]);
    let (_, done) = ask_with(&provider("vllm", &url), &odd, limits());
    assert!(done.unwrap().dropped.is_empty());
    assert!(heard.lock().unwrap()[0].1.contains("\"min_p\":0.1"));
}

/// Goes on from three tokens at an engine that plays `act`; what it told, and the end.
fn engine(act: Act) -> (Vec<u32>, Result<Option<TokenEnd>, AskError>) {
    let (url, _) = play(vec![act]);
    let provider = provider("vllm", &url);
    let listener = Listener {
        stopped: &|| false,
        deadline: None,
    };
    let question = TokenQuestion {
        model: "m-1",
        prompt: &[1, 2, 3],
        sampling: Sampling::default(),
        logit_bias: &[(4, -100.0)],
        max_tokens: 2,
    };
    let mut told = Vec::new();
    let done = wait(async {
        let client = Client::new(limits(), Direct).unwrap();
        let question = cleared(&provider, question);
        let mut more = |token| {
            told.push(token);
            true
        };
        client
            .go_on(&provider, None, &question, &listener, &mut more)
            .await
    });
    (told, done.map(|(end, _)| end))
}

#[test]
fn an_engine_tells_tokens_or_is_refused() {
    let stream = |events: &[Value]| {
        let events: String = events.iter().map(|e| format!("data: {e}\n\n")).collect();
        Act::Pieces(ok("text/event-stream", &format!("{events}data: [DONE]\n\n")), 13)
    };
    let piece = |ids: Value, finish: Value| json!({ "choices": [{ "text": "x", "token_ids": ids, "finish_reason": finish }] });
    let sound = stream(&[piece(json!([5]), json!(null)), piece(json!([6]), json!("length"))]);
    assert_eq!(engine(sound), (vec![5, 6], Ok(Some(TokenEnd::Length))));
    let ended = stream(&[piece(json!([5]), json!(null)), piece(json!([]), json!("stop"))]);
    assert_eq!(engine(ended), (vec![5], Ok(Some(TokenEnd::Stop))));
    for wrong in [
        stream(&[piece(json!([5, 6, 7]), json!("length"))]),
        stream(&[piece(json!(null), json!("stop"))]),
        stream(&[piece(json!([-1]), json!("stop"))]),
        stream(&[piece(json!([4_294_967_296_u64]), json!("stop"))]),
        stream(&[piece(json!([5]), json!(null))]),
        stream(&[json!({ "error": "no" })]),
        Act::Raw(ok(
            "text/event-stream",
            "data: {\"choices\":[{\"text\":\"x\",\"token_ids\":[5]}]}\n\n",
        )),
    ] {
        let (_, done) = engine(wrong);
        assert!(
            matches!(done, Err(AskError::Nonsense { .. } | AskError::Cut { .. })),
            "{done:?}"
        );
    }
}

#[test]
fn an_engine_reads_a_draft_in_one_question() {
    let row = |token: u32| json!({ token.to_string(): { "logprob": -0.1, "rank": 1 }, "77": { "logprob": -9.0, "rank": 50 } });
    let sound = json!({ "choices": [{
        "text": "x", "token_ids": [9], "finish_reason": "length", "prompt_logprobs": [null, row(2), row(8), row(4)],
    }] });
    let read = |told: &Value, answers: usize| {
        let (url, heard) = play(vec![Act::Raw(ok("application/json", &told.to_string()))]);
        let provider = provider("vllm", &url);
        let listener = Listener {
            stopped: &|| false,
            deadline: None,
        };
        let question = TokenQuestion {
            model: "m-1",
            prompt: &[1, 2, 3, 4],
            sampling: Sampling::default(),
            logit_bias: &[],
            max_tokens: 1,
        };
        let done = wait(async {
            let client = Client::new(limits(), Direct).unwrap();
            let question = cleared(&provider, question);
            client
                .likeliest(&provider, None, &question, answers, 0, &listener)
                .await
        });
        let asked: Value = serde_json::from_str(&heard.lock().unwrap()[0].1).unwrap();
        (done.map(|(tokens, _)| tokens), asked)
    };
    let (tokens, asked) = read(&sound, 3);
    assert_eq!(tokens.unwrap(), [8, 4, 9]);
    assert_eq!(
        (&asked["prompt_logprobs"], &asked["temperature"]),
        (&json!(1), &json!(0))
    );
    assert_eq!(read(&sound, 1).0.unwrap(), [9]);
    let ended = json!({ "choices": [{ "text": "", "token_ids": [], "finish_reason": "stop" }] });
    assert_eq!(read(&ended, 1).0.unwrap(), [0]);
    let mut short = sound.clone();
    short["choices"][0]["prompt_logprobs"] = json!([null, row(2)]);
    let mut none = sound.clone();
    none["choices"][0]["prompt_logprobs"] = json!(null);
    let mut strange = sound.clone();
    strange["choices"][0]["prompt_logprobs"][2] = json!({ "x": {} });
    for wrong in [
        short,
        none,
        strange,
        json!({}),
        json!({ "choices": [{ "text": "x" }] }),
    ] {
        assert!(
            matches!(read(&wrong, 3).0, Err(AskError::Nonsense { .. })),
            "{wrong}"
        );
    }
}
