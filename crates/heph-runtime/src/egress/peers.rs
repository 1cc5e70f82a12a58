//! What the socket for peers carried, told to the journal as it grows.

use std::collections::{BTreeMap, BTreeSet};

use heph_net::endpoint::{Account, Endpoint, Passed, Protocol, Traffic};
use heph_types::NodeId;

use super::{Bytes, Counted, Kind, Line, Way};

/// Looks in which a connection was not seen before it is forgotten: it has ended and was told, or a guard did not answer in time.
const UNSEEN_MAX: u32 = 64;

/// Remembers what was told of each connection.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    told: BTreeMap<u64, Told>,
    /// Noted of all connections that there ever were, and of what was no connection's.
    connections: u64,
    rest: u64,
}

/// What was told of one connection, and how many looks ago.
#[derive(Debug, Clone, Copy, Default)]
struct Told {
    bytes: Bytes,
    unseen: u32,
}

impl Watch {
    /// Bytes both ways of open connections since the last question.
    pub(crate) fn grew(&self, endpoint: &Endpoint) -> u64 {
        let grew = endpoint.passing().into_iter().map(|(number, traffic)| {
            let grew = self.since(number, traffic);
            grew.up.saturating_add(grew.down)
        });
        grew.fold(0, u64::saturating_add)
    }

    /// What passed since the last question, as lines of `at`; `name` knows what a peer is called. Their sum is what the socket sent: greetings
    /// that were noted while they were no connection's are not noted again where one came of them.
    pub(crate) fn lines(
        &mut self,
        account: Account,
        at: u64,
        name: impl Fn(NodeId) -> Option<String>,
    ) -> Vec<Line> {
        let Account { total, connections } = account;
        let sent = total.sent_bytes + total.relayed_bytes;
        let grew: u64 = connections
            .iter()
            .map(|passed| self.since(passed.number, passed.traffic).up)
            .sum();
        let mut noted = (self.connections + grew + self.rest).saturating_sub(sent);
        self.told.retain(|_, told| {
            told.unseen += 1;
            told.unseen <= UNSEEN_MAX
        });
        let mut lines = Vec::new();
        for passed in connections {
            let mut bytes = self.since(passed.number, passed.traffic);
            let told = Told {
                bytes: bytes_of(passed.traffic),
                unseen: 0,
            };
            if self.told.insert(passed.number, told).is_none() {
                let greeting = passed.greeting_bytes.min(bytes.up).min(noted);
                noted -= greeting;
                bytes.up -= greeting;
            }
            self.connections += bytes.up;
            if bytes != Bytes::default() {
                let way = way(&passed, name(passed.node));
                lines.push(Line { at, way, bytes });
            }
        }
        let rest = sent.saturating_sub(self.connections);
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

    /// What a connection carried that was not told yet.
    fn since(&self, number: u64, traffic: Traffic) -> Bytes {
        let (now, told) = (
            bytes_of(traffic),
            self.told.get(&number).copied().unwrap_or_default(),
        );
        Bytes {
            up: now.up.saturating_sub(told.bytes.up),
            down: now.down.saturating_sub(told.bytes.down),
        }
    }
}

fn bytes_of(traffic: Traffic) -> Bytes {
    Bytes {
        up: traffic.sent_bytes,
        down: traffic.received_bytes,
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
    use heph_net::endpoint::SocketTotal;

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
            greeting_bytes: 0,
        }
    }

    fn account(connections: Vec<Passed>, sent_bytes: u64) -> Account {
        let total = SocketTotal {
            sent_bytes,
            relayed_bytes: 0,
            is_abroad: true,
        };
        Account { total, connections }
    }

    /// Bytes up of connections and of greetings.
    fn up(lines: &[Line]) -> (u64, u64) {
        let of = |kind| lines.iter().filter(move |line| line.way.kind == kind);
        let sum = |kind| of(kind).map(|line| line.bytes.up).sum();
        (sum(Kind::Peer), sum(Kind::Greetings))
    }

    #[test]
    fn greetings_that_stayed_on_this_machine_left_nothing() {
        let mut watch = Watch::default();
        let mut leaves = |sent, is_abroad| {
            let mut account = account(Vec::new(), sent);
            account.total.is_abroad = is_abroad;
            let lines = watch.lines(account, 9, |_| None);
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
            let lines = watch.lines(account(passed, sent), 9, |_| None);
            let (peers, greetings) = up(&lines);
            (peers, greetings, lines.len())
        };
        assert_eq!(ask(vec![passed(1, 100, 50)], 130), (100, 30, 2));
        assert_eq!(ask(vec![passed(1, 100, 50)], 130), (0, 0, 0), "nothing new");
        assert_eq!(ask(vec![passed(1, 160, 50), passed(2, 7, 0)], 197), (67, 0, 2));
        // The first one ended with a goodbye; the second is told no more than once.
        assert_eq!(ask(vec![passed(1, 170, 60), passed(2, 7, 0)], 240), (10, 33, 2));
        assert_eq!(ask(vec![passed(2, 8, 0)], 241), (1, 0, 1));
        // A socket that is behind its connections for a moment says nothing of itself.
        assert_eq!(ask(vec![passed(2, 100, 0)], 300), (92, 0, 1));
        // A guard that did not answer in time is told as it was, and its connection is none of its own then.
        assert_eq!(ask(Vec::new(), 300), (0, 0, 0));
        assert_eq!(ask(vec![passed(2, 130, 0)], 363), (30, 0, 1));
    }

    #[test]
    fn a_greeting_that_was_noted_is_not_noted_again_with_its_connection() {
        let greeted = |number, up| Passed {
            greeting_bytes: 40,
            ..passed(number, up, 0)
        };
        let mut watch = Watch::default();
        let mut ask = |passed: Vec<Passed>, sent| up(&watch.lines(account(passed, sent), 9, |_| None));
        // 40 bytes before there is a connection, of which 30 had left when it was looked.
        assert_eq!(ask(Vec::new(), 30), (0, 30));
        assert_eq!(ask(vec![greeted(1, 90)], 90), (60, 0), "and 30 as a greeting");
        assert_eq!(
            ask(vec![greeted(1, 100), greeted(2, 50)], 150),
            (60, 0),
            "never noted before"
        );
        // What a connection that is known already sends is its own, whenever the socket was asked.
        assert_eq!(ask(vec![greeted(1, 130), greeted(2, 50)], 155), (30, 0));
        assert_eq!(ask(vec![greeted(1, 130), greeted(2, 50)], 180), (0, 0));
    }

    #[test]
    fn what_has_ended_is_forgotten_after_a_while() {
        let mut watch = Watch::default();
        watch.lines(account(vec![passed(1, 10, 0)], 10), 9, |_| None);
        for _ in 0..=UNSEEN_MAX {
            watch.lines(account(Vec::new(), 10), 9, |_| None);
        }
        assert!(watch.told.is_empty());
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
