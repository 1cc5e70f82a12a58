//! Two machines that know nothing of each other but a relay.

use std::net::Ipv4Addr;
use std::sync::Arc;

use heph_net::address::{NodeAddress, RelayAddress};
use heph_net::discovery::Discovery;
use heph_net::endpoint::{AtRelay, Way};
use heph_net::relay::{Admission, Relay, RelayOptions};

use super::*;

pub(super) async fn relay(home: &std::path::Path, admission: Admission) -> Relay {
    let options = RelayOptions {
        bind: (Ipv4Addr::LOCALHOST, 0).into(),
        host: "127.0.0.1".to_owned(),
        admission,
        bytes_per_second_max: None,
    };
    Relay::start(home, options).await.unwrap()
}

async fn at(relay: &RelayAddress) -> Endpoint {
    endpoint_with(EndpointOptions {
        bind: (Ipv4Addr::LOCALHOST, 0).into(),
        relay: Some(relay.clone()),
        discovery: Discovery::Off,
    })
    .await
}

/// `node` as somebody knows it who was told only where it waits.
fn only_through(relay: &Relay) -> NodeAddress {
    NodeAddress {
        direct: Vec::new(),
        relay: Some(relay.address().clone()),
    }
}

#[tokio::test]
async fn machines_meet_through_a_relay_alone() {
    let home = tempfile::tempdir().unwrap();
    let relay = relay(home.path(), Admission::Everyone).await;
    let (desk, node) = (at(relay.address()).await, at(relay.address()).await);
    assert!(node.waiting_at_relay(PATIENCE).await);
    assert_eq!(node.address().relay.as_ref(), Some(relay.address()));
    let address = only_through(&relay);
    let (to_node, to_desk) = tokio::join!(
        desk.connect(node.node(), &address, Protocol::Session, PATIENCE),
        async { node.accept().await.unwrap().finish(PATIENCE).await }
    );
    let (to_node, to_desk) = (to_node.unwrap(), to_desk.unwrap());
    assert_eq!((to_node.peer(), to_desk.peer()), (node.node(), desk.node()));
    echoes(&to_node, &to_desk).await;
    relay.stop().await;
}

/// Waits until it stands so with the relay.
async fn stands(endpoint: &Endpoint, how: fn(&AtRelay) -> bool) {
    let until = tokio::time::Instant::now() + 3 * PATIENCE;
    while !how(&endpoint.at_relay()) {
        assert!(tokio::time::Instant::now() < until, "{:?}", endpoint.at_relay());
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_machine_knows_whether_its_relay_knows_it() {
    let home = tempfile::tempdir().unwrap();
    let there = relay(home.path(), Admission::Everyone).await;
    let node = at(there.address()).await;
    stands(&node, |standing| *standing == AtRelay::There).await;
    there.stop().await;
    stands(&node, |standing| *standing != AtRelay::There).await;
    let alone = endpoint().await;
    assert_eq!(alone.at_relay(), AtRelay::Unknown);
    let strict = relay(home.path(), Admission::Only(Arc::new(|_| false))).await;
    let stranger = at(strict.address()).await;
    stands(
        &stranger,
        |standing| matches!(standing, AtRelay::Away(why) if why.contains("does not know you")),
    )
    .await;
}

/// Takes in the first who proves who it is; each who begins has a task, since some begin twice.
async fn whoever_comes(node: &Endpoint) -> Connection {
    let (came, mut first) = tokio::sync::mpsc::channel(1);
    loop {
        tokio::select! {
            Some(connection) = first.recv() => return connection,
            Some(arriving) = node.accept() => {
                let came = came.clone();
                tokio::spawn(async move {
                    if let Ok(connection) = arriving.finish(PATIENCE).await {
                        let _ = came.send(connection).await;
                    }
                });
            }
        }
    }
}

/// Who only asks, and was told nothing but where peers wait: it uses the relay of the one, and that of the next.
async fn reaches_by_their_relays(desk: &Endpoint) {
    let home = tempfile::tempdir().unwrap();
    let relays = [
        relay(home.path(), Admission::Everyone).await,
        relay(home.path(), Admission::Everyone).await,
    ];
    for relay in &relays {
        let node = at(relay.address()).await;
        assert!(node.waiting_at_relay(PATIENCE).await);
        // An address where nobody is comes first.
        let closed = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        for direct in [vec![closed.local_addr().unwrap()], Vec::new()] {
            let address = NodeAddress {
                direct,
                ..only_through(relay)
            };
            let (to_node, to_desk) = tokio::join!(
                desk.connect(node.node(), &address, Protocol::Session, PATIENCE),
                whoever_comes(&node)
            );
            echoes(&to_node.unwrap(), &to_desk).await;
        }
    }
    for relay in relays {
        relay.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_asks_reaches_a_peer_by_the_relay_that_it_waits_at() {
    let desk = endpoint().await;
    // Where a direct way opens, the relay does not hear of it.
    let home = tempfile::tempdir().unwrap();
    let meeting = relay(home.path(), Admission::Everyone).await;
    let near = at(meeting.address()).await;
    assert!(near.address().relay.is_some() && !near.address().direct.is_empty());
    connected(&desk, &near, Protocol::Session).await;
    assert!(desk.relays().is_empty() && desk.is_loopback());
    reaches_by_their_relays(&desk).await;
    // Both were at one host, and of that one is known at a time.
    assert_eq!(desk.relays().len(), 1);
    assert_eq!(desk.address().relay, None, "it waits at none itself");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_too_many_is_named_as_the_reason() {
    let (desk, node) = (endpoint().await, endpoint().await);
    let waits_at = |host: u8| NodeAddress {
        direct: Vec::new(),
        relay: Some(format!("https://127.0.0.{host}:9").parse().unwrap()),
    };
    let reach = async |host, deadline| {
        let address = waits_at(host);
        let reached = desk
            .connect(node.node(), &address, Protocol::Session, deadline)
            .await;
        reached.unwrap_err().to_string()
    };
    let mut tried = tokio::task::JoinSet::new();
    for host in 1..=8 {
        let (desk, node, address) = (desk.clone(), node.node(), waits_at(host));
        tried.spawn(async move {
            desk.connect(node, &address, Protocol::Session, PATIENCE * 6)
                .await
                .is_ok()
        });
    }
    let began = std::time::Instant::now();
    while desk.relays().len() < 8 {
        assert!(began.elapsed() < PATIENCE, "{:?}", desk.relays());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let why = reach(9, PATIENCE).await;
    assert!(why.contains("8 other relays"), "{why}");
    let again = NodeAddress {
        direct: Vec::new(),
        relay: Some("https://127.0.0.8:10".parse().unwrap()),
    };
    let refused = desk
        .connect(node.node(), &again, Protocol::Session, PATIENCE)
        .await;
    let why = refused.unwrap_err().to_string();
    assert!(why.contains("another relay at the same host"), "{why}");
    // The direct way is another thing.
    let address = NodeAddress {
        direct: node.address().direct,
        ..waits_at(9)
    };
    let (to_node, _) = tokio::join!(
        desk.connect(node.node(), &address, Protocol::Session, PATIENCE),
        whoever_comes(&node)
    );
    assert_eq!(to_node.unwrap().peer(), node.node());
    // Who is not used any more makes room.
    tried.shutdown().await;
    reach(9, Duration::from_millis(20)).await;
    let relays = desk.relays();
    assert!(
        relays.len() == 8 && relays.contains(waits_at(9).relay.as_ref().unwrap()),
        "{relays:?}"
    );
}

/// Whoever was reached by a relay before does not have it told of others who wait there: their direct way is tried alone, as the first time.
#[tokio::test(flavor = "multi_thread")]
async fn a_known_relay_is_not_told_of_who_is_reached_directly() {
    let (desk, home) = (endpoint().await, tempfile::tempdir().unwrap());
    let relay = relay(home.path(), Admission::Everyone).await;
    let (far, near) = (at(relay.address()).await, at(relay.address()).await);
    assert!(far.waiting_at_relay(PATIENCE).await);
    let address = only_through(&relay);
    let (to_far, to_desk) = tokio::join!(
        desk.connect(far.node(), &address, Protocol::Session, PATIENCE),
        whoever_comes(&far)
    );
    drop((to_far.unwrap(), to_desk));
    assert_eq!(desk.relays(), [relay.address().clone()]);
    // Until the goodbye has passed, and whatever is tried anew with it.
    let (mut sent, mut since) = (0, std::time::Instant::now());
    while since.elapsed() < Duration::from_secs(2) {
        let now = desk.account().total.relayed_bytes;
        if now != sent {
            (sent, since) = (now, std::time::Instant::now());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(sent > 0);
    let address = NodeAddress {
        relay: Some(relay.address().clone()),
        ..near.address()
    };
    assert!(!address.direct.is_empty());
    let (to_near, to_desk) = tokio::join!(
        desk.connect(near.node(), &address, Protocol::Session, PATIENCE),
        whoever_comes(&near)
    );
    let to_near = to_near.unwrap();
    echoes(&to_near, &to_desk).await;
    assert_eq!(
        (to_near.way(), desk.account().total.relayed_bytes),
        (Some(Way::Direct), sent)
    );
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_guard_reaches_a_peer_by_the_relay_that_it_waits_at_where_the_rules_let_it() {
    let watch = super::guarded::Watch::default();
    let desk = watch.endpoint().await;
    reaches_by_their_relays(&desk).await;
    watch.gate().deny_relays();
    let home = tempfile::tempdir().unwrap();
    let relay = relay(home.path(), Admission::Everyone).await;
    let node = at(relay.address()).await;
    let refused = desk
        .connect(node.node(), &only_through(&relay), Protocol::Session, PATIENCE)
        .await;
    assert!(refused.unwrap_err().to_string().contains("no relays"));
    // The direct way is another thing.
    let address = NodeAddress {
        relay: Some(relay.address().clone()),
        ..node.address()
    };
    assert!(!address.direct.is_empty());
    let (to_node, _) = tokio::join!(
        desk.connect(node.node(), &address, Protocol::Session, PATIENCE),
        async { node.accept().await.unwrap().finish(PATIENCE).await }
    );
    let (to_node, began) = (to_node.unwrap(), std::time::Instant::now());
    while to_node.way() != Some(Way::Direct) {
        assert!(began.elapsed() < PATIENCE, "{:?}", to_node.way());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_is_no_more_or_shows_another_certificate_joins_nobody() {
    let (desk, home) = (endpoint().await, tempfile::tempdir().unwrap());
    let relay = relay(home.path(), Admission::Everyone).await;
    let node = at(relay.address()).await;
    assert!(node.waiting_at_relay(PATIENCE).await);
    let text = relay.address().to_string();
    let (url, _) = text.split_once('#').unwrap();
    let soon = Duration::from_secs(1);
    // By another hash, and by the authorities, who know nothing of it.
    for forged in [format!("{url}#{}", "00".repeat(32)), url.to_owned()] {
        let address = NodeAddress {
            direct: Vec::new(),
            relay: Some(forged.parse().unwrap()),
        };
        let began = std::time::Instant::now();
        let refused = endpoint()
            .await
            .connect(node.node(), &address, Protocol::Session, soon)
            .await;
        assert!(refused.is_err() && began.elapsed() < PATIENCE, "{forged}");
    }
    let address = only_through(&relay);
    relay.stop().await;
    let refused = desk.connect(node.node(), &address, Protocol::Session, soon).await;
    let said = refused.unwrap_err().to_string();
    assert!(said.contains(&format!("its relay {url}")), "{said}");
}

#[tokio::test]
async fn a_relay_keeps_its_certificate_and_so_its_address() {
    let home = tempfile::tempdir().unwrap();
    let first = relay(home.path(), Admission::Everyone).await;
    let second = relay(home.path(), Admission::Everyone).await;
    assert_eq!(first.address().certificate(), second.address().certificate());
}

#[tokio::test]
async fn a_relay_turns_strangers_away() {
    let home = tempfile::tempdir().unwrap();
    let known = Identity::fresh().unwrap();
    let node = known.node();
    let relay = relay(
        home.path(),
        Admission::Only(Arc::new(move |asking| asking == node)),
    )
    .await;
    let options = EndpointOptions {
        relay: Some(relay.address().clone()),
        ..EndpointOptions::loopback()
    };
    let friend = Endpoint::bind(&known, options).await.unwrap();
    assert!(friend.waiting_at_relay(PATIENCE).await);
    let stranger = at(relay.address()).await;
    assert!(!stranger.waiting_at_relay(Duration::from_millis(700)).await);
}

#[tokio::test]
async fn another_certificate_at_the_address_is_not_the_relay() {
    let home = tempfile::tempdir().unwrap();
    let relay = relay(home.path(), Admission::Everyone).await;
    let text = relay.address().to_string();
    let (url, _) = text.split_once('#').unwrap();
    let forged: RelayAddress = format!("{url}#{}", "00".repeat(32)).parse().unwrap();
    assert!(
        !at(&forged)
            .await
            .waiting_at_relay(Duration::from_millis(700))
            .await
    );
}

#[tokio::test]
async fn a_relay_speaks_nothing_below_tls_1_3() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let home = tempfile::tempdir().unwrap();
    let relay = relay(home.path(), Admission::Everyone).await;
    let url = relay.address().to_string();
    let socket = url.trim_start_matches("https://").split('#').next().unwrap();
    let mut stream = tokio::net::TcpStream::connect(socket).await.unwrap();
    // A client of TLS 1.2: its version, 32 bytes of noise, no session, one cipher suite (ECDHE-RSA-AES128-GCM), no
    // compression, no extensions.
    let body = [&[3, 3][..], &[7; 32], &[0], &[0, 2, 0xc0, 0x2f], &[1, 0]].concat();
    let hello = [&[1, 0, 0, body.len() as u8][..], &body].concat();
    let record = [&[22, 3, 1, 0, hello.len() as u8][..], &hello].concat();
    stream.write_all(&record).await.unwrap();
    let mut answer = [0; 7];
    tokio::time::timeout(PATIENCE, stream.read_exact(&mut answer))
        .await
        .unwrap()
        .unwrap();
    // An alert (21) that is fatal (2): no such protocol version (70), or what such a client must have said (40, 109).
    assert!(
        answer[0] == 21 && answer[5] == 2 && [70, 40, 109].contains(&answer[6]),
        "{answer:?}"
    );
}
