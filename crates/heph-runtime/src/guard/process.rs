//! The guard as a process: the program once more, with one Unix socket for its standard input and nothing else.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use heph_net::endpoint::{key_log, mirror};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};

use super::machines::Machines;
use super::outlet::{Begun, Start};
use super::warden::{Reading, Warden};
use super::words::{Lines, Next, say};
use super::{Lends, Stream, keep, pair};
use crate::seal;
use crate::settings::{Allowance, Settings};

/// The hidden word of the program.
const WORD: &str = "egress-guard";

/// What it may be told beside it.
const WAS_THERE: &str = "--policy-was-there";

/// And where the process lends: that it does, that parts of models are fetched from it, and where its engine is.
const LENDS: &str = "--lends";
const OFFERS: &str = "--offers";
const ENGINE_AT: &str = "--engine";

/// How long a guard may take to begin: it reads a few files.
const BEGINS_WITHIN: Duration = Duration::from_secs(10);

/// How long it may take to take a connection.
const TAKEN_WITHIN: Duration = Duration::from_secs(5);

/// Connections that a guard keeps: more than one process of ours asks for.
const CONNECTIONS_MAX: usize = 512;

/// How often a guard that is not needed any more looks whether its last connection ended.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The first thing that a guard says.
#[derive(Debug, Serialize, Deserialize)]
struct Hello {
    sealed: String,
    has_policy: bool,
}

/// Begins a guard, on the thread that is not sealed.
pub(super) fn begin(start: &Start) -> io::Result<Begun> {
    let (near, far) = pair()?;
    // The program that runs, also where another one lies in its place by now.
    let mut command = Command::new("/proc/self/exe");
    command
        .arg(WORD)
        .args(start.was_there.then_some(WAS_THERE))
        .args(start.lends.iter().flat_map(lending))
        .env_clear()
        .env("HEPH_HOME", std::path::absolute(&start.home)?)
        .env("HEPH_ALLOW", words(&start.allow))
        .envs(key_log().map(|path| ("SSLKEYLOGFILE", path)))
        .current_dir("/")
        .stdin(Stdio::from(OwnedFd::from(far)))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // Ctrl-C at a terminal is for the process that it guards, which may have a last word for others.
        .process_group(0);
    // The command holds the far end of the socket, which must be the guard's alone.
    let mut child = seal::unsealed(move || command.spawn())?;
    near.set_write_timeout(Some(TAKEN_WITHIN))?;
    let mut lines = Lines::of(near.try_clone()?);
    let Next::Line(Hello { sealed, has_policy }) = lines.next(Some(BEGINS_WITHIN)) else {
        let _ = child.kill();
        let _ = child.wait();
        let silent = "it does not begin";
        return Err(io::Error::new(io::ErrorKind::TimedOut, silent));
    };
    let pid = child.id();
    awaited(child)?;
    Ok(Begun {
        pid,
        control: near,
        sealed,
        has_policy,
    })
}

/// What it is told where the process lends.
fn lending(lends: &Lends) -> Vec<String> {
    let Lends { offers, engine } = lends;
    let offers = offers.then(|| OFFERS.to_owned());
    let engine = engine
        .iter()
        .flat_map(|(host, port)| [ENGINE_AT.to_owned(), format!("{host}:{port}")]);
    [LENDS.to_owned()]
        .into_iter()
        .chain(offers)
        .chain(engine)
        .collect()
}

/// The system is told when a guard ended, so that nothing of it stays.
fn awaited(mut child: Child) -> io::Result<()> {
    std::thread::Builder::new()
        .name("heph-guard-end".to_owned())
        .spawn(move || drop(child.wait()))
        .map(drop)
}

/// Short rules as the environment has them.
fn words(allow: &[Allowance]) -> String {
    let words = allow.iter().map(ToString::to_string);
    words.collect::<Vec<_>>().join(",")
}

/// What a guard is handed the ends of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ends {
    /// A connection: of what is said about it, and of what passes.
    Connection,
    /// An endpoint for machines: of what is said about it, and of questions.
    Machines,
}

impl Ends {
    fn letter(self) -> u8 {
        match self {
            Self::Connection => b'c',
            Self::Machines => b'm',
        }
    }
}

/// Gives a guard two ends.
pub(super) fn hand_over(control: &Stream, what: Ends, ends: [BorrowedFd<'_>; 2]) -> io::Result<()> {
    let letter = [what.letter()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    beside.push(SendAncillaryMessage::ScmRights(&ends));
    let sent = sendmsg(
        control,
        &[IoSlice::new(&letter)],
        &mut beside,
        SendFlags::NOSIGNAL,
    )?;
    match sent {
        1 => Ok(()),
        _ => Err(io::ErrorKind::WriteZero.into()),
    }
}

/// Two ends; `None` where whoever began this guard needs it no more.
fn taken(control: &Stream) -> io::Result<Option<(Ends, OwnedFd, OwnedFd)>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let mut word = [0];
    let piece = &mut [IoSliceMut::new(&mut word)];
    let heard = recvmsg(control, piece, &mut beside, RecvFlags::CMSG_CLOEXEC)?;
    if heard.bytes == 0 {
        return Ok(None);
    }
    let mut ends = beside.drain().flat_map(|message| match message {
        RecvAncillaryMessage::ScmRights(ends) => ends.collect::<Vec<_>>(),
        _ => Vec::new(),
    });
    let what = [Ends::Connection, Ends::Machines]
        .into_iter()
        .find(|what| [what.letter()] == word);
    match (what, ends.next(), ends.next()) {
        (Some(what), Some(one), Some(other)) => Ok(Some((what, one, other))),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Is a guard: reads the policy, gives up everything but connections, and keeps those that it is handed, until whoever began it is gone
/// or lets go of it, and the last of them ended.
///
/// # Errors
/// When standard input is no socket of somebody who wants a guard.
pub fn run(settings: &Settings, was_there: bool, lends: Option<Lends>) -> io::Result<()> {
    let control = Stream::from(io::stdin().as_fd().try_clone_to_owned()?);
    control.peer_addr()?;
    let warden = Warden::new(&settings.home, &settings.allow, Reading::Once, was_there).lending(lends);
    let sealed = seal::guard().to_string();
    let has_policy = warden.has_policy();
    say(&control, &Hello { sealed, has_policy })?;
    let (warden, open) = (Arc::new(warden), Arc::new(AtomicUsize::new(0)));
    while let Ok(Some((what, words, other))) = taken(&control) {
        if open.load(Ordering::Acquire) >= CONNECTIONS_MAX {
            continue;
        }
        let one = One::more(&open);
        let warden = Arc::clone(&warden);
        let keeping = std::thread::Builder::new().name("heph-guard".to_owned());
        // Where the system gives no thread, both ends close, and whoever asked is told so.
        let _ = keeping.spawn(move || {
            match what {
                Ends::Connection => keep::keep(Stream::from(words), Stream::from(other), &warden),
                Ends::Machines => keep_machines(words, other, warden),
            }
            drop(one);
        });
    }
    while open.load(Ordering::Acquire) > 0 {
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(())
}

/// Keeps an endpoint on this one thread, which polls both sides.
fn keep_machines(words: OwnedFd, questions: OwnedFd, warden: Arc<Warden>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    // Where the system gives none, both ends close, and whoever asked is told so.
    if let Ok(runtime) = runtime {
        runtime.block_on(mirror::keep(words, questions, Arc::new(Machines(warden))));
    }
}

/// Counts as one while it lives.
struct One(Arc<AtomicUsize>);

impl One {
    fn more(open: &Arc<AtomicUsize>) -> Self {
        open.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(open))
    }
}

impl Drop for One {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
