//! The settings, read once when a program starts. Below the runtime, functions take the values they need.
//!
//! | variable        | meaning                                                | otherwise                       |
//! |-----------------|--------------------------------------------------------|---------------------------------|
//! | `HEPH_HOME`     | folder for models and chat history                     | the system's place for app data |
//! | `HEPH_MODELS`   | folder for models alone                                | `models` inside `HEPH_HOME`     |
//! | `HEPH_THREADS`  | threads for computing, 1 to 1024                       | one per physical core           |
//! | `HEPH_HUB`      | where `models pull` asks, `https://…` or `http://…`    | `https://huggingface.co`        |
//! | `HF_TOKEN`      | access token sent to that place, and to no other       | none                            |
//! | `HEPH_ALLOW`    | what machines of a role may see, `cloud=text,edge=activations` | own machines text, others nothing |
//! | `HEPH_KEYS`     | `system` moves this machine's identity to the system's key store, `file` back to its file | where it is |

use std::ffi::OsString;
use std::path::PathBuf;

use heph_types::{Leaves, Policy, Role};

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
    /// What machines of a role may see, where that is not the usual.
    pub allow: Vec<Allowance>,
}

/// What machines of one role may see of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    /// The role.
    pub role: Role,
    /// The most that leaves for it.
    pub leaves: Leaves,
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

/// What may leave: the person's own machines may see text and others nothing, unless one of these says otherwise; the
/// later word on a role counts. Only exact answers.
pub fn policy(allowances: impl IntoIterator<Item = Allowance>) -> Policy {
    let mut may_see = vec![(Role::Own, Leaves::Text)];
    for Allowance { role, leaves } in allowances {
        may_see.retain(|(of, _)| *of != role);
        may_see.push((role, leaves));
    }
    Policy {
        may_see,
        exact_only: true,
        ..Policy::closed()
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
        if let Some(word) = text("HEPH_KEYS").filter(|word| keys_named(word).is_none()) {
            return Err(SettingsError::Keys(word));
        }
        Ok(Self {
            models: variable("HEPH_MODELS").map_or_else(|| home.join("models"), PathBuf::from),
            threads: text("HEPH_THREADS").map_or_else(|| Ok(hardware::cores()), threads)?,
            hub: text("HEPH_HUB").map_or_else(|| Ok(PUBLIC_HUB.to_owned()), hub)?,
            hub_token: text("HF_TOKEN"),
            allow: text("HEPH_ALLOW").map_or_else(|| Ok(Vec::new()), |list| allow(&list))?,
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

/// What `HEPH_KEYS` says; `None` leaves the identity where it is. Asked by the network alone, when it starts.
pub fn keys() -> Option<Keys> {
    keys_named(&std::env::var("HEPH_KEYS").ok()?)
}

fn keys_named(word: &str) -> Option<Keys> {
    match word {
        "system" => Some(Keys::System),
        "file" => Some(Keys::File),
        _ => None,
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
    fn own_machines_see_text_and_others_nothing_unless_it_is_said() {
        let node = heph_types::NodeId([1; 32]);
        let usual = policy([]);
        assert_eq!(usual.seen_by(node, Role::Own), Leaves::Text);
        for stranger in [Role::Cloud, Role::Miner, Role::Edge] {
            assert_eq!(usual.seen_by(node, stranger), Leaves::Nothing);
        }
        let said = |list| policy(allow(list).unwrap());
        let changed = said("miner=text,miner=activations,own=nothing");
        assert_eq!(changed.seen_by(node, Role::Miner), Leaves::Activations);
        assert_eq!(changed.seen_by(node, Role::Own), Leaves::Nothing);
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
