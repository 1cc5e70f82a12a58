//! Peers that connect: each is proven, looked up in the book and handed to the service that it came for.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use heph_net::endpoint::{Arriving, Connection, Endpoint, Goodbye};
use heph_net::trust::TrustBook;
use heph_types::NodeId;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::{Admits, Caller, Inner, Service, held};

/// Peers that have begun to connect and not yet proven who they are.
const ARRIVING_MAX: usize = 64;

/// How long one may take to prove who it is.
const PROOF_DEADLINE: Duration = Duration::from_secs(10);

/// How long it may take to look somebody up in the book; who waits longer may come again.
const BOOK_DEADLINE: Duration = Duration::from_secs(10);

/// Connections that services work on at the same time.
const CONNECTIONS_MAX: usize = 512;

/// Connections of one peer: each protocol twice, since a peer that was cut off comes back before the old one is noticed
/// to be dead.
const CONNECTIONS_OF_A_PEER: usize = 8;

/// Names a connection in this process.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// Takes peers in until the endpoint is closed or the machine is gone.
pub(super) async fn take(machine: Weak<Inner>, endpoint: Endpoint) {
    let places = Arc::new(Semaphore::new(ARRIVING_MAX));
    while let Some(arriving) = endpoint.accept().await {
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            arriving.refuse();
            continue;
        };
        let machine = Weak::clone(&machine);
        tokio::spawn(async move {
            if let Some(connection) = arriving_is_proven(arriving).await {
                admit(machine, connection).await;
            }
            // Whoever waits for a slow disk is still arriving.
            drop(place);
        });
    }
}

async fn arriving_is_proven(arriving: Arriving) -> Option<Connection> {
    // Who does not finish is nobody: there is no one to tell.
    arriving.finish(PROOF_DEADLINE).await.ok()
}

/// Hands a peer to its service, or sends it away with the reason.
async fn admit(machine: Weak<Inner>, connection: Connection) {
    let Some(there) = machine.upgrade() else { return };
    let (looking, peer) = (Arc::clone(&there), connection.clone());
    // The book lies on a disk.
    let placed = there.aside.spawn(async move { place(&looking, &peer) });
    drop(there);
    let Ok(placed) = timeout(BOOK_DEADLINE, placed).await else {
        return connection.close(Goodbye::Busy);
    };
    match placed {
        Ok(Ok((leaving, service, caller))) => {
            let handled = (service.handle)(caller);
            service.thread.spawn(async move {
                handled.await;
                drop(leaving);
            });
        }
        Ok(Err(goodbye)) => connection.close(goodbye),
        // The machine is being closed, its connections with it.
        Err(_) => {}
    }
}

/// Looks for the service and the right to use it.
fn place(machine: &Arc<Inner>, connection: &Connection) -> Result<(Leaving, Service, Caller), Goodbye> {
    let service = held(&machine.services)
        .get(connection.protocol().alpn())
        .cloned()
        .ok_or(Goodbye::NotAllowed)?;
    let node = connection.peer();
    // A book that cannot be read knows nobody.
    let book = TrustBook::open(&machine.options.home).ok();
    let peer = book.and_then(|book| book.peer(node).cloned());
    if service.admits == Admits::Known && peer.is_none() {
        return Err(Goodbye::NotAllowed);
    }
    let mut arrived = held(&machine.arrived);
    let theirs = arrived.values().filter(|other| other.peer() == node).count();
    if arrived.len() >= CONNECTIONS_MAX || theirs >= CONNECTIONS_OF_A_PEER {
        return Err(Goodbye::Busy);
    }
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    arrived.insert(number, connection.clone());
    let machine = Arc::downgrade(machine);
    let connection = connection.clone();
    Ok((Leaving { machine, number }, service, Caller { connection, peer }))
}

/// Ends every connection of a peer.
pub(super) fn send_away(machine: &Inner, node: NodeId) {
    let arrived = held(&machine.arrived);
    let theirs = arrived.values().filter(|connection| connection.peer() == node);
    theirs.for_each(|connection| connection.close(Goodbye::NotAllowed));
}

/// Gives a connection's place back, however its service ended, and where nobody waited for the place any more.
struct Leaving {
    machine: Weak<Inner>,
    number: u64,
}

impl Drop for Leaving {
    fn drop(&mut self) {
        if let Some(machine) = self.machine.upgrade() {
            held(&machine.arrived).remove(&self.number);
        }
    }
}
