//! A node whose model another serving engine runs: `heph serve` stands for the engine, since it takes and tells tokens as
//! vLLM does, and because its bits are known.

use serde_json::json;

use super::door::DoorProcess;
use super::{Home, NodeProcess};

#[test]
fn an_engine_behind_a_node_answers_whole_models_and_never_passes_for_exact() {
    let engine = DoorProcess::start(&Home::new(), &[], &[]);
    let address = format!("openai:http://{}/v1", engine.address());
    let backed = ["--backend", &address, "--backend-model", "heph-story"];
    let node = NodeProcess::start_more(Home::new(), "engine", "127.0.0.1:0", &backed);
    let desk = Home::with(&[&node]);
    // Whoever asks for exact bits, which is everybody who says nothing, does not get them from there.
    let (code, said) = desk.fails(&["run", "--mode", "remote", "hello"]);
    assert!(code == 1 && said.contains("no plan is possible"), "{code} {said}");
    let plain = desk.answer("local", &[]);
    let auto = desk.answer("auto", &[]);
    assert_eq!(
        (&auto["text"], &auto["receipt"]["exactness"]),
        (&plain["text"], &json!("exact"))
    );
    let there = desk.answer("remote", &["--exactness", "any"]);
    let receipt = &there["receipt"];
    assert_eq!(
        (&receipt["mode"], &receipt["exactness"]),
        (&json!("remote"), &json!("unknown")),
        "{receipt}"
    );
    assert_eq!(receipt["places"][0]["name"], "engine", "{receipt}");
    // The engine is one of ours, so its draws are those of this machine.
    assert_eq!(there["text"], plain["text"]);
    let work = engine.get("/heph/v1/status")["requests"]["tokens"]
        .as_u64()
        .unwrap();
    assert!(work >= 60, "{work} tokens were made there");

    // Guesses from here are verified there: the likeliest ones from the probabilities of the prompt.
    let greedy = ["--temperature", "0", "--exactness", "any"];
    let here = desk.answer("local", &greedy[..2]);
    // So slow that no row is better verified here.
    let desk = desk.timed_slower(1000.0);
    let guessed = desk.answer("speculative", &greedy);
    assert_eq!(guessed["text"], here["text"]);
    let receipt = &guessed["receipt"];
    assert_eq!(receipt["exactness"], "unknown", "{receipt}");

    // Through a door of one's own; and where the engine dies, the answer goes on here.
    let door = DoorProcess::start(&desk, &[], &[]);
    let body =
        |heph| json!({ "prompt": "Once", "max_tokens": 30, "seed": 3, "temperature": 0.7, "heph": heph });
    let (status, _, text) = door.ask("POST", "/v1/completions", &body(json!({ "mode": "remote" })), "");
    assert!(status == 409 && text.contains("no_plan"), "{status} {text}");
    let any = json!({ "mode": "remote", "exactness": "any" });
    let told = door.post("/v1/completions", &body(any.clone()));
    let local = door.post("/v1/completions", &body(json!({ "mode": "local" })));
    assert_eq!(told["choices"][0]["text"], local["choices"][0]["text"]);
    assert_eq!(told["heph"]["receipt"]["exactness"], "unknown", "{told}");
    drop(engine);
    let after = door.post("/v1/completions", &body(any));
    assert_eq!(after["choices"][0]["text"], local["choices"][0]["text"]);
    assert_eq!(after["heph"]["receipt"]["moves"][0]["from"], "engine", "{after}");
}
