//! Where the door stands: on its own address, on a socket that another program opened, or where another one stood before.
//!
//! A window opens the socket and keeps it, so that its address stays while the program behind it is begun anew.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::{Duration, Instant};

use heph_gateway::{Claim, Standing};
use heph_runtime::settings::Settings;
use serde::Serialize;

use super::Arguments;
use crate::failure::{Exit, Failure};

/// How often a door is looked at that this one waits for.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How long another program may take between its claim and its word where it is: it loads its model meanwhile.
const SAID_WITHIN: Duration = Duration::from_secs(600);

/// Where to listen.
pub(super) enum Socket {
    /// On a socket that listens already.
    Inherited(TcpListener),
    /// On this address.
    At(SocketAddr),
}

/// A door that may be opened.
pub(super) struct Door {
    pub(super) socket: Socket,
    /// The right to the home folder, where no other program has it.
    pub(super) claim: Option<Claim>,
}

/// Whether a door is another program's.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Attached {
    Yes,
    No,
}

/// What is said with `--json`.
#[derive(Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    standing: &'a Standing,
    /// The page, with the token after `#` where one is asked for.
    page: String,
    attached: bool,
}

/// Says where the door is.
pub(super) fn say(standing: &Standing, token: Option<&str>, attached: Attached) -> io::Result<()> {
    let entry = token.filter(|_| standing.auth);
    let entry = entry.map_or_else(String::new, |token| format!("#token={token}"));
    let report = Report {
        standing,
        page: format!("{}/{entry}", standing.address),
        attached: attached == Attached::Yes,
    };
    let mut out = io::stdout().lock();
    writeln!(out, "{}", serde_json::to_string(&report)?)?;
    out.flush()
}

/// The door to open: at once, or with `--attach` when the one that is open closes.
pub(super) fn door(
    arguments: &Arguments,
    settings: &Settings,
    token: Option<&str>,
    stop: impl Fn() -> bool,
) -> Result<Door, Failure> {
    let usual = |claim| {
        let socket = match arguments.inherited {
            Some(_) => Socket::Inherited(inherited()?),
            None => Socket::At(arguments.listen),
        };
        Ok(Door { socket, claim })
    };
    if !arguments.attach {
        // Who cannot write there still serves; others will not find the door by themselves.
        return usual(Claim::take(&settings.home).ok().flatten());
    }
    if let Some(claim) = Claim::take(&settings.home)? {
        return usual(Some(claim));
    }
    match said(&settings.home, &stop)? {
        Other::At(standing, address) => {
            say(&standing, token, Attached::Yes)?;
            let claim = closed(&settings.home, &stop)?;
            // Whoever asked there asks here from now on. Somebody else may have been faster.
            match heph_gateway::socket_at(address) {
                Ok(listener) => Ok(Door {
                    socket: Socket::Inherited(listener),
                    claim: Some(claim),
                }),
                Err(_) => usual(Some(claim)),
            }
        }
        Other::Gone(claim) => usual(Some(claim)),
        Other::Elsewhere => usual(None),
    }
}

/// The other program.
enum Other {
    /// Its door can be used as one's own.
    At(Standing, SocketAddr),
    /// It ended.
    Gone(Claim),
    /// Its door is for others, with a certificate that nobody vouches for.
    Elsewhere,
}

fn said(home: &Path, stop: &impl Fn() -> bool) -> Result<Other, Failure> {
    let began = Instant::now();
    loop {
        if let Some(standing) = Standing::read(home) {
            let address = standing
                .address
                .strip_prefix("http://")
                .map(str::parse::<SocketAddr>);
            return Ok(match address {
                Some(Ok(address)) if address.ip().is_loopback() => Other::At(standing, address),
                _ => Other::Elsewhere,
            });
        }
        if let Some(claim) = Claim::take(home)? {
            return Ok(Other::Gone(claim));
        }
        if stop() || began.elapsed() > SAID_WITHIN {
            return Err(Failure::new(
                Exit::No,
                "another program has this home folder and does not say where its door is",
            ));
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Waits until the other program ended.
fn closed(home: &Path, stop: &impl Fn() -> bool) -> Result<Claim, Failure> {
    loop {
        if let Some(claim) = Claim::take(home)? {
            return Ok(claim);
        }
        if stop() {
            return Err(Failure::new(
                Exit::Stopped,
                "the wait for another door was stopped",
            ));
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

#[cfg(unix)]
fn inherited() -> Result<TcpListener, Failure> {
    use std::os::fd::AsFd;
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    let listener = TcpListener::from(socket);
    listener.local_addr().map_err(|cause| {
        Failure::new(
            Exit::Usage,
            format!("standard input is no socket that listens: {cause}"),
        )
    })?;
    Ok(listener)
}

#[cfg(not(unix))]
fn inherited() -> Result<TcpListener, Failure> {
    Err(Failure::new(Exit::Usage, "sockets are inherited on Unix only"))
}

/// Whether the program of number `parent`, which began this one, ended: then the system gave this one another parent.
#[cfg(unix)]
pub(super) fn is_gone(parent: u32) -> bool {
    std::os::unix::process::parent_id() != parent
}

#[cfg(not(unix))]
pub(super) fn is_gone(_: u32) -> bool {
    false
}
