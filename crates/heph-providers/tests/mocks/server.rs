//! A provider that plays a script: real HTTP on loopback, one act a connection.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What is done with one request.
#[derive(Clone)]
pub(crate) enum Act {
    /// These bytes are the whole answer, head included; then the connection ends.
    Raw(String),
    /// The same in pieces of so many bytes.
    Pieces(String, usize),
    /// These bytes, and then nothing for so long.
    Hang(String, Duration),
    /// The connection ends before anything is said.
    Slam,
}

/// Requests that came: head and body.
pub(crate) type Heard = Arc<Mutex<Vec<(String, String)>>>;

/// Plays `acts`, one for each connection; the last one again and again.
pub(crate) fn play(acts: Vec<Act>) -> (String, Heard) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let heard = Heard::default();
    let told = Arc::clone(&heard);
    std::thread::spawn(move || {
        for (at, stream) in listener.incoming().enumerate() {
            let act = acts[at.min(acts.len() - 1)].clone();
            let told = Arc::clone(&told);
            std::thread::spawn(move || answer(stream.unwrap(), act, &told));
        }
    });
    (address, heard)
}

fn answer(mut stream: TcpStream, act: Act, told: &Heard) {
    let mut all = Vec::new();
    let mut some = [0; 4096];
    let (head, length) = loop {
        let count = stream.read(&mut some).unwrap_or(0);
        if count == 0 {
            return;
        }
        all.extend_from_slice(&some[..count]);
        let text = String::from_utf8_lossy(&all).into_owned();
        if let Some((head, _)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length")
                    .then(|| value.trim().parse::<usize>().unwrap())
            });
            break (head.to_owned(), length.unwrap_or(0));
        }
    };
    while all.len() < head.len() + 4 + length {
        let count = stream.read(&mut some).unwrap_or(0);
        if count == 0 {
            return;
        }
        all.extend_from_slice(&some[..count]);
    }
    let body = String::from_utf8_lossy(&all[head.len() + 4..]).into_owned();
    told.lock().unwrap().push((head.to_lowercase(), body));
    // Whoever asked may have gone.
    let _ = match act {
        Act::Raw(bytes) => stream.write_all(bytes.as_bytes()),
        Act::Pieces(bytes, size) => bytes.as_bytes().chunks(size).try_for_each(|piece| {
            stream.write_all(piece)?;
            stream.flush()?;
            std::thread::sleep(Duration::from_micros(200));
            Ok(())
        }),
        Act::Hang(bytes, time) => {
            let written = stream.write_all(bytes.as_bytes());
            std::thread::sleep(time);
            written
        }
        Act::Slam => Ok(()),
    };
}

/// An answer of this kind that ends with its connection.
pub(crate) fn ok(kind: &str, body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\nconnection: close\r\n\r\n{body}")
}

/// A refusal.
pub(crate) fn status(status: u16, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status} No\r\ncontent-type: application/json\r\n{headers}content-length: {length}\r\nconnection: close\r\n\r\n{body}"
    )
}
