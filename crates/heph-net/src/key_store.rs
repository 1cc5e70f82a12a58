//! Where the operating system keeps secrets: the keychain of macOS, the credential store of Windows, and with the feature
//! `secret-service` the Secret Service of desktop Linux.
//!
//! A store may ask its owner, be locked, or not answer at all: every call has a deadline, and none is made unless an
//! identity was moved there. Who decides that is the caller.

use std::sync::mpsc;
use std::time::Duration;

use heph_types::NodeId;

/// How long a store may take: a person may have to say yes to it.
const ANSWER_DEADLINE: Duration = Duration::from_secs(20);

/// A keeper of small secrets, one for each node.
pub trait KeyStore: Send + Sync {
    /// Keeps `secret`, in place of what it kept for `node`.
    ///
    /// # Errors
    /// When the store refuses, or does not answer.
    fn put(&self, node: NodeId, secret: &str) -> Result<(), KeyStoreError>;

    /// What it keeps for `node`.
    ///
    /// # Errors
    /// When it keeps nothing, refuses, or does not answer.
    fn get(&self, node: NodeId) -> Result<String, KeyStoreError>;

    /// Forgets what it keeps for `node`.
    ///
    /// # Errors
    /// When the store refuses, or does not answer.
    fn remove(&self, node: NodeId) -> Result<(), KeyStoreError>;
}

/// Why a store keeps or gives nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyStoreError {
    /// There is none on this system, or this program was built without it.
    #[error("this system has no key store that this program knows")]
    None,
    /// It did not answer.
    #[error("the system's key store did not answer within {ANSWER_DEADLINE:?}; unlock it and try again")]
    NoAnswer,
    /// It refused.
    #[error("the system's key store refuses: {0}")]
    Refused(String),
}

/// The store of this system.
#[derive(Debug, Clone, Copy)]
pub struct SystemStore;

impl KeyStore for SystemStore {
    fn put(&self, node: NodeId, secret: &str) -> Result<(), KeyStoreError> {
        let secret = secret.to_owned();
        in_time(move || system::put(&node.to_string(), &secret))
    }

    fn get(&self, node: NodeId) -> Result<String, KeyStoreError> {
        in_time(move || system::get(&node.to_string()))
    }

    fn remove(&self, node: NodeId) -> Result<(), KeyStoreError> {
        in_time(move || system::remove(&node.to_string()))
    }
}

/// Asks on a thread of its own. One that never comes back is left behind: there is one for each question of a person.
fn in_time<T: Send + 'static>(
    ask: impl FnOnce() -> Result<T, KeyStoreError> + Send + 'static,
) -> Result<T, KeyStoreError> {
    let (told, answer) = mpsc::channel();
    let asking = std::thread::Builder::new()
        .name("heph-key-store".to_owned())
        .spawn(move || {
            // Whoever asked may have stopped waiting.
            let _ = told.send(ask());
        });
    asking.map_err(|cause| KeyStoreError::Refused(cause.to_string()))?;
    answer
        .recv_timeout(ANSWER_DEADLINE)
        .unwrap_or(Err(KeyStoreError::NoAnswer))
}

#[cfg(any(
    target_os = "macos",
    windows,
    all(target_os = "linux", feature = "secret-service")
))]
mod system {
    use std::sync::Arc;

    use keyring_core::{CredentialStore, Entry, Error};

    use super::KeyStoreError;

    /// What the entries are filed under.
    const SERVICE: &str = "heph identity";

    pub(super) fn put(user: &str, secret: &str) -> Result<(), KeyStoreError> {
        entry(user)?.set_secret(secret.as_bytes()).map_err(refused)
    }

    pub(super) fn get(user: &str) -> Result<String, KeyStoreError> {
        let secret = entry(user)?.get_secret().map_err(refused)?;
        String::from_utf8(secret).map_err(|_| KeyStoreError::Refused("what it keeps is not ours".to_owned()))
    }

    pub(super) fn remove(user: &str) -> Result<(), KeyStoreError> {
        entry(user)?.delete_credential().map_err(refused)
    }

    fn entry(user: &str) -> Result<Entry, KeyStoreError> {
        Entry::new_in_store(&store().map_err(refused)?, SERVICE, user).map_err(refused)
    }

    #[cfg(target_os = "macos")]
    fn store() -> Result<Arc<CredentialStore>, Error> {
        Ok(apple_native_keyring_store::keychain::Store::new()?)
    }

    #[cfg(windows)]
    fn store() -> Result<Arc<CredentialStore>, Error> {
        Ok(windows_native_keyring_store::Store::new()?)
    }

    #[cfg(target_os = "linux")]
    fn store() -> Result<Arc<CredentialStore>, Error> {
        Ok(zbus_secret_service_keyring_store::Store::new()?)
    }

    fn refused(cause: Error) -> KeyStoreError {
        KeyStoreError::Refused(cause.to_string())
    }
}

#[cfg(not(any(
    target_os = "macos",
    windows,
    all(target_os = "linux", feature = "secret-service")
)))]
mod system {
    use super::KeyStoreError;

    pub(super) fn put(_: &str, _: &str) -> Result<(), KeyStoreError> {
        Err(KeyStoreError::None)
    }

    pub(super) fn get(_: &str) -> Result<String, KeyStoreError> {
        Err(KeyStoreError::None)
    }

    pub(super) fn remove(_: &str) -> Result<(), KeyStoreError> {
        Err(KeyStoreError::None)
    }
}
