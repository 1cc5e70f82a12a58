//! What this machine learned about itself and keeps between two starts: small lists of keys and values, a file each.

use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Entries of a list; the oldest goes first.
pub const ENTRIES_MAX: usize = 64;

/// 64 entries of 2,000 bytes, four times.
const FILE_BYTES_MAX: u64 = 512 << 10;

/// A kept list. A file that cannot be read is as good as none: what it held is learned again.
#[derive(Debug)]
pub struct Kept<K, V> {
    path: PathBuf,
    entries: Vec<(K, V)>,
}

impl<K, V> Kept<K, V>
where
    K: PartialEq + Serialize + DeserializeOwned,
    V: Serialize + DeserializeOwned,
{
    /// The list in `file` below `home`.
    pub fn open(home: &Path, file: &str) -> Self {
        let path = home.join(file);
        let small = std::fs::metadata(&path).is_ok_and(|m| m.len() <= FILE_BYTES_MAX);
        let text = small.then(|| std::fs::read(&path).ok()).flatten();
        let entries = text
            .and_then(|text| serde_json::from_slice(&text).ok())
            .unwrap_or_default();
        Self { path, entries }
    }

    /// The value that was kept for this.
    pub fn find(&self, key: &K) -> Option<&V> {
        let found = self.entries.iter().find(|(kept, _)| kept == key);
        found.map(|(_, value)| value)
    }

    /// Keeps a value in the place of what was kept for this key.
    ///
    /// # Errors
    /// When the file cannot be written; the value is then known to this process alone.
    pub fn keep(&mut self, key: K, value: V) -> std::io::Result<()> {
        self.entries.retain(|(kept, _)| *kept != key);
        self.entries.push((key, value));
        let spare = self.entries.len().saturating_sub(ENTRIES_MAX);
        self.entries.drain(..spare);
        let folder = self.path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder)?;
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(&serde_json::to_vec(&self.entries).map_err(std::io::Error::from)?)?;
        file.persist(&self.path)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "list.json";

    fn open(home: &Path) -> Kept<usize, String> {
        Kept::open(home, FILE)
    }

    #[test]
    fn a_value_is_found_again_and_only_for_its_key() {
        let home = tempfile::tempdir().unwrap();
        let mut kept = open(home.path());
        kept.keep(1, "old".into()).unwrap();
        kept.keep(1, "new".into()).unwrap();
        let again = open(home.path());
        assert_eq!(again.find(&1).map(String::as_str), Some("new"));
        assert_eq!(again.find(&2), None);
    }

    #[test]
    fn the_file_is_bounded_and_a_damaged_one_is_none() {
        let home = tempfile::tempdir().unwrap();
        let mut kept = open(home.path());
        for key in 0..=ENTRIES_MAX {
            kept.keep(key, String::new()).unwrap();
        }
        let again = open(home.path());
        assert_eq!((again.entries.len(), again.find(&0)), (ENTRIES_MAX, None));
        std::fs::write(home.path().join(FILE), "{").unwrap();
        assert_eq!(open(home.path()).find(&5), None);
    }
}
