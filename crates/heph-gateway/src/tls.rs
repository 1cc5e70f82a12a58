//! TLS 1.3 for a door that others reach: the certificate, the handshake, and what is told to those who speak plainly.
//!
//! Where no certificate is named, the door makes its own at its first start and keeps it. Nobody vouches for it: whoever comes
//! compares its fingerprint with the one that `heph serve` prints.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use data_encoding::HEXUPPER;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::private;

/// The versions of TLS that the door speaks.
const SPOKEN: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13];

/// The files of a certificate of our own, inside HEPH's home folder.
const CERTIFICATE_FILE: &str = "gateway.crt";
const KEY_FILE: &str = "gateway.key";

/// A chain of certificates is shorter.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// How long a certificate of our own holds; some systems take none that holds longer than 825 days.
const HOLDS: Duration = Duration::from_secs(800 * DAY_S);

/// A certificate that ends sooner is made anew at the start.
const RENEWED_BEFORE: Duration = Duration::from_secs(30 * DAY_S);

const DAY_S: u64 = 86_400;

/// How long a caller may take from its first byte to the first encrypted one; over a slow phone line it is about two seconds.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);

/// Handshakes at one time: each costs a signature and keeps its keys; those that come later wait within their own deadline.
const HANDSHAKES_MAX: usize = 64;

/// Bytes that wait to be encrypted, a connection.
const BUFFER_MAX: usize = 16 << 10;

/// Bytes of a plain request that are taken, so that its caller gets to read the answer.
const PLAIN_BYTES_MAX: usize = 64 << 10;

/// The first byte of everything that begins a TLS handshake.
const BEGINS_TLS: u8 = 22;

/// What a caller without TLS is told.
const PLAIN_ANSWER: &str = "HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\n\
content-length: 64\r\nconnection: close\r\n\r\nThis port speaks TLS 1.3 alone: begin the address with https://\n";

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The key can be read by others.
    #[error("{} can be read by other users", .0.display())]
    Open(PathBuf),
    /// A file holds nothing of the kind.
    #[error("{} holds no {what} in PEM form", path.display())]
    Damaged {
        /// What was looked for.
        what: &'static str,
        /// Where.
        path: PathBuf,
    },
    /// The system refused.
    #[error("cannot {step} {}: {cause}", path.display())]
    Io {
        /// What was tried.
        step: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// No certificate could be made.
    #[error("no certificate can be made: {0}")]
    Make(#[from] rcgen::Error),
    /// Certificate and key are of no use together.
    #[error("this certificate and key cannot be used: {0}")]
    Unfit(#[from] rustls::Error),
}

/// A certificate, its key, and the only version of the protocol that is spoken.
#[derive(Clone)]
pub struct Tls {
    acceptor: TlsAcceptor,
    fingerprint: String,
    places: Arc<Semaphore>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tls({})", self.fingerprint)
    }
}

impl Tls {
    /// The door's own certificate for `names` (names and IP addresses); made now where there is none, where it ends soon, or
    /// where it lacks one of the names; an address that is new alone is no reason, since it would change what people compared.
    /// The key stays the same.
    ///
    /// # Errors
    /// When the files are no certificate's, the key is open to others, or they cannot be made.
    pub fn own(home: &Path, names: &[String]) -> Result<Self, TlsError> {
        let (shown, kept) = (home.join(CERTIFICATE_FILE), home.join(KEY_FILE));
        let key = own_key(&kept)?;
        let old = match private::read(&shown, FILE_BYTES_MAX) {
            Ok(text) => text,
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => String::new(),
            Err(cause) => return Err(failed("read", &shown)(cause)),
        };
        let now = crate::house::now_ms() / 1000;
        let lacks = |has: &[&str]| {
            names
                .iter()
                .any(|name| !is_address(name) && !has.contains(&name.as_str()))
        };
        let text = match good_for(&old, now) {
            Some(has) if !lacks(&has) => old,
            _ => {
                let made = make(&key, names, now)?;
                private::replace(&shown, &made).map_err(failed("make", &shown))?;
                made
            }
        };
        Self::of(&text, &shown, &key.serialize_pem(), &kept)
    }

    /// The certificates of the file `certificate`, the door's own first, and the key of the file `key`, all in PEM form.
    ///
    /// # Errors
    /// When a file cannot be read, or they do not belong together.
    pub fn of_files(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        let read = |path: &Path| private::read(path, FILE_BYTES_MAX).map_err(failed("read", path));
        Self::of(&read(certificate)?, certificate, &read(key)?, key)
    }

    fn of(certificate: &str, shown: &Path, key: &str, kept: &Path) -> Result<Self, TlsError> {
        let damaged = |what, path: &Path| TlsError::Damaged {
            what,
            path: path.to_owned(),
        };
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(certificate.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|_| damaged("certificate", shown))?;
        let first = chain.first().ok_or_else(|| damaged("certificate", shown))?;
        let fingerprint = fingerprint(first);
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|_| damaged("key", kept))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(SPOKEN)?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            fingerprint,
            places: Arc::new(Semaphore::new(HANDSHAKES_MAX)),
        })
    }

    /// SHA-256 of the certificate, as browsers show it.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// The encrypted connection. `None` for a caller that takes too long or speaks something else: it was told why where it can
    /// understand that.
    pub(crate) async fn shake(&self, mut stream: TcpStream) -> Option<TlsStream<TcpStream>> {
        let shaken = async {
            let mut first = [0];
            // A caller that says nothing keeps nobody from their handshake.
            if stream.peek(&mut first).await.ok()? == 0 {
                return None;
            }
            if first[0] != BEGINS_TLS {
                tell_plainly(&mut stream).await;
                return None;
            }
            let _place = self.places.acquire().await.ok()?;
            let accepted = self
                .acceptor
                .accept_with(stream, |it| it.set_buffer_limit(Some(BUFFER_MAX)));
            accepted.await.ok()
        };
        tokio::time::timeout(HANDSHAKE_WITHIN, shaken)
            .await
            .ok()
            .flatten()
    }
}

/// Tells a caller that speaks plain HTTP what is spoken here. What it sent is read first: a connection that is closed over unread
/// bytes would take the answer with it.
async fn tell_plainly(stream: &mut TcpStream) {
    if stream.write_all(PLAIN_ANSWER.as_bytes()).await.is_err() || stream.shutdown().await.is_err() {
        return;
    }
    let (mut some, mut taken) = ([0; 4096], 0);
    while let Ok(count @ 1..) = stream.read(&mut some).await {
        taken += count;
        if taken > PLAIN_BYTES_MAX {
            return;
        }
    }
}

fn own_key(path: &Path) -> Result<KeyPair, TlsError> {
    let text = match private::read(path, FILE_BYTES_MAX) {
        Ok(text) if private::is_open(path) => {
            drop(text);
            return Err(TlsError::Open(path.to_owned()));
        }
        Ok(text) => text,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => {
            let key = KeyPair::generate()?;
            private::create(path, &key.serialize_pem()).map_err(failed("make", path))?;
            return Ok(key);
        }
        Err(cause) => return Err(failed("read", path)(cause)),
    };
    KeyPair::from_pem(&text).map_err(|_| TlsError::Damaged {
        what: "key",
        path: path.to_owned(),
    })
}

/// The certificate as a text: a line of ours that says how long it holds and for whom, and its PEM form, whose readers pass over
/// that line.
fn make(key: &KeyPair, names: &[String], now: u64) -> Result<String, TlsError> {
    let mut params = CertificateParams::new(names.to_vec())?;
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, "HEPH on this machine");
    let ends = now + HOLDS.as_secs();
    // A clock that is a day behind ours finds it valid.
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(now.saturating_sub(DAY_S));
    params.not_after = epoch + Duration::from_secs(ends);
    let made = params.self_signed(key)?;
    Ok(format!(
        "holds until {ends} for {}\n{}",
        names.join(" "),
        made.pem()
    ))
}

/// For whom a certificate of ours is good at `now`; `None` where it ends soon, or was not made by us.
fn good_for(text: &str, now: u64) -> Option<Vec<&str>> {
    let (until, names) = text
        .lines()
        .next()?
        .strip_prefix("holds until ")?
        .split_once(" for ")?;
    let until: u64 = until.parse().ok()?;
    (until > now + RENEWED_BEFORE.as_secs()).then(|| names.split(' ').collect())
}

fn is_address(name: &str) -> bool {
    name.parse::<std::net::IpAddr>().is_ok()
}

fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    let pairs = HEXUPPER.encode(&Sha256::digest(certificate));
    let pairs: Vec<&str> = (0..pairs.len()).step_by(2).map(|at| &pairs[at..at + 2]).collect();
    pairs.join(":")
}

fn failed<'a>(step: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> TlsError + 'a {
    move |cause| TlsError::Io {
        step,
        path: path.to_owned(),
        cause,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn a_certificate_is_made_once_and_kept_with_its_key_private() {
        let home = tempfile::tempdir().unwrap();
        let home = &home.path().join("new");
        let first = Tls::own(home, &names(&["localhost", "10.0.0.7"])).unwrap();
        assert!(!private::is_open(&home.join(KEY_FILE)));
        let again = Tls::own(home, &names(&["localhost", "10.0.0.8"])).unwrap();
        assert_eq!(again.fingerprint(), first.fingerprint());
        assert_eq!(first.fingerprint().len(), 32 * 3 - 1);
        let key = fs::read(home.join(KEY_FILE)).unwrap();
        let named = Tls::own(home, &names(&["localhost", "box.lan"])).unwrap();
        assert_ne!(named.fingerprint(), first.fingerprint());
        assert_eq!(fs::read(home.join(KEY_FILE)).unwrap(), key);
        let files = Tls::of_files(&home.join(CERTIFICATE_FILE), &home.join(KEY_FILE)).unwrap();
        assert_eq!(files.fingerprint(), named.fingerprint());
    }

    #[test]
    fn a_certificate_that_ends_soon_is_made_anew() {
        let home = tempfile::tempdir().unwrap();
        let first = Tls::own(home.path(), &names(&["localhost"])).unwrap();
        let path = home.path().join(CERTIFICATE_FILE);
        let text = fs::read_to_string(&path).unwrap();
        let (_, pem) = text.split_once('\n').unwrap();
        let soon = crate::house::now_ms() / 1000 + 29 * DAY_S;
        fs::write(&path, format!("holds until {soon} for localhost\n{pem}")).unwrap();
        let renewed = Tls::own(home.path(), &names(&["localhost"])).unwrap();
        assert_ne!(renewed.fingerprint(), first.fingerprint());
    }

    #[cfg(unix)]
    #[test]
    fn a_key_that_others_can_read_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let home = tempfile::tempdir().unwrap();
        Tls::own(home.path(), &names(&["localhost"])).unwrap();
        let key = home.path().join(KEY_FILE);
        fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(
            Tls::own(home.path(), &names(&["localhost"])),
            Err(TlsError::Open(_))
        ));
    }

    #[test]
    fn what_is_no_certificate_is_refused() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for home in [&one, &other] {
            Tls::own(home.path(), &names(&["localhost"])).unwrap();
        }
        let (shown, key) = (one.path().join(CERTIFICATE_FILE), one.path().join(KEY_FILE));
        assert!(matches!(
            Tls::of_files(&key, &key),
            Err(TlsError::Damaged {
                what: "certificate",
                ..
            })
        ));
        assert!(matches!(
            Tls::of_files(&shown, &shown),
            Err(TlsError::Damaged { what: "key", .. })
        ));
        let stranger = Tls::of_files(&shown, &other.path().join(KEY_FILE));
        assert!(matches!(stranger, Err(TlsError::Unfit(_))), "{stranger:?}");
        let missing = Tls::of_files(&one.path().join("none"), &key);
        assert!(matches!(missing, Err(TlsError::Io { step: "read", .. })));
        fs::write(&shown, vec![b'x'; FILE_BYTES_MAX as usize + 1]).unwrap();
        assert!(Tls::of_files(&shown, &key).is_err());
    }

    #[test]
    fn the_plain_answer_is_as_long_as_it_says() {
        let (head, body) = PLAIN_ANSWER.split_once("\r\n\r\n").unwrap();
        assert!(
            head.ends_with(&format!("content-length: {}\r\nconnection: close", body.len())),
            "{}",
            body.len()
        );
    }
}
