//! An endpoint behind a guard: the same conversations over two processes' worth of sockets, and what the guard does not let pass.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;

use heph_net::address::RelayAddress;
use heph_net::drive::{Conversation, DriveError, Tally, drive};
use heph_net::endpoint::mirror::{self, Bounds, Old, Wanted, Warden};
use heph_net::endpoint::{ConnectError, Goodbye, Guards, LinkError, Port, StreamError, Way};
use heph_net::relay::Admission;
use heph_privacy::Grounds;
use heph_privacy::label::{Label, Level};
use heph_types::NodeId;

use super::conversations::{Say, Talk, heard};
use super::*;

/// Bytes that the guard lets pass in a conversation in which nothing was cleared.
const GREETING: u64 = 1_000;

/// The same in one that the peer opened.
const ANSWER: u64 = 100_000;

/// Lets everything pass but what is secret, until it is told to be over.
#[derive(Default)]
pub(super) struct Gate {
    over: AtomicBool,
    old_book: AtomicBool,
    /// Nobody is reached.
    shut: AtomicBool,
    /// Nobody is reached by a relay.
    relays_denied: AtomicBool,
}

impl Gate {
    pub(super) fn deny_relays(&self) {
        self.relays_denied.store(true, Ordering::SeqCst);
    }
}

impl Warden for Gate {
    fn greets(&self, wanted: &Wanted<'_>) -> Result<Bounds, String> {
        let served = wanted.protocol != Protocol::Hop || !wanted.served.is_empty();
        match self.shut.load(Ordering::SeqCst) {
            true => Err("nobody is known".to_owned()),
            false if !served => Err("nobody is served".to_owned()),
            false => Ok(Bounds {
                opened: GREETING,
                taken: ANSWER,
            }),
        }
    }

    fn shows(&self, _: NodeId, grounds: &Grounds) -> Result<(), String> {
        match grounds.label.level() < Level::Secret {
            true => Ok(()),
            false => Err("secrets stay here".to_owned()),
        }
    }

    fn relays(&self, _: &RelayAddress) -> Result<(), String> {
        match self.relays_denied.load(Ordering::SeqCst) {
            true => Err("no relays".to_owned()),
            false => Ok(()),
        }
    }

    fn is_seen(&self) -> Result<(), String> {
        Ok(())
    }

    fn read(&self, book: OwnedFd) -> Result<Vec<NodeId>, String> {
        let mut text = String::new();
        File::from(book).read_to_string(&mut text).unwrap();
        let gone = text.lines().map(|line| line.parse().unwrap()).collect();
        self.old_book.store(false, Ordering::SeqCst);
        Ok(gone)
    }

    fn old(&self) -> Option<Old> {
        let is = |flag: &AtomicBool| flag.load(Ordering::SeqCst);
        if is(&self.over) {
            return Some(Old::All("the rules have changed".to_owned()));
        }
        is(&self.old_book).then(|| Old::Book("the book has changed".to_owned()))
    }
}

/// Guards on threads of their own, of which a test may kill one.
#[derive(Clone, Default)]
pub(super) struct Watch {
    begun: Arc<AtomicUsize>,
    killers: Arc<std::sync::Mutex<Vec<mpsc::Sender<()>>>>,
    gates: Arc<std::sync::Mutex<Vec<Arc<Gate>>>>,
    /// Who is not in the book any more, as it is handed over; `None` where it cannot be opened.
    gone: Arc<std::sync::Mutex<Option<String>>>,
    /// Whether the next ones let nobody use a relay.
    denies_relays: Arc<AtomicBool>,
    /// Whether the next ones have the port of the one before.
    stays: bool,
}

impl Watch {
    fn guards(&self) -> Guards {
        let watch = self.clone();
        let gone = Arc::clone(&self.gone);
        let book = move || {
            let text = gone.lock().unwrap().clone().ok_or(std::io::ErrorKind::NotFound)?;
            let mut file = tempfile::tempfile()?;
            file.write_all(text.as_bytes())?;
            file.rewind()?;
            Ok(file.into())
        };
        let hand = move |words, questions| {
            watch.begun.fetch_add(1, Ordering::SeqCst);
            let gate = Arc::new(Gate::default());
            if watch.denies_relays.load(Ordering::SeqCst) {
                gate.deny_relays();
            }
            watch.gates.lock().unwrap().push(Arc::clone(&gate));
            let (kill, killed) = mpsc::channel();
            watch.killers.lock().unwrap().push(kill);
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .unwrap();
                let kept = mirror::keep(words, questions, gate);
                let ends = async {
                    while killed.try_recv() != Ok(()) {
                        tokio::time::sleep(Duration::from_millis(2)).await;
                    }
                };
                runtime.block_on(async {
                    tokio::select! { () = kept => {}, () = ends => {} }
                });
                // As a process that was killed: no goodbye.
                runtime.shutdown_background();
            });
            Ok(())
        };
        Guards {
            hand: Arc::new(hand),
            book: Arc::new(book),
            port: if self.stays { Port::Stays } else { Port::Changes },
        }
    }

    fn kill(&self) {
        let killers = self.killers.lock().unwrap();
        killers.last().unwrap().send(()).unwrap();
    }

    pub(super) fn gate(&self) -> Arc<Gate> {
        Arc::clone(self.gates.lock().unwrap().last().unwrap())
    }

    pub(super) async fn endpoint(&self) -> Endpoint {
        let options = EndpointOptions::loopback();
        Endpoint::behind(self.guards(), &Identity::fresh().unwrap(), options)
            .await
            .unwrap()
    }
}

fn grounds(level: Level) -> Grounds {
    Grounds {
        label: Label::new(level, "source:prompt"),
        mode: "remote".to_owned(),
        credits: 0,
        replaced: None,
        rules: Vec::new(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_ends_say_the_same_as_without_a_guard() {
    let watch = Watch::default();
    let (desk, node) = (watch.endpoint().await, endpoint().await);
    let (to_node, to_desk) = connected(&desk, &node, Protocol::Session).await;
    assert_eq!((to_node.peer(), to_desk.peer()), (node.node(), desk.node()));
    assert_eq!(to_node.protocol(), Protocol::Session);
    echoes(&to_node, &to_desk).await;
    echoes(&to_desk, &to_node).await;
    assert_eq!(to_node.way(), Some(Way::Direct));
    assert!(to_node.round_trip().is_some());
    assert!(to_node.traffic().sent_bytes > 0);
    assert!(desk.is_loopback() && desk.address().direct.len() == 1);
    // A peer that connects arrives at the process that has no socket.
    let (from_node, to_node) = connected(&node, &desk, Protocol::Members).await;
    assert_eq!((from_node.peer(), to_node.peer()), (desk.node(), node.node()));
    assert!(to_node.datagram_bytes_max() >= 1_000);
    assert!(to_node.send_datagram(vec![7; 1_000]));
    assert_eq!(from_node.datagram().await.unwrap(), vec![7; 1_000]);
    assert!(from_node.send_datagram(vec![8; 1_000]));
    assert_eq!(to_node.datagram().await.unwrap(), vec![8; 1_000]);
    assert!(
        !to_node.send_datagram(vec![7; 1 << 20]),
        "too long for one packet"
    );
    from_node.close(Goodbye::NotAllowed);
    let reason = "not allowed".to_owned();
    let ended = LinkError::Ended {
        node: node.node(),
        reason,
    };
    assert_eq!(to_node.closed().await, ended);
    assert!(to_node.open().await.is_err() && !to_node.is_open());
    assert_eq!(watch.begun.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_both_ways_arrives_whole_and_ends_are_told_apart() {
    let (desk, node) = (Watch::default().endpoint().await, endpoint().await);
    let (to_node, to_desk) = connected(&desk, &node, Protocol::Session).await;
    let flood: Vec<u8> = (0..20_u32 << 20).map(|at| (at % 251) as u8).collect();
    let mut here = to_node.open_for(&grounds(Level::Internal)).await.unwrap();
    let (back, there) = tokio::join!(
        async {
            here.write(&flood).await.unwrap();
            here.finish();
            let back = here.read_all(flood.len()).await.unwrap();
            here.delivered().await;
            back
        },
        async {
            let mut stream = to_desk.accept().await.unwrap();
            let heard = stream.read_all(flood.len()).await.unwrap();
            stream.write(&heard).await.unwrap();
            stream.finish();
            heard
        }
    );
    assert!(there == flood && back == flood);
    // A conversation that is let go of does not look like one that ended.
    let stream = to_node.open_for(&grounds(Level::Internal)).await.unwrap();
    let here: Conversation<Talk> = drive(stream, Talk::default(), std::time::Instant::now());
    here.command(Say::Bytes(b"hello".to_vec())).await;
    let mut there = drive(
        to_desk.accept().await.unwrap(),
        Talk::default(),
        std::time::Instant::now(),
    );
    assert_eq!(heard(&mut there, 5).await, b"hello");
    drop(here);
    assert!(there.event().await.is_none());
    assert!(matches!(there.end().await, Err(DriveError::Left(_))));
    // Nor does one that the peer breaks off.
    let mut here = to_node.open_for(&grounds(Level::Internal)).await.unwrap();
    here.write(b"hello").await.unwrap();
    let there: Conversation<Talk> = drive(
        to_desk.accept().await.unwrap(),
        Talk::default(),
        std::time::Instant::now(),
    );
    drop(there);
    assert!(matches!(here.read_all(64).await, Err(StreamError::Left(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_cleared_is_held_back_and_what_was_is_counted_by_its_label() {
    let (desk, node) = (Watch::default().endpoint().await, endpoint().await);
    let (to_node, to_desk) = connected(&desk, &node, Protocol::Session).await;
    let denied = to_node.open_for(&grounds(Level::Secret)).await.unwrap_err();
    let why = "secrets stay here".to_owned();
    let barred = |why| LinkError::Barred {
        node: node.node(),
        why,
    };
    assert_eq!(denied, barred(why.clone()));
    let mut stream = to_node.open_for(&grounds(Level::Private)).await.unwrap();
    stream.write(&[1; 5_000]).await.unwrap();
    let mut there = to_desk.accept().await.unwrap();
    there.read(&mut [0; 5_000]).await.unwrap();
    let passed = desk.account().connections;
    assert_eq!(passed.len(), 1);
    assert!(passed[0].labels.contains("private") && !passed[0].labels.contains("secret"));
    assert!(passed[0].traffic.sent_bytes > 5_000 && passed[0].node == node.node());
    assert!(desk.account().total.sent_bytes >= passed[0].traffic.sent_bytes);
    assert_eq!(desk.passing().len(), 1);
    // More than greetings where nothing was cleared: none of it arrives, and all ends.
    let mut greeting = to_node.open().await.unwrap();
    greeting.write(&vec![2; GREETING as usize]).await.unwrap();
    let mut heard = to_desk.accept().await.unwrap();
    heard.read(&mut vec![0; GREETING as usize]).await.unwrap();
    let _ = greeting.write(&[3]).await;
    assert_eq!(
        to_node.closed().await,
        barred("more was to be sent than was cleared".to_owned())
    );
    assert!(heard.read(&mut [0]).await.is_err());
    // A request that became more private is asked about again.
    let (to_node, _to_desk) = connected(&desk, &node, Protocol::Session).await;
    let _stream = to_node.open_for(&grounds(Level::Internal)).await.unwrap();
    assert_eq!(to_node.shows(&grounds(Level::Private)).await, Ok(()));
    assert!(
        desk.account()
            .connections
            .iter()
            .any(|passed| passed.labels.contains("internal") && passed.labels.contains("private"))
    );
    assert_eq!(
        to_node.shows(&grounds(Level::Secret)).await,
        Err(barred(why.clone()))
    );
    assert_eq!(to_node.closed().await, barred(why));
}

/// What the owner of the socket says, on a thread that may wait for it.
async fn carried(tally: &Tally) -> (u64, u64) {
    let tally = tally.clone();
    tokio::task::spawn_blocking(move || tally.carried())
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_guard_counts_what_it_handed_on_and_no_more_than_that_is_told_in_the_end() {
    let watch = Watch::default();
    let (desk, node) = (watch.endpoint().await, endpoint().await);
    let (to_node, to_desk) = connected(&desk, &node, Protocol::Session).await;
    let talk = async || {
        let stream = to_node.open_for(&grounds(Level::Internal)).await.unwrap();
        let here: Conversation<Talk> = drive(stream, Talk::default(), std::time::Instant::now());
        here.command(Say::Bytes(b"hello".to_vec())).await;
        let mut there = to_desk.accept().await.unwrap();
        there.read(&mut [0; 5]).await.unwrap();
        (here, there)
    };
    let (mut here, mut there) = talk().await;
    there.write(b"yes").await.unwrap();
    assert_eq!(heard(&mut here, 3).await, b"yes");
    let tally = here.tally();
    assert_eq!((tally.bytes(), carried(&tally).await), ((5, 3), (5, 3)));
    // A peer that does not read: what waits here may yet leave, and counts.
    const FLOOD: usize = 8 << 20;
    here.command(Say::Bytes(vec![7; FLOOD])).await;
    let stuck = async {
        let mut before = 0;
        while before == 0 || tally.bytes().0 > before {
            before = tally.bytes().0;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::time::timeout(PATIENCE, stuck).await.unwrap();
    let given = tally.bytes().0;
    assert!(given < FLOOD as u64 && carried(&tally).await == (given, 3));
    // Once it is broken off nothing of that leaves any more, and it is not told.
    drop(here);
    let over = async {
        while carried(&tally).await.0 == given {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, over)
        .await
        .expect("less left than was given");
    let (left, mut read) = (carried(&tally).await.0, 5);
    while let Ok(Some(count)) = there.read_some(&mut vec![0; 1 << 20]).await {
        read += count as u64;
    }
    assert!(read <= left, "{read} bytes arrived, and {left} were told");
    // A guard that is gone tells nothing.
    let (here, _there) = talk().await;
    let tally = here.tally();
    watch.kill();
    to_node.closed().await;
    assert_eq!(carried(&tally).await, tally.bytes());
    assert_eq!(tally.bytes().0, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guard_that_is_killed_ends_what_went_through_it_and_another_goes_on() {
    let (watch, node) = (Watch::default(), endpoint().await);
    let desk = watch.endpoint().await;
    let (to_node, to_desk) = connected(&desk, &node, Protocol::Session).await;
    echoes(&to_node, &to_desk).await;
    let before = desk.account().connections;
    let mut stream = to_node.open().await.unwrap();
    watch.kill();
    let said = to_node.closed().await.to_string();
    assert!(said.contains("the guard of connections ended"), "{said}");
    let said = stream.read(&mut [0]).await.unwrap_err().to_string();
    assert!(said.contains("the guard of connections ended"), "{said}");
    assert!(stream.write(&[0]).await.is_err() && !to_node.is_open());
    assert!(matches!(to_node.open().await, Err(LinkError::Broken { .. })));
    let (to_node, to_desk) = connected(&desk, &node, Protocol::Session).await;
    echoes(&to_node, &to_desk).await;
    assert_eq!(watch.begun.load(Ordering::SeqCst), 2);
    // Connections of both are told apart, and the socket's sum does not fall.
    let after = desk.account().connections;
    assert!(after.iter().all(|passed| passed.number != before[0].number));
    assert!(desk.account().total.sent_bytes >= after[0].traffic.sent_bytes);
    // Others find this machine again, without anybody having asked for something here.
    watch.kill();
    let again = tokio::time::timeout(PATIENCE, async {
        while watch.begun.load(Ordering::SeqCst) < 3 || desk.address().direct.is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    again.await.expect("another guard listens");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guard_whose_rules_are_old_is_left_for_one_that_has_read_the_new_ones() {
    let (watch, node) = (Watch::default(), endpoint().await);
    let desk = watch.endpoint().await;
    let (to_node, to_desk) = connected(&desk, &node, Protocol::Session).await;
    let (meeting, _met) = connected(&desk, &node, Protocol::Pair).await;
    echoes(&to_node, &to_desk).await;
    watch.gate().over.store(true, Ordering::SeqCst);
    // Whoever connects next is with the next guard, whether or not the first has said that it is over.
    let (again, _there) = connected(&desk, &node, Protocol::Session).await;
    assert!(again.is_open() && watch.begun.load(Ordering::SeqCst) == 2);
    let said = to_node.closed().await;
    let why = "the rules have changed".to_owned();
    assert_eq!(
        said,
        LinkError::Barred {
            node: node.node(),
            why
        }
    );
    assert!(meeting.is_open(), "two who meet hear each other out");
    assert!(to_node.open_for(&grounds(Level::Internal)).await.is_err());
    // What both carried is told.
    assert!(desk.account().connections.len() >= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn whom_the_guard_does_not_know_is_neither_reached_nor_taken_in() {
    let (watch, node) = (Watch::default(), endpoint().await);
    let desk = watch.endpoint().await;
    watch.gate().shut.store(true, Ordering::SeqCst);
    let refused = desk
        .connect(node.node(), &node.address(), Protocol::Session, PATIENCE)
        .await;
    assert!(
        matches!(&refused, Err(ConnectError::Failed { cause, .. }) if cause == "nobody is known"),
        "{refused:?}"
    );
    // Nor is anybody taken in.
    let (there, here) = tokio::join!(
        async {
            let connection = node
                .connect(desk.node(), &desk.address(), Protocol::Session, PATIENCE)
                .await;
            match connection {
                Ok(connection) => connection.closed().await.to_string(),
                Err(error) => error.to_string(),
            }
        },
        async { desk.accept().await.unwrap().finish(PATIENCE).await }
    );
    assert!(here.is_err() && there.contains("not allowed"), "{there}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_closes_says_goodbye_and_leaves_no_guard_behind() {
    let (watch, node) = (Watch::default(), endpoint().await);
    let desk = watch.endpoint().await;
    let (to_node, to_desk) = connected(&desk, &node, Protocol::Session).await;
    to_node.close(Goodbye::Done);
    let reason = "done".to_owned();
    let ended = LinkError::Ended {
        node: desk.node(),
        reason,
    };
    assert_eq!(to_desk.closed().await, ended);
    assert_eq!(
        to_node.closed().await,
        LinkError::ClosedHere { node: node.node() }
    );
    let (to_node, to_desk) = connected(&desk, &node, Protocol::Session).await;
    desk.close(PATIENCE).await;
    assert!(matches!(to_desk.closed().await, LinkError::Ended { .. }));
    assert!(desk.accept().await.is_none());
    assert!(
        !desk.account().connections.is_empty(),
        "what passed is told behind the goodbye"
    );
    let refused = desk
        .connect(node.node(), &node.address(), Protocol::Session, PATIENCE)
        .await;
    assert!(refused.is_err());
    drop((desk, to_node));
    let gate = watch.gate();
    let ended = (0..500).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        // This test holds it, and the list of gates; nobody else.
        Arc::strong_count(&gate) == 2
    });
    assert!(ended, "the guard's thread ends");
    assert_eq!(watch.begun.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_begins_where_there_is_no_guard() {
    let none = Guards {
        hand: Arc::new(|_, _| Err(std::io::Error::other("no program"))),
        ..Watch::default().guards()
    };
    let identity = Identity::fresh().unwrap();
    let error = Endpoint::behind(none, &identity, EndpointOptions::loopback()).await;
    assert_eq!(
        error.unwrap_err().to_string(),
        "the guard of connections is not there: no program"
    );
    // One that takes the ends and says nothing is no guard either.
    let silent = Guards {
        hand: Arc::new(|words, questions| {
            drop((words, questions));
            Ok(())
        }),
        ..Watch::default().guards()
    };
    assert!(
        Endpoint::behind(silent, &identity, EndpointOptions::loopback())
            .await
            .is_err()
    );
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let bind = taken.local_addr().unwrap();
    let options = EndpointOptions {
        bind,
        ..EndpointOptions::loopback()
    };
    let error = Endpoint::behind(Watch::default().guards(), &identity, options).await;
    let said = error.unwrap_err().to_string();
    assert!(said.starts_with(&format!("no socket at {bind}")), "{said}");
}

/// A hop of this machine's to `node`.
async fn hop(desk: &Endpoint, node: &Endpoint) -> Result<(Connection, Connection), ConnectError> {
    let address = node.address();
    let (near, far) = tokio::join!(
        desk.connect(node.node(), &address, Protocol::Hop, PATIENCE),
        async {
            let arriving = tokio::time::timeout(Duration::from_secs(2), node.accept()).await;
            match arriving.ok().flatten() {
                Some(arriving) => arriving.finish(PATIENCE).await.ok(),
                None => None,
            }
        }
    );
    near.map(|near| (near, far.unwrap()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_book_that_is_handed_over_ends_whom_it_has_no_more_and_nothing_else() {
    let (watch, one, other) = (Watch::default(), endpoint().await, endpoint().await);
    let node = watch.endpoint().await;
    let (from_one, to_one) = connected(&one, &node, Protocol::Session).await;
    let (from_other, to_other) = connected(&other, &node, Protocol::Session).await;
    *watch.gone.lock().unwrap() = Some(other.node().to_string());
    watch.gate().old_book.store(true, Ordering::SeqCst);
    let ended = from_other.closed().await.to_string();
    assert!(ended.contains("not allowed"), "{ended}");
    assert!(!to_other.is_open() || to_other.closed().await != LinkError::Silent { node: other.node() });
    assert!(from_one.is_open() && to_one.is_open());
    echoes(&from_one, &to_one).await;
    // What is asked for while the book is another one waits for it.
    *watch.gone.lock().unwrap() = Some(String::new());
    watch.gate().old_book.store(true, Ordering::SeqCst);
    let (again, _there) = connected(&node, &other, Protocol::Members).await;
    assert!(again.is_open() && watch.begun.load(Ordering::SeqCst) == 1);
    // One that cannot be opened ends all, and the next guard reads it itself.
    *watch.gone.lock().unwrap() = None;
    watch.gate().old_book.store(true, Ordering::SeqCst);
    let why = "the book has changed".to_owned();
    let node_of = one.node();
    assert_eq!(to_one.closed().await, LinkError::Barred { node: node_of, why });
    let (again, _there) = connected(&node, &one, Protocol::Members).await;
    assert!(again.is_open() && watch.begun.load(Ordering::SeqCst) == 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guard_that_is_begun_anew_has_the_address_of_the_one_before() {
    let watch = Watch {
        stays: true,
        ..Watch::default()
    };
    let desk = endpoint().await;
    let node = watch.endpoint().await;
    let address = node.address();
    let (first, _) = connected(&desk, &node, Protocol::Session).await;
    // One that is over says goodbye there first, and one that was killed does not.
    watch.gate().over.store(true, Ordering::SeqCst);
    first.closed().await;
    for begun in 2..4 {
        let again = tokio::time::timeout(PATIENCE, async {
            while watch.begun.load(Ordering::SeqCst) < begun || node.address().direct.is_empty() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        again.await.expect("another guard listens");
        assert_eq!(node.address(), address);
        let (there, here) = connected(&desk, &node, Protocol::Session).await;
        echoes(&there, &here).await;
        watch.kill();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_peer_opened_is_answered_and_rows_go_on_while_somebody_is_served() {
    let (watch, desk, third) = (Watch::default(), endpoint().await, endpoint().await);
    let node = watch.endpoint().await;
    let early = hop(&node, &third).await;
    let said = early.map(drop).unwrap_err().to_string();
    assert!(said.contains("nobody is served"), "{said}");
    let (from_desk, to_desk) = connected(&desk, &node, Protocol::Session).await;
    let (rows, _taken) = hop(&node, &third).await.unwrap();
    // More than greetings in answer, and no more than that in what this machine opens itself.
    let mut asks = from_desk.open().await.unwrap();
    asks.write(b"go on").await.unwrap();
    let mut answers = to_desk.accept().await.unwrap();
    answers.write(&vec![1; ANSWER as usize]).await.unwrap();
    asks.read(&mut vec![0; ANSWER as usize]).await.unwrap();
    let mut own = to_desk.open().await.unwrap();
    let _ = own.write(&vec![2; GREETING as usize + 1]).await;
    let why = "more was to be sent than was cleared".to_owned();
    let node_of = desk.node();
    assert_eq!(to_desk.closed().await, LinkError::Barred { node: node_of, why });
    // The desk has left: its rows go nowhere any more.
    let ended = tokio::time::timeout(PATIENCE, rows.closed()).await;
    ended.expect("the hop ends with the desk that wanted it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guard_waits_at_the_relay_that_its_rules_let_it_use() {
    let home = tempfile::tempdir().unwrap();
    let relay = super::relays::relay(home.path(), Admission::Everyone).await;
    let options = EndpointOptions {
        relay: Some(relay.address().clone()),
        ..EndpointOptions::loopback()
    };
    let watch = Watch::default();
    let identity = Identity::fresh().unwrap();
    let node = Endpoint::behind(watch.guards(), &identity, options.clone())
        .await
        .unwrap();
    assert!(node.waiting_at_relay(PATIENCE).await);
    assert_eq!(node.address().relay.as_ref(), Some(relay.address()));
    assert!(!node.is_loopback() && node.relays() == [relay.address().clone()]);
    let away = EndpointOptions {
        relay: Some(
            format!("https://127.0.0.1:9#{}", "ab".repeat(32))
                .parse()
                .unwrap(),
        ),
        ..EndpointOptions::loopback()
    };
    let identity = Identity::fresh().unwrap();
    let nowhere = Endpoint::behind(watch.guards(), &identity, away).await.unwrap();
    assert!(!nowhere.waiting_at_relay(Duration::from_millis(300)).await);
    watch.denies_relays.store(true, Ordering::SeqCst);
    let identity = Identity::fresh().unwrap();
    let denied = Endpoint::behind(watch.guards(), &identity, options).await;
    let said = denied.unwrap_err().to_string();
    assert!(said.contains("no relays"), "{said}");
}
