//! What the door keeps in memory of readers who take nothing, and of requests that are over: a program of its own, since all of it
//! is counted, and one test at a time.

#[allow(dead_code, reason = "the tests of the door knock in more ways")]
#[path = "door/knocking.rs"]
mod knocking;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use heph_gateway::CacheChoice;
use knocking::Door;
use peak_alloc::PeakAlloc;
use serde_json::{Value, json};
use tempfile::TempDir;

#[global_allocator]
static ALLOCATED: PeakAlloc = PeakAlloc;

/// Held by the test that counts.
static COUNTING: Mutex<()> = Mutex::new(());

/// Readers at one time.
const READERS: usize = 16;

/// What one may take besides keys and values.
const READER_MAX: usize = 64 << 10;

/// Those before them, for whom what all share is made.
const FEW: usize = 6;

/// Short answers, of which the longest list that has a limit is full; and as many again, after which a table that nobody bounds is twice
/// as large.
const SHORT: usize = 1024;

/// Replies that are kept for a lost connection: with these that list is full, too.
const KEPT: usize = 64;

/// Requests of all kinds beside them.
const MIXED: usize = 320;

/// How often as many requests again are made at most: until they leave next to nothing once.
const DAYS: usize = 8;

/// Callers at one time before it is looked: what each thread has of its own is there then.
const AT_ONCE: usize = 8;

/// Bytes that as many requests again may add: less than a table of so many names grows by.
const GROWTH_MAX: usize = 16 << 10;

/// A machine under load needs this long for what takes a second elsewhere.
const PATIENCE: Duration = Duration::from_secs(120);

/// Bytes of the program without keys and values, which are the engine's; once nothing moves any more.
fn at_rest(door: &Door) -> usize {
    let began = Instant::now();
    let look = || {
        (
            made(door),
            door.count("heph_caches_bytes"),
            ALLOCATED.current_usage(),
        )
    };
    let mut last = look();
    let mut same = 0;
    while same < 5 {
        assert!(began.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(100));
        let now = look();
        same = if now.0 == last.0 && now.1 == last.1 {
            same + 1
        } else {
            0
        };
        last = now;
    }
    last.2 - usize::try_from(last.1).unwrap()
}

/// Tokens made so far.
fn made(door: &Door) -> Value {
    status(door)["requests"]["tokens"].clone()
}

fn status(door: &Door) -> Value {
    serde_json::from_str(&door.get_with("/heph/v1/status", &[]).1).unwrap()
}

/// A caller whose system holds little for it.
fn narrow(door: &Door) -> TcpStream {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let address = door.connect().peer_addr().unwrap();
    let stream = runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        socket.connect(address).await.unwrap().into_std().unwrap()
    });
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn ask(stream: &mut TcpStream, path: &str, body: &Value) {
    let body = body.to_string();
    let length = body.len();
    write!(
        stream,
        "POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    let mut some = [0; 12];
    stream.read_exact(&mut some).unwrap();
    assert!(some.starts_with(b"HTTP/1.1 200"));
}

fn endless(more: Value) -> Value {
    let mut body = json!({
        "max_tokens": 900, "stream": true, "temperature": 1, "logit_bias": { "0": -100, "1": -100, "2": -100 },
    });
    body.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    body
}

/// A door that keeps no caches of prompts, and where few answers run together.
fn thrifty() -> Door {
    let home = TempDir::new().unwrap();
    let mut options = knocking::options(&home, None, 4, 512);
    options.caches.ram = Some(0);
    knocking::open_with(home, options)
}

/// What each of so many readers takes who were asked for `path` and take nothing: what goes when they go. What all share, and what
/// each thread has of its own for texts that are split at one time, stays.
fn each(path: &str, body: &Value) -> usize {
    let door = thrifty();
    let begin = |count: usize| -> Vec<TcpStream> {
        let begun = (0..count).map(|_| {
            let mut stream = narrow(&door);
            ask(&mut stream, path, body);
            stream
        });
        begun.collect()
    };
    let running = || status(&door)["requests"]["running"].as_u64().unwrap();
    let _few = begin(FEW);
    at_rest(&door);
    let before = running();
    let more = begin(READERS);
    // On a loaded machine what rests for a moment may yet go on.
    let with = at_rest(&door).max(at_rest(&door));
    drop(more);
    let began = Instant::now();
    while running() > before {
        assert!(began.elapsed() < PATIENCE, "{}", status(&door));
        std::thread::sleep(Duration::from_millis(20));
    }
    with.saturating_sub(at_rest(&door).min(at_rest(&door))) / READERS
}

/// Request number `n`: of every API in turn, some of them mistakes; `None` is a reader who hangs up.
fn errand(door: &Door, n: usize) {
    let question = format!("Tell me a story about {n} dogs.");
    let turns = json!([{ "role": "user", "content": question }]);
    let few = |more: Value| {
        let mut body = json!({ "max_tokens": 1 + n % 4, "temperature": 1, "seed": n });
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        body
    };
    let options = json!({ "num_predict": 2, "seed": n });
    let tool = |name: &str, takes: Value| json!({ "jsonrpc": "2.0", "id": n, "method": "tools/call", "params": { "name": name, "arguments": takes } });
    let (path, body, status) = match n % 16 {
        0 => ("/v1/completions", few(json!({ "prompt": question })), 200),
        1 => (
            "/v1/completions",
            few(json!({ "prompt": question, "stream": true, "user": n.to_string() })),
            200,
        ),
        2 => (
            "/v1/chat/completions",
            few(json!({ "messages": turns, "logprobs": true, "top_logprobs": 3 })),
            200,
        ),
        3 => (
            "/v1/chat/completions",
            few(json!({ "messages": turns, "stream": true, "heph": { "resume": true } })),
            200,
        ),
        4 => (
            "/v1/chat/completions",
            few(json!({ "messages": turns, "response_format": { "type": "json_object" } })),
            200,
        ),
        5 => (
            "/v1/responses",
            json!({ "input": question, "max_output_tokens": 2, "stream": n % 32 == 5 }),
            200,
        ),
        6 => (
            "/v1/messages",
            few(json!({ "messages": turns, "stream": n % 32 == 6 })),
            200,
        ),
        7 => ("/api/chat", json!({ "messages": turns, "options": options }), 200),
        8 => (
            "/api/generate",
            json!({ "prompt": question, "options": options }),
            200,
        ),
        9 => ("/v1/embeddings", json!({ "input": question }), 200),
        10 => ("/tokenize", json!({ "content": question }), 200),
        11 => (
            "/mcp",
            tool("ask", json!({ "question": question, "max_tokens": 2 })),
            200,
        ),
        12 => (
            "/v1/completions",
            few(json!({ "prompt": question, "best_of": 3 })),
            200,
        ),
        13 => (
            "/v1/chat/completions",
            few(json!({ "messages": turns, "model": format!("nobody-{n}") })),
            404,
        ),
        14 => (
            "/v1/chat/completions",
            json!({ "messages": turns, "temperature": -1 }),
            400,
        ),
        _ => {
            let mut stream = door.connect();
            return ask(
                &mut stream,
                "/v1/completions",
                &json!({ "prompt": question, "max_tokens": 60, "stream": true }),
            );
        }
    };
    let (said, text) = door.post(path, &body);
    assert_eq!(said, status, "{path} {body}: {text}");
}

#[test]
fn requests_that_are_over_leave_nothing() {
    let _alone = COUNTING.lock().unwrap_or_else(PoisonError::into_inner);
    let home = TempDir::new().unwrap();
    let mut options = knocking::options(&home, None, 4, 64);
    options.caches = CacheChoice {
        ram: Some(4 << 20),
        disk: Some(4 << 20),
        ..CacheChoice::default()
    };
    let door = knocking::open_with(home, options);
    let short = |n: usize| {
        let prompt = format!("Once there were {n}");
        door.json("/v1/completions", &json!({ "prompt": prompt, "max_tokens": 1 }));
    };
    let day = |number: usize| {
        (number * SHORT..(number + 1) * SHORT).for_each(short);
        (number * MIXED..(number + 1) * MIXED).for_each(|n| errand(&door, n));
        at_rest(&door)
    };
    std::thread::scope(|scope| {
        for caller in 0..AT_ONCE {
            let (door, short) = (&door, &short);
            scope.spawn(move || {
                for n in 0..AT_ONCE {
                    short(n);
                    errand(door, n + caller);
                }
            });
        }
    });
    (0..KEPT).for_each(|n| errand(&door, 16 * n + 3));
    // What requests leave is left every day; a table that doubles, or a thread's first use of something, is one day's.
    let mut before = day(0);
    let mut grown = Vec::new();
    for number in 1..=DAYS {
        let now = day(number);
        grown.push(now.saturating_sub(std::mem::replace(&mut before, now)));
        if grown.last() <= Some(&GROWTH_MAX) {
            return;
        }
    }
    panic!("{grown:?} bytes more after as many requests again, day by day, beside {before}");
}

#[test]
fn a_reader_who_takes_nothing_takes_little_memory() {
    let _alone = COUNTING.lock().unwrap_or_else(PoisonError::into_inner);
    let turns = json!([{ "role": "user", "content": "Tell me a story." }]);
    let cases = [
        (
            "/v1/completions",
            endless(json!({ "prompt": "Once", "logprobs": 1 })),
        ),
        (
            "/v1/chat/completions",
            endless(json!({ "messages": turns, "logprobs": true, "top_logprobs": 20 })),
        ),
        (
            "/v1/responses",
            json!({ "input": "Tell me a story.", "max_output_tokens": 900, "stream": true }),
        ),
        (
            "/api/chat",
            json!({ "messages": turns, "options": { "num_predict": 900 } }),
        ),
    ];
    for (path, body) in &cases {
        let each = each(path, body);
        assert!(
            each <= READER_MAX,
            "{path}: {each} bytes for a reader who takes nothing"
        );
    }
}
