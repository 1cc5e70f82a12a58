//! Recorded networks: round-trip times between cities and hosts, and what cellular links let through.
//!
//! The records lie beside the tree and not in it; whoever asks gets a sentence where they are missing.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

/// Milliseconds there and back between many places.
#[derive(Debug, Clone)]
pub struct RoundTrips {
    places: usize,
    /// Row by row; not a number where nobody measured.
    ms: Vec<f64>,
}

impl RoundTrips {
    /// Between 490 hosts of PlanetLab.
    ///
    /// # Errors
    /// A sentence, where the record is missing or broken.
    pub fn planetlab() -> Result<Self, String> {
        let text = unpacked("planetlab_rtt_1.tsv.xz")?;
        let row = |line: &str| -> Vec<f64> {
            let number = |word: &str| word.trim().parse().unwrap_or(f64::NAN);
            line.split('\t').map(number).collect()
        };
        let rows: Vec<Vec<f64>> = text.lines().map(row).collect();
        let places = rows.len();
        match rows.iter().all(|row| row.len() == places) && places > 1 {
            true => Ok(Self {
                places,
                ms: rows.concat(),
            }),
            false => Err("the table of round-trip times is not square".to_owned()),
        }
    }

    /// How many places there are.
    pub fn places(&self) -> usize {
        self.places
    }

    /// Milliseconds between two places; `None` where nobody measured.
    pub fn between(&self, from: usize, to: usize) -> Option<f64> {
        let ms = *self.ms.get(from * self.places + to)?;
        (ms.is_finite() && ms >= 0.0).then_some(ms)
    }
}

/// What a cellular link let through: the milliseconds at which a packet could pass. `name` as in
/// `Verizon-LTE-short.up`.
///
/// # Errors
/// A sentence, where the record is missing or broken.
pub fn cellular(name: &str) -> Result<Arc<[u32]>, String> {
    let text = unpacked(&format!("cellular/{name}.xz"))?;
    let times: Result<Vec<u32>, _> = text.lines().map(|line| line.trim().parse()).collect();
    let times = times.map_err(|error| format!("{name}: {error}"))?;
    match times.is_empty() || !times.is_sorted() {
        true => Err(format!("{name} is no ascending list of milliseconds")),
        false => Ok(times.into()),
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/accept/network")
}

fn unpacked(name: &str) -> Result<String, String> {
    let file = folder().join(name);
    if !file.exists() {
        return Err(format!("no {}", file.display()));
    }
    let out = Command::new("xz").arg("-dc").arg(&file).output();
    let out = out.map_err(|error| format!("xz does not run: {error}"))?;
    String::from_utf8(out.stdout).map_err(|error| error.to_string())
}
