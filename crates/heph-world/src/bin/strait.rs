//! A strait: two network interfaces with distance between them.
//!
//! Opens two TUN interfaces and carries every packet from one to the other after a delay, at a rate, with jitter and
//! loss. A script moves each end into a network namespace; nothing is sent anywhere else, and both ends vanish with the
//! process. Commands come on the standard input, one a line; each is answered with one line of JSON.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program that answers on its standard output"
)]

use std::process::ExitCode;

/// How to call it.
const USAGE: &str = "strait LEFT RIGHT: opens the TUN interfaces LEFT and RIGHT and reads commands:
  delay MS      one way, both ways          jitter MS   more than that, up to so much
  mbit RATE     both ways; 0 is no limit    loss SHARE  of packets, 0 to 1
  cut left|right|both    nothing from there arrives any more
  heal          everything arrives again    stats       packets and bytes so far
  quit";

#[cfg(target_os = "linux")]
fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [left, right] = &arguments[..] else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    match linux::carry(left, right) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("strait: {error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn main() -> ExitCode {
    eprintln!("strait needs Linux and its TUN interfaces.\n{USAGE}");
    ExitCode::from(2)
}

#[cfg(any(target_os = "linux", test))]
mod channel {
    //! When a packet arrives, and whether.

    use std::time::Duration;

    use heph_world::Dice;

    /// How long the queue before the link may be; what would wait longer is dropped.
    const QUEUE_MAX: Duration = Duration::from_millis(300);

    /// Milliseconds that a delay may have: a minute.
    const MS_MAX: f64 = 60e3;

    /// What lies between the two ends.
    #[derive(Debug, Clone, Copy, PartialEq, Default)]
    pub(crate) struct Shape {
        pub(crate) delay: Duration,
        pub(crate) jitter: Duration,
        /// Bytes a second; `None` is no limit.
        pub(crate) rate: Option<f64>,
        pub(crate) loss: f64,
        /// Nothing that comes from the left, from the right, arrives.
        pub(crate) cut: [bool; 2],
    }

    impl Shape {
        /// Takes one command in; `false` when it is none.
        pub(crate) fn command(&mut self, line: &str) -> bool {
            let words: Vec<&str> = line.split_whitespace().collect();
            let number = |word: &str| word.parse::<f64>().ok().filter(|n| n.is_finite() && *n >= 0.0);
            match words[..] {
                ["stats"] => true,
                ["heal"] => {
                    self.cut = [false; 2];
                    true
                }
                ["cut", "left"] => {
                    self.cut[0] = true;
                    true
                }
                ["cut", "right"] => {
                    self.cut[1] = true;
                    true
                }
                ["cut", "both"] => {
                    self.cut = [true; 2];
                    true
                }
                [what, value] => number(value).is_some_and(|value| self.set(what, value)),
                _ => false,
            }
        }

        fn set(&mut self, what: &str, value: f64) -> bool {
            let time = |ms: f64| Duration::from_secs_f64(ms / 1e3);
            match what {
                "delay" if value <= MS_MAX => self.delay = time(value),
                "jitter" if value <= MS_MAX => self.jitter = time(value),
                "mbit" => self.rate = (value > 0.0).then_some(value * 125e3),
                "loss" if value <= 1.0 => self.loss = value,
                _ => return false,
            }
            true
        }
    }

    /// One direction.
    #[derive(Debug)]
    pub(crate) struct Channel {
        side: usize,
        dice: Dice,
        free: Duration,
        last: Duration,
        pub(crate) packets: u64,
        pub(crate) bytes: u64,
        pub(crate) dropped: u64,
    }

    impl Channel {
        pub(crate) fn new(side: usize) -> Self {
            Self {
                side,
                dice: Dice::new(side as u64),
                free: Duration::ZERO,
                last: Duration::ZERO,
                packets: 0,
                bytes: 0,
                dropped: 0,
            }
        }

        /// When a packet that comes now arrives, if it does. Packets keep their order.
        pub(crate) fn admit(&mut self, shape: &Shape, now: Duration, bytes: usize) -> Option<Duration> {
            let lost = shape.cut[self.side] || shape.loss > 0.0 && self.dice.share() < shape.loss;
            let full = self.free.saturating_sub(now) > QUEUE_MAX;
            if lost || full {
                self.dropped += 1;
                return None;
            }
            self.packets += 1;
            self.bytes += bytes as u64;
            self.free = self.free.max(now);
            if let Some(rate) = shape.rate {
                self.free += Duration::from_secs_f64(bytes as f64 / rate);
            }
            let jitter = self.dice.between(Duration::ZERO, shape.jitter);
            self.last = self.last.max(self.free + shape.delay + jitter);
            Some(self.last)
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        fn shape(commands: &[&str]) -> Shape {
            let mut shape = Shape::default();
            commands
                .iter()
                .for_each(|line| assert!(shape.command(line), "{line}"));
            shape
        }

        #[test]
        fn packets_wait_for_delay_and_rate() {
            let ms = Duration::from_millis;
            let shape = shape(&["delay 40", "mbit 1"]);
            let mut channel = Channel::new(0);
            assert_eq!(channel.admit(&shape, ms(0), 1250), Some(ms(50)));
            assert_eq!(channel.admit(&shape, ms(0), 1250), Some(ms(60)));
            let more = (0..100).filter_map(|_| channel.admit(&shape, ms(0), 1250));
            assert_eq!(more.last(), Some(ms(40 + 310)), "the queue is bounded");
        }

        #[test]
        fn a_cut_is_one_sided_until_it_heals() {
            let mut shape = shape(&["cut left"]);
            let mut channels = [Channel::new(0), Channel::new(1)];
            let mut arrive = |shape: &Shape| {
                let now = Duration::ZERO;
                [0, 1].map(|side| channels[side].admit(shape, now, 100).is_some())
            };
            assert_eq!(arrive(&shape), [false, true]);
            assert!(shape.command("heal"));
            assert_eq!(arrive(&shape), [true, true]);
        }

        #[test]
        fn nonsense_is_no_command() {
            for line in [
                "",
                "delay",
                "delay -1",
                "delay x",
                "loss 2",
                "cut up",
                "delay 1 2",
                "mbit inf",
            ] {
                assert!(!Shape::default().command(line), "{line}");
            }
        }
    }
}

#[cfg(target_os = "linux")]
mod linux {
    //! The two interfaces and the threads between them.

    use std::collections::VecDeque;
    use std::io::{self, BufRead};
    use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
    use std::time::{Duration, Instant};

    use tun_tap::{Iface, Mode};

    use crate::channel::{Channel, Shape};

    /// Bytes of the largest packet.
    const PACKET_MAX: usize = 1 << 16;

    /// Packets under way in one direction: 300 ms of queue and 150 ms of way at 1 Gbit/s are 37,500 of 1,500 bytes.
    const UNDER_WAY_MAX: usize = 40_000;

    struct Way {
        state: Mutex<State>,
        news: Condvar,
    }

    struct State {
        channel: Channel,
        under_way: VecDeque<(Duration, Vec<u8>)>,
    }

    impl Way {
        fn new(side: usize) -> Self {
            Self {
                state: Mutex::new(State {
                    channel: Channel::new(side),
                    under_way: VecDeque::new(),
                }),
                news: Condvar::new(),
            }
        }

        fn state(&self) -> MutexGuard<'_, State> {
            self.state.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }

    /// Carries packets until the standard input ends or says so.
    pub(crate) fn carry(left: &str, right: &str) -> io::Result<()> {
        let ends = [left, right].map(|name| Iface::without_packet_info(name, Mode::Tun));
        let [left, right] = ends;
        let ends = [Arc::new(left?), Arc::new(right?)];
        let shape = Arc::new(Mutex::new(Shape::default()));
        let ways = [Arc::new(Way::new(0)), Arc::new(Way::new(1))];
        let began = Instant::now();
        for side in [0, 1] {
            let (way, shape, from) = (
                Arc::clone(&ways[side]),
                Arc::clone(&shape),
                Arc::clone(&ends[side]),
            );
            std::thread::spawn(move || take_in(&way, &shape, &from, began));
            let (way, to) = (Arc::clone(&ways[side]), Arc::clone(&ends[1 - side]));
            std::thread::spawn(move || hand_out(&way, &to, began));
        }
        println!(
            "{{\"left\": {:?}, \"right\": {:?}}}",
            ends[0].name(),
            ends[1].name()
        );
        for line in io::stdin().lock().lines() {
            let line = line?;
            if line.trim() == "quit" {
                break;
            }
            let mut shape = shape.lock().unwrap_or_else(PoisonError::into_inner);
            match shape.command(&line) {
                true => println!("{}", stats(&ways)),
                false => println!("{{\"error\": \"no such command\"}}"),
            }
        }
        Ok(())
    }

    fn take_in(way: &Way, shape: &Mutex<Shape>, from: &Iface, began: Instant) {
        let mut packet = vec![0; PACKET_MAX];
        // An end that is gone ends its thread; the other end's process is told by its own.
        while let Ok(bytes) = recv(from, &mut packet) {
            let shape = *shape.lock().unwrap_or_else(PoisonError::into_inner);
            let mut state = way.state();
            if state.under_way.len() >= UNDER_WAY_MAX {
                continue;
            }
            if let Some(due) = state.channel.admit(&shape, began.elapsed(), bytes) {
                state.under_way.push_back((due, packet[..bytes].to_vec()));
                // Whoever waits for an earlier one knows when to wake.
                if state.under_way.len() == 1 {
                    way.news.notify_one();
                }
            }
        }
    }

    /// The next packet; an interface that is down for a moment, as while it is moved, is waited for.
    fn recv(from: &Iface, packet: &mut [u8]) -> io::Result<usize> {
        loop {
            match from.recv(packet) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.raw_os_error() == Some(EBADFD) => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                result => return result,
            }
        }
    }

    /// "File descriptor in bad state": the interface is down.
    const EBADFD: i32 = 77;

    fn hand_out(way: &Way, to: &Iface, began: Instant) {
        loop {
            let packet = {
                let mut state = way.state();
                loop {
                    let now = began.elapsed();
                    let due = state.under_way.front().map(|(due, _)| *due);
                    let wait = match due {
                        Some(due) if due <= now => break state.under_way.pop_front(),
                        Some(due) => due - now,
                        None => Duration::from_secs(1),
                    };
                    let woken = way.news.wait_timeout(state, wait);
                    state = woken.unwrap_or_else(PoisonError::into_inner).0;
                }
            };
            if let Some((_, packet)) = packet {
                // A packet for an interface that is down is lost, as on any network.
                let _ = to.send(&packet);
            }
        }
    }

    fn stats(ways: &[Arc<Way>; 2]) -> String {
        let told = ways.each_ref().map(|way| {
            let state = way.state();
            let Channel {
                packets,
                bytes,
                dropped,
                ..
            } = state.channel;
            format!("{{\"packets\": {packets}, \"bytes\": {bytes}, \"dropped\": {dropped}}}")
        });
        format!("{{\"from_left\": {}, \"from_right\": {}}}", told[0], told[1])
    }
}
