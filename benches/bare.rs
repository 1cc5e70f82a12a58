//! What a token costs at the least that is written alone: one thread wakes another, which writes as many bytes to a loopback
//! connection as an event has, and sleeps again. Before each token two threads read as much memory as a model's weights take, so
//! that caches hold what they hold beside a model. `benches/door.py bare` compiles and runs it:
//!
//!     bare TOKENS MEGABYTES
//!
//! Says what the woken thread took for a token, in nanoseconds, as the system counts it (Linux).

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use std::{env, fs, hint, thread};

/// What an event of a stream has.
const EVENT_BYTES: usize = 250;

/// Tokens that are made but not written.
static READY: AtomicUsize = AtomicUsize::new(0);

fn main() {
    let mut given = env::args().skip(1).map(|text| text.parse().expect("a number"));
    let (tokens, megabytes): (usize, usize) =
        (given.next().expect("tokens"), given.next().expect("megabytes"));
    let weights = vec![1_u64; megabytes << 17];
    let listener = TcpListener::bind("127.0.0.1:0").expect("a socket");
    let mut reader = TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
    let (mut writer, _) = listener.accept().expect("a connection");
    writer.set_nodelay(true).expect("a connection");
    thread::spawn(move || while reader.read(&mut [0; 1 << 16]).expect("a connection") > 0 {});
    let door = thread::spawn(move || {
        let mut took = 0;
        for token in 0..=tokens {
            while READY.load(Ordering::Acquire) <= token {
                thread::park();
            }
            // The first has costs of its own.
            if token == 0 {
                took = processor_ns();
            }
            writer.write_all(&[b'x'; EVENT_BYTES]).expect("a connection");
        }
        processor_ns() - took
    });
    for _ in 0..=tokens {
        read(&weights);
        READY.fetch_add(1, Ordering::Release);
        door.thread().unpark();
        thread::sleep(Duration::from_millis(1));
    }
    println!("{}", door.join().expect("a thread") / tokens as u64);
}

/// Brings all of it through the caches, on two threads.
fn read(weights: &[u64]) {
    let (left, right) = weights.split_at(weights.len() / 2);
    let sum = |part: &[u64]| hint::black_box(part.iter().step_by(8).sum::<u64>());
    thread::scope(|scope| {
        scope.spawn(|| sum(left));
        sum(right);
    });
}

/// What this thread took so far.
fn processor_ns() -> u64 {
    let counts = fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
    counts
        .split(' ')
        .next()
        .and_then(|count| count.parse().ok())
        .expect("a count")
}
