//! What no choice of model changes: the machines that may take part, and the ways between them.

use crate::permit::Permitted;
use crate::request::{CodecProfile, DirectForwarding};
use crate::space::rows;
use core::cell::OnceCell;
use heph_types::{Leaves, LinkProfile, NodeProfile, Role, WireCodec};

/// The desk's number among the sites.
pub(crate) const DESK: usize = 0;

/// The desk and everybody who may take part.
pub(crate) struct Ground<'a> {
    pub(crate) permitted: &'a Permitted<'a>,
    pub(crate) sites: Vec<Site<'a>>,
    /// Ways between sites that are not the desk, row by row; empty where everything passes the desk.
    between: Vec<Option<Known>>,
    /// Those of them that were asked for.
    ways: Vec<OnceCell<Box<Way>>>,
    /// Rows of every pass that may be asked for, and for each site what it takes times its floors then.
    rows: Vec<u32>,
    factors: Vec<OnceCell<f64>>,
}

/// Where a way between two sites stands in [`crate::Cluster::between`].
#[derive(Debug, Clone, Copy)]
struct Known {
    at: u32,
    /// Whether it is told from the other end.
    back: bool,
}

/// A machine that may take layers.
pub(crate) struct Site<'a> {
    pub(crate) profile: &'a NodeProfile,
    pub(crate) leaves: Leaves,
    /// From the desk; of no meaning for the desk itself.
    pub(crate) way: Way,
    pub(crate) memory: f64,
    pub(crate) overhead: f64,
    /// Seconds of what waits there.
    pub(crate) queue: f64,
    /// Share of the processor that the owner allows.
    pub(crate) share: f64,
    /// Bytes of layers that the desk may send there: its owner's other machines alone take any.
    pub(crate) accepts: f64,
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
        let sites: Vec<Site> = std::iter::once(desk).chain(peers).collect();
        let rows = rows(permitted.request);
        let mut ground = Ground {
            permitted,
            between: Vec::new(),
            ways: Vec::new(),
            factors: vec![OnceCell::new(); rows.len() * sites.len()],
            rows,
            sites,
        };
        if permitted.request.direct == DirectForwarding::Allowed {
            ground.between = ground.known_between();
            ground.ways = vec![OnceCell::new(); ground.between.len()];
        }
        ground
    }

    /// The way from one site to another, neither of them the desk.
    pub(crate) fn between(&self, from: usize, to: usize) -> Option<&Way> {
        let at = from * self.sites.len() + to;
        let known = (*self.between.get(at)?)?;
        Some(self.ways[at].get_or_init(|| {
            let link = &self.permitted.cluster.between[known.at as usize].link;
            let (up, down) = match known.back {
                true => (link.down, link.up),
                false => (link.up, link.down),
            };
            Box::new(way(self.permitted, link.round_trip_seconds(), up, down))
        }))
    }

    /// How many times its floors a pass of so many rows takes at a site.
    pub(crate) fn factor(&self, site: usize, rows: u32) -> f64 {
        let of = &self.sites[site];
        let factor = || of.profile.speed.factor(rows) / of.share;
        match self.rows.binary_search(&rows) {
            Ok(at) => *self.factors[site * self.rows.len() + at].get_or_init(factor),
            Err(_) => factor(),
        }
    }

    fn known_between(&self) -> Vec<Option<Known>> {
        let count = self.sites.len();
        let mut known = vec![None; count * count];
        let places = self.site_of_places();
        for (at, pair) in (0u32..).zip(&*self.permitted.pairs) {
            let sites = pair.and_then(|(from, to)| Some((places[from]?, places[to]?)));
            let Some((from, to)) = sites else {
                continue;
            };
            known[from * count + to] = Some(Known { at, back: false });
            known[to * count + from].get_or_insert(Known { at, back: true });
        }
        known
    }

    /// For each place in the cluster's list, the site there, where it may take part.
    fn site_of_places(&self) -> Vec<Option<usize>> {
        // Those who may take part stand in the order of the list.
        let mut sites = (DESK + 1..self.sites.len()).peekable();
        let nodes = self.permitted.cluster.nodes.iter();
        nodes
            .map(|peer| sites.next_if(|site| self.sites[*site].profile.node == peer.profile.node))
            .collect()
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
        accepts: match profile.role {
            Role::Own => profile.caps.accepts_bytes as f64,
            Role::Cloud | Role::Miner | Role::Edge => 0.0,
        },
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
