//! What is said about a connection between whoever asks for it and its guard: a line of JSON each.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind, Read, Write};
use std::time::Duration;

use heph_privacy::Grounds;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::Stream;
use crate::egress::{Bytes, Kind};

/// Bytes of a line: a label has up to 64 reasons of 96 bytes, and an address may be long.
const LINE_BYTES_MAX: usize = 64 << 10;

/// Bytes that go up beside those that were named: the greetings of TLS, the heads of a request with a key, and the frames of TLS,
/// which are 22 bytes for each 16 KB or for each piece that was written.
pub fn slack(bytes: u64) -> u64 {
    (16 << 10) + bytes / 32
}

/// What somebody wants to send, and where to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leave {
    /// For what.
    pub kind: Kind,
    /// Who is meant: the name of a provider or of a server of tools, the host of a hub.
    pub who: String,
    /// The host to connect to, without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// A word for the network log.
    pub purpose: String,
    /// By what it may leave; `None` where nothing is said that was made of a text.
    pub grounds: Option<Grounds>,
    /// Bytes that are sent, without what HTTP and TLS put around them ([`slack`]).
    pub bytes: u64,
    /// Milliseconds that a connection may take to stand.
    pub patience_ms: u64,
}

/// Why nothing is sent, or no more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Barred {
    /// The policy, or the person's lists, do not let it.
    #[error("{0}")]
    Forbidden(String),
    /// Nobody answers there.
    #[error("{0}")]
    Unreachable(String),
    /// The guard read files that are others now.
    #[error("what the guard of connections has read is old")]
    Stale,
    /// There is no guard to ask.
    #[error("the guard of connections is not there: {0}")]
    Gone(String),
}

/// What is said to a guard.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Asked {
    /// May this be sent over the connection?
    Leave(Leave),
    /// What passed so far?
    Count,
}

/// What a guard says.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Told {
    /// It may: the address at the other end.
    Granted(String),
    /// It may not.
    Barred(Barred),
    /// What passed since this was said last.
    Carried(Carried),
    /// The connection was ended by the guard.
    Cut(Barred),
    /// The answer to [`Asked::Count`], behind what passed; and whether anything may still go up.
    Counted { stale: bool },
    /// The last word about a connection.
    Ended,
}

/// What passed over a connection, by one label.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Carried {
    pub(super) kind: Kind,
    pub(super) to: String,
    pub(super) who: String,
    pub(super) purpose: String,
    pub(super) labels: BTreeSet<String>,
    pub(super) bytes: Bytes,
}

/// What a look at a socket of words brings.
pub(super) enum Next<T> {
    /// A line.
    Line(T),
    /// None within the time.
    Quiet,
    /// No more will come, or nothing that has a meaning.
    End,
}

/// Lines that come over a socket.
pub(super) struct Lines {
    stream: Stream,
    held: Vec<u8>,
}

impl Lines {
    pub(super) fn of(stream: Stream) -> Self {
        let held = Vec::new();
        Self { stream, held }
    }

    /// The next line, if it comes within `patience`; without one, whenever it comes.
    pub(super) fn next<T: DeserializeOwned>(&mut self, patience: Option<Duration>) -> Next<T> {
        if self.stream.set_read_timeout(patience).is_err() {
            return Next::End;
        }
        loop {
            if let Some(end) = self.held.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.held.drain(..=end).collect();
                return serde_json::from_slice(&line).map_or(Next::End, Next::Line);
            }
            let mut piece = [0; 4096];
            match self.stream.read(&mut piece) {
                Ok(0) => return Next::End,
                Ok(_) if self.held.len() > LINE_BYTES_MAX => return Next::End,
                Ok(count) => self.held.extend_from_slice(&piece[..count]),
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock | ErrorKind::TimedOut => return Next::Quiet,
                    ErrorKind::Interrupted => {}
                    _ => return Next::End,
                },
            }
        }
    }
}

/// Says one thing.
pub(super) fn say(mut stream: &Stream, what: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(what)?;
    line.push(b'\n');
    match line.len() <= LINE_BYTES_MAX {
        true => stream.write_all(&line),
        false => Err(io::Error::new(
            ErrorKind::InvalidInput,
            "what is said is too long",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_in_pieces_and_what_has_no_meaning_ends_them() {
        let (near, far) = super::super::pair().unwrap();
        let mut lines = Lines::of(far);
        let mut near = near;
        let quick = Some(Duration::from_millis(5));
        near.write_all(b"\"Cou").unwrap();
        assert!(matches!(lines.next::<Asked>(quick), Next::Quiet));
        near.write_all(b"nt\"\n\"Count\"\nrubbish\n").unwrap();
        assert!(matches!(lines.next(quick), Next::Line(Asked::Count)));
        assert!(matches!(lines.next(quick), Next::Line(Asked::Count)));
        assert!(matches!(lines.next::<Asked>(quick), Next::End));
    }

    #[test]
    fn a_line_without_an_end_is_not_held() {
        let (mut near, far) = super::super::pair().unwrap();
        let writing = std::thread::spawn(move || near.write_all(&vec![b'x'; 4 * LINE_BYTES_MAX]));
        let mut lines = Lines::of(far);
        assert!(matches!(lines.next::<Asked>(None), Next::End));
        assert!(lines.held.len() <= LINE_BYTES_MAX + 4096);
        drop(lines);
        let _ = writing.join();
    }
}
