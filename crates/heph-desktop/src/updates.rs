//! Newer versions of the program, where the build names a place for them and the key that signs them.
//!
//! Off unless the person switches it on, and not where a file `no-updates` or the switch that cuts everything off forbids it. Only
//! ever asked by a press in the menu. On Linux an AppImage alone is replaced: what a package manager put there is that one's.

use std::cell::Cell;
use std::error::Error;
use std::future::poll_fn;
use std::io;
use std::path::Path;
use std::pin::pin;
use std::sync::{Mutex, TryLockError};
use std::task::Poll;
use std::thread;
use std::time::Duration;

use tauri::{AppHandle, Manager as _, Runtime};
use tauri_plugin_updater::{UpdaterBuilder, UpdaterExt as _};

use crate::desktop::{Desktop, notify};
use crate::door;
use crate::kept::Kept;

/// How long a place may take to say what there is.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long a newer version may take to come: 40 MB at 25 KB a second.
const COMES_WITHIN: Duration = Duration::from_secs(1600);

/// Bytes of a newer version; this one has 31 MB.
const BYTES_MAX: usize = 256 << 20;

/// Where updates are and who signs them.
pub(crate) struct Place {
    /// What there is: JSON, as Tauri's updater reads it.
    address: String,
    /// The public key of minisign, as its file is, in base64.
    key: String,
    bytes_max: usize,
}

/// What the environment says of a place for updates. A build for people knows what it was when it was built, and nothing else; a build for
/// tests, which has other checks too, asks it when it runs.
macro_rules! said_of_the_place {
    ($name:literal) => {
        match cfg!(debug_assertions) {
            true => std::env::var($name).ok(),
            false => option_env!($name).map(str::to_owned),
        }
    };
}

/// What became of looking.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    /// A newer version is in this one's place.
    Newer,
    /// There is none.
    Newest,
}

/// Where newer versions of this program are, if it is one that replaces itself. There is no key that stands for a missing one.
pub(crate) fn place(app: &AppHandle) -> Option<Place> {
    #[cfg(target_os = "linux")]
    app.env().appimage?;
    #[cfg(not(target_os = "linux"))]
    let _ = app;
    Some(Place {
        address: said_of_the_place!("HEPH_UPDATE_ADDRESS")?,
        key: said_of_the_place!("HEPH_UPDATE_KEY")?,
        bytes_max: BYTES_MAX,
    })
}

/// Held while somebody looks: a line that is pressed twice asks once.
static LOOKING: Mutex<()> = Mutex::new(());

/// Looks for a newer version, and installs one whose signature is right.
pub(crate) fn look(app: &AppHandle) {
    let app = app.clone();
    // The door is asked first, which may take its time.
    thread::spawn(move || {
        let alone = LOOKING.try_lock();
        if matches!(alone, Err(TryLockError::WouldBlock)) {
            return;
        }
        let desktop = app.state::<Desktop>();
        let cut = || match desktop.engine.page() {
            Some(page) => door::is_cut(&page),
            None => Err(io::ErrorKind::NotConnected.into()),
        };
        let found = place(&app)
            .filter(|_| may(&desktop.kept(), desktop.folder(), cut))
            .map(|place| asked(&app, &place).and_then(|updater| taken(updater, place.bytes_max)));
        let words = desktop.words();
        let said = match found {
            Some(Ok(Found::Newer)) => words.update_found,
            Some(Ok(Found::Newest)) => words.update_none,
            Some(Err(cause)) if is_of_signature(cause.as_ref()) => words.update_wrong,
            Some(Err(_)) => words.update_failed,
            None => words.update_off,
        };
        notify(&app, "HEPH", said);
    });
}

/// Whether a place may be asked: the person wants it, no file forbids it, and the door says that this machine is not cut off.
fn may(kept: &Kept, folder: &Path, cut: impl FnOnce() -> io::Result<bool>) -> bool {
    kept.may_update(folder) && matches!(cut(), Ok(false))
}

/// What asks a place. Its library is taken up here, so that a start has nothing of it.
fn asked<R: Runtime>(app: &AppHandle<R>, place: &Place) -> Result<UpdaterBuilder, Box<dyn Error>> {
    app.plugin(tauri_plugin_updater::Builder::new().build())?;
    let updater = app.updater_builder().endpoints(vec![place.address.parse()?])?;
    Ok(updater.pubkey(place.key.as_str()).timeout(PATIENCE))
}

/// Whether what was offered was not what its signature says, or had none: a person should know that somebody tried.
fn is_of_signature(cause: &(dyn Error + 'static)) -> bool {
    use tauri_plugin_updater::Error as Of;
    matches!(
        cause.downcast_ref::<Of>(),
        Some(
            Of::Minisign(_)
                | Of::Base64(_)
                | Of::SignatureUtf8(_)
                | Of::SignedVersionMismatch { .. }
                | Of::MissingSignedVersion
        )
    )
}

/// Puts a newer version in this one's place, if there is one. Its signature names its version (`requireSignedVersion` of
/// `tauri.conf.json`), so an older one is not passed off as newer.
fn taken(updater: UpdaterBuilder, bytes_max: usize) -> Result<Found, Box<dyn Error>> {
    tauri::async_runtime::block_on(async {
        let Some(mut update) = updater.build()?.check().await? else {
            return Ok(Found::Newest);
        };
        update.timeout = Some(COMES_WITHIN);
        let read = Cell::new(0_usize);
        let mut download = pin!(update.download(|bytes, _| read.set(read.get() + bytes), || ()));
        let bytes = poll_fn(|context| {
            // Gives way at the latest after 128 pieces of what comes: so much more than allowed may be held for a moment.
            let came = download.as_mut().poll(context);
            match read.get() > bytes_max {
                true => Poll::Ready(Err("the newer version is too large".into())),
                false => came.map_err(Box::<dyn Error>::from),
            }
        })
        .await?;
        // Checks the signature once more.
        update.install(bytes)?;
        Ok(Found::Newer)
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A build for people asks no place without TLS, and elsewhere other things are replaced.
    #[cfg(all(target_os = "linux", debug_assertions))]
    mod at_a_place {
        use std::collections::HashMap;
        use std::io::{BufRead, BufReader, Write};
        use std::net::TcpListener;
        use std::os::unix::fs::PermissionsExt;
        use std::sync::Arc;

        use base64::Engine as _;
        use minisign::KeyPair;
        use serde_json::json;

        use super::*;

        /// A newer version: it begins as a program does, and is as long as the head of one.
        const ELF: &[u8] = b"\x7fELF, and the rest of a newer version, which nobody starts in this test";

        /// What a version under test may have at most.
        const ROOM: usize = 1 << 20;

        fn base64(text: String) -> String {
            base64::engine::general_purpose::STANDARD.encode(text)
        }

        /// A place on this machine that gives files by their paths, and knows which were asked for.
        struct Server {
            address: String,
            files: Arc<Mutex<HashMap<String, Vec<u8>>>>,
            asked: Arc<Mutex<Vec<String>>>,
        }

        impl Server {
            fn new() -> Self {
                let listener = TcpListener::bind("127.0.0.1:0").unwrap();
                let address = format!("http://{}", listener.local_addr().unwrap());
                let files = Arc::<Mutex<HashMap<String, Vec<u8>>>>::default();
                let asked = Arc::<Mutex<Vec<String>>>::default();
                let (given, noted) = (Arc::clone(&files), Arc::clone(&asked));
                thread::spawn(move || {
                    for stream in listener.incoming().map_while(Result::ok) {
                        let mut lines = BufReader::new(&stream).lines().map_while(Result::ok);
                        let path = lines
                            .next()
                            .and_then(|line| line.split(' ').nth(1).map(str::to_owned));
                        lines.find(String::is_empty);
                        let Some(path) = path else { continue };
                        let file = given.lock().unwrap().get(&path).cloned();
                        noted.lock().unwrap().push(path);
                        let head = format!(
                            "HTTP/1.1 {}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                            if file.is_some() { "200 OK" } else { "404 Not Found" },
                            file.as_ref().map_or(0, Vec::len)
                        );
                        // Whoever has enough of it hangs up.
                        let _ = (&stream).write_all(&[head.as_bytes(), &file.unwrap_or_default()].concat());
                    }
                });
                Self {
                    address,
                    files,
                    asked,
                }
            }

            /// Offers `bytes` as `version`, with that signature.
            fn offers(&self, version: &str, bytes: &[u8], signature: String) {
                let file = json!({ "url": format!("{}/new", self.address), "signature": signature });
                let offer = json!({ "version": version, "platforms": { "linux-x86_64": file, "linux-aarch64": file } });
                let mut files = self.files.lock().unwrap();
                files.insert("/offer.json".to_owned(), offer.to_string().into_bytes());
                files.insert("/new".to_owned(), bytes.to_vec());
            }
        }

        /// What a signer says about `bytes`: that they are `version`, where one is named.
        fn signed(key: &KeyPair, bytes: &[u8], version: Option<&str>) -> String {
            let comment = version.map_or_else(
                || "timestamp:1".to_owned(),
                |version| format!("timestamp:1\tversion:{version}"),
            );
            base64(
                minisign::sign(Some(&key.pk), &key.sk, bytes, Some(&comment), None)
                    .unwrap()
                    .into_string(),
            )
        }

        /// Looks at `server` with that key; what became of it, and whether what was installed is there still.
        fn looked(server: &Server, key: &KeyPair) -> (Result<Found, Box<dyn Error>>, bool) {
            let folder = tempfile::tempdir().unwrap();
            let installed = folder.path().join("HEPH.AppImage");
            fs::write(&installed, "this one").unwrap();
            fs::set_permissions(&installed, fs::Permissions::from_mode(0o755)).unwrap();
            let app = tauri::test::mock_builder()
                .build(tauri::generate_context!())
                .unwrap();
            let place = Place {
                address: format!("{}/offer.json", server.address),
                key: base64(key.pk.to_box().unwrap().to_string()),
                bytes_max: ROOM,
            };
            let updater = asked(app.handle(), &place).unwrap().executable_path(&installed);
            let found = taken(updater, place.bytes_max);
            let mode = fs::metadata(&installed).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o755);
            (found, fs::read(&installed).unwrap() == b"this one")
        }

        /// What was offered is not taken; `signature` says whether that is its signature's fault.
        fn refused(case: &str, server: &Server, key: &KeyPair, signature: bool) {
            let (found, stays) = looked(server, key);
            let cause = found.expect_err(case);
            assert!(
                stays && is_of_signature(cause.as_ref()) == signature,
                "{case}: {cause}"
            );
        }

        /// What was offered is there: whether it is newer, and whether what was installed stays.
        fn found(server: &Server, key: &KeyPair) -> (Found, bool) {
            let (found, stays) = looked(server, key);
            (found.unwrap(), stays)
        }

        #[test]
        fn a_newer_version_with_a_right_signature_is_taken_and_no_other() {
            let (key, other) = (
                KeyPair::generate_unencrypted_keypair().unwrap(),
                KeyPair::generate_unencrypted_keypair().unwrap(),
            );
            let server = Server::new();
            server.offers("9.0.0", ELF, signed(&key, ELF, Some("9.0.0")));
            assert_eq!(found(&server, &key), (Found::Newer, false));
            refused("another key", &server, &other, true);

            let changed = [ELF, b"!"].concat();
            server.offers("9.0.0", &changed, signed(&key, ELF, Some("9.0.0")));
            refused("another file", &server, &key, true);
            server.offers("9.0.0", ELF, String::new());
            refused("no signature", &server, &key, true);
            server.offers("9.0.0", ELF, signed(&key, ELF, Some("0.0.9")));
            refused("an older version under a newer name", &server, &key, true);
            server.offers("9.0.0", ELF, signed(&key, ELF, None));
            refused("a signature that names no version", &server, &key, true);
            let long = [ELF, &vec![0; 64 * ROOM]].concat();
            server.offers("9.0.0", &long, signed(&key, &long, Some("9.0.0")));
            refused("a version that is too large", &server, &key, false);
            server.files.lock().unwrap().clear();
            refused("an empty place", &server, &key, false);
        }

        #[test]
        fn what_is_not_newer_is_not_even_fetched() {
            let key = KeyPair::generate_unencrypted_keypair().unwrap();
            for version in ["0.0.9", env!("CARGO_PKG_VERSION")] {
                let server = Server::new();
                server.offers(version, ELF, signed(&key, ELF, Some(version)));
                assert_eq!(found(&server, &key), (Found::Newest, true), "{version}");
                assert_eq!(*server.asked.lock().unwrap(), ["/offer.json"], "{version}");
            }
        }
    }

    #[test]
    fn a_place_is_asked_where_everybody_allows_it() {
        let folder = tempfile::tempdir().unwrap();
        let wants = Kept {
            updates: true,
            ..Kept::default()
        };
        let may = |kept: &Kept, cut| may(kept, folder.path(), || cut);
        assert!(may(&wants, Ok(false)));
        assert!(!may(&Kept::default(), Ok(false)), "nobody wants it");
        assert!(!may(&wants, Ok(true)), "this machine is cut off");
        assert!(!may(&wants, Err(io::ErrorKind::TimedOut.into())), "nobody knows");
        fs::write(folder.path().join("no-updates"), "").unwrap();
        assert!(!may(&wants, Ok(false)), "a file forbids it");
    }
}
