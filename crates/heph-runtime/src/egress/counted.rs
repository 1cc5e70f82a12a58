//! HTTP whose bytes are counted where they leave: between TLS and the socket.

use std::fmt;
use std::time::{Duration, Instant};

use ureq::config::Config;
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::{
    Buffers, ConnectProxyConnector, ConnectionDetails, Connector, NextTimeout, RustlsConnector, TcpConnector,
    Transport,
};
use ureq::{Agent, Error};

use super::{Bytes, Counted, Journal, Kind, Line, Way};
use crate::network::seconds_since_1970;

/// Where connections are noted, and as what.
#[derive(Debug, Clone)]
struct Books {
    journal: Journal,
    kind: Kind,
    purpose: &'static str,
}

/// An agent like any other whose connections are noted in `journal` when they end, as ones of this kind and purpose.
pub fn agent(config: Config, journal: Journal, kind: Kind, purpose: &'static str) -> Agent {
    let books = Books {
        journal,
        kind,
        purpose,
    };
    let connector =
        ().chain(ConnectProxyConnector::default())
            .chain(TcpConnector::default())
            .chain(Counting(books))
            .chain(RustlsConnector::default());
    Agent::with_parts(config, connector, DefaultResolver::default())
}

/// Puts a count around each connection.
#[derive(Debug)]
struct Counting(Books);

impl<In: Transport> Connector<In> for Counting {
    type Out = CountedTransport<In>;

    fn connect(&self, details: &ConnectionDetails, chained: Option<In>) -> Result<Option<Self::Out>, Error> {
        // What goes through a proxy's tunnel is counted on the way to the proxy, which this is called for as well.
        let tunnelled = details
            .config
            .proxy()
            .is_some_and(|proxy| proxy.uri() != details.uri);
        let host = details.uri.host().unwrap_or_default().to_owned();
        let address = details.addrs.iter().next();
        Ok(chained.map(|inner| CountedTransport {
            inner,
            books: self.0.clone(),
            to: address.map_or_else(|| host.clone(), ToString::to_string),
            who: host,
            bytes: Bytes::default(),
            noted: Instant::now(),
            tunnelled,
        }))
    }
}

/// A connection and what it carried since that was noted: now and then, and when it ends.
struct CountedTransport<T> {
    inner: T,
    books: Books,
    to: String,
    who: String,
    bytes: Bytes,
    noted: Instant,
    tunnelled: bool,
}

/// As often as [`crate::network`] notes what peers carry.
const NOTE_EVERY: Duration = Duration::from_secs(2);

impl<T> CountedTransport<T> {
    fn note(&mut self) {
        let way = Way {
            kind: self.books.kind,
            to: self.to.clone(),
            who: self.who.clone(),
            purpose: self.books.purpose.to_owned(),
            labels: Default::default(),
            counted: Counted::OnTheWire,
        };
        let (at, bytes) = (seconds_since_1970(), std::mem::take(&mut self.bytes));
        self.noted = Instant::now();
        // A log that cannot be written does not undo what was fetched.
        let _ = self.books.journal.note(&[Line { at, way, bytes }]);
    }
}

impl<T> Drop for CountedTransport<T> {
    fn drop(&mut self) {
        if self.bytes != Bytes::default() && !self.tunnelled {
            self.note();
        }
    }
}

impl<T: Transport> Transport for CountedTransport<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        // What is lost on the way may have left all the same.
        self.bytes.up += amount as u64;
        self.inner.transmit_output(amount, timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        let before = self.inner.buffers().input().len();
        let more = self.inner.await_input(timeout);
        let after = self.inner.buffers().input().len();
        self.bytes.down += after.saturating_sub(before) as u64;
        if self.noted.elapsed() >= NOTE_EVERY && !self.tunnelled {
            self.note();
        }
        more
    }

    fn is_open(&mut self) -> bool {
        self.inner.is_open()
    }

    fn is_tls(&self) -> bool {
        self.inner.is_tls()
    }
}

impl<T: fmt::Debug> fmt::Debug for CountedTransport<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::thread;

    use super::*;

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
        let agent = agent(Config::default(), Journal::at(home.path()), Kind::Pull, "file");
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
