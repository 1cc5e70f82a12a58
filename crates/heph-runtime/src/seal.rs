//! Takes the right to open sockets away from threads, and the system keeps to it.
//!
//! On Linux a filter of the kernel (seccomp) refuses every call that makes a socket, gives one a destination or sends to a
//! named one, and the ways around it: rings of orders (io_uring), and reaching into another process. What a sealed thread
//! starts, threads and programs alike, is sealed too, and nothing takes a seal off. A seal of a thread says nothing of
//! descriptors that the rest of the process has open: where a command needs no network at all, the whole process is
//! sealed. Elsewhere there is no such filter, and [`process`] and [`thread`] say so.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether the system keeps a thread from the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seal {
    /// It does.
    Kept,
    /// It does not, for this reason.
    NotKept(String),
}

impl fmt::Display for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Seal::Kept => f.write_str("the kernel keeps what needs no network from it"),
            Seal::NotKept(why) => write!(f, "the kernel keeps nothing from the network: {why}"),
        }
    }
}

/// Seals every thread of this process, now and later. For a command that needs no network, before it reads anything. Threads
/// that were sealed alone before make it fail.
pub fn process() -> Seal {
    let seal = sealed(Reach::Process);
    if seal == Seal::Kept {
        WHOLE.store(true, Ordering::Release);
    }
    seal
}

/// Seals this thread and all that it starts.
pub fn thread() -> Seal {
    sealed(Reach::Thread)
}

/// Whether the whole process is sealed: a second seal would only cost time at each call of the system.
static WHOLE: AtomicBool = AtomicBool::new(false);

fn sealed(reach: Reach) -> Seal {
    match WHOLE.load(Ordering::Acquire) {
        true => Seal::Kept,
        false => of_system::seal(reach),
    }
}

/// Does something on a sealed thread of its own: what it starts stays sealed, as the threads of a pool. Where nothing can be
/// sealed it is done all the same: a seal is kept beside the policy, never in its place.
///
/// # Panics
/// When `what` does.
pub fn within<T: Send>(what: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let sealed = scope.spawn(|| {
            thread();
            what()
        });
        sealed
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Whose threads are sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    Process,
    Thread,
}

#[cfg(target_os = "linux")]
mod of_system {
    use std::collections::BTreeMap;

    use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

    use super::{Reach, Seal};

    /// Calls that are refused with "not permitted".
    const REFUSED: [i64; 15] = [
        libc::SYS_socket,
        libc::SYS_connect,
        libc::SYS_bind,
        libc::SYS_listen,
        libc::SYS_accept,
        libc::SYS_accept4,
        libc::SYS_sendto,
        libc::SYS_sendmsg,
        libc::SYS_sendmmsg,
        libc::SYS_io_uring_setup,
        libc::SYS_io_uring_enter,
        libc::SYS_io_uring_register,
        libc::SYS_ptrace,
        libc::SYS_process_vm_writev,
        libc::SYS_pidfd_getfd,
    ];

    /// Calls of the x32 form have the same numbers with this bit, and are refused like the others.
    #[cfg(target_arch = "x86_64")]
    const OTHER_FORM: i64 = 0x4000_0000;

    pub(super) fn seal(reach: Reach) -> Seal {
        let applied = filter().and_then(|program| match reach {
            Reach::Process => seccompiler::apply_filter_all_threads(&program),
            Reach::Thread => seccompiler::apply_filter(&program),
        });
        match applied {
            Ok(()) => Seal::Kept,
            Err(why) => Seal::NotKept(why.to_string()),
        }
    }

    /// The kernel ends a process that calls in the form of another architecture.
    fn filter() -> Result<BpfProgram, seccompiler::Error> {
        #[cfg(target_arch = "x86_64")]
        let calls = REFUSED.into_iter().flat_map(|call| [call, call | OTHER_FORM]);
        #[cfg(not(target_arch = "x86_64"))]
        let calls = REFUSED.into_iter();
        let rules: BTreeMap<i64, Vec<_>> = calls.map(|call| (call, Vec::new())).collect();
        let refuse = SeccompAction::Errno(libc::EPERM as u32);
        let here = std::env::consts::ARCH.try_into()?;
        Ok(SeccompFilter::new(rules, SeccompAction::Allow, refuse, here)?.try_into()?)
    }
}

#[cfg(not(target_os = "linux"))]
mod of_system {
    use super::{Reach, Seal};

    pub(super) fn seal(_: Reach) -> Seal {
        Seal::NotKept("this system has no filter that heph knows".to_owned())
    }
}

#[cfg(target_os = "linux")]
#[cfg(test)]
mod tests {
    use std::io::{self, ErrorKind};
    use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
    use std::os::unix::net::{UnixDatagram, UnixListener};
    use std::sync::Mutex;
    use std::thread::{self, ThreadId};

    use heph_kernels::pool::Pool;

    use super::*;

    /// Every way to a socket that the standard library has, to an address where somebody listens.
    fn attempts(open: SocketAddr) -> Vec<io::Error> {
        let said = [
            TcpStream::connect(open).map(drop),
            TcpListener::bind("127.0.0.1:0").map(drop),
            UdpSocket::bind("127.0.0.1:0").map(drop),
            UdpSocket::bind("[::1]:0").map(drop),
            UnixDatagram::unbound().map(drop),
            UnixListener::bind("/dev/null/no").map(drop),
        ];
        said.into_iter().filter_map(Result::err).collect()
    }

    fn refused(open: SocketAddr) -> bool {
        let said = attempts(open);
        said.len() == 6 && said.iter().all(|e| e.kind() == ErrorKind::PermissionDenied)
    }

    #[test]
    fn a_sealed_thread_and_what_it_starts_reach_nobody_and_the_others_do() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let open = listener.local_addr().unwrap();
        let (own, started, file) = thread::spawn(move || {
            assert_eq!(super::thread(), Seal::Kept);
            let started = thread::spawn(move || refused(open)).join().unwrap();
            (refused(open), started, std::fs::read("/proc/self/status"))
        })
        .join()
        .unwrap();
        assert!(own && started);
        assert!(file.is_ok(), "files are read as before");
        assert!(TcpStream::connect(open).is_ok() && UdpSocket::bind("127.0.0.1:0").is_ok());
    }

    #[test]
    fn a_socket_that_was_open_before_sends_to_nobody_new() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let to = socket.local_addr().unwrap();
        let sent = thread::spawn(move || {
            super::thread();
            socket.send_to(b"hello", to)
        });
        let said = sent.join().unwrap();
        assert_eq!(said.unwrap_err().kind(), ErrorKind::PermissionDenied);
    }

    #[test]
    fn threads_of_a_pool_are_sealed_where_it_is_made_within() {
        let pool = within(|| Pool::new(3));
        let here = thread::current().id();
        // On a busy machine the caller may be done before a worker wakes.
        let workers = (0..1_000).find_map(|_| {
            let seen: Mutex<Vec<(ThreadId, bool)>> = Mutex::default();
            pool.run(40, &|_| {
                let tried = UdpSocket::bind("127.0.0.1:0");
                let sealed = tried.is_err_and(|e| e.kind() == ErrorKind::PermissionDenied);
                seen.lock().unwrap().push((thread::current().id(), sealed));
                thread::yield_now();
            });
            let seen = seen.into_inner().unwrap();
            assert!(seen.iter().all(|(id, sealed)| (*id == here) != *sealed));
            seen.iter().find(|(id, _)| *id != here).copied()
        });
        assert!(workers.is_some(), "a worker took part");
    }

    #[test]
    fn a_panic_within_is_passed_on() {
        let panic = std::panic::catch_unwind(|| within(|| panic!("as it was")));
        assert_eq!(panic.unwrap_err().downcast_ref::<&str>(), Some(&"as it was"));
    }
}
