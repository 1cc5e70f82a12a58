//! The program as its user meets it: whole output, exit codes, refusals.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use heph_net::address::NodeAddress;
use heph_net::trust::{Peer, TrustBook};
use heph_types::{NodeId, Role};
use tempfile::TempDir;

#[path = "program/guards.rs"]
mod guards;

/// A user with a home folder of their own and no settings.
struct User {
    home: TempDir,
}

fn user() -> User {
    User {
        home: TempDir::new().unwrap(),
    }
}

impl User {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_heph"));
        command
            .args(arguments)
            .env_clear()
            .env("HEPH_HOME", self.home.path().join("heph"));
        command
            .current_dir(self.home.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn output(&self, arguments: &[&str], input: &[u8]) -> Output {
        let mut child = self.command(arguments).stdin(Stdio::piped()).spawn().unwrap();
        // A program that refuses early reads nothing: that is its right.
        let _ = child.stdin.take().unwrap().write_all(input);
        child.wait_with_output().unwrap()
    }

    /// Exit code, standard output and standard error as one text, the home folder's path left out.
    fn says(&self, arguments: &[&str], input: &str) -> String {
        let output = self.output(arguments, input.as_bytes());
        let (out, err) = (
            String::from_utf8(output.stdout).unwrap(),
            String::from_utf8(output.stderr).unwrap(),
        );
        let code = output.status.code().unwrap_or(-1);
        let home = self.home.path().to_str().unwrap();
        format!("exit {code}\n--- out\n{out}--- err\n{err}").replace(home, "HOME")
    }

    fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.home.path().join(name);
        fs::write(&path, content).unwrap();
        path
    }

    /// A file in HEPH's folder.
    fn at_home(&self, name: &str, content: &str) {
        let home = self.home.path().join("heph");
        fs::create_dir_all(&home).unwrap();
        fs::write(home.join(name), content).unwrap();
    }

    fn json(&self, arguments: &[&str]) -> serde_json::Value {
        let output = self.output(arguments, b"");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{arguments:?}: {error}");
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

fn bundled() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/heph-story.gguf")
}

/// The command line of each refusal, and the whole answer to it.
#[test]
fn a_refusal_is_one_sentence_and_a_hint() {
    let user = user();
    user.file("empty.gguf", b"");
    user.file("notes.txt", b"no model");
    user.file("words.txt", b"1 2 three\n");
    user.file("picture.png", b"\x89PNG\r\n\x1a\n");
    let refusals: &[(&str, &[&str], &str)] = &[
        ("unknown_model", &["models", "show", "heph-stori"], ""),
        (
            "unknown_path",
            &["run", "--model", "no/such/file.gguf", "hello"],
            "",
        ),
        ("not_a_model", &["models", "import", "notes.txt"], ""),
        ("empty_file", &["models", "show", "empty.gguf"], ""),
        (
            "bad_name",
            &["models", "import", "empty.gguf", "--name", "../up"],
            "",
        ),
        ("bundled_stays", &["models", "rm", "heph-story"], ""),
        ("bad_repository", &["models", "pull", "just-a-name"], ""),
        (
            "bad_sum",
            &["models", "pull", "a/b", "c.gguf", "--sha256", "12"],
            "",
        ),
        ("no_threads", &["bench", "--threads", "0"], ""),
        ("unknown_isa", &["bench", "--isa", "mmx"], ""),
        ("unknown_kv", &["bench", "--kv", "f8"], ""),
        (
            "not_ids",
            &[
                "logits",
                "--model",
                "heph-story",
                "--prompts",
                "words.txt",
                "--out",
                "out.bin",
            ],
            "",
        ),
        (
            "no_prompts",
            &[
                "logits",
                "--model",
                "heph-story",
                "--prompts",
                "none.txt",
                "--out",
                "out.bin",
            ],
            "",
        ),
        ("bad_temperature", &["run", "--temperature=-1", "hello"], ""),
        ("empty_question", &["run", "--raw"], ""),
        ("blank_question", &["run", " \n"], ""),
        ("no_room", &["run", "--max-tokens", "0", "hello"], ""),
        ("no_room", &["read", "--max-tokens", "0", "hello"], ""),
        ("no_room", &["chat", "--max-tokens", "0"], "hello\n"),
        ("no_room", &["plan", "--max-tokens", "0", "hello"], ""),
        ("no_room_from_here_on", &["chat"], "/set max-tokens 0\n"),
        (
            "preprocess_of_nothing",
            &["run", "--mode", "preprocess", "hello"],
            "",
        ),
        ("plan_of_excerpts", &["plan", "--mode", "preprocess", "hello"], ""),
        ("no_ticket", &["join", "nonsense"], ""),
        ("no_socket", &["node", "--listen", "nowhere"], ""),
        ("no_host", &["relay", "--host", "a b"], ""),
        (
            "no_text",
            &["excerpts", "--document", "picture.png", "What is on it?"],
            "",
        ),
        (
            "no_document",
            &["run", "--document", "none.txt", "What is in it?"],
            "",
        ),
        ("not_a_question", &["render"], "{}\n"),
        ("unknown_slash", &["chat"], "/hlep\n"),
    ];
    for (name, arguments, input) in refusals {
        insta::assert_snapshot!(*name, user.says(arguments, input));
    }
}

#[test]
fn a_setting_without_meaning_is_named() {
    let user = user();
    let output = user
        .command(&["models", "list"])
        .env("HEPH_THREADS", "many")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    insta::assert_snapshot!("bad_setting", String::from_utf8(output.stderr).unwrap());
}

#[test]
fn help_is_what_it_was() {
    let user = user();
    insta::assert_snapshot!("help", user.says(&["help"], ""));
    for command in [
        "chat",
        "run",
        "read",
        "plan",
        "node",
        "join",
        "peers",
        "relay",
        "bench",
        "certify",
        "tokenize",
        "render",
        "logits",
        "quantize",
        "doctor",
        "demo",
        "embed",
        "excerpts",
        "serve",
        "cache",
        "mcp",
        "pairing",
        "providers",
    ] {
        insta::assert_snapshot!(format!("help_{command}"), user.says(&["help", command], ""));
    }
}

#[test]
fn a_model_comes_and_goes() {
    let user = user();
    let path = bundled();
    let path = path.to_str().unwrap();
    assert!(
        user.says(&["models", "import", path, "--name", "mine"], "")
            .starts_with("exit 0")
    );
    let list = user.json(&["models", "list", "--json"]);
    let names: Vec<_> = list
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["heph-story", "heph-story-draft", "heph-embed", "mine"]);
    assert_eq!(
        list[0]["content"], list[3]["content"],
        "the same file is the same model"
    );
    insta::assert_snapshot!(
        "taken",
        user.says(&["models", "import", path, "--name", "mine"], "")
    );
    insta::assert_snapshot!("removed", user.says(&["models", "rm", "mine"], ""));
    insta::assert_snapshot!("gone", user.says(&["models", "rm", "mine"], ""));
}

#[test]
fn every_shell_completes_every_command() {
    let user = user();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = user.says(&["completions", shell], "");
        assert!(script.contains("HEPH_COMPLETE"), "{shell}: {script}");
        let output = user
            .command(&["--", "heph", ""])
            .env("HEPH_COMPLETE", shell)
            .env("_CLAP_COMPLETE_INDEX", "1")
            .output()
            .unwrap();
        let offered = String::from_utf8(output.stdout).unwrap();
        for command in [
            "demo", "chat", "run", "plan", "node", "join", "peers", "relay", "bench", "models", "quantize",
            "doctor", "certify",
        ] {
            assert!(
                offered.contains(command),
                "{shell} is not told of {command}: {offered}"
            );
        }
    }
}

#[test]
fn each_command_has_a_manual_page() {
    let user = user();
    assert!(user.says(&["man"], "").contains(".TH heph 1"));
    assert!(user.output(&["man", "--out", "pages"], b"").status.success());
    for page in [
        "heph.1",
        "heph-chat.1",
        "heph-models-pull.1",
        "heph-node.1",
        "heph-peers-forget.1",
    ] {
        assert!(user.home.path().join("pages").join(page).is_file(), "{page}");
    }
}

#[test]
fn a_closed_pipe_is_no_error() {
    let user = user();
    let mut child = user.command(&["completions", "bash"]).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(
        (output.status.code(), output.stderr.as_slice()),
        (Some(0), &b""[..])
    );
}

#[test]
fn the_doctor_knows_this_machine() {
    let user = user();
    let report = user.json(&["doctor", "--json", "--quick"]);
    assert_eq!(report["identity"]["kept"], "nowhere");
    let path = user.home.path().join("heph/identity");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let node = "ab".repeat(32);
    for (content, kept, said) in [
        ("whatever", "file", "in the private file "),
        (
            "HEPH identity, version 1, kept in the key store of this system, for the node:\n",
            "store",
            "in this system's key store, as node abababab",
        ),
    ] {
        fs::write(&path, format!("{content}{node}\n")).unwrap();
        let told = user.json(&["doctor", "--json", "--quick"]);
        assert_eq!(told["identity"]["kept"], kept);
        assert!(
            told["identity"]["told"].as_str().unwrap().contains(said),
            "{told}"
        );
    }
    assert!(report["memory_bytes"].as_u64().unwrap() > 0);
    assert!(
        report["instruction_sets"]
            .as_array()
            .unwrap()
            .contains(&"scalar".into())
    );
    assert_eq!(report["fits"].as_array().unwrap().len(), 4);
}

#[test]
fn texts_become_lines_of_ids() {
    let output = user().output(
        &["tokenize", "--model", "heph-story", "--add-special", "0"],
        b"Once upon\0\0a time\0",
    );
    let lines = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<_> = lines.lines().collect();
    assert_eq!((lines.len(), lines[1]), (3, ""));
    assert!(
        lines[0].split(' ').all(|id| id.parse::<u32>().is_ok()),
        "{lines:?}"
    );
}

#[test]
fn templates_are_rendered_line_by_line() {
    let questions = r#"{"id":1,"template":"{{ messages[0].content }}!","messages":[{"role":"user","content":"hi"}]}
{"id":"two","template":"{{ raise_exception('no') }}","messages":[]}
"#;
    insta::assert_snapshot!("rendered", user().says(&["render"], questions));
}

#[test]
fn the_seed_decides_the_answer_and_threads_do_not() {
    let user = user();
    let answer = |more: &[&str]| {
        let fixed = ["run", "--json", "--max-tokens", "24", "Tell me a story."];
        user.json(&[&fixed[..], more].concat())["text"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let first = answer(&["--seed", "7"]);
    assert_eq!(
        first,
        answer(&["--seed", "7", "--threads", "3", "--isa", "scalar", "--chunk", "5"])
    );
    assert_ne!(first, answer(&["--seed", "8"]));
}

#[test]
fn an_answer_has_the_shape_and_the_probabilities_that_were_asked_for() {
    let user = user();
    let shaped = [
        "run",
        "--json",
        "--max-tokens",
        "40",
        "--regex",
        "(cat|dog) [0-9]{2}",
        "Which?",
    ];
    let text = user.json(&shaped)["text"].as_str().unwrap().to_owned();
    let (animal, number) = text.split_once(' ').unwrap();
    assert!(["cat", "dog"].contains(&animal), "{text}");
    assert!(
        number.len() == 2 && number.bytes().all(|b| b.is_ascii_digit()),
        "{text}"
    );
    let told = user.json(&[
        "run",
        "--json",
        "--max-tokens",
        "3",
        "--logprobs",
        "2",
        "Tell me a story.",
    ]);
    let tokens = told["logprobs"].as_array().unwrap();
    assert_eq!(tokens.len(), 3);
    assert!(tokens.iter().all(|token| token["logprob"].as_f64() <= Some(0.0)));
    assert!(
        tokens
            .iter()
            .all(|token| token["top"].as_array().unwrap().len() == 2)
    );
    let inline = format!("{{\"type\": \"object\", \"properties\": {}}}", "x".repeat(2_000));
    for (more, why) in [
        (&["--regex", "("][..], "the answer's shape is not usable"),
        (&["--regex", "a", "--mode", "remote"], "--mode cannot be given"),
        (&["--grammar", "none.gbnf"], "cannot read none.gbnf"),
        (&["--regex", "a[^\\s\\S]"], "no text fits it"),
        (&["--json-schema", &inline], "...: "),
        (&["--json-schema", &inline], "the name of a file"),
    ] {
        let said = user.says(&[&["run"][..], more, &["hello"]].concat(), "");
        assert!(said.contains(why) && said.len() < 500, "{said}");
    }
    // What is too long for the context is no want of memory, in an answer of a shape and in any other.
    let long = "Tell me a story. ".repeat(3_000);
    for more in [&["--regex", "a+"][..], &[]] {
        let output = user.output(&[&["run", "--raw"][..], more, &[&long]].concat(), b"");
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said:.300}");
        assert!(said.contains("the context holds"), "{said:.300}");
    }
}

#[test]
fn no_mode_changes_a_word() {
    let user = user();
    let answer = |mode: &str| {
        let fixed = [
            "run",
            "--json",
            "--max-tokens",
            "40",
            "--seed",
            "7",
            "Tell me a story.",
            "--mode",
            mode,
        ];
        user.json(&fixed)
    };
    let plain = answer("local");
    let guessed = answer("speculative");
    assert_eq!(guessed["text"], plain["text"]);
    assert_eq!(guessed["receipt"]["mode"], "speculative");
}

#[test]
fn a_mode_that_cannot_be_is_refused_in_a_sentence() {
    let said = user().says(&["run", "--mode", "remote", "hello"], "");
    assert!(
        said.starts_with("exit 1") && said.contains("ask for auto"),
        "{said}"
    );
    let said = user().says(&["plan", "--mode", "sideways", "hello"], "");
    assert!(
        said.starts_with("exit 2") && said.contains("is no mode"),
        "{said}"
    );
}

#[test]
fn a_label_that_no_rule_knows_is_told_where_something_may_leave() {
    let user = user();
    let noted = |label| {
        let output = user.output(&["plan", "--label", label, "Hello"], b"");
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let said = noted("secrte");
    assert!(said.contains("no rule knows the label \"secrte\""), "{said}");
    assert_eq!(noted("secret"), "");
}

#[test]
fn two_peers_of_one_name_are_asked_about() {
    let user = user();
    let home = user.home.path().join("heph");
    fs::create_dir(&home).unwrap();
    let mut book = TrustBook::open(&home).unwrap();
    for at in [1, 2] {
        let peer = Peer {
            node: NodeId([at; 32]),
            role: Role::Own,
            name: "twin".to_owned(),
            since: 1,
            address: NodeAddress::default(),
        };
        book.remember(peer).unwrap();
    }
    for change in [
        &["forget", "twin"][..],
        &["role", "twin", "cloud"],
        &["name", "twin", "other"],
    ] {
        let said = user.says(&[&["peers"], change].concat(), "");
        assert!(
            said.starts_with("exit 2")
                && said.contains("2 peers are called \"twin\": 0101010101, 0202020202"),
            "{said}"
        );
    }
    let said = user.says(&["peers", "forget", "0202020202"], "");
    assert!(said.starts_with("exit 0"), "{said}");
    let said = user.says(&["peers", "role", "twin", "cloud"], "");
    assert!(said.contains("twin is cloud now"), "{said}");
}

#[test]
fn a_relays_limit_is_a_size() {
    let said = user().says(&["relay", "--host", "here", "--limit", "fast"], "");
    assert!(
        said.starts_with("exit 2") && said.contains("is no size; write it as 4GB"),
        "{said}"
    );
}

#[test]
fn a_plan_is_made_again_from_its_record_and_a_changed_record_is_none() {
    let user = user();
    let plan = user.json(&["plan", "--json", "--record", "plan.json", "Tell me a story."]);
    assert_eq!(plan["alternatives"].as_array().unwrap().len(), 5);
    assert!(
        plan["alternatives"]
            .as_array()
            .unwrap()
            .iter()
            .all(|a| a["why_not"].as_str().unwrap().ends_with('.'))
    );
    let again = user.json(&["plan", "--json", "--replay", "plan.json"]);
    assert_eq!(again, plan);
    let path = user.home.path().join("plan.json");
    let text = fs::read_to_string(&path).unwrap();
    let said = user.says(&["plan", "--replay", "plan.json"], "");
    assert!(said.contains("lead to the same decision"), "{said}");
    // What people read of it is held against it, too.
    fs::write(
        &path,
        text.replacen("\"mode\": \"local\"", "\"mode\": \"remote\"", 1),
    )
    .unwrap();
    let said = user.says(&["plan", "--replay", "plan.json"], "");
    assert!(
        said.starts_with("exit 1") && said.contains("shows another decision"),
        "{said}"
    );
    let hex = text.find("\"record\"").unwrap() + 200;
    let digit = if &text[hex..=hex] == "0" { "1" } else { "0" };
    fs::write(&path, format!("{}{digit}{}", &text[..hex], &text[hex + 1..])).unwrap();
    let said = user.says(&["plan", "--replay", "plan.json"], "");
    assert!(said.starts_with("exit 1") || said.starts_with("exit 3"), "{said}");
}

#[test]
fn a_chat_from_a_pipe_obeys_and_answers() {
    let user = user();
    let said = "/set max-tokens 8\n/set temperature 0\n\"\"\"\nTell me\na story.\n\"\"\"\n/stats\n/save talk.json\n/quit\n";
    let output = user.output(&["chat"], said.as_bytes());
    assert_eq!(
        output.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let saved: serde_json::Value =
        serde_json::from_slice(&fs::read(user.home.path().join("talk.json")).unwrap()).unwrap();
    assert_eq!(saved[0]["content"], "Tell me\na story.");
    assert_eq!(saved[1]["role"], "assistant");
    assert!(String::from_utf8(output.stdout).unwrap().contains("tok/s"));
}

#[test]
fn what_a_person_says_of_a_chat_is_saved_with_it_also_where_it_is_answered_here() {
    let user = user();
    let said = "/set max-tokens 2\nhi\n/save talk.json\n/quit\n";
    let output = user.output(
        &["chat", "--mode", "local", "--label", "salaries"],
        said.as_bytes(),
    );
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let saved: serde_json::Value =
        serde_json::from_slice(&fs::read(user.home.path().join("talk.json")).unwrap()).unwrap();
    assert_eq!(
        saved[0]["label"],
        serde_json::json!({ "level": "private", "tags": ["user:salaries"] }),
        "{saved}"
    );
}

#[test]
fn a_chat_knows_its_documents_and_cites_them_to_the_byte() {
    let user = user();
    fs::create_dir(user.home.path().join("notes")).unwrap();
    let text = "The harbour was closed. Ada Grey keeps the red key. The bridge is old. ".repeat(3)
        + "Bo Hill has 4,210 shells in the blue box. The meadow was green.";
    user.file("notes/one.txt", text.as_bytes());
    let said = "/set max-tokens 4\nHow many shells has Bo Hill?\n/documents\n/documents none\n/documents\n\
                /documents nowhere\n/quit\n";
    let output = user.output(&["chat", "--document", "notes"], said.as_bytes());
    let (out, error) = (
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    );
    let cited = error
        .lines()
        .find(|line| line.starts_with("[1] one.txt, bytes "))
        .expect(&error);
    let span = cited.split([' ', ':']).nth(3).unwrap();
    let (start, end) = span.split_once("..").unwrap();
    let excerpt = &text[start.parse().unwrap()..end.parse().unwrap()];
    assert!(excerpt.contains("4,210 shells"), "{cited}: {excerpt}");
    assert!(
        out.contains("one.txt") && out.contains("there are no documents"),
        "{out}"
    );
    assert!(
        error.contains("nowhere") && output.status.code() == Some(3),
        "{error}"
    );
}

#[test]
fn a_chat_that_outgrows_its_context_goes_on_with_what_a_message_needs() {
    let user = user();
    let long = "The fox ran to the old bridge and back to the wood again. ".repeat(9);
    let said = format!(
        "/set max-tokens 4\nThe blue door has the code 7731.\n{long}\n{long}\nWhat code has the blue door?\n/stats\n"
    );
    let output = user.output(&["chat", "--context", "300"], said.as_bytes());
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{error}");
    assert!(error.contains("longer than the context"), "{error}");
    assert!(
        error.contains("turn 1, user, bytes 0..32: The blue door has the code 7731."),
        "{error}"
    );
}

#[test]
fn several_questions_are_answered_beside_each_other() {
    let user = user();
    let task = "Tell me a story. Who is Ada? Where is Bath?";
    let fixed = ["read", "--json", "--seed", "3", "--max-tokens", "12"];
    let both = user.json(&[&fixed[..], &[task]].concat());
    let alone = |task: &str| user.json(&[&fixed[..], &["--whole", task]].concat());
    assert_eq!(both["tally"]["counted"], 2);
    for (at, question) in [
        "Tell me a story.\nWho is Ada?",
        "Tell me a story.\nWhere is Bath?",
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(both["answers"][at]["question"], question);
        assert_eq!(both["answers"][at]["text"], alone(question)["text"]);
    }
    let refused = user.says(&["read", "--mode", "layered", task], "");
    assert!(
        refused.starts_with("exit 2") && refused.contains("whole machines"),
        "{refused}"
    );
    let small = user.says(&["read", "--context", "64", task], "");
    assert!(
        small.starts_with("exit 2") && small.contains("too small"),
        "{small}"
    );
}

#[test]
fn the_demo_says_the_same_in_every_mode_and_leaves_nothing_behind() {
    let user = user();
    let temporary = user.home.path().join("tmp");
    fs::create_dir(&temporary).unwrap();
    let began = std::time::Instant::now();
    let output = user
        .command(&["demo"])
        .env("TMPDIR", &temporary)
        .output()
        .unwrap();
    let took = began.elapsed();
    assert!(
        took < std::time::Duration::from_secs(60),
        "it takes a minute at most: {took:?}"
    );
    let text = String::from_utf8(output.stdout).unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{text}{error}");
    assert!(text.contains("> Tell me a story about a little fox."), "{text}");
    assert!(text.contains(" same") && !text.contains("differs"), "{text}");
    for (mode, by) in [
        ("local", ["the whole model", "here"]),
        ("remote", ["the whole model", "node-"]),
        ("layered", ["node-a", "node-b"]),
        ("speculative", ["the whole model", "node-"]),
        ("layered-speculative", ["node-a", "node-b"]),
        ("preprocess", ["exact", "node-"]),
    ] {
        let row = text
            .lines()
            .find(|line| line.trim_start().starts_with(&format!("{mode} ")))
            .expect(mode);
        assert!(row.contains("exact") && row.contains(" yes "), "{row}");
        assert!(by.iter().all(|words| row.contains(words)), "{row}");
    }
    assert!(
        text.contains(" B down a round of ") && text.contains("excerpts were sent"),
        "{text}"
    );
    let killed = text
        .lines()
        .find(|line| line.contains(" killed "))
        .expect("a node is killed");
    assert!(killed.contains(" yes "), "{killed}");
    assert!(text.contains(" was lost; "), "it goes on elsewhere: {text}");
    assert_eq!(fs::read_dir(&temporary).unwrap().count(), 0, "a folder is left");
    for process in text.split("(process ").skip(1) {
        let id = process.split(')').next().unwrap();
        assert!(!Path::new("/proc").join(id).exists(), "process {id} is left");
    }
}

#[cfg(unix)]
#[test]
fn a_demo_that_is_stopped_leaves_nothing_behind() {
    let user = user();
    let temporary = user.home.path().join("tmp");
    fs::create_dir(&temporary).unwrap();
    let mut child = user
        .command(&["demo"])
        .env("TMPDIR", &temporary)
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while fs::read_dir(&temporary).unwrap().next().is_none() {
        assert!(std::time::Instant::now() < until, "it starts no nodes");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let id = child.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-INT", &id])
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(fs::read_dir(&temporary).unwrap().count(), 0, "a folder is left");
}

#[test]
fn the_bundled_model_is_certified() {
    let report = user().json(&["certify", "heph-story-draft", "--json", "--tokens", "40"]);
    assert_eq!(report["pass"], true);
    assert_eq!(report["certificates"].as_array().unwrap().len(), 3);
}

#[test]
fn logits_are_written_in_their_layout() {
    let user = user();
    user.file("ids.txt", b"1 2 3\n4 5\n");
    let arguments = [
        "logits",
        "--model",
        "heph-story-draft",
        "--prompts",
        "ids.txt",
        "--greedy",
        "2",
        "--out",
        "o.bin",
    ];
    let said = user.says(&arguments, "");
    let hash = said.lines().find_map(|l| l.strip_prefix("blake3 ")).expect(&said);
    assert_eq!(hash.len(), 64);
    let bytes = fs::read(user.home.path().join("o.bin")).unwrap();
    let word = |at: usize| i32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let vocab = word(4) as usize;
    assert_eq!(word(0), 3);
    assert_eq!(
        word(8 + 3 * vocab * 4),
        2,
        "two greedy ids follow the logits of the first prompt"
    );
    assert_eq!(bytes.len(), (8 + 3 * vocab * 4 + 12) + (8 + 2 * vocab * 4 + 12));
}

#[test]
fn a_bench_has_one_value_for_each_repetition() {
    let fixed = [
        "bench",
        "--model",
        "heph-story-draft",
        "--json",
        "--prompt",
        "16",
        "--gen",
        "4",
    ];
    let report = user().json(
        &[
            &fixed[..],
            &["--depth", "8", "--repetitions", "2", "--verify", "1,4"],
        ]
        .concat(),
    );
    for field in ["/prefill_tok_s", "/decode_tok_s", "/verify_s/1", "/verify_s/4"] {
        let values = report.pointer(field).unwrap().as_array().unwrap();
        assert!(
            values.len() == 2 && values.iter().all(|v| v.as_f64().unwrap() > 0.0),
            "{field}: {values:?}"
        );
    }
    assert!(report["load_s"].as_f64().unwrap() > 0.0);
}

#[test]
fn excerpts_are_the_bytes_that_they_cite() {
    let user = user();
    let idle = "The harbour was quiet and the lanterns were lit before the evening. ".repeat(60);
    let text = format!("{idle}\n\nMarit Vanstone paid 4,210 crowns on 3 May 1842.\n\n{idle}");
    user.file("pay.txt", text.as_bytes());
    let asked = [
        "excerpts",
        "--json",
        "--document",
        "pay.txt",
        "What did Marit Vanstone pay?",
    ];
    let report = user.json(&asked);
    let sent = report["text"].as_str().unwrap();
    assert!(sent.contains("4,210 crowns"));
    for citation in report["citations"].as_array().unwrap() {
        let at = |end: &str| citation["bytes"][end].as_u64().unwrap() as usize;
        assert!(sent.contains(&text[at("start")..at("end")]));
    }
    assert_eq!(report["locks"][0]["text"], "Marit Vanstone");
    assert_eq!(report["exposure"]["bytes_sent"].as_u64(), Some(sent.len() as u64));
}

#[test]
fn the_bundled_encoder_reads_without_being_named() {
    let user = user();
    let output = user.output(
        &["embed", "--json", "a quiet harbour", "a silent port", "tax law"],
        b"",
    );
    let lines = String::from_utf8(output.stdout).unwrap();
    let vectors: Vec<Vec<f64>> = lines
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .map(|line| {
            line["embedding"]
                .as_array()
                .unwrap()
                .iter()
                .map(|x| x.as_f64().unwrap())
                .collect()
        })
        .collect();
    let like = |a: usize, b: usize| {
        vectors[a]
            .iter()
            .zip(&vectors[b])
            .map(|(x, y)| x * y)
            .sum::<f64>()
    };
    assert!(like(0, 1) > like(0, 2) + 0.1, "{} {}", like(0, 1), like(0, 2));
}

#[test]
fn a_long_document_is_asked_about_by_its_excerpts() {
    let user = user();
    let idle = "Once upon a time, there was a fox who liked to run. ".repeat(400);
    user.file("story.txt", format!("{idle}The fox was named Zoe.").as_bytes());
    let asked = [
        "run",
        "--json",
        "--max-tokens",
        "5",
        "--document",
        "story.txt",
        "Who was Zoe?",
    ];
    let report = user.json(&asked);
    assert_eq!(report["exposure"]["named"][0], "Zoe");
    // Asked for here, and whole: it does not fit, and is not cut in silence. More memory would not help.
    let whole = [
        "run",
        "--mode",
        "local",
        "--document",
        "story.txt",
        "Who was Zoe?",
    ];
    assert_eq!(user.output(&whole, b"").status.code(), Some(2));
}

#[test]
fn personal_data_is_told_in_code_points_a_line_each() {
    let user = user();
    let lines = "{\"id\":\"é\",\"text\":\"Café: ann@example.org\"}\n\n{\"id\":2,\"text\":\"nothing\"}\n";
    let output = user.output(&["pii", "--jsonl", "--patterns"], lines.as_bytes());
    let said: Vec<serde_json::Value> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(said.len(), 2);
    let span = &said[0]["spans"][0];
    assert_eq!((&said[0]["id"], &said[1]["id"]), (&"é".into(), &2.into()));
    assert_eq!(
        (&span["start"], &span["end"], &span["type"]),
        (&6.into(), &21.into(), &"EMAIL".into())
    );
    assert_eq!(said[1]["spans"], serde_json::json!([]));
    let marked = user.says(&["pii"], "Call Joan Austin on +49 30 6509482.");
    assert!(
        marked.contains("[Joan Austin](PERSON) on [+49 30 6509482](PHONE)."),
        "{marked}"
    );
    assert!(
        user.says(&["pii", "--jsonl"], "{\"id\":1}\n")
            .starts_with("exit 3")
    );
}

#[test]
fn a_policy_is_checked_explained_and_tested() {
    let user = user();
    let policy = "version = 1\npreset = \"own-devices\"\n[[example]]\nname = \"home\"\nto = { kind = \"own\" }\nexpect = \"allow\"\n";
    user.file("policy.toml", policy.as_bytes());
    user.file("broken.toml", b"version = 1\npreset = \"opne\"\n");
    assert!(
        user.says(&["policy", "check", "policy.toml"], "")
            .starts_with("exit 0")
    );
    assert!(
        user.says(&["policy", "test", "policy.toml"], "")
            .contains("1 passed, 0 failed")
    );
    let explain = |more: &[&str]| {
        user.says(
            &[&["policy", "explain", "policy.toml", "--to"], more].concat(),
            "",
        )
    };
    assert!(explain(&["own"]).contains("it may leave, by preset: own machines"));
    assert!(explain(&["provider"]).contains("it stays: no rule allows it"));
    for asked in [
        &["policy", "check", "broken.toml"][..],
        &["policy", "test", "broken.toml"],
        &["policy", "explain", "broken.toml", "--to", "own"],
    ] {
        let broken = user.says(asked, "");
        assert!(broken.starts_with("exit 3"), "{broken}");
        let wanted = "error: broken.toml: the policy cannot be read: unknown variant `opne`, expected one of `local-only`, `own-devices`, \
                      `redact-then-remote`, `open`, in line 2, column 10\n\
                      hint: a policy that cannot be read lets nothing leave; `heph policy schema` helps to write one\n";
        assert!(broken.ends_with(wanted), "{broken}");
        let output = user.output(&[asked, &["--json"]].concat(), b"");
        let told: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
        let error = told["error"].as_str().unwrap();
        assert!(
            error.lines().count() == 1 && error.contains("broken.toml"),
            "{told}"
        );
        assert_eq!((output.stdout.len(), &told["exit"]), (0, &3.into()));
    }
    let wrong = policy.replace("allow", "deny");
    user.file("wrong.toml", wrong.as_bytes());
    assert!(
        user.says(&["policy", "test", "wrong.toml"], "")
            .starts_with("exit 1")
    );
}

/// The policy that the documentation shows does what stands beside it.
#[test]
fn the_policy_of_the_documentation_does_what_it_says() {
    let user = user();
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/privacy.md")).unwrap();
    let shown = page
        .split("```toml\n")
        .nth(1)
        .and_then(|rest| rest.split("```").next());
    user.file("shown.toml", shown.unwrap().as_bytes());
    let checked = user.says(&["policy", "check", "shown.toml"], "");
    assert!(
        checked.starts_with("exit 0") && checked.contains("redact-then-remote, 2 more rules, 4 examples"),
        "{checked}"
    );
    let tested = user.says(&["policy", "test", "shown.toml"], "");
    assert!(
        tested.starts_with("exit 0") && tested.contains("4 passed, 0 failed"),
        "{tested}"
    );
    for (asked, wanted) in [
        ("--to own", "it may leave, by preset: own machines"),
        (
            "--to own --label pii:SECRET",
            "it may leave, by preset: own machines",
        ),
        (
            "--to own --label folder:salaries-2024",
            "it stays, by salaries stay here",
        ),
        ("--to miner --mode remote", "it may leave, by preset: others"),
        (
            "--to miner --label pii:PERSON --mode remote",
            "it may leave once people and keys are replaced",
        ),
        ("--to miner --label pii:PERSON --mode layered", "it stays"),
        (
            "--to miner --label pii:SECRET",
            "it stays, by preset: secrets stay",
        ),
        (
            "--to provider",
            "it stays, by no provider that keeps it longer than a month",
        ),
        (
            "--to provider --retention-days 31",
            "it stays, by no provider that keeps it longer than a month",
        ),
        (
            "--to provider --retention-days 30",
            "it may leave, by preset: others",
        ),
    ] {
        let words = ["policy", "explain", "shown.toml"]
            .into_iter()
            .chain(asked.split(' '));
        let said = user.says(&words.collect::<Vec<_>>(), "");
        assert!(
            said.starts_with("exit 0") && said.contains(wanted),
            "{asked}: {said}"
        );
        let stays = wanted.starts_with("it stays");
        assert_eq!(said.contains("it may leave"), !stays, "{asked}: {said}");
    }
}

#[test]
fn a_policy_is_explained_as_a_request_would_be_treated() {
    let user = user();
    let about = [
        "policy",
        "explain",
        "--preset",
        "redact-then-remote",
        "--to",
        "provider",
    ];
    let explain = |words: &str| {
        let words = about.into_iter().chain(words.split_whitespace());
        user.says(&words.collect::<Vec<_>>(), "")
    };
    // A reason is as private as a find of it, or as a person's word for it.
    for (label, said) in [
        ("folder:notes", "it may leave, by preset: others"),
        ("pii:EMAIL", "it may leave once people and keys are replaced"),
        ("salaries", "it may leave once people and keys are replaced"),
        ("pii:SECRET", "it stays, by preset: secrets stay"),
        ("secret", "it stays, by preset: secrets stay"),
    ] {
        let told = explain(&format!("--label {label} --mode remote"));
        assert!(told.contains(said), "{label}: {told}");
    }
    // Where more than words travels nothing is replaced: without a mode each is told.
    let told = explain("--label pii:EMAIL");
    assert!(
        told.contains("remote, preprocess, parts: it may leave once")
            && told.contains("layered, speculative, layered-speculative: it stays"),
        "{told}"
    );
    let told = user.json(&[&about[..], &["--json", "--label", "pii:EMAIL"]].concat());
    assert_eq!(told["verdict"], "deny", "the strictest of all ways: {told}");
    assert_eq!(
        told["rules"],
        serde_json::json!(["preset: others, without people"]),
        "{told}"
    );
    let first = &told["modes"][0];
    assert_eq!(
        (&first["mode"], &first["verdict"]),
        (&"remote".into(), &"redact".into())
    );
    for (words, wanted) in [
        ("--mode remot", "[possible values: local, remote, layered"),
        ("--label pii:EMIAL", "nothing that is found is called \"EMIAL\""),
        ("--label pii:email", "pii:EMAIL"),
    ] {
        let told = explain(words);
        assert!(told.starts_with("exit 2") && told.contains(wanted), "{told}");
    }
}

/// What a person says of a request counts in the place of what nobody said, and a relay is shown none of it.
#[test]
fn what_is_explained_is_as_private_as_the_request_and_no_more() {
    let user = user();
    let rule = |when: &str| {
        let rule = format!("[[rule]]\nname = \"it is kept\"\nwhen = {{ {when} }}\nthen = \"deny\"\n");
        user.at_home("policy.toml", &format!("version = 1\npreset = \"open\"\n{rule}"));
    };
    let stays = |words: &str| {
        let words = ["policy", "explain", "--to"]
            .into_iter()
            .chain(words.split_whitespace());
        let told = user.says(&words.collect::<Vec<_>>(), "");
        assert!(
            told.contains("it stays") != told.contains("it may leave"),
            "{told}"
        );
        told.contains("it stays")
    };
    rule("level = \"internal\"");
    assert!(!stays("own --label public") && !stays("own --level public"));
    assert!(stays("own") && stays("own --label salaries") && stays("own --level internal --label public"));
    assert!(!stays("relay") && !stays("relay --label pii:EMAIL --level secret"));
    rule("labels = [\"source:*\"]");
    assert!(!stays("own --label salaries") && stays("own") && stays("own --label pii:EMAIL"));
}

#[test]
fn what_counts_here_is_told_with_what_it_means() {
    let user = user();
    let check = || user.says(&["policy", "check"], "");
    let told = check();
    assert!(
        told.starts_with("exit 0") && told.contains("There is no ") && told.contains("policy.toml"),
        "{told}"
    );
    assert!(
        told.contains("Machines of your own may see everything, and others nothing."),
        "{told}"
    );
    user.at_home("policy.toml", "version = 1\npreset = \"local-only\"\n");
    let told = check();
    assert!(
        told.contains("policy.toml counts: preset local-only, 0 more rules")
            && told.contains("By its preset nothing leaves."),
        "{told}"
    );
    user.at_home("cut-off", "");
    let told = check();
    assert!(
        told.contains("cut off") && told.contains("cut-off is removed"),
        "{told}"
    );
    let told = user.json(&["policy", "check", "--json"]);
    assert_eq!(
        (&told["preset"], &told["by"], &told["cut"], &told["examples"]),
        (&"local-only".into(), &"file".into(), &true.into(), &0.into())
    );
    user.at_home("policy.toml", "version = 1\npreset = \"opne\"\n");
    let told = check();
    assert!(
        told.starts_with("exit 3") && told.contains("nothing leaves, since"),
        "{told}"
    );
}

/// Who was allowed by name may be asked where nobody wrote a policy, and explaining that says so.
#[test]
fn a_provider_that_was_allowed_is_explained_as_such() {
    let user = user();
    let added = user.says(
        &[
            "providers",
            "add",
            "mock",
            "--dialect",
            "openai",
            "--model",
            "m-1",
            "--url",
            "http://127.0.0.1:9/v1",
            "--allow",
        ],
        "",
    );
    assert!(added.starts_with("exit 0"), "{added}");
    let explain = |name: &str| user.says(&["policy", "explain", "--to", "provider", "--name", name], "");
    assert!(
        explain("mock").contains("it may leave, by the provider mock is allowed"),
        "{}",
        explain("mock")
    );
    assert!(explain("other").contains("it stays"));
    let told = user.says(&["policy", "check"], "");
    assert!(
        told.contains("Providers that you allowed may be asked: mock."),
        "{told}"
    );
    user.at_home("policy.toml", "version = 1\npreset = \"own-devices\"\n");
    assert!(explain("mock").contains("it stays"));
    assert!(!user.says(&["policy", "check"], "").contains("mock"));
}

#[test]
fn a_folder_is_no_text_to_look_through() {
    let user = user();
    for asked in [&["pii", "."][..], &["pii", "--jsonl", "."]] {
        let said = user.says(asked, "");
        assert!(
            said.starts_with("exit 3") && said.contains(". is a folder, and no text"),
            "{said}"
        );
    }
}

#[test]
fn what_is_no_receipt_is_refused() {
    let user = user();
    user.file("note.txt", b"no receipt\n");
    user.file("bare.txt", b"heph-receipt 1\n{}\n");
    assert!(
        user.says(&["receipt", "verify", "note.txt"], "")
            .starts_with("exit 3")
    );
    assert!(
        user.says(&["receipt", "verify", "bare.txt"], "")
            .starts_with("exit 1")
    );
    assert!(
        user.says(&["receipt", "verify", "nowhere.txt"], "")
            .starts_with("exit 3")
    );
}

/// What the kernel says of each thread of a process: its name, and whether a filter is kept (`Seccomp: 2`).
#[cfg(target_os = "linux")]
fn filters(pid: u32) -> Vec<(String, bool)> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let threads = tasks.filter_map(|task| {
        let path = task.ok()?.path();
        let status = fs::read_to_string(path.join("status")).ok()?;
        let name = fs::read_to_string(path.join("comm")).ok()?;
        let kept = status
            .lines()
            .any(|line| line.split_whitespace().eq(["Seccomp:", "2"]));
        Some((name.trim().to_owned(), kept))
    });
    threads.collect()
}

#[cfg(target_os = "linux")]
#[test]
fn a_chat_that_stays_here_has_no_network() {
    use std::io::Read;

    let user = user();
    for arguments in [
        &["chat", "--max-tokens", "4", "--threads", "3"][..],
        &["chat", "--mode", "local", "--max-tokens", "4"],
    ] {
        let mut child = user.command(arguments).stdin(Stdio::piped()).spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        input.write_all(b"Hello\n").unwrap();
        // Its first word is there, so everything that computes is.
        let mut word = [0; 1];
        child.stdout.as_mut().unwrap().read_exact(&mut word).unwrap();
        let threads = filters(child.id());
        drop(input);
        assert!(child.wait().unwrap().success());
        assert!(
            !threads.is_empty() && threads.iter().all(|(_, kept)| *kept),
            "{threads:?}"
        );
    }
}

#[cfg(target_os = "linux")]
#[test]
fn what_computes_for_the_door_has_no_network() {
    use std::io::Read;

    let user = user();
    let mut child = user
        .command(&["serve", "--listen", "127.0.0.1:0", "--no-auth", "--threads", "3"])
        .spawn()
        .unwrap();
    let mut told = [0; 1];
    child.stdout.as_mut().unwrap().read_exact(&mut told).unwrap();
    // The thread of the batch takes its name when it runs for the first time.
    let is_service = |(name, _): &&(String, bool)| name == "heph-service";
    let threads = (0..600).find_map(|_| {
        let threads = filters(child.id());
        let sealed = threads.iter().filter(is_service).any(|(_, kept)| *kept);
        if !sealed {
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        sealed.then_some(threads)
    });
    child.kill().unwrap();
    child.wait().unwrap();
    let threads = threads.expect("the batch runs sealed");
    // The batch, and the pool beside its caller; the door itself speaks with callers.
    assert!(
        threads.iter().filter(|(_, kept)| *kept).count() >= 3,
        "{threads:?}"
    );
    assert!(threads.iter().any(|(_, kept)| !kept), "{threads:?}");
}

#[test]
fn a_split_is_told_what_it_gives_away() {
    let user = user();
    let report = user.json(&[
        "privacy-report",
        "heph-story-draft",
        "--split",
        "1",
        "--codec",
        "int8,f32",
        "--tokens",
        "8",
        "--json",
    ]);
    let findings = report[0]["findings"].as_array().unwrap();
    assert_eq!(
        (report[0]["split"].as_u64(), report[0]["tokens"].as_u64()),
        (Some(1), Some(8))
    );
    assert_eq!(findings.len(), 3 * 2);
    let matched = findings.iter().filter(|f| f["attack"] == "vocabulary-matching");
    assert!(
        matched.clone().all(|f| f["first"].as_u64() >= Some(7)),
        "{findings:?}"
    );
    let said = user.says(
        &[
            "privacy-report",
            "heph-story-draft",
            "--split",
            "0",
            "--tokens",
            "4",
        ],
        "",
    );
    assert!(
        said.contains("Whoever gets these rows reads 100 % of the tokens, by vocabulary matching"),
        "{said}"
    );
    for (arguments, word) in [
        (["heph-story-draft", "99"], "cannot be split after 99"),
        (["heph-embed", "1"], "only reads"),
    ] {
        let [model, split] = arguments;
        let said = user.says(&["privacy-report", model, "--split", split], "");
        assert!(said.starts_with("exit 2") && said.contains(word), "{said}");
    }
}

#[test]
fn what_cannot_be_meant_is_refused_before_anything_is_done() {
    let user = user();
    for (arguments, word) in [
        (&["read", " "][..], "a question is needed"),
        (&["node", "--ticket-minutes", "0"], "1..=527040"),
        (&["run", "--mode", "turbo", "hello"], "auto leaves the choice"),
    ] {
        let said = user.says(arguments, "");
        assert!(said.starts_with("exit 2") && said.contains(word), "{said}");
    }
}

#[test]
fn where_nothing_left_the_network_log_says_so() {
    let user = user();
    let said = user.says(&["egress"], "");
    assert_eq!(said, "exit 0\n--- out\nnothing left this machine\n--- err\n");
    let home = user.home.path().join("heph");
    fs::create_dir_all(&home).unwrap();
    let line = |to: &str, up: u64| {
        format!(
            r#"{{"at":1700000000,"kind":"peer","to":"{to}","who":"laptop","purpose":"session","counted":"on-the-wire","up":{up},"down":7}}"#
        )
    };
    let log = format!(
        "{}\n{}\nnot a line\n",
        line("192.0.2.7:7842", 1200),
        line("127.0.0.1:9", 5)
    );
    fs::write(home.join("egress.jsonl"), log).unwrap();
    let report = user.json(&["egress", "--json"]);
    assert_eq!(
        (report["left"]["up"].as_u64(), report["damaged"].as_u64()),
        (Some(1200), Some(1))
    );
    assert_eq!(report["ways"].as_array().unwrap().len(), 2);
    let late = user.json(&["egress", "--json", "--hours", "1"]);
    assert_eq!(late["left"]["up"].as_u64(), Some(0), "that was long ago");
    let said = user.says(&["egress"], "");
    assert!(
        said.contains("1.20 kB left this machine and 7 B came to it"),
        "{said}"
    );
}
