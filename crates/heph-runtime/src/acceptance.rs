//! How often guesses were right in answers before, for a pair of models and a kind of task: what the planner and the control
//! of guesses begin with.
//!
//! Counts are kept, and no word of what was said.

use std::path::Path;

use heph_plan::DraftSource;
use heph_plan::draft::Tally;
use heph_types::ModelHash;
use serde::{Deserialize, Serialize};

use crate::desk::Guessed;
use crate::kept::Kept;

/// The file below HEPH's folder.
const FILE: &str = "guesses.json";

/// Guesses that are remembered of one kind: beyond these, older ones count less with every answer.
const GUESSES_MAX: f64 = 2_000.0;

/// What is asked, as far as it decides how well one can guess.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// A question, or a text to go on with.
    Talk,
    /// A question about documents: answers repeat their words.
    Documents,
}

/// Whose guesses, for whom, at what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuessKey {
    /// The model that judges.
    pub model: ModelHash,
    /// The model that guesses; `None` where earlier words do.
    pub draft: Option<ModelHash>,
    /// What was asked.
    pub task: Task,
}

/// How often guesses were right.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
struct Counts {
    right: f64,
    wrong: f64,
}

/// The counts kept below HEPH's folder, for one model, its draft and one kind of task.
#[derive(Debug)]
pub struct Acceptances {
    kept: Kept<GuessKey, Counts>,
    model: ModelHash,
    draft: Option<ModelHash>,
    task: Task,
}

impl Acceptances {
    /// What is kept below `home` for these.
    pub fn open(home: &Path, model: ModelHash, draft: Option<ModelHash>, task: Task) -> Self {
        Self {
            kept: Kept::open(home, FILE),
            model,
            draft,
            task,
        }
    }

    /// The probability that one more token guessed by `source` is right; `usual` where nothing is known.
    pub fn of(&self, source: DraftSource, usual: f64) -> f64 {
        let Counts { right, wrong } = self.counts(self.key(source));
        // What a file says may be anything; what is thought lies between never and always.
        let sane = right.is_finite() && wrong.is_finite() && right >= 0.0 && wrong >= 0.0;
        match sane {
            true => Tally { right, wrong }.acceptance(usual),
            false => usual,
        }
    }

    /// Adds what an answer taught.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn learn(&mut self, guessed: &[Guessed]) -> std::io::Result<()> {
        for Guessed { by, tally } in guessed {
            if tally.right + tally.wrong > 0.0 {
                let key = self.key(*by);
                let old = self.counts(key);
                self.kept.keep(key, old.with(*tally))?;
            }
        }
        Ok(())
    }

    fn key(&self, source: DraftSource) -> GuessKey {
        GuessKey {
            model: self.model,
            draft: match source {
                DraftSource::NGram => None,
                DraftSource::Model | DraftSource::Tree => self.draft,
            },
            task: self.task,
        }
    }

    fn counts(&self, key: GuessKey) -> Counts {
        self.kept.find(&key).copied().unwrap_or_default()
    }
}

impl Counts {
    fn with(self, tally: Tally) -> Self {
        let keep = (GUESSES_MAX / (self.right + self.wrong).max(1.0)).min(1.0);
        Self {
            right: self.right * keep + tally.right,
            wrong: self.wrong * keep + tally.wrong,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(home: &Path, model: u8, task: Task) -> Acceptances {
        Acceptances::open(home, ModelHash([model; 32]), Some(ModelHash([9; 32])), task)
    }

    fn guessed(by: DraftSource, right: f64, wrong: f64) -> Guessed {
        Guessed {
            by,
            tally: Tally { right, wrong },
        }
    }

    #[test]
    fn what_guesses_brought_is_remembered_for_its_pair_and_task_alone() {
        let home = tempfile::tempdir().unwrap();
        let mut own = open(home.path(), 1, Task::Talk);
        assert_eq!(own.of(DraftSource::Model, 0.75), 0.75);
        own.learn(&[
            guessed(DraftSource::Model, 90.0, 10.0),
            guessed(DraftSource::NGram, 0.0, 40.0),
        ])
        .unwrap();
        let again = open(home.path(), 1, Task::Talk);
        assert!((again.of(DraftSource::Model, 0.75) - 0.9).abs() < 0.01);
        assert!(again.of(DraftSource::NGram, 0.2) < 0.03);
        for (model, task) in [(2, Task::Talk), (1, Task::Documents)] {
            let other = open(home.path(), model, task);
            assert_eq!(other.of(DraftSource::Model, 0.75), 0.75);
        }
    }

    #[test]
    fn what_was_long_ago_is_forgotten() {
        let home = tempfile::tempdir().unwrap();
        let mut own = open(home.path(), 1, Task::Talk);
        own.learn(&[guessed(DraftSource::Model, 1e6, 0.0)]).unwrap();
        for _ in 0..10 {
            own.learn(&[guessed(DraftSource::Model, 0.0, GUESSES_MAX)])
                .unwrap();
        }
        assert!(own.of(DraftSource::Model, 0.75) < 0.01);
    }

    #[test]
    fn a_file_that_somebody_wrote_cannot_promise_the_impossible() {
        let home = tempfile::tempdir().unwrap();
        let mut own = open(home.path(), 1, Task::Talk);
        own.learn(&[guessed(DraftSource::Model, 1.0, 0.0)]).unwrap();
        let text = std::fs::read_to_string(home.path().join(FILE)).unwrap();
        std::fs::write(home.path().join(FILE), text.replace("1.0", "-1e300")).unwrap();
        assert_eq!(
            open(home.path(), 1, Task::Talk).of(DraftSource::Model, 0.75),
            0.75
        );
    }
}
