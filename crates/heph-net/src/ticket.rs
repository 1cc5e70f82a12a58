//! The invitation that `heph node` prints and `heph join` takes: who invites, where it is, and a secret that works once.
//!
//! As text: `heph-` and base32 of: a version, the node's id, when it expires, the secret, the addresses, and four bytes
//! that tell a mistyped ticket from a whole one.

use heph_types::NodeId;

use crate::address::{NodeAddress, take};

/// What every ticket's text begins with.
const PREFIX: &str = "heph-";

/// The only version so far.
const VERSION: u8 = 1;

/// Characters of a ticket: the longest has about 800, with eight addresses and a relay.
const TEXT_MAX: usize = 1_024;

/// Bytes of the one-time secret: nobody guesses one of 2^128 before it expires.
pub const SECRET_BYTES: usize = 16;

/// Bytes that tell a mistyped ticket from a whole one.
const CHECK_BYTES: usize = 4;

/// Capitals and digits make the smallest QR code.
const ALPHABET: data_encoding::Encoding = data_encoding::BASE32_NOPAD;

/// An invitation.
#[derive(Clone, PartialEq, Eq)]
pub struct Ticket {
    /// Who invites.
    pub node: NodeId,
    /// Where it is.
    pub address: NodeAddress,
    /// Until when it holds, in seconds since 1970.
    pub expires: u64,
    /// What both sides prove to know.
    pub(crate) secret: [u8; SECRET_BYTES],
}

/// A text that is no ticket to use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    /// It does not begin as one.
    #[error("this is no ticket: one begins with {PREFIX}")]
    NoTicket,
    /// A character is wrong or missing.
    #[error("the ticket is mistyped or cut off; copy it whole")]
    Mistyped,
    /// Made by another version.
    #[error("the ticket has version {0}, this program knows {VERSION}; update the older of the two")]
    OtherVersion(u8),
    /// Its time is over.
    #[error("the ticket expired {0} s ago; ask for a new one")]
    Expired(u64),
}

impl Ticket {
    /// Refuses a ticket whose time is over at `now`, in seconds since 1970.
    pub fn check(&self, now: u64) -> Result<(), TicketError> {
        match now.checked_sub(self.expires) {
            None => Ok(()),
            Some(ago) => Err(TicketError::Expired(ago)),
        }
    }

    /// The ticket as a picture of block characters, for a terminal; two modules above each other are one character.
    /// `None` where it is too long for a picture: then the text has to do.
    pub fn qr(&self) -> Option<String> {
        crate::picture::blocks(&self.to_string().to_uppercase())
    }
}

/// The text, without the picture.
impl std::fmt::Display for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut bytes = vec![VERSION];
        bytes.extend(self.node.0);
        bytes.extend(self.expires.to_le_bytes());
        bytes.extend(self.secret);
        self.address.write(&mut bytes);
        bytes.extend(check_of(&bytes));
        write!(f, "{PREFIX}{}", ALPHABET.encode(&bytes).to_lowercase())
    }
}

/// Without the secret: this may end in a log.
impl std::fmt::Debug for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ticket({}, until {})", self.node.short(), self.expires)
    }
}

/// Reads a ticket as people hand it on: capitals or not, with spaces and line breaks.
impl std::str::FromStr for Ticket {
    type Err = TicketError;

    fn from_str(text: &str) -> Result<Ticket, TicketError> {
        if text.len() > 2 * TEXT_MAX {
            return Err(TicketError::NoTicket);
        }
        let text: String = text.split_whitespace().collect::<String>().to_ascii_uppercase();
        let body = text
            .strip_prefix(&PREFIX.to_uppercase())
            .ok_or(TicketError::NoTicket)?;
        let bytes = ALPHABET
            .decode(body.as_bytes())
            .map_err(|_| TicketError::Mistyped)?;
        let (said, check) = bytes
            .split_last_chunk::<CHECK_BYTES>()
            .ok_or(TicketError::Mistyped)?;
        if *check != check_of(said) {
            return Err(TicketError::Mistyped);
        }
        let (version, mut rest) = said.split_first().ok_or(TicketError::Mistyped)?;
        if *version != VERSION {
            return Err(TicketError::OtherVersion(*version));
        }
        let ticket = parse(&mut rest).ok_or(TicketError::Mistyped)?;
        if !rest.is_empty() {
            return Err(TicketError::Mistyped);
        }
        Ok(ticket)
    }
}

fn parse(bytes: &mut &[u8]) -> Option<Ticket> {
    Some(Ticket {
        node: NodeId(take(bytes)?),
        expires: u64::from_le_bytes(take(bytes)?),
        secret: take(bytes)?,
        address: NodeAddress::read(bytes)?,
    })
}

fn check_of(bytes: &[u8]) -> [u8; CHECK_BYTES] {
    let hash = blake3::derive_key("HEPH 2026-11 ticket check", bytes);
    *hash.first_chunk().expect("a hash has more bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket() -> Ticket {
        Ticket {
            node: NodeId([7; 32]),
            address: NodeAddress {
                direct: vec![
                    "192.168.1.20:7842".parse().unwrap(),
                    "[fe80::1]:7842".parse().unwrap(),
                ],
                relay: Some(
                    format!("https://relay.example:7843#{}", "ab".repeat(32))
                        .parse()
                        .unwrap(),
                ),
            },
            expires: 1_800_000_000,
            secret: [9; 16],
        }
    }

    #[test]
    fn a_ticket_survives_a_person() {
        let text = ticket().to_string();
        assert_eq!(text.parse(), Ok(ticket()));
        assert_eq!(text.to_uppercase().parse(), Ok(ticket()));
        let wrapped: String = text
            .chars()
            .collect::<Vec<_>>()
            .chunks(40)
            .map(|l| l.iter().collect::<String>() + "\n ")
            .collect();
        assert_eq!(wrapped.parse(), Ok(ticket()));
        assert!(!format!("{:?}", ticket()).contains("9, 9"), "no secret in a log");
    }

    #[test]
    fn every_single_slip_is_noticed() {
        let text = ticket().to_string();
        for at in PREFIX.len()..text.len() {
            let other = if &text[at..=at] == "a" { "b" } else { "a" };
            let slip = format!("{}{other}{}", &text[..at], &text[at + 1..]);
            assert_eq!(slip.parse::<Ticket>(), Err(TicketError::Mistyped), "at {at}");
            assert!(text[..at].parse::<Ticket>().is_err());
        }
        for no_ticket in ["", "heph", "hello", &"heph-a".repeat(9_999)] {
            assert_eq!(no_ticket.parse::<Ticket>(), Err(TicketError::NoTicket));
        }
    }

    #[test]
    fn the_longest_ticket_has_its_text_and_an_expired_one_says_so() {
        let long = Ticket {
            address: NodeAddress {
                direct: vec!["[fe80::1]:7842".parse().unwrap(); 8],
                relay: Some(
                    format!("https://{}.example#{}", "r".repeat(170), "ab".repeat(32))
                        .parse()
                        .unwrap(),
                ),
            },
            ..ticket()
        };
        assert!(long.to_string().len() <= TEXT_MAX);
        assert_eq!(long.to_string().parse(), Ok(long.clone()));
        assert_eq!(long.check(1_799_999_999), Ok(()));
        assert_eq!(long.check(1_800_000_060), Err(TicketError::Expired(60)));
    }

    #[test]
    fn the_picture_fits_a_terminal() {
        let near = Ticket {
            address: NodeAddress::at("192.168.1.20:7842".parse().unwrap()),
            ..ticket()
        };
        let picture = near.qr().unwrap();
        assert!(
            picture.lines().count() <= 30 && picture.lines().all(|line| line.chars().count() <= 60),
            "{picture}"
        );
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_a_ticket_or_a_named_error(text in ".{0,300}") {
            for text in [text.clone(), format!("{PREFIX}{text}")] {
                proptest::prop_assert!(text.parse::<Ticket>().is_err());
            }
        }

        #[test]
        fn any_bytes_behind_a_right_check_are_a_ticket_or_a_named_error(
            mut bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 1..300),
            address in proptest::prelude::any::<bool>(),
        ) {
            bytes[0] = VERSION;
            // Random bytes hardly ever make an address.
            if address {
                bytes.resize(1 + 32 + 8 + SECRET_BYTES, 3);
                bytes.extend([1, 4, 10, 0, 0, 7, 1, 2, 0]);
            }
            bytes.extend(check_of(&bytes));
            let text = format!("{PREFIX}{}", ALPHABET.encode(&bytes).to_lowercase());
            let read = text.parse::<Ticket>();
            proptest::prop_assert!(read.is_ok() || !address);
            if let Ok(ticket) = read {
                proptest::prop_assert_eq!(ticket.to_string().parse(), Ok(ticket));
            }
        }
    }
}
