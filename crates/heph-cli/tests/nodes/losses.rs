//! Many requests at once through `heph serve`, and nodes that die, are stopped, come back or may not be told any more meanwhile.

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::door::{DoorProcess, endless};
use super::{Home, NodeProcess};

/// How long the first to notice may wait for a lost machine.
const DETECTION: Duration = Duration::from_secs(3);

/// How much longer than without a loss a busy machine may take.
const SLACK: Duration = Duration::from_millis(1_500);

/// How soon a node that answers again is used again.
const RETURN: Duration = Duration::from_secs(12);

fn question(mode: &str, tokens: usize) -> Value {
    let mut body = endless(tokens);
    (body["prompt"], body["heph"]) = (json!("Once"), json!({ "mode": mode }));
    body
}

/// The answers to this question asked so often at once, each with how long it took.
fn burst(door: &DoorProcess, body: &Value, count: usize) -> Vec<(Value, Duration)> {
    std::thread::scope(|scope| {
        let one = || {
            let began = Instant::now();
            let (status, _, text) = door.ask("POST", "/v1/completions", body, "");
            assert_eq!(status, 200, "{text}");
            (serde_json::from_str(&text).unwrap(), began.elapsed())
        };
        let asked: Vec<_> = (0..count).map(|_| scope.spawn(one)).collect();
        asked.into_iter().map(|asked| asked.join().unwrap()).collect()
    })
}

fn longest(answers: &[(Value, Duration)]) -> Duration {
    answers.iter().map(|(_, took)| *took).max().unwrap()
}

/// The machines that computed an answer.
fn places(answer: &Value) -> Vec<&str> {
    let places = answer["heph"]["receipt"]["places"].as_array().unwrap();
    places
        .iter()
        .map(|place| place["name"].as_str().unwrap())
        .collect()
}

fn say_the_same(answers: &[(Value, Duration)], alone: &Value) {
    for (answer, _) in answers {
        assert_eq!(
            answer["choices"][0]["text"], alone["choices"][0]["text"],
            "{answer}"
        );
        let moves = answer["heph"]["receipt"]["moves"].to_string();
        assert!(!moves.contains("wrong answer"), "{moves}");
    }
}

fn signal(name: &str, process: u32) {
    let sent = Command::new("kill").args([name, &process.to_string()]).status();
    assert!(sent.unwrap().success());
}

#[test]
fn a_node_that_was_killed_is_waited_for_once_and_by_nobody_after() {
    let mut nodes = ["node-a", "node-b"].map(NodeProcess::start);
    let desk = Home::with(&[&nodes[0], &nodes[1]]);
    let door = DoorProcess::start(&desk, &[], &[]);
    let alone = door.post("/v1/completions", &question("local", 24));
    let body = question("remote", 24);
    burst(&door, &body, 10);
    let calm = burst(&door, &body, 10);
    say_the_same(&calm, &alone);
    let calm = longest(&calm) * 2 + SLACK;
    nodes[0].kill();
    for most in [DETECTION + calm, calm, calm] {
        let answers = burst(&door, &body, 10);
        say_the_same(&answers, &alone);
        assert!(longest(&answers) <= most, "{:?} of {most:?}", longest(&answers));
    }
}

#[test]
fn a_node_that_is_stopped_in_the_middle_is_passed_by_until_it_goes_on() {
    let nodes = ["node-a", "node-b"].map(NodeProcess::start);
    let desk = Home::with(&[&nodes[0], &nodes[1]]);
    let door = DoorProcess::start(&desk, &[], &[]);
    let (short, long) = (question("remote", 24), question("remote", 300));
    let alone = door.post("/v1/completions", &question("local", 300));
    burst(&door, &long, 10);
    let calm = longest(&burst(&door, &long, 10)) * 2 + SLACK;
    let answers = std::thread::scope(|scope| {
        let asked = scope.spawn(|| burst(&door, &long, 10));
        std::thread::sleep(Duration::from_millis(100));
        signal("-STOP", nodes[0].child.id());
        asked.join().unwrap()
    });
    say_the_same(&answers, &alone);
    // Whoever waits for it in the middle notices as soon as whoever begins.
    let most = DETECTION + calm;
    assert!(longest(&answers) <= most, "{:?} of {most:?}", longest(&answers));
    // Somebody has noticed by now, or does with the first of these.
    burst(&door, &short, 10);
    let began = Instant::now();
    while began.elapsed() < DETECTION {
        let answers = burst(&door, &short, 10);
        assert!(longest(&answers) <= calm, "{:?} of {calm:?}", longest(&answers));
        assert!(
            answers
                .iter()
                .all(|(answer, _)| !places(answer).contains(&"node-a"))
        );
    }
    signal("-CONT", nodes[0].child.id());
    let began = Instant::now();
    loop {
        let answers = burst(&door, &short, 10);
        assert!(longest(&answers) <= most, "{:?} of {most:?}", longest(&answers));
        if answers
            .iter()
            .any(|(answer, _)| places(answer).contains(&"node-a"))
        {
            break;
        }
        assert!(began.elapsed() < RETURN, "it is not used again");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// What is asked in the places of so many that `heph serve` makes at once, and so many behind them.
const AT_ONCE: usize = 16;
const BEHIND: usize = 8;

/// Answers to short questions that wait behind long ones while `meanwhile` happens.
fn behind(door: &DoorProcess, short: &Value, meanwhile: impl FnOnce()) -> Vec<(Value, Duration)> {
    std::thread::scope(|scope| {
        let long = question("remote", 900);
        let _long = scope.spawn(move || {
            std::thread::scope(|scope| {
                for _ in 0..AT_ONCE {
                    // Whatever becomes of these.
                    scope.spawn(|| door.ask("POST", "/v1/completions", &long, ""));
                }
            });
        });
        let began = Instant::now();
        while door.get("/heph/v1/status")["requests"]["running"] != AT_ONCE {
            assert!(began.elapsed() < Duration::from_secs(60), "they do not begin");
            std::thread::sleep(Duration::from_millis(5));
        }
        let short = scope.spawn(|| burst(door, short, BEHIND));
        while door.get("/heph/v1/status")["requests"]["waiting"] != BEHIND {
            assert!(began.elapsed() < Duration::from_secs(60), "they do not wait");
            std::thread::sleep(Duration::from_millis(5));
        }
        meanwhile();
        short.join().unwrap()
    })
}

#[test]
fn who_waits_is_planned_anew_past_a_node_that_was_lost_meanwhile() {
    let mut nodes = ["node-a", "node-b"].map(NodeProcess::start);
    let desk = Home::with(&[&nodes[0], &nodes[1]]);
    let door = DoorProcess::start(&desk, &[], &[]);
    let alone = door.post("/v1/completions", &question("local", 8));
    burst(&door, &question("remote", 24), 10);
    let [lost, _] = &mut nodes;
    let answers = behind(&door, &question("remote", 8), || lost.kill());
    say_the_same(&answers, &alone);
    for (answer, _) in &answers {
        // Whoever is slow with so much to do may be left for this machine; the lost one was told nothing. Where all is fast a turn comes before
        // the loss is noticed, and who begins then passes the lost one by.
        assert!(!places(answer).contains(&"node-a"), "{answer}");
        let receipt = &answer["heph"]["receipt"];
        assert!(!receipt["traffic"].to_string().contains("node-a"), "{answer}");
        let moves = receipt["moves"].as_array().unwrap();
        let mut of_lost = moves.iter().filter(|moved| moved["from"] == "node-a");
        assert!(of_lost.all(|moved| moved["at"] == 0), "{answer}");
    }
}

#[test]
fn who_waits_is_planned_anew_by_the_rules_as_they_are_then() {
    let nodes = ["node-a", "node-b"].map(NodeProcess::start);
    // So slow that nothing is better answered here.
    let desk = Home::with(&[&nodes[0], &nodes[1]]).timed_slower(100.0);
    let door = DoorProcess::start(&desk, &[], &[]);
    let short = question("auto", 8);
    let away = door.post("/v1/completions", &short);
    let told = |body: &Value| {
        let (_, head, text) = door.ask("POST", "/v1/completions", body, "");
        let mode = head.lines().find_map(|line| line.strip_prefix("heph-mode: "));
        (mode.map(str::to_owned), text)
    };
    let (mode, text) = told(&short);
    let answer: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json!(mode), answer["heph"]["receipt"]["mode"]);
    // Whether it is planned anew before its turn is not known where a stream begins.
    let mut stream = short.clone();
    stream["stream"] = json!(true);
    assert_eq!(told(&stream).0, None);
    stream["heph"] = json!({ "mode": "remote" });
    assert_eq!(told(&stream).0.as_deref(), Some("remote"));
    assert!(places(&away).iter().all(|place| *place != "here"), "{away}");
    let answers = behind(&door, &short, || {
        std::fs::write(
            desk.0.path().join("policy.toml"),
            "version = 1\npreset = \"local-only\"\n",
        )
        .unwrap();
    });
    say_the_same(&answers, &away);
    for (answer, _) in &answers {
        let receipt = &answer["heph"]["receipt"];
        let told = (&receipt["traffic"], &receipt["moves"]);
        assert_eq!(
            (places(answer), told),
            (vec!["here"], (&json!([]), &json!([]))),
            "{answer}"
        );
    }
}
