//! What came of asking the peers what they are: how soon each answered last, since when one is silent, and where one was found that
//! is not where the book says. By this whoever asks knows how long to wait, and where to ask first.
//!
//! The book itself is changed by a person's word only. A file that is lost or damaged costs longer waits, no more.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use heph_types::NodeId;
use serde::{Deserialize, Serialize};

/// The file below HEPH's folder.
const FILE: &str = "hails.json";

/// Peers that are remembered: as many as the book holds. The oldest make room.
const HAILS_MAX: usize = heph_net::trust::PEERS_MAX;

/// 1,024 peers of about 250 bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// How long it is remembered that a peer was silent. Then it is waited for again as if nobody had asked.
pub const SILENT_FOR_S: u64 = 600;

/// How long a peer is waited for that was silent a while ago: one that came back, and is near, answers sooner.
const SILENT_PATIENCE: Duration = Duration::from_millis(200);

/// How long one is waited for that always answered at once,
const PATIENCE_LEAST: Duration = Duration::from_millis(600);

/// and one that took longer: so many times as long as last.
const PATIENCE_TIMES: u32 = 4;

/// An answer that took so many times longer or less long is another one, and written down.
const NEWS_TIMES: u32 = 2;

/// What came of asking one peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hail {
    /// How long its last answer took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answered_ms: Option<u32>,
    /// Since when it has been silent, as far as it was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub silent: Option<Silence>,
    /// Where it was found, if the book does not say so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub found: Option<SocketAddr>,
    /// When it was asked last, in seconds since 1970.
    pub at_unix_s: u64,
}

/// Since when a peer says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Silence {
    /// When it did not answer for the first time, in seconds since 1970.
    pub since_unix_s: u64,
    /// When it was last waited for as long as it was worth then.
    pub tried_unix_s: u64,
}

impl Hail {
    /// Whether it was silent lately.
    pub fn is_silent(&self, now: u64) -> bool {
        // What a clock noted that was ahead says nothing.
        let lately = |silent: Silence| {
            let ago = now.checked_sub(silent.tried_unix_s);
            ago.is_some_and(|ago| ago < SILENT_FOR_S)
        };
        self.silent.is_some_and(lately)
    }
}

/// How long a peer is worth waiting for, by what came of asking it before, and no longer than `deadline`.
pub fn patience(known: Option<Hail>, now: u64, deadline: Duration) -> Duration {
    let known = known.unwrap_or_default();
    if known.is_silent(now) {
        return SILENT_PATIENCE.min(deadline);
    }
    // One that was silent long ago, or that nobody asked yet, may be far.
    let answered = known.answered_ms.filter(|_| known.silent.is_none());
    answered.map_or(deadline, |took| {
        let usual = Duration::from_millis(took.into()) * PATIENCE_TIMES;
        usual.max(PATIENCE_LEAST).min(deadline)
    })
}

/// What came of asking the peers.
#[derive(Debug)]
pub struct Hails {
    path: PathBuf,
    /// Held while the file is read, changed and written.
    known: Mutex<BTreeMap<NodeId, Hail>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Page {
    version: u32,
    hails: BTreeMap<NodeId, Hail>,
}

impl Hails {
    /// What is kept below `home`; nothing where there is no file, or none that can be read.
    pub fn open(home: &Path) -> Hails {
        let path = home.join(FILE);
        let known = Mutex::new(read(&path));
        Hails { path, known }
    }

    /// What came of asking `node`.
    pub fn of(&self, node: NodeId) -> Option<Hail> {
        self.known().get(&node).copied()
    }

    /// Where `node` was found, if the book does not say so.
    pub fn found_at(&self, node: NodeId) -> Option<SocketAddr> {
        self.of(node)?.found
    }

    /// Learns that `node` answered after `took`, at `now` in seconds since 1970.
    pub fn answered(&self, node: NodeId, took: Duration, now: u64) {
        let took = u32::try_from(took.as_millis()).unwrap_or(u32::MAX);
        self.change(node, now, |hail| Hail {
            answered_ms: match hail.answered_ms {
                Some(before) if !differ(before, took) => Some(before),
                _ => Some(took),
            },
            silent: None,
            ..hail
        });
    }

    /// Learns that `node` was waited for as long as it was worth, and said nothing.
    pub fn silent(&self, node: NodeId, now: u64) {
        self.change(node, now, |hail| Hail {
            silent: Some(Silence {
                since_unix_s: hail.silent.map_or(now, |silent| silent.since_unix_s),
                tried_unix_s: now,
            }),
            ..hail
        });
    }

    /// Forgets what came of asking `node`: it was met anew, and may be elsewhere.
    pub fn forget(&self, node: NodeId, now: u64) {
        self.change(node, now, |hail| Hail {
            at_unix_s: hail.at_unix_s,
            ..Hail::default()
        });
    }

    /// Learns that there is a connection to `node`, at an address that the book does not have or, with `None`, at one that it has.
    pub fn found(&self, node: NodeId, at: Option<SocketAddr>, now: u64) {
        self.change(node, now, |hail| Hail { found: at, ..hail });
    }

    /// Lets what is known of `node` become what `to` says; nothing is written where that says the same.
    fn change(&self, node: NodeId, now: u64, to: impl FnOnce(Hail) -> Hail) {
        let mut known = self.known();
        let before = known.get(&node).copied().unwrap_or_default();
        let mut after = to(before);
        if after == before {
            return;
        }
        after.at_unix_s = now;
        // Another program of this person may have asked meanwhile.
        for (other, kept) in read(&self.path) {
            let ours = known.entry(other).or_insert(kept);
            if ours.at_unix_s < kept.at_unix_s {
                *ours = kept;
            }
        }
        known.insert(node, after);
        while known.len() > HAILS_MAX {
            let oldest = known.iter().min_by_key(|(_, hail)| hail.at_unix_s);
            let Some(oldest) = oldest.map(|(node, _)| *node) else {
                break;
            };
            known.remove(&oldest);
        }
        let page = Page {
            version: 1,
            hails: known.clone(),
        };
        // What cannot be kept is learned again.
        let _ = write(&self.path, &page);
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<NodeId, Hail>> {
        // A thread that panicked left whole entries.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether one is so much longer than the other that it is news.
fn differ(one: u32, other: u32) -> bool {
    one > other.saturating_mul(NEWS_TIMES) || other > one.saturating_mul(NEWS_TIMES)
}

fn read(path: &Path) -> BTreeMap<NodeId, Hail> {
    let page = || -> Option<Page> {
        let mut bytes = Vec::new();
        let file = fs::File::open(path).ok()?;
        file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).ok()?;
        (bytes.len() as u64 <= FILE_BYTES_MAX)
            .then(|| serde_json::from_slice(&bytes).ok())
            .flatten()
    };
    let page = page().filter(|page| page.version == 1);
    page.map_or_else(BTreeMap::new, |page| page.hails)
}

/// The new file or the old one, never a mixture.
fn write(path: &Path, page: &Page) -> io::Result<()> {
    let text = serde_json::to_vec_pretty(page)?;
    let mut beside = tempfile::NamedTempFile::new_in(path.parent().unwrap_or(Path::new(".")))?;
    beside.write_all(&text)?;
    beside.persist(path).map_err(|refused| refused.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId([3; 32]);
    const DEADLINE: Duration = Duration::from_secs(3);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_silent_peer_is_waited_for_shortly_and_after_a_while_as_if_nobody_had_asked() {
        let home = tempfile::tempdir().unwrap();
        let hails = Hails::open(home.path());
        let patience = |now| patience(Hails::open(home.path()).of(NODE), now, DEADLINE);
        assert_eq!(patience(100), DEADLINE, "nobody asked it yet");
        hails.answered(NODE, ms(20), 100);
        assert_eq!(patience(100), PATIENCE_LEAST);
        hails.answered(NODE, ms(400), 100);
        assert_eq!(patience(100), ms(1600), "it is far");
        hails.answered(NODE, ms(2_000), 100);
        assert_eq!(patience(100), DEADLINE);
        hails.silent(NODE, 200);
        assert_eq!(patience(200), SILENT_PATIENCE);
        assert_eq!(patience(200 + SILENT_FOR_S - 1), SILENT_PATIENCE);
        assert_eq!(patience(200 + SILENT_FOR_S), DEADLINE);
        assert_eq!(patience(199), DEADLINE, "a clock that was ahead noted it");
        hails.silent(NODE, 900);
        let silent = hails.of(NODE).unwrap().silent.unwrap();
        assert_eq!((silent.since_unix_s, silent.tried_unix_s), (200, 900));
        hails.answered(NODE, ms(20), 901);
        assert_eq!(patience(901), PATIENCE_LEAST, "it is back");
    }

    #[test]
    fn where_a_peer_was_found_is_kept_until_it_is_where_the_book_says() {
        let home = tempfile::tempdir().unwrap();
        let socket = "192.0.2.7:7842".parse().unwrap();
        let hails = Hails::open(home.path());
        hails.found(NODE, Some(socket), 2);
        let read = Hails::open(home.path());
        assert_eq!(read.found_at(NODE), Some(socket));
        read.found(NODE, None, 3);
        assert_eq!(Hails::open(home.path()).found_at(NODE), None);
        read.silent(NODE, 4);
        read.forget(NODE, 5);
        let met = Hails::open(home.path()).of(NODE);
        assert_eq!(patience(met, 5, DEADLINE), DEADLINE, "it was met anew");
    }

    #[test]
    fn two_programs_ask_and_neither_loses_what_the_other_learned() {
        let home = tempfile::tempdir().unwrap();
        let (one, other) = (Hails::open(home.path()), Hails::open(home.path()));
        one.silent(NODE, 1);
        other.silent(NodeId([4; 32]), 2);
        let read = Hails::open(home.path());
        assert!(read.of(NODE).is_some() && read.of(NodeId([4; 32])).is_some());
    }

    #[test]
    fn a_damaged_file_costs_longer_waits_and_no_more_and_the_oldest_make_room() {
        let home = tempfile::tempdir().unwrap();
        for damage in [
            "",
            "{",
            "{\"version\":2,\"hails\":{}}",
            "{\"version\":1,\"hails\":{\"x\":{}}}",
        ] {
            fs::write(home.path().join(FILE), damage).unwrap();
            let hails = Hails::open(home.path());
            assert_eq!(hails.of(NODE), None, "{damage}");
            hails.silent(NODE, 1);
            assert!(Hails::open(home.path()).of(NODE).is_some(), "{damage}");
        }
        let of = |at: usize| NodeId(*blake3::hash(&at.to_le_bytes()).as_bytes());
        let hails = Hails::open(home.path());
        let all = (0..HAILS_MAX).map(|at| {
            let at_unix_s = 10 + at as u64;
            let hail = Hail {
                at_unix_s,
                ..Hail::default()
            };
            (of(at), hail)
        });
        hails.known().extend(all);
        hails.silent(NodeId([5; 32]), 5_000);
        assert_eq!(hails.known().len(), HAILS_MAX);
        assert!(hails.of(NODE).is_none() && hails.of(NodeId([5; 32])).is_some());
    }
}
