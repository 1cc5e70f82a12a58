//! `heph pairing`: the pages and extensions of other origins that may ask `heph serve`.

use std::io::{self, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use heph_gateway::{Asking, Pairing, PairingError, Pairings, Scope};
use heph_runtime::settings::Settings;
use serde::Serialize;

use crate::failure::{Exit, Failure};

/// See, let in and send away the pages and extensions that ask `heph serve`
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Show who was let in, when it came last, and who asks
    List {
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Let the page in that shows this code
    Approve {
        /// The six digits that it shows
        code: String,
    },
    /// Send the page away that shows this code
    Refuse {
        /// The six digits that it shows
        code: String,
    },
    /// Take a page's leave back, at once
    Revoke {
        /// Its id or its origin, as `heph pairing list` shows them
        which: String,
    },
}

/// What a script reads.
#[derive(Debug, Serialize)]
struct Report<'a> {
    pairings: Vec<PairedLine<'a>>,
    requests: Vec<AskingLine<'a>>,
}

#[derive(Debug, Serialize)]
struct PairedLine<'a> {
    id: &'a str,
    name: &'a str,
    origin: &'a str,
    scopes: &'a [Scope],
    created_ms: u64,
    last_used_ms: Option<u64>,
}

#[derive(Debug, Serialize)]
struct AskingLine<'a> {
    id: &'a str,
    name: &'a str,
    origin: &'a str,
    scopes: &'a [Scope],
    code: &'a str,
    expires_ms: u64,
    approved: bool,
}

/// Reads or changes the book that a running door reads too.
pub(crate) fn run(command: Command, settings: &Settings) -> Result<(), Failure> {
    let pairings = Pairings::at(&settings.home);
    let now = now_ms();
    let mut out = io::stdout().lock();
    match command {
        Command::List { json } => list(&mut out, &pairings, now, json)?,
        Command::Approve { code } => {
            let Asking { name, origin, .. } = pairings.approve(now, None, &code)?;
            writeln!(out, "{name} ({origin}) may come in: it fetches its token now.")?;
        }
        Command::Refuse { code } => {
            let Asking { name, origin, .. } = pairings.refuse(now, &code)?;
            writeln!(out, "{name} ({origin}) was sent away.")?;
        }
        Command::Revoke { which } => {
            let gone = pairings.revoke(now, &which)?;
            let Pairing { name, origin, .. } = gone.ok_or_else(|| {
                Failure::new(
                    Exit::No,
                    format!("nobody of that id or origin was let in: {which}"),
                )
                .hint("heph pairing list shows them")
            })?;
            writeln!(out, "{name} ({origin}) may not come in any more.")?;
        }
    }
    Ok(())
}

fn list(out: &mut impl Write, pairings: &Pairings, now: u64, json: bool) -> Result<(), Failure> {
    let book = pairings.book(now)?;
    if json {
        let report = Report {
            pairings: book.pairings.iter().map(paired_line).collect(),
            requests: book.requests.iter().map(asking_line).collect(),
        };
        serde_json::to_writer(&mut *out, &report).map_err(io::Error::from)?;
        return Ok(writeln!(out)?);
    }
    if book.pairings.is_empty() && book.requests.is_empty() {
        return Ok(writeln!(out, "Nobody was let in, and nobody asks.")?);
    }
    for Asking {
        name,
        origin,
        scopes,
        code,
        expires_ms,
        approved,
        ..
    } in &book.requests
    {
        let left = expires_ms.saturating_sub(now) / 1000;
        let state = if *approved {
            "approved, not fetched yet".to_owned()
        } else {
            format!("code {code}, for {left} s")
        };
        writeln!(out, "asks  {name}  {origin}  {}  {state}", words(scopes))?;
    }
    for Pairing {
        id,
        name,
        origin,
        scopes,
        last_used_ms,
        ..
    } in &book.pairings
    {
        let last = last_used_ms.map_or("never came".to_owned(), |when| {
            format!("came {} ago", span(now.saturating_sub(when)))
        });
        writeln!(out, "in    {name}  {origin}  {}  {last}  {id}", words(scopes))?;
    }
    Ok(())
}

fn paired_line(pairing: &Pairing) -> PairedLine<'_> {
    PairedLine {
        id: &pairing.id,
        name: &pairing.name,
        origin: &pairing.origin,
        scopes: &pairing.scopes,
        created_ms: pairing.created_ms,
        last_used_ms: pairing.last_used_ms,
    }
}

fn asking_line(request: &Asking) -> AskingLine<'_> {
    AskingLine {
        id: &request.id,
        name: &request.name,
        origin: &request.origin,
        scopes: &request.scopes,
        code: &request.code,
        expires_ms: request.expires_ms,
        approved: request.approved,
    }
}

fn words(scopes: &[Scope]) -> String {
    let names: Vec<&str> = scopes.iter().map(|scope| scope.name()).collect();
    names.join(", ")
}

/// A span in the largest unit of which it holds one.
fn span(ms: u64) -> String {
    let s = ms / 1000;
    match s {
        0..60 => format!("{s} s"),
        60..3600 => format!("{} min", s / 60),
        3600..86_400 => format!("{} h", s / 3600),
        _ => format!("{} days", s / 86_400),
    }
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

impl From<PairingError> for Failure {
    fn from(error: PairingError) -> Self {
        let hint = match &error {
            PairingError::Open(path) => Some(format!("chmod 600 {}", path.display())),
            PairingError::Damaged(path) => {
                Some(format!("remove {}; pages then have to ask again", path.display()))
            }
            PairingError::NoRequest(_) => Some("heph pairing list shows who asks".to_owned()),
            PairingError::Full => Some("heph pairing revoke sends one away".to_owned()),
            PairingError::Held(_) => Some("try again".to_owned()),
            PairingError::Name
            | PairingError::Origin(_)
            | PairingError::NoScope
            | PairingError::TooOften(_)
            | PairingError::Io { .. }
            | PairingError::Random => None,
        };
        Self::new(Exit::No, error.to_string()).maybe_hint(hint)
    }
}
