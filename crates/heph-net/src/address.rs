//! Where a peer may be reached.

use std::net::{IpAddr, SocketAddr};

use heph_types::NodeId;
use iroh::{EndpointAddr, EndpointId, RelayUrl, TransportAddr};

/// Direct addresses that are kept of one node: a machine with several networks and both address families.
pub const DIRECT_MAX: usize = 8;

/// Bytes of a relay's address as text.
pub const RELAY_TEXT_MAX: usize = 255;

/// What is known about the way to a node. Empty is allowed: discovery on the local network may still find it.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct NodeAddress {
    /// Its own sockets, at most [`DIRECT_MAX`].
    pub direct: Vec<SocketAddr>,
    /// The relay that it waits at.
    pub relay: Option<RelayAddress>,
}

impl NodeAddress {
    /// One socket, no relay.
    pub fn at(socket: SocketAddr) -> NodeAddress {
        NodeAddress {
            direct: vec![socket],
            relay: None,
        }
    }

    /// As this crate keeps it: no more than [`DIRECT_MAX`] sockets.
    pub fn bounded(mut self) -> NodeAddress {
        self.direct.truncate(DIRECT_MAX);
        self
    }

    /// `None` if `node` is no key.
    pub(crate) fn of(&self, node: NodeId) -> Option<EndpointAddr> {
        let id = EndpointId::from_bytes(&node.0).ok()?;
        let direct = self.direct.iter().copied().map(TransportAddr::Ip);
        let relay = self
            .relay
            .iter()
            .map(|relay| TransportAddr::Relay(relay.url.clone()));
        Some(EndpointAddr::from_parts(id, direct.chain(relay)))
    }
}

/// As bytes, in tickets and greetings: a count; for each socket 4 or 6, the address, the port (little-endian); then the
/// relay's text with its length before it, 0 for none.
impl NodeAddress {
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let direct = &self.direct[..self.direct.len().min(DIRECT_MAX)];
        out.push(direct.len() as u8);
        for socket in direct {
            match socket.ip() {
                IpAddr::V4(ip) => {
                    out.push(4);
                    out.extend(ip.octets());
                }
                IpAddr::V6(ip) => {
                    out.push(6);
                    out.extend(ip.octets());
                }
            }
            out.extend(socket.port().to_le_bytes());
        }
        let relay = self
            .relay
            .as_ref()
            .map(RelayAddress::to_string)
            .unwrap_or_default();
        // An address that was parsed is never longer.
        let relay = if relay.len() <= RELAY_TEXT_MAX {
            relay.as_str()
        } else {
            ""
        };
        out.push(relay.len() as u8);
        out.extend(relay.as_bytes());
    }

    /// Takes an address from the front of `bytes`; `None` where none stands.
    pub(crate) fn read(bytes: &mut &[u8]) -> Option<NodeAddress> {
        let count = usize::from(take::<1>(bytes)?[0]);
        if count > DIRECT_MAX {
            return None;
        }
        let mut direct = Vec::with_capacity(count);
        for _ in 0..count {
            let ip: IpAddr = match take::<1>(bytes)? {
                [4] => take::<4>(bytes)?.into(),
                [6] => take::<16>(bytes)?.into(),
                _ => return None,
            };
            direct.push(SocketAddr::new(ip, u16::from_le_bytes(take(bytes)?)));
        }
        let length = usize::from(take::<1>(bytes)?[0]);
        let (relay, rest) = bytes.split_at_checked(length)?;
        *bytes = rest;
        let relay = match relay {
            [] => None,
            text => Some(std::str::from_utf8(text).ok()?.parse().ok()?),
        };
        Some(NodeAddress { direct, relay })
    }
}

/// The next `N` bytes.
pub(crate) fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (first, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*first)
}

/// A relay: its URL, and the certificate that it shows where no certificate authority vouches for it.
/// As text: `https://host:port`, or `https://host:port#` and 64 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RelayAddress {
    pub(crate) url: RelayUrl,
    pub(crate) certificate: Option<[u8; 32]>,
}

/// A text that names no relay.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no relay; write https://HOST:PORT, or what `heph relay` printed")]
pub struct RelayAddressError(pub String);

impl RelayAddress {
    /// BLAKE3 of the certificate that the relay must show; without it the public authorities decide.
    pub fn certificate(&self) -> Option<[u8; 32]> {
        self.certificate
    }

    /// Where it is, without its certificate.
    pub(crate) fn place(&self) -> &str {
        self.url.as_str().trim_end_matches('/')
    }

    /// That nobody answered by it either, inside a sentence.
    pub fn in_vain(&self) -> String {
        format!("also not by its relay {}", self.place())
    }

    /// Its name or address, as a certificate has it.
    pub(crate) fn host(&self) -> &str {
        let host = self.url.host_str().unwrap_or_default();
        host.trim_start_matches('[').trim_end_matches(']')
    }
}

impl std::fmt::Display for RelayAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.place())?;
        match &self.certificate {
            Some(hash) => write!(f, "#{}", data_encoding::HEXLOWER.encode(hash)),
            None => Ok(()),
        }
    }
}

impl std::str::FromStr for RelayAddress {
    type Err = RelayAddressError;

    fn from_str(text: &str) -> Result<RelayAddress, RelayAddressError> {
        let wrong = || RelayAddressError(text.chars().take(RELAY_TEXT_MAX).collect());
        if text.len() > RELAY_TEXT_MAX || !text.starts_with("https://") {
            return Err(wrong());
        }
        let (url, hash) = match text.split_once('#') {
            Some((url, hash)) => (url, Some(hash)),
            None => (text, None),
        };
        let decode = |hash: &str| {
            data_encoding::HEXLOWER_PERMISSIVE
                .decode(hash.as_bytes())
                .ok()?
                .try_into()
                .ok()
        };
        Ok(RelayAddress {
            url: url.parse().map_err(|_| wrong())?,
            certificate: hash.map(|hash| decode(hash).ok_or_else(wrong)).transpose()?,
        })
    }
}

impl TryFrom<String> for RelayAddress {
    type Error = RelayAddressError;

    fn try_from(text: String) -> Result<RelayAddress, RelayAddressError> {
        text.parse()
    }
}

impl From<RelayAddress> for String {
    fn from(relay: RelayAddress) -> String {
        relay.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relay_is_read_as_it_is_written() {
        let pinned = format!("https://10.0.0.7:7843#{}", "ab".repeat(32));
        for text in ["https://relay.example", "https://[::1]:7843", &pinned] {
            assert_eq!(text.parse::<RelayAddress>().unwrap().to_string(), text);
        }
        for wrong in [
            "",
            "relay.example",
            "http://relay.example",
            "https://a#b",
            "https://",
            &"https://a".repeat(99),
        ] {
            assert!(wrong.parse::<RelayAddress>().is_err(), "{wrong}");
        }
    }
}
