//! Layers that a plan needs at machines which lack them: sent from here, where their owners let them be.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use heph_net::transfer::Wanted;
use heph_plan::{Plan, Stage};
use heph_runtime::receipt::WeightsLine;
use heph_runtime::shards::{ShardError, Shelf};
use heph_runtime::store::{Found, Progress};

use super::Asking;
use crate::failure::Failure;
use crate::machine::Joined;
use crate::terminal;

/// What became of the layers that a plan needs elsewhere.
#[derive(Default)]
pub(super) struct Sent {
    /// What left for them.
    pub(super) weights: Vec<WeightsLine>,
    /// That some machine did not take them, and why.
    pub(super) refused: Option<Failure>,
}

impl Sent {
    /// Whether nobody was asked to take any.
    pub(super) fn is_nothing(&self) -> bool {
        self.weights.is_empty() && self.refused.is_none()
    }
}

impl Asking {
    /// Has each machine of the plan take what it lacks of its layers from here, with a bar.
    pub(super) fn send(&self, plan: &Plan) -> Sent {
        let mut sent = Sent::default();
        let (Some(network), Some(found)) = (&self.network, self.model.opened.sendable()) else {
            return sent;
        };
        for stage in plan.remote_stages().filter(|stage| stage.send_bytes > 0) {
            let left = Arc::new(AtomicU64::new(0));
            let handed = self.send_to(network, found, stage, &left);
            sent.weights.push(WeightsLine {
                node: stage.node,
                name: stage.name.clone(),
                layers: stage.layers,
                bytes: left.load(Ordering::Relaxed),
            });
            if let Err(error) = handed {
                sent.refused = Some(Failure::from(error).of(&stage.name));
                break;
            }
        }
        sent
    }

    fn send_to(
        &self,
        network: &Joined,
        found: &Found,
        stage: &Stage,
        left: &Arc<AtomicU64>,
    ) -> Result<(), ShardError> {
        let shelf = Arc::new(Shelf::new(&self.home));
        // Of several files the parts would have another name than the whole.
        if shelf.put(found)? != self.hash {
            return Err(ShardError::NotGguf);
        }
        let (from, to) = (stage.layers.start(), stage.layers.end());
        let bar = terminal::bytes_bar(&format!("layers {from}..{to} to {}", stage.name));
        let mut show = |step: heph_net::transfer::Progress| {
            let total = Some(step.total_bytes);
            let done = step.done_bytes;
            terminal::show(&bar, Progress { done, total });
        };
        let wanted = Wanted {
            model: self.hash,
            layers: stage.layers,
        };
        let sent = network.block_on(shelf.hand(network, stage.node, wanted, &mut show, left));
        bar.finish_and_clear();
        sent
    }
}
