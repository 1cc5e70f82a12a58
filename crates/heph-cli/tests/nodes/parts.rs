//! Layers by command: a machine without a model's file fetches the layers that it is to serve, and no more, and lends them.

use super::*;

/// What of a file lies on the disk: its holes take nothing.
fn bytes_on_disk(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let bytes = files.map(|file| match file.metadata().unwrap() {
        about if about.is_dir() => bytes_on_disk(&file.path()),
        about => about.blocks() * 512,
    });
    bytes.sum()
}

#[test]
fn a_machine_without_the_file_serves_layers_after_fetching_only_theirs() {
    let offering = NodeProcess::start_more(Home::new(), "offering", "127.0.0.1:0", &["--offer"]);
    let fetching = Home::with(&[&offering]);
    let models = fetching.json(&["models", "list", "--json"]);
    let story = models
        .as_array()
        .unwrap()
        .iter()
        .find(|model| model["name"] == "heph-story");
    let story = story.unwrap();
    let (content, bytes) = (offering.offers[0].clone(), story["bytes"].as_u64().unwrap());
    let part = ["--fetch", &content, "--layers", "1..3"];
    let node = NodeProcess::start_more(fetching, "part", "127.0.0.1:0", &part);
    let taken = bytes_on_disk(&node.home.0.path().join("shards"));
    assert!(
        taken > bytes / 10 && taken < bytes * 8 / 10,
        "{taken} of {bytes} bytes"
    );
    // Who offered the file is gone, and the layers are lent all the same: those, and no others.
    drop(offering);
    let desk = Home::with(&[&node]);
    let ask = |mode: &str| desk.answer(mode, &["--keep-first", "1", "--keep-last", "1"]);
    let (plain, split) = (ask("local"), ask("layered"));
    assert_eq!(split["text"], plain["text"]);
    let (code, said) = desk.fails(&[
        "plan",
        "hello",
        "--mode",
        "layered",
        "--keep-first",
        "3",
        "--keep-last",
        "3",
    ]);
    assert!(
        code == 2 && said.contains("since the first 3 and the last 3 layers are to stay here"),
        "{code} {said}"
    );
    let places = split["receipt"]["places"].as_array().unwrap();
    let theirs = places.iter().find(|place| place["name"] == "part");
    assert!(theirs.is_some(), "{places:?}");
    // Started again it has them already, and needs nobody.
    let (home, listen) = node.stopped();
    let again = NodeProcess::start_more(home, "part", &listen, &part);
    assert_eq!(
        desk.answer("layered", &["--keep-first", "1", "--keep-last", "1"])["text"],
        plain["text"]
    );
    drop(again);
}

#[test]
fn a_machine_takes_the_layers_that_a_plan_needs_there_and_no_more_than_it_allows() {
    let all = ["--accept-layers", "1GB"];
    let node = NodeProcess::start_more(Home::new(), "taker", "127.0.0.1:0", &all);
    let desk = Home::with(&[&node]);
    // The bundled draft model is lent by nobody; a person that wants it shared has it sent.
    let model = ["--model", "heph-story-draft"];
    let plan = desk.json(&[&["plan", "hello", "--mode", "layered", "--json"][..], &model].concat());
    let stages = plan["plan"]["stages"].as_array().unwrap();
    let sent = |stage: &serde_json::Value| stage["send_bytes"].as_u64().unwrap();
    assert!(stages.iter().any(|stage| sent(stage) > 0), "{stages:?}");
    assert_eq!(
        bytes_on_disk(&node.home.0.path().join("shards")),
        0,
        "a plan sends nothing"
    );
    let ask = |mode: &str| desk.answer(mode, &model);
    let (plain, split) = (ask("local"), ask("layered"));
    assert_eq!(split["text"], plain["text"]);
    let places = split["receipt"]["places"].as_array().unwrap();
    assert!(places.iter().any(|place| place["name"] == "taker"), "{places:?}");
    let taken = bytes_on_disk(&node.home.0.path().join("shards"));
    assert!(taken > 0);
    // What left of the model is told with what left of the question.
    let weights = split["receipt"]["weights"].as_array().expect("weights that left");
    assert_eq!(weights.len(), 1, "{weights:?}");
    let (to, left) = (&weights[0]["name"], weights[0]["bytes"].as_u64().unwrap());
    assert!(
        to == "taker" && left > taken / 2 && left <= 2 * taken,
        "{left} of {taken}: {weights:?}"
    );
    // The next question finds them there, and so does one after a new start.
    let again = ask("layered");
    assert_eq!(again["text"], plain["text"]);
    assert!(again["receipt"]["weights"].is_null(), "nothing is sent twice");
    let (home, listen) = node.stopped();
    let again = NodeProcess::start_more(home, "taker", &listen, &all);
    assert_eq!(ask("layered")["text"], plain["text"]);
    assert!(bytes_on_disk(&again.home.0.path().join("shards")) >= taken);
    drop(again);

    // Who takes less is not planned with for more.
    let little = ["--accept-layers", "1KB"];
    let little = NodeProcess::start_more(Home::new(), "little", "127.0.0.1:0", &little);
    let desk = Home::with(&[&little]);
    let (code, said) = desk.fails(&[&["plan", "hello", "--mode", "layered"][..], &model].concat());
    assert!(code != 0 && said.contains("no plan is possible"), "{said}");
    assert_eq!(bytes_on_disk(&little.home.0.path().join("shards")), 0);

    // The layers alone would fit and what every part needs does not: it is told when it is sent, as a want of room.
    let layers: u64 = stages.iter().map(sent).sum();
    let layers = ["--accept-layers", &layers.to_string()];
    let short = NodeProcess::start_more(Home::new(), "short", "127.0.0.1:0", &layers);
    let desk = Home::with(&[&short]);
    let (code, said) = desk.fails(&[&["run", "hello", "--mode", "layered"][..], &model].concat());
    assert!(
        code == 4 && said.contains("short: the other machine has no room"),
        "{code} {said}"
    );
    assert!(said.contains("hint: make room"), "{said}");
}

#[test]
fn layers_are_fetched_only_where_they_are_offered_and_are_layers() {
    let silent = NodeProcess::start("silent");
    let home = Home::with(&[&silent]);
    let content = "00".repeat(32);
    let fetch = |content: &str, layers: &str| {
        home.fails(&[
            "node",
            "--listen",
            "127.0.0.1:0",
            "--fetch",
            content,
            "--layers",
            layers,
        ])
    };
    let (code, said) = fetch(&content, "0..1");
    assert_eq!(code, 5, "{said}");
    let (code, said) = fetch(&content, "one");
    assert!(code == 2 && said.contains("as 0..8"), "{said}");
    let (code, said) = fetch("story", "0..1");
    assert!(code == 2 && said.contains("hexadecimal"), "{said}");
    let (code, _) = home.fails(&["node", "--listen", "127.0.0.1:0", "--fetch", &content]);
    assert_eq!(code, 2, "without layers there is nothing to fetch");
}
