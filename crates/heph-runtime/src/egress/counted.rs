//! HTTP whose connections are the guard's, which counts what they carry.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use heph_privacy::Clearance;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{
    Buffers, ConnectProxyConnector, ConnectionDetails, Connector, Either, LazyBuffers, NextTimeout,
    RustlsConnector, Transport,
};
use ureq::{Agent, Error, Timeout};

use super::Kind;
use crate::guard::{Barred, Conn, Grounds, Leave, Outlet};

/// How long a connection may take to stand where nobody says.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the requests of an agent are for, and what the next one of them sends. Clones say the same.
#[derive(Debug, Clone)]
pub struct Errand {
    kind: Kind,
    purpose: &'static str,
    next: Arc<Mutex<Next>>,
}

/// What the next request sends.
#[derive(Debug, Clone, Default)]
struct Next {
    /// How many there were before.
    number: u64,
    who: String,
    grounds: Option<Grounds>,
    bytes: u64,
}

/// Numbers the requests of all errands.
static REQUESTS: AtomicU64 = AtomicU64::new(1);

impl Errand {
    /// For requests of this kind and purpose.
    pub fn new(kind: Kind, purpose: &'static str) -> Self {
        let next = Arc::default();
        Self { kind, purpose, next }
    }

    /// The next request is for `who`, and sends so many bytes by that leave, beside the heads of HTTP.
    pub fn next(&self, who: &str, clearance: Option<&Clearance>, bytes: u64) {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        *next = Next {
            number: REQUESTS.fetch_add(1, Ordering::Relaxed),
            who: who.to_owned(),
            grounds: clearance.map(Grounds::from),
            bytes,
        };
    }

    fn leave(&self, (host, port): (&str, u16), patience: Duration) -> (u64, Leave) {
        let next = self.next.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let leave = Leave {
            kind: self.kind,
            who: match next.who.is_empty() {
                true => host.to_owned(),
                false => next.who,
            },
            host: host.to_owned(),
            port,
            purpose: self.purpose.to_owned(),
            grounds: next.grounds,
            bytes: next.bytes,
            patience_ms: u64::try_from(patience.as_millis()).unwrap_or(u64::MAX),
        };
        (next.number, leave)
    }
}

/// An agent like any other whose connections are those of the guard behind `outlet`, asked for each request by what `errand` says.
pub fn agent(config: Config, outlet: Outlet, errand: Errand) -> Agent {
    let guarded = Guarded { outlet, errand };
    let connector =
        ().chain(ConnectProxyConnector::default())
            .chain(guarded)
            .chain(RustlsConnector::default());
    Agent::with_parts(config, connector, Unresolved)
}

/// Names are resolved by the guard.
#[derive(Debug)]
struct Unresolved;

impl Resolver for Unresolved {
    fn resolve(&self, _: &Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
        let mut addresses = self.empty();
        addresses.push(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)));
        Ok(addresses)
    }
}

/// Has the guard open connections.
#[derive(Debug)]
struct Guarded {
    outlet: Outlet,
    errand: Errand,
}

impl<In: Transport> Connector<In> for Guarded {
    type Out = Either<In, GuardedTransport>;

    fn connect(&self, details: &ConnectionDetails, chained: Option<In>) -> Result<Option<Self::Out>, Error> {
        if chained.is_some() {
            // A tunnel through a proxy, whose own connection was opened here.
            return Ok(chained.map(Either::A));
        }
        let host = details.uri.host().unwrap_or_default();
        let host = host.trim_matches(['[', ']']).to_ascii_lowercase();
        let usual = if details.uri.scheme_str() == Some("https") {
            443
        } else {
            80
        };
        let port = details.uri.port_u16().unwrap_or(usual);
        let patience = details.timeout.not_zero().map_or(PATIENCE, |timeout| *timeout);
        let (number, leave) = self.errand.leave((&host, port), patience);
        let conn = self.outlet.open(&leave).map_err(barred)?;
        let buffers = LazyBuffers::new(
            details.config.input_buffer_size(),
            details.config.output_buffer_size(),
        );
        Ok(Some(Either::B(GuardedTransport {
            conn,
            buffers,
            errand: self.errand.clone(),
            place: (host, port),
            number,
        })))
    }
}

/// A connection of the guard.
struct GuardedTransport {
    conn: Conn,
    buffers: LazyBuffers,
    errand: Errand,
    place: (String, u16),
    /// The request that leave was asked for last.
    number: u64,
}

impl GuardedTransport {
    /// What ended the connection, where that was the guard; else what the system says.
    fn failed(&self, error: io::Error, timeout: Timeout) -> Error {
        match error.kind() {
            ErrorKind::TimedOut | ErrorKind::WouldBlock => Error::Timeout(timeout),
            _ => self.conn.ended().map_or(Error::Io(error), barred),
        }
    }
}

fn barred(barred: Barred) -> Error {
    let kind = match &barred {
        Barred::Forbidden(_) => ErrorKind::PermissionDenied,
        Barred::Unreachable(_) | Barred::Stale => ErrorKind::NotConnected,
        Barred::Gone(_) => ErrorKind::BrokenPipe,
    };
    Error::Io(io::Error::new(kind, barred))
}

impl Transport for GuardedTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        let (number, leave) = self.errand.leave((&self.place.0, self.place.1), PATIENCE);
        if number != self.number {
            self.conn.leave(&leave).map_err(barred)?;
            self.number = number;
        }
        let wait = timeout.not_zero().map(|timeout| *timeout);
        let mut data = self.conn.data();
        let sent = data.set_write_timeout(wait);
        let sent = sent.and_then(|()| data.write_all(&self.buffers.output()[..amount]));
        sent.map_err(|error| self.failed(error, timeout.reason))
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        let wait = timeout.not_zero().map(|timeout| *timeout);
        let mut data = self.conn.data();
        let read = data.set_read_timeout(wait);
        let read = read.and_then(|()| {
            loop {
                match data.read(self.buffers.input_append_buf()) {
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    read => break read,
                }
            }
        });
        match read {
            // An end that the guard made is no end of what was sent.
            Ok(0) if self.conn.trouble().is_some() => {
                Err(self.failed(ErrorKind::ConnectionAborted.into(), timeout.reason))
            }
            Ok(count) => {
                self.buffers.input_appended(count);
                Ok(count > 0)
            }
            Err(error) => Err(self.failed(error, timeout.reason)),
        }
    }

    fn is_open(&mut self) -> bool {
        self.conn.is_open()
    }
}

impl fmt::Debug for GuardedTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuardedTransport")
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::thread;

    use super::*;
    use crate::egress::{Bytes, Journal};

    #[test]
    fn what_the_server_saw_is_what_is_noted() {
        let home = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let served = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut heard: Vec<u8> = Vec::new();
            let mut piece = [0; 512];
            while !heard.windows(5).any(|w| w == b"hello") {
                let got = stream.read(&mut piece).unwrap();
                heard.extend(&piece[..got]);
            }
            let said = b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\nconnection: close\r\n\r\nwelcome";
            stream.write_all(said).unwrap();
            (heard.len() as u64, said.len() as u64)
        });
        let outlet = Outlet::at(home.path(), &[]);
        let agent = agent(Config::default(), outlet, Errand::new(Kind::Pull, "file"));
        let mut answer = agent.post(format!("http://{address}/x")).send("hello").unwrap();
        assert_eq!(answer.body_mut().read_to_string().unwrap(), "welcome");
        drop((answer, agent));
        let (up, down) = served.join().unwrap();
        let lines = Journal::at(home.path()).read().unwrap().lines;
        assert_eq!(lines.len(), 1);
        assert_eq!(lines[0].bytes, Bytes { up, down });
        assert_eq!(
            (lines[0].way.to.as_str(), lines[0].way.kind),
            (address.to_string().as_str(), Kind::Pull)
        );
    }
}
