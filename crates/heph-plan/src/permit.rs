//! The first rule: who may take part at all. Everything after it sees only what this file lets through.
//!
//! A [`Permitted`] can be made only here, and the search takes nothing else: a later rule cannot weigh privacy against
//! time, because what the policy forbids is no longer there.

use crate::cluster::{Cluster, Peer};
use crate::request::{CodecProfile, Request};
use heph_types::{Exactness, Leaves, NodeState};

/// What is left of a cluster after policy, and where the text must stay.
#[derive(Debug, Clone)]
pub(crate) struct Permitted<'a> {
    /// The request.
    pub(crate) request: &'a Request,
    /// The cluster.
    pub(crate) cluster: &'a Cluster,
    /// Nodes that may take part, and the most that each may see: activations or text.
    pub(crate) peers: Vec<(&'a Peer, Leaves)>,
    /// Codecs that may be used.
    pub(crate) codecs: Vec<CodecProfile>,
    /// Layers that must run here at the beginning and at the end.
    pub(crate) local: (u16, u16),
}

/// Drops every node that the policy, its owner or its exactness keeps out, and every codec that an exact answer cannot
/// use.
pub(crate) fn permit<'a>(request: &'a Request, cluster: &'a Cluster) -> Permitted<'a> {
    let policy = &request.policy;
    let exact = |class: Exactness| class == Exactness::Exact || !policy.exact_only;
    let peers = cluster.nodes.iter().filter_map(|peer| {
        let profile = &peer.profile;
        let leaves = policy.seen_by(profile.node, profile.role);
        let open = profile.state == NodeState::Open && exact(profile.exactness);
        (leaves >= Leaves::Activations && open).then_some((peer, leaves))
    });
    let codecs = request.codecs.iter().copied();
    Permitted {
        request,
        cluster,
        peers: peers.collect(),
        codecs: codecs
            .filter(|c| c.codec.is_exact() || !policy.exact_only)
            .collect(),
        local: (policy.layers_local_first, policy.layers_local_last),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::explore::explore;
    use crate::scenes::{leaks, private_scene};
    use crate::search::Effort;

    /// The bug that this test plants: nobody looks at the policy.
    fn permit_everything<'a>(request: &'a Request, cluster: &'a Cluster) -> Permitted<'a> {
        let text = |peer| (peer, Leaves::Text);
        Permitted {
            request,
            cluster,
            peers: cluster.nodes.iter().map(text).collect(),
            codecs: request.codecs.clone(),
            local: (0, 0),
        }
    }

    #[test]
    fn without_this_rule_private_text_leaves_and_the_check_sees_it() {
        let (request, cluster) = private_scene();
        let planted = explore(&permit_everything(&request, &cluster), Effort::Full, None);
        assert!(planted.best.iter().flatten().any(|plan| leaks(plan, &request)));
        assert!(leaks(planted.chosen(None).unwrap(), &request));
        let right = explore(&permit(&request, &cluster), Effort::Full, None);
        assert!(!right.best.iter().flatten().any(|plan| leaks(plan, &request)));
    }
}
