//! What nodes say to each other about each other, as bytes that fit a datagram.

use heph_types::NodeId;

use crate::address::{NodeAddress, take};

/// Bytes of a message: what every way carries in one datagram.
pub(super) const BYTES_MAX: usize = 1_100;

/// Rumours in a message; the shortest have 41 bytes.
pub(super) const RUMOURS_MAX: usize = 24;

/// Something said about a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rumour {
    /// About whom.
    pub node: NodeId,
    /// In which of its lives: a node raises it to refute what is said of it.
    pub incarnation: u64,
    /// What.
    pub state: State,
}

/// What is said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It is there, at this address.
    Alive(NodeAddress),
    /// It does not answer.
    Suspect,
    /// It did not refute the suspicion.
    Dead,
    /// It said goodbye.
    Left,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// Only the rumours.
    Tell,
    Ping {
        number: u64,
    },
    Answer {
        number: u64,
    },
    /// "Ping `target` for me, and bring me its answer as number so and so."
    PingFor {
        number: u64,
        target: NodeId,
    },
    /// "If your list has another digest, let us exchange them."
    Compare {
        digest: u64,
    },
    /// "Send me your list."
    Ask,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) kind: Kind,
    pub(super) rumours: Vec<Rumour>,
}

impl Message {
    pub(super) fn encode(&self) -> Vec<u8> {
        self.encode_what_fits().0
    }

    /// The message with as many of its rumours as fit, and how many that are.
    pub(super) fn encode_what_fits(&self) -> (Vec<u8>, usize) {
        let mut out = Vec::with_capacity(256);
        match &self.kind {
            Kind::Tell => out.push(0),
            Kind::Ping { number } => put(&mut out, 1, *number),
            Kind::Answer { number } => put(&mut out, 2, *number),
            Kind::PingFor { number, target } => {
                put(&mut out, 3, *number);
                out.extend(target.0);
            }
            Kind::Compare { digest } => put(&mut out, 4, *digest),
            Kind::Ask => out.push(5),
        }
        let mut said = 0;
        for rumour in self.rumours.iter().take(RUMOURS_MAX) {
            let before = out.len();
            out.extend(rumour.node.0);
            out.extend(rumour.incarnation.to_le_bytes());
            match &rumour.state {
                State::Alive(address) => {
                    out.push(0);
                    address.write(&mut out);
                }
                State::Suspect => out.push(1),
                State::Dead => out.push(2),
                State::Left => out.push(3),
            }
            if out.len() > BYTES_MAX {
                out.truncate(before);
                break;
            }
            said += 1;
        }
        (out, said)
    }

    /// `None` for bytes that are no message.
    pub(super) fn decode(mut bytes: &[u8]) -> Option<Message> {
        if bytes.len() > BYTES_MAX {
            return None;
        }
        let rest = &mut bytes;
        let kind = match take::<1>(rest)? {
            [0] => Kind::Tell,
            [1] => Kind::Ping {
                number: number(rest)?,
            },
            [2] => Kind::Answer {
                number: number(rest)?,
            },
            [3] => Kind::PingFor {
                number: number(rest)?,
                target: NodeId(take(rest)?),
            },
            [4] => Kind::Compare {
                digest: number(rest)?,
            },
            [5] => Kind::Ask,
            _ => return None,
        };
        let mut rumours = Vec::new();
        while !rest.is_empty() {
            if rumours.len() >= RUMOURS_MAX {
                return None;
            }
            let node = NodeId(take(rest)?);
            // The highest is left unused, so that a refutation always has a higher one.
            let incarnation = number(rest).filter(|n| *n < u64::MAX)?;
            let state = match take::<1>(rest)? {
                [0] => State::Alive(NodeAddress::read(rest)?),
                [1] => State::Suspect,
                [2] => State::Dead,
                [3] => State::Left,
                _ => return None,
            };
            rumours.push(Rumour {
                node,
                incarnation,
                state,
            });
        }
        Some(Message { kind, rumours })
    }
}

fn put(out: &mut Vec<u8>, kind: u8, number: u64) {
    out.push(kind);
    out.extend(number.to_le_bytes());
}

fn number(bytes: &mut &[u8]) -> Option<u64> {
    take(bytes).map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample() -> Message {
        let address = NodeAddress::at("10.0.0.7:7842".parse().unwrap());
        let states = [State::Alive(address), State::Suspect, State::Dead, State::Left];
        let rumours = states.into_iter().zip(1..).map(|(state, at)| Rumour {
            node: NodeId([at; 32]),
            incarnation: u64::from(at),
            state,
        });
        Message {
            kind: Kind::PingFor {
                number: 7,
                target: NodeId([9; 32]),
            },
            rumours: rumours.collect(),
        }
    }

    #[test]
    fn a_message_is_read_as_written_and_no_part_of_it_is_one_with_less_said() {
        let (bytes, said) = sample().encode_what_fits();
        assert_eq!((Message::decode(&bytes), said), (Some(sample()), 4));
        for end in 0..bytes.len() {
            assert_ne!(Message::decode(&bytes[..end]), Some(sample()));
        }
    }

    #[test]
    fn what_does_not_fit_is_left_for_the_next_message() {
        let mut many = sample();
        many.rumours = vec![many.rumours[1].clone(); 100];
        let (bytes, said) = many.encode_what_fits();
        assert!(bytes.len() <= BYTES_MAX && said == RUMOURS_MAX);
        let long = "[fe80::1]:7842".parse().unwrap();
        many.rumours = vec![
            Rumour {
                state: State::Alive(NodeAddress {
                    direct: vec![long; 8],
                    relay: None
                }),
                ..many.rumours[0].clone()
            };
            24
        ];
        let (bytes, said) = many.encode_what_fits();
        assert!(bytes.len() <= BYTES_MAX && (4..8).contains(&said));
        assert_eq!(Message::decode(&bytes).unwrap().rumours.len(), said);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..1_200)) {
            if let Some(message) = Message::decode(&bytes) {
                prop_assert_eq!(message.encode(), bytes);
            }
        }
    }
}
