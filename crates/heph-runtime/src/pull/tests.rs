//! Downloads from a hub on this machine that behaves as badly as a real one can.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::*;
use crate::guard::Outlet;
use crate::store::Found;

/// What a server sees of a question.
#[derive(Debug, Clone)]
struct Asked {
    /// Counted from 0 over the server's life.
    number: usize,
    path: String,
    headers: HashMap<String, String>,
}

impl Asked {
    /// The first byte asked for.
    fn from(&self) -> usize {
        let range = self.headers.get("range").and_then(|r| r.strip_prefix("bytes="));
        range
            .and_then(|r| r.trim_end_matches('-').parse().ok())
            .unwrap_or(0)
    }
}

/// A hub whose every answer is written by `reply`, one connection per question.
struct Server {
    address: String,
    log: Arc<Mutex<Vec<Asked>>>,
}

impl Server {
    fn new(reply: impl Fn(&Asked, &mut TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let log = Arc::new(Mutex::new(Vec::new()));
        let (reply, seen) = (Arc::new(reply), Arc::clone(&log));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (reply, seen) = (Arc::clone(&reply), Arc::clone(&seen));
                thread::spawn(move || answer(stream, &seen, &*reply));
            }
        });
        Self { address, log }
    }

    fn asked(&self) -> Vec<Asked> {
        self.log.lock().unwrap().clone()
    }
}

fn answer(mut stream: TcpStream, seen: &Mutex<Vec<Asked>>, reply: &dyn Fn(&Asked, &mut TcpStream)) {
    let mut lines = BufReader::new(stream.try_clone().unwrap())
        .lines()
        .map_while(Result::ok);
    let Some(first) = lines.next() else { return };
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let headers = lines.take_while(|l| !l.is_empty());
    let headers = headers.filter_map(|l| l.split_once(": ").map(|(n, v)| (n.to_lowercase(), v.to_owned())));
    let headers = headers.collect();
    let asked = {
        let mut seen = seen.lock().unwrap();
        let asked = Asked {
            number: seen.len(),
            path,
            headers,
        };
        seen.push(asked.clone());
        asked
    };
    reply(&asked, &mut stream);
}

/// A sound GGUF file without anything in it, and a tail longer than one buffer.
fn content() -> Vec<u8> {
    let mut content = [b"GGUF", &3u32.to_le_bytes()[..], &[0; 16]].concat();
    content.extend((24..600_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8));
    content
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// A well-behaved answer: the whole, or the part that was asked for.
fn serve(asked: &Asked, stream: &mut TcpStream, tag: &str, content: &[u8], sent_max: usize) {
    let (from, total) = (asked.from(), content.len());
    if from >= total {
        let head = "HTTP/1.1 416 Range Not Satisfiable";
        let _ = write!(
            stream,
            "{head}\r\ncontent-range: bytes */{total}\r\nx-linked-etag: \"{tag}\"\r\n"
        );
        let _ = write!(stream, "content-length: 0\r\nconnection: close\r\n\r\n");
        return;
    }
    let part = &content[from..];
    if from > 0 {
        let range = format!("bytes {from}-{}/{total}", total - 1);
        let _ = write!(
            stream,
            "HTTP/1.1 206 Partial Content\r\ncontent-range: {range}\r\n"
        );
    } else {
        let _ = write!(stream, "HTTP/1.1 200 OK\r\n");
    }
    let _ = write!(
        stream,
        "x-linked-etag: \"{tag}\"\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        part.len()
    );
    let _ = stream.write_all(&part[..part.len().min(sent_max)]);
}

fn status(stream: &mut TcpStream, line: &str, headers: &str) {
    let _ = write!(
        stream,
        "HTTP/1.1 {line}\r\n{headers}content-length: 0\r\nconnection: close\r\n\r\n"
    );
}

/// Short waits, so that the tests are quick; the silence is long enough for a busy machine.
fn patience() -> Patience {
    Patience {
        connect: Duration::from_secs(5),
        response: Duration::from_secs(5),
        silence: Duration::from_secs(5),
        attempts: 4,
        pause: Duration::from_millis(1),
        pause_max: Duration::from_millis(4),
    }
}

struct Desk {
    store: Store,
    folder: TempDir,
}

fn desk() -> Desk {
    let folder = TempDir::new().unwrap();
    Desk {
        store: Store::new(folder.path().join("models")),
        folder,
    }
}

fn request() -> Request {
    Request {
        repository: Repository::new("owner/tiny").unwrap(),
        revision: "main".into(),
        file: Some("tiny.gguf".into()),
        sha256: None,
        name: ModelName::new("tiny").unwrap(),
    }
}

impl Desk {
    fn outlet(&self) -> Outlet {
        Outlet::at(self.folder.path(), &[])
    }

    fn pull(&self, server: &Server, request: &Request) -> Result<Record, PullError> {
        self.pull_with(server, request, patience())
    }

    fn pull_with(&self, server: &Server, request: &Request, patience: Patience) -> Result<Record, PullError> {
        let hub = Hub::new(&server.address, Some("secret"), patience, self.outlet());
        pull(&hub, &self.store, request, &Cancel::new(), &mut |_| {})
    }

    /// What a model's first file holds, or `None` if no such model is visible.
    fn held(&self) -> Option<Vec<u8>> {
        let found = self.store.find("tiny").ok()?;
        let Found::Stored(folder, record) = found else {
            return None;
        };
        std::fs::read(folder.join(&record.files[0].name)).ok()
    }

    fn part(&self) -> std::path::PathBuf {
        self.store.folder().join(".incoming/tiny/tiny.gguf.part")
    }
}

#[test]
fn a_model_arrives_whole_and_checked() {
    let server =
        Server::new(|asked, stream| serve(asked, stream, &sha256(&content()), &content(), usize::MAX));
    let desk = desk();
    let record = desk.pull(&server, &request()).unwrap();
    assert_eq!(desk.held().unwrap(), content());
    assert_eq!(record.files[0].sha256, Some(sha256(&content())));
    assert_eq!(server.asked()[0].path, "/owner/tiny/resolve/main/tiny.gguf");
    assert!(!desk.part().exists());
}

#[test]
fn a_cut_connection_is_taken_up_where_it_broke() {
    let server = Server::new(|asked, stream| {
        let sent = if asked.number < 2 { 200_000 } else { usize::MAX };
        serve(asked, stream, &sha256(&content()), &content(), sent);
    });
    let desk = desk();
    desk.pull(&server, &request()).unwrap();
    assert_eq!(desk.held().unwrap(), content());
    let starts: Vec<_> = server.asked().iter().map(Asked::from).collect();
    assert_eq!(starts, [0, 200_000, 400_000]);
}

#[test]
fn a_later_run_goes_on_where_an_earlier_one_gave_up() {
    let desk = desk();
    let broken = Server::new(|asked, stream| match asked.number {
        0 => serve(asked, stream, "tag", &content(), 300_000),
        _ => drop(stream.shutdown(std::net::Shutdown::Both)),
    });
    assert!(matches!(
        desk.pull(&broken, &request()),
        Err(PullError::Unreachable { .. })
    ));
    assert!(desk.held().is_none());
    let server = Server::new(|asked, stream| serve(asked, stream, "tag", &content(), usize::MAX));
    desk.pull(&server, &request()).unwrap();
    assert_eq!(server.asked()[0].from(), 300_000);
    assert_eq!(desk.held().unwrap(), content());
}

#[test]
fn a_file_that_changed_is_not_glued_to_its_past() {
    let server = Server::new(|asked, stream| match asked.number {
        0 => serve(asked, stream, "old", &vec![1; 600_000], 200_000),
        _ => serve(asked, stream, "new", &content(), usize::MAX),
    });
    let desk = desk();
    desk.pull(&server, &request()).unwrap();
    assert_eq!(desk.held().unwrap(), content());
    assert_eq!(
        server.asked().iter().map(Asked::from).collect::<Vec<_>>(),
        [0, 200_000, 0]
    );
}

#[test]
fn a_server_without_ranges_starts_from_the_beginning() {
    let server = Server::new(|asked, stream| {
        let sent = if asked.number == 0 { 200_000 } else { usize::MAX };
        let whole = Asked {
            headers: HashMap::new(),
            ..asked.clone()
        };
        serve(&whole, stream, "tag", &content(), sent);
    });
    let desk = desk();
    desk.pull(&server, &request()).unwrap();
    assert_eq!(desk.held().unwrap(), content());
}

#[test]
fn nothing_left_to_send_means_the_part_is_whole() {
    let server =
        Server::new(|asked, stream| serve(asked, stream, &sha256(&content()), &content(), usize::MAX));
    let desk = desk();
    std::fs::create_dir_all(desk.part().parent().unwrap()).unwrap();
    std::fs::write(desk.part(), content()).unwrap();
    std::fs::write(desk.part().with_added_extension("tag"), sha256(&content())).unwrap();
    desk.pull(&server, &request()).unwrap();
    assert_eq!(server.asked().len(), 1);
    assert_eq!(desk.held().unwrap(), content());
}

#[test]
fn a_part_longer_than_the_file_is_thrown_away() {
    let server = Server::new(|asked, stream| serve(asked, stream, "tag", &content(), usize::MAX));
    let desk = desk();
    std::fs::create_dir_all(desk.part().parent().unwrap()).unwrap();
    std::fs::write(desk.part(), vec![0; 700_000]).unwrap();
    std::fs::write(desk.part().with_added_extension("tag"), "tag").unwrap();
    desk.pull(&server, &request()).unwrap();
    assert_eq!(
        server.asked().iter().map(Asked::from).collect::<Vec<_>>(),
        [700_000, 0]
    );
    assert_eq!(desk.held().unwrap(), content());
}

#[test]
fn a_wrong_checksum_is_an_error_and_leaves_nothing() {
    let server = Server::new(|asked, stream| serve(asked, stream, &"0".repeat(64), &content(), usize::MAX));
    let desk = desk();
    let Err(PullError::Checksum { got, wanted, .. }) = desk.pull(&server, &request()) else {
        panic!("a wrong checksum went unnoticed")
    };
    assert_eq!((got, wanted), (sha256(&content()), "0".repeat(64)));
    assert!(desk.held().is_none());
    assert!(!desk.part().exists());
}

#[test]
fn a_checksum_of_ones_own_stands_above_the_hubs() {
    let server =
        Server::new(|asked, stream| serve(asked, stream, &sha256(&content()), &content(), usize::MAX));
    let desk = desk();
    let wrong = Request {
        sha256: Some("f".repeat(64)),
        ..request()
    };
    assert!(matches!(
        desk.pull(&server, &wrong),
        Err(PullError::Checksum { .. })
    ));
    let no_sum = Request {
        sha256: Some("abc".into()),
        ..request()
    };
    assert!(matches!(desk.pull(&server, &no_sum), Err(PullError::Sha256(_))));
    let right = Request {
        sha256: Some(sha256(&content()).to_uppercase()),
        ..request()
    };
    desk.pull(&server, &right).unwrap();
}

#[test]
fn a_damaged_part_heals_by_one_more_download() {
    let server =
        Server::new(|asked, stream| serve(asked, stream, &sha256(&content()), &content(), usize::MAX));
    let desk = desk();
    std::fs::create_dir_all(desk.part().parent().unwrap()).unwrap();
    std::fs::write(desk.part(), vec![0; 1000]).unwrap();
    std::fs::write(desk.part().with_added_extension("tag"), sha256(&content())).unwrap();
    desk.pull(&server, &request()).unwrap();
    assert_eq!(
        server.asked().iter().map(Asked::from).collect::<Vec<_>>(),
        [1000, 0]
    );
    assert_eq!(desk.held().unwrap(), content());
}

#[test]
fn a_silent_server_is_given_up_after_the_last_attempt() {
    let server = Server::new(|asked, stream| {
        serve(asked, stream, "tag", &content(), 1000);
        thread::sleep(Duration::from_secs(20));
    });
    let desk = desk();
    let patience = Patience {
        silence: Duration::from_millis(100),
        attempts: 2,
        ..patience()
    };
    let error = desk.pull_with(&server, &request(), patience).unwrap_err();
    assert!(matches!(error, PullError::Unreachable { .. }), "{error:?}");
    assert_eq!(server.asked().len(), 2);
    assert!(desk.held().is_none());
}

#[test]
fn a_server_that_never_answers_is_given_up() {
    let server = Server::new(|_, _| thread::sleep(Duration::from_secs(20)));
    let short = Duration::from_millis(100);
    let patience = Patience {
        response: short,
        silence: short,
        attempts: 2,
        ..patience()
    };
    let error = desk().pull_with(&server, &request(), patience).unwrap_err();
    assert!(matches!(error, PullError::Unreachable { .. }), "{error:?}");
}

#[test]
fn a_busy_server_is_asked_again_and_a_refusal_is_final() {
    let busy = Server::new(|asked, stream| match asked.number {
        0 => status(stream, "503 Service Unavailable", ""),
        1 => status(stream, "429 Too Many Requests", "retry-after: 0\r\n"),
        _ => serve(asked, stream, "tag", &content(), usize::MAX),
    });
    desk().pull(&busy, &request()).unwrap();
    assert_eq!(busy.asked().len(), 3);
    for (line, code) in [("401 Unauthorized", 401), ("404 Not Found", 404)] {
        let server = Server::new(move |_, stream| status(stream, line, ""));
        let error = desk().pull(&server, &request()).unwrap_err();
        assert!(
            matches!(error, PullError::Refused { status, .. } if status == code),
            "{error:?}"
        );
        assert_eq!(server.asked().len(), 1);
    }
}

#[test]
fn the_token_goes_to_the_hub_and_to_no_other_host() {
    let network = Server::new(|asked, stream| serve(asked, stream, "other", &content(), usize::MAX));
    let target = network.address.clone();
    let tag = sha256(&content());
    let hub = Server::new(move |_, stream| {
        status(
            stream,
            "302 Found",
            &format!("location: {target}/blob\r\nx-linked-etag: \"{tag}\"\r\n"),
        );
    });
    let record = desk().pull(&hub, &request()).unwrap();
    assert_eq!(
        hub.asked()[0].headers.get("authorization").unwrap(),
        "Bearer secret"
    );
    assert_eq!(network.asked()[0].headers.get("authorization"), None);
    assert_eq!(
        record.files[0].sha256,
        Some(sha256(&content())),
        "the hub's checksum counts, not the network's tag"
    );
}

#[test]
fn a_circle_of_redirects_ends() {
    let server = Server::new(|_, stream| status(stream, "302 Found", "location: /again\r\n"));
    let error = desk().pull(&server, &request()).unwrap_err();
    assert!(matches!(error, PullError::Nonsense { .. }), "{error:?}");
}

#[test]
fn the_hubs_list_chooses_the_files() {
    let server = Server::new(|asked, stream| {
        if asked.path.starts_with("/api/") {
            let list = br#"{"sha":"c0ffee","siblings":[{"rfilename":"config.json","size":2},
                {"rfilename":"model.safetensors","size":10},{"rfilename":"README.md","size":1}]}"#;
            serve(asked, stream, "list", list, usize::MAX);
        } else if asked.path.ends_with("config.json") {
            serve(asked, stream, "config", b"{}", usize::MAX);
        } else {
            serve(asked, stream, "tensors", b"\x02\0\0\0\0\0\0\0{}", usize::MAX);
        }
    });
    let desk = desk();
    let record = desk
        .pull(
            &server,
            &Request {
                file: None,
                ..request()
            },
        )
        .unwrap();
    assert_eq!(record.format, Format::HuggingFace);
    let sizes: Vec<_> = record.files.iter().map(|f| (f.name.as_str(), f.bytes)).collect();
    assert_eq!(sizes, [("config.json", 2), ("model.safetensors", 10)]);
    assert!(matches!(record.origin, Origin::Pull { commit: Some(c), .. } if c == "c0ffee"));
}

/// A hub whose repositories are folders, at the first of `commits` until a download of weights was refused once, then at
/// the second one and with other contents.
fn folder_hub(commits: [&'static str; 2]) -> Server {
    let refused = AtomicBool::new(false);
    Server::new(move |asked, stream| {
        let now = usize::from(refused.load(Ordering::Relaxed));
        if asked.path.starts_with("/api/") {
            let files = ["1_Pooling/config.json", "config.json", "model.safetensors"];
            let files = files.map(|file| serde_json::json!({ "rfilename": file }));
            let list = serde_json::json!({ "sha": commits[now], "siblings": files }).to_string();
            serve(asked, stream, "list", list.as_bytes(), usize::MAX);
        } else if asked.path.ends_with("config.json") {
            let config: [&[u8]; 2] = [b"{\"a\":1}", b"{\"a\":2}"];
            serve(asked, stream, commits[now], config[now], usize::MAX);
        } else if now == 0 {
            refused.store(true, Ordering::Relaxed);
            status(stream, "403 Forbidden", "");
        } else {
            serve(asked, stream, "tensors", b"\x02\0\0\0\0\0\0\0{}", usize::MAX);
        }
    })
}

#[test]
fn only_what_came_from_the_same_place_is_made_part_of_a_model() {
    let whole = Request {
        file: None,
        ..request()
    };
    let other = Request {
        repository: Repository::new("another/tiny").unwrap(),
        ..whole.clone()
    };
    for (then, commits, config) in [
        (&whole, ["1", "1"], "{\"a\":1}"),
        (&whole, ["1", "2"], "{\"a\":2}"),
        (&other, ["1", "1"], "{\"a\":2}"),
    ] {
        let (hub, desk) = (folder_hub(commits), desk());
        assert!(desk.pull(&hub, &whole).is_err());
        let left = desk.store.folder().join(".incoming/tiny/chat_template.jinja");
        std::fs::write(left, "of another model").unwrap();
        desk.pull(&hub, then).unwrap();
        let Found::Stored(folder, record) = desk.store.find("tiny").unwrap() else {
            panic!("a model of the store")
        };
        for file in ["config.json", "1_Pooling/config.json"] {
            assert!(
                record.files.iter().any(|record| record.name == file),
                "{record:?}"
            );
            assert_eq!(std::fs::read_to_string(folder.join(file)).unwrap(), config);
        }
        assert!(!folder.join("chat_template.jinja").exists() && !folder.join(".origin").exists());
    }
}

/// Two parts of a model at each of two commits: the branch moves to the second when the second part was asked for.
fn moving_hub(tells_sums: bool) -> Server {
    let moved = AtomicBool::new(false);
    let long = content();
    let short = long[..500_000].to_vec();
    let parts = [[long.clone(), short.clone()], [short, long]];
    Server::new(move |asked, stream| {
        let now = usize::from(moved.load(Ordering::Relaxed));
        let commit = ["aaaa", "bbbb"][now];
        if asked.path.starts_with("/api/") {
            let listed = [0, 1].map(|part| {
                let name = format!("tiny-0000{}-of-00002.gguf", part + 1);
                match tells_sums {
                    true => serde_json::json!({ "rfilename": name, "lfs": { "sha256": sha256(&parts[now][part]) } }),
                    false => serde_json::json!({ "rfilename": name }),
                }
            });
            let list = serde_json::json!({ "sha": commit, "siblings": listed }).to_string();
            return serve(asked, stream, "list", list.as_bytes(), usize::MAX);
        }
        let part = usize::from(asked.path.contains("-00002-of"));
        if !asked.path.contains(&format!("/resolve/{commit}/")) {
            status(stream, "404 Not Found", "");
        } else if (now, part) == (0, 1) {
            moved.store(true, Ordering::Relaxed);
            status(stream, "403 Forbidden", "");
        } else {
            // The tag is that of the branch, and says nothing of the content.
            serve(asked, stream, "branch", &parts[now][part], usize::MAX);
        }
    })
}

#[test]
fn parts_of_two_commits_never_make_one_model() {
    for tells_sums in [false, true] {
        let (server, desk) = (moving_hub(tells_sums), desk());
        let parts = Request {
            file: Some("tiny-00001-of-00002.gguf".into()),
            ..request()
        };
        assert!(desk.pull(&server, &parts).is_err());
        let first = desk
            .store
            .folder()
            .join(".incoming/tiny/tiny-00001-of-00002.gguf");
        assert_eq!(std::fs::metadata(first).unwrap().len(), content().len() as u64);
        // The scripted parts are no model in the end; what was asked for tells what it would have been made of.
        let _ = desk.pull(&server, &parts);
        let asked: Vec<String> = server.asked().into_iter().map(|asked| asked.path).collect();
        for part in ["/bbbb/tiny-00001-of", "/bbbb/tiny-00002-of"] {
            assert!(
                asked.iter().any(|path| path.contains(part)),
                "{tells_sums}: {asked:?}"
            );
        }
    }
}

#[test]
fn a_page_in_the_place_of_a_model_is_not_kept() {
    let server = Server::new(|asked, stream| {
        serve(
            asked,
            stream,
            "page",
            b"<html>there is no such page</html>",
            usize::MAX,
        );
    });
    let desk = desk();
    let error = desk.pull(&server, &request()).unwrap_err();
    assert!(
        matches!(error, PullError::Store(StoreError::Open(_))),
        "{error:?}"
    );
    assert!(desk.held().is_none() && !desk.part().parent().unwrap().exists());
}

#[test]
fn a_refused_download_leaves_nothing() {
    let server = Server::new(|_, stream| status(stream, "404 Not Found", ""));
    let desk = desk();
    assert!(desk.pull(&server, &request()).is_err());
    let incoming = desk.store.folder().join(".incoming");
    assert_eq!(std::fs::read_dir(incoming).unwrap().count(), 0);
}

#[test]
fn one_sum_is_for_a_model_of_one_file() {
    let listed = |files: &'static str| {
        Server::new(move |asked, stream| match asked.path.starts_with("/api/") {
            true => {
                let list = format!("{{\"siblings\":[{files}]}}");
                serve(asked, stream, "list", list.as_bytes(), usize::MAX);
            }
            false => serve(asked, stream, "tag", &content(), usize::MAX),
        })
    };
    let wanted = |sum: String| Request {
        file: None,
        sha256: Some(sum),
        ..request()
    };
    let one = listed(r#"{"rfilename":"tiny.gguf"}"#);
    let wrong = desk().pull(&one, &wanted("f".repeat(64)));
    assert!(matches!(wrong, Err(PullError::Checksum { .. })), "{wrong:?}");
    desk().pull(&one, &wanted(sha256(&content()))).unwrap();
    let parts = listed(r#"{"rfilename":"b-00001-of-00002.gguf"},{"rfilename":"b-00002-of-00002.gguf"}"#);
    let several = desk().pull(&parts, &wanted(sha256(&content())));
    assert!(
        matches!(several, Err(PullError::SumOfSeveral { files: 2 })),
        "{several:?}"
    );
}

#[test]
fn a_longer_answer_than_promised_is_refused() {
    let server = Server::new(|_, stream| {
        let head = "HTTP/1.1 206 Partial Content\r\ncontent-range: bytes 0-9/10\r\nconnection: close\r\n\r\n";
        let _ = write!(stream, "{head}");
        let _ = stream.write_all(&[0; 20]);
    });
    let error = desk().pull(&server, &request()).unwrap_err();
    assert!(matches!(error, PullError::Nonsense { .. }), "{error:?}");
}

#[test]
fn a_stopped_download_keeps_its_part_and_shows_no_model() {
    let server = Server::new(|asked, stream| serve(asked, stream, "tag", &content(), usize::MAX));
    let desk = desk();
    let cancel = Cancel::new();
    let hub = Hub::new(&server.address, None, patience(), desk.outlet());
    let error = pull(&hub, &desk.store, &request(), &cancel, &mut |_| {
        cancel.raise();
    })
    .unwrap_err();
    assert!(matches!(error, PullError::Store(StoreError::Stopped)));
    assert!(desk.held().is_none());
    assert!(desk.part().exists());
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_is_one_plain_sentence() {
    let server = Server::new(|asked, stream| serve(asked, stream, "tag", &content(), usize::MAX));
    let desk = desk();
    std::fs::create_dir_all(desk.part().parent().unwrap()).unwrap();
    std::os::unix::fs::symlink("/dev/full", desk.part()).unwrap();
    let error = desk.pull(&server, &request()).unwrap_err();
    assert!(
        matches!(error, PullError::Store(StoreError::DiskFull { .. })),
        "{error:?}"
    );
    assert!(error.to_string().starts_with("the disk that holds"), "{error}");
}
