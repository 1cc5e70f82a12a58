//! Modes that the search does not come by because they cost more than their neighbours: where two machines could share
//! the layers and neither needs to. A person may ask for them all the same, and wants to know what they would take.

use crate::explore::{Explored, explore};
use crate::permit::Permitted;
use crate::plan::{Mode, Place, Plan, Stage};
use crate::search::Effort;
use heph_types::{LayerRange, Leaves, NodeProfile};

/// Machines besides the desk that are tried.
const PEERS_TRIED: usize = 4;

/// Looks from plain shapes for what shares the layers, where nothing was found that does.
pub(crate) fn complete(permitted: &Permitted, explored: &mut Explored) {
    let asked = permitted.request.mode;
    let wanted = [Mode::Layered, Mode::LayeredSpeculative];
    let missing = |mode: &Mode| explored.best[mode.index()].is_none() && asked.is_none_or(|a| a == *mode);
    let drafts = permitted.request.drafts.iter().any(|draft| draft.length_max > 0);
    let missing: Vec<Mode> = wanted
        .into_iter()
        .filter(|mode| missing(mode) && (drafts || *mode == Mode::Layered))
        .collect();
    let Some(like) = explored.best.iter().flatten().next().cloned() else {
        // Where nobody can hold the whole model, sharing was all that was searched.
        return;
    };
    for mode in missing {
        let effort = if asked.is_some() {
            Effort::Full
        } else {
            Effort::Glance
        };
        let found = seeds(permitted, &like).find_map(|seed| {
            let around = explore(permitted, effort, Some(&seed));
            around.best[mode.index()].clone()
        });
        explored.best[mode.index()] = found;
    }
}

/// Plans of two stages over each pair of machines, one of them begun here and one begun there, and a machine between two
/// ends that stay here. Only their stages mean anything.
fn seeds<'a>(permitted: &'a Permitted, like: &'a Plan) -> impl Iterator<Item = Plan> + 'a {
    let layers = like.stages.last().map_or(0, |stage| stage.layers.end());
    let (first, last) = (usize::from(permitted.local.0), usize::from(permitted.local.1));
    let peers = permitted.peers.iter().take(PEERS_TRIED);
    let mut sites: Vec<(Place, &NodeProfile)> = vec![(Place::Desk, &permitted.cluster.desk)];
    sites.extend(peers.map(|(peer, _)| (Place::Peer, &peer.profile)));
    let mut cuts = vec![
        layers / 2,
        1,
        layers.saturating_sub(1),
        first,
        layers.saturating_sub(last),
    ];
    cuts.retain(|cut| *cut > 0 && *cut < layers);
    let mut shapes: Vec<Vec<(usize, usize, usize)>> = Vec::new();
    for one in 0..sites.len() {
        for other in (0..sites.len()).filter(|other| *other != one) {
            shapes.extend(cuts.iter().map(|cut| vec![(one, 0, *cut), (other, *cut, layers)]));
        }
    }
    let (start, end) = (first.max(1), layers.saturating_sub(last.max(1)));
    if start < end {
        shapes.extend((1..sites.len()).map(|at| vec![(0, 0, start), (at, start, end), (0, end, layers)]));
    }
    shapes.into_iter().map(move |shape| {
        let stage = |(site, start, end): (usize, usize, usize)| stage(sites[site], start, end, layers);
        Plan {
            stages: shape.into_iter().filter_map(stage).collect(),
            draft: None,
            mode: Mode::Layered,
            ..like.clone()
        }
    })
}

fn stage((place, profile): (Place, &NodeProfile), start: usize, end: usize, layers: usize) -> Option<Stage> {
    Some(Stage {
        node: profile.node,
        name: profile.name.clone(),
        role: profile.role,
        place,
        layers: LayerRange::new(start, end, layers).ok()?,
        sees: Leaves::Nothing,
        wire_in: None,
        wire_out: None,
        memory: 0,
    })
}
