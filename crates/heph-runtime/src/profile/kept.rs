//! Speeds that were timed before, so that a machine is timed once for a model and not at every start.

use std::path::Path;

use heph_plan::Readying;
use heph_types::{ModelHash, Speed};
use serde::{Deserialize, Serialize};

use crate::kept::Kept;

/// The files below HEPH's folder.
const FILE: &str = "speeds.json";
const READYING_FILE: &str = "readying.json";
const GUESSING_FILE: &str = "guessing.json";

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

/// The kept speeds.
pub type KeptSpeeds = Kept<SpeedKey, Speed>;

/// The speeds kept below `home`.
pub fn kept_speeds(home: &Path) -> KeptSpeeds {
    Kept::open(home, FILE)
}

/// What it took to make models ready.
pub type KeptReadying = Kept<SpeedKey, Readying>;

/// What that took, as it is kept below `home`.
pub fn kept_readying(home: &Path) -> KeptReadying {
    Kept::open(home, READYING_FILE)
}

/// Seconds that a guess of small models takes.
pub type KeptGuessing = Kept<SpeedKey, f64>;

/// What a guess takes, as it is kept below `home`.
pub fn kept_guessing(home: &Path) -> KeptGuessing {
    Kept::open(home, GUESSING_FILE)
}
