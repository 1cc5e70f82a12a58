//! How two devices of one person come to trust each other: one shows a ticket, the other redeems it, both prove that
//! they know its secret. TLS has proven both keys before; the proofs bind the secret to exactly these two.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use heph_types::{NodeId, Role};

use crate::address::{NodeAddress, take};
use crate::endpoint::{Connection, Stream};
use crate::ticket::{SECRET_BYTES, Ticket};
use crate::trust::{Peer, printable};

/// Tickets that one machine has given out and remembers.
pub const INVITATIONS_MAX: usize = 16;

/// Bytes of a greeting: a name of 64 characters, eight addresses, a relay, and what stands before them.
const GREETING_BYTES_MAX: usize = 1_024;

/// How long each side waits for the other to have said all.
const PAIRING_DEADLINE: Duration = Duration::from_secs(10);

/// What a device says of itself.
#[derive(Debug, Clone)]
pub struct Introduction {
    /// How it calls itself.
    pub name: String,
    /// Where it is reached.
    pub address: NodeAddress,
}

/// The tickets that this machine has given out. They live as long as the program: a restart makes them void.
#[derive(Debug, Default)]
pub struct Invitations(Vec<Invitation>);

struct Invitation {
    secret: [u8; SECRET_BYTES],
    expires: u64,
    used_by: Option<NodeId>,
}

/// Says nothing of the secret.
impl std::fmt::Debug for Invitation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Invitation(until {}, used by {:?})",
            self.expires, self.used_by
        )
    }
}

/// Why a machine does not take a ticket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It gave out no such ticket, or has restarted since.
    #[error("the ticket is not one of that machine's; it may have restarted, ask for a new one")]
    Unknown,
    /// Its time is over.
    #[error("the ticket has expired; ask for a new one")]
    Expired,
    /// Another device was first.
    #[error("the ticket was used by another device; if that was not you, remove the device there")]
    Used,
}

/// What goes wrong while pairing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PairError {
    /// No ticket to give.
    #[error("{INVITATIONS_MAX} tickets are open already; let one expire")]
    TooManyInvitations,
    /// No random bytes for a secret.
    #[error("no random bytes for a ticket: {0}")]
    NoRandom(String),
    /// The other machine does not take the ticket.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The other machine does not know the secret that it gave out: it is not who it should be.
    #[error("{} does not know its own ticket; do not trust it", .0.short())]
    Impostor(NodeId),
    /// The ticket is another machine's.
    #[error("the ticket is not for {}", .0.short())]
    WrongMachine(NodeId),
    /// What arrived is no greeting.
    #[error("{} does not pair as this version of HEPH does", .0.short())]
    Nonsense(NodeId),
    /// The other machine left, or said nothing in time.
    #[error("{} left before the devices were paired", .0.short())]
    Left(NodeId),
}

impl Invitations {
    /// A new ticket for the machine `node` at `address`, good once and for `lasts`. `now` is in seconds since 1970.
    pub fn invite(
        &mut self,
        node: NodeId,
        address: NodeAddress,
        now: u64,
        lasts: Duration,
    ) -> Result<Ticket, PairError> {
        if self.0.len() >= INVITATIONS_MAX {
            // Used and expired ones are kept only so that a late comer hears which it was.
            let over = self
                .0
                .iter()
                .position(|old| old.used_by.is_some() || old.expires <= now);
            self.0.remove(over.ok_or(PairError::TooManyInvitations)?);
        }
        let mut secret = [0; SECRET_BYTES];
        getrandom::fill(&mut secret).map_err(|cause| PairError::NoRandom(cause.to_string()))?;
        let expires = now.saturating_add(lasts.as_secs());
        self.0.push(Invitation {
            secret,
            expires,
            used_by: None,
        });
        Ok(Ticket {
            node,
            address: address.bounded(),
            expires,
            secret,
        })
    }

    /// Whether `proof` is that of a guest who has one of the tickets, and so, the host's own proof. A device that was
    /// paired and did not hear so may ask again.
    fn redeem(
        &mut self,
        host: NodeId,
        guest: NodeId,
        proof: &blake3::Hash,
        now: u64,
    ) -> Result<blake3::Hash, Refusal> {
        let fits =
            |invitation: &&mut Invitation| proof_of(&invitation.secret, Side::Guest, host, guest) == *proof;
        let invitation = self.0.iter_mut().find(fits).ok_or(Refusal::Unknown)?;
        if invitation.used_by.is_some_and(|first| first != guest) {
            return Err(Refusal::Used);
        }
        if invitation.expires <= now {
            return Err(Refusal::Expired);
        }
        invitation.used_by = Some(guest);
        Ok(proof_of(&invitation.secret, Side::Host, host, guest))
    }
}

#[derive(Clone, Copy)]
enum Side {
    Guest,
    Host,
}

fn proof_of(secret: &[u8; SECRET_BYTES], side: Side, host: NodeId, guest: NodeId) -> blake3::Hash {
    let key = blake3::derive_key("HEPH 2026-11 pairing", secret);
    let side = match side {
        Side::Guest => b'g',
        Side::Host => b'h',
    };
    blake3::keyed_hash(&key, &[&[side][..], &host.0, &guest.0].concat())
}

/// The host's side: answers a guest that connected for [pairing](crate::endpoint::Protocol::Pair). The guest is trusted
/// from the moment that this returns it, and not before.
pub async fn host(
    connection: &Connection,
    me: NodeId,
    own: &Introduction,
    invitations: &Mutex<Invitations>,
    now: u64,
) -> Result<Peer, PairError> {
    let guest = connection.peer();
    let talk = async {
        let mut stream = connection.accept().await.map_err(|_| PairError::Left(guest))?;
        let greeting = hear(&mut stream, guest).await?;
        let said = Greeting::parse(&greeting).ok_or(PairError::Nonsense(guest))?;
        let redeemed = {
            let mut open = invitations.lock().unwrap_or_else(PoisonError::into_inner);
            open.redeem(me, guest, &said.proof, now)
        };
        let answer = match &redeemed {
            Ok(proof) => [vec![ANSWER_YES], Greeting::write(proof, own)].concat(),
            Err(refusal) => vec![code_of(*refusal)],
        };
        say(&mut stream, guest, &answer).await?;
        stream.delivered().await;
        redeemed?;
        Ok(said.peer(guest, now))
    };
    tokio::time::timeout(PAIRING_DEADLINE, talk)
        .await
        .unwrap_or(Err(PairError::Left(guest)))
}

/// The guest's side: redeems `ticket` over a connection to the machine that it names.
pub async fn join(
    connection: &Connection,
    me: NodeId,
    own: &Introduction,
    ticket: &Ticket,
    now: u64,
) -> Result<Peer, PairError> {
    let host = connection.peer();
    if host != ticket.node {
        return Err(PairError::WrongMachine(host));
    }
    let talk = async {
        let mut stream = connection.open().await.map_err(|_| PairError::Left(host))?;
        let proof = proof_of(&ticket.secret, Side::Guest, host, me);
        say(&mut stream, host, &Greeting::write(&proof, own)).await?;
        let answer = hear(&mut stream, host).await?;
        match answer.split_first() {
            Some((&ANSWER_YES, greeting)) => {
                let said = Greeting::parse(greeting).ok_or(PairError::Nonsense(host))?;
                if said.proof != proof_of(&ticket.secret, Side::Host, host, me) {
                    return Err(PairError::Impostor(host));
                }
                Ok(said.peer(host, now))
            }
            Some((&code, [])) => Err(refusal_of(code).map_or(PairError::Nonsense(host), PairError::Refused)),
            _ => Err(PairError::Nonsense(host)),
        }
    };
    tokio::time::timeout(PAIRING_DEADLINE, talk)
        .await
        .unwrap_or(Err(PairError::Left(host)))
}

const ANSWER_YES: u8 = 0;

fn code_of(refusal: Refusal) -> u8 {
    match refusal {
        Refusal::Unknown => 1,
        Refusal::Expired => 2,
        Refusal::Used => 3,
    }
}

fn refusal_of(code: u8) -> Option<Refusal> {
    [Refusal::Unknown, Refusal::Expired, Refusal::Used]
        .into_iter()
        .find(|refusal| code_of(*refusal) == code)
}

async fn say(stream: &mut Stream, to: NodeId, bytes: &[u8]) -> Result<(), PairError> {
    stream.write(bytes).await.map_err(|_| PairError::Left(to))?;
    stream.finish();
    Ok(())
}

async fn hear(stream: &mut Stream, from: NodeId) -> Result<Vec<u8>, PairError> {
    stream
        .read_all(GREETING_BYTES_MAX)
        .await
        .map_err(|_| PairError::Left(from))
}

/// A proof, then the length of a name, the name, an address.
struct Greeting {
    proof: blake3::Hash,
    introduction: Introduction,
}

impl Greeting {
    fn write(proof: &blake3::Hash, own: &Introduction) -> Vec<u8> {
        let mut out = proof.as_bytes().to_vec();
        // 64 characters of at most four bytes: 256 would not fit the length, so the last is left out.
        let mut name = printable(&own.name);
        while name.len() > usize::from(u8::MAX) {
            name.pop();
        }
        out.push(name.len() as u8);
        out.extend(name.as_bytes());
        own.address.write(&mut out);
        out
    }

    fn parse(mut bytes: &[u8]) -> Option<Greeting> {
        let proof = blake3::Hash::from_bytes(take(&mut bytes)?);
        let [length] = take(&mut bytes)?;
        let (name, mut rest) = bytes.split_at_checked(usize::from(length))?;
        let name = printable(std::str::from_utf8(name).ok()?);
        let address = NodeAddress::read(&mut rest)?;
        rest.is_empty().then_some(Greeting {
            proof,
            introduction: Introduction { name, address },
        })
    }

    fn peer(self, node: NodeId, now: u64) -> Peer {
        let Introduction { name, address } = self.introduction;
        Peer {
            node,
            role: Role::Own,
            name,
            since: now,
            address,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: NodeId = NodeId([1; 32]);
    const GUEST: NodeId = NodeId([2; 32]);
    const OTHER: NodeId = NodeId([3; 32]);
    const HOUR: Duration = Duration::from_secs(3_600);

    fn invited() -> (Invitations, Ticket) {
        let mut invitations = Invitations::default();
        let ticket = invitations
            .invite(HOST, NodeAddress::default(), 100, HOUR)
            .unwrap();
        (invitations, ticket)
    }

    fn redeem(
        invitations: &mut Invitations,
        ticket: &Ticket,
        guest: NodeId,
        now: u64,
    ) -> Result<(), Refusal> {
        let proof = proof_of(&ticket.secret, Side::Guest, HOST, guest);
        let answer = invitations.redeem(HOST, guest, &proof, now)?;
        assert_eq!(answer, proof_of(&ticket.secret, Side::Host, HOST, guest));
        Ok(())
    }

    #[test]
    fn a_ticket_works_once_and_in_time() {
        let (mut invitations, ticket) = invited();
        assert_eq!(redeem(&mut invitations, &ticket, GUEST, 200), Ok(()));
        assert_eq!(
            redeem(&mut invitations, &ticket, GUEST, 201),
            Ok(()),
            "the answer may have been lost"
        );
        assert_eq!(redeem(&mut invitations, &ticket, OTHER, 202), Err(Refusal::Used));
        let (mut invitations, ticket) = invited();
        assert_eq!(
            redeem(&mut invitations, &ticket, GUEST, 100 + 3_600),
            Err(Refusal::Expired)
        );
        assert_eq!(
            redeem(&mut Invitations::default(), &ticket, GUEST, 200),
            Err(Refusal::Unknown)
        );
    }

    #[test]
    fn a_proof_seen_is_worth_nothing_to_another() {
        let (mut invitations, ticket) = invited();
        let seen = proof_of(&ticket.secret, Side::Guest, HOST, GUEST);
        assert_eq!(invitations.redeem(HOST, OTHER, &seen, 200), Err(Refusal::Unknown));
        let backwards = proof_of(&ticket.secret, Side::Host, HOST, GUEST);
        assert_eq!(
            invitations.redeem(HOST, GUEST, &backwards, 200),
            Err(Refusal::Unknown)
        );
    }

    #[test]
    fn open_tickets_are_bounded_and_old_ones_make_room() {
        let mut invitations = Invitations::default();
        let mut invite = |now| invitations.invite(HOST, NodeAddress::default(), now, HOUR);
        for _ in 0..INVITATIONS_MAX {
            invite(100).unwrap();
        }
        assert_eq!(invite(100).unwrap_err(), PairError::TooManyInvitations);
        assert!(invite(100 + 3_600).is_ok());
    }

    #[test]
    fn a_greeting_is_read_as_written_and_hostile_bytes_are_refused() {
        let own = Introduction {
            name: "é".repeat(200),
            address: NodeAddress::at("[::1]:7".parse().unwrap()),
        };
        let bytes = Greeting::write(&blake3::hash(b"proof"), &own);
        let read = Greeting::parse(&bytes).unwrap();
        assert_eq!(
            (read.introduction.name.as_str(), read.introduction.address),
            (&*"é".repeat(64), own.address)
        );
        for end in 0..bytes.len() {
            assert!(Greeting::parse(&bytes[..end]).is_none());
        }
        for at in 32..bytes.len() {
            let mut hostile = bytes.clone();
            hostile[at] = 0xff;
            // Read or refused; never a panic.
            let _ = Greeting::parse(&hostile);
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_a_greeting_or_none(
            bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..400),
            name in ".{0,80}",
            whole in proptest::prelude::any::<bool>(),
        ) {
            let own = Introduction {
                name,
                address: NodeAddress::at("10.0.0.7:7842".parse().unwrap()),
            };
            let mut said = Greeting::write(&blake3::hash(&bytes), &own);
            if !whole {
                said.extend(&bytes);
            }
            for said in [said, bytes] {
                if let Some(read) = Greeting::parse(&said) {
                    let again = Greeting::write(&read.proof, &read.introduction);
                    let again = Greeting::parse(&again).expect("what was read can be said");
                    proptest::prop_assert_eq!(again.introduction.name, read.introduction.name);
                    proptest::prop_assert_eq!(again.introduction.address, read.introduction.address);
                }
            }
        }
    }
}
