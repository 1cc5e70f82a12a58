//! Weights that were left in the file when the model was loaded, and are packed little by little.
//!
//! The memory that packing asks for is new to the process, and a system hands it out slowly: on some virtual machines
//! ten times slower than the weights are read. So the first pass does without it, and what comes after shares the wait.

use super::{Model, Weight};
use heph_kernels::pack::{Packed, Room};
use heph_kernels::pool::Pool;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// Passes that share the packing: each takes about twice as long as it would, and after a sentence all is done.
const PASSES: usize = 32;

/// What is still in the file.
pub(super) struct Unsettled {
    /// Whether a pass was made.
    begun: AtomicBool,
    /// Whether nothing is left to do.
    done: AtomicBool,
    left: Mutex<Left>,
}

struct Left {
    /// Weights looked at so far.
    next: usize,
    /// Bytes of one share.
    share: usize,
    room: Room,
}

impl Unsettled {
    /// Of freshly loaded weights, with room for those that are not packed.
    pub(super) fn of(weights: &[Weight], room: Room) -> Unsettled {
        let bytes: usize = weights.iter().map(Weight::bytes_in_file).sum();
        let left = Left {
            next: 0,
            share: bytes.div_ceil(PASSES),
            room,
        };
        Unsettled {
            begun: AtomicBool::new(false),
            done: AtomicBool::new(bytes == 0),
            left: Mutex::new(left),
        }
    }

    /// Whether nothing is left to do.
    pub(super) fn done(&self) -> bool {
        self.done.load(Ordering::Acquire)
    }

    /// Packs a share, unless this is the first pass or another thread is at it.
    pub(super) fn share(&self, model: &Model, pool: &Pool) {
        if self.done() || !self.begun.swap(true, Ordering::Relaxed) {
            return;
        }
        if let Ok(mut left) = self.left.try_lock() {
            let share = left.share;
            self.pack(&mut left, share, model, pool);
        }
    }

    /// Packs all that is left.
    pub(super) fn all(&self, model: &Model, pool: &Pool) {
        if !self.done() {
            let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
            self.pack(&mut left, usize::MAX, model, pool);
        }
    }

    /// Packs whole tensors until they are `share` bytes or more.
    fn pack(&self, left: &mut Left, share: usize, model: &Model, pool: &Pool) {
        let mut packed = 0;
        while packed < share {
            let Some(weight) = model.weights.get(left.next) else {
                left.room = Room::default();
                self.done.store(true, Ordering::Release);
                return;
            };
            packed += weight.bytes_in_file();
            weight.settle(&mut left.room, pool);
            left.next += 1;
        }
    }
}

impl Weight {
    /// Bytes of those of its matrices that lie in the file.
    pub(super) fn bytes_in_file(&self) -> usize {
        self.matrices()
            .iter()
            .filter(|m| !m.settled())
            .map(|m| m.bytes())
            .sum()
    }

    /// Packs its matrices. Those that there is no memory for stay where they are, and stay right.
    fn settle(&self, room: &mut Room, pool: &Pool) {
        for matrix in self.matrices() {
            let _ = matrix.settle(room, pool);
        }
    }

    fn matrices(&self) -> &[Packed] {
        match self {
            Weight::Matrix(one) => std::slice::from_ref(one),
            Weight::Experts(all) => all,
            Weight::Vector(_) | Weight::Table | Weight::Absent => &[],
        }
    }
}
