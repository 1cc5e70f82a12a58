//! How long a desk waits for machines that say nothing.

use std::net::UdpSocket;
use std::sync::Arc;
use std::time::{Duration, Instant};

use heph_net::address::NodeAddress;
use heph_net::endpoint::Protocol;
use heph_net::trust::Peer as Known;
use heph_runtime::cancel::Cancel;
use heph_runtime::network::Admits;
use heph_runtime::pool::{Contact, Hailing, Waits};
use heph_runtime::serve::ServeRules;
use heph_types::{NodeId, Role};

use super::World;
use super::service::profile;

/// How long any may take.
const DEADLINE: Duration = Duration::from_secs(3);

/// A machine of the book that says nothing, whatever it hears.
fn silent() -> (UdpSocket, Known) {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let known = Known {
        node: heph_net::identity::Identity::load_or_create(tempfile::tempdir().expect("a folder").path())
            .expect("a key")
            .node(),
        role: Role::Own,
        name: "mute".to_owned(),
        since: 0,
        address: NodeAddress::at(socket.local_addr().expect("an address")),
    };
    (socket, known)
}

fn ask(world: &World, waits: Waits) -> (Vec<Contact>, Duration) {
    let (began, network) = (Instant::now(), &world.desk.network);
    let peers = network.peers().expect("a book");
    let contacts = Hailing::start(network, peers, DEADLINE).wait(waits);
    (contacts, began.elapsed())
}

#[test]
fn a_silent_machine_is_waited_for_once_and_whoever_wants_it_waits_to_the_end() {
    let world = World::new(1);
    let (_socket, mute) = silent();
    let id: NodeId = mute.node;
    world.desk.network.remember(mute).expect("a book");
    let of = |contacts: &[Contact], node: NodeId| {
        let contact = contacts.iter().find(|contact| contact.peer.node == node);
        let contact = contact.expect("everybody is told of");
        (contact.reached.is_ok(), contact.silent_since.is_some())
    };
    let lends = world.nodes[0].0.node();
    let (contacts, took) = ask(&world, Waits::AsWorth);
    assert_eq!(of(&contacts, id), (false, false));
    assert!(
        took >= DEADLINE.mul_f64(0.9),
        "nobody has asked it before: {took:?}"
    );
    let (contacts, took) = ask(&world, Waits::AsWorth);
    assert_eq!(
        (of(&contacts, id), of(&contacts, lends).1),
        ((false, true), false)
    );
    assert!(took < DEADLINE / 2, "it is known to be silent: {took:?}");
    let (_, took) = ask(&world, Waits::ToTheEnd);
    assert!(took >= DEADLINE.mul_f64(0.9), "somebody wants it: {took:?}");
}

#[test]
fn whoever_stops_waits_for_nobody_and_calls_nobody_silent() {
    let world = World::new(1);
    let (_socket, mute) = silent();
    world.desk.network.remember(mute).expect("a book");
    let peers = world.desk.network.peers().expect("a book");
    let (cancel, began) = (Cancel::new(), Instant::now());
    let hailing = Hailing::start(&world.desk.network, peers, DEADLINE);
    let contacts = std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(DEADLINE / 10);
            cancel.raise();
        });
        hailing.wait_unless(Waits::ToTheEnd, &cancel)
    });
    assert!(began.elapsed() < DEADLINE / 2, "{:?}", began.elapsed());
    assert!(contacts.iter().any(|contact| contact.reached.is_err()));
    let hails = world.desk.network.hails();
    let silent = |contact: &Contact| {
        let hail = hails.of(contact.peer.node);
        hail.is_some_and(|hail| hail.silent.is_some())
    };
    assert!(!contacts.iter().any(silent));
}

/// Behind a way of 3 Mbit/s machines that had just been joined were told to be away.
#[test]
fn who_answers_is_there_however_long_it_takes_to_measure_the_way() {
    let world = World::with(
        1,
        ServeRules {
            profile: Some(Arc::new(profile)),
            ..ServeRules::default()
        },
    );
    let node = &world.nodes[0].0.network;
    // It hears who would measure, and the answer is on its way for ever.
    node.serve(Protocol::Shards, Admits::Known, |caller| async move {
        caller.connection.closed().await;
    });
    let (contacts, took) = ask(&world, Waits::ToTheEnd);
    let why = contacts[0].reached.as_ref().err();
    assert_eq!(why, None);
    assert!(took < DEADLINE.mul_f64(0.9), "nobody hears it in time: {took:?}");
}
