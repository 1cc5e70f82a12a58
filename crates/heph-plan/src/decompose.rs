//! Work that falls into parts: which part may run next, and that each counts once whoever made it.
//!
//! A part is lent to a worker for a time, under an attempt's number. What comes back under an older number, or a second
//! time, is not counted. Nothing here knows what a part does; a long document's parts and sub-questions are planned by
//! [`map_reduce`] and [`Jobs::new`].

mod questions;

pub use questions::{QUESTIONS_MAX, questions};

use core::time::Duration;
use std::collections::VecDeque;

/// Parts that one piece of work may have.
pub const JOBS_MAX: usize = 4096;
/// How often one part may fail, or not come back in time, before the work fails. A worker that is lost counts for nothing: each is lost once.
pub const ATTEMPTS_MAX: u32 = 8;

/// A part, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(pub u32);

/// Which try of a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attempt(pub u32);

/// A part that somebody has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// The part.
    pub job: JobId,
    /// The try: comes back with the result.
    pub attempt: Attempt,
    /// When it is given to somebody else, on the clock that the caller counts by.
    pub until: Duration,
}

/// What became of a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counted {
    /// It counts.
    Yes,
    /// The part was counted already.
    Already,
    /// The lease has ended and the part is somebody else's.
    Late,
    /// There is no such part or try.
    Unknown,
}

/// Why work cannot begin or go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JobsError {
    /// Too many parts.
    #[error("{0} parts are asked for, 4096 is the most")]
    TooMany(usize),
    /// A part waits for one that comes later or for itself.
    #[error("part {0:?} waits for a part that is not before it")]
    Order(JobId),
    /// A part failed too often.
    #[error("part {0:?} failed, or did not come back in time, eight times")]
    Failed(JobId),
}

#[derive(Debug, Clone)]
enum State {
    Waiting { missing: usize },
    Ready,
    Lent { attempt: Attempt, until: Duration },
    Done,
}

/// Parts and who has them. `R` is a part's result.
#[derive(Debug, Clone)]
pub struct Jobs<R> {
    needs: Vec<Vec<JobId>>,
    wanted_by: Vec<Vec<JobId>>,
    states: Vec<State>,
    attempts: Vec<u32>,
    failures: Vec<u32>,
    ready: VecDeque<JobId>,
    results: Vec<Option<R>>,
    done: usize,
}

impl<R> Jobs<R> {
    /// Parts in an order in which each waits only for parts before it.
    pub fn new(needs: Vec<Vec<JobId>>) -> Result<Jobs<R>, JobsError> {
        let count = needs.len();
        if count > JOBS_MAX {
            return Err(JobsError::TooMany(count));
        }
        let mut jobs = Jobs {
            wanted_by: vec![Vec::new(); count],
            states: Vec::with_capacity(count),
            attempts: vec![0; count],
            failures: vec![0; count],
            ready: VecDeque::new(),
            results: (0..count).map(|_| None).collect(),
            done: 0,
            needs,
        };
        for at in 0..count {
            let id = JobId(at as u32);
            jobs.needs[at].sort_unstable();
            jobs.needs[at].dedup();
            if jobs.needs[at].last().is_some_and(|last| *last >= id) {
                return Err(JobsError::Order(id));
            }
            for need in jobs.needs[at].clone() {
                jobs.wanted_by[need.0 as usize].push(id);
            }
            let missing = jobs.needs[at].len();
            if missing == 0 {
                jobs.ready.push_back(id);
            }
            jobs.states.push(match missing {
                0 => State::Ready,
                missing => State::Waiting { missing },
            });
        }
        Ok(jobs)
    }

    /// Lends the next part that is ready, until `now + lease`. `None` where nothing is ready.
    pub fn lend(&mut self, now: Duration, lease: Duration) -> Result<Option<Lease>, JobsError> {
        self.take_back(now);
        let Some(job) = self.ready.pop_front() else {
            return Ok(None);
        };
        let at = job.0 as usize;
        if self.failures[at] >= ATTEMPTS_MAX {
            return Err(JobsError::Failed(job));
        }
        self.attempts[at] += 1;
        let attempt = Attempt(self.attempts[at]);
        let until = now.saturating_add(lease);
        self.states[at] = State::Lent { attempt, until };
        Ok(Some(Lease { job, attempt, until }))
    }

    /// Takes a result. It counts only for the part's present lease, and once.
    pub fn finish(&mut self, lease: Lease, result: R) -> Counted {
        let at = lease.job.0 as usize;
        match self.states.get(at) {
            None => Counted::Unknown,
            Some(State::Done) => Counted::Already,
            Some(State::Lent { attempt, .. }) if *attempt == lease.attempt => {
                self.count(lease.job, result);
                Counted::Yes
            }
            Some(_) if lease.attempt.0 == 0 || lease.attempt.0 > self.attempts[at] => Counted::Unknown,
            Some(_) => Counted::Late,
        }
    }

    /// Gives a part back at once: its worker is known to be dead.
    pub fn abandon(&mut self, lease: Lease) {
        let at = lease.job.0 as usize;
        if self.is_lent(lease) {
            self.states[at] = State::Ready;
            self.ready.push_front(lease.job);
        }
    }

    /// Gives a part back at once: its worker lives and could not do it.
    pub fn fail(&mut self, lease: Lease) {
        if self.is_lent(lease) {
            self.failures[lease.job.0 as usize] += 1;
        }
        self.abandon(lease);
    }

    /// Whether this is the part's present lease.
    fn is_lent(&self, lease: Lease) -> bool {
        let state = self.states.get(lease.job.0 as usize);
        matches!(state, Some(State::Lent { attempt, .. }) if *attempt == lease.attempt)
    }

    /// The results that a part waits for, once all are there.
    pub fn inputs(&self, job: JobId) -> Option<Vec<&R>> {
        let needs = self.needs.get(job.0 as usize)?;
        needs
            .iter()
            .map(|need| self.results[need.0 as usize].as_ref())
            .collect()
    }

    /// A part's result.
    pub fn result(&self, job: JobId) -> Option<&R> {
        self.results.get(job.0 as usize)?.as_ref()
    }

    /// Parts that count.
    pub fn done(&self) -> usize {
        self.done
    }

    /// Whether every part counts.
    pub fn is_finished(&self) -> bool {
        self.done == self.states.len()
    }

    fn take_back(&mut self, now: Duration) {
        for at in 0..self.states.len() {
            if matches!(self.states[at], State::Lent { until, .. } if until <= now) {
                self.states[at] = State::Ready;
                self.failures[at] += 1;
                self.ready.push_back(JobId(at as u32));
            }
        }
    }

    fn count(&mut self, job: JobId, result: R) {
        let at = job.0 as usize;
        self.states[at] = State::Done;
        self.results[at] = Some(result);
        self.done += 1;
        for next in self.wanted_by[at].clone() {
            if let State::Waiting { missing } = &mut self.states[next.0 as usize] {
                *missing -= 1;
                if *missing == 0 {
                    self.states[next.0 as usize] = State::Ready;
                    self.ready.push_back(next);
                }
            }
        }
    }
}

/// A long document as pieces that are read apart and joined, some at a time, until one is left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MapReduce {
    /// Tokens of the document that each of the first parts reads.
    pub pieces: Vec<std::ops::Range<usize>>,
    /// What every part waits for: the pieces wait for nothing, the joins come after them, the last one is the answer.
    pub needs: Vec<Vec<JobId>>,
}

/// Cuts `tokens` into pieces of at most `piece`, each beginning `overlap` before the last one's end, and joins at most
/// `fan_in` results at a time. `None` where the numbers make no sense or too many parts.
pub fn map_reduce(tokens: usize, piece: usize, overlap: usize, fan_in: usize) -> Option<MapReduce> {
    if piece == 0 || overlap >= piece || fan_in < 2 || tokens == 0 {
        return None;
    }
    if tokens / (piece - overlap) > JOBS_MAX {
        return None;
    }
    let mut pieces = Vec::new();
    let mut start = 0;
    loop {
        let end = (start + piece).min(tokens);
        pieces.push(start..end);
        if end == tokens {
            break;
        }
        start = end - overlap;
    }
    let mut needs: Vec<Vec<JobId>> = vec![Vec::new(); pieces.len()];
    let mut level: Vec<JobId> = (0..pieces.len() as u32).map(JobId).collect();
    while level.len() > 1 {
        let mut next = Vec::new();
        for group in level.chunks(fan_in) {
            match group {
                // Alone in its group, it is what the level above gets.
                [one] => next.push(*one),
                several => {
                    next.push(JobId(needs.len() as u32));
                    needs.push(several.to_vec());
                }
            }
        }
        level = next;
    }
    (needs.len() <= JOBS_MAX).then_some(MapReduce { pieces, needs })
}

/// What a part of several questions about one text does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// For which question.
    pub question: usize,
    /// The piece that it reads; `None` where it joins what others noted.
    pub piece: Option<usize>,
}

/// Questions beside each other, each a [`map_reduce`] of its own over the same pieces: none waits for another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Several {
    /// The parts, one question's after another's.
    pub parts: Vec<Part>,
    /// What every part waits for.
    pub needs: Vec<Vec<JobId>>,
    /// The part that is a question's answer, for each.
    pub answers: Vec<JobId>,
}

/// The parts of so many questions about so many pieces, of whose notes `fan_in` are joined at a time. `None` where the
/// numbers make no sense or too many parts.
pub fn several(questions: usize, pieces: usize, fan_in: usize) -> Option<Several> {
    let one = map_reduce(pieces, 1, 0, fan_in)?;
    let count = one.needs.len();
    if questions == 0 || count.checked_mul(questions)? > JOBS_MAX {
        return None;
    }
    let mut several = Several {
        parts: Vec::new(),
        needs: Vec::new(),
        answers: Vec::new(),
    };
    for question in 0..questions {
        let first = (question * count) as u32;
        let shifted = |needs: &Vec<JobId>| needs.iter().map(|need| JobId(first + need.0)).collect();
        several.needs.extend(one.needs.iter().map(shifted));
        let part = |at: usize| Part {
            question,
            piece: (at < pieces).then_some(at),
        };
        several.parts.extend((0..count).map(part));
        several.answers.push(JobId(first + count as u32 - 1));
    }
    Some(several)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(10);

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn sixty_four_parts_count_once_each_though_three_workers_die() {
        let mut needs = vec![Vec::new(); 60];
        needs.extend((0..4).map(|group| (group * 15..group * 15 + 15).map(JobId).collect()));
        for deaths in [[1u64, 5, 9], [2, 3, 4], [20, 21, 22]] {
            let mut jobs: Jobs<u32> = Jobs::new(needs.clone()).unwrap();
            let mut counts = [0; 64];
            let mut workers: Vec<Option<Lease>> = vec![None; 8];
            let mut ghosts = Vec::new();
            let mut now = 0;
            while !jobs.is_finished() {
                now += 1;
                assert!(now < 1000, "the work ends");
                for (worker, has) in workers.iter_mut().enumerate() {
                    if let Some(lease) = has.take() {
                        // A dead worker's last part still comes, too late, from somewhere.
                        if deaths.contains(&now) && worker < 3 {
                            ghosts.push((now + 12, lease));
                            continue;
                        }
                        if jobs.finish(lease, 1) == Counted::Yes {
                            counts[lease.job.0 as usize] += 1;
                        }
                    }
                    *has = jobs.lend(at(now), LEASE).unwrap();
                }
                for (when, lease) in &ghosts {
                    if *when == now && jobs.finish(*lease, 1) == Counted::Yes {
                        counts[lease.job.0 as usize] += 1;
                    }
                }
            }
            assert_eq!((counts, jobs.done()), ([1; 64], 64));
        }
    }

    #[test]
    fn a_late_result_does_not_count_twice() {
        let mut jobs: Jobs<&str> = Jobs::new(vec![Vec::new()]).unwrap();
        let first = jobs.lend(at(0), LEASE).unwrap().unwrap();
        assert!(jobs.lend(at(5), LEASE).unwrap().is_none());
        let second = jobs.lend(at(10), LEASE).unwrap().unwrap();
        assert_eq!(jobs.finish(first, "late"), Counted::Late);
        assert_eq!(jobs.finish(second, "in time"), Counted::Yes);
        assert_eq!(jobs.finish(second, "again"), Counted::Already);
        assert_eq!(jobs.result(JobId(0)), Some(&"in time"));
        let stranger = Lease {
            job: JobId(9),
            ..first
        };
        assert_eq!(jobs.finish(stranger, ""), Counted::Unknown);
    }

    #[test]
    fn a_part_outlives_any_number_of_workers_that_are_lost_with_it_and_not_of_those_that_fail_at_it() {
        let mut jobs: Jobs<&str> = Jobs::new(vec![Vec::new()]).unwrap();
        for _ in 0..3 * ATTEMPTS_MAX {
            let lease = jobs.lend(at(0), LEASE).unwrap().unwrap();
            jobs.abandon(lease);
            assert_eq!(jobs.finish(lease, "from the dead"), Counted::Late);
        }
        for _ in 0..ATTEMPTS_MAX {
            let lease = jobs.lend(at(0), LEASE).unwrap().unwrap();
            jobs.fail(lease);
            jobs.fail(lease);
        }
        assert_eq!(jobs.lend(at(0), LEASE), Err(JobsError::Failed(JobId(0))));
    }

    #[test]
    fn a_part_that_never_comes_back_ends_the_work_with_its_name() {
        let mut jobs: Jobs<()> = Jobs::new(vec![Vec::new()]).unwrap();
        for attempt in 0..u64::from(ATTEMPTS_MAX) {
            assert!(jobs.lend(at(attempt * 10), LEASE).unwrap().is_some());
        }
        assert_eq!(jobs.lend(at(1000), LEASE), Err(JobsError::Failed(JobId(0))));
    }

    #[test]
    fn a_document_is_covered_and_joined_into_one() {
        for (tokens, piece, overlap, fan_in) in
            [(1, 10, 0, 2), (100, 10, 2, 3), (1000, 64, 8, 4), (64, 64, 0, 2)]
        {
            let plan = map_reduce(tokens, piece, overlap, fan_in).unwrap();
            let covered = (0..tokens).all(|t| plan.pieces.iter().any(|p| p.contains(&t)));
            assert!(covered && plan.pieces.iter().all(|p| p.len() <= piece));
            let joined: Vec<JobId> = plan.needs.iter().flatten().copied().collect();
            let mut once = joined.clone();
            once.sort_unstable();
            once.dedup();
            assert_eq!(
                (once.len(), joined.len()),
                (plan.needs.len() - 1, plan.needs.len() - 1)
            );
            assert!(Jobs::<()>::new(plan.needs).is_ok());
        }
        assert_eq!(map_reduce(100, 10, 10, 2), None);
    }

    #[test]
    fn questions_stand_beside_each_other_and_end_in_an_answer_each() {
        let plan = several(3, 5, 2).unwrap();
        let one = map_reduce(5, 1, 0, 2).unwrap().needs.len();
        assert_eq!((plan.parts.len(), plan.needs.len()), (3 * one, 3 * one));
        assert_eq!(plan.answers.len(), 3);
        for (at, needs) in plan.needs.iter().enumerate() {
            let own = |need: &JobId| plan.parts[need.0 as usize].question == plan.parts[at].question;
            assert!(needs.iter().all(own), "no question waits for another");
            assert_eq!(needs.is_empty(), plan.parts[at].piece.is_some());
        }
        assert!(Jobs::<()>::new(plan.needs).is_ok());
        assert_eq!(several(1, 1, 2).unwrap().answers, [JobId(0)]);
        assert_eq!(several(16, JOBS_MAX, 2), None);
        assert_eq!(several(0, 5, 2), None);
    }
}
