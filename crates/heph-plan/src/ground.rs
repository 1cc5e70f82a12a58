//! What no choice of model changes: the machines that may take part, and the ways between them.

use crate::permit::Permitted;
use crate::request::{CodecProfile, DirectForwarding};
use heph_types::{Leaves, LinkProfile, NodeId, NodeProfile, WireCodec};
use std::collections::BTreeMap;

/// The desk's number among the sites.
pub(crate) const DESK: usize = 0;

/// The desk and everybody who may take part.
pub(crate) struct Ground<'a> {
    pub(crate) permitted: &'a Permitted<'a>,
    pub(crate) sites: Vec<Site<'a>>,
    /// Ways between sites that are not the desk, row by row; empty where everything passes the desk.
    between: Vec<Option<Way>>,
}

/// A machine that may take layers.
pub(crate) struct Site<'a> {
    pub(crate) profile: &'a NodeProfile,
    pub(crate) leaves: Leaves,
    /// From the desk; of no meaning for the desk itself.
    pub(crate) way: Way,
    pub(crate) memory: f64,
    pub(crate) overhead: f64,
    pub(crate) queue: f64,
    /// Share of the processor that the owner allows.
    pub(crate) share: f64,
}

/// A way there and back.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Way {
    pub(crate) round_trip: f64,
    /// Bytes a second away from the desk, or from the first-named site.
    pub(crate) up: f64,
    pub(crate) down: f64,
    /// The codec that takes least time there and back: of the exact ones, and of all.
    codecs: [CodecProfile; 2],
}

impl Way {
    /// The codec of hidden states on this way.
    pub(crate) fn codec(&self, lossy: bool) -> CodecProfile {
        self.codecs[usize::from(lossy)]
    }
}

impl<'a> Ground<'a> {
    pub(crate) fn new(permitted: &'a Permitted<'a>) -> Ground<'a> {
        let desk = site(permitted, &permitted.cluster.desk, Leaves::Text, None);
        let peers = permitted.peers.iter();
        let peers = peers.map(|(peer, leaves)| site(permitted, &peer.profile, *leaves, Some(&peer.link)));
        let mut ground = Ground {
            permitted,
            sites: std::iter::once(desk).chain(peers).collect(),
            between: Vec::new(),
        };
        if permitted.request.direct == DirectForwarding::Allowed {
            ground.between = ground.ways_between();
        }
        ground
    }

    /// The way from one site to another, neither of them the desk.
    pub(crate) fn between(&self, from: usize, to: usize) -> Option<&Way> {
        self.between.get(from * self.sites.len() + to)?.as_ref()
    }

    fn ways_between(&self) -> Vec<Option<Way>> {
        let count = self.sites.len();
        let mut ways = vec![None; count * count];
        let numbered = self.sites.iter().enumerate();
        let numbers: BTreeMap<NodeId, usize> = numbered.map(|(at, s)| (s.profile.node, at)).collect();
        for known in &self.permitted.cluster.between {
            let (Some(from), Some(to)) = (numbers.get(&known.from), numbers.get(&known.to)) else {
                continue;
            };
            let way = |up, down| way(self.permitted, known.link.round_trip_seconds(), up, down);
            ways[from * count + to] = Some(way(known.link.up, known.link.down));
            ways[to * count + from].get_or_insert(way(known.link.down, known.link.up));
        }
        ways
    }
}

fn site<'a>(
    permitted: &Permitted,
    profile: &'a NodeProfile,
    leaves: Leaves,
    link: Option<&LinkProfile>,
) -> Site<'a> {
    let cap = profile.caps.bytes_per_second.unwrap_or(f64::INFINITY);
    let way = match link {
        Some(link) => way(
            permitted,
            link.round_trip_seconds(),
            link.up.min(cap),
            link.down.min(cap),
        ),
        None => way(permitted, 0.0, 1.0, 1.0),
    };
    Site {
        profile,
        leaves,
        way,
        memory: profile.memory_usable() as f64,
        overhead: profile.speed.overhead.as_secs_f64(),
        queue: profile.queue.as_secs_f64(),
        share: profile.caps.cpu.map_or(1.0, |s| s.min(1.0)),
    }
}

fn way(permitted: &Permitted, round_trip: f64, up: f64, down: f64) -> Way {
    let seconds =
        |c: &CodecProfile| c.bytes_per_number * (1.0 / up + 1.0 / down) + 2.0 * c.seconds_per_number;
    let best = |lossy: bool| {
        let usable = permitted.codecs.iter().filter(|c| lossy || c.codec.is_exact());
        let best = usable.min_by(|a, b| seconds(a).total_cmp(&seconds(b)));
        best.copied().unwrap_or(CodecProfile::nominal(WireCodec::F32))
    };
    let codecs = [best(false), best(true)];
    Way {
        round_trip,
        up,
        down,
        codecs,
    }
}
