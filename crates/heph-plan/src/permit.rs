//! The first rule: who may take part at all. Everything after it sees only what this file lets through.
//!
//! A [`Permitted`] can be made only here, and the search takes nothing else: a later rule cannot weigh privacy against
//! time, because what the policy forbids is no longer there.

use crate::cluster::{Cluster, Pair, Peer};
use crate::request::{CodecProfile, Request};
use heph_types::{Exactness, Leaves, NodeState};
use std::rc::Rc;

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
    /// As [`Cluster::pairs`].
    pub(crate) pairs: Rc<[Option<Pair>]>,
}

/// Drops every node that the policy, its owner or its exactness keeps out, and every codec that an exact answer cannot
/// use.
pub(crate) fn permit<'a>(request: &'a Request, cluster: &'a Cluster) -> Permitted<'a> {
    permit_among(request, cluster, cluster.pairs().into())
}

/// As [`permit`], where [`Cluster::pairs`] are known.
pub(crate) fn permit_among<'a>(
    request: &'a Request,
    cluster: &'a Cluster,
    pairs: Rc<[Option<Pair>]>,
) -> Permitted<'a> {
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
            .filter(|c| c.codec.is_exact() || !policy.exact_only || request.rounds)
            .collect(),
        local: (policy.layers_local_first, policy.layers_local_last),
        pairs,
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
            pairs: cluster.pairs().into(),
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

    /// Whoever gets rows reads the text, however many layers ran before (`heph privacy-report`): keeping layers here is a
    /// wish about places, and lets nobody see more.
    #[test]
    fn no_number_of_local_layers_lets_anybody_see_more() {
        let (request, cluster) = private_scene();
        let layers = request.models[0].profile.layers.len() as u16;
        let seen = |first, last| {
            let mut request = request.clone();
            (
                request.policy.layers_local_first,
                request.policy.layers_local_last,
            ) = (first, last);
            let permitted = permit(&request, &cluster);
            let seen: Vec<_> = permitted
                .peers
                .iter()
                .map(|(peer, sees)| (peer.profile.node, *sees))
                .collect();
            let plans = explore(&permitted, Effort::Full, None);
            let leaked = plans.best.iter().flatten().any(|plan| leaks(plan, &request));
            (seen, leaked)
        };
        let usual = seen(0, 0).0;
        assert_eq!(usual.len(), 1, "the stranger is out and the friend is in");
        for first in 0..=layers {
            for last in [0, 1, layers - first] {
                assert_eq!(
                    seen(first, last),
                    (usual.clone(), false),
                    "{first} and {last} kept here"
                );
            }
        }
    }
}
