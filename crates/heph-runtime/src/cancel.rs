//! The flag that stops a long job between two of its steps.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Instant;

/// A shared wish to stop. Cloning shares the flag; a job looks at it between two tokens, blocks or reads.
#[derive(Debug, Clone, Default)]
pub struct Cancel {
    flag: Arc<AtomicBool>,
    /// From then on the wish stands by itself, for this clone and those made from it.
    deadline: Option<Instant>,
    /// The same for all clones, in milliseconds since [`EPOCH`]; 0 is never.
    due_ms: Arc<AtomicU64>,
}

/// What shared deadlines are counted from.
static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

impl Cancel {
    /// A flag nobody has raised yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same flag, which counts as raised from `deadline` on.
    pub fn until(&self, deadline: Instant) -> Self {
        Self {
            deadline: Some(deadline),
            ..self.clone()
        }
    }

    /// Counts as raised from `deadline` on, or not by itself, for everybody who shares it; the next call says it anew.
    pub fn due(&self, deadline: Option<Instant>) {
        let since = |deadline: Instant| deadline.saturating_duration_since(*EPOCH).as_millis();
        let ms = deadline.map_or(0, |deadline| {
            u64::try_from(since(deadline)).unwrap_or(u64::MAX).max(1)
        });
        self.due_ms.store(ms, Ordering::SeqCst);
    }

    /// Asks the job to stop. Returns whether it had been asked before.
    pub fn raise(&self) -> bool {
        self.flag.swap(true, Ordering::SeqCst)
    }

    /// Takes the wish back, before the next job starts.
    pub fn lower(&self) {
        self.flag.store(false, Ordering::SeqCst);
    }

    /// The flag itself, for jobs that know no more than that.
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.flag)
    }

    /// Whether the job should stop now.
    pub fn is_raised(&self) -> bool {
        self.flag.load(Ordering::SeqCst) || self.is_late()
    }

    /// Whether its deadline has passed.
    pub fn is_late(&self) -> bool {
        let due = match self.due_ms.load(Ordering::SeqCst) {
            0 => false,
            ms => EPOCH.elapsed().as_millis() >= u128::from(ms),
        };
        due || self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clone_shares_the_flag() {
        let flag = Cancel::new();
        let seen_by_job = flag.clone();
        assert!(!flag.raise());
        assert!(seen_by_job.is_raised());
        assert!(flag.raise());
        flag.lower();
        assert!(!seen_by_job.is_raised());
    }

    #[test]
    fn a_deadline_raises_it_for_those_who_have_one() {
        let flag = Cancel::new();
        let late = flag.until(Instant::now());
        assert!(late.is_raised() && late.is_late() && !flag.is_raised());
        let later = flag.until(Instant::now() + std::time::Duration::from_secs(3600));
        assert!(!later.is_raised());
        flag.raise();
        assert!(later.is_raised() && !later.is_late());
    }

    #[test]
    fn a_deadline_that_all_share_can_be_said_anew() {
        let flag = Cancel::new();
        let seen_by_job = flag.clone();
        flag.due(Some(Instant::now()));
        std::thread::sleep(std::time::Duration::from_millis(2));
        assert!(seen_by_job.is_raised() && seen_by_job.is_late());
        flag.due(Some(Instant::now() + std::time::Duration::from_secs(3600)));
        assert!(!seen_by_job.is_raised());
        flag.due(None);
        assert!(!seen_by_job.is_raised());
    }
}
