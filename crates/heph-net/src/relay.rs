//! The relay of `heph relay`: a meeting place for machines that no direct way joins. It forwards packets that it cannot
//! read, and tells each machine the address that it is seen at, so that most pairs soon find a direct way.
//!
//! The relay shows a certificate of its own making; its address carries the certificate's hash, and a machine that was
//! given the address trusts that one certificate, so a relay works without a domain name and without the internet.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use heph_types::NodeId;
use iroh_relay::server::{self, Access, AccessControl, ClientRequest};
use iroh_relay::tls::CaTlsConfig;
use iroh_relay::{RelayConfig, RelayQuicConfig};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};

use crate::address::RelayAddress;
use crate::{kept, key_exchange};

/// The file below HEPH's folder that holds the relay's certificate and its key.
pub const FILE: &str = "relay-certificate";

/// The usual port, for TCP and for UDP.
pub const PORT: u16 = 7843;

/// A certificate and its key; ours have about 600 bytes.
const FILE_BYTES_MAX: u64 = 16 << 10;

/// Machines that a relay remembers the keys of.
const KEYS_REMEMBERED: usize = 4_096;

/// Somebody else may hold the UDP port of a number that is free for TCP, or take either before the relay does; rarely twice.
const PORT_TRIES: usize = 16;

/// Who may wait at a relay.
#[derive(Clone)]
pub enum Admission {
    /// Whoever knows the address.
    Everyone,
    /// Machines for which this says yes.
    Only(Arc<dyn Fn(NodeId) -> bool + Send + Sync>),
}

/// How a relay is run.
#[derive(Debug, Clone)]
pub struct RelayOptions {
    /// The socket to open, TCP and UDP; port 0 for any free one.
    pub bind: SocketAddr,
    /// The name or address that machines reach it by.
    pub host: String,
    /// Who may wait at it.
    pub admission: Admission,
    /// Bytes a second that one machine may send through it; `None` for all that the line carries.
    pub bytes_per_second_max: Option<NonZeroU32>,
}

/// A running relay. Dropping it stops it.
#[derive(Debug)]
pub struct Relay {
    server: server::Server,
    address: RelayAddress,
}

/// What keeps a relay from running.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// The certificate cannot be read or made.
    #[error("the relay's certificate {path} cannot be used")]
    Certificate {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// Not a name that an address can be made of.
    #[error("{0:?} is no name or address of a machine; write it as relay.example or 192.0.2.7")]
    Host(String),
    /// The sockets.
    #[error("no relay at {bind}: {cause}")]
    Socket {
        /// The address asked for.
        bind: SocketAddr,
        /// What the library says.
        cause: String,
    },
}

impl Relay {
    /// Opens the relay, with the certificate that is kept below `home`; one is made if none is.
    pub async fn start(home: &Path, options: RelayOptions) -> Result<Relay, RelayError> {
        Relay::open(Certificate::keep(home, &options.host)?, options).await
    }

    /// Opens the relay with this certificate. Reads no file.
    pub async fn open(certificate: Certificate, options: RelayOptions) -> Result<Relay, RelayError> {
        let RelayOptions {
            bind,
            host,
            admission,
            bytes_per_second_max,
        } = options;
        let socket = |cause: String| RelayError::Socket { bind, cause };
        let hash = certificate.hash();
        let tls = certificate
            .into_server()
            .map_err(|cause| socket(cause.to_string()))?;

        let admission = Arc::new(admission);
        let config = |bind| {
            // The library answers one plain request ("is there a captive portal?") on a port of its own. Nothing that leaves
            // this machine may be below TLS 1.3, so that port is not open to anybody else.
            let mut config = server::RelayConfig::new((Ipv4Addr::LOCALHOST, 0));
            config.tls = Some(server::TlsConfig::new(
                bind,
                server::CertConfig::Manual {
                    server_config: tls.clone(),
                },
            ));
            config.key_cache_capacity = Some(KEYS_REMEMBERED);
            config.access = Arc::<Admission>::clone(&admission);
            config.limits.client_rx = bytes_per_second_max.map(server::ClientRateLimit::new);
            let mut both = server::ServerConfig::default();
            both.relay = Some(config);
            both.quic = Some(server::QuicConfig::new(bind));
            both
        };
        let mut tries = if bind.port() == 0 { PORT_TRIES } else { 1 };
        let (server, bind) = loop {
            let free = with_port(bind).map_err(|cause| socket(cause.to_string()))?;
            tries -= 1;
            match server::Server::spawn(config(free)).await {
                Ok(server) => break (server, free),
                Err(cause) if tries == 0 => return Err(socket(format!("{cause:#}"))),
                Err(_) => {}
            }
        };
        let hash = data_encoding::HEXLOWER.encode(&hash);
        let address = format!("https://{host}:{}#{hash}", bind.port());
        let address = address.parse().map_err(|_| RelayError::Host(host))?;
        Ok(Relay { server, address })
    }

    /// What machines are given to find and trust this relay.
    pub fn address(&self) -> &RelayAddress {
        &self.address
    }

    /// Stops it.
    pub async fn stop(self) {
        // It is stopping either way; a task that failed before has already cost only its own connection.
        let _ = self.server.shutdown().await;
    }
}

/// `bind` with a port that is free for TCP and for UDP, where none was chosen. Another program may take it at any time.
fn with_port(bind: SocketAddr) -> io::Result<SocketAddr> {
    if bind.port() != 0 {
        return Ok(bind);
    }
    for _ in 0..PORT_TRIES {
        let tcp = TcpListener::bind(bind)?.local_addr()?;
        if UdpSocket::bind(tcp).is_ok() {
            return Ok(tcp);
        }
    }
    Err(io::ErrorKind::AddrInUse.into())
}

/// Its key is shown to nobody.
impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Certificate(..)")
    }
}

/// `Only` has nothing to show.
impl fmt::Debug for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Admission::Everyone => "Everyone",
            Admission::Only(_) => "Only(..)",
        })
    }
}

impl AccessControl for Admission {
    async fn on_connect(&self, request: &ClientRequest) -> Access {
        let admitted = match self {
            Admission::Everyone => true,
            Admission::Only(known) => known(NodeId(*request.endpoint_id().as_bytes())),
        };
        match admitted {
            true => Access::Allow,
            false => Access::Deny {
                reason: Some("this relay does not know you".to_owned()),
            },
        }
    }
}

/// The relay as the library's client knows it.
pub(crate) fn as_seen_by_clients(relay: &RelayAddress) -> RelayConfig {
    let quic = relay.url.port_or_known_default().map(RelayQuicConfig::new);
    RelayConfig::new(relay.url.clone(), quic)
}

/// The relays of an endpoint, and what each has to show: the certificate that its address names, else one that the public authorities vouch
/// for. No other host is believed anything, and of a host one relay is known at a time: the library does not say at which port a certificate
/// was shown. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Trusted(Arc<Mutex<Vec<Known>>>);

/// A relay of an endpoint.
#[derive(Debug)]
struct Known {
    relay: RelayAddress,
    /// How many use it.
    uses: usize,
    /// When the last use ended.
    left: Instant,
}

/// One use of a relay: it stays known for as long as this is held.
#[derive(Debug)]
pub(crate) struct Use {
    trusted: Trusted,
    relay: RelayAddress,
}

impl Drop for Use {
    fn drop(&mut self) {
        if let Some(known) = find(&mut self.trusted.relays(), &self.relay) {
            known.uses = known.uses.saturating_sub(1);
            known.left = Instant::now();
        }
    }
}

/// Why a relay is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoRoom {
    /// As many as there may be are used.
    Many,
    /// Another one at the same host is used.
    Host,
}

/// Relays of one endpoint.
pub(crate) const RELAYS_MAX: usize = 8;

/// How long a relay that nobody uses stays known: as long as the library keeps a connection to one by which nothing passes.
const UNUSED_MAX: Duration = Duration::from_secs(60);

impl Trusted {
    /// Trusts one more, or uses one that is known. With the use come those that were let go of for it: nobody used them.
    pub(crate) fn add(&self, relay: &RelayAddress) -> Result<(Use, Vec<RelayAddress>), NoRoom> {
        let mut relays = self.relays();
        let mut gone = Vec::new();
        if find(&mut relays, relay).is_none() {
            if let Some(at) = relays.iter().position(|known| known.relay.host() == relay.host()) {
                gone.push(let_go(&mut relays, at).ok_or(NoRoom::Host)?);
            }
            if relays.len() >= RELAYS_MAX {
                let unused = (0..relays.len()).filter(|at| relays[*at].uses == 0);
                let at = unused.min_by_key(|at| relays[*at].left).ok_or(NoRoom::Many)?;
                gone.extend(let_go(&mut relays, at));
            }
            relays.push(Known {
                relay: relay.clone(),
                uses: 0,
                left: Instant::now(),
            });
        }
        drop(relays);
        Ok((self.uses(relay).ok_or(NoRoom::Many)?, gone))
    }

    /// One more use of a relay, where it is known.
    pub(crate) fn uses(&self, relay: &RelayAddress) -> Option<Use> {
        let mut relays = self.relays();
        find(&mut relays, relay)?.uses += 1;
        Some(Use {
            trusted: self.clone(),
            relay: relay.clone(),
        })
    }

    /// Lets go of those that nobody has used for so long, and says which.
    pub(crate) fn tire(&self, long: Duration) -> Vec<RelayAddress> {
        let mut relays = self.relays();
        let tired = |known: &mut Known| known.uses == 0 && known.left.elapsed() >= long;
        relays.extract_if(.., tired).map(|known| known.relay).collect()
    }

    /// As [`Trusted::tire`], of those that the library has let go of as well.
    pub(crate) fn tired(&self) -> Vec<RelayAddress> {
        self.tire(UNUSED_MAX)
    }

    /// All of them.
    pub(crate) fn all(&self) -> Vec<RelayAddress> {
        self.relays().iter().map(|known| known.relay.clone()).collect()
    }

    /// Who says whether this certificate is that of the relay at `host`.
    fn vouches(&self, host: &str, certificate: [u8; 32]) -> Vouches {
        let mut relays = self.all();
        relays.retain(|relay| relay.host() == host);
        if relays.iter().any(|relay| relay.certificate == Some(certificate)) {
            return Vouches::Address;
        }
        match relays.iter().any(|relay| relay.certificate.is_none()) {
            true => Vouches::Authorities,
            false => Vouches::Nobody,
        }
    }

    /// For the library, which asks again at each connection to a relay.
    pub(crate) fn config(&self) -> CaTlsConfig {
        let trusted = self.clone();
        CaTlsConfig::custom_server_cert_verifier(Arc::new(move |provider| {
            Ok(Arc::new(Pinned {
                trusted: trusted.clone(),
                authorities: CaTlsConfig::embedded().server_cert_verifier(Arc::clone(&provider))?,
                provider,
            }))
        }))
    }

    fn relays(&self) -> MutexGuard<'_, Vec<Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn find<'a>(relays: &'a mut [Known], relay: &RelayAddress) -> Option<&'a mut Known> {
    relays.iter_mut().find(|known| known.relay == *relay)
}

/// Lets go of one, where nobody uses it.
fn let_go(relays: &mut Vec<Known>, at: usize) -> Option<RelayAddress> {
    (relays[at].uses == 0).then(|| relays.remove(at).relay)
}

/// Who vouches for a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Vouches {
    /// The relay's own address names it.
    Address,
    /// The public authorities are asked: the address names none.
    Authorities,
    /// Nobody.
    Nobody,
}

#[derive(Debug)]
struct Pinned {
    trusted: Trusted,
    authorities: Arc<dyn ServerCertVerifier>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        host: &ServerName<'_>,
        stapled: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match self
            .trusted
            .vouches(&host.to_str(), *blake3::hash(shown).as_bytes())
        {
            Vouches::Address => Ok(ServerCertVerified::assertion()),
            Vouches::Authorities => self
                .authorities
                .verify_server_cert(shown, others, host, stapled, now),
            Vouches::Nobody => Err(rustls::CertificateError::ApplicationVerificationFailure.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signed,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signed,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// A certificate of our own making, and the key that it speaks for.
pub struct Certificate {
    shown: CertificateDer<'static>,
    key: Vec<u8>,
}

impl Certificate {
    /// The one that is kept below `home`; one for `host` is made if none is.
    ///
    /// # Errors
    /// When it cannot be read, or made.
    pub fn keep(home: &Path, host: &str) -> Result<Certificate, RelayError> {
        let path = home.join(FILE);
        Certificate::load_or_create(&path, host).map_err(|cause| RelayError::Certificate { path, cause })
    }

    /// The kept one stays, whatever name the relay is reached by: machines know it by its hash.
    fn load_or_create(path: &Path, host: &str) -> io::Result<Certificate> {
        match Certificate::load(path) {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => {}
            loaded => return loaded,
        }
        let made = rcgen::generate_simple_self_signed([host.to_owned()]).map_err(io::Error::other)?;
        let certificate = Certificate {
            shown: made.cert.der().clone(),
            key: made.signing_key.serialize_der(),
        };
        let lengths = (certificate.shown.len() as u32).to_le_bytes();
        kept::create(path, &[&lengths, &*certificate.shown, &certificate.key].concat())?;
        Ok(certificate)
    }

    fn load(path: &Path) -> io::Result<Certificate> {
        let damaged = |why| io::Error::new(io::ErrorKind::InvalidData, why);
        if kept::open_to_others(path)? {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "others can read it; chmod 600 it",
            ));
        }
        let bytes = kept::read(path, FILE_BYTES_MAX)?;
        let (length, rest) = bytes
            .split_first_chunk()
            .ok_or_else(|| damaged("it is too short"))?;
        let shown = u32::from_le_bytes(*length) as usize;
        let (shown, key) = rest
            .split_at_checked(shown)
            .ok_or_else(|| damaged("it is cut off"))?;
        Ok(Certificate {
            shown: CertificateDer::from(shown.to_vec()),
            key: key.to_vec(),
        })
    }

    fn hash(&self) -> [u8; 32] {
        *blake3::hash(&self.shown).as_bytes()
    }

    fn into_server(self) -> Result<rustls::ServerConfig, rustls::Error> {
        rustls::ServerConfig::builder_with_provider(key_exchange::provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_no_client_auth()
            .with_single_cert(vec![self.shown], PrivateKeyDer::Pkcs8(self.key.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pinned(address: &str, certificate: &str) -> RelayAddress {
        format!("{address}#{}", certificate.repeat(32)).parse().unwrap()
    }

    #[test]
    fn a_certificate_is_that_of_its_own_relay_alone() {
        let (one, other) = ([0xab; 32], [0xcd; 32]);
        let trusted = Trusted::default();
        for relay in [
            pinned("https://10.0.0.7:7843", "ab"),
            pinned("https://[::1]:7843", "cd"),
            "https://relay.example".parse().unwrap(),
        ] {
            assert!(trusted.add(&relay).is_ok());
        }
        assert_eq!(trusted.vouches("10.0.0.7", one), Vouches::Address);
        assert_eq!(trusted.vouches("10.0.0.7", other), Vouches::Nobody);
        assert_eq!(trusted.vouches("::1", other), Vouches::Address);
        assert_eq!(trusted.vouches("relay.example", one), Vouches::Authorities);
        assert_eq!(trusted.vouches("elsewhere.example", one), Vouches::Nobody);
    }

    #[test]
    fn at_one_host_one_port_is_believed_at_a_time() {
        let (one, other) = ([0xab; 32], [0xcd; 32]);
        let trusted = Trusted::default();
        let first = pinned("https://10.0.0.7:7843", "ab");
        let (used, _) = trusted.add(&first).unwrap();
        // Another port, another certificate, and one that the authorities would vouch for.
        for second in [
            pinned("https://10.0.0.7:7844", "cd"),
            pinned("https://10.0.0.7:7844", "ab"),
            pinned("https://10.0.0.7:7843", "cd"),
            "https://10.0.0.7:7844".parse().unwrap(),
        ] {
            assert_eq!(trusted.add(&second).err(), Some(NoRoom::Host), "{second}");
            assert_eq!(trusted.vouches("10.0.0.7", one), Vouches::Address);
            assert_eq!(trusted.vouches("10.0.0.7", other), Vouches::Nobody, "{second}");
        }
        assert!(trusted.add(&first).is_ok(), "it is known");
        drop(used);
        let (_used, gone) = trusted.add(&pinned("https://10.0.0.7:7844", "cd")).unwrap();
        assert_eq!(gone, [first]);
        assert_eq!(trusted.vouches("10.0.0.7", one), Vouches::Nobody);
        assert_eq!(trusted.vouches("10.0.0.7", other), Vouches::Address);
    }

    #[test]
    fn relays_that_nobody_uses_make_room() {
        let trusted = Trusted::default();
        let relay = |at: usize| -> RelayAddress { format!("https://relay-{at}.example").parse().unwrap() };
        let mut used: Vec<Use> = (0..RELAYS_MAX)
            .map(|at| trusted.add(&relay(at)).unwrap().0)
            .collect();
        assert_eq!(trusted.add(&relay(8)).err(), Some(NoRoom::Many));
        assert!(trusted.add(&relay(3)).is_ok(), "it is known");
        assert!(trusted.uses(&relay(8)).is_none());
        let again = trusted.uses(&relay(5)).unwrap();
        drop(used.remove(5));
        assert_eq!(
            trusted.add(&relay(8)).err(),
            Some(NoRoom::Many),
            "it is used twice"
        );
        drop(again);
        let (_used, gone) = trusted.add(&relay(8)).unwrap();
        assert_eq!(gone, [relay(5)]);
        used.truncate(1);
        assert!(trusted.tire(Duration::from_secs(3600)).is_empty());
        assert_eq!(trusted.tire(Duration::ZERO).len(), 6);
        assert_eq!(trusted.all(), [relay(0), relay(8)]);
    }
}
