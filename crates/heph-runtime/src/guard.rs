//! The guard of connections: a process of its own that owns the TCP connections to providers, hubs and servers of tools,
//! to the engine behind a node, and the socket by which machines are spoken to.
//!
//! Whoever wants one says with a [`Leave`] where to, for what, how private what goes there is and by which rule, and how many
//! bytes that are. The guard has read the policy and the person's lists itself, asks them again, opens the connection, lets no
//! more up than was said, and counts what passes by destination and label; what stands in the network log is its count. TLS is spoken
//! through it from end to end, so it sees whom, when and how much, and no word.
//!
//! Two sockets belong to each connection: one for what passes, one for what is said about it (`words`). [`Outlet`] is the side of
//! those who ask, `keep` that of the guard, `Warden` what the guard knows. On Linux the guard is the program itself once more
//! ([`process`]), which gives up everything but sockets before it is asked anything. Where there is no such process the same code keeps
//! connections on threads of this one, and [`Outlet::stands`] says so: that is a state, and no other way.
//!
//! When a file that the guard read changes, it lets nothing up any more, is let go of, and a new one reads what stands there then.

mod keep;
#[cfg(target_os = "linux")]
mod machines;
mod outlet;
#[cfg(target_os = "linux")]
pub mod process;
mod warden;
mod words;

pub use heph_privacy::Grounds;

/// What a process does for others, as its guard is told when it is begun, and not later.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lends {
    /// Whether machines of the book may fetch parts of models here.
    pub offers: bool,
    /// Host and port of the engine that the person named, where one does the work.
    pub engine: Option<(String, u16)>,
}

/// Who the engine behind a node is to its guard.
pub const ENGINE: &str = "backend";

pub(crate) use outlet::Conn;
pub use outlet::{Outlet, Stands, begin_with, note_all};
pub use warden::named;
pub use words::{Barred, Leave, slack};

/// One end of a pair of sockets that stays on this machine.
#[cfg(unix)]
pub(crate) type Stream = std::os::unix::net::UnixStream;

/// One end of a pair of sockets that stays on this machine: on loopback, where the system has no pairs.
#[cfg(not(unix))]
pub(crate) type Stream = std::net::TcpStream;

/// A pair of sockets.
#[cfg(unix)]
fn pair() -> std::io::Result<(Stream, Stream)> {
    Stream::pair()
}

/// A pair of sockets. Somebody else of this machine who comes in between is sent away.
#[cfg(not(unix))]
fn pair() -> std::io::Result<(Stream, Stream)> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let near = Stream::connect(listener.local_addr()?)?;
    loop {
        let (far, from) = listener.accept()?;
        if from == near.local_addr()? {
            near.set_nodelay(true)?;
            far.set_nodelay(true)?;
            return Ok((near, far));
        }
    }
}
