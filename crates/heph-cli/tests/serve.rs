//! `heph serve` as a process of its own: what it takes of the machine over many requests and under slow readers, and the
//! caches that it leaves on disk.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

/// A machine under load needs this long for what takes a second elsewhere.
const PATIENCE: Duration = Duration::from_secs(120);

/// A server that answers until it is let go of.
struct Server {
    process: Child,
    address: SocketAddr,
    /// Kept open: a program whose words nobody hears ends.
    _said: BufReader<ChildStdout>,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn heph(home: &TempDir, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_heph"));
    command.args(arguments).env_clear();
    command.env("HEPH_HOME", home.path()).env("HEPH_KEYS", "file");
    command
}

fn serve(home: &TempDir, arguments: &[&str]) -> Server {
    let usual = ["serve", "--no-auth", "--listen", "127.0.0.1:0", "--threads", "1"];
    let mut process = heph(home, &[&usual[..], arguments].concat())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(process.stdout.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    let address = line
        .split("http://")
        .nth(1)
        .and_then(|rest| rest.split('/').next());
    let address = address
        .unwrap_or_else(|| panic!("it says {line:?}"))
        .parse()
        .unwrap();
    Server {
        process,
        address,
        _said: said,
    }
}

impl Server {
    fn post(&self, body: &Value) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let (body, path) = (body.to_string(), "/v1/completions");
        let length = body.len();
        let head = format!("POST {path} HTTP/1.0\r\nhost: localhost\r\ncontent-length: {length}\r\n\r\n");
        stream.write_all((head + &body).as_bytes()).unwrap();
        stream
    }

    fn said(&self, body: &Value) -> String {
        let mut answer = String::new();
        self.post(body).read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
        answer
    }

    /// A count of `/metrics`.
    fn count(&self, name: &str) -> u64 {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream
            .write_all(b"GET /metrics HTTP/1.0\r\nhost: localhost\r\n\r\n")
            .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value
            .unwrap_or_else(|| panic!("no {name} in {text}"))
            .parse()
            .unwrap()
    }

    fn comes_to(&self, name: &str, least: u64) {
        let began = Instant::now();
        while self.count(name) < least {
            assert!(began.elapsed() < PATIENCE, "{name} stays {}", self.count(name));
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A story of so many tokens; nothing ends it before.
fn story(number: usize, tokens: usize) -> Value {
    json!({
        "prompt": format!("Once upon a time there were {number} dogs."), "max_tokens": tokens, "temperature": 1,
        "seed": number, "stream": true, "logit_bias": { "0": -100, "1": -100, "2": -100 },
    })
}

#[cfg(target_os = "linux")]
impl Server {
    /// Kilobytes of memory: `VmRSS:` in use, `VmHWM:` at most so far.
    fn memory_kb(&self, which: &str) -> i64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(which)).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    fn files(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.process.id()))
            .unwrap()
            .count()
    }
}

/// KiB that each of many slow readers takes beyond what as many quick ones took at most. Too high where the quick ones did
/// not run at once, as happens beside other work, and never too low.
#[cfg(target_os = "linux")]
fn kilobytes_of_a_slow_reader() -> i64 {
    const READERS: usize = 32;
    let home = TempDir::new().unwrap();
    // The caches of those who are set aside are the engine's memory: as many run at once beforehand.
    let server = serve(&home, &["--parallel", "32", "--cache-ram", "off"]);
    let ask = |number: usize| {
        let mut body = story(number, 250);
        body["logprobs"] = json!(5);
        body
    };
    std::thread::scope(|scope| {
        let server = &server;
        (0..READERS).for_each(|number| drop(scope.spawn(move || server.said(&ask(number)))));
    });
    let before = server.memory_kb("VmHWM:");
    let mut readers: Vec<TcpStream> = (0..READERS).map(|number| server.post(&ask(number))).collect();
    let (mut heard, mut most) = (vec![0; 256], 0);
    for _ in 0..12 {
        std::thread::sleep(Duration::from_millis(250));
        readers
            .iter_mut()
            .for_each(|reader| reader.read_exact(&mut heard).unwrap());
        most = most.max(server.memory_kb("VmRSS:") - before);
    }
    most / READERS as i64
}

#[cfg(target_os = "linux")]
#[test]
fn a_reader_of_a_kilobyte_a_second_takes_little_memory() {
    let mut tries = Vec::new();
    while tries.len() < 5 && !tries.iter().any(|each| *each <= 64) {
        tries.push(kilobytes_of_a_slow_reader());
    }
    assert!(
        tries.iter().any(|each| *each <= 64),
        "{tries:?} KiB for each reader"
    );
}

#[cfg(target_os = "linux")]
#[test]
fn many_requests_leave_nothing_behind() {
    let home = TempDir::new().unwrap();
    let server = serve(&home, &["--cache-ram", "4MiB", "--cache-disk", "4MiB"]);
    let ask = |from: usize, to: usize| {
        std::thread::scope(|scope| {
            for part in 0..4 {
                let server = &server;
                scope.spawn(move || {
                    for number in (from + part..to).step_by(4) {
                        let mut body = story(number * 7919, 2 + number % 5);
                        if number % 3 == 0 {
                            body["heph"] = json!({ "resume": true });
                        }
                        if number % 5 == 0 {
                            // Somebody who does not wait for the answer.
                            drop(server.post(&body));
                        } else {
                            server.said(&body);
                        }
                    }
                });
            }
        });
    };
    // As many receipts are kept as are kept at most.
    ask(0, 1_100);
    let (memory, files) = (server.memory_kb("VmRSS:"), server.files());
    ask(1_100, 1_700);
    server.comes_to("heph_requests_total", 1);
    let grown = server.memory_kb("VmRSS:") - memory;
    assert!(grown < 4_096, "{grown} kB more after 600 requests");
    assert!(
        server.files() <= files + 8,
        "{} open files after {files}",
        server.files()
    );
}

#[test]
fn caches_on_disk_are_shown_and_removed() {
    let home = TempDir::new().unwrap();
    let says = |arguments: &[&str]| {
        let output = heph(&home, arguments).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let json = |word: &str| -> Value { serde_json::from_str(&says(&["cache", word, "--json"])).unwrap() };
    assert_eq!(json("show")["blocks"], 0);
    let server = serve(&home, &["--cache-disk", "100MB"]);
    let long =
        json!({ "prompt": "The dog ran to the tree and the cat sat on it. ".repeat(20), "max_tokens": 2 });
    server.said(&long);
    server.comes_to("heph_cache_disk_written_total", 2);
    assert!(json("show")["bytes"].as_u64() > Some(10_000));
    assert!(says(&["cache", "show"]).contains("blocks of 64 tokens"));
    // Also under a server that uses it.
    assert!(json("clear")["blocks"].as_u64() >= Some(2));
    assert_eq!(json("show")["blocks"], 0);
    server.said(&long);
    let second = heph(
        &home,
        &[
            "serve",
            "--no-auth",
            "--listen",
            "127.0.0.1:0",
            "--cache-disk",
            "1MB",
        ],
    )
    .output();
    let said = String::from_utf8(second.unwrap().stderr).unwrap();
    assert!(said.contains("another process keeps its caches in"), "{said}");
}

/// What `heph serve --json` says in its next line.
#[cfg(unix)]
fn said(from: &mut impl BufRead) -> Value {
    let mut line = String::new();
    from.read_line(&mut line).unwrap();
    serde_json::from_str(&line).unwrap_or_else(|e| panic!("it says {line:?}: {e}"))
}

#[cfg(unix)]
#[test]
fn a_door_behind_an_inherited_socket_ends_with_who_began_it_and_keeps_nobody_waiting() {
    use std::net::TcpListener;
    use std::os::fd::OwnedFd;
    let home = TempDir::new().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // Who comes before the door is there waits in the socket.
    let mut early = TcpStream::connect(address).unwrap();
    early.set_read_timeout(Some(PATIENCE)).unwrap();
    early
        .write_all(b"GET /health HTTP/1.0\r\nhost: localhost\r\n\r\n")
        .unwrap();
    let begin = |parent: u32| {
        let socket = OwnedFd::from(listener.try_clone().unwrap());
        heph(
            &home,
            &["serve", "--json", "--attach", "--threads", "1", "--inherited"],
        )
        .arg(parent.to_string())
        .stdin(Stdio::from(socket))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
    };
    let mut process = begin(std::process::id());
    let mut out = BufReader::new(process.stdout.take().unwrap());
    let door = said(&mut out);
    assert_eq!(door["address"], format!("http://{address}"));
    assert_eq!(
        (&door["attached"], &door["auth"], &door["pid"]),
        (&json!(false), &json!(true), &json!(process.id()))
    );
    let token = fs::read_to_string(home.path().join("gateway.token")).unwrap();
    assert_eq!(door["page"], format!("http://{address}/#token={}", token.trim()));
    let mut answer = String::new();
    early.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
    process.kill().unwrap();
    process.wait().unwrap();
    // One whose parent is another process than the one named is alone.
    let mut orphan = begin(u32::MAX);
    let began = Instant::now();
    while orphan.try_wait().unwrap().is_none() {
        assert!(began.elapsed() < PATIENCE, "it goes on alone");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[cfg(unix)]
#[test]
fn a_second_door_of_a_home_waits_for_the_first_and_takes_its_place() {
    let home = TempDir::new().unwrap();
    let serve = |arguments: &[&str]| {
        let usual = ["serve", "--json", "--threads", "1", "--listen", "127.0.0.1:0"];
        let mut process = heph(&home, &[&usual[..], arguments].concat())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(process.stdout.take().unwrap());
        (process, out)
    };
    let (mut first, mut out) = serve(&[]);
    let there = said(&mut out);
    let (mut second, mut second_out) = serve(&["--attach"]);
    let found = said(&mut second_out);
    assert_eq!((&found["page"], &found["pid"]), (&there["page"], &there["pid"]));
    assert_eq!(found["attached"], true);
    first.kill().unwrap();
    first.wait().unwrap();
    let taken = said(&mut second_out);
    assert_eq!(
        (&taken["page"], &taken["attached"]),
        (&there["page"], &json!(false))
    );
    assert_eq!(taken["pid"], second.id());
    second.kill().unwrap();
    second.wait().unwrap();
}

/// What is said at a local socket; nothing where nobody listens.
#[cfg(unix)]
fn asked_at(socket: &std::path::Path) -> Option<String> {
    let mut stream = std::os::unix::net::UnixStream::connect(socket).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
        .write_all(b"GET /v1/models HTTP/1.0\r\nhost: localhost\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    Some(answer)
}

#[cfg(unix)]
#[test]
fn a_program_stands_at_its_local_socket_and_leaves_nothing_there() {
    let home = TempDir::new().unwrap();
    let socket = home.path().join("run").join("gateway.sock");
    let end = |mut server: Server, signal: &str| {
        let id = server.process.id().to_string();
        assert!(
            Command::new("kill")
                .args([signal, &id])
                .status()
                .unwrap()
                .success()
        );
        server.process.wait().unwrap();
    };
    let first = serve(&home, &[]);
    assert!(asked_at(&socket).unwrap().starts_with("HTTP/1.0 200"));
    // Another program of the same home has a door of its own, and no socket but one that it names.
    let other = home.path().join("other.sock");
    let second = serve(&home, &["--socket", other.to_str().unwrap()]);
    assert!(asked_at(&other).unwrap().starts_with("HTTP/1.0 200"));
    let third = serve(&home, &[]);
    let named = [
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--socket",
        other.to_str().unwrap(),
    ];
    let refused = heph(&home, &named).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        said.contains("another program listens at") && said.contains("--no-socket"),
        "{said}"
    );
    drop(third);
    end(second, "-INT");
    assert!(!other.exists());
    // One that is killed leaves its socket behind, and the next one takes its place.
    end(first, "-KILL");
    assert!(socket.exists() && asked_at(&socket).is_none());
    let next = serve(&home, &[]);
    assert!(asked_at(&socket).unwrap().starts_with("HTTP/1.0 200"));
    end(next, "-INT");
    assert!(!socket.exists());
    let without = serve(&home, &["--no-socket"]);
    assert!(!socket.exists());
    drop(without);
    // A home whose path is too long for a socket has a door all the same; who names such a path is refused.
    let long = home.path().join("x".repeat(120));
    let mut deep = heph(
        &home,
        &["serve", "--no-auth", "--listen", "127.0.0.1:0", "--threads", "1"],
    );
    let mut process = deep
        .env("HEPH_HOME", &long)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(process.stdout.take().unwrap()).lines();
    assert!(said.next().unwrap().unwrap().contains("answers at"));
    assert!(said.next().unwrap().unwrap().starts_with("page: "));
    let told = said.next().unwrap().unwrap();
    assert!(
        told.starts_with("no local socket: ") && told.contains("too long"),
        "{told}"
    );
    process.kill().unwrap();
    process.wait().unwrap();
    let refused = heph(&home, &["serve", "--socket", long.to_str().unwrap()])
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(2));
}
