//! Carries out work that falls into parts on several workers at once: long documents piece by piece, questions beside
//! each other.
//!
//! Which part may run and which result counts is `heph_plan::decompose`'s affair. Here are the threads, one for each
//! worker, and the waiting: a worker that dies gives its part back at once, one that hangs loses it with its lease, and
//! what comes late is not counted.

mod reading;

pub use reading::{Note, Read, Reader, Reading, ReadingError, read};

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use heph_plan::decompose::{Counted, JobId, Jobs, JobsError, Lease};
use serde::Serialize;

use crate::cancel::Cancel;

/// Workers of one piece of work at most: each has a thread.
pub const WORKERS_MAX: usize = 64;

/// Parts that a worker may fail at in a row before it is given none any more.
const FAILURES_MAX: u32 = 3;

/// How often whoever waits looks at leases and at the wish to stop.
const LOOK: Duration = Duration::from_millis(20);

/// Carries parts out, one at a time. `R` is a part's result.
pub trait PartWorker<R>: Send {
    /// Carries a part out. `inputs` are the results that it waited for, in their order.
    ///
    /// # Errors
    /// When it cannot: the part goes to another worker.
    fn carry_out(&mut self, part: JobId, inputs: &[R]) -> Result<R, PartError>;
}

/// Why a worker does not bring a part.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PartError {
    /// The worker is gone and takes no part any more.
    #[error("the worker is gone: {0}")]
    Lost(String),
    /// This part failed.
    #[error("the part failed: {0}")]
    Failed(String),
}

/// Why work did not end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecomposeError {
    /// The parts are no work, or one of them failed too often.
    #[error(transparent)]
    Jobs(#[from] JobsError),
    /// More workers than there may be threads.
    #[error("{0} workers are given, {WORKERS_MAX} is the most")]
    Workers(usize),
    /// Nobody is left to carry parts out.
    #[error("no worker is left; the last one said: {0}")]
    NobodyLeft(String),
    /// Somebody asked to stop.
    #[error("the work was stopped")]
    Stopped,
}

/// Results and what it took to get them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done<R> {
    /// One for each part, in their order.
    pub results: Vec<R>,
    /// What happened on the way.
    pub tally: Tally,
}

/// What happened while parts were carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Tally {
    /// Results that count: as many as there are parts.
    pub counted: usize,
    /// Results that came after their lease, or twice, and do not count.
    pub uncounted: usize,
    /// Parts that were given back.
    pub returned: usize,
    /// Workers that were lost.
    pub lost: usize,
}

/// Carries out all parts; `needs` names what each waits for. A worker has `lease` for a part; one that takes longer
/// loses it to another. `step` is told how many parts are done.
///
/// # Errors
/// When a part failed too often, no worker is left, or `cancel` is raised. Workers that hang are left to themselves.
pub fn carry_out<R: Clone + Send + 'static>(
    needs: Vec<Vec<JobId>>,
    workers: Vec<Box<dyn PartWorker<R>>>,
    lease: Duration,
    cancel: &Cancel,
    step: &mut dyn FnMut(usize),
) -> Result<Done<R>, DecomposeError> {
    if workers.len() > WORKERS_MAX {
        return Err(DecomposeError::Workers(workers.len()));
    }
    let count = needs.len();
    let board = Arc::new(Board {
        work: Mutex::new(Work {
            jobs: Jobs::new(needs)?,
            tally: Tally::default(),
            workers: workers.len(),
            ended: workers
                .is_empty()
                .then(|| DecomposeError::NobodyLeft("there was none".to_owned())),
        }),
        changed: Condvar::new(),
        began: Instant::now(),
        lease,
    });
    for worker in workers {
        let board = Arc::clone(&board);
        std::thread::spawn(move || board.serve(worker));
    }
    board.wait_for(count, cancel, step)
}

/// Where parts are lent and results come in.
struct Board<R> {
    work: Mutex<Work<R>>,
    changed: Condvar,
    began: Instant,
    lease: Duration,
}

struct Work<R> {
    jobs: Jobs<R>,
    tally: Tally,
    /// Workers that still take parts.
    workers: usize,
    /// Why nothing is lent any more.
    ended: Option<DecomposeError>,
}

impl<R: Clone> Board<R> {
    fn wait_for(
        &self,
        count: usize,
        cancel: &Cancel,
        step: &mut dyn FnMut(usize),
    ) -> Result<Done<R>, DecomposeError> {
        let (mut work, mut told) = (self.lock(), 0);
        loop {
            if work.jobs.done() > told {
                told = work.jobs.done();
                drop(work);
                step(told);
                work = self.lock();
                continue;
            }
            if work.jobs.is_finished() {
                let results = (0..count as u32).filter_map(|at| work.jobs.result(JobId(at)).cloned());
                let (results, tally) = (results.collect(), work.tally);
                return Ok(Done { results, tally });
            }
            if cancel.is_raised() {
                work.ended = Some(DecomposeError::Stopped);
            }
            if let Some(why) = work.ended.clone() {
                return Err(why);
            }
            work = self.pause(work);
        }
    }

    /// One worker's life.
    fn serve(&self, mut worker: Box<dyn PartWorker<R>>) {
        let mut failures = 0;
        while let Some((lease, inputs)) = self.next_part() {
            let work = || worker.carry_out(lease.job, &inputs);
            let result = catch_unwind(AssertUnwindSafe(work))
                .unwrap_or_else(|_| Err(PartError::Lost("it broke off".to_owned())));
            failures = if result.is_ok() { 0 } else { failures + 1 };
            if !self.take_in(lease, result, failures) {
                return;
            }
        }
    }

    /// The next part for a worker, and what it waited for; `None` when nothing is to be done any more.
    fn next_part(&self) -> Option<(Lease, Vec<R>)> {
        let mut work = self.lock();
        loop {
            if work.ended.is_some() || work.jobs.is_finished() {
                return None;
            }
            match work.jobs.lend(self.began.elapsed(), self.lease) {
                Err(error) => work.ended = Some(error.into()),
                Ok(Some(lease)) => {
                    let inputs = work.jobs.inputs(lease.job).unwrap_or_default();
                    return Some((lease, inputs.into_iter().cloned().collect()));
                }
                Ok(None) => work = self.pause(work),
            }
        }
    }

    /// Takes what a worker brings. Returns whether it takes another part.
    fn take_in(&self, lease: Lease, result: Result<R, PartError>, failures: u32) -> bool {
        let mut work = self.lock();
        let goes_on = match result {
            Ok(result) => {
                match work.jobs.finish(lease, result) {
                    Counted::Yes => work.tally.counted += 1,
                    Counted::Already | Counted::Late | Counted::Unknown => work.tally.uncounted += 1,
                }
                true
            }
            Err(error) => {
                match error {
                    PartError::Lost(_) => work.jobs.abandon(lease),
                    PartError::Failed(_) => work.jobs.fail(lease),
                }
                work.tally.returned += 1;
                let stays = matches!(error, PartError::Failed(_)) && failures < FAILURES_MAX;
                if !stays {
                    work.tally.lost += 1;
                    work.workers -= 1;
                    if work.workers == 0 {
                        work.ended = Some(DecomposeError::NobodyLeft(error.to_string()));
                    }
                }
                stays
            }
        };
        self.changed.notify_all();
        goes_on
    }

    fn lock(&self) -> MutexGuard<'_, Work<R>> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a change, or until it is time to look again.
    fn pause<'a>(&self, work: MutexGuard<'a, Work<R>>) -> MutexGuard<'a, Work<R>> {
        let waited = self.changed.wait_timeout(work, LOOK);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// Sixty pieces that are added up in four sums.
    fn sums() -> Vec<Vec<JobId>> {
        let mut needs = vec![Vec::new(); 60];
        needs.extend((0..4).map(|group| (group * 15..group * 15 + 15).map(JobId).collect()));
        needs
    }

    #[derive(Clone, Copy)]
    enum End {
        Lives,
        Dies,
        Breaks,
        /// Hangs for longer than a lease, and brings its result after all.
        Hangs,
    }

    /// Piece `n` counts `n + 1`; a sum adds its pieces up. Ends in its way at its third part.
    struct Counter {
        end: End,
        parts: u32,
        begun: Arc<AtomicU32>,
    }

    const LEASE: Duration = Duration::from_millis(60);

    impl PartWorker<u32> for Counter {
        fn carry_out(&mut self, part: JobId, inputs: &[u32]) -> Result<u32, PartError> {
            self.begun.fetch_add(1, Ordering::Relaxed);
            self.parts += 1;
            std::thread::sleep(Duration::from_millis(1));
            if self.parts == 3 {
                match self.end {
                    End::Lives => {}
                    End::Dies => return Err(PartError::Lost("killed".to_owned())),
                    End::Breaks => panic!("a worker that breaks off"),
                    End::Hangs => std::thread::sleep(LEASE * 3),
                }
            }
            Ok(if inputs.is_empty() {
                part.0 + 1
            } else {
                inputs.iter().sum()
            })
        }
    }

    fn workers(ends: &[End], begun: &Arc<AtomicU32>) -> Vec<Box<dyn PartWorker<u32>>> {
        let worker = |end: &End| -> Box<dyn PartWorker<u32>> {
            let begun = Arc::clone(begun);
            Box::new(Counter {
                end: *end,
                parts: 0,
                begun,
            })
        };
        ends.iter().map(worker).collect()
    }

    #[test]
    fn sixty_four_parts_count_once_each_though_three_workers_are_lost() {
        use End::{Breaks, Dies, Hangs, Lives};
        for ends in [
            [Dies, Dies, Dies, Lives, Lives],
            [Hangs, Hangs, Hangs, Lives, Lives],
            [Dies, Breaks, Hangs, Lives, Lives],
        ] {
            let begun = Arc::new(AtomicU32::new(0));
            let mut steps = Vec::new();
            let done = carry_out(sums(), workers(&ends, &begun), LEASE, &Cancel::new(), &mut |n| {
                steps.push(n)
            });
            let done = done.unwrap();
            let expected: Vec<u32> = (1..=60).chain([120, 345, 570, 795]).collect();
            assert_eq!(done.results, expected);
            assert_eq!(done.tally.counted, 64);
            assert!(
                begun.load(Ordering::Relaxed) >= 64 + 3,
                "three parts were begun twice"
            );
            assert_eq!(steps.last(), Some(&64));
        }
    }

    #[test]
    fn however_many_workers_are_lost_with_a_part_the_last_one_brings_it() {
        /// Is lost with its first part, a moment after it got it.
        struct Doomed;
        impl PartWorker<u32> for Doomed {
            fn carry_out(&mut self, _part: JobId, _inputs: &[u32]) -> Result<u32, PartError> {
                Err(PartError::Lost("killed".to_owned()))
            }
        }
        /// Comes last.
        struct Late;
        impl PartWorker<u32> for Late {
            fn carry_out(&mut self, part: JobId, _inputs: &[u32]) -> Result<u32, PartError> {
                Ok(part.0)
            }
        }
        let doomed = (0..20).map(|_| Box::new(Doomed) as Box<dyn PartWorker<u32>>);
        let workers = doomed
            .chain([Box::new(Late) as Box<dyn PartWorker<u32>>])
            .collect();
        let lease = Duration::from_secs(60);
        let done = carry_out(vec![Vec::new(); 2], workers, lease, &Cancel::new(), &mut |_| {});
        assert_eq!(done.map(|done| done.results), Ok(vec![0, 1]));
    }

    #[test]
    fn when_nobody_is_left_the_error_says_why() {
        let begun = Arc::default();
        let workers = workers(&[End::Dies, End::Dies], &begun);
        let error = carry_out(sums(), workers, LEASE, &Cancel::new(), &mut |_| {}).unwrap_err();
        assert_eq!(
            error.to_string(),
            "no worker is left; the last one said: the worker is gone: killed"
        );
    }

    #[test]
    fn work_that_is_stopped_ends() {
        let (begun, cancel) = (Arc::default(), Cancel::new());
        let stop = cancel.clone();
        let workers = workers(&[End::Lives], &begun);
        let error = carry_out(sums(), workers, LEASE, &cancel, &mut |n| {
            if n >= 5 {
                stop.raise();
            }
        });
        assert_eq!(error.unwrap_err(), DecomposeError::Stopped);
        assert!(begun.load(Ordering::Relaxed) < 64);
    }
}
