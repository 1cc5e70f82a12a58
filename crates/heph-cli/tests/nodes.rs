//! Real processes: nodes on loopback, met by their tickets, asked in every mode, killed in the middle, refused.

use std::io::{BufRead, BufReader, Read};
use std::net::UdpSocket;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use heph_net::address::NodeAddress;
use heph_net::ticket::Ticket;
use serde_json::Value;
use tempfile::TempDir;

#[path = "nodes/backend.rs"]
mod backend;
#[path = "nodes/door.rs"]
mod door;
#[cfg(target_os = "linux")]
#[path = "nodes/guard.rs"]
mod guard;
#[cfg(target_os = "linux")]
#[path = "nodes/losses.rs"]
mod losses;
#[path = "../../heph-providers/tests/mocks/server.rs"]
mod mock;
#[path = "nodes/parts.rs"]
mod parts;
#[path = "nodes/policy.rs"]
mod policy;
#[path = "nodes/providers.rs"]
mod providers;

/// A folder for one machine's HEPH.
struct Home(TempDir);

impl Home {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_heph"));
        command
            .args(arguments)
            .env_clear()
            .env("HEPH_HOME", self.0.path())
            .env("HEPH_KEYS", "file")
            .env("HEPH_THREADS", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn output(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Exit code and what was said on standard error.
    fn fails(&self, arguments: &[&str]) -> (i32, String) {
        let output = self.output(arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code().unwrap_or(-1), said)
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let output = self.output(arguments);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{arguments:?}: {error}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// A desk that has met these nodes.
    fn with(nodes: &[&NodeProcess]) -> Self {
        let home = Self::new();
        for node in nodes {
            let output = home.output(&["join", &node.ticket]);
            assert!(
                output.status.success(),
                "{}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
        home
    }

    /// The desk that was timed as so many times slower than it is: what it plans does not hang on how busy the tests are.
    fn timed_slower(self, times: f64) -> Self {
        self.json(&["plan", "--json", "hello"]);
        let path = self.0.path().join("speeds.json");
        let mut speeds: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        for entry in speeds.as_array_mut().unwrap() {
            for number in ["bytes_per_second", "flops_per_second"] {
                let timed = entry[1][number].as_f64().unwrap();
                entry[1][number] = (timed / times).into();
            }
        }
        std::fs::write(&path, speeds.to_string()).unwrap();
        self
    }

    fn answer(&self, mode: &str, more: &[&str]) -> Value {
        let fixed = [
            "run",
            "--json",
            "--seed",
            "7",
            "--max-tokens",
            "60",
            "Tell me a story.",
            "--mode",
            mode,
        ];
        self.json(&[&fixed[..], more].concat())
    }
}

/// `heph node` as a process of its own, killed when dropped.
struct NodeProcess {
    home: Home,
    child: Child,
    ticket: String,
    /// Where it listens.
    address: String,
    /// The models of which others may fetch layers.
    offers: Vec<String>,
}

impl NodeProcess {
    fn start(name: &str) -> Self {
        Self::start_with(Home::new(), name, "127.0.0.1:0")
    }

    /// The machine of `home`, where it was before.
    fn start_with(home: Home, name: &str, listen: &str) -> Self {
        Self::start_more(home, name, listen, &[])
    }

    fn start_more(home: Home, name: &str, listen: &str, more: &[&str]) -> Self {
        let fixed = ["node", "--json", "--while-input-open", "--name", name];
        let arguments = [&fixed[..], &["--listen", listen], more].concat();
        let mut child = home.command(&arguments).stdin(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let said: Value = serde_json::from_str(&line).unwrap_or_else(|e| {
            let mut error = String::new();
            child.stderr.take().unwrap().read_to_string(&mut error).unwrap();
            panic!("{e}: {line:?} {error}")
        });
        let ticket = said["ticket"].as_str().unwrap().to_owned();
        let address = said["addresses"][0].as_str().unwrap().to_owned();
        let offers = said["offers"].as_array().into_iter().flatten();
        let offers = offers.map(|hash| hash.as_str().unwrap().to_owned()).collect();
        Self {
            home,
            child,
            ticket,
            address,
            offers,
        }
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Ends it with a goodbye.
    fn leave(&mut self) {
        drop(self.child.stdin.take());
        self.child.wait().unwrap();
    }

    /// Ends it, and gives back its home and where it listened.
    fn stopped(mut self) -> (Home, String) {
        self.leave();
        let home = std::mem::replace(&mut self.home, Home::new());
        (home, self.address.clone())
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        // A test may have killed it already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn every_mode_over_real_nodes_says_the_same_words() {
    let (a, b) = (NodeProcess::start("node-a"), NodeProcess::start("node-b"));
    let desk = Home::with(&[&a, &b]);
    let plain = desk.answer("local", &[]);
    for mode in ["remote", "layered", "speculative", "layered-speculative", "auto"] {
        let answer = desk.answer(mode, &[]);
        assert_eq!(answer["text"], plain["text"], "{mode}");
        let receipt = &answer["receipt"];
        assert_eq!(receipt["exactness"], "exact", "{mode}");
        if mode != "auto" {
            assert_eq!(receipt["mode"], mode);
        }
        if ["remote", "layered", "layered-speculative"].contains(&mode) {
            let traffic = receipt["traffic"].as_array().unwrap();
            assert!(
                traffic.iter().any(|t| t["up"].as_u64() > Some(0)),
                "{mode}: {receipt}"
            );
        }
    }
    let peers = desk.json(&["peers", "--json"]);
    let names: Vec<_> = peers
        .as_array()
        .unwrap()
        .iter()
        .map(|p| p["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["node-a", "node-b"]);
    assert!(
        peers
            .as_array()
            .unwrap()
            .iter()
            .all(|p| p["state"] == "here" && p["rtt_ms"].is_number()),
        "{peers}"
    );
}

#[test]
fn a_node_killed_in_the_middle_changes_no_word() {
    for mode in ["remote", "layered"] {
        let mut node = NodeProcess::start("node-a");
        let desk = Home::with(&[&node]);
        let run = |mode| {
            [
                "run",
                "--seed",
                "7",
                "--max-tokens",
                "300",
                "--explain",
                "Tell me a story.",
                "--mode",
                mode,
            ]
        };
        let calm = String::from_utf8(desk.output(&run("local")).stdout).unwrap();
        let mut child = desk.command(&run(mode)).spawn().unwrap();
        let mut out = child.stdout.take().unwrap();
        let mut text = vec![0; 30];
        out.read_exact(&mut text).unwrap();
        node.kill();
        out.read_to_end(&mut text).unwrap();
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{mode}: {said}");
        assert_eq!(String::from_utf8(text).unwrap(), calm, "{mode}: {said}");
        assert!(said.contains("moved"), "{mode}: {said}");
        let lost = said.lines().any(|line| {
            line.contains("on this machine made the answer")
                && line.contains(&format!("not as --mode {mode} was planned"))
        });
        assert!(lost, "{mode}: {said}");
    }
}

/// Waits until `is` holds of a line that a watching process prints.
fn watch_until(watch: &mut impl BufRead, is: impl Fn(&Value) -> bool) -> Value {
    let until = Instant::now() + Duration::from_secs(60);
    let mut seen = Value::Null;
    while Instant::now() < until {
        let mut line = String::new();
        assert!(watch.read_line(&mut line).unwrap() > 0, "the watch ended: {seen}");
        seen = serde_json::from_str(&line).unwrap();
        if is(&seen) {
            return seen;
        }
    }
    panic!("it was never seen: {seen}")
}

#[test]
fn a_node_that_comes_in_mid_answer_takes_the_work_and_a_watch_shows_it_come_work_and_go() {
    let mut node = NodeProcess::start("node-a");
    let desk = Home::with(&[&node]);
    // A story that does not end by itself, since the bundled model's two ends are kept from it. With plain instructions the
    // desk takes long for it, and a node is worth a move.
    let fixed = [
        "run",
        "--seed",
        "7",
        "--max-tokens",
        "900",
        "--explain",
        "--raw",
        "Once upon a time",
    ];
    let endless = ["--logit-bias", "0=-100", "--logit-bias", "2=-100"];
    let fixed = [&fixed[..], &endless].concat();
    let calm = desk.output(&[&fixed[..], &["--mode", "local"]].concat());
    let calm = String::from_utf8(calm.stdout).unwrap();
    // On a machine that is busy elsewhere the node may come too late; not three times.
    let mut said = String::new();
    for _ in 0..3 {
        let (home, address) = node.stopped();
        let mut child = desk
            .command(&[&fixed[..], &["--isa", "scalar"]].concat())
            .spawn()
            .unwrap();
        let mut out = child.stdout.take().unwrap();
        let mut text = vec![0; 10];
        out.read_exact(&mut text).unwrap();
        node = NodeProcess::start_with(home, "node-a", &address);
        out.read_to_end(&mut text).unwrap();
        let output = child.wait_with_output().unwrap();
        said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        assert_eq!(String::from_utf8(text).unwrap(), calm, "{said}");
        if said.contains("moved") && said.contains("to node-a") {
            break;
        }
    }
    assert!(said.contains("moved") && said.contains("to node-a"), "{said}");

    let mut watch = desk.command(&["peers", "--watch", "--json"]).spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap());
    let here = watch_until(&mut lines, |seen| {
        let worked = seen[0]["load"]["tokens"].as_u64() > Some(0);
        seen[0]["state"] == "here" && worked && seen[0]["way"]["up"].as_f64() > Some(1e3)
    });
    assert!(here[0]["rtt_ms"].is_number(), "{here}");
    node.leave();
    watch_until(&mut lines, |seen| seen[0]["state"] == "away");
    watch.kill().unwrap();
    watch.wait().unwrap();
}

#[test]
fn a_node_that_leaves_with_a_goodbye_changes_no_word() {
    let mut node = NodeProcess::start("node-a");
    let desk = Home::with(&[&node]);
    let run = ["run", "--seed", "7", "--max-tokens", "300", "Tell me a story."];
    let calm = desk.output(&[&run[..], &["--mode", "local"]].concat());
    let mut child = desk
        .command(&[&run[..], &["--mode", "remote"]].concat())
        .spawn()
        .unwrap();
    let mut out = child.stdout.take().unwrap();
    let mut text = vec![0; 10];
    out.read_exact(&mut text).unwrap();
    node.leave();
    out.read_to_end(&mut text).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    assert_eq!(text, calm.stdout, "{said}");
}

#[test]
fn a_second_node_of_one_folder_is_refused_and_its_desk_is_not() {
    let node = NodeProcess::start("node-a");
    let (code, said) = node.home.fails(&["node", "--listen", "127.0.0.1:0"]);
    assert!(code == 2 && said.contains("another node runs"), "{code} {said}");
    // Who lends may ask as well, and then does not stand for the machine among the members.
    let other = NodeProcess::start("node-b");
    let met = node.home.output(&["join", &other.ticket]);
    assert!(met.status.success(), "{met:?}");
    let answer = node.home.answer("remote", &[]);
    assert_eq!(answer["text"], node.home.answer("local", &[])["text"]);
    let desk = Home::with(&[&node]);
    let peers = desk.json(&["peers", "--json"]);
    assert_eq!(peers[0]["state"], "here", "{peers}");
}

/// Paragraphs about different things, long enough for many pieces.
fn chronicle(paragraphs: usize) -> String {
    let things = [
        "harbour",
        "lantern",
        "meadow",
        "copper kettle",
        "winter coat",
        "bridge",
        "barley field",
    ];
    let names = ["Mila", "Tom", "Anna", "Ben", "Lily"];
    let paragraph = |n: usize| {
        let (thing, name) = (things[n % things.len()], names[n % names.len()]);
        format!(
            "On day {n} {name} went to the {thing} and found {} shells there. The {thing} was old, and {name} was glad. \
             In the evening they all sat by the fire and told each other what they had seen.\n\n",
            n * 7 % 90 + 10
        )
    };
    (0..paragraphs).map(paragraph).collect()
}

#[test]
fn of_documents_only_the_excerpts_leave_and_the_receipt_says_what_they_show() {
    let node = NodeProcess::start("node-a");
    // So slow that no layer is better kept here: layers here would send activations, which are no excerpts.
    let desk = Home::with(&[&node]).timed_slower(100.0);
    let path = desk.0.path().join("chronicle.txt");
    let text = chronicle(66);
    std::fs::write(&path, &text).unwrap();
    let path = path.to_str().unwrap();
    let question = "How many shells did Mila find on day 35?";
    let excerpts = desk.json(&["excerpts", "--json", "--document", path, question]);
    let upload = excerpts["text"].as_str().unwrap();
    assert!(upload.contains("On day 35 Mila"), "{upload}");
    assert!(
        upload.len() * 6 <= text.len() + question.len(),
        "{} bytes",
        upload.len()
    );
    let fixed = ["run", "--json", "--seed", "7", "--max-tokens", "40"];
    let asked = ["--mode", "preprocess", "--document", path, question];
    let there = desk.json(&[&fixed[..], &asked].concat());
    // The same excerpts asked here: not a word differs.
    let here = desk.json(&[&fixed[..], &["--mode", "local", upload]].concat());
    assert_eq!(there["text"], here["text"]);
    assert_eq!(there["prompt_tokens"], here["prompt_tokens"]);
    let receipt = &there["receipt"];
    assert_eq!(
        (&receipt["mode"], &receipt["exactness"]),
        (&"preprocess".into(), &"exact".into())
    );
    let computed = receipt["places"].as_array().unwrap();
    assert!(
        computed
            .iter()
            .all(|p| p["name"] == "node-a" && p["saw"] == "text"),
        "{receipt}"
    );
    // What left is the excerpts' tokens with what carries them: far less than the document.
    let up: u64 = receipt["traffic"]
        .as_array()
        .unwrap()
        .iter()
        .map(|t| t["up"].as_u64().unwrap())
        .sum();
    let tokens = there["prompt_tokens"].as_u64().unwrap();
    assert!(up >= tokens, "every token takes a byte at least: {up}");
    assert!(
        up <= upload.len() as u64 * 2 + 4096,
        "{up} bytes for {} of text",
        upload.len()
    );
    let shown = &there["exposure"];
    assert_eq!(shown["bytes_sent"], upload.len());
    assert_eq!(shown["documents"][0], "chronicle.txt");
    assert!(shown["named"].to_string().contains("Mila"), "{shown}");
    // Each citation is a span of the document, to the byte.
    for citation in there["citations"].as_array().unwrap() {
        let at = |end: &str| citation["bytes"][end].as_u64().unwrap() as usize;
        assert!(upload.contains(&text[at("start")..at("end")]), "{citation}");
    }
}

#[test]
fn a_chat_over_a_node_is_planned_for_anew_as_it_grows() {
    let node = NodeProcess::start("node-a");
    let desk = Home::with(&[&node]);
    let long = "The fox ran to the old bridge and back to the wood again. ".repeat(45);
    let said = format!("Tell me a story.\n/stats\n{long}\n/stats\n/quit\n");
    let mut chat = desk.command(&["chat", "--mode", "remote", "--max-tokens", "4"]);
    let mut child = chat.stdin(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), said.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let out = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    // What the plan in force expected until the first token, in milliseconds.
    let planned = |line: &str| {
        let (number, unit) = line
            .split_once("(planned ")?
            .1
            .split_once(')')?
            .0
            .split_once(' ')?;
        let number: f64 = number.parse().ok()?;
        Some(if unit == "s" { number * 1e3 } else { number })
    };
    let planned: Vec<f64> = out.lines().filter_map(planned).collect();
    assert!(
        planned.len() == 2 && planned[1] > planned[0],
        "{planned:?}: {out}"
    );
}

/// Machines that were away were waited for first.
#[test]
fn what_no_template_can_put_to_a_model_waits_for_nobody() {
    let node = NodeProcess::start("node-a");
    let desk = Home::with(&[&node]);
    drop(node);
    let wordless = desk.0.path().join("wordless.gguf");
    let mut model = std::fs::read(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../models/heph-story.gguf"
    ))
    .unwrap();
    let key = b"tokenizer.chat_template";
    let at = model.windows(key.len()).position(|bytes| bytes == key).unwrap();
    model[at] = b'T';
    std::fs::write(&wordless, model).unwrap();
    let run = |model: &str| {
        let began = Instant::now();
        let (code, said) = desk.fails(&["run", "--mode", "remote", "--model", model, "hello"]);
        (code, said, began.elapsed())
    };
    let (code, said, waited) = run("heph-story");
    assert!(
        code == 1 && said.contains("node-a is known and away"),
        "{code} {said}"
    );
    let (code, said, took) = run(wordless.to_str().unwrap());
    assert!(code == 3 && said.contains("template"), "{code} {said}");
    assert!(took < waited / 2, "{took:?} and {waited:?}");
}

/// It stayed away from it for good.
#[test]
fn a_chat_goes_back_to_a_machine_that_is_there_again() {
    for mode in ["remote", "auto"] {
        let node = NodeProcess::start("node-a");
        // So slow that nothing is better answered here.
        let desk = Home::with(&[&node]).timed_slower(10_000.0);
        let mut chat = desk.command(&["chat", "--mode", mode, "--max-tokens", "4"]);
        let mut child = chat.stdin(Stdio::piped()).spawn().unwrap();
        let mut asks = child.stdin.take().unwrap();
        let mut told = BufReader::new(child.stderr.take().unwrap());
        let mut ask = || std::io::Write::write_all(&mut asks, b"Tell me a story.\n").unwrap();
        let mut hears = |what: &str| {
            let mut said = String::new();
            while !said.contains(what) {
                assert!(told.read_line(&mut said).unwrap() > 0, "{mode}: {what}: {said}");
            }
        };
        ask();
        hears("the answer was cut");
        let (home, address) = node.stopped();
        ask();
        hears("the answer was cut");
        let _node = NodeProcess::start_with(home, "node-a", &address);
        ask();
        drop(asks);
        hears("a machine is back, and the conversation is answered another way, remote");
        assert!(child.wait().unwrap().success());
    }
}

/// It ended with the words of the worker that was lost last.
#[test]
fn a_text_whose_last_reader_is_lost_is_told_with_what_helps() {
    let mut node = NodeProcess::start("node-a");
    let desk = Home::with(&[&node]);
    let path = desk.0.path().join("chronicle.txt");
    std::fs::write(&path, chronicle(24)).unwrap();
    let path = path.to_str().unwrap();
    let fixed = ["read", "--explain", "--max-tokens", "12", "--piece", "160"];
    let run = [
        &fixed[..],
        &["--document", path, "What did Mila find?", "--mode", "remote"],
    ]
    .concat();
    let mut child = desk.command(&run).spawn().unwrap();
    let mut said = String::new();
    let mut error = BufReader::new(child.stderr.take().unwrap());
    while !said.contains("2 parts are done") {
        assert!(error.read_line(&mut said).unwrap() > 0, "{said}");
    }
    node.kill();
    error.read_to_string(&mut said).unwrap();
    let code = child.wait().unwrap().code();
    assert_eq!(code, Some(5), "{said}");
    assert!(
        said.contains("no machine is left that reads") && said.contains("node-a was lost"),
        "{said}"
    );
    assert!(said.contains("hint: --mode auto"), "{said}");
}

#[test]
fn a_reader_killed_in_the_middle_costs_no_part_and_no_word() {
    let (mut a, b) = (NodeProcess::start("node-a"), NodeProcess::start("node-b"));
    let desk = Home::with(&[&a, &b]);
    let path = desk.0.path().join("chronicle.txt");
    std::fs::write(&path, chronicle(24)).unwrap();
    let path = path.to_str().unwrap();
    let task = "What did Mila find? Where is the old bridge?";
    let fixed = [
        "read",
        "--json",
        "--explain",
        "--seed",
        "7",
        "--max-tokens",
        "12",
        "--piece",
        "160",
    ];
    let run = |mode| [&fixed[..], &["--document", path, task, "--mode", mode]].concat();
    let calm = desk.json(&run("local"));
    assert_eq!(calm["answers"].as_array().unwrap().len(), 2);
    let mut child = desk.command(&run("auto")).spawn().unwrap();
    let mut said = String::new();
    let mut error = BufReader::new(child.stderr.take().unwrap());
    while !said.contains("2 parts are done") {
        assert!(error.read_line(&mut said).unwrap() > 0, "{said}");
    }
    a.kill();
    error.read_to_string(&mut said).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{said}");
    let storm: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(storm["text"], calm["text"], "{said}");
    assert_eq!(storm["tally"]["counted"], storm["parts"]);
    assert_eq!(storm["parts"], calm["parts"]);
    assert_eq!(storm["tally"]["lost"], 1, "{storm}");
    let readers = storm["readers"].as_array().unwrap();
    let names: Vec<_> = readers.iter().map(|r| r["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["here", "node-a", "node-b"]);
    let parts: u64 = readers.iter().map(|r| r["parts"].as_u64().unwrap()).sum();
    assert_eq!(parts, storm["parts"].as_u64().unwrap(), "each part counts once");
    assert!(
        readers[2]["parts"].as_u64() > Some(0) && readers[2]["up"].as_u64() > Some(0),
        "{storm}"
    );
}

#[test]
fn a_stranger_is_refused_and_a_stranger_sees_nothing() {
    let node = NodeProcess::start("node-a");
    let desk = Home::with(&[&node]);
    // The desk calls it a stranger's machine: the policy keeps everything here.
    assert!(
        desk.output(&["peers", "role", "node-a", "miner"])
            .status
            .success()
    );
    let (code, said) = desk.fails(&["run", "--mode", "remote", "hello"]);
    let why = "no plan is possible for the mode remote, since node-a may not see this: there is no ";
    assert!(code == 1 && said.contains(why), "{code} {said}");
    let auto = desk.answer("auto", &[]);
    assert!(
        auto["receipt"]["traffic"].as_array().unwrap().is_empty(),
        "{auto}"
    );
    let allowed = desk.answer("remote", &["--allow", "miner=text"]);
    assert_eq!(allowed["text"], auto["text"]);
    // The node calls the desk a stranger: it is not served any more.
    let known = node.home.json(&["peers", "--offline", "--json"]);
    let id = known[0]["node"].as_str().unwrap();
    assert!(node.home.output(&["peers", "forget", id]).status.success());
    let (code, said) = desk.fails(&["run", "--mode", "remote", "--allow", "miner=text", "hello"]);
    assert!(code != 0 && !said.contains("panicked"), "{code} {said}");
    let peers = desk.json(&["peers", "--json"]);
    assert_eq!(peers[0]["state"], "away", "{peers}");
}

#[test]
fn a_ticket_works_once_and_a_wrong_one_is_told_why() {
    let node = NodeProcess::start("node-a");
    let desk = Home::with(&[&node]);
    let other = Home::new();
    let (code, said) = other.fails(&["join", &node.ticket]);
    assert!(
        code == 5 && said.contains("used by another device"),
        "{code} {said}"
    );
    let (code, said) = other.fails(&["join", "heph-nonsense"]);
    assert!(code == 2 && said.contains("mistyped"), "{code} {said}");
    let mut old: Ticket = node.ticket.parse().unwrap();
    old.expires = 1;
    let (code, said) = other.fails(&["join", &old.to_string()]);
    assert!(code == 2 && said.contains("expired"), "{code} {said}");
    let (code, said) = desk.fails(&["peers", "name", "node-a", " \u{7} "]);
    assert!(
        code == 2 && said.contains("a name that can be seen"),
        "{code} {said}"
    );
    assert!(desk.output(&["peers", "forget", "node-a"]).status.success());
    let (code, said) = desk.fails(&["peers", "forget", "node-a"]);
    assert!(code == 2 && said.contains("no peer is called"), "{code} {said}");
}

#[test]
fn a_machine_that_was_set_up_anew_is_told_of_with_the_one_that_it_was() {
    let node = NodeProcess::start("node-a");
    let desk = Home::with(&[&node]);
    let old: Ticket = node.ticket.parse().unwrap();
    drop(node);
    let node = NodeProcess::start("node-a");
    let told = desk.output(&["join", &node.ticket]);
    let told = String::from_utf8(told.stdout).unwrap();
    let forget = format!("heph peers forget {}", old.node.short());
    assert!(told.contains(&forget), "{told}");
    assert!(
        desk.output(&["peers", "forget", &old.node.short()])
            .status
            .success()
    );
}

#[test]
fn a_machine_that_never_answers_is_given_up_in_ten_seconds() {
    let node = NodeProcess::start("node-a");
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut ticket: Ticket = node.ticket.parse().unwrap();
    ticket.address = NodeAddress::at(silent.local_addr().unwrap());
    let began = Instant::now();
    let (code, said) = Home::new().fails(&["join", &ticket.to_string()]);
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert!(code == 5 && said.contains("did not answer"), "{code} {said}");
    assert_eq!(said.lines().count(), 2, "one plain sentence and a hint: {said}");
}

#[test]
fn a_node_ends_with_whoever_started_it() {
    let mut node = NodeProcess::start("node-a");
    drop(node.child.stdin.take());
    let until = Instant::now() + Duration::from_secs(10);
    while node.child.try_wait().unwrap().is_none() {
        assert!(Instant::now() < until, "it goes on without anybody");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(Path::new(node.home.0.path()).join("identity").is_file());
}

#[test]
fn a_machine_that_fell_silent_costs_an_answer_here_next_to_nothing() {
    let mut node = NodeProcess::start("mute");
    let desk = Home::with(&[&node]);
    let plain = desk.answer("local", &[]);
    assert_eq!(desk.answer("auto", &[])["text"], plain["text"]);
    node.kill();
    // Somebody who is at that address and says nothing, as a machine that sleeps.
    let silent = UdpSocket::bind(&node.address);
    let first = desk.answer("auto", &[]);
    let began = Instant::now();
    let second = desk.answer("auto", &["--explain"]);
    let took = began.elapsed();
    assert_eq!(
        (&first["text"], &second["text"]),
        (&plain["text"], &plain["text"])
    );
    assert!(took < Duration::from_secs(2), "{took:?}");
    let peers = desk.json(&["peers", "--json"]);
    assert!(peers[0]["silent_since_unix_s"].as_u64() > Some(0), "{peers}");
    assert_eq!(peers[0]["state"], "away");
    let why = peers[0]["why_away"].as_str().unwrap();
    assert!(why.contains("has said nothing for"), "{why}");
    let began = Instant::now();
    let (code, said) = desk.fails(&["run", "--mode", "remote", "Tell me a story."]);
    assert!(
        code == 1 && said.contains("mute is known and away"),
        "{code} {said}"
    );
    assert!(
        began.elapsed() > Duration::from_secs(2),
        "it was asked for by name"
    );
    drop(silent);
    // Back again it is asked as before.
    let (home, address) = (
        std::mem::replace(&mut node.home, Home::new()),
        node.address.clone(),
    );
    let _back = NodeProcess::start_with(home, "mute", &address);
    assert_eq!(desk.json(&["peers", "--json"])[0]["state"], "here");
    assert_eq!(desk.answer("remote", &[])["text"], plain["text"]);
}

/// Standard error of a process, a line at a time.
fn complaints(child: &mut Child) -> std::sync::mpsc::Receiver<String> {
    let (tell, told) = std::sync::mpsc::channel();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| tell.send(line)));
    told
}

#[test]
fn a_node_says_that_its_relay_is_away_and_that_it_is_back() {
    let relay_home = Home::new();
    let relay = |listen: &str| {
        let mut child = relay_home
            .command(&["relay", "--host", "127.0.0.1", "--listen", listen])
            .spawn()
            .unwrap();
        let mut address = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut address)
            .unwrap();
        (child, address.trim().to_owned())
    };
    let (mut first, address) = relay("127.0.0.1:0");
    let end = |child: &mut Child| {
        child.kill().unwrap();
        child.wait().unwrap();
    };
    end(&mut first);
    let mut node = NodeProcess::start_more(Home::new(), "tower", "127.0.0.1:0", &["--relay", &address]);
    let told = complaints(&mut node.child);
    let next = || -> Value {
        let line = told.recv_timeout(Duration::from_secs(60)).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"))
    };
    let said = next();
    let notice = said["notice"].as_str().unwrap();
    assert!(
        notice.contains(&address) && notice.contains("cannot be reached"),
        "{said}"
    );
    assert!(
        said["hint"].as_str().unwrap().contains("heph relay") && said["reached"] == false,
        "{said}"
    );
    // It goes on meanwhile.
    let desk = Home::with(&[&node]);
    assert!(desk.answer("remote", &[])["text"].is_string());
    let port = address
        .split(['#'])
        .next()
        .unwrap()
        .rsplit(':')
        .next()
        .unwrap()
        .to_owned();
    let (mut second, again) = relay(&format!("127.0.0.1:{port}"));
    assert_eq!(again, address);
    let said = next();
    assert!(
        said["notice"].as_str().unwrap().contains("is reached again") && said["reached"] == true,
        "{said}"
    );
    end(&mut second);
    assert_eq!(next()["reached"], false);
}

#[test]
fn a_taken_port_is_a_failure_of_the_network_whoever_wants_it() {
    let (tcp, udp) = loop {
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()) {
            break (tcp, udp);
        }
    };
    let address = udp.local_addr().unwrap().to_string();
    let home = Home::new();
    for command in [
        &["serve", "--no-auth", "--listen", &address][..],
        &["node", "--listen", &address],
        &["relay", "--host", "127.0.0.1", "--listen", &address],
    ] {
        let (code, said) = home.fails(command);
        assert!(code == 5 && said.contains(&address), "{command:?}: {code} {said}");
        assert!(
            said.contains("hint: ") && said.contains("--listen"),
            "{command:?}: {said}"
        );
    }
    drop(tcp);
}
