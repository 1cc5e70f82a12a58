//! Files of the user, options that cannot be honoured, and what a script reads when something is refused.

use std::path::Path;

use super::*;

fn says(user: &User, arguments: &[&str], wanted: &str, words: &str) {
    let said = user.says(arguments, "");
    assert!(said.starts_with(wanted), "{arguments:?}: {said}");
    assert!(said.contains(words), "{arguments:?} lacks {words:?}: {said}");
}

/// The names in the user's folder but for HEPH's own.
fn names(user: &User) -> Vec<String> {
    let entries = fs::read_dir(user.home.path()).unwrap().flatten();
    let names = entries.map(|e| e.file_name().to_string_lossy().into_owned());
    let mut names: Vec<_> = names.filter(|name| name != "heph").collect();
    names.sort();
    names
}

fn quantize<'a>(out: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["quantize", "heph-story-draft", out, "--type", "q8_0"][..], more].concat()
}

#[test]
fn a_quantised_file_replaces_nothing_unasked_and_no_others_part() {
    let user = user();
    user.file("mine.gguf", b"precious");
    user.file("mine.gguf.part", b"precious too");
    says(
        &user,
        &quantize("mine.gguf", &[]),
        "exit 2",
        "--force replaces it",
    );
    assert_eq!(fs::read(user.home.path().join("mine.gguf")).unwrap(), b"precious");
    let report = user.json(&quantize("mine.gguf", &["--force", "--json"]));
    assert_eq!(
        (&report["path"], &report["type"]),
        (&"mine.gguf".into(), &"q8_0".into())
    );
    assert!(report["bytes"].as_u64().unwrap() > 10_000);
    let part = fs::read(user.home.path().join("mine.gguf.part")).unwrap();
    assert_eq!(part, b"precious too");
    assert_eq!(names(&user), ["mine.gguf", "mine.gguf.part"]);
    says(&user, &quantize("mine.bin", &[]), "exit 2", "end it in .gguf");
    says(
        &user,
        &quantize("a-00001-of-00002.gguf", &[]),
        "exit 2",
        "without the number of a part",
    );
    assert!(
        user.says(&["models", "show", "mine.gguf"], "")
            .starts_with("exit 0")
    );
}

#[cfg(unix)]
#[test]
fn a_link_a_folder_or_a_device_is_no_place_for_a_quantised_file() {
    use std::os::unix::fs::symlink;
    let user = user();
    let at = |name: &str| user.home.path().join(name);
    user.file("kept", b"precious");
    symlink(at("kept"), at("link.gguf")).unwrap();
    symlink(at("nothing"), at("dangling.gguf")).unwrap();
    symlink("/dev/null", at("device.gguf")).unwrap();
    fs::create_dir(at("folder.gguf")).unwrap();
    for out in ["link.gguf", "dangling.gguf", "device.gguf", "folder.gguf"] {
        for more in [&[][..], &["--force"]] {
            says(&user, &quantize(out, more), "exit 2", "stays");
        }
    }
    assert_eq!(fs::read(at("kept")).unwrap(), b"precious");
    assert!(!at("nothing").exists() && at("dangling.gguf").is_symlink() && at("device.gguf").is_symlink());
    assert_eq!(names(&user).len(), 5, "{:?}", names(&user));
}

#[cfg(unix)]
#[test]
fn a_stopped_job_leaves_nothing_whichever_signal_stops_it() {
    for (signal, code) in [("-INT", 130), ("-TERM", 143)] {
        let user = user();
        // Everything in one thread, and without optimising: a second or so, and more than the signal needs.
        let arguments = [
            "quantize",
            "heph-story",
            "out.gguf",
            "--type",
            "q3_k_m",
            "--threads",
            "1",
        ];
        let child = user.command(&arguments).stdin(Stdio::null()).spawn().unwrap();
        let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while names(&user).is_empty() {
            assert!(std::time::Instant::now() < until, "it writes nothing");
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        let id = child.id().to_string();
        assert!(
            Command::new("kill")
                .args([signal, &id])
                .status()
                .unwrap()
                .success()
        );
        let output = child.wait_with_output().unwrap();
        match output.status.code() {
            Some(0) => assert_eq!(names(&user), ["out.gguf"], "it was done before the signal came"),
            other => assert_eq!((other, names(&user)), (Some(code), Vec::new())),
        }
    }
}

#[test]
fn a_conversation_is_saved_over_nothing_unasked_and_loaded_from_files_alone() {
    let user = user();
    user.file("talk.json", b"precious");
    says_chat(&user, "/save talk.json\n", "exit 2", "/save! replaces it");
    assert_eq!(fs::read(user.home.path().join("talk.json")).unwrap(), b"precious");
    says_chat(
        &user,
        "/save! talk.json\n/load talk.json\n",
        "exit 0",
        "0 messages taken",
    );
    assert_eq!(fs::read(user.home.path().join("talk.json")).unwrap(), b"[]\n");
    says_chat(&user, "/save new/talk.json\n", "exit 1", "cannot write");
    if cfg!(unix) {
        says_chat(&user, "/load /dev/zero\n", "exit 3", "no regular file");
        says_chat(&user, "/save! /dev/null\n", "exit 3", "no regular file");
    }
    says_chat(&user, "/set top-p 7\n", "exit 2", "at most 1");
}

fn says_chat(user: &User, input: &str, wanted: &str, words: &str) {
    let said = user.says(&["chat", "heph-story-draft"], input);
    assert!(
        said.starts_with(wanted) && said.contains(words),
        "{input:?}: {said}"
    );
}

#[test]
fn bytes_that_are_no_text_do_not_end_a_chat() {
    let user = user();
    let said = b"/set max-tokens 2\n\xff\xfe\n/save a.json\n";
    let output = user.output(&["chat", "heph-story-draft"], said);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{error}");
    assert!(
        error.contains("no text in UTF-8") && error.contains("0 messages written"),
        "{error}"
    );
}

#[test]
fn an_option_that_cannot_be_honoured_is_named() {
    let user = user();
    let run = |more: &[&'static str]| [&["run", "--max-tokens", "1", "hello"][..], more].concat();
    for (arguments, words) in [
        (run(&["--context", "99999999"]), "--context asks for 99999999"),
        (run(&["--context", "0"]), "a whole number from 1 on is needed"),
        (
            vec!["quantize", "heph-story-draft", "q.gguf", "--threads", "9999"],
            "a number from 1 to 1024 is needed",
        ),
        (
            vec!["certify", "heph-story-draft", "--threads", "0"],
            "a number from 1 to 1024 is needed",
        ),
        (
            vec!["serve", "--threads", "99999999"],
            "a number from 1 to 1024 is needed",
        ),
        (
            vec!["mcp", "--threads", "99999999"],
            "a number from 1 to 1024 is needed",
        ),
        (
            vec!["bench", "--repetitions", "99999999999"],
            "a number from 1 to 1000 is needed",
        ),
        (
            run(&["--keep-first", "99"]),
            "--keep-first 99: the model has 4 layers",
        ),
        (
            run(&["--keep-last", "99", "--mode", "speculative"]),
            "--keep-last 99",
        ),
        (
            run(&["--draft", "nope", "--mode", "local"]),
            "nothing is guessed ahead",
        ),
        (
            run(&["--logit-bias", "99999999=5"]),
            "--logit-bias names token 99999999",
        ),
        (run(&["--temperature", "-1"]), "0 or more"),
        (run(&["--dry", "-1"]), "0 or more"),
        (
            vec!["read", "--draft", "heph-story-draft", "Who?"],
            "nothing is guessed ahead",
        ),
        (
            vec!["bench", "--prompt", "99999999999"],
            "a session of the model holds",
        ),
        (
            vec!["bench", "--gen", "18446744073709551615"],
            "a session of the model holds",
        ),
        (
            vec!["bench", "--depth", "18446744073709551615"],
            "a session of the model holds",
        ),
        (
            vec!["bench", "--verify", "18446744073709551615"],
            "a session of the model holds",
        ),
        (
            vec!["certify", "heph-story-draft", "--tokens", "99999999"],
            "--tokens asks for 99999999",
        ),
        (
            vec!["serve", "--context", "99999999"],
            "--context asks for 99999999",
        ),
    ] {
        says(&user, &arguments, "exit 2", words);
    }
    // A small model that is asked for is looked for, also where nobody else is known.
    says(&user, &run(&["--draft", "nope"]), "exit 3", "\"nope\"");
}

#[test]
fn a_hint_fits_what_was_asked() {
    let user = user();
    says(
        &user,
        &["models", "rm", "heph-story"],
        "exit 2",
        "only models of the store",
    );
    says(
        &user,
        &["models", "import", "/", "--json"],
        "exit 2",
        "suggests no name",
    );
    says(
        &user,
        &["models", "import", "nofile.gguf"],
        "exit 3",
        "no file or folder called",
    );
    says(
        &user,
        &["run", "--model", "heph-embed", "hi"],
        "exit 3",
        "`heph embed`",
    );
    says(
        &user,
        &["run", "--mode", "remote", "hi"],
        "exit 1",
        "no other machine is known here",
    );
    let output = user
        .command(&["models", "list"])
        .env("HF_TOKEN", "hf_secret\nmore")
        .output()
        .unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        error.contains("HF_TOKEN holds") && !error.contains("secret"),
        "{error}"
    );
    assert_eq!(output.status.code(), Some(2));
    // The folder one stands in has a name.
    user.file("config.json", b"{}");
    user.file("model.safetensors", b"\x02\0\0\0\0\0\0\0{}");
    assert!(user.says(&["models", "import", "."], "").starts_with("exit 0"));
}

#[test]
fn what_is_no_model_is_not_taken_into_the_store() {
    let user = user();
    user.file("junk.gguf", &[7; 5000]);
    says(
        &user,
        &["models", "import", "junk.gguf"],
        "exit 3",
        "not a GGUF file",
    );
    says(
        &user,
        &["models", "show", "junk.gguf"],
        "exit 3",
        "--- out\n--- err",
    );
    assert!(!user.says(&["models", "list"], "").contains("junk"));
    // The header of a file whose weights are in a format of llama.cpp that is not read here.
    let name = |name: &str| [&(name.len() as u64).to_le_bytes()[..], name.as_bytes()].concat();
    let head = [
        &b"GGUF"[..],
        &3u32.to_le_bytes(),
        &1u64.to_le_bytes(),
        &0u64.to_le_bytes(),
    ]
    .concat();
    let tensor = [
        name("w"),
        1u32.to_le_bytes().into(),
        256u64.to_le_bytes().into(),
        23u32.to_le_bytes().into(),
    ];
    user.file("iq4.gguf", &[head, tensor.concat(), vec![0; 8]].concat());
    says(&user, &["models", "show", "iq4.gguf"], "exit 3", "IQ4_XS");
    says(
        &user,
        &["models", "show", "iq4.gguf"],
        "exit 3",
        "another quantisation",
    );
}

#[cfg(unix)]
#[test]
fn a_pipe_with_the_name_of_a_model_is_not_waited_for() {
    let user = user();
    fs::create_dir(user.home.path().join("folder")).unwrap();
    user.file("folder/config.json", b"{}");
    for path in ["pipe.gguf", "folder/model.safetensors"] {
        let made = Command::new("mkfifo").arg(user.home.path().join(path)).status();
        assert!(made.unwrap().success());
    }
    says(&user, &["models", "show", "pipe.gguf"], "exit 3", "pipe.gguf");
    says(
        &user,
        &["run", "--model", "folder", "hi"],
        "exit 3",
        "no regular file",
    );
    says(&user, &["models", "import", "pipe.gguf"], "exit 3", "pipe.gguf");
}

#[test]
fn a_script_reads_what_it_asked_for_also_where_something_is_refused() {
    let user = user();
    let refused = |arguments: &[&str]| -> serde_json::Value {
        let output = user.output(arguments, b"");
        assert!(output.stdout.is_empty());
        let said: serde_json::Value = serde_json::from_slice(&output.stderr).expect("one JSON object");
        assert_eq!(
            said["exit"].as_i64().map(|code| code as i32),
            output.status.code()
        );
        said
    };
    let unknown = refused(&["run", "--json", "--model", "no/such.gguf", "hi"]);
    assert!(unknown["error"].as_str().unwrap().contains("no/such.gguf") && unknown["hint"].is_string());
    let slip = refused(&["bench", "--json", "--no-such-option"]);
    assert_eq!(slip["exit"], 2);
    assert!(
        slip["error"].as_str().unwrap().starts_with("unexpected argument"),
        "{slip}"
    );
    let path = bundled();
    let came = user.json(&[
        "models",
        "import",
        path.to_str().unwrap(),
        "--name",
        "mine",
        "--json",
    ]);
    assert_eq!((&came["name"], &came["bundled"]), (&"mine".into(), &false.into()));
    let shown = user.json(&["models", "show", "mine", "--json"]);
    assert_eq!(
        (&shown["name"], &shown["architecture"]),
        (&"mine".into(), &"llama".into())
    );
    assert!(shown["parameters"].as_u64().unwrap() > 1_000_000 && shown["files"].is_array());
    assert_eq!(
        shown["model"], shown["files"][0]["blake3"],
        "what machines call it"
    );
    assert_eq!(
        user.json(&["models", "show", "heph-embed", "--json"])["format"],
        "gguf"
    );
    let gone = user.json(&["models", "rm", "mine", "--json"]);
    assert_eq!(gone["removed"], serde_json::json!(["mine"]));
    let one = user.json(&["run", "--json", "--max-tokens", "1", "hi"]);
    assert!(
        one["prefill_tok_s"].is_number() && one["decode_tok_s"].is_null(),
        "{one}"
    );
    let demo = user.json(&["demo", "--alone", "--json", "--prompt", "hi"]);
    assert!(demo["text"].is_string() && demo["modes"] == serde_json::json!([]));
    assert_eq!(demo["certificate"]["mismatches"], serde_json::json!([]));
}

#[cfg(target_os = "linux")]
#[test]
fn help_that_cannot_be_written_is_an_error() {
    let user = user();
    for word in ["--help", "--version"] {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let status = user.command(&[word]).stdout(full).stderr(Stdio::null()).status();
        assert_eq!(status.unwrap().code(), Some(4), "{word}");
    }
}

#[test]
fn nothing_that_a_file_says_steers_the_terminal() {
    let user = user();
    let line = r#"{"id":1,"template":"{{ raise_exception('no \u001b[31m red') }}","messages":[]}"#;
    let said = user.says(&["render"], line);
    assert!(!said.contains('\x1b'), "{said:?}");
    let said = user.says(&["run", "--model", "a\x1b[31m.gguf", "hi"], "");
    assert!(said.starts_with("exit 3") && !said.contains('\x1b'), "{said:?}");
}

#[test]
fn a_line_that_is_no_question_has_an_error_and_the_next_one_its_turn() {
    let lines = "{\"id\":2}\nnothing\n{\"id\":3,\"template\":\"ok\",\"messages\":[]}\n";
    let output = user().output(&["render"], lines.as_bytes());
    let replies: Vec<serde_json::Value> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(replies.len(), 3);
    assert!(replies[0]["id"] == 2 && replies[0]["error"].as_str().unwrap().contains("template"));
    assert!(replies[1]["id"].is_null() && replies[1]["error"].is_string());
    assert_eq!(replies[2]["text"], "ok");
    assert_eq!(output.status.code(), Some(3));
    let known = user().output(&["render"], b"{\"id\":2}\n");
    assert_eq!(known.status.code(), Some(0));
}

#[test]
fn a_text_that_is_no_utf_8_has_no_ids() {
    let output = user().output(&["tokenize", "--model", "heph-story"], b"good\0b\xffd\0");
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(String::from_utf8(output.stdout).unwrap().lines().count(), 1);
    assert!(
        String::from_utf8(output.stderr)
            .unwrap()
            .contains("text 2 is not UTF-8 from its byte 1 on")
    );
}

#[cfg(unix)]
#[test]
fn a_certificate_stands_where_nothing_can_be_kept() {
    let user = user();
    // A home folder that is a file can hold nothing, whoever asks.
    user.file("home", b"");
    let output = user
        .command(&[
            "certify",
            "heph-story-draft",
            "--json",
            "--tokens",
            "8",
            "--kv",
            "f16,q8_0",
        ])
        .env("HEPH_HOME", user.home.path().join("home"))
        .output()
        .unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{error}");
    assert!(error.contains("cannot be kept"), "{error}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&report["pass"], &report["rounding_kept"]),
        (&true.into(), &false.into())
    );
    assert_eq!(report["certificates"].as_array().unwrap().len(), 2);
    assert_eq!(report["rounding"][0]["model"].as_str().unwrap().len(), 64);
    assert_eq!(report["ways"], "each_choice");
}

#[test]
fn a_document_longer_than_the_context_is_asked_about_by_what_fits() {
    let user = user();
    let idle = "The cat sat on the wall and the dog ran to the wood. One day there was rain. ".repeat(400);
    user.file("big.txt", format!("{idle}The cat sat in the red box.").as_bytes());
    let asked = [
        "run",
        "--max-tokens",
        "4",
        "--document",
        "big.txt",
        "where sat the cat?",
    ];
    let said = user.says(&asked, "");
    assert!(said.starts_with("exit 0"), "{said}");
    assert!(
        said.contains("Nothing leaves this machine") && !said.contains("sent "),
        "{said}"
    );
}

#[test]
fn a_shell_is_told_values_and_models() {
    let user = user();
    let path = bundled();
    user.says(
        &["models", "import", path.to_str().unwrap(), "--name", "mine"],
        "",
    );
    let offered = |words: &[&str]| -> String {
        let index = (words.len() - 1).to_string();
        let output = user
            .command(&[&["--"][..], words].concat())
            .env("HEPH_COMPLETE", "bash")
            .env("_CLAP_COMPLETE_INDEX", index)
            .env("_CLAP_IFS", "\n")
            .env("_CLAP_COMPLETE_COMP_TYPE", "9")
            .env("_CLAP_COMPLETE_SPACE", "false")
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    for (words, offer) in [
        (&["heph", "doc"][..], "doctor"),
        (&["heph", "run", "--mode", ""], "layered-speculative"),
        (&["heph", "run", "--kv", "q"], "q8_0"),
        (&["heph", "run", "--rows", ""], "certified"),
        (&["heph", "quantize", "--type", "q4"], "q4_k_m"),
        (&["heph", "run", "--model", "heph-"], "heph-story-draft"),
        (&["heph", "chat", "mi"], "mine"),
        (&["heph", "models", "rm", ""], "mine"),
    ] {
        let said = offered(words);
        assert!(said.lines().any(|line| line.trim() == offer), "{words:?}: {said}");
    }
    assert!(!Path::new("heph-story").exists());
}

#[cfg(target_os = "linux")]
#[test]
fn a_program_that_breaks_leaves_no_picture_of_its_memory() {
    let user = user();
    let mut command = user.command(&["pii", "--jsonl"]);
    let mut child = command.stdin(std::process::Stdio::piped()).spawn().unwrap();
    let limits = format!("/proc/{}/limits", child.id());
    let until = std::time::Instant::now() + std::time::Duration::from_secs(30);
    let core = || {
        let limits = fs::read_to_string(&limits).unwrap_or_default();
        let line = limits.lines().find(|line| line.starts_with("Max core file size"));
        line.map(|line| {
            line.split_whitespace()
                .skip(4)
                .take(2)
                .collect::<Vec<_>>()
                .join(" ")
        })
    };
    while core().as_deref() != Some("1 1") {
        assert!(std::time::Instant::now() < until, "{:?}", core());
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
}
