//! The Model Context Protocol at a real door: HEPH's own tools, and the person's servers, sound and broken.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use heph_gateway::McpServer;
use heph_privacy::policy::Kind;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncReadExt;

use crate::knocking::{Door, chat, door, options};

fn call(door: &Door, name: &str, arguments: Value) -> Value {
    let asked = json!({ "jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": { "name": name, "arguments": arguments } });
    let said = door.json("/mcp", &asked);
    assert_eq!(said["id"], 7);
    said
}

#[test]
fn the_houses_tools_answer_over_http() {
    let door = door();
    let hello = json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": { "name": "test", "version": "1" },
    } });
    assert_eq!(
        door.json("/mcp", &hello)["result"]["protocolVersion"],
        "2025-06-18"
    );
    assert_eq!(
        door.post(
            "/mcp",
            &json!({ "jsonrpc": "2.0", "method": "notifications/initialized" })
        )
        .0,
        202
    );
    let list = door.json(
        "/mcp",
        &json!({ "jsonrpc": "2.0", "id": 2, "method": "tools/list" }),
    );
    let names: Vec<&str> = list["result"]["tools"]
        .as_array()
        .unwrap()
        .iter()
        .map(|tool| tool["name"].as_str().unwrap())
        .collect();
    for name in [
        "ask",
        "plan",
        "list_models",
        "list_machines",
        "embed",
        "search_documents",
        "tokenize",
    ] {
        assert!(names.contains(&name), "{names:?}");
    }
    let plain = json!({ "messages": [{ "role": "user", "content": "Hello" }], "max_tokens": 12, "seed": 3 });
    let asked = call(
        &door,
        "ask",
        json!({ "question": "Hello", "max_tokens": 12, "seed": 3 }),
    );
    assert_eq!(
        asked["result"]["content"][0]["text"],
        chat(&door, &plain),
        "{asked}"
    );
    assert_eq!(
        asked["result"]["structuredContent"]["heph"]["receipt"]["mode"],
        "local"
    );
    let tokens = call(&door, "tokenize", json!({ "text": "Hello there" }));
    assert!(
        tokens["result"]["structuredContent"]["tokens"]
            .as_array()
            .is_some_and(|list| !list.is_empty())
    );
    let vectors = call(&door, "embed", json!({ "texts": ["a", "b"] }));
    assert_eq!(
        vectors["result"]["structuredContent"]["vectors"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    assert!(
        call(&door, "list_models", json!({}))
            .to_string()
            .contains("heph-story")
    );
    // What the door refuses is a result that says so; what no tool takes is an error.
    let refused = call(&door, "ask", json!({ "question": "Hello", "model": "no-such" }));
    assert_eq!(refused["result"]["isError"], true);
    assert_eq!(
        call(&door, "ask", json!({ "quest": "Hello" }))["error"]["code"],
        -32602
    );
    assert_eq!(call(&door, "ask", json!(["Hello"]))["error"]["code"], -32602);
    assert_eq!(call(&door, "rm", json!({}))["error"]["code"], -32602);
    let unknown = json!({ "jsonrpc": "2.0", "id": 2, "method": "sampling/createMessage" });
    assert_eq!(door.json("/mcp", &unknown)["error"]["code"], -32601);
    for (body, code) in [("{", -32700), ("[]", -32600), ("{}", -32600)] {
        let (status, text) = door.post_text("/mcp", body);
        let said: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((status, &said["error"]["code"]), (400, &json!(code)), "{text}");
    }
    let ping = json!({ "jsonrpc": "2.0", "id": 1, "method": "ping" }).to_string();
    let of_version = |version: &str| door.raw("POST", "/mcp", &ping, &[("mcp-protocol-version", version)]);
    assert!(of_version("2025-11-25").starts_with("HTTP/1.0 200"));
    assert!(of_version("1999-01-01").starts_with("HTTP/1.0 400"));
    assert_eq!(door.post_text("/mcp", &"x".repeat((4 << 20) + 1)).0, 413);
    assert_eq!(door.get_with("/mcp", &[]).0, 405);
}

#[test]
fn private_folders_are_closed_to_programs() {
    let door = door();
    for (folder, label) in [("mine", "nothing"), ("open", "policy")] {
        let path = door.home.path().join(folder);
        std::fs::create_dir(&path).unwrap();
        std::fs::write(
            path.join("a.txt"),
            format!("The {folder} ferry leaves at 7:40.\n"),
        )
        .unwrap();
        assert_eq!(
            door.post("/heph/v1/knowledge", &json!({ "path": path, "label": label }))
                .0,
            201
        );
    }
    let question = "When does the ferry leave?";
    let all = call(&door, "search_documents", json!({ "question": question })).to_string();
    assert!(
        all.contains("The open ferry") && !all.contains("The mine ferry"),
        "{all}"
    );
    let refused = call(
        &door,
        "search_documents",
        json!({ "question": question, "folders": ["mine"] }),
    );
    assert_eq!(refused["result"]["isError"], true);
    let listed = call(&door, "list_folders", json!({})).to_string();
    assert!(listed.contains("open") && !listed.contains("mine"), "{listed}");
}

#[test]
fn the_houses_tools_answer_line_by_line() {
    let home = TempDir::new().unwrap();
    let server = McpServer::open(options(&home, None, 4, 4)).unwrap();
    let long = "x".repeat((4 << 20) + 1);
    let ask = |id: &str, max: u32| {
        let arguments = json!({ "question": "Hello", "max_tokens": max });
        json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": { "name": "ask", "arguments": arguments } })
    };
    let cancel =
        json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": "late" } });
    let ping = json!({ "jsonrpc": "2.0", "id": 9, "method": "ping" });
    let input = format!(
        "{}\n{cancel}\n{{\n\n{long}\n{}\n{ping}",
        ask("late", 900),
        ask("soon", 4)
    );
    let (near, mut far) = tokio::io::duplex(1 << 20);
    let heard = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let mut said = String::new();
        runtime.block_on(far.read_to_string(&mut said)).unwrap();
        said
    });
    server.run_over(input.as_bytes(), near).unwrap();
    let said: Vec<Value> = heard
        .join()
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let of = |id: Value| said.iter().find(|answer| answer["id"] == id);
    assert!(of(json!("late")).is_none(), "it was cancelled");
    assert!(of(json!("soon")).unwrap()["result"]["content"][0]["text"].is_string());
    assert_eq!(of(json!(9)).unwrap()["result"], json!({}));
    let mut codes: Vec<i64> = said
        .iter()
        .filter_map(|answer| answer["error"]["code"].as_i64())
        .collect();
    codes.sort_unstable();
    assert_eq!(codes, [-32700, -32600]);
}

#[cfg(unix)]
#[test]
fn whoever_is_gone_is_not_waited_for() {
    let home = TempDir::new().unwrap();
    let mute = json!({ "command": "/bin/sh", "args": ["-c", "exec sleep 600"], "resources": "allow", "deadline_s": 600 });
    let servers = json!({ "mcpServers": { "mute": mute } });
    std::fs::write(home.path().join("mcp.json"), servers.to_string()).unwrap();
    let server = McpServer::open(options(&home, None, 4, 4)).unwrap();
    let (near, far) = tokio::io::duplex(1 << 16);
    drop(far);
    let asked = json!({ "jsonrpc": "2.0", "id": 1, "method": "resources/list" }).to_string();
    let began = Instant::now();
    server.run_over(asked.as_bytes(), near).unwrap();
    assert!(
        began.elapsed() < Duration::from_secs(120),
        "{:?}",
        began.elapsed()
    );
}

/// What a sound server is, as a shell's program: one tool that says what it was told.
const SOUND: &str = r#"
while read -r line; do
  id=$(printf '%s' "$line" | sed 's/.*"id":\([0-9][0-9]*\).*/\1/')
  case "$line" in
    *'"initialize"'*) echo '{"jsonrpc":"2.0","method":"notifications/message","params":{}}'
      echo '{"jsonrpc":"2.0","id":"theirs","method":"ping"}'
      echo '{"jsonrpc":"2.0","id":'"$id"',"result":{"protocolVersion":"2025-03-26","capabilities":{},"serverInfo":{}}}';;
    *'"tools/list"'*) echo '{"jsonrpc":"2.0","id":'"$id"',"result":{"tools":[
      {"name":"echo","description":"Says it.","inputSchema":{"type":"object","properties":{"n":{"type":"integer"}},"required":["n"],"additionalProperties":false}},
      {"name":"rm","description":"Removes.","inputSchema":{"type":"object"}}]}}' | tr -d '\n'; echo;;
    *'"tools/call"'*) echo '{"jsonrpc":"2.0","id":'"$id"',"result":{"content":[{"type":"text","text":"the tool was here"}]}}';;
  esac
done"#;

/// A server of prompts and resources.
const LIBRARY: &str = r#"
while read -r line; do
  id=$(printf '%s' "$line" | sed 's/.*"id":\([0-9][0-9]*\).*/\1/')
  say() { printf '{"jsonrpc":"2.0","id":%s,%s}\n' "$id" "$1"; }
  case "$line" in
    *'"initialize"'*) say '"result":{"protocolVersion":"2025-06-18","capabilities":{"prompts":{},"resources":{}}}';;
    *'"prompts/list"'*) say '"result":{"prompts":[{"name":"greet","description":"Greets.","arguments":[{"name":"who"}]},{"title":"no name"}]}';;
    *'"prompts/get"'*'"greet"'*) say '"result":{"messages":[{"role":"user","content":{"type":"text","text":"Greet '"$(printf '%s' "$line" | sed 's/.*"who":"\([a-z]*\)".*/\1/')"'."}}]}';;
    *'"resources/list"'*'"cursor":"2"'*) say '"result":{"resources":[{"uri":"file:///b","name":"b"}]}';;
    *'"resources/list"'*) say '"result":{"resources":[{"uri":"file:///a","name":"a","mimeType":"text/plain"}],"nextCursor":"2"}';;
    *'"resources/templates/list"'*) say '"result":{"resourceTemplates":[{"uriTemplate":"file:///{path}","name":"files"}]}';;
    *'"resources/read"'*'"file:///a"'*) say '"result":{"contents":[{"uri":"file:///a","mimeType":"text/plain","text":"What is in a.","secret":1}]}';;
    *'"id":'*) say '"error":{"code":-32002,"message":"not found"}';;
  esac
done"#;

/// A door whose person has these servers.
fn with_servers(servers: Value) -> Door {
    let door = door();
    std::fs::write(
        door.home.path().join("mcp.json"),
        json!({ "mcpServers": servers }).to_string(),
    )
    .unwrap();
    door
}

fn program(script: &str, policy: &str) -> Value {
    json!({ "command": "/bin/sh", "args": ["-c", script], "tools": { "echo": policy, "rm": "deny" }, "deadline_s": 60 })
}

fn with_tools() -> Value {
    json!({
        "messages": [{ "role": "user", "content": "Use the tool." }], "max_tokens": 60, "seed": 1,
        "tool_choice": "required", "heph": { "mcp": ["far"] },
    })
}

fn asks(door: &Door, method: &str, params: Value) -> Value {
    door.json(
        "/mcp",
        &json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params }),
    )
}

#[cfg(unix)]
#[test]
fn prompts_and_resources_of_servers_that_allow_it_are_offered_under_their_names() {
    let library = |allowed: &str| {
        json!({
            "command": "/bin/sh", "args": ["-c", LIBRARY], "deadline_s": 60, "prompts": allowed, "resources": allowed,
        })
    };
    let gone = json!({ "command": "/bin/sh", "args": ["-c", "exit 0"], "resources": "allow" });
    let door = with_servers(json!({ "books": library("allow"), "shut": library("ask"), "gone": gone }));
    let hello = asks(&door, "initialize", json!({ "protocolVersion": "2025-06-18" }));
    let can = &hello["result"]["capabilities"];
    assert!(
        can["prompts"].is_object() && can["resources"].is_object() && can["tools"].is_object(),
        "{hello}"
    );
    let prompts = asks(&door, "prompts/list", json!({}));
    assert_eq!(
        prompts["result"]["prompts"],
        json!([{ "name": "books/greet", "description": "Greets.", "arguments": [{ "name": "who" }] }])
    );
    let greeting = asks(
        &door,
        "prompts/get",
        json!({ "name": "books/greet", "arguments": { "who": "ada" } }),
    );
    assert_eq!(
        greeting["result"]["messages"][0]["content"]["text"], "Greet ada.",
        "{greeting}"
    );
    let resources = asks(&door, "resources/list", json!({}));
    let uris: Vec<&Value> = resources["result"]["resources"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| &r["uri"])
        .collect();
    assert_eq!(uris, ["heph-mcp://books/file:///a", "heph-mcp://books/file:///b"]);
    // Who does not answer is told of.
    assert_eq!(
        resources["result"]["_meta"]["heph/away"][0]["server"], "gone",
        "{resources}"
    );
    let forms = asks(&door, "resources/templates/list", json!({}));
    assert_eq!(
        forms["result"]["resourceTemplates"][0]["uriTemplate"],
        "heph-mcp://books/file:///{path}"
    );
    let read = asks(
        &door,
        "resources/read",
        json!({ "uri": "heph-mcp://books/file:///a" }),
    );
    assert_eq!(
        read["result"]["contents"],
        json!([{ "uri": "heph-mcp://books/file:///a", "mimeType": "text/plain", "text": "What is in a." }])
    );
    for (method, params) in [
        ("resources/read", json!({ "uri": "heph-mcp://books/file:///c" })),
        ("resources/read", json!({ "uri": "heph-mcp://shut/file:///a" })),
        ("resources/read", json!({ "uri": "file:///etc/passwd" })),
        ("resources/read", json!({ "uri": 7 })),
        ("resources/read", json!([])),
        ("prompts/get", json!({ "name": "shut/greet" })),
        ("prompts/get", json!({ "name": "nobody/greet" })),
        ("prompts/get", json!({})),
    ] {
        let said = asks(&door, method, params.clone());
        assert!(said["error"]["message"].is_string(), "{method} {params}: {said}");
    }
    // Where the policy says so, none of it is asked for, and what is private is not told.
    let policy = |preset: &str| {
        let text = format!("version = 1\npreset = \"{preset}\"\n");
        std::fs::write(door.home.path().join("policy.toml"), text).unwrap();
    };
    let greet = |who: &str| {
        asks(
            &door,
            "prompts/get",
            json!({ "name": "books/greet", "arguments": { "who": who } }),
        )
    };
    policy("redact-then-remote");
    assert!(greet("ada")["result"].is_object());
    assert!(greet("ann.lee@example.org")["error"]["message"].is_string());
    policy("local-only");
    assert!(greet("ada")["error"]["message"].is_string());
    let listed = asks(&door, "prompts/list", json!({}));
    assert_eq!(listed["result"]["prompts"], json!([]), "{listed}");
}

#[test]
fn a_long_question_tells_how_far_it_is_and_ends_when_nobody_listens() {
    let door = door();
    let arguments =
        json!({ "question": "Tell me a story.", "max_tokens": 900, "temperature": 1.0, "seed": 3 });
    let asked = |token: Value| {
        json!({ "jsonrpc": "2.0", "id": 5, "method": "tools/call", "params": {
            "name": "ask", "arguments": arguments, "_meta": { "progressToken": token },
        } })
    };
    let accept = ("accept", "application/json, text/event-stream");
    let raw = door.raw("POST", "/mcp", &asked(json!("p")).to_string(), &[accept]);
    assert!(
        raw.to_lowercase().contains("content-type: text/event-stream"),
        "{raw}"
    );
    let told: Vec<Value> = raw
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .map(|data| serde_json::from_str(data).unwrap())
        .collect();
    let (last, before) = told.split_last().unwrap();
    let plain = call(&door, "ask", arguments.clone());
    assert_eq!(last["id"], 5);
    let (one, other) = (
        &last["result"]["structuredContent"],
        &plain["result"]["structuredContent"],
    );
    for field in ["text", "finish_reason", "model"] {
        assert_eq!(one[field], other[field], "{field}");
    }
    assert_eq!(
        one["usage"]["completion_tokens"],
        other["usage"]["completion_tokens"]
    );
    assert!(one["heph"]["receipt"].is_object(), "{last}");
    let far: Vec<u64> = before
        .iter()
        .map(|one| one["params"]["progress"].as_u64().unwrap())
        .collect();
    assert!(far.is_sorted_by(|a, b| a < b), "{far:?}");
    assert!(
        before
            .iter()
            .all(|one| one["params"]["progressToken"] == "p" && one["id"].is_null())
    );
    // Without a word for it, or without an ear, there is one answer.
    let plain = door.json("/mcp", &asked(json!("p")));
    assert_eq!(plain["result"]["structuredContent"]["text"], one["text"]);
    let raw = door.raw("POST", "/mcp", &asked(json!(null)).to_string(), &[accept]);
    assert!(
        raw.to_lowercase().contains("content-type: application/json"),
        "{raw}"
    );
    // Whoever hangs up ends the work.
    for token in [json!("p"), json!(null)] {
        let body = asked(token).to_string();
        let mut stream = door.connect();
        let length = body.len();
        write!(
            stream,
            "POST /mcp HTTP/1.1\r\nhost: 127.0.0.1\r\naccept: text/event-stream\r\ncontent-length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        door.is_at_work();
        drop(stream);
        door.comes_to_rest();
    }
}

#[cfg(unix)]
#[test]
fn an_allowed_tool_is_called_and_its_result_is_labelled() {
    let door = with_servers(json!({ "far": program(SOUND, "allow") }));
    let said = door.json("/v1/chat/completions", &with_tools());
    let made = &said["heph"]["tools"]["made"];
    assert_eq!(
        (&made[0]["server"], &made[0]["tool"], &made[0]["state"]),
        (&json!("far"), &json!("echo"), &json!("done")),
        "{said}"
    );
    let result = made[0]["result"].as_str().unwrap();
    assert!(
        result.starts_with("From outside: ") && result.ends_with("the tool was here"),
        "{result}"
    );
    // The same server is asked again without being started again.
    assert_eq!(door.post("/v1/chat/completions", &with_tools()).0, 200);
}

#[cfg(unix)]
#[test]
fn a_tool_that_is_asked_for_waits_for_the_persons_word() {
    let door = with_servers(json!({ "far": program(SOUND, "ask") }));
    let said = door.json("/v1/chat/completions", &with_tools());
    let tools = &said["heph"]["tools"];
    assert_eq!(tools["made"], json!([]), "nothing was called: {said}");
    assert_eq!(
        (&tools["waiting"][0]["tool"], &tools["waiting"][0]["policy"]),
        (&json!("echo"), &json!("ask"))
    );
    for (approved, state) in [
        (json!([tools["waiting"][0]["id"]]), "done"),
        (json!([]), "refused"),
        (json!(["another"]), "refused"),
    ] {
        let mut again = with_tools();
        again["messages"]
            .as_array_mut()
            .unwrap()
            .push(said["choices"][0]["message"].clone());
        again["tool_choice"] = json!("none");
        again["heph"]["approved"] = approved;
        let done = door.json("/v1/chat/completions", &again);
        assert_eq!(done["heph"]["tools"]["made"][0]["state"], state, "{done}");
    }
}

#[cfg(unix)]
#[test]
fn what_may_not_leave_meets_no_tool() {
    let door = with_servers(json!({ "far": program(SOUND, "allow") }));
    let mut private = with_tools();
    private["heph"]["privacy"] = json!("nothing");
    let (status, text) = door.post("/v1/chat/completions", &private);
    assert!(status == 400 && text.contains("\"private\""), "{text}");
    let (status, head) = {
        let raw = door.raw(
            "POST",
            "/v1/chat/completions",
            &with_tools().to_string(),
            &[("heph-privacy", "nothing")],
        );
        (raw[9..12].to_owned(), raw)
    };
    assert!(status == "400" && head.contains("\"private\""), "{head}");
    let mut several = with_tools();
    several["n"] = json!(2);
    assert_eq!(door.post("/v1/chat/completions", &several).0, 400);
}

#[cfg(unix)]
#[test]
fn a_server_of_tools_is_told_what_the_policy_lets_it_and_no_more() {
    let door = with_servers(json!({ "far": program(SOUND, "allow") }));
    let said = |more: &str| format!("version = 1\npreset = {more}\n");
    let ask = |policy: &str, content: &str, heph: Value| {
        std::fs::write(door.home.path().join("policy.toml"), policy).unwrap();
        let mut body = with_tools();
        body["messages"][0]["content"] = json!(content);
        body["heph"]
            .as_object_mut()
            .unwrap()
            .extend(heph.as_object().unwrap().clone());
        door.post("/v1/chat/completions", &body)
    };
    let named = "[[rule]]\nname = \"tools\"\nwhen = { to = [\"tool-server\"], names = [\"far\"] }\nthen = \"allow\"\n";
    let kept = "[[rule]]\nname = \"kept\"\nwhen = { labels = [\"user:kept\"] }\nthen = \"deny\"\n";
    let mail = "Write to ann.lee@example.org. Use the tool.";
    let refused = [
        (said("\"local-only\""), "Use the tool.", json!({})),
        (said("\"own-devices\""), "Use the tool.", json!({})),
        (said("\"redact-then-remote\""), mail, json!({})),
        (
            said("\"open\"") + kept,
            "Use the tool.",
            json!({ "labels": ["kept"] }),
        ),
        (said("\"open\""), "Use the tool.", json!({ "privacy": "own" })),
        ("no policy".to_owned(), "Use the tool.", json!({})),
    ];
    for (policy, content, heph) in refused {
        let (status, text) = ask(&policy, content, heph);
        assert!(
            status == 403 && text.contains("\"stays_here\""),
            "{policy} {text}"
        );
    }
    let allowed = [
        (said("\"local-only\"") + named, "Use the tool."),
        (said("\"redact-then-remote\""), "Use the tool."),
        (said("\"open\""), mail),
    ];
    for (policy, content) in allowed {
        let (status, text) = ask(&policy, content, json!({}));
        let said: Value = serde_json::from_str(&text).unwrap();
        let made = &said["heph"]["tools"]["made"][0];
        assert!(status == 200 && made["state"] == "done", "{policy} {text}");
        let left = &made["left"];
        assert!(
            left["kind"] == "tool-server" && left["up"].as_u64() > Some(0) && left["down"].as_u64() > Some(0),
            "{left}"
        );
        assert!(
            left["rules"].as_array().is_some_and(|rules| !rules.is_empty()),
            "{left}"
        );
        receipt_names_the_server(&door, &said["heph"]);
    }
}

/// The receipt of an answer with tools, as it is told and as it is signed, has what their server was told in all calls.
#[cfg(unix)]
fn receipt_names_the_server(door: &Door, heph: &Value) {
    let made = heph["tools"]["made"].as_array().unwrap();
    let all = |field: &str| {
        made.iter()
            .filter_map(|call| call["left"][field].as_u64())
            .sum::<u64>()
    };
    let told = &heph["receipt"]["tools"];
    assert_eq!(told.as_array().map(Vec::len), Some(1), "{heph}");
    assert_eq!(
        (&told[0]["server"], &told[0]["calls"]),
        (&json!("far"), &json!(made.len()))
    );
    assert_eq!(
        (&told[0]["up"], &told[0]["down"]),
        (&json!(all("up")), &json!(all("down")))
    );
    let (status, signed) = door.get_with(heph["receipt"]["signed"].as_str().unwrap(), &[]);
    assert_eq!(status, 200, "{signed}");
    let body = heph_privacy::receipt::verify(&signed).unwrap().body;
    let line = body
        .bytes
        .iter()
        .find(|line| line.kind == Kind::ToolServer)
        .unwrap();
    assert_eq!(body.nodes[usize::from(line.node)], "far");
    assert_eq!((line.up, line.down), (all("up"), all("down")));
    assert!(!body.rules.is_empty() && signed.len() < 2048, "{signed}");
}

#[cfg(unix)]
#[test]
fn a_call_is_asked_for_when_it_is_made() {
    // A policy that was written while the model thought counts for the call, and not for the next request alone.
    let door = door();
    let policy = door.home.path().join("policy.toml");
    let closes = format!(
        "printf 'version = 1\\npreset = \"local-only\"\\n' > {}; echo '",
        policy.display()
    );
    let script = SOUND.replacen(
        r#"*'"tools/list"'*) echo '"#,
        &format!(r#"*'"tools/list"'*) {closes}"#),
        1,
    );
    assert_ne!(script, SOUND);
    let servers = json!({ "mcpServers": { "far": program(&script, "allow") } });
    std::fs::write(door.home.path().join("mcp.json"), servers.to_string()).unwrap();
    let said = door.json("/v1/chat/completions", &with_tools());
    let made = &said["heph"]["tools"]["made"][0];
    assert!(policy.exists() && made["state"] == "refused", "{said}");
    assert!(
        made["left"].is_null() && made["result"].as_str().unwrap().contains("policy"),
        "{made}"
    );
}

/// What a stream says of tools, the last chunk's word, and the text of all.
fn told(events: &[Value]) -> (Vec<(String, String)>, Value, String) {
    let steps = events
        .iter()
        .map(|event| &event["heph"]["tool"])
        .filter(|tool| tool.is_object());
    let word = |tool: &Value, name: &str| tool[name].as_str().unwrap().to_owned();
    let steps = steps
        .map(|tool| (word(tool, "tool"), word(tool, "state")))
        .collect();
    let ends = events
        .iter()
        .filter(|event| event["heph"]["tools"].is_object())
        .collect::<Vec<_>>();
    assert_eq!(ends.len(), 1, "{events:?}");
    let text = events
        .iter()
        .filter_map(|event| event["choices"][0]["delta"]["content"].as_str());
    (steps, ends[0].clone(), text.collect())
}

#[cfg(unix)]
#[test]
fn a_stream_with_tools_is_one_answer_and_says_what_was_called() {
    let door = with_servers(json!({ "far": program(SOUND, "allow") }));
    let whole = door.json("/v1/chat/completions", &with_tools());
    for resume in [false, true] {
        let mut body = with_tools();
        body["stream"] = json!(true);
        body["heph"]["resume"] = json!(resume);
        let events = door.events("/v1/chat/completions", &body);
        let (steps, last, text) = told(&events);
        let made = last["heph"]["tools"]["made"].as_array().unwrap();
        assert_eq!(
            made.len(),
            whole["heph"]["tools"]["made"].as_array().unwrap().len()
        );
        let word = |state: &str| ("echo".to_owned(), state.to_owned());
        let each = [word("called"), word("done")];
        let all: Vec<_> = each.iter().cycle().take(2 * made.len()).cloned().collect();
        assert_eq!(steps, all);
        assert!(made[0]["result"].as_str().unwrap().ends_with("the tool was here"));
        receipt_names_the_server(&door, &last["heph"]);
        assert!(last["heph"]["receipt"]["id"].is_string() && last["choices"][0]["finish_reason"].is_string());
        assert!(
            events.iter().all(|event| event["id"] == events[0]["id"]),
            "one answer"
        );
        assert!(
            events
                .iter()
                .all(|event| event["choices"][0]["delta"]["tool_calls"].is_null())
        );
        assert!(
            text.ends_with(whole["choices"][0]["message"]["content"].as_str().unwrap()),
            "{text}"
        );
    }
    // What headers say counts as what the field says.
    let mut body = with_tools();
    body["stream"] = json!(true);
    let said = |name, value| {
        door.raw(
            "POST",
            "/v1/chat/completions",
            &body.to_string(),
            &[(name, value)],
        )
    };
    let kept = said("heph-resume", "1");
    assert!(kept.contains("\nid: "), "{kept}");
    for (name, value) in [("heph-privacy", "nothing"), ("heph-deadline-ms", "soon")] {
        let refused = said(name, value);
        assert!(refused.starts_with("HTTP/1.0 400"), "{name}: {refused}");
    }
}

#[cfg(unix)]
#[test]
fn a_stream_waits_for_the_persons_word_and_goes_on_with_it() {
    let door = with_servers(json!({ "far": program(SOUND, "ask") }));
    let mut body = with_tools();
    body["stream"] = json!(true);
    let events = door.events("/v1/chat/completions", &body);
    let (steps, last, _) = told(&events);
    assert!(steps.is_empty(), "nothing was called: {steps:?}");
    let waiting = &last["heph"]["tools"]["waiting"][0];
    assert_eq!(
        (&waiting["tool"], &waiting["policy"]),
        (&json!("echo"), &json!("ask"))
    );
    assert_eq!(last["choices"][0]["finish_reason"], "tool_calls");
    let calls: Vec<&Value> = events
        .iter()
        .filter_map(|event| event["choices"][0]["delta"]["tool_calls"].get(0))
        .collect();
    assert_eq!(calls[0]["id"], waiting["id"]);
    let arguments: String = calls
        .iter()
        .filter_map(|call| call["function"]["arguments"].as_str())
        .collect();
    let call = json!({ "id": waiting["id"], "type": "function", "function": { "name": calls[0]["function"]["name"], "arguments": arguments } });
    body["messages"]
        .as_array_mut()
        .unwrap()
        .push(json!({ "role": "assistant", "content": null, "tool_calls": [call] }));
    body["tool_choice"] = json!("none");
    body["heph"]["approved"] = json!([waiting["id"]]);
    let events = door.events("/v1/chat/completions", &body);
    let (steps, last, _) = told(&events);
    assert_eq!(last["heph"]["tools"]["made"][0]["state"], "done");
    // What was said yes to is told while it is called, before any model answers.
    let word = |state: &str| ("echo".to_owned(), state.to_owned());
    assert_eq!(steps, [word("called"), word("done")]);
    let first = events.iter().position(|event| event["heph"]["tool"].is_object());
    let role = events
        .iter()
        .position(|event| event["choices"][0]["delta"]["role"].is_string());
    assert_eq!((role, first), (Some(0), Some(1)));
    assert!(
        events.iter().all(|event| event["id"] == events[0]["id"]),
        "one answer"
    );
    let (status, text) = door.post(
        "/v1/chat/completions",
        &json!({
            "messages": [{ "role": "user", "content": "x" }], "stream": true, "heph": { "mcp": ["nobody"] },
        }),
    );
    assert!(status == 400 && text.contains("nobody"), "{text}");
    let servers: Value = serde_json::from_str(&door.get_with("/heph/v1/servers", &[]).1).unwrap();
    assert_eq!(servers["servers"][0]["name"], "far");
    assert!(
        servers["servers"][0].get("args").is_none(),
        "how it is started is not told"
    );
}

/// A server that says how far it is, where somebody wants to know, and has one tool more after its first call: it says so before
/// the result or, where `LATE` is set, behind it.
const MOVING: &str = r#"
say() { printf '%s\n' "$1"; }
grown=0; more=
while read -r line; do
  id=$(printf '%s' "$line" | sed 's/.*"id":\([0-9][0-9]*\).*/\1/')
  grows() { grown=1; more=',{"name":"more","inputSchema":{"type":"object","additionalProperties":false}}'
    say '{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}'; }
  far() { say '{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":'"$1"',"progress":'"$2"',"total":2,"message":"half\tway"}}'; }
  case "$line" in
    *'"initialize"'*) say '{"jsonrpc":"2.0","id":'"$id"',"result":{"protocolVersion":"2025-06-18","capabilities":{"tools":{"listChanged":true},"resources":{}}}}';;
    *'"tools/list"'*) say '{"jsonrpc":"2.0","id":'"$id"',"result":{"tools":[{"name":"echo","inputSchema":{"type":"object","additionalProperties":false}}'"$more"']}}';;
    *'"tools/call"'*|*'"resources/read"'*)
      case "$line" in *progressToken*) word=asked; token=$(printf '%s' "$line" | sed 's/.*"progressToken":\([0-9][0-9]*\).*/\1/')
          far 999999 2; far "$token" '"x"'; far "$token" 1;; *) word=unasked;; esac
      [ -n "$LATE" ] || grows
      case "$line" in
        *'"tools/call"'*) say '{"jsonrpc":"2.0","id":'"$id"',"result":{"content":[{"type":"text","text":"'"$word"'"}]}}';;
        *) say '{"jsonrpc":"2.0","id":'"$id"',"result":{"contents":[{"uri":"file:///a","text":"'"$word"'"}]}}';;
      esac
      [ -z "$LATE" ] || grows;;
  esac
done"#;

fn moving(late: &str) -> Value {
    json!({
        "command": "/bin/sh", "args": ["-c", MOVING], "env": { "LATE": late }, "others": "allow", "resources": "allow",
        "deadline_s": 60,
    })
}

#[cfg(unix)]
#[test]
fn how_far_a_server_is_goes_to_whoever_listens_and_to_nobody_else() {
    let door = with_servers(json!({ "far": moving("") }));
    let whole = door.json("/v1/chat/completions", &with_tools());
    let result = |tools: &Value| tools["made"][0]["result"].as_str().unwrap().to_owned();
    assert!(result(&whole["heph"]["tools"]).ends_with("unasked"), "{whole}");
    let mut body = with_tools();
    body["stream"] = json!(true);
    let events = door.events("/v1/chat/completions", &body);
    let (steps, last, _) = told(&events);
    assert!(result(&last["heph"]["tools"]).ends_with("\nasked"), "{last}");
    assert!(
        steps
            .iter()
            .all(|(_, state)| state == "called" || state == "done"),
        "{steps:?}"
    );
    let far: Vec<&Value> = events
        .iter()
        .map(|event| &event["heph"]["tool"])
        .filter(|tool| !tool["progress"].is_null())
        .collect();
    // Of another request, or without a number, is no word of ours.
    let id = &last["heph"]["tools"]["made"][0]["id"];
    let first = json!({
        "id": id, "server": "far", "tool": "echo", "state": "called", "progress": 1, "total": 2, "message": "halfway",
    });
    assert_eq!(far[0], &first, "{far:?}");
    // A program that reads a resource by this door hears it under its own name for the question.
    let read = |token: Value| {
        let asked = json!({ "jsonrpc": "2.0", "id": 5, "method": "resources/read", "params": {
            "uri": "heph-mcp://far/file:///a", "_meta": { "progressToken": token },
        } });
        door.raw(
            "POST",
            "/mcp",
            &asked.to_string(),
            &[("accept", "text/event-stream")],
        )
    };
    let said = read(json!("p"));
    let notices: Vec<Value> = said
        .lines()
        .filter_map(|line| serde_json::from_str(line.strip_prefix("data: ")?).ok())
        .collect();
    let params = json!({ "progressToken": "p", "progress": 1, "total": 2, "message": "halfway" });
    assert_eq!(notices[0]["params"], params, "{said}");
    assert_eq!(notices.last().unwrap()["result"]["contents"][0]["text"], "asked");
    assert!(read(Value::Null).contains("unasked"));
}

#[cfg(unix)]
#[test]
fn a_server_that_says_that_its_tools_are_others_is_asked_anew() {
    for late in ["", "1"] {
        let door = with_servers(json!({ "far": moving(late) }));
        let mut body = with_tools();
        body["tool_choice"] = json!({ "type": "function", "function": { "name": "far__more" } });
        let (status, text) = door.post("/v1/chat/completions", &body);
        assert_eq!(status, 400, "nobody has heard of it: {text}");
        door.json("/v1/chat/completions", &with_tools());
        let began = Instant::now();
        let said = loop {
            let (status, text) = door.post("/v1/chat/completions", &body);
            if status == 200 {
                break text;
            }
            // What was said behind an answer comes when it comes.
            assert!(
                !late.is_empty() && began.elapsed() < Duration::from_secs(120),
                "{text}"
            );
            std::thread::sleep(Duration::from_millis(20));
        };
        let said: Value = serde_json::from_str(&said).unwrap();
        assert_eq!(said["heph"]["tools"]["made"][0]["tool"], "more", "{said}");
    }
}

#[cfg(unix)]
#[test]
fn a_broken_server_is_a_sentence_in_time() {
    let hello = |version: &str| {
        format!(
            r#"read l; echo '{{"jsonrpc":"2.0","id":1,"result":{{"protocolVersion":"{version}","capabilities":{{}}}}}}'; exec sleep 600"#
        )
    };
    let broken = |script: &str| json!({ "command": "/bin/sh", "args": ["-c", script], "deadline_s": 2 });
    for (server, expected, word) in [
        (broken("exec sleep 600"), 504, "did not answer within 2 s"),
        (broken("exit 0"), 502, "ended the connection"),
        (broken("read l; echo garbage; exec sleep 600"), 502, "no answer"),
        (
            broken("read l; head -c 5000000 /dev/zero | tr '\\0' x; echo; exec sleep 600"),
            502,
            "more than 4 MiB",
        ),
        (
            broken("read l; yes '{\"jsonrpc\":\"2.0\",\"method\":\"n\"}'"),
            502,
            "other messages",
        ),
        (broken(&hello("1999-01-01")), 502, "not spoken here"),
        (broken(&hello("2025-06-18")), 504, "did not answer"),
        (json!({ "command": "/no/such/program" }), 502, "cannot be started"),
        (
            json!({ "url": "http://127.0.0.1:9/mcp" }),
            502,
            "cannot be reached",
        ),
        (json!({ "url": "file:///etc/passwd" }), 500, "a command or an url"),
    ] {
        let door = with_servers(json!({ "far": server }));
        let (status, text) = door.post("/v1/chat/completions", &with_tools());
        assert!(
            status == expected && text.contains(word),
            "{server}: {status} {text}"
        );
    }
    let door = with_servers(json!({}));
    assert_eq!(
        door.post("/v1/chat/completions", &with_tools()).0,
        400,
        "an unknown server"
    );
}

/// A server at an address, which names a session and may change its tools; `heard` gets the head of each request before its answer.
fn at_an_address() -> (String, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/mcp", listener.local_addr().unwrap());
    let (tell, heard) = mpsc::channel();
    std::thread::spawn(move || {
        let mut lists = 0;
        for stream in listener.incoming() {
            let mut reader = BufReader::new(stream.unwrap());
            let (mut head, mut length) = (String::new(), 0);
            loop {
                let mut line = String::new();
                reader.read_line(&mut line).unwrap();
                if let Some(n) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = n.trim().parse().unwrap();
                }
                if line.trim().is_empty() {
                    break;
                }
                head.push_str(&line.to_ascii_lowercase());
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            let message: Value = serde_json::from_slice(&body).unwrap_or_default();
            let tool = |name: &str| json!({ "name": name, "inputSchema": { "type": "object", "additionalProperties": false } });
            let result = match message["method"].as_str() {
                Some("initialize") => {
                    json!({ "protocolVersion": "2025-06-18", "capabilities": { "tools": { "listChanged": true } } })
                }
                Some("tools/list") => {
                    lists += 1;
                    let more = (lists > 1).then(|| tool("more"));
                    let tools: Vec<Value> = [tool("echo")].into_iter().chain(more).collect();
                    json!({ "tools": tools })
                }
                _ => json!({ "content": [{ "type": "text", "text": "from afar" }] }),
            };
            let answer = json!({ "jsonrpc": "2.0", "id": message["id"], "result": result });
            let token = &message["params"]["_meta"]["progressToken"];
            // As a stream, behind something that is no answer.
            let before = match token.is_null() {
                true => json!({ "jsonrpc": "2.0", "method": "x" }),
                false => {
                    json!({ "jsonrpc": "2.0", "method": "notifications/progress", "params": { "progressToken": token, "progress": 1 } })
                }
            };
            let (kind, body) = match message["method"] == "tools/list" || !token.is_null() {
                true => (
                    "text/event-stream",
                    format!("event: message\ndata: {before}\n\ndata: {answer}\n\n"),
                ),
                false => ("application/json", answer.to_string()),
            };
            let status = match message["id"].is_null() {
                true => "202 Accepted",
                false => "200 OK",
            };
            let said = format!(
                "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\nmcp-session-id: s1\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                body.len()
            );
            if tell.send(head).is_err() {
                return;
            }
            reader.get_mut().write_all(said.as_bytes()).unwrap();
        }
    });
    (url, heard)
}

#[test]
fn a_server_at_an_address_is_asked_over_http() {
    let (url, heard) = at_an_address();
    let door = with_servers(json!({ "far": {
        "url": url, "headers": { "authorization": "Bearer key" }, "others": "allow", "deadline_s": 60,
    } }));
    let said = door.json("/v1/chat/completions", &with_tools());
    assert_eq!(said["heph"]["tools"]["made"][0]["state"], "done", "{said}");
    let mut body = with_tools();
    body["stream"] = json!(true);
    let events = door.events("/v1/chat/completions", &body);
    assert!(
        events.iter().any(|event| event["heph"]["tool"]["progress"] == 1),
        "{events:?}"
    );
    // It may change its tools, and nothing of it is heard in between: it is asked each time.
    body["stream"] = json!(false);
    body["tool_choice"] = json!({ "type": "function", "function": { "name": "far__more" } });
    let said = door.json("/v1/chat/completions", &body);
    assert_eq!(said["heph"]["tools"]["made"][0]["tool"], "more", "{said}");
    let seen: Vec<String> = heard.try_iter().collect();
    assert!(seen.iter().all(|head| head.contains("authorization: bearer key")));
    let of_session = |head: &String| {
        head.contains("mcp-session-id: s1") && head.contains("mcp-protocol-version: 2025-06-18")
    };
    assert!(seen[1..].iter().all(of_session), "{seen:?}");
    // Its session ends with the door.
    drop(door);
    let last: Vec<String> = heard.try_iter().collect();
    assert!(
        last.len() == 1 && last[0].starts_with("delete /mcp ") && of_session(&last[0]),
        "{last:?}"
    );
    assert!(last[0].contains("authorization: bearer key"), "{last:?}");
}

#[test]
fn a_session_is_left_as_it_is_while_this_machine_is_cut_off() {
    let (url, heard) = at_an_address();
    let door = with_servers(json!({ "far": { "url": url, "others": "allow", "deadline_s": 60 } }));
    door.json("/v1/chat/completions", &with_tools());
    let cut = json!({ "cut": true }).to_string();
    let answer = door.raw(
        "PUT",
        "/heph/v1/policy",
        &cut,
        &[("content-type", "application/json")],
    );
    assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
    assert!(heard.try_iter().count() > 2);
    drop(door);
    assert_eq!(heard.try_iter().count(), 0);
}
