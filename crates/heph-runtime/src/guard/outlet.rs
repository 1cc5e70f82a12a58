//! The side of those who want a connection: begins a guard, hands it the ends of sockets, asks for leave, and writes down what the guard
//! counted.

use std::io::{self, Read};
use std::net::Shutdown;
#[cfg(target_os = "linux")]
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

#[cfg(target_os = "linux")]
use super::process::Ends;
use super::warden::{Reading, Warden};
use super::words::{Asked, Barred, Carried, Leave, Lines, Next, Told, say};
use super::{Lends, Stream, keep, pair};
#[cfg(target_os = "linux")]
use heph_net::endpoint::{Guards, Port};
#[cfg(target_os = "linux")]
use std::fs::File;

use crate::egress::{Counted, Journal, Line, Way};
use crate::network::seconds_since_1970;
use crate::settings::{Allowance, Settings};

/// How long a guard may take to answer, beside the time that a connection may take to stand.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// How long the end of a connection may take to be written down.
const END_WITHIN: Duration = Duration::from_millis(500);

/// Connections of one process at a time.
const CONNECTIONS_MAX: usize = 256;

/// How a guard stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stands {
    /// As a process of its own, of this number, with what it says it gave up.
    Alone {
        /// Its number.
        pid: u32,
        /// What the system keeps it from, in one sentence.
        sealed: String,
    },
    /// On threads of this process, for this reason.
    Here(String),
}

impl std::fmt::Display for Stands {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Alone { sealed, .. } => write!(
                f,
                "opened by a guard in a process of its own, those to machines too; {sealed}"
            ),
            Self::Here(why) => write!(
                f,
                "opened by this process itself, which asks the policy again but for machines: {why}"
            ),
        }
    }
}

/// Begins a guard: the program, started with its hidden word.
type Begin = fn(&Start) -> io::Result<Begun>;

/// What a guard is begun with.
#[derive(Debug, Clone)]
pub(super) struct Start {
    pub(super) home: PathBuf,
    pub(super) allow: Vec<Allowance>,
    pub(super) lends: Option<Lends>,
    /// Whether a policy stood in a file before.
    pub(super) was_there: bool,
}

/// A guard that was begun.
#[derive(Debug)]
pub(super) struct Begun {
    pub(super) pid: u32,
    /// To hand it connections.
    pub(super) control: Stream,
    pub(super) sealed: String,
    pub(super) has_policy: bool,
}

static BEGIN: OnceLock<Begin> = OnceLock::new();

/// From now on guards are processes of their own where this system has them: for the program whose hidden word begins one.
pub fn begin_with() {
    #[cfg(target_os = "linux")]
    let _ = BEGIN.set(super::process::begin);
}

/// Opens connections to providers, hubs and servers of tools. Clones share their guard, and so do all outlets of one home folder in a process.
#[derive(Debug, Clone)]
pub struct Outlet {
    journal: Journal,
    post: Arc<Post>,
}

/// A guard, and the connections that it keeps for this process.
#[derive(Debug)]
struct Post {
    home: PathBuf,
    allow: Vec<Allowance>,
    lends: Option<Lends>,
    guard: Mutex<Guard>,
    live: Mutex<Vec<Weak<Held>>>,
}

#[derive(Debug)]
enum Guard {
    /// None was needed yet. Whether a policy stood in a file before.
    Unbegun {
        was_there: bool,
    },
    Alone(Begun),
    Here(Arc<Warden>),
}

/// The posts of this process: one for each home folder and its short rules.
static POSTS: Mutex<Vec<Arc<Post>>> = Mutex::new(Vec::new());

/// Home folders that one process asks from.
const POSTS_MAX: usize = 64;

impl Outlet {
    /// For the home folder and the short rules of `settings`.
    pub fn of(settings: &Settings) -> Self {
        Self::at(&settings.home, &settings.allow)
    }

    /// For this home folder, with these short rules.
    pub fn at(home: &Path, allow: &[Allowance]) -> Self {
        Self::whose(home, allow, None)
    }

    /// The same for a process that does so much for others.
    pub fn lending(home: &Path, allow: &[Allowance], lends: Lends) -> Self {
        Self::whose(home, allow, Some(lends))
    }

    fn whose(home: &Path, allow: &[Allowance], lends: Option<Lends>) -> Self {
        let mut posts = POSTS.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |post: &&Arc<Post>| post.home == home && post.allow == allow && post.lends == lends;
        let post = posts.iter().find(same).cloned().unwrap_or_else(|| {
            let post = Arc::new(Post {
                home: home.to_owned(),
                allow: allow.to_vec(),
                lends,
                guard: Mutex::new(Guard::Unbegun { was_there: false }),
                live: Mutex::default(),
            });
            if posts.len() == POSTS_MAX {
                posts.remove(0);
            }
            posts.push(Arc::clone(&post));
            post
        });
        let journal = Journal::at(home);
        Self { journal, post }
    }

    /// The home folder that it is for.
    pub fn home(&self) -> &Path {
        &self.post.home
    }

    /// How its guard stands. One is begun where none was needed yet.
    ///
    /// # Errors
    /// When none can be begun: nothing leaves then.
    pub fn stands(&self) -> Result<Stands, Barred> {
        let mut guard = self.post.guard();
        self.post.begun(&mut guard)?;
        Ok(match &*guard {
            Guard::Alone(begun) => Stands::Alone {
                pid: begun.pid,
                sealed: begun.sealed.clone(),
            },
            Guard::Here(_) | Guard::Unbegun { .. } => Stands::Here(here().to_owned()),
        })
    }

    /// Who is to own the socket by which machines are reached; `None` where no guard is a process of its own. Whoever asks again is given to
    /// another guard: the one before is gone, or has read what is old by now.
    #[cfg(target_os = "linux")]
    pub(crate) fn machines(&self) -> Option<Guards> {
        BEGIN.get()?;
        let book = self.post.home.join(heph_net::trust::FILE);
        let port = match self.post.lends {
            // Machines were told where it is.
            Some(_) => Port::Stays,
            None => Port::Changes,
        };
        let (post, given) = (Arc::clone(&self.post), Mutex::new(None));
        let hand = move |words: OwnedFd, questions: OwnedFd| {
            let mut given = given.lock().unwrap_or_else(PoisonError::into_inner);
            post.retire(given.take());
            let first = post.hand_machines(&words, &questions, &mut given);
            let handed = first.or_else(|_| {
                // One that others began before, and that ended since.
                post.retire(given.take());
                post.hand_machines(&words, &questions, &mut given)
            });
            handed.map_err(io::Error::other)
        };
        Some(Guards {
            hand: Arc::new(hand),
            book: Arc::new(move || Ok(File::open(&book)?.into())),
            port,
        })
    }

    /// A connection for what `leave` says.
    ///
    /// # Errors
    /// Why there is none. A guard that is gone, or has read what changed since, was begun anew before that is said.
    pub(crate) fn open(&self, leave: &Leave) -> Result<Conn, Barred> {
        let mut asked = None;
        match self.opened(leave, &mut asked) {
            Err(Barred::Stale | Barred::Gone(_)) => {
                self.post.retire(asked);
                self.opened(leave, &mut asked)
            }
            said => said,
        }
    }

    /// A connection of the guard whose number `asked` is from then on.
    fn opened(&self, leave: &Leave, asked: &mut Option<u32>) -> Result<Conn, Barred> {
        let broken = |error: io::Error| Barred::Gone(error.to_string());
        let (words, far_words) = pair().map_err(broken)?;
        let (data, far_data) = pair().map_err(broken)?;
        words.set_write_timeout(Some(ANSWER_WITHIN)).map_err(broken)?;
        self.post.hand_over(far_words, far_data, asked)?;
        let (told, heard) = mpsc::channel();
        let held = Arc::new(Held {
            words,
            data,
            heard: Mutex::new(heard),
            trouble: Arc::default(),
        });
        self.post.hold(&held)?;
        let lines = Lines::of(held.words.try_clone().map_err(broken)?);
        let (trouble, journal) = (Arc::clone(&held.trouble), self.journal.clone());
        std::thread::Builder::new()
            .name("heph-outlet".to_owned())
            .spawn(move || write_down(lines, &trouble, &journal, &told))
            .map_err(broken)?;
        let conn = Conn(held);
        conn.leave(leave)?;
        Ok(conn)
    }
}

/// Why a guard is no process of its own.
fn here() -> &'static str {
    if cfg!(target_os = "linux") {
        "it was not begun as the program that has one"
    } else {
        "this system has no guard that heph knows"
    }
}

impl Post {
    fn guard(&self) -> MutexGuard<'_, Guard> {
        self.guard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begun(&self, guard: &mut Guard) -> Result<(), Barred> {
        let Guard::Unbegun { was_there } = *guard else {
            return Ok(());
        };
        *guard = match BEGIN.get() {
            None => {
                let warden = Warden::new(&self.home, &self.allow, Reading::Again, was_there);
                Guard::Here(Arc::new(warden.lending(self.lends.clone())))
            }
            Some(begin) => {
                let start = Start {
                    home: self.home.clone(),
                    allow: self.allow.clone(),
                    lends: self.lends.clone(),
                    was_there,
                };
                let begun = begin(&start);
                Guard::Alone(begun.map_err(|error| Barred::Gone(error.to_string()))?)
            }
        };
        Ok(())
    }

    /// Gives the guard its ends of a connection.
    fn hand_over(&self, words: Stream, data: Stream, asked: &mut Option<u32>) -> Result<(), Barred> {
        let mut guard = self.guard();
        self.begun(&mut guard)?;
        match &*guard {
            #[cfg(target_os = "linux")]
            Guard::Alone(begun) => {
                *asked = Some(begun.pid);
                let ends = [words.as_fd(), data.as_fd()];
                super::process::hand_over(&begun.control, Ends::Connection, ends)
                    .map_err(|error| Barred::Gone(error.to_string()))
            }
            #[cfg(not(target_os = "linux"))]
            Guard::Alone(_) => Err(Barred::Gone(here().to_owned())),
            Guard::Here(warden) => {
                let warden = Arc::clone(warden);
                let keeping = std::thread::Builder::new().name("heph-guard".to_owned());
                let keeping = keeping.spawn(move || keep::keep(words, data, &warden));
                keeping.map(drop).map_err(|error| Barred::Gone(error.to_string()))
            }
            Guard::Unbegun { .. } => Err(Barred::Gone("none was begun".to_owned())),
        }
    }

    /// Gives the guard its ends of an endpoint for machines.
    #[cfg(target_os = "linux")]
    fn hand_machines(
        &self,
        words: &OwnedFd,
        questions: &OwnedFd,
        asked: &mut Option<u32>,
    ) -> Result<(), Barred> {
        let mut guard = self.guard();
        self.begun(&mut guard)?;
        let Guard::Alone(begun) = &*guard else {
            return Err(Barred::Gone(here().to_owned()));
        };
        *asked = Some(begun.pid);
        let ends = [words.as_fd(), questions.as_fd()];
        super::process::hand_over(&begun.control, Ends::Machines, ends)
            .map_err(|error| Barred::Gone(error.to_string()))
    }

    /// Lets go of the guard of that number, unless somebody else did: what it keeps it keeps to its end, and the next connection is
    /// another one's.
    fn retire(&self, asked: Option<u32>) {
        let mut guard = self.guard();
        if let Guard::Alone(begun) = &*guard
            && Some(begun.pid) == asked
        {
            *guard = Guard::Unbegun {
                was_there: begun.has_policy,
            };
        }
    }

    fn hold(&self, held: &Arc<Held>) -> Result<(), Barred> {
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        live.retain(|held| held.strong_count() > 0);
        if live.len() >= CONNECTIONS_MAX {
            return Err(Barred::Unreachable(format!(
                "{CONNECTIONS_MAX} connections are open already"
            )));
        }
        live.push(Arc::downgrade(held));
        Ok(())
    }
}

/// Has written down what all connections of this process carried, as far as guards say so in time: before a program ends.
pub fn note_all() {
    let posts = POSTS.lock().unwrap_or_else(PoisonError::into_inner).clone();
    for post in posts {
        let live = post.live.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for held in live.iter().filter_map(Weak::upgrade) {
            held.ask(&Asked::Count, END_WITHIN);
        }
    }
}

/// A connection.
#[derive(Debug, Clone)]
pub(crate) struct Conn(Arc<Held>);

#[derive(Debug)]
struct Held {
    words: Stream,
    data: Stream,
    /// What the guard answers, one asker at a time.
    heard: Mutex<Receiver<Told>>,
    trouble: Arc<Mutex<Option<Barred>>>,
}

impl Conn {
    /// What passes, as it is.
    pub(crate) fn data(&self) -> &Stream {
        &self.0.data
    }

    /// Leave to send what `leave` says over this connection.
    ///
    /// # Errors
    /// Why it may not be sent.
    pub(crate) fn leave(&self, leave: &Leave) -> Result<(), Barred> {
        let patience = Duration::from_millis(leave.patience_ms) + ANSWER_WITHIN;
        match self.0.ask(&Asked::Leave(leave.clone()), patience) {
            Some(Told::Granted(_)) => Ok(()),
            Some(Told::Barred(barred)) => Err(barred),
            _ => Err(self
                .trouble()
                .unwrap_or_else(|| Barred::Gone("it does not answer".to_owned()))),
        }
    }

    /// Whether it may be used once more: nothing came that nobody asked for, and its guard has read what counts now.
    pub(crate) fn is_open(&self) -> bool {
        let mut data = &self.0.data;
        let read = data.set_nonblocking(true).and_then(|()| data.read(&mut [0]));
        let quiet = read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
        let waits = data.set_nonblocking(false).is_ok();
        let fresh = || self.0.ask(&Asked::Count, ANSWER_WITHIN);
        quiet && waits && matches!(fresh(), Some(Told::Counted { stale: false }))
    }

    /// Why the guard ended it, where it did and that was heard.
    pub(crate) fn trouble(&self) -> Option<Barred> {
        self.0.trouble()
    }

    /// Why the guard ended it, where it did: waits a moment for its last word, so it is asked where nothing passes any more.
    pub(crate) fn ended(&self) -> Option<Barred> {
        let heard = self.0.heard.lock().unwrap_or_else(PoisonError::into_inner);
        while heard.recv_timeout(END_WITHIN).is_ok() {}
        drop(heard);
        self.trouble()
    }
}

impl Held {
    /// Says something and waits for the answer.
    fn ask(&self, what: &Asked, patience: Duration) -> Option<Told> {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        say(&self.words, what).ok()?;
        heard.recv_timeout(patience).ok()
    }

    fn trouble(&self) -> Option<Barred> {
        self.trouble
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// What passed last is written down, within a moment.
impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.data.shutdown(Shutdown::Both);
        let _ = self.words.shutdown(Shutdown::Write);
        let heard = self.heard.get_mut().unwrap_or_else(PoisonError::into_inner);
        while !matches!(
            heard.recv_timeout(END_WITHIN),
            Err(RecvTimeoutError::Disconnected | RecvTimeoutError::Timeout)
        ) {}
        let _ = self.words.shutdown(Shutdown::Both);
    }
}

/// Writes down what the guard counted, passes on what it answers, and remembers why it ended the connection.
fn write_down(
    mut lines: Lines,
    trouble: &Mutex<Option<Barred>>,
    journal: &Journal,
    told: &mpsc::Sender<Told>,
) {
    let remember = |barred| {
        let mut trouble = trouble.lock().unwrap_or_else(PoisonError::into_inner);
        trouble.get_or_insert(barred);
    };
    loop {
        match lines.next(None) {
            // A log that cannot be written ends no answer.
            Next::Line(Told::Carried(carried)) => drop(journal.note(&[line(carried)])),
            Next::Line(Told::Cut(barred)) => remember(barred),
            Next::Line(Told::Ended) => return,
            Next::Line(answer) => drop(told.send(answer)),
            Next::Quiet => {}
            Next::End => return remember(Barred::Gone("it ended".to_owned())),
        }
    }
}

fn line(carried: Carried) -> Line {
    let Carried {
        kind,
        to,
        who,
        purpose,
        labels,
        bytes,
    } = carried;
    let way = Way {
        kind,
        to,
        who,
        purpose,
        labels,
        counted: Counted::OnTheWire,
    };
    Line {
        at: seconds_since_1970(),
        way,
        bytes,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{SocketAddr, TcpListener};
    use std::sync::mpsc::Receiver as Heard;

    use heph_privacy::label::{Label, Level};

    use super::*;
    use crate::egress::Kind;
    use crate::guard::{Grounds, slack};
    use crate::providers::PROVIDERS_FILE;

    /// A server that says what it heard on each connection when that ends.
    fn listening() -> (SocketAddr, Heard<Vec<u8>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (to, heard) = mpsc::channel();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let to = to.clone();
                std::thread::spawn(move || {
                    let mut all = Vec::new();
                    let _ = stream.write_all(b"welcome");
                    let _ = stream.read_to_end(&mut all);
                    let _ = to.send(all);
                });
            }
        });
        (address, heard)
    }

    /// A home folder with these providers.
    fn home(providers: &[(&str, SocketAddr)]) -> tempfile::TempDir {
        let home = tempfile::tempdir().unwrap();
        let one = |(name, at): &(&str, SocketAddr)| {
            format!(
                "[[provider]]\nname = \"{name}\"\ndialect = \"openai\"\nurl = \"http://{at}/v1\"\nmodels = [\"m\"]\nsees = \"text\"\n"
            )
        };
        let text: String = providers.iter().map(one).collect();
        std::fs::write(home.path().join(PROVIDERS_FILE), text).unwrap();
        home
    }

    fn leave(at: SocketAddr, level: Level, bytes: u64) -> Leave {
        Leave {
            kind: Kind::Provider,
            who: "near".to_owned(),
            host: at.ip().to_string(),
            port: at.port(),
            purpose: "answer".to_owned(),
            grounds: Some(Grounds {
                label: Label::new(level, "source:prompt"),
                mode: "remote".to_owned(),
                credits: 0,
                replaced: None,
                rules: Vec::new(),
            }),
            bytes,
            patience_ms: 5000,
        }
    }

    fn patience() -> Duration {
        Duration::from_secs(30)
    }

    /// Waits until the guard has said why it ended the connection.
    fn trouble(conn: &Conn) -> Option<Barred> {
        (0..3000).find_map(|_| {
            std::thread::sleep(Duration::from_millis(10));
            conn.trouble()
        })
    }

    #[test]
    fn no_byte_more_than_was_cleared_goes_up() {
        let (at, heard) = listening();
        let home = home(&[("near", at)]);
        let outlet = Outlet::at(home.path(), &[]);
        let most = 10 + slack(10);
        let exact = outlet.open(&leave(at, Level::Internal, 10)).unwrap();
        exact.data().write_all(&vec![b'x'; most as usize]).unwrap();
        // Who leaves something unread ends by a reset, which takes with it what is on its way.
        exact.data().read_exact(&mut [0; b"welcome".len()]).unwrap();
        drop(exact);
        assert_eq!(heard.recv_timeout(patience()).unwrap().len() as u64, most);
        let more = outlet.open(&leave(at, Level::Internal, 10)).unwrap();
        // In one piece, so that none of it goes.
        let _ = more.data().write_all(&vec![b'y'; most as usize + 1]);
        let why = trouble(&more).unwrap();
        assert!(
            matches!(&why, Barred::Forbidden(why) if why.contains("more was to be sent")),
            "{why:?}"
        );
        drop(more);
        let got = heard.recv_timeout(patience()).unwrap();
        assert!(got.len() as u64 <= most, "{}", got.len());
    }

    #[test]
    fn nothing_reaches_a_place_that_was_not_cleared() {
        let ((at, heard), (other, other_heard)) = (listening(), listening());
        let home = home(&[("near", at), ("other", other)]);
        let outlet = Outlet::at(home.path(), &[]);
        let elsewhere = Leave {
            port: other.port(),
            ..leave(at, Level::Internal, 10)
        };
        assert!(matches!(outlet.open(&elsewhere), Err(Barred::Forbidden(_))));
        // Nor where another one was cleared.
        let conn = outlet.open(&leave(at, Level::Internal, 10)).unwrap();
        let other = Leave {
            who: "other".to_owned(),
            ..elsewhere
        };
        assert!(matches!(conn.leave(&other), Err(Barred::Forbidden(_))));
        drop(conn);
        assert!(heard.recv_timeout(patience()).unwrap().is_empty());
        assert!(other_heard.try_recv().is_err());
    }

    #[test]
    fn what_passes_is_counted_by_label() {
        let (at, heard) = listening();
        let home = home(&[("near", at)]);
        let conn = Outlet::at(home.path(), &[])
            .open(&leave(at, Level::Internal, 100))
            .unwrap();
        let mut data = conn.data();
        data.write_all(b"0123456789").unwrap();
        data.read_exact(&mut [0; 7]).unwrap();
        // A label is counted under once all that came before it is.
        let counted = || Journal::at(home.path()).read().unwrap().lines;
        let passed = |up: u64| {
            (0..3000).any(|_| {
                std::thread::sleep(Duration::from_millis(5));
                conn.0.ask(&Asked::Count, patience());
                counted().iter().map(|line| line.bytes.up).sum::<u64>() == up
            })
        };
        assert!(passed(10));
        conn.leave(&leave(at, Level::Public, 100)).unwrap();
        data.write_all(b"abcd").unwrap();
        assert!(passed(14));
        drop(conn);
        assert_eq!(heard.recv_timeout(patience()).unwrap(), b"0123456789abcd");
        let by = |level: &str| {
            let of = |line: &Line| line.way.labels.contains(level);
            counted()
                .iter()
                .filter(|line| of(line))
                .map(|line| line.bytes.up)
                .sum::<u64>()
        };
        assert_eq!((by("internal"), by("public")), (10, 4));
        let lines = counted();
        assert!(
            lines
                .iter()
                .all(|line| line.way.to == at.to_string() && line.way.who == "near")
        );
        assert_eq!(lines.iter().map(|line| line.bytes.down).sum::<u64>(), 7);
    }

    #[test]
    fn a_machine_that_is_cut_off_ends_what_is_under_way() {
        let (at, _heard) = listening();
        let home = home(&[("near", at)]);
        let outlet = Outlet::at(home.path(), &[]);
        let conn = outlet.open(&leave(at, Level::Internal, 10)).unwrap();
        std::fs::write(home.path().join("cut-off"), "").unwrap();
        assert!(matches!(trouble(&conn), Some(Barred::Forbidden(_))));
        assert!(outlet.open(&leave(at, Level::Internal, 10)).is_err());
    }
}
