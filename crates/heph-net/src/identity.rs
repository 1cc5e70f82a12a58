//! Who this machine is to its peers: an Ed25519 key, made at the first start and kept.
//!
//! It is kept in the system's [key store](crate::key_store) where one is open at the first start, else in a private file.
//! Where the store has it, a file that names the node and nothing secret stands in the key's place: whoever finds that
//! file asks the store, and never makes another key. A person may move the key from one to the other; nothing else does.
//! Moving, as the first start, writes the new place, reads it back and only then gives up the old one, so no crash and
//! no store that forgets loses an identity.

use std::io;
use std::path::{Path, PathBuf};

use heph_types::NodeId;
use iroh::SecretKey;

use crate::kept;
use crate::key_store::{KeyStore, KeyStoreError, SystemStore};

/// The file below HEPH's folder that holds the key.
pub const FILE: &str = "identity";

/// First line of the file, for the person who opens it.
const TITLE: &str = "HEPH identity, version 1. Whoever has this file is this machine: do not share it.";

/// First line of the file while the key is in the system's store.
const ELSEWHERE: &str = "HEPH identity, version 1, kept in the key store of this system, for the node:";

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
    /// The system's store does not give the key, or does not take it; the identity is where it was.
    #[error("the identity {path} is for the key store of this system: {cause}")]
    Store {
        /// The file.
        path: PathBuf,
        /// What the store says.
        #[source]
        cause: KeyStoreError,
    },
    /// The system's store keeps another key than it was given.
    #[error("the key store of this system keeps another key than that of {}", node.short())]
    OtherKey {
        /// Whose key it should be.
        node: NodeId,
    },
    /// The operating system gives no random bytes.
    #[error("no random bytes for a new identity")]
    NoRandom(#[source] io::Error),
}

/// Where a machine's key is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    /// None was made yet.
    Nowhere,
    /// In this private file.
    File(PathBuf),
    /// In the system's key store, under the name of this node.
    Store(NodeId),
}

impl Kept {
    /// Where the key of `home` is, by its file alone: the store is not asked.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn below(home: &Path) -> Result<Kept, IdentityError> {
        let path = home.join(FILE);
        match kept::read(&path, BYTES_MAX) {
            Ok(bytes) => Ok(elsewhere(&bytes).map_or(Kept::File(path), Kept::Store)),
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(Kept::Nowhere),
            Err(cause) if cause.kind() == io::ErrorKind::InvalidData => Err(IdentityError::Damaged { path }),
            Err(cause) => Err(IdentityError::Read { path, cause }),
        }
    }
}

impl Identity {
    /// The identity kept below `home`, wherever it is. Where none is, one is made: in the system's key store if that is
    /// open, else in a file.
    pub fn load_or_create(home: &Path) -> Result<Identity, IdentityError> {
        Identity::load_or_create_with(home, &SystemStore)
    }

    /// The identity kept below `home`, in the system's key store from now on; the file then names only the node.
    pub fn keep_in_store(home: &Path) -> Result<Identity, IdentityError> {
        Identity::move_to_store(home, &SystemStore)
    }

    /// The identity kept below `home`, in its file from now on.
    pub fn keep_in_file(home: &Path) -> Result<Identity, IdentityError> {
        Identity::move_to_file(home, &SystemStore)
    }

    fn load_or_create_with(home: &Path, store: &dyn KeyStore) -> Result<Identity, IdentityError> {
        match find(home, store)? {
            Some(found) => Ok(found),
            None => Identity::create(home, store, |fresh, path| fresh.goes_to(path, store)),
        }
    }

    /// Makes an identity, in the store where `stored` says that it is there.
    fn create(
        home: &Path,
        store: &dyn KeyStore,
        stored: impl FnOnce(&Identity, &Path) -> bool,
    ) -> Result<Identity, IdentityError> {
        let path = home.join(FILE);
        let fresh = Identity::fresh()?;
        let stored = stored(&fresh, &path);
        let text = if stored {
            pointer(fresh.node())
        } else {
            fresh.as_text()
        };
        let made = kept::create(&path, text.as_bytes());
        if made.is_err() && stored {
            // Nobody knows it; what the store keeps beyond that is never asked for.
            let _ = store.remove(fresh.node());
        }
        match made {
            Ok(()) => Ok(fresh),
            // Another process of this machine started at the same moment and was first.
            Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => load(&path, store),
            Err(cause) => Err(IdentityError::Write { path, cause }),
        }
    }

    /// Puts a new identity into the store, if that is open and gives it back. A person is asked for nothing.
    fn goes_to(&self, path: &Path, store: &dyn KeyStore) -> bool {
        if store.ready().is_err() {
            return false;
        }
        let node = self.node();
        let kept = store.put(node, &self.as_text()).is_ok() && from_store(path, node, store).is_ok();
        if !kept {
            let _ = store.remove(node);
        }
        kept
    }

    fn move_to_store(home: &Path, store: &dyn KeyStore) -> Result<Identity, IdentityError> {
        let identity = Identity::load_or_create_with(home, store)?;
        let (path, node) = (home.join(FILE), identity.node());
        let refused = |cause| IdentityError::Store {
            path: path.clone(),
            cause,
        };
        store.put(node, &identity.as_text()).map_err(refused)?;
        from_store(&path, node, store)?;
        kept::replace(&path, pointer(node).as_bytes())
            .map_err(|cause| IdentityError::Write { path, cause })?;
        Ok(identity)
    }

    fn move_to_file(home: &Path, store: &dyn KeyStore) -> Result<Identity, IdentityError> {
        let Some(identity) = find(home, store)? else {
            return Identity::create(home, store, |_, _| false);
        };
        if let Kept::Store(node) = Kept::below(home)? {
            let path = home.join(FILE);
            let text = identity.as_text();
            kept::replace(&path, text.as_bytes()).map_err(|cause| IdentityError::Write { path, cause })?;
            // Where the store has it still, the file counts all the same.
            let _ = store.remove(node);
        }
        Ok(identity)
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

    /// A signature (Ed25519) of `bytes`, which say first what they are for.
    pub fn sign(&self, bytes: &[u8]) -> [u8; 64] {
        self.secret.sign(bytes).to_bytes()
    }

    /// The identity of this key, told by whoever has it.
    #[cfg(target_os = "linux")]
    pub(crate) fn of_secret(secret: &[u8; 32]) -> Identity {
        Identity {
            secret: SecretKey::from_bytes(secret),
        }
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

/// The identity below `home`; `None` where none was made yet.
fn find(home: &Path, store: &dyn KeyStore) -> Result<Option<Identity>, IdentityError> {
    match load(&home.join(FILE), store) {
        Err(IdentityError::Read { cause, .. }) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
        loaded => loaded.map(Some),
    }
}

/// The file that stands in the key's place.
fn pointer(node: NodeId) -> String {
    format!("{ELSEWHERE}\n{node}\n")
}

fn load(path: &Path, store: &dyn KeyStore) -> Result<Identity, IdentityError> {
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
    match elsewhere(&bytes) {
        Some(node) => from_store(path, node, store),
        None => parse(&bytes).ok_or_else(damaged),
    }
}

/// The node whose key the system's store keeps, where the file says so.
fn elsewhere(bytes: &[u8]) -> Option<NodeId> {
    let text = std::str::from_utf8(bytes).ok()?;
    text.strip_prefix(ELSEWHERE)?.trim().parse().ok()
}

/// What the store keeps, held against whose it should be.
fn from_store(path: &Path, node: NodeId, store: &dyn KeyStore) -> Result<Identity, IdentityError> {
    let refused = |cause| IdentityError::Store {
        path: path.to_owned(),
        cause,
    };
    let text = store.get(node).map_err(refused)?;
    let identity = parse(text.as_bytes()).filter(|identity| identity.node() == node);
    identity.ok_or(IdentityError::OtherKey { node })
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
    use std::collections::BTreeMap;
    use std::fs;
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn a_machine_stays_who_it_is() {
        let home = tempfile::tempdir().unwrap();
        let first = Identity::keep_in_file(home.path()).unwrap();
        let second = Identity::load_or_create(home.path()).unwrap();
        assert_eq!(first.node(), second.node());
        assert_ne!(first.node(), Identity::fresh().unwrap().node());
        assert!(!format!("{first:?}").contains(&data_encoding::HEXLOWER.encode(&first.secret.to_bytes())));
    }

    #[test]
    fn starting_twice_at_once_makes_one_identity() {
        let home = tempfile::tempdir().unwrap();
        let start = || Identity::keep_in_file(home.path()).unwrap().node();
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
        Identity::keep_in_file(home.path()).unwrap();
        let path = home.path().join(FILE);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let refused = Identity::load_or_create(home.path()).unwrap_err();
        assert!(refused.to_string().contains("chmod 600"), "{refused}");
    }

    /// A store in memory: it may be locked, refuse, forget what it is given, or keep something else.
    #[derive(Default)]
    struct Memory {
        kept: Mutex<BTreeMap<NodeId, String>>,
        locked: bool,
        refuses: bool,
        forgets: bool,
        mixes_up: bool,
    }

    impl Memory {
        fn locked() -> Memory {
            Memory {
                locked: true,
                ..Memory::default()
            }
        }

        /// Those that take nothing, each in its way.
        fn bad() -> [Memory; 3] {
            [(true, false, false), (false, true, false), (false, false, true)].map(
                |(refuses, forgets, mixes_up)| Memory {
                    refuses,
                    forgets,
                    mixes_up,
                    ..Memory::default()
                },
            )
        }
    }

    impl KeyStore for Memory {
        fn ready(&self) -> Result<(), KeyStoreError> {
            match self.locked {
                true => Err(KeyStoreError::Locked),
                false => Ok(()),
            }
        }

        fn put(&self, node: NodeId, secret: &str) -> Result<(), KeyStoreError> {
            assert!(!self.locked, "a locked store would ask its owner");
            if self.refuses {
                return Err(KeyStoreError::Refused("it is full".to_owned()));
            }
            let secret = match self.mixes_up {
                true => Identity::fresh().unwrap().as_text(),
                false => secret.to_owned(),
            };
            if !self.forgets {
                self.kept.lock().unwrap().insert(node, secret);
            }
            Ok(())
        }

        fn get(&self, node: NodeId) -> Result<String, KeyStoreError> {
            self.ready()?;
            let kept = self.kept.lock().unwrap().get(&node).cloned();
            kept.ok_or(KeyStoreError::Refused("nothing is kept".to_owned()))
        }

        fn remove(&self, node: NodeId) -> Result<(), KeyStoreError> {
            self.kept.lock().unwrap().remove(&node);
            Ok(())
        }
    }

    /// What the file below `home` says, and whether it is the key of this identity.
    fn holds_key(home: &Path, identity: &Identity) -> bool {
        let secret = data_encoding::HEXLOWER.encode(&identity.secret.to_bytes());
        fs::read_to_string(home.join(FILE)).unwrap().contains(&secret)
    }

    #[test]
    fn the_first_start_keeps_the_key_in_a_store_that_is_open_and_no_file_has_it() {
        let home = tempfile::tempdir().unwrap();
        let store = Memory::default();
        assert_eq!(Kept::below(home.path()).unwrap(), Kept::Nowhere);
        let first = Identity::load_or_create_with(home.path(), &store).unwrap();
        assert!(!holds_key(home.path(), &first));
        assert_eq!(Kept::below(home.path()).unwrap(), Kept::Store(first.node()));
        assert_eq!(store.kept.lock().unwrap().len(), 1);
        let second = Identity::load_or_create_with(home.path(), &store).unwrap();
        assert_eq!(second.node(), first.node());
        // Whatever becomes of the store, there is no second machine: it is missed, and found again.
        for gone in [Memory::default(), Memory::locked()] {
            let error = Identity::load_or_create_with(home.path(), &gone).unwrap_err();
            assert!(matches!(error, IdentityError::Store { .. }), "{error}");
            assert!(Identity::move_to_file(home.path(), &gone).is_err());
        }
        let again = Identity::load_or_create_with(home.path(), &store).unwrap();
        assert_eq!(again.node(), first.node());
    }

    #[test]
    fn the_first_start_keeps_the_key_in_a_file_where_no_store_takes_it() {
        for store in Memory::bad().into_iter().chain([Memory::locked()]) {
            let home = tempfile::tempdir().unwrap();
            let first = Identity::load_or_create_with(home.path(), &store).unwrap();
            assert!(holds_key(home.path(), &first));
            assert!(matches!(Kept::below(home.path()).unwrap(), Kept::File(_)));
            assert!(
                store.kept.lock().unwrap().is_empty(),
                "nothing is left in the store"
            );
            // And it stays there when a store opens later.
            let open = Memory::default();
            let second = Identity::load_or_create_with(home.path(), &open).unwrap();
            assert_eq!(second.node(), first.node());
            assert!(open.kept.lock().unwrap().is_empty() && holds_key(home.path(), &first));
        }
    }

    #[test]
    fn whoever_wants_a_file_asks_no_store() {
        let (home, store) = (tempfile::tempdir().unwrap(), Memory::default());
        let first = Identity::move_to_file(home.path(), &store).unwrap();
        assert!(holds_key(home.path(), &first) && store.kept.lock().unwrap().is_empty());
        assert_eq!(
            Identity::move_to_file(home.path(), &store).unwrap().node(),
            first.node()
        );
    }

    #[test]
    fn starting_twice_at_once_with_a_store_makes_one_identity_and_leaves_no_other_in_it() {
        let (home, store) = (tempfile::tempdir().unwrap(), Memory::default());
        let start = || Identity::load_or_create_with(home.path(), &store).unwrap().node();
        let nodes: Vec<NodeId> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(start)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(nodes.iter().all(|node| *node == nodes[0]));
        assert_eq!(store.kept.lock().unwrap().keys().collect::<Vec<_>>(), [&nodes[0]]);
    }

    #[test]
    fn an_identity_moves_to_the_systems_store_and_back_and_stays_who_it_is() {
        let home = tempfile::tempdir().unwrap();
        let store = Memory::default();
        let first = Identity::load_or_create_with(home.path(), &Memory::locked()).unwrap();
        for _ in 0..2 {
            let moved = Identity::move_to_store(home.path(), &store).unwrap();
            assert_eq!(moved.node(), first.node());
            assert!(!holds_key(home.path(), &first));
            let again = Identity::load_or_create_with(home.path(), &store).unwrap();
            assert_eq!(again.node(), first.node());
        }
        let back = Identity::move_to_file(home.path(), &store).unwrap();
        assert_eq!(back.node(), first.node());
        assert!(store.kept.lock().unwrap().is_empty() && holds_key(home.path(), &first));
        let still = Identity::load_or_create_with(home.path(), &store).unwrap();
        assert_eq!(still.node(), first.node());
    }

    #[test]
    fn a_store_that_refuses_forgets_or_mixes_up_loses_no_identity() {
        for store in Memory::bad() {
            let home = tempfile::tempdir().unwrap();
            let first = Identity::load_or_create_with(home.path(), &Memory::locked()).unwrap();
            assert!(Identity::move_to_store(home.path(), &store).is_err());
            let still = Identity::load_or_create_with(home.path(), &store).unwrap();
            assert_eq!(still.node(), first.node());
        }
    }

    #[test]
    fn a_damaged_key_is_named_and_never_replaced() {
        let home = tempfile::tempdir().unwrap();
        Identity::keep_in_file(home.path()).unwrap();
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
