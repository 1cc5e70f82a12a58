//! The network log: what left this machine and came to it, with whom, for what, in bytes.
//!
//! Whoever owns a socket counts what it carried: [`crate::network`] for peers, the guard of connections ([`crate::guard`]) for what is fetched
//! and asked over HTTP ([`agent`]) and for outside providers. A line says the bytes since the last line of the same kind, so sums are
//! sums of lines. The [`Journal`] is a file of this machine that only its owner reads; when it has grown, lines of the same
//! hour become one, and what is older than it can hold becomes one line for each kind: sums stay, and so does the bound.
//! Nothing that was said stands in it.

mod counted;
mod peers;

pub use counted::{Errand, agent};
pub(crate) use peers::Watch;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The file below HEPH's folder.
const FILE: &str = "egress.jsonl";

/// Held while the journal is written.
const LOCK: &str = "egress.lock";

/// Bytes after which lines of the same hour become one: about 5,000 lines of 200 bytes.
const FOLD_AT_BYTES: u64 = 1 << 20;

/// Lines that stay after that, the newest; older ones become one for each kind. Half of what fits, so that folding is rare.
const LINES_KEPT: usize = 2_500;

/// A journal longer than this was not written here: what a fold leaves, and as much again from programs that wrote while
/// nobody folded.
const FILE_BYTES_MAX: u64 = 8 << 20;

/// Letters of a destination, a name or a purpose: an address of a relay is below.
const WORD_MAX: usize = 120;

/// Labels of a line; a socket bears no more either.
const LABELS_MAX: usize = 17;

/// Seconds of an hour, into which folded lines fall.
const HOUR: u64 = 3600;

/// What a socket is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A machine that this one has met, or meets.
    Peer,
    /// Greetings that nobody answered and goodbyes: what the socket for peers sent for no connection.
    Greetings,
    /// An outside provider.
    Provider,
    /// A hub that models are fetched from.
    Pull,
    /// A server of tools.
    Tools,
}

impl Kind {
    /// The word shown to people.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Peer => "machine",
            Kind::Greetings => "greetings",
            Kind::Provider => "provider",
            Kind::Pull => "download",
            Kind::Tools => "tools",
        }
    }
}

/// How bytes were counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Counted {
    /// As a packet capture counts the payload of UDP or TCP, encryption and repeats of the own protocol included.
    OnTheWire,
    /// What was said, without what HTTP and TLS put around it.
    Bodies,
}

/// With whom, for what: what lines are summed by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Way {
    /// What the socket is for.
    pub kind: Kind,
    /// The address or host at the other end.
    pub to: String,
    /// Who that is: a machine's or a provider's name; empty where only the address is known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub who: String,
    /// What was carried, as `session` or `members`.
    pub purpose: String,
    /// Labels of what was carried, where it bore any.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub labels: BTreeSet<String>,
    /// How it was counted.
    pub counted: Counted,
}

impl Way {
    /// Whether the other end is another machine. An address that cannot be read counts as one.
    pub fn leaves(&self) -> bool {
        let host = self.to.parse::<SocketAddr>().map(|address| address.ip());
        let host = host.or_else(|_| self.to.parse::<IpAddr>());
        !host.map_or(self.to == "localhost", |ip| ip.to_canonical().is_loopback())
    }

    /// The same with words of a length that a line has room for.
    fn bounded(mut self) -> Way {
        let shorten = |word: &mut String| {
            if word.chars().count() > WORD_MAX || word.chars().any(char::is_control) {
                *word = word.chars().filter(|c| !c.is_control()).take(WORD_MAX).collect();
            }
        };
        [&mut self.to, &mut self.who, &mut self.purpose]
            .into_iter()
            .for_each(shorten);
        let spare = self.labels.len().saturating_sub(LABELS_MAX);
        (0..spare).for_each(|_| drop(self.labels.pop_last()));
        self
    }

    /// What stays of it when it is older than the journal reaches.
    fn earlier(&self) -> Way {
        Way {
            kind: self.kind,
            to: "earlier".to_owned(),
            who: String::new(),
            purpose: "all".to_owned(),
            labels: BTreeSet::new(),
            counted: self.counted,
        }
    }
}

/// Bytes both ways.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bytes {
    /// From this machine.
    pub up: u64,
    /// To this machine.
    pub down: u64,
}

impl Bytes {
    fn add(&mut self, other: Bytes) {
        self.up = self.up.saturating_add(other.up);
        self.down = self.down.saturating_add(other.down);
    }
}

/// One line of the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Seconds since 1970.
    pub at: u64,
    /// With whom, for what.
    #[serde(flatten)]
    pub way: Way,
    /// Bytes since the last line of this way.
    #[serde(flatten)]
    pub bytes: Bytes,
}

/// The sums of some lines, those with most bytes out first.
pub fn sums(lines: &[Line]) -> Vec<(Way, Bytes)> {
    let mut sums: BTreeMap<Way, Bytes> = BTreeMap::new();
    for line in lines {
        sums.entry(line.way.clone()).or_default().add(line.bytes);
    }
    let mut sums: Vec<_> = sums.into_iter().collect();
    sums.sort_by_key(|(_, bytes)| std::cmp::Reverse(bytes.up));
    sums
}

/// What lines say in all of bytes that left this machine and came to it.
pub fn left(lines: &[Line]) -> Bytes {
    let mut sum = Bytes::default();
    lines
        .iter()
        .filter(|line| line.way.leaves())
        .for_each(|line| sum.add(line.bytes));
    sum
}

/// What a person and a script are told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Seconds since 1970 of the first line that counts; `None` where there is none.
    pub since: Option<u64>,
    /// Bytes to and from other machines.
    pub left: Bytes,
    /// With whom, for what; those with most bytes out first.
    pub ways: Vec<Sum>,
    /// Lines of the journal that cannot be read.
    pub damaged: usize,
}

/// The bytes of one way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Sum {
    /// With whom, for what.
    #[serde(flatten)]
    pub way: Way,
    /// How many.
    #[serde(flatten)]
    pub bytes: Bytes,
    /// Whether the other end is another machine.
    pub leaves: bool,
}

impl From<(Way, Bytes)> for Sum {
    fn from((way, bytes): (Way, Bytes)) -> Self {
        let leaves = way.leaves();
        Self { way, bytes, leaves }
    }
}

impl Noted {
    /// What was noted from `since` on, in seconds since 1970; all of it where nothing is said.
    pub fn report(mut self, since: Option<u64>) -> Report {
        self.lines
            .retain(|line| since.is_none_or(|since| line.at >= since));
        Report {
            since: self.lines.iter().map(|line| line.at).min(),
            left: left(&self.lines),
            ways: sums(&self.lines).into_iter().map(Sum::from).collect(),
            damaged: self.damaged,
        }
    }
}

/// The journal of this machine. Several programs may write it at once.
#[derive(Debug, Clone)]
pub struct Journal {
    folder: PathBuf,
}

/// What a journal holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Noted {
    /// Its lines, the oldest first.
    pub lines: Vec<Line>,
    /// Lines that could not be read.
    pub damaged: usize,
}

impl Journal {
    /// The journal below `home`. Nothing is made before something is noted.
    pub fn at(home: &Path) -> Self {
        let folder = home.to_owned();
        Self { folder }
    }

    /// Writes lines at the end.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn note(&self, lines: &[Line]) -> io::Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        fs::create_dir_all(&self.folder)?;
        let _lock = self.lock()?;
        let mut text = Vec::new();
        for line in lines {
            let way = line.way.clone().bounded();
            write_line(&mut text, &Line { way, ..line.clone() })?;
        }
        let mut file = private(OpenOptions::new().create(true).append(true)).open(self.path())?;
        if file.metadata()?.len() + text.len() as u64 <= FOLD_AT_BYTES {
            return file.write_all(&text);
        }
        let mut noted = self.read()?.lines;
        noted.extend(parse(&text).lines);
        self.replace(&folded(noted))
    }

    /// Everything that is noted. What is no line is counted and passed over.
    ///
    /// # Errors
    /// When the file is there and cannot be read, or was not written here.
    pub fn read(&self) -> io::Result<Noted> {
        let mut text = Vec::new();
        match File::open(self.path()) {
            Ok(file) => file.take(FILE_BYTES_MAX + 1).read_to_end(&mut text)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Noted::default()),
            Err(error) => return Err(error),
        };
        if text.len() as u64 > FILE_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is too long"));
        }
        Ok(parse(&text))
    }

    /// The file.
    pub fn path(&self) -> PathBuf {
        self.folder.join(FILE)
    }

    fn replace(&self, lines: &[Line]) -> io::Result<()> {
        // Made for its owner alone, as the one before.
        let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
        let mut text = Vec::new();
        lines.iter().try_for_each(|line| write_line(&mut text, line))?;
        file.write_all(&text)?;
        file.persist(self.path())?;
        Ok(())
    }

    /// Held until it is dropped.
    fn lock(&self) -> io::Result<File> {
        let lock = private(OpenOptions::new().create(true).append(true)).open(self.folder.join(LOCK))?;
        lock.lock()?;
        Ok(lock)
    }
}

fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
    options
}

fn write_line(text: &mut Vec<u8>, line: &Line) -> io::Result<()> {
    serde_json::to_writer(&mut *text, line).map_err(io::Error::from)?;
    text.push(b'\n');
    Ok(())
}

fn parse(text: &[u8]) -> Noted {
    let mut noted = Noted::default();
    for line in text.split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
        match serde_json::from_slice(line) {
            Ok(line) => noted.lines.push(line),
            Err(_) => noted.damaged += 1,
        }
    }
    noted
}

/// The same sums in fewer lines: one for each way and hour, of which the oldest become one for each kind.
fn folded(lines: Vec<Line>) -> Vec<Line> {
    let mut hours: BTreeMap<(u64, Way), Bytes> = BTreeMap::new();
    for line in lines {
        let hour = line.at / HOUR * HOUR;
        hours.entry((hour, line.way)).or_default().add(line.bytes);
    }
    let spare = hours.len().saturating_sub(LINES_KEPT);
    let mut earlier: BTreeMap<Way, (u64, Bytes)> = BTreeMap::new();
    let mut kept = Vec::with_capacity(hours.len() - spare);
    for (number, ((at, way), bytes)) in hours.into_iter().enumerate() {
        if number < spare {
            let (until, sum) = earlier.entry(way.earlier()).or_default();
            *until = at;
            sum.add(bytes);
        } else {
            kept.push(Line { at, way, bytes });
        }
    }
    let earlier = earlier
        .into_iter()
        .map(|(way, (at, bytes))| Line { at, way, bytes });
    earlier.chain(kept).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way(kind: Kind, to: &str) -> Way {
        Way {
            kind,
            to: to.to_owned(),
            who: "node-b".to_owned(),
            purpose: "session".to_owned(),
            labels: BTreeSet::from(["pii:EMAIL".to_owned()]),
            counted: Counted::OnTheWire,
        }
    }

    fn line(at: u64, to: &str, up: u64) -> Line {
        let bytes = Bytes { up, down: 2 * up };
        Line {
            at,
            way: way(Kind::Peer, to),
            bytes,
        }
    }

    #[test]
    fn what_is_noted_is_read_and_summed() {
        let home = tempfile::tempdir().unwrap();
        let journal = Journal::at(home.path());
        assert_eq!(journal.read().unwrap(), Noted::default());
        let lines = [
            line(1, "10.0.0.2:7842", 5),
            line(3, "10.0.0.2:7842", 6),
            line(4, "127.0.0.1:9", 100),
        ];
        journal.note(&lines[..1]).unwrap();
        journal.note(&lines[1..]).unwrap();
        let noted = journal.read().unwrap();
        assert_eq!((noted.lines.as_slice(), noted.damaged), (&lines[..], 0));
        let of = |bytes: &[(Way, Bytes)], to: &str| bytes.iter().find(|(way, _)| way.to == to).unwrap().1.up;
        assert_eq!(of(&sums(&noted.lines), "10.0.0.2:7842"), 11);
        assert_eq!(of(&sums(&noted.lines), "127.0.0.1:9"), 100);
        assert_eq!(
            left(&noted.lines),
            Bytes { up: 11, down: 22 },
            "loopback leaves nothing"
        );
        let late = noted.clone().report(Some(3));
        assert_eq!((late.since, late.left.up), (Some(3), 6));
        assert_eq!(late.ways.iter().filter(|sum| sum.leaves).count(), 1);
        assert_eq!(noted.report(None).since, Some(1));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = fs::metadata(journal.path()).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "its owner's alone");
        }
    }

    #[test]
    fn the_journal_stays_within_its_bound_and_keeps_every_sum() {
        let home = tempfile::tempdir().unwrap();
        let journal = Journal::at(home.path());
        let mut up = 0;
        for batch in 0..40u64 {
            let lines = (0..400u64).map(|n| {
                let number = batch * 400 + n;
                line(
                    number * 600,
                    &format!("203.0.113.{}:{}", number % 250, number),
                    number,
                )
            });
            let lines: Vec<Line> = lines.collect();
            up += lines.iter().map(|line| line.bytes.up).sum::<u64>();
            journal.note(&lines).unwrap();
            assert!(fs::metadata(journal.path()).unwrap().len() <= FOLD_AT_BYTES);
        }
        let lines = journal.read().unwrap().lines;
        assert_eq!(left(&lines).up, up);
        assert!(lines.iter().any(|line| line.way.to == "earlier"));
        assert!(
            lines.iter().any(|line| line.at == (40 * 400 - 1) * 600),
            "the newest stay"
        );
    }

    #[test]
    fn damage_is_counted_and_passed_over() {
        let home = tempfile::tempdir().unwrap();
        let journal = Journal::at(home.path());
        journal.note(&[line(1, "[2001:db8::1]:7842", 5)]).unwrap();
        let mut text = fs::read(journal.path()).unwrap();
        text.extend(b"{\"at\":12,\n\xff\xfe\n");
        fs::write(journal.path(), text).unwrap();
        journal.note(&[line(2, "[2001:db8::1]:7842", 6)]).unwrap();
        let noted = journal.read().unwrap();
        assert_eq!((noted.lines.len(), noted.damaged), (2, 2));
        assert_eq!(left(&noted.lines).up, 11);
    }

    #[test]
    fn any_bytes_are_read_as_lines_or_damage() {
        let good = serde_json::to_vec(&line(7, "10.0.0.2:1", 9)).unwrap();
        for seed in 0..2_000usize {
            let mut text = good.clone();
            let at = seed * 31 % text.len();
            text[at] = (seed % 256) as u8;
            text.truncate(text.len() - seed % 7);
            let noted = parse(&text);
            assert!(noted.lines.len() <= 1 && noted.lines.len() + noted.damaged >= 1);
        }
    }

    #[test]
    fn loopback_is_this_machine_and_nothing_else_is() {
        let leaves = |to: &str| way(Kind::Peer, to).leaves();
        assert!(
            [
                "127.0.0.1:1",
                "127.9.9.9",
                "[::1]:5",
                "::1",
                "[::ffff:127.0.0.1]:5",
                "localhost"
            ]
            .into_iter()
            .all(|to| !leaves(to))
        );
        assert!(
            [
                "10.0.0.1:1",
                "[fe80::1]:5",
                "localhost.example",
                "earlier",
                "",
                "https://relay.example/"
            ]
            .into_iter()
            .all(leaves)
        );
    }

    #[test]
    fn a_word_of_a_stranger_keeps_to_its_line() {
        let home = tempfile::tempdir().unwrap();
        let journal = Journal::at(home.path());
        let mut long = line(1, &"x".repeat(10_000), 1);
        long.way.who = "a\u{1b}[31m\nb".to_owned();
        journal.note(&[long]).unwrap();
        let kept = &journal.read().unwrap().lines[0].way;
        assert_eq!((kept.to.len(), kept.who.as_str()), (WORD_MAX, "a[31mb"));
    }
}
