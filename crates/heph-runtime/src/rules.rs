//! The policy of this machine, as it stands now: the file of the person, the overlays over it, and what counts where there is
//! no file.
//!
//! | file                                   | what it is                                                        |
//! |----------------------------------------|-------------------------------------------------------------------|
//! | `policy.toml` in HEPH's folder         | the person's rules                                                |
//! | `overlay.keys`, there or in the house's | keys of organisations, one a line in hexadecimal                  |
//! | `overlay.toml` beside the keys         | their signed rules; where there are keys it must be there and fit |
//! | `cut-off` in HEPH's folder             | while it is there nothing leaves, whatever the others say         |
//!
//! Files are looked at whenever something is to leave, and read again when they changed. What cannot be read lets nothing
//! leave, and so does a policy that was there when this program began and is gone.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use heph_privacy::policy::{
    BYTES_MAX, Kind, Overlay, Policies, Policy, PolicyError, Preset, Rule, Verdict, When,
};
use heph_types::{Leaves, Role};

use crate::discretion::found::Found;
use crate::network::seconds_since_1970;
use crate::settings::{Allowance, Settings};

mod said;
mod standing;

pub(crate) use standing::CUT;
pub use standing::{By, CutOff, PresetError, Standing};

/// The file of the person, in HEPH's folder.
pub const POLICY_FILE: &str = "policy.toml";

/// Signed rules of an organisation, and the keys that may sign them.
const OVERLAY_FILE: &str = "overlay.toml";
const OVERLAY_KEYS_FILE: &str = "overlay.keys";

/// Whatever lies under this name in HEPH's folder cuts this machine off.
const CUT_FILE: &str = "cut-off";

/// An organisation has a few keys.
const OVERLAY_KEYS_MAX: usize = 64;

/// The rules of this machine.
#[derive(Debug)]
pub struct Rules {
    home: Option<PathBuf>,
    /// Where an organisation keeps its files, where only the owner of the machine may write.
    house: Option<PathBuf>,
    allow: Vec<Allowance>,
    read: Mutex<Option<Read>>,
    /// What was found in texts that these rules were asked about.
    found: Found,
}

/// What was read, and of which files.
#[derive(Debug)]
pub(crate) struct Read {
    files: Vec<Stamp>,
    /// When an overlay is no longer valid, in seconds since 1970.
    until: u64,
    /// Whether there is a file of the person, or was one.
    by_file: bool,
    /// Whether this machine is cut off.
    cut: bool,
    /// What stands in the file of the person, where it can be read.
    own: Option<(Preset, usize)>,
    /// Whose overlays count, and the files that they stand in.
    organisations: Vec<(String, PathBuf)>,
    /// Why nothing leaves, where something cannot be read.
    unread: Option<String>,
    policies: Arc<Policies>,
}

impl Read {
    /// What the rules said.
    pub(crate) fn policies(&self) -> &Policies {
        &self.policies
    }

    /// Whether there is a file of the person, or was one.
    pub(crate) fn is_by_file(&self) -> bool {
        self.by_file
    }

    /// Whether an overlay is not valid any more.
    pub(crate) fn is_over(&self) -> bool {
        seconds_since_1970() >= self.until
    }
}

/// A file as it was: when it was changed last, and its length; `None` where there is none.
pub(crate) type Stamp = Option<(Option<SystemTime>, u64)>;

impl Rules {
    /// The rules below `settings.home`; where there is no file, own machines see everything, and `HEPH_ALLOW` and `also`
    /// may say otherwise. Where there is one, they may only tighten it.
    pub fn new(settings: &Settings, also: &[Allowance]) -> Arc<Rules> {
        Arc::new(Rules {
            home: Some(settings.home.clone()),
            house: house(),
            allow: settings.allow.iter().chain(also).copied().collect(),
            read: Mutex::default(),
            found: Found::default(),
        })
    }

    /// The rules below `home`, without short ones.
    pub fn below(home: &Path) -> Arc<Rules> {
        Rules::of(home, &[])
    }

    /// The rules below `home`, with these short ones.
    pub(crate) fn of(home: &Path, allow: &[Allowance]) -> Arc<Rules> {
        Arc::new(Rules {
            home: Some(home.to_owned()),
            house: house(),
            allow: allow.to_vec(),
            read: Mutex::default(),
            found: Found::default(),
        })
    }

    /// Rules that no file has a say in, for measurements and tests: own machines see everything, others what `allow` says.
    pub fn without_files(allow: Vec<Allowance>) -> Arc<Rules> {
        Arc::new(Rules {
            home: None,
            house: None,
            allow,
            read: Mutex::default(),
            found: Found::default(),
        })
    }

    /// What the rules say now. `usual` are rules of the person that stand elsewhere, as the leave for a provider; they
    /// count where there is no file.
    pub fn now(&self, usual: &[Rule]) -> Arc<Policies> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let (files, now) = (self.stamps(), seconds_since_1970());
        let fresh = |read: &Read| read.files == files && now < read.until;
        if !read.as_ref().is_some_and(fresh) {
            let was_there = read.as_ref().is_some_and(|read| read.by_file);
            *read = Some(self.read(files, now, was_there));
        }
        match &*read {
            Some(read) if read.cut || read.by_file || usual.is_empty() => Arc::clone(&read.policies),
            _ => Arc::new(self.without_file(usual).0),
        }
    }

    /// What the rules say now with `usual`, for whoever reads them once.
    pub(crate) fn read_now(&self, usual: &[Rule], was_there: bool) -> Read {
        let mut read = self.read(self.stamps(), seconds_since_1970(), was_there);
        if !read.cut && !read.by_file && !usual.is_empty() {
            read.policies = Arc::new(self.without_file(usual).0);
        }
        read
    }

    /// What was found in texts that were looked through so far.
    pub(crate) fn found(&self) -> &Found {
        &self.found
    }

    /// Why nothing leaves now, in one sentence: this machine is cut off, or a file cannot be read.
    pub fn trouble(&self) -> Option<String> {
        self.now(&[]);
        let read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let read = read.as_ref()?;
        let cut = read.cut.then(|| standing::CUT.to_owned());
        cut.or_else(|| read.unread.clone())
    }

    /// The most that a machine of this role may be shown of the structure of a request, whatever its content is: a bound for
    /// the planner, and no measure of privacy.
    pub fn bound(&self, role: Role) -> Leaves {
        let said = self.allow.iter().rev().find(|allowance| allowance.role == role);
        said.map_or(Leaves::Text, |allowance| allowance.leaves)
    }

    /// How the files are now.
    pub(crate) fn stamps(&self) -> Vec<Stamp> {
        let overlays = self
            .folders()
            .flat_map(|folder| [OVERLAY_KEYS_FILE, OVERLAY_FILE].map(|name| folder.join(name)));
        self.file()
            .into_iter()
            .chain(self.cut_file())
            .chain(overlays)
            .map(|path| stamp(&path))
            .collect()
    }

    /// The file of the person, whether it is there or not.
    pub fn file(&self) -> Option<PathBuf> {
        self.home.as_ref().map(|home| home.join(POLICY_FILE))
    }

    fn folders(&self) -> impl Iterator<Item = &Path> {
        self.home.as_deref().into_iter().chain(self.house.as_deref())
    }

    fn read(&self, files: Vec<Stamp>, now: u64, was_there: bool) -> Read {
        let path = self.file().unwrap_or_default();
        let read = match &self.home {
            Some(_) => text(&path),
            None => Ok(None),
        };
        let (text, by_file) = match read {
            Ok(None) if was_there => (Err(format!("{} is gone", path.display())), true),
            Ok(None) => (Ok(None), false),
            Ok(Some(text)) => (Ok(Some(text)), true),
            Err(error) => (Err(format!("{} cannot be read: {error}", path.display())), true),
        };
        let named = |error: PolicyError| format!("{}: {}", path.display(), error.to_string().trim_end());
        let own = text.and_then(|text| text.map(|text| Policy::read(&text).map_err(named)).transpose());
        let overlays: Result<Vec<(&Path, Overlay)>, String> = self
            .folders()
            .filter_map(|folder| Some((folder, overlay(folder, now).transpose()?)))
            .map(|(folder, overlay)| Ok((folder, overlay?)))
            .collect();
        let whose =
            |(folder, overlay): &(&Path, Overlay)| (overlay.organisation.clone(), folder.join(OVERLAY_FILE));
        let organisations = overlays.iter().flatten().map(whose).collect();
        let overlays: Result<Vec<Overlay>, String> =
            overlays.map(|overlays| overlays.into_iter().map(|(_, overlay)| overlay).collect());
        let until = overlays.iter().flatten().map(|overlay| overlay.valid_until).min();
        let cut = self.is_cut();
        let known = own.as_ref().ok().and_then(Option::as_ref);
        let known = known.map(|policy| (policy.preset, policy.rules.len()));
        let unread = own.as_ref().err().or(overlays.as_ref().err());
        let unread = unread.map(|why| format!("nothing leaves, since {why}"));
        let policies = match (own, overlays) {
            (Ok(Some(policy)), Ok(overlays)) => Policies::new(policy, overlays).tightened(self.shorthand()),
            (Ok(None), Ok(overlays)) => self.default_policy(&[], overlays),
            (Err(why), _) | (_, Err(why)) => Policies::unread(&format!("nothing leaves, since {why}")),
        };
        let policies = if cut {
            Policies::unread(standing::CUT)
        } else {
            policies
        };
        Read {
            files,
            until: until.unwrap_or(u64::MAX),
            by_file,
            cut,
            own: known,
            organisations,
            unread,
            policies: Arc::new(policies),
        }
    }

    /// As [`Rules::read`] says where there is no file, with more rules; and until when.
    fn without_file(&self, usual: &[Rule]) -> (Policies, u64) {
        let now = seconds_since_1970();
        let overlays: Result<Vec<Overlay>, String> = self
            .folders()
            .filter_map(|folder| overlay(folder, now).transpose())
            .collect();
        match overlays {
            Ok(overlays) => (self.default_policy(usual, overlays), u64::MAX),
            Err(why) => (
                Policies::unread(&format!("nothing leaves, since {why}")),
                u64::MAX,
            ),
        }
    }

    /// Own machines see everything, and others what the shorthand grants them.
    fn default_policy(&self, usual: &[Rule], overlays: Vec<Overlay>) -> Policies {
        let said = |rule: &Rule| {
            let about = |allowance: &Allowance| rule.when.to == [Kind::from(allowance.role)];
            self.allow.iter().any(about)
        };
        // The shorthand speaks of a role as a whole, so what stands elsewhere about its members is void.
        let usual = usual.iter().filter(|rule| !said(rule)).cloned();
        let policy = Policy {
            rules: self.shorthand().into_iter().chain(usual).collect(),
            ..Policy::of(Preset::OwnDevices)
        };
        Policies::new(policy, overlays)
    }

    /// `HEPH_ALLOW` as rules: of several words on a role the last one counts.
    fn shorthand(&self) -> Vec<Rule> {
        let roles = Role::ALL.into_iter();
        let said = roles.filter_map(|role| {
            let last = self.allow.iter().rev().find(|allowance| allowance.role == role)?;
            let (word, then) = match last.leaves {
                Leaves::Nothing | Leaves::Embeddings => ("nothing", Verdict::Deny),
                Leaves::Activations => ("activations", Verdict::Allow),
                Leaves::Text => ("text", Verdict::Allow),
            };
            Some(Rule {
                name: format!("allow {}={word}", role.name()),
                when: When {
                    to: vec![Kind::from(role)],
                    ..When::default()
                },
                then,
            })
        });
        said.collect()
    }
}

/// Where an organisation keeps its files.
fn house() -> Option<PathBuf> {
    if cfg!(windows) {
        std::env::var_os("PROGRAMDATA").map(|folder| PathBuf::from(folder).join("heph"))
    } else if cfg!(target_os = "macos") {
        Some(PathBuf::from("/Library/Application Support/heph"))
    } else {
        Some(PathBuf::from("/etc/heph"))
    }
}

/// How a file is now.
pub(crate) fn stamp(path: &Path) -> Stamp {
    match std::fs::metadata(path) {
        Ok(about) => Some((changed(&about), about.len())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        // There is something that cannot be looked at; reading it says why.
        Err(_) => Some((None, u64::MAX)),
    }
}

/// When a file was changed last: by the system's own count where it has one, since what copies files sets the other.
#[cfg(unix)]
fn changed(about: &std::fs::Metadata) -> Option<SystemTime> {
    use std::os::unix::fs::MetadataExt;
    let seconds = u64::try_from(about.ctime()).ok()?;
    let nanos = u32::try_from(about.ctime_nsec()).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(std::time::Duration::new(seconds, nanos))
}

#[cfg(not(unix))]
fn changed(about: &std::fs::Metadata) -> Option<SystemTime> {
    about.modified().ok()
}

/// What a file says; `None` where there is none. What is no file may have no end, or make one wait.
fn text(path: &Path) -> io::Result<Option<String>> {
    let invalid = |why: String| Err(io::Error::new(io::ErrorKind::InvalidData, why));
    match std::fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
        Ok(about) if !about.is_file() => return invalid("it is no file".to_owned()),
        Ok(_) => {}
    }
    let mut text = String::new();
    let file = std::fs::File::open(path)?;
    match file.take(BYTES_MAX as u64 + 1).read_to_string(&mut text)? {
        length if length > BYTES_MAX => invalid(format!("it is longer than {BYTES_MAX} bytes")),
        _ => Ok(Some(text)),
    }
}

/// The overlay of a folder; `None` where it names no keys and holds none.
fn overlay(folder: &Path, now: u64) -> Result<Option<Overlay>, String> {
    let (keys, path) = (folder.join(OVERLAY_KEYS_FILE), folder.join(OVERLAY_FILE));
    let unread =
        |path: &Path, why: &dyn std::fmt::Display| format!("{} cannot be read: {why}", path.display());
    let known = text(&keys).map_err(|error| unread(&keys, &error))?;
    let signed = text(&path).map_err(|error| unread(&path, &error))?;
    let (known, signed) = match (known, signed) {
        (None, None) => return Ok(None),
        (Some(known), Some(signed)) => (known, signed),
        (Some(_), None) => return Err(format!("{} is not there, and keys for it are", path.display())),
        (None, Some(_)) => return Err(format!("{} is not there, and what it signed is", keys.display())),
    };
    let lines = known.lines().map(str::trim).filter(|line| !line.is_empty());
    let trusted: Option<Vec<[u8; 32]>> = lines.take(OVERLAY_KEYS_MAX).map(key).collect();
    let trusted = trusted.ok_or_else(|| unread(&keys, &"a line is no key in hexadecimal"))?;
    let read = Overlay::read(&signed, &trusted, now);
    read.map(Some)
        .map_err(|error| unread(&path, &error.to_string().trim_end()))
}

/// 32 bytes in hexadecimal.
fn key(line: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if line.len() != 64 || !line.is_ascii() {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(line.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
pub(crate) mod testing {
    use heph_privacy::label::Label;
    use heph_privacy::policy::{Ask, Destination};

    use super::*;

    /// Settings of a home, and short rules.
    pub(crate) fn settings(home: &Path, allow: &[&str]) -> Settings {
        Settings {
            home: home.to_owned(),
            models: home.join("models"),
            threads: 1,
            hub: String::new(),
            hub_token: None,
            allow: allow.iter().map(|word| word.parse().unwrap()).collect(),
            keys: None,
        }
    }

    /// Rules in a file, and the folder it is in.
    pub(crate) fn rules(text: &str) -> (tempfile::TempDir, Arc<Rules>) {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join(POLICY_FILE), text).unwrap();
        let rules = Rules::new(&settings(home.path(), &[]), &[]);
        (home, rules)
    }

    /// The rules of a home alone, whatever the house of this machine wrote.
    pub(crate) fn of_home(home: &Path, allow: &[&str]) -> Rules {
        Rules {
            house: None,
            ..Arc::into_inner(Rules::new(&settings(home, allow), &[])).unwrap()
        }
    }

    /// What is said to a public question to a destination of this kind, answered there as a whole.
    pub(crate) fn says(policies: &Policies, kind: Kind) -> Verdict {
        let to = Destination {
            kind,
            name: "there".into(),
            id: String::new(),
            region: String::new(),
            retention_days: None,
        };
        let ask = Ask {
            label: &Label::public(),
            to: &to,
            mode: "remote",
            credits: 0,
        };
        policies.decide(&ask).verdict
    }
}

#[cfg(test)]
mod tests {
    use heph_privacy::label::Label;
    use heph_privacy::policy::Ask;

    use super::testing::{of_home, says};
    use super::*;

    fn allowed(rules: &Rules) -> Vec<Kind> {
        let all = [Kind::Own, Kind::Provider, Kind::Edge, Kind::Miner];
        let policies = rules.now(&[]);
        all.into_iter()
            .filter(|kind| says(&policies, *kind) == Verdict::Allow)
            .collect()
    }

    #[test]
    fn where_nobody_wrote_a_policy_own_machines_see_everything_and_others_nothing() {
        let home = tempfile::tempdir().unwrap();
        assert_eq!(allowed(&of_home(home.path(), &[])), [Kind::Own]);
        let cases: [(&[&str], &[Kind]); 4] = [
            (&["cloud=text"], &[Kind::Own, Kind::Provider]),
            (&["miner=text", "miner=nothing"], &[Kind::Own]),
            (&["own=nothing"], &[]),
            (&["edge=activations"], &[Kind::Own, Kind::Edge]),
        ];
        for (allow, kinds) in cases {
            assert_eq!(allowed(&of_home(home.path(), allow)), kinds, "{allow:?}");
        }
    }

    #[test]
    fn a_policy_is_tightened_by_the_shorthand_and_never_loosened() {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(
            home.path().join(POLICY_FILE),
            "version = 1\npreset = \"own-devices\"\n",
        )
        .unwrap();
        assert_eq!(
            allowed(&of_home(home.path(), &["miner=text", "cloud=text"])),
            [Kind::Own]
        );
        assert_eq!(allowed(&of_home(home.path(), &["own=nothing"])), []);
        let provider = Rule {
            name: "leave".into(),
            when: When {
                to: vec![Kind::Provider],
                ..When::default()
            },
            then: Verdict::Allow,
        };
        let by_file = of_home(home.path(), &[]).now(std::slice::from_ref(&provider));
        assert_eq!(says(&by_file, Kind::Provider), Verdict::Deny);
        std::fs::remove_file(home.path().join(POLICY_FILE)).unwrap();
        let usual = of_home(home.path(), &[]).now(&[provider]);
        assert_eq!(says(&usual, Kind::Provider), Verdict::Allow);
    }

    #[test]
    fn nothing_leaves_while_the_policy_cannot_be_read_and_it_is_read_again_when_it_changed() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join(POLICY_FILE);
        let rules = of_home(home.path(), &["own=text"]);
        assert_eq!(allowed(&rules), [Kind::Own]);
        let mut length = 0;
        let mut write = |text: &str| {
            // Another length each time, so that the file is another one whatever clock its system has.
            length += 1;
            std::fs::write(&path, format!("{text}{}", "#".repeat(length))).unwrap();
        };
        write("version = 1\npreset = \"open\"\n");
        assert_eq!(allowed(&rules).len(), 4);
        for broken in ["version = 1\npreset = \"opne\"\n", "version = 2\n", "\u{0}"] {
            write(broken);
            assert_eq!(allowed(&rules), [], "{broken:?}");
            let label = Label::public();
            let policies = rules.now(&[]);
            let to = serde_json::from_str(r#"{"kind":"own"}"#).unwrap();
            let said = policies.decide(&Ask {
                label: &label,
                to: &to,
                mode: "",
                credits: 0,
            });
            assert!(said.to_string().contains("policy.toml"), "{said}");
            assert!(rules.trouble().is_some_and(|why| why.contains("policy.toml")));
        }
        write("version = 1\npreset = \"own-devices\"\n");
        assert_eq!((allowed(&rules), rules.trouble()), (vec![Kind::Own], None));
        std::fs::remove_file(&path).unwrap();
        assert_eq!(allowed(&rules), [], "it was there and is gone");
        std::fs::create_dir(&path).unwrap();
        assert_eq!(allowed(&rules), [], "a folder is no policy");
    }

    #[cfg(unix)]
    #[test]
    fn a_policy_of_the_same_length_and_time_is_another_one() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join(POLICY_FILE);
        let write = |preset: &str, behind: &str| {
            std::fs::write(&path, format!("version = 1\npreset = \"{preset}\"\n{behind}")).unwrap();
            let file = std::fs::File::options().write(true).open(&path).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        };
        let rules = of_home(home.path(), &[]);
        write("own-devices", "");
        assert_eq!(allowed(&rules), [Kind::Own]);
        // A clock that ticks slowly has not ticked yet.
        let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while !allowed(&rules).is_empty() {
            assert!(std::time::Instant::now() < until, "it was not read again");
            write("local-only", "#");
        }
    }

    /// In a thread that nobody waits for: what makes it wait would hold the tests.
    #[cfg(unix)]
    #[test]
    fn a_policy_that_is_no_file_is_not_waited_for() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join(POLICY_FILE);
        for odd in ["pipe", "/dev/zero"] {
            match odd {
                "pipe" => assert!(
                    std::process::Command::new("mkfifo")
                        .arg(&path)
                        .status()
                        .unwrap()
                        .success()
                ),
                device => std::os::unix::fs::symlink(device, &path).unwrap(),
            }
            let rules = of_home(home.path(), &[]);
            let (tell, told) = std::sync::mpsc::channel();
            std::thread::spawn(move || tell.send((allowed(&rules), rules.trouble())));
            let within = std::time::Duration::from_secs(10);
            let (allowed, trouble) = told.recv_timeout(within).expect(odd);
            assert_eq!(allowed, [], "{odd}");
            assert!(trouble.is_some_and(|why| why.contains("no file")), "{odd}");
            std::fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn an_overlay_that_does_not_fit_lets_nothing_leave() {
        let home = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(home.path().join(name), text).unwrap();
        let rules = of_home(home.path(), &[]);
        write(OVERLAY_KEYS_FILE, &"ab".repeat(32));
        assert_eq!(allowed(&rules), [], "there are keys and no overlay");
        write(OVERLAY_FILE, "heph-overlay 1 00 00\n");
        assert_eq!(allowed(&rules), [], "nobody signed it");
        std::fs::remove_file(home.path().join(OVERLAY_KEYS_FILE)).unwrap();
        assert_eq!(allowed(&rules), [], "nobody's key is known");
        std::fs::remove_file(home.path().join(OVERLAY_FILE)).unwrap();
        assert_eq!(allowed(&rules), [Kind::Own]);
    }
}
