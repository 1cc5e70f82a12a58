//! What the window keeps between two starts, in a small file of its folder.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The file's name.
const FILE: &str = "window.json";

/// A longer file is none of ours.
const LENGTH_MAX: u64 = 64 << 10;

/// Beside `window.json`, or in the house's folder: where it lies, no update is looked for.
const NO_UPDATES: &str = "no-updates";

/// Where an administrator of the machine says what counts for everybody.
const HOUSE: &str = "/etc/heph";

/// What is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Kept {
    /// The port of last time: pages keep what they know by their address.
    pub(crate) port: Option<u16>,
    /// Whether the program goes on in the tray when its last window is closed.
    pub(crate) stays: bool,
    /// The keys that open the window for a quick question.
    pub(crate) shortcut: String,
    /// Whether updates are looked for.
    pub(crate) updates: bool,
    /// What is lent to other machines.
    pub(crate) lending: Lending,
    /// The language of menus; the system's where none was chosen.
    pub(crate) tongue: Option<String>,
    /// The page's look: a window that opens has its colour before there is a page.
    pub(crate) look: Look,
}

/// Light, dark, or as the system is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Look {
    /// As the system is.
    #[default]
    System,
    /// Light.
    Light,
    /// Dark.
    Dark,
}

/// What this machine gives away at most.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Lending {
    /// Whether it lends.
    pub(crate) on: bool,
    /// Share of the cores.
    pub(crate) cpu_percent: u8,
    /// Bytes of memory, as `heph node --memory` takes them.
    pub(crate) memory: Option<u64>,
    /// Bytes a second on the network.
    pub(crate) bandwidth: Option<u64>,
    /// Whether it rests while the person works.
    pub(crate) rests: bool,
}

impl Default for Kept {
    fn default() -> Self {
        Self {
            port: None,
            stays: false,
            shortcut: "CmdOrCtrl+Shift+Space".to_owned(),
            updates: false,
            lending: Lending::default(),
            tongue: None,
            look: Look::System,
        }
    }
}

impl Default for Lending {
    fn default() -> Self {
        Self {
            on: false,
            cpu_percent: 50,
            memory: None,
            bandwidth: None,
            rests: true,
        }
    }
}

impl Lending {
    /// The arguments of `heph node`.
    pub(crate) fn arguments(&self) -> Vec<String> {
        let mut arguments = vec![format!("--cpu={}%", self.cpu_percent.clamp(1, 100))];
        arguments.extend(self.memory.map(|bytes| format!("--memory={bytes}")));
        arguments.extend(self.bandwidth.map(|bytes| format!("--bandwidth={bytes}")));
        arguments.extend(self.rests.then(|| "--pause-while-i-work".to_owned()));
        arguments
    }
}

impl Kept {
    /// What is kept in `folder`; the usual where there is nothing, or nothing that can be read.
    pub(crate) fn read(folder: &Path) -> Self {
        let text = || {
            let mut text = String::new();
            let mut file = fs::File::open(folder.join(FILE)).ok()?.take(LENGTH_MAX);
            file.read_to_string(&mut text).ok()?;
            Some(text)
        };
        text()
            .and_then(|text| serde_json::from_str(&text).ok())
            .unwrap_or_default()
    }

    /// Keeps it: a reader sees the old file or the new one.
    pub(crate) fn write(&self, folder: &Path) -> io::Result<()> {
        fs::create_dir_all(folder)?;
        let beside = folder.join(format!("{FILE}.new"));
        let mut file = fs::File::create(&beside)?;
        file.write_all(&serde_json::to_vec_pretty(self)?)?;
        file.sync_all()?;
        fs::rename(beside, folder.join(FILE))
    }

    /// Whether updates may be looked for: the person wants it, and no file forbids it.
    pub(crate) fn may_update(&self, folder: &Path) -> bool {
        self.updates && !forbidden(&[folder.to_owned(), PathBuf::from(HOUSE)])
    }
}

fn forbidden(folders: &[PathBuf]) -> bool {
    // What cannot be looked at forbids, too.
    folders.iter().any(|folder| {
        fs::symlink_metadata(folder.join(NO_UPDATES))
            .map_or_else(|e| e.kind() != io::ErrorKind::NotFound, |_| true)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_comes_back_and_what_cannot_be_read_is_the_usual() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Kept::read(folder.path()), Kept::default());
        let kept = Kept {
            port: Some(4711),
            stays: true,
            tongue: Some("de".to_owned()),
            ..Kept::default()
        };
        kept.write(folder.path()).unwrap();
        assert_eq!(Kept::read(folder.path()), kept);
        let whole = fs::read(folder.path().join(FILE)).unwrap();
        for end in 0..whole.len() {
            fs::write(folder.path().join(FILE), &whole[..end]).unwrap();
            assert_eq!(Kept::read(folder.path()), Kept::default(), "{end}");
        }
        fs::write(folder.path().join(FILE), r#"{"stays": true, "later": [1]}"#).unwrap();
        assert!(Kept::read(folder.path()).stays);
    }

    #[test]
    fn nothing_is_lent_and_no_update_looked_for_unasked() {
        let kept = Kept::default();
        assert!(!kept.lending.on && !kept.updates && kept.lending.rests);
        assert_eq!(kept.lending.arguments(), ["--cpu=50%", "--pause-while-i-work"]);
    }

    #[test]
    fn a_file_of_the_house_forbids_updates() {
        let folder = tempfile::tempdir().unwrap();
        let wants = Kept {
            updates: true,
            ..Kept::default()
        };
        assert!(!forbidden(&[folder.path().to_owned()]));
        assert!(!Kept::default().may_update(folder.path()));
        fs::write(folder.path().join(NO_UPDATES), "").unwrap();
        assert!(forbidden(&[folder.path().to_owned()]));
        assert!(!wants.may_update(folder.path()));
    }
}
