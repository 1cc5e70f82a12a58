//! The other machines of the demonstration: processes of this same program on this machine, each with a home of its own.

use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use heph_net::ticket::Ticket;
use heph_runtime::seal;
use heph_types::NodeId;
use tempfile::TempDir;

use crate::failure::{Exit, Failure};
use crate::terminal;

/// How long a node may take to start: it loads a model of a few megabytes and times it.
const START_DEADLINE: Duration = Duration::from_secs(20);

/// How often a waiting demonstration looks whether it should stop.
const LOOK: Duration = Duration::from_millis(50);

/// A running node; its folder goes with the demonstration's.
pub(super) struct NodeProcess {
    pub(super) name: &'static str,
    pub(super) node: NodeId,
    pub(super) ticket: Ticket,
    running: Running,
}

impl NodeProcess {
    /// Ends it at once, as `kill -9` does: without a goodbye.
    pub(super) fn kill(&mut self) {
        self.running.kill();
    }

    pub(super) fn id(&self) -> u32 {
        self.running.0.id()
    }
}

/// A process that is killed when this is dropped, so that it writes nothing where its folder was.
struct Running(Child);

impl Running {
    fn kill(&mut self) {
        // It may have ended by itself; then there is nothing to kill.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A folder for the homes of the demonstration; it goes when this is dropped.
pub(super) fn folder() -> Result<TempDir, Failure> {
    tempfile::Builder::new()
        .prefix("heph-demo-")
        .tempdir()
        .map_err(|e| Failure::writing(&std::env::temp_dir(), &e))
}

/// Starts a node for each name, all at once, and waits until each can be met.
pub(super) fn start(names: &[&'static str], folder: &Path) -> Result<Vec<NodeProcess>, Failure> {
    let begun: Vec<_> = names
        .iter()
        .map(|name| begin(name, folder.join(name)))
        .collect::<Result<_, _>>()?;
    let until = Instant::now() + START_DEADLINE;
    begun.into_iter().map(|begun| begun.met(until)).collect()
}

/// A node that has not said yet where it is.
struct Begun {
    name: &'static str,
    running: Running,
    said: mpsc::Receiver<io::Result<String>>,
}

fn begin(name: &'static str, home: PathBuf) -> Result<Begun, Failure> {
    let cannot = |e: io::Error| Failure::new(Exit::No, format!("cannot start a second heph: {e}"));
    let program = std::env::current_exe().map_err(cannot)?;
    let mut command = Command::new(program);
    command
        .args(["node", "--json", "--listen", "127.0.0.1:0", "--name", name])
        // It ends when this process does, whatever becomes of it: then nobody holds the other end of its input.
        .args(["--threads", "1", "--while-input-open"])
        .env("HEPH_HOME", home)
        // A machine of a minute has no place in its owner's key store.
        .env("HEPH_KEYS", "file")
        .env_remove("HEPH_MODELS")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    // It owns a socket, which this process does not.
    let mut running = Running(seal::unsealed(move || command.spawn()).map_err(cannot)?);
    let (tell, said) = mpsc::channel();
    if let Some(out) = running.0.stdout.take() {
        std::thread::spawn(move || {
            let mut line = String::new();
            let read = BufReader::new(out).read_line(&mut line);
            // Whoever waited may have given up.
            let _ = tell.send(read.map(|_| line));
        });
    }
    Ok(Begun { name, running, said })
}

impl Begun {
    fn met(self, until: Instant) -> Result<NodeProcess, Failure> {
        let Self { name, running, said } = self;
        let (node, ticket) = invitation(&wait(&said, until)?)?;
        Ok(NodeProcess {
            name,
            node,
            ticket,
            running,
        })
    }
}

fn wait(said: &mpsc::Receiver<io::Result<String>>, until: Instant) -> Result<String, Failure> {
    let cancel = terminal::cancel_on_ctrl_c()?;
    let late = || Failure::new(Exit::Network, "a node of the demonstration did not start");
    loop {
        match said.recv_timeout(LOOK) {
            Ok(Ok(line)) => return Ok(line),
            Ok(Err(_)) | Err(mpsc::RecvTimeoutError::Disconnected) => return Err(late()),
            Err(mpsc::RecvTimeoutError::Timeout) if cancel.is_raised() => return Err(Failure::Stopped),
            Err(mpsc::RecvTimeoutError::Timeout) if Instant::now() > until => return Err(late()),
            Err(mpsc::RecvTimeoutError::Timeout) => {}
        }
    }
}

/// What a node says first.
fn invitation(line: &str) -> Result<(NodeId, Ticket), Failure> {
    let wrong = || {
        Failure::new(
            Exit::Network,
            "a node of the demonstration did not start as it should",
        )
    };
    let said: serde_json::Value = serde_json::from_str(line).map_err(|_| wrong())?;
    let text = |name: &str| said[name].as_str().ok_or_else(wrong);
    let node = text("node")?.parse().map_err(|_| wrong())?;
    let ticket = text("ticket")?.parse().map_err(|_| wrong())?;
    Ok((node, ticket))
}
