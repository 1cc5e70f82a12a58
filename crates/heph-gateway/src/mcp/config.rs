//! The person's servers, as the file `mcp.json` of HEPH's home folder names them: in the form that other programs use, and with
//! what each of their tools may do.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::private;

/// The file's name inside HEPH's home folder.
pub(crate) const FILE: &str = "mcp.json";

/// Bytes of the file.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Servers of one file.
const SERVERS_MAX: usize = 32;

/// Characters of a server's name: it stands before the names of its tools.
const NAME_MAX: usize = 24;

/// How long a server may take where the file does not say.
const DEADLINE_S: u64 = 30;

/// The longest that a file may let it take.
const DEADLINE_S_MAX: u64 = 600;

/// Whether a tool may be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Policy {
    /// Whenever a model wants it.
    Allow,
    /// When the person said yes to this one call.
    #[default]
    Ask,
    /// Never: models do not hear of it.
    Deny,
}

/// One server.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Server {
    /// A program to start.
    #[serde(default)]
    pub(crate) command: Option<String>,
    /// What it is started with.
    #[serde(default)]
    pub(crate) args: Vec<String>,
    /// Settings of its own; of ours it gets the few that programs need.
    #[serde(default)]
    pub(crate) env: BTreeMap<String, String>,
    /// Or an address to speak to.
    #[serde(default)]
    pub(crate) url: Option<String>,
    /// Headers for that address.
    #[serde(default)]
    pub(crate) headers: BTreeMap<String, String>,
    /// What each tool may do.
    #[serde(default)]
    pub(crate) tools: BTreeMap<String, Policy>,
    /// What all other tools may do.
    #[serde(default)]
    pub(crate) others: Policy,
    /// Whether programs that speak with this door may have its prompts: where that is allowed, since nobody is there to be asked.
    #[serde(default)]
    pub(crate) prompts: Policy,
    /// The same of its resources.
    #[serde(default)]
    pub(crate) resources: Policy,
    /// How long it may take to answer.
    #[serde(default)]
    deadline_s: Option<u64>,
}

impl Server {
    pub(crate) fn deadline(&self) -> Duration {
        Duration::from_secs(self.deadline_s.unwrap_or(DEADLINE_S).clamp(1, DEADLINE_S_MAX))
    }

    pub(crate) fn policy(&self, tool: &str) -> Policy {
        self.tools.get(tool).copied().unwrap_or(self.others)
    }
}

/// The file.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
pub(crate) struct Config {
    #[serde(default, rename = "mcpServers")]
    pub(crate) servers: BTreeMap<String, Server>,
}

/// Why the file is of no use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("cannot read {}: {cause}", path.display())]
    Io {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("{} can be written by other users, and names programs that are started", .0.display())]
    Open(PathBuf),
    #[error("{} is no list of servers: {why}", path.display())]
    Form { path: PathBuf, why: String },
    #[error("the server {0:?} needs a name of 1 to {NAME_MAX} letters, digits, - and _")]
    Name(String),
    #[error("the server {0:?} needs a command or an url, one of the two")]
    Way(String),
    #[error("{SERVERS_MAX} servers are the most")]
    TooMany,
}

impl Config {
    /// The servers of the home folder; none where there is no file.
    pub(crate) fn read(home: &Path) -> Result<Self, ConfigError> {
        let path = home.join(FILE);
        let text = match private::read(&path, FILE_BYTES_MAX) {
            Ok(text) => text,
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(cause) => return Err(ConfigError::Io { path, cause }),
        };
        if private::is_writable(&path) {
            return Err(ConfigError::Open(path));
        }
        let form = |why: serde_json::Error| ConfigError::Form {
            path: path.clone(),
            why: why.to_string(),
        };
        let config: Self = serde_json::from_str(&text).map_err(form)?;
        if config.servers.len() > SERVERS_MAX {
            return Err(ConfigError::TooMany);
        }
        for (name, server) in &config.servers {
            let of_name = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
            if !(1..=NAME_MAX).contains(&name.len()) || !name.bytes().all(of_name) {
                return Err(ConfigError::Name(name.clone()));
            }
            let url = server
                .url
                .as_deref()
                .map(|url| url.starts_with("http://") || url.starts_with("https://"));
            match (&server.command, url) {
                (Some(_), None) | (None, Some(true)) => {}
                (Some(_), Some(_)) | (None, None | Some(false)) => {
                    return Err(ConfigError::Way(name.clone()));
                }
            }
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn read(text: &str) -> Result<Config, ConfigError> {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join(FILE), text).unwrap();
        Config::read(home.path())
    }

    #[test]
    fn the_form_that_others_use_is_read() {
        let config = read(
            r#"{"mcpServers": {"files": {"command": "server", "args": ["--root", "/"], "tools": {"read": "allow", "rm": "deny"}},
                "far": {"url": "https://tools.example/mcp", "headers": {"authorization": "Bearer x"}, "deadline_s": 90000}}}"#,
        );
        let config = config.unwrap();
        let files = &config.servers["files"];
        assert_eq!(files.policy("read"), Policy::Allow);
        assert_eq!(files.policy("rm"), Policy::Deny);
        assert_eq!(
            files.policy("anything else"),
            Policy::Ask,
            "what is not named is asked for"
        );
        assert_eq!(files.deadline(), Duration::from_secs(DEADLINE_S));
        assert_eq!(
            config.servers["far"].deadline(),
            Duration::from_secs(DEADLINE_S_MAX)
        );
        assert_eq!(Config::read(Path::new("/nowhere")).unwrap(), Config::default());
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for text in [
            "{",
            r#"{"mcpServers": []}"#,
            r#"{"mcpServers": {"a b": {"command": "x"}}}"#,
            r#"{"mcpServers": {"": {"command": "x"}}}"#,
            r#"{"mcpServers": {"a": {}}}"#,
            r#"{"mcpServers": {"a": {"command": "x", "url": "http://x"}}}"#,
            r#"{"mcpServers": {"a": {"url": "file:///etc"}}}"#,
            r#"{"mcpServers": {"a": {"command": "x", "tools": {"t": "maybe"}}}}"#,
        ] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_others_can_write_starts_nothing() {
        use std::os::unix::fs::PermissionsExt;
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join(FILE);
        fs::write(&path, "{}").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o664)).unwrap();
        assert!(matches!(Config::read(home.path()), Err(ConfigError::Open(_))));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(Config::read(home.path()).is_ok());
    }
}
