//! The key exchange that a recording of today's traffic survives: X25519 and ML-KEM-768 together, so that whoever wants
//! the key must break both. For TLS this is the group X25519MLKEM768; `docs/decisions/0009` says why it is put together
//! here.

use std::sync::Arc;

use ml_kem::{Decapsulate, Encapsulate, EncapsulationKey, Kem, KeyExport, MlKem768};
use rustls::crypto::{
    ActiveKeyExchange, CompletedKeyExchange, CryptoProvider, SharedSecret, SupportedKxGroup, ring,
};
use rustls::ffdhe_groups::FfdheGroup;
use rustls::{Error, NamedGroup, PeerMisbehaved, ProtocolVersion};

/// What the connecting side sends first: an ML-KEM-768 encapsulation key. The X25519 share follows it.
const KEM_KEY_BYTES: usize = 1184;

/// What the answering side sends first: an ML-KEM-768 ciphertext. The X25519 share follows it.
const KEM_CIPHERTEXT_BYTES: usize = 1088;

/// Everything TLS needs, from `ring`, with the post-quantum group before the classical one.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    provider_with(vec![&Hybrid, ring::kx_group::X25519])
}

fn provider_with(kx_groups: Vec<&'static dyn SupportedKxGroup>) -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        kx_groups,
        ..ring::default_provider()
    })
}

/// X25519MLKEM768.
#[derive(Debug)]
struct Hybrid;

impl SupportedKxGroup for Hybrid {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        let classical = ring::kx_group::X25519.start()?;
        let (kem, kem_key) = MlKem768::generate_keypair();
        let share = [kem_key.to_bytes().as_slice(), classical.pub_key()].concat();
        Ok(Box::new(Started {
            classical,
            kem,
            share,
        }))
    }

    fn start_and_complete(&self, client_share: &[u8]) -> Result<CompletedKeyExchange, Error> {
        let (kem_key, classical_share) = split(client_share, KEM_KEY_BYTES)?;
        let classical = ring::kx_group::X25519.start_and_complete(classical_share)?;
        let kem_key = kem_key.try_into().map_err(|_| bad_share())?;
        let kem_key = EncapsulationKey::<MlKem768>::new(&kem_key).map_err(|_| bad_share())?;
        let (ciphertext, kem_secret) = kem_key.encapsulate();
        Ok(CompletedKeyExchange {
            group: self.name(),
            pub_key: [ciphertext.as_slice(), &classical.pub_key].concat(),
            secret: joined(&kem_secret, &classical.secret),
        })
    }

    fn ffdhe_group(&self) -> Option<FfdheGroup<'static>> {
        None
    }

    fn name(&self) -> NamedGroup {
        NamedGroup::X25519MLKEM768
    }

    fn usable_for_version(&self, version: ProtocolVersion) -> bool {
        version == ProtocolVersion::TLSv1_3
    }
}

/// The connecting side, waiting for the answer.
struct Started {
    classical: Box<dyn ActiveKeyExchange>,
    kem: ml_kem::ml_kem_768::DecapsulationKey,
    share: Vec<u8>,
}

impl ActiveKeyExchange for Started {
    fn complete(self: Box<Self>, peer_share: &[u8]) -> Result<SharedSecret, Error> {
        let (ciphertext, classical_share) = split(peer_share, KEM_CIPHERTEXT_BYTES)?;
        let kem_secret = self.kem.decapsulate_slice(ciphertext).map_err(|_| bad_share())?;
        let classical = self.classical.complete(classical_share)?;
        Ok(joined(&kem_secret, &classical))
    }

    fn pub_key(&self) -> &[u8] {
        &self.share
    }

    fn ffdhe_group(&self) -> Option<FfdheGroup<'static>> {
        None
    }

    fn group(&self) -> NamedGroup {
        NamedGroup::X25519MLKEM768
    }
}

fn split(share: &[u8], at: usize) -> Result<(&[u8], &[u8]), Error> {
    share.split_at_checked(at).ok_or_else(bad_share)
}

fn joined(kem: &[u8], classical: &SharedSecret) -> SharedSecret {
    SharedSecret::from([kem, classical.secret_bytes()].concat())
}

fn bad_share() -> Error {
    PeerMisbehaved::InvalidKeyShare.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_reach_the_same_secret() {
        let started = Hybrid.start().unwrap();
        assert_eq!(started.pub_key().len(), 1216);
        let answer = Hybrid.start_and_complete(started.pub_key()).unwrap();
        assert_eq!(answer.pub_key.len(), 1120);
        let secret = started.complete(&answer.pub_key).unwrap();
        assert_eq!(secret.secret_bytes().len(), 64);
        assert_eq!(secret.secret_bytes(), answer.secret.secret_bytes());
    }

    #[test]
    fn a_share_of_the_wrong_shape_is_refused() {
        let share = Hybrid.start().unwrap().pub_key().to_vec();
        // A coefficient above the modulus is no key.
        let above = [&[0xff; KEM_KEY_BYTES][..], &share[KEM_KEY_BYTES..]].concat();
        for wrong in [
            &[][..],
            &share[1..],
            &share[..1200],
            &[&share[..], &[0]].concat(),
            &above,
        ] {
            assert!(Hybrid.start_and_complete(wrong).is_err(), "{} bytes", wrong.len());
        }
        for wrong in [&[][..], &[0; 1119], &[0; 1121]] {
            assert!(Hybrid.start().unwrap().complete(wrong).is_err());
        }
    }

    /// What two ends of TLS agree on, in memory.
    fn agreed(client: Arc<CryptoProvider>, server: Arc<CryptoProvider>) -> Option<NamedGroup> {
        let key = rcgen::generate_simple_self_signed(["peer".to_owned()]).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(key.cert.der().clone()).unwrap();
        let only = &[&rustls::version::TLS13];
        let client = rustls::ClientConfig::builder_with_provider(client)
            .with_protocol_versions(only)
            .unwrap();
        let client = client.with_root_certificates(roots).with_no_client_auth();
        let server = rustls::ServerConfig::builder_with_provider(server)
            .with_protocol_versions(only)
            .unwrap();
        let secret = rustls::pki_types::PrivateKeyDer::Pkcs8(key.signing_key.serialize_der().into());
        let server = server
            .with_no_client_auth()
            .with_single_cert(vec![key.cert.der().clone()], secret)
            .unwrap();
        let mut client = rustls::ClientConnection::new(Arc::new(client), "peer".try_into().unwrap()).unwrap();
        let mut server = rustls::ServerConnection::new(Arc::new(server)).unwrap();
        while client.is_handshaking() || server.is_handshaking() {
            let mut bytes = Vec::new();
            client.write_tls(&mut bytes).unwrap();
            server.read_tls(&mut bytes.as_slice()).unwrap();
            server.process_new_packets().ok()?;
            bytes.clear();
            server.write_tls(&mut bytes).unwrap();
            client.read_tls(&mut bytes.as_slice()).unwrap();
            client.process_new_packets().ok()?;
        }
        Some(client.negotiated_key_exchange_group()?.name())
    }

    #[test]
    fn post_quantum_is_preferred_and_not_required() {
        let classical = || provider_with(vec![ring::kx_group::X25519]);
        assert_eq!(agreed(provider(), provider()), Some(NamedGroup::X25519MLKEM768));
        assert_eq!(agreed(provider(), classical()), Some(NamedGroup::X25519));
        assert_eq!(agreed(classical(), provider()), Some(NamedGroup::X25519));
    }

    /// A peer that speaks the hybrid group alone reaches an endpoint, so that is what endpoints agree on.
    #[tokio::test]
    async fn endpoints_agree_on_the_post_quantum_group() {
        use crate::endpoint::{Endpoint, EndpointOptions, Protocol};
        use crate::identity::Identity;

        let node = Endpoint::bind(&Identity::fresh().unwrap(), EndpointOptions::loopback())
            .await
            .unwrap();
        for (groups, reaches) in [
            (vec![&Hybrid as &'static dyn SupportedKxGroup], true),
            (vec![ring::kx_group::SECP384R1], false),
        ] {
            let peer = iroh::Endpoint::builder(iroh::endpoint::presets::Minimal)
                .crypto_provider(provider_with(groups))
                .relay_mode(iroh::RelayMode::Disabled)
                .clear_ip_transports()
                .bind_addr("127.0.0.1:0")
                .unwrap()
                .bind()
                .await
                .unwrap();
            let address = node.address().of(node.node()).unwrap();
            let deadline = std::time::Duration::from_secs(3);
            let connecting = tokio::time::timeout(deadline, peer.connect(address, Protocol::Session.alpn()));
            let (connected, _) = tokio::join!(connecting, async {
                let arriving = node.accept().await.unwrap();
                tokio::time::timeout(deadline, arriving.finish(deadline)).await
            });
            assert_eq!(matches!(connected, Ok(Ok(_))), reaches);
        }
    }
}
