//! How fast the ways to the peers are: measured by a short probe or by what was really carried, smoothed, and kept beside
//! the book of peers with the time it was found out. And how far two peers are from each other, as one of them told when
//! they met.
//!
//! The book itself says who is trusted and is changed by a person's word only; measuring never writes it. A file that is
//! lost or damaged costs new measurements, no more.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use heph_net::endpoint::Protocol;
use heph_net::transfer::{self, Goodput};
use heph_types::NodeId;
use serde::{Deserialize, Serialize};

use crate::network::Network;

/// The file below HEPH's folder.
const FILE: &str = "ways.json";

/// Ways that are remembered: as many as the book holds peers. The oldest make room.
const WAYS_MAX: usize = heph_net::trust::PEERS_MAX;

/// Pairs of peers whose distance is remembered: 64 machines of one person have 2,016. The oldest make room.
const APART_MAX: usize = 2_048;

/// A longer round trip is no measurement of anything that rows could be sent over.
const APART_LONGEST: Duration = Duration::from_secs(60);

/// 1,024 ways and 2,048 distances of about 250 bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What a new measurement counts beside what was known.
const SHARE_NEW: f64 = 0.3;

/// A measurement older than this counts no longer beside a new one: the machine may be elsewhere by now.
const STALE_S: u64 = 24 * 3600;

/// How long a measurement is good enough to plan with before the way is probed again.
pub const FRESH_S: u64 = 3600;

/// How long a peer may take to be connected to for a probe.
const CONNECT_DEADLINE: Duration = Duration::from_secs(2);

/// The way to one peer, as it was measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measured {
    /// Bytes of payload a second away from here.
    pub up: f64,
    /// Bytes of payload a second towards here.
    pub down: f64,
    /// When it was measured last, in seconds since 1970.
    pub at_unix_s: u64,
}

impl Measured {
    fn is_sound(&self) -> bool {
        let rate = |bytes: f64| bytes.is_finite() && bytes > 0.0;
        rate(self.up) && rate(self.down)
    }

    /// How old it is at `now`, in seconds. What a clock noted that was ahead is older than anything.
    pub fn age_s(&self, now: u64) -> u64 {
        now.checked_sub(self.at_unix_s).unwrap_or(u64::MAX)
    }
}

/// Two peers and how far they are from each other, as one of them measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Apart {
    /// The one with the lesser id, and the other.
    pair: [NodeId; 2],
    /// Time there and back.
    round_trip_us: u64,
    at_unix_s: u64,
}

impl Apart {
    fn is_sound(&self) -> bool {
        let distance = Duration::from_micros(self.round_trip_us);
        self.pair[0] < self.pair[1] && !distance.is_zero() && distance <= APART_LONGEST
    }

    /// Whether the machines may be elsewhere by now.
    fn is_stale(&self, now: u64) -> bool {
        now.checked_sub(self.at_unix_s).is_none_or(|age| age >= STALE_S)
    }
}

/// How far machines are from each other, the one with the lesser id first.
pub type Distances = BTreeMap<[NodeId; 2], Duration>;

/// The ways that were measured.
#[derive(Debug)]
pub struct Ways {
    path: PathBuf,
    /// Held while the file is read, changed and written.
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    ways: BTreeMap<NodeId, Measured>,
    apart: BTreeMap<[NodeId; 2], Apart>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Page {
    version: u32,
    ways: BTreeMap<NodeId, Measured>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    apart: Vec<Apart>,
}

impl Ways {
    /// The ways kept below `home`; none where there is no file, or none that can be read.
    pub fn open(home: &Path) -> Ways {
        let path = home.join(FILE);
        let known = Mutex::new(read(&path));
        Ways { path, known }
    }

    /// What is known of the way to `node`.
    pub fn to(&self, node: NodeId) -> Option<Measured> {
        self.known().ways.get(&node).copied()
    }

    /// How far other machines are from each other, of those who told within a day of `now`.
    pub fn distances(&self, now: u64) -> Distances {
        let known = self.known();
        let fresh = known.apart.values().filter(|apart| !apart.is_stale(now));
        fresh
            .map(|apart| (apart.pair, Duration::from_micros(apart.round_trip_us)))
            .collect()
    }

    /// Learns that one of two peers measured this round trip to the other, at `now` in seconds since 1970.
    pub fn met(&self, one: NodeId, other: NodeId, round_trip: Duration, now: u64) {
        let mut told = Apart {
            pair: [one.min(other), one.max(other)],
            round_trip_us: u64::try_from(round_trip.as_micros()).unwrap_or(u64::MAX),
            at_unix_s: now,
        };
        if !told.is_sound() {
            return;
        }
        self.change(|known| {
            if let Some(before) = known.apart.get(&told.pair).filter(|known| !known.is_stale(now)) {
                let mixed = mixed(before.round_trip_us as f64, told.round_trip_us as f64);
                told.round_trip_us = (mixed as u64).max(1);
            }
            known.apart.insert(told.pair, told);
            while known.apart.len() > APART_MAX {
                let oldest = known.apart.values().min_by_key(|apart| apart.at_unix_s);
                let Some(oldest) = oldest.map(|apart| apart.pair) else {
                    break;
                };
                known.apart.remove(&oldest);
            }
        });
    }

    /// Whether the way to `node` should be probed before it is planned with.
    pub fn is_old(&self, node: NodeId, now: u64) -> bool {
        self.to(node).is_none_or(|known| known.age_s(now) > FRESH_S)
    }

    /// Learns what a probe found, at `now` in seconds since 1970.
    pub fn probed(&self, node: NodeId, found: Goodput, now: u64) {
        self.measured(node, |known| {
            let known = known.filter(|known| known.age_s(now) < STALE_S);
            Measured {
                up: known.map_or(found.up, |known| mixed(known.up, found.up)),
                down: known.map_or(found.down, |known| mixed(known.down, found.down)),
                at_unix_s: now,
            }
        });
    }

    /// Learns that so much was carried: the way is at least as fast. Nothing is known of it otherwise.
    pub fn carried(&self, node: NodeId, least: Goodput, now: u64) {
        let slower = |known: Measured| known.up < least.up || known.down < least.down;
        if self.to(node).is_some_and(slower) {
            self.measured(node, |known| {
                let known = known.unwrap_or(Measured {
                    up: least.up,
                    down: least.down,
                    at_unix_s: now,
                });
                Measured {
                    up: known.up.max(least.up),
                    down: known.down.max(least.down),
                    at_unix_s: now,
                }
            });
        }
    }

    /// Lets what is known of the way to `node` become what `to` says.
    fn measured(&self, node: NodeId, to: impl FnOnce(Option<Measured>) -> Measured) {
        self.change(|known| {
            let measured = to(known.ways.get(&node).copied());
            if !measured.is_sound() {
                return;
            }
            known.ways.insert(node, measured);
            while known.ways.len() > WAYS_MAX {
                let oldest = known.ways.iter().min_by_key(|(_, way)| way.at_unix_s);
                let Some(oldest) = oldest.map(|(node, _)| *node) else {
                    break;
                };
                known.ways.remove(&oldest);
            }
        });
    }

    fn change(&self, how: impl FnOnce(&mut Known)) {
        let mut known = self.known();
        // Another program of this person may have measured meanwhile.
        let kept = read(&self.path);
        for (other, measured) in kept.ways {
            let ours = known.ways.entry(other).or_insert(measured);
            if ours.at_unix_s < measured.at_unix_s {
                *ours = measured;
            }
        }
        for (pair, apart) in kept.apart {
            let ours = known.apart.entry(pair).or_insert(apart);
            if ours.at_unix_s < apart.at_unix_s {
                *ours = apart;
            }
        }
        how(&mut known);
        let page = Page {
            version: 1,
            ways: known.ways.clone(),
            apart: known.apart.values().copied().collect(),
        };
        // What cannot be kept is measured again.
        let _ = write(&self.path, &page);
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // A thread that panicked left whole measurements.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Probes the way to `node` over a connection of its own, and remembers what it found. Somebody waits for it that long:
/// a way that has been looked at once by then is looked at no longer.
///
/// # Errors
/// A sentence: it cannot be reached, or answers no probes.
pub async fn measure(network: &Network, node: NodeId, waited: Duration) -> Result<Goodput, String> {
    let began = Instant::now();
    let connected = network.reach(node, Protocol::Shards, CONNECT_DEADLINE).await;
    let connection = connected.map_err(|cause| cause.to_string())?;
    let found = transfer::probe(&connection, waited.saturating_sub(began.elapsed())).await;
    connection.close(heph_net::endpoint::Goodbye::Done);
    let found = found.map_err(|cause| cause.to_string())?;
    let (machine, now) = (network.clone(), crate::network::seconds_since_1970());
    let kept = network.aside(move || machine.ways().probed(node, found, now));
    // What is not kept is measured again.
    let _ = kept.await;
    Ok(found)
}

/// In between in proportion: a number ten times too high and one ten times too low weigh the same.
fn mixed(old: f64, new: f64) -> f64 {
    old * (new / old).powf(SHARE_NEW)
}

fn read(path: &Path) -> Known {
    let page = || -> Option<Page> {
        let mut bytes = Vec::new();
        let file = fs::File::open(path).ok()?;
        file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).ok()?;
        (bytes.len() as u64 <= FILE_BYTES_MAX)
            .then(|| serde_json::from_slice(&bytes).ok())
            .flatten()
    };
    let Some(Page { mut ways, apart, .. }) = page().filter(|page| page.version == 1) else {
        return Known::default();
    };
    ways.retain(|_, way| way.is_sound());
    let apart = apart.into_iter().filter(Apart::is_sound);
    let apart = apart.map(|apart| (apart.pair, apart)).collect();
    Known { ways, apart }
}

/// The new file or the old one, never a mixture.
fn write(path: &Path, page: &Page) -> io::Result<()> {
    let text = serde_json::to_vec_pretty(page)?;
    let mut beside = tempfile::NamedTempFile::new_in(path.parent().unwrap_or(Path::new(".")))?;
    beside.write_all(&text)?;
    beside.persist(path).map_err(|refused| refused.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId([3; 32]);

    fn both(rate: f64) -> Goodput {
        Goodput { up: rate, down: rate }
    }

    #[test]
    fn measurements_are_smoothed_kept_and_grow_old() {
        let home = tempfile::tempdir().unwrap();
        let ways = Ways::open(home.path());
        assert!(ways.to(NODE).is_none() && ways.is_old(NODE, 100));
        ways.carried(NODE, both(1e6), 100);
        assert!(ways.to(NODE).is_none(), "a lower bound alone is no measurement");
        ways.probed(NODE, both(1e6), 100);
        assert_eq!(ways.to(NODE).map(|way| (way.up, way.at_unix_s)), Some((1e6, 100)));
        ways.probed(NODE, both(1e7), 200);
        let smoothed = ways.to(NODE).unwrap();
        assert!((1.9e6..2.1e6).contains(&smoothed.down), "{smoothed:?}");
        ways.carried(NODE, Goodput { up: 5e6, down: 1.0 }, 300);
        let raised = Ways::open(home.path()).to(NODE).unwrap();
        assert_eq!(
            (raised.up, raised.down, raised.at_unix_s),
            (5e6, smoothed.down, 300)
        );
        assert!(!ways.is_old(NODE, 300 + FRESH_S) && ways.is_old(NODE, 301 + FRESH_S));
        assert!(ways.is_old(NODE, 299), "a clock that was ahead noted it");
        // Where it was a day ago may be elsewhere.
        ways.probed(NODE, both(10.0), 300 + STALE_S);
        assert_eq!(ways.to(NODE).map(|way| way.up), Some(10.0));
    }

    #[test]
    fn two_programs_measure_and_neither_loses_the_others_ways() {
        let home = tempfile::tempdir().unwrap();
        let (one, other) = (Ways::open(home.path()), Ways::open(home.path()));
        one.probed(NODE, both(1e6), 1);
        other.probed(NodeId([4; 32]), both(2e6), 2);
        let read = Ways::open(home.path());
        assert!(read.to(NODE).is_some() && read.to(NodeId([4; 32])).is_some());
    }

    #[test]
    fn a_damaged_file_costs_new_measurements_and_no_more() {
        let home = tempfile::tempdir().unwrap();
        for damage in [
            "".to_owned(),
            "{".to_owned(),
            "{\"version\":2,\"ways\":{}}".to_owned(),
            format!("{{\"version\":1,\"ways\":{{\"{NODE}\":{{\"up\":0.0,\"down\":1.0,\"at_unix_s\":1}}}}}}"),
        ] {
            fs::write(home.path().join(FILE), &damage).unwrap();
            let ways = Ways::open(home.path());
            assert_eq!(ways.to(NODE), None, "{damage}");
            ways.probed(NODE, both(7.0), 1);
            assert!(Ways::open(home.path()).to(NODE).is_some(), "{damage}");
        }
    }

    #[test]
    fn the_oldest_way_makes_room() {
        let home = tempfile::tempdir().unwrap();
        let ways = Ways::open(home.path());
        let of = |at: usize| NodeId(*blake3::hash(&at.to_le_bytes()).as_bytes());
        {
            let mut known = ways.known();
            for at in 0..WAYS_MAX {
                let rate = 1e6;
                known.ways.insert(
                    of(at),
                    Measured {
                        up: rate,
                        down: rate,
                        at_unix_s: 10 + at as u64,
                    },
                );
            }
        }
        ways.probed(NODE, both(1e6), 5_000);
        assert_eq!(ways.known().ways.len(), WAYS_MAX);
        assert!(ways.to(of(0)).is_none() && ways.to(of(1)).is_some() && ways.to(NODE).is_some());
    }

    #[test]
    fn how_far_two_machines_are_from_each_other_is_smoothed_kept_and_grows_old() {
        let home = tempfile::tempdir().unwrap();
        let (ways, other) = (Ways::open(home.path()), NodeId([4; 32]));
        let ms = Duration::from_millis;
        // No measurement is no distance, and neither is a lie about the other end of the world.
        for nonsense in [Duration::ZERO, APART_LONGEST * 2, Duration::MAX] {
            ways.met(NODE, other, nonsense, 100);
        }
        ways.met(NODE, NODE, ms(1), 100);
        assert!(ways.distances(100).is_empty());
        ways.met(other, NODE, ms(10), 100);
        assert_eq!(ways.distances(100), [([NODE, other], ms(10))].into());
        // Whoever of the two tells it.
        ways.met(NODE, other, ms(100), 200);
        let smoothed = Ways::open(home.path()).distances(200)[&[NODE, other]];
        assert!((ms(19)..ms(21)).contains(&smoothed), "{smoothed:?}");
        assert!(ways.distances(200 + STALE_S).is_empty());
        ways.met(NODE, other, ms(3), 200 + STALE_S);
        assert_eq!(ways.distances(200 + STALE_S)[&[NODE, other]], ms(3));
        // Both kinds are kept beside each other.
        ways.probed(NODE, both(1e6), 300 + STALE_S);
        let read = Ways::open(home.path());
        assert!(read.to(NODE).is_some() && read.distances(300 + STALE_S).len() == 1);
    }

    #[test]
    fn the_oldest_distance_makes_room() {
        let home = tempfile::tempdir().unwrap();
        let ways = Ways::open(home.path());
        let of = |at: usize| {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&(at as u64).to_be_bytes());
            NodeId(id)
        };
        {
            let mut known = ways.known();
            for at in 0..APART_MAX {
                let pair = [of(at), of(APART_MAX)];
                known.apart.insert(
                    pair,
                    Apart {
                        pair,
                        round_trip_us: 1_000,
                        at_unix_s: 10 + at as u64,
                    },
                );
            }
        }
        ways.met(of(1), of(2), Duration::from_millis(5), 5_000);
        let kept = ways.distances(5_000);
        assert_eq!(kept.len(), APART_MAX);
        assert!(kept.contains_key(&[of(1), of(2)]) && !kept.contains_key(&[of(0), of(APART_MAX)]));
    }
}
