//! The Model Context Protocol at a real door: HEPH's own tools, and the person's servers, sound and broken.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;

use heph_gateway::McpServer;
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
    let unknown = json!({ "jsonrpc": "2.0", "id": 2, "method": "resources/list" });
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
    for (field, value) in [("stream", json!(true)), ("n", json!(2))] {
        let mut body = with_tools();
        body[field] = value;
        assert_eq!(door.post("/v1/chat/completions", &body).0, 400, "{field}");
    }
}

#[cfg(unix)]
#[test]
fn a_broken_server_is_a_sentence_in_time() {
    let hello = |version: &str| {
        format!(
            r#"read l; echo '{{"jsonrpc":"2.0","id":1,"result":{{"protocolVersion":"{version}","capabilities":{{}}}}}}'; sleep 600"#
        )
    };
    let broken = |script: &str| json!({ "command": "/bin/sh", "args": ["-c", script], "deadline_s": 2 });
    for (server, expected, word) in [
        (broken("sleep 600"), 504, "did not answer within 2 s"),
        (broken("exit 0"), 502, "ended the connection"),
        (broken("read l; echo garbage; sleep 600"), 502, "no answer"),
        (
            broken("read l; head -c 5000000 /dev/zero | tr '\\0' x; echo; sleep 600"),
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

#[test]
fn a_server_at_an_address_is_asked_over_http() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/mcp", listener.local_addr().unwrap());
    let server = std::thread::spawn(move || {
        let mut seen = Vec::new();
        for _ in 0..4 {
            let (stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream);
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
            let message: Value = serde_json::from_slice(&body).unwrap();
            let result = match message["method"].as_str().unwrap() {
                "initialize" => json!({ "protocolVersion": "2025-06-18", "capabilities": {} }),
                "tools/list" => {
                    json!({ "tools": [{ "name": "echo", "inputSchema": { "type": "object", "additionalProperties": false } }] })
                }
                _ => json!({ "content": [{ "type": "text", "text": "from afar" }] }),
            };
            let answer = json!({ "jsonrpc": "2.0", "id": message["id"], "result": result });
            let (kind, body) = match message["method"] == "tools/list" {
                // As a stream, behind something that is no answer.
                true => (
                    "text/event-stream",
                    format!(
                        "event: message\ndata: {{\"jsonrpc\":\"2.0\",\"method\":\"x\"}}\n\ndata: {answer}\n\n"
                    ),
                ),
                false => ("application/json", answer.to_string()),
            };
            let status = if message["id"].is_null() {
                "202 Accepted"
            } else {
                "200 OK"
            };
            let said = format!(
                "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\nmcp-session-id: s1\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                body.len()
            );
            reader.get_mut().write_all(said.as_bytes()).unwrap();
            seen.push(head);
        }
        seen
    });
    let door = with_servers(json!({ "far": {
        "url": url, "headers": { "authorization": "Bearer key" }, "others": "allow", "deadline_s": 60,
    } }));
    let said = door.json("/v1/chat/completions", &with_tools());
    assert_eq!(said["heph"]["tools"]["made"][0]["state"], "done", "{said}");
    let seen = server.join().unwrap();
    assert!(seen.iter().all(|head| head.contains("authorization: bearer key")));
    assert!(
        seen[1..]
            .iter()
            .all(|head| head.contains("mcp-session-id: s1")
                && head.contains("mcp-protocol-version: 2025-06-18")),
        "{seen:?}"
    );
}
