//! How the policy stands, and the two things that a person changes of it with a switch: its preset, and whether this machine is
//! cut off.
//!
//! Everything else in `policy.toml` is written by hand: only the line of the preset is ever changed here, and only where
//! the file says the same afterwards in all the rest.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use heph_privacy::policy::{Policy, PolicyError, Preset, VERSION};
use serde::Serialize;

use super::{CUT_FILE, Rules, stamp, text};
use crate::files::{self, Existing, FileError};

/// What every decision says while this machine is cut off.
pub(crate) const CUT: &str = "nothing leaves, since this machine is cut off";

/// Whose word the preset is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum By {
    /// Nobody wrote a policy: what is usual counts, with the leaves that were given elsewhere.
    Usual,
    /// The file of the person.
    File,
    /// Something that cannot be read: nothing leaves.
    Unread,
}

/// How the policy stands now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Standing {
    /// The preset that counts; `local-only` where nothing leaves because something cannot be read.
    pub preset: Preset,
    /// Whose word it is.
    pub by: By,
    /// Rules beside those of the preset, in the file or as short words by role.
    pub rules: usize,
    /// Organisations whose signed rules make it stricter.
    pub organisations: Vec<String>,
    /// Whether this machine is cut off, whatever the preset is.
    pub cut: bool,
    /// Why nothing leaves, in one sentence, where that is not the person's wish.
    pub trouble: Option<String>,
}

/// Whether this machine is to be cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CutOff {
    /// Nothing leaves from now on, also not what is under way.
    Begin,
    /// The policy counts again.
    End,
}

/// Why the preset was not changed. The file is as it was.
#[derive(Debug, thiserror::Error)]
pub enum PresetError {
    /// These rules have no file.
    #[error("these rules are kept in no file")]
    NoFile,
    /// What is there cannot be read.
    #[error("{} cannot be read, and stays as it is: {cause}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What happened.
        #[source]
        cause: io::Error,
    },
    /// What is there is no policy.
    #[error("{} is no policy, and stays as it is: {}", path.display(), cause.to_string().trim_end())]
    Form {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        cause: PolicyError,
    },
    /// Its preset stands where no line can be changed.
    #[error("the preset of {} cannot be changed without changing more; write `preset = \"{wanted}\"` there", path.display())]
    Place {
        /// The file.
        path: PathBuf,
        /// The preset, as files write it.
        wanted: String,
    },
    /// It cannot be written.
    #[error(transparent)]
    Write(#[from] FileError),
}

impl Rules {
    /// How the policy stands now.
    pub fn standing(&self) -> Standing {
        self.now(&[]);
        let read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(read) = read.as_ref() else {
            return Standing {
                preset: Preset::LocalOnly,
                by: By::Unread,
                rules: 0,
                organisations: Vec::new(),
                cut: self.is_cut(),
                trouble: None,
            };
        };
        let (preset, by, rules) = match (read.own, read.by_file, &read.unread) {
            (_, _, Some(_)) => (Preset::LocalOnly, By::Unread, 0),
            (Some((preset, rules)), ..) => (preset, By::File, rules),
            (None, true, None) => (Preset::LocalOnly, By::Unread, 0),
            (None, false, None) => (Preset::OwnDevices, By::Usual, self.shorthand().len()),
        };
        Standing {
            preset,
            by,
            rules,
            organisations: read.organisations.iter().map(|(name, _)| name.clone()).collect(),
            cut: read.cut,
            trouble: read.unread.clone(),
        }
    }

    /// Whether this machine is cut off. What cannot be looked at counts as a cut.
    pub fn is_cut(&self) -> bool {
        self.cut_file().is_some_and(|path| stamp(&path).is_some())
    }

    /// Cuts this machine off, or ends that. It counts for every process of this home folder: from the next thing that is to
    /// leave, and within 20 ms for answers under way. The policy itself stays as it is.
    ///
    /// # Errors
    /// When the mark cannot be made or removed.
    pub fn cut_off(&self, wish: CutOff) -> Result<(), FileError> {
        let Some(path) = self.cut_file() else {
            return Ok(());
        };
        match wish {
            CutOff::Begin if self.is_cut() => Ok(()),
            CutOff::Begin => written(&path, "Nothing leaves this machine while this file is here.\n"),
            CutOff::End => match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    Err(FileError::writing(&path, error))
                }
                _ => Ok(()),
            },
        }
    }

    /// Makes `preset` the preset of the person's policy; the file is made where there is none. Its rules and examples stay.
    ///
    /// # Errors
    /// When there is a file that cannot be read or changed so, or the system refuses; the file is then as it was.
    pub fn set_preset(&self, preset: Preset) -> Result<(), PresetError> {
        let path = self.file().ok_or(PresetError::NoFile)?;
        let before = text(&path).map_err(|cause| PresetError::Read {
            path: path.clone(),
            cause,
        })?;
        let named = |cause| PresetError::Form {
            path: path.clone(),
            cause,
        };
        let word = preset.name();
        let after = match before {
            None => format!("version = {VERSION}\npreset = \"{word}\"\n"),
            Some(before) => {
                let old = Policy::read(&before).map_err(named)?;
                let after = with_preset(&before, word);
                // What was changed is read again, so nobody's rules are ever lost to a line that looked like another.
                let wanted = Policy { preset, ..old };
                if Policy::read(&after).ok().as_ref() != Some(&wanted) {
                    let wanted = word.to_owned();
                    return Err(PresetError::Place { path, wanted });
                }
                after
            }
        };
        written(&path, &after)?;
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(read) = read.as_mut() {
            // Read anew, however coarse the clock of its file system is.
            read.files = Vec::new();
        }
        Ok(())
    }

    /// What cuts this machine off by being there.
    pub fn cut_file(&self) -> Option<PathBuf> {
        self.home.as_ref().map(|home| home.join(CUT_FILE))
    }
}

/// `text` with another preset: the line that names one before the first table, or a line behind the version.
fn with_preset(text: &str, word: &str) -> String {
    let line = format!("preset = \"{word}\"");
    let key = |text: &str| text.split('=').next().unwrap_or_default().trim().to_owned();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let head = lines.iter().position(|line| line.trim_start().starts_with('['));
    let head = head.unwrap_or(lines.len());
    let at = |wanted: &str| lines[..head].iter().position(|line| key(line) == wanted);
    match (at("preset"), at("version")) {
        (Some(at), _) => lines[at] = line,
        (None, Some(at)) => lines.insert(at + 1, line),
        (None, None) => lines.insert(0, line),
    }
    lines.join("\n") + "\n"
}

/// Writes a file of HEPH's folder, which is made where there is none.
fn written(path: &Path, text: &str) -> Result<(), FileError> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(|cause| FileError::writing(path, cause))?;
    }
    files::write(path, text.as_bytes(), Existing::Replaced)
}

#[cfg(test)]
mod tests {
    use heph_privacy::policy::{Kind, Rule, Verdict, When};

    use super::super::POLICY_FILE;
    use super::super::testing::{of_home, says};
    use super::*;

    fn allow(kind: Kind) -> Rule {
        Rule {
            name: "leave".into(),
            when: When {
                to: vec![kind],
                ..When::default()
            },
            then: Verdict::Allow,
        }
    }

    #[test]
    fn while_this_machine_is_cut_off_nothing_leaves_whoever_allowed_it() {
        let home = tempfile::tempdir().unwrap();
        let rules = of_home(home.path(), &[]);
        let provider = [allow(Kind::Provider)];
        let allowed = |rules: &Rules| {
            [Kind::Own, Kind::Provider].map(|kind| says(&rules.now(&provider), kind) == Verdict::Allow)
        };
        assert_eq!(allowed(&rules), [true, true]);
        rules.cut_off(CutOff::Begin).unwrap();
        assert_eq!(
            allowed(&rules),
            [false, false],
            "leaves that were given elsewhere are void"
        );
        assert!(rules.standing().cut && rules.trouble().is_some_and(|why| why.contains("cut off")));
        // Another process of the same home, which was there before, sees it too; and an open policy changes nothing.
        fs::write(home.path().join(POLICY_FILE), "version = 1\npreset = \"open\"\n").unwrap();
        assert_eq!(allowed(&of_home(home.path(), &[])), [false, false]);
        assert_eq!(allowed(&rules), [false, false]);
        rules.cut_off(CutOff::Begin).unwrap();
        rules.cut_off(CutOff::End).unwrap();
        rules.cut_off(CutOff::End).unwrap();
        assert_eq!(allowed(&rules), [true, true]);
        assert!(!rules.standing().cut);
        fs::create_dir(home.path().join(CUT_FILE)).unwrap();
        assert_eq!(allowed(&rules), [false, false], "whatever is there cuts");
        assert!(rules.cut_off(CutOff::End).is_err() && rules.is_cut());
    }

    #[test]
    fn a_preset_is_changed_and_the_rules_of_the_person_stay() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join(POLICY_FILE);
        let rules = of_home(home.path(), &[]);
        let stands = |rules: &Rules| {
            let Standing {
                preset, by, rules, ..
            } = rules.standing();
            (preset, by, rules)
        };
        assert_eq!(stands(&rules), (Preset::OwnDevices, By::Usual, 0));
        rules.set_preset(Preset::LocalOnly).unwrap();
        assert_eq!(stands(&rules), (Preset::LocalOnly, By::File, 0));
        assert_eq!(says(&rules.now(&[allow(Kind::Own)]), Kind::Own), Verdict::Deny);
        let own = "# mine\nversion = 1 # the form\n\n[[rule]]\nname = \"preset = here\"\nwhen = { labels = [\"folder:pay*\"] }\nthen = \"deny\"\n";
        fs::write(&path, own).unwrap();
        rules.set_preset(Preset::Open).unwrap();
        assert_eq!(stands(&rules), (Preset::Open, By::File, 1));
        let text = fs::read_to_string(&path).unwrap();
        assert!(
            text.contains("# mine") && text.contains("preset = here"),
            "{text}"
        );
        rules.set_preset(Preset::OwnDevices).unwrap();
        assert_eq!(
            fs::read_to_string(&path).unwrap().matches("preset = \"").count(),
            1
        );
        assert_eq!(says(&rules.now(&[]), Kind::Provider), Verdict::Deny);
    }

    #[test]
    fn what_cannot_be_read_is_not_written_over() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join(POLICY_FILE);
        let rules = of_home(home.path(), &[]);
        // A policy, but none whose preset is a line.
        let hidden = "preset = \"\"\"\nopen\"\"\"\nversion = 1\n";
        for kept in [
            "version = 2\n",
            "preset = \"opne\"\nversion = 1\n",
            "\u{0}",
            hidden,
        ] {
            fs::write(&path, kept).unwrap();
            assert!(rules.set_preset(Preset::Open).is_err(), "{kept:?}");
            assert_eq!(fs::read_to_string(&path).unwrap(), kept);
            let Standing { by, trouble, .. } = rules.standing();
            let readable = kept == hidden;
            assert_eq!(
                (by == By::File, trouble.is_none()),
                (readable, readable),
                "{kept:?}"
            );
        }
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(rules.set_preset(Preset::Open).is_err());
        let none = Rules::without_files(Vec::new());
        assert!(matches!(none.set_preset(Preset::Open), Err(PresetError::NoFile)));
    }

    #[test]
    fn a_line_is_changed_in_no_text_so_that_more_than_the_preset_is_another() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join(POLICY_FILE);
        let pieces = [
            "version = 1",
            "preset = \"open\"",
            "preset = \"local-only\"",
            "# preset = ",
            "[[rule]]",
            "name = \"a\"",
            "then = \"deny\"",
            "then = \"allow\"",
            "when = {}",
            "preset = \"\"\"",
            "\"\"\"",
            "  preset=\"own-devices\" # so",
            "= \u{0}",
        ];
        let (mut state, mut changed) = (7_u64, 0);
        let mut draw = |below: usize| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below
        };
        for _ in 0..2_000 {
            let lines: Vec<&str> = (0..draw(8)).map(|_| pieces[draw(pieces.len())]).collect();
            let before = format!(
                "{}{}",
                if draw(3) > 0 { "version = 1\n" } else { "" },
                lines.join("\n")
            );
            fs::write(&path, &before).unwrap();
            let set = of_home(home.path(), &[]).set_preset(Preset::RedactThenRemote);
            let after = fs::read_to_string(&path).unwrap();
            match (set, Policy::read(&before)) {
                (Ok(()), Ok(old)) => {
                    let preset = Preset::RedactThenRemote;
                    assert_eq!(
                        Policy::read(&after).unwrap(),
                        Policy { preset, ..old },
                        "{before:?}"
                    );
                    changed += 1;
                }
                (Ok(()), Err(_)) => panic!("{before:?} was no policy"),
                (Err(_), _) => assert_eq!(before, after),
            }
        }
        assert!(changed > 100, "{changed} were policies");
    }
}
