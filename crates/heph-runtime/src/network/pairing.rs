//! Devices of one person meet: one invites, the other joins, and both enter each other in their books.

use std::sync::Arc;
use std::time::Duration;

use heph_net::endpoint::{ConnectError, Goodbye, Protocol};
use heph_net::pairing::{self, Introduction, PairError};
use heph_net::ticket::{Ticket, TicketError};
use heph_net::trust::{Peer, TrustError};

use super::{Admits, Caller, Network, held, seconds_since_1970};

/// Why two devices did not meet.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The ticket's time is over.
    #[error(transparent)]
    Ticket(#[from] TicketError),
    /// The other machine cannot be reached.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The other machine refused, or is not who it should be.
    #[error(transparent)]
    Pair(#[from] PairError),
    /// The book cannot be written.
    #[error(transparent)]
    Book(#[from] TrustError),
}

impl Network {
    /// A ticket that one device may redeem here, once and within `lasts`.
    ///
    /// # Errors
    /// When too many tickets are open.
    pub fn invite(&self, lasts: Duration) -> Result<Ticket, PairError> {
        let now = seconds_since_1970();
        held(&self.0.invitations).invite(self.node(), self.address(), now, lasts)
    }

    /// Redeems a ticket: afterwards both machines stand in each other's book.
    ///
    /// # Errors
    /// When the ticket is too old, the other machine does not answer within `deadline`, or it refuses.
    pub async fn join(&self, ticket: &Ticket, deadline: Duration) -> Result<Peer, JoinError> {
        let now = seconds_since_1970();
        ticket.check(now)?;
        let connection = self
            .connect(ticket.node, &ticket.address, Protocol::Pair, deadline)
            .await?;
        let met = pairing::join(&connection, self.node(), &self.introduction(), ticket, now).await;
        connection.close(Goodbye::Done);
        let peer = met?;
        self.remember(peer.clone())?;
        self.hails().forget(peer.node, now);
        Ok(peer)
    }

    fn introduction(&self) -> Introduction {
        Introduction {
            name: self.name().to_owned(),
            address: self.address(),
        }
    }

    /// Answers devices that come with a ticket.
    pub(super) fn serve_pairing(&self) {
        let machine = Arc::downgrade(&self.0);
        self.serve(Protocol::Pair, Admits::Anyone, move |caller: Caller| {
            let network = machine.upgrade().map(Network);
            async move {
                if let Some(network) = network {
                    network.welcome(caller).await;
                }
            }
        });
    }

    async fn welcome(&self, caller: Caller) {
        let (me, own, now) = (self.node(), self.introduction(), seconds_since_1970());
        let met = pairing::host(&caller.connection, me, &own, &self.0.invitations, now).await;
        // The guest has heard what it needs; a book that cannot be written shows when it is read.
        if let Ok(peer) = met {
            let _ = self.remember(peer);
        }
        caller.connection.closed_within(GOODBYE).await;
    }
}

/// How long a guest may take to have read the answer.
const GOODBYE: Duration = Duration::from_secs(3);
