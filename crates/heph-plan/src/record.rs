//! A decision with everything it was made from, so that it can be made again.

use crate::cluster::Cluster;
use crate::plan::Decision;
use crate::request::Request;
use crate::{Refusal, plan};
use heph_types::hex;
use serde::{Deserialize, Serialize};

/// BLAKE3 of a decision's inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Digest(#[serde(with = "hex")] pub [u8; 32]);

impl Digest {
    /// The digest of these inputs. Their debug form names every number to its last bit.
    pub fn of(request: &Request, cluster: &Cluster) -> Digest {
        Digest(blake3::hash(format!("{request:?}{cluster:?}").as_bytes()).into())
    }
}

impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::write(&self.0))
    }
}

/// A decision and its inputs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Of the inputs.
    pub digest: Digest,
    /// What was asked.
    pub request: Request,
    /// Of whom.
    pub cluster: Cluster,
    /// What was decided.
    pub decision: Decision,
}

/// Why a record cannot be replayed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ReplayError {
    /// The inputs are not those that the digest was made of.
    #[error("the record's inputs have digest {found}, it says {said}")]
    Digest {
        /// Of the inputs as they stand.
        found: Digest,
        /// As written.
        said: Digest,
    },
    /// The planner decides otherwise now.
    #[error("the planner now decides otherwise: {}", .0.reason)]
    Differs(Box<Decision>),
    /// The planner now refuses.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

impl Record {
    /// Decides, and keeps what it was decided from.
    pub fn new(request: Request, cluster: Cluster) -> Result<Record, Refusal> {
        let decision = plan(&request, &cluster)?;
        Ok(Record {
            digest: Digest::of(&request, &cluster),
            request,
            cluster,
            decision,
        })
    }

    /// Decides again, and gives the decision where it is the same.
    pub fn replay(&self) -> Result<Decision, ReplayError> {
        let found = Digest::of(&self.request, &self.cluster);
        if found != self.digest {
            let said = self.digest;
            return Err(ReplayError::Digest { found, said });
        }
        let again = plan(&self.request, &self.cluster)?;
        match again == self.decision {
            true => Ok(again),
            false => Err(ReplayError::Differs(Box::new(again))),
        }
    }
}
