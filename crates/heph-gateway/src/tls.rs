//! TLS 1.3 for a door that others reach: the certificate, the handshake, and what is told to those who speak plainly.
//!
//! Where no certificate is named, the door makes its own at its first start and keeps it. Nobody vouches for it: whoever comes
//! compares its fingerprint with the one that `heph serve` prints.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use data_encoding::HEXUPPER;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::connection::CONNECTIONS_MAX;
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

/// Addresses of before that a new certificate names too, the latest first.
const ADDRESSES_KEPT: usize = 16;

/// How long a caller may take from its first byte to the first encrypted one; over a slow phone line it is about two seconds.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);

/// Handshakes at one time: each costs a signature and keeps its keys; those that come later wait within their own deadline.
const HANDSHAKES_MAX: usize = 64;

/// Of these, those with one address: more than a browser begins, and few enough that nobody holds up all others.
const HANDSHAKES_EACH: usize = 16;

/// Connections of one address that have not shaken hands yet, an eighth of all that there may be: one more is closed at once. A way in
/// for many, as a proxy is, shakes hands as fast as it connects.
const BEFORE_EACH: usize = 128;

/// Connections of one address, a quarter of all that there may be: one more is closed at once. A way in for many on this machine, as a
/// proxy beside the door is, may have them all.
const OPEN_EACH: usize = CONNECTIONS_MAX / 4;

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
    places: Arc<Places>,
}

/// Who may connect and shake hands now.
struct Places {
    all: Semaphore,
    /// Of those who are here.
    each: Mutex<HashMap<IpAddr, Weak<Own>>>,
}

/// The places of one caller.
struct Own {
    /// For its connections.
    open: Arc<Semaphore>,
    /// For connections that have not shaken hands yet.
    before: Semaphore,
    /// For those that are at it.
    shaking: Semaphore,
}

impl Places {
    fn new() -> Self {
        Self {
            all: Semaphore::new(HANDSHAKES_MAX),
            each: Mutex::default(),
        }
    }

    /// The places of one caller. There are no more of these than connections.
    fn of(&self, caller: IpAddr) -> Arc<Own> {
        let caller = household(caller);
        let mut each = self.each.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(places) = each.get(&caller).and_then(Weak::upgrade) {
            return places;
        }
        each.retain(|_, places| places.strong_count() > 0);
        let most = if caller.is_loopback() {
            CONNECTIONS_MAX
        } else {
            OPEN_EACH
        };
        let places = Arc::new(Own {
            open: Arc::new(Semaphore::new(most)),
            before: Semaphore::new(BEFORE_EACH),
            shaking: Semaphore::new(HANDSHAKES_EACH),
        });
        each.insert(caller, Arc::downgrade(&places));
        places
    }
}

/// One connection's place among those of its caller, as long as it is open.
pub(crate) struct Place {
    own: Arc<Own>,
    _open: OwnedSemaphorePermit,
}

/// The address that stands for all that one caller has: of version 6 it has 2^64.
pub(crate) fn household(caller: IpAddr) -> IpAddr {
    match caller.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tls({})", self.fingerprint)
    }
}

impl Tls {
    /// The door's own certificate for `names` (names and IP addresses); made now where there is none, where it ends soon, or
    /// where it lacks one of the names. Addresses that the machine had before stay in it: whoever goes back and forth between two
    /// networks sees what they compared. The key stays the same.
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
        let lacks = |has: &[&str]| names.iter().any(|name| !has.contains(&name.as_str()));
        let text = match good_for(&old, now) {
            Some(has) if !lacks(&has) => old,
            has => {
                let before = has.iter().flatten().map(|name| (*name).to_owned());
                let before = before.filter(|name| is_address(name) && !names.contains(name));
                let all: Vec<String> = names.iter().cloned().chain(before.take(ADDRESSES_KEPT)).collect();
                let made = make(&key, &all, now)?;
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
            places: Arc::new(Places::new()),
        })
    }

    /// SHA-256 of the certificate, as browsers show it.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// A place for a connection of `caller`; `None` where it has as many as one may have.
    pub(crate) fn admit(&self, caller: IpAddr) -> Option<Place> {
        let own = self.places.of(caller);
        let open = Arc::clone(&own.open).try_acquire_owned().ok()?;
        Some(Place { own, _open: open })
    }

    /// The encrypted connection of whoever has that place. `None` for a caller that takes too long, has too many connections that say
    /// nothing, or speaks something else: it was told why where it can understand that.
    pub(crate) async fn shake(&self, mut stream: TcpStream, place: &Place) -> Option<TlsStream<TcpStream>> {
        let own = &place.own;
        let _before = own.before.try_acquire().ok()?;
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
            // Its own first: those who wait for it take nobody's place.
            let _own = own.shaking.acquire().await.ok()?;
            let _place = self.places.all.acquire().await.ok()?;
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
        let again = Tls::own(home, &names(&["localhost"])).unwrap();
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
    fn a_machine_that_moved_is_named_by_all_its_addresses() {
        let home = tempfile::tempdir().unwrap();
        let at = |list: &[&str]| Tls::own(home.path(), &names(list)).unwrap().fingerprint;
        let named = || fs::read_to_string(home.path().join(CERTIFICATE_FILE)).unwrap();
        let house = at(&["localhost", "box.lan", "10.0.0.7"]);
        let office = at(&["localhost", "10.1.0.7"]);
        assert_ne!(office, house);
        assert!(
            named().contains(" for localhost 10.1.0.7 10.0.0.7\n"),
            "{}",
            named()
        );
        // Back and forth nothing changes.
        assert_eq!(at(&["localhost", "10.0.0.7"]), office);
        assert_eq!(at(&["localhost", "10.1.0.7"]), office);
        for n in 0..40 {
            at(&["localhost", &format!("10.2.0.{n}")]);
        }
        let line = named().lines().next().unwrap().to_owned();
        assert_eq!(line.split(' ').count(), 5 + 1 + ADDRESSES_KEPT, "{line}");
        assert!(line.contains(" 10.2.0.39 10.2.0.38 "), "{line}");
    }

    #[test]
    fn nobody_has_more_handshakes_than_its_own() {
        let places = Places::new();
        let ip = |text: &str| -> IpAddr { text.parse().unwrap() };
        let of = |text: &str| places.of(ip(text));
        let one = of("192.0.2.1");
        let held = one.shaking.try_acquire_many(HANDSHAKES_EACH as u32).unwrap();
        assert!(of("192.0.2.1").shaking.try_acquire().is_err());
        assert!(of("::ffff:192.0.2.1").shaking.try_acquire().is_err());
        assert!(of("192.0.2.2").shaking.try_acquire().is_ok());
        drop(held);
        assert!(of("192.0.2.1").shaking.try_acquire().is_ok());
        // All of one household's addresses are one caller.
        let household = of("2001:db8::1");
        let all = household
            .shaking
            .try_acquire_many(HANDSHAKES_EACH as u32)
            .unwrap();
        assert!(of("2001:db8::ffff").shaking.try_acquire().is_err());
        assert!(of("2001:db8:0:1::1").shaking.try_acquire().is_ok());
        drop(all);
        drop((one, household));
        // Nothing is remembered of those who left.
        of("192.0.2.9");
        assert_eq!(places.each.lock().unwrap().len(), 1);
    }

    #[test]
    fn nobody_has_more_connections_than_a_quarter_of_all() {
        let home = tempfile::tempdir().unwrap();
        let tls = Tls::own(home.path(), &names(&["localhost"])).unwrap();
        let admit = |text: &str| tls.admit(text.parse().unwrap());
        let mut held: Vec<Place> = (0..OPEN_EACH).map(|_| admit("192.0.2.1").unwrap()).collect();
        assert!(admit("192.0.2.1").is_none() && admit("192.0.2.2").is_some());
        held.pop();
        assert!(admit("192.0.2.1").is_some());
        // A proxy on this machine speaks for many.
        let proxied: Vec<_> = (0..CONNECTIONS_MAX).map(|_| admit("127.0.0.1")).collect();
        assert!(proxied.iter().all(Option::is_some));
    }

    #[test]
    fn nobody_has_all_connections_that_say_nothing() {
        let home = tempfile::tempdir().unwrap();
        let tls = Tls::own(home.path(), &names(&["localhost"])).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let ip = |text: &str| -> IpAddr { text.parse().unwrap() };
        runtime.block_on(async {
            let door = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let mut silent = Vec::new();
            // One that says nothing, and the door's side of it, until it is closed.
            let comes = async |from: IpAddr| {
                let caller = TcpStream::connect(door.local_addr().unwrap()).await.unwrap();
                let (stream, _) = door.accept().await.unwrap();
                let tls = tls.clone();
                (
                    caller,
                    tokio::spawn(async move {
                        let place = tls.admit(from).unwrap();
                        tls.shake(stream, &place).await.is_some()
                    }),
                )
            };
            for _ in 0..BEFORE_EACH {
                silent.push(comes(ip("192.0.2.1")).await);
            }
            while tls.places.of(ip("192.0.2.1")).before.available_permits() > 0 {
                tokio::task::yield_now().await;
            }
            let (mut more, _) = comes(ip("192.0.2.1")).await;
            assert_eq!(more.read(&mut [0]).await.unwrap_or(0), 0, "it is closed at once");
            assert!(silent.iter().all(|(_, shaking)| !shaking.is_finished()));
            // Whoever else comes is heard, and so is the same when one of its own has gone.
            let (mut other, _) = comes(ip("192.0.2.2")).await;
            other.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
            assert!(other.read(&mut [0; 64]).await.unwrap() > 0);
            let (gone, shaking) = silent.pop().unwrap();
            drop(gone);
            assert!(!shaking.await.unwrap());
            let (mut again, _) = comes(ip("192.0.2.1")).await;
            again.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
            assert!(again.read(&mut [0; 64]).await.unwrap() > 0);
        });
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
