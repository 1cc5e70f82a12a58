//! Finds peers on the local network by multicast DNS. Whoever listens on that network learns this machine's [`NodeId`]
//! and addresses, nothing else; being found makes nobody trusted.

use heph_types::NodeId;
use iroh_mdns_address_lookup::{DiscoveryEvent, MdnsAddressLookup};
use n0_future::{Stream, StreamExt};
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use crate::address::{DIRECT_MAX, NodeAddress};
use crate::endpoint::Endpoint;

/// The name that HEPH machines call on the network: `NODE._heph._udp.local`.
const SERVICE: &str = "heph";

/// Whether to look for peers on the local network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Discovery {
    /// No packet is sent to the network at large.
    Off,
    /// Look, and be seen.
    Lan,
    /// Look without being seen.
    LanUnseen,
}

/// What happened on the local network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Sighting {
    /// A machine is there, or has new addresses.
    Seen {
        /// Who it says it is; connecting proves it.
        node: NodeId,
        /// Where.
        address: NodeAddress,
    },
    /// It has not been heard of for a while.
    Gone {
        /// The machine.
        node: NodeId,
    },
}

/// The machines seen on the local network, as they come and go.
pub struct Sightings(Kind);

enum Kind {
    /// By this process's own socket.
    Here(Box<dyn Stream<Item = DiscoveryEvent> + Send + Unpin>),
    /// As a guard tells them.
    Told(broadcast::Receiver<Sighting>),
}

impl Sightings {
    /// As a guard tells them.
    #[cfg_attr(
        not(target_os = "linux"),
        expect(dead_code, reason = "guards are processes on Linux")
    )]
    pub(crate) fn told(by: broadcast::Receiver<Sighting>) -> Sightings {
        Sightings(Kind::Told(by))
    }

    /// The next one; `None` once the endpoint is closed.
    pub async fn next(&mut self) -> Option<Sighting> {
        match &mut self.0 {
            Kind::Here(events) => loop {
                if let Some(sighting) = sighting(events.next().await?) {
                    return Some(sighting);
                }
            },
            Kind::Told(told) => loop {
                match told.recv().await {
                    Ok(sighting) => return Some(sighting),
                    // Of so many the oldest are forgotten; who is there is seen again.
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return None,
                }
            },
        }
    }
}

fn sighting(event: DiscoveryEvent) -> Option<Sighting> {
    match event {
        DiscoveryEvent::Discovered { endpoint_info, .. } => {
            let direct = endpoint_info.ip_addrs().copied().take(DIRECT_MAX).collect();
            let node = NodeId(*endpoint_info.endpoint_id.as_bytes());
            let address = NodeAddress { direct, relay: None };
            Some(Sighting::Seen { node, address })
        }
        DiscoveryEvent::Expired { endpoint_id } => {
            let node = NodeId(*endpoint_id.as_bytes());
            Some(Sighting::Gone { node })
        }
        // The library may add kinds; nothing is made of what we do not know.
        _ => None,
    }
}

/// What a lookup sees from now on.
pub(crate) async fn sightings(lookup: &MdnsAddressLookup) -> Sightings {
    Sightings(Kind::Here(Box::new(lookup.subscribe().await)))
}

impl Endpoint {
    /// What is seen on the local network from now on; `None` where [`Discovery::Off`] was chosen.
    pub async fn sightings(&self) -> Option<Sightings> {
        self.seen().await
    }
}

/// Starts looking. An endpoint then also finds the way to peers whose address nobody gave it.
pub(crate) fn start(
    iroh: &iroh::Endpoint,
    discovery: Discovery,
) -> Result<Option<MdnsAddressLookup>, String> {
    let advertise = match discovery {
        Discovery::Off => return Ok(None),
        Discovery::Lan => true,
        Discovery::LanUnseen => false,
    };
    let lookup = MdnsAddressLookup::builder()
        .service_name(SERVICE)
        .advertise(advertise)
        .build(iroh.id());
    let lookup = lookup.map_err(|cause| format!("{cause:#}"))?;
    let services = iroh.address_lookup().map_err(|cause| format!("{cause:#}"))?;
    services.add(lookup.clone());
    Ok(Some(lookup))
}
