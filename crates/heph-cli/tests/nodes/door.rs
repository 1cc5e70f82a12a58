//! `heph serve` as a process beside nodes: every mode through every API, a node killed in the middle of a stream, readers that
//! hang up.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Home, NodeProcess, watch_until};

/// A machine under load needs this long for what takes a second elsewhere.
const PATIENCE: Duration = Duration::from_secs(120);

/// Long enough to be broken into, and ended by its length alone: the model's two ends are kept from it.
pub(crate) fn endless(tokens: usize) -> Value {
    json!({ "max_tokens": tokens, "temperature": 0.8, "seed": 7, "logit_bias": { "0": -100, "2": -100 } })
}

/// `heph serve`, killed when dropped.
pub(crate) struct DoorProcess {
    child: Child,
    address: String,
}

impl DoorProcess {
    /// The events of an answer of so many tokens in which `strike` falls. Its text is that of an answer that is made here undisturbed.
    pub(crate) fn struck(&self, mode: &str, tokens: usize, strike: impl FnOnce()) -> Vec<Value> {
        let mut body = endless(tokens);
        (body["prompt"], body["stream"]) = (json!("Once upon a time"), json!(true));
        body["heph"] = json!({ "mode": "local" });
        let calm = spoken(&events(&self.ask("POST", "/v1/completions", &body, "").2));
        body["heph"] = json!({ "mode": mode });
        let mut stream = BufReader::new(self.send("POST", "/v1/completions", &body, ""));
        let mut heard = String::new();
        while events(&heard).len() < 3 {
            assert!(stream.read_line(&mut heard).unwrap() > 0, "{mode}: {heard}");
        }
        strike();
        stream.read_to_string(&mut heard).unwrap();
        let events = events(&heard);
        assert_eq!(spoken(&events), calm, "{mode}");
        events
    }

    pub(crate) fn start(home: &Home, more: &[&str], variables: &[(&str, &str)]) -> Self {
        let fixed = ["serve", "--no-auth", "--listen", "127.0.0.1:0"];
        let mut command = home.command(&[&fixed[..], more].concat());
        command.envs(variables.iter().copied()).stderr(Stdio::inherit());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap())
            .read_line(&mut line)
            .unwrap();
        let address = line
            .split_once("http://")
            .and_then(|(_, rest)| rest.split_once("/v1"))
            .unwrap_or_else(|| panic!("no address: {line:?}"))
            .0;
        Self {
            address: address.to_owned(),
            child,
        }
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a request in HTTP/1.0, whose answers end with the connection.
    pub(crate) fn send(&self, method: &str, path: &str, body: &Value, headers: &str) -> TcpStream {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let length = body.len();
        let head =
            format!("{method} {path} HTTP/1.0\r\nhost: 127.0.0.1\r\n{headers}content-length: {length}\r\n");
        let kind = "content-type: application/json\r\n";
        stream
            .write_all(format!("{head}{kind}\r\n{body}").as_bytes())
            .unwrap();
        stream
    }

    /// Status, head and body of an answer.
    pub(crate) fn ask(&self, method: &str, path: &str, body: &Value, headers: &str) -> (u16, String, String) {
        let mut raw = String::new();
        self.send(method, path, body, headers)
            .read_to_string(&mut raw)
            .unwrap();
        let (head, body) = raw.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{raw:?}"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, head.to_lowercase(), body.to_owned())
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Value {
        let (status, _, text) = self.ask("POST", path, body, "");
        assert_eq!(status, 200, "{path}: {text}");
        serde_json::from_str(&text).unwrap()
    }

    pub(crate) fn get(&self, path: &str) -> Value {
        let (status, _, text) = self.ask("GET", path, &Value::Null, "");
        assert_eq!(status, 200, "{path}: {text}");
        serde_json::from_str(&text).unwrap()
    }

    /// Waits until nothing is computed any more.
    pub(crate) fn comes_to_rest(&self) {
        let began = Instant::now();
        loop {
            let status = self.get("/heph/v1/status");
            if status["requests"]["running"] == 0 && status["requests"]["waiting"] == 0 {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "{status}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for DoorProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The objects of a stream of events.
pub(crate) fn events(body: &str) -> Vec<Value> {
    body.lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .filter_map(|data| serde_json::from_str(data).ok())
        .collect()
}

/// The text of a stream of `/v1/completions`.
pub(crate) fn spoken(events: &[Value]) -> String {
    let pieces = events.iter().filter_map(|e| e["choices"][0]["text"].as_str());
    pieces.collect()
}

/// One question in the words of each API, where the text of the answer stands, and the field of HEPH.
fn dialects() -> [(&'static str, Value, &'static str); 6] {
    let turn = json!([{ "role": "user", "content": "Tell me a story." }]);
    let options = json!({ "temperature": 0.0, "num_predict": 24, "repeat_penalty": 1.0 });
    [
        (
            "/v1/chat/completions",
            json!({ "messages": turn, "max_tokens": 24, "temperature": 0 }),
            "/choices/0/message/content",
        ),
        (
            "/v1/completions",
            json!({ "prompt": "Once upon a time", "max_tokens": 24, "temperature": 0 }),
            "/choices/0/text",
        ),
        (
            "/v1/responses",
            json!({ "input": "Tell me a story.", "max_output_tokens": 24, "temperature": 0 }),
            "/output/0/content/0/text",
        ),
        (
            "/api/chat",
            json!({ "messages": turn, "stream": false, "options": options }),
            "/message/content",
        ),
        (
            "/api/generate",
            json!({ "prompt": "Tell me a story.", "stream": false, "options": options }),
            "/response",
        ),
        (
            "/v1/messages",
            json!({ "messages": turn, "max_tokens": 24, "temperature": 0 }),
            "/content/0/text",
        ),
    ]
}

#[test]
fn every_mode_through_every_api_says_the_same_words() {
    let node = NodeProcess::start("node-a");
    let desk = Home::with(&[&node]);
    let door = DoorProcess::start(&desk, &[], &[]);
    let modes = [
        "local",
        "remote",
        "layered",
        "speculative",
        "layered-speculative",
        "auto",
    ];
    for (path, body, place) in dialects() {
        let mut plain = None;
        for mode in modes {
            let mut body = body.clone();
            body["heph"] = json!({ "mode": mode });
            let answer = door.post(path, &body);
            let text = answer.pointer(place).and_then(Value::as_str);
            let text = text.unwrap_or_else(|| panic!("{path}: {answer}")).to_owned();
            let plain = plain.get_or_insert_with(|| text.clone());
            assert_eq!(text, *plain, "{path} {mode}");
            let receipt = &answer["heph"]["receipt"];
            assert_eq!(receipt["exactness"], "exact", "{path} {mode}: {answer}");
            if mode != "auto" {
                assert_eq!(receipt["mode"], mode, "{path}");
            }
            let up: u64 = receipt["traffic"]
                .as_array()
                .unwrap()
                .iter()
                .map(|t| t["up"].as_u64().unwrap())
                .sum();
            match mode {
                "local" => assert_eq!(up, 0, "{receipt}"),
                "remote" | "layered" | "layered-speculative" => assert!(up > 0, "{path} {mode}: {receipt}"),
                _ => {}
            }
        }
    }
    // The headers wish too, and the answer's say what it will be; the last event of a stream has the receipt.
    let mut body = endless(24);
    body["prompt"] = json!("Once");
    body["stream"] = json!(true);
    let (_, head, text) = door.ask("POST", "/v1/completions", &body, "heph-mode: remote\r\n");
    assert!(
        head.contains("heph-mode: remote") && head.contains("heph-exactness: exact"),
        "{head}"
    );
    let events = events(&text);
    let receipt = &events.last().unwrap()["heph"]["receipt"];
    assert_eq!(
        (&receipt["mode"], &receipt["places"][0]["name"]),
        (&json!("remote"), &json!("node-a"))
    );
    assert_eq!(receipt["answer_tokens"], 24, "{receipt}");
    let id = events.last().unwrap()["heph"]["receipt_id"].as_str().unwrap();
    assert_eq!(door.get(&format!("/heph/v1/receipts/{id}")), *receipt);
    let plan = json!({ "prompt": "Once", "mode": "remote" });
    assert_eq!(door.post("/heph/v1/plan", &plan)["mode"], "remote");
    // Several choices have a receipt of their own each, and one together.
    let mut two = endless(8);
    (two["prompt"], two["n"], two["heph"]) = (json!("Once"), json!(2), json!({ "mode": "remote" }));
    let there = door.post("/v1/completions", &two);
    two["heph"] = json!({ "mode": "local" });
    let here = door.post("/v1/completions", &two);
    for at in 0..2 {
        assert_eq!(there["choices"][at]["text"], here["choices"][at]["text"]);
    }
    assert_ne!(there["choices"][0]["text"], there["choices"][1]["text"]);
    assert_eq!(there["heph"]["receipt"]["answer_tokens"], 16);
    assert_eq!(there["heph"]["receipt"]["choices"].as_array().unwrap().len(), 2);
    assert_eq!(there["usage"], here["usage"]);
}

/// One conversation through a door: its turns, and what each answer said of itself.
struct Talk<'a> {
    door: &'a DoorProcess,
    messages: Vec<Value>,
    said: Vec<Value>,
}

impl<'a> Talk<'a> {
    fn new(door: &'a DoorProcess) -> Self {
        Self {
            door,
            messages: Vec::new(),
            said: Vec::new(),
        }
    }

    /// Asks, and returns how many tokens of the prompt were there already.
    fn asks(&mut self, question: &str, user: &str, heph: &Value) -> u64 {
        let question = format!("{question} What did the little fox say of it to all of its friends?");
        self.messages.push(json!({ "role": "user", "content": question }));
        let said = self.door.post(
            "/v1/chat/completions",
            &json!({ "messages": self.messages, "max_tokens": 12, "temperature": 0, "user": user, "heph": heph }),
        );
        self.messages.push(said["choices"][0]["message"].clone());
        let there = said["usage"]["prompt_tokens_details"]["cached_tokens"].clone();
        assert_eq!(said["heph"]["receipt"]["cached_tokens"], there, "{said}");
        self.said.push(said);
        there.as_u64().unwrap()
    }

    /// Who computed what for the answer of this turn.
    fn places(&self, turn: usize) -> Vec<(Value, Value)> {
        let places = self.said[turn]["heph"]["receipt"]["places"].as_array().unwrap();
        let place = |place: &Value| (place["node"].clone(), place["layers"].clone());
        places.iter().map(place).collect()
    }

    fn moved(&self, turn: usize) -> bool {
        let moves = &self.said[turn]["heph"]["receipt"]["moves"];
        !moves.as_array().expect("a receipt tells its moves").is_empty()
    }

    fn prompt_tokens(&self, turn: usize) -> u64 {
        self.said[turn]["usage"]["prompt_tokens"].as_u64().unwrap()
    }

    fn words(&self) -> Vec<&Value> {
        let answers = self.messages.iter().skip(1).step_by(2);
        answers.map(|message| &message["content"]).collect()
    }
}

const QUESTIONS: [&str; 3] = [
    "Tell me about a boat.",
    "Tell me about a hill.",
    "Tell me about a bell.",
];

/// A conversation of which each turn went on where the one before was answered, and paid for its new part alone; none where one did not, or
/// moved in mid-answer: whose work is slow just now, since all share this machine, may be given up.
fn goes_on_in<'a>(door: &'a DoorProcess, user: &str, heph: &Value, alone: &Talk) -> Option<Talk<'a>> {
    let mut talk = Talk::new(door);
    let mut went_on = 0;
    for (turn, question) in QUESTIONS.iter().enumerate() {
        let there = talk.asks(question, user, heph);
        if talk.moved(turn) {
            return None;
        }
        if there == 0 {
            continue;
        }
        assert!(turn > 0, "{heph}: what nobody said is there");
        let (places, before) = (talk.places(turn), talk.places(turn - 1));
        assert!(
            places.starts_with(&before),
            "{heph}, turn {turn}: elsewhere {there} are there: {places:?}, {before:?}"
        );
        assert!(
            there >= talk.prompt_tokens(turn - 1),
            "{heph}, turn {turn}: {there}"
        );
        went_on += 1;
    }
    assert_eq!(talk.words(), alone.words(), "{heph}");
    let all = went_on + 1 == QUESTIONS.len();
    assert!(
        all || heph["mode"] != "remote",
        "there is one such plan, and {went_on} turns went on by it"
    );
    all.then_some(talk)
}

#[test]
fn a_conversation_that_goes_on_elsewhere_pays_for_its_new_part_alone() {
    let node = NodeProcess::start("node-a");
    let desk = Home::with(&[&node]);
    let door = DoorProcess::start(&desk, &[], &[]);
    let mut alone = Talk::new(&door);
    for question in QUESTIONS {
        alone.asks(question, "ann", &json!({ "mode": "local" }));
    }
    for mode in ["remote", "layered", "speculative", "layered-speculative"] {
        let heph = json!({ "mode": mode });
        // Where another plan is sooner even though it begins with nothing, as on a machine that does much else, that one is taken.
        let talk = (0..12).find_map(|time| goes_on_in(&door, &format!("ann-{time}"), &heph, &alone));
        let talk = talk.unwrap_or_else(|| panic!("{mode}: no conversation went on where it was to its end"));
        // What went there was the new part alone, and the node signed for all of it.
        if mode == "remote" {
            let id = talk.said[2]["heph"]["receipt_id"].as_str().unwrap();
            let (status, _, signed) =
                door.ask("GET", &format!("/heph/v1/receipts/{id}/signed"), &Value::Null, "");
            assert_eq!(status, 200, "{signed}");
            let file = desk.0.path().join("signed");
            std::fs::write(&file, signed).unwrap();
            let read = desk.output(&["receipt", "verify", file.to_str().unwrap()]);
            let read = String::from_utf8_lossy(&read.stdout).into_owned();
            assert!(read.contains("signed by it"), "{read}");
        }
        // Nobody else meets what she left.
        let there = Talk::new(&door).asks(QUESTIONS[0], "bob", &heph);
        assert_eq!(there, 0, "{mode}");
    }
}

#[test]
fn no_label_meets_what_another_left_elsewhere() {
    let node = NodeProcess::start("node-a");
    let desk = Home::with(&[&node]);
    let door = DoorProcess::start(&desk, &[], &[]);
    let plain = json!({ "mode": "remote" });
    let mut talk = Talk::new(&door);
    talk.asks(QUESTIONS[0], "ann", &plain);
    let mut go_on = |question: &str, heph: &Value| {
        let before = talk.messages.clone();
        let there = talk.asks(question, "ann", heph);
        (there, std::mem::replace(&mut talk.messages, before))
    };
    // As many as rest beside the first.
    for other in [
        json!({ "mode": "remote", "privacy": "private" }),
        json!({ "mode": "remote", "labels": ["salaries"] }),
    ] {
        assert_eq!(go_on(QUESTIONS[1], &other).0, 0, "{other}");
    }
    // What is found in a text is a label, too.
    assert_eq!(go_on("Write to ann.lee@example.org.", &plain).0, 0);
    // What the first question left is there all the same.
    assert!(go_on(QUESTIONS[1], &plain).0 > 0);
}

#[test]
fn a_node_killed_in_the_middle_of_a_stream_changes_no_byte() {
    for mode in ["remote", "layered"] {
        let mut node = NodeProcess::start("node-a");
        let desk = Home::with(&[&node]);
        let door = DoorProcess::start(&desk, &[], &[]);
        let events = door.struck(mode, 600, || node.kill());
        let receipt = &events.last().unwrap()["heph"]["receipt"];
        let moves = receipt["moves"].as_array().unwrap();
        assert!(
            !moves.is_empty() && moves.iter().all(|m| m["from"] == "node-a"),
            "{mode}: {receipt}"
        );
    }
}

#[test]
fn whoever_hangs_up_frees_the_node_and_many_at_once_say_what_each_says_alone() {
    let node = NodeProcess::start("node-a");
    let desk = Home::with(&[&node]);
    let door = DoorProcess::start(&desk, &[], &[]);
    let mut body = endless(900);
    (body["prompt"], body["stream"], body["heph"]) =
        (json!("Once"), json!(true), json!({ "mode": "remote" }));
    for _ in 0..4 {
        let mut stream = door.send("POST", "/v1/completions", &body, "");
        let mut some = [0; 400];
        stream.read_exact(&mut some).unwrap();
        assert!(String::from_utf8_lossy(&some).starts_with("HTTP/1.0 200"));
    }
    door.comes_to_rest();
    let mut watch = desk.command(&["peers", "--watch", "--json"]).spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap());
    watch_until(&mut lines, |seen| {
        let load = &seen[0]["load"];
        load["sessions"] == 0 && load["tokens"].as_u64() > Some(0)
    });
    watch.kill().unwrap();
    watch.wait().unwrap();
    // More at once than run together; each text is what it is alone, here.
    let ask = |n: usize, mode: &str| {
        let mut body = endless(16);
        (body["prompt"], body["seed"], body["heph"]) = (json!("Once"), json!(n % 4), json!({ "mode": mode }));
        door.post("/v1/completions", &body)["choices"][0]["text"].clone()
    };
    let alone: Vec<Value> = (0..4).map(|n| ask(n, "local")).collect();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..24).map(|n| scope.spawn(move || ask(n, "remote"))).collect();
        for (n, thread) in threads.into_iter().enumerate() {
            assert_eq!(thread.join().unwrap(), alone[n % 4], "{n}");
        }
    });
}

#[test]
fn what_finds_this_machine_busy_is_answered_by_another() {
    let node = NodeProcess::start("node-a");
    let desk = Home::with(&[&node]);
    let door = DoorProcess::start(&desk, &["--parallel", "1"], &[]);
    let body = |tokens: usize, mode: &str| {
        let mut body = endless(tokens);
        (body["prompt"], body["heph"]) = (json!("Once"), json!({ "mode": mode }));
        body
    };
    let everywhere = |answer: &Value| -> Vec<String> {
        let places = answer["heph"]["receipt"]["places"].as_array().unwrap();
        places.iter().map(|place| place["name"].to_string()).collect()
    };
    // How long an answer has its place is known from then on.
    door.post("/v1/completions", &body(400, "local"));
    let calm = door.post("/v1/completions", &body(24, "auto"));
    assert_eq!(everywhere(&calm), ["\"here\""], "{calm}");
    let mut long = body(900, "local");
    long["stream"] = json!(true);
    let _busy: Vec<_> = (0..4)
        .map(|_| {
            let mut stream = door.send("POST", "/v1/completions", &long, "");
            stream.read_exact(&mut [0; 12]).unwrap();
            stream
        })
        .collect();
    // Whose work is slow just now, since all share this machine, may be given up again for this one.
    let others = [(); 3].map(|()| door.post("/v1/completions", &body(24, "auto")));
    for other in &others {
        assert_eq!(other["choices"][0]["text"], calm["choices"][0]["text"]);
    }
    let away = |other: &Value| everywhere(other) == ["\"node-a\""];
    assert!(others.iter().any(away), "{others:?}");
}

#[test]
fn what_comes_at_once_is_spread_over_the_machines_and_says_the_same() {
    let nodes = ["node-a", "node-b"].map(NodeProcess::start);
    let desk = Home::with(&[&nodes[0], &nodes[1]]);
    let door = DoorProcess::start(&desk, &[], &[]);
    let body = |mode: &str| {
        let mut body = endless(120);
        (body["prompt"], body["heph"]) = (json!("Once"), json!({ "mode": mode }));
        body
    };
    let here = door.post("/v1/completions", &body("local"));
    let answers: Vec<Value> = std::thread::scope(|scope| {
        let asked: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| door.post("/v1/completions", &body("remote"))))
            .collect();
        asked.into_iter().map(|asked| asked.join().unwrap()).collect()
    });
    let mut asked = std::collections::BTreeMap::new();
    for answer in &answers {
        assert_eq!(answer["choices"][0]["text"], here["choices"][0]["text"]);
        let places = answer["heph"]["receipt"]["places"].as_array().unwrap();
        for place in places {
            *asked.entry(place["name"].as_str().unwrap()).or_insert(0) += 1;
        }
    }
    // Whose work is slow just now, since all share this machine, may be given up, also for this one.
    assert!(
        ["node-a", "node-b"]
            .iter()
            .all(|node| asked.get(node) >= Some(&2)),
        "{asked:?}"
    );
}

#[test]
fn a_question_is_read_while_it_is_written_where_that_is_wished() {
    let desk = Home::with(&[]);
    let door = DoorProcess::start(&desk, &["--cache-disk", "64MB"], &[]);
    let tale = "Once upon a time there was a little dog who liked to run and play. ".repeat(20);
    let said = |text: String| json!([{ "role": "user", "content": text }]);
    let written = |who: &str, rest: &str| said(format!("{who} {tale}{rest}"));
    let ask = |messages: Value, user: &str| {
        let mut body = json!({ "max_tokens": 12, "temperature": 0, "heph": { "mode": "local" } });
        (body["messages"], body["user"]) = (messages, json!(user));
        let answer = door.post("/v1/chat/completions", &body);
        let usage = &answer["usage"];
        let there = usage["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
        let text = answer["choices"][0]["message"]["content"].clone();
        (text, usage["prompt_tokens"].as_u64().unwrap() - there)
    };
    let plan = |messages: Value, ahead: bool| {
        door.post(
            "/heph/v1/plan",
            &json!({ "messages": messages, "mode": "local", "ahead": ahead }),
        );
    };
    let on_disk = || {
        desk.json(&["cache", "show", "--json"])["blocks"]
            .as_u64()
            .unwrap()
    };
    let more_on_disk = |than: u64| {
        let began = Instant::now();
        while on_disk() <= than {
            assert!(began.elapsed() < PATIENCE, "nothing is written");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    plan(written("Ann", "Wher"), false);
    let (_, cold) = ask(written("Ann", "Where is it?"), "");
    assert!(cold > 200, "{cold} tokens were still to be read");
    more_on_disk(0);
    std::thread::sleep(Duration::from_millis(500));
    let kept = on_disk();
    let tokens = || {
        door.get("/heph/v1/status")["requests"]["tokens"]
            .as_u64()
            .unwrap()
    };
    let before = tokens();
    plan(written("Bob", "Wher"), true);
    let (began, mut now) = (Instant::now(), before);
    while now == before || now != tokens() {
        assert!(began.elapsed() < PATIENCE, "it is not read");
        now = tokens();
        std::thread::sleep(Duration::from_millis(500));
    }
    assert_eq!(on_disk(), kept, "what was not sent lies on the disk");
    let (text, left) = ask(written("Bob", "Where is it?"), "");
    assert!(left * 2 < cold, "{left} of {cold} tokens were still to be read");
    more_on_disk(kept);
    // Another caller finds nothing of it, and has the same words.
    let (again, unread) = ask(written("Bob", "Where is it?"), "another");
    assert_eq!(again, text);
    assert!(unread > 200, "{unread} tokens were still to be read");
}

/// It was told to be as long as it may, with what there was of it.
#[cfg(unix)]
#[test]
fn an_answer_over_machines_whose_door_is_ended_is_told_to_have_no_end() {
    let node = NodeProcess::start("node-a");
    let desk = Home::with(&[&node]);
    for (mode, signal, resume) in [
        ("layered", "-INT", false),
        ("layered", "-INT", true),
        ("local", "-TERM", false),
        ("remote", "-INT", false),
    ] {
        let mut door = DoorProcess::start(&desk, &[], &[]);
        let mut body = endless(900);
        (body["prompt"], body["stream"]) = (json!("Once upon a time"), json!(true));
        body["heph"] = json!({ "mode": mode, "resume": resume });
        let mut stream = BufReader::new(door.send("POST", "/v1/completions", &body, ""));
        let mut heard = String::new();
        while events(&heard).len() < 3 {
            assert!(stream.read_line(&mut heard).unwrap() > 0, "{mode}: {heard}");
        }
        let struck = Command::new("kill")
            .args([signal, &door.pid().to_string()])
            .status();
        assert!(struck.unwrap().success());
        stream.read_to_string(&mut heard).unwrap();
        let last = heard.rsplit_once("data: ").expect("events").1;
        // Who may take it up again has it made anew, and is told nothing.
        assert_eq!(last.contains("the engine has stopped"), !resume, "{mode}: {last}");
        assert!(!heard.contains("\"finish_reason\":\"length\""), "{mode}: {heard}");
        assert!(door.child.wait().unwrap().success(), "{mode}");
    }
}

#[test]
fn what_may_not_leave_stays_and_what_cannot_be_is_said() {
    let node = NodeProcess::start("node-a");
    let desk = Home::with(&[&node]);
    let refused = |door: &DoorProcess, body: &Value, code: &str| {
        let (status, _, text) = door.ask("POST", "/v1/completions", body, "");
        let said: Value = serde_json::from_str(&text).unwrap();
        assert!(
            (400..500).contains(&status) && said["error"]["code"] == code,
            "{status} {said}"
        );
    };
    let body = |heph: Value| json!({ "prompt": "Once", "max_tokens": 4, "heph": heph });
    let door = DoorProcess::start(&desk, &[], &[]);
    refused(
        &door,
        &body(json!({ "mode": "remote", "privacy": "nothing" })),
        "no_plan",
    );
    let shaped =
        json!({ "prompt": "x", "response_format": { "type": "json_object" }, "heph": { "mode": "remote" } });
    refused(&door, &shaped, "mode_unavailable");
    // Where nobody is named, this machine answers, and the receipt says why no other was asked.
    for asks in [
        json!({ "response_format": { "type": "json_object" } }),
        json!({ "logprobs": 1 }),
    ] {
        let mut whole = body(json!({ "mode": "auto" }));
        whole
            .as_object_mut()
            .unwrap()
            .extend(asks.as_object().unwrap().clone());
        let receipt = door.post("/v1/completions", &whole)["heph"]["receipt"].clone();
        assert_eq!(receipt["mode"], "local", "{receipt}");
        assert!(
            receipt["degraded"]
                .to_string()
                .contains("Other machines were not asked"),
            "{receipt}"
        );
    }
    // A deadline ends the answer with what there is, wherever it is made.
    let mut long = endless(900);
    (long["prompt"], long["heph"]) = (json!("Once"), json!({ "mode": "layered", "deadline_ms": 1 }));
    let answer = door.post("/v1/completions", &long);
    assert_eq!(answer["heph"]["receipt"]["finish"], "deadline", "{answer}");
    drop(door);
    // A stranger's machine sees text only where the settings say so, and the request does not say less.
    assert!(
        desk.output(&["peers", "role", "node-a", "miner"])
            .status
            .success()
    );
    let strict = DoorProcess::start(&desk, &[], &[]);
    refused(&strict, &body(json!({ "mode": "remote" })), "no_plan");
    drop(strict);
    let open = DoorProcess::start(&desk, &[], &[("HEPH_ALLOW", "miner=text")]);
    refused(
        &open,
        &body(json!({ "mode": "remote", "privacy": "own" })),
        "no_plan",
    );
    let told = open.post("/v1/completions", &body(json!({ "mode": "remote" })));
    assert_eq!(told["heph"]["receipt"]["places"][0]["role"], "miner", "{told}");
    assert_eq!(told["heph"]["receipt"]["places"][0]["saw"], "text");
    // Who cannot be asked is named, whether this door ever met them or not.
    let (home, address) = node.stopped();
    drop(open);
    let later = DoorProcess::start(&desk, &[], &[("HEPH_ALLOW", "miner=text")]);
    let ask = |mode: &str| {
        let (_, _, text) = later.ask("POST", "/v1/completions", &body(json!({ "mode": mode })), "");
        text
    };
    let said = ask("remote");
    assert!(
        said.contains("no_plan") && said.contains("node-a is known and away"),
        "{said}"
    );
    // Who comes back is there for whoever needs them, and not only when all are met anew.
    let _node = NodeProcess::start_with(home, "node-a", &address);
    std::thread::sleep(Duration::from_secs(1));
    let said = ask("remote");
    assert!(said.contains("\"finish_reason\""), "{said}");
    let said = ask("elsewhere");
    assert!(
        said.contains("is no mode") && said.contains("auto leaves the choice"),
        "{said}"
    );
    let (status, _, said) = later.ask(
        "POST",
        "/v1/completions",
        &body(json!({ "privcy": "nothing" })),
        "",
    );
    assert!(status == 400 && said.contains("privcy"), "{status} {said}");
}

#[test]
fn of_texts_that_come_with_a_question_only_the_excerpts_leave() {
    let node = NodeProcess::start("node-a");
    // So slow that no layer is better kept here.
    let desk = Home::with(&[&node]).timed_slower(100.0);
    let door = DoorProcess::start(&desk, &[], &[]);
    let text = super::chronicle(66);
    let question = "How many shells did Mila find on day 35?";
    let body = |mode: &str| {
        json!({
            "messages": [{ "role": "user", "content": question }], "max_tokens": 24, "temperature": 0,
            "heph": { "mode": mode, "documents": [{ "name": "chronicle.txt", "text": text }] },
        })
    };
    let there = door.post("/v1/chat/completions", &body("preprocess"));
    let receipt = &there["heph"]["receipt"];
    assert_eq!(
        (&receipt["mode"], &receipt["exactness"]),
        (&json!("preprocess"), &json!("exact")),
        "{receipt}"
    );
    assert_eq!(receipt["exposure"]["documents"][0], "chronicle.txt");
    assert!(
        receipt["citations"]
            .as_array()
            .is_some_and(|list| !list.is_empty())
    );
    let sent = receipt["exposure"]["bytes_sent"].as_u64().unwrap();
    assert!(
        sent * 6 <= (text.len() + question.len()) as u64 + 6 * 2048,
        "{sent} bytes"
    );
    let up = receipt["traffic"][0]["up"].as_u64().unwrap();
    assert!(up <= sent * 2 + 4096, "{up} bytes for {sent} of text");
    // All of it is longer than the context, and mode local asks for all of it.
    let (status, _, said) = door.ask("POST", "/v1/chat/completions", &body("local"), "");
    assert!(
        status == 400 && said.contains("context_length_exceeded"),
        "{status} {said}"
    );
    // What was said before is a text like any other.
    let talk = json!({
        "messages": [
            { "role": "user", "content": "Tom has a red lantern." }, { "role": "assistant", "content": "How nice." },
            { "role": "user", "content": "What does Tom have?" },
        ],
        "max_tokens": 8, "heph": { "mode": "preprocess" },
    });
    let receipt = door.post("/v1/chat/completions", &talk)["heph"]["receipt"].clone();
    assert!(receipt["exposure"]["excerpts"].as_u64() > Some(0), "{receipt}");
    let alone =
        json!({ "messages": [{ "role": "user", "content": "Hi" }], "heph": { "mode": "preprocess" } });
    assert_eq!(door.ask("POST", "/v1/chat/completions", &alone, "").0, 400);
}
