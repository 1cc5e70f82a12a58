//! Machines on this machine's loopback: they meet, fall silent, come back.

use std::path::Path;
use std::time::Instant;

use heph_net::endpoint::EndpointOptions;
use heph_types::{Caps, Exactness, NodeState, Price, Speed};

use super::*;
use crate::network::NetworkOptions;
use crate::settings::Keys;

/// What a healthy loopback never needs, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

struct Machine {
    members: Members,
    home: tempfile::TempDir,
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.members.network.close(Duration::from_secs(3));
    }
}

impl Machine {
    fn start(name: &str, home: tempfile::TempDir) -> Machine {
        let members = Members::start(&network(name, home.path())).unwrap();
        Machine { members, home }
    }

    /// Another program of its folder, which only looks on.
    fn program(&self) -> Machine {
        let members = Members::look_on(&network("a program", self.home.path())).unwrap();
        // What it holds is not its folder.
        let home = tempfile::tempdir().unwrap();
        Machine { members, home }
    }

    fn new(name: &str) -> Machine {
        Machine::start(name, tempfile::tempdir().unwrap())
    }

    fn node(&self) -> NodeId {
        self.members.network.node()
    }

    fn knows(&self, other: &Machine, role: Role) {
        let peer = Peer {
            node: other.node(),
            role,
            name: format!("machine {}", other.node().short()),
            since: 1,
            address: other.members.network.address(),
        };
        self.members.network.remember(peer).unwrap();
    }

    /// What is known of `other`, once `is` holds of it.
    fn sees(&self, other: NodeId, is: impl Fn(&Member) -> bool) -> Member {
        let began = Instant::now();
        let mut changes = self.members.changes();
        loop {
            let all = self.members.snapshot().unwrap();
            let member = all.into_iter().find(|member| member.peer.node == other);
            if let Some(member) = member.clone().filter(&is) {
                return member;
            }
            assert!(began.elapsed() < PATIENCE, "{member:?}");
            changes.wait(Duration::from_millis(200));
        }
    }
}

fn network(name: &str, home: &Path) -> Network {
    let network = Network::start(NetworkOptions {
        home: home.to_owned(),
        keys: Some(Keys::File),
        name: name.to_owned(),
        endpoint: EndpointOptions::loopback(),
        guard: None,
    });
    network.unwrap()
}

fn both_know(a: &Machine, b: &Machine, role: Role) {
    a.knows(b, role);
    b.knows(a, Role::Own);
}

fn profile(machine: &Machine, name: &str) -> NodeProfile {
    NodeProfile {
        node: machine.node(),
        name: name.to_owned(),
        role: Role::Edge,
        speed: Speed {
            bytes_per_second: 1e9,
            flops_per_second: 1e11,
            overhead: Duration::from_micros(20),
            measured: Vec::new(),
        },
        memory: 1 << 30,
        holds: Vec::new(),
        exactness: Exactness::Exact,
        caps: Caps::default(),
        state: NodeState::Open,
        queue: Duration::ZERO,
        price: Price::default(),
    }
}

#[test]
fn paired_machines_see_each_other_with_what_they_say_and_a_silent_one_is_gone_within_three_seconds() {
    let (desk, tower) = (Machine::new("desk"), Machine::new("tower"));
    both_know(&desk, &tower, Role::Own);
    let load = Load {
        sessions: 2,
        sessions_max: 16,
        tokens: 7,
    };
    tower.members.say(&profile(&tower, "the boss"), load).unwrap();
    let seen = desk.sees(tower.node(), |m| {
        m.presence == Presence::Here && m.profile.is_some() && m.round_trip.is_some()
    });
    assert_eq!(seen.load, Some(load));
    let said = seen.profile.unwrap();
    assert_eq!(
        (said.memory, said.role, said.name),
        (1 << 30, Role::Own, seen.peer.name.clone())
    );
    assert!(seen.round_trip.unwrap() < Duration::from_secs(1) && seen.way.is_some());
    tower.sees(desk.node(), |m| m.presence == Presence::Here);

    let died = Instant::now();
    tower.members.network.vanish();
    desk.sees(tower.node(), |m| m.presence == Presence::Away);
    assert!(
        died.elapsed() < Duration::from_secs(8),
        "{:?} on a machine that may be busy",
        died.elapsed()
    );
}

#[test]
fn a_goodbye_is_heard_at_once_and_a_machine_that_comes_back_is_seen_again() {
    let (desk, mut tower) = (Machine::new("desk"), Machine::new("tower"));
    both_know(&desk, &tower, Role::Own);
    let node = tower.node();
    desk.sees(node, |m| m.presence == Presence::Here);
    tower.members.leave(Duration::from_secs(2));
    desk.sees(node, |m| m.presence == Presence::Away);
    tower.members.network.close(Duration::from_secs(3));
    let home = std::mem::replace(&mut tower.home, tempfile::tempdir().unwrap());
    // It knows the desk's address from its book; the desk hears of its new one.
    let again = Machine::start("tower", home);
    assert_eq!(again.node(), node);
    let seen = desk.sees(node, |m| m.presence == Presence::Here);
    assert_eq!(seen.address, again.members.network.address());
}

/// A watch beside other commands of its folder showed machines as away that were there.
#[test]
fn programs_of_one_folder_come_and_go_and_nobody_is_missed_for_it() {
    let (desk, tower) = (Machine::new("desk"), Machine::new("tower"));
    both_know(&desk, &tower, Role::Own);
    let watch = desk.program();
    watch.sees(tower.node(), |m| m.presence == Presence::Here);
    tower.sees(desk.node(), |m| m.presence == Presence::Here);
    let is_away = |at: &Machine, other: NodeId| {
        let all = at.members.snapshot().unwrap();
        all.iter()
            .any(|m| m.peer.node == other && m.presence == Presence::Away)
    };
    for round in 1..=2 {
        let other = desk.program();
        other.sees(tower.node(), |m| m.presence == Presence::Here);
        // Whoever only looks on has nothing to say of the desk, and is not asked.
        let news = NodeProfile {
            memory: round << 30,
            ..profile(&desk, "desk")
        };
        desk.members.say(&news, Load::default()).unwrap();
        let said = |member: &Member| {
            member
                .profile
                .as_ref()
                .is_some_and(|said| said.memory == news.memory)
        };
        tower.sees(desk.node(), said);
        // Who is not answered is given up sooner.
        let until = Instant::now() + Duration::from_secs(4);
        while Instant::now() < until {
            assert!(!is_away(&watch, tower.node()), "the watch misses the tower");
            assert!(!is_away(&tower, desk.node()), "the tower misses the desk");
            watch.members.changes().wait(Duration::from_millis(50));
        }
    }
    // The desk is there by the program that stands for it, and by no other.
    desk.members.network.vanish();
    tower.sees(desk.node(), |m| m.presence == Presence::Away);
    watch.sees(tower.node(), |m| m.presence == Presence::Here);
}

#[test]
fn a_strangers_machine_hears_of_this_one_alone_and_who_is_struck_out_is_gone() {
    let (desk, tower, miner) = (Machine::new("desk"), Machine::new("tower"), Machine::new("miner"));
    both_know(&desk, &tower, Role::Own);
    both_know(&desk, &miner, Role::Miner);
    // The miner would like to know the tower, and has its key.
    miner.knows(&tower, Role::Own);
    let nowhere = Peer {
        address: NodeAddress::default(),
        ..miner.members.network.peer(tower.node()).unwrap().unwrap()
    };
    miner.members.network.remember(nowhere).unwrap();
    desk.sees(tower.node(), |m| m.presence == Presence::Here);
    desk.sees(miner.node(), |m| m.presence == Presence::Here);
    miner.sees(desk.node(), |m| m.presence == Presence::Here);
    // Ten comparisons of lists long.
    let until = Instant::now() + Duration::from_secs(5);
    while Instant::now() < until {
        let all = miner.members.snapshot().unwrap();
        let of_tower = all.iter().find(|m| m.peer.node == tower.node()).unwrap();
        assert_eq!(of_tower.presence, Presence::Away);
        assert_eq!(
            of_tower.address,
            NodeAddress::default(),
            "the desk told where its other devices are"
        );
        miner.members.changes().wait(Duration::from_millis(100));
    }
    assert!(desk.members.network.forget(miner.node()).unwrap());
    miner.sees(desk.node(), |m| m.presence == Presence::Away);
}

#[test]
fn nonsense_of_a_peer_is_no_profile() {
    let peer = Peer {
        node: NodeId([7; 32]),
        role: Role::Miner,
        name: "m".to_owned(),
        since: 0,
        address: NodeAddress::default(),
    };
    let home = Machine::new("any");
    let sound = serde_json::to_value(profile(&home, "x")).unwrap();
    let read =
        |value: &serde_json::Value| said_by(&peer, value.to_string().as_bytes()).map(|said| said.profile);
    assert_eq!(read(&sound).unwrap().node, peer.node);
    for (field, wrong) in [
        ("/speed/bytes_per_second", serde_json::json!(0.0)),
        ("/speed/flops_per_second", serde_json::json!(-1.0)),
        (
            "/speed/measured",
            serde_json::json!([{"rows": 4, "factor": 1.0}, {"rows": 2, "factor": 1.0}]),
        ),
        ("/speed/measured", serde_json::json!([{"rows": 4, "factor": 0.0}])),
        ("/caps/cpu", serde_json::json!(2.0)),
        ("/queue", serde_json::json!({"secs": 1_000_000, "nanos": 0})),
        ("/price/answer_token", serde_json::json!(-1.0)),
        ("/memory", serde_json::json!("much")),
        ("/holds", serde_json::json!(null)),
    ] {
        let mut said = sound.clone();
        *said.pointer_mut(field).unwrap() = wrong;
        assert_eq!(read(&said), None, "{field}");
    }
    assert!(said_by(&peer, b"\xff{").is_none());
    assert!(said_by(&peer, &[b'['; 16 << 10]).is_none());
}
