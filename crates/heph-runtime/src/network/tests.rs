//! Machines on this machine's loopback: real sockets, homes of their own.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use heph_net::address::{NodeAddress, RelayAddress};
use heph_net::endpoint::{EndpointOptions, Goodbye, Passed, Protocol, Traffic};
use heph_net::pairing::PairError;
use heph_net::pairing::Refusal;
use heph_types::NodeId;

use super::{Admits, JoinError, NOTE_BYTES, NOTE_EVERY, Network, NetworkError, NetworkOptions, is_due};
use crate::rules::POLICY_FILE;
use crate::settings::Keys;

/// What a healthy loopback never needs.
const PATIENCE: Duration = Duration::from_secs(5);

struct Machine {
    network: Network,
    _home: tempfile::TempDir,
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.network.close(PATIENCE);
    }
}

fn machine(name: &str) -> Machine {
    let home = tempfile::tempdir().unwrap();
    let options = NetworkOptions {
        home: home.path().to_owned(),
        keys: Some(Keys::File),
        name: name.to_owned(),
        endpoint: EndpointOptions::loopback(),
        guard: None,
    };
    Machine {
        network: Network::start(options).unwrap(),
        _home: home,
    }
}

/// Answers with what it hears, on every stream of every peer that comes.
fn echo(machine: &Machine, admits: Admits) {
    machine
        .network
        .serve(Protocol::Session, admits, |caller| async move {
            while let Ok(mut stream) = caller.connection.accept().await {
                let heard = stream.read_all(64).await.unwrap();
                stream.write(&heard).await.unwrap();
                stream.finish();
            }
        });
}

/// Whether `from` gets an answer from `to`.
fn hears(from: &Machine, to: &Machine) -> bool {
    let (from, to) = (&from.network, &to.network);
    from.block_on(async {
        let address = to.address();
        let connecting = from.connect(to.node(), &address, Protocol::Session, PATIENCE);
        let Ok(connection) = connecting.await else {
            return false;
        };
        let Ok(mut stream) = connection.open().await else {
            return false;
        };
        let _ = stream.write(b"hello").await;
        stream.finish();
        let heard = stream.read_all(64).await;
        connection.close(Goodbye::Done);
        heard.is_ok_and(|heard| heard == b"hello")
    })
}

#[test]
fn who_was_found_elsewhere_is_asked_there_the_next_time() {
    let (tower, laptop) = (machine("tower"), machine("laptop"));
    echo(&tower, Admits::Anyone);
    let ticket = tower.network.invite(Duration::from_secs(60)).unwrap();
    let met = laptop
        .network
        .block_on(laptop.network.join(&ticket, PATIENCE))
        .unwrap();
    let node = met.node;
    // It was somewhere else when both met.
    let nowhere = NodeAddress::at("127.0.0.1:9".parse().unwrap());
    laptop
        .network
        .remember(heph_net::trust::Peer {
            address: nowhere.clone(),
            ..met
        })
        .unwrap();
    assert_eq!(laptop.network.address_of(node), nowhere);
    assert!(hears(&laptop, &tower));
    laptop.network.0.note();
    let address = laptop.network.address_of(node);
    assert_eq!(address.direct[..1], tower.network.address().direct[..1]);
    assert_eq!(address.direct[1..], nowhere.direct, "it may be back there");
    // Another program of this machine asks it there, too.
    let kept = crate::hails::Hails::open(laptop.network.home());
    assert_eq!(kept.found_at(node), Some(address.direct[0]));
    // Once the book says so, nothing else is remembered.
    let book = laptop.network.peer(node).unwrap().unwrap();
    let address = tower.network.address();
    laptop
        .network
        .remember(heph_net::trust::Peer { address, ..book })
        .unwrap();
    assert!(hears(&laptop, &tower));
    laptop.network.0.note();
    assert_eq!(laptop.network.hails().found_at(node), None);
}

#[test]
fn a_peer_with_several_sockets_is_found_at_one() {
    let node = NodeId([1; 32]);
    let over = |number: u64, node: NodeId, to: &str| Passed {
        number,
        node,
        protocol: Protocol::Session,
        to: Some(to.to_owned()),
        labels: BTreeSet::new(),
        traffic: Traffic::default(),
        greeting_bytes: 0,
    };
    let (one, other, home) = ("192.0.2.7:40001", "192.0.2.7:40002", "192.0.2.7:7842");
    let book = |asked| (asked == node).then(|| vec![home.parse().unwrap()]);
    let at = |all: &[&str]| {
        let passed: Vec<Passed> = (0..)
            .zip(all)
            .map(|(number, to)| over(number, node, to))
            .collect();
        super::elsewhere(&passed, book).remove(&node)
    };
    assert_eq!(at(&[one]), Some(Some(one.parse().unwrap())));
    assert_eq!(at(&[one, other]), at(&[one]));
    for all in [[one, home], [home, one]] {
        assert_eq!(at(&all), Some(None), "it is where the book says");
    }
    assert_eq!(at(&["https://relay.example/"]), None);
    let stranger = over(0, NodeId([2; 32]), one);
    assert!(super::elsewhere(&[stranger], book).is_empty());
}

#[test]
fn only_who_was_paired_is_served_and_only_as_long_as_it_is_trusted() {
    let (tower, laptop) = (machine("tower"), machine("laptop"));
    assert!(!hears(&laptop, &tower), "nobody serves yet");
    echo(&tower, Admits::Known);
    assert!(!hears(&laptop, &tower), "a stranger");
    let ticket = tower.network.invite(Duration::from_secs(60)).unwrap();
    let met = laptop
        .network
        .block_on(laptop.network.join(&ticket, PATIENCE))
        .unwrap();
    assert_eq!((met.node, met.name.as_str()), (tower.network.node(), "tower"));
    assert_eq!(laptop.network.address_of(met.node), met.address);
    let until = Instant::now() + PATIENCE;
    while !hears(&laptop, &tower) {
        assert!(Instant::now() < until, "paired");
    }
    assert!(tower.network.forget(laptop.network.node()).unwrap());
    assert!(!hears(&laptop, &tower), "a stranger again");
    tower.network.stop_serving(Protocol::Session);
    echo(&tower, Admits::Anyone);
    assert!(hears(&laptop, &tower), "whoever comes");
}

#[test]
fn who_is_forgotten_is_cut_off() {
    let (tower, laptop) = (machine("tower"), machine("laptop"));
    echo(&tower, Admits::Anyone);
    let network = &laptop.network;
    let connection = network
        .block_on(network.connect(
            tower.network.node(),
            &tower.network.address(),
            Protocol::Session,
            PATIENCE,
        ))
        .unwrap();
    assert!(hears(&laptop, &tower));
    let end = tower.network.clone();
    let node = network.node();
    let cut = std::thread::spawn(move || {
        while end.0.arrived.lock().unwrap().is_empty() {
            std::thread::yield_now();
        }
        end.forget(node).unwrap()
    });
    let reason = network.block_on(connection.closed()).to_string();
    assert!(reason.ends_with("not allowed"), "{reason}");
    assert!(!cut.join().unwrap(), "it never stood in the book");
}

#[test]
fn a_disk_that_hangs_keeps_nobody_waiting_who_is_there() {
    let (tower, laptop) = (machine("tower"), machine("laptop"));
    echo(&tower, Admits::Anyone);
    let (network, address) = (&laptop.network, tower.network.address());
    let connecting = network.connect(tower.network.node(), &address, Protocol::Session, PATIENCE);
    let connection = network.block_on(connecting).unwrap();
    let heard = || {
        network.block_on(async {
            let mut stream = connection.open().await.unwrap();
            stream.write(b"hello").await.unwrap();
            stream.finish();
            let heard = tokio::time::timeout(PATIENCE, stream.read_all(64)).await;
            heard.is_ok_and(|heard| heard.is_ok_and(|heard| heard == b"hello"))
        })
    };
    assert!(heard());
    let (disk, hangs) = std::sync::mpsc::channel::<()>();
    let hanging = tower.network.aside(move || hangs.recv().is_ok());
    assert!(heard(), "a conversation goes on");
    assert!(!hanging.is_finished());
    drop(disk);
    assert!(
        hears(&laptop, &tower),
        "whoever comes is looked up once it answers"
    );
}

#[test]
fn a_ticket_opens_one_door_once() {
    let (tower, laptop, thief) = (machine("tower"), machine("laptop"), machine("thief"));
    let ticket = tower.network.invite(Duration::from_secs(60)).unwrap();
    let join = |guest: &Machine| guest.network.block_on(guest.network.join(&ticket, PATIENCE));
    join(&laptop).unwrap();
    let refused = join(&thief).unwrap_err();
    assert!(
        matches!(refused, JoinError::Pair(PairError::Refused(Refusal::Used))),
        "{refused}"
    );
    assert_eq!(thief.network.peers().unwrap(), []);
}

#[test]
fn closing_ends_within_its_deadline_whatever_the_tasks_do() {
    let tower = machine("tower");
    tower.network.spawn(std::future::pending::<()>());
    let began = Instant::now();
    tower.network.close(Duration::from_secs(1));
    assert!(began.elapsed() < Duration::from_secs(3));
}

#[test]
fn a_relay_is_waited_at_only_where_the_policy_lets_it_be() {
    let starts = |policy: Option<&str>| {
        let home = tempfile::tempdir().unwrap();
        if let Some(policy) = policy {
            std::fs::write(home.path().join(POLICY_FILE), policy).unwrap();
        }
        let relay = Some("https://127.0.0.1:9".parse().unwrap());
        let network = Network::start(NetworkOptions {
            home: home.path().to_owned(),
            keys: Some(Keys::File),
            name: "laptop".to_owned(),
            endpoint: EndpointOptions {
                relay,
                ..EndpointOptions::loopback()
            },
            guard: None,
        });
        network.map(|network| network.close(Duration::ZERO))
    };
    let denied = |policy| matches!(starts(Some(policy)), Err(NetworkError::Relay { .. }));
    assert!(
        starts(None).is_ok(),
        "whoever names a relay and wrote no policy means it"
    );
    assert!(starts(Some("version = 1\npreset = \"own-devices\"\n")).is_ok());
    assert!(denied("version = 1\npreset = \"local-only\"\n"));
    assert!(denied("what cannot be read lets nothing leave"));
    assert!(denied(NO_RELAYS));
}

const NO_RELAYS: &str = "version = 1\npreset = \"open\"\n[[rule]]\nname = \"no relays\"\nwhen = { to = [\"relay\"] }\nthen = \"deny\"\n";

#[test]
fn a_rule_against_a_relay_counts_while_a_machine_waits_there() {
    let (home, other) = (tempfile::tempdir().unwrap(), machine("laptop"));
    let network = Network::start(NetworkOptions {
        home: home.path().to_owned(),
        keys: Some(Keys::File),
        name: "tower".to_owned(),
        endpoint: EndpointOptions {
            relay: Some("https://127.0.0.1:9".parse().unwrap()),
            ..EndpointOptions::loopback()
        },
        guard: None,
    })
    .unwrap();
    let (tower, address) = (network.node(), network.address());
    let greets = || {
        let endpoint = other.network.endpoint();
        let within = Duration::from_secs(3);
        let greeted = endpoint.connect(tower, &address, Protocol::Pair, within);
        other.network.block_on(greeted).is_ok()
    };
    assert!(greets() && network.denied().is_none());
    std::fs::write(home.path().join(POLICY_FILE), NO_RELAYS).unwrap();
    let until = Instant::now() + Duration::from_secs(30);
    while network.denied().is_none() {
        assert!(Instant::now() < until, "the rule does not count");
        std::thread::sleep(Duration::from_millis(20));
    }
    let said = network.denied().unwrap().to_string();
    assert!(said.contains("127.0.0.1:9"), "{said}");
    assert!(!greets(), "it is closed");
}

#[test]
fn much_is_noted_soon_and_little_within_two_seconds() {
    let soon = Duration::from_millis(250);
    for (since, bytes, due) in [
        (soon, 0, false),
        (soon, NOTE_BYTES - 1, false),
        (soon, NOTE_BYTES, true),
        (NOTE_EVERY, 0, true),
    ] {
        assert_eq!(is_due(since, bytes), due, "{since:?} {bytes}");
    }
}

#[test]
fn what_passed_and_is_not_noted_is_known() {
    let (tower, laptop) = (machine("tower"), machine("laptop"));
    echo(&tower, Admits::Anyone);
    let (to, from) = (&tower.network, &laptop.network);
    let address = to.address();
    let connecting = from.connect(to.node(), &address, Protocol::Session, PATIENCE);
    let connection = from.block_on(connecting).unwrap();
    assert!(from.0.unnoted() > NOTE_BYTES, "a greeting is longer");
    // The last packets of a greeting may come behind a look.
    let until = Instant::now() + PATIENCE;
    loop {
        from.0.note();
        let left = from.0.unnoted();
        if left < NOTE_BYTES {
            break;
        }
        assert!(Instant::now() < until, "{left}");
        std::thread::sleep(Duration::from_millis(20));
    }
    connection.close(Goodbye::Done);
}

#[test]
fn a_peer_behind_a_relay_that_the_rules_deny_is_reached_directly_or_not_at_all() {
    let (tower, laptop) = (machine("tower"), machine("laptop"));
    echo(&tower, Admits::Anyone);
    let relay: RelayAddress = "https://127.0.0.1:9".parse().unwrap();
    let reach = |direct: &[std::net::SocketAddr]| {
        let address = NodeAddress {
            direct: direct.to_vec(),
            relay: Some(relay.clone()),
        };
        let (from, within) = (&laptop.network, Duration::from_secs(1));
        from.block_on(from.connect(tower.network.node(), &address, Protocol::Session, within))
    };
    std::fs::write(laptop.network.home().join(POLICY_FILE), NO_RELAYS).unwrap();
    let closed = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    for direct in [&[][..], &[closed.local_addr().unwrap()]] {
        let said = reach(direct).unwrap_err().to_string();
        assert!(said.contains("no relays"), "{said}");
    }
    assert!(laptop.network.endpoint().relays().is_empty(), "nobody asked it");
    assert!(reach(&tower.network.address().direct).is_ok());
    // Without the rule it is tried.
    std::fs::remove_file(laptop.network.home().join(POLICY_FILE)).unwrap();
    // By the direct way that the library remembers, or by nothing.
    let _ = reach(&[]);
    assert_eq!(laptop.network.endpoint().relays(), [relay]);
}
