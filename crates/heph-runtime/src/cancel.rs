//! The flag that stops a long job between two of its steps.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A shared wish to stop. Cloning shares the flag; a job looks at it between two tokens, blocks or reads.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// A flag nobody has raised yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks the job to stop. Returns whether it had been asked before.
    pub fn raise(&self) -> bool {
        self.0.swap(true, Ordering::SeqCst)
    }

    /// Takes the wish back, before the next job starts.
    pub fn lower(&self) {
        self.0.store(false, Ordering::SeqCst);
    }

    /// The flag itself, for jobs that know no more than that.
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.0)
    }

    /// Whether the job should stop now.
    pub fn is_raised(&self) -> bool {
        self.0.load(Ordering::SeqCst)
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
}
