//! How much memory is left for this process: of its container and of the machine, looked at again and again.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How often memory is looked at: a cache of a large model grows by a few megabytes meanwhile.
const LOOK: Duration = Duration::from_millis(100);

/// Memory that stays free for the passes and the program itself.
pub const RESERVE: u64 = 24 << 20;

/// Where the system keeps control groups.
const GROUPS: &str = "/sys/fs/cgroup";

/// A limit this high is none: version 1 writes the largest whole number of pages.
const NO_LIMIT: u64 = 1 << 60;

/// Groups above a process that are looked at: containers in containers are nested a few deep.
const DEPTH_MAX: usize = 32;

/// Bytes that are left, as a thread of its own saw them last; the thread ends with the last clone.
#[derive(Clone)]
pub struct Pressure(Arc<Watched>);

struct Watched {
    left: AtomicU64,
    look: Box<dyn Fn() -> Option<u64> + Send + Sync>,
}

impl Watched {
    /// Looks once. `false` where nothing is said any more.
    fn look(&self) -> bool {
        let bytes = (self.look)();
        if let Some(bytes) = bytes {
            self.left.store(bytes, Ordering::Relaxed);
        }
        bytes.is_some()
    }
}

impl Pressure {
    /// Watches this process. `None` where the system does not say.
    pub fn watch() -> Option<Self> {
        Self::of(room)
    }

    /// Watches what `look` says, until it says nothing any more.
    pub fn of(look: impl Fn() -> Option<u64> + Send + Sync + 'static) -> Option<Self> {
        let all = Arc::new(Watched {
            left: AtomicU64::new(look()?),
            look: Box::new(look),
        });
        let watched = Arc::downgrade(&all);
        std::thread::spawn(move || {
            loop {
                std::thread::sleep(LOOK);
                if !watched.upgrade().is_some_and(|watched| watched.look()) {
                    return;
                }
            }
        });
        Some(Self(all))
    }

    /// Bytes that are left.
    pub fn room(&self) -> u64 {
        self.0.left.load(Ordering::Relaxed)
    }

    /// Looks at once: something large was just given back.
    pub fn look(&self) {
        self.0.look();
    }
}

/// Bytes that this process may still take: the least of what the machine and each of its control groups leave.
pub fn room() -> Option<u64> {
    let machine = available(&fs::read_to_string("/proc/meminfo").ok()?);
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let groups = memory_groups(&groups)
        .into_iter()
        .filter_map(|group| group.room());
    machine.into_iter().chain(groups).min()
}

/// `MemAvailable` of `/proc/meminfo`.
fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// A control group that counts memory.
#[derive(Debug, PartialEq, Eq)]
struct Group {
    folder: PathBuf,
    files: &'static Files,
}

/// Names in a group's folder.
#[derive(Debug, PartialEq, Eq)]
struct Files {
    limit: &'static str,
    used: &'static str,
    /// Lines of `memory.stat` whose bytes the kernel takes back by itself.
    given_back: [&'static str; 2],
}

const VERSION_1: Files = Files {
    limit: "memory.limit_in_bytes",
    used: "memory.usage_in_bytes",
    given_back: ["total_inactive_file", "total_active_file"],
};

const VERSION_2: Files = Files {
    limit: "memory.max",
    used: "memory.current",
    given_back: ["inactive_file", "active_file"],
};

/// The groups of `/proc/self/cgroup` that count memory, and those above them.
fn memory_groups(own: &str) -> Vec<Group> {
    let mut groups = Vec::new();
    for line in own.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else {
            continue;
        };
        let (root, files) = match controllers {
            "" => (PathBuf::from(GROUPS), &VERSION_2),
            named if named.split(',').any(|name| name == "memory") => {
                (Path::new(GROUPS).join("memory"), &VERSION_1)
            }
            _ => continue,
        };
        let mut folder = root.join(path.trim_start_matches('/'));
        for _ in 0..DEPTH_MAX {
            let within = folder.starts_with(&root);
            let up = folder.parent().map(Path::to_owned);
            groups.extend(within.then_some(Group { folder, files }));
            match up.filter(|_| within) {
                Some(up) => folder = up,
                None => break,
            }
        }
    }
    groups
}

impl Group {
    fn room(&self) -> Option<u64> {
        let read = |name: &str| fs::read_to_string(self.folder.join(name)).ok();
        let number = |name: &str| read(name)?.trim().parse::<u64>().ok();
        let limit = number(self.files.limit).filter(|limit| *limit < NO_LIMIT)?;
        let back = given_back(&read("memory.stat").unwrap_or_default(), &self.files.given_back);
        Some(limit.saturating_sub(number(self.files.used)?.saturating_sub(back)))
    }
}

/// Bytes of files that the kernel drops when memory is asked for.
fn given_back(stat: &str, names: &[&str]) -> u64 {
    let value = |line: &str| {
        let (name, bytes) = line.split_once(' ')?;
        names.contains(&name).then(|| bytes.trim().parse::<u64>().ok())?
    };
    stat.lines().filter_map(value).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_of_both_versions_are_found_with_those_above() {
        let folders = |own| {
            let groups = memory_groups(own).into_iter();
            groups.map(|g| g.folder.display().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(
            folders("0::/a/b"),
            ["/sys/fs/cgroup/a/b", "/sys/fs/cgroup/a", "/sys/fs/cgroup"]
        );
        let first = "5:memory:/box\n3:cpu,cpuacct:/box\n";
        assert_eq!(
            folders(first),
            ["/sys/fs/cgroup/memory/box", "/sys/fs/cgroup/memory"]
        );
        assert!(folders("nonsense").is_empty());
    }

    #[test]
    fn what_the_kernel_takes_back_is_room() {
        let stat = "cache 10\nactive_file 300\ninactive_file 4000\nanon 7\n";
        assert_eq!(given_back(stat, &VERSION_2.given_back), 4300);
        assert_eq!(available("MemTotal: 9 kB\nMemAvailable:    2 kB\n"), Some(2048));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_process_has_room() {
        assert!(Pressure::watch().unwrap().room() > 0);
    }
}
