//! The flag that stops a long job between two of its steps.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// A shared wish to stop. Cloning shares the flag; a job looks at it between two tokens, blocks or reads.
#[derive(Debug, Clone, Default)]
pub struct Cancel {
    flag: Arc<AtomicBool>,
    /// From then on the wish stands by itself.
    deadline: Option<Instant>,
}

impl Cancel {
    /// A flag nobody has raised yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same flag, which counts as raised from `deadline` on.
    pub fn until(&self, deadline: Instant) -> Self {
        Self {
            flag: self.flag(),
            deadline: Some(deadline),
        }
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
        self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
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
}
