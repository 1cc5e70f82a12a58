//! Text without personal data: sources of this tree and tables of numbers; and any text at all, which may not upset the scanner.
#![allow(
    clippy::disallowed_methods,
    reason = "the test reads sources; the crate does not"
)]

use std::fs;
use std::path::Path;

use heph_privacy::pii::names::Model;
use heph_privacy::pii::{self, Span};
use proptest::prelude::*;

/// Most false alarms for 100,000 bytes of code or numbers.
const ALARMS_MAX: f64 = 1.0;

fn sources(folder: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(fs::read_to_string(path).unwrap());
        }
    }
}

/// Addresses of machines stand in these sources on purpose: they are what they look like.
fn alarm(span: &&Span) -> bool {
    !matches!(span.kind, "IP_ADDRESS" | "EMAIL" | "MAC_ADDRESS")
}

fn check(texts: &[String]) {
    let mut alarms = Vec::new();
    for text in texts {
        alarms.extend(
            pii::scan(text, Model::bundled())
                .iter()
                .filter(alarm)
                .map(|s| (s.name, text[s.bytes.clone()].to_owned())),
        );
    }
    let bytes: usize = texts.iter().map(String::len).sum();
    let rate = alarms.len() as f64 * 100_000.0 / bytes as f64;
    assert!(
        bytes > 100_000 && rate <= ALARMS_MAX,
        "{rate:.2} in 100 KB of {bytes}: {alarms:?}"
    );
}

#[test]
fn the_sources_of_the_engine_are_no_personal_data() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut texts = Vec::new();
    for name in [
        "heph-engine",
        "heph-kernels",
        "heph-net",
        "heph-plan",
        "heph-runtime",
        "heph-gateway",
        "heph-cli",
    ] {
        sources(&crates.join(name).join("src"), &mut texts);
    }
    check(&texts);
}

/// A stream of numbers that is the same at every run.
struct Drawn(u64);

impl Drawn {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }

    fn digits(&mut self, n: u32) -> String {
        (0..n).map(|_| char::from(b'0' + self.below(10) as u8)).collect()
    }
}

#[test]
fn tables_of_numbers_are_no_personal_data() {
    let mut d = Drawn(7);
    type Line = fn(&mut Drawn) -> String;
    let lines: [(&str, Line); 7] = [
        ("id,value,ratio,count", |d| {
            format!(
                "{},{},0.{},{}",
                d.below(9999),
                d.below(10_u64.pow(9)),
                d.digits(6),
                d.below(99_999)
            )
        }),
        ("", |d| {
            (0..8)
                .map(|_| format!("{}.{}", d.below(1000), d.digits(3)))
                .collect::<Vec<_>>()
                .join("\t")
        }),
        ("", |d| {
            (3..9).map(|n| d.digits(2 * n)).collect::<Vec<_>>().join(" ")
        }),
        ("", |d| {
            format!(
                "17{};{};{};{}",
                d.digits(11),
                d.digits(9),
                d.digits(11),
                d.digits(16)
            )
        }),
        ("date|open|close|volume", |d| {
            format!(
                "20{}-{:02}-{:02}|{}.{}|{}.{}|{},{}",
                10 + d.below(15),
                1 + d.below(12),
                1 + d.below(28),
                d.below(99),
                d.digits(2),
                d.below(99),
                d.digits(2),
                d.below(999),
                d.digits(3)
            )
        }),
        ("", |d| {
            format!(
                "{:08x}: {}",
                d.below(1 << 30),
                (0..8)
                    .map(|_| format!("{:04x}", d.below(65_536)))
                    .collect::<Vec<_>>()
                    .join(" ")
            )
        }),
        ("", |d| {
            format!(
                "{} {} {} {}-{}-{}",
                d.digits(3),
                d.digits(3),
                d.digits(4),
                d.digits(2),
                d.digits(2),
                d.digits(4)
            )
        }),
    ];
    let tables: Vec<String> = lines
        .iter()
        .map(|(head, line)| {
            std::iter::once((*head).to_owned())
                .chain((0..1500).map(|_| line(&mut d)))
                .collect::<Vec<_>>()
                .join("\n")
        })
        .collect();
    check(&tables);
}

/// Pieces that the recognisers look for, to be put together at random.
const PIECES: &[&str] = &[
    "+49 30 1234567",
    "4111 1111 1111 1111",
    "a@b.org",
    "@",
    "://u:p@h",
    "-----BEGIN RSA PRIVATE KEY-----",
    "eyJhbGciOi.eyJ",
    "password: ",
    "sk-",
    "DE89 3704 0044 0532 0130 00",
    "1/2/1990",
    "June 4",
    "é",
    "身份证",
    "12",
    "::",
    "fe80::1",
    "(",
    ")",
    ".",
    "-",
    " ",
    "\n",
    "\"",
    "=",
    "x",
    "0x5aaeb6053f3e94c9b9a09f33669435e7ef1beaed",
    "ssn",
    "phone",
    "\u{a0}",
    "ext. 12",
    "name;phone\n",
    ";",
    "\u{1F600}",
    "zip 1",
    "AAAA",
    "99999999999999999999",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any text gives spans in order, apart, inside the text and at the borders of its characters.
    #[test]
    fn spans_are_in_order_and_inside(pieces in prop::collection::vec((0..PIECES.len(), any::<char>(), any::<bool>()), 0..40)) {
        let text: String = pieces.iter().map(|(i, c, odd)| if *odd { c.to_string() } else { PIECES[*i].to_owned() }).collect();
        let mut last = 0;
        for span in pii::scan(&text, Model::bundled()) {
            prop_assert!(last <= span.bytes.start && span.bytes.start < span.bytes.end);
            prop_assert!(text.is_char_boundary(span.bytes.start) && text.is_char_boundary(span.bytes.end));
            prop_assert_eq!(text[..span.bytes.start].chars().count(), span.chars.start);
            prop_assert_eq!(text[span.bytes.clone()].chars().count(), span.chars.end - span.chars.start);
            last = span.bytes.end;
        }
    }
}

/// What would take quadratic time if anything looked back without a bound.
#[test]
fn long_runs_of_one_thing_take_no_longer_than_their_length() {
    for piece in [
        "a",
        "1",
        "@",
        ":",
        "-",
        "1.",
        "+1",
        "a@",
        "://",
        "password ",
        "0-",
        "(1)",
        "key=",
        "phone 12 ",
        "eyJ",
        "x;",
    ] {
        let text = piece.repeat(50_000 / piece.len());
        let _ = pii::scan(&text, Model::bundled());
    }
}
