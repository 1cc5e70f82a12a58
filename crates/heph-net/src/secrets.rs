//! Secrets that a person gives into this machine's keeping, such as a provider's key: in the system's key store where there is
//! one, else in a private file. The file beside HEPH's other ones says which, so that nothing is looked for in two places.

use std::io;
use std::path::{Path, PathBuf};

use heph_types::NodeId;

use crate::kept;
use crate::key_store::{KeyStore, KeyStoreError, SystemStore};

/// The folder below HEPH's.
const FOLDER: &str = "keys";

/// First line of a file that holds a secret.
const TITLE: &str = "HEPH secret, version 1. Whoever has this file can spend in your name: do not share it.";

/// The whole of a file whose secret is in the system's store.
const ELSEWHERE: &str = "HEPH secret, version 1, kept in the key store of this system.";

/// Bytes of a secret, and of a file with its title.
const SECRET_MAX: usize = 4096;
const BYTES_MAX: u64 = SECRET_MAX as u64 + 256;

/// Where a secret is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keeper {
    /// In the key store of the operating system.
    System,
    /// In a private file.
    File,
}

/// Why a secret is not kept, or not found.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// It is empty, too long, or holds more than one line.
    #[error("a key is one line of up to {SECRET_MAX} letters")]
    Form,
    /// The file cannot be read or written.
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
    /// Somebody other than the owner may read it.
    #[error("{path} can be read by others; run: chmod 600 {path}", path = .0.display())]
    OpenToOthers(PathBuf),
    /// The file is not what was written.
    #[error("{} holds no key; give it again", .0.display())]
    Damaged(PathBuf),
    /// The system's store refuses.
    #[error(transparent)]
    Store(#[from] KeyStoreError),
}

/// The secrets below one folder.
pub struct Secrets<'a> {
    home: PathBuf,
    store: &'a dyn KeyStore,
}

impl Secrets<'static> {
    /// Those below `home`, HEPH's folder.
    pub fn new(home: &Path) -> Self {
        Self {
            home: home.to_owned(),
            store: &SystemStore,
        }
    }
}

impl Secrets<'_> {
    /// Keeps `secret` for `owner`, whom people call `name`, in place of what was kept: at `wanted`, or in the system's store
    /// where there is one and else in a file. `name` must be fit for a file.
    ///
    /// # Errors
    /// When the secret is none, or nobody takes it.
    pub fn keep(
        &self,
        owner: NodeId,
        name: &str,
        secret: &str,
        wanted: Option<Keeper>,
    ) -> Result<Keeper, SecretError> {
        let sound = !secret.is_empty() && secret.len() <= SECRET_MAX && !secret.contains(['\n', '\r']);
        if !sound {
            return Err(SecretError::Form);
        }
        let in_store = match wanted {
            Some(Keeper::File) => false,
            _ => match self.store.put(owner, secret) {
                Ok(()) => true,
                Err(KeyStoreError::None) if wanted.is_none() => false,
                Err(error) => return Err(error.into()),
            },
        };
        let text = match in_store {
            true => format!("{ELSEWHERE}\n"),
            false => format!("{TITLE}\n{secret}\n"),
        };
        let path = self.path(name);
        kept::replace(&path, text.as_bytes()).map_err(|cause| SecretError::Io {
            step: "write",
            path,
            cause,
        })?;
        Ok(if in_store { Keeper::System } else { Keeper::File })
    }

    /// What is kept for `owner`; `None` where nothing is.
    ///
    /// # Errors
    /// When the file is damaged or open to others, or the store does not give it.
    pub fn find(&self, owner: NodeId, name: &str) -> Result<Option<String>, SecretError> {
        let path = self.path(name);
        let read = |cause| SecretError::Io {
            step: "read",
            path: path.clone(),
            cause,
        };
        match kept::open_to_others(&path) {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(cause) => return Err(read(cause)),
            Ok(true) => return Err(SecretError::OpenToOthers(path)),
            Ok(false) => {}
        }
        let bytes = kept::read(&path, BYTES_MAX).map_err(read)?;
        let text = String::from_utf8(bytes).map_err(|_| SecretError::Damaged(path.clone()))?;
        if text.trim_end() == ELSEWHERE {
            return Ok(Some(self.store.get(owner)?));
        }
        let secret = text
            .strip_prefix(TITLE)
            .and_then(|rest| rest.strip_prefix('\n'))
            .map(str::trim_end)
            .filter(|secret| !secret.is_empty() && !secret.contains('\n'));
        match secret {
            Some(secret) => Ok(Some(secret.to_owned())),
            None => Err(SecretError::Damaged(path)),
        }
    }

    /// Forgets what is kept for `owner`.
    ///
    /// # Errors
    /// When the file cannot be removed.
    pub fn forget(&self, owner: NodeId, name: &str) -> Result<(), SecretError> {
        let path = self.path(name);
        match std::fs::remove_file(&path) {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(cause) => {
                return Err(SecretError::Io {
                    step: "remove",
                    path,
                    cause,
                });
            }
            Ok(()) => {}
        }
        // Where the store has it still, or never had it, nothing asks for it any more.
        let _ = self.store.remove(owner);
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.join(FOLDER).join(name)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Mutex;

    use super::*;

    /// A store in memory; a broken one refuses everything.
    #[derive(Default)]
    struct InMemory {
        kept: Mutex<BTreeMap<NodeId, String>>,
        broken: bool,
    }

    impl KeyStore for InMemory {
        fn ready(&self) -> Result<(), KeyStoreError> {
            match self.broken {
                true => Err(KeyStoreError::Locked),
                false => Ok(()),
            }
        }

        fn put(&self, node: NodeId, secret: &str) -> Result<(), KeyStoreError> {
            if self.broken {
                return Err(KeyStoreError::Locked);
            }
            self.kept.lock().unwrap().insert(node, secret.to_owned());
            Ok(())
        }

        fn get(&self, node: NodeId) -> Result<String, KeyStoreError> {
            let kept = self.kept.lock().unwrap().get(&node).cloned();
            kept.ok_or(KeyStoreError::None)
        }

        fn remove(&self, node: NodeId) -> Result<(), KeyStoreError> {
            self.kept.lock().unwrap().remove(&node);
            Ok(())
        }
    }

    struct Absent;

    impl KeyStore for Absent {
        fn ready(&self) -> Result<(), KeyStoreError> {
            Err(KeyStoreError::None)
        }

        fn put(&self, _: NodeId, _: &str) -> Result<(), KeyStoreError> {
            Err(KeyStoreError::None)
        }

        fn get(&self, _: NodeId) -> Result<String, KeyStoreError> {
            Err(KeyStoreError::None)
        }

        fn remove(&self, _: NodeId) -> Result<(), KeyStoreError> {
            Err(KeyStoreError::None)
        }
    }

    const OWNER: NodeId = NodeId([3; 32]);

    fn secrets<'a>(home: &Path, store: &'a dyn KeyStore) -> Secrets<'a> {
        Secrets {
            home: home.to_owned(),
            store,
        }
    }

    #[test]
    fn a_secret_is_in_the_store_where_there_is_one_and_else_in_a_private_file() {
        let home = tempfile::tempdir().unwrap();
        let (store, path) = (InMemory::default(), home.path().join("keys/cloud"));
        let there = secrets(home.path(), &store);
        assert_eq!(there.find(OWNER, "cloud").unwrap(), None);
        assert_eq!(there.keep(OWNER, "cloud", "sk-1", None).unwrap(), Keeper::System);
        assert!(!std::fs::read_to_string(&path).unwrap().contains("sk-1"));
        assert_eq!(there.find(OWNER, "cloud").unwrap().as_deref(), Some("sk-1"));
        let here = secrets(home.path(), &Absent);
        assert_eq!(here.keep(OWNER, "cloud", "sk-2", None).unwrap(), Keeper::File);
        assert_eq!(here.find(OWNER, "cloud").unwrap().as_deref(), Some("sk-2"));
        assert_eq!(
            there.keep(OWNER, "cloud", "sk-3", Some(Keeper::File)).unwrap(),
            Keeper::File
        );
        assert_eq!(there.find(OWNER, "cloud").unwrap().as_deref(), Some("sk-3"));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = std::fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
            assert!(matches!(
                there.find(OWNER, "cloud"),
                Err(SecretError::OpenToOthers(_))
            ));
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        }
        there.forget(OWNER, "cloud").unwrap();
        assert_eq!(there.find(OWNER, "cloud").unwrap(), None);
        there.forget(OWNER, "cloud").unwrap();
    }

    #[test]
    fn a_store_that_refuses_is_told_and_nothing_falls_back_to_a_file() {
        let home = tempfile::tempdir().unwrap();
        let broken = InMemory {
            broken: true,
            ..InMemory::default()
        };
        let refused = secrets(home.path(), &broken).keep(OWNER, "cloud", "sk-1", None);
        assert!(matches!(refused, Err(SecretError::Store(KeyStoreError::Locked))));
        let wanted = secrets(home.path(), &Absent).keep(OWNER, "cloud", "sk-1", Some(Keeper::System));
        assert!(matches!(wanted, Err(SecretError::Store(KeyStoreError::None))));
        assert!(!home.path().join("keys/cloud").exists());
        for wrong in ["", "two\nlines", &"k".repeat(SECRET_MAX + 1)] {
            let refused = secrets(home.path(), &Absent).keep(OWNER, "cloud", wrong, None);
            assert!(matches!(refused, Err(SecretError::Form)));
        }
        kept::replace(&home.path().join("keys/cloud"), b"nonsense").unwrap();
        let found = secrets(home.path(), &Absent).find(OWNER, "cloud");
        assert!(matches!(found, Err(SecretError::Damaged(_))));
    }
}
