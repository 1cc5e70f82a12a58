//! Receipts: short, and every change of one is noticed.

use ed25519_dalek::SigningKey;
use heph_privacy::label::Level;
use heph_privacy::policy::Kind;
use heph_privacy::receipt::{self, Body, Bytes, Checked, Place, ReceiptError};
use proptest::prelude::*;

fn body() -> Body {
    let place = |node, from, to, first, last| Place {
        node,
        tokens: (from, to),
        layers: (first, last),
    };
    let bytes = |node, up, down| Bytes {
        node,
        kind: Kind::Own,
        level: Level::Internal,
        up,
        down,
    };
    Body {
        id: "00112233445566778899aabbccddeeff".into(),
        at: 1_764_208_800,
        model: "llama-3.2-1b-instruct".into(),
        file: "ab".repeat(32),
        precision: "Q4_K_M".into(),
        exactness: "exact".into(),
        mode: "layered".into(),
        nodes: vec!["this machine".into(), "11".repeat(32), "22".repeat(32)],
        places: vec![
            place(0, 0, 1000, 0, 4),
            place(1, 0, 612, 4, 12),
            place(2, 612, 1000, 4, 12),
            place(0, 0, 1000, 12, 16),
        ],
        bytes: vec![bytes(1, 2_507_000, 2_507_000), bytes(2, 1_589_000, 1_589_000)],
        rules: vec!["preset: own machines".into(), "no salaries".into()],
        replaced: 3,
        credits: 12,
        prompt_tokens: 412,
        answer_tokens: 588,
        first_ms: 312,
        total_ms: 19_822,
        checked: Checked::Sampled,
    }
}

fn key(n: u8) -> SigningKey {
    SigningKey::from_bytes(&[n; 32])
}

fn signed() -> String {
    let receipt = receipt::sign(&body(), &key(1)).unwrap();
    let receipt = receipt::counter_sign(&receipt, &key(2)).unwrap();
    receipt::counter_sign(&receipt, &key(3)).unwrap()
}

#[test]
fn a_receipt_for_a_thousand_tokens_with_two_nodes_is_two_kilobytes_at_most() {
    let receipt = signed();
    let verified = receipt::verify(&receipt).unwrap();
    assert_eq!(verified.body, body());
    assert_eq!(
        verified.signers,
        [1, 2, 3].map(|n| *key(n).verifying_key().as_bytes())
    );
    assert!(receipt.len() <= 2048, "{} bytes", receipt.len());
}

#[test]
fn every_changed_byte_is_noticed() {
    let receipt = signed();
    for place in 0..receipt.len() - 1 {
        for flip in [1, 32] {
            let mut bytes = receipt.clone().into_bytes();
            bytes[place] ^= flip;
            let Ok(changed) = String::from_utf8(bytes) else {
                continue;
            };
            assert!(receipt::verify(&changed).is_err(), "byte {place} of {changed}");
        }
    }
}

#[test]
fn signatures_cannot_be_moved_or_taken_from_elsewhere() {
    let receipt = signed();
    let lines: Vec<&str> = receipt.lines().collect();
    // The second signature is over the first one, so it cannot take its place.
    let moved = [lines[0], lines[1], lines[3], lines[2]].join("\n");
    assert_eq!(receipt::verify(&moved), Err(ReceiptError::Forged(1)));
    let bare = lines[..2].join("\n");
    assert_eq!(receipt::verify(&bare), Err(ReceiptError::Unsigned));
    let mut other = body();
    other.credits += 1;
    let foreign = receipt::sign(&other, &key(1)).unwrap();
    let mixed = [lines[0], lines[1], foreign.lines().nth(2).unwrap()].join("\n");
    assert_eq!(receipt::verify(&mixed), Err(ReceiptError::Forged(1)));
    assert!(receipt::counter_sign(&moved, &key(4)).is_err());
}

#[test]
fn a_receipt_that_contradicts_itself_is_none() {
    let wrong: [fn(&mut Body); 3] = [
        |b| b.places[0].node = 9,
        |b| b.places[0].tokens = (5, 4),
        |b| b.first_ms = b.total_ms + 1,
    ];
    for change in wrong {
        let mut body = body();
        change(&mut body);
        assert!(matches!(
            receipt::sign(&body, &key(1)),
            Err(ReceiptError::Contradiction(_))
        ));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_verified_or_refused(text in ".{0,400}", cut in 0_usize..2000) {
        let receipt = signed();
        prop_assert!(receipt::verify(&text).is_err());
        let headed = format!("heph-receipt 1\n{text}");
        prop_assert!(receipt::verify(&headed).is_err());
        // A prefix is a receipt where it ends with a whole signature.
        let front = &receipt[..cut.min(receipt.len() - 1)];
        let whole = front.lines().count() > 2 && receipt[front.trim_end().len()..].starts_with('\n');
        prop_assert_eq!(receipt::verify(front).is_ok(), whole);
    }
}
