//! What the guard asks before a machine is reached, or is shown anything: the book of machines and the rules, as it read them itself.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use heph_net::address::RelayAddress;
use heph_net::endpoint::Protocol;
use heph_net::endpoint::mirror::{self, Begun, Bounds, Old, Wanted};
use heph_net::roster::PROFILE_BYTES_MAX;
use heph_privacy::Grounds;
use heph_types::{NodeId, Role};

use super::warden::Warden;

/// Bytes that a conversation of a session says in which nothing was cleared: greetings, signs of life, and which session was asked for.
const GREETING_BYTES: u64 = 16 << 10;

/// Two devices that meet tell each other names and addresses.
const MEETING_BYTES: u64 = 16 << 10;

/// A question, or what a machine says of itself, and as much again.
const MEMBER_BYTES: u64 = 2 * PROFILE_BYTES_MAX as u64;

/// A probe of a way sends 1.8 MiB that nobody said, and asks for a little.
const PROBE_BYTES: u64 = 2 << 20;

/// The guard of machines, for a process that asks, and lends where its guard was told so when it was begun.
pub(super) struct Machines(pub(super) Arc<Warden>);

impl mirror::Warden for Machines {
    fn greets(&self, wanted: &Wanted<'_>) -> Result<Bounds, String> {
        if self.0.is_cut() {
            return Err(crate::rules::CUT.to_owned());
        }
        let Wanted {
            node,
            protocol,
            begun,
            served,
        } = *wanted;
        let lends = self.0.lends();
        match (protocol, begun) {
            // Whoever has a ticket is a stranger until both have met.
            (Protocol::Pair, _) => Ok(both(MEETING_BYTES)),
            (Protocol::Members, _) => self.0.machine(node).map(|_| both(MEMBER_BYTES)),
            (Protocol::Session, Begun::Here) => self.0.machine(node).map(|_| both(GREETING_BYTES)),
            (Protocol::Shards, Begun::Here) => self.0.machine(node).map(|peer| match peer.role {
                // It may be given layers of a model.
                Role::Own => both(u64::MAX),
                Role::Cloud | Role::Miner | Role::Edge => both(PROBE_BYTES),
            }),
            (Protocol::Session | Protocol::Shards, Begun::There) | (Protocol::Hop, _) if lends.is_none() => {
                Err("this program asks and lends nothing".to_owned())
            }
            // What is computed for a machine goes to that machine.
            (Protocol::Session, Begun::There) => self.0.machine(node).map(|_| answers(u64::MAX)),
            (Protocol::Shards, Begun::There) => {
                let most = match lends.is_some_and(|lends| lends.offers) {
                    true => u64::MAX,
                    false => PROBE_BYTES,
                };
                self.0.machine(node).map(|_| answers(most))
            }
            // A desk of a session here named it, and it shows that desk's ticket, which the guard does not read; it is said next to nothing.
            (Protocol::Hop, Begun::There) => Ok(both(GREETING_BYTES)),
            // Rows go where a machine of one's own wants them, and only while it is served.
            (Protocol::Hop, Begun::Here) => {
                let own = |desk: &NodeId| self.0.machine(*desk).is_ok_and(|peer| peer.role == Role::Own);
                match served.iter().any(own) {
                    true => Ok(both(u64::MAX)),
                    false => Err("no machine of one's own is served that may want rows there".to_owned()),
                }
            }
        }
    }

    fn shows(&self, node: NodeId, grounds: &Grounds) -> Result<(), String> {
        self.0.shows(&self.0.machine(node)?, grounds)
    }

    fn relays(&self, relay: &RelayAddress) -> Result<(), String> {
        self.0.relays(&relay.to_string())
    }

    fn is_seen(&self) -> Result<(), String> {
        match self.0.is_cut() {
            true => Err(crate::rules::CUT.to_owned()),
            false => Ok(()),
        }
    }

    fn read(&self, book: OwnedFd) -> Result<Vec<NodeId>, String> {
        self.0.read_book(&book.into())
    }

    fn old(&self) -> Option<Old> {
        if self.0.has_old_rules() {
            return Some(Old::All("the rules have changed".to_owned()));
        }
        let book = self.0.has_old_book();
        book.then(|| Old::Book("the book of machines has changed".to_owned()))
    }
}

/// So much in every conversation.
fn both(bytes: u64) -> Bounds {
    Bounds {
        opened: bytes,
        taken: bytes,
    }
}

/// So much in answer to what the peer began, and else no more than greetings.
fn answers(bytes: u64) -> Bounds {
    Bounds {
        opened: GREETING_BYTES,
        taken: bytes,
    }
}

#[cfg(test)]
mod tests {
    use heph_net::address::NodeAddress;
    use heph_net::endpoint::mirror::Warden as _;
    use heph_net::trust::{Peer, TrustBook};
    use heph_privacy::label::{Label, Level};
    use heph_privacy::pseudonym::Replacing;
    use heph_types::Leaves;

    use super::*;
    use crate::guard::Lends;
    use crate::guard::warden::Reading;
    use crate::rules::POLICY_FILE;
    use crate::settings::Allowance;

    fn node(role: Role) -> NodeId {
        NodeId([role as u8 + 1; 32])
    }

    /// A home folder that knows one machine of each role.
    fn home(policy: Option<&str>) -> tempfile::TempDir {
        let home = tempfile::tempdir().unwrap();
        let mut book = TrustBook::open(home.path()).unwrap();
        for role in Role::ALL {
            book.remember(Peer {
                node: node(role),
                role,
                name: role.name().to_owned(),
                since: 0,
                address: NodeAddress::default(),
            })
            .unwrap();
        }
        if let Some(preset) = policy {
            let text = format!("version = 1\npreset = \"{preset}\"\n");
            std::fs::write(home.path().join(POLICY_FILE), text).unwrap();
        }
        home
    }

    fn machines(home: &tempfile::TempDir, allow: &[Allowance]) -> Machines {
        Machines(Arc::new(Warden::new(home.path(), allow, Reading::Once, false)))
    }

    fn grounds(level: Level, mode: &str, replaced: bool) -> Grounds {
        Grounds {
            label: Label::new(level, "source:prompt"),
            mode: mode.to_owned(),
            credits: 0,
            replaced: replaced.then_some(Replacing::Pseudonyms),
            rules: vec!["what the desk says".to_owned()],
        }
    }

    /// Which roles are shown it.
    fn shown(machines: &Machines, grounds: &Grounds) -> Vec<Role> {
        let mut roles = Role::ALL.to_vec();
        roles.retain(|role| machines.shows(node(*role), grounds).is_ok());
        roles
    }

    #[test]
    fn the_rules_are_asked_again_about_the_role_that_the_book_says() {
        let internal = grounds(Level::Internal, "layered", false);
        let plain = machines(&home(None), &[]);
        assert_eq!(shown(&plain, &internal), [Role::Own]);
        let closed = machines(&home(Some("local-only")), &[]);
        assert!(shown(&closed, &internal).is_empty(), "whatever the desk says");
        let why = closed.shows(node(Role::Own), &internal).unwrap_err();
        assert!(why.contains("stays on this machine"), "{why}");
        // What others may see of words is no leave for more, nor at all where words were to be replaced.
        let rows = [Allowance {
            role: Role::Miner,
            leaves: Leaves::Activations,
        }];
        let rows = machines(&home(None), &rows);
        assert_eq!(shown(&rows, &internal), [Role::Own, Role::Miner]);
        let text = grounds(Level::Internal, "remote", false);
        assert_eq!(shown(&rows, &text), [Role::Own]);
        let redacts = machines(&home(Some("redact-then-remote")), &[]);
        let private = |replaced| shown(&redacts, &grounds(Level::Private, "remote", replaced));
        assert!(private(true).contains(&Role::Miner) && !private(false).contains(&Role::Miner));
        assert!(plain.shows(NodeId([99; 32]), &internal).is_err(), "a stranger");
    }

    #[test]
    fn whoever_is_not_in_the_book_meets_and_no_more_and_nobody_is_lent_to() {
        let home = home(None);
        let machines = machines(&home, &[]);
        let stranger = NodeId([99; 32]);
        let may = |node, begun| may(&machines, node, begun, &[]);
        assert_eq!(may(stranger, Begun::Here), [Protocol::Pair]);
        assert_eq!(may(stranger, Begun::There), [Protocol::Pair]);
        let known = node(Role::Miner);
        let asks = [
            Protocol::Session,
            Protocol::Pair,
            Protocol::Members,
            Protocol::Shards,
        ];
        assert_eq!(may(known, Begun::Here), asks);
        assert_eq!(may(known, Begun::There), [Protocol::Pair, Protocol::Members]);
        // Layers of models go to one's own.
        let files = |role| bounds(&machines, node(role), Protocol::Shards, Begun::Here, &[]).unwrap();
        assert_eq!(files(Role::Own), both(u64::MAX));
        assert_eq!(files(Role::Cloud), both(PROBE_BYTES));
        std::fs::write(home.path().join("cut-off"), "").unwrap();
        assert!(may(known, Begun::Here).is_empty() && may(stranger, Begun::There).is_empty());
    }

    fn bounds(
        machines: &Machines,
        node: NodeId,
        protocol: Protocol,
        begun: Begun,
        served: &[NodeId],
    ) -> Result<Bounds, String> {
        machines.greets(&Wanted {
            node,
            protocol,
            begun,
            served,
        })
    }

    /// For what there may be a connection.
    fn may(machines: &Machines, node: NodeId, begun: Begun, served: &[NodeId]) -> Vec<Protocol> {
        let mut all = Protocol::ALL.to_vec();
        all.retain(|protocol| bounds(machines, node, *protocol, begun, served).is_ok());
        all
    }

    #[test]
    fn who_lends_answers_the_book_and_hands_rows_on_for_its_own_machines_alone() {
        let home = home(None);
        let lending = |offers| {
            let engine = None;
            let warden = Warden::new(home.path(), &[], Reading::Once, false);
            Machines(Arc::new(warden.lending(Some(Lends { offers, engine }))))
        };
        let node_lends = lending(false);
        let (own, miner, stranger) = (node(Role::Own), node(Role::Miner), NodeId([99; 32]));
        let to_all = [
            Protocol::Session,
            Protocol::Pair,
            Protocol::Members,
            Protocol::Shards,
            Protocol::Hop,
        ];
        for known in [own, miner] {
            assert_eq!(may(&node_lends, known, Begun::There, &[]), to_all);
        }
        assert_eq!(
            may(&node_lends, stranger, Begun::There, &[]),
            [Protocol::Pair, Protocol::Hop]
        );
        // What it computed goes to whoever began, and in what it begins itself no more than greetings.
        let there =
            |machines: &Machines, protocol| bounds(machines, miner, protocol, Begun::There, &[]).unwrap();
        assert_eq!(there(&node_lends, Protocol::Session), answers(u64::MAX));
        assert_eq!(there(&node_lends, Protocol::Hop), both(GREETING_BYTES));
        assert_eq!(there(&node_lends, Protocol::Shards), answers(PROBE_BYTES));
        assert_eq!(there(&lending(true), Protocol::Shards), answers(u64::MAX));
        let rows =
            |served: &[NodeId]| bounds(&node_lends, stranger, Protocol::Hop, Begun::Here, served).is_ok();
        assert!(rows(&[miner, own]) && !rows(&[]) && !rows(&[miner]) && !rows(&[stranger]));
        std::fs::write(home.path().join("cut-off"), "").unwrap();
        assert!(may(&node_lends, own, Begun::There, &[own]).is_empty());
        assert!(node_lends.is_seen().is_err());
    }

    #[test]
    fn a_policy_that_changed_ends_a_guard_and_a_book_that_did_is_handed_over() {
        type Change = fn(&std::path::Path);
        let changes: [(Change, bool); 3] = [
            (
                |home| std::fs::write(home.join(POLICY_FILE), "version = 1\npreset = \"open\"\n").unwrap(),
                false,
            ),
            (|home| std::fs::write(home.join("cut-off"), "").unwrap(), false),
            (
                |home| assert!(TrustBook::open(home).unwrap().forget(node(Role::Edge)).unwrap()),
                true,
            ),
        ];
        for (change, of_book) in changes {
            let home = home(None);
            let before = machines(&home, &[]);
            assert_eq!(before.old(), None);
            change(home.path());
            let old = before.old().unwrap();
            assert_eq!(matches!(old, Old::Book(_)), of_book);
            assert_eq!(
                machines(&home, &[]).old(),
                None,
                "the next one has read what stands there"
            );
        }
        // Providers are nothing to machines.
        let home = home(None);
        let machines = machines(&home, &[]);
        std::fs::write(home.path().join("providers.toml"), "").unwrap();
        assert_eq!(machines.old(), None);
    }

    #[test]
    fn whoever_a_book_that_was_handed_over_has_no_more_or_otherwise_is_told() {
        let home = home(None);
        let path = home.path().join(heph_net::trust::FILE);
        let machines = machines(&home, &[]);
        let mut book = TrustBook::open(home.path()).unwrap();
        let met = Peer {
            node: NodeId([77; 32]),
            role: Role::Own,
            name: "new".to_owned(),
            since: 0,
            address: NodeAddress::default(),
        };
        let open = || OwnedFd::from(std::fs::File::open(&path).unwrap());
        let before = open();
        book.remember(met.clone()).unwrap();
        assert!(machines.read(before).is_err(), "it does not lie there any more");
        assert!(matches!(machines.old(), Some(Old::Book(_))) && machines.0.machine(met.node).is_err());
        assert_eq!(machines.read(open()), Ok(Vec::new()));
        assert!(machines.old().is_none() && machines.0.machine(met.node).is_ok());
        let changed = Peer {
            role: Role::Miner,
            ..met.clone()
        };
        book.remember(changed).unwrap();
        book.forget(node(Role::Edge)).unwrap();
        let mut told = machines.read(open()).unwrap();
        told.sort_unstable();
        assert_eq!(told, [node(Role::Edge), met.node]);
        assert!(machines.0.machine(node(Role::Edge)).is_err());
    }
}
