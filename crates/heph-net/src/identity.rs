//! Who this machine is to its peers: an Ed25519 key, made at the first start and kept.

use std::io;
use std::path::{Path, PathBuf};

use heph_types::NodeId;
use iroh::SecretKey;

use crate::kept;

/// The file below HEPH's folder that holds the key.
pub const FILE: &str = "identity";

/// First line of the file, for the person who opens it.
const TITLE: &str = "HEPH identity, version 1. Whoever has this file is this machine: do not share it.";

/// A title of 80 bytes, a key of 64, a check of 16, line ends, and room for an editor's stray spaces.
const BYTES_MAX: u64 = 256;

/// A machine's secret key. Its public half is the machine's [`NodeId`].
#[derive(Clone)]
pub struct Identity {
    secret: SecretKey,
}

/// What keeps a machine from knowing who it is. None of them is ever answered by making a new key: peers trust the old.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file cannot be read.
    #[error("the identity {path} cannot be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// The file cannot be made.
    #[error("the identity {path} cannot be written")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// Somebody other than the owner may read the key.
    #[error("the identity {path} can be read by others; run: chmod 600 {path}")]
    OpenToOthers {
        /// The file.
        path: PathBuf,
    },
    /// The file is not what was written.
    #[error(
        "the identity {path} is damaged; put a copy back, or move it away to become a new machine that no peer knows"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// The operating system gives no random bytes.
    #[error("no random bytes for a new identity")]
    NoRandom(#[source] io::Error),
}

impl Identity {
    /// The identity kept below `home`; made there if none is.
    pub fn load_or_create(home: &Path) -> Result<Identity, IdentityError> {
        let path = home.join(FILE);
        match load(&path) {
            Err(IdentityError::Read { cause, .. }) if cause.kind() == io::ErrorKind::NotFound => {}
            loaded => return loaded,
        }
        let fresh = Identity::fresh()?;
        match kept::create(&path, fresh.as_text().as_bytes()) {
            Ok(()) => Ok(fresh),
            // Another process of this machine started at the same moment and was first.
            Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => load(&path),
            Err(cause) => Err(IdentityError::Write { path, cause }),
        }
    }

    /// A new identity that is kept nowhere: for a demonstration or a test.
    pub fn fresh() -> Result<Identity, IdentityError> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(|cause| IdentityError::NoRandom(io::Error::other(cause)))?;
        Ok(Identity {
            secret: SecretKey::from_bytes(&bytes),
        })
    }

    /// The public half.
    pub fn node(&self) -> NodeId {
        NodeId(*self.secret.public().as_bytes())
    }

    pub(crate) fn secret(&self) -> &SecretKey {
        &self.secret
    }

    fn as_text(&self) -> String {
        let key = data_encoding::HEXLOWER.encode(&self.secret.to_bytes());
        format!("{TITLE}\n{key}\n{}\n", check_of(&key))
    }
}

/// Says who, never the secret.
impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({})", self.node().short())
    }
}

fn load(path: &Path) -> Result<Identity, IdentityError> {
    let path_owned = || path.to_owned();
    let read = |cause| IdentityError::Read {
        path: path_owned(),
        cause,
    };
    if kept::open_to_others(path).map_err(read)? {
        return Err(IdentityError::OpenToOthers { path: path_owned() });
    }
    let damaged = || IdentityError::Damaged { path: path_owned() };
    let bytes = kept::read(path, BYTES_MAX).map_err(|cause| match cause.kind() {
        io::ErrorKind::InvalidData => damaged(),
        _ => read(cause),
    })?;
    parse(&bytes).ok_or_else(damaged)
}

fn parse(bytes: &[u8]) -> Option<Identity> {
    let mut lines = std::str::from_utf8(bytes).ok()?.lines().map(str::trim);
    let (title, key, check) = (lines.next()?, lines.next()?, lines.next()?);
    if title != TITLE || check != check_of(key) || lines.any(|rest| !rest.is_empty()) {
        return None;
    }
    let bytes: [u8; 32] = data_encoding::HEXLOWER
        .decode(key.as_bytes())
        .ok()?
        .try_into()
        .ok()?;
    Some(Identity {
        secret: SecretKey::from_bytes(&bytes),
    })
}

/// Tells a damaged key from a whole one: any 32 bytes are a key, and a wrong one is a stranger to every peer.
fn check_of(key: &str) -> String {
    let hash = blake3::derive_key("HEPH 2026-11 identity file check", key.as_bytes());
    data_encoding::HEXLOWER.encode(&hash[..8])
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_machine_stays_who_it_is() {
        let home = tempfile::tempdir().unwrap();
        let first = Identity::load_or_create(home.path()).unwrap();
        let second = Identity::load_or_create(home.path()).unwrap();
        assert_eq!(first.node(), second.node());
        assert_ne!(first.node(), Identity::fresh().unwrap().node());
        assert!(!format!("{first:?}").contains(&data_encoding::HEXLOWER.encode(&first.secret.to_bytes())));
    }

    #[test]
    fn starting_twice_at_once_makes_one_identity() {
        let home = tempfile::tempdir().unwrap();
        let start = || Identity::load_or_create(home.path()).unwrap().node();
        let nodes: Vec<NodeId> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(start)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(nodes.iter().all(|node| *node == nodes[0]));
    }

    #[cfg(unix)]
    #[test]
    fn a_key_that_others_can_read_is_refused_with_what_to_do() {
        use std::os::unix::fs::PermissionsExt;
        let home = tempfile::tempdir().unwrap();
        Identity::load_or_create(home.path()).unwrap();
        let path = home.path().join(FILE);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let refused = Identity::load_or_create(home.path()).unwrap_err();
        assert!(refused.to_string().contains("chmod 600"), "{refused}");
    }

    #[test]
    fn a_damaged_key_is_named_and_never_replaced() {
        let home = tempfile::tempdir().unwrap();
        Identity::load_or_create(home.path()).unwrap();
        let path = home.path().join(FILE);
        let whole = fs::read_to_string(&path).unwrap();
        let at = TITLE.len() + 3;
        let flipped = if whole.as_bytes()[at] == b'0' { "1" } else { "0" };
        let flip = format!("{}{flipped}{}", &whole[..at], &whole[at + 1..]);
        for damage in [
            flip,
            String::new(),
            whole[..90].to_owned(),
            format!("{whole}more"),
            "x".repeat(300),
        ] {
            fs::write(&path, &damage).unwrap();
            let error = Identity::load_or_create(home.path()).unwrap_err();
            assert!(matches!(error, IdentityError::Damaged { .. }), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), damage, "left as it was found");
        }
    }
}
