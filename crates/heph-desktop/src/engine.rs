//! The engine beside the window: `heph serve` in a process of its own, begun anew when it ends.
//!
//! The window opens the socket and keeps it; the engine inherits it. So the address stays while an engine is begun anew, and
//! whoever asks meanwhile waits in the socket. Where a `heph serve` of the same profile runs already, the engine
//! only says where, waits for its end and takes its place. Never reads an answer or a prompt.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tauri::Url;

/// Where programs look for HEPH.
const USUAL_PORT: u16 = 11500;

/// So many ends within [`WITHIN`], and the person is asked.
const ENDS_MAX: usize = 5;

/// See [`ENDS_MAX`].
const WITHIN: Duration = Duration::from_secs(60);

/// The wait before the third try (the second comes at once); each later one takes twice as long: 1.75 s for all five.
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// The program's word for a command line or a setting that it cannot understand, and for a model that is missing: it would
/// say the same again.
const HOPELESS: [i32; 2] = [2, 3];

/// Bytes of one line of what the engine says; the page's address has a few hundred.
const LINE_MAX: u64 = 16 << 10;

/// Lines of its errors that are kept.
const LINES_KEPT: usize = 20;

/// Letters of a reason that are shown.
const REASON_MAX: usize = 400;

/// What becomes of the engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub(crate) enum State {
    /// It was begun and does not answer yet.
    Starting,
    /// It answers.
    Open {
        /// Whether it is a `heph serve` that somebody else began.
        attached: bool,
    },
    /// It ended, and is begun anew.
    Again {
        /// Why, as far as it said.
        why: String,
    },
    /// It ended again and again; the person has to say what now.
    Ended {
        /// Why, as far as it said.
        why: String,
    },
}

/// What the engine says once it answers, as `heph serve --json` writes it.
#[derive(Debug, Deserialize)]
struct Said {
    page: String,
    attached: bool,
}

/// Why it ended, as `heph serve --json` says it.
#[derive(Debug, Deserialize)]
struct Complaint {
    error: String,
    hint: Option<String>,
}

/// Told of every change.
type Told = Arc<dyn Fn(&State) + Send + Sync>;

/// The engine, from whichever thread.
#[derive(Clone)]
pub(crate) struct Engine(Arc<Shared>);

struct Shared {
    program: PathBuf,
    inner: Mutex<Inner>,
    bell: Condvar,
}

struct Inner {
    state: State,
    page: Option<Url>,
    /// The port that was listened on last.
    port: u16,
    child: Option<Child>,
    told: Option<Told>,
    again: bool,
    over: bool,
}

impl Engine {
    /// Begins `program`, on the usual port, on `port` or on any. The thread that watches it ends with [`Engine::end`].
    pub(crate) fn start(program: PathBuf, port: Option<u16>) -> Self {
        let inner = Inner {
            state: State::Starting,
            page: None,
            port: port.unwrap_or(0),
            child: None,
            told: None,
            again: false,
            over: false,
        };
        let engine = Self(Arc::new(Shared {
            program,
            inner: Mutex::new(inner),
            bell: Condvar::new(),
        }));
        let watched = engine.clone();
        let thread = thread::Builder::new().name("heph-engine".to_owned());
        if let Err(cause) = thread.spawn(move || watched.watch()) {
            engine.be(State::Ended {
                why: cause.to_string(),
            });
        }
        engine
    }

    /// Has `told` hear of every change from now on, and of how it is now.
    pub(crate) fn tell(&self, told: impl Fn(&State) + Send + Sync + 'static) {
        let state = {
            let mut inner = self.lock();
            inner.told = Some(Arc::new(told));
            inner.state.clone()
        };
        self.told(&state);
    }

    pub(crate) fn state(&self) -> State {
        self.lock().state.clone()
    }

    /// Where the page is, with the token; `None` before the engine answered for the first time.
    pub(crate) fn page(&self) -> Option<Url> {
        self.lock().page.clone()
    }

    /// The port that the window listens on.
    pub(crate) fn port(&self) -> u16 {
        self.lock().port
    }

    /// Waits until the page is there, `patience` at most.
    pub(crate) fn page_within(&self, patience: Duration) -> Option<Url> {
        let until = |inner: &mut Inner| inner.page.is_none() && !matches!(inner.state, State::Ended { .. });
        let waited = self.0.bell.wait_timeout_while(self.lock(), patience, until);
        let (inner, _) = waited.unwrap_or_else(PoisonError::into_inner);
        inner.page.clone()
    }

    /// Tries once more.
    pub(crate) fn again(&self) {
        self.lock().again = true;
        self.0.bell.notify_all();
    }

    /// Lets the engine end.
    pub(crate) fn end(&self) {
        let mut inner = self.lock();
        inner.over = true;
        // On Unix it sees for itself that the window is gone, and finishes what it is at.
        if cfg!(not(unix))
            && let Some(child) = &mut inner.child
        {
            let _ = child.kill();
        }
        drop(inner);
        self.0.bell.notify_all();
    }

    /// Begins engines, one after another, until [`Engine::end`].
    fn watch(&self) {
        let mut socket = None;
        let mut ends: VecDeque<Instant> = VecDeque::new();
        loop {
            let why = match self.serve(&mut socket) {
                Ok(why) => why,
                Err(cause) => End {
                    why: format!("{}: {cause}", self.0.program.display()),
                    hopeless: true,
                },
            };
            ends.push_back(Instant::now());
            ends.retain(|end| end.elapsed() < WITHIN);
            if self.lock().over {
                return;
            }
            if why.hopeless || ends.len() >= ENDS_MAX {
                // Nobody waits in the socket for what does not come.
                socket = None;
                self.be(State::Ended { why: why.why });
                if !self.wait_for_again() {
                    return;
                }
                ends.clear();
                self.be(State::Starting);
                continue;
            }
            self.be(State::Again { why: why.why });
            let pause = match ends.len() {
                0 | 1 => Duration::ZERO,
                n => FIRST_PAUSE * (1 << (n - 2)),
            };
            let until_over = |inner: &mut Inner| !inner.over;
            let waited = self.0.bell.wait_timeout_while(self.lock(), pause, until_over);
            if waited.unwrap_or_else(PoisonError::into_inner).0.over {
                return;
            }
        }
    }

    /// One engine, from its beginning to its end.
    fn serve(&self, socket: &mut Option<TcpListener>) -> io::Result<End> {
        let listener = match socket.take() {
            Some(listener) => listener,
            None => self.listen()?,
        };
        let mut command = Command::new(&self.0.program);
        command.args(["serve", "--json", "--attach"]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        hand_over(&mut command, &listener)?;
        without_a_console(&mut command);
        *socket = Some(listener);
        let mut child = command.spawn()?;
        let out = child.stdout.take();
        let errors = child.stderr.take();
        self.lock().child = Some(child);
        let errors = thread::spawn(move || errors.map_or_else(Vec::new, last_lines));
        if let Some(out) = out {
            let mut out = BufReader::new(out);
            while let Some(line) = line(&mut out)? {
                if let Ok(said) = serde_json::from_str::<Said>(&line)
                    && let Some(page) = page_of(&said.page)
                {
                    self.lock().page = Some(page);
                    self.be(State::Open {
                        attached: said.attached,
                    });
                }
            }
        }
        let child = self.lock().child.take();
        let status = child.map(|mut child| child.wait()).transpose()?;
        let lines = errors.join().unwrap_or_default();
        Ok(End::of(status, &lines))
    }

    /// A socket on the usual port, on the one of last time, or on any.
    fn listen(&self) -> io::Result<TcpListener> {
        let last = self.lock().port;
        let ports = [USUAL_PORT, last, 0];
        // Where the page was before, there it should be again.
        let ports = if self.page().is_some() {
            [last, USUAL_PORT, 0]
        } else {
            ports
        };
        let mut refused = io::Error::from(io::ErrorKind::AddrInUse);
        for port in ports {
            match TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port))) {
                Ok(listener) => {
                    self.lock().port = listener.local_addr()?.port();
                    return Ok(listener);
                }
                Err(cause) => refused = cause,
            }
        }
        Err(refused)
    }

    fn wait_for_again(&self) -> bool {
        let waits = |inner: &mut Inner| !inner.again && !inner.over;
        let inner = self.0.bell.wait_while(self.lock(), waits);
        let mut inner = inner.unwrap_or_else(PoisonError::into_inner);
        inner.again = false;
        !inner.over
    }

    fn be(&self, state: State) {
        self.lock().state = state.clone();
        self.0.bell.notify_all();
        self.told(&state);
    }

    fn told(&self, state: &State) {
        // Whoever is told may ask back: not under the lock.
        let told = self.lock().told.clone();
        if let Some(told) = told {
            told(state);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How an engine ended.
struct End {
    why: String,
    /// Another one would end in the same way.
    hopeless: bool,
}

impl End {
    fn of(status: Option<ExitStatus>, lines: &[String]) -> Self {
        let ended = || status.map_or_else(|| "it ended".to_owned(), |status| status.to_string());
        let complaint = lines
            .iter()
            .rev()
            .find_map(|line| serde_json::from_str::<Complaint>(line).ok());
        let why = match complaint.map(|complaint| (complaint.error, complaint.hint)) {
            Some((error, Some(hint))) => format!("{error} ({hint})"),
            Some((error, None)) => error,
            // It did not come to say it in its usual way: a panic, or the system.
            None => lines
                .iter()
                .rev()
                .map(|line| line.trim())
                .find(|line| !line.is_empty())
                .map_or_else(ended, str::to_owned),
        };
        Self {
            why: why.chars().take(REASON_MAX).collect(),
            hopeless: status
                .and_then(|status| status.code())
                .is_some_and(|code| HOPELESS.contains(&code)),
        }
    }
}

/// Gives the engine the socket.
#[cfg(unix)]
fn hand_over(command: &mut Command, listener: &TcpListener) -> io::Result<()> {
    let socket = std::os::fd::OwnedFd::from(listener.try_clone()?);
    command.stdin(Stdio::from(socket));
    command.args(["--inherited", &std::process::id().to_string()]);
    Ok(())
}

/// Elsewhere sockets are not inherited: the engine listens on the same port, which is free while it is begun anew.
#[cfg(not(unix))]
fn hand_over(command: &mut Command, listener: &TcpListener) -> io::Result<()> {
    command.stdin(Stdio::null());
    command.args(["--listen", &listener.local_addr()?.to_string()]);
    Ok(())
}

/// Windows gives a program of the command line a window of its own, unless it is told not to.
pub(crate) fn without_a_console(command: &mut Command) {
    #[cfg(windows)]
    {
        use std::os::windows::process::CommandExt as _;
        /// `CREATE_NO_WINDOW`.
        const NO_WINDOW: u32 = 0x0800_0000;
        command.creation_flags(NO_WINDOW);
    }
    #[cfg(not(windows))]
    let _ = command;
}

/// The page's address, if it is one of this machine.
fn page_of(text: &str) -> Option<Url> {
    let page = Url::parse(text).ok()?;
    let here = page.host_str()?.parse::<std::net::IpAddr>().ok()?.is_loopback();
    (page.scheme() == "http" && here).then_some(page)
}

/// The next line; one that is too long comes in pieces.
fn line(from: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut bytes = Vec::new();
    let read = from.by_ref().take(LINE_MAX).read_until(b'\n', &mut bytes)?;
    Ok((read > 0).then(|| String::from_utf8_lossy(&bytes).into_owned()))
}

/// The last lines of what an engine complained of.
fn last_lines(from: impl Read) -> Vec<String> {
    let mut from = BufReader::new(from);
    let mut lines = VecDeque::new();
    while let Ok(Some(line)) = line(&mut from) {
        if lines.len() == LINES_KEPT {
            lines.pop_front();
        }
        lines.push_back(line);
    }
    lines.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    mod scripted {
        use std::fs;
        use std::sync::mpsc::{Receiver, channel};

        use super::*;
        use crate::scripted::{PATIENCE, program};

        const SAYS: &str = r#"echo '{"address":"x","page":"http://127.0.0.1:9/#token=t","attached":false}'"#;

        /// An engine that is a script of the shell, in a folder of its own.
        fn engine(folder: &tempfile::TempDir, script: &str) -> (Engine, Receiver<State>) {
            let program = program(folder.path(), script);
            let (tell, told) = channel();
            let engine = Engine::start(program, None);
            engine.tell(move |state| drop(tell.send(state.clone())));
            (engine, told)
        }

        /// The first state that `wanted` takes.
        fn comes(told: &Receiver<State>, wanted: impl Fn(&State) -> bool) -> State {
            let began = Instant::now();
            loop {
                let left = PATIENCE.saturating_sub(began.elapsed());
                let state = told.recv_timeout(left).expect("no such state came");
                if wanted(&state) {
                    return state;
                }
            }
        }

        #[test]
        fn an_engine_that_ends_is_begun_anew_with_the_same_socket() {
            let folder = tempfile::tempdir().unwrap();
            // The second one says which socket it got, and goes on.
            let script = format!(
                "ls -l /proc/self/fd/0 >>sockets 2>/dev/null\n{SAYS}\n\
                 if [ ! -e second ]; then touch second; echo 'it broke' >&2; exit 1; fi\nsleep 60"
            );
            let (engine, told) = engine(&folder, &script);
            let again = comes(&told, |state| matches!(state, State::Again { .. }));
            assert_eq!(
                again,
                State::Again {
                    why: "it broke".to_owned()
                }
            );
            comes(&told, |state| *state == State::Open { attached: false });
            if cfg!(target_os = "linux") {
                let sockets = fs::read_to_string(folder.path().join("sockets")).unwrap();
                let names: Vec<_> = sockets
                    .lines()
                    .filter_map(|line| line.split(" -> ").nth(1))
                    .collect();
                assert_eq!(names.len(), 2, "{sockets}");
                assert_eq!(names[0], names[1]);
                assert!(names[0].starts_with("socket:"), "{sockets}");
            }
            assert_eq!(engine.page().unwrap().as_str(), "http://127.0.0.1:9/#token=t");
            engine.end();
        }

        #[test]
        fn an_engine_that_ends_again_and_again_waits_for_the_person() {
            let folder = tempfile::tempdir().unwrap();
            let (engine, told) = engine(&folder, "echo no >>begun; exit 1");
            comes(&told, |state| matches!(state, State::Ended { .. }));
            let begun = || {
                fs::read_to_string(folder.path().join("begun"))
                    .unwrap()
                    .lines()
                    .count()
            };
            assert_eq!(begun(), ENDS_MAX);
            engine.again();
            comes(&told, |state| matches!(state, State::Ended { .. }));
            assert_eq!(begun(), 2 * ENDS_MAX);
            engine.end();
        }

        #[test]
        fn what_would_end_in_the_same_way_is_not_tried_twice() {
            let folder = tempfile::tempdir().unwrap();
            let script = "echo no >>begun; echo 'no such model' >&2; exit 3";
            let (engine, told) = engine(&folder, script);
            let ended = comes(&told, |state| matches!(state, State::Ended { .. }));
            assert_eq!(
                ended,
                State::Ended {
                    why: "no such model".to_owned()
                }
            );
            assert_eq!(
                fs::read_to_string(folder.path().join("begun"))
                    .unwrap()
                    .lines()
                    .count(),
                1
            );
            assert_eq!(engine.page_within(PATIENCE), None);
            engine.end();
        }

        #[test]
        fn without_a_program_the_person_is_told() {
            let engine = Engine::start(PathBuf::from("/nowhere/heph"), None);
            assert_eq!(engine.page_within(PATIENCE), None);
            let State::Ended { why } = engine.state() else {
                panic!("it goes on")
            };
            assert!(why.starts_with("/nowhere/heph: "), "{why}");
        }
    }

    #[test]
    fn a_page_of_another_machine_is_none() {
        for (text, expected) in [
            ("http://127.0.0.1:11500/#token=a", true),
            ("http://[::1]:11500/", false),
            ("http://127.0.0.1.example/", false),
            ("http://192.0.2.1:11500/", false),
            ("https://127.0.0.1:11500/", false),
            ("file:///etc/passwd", false),
            ("127.0.0.1", false),
            ("", false),
        ] {
            assert_eq!(page_of(text).is_some(), expected, "{text}");
        }
    }

    #[test]
    fn why_it_ended_is_what_it_said_itself() {
        let why = |lines: &[&str]| {
            End::of(
                None,
                &lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>(),
            )
            .why
        };
        assert_eq!(
            why(&[
                "note\n",
                "{\"error\":\"no model\",\"hint\":\"pull it\",\"exit\":3}\n"
            ]),
            "no model (pull it)"
        );
        assert_eq!(why(&["{\"error\":\"no model\",\"exit\":3}\n", "\n"]), "no model");
        assert_eq!(why(&["the system says no\n"]), "the system says no");
        assert_eq!(why(&[]), "it ended");
        assert_eq!(why(&[&"x".repeat(9 * REASON_MAX)]).len(), REASON_MAX);
    }

    #[test]
    fn of_many_lines_the_last_are_kept_and_long_ones_come_in_pieces() {
        let many: String = (0..100).map(|n| format!("{n}\n")).collect();
        let kept = last_lines(many.as_bytes());
        assert_eq!((kept.len(), kept[0].as_str()), (LINES_KEPT, "80\n"));
        let long = vec![b'x'; 3 * LINE_MAX as usize];
        assert!(
            last_lines(&long[..])
                .iter()
                .all(|line| line.len() <= LINE_MAX as usize)
        );
    }
}
