//! A machine of the execution network.

use serde::{Deserialize, Serialize};

use crate::hex::{self, HexError};

/// A machine's identity: its Ed25519 public key. Whoever answers a TLS handshake for it has the secret key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId(#[serde(with = "hex")] pub [u8; 32]);

impl NodeId {
    /// The beginning of the id, for people: ten hexadecimal digits.
    pub fn short(&self) -> String {
        hex::write(&self.0[..5])
    }
}

/// All 64 hexadecimal digits.
impl std::fmt::Display for NodeId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::write(&self.0))
    }
}

impl std::fmt::Debug for NodeId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NodeId({})", self.short())
    }
}

impl std::str::FromStr for NodeId {
    type Err = HexError;

    fn from_str(text: &str) -> Result<Self, HexError> {
        hex::read(text).map(NodeId)
    }
}

/// What a node is to the person whose desk asks it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The person's own machine, paired with the desk.
    Own,
    /// A professional node, paid by contract.
    Cloud,
    /// A stranger's machine, paid in credits.
    Miner,
    /// A data centre near by.
    Edge,
}

impl Role {
    /// All of them.
    pub const ALL: [Role; 4] = [Role::Own, Role::Cloud, Role::Miner, Role::Edge];

    /// The word for it in settings and arguments.
    pub fn name(self) -> &'static str {
        match self {
            Role::Own => "own",
            Role::Cloud => "cloud",
            Role::Miner => "miner",
            Role::Edge => "edge",
        }
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A word that names no role.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no role; known are own, cloud, miner and edge")]
pub struct UnknownRole(pub String);

impl std::str::FromStr for Role {
    type Err = UnknownRole;

    fn from_str(word: &str) -> Result<Role, UnknownRole> {
        let named = Role::ALL.into_iter().find(|role| role.name() == word);
        named.ok_or_else(|| UnknownRole(word.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_as_it_is_written() {
        let id = NodeId(std::array::from_fn(|at| at as u8 * 7));
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!(id.to_string().starts_with(&id.short()));
        for wrong in ["", "00", &"g".repeat(64), &"é".repeat(32), &"0".repeat(65)] {
            assert!(wrong.parse::<NodeId>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_role_is_read_as_it_is_written() {
        for role in Role::ALL {
            assert_eq!(role.to_string().parse(), Ok(role));
        }
        assert!("friend".parse::<Role>().is_err());
    }
}
