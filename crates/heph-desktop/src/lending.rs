//! This computer for other machines: `heph node` in a process of its own, while the person wants it.

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::{engine, kept};

/// Bytes of what a node complained of that are read.
const COMPLAINT_MAX: u64 = 16 << 10;

/// How long a node may take to say goodbye before it is ended.
const GOODBYE: Duration = Duration::from_secs(10);

/// Pauses before the first node of a window is begun once more: that of an earlier window may be saying goodbye. Longer than [`GOODBYE`] in
/// all.
const PAUSES: [Duration; 5] = [
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(8),
];

/// The program's words for a folder that another node has (it stands with settings that cannot be), and for a port.
const TAKEN: [i32; 2] = [2, 5];

/// How often it is looked whether a node has ended.
const LOOK: Duration = Duration::from_millis(20);

/// What becomes of the lending.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub(crate) enum State {
    /// Nothing is lent.
    Off,
    /// It is lent; the node itself rests while the person works, where that was wished.
    On,
    /// The person lets it rest.
    Paused,
    /// The node ended by itself.
    Failed {
        /// Why, as far as it said.
        why: String,
    },
}

/// The lending, from whichever thread.
#[derive(Clone)]
pub(crate) struct Lending(Arc<Shared>);

struct Shared {
    inner: Mutex<Inner>,
    /// Told when a node has left, and when another round begins.
    bell: Condvar,
}

struct Inner {
    program: PathBuf,
    state: State,
    child: Option<Child>,
    /// Nodes that were told to end and have not: until then the port is theirs.
    leaving: usize,
    /// Counts the nodes, so that the end of an earlier one is not taken for that of a later.
    round: u64,
}

impl Lending {
    pub(crate) fn new(program: PathBuf) -> Self {
        let inner = Inner {
            program,
            state: State::Off,
            child: None,
            leaving: 0,
            round: 0,
        };
        Self(Arc::new(Shared {
            inner: Mutex::new(inner),
            bell: Condvar::new(),
        }))
    }

    pub(crate) fn state(&self) -> State {
        self.lock().state.clone()
    }

    /// Begins to lend within `caps`, as soon as an earlier node has left. `ended` is called when the node ends by itself.
    pub(crate) fn begin(&self, caps: &kept::Lending, ended: impl FnOnce() + Send + 'static) {
        let round = self.turn(State::On);
        let mut command = Command::new(&self.lock().program);
        command
            .args(["node", "--json", "--while-input-open"])
            .args(caps.arguments());
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        engine::without_a_console(&mut command);
        let lending = self.clone();
        thread::spawn(move || {
            if lending.lent(round, &mut command) {
                ended();
            }
        });
    }

    /// Runs the node of that round, while it is wanted; whether it ended by itself.
    fn lent(&self, round: u64, command: &mut Command) -> bool {
        let mut pauses = PAUSES.iter().filter(|_| round == 1);
        loop {
            let waits = |inner: &mut Inner| inner.leaving > 0;
            let inner = self.0.bell.wait_while(self.lock(), waits);
            let mut inner = inner.unwrap_or_else(PoisonError::into_inner);
            if inner.round != round {
                return false;
            }
            let (why, taken) = match command.spawn() {
                Err(cause) => (cause.to_string(), false),
                Ok(mut child) => {
                    let errors = child.stderr.take();
                    inner.child = Some(child);
                    drop(inner);
                    let why = errors.map_or_else(String::new, last_line);
                    inner = self.lock();
                    if inner.round != round {
                        return false;
                    }
                    let ended = inner.child.take().and_then(|mut child| child.wait().ok());
                    let code = ended.and_then(|status| status.code());
                    (why, code.is_some_and(|code| TAKEN.contains(&code)))
                }
            };
            let Some(pause) = pauses.next().filter(|_| taken) else {
                inner.state = State::Failed { why };
                return true;
            };
            let still = |inner: &mut Inner| inner.round == round;
            drop(self.0.bell.wait_timeout_while(inner, *pause, still));
        }
    }

    /// Lends no more: the node says goodbye when its standard input closes.
    pub(crate) fn stop(&self, state: State) {
        self.turn(state);
    }

    /// Has the node of the last round leave; the number of the next.
    fn turn(&self, state: State) -> u64 {
        let mut inner = self.lock();
        inner.state = state;
        inner.round += 1;
        self.0.bell.notify_all();
        if let Some(mut child) = inner.child.take() {
            drop(child.stdin.take());
            inner.leaving += 1;
            let lending = self.clone();
            thread::spawn(move || {
                leave(&mut child);
                lending.lock().leaving -= 1;
                lending.0.bell.notify_all();
            });
        }
        inner.round
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Comes back when the node has ended, which it does at the latest when it has had its time for a goodbye.
fn leave(child: &mut Child) {
    let began = Instant::now();
    while matches!(child.try_wait(), Ok(None)) {
        if began.elapsed() > GOODBYE {
            let _ = child.kill();
            let _ = child.wait();
            return;
        }
        thread::sleep(LOOK);
    }
}

/// What stands last in what a node complained of; comes back when it ends.
fn last_line(from: impl Read) -> String {
    let mut from = BufReader::new(from);
    let mut last = String::new();
    loop {
        let mut bytes = Vec::new();
        match from.by_ref().take(COMPLAINT_MAX).read_until(b'\n', &mut bytes) {
            Ok(0) | Err(_) => return last,
            Ok(_) => {}
        }
        let line = String::from_utf8_lossy(&bytes).trim().to_owned();
        if !line.is_empty() {
            last = line;
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::fs;
    use std::sync::mpsc::channel;

    use super::*;
    use crate::scripted::{PATIENCE, program};

    /// A node that is a script of the shell, in a folder of its own.
    fn lending(folder: &tempfile::TempDir, script: &str) -> Lending {
        Lending::new(program(folder.path(), script))
    }

    fn until(what: &str, done: impl Fn() -> bool) {
        let began = Instant::now();
        while !done() {
            assert!(began.elapsed() < PATIENCE, "{what} does not come");
            thread::sleep(Duration::from_millis(10));
        }
    }

    #[test]
    fn a_node_ends_when_the_person_lends_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let lending = lending(&folder, "echo $@ >asked; cat >/dev/null; touch left");
        lending.begin(&kept::Lending::default(), || panic!("it was ended"));
        assert_eq!(lending.state(), State::On);
        until("a node", || folder.path().join("asked").exists());
        lending.stop(State::Paused);
        until("the end", || folder.path().join("left").exists());
        assert_eq!(lending.state(), State::Paused);
        let asked = fs::read_to_string(folder.path().join("asked")).unwrap();
        assert_eq!(
            asked.trim(),
            "node --json --while-input-open --cpu=50% --pause-while-i-work"
        );
    }

    #[test]
    fn a_node_that_ends_by_itself_is_told_with_its_reason() {
        let folder = tempfile::tempdir().unwrap();
        let lending = lending(
            &folder,
            "echo first >&2; echo 'error: the port is taken' >&2; exit 1",
        );
        let (tell, told) = channel();
        lending.begin(&kept::Lending::default(), move || {
            let _ = tell.send(());
        });
        told.recv_timeout(PATIENCE).unwrap();
        let why = "error: the port is taken".to_owned();
        assert_eq!(lending.state(), State::Failed { why });
    }

    #[test]
    fn a_node_with_other_bounds_waits_for_the_port_of_the_earlier_one() {
        let folder = tempfile::tempdir().unwrap();
        let lending = lending(
            &folder,
            "mkdir port || { echo 'error: the port is taken' >&2; exit 1; }; touch ./$2; cat >/dev/null; sleep 0.3; rmdir port",
        );
        lending.begin(&kept::Lending::default(), || panic!("it was ended"));
        until("a node", || folder.path().join("--json").exists());
        fs::remove_file(folder.path().join("--json")).unwrap();
        // The second is wanted no more before its turn comes; the third waits for the first.
        for _ in 0..2 {
            lending.begin(&kept::Lending::default(), || panic!("the port was taken"));
        }
        until("another", || folder.path().join("--json").exists());
        assert_eq!(lending.state(), State::On);
        lending.stop(State::Off);
        until("the end", || !folder.path().join("port").exists());
    }

    #[test]
    fn the_first_node_waits_for_that_of_an_earlier_window_and_no_other_does() {
        let folder = tempfile::tempdir().unwrap();
        // The first finds the port taken, the second has it; the third finds it taken again.
        let lending = lending(
            &folder,
            "echo no >>begun; [ $(wc -l <begun) = 2 ] && exec cat >/dev/null; echo 'error: the port is taken' >&2; exit 5",
        );
        let begun = || fs::read_to_string(folder.path().join("begun")).map_or(0, |text| text.lines().count());
        lending.begin(&kept::Lending::default(), || panic!("it was ended"));
        until("the second", || begun() == 2);
        assert_eq!(lending.state(), State::On);
        let (tell, told) = channel();
        lending.begin(&kept::Lending::default(), move || {
            let _ = tell.send(());
        });
        told.recv_timeout(PATIENCE).unwrap();
        let why = "error: the port is taken".to_owned();
        assert_eq!((lending.state(), begun()), (State::Failed { why }, 3));
    }

    #[test]
    fn a_node_that_waits_for_its_port_begins_no_more_once_nobody_wants_it() {
        let folder = tempfile::tempdir().unwrap();
        let lending = lending(&folder, "echo no >>begun; exit 5");
        lending.begin(&kept::Lending::default(), || panic!("it was ended"));
        until("the first", || folder.path().join("begun").exists());
        lending.stop(State::Off);
        thread::sleep(2 * PAUSES[0]);
        let begun = fs::read_to_string(folder.path().join("begun")).unwrap();
        assert_eq!((lending.state(), begun.lines().count()), (State::Off, 1));
    }

    #[test]
    fn without_a_program_nothing_is_lent() {
        let lending = Lending::new("/nowhere/heph".into());
        let (tell, told) = channel();
        lending.begin(&kept::Lending::default(), move || {
            let _ = tell.send(());
        });
        told.recv_timeout(PATIENCE).unwrap();
        assert!(matches!(lending.state(), State::Failed { .. }));
    }
}
