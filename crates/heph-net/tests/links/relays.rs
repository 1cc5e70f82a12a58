//! Two machines that know nothing of each other but a relay.

use std::net::Ipv4Addr;
use std::sync::Arc;

use heph_net::address::{NodeAddress, RelayAddress};
use heph_net::discovery::Discovery;
use heph_net::relay::{Admission, Relay, RelayOptions};

use super::*;

async fn relay(home: &std::path::Path, admission: Admission) -> Relay {
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
