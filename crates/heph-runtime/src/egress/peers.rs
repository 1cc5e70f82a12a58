//! What the socket for peers carried, told to the journal as it grows.

use std::collections::{BTreeMap, BTreeSet};

use heph_net::endpoint::{Endpoint, Passed, Protocol, SocketTotal};
use heph_types::NodeId;

use super::{Bytes, Counted, Kind, Line, Way};

/// Remembers what was told of each connection.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    told: BTreeMap<u64, Bytes>,
    /// Of all connections that there ever were, and of what was no connection's.
    connections: u64,
    rest: u64,
}

impl Watch {
    /// What passed since the last question, as lines of `at`: `passed` is what the connections of the socket say. `name` knows
    /// what a peer is called.
    pub(crate) fn lines(
        &mut self,
        passed: Vec<Passed>,
        endpoint: &Endpoint,
        at: u64,
        name: impl Fn(NodeId) -> Option<String>,
    ) -> Vec<Line> {
        // The socket is asked last: it has sent at least what its connections say.
        let total = endpoint.total();
        let total = SocketTotal {
            is_abroad: total.is_abroad && !endpoint.is_loopback(),
            ..total
        };
        self.grown(passed, total, at, name)
    }

    /// Bytes both ways of open connections since the last question.
    pub(crate) fn grew(&self, endpoint: &Endpoint) -> u64 {
        let grew = endpoint.passing().into_iter().map(|(number, traffic)| {
            let before = self.told.get(&number).copied().unwrap_or_default();
            let up = traffic.sent_bytes.saturating_sub(before.up);
            up.saturating_add(traffic.received_bytes.saturating_sub(before.down))
        });
        grew.fold(0, u64::saturating_add)
    }

    fn grown(
        &mut self,
        passed: Vec<Passed>,
        total: SocketTotal,
        at: u64,
        name: impl Fn(NodeId) -> Option<String>,
    ) -> Vec<Line> {
        let mut lines = Vec::new();
        let mut told = BTreeMap::new();
        for passed in passed {
            let now = Bytes {
                up: passed.traffic.sent_bytes,
                down: passed.traffic.received_bytes,
            };
            let before = self.told.get(&passed.number).copied().unwrap_or_default();
            let bytes = Bytes {
                up: now.up.saturating_sub(before.up),
                down: now.down.saturating_sub(before.down),
            };
            self.connections += bytes.up;
            told.insert(passed.number, now);
            if bytes != Bytes::default() {
                let way = way(&passed, name(passed.node));
                lines.push(Line { at, way, bytes });
            }
        }
        self.told = told;
        let rest = (total.sent_bytes + total.relayed_bytes).saturating_sub(self.connections);
        if rest > self.rest {
            let bytes = Bytes {
                up: rest - self.rest,
                down: 0,
            };
            self.rest = rest;
            lines.push(Line {
                at,
                way: greetings(match total.is_abroad {
                    true => "several",
                    false => "localhost",
                }),
                bytes,
            });
        }
        lines
    }
}

fn way(passed: &Passed, name: Option<String>) -> Way {
    let to = passed.to.clone().unwrap_or_else(|| "no address yet".to_owned());
    // What goes to a relay is wrapped once more there.
    let relayed = to.contains("://");
    Way {
        kind: Kind::Peer,
        to,
        who: name.unwrap_or_else(|| passed.node.short()),
        purpose: purpose(passed.protocol).to_owned(),
        labels: passed.labels.clone(),
        counted: if relayed {
            Counted::Bodies
        } else {
            Counted::OnTheWire
        },
    }
}

fn greetings(to: &str) -> Way {
    Way {
        kind: Kind::Greetings,
        to: to.to_owned(),
        who: String::new(),
        purpose: "greetings".to_owned(),
        labels: BTreeSet::new(),
        counted: Counted::OnTheWire,
    }
}

fn purpose(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Session => "session",
        Protocol::Pair => "pairing",
        Protocol::Members => "members",
        Protocol::Shards => "layers and probes",
        Protocol::Hop => "rows",
    }
}

#[cfg(test)]
mod tests {
    use heph_net::endpoint::Traffic;

    use super::*;

    fn passed(number: u64, up: u64, down: u64) -> Passed {
        Passed {
            number,
            node: NodeId([3; 32]),
            protocol: Protocol::Session,
            to: Some("10.0.0.2:7842".to_owned()),
            labels: BTreeSet::from(["private".to_owned()]),
            traffic: Traffic {
                sent_bytes: up,
                received_bytes: down,
                lost_packets: 0,
            },
        }
    }

    fn total(sent_bytes: u64) -> SocketTotal {
        SocketTotal {
            sent_bytes,
            relayed_bytes: 0,
            is_abroad: true,
        }
    }

    #[test]
    fn greetings_that_stayed_on_this_machine_left_nothing() {
        let mut watch = Watch::default();
        let mut leaves = |sent, is_abroad| {
            let total = SocketTotal {
                is_abroad,
                ..total(sent)
            };
            let lines = watch.grown(Vec::new(), total, 9, |_| None);
            let [line] = &lines[..] else {
                panic!("{lines:?}");
            };
            (line.way.leaves(), line.bytes.up)
        };
        assert_eq!(leaves(30, false), (false, 30));
        assert_eq!(leaves(70, true), (true, 40));
    }

    #[test]
    fn growth_is_told_once_and_the_rest_is_greetings() {
        let mut watch = Watch::default();
        let mut ask = |passed: Vec<Passed>, sent| {
            let lines = watch.grown(passed, total(sent), 9, |_| None);
            let up = |kind| {
                lines
                    .iter()
                    .filter(|l| l.way.kind == kind)
                    .map(|l| l.bytes.up)
                    .sum::<u64>()
            };
            (up(Kind::Peer), up(Kind::Greetings), lines.len())
        };
        assert_eq!(ask(vec![passed(1, 100, 50)], 130), (100, 30, 2));
        assert_eq!(ask(vec![passed(1, 100, 50)], 130), (0, 0, 0), "nothing new");
        assert_eq!(ask(vec![passed(1, 160, 50), passed(2, 7, 0)], 197), (67, 0, 2));
        // The first one ended with a goodbye; the second is told no more than once.
        assert_eq!(ask(vec![passed(1, 170, 60), passed(2, 7, 0)], 240), (10, 33, 2));
        assert_eq!(ask(vec![passed(2, 8, 0)], 241), (1, 0, 1));
        // A socket that is behind its connections for a moment says nothing of itself.
        assert_eq!(ask(vec![passed(2, 100, 0)], 300), (92, 0, 1));
    }

    #[test]
    fn what_goes_through_a_relay_is_not_called_exact() {
        let mut relayed = passed(1, 5, 5);
        relayed.to = Some("https://relay.example:7843/".to_owned());
        assert_eq!(way(&relayed, None).counted, Counted::Bodies);
        let direct = way(&passed(1, 5, 5), Some("laptop".to_owned()));
        assert_eq!(
            (direct.counted, direct.who.as_str()),
            (Counted::OnTheWire, "laptop")
        );
        assert!(direct.labels.contains("private"));
    }
}
