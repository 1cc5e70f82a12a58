//! Speeds that were timed before, so that a machine is timed once for a model and not at every start.

use std::io::Write;
use std::path::{Path, PathBuf};

use heph_types::{ModelHash, Speed};
use serde::{Deserialize, Serialize};

/// The file below HEPH's folder.
const FILE: &str = "speeds.json";

/// Speeds that are kept; the oldest goes first.
const SPEEDS_MAX: usize = 64;

/// 64 speeds of 32 points with about 60 bytes each, four times.
const FILE_BYTES_MAX: u64 = 512 << 10;

/// What was timed: a model on a processor with so many threads and an instruction set, under one law of arithmetic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpeedKey {
    /// The model.
    pub model: ModelHash,
    /// The processor's own name.
    pub processor: String,
    /// Threads.
    pub threads: usize,
    /// Instruction set, by name.
    pub isa: String,
    /// The program's version: a newer one may be faster.
    pub version: String,
}

/// The kept speeds. A file that cannot be read is as good as none: what it held is timed again.
#[derive(Debug)]
pub struct KeptSpeeds {
    path: PathBuf,
    speeds: Vec<(SpeedKey, Speed)>,
}

impl KeptSpeeds {
    /// The speeds kept below `home`.
    pub fn open(home: &Path) -> Self {
        let path = home.join(FILE);
        let small = std::fs::metadata(&path).is_ok_and(|m| m.len() <= FILE_BYTES_MAX);
        let text = small.then(|| std::fs::read(&path).ok()).flatten();
        let speeds = text
            .and_then(|text| serde_json::from_slice(&text).ok())
            .unwrap_or_default();
        Self { path, speeds }
    }

    /// The speed that was timed for this.
    pub fn find(&self, key: &SpeedKey) -> Option<&Speed> {
        self.speeds
            .iter()
            .find(|(kept, _)| kept == key)
            .map(|(_, speed)| speed)
    }

    /// Keeps a speed.
    ///
    /// # Errors
    /// When the file cannot be written; the speed is then known to this process alone.
    pub fn keep(&mut self, key: SpeedKey, speed: Speed) -> std::io::Result<()> {
        self.speeds.retain(|(kept, _)| *kept != key);
        self.speeds.push((key, speed));
        let spare = self.speeds.len().saturating_sub(SPEEDS_MAX);
        self.speeds.drain(..spare);
        let folder = self.path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder)?;
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(&serde_json::to_vec(&self.speeds).map_err(std::io::Error::from)?)?;
        file.persist(&self.path)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn key(model: u8) -> SpeedKey {
        SpeedKey {
            model: ModelHash([model; 32]),
            processor: "a processor".to_owned(),
            threads: 2,
            isa: "scalar".to_owned(),
            version: "1".to_owned(),
        }
    }

    fn speed(bytes_per_second: f64) -> Speed {
        Speed {
            bytes_per_second,
            flops_per_second: 1e9,
            overhead: Duration::ZERO,
            measured: Vec::new(),
        }
    }

    #[test]
    fn a_speed_is_found_again_and_only_for_what_was_timed() {
        let home = tempfile::tempdir().unwrap();
        let mut kept = KeptSpeeds::open(home.path());
        kept.keep(key(1), speed(1e9)).unwrap();
        kept.keep(key(1), speed(2e9)).unwrap();
        let again = KeptSpeeds::open(home.path());
        assert_eq!(again.find(&key(1)), Some(&speed(2e9)));
        let other = SpeedKey { threads: 3, ..key(1) };
        assert_eq!(again.find(&other), None);
    }

    #[test]
    fn the_file_is_bounded_and_a_damaged_one_is_none() {
        let home = tempfile::tempdir().unwrap();
        let mut kept = KeptSpeeds::open(home.path());
        for model in 0..=SPEEDS_MAX as u8 {
            kept.keep(key(model), speed(1e9)).unwrap();
        }
        let again = KeptSpeeds::open(home.path());
        assert_eq!((again.speeds.len(), again.find(&key(0))), (SPEEDS_MAX, None));
        std::fs::write(home.path().join(FILE), "{").unwrap();
        assert_eq!(KeptSpeeds::open(home.path()).find(&key(5)), None);
    }
}
