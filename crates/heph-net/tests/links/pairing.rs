//! `heph node` here, `heph join` there.

use std::sync::Mutex;

use heph_net::endpoint::Goodbye;
use heph_net::pairing::{self, Introduction, Invitations, PairError, Refusal};
use heph_net::ticket::Ticket;
use heph_net::trust::{Peer, TrustBook};
use heph_types::Role;

use super::*;

const NOW: u64 = 1_764_000_000;

fn introduction(name: &str, endpoint: &Endpoint) -> Introduction {
    Introduction {
        name: name.to_owned(),
        address: endpoint.address(),
    }
}

/// Both sides of one attempt.
async fn pair(
    host: &Endpoint,
    guest: &Endpoint,
    ticket: &Ticket,
    open: &Mutex<Invitations>,
) -> (Result<Peer, PairError>, Result<Peer, PairError>) {
    let (to_host, to_guest) = connected(guest, host, Protocol::Pair).await;
    let (host_says, guest_says) = (introduction("tower", host), introduction("laptop", guest));
    let both = tokio::join!(
        pairing::host(&to_guest, host.node(), &host_says, open, NOW),
        pairing::join(&to_host, guest.node(), &guest_says, ticket, NOW)
    );
    to_host.close(Goodbye::Done);
    both
}

#[tokio::test]
async fn paired_devices_know_each_other_afterwards() {
    let (host, guest) = (endpoint().await, endpoint().await);
    let open = Mutex::new(Invitations::default());
    let lasts = Duration::from_secs(600);
    let ticket = open
        .lock()
        .unwrap()
        .invite(host.node(), host.address(), NOW, lasts)
        .unwrap();
    let ticket: Ticket = ticket.to_string().parse().unwrap();
    let (at_host, at_guest) = pair(&host, &guest, &ticket, &open).await;
    let (at_host, at_guest) = (at_host.unwrap(), at_guest.unwrap());
    assert_eq!(
        (at_host.node, at_host.role, at_host.name.as_str()),
        (guest.node(), Role::Own, "laptop")
    );
    assert_eq!(
        (at_guest.node, at_guest.role, at_guest.name.as_str()),
        (host.node(), Role::Own, "tower")
    );
    assert_eq!(at_guest.address, host.address());
    let home = tempfile::tempdir().unwrap();
    TrustBook::open(home.path()).unwrap().remember(at_host).unwrap();
    assert!(TrustBook::open(home.path()).unwrap().peer(guest.node()).is_some());

    let thief = endpoint().await;
    let (at_host, at_thief) = pair(&host, &thief, &ticket, &open).await;
    assert_eq!(at_host.unwrap_err(), PairError::Refused(Refusal::Used));
    assert_eq!(at_thief.unwrap_err(), PairError::Refused(Refusal::Used));
}

#[tokio::test]
async fn a_ticket_of_another_machine_opens_nothing() {
    let (host, guest, other) = (endpoint().await, endpoint().await, endpoint().await);
    let open = Mutex::new(Invitations::default());
    let lasts = Duration::from_secs(600);
    let mut elsewhere = Invitations::default();
    let forged = elsewhere.invite(host.node(), host.address(), NOW, lasts).unwrap();
    let (at_host, at_guest) = pair(&host, &guest, &forged, &open).await;
    assert_eq!(at_host.unwrap_err(), PairError::Refused(Refusal::Unknown));
    assert_eq!(at_guest.unwrap_err(), PairError::Refused(Refusal::Unknown));
    let misled = elsewhere
        .invite(other.node(), host.address(), NOW, lasts)
        .unwrap();
    let (to_host, _to_guest) = connected(&guest, &host, Protocol::Pair).await;
    let error = pairing::join(
        &to_host,
        guest.node(),
        &introduction("laptop", &guest),
        &misled,
        NOW,
    )
    .await;
    assert_eq!(error.unwrap_err(), PairError::WrongMachine(host.node()));
}
