//! A door on loopback with the bundled model, and a caller that writes its requests by hand.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
#[cfg(unix)]
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use heph_gateway::{
    Bound, CacheChoice, EngineChoice, EngineError, Guard, Options, Pairings, Rate, ServeError, Server, Tls,
};
use heph_kernels::isa::Isa;
use heph_kernels::kv::KvFormat;
use heph_runtime::settings::{Keys, PUBLIC_HUB, Settings};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A machine under load needs this long for what takes a second elsewhere.
const PATIENCE: Duration = Duration::from_secs(120);

/// A door that answers until it is let go of.
pub(crate) struct Door {
    address: SocketAddr,
    stop: Option<std::sync::mpsc::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
    pub(crate) home: TempDir,
}

impl Drop for Door {
    fn drop(&mut self) {
        self.shut();
    }
}

impl Door {
    fn shut(&mut self) {
        drop(self.stop.take());
        let Some(thread) = self.thread.take() else { return };
        assert!(
            thread.join().is_ok() || std::thread::panicking(),
            "the door broke"
        );
    }

    /// Shuts the door, and hands over its home folder.
    pub(crate) fn leave(mut self) -> TempDir {
        self.shut();
        std::mem::replace(&mut self.home, TempDir::new().unwrap())
    }

    /// One of the counts of `/metrics`.
    pub(crate) fn count(&self, name: &str) -> u64 {
        let text = self.get_with("/metrics", &[]).1;
        let value = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' '));
        value
            .unwrap_or_else(|| panic!("no {name} in {text}"))
            .parse()
            .unwrap()
    }

    /// Waits until a count is so much.
    pub(crate) fn comes_to(&self, name: &str, least: u64) {
        let began = Instant::now();
        while self.count(name) < least {
            assert!(began.elapsed() < PATIENCE, "{name} stays {}", self.count(name));
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

pub(crate) fn options(home: &TempDir, token: Option<&str>, parallel: usize, waiting: usize) -> Options {
    Options {
        model: "heph-story".to_owned(),
        choice: EngineChoice {
            threads: 1,
            isa: Isa::best(),
            kv: KvFormat::F16,
            context: None,
            parallel,
            waiting,
        },
        settings: Settings {
            home: home.path().to_owned(),
            models: home.path().join("models"),
            threads: 1,
            hub: PUBLIC_HUB.to_owned(),
            hub_token: None,
            allow: Vec::new(),
            keys: Some(Keys::File),
        },
        caches: CacheChoice::default(),
        recall: None,
        guard: Guard {
            token: token.map(str::to_owned),
            hosts: Vec::new(),
            origins: Vec::new(),
            pairings: Arc::new(Pairings::at(home.path())),
            rate: Arc::new(Rate::new(None)),
        },
        tls: None,
        machines: None,
    }
}

fn open(token: Option<&str>, parallel: usize, waiting: usize) -> Door {
    let home = TempDir::new().unwrap();
    let options = options(&home, token, parallel, waiting);
    open_with(home, options)
}

/// A door that asks this hub for models.
pub(crate) fn asking(hub: &str) -> Door {
    let home = TempDir::new().unwrap();
    let mut options = options(&home, None, 32, 512);
    options.settings.hub = hub.to_owned();
    open_with(home, options)
}

/// A door that keeps caches in this home folder.
pub(crate) fn keeping(home: TempDir, caches: CacheChoice) -> Door {
    let began = Instant::now();
    loop {
        let options = Options {
            caches: caches.clone(),
            ..options(&home, None, 32, 512)
        };
        match Server::open("127.0.0.1:0".parse().unwrap(), options) {
            // The door that had the folder before is still about to let go of it.
            Err(ServeError::Engine(EngineError::Blocks(_))) if began.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(20));
            }
            server => return answering(home, server.unwrap()),
        }
    }
}

/// A door that gives answers again, of which so many may be wrong.
pub(crate) fn recalling(share: f64) -> Door {
    let home = TempDir::new().unwrap();
    let options = Options {
        recall: Bound::new(share),
        ..options(&home, None, 32, 512)
    };
    open_with(home, options)
}

/// A door that speaks TLS, and its certificate in PEM form.
pub(crate) fn encrypted() -> (Door, String) {
    let home = TempDir::new().unwrap();
    let mut options = options(&home, None, 4, 4);
    options.tls = Some(Tls::own(home.path(), &["localhost".to_owned()]).unwrap());
    let certificate = std::fs::read_to_string(home.path().join("gateway.crt")).unwrap();
    (open_with(home, options), certificate)
}

pub(crate) fn open_with(home: TempDir, options: Options) -> Door {
    let server = Server::open("127.0.0.1:0".parse().unwrap(), options).unwrap();
    answering(home, server)
}

fn answering(home: TempDir, server: Server) -> Door {
    let address = server.address().unwrap();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || {
        let is_over = || stopped.recv_timeout(Duration::from_millis(10)) != Err(RecvTimeoutError::Timeout);
        server.run(is_over).unwrap();
    });
    Door {
        address,
        stop: Some(stop),
        thread: Some(thread),
        home,
    }
}

/// A door for everybody on this machine.
pub(crate) fn door() -> Door {
    open(None, 32, 512)
}

/// A door with room for two answers.
pub(crate) fn narrow() -> Door {
    open(None, 1, 1)
}

/// A door for those who have the token.
pub(crate) fn guarded(token: &str) -> Door {
    open(Some(token), 4, 4)
}

/// A door for those who have the token, and its local socket.
#[cfg(unix)]
pub(crate) fn locally(token: &str) -> (Door, std::path::PathBuf) {
    locally_with(token, None)
}

/// The same, where callers begin so many requests in a minute.
#[cfg(unix)]
pub(crate) fn locally_with(token: &str, rate: Option<NonZeroU32>) -> (Door, std::path::PathBuf) {
    let home = TempDir::new().unwrap();
    let mut options = options(&home, Some(token), 4, 4);
    options.guard.rate = Arc::new(Rate::new(rate));
    let local = heph_gateway::LocalSocket::of_home(home.path()).unwrap();
    let socket = local.path().to_owned();
    let server = Server::open("127.0.0.1:0".parse().unwrap(), options).unwrap();
    (answering(home, server.also_at(local)), socket)
}

/// Whether a door without a token is refused there.
pub(crate) fn refuses_to_open(address: &str) -> bool {
    let home = TempDir::new().unwrap();
    let opened = Server::open(address.parse().unwrap(), options(&home, None, 1, 1));
    matches!(opened, Err(ServeError::OpenToOthers(_)))
}

/// Whether a door with a token, and without a certificate, is refused there.
pub(crate) fn refuses_to_speak_plainly(address: &str) -> bool {
    let home = TempDir::new().unwrap();
    let token = Some("sesame-sesame-sesame-sesame-sesame");
    let opened = Server::open(address.parse().unwrap(), options(&home, token, 1, 1));
    matches!(opened, Err(ServeError::PlainToOthers(_)))
}

/// The text of an answer.
pub(crate) fn chat(door: &Door, body: &Value) -> String {
    let said = door.json("/v1/chat/completions", body);
    let text = said["choices"][0]["message"]["content"].as_str();
    text.unwrap_or_else(|| panic!("{said}")).to_owned()
}

impl Door {
    /// A connection of one's own.
    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// The whole answer, its head included. In HTTP/1.0, whose bodies end with the connection.
    pub(crate) fn raw(&self, method: &str, path: &str, body: &str, headers: &[(&str, &str)]) -> String {
        let mut stream = self.connect();
        let mut head = format!("{method} {path} HTTP/1.0\r\ncontent-length: {}\r\n", body.len());
        if !headers.iter().any(|(name, _)| *name == "host") {
            head.push_str("host: 127.0.0.1\r\n");
        }
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        stream.write_all(format!("{head}\r\n{body}").as_bytes()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        String::from_utf8(answer).unwrap()
    }

    fn split(raw: &str) -> (u16, String) {
        let (head, body) = raw
            .split_once("\r\n\r\n")
            .unwrap_or_else(|| panic!("no answer: {raw:?}"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, body.to_owned())
    }

    pub(crate) fn post_text(&self, path: &str, body: &str) -> (u16, String) {
        Self::split(&self.raw("POST", path, body, &[("content-type", "application/json")]))
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> (u16, String) {
        self.post_text(path, &body.to_string())
    }

    pub(crate) fn json(&self, path: &str, body: &Value) -> Value {
        let (status, text) = self.post(path, body);
        assert_eq!(status, 200, "{path}: {text}");
        serde_json::from_str(&text).unwrap()
    }

    pub(crate) fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> (u16, String) {
        Self::split(&self.raw("GET", path, "", headers))
    }

    /// The data of a stream's events, without the last word.
    pub(crate) fn events(&self, path: &str, body: &Value) -> Vec<Value> {
        let (status, text) = self.post(path, body);
        assert_eq!(status, 200, "{path}: {text}");
        assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
        let data = text
            .lines()
            .filter_map(|l| l.strip_prefix("data: "))
            .filter(|d| *d != "[DONE]");
        data.map(|d| serde_json::from_str(d).unwrap()).collect()
    }

    /// Waits until something is computed.
    pub(crate) fn is_at_work(&self) {
        let began = Instant::now();
        loop {
            let status: Value = serde_json::from_str(&self.get_with("/heph/v1/status", &[]).1).unwrap();
            if status["requests"]["running"] != json!(0) {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "{status}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits until nothing is computed any more.
    pub(crate) fn comes_to_rest(&self) {
        let began = Instant::now();
        loop {
            let status: Value = serde_json::from_str(&self.get_with("/heph/v1/status", &[]).1).unwrap();
            if status["requests"]["running"] == json!(0) && status["requests"]["waiting"] == json!(0) {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "{status}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Changes one place of a body into something else.
pub(crate) fn spoil(body: &mut Value, random: &mut impl FnMut(usize) -> usize) {
    let wrong = [
        json!(null),
        json!(-1),
        json!(1e300),
        json!(""),
        json!([]),
        json!({}),
        json!(true),
        json!("\u{0}\u{ffff}"),
        json!([[[[]]]]),
        json!(9_007_199_254_740_993_i64),
        json!({ "type": "object" }),
        json!(["x", 1]),
    ];
    match body {
        Value::Object(map) if !map.is_empty() && random(6) > 0 => {
            let at = random(map.len());
            if random(8) == 0 {
                let key = map.keys().nth(at).cloned().unwrap();
                map.remove(&key);
            } else if let Some(value) = map.values_mut().nth(at) {
                spoil(value, random);
            }
        }
        Value::Array(list) if !list.is_empty() && random(4) > 0 => {
            let at = random(list.len());
            spoil(&mut list[at], random);
        }
        other => *other = wrong[random(wrong.len())].clone(),
    }
}
