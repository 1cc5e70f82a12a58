//! The local socket beside a door that asks for a token, and who is heard there.

use std::io::{Read, Write};
use std::num::NonZeroU32;
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::{Value, json};

use crate::knocking::{chat, locally, locally_with};

const TOKEN: &str = "sesame-sesame-sesame-sesame-sesame";

/// The whole answer, its head included; nothing where nobody listens to this caller.
fn asks(socket: &Path, method: &str, path: &str, headers: &str, body: &str) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    let length = body.len();
    let head =
        format!("{method} {path} HTTP/1.0\r\nhost: localhost\r\n{headers}content-length: {length}\r\n\r\n");
    let mut answer = String::new();
    // Whoever is not heard may be hung up on before they have spoken.
    if stream.write_all((head + body).as_bytes()).is_ok() {
        let _ = stream.read_to_string(&mut answer);
    }
    answer
}

#[test]
fn a_program_of_the_same_user_needs_no_token_at_the_socket_and_everybody_else_does() {
    let (door, socket) = locally(TOKEN);
    let body = json!({
        "messages": [{ "role": "user", "content": "Tell me a story about a fox." }], "max_tokens": 12, "temperature": 0,
    });
    assert_eq!(door.post("/v1/chat/completions", &body).0, 401);
    let said = asks(&socket, "POST", "/v1/chat/completions", "", &body.to_string());
    let (head, answer) = said.split_once("\r\n\r\n").unwrap();
    assert!(
        head.starts_with("HTTP/1.0 200") && head.contains("heph-receipt: "),
        "{head}"
    );
    let answer: Value = serde_json::from_str(answer).unwrap();
    let open = crate::knocking::door();
    assert_eq!(answer["choices"][0]["message"]["content"], chat(&open, &body));
    // A name that was bound anew and a page are sent away here as elsewhere.
    let page = asks(
        &socket,
        "GET",
        "/v1/models",
        "origin: https://evil.example\r\n",
        "",
    );
    assert!(page.starts_with("HTTP/1.0 403"), "{page}");
    let mut named = UnixStream::connect(&socket).unwrap();
    named
        .write_all(b"GET /v1/models HTTP/1.0\r\nhost: evil.example\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    named.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.0 403"), "{answer}");
    let home = door.leave();
    assert!(!socket.exists(), "the socket goes with its door");
    drop(home);
}

#[test]
fn the_socket_is_a_caller_of_its_own_and_hears_how_many_came_too_often() {
    let (door, socket) = locally_with(TOKEN, NonZeroU32::new(20));
    let token = format!("Bearer {TOKEN}");
    let asked = (0..60).map(|_| door.get_with("/v1/models", &[("authorization", &token)]).0);
    let refused = asked.filter(|&status| status == 429).count();
    // Two minutes may share them.
    assert!((20..=40).contains(&refused), "{refused}");
    let said = asks(&socket, "GET", "/metrics", "", "");
    let counted = said
        .lines()
        .find_map(|line| line.strip_prefix("heph_requests_limited_total "));
    assert_eq!(counted, Some(refused.to_string().as_str()), "{said}");
}

/// Fails where nobody listens to it at the socket that the environment names.
#[test]
#[ignore = "is begun as another user by the test below"]
fn as_another_user() {
    let Some(socket) = std::env::var_os("HEPH_TEST_SOCKET") else {
        return;
    };
    let heard = asks(Path::new(&socket), "GET", "/v1/models", "", "");
    assert!(heard.starts_with("HTTP/1.0 200"), "heard {heard:?}");
}

/// Only the administrator can become another user: whoever is not tries nothing here.
#[test]
fn another_user_is_not_heard_even_where_the_file_lets_them_in() {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::os::unix::process::CommandExt;

    let (door, socket) = locally(TOKEN);
    if fs::metadata(&socket).unwrap().uid() != 0 {
        return;
    }
    let open = |path: &Path| fs::set_permissions(path, Permissions::from_mode(0o777)).unwrap();
    for path in [door.home.path(), socket.parent().unwrap(), &socket] {
        open(path);
    }
    let program = door.home.path().join("program");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    open(&program);
    let knocks = |user: u32| {
        let mut command = std::process::Command::new(&program);
        command
            .args(["--exact", "local::as_another_user", "--ignored"])
            .env("HEPH_TEST_SOCKET", &socket)
            .current_dir("/")
            .uid(user)
            .gid(user);
        let said = command.output().unwrap();
        String::from_utf8_lossy(&said.stdout).into_owned()
    };
    let said = knocks(0);
    assert!(said.contains("1 passed"), "{said}");
    let said = knocks(65_534);
    assert!(said.contains("heard \"\"") && said.contains("1 failed"), "{said}");
}
