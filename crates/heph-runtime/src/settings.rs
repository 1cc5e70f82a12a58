//! The settings, read once when a program starts. Below the runtime, functions take the values they need.
//!
//! | variable        | meaning                                                | otherwise                       |
//! |-----------------|--------------------------------------------------------|---------------------------------|
//! | `HEPH_HOME`     | folder for models and chat history                     | the system's place for app data |
//! | `HEPH_MODELS`   | folder for models alone                                | `models` inside `HEPH_HOME`     |
//! | `HEPH_THREADS`  | threads for computing, 1 to 1024                       | one per physical core           |
//! | `HEPH_HUB`      | where `models pull` asks, `https://…` or `http://…`    | `https://huggingface.co`        |
//! | `HF_TOKEN`      | access token sent to that place, and to no other       | none                            |
//! | `HEPH_ALLOW`    | short rules for machines of a role, `cloud=text,edge=activations`: see [`crate::rules`] | own machines text, others nothing |
//! | `HEPH_KEYS`     | `system` keeps this machine's identity in the system's key store, `file` in a private file; one that is elsewhere moves | where it is; at first the store, if one is open |

use std::ffi::OsString;
use std::path::PathBuf;

use heph_types::{Leaves, Role};

use crate::hardware;

/// The public hub that `models pull` asks when `HEPH_HUB` names no other.
pub const PUBLIC_HUB: &str = "https://huggingface.co";

/// More threads than any machine we know has cores; a larger number is a typing mistake.
pub const THREADS_MAX: usize = 1024;

/// Everything the environment decides, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Folder for everything HEPH keeps between runs.
    pub home: PathBuf,
    /// Folder of the model store.
    pub models: PathBuf,
    /// Threads to compute with.
    pub threads: usize,
    /// Address of the model hub, without a slash at its end.
    pub hub: String,
    /// Access token for the hub.
    pub hub_token: Option<String>,
    /// Short rules for machines of a role. Where a policy stands in a file, they may only tighten it.
    pub allow: Vec<Allowance>,
    /// Where this machine's identity is to be kept; `None` leaves it where it is.
    pub keys: Option<Keys>,
}

/// What machines of one role may see of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    /// The role.
    pub role: Role,
    /// The most that leaves for it.
    pub leaves: Leaves,
}

/// As it is written.
impl std::fmt::Display for Allowance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let leaves = match self.leaves {
            Leaves::Nothing => "nothing",
            Leaves::Embeddings => "embeddings",
            Leaves::Activations => "activations",
            Leaves::Text => "text",
        };
        write!(f, "{}={leaves}", self.role.name())
    }
}

impl std::str::FromStr for Allowance {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("{text:?} is no permission; write ROLE=nothing, ROLE=activations or ROLE=text");
        let (role, leaves) = text.split_once('=').ok_or_else(wrong)?;
        Ok(Self {
            role: role
                .trim()
                .parse()
                .map_err(|e: heph_types::UnknownRole| e.to_string())?,
            leaves: match leaves.trim() {
                "nothing" => Leaves::Nothing,
                "embeddings" => Leaves::Embeddings,
                "activations" => Leaves::Activations,
                "text" => Leaves::Text,
                _ => return Err(wrong()),
            },
        })
    }
}

/// Why the settings could not be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// No variable names a place for app data.
    #[error("no home folder is known for this user")]
    NoHome,
    /// `HEPH_THREADS` is not a count of threads.
    #[error("HEPH_THREADS is {0:?}, not a number from 1 to {THREADS_MAX}")]
    Threads(String),
    /// `HEPH_KEYS` names no place for the identity.
    #[error("HEPH_KEYS is {0:?}, neither system nor file")]
    Keys(String),
    /// `HEPH_HUB` is not a web address.
    #[error("HEPH_HUB is {0:?}, not an address that starts with https:// or http://")]
    Hub(String),
    /// `HF_TOKEN` cannot stand in a question to the hub. The token itself is not told.
    #[error("HF_TOKEN holds a line break or another character that no access token has")]
    Token,
    /// `HEPH_ALLOW` is not a list of permissions.
    #[error("HEPH_ALLOW cannot be read, so nothing may leave: {0}")]
    Allow(String),
}

impl SettingsError {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NoHome => "set HEPH_HOME to a folder that HEPH may write to",
            Self::Keys(_) => "unset HEPH_KEYS to leave this machine's identity where it is",
            Self::Threads(_) => "unset HEPH_THREADS to use one thread per core",
            Self::Hub(_) => "unset HEPH_HUB to use the public hub",
            Self::Token => "copy the token again, or unset HF_TOKEN",
            Self::Allow(_) => "write it as cloud=text,miner=activations, or unset it",
        }
    }
}

impl Settings {
    /// The settings of this process, from its environment.
    ///
    /// # Errors
    /// When a variable has a value that means nothing, or no home folder is known.
    pub fn read() -> Result<Self, SettingsError> {
        Self::from_variables(|name| std::env::var_os(name).filter(|v| !v.is_empty()))
    }

    fn from_variables(variable: impl Fn(&str) -> Option<OsString>) -> Result<Self, SettingsError> {
        let text = |name| variable(name).map(|v| v.to_string_lossy().into_owned());
        let home = match variable("HEPH_HOME") {
            Some(folder) => PathBuf::from(folder),
            None => app_data(&variable).ok_or(SettingsError::NoHome)?,
        };
        Ok(Self {
            models: variable("HEPH_MODELS").map_or_else(|| home.join("models"), PathBuf::from),
            threads: text("HEPH_THREADS").map_or_else(|| Ok(hardware::cores()), threads)?,
            hub: text("HEPH_HUB").map_or_else(|| Ok(PUBLIC_HUB.to_owned()), hub)?,
            hub_token: text("HF_TOKEN").map(token).transpose()?.flatten(),
            allow: text("HEPH_ALLOW").map_or_else(|| Ok(Vec::new()), |list| allow(&list))?,
            keys: text("HEPH_KEYS").map(keys).transpose()?,
            home,
        })
    }
}

/// Where a person wants this machine's identity to be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keys {
    /// In the key store of the operating system.
    System,
    /// In a private file.
    File,
}

fn keys(word: String) -> Result<Keys, SettingsError> {
    match word.as_str() {
        "system" => Ok(Keys::System),
        "file" => Ok(Keys::File),
        _ => Err(SettingsError::Keys(word)),
    }
}

/// The system's place for the data of programs.
fn app_data(variable: &impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let below = |name, rest: &str| variable(name).map(|folder| PathBuf::from(folder).join(rest));
    if cfg!(windows) {
        below("LOCALAPPDATA", "heph")
    } else if cfg!(target_os = "macos") {
        below("HOME", "Library/Application Support/heph")
    } else {
        below("XDG_DATA_HOME", "heph").or_else(|| below("HOME", ".local/share/heph"))
    }
}

fn threads(text: String) -> Result<usize, SettingsError> {
    let count = text.trim().parse().ok().filter(|n| (1..=THREADS_MAX).contains(n));
    count.ok_or(SettingsError::Threads(text))
}

fn allow(list: &str) -> Result<Vec<Allowance>, SettingsError> {
    let parts = list.split(',').map(str::trim).filter(|part| !part.is_empty());
    parts
        .map(|part| part.parse().map_err(SettingsError::Allow))
        .collect()
}

/// The token as a header can carry it; blanks around it belong to the file that it was copied from.
fn token(text: String) -> Result<Option<String>, SettingsError> {
    let token = text.trim();
    match token.bytes().all(|b| b.is_ascii_graphic()) {
        true => Ok(Some(token.to_owned()).filter(|token| !token.is_empty())),
        false => Err(SettingsError::Token),
    }
}

fn hub(text: String) -> Result<String, SettingsError> {
    let is_address = text.starts_with("https://") || text.starts_with("http://");
    if is_address {
        Ok(text.trim_end_matches('/').to_owned())
    } else {
        Err(SettingsError::Hub(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Settings, SettingsError> {
        Settings::from_variables(|name| {
            variables
                .iter()
                .find(|(n, _)| *n == name)
                .map(|(_, value)| OsString::from(value))
        })
    }

    #[test]
    fn models_stand_inside_the_home_folder() {
        let settings = read(&[("HEPH_HOME", "/data/heph")]).unwrap();
        assert_eq!(settings.models, PathBuf::from("/data/heph/models"));
        assert_eq!(settings.hub, PUBLIC_HUB);
        assert!(settings.threads >= 1);
    }

    #[test]
    fn each_variable_is_heard() {
        let settings = read(&[
            ("HEPH_HOME", "/data"),
            ("HEPH_MODELS", "/big"),
            ("HEPH_THREADS", "3"),
            ("HEPH_HUB", "http://127.0.0.1:9/"),
            ("HF_TOKEN", "t"),
            ("HEPH_ALLOW", "cloud=text, edge=activations"),
            ("HEPH_KEYS", "system"),
        ])
        .unwrap();
        let hub_token = Some("t".to_owned());
        let (home, models) = (PathBuf::from("/data"), PathBuf::from("/big"));
        let wanted = Settings {
            home,
            models,
            threads: 3,
            hub: "http://127.0.0.1:9".to_owned(),
            hub_token,
            allow: vec![
                Allowance {
                    role: Role::Cloud,
                    leaves: Leaves::Text,
                },
                Allowance {
                    role: Role::Edge,
                    leaves: Leaves::Activations,
                },
            ],
            keys: Some(Keys::System),
        };
        assert_eq!(settings, wanted);
    }

    #[test]
    fn a_value_without_meaning_is_an_error() {
        for count in ["0", "-1", "many", "1025"] {
            let error = read(&[("HEPH_HOME", "/d"), ("HEPH_THREADS", count)]).unwrap_err();
            assert_eq!(error, SettingsError::Threads(count.to_owned()));
        }
        let error = read(&[("HEPH_HOME", "/d"), ("HEPH_HUB", "ftp://x")]).unwrap_err();
        assert_eq!(error, SettingsError::Hub("ftp://x".to_owned()));
    }

    #[test]
    fn a_token_that_no_header_carries_is_an_error_that_does_not_tell_it() {
        let token = |token| read(&[("HEPH_HOME", "/d"), ("HF_TOKEN", token)]);
        assert_eq!(token("hf_abc\n").unwrap().hub_token.as_deref(), Some("hf_abc"));
        assert_eq!(token(" \n").unwrap().hub_token, None);
        for wrong in ["hf_abc\nx", "hf abc", "hf_\u{7f}", "hf_é"] {
            let error = token(wrong).unwrap_err();
            assert_eq!(error, SettingsError::Token);
            assert!(!error.to_string().contains("hf_"));
        }
    }

    #[test]
    fn a_permission_without_meaning_is_an_error() {
        for wrong in ["miner", "friend=text", "miner=all", "=text"] {
            let error = read(&[("HEPH_HOME", "/d"), ("HEPH_ALLOW", wrong)]).unwrap_err();
            assert!(matches!(error, SettingsError::Allow(_)), "{wrong}");
        }
    }

    #[test]
    fn without_any_home_the_error_says_so() {
        assert_eq!(read(&[]).unwrap_err(), SettingsError::NoHome);
    }
}
