//! Pages and extensions of other origins that a person let in: who asks, who may, and for what.
//!
//! An origin asks with a name and is shown a short code; the person compares it and approves; then the origin fetches a token of
//! its own, which opens the door only to that origin and only for what was approved. The book is a private file, so that the
//! program on the command line and a running door see the same one; it holds no token, only what tells one.

use std::collections::{HashMap, VecDeque};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};

use crate::private;
use crate::rate::Minute;

/// The book's name inside HEPH's home folder.
const FILE: &str = "gateway.pairings";

/// Bytes of the book: all that may stand in it take about 60,000.
const FILE_BYTES_MAX: u64 = 256 << 10;

/// Version of the book's form.
const VERSION: u32 = 1;

/// Origins that may be paired at one time.
const PAIRINGS_MAX: usize = 64;

/// Requests that may wait for a person at one time.
const REQUESTS_MAX: usize = 16;

/// Times that all origins together may ask in a minute, and one origin alone.
const ASKED_PER_MINUTE: (usize, usize) = (20, 4);

/// How long a request waits for the person, and its origin may take to fetch the token.
const REQUEST_MS: u64 = 5 * 60_000;

/// Characters of a name.
const NAME_MAX: usize = 60;

/// Characters of an origin: the longest host name has 253.
const ORIGIN_MAX: usize = 300;

/// What every token of an origin begins with.
pub(crate) const PREFIX: &str = "heph-page-";

/// Bytes of randomness in a token and in what a request is fetched with.
const RANDOM_BYTES: usize = 32;

/// A use that is younger than this is not written down.
const USE_WRITTEN_EVERY_MS: u64 = 10_000;

/// Requests of one origin that may be open at one time, and that it may begin in a minute: more than a person reads, and few enough
/// that the machine stays the person's.
const OPEN_MAX: usize = 16;
const BEGUN_PER_MINUTE: u32 = 600;

/// How long another program may hold the book.
const LOCK_WITHIN: Duration = Duration::from_secs(2);

/// What an origin may do.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Ask models, and see where an answer would be and was computed.
    Chat,
    /// See which models there are.
    Models,
    /// Turn texts into vectors.
    Embed,
    /// Read and change the chats of the page.
    History,
    /// Use the tools of the Model Context Protocol.
    Tools,
}

impl Scope {
    /// The word for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Models => "models",
            Self::Embed => "embed",
            Self::History => "history",
            Self::Tools => "tools",
        }
    }

    /// What a request needs. `None` for what only the person may do: whatever is not named here.
    pub(crate) fn of(method: &str, path: &str) -> Option<Self> {
        let below = |start: &str| path.strip_prefix(start).is_some_and(|rest| !rest.is_empty());
        match (method, path) {
            (
                "GET",
                "/v1/models" | "/api/tags" | "/api/ps" | "/api/version" | "/heph/v1/models"
                | "/heph/v1/status",
            )
            | ("POST", "/api/show") => Some(Self::Models),
            ("GET", _) if below("/v1/models/") || below("/heph/v1/models/") => Some(Self::Models),
            (
                "POST",
                "/v1/chat/completions"
                | "/v1/completions"
                | "/v1/responses"
                | "/v1/messages"
                | "/v1/messages/count_tokens"
                | "/api/chat"
                | "/api/generate"
                | "/tokenize"
                | "/detokenize"
                | "/heph/v1/plan",
            ) => Some(Self::Chat),
            ("GET", _) if below("/heph/v1/receipts/") => Some(Self::Chat),
            ("GET" | "DELETE", _) if below("/heph/v1/streams/") => Some(Self::Chat),
            ("POST", "/v1/embeddings" | "/api/embed" | "/api/embeddings") => Some(Self::Embed),
            ("GET", "/heph/v1/chats" | "/heph/v1/export") | ("POST", "/heph/v1/import") => {
                Some(Self::History)
            }
            ("GET" | "PUT" | "DELETE", _) if below("/heph/v1/chats/") => Some(Self::History),
            ("GET" | "POST" | "DELETE", "/mcp") => Some(Self::Tools),
            _ => None,
        }
    }
}

/// An origin that was let in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pairing {
    /// Its name in the book.
    pub id: String,
    /// What it calls itself.
    pub name: String,
    /// Where its pages come from.
    pub origin: String,
    /// What it may do.
    pub scopes: Vec<Scope>,
    /// When it was let in, in milliseconds since 1970.
    pub created_ms: u64,
    /// When it came last; `None` before the first time.
    pub last_used_ms: Option<u64>,
    /// SHA-256 of its token.
    token: String,
}

/// An origin that asks to be let in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asking {
    /// Its name in the book.
    pub id: String,
    /// What it calls itself.
    pub name: String,
    /// Where its pages come from.
    pub origin: String,
    /// What it wants to do.
    pub scopes: Vec<Scope>,
    /// What it shows to the person: six digits.
    pub code: String,
    /// Until when it may be approved and fetched, in milliseconds since 1970.
    pub expires_ms: u64,
    /// Whether the person said yes.
    pub approved: bool,
    /// SHA-256 of what it is fetched with.
    secret: String,
}

/// Who was let in, and who asks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Book {
    version: u32,
    /// Who was let in.
    pub pairings: Vec<Pairing>,
    /// Who asks.
    pub requests: Vec<Asking>,
}

/// What an origin gets for asking.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) id: String,
    pub(crate) code: String,
    pub(crate) secret: String,
    pub(crate) expires_ms: u64,
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Claim {
    /// Nobody has said anything yet.
    Waiting,
    /// The token, told this once.
    Token(String, Vec<Scope>),
}

/// Why an origin is not paired.
#[derive(Debug, thiserror::Error)]
pub enum PairingError {
    /// The name is empty, too long, or shows itself as something else.
    #[error("a name has 1 to {NAME_MAX} characters that can be seen")]
    Name,
    /// There is no such origin.
    #[error("{0:?} is no origin of a page or an extension")]
    Origin(String),
    /// Nothing was asked for.
    #[error("a pairing is for something: chat, models, embed, history or tools")]
    NoScope,
    /// Too many ask.
    #[error("too many pages ask to be paired; wait {0} s")]
    TooOften(u64),
    /// The book is full.
    #[error("{PAIRINGS_MAX} origins are paired; revoke one first")]
    Full,
    /// There is no such request.
    #[error("nobody asks to be paired with that {0}: it expired, was refused or was fetched")]
    NoRequest(&'static str),
    /// The book can be read or written by others.
    #[error("{} can be read by other users", .0.display())]
    Open(PathBuf),
    /// The book is of another form.
    #[error("{} holds no pairings", .0.display())]
    Damaged(PathBuf),
    /// Another program holds the book.
    #[error("{} is held by another program", .0.display())]
    Held(PathBuf),
    /// The system refused.
    #[error("cannot {step} {}: {cause}", path.display())]
    Io {
        /// What was tried.
        step: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// The system gave no randomness.
    #[error("the system gives no randomness")]
    Random,
}

/// One origin's leave to be here, for as long as nobody takes it back.
#[derive(Debug)]
pub(crate) struct Leave {
    id: String,
    pub(crate) scopes: Vec<Scope>,
    /// Held until the answer was told.
    place: Option<OwnedSemaphorePermit>,
    gone: watch::Receiver<bool>,
}

impl Leave {
    /// Comes back when the leave is taken back.
    pub(crate) async fn revoked(&mut self) {
        // The sender goes with the pairing.
        let _ = self.gone.wait_for(|gone| *gone).await;
    }
}

/// The book of a home folder.
pub struct Pairings {
    path: PathBuf,
    seen: Mutex<Seen>,
    asked: Mutex<VecDeque<(u64, String)>>,
    /// Rung whenever somebody comes who was let in.
    came: Notify,
}

/// The book as it was read last.
#[derive(Default)]
struct Seen {
    book: Book,
    stamp: Option<Stamp>,
    /// Tells the open connections of a pairing that it is gone, by its id.
    live: HashMap<String, watch::Sender<bool>>,
    /// Uses that are not written down yet.
    used: HashMap<String, u64>,
    /// What the origins of pairings do now, by the pairings' ids.
    pace: HashMap<String, Pace>,
}

/// What one origin does.
struct Pace {
    begun: Minute,
    open: Arc<Semaphore>,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            begun: Minute::default(),
            open: Arc::new(Semaphore::new(OPEN_MAX)),
        }
    }
}

/// Tells one state of the file from the next.
type Stamp = (SystemTime, u64, u64);

impl std::fmt::Debug for Pairings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pairings({})", self.path.display())
    }
}

impl Pairings {
    /// The book of the home folder `home`; empty where there is none yet.
    #[must_use]
    pub fn at(home: &Path) -> Self {
        Self {
            path: home.join(FILE),
            seen: Mutex::default(),
            asked: Mutex::default(),
            came: Notify::new(),
        }
    }

    /// Who was let in and who asks at `now_ms`.
    ///
    /// # Errors
    /// When the book cannot be read.
    pub fn book(&self, now_ms: u64) -> Result<Book, PairingError> {
        self.look()?;
        let seen = self.seen();
        let mut book = seen.book.clone();
        book.requests.retain(|request| request.expires_ms > now_ms);
        for pairing in &mut book.pairings {
            pairing.last_used_ms = pairing.last_used_ms.max(seen.used.get(&pairing.id).copied());
        }
        Ok(book)
    }

    /// Enters a request of `origin`; an older one of the same origin gives way.
    pub(crate) fn ask(
        &self,
        now_ms: u64,
        origin: &str,
        name: &str,
        scopes: &[Scope],
    ) -> Result<Asked, PairingError> {
        let origin = checked_origin(origin)?;
        let name = checked_name(name)?;
        if scopes.is_empty() {
            return Err(PairingError::NoScope);
        }
        self.often(now_ms, &origin)?;
        let mut scopes = scopes.to_vec();
        scopes.sort();
        scopes.dedup();
        let (id, secret) = (random(9)?, random(RANDOM_BYTES)?);
        let expires_ms = now_ms + REQUEST_MS;
        let code = self.edit(now_ms, |book| {
            book.requests.retain(|request| request.origin != origin);
            if book.requests.len() >= REQUESTS_MAX {
                return Err(PairingError::TooOften(REQUEST_MS / 1000));
            }
            let code = loop {
                let code = random_code()?;
                if book.requests.iter().all(|request| request.code != code) {
                    break code;
                }
            };
            book.requests.push(Asking {
                id: id.clone(),
                name,
                origin,
                scopes,
                code: code.clone(),
                expires_ms,
                approved: false,
                secret: digest(&secret),
            });
            Ok(code)
        })?;
        Ok(Asked {
            id,
            code,
            secret,
            expires_ms,
        })
    }

    /// Lets the request with this code in; its origin then fetches its token. Where `id` is given, the request must be that one.
    ///
    /// # Errors
    /// When nobody asks with that code, or the book is full or cannot be written.
    pub fn approve(&self, now_ms: u64, id: Option<&str>, code: &str) -> Result<Asking, PairingError> {
        let code: String = code.chars().filter(char::is_ascii_digit).collect();
        self.edit(now_ms, |book| {
            let of_origin = |book: &Book, origin: &str| book.pairings.iter().any(|p| p.origin == origin);
            let at = book
                .requests
                .iter()
                .position(|request| request.code == code && id.is_none_or(|id| request.id == id))
                .ok_or(PairingError::NoRequest("code"))?;
            if book.pairings.len() >= PAIRINGS_MAX && !of_origin(book, &book.requests[at].origin) {
                return Err(PairingError::Full);
            }
            book.requests[at].approved = true;
            Ok(book.requests[at].clone())
        })
    }

    /// Sends the request with that id or code away.
    ///
    /// # Errors
    /// When there is none, or the book cannot be written.
    pub fn refuse(&self, now_ms: u64, which: &str) -> Result<Asking, PairingError> {
        let digits: String = which.chars().filter(char::is_ascii_digit).collect();
        self.edit(now_ms, |book| {
            let at = book
                .requests
                .iter()
                .position(|request| request.id == which || request.code == digits)
                .ok_or(PairingError::NoRequest("code"))?;
            Ok(book.requests.remove(at))
        })
    }

    /// What became of a request, for the origin that made it. An approved one becomes a pairing here, in the place of an older one
    /// of that origin, and is told its token once.
    pub(crate) fn claim(
        &self,
        now_ms: u64,
        id: &str,
        origin: &str,
        secret: &str,
    ) -> Result<Claim, PairingError> {
        let secret = digest(secret);
        let mine =
            |request: &Asking| request.id == id && request.origin == origin && request.secret == secret;
        let book = self.book(now_ms)?;
        let found = book.requests.iter().find(|request| mine(request));
        match found {
            None => return Err(PairingError::NoRequest("id")),
            Some(request) if !request.approved => return Ok(Claim::Waiting),
            Some(_) => {}
        }
        let token = format!("{PREFIX}{}", random(RANDOM_BYTES)?);
        self.edit(now_ms, |book| {
            let at = book
                .requests
                .iter()
                .position(|request| mine(request) && request.approved)
                .ok_or(PairingError::NoRequest("id"))?;
            let request = book.requests.remove(at);
            book.pairings.retain(|pairing| pairing.origin != origin);
            if book.pairings.len() >= PAIRINGS_MAX {
                return Err(PairingError::Full);
            }
            book.pairings.push(Pairing {
                id: request.id,
                name: request.name,
                origin: request.origin,
                scopes: request.scopes.clone(),
                created_ms: now_ms,
                last_used_ms: None,
                token: digest(&token),
            });
            Ok(Claim::Token(token.clone(), request.scopes))
        })
    }

    /// Takes the leave of the pairing with that id or origin back, also from the connections that it has open. Whether there was one.
    ///
    /// # Errors
    /// When the book cannot be written.
    pub fn revoke(&self, now_ms: u64, which: &str) -> Result<Option<Pairing>, PairingError> {
        self.edit(now_ms, |book| {
            let at = book
                .pairings
                .iter()
                .position(|pairing| pairing.id == which || pairing.origin == which);
            Ok(at.map(|at| book.pairings.remove(at)))
        })
    }

    /// Whether pages of that origin were let in.
    pub(crate) fn knows(&self, origin: &str) -> bool {
        self.look().is_ok()
            && self
                .seen()
                .book
                .pairings
                .iter()
                .any(|pairing| pairing.origin == origin)
    }

    /// Whether a text may be a token of an origin.
    pub(crate) fn is_token(shown: &str) -> bool {
        shown.starts_with(PREFIX)
    }

    /// The leave that `token` gives to pages of `origin`. `None` where it gives them none; a book that cannot be read gives nobody
    /// leave.
    pub(crate) fn admit(&self, now_ms: u64, origin: &str, token: &str) -> Option<Leave> {
        self.look().ok()?;
        let token = digest(token);
        let mut seen = self.seen();
        let found = seen
            .book
            .pairings
            .iter()
            .find(|pairing| pairing.token == token && pairing.origin == origin)?;
        let (id, scopes) = (found.id.clone(), found.scopes.clone());
        seen.used.insert(id.clone(), now_ms);
        let gone = seen
            .live
            .entry(id.clone())
            .or_insert_with(|| watch::channel(false).0)
            .subscribe();
        drop(seen);
        self.came.notify_one();
        Some(Leave {
            id,
            scopes,
            place: None,
            gone,
        })
    }

    /// Begins a request by this leave, which is open as long as the leave is held.
    ///
    /// # Errors
    /// Where the origin has too many open, or began too many: after so many seconds it may come again.
    pub(crate) fn begin(&self, now_ms: u64, leave: &mut Leave) -> Result<(), u64> {
        let mut seen = self.seen();
        let pace = seen.pace.entry(leave.id.clone()).or_default();
        let place = Arc::clone(&pace.open).try_acquire_owned().map_err(|_| 1_u64)?;
        pace.begun.begin(now_ms, BEGUN_PER_MINUTE)?;
        leave.place = Some(place);
        Ok(())
    }

    /// Waits until somebody came who was let in; whoever came since the last time counts, too.
    pub(crate) async fn somebody_came(&self) {
        self.came.notified().await;
    }

    /// Whether somebody who was let in is still here.
    pub(crate) fn is_somebody_here(&self) -> bool {
        self.seen().live.values().any(|gone| gone.receiver_count() > 0)
    }

    /// Looks whether the book was changed by another program, and writes down who came since. Called again and again while somebody
    /// is here.
    pub(crate) fn keep_up(&self, now_ms: u64) -> Result<(), PairingError> {
        self.look()?;
        let due = {
            let seen = self.seen();
            let written = |id: &String| {
                let pairing = seen.book.pairings.iter().find(|pairing| pairing.id == *id);
                pairing.and_then(|pairing| pairing.last_used_ms).unwrap_or(0)
            };
            seen.used
                .iter()
                .any(|(id, &used)| used >= written(id) + USE_WRITTEN_EVERY_MS)
        };
        if !due {
            return Ok(());
        }
        let used = std::mem::take(&mut self.seen().used);
        self.edit(now_ms, |book| {
            for pairing in &mut book.pairings {
                pairing.last_used_ms = pairing.last_used_ms.max(used.get(&pairing.id).copied());
            }
            Ok(())
        })
    }

    /// Counts that `origin` asks, and refuses where that is too often.
    fn often(&self, now_ms: u64, origin: &str) -> Result<(), PairingError> {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        while asked.front().is_some_and(|(when, _)| when + 60_000 <= now_ms) {
            asked.pop_front();
        }
        let (all, one) = ASKED_PER_MINUTE;
        let mut same = asked.iter().filter(|(_, by)| by == origin);
        let waits_for = match (asked.len() >= all, same.clone().count() >= one) {
            (_, true) => same.next(),
            (true, false) => asked.front(),
            (false, false) => None,
        };
        if let Some((when, _)) = waits_for {
            return Err(PairingError::TooOften((when + 60_000 - now_ms).div_ceil(1000)));
        }
        asked.push_back((now_ms, origin.to_owned()));
        Ok(())
    }

    /// Changes the book in one step, whoever else writes it.
    fn edit<T>(
        &self,
        now_ms: u64,
        change: impl FnOnce(&mut Book) -> Result<T, PairingError>,
    ) -> Result<T, PairingError> {
        let _held = self.hold()?;
        let mut book = self.read()?;
        book.requests.retain(|request| request.expires_ms > now_ms);
        let done = change(&mut book)?;
        book.version = VERSION;
        let text = serde_json::to_string(&book).map_err(|e| self.failed("write", e.into()))?;
        private::replace(&self.path, &text).map_err(|cause| self.failed("write", cause))?;
        self.see(book, self.stamp());
        Ok(done)
    }

    /// Reads the book where it is another one than was seen last.
    fn look(&self) -> Result<(), PairingError> {
        let stamp = self.stamp();
        if self.seen().stamp == stamp {
            return Ok(());
        }
        // The book as it is written later has another stamp again.
        let book = self.read()?;
        self.see(book, stamp);
        Ok(())
    }

    /// Takes `book` for the one that holds, and ends the connections of those who are not in it any more.
    fn see(&self, book: Book, stamp: Option<Stamp>) {
        let mut seen = self.seen();
        let holds = |id: &String| book.pairings.iter().any(|pairing| pairing.id == *id);
        seen.live.retain(|id, gone| {
            let holds = holds(id);
            if !holds {
                let _ = gone.send(true);
            }
            // Nobody listens to those that have no connection open.
            holds && gone.receiver_count() > 0
        });
        seen.used.retain(|id, _| holds(id));
        seen.pace.retain(|id, _| holds(id));
        seen.book = book;
        seen.stamp = stamp;
    }

    fn read(&self) -> Result<Book, PairingError> {
        let text = match private::read(&self.path, FILE_BYTES_MAX) {
            Ok(text) => text,
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(Book::default()),
            Err(cause) if cause.kind() == io::ErrorKind::InvalidData => {
                return Err(PairingError::Damaged(self.path.clone()));
            }
            Err(cause) => return Err(self.failed("read", cause)),
        };
        if private::is_open(&self.path) {
            return Err(PairingError::Open(self.path.clone()));
        }
        let book: Book = serde_json::from_str(&text).map_err(|_| PairingError::Damaged(self.path.clone()))?;
        match book.version == VERSION {
            true => Ok(book),
            false => Err(PairingError::Damaged(self.path.clone())),
        }
    }

    fn stamp(&self) -> Option<Stamp> {
        let about = fs::metadata(&self.path).ok()?;
        #[cfg(unix)]
        let number = std::os::unix::fs::MetadataExt::ino(&about);
        #[cfg(not(unix))]
        let number = 0;
        Some((about.modified().ok()?, about.len(), number))
    }

    /// The book, held against all other programs until it is let go of.
    fn hold(&self) -> Result<File, PairingError> {
        let path = self.path.with_extension("pairings.lock");
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(|cause| self.failed("make", cause))?;
        }
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path);
        let file = file.map_err(|cause| self.failed("hold", cause))?;
        let began = Instant::now();
        while file.try_lock().is_err() {
            if began.elapsed() > LOCK_WITHIN {
                return Err(PairingError::Held(self.path.clone()));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(file)
    }

    fn failed(&self, step: &'static str, cause: io::Error) -> PairingError {
        PairingError::Io {
            step,
            path: self.path.clone(),
            cause,
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An origin as browsers write it: a scheme, a host, perhaps a port, and nothing else. Frames without an origin say `null`.
fn checked_origin(origin: &str) -> Result<String, PairingError> {
    let wrong = || PairingError::Origin(origin.chars().take(60).collect());
    let (scheme, host) = origin.split_once("://").ok_or_else(wrong)?;
    let of_scheme = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+-.".contains(&b);
    let of_host = |b: u8| b.is_ascii_alphanumeric() || b"-._:[]{}".contains(&b);
    let sound = origin.len() <= ORIGIN_MAX
        && scheme.starts_with(|c: char| c.is_ascii_lowercase())
        && scheme.bytes().all(of_scheme)
        && scheme != "file"
        && !host.is_empty()
        && host.bytes().all(of_host);
    sound.then(|| origin.to_owned()).ok_or_else(wrong)
}

/// A name that looks like what it is: no control characters, and none that turn the direction of what stands after it.
fn checked_name(name: &str) -> Result<String, PairingError> {
    let name = name.trim();
    let turns = |c: char| matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
    let length = name.chars().count();
    let sound = (1..=NAME_MAX).contains(&length) && !name.chars().any(|c| c.is_control() || turns(c));
    sound.then(|| name.to_owned()).ok_or(PairingError::Name)
}

fn random(bytes: usize) -> Result<String, PairingError> {
    let mut random = vec![0; bytes];
    getrandom::fill(&mut random).map_err(|_| PairingError::Random)?;
    Ok(BASE64URL_NOPAD.encode(&random))
}

fn random_code() -> Result<String, PairingError> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(|_| PairingError::Random)?;
    Ok(format!("{:06}", u64::from_le_bytes(random) % 1_000_000))
}

fn digest(secret: &str) -> String {
    HEXLOWER.encode(&Sha256::digest(secret))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "chrome-extension://abcdefghijklmnopabcdefghijklmnop";
    const NOW: u64 = 1_790_000_000_000;

    fn book() -> (tempfile::TempDir, Pairings) {
        let home = tempfile::tempdir().unwrap();
        let pairings = Pairings::at(home.path());
        (home, pairings)
    }

    fn paired(pairings: &Pairings, origin: &str) -> String {
        let asked = pairings.ask(NOW, origin, "A page", &[Scope::Chat]).unwrap();
        pairings.approve(NOW, Some(&asked.id), &asked.code).unwrap();
        match pairings.claim(NOW, &asked.id, origin, &asked.secret).unwrap() {
            Claim::Token(token, _) => token,
            Claim::Waiting => panic!("it was approved"),
        }
    }

    #[test]
    fn who_was_not_approved_gets_nothing() {
        let (_home, pairings) = book();
        let asked = pairings.ask(NOW, PAGE, "A page", &[Scope::Chat]).unwrap();
        let claim = |secret: &str, origin: &str| pairings.claim(NOW, &asked.id, origin, secret);
        assert_eq!(claim(&asked.secret, PAGE).unwrap(), Claim::Waiting);
        assert!(pairings.admit(NOW, PAGE, &asked.secret).is_none());
        // Another code, or the right one for another request, approves nothing.
        let wrong = if asked.code == "000000" {
            "000001"
        } else {
            "000000"
        };
        assert!(pairings.approve(NOW, None, wrong).is_err());
        assert!(pairings.approve(NOW, Some("another"), &asked.code).is_err());
        assert_eq!(claim(&asked.secret, PAGE).unwrap(), Claim::Waiting);
        pairings.approve(NOW, Some(&asked.id), &asked.code).unwrap();
        // Neither another page nor a guess fetches what was approved.
        assert!(claim(&asked.secret, "https://evil.example").is_err());
        assert!(claim("guess", PAGE).is_err());
        assert!(matches!(claim(&asked.secret, PAGE).unwrap(), Claim::Token(..)));
        assert!(claim(&asked.secret, PAGE).is_err(), "the token is told once");
    }

    #[test]
    fn a_token_opens_to_its_own_origin_until_it_is_revoked() {
        let (_home, pairings) = book();
        let token = paired(&pairings, PAGE);
        let mut leave = pairings.admit(NOW + 1, PAGE, &token).unwrap();
        assert_eq!(leave.scopes, [Scope::Chat]);
        assert!(pairings.admit(NOW, "https://evil.example", &token).is_none());
        assert!(pairings.admit(NOW, PAGE, &token[..token.len() - 1]).is_none());
        assert_eq!(
            pairings.book(NOW).unwrap().pairings[0].last_used_ms,
            Some(NOW + 1)
        );
        assert!(!*leave.gone.borrow_and_update());
        assert_eq!(pairings.revoke(NOW, PAGE).unwrap().unwrap().origin, PAGE);
        assert!(pairings.admit(NOW, PAGE, &token).is_none());
        assert!(*leave.gone.borrow_and_update(), "an open connection is told");
        assert_eq!(pairings.revoke(NOW, PAGE).unwrap(), None);
    }

    #[test]
    fn one_page_does_not_take_the_whole_machine() {
        let (_home, pairings) = book();
        let (token, other) = (paired(&pairings, PAGE), paired(&pairings, "https://two.example"));
        let begin = |now, origin: &str, token: &str| {
            let mut leave = pairings.admit(now, origin, token).unwrap();
            pairings.begin(now, &mut leave).map(|()| leave)
        };
        let mut open: Vec<Leave> = (0..OPEN_MAX).map(|_| begin(NOW, PAGE, &token).unwrap()).collect();
        assert_eq!(begin(NOW, PAGE, &token).unwrap_err(), 1);
        assert!(begin(NOW, "https://two.example", &other).is_ok());
        open.pop();
        let began = OPEN_MAX as u32;
        for _ in began..BEGUN_PER_MINUTE {
            begin(NOW, PAGE, &token).unwrap();
        }
        let wait_s = begin(NOW, PAGE, &token).unwrap_err();
        assert!((1..=60).contains(&wait_s), "{wait_s}");
        assert!(begin(NOW, "https://two.example", &other).is_ok());
        assert!(begin(NOW + wait_s * 1000, PAGE, &token).is_ok());
    }

    #[test]
    fn another_program_sees_the_same_book_and_may_revoke() {
        let (home, door) = book();
        let program = Pairings::at(home.path());
        let token = paired(&door, PAGE);
        let mut leave = door.admit(NOW, PAGE, &token).unwrap();
        assert_eq!(program.book(NOW).unwrap().pairings.len(), 1);
        program.revoke(NOW, PAGE).unwrap();
        door.keep_up(NOW).unwrap();
        assert!(*leave.gone.borrow_and_update());
        assert!(door.admit(NOW, PAGE, &token).is_none());
        // A use that was not written down yet brings nobody back.
        door.seen().used.insert(leave.scopes[0].name().to_owned(), NOW);
        door.keep_up(NOW + USE_WRITTEN_EVERY_MS).unwrap();
        assert!(program.book(NOW).unwrap().pairings.is_empty());
    }

    #[test]
    fn uses_are_written_down_now_and_then() {
        let (home, door) = book();
        let token = paired(&door, PAGE);
        door.admit(NOW + 5, PAGE, &token).unwrap();
        door.keep_up(NOW + 5).unwrap();
        let read = || Pairings::at(home.path()).book(NOW).unwrap().pairings[0].last_used_ms;
        assert_eq!(read(), Some(NOW + 5));
        door.admit(NOW + 6, PAGE, &token).unwrap();
        door.keep_up(NOW + 6).unwrap();
        assert_eq!(read(), Some(NOW + 5));
    }

    #[test]
    fn the_book_holds_no_token_and_is_private() {
        let (home, pairings) = book();
        let token = paired(&pairings, PAGE);
        let asked = pairings
            .ask(NOW, "https://two.example", "Two", &[Scope::Chat])
            .unwrap();
        let path = home.path().join(FILE);
        let text = fs::read_to_string(&path).unwrap();
        assert!(!text.contains(&token) && !text.contains(&asked.secret));
        assert!(!private::is_open(&path));
        fs::write(&path, "{").unwrap();
        assert!(
            pairings.admit(NOW, PAGE, &token).is_none(),
            "a damaged book lets nobody in"
        );
        assert!(matches!(pairings.book(NOW), Err(PairingError::Damaged(_))));
    }

    #[test]
    fn asking_is_rare_bounded_and_expires() {
        let (_home, pairings) = book();
        let ask = |now, origin: &str| pairings.ask(now, origin, "A page", &[Scope::Chat]);
        for _ in 0..ASKED_PER_MINUTE.1 {
            ask(NOW, PAGE).unwrap();
        }
        assert_eq!(
            pairings.book(NOW).unwrap().requests.len(),
            1,
            "one request an origin"
        );
        assert!(matches!(ask(NOW + 1000, PAGE), Err(PairingError::TooOften(59))));
        let others = (0..).map(|n| format!("https://{n}.example"));
        let rest: Vec<_> = others
            .take(REQUESTS_MAX + 1)
            .map(|origin| ask(NOW, &origin))
            .collect();
        assert!(matches!(rest.last(), Some(Err(PairingError::TooOften(_)))));
        let waiting = pairings.book(NOW).unwrap().requests;
        assert_eq!(waiting.len(), REQUESTS_MAX);
        let late = NOW + REQUEST_MS;
        assert!(pairings.approve(late, None, &waiting[0].code).is_err());
        assert!(pairings.book(late).unwrap().requests.is_empty());
        assert!(ask(late, PAGE).is_ok());
    }

    #[test]
    fn names_and_origins_are_what_they_look_like() {
        for (name, sound) in [
            ("Notes", true),
            ("Zettel für Ärzte", true),
            ("ملاحظات", true),
            ("", false),
            (" \t ", false),
            ("a\nb", false),
            ("a\u{202e}b", false),
            ("a\u{200b}", false),
            (&"x".repeat(61), false),
        ] {
            assert_eq!(checked_name(name).is_ok(), sound, "{name:?}");
        }
        for (origin, sound) in [
            (PAGE, true),
            ("moz-extension://3f2a-9", true),
            ("https://a.example:8443", true),
            ("app://obsidian.md", true),
            ("null", false),
            ("https://", false),
            ("https://a.example/path", false),
            ("file://", false),
            ("file://x", false),
            ("https://a b", false),
            ("HTTPS://a", false),
            ("://a", false),
            (&format!("https://{}", "a".repeat(300)), false),
        ] {
            assert_eq!(checked_origin(origin).is_ok(), sound, "{origin}");
        }
    }

    #[test]
    fn what_is_not_named_is_for_the_person_alone() {
        for (method, path, expected) in [
            ("POST", "/v1/chat/completions", Some(Scope::Chat)),
            ("GET", "/v1/models", Some(Scope::Models)),
            ("GET", "/v1/models/heph-story", Some(Scope::Models)),
            ("DELETE", "/heph/v1/streams/s", Some(Scope::Chat)),
            ("PUT", "/heph/v1/chats/c", Some(Scope::History)),
            ("POST", "/v1/embeddings", Some(Scope::Embed)),
            ("POST", "/mcp", Some(Scope::Tools)),
            ("POST", "/heph/v1/models/pull", None),
            ("DELETE", "/heph/v1/models/heph-story", None),
            ("POST", "/api/pull", None),
            ("GET", "/heph/v1/pairings", None),
            ("POST", "/heph/v1/pairing/x/approve", None),
            ("DELETE", "/heph/v1/pairings/x", None),
            ("GET", "/heph/v1/nodes", None),
            ("GET", "/heph/v1/egress", None),
            ("GET", "/metrics", None),
            ("GET", "/heph/v1/streams/", None),
        ] {
            assert_eq!(Scope::of(method, path), expected, "{method} {path}");
        }
    }
}
