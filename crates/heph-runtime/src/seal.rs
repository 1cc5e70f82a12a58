//! Takes the right to open sockets away from threads, and the system keeps to it.
//!
//! On Linux a filter of the kernel (seccomp) refuses every call that makes a socket, gives one a destination or sends to a
//! named one, and the ways around it: rings of orders (io_uring), and reaching into another process. What a sealed thread
//! starts, threads and programs alike, is sealed too, and nothing takes a seal off. A seal of a thread says nothing of
//! descriptors that the rest of the process has open: where a command needs no network at all, the whole process is
//! sealed. Elsewhere there is no such filter, and [`process`] and [`thread`] say so.
//!
//! A command that asks others, or lends to them, seals itself against sockets of the internet ([`outward`]): its connections and the socket by which it speaks to
//! machines are the guard's ([`crate::guard`]), which gives up everything else ([`guard`]).

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, SyncSender};

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

/// Seals this thread and all that it starts against connections of its own: no socket but those that stay on this machine
/// can be made, and where the kernel knows how (Landlock, from 6.7 on) no TCP socket that is there already can be connected. For a
/// command that asks others or lends to them, before it starts any thread. Guards, programs of the person's and the door's own socket are begun by one thread
/// that is not sealed ([`unsealed`]).
pub fn outward() -> Seal {
    if BEGINS.get().is_none() {
        let (to, jobs) = mpsc::sync_channel::<Job>(JOBS_WAITING);
        let begun = std::thread::Builder::new()
            .name("heph-begin".to_owned())
            .spawn(move || jobs.into_iter().for_each(|job| job()));
        if let Err(error) = begun {
            // Without it nothing could be begun any more.
            return Seal::NotKept(error.to_string());
        }
        let _ = BEGINS.set(to);
    }
    of_system::outward()
}

/// Does something on the thread that is not sealed, where there is one; else here. For what the person named, and for nothing that is made
/// of what somebody said.
///
/// # Panics
/// When `what` does.
pub fn unsealed<T: Send + 'static>(what: impl FnOnce() -> T + Send + 'static) -> T {
    let Some(begins) = BEGINS.get() else {
        return what();
    };
    let (done, result) = mpsc::sync_channel(1);
    let job: Job = Box::new(move || drop(done.send(catch_unwind(AssertUnwindSafe(what)))));
    match begins.send(job).ok().and_then(|()| result.recv().ok()) {
        Some(Ok(done)) => done,
        Some(Err(panic)) => resume_unwind(panic),
        None => unreachable!("the thread that begins others lives as long as the process"),
    }
}

type Job = Box<dyn FnOnce() + Send>;

/// Jobs that wait for it: each is the start of a program, or a socket.
const JOBS_WAITING: usize = 16;

static BEGINS: OnceLock<SyncSender<Job>> = OnceLock::new();

/// What a guard gave up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    /// Files, but for those by which names are resolved.
    pub files: Seal,
    /// Starting programs, listening, reaching into other processes, and other sockets.
    pub calls: Seal,
}

impl fmt::Display for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.files, &self.calls) {
            (Seal::Kept, Seal::Kept) => {
                f.write_str("the kernel keeps it from files, programs and other processes")
            }
            (Seal::NotKept(why), Seal::Kept) => {
                write!(
                    f,
                    "the kernel keeps it from programs and other processes, and not from files: {why}"
                )
            }
            (Seal::Kept, Seal::NotKept(why)) => {
                write!(
                    f,
                    "the kernel keeps it from files, and not from programs and other processes: {why}"
                )
            }
            (Seal::NotKept(why), Seal::NotKept(_)) => write!(f, "the kernel keeps it from nothing: {why}"),
        }
    }
}

/// Gives up everything but connections, for good: for a guard, before it is asked anything and while it is one thread.
pub fn guard() -> Given {
    of_system::guard()
}

/// Gives up everything but connections and taking them in, for good: for a relay, while it is one thread. It may go on reading what is below `book`.
pub fn relay(book: Option<&Path>) -> Given {
    of_system::relay(book)
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
    use std::path::{Path, PathBuf};

    use heph_net::endpoint::key_log;
    use landlock::{
        ABI, Access, AccessFs, AccessNet, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetStatus, Scope,
        path_beneath_rules,
    };
    use rustix::process::{DumpableBehavior, set_dumpable_behavior};
    use seccompiler::{
        BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
        SeccompRule,
    };

    use super::{Given, Reach, Seal};

    /// Calls that are refused with "not permitted" to whoever needs no network.
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

    /// The ways around a filter of sockets: to whoever has a guard.
    const AROUND: [i64; 6] = [
        libc::SYS_io_uring_setup,
        libc::SYS_io_uring_enter,
        libc::SYS_io_uring_register,
        libc::SYS_ptrace,
        libc::SYS_process_vm_writev,
        libc::SYS_pidfd_getfd,
    ];

    /// Being connected to by others.
    const TAKES_IN: [i64; 3] = [libc::SYS_listen, libc::SYS_accept, libc::SYS_accept4];

    /// What guards and relays have no use for, beside those.
    const OF_NO_USE: [i64; 18] = [
        libc::SYS_execve,
        libc::SYS_execveat,
        libc::SYS_process_vm_readv,
        libc::SYS_open_by_handle_at,
        libc::SYS_mount,
        libc::SYS_umount2,
        libc::SYS_pivot_root,
        libc::SYS_chroot,
        libc::SYS_unshare,
        libc::SYS_setns,
        libc::SYS_bpf,
        libc::SYS_perf_event_open,
        libc::SYS_userfaultfd,
        libc::SYS_memfd_create,
        libc::SYS_keyctl,
        libc::SYS_add_key,
        libc::SYS_request_key,
        libc::SYS_kexec_load,
    ];

    /// Families of sockets that stay within this machine, or ask the kernel about the network.
    const WITHIN: [i32; 2] = [libc::AF_UNIX, libc::AF_NETLINK];

    /// The same, and those of the internet.
    const FAMILIES: [i32; 4] = [libc::AF_UNIX, libc::AF_NETLINK, libc::AF_INET, libc::AF_INET6];

    /// What names are resolved by: settings of the system, its libraries for that, and the word of whoever keeps the settings.
    const OF_NAMES: [&str; 9] = [
        "/etc",
        "/lib",
        "/lib64",
        "/usr/lib",
        "/usr/lib64",
        "/run/systemd/resolve",
        "/run/resolvconf",
        "/run/NetworkManager",
        "/nix/store",
    ];

    /// Calls of the x32 form have the same numbers with this bit, and are refused like the others.
    #[cfg(target_arch = "x86_64")]
    const OTHER_FORM: i64 = 0x4000_0000;

    pub(super) fn seal(reach: Reach) -> Seal {
        let applied = filter(refused(&REFUSED)).and_then(|program| match reach {
            Reach::Process => seccompiler::apply_filter_all_threads(&program),
            Reach::Thread => seccompiler::apply_filter(&program),
        });
        said(applied)
    }

    pub(super) fn outward() -> Seal {
        // What it says is no less of a seal: older kernels know no such rule.
        let _ = no_connects();
        let applied = none_but(&WITHIN).and_then(|sockets| {
            let mut rules = refused(&AROUND);
            rules.insert(libc::SYS_socket, sockets);
            seccompiler::apply_filter(&filter(rules)?)
        });
        said(applied)
    }

    pub(super) fn guard() -> Given {
        let files = Ruleset::default().handle_access(AccessNet::BindTcp);
        given(
            files.and_then(|rules| files_of(rules, None)),
            &[&OF_NO_USE, &TAKES_IN],
        )
    }

    pub(super) fn relay(book: Option<&Path>) -> Given {
        given(files_of(Ruleset::default(), book), &[&OF_NO_USE])
    }

    fn given(files: Result<Seal, landlock::RulesetError>, of_no_use: &[&[i64]]) -> Given {
        // Neither a dump of its memory nor a debugger of the same person.
        let hidden = set_dumpable_behavior(DumpableBehavior::NotDumpable);
        let files = files.unwrap_or_else(|error| Seal::NotKept(error.to_string()));
        let applied = none_but(&FAMILIES).and_then(|other| {
            let mut rules = refused(&AROUND);
            of_no_use.iter().for_each(|calls| rules.extend(refused(calls)));
            rules.insert(libc::SYS_socket, other);
            seccompiler::apply_filter(&filter(rules)?)
        });
        let calls = match hidden {
            Ok(()) => said(applied),
            Err(error) => Seal::NotKept(error.to_string()),
        };
        Given { files, calls }
    }

    fn said(applied: Result<(), seccompiler::Error>) -> Seal {
        match applied {
            Ok(()) => Seal::Kept,
            Err(why) => Seal::NotKept(why.to_string()),
        }
    }

    /// No file but those of [`OF_NAMES`] (and in a build for tests the folder of [`key_log`]) and what is below `reads`, no socket that others can
    /// reach by a name, and no signal to others.
    fn files_of(rules: Ruleset, reads: Option<&Path>) -> Result<Seal, landlock::RulesetError> {
        let read = AccessFs::ReadFile | AccessFs::ReadDir;
        let keys = key_log().map(PathBuf::from);
        let keys = keys.as_deref().and_then(Path::parent);
        let status = rules
            .handle_access(AccessFs::from_all(ABI::V5))?
            .scope(Scope::from_all(ABI::V6))?
            .create()?
            .add_rules(path_beneath_rules(OF_NAMES, read))?
            .add_rules(path_beneath_rules(reads, read))?
            .add_rules(path_beneath_rules(keys, AccessFs::from_all(ABI::V5)))?
            .restrict_self()?;
        Ok(match status.ruleset {
            RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced => Seal::Kept,
            RulesetStatus::NotEnforced => Seal::NotKept("it has no Landlock".to_owned()),
        })
    }

    /// No TCP socket is connected, whoever made it.
    pub(super) fn no_connects() -> Result<RulesetStatus, landlock::RulesetError> {
        let rules = Ruleset::default().handle_access(AccessNet::ConnectTcp)?;
        Ok(rules.create()?.restrict_self()?.ruleset)
    }

    /// The rule that holds for sockets of all families but these.
    fn none_but(families: &[i32]) -> Result<Vec<SeccompRule>, seccompiler::Error> {
        let others = families.iter();
        let others: Result<Vec<_>, _> = others
            .map(|family| condition(0, SeccompCmpOp::Ne, *family))
            .collect();
        Ok(vec![SeccompRule::new(others?)?])
    }

    fn condition(argument: u8, is: SeccompCmpOp, value: i32) -> Result<SeccompCondition, seccompiler::Error> {
        let value = value.unsigned_abs().into();
        Ok(SeccompCondition::new(
            argument,
            SeccompCmpArgLen::Dword,
            is,
            value,
        )?)
    }

    /// Calls that are refused whatever they say.
    fn refused(calls: &[i64]) -> BTreeMap<i64, Vec<SeccompRule>> {
        calls.iter().map(|call| (*call, Vec::new())).collect()
    }

    /// The kernel ends a process that calls in the form of another architecture.
    fn filter(rules: BTreeMap<i64, Vec<SeccompRule>>) -> Result<BpfProgram, seccompiler::Error> {
        #[cfg(target_arch = "x86_64")]
        let rules = rules
            .into_iter()
            .flat_map(|(call, when)| [(call, when.clone()), (call | OTHER_FORM, when)])
            .collect();
        let refuse = SeccompAction::Errno(libc::EPERM as u32);
        let here = std::env::consts::ARCH.try_into()?;
        Ok(SeccompFilter::new(rules, SeccompAction::Allow, refuse, here)?.try_into()?)
    }
}

#[cfg(not(target_os = "linux"))]
mod of_system {
    use std::path::Path;

    use super::{Given, Reach, Seal};

    pub(super) fn seal(_: Reach) -> Seal {
        Seal::NotKept("this system has no filter that heph knows".to_owned())
    }

    pub(super) fn outward() -> Seal {
        seal(Reach::Process)
    }

    pub(super) fn guard() -> Given {
        Given {
            files: seal(Reach::Process),
            calls: seal(Reach::Process),
        }
    }

    pub(super) fn relay(_: Option<&Path>) -> Given {
        guard()
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
    fn a_thread_that_has_a_guard_connects_nowhere_itself() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let open = listener.local_addr().unwrap();
        let denied = |said: io::Result<()>| said.is_err_and(|e| e.kind() == ErrorKind::PermissionDenied);
        let tries = move || {
            let connects = denied(TcpStream::connect(open).map(drop));
            let listens = denied(TcpListener::bind("127.0.0.1:0").map(drop));
            let speaks = denied(UdpSocket::bind("127.0.0.1:0").map(drop));
            connects && listens && speaks && UnixDatagram::unbound().is_ok()
        };
        let (own, started, begun) = thread::spawn(move || {
            assert_eq!(outward(), Seal::Kept);
            let started = thread::spawn(tries).join().unwrap();
            (
                tries(),
                started,
                unsealed(move || TcpStream::connect(open).is_ok()),
            )
        })
        .join()
        .unwrap();
        assert!(own && started);
        assert!(begun, "what the person named is begun where it can be");
        assert!(TcpStream::connect(open).is_ok(), "other threads are as they were");
    }

    #[test]
    fn a_socket_that_was_made_before_is_connected_by_nobody_where_the_kernel_knows_how() {
        use rustix::net::{AddressFamily, SocketType, connect, socket};
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let open = listener.local_addr().unwrap();
        let made = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        let said = thread::spawn(move || {
            outward();
            connect(&made, &open)
        });
        let said = said.join().unwrap();
        let knows = thread::spawn(of_system::no_connects).join().unwrap();
        let knows = matches!(knows, Ok(landlock::RulesetStatus::FullyEnforced));
        assert_eq!(said == Err(rustix::io::Errno::ACCESS), knows, "{said:?}");
    }

    #[test]
    fn a_guard_has_connections_and_nothing_else() {
        use rustix::net::{AddressFamily, SocketType, bind, listen, socket};
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let open = listener.local_addr().unwrap();
        // What Landlock lets be, the filter of calls refuses alone.
        let bound = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        bind(&bound, &SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_owned();
        thread::spawn(move || {
            let given = guard();
            assert_eq!(given.calls, Seal::Kept);
            assert!(TcpStream::connect(open).is_ok());
            assert_eq!(
                listen(&bound, 1),
                Err(rustix::io::Errno::PERM),
                "nobody reaches it"
            );
            assert!(
                std::process::Command::new("/bin/true").spawn().is_err(),
                "it starts nothing"
            );
            let files = [std::fs::read(&path).map(drop), std::fs::write(&path, "x")];
            let kept = given.files == Seal::Kept;
            assert!(files.iter().all(|said| said.is_err() == kept), "{files:?}");
            assert!(
                std::fs::read("/etc/hosts").is_ok(),
                "names are resolved as before"
            );
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_relay_is_connected_to_and_reads_no_file_but_below_the_book() {
        let (home, other) = (
            tempfile::tempdir().unwrap(),
            tempfile::NamedTempFile::new().unwrap(),
        );
        let (book, secret) = (home.path().join("book"), other.path().to_owned());
        std::fs::write(&book, "names").unwrap();
        for reads in [None, Some(home.path().to_owned())] {
            let (book, secret) = (book.clone(), secret.clone());
            thread::spawn(move || {
                let given = relay(reads.as_deref());
                assert_eq!(given.calls, Seal::Kept);
                let listener = TcpListener::bind("127.0.0.1:0").unwrap();
                let met = TcpStream::connect(listener.local_addr().unwrap());
                assert!(met.is_ok() && listener.accept().is_ok());
                assert!(std::process::Command::new("/bin/true").spawn().is_err());
                let kept = given.files == Seal::Kept;
                assert_eq!(std::fs::read(&secret).is_err(), kept);
                assert_eq!(std::fs::write(&book, "others").is_err(), kept);
                assert_eq!(std::fs::read(&book).is_err(), kept && reads.is_none());
            })
            .join()
            .unwrap();
        }
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
