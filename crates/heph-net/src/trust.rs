//! The book of known peers: who they are, what they may be used for, where they were last. Being in it is what trust
//! means here; nobody enters it but by pairing or by the person's word.

#[cfg(unix)]
use std::fs::File;
use std::io;
#[cfg(unix)]
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use heph_types::{NodeId, Role};
use serde::{Deserialize, Serialize};

use crate::address::NodeAddress;
use crate::kept;

/// The file below HEPH's folder that holds the book.
pub const FILE: &str = "peers.json";

/// Peers that one book holds.
pub const PEERS_MAX: usize = 1_024;

/// Characters of a peer's name.
pub const NAME_CHARS_MAX: usize = 64;

/// 1,024 peers of less than 4 KiB: eight addresses, a relay of 255 bytes, a name of 64 characters, all as JSON.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// Somebody this machine knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Who.
    pub node: NodeId,
    /// What it is to this person.
    pub role: Role,
    /// How it calls itself; for people only.
    pub name: String,
    /// Since when it is known, in seconds since 1970.
    pub since: u64,
    /// Where it was last.
    pub address: NodeAddress,
}

/// The book, as it is on the disk.
#[derive(Debug)]
pub struct TrustBook {
    path: PathBuf,
    peers: Vec<Peer>,
}

/// What goes wrong with the book. A book that cannot be read trusts nobody.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The file cannot be read.
    #[error("the book of peers {path} cannot be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// The file is not what was written.
    #[error("the book of peers {path} is damaged ({cause}); put a copy back, or remove it and pair again")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where.
        cause: String,
    },
    /// Somebody else may change who is trusted.
    #[error("the book of peers {path} is open to others; run: chmod 600 {path}")]
    OpenToOthers {
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be written; the book is as it was.
    #[error("the book of peers {path} cannot be written")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// No room.
    #[error("the book of peers is full: {PEERS_MAX} peers; remove one first")]
    Full,
}

impl TrustBook {
    /// The book kept below `home`; an empty one if there is none.
    pub fn open(home: &Path) -> Result<TrustBook, TrustError> {
        let path = home.join(FILE);
        let read = |cause| TrustError::Read {
            path: path.clone(),
            cause,
        };
        let peers = match kept::open_to_others(&path) {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(cause) => return Err(read(cause)),
            Ok(true) => return Err(TrustError::OpenToOthers { path }),
            Ok(false) => {
                let bytes = kept::read(&path, FILE_BYTES_MAX).map_err(read)?;
                parse(&bytes).map_err(|cause| TrustError::Damaged {
                    path: path.clone(),
                    cause,
                })?
            }
        };
        Ok(TrustBook { path, peers })
    }

    /// Everybody in the book that `file` is, where that is the one that lies below `home` now: for whoever may look at names there and open
    /// none. Whoever handed the file over is believed nothing else.
    ///
    /// # Errors
    /// When it is another file, is open to others, is longer than a book, or is none.
    #[cfg(unix)]
    pub fn handed(home: &Path, file: &File) -> io::Result<Vec<Peer>> {
        let wrong = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why);
        let (own, lies) = (file.metadata()?, std::fs::symlink_metadata(home.join(FILE))?);
        if !own.is_file() || (own.dev(), own.ino()) != (lies.dev(), lies.ino()) {
            return Err(wrong("it is not the book of peers"));
        }
        if own.mode() & 0o077 != 0 {
            return Err(wrong("it is open to others"));
        }
        if own.len() > FILE_BYTES_MAX {
            return Err(wrong("it is too long"));
        }
        let mut bytes = vec![0; own.len() as usize];
        file.read_exact_at(&mut bytes, 0)?;
        parse(&bytes).map_err(|cause| wrong(&cause))
    }

    /// Everybody, in the order in which they were met.
    pub fn peers(&self) -> &[Peer] {
        &self.peers
    }

    /// What is known of `node`; `None` is a stranger.
    pub fn peer(&self, node: NodeId) -> Option<&Peer> {
        self.peers.iter().find(|peer| peer.node == node)
    }

    /// The peers that a person may mean by `word`: those of that name, else those whose id begins with it.
    pub fn called(&self, word: &str) -> Vec<&Peer> {
        let those = |fits: &dyn Fn(&Peer) -> bool| self.peers.iter().filter(|peer| fits(peer)).collect();
        let named: Vec<&Peer> = those(&|peer| peer.name == word);
        match named.is_empty() && word.len() >= 4 {
            true => those(&|peer| peer.node.to_string().starts_with(word)),
            false => named,
        }
    }

    /// Enters `peer`, or replaces what was known of it. It stays known since it first was.
    pub fn remember(&mut self, peer: Peer) -> Result<(), TrustError> {
        let mut peer = Peer {
            name: printable(&peer.name),
            address: peer.address.bounded(),
            ..peer
        };
        let mut peers = self.peers.clone();
        match peers.iter().position(|known| known.node == peer.node) {
            Some(at) => {
                peer.since = peers[at].since;
                peers[at] = peer;
            }
            None if peers.len() >= PEERS_MAX => return Err(TrustError::Full),
            None => peers.push(peer),
        }
        self.replace(peers)
    }

    /// Strikes `node` out: from now on it is a stranger. `false` if it was.
    pub fn forget(&mut self, node: NodeId) -> Result<bool, TrustError> {
        let peers: Vec<Peer> = self
            .peers
            .iter()
            .filter(|peer| peer.node != node)
            .cloned()
            .collect();
        let known = peers.len() < self.peers.len();
        if known {
            self.replace(peers)?;
        }
        Ok(known)
    }

    /// The disk first: what is believed here is never more than what is written.
    fn replace(&mut self, peers: Vec<Peer>) -> Result<(), TrustError> {
        let page = Page {
            version: VERSION,
            peers: peers.iter().map(Line::of).collect(),
        };
        let text = serde_json::to_vec_pretty(&page).expect("a book of plain words becomes JSON");
        kept::replace(&self.path, &text).map_err(|cause| TrustError::Write {
            path: self.path.clone(),
            cause,
        })?;
        self.peers = peers;
        Ok(())
    }
}

/// What is safe to show of a name that a peer chose: no control characters, no more than [`NAME_CHARS_MAX`].
pub fn printable(name: &str) -> String {
    let shown = name.chars().filter(|c| !c.is_control()).take(NAME_CHARS_MAX);
    shown.collect::<String>().trim().to_owned()
}

/// The only version so far.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Page {
    version: u32,
    peers: Vec<Line>,
}

/// A peer in the file's words.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    node: String,
    role: String,
    name: String,
    since: u64,
    address: NodeAddress,
}

impl Line {
    fn of(peer: &Peer) -> Line {
        Line {
            node: peer.node.to_string(),
            role: peer.role.to_string(),
            name: peer.name.clone(),
            since: peer.since,
            address: peer.address.clone(),
        }
    }

    fn peer(self) -> Result<Peer, String> {
        Ok(Peer {
            node: self
                .node
                .parse()
                .map_err(|cause: heph_types::hex::HexError| format!("for a node {cause}"))?,
            role: self
                .role
                .parse()
                .map_err(|cause: heph_types::UnknownRole| cause.to_string())?,
            name: printable(&self.name),
            since: self.since,
            address: self.address.bounded(),
        })
    }
}

fn parse(bytes: &[u8]) -> Result<Vec<Peer>, String> {
    let page: Page = serde_json::from_slice(bytes).map_err(|cause| cause.to_string())?;
    if page.version != VERSION {
        return Err(format!("it has version {}, known is {VERSION}", page.version));
    }
    if page.peers.len() > PEERS_MAX {
        return Err(format!("it has more than {PEERS_MAX} peers"));
    }
    let peers: Vec<Peer> = page.peers.into_iter().map(Line::peer).collect::<Result<_, _>>()?;
    let mut nodes: Vec<NodeId> = peers.iter().map(|peer| peer.node).collect();
    nodes.sort_unstable();
    match nodes.windows(2).any(|pair| pair[0] == pair[1]) {
        true => Err("it names a peer twice".to_owned()),
        false => Ok(peers),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn peer(at: u8, name: &str) -> Peer {
        Peer {
            node: NodeId([at; 32]),
            role: Role::Own,
            name: name.to_owned(),
            since: 1_700_000_000,
            address: NodeAddress {
                direct: vec!["10.0.0.7:7842".parse().unwrap(), "[::1]:9".parse().unwrap()],
                relay: Some(
                    format!("https://relay.example:7843#{}", "ab".repeat(32))
                        .parse()
                        .unwrap(),
                ),
            },
        }
    }

    #[test]
    fn who_is_remembered_is_known_after_a_restart_and_who_is_forgotten_is_not() {
        let home = tempfile::tempdir().unwrap();
        let mut book = TrustBook::open(home.path()).unwrap();
        assert!(book.peers().is_empty());
        book.remember(peer(1, "desk")).unwrap();
        book.remember(peer(2, "tower")).unwrap();
        let later = Peer {
            since: 9,
            name: "tower 2".to_owned(),
            ..peer(2, "")
        };
        book.remember(later).unwrap();
        let book_again = TrustBook::open(home.path()).unwrap();
        assert_eq!(book_again.peers(), [peer(1, "desk"), peer(2, "tower 2")]);
        assert!(book.forget(NodeId([1; 32])).unwrap());
        assert!(!book.forget(NodeId([1; 32])).unwrap());
        assert_eq!(TrustBook::open(home.path()).unwrap().peer(NodeId([1; 32])), None);
    }

    #[test]
    fn a_person_may_say_the_name_or_the_beginning_of_the_id() {
        let home = tempfile::tempdir().unwrap();
        let mut book = TrustBook::open(home.path()).unwrap();
        book.remember(peer(1, "desk")).unwrap();
        book.remember(peer(2, "tower")).unwrap();
        let called = |book: &TrustBook, word| -> Vec<u8> {
            let fitting = book.called(word);
            fitting.iter().map(|peer| peer.node.0[0]).collect()
        };
        assert_eq!(called(&book, "tower"), [2]);
        assert_eq!(called(&book, "0101"), [1]);
        assert!(called(&book, "0").is_empty(), "too short to mean somebody");
        assert!(called(&book, "somebody").is_empty());
        book.remember(peer(3, "tower")).unwrap();
        assert_eq!(called(&book, "tower"), [2, 3]);
    }

    #[test]
    fn a_peers_words_cannot_paint_the_terminal() {
        let home = tempfile::tempdir().unwrap();
        let mut book = TrustBook::open(home.path()).unwrap();
        book.remember(peer(1, &format!("\x1b[2Jevil\n{}", "x".repeat(500))))
            .unwrap();
        let name = &book.peers()[0].name;
        assert!(
            name.starts_with("[2Jevilx") && name.chars().count() == NAME_CHARS_MAX,
            "{name}"
        );
    }

    #[test]
    fn a_damaged_book_trusts_nobody_and_stays_as_it_is() {
        let home = tempfile::tempdir().unwrap();
        let mut book = TrustBook::open(home.path()).unwrap();
        book.remember(peer(1, "desk")).unwrap();
        let path = home.path().join(FILE);
        let whole = fs::read_to_string(&path).unwrap();
        let twice = whole.replace("\"peers\": [", &format!("\"peers\": [{},", one_peer(&whole)));
        for damage in [
            whole[..whole.len() / 2].to_owned(),
            whole.replace("\"own\"", "\"friend\""),
            whole.replace("\"version\": 1", "\"version\": 2"),
            whole.replace("0101", "01"),
            twice,
        ] {
            fs::write(&path, &damage).unwrap();
            let error = TrustBook::open(home.path()).unwrap_err();
            assert!(
                matches!(error, TrustError::Damaged { .. }),
                "{error} for {damage}"
            );
            assert_eq!(fs::read_to_string(&path).unwrap(), damage);
        }
    }

    fn one_peer(page: &str) -> String {
        let page: serde_json::Value = serde_json::from_str(page).unwrap();
        page["peers"][0].to_string()
    }

    #[test]
    fn a_full_book_says_so() {
        let home = tempfile::tempdir().unwrap();
        let mut book = TrustBook::open(home.path()).unwrap();
        let many = |at: usize| {
            let mut node = [0; 32];
            node[..8].copy_from_slice(&(at as u64).to_le_bytes());
            Peer {
                node: NodeId(node),
                ..peer(0, "")
            }
        };
        book.peers = (0..PEERS_MAX).map(many).collect();
        assert!(matches!(book.remember(many(PEERS_MAX)), Err(TrustError::Full)));
        book.remember(many(5)).unwrap();
        assert_eq!(
            TrustBook::open(home.path()).unwrap().peers().len(),
            PEERS_MAX,
            "a full book fits its file"
        );
    }

    #[cfg(unix)]
    #[test]
    fn a_book_that_is_handed_over_is_read_where_it_is_the_one_that_lies_there() {
        use std::os::unix::fs::PermissionsExt;
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join(FILE);
        let mut book = TrustBook::open(home.path()).unwrap();
        book.remember(peer(1, "desk")).unwrap();
        let first = File::open(&path).unwrap();
        assert_eq!(TrustBook::handed(home.path(), &first).unwrap(), [peer(1, "desk")]);
        book.remember(peer(2, "tower")).unwrap();
        assert!(
            TrustBook::handed(home.path(), &first).is_err(),
            "what lay there before"
        );
        let copy = home.path().join("copy");
        fs::copy(&path, &copy).unwrap();
        let copy = File::open(copy).unwrap();
        assert!(
            TrustBook::handed(home.path(), &copy).is_err(),
            "the same words in another file"
        );
        let now = File::open(&path).unwrap();
        assert_eq!(TrustBook::handed(home.path(), &now).unwrap().len(), 2);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(TrustBook::handed(home.path(), &now).is_err(), "others read it");
        let long = fs::OpenOptions::new().write(true).open(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        long.set_len(FILE_BYTES_MAX + 1).unwrap();
        assert!(
            TrustBook::handed(home.path(), &now).is_err(),
            "no book is so long"
        );
    }

    #[cfg(unix)]
    #[test]
    fn a_book_that_others_can_write_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let home = tempfile::tempdir().unwrap();
        TrustBook::open(home.path())
            .unwrap()
            .remember(peer(1, "desk"))
            .unwrap();
        fs::set_permissions(home.path().join(FILE), fs::Permissions::from_mode(0o666)).unwrap();
        assert!(matches!(
            TrustBook::open(home.path()),
            Err(TrustError::OpenToOthers { .. })
        ));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_a_book_or_a_reason(
            bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300),
            at in 0_usize..400,
        ) {
            proptest::prop_assert!(parse(&bytes).is_err());
            let page = Page {
                version: VERSION,
                peers: vec![Line::of(&peer(1, "desk")), Line::of(&peer(2, "tower"))],
            };
            let mut text = serde_json::to_vec(&page).unwrap();
            let at = at % text.len();
            drop(text.splice(at..at, bytes));
            if let Ok(peers) = parse(&text) {
                proptest::prop_assert!(peers.len() <= 2);
            }
        }
    }
}
