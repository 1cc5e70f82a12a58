//! The token that lets a program of this machine in: made once, in a private file.

use std::io;
use std::path::{Path, PathBuf};

use data_encoding::BASE64URL_NOPAD;

use crate::private;

/// The file's name inside HEPH's home folder.
const FILE: &str = "gateway.token";

/// Bytes of randomness in a token.
const RANDOM_BYTES: usize = 32;

/// A longer file holds no token of ours.
const LENGTH_MAX: usize = 256;

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file can be read or written by others.
    #[error("{} can be read by other users", .0.display())]
    Open(PathBuf),
    /// The file holds no token.
    #[error("{} holds no token", .0.display())]
    Damaged(PathBuf),
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

/// The token of the home folder; made now where there is none.
///
/// # Errors
/// When the file is no token's, is open to others, or cannot be made.
pub fn token(home: &Path) -> Result<String, TokenError> {
    let path = home.join(FILE);
    match private::read(&path, LENGTH_MAX as u64) {
        Ok(text) => read(&path, text.trim()),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => make(&path),
        Err(cause) if cause.kind() == io::ErrorKind::InvalidData => Err(TokenError::Damaged(path)),
        Err(cause) => Err(TokenError::Io {
            step: "read",
            path,
            cause,
        }),
    }
}

fn read(path: &Path, text: &str) -> Result<String, TokenError> {
    if private::is_open(path) {
        return Err(TokenError::Open(path.to_owned()));
    }
    let sound = text.len() >= RANDOM_BYTES && text.bytes().all(|b| b.is_ascii_graphic());
    match sound {
        true => Ok(text.to_owned()),
        false => Err(TokenError::Damaged(path.to_owned())),
    }
}

fn make(path: &Path) -> Result<String, TokenError> {
    let failed = |step| {
        move |cause| TokenError::Io {
            step,
            path: path.to_owned(),
            cause,
        }
    };
    let mut random = [0; RANDOM_BYTES];
    getrandom::fill(&mut random).map_err(|_| TokenError::Random)?;
    let token = BASE64URL_NOPAD.encode(&random);
    private::create(path, &format!("{token}\n")).map_err(failed("make"))?;
    Ok(token)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_token_is_made_once_and_kept() {
        let home = tempfile::tempdir().unwrap();
        let first = token(&home.path().join("new")).unwrap();
        assert!(first.len() >= 43);
        assert_eq!(token(&home.path().join("new")).unwrap(), first);
    }

    #[cfg(unix)]
    #[test]
    fn a_token_that_others_can_read_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let home = tempfile::tempdir().unwrap();
        token(home.path()).unwrap();
        let path = home.path().join(FILE);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(token(home.path()), Err(TokenError::Open(_))));
    }

    #[test]
    fn a_file_without_a_token_is_no_token() {
        let home = tempfile::tempdir().unwrap();
        token(home.path()).unwrap();
        fs::write(home.path().join(FILE), "short\n").unwrap();
        assert!(matches!(token(home.path()), Err(TokenError::Damaged(_))));
    }
}
