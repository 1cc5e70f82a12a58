//! Layers that a plan needs at machines which lack them: sent from here, where their owners let them be.

use std::sync::Arc;

use heph_net::transfer::Wanted;
use heph_plan::{Plan, Stage};
use heph_runtime::shards::{ShardError, Shelf};
use heph_runtime::store::{Found, Progress};

use super::Asking;
use crate::failure::Failure;
use crate::machine::Joined;
use crate::terminal;

/// What became of the layers that a plan needs elsewhere.
pub(super) enum Sent {
    /// None are lacking.
    Nothing,
    /// They are there now.
    Layers,
    /// Some machine did not take them, and why.
    Refused(Failure),
}

impl Asking {
    /// Has each machine of the plan take what it lacks of its layers from here, with a bar.
    pub(super) fn send(&self, plan: &Plan) -> Sent {
        let lacking: Vec<&Stage> = plan
            .remote_stages()
            .filter(|stage| stage.send_bytes > 0)
            .collect();
        let (Some(network), Some(found)) = (&self.network, self.model.opened.sendable()) else {
            return Sent::Nothing;
        };
        let mut sent = Sent::Nothing;
        for stage in lacking {
            match self.send_to(network, found, stage) {
                Ok(()) => sent = Sent::Layers,
                Err(error) => return Sent::Refused(Failure::from(error).of(&stage.name)),
            }
        }
        sent
    }

    fn send_to(&self, network: &Joined, found: &Found, stage: &Stage) -> Result<(), ShardError> {
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
        let sent = network.block_on(shelf.hand(network, stage.node, wanted, &mut show));
        bar.finish_and_clear();
        sent
    }
}
