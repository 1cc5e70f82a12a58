//! Machines that were lost: whoever finds that out says so once, and all pass them by until they answer again.
//!
//! A machine that does not answer costs whoever asks it seconds. So the first to have waited tells the others, those that wait for it at the
//! same time among them, and somebody looks for it again and again, with longer pauses, so that nobody who wants an answer has to try.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use heph_types::NodeId;
use tokio::sync::watch;

use super::{Inner, Network};
use crate::peer::greets;

/// Machines of which it is remembered that they were lost; of further ones nobody is told.
const LOST_MAX: usize = 1_024;

/// The first pause before a lost machine is looked for, which is short since one that was only slow is lost for nobody then; each is twice the
/// one before,
const LOOK_FIRST: Duration = Duration::from_millis(50);

/// and none is longer than this.
const LOOK_LAST: Duration = Duration::from_secs(4);

/// How often it is looked for: ten minutes. Who comes back later is found by whoever meets all machines anew, or by its own greeting.
const LOOKS_MAX: usize = 150;

/// How long a lost machine may take to answer.
const LOOK_DEADLINE: Duration = Duration::from_secs(2);

/// Who was lost.
#[derive(Debug)]
pub(super) struct Losses {
    known: Mutex<BTreeMap<NodeId, Known>>,
    /// Changes whenever one is lost.
    told: watch::Sender<()>,
    /// How many came back.
    returns: Mutex<u64>,
}

/// What is known of a machine that was lost once.
#[derive(Debug, Default, Clone, Copy)]
struct Known {
    is_lost: bool,
    /// How often it was.
    times: u64,
}

impl Default for Losses {
    fn default() -> Self {
        Self {
            known: Mutex::default(),
            told: watch::Sender::new(()),
            returns: Mutex::default(),
        }
    }
}

impl Losses {
    /// `node` was lost. Whether that is news.
    fn lose(&self, node: NodeId) -> bool {
        {
            let mut known = lock(&self.known);
            if known.len() >= LOST_MAX && !known.contains_key(&node) {
                return false;
            }
            let one = known.entry(node).or_default();
            if one.is_lost {
                return false;
            }
            (one.is_lost, one.times) = (true, one.times + 1);
        }
        self.told.send_replace(());
        true
    }

    /// `node` answers.
    fn find(&self, node: NodeId) {
        let mut known = lock(&self.known);
        if let Some(one) = known.get_mut(&node).filter(|one| one.is_lost) {
            one.is_lost = false;
            *lock(&self.returns) += 1;
        }
    }

    fn of(&self, node: NodeId) -> Known {
        lock(&self.known).get(&node).copied().unwrap_or_default()
    }
}

impl Network {
    /// `node` does not answer: from now on all pass it by, and it is looked for.
    pub fn lost(&self, node: NodeId) {
        if self.0.losses.lose(node) {
            let inner = std::sync::Arc::downgrade(&self.0);
            self.spawn(look_for(inner, node));
        }
    }

    /// `node` answers.
    pub fn found(&self, node: NodeId) {
        self.0.losses.find(node);
    }

    /// Whether `node` was lost and has not answered since.
    pub fn is_lost(&self, node: NodeId) -> bool {
        self.0.losses.of(node).is_lost
    }

    /// How often `node` was lost so far: a connection from before the last time is worth nothing.
    pub(crate) fn times_lost(&self, node: NodeId) -> u64 {
        self.0.losses.of(node).times
    }

    /// How many machines that were lost answered again so far.
    pub fn returns(&self) -> u64 {
        *lock(&self.0.losses.returns)
    }

    /// Waits until `node` is lost.
    pub(crate) async fn loss_of(&self, node: NodeId) {
        let mut told = self.0.losses.told.subscribe();
        while !self.is_lost(node) {
            if told.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }
}

/// Looks for a lost machine until it answers, for [`LOOKS_MAX`] times at most.
async fn look_for(inner: Weak<Inner>, node: NodeId) {
    let mut pause = LOOK_FIRST;
    for _ in 0..LOOKS_MAX {
        tokio::time::sleep(pause).await;
        pause = LOOK_LAST.min(pause * 2);
        let Some(network) = inner.upgrade().map(Network) else {
            return;
        };
        if !network.is_lost(node) || network.is_closed() {
            return;
        }
        let machine = network.clone();
        let known = network.aside(move || machine.peer(node)).await;
        if matches!(known, Ok(Ok(None))) {
            // It was struck out of the book.
            return;
        }
        if greets(&network, node, LOOK_DEADLINE).await {
            network.found(node);
            return;
        }
    }
}

/// What a lock guards; a thread that panicked with it left it whole.
fn lock<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_news_once_until_the_machine_answers() {
        let (losses, node) = (Losses::default(), NodeId([1; 32]));
        assert!(losses.lose(node) && !losses.lose(node));
        assert!(losses.of(node).is_lost && !losses.of(NodeId([2; 32])).is_lost);
        losses.find(node);
        losses.find(node);
        assert!(!losses.of(node).is_lost);
        assert_eq!(*lock(&losses.returns), 1);
        assert!(losses.lose(node));
        assert_eq!(
            losses.of(node).times,
            2,
            "a connection from before is worth nothing"
        );
    }

    #[test]
    fn no_more_machines_are_remembered_than_may_be() {
        let losses = Losses::default();
        let node = |at: usize| {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&at.to_le_bytes());
            NodeId(id)
        };
        (0..LOST_MAX).for_each(|at| assert!(losses.lose(node(at))));
        assert!(!losses.lose(node(LOST_MAX)) && !losses.of(node(LOST_MAX)).is_lost);
        losses.find(node(0));
        assert!(losses.lose(node(0)));
    }
}
