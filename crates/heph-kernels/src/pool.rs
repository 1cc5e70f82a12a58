//! Persistent worker threads that share out the tasks of one kernel call.
//!
//! A kernel call lasts some microseconds, so waking threads through the operating system for each would
//! cost more than the work. Workers therefore watch one word of memory for a short, bounded time after
//! each job and only then go to sleep. Which thread runs which task never changes a result: tasks write
//! to places of their own.

use std::any::Any;
use std::cell::{Cell, RefCell, UnsafeCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle, Thread};

/// The most threads a pool will hold: far above any machine this runs on, and below what `ENTRANTS` counts.
pub const THREADS_MAX: usize = 1024;

/// Looks at the gate before a worker sleeps: 1,500 looks of 20 to 40 ns are 30 to 60 µs.
const LOOKS: u32 = 1_500;

/// One look in so many gives the core away, so that an oversubscribed machine makes progress.
const LOOKS_PER_YIELD: u32 = 100;

/// Bits of the gate that count the workers inside the current job.
const ENTRANTS: u64 = 0xffff;
/// Bit of the gate that says: the job may be entered.
const OPEN: u64 = 1 << 16;
/// Bit of the gate that says: the pool is being dropped.
const STOP: u64 = 1 << 17;
/// One job further in the part of the gate that numbers the jobs.
const NEXT_JOB: u64 = 1 << 18;

thread_local! {
    /// Whether this thread is inside a task; a `run` from there must not wait for the pool it is part of.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
    /// What ends the jobs of this thread early.
    static WISH: RefCell<Option<Arc<Stop>>> = const { RefCell::new(None) };
}

/// A wish to stop, and whether a task was left out because of it.
struct Stop {
    wished: Arc<AtomicBool>,
    dropped: AtomicBool,
}

/// Runs `work`. Once `wish` is set, the jobs that this thread gives to a pool meanwhile leave out the tasks that have not
/// begun, so that at most one task a thread is waited for. `None` where that happened: what was computed is then worth
/// nothing.
pub fn until<R>(wish: &Arc<AtomicBool>, work: impl FnOnce() -> R) -> Option<R> {
    let stop = Arc::new(Stop {
        wished: Arc::clone(wish),
        dropped: AtomicBool::new(false),
    });
    let _outer = Stopping(WISH.replace(Some(Arc::clone(&stop))));
    let result = work();
    (!stop.dropped.load(Ordering::Relaxed)).then_some(result)
}

/// Whether the work of this thread is to stop, as its [`until`] was wished. Whoever is told so leaves the rest out, and
/// [`until`] then gives nothing.
pub fn stopped() -> bool {
    WISH.with_borrow(|stop| {
        stop.as_ref().is_some_and(|stop| {
            let wished = stop.wished.load(Ordering::Relaxed);
            stop.dropped.fetch_or(wished, Ordering::Relaxed) || wished
        })
    })
}

/// Puts back what ended jobs before.
struct Stopping(Option<Arc<Stop>>);

impl Drop for Stopping {
    fn drop(&mut self) {
        WISH.set(self.0.take());
    }
}

/// A fixed set of threads that run the tasks of one job at a time, the caller among them.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<Worker>,
    /// Held during a job: callers on different threads take turns.
    turn: Mutex<()>,
}

impl Pool {
    /// A pool of `threads` threads: the caller of [`Pool::run`] and `threads - 1` workers.
    ///
    /// The number is brought into `1..=THREADS_MAX`. Where the platform refuses a thread (WebAssembly),
    /// the pool has those it got; [`Pool::threads`] tells.
    pub fn new(threads: usize) -> Pool {
        let shared = Arc::new(Shared::new());
        let wanted = threads.clamp(1, THREADS_MAX) - 1;
        let workers = (0..wanted).map_while(|n| Worker::start(n, &shared)).collect();
        Pool {
            shared,
            workers,
            turn: Mutex::new(()),
        }
    }

    /// A pool without workers: everything runs on the calling thread.
    pub fn serial() -> Pool {
        Pool::new(1)
    }

    /// The number of threads that work on a job, the caller included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `f(0)` to `f(tasks - 1)`, each exactly once, in no fixed order, and returns when all are done.
    ///
    /// Inside a task of any pool, the tasks run on the calling thread in order. Inside [`until`] it ends early on a wish.
    ///
    /// # Panics
    /// With the panic of the first task that panicked; tasks not yet begun are then dropped. The pool
    /// stays usable.
    pub fn run(&self, tasks: usize, f: &(dyn Fn(usize) + Sync)) {
        let Some(stop) = WISH.with_borrow(Clone::clone) else {
            return self.run_all(tasks, f);
        };
        self.run_all(tasks, &|task| match stop.wished.load(Ordering::Relaxed) {
            true => stop.dropped.store(true, Ordering::Relaxed),
            false => f(task),
        });
    }

    fn run_all(&self, tasks: usize, f: &(dyn Fn(usize) + Sync)) {
        if tasks <= 1 || self.workers.is_empty() || INSIDE.get() {
            (0..tasks).for_each(f);
            return;
        }
        let turn = ignore_poison(self.turn.lock());
        self.shared.open(tasks, f);
        self.wake();
        let _leave = Inside::enter();
        self.shared.work();
        self.shared.close();
        drop(turn);
        if let Some(panic) = self.shared.take_panic() {
            resume_unwind(panic);
        }
    }

    /// Cuts `out` into chunks of `chunk_len` (the last may be shorter) and runs `f(index, chunk)` for each.
    ///
    /// # Panics
    /// When `chunk_len` is 0, and as [`Pool::run`].
    pub fn run_chunks<T: Send>(&self, out: &mut [T], chunk_len: usize, f: impl Fn(usize, &mut [T]) + Sync) {
        let chunks = out.len().div_ceil(chunk_len);
        let parts = Parts::of(out);
        self.run(chunks, &|index| {
            let start = index * chunk_len;
            let end = parts.len.min(start + chunk_len);
            // SAFETY: the chunks of different indices do not overlap, and each index runs once.
            f(index, unsafe { parts.range(start, end) });
        });
    }

    /// Runs `f(index, item)` for every item, each as one task.
    ///
    /// # Panics
    /// As [`Pool::run`].
    pub fn run_each<T: Send>(&self, items: &mut [T], f: impl Fn(usize, &mut T) + Sync) {
        self.run_chunks(items, 1, |index, chunk| f(index, &mut chunk[0]));
    }

    fn wake(&self) {
        for worker in &self.workers {
            if worker.asleep.load(Ordering::SeqCst) {
                worker.thread.unpark();
            }
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.gate.0.fetch_or(STOP, Ordering::SeqCst);
        for worker in &mut self.workers {
            worker.thread.unpark();
            if let Some(handle) = worker.handle.take() {
                // A worker catches the panics of its tasks, so there is nothing to learn from its end.
                let _ = handle.join();
            }
        }
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool")
            .field("threads", &self.threads())
            .finish_non_exhaustive()
    }
}

/// A worker as its pool sees it.
struct Worker {
    thread: Thread,
    asleep: Arc<AtomicBool>,
    handle: Option<JoinHandle<()>>,
}

impl Worker {
    fn start(number: usize, shared: &Arc<Shared>) -> Option<Worker> {
        let asleep = Arc::new(AtomicBool::new(false));
        let (theirs, flag) = (Arc::clone(shared), Arc::clone(&asleep));
        let name = format!("heph-worker-{number}");
        let handle = thread::Builder::new()
            .name(name)
            .spawn(move || serve(&theirs, &flag))
            .ok()?;
        Some(Worker {
            thread: handle.thread().clone(),
            asleep,
            handle: Some(handle),
        })
    }
}

/// The life of a worker: wait for a job, help with it, again until the pool is dropped.
fn serve(shared: &Shared, asleep: &AtomicBool) {
    let _leave = Inside::enter();
    let mut last = 0;
    while let Some(job) = shared.next_job(last, asleep) {
        last = job;
        if shared.enter(job) {
            shared.work();
            shared.leave();
        }
    }
}

/// Marks the thread as inside a task until dropped.
struct Inside;

impl Inside {
    fn enter() -> Inside {
        INSIDE.set(true);
        Inside
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        INSIDE.set(false);
    }
}

/// A value with a cache line pair to itself, so that threads writing beside it do not slow it down.
#[repr(align(128))]
struct Apart<T>(T);

/// The function of a job with its lifetime erased; valid while the job is open or has entrants.
#[derive(Clone, Copy)]
struct Job {
    f: *const (dyn Fn(usize) + Sync),
    tasks: usize,
}

fn idle(_: usize) {}

/// What the caller and the workers see together.
struct Shared {
    /// Job number, `STOP`, `OPEN` and the count of entrants, in one word so that they change together.
    gate: Apart<AtomicU64>,
    /// The next task that nobody has taken.
    next: Apart<AtomicUsize>,
    /// Written by the caller while the gate is closed and empty, read by entrants only.
    job: UnsafeCell<Job>,
    /// Whether the caller sleeps until the last entrant has left.
    waiting: AtomicBool,
    left: (Mutex<()>, Condvar),
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: `job` is the only part that is not `Sync`. It is written only in `open`, under the pool's
// turn and while the gate is closed without entrants; it is read only by the caller and by entrants.
unsafe impl Sync for Shared {}
// SAFETY: the pointer in `job` is to a `Sync` function, and is used under the rule above.
unsafe impl Send for Shared {}

impl Shared {
    fn new() -> Shared {
        let f: &'static (dyn Fn(usize) + Sync) = &idle;
        Shared {
            gate: Apart(AtomicU64::new(0)),
            next: Apart(AtomicUsize::new(0)),
            job: UnsafeCell::new(Job { f, tasks: 0 }),
            waiting: AtomicBool::new(false),
            left: (Mutex::new(()), Condvar::new()),
            panic: Mutex::new(None),
        }
    }

    /// Publishes a job. The caller must call `close` before `f` goes out of scope.
    fn open(&self, tasks: usize, f: &(dyn Fn(usize) + Sync)) {
        // SAFETY: only the lifetime changes. `close` returns when no thread uses `f` any more, and `run`
        // calls it on every path, since `work` catches the panics of tasks.
        let f: &'static (dyn Fn(usize) + Sync) = unsafe { std::mem::transmute(f) };
        // SAFETY: the gate is closed and has no entrants (state between `close` and `open`), and the turn
        // keeps other callers away, so nobody else looks at `job`.
        unsafe { *self.job.get() = Job { f, tasks } };
        self.next.0.store(0, Ordering::Relaxed);
        let gate = self.gate.0.load(Ordering::Relaxed);
        self.gate.0.store(gate + NEXT_JOB + OPEN, Ordering::SeqCst);
    }

    /// Takes tasks until none is left. Only for the caller between `open` and `close`, and for entrants.
    fn work(&self) {
        // SAFETY: the job is open or has this thread as an entrant, so `job` is not written and `f` lives.
        let job = unsafe { *self.job.get() };
        // SAFETY: as above, `f` points to a living function.
        let f = unsafe { &*job.f };
        let run = || {
            loop {
                let task = self.next.0.fetch_add(1, Ordering::Relaxed);
                if task >= job.tasks {
                    return;
                }
                f(task);
            }
        };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(run)) {
            self.next.0.store(job.tasks, Ordering::Relaxed);
            ignore_poison(self.panic.lock()).get_or_insert(panic);
        }
    }

    /// Lets no more workers in and waits until those inside have left.
    fn close(&self) {
        self.gate.0.fetch_and(!OPEN, Ordering::SeqCst);
        for look in 1..=LOOKS {
            if self.gate.0.load(Ordering::Acquire) & ENTRANTS == 0 {
                return;
            }
            rest(look);
        }
        self.waiting.store(true, Ordering::SeqCst);
        let (lock, bell) = &self.left;
        let mut held = ignore_poison(lock.lock());
        while self.gate.0.load(Ordering::SeqCst) & ENTRANTS != 0 {
            held = ignore_poison(bell.wait(held));
        }
        self.waiting.store(false, Ordering::SeqCst);
    }

    /// Counts this worker into job `job` if that is still open.
    fn enter(&self, job: u64) -> bool {
        let mut gate = self.gate.0.load(Ordering::Relaxed);
        while gate & OPEN != 0 && gate / NEXT_JOB == job {
            match self
                .gate
                .0
                .compare_exchange_weak(gate, gate + 1, Ordering::Acquire, Ordering::Relaxed)
            {
                Ok(_) => return true,
                Err(now) => gate = now,
            }
        }
        false
    }

    fn leave(&self) {
        let gate = self.gate.0.fetch_sub(1, Ordering::SeqCst);
        if gate & ENTRANTS == 1 && self.waiting.load(Ordering::SeqCst) {
            // The lock orders this bell after the caller's look at the gate: it cannot be missed.
            let _held = ignore_poison(self.left.0.lock());
            self.left.1.notify_all();
        }
    }

    /// The number of an open job other than `last`, or `None` when the pool is being dropped.
    fn next_job(&self, last: u64, asleep: &AtomicBool) -> Option<u64> {
        let mut look = 0;
        loop {
            let gate = self.gate.0.load(Ordering::SeqCst);
            if gate & STOP != 0 {
                return None;
            }
            if gate & OPEN != 0 && gate / NEXT_JOB != last {
                asleep.store(false, Ordering::Relaxed);
                return Some(gate / NEXT_JOB);
            }
            look += 1;
            match look.cmp(&LOOKS) {
                std::cmp::Ordering::Less => rest(look),
                // Said before the gate is read again: a job opened in between is seen by that look.
                std::cmp::Ordering::Equal => asleep.store(true, Ordering::SeqCst),
                std::cmp::Ordering::Greater => thread::park(),
            }
        }
    }

    fn take_panic(&self) -> Option<Box<dyn Any + Send>> {
        ignore_poison(self.panic.lock()).take()
    }
}

fn rest(look: u32) {
    if look.is_multiple_of(LOOKS_PER_YIELD) {
        thread::yield_now()
    } else {
        std::hint::spin_loop()
    }
}

/// The guarded values are replaced whole, so a panic elsewhere cannot leave them half written.
fn ignore_poison<'a, T>(
    lock: Result<MutexGuard<'a, T>, PoisonError<MutexGuard<'a, T>>>,
) -> MutexGuard<'a, T> {
    lock.unwrap_or_else(PoisonError::into_inner)
}

/// A slice that several tasks write to in places that do not overlap.
pub(crate) struct Parts<'a, T> {
    start: *mut T,
    len: usize,
    slice: std::marker::PhantomData<&'a mut [T]>,
}

// SAFETY: `range` hands out disjoint parts (its contract), which is sending `&mut T` to other threads.
unsafe impl<T: Send> Sync for Parts<'_, T> {}

impl<'a, T> Parts<'a, T> {
    /// Takes the slice for as long as the parts are used.
    pub(crate) fn of(slice: &'a mut [T]) -> Parts<'a, T> {
        Parts {
            start: slice.as_mut_ptr(),
            len: slice.len(),
            slice: std::marker::PhantomData,
        }
    }

    /// The elements `start..end`.
    ///
    /// # Safety
    /// No element may be in two ranges that are alive at the same time.
    #[expect(clippy::mut_from_ref, reason = "the contract keeps the parts disjoint")]
    pub(crate) unsafe fn range(&self, start: usize, end: usize) -> &mut [T] {
        assert!(
            start <= end && end <= self.len,
            "part {start}..{end} of {}",
            self.len
        );
        // SAFETY: in bounds (asserted), disjoint from every other living part (contract).
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), end - start) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(pool: &Pool, tasks: usize) -> Vec<usize> {
        let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
        pool.run(tasks, &|i| {
            counts[i].fetch_add(1, Ordering::Relaxed);
        });
        counts.into_iter().map(AtomicUsize::into_inner).collect()
    }

    #[test]
    fn a_wish_to_stop_lets_no_further_task_begin() {
        for threads in [1, 2, 4] {
            let pool = Pool::new(threads);
            let (wish, begun) = (Arc::new(AtomicBool::new(false)), AtomicUsize::new(0));
            let done = until(&wish, || {
                pool.run(1000, &|task| {
                    begun.fetch_add(1, Ordering::Relaxed);
                    wish.fetch_or(task == 7, Ordering::Relaxed);
                    // The others are in their task meanwhile.
                    while task > 7 && !wish.load(Ordering::Relaxed) {
                        thread::yield_now();
                    }
                });
                assert!(stopped());
                pool.run(1000, &|_| panic!("a job begins after the wish"));
            });
            assert_eq!(done, None);
            let begun = begun.load(Ordering::Relaxed);
            assert!(
                (8..8 + threads).contains(&begun),
                "{begun} tasks with {threads} threads"
            );
        }
    }

    #[test]
    fn without_a_wish_all_is_done_and_outside_nothing_stops() {
        let pool = Pool::new(2);
        let wish = Arc::new(AtomicBool::new(false));
        let count = AtomicUsize::new(0);
        let all = |tasks| {
            pool.run(tasks, &|_| {
                count.fetch_add(1, Ordering::Relaxed);
            })
        };
        assert_eq!(until(&wish, || all(50)), Some(()));
        wish.store(true, Ordering::Relaxed);
        all(50);
        assert!(!stopped() && until(&wish, || ()).is_some());
        assert_eq!(count.load(Ordering::Relaxed), 100);
    }

    #[test]
    fn every_task_runs_exactly_once() {
        for threads in [1, 2, 3, 8] {
            let pool = Pool::new(threads);
            for round in 0..2_000 {
                let tasks = round % 37;
                assert_eq!(counts(&pool, tasks), vec![1; tasks]);
            }
        }
    }

    #[test]
    fn sleeping_workers_do_not_hold_up_a_job() {
        let pool = Pool::new(4);
        for _ in 0..20 {
            // Long enough for the workers to fall asleep without a clock in this crate.
            (0..4_000).for_each(|_| thread::yield_now());
            assert_eq!(counts(&pool, 9), vec![1; 9]);
        }
    }

    #[test]
    #[cfg_attr(not(panic = "unwind"), ignore = "a panic ends the program here")]
    fn a_panic_reaches_the_caller_and_leaves_the_pool_usable() {
        let pool = Pool::new(3);
        for bad in 0..50 {
            let caught = catch_unwind(AssertUnwindSafe(|| {
                pool.run(50, &|i| assert_ne!(i, bad, "planted"));
            }));
            assert!(caught.is_err(), "task {bad} panicked unseen");
            assert_eq!(counts(&pool, 11), vec![1; 11]);
        }
    }

    #[test]
    fn a_run_inside_a_task_is_serial() {
        let pool = Pool::new(3);
        let total = AtomicUsize::new(0);
        pool.run(8, &|_| {
            let home = thread::current().id();
            pool.run(5, &|_| {
                assert_eq!(thread::current().id(), home);
                total.fetch_add(1, Ordering::Relaxed);
            });
        });
        assert_eq!(total.into_inner(), 40);
    }

    #[test]
    #[cfg_attr(target_family = "wasm", ignore = "there is one thread")]
    fn callers_on_several_threads_take_turns() {
        let pool = Pool::new(3);
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| (0..300).for_each(|n| assert_eq!(counts(&pool, n % 7), vec![1; n % 7])));
            }
        });
    }

    #[test]
    fn chunks_cover_the_slice_and_do_not_overlap() {
        let pool = Pool::new(2);
        for len in 0..40 {
            let mut out = vec![0usize; len];
            pool.run_chunks(&mut out, 7, |index, chunk| {
                chunk.iter_mut().for_each(|v| *v += index + 1)
            });
            let expected: Vec<usize> = (0..len).map(|i| i / 7 + 1).collect();
            assert_eq!(out, expected);
        }
    }

    #[test]
    fn each_item_is_one_task() {
        let mut items = [1, 2, 3, 4, 5];
        Pool::new(2).run_each(&mut items, |index, item| *item += 10 * index);
        assert_eq!(items, [1, 12, 23, 34, 45]);
    }
}
