//! The guard of connections as a process: what the door does not do itself, and what becomes of it when it is killed.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::door::{DoorProcess, endless};
use super::mock::{Act, ok, play};
use super::providers::{chat, home, story};
use super::{Home, NodeProcess};

/// What the system says of a process or a thread under `name`.
fn status(place: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{place}/status")).ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.map(|value| value.trim().to_owned())
}

/// The guards that a process began.
fn guards(of: u32) -> Vec<u32> {
    let every = fs::read_dir("/proc").unwrap().flatten();
    let pids = every.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let is_guard = |pid: &u32| {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let child = status(&pid.to_string(), "PPid") == Some(of.to_string());
        child && words.split(|byte| *byte == 0).any(|word| word == b"egress-guard")
    };
    pids.filter(is_guard).collect()
}

fn kill(pid: u32) {
    assert!(
        Command::new("kill")
            .args(["-9", &pid.to_string()])
            .status()
            .unwrap()
            .success()
    );
}

/// Whether this system keeps a guard from anything; containers may forbid it.
fn is_sealed() -> bool {
    let told = Home::new().json(&["doctor", "--json", "--quick"]);
    let told = told["connections"].as_str().unwrap();
    assert!(told.contains("a guard in a process of its own"), "{told}");
    told.contains("programs and other processes") && !told.contains("not from programs")
}

#[test]
fn a_door_connects_to_nobody_itself_and_begins_a_guard_anew() {
    let begun = ok(
        "text/event-stream",
        "data: {\"choices\":[{\"delta\":{\"content\":\"Once\"}}]}\n\n",
    );
    let (url, heard) = play(vec![
        Act::Raw(story()),
        Act::Raw(story()),
        Act::Hang(begun, Duration::from_secs(100)),
        Act::Raw(story()),
    ]);
    let home = home(&url, &["--allow"]);
    let door = DoorProcess::start(&home, &[], &[]);
    assert!(guards(door.pid()).is_empty(), "none is begun before it is needed");
    let ask =
        || door.post("/v1/chat/completions", &chat(&json!({})))["choices"][0]["message"]["content"].clone();
    assert_eq!(ask(), "Once upon a time.");
    let first = guards(door.pid());
    assert_eq!(first.len(), 1);
    if is_sealed() {
        let guard = first[0].to_string();
        assert_eq!(status(&guard, "Seccomp").as_deref(), Some("2"));
        assert_eq!(status(&guard, "NoNewPrivs").as_deref(), Some("1"));
        // Every thread of the door, but for the one that begins guards and programs.
        assert_eq!(unsealed(door.pid()), ["heph-begin"]);
    }
    kill(first[0]);
    assert_eq!(ask(), "Once upon a time.");
    let second = guards(door.pid());
    assert!(second.len() == 1 && second != first, "{first:?} {second:?}");
    // What is under way ends with its guard, and says so.
    let mut body = chat(&json!({}));
    body["stream"] = json!(true);
    let mut stream = BufReader::new(door.send("POST", "/v1/chat/completions", &body, ""));
    let mut said = String::new();
    while !said.contains("Once") {
        assert!(stream.read_line(&mut said).unwrap() > 0, "{said}");
    }
    kill(second[0]);
    stream.read_to_string(&mut said).unwrap();
    assert!(
        said.contains("the guard of connections is not there") && !said.contains("[DONE]"),
        "{said}"
    );
    assert_eq!(ask(), "Once upon a time.");
    assert_eq!(heard.lock().unwrap().len(), 4);
    // What was counted stands in the log: all of what was asked.
    let log = home.json(&["egress", "--json"]);
    let ways = log["ways"].as_array().unwrap();
    let up = |of: &str| -> u64 {
        let ways = ways
            .iter()
            .filter(|way| way["who"] == of && way["counted"] == "on-the-wire");
        ways.filter_map(|way| way["up"].as_u64()).sum()
    };
    let sent: usize = heard
        .lock()
        .unwrap()
        .iter()
        .map(|(head, body)| head.len() + 4 + body.len())
        .sum();
    assert!(up("mock") as usize <= sent && up("mock") > 0, "{log} {sent}");
}

#[test]
fn a_guard_reads_a_policy_that_changed_before_it_opens_anything_more() {
    let (url, heard) = play(vec![Act::Raw(story())]);
    let home = home(&url, &["--allow"]);
    let door = DoorProcess::start(&home, &[], &[]);
    door.post("/v1/chat/completions", &chat(&json!({})));
    let first = guards(door.pid());
    let open = "version = 1\npreset = \"open\"\n";
    fs::write(home.0.path().join("policy.toml"), open).unwrap();
    door.post("/v1/chat/completions", &chat(&json!({})));
    let gone = || guards(door.pid()).iter().all(|pid| !first.contains(pid));
    let waited = (0..500).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        gone()
    });
    assert!(waited, "what read the old files is not kept");
    assert_eq!(heard.lock().unwrap().len(), 2);
}

#[test]
fn a_guard_ends_with_whoever_began_it() {
    let (url, _) = play(vec![Act::Raw(story())]);
    let home = home(&url, &["--allow"]);
    let door = DoorProcess::start(&home, &[], &[]);
    door.post("/v1/chat/completions", &chat(&json!({})));
    let guard = guards(door.pid())[0];
    kill(door.pid());
    let ended = (0..1000).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        // Nobody may wait for it any more: then the system keeps its number and nothing else.
        status(&guard.to_string(), "State").is_none_or(|state| state.starts_with('Z'))
    });
    assert!(ended);
}

/// Sockets of UDP that a process has.
fn udp(pid: u32) -> usize {
    let links = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let links = links.filter_map(|entry| fs::read_link(entry.path()).ok());
    let names: Vec<String> = links.map(|link| link.to_string_lossy().into_owned()).collect();
    let every = ["udp", "udp6"].map(|kind| fs::read_to_string(format!("/proc/{pid}/net/{kind}")).unwrap());
    let of = |line: &str| {
        line.split_whitespace()
            .nth(9)
            .map(|inode| format!("socket:[{inode}]"))
    };
    let lines = every.iter().flat_map(|text| text.lines().skip(1).filter_map(of));
    lines.filter(|name| names.contains(name)).count()
}

#[test]
fn a_door_speaks_to_machines_through_a_guard_and_a_killed_one_changes_no_byte() {
    let node = NodeProcess::start("node-a");
    let desk = Home::with(&[&node]);
    let door = DoorProcess::start(&desk, &[], &[]);
    for mode in ["remote", "layered"] {
        door.struck(mode, 400, || {
            let guards = guards(door.pid());
            assert!(!guards.is_empty() && guards.iter().any(|guard| udp(*guard) > 0));
            assert_eq!(
                udp(door.pid()),
                0,
                "the process that has the prompts has no such socket"
            );
            guards.into_iter().for_each(kill);
        });
    }
    // The next question finds the node again.
    let mut body = endless(20);
    (body["prompt"], body["heph"]) = (json!("Once upon a time"), json!({ "mode": "remote" }));
    let answer = door.post("/v1/completions", &body);
    let places = answer["heph"]["receipt"]["places"].to_string();
    assert!(places.contains("node-a"), "{answer}");
    // What a guard counted is written down within two seconds.
    let counted = |way: &Value| {
        let labels = way["labels"].to_string();
        let sent = way["up"].as_u64() > Some(0);
        way["who"] == "node-a" && way["purpose"] == "session" && labels.contains("internal") && sent
    };
    let logged = (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(100));
        let log = desk.json(&["egress", "--json"]);
        log["ways"].as_array().unwrap().iter().any(counted)
    });
    assert!(logged, "{}", desk.json(&["egress", "--json"]));
}

/// Sockets of the internet that a process has, by kind.
fn internet(pid: u32) -> Vec<&'static str> {
    let links = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let links = links.filter_map(|entry| fs::read_link(entry.path()).ok());
    let names: Vec<String> = links.map(|link| link.to_string_lossy().into_owned()).collect();
    let kinds = ["udp", "udp6", "tcp", "tcp6", "raw", "raw6"].into_iter();
    let has = |kind: &&str| {
        let text = fs::read_to_string(format!("/proc/{pid}/net/{kind}")).unwrap_or_default();
        let inodes = text.lines().filter_map(|line| line.split_whitespace().nth(9));
        let mut inodes = inodes.map(|inode| format!("socket:[{inode}]"));
        inodes.any(|name| names.contains(&name))
    };
    kinds.filter(has).collect()
}

/// Threads of a process that the kernel lets make sockets.
fn unsealed(pid: u32) -> Vec<String> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let open = threads.filter_map(|thread| {
        let place = format!("{pid}/task/{}", thread.file_name().to_str()?);
        (status(&place, "Seccomp")? != "2").then(|| status(&place, "Name"))?
    });
    open.collect()
}

#[test]
fn a_node_has_no_socket_of_the_internet_and_is_found_again_where_it_was() {
    let node = NodeProcess::start("node-a");
    let desk = Home::with(&[&node]);
    let guard = || {
        let guards = guards(node.child.id());
        (guards.len() == 1).then(|| guards[0])
    };
    let first = guard().expect("one guard has its socket");
    assert!(udp(first) > 0);
    let door = DoorProcess::start(&desk, &[], &[]);
    for mode in ["remote", "layered"] {
        door.struck(mode, 400, || {
            assert!(
                internet(node.child.id()).is_empty(),
                "{:?}",
                internet(node.child.id())
            );
            if is_sealed() {
                assert_eq!(unsealed(node.child.id()), ["heph-begin"]);
            }
            kill(guard().unwrap());
        });
        let again = (0..300).any(|_| {
            std::thread::sleep(Duration::from_millis(50));
            guard().is_some_and(|guard| udp(guard) > 0)
        });
        assert!(again && guard() != Some(first), "another one is begun by itself");
        // On a busy machine it is away until it was heard again.
        let words = json!({ "prompt": "Once", "max_tokens": 1, "heph": { "mode": "remote" } });
        let is_there = (0..60).any(|_| {
            std::thread::sleep(Duration::from_millis(250));
            door.ask("POST", "/v1/completions", &words, "").0 == 200
        });
        assert!(is_there, "the door finds it again");
    }
    // It is where its ticket said.
    let answered = (0..20).any(|_| {
        std::thread::sleep(Duration::from_millis(250));
        desk.output(&["run", "--mode", "remote", "--max-tokens", "4", "hello"])
            .status
            .success()
    });
    assert!(answered, "{}", node.address);
    // What went to the desk stands in the node's own log.
    let counted = |way: &Value| way["purpose"] == "session" && way["up"].as_u64() > Some(0);
    let logged = (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(100));
        let log = node.home.json(&["egress", "--json"]);
        log["ways"].as_array().unwrap().iter().any(counted)
    });
    assert!(logged, "{}", node.home.json(&["egress", "--json"]));
}

#[test]
fn whoever_pairs_with_a_node_ends_no_session_and_whoever_is_forgotten_has_none() {
    let (node, other) = (NodeProcess::start("node-a"), NodeProcess::start("node-b"));
    let desk = Home::with(&[&node]);
    let door = DoorProcess::start(&desk, &[], &[]);
    let before = guards(node.child.id());
    let events = door.struck("remote", 600, || {
        // Another program of the same person changes the book.
        let met = node.home.output(&["join", &other.ticket]);
        assert!(met.status.success(), "{}", String::from_utf8_lossy(&met.stderr));
        std::thread::sleep(Duration::from_millis(500));
    });
    let receipt = events
        .iter()
        .find_map(|event| event["heph"]["receipt"].as_object());
    let receipt = receipt.expect("the last event has it");
    assert_eq!(receipt["moves"], json!([]), "the session went on");
    assert_eq!(guards(node.child.id()), before);
    let told = node.home.json(&["peers", "--json"]);
    let peers = told.as_array().or_else(|| told["peers"].as_array()).unwrap();
    let name = peers.iter().map(|peer| peer["name"].as_str().unwrap());
    let name = name.into_iter().find(|name| *name != "node-b").unwrap();
    let forgotten = node.home.output(&["peers", "forget", name]);
    assert!(
        forgotten.status.success(),
        "{}",
        String::from_utf8_lossy(&forgotten.stderr)
    );
    let refused = (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(100));
        let (code, _) = desk.fails(&["run", "--mode", "remote", "--max-tokens", "4", "hello"]);
        code != 0
    });
    assert!(refused && guards(node.child.id()) == before);
}

#[test]
fn a_guard_is_not_typed() {
    let (code, said) = Home::new().fails(&["egress-guard"]);
    assert!(code == 2 && said.contains("no socket"), "{code} {said}");
    let help = Home::new().output(&["--help"]);
    assert!(!String::from_utf8_lossy(&help.stdout).contains("egress-guard"));
}

#[test]
fn what_leaves_is_shown_as_it_leaves() {
    let node = NodeProcess::start("node-a");
    let home = Home::with(&[&node]);
    let mut follow = home.command(&["egress", "--follow", "--json"]).spawn().unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    let lines = BufReader::new(follow.stdout.take().unwrap()).lines();
    std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| tell.send(line)));
    let until = Instant::now() + Duration::from_secs(60);
    // It shows what comes after its first look, which it may not have had yet.
    let asked = [
        "run",
        "--json",
        "--mode",
        "remote",
        "--draft",
        "none",
        "--max-tokens",
        "4",
        "Tell me a story.",
    ];
    let shown = loop {
        home.json(&asked);
        if let Ok(line) = told.recv_timeout(Duration::from_secs(2)) {
            break line;
        }
        assert!(Instant::now() < until, "nothing is shown");
    };
    let way: Value = serde_json::from_str(&shown).unwrap();
    assert!(way["up"].as_u64() > Some(0) && way["who"] == "node-a", "{shown}");
    follow.kill().unwrap();
    follow.wait().unwrap();
}
