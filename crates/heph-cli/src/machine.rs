//! This machine on the network: what it is called, and where it listens.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use heph_net::discovery::Discovery;
use heph_net::endpoint::EndpointOptions;
use heph_net::trust;
use heph_runtime::guard::Outlet;
use heph_runtime::members::Members;
use heph_runtime::network::{Network, NetworkOptions};
use heph_runtime::seal;
use heph_runtime::settings::{Allowance, Settings};

use crate::failure::Failure;

/// Any free port on every address of this machine.
const ANYWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// How long the goodbye to all peers may take.
const GOODBYE: Duration = Duration::from_secs(1);

/// This machine on the network, for as long as this lives: then it says goodbye.
pub(crate) struct Joined {
    network: Network,
    members: Members,
}

impl Joined {
    pub(crate) fn start(options: NetworkOptions) -> Result<Self, Failure> {
        let network = Network::start(options)?;
        match Members::look_on(&network) {
            Ok(members) => Ok(Self { network, members }),
            Err(error) => {
                network.close(GOODBYE);
                Err(heph_runtime::network::NetworkError::from(error).into())
            }
        }
    }

    /// Who of the book is there.
    pub(crate) fn members(&self) -> &Members {
        &self.members
    }
}

impl std::ops::Deref for Joined {
    type Target = Network;

    fn deref(&self) -> &Network {
        &self.network
    }
}

impl Drop for Joined {
    fn drop(&mut self) {
        self.network.close(GOODBYE);
    }
}

/// How this machine shows itself to its peers when it only asks: at any free port, and found by nobody. The short rules `also` count beside those
/// of `settings`.
pub(crate) fn asking(settings: &Settings, also: &[Allowance]) -> NetworkOptions {
    let endpoint = EndpointOptions {
        bind: ANYWHERE,
        relay: None,
        discovery: Discovery::Off,
    };
    guarded(settings, also, endpoint)
}

/// The same where it may be reached as `endpoint` says: the guard of connections owns the socket.
pub(crate) fn guarded(settings: &Settings, also: &[Allowance], endpoint: EndpointOptions) -> NetworkOptions {
    let allow = [&settings.allow[..], also].concat();
    NetworkOptions {
        guard: Some(Outlet::at(&settings.home, &allow)),
        ..options(settings, None, endpoint)
    }
}

/// How this machine shows itself when it lends, called `name` or as its system calls it.
pub(crate) fn lending(
    settings: &Settings,
    name: Option<&str>,
    endpoint: EndpointOptions,
    outlet: &Outlet,
) -> NetworkOptions {
    NetworkOptions {
        guard: Some(outlet.clone()),
        ..options(settings, name, endpoint)
    }
}

/// How this machine shows itself, called `name` or as its system calls it, by a socket of its own.
fn options(settings: &Settings, name: Option<&str>, endpoint: EndpointOptions) -> NetworkOptions {
    let own = || sysinfo::System::host_name().unwrap_or_else(|_| "a machine without a name".to_owned());
    NetworkOptions {
        home: settings.home.clone(),
        keys: settings.keys,
        name: name.map_or_else(own, str::to_owned),
        endpoint,
        guard: None,
    }
}

/// A name for a machine: one that can be seen.
pub(crate) fn name(text: &str) -> Result<String, String> {
    let name = trust::printable(text);
    match name.is_empty() {
        true => Err("a machine needs a name that can be seen".to_owned()),
        false => Ok(name),
    }
}

/// A socket as people write it.
pub(crate) fn socket(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        "an address and a port are needed, as 127.0.0.1:7842, or 0.0.0.0:7842 for every network".to_owned()
    })
}

/// The addresses by which other machines reach this one: those from which it would send beyond itself. Nothing is sent.
pub(crate) fn addresses() -> Vec<IpAddr> {
    // Addresses for documentation: a way there is a way out.
    let far: [(IpAddr, IpAddr); 2] = [
        (Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::new(192, 0, 2, 1).into()),
        (
            Ipv6Addr::UNSPECIFIED.into(),
            Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
        ),
    ];
    let from = |(here, there): (IpAddr, IpAddr)| {
        let socket = UdpSocket::bind((here, 0)).ok()?;
        socket.connect((there, 9)).ok()?;
        Some(socket.local_addr().ok()?.ip()).filter(|ip| !ip.is_unspecified() && !ip.is_loopback())
    };
    // By sockets that send nothing, which are made where sockets are.
    seal::unsealed(move || far.into_iter().filter_map(from).collect())
}
