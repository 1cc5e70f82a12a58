//! Where the operating system keeps secrets: the keychain of macOS, the credential store of Windows, and on Linux the Secret
//! Service of the person's session, where there is one.
//!
//! A store may ask its owner, be locked, or not answer at all: every call has a deadline. Who decides what is kept there
//! is the caller.

use std::sync::mpsc;
use std::time::Duration;

use heph_types::NodeId;

/// How long a store may take to keep or give something: a person may have to say yes to it.
const ANSWER_DEADLINE: Duration = Duration::from_secs(20);

/// How long it may take to say whether it is open: nobody is asked for that.
const READY_DEADLINE: Duration = Duration::from_secs(3);

/// A keeper of small secrets, one for each node.
pub trait KeyStore: Send + Sync {
    /// Whether it keeps and gives secrets now, without asking its owner first, as far as can be told.
    ///
    /// # Errors
    /// When there is none, or it is locked, or does not answer.
    fn ready(&self) -> Result<(), KeyStoreError>;

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
    /// There is none on this system, or none in this session.
    #[error("no key store of this system is to be found from here")]
    None,
    /// Its owner has to open it.
    #[error("the system's key store is locked; unlock it and try again")]
    Locked,
    /// It did not answer.
    #[error("the system's key store did not answer within {0:?}; unlock it and try again")]
    NoAnswer(Duration),
    /// It refused.
    #[error("the system's key store refuses: {0}")]
    Refused(String),
}

/// The store of this system.
#[derive(Debug, Clone, Copy)]
pub struct SystemStore;

impl KeyStore for SystemStore {
    fn ready(&self) -> Result<(), KeyStoreError> {
        in_time(READY_DEADLINE, system::ready)
    }

    fn put(&self, node: NodeId, secret: &str) -> Result<(), KeyStoreError> {
        let secret = secret.to_owned();
        in_time(ANSWER_DEADLINE, move || system::put(&node.to_string(), &secret))
    }

    fn get(&self, node: NodeId) -> Result<String, KeyStoreError> {
        in_time(ANSWER_DEADLINE, move || system::get(&node.to_string()))
    }

    fn remove(&self, node: NodeId) -> Result<(), KeyStoreError> {
        in_time(ANSWER_DEADLINE, move || system::remove(&node.to_string()))
    }
}

/// Asks on a thread of its own. One that never comes back is left behind: there is one for each question of a person.
fn in_time<T: Send + 'static>(
    deadline: Duration,
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
    let late = Err(KeyStoreError::NoAnswer(deadline));
    answer.recv_timeout(deadline).unwrap_or(late)
}

/// What the entries are filed under.
#[cfg(any(target_os = "macos", windows, target_os = "linux"))]
const SERVICE: &str = "heph identity";

#[cfg(any(target_os = "macos", windows))]
mod system {
    use std::sync::Arc;

    use keyring_core::{CredentialStore, Entry, Error};

    use super::{KeyStoreError, SERVICE};

    /// These stores are open while their owner is logged in.
    pub(super) fn ready() -> Result<(), KeyStoreError> {
        store().map(drop).map_err(refused)
    }

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

    fn refused(cause: Error) -> KeyStoreError {
        match cause {
            Error::NoStorageAccess(_) => KeyStoreError::Locked,
            cause => KeyStoreError::Refused(cause.to_string()),
        }
    }
}

#[cfg(target_os = "linux")]
mod system {
    use std::collections::HashMap;
    use std::path::Path;

    use secret_service::blocking::SecretService;
    use secret_service::{EncryptionType, Error};

    use super::{KeyStoreError, SERVICE};

    /// What no bus has to offer where no Secret Service is installed.
    const NOBODY: &str = "org.freedesktop.DBus.Error.ServiceUnknown";

    pub(super) fn ready() -> Result<(), KeyStoreError> {
        let service = service()?;
        let collection = service.get_default_collection().map_err(refused)?;
        match collection.is_locked().map_err(refused)? {
            true => Err(KeyStoreError::Locked),
            false => Ok(()),
        }
    }

    pub(super) fn put(user: &str, secret: &str) -> Result<(), KeyStoreError> {
        let service = service()?;
        let collection = service.get_default_collection().map_err(refused)?;
        if collection.is_locked().map_err(refused)? {
            collection.unlock().map_err(refused)?;
        }
        let label = format!("HEPH, node {}", user.get(..8).unwrap_or(user));
        let replace = true;
        collection
            .create_item(&label, filed(user), secret.as_bytes(), replace, "text/plain")
            .map(drop)
            .map_err(refused)
    }

    pub(super) fn get(user: &str) -> Result<String, KeyStoreError> {
        let service = service()?;
        let found = service.search_items(filed(user)).map_err(refused)?;
        let secret = match (found.unlocked.first(), found.locked.first()) {
            (Some(item), _) => item.get_secret(),
            (None, Some(item)) => item.unlock().and_then(|()| item.get_secret()),
            (None, None) => Err(Error::NoResult),
        };
        String::from_utf8(secret.map_err(refused)?)
            .map_err(|_| KeyStoreError::Refused("what it keeps is not ours".to_owned()))
    }

    pub(super) fn remove(user: &str) -> Result<(), KeyStoreError> {
        let service = service()?;
        let found = service.search_items(filed(user)).map_err(refused)?;
        let mut items = found.unlocked.iter().chain(&found.locked);
        items.try_for_each(|item| item.delete()).map_err(refused)
    }

    fn filed(user: &str) -> HashMap<&str, &str> {
        HashMap::from([("service", SERVICE), ("username", user)])
    }

    fn service() -> Result<SecretService<'static>, KeyStoreError> {
        if !has_bus() {
            return Err(KeyStoreError::None);
        }
        SecretService::connect(EncryptionType::Dh).map_err(refused)
    }

    /// Whether this process belongs to a person's session. One without goes by no guess from the user's number: a program
    /// that was started with nothing in its environment asks nobody.
    fn has_bus() -> bool {
        let named = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let at = |folder| Path::new(&folder).join("bus").exists();
        named("DBUS_SESSION_BUS_ADDRESS").is_some() || named("XDG_RUNTIME_DIR").is_some_and(at)
    }

    fn refused(cause: Error) -> KeyStoreError {
        match cause {
            Error::Unavailable => KeyStoreError::None,
            Error::Zbus(zbus::Error::MethodError(name, ..)) if name.as_str() == NOBODY => KeyStoreError::None,
            Error::Zbus(zbus::Error::FDO(cause)) if matches!(*cause, zbus::fdo::Error::ServiceUnknown(_)) => {
                KeyStoreError::None
            }
            Error::Locked | Error::Prompt => KeyStoreError::Locked,
            Error::NoResult => KeyStoreError::Refused("it keeps nothing of this machine".to_owned()),
            cause => KeyStoreError::Refused(cause.to_string()),
        }
    }
}

#[cfg(not(any(target_os = "macos", windows, target_os = "linux")))]
mod system {
    use super::KeyStoreError;

    pub(super) fn ready() -> Result<(), KeyStoreError> {
        Err(KeyStoreError::None)
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_hangs_is_not_waited_for() {
        let began = std::time::Instant::now();
        let deadline = Duration::from_millis(30);
        let hangs = || {
            std::thread::sleep(Duration::from_secs(120));
            Ok(())
        };
        assert_eq!(in_time(deadline, hangs), Err(KeyStoreError::NoAnswer(deadline)));
        assert!(began.elapsed() < Duration::from_secs(60));
        assert_eq!(in_time(Duration::from_secs(60), || Ok(7)), Ok(7));
    }
}
