//! This computer for other machines: `heph node` in a process of its own, while the person wants it.

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use serde::Serialize;

use crate::{engine, kept};

/// Bytes of what a node complained of that are read.
const COMPLAINT_MAX: u64 = 16 << 10;

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
pub(crate) struct Lending(Arc<Mutex<Inner>>);

struct Inner {
    program: PathBuf,
    state: State,
    child: Option<Child>,
    /// Counts the nodes, so that the end of an earlier one is not taken for that of a later.
    round: u64,
}

impl Lending {
    pub(crate) fn new(program: PathBuf) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            program,
            state: State::Off,
            child: None,
            round: 0,
        })))
    }

    pub(crate) fn state(&self) -> State {
        self.lock().state.clone()
    }

    /// Begins to lend within `caps`. `ended` is called when the node ends by itself.
    pub(crate) fn begin(&self, caps: &kept::Lending, ended: impl FnOnce() + Send + 'static) {
        self.stop(State::Off);
        let mut inner = self.lock();
        let mut command = Command::new(&inner.program);
        command
            .args(["node", "--json", "--while-input-open"])
            .args(caps.arguments());
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        engine::without_a_console(&mut command);
        match command.spawn() {
            Err(cause) => {
                inner.state = State::Failed {
                    why: cause.to_string(),
                }
            }
            Ok(mut child) => {
                let errors = child.stderr.take();
                inner.round += 1;
                let round = inner.round;
                inner.state = State::On;
                inner.child = Some(child);
                let watched = self.clone();
                thread::spawn(move || {
                    let why = errors.map_or_else(String::new, last_line);
                    if watched.ended(round, why) {
                        ended();
                    }
                });
            }
        }
    }

    /// Lends no more: the node says goodbye when its standard input closes.
    pub(crate) fn stop(&self, state: State) {
        let child = {
            let mut inner = self.lock();
            inner.state = state;
            inner.round += 1;
            inner.child.take()
        };
        if let Some(mut child) = child {
            drop(child.stdin.take());
            thread::spawn(move || child.wait());
        }
    }

    /// Whether the node of that round ended by itself.
    fn ended(&self, round: u64, why: String) -> bool {
        let mut inner = self.lock();
        if inner.round != round {
            return false;
        }
        if let Some(mut child) = inner.child.take() {
            let _ = child.wait();
        }
        inner.state = State::Failed { why };
        true
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
    use std::os::unix::fs::PermissionsExt;
    use std::sync::mpsc::channel;
    use std::time::{Duration, Instant};

    use super::*;

    /// Long enough for a machine that does much else.
    const PATIENCE: Duration = Duration::from_secs(60);

    /// A node that is a script of the shell, in a folder of its own.
    fn lending(folder: &tempfile::TempDir, script: &str) -> Lending {
        let program = folder.path().join("heph");
        fs::write(
            &program,
            format!("#!/bin/sh\ncd {}\n{script}\n", folder.path().display()),
        )
        .unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        Lending::new(program)
    }

    #[test]
    fn a_node_ends_when_the_person_lends_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let lending = lending(&folder, "echo $@ >asked; cat >/dev/null; touch left");
        lending.begin(&kept::Lending::default(), || panic!("it was ended"));
        assert_eq!(lending.state(), State::On);
        let began = Instant::now();
        while !folder.path().join("asked").exists() {
            assert!(began.elapsed() < PATIENCE, "no node came");
            thread::sleep(Duration::from_millis(10));
        }
        lending.stop(State::Paused);
        while !folder.path().join("left").exists() {
            assert!(began.elapsed() < PATIENCE, "the node goes on");
            thread::sleep(Duration::from_millis(10));
        }
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
    fn without_a_program_nothing_is_lent() {
        let lending = Lending::new("/nowhere/heph".into());
        lending.begin(&kept::Lending::default(), || ());
        assert!(matches!(lending.state(), State::Failed { .. }));
    }
}
