//! What the guard asks before a machine is reached, or is shown anything: the book of machines and the rules, as it read them itself.

use std::sync::Arc;

use heph_net::address::RelayAddress;
use heph_net::endpoint::Protocol;
use heph_net::endpoint::mirror::{self, Begun};
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

/// A probe of a way sends a megabyte that nobody said, and asks for a little.
const PROBE_BYTES: u64 = 2 << 20;

/// The guard of machines. It asks for a process that lends nothing.
pub(super) struct Machines(pub(super) Arc<Warden>);

impl mirror::Warden for Machines {
    fn greets(&self, node: NodeId, protocol: Protocol, begun: Begun) -> Result<u64, String> {
        if self.0.is_cut() {
            return Err(crate::rules::CUT.to_owned());
        }
        match (protocol, begun) {
            // Whoever has a ticket is a stranger until both have met.
            (Protocol::Pair, _) => Ok(MEETING_BYTES),
            (Protocol::Members, _) => self.0.machine(node).map(|_| MEMBER_BYTES),
            (Protocol::Session, Begun::Here) => self.0.machine(node).map(|_| GREETING_BYTES),
            (Protocol::Shards, Begun::Here) => self.0.machine(node).map(|peer| match peer.role {
                // It may be given layers of a model.
                Role::Own => u64::MAX,
                Role::Cloud | Role::Miner | Role::Edge => PROBE_BYTES,
            }),
            (Protocol::Session | Protocol::Shards, Begun::There) | (Protocol::Hop, _) => {
                Err("this program asks and lends nothing".to_owned())
            }
        }
    }

    fn shows(&self, node: NodeId, grounds: &Grounds) -> Result<(), String> {
        self.0.shows(&self.0.machine(node)?, grounds)
    }

    fn relays(&self, relay: &RelayAddress) -> Result<(), String> {
        self.0.relays(&relay.to_string())
    }

    fn is_over(&self) -> Option<String> {
        let old = "the rules or the book of machines have changed";
        self.0.has_old_machines().then(|| old.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use heph_net::address::NodeAddress;
    use heph_net::endpoint::mirror::Warden as _;
    use heph_net::trust::{Peer, TrustBook};
    use heph_privacy::label::{Label, Level};
    use heph_types::Leaves;

    use super::*;
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
            replaced,
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
        let may = |node, begun| {
            let mut all = Protocol::ALL.to_vec();
            all.retain(|protocol| machines.greets(node, *protocol, begun).is_ok());
            all
        };
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
        let files = |role| {
            machines
                .greets(node(role), Protocol::Shards, Begun::Here)
                .unwrap()
        };
        assert!(files(Role::Own) == u64::MAX && files(Role::Cloud) == PROBE_BYTES);
        std::fs::write(home.path().join("cut-off"), "").unwrap();
        assert!(may(known, Begun::Here).is_empty() && may(stranger, Begun::There).is_empty());
    }

    #[test]
    fn a_book_or_a_policy_that_changed_ends_a_guard() {
        type Change = fn(&std::path::Path);
        let changes: [Change; 3] = [
            |home| std::fs::write(home.join(POLICY_FILE), "version = 1\npreset = \"open\"\n").unwrap(),
            |home| std::fs::write(home.join("cut-off"), "").unwrap(),
            |home| assert!(TrustBook::open(home).unwrap().forget(node(Role::Edge)).unwrap()),
        ];
        for change in changes {
            let home = home(None);
            let before = machines(&home, &[]);
            assert_eq!(before.is_over(), None);
            change(home.path());
            assert!(before.is_over().is_some());
            assert_eq!(
                machines(&home, &[]).is_over(),
                None,
                "the next one has read what stands there"
            );
        }
        // Providers are nothing to machines.
        let home = home(None);
        let machines = machines(&home, &[]);
        std::fs::write(home.path().join("providers.toml"), "").unwrap();
        assert_eq!(machines.is_over(), None);
    }
}
