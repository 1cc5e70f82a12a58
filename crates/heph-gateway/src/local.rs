//! The door's local socket: programs of the same user come in by it, and need no token there.
//!
//! It is a file that only this user can open, in a folder that only this user can enter, and the system says of each caller who it
//! is: this user or the system's administrator, or nobody is listened to. Pages cannot reach it.

use std::io;
use std::path::{Path, PathBuf};

pub(crate) use of_system::Listening;
pub use of_system::LocalSocket;

/// The folder inside HEPH's home folder, and the socket inside that.
const FOLDER: &str = "run";
const FILE: &str = "gateway.sock";

/// Where the socket of a home folder is.
#[must_use]
pub fn local_socket(home: &Path) -> PathBuf {
    home.join(FOLDER).join(FILE)
}

/// Why there is no local socket.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// The system's addresses are shorter.
    #[error("the path of a local socket is too long for this system ({} bytes): {}", .0.as_os_str().len(), .0.display())]
    TooLong(PathBuf),
    /// Something else is there.
    #[error("{} is there already, and is no socket", .0.display())]
    Occupied(PathBuf),
    /// Somebody listens there.
    #[error("another program listens at {}", .0.display())]
    Taken(PathBuf),
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
    /// There is no such thing here.
    #[error("this system has no local sockets that heph knows")]
    NoSuchThing,
}

/// Whether a caller of the user `caller` is heard at a socket of the user `own`: the same, or the system's administrator, who can read
/// the token, too.
#[cfg(unix)]
fn is_heard(caller: u32, own: u32) -> bool {
    caller == own || caller == 0
}

#[cfg(unix)]
mod of_system {
    use std::fs::{self, DirBuilder, File, Permissions, TryLockError};
    use std::io;
    use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
    use std::os::unix::net::{SocketAddr, UnixListener};
    use std::path::{Path, PathBuf};
    use std::time::{Duration, Instant};

    use socket2::{Domain, SockAddr, Socket, Type};
    use tokio::net::UnixStream;

    use super::{LocalError, is_heard, local_socket};

    /// How long another program may take to open its socket in the same folder.
    const TURN_WITHIN: Duration = Duration::from_secs(5);

    /// A local socket that listens. Its file goes with it.
    #[derive(Debug)]
    pub struct LocalSocket {
        listener: UnixListener,
        file: SocketFile,
    }

    /// The same, where connections can be taken.
    pub(crate) struct Listening {
        listener: tokio::net::UnixListener,
        own: u32,
        _file: SocketFile,
    }

    /// The file of a socket, as long as it is that one.
    #[derive(Debug)]
    struct SocketFile {
        path: PathBuf,
        device: u64,
        inode: u64,
    }

    impl Drop for SocketFile {
        fn drop(&mut self) {
            let same = |m: fs::Metadata| (m.dev(), m.ino()) == (self.device, self.inode);
            if fs::symlink_metadata(&self.path).is_ok_and(same) {
                let _ = fs::remove_file(&self.path);
            }
        }
    }

    impl LocalSocket {
        /// The socket of the home folder, in a folder of its own that no other user can enter.
        ///
        /// # Errors
        /// As [`LocalSocket::at`].
        pub fn of_home(home: &Path) -> Result<Self, LocalError> {
            let path = local_socket(home);
            checked(&path)?;
            if let Some(folder) = path.parent() {
                let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
                made.map_err(failed("make", folder))?;
                // It may have been there.
                let private = fs::set_permissions(folder, Permissions::from_mode(0o700));
                private.map_err(failed("close", folder))?;
            }
            Self::at(&path)
        }

        /// A socket at `path`. What a program left there that has ended is replaced.
        ///
        /// # Errors
        /// When the path is too long, something else is there or somebody listens there, or the system refuses.
        pub fn at(path: &Path) -> Result<Self, LocalError> {
            checked(path)?;
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
            // One program at a time: what one has just opened, another must not take for left behind.
            let _turn = turn(folder.unwrap_or(Path::new(".")))?;
            make_room(path)?;
            let listener = UnixListener::bind(path).map_err(failed("listen at", path))?;
            let made = fs::symlink_metadata(path).map_err(failed("look at", path))?;
            let file = SocketFile {
                path: path.to_owned(),
                device: made.dev(),
                inode: made.ino(),
            };
            // Whoever came before that is asked who they are, like everybody.
            fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(failed("close", path))?;
            listener
                .set_nonblocking(true)
                .map_err(failed("listen at", path))?;
            Ok(Self { listener, file })
        }

        /// Where it is.
        #[must_use]
        pub fn path(&self) -> &Path {
            &self.file.path
        }

        /// The same on the threads that take connections.
        pub(crate) fn listening(self) -> io::Result<Listening> {
            Ok(Listening {
                listener: tokio::net::UnixListener::from_std(self.listener)?,
                own: rustix::process::geteuid().as_raw(),
                _file: self.file,
            })
        }
    }

    impl Listening {
        /// The next connection of somebody who is heard. Others are hung up on.
        pub(crate) async fn accept(&self) -> io::Result<UnixStream> {
            loop {
                let (stream, _) = self.listener.accept().await?;
                match stream.peer_cred() {
                    Ok(who) if is_heard(who.uid(), self.own) => return Ok(stream),
                    Ok(_) | Err(_) => tracing::warn!("another user came to the local socket"),
                }
            }
        }
    }

    fn checked(path: &Path) -> Result<(), LocalError> {
        match SocketAddr::from_pathname(path) {
            Ok(_) => Ok(()),
            Err(_) => Err(LocalError::TooLong(path.to_owned())),
        }
    }

    /// The right to look and listen in `folder`, until it is let go of.
    fn turn(folder: &Path) -> Result<File, LocalError> {
        let began = Instant::now();
        let held = File::open(folder).map_err(failed("open", folder))?;
        loop {
            match held.try_lock() {
                Ok(()) => return Ok(held),
                Err(TryLockError::WouldBlock) if began.elapsed() < TURN_WITHIN => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(failed("lock", folder)(io::ErrorKind::TimedOut.into()));
                }
                Err(TryLockError::Error(cause)) => return Err(failed("lock", folder)(cause)),
            }
        }
    }

    /// Removes a socket at `path` at which nobody listens any more, and nothing else.
    fn make_room(path: &Path) -> Result<(), LocalError> {
        match fs::symlink_metadata(path) {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(cause) => return Err(failed("look at", path)(cause)),
            Ok(there) if !there.file_type().is_socket() => return Err(LocalError::Occupied(path.to_owned())),
            Ok(_) => {}
        }
        // It does not wait: somebody who is too busy to take a connection is there, too.
        let asked = Socket::new(Domain::UNIX, Type::STREAM, None).and_then(|socket| {
            socket.set_nonblocking(true)?;
            socket.connect(&SockAddr::unix(path)?)
        });
        match asked.map_err(|cause| cause.kind()) {
            Err(io::ErrorKind::ConnectionRefused) => fs::remove_file(path).map_err(failed("remove", path)),
            Err(io::ErrorKind::NotFound) => Ok(()),
            Ok(()) | Err(_) => Err(LocalError::Taken(path.to_owned())),
        }
    }

    fn failed<'a>(step: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> LocalError + 'a {
        move |cause| LocalError::Io {
            step,
            path: path.to_owned(),
            cause,
        }
    }
}

#[cfg(not(unix))]
mod of_system {
    use std::convert::Infallible;
    use std::io;
    use std::path::Path;

    use super::LocalError;

    /// A local socket that listens: there is none on this system.
    #[derive(Debug)]
    pub struct LocalSocket(Infallible);

    /// The same, where connections can be taken.
    pub(crate) struct Listening(Infallible);

    impl LocalSocket {
        /// There is none.
        ///
        /// # Errors
        /// Always.
        pub fn of_home(_: &Path) -> Result<Self, LocalError> {
            Err(LocalError::NoSuchThing)
        }

        /// There is none.
        ///
        /// # Errors
        /// Always.
        pub fn at(_: &Path) -> Result<Self, LocalError> {
            Err(LocalError::NoSuchThing)
        }

        /// Where it is.
        #[must_use]
        pub fn path(&self) -> &Path {
            match self.0 {}
        }

        pub(crate) fn listening(self) -> io::Result<Listening> {
            match self.0 {}
        }
    }

    impl Listening {
        pub(crate) async fn accept(&self) -> io::Result<tokio::net::TcpStream> {
            match self.0 {}
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn no_other_user_can_open_the_socket_or_enter_its_folder() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join(FOLDER);
        fs::create_dir(&folder).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
        let socket = LocalSocket::of_home(home.path()).unwrap();
        assert_eq!(socket.path(), local_socket(home.path()));
        assert_eq!((mode(socket.path()), mode(&folder)), (0o600, 0o700));
        let chosen = LocalSocket::at(&home.path().join("mine")).unwrap();
        assert_eq!(mode(chosen.path()), 0o600);
    }

    #[test]
    fn the_same_user_and_the_administrator_are_heard_and_nobody_else() {
        let heard = [(1000, 1000), (0, 1000), (0, 0), (1001, 1000), (1000, 0)];
        let heard = heard.map(|(caller, own)| is_heard(caller, own));
        assert_eq!(heard, [true, true, true, false, false]);
    }

    #[test]
    fn a_socket_goes_with_its_program_and_what_was_left_behind_is_replaced() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("socket");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(UnixStream::connect(&path).is_err() && path.exists());
        let socket = LocalSocket::at(&path).unwrap();
        UnixStream::connect(&path).unwrap();
        let second = LocalSocket::at(&path);
        assert!(matches!(second, Err(LocalError::Taken(_))), "{second:?}");
        UnixStream::connect(&path).expect("whoever was refused has changed nothing");
        drop(socket);
        assert!(!path.exists());
        // One that took its place is not this one's to remove.
        let first = LocalSocket::at(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let next = LocalSocket::at(&path).unwrap();
        drop(first);
        UnixStream::connect(&path).unwrap();
        drop(next);
    }

    #[test]
    fn what_is_no_socket_is_left_alone() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("letter");
        fs::write(&path, "dear").unwrap();
        let refused = LocalSocket::at(&path);
        assert!(matches!(refused, Err(LocalError::Occupied(_))), "{refused:?}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "dear");
    }

    #[test]
    fn a_path_that_no_socket_can_have_is_told_in_a_sentence() {
        let home = tempfile::tempdir().unwrap();
        let long = home.path().join("x".repeat(110));
        let refused = LocalSocket::at(&long).unwrap_err().to_string();
        assert!(refused.contains("too long for this system"), "{refused}");
        assert!(LocalSocket::of_home(&long).is_err() && !long.exists());
    }
}
