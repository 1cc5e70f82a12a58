//! The guard's side of one connection: asks its warden, connects, passes bytes on, counts them, and cuts.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::Stream;
use super::warden::Warden;
use super::words::{Asked, Barred, Carried, Leave, Lines, Next, Told, say, slack};
use crate::egress::{Bytes, Kind};

/// How often it is looked whether anything passed, or has to end.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Bytes after which is told what passed, and how long less may wait.
const TELL_AT: u64 = 1 << 10;
const TELL_AFTER: Duration = Duration::from_secs(1);

/// How long whoever asked may take to hear what is said.
const HEARD_WITHIN: Duration = Duration::from_secs(10);

/// The longest that a connection may take to stand, whatever is asked for.
const PATIENCE_MAX: Duration = Duration::from_secs(60);

/// How long the rest of what was sent may take to be passed on where nobody waits for an answer.
const REST_WITHIN: Duration = Duration::from_millis(250);

/// Bytes that are passed on at once.
const PIECE: usize = 64 << 10;

/// Keeps one connection, until either side ends it.
pub(super) fn keep(words: Stream, data: Stream, warden: &Arc<Warden>) {
    let Ok(asked) = words.try_clone() else { return };
    if words.set_write_timeout(Some(HEARD_WITHIN)).is_err() {
        return;
    }
    let mut kept = Kept {
        words,
        data,
        warden: Arc::clone(warden),
        passing: None,
        told: Bytes::default(),
        told_at: Instant::now(),
    };
    let mut lines = Lines::of(asked);
    loop {
        let done = match lines.next(Some(LOOK_EVERY)) {
            Next::Line(Asked::Leave(leave)) => kept.leave(&leave),
            Next::Line(Asked::Count) => kept.count(),
            Next::Quiet => kept.look(),
            Next::End => break,
        };
        if done.is_err() || kept.is_over() {
            break;
        }
    }
    kept.end();
}

struct Kept {
    words: Stream,
    data: Stream,
    warden: Arc<Warden>,
    passing: Option<Passing>,
    told: Bytes,
    told_at: Instant,
}

/// A connection that stands, and the two threads that pass on what comes.
struct Passing {
    tcp: TcpStream,
    to: SocketAddr,
    leave: Leave,
    counts: Arc<Counts>,
    threads: Vec<JoinHandle<()>>,
}

/// What passed, and what may.
#[derive(Debug, Default)]
struct Counts {
    up: AtomicU64,
    down: AtomicU64,
    /// How far `up` may grow.
    up_max: AtomicU64,
    /// Whether one of the directions ended.
    over: AtomicBool,
    /// Why the guard ended it.
    cut: Mutex<Option<Barred>>,
}

impl Counts {
    fn read(&self) -> Bytes {
        Bytes {
            up: self.up.load(Ordering::Acquire),
            down: self.down.load(Ordering::Acquire),
        }
    }

    fn cut(&self, why: Barred) {
        let mut cut = self.cut.lock().unwrap_or_else(PoisonError::into_inner);
        cut.get_or_insert(why);
    }

    fn why(&self) -> Option<Barred> {
        self.cut.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Kept {
    /// Asks the warden, connects where nothing stands yet, and says what came of it.
    fn leave(&mut self, leave: &Leave) -> io::Result<()> {
        let said = match self.granted(leave) {
            Ok(to) => Told::Granted(to.to_string()),
            Err(barred) => Told::Barred(barred),
        };
        say(&self.words, &said)
    }

    fn granted(&mut self, leave: &Leave) -> Result<SocketAddr, Barred> {
        self.warden.grant(leave)?;
        // What passed until now belongs to what was asked before.
        let _ = self.tell();
        let passing = match self.passing.take() {
            Some(passing) => {
                let passing = self.passing.insert(passing);
                if place(&passing.leave) != place(leave) {
                    return Err(Barred::Forbidden("this connection leads elsewhere".to_owned()));
                }
                passing.leave = leave.clone();
                passing
            }
            None => {
                let passing = self.connected(leave)?;
                self.passing.insert(passing)
            }
        };
        let more = leave.bytes.saturating_add(slack(leave.bytes));
        let most = passing.counts.up.load(Ordering::Acquire).saturating_add(more);
        passing.counts.up_max.store(most, Ordering::Release);
        Ok(passing.to)
    }

    fn connected(&self, leave: &Leave) -> Result<Passing, Barred> {
        let broken = |error: io::Error| Barred::Unreachable(error.to_string());
        let (tcp, to) = connect(leave).map_err(broken)?;
        let clone = || Ok((tcp.try_clone()?, self.data.try_clone()?));
        let ((up_tcp, up_data), (down_tcp, down_data)) =
            clone().and_then(|first| Ok((first, clone()?))).map_err(broken)?;
        let counts: Arc<Counts> = Arc::default();
        let (of_up, of_down) = (Arc::clone(&counts), Arc::clone(&counts));
        let warden = Arc::clone(&self.warden);
        let threads = vec![
            started("up", move || pass_up(up_data, up_tcp, &of_up, &warden)).map_err(broken)?,
            started("down", move || pass_down(down_tcp, down_data, &of_down)).map_err(broken)?,
        ];
        Ok(Passing {
            tcp,
            to,
            leave: leave.clone(),
            counts,
            threads,
        })
    }

    /// Says what passed, and that this was all.
    fn count(&mut self) -> io::Result<()> {
        self.tell()?;
        let stale = self.warden.is_stale();
        say(&self.words, &Told::Counted { stale })
    }

    /// Looks whether there is something to tell, and whether all has to end.
    fn look(&mut self) -> io::Result<()> {
        let Some(passing) = &self.passing else {
            return Ok(());
        };
        if self.warden.is_cut() {
            passing
                .counts
                .cut(Barred::Forbidden(crate::rules::CUT.to_owned()));
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        let now = passing.counts.read();
        let grew = (now.up - self.told.up) + (now.down - self.told.down);
        match grew >= TELL_AT || (grew > 0 && self.told_at.elapsed() >= TELL_AFTER) {
            true => self.tell(),
            false => Ok(()),
        }
    }

    /// Says what passed since that was said.
    fn tell(&mut self) -> io::Result<()> {
        let Some(passing) = &self.passing else {
            return Ok(());
        };
        let now = passing.counts.read();
        let bytes = Bytes {
            up: now.up - self.told.up,
            down: now.down - self.told.down,
        };
        (self.told, self.told_at) = (now, Instant::now());
        if bytes == Bytes::default() {
            return Ok(());
        }
        let leave = &passing.leave;
        let carried = Carried {
            kind: leave.kind,
            to: passing.to.to_string(),
            who: leave.who.clone(),
            purpose: leave.purpose.clone(),
            labels: leave
                .grounds
                .iter()
                .flat_map(|grounds| grounds.label.words().map(str::to_owned))
                .collect(),
            bytes,
        };
        say(&self.words, &Told::Carried(carried))
    }

    fn is_over(&self) -> bool {
        let passing = self.passing.as_ref();
        passing.is_some_and(|passing| passing.counts.over.load(Ordering::Acquire))
    }

    /// Ends both directions, and says the last of it. What was sent before whoever asked went away is passed on, within a moment; what came
    /// down is read to its end on the other side of `data` all the same.
    fn end(mut self) {
        if let Some(passing) = self
            .passing
            .as_ref()
            .filter(|passing| passing.counts.why().is_none())
        {
            let began = Instant::now();
            while !passing.counts.over.load(Ordering::Acquire) && began.elapsed() < REST_WITHIN {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        let _ = self.data.shutdown(Shutdown::Both);
        if let Some(passing) = &mut self.passing {
            let _ = passing.tcp.shutdown(Shutdown::Both);
            for thread in std::mem::take(&mut passing.threads) {
                let _ = thread.join();
            }
        }
        let _ = self.tell();
        if let Some(why) = self.passing.as_ref().and_then(|passing| passing.counts.why()) {
            let _ = say(&self.words, &Told::Cut(why));
        }
        let _ = say(&self.words, &Told::Ended);
        let _ = self.words.shutdown(Shutdown::Both);
    }
}

/// With whom, for what and where.
fn place(leave: &Leave) -> (Kind, &str, &str, u16) {
    (leave.kind, &leave.who, &leave.host, leave.port)
}

/// A thread of a connection.
fn started(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new()
        .name(format!("heph-guard-{name}"))
        .spawn(work)
}

/// Connects to the first address of the host that answers, all within what may be waited.
fn connect(leave: &Leave) -> io::Result<(TcpStream, SocketAddr)> {
    let until = Instant::now() + Duration::from_millis(leave.patience_ms).min(PATIENCE_MAX);
    let addresses: Vec<SocketAddr> = (leave.host.as_str(), leave.port).to_socket_addrs()?.collect();
    let mut seen = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    let mut left = addresses.len() as u32;
    for address in addresses {
        let rest = until.saturating_duration_since(Instant::now());
        // Each later one has its share.
        let share = (rest / left.max(1)).max(Duration::from_millis(10));
        left = left.saturating_sub(1);
        match TcpStream::connect_timeout(&address, share) {
            Ok(tcp) => {
                tcp.set_nodelay(true)?;
                return Ok((tcp, address));
            }
            Err(error) => seen = error,
        }
    }
    Err(seen)
}

/// Passes on what goes up, as far as it may. A byte beyond that takes its whole piece with it.
fn pass_up(mut data: Stream, mut tcp: TcpStream, counts: &Counts, warden: &Warden) {
    let mut piece = vec![0; PIECE];
    while let Ok(count) = data.read(&mut piece)
        && count > 0
    {
        // What is lost on the way may have left all the same, so it is counted before.
        let before = counts.up.load(Ordering::Acquire);
        if before + count as u64 > counts.up_max.load(Ordering::Acquire) {
            counts.cut(Barred::Forbidden(
                "more was to be sent than was cleared".to_owned(),
            ));
            break;
        }
        if warden.is_stale() {
            counts.cut(Barred::Stale);
            break;
        }
        counts.up.store(before + count as u64, Ordering::Release);
        if tcp.write_all(&piece[..count]).is_err() {
            break;
        }
    }
    counts.over.store(true, Ordering::Release);
    let _ = tcp.shutdown(Shutdown::Both);
    let _ = data.shutdown(Shutdown::Both);
}

/// Passes on what comes down.
fn pass_down(mut tcp: TcpStream, mut data: Stream, counts: &Counts) {
    let mut piece = vec![0; PIECE];
    while let Ok(count) = tcp.read(&mut piece)
        && count > 0
    {
        counts.down.fetch_add(count as u64, Ordering::AcqRel);
        if data.write_all(&piece[..count]).is_err() {
            break;
        }
    }
    counts.over.store(true, Ordering::Release);
    let _ = data.shutdown(Shutdown::Write);
}
